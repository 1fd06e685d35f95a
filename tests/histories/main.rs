//! Promise 4: what threads see of a store could have been one map that does one thing at a time, also
//! across closing, dying and opening again.
//!
//! `TAILCASK_ROUNDS` says how many histories of each kind.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod checker;

use checker::{History, KEYS, Operation, Saw, Step, Wrote};
use common::children::{self, die};
use common::{Finish, Random, rounds};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::Duration;
use tailcask::{Batch, Expected, Expiry, LogPosition, Store, Ttl, WriteError, WriteOptions};

/// Threads meet where processors are free for them, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(n: usize) -> Vec<u8> {
    format!("key-{n}").into_bytes()
}

/// Mostly small, now and then so large that writing it takes longer than a time slice may last.
fn value(id: u32) -> Vec<u8> {
    let words = match id % 32 {
        0 => 20_000,
        1..=4 => 700,
        _ => 1 + id % 8,
    };
    id.to_le_bytes().repeat(words as usize)
}

fn id(found: &[u8]) -> u32 {
    let id = u32::from_le_bytes(found[..4].try_into().unwrap());
    assert!(found == value(id), "what nobody wrote: {} bytes, {id}", found.len());
    id
}

/// The first TTL, of which the others are multiples: so long that it does not matter how long ago a value
/// was written.
const TTL: Duration = Duration::from_secs(1_000_000);
/// How many there are, with none.
const TTLS: u8 = 4;

/// A TTL, as the checker has it, and as the store.
fn ttl_of(ttl: checker::Ttl) -> Ttl {
    match ttl {
        checker::Ttl::Kept => Ttl::Keep,
        checker::Ttl::Is(0) => Ttl::Remove,
        checker::Ttl::Is(nth) => Ttl::Set(TTL * nth.into()),
    }
}

fn number_of(expiry: Expiry) -> u8 {
    match expiry {
        Expiry::Never => 0,
        Expiry::In(left) => left.as_secs().div_ceil(TTL.as_secs()) as u8,
    }
}

fn options_of(ttl: checker::Ttl) -> WriteOptions {
    match ttl_of(ttl) {
        Ttl::Keep => WriteOptions::new().keep_ttl(),
        Ttl::Remove => WriteOptions::new().no_ttl(),
        Ttl::Set(ttl) => WriteOptions::new().ttl(ttl),
    }
}

/// Where operations are recorded: in memory, or where a process that is killed leaves it.
enum Record {
    Memory(Vec<Operation>),
    File(File),
}

impl Record {
    fn write(&mut self, operation: Operation) {
        match self {
            Self::Memory(all) => all.push(operation),
            Self::File(file) => file.write_all(format!("{operation}\n").as_bytes()).unwrap(),
        }
    }
}

/// How many kinds of operations there are: those of [`Worker::operate`], in order.
const ALL: usize = 30;
/// None on several keys.
const SINGLE: usize = 17;
/// Operations that write without reading.
const BLIND: usize = 5;

/// One thread's operations.
struct Worker<'a> {
    store: &'a Store,
    /// Gives each call and each return its time, and each value its id.
    clock: &'a AtomicU64,
    keys: usize,
    kinds: usize,
    random: Random,
    record: Record,
    /// What it last saw or wrote, to have something to swap.
    last: [Option<u32>; KEYS],
    /// Where it last found a value, and which.
    at: [Option<(u32, LogPosition)>; KEYS],
}

impl Worker<'_> {
    /// A TTL for what is written next. Most have none.
    fn new_ttl(&mut self) -> checker::Ttl {
        match self.random.index(6) {
            0 => checker::Ttl::Kept,
            1 => checker::Ttl::Is(1 + self.random.index(usize::from(TTLS) - 1) as u8),
            _ => checker::Ttl::Is(0),
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn new_value(&self) -> (u32, Vec<u8>) {
        let id = self.tick() as u32;
        (id, value(id))
    }

    /// Says what is to be done: where it is not known how it ends, that may have taken effect.
    fn call(&mut self, step: Step) -> u64 {
        let called = self.tick();
        if matches!(self.record, Record::File(_)) {
            self.record.write(Operation { called, returned: None, step });
        }
        called
    }

    fn done(&mut self, called: u64, step: Step) {
        let returned = Some(self.tick());
        let seen = step.saw.iter().filter_map(|&(key, saw)| match saw {
            Saw::Value(id) => Some((key, Some(id))),
            Saw::Absent => Some((key, None)),
            Saw::Present | Saw::Other(_) | Saw::Ttl(_) => None,
        });
        let wrote = step.wrote.iter().filter_map(|&(key, wrote)| match wrote {
            Wrote::Value(id, _) => Some((key, Some(id))),
            Wrote::Removed => Some((key, None)),
            Wrote::Touched(_) => None,
        });
        seen.chain(wrote).for_each(|(key, value)| self.last[key] = value);
        self.record.write(Operation { called, returned, step });
    }

    fn operate(&mut self) {
        let key = self.random.index(self.keys);
        self.operate_on(key);
    }

    fn operate_on(&mut self, key: usize) {
        match self.random.index(self.kinds) {
            0 | 1 => self.put(key),
            2 => self.delete(key),
            3 | 4 => self.put_if_absent(key),
            5 | 6 => self.swap(key),
            7 | 8 => self.update(key),
            9..=11 => self.get(key),
            12 => self.contains(key),
            13 => self.iterate(),
            14 | 15 => self.touch(key),
            16 => self.ttl(key),
            17..=21 => self.get_many(),
            _ => self.batch(),
        }
    }

    fn put(&mut self, k: usize) {
        let ((id, value), ttl) = (self.new_value(), self.new_ttl());
        let step = Step::wrote(k, Wrote::Value(id, ttl));
        let called = self.call(step.clone());
        let at = match ttl {
            checker::Ttl::Is(0) => self.store.put(key(k), value).unwrap(),
            ttl => self.store.put_with(key(k), value, &options_of(ttl)).unwrap(),
        };
        self.at[k] = Some((id, at));
        self.done(called, step);
    }

    fn touch(&mut self, k: usize) {
        let ttl = self.new_ttl();
        let step = Step::saw(k, Saw::Present).and_wrote(k, Wrote::Touched(ttl));
        let called = self.call(step.clone());
        let touched = self.store.touch(key(k), ttl_of(ttl)).unwrap();
        self.done(called, if touched { step } else { Step::saw(k, None) });
    }

    fn ttl(&mut self, k: usize) {
        let called = self.tick();
        let found = self.store.ttl(key(k)).unwrap();
        let saw = found.map_or(Saw::Absent, |expiry| Saw::Ttl(number_of(expiry)));
        self.done(called, Step::saw(k, saw));
    }

    fn delete(&mut self, k: usize) {
        let called = self.call(Step::wrote(k, None));
        let removed = Step::saw(k, Saw::Present).and_wrote(k, None);
        let was = self.store.delete(key(k)).unwrap();
        self.done(called, if was { removed } else { Step::saw(k, None) });
    }

    fn put_if_absent(&mut self, k: usize) {
        let ((id, value), ttl) = (self.new_value(), self.new_ttl());
        let step = Step::saw(k, None).and_wrote(k, Wrote::Value(id, ttl));
        let called = self.call(step.clone());
        let put = self.store.put_if_absent_with(key(k), value, &options_of(ttl)).unwrap();
        if let Some(at) = put {
            self.at[k] = Some((id, at));
        }
        self.done(called, if put.is_some() { step } else { Step::saw(k, Saw::Present) });
    }

    fn swap(&mut self, k: usize) {
        let (expected, new) = (self.last[k], self.random.index(4) > 0);
        let (id, bytes) = self.new_value();
        let wrote = if new { Wrote::Value(id, checker::Ttl::Kept) } else { Wrote::Removed };
        let step = Step::saw(k, expected).and_wrote(k, wrote);
        let called = self.call(step.clone());
        let (old, new) = (expected.map(value), new.then_some(&bytes[..]));
        match self.store.compare_and_swap(key(k), old.as_deref(), new).unwrap() {
            Ok(()) => self.done(called, step),
            Err(mismatch) => {
                let current = mismatch.current.as_deref().map(self::id);
                assert_ne!(current, expected);
                self.done(called, Step::saw(k, current));
            }
        }
    }

    fn update(&mut self, k: usize) {
        let new = (self.random.index(4) > 0).then(|| self.new_value());
        let ttl = if self.random.flip() { checker::Ttl::Kept } else { self.new_ttl() };
        let wrote = new.as_ref().map_or(Wrote::Removed, |new| Wrote::Value(new.0, ttl));
        let called = self.call(Step::wrote(k, wrote));
        let mut seen = None;
        let change = |old: Option<&[u8]>| {
            seen = old.map(id);
            new.as_ref().map(|new| new.1.clone())
        };
        let updated = self.store.update_with(key(k), change, &options_of(ttl)).unwrap();
        assert_eq!(updated.value.as_deref().map(id), new.as_ref().map(|new| new.0));
        self.done(called, Step::saw(k, seen).and_wrote(k, wrote));
    }

    fn get(&mut self, k: usize) {
        let called = self.tick();
        let found = self.store.get(key(k)).unwrap();
        self.at[k] = found.as_ref().map(|found| (id(found), found.position()));
        self.done(called, Step::saw(k, found.as_deref().map(id)));
    }

    fn contains(&mut self, k: usize) {
        let called = self.tick();
        let there = self.store.contains_key(key(k)).unwrap();
        self.done(called, Step::saw(k, if there { Saw::Present } else { Saw::Absent }));
    }

    fn get_many(&mut self) {
        let first = self.random.index(self.keys);
        let wanted: Vec<usize> = (first..self.keys).chain(0..first).collect();
        let wanted = &wanted[..1 + self.random.index(self.keys)];
        let called = self.tick();
        let keys: Vec<_> = wanted.iter().copied().map(key).collect();
        let found = self.store.get_many(&keys).unwrap();
        let ids = found.iter().map(|found| found.as_deref().map(id).into());
        let step = Step { saw: wanted.iter().copied().zip(ids).collect(), wrote: Vec::new() };
        self.done(called, step);
    }

    /// Nothing is promised of an iteration but what it says of each key.
    fn iterate(&mut self) {
        let mut called: Vec<_> = (0..self.keys).map(|_| Some(self.tick())).collect();
        for pair in self.store {
            let pair = pair.unwrap();
            let Some(k) = (0..self.keys).find(|k| key(*k) == pair.key()) else { continue };
            let called = called[k].take().expect("no key comes twice");
            self.done(called, Step::saw(k, Some(id(pair.value()))));
        }
        for (k, called) in called.into_iter().enumerate() {
            called.into_iter().for_each(|called| self.done(called, Step::saw(k, None)));
        }
    }

    fn batch(&mut self) {
        let (mut batch, mut step) = (Batch::new(), Step::default());
        // What it is if something is not as expected.
        let mut otherwise = Vec::new();
        for k in 0..self.keys {
            if self.random.index(3) == 0 {
                let (saw, conflict) = self.expect(&mut batch, k);
                step.saw.push((k, saw));
                otherwise.push((k, conflict));
            }
        }
        for k in 0..self.keys {
            match self.random.index(4) {
                0 => {}
                1 => {
                    batch.delete(key(k));
                    step.wrote.push((k, Wrote::Removed));
                }
                _ => {
                    let ((id, value), ttl) = (self.new_value(), self.new_ttl());
                    match ttl {
                        checker::Ttl::Is(0) => batch.put(key(k), value),
                        ttl => batch.put_with(key(k), value, ttl_of(ttl)),
                    };
                    step.wrote.push((k, Wrote::Value(id, ttl)));
                }
            }
        }
        let called = self.call(step.clone());
        match self.store.write(&batch) {
            Ok(_) => self.done(called, step),
            Err(WriteError::Conflict(conflict)) => {
                let (k, saw) = otherwise[conflict.index];
                assert_eq!(conflict.key, key(k));
                let saw = if conflict.found.is_some() { saw } else { Saw::Absent };
                self.done(called, Step::saw(k, saw));
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Has a batch expect something of a key. Returns what it saw if that holds; and if it does not, and
    /// the key has a value, what it saw then.
    fn expect(&mut self, batch: &mut Batch, k: usize) -> (Saw, Saw) {
        match (self.random.index(4), self.last[k], self.at[k]) {
            (0, ..) => {
                batch.expect(key(k), Expected::Present);
                // It is absent if that does not hold.
                (Saw::Present, Saw::Absent)
            }
            (1, _, Some((id, at))) => {
                batch.expect(key(k), Expected::Position(at));
                // The same value may be there again, by a touch.
                (Saw::Value(id), Saw::Present)
            }
            (_, Some(id), _) => {
                batch.expect(key(k), Expected::Value(&value(id)));
                (Saw::Value(id), Saw::Other(id))
            }
            (_, None, _) => {
                batch.expect(key(k), Expected::Absent);
                (Saw::Absent, Saw::Present)
            }
        }
    }
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
    /// Which operations: one of the constants above.
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
        let (keys, kinds, last, at) = (self.keys, self.kinds, [None; KEYS], [None; KEYS]);
        Worker { store, clock, keys, kinds, random, record, last, at }
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
            recorded(worker)
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
        recorded(worker)
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

fn recorded(worker: Worker<'_>) -> Vec<Operation> {
    match worker.record {
        Record::Memory(all) => all,
        Record::File(_) => unreachable!("only of what is in memory"),
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
