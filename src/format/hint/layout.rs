//! The blocks of a hint.

use super::entry::{NARROW, WIDE};
use std::ops::Range;

/// Bytes of a block, and of its checksum.
pub(crate) const BLOCK: usize = 4096;
pub(super) const CHECKSUM: usize = 4;
/// Bytes of the head, which the first block begins with.
pub(super) const HEAD: usize = 160;
/// Bytes of a line of the filter, and lines in a block.
pub(super) const LINE: usize = 64;
pub(super) const LINES: usize = 63;
/// Bits of the filter for each entry.
const BITS_EACH: usize = 10;

/// Where the parts of a hint are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Bytes of an entry.
    pub(super) width: usize,
    pub(super) entries: usize,
}

impl Layout {
    pub(super) const fn new(merged: bool, entries: usize) -> Self {
        Self { width: if merged { WIDE } else { NARROW }, entries }
    }

    /// Entries in the first block.
    pub(super) const fn first(self) -> usize {
        (BLOCK - CHECKSUM - HEAD) / self.width
    }

    /// Entries in any other block.
    pub(super) const fn each(self) -> usize {
        (BLOCK - CHECKSUM) / self.width
    }

    /// Blocks with entries.
    pub(super) const fn entry_blocks(self) -> usize {
        1 + self.entries.saturating_sub(self.first()).div_ceil(self.each())
    }

    /// The entries in a block.
    pub(super) fn within(self, block: usize) -> Range<usize> {
        let from = |block: usize| match block {
            0 => 0,
            later => self.first() + (later - 1) * self.each(),
        };
        from(block).min(self.entries)..from(block + 1).min(self.entries)
    }

    /// The block of an entry.
    pub(super) const fn block_of(self, nth: usize) -> usize {
        match nth.checked_sub(self.first()) {
            None => 0,
            Some(later) => 1 + later / self.each(),
        }
    }

    /// Where in its block an entry begins.
    pub(super) fn start(self, block: usize, nth: usize) -> usize {
        (if block == 0 { HEAD } else { 0 }) + (nth - self.within(block).start) * self.width
    }

    /// Lines of the filter. A hint of a single block needs none.
    pub(super) const fn lines(self) -> usize {
        if self.entries <= self.first() { 0 } else { (self.entries * BITS_EACH).div_ceil(LINE * 8) }
    }

    pub(super) const fn blocks(self) -> usize {
        self.entry_blocks() + self.lines().div_ceil(LINES)
    }

    /// Bytes in a block that are not its checksum.
    pub(super) fn content(self, block: usize) -> usize {
        let last = self.entry_blocks() - 1;
        match block {
            _ if block + 1 < self.blocks() => BLOCK - CHECKSUM,
            _ if block == last => self.start(block, self.entries),
            _ => (self.lines() - (block - last - 1) * LINES) * LINE,
        }
    }

    /// Bytes of the file.
    pub(super) fn len(self) -> usize {
        let last = self.blocks() - 1;
        last * BLOCK + self.content(last) + CHECKSUM
    }
}

/// The checksum of a block: that of its bytes, bound to its segment and its place.
pub(super) fn checksum(salt: u64, block: usize, content: &[u8]) -> u32 {
    let place = (block as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = u128::from(salt ^ place) * u128::from(place | 1);
    let mixed = (mixed >> 64) as u64 ^ mixed as u64;
    crc32fast::hash(content) ^ (mixed >> 32) as u32 ^ mixed as u32
}

/// The content of a block, if its checksum is right.
pub(super) fn block_at(bytes: &[u8], salt: u64, block: usize) -> Option<&[u8]> {
    let rest = bytes.get(block.checked_mul(BLOCK)?..)?;
    let (content, found) = rest[..rest.len().min(BLOCK)].split_last_chunk::<CHECKSUM>()?;
    (u32::from_le_bytes(*found) == checksum(salt, block, content)).then_some(content)
}
