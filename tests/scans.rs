//! Iteration: every key that is there throughout comes exactly once, with the value that is current
//! when it comes, whatever is written, merged and rolled between two items.

mod common;

use common::{Finish, Random, rounds, sealed, small_store, store_by_hand, until, value, within};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use tailcask::{Batch, Pairs, SimulatedDisk, Store};

const SEGMENT: u64 = 32 << 10;

fn store() -> Store {
    // So few bits that keys collide.
    let options = small_store(SEGMENT).tag_bits(6);
    options.open_simulated(&SimulatedDisk::new()).unwrap()
}

/// A pair of the numbers that [`fill`] and others put.
fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

fn key(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

/// Versions from this one on are long, so that their frames are far apart.
const LONG: u64 = 1 << 20;

/// A value that says which write it is of, of various lengths.
fn version(n: u64) -> Vec<u8> {
    let mut bytes = n.to_le_bytes().to_vec();
    let most = if n < LONG { 400 } else { 3000 };
    bytes.resize(8 + (n as usize * 37) % most, 7);
    bytes
}

fn fill(store: &Store, keys: u64) {
    for n in 0..keys {
        store.put(key(n), version(n)).unwrap();
    }
}

fn numbers(pairs: Pairs<'_>) -> Vec<u64> {
    let mut all: Vec<_> = pairs.map(|pair| number(pair.unwrap().key())).collect();
    all.sort_unstable();
    all
}

/// What one iterator has to yield still, and may not yield again.
struct Expected<'s> {
    pairs: Pairs<'s>,
    /// Keys that have been there since it began.
    there: BTreeSet<u64>,
    came: BTreeSet<u64>,
}

impl Expected<'_> {
    /// One item. False at the end.
    fn next(&mut self, now: &BTreeMap<u64, u64>) -> bool {
        let Some(pair) = self.pairs.next() else {
            let missed: Vec<_> = self.there.difference(&self.came).collect();
            assert!(missed.is_empty(), "did not come: {missed:?}");
            return false;
        };
        let pair = pair.unwrap();
        let (key, value) = (number(pair.key()), number(pair.value()));
        assert_eq!(now.get(&key), Some(&value), "{key} is not what it is now");
        assert_eq!(pair.value(), version(value));
        assert!(self.came.insert(key), "{key} came twice");
        true
    }
}

/// Any sequence of operations between the items of several iterators.
#[test]
fn each_key_comes_once_whatever_is_done_between_items() {
    const KEYS: u64 = 60;
    for seed in 0..rounds(120) {
        let (store, mut random) = (store(), Random::new(seed));
        let mut now: BTreeMap<u64, u64> = (0..KEYS).map(|n| (n, n)).collect();
        let mut next_version = if random.flip() { LONG } else { KEYS };
        fill(&store, KEYS);
        let mut iterators: Vec<Expected<'_>> = Vec::new();
        for _ in 0..400 {
            let n = random.below(KEYS);
            match random.below(20) {
                0..=3 => {
                    next_version += 1;
                    store.put(key(n), version(next_version)).unwrap();
                    now.insert(n, next_version);
                }
                4 => {
                    store.delete(key(n)).unwrap();
                    now.remove(&n);
                    for one in &mut iterators {
                        one.there.remove(&n);
                    }
                }
                5 => {
                    let mut batch = Batch::new();
                    let mut after = now.clone();
                    for _ in 0..random.below(6) {
                        let n = random.below(KEYS);
                        if random.flip() {
                            next_version += 1;
                            batch.put(key(n), version(next_version));
                            after.insert(n, next_version);
                        } else {
                            batch.delete(key(n));
                            after.remove(&n);
                        }
                    }
                    store.write(&batch).unwrap();
                    for one in &mut iterators {
                        one.there.retain(|n| after.contains_key(n));
                    }
                    now = after;
                }
                6 => store.roll().unwrap(),
                7 => {
                    let mut some = sealed(&store);
                    some.retain(|_| random.flip());
                    store.merge_only(&some).unwrap();
                }
                8 => {
                    let old = value(&store, key(n));
                    next_version += 1;
                    let new = version(next_version);
                    let done = store.compare_and_swap(key(n), old.as_deref(), Some(&new));
                    done.unwrap().unwrap();
                    now.insert(n, next_version);
                }
                9 if iterators.len() < 3 => iterators.push(Expected {
                    pairs: store.iter(),
                    there: now.keys().copied().collect(),
                    came: BTreeSet::new(),
                }),
                10 if random.below(8) == 0 => drop(iterators.pop()),
                _ if !iterators.is_empty() => {
                    let nth = random.index(iterators.len());
                    if !iterators[nth].next(&now) {
                        drop(iterators.swap_remove(nth));
                    }
                }
                _ => {}
            }
        }
        for mut one in iterators {
            while one.next(&now) {}
        }
    }
}

/// Every item is followed by a write to each key that has not come yet, so that all of them stay ahead.
#[test]
fn keys_that_run_ahead_come_once_each() {
    for (keys, merges) in [(30, false), (30, true), (1500, false)] {
        let store = store();
        fill(&store, keys);
        let mut left: BTreeSet<u64> = (0..keys).collect();
        let mut round = 0;
        // With many keys, seldom enough to be quick, and often enough for all passes.
        let every = keys / 30;
        let mut count = 0;
        for pair in &store {
            let pair = pair.unwrap();
            let n = number(pair.key());
            assert!(left.remove(&n), "{n} came twice");
            assert_eq!(number(pair.value()), round * keys + n, "{n} is not what it is now");
            drop(pair);
            count += 1;
            if count % every == 0 && round < 40 {
                round += 1;
                for n in 0..keys {
                    store.put(key(n), version(round * keys + n)).unwrap();
                }
                if merges {
                    store.merge().unwrap();
                }
            }
        }
        assert!(left.is_empty(), "did not come: {left:?}");
    }
}

/// A merge's copies are in a segment behind the active one: what is overwritten then goes back.
#[test]
fn a_key_that_moves_backward_comes() {
    let store = store();
    fill(&store, 10);
    store.roll().unwrap();
    store.merge().unwrap();
    for written_after in 0..10 {
        let mut pairs = store.iter();
        let mut came: Vec<_> =
            pairs.by_ref().take(written_after).map(|pair| number(pair.unwrap().key())).collect();
        let all = sealed(&store);
        store.merge_only(&all).unwrap();
        fill(&store, 10);
        came.extend(pairs.map(|pair| number(pair.unwrap().key())));
        came.sort_unstable();
        assert!(came.into_iter().eq(0..10), "{written_after}");
    }
}

/// In one batch a key may be deleted and put again: to everyone else it was there all the time.
#[test]
fn a_key_that_a_batch_deletes_and_puts_comes() {
    let store = store();
    fill(&store, 3);
    let pairs = store.iter();
    let mut batch = Batch::new();
    batch.delete(key(0)).put(key(0), version(10));
    batch.put(key(1), version(11)).delete(key(1));
    batch.delete(key(2)).put(key(2), version(12)).delete(key(2)).put(key(2), version(22));
    store.write(&batch).unwrap();
    let values: BTreeSet<_> = pairs.map(|pair| number(pair.unwrap().value())).collect();
    assert_eq!(values, BTreeSet::from([10, 22]));
}

#[test]
fn deleting_each_key_as_it_comes_meets_all() {
    let store = store();
    fill(&store, 500);
    let mut came = 0;
    for pair in &store {
        assert!(store.delete(pair.unwrap().key()).unwrap());
        came += 1;
    }
    assert_eq!((came, store.len()), (500, 0));
}

#[test]
fn a_key_that_is_deleted_before_it_is_reached_does_not_come() {
    let store = store();
    fill(&store, 100);
    let mut pairs = store.iter();
    let first = number(pairs.next().unwrap().unwrap().key());
    for n in (0..100).filter(|&n| n != first) {
        store.delete(key(n)).unwrap();
    }
    // Put again, they are other keys to it.
    fill(&store, 50);
    assert!(pairs.next().is_none());
}

/// Segments that a merge has replaced are unmapped, and their space is free.
#[test]
fn an_iterator_that_is_kept_keeps_no_segment() {
    let options = store_by_hand();
    let store = options.open_simulated(&SimulatedDisk::new()).unwrap();
    for n in 0..3000 {
        store.put(key(n), [7; 2000]).unwrap();
    }
    let mut pairs = store.iter();
    let mut came: BTreeSet<_> =
        pairs.by_ref().take(700).map(|pair| number(pair.unwrap().key())).collect();
    let before = sealed(&store);
    store.merge().unwrap();
    assert!(sealed(&store).iter().all(|id| !before.contains(id)));
    until("nothing is held", || {
        store.maintain().unwrap();
        store.stats().segments_waiting_for_readers == 0
    });
    pairs.for_each(|pair| assert!(came.insert(number(pair.unwrap().key()))));
    assert_eq!(came.len(), 3000);
}

#[test]
fn parts_share_the_keys() {
    let store = store();
    fill(&store, 2000);
    for parts in [1, 2, 5, 1000] {
        let mut all = Vec::new();
        let mut parts = store.iter_parts(parts);
        // In turns, so that all of them are in the middle of something.
        while !parts.is_empty() {
            parts.retain_mut(|part| {
                let pair = part.next().transpose().unwrap();
                all.extend(pair.as_ref().map(|pair| number(pair.key())));
                pair.is_some()
            });
        }
        all.sort_unstable();
        assert!(all.into_iter().eq(0..2000));
    }
    assert!(store.iter_parts(0).is_empty());
}

#[test]
fn what_a_dropped_part_leaves_others_take() {
    let store = store();
    fill(&store, 2000);
    let mut parts = store.iter_parts(3);
    let mut all: Vec<_> =
        parts.iter_mut().map(|part| number(part.next().unwrap().unwrap().key())).collect();
    let last = parts.pop().unwrap();
    drop(parts);
    all.extend(last.map(|pair| number(pair.unwrap().key())));
    all.sort_unstable();
    assert!(all.into_iter().eq(0..2000));
}

/// Threads that overwrite and merge without a pause: an iteration ends, and has met every key once.
#[test]
fn iterations_end_beside_writers_that_never_rest() {
    within(|| {
        let dir = tempfile::tempdir().unwrap();
        let options = small_store(256 << 10).tag_bits(12);
        let store = options.open(dir.path().join("store")).unwrap();
        let done = AtomicBool::new(false);
        fill(&store, 3000);
        let rests = || done.load(Ordering::Relaxed);
        std::thread::scope(|threads| {
            let _finish = Finish(&done);
            // One key, over and over, which any pass would miss.
            threads.spawn(|| {
                while !rests() {
                    store.put(key(0), version(0)).unwrap();
                }
            });
            threads.spawn(|| {
                for n in (1..1000).cycle().take_while(|_| !rests()) {
                    let mut batch = Batch::new();
                    batch.put(key(n), version(n)).delete(key(10_000 + n));
                    batch.put(key(10_001 + n), version(n));
                    store.write(&batch).unwrap();
                }
            });
            threads.spawn(|| {
                while !rests() {
                    store.merge().unwrap();
                    store.maintain().unwrap();
                }
            });
            for round in 0..rounds(8) {
                let all = match round % 2 {
                    0 => numbers(store.iter()),
                    _ => std::thread::scope(|threads| {
                        let parts = store.iter_parts(2).into_iter();
                        let parts: Vec<_> =
                            parts.map(|part| threads.spawn(|| numbers(part))).collect();
                        let mut all: Vec<_> =
                            parts.into_iter().flat_map(|part| part.join().unwrap()).collect();
                        all.sort_unstable();
                        all
                    }),
                };
                let stable = all.into_iter().filter(|&n| n < 10_000);
                assert!(stable.eq(0..3000), "round {round}");
            }
        });
    });
}
