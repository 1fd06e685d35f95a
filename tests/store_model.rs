//! Any sequence of operations on a store, crashes included, against a `BTreeMap`.
//!
//! `TAILCASK_CASES` says how many sequences.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use tailcask::{Batch, Maintenance, SimulatedDisk, Store, StoreOptions};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    Put(u8, usize),
    Delete(u8),
    PutIfAbsent(u8, usize),
    Swap(u8, bool, Option<usize>),
    Update(u8, Option<usize>),
    Get(u8),
    Batch(Vec<(u8, Option<usize>)>),
    Iterate,
    /// An iterator is held while the other operations run.
    IterateOver(Vec<Op>),
    Sync,
    Maintain,
    Reopen,
    ProcessDeath,
    PowerLoss(u64),
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![5 => 0usize..50, 2 => 50usize..5000, 1 => 300_000usize..900_000]
}

fn simple() -> BoxedStrategy<Op> {
    let key = || 0u8..12;
    prop_oneof![
        8 => (key(), size()).prop_map(|(key, len)| Op::Put(key, len)),
        4 => key().prop_map(Op::Delete),
        2 => (key(), size()).prop_map(|(key, len)| Op::PutIfAbsent(key, len)),
        2 => (key(), any::<bool>(), prop::option::of(size()))
            .prop_map(|(key, right, new)| Op::Swap(key, right, new)),
        2 => (key(), prop::option::of(size())).prop_map(|(key, new)| Op::Update(key, new)),
        4 => key().prop_map(Op::Get),
        3 => prop::collection::vec((key(), prop::option::of(0usize..20_000)), 0..8)
            .prop_map(Op::Batch),
        1 => Just(Op::Sync),
        1 => Just(Op::Maintain),
    ]
    .boxed()
}

fn operation() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => simple(),
        1 => Just(Op::Iterate),
        1 => prop::collection::vec(simple(), 1..10).prop_map(Op::IterateOver),
        1 => Just(Op::Reopen),
        1 => Just(Op::ProcessDeath),
        1 => any::<u64>().prop_map(Op::PowerLoss),
    ]
}

struct World {
    disk: SimulatedDisk,
    store: Option<Store>,
    map: Map,
    /// What the map was after each change since the last sync, that one first.
    history: Vec<Map>,
    counter: u8,
}

fn options() -> StoreOptions {
    // So few bits that keys collide.
    Store::options().segment_size(2 << 20).maintenance(Maintenance::Manual).tag_bits(3)
}

fn key(key: u8) -> Vec<u8> {
    vec![b'k'; usize::from(key) + 1]
}

fn contents(store: &Store) -> Map {
    store.iter().map(|pair| pair.map(|p| (p.key().to_vec(), p.value().to_vec())).unwrap()).collect()
}

impl World {
    fn new() -> Self {
        let disk = SimulatedDisk::new();
        let store = Some(options().open_simulated(&disk).unwrap());
        Self { disk, store, map: Map::new(), history: vec![Map::new()], counter: 0 }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn value(&mut self, len: usize) -> Vec<u8> {
        self.counter = self.counter.wrapping_add(1);
        vec![self.counter; len]
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match value {
            Some(value) => drop(self.map.insert(key, value)),
            None => drop(self.map.remove(&key)),
        }
        self.history.push(self.map.clone());
    }

    fn run(&mut self, operation: &Op) {
        match operation {
            Op::Put(k, len) => {
                let value = self.value(*len);
                self.store().put(key(*k), &value).unwrap();
                self.set(key(*k), Some(value));
            }
            Op::Delete(k) => {
                let was = self.map.contains_key(&key(*k));
                assert_eq!(self.store().delete(key(*k)).unwrap(), was);
                self.set(key(*k), None);
            }
            Op::PutIfAbsent(k, len) => {
                let (value, was) = (self.value(*len), self.map.contains_key(&key(*k)));
                assert_eq!(self.store().put_if_absent(key(*k), &value).unwrap(), !was);
                if !was {
                    self.set(key(*k), Some(value));
                }
            }
            Op::Swap(k, right, new) => {
                let new = new.map(|len| self.value(len));
                let current = self.map.get(&key(*k)).cloned();
                let wrong = Some(b"never".to_vec());
                let expected = if *right { current.clone() } else { wrong };
                let store = self.store();
                let swap = store.compare_and_swap(key(*k), expected.as_deref(), new.as_deref());
                match swap.unwrap() {
                    Ok(()) => {
                        assert!(*right);
                        self.set(key(*k), new);
                    }
                    Err(mismatch) => assert_eq!((mismatch.current, *right), (current, false)),
                }
            }
            Op::Update(k, new) => {
                let new = new.map(|len| self.value(len));
                let expected = self.map.get(&key(*k)).cloned();
                let change = |old: Option<&[u8]>| {
                    assert_eq!(old, expected.as_deref());
                    new.clone()
                };
                assert_eq!(self.store().update(key(*k), change).unwrap(), new);
                self.set(key(*k), new);
            }
            Op::Batch(writes) => {
                let mut batch = Batch::new();
                for (k, new) in writes {
                    match new.map(|len| self.value(len)) {
                        Some(value) => {
                            batch.put(key(*k), &value);
                            self.map.insert(key(*k), value);
                        }
                        None => {
                            batch.delete(key(*k));
                            self.map.remove(&key(*k));
                        }
                    }
                }
                self.store().write(&batch).unwrap();
                self.history.push(self.map.clone());
            }
            Op::Get(k) => {
                let found = self.store().get(key(*k)).unwrap();
                assert_eq!(found.as_deref(), self.map.get(&key(*k)).map(|value| &value[..]));
            }
            Op::Iterate => self.check(),
            Op::IterateOver(operations) => self.iterate_over(operations),
            Op::Sync => {
                self.store().sync().unwrap();
                self.history = vec![self.map.clone()];
            }
            Op::Maintain => self.store().log().maintain().unwrap(),
            Op::Reopen => {
                self.store.take().unwrap().close().unwrap();
                self.store = Some(options().open_simulated(&self.disk).unwrap());
                self.history = vec![self.map.clone()];
                self.check();
            }
            Op::ProcessDeath => {
                self.start_again(self.disk.process_death());
                assert_eq!(contents(self.store()), self.map);
                self.history = vec![self.map.clone()];
            }
            Op::PowerLoss(seed) => self.lose_power(*seed),
        }
    }

    fn check(&self) {
        assert_eq!(contents(self.store()), self.map);
        assert_eq!(self.store().len(), self.map.len() as u64);
    }

    fn start_again(&mut self, image: SimulatedDisk) {
        self.store.take().unwrap().abort();
        self.store = Some(options().open_simulated(&image).unwrap());
        self.disk = image;
    }

    /// Every key that is there throughout comes exactly once; a value that comes was there.
    fn iterate_over(&mut self, operations: &[Op]) {
        let store = self.store.take().unwrap();
        let mut iterator = store.iter();
        let mut seen = Vec::new();
        let mut always: Vec<_> = self.map.keys().cloned().collect();
        for operation in operations {
            seen.extend(iterator.next().map(|pair| pair.unwrap().key().to_vec()));
            // The iterator borrows the store, so the operations run on what it borrows.
            Self::alter(&store, &mut self.map, &mut self.history, operation);
            always.retain(|key| self.map.contains_key(key));
        }
        seen.extend(iterator.map(|pair| pair.unwrap().key().to_vec()));
        for key in &always {
            assert_eq!(seen.iter().filter(|seen| *seen == key).count(), 1);
        }
        let mut once = seen.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "no key comes twice");
        self.store = Some(store);
    }

    fn alter(store: &Store, map: &mut Map, history: &mut Vec<Map>, operation: &Op) {
        match operation {
            Op::Put(k, len) | Op::PutIfAbsent(k, len) => {
                store.put(key(*k), vec![1; *len]).unwrap();
                map.insert(key(*k), vec![1; *len]);
            }
            Op::Delete(k) => {
                store.delete(key(*k)).unwrap();
                map.remove(&key(*k));
            }
            _ => return,
        }
        history.push(map.clone());
    }

    /// What is there afterwards is what was there at some moment since the last sync.
    fn lose_power(&mut self, mut seed: u64) {
        let lost_in_256 = seed & 0xff;
        let image = self.disk.power_loss(|_, _| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 56 >= lost_in_256
        });
        self.start_again(image);
        let found = contents(self.store());
        assert!(self.history.contains(&found), "{} keys that never were", found.len());
        self.history = vec![found.clone()];
        self.map = found;
    }
}

#[test]
fn any_sequence_of_operations_agrees_with_a_map() {
    let cases = std::env::var("TAILCASK_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let sequences = prop::collection::vec(operation(), 1..60);
    let run = |operations: Vec<Op>| {
        let mut world = World::new();
        operations.iter().for_each(|operation| world.run(operation));
        world.check();
        Ok(())
    };
    TestRunner::new(config).run(&sequences, run).unwrap();
}
