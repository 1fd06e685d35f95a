//! Reading a hint without knowing what it should describe: for reports of what was lost.

use super::entries::{HintEntries, is_place};
use super::entry::{HintEntry, KeyName, NARROW};
use super::head::{HAS_ENTRIES, MAGIC, VERSION};
use super::layout::{CHECKSUM, HEAD, Layout, block_at};
use crate::format::{u32_at, u64_at};

/// Bytes of the head in version 1.
const HEAD_1: usize = 120;
/// The bit of an offset that says tombstone in version 1.
const TOMBSTONE_1: u64 = 1;

/// What a hint says of itself, unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LooseSubject {
    pub(crate) id: u32,
    pub(crate) salt: u64,
    pub(crate) end: u64,
    pub(crate) fingerprint: u64,
    pub(crate) plain: bool,
}

/// An entry of a hint of any segment. Version 1 had no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LooseEntry {
    pub(crate) offset: u64,
    pub(crate) tombstone: bool,
    pub(crate) name: Option<KeyName>,
}

/// As `decode`, without knowing which segment the hint should describe. Only for reports; also accepts
/// version 1.
pub(crate) fn decode_loosely(bytes: &[u8]) -> Option<(LooseSubject, Vec<LooseEntry>)> {
    if bytes.len() < HEAD_1 + CHECKSUM || u64_at(bytes, 0) != MAGIC {
        return None;
    }
    let loose = LooseSubject {
        id: u32_at(bytes, 12),
        salt: u64_at(bytes, 16),
        end: u64_at(bytes, 24),
        fingerprint: u64_at(bytes, 32),
        plain: u32_at(bytes, 112) & HAS_ENTRIES != 0,
    };
    let entries = match u32_at(bytes, 8) {
        1 => entries_1(bytes)?,
        VERSION => loose_entries(bytes, &loose)?,
        _ => return None,
    };
    let is_place = |entry: &LooseEntry| is_place(entry.offset, 0, loose.end);
    entries.iter().all(is_place).then_some((loose, entries))
}

/// The entries of a hint of version 1: 8 bytes each, of which the low half is the offset, and bit 0 of
/// that says tombstone.
fn entries_1(bytes: &[u8]) -> Option<Vec<LooseEntry>> {
    let (content, crc) = bytes.split_last_chunk::<CHECKSUM>()?;
    let (entries, rest) = content.get(HEAD_1..)?.as_chunks::<8>();
    let sound = rest.is_empty() && u32::from_le_bytes(*crc) == crc32fast::hash(content);
    let entry = |bytes: &[u8; 8]| {
        let place = u64::from(u32_at(bytes, 0));
        let tombstone = place & TOMBSTONE_1 != 0;
        LooseEntry { offset: place & !TOMBSTONE_1, tombstone, name: None }
    };
    sound.then(|| entries.iter().map(entry).collect())
}

fn loose_entries(bytes: &[u8], loose: &LooseSubject) -> Option<Vec<LooseEntry>> {
    let entries = usize::try_from(u64_at(bytes.get(..HEAD)?, 152)).ok()?;
    if entries > bytes.len() / NARROW {
        return None;
    }
    // Which kind of segment it is of shows in its length.
    let layouts = [false, true].map(|merged| Layout::new(merged, entries));
    let layout = layouts.into_iter().find(|layout| layout.len() == bytes.len())?;
    let sound = |block| block_at(bytes, loose.salt, block).is_some();
    if !(0..layout.entry_blocks()).all(sound) {
        return None;
    }
    let entry = |entry: HintEntry| LooseEntry {
        offset: entry.offset(),
        tombstone: entry.is_tombstone(),
        name: Some(entry.name),
    };
    Some(HintEntries::new(bytes, layout, loose.id).iter().map(entry).collect())
}
