//! One store from empty to full size, with the options it has by default: filling it, overwriting it at
//! random until data and garbage pass the memory, reading it, opening it from the disk.
//!
//! `cargo bench --bench scale` prints the tables of `docs/benchmarks.md`, for 2 million keys.
//! `TAILCASK_BENCH_KEYS` says how many keys there are, of 16 B with values of 100 B: 100 million take 10
//! minutes, 45 GB of disk at most, and 24 GiB of memory are too little then. `TAILCASK_BENCH_OVERWRITES`
//! says how many overwrites there are (default: as many as keys).
#![allow(missing_docs, reason = "a bench")]

mod common;

use common::{cool, key, next, scratch, setting, timed};
use hdrhistogram::Histogram;
use std::path::Path;
use std::time::Instant;
use tailcask::Store;

const VALUE: usize = 100;
/// Rows of each phase.
const STEPS: u64 = 10;

fn main() {
    let keys = setting("TAILCASK_BENCH_KEYS", 2_000_000) as u64;
    let overwrites = setting("TAILCASK_BENCH_OVERWRITES", keys as usize) as u64;
    let dir = scratch();
    let path = dir.path().join("store");
    println!("{keys} keys of 16 B with values of {VALUE} B\n");
    println!("| | M/s | p50, us | p99 | p99.9 | max | disk, GB | in memory |");
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let mut options = Store::options();
    if let Ok(mib) = std::env::var("TAILCASK_BENCH_BUDGET_MIB") {
        options = options.cache_budget(mib.parse::<u64>().expect("MiB") << 20);
    }
    let store = options.open(&path).expect("a store");
    for step in 0..STEPS {
        let (from, to) = (keys * step / STEPS, keys * (step + 1) / STEPS);
        let what = format!("new keys, to {:.1} M", to as f64 / 1e6);
        row(&what, &store, to - from, |i| put(&store, from + i, 0));
    }
    let mut seed = 1;
    for step in 0..STEPS {
        let (from, to) = (overwrites * step / STEPS, overwrites * (step + 1) / STEPS);
        let what = format!("random overwrites, to {:.1} M", to as f64 / 1e6);
        row(&what, &store, to - from, |i| put(&store, next(&mut seed) % keys, i));
    }
    row("gets of random keys", &store, keys / 20, |_| {
        let value = store.get(key(next(&mut seed) % keys)).expect("sound").expect("there");
        assert_eq!(value.len(), VALUE);
    });
    let [close, cold, warm] = closed_and_opened(store, &path, keys);
    println!("\nclosed in {close:.2} s, opened from the disk in {cold:.2} s, then in {warm:.2} s");
}

fn put(store: &Store, n: u64, version: u64) {
    let mut value = [n as u8; VALUE];
    value[..8].copy_from_slice(&version.to_le_bytes());
    store.put(key(n), value).expect("put");
}

/// Does something many times, and prints how long it took.
fn row(what: &str, store: &Store, count: u64, mut run: impl FnMut(u64)) {
    let mut times = Histogram::<u64>::new_with_bounds(1, 1_000_000_000_000, 3).expect("bounds");
    let started = Instant::now();
    let mut last = started;
    for i in 0..count {
        run(i);
        let now = Instant::now();
        times.saturating_record((now - last).as_nanos() as u64);
        last = now;
    }
    let rate = count as f64 / started.elapsed().as_secs_f64() / 1e6;
    let at = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1e3;
    let stats = store.stats();
    println!(
        "| {what} | {rate:.2} | {:.2} | {:.2} | {:.1} | {:.0} | {:.1} | {:.0} % |",
        at(0.5),
        at(0.99),
        at(0.999),
        times.max() as f64 / 1e3,
        stats.disk_bytes as f64 / 1e9,
        stats.cache.resident.unwrap_or(1.0) * 100.0
    );
}

/// Seconds of closing a store, opening it from the disk, and opening it once more.
fn closed_and_opened(store: Store, path: &Path, keys: u64) -> [f64; 3] {
    let (closing, ()) = timed(|| store.close().expect("closed"));
    cool(path);
    let open = || {
        let (time, store) = timed(|| Store::open(path).expect("opened"));
        assert_eq!(store.len(), keys);
        store.close().expect("closed");
        time
    };
    [closing, open(), open()].map(|time| time.as_secs_f64())
}
