//! Loading many entries at once, for opening.
//!
//! In rounds of two steps, each on all threads: sources are read, and their entries put into heaps,
//! one for each shard; then whole shards are filled, each by one thread, which knows how much room
//! its table needs. In which order entries come makes no difference, so any thread takes what is
//! next.

use super::table::{self, Table};
use super::{Keydir, SHARDS, Slot, spread};
use crate::position::LogPosition;
use crate::sync::{Mutex, lock};
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

/// Entries that are in heaps at a time, 12 bytes each.
const ROUND: usize = if cfg!(test) { 1000 } else { 16 << 20 };

type Heaps = [Vec<Slot>; SHARDS];

impl Keydir {
    /// Loads entries on `threads` threads. `read(i, each)` gives the (tag, position) entries of
    /// source i, 0 <= i < sources; `resolve(old, new)` says what `new` is to `old`, both with the
    /// same tag. Entries of one key are in a total order by it.
    ///
    /// After an error, some entries are loaded, and some are not.
    pub(crate) fn load<E: Send>(
        &self,
        sources: usize,
        threads: usize,
        read: impl Fn(usize, &mut dyn FnMut(u32, LogPosition)) -> Result<(), E> + Sync,
        resolve: impl Fn(LogPosition, LogPosition) -> Result<Fate, E> + Sync,
    ) -> Result<(), E> {
        let threads = threads.max(1);
        let (next, held) = (AtomicUsize::new(0), AtomicUsize::new(0));
        while next.load(Ordering::Relaxed) < sources {
            held.store(0, Ordering::Relaxed);
            let heaps = on_threads(threads, || {
                let mut heaps: Heaps = std::array::from_fn(|_| Vec::new());
                while held.load(Ordering::Relaxed) < ROUND {
                    let source = next.fetch_add(1, Ordering::Relaxed);
                    if source >= sources {
                        break;
                    }
                    self.read_one(source, ROUND / threads, &mut heaps, &held, &read, &resolve)?;
                }
                Ok(heaps)
            })?;
            let shard = AtomicUsize::new(0);
            on_threads(threads, || {
                let mut sorted = Vec::new();
                loop {
                    let shard = shard.fetch_add(1, Ordering::Relaxed);
                    if shard >= SHARDS {
                        return Ok(());
                    }
                    let heaps: Vec<_> = heaps.iter().map(|heaps| &heaps[shard][..]).collect();
                    self.fill(shard, &heaps, &mut sorted, &resolve)?;
                }
            })?;
        }
        Ok(())
    }

    /// Puts the entries of a source into heaps, `most` at a time.
    fn read_one<E>(
        &self,
        source: usize,
        most: usize,
        heaps: &mut Heaps,
        held: &AtomicUsize,
        read: &impl Fn(usize, &mut dyn FnMut(u32, LogPosition)) -> Result<(), E>,
        resolve: &impl Fn(LogPosition, LogPosition) -> Result<Fate, E>,
    ) -> Result<(), E> {
        let (mut count, mut result) = (heaps.iter().map(Vec::len).sum::<usize>(), Ok(()));
        let before = count;
        read(source, &mut |tag, position| {
            if count >= most {
                // A source of so many entries: they go where they belong at once.
                for (shard, heap) in heaps.iter_mut().enumerate() {
                    let filled = self.fill(shard, &[heap], &mut Vec::new(), resolve);
                    result = std::mem::replace(&mut result, Ok(())).and(filled);
                    heap.clear();
                }
                count = 0;
            }
            heaps[self.shard(tag)].push(Slot { tag, position: position.as_u64() });
            count += 1;
        })?;
        held.fetch_add(count.saturating_sub(before), Ordering::Relaxed);
        result
    }

    /// Loads heaps of entries into a shard.
    fn fill<E>(
        &self,
        shard: usize,
        heaps: &[&[Slot]],
        sorted: &mut Vec<Slot>,
        resolve: &impl Fn(LogPosition, LogPosition) -> Result<Fate, E>,
    ) -> Result<(), E> {
        let mut table = self.map.shards()[shard].write();
        table::reserve(&mut table, heaps.iter().map(|heap| heap.len()).sum());
        sort(table.buckets(), heaps, sorted);
        sorted.iter().try_for_each(|&slot| load_slot(&mut table, slot, resolve))
    }
}

/// Puts the slots of all heaps in the order of the parts of a table where they belong, so that it
/// is filled part by part, each of which stays in the cache meanwhile.
fn sort(buckets: usize, heaps: &[&[Slot]], sorted: &mut Vec<Slot>) {
    const PARTS: usize = 64;
    let shift = buckets.ilog2().saturating_sub(PARTS.ilog2());
    let part = |slot: &Slot| (spread(slot.tag) as usize & (buckets - 1)) >> shift;
    let all = || heaps.iter().copied().flatten();
    let mut starts = [0; PARTS + 1];
    all().for_each(|slot| starts[part(slot) + 1] += 1);
    (1..PARTS).for_each(|part| starts[part + 1] += starts[part]);
    sorted.clear();
    sorted.resize(starts[PARTS], Slot { tag: 0, position: 0 });
    for slot in all() {
        let place = &mut starts[part(slot)];
        sorted[*place] = *slot;
        *place += 1;
    }
}

fn load_slot<E>(
    table: &mut Table,
    new: Slot,
    resolve: &impl Fn(LogPosition, LogPosition) -> Result<Fate, E>,
) -> Result<(), E> {
    let mut fate = Ok(Fate::Other);
    let there = table.get_mut(spread(new.tag), |(old, _)| {
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

/// Runs a job on so many threads, this one among them, and gives what each made, or the error of
/// one.
fn on_threads<R: Send, E: Send>(
    threads: usize,
    job: impl Fn() -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let done = Mutex::new(Vec::with_capacity(threads));
    let run = || {
        let made = job();
        lock(&done).push(made);
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(run)));
        run();
    });
    done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_iter().collect()
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

    /// Keys of each source, with versions: 2500 entries in each, more than a round holds.
    fn sources(keydir: &Keydir) -> Vec<Vec<(u32, LogPosition)>> {
        let tag = |key: u32| keydir.tag(&key.to_le_bytes());
        let one = |source: u32, n: u32| {
            let key = (n * 7 + source * 13) % 3000;
            (tag(key), entry(key, (source * 5 + n) % 11))
        };
        (0..4).map(|source| (0..2500).map(|n| one(source, n)).collect()).collect()
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
                let read = |i: usize, each: &mut dyn FnMut(u32, LogPosition)| {
                    sources[order[i]].iter().for_each(|&(tag, at)| each(tag, at));
                    Ok(())
                };
                keydir.load(order.len(), n + 1, read, resolve).unwrap();
                assert_eq!(all(&keydir), all(&expected), "{bits} bits");
                assert_eq!(keydir.len(), expected.len());
            }
        }
    }

    #[test]
    fn what_is_loaded_is_found() {
        let keydir = Keydir::new(7, 32);
        let read = |i: usize, each: &mut dyn FnMut(u32, LogPosition)| {
            for key in (0..20_000).filter(|key| key % 5 == i as u32) {
                each(keydir.tag(&key.to_le_bytes()), entry(key, 0));
            }
            Ok::<_, Infallible>(())
        };
        keydir.load(5, 2, read, resolve).unwrap();
        assert_eq!(keydir.len(), 20_000);
        for key in 0..20_000u32 {
            let tag = keydir.tag(&key.to_le_bytes());
            assert_eq!(keydir.get(tag, |at| at == entry(key, 0), |_| ()), Some(()));
        }
    }

    #[test]
    fn errors_end_it() {
        let keydir = Keydir::new(7, 32);
        let twice = |_, each: &mut dyn FnMut(u32, LogPosition)| {
            each(1, entry(1, 1));
            Ok(())
        };
        assert_eq!(keydir.load(2, 2, twice, |_, _| Err("unreadable")), Err("unreadable"));
        let read = |i, _: &mut dyn FnMut(u32, LogPosition)| if i == 3 { Err(i) } else { Ok(()) };
        assert_eq!(keydir.load(5, 2, read, |_, _| Ok(Fate::Newer)), Err(3));
    }

    #[test]
    #[ignore = "a measurement"]
    fn how_fast() {
        const EACH: u32 = 250_000;
        let tag = |n: u32| u64::from(n.wrapping_mul(0x9e37_79b1));
        let source = |i: u32| {
            let entries = (0..EACH).map(|n| tag(i * EACH + n) << 32 | u64::from(128 + n * 136));
            let mut entries: Vec<_> = entries.collect();
            entries.sort_unstable();
            entries
        };
        let sources: Vec<_> = (0..20).map(source).collect();
        for threads in [1, 2, 2, 2] {
            let keydir = Keydir::new(7, 32);
            let started = std::time::Instant::now();
            let read = |i: usize, each: &mut dyn FnMut(u32, LogPosition)| {
                for &entry in &sources[i] {
                    each((entry >> 32) as u32, LogPosition::new(i as u32 + 1, entry as u32));
                }
                Ok(())
            };
            keydir.load(sources.len(), threads, read, resolve).unwrap();
            let time = started.elapsed();
            let rate = keydir.len() as f64 / time.as_secs_f64() / 1e6;
            println!("{threads} threads: {time:?}, {rate:.1} million a second");
            assert_eq!(keydir.len(), u64::from(EACH) * 20);
        }
    }
}
