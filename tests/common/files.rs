//! Names of files, copies of directories, and damage.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The file name of a segment.
pub(crate) fn segment(id: u32) -> String {
    format!("{id:020}.seg")
}

/// The file name of a segment's hint.
pub(crate) fn hint(id: u32) -> String {
    format!("{id:020}.hint")
}

/// The paths of everything in a directory, sorted.
pub(crate) fn paths(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// The names of everything in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths(dir).into_iter().map(name).collect()
}

/// The paths in a directory that end in `.extension`, sorted.
pub(crate) fn paths_with(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut all = paths(dir);
    all.retain(|path| path.extension().is_some_and(|e| e == extension));
    all
}

/// Sets permissions.
pub(crate) fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A named pipe: who opens it to read waits for a writer.
pub(crate) fn make_pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo runs").success(), "{}", path.display());
}

/// Copies the files of a directory into a new one that only this user may open; with or without
/// hints.
pub(crate) fn copy_dir(from: &Path, to: &Path, hints: bool) {
    let _ = fs::remove_dir_all(to);
    fs::DirBuilder::new().mode(0o700).create(to).unwrap();
    for path in paths(from).into_iter().filter(|path| path.is_file()) {
        let is_hint = path.extension().is_some_and(|e| e == "hint");
        if hints || !is_hint {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Changes a file as a whole.
pub(crate) fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Flips bits in a file, also under a log that has it mapped.
pub(crate) fn flip(path: &Path, at: u64, mask: u8) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ mask], at).unwrap();
}
