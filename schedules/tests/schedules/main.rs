//! Promise 4, under schedules that a seed decides: the whole store, its log, merges and a disk in memory,
//! compiled against shuttle, which says at each atomic operation, lock and wait which thread goes on.
//!
//! `TAILCASK_ROUNDS` says how many schedules, `TAILCASK_SEED` which ones to replay: a failure names it.

extern crate tailcask_scheduled as tailcask;

#[path = "../../../tests/histories/checker.rs"]
mod checker;
mod explore;
#[path = "../../../tests/histories/worker.rs"]
mod worker;

#[path = "../../../tests/common/random.rs"]
mod random;

/// As the included files know it.
mod common {
    pub(crate) use crate::random::{Random, rounds};
}

use checker::{History, Operation};
use common::Random;
use explore::explore;
use shuttle::thread;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use tailcask::{Batch, CommitLog, Durability, LogPosition, LogReader, Maintenance, ReadError};
use tailcask::{SimulatedDisk, Store, WriteOptions};
use worker::{ALL, Record, Worker};

/// What a schedule is of.
#[derive(Clone, Copy, Debug)]
struct Shape {
    number: u64,
    threads: u64,
    keys: usize,
    /// Of each thread.
    operations: usize,
    /// Threads that maintain the store meanwhile.
    disturbing: u64,
    /// 32, or so few that keys collide.
    tag_bits: u32,
}

impl Shape {
    fn new(number: u64) -> Self {
        let mut random = Random::new(number);
        Self {
            number,
            threads: 2 + random.below(2),
            keys: 1 + random.index(3),
            operations: 2 + random.index(3),
            disturbing: random.below(3),
            tag_bits: if random.index(4) == 0 { 1 } else { 32 },
        }
    }

    fn open(&self, disk: &SimulatedDisk) -> Store {
        let options = Store::options().maintenance(Maintenance::Manual);
        let options = options.segment_unit(8192).segment_size(8192).tag_bits(self.tag_bits);
        // In every other one full segments are taken for cold.
        let budget = if self.number.is_multiple_of(2) { 0 } else { u64::MAX };
        options.cache_budget(budget).open_simulated(disk).expect("opened")
    }

    fn worker<'a>(&self, store: &'a Store, clock: &'a AtomicU64, nth: u64) -> Worker<'a> {
        let random = Random::new(self.number << 8 | nth);
        let kinds = (self.keys, ALL);
        Worker::new(store, clock, kinds, random, Record::Memory(Vec::new()))
    }

    /// All threads do their operations, beside those that maintain the store.
    fn run(&self, store: &Store, clock: &AtomicU64) -> Vec<Operation> {
        thread::scope(|scope| {
            for nth in 0..self.disturbing {
                scope.spawn(move || disturb(store, Random::new(self.number << 8 | 0x80 | nth)));
            }
            let work = |nth| {
                move || {
                    let mut worker = self.worker(store, clock, nth);
                    (0..self.operations).for_each(|_| worker.operate());
                    worker.recorded()
                }
            };
            let threads: Vec<_> = (0..self.threads).map(|nth| scope.spawn(work(nth))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    /// What is there at last.
    fn look(&self, store: &Store, clock: &AtomicU64) -> Vec<Operation> {
        let mut worker = self.worker(store, clock, 0xff);
        (0..self.keys).for_each(|key| worker.get(key));
        worker.iterate();
        worker.recorded()
    }
}

/// What maintenance does, and what users do beside it.
fn disturb(store: &Store, mut random: Random) {
    for _ in 0..1 + random.index(3) {
        match random.index(7) {
            0 => store.roll().expect("rolled"),
            1 | 2 => {
                store.roll().expect("rolled");
                store.merge().expect("merged");
            }
            3 => drop(store.sync().expect("synced")),
            4 => drop(store.maintain().expect("maintained")),
            5 => assert!(store.iter().all(|pair| pair.is_ok())),
            _ => assert!(store.stats().damaged.is_empty()),
        }
    }
}

/// Also over closing and dying, and what was on the disk before.
fn a_history(number: u64) {
    let shape = Shape::new(number);
    let (disk, clock) = (SimulatedDisk::new(), AtomicU64::new(1));
    let mut store = shape.open(&disk);
    let mut operations = shape.run(&store, &clock);
    if number.is_multiple_of(3) {
        if number.is_multiple_of(2) {
            store.close().expect("closed")
        } else {
            store.abort()
        }
        store = shape.open(&disk);
    }
    operations.extend(shape.look(&store, &clock));
    History { operations, deaths: Vec::new() }.check();
    assert!(store.verify().expect("verified").frames > 0 || store.is_empty());
}

#[test]
fn histories_under_any_schedule_are_linearizable() {
    explore(2000, a_history);
}

/// What one thread has written, each value larger than the one before.
#[derive(Clone, Debug, Default)]
struct Written {
    /// The last one that was begun.
    begun: u32,
    /// The last one that survives power loss.
    synced: u32,
    /// Those that were acknowledged, and where they are.
    all: Vec<(u32, LogPosition)>,
    /// Those that were written to both keys.
    batches: Vec<u32>,
    /// Those that deleted the first key.
    deletes: Vec<u32>,
}

/// The two keys of a thread: batches write both, puts and deletes the first one.
fn keys(nth: usize) -> [String; 2] {
    [format!("put-{nth}"), format!("batch-{nth}")]
}

fn write_on(store: &Store, nth: usize, random: &mut Random, written: &Mutex<Written>) {
    let [put, both] = keys(nth);
    for n in 1..=3 + random.below(3) as u32 {
        let (synced, kind) = (random.flip(), random.index(4));
        let (is_batch, is_delete) = (kind == 0, kind == 1);
        {
            let mut written = written.lock().expect("no panic");
            written.begun = n;
            written.batches.extend(is_batch.then_some(n));
            written.deletes.extend(is_delete.then_some(n));
        }
        let durability = if synced { Durability::Synced } else { Durability::Buffered };
        let (options, value) = (WriteOptions::new().durability(durability), n.to_le_bytes());
        let at = if is_batch {
            let mut batch = Batch::new();
            store.write_with(batch.put(&put, value).put(&both, value), &options).map(Some)
        } else if is_delete {
            // Where there is nothing to be deleted, nothing is written.
            store.delete_with(&put, &options)
        } else {
            store.put_with(&put, value, &options).map(Some)
        };
        let mut written = written.lock().expect("no panic");
        written.all.extend(at.expect("written").map(|at| (n, at)));
        if synced {
            written.synced = n;
        }
    }
}

/// What is there after power loss is what some beginning of the log has, with all that was synced.
fn check_durable(store: &Store, known: &[Written], at_last: &[Written]) {
    let found: Vec<_> = (0..known.len())
        .map(|nth| keys(nth).map(|key| store.get(key).expect("sound")))
        .map(|pair| pair.map(|value| value.map(|value| (number_of(&value), value.written_at()))))
        .collect();
    let end = found.iter().flatten().flatten().map(|&(_, at)| at).max();
    for (([put, both], known), at_last) in found.iter().zip(known).zip(at_last) {
        let before = at_last.all.iter().filter(|&&(_, at)| Some(at) < end).map(|&(n, _)| n).max();
        // Whether the last write that is there may have been this one.
        let fits = |last: u32| {
            let batch = at_last.batches.iter().copied().filter(|&n| n <= last).max();
            // No batch is torn, what was synced is there, and there is no hole.
            both.map_or(0, |both| both.0) == batch.unwrap_or(0)
                && (known.synced..=at_last.begun).contains(&last)
                && before.is_none_or(|before| before <= last)
        };
        let is_right = match put {
            Some((put, _)) => fits(*put),
            None => fits(0) || at_last.deletes.iter().any(|&n| fits(n)),
        };
        assert!(is_right, "{put:?} and {both:?} are left: {known:?}, then {at_last:?}");
    }
}

fn number_of(value: &[u8]) -> u32 {
    u32::from_le_bytes(value.try_into().expect("four bytes"))
}

/// The power fails at any moment, or at the end, and once more when the log has recovered from that.
fn a_power_loss(number: u64) {
    let (shape, mut random) = (Shape::new(number), Random::new(!number));
    let disk = SimulatedDisk::new();
    let store = shape.open(&disk);
    let written: Vec<_> = (0..shape.threads).map(|_| Mutex::<Written>::default()).collect();
    let now = || written.iter().map(|one| one.lock().expect("no panic").clone()).collect();
    let (fails_after, image) = (random.below(600), Mutex::new(None));
    thread::scope(|scope| {
        let (store, image, now) = (&store, &image, &now);
        for nth in 0..=shape.disturbing {
            scope.spawn(move || disturb(store, Random::new(number << 8 | 0x80 | nth)));
        }
        for (nth, written) in written.iter().enumerate() {
            let mut random = Random::new(number << 8 | nth as u64);
            scope.spawn(move || write_on(store, nth, &mut random, written));
        }
        let disk = &disk;
        scope.spawn(move || {
            (0..fails_after).for_each(|_| thread::yield_now());
            // First what is acknowledged, then what the device has.
            let known: Vec<Written> = now();
            let left = disk.power_loss_at_random(number);
            *image.lock().expect("no panic") = Some((known, left));
        });
    });
    let at_last: Vec<Written> = now();
    let in_between = image.into_inner().expect("no panic").expect("taken");
    let (known, left) = if number.is_multiple_of(3) {
        (at_last.clone(), disk.power_loss_at_random(number))
    } else {
        in_between
    };
    let recovered = shape.open(&left);
    check_durable(&recovered, &known, &at_last);
    let again = left.power_loss_at_random(!number);
    check_durable(&shape.open(&again), &known, &at_last);
}

#[test]
fn what_is_synced_survives_power_loss_under_any_schedule() {
    explore(1000, a_power_loss);
}

/// An entry so long that a few, or it alone, fill a segment.
fn entry(n: u32, random: &mut Random) -> Vec<u8> {
    let mut entry = vec![0; [2000, 3000, 6000, 6000][random.index(4)]];
    entry[..4].copy_from_slice(&n.to_le_bytes());
    entry
}

/// Appends, and truncates before entries that it draws: `dropped` is told beforehand.
fn append_and_truncate(log: &CommitLog, random: &mut Random, dropped: &Mutex<LogPosition>) {
    let mut positions = Vec::new();
    for n in 0..6 + random.below(6) as u32 {
        positions.push(log.append(&entry(n, random)).expect("appended"));
        if random.flip() {
            log.sync().expect("synced");
            log.maintain().expect("maintained");
            let last = positions.len() - 1;
            let at = positions[if random.flip() { last } else { random.index(last + 1) }];
            let mut dropped = dropped.lock().expect("no panic");
            *dropped = at.max(*dropped);
            drop(dropped);
            log.truncate_before(at).expect("truncated");
        }
    }
}

/// A reader beside truncations.
struct Reading<'a> {
    reader: LogReader<'a>,
    /// What it has read.
    known: Vec<(LogPosition, u32)>,
    /// Where it has gone to: the begin of a segment, or an entry.
    sought: Option<LogPosition>,
}

impl Reading<'_> {
    fn seek(&mut self, to: LogPosition) {
        self.reader.seek(to);
        self.sought = Some(to);
    }

    /// Goes to where the log begins now, or will when it is read, or to an entry that is known, or stays.
    fn move_on(&mut self, log: &CommitLog, random: &mut Random) {
        match random.index(12) {
            0 => self.seek(log.begin()),
            2 => self.seek(LogPosition::START),
            1 if !self.known.is_empty() => self.seek(self.known[random.index(self.known.len())].0),
            _ => {}
        }
    }

    /// What it gets next is what is there, or it is told that this was truncated.
    fn read(&mut self, log: &CommitLog, dropped: &Mutex<LogPosition>) {
        let (committed, from) = (log.committed(), self.reader.position());
        let next = self.reader.next_entry();
        match next.map(|entry| entry.map(|entry| (entry.position(), number_of(&entry[..4])))) {
            Ok(Some((position, n))) => {
                let before = self.known.last().map(|&(_, n)| n);
                match self.sought.take() {
                    Some(LogPosition::START) => {}
                    Some(to) if self.known.iter().any(|&(at, _)| at == to) => {
                        assert_eq!(position, to)
                    }
                    Some(to) => assert_eq!(position.segment(), to.segment(), "{n} at {to}"),
                    None => {
                        assert!(before.is_none_or(|last| n == last + 1), "{n} after {before:?}")
                    }
                }
                let same = self.known.iter().find(|&&(at, known)| (at == position) != (known == n));
                assert_eq!(same, None, "{n} at {position}");
                self.known.push((position, n));
            }
            Ok(None) => {
                let at = self.reader.position();
                assert!(at >= committed, "nothing at {at}, before {committed}");
            }
            Err(ReadError::Truncated { position, begin }) => {
                assert!(position == self.reader.position() && position < begin, "{position}");
                assert!(begin <= *dropped.lock().expect("no panic"), "{begin} is too far");
                assert_ne!(from, LogPosition::START, "that is wherever the log begins");
                self.seek(begin);
            }
            Err(error) => panic!("behind {:?}: {error}", self.known),
        }
    }

    /// What it has read can be read by its position, or was truncated.
    fn read_again(&self, log: &CommitLog) {
        let Some(&(position, n)) = self.known.last() else { return };
        match log.read(position) {
            Ok(entry) => assert_eq!(number_of(&entry[..4]), n),
            Err(ReadError::Truncated { .. }) => {}
            Err(error) => panic!("{n} at {position}: {error}"),
        }
    }
}

fn read_on(log: &CommitLog, looks: usize, random: &mut Random, dropped: &Mutex<LogPosition>) {
    let mut reading = Reading { reader: log.reader(), known: Vec::new(), sought: None };
    for _ in 0..looks {
        reading.move_on(log, random);
        reading.read(log, dropped);
        if random.index(3) == 0 {
            reading.read_again(log);
        }
    }
}

fn a_reader_beside_truncations(number: u64) {
    let (disk, mut random) = (SimulatedDisk::new(), Random::new(number));
    let options = CommitLog::options().maintenance(Maintenance::Manual);
    let options = options.segment_unit(8192).segment_size(8192);
    let log = options.open_simulated(&disk).expect("opened");
    let (dropped, looks) = (Mutex::new(LogPosition::START), 8 + random.index(24));
    thread::scope(|scope| {
        let (log, dropped, mut reads) = (&log, &dropped, Random::new(!number));
        scope.spawn(move || append_and_truncate(log, &mut random, dropped));
        for _ in 0..1 + number % 3 {
            let mut reads = Random::new(reads.next());
            scope.spawn(move || read_on(log, looks, &mut reads, dropped));
        }
    });
    read_on(&log, 32, &mut Random::new(number), &dropped);
    assert!(log.verify().expect("sound").entries > 0, "the last entry is not truncated");
}

#[test]
fn a_reader_is_told_of_what_is_truncated_under_any_schedule() {
    explore(12_000, a_reader_beside_truncations);
}
