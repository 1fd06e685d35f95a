//! The entries in the bytes of a hint.

use super::census::{Listed, MIN_RECORD, Subject};
use super::entry::{HintEntry, KeyName, NARROW, WIDE};
use super::layout::{BLOCK, Layout, block_at};
use crate::format::header::FIRST_FRAME;
use crate::format::u64_at;
use crate::position::LogPosition;

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

    /// Begins to go through the entries from one on: of those whose names begin with this or more the
    /// first one.
    pub(crate) const fn walk(&self, from: usize, floor: u64) -> HintWalk {
        HintWalk {
            next: from,
            in_sound_block: from,
            floor,
            last: None,
            same: 0,
            listed: Listed::NONE,
        }
    }

    /// Goes on to the entries whose names begin below `end`, and calls `each` with them. Each block, and
    /// each entry, is checked before that. `at` is called with the offset of each block before it is read.
    /// `None`: what comes is not sound.
    #[inline]
    pub(crate) fn each_below(
        &self,
        subject: &Subject,
        mask: u32,
        walk: &mut HintWalk,
        end: Option<u64>,
        mut at: impl FnMut(usize),
        mut each: impl FnMut(HintEntry),
    ) -> Option<()> {
        while walk.next < self.layout.entries {
            let block = self.layout.block_of(walk.next);
            let within = self.layout.within(block);
            if walk.next >= walk.in_sound_block {
                at(block * BLOCK);
                // The head was checked with the first one.
                if block > 0 {
                    block_at(self.bytes, subject.salt, block)?;
                }
                walk.in_sound_block = within.end;
            }
            let rest = &self.in_block(block)[(walk.next - within.start) * self.layout.width..];
            let mut sound = true;
            let take = |entry: &[u8]| {
                let entry = HintEntry::read(entry, self.id);
                if end.is_some_and(|end| entry.name.first >= end) {
                    return false;
                }
                sound = walk.check(&entry, subject, mask);
                if sound {
                    each(entry);
                }
                sound
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
            walk.next += taken;
            walk.listed.entries += taken as u64;
            if !sound {
                return None;
            }
            if walk.next < within.end {
                break;
            }
        }
        Some(())
    }

    /// The bytes from an entry on, to be prefetched.
    #[inline]
    pub(crate) fn bytes_from(&self, walk: &HintWalk) -> &'a [u8] {
        let from = if walk.next < self.layout.entries { self.place_of(walk.next) } else { 0 };
        &self.bytes[from..]
    }

    /// Bytes from the start of the file in which the entries are, and about how many of them those whose
    /// names begin below `end` take, if names are spread evenly.
    pub(crate) fn estimate(&self, end: Option<u64>) -> (usize, usize) {
        let len = self.layout.entry_blocks() * BLOCK;
        let part = |end: u64| ((u128::from(end) * len as u128) >> 64) as usize;
        (len, end.map_or(len, part))
    }
}

/// Goes through entries of a hint once, from the front to the back, and checks what it gives out.
///
/// Invariant: walks that go through ranges of names which do not overlap, and were all sound, have
/// together seen each entry at most once, in the order of names. So if they have counted all entries
/// between them, all blocks and all entries were checked.
#[derive(Debug)]
pub(crate) struct HintWalk {
    /// The entry that comes next.
    next: usize,
    /// The block of the entries before this one was found sound.
    in_sound_block: usize,
    /// Its names begin with this or more.
    floor: u64,
    /// The last entry: its name and origin.
    last: Option<(KeyName, LogPosition)>,
    /// How many entries up to that one have its tag.
    same: usize,
    pub(crate) listed: Listed,
}

impl HintWalk {
    /// Whether the next entry can be one of this segment, and is next in order.
    #[inline]
    fn check(&mut self, entry: &HintEntry, subject: &Subject, mask: u32) -> bool {
        let (len, name) = (entry.len(), entry.name);
        let is_next = match self.last {
            None => name.first >= self.floor,
            Some((last, origin)) if subject.merged => (last, origin) < (name, entry.origin),
            // Of one key only the newest is listed.
            Some((last, _)) => last < name,
        };
        let sound = is_next
            && entry.place & !HintEntry::KNOWN == 0
            && len >= MIN_RECORD
            && is_place(entry.offset(), len, subject.end);
        let mask = u64::from(mask) << 32;
        let is_same = self.last.is_some_and(|(last, _)| (last.first ^ name.first) & mask == 0);
        self.same = if is_same { self.same + 1 } else { 1 };
        self.last = Some((name, entry.origin));
        let listed = &mut self.listed;
        listed.most_of_a_tag = listed.most_of_a_tag.max(self.same);
        listed.digest = listed.digest.wrapping_add(entry.mixed());
        let sum =
            if entry.is_tombstone() { &mut listed.tombstone_bytes } else { &mut listed.put_bytes };
        // Far below an overflow: there are less than 2^32 entries of less than 2^32 bytes.
        *sum += len;
        listed.oldest = listed.oldest.min(entry.origin.as_u64());
        listed.newest = listed.newest.max(entry.origin.as_u64());
        sound
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
