//! Rebuilding the damaged head of a segment whose frames are sound, for salvage.
//!
//! The frames cannot be verified without the salt. A single wrong byte is found with the head's own
//! checksums; if more is damaged, the segment's hint has the salt too. It is accepted only if a frame
//! in the file verifies with it.

#![allow(unsafe_code, reason = "opens a segment that nobody writes to")]

use super::hint_file::hinted_salt;
use crate::error::OpenError;
use crate::format::frame::Header;
use crate::format::header::{BadHeader, FIRST_FRAME, FileIdentity, Origin, SEAL, SegmentHeader};
use crate::format::manifest::Manifest;
use crate::segment::Segment;
use crate::segment::frames;
use crate::segment::quiet::OfflineSegment;
use crate::segment::scan;
use crate::segment::search::Search;
use crate::storage::{Access, Storage};
use std::ops::ControlFlow;

type Head = [u8; FIRST_FRAME as usize];

/// Opens a segment with a damaged head, using the head that it must have had, if that can be
/// determined.
pub(super) fn open_with_damaged_header(
    storage: &dyn Storage,
    id: u32,
    access: Access,
    manifest: &Manifest,
    ids: &[u32],
) -> Result<Option<OfflineSegment>, OpenError> {
    let salt = hinted_salt(storage, id)?;
    let mut from_hint_alone = false;
    let read = |head: &Head, len: u64| {
        let one_byte = with_a_byte_changed(head).filter(|header| header.id == id);
        let by_hint = || {
            from_hint_alone = true;
            salt.map(|salt| from_hint(id, salt, len, manifest, ids))
        };
        one_byte.or_else(by_hint).ok_or(BadHeader::Damaged("it cannot be determined"))
    };
    let mut segment = match Segment::open_with(storage, id, access, read) {
        // SAFETY: it is open for reading only, or recovery has the storage to itself.
        Ok(segment) => unsafe { OfflineSegment::new(segment) },
        Err(OpenError::Corrupt(_) | OpenError::Version { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !has_frames(&segment) {
        return Ok(None);
    }
    segment.header.merged |= from_hint_alone && is_merged(&segment);
    Ok(Some(segment))
}

fn with_a_byte_changed(head: &Head) -> Option<SegmentHeader> {
    let seal = SEAL as usize..SEAL as usize + 32;
    let places = (0..head.len()).filter(|at| !seal.contains(at));
    let mut all = places.flat_map(|at| (1..=u8::MAX).map(move |change| (at, change)));
    all.find_map(|(at, change)| {
        let mut head = *head;
        head[at] ^= change;
        SegmentHeader::decode(&head).ok()
    })
}

/// The head of a segment of which only the salt is known.
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

/// Whether it is a merged segment: its first frame says so, which may be damaged, and so does each
/// frame with a key. If it were mistaken for a log segment, its frames would all seem newer than they
/// are.
fn is_merged(segment: &OfflineSegment) -> bool {
    let (mut moved, mut lost) = (frames::inputs(segment).is_some(), Vec::new());
    // Damage is recorded and does not end the scan.
    let _ = scan::each_frame(segment.quiet(), Some(&mut lost), |_, _, frame| {
        let keyed = frame.header.filter(|header| header.kind.has_key());
        moved |= keyed.is_some_and(Header::is_moved);
        if moved || keyed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    moved
}

fn has_frames(segment: &OfflineSegment) -> bool {
    Search::new(segment.salt(), || segment.quiet().bytes()).next(FIRST_FRAME).is_some()
}
