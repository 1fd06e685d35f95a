//! One thread's operations on a store, drawn at random, and what each of them saw and wrote.
//!
//! Each write has a form with options and one without, and options may say nothing of the TTL. What each does
//! to value and TTL is said here.

use super::checker::{self, KEYS, Operation, Saw, Step, Wrote};
use super::common::Random;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tailcask::{
    Batch, Change, Expected, Expiry, LogPosition, Store, Ttl, WriteError, WriteOptions,
};

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
        other => panic!("what the checker does not know: {other:?}"),
    }
}

fn options_of(ttl: checker::Ttl) -> WriteOptions {
    match ttl {
        checker::Ttl::Kept => WriteOptions::new().keep_ttl(),
        checker::Ttl::Is(0) => WriteOptions::new().no_ttl(),
        checker::Ttl::Is(nth) => WriteOptions::new().ttl(TTL * nth.into()),
    }
}

/// Where operations are recorded: in memory, or where a process that is killed leaves it.
pub(crate) enum Record {
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

/// How many kinds of operations there are: those of [`Worker::operate_on`], in order.
pub(crate) const ALL: usize = 31;
/// None on several keys.
pub(crate) const SINGLE: usize = 18;
/// Operations that write without reading.
pub(crate) const BLIND: usize = 5;

/// One thread's operations.
pub(crate) struct Worker<'a> {
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

impl<'a> Worker<'a> {
    pub(crate) fn new(
        store: &'a Store,
        clock: &'a AtomicU64,
        (keys, kinds): (usize, usize),
        random: Random,
        record: Record,
    ) -> Self {
        let (last, at) = ([None; KEYS], [None; KEYS]);
        Self { store, clock, keys, kinds, random, record, last, at }
    }

    /// What was recorded in memory.
    pub(crate) fn recorded(self) -> Vec<Operation> {
        match self.record {
            Record::Memory(all) => all,
            Record::File(_) => unreachable!("only of what is in memory"),
        }
    }
}

impl Worker<'_> {
    /// A TTL for what is written next.
    fn new_ttl(&mut self) -> checker::Ttl {
        match self.random.index(4) {
            0 => checker::Ttl::Kept,
            1 => checker::Ttl::Is(0),
            _ => checker::Ttl::Is(1 + self.random.index(usize::from(TTLS) - 1) as u8),
        }
    }

    /// The options of a write, if it has any, and the TTL of what it writes then. Options may leave it at
    /// what is `usual`.
    fn options(&mut self, usual: checker::Ttl) -> (checker::Ttl, Option<WriteOptions>) {
        match self.random.index(8) {
            0..=3 => (usual, None),
            4 => (usual, Some(WriteOptions::new())),
            _ => {
                let ttl = self.new_ttl();
                (ttl, Some(options_of(ttl)))
            }
        }
    }

    /// Keeps where a value was written, if it was.
    fn wrote_at(&mut self, k: usize, id: Option<u32>, at: Option<LogPosition>) {
        if let (Some(id), Some(at)) = (id, at) {
            self.at[k] = Some((id, at));
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

    pub(crate) fn operate(&mut self) {
        let key = self.random.index(self.keys);
        self.operate_on(key);
    }

    pub(crate) fn operate_on(&mut self, key: usize) {
        match self.random.index(self.kinds) {
            0 | 1 => self.put(key),
            2 => self.delete(key),
            3 | 4 => self.put_if_absent(key),
            5 | 6 => self.swap(key),
            7 => self.update(key),
            8 | 9 => self.try_update(key),
            10..=12 => self.get(key),
            13 => self.contains(key),
            14 => self.iterate(),
            15 | 16 => self.touch(key),
            17 => self.ttl(key),
            18..=22 => self.get_many(),
            _ => self.batch(),
        }
    }

    /// A value that does not expire, unless the options say so.
    fn put(&mut self, k: usize) {
        let ((id, value), (ttl, options)) = (self.new_value(), self.options(checker::Ttl::Is(0)));
        let step = Step::wrote(k, Wrote::Value(id, ttl));
        let called = self.call(step.clone());
        let at = match options {
            None => self.store.put(key(k), value).unwrap(),
            Some(options) => self.store.put_with(key(k), value, &options).unwrap(),
        };
        self.wrote_at(k, Some(id), Some(at));
        self.done(called, step);
    }

    /// The value stays, whatever the options say.
    fn touch(&mut self, k: usize) {
        let (mut ttl, options) = self.options(checker::Ttl::Kept);
        if options.is_none() {
            ttl = self.new_ttl();
        }
        let step = Step::saw(k, Saw::Present).and_wrote(k, Wrote::Touched(ttl));
        let called = self.call(step.clone());
        let touched = match options {
            None => self.store.touch(key(k), ttl_of(ttl)).unwrap(),
            Some(options) => self.store.touch_with(key(k), &options).unwrap().is_some(),
        };
        self.done(called, if touched { step } else { Step::saw(k, None) });
    }

    fn ttl(&mut self, k: usize) {
        let called = self.tick();
        let found = self.store.ttl(key(k)).unwrap();
        let saw = found.map_or(Saw::Absent, |expiry| Saw::Ttl(number_of(expiry)));
        self.done(called, Step::saw(k, saw));
    }

    /// Removes value and TTL, whatever the options say.
    fn delete(&mut self, k: usize) {
        let (_, options) = self.options(checker::Ttl::Is(0));
        let called = self.call(Step::wrote(k, None));
        let removed = Step::saw(k, Saw::Present).and_wrote(k, None);
        let was = match options {
            None => self.store.delete(key(k)).unwrap(),
            Some(options) => self.store.delete_with(key(k), &options).unwrap().is_some(),
        };
        self.done(called, if was { removed } else { Step::saw(k, None) });
    }

    /// As a put, if nothing is there: so there is no TTL to be kept.
    fn put_if_absent(&mut self, k: usize) {
        let ((id, value), (ttl, options)) = (self.new_value(), self.options(checker::Ttl::Is(0)));
        let step = Step::saw(k, None).and_wrote(k, Wrote::Value(id, ttl));
        let called = self.call(step.clone());
        let put = match options {
            None => self.store.put_if_absent(key(k), value).unwrap(),
            Some(options) => {
                let at = self.store.put_if_absent_with(key(k), value, &options).unwrap();
                self.wrote_at(k, Some(id), at);
                at.is_some()
            }
        };
        self.done(called, if put { step } else { Step::saw(k, Saw::Present) });
    }

    /// The TTL stays, unless the options say otherwise.
    fn swap(&mut self, k: usize) {
        let (expected, new) = (self.last[k], self.random.index(4) > 0);
        let (ttl, options) = self.options(checker::Ttl::Kept);
        let (id, bytes) = self.new_value();
        let wrote = if new { Wrote::Value(id, ttl) } else { Wrote::Removed };
        let step = Step::saw(k, expected).and_wrote(k, wrote);
        let called = self.call(step.clone());
        let (old, bytes) = (expected.map(value), new.then_some(&bytes[..]));
        let swapped = match options {
            None => self.store.compare_and_swap(key(k), old.as_deref(), bytes).unwrap(),
            Some(options) => {
                let old = old.as_deref();
                let swapped =
                    self.store.compare_and_swap_with(key(k), old, bytes, &options).unwrap();
                if let Ok(at) = &swapped {
                    assert_eq!(at.is_some(), new || expected.is_some());
                    self.wrote_at(k, new.then_some(id), *at);
                }
                swapped.map(drop)
            }
        };
        match swapped {
            Ok(()) => self.done(called, step),
            Err(mismatch) => {
                let current = mismatch.current.as_deref().map(self::id);
                assert_ne!(current, expected);
                self.done(called, Step::saw(k, current));
            }
        }
    }

    /// The TTL stays, unless the options say otherwise.
    fn update(&mut self, k: usize) {
        let new = (self.random.index(4) > 0).then(|| self.new_value());
        let (ttl, options) = self.options(checker::Ttl::Kept);
        let new_id = new.as_ref().map(|new| new.0);
        let wrote = new_id.map_or(Wrote::Removed, |id| Wrote::Value(id, ttl));
        let called = self.call(Step::wrote(k, wrote));
        let mut seen = None;
        let change = |old: Option<&[u8]>| {
            seen = old.map(id);
            new.as_ref().map(|new| new.1.clone())
        };
        let value = match options {
            None => self.store.update(key(k), change).unwrap(),
            Some(options) => {
                let updated = self.store.update_with(key(k), change, &options).unwrap();
                self.wrote_at(k, new_id, updated.position);
                updated.value
            }
        };
        assert_eq!(value.as_deref().map(id), new_id);
        self.done(called, Step::saw(k, seen).and_wrote(k, wrote));
    }

    /// Sets, deletes, keeps, or fails. A set is as that of an update; to keep and to fail write nothing, so
    /// value and TTL stay, whatever the options say.
    fn try_update(&mut self, k: usize) {
        let ((id, value), (ttl, options)) = (self.new_value(), self.options(checker::Ttl::Kept));
        let (decided, wrote) = match self.random.index(6) {
            0 => (Ok(Change::Keep), None),
            1 => (Err(id), None),
            2 => (Ok(Change::Delete), Some(Wrote::Removed)),
            _ => (Ok(Change::Set(value)), Some(Wrote::Value(id, ttl))),
        };
        let intent = wrote.map_or_else(Step::default, |wrote| Step::wrote(k, wrote));
        let called = self.call(intent.clone());
        let mut seen = None;
        let change = |old: Option<&[u8]>| {
            seen = old.map(self::id);
            decided.clone()
        };
        let updated = match options {
            None => self.store.try_update(key(k), change).unwrap(),
            Some(options) => self.store.try_update_with(key(k), change, &options).unwrap(),
        };
        match updated {
            Err(error) => assert_eq!(decided, Err(error)),
            Ok(updated) => {
                let set = updated.value.as_deref().map(self::id);
                let (is_set, is_write) = match wrote {
                    None => (false, false),
                    Some(Wrote::Removed) => (false, seen.is_some()),
                    Some(_) => (true, true),
                };
                assert!(decided.is_ok());
                assert_eq!((set, updated.position.is_some()), (is_set.then_some(id), is_write));
                self.wrote_at(k, set, updated.position);
            }
        }
        self.done(called, Step { saw: vec![(k, seen.into())], ..intent });
    }

    pub(crate) fn get(&mut self, k: usize) {
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
    pub(crate) fn iterate(&mut self) {
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

    /// The TTL that a put was given counts, then that of the batch; without either its value does not expire.
    fn batch(&mut self) {
        let (mut batch, mut step) = (Batch::new(), Step::default());
        let (usual, options) = self.options(checker::Ttl::Is(0));
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
                    let (id, value) = self.new_value();
                    let own = self.random.flip().then(|| self.new_ttl());
                    match own {
                        None => batch.put(key(k), value),
                        Some(ttl) => batch.put_with(key(k), value, ttl_of(ttl)),
                    };
                    step.wrote.push((k, Wrote::Value(id, own.unwrap_or(usual))));
                }
            }
        }
        let called = self.call(step.clone());
        let written = match options {
            None => self.store.write(&batch),
            Some(options) => self.store.write_with(&batch, &options),
        };
        match written {
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
