//! Segments that are not being written to, which are the only ones that may be scanned.
//!
//! Readers of a segment that is being written to read committed frames and nothing else. A scan reads
//! any byte: it searches for the next word that is not zero, or for the next sound frame behind damage.
//! So it takes a [`QuietSegment`], which can be made from a segment that is sealed or open read-only,
//! or from an [`OfflineSegment`], to which only recovery has access.

#![allow(unsafe_code, reason = "reads all bytes of segments that nobody writes to")]

use super::Segment;
use super::frames::{VerifiedFrame, check_batch, frame_at};
use crate::error::{Corruption, CorruptionKind};
use crate::format::frame::WORD;
use crate::format::is_zero;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

/// A segment whose bytes before its end are not written to through this process's mapping.
///
/// A segment that is open read-only may have a writer in another process, so a scan may read bytes
/// while they change. All of its reads are bounds-checked and verified, so the worst result is a wrong
/// answer, which callers discard if a writer may have appeared (see `log::recovery`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuietSegment<'s>(&'s Segment);

impl Deref for QuietSegment<'_> {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        self.0
    }
}

/// A segment that was opened and is not part of a running log yet, so nothing writes to it, sealed or
/// not. Recovery works on these.
#[derive(Debug)]
pub(crate) struct OfflineSegment(Segment);

impl Deref for OfflineSegment {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        &self.0
    }
}

impl DerefMut for OfflineSegment {
    fn deref_mut(&mut self) -> &mut Segment {
        &mut self.0
    }
}

impl OfflineSegment {
    /// # Safety
    /// The segment is open read-only; or its file is not open for writing anywhere else, and will not
    /// be while this exists.
    pub(crate) const unsafe fn new(segment: Segment) -> Self {
        Self(segment)
    }

    /// The same, to be scanned.
    pub(crate) const fn quiet(&self) -> QuietSegment<'_> {
        QuietSegment(&self.0)
    }

    /// All bytes of its file, including those behind its end.
    pub(crate) fn file_bytes(&self) -> &[u8] {
        // SAFETY: nothing writes to it, by the contract of `new`.
        unsafe { self.0.map.slice(0, self.0.map.len() as u64) }
    }

    /// Makes every page up to `end` dirty, so that the next sync writes all of them: after a failed
    /// sync, the kernel may consider pages clean that are not on the device.
    pub(crate) fn dirty(&self, end: u64) {
        for page in (0..end).step_by(4096) {
            let word = self.0.map.word(page);
            // ORDERING: Relaxed; nothing else writes to the segment.
            word.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// The segment, to become part of a log.
    pub(crate) fn into_segment(self) -> Segment {
        self.0
    }
}

impl<'s> QuietSegment<'s> {
    /// A segment that is sealed, or open read-only.
    ///
    /// # Panics
    /// If it is neither.
    pub(crate) fn of(segment: &'s Segment) -> Self {
        let is_quiet = segment.is_sealed() || !segment.map.is_writable();
        assert!(is_quiet, "segment {} may be written to", segment.id());
        Self(segment)
    }

    /// The bytes up to its end.
    pub(crate) fn bytes(self) -> &'s [u8] {
        self.bytes_between(0, self.end())
    }

    /// The bytes from one offset to another, neither of them behind its end.
    pub(crate) fn bytes_between(self, from: u64, to: u64) -> &'s [u8] {
        assert!(from <= to && to <= self.end(), "{from} to {to} of {}", self.end());
        // SAFETY: before the end, and nothing writes there.
        unsafe { self.0.map.slice(from, to - from) }
    }

    /// The frame at an offset, verified; see [`frame_at`]. Where the segment ends there is none.
    pub(crate) fn frame_at(
        self,
        offset: u64,
        room: u64,
    ) -> Result<Option<VerifiedFrame<'s>>, CorruptionKind> {
        let room = room.min(self.end().saturating_sub(offset));
        if room < WORD {
            return Err(CorruptionKind::Missing);
        }
        // SAFETY: before the end, and nothing writes there.
        unsafe { frame_at(self.0, offset, room) }
    }

    /// Checks the frames inside a batch; see [`check_batch`].
    pub(crate) fn check_batch(self, offset: u64, len: u64, count: u32) -> Result<(), Corruption> {
        assert!(offset + len <= self.end(), "{offset}+{len} of {}", self.end());
        // SAFETY: before the end, and nothing writes there.
        unsafe { check_batch(self.0, offset, len, count) }
    }

    /// The next word from an offset on that is not zero.
    pub(crate) fn next_written(self, offset: u64) -> Option<u64> {
        let rest = &self.bytes()[offset as usize..];
        // Blocks first: mostly this scans the blank end of a preallocated segment.
        let blocks = rest.chunks(4096).take_while(|block| is_zero(block)).count();
        let start = (blocks * 4096).min(rest.len());
        let at = rest[start..].chunks(8).position(|word| word.iter().any(|&b| b != 0))?;
        Some(offset + (start + at * 8) as u64)
    }

    /// The number of bytes from an offset to the last one that is not zero.
    pub(crate) fn written_len(self, from: u64) -> u64 {
        let bytes = &self.bytes()[from as usize..];
        let Some(block) = bytes.chunks(4096).rposition(|block| !is_zero(block)) else { return 0 };
        let end = bytes.len().min((block + 1) * 4096);
        bytes[..end].iter().rposition(|&b| b != 0).map_or(0, |at| at as u64 + 1)
    }
}
