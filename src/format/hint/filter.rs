//! The filter of a hint: a Bloom filter in which all bits of a name are in one line. It never says of a
//! put's name that it is not there; of a name that is not there it says so 59 times in 60.

use super::entry::{HintEntry, KeyName};
use super::layout::{LINE, Layout};

/// See the [module](self).
pub(super) struct Filter;

impl Filter {
    /// The lines of a filter with the names of all puts.
    pub(super) fn of(layout: Layout, entries: &[HintEntry]) -> Vec<[u8; LINE]> {
        let mut lines = vec![[0; LINE]; layout.lines()];
        if !lines.is_empty() {
            for entry in entries.iter().filter(|entry| !entry.is_tombstone()) {
                let line = &mut lines[Self::line_of(layout, entry.name)];
                Self::bits_of(entry.name).for_each(|bit| line[bit / 8] |= 1 << (bit % 8));
            }
        }
        lines
    }

    /// The line of a name. Lines are in the order of names, so that asking for sorted names goes through
    /// the filter from one end to the other.
    pub(super) fn line_of(layout: Layout, name: KeyName) -> usize {
        ((u128::from(name.first) * layout.lines() as u128) >> 64) as usize
    }

    /// The bits of a name in its line, from the half that does not choose the line.
    fn bits_of(name: KeyName) -> impl Iterator<Item = usize> {
        (0..6).map(move |nth| (name.second >> (nth * 9)) as usize % (LINE * 8))
    }

    pub(super) fn has(line: &[u8], name: KeyName) -> bool {
        Self::bits_of(name).all(|bit| line[bit / 8] & 1 << (bit % 8) != 0)
    }
}
