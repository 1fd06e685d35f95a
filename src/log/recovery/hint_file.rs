//! What the hint of a damaged segment still says. It is read whatever hash made its names, for salvage may
//! have lost the MANIFEST, which has the secret of that hash.

#![allow(unsafe_code, reason = "reads files that no writer has open")]

use crate::error::OpenError;
use crate::format::hint::{self, LooseEntry, LooseSubject};
use crate::segment::{Gap, hint_name};
use crate::storage::map::Map;
use crate::storage::{Access, Storage};
use std::io;

/// A hint, with names of any hash.
pub(super) struct HintRemains {
    pub(super) loose: LooseSubject,
    /// By their offsets.
    entries: Vec<LooseEntry>,
}

impl HintRemains {
    pub(super) fn within(&self, range: Gap) -> &[LooseEntry] {
        let end = range.offset + range.len;
        let from = self.entries.partition_point(|entry| entry.offset < range.offset);
        let to = self.entries.partition_point(|entry| entry.offset < end);
        &self.entries[from..to]
    }
}

/// The bytes of a range that the file has.
pub(super) fn part(file: &[u8], from: u64, to: u64) -> &[u8] {
    let to = to.min(file.len() as u64);
    &file[from.min(to) as usize..to as usize]
}

/// A hint, or a segment that has no sound header: a file that no writer has open.
pub(super) struct UnusedFile(Map);

impl UnusedFile {
    pub(super) fn open(storage: &dyn Storage, name: &str) -> Result<Option<Self>, OpenError> {
        match storage.open(name, Access::Read) {
            Ok(opened) => Ok(Some(Self(opened.map))),
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(OpenError::NotRegular { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: hints are written under another name, and do not change once they have theirs; and no
        // log takes a segment in that has no sound header.
        unsafe { self.0.slice(0, self.0.len() as u64) }
    }
}

pub(super) fn read_hint(storage: &dyn Storage, id: u32) -> Result<Option<HintRemains>, OpenError> {
    let Some(file) = UnusedFile::open(storage, &hint_name(id))? else { return Ok(None) };
    let Some((loose, mut entries)) = hint::decode_loosely(file.bytes()) else {
        return Ok(None);
    };
    entries.sort_unstable_by_key(|entry| entry.offset);
    Ok((loose.id == id).then_some(HintRemains { loose, entries }))
}

/// The salt of a segment, according to its hint.
pub(super) fn hinted_salt(storage: &dyn Storage, id: u32) -> Result<Option<u64>, OpenError> {
    Ok(read_hint(storage, id)?.map(|hint| hint.loose.salt))
}
