use super::content::FileImage;
use super::names::Names;
use super::{Disk, FileId};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A directory as a power loss may leave it. Its `Display` says what was lost.
#[derive(Clone, Debug)]
pub struct Image {
    root: FileId,
    entries: BTreeMap<FileId, Vec<(OsString, FileId)>>,
    files: BTreeMap<FileId, FileImage>,
    directories: BTreeMap<FileId, u32>,
    fate: String,
}

impl Image {
    pub(super) fn new(
        disk: &Disk,
        names: Names,
        files: BTreeMap<FileId, FileImage>,
        fate: String,
    ) -> Self {
        let mut entries = BTreeMap::<_, Vec<_>>::new();
        for ((directory, name), file) in names {
            entries.entry(directory).or_default().push((name, file));
        }
        Self { root: disk.root, entries, files, directories: disk.directories.clone(), fate }
    }

    /// Makes it a directory at `path`, where nothing is yet.
    ///
    /// # Errors
    /// As of creating and writing files.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        self.write_directory(self.root, path, &mut BTreeMap::new())
    }

    fn write_directory(
        &self,
        id: FileId,
        path: &Path,
        written: &mut BTreeMap<FileId, PathBuf>,
    ) -> io::Result<()> {
        fs::create_dir(path)?;
        for (name, file) in self.entries.get(&id).into_iter().flatten() {
            let path = path.join(name);
            if let Some(image) = self.files.get(file) {
                if let Some(same) = written.get(file) {
                    fs::hard_link(same, &path)?;
                    continue;
                }
                let new = File::options().read(true).write(true).create_new(true).open(&path)?;
                image.write(&new)?;
                new.set_permissions(Permissions::from_mode(image.mode))?;
                written.insert(*file, path);
            } else if self.directories.contains_key(file) && written.get(file).is_none() {
                // A directory has one name.
                written.insert(*file, path.clone());
                self.write_directory(*file, &path, written)?;
            }
        }
        let mode = self.directories.get(&id).copied().unwrap_or(0o700);
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn write_tree(&self, f: &mut fmt::Formatter<'_>, id: FileId, path: &Path) -> fmt::Result {
        for (name, file) in self.entries.get(&id).into_iter().flatten() {
            let path = path.join(name);
            match self.files.get(file) {
                Some(image) => {
                    let [old, between, new] = image.fates;
                    writeln!(
                        f,
                        "{} ({}): {} bytes; sectors: {old} old, {between} between, {new} new",
                        path.display(),
                        file.inode,
                        image.len,
                    )?;
                }
                None if self.directories.contains_key(file) => self.write_tree(f, *file, &path)?,
                None => writeln!(f, "{}: no file or directory", path.display())?,
            }
        }
        Ok(())
    }
}

impl Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.fate)?;
        self.write_tree(f, self.root, Path::new(""))
    }
}
