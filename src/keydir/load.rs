//! Loading many entries at once, for opening.
//!
//! Sources are sorted by tag, and so are the places in the tables. So each thread takes a shard, makes
//! its table as large as it will have to be, and fills it part by part: from every source the entries
//! that belong there, which are next to each other, while the part stays in the cache. In which order
//! entries of one key come makes no difference.

use super::table::{self, Table, hash};
use super::{Keydir, SHARDS, Slot};
use crate::position::LogPosition;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an entry to be loaded is to one that is there with the same tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Another key.
    Other,
    /// It replaces it.
    Newer,
    /// It is dropped.
    Older,
}

/// Entries to be loaded, growing by their tags.
pub(crate) trait Source: Sync {
    fn len(&self) -> usize;
    fn get(&self, nth: usize) -> (u32, LogPosition);
}

/// Bytes of a table that are filled at a time.
const PART: usize = 128 << 10;

impl Keydir {
    /// Loads entries on `threads` threads. `resolve(old, new)` says what `new` is to `old`, both
    /// with the same tag. Entries of one key are in a total order by it.
    ///
    /// After an error, some entries are loaded, and some are not.
    pub(crate) fn load<E: Send>(
        &self,
        sources: &[impl Source],
        threads: usize,
        resolve: impl Fn(LogPosition, LogPosition) -> Result<Fate, E> + Sync,
    ) -> Result<(), E> {
        let next = AtomicUsize::new(0);
        let job = || {
            loop {
                // ORDERING: Relaxed; each number is drawn once.
                let shard = next.fetch_add(1, Ordering::Relaxed);
                if shard >= SHARDS {
                    return Ok(());
                }
                self.fill(shard, sources, &resolve)?;
            }
        };
        on_threads(threads.max(1), job)
    }

    fn fill<E>(
        &self,
        shard: usize,
        sources: &[impl Source],
        resolve: &impl Fn(LogPosition, LogPosition) -> Result<Fate, E>,
    ) -> Result<(), E> {
        // Tags as 64 bits: the end of the last shard is not one of 32.
        let of_shard = 32 - SHARDS.ilog2();
        let (start, end) = ((shard as u64) << of_shard, (shard as u64 + 1) << of_shard);
        let mut next: Vec<_> = sources.iter().map(|source| first(source, start)).collect();
        let ends = sources.iter().map(|source| first(source, end));
        let count = ends.zip(&next).map(|(end, next)| end - next).sum();
        let mut table = self.map.shards()[shard].write();
        table::reserve(&mut table, count);
        let parts = (table.buckets() * table::EACH / PART).next_power_of_two() as u64;
        for part in 1..=parts {
            let end = start + (part << of_shard) / parts;
            for (source, next) in sources.iter().zip(&mut next) {
                while *next < source.len() {
                    let (tag, at) = source.get(*next);
                    if u64::from(tag) >= end {
                        break;
                    }
                    let slot = Slot { tag, position: at.as_u64() };
                    load_slot(&mut table, slot, resolve)?;
                    *next += 1;
                }
            }
        }
        // There was room for each entry, and of one key there may have been many.
        table::shrink(&mut table);
        Ok(())
    }
}

/// The index of the first entry with a tag of at least this.
fn first(source: &impl Source, tag: u64) -> usize {
    let (mut low, mut high) = (0, source.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if u64::from(source.get(middle).0) < tag {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn load_slot<E>(
    table: &mut Table,
    new: Slot,
    resolve: &impl Fn(LogPosition, LogPosition) -> Result<Fate, E>,
) -> Result<(), E> {
    let mut fate = Ok(Fate::Other);
    let there = table.get_mut(hash(table, new.tag), |(old, _)| {
        if old.tag == new.tag {
            fate = resolve(old.at(), new.at());
        }
        !matches!(fate, Ok(Fate::Other))
    });
    match (fate?, there) {
        (Fate::Newer, Some((old, _))) => *old = new,
        (Fate::Older, _) => {}
        _ => table::insert(table, new),
    }
    Ok(())
}

/// Runs a job on so many threads, this one among them, and gives the error of one.
fn on_threads<E: Send>(threads: usize, job: impl Fn() -> Result<(), E> + Sync) -> Result<(), E> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(&job)).collect();
        let mine = job();
        let joined = others.into_iter().map(|other| other.join().expect("loading does not panic"));
        joined.fold(mine, Result::and)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keydir::Change;
    use std::convert::Infallible;

    /// An entry of a key: which one is told by the position's segment, which is newer by its
    /// offset.
    fn entry(key: u32, version: u32) -> LogPosition {
        LogPosition::new(key + 1, 128 + version * 8)
    }

    fn resolve(old: LogPosition, new: LogPosition) -> Result<Fate, Infallible> {
        Ok(match (old.segment() == new.segment(), new.offset().cmp(&old.offset())) {
            (false, _) => Fate::Other,
            (true, std::cmp::Ordering::Greater) => Fate::Newer,
            (true, _) => Fate::Older,
        })
    }

    fn all(keydir: &Keydir) -> Vec<LogPosition> {
        let mut all: Vec<_> =
            (0..keydir.shards()).flat_map(|n| keydir.copy(n)).map(|slot| slot.at()).collect();
        all.sort_unstable();
        all
    }

    impl Source for Vec<(u32, LogPosition)> {
        fn len(&self) -> usize {
            self.len()
        }

        fn get(&self, nth: usize) -> (u32, LogPosition) {
            self[nth]
        }
    }

    fn sorted(mut source: Vec<(u32, LogPosition)>) -> Vec<(u32, LogPosition)> {
        source.sort_unstable();
        source
    }

    /// Keys of each source, with versions.
    fn sources(keydir: &Keydir) -> Vec<Vec<(u32, LogPosition)>> {
        let tag = |key: u32| keydir.tag(&key.to_le_bytes());
        let one = |source: u32, n: u32| {
            let key = (n * 7 + source * 13) % 3000;
            (tag(key), entry(key, (source * 5 + n) % 11))
        };
        (0..4).map(|source| sorted((0..2500).map(|n| one(source, n)).collect())).collect()
    }

    fn one_by_one(keydir: &Keydir, sources: &[Vec<(u32, LogPosition)>]) {
        for &(tag, new) in sources.iter().flatten() {
            let is = |old: LogPosition| old.segment() == new.segment();
            keydir.change(tag, is, |old| match old {
                Some(old) if old.offset() >= new.offset() => (Change::Keep, ()),
                _ => (Change::Set(new), ()),
            });
        }
    }

    #[test]
    fn loading_is_as_one_by_one_in_every_order() {
        for bits in [2, 10, 32] {
            let expected = Keydir::new(7, bits);
            let sources = sources(&expected);
            one_by_one(&expected, &sources);
            let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]];
            for (n, order) in orders.iter().enumerate() {
                let keydir = Keydir::new(7, bits);
                let sources: Vec<_> = order.iter().map(|&i| sources[i].clone()).collect();
                keydir.load(&sources, n + 1, resolve).unwrap();
                assert_eq!(all(&keydir), all(&expected), "{bits} bits");
                assert_eq!(keydir.len(), expected.len());
            }
        }
    }

    #[test]
    fn what_is_loaded_is_found() {
        let keydir = Keydir::new(7, 32);
        let of = |i: u32| {
            let keys = (0..20_000u32).filter(|key| key % 5 == i);
            sorted(keys.map(|key| (keydir.tag(&key.to_le_bytes()), entry(key, 0))).collect())
        };
        let sources: Vec<_> = (0..5).map(of).collect();
        keydir.load(&sources, 2, resolve).unwrap();
        assert_eq!(keydir.len(), 20_000);
        for key in 0..20_000u32 {
            let tag = keydir.tag(&key.to_le_bytes());
            assert_eq!(keydir.get(tag, |at| at == entry(key, 0), |_| ()), Some(()));
        }
    }

    #[test]
    fn errors_end_it() {
        let keydir = Keydir::new(7, 32);
        let twice = vec![vec![(1, entry(1, 1))]; 2];
        assert_eq!(keydir.load(&twice, 2, |_, _| Err("unreadable")), Err("unreadable"));
    }

    #[test]
    #[ignore = "a measurement"]
    fn how_fast() {
        const EACH: u32 = 250_000;
        let tag = |n: u32| n.wrapping_mul(0x9e37_79b1);
        let source = |i: u32| {
            let at = |n| LogPosition::new(i + 1, 128 + n * 136);
            sorted((0..EACH).map(|n| (tag(i * EACH + n), at(n))).collect())
        };
        let sources: Vec<_> = (0..20).map(source).collect();
        for threads in [1, 2, 2, 2] {
            let keydir = Keydir::new(7, 32);
            let started = std::time::Instant::now();
            keydir.load(&sources, threads, resolve).unwrap();
            let time = started.elapsed();
            let rate = keydir.len() as f64 / time.as_secs_f64() / 1e6;
            println!("{threads} threads: {time:?}, {rate:.1} million a second");
            assert_eq!(keydir.len(), u64::from(EACH) * 20);
        }
    }
}
