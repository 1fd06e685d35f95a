//! The store beside a `DashMap` that holds the same pairs in memory.
//!
//! `cargo bench --bench store` prints the tables of `docs/benchmarks.md`. `TAILCASK_BENCH_KEYS` says
//! how many pairs of 16 and 100 bytes; 5 million take 3 GiB.
//! `TAILCASK_BENCH_ONLY=new|reads|scans|overwrites|open` runs one section (`new` is the base of all).
#![allow(missing_docs, reason = "a bench")]

mod common;

use common::{each, key, next, report, rounds, scratch, setting, timed, warm};
use dashmap::DashMap;
use std::hint::black_box;
use std::path::Path;
use tailcask::{Batch, Store};

const VALUE: [u8; 100] = [7; 100];

/// Uniformly from all keys.
fn some(count: usize, keys: u64, seed: u64) -> Vec<[u8; 16]> {
    let mut state = seed;
    (0..count).map(|_| key(next(&mut state) % keys)).collect()
}

/// The store, and the map beside it.
struct Both {
    map: DashMap<Vec<u8>, Vec<u8>>,
    store: Store,
}

impl Both {
    fn insert(&self, from: u64, to: u64) -> f64 {
        let (time, ()) = timed(|| {
            for n in from..to {
                self.map.insert(key(n).to_vec(), VALUE.to_vec());
            }
        });
        each(time, (to - from) as usize)
    }

    fn put(&self, from: u64, to: u64) -> f64 {
        let (time, ()) = timed(|| {
            for n in from..to {
                self.store.put(key(n), VALUE).expect("put");
            }
        });
        each(time, (to - from) as usize)
    }
}

fn new_keys(both: &Both, keys: u64) {
    // In slices, so that both grow side by side.
    let slice = keys / 20;
    let (mut at, mut times) = (0, [Vec::new(), Vec::new()]);
    while at < keys {
        let to = keys.min(at + slice);
        times[0].push(both.insert(at, to));
        times[1].push(both.put(at, to));
        at = to;
    }
    let [inserts, puts] = times;
    let series = [
        common::Series { name: "DashMap::insert", times: inserts },
        common::Series { name: "put", times: puts },
    ];
    report(&format!("New keys, up to {keys} of 16 B with 100 B"), "ns", &series);
    let before = anonymous_memory();
    let boxed: DashMap<Box<[u8]>, u64> = DashMap::new();
    for n in 0..keys {
        boxed.insert(key(n).to_vec().into_boxed_slice(), n);
    }
    let taken = anonymous_memory().saturating_sub(before);
    println!("\n| | bytes of RAM a key |\n|---|---:|");
    println!("| keydir | {:.1} |", both.store.keydir_memory() as f64 / both.store.len() as f64);
    println!("| `DashMap<Box<[u8]>, u64>` | {:.1} |", taken as f64 / keys as f64);
}

/// Bytes of memory of this process that are not of files.
fn anonymous_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn reads(both: &Both, samples: &[Vec<[u8; 16]>], count: usize) {
    let Both { map, store } = both;
    let series = rounds(
        count,
        &mut [
            ("DashMap::get", &mut || {
                let read = |key: &[u8; 16]| {
                    black_box(map.get(&key[..]).expect("there").value()[0]);
                };
                each(timed(|| samples[0].iter().for_each(read)).0, samples[0].len())
            }),
            ("get", &mut || {
                let read = |key: &[u8; 16]| {
                    black_box(store.get(key).expect("sound").expect("there")[0]);
                };
                each(timed(|| samples[1].iter().for_each(read)).0, samples[1].len())
            }),
            ("get_many of 32", &mut || {
                let read = |keys: &[[u8; 16]]| {
                    for value in store.get_many(keys).expect("sound") {
                        black_box(value.expect("there")[0]);
                    }
                };
                each(timed(|| samples[2].chunks(32).for_each(read)).0, samples[2].len())
            }),
        ],
    );
    report("Reads, anywhere", "ns", &series);
}

fn overwrites(both: &Both, samples: &[Vec<[u8; 16]>], count: usize) {
    let Both { map, store } = both;
    let series = rounds(
        count,
        &mut [
            ("DashMap::insert", &mut || {
                let write = |key: &[u8; 16]| {
                    map.insert(key.to_vec(), VALUE.to_vec());
                };
                each(timed(|| samples[0].iter().for_each(write)).0, samples[0].len())
            }),
            ("put", &mut || {
                let write = |key: &[u8; 16]| {
                    store.put(key, VALUE).expect("put");
                };
                each(timed(|| samples[1].iter().for_each(write)).0, samples[1].len())
            }),
            ("batches of 100", &mut || {
                let write = |keys: &[[u8; 16]]| {
                    let mut batch = Batch::new();
                    keys.iter().for_each(|key| {
                        batch.put(key, VALUE);
                    });
                    store.write(&batch).expect("written");
                };
                each(timed(|| samples[3].chunks(100).for_each(write)).0, samples[3].len())
            }),
        ],
    );
    report("Overwrites, anywhere", "ns", &series);
}

fn scans(both: &Both, count: usize) {
    let Both { map, store } = both;
    let keys = store.len() as usize;
    let series = rounds(
        count,
        &mut [
            ("DashMap::iter", &mut || {
                let read = |pair: dashmap::mapref::multiple::RefMulti<'_, Vec<u8>, Vec<u8>>| {
                    black_box(pair.key()[0] ^ pair.value()[0]);
                };
                each(timed(|| map.iter().for_each(read)).0, keys)
            }),
            ("iter", &mut || {
                let (time, pairs) = timed(|| {
                    let read = |pair: Result<tailcask::Pair<'_>, _>| {
                        let pair = pair.expect("sound");
                        black_box(pair.key()[0] ^ pair.value()[0]);
                    };
                    store.iter().map(read).count()
                });
                assert_eq!(pairs, keys);
                each(time, keys)
            }),
            ("keys", &mut || {
                let read = |key: Result<Vec<u8>, _>| {
                    black_box(key.expect("sound")[0]);
                };
                each(timed(|| store.keys().for_each(read)).0, keys)
            }),
            ("the first pair", &mut || {
                each(timed(|| black_box(store.iter().next().is_some())).0, keys)
            }),
        ],
    );
    report("Iteration over all pairs, a pair", "ns", &series);
}

fn opening(store: Store, path: &Path) {
    store.close().expect("closed");
    let (time, store) = timed(|| Store::open(path).expect("opened"));
    println!(
        "\nOpening {} keys by a scan of all frames: {:.1} s, {:.1} million keys a second",
        store.len(),
        time.as_secs_f64(),
        store.len() as f64 / time.as_secs_f64() / 1e6
    );
    store.abort();
}

fn main() {
    let keys = setting("TAILCASK_BENCH_KEYS", 5_000_000) as u64;
    let count = setting("TAILCASK_BENCH_ROUNDS", 5);
    let only = std::env::var("TAILCASK_BENCH_ONLY").unwrap_or_default();
    let wanted = |section: &str| only.is_empty() || only == section;
    let dir = scratch();
    let path = dir.path().join("store");
    warm(dir.path(), keys as usize * 400);

    let both = Both { map: DashMap::new(), store: Store::open(&path).expect("a store") };
    // What the other sections work on.
    new_keys(&both, keys);
    let samples: Vec<_> = (1..=4).map(|seed| some(500_000, keys, seed)).collect();
    if wanted("reads") {
        reads(&both, &samples, count);
    }
    if wanted("scans") {
        scans(&both, count);
    }
    if wanted("overwrites") {
        overwrites(&both, &samples, count);
    }
    if wanted("open") {
        opening(both.store, &path);
    }
}
