//! A store larger than the memory that it may use: reads and overwrites anywhere, batches, lookups of
//! many keys, and hot keys beside cold ones; with the cache budget, and with read-around as below it.
//!
//! `cargo bench --bench beyond_ram` prints the tables of `docs/benchmarks.md`. It takes a minute.
//! * `TAILCASK_BENCH_VALUES`: number of values of 1000 bytes (default 400,000: 420 MB).
//! * `TAILCASK_BENCH_LIMIT_MIB`: the limit (default: a quarter of the data).
//! * `TAILCASK_BENCH_SECONDS`: seconds for each row (default 2).
//!
//! The limit is that of a memory control group, which the bench makes inside its own and removes again;
//! that needs the right to do so. Linux only.
#![allow(missing_docs, reason = "a bench")]

mod common;

use common::{key, next, scratch, setting};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tailcask::{Batch, Store};

const VALUE: usize = 1000;
/// Set in the process that is limited, to the directory that it works in.
const INSIDE: &str = "TAILCASK_BENCH_INSIDE";

fn values() -> u64 {
    setting("TAILCASK_BENCH_VALUES", 400_000) as u64
}

fn limit() -> u64 {
    let quarter = (values() * (VALUE as u64 + 32) / 4) >> 20;
    (setting("TAILCASK_BENCH_LIMIT_MIB", quarter as usize) as u64) << 20
}

fn seconds() -> u64 {
    setting("TAILCASK_BENCH_SECONDS", 2) as u64
}

/// A control group of this process's own with a limit of memory.
struct Group(PathBuf);

impl Group {
    fn new() -> std::io::Result<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup")?;
        let mut places = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            match (parts.next()?, parts.next()?.trim_start_matches('/')) {
                ("memory", path) => Some(("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes")),
                ("", path) => Some(("/sys/fs/cgroup", path, "memory.max")),
                _ => None,
            }
        });
        let (mount, path, file) = places.next().ok_or(std::io::ErrorKind::NotFound)?;
        let name = format!("tailcask-bench-{}", std::process::id());
        let this = Self(Path::new(mount).join(path).join(name));
        std::fs::create_dir(&this.0)?;
        std::fs::write(this.0.join(file), limit().to_string())?;
        Ok(this)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever was in it has ended; what it had in memory is counted elsewhere now.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("{} could not be removed", self.0.display());
    }
}

fn main() {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return inside(Path::new(&dir));
    }
    let group = match Group::new() {
        Ok(group) => group,
        Err(error) => return println!("no control group can be made here ({error}): no figures"),
    };
    let dir = scratch();
    let program = std::env::current_exe().expect("it runs");
    let mut child = Command::new("/bin/sh");
    let enter = format!("echo $$ > '{}/cgroup.procs' && exec \"$0\"", group.0.display());
    let ended = child.args(["-c", &enter]).arg(program).env(INSIDE, dir.path()).status();
    assert!(ended.expect("started").success());
}

fn value(n: u64) -> [u8; VALUE] {
    let mut value = [n as u8; VALUE];
    value[..8].copy_from_slice(&n.to_le_bytes());
    value
}

/// Bytes that this process had read from the device.
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: ")).expect("a line of it");
    line.parse().expect("a number")
}

/// Runs `step` in some threads until the time is over; it returns how many operations it has done.
fn row(name: &str, threads: u64, step: impl Fn(&mut u64) -> u64 + Sync) {
    let done = AtomicU64::new(0);
    let (before, started) = (bytes_read(), Instant::now());
    let end = started + Duration::from_secs(seconds());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (step, done) = (&step, &done);
            scope.spawn(move || {
                let mut seed = started.elapsed().as_nanos() as u64 ^ thread << 40;
                while Instant::now() < end {
                    done.fetch_add(step(&mut seed), Relaxed);
                }
            });
        }
    });
    let done = done.load(Relaxed);
    let speed = done as f64 / started.elapsed().as_secs_f64();
    let read = (bytes_read() - before) as f64 / done as f64;
    println!("| {name} | {threads} | {speed:.0} | {read:.0} |");
}

fn table(title: &str, store: &Store) {
    let cache = store.stats().cache;
    println!("\n### {title}\n");
    println!(
        "budget {} MiB, exceeded: {}, in memory: {:.0} %\n",
        cache.budget.min(1 << 50) >> 20,
        cache.is_exceeded,
        cache.resident.unwrap_or_default() * 100.0
    );
    println!("| | threads | a second | bytes read each |\n|---|---:|---:|---:|");
    let some = |seed: &mut u64| next(seed) % values();
    let get = |seed: &mut u64| {
        let n = some(seed);
        let found = store.get(key(n)).expect("sound").expect("there");
        assert_eq!(found[..8], n.to_le_bytes());
        1
    };
    let put = |seed: &mut u64| {
        let n = some(seed);
        store.put(key(n), value(n)).expect("put");
        1
    };
    let batch = |seed: &mut u64| {
        let mut batch = Batch::new();
        for _ in 0..100 {
            let n = some(seed);
            batch.put(key(n), value(n));
        }
        store.write(&batch).expect("written");
        100
    };
    let many = |seed: &mut u64| {
        let keys: [_; 32] = std::array::from_fn(|_| key(some(seed)));
        assert!(store.get_many(&keys).expect("sound").iter().all(Option::is_some));
        32
    };
    for threads in [1, 16] {
        row("get", threads, get);
    }
    row("get_many of 32", 1, many);
    for threads in [1, 16] {
        row("overwrite", threads, put);
    }
    for threads in [1, 16] {
        row("overwrites in batches of 100", threads, batch);
    }
    let scan = |_: &mut u64| {
        let end = Instant::now() + Duration::from_secs(seconds());
        let pairs = store.iter().map(|pair| pair.expect("sound"));
        pairs.take_while(|_| Instant::now() < end).count() as u64
    };
    row("scan", 1, scan);
}

/// Percentiles of gets of hot keys, in us.
fn hot_gets(store: &Store, seconds: u64) -> [f64; 3] {
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut times, mut seed) = (Vec::new(), 7);
    while Instant::now() < end {
        let key = hot(next(&mut seed) % HOT);
        let started = Instant::now();
        assert!(store.get(key).expect("sound").is_some());
        times.push(started.elapsed().as_nanos() as f64 / 1000.0);
        // At a rate at which the processors do not matter.
        std::thread::sleep(Duration::from_micros(50));
    }
    times.sort_unstable_by(f64::total_cmp);
    [0.5, 0.99, 0.999].map(|share| times[(times.len() as f64 * share) as usize])
}

const HOT: u64 = 1000;

fn hot(n: u64) -> [u8; 16] {
    key(u64::MAX - n)
}

fn beside(store: &Store) {
    let seconds = seconds();
    (0..HOT).for_each(|n| _ = store.put(hot(n), [7; 100]).expect("put"));
    println!("\n### Hot gets beside cold operations, in us\n");
    println!("| beside | p50 | p99 | p99.9 |\n|---|---:|---:|---:|");
    let print = |what: &str, [p50, p99, p999]: [f64; 3]| {
        println!("| {what} | {p50:.1} | {p99:.1} | {p999:.1} |");
    };
    print("nothing", hot_gets(store, seconds));
    for (what, writes) in
        [("8 threads of cold gets", false), ("8 threads of cold overwrites", true)]
    {
        let (end, found) = (AtomicBool::new(false), Mutex::new([0.0; 3]));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let end = &end;
                scope.spawn(move || {
                    let mut seed = thread;
                    while !end.load(Relaxed) {
                        let n = next(&mut seed) % values();
                        if writes {
                            store.put(key(n), value(n)).expect("put");
                        } else {
                            assert!(store.contains_key(key(n)).expect("sound"));
                        }
                    }
                });
            }
            *found.lock().expect("alone") = hot_gets(store, seconds);
            end.store(true, Relaxed);
        });
        print(what, found.into_inner().expect("alone"));
    }
}

fn inside(dir: &Path) {
    let path = dir.join("store");
    let size = setting("TAILCASK_BENCH_SEGMENT_MIB", 16) as u64;
    let store = Store::options().segment_size(size << 20).open(&path).expect("a store");
    println!("{} values of {VALUE} bytes, a limit of {} MiB", values(), limit() >> 20);
    let (time, ()) = common::timed(|| {
        for n in 0..values() {
            store.put(key(n), value(n)).expect("put");
        }
        store.sync().expect("synced");
    });
    println!("filled: {:.0} a second", values() as f64 / time.as_secs_f64());
    assert!(store.stats().cache.is_exceeded, "the limit is seen: {:?}", store.stats().cache);
    table("Beyond the budget", &store);
    beside(&store);
    store.set_cache_budget(u64::MAX);
    table("As below the budget: with read-around", &store);
    store.abort();
}
