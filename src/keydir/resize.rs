//! A shard's table gets room, or gives memory back.
//!
//! Whoever finds no room for a slot unlocks all shards that it has locked, makes room, and begins again. To make
//! room is to replace the table by a larger one, and that takes time of three kinds: memory for the new table,
//! each page of which the kernel provides and clears when it is first touched (0.5 to 9 us in a virtual
//! machine, some 400 pages in a store of 100 million keys); moving the slots; and giving the old table's pages
//! back. Only the second is done while others wait for the shard.
//!
//! Invariant: while a thread has any shard locked, it neither allocates nor frees a table, and whatever it
//! touches of one has been touched before.
//!
//! Who replaces a table holds the shard's mutex from before the new one is allocated until it is in place, so no
//! two threads make one for the same shard. Readers and writers that need no room go on meanwhile, so the table
//! is looked at again under its lock before the new one takes its place: slots may have come and gone.
//! The mutex comes before the lock, and nobody waits for it with a shard locked.
//!
//! While a store fills, its background thread replaces tables that will soon be full, so that most writers never
//! have to. A store whose keys are not getting more takes no memory ahead.

use super::table::{self, Table};
use super::{Crowded, Keydir, SparseShard};
use crate::sync::lock;

/// A smaller table than this is replaced in less than a tenth of a millisecond.
const WORTH: usize = if cfg!(test) { 1 << 12 } else { 1 << 17 };

/// How fast keys are added.
#[derive(Debug, Default)]
pub(crate) struct FillRate {
    keys: Option<u64>,
}

impl FillRate {
    /// How many keys will be added soon, if it goes on as since it was last asked: until it has been asked
    /// 16 times more.
    fn soon(&mut self, keys: u64) -> usize {
        let last = self.keys.replace(keys).unwrap_or(keys);
        keys.saturating_sub(last) as usize * 16
    }
}

impl Keydir {
    /// Makes room for this many slots more in a shard. Others may use it up: who needs it looks again.
    #[cold]
    #[inline(never)]
    pub(super) fn make_room(&self, shard: usize, more: usize) {
        let found = self.replace(shard, |table| table::larger(table, more));
        assert!(found.is_some(), "out of memory: no room for {more} more keys in a table");
    }

    /// Makes room in shards that had too little.
    #[cold]
    pub(crate) fn relieve(&self, crowded: Crowded) {
        crowded.0.into_iter().for_each(|(shard, more)| self.make_room(shard, more));
    }

    /// Gives memory back, where tables are still sparse.
    #[inline]
    pub(crate) fn shrink(&self, sparse: impl IntoIterator<Item = SparseShard>) {
        sparse.into_iter().for_each(|SparseShard(shard)| self.shrink_shard(shard));
    }

    #[cold]
    #[inline(never)]
    fn shrink_shard(&self, shard: usize) {
        // If there is no memory for a smaller table, it stays as it is.
        let _ = self.replace(shard, table::smaller);
    }

    /// Called now and then. Replaces large tables that will soon be full, as fast as keys have been added since
    /// the last call.
    pub(crate) fn grow_ahead(&self, rate: &mut FillRate, mut stop: impl FnMut() -> bool) {
        let soon = rate.soon(self.len()) / self.shards();
        if soon == 0 {
            return;
        }
        let wanted = |table: &Table| {
            // At most an eighth early.
            let more = soon.min(table.capacity() / 8);
            (table.buckets() * table::EACH >= WORTH).then(|| table::larger(table, more)).flatten()
        };
        for shard in 0..self.shards() {
            if stop() {
                return;
            }
            if wanted(&self.read(shard)).is_some() {
                // If there is no memory for a larger table, who needs it finds out.
                let _ = self.replace(shard, wanted);
            }
        }
    }

    /// Replaces a table by one of another capacity until none is `wanted`. `None`: there is no memory.
    fn replace(&self, shard: usize, wanted: impl Fn(&Table) -> Option<usize>) -> Option<()> {
        let _alone = lock(&self.resizing[shard]);
        loop {
            let found = wanted(&self.read(shard));
            let Some(capacity) = found else { return Some(()) };
            let new = table::allocate(capacity)?;
            let mut table = self.write(shard);
            let has_room = wanted(&table).is_some_and(|capacity| capacity <= new.capacity());
            let unused = if has_room { table::move_into(&mut table, new) } else { new };
            drop(table);
            table::free(unused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::tests::{Source, entry};
    use super::super::slot::shard_of;
    use super::super::table::hook;
    use super::*;
    use crate::position::LogPosition;
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::thread::ScopedJoinHandle;

    /// Tags of different keys, all in four shards.
    fn tag(n: u32) -> u32 {
        (n % 4) << 30 | (n.wrapping_mul(0x9e37_79b1) >> 10)
    }

    fn position(n: u32) -> LogPosition {
        LogPosition::new(n + 1, 128)
    }

    fn insert(keydir: &Keydir, n: u32) {
        keydir.entry(tag(n), |at| at == position(n)).set(position(n));
    }

    fn insert_together(keydir: &Keydir, keys: &[u32]) {
        let tags: Vec<_> = keys.iter().map(|&n| tag(n)).collect();
        let mut entries = loop {
            let entries = keydir.entries(&tags);
            let Some(crowded) = entries.crowded(tags.iter().copied()) else { break entries };
            drop(entries);
            keydir.relieve(crowded);
        };
        for (&n, &tag) in keys.iter().zip(&tags) {
            entries.entry(tag, |at| at == position(n)).set(position(n));
        }
    }

    fn remove(keydir: &Keydir, n: u32) {
        keydir.shrink(keydir.entry(tag(n), |at| at == position(n)).remove());
    }

    fn has(keydir: &Keydir, n: u32) -> bool {
        keydir.get(tag(n), |at| at == position(n), |_| ()).is_some()
    }

    /// A keydir, and how often tables of it were allocated or freed. Fails if any shard is locked then.
    fn watched() -> (Arc<Keydir>, Rc<Cell<u32>>) {
        let keydir = Arc::new(Keydir::new([7; 16], 32));
        let count = Rc::new(Cell::new(0));
        let hook = {
            let (keydir, count) = (keydir.clone(), count.clone());
            move || {
                count.set(count.get() + 1);
                assert!(keydir.map.shards().iter().all(|shard| shard.try_write().is_some()));
            }
        };
        hook::set(Some(Box::new(hook)));
        (keydir, count)
    }

    const KEYS: u32 = if cfg!(miri) { 200 } else { 5000 };

    #[test]
    fn no_shard_is_locked_while_a_table_is_allocated_or_freed() {
        let (keydir, count) = watched();
        (0..KEYS).for_each(|n| insert(&keydir, n));
        assert!(count.take() > 20);
        let more: Vec<_> = (KEYS..3 * KEYS).collect();
        more.chunks(100).for_each(|keys| insert_together(&keydir, keys));
        assert!(count.take() >= 8);
        (0..3 * KEYS).for_each(|n| assert!(has(&keydir, n)));
        (1..3 * KEYS).for_each(|n| remove(&keydir, n));
        assert!(count.take() >= 8);
        assert!(has(&keydir, 0) && keydir.len() == 1);
        let (keydir, count) = watched();
        let name = |n: u32| keydir.name(&n.to_le_bytes());
        keydir.load(&[Source::puts((0..KEYS).map(|n| (name(n), entry(n, 0))))], 1);
        assert!(keydir.len() == KEYS.into() && count.take() >= 100);
        hook::set(None);
    }

    #[test]
    fn what_has_room_is_not_replaced() {
        let (keydir, count) = watched();
        (0..KEYS).for_each(|n| insert(&keydir, n));
        count.take();
        // Overwrites, also where a table is full.
        let has_room = |n: &u32| {
            let table = keydir.map.shards()[shard_of(tag(*n))].read();
            table::has_room(&table, 1)
        };
        (KEYS..8 * KEYS).filter(has_room).for_each(|n| insert(&keydir, n));
        assert!((0..4).all(|n| !has_room(&n)));
        assert_eq!(count.take(), 0);
        (0..KEYS).for_each(|n| insert(&keydir, n));
        let all: Vec<_> = (0..KEYS).collect();
        let tags: Vec<_> = all.iter().map(|&n| tag(n)).collect();
        assert!(keydir.entries(&tags).crowded(std::iter::empty()).is_none());
        assert_eq!(count.take(), 0);
        hook::set(None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes long")]
    fn tables_grow_ahead_while_keys_are_added() {
        let (keydir, count) = watched();
        // Spread evenly.
        let insert = |from: u32, to: u32| {
            for n in from << 10..to << 10 {
                let tag = n.wrapping_mul(0x9e37_79b1);
                keydir.entry(tag, |at| at == position(n)).set(position(n));
            }
        };
        let (mut rate, shards) = (FillRate::default(), keydir.shards() as u32);
        // 448 fit into a table that then has less than 8 KiB.
        insert(0, 440);
        count.take();
        keydir.grow_ahead(&mut rate, || false);
        keydir.grow_ahead(&mut rate, || false);
        assert_eq!(count.take(), 0, "no keys are added");
        insert(440, 442);
        count.take();
        keydir.grow_ahead(&mut rate, || true);
        assert_eq!(count.take(), 0, "it is to stop");
        insert(442, 444);
        count.take();
        keydir.grow_ahead(&mut rate, || false);
        assert!(count.take() > shards);
        insert(444, 600);
        assert_eq!(count.take(), 0, "there is room");
        // Half of the room is left, however fast it goes.
        keydir.grow_ahead(&mut rate, || false);
        assert_eq!(count.take(), 0);
        hook::set(None);
    }

    #[test]
    fn shards_are_crowded_if_they_lack_room_for_all() {
        let keydir = Keydir::new([7; 16], 32);
        let tags: Vec<_> = (0..40).map(tag).collect();
        let crowded = |count: usize| {
            let entries = keydir.entries(&tags);
            entries.crowded(tags[..count].iter().copied()).map(|Crowded(all)| all)
        };
        assert_eq!(crowded(0), None);
        assert_eq!(crowded(6), Some(vec![(0, 2), (256, 2), (512, 1), (768, 1)]));
        keydir.relieve(Crowded(vec![(0, 2), (512, 1)]));
        assert_eq!(crowded(6), Some(vec![(256, 2), (768, 1)]));
        keydir.relieve(Crowded(vec![(256, 3), (768, 3)]));
        assert_eq!(crowded(12), None);
        assert_eq!(crowded(13), Some(vec![(0, 4)]));
        keydir.relieve(Crowded(vec![(0, 10), (256, 10), (512, 10), (768, 10)]));
        assert_eq!(crowded(40), None);
    }

    /// While a larger table is allocated, others use up what room the old one has.
    #[test]
    fn a_table_that_was_filled_meanwhile_is_replaced_by_one_with_room() {
        let keydir = Arc::new(Keydir::new([7; 16], 32));
        let all: Vec<_> = (0..28).map(|n| n * 4).collect();
        all[..20].iter().for_each(|&n| insert(&keydir, n));
        assert_eq!(keydir.map.shards()[0].read().capacity(), 28);
        let others = keydir.clone();
        let late = all[20..].to_vec();
        hook::set(Some(Box::new(move || late.iter().for_each(|&n| insert(&others, n)))));
        // Just fits, with 20 slots.
        keydir.make_room(0, 36);
        hook::set(None);
        let table = keydir.map.shards()[0].read();
        assert!(table.len() == 28 && table::has_room(&table, 36));
        drop(table);
        assert!(all.iter().all(|&n| has(&keydir, n)));
    }

    /// While a smaller table is allocated, others add slots.
    #[test]
    fn a_table_that_is_sparse_no_longer_stays() {
        let keydir = Arc::new(Keydir::new([7; 16], 32));
        keydir.make_room(0, 1000);
        let buckets = keydir.map.shards()[0].read().buckets();
        (0..10).for_each(|n| insert(&keydir, n * 4));
        let others = keydir.clone();
        hook::set(Some(Box::new(move || (10..900).for_each(|n| insert(&others, n * 4)))));
        keydir.shrink(Some(SparseShard(0)));
        hook::set(None);
        assert_eq!(keydir.map.shards()[0].read().buckets(), buckets);
        assert!((0..900).all(|n| has(&keydir, n * 4)));
    }

    /// Faults of the calling thread that needed no device.
    #[cfg(target_os = "linux")]
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, after_name) = stat.rsplit_once(')').unwrap();
        after_name.split_whitespace().nth(7).unwrap().parse().unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    #[cfg_attr(miri, ignore = "it has no page faults")]
    fn all_pages_of_a_new_table_have_been_touched() {
        // So large that malloc maps it, and no page of it was used before.
        const SLOTS: u32 = 4 << 20;
        let mut table = table::allocate(SLOTS as usize).unwrap();
        let before = faults();
        for n in (0..SLOTS).step_by(64) {
            table::insert(&mut table, super::super::slot::Slot::new(n, position(n)));
        }
        let faults = faults() - before;
        assert!(faults < 100, "{faults} faults");
        table::free(table);
    }

    /// Shards grow and shrink beside everything else; keys that are there throughout are found by all.
    #[test]
    fn tables_are_replaced_beside_readers_and_writers() {
        let keydir = Keydir::new([7; 16], 32);
        const STAY: u32 = 500;
        let rounds = if cfg!(miri) { 1 } else { 5 };
        (0..STAY).for_each(|n| insert(&keydir, n));
        let own = |nth: u32| STAY + nth * KEYS..STAY + (nth + 1) * KEYS;
        std::thread::scope(|scope| {
            let keydir = &keydir;
            let writers: Vec<_> = (0..4)
                .map(|nth| {
                    scope.spawn(move || {
                        let keys: Vec<_> = own(nth).collect();
                        let insert_all = || match nth {
                            0 | 1 => keys.iter().for_each(|&n| insert(keydir, n)),
                            _ => keys.chunks(70).for_each(|keys| insert_together(keydir, keys)),
                        };
                        for _ in 0..rounds {
                            insert_all();
                            keys.iter().for_each(|&n| remove(keydir, n));
                        }
                        insert_all();
                    })
                })
                .collect();
            let tags: Vec<_> = (0..32).map(tag).collect();
            while !writers.iter().all(ScopedJoinHandle::is_finished) {
                (0..STAY).for_each(|n| assert!(has(keydir, n)));
                let mut found = [false; 32];
                let is = |nth: usize, at| at == position(nth as u32);
                let first =
                    keydir.read_all(&tags).slots(&tags, |nth, at| found[nth] |= is(nth, at));
                for (nth, first) in first.into_iter().enumerate() {
                    assert!(found[nth] || first.is_some_and(|at| is(nth, at)));
                }
                let mut times = [0; STAY as usize];
                for shard in (0..4).map(|n| shard_of(tag(n))) {
                    keydir.each_position(shard, |some| {
                        let stay = some.iter().filter(|at| at.segment() <= STAY);
                        stay.for_each(|at| times[at.segment() as usize - 1] += 1);
                    });
                }
                assert_eq!(times, [1; STAY as usize]);
            }
        });
        assert_eq!(keydir.len(), u64::from(STAY + 4 * KEYS));
        (0..STAY + 4 * KEYS).for_each(|n| assert!(has(&keydir, n)));
    }
}
