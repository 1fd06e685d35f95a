//! A sequence of operations on a store, two or three bytes each, against a map.

use std::collections::BTreeMap;
use tailcask::{Batch, Maintenance, MergePolicy, SimulatedDisk, Store};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Small, so that there are many.
const SEGMENT: u64 = 8192;
const KEYS: u8 = 8;
/// A sequence is not longer than this.
const MOST: usize = 300;

struct World {
    disk: SimulatedDisk,
    store: Store,
    /// What the store had after each write since it was last durable as a whole. The last is what it has.
    states: Vec<Map>,
    writes: u32,
}

fn open(disk: &SimulatedDisk) -> Store {
    let policy = MergePolicy::new().min_dead_bytes(500);
    let options = Store::options().maintenance(Maintenance::Manual).merge_policy(policy);
    options
        .segment_unit(SEGMENT)
        .segment_size(SEGMENT)
        // Otherwise each open looks how much memory there is.
        .cache_budget(1 << 30)
        .open_simulated(disk)
        .expect("a healthy store")
}

fn contents(store: &Store) -> Map {
    let pair = |pair: tailcask::Pair<'_>| (pair.key().to_vec(), pair.value().to_vec());
    store.iter().map(|one| pair(one.expect("it can be read"))).collect()
}

fn key(byte: u8) -> Vec<u8> {
    vec![b'k'; 1 + usize::from(byte % KEYS) * 3]
}

impl World {
    fn now(&self) -> &Map {
        self.states.last().expect("there is always one")
    }

    fn value(&mut self, len: u8) -> Vec<u8> {
        self.writes += 1;
        let number = self.writes.to_le_bytes();
        (0..usize::from(len) * 8).map(|n| number[n % 4] ^ n as u8).collect()
    }

    fn wrote(&mut self, change: impl FnOnce(&mut Map)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
    }

    fn put(&mut self, at: u8, len: u8) {
        let (key, value) = (key(at), self.value(len));
        self.store.put(&key, &value).expect("there is room");
        self.wrote(|map| drop(map.insert(key, value)));
    }

    fn delete(&mut self, at: u8) {
        let was_there = self.store.delete(key(at)).expect("there is room");
        assert_eq!(was_there, self.now().contains_key(&key(at)));
        self.wrote(|map| drop(map.remove(&key(at))));
    }

    /// Three writes at once.
    fn batch(&mut self, at: u8, len: u8) {
        let (mut batch, mut next) = (Batch::new(), self.now().clone());
        for nth in 0..3u8 {
            let key = key(at.wrapping_add(nth));
            if at >> (5 + nth) & 1 == 0 {
                let value = self.value(len / (nth + 1));
                batch.put(&key, &value);
                next.insert(key, value);
            } else {
                batch.delete(&key);
                next.remove(&key);
            }
        }
        self.store.write(&batch).expect("there is room");
        self.states.push(next);
    }

    fn swap(&mut self, at: u8, len: u8) {
        let (key, old) = (key(at), self.now().get(&key(at)).cloned());
        let expected = if at & 64 == 0 { old.clone() } else { Some(b"another".to_vec()) };
        let new = (at & 128 == 0).then(|| self.value(len));
        let swapped = self.store.compare_and_swap(&key, expected.as_deref(), new.as_deref());
        let swapped = swapped.expect("there is room").is_ok();
        assert_eq!(swapped, expected == old);
        if swapped {
            self.wrote(|map| match new {
                Some(new) => drop(map.insert(key, new)),
                None => drop(map.remove(&key)),
            });
        }
    }

    fn sync(&mut self) {
        self.store.sync().expect("nothing fails");
        self.states.drain(..self.states.len() - 1);
    }

    fn check(&self) {
        assert_eq!(contents(&self.store), *self.now());
        assert_eq!(self.store.len(), self.now().len() as u64);
        for at in 0..KEYS {
            let found = self.store.get(key(at)).expect("it can be read");
            assert_eq!(found.as_deref(), self.now().get(&key(at)).map(|value| &value[..]));
        }
    }

    fn start_again(&mut self, image: SimulatedDisk) {
        self.store.clone().abort();
        self.disk = image;
        self.store = open(&self.disk);
    }

    fn die(&mut self) {
        self.start_again(self.disk.process_death());
        self.check();
    }

    fn lose_power(&mut self, seed: u64) {
        self.start_again(self.disk.power_loss_at_random(seed));
        let found = contents(&self.store);
        assert!(self.states.contains(&found), "{found:?} is no state since the last sync");
        self.states = vec![found];
        self.check();
    }

    fn reopen(&mut self) {
        self.store.clone().close().expect("nothing fails");
        self.store = open(&self.disk);
        assert!(self.store.recovery().is_clean());
        self.states.drain(..self.states.len() - 1);
        self.check();
    }

    fn step(&mut self, [operation, a, b]: [u8; 3]) {
        match operation % 16 {
            0..5 => self.put(a, b),
            5..7 => self.delete(a),
            7 => self.batch(a, b),
            8 => self.swap(a, b),
            9 => self.sync(),
            10 => self.store.roll().expect("there is room"),
            11 => {
                self.store.merge().expect("there is room");
            }
            12 => {
                self.store.maintain().expect("there is room");
            }
            13 => self.reopen(),
            14 => self.die(),
            _ => self.lose_power(u64::from(a) << 8 | u64::from(b)),
        }
    }
}

/// Runs the operations that the bytes stand for.
pub fn run(data: &[u8]) {
    let disk = SimulatedDisk::new();
    let store = open(&disk);
    let mut world = World { disk, store, states: vec![Map::new()], writes: 0 };
    for operation in data.chunks_exact(3).take(MOST) {
        world.step(operation.try_into().expect("3 bytes"));
    }
    world.check();
    world.store.verify().expect("nothing is damaged");
    world.store.abort();
}
