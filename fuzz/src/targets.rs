//! The targets. The first byte of each input says what is done with the rest.

use super::files::{self, Files, HEADER};
use super::{checks, operations as sequences};
use std::sync::OnceLock;

/// Bits of the first byte.
const KEEP_CHECKSUMS: u8 = 1;
const OTHER_BOOT: u8 = 2;
const WITHOUT_HINTS: u8 = 4;
const OF_A_LOG: u8 = 8;
const CLOSED: u8 = 16;

/// A store or log with more than one segment, closed or as a dead process leaves it.
fn base(mode: u8) -> Files {
    static BASES: OnceLock<[Files; 4]> = OnceLock::new();
    let read = |name: &str| {
        let path = files::seeds().join("directory").join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        files::unpack(&bytes[1..])
    };
    let names = ["store", "log", "closed-store", "closed-log"];
    let bases = BASES.get_or_init(|| names.map(read));
    let is = |bit| usize::from(mode & bit != 0);
    let mut files = bases[is(OF_A_LOG) + 2 * is(CLOSED)].clone();
    if mode & WITHOUT_HINTS != 0 {
        files.retain(|name, _| !name.ends_with(".hint"));
    }
    files
}

fn open(mode: u8, files: Files) {
    checks::open(files, mode & OTHER_BOOT == 0, mode & KEEP_CHECKSUMS == 0);
}

/// Frames behind the head of the last segment, which is not sealed.
pub fn frame(data: &[u8]) {
    let [mode, frames @ ..] = data else { return };
    let mut files = base(mode & !CLOSED);
    let Some((name, segment)) = files.iter_mut().rfind(|(name, _)| name.ends_with(".seg")) else {
        return;
    };
    segment.truncate(HEADER);
    segment[64..96].fill(0);
    segment.extend(frames);
    files::pad(name, segment);
    open(*mode, files);
}

/// A whole segment, the first one.
pub fn segment(data: &[u8]) {
    let [mode, segment @ ..] = data else { return };
    let mut files = base(*mode);
    let (name, mut segment) = (checks::first_segment(&files), segment.to_vec());
    files::pad(&name, &mut segment);
    files.insert(name, segment);
    open(*mode, files);
}

/// The first segment's hint.
pub fn hint(data: &[u8]) {
    let [mode, hint @ ..] = data else { return };
    let mut files = base(mode & !(WITHOUT_HINTS | OF_A_LOG));
    let name = checks::first_segment(&files).replace(".seg", ".hint");
    files.insert(name, hint.to_vec());
    open(*mode, files);
}

/// The MANIFEST.
pub fn manifest(data: &[u8]) {
    let [mode, manifest @ ..] = data else { return };
    let mut files = base(*mode);
    files.insert("MANIFEST".to_owned(), manifest.to_vec());
    open(*mode, files);
}

/// All files.
pub fn directory(data: &[u8]) {
    let [mode, packed @ ..] = data else { return };
    open(*mode, files::unpack(packed));
}

/// All files, real ones: read by readers, and repaired.
pub fn repair(data: &[u8]) {
    let [mode, packed @ ..] = data else { return };
    checks::repair(files::unpack(packed), mode & OTHER_BOOT == 0, mode & KEEP_CHECKSUMS == 0);
}

/// Operations on a store.
pub fn operations(data: &[u8]) {
    sequences::run(data);
}

/// What the command reads.
#[cfg(feature = "cli")]
pub fn command(data: &[u8]) {
    super::command::run(data);
}
