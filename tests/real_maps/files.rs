//! Images on disk, with another boot id, and checksums of files.

use super::common::files::paths;
use super::reports::{Report, Said};
use crash_kit::Image;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A segment's head, up to its seal.
const HEAD: usize = 64;

/// Writes an image under another boot id.
pub(crate) fn write(image: &Image, to: &Path) {
    image.write(to).unwrap();
    reboot_all(to);
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "seg" || e == "cut")
}

/// Has all segments in a directory be of another start of the machine.
pub(crate) fn reboot_all(place: &Path) {
    for path in paths(place) {
        if path.is_dir() {
            reboot_all(&path);
        } else if is_segment(&path) {
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let mut head = [0; HEAD];
            if file.read_exact_at(&mut head, 0).is_ok() && reboot(&mut head) {
                file.write_all_at(&head, 0).unwrap();
            }
        }
    }
}

/// Has a segment's head be of another start of the machine (docs/format.md): one that is sound is so
/// afterwards, and any other stays as it is.
fn reboot(head: &mut [u8]) -> bool {
    let checksum = |head: &[u8]| crc32fast::hash(&head[..60]).to_le_bytes();
    let is_sound = head.len() >= HEAD && head[60..HEAD] == checksum(head);
    if is_sound {
        head[32..48].fill(0xb0);
        let checksum = checksum(head);
        head[60..HEAD].copy_from_slice(&checksum);
    }
    is_sound
}

/// Checksums of the names and contents of files in a directory, whatever start of the machine they are of.
pub(crate) fn checksums(dir: &Path, is_one: impl Fn(&str) -> bool) -> Vec<(u64, u64)> {
    let all = if dir.exists() { paths(dir) } else { Vec::new() };
    let file = |path: &Path| {
        let name = path.file_name()?.to_str().filter(|name| is_one(name))?;
        let mut bytes = std::fs::read(path).ok()?;
        if is_segment(path) {
            reboot(&mut bytes);
        }
        let checksum = |bytes: &[u8]| crc32fast::hash(bytes).into();
        Some((checksum(name.as_bytes()), checksum(&bytes)))
    };
    all.iter().filter_map(|path| file(path)).collect()
}

/// The files that recoveries have set aside in a directory. One that has no name of its own yet is not.
pub(crate) fn set_aside(db: &Path) -> Vec<(u64, u64)> {
    checksums(&db.join("set-aside"), |name| !name.ends_with(".tmp"))
}

/// Whether these files are among those set aside.
pub(crate) fn has_aside(db: &Path, files: &[(u64, u64)]) -> Result<(), String> {
    let there = set_aside(db);
    if files.iter().all(|file| there.contains(file)) {
        return Ok(());
    }
    Err(format!("set aside is {there:?}, not {files:?}"))
}

/// Whether all that a child said to be set aside is there.
pub(crate) fn check_aside(db: &Path, reports: &[Report]) -> Result<(), String> {
    reports.iter().try_for_each(|report| match &report.said {
        Said::Aside { files } => has_aside(db, files),
        _ => Ok(()),
    })
}
