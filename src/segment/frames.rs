//! Reading and verifying one frame of a segment, in place. Scans ([`super::scan`]), readers and the
//! store all read frames through this file.

#![allow(unsafe_code, reason = "reads committed frames in mapped memory")]

use super::Segment;
use crate::error::{Corruption, CorruptionKind};
use crate::format::frame::{self, Header, Kind, State, Word};
use crate::format::header::FIRST_FRAME;
use crate::format::record::Record;
use std::sync::atomic::Ordering;

/// A frame whose checksum was verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VerifiedFrame<'s> {
    pub(crate) word: Word,
    /// Only committed frames have one.
    pub(crate) header: Option<Header>,
    /// What the checksum covers; empty if there is no header.
    pub(crate) body: &'s [u8],
}

impl<'s> VerifiedFrame<'s> {
    /// The record in it, if it is one.
    #[inline]
    pub(crate) fn record(&self) -> Option<Record<'s>> {
        Record::new(self.header?, self.body)
    }

    pub(crate) fn is_batch(&self) -> bool {
        self.header.is_some_and(|header| header.kind == Kind::Batch)
    }
}

/// The frame at an offset, its own checksum verified. `None`: unwritten.
///
/// # Safety
/// A frame begins at `offset`, or will begin there; or nothing writes to the `room` bytes from there
/// on. Otherwise `offset` may be inside a body that is being copied, and what looks like a committed
/// frame there would be read while it changes.
pub(crate) unsafe fn frame_at(
    segment: &Segment,
    offset: u64,
    room: u64,
) -> Result<Option<VerifiedFrame<'_>>, CorruptionKind> {
    // SAFETY: the same contract.
    match unsafe { frame_as_read(segment, offset, room) } {
        Ok(Some(frame)) => Ok(Some(frame)),
        // Zeros, or anything else, may be what SIGBUS has left.
        other => segment.accessible().and(other),
    }
}

/// As [`frame_at`], whether the segment can be accessed or not.
///
/// # Safety
/// As for `frame_at`.
unsafe fn frame_as_read(
    segment: &Segment,
    offset: u64,
    room: u64,
) -> Result<Option<VerifiedFrame<'_>>, CorruptionKind> {
    // ORDERING: Acquire; pairs with the Release store in `settle`.
    let word = segment.map.word(offset).load(Ordering::Acquire);
    let Some(word) = Word::parse(word, room)? else { return Ok(None) };
    if word.state != State::Committed {
        frame::verify_bare(segment.salt(), offset, word)?;
        return Ok(Some(VerifiedFrame { word, header: None, body: &[] }));
    }
    // SAFETY: it is a frame, and was seen committed with Acquire, so its bytes no longer change; or they
    // are bytes that nothing writes to.
    let bytes = unsafe { segment.map.slice(offset, word.len) };
    let header = frame::verify_committed(segment.salt(), offset, word, bytes)?;
    let body = &bytes[frame::HEADER as usize..][..header.body_len() as usize];
    Ok(Some(VerifiedFrame { word, header: Some(header), body }))
}

/// The body of a committed entry that verifies. `None`: anything else, which [`frame_at`] tells apart.
///
/// # Safety
/// As for [`frame_at`], with the bytes from `offset` to `end`.
#[inline]
pub(crate) unsafe fn entry_at(segment: &Segment, offset: u64, end: u64) -> Option<&[u8]> {
    let room = end.checked_sub(offset).filter(|&room| room >= frame::HEADER)?;
    // ORDERING: Acquire; pairs with the Release store in `settle`.
    let word = segment.map.word(offset).load(Ordering::Acquire);
    let len = frame::len_of(word);
    if !frame::has_state(word, State::Committed) || len < frame::HEADER || len > room {
        return None;
    }
    // SAFETY: as in `frame_at`.
    let bytes = unsafe { segment.map.slice(offset, len) };
    frame::entry_body(segment.salt(), offset, word, bytes)
}

/// Checks that the frames inside a batch are sound, fill it exactly, and are as many as it states. The
/// error names the place.
///
/// # Safety
/// A batch of `len` bytes was seen committed at `offset`, with Acquire; or nothing writes to these
/// bytes.
pub(crate) unsafe fn check_batch(
    segment: &Segment,
    offset: u64,
    len: u64,
    expected: u32,
) -> Result<(), Corruption> {
    let corrupt = |at, kind| Corruption::at(segment.position(at), kind);
    let (mut at, end, mut found) = (offset + frame::HEADER, offset + len, 0u32);
    while at < end {
        // SAFETY: the batch frame commits for all inside it, so nothing writes up to its end any more.
        let inner = unsafe { frame_at(segment, at, end - at) };
        let inner = inner.and_then(|inner| inner.ok_or(CorruptionKind::Missing));
        let inner = inner.map_err(|kind| corrupt(at, kind))?;
        let kind = inner.header.map(|header| header.kind);
        if !matches!(kind, Some(Kind::Entry | Kind::Put | Kind::Delete)) {
            return Err(corrupt(at, CorruptionKind::Header));
        }
        found = found.saturating_add(1);
        at += inner.word.len;
    }
    if found == expected {
        Ok(())
    } else {
        Err(corrupt(offset, CorruptionKind::Batch { expected, found }))
    }
}

/// The ids of a merged segment's inputs, from its first frame; `None` if that frame is missing or
/// damaged.
pub(crate) fn inputs(segment: &Segment) -> Option<Vec<u32>> {
    // A damaged file may end right behind its header.
    let room = segment.end().checked_sub(FIRST_FRAME).filter(|&room| room >= frame::HEADER)?;
    // SAFETY: the first frame of every segment begins here.
    let frame = unsafe { frame_at(segment, FIRST_FRAME, room) };
    let frame = frame.ok()??;
    frame.header.filter(|header| header.kind == Kind::Inputs)?;
    Some(frame::input_ids(frame.body).collect())
}
