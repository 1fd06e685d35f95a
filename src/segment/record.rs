//! Records in a segment, by their offsets.

#![allow(unsafe_code, reason = "reads frames that no longer change")]

use super::Segment;
use crate::format::frame::{HEADER, WORD, len_of};
use crate::format::record::{RecordHead, key_place};
use crate::format::{are_equal, u64_at};
use crate::position::LogPosition;
use std::sync::atomic::Ordering;

impl Segment {
    /// The head of the record at an offset, if it fits into the segment. Not verified: whatever is at
    /// the offset is read as a head.
    ///
    /// # Safety
    /// Nothing writes to those bytes while the head is used. That holds if
    /// * the segment has no writer: it is sealed, or open read-only; or
    /// * a slot of the keydir points at the offset, or did when this thread had its shard locked: the
    ///   head was written before the slot was set, and never changes; or
    /// * the frame was seen committed, with Acquire.
    #[inline]
    pub(crate) unsafe fn record_head(&self, offset: u64) -> Option<RecordHead<'_>> {
        let room = self.end().checked_sub(offset + HEADER)?;
        // SAFETY: in the segment, and nothing writes there, by the contract.
        let header = u64_at(unsafe { self.map.slice(offset + WORD, 8) }, 0);
        RecordHead::read(header, |len| {
            // SAFETY: as above.
            (len <= room).then(|| unsafe { self.map.slice(offset + HEADER, len) })
        })
    }

    /// Whether the record at an offset has this key. It reads only what it takes to tell, since every
    /// lookup of a key goes through here.
    ///
    /// # Safety
    /// As for [`record_head`](Self::record_head).
    #[inline]
    pub(crate) unsafe fn has_key(&self, offset: u64, key: &[u8]) -> bool {
        let Some(room) = self.end().checked_sub(offset + HEADER) else { return false };
        // SAFETY: in the segment, and nothing writes there, by the contract.
        let header = u64_at(unsafe { self.map.slice(offset + WORD, 8) }, 0);
        let len = key.len() as u64;
        let Some(at) = key_place(header, len) else { return false };
        if at + len > room {
            return false;
        }
        // SAFETY: as above.
        let found = unsafe { self.map.slice(offset + HEADER + at, len) };
        are_equal(found, key)
    }

    /// The position that a record was first written at (its origin), which says how new it is.
    pub(crate) fn origin_of(&self, offset: u64, record: &RecordHead<'_>) -> LogPosition {
        let here = self.position(offset);
        if self.header.merged { record.origin().unwrap_or(here) } else { here }
    }

    /// The length of a frame that is at least claimed.
    pub(crate) fn frame_len(&self, offset: u64) -> u64 {
        // ORDERING: Relaxed; the claim's length is that of the commit.
        len_of(self.map.word(offset).load(Ordering::Relaxed))
    }
}
