//! The page cache of a simulated disk: a memory file, which logs map as they map real files.
//!
//! Writers store through mappings of their own. The disk looks at the bytes as a device would: through
//! another mapping, one aligned word at a time, each an atomic load. It holds no reference to bytes
//! that a writer may change, and never writes to a file that a log may have mapped.

use crate::storage::map::Map;
use crate::storage::sys;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const PAGE: usize = 4096;

/// Bytes that the files of one disk may take, over all its life: address space, and no memory.
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

/// A part of the memory file, given back when nobody has it mapped any more.
#[derive(Debug)]
struct Extent {
    arena: Arc<Arena>,
    base: u64,
    room: u64,
}

impl Extent {
    fn punch(&self, from: u64, len: u64) -> io::Result<()> {
        sys::punch(&self.arena.file, self.base + from, self.base + from + len)
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        // Without it the memory goes with the disk.
        let _ = self.punch(0, self.room);
    }
}

/// The bytes of one file.
#[derive(Debug)]
pub(super) struct Memory {
    /// Read-only, except where there is no extent: then every log shares this map.
    map: Map,
    extent: Option<Arc<Extent>>,
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
        let extent = Arc::new(Extent { arena: arena.clone(), base, room });
        // Whole pages, so that the last word is whole.
        let map = Map::of_memory(&arena.file, base, room as usize, false, extent.clone())?;
        Ok(Self { map, extent: Some(extent), len })
    }

    /// Zeros that no image is ever taken of, in memory that may be backed by huge pages.
    pub(super) fn private(len: usize) -> io::Result<Self> {
        let map = Map::anonymous(len.max(1))?;
        map.prefer_huge_pages();
        Ok(Self { map, extent: None, len })
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// A mapping for a log.
    pub(super) fn map(&self, writable: bool) -> io::Result<Map> {
        let Some(extent) = &self.extent else { return Ok(self.map.clone()) };
        let (file, keep) = (&extent.arena.file, extent.clone());
        Map::of_memory(file, extent.base, self.len.max(1), writable, keep)
    }

    /// Puts bytes into a new file. No log may have mapped it yet.
    pub(super) fn fill(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        assert!(at + bytes.len() <= self.len);
        let Some(extent) = &self.extent else {
            self.map.fill(at as u64, bytes);
            return Ok(());
        };
        // Of this and of `map`, whose bytes nobody has borrowed.
        assert_eq!(Arc::strong_count(extent), 2, "it is mapped already");
        extent.arena.file.write_all_at(bytes, extent.base + at as u64)
    }

    /// Makes zeros of a range, as punching a hole does.
    pub(super) fn punch(&self, range: Range<usize>) -> io::Result<()> {
        let Some(extent) = &self.extent else { return Ok(()) };
        let range = range.start..range.end.min(self.len);
        if range.is_empty() {
            return Ok(());
        }
        extent.punch(range.start as u64, range.len() as u64)
    }

    /// The word at an offset, which is a multiple of 8.
    #[inline]
    pub(super) fn word(&self, at: usize) -> u64 {
        // ORDERING: Acquire; pairs with the Release stores of `commit_written`, `finish`, `drop`,
        // `pad` and `seal`: behind a word that is seen, what was stored before it is seen.
        self.map.word(at as u64).load(Ordering::Acquire)
    }

    /// Copies a range of whole words.
    pub(super) fn read(&self, at: usize, to: &mut [u8]) {
        for (nth, to) in to.chunks_mut(8).enumerate() {
            let word = self.word(at + nth * 8).to_le_bytes();
            to.copy_from_slice(&word[..to.len()]);
        }
    }

    /// The pages that are not known to be zero, in order.
    pub(super) fn pages(&self) -> Vec<usize> {
        let end = self.len.div_ceil(PAGE);
        let Some(extent) = &self.extent else { return (0..end).collect() };
        let base = extent.base;
        let mut pages = Vec::new();
        let mut page = 0;
        while page < end {
            let file = &extent.arena.file;
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
