//! What goes on beside reads and writes: opening, merges, large values, durable puts.
//!
//! `cargo bench --bench maintenance` prints the tables of `docs/benchmarks.md`.
//! `TAILCASK_BENCH_ONLY` picks one of `open`, `merge`, `large`, `durable`; `TAILCASK_BENCH_KEYS` says
//! how many keys are opened. `open_many` is run only if it is picked: 100 million keys take 10 GB of disk
//! with the default of `TAILCASK_BENCH_VALUE`, values of 8 bytes, and 24 GB with values of 100.
#![allow(missing_docs, reason = "a bench")]

mod common;

use common::{Series, cool, each, key, next, report, rounds, scratch, setting, timed, warm};
use hdrhistogram::Histogram;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tailcask::{CommitLog, Durability, MergePolicy, Store};

fn main() {
    let only = std::env::var("TAILCASK_BENCH_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only == name;
    let dir = scratch();
    let keys = setting("TAILCASK_BENCH_KEYS", 5_000_000) as u64;
    if wanted("open") {
        open(dir.path(), keys, 100);
        open(dir.path(), keys / 5, 1024);
    }
    if only == "open_many" {
        let value = setting("TAILCASK_BENCH_VALUE", 8);
        open_many(dir.path(), setting("TAILCASK_BENCH_KEYS", 100_000_000) as u64, value);
    }
    if wanted("merge") {
        merge(dir.path());
    }
    if wanted("large") {
        large(dir.path());
    }
    if wanted("durable") {
        durable(dir.path());
    }
}

fn never() -> MergePolicy {
    MergePolicy::new().min_dead_bytes(u64::MAX).pack_below(0).space_goal(1e9)
}

/// Opening with hints, and without.
fn open(dir: &Path, keys: u64, value: usize) {
    let path = dir.join("open");
    warm(dir, keys as usize * (value + 60));
    let options = Store::options().merge_policy(never());
    let store = options.open(&path).expect("a store");
    let value = vec![7; value];
    for n in 0..keys {
        store.put(key(n), &value).expect("put");
    }
    store.close().expect("closed");
    let hints = || {
        let files =
            std::fs::read_dir(&path).expect("listed").map(|entry| entry.expect("read").path());
        files.filter(|path| path.extension().is_some_and(|e| e == "hint")).collect::<Vec<_>>()
    };
    let bytes: u64 = hints().iter().map(|path| path.metadata().expect("there").len()).sum();
    let open = || {
        let (time, store) = timed(|| options.open(&path).expect("opened"));
        assert_eq!(store.len(), keys);
        // Closing writes the hints that are missing.
        store.close().expect("closed");
        each(time, keys as usize)
    };
    let forget =
        || hints().into_iter().for_each(|hint| std::fs::remove_file(hint).expect("removed"));
    let count = setting("TAILCASK_BENCH_ROUNDS", 3);
    let title = format!("Opening {keys} keys with values of {} B", value.len());
    let series = rounds(
        count,
        &mut [
            ("a scan of all frames", &mut || {
                forget();
                open()
            }),
            ("hints", &mut || open()),
        ],
    );
    report(&format!("{title}, in the page cache"), "ns a key", &series);
    let series = rounds(
        count,
        &mut [
            ("a scan of all frames", &mut || {
                forget();
                cool(&path);
                open()
            }),
            ("hints", &mut || {
                cool(&path);
                open()
            }),
        ],
    );
    report(&format!("{title}, on the disk"), "ns a key", &series);
    println!("\nHints: {:.1} bytes a key", bytes as f64 / keys as f64);
    // Half as many overwrites as keys, and then as many.
    let mut state = 1;
    for times in ["half of them", "all of them"] {
        let store = options.open(&path).expect("opened");
        for _ in 0..keys / 2 {
            store.put(key(next(&mut state) % keys), &value).expect("put");
        }
        store.close().expect("closed");
        let series = rounds(
            count,
            &mut [
                ("in the page cache", &mut || open()),
                ("on the disk", &mut || {
                    cool(&path);
                    open()
                }),
            ],
        );
        let title = format!("{title} and as many random overwrites as {times}");
        report(&title, "ns a key", &series);
    }
    std::fs::remove_dir_all(&path).expect("removed");
}

/// Opening with hints only, and closing, of a store that takes long to make: each key written once, and
/// then half as many random overwrites.
fn open_many(dir: &Path, keys: u64, value: usize) {
    let path = dir.join("open");
    let options = Store::options().merge_policy(never());
    let value = vec![7; value];
    let mut state = 1;
    for overwrites in [0, keys / 2] {
        let store = options.open(&path).expect("opened");
        if overwrites == 0 {
            (0..keys).for_each(|n| _ = store.put(key(n), &value).expect("put"));
        }
        for _ in 0..overwrites {
            store.put(key(next(&mut state) % keys), &value).expect("put");
        }
        let (time, closed) = timed(|| store.close());
        closed.expect("closed");
        println!("\nClosed after the writes: {:.2} s", time.as_secs_f64());
        let mut closing = Duration::ZERO;
        let mut open = || {
            let (time, store) = timed(|| options.open(&path).expect("opened"));
            assert_eq!(store.len(), keys);
            let (closed, ()) = timed(|| store.close().expect("closed"));
            closing = closing.max(closed);
            each(time, keys as usize)
        };
        let open = std::cell::RefCell::new(&mut open);
        let series = rounds(
            setting("TAILCASK_BENCH_ROUNDS", 3),
            &mut [
                ("on the disk", &mut || {
                    cool(&path);
                    open.borrow_mut()()
                }),
                ("in the page cache", &mut || open.borrow_mut()()),
            ],
        );
        let title = format!("Opening {keys} keys of {} B, {overwrites} overwrites", value.len());
        report(&title, "ns a key", &series);
        println!("\nClosed with nothing written: {:.2} s at most", closing.as_secs_f64());
    }
    std::fs::remove_dir_all(&path).expect("removed");
}

const LIVE: u64 = 200_000;

/// Overwrites for a while; time for each, and the latencies of gets beside them.
fn overwrite(store: &Store, seed: &mut u64, gets: &mut Histogram<u64>) -> f64 {
    let until = Instant::now() + Duration::from_millis(700);
    let (stop, begin) = (AtomicBool::new(false), *seed ^ 1);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut state, mut seen) = (begin, Histogram::<u64>::new(3).expect("made"));
            while !stop.load(Relaxed) {
                for _ in 0..64 {
                    let (time, value) =
                        timed(|| store.get(key(next(&mut state) % LIVE)).expect("sound"));
                    black_box(value);
                    seen.record(time.as_nanos() as u64).expect("recorded");
                }
                // A core is wanted by the merge, and one by the writer.
                std::thread::sleep(Duration::from_micros(200));
            }
            seen
        });
        let (started, mut count) = (Instant::now(), 0);
        while Instant::now() < until {
            for _ in 0..100 {
                store.put(key(next(seed) % LIVE), [7; 1000]).expect("put");
            }
            count += 100;
        }
        let time = each(started.elapsed(), count);
        stop.store(true, Relaxed);
        gets.add(reader.join().expect("read")).expect("added");
        time
    })
}

fn merge(dir: &Path) {
    warm(dir, 3 << 30);
    let open = |name: &str, policy| {
        let options = Store::options().segment_size(32 << 20).merge_policy(policy);
        let store = options.open(dir.join(name)).expect("a store");
        for n in 0..LIVE {
            store.put(key(n), [7; 1000]).expect("put");
        }
        store
    };
    let busy = open("merged", never());
    let by_itself = open("by itself", MergePolicy::new());
    let mut gets: [Histogram<u64>; 3] = std::array::from_fn(|_| Histogram::new(3).expect("made"));
    let [idle_gets, busy_gets, own_gets] = &mut gets;
    let mut seeds = [1, 2, 3];
    let [a, b, c] = &mut seeds;
    let merges = AtomicU64::new(0);
    let series = rounds(
        setting("TAILCASK_BENCH_ROUNDS", 7),
        &mut [
            ("no merge", &mut || {
                // The garbage of the last round goes before this one begins.
                busy.merge().expect("merged");
                overwrite(&busy, a, idle_gets)
            }),
            ("a merge at full speed", &mut || {
                let stop = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        while !stop.load(Relaxed) {
                            merges.fetch_add(busy.merge().expect("merged").inputs, Relaxed);
                        }
                    });
                    let time = overwrite(&busy, b, busy_gets);
                    stop.store(true, Relaxed);
                    time
                })
            }),
            ("merges by the policy", &mut || overwrite(&by_itself, c, own_gets)),
        ],
    );
    report("Overwrites of 1000 B among 200,000 keys, one reader beside", "ns", &series);
    println!("\n| gets beside | p50, ns | p99 | p99.9 | max |\n|---|---:|---:|---:|---:|");
    for (one, gets) in series.iter().zip(&gets) {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| gets.value_at_quantile(q));
        println!("| {} | {p50} | {p99} | {p999} | {} |", one.name, gets.max());
    }
    let live = |stats: &tailcask::Stats| stats.live_bytes as f64 / stats.disk_bytes as f64;
    let before = by_itself.stats();
    let (time, after) = timed(|| {
        loop {
            let stats = by_itself.stats();
            if !stats.space_goal_missed {
                break stats;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    println!(
        "\nMerged by hand: {} segments. By the policy: {:?}; in the end {:.2} of the disk's bytes are \
         live (goal missed: {}), and {:.2} {:.1} s later, when the goal is met.",
        merges.load(Relaxed),
        before.merges,
        live(&before),
        before.space_goal_missed,
        live(&after),
        time.as_secs_f64(),
    );
    busy.abort();
    by_itself.abort();
}

/// Gets of small values while large ones are put: nothing of a large put but its first hundred
/// bytes is under a lock.
fn large(dir: &Path) {
    warm(dir, 3 << 30);
    let store = Store::options().merge_policy(never()).open(dir.join("large")).expect("a store");
    for n in 0..10_000 {
        store.put(key(n), [7; 100]).expect("put");
    }
    let value = vec![7; 16 << 20];
    let gets = |during: bool| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let puts = scope.spawn(|| {
                let mut n = 0u64;
                while during && !stop.load(Relaxed) && n < 40 {
                    // Any of a thousand keys, and so in any shard.
                    store.put(key(n % 1000), &value).expect("put");
                    n += 1;
                }
                n
            });
            let mut seen = Histogram::<u64>::new(3).expect("made");
            let mut state = 7;
            let until = Instant::now() + Duration::from_millis(if during { 5000 } else { 300 });
            while Instant::now() < until && !(during && puts.is_finished()) {
                let (time, value) =
                    timed(|| store.get(key(1000 + next(&mut state) % 9000)).expect("sound"));
                black_box(value);
                seen.record(time.as_nanos() as u64).expect("recorded");
            }
            stop.store(true, Relaxed);
            (seen, puts.join().expect("put"))
        })
    };
    println!("\n### Gets of 100 B while values of 16 MiB are put\n");
    println!("| | p50, ns | p99 | p99.9 | max | puts |\n|---|---:|---:|---:|---:|---:|");
    for (name, during) in [("alone", false), ("beside 16 MiB puts", true)] {
        let (seen, puts) = gets(during);
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| seen.value_at_quantile(q));
        println!("| {name} | {p50} | {p99} | {p999} | {} | {puts} |", seen.max());
    }
    store.abort();
}

const WRITERS: u64 = 16;

/// So many writes by sixteen threads, each waiting until its own is durable.
fn together(write: impl Fn(u64) + Sync) -> f64 {
    const EACH: u64 = 400;
    let (time, ()) = timed(|| {
        std::thread::scope(|scope| {
            for thread in 0..WRITERS {
                let write = &write;
                scope.spawn(move || (0..EACH).for_each(|n| write(thread * EACH + n)));
            }
        });
    });
    each(time, (WRITERS * EACH) as usize)
}

fn durable(dir: &Path) {
    warm(dir, 1 << 30);
    let log = CommitLog::options().durability(Durability::Synced).open(dir.join("log"));
    let log = log.expect("a log");
    let options = Store::options().durability(Durability::Synced).merge_policy(never());
    let store = options.open(dir.join("durable")).expect("a store");
    let series: Vec<Series> = rounds(
        setting("TAILCASK_BENCH_ROUNDS", 9),
        &mut [
            ("append", &mut || together(|_| _ = log.append(&[7; 132]).expect("appended"))),
            ("put", &mut || together(|n| _ = store.put(key(n), [7; 100]).expect("put"))),
        ],
    );
    report("Durable writes of 16 threads", "ns", &series);
}
