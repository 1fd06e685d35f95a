//! A segment's map as the append protocol sees it.

#![allow(unsafe_code, reason = "forwards the contracts of `Memory` to the map")]

use crate::log::append::claim::SegmentMemory;
use crate::segment::Segment;
use crate::sync::{AtomicU64, FileWord};

// SAFETY: the header never changes, and the map is as long as the capacity and lives as long as the
// segment. What is written to a segment of the log is written by claims.
unsafe impl SegmentMemory for Segment {
    fn id(&self) -> u32 {
        Self::id(self)
    }
    #[inline]
    fn salt(&self) -> u64 {
        Self::salt(self)
    }
    #[inline]
    fn capacity(&self) -> u64 {
        self.header.capacity
    }
    #[inline]
    fn word(&self, offset: u64) -> &FileWord {
        self.map.word(offset)
    }
    #[inline]
    unsafe fn write(&self, offset: u64, bytes: &[u8]) {
        // SAFETY: the same contract; active segments are writable maps.
        unsafe { self.map.write(offset, bytes) };
    }
    #[inline(always)]
    unsafe fn reserved_word(&self, offset: u64) -> &FileWord {
        // SAFETY: the same contract; an active segment is mapped up to its capacity.
        unsafe { self.map.word_unchecked(offset) }
    }
    #[inline(always)]
    unsafe fn write_frame(&self, offset: u64, header: u64, body: &[u8]) {
        // SAFETY: the same contract; active segments are writable maps.
        unsafe { self.map.write_frame(offset, header, body) };
    }
    unsafe fn header(&self, offset: u64) -> u64 {
        // SAFETY: the same contract.
        crate::format::u64_at(unsafe { self.map.slice(offset + 8, 8) }, 0)
    }
    fn found_frames(&self) -> &[AtomicU64] {
        let blocks = self.header.capacity.div_ceil(Self::BLOCK);
        self.found_frames.get_or_init(|| (0..blocks).map(|_| AtomicU64::new(0)).collect())
    }
}
