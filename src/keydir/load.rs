//! Loading many entries at once, when a store is opened.
//!
//! Sources are sorted by tag, and so are the places in the tables. So each thread takes a shard, makes
//! its table as large as it will have to be, and fills it part by part: from every source it takes the
//! entries that belong there, which are next to each other, while that part of the table is in the
//! cache. The order in which the entries of one key come makes no difference.
//!
//! If a slot has the entry's tag already, the two are compared: it may be another key, an older frame
//! of the same key, or a newer one. If more than a few keys share a tag, which does not happen by
//! chance, their entries are collected and sorted by key instead: comparing each with each would make
//! opening take time quadratic in their number.

use super::Keydir;
use super::entry::KeydirEntry;
use super::slot::{SHARDS, Slot};
use super::table::{self, Table, hash};
use crate::position::LogPosition;
use crate::threads::on_threads;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How an entry to be loaded relates to a loaded one with the same tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryRelation {
    /// Another key.
    Other,
    /// The new one replaces it.
    Newer,
    /// The new one is dropped.
    Older,
}

/// An entry to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LoadEntry {
    pub(crate) tag: u32,
    pub(crate) at: LogPosition,
    /// Whether its frame is a tombstone: it is compared like any other, but gets no slot in the end.
    pub(crate) tombstone: bool,
}

/// Entries to be loaded, sorted by tag.
pub(crate) trait LoadSource: Sync {
    fn len(&self) -> usize;
    fn get(&self, nth: usize) -> LoadEntry;
}

/// Decides, for entries with equal tags, which have the same key, and which of those is the newest.
pub(crate) trait Resolve: Sync {
    type Key: Ord;
    type Error: Send;

    /// How `new` relates to `old`. Entries of one key are in a total order by it.
    fn relation(&self, old: LogPosition, new: LogPosition) -> Result<EntryRelation, Self::Error>;

    /// An entry's key and origin; the entry with the highest origin is the newest of its key. `None`
    /// stands for a key that no other entry has.
    fn look(&self, at: LogPosition) -> Result<Option<(Self::Key, LogPosition)>, Self::Error>;

    /// Called for every entry that is dropped because its key has a newer one.
    fn dropped(&self, at: LogPosition);
}

/// Bytes of a table that are filled at a time.
const PART: usize = 128 << 10;

/// At most this many keys with one tag are compared with each other.
const MAX_COMPARED: usize = 8;

/// Marks a slot as a tombstone while its table is filled: positions are multiples of 8.
const TOMBSTONE: u64 = 1;

impl Keydir {
    /// Loads entries on `threads` threads.
    ///
    /// After an error, some entries are loaded, and some are not, tombstones among them.
    pub(crate) fn load<R: Resolve>(
        &self,
        sources: &[impl LoadSource],
        threads: usize,
        resolve: &R,
    ) -> Result<(), R::Error> {
        let next = AtomicUsize::new(0);
        let job = || {
            loop {
                // ORDERING: Relaxed; each number is drawn once.
                let shard = next.fetch_add(1, Ordering::Relaxed);
                if shard >= SHARDS {
                    return Ok(());
                }
                self.fill(shard, sources, resolve)?;
            }
        };
        on_threads(threads.max(1), job)
    }

    fn fill<R: Resolve>(
        &self,
        shard: usize,
        sources: &[impl LoadSource],
        resolve: &R,
    ) -> Result<(), R::Error> {
        // Tags as 64 bits: the end of the last shard is not one of 32.
        let of_shard = 32 - SHARDS.ilog2();
        let (start, end) = ((shard as u64) << of_shard, (shard as u64 + 1) << of_shard);
        let mut next: Vec<_> = sources.iter().map(|source| first(source, start)).collect();
        let ends = sources.iter().map(|source| first(source, end));
        let count = ends.zip(&next).map(|(end, next)| end - next).sum();
        let mut table = self.map.shards()[shard].write();
        table::reserve(&mut table, count);
        let parts = (table.buckets() * table::EACH / PART).next_power_of_two() as u64;
        let mut filler =
            Filler { table: &mut table, resolve, aside: BTreeMap::new(), tombstones: false };
        for part in 1..=parts {
            let end = start + (part << of_shard) / parts;
            for (source, next) in sources.iter().zip(&mut next) {
                while *next < source.len() {
                    let entry = source.get(*next);
                    if u64::from(entry.tag) >= end {
                        break;
                    }
                    filler.add(entry)?;
                    *next += 1;
                }
            }
            filler.part_ends()?;
        }
        filler.end();
        Ok(())
    }
}

/// The index of the first entry with a tag of at least this.
fn first(source: &impl LoadSource, tag: u64) -> usize {
    let (mut low, mut high) = (0, source.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if u64::from(source.get(middle).tag) < tag {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Fills a table.
struct Filler<'f, R> {
    table: &'f mut Table,
    resolve: &'f R,
    /// For each tag that too many keys share: all of its slots, none of which is in the table.
    aside: BTreeMap<u32, Vec<Slot>>,
    /// Whether tombstones may be in the table.
    tombstones: bool,
}

impl<R: Resolve> Filler<'_, R> {
    fn add(&mut self, entry: LoadEntry) -> Result<(), R::Error> {
        let mark = if entry.tombstone { TOMBSTONE } else { 0 };
        self.tombstones |= entry.tombstone;
        let new = Slot { tag: entry.tag, position: entry.at.as_u64() | mark };
        if !self.aside.is_empty()
            && let Some(same_tag) = self.aside.get_mut(&entry.tag)
        {
            same_tag.push(new);
            return Ok(());
        }
        let (mut relation, mut others) = (Ok(EntryRelation::Other), 0);
        let slot = KeydirEntry::find(&mut *self.table, new.tag, |old| {
            relation = self.resolve.relation(unmarked(old), entry.at);
            others += 1;
            !matches!(relation, Ok(EntryRelation::Other))
        });
        match (relation?, slot.position()) {
            (EntryRelation::Newer, Some(old)) => {
                slot.set(new.position());
                self.resolve.dropped(unmarked(old));
            }
            (EntryRelation::Older, _) => self.resolve.dropped(entry.at),
            _ if others < MAX_COMPARED => slot.set(new.position()),
            _ => self.set_aside(new),
        }
        Ok(())
    }

    /// Removes all slots with a tag from the table.
    #[cold]
    fn set_aside(&mut self, new: Slot) {
        let mut same_tag = vec![new];
        let hash = hash(self.table, new.tag);
        while let Some((slot, _)) = self.table.remove_entry(hash, |(slot, _)| slot.tag == new.tag) {
            same_tag.push(slot);
        }
        self.aside.insert(new.tag, same_tag);
    }

    /// Resolves the collected slots: no more entries with those tags come.
    fn part_ends(&mut self) -> Result<(), R::Error> {
        for (_, same_tag) in std::mem::take(&mut self.aside) {
            let mut all = Vec::with_capacity(same_tag.len());
            for slot in same_tag {
                match self.resolve.look(unmarked(slot.position()))? {
                    Some((key, age)) => all.push((key, age, slot)),
                    None => self.keep(slot),
                }
            }
            all.sort_unstable_by(|(a, old, _), (b, new, _)| (a, old).cmp(&(b, new)));
            for same in all.chunk_by(|(a, ..), (b, ..)| a == b) {
                let (&(.., newest), older) = same.split_last().expect("chunks are not empty");
                older
                    .iter()
                    .for_each(|&(.., slot)| self.resolve.dropped(unmarked(slot.position())));
                self.keep(newest);
            }
        }
        Ok(())
    }

    fn keep(&mut self, slot: Slot) {
        if slot.position & TOMBSTONE == 0 {
            table::make_room(self.table);
            table::insert(self.table, slot);
        }
    }

    fn end(self) {
        if self.tombstones {
            table::remove_if(self.table, |slot| slot.position & TOMBSTONE != 0);
        }
        // The table had room for each entry, but many may have been of one key.
        table::shrink(self.table);
    }
}

/// The position of a slot that is being loaded, without the mark of a tombstone.
fn unmarked(position: LogPosition) -> LogPosition {
    LogPosition::from_u64(position.as_u64() & !TOMBSTONE)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Mutex;

    /// The position for a version of a key: the segment stands for the key, the offset for the version.
    pub(in crate::keydir) fn entry(key: u32, version: u32) -> LogPosition {
        LogPosition::new(key + 1, 128 + version * 8)
    }

    /// What `entry` returns, and how often it was called.
    #[derive(Default)]
    pub(in crate::keydir) struct Frames {
        looks: AtomicUsize,
        dropped: Mutex<Vec<LogPosition>>,
        unreadable: bool,
    }

    impl Frames {
        /// Number of frames read.
        pub(in crate::keydir) fn looks(&self) -> u64 {
            self.looks.load(Ordering::Relaxed) as u64
        }

        fn dropped(self) -> Vec<LogPosition> {
            let mut all = self.dropped.into_inner().unwrap();
            all.sort_unstable();
            all
        }
    }

    impl Resolve for Frames {
        type Key = u32;
        type Error = &'static str;

        fn relation(
            &self,
            old: LogPosition,
            new: LogPosition,
        ) -> Result<EntryRelation, &'static str> {
            self.looks.fetch_add(2, Ordering::Relaxed);
            if self.unreadable {
                return Err("unreadable");
            }
            Ok(match (old.segment() == new.segment(), new.offset().cmp(&old.offset())) {
                (false, _) => EntryRelation::Other,
                (true, std::cmp::Ordering::Greater) => EntryRelation::Newer,
                (true, _) => EntryRelation::Older,
            })
        }

        fn look(&self, at: LogPosition) -> Result<Option<(u32, LogPosition)>, &'static str> {
            self.looks.fetch_add(1, Ordering::Relaxed);
            if self.unreadable { Err("unreadable") } else { Ok(Some((at.segment(), at))) }
        }

        fn dropped(&self, at: LogPosition) {
            self.dropped.lock().unwrap().push(at);
        }
    }

    fn all(keydir: &Keydir) -> Vec<LogPosition> {
        let all = Mutex::new(Vec::new());
        keydir.find(|at| {
            all.lock().unwrap().push(at);
            false
        });
        let mut all = all.into_inner().unwrap();
        all.sort_unstable();
        all
    }

    impl LoadSource for Vec<LoadEntry> {
        fn len(&self) -> usize {
            self.len()
        }

        fn get(&self, nth: usize) -> LoadEntry {
            self[nth]
        }
    }

    pub(in crate::keydir) fn sorted(
        source: impl Iterator<Item = (u32, LogPosition)>,
    ) -> Vec<LoadEntry> {
        let mut all: Vec<_> =
            source.map(|(tag, at)| LoadEntry { tag, at, tombstone: false }).collect();
        all.sort_unstable();
        all
    }

    /// Keys of each source, with versions, one in seven of them a tombstone.
    fn sources(keydir: &Keydir) -> Vec<Vec<LoadEntry>> {
        let tag = |key: u32| keydir.tag(&key.to_le_bytes());
        let one = |source: u32, n: u32| {
            let key = (n * 7 + source * 13) % 3000;
            let version = (source * 5 + n) % 11;
            // The same for all that is said of a version.
            let tombstone = (key + version).is_multiple_of(7);
            LoadEntry { tag: tag(key), at: entry(key, version), tombstone }
        };
        let of = |source| {
            let mut all: Vec<_> = (0..2500).map(|n| one(source, n)).collect();
            all.sort_unstable();
            all
        };
        (0..4).map(of).collect()
    }

    fn one_by_one(keydir: &Keydir, sources: &[Vec<LoadEntry>]) {
        for &LoadEntry { tag, at: new, .. } in sources.iter().flatten() {
            let is = |old: LogPosition| old.segment() == new.segment();
            let slot = keydir.entry(tag, is);
            if slot.position().is_none_or(|old| old.offset() < new.offset()) {
                slot.set(new);
            }
        }
        for tombstone in sources.iter().flatten().filter(|entry| entry.tombstone) {
            keydir.entry(tombstone.tag, |at| at == tombstone.at).remove();
        }
    }

    #[test]
    fn loading_is_as_one_by_one_in_every_order() {
        // With few bits many keys share a tag; with 10 there are some of either kind.
        for bits in [2, 9, 10, 11, 32] {
            let expected = Keydir::new([7; 16], bits);
            let sources = sources(&expected);
            one_by_one(&expected, &sources);
            let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]];
            for (n, order) in orders.iter().enumerate() {
                let keydir = Keydir::new([7; 16], bits);
                let sources: Vec<_> = order.iter().map(|&i| sources[i].clone()).collect();
                let frames = Frames::default();
                keydir.load(&sources, n + 1, &frames).unwrap();
                assert_eq!(all(&keydir), all(&expected), "{bits} bits");
                assert_eq!(keydir.len(), expected.len());
                // All that has no slot was dropped, or is the newest of its key, and a tombstone.
                let mut rest: Vec<_> = sources.concat();
                rest.sort_unstable_by_key(|entry| entry.at);
                let newest = rest.chunk_by(|a, b| a.at.segment() == b.at.segment());
                let mut expected: Vec<_> =
                    newest.flat_map(|same| &same[..same.len() - 1]).map(|entry| entry.at).collect();
                expected.sort_unstable();
                assert_eq!(frames.dropped(), expected);
            }
        }
    }

    #[test]
    fn what_is_loaded_is_found() {
        // Miri takes a thousand times as long.
        const KEYS: u32 = if cfg!(miri) { 1000 } else { 20_000 };
        let keydir = Keydir::new([7; 16], 32);
        let of = |i: u32| {
            let keys = (0..KEYS).filter(|key| key % 5 == i);
            sorted(keys.map(|key| (keydir.tag(&key.to_le_bytes()), entry(key, 0))))
        };
        let sources: Vec<_> = (0..5).map(of).collect();
        keydir.load(&sources, 2, &Frames::default()).unwrap();
        assert_eq!(keydir.len(), u64::from(KEYS));
        for key in 0..KEYS {
            let tag = keydir.tag(&key.to_le_bytes());
            assert_eq!(keydir.get(tag, |at| at == entry(key, 0), |_| ()), Some(()));
        }
    }

    #[test]
    fn errors_end_it() {
        let frames = Frames { unreadable: true, ..Frames::default() };
        let keydir = Keydir::new([7; 16], 32);
        let twice = vec![sorted([(1, entry(1, 1))].into_iter()); 2];
        assert_eq!(keydir.load(&twice, 2, &frames), Err("unreadable"));
    }

    /// Whatever the tags are, and however many entries share one: each frame is read a few times, and
    /// then there are the comparisons of a sort.
    #[test]
    fn loading_is_linear_whatever_the_tags() {
        const KEYS: u32 = 20_000;
        for bits in [1, 3, 6, 12, 32] {
            let keydir = Keydir::new([7; 16], bits);
            let tag = |key: u32| keydir.tag(&key.to_le_bytes());
            let of = |version| sorted((0..KEYS).map(|key| (tag(key), entry(key, version))));
            let frames = Frames::default();
            keydir.load(&[of(0), of(1), of(2)], 2, &frames).unwrap();
            assert_eq!(keydir.len(), u64::from(KEYS));
            let looks = frames.looks() / u64::from(3 * KEYS);
            assert!(looks <= 2 * MAX_COMPARED as u64, "{bits} bits: {looks} looks an entry");
        }
    }

    #[test]
    fn tombstones_leave_no_memory_behind() {
        let keydir = Keydir::new([7; 16], 32);
        let tag = |key: u32| keydir.tag(&key.to_le_bytes());
        let puts = sorted((0..50_000).map(|key| (tag(key), entry(key, 0))));
        let mut deletes = sorted((0..49_000).map(|key| (tag(key), entry(key, 1))));
        deletes.iter_mut().for_each(|entry| entry.tombstone = true);
        keydir.load(&[puts, deletes], 1, &Frames::default()).unwrap();
        assert_eq!(keydir.len(), 1000);
        assert!(keydir.memory() < 1000 * 64, "{} bytes", keydir.memory());
    }

    #[test]
    #[ignore = "a measurement"]
    fn how_fast() {
        const EACH: u32 = 250_000;
        let tag = |n: u32| n.wrapping_mul(0x9e37_79b1);
        let source = |i: u32| {
            let at = |n| LogPosition::new(i + 1, 128 + n * 136);
            sorted((0..EACH).map(|n| (tag(i * EACH + n), at(n))))
        };
        let sources: Vec<_> = (0..20).map(source).collect();
        for threads in [1, 2, 2, 2] {
            let keydir = Keydir::new([7; 16], 32);
            let started = std::time::Instant::now();
            keydir.load(&sources, threads, &Frames::default()).unwrap();
            let time = started.elapsed();
            let rate = keydir.len() as f64 / time.as_secs_f64() / 1e6;
            println!("{threads} threads: {time:?}, {rate:.1} million a second");
            assert_eq!(keydir.len(), u64::from(EACH) * 20);
        }
    }
}
