//! The page cache of a simulated disk: a memory file, which logs map as they map real files.
//!
//! Writers store through mappings of their own. The disk reads the bytes as a device would: through
//! another mapping, one aligned word at a time, each by an atomic load. It never has a reference to
//! bytes that a writer may change.
//!
//! Bytes that a log has mapped are never changed behind its back, whatever the holder of the disk does:
//! `fill` takes a new file that is not mapped, and damage gives the name a new file
//! (`DiskState::put`). Only `punch` changes a mapped file, when the log itself asks for it, behind the end
//! of a sealed segment.

use crate::storage::map::Map;
use crate::storage::sys;
use crate::sync::at_once;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const PAGE: usize = 4096;
/// Bytes of a sector, which a device writes as a whole.
pub(super) const SECTOR: usize = 512;

/// For so few pages the kernel is not asked which of them are not zero.
const FEW: usize = 4;

/// Bytes that all files ever made on one disk may take together: addresses, not memory.
const ARENA: u64 = 1 << 45;

/// One memory file for all files of a disk, so that a disk takes one descriptor.
#[derive(Debug)]
pub(super) struct Arena {
    file: File,
    end: AtomicU64,
}

impl Arena {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { file: sys::memory_file(ARENA)?, end: AtomicU64::new(0) })
    }
}

/// A part of the memory file. It is freed when it is no longer mapped.
#[derive(Debug)]
struct ArenaPart {
    arena: Arc<Arena>,
    base: u64,
    room: u64,
}

impl ArenaPart {
    fn punch(&self, from: u64, len: u64) -> io::Result<()> {
        sys::punch(&self.arena.file, self.base + from, self.base + from + len)
    }
}

impl Drop for ArenaPart {
    fn drop(&mut self) {
        // If this fails, the memory is freed with the disk.
        let _ = self.punch(0, self.room);
    }
}

/// The bytes of one file.
#[derive(Debug)]
pub(super) struct Memory {
    /// Read-only, unless it is private memory: then the log has this map, too.
    map: Map,
    part: Option<Arc<ArenaPart>>,
    len: usize,
}

impl Memory {
    /// Zeros.
    pub(super) fn new(arena: &Arc<Arena>, len: usize) -> io::Result<Self> {
        let room = len.max(1).next_multiple_of(PAGE) as u64;
        // ORDERING: Relaxed; hands out ranges, and no memory is touched by it.
        let base = arena.end.fetch_add(room, Ordering::Relaxed);
        if base + room > ARENA {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let part = Arc::new(ArenaPart { arena: arena.clone(), base, room });
        // Whole pages, so that the last word is whole.
        let map = Map::of_memory(&arena.file, base, room as usize, false, part.clone())?;
        Ok(Self { map, part: Some(part), len })
    }

    /// Zeros, in memory that may have huge pages, and of which no image is taken.
    pub(super) fn private(len: usize) -> io::Result<Self> {
        let map = Map::anonymous(len.max(1))?;
        map.prefer_huge_pages();
        Ok(Self { map, part: None, len })
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// A mapping for a log.
    pub(super) fn map(&self, writable: bool) -> io::Result<Map> {
        let Some(part) = &self.part else { return Ok(self.map.clone()) };
        let (file, keep) = (&part.arena.file, part.clone());
        Map::of_memory(file, part.base, self.len.max(1), writable, keep)
    }

    /// Puts bytes into a new file. No log may have mapped it yet.
    pub(super) fn fill(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        assert!(at + bytes.len() <= self.len);
        let Some(part) = &self.part else {
            self.map.fill(at as u64, bytes);
            return Ok(());
        };
        // Held by `self` and by its `map`, of which no bytes are borrowed.
        assert_eq!(Arc::strong_count(part), 2, "it is mapped already");
        part.arena.file.write_all_at(bytes, part.base + at as u64)
    }

    /// Punches a hole: the range is zero afterwards.
    pub(super) fn punch(&self, range: Range<usize>) -> io::Result<()> {
        let Some(part) = &self.part else { return Ok(()) };
        let range = range.start..range.end.min(self.len);
        if range.is_empty() {
            return Ok(());
        }
        part.punch(range.start as u64, range.len() as u64)
    }

    /// The word at an offset, which is a multiple of 8.
    #[inline]
    pub(super) fn word(&self, at: usize) -> u64 {
        // ORDERING: Acquire; pairs with the Release stores in `settle` (`log/append/claim.rs`) and
        // `seal` (`segment/mod.rs`): if an image has a commit or a seal, it has what was stored before.
        self.map.word(at as u64).load(Ordering::Acquire)
    }

    /// Reads from an offset that is a multiple of 8.
    pub(super) fn read(&self, at: usize, to: &mut [u8]) {
        for (nth, to) in to.chunks_mut(SECTOR).enumerate() {
            at_once(|| self.read_sector(at + nth * SECTOR, to));
        }
    }

    fn read_sector(&self, at: usize, to: &mut [u8]) {
        for (nth, to) in to.chunks_mut(8).enumerate() {
            let word = self.word(at + nth * 8).to_le_bytes();
            to.copy_from_slice(&word[..to.len()]);
        }
    }

    /// The pages that are not known to be zero, in order.
    pub(super) fn pages(&self) -> Vec<usize> {
        let end = self.len.div_ceil(PAGE);
        let Some(part) = self.part.as_ref().filter(|_| end > FEW) else {
            return (0..end).collect();
        };
        let base = part.base;
        let mut pages = Vec::new();
        let mut page = 0;
        while page < end {
            let file = &part.arena.file;
            let data = sys::next_data(file, base + (page * PAGE) as u64);
            let Ok(Some(data)) = data else { break };
            let hole = sys::next_hole(file, data).expect("a hole is behind all data");
            let (data, hole) = ((data - base) as usize / PAGE, (hole - base) as usize);
            let hole = hole.div_ceil(PAGE).min(end);
            pages.extend(data..hole);
            page = hole.max(page + 1);
            if data >= end {
                break;
            }
        }
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "it is mapped already")]
    fn what_a_log_has_mapped_is_not_filled() {
        let mut memory = Memory::new(&Arc::new(Arena::new().unwrap()), 4096).unwrap();
        memory.fill(0, b"new").unwrap();
        let _map = memory.map(false).unwrap();
        let _ = memory.fill(0, b"changed");
    }

    #[test]
    #[should_panic(expected = "a map of one's own")]
    fn nor_is_memory_that_a_log_has() {
        let mut memory = Memory::private(4096).unwrap();
        memory.fill(0, b"new").unwrap();
        let _map = memory.map(true).unwrap();
        let _ = memory.fill(0, b"changed");
    }
}
