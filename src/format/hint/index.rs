//! Asking a hint for single names.

use super::census::{Census, Subject};
use super::entries::HintEntries;
use super::entry::{KeyName, NARROW};
use super::filter::Filter;
use super::head::Head;
use super::layout::{BLOCK, LINE, LINES, block_at};
use crate::position::LogPosition;

/// A hint that is asked for single names: of its blocks only those are read and checked that an answer
/// needs.
///
/// Invariant: nothing is answered from a block whose checksum was not found right, and where one is
/// wrong the answer is that the hint may hold anything.
#[derive(Debug)]
pub(crate) struct HintIndex<'b> {
    entries: HintEntries<'b>,
    salt: u64,
    oldest: u64,
    /// For each block whether it was read, and found right.
    checked: Vec<Option<bool>>,
    blocks_read: u64,
}

impl<'b> HintIndex<'b> {
    /// Reads the head. `census` is what is known of the hint already: `None` if it is another one.
    pub(crate) fn open(bytes: &'b [u8], subject: Subject, census: &Census) -> Option<Self> {
        let head = Head::read(bytes, &subject)?;
        let is_known = Census { digest: census.digest, ..head.census } == *census;
        let layout = head.layout;
        let entries = HintEntries::new(bytes, layout, subject.id);
        let mut checked = vec![None; layout.blocks()];
        checked[0] = Some(true);
        let (salt, oldest, blocks_read) = (subject.salt, census.oldest, 1);
        is_known.then_some(Self { entries, salt, oldest, checked, blocks_read })
    }

    /// How many blocks it has read.
    pub(crate) const fn blocks_read(&self) -> u64 {
        self.blocks_read
    }

    /// Whether it holds a put of a name that was first written before a position; also true if that
    /// cannot be told, because a block is damaged.
    pub(crate) fn may_hold(&mut self, name: KeyName, before: LogPosition) -> bool {
        if before.as_u64() <= self.oldest {
            return false;
        }
        match self.filter_has(name) {
            Some(true) => self.has_put(name, before).unwrap_or(true),
            Some(false) => false,
            None => true,
        }
    }

    fn check(&mut self, block: usize) -> Option<()> {
        if self.checked[block].is_none() {
            self.checked[block] = Some(block_at(self.entries.bytes, self.salt, block).is_some());
            self.blocks_read += 1;
        }
        self.checked[block].filter(|&sound| sound).map(drop)
    }

    fn filter_has(&mut self, name: KeyName) -> Option<bool> {
        let layout = self.entries.layout;
        if layout.lines() == 0 {
            return Some(layout.entries > 0);
        }
        let line = Filter::line_of(layout, name);
        let block = layout.entry_blocks() + line / LINES;
        self.check(block)?;
        let start = block * BLOCK + line % LINES * LINE;
        Some(Filter::has(&self.entries.bytes[start..][..LINE], name))
    }

    /// As `may_hold`, from the entries. In a log segment the older puts of a key are not listed, and the
    /// newest stands for them.
    fn has_put(&mut self, name: KeyName, before: LogPosition) -> Option<bool> {
        let layout = self.entries.layout;
        let mut nth = self.find(name)?;
        while nth < layout.entries {
            self.check(layout.block_of(nth))?;
            let entry = self.entries.get(nth);
            let is_older = layout.width == NARROW || entry.origin < before;
            if entry.name != name || !is_older {
                break;
            }
            if !entry.is_tombstone() {
                return Some(true);
            }
            nth += 1;
        }
        Some(false)
    }

    /// The index of the first entry whose name is not below this one. Names are spread evenly, so the
    /// block is estimated first; should that not find it soon, what is left is halved.
    fn find(&mut self, name: KeyName) -> Option<usize> {
        const ESTIMATES: usize = 8;
        let (layout, blocks) = (self.entries.layout, self.entries.layout.entry_blocks());
        // It is in one of these blocks, or the first entry behind them.
        let (mut low, mut high) = (0, blocks);
        // The names in them begin with these halves.
        let (mut from, mut to) = (0, u64::MAX);
        for nth in 0.. {
            if low == high {
                break;
            }
            let span = to.checked_sub(from)?;
            let place = name.first.saturating_sub(from).min(span);
            let part = u128::from(place) * (high - low) as u128 / (u128::from(span) + 1);
            let middle = low + if nth < ESTIMATES { part as usize } else { (high - low) / 2 };
            self.check(middle)?;
            let within = layout.within(middle);
            let (Some(last), first) = (within.clone().next_back(), within.start) else { break };
            if name <= self.entries.get(first).name {
                (high, to) = (middle, self.entries.first_half(first));
            } else if name > self.entries.get(last).name {
                (low, from) = (middle + 1, self.entries.first_half(last));
            } else {
                return Some(self.find_between(name, first, last));
            }
        }
        Some(layout.within(low).start)
    }

    /// The first entry from one to another whose name is not below this one; that of the last one is
    /// not.
    fn find_between(&self, name: KeyName, mut low: usize, mut high: usize) -> usize {
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entries.get(middle).name < name {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}
