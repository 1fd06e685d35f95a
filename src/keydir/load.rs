//! Loading many entries at once, when a store is opened.
//!
//! Each thread takes some shards, and goes through the names that belong there part by part. A part is a
//! range of names with so few entries that they fit into the cache. Sources are sorted by name, so the
//! entries of a part are next to each other in each source: they are gathered from all sources, brought
//! into the order of names, and of those with one name the newest is kept. Then the shard's table is
//! made as large as it has to be, and filled from one end to the other.
//!
//! No frame is read: a name stands for a key, and an entry has the length of its frame. The order in
//! which sources come makes no difference, and it does not matter how many entries share a tag or a
//! name: names are spread evenly by their hash, and where they are not, they are sorted.
//!
//! Invariant: of the entries with one name the one with the highest origin is kept, and if two have the
//! same origin (a frame and its copy by a merge), the one with the higher position. A tombstone that is
//! kept gets no slot.

use super::Keydir;
use super::slot::{Slot, shard_of};
use super::table::{self, Table};
use crate::format::hint::KeyName;
use crate::position::LogPosition;
use crate::prefetch::prefetch;
use crate::sync::{Mutex, lock};
use crate::threads::on_threads;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

/// An entry to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LoadEntry {
    pub(crate) name: KeyName,
    /// How new it is.
    pub(crate) origin: LogPosition,
    pub(crate) at: LogPosition,
    /// Bytes of its frame.
    pub(crate) len: u32,
    pub(crate) tombstone: bool,
}

/// Entries to be loaded, sorted by name.
///
/// They need not be known to be sorted, nor to be sound in any other way: a source may find that out as
/// they are read. What it has given out until then is in the keydir, and whoever loads from it has to
/// see to that.
pub(crate) trait LoadSource: Sync {
    /// A place among the entries, and what was found before it.
    type Walk;

    fn len(&self) -> usize;

    /// The first half of the name of an entry.
    fn first_half(&self, nth: usize) -> u64;

    /// Called before entries whose names begin below `end` are read, with a higher one each time.
    fn ask_for(&self, end: Option<u64>);

    /// Begins to go through the entries from one on, the first one whose name begins with `floor` or more.
    fn walk(&self, from: usize, floor: u64) -> Self::Walk;

    /// Goes on, and calls `take` with the entries whose names begin below `end`. If what comes is not
    /// sound, the walk ends there.
    fn each_below(&self, walk: &mut Self::Walk, end: Option<u64>, take: impl FnMut(LoadEntry));

    /// Some of the bytes that a walk reads next, to be prefetched.
    fn bytes_from(&self, walk: &Self::Walk) -> &[u8];

    /// Called when a walk is over, with the number of bytes in its puts that are dead, because their keys
    /// have newer frames.
    fn walked(&self, walk: Self::Walk, dead: u64);
}

/// Shards are filled in at least this many groups, each by one thread, and more if there would be more
/// than about so many entries in each.
const GROUPS: usize = 64;
const EACH_GROUP: usize = 1 << 20;

/// Sources are asked for this many entries ahead of the groups that are being filled, and for at least
/// two groups.
const ASK_AHEAD: usize = 2 << 20;

/// Entries in a part: they and what they are ordered with take some 200 KiB. More, if there are so many
/// sources that each has but a few in a part.
const PART: usize = 4096;
const EACH_SOURCE: usize = 16;
const MAX_PART: usize = 1 << 16;

/// Sources ahead of the one that is read, whose next entries are prefetched, and bytes of each.
const AHEAD: usize = 4;
const AHEAD_BYTES: usize = 512;

impl Keydir {
    /// Loads entries on `threads` threads, in place of what the keydir holds. Returns how often two names
    /// were compared.
    ///
    /// Sources are asked for their entries in the order in which they are needed, some groups ahead: so
    /// the device reads what comes next while threads work on what is there.
    pub(crate) fn load(&self, sources: &[impl LoadSource], threads: usize) -> u64 {
        // Tags of a few bits, in tests, are all in a few shards.
        let tags = 1usize.checked_shl(self.tag_mask().count_ones()).unwrap_or(usize::MAX);
        let shards = self.shards().min(tags);
        let entries: usize = sources.iter().map(LoadSource::len).sum();
        let wanted = (entries / EACH_GROUP).next_power_of_two().max(GROUPS);
        let groups = Range64::ALL.split(shards.min(wanted));
        let ahead = (ASK_AHEAD / (entries / groups.count).max(1)).max(2);
        let (turns, compared) = (Mutex::new(Turns::default()), AtomicU64::new(0));
        let job = || {
            let mut part = Part::new(sources.len());
            // One thread asks at a time, so that each source is asked in order.
            loop {
                let group = lock(&turns).next(groups, ahead, sources);
                let Some(group) = group else { break };
                self.fill(group, group.split(shards / groups.count), sources, &mut part);
            }
            // ORDERING: Relaxed; read when all threads are done.
            compared.fetch_add(part.compared, Ordering::Relaxed);
            Ok::<_, Infallible>(())
        };
        let Ok(()) = on_threads(threads.max(1), job);
        compared.into_inner()
    }

    /// Fills the shards of a group.
    fn fill<S: LoadSource>(&self, group: Range64, shards: Split, sources: &[S], part: &mut Part) {
        let (mut walks, mut count) = (Vec::with_capacity(sources.len()), 0);
        for source in sources {
            let from = first(source, group.start);
            let to = group.end().map_or(source.len(), |end| first(source, end));
            walks.push(source.walk(from, group.start));
            count += to.saturating_sub(from);
        }
        let wanted = (sources.len() * EACH_SOURCE).clamp(PART, MAX_PART);
        let parts = count.div_ceil(wanted * shards.count).next_power_of_two();
        let mut slots = Vec::new();
        for shard in (0..shards.count).map(|nth| shards.nth(nth)) {
            let parts = shard.split(parts);
            for range in (0..parts.count).map(|nth| parts.nth(nth)) {
                part.gather(sources, &mut walks, range.end());
                part.resolve(range, |name, at| slots.push(Slot::new(self.tag_of(name), at)));
            }
            let tag = self.tag_of(KeyName { first: shard.start, second: 0 });
            self.install(shard_of(tag), &slots);
            slots.clear();
        }
        for ((source, walk), dead) in sources.iter().zip(walks).zip(&mut part.dead) {
            source.walked(walk, std::mem::take(dead));
        }
    }

    /// Puts the slots of a shard into its table, and nothing else. They come in the order of their places.
    fn install(&self, shard: usize, slots: &[Slot]) {
        self.clear(shard);
        self.make_room(shard, slots.len());
        let mut table = self.write(shard);
        slots.iter().for_each(|&slot| table::insert(&mut table, slot));
    }

    /// Drops what the keydir was filled with before.
    fn clear(&self, shard: usize) {
        let mut table = self.write(shard);
        if !table.is_empty() {
            *table = Table::new();
        }
    }
}

/// Which group is filled next, and for which ones the sources were asked.
#[derive(Default)]
struct Turns {
    next: usize,
    asked: usize,
}

impl Turns {
    fn next(
        &mut self,
        groups: Split,
        ahead: usize,
        sources: &[impl LoadSource],
    ) -> Option<Range64> {
        let nth = self.next;
        if nth >= groups.count {
            return None;
        }
        self.next += 1;
        while self.asked < (nth + 1).saturating_add(ahead).min(groups.count) {
            let end = groups.nth(self.asked).end();
            sources.iter().for_each(|source| source.ask_for(end));
            self.asked += 1;
        }
        Some(groups.nth(nth))
    }
}

/// A range of first halves of names: a power of two of them, from a multiple of that on.
#[derive(Clone, Copy, Debug)]
struct Range64 {
    start: u64,
    /// How many bits tell its names apart.
    bits: u32,
}

/// A range, split into equal parts.
#[derive(Clone, Copy, Debug)]
struct Split {
    first: Range64,
    count: usize,
}

impl Range64 {
    const ALL: Self = Self { start: 0, bits: 64 };

    /// Where the next one begins, if there is one.
    const fn end(self) -> Option<u64> {
        match 1u64.checked_shl(self.bits) {
            Some(len) => self.start.checked_add(len),
            None => None,
        }
    }

    /// Splits it into a power of two of parts, or fewer.
    fn split(self, parts: usize) -> Split {
        let bits = parts.ilog2().min(self.bits);
        Split { first: Self { start: self.start, bits: self.bits - bits }, count: 1 << bits }
    }

    /// Which of `2^parts` equal parts of it a name is in.
    #[inline]
    const fn part_of(self, parts: u32, name: KeyName) -> usize {
        let within = name.first.wrapping_sub(self.start);
        within.unbounded_shr(self.bits.saturating_sub(parts)) as usize & ((1 << parts) - 1)
    }
}

impl Split {
    const fn nth(self, nth: usize) -> Range64 {
        let Range64 { start, bits } = self.first;
        // Of a range that is not split there is no other part.
        let offset = if nth == 0 { 0 } else { (nth as u64) << bits };
        Range64 { start: start + offset, bits }
    }
}

/// The index of the first entry whose name begins with at least this. Names are spread evenly, so the
/// place is estimated, and searched from there with steps that grow.
fn first(source: &impl LoadSource, half: u64) -> usize {
    let len = source.len();
    let is_below = |nth: usize| source.first_half(nth) < half;
    let estimate = ((u128::from(half) * len as u128) >> 64) as usize;
    // All before `low` are below, and none from `high` on.
    let (mut low, mut high, mut step) = (0, len, 64);
    if estimate < len && is_below(estimate) {
        low = estimate + 1;
        while low + step < high {
            if !is_below(low + step) {
                high = low + step;
                break;
            }
            low += step + 1;
            step *= 2;
        }
    } else {
        high = estimate.min(len);
        while low + step < high {
            if is_below(high - step) {
                low = high - step + 1;
                break;
            }
            high -= step;
            step *= 2;
        }
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if is_below(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// An entry in a part.
#[derive(Clone, Copy)]
struct Gathered {
    name: KeyName,
    origin: LogPosition,
    /// Its position, with a mark for a tombstone: positions are multiples of 8.
    at: u64,
    len: u32,
    source: u32,
}

impl Gathered {
    const TOMBSTONE: u64 = 1;

    const fn is_tombstone(&self) -> bool {
        self.at & Self::TOMBSTONE != 0
    }

    const fn position(&self) -> LogPosition {
        LogPosition::from_u64(self.at & !Self::TOMBSTONE)
    }

    /// By what entries are sorted.
    #[inline]
    const fn age(&self) -> (KeyName, LogPosition, u64) {
        (self.name, self.origin, self.at)
    }
}

/// The entries of a part, and room to order them. Used for one part after the other.
struct Part {
    entries: Vec<Gathered>,
    /// Indices of entries, in the order of their buckets.
    order: Vec<u32>,
    /// Where each bucket ends in it.
    ends: Vec<u32>,
    /// For each source, the bytes in puts that are dead.
    dead: Vec<u64>,
    compared: u64,
}

impl Part {
    fn new(sources: usize) -> Self {
        let (entries, order, ends) = (Vec::new(), Vec::new(), Vec::new());
        Self { entries, order, ends, dead: vec![0; sources], compared: 0 }
    }

    /// Takes the next entries of all sources whose names begin below `end`.
    fn gather<S: LoadSource>(&mut self, sources: &[S], walks: &mut [S::Walk], end: Option<u64>) {
        for (nth, source) in sources.iter().enumerate() {
            if let Some(ahead) = sources.get(nth + AHEAD) {
                let bytes = ahead.bytes_from(&walks[nth + AHEAD]);
                let bytes = &bytes[..bytes.len().min(AHEAD_BYTES)];
                bytes.chunks(64).for_each(|line| prefetch(line.as_ptr()));
            }
            source.each_below(&mut walks[nth], end, |entry| self.take(entry, nth));
        }
    }

    #[inline]
    fn take(&mut self, entry: LoadEntry, source: usize) {
        let mark = if entry.tombstone { Gathered::TOMBSTONE } else { 0 };
        let LoadEntry { name, origin, at, len, .. } = entry;
        let at = at.as_u64() | mark;
        self.entries.push(Gathered { name, origin, at, len, source: source as u32 });
    }

    /// Calls `keep` with the newest entry of each name, in the order of names, unless it is a tombstone.
    fn resolve(&mut self, range: Range64, mut keep: impl FnMut(KeyName, LogPosition)) {
        self.distribute(range);
        let mut from = 0;
        for nth in 0..self.ends.len() {
            let to = self.ends[nth] as usize;
            let end = match to - from {
                0 | 1 => to,
                2 => self.resolve_pair(from),
                _ => self.resolve_bucket(from, to),
            };
            for &index in &self.order[from..end] {
                let entry = &self.entries[index as usize];
                if !entry.is_tombstone() {
                    keep(entry.name, entry.position());
                }
            }
            from = to;
        }
        self.entries.clear();
    }

    /// Distributes the entries over about as many buckets, by the first bits in which their names may
    /// differ.
    fn distribute(&mut self, range: Range64) {
        let bits = self.entries.len().next_power_of_two().ilog2();
        self.ends.clear();
        self.ends.resize((1 << bits) + 1, 0);
        for entry in &self.entries {
            self.ends[range.part_of(bits, entry.name) + 1] += 1;
        }
        let mut sum = 0;
        for end in &mut self.ends {
            sum += *end;
            *end = sum;
        }
        // Each is where its bucket begins, and moves to where that ends.
        self.order.resize(self.entries.len(), 0);
        for (index, entry) in self.entries.iter().enumerate() {
            let place = &mut self.ends[range.part_of(bits, entry.name)];
            self.order[*place as usize] = index as u32;
            *place += 1;
        }
        self.ends.pop();
    }

    /// As `resolve_bucket`, for a bucket of two, as most buckets are that have more than one entry.
    #[inline]
    fn resolve_pair(&mut self, from: usize) -> usize {
        self.compared += 1;
        let [first, second] = [self.order[from], self.order[from + 1]];
        let [one, other] = [first, second].map(|index| self.entries[index as usize]);
        let is_later = one.age() > other.age();
        if is_later {
            (self.order[from], self.order[from + 1]) = (second, first);
        }
        if one.name != other.name {
            return from + 2;
        }
        self.bury(if is_later { &other } else { &one });
        self.order[from] = self.order[from + 1];
        from + 1
    }

    /// Sorts a bucket, and moves the newest entry of each name to its front. Returns where those end.
    fn resolve_bucket(&mut self, from: usize, to: usize) -> usize {
        let (entries, compared) = (&self.entries, &mut self.compared);
        self.order[from..to].sort_unstable_by(|&a, &b| {
            *compared += 1;
            entries[a as usize].age().cmp(&entries[b as usize].age())
        });
        let mut end = from;
        for nth in from..to {
            let index = self.order[nth];
            let entry = self.entries[index as usize];
            let next = self.order[nth + 1..to].first();
            if next.is_some_and(|&next| self.entries[next as usize].name == entry.name) {
                self.bury(&entry);
                continue;
            }
            self.order[end] = index;
            end += 1;
        }
        end
    }

    /// Counts an entry that has a newer one.
    #[inline]
    fn bury(&mut self, entry: &Gathered) {
        if !entry.is_tombstone() {
            self.dead[entry.source as usize] += u64::from(entry.len);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::format::hint::KeyName;
    use std::sync::atomic::AtomicU64;

    /// The position for a version of a key: the segment stands for the key, the offset for the version.
    pub(in crate::keydir) fn entry(key: u32, version: u32) -> LogPosition {
        LogPosition::new(key + 1, 128 + version * 8)
    }

    /// Entries in order, and the bytes that were dropped.
    #[derive(Default)]
    pub(in crate::keydir) struct Source(Vec<LoadEntry>, AtomicU64);

    impl Source {
        pub(in crate::keydir) fn of(entries: impl Iterator<Item = LoadEntry>) -> Self {
            let mut all: Vec<_> = entries.collect();
            all.sort_unstable();
            Self(all, AtomicU64::new(0))
        }

        /// Puts, one of each key.
        pub(in crate::keydir) fn puts(all: impl Iterator<Item = (KeyName, LogPosition)>) -> Self {
            Self::of(all.map(|(name, at)| put(name, at)))
        }

        fn dead(&self) -> u64 {
            self.1.load(Ordering::Relaxed)
        }
    }

    impl LoadSource for Source {
        type Walk = usize;

        fn len(&self) -> usize {
            self.0.len()
        }

        fn first_half(&self, nth: usize) -> u64 {
            self.0[nth].name.first
        }

        fn ask_for(&self, _: Option<u64>) {}

        fn walk(&self, from: usize, _: u64) -> usize {
            from
        }

        fn each_below(&self, from: &mut usize, end: Option<u64>, take: impl FnMut(LoadEntry)) {
            let is_below = |entry: &&LoadEntry| end.is_none_or(|end| entry.name.first < end);
            *from += self.0[*from..].iter().take_while(is_below).copied().map(take).count();
        }

        fn bytes_from(&self, _: &usize) -> &[u8] {
            &[]
        }

        fn walked(&self, _: usize, dead: u64) {
            self.1.fetch_add(dead, Ordering::Relaxed);
        }
    }

    fn put(name: KeyName, at: LogPosition) -> LoadEntry {
        LoadEntry { name, origin: at, at, len: 8, tombstone: false }
    }

    fn all(keydir: &Keydir) -> Vec<LogPosition> {
        let all = std::sync::Mutex::new(Vec::new());
        keydir.find(|at| {
            all.lock().unwrap().push(at);
            false
        });
        let mut all = all.into_inner().unwrap();
        all.sort_unstable();
        all
    }

    /// Keys of each source, with versions, one in seven of them a tombstone, and some of them moved: so
    /// their places say nothing of their age.
    fn sources(keydir: &Keydir) -> Vec<Source> {
        let one = |source: u32, n: u32| {
            let key = (n * 7 + source * 13) % 3000;
            let version = (source * 5 + n) % 11;
            let origin = entry(key, version);
            let moved = LogPosition::new(10_000 - key, 128 + (10 - version) * 8);
            let at = if (key ^ version) & 1 == 0 { origin } else { moved };
            // The same for all that is said of a version.
            let tombstone = (key + version).is_multiple_of(7);
            let len = 8 * (version + 1);
            LoadEntry { name: keydir.name(&key.to_le_bytes()), origin, at, len, tombstone }
        };
        (0..4).map(|source| Source::of((0..2500).map(|n| one(source, n)))).collect()
    }

    /// What loading must give: the slots, and the dead bytes of all sources together.
    fn expected(sources: &[Source]) -> (Vec<LogPosition>, u64) {
        let mut all: Vec<_> = sources.iter().flat_map(|source| &source.0).copied().collect();
        all.sort_unstable();
        let (mut slots, mut dead) = (Vec::new(), 0);
        for same in all.chunk_by(|a, b| a.name == b.name) {
            let (newest, older) = same.split_last().unwrap();
            slots.extend((!newest.tombstone).then_some(newest.at));
            let puts = older.iter().filter(|entry| !entry.tombstone);
            dead += puts.map(|entry| u64::from(entry.len)).sum::<u64>();
        }
        slots.sort_unstable();
        (slots, dead)
    }

    #[test]
    fn loading_is_the_same_in_every_order_and_with_any_hash() {
        let keydirs: [fn() -> Keydir; 6] = [
            || Keydir::new([7; 16], 32),
            || Keydir::new([7; 16], 10),
            || Keydir::new([7; 16], 2),
            || Keydir::new([7; 16], 32).with_bits_of_first_half(40),
            || Keydir::new([7; 16], 32).with_bits_of_first_half(5),
            || Keydir::new([7; 16], 32).with_bits_of_first_half(0),
        ];
        for (nth, of) in keydirs.iter().enumerate() {
            let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]];
            for (n, order) in orders.iter().enumerate() {
                let keydir = of();
                let mut sources: Vec<_> = sources(&keydir).into_iter().map(Some).collect();
                let sources: Vec<_> = order.iter().filter_map(|&i| sources[i].take()).collect();
                let (slots, dead) = expected(&sources);
                keydir.load(&sources, n + 1);
                assert_eq!(all(&keydir), slots, "hash {nth}, order {n}");
                assert_eq!(sources.iter().map(Source::dead).sum::<u64>(), dead);
                // Each slot is found by its tag.
                let newest = sources.iter().flat_map(|source| &source.0);
                for entry in newest.filter(|entry| slots.binary_search(&entry.at).is_ok()) {
                    let tag = keydir.tag_of(entry.name);
                    assert!(keydir.get(tag, |at| at == entry.at, |_| ()).is_some());
                }
            }
        }
    }

    /// Both halves of a name are needed to tell keys apart, and either is enough.
    #[test]
    fn names_that_differ_in_one_half_are_two_keys() {
        let names = [(1, 1), (1, 2), (2, 1), (2, 2), (7, 3), (8, 3), (u64::MAX, 0), (0, u64::MAX)];
        let name = |(first, second)| KeyName { first, second };
        let entries = names.iter().zip(0..).map(|(&half, n)| (name(half), entry(n, 0)));
        let again = names.iter().zip(0..).map(|(&half, n)| (name(half), entry(n, 1)));
        let keydir = Keydir::new([7; 16], 32);
        let sources = [Source::puts(again), Source::puts(entries)];
        keydir.load(&sources, 1);
        assert_eq!(all(&keydir), (0..8).map(|n| entry(n, 1)).collect::<Vec<_>>());
        assert_eq!(sources.map(|source| source.dead()), [0, 8 * 8]);
        for two in [[(1, 1), (1, 2)], [(1, 1), (2, 1)]] {
            let keydir = Keydir::new([7; 16], 32);
            let one = |half| Source::puts(std::iter::once((name(half), entry(0, half.1 as u32))));
            keydir.load(&two.map(one), 1);
            assert_eq!(keydir.len(), 2);
        }
    }

    /// Few entries, so that there are buckets of two and of three: in each the newest is kept.
    #[test]
    fn of_two_versions_and_of_three_the_newest_is_kept() {
        for versions in 2..5 {
            for first in 0..versions {
                let keydir = Keydir::new([7; 16], 32);
                let name = keydir.name(b"key");
                let one = |version| Source::puts(std::iter::once((name, entry(1, version))));
                let order = (0..versions).map(|nth| (first + nth) % versions);
                let sources: Vec<_> = order.map(one).collect();
                keydir.load(&sources, 1);
                assert_eq!(all(&keydir), [entry(1, versions - 1)]);
                let dead: u64 = sources.iter().map(Source::dead).sum();
                assert_eq!(dead, 8 * u64::from(versions - 1));
            }
        }
    }

    /// A frame and its copy: which of the two it is depends on nothing else.
    #[test]
    fn of_one_origin_the_higher_place_is_kept() {
        let keydir = Keydir::new([7; 16], 32);
        let name = keydir.name(b"key");
        let (here, copy) = (entry(1, 0), entry(9, 0));
        for order in [[here, copy], [copy, here]] {
            let one = |at| Source::of([LoadEntry { origin: here, ..put(name, at) }].into_iter());
            let keydir = Keydir::new([7; 16], 32);
            keydir.load(&order.map(one), 1);
            assert_eq!(all(&keydir), [copy]);
        }
    }

    #[test]
    fn what_is_loaded_is_found() {
        // Miri takes a thousand times as long.
        const KEYS: u32 = if cfg!(miri) { 1000 } else { 200_000 };
        let keydir = Keydir::new([7; 16], 32);
        let name = |key: u32| keydir.name(&key.to_le_bytes());
        let of = |i: u32| {
            let keys = (0..KEYS).filter(|key| key % 5 == i);
            Source::puts(keys.map(|key| (name(key), entry(key, 0))))
        };
        let sources: Vec<_> = (0..5).map(of).collect();
        keydir.load(&sources, 2);
        assert_eq!(keydir.len(), u64::from(KEYS));
        for key in 0..KEYS {
            let tag = keydir.tag(&key.to_le_bytes());
            assert_eq!(keydir.get(tag, |at| at == entry(key, 0), |_| ()), Some(()));
        }
    }

    #[test]
    fn the_first_entry_from_a_half_on_is_found() {
        let halves: [&[u64]; 7] = [
            &[],
            &[0],
            &[u64::MAX],
            &[5; 300],
            &[u64::MAX; 300],
            &[1, 2, 3, u64::MAX - 2, u64::MAX - 1],
            &[0, 1 << 62, 1 << 63, 3 << 62],
        ];
        let spread: Vec<u64> =
            (0..5000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        for halves in halves.into_iter().chain([&spread[..]]) {
            let names = halves.iter().map(|&first| KeyName { first, second: 0 });
            let source = Source::puts(names.zip((0..).map(|n| entry(n, 0))));
            let wanted = halves.iter().flat_map(|&half| [half, half.wrapping_add(1)]);
            for half in wanted.chain([0, 1, 6, 1 << 63, u64::MAX]) {
                let below = source.0.partition_point(|entry| entry.name.first < half);
                assert_eq!(first(&source, half), below, "{half:x}");
            }
        }
    }

    /// Whatever the names are, and however many entries share one: the work is that of a sort.
    #[test]
    fn loading_takes_n_log_n_whatever_the_names() {
        const KEYS: u32 = 20_000;
        for bits in [0, 3, 6, 12, 64] {
            let keydir = Keydir::new([7; 16], 32).with_bits_of_first_half(bits);
            let name = |key: u32| keydir.name(&key.to_le_bytes());
            let of = |version| Source::puts((0..KEYS).map(|key| (name(key), entry(key, version))));
            let compared = keydir.load(&[of(0), of(1), of(2)], 2);
            assert_eq!(keydir.len(), u64::from(KEYS));
            let each = compared / u64::from(3 * KEYS);
            // The binary logarithm of 60,000 is 16.
            assert!(each <= 2 * 16, "{bits} bits: {each} comparisons an entry");
        }
        // All of one key.
        let keydir = Keydir::new([7; 16], 32);
        let name = keydir.name(b"key");
        let versions = Source::puts((0..KEYS).map(|version| (name, entry(0, version))));
        let compared = keydir.load(&[versions], 1);
        assert_eq!(keydir.len(), 1);
        assert!(compared <= u64::from(KEYS) * 2 * 16, "{compared}");
    }

    #[test]
    fn tombstones_leave_no_memory_behind() {
        let keydir = Keydir::new([7; 16], 32);
        let name = |key: u32| keydir.name(&key.to_le_bytes());
        let puts = Source::puts((0..50_000).map(|key| (name(key), entry(key, 0))));
        let delete = |key| LoadEntry { tombstone: true, ..put(name(key), entry(key, 1)) };
        let deletes = Source::of((0..49_000).map(delete));
        keydir.load(&[puts, deletes], 1);
        assert_eq!(keydir.len(), 1000);
        assert!(keydir.memory() < 1000 * 64, "{} bytes", keydir.memory());
    }

    #[test]
    #[ignore = "a measurement"]
    fn how_fast() {
        const EACH: u32 = 250_000;
        const SOURCES: u32 = 20;
        let keydir = Keydir::new([7; 16], 32);
        for again in [1, 2] {
            let source = |i: u32| {
                let at = |n| LogPosition::new(i + 1, 128 + n * 136);
                let key = |n: u32| (i * EACH + n) % (EACH * SOURCES / again);
                Source::puts((0..EACH).map(|n| (keydir.name(&key(n).to_le_bytes()), at(n))))
            };
            let sources: Vec<_> = (0..SOURCES).map(source).collect();
            for threads in [1, 2, 2, 2] {
                let keydir = Keydir::new([7; 16], 32);
                let started = std::time::Instant::now();
                keydir.load(&sources, threads);
                let time = started.elapsed();
                let rate = f64::from(EACH * SOURCES) / time.as_secs_f64() / 1e6;
                println!("{threads} threads: {time:?}, {rate:.1} million entries a second");
                assert_eq!(keydir.len(), u64::from(EACH * SOURCES / again));
            }
        }
    }
}
