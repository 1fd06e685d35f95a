//! Promise 4: what threads see of a store could have been one map that does one thing at a time, also
//! across closing, dying and opening again.
//!
//! `TAILCASK_ROUNDS` says how many histories of each kind.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod checker;
mod worker;

use checker::{History, KEYS, Operation};
use common::children::{self, die};
use common::{Finish, Random, rounds};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ScopedJoinHandle;
use tailcask::Store;
use worker::{ALL, BLIND, Record, SINGLE, Worker};

/// Threads meet where processors are free for them, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs beside every history: the log rolls, and maintenance has work.
fn disturb(store: &Store) {
    for n in 0..8 {
        store.put(format!("filler-{n}"), vec![n; 100_000]).unwrap();
    }
    store.sync().unwrap();
    assert!(store.iter().all(|pair| pair.is_ok()));
    store.log().maintain().unwrap();
    store.merge().unwrap();
}

/// Has threads begin their operations at the same moment: left alone they rarely meet, and a thread
/// that is started takes longer than all operations of another one.
struct Meeting<'a> {
    arrived: &'a AtomicUsize,
    threads: usize,
    times: usize,
}

impl Meeting<'_> {
    fn wait(&mut self) {
        self.times += 1;
        let all = self.times * self.threads;
        let mut arrived = self.arrived.fetch_add(1, Ordering::SeqCst) + 1;
        for n in 0u32.. {
            if arrived >= all {
                break;
            }
            if n % 128 == 127 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
            arrived = self.arrived.load(Ordering::SeqCst);
        }
    }
}

/// No thread waits for one that is done or has panicked.
impl Drop for Meeting<'_> {
    fn drop(&mut self) {
        self.arrived.fetch_add(1 << 40, Ordering::SeqCst);
    }
}

/// How a history is made.
#[derive(Clone, Copy, Debug)]
struct Shape {
    seed: u64,
    threads: usize,
    keys: usize,
    /// Of each thread, between two pauses.
    operations: usize,
    /// Which operations: one of the constants of `worker`.
    kinds: usize,
    /// 32, or so few that keys collide.
    tag_bits: u32,
}

impl Shape {
    fn new(seed: u64, kinds: usize, operations: usize) -> Self {
        let mut random = Random::new(seed);
        let (threads, keys) = (3 + random.index(6), 1 + random.index(KEYS));
        let tag_bits = if random.index(4) == 0 { 1 } else { 32 };
        Self { seed, threads, keys, operations, kinds, tag_bits }
    }

    fn open(&self, dir: &Path) -> Store {
        let options = Store::options().segment_size(2 << 20).tag_bits(self.tag_bits);
        // In every other one full segments are taken for cold, whatever is in memory.
        let budget = if (self.seed / 2).is_multiple_of(2) { 0 } else { u64::MAX };
        options.cache_budget(budget).open(dir.join("store")).unwrap()
    }

    fn worker<'a>(&self, store: &'a Store, clock: &'a AtomicU64, record: Record) -> Worker<'a> {
        let random = Random::new(self.seed << 40 | clock.fetch_add(1, Ordering::SeqCst));
        Worker::new(store, clock, (self.keys, self.kinds), random, record)
    }

    /// All threads do their operations, and are disturbed meanwhile.
    fn phase(&self, store: &Store, clock: &AtomicU64) -> Vec<Operation> {
        let (done, arrived) = (AtomicBool::new(false), AtomicUsize::new(0));
        let work = || {
            let mut worker = self.worker(store, clock, Record::Memory(Vec::new()));
            let mut meeting = Meeting { arrived: &arrived, threads: self.threads, times: 0 };
            for n in 0..self.operations {
                // Half of the histories go in step, and all at one key; of the others only the
                // beginnings do.
                let in_step = self.seed.is_multiple_of(2);
                if n == 0 || in_step {
                    meeting.wait();
                }
                if in_step { worker.operate_on(n % self.keys) } else { worker.operate() }
            }
            worker.recorded()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    disturb(store);
                }
            });
            let finish = Finish(&done);
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(work)).collect();
            let results: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
            drop(finish);
            results.into_iter().flat_map(|result| result.expect("its panic is above")).collect()
        })
    }

    /// What is there at last.
    fn look(&self, store: &Store, clock: &AtomicU64) -> Vec<Operation> {
        let mut worker = self.worker(store, clock, Record::Memory(Vec::new()));
        (0..self.keys).for_each(|k| worker.get(k));
        worker.iterate();
        worker.recorded()
    }

    /// A history that goes on when the store was closed, or left as by a process that dies.
    fn run(&self, phases: usize) -> History {
        let dir = tempfile::tempdir().unwrap();
        let (clock, mut random) = (AtomicU64::new(1), Random::new(self.seed));
        let mut operations = Vec::new();
        let mut store = self.open(dir.path());
        for _ in 0..phases {
            operations.extend(self.phase(&store, &clock));
            if random.index(4) == 0 {
                continue;
            }
            if random.flip() {
                store.close().unwrap();
            } else {
                store.abort();
            }
            store = self.open(dir.path());
        }
        operations.extend(self.look(&store, &clock));
        History { operations, deaths: Vec::new() }
    }
}

#[test]
fn histories_of_operations_on_several_keys_are_linearizable() {
    let _alone = alone();
    for seed in 0..rounds(40) {
        let shape = Shape::new(seed, ALL, 20);
        println!("{shape:?}");
        shape.run(4).check();
    }
}

/// The log has what the keys had, whichever thread came last: there is an end after every two
/// operations on a key.
#[test]
fn histories_of_short_lives_are_linearizable() {
    let _alone = alone();
    for seed in 0..rounds(10) {
        let shape = Shape::new(seed * 2, BLIND, 2 * KEYS);
        let shape = Shape { keys: KEYS, threads: 2 + seed as usize % 3, ..shape };
        println!("{shape:?}");
        shape.run(20).check_each_key();
    }
}

/// Longer ones, as they are checked key by key.
#[test]
fn histories_of_single_keys_are_linearizable() {
    let _alone = alone();
    for seed in 0..rounds(30) {
        let shape = Shape::new(seed, SINGLE, 60);
        println!("{shape:?}");
        shape.run(4).check_each_key();
    }
}

/// All that a child has to know.
fn role(shape: &Shape, clock: u64, limit: u64) -> String {
    let Shape { seed, threads, keys, tag_bits, .. } = shape;
    format!("{seed} {threads} {keys} {tag_bits} {clock} {limit}")
}

#[test]
#[ignore = "the process that the test below has killed"]
fn child() {
    let Some((role, dir)) = children::role() else { return };
    // A panic has to end the process, whatever its other threads do.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::exit(3);
    }));
    let mut words = role.split(' ');
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (seed, threads, keys) = (number(), number() as usize, number() as usize);
    let (tag_bits, clock, limit) = (number() as u32, number(), number());
    let shape = Shape { seed, threads, keys, operations: 0, kinds: ALL, tag_bits };
    work_until_killed(&shape, &dir, clock, limit);
}

/// The thread that does the last operation has the process killed in the midst of the others'.
fn work_until_killed(shape: &Shape, dir: &Path, clock: u64, limit: u64) {
    let store = shape.open(dir);
    let (started, done) = (clock, AtomicU64::new(0));
    let clock = AtomicU64::new(clock);
    let work = |thread: usize| {
        let file = dir.join(format!("operations-{started}-{thread}"));
        let mut worker = shape.worker(&store, &clock, Record::File(File::create(file).unwrap()));
        loop {
            worker.operate();
            if done.fetch_add(1, Ordering::Relaxed) == limit {
                die();
            }
        }
    };
    std::thread::scope(|scope| {
        let work = &work;
        (0..shape.threads).for_each(|thread| drop(scope.spawn(move || work(thread))));
        loop {
            disturb(&store);
        }
    });
}

fn run_child(dir: &Path, shape: &Shape, clock: u64, limit: u64) {
    use std::os::unix::process::ExitStatusExt;
    let status = children::command(&role(shape, clock, limit), dir).status().unwrap();
    assert_eq!(status.signal(), Some(9), "it ended by itself: {status}");
}

/// What a dead process has said. What it said last may be cut short, and then counts as not said.
fn said(dir: &Path) -> Vec<Operation> {
    let mut operations = std::collections::BTreeMap::new();
    for file in std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()) {
        if file.is_dir() {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let operation: Operation = line.parse().unwrap();
            // Its end is said after its call, and takes that one's place.
            operations.insert(operation.called, operation);
        }
        std::fs::remove_file(file).unwrap();
    }
    operations.into_values().collect()
}

#[test]
fn histories_that_are_cut_by_sigkill_are_linearizable() {
    let _alone = alone();
    let mut under_way = 0;
    for seed in 0..rounds(20) {
        let dir = tempfile::tempdir().unwrap();
        let (shape, mut random) = (Shape::new(seed, ALL, 0), Random::new(seed));
        println!("{shape:?}");
        let (mut history, mut clock) = (History::default(), 1);
        for _ in 0..4 {
            run_child(dir.path(), &shape, clock, random.next() % 150);
            history.operations.extend(said(dir.path()));
            let times = history.operations.iter().flat_map(|o| [Some(o.called), o.returned]);
            // A time is the id of a value too, and those that were not put to use are not known.
            clock = times.flatten().max().unwrap_or(clock) + 1000;
            history.deaths.push(clock - 1);
        }
        let clock = AtomicU64::new(clock);
        let store = shape.open(dir.path());
        history.operations.extend(shape.look(&store, &clock));
        under_way += history.operations.iter().filter(|o| o.returned.is_none()).count();
        history.check();
    }
    println!("{under_way} operations were under way when their process was killed");
    assert!(under_way > 0);
}
