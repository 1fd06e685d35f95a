//! The entries in the bytes of a hint.

use super::census::{Listed, MIN_RECORD, Subject};
use super::entry::{HintEntry, NARROW, WIDE};
use super::layout::{BLOCK, Layout, block_at};
use crate::format::header::FIRST_FRAME;
use crate::format::u64_at;

/// Whether a frame of this length can be at an offset of a segment.
pub(super) const fn is_place(offset: u64, len: u64, end: u64) -> bool {
    offset.is_multiple_of(8) && offset >= FIRST_FRAME && offset < end && len <= end - offset
}

/// The entries in the bytes of a hint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HintEntries<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) layout: Layout,
    /// The id of the segment.
    id: u32,
}

impl<'a> HintEntries<'a> {
    pub(super) const fn new(bytes: &'a [u8], layout: Layout, id: u32) -> Self {
        Self { bytes, layout, id }
    }

    pub(crate) const fn len(&self) -> usize {
        self.layout.entries
    }

    /// The bytes of the entries in a block.
    fn in_block(&self, block: usize) -> &'a [u8] {
        let within = self.layout.within(block);
        let start = block * BLOCK + self.layout.start(block, within.start);
        &self.bytes[start..][..within.len() * self.layout.width]
    }

    /// Where an entry is in the file.
    #[inline]
    fn place_of(&self, nth: usize) -> usize {
        let block = self.layout.block_of(nth);
        block * BLOCK + self.layout.start(block, nth)
    }

    #[inline]
    pub(crate) fn get(&self, nth: usize) -> HintEntry {
        HintEntry::read(&self.bytes[self.place_of(nth)..][..self.layout.width], self.id)
    }

    /// The first half of an entry's name.
    #[inline]
    pub(crate) fn first_half(&self, nth: usize) -> u64 {
        u64_at(&self.bytes[self.place_of(nth)..], 0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = HintEntry> + use<'a> {
        let this = *self;
        let blocks = 0..this.layout.entry_blocks();
        blocks.flat_map(move |block| {
            let entries = this.in_block(block).chunks_exact(this.layout.width);
            entries.map(move |entry| HintEntry::read(entry, this.id))
        })
    }

    /// Calls `each` with the entries from one on whose names begin below `end`, and returns the index of
    /// the first one that does not.
    #[inline]
    pub(crate) fn each_below(
        &self,
        from: usize,
        end: Option<u64>,
        mut each: impl FnMut(HintEntry),
    ) -> usize {
        let mut nth = from;
        while nth < self.layout.entries {
            let block = self.layout.block_of(nth);
            let within = self.layout.within(block);
            let rest = &self.in_block(block)[(nth - within.start) * self.layout.width..];
            let take = |entry: &[u8]| {
                let entry = HintEntry::read(entry, self.id);
                let is_below = end.is_none_or(|end| entry.name.first < end);
                if is_below {
                    each(entry);
                }
                is_below
            };
            // Each with a constant width.
            let taken = match self.layout.width {
                WIDE => {
                    count_while(rest.as_chunks::<WIDE>().0.iter().map(<[u8; WIDE]>::as_slice), take)
                }
                _ => count_while(
                    rest.as_chunks::<NARROW>().0.iter().map(<[u8; NARROW]>::as_slice),
                    take,
                ),
            };
            nth += taken;
            if nth < within.end {
                break;
            }
        }
        nth
    }

    /// The bytes from an entry on, to be prefetched.
    #[inline]
    pub(crate) fn bytes_from(&self, nth: usize) -> &'a [u8] {
        let from = if nth < self.layout.entries { self.place_of(nth) } else { 0 };
        &self.bytes[from..]
    }

    /// Checks all blocks with entries, and all entries.
    pub(super) fn check(
        &self,
        subject: &Subject,
        mask: u32,
        mut at: impl FnMut(usize),
    ) -> Option<Listed> {
        let mask = u64::from(mask) << 32;
        let mut listed = Listed {
            digest: 0,
            put_bytes: 0,
            tombstone_bytes: 0,
            oldest: u64::MAX,
            newest: 0,
            most_of_a_tag: 0,
        };
        let (mut last, mut same) = (None::<HintEntry>, 0);
        for block in 0..self.layout.entry_blocks() {
            at(block * BLOCK);
            // The head was checked with the first one.
            if block > 0 {
                block_at(self.bytes, subject.salt, block)?;
            }
            for bytes in self.in_block(block).chunks_exact(self.layout.width) {
                let entry = HintEntry::read(bytes, self.id);
                let (len, name) = (entry.len(), entry.name);
                let is_next = match last {
                    None => true,
                    Some(last) if subject.merged => (last.name, last.origin) < (name, entry.origin),
                    // Of one key only the newest is listed.
                    Some(last) => last.name < name,
                };
                let sound = is_next
                    && entry.place & !HintEntry::KNOWN == 0
                    && len >= MIN_RECORD
                    && is_place(entry.offset(), len, subject.end);
                if !sound {
                    return None;
                }
                let is_same = last.is_some_and(|last| (last.name.first ^ name.first) & mask == 0);
                same = if is_same { same + 1 } else { 1 };
                listed.most_of_a_tag = listed.most_of_a_tag.max(same);
                listed.digest = listed.digest.wrapping_add(entry.mixed());
                let sum = if entry.is_tombstone() {
                    &mut listed.tombstone_bytes
                } else {
                    &mut listed.put_bytes
                };
                // Far below an overflow: there are less than 2^32 entries of less than 2^32 bytes.
                *sum += len;
                listed.oldest = listed.oldest.min(entry.origin.as_u64());
                listed.newest = listed.newest.max(entry.origin.as_u64());
                last = Some(entry);
            }
        }
        Some(listed)
    }
}

/// The number of items that `take` takes.
#[inline]
fn count_while<T>(items: impl Iterator<Item = T>, mut take: impl FnMut(T) -> bool) -> usize {
    let mut taken = 0;
    for item in items {
        if !take(item) {
            break;
        }
        taken += 1;
    }
    taken
}
