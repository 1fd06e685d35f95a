//! The files of a log or store as bytes: for each a number, a length of two bytes, and its content without
//! the zeros at its end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// File names and contents.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Segments are this long, or as long as their header says, up to [`LONGEST`].
const PAGE: usize = 4096;
const LONGEST: u64 = 1 << 20;
/// Bytes of a segment's header.
pub const HEADER: usize = 128;
/// The number of the first hint; those of segments are lower, 0 is the MANIFEST.
const HINTS: u8 = 100;

/// The folder with the seeds, whether this is compiled in `fuzz/` or for the tests beside `src/`.
#[must_use]
pub fn seeds() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    if here.ends_with("fuzz") { here.join("seeds") } else { here.join("fuzz/seeds") }
}

/// The name of a segment's file.
#[must_use]
pub fn segment(id: u8) -> String {
    format!("{id:020}.seg")
}

/// The name of a hint's file.
#[must_use]
pub fn hint(id: u8) -> String {
    format!("{id:020}.hint")
}

fn name(number: u8) -> String {
    match number {
        0 => "MANIFEST".to_owned(),
        1..HINTS => segment(number),
        HINTS.. => hint(number - HINTS),
    }
}

fn number(name: &str) -> Option<u8> {
    let id = |suffix| name.strip_suffix(suffix)?.parse::<u8>().ok();
    let hint = || id(".hint").map(|id| id + HINTS);
    if name == "MANIFEST" { Some(0) } else { id(".seg").or_else(hint) }
}

/// The files in a directory, without LOCK and the like.
pub fn read(dir: &Path) -> std::io::Result<Files> {
    let mut files = Files::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if number(&name).is_some() {
            files.insert(name, std::fs::read(entry.path())?);
        }
    }
    Ok(files)
}

/// As bytes.
#[must_use]
pub fn pack(files: &Files) -> Vec<u8> {
    let mut packed = Vec::new();
    for (name, bytes) in files {
        let Some(number) = number(name) else { continue };
        let len = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let len = len.min(u16::MAX.into());
        packed.push(number);
        packed.extend((len as u16).to_le_bytes());
        packed.extend(&bytes[..len]);
    }
    packed
}

/// From bytes, as far as there are any.
#[must_use]
pub fn unpack(mut packed: &[u8]) -> Files {
    let mut files = Files::new();
    while let [number, low, high, rest @ ..] = packed {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (content, rest) = rest.split_at(len);
        files.insert(name(*number), content.to_vec());
        packed = rest;
    }
    files.iter_mut().for_each(|(name, bytes)| pad(name, bytes));
    files
}

/// Segments end in zeros, which are not kept.
pub fn pad(name: &str, bytes: &mut Vec<u8>) {
    if name.ends_with(".seg") {
        let capacity = bytes
            .get(48..56)
            .map_or(0, |field| u64::from_le_bytes(field.try_into().expect("8 bytes")));
        let capacity = if capacity <= LONGEST { capacity as usize } else { 0 };
        bytes.resize(bytes.len().max(capacity).next_multiple_of(PAGE), 0);
    }
}
