//! How long single operations take: percentiles, the worst, and what the slowest ones waited for.
//!
//! `cargo bench --bench tails` prints the tables of `docs/benchmarks.md`. `TAILCASK_BENCH_ONLY` picks one
//! of `percentiles`, `growth`, `oversize`; `TAILCASK_BENCH_KEYS` says how many keys there are (of 16 B,
//! with values of 100 B), and `TAILCASK_BENCH_SECONDS` how long each row of `percentiles` runs.
#![allow(missing_docs, reason = "a bench")]

mod common;

use common::{MIB, key, next, scratch, setting, warm};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tailcask::{MergePolicy, Store};

/// Slower operations are asked for what they waited for.
const SLOW: Duration = Duration::from_millis(1);

fn main() {
    let only = std::env::var("TAILCASK_BENCH_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only == name;
    let dir = scratch();
    if wanted("percentiles") {
        percentiles(dir.path(), setting("TAILCASK_BENCH_KEYS", 2_000_000) as u64);
    }
    if wanted("growth") {
        growth(dir.path(), setting("TAILCASK_BENCH_KEYS", 10_000_000) as u64);
    }
    if wanted("oversize") {
        oversize(dir.path());
    }
}

/// What the kernel has counted for this thread so far.
#[derive(Clone, Copy)]
struct Counted {
    waits: i64,
    preemptions: i64,
    faults: i64,
    reads: i64,
}

#[allow(unsafe_code, reason = "a system call that rustix lacks")]
fn counted() -> Counted {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: it points at room for what the call writes.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    assert_eq!(result, 0, "getrusage");
    // SAFETY: zeroes are valid, and the call succeeded.
    let usage = unsafe { usage.assume_init() };
    Counted {
        waits: usage.ru_nvcsw,
        preemptions: usage.ru_nivcsw,
        faults: usage.ru_minflt,
        reads: usage.ru_majflt,
    }
}

/// What most likely made an operation slow.
fn cause(before: Counted, after: Counted) -> &'static str {
    match () {
        () if after.reads > before.reads => "page read from the disk",
        () if after.waits > before.waits => "waited for a lock or a segment",
        () if after.preemptions > before.preemptions => "another thread had the core",
        () if after.faults > before.faults => "page faults",
        () => "none of these: own work, or the host",
    }
}

/// Times of operations, and why the slow ones were slow.
struct Times {
    all: Histogram<u64>,
    slow: BTreeMap<&'static str, (u64, Duration)>,
}

impl Times {
    fn new() -> Self {
        let all = Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("bounds");
        Self { all, slow: BTreeMap::new() }
    }

    /// Times one operation.
    fn time<R>(&mut self, run: impl FnOnce() -> R) {
        let before = counted();
        let started = Instant::now();
        drop(black_box(run()));
        let took = started.elapsed();
        self.all.saturating_record(took.as_nanos() as u64);
        if took >= SLOW {
            let (count, worst) = self.slow.entry(cause(before, counted())).or_default();
            (*count, *worst) = (*count + 1, took.max(*worst));
        }
    }

    fn add(&mut self, other: &Self) {
        self.all.add(&other.all).expect("the same bounds");
        for (why, (count, worst)) in &other.slow {
            let (all, most) = self.slow.entry(why).or_default();
            (*all, *most) = (*all + count, (*most).max(*worst));
        }
    }

    fn row(&self, what: &str) {
        let at = |quantile: f64| self.all.value_at_quantile(quantile) as f64 / 1e3;
        let slow = self.slow.iter().map(|(why, (count, worst))| {
            format!("{count} x {why} (worst {:.1} ms)", worst.as_secs_f64() * 1e3)
        });
        println!(
            "| {what} | {:.2} | {:.2} | {:.2} | {:.0} | {} |",
            at(0.5),
            at(0.99),
            at(0.999),
            self.all.max() as f64 / 1e3,
            slow.collect::<Vec<_>>().join("; ")
        );
    }
}

fn head(title: &str) {
    println!("\n### {title}\n");
    println!("| | p50, us | p99 | p99.9 | max | above 1 ms |");
    println!("|---|---:|---:|---:|---:|---|");
}

/// Runs an operation on random numbers in several threads for a while.
fn in_threads<R>(threads: u64, time: Duration, run: impl Fn(u64) -> R + Sync) -> Times {
    let (all, stop) = (Mutex::new(Times::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (all, stop, run) = (&all, &stop, &run);
            scope.spawn(move || {
                let (mut times, mut state) = (Times::new(), thread + 1);
                while !stop.load(Relaxed) {
                    let number = next(&mut state);
                    times.time(|| run(number));
                }
                all.lock().expect("no thread has panicked").add(&times);
            });
        }
        std::thread::sleep(time);
        stop.store(true, Relaxed);
    });
    all.into_inner().expect("no thread has panicked")
}

fn percentiles(dir: &Path, keys: u64) {
    let time = Duration::from_secs(setting("TAILCASK_BENCH_SECONDS", 5) as u64);
    warm(dir, 4 << 30);
    head(&format!("One operation, {keys} keys with values of 100 B"));
    let never = MergePolicy::new().min_dead_bytes(u64::MAX).pack_below(0).space_goal(1e9);
    let often = MergePolicy::new().space_goal(1.3);
    for threads in [1, 2, 16] {
        in_threads(threads, time, |n| n).row(&format!("nothing, {threads} threads"));
    }
    for (name, policy) in [("no merges", never), ("merges", often)] {
        let path = dir.join("store");
        let store = Store::options().merge_policy(policy).open(&path).expect("a store");
        for n in 0..keys {
            store.put(key(n), [7; 100]).expect("put");
        }
        for threads in [1, 2, 16] {
            let get = |n: u64| store.get(key(n % keys)).expect("get").expect("there");
            in_threads(threads, time, get).row(&format!("get, {threads} threads, {name}"));
            let put = |n: u64| store.put(key(n % keys), [8; 100]).expect("put");
            in_threads(threads, time, put).row(&format!("put, {threads} threads, {name}"));
            let both = |n: u64| {
                if n.is_multiple_of(2) {
                    drop(black_box(get(n / 2)));
                } else {
                    black_box(put(n / 2));
                }
            };
            in_threads(threads, time, both)
                .row(&format!("half and half, {threads} threads, {name}"));
        }
        println!("| {} merges | | | | | |", store.stats().merges.merges);
        store.close().expect("closed");
        std::fs::remove_dir_all(path).expect("removed");
    }
}

/// New keys, one after the other, from an empty store on.
fn growth(dir: &Path, keys: u64) {
    let path = dir.join("store");
    let store = Store::open(&path).expect("a store");
    head("Puts of new keys, by the number of keys");
    let mut from = 0;
    while from < keys {
        let (to, mut times) = ((from * 2).max(1_000_000).min(keys), Times::new());
        let started = Instant::now();
        for n in from..to {
            times.time(|| store.put(key(n), [7; 100]).expect("put"));
        }
        let rate = (to - from) as f64 / started.elapsed().as_secs_f64() / 1e6;
        times.row(&format!("to {:.0} M keys ({rate:.2} M/s)", to as f64 / 1e6));
        from = to;
    }
    store.close().expect("closed");
    std::fs::remove_dir_all(path).expect("removed");
}

/// Small puts beside one of 512 MiB.
fn oversize(dir: &Path) {
    let path = dir.join("store");
    warm(dir, 1 << 30);
    let store = Store::open(&path).expect("a store");
    let (value, stop) = (vec![3; 512 * MIB], AtomicBool::new(false));
    head("Small puts beside one of 512 MiB");
    let (small, large) = std::thread::scope(|scope| {
        let small = scope.spawn(|| {
            let (mut times, mut n) = (Times::new(), 0);
            while !stop.load(Relaxed) {
                times.time(|| store.put(key(n), [1; 100]).expect("put"));
                n += 1;
            }
            times
        });
        std::thread::sleep(Duration::from_millis(500));
        let mut times = Times::new();
        times.time(|| store.put("large", &value).expect("put"));
        stop.store(true, Relaxed);
        (small.join().expect("it puts"), times)
    });
    small.row("100 B");
    large.row("512 MiB");
    store.close().expect("closed");
    std::fs::remove_dir_all(path).expect("removed");
}
