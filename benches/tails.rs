//! How long single operations take: percentiles, the worst, and what the slowest ones waited for.
//!
//! `cargo bench --bench tails` prints the tables of `docs/benchmarks.md`. `TAILCASK_BENCH_ONLY` picks one
//! of `percentiles`, `growth`, `oversize`; `TAILCASK_BENCH_KEYS` says how many keys there are (of 16 B,
//! with values of 100 B), and `TAILCASK_BENCH_SECONDS` how long each row of `percentiles` runs.
//! `TAILCASK_BENCH_STACKS=1` also prints, for each operation that lasts, where in the kernel its thread and
//! the store's own threads are (for that it must run as root, and the times are less exact).
#![allow(missing_docs, reason = "a bench")]

mod common;

use common::{MIB, key, next, scratch, setting, warm};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};
use tailcask::{MergePolicy, Store};

/// Slower operations are asked for what they waited for.
const SLOW: Duration = Duration::from_millis(1);

fn main() {
    let only = std::env::var("TAILCASK_BENCH_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only == name;
    let dir = scratch();
    if setting("TAILCASK_BENCH_STACKS", 0) > 0 {
        std::thread::spawn(watch);
    }
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

/// What the kernel has counted for a thread so far.
#[derive(Clone, Copy)]
struct Counted {
    /// Time on a processor.
    ran: Duration,
    /// Time in which it could have run, and others did.
    ready: Duration,
    /// How often it blocked.
    waits: i64,
    faults: i64,
    reads: i64,
}

/// The counters of the calling thread.
struct Counters {
    schedstat: File,
}

#[allow(unsafe_code, reason = "system calls that rustix lacks")]
impl Counters {
    fn of_this_thread() -> Self {
        Self { schedstat: File::open("/proc/thread-self/schedstat").expect("Linux") }
    }

    fn now(&self) -> Counted {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: it points at room for what the call writes.
        let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
        assert_eq!(result, 0, "getrusage");
        // SAFETY: zeroes are valid, and the call succeeded.
        let usage = unsafe { usage.assume_init() };
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: it points at what the call writes.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        assert_eq!(result, 0, "clock_gettime");
        let mut text = [0; 64];
        let len = self.schedstat.read_at(&mut text, 0).expect("read");
        let text = std::str::from_utf8(&text[..len]).expect("numbers");
        let ready = text.split_whitespace().nth(1).and_then(|ready| ready.parse().ok());
        Counted {
            ran: Duration::new(time.tv_sec as u64, time.tv_nsec as u32),
            ready: Duration::from_nanos(ready.expect("the time in the queue")),
            waits: usage.ru_nvcsw,
            faults: usage.ru_minflt,
            reads: usage.ru_majflt,
        }
    }
}

/// What most of an operation's time went into.
fn cause(took: Duration, before: Counted, after: Counted) -> &'static str {
    let (ran, ready) = (after.ran - before.ran, after.ready - before.ready);
    let rest = took.saturating_sub(ran + ready);
    let (faults, reads) = (after.faults > before.faults, after.reads > before.reads);
    match () {
        () if ready >= ran.max(rest) => "another thread had the core",
        () if ran >= rest && faults => "ran, with page faults",
        () if ran >= rest => "ran",
        // Neither on a processor nor off it: the time that a host takes counts as neither.
        () if after.waits == before.waits => "the host had the core",
        () if reads => "blocked, reading a page",
        () if faults => "blocked in a page fault",
        () => "blocked on a lock or a segment",
    }
}

/// Operations between two looks at the counters, which take longer than some operations.
const LOOK: u64 = 64;
/// What takes as long is not left in the counters of others.
const LONG: Duration = Duration::from_micros(50);

/// A thread whose operations are watched.
struct Watched(Option<Arc<Operation>>);

/// Since when its operation has run, in nanoseconds since the first; 0: there is none.
struct Operation {
    thread: u32,
    since: AtomicU64,
}

static WATCHED: Mutex<Vec<Arc<Operation>>> = Mutex::new(Vec::new());
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Watched {
    fn this_thread() -> Self {
        if setting("TAILCASK_BENCH_STACKS", 0) == 0 {
            return Self(None);
        }
        let link = std::fs::read_link("/proc/thread-self").expect("Linux");
        let thread = link.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("a number");
        let operation = Arc::new(Operation { thread, since: AtomicU64::new(0) });
        WATCHED.lock().expect("no panic").push(operation.clone());
        Self(Some(operation))
    }

    fn begins(&self, at: Instant) {
        if let Some(operation) = &self.0 {
            let since = at.saturating_duration_since(*STARTED).as_nanos() as u64;
            operation.since.store(since.max(1), Relaxed);
        }
    }

    fn ends(&self) {
        if let Some(operation) = &self.0 {
            operation.since.store(0, Relaxed);
        }
    }
}

/// Prints where the threads are while an operation lasts.
fn watch() {
    loop {
        std::thread::sleep(Duration::from_micros(300));
        let now = STARTED.elapsed().as_nanos() as u64;
        let all: Vec<_> = WATCHED.lock().expect("no panic").clone();
        for operation in all {
            let since = operation.since.load(Relaxed);
            if since == 0 || now.saturating_sub(since) < SLOW.as_nanos() as u64 {
                continue;
            }
            let mut lines = vec![place(operation.thread)];
            for task in std::fs::read_dir("/proc/self/task").expect("Linux").flatten() {
                let thread = task.file_name().to_str().and_then(|id| id.parse().ok());
                let place = place(thread.unwrap_or(0));
                if place.starts_with("tailcask-") {
                    lines.push(place);
                }
            }
            if operation.since.load(Relaxed) == since {
                eprintln!("at {} us, for {} us:", since / 1000, (now - since) / 1000);
                lines.iter().for_each(|line| eprintln!("    {line}"));
            }
        }
    }
}

/// A thread's name, state, and place in the kernel.
fn place(thread: u32) -> String {
    let read = |what| std::fs::read_to_string(format!("/proc/self/task/{thread}/{what}"));
    let name = read("comm").unwrap_or_default();
    let state = read("stat").unwrap_or_default();
    let state = state.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?');
    let stack = read("stack").unwrap_or_default();
    let calls = stack.lines().filter_map(|line| line.split_whitespace().nth(1));
    let calls: Vec<_> = calls.map(|call| call.split('+').next().unwrap_or(call)).collect();
    format!("{} {state} {}", name.trim(), calls.join(" < "))
}

/// Times of operations, and why the slow ones were slow.
struct Times {
    all: Histogram<u64>,
    slow: BTreeMap<&'static str, (u64, Duration)>,
    /// Those of the timing thread, and what they said shortly before.
    counters: Option<(Counters, Counted)>,
}

impl Times {
    fn new() -> Self {
        let all = Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("bounds");
        Self { all, slow: BTreeMap::new(), counters: None }
    }

    /// Times one operation.
    fn time<R>(&mut self, watched: &Watched, run: impl FnOnce() -> R) {
        let (counters, before) = self.counters.get_or_insert_with(|| {
            let counters = Counters::of_this_thread();
            let now = counters.now();
            (counters, now)
        });
        let started = Instant::now();
        watched.begins(started);
        drop(black_box(run()));
        let took = started.elapsed();
        watched.ends();
        self.all.saturating_record(took.as_nanos() as u64);
        if took >= LONG || self.all.len().is_multiple_of(LOOK) {
            let now = counters.now();
            if took >= SLOW {
                let (count, worst) = self.slow.entry(cause(took, *before, now)).or_default();
                (*count, *worst) = (*count + 1, took.max(*worst));
            }
            *before = now;
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
        if setting("TAILCASK_BENCH_STACKS", 0) > 0 {
            eprintln!("those were of {what}");
        }
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
                let watched = Watched::this_thread();
                while !stop.load(Relaxed) {
                    let number = next(&mut state);
                    times.time(&watched, || run(number));
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
        let (started, watched) = (Instant::now(), Watched::this_thread());
        for n in from..to {
            times.time(&watched, || store.put(key(n), [7; 100]).expect("put"));
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
            let (mut times, mut n, watched) = (Times::new(), 0, Watched::this_thread());
            while !stop.load(Relaxed) {
                times.time(&watched, || store.put(key(n), [1; 100]).expect("put"));
                n += 1;
            }
            times
        });
        std::thread::sleep(Duration::from_millis(500));
        let mut times = Times::new();
        times.time(&Watched::this_thread(), || store.put("large", &value).expect("put"));
        stop.store(true, Relaxed);
        (small.join().expect("it puts"), times)
    });
    small.row("100 B");
    large.row("512 MiB");
    store.close().expect("closed");
    std::fs::remove_dir_all(path).expect("removed");
}
