//! Segments whose head is damaged, and whose frames are not: salvage makes the head anew.
//!
//! What the frames cannot do without is the salt. A flipped bit is found by the head's own checksums; and
//! where more is gone, the segment's hint has the salt, too. It is the right one only if a frame in the
//! file verifies with it.

#![allow(unsafe_code, reason = "reads a segment that nobody else has open")]

use super::evidence::hinted_salt;
use crate::error::OpenError;
use crate::format::header::{BadHeader, FIRST_FRAME, FileIdentity, Origin, SEAL, SegmentHeader};
use crate::format::manifest::Manifest;
use crate::log::scan;
use crate::log::search::Search;
use crate::segment::Segment;
use crate::storage::{Access, Storage};

type Head = [u8; FIRST_FRAME as usize];

/// Opens a segment whose head is damaged, with the one that it must have had, if that can be told.
pub(super) fn reopen(
    storage: &dyn Storage,
    id: u32,
    access: Access,
    manifest: &Manifest,
    ids: &[u32],
) -> Result<Option<Segment>, OpenError> {
    let salt = hinted_salt(storage, id)?;
    let mut made_up = false;
    let read = |head: &Head, len: u64| {
        let one_bit = with_a_bit_flipped(head).filter(|header| header.id == id);
        let by_hint = || {
            made_up = true;
            salt.map(|salt| from_hint(id, salt, len, manifest, ids))
        };
        one_bit.or_else(by_hint).ok_or(BadHeader::Damaged("it cannot be told"))
    };
    let mut segment = match Segment::open_with(storage, id, access, read) {
        Ok(segment) => segment,
        Err(OpenError::Corrupt(_) | OpenError::Version { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !has_frames(&segment) {
        return Ok(None);
    }
    segment.header.merged |= made_up && scan::inputs(&segment).is_some();
    Ok(Some(segment))
}

fn with_a_bit_flipped(head: &Head) -> Option<SegmentHeader> {
    let seal = SEAL as usize * 8..(SEAL as usize + 32) * 8;
    let bits = (0..head.len() * 8).filter(|bit| !seal.contains(bit));
    let mut all = bits.filter_map(|bit| {
        let mut head = *head;
        head[bit / 8] ^= 1 << (bit % 8);
        SegmentHeader::decode(&head).ok()
    });
    all.next()
}

/// The head of a segment of which nothing but the salt is known.
fn from_hint(id: u32, salt: u64, len: u64, manifest: &Manifest, ids: &[u32]) -> SegmentHeader {
    let is_kept = |id: u32| manifest.kept.binary_search(&id).is_ok();
    let before = ids.iter().copied().filter(|&other| other < id && !is_kept(other)).max();
    let origin = Origin { log_id: manifest.log_id, file: FileIdentity::default() };
    SegmentHeader {
        id,
        merged: false,
        previous: before.unwrap_or(0),
        salt,
        boot_id: 0,
        capacity: len,
        origin: (!manifest.is_legacy()).then_some(origin),
    }
}

fn has_frames(segment: &Segment) -> bool {
    // SAFETY: nobody writes to it: salvage is alone with the log, or looks at one without a writer.
    let bytes = || unsafe { segment.map.slice(0, segment.end()) };
    Search::new(segment.salt(), bytes).next(FIRST_FRAME).is_some()
}
