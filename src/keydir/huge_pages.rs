//! Huge pages under tables that are smaller than one.
//!
//! Lookups anywhere in the tables miss the TLB, and on small pages the page walk that follows misses the
//! cache as well: at 10 million keys that is a third of a lookup. A large table asks for huge pages when
//! it is made. A small one shares each huge page's range with its neighbours; it is filled before they
//! are there, and so the kernel gives it small pages. Once tables have not grown for a moment, the ranges
//! that they fill together are moved to huge pages.
//!
//! Moving a range changes nothing that can be seen in it, and takes no lock of the keydir. A thread that
//! touches the range meanwhile waits for the copy of 2 MiB.

use super::Keydir;
use super::table;
use crate::storage::sys;
use std::collections::BTreeMap;

/// Less memory than this is read fast enough as it is.
const SMALL: u64 = 2 << 20;

impl Keydir {
    /// Moves what its tables fill to huge pages, until it is to stop. What is on huge pages already, or
    /// cannot be moved, is passed over.
    pub(crate) fn move_to_huge_pages(&self, mut stop: impl FnMut() -> bool) {
        if self.memory() < SMALL {
            return;
        }
        let Some(huge) = sys::huge_page() else { return };
        let places = (0..self.shards()).map(|shard| table::place(&self.read(shard)));
        let places: Vec<_> = places.flatten().collect();
        for range in mostly_filled(&places, huge) {
            if stop() {
                return;
            }
            sys::move_to_huge_page(range, huge);
        }
    }
}

/// The beginnings of ranges as long and as aligned as a huge page, of which at least seven eighths are in
/// the places given: (address, length).
fn mostly_filled(places: &[(usize, usize)], huge: usize) -> Vec<usize> {
    let mut filled = BTreeMap::new();
    for &(from, len) in places {
        let (mut at, end) = (from, from + len);
        while at < end {
            let range = at - at % huge;
            let to = end.min(range + huge);
            *filled.entry(range).or_insert(0) += to - at;
            at = to;
        }
    }
    let most = huge / 8 * 7;
    filled.into_iter().filter(|&(_, bytes)| bytes >= most).map(|(range, _)| range).collect()
}

/// When to move tables: once they have grown, and no longer grow.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    last: u64,
    moved: u64,
}

impl Settling {
    /// Called now and then, with the memory of the tables. Says whether they are to be moved.
    pub(crate) fn has_settled(&mut self, memory: u64) -> bool {
        let settled = memory == self.last && memory != self.moved;
        if settled {
            self.moved = memory;
        }
        self.last = memory;
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::LogPosition;

    #[test]
    fn only_ranges_that_are_mostly_filled_are_moved() {
        let huge = 1000;
        assert_eq!(mostly_filled(&[], huge), []);
        // One place over three ranges; two that fill one; one that does not.
        let places = [(2100, 1900), (100, 400), (520, 480), (9000, 860), (7000, 875)];
        assert_eq!(mostly_filled(&places, huge), [0, 2000, 3000, 7000]);
    }

    #[test]
    fn tables_are_moved_once_they_have_settled() {
        let mut settling = Settling::default();
        let mut says = |memory| settling.has_settled(memory);
        assert_eq!(
            [0, 0, 5, 6, 6, 6, 6, 7, 6, 6].map(&mut says),
            [false, false, false, false, true, false, false, false, false, false]
        );
        assert_eq!([8, 8, 8].map(&mut says), [false, true, false]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it knows no such system call")]
    fn what_is_moved_stays_as_it_is() {
        const KEYS: u32 = 500_000;
        let keydir = Keydir::new([7; 16], 32);
        let tag = |n: u32| n.wrapping_mul(0x9e37_79b1);
        let position = |n: u32| LogPosition::new(1 + n, 128);
        (0..KEYS).for_each(|n| keydir.entry(tag(n), |_| false).set(position(n)));
        keydir.move_to_huge_pages(|| true);
        keydir.move_to_huge_pages(|| false);
        for n in 0..KEYS {
            assert_eq!(keydir.get(tag(n), |at| at == position(n), |_| ()), Some(()));
        }
    }
}
