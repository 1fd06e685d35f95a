//! Any sequence of operations on a store, crashes included, against a `BTreeMap`.
//!
//! `TAILCASK_CASES` says how many sequences.

mod common;

use common::{contents, small_store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tailcask::{
    Batch, Change, DiskOperation, Expected, Expiry, LogPosition, MergePolicy, SimulatedDisk, Store,
    StoreOptions, Ttl, WriteError, WriteOptions,
};

/// Small, so that there are many.
const SEGMENT: u64 = 32 << 10;

/// What a key has.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    value: Vec<u8>,
    expiry: Option<u64>,
    /// Where it was written, if a single write has said so.
    at: Option<LogPosition>,
    /// A merge came by when it had expired: it may be there if the clock goes back, or not.
    reclaimed: bool,
}

type Map = BTreeMap<Vec<u8>, Entry>;
impl Entry {
    fn is_visible(&self, now: u64) -> bool {
        self.expiry.is_none_or(|expiry| now < expiry)
    }

    /// What is left of its life, while it is visible.
    fn life(&self, now: u64) -> Expiry {
        let left = |expiry| Expiry::In(Duration::from_millis(expiry - now));
        self.expiry.map_or(Expiry::Never, left)
    }
}

/// Whether a store may be the one that the map describes, and how many pairs it has.
fn agrees(store: &Store, map: &Map, now: u64) -> (bool, usize) {
    let found = contents(store);
    let is_there = |key: &Vec<u8>, value: &Vec<u8>| {
        let entry = map.get(key).filter(|entry| entry.is_visible(now) && entry.value == *value);
        entry.is_some_and(|entry| store.ttl(key).unwrap() == Some(entry.life(now)))
    };
    let may_be_absent = |entry: &Entry| !entry.is_visible(now) || entry.reclaimed;
    let agrees = found.iter().all(|(key, value)| is_there(key, value))
        && map.iter().all(|(key, entry)| found.contains_key(key) || may_be_absent(entry));
    (agrees, found.len())
}

/// What the options of a write say of the TTL.
#[derive(Clone, Copy, Debug)]
enum Life {
    Usual,
    Kept,
    /// This many milliseconds.
    For(u64),
    Ever,
}

impl Life {
    fn options(self) -> WriteOptions {
        match self {
            Self::Usual => WriteOptions::new(),
            Self::Kept => WriteOptions::new().keep_ttl(),
            Self::For(ms) => WriteOptions::new().ttl(Duration::from_millis(ms)),
            Self::Ever => WriteOptions::new().no_ttl(),
        }
    }

    fn ttl(self) -> Ttl {
        match self {
            Self::Kept => Ttl::Keep,
            Self::For(ms) => Ttl::Set(Duration::from_millis(ms)),
            Self::Ever | Self::Usual => Ttl::Remove,
        }
    }

    /// If it is the usual one, `usual`.
    fn or(self, usual: Self) -> Self {
        if matches!(self, Self::Usual) { usual } else { self }
    }

    /// The expiry of a value that takes the place of another one.
    fn expiry(self, old: Option<&Entry>, now: u64) -> Option<u64> {
        match self {
            Self::Kept => old.and_then(|old| old.expiry),
            Self::For(ms) => Some(now + ms),
            Self::Ever | Self::Usual => None,
        }
    }
}

/// What a batch expects of a key.
#[derive(Clone, Copy, Debug)]
enum Expect {
    Absent,
    Present,
    /// The value that it has, or another one.
    Value(bool),
    /// Where that was written, where it is now, or another place.
    Written,
    Here,
    Elsewhere,
}

/// A batch: each write with a TTL of its own, a TTL for those without, and what it expects.
#[derive(Clone, Debug)]
struct Planned {
    writes: Vec<(u8, Option<usize>, Life)>,
    life: Life,
    expects: Vec<(u8, Expect)>,
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, usize),
    PutWith(u8, usize, Life),
    Touch(u8, Life),
    /// Leaves this many bytes at the end of the segment.
    FillBut(u8, u32),
    Delete(u8),
    PutIfAbsent(u8, usize, Life),
    Swap(u8, bool, Option<usize>, Life),
    Update(u8, Option<usize>, Life),
    /// The closure leaves the value as it is, or fails.
    Decline(u8, bool),
    Get(u8),
    Batch(Planned),
    Iterate,
    /// An iterator is held while the other operations run.
    IterateOver(Vec<Op>),
    Sync,
    Maintain,
    Roll,
    Merge,
    /// Merges the segments whose bits are set.
    MergeSome(u64),
    /// The store becomes cold, or warm again.
    CacheBudget(bool),
    /// The clock goes on, or back.
    Tick(i64),
    /// File operations fail after this many, and the process dies, or the power fails.
    Fail(u64, Box<Op>, Option<u64>),
    /// As `Fail`, but only one operation fails, of this kind.
    FailOnce(DiskOperation, u64, Box<Op>, Option<u64>),
    /// A death that is followed by a power loss before anything else is done.
    Both(u64),
    /// Merges while there is no room on the disk, or less than it takes.
    Cramped(Box<Op>, u64),
    Reopen,
    ProcessDeath,
    PowerLoss(u64),
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![40 => 0usize..50, 10 => 50usize..5000, 1 => 5000usize..80_000]
}

fn life() -> impl Strategy<Value = Life> {
    prop_oneof![
        2 => Just(Life::Usual),
        2 => Just(Life::Kept),
        3 => (0u64..100).prop_map(Life::For),
        1 => Just(Life::Ever),
    ]
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        2 => Just(Expect::Absent),
        3 => Just(Expect::Present),
        4 => prop::bool::weighted(0.8).prop_map(Expect::Value),
        4 => Just(Expect::Written),
        2 => Just(Expect::Here),
        1 => Just(Expect::Elsewhere),
    ]
}

fn planned() -> impl Strategy<Value = Planned> {
    let life = || prop_oneof![3 => Just(Life::Usual), 1 => life()];
    let write = (0u8..12, prop::option::of(0usize..2000), life());
    let expects = prop_oneof![
        1 => Just(Vec::new()),
        1 => prop::collection::vec((0u8..12, expect()), 0..3),
    ];
    (prop::collection::vec(write, 0..8), life(), expects)
        .prop_map(|(writes, life, expects)| Planned { writes, life, expects })
}

fn simple() -> BoxedStrategy<Op> {
    let key = || 0u8..12;
    prop_oneof![
        8 => (key(), size()).prop_map(|(key, len)| Op::Put(key, len)),
        4 => key().prop_map(Op::Delete),
        2 => (key(), size(), life()).prop_map(|(key, len, life)| Op::PutIfAbsent(key, len, life)),
        2 => (key(), any::<bool>(), prop::option::of(size()), life())
            .prop_map(|(key, right, new, life)| Op::Swap(key, right, new, life)),
        2 => (key(), prop::option::of(size()), life())
            .prop_map(|(key, new, life)| Op::Update(key, new, life)),
        1 => (key(), any::<bool>()).prop_map(|(key, fails)| Op::Decline(key, fails)),
        1 => (key(), life()).prop_map(|(key, life)| Op::Touch(key, life)),
        4 => key().prop_map(Op::Get),
        5 => planned().prop_map(Op::Batch),
        3 => (key(), size(), life()).prop_map(|(key, len, life)| Op::PutWith(key, len, life)),
        1 => Just(Op::Sync),
        1 => Just(Op::Maintain),
        2 => Just(Op::Roll),
        1 => Just(Op::Merge),
        2 => any::<u64>().prop_map(Op::MergeSome),
        1 => any::<bool>().prop_map(Op::CacheBudget),
        2 => prop_oneof![4 => 0i64..60, 1 => -80i64..0].prop_map(Op::Tick),
    ]
    .boxed()
}

fn merging() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => any::<u64>().prop_map(Op::MergeSome),
        1 => Just(Op::Merge),
        1 => Just(Op::Maintain),
    ]
}

fn operation() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => simple(),
        1 => Just(Op::Iterate),
        1 => (0u8..12, 0u32..100).prop_map(|(key, left)| Op::FillBut(key, left * 8)),
        2 => (0u64..12, simple(), prop::option::of(any::<u64>()))
            .prop_map(|(after, op, power)| Op::Fail(after, Box::new(op), power)),
        1 => prop::collection::vec(simple(), 1..10).prop_map(Op::IterateOver),
        2 => (merging(), 0u64..4).prop_map(|(op, room)| Op::Cramped(Box::new(op), room)),
        1 => Just(Op::Reopen),
        1 => Just(Op::ProcessDeath),
        1 => any::<u64>().prop_map(Op::PowerLoss),
        2 => (kind(), 0u64..4, simple(), prop::option::of(any::<u64>())).prop_map(
            |(kind, after, op, power)| Op::FailOnce(kind, after, Box::new(op), power)
        ),
        1 => any::<u64>().prop_map(Op::Both),
    ]
}

fn kind() -> impl Strategy<Value = DiskOperation> {
    use DiskOperation::{Create, Remove, Rename, Sync, SyncDirectory, SyncNew};
    prop::sample::select(vec![Create, SyncNew, Rename, Remove, SyncDirectory, Sync])
}

struct World {
    disk: SimulatedDisk,
    store: Option<Store>,
    map: Map,
    /// What the map was after each change since the last sync, that one first.
    history: Vec<Map>,
    counter: u8,
    clock: Arc<AtomicU64>,
    /// Whether anything was put that expires.
    expires: bool,
}

/// The store is opened cold: all frames in full segments are read without locks.
fn options(clock: &Arc<AtomicU64>) -> StoreOptions {
    let policy = MergePolicy::new().min_dead_bytes(1000);
    // So few bits that keys collide.
    small_store(SEGMENT).tag_bits(3).clock(clock.clone()).merge_policy(policy).cache_budget(0)
}

fn key(key: u8) -> Vec<u8> {
    vec![b'k'; usize::from(key) + 1]
}

impl World {
    fn new() -> Self {
        let (disk, clock) = (SimulatedDisk::new(), Arc::new(AtomicU64::new(1000)));
        let store = Some(options(&clock).open_simulated(&disk).unwrap());
        Self {
            disk,
            store,
            map: Map::new(),
            history: vec![Map::new()],
            counter: 0,
            clock,
            expires: false,
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn value(&mut self, len: usize) -> Vec<u8> {
        self.counter = self.counter.wrapping_add(1);
        vec![self.counter; len]
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.set_until(key, value, None, None);
    }

    fn set_until(
        &mut self,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
        expiry: Option<u64>,
        at: Option<LogPosition>,
    ) {
        self.expires |= expiry.is_some();
        match value {
            Some(value) => {
                drop(self.map.insert(key, Entry { value, expiry, at, reclaimed: false }));
            }
            None => drop(self.map.remove(&key)),
        }
        self.history.push(self.map.clone());
    }

    fn current(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.current_entry(key).map(|entry| entry.value)
    }

    /// What the key has now. Whether a value is there that a merge may have reclaimed is looked up.
    fn current_entry(&mut self, key: &[u8]) -> Option<Entry> {
        let now = self.now();
        let entry = self.map.get(key).filter(|entry| entry.is_visible(now))?.clone();
        if entry.reclaimed && self.store().get(key).unwrap().is_none() {
            // It stays in the map: if the merge failed, it may be back once the store is reopened.
            return None;
        }
        Some(entry)
    }

    /// Whether a write was refused because of its TTL, which it has to be if that is zero.
    fn is_refused<T>(life: Life, result: &Result<T, WriteError>) -> bool {
        let is_refused = matches!(result, Err(WriteError::ZeroTtl));
        assert_eq!(is_refused, matches!(life, Life::For(0)));
        is_refused
    }

    /// What has expired may be removed.
    fn reclaim(&mut self) {
        let now = self.now();
        let all = self.history.iter_mut().chain([&mut self.map]).flat_map(|map| map.values_mut());
        all.filter(|entry| !entry.is_visible(now)).for_each(|entry| entry.reclaimed = true);
    }

    fn synced(&mut self) {
        self.history = vec![self.map.clone()];
    }

    fn run(&mut self, operation: &Op) {
        match operation {
            Op::Put(k, len) => {
                let value = self.value(*len);
                self.store().put(key(*k), &value).unwrap();
                self.set(key(*k), Some(value));
            }
            Op::PutWith(k, len, life) => {
                let (value, old) = (self.value(*len), self.current_entry(&key(*k)));
                let put = self.store().put_with(key(*k), &value, &life.options());
                if !Self::is_refused(*life, &put) {
                    let expiry = life.expiry(old.as_ref(), self.now());
                    self.set_until(key(*k), Some(value), expiry, Some(put.unwrap()));
                }
            }
            Op::Touch(k, life) => {
                let old = self.current_entry(&key(*k));
                let touched = self.store().touch_with(key(*k), &life.options());
                if Self::is_refused(*life, &touched) {
                    return;
                }
                let at = touched.unwrap();
                assert_eq!(at.is_some(), old.is_some());
                if let Some(old) = old {
                    let expiry = life.or(Life::Kept).expiry(Some(&old), self.now());
                    self.set_until(key(*k), Some(old.value), expiry, at);
                }
            }
            Op::Decline(k, fails) => {
                let expected = self.current(&key(*k));
                let tail = self.store().log().tail();
                let change = |old: Option<&[u8]>| {
                    assert_eq!(old, expected.as_deref());
                    if *fails { Err("declined") } else { Ok(Change::Keep) }
                };
                let declined = self.store().try_update(key(*k), change).unwrap();
                assert_eq!(declined.is_err(), *fails);
                assert_eq!(self.store().log().tail(), tail);
            }
            Op::FillBut(k, left) => {
                let frame = 16 + key(*k).len().next_multiple_of(8) as u32;
                let room = (SEGMENT as u32).saturating_sub(self.store().log().tail().offset());
                let len = room.saturating_sub(frame + left);
                self.run(&Op::Put(*k, len as usize));
            }
            Op::Delete(k) => {
                let was = self.current(&key(*k)).is_some();
                assert_eq!(self.store().delete(key(*k)).unwrap(), was);
                if was {
                    self.set(key(*k), None);
                }
            }
            Op::PutIfAbsent(k, len, life) => {
                let (value, was) = (self.value(*len), self.current(&key(*k)).is_some());
                let put = self.store().put_if_absent_with(key(*k), &value, &life.options());
                if Self::is_refused(*life, &put) {
                    return;
                }
                let at = put.unwrap();
                assert_eq!(at.is_some(), !was);
                if !was {
                    self.set_until(key(*k), Some(value), life.expiry(None, self.now()), at);
                }
            }
            Op::Swap(k, right, new, life) => self.swap(*k, *right, *new, *life),
            Op::Update(k, new, life) => self.update(*k, *new, *life),
            Op::Batch(planned) => self.batch(planned),
            Op::Get(k) => {
                let expected = self.current(&key(*k));
                let found = self.store().get(key(*k)).unwrap();
                assert_eq!(found.as_deref(), expected.as_deref());
                drop(found);
                let now = self.now();
                let expected = self.current_entry(&key(*k)).map(|entry| entry.life(now));
                assert_eq!(self.store().ttl(key(*k)).unwrap(), expected);
            }
            Op::Iterate => self.check(),
            Op::IterateOver(operations) => self.iterate_over(operations),
            Op::Sync => {
                self.store().sync().unwrap();
                self.synced();
            }
            Op::CacheBudget(cold) => {
                self.store().set_cache_budget(if *cold { 0 } else { u64::MAX });
            }
            Op::Tick(by) => {
                self.clock.store(self.now().saturating_add_signed(*by), Ordering::Relaxed);
            }
            Op::Roll => {
                self.store().roll().unwrap();
                self.synced();
            }
            Op::Maintain | Op::Merge | Op::MergeSome(_) => {
                self.reclaim();
                merge(self.store(), operation).unwrap();
                if matches!(operation, Op::Merge) {
                    self.synced();
                }
            }
            Op::Cramped(operation, segments) => {
                let used: u64 = self.disk.files().iter().map(|(_, len)| *len as u64).sum();
                self.disk.set_space(Some(used + segments * SEGMENT));
                self.reclaim();
                if merge(self.store(), operation).is_ok() && matches!(**operation, Op::Merge) {
                    self.synced();
                }
                self.disk.set_space(None);
                self.check();
            }
            Op::Fail(after, operation, power) => {
                self.disk.fail_after(*after);
                self.fail(operation, *power);
            }
            Op::FailOnce(kind, after, operation, power) => {
                self.disk.fail_once(*kind, *after);
                self.fail(operation, *power);
            }
            Op::Both(seed) => {
                self.disk = self.disk.process_death();
                self.lose_power(*seed);
            }
            Op::Reopen => {
                self.store.take().unwrap().close().unwrap();
                self.store = Some(options(&self.clock).open_simulated(&self.disk).unwrap());
                self.synced();
                self.check();
            }
            Op::ProcessDeath => {
                self.start_again(self.disk.process_death());
                self.check();
                self.synced();
            }
            Op::PowerLoss(seed) => self.lose_power(*seed),
        }
    }

    fn swap(&mut self, k: u8, right: bool, new: Option<usize>, life: Life) {
        let new = new.map(|len| self.value(len));
        let current = self.current_entry(&key(k));
        let old = current.as_ref().map(|entry| entry.value.clone());
        let expected = if right { old.clone() } else { Some(b"never".to_vec()) };
        let (store, options) = (self.store(), life.options());
        let swap =
            store.compare_and_swap_with(key(k), expected.as_deref(), new.as_deref(), &options);
        if Self::is_refused(life, &swap) {
            return;
        }
        match swap.unwrap() {
            Ok(position) => {
                assert!(right);
                assert_eq!(position.is_some(), new.is_some() || old.is_some());
                if position.is_some() {
                    let expiry = life.or(Life::Kept).expiry(current.as_ref(), self.now());
                    self.set_until(key(k), new, expiry, position);
                }
            }
            Err(mismatch) => assert_eq!((mismatch.current, right), (old, false)),
        }
    }

    fn update(&mut self, k: u8, new: Option<usize>, life: Life) {
        let new = new.map(|len| self.value(len));
        let current = self.current_entry(&key(k));
        let expected = current.as_ref().map(|entry| &entry.value[..]);
        let change = |old: Option<&[u8]>| {
            assert_eq!(old, expected);
            new.clone()
        };
        let updated = self.store().update_with(key(k), change, &life.options());
        if Self::is_refused(life, &updated) {
            return;
        }
        let updated = updated.unwrap();
        assert_eq!(updated.value, new);
        assert_eq!(updated.position.is_some(), new.is_some() || current.is_some());
        if updated.position.is_some() {
            let expiry = life.or(Life::Kept).expiry(current.as_ref(), self.now());
            self.set_until(key(k), new, expiry, updated.position);
        }
    }

    fn batch(&mut self, planned: &Planned) {
        let (mut batch, map) = self.plan(planned);
        let conflict = self.expect(&mut batch, &planned.expects);
        let before = self.store().log().tail();
        let written = self.store().write_with(&batch, &planned.life.options());
        let lives = planned.writes.iter().filter(|(_, new, _)| new.is_some()).map(|w| w.2);
        if lives.chain([planned.life]).any(|life| matches!(life, Life::For(0))) {
            assert!(matches!(written, Err(WriteError::ZeroTtl)));
            assert_eq!(self.store().log().tail(), before);
            return;
        }
        match (written, conflict) {
            (Ok(_), None) => {
                self.map = map;
                self.history.push(self.map.clone());
            }
            (Err(WriteError::Conflict(conflict)), Some((index, current))) => {
                assert_eq!((conflict.index, conflict.found.is_some()), (index, current.is_some()));
                assert_eq!(conflict.key, key(planned.expects[index].0));
                if let Some(at) = current.and_then(|current| current.at) {
                    assert_eq!(conflict.found, Some(at));
                }
                assert_eq!(self.store().log().tail(), before);
            }
            (written, conflict) => panic!("{written:?}, and not {conflict:?}"),
        }
    }

    /// Has a batch expect something. Returns the index of the first that is not so, and what is there.
    fn expect(
        &mut self,
        batch: &mut Batch,
        expects: &[(u8, Expect)],
    ) -> Option<(usize, Option<Entry>)> {
        let mut conflict = None;
        for (index, &(k, expect)) in expects.iter().enumerate() {
            let current = self.current_entry(&key(k));
            let here = self.store().get(key(k)).unwrap().map(|value| value.position());
            let end = self.store().log().tail();
            let value = current.as_ref().map_or(&b""[..], |current| &current.value);
            let written = current.as_ref().and_then(|current| current.at).or(here);
            let (expected, holds) = match expect {
                Expect::Absent => (Expected::Absent, current.is_none()),
                Expect::Present => (Expected::Present, current.is_some()),
                Expect::Value(true) => (Expected::Value(value), current.is_some()),
                Expect::Value(false) => (Expected::Value(b"never"), false),
                Expect::Written => (Expected::Position(written.unwrap_or(end)), written.is_some()),
                Expect::Here => (Expected::Position(here.unwrap_or(end)), here.is_some()),
                Expect::Elsewhere => (Expected::Position(end), false),
            };
            batch.expect(key(k), expected);
            if !holds && conflict.is_none() {
                conflict = Some((index, current));
            }
        }
        conflict
    }

    /// A batch, and the map after it.
    fn plan(&mut self, planned: &Planned) -> (Batch, Map) {
        let mut batch = Batch::new();
        let mut map = self.map.clone();
        let mut written = Vec::new();
        for (k, new, life) in &planned.writes {
            match new.map(|len| self.value(len)) {
                Some(value) => {
                    match life {
                        Life::Usual => batch.put(key(*k), &value),
                        life => batch.put_with(key(*k), &value, life.ttl()),
                    };
                    // What the batch itself has written is there.
                    let old = if written.contains(k) {
                        map.get(&key(*k)).cloned()
                    } else {
                        self.current_entry(&key(*k))
                    };
                    let expiry = life.or(planned.life).expiry(old.as_ref(), self.now());
                    self.expires |= expiry.is_some();
                    map.insert(key(*k), Entry { value, expiry, at: None, reclaimed: false });
                }
                None => {
                    batch.delete(key(*k));
                    map.remove(&key(*k));
                }
            }
            written.push(*k);
        }
        (batch, map)
    }

    fn check(&self) {
        let (agrees, pairs) = agrees(self.store(), &self.map, self.now());
        assert!(agrees, "{:?}\n{:?}", contents(self.store()).keys(), self.map);
        let len = self.store().len();
        assert!(pairs as u64 <= len);
        assert!(self.expires || pairs as u64 == len);
    }

    fn start_again(&mut self, image: SimulatedDisk) {
        self.store.take().unwrap().abort();
        self.store = Some(options(&self.clock).open_simulated(&image).unwrap());
        self.disk = image;
    }

    /// Whether the store holds what a map says: as it is, and before anything had expired.
    fn is_now(&self, map: &Map) -> bool {
        let now = self.now();
        let is = |time| {
            self.clock.store(time, Ordering::Relaxed);
            let (agrees, _) = agrees(self.store(), map, time);
            self.clock.store(now, Ordering::Relaxed);
            agrees
        };
        is(now) && is(0)
    }

    /// An operation that the disk fails in is done or not, and nothing else is changed.
    fn fail(&mut self, operation: &Op, power: Option<u64>) {
        let before = self.map.clone();
        self.reclaim();
        match self.attempt(operation) {
            // Done, but for what it says of it: a failed sync comes after the write.
            Err(_) => self.history.push(before.clone()),
            Ok(()) if matches!(operation, Op::Sync | Op::Roll | Op::Merge) => self.synced(),
            Ok(()) => {}
        }
        match power {
            Some(seed) => self.lose_power(seed),
            None => {
                self.start_again(self.disk.process_death());
                if !self.is_now(&self.map) {
                    self.map = before;
                }
                self.check();
                self.synced();
            }
        }
    }

    /// The writes, and what may sync or merge; the map is what it would be if it succeeds.
    fn attempt(&mut self, operation: &Op) -> Result<(), Box<dyn std::error::Error>> {
        match operation {
            Op::Put(k, len) | Op::PutIfAbsent(k, len, _) => {
                let value = self.value(*len);
                self.set(key(*k), Some(value.clone()));
                self.store().put(key(*k), value)?;
            }
            Op::PutWith(_, _, Life::For(0))
            | Op::Update(_, _, Life::For(0))
            | Op::Swap(_, _, _, Life::For(0)) => {}
            Op::PutWith(k, len, life) => {
                let (value, old) = (self.value(*len), self.current_entry(&key(*k)));
                let expiry = life.expiry(old.as_ref(), self.now());
                self.set_until(key(*k), Some(value.clone()), expiry, None);
                self.store().put_with(key(*k), value, &life.options())?;
            }
            Op::Swap(k, _, Some(len), life) | Op::Update(k, Some(len), life) => {
                let (value, old) = (self.value(*len), self.current_entry(&key(*k)));
                let expiry = life.or(Life::Kept).expiry(old.as_ref(), self.now());
                self.set_until(key(*k), Some(value.clone()), expiry, None);
                let change = |_: Option<&[u8]>| Some(value.clone());
                self.store().update_with(key(*k), change, &life.options())?;
            }
            Op::Touch(k, Life::For(ms)) if *ms > 0 => {
                if let Some(old) = self.current_entry(&key(*k)) {
                    self.set_until(key(*k), Some(old.value), Some(self.now() + ms), None);
                    self.store().touch(key(*k), Duration::from_millis(*ms))?;
                }
            }
            Op::Delete(k) if self.current(&key(*k)).is_some() => {
                self.set(key(*k), None);
                self.store().delete(key(*k))?;
            }
            Op::Batch(planned) => {
                let lives = planned.writes.iter().map(|write| write.2).chain([planned.life]);
                if lives.into_iter().any(|life| matches!(life, Life::For(0))) {
                    return Ok(());
                }
                let (mut batch, map) = self.plan(planned);
                if self.expect(&mut batch, &planned.expects).is_none() {
                    self.map = map;
                    self.history.push(self.map.clone());
                    self.store().write_with(&batch, &planned.life.options())?;
                }
            }
            Op::Sync => drop(self.store().sync()?),
            Op::Roll => self.store().roll()?,
            Op::Maintain | Op::Merge | Op::MergeSome(_) => merge(self.store(), operation)?,
            _ => {}
        }
        Ok(())
    }

    /// Every key that is there throughout comes exactly once; a value that comes was there.
    fn iterate_over(&mut self, operations: &[Op]) {
        let store = self.store.take().unwrap();
        let mut iterator = store.iter();
        let mut seen = Vec::new();
        let now = self.now();
        let certain = |entry: &Entry| entry.expiry.is_none();
        let mut always: Vec<_> =
            self.map.iter().filter(|(_, e)| certain(e)).map(|(key, _)| key.clone()).collect();
        for operation in operations {
            seen.extend(iterator.next().map(|pair| pair.unwrap().key().to_vec()));
            // The iterator borrows the store, so the operations run on what it borrows.
            self.alter(&store, operation);
            always.retain(|key| self.map.get(key).is_some_and(certain));
        }
        seen.extend(iterator.map(|pair| pair.unwrap().key().to_vec()));
        assert_eq!(now, self.now());
        for key in &always {
            assert_eq!(seen.iter().filter(|seen| *seen == key).count(), 1);
        }
        let mut once = seen.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "no key comes twice");
        self.store = Some(store);
    }

    fn alter(&mut self, store: &Store, operation: &Op) {
        match operation {
            Op::Put(k, len) | Op::PutIfAbsent(k, len, _) => {
                store.put(key(*k), vec![1; *len]).unwrap();
                self.set(key(*k), Some(vec![1; *len]));
            }
            // What has expired is not deleted, and not there.
            Op::Delete(k) if store.delete(key(*k)).unwrap() => self.set(key(*k), None),
            Op::Roll => store.roll().unwrap(),
            Op::Maintain | Op::Merge | Op::MergeSome(_) => {
                self.reclaim();
                merge(store, operation).unwrap();
            }
            _ => {}
        }
    }

    /// What is there afterwards is what was there at some moment since the last sync.
    fn lose_power(&mut self, seed: u64) {
        let image = self.disk.power_loss_at_random(seed);
        self.start_again(image);
        let was = self.history.iter().rev().find(|map| self.is_now(map)).cloned();
        let found = contents(self.store());
        self.map = was.unwrap_or_else(|| panic!("{:?} never were", found.keys()));
        // Of several writes of the same, any may have been the last one then.
        self.map.values_mut().for_each(|entry| entry.at = None);
        self.synced();
    }
}

fn merge(store: &Store, operation: &Op) -> Result<(), tailcask::MergeError> {
    match operation {
        Op::Merge => drop(store.merge()?),
        Op::MergeSome(bits) => {
            let segments = store.stats().segments.into_iter().filter(|s| s.sealed);
            let chosen = segments.enumerate().filter(|(nth, _)| bits >> (nth % 64) & 1 == 1);
            let ids: Vec<_> = chosen.map(|(_, segment)| segment.id).collect();
            store.merge_only(&ids)?;
        }
        _ => drop(store.maintain()?),
    }
    Ok(())
}

#[test]
fn any_sequence_of_operations_agrees_with_a_map() {
    let asked = std::env::var("TAILCASK_CASES").ok().and_then(|n| n.parse::<u32>().ok());
    // As many as are asked for; else 20,000, or what can be done in 40 seconds.
    let (cases, started) = (asked.unwrap_or(20_000), Instant::now());
    let sequences = prop::collection::vec(operation(), 1..60);
    let run = |operations: Vec<Op>| {
        let mut world = World::new();
        operations.iter().for_each(|operation| world.run(operation));
        world.check();
        Ok(())
    };
    for done in (0..cases).step_by(250) {
        if asked.is_none() && started.elapsed() > Duration::from_secs(40) {
            break;
        }
        let cases = (cases - done).min(250);
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        TestRunner::new(config).run(&sequences, run).unwrap();
    }
}
