//! Every step of a log and of a store may be the last one: opening, closing, rolling, merging,
//! truncating, and each of them again while the one before is being cleared up. Whatever a death or a
//! power loss leaves, the next open is a strict one and finds what was promised.
//!
//! Longer with `TAILCASK_ROUNDS`.

mod common;

use common::{Random, rounds, small_log, small_store};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tailcask::{CommitLog, LogPosition, Retention, SimulatedDisk, Store};

const UNIT: u64 = 16 << 10;

/// What a disk was promised to hold when an image of it was taken.
#[derive(Clone, Debug, Default)]
struct Promise {
    /// After a death, and after a power loss, at least so much of the history is there.
    told: u64,
    durable: u64,
    /// So much of it may be there.
    begun: u64,
    /// A log may begin with any entry up to this one.
    first: u64,
}

/// An image, and what it has to hold.
struct Image {
    disk: SimulatedDisk,
    at_least: u64,
    promise: Promise,
    what: String,
}

/// Takes images before each operation that changes something.
#[derive(Clone, Default)]
struct Camera {
    images: Arc<Mutex<Vec<Image>>>,
    promise: Arc<Mutex<Promise>>,
    random: Arc<Mutex<u64>>,
    /// One in this many operations.
    every: u64,
}

impl Camera {
    fn new(seed: u64, every: u64) -> Self {
        Self { random: Arc::new(Mutex::new(seed << 32)), every, ..Self::default() }
    }

    fn watch(&self, disk: &SimulatedDisk, what: &str) {
        let (camera, what) = (self.clone(), what.to_owned());
        disk.on_operation(move |disk, operation, name| {
            if operation.is_write() {
                camera.shoot(disk, &format!("{what}, before {operation:?} {name}"));
            }
            Ok(())
        });
    }

    fn shoot(&self, disk: &SimulatedDisk, what: &str) {
        let mut number = self.random.lock().unwrap();
        *number += 1;
        let mut random = Random::new(*number);
        if random.below(self.every) > 0 {
            return;
        }
        let promise = self.promise.lock().unwrap().clone();
        let lost = match random.below(4) {
            0 => disk.power_loss(|_, _| false),
            1 => disk.power_loss(|_, _| true),
            _ => disk.power_loss_at_random(random.next()),
        };
        let image = |disk, at_least, how: &str| Image {
            disk,
            at_least,
            promise: promise.clone(),
            what: format!("{how} in {what} ({number})"),
        };
        let all = [
            image(disk.process_death(), promise.told, "death"),
            image(lost, promise.durable, "power loss"),
        ];
        self.images.lock().unwrap().extend(all);
    }

    fn taken(&self) -> Vec<Image> {
        std::mem::take(&mut self.images.lock().unwrap())
    }
}

// ---- the log ----

fn entry(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + len, number as u8);
    bytes
}

fn numbers(log: &CommitLog, what: &str) -> Vec<u64> {
    let (mut reader, mut all) = (log.reader(), Vec::new());
    while let Some(entry) = reader.next_entry().unwrap_or_else(|e| panic!("{what}: {e}")) {
        let number = u64::from_le_bytes(entry[..8].try_into().unwrap());
        assert!(entry[8..].iter().all(|&b| b == number as u8), "{what}: {number}");
        all.push(number);
    }
    all
}

impl Image {
    fn open_log(disk: &SimulatedDisk, what: &str) -> CommitLog {
        small_log(UNIT).open_simulated(disk).unwrap_or_else(|error| {
            panic!("{what}: {error:?}\n{:?}", disk.files());
        })
    }

    /// Checks a log, and gives images of each step of that.
    fn check_log(&self, seed: u64, deeper: u64) -> Vec<Image> {
        let (what, promise) = (&self.what, &self.promise);
        let camera = Camera::new(seed, deeper.max(1));
        if deeper > 0 {
            // What is found is what is durable from then on; until then what was.
            *camera.promise.lock().unwrap() =
                Promise { told: self.at_least, durable: self.at_least, ..promise.clone() };
            camera.watch(&self.disk, what);
        }
        let log = Self::open_log(&self.disk, what);
        let found = numbers(&log, what);
        let (first, end) = (found.first().copied(), found.last().map_or(promise.first, |n| n + 1));
        assert!(first.is_none_or(|first| first <= promise.first), "{what}: {first:?} {promise:?}");
        let is_gapless = found.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        assert!(is_gapless, "{what}: {found:?}");
        assert!(end >= self.at_least, "{what}: {end} of {}", self.at_least);
        assert!(found.is_empty() || end <= promise.begun, "{what}: {end}, {promise:?}");
        {
            let mut promise = camera.promise.lock().unwrap();
            (promise.told, promise.durable, promise.begun) = (end, end, end + 1);
        }
        match seed % 3 {
            0 => log.abort(),
            1 => log.close().unwrap(),
            _ => {
                log.append(&entry(end, 20)).unwrap();
                log.close().unwrap();
            }
        }
        let after = self.disk.power_loss_at_random(seed);
        let log = Self::open_log(&after, &format!("{what}, again"));
        let again = numbers(&log, what);
        assert_eq!(again.get(..found.len()), Some(&found[..]), "{what}: it stays");
        log.abort();
        camera.taken()
    }
}

/// A log that goes through everything that happens to logs.
struct Life {
    disk: SimulatedDisk,
    log: Option<CommitLog>,
    camera: Camera,
    random: Random,
    /// Where the entries are.
    positions: Vec<LogPosition>,
    holes: bool,
}

impl Life {
    fn change(&self, change: impl FnOnce(&mut Promise)) {
        change(&mut self.camera.promise.lock().unwrap());
    }

    fn open(&mut self) {
        self.log = None;
        self.camera.watch(&self.disk, "opening");
        let log = Image::open_log(&self.disk, "the life of a log");
        let found = numbers(&log, "the life of a log");
        // A hole, and a power loss: the log ends there.
        let end = found.last().map_or(0, |last| last + 1);
        let end = if found.is_empty() { self.positions.len() as u64 } else { end };
        self.positions.truncate(end as usize);
        self.change(|promise| {
            (promise.told, promise.durable, promise.begun) = (end, end, end);
        });
        self.camera.watch(&self.disk, "running");
        (self.log, self.holes) = (Some(log), false);
    }

    fn step(&mut self) {
        let log = self.log.as_ref().unwrap();
        let next = self.positions.len() as u64;
        match self.random.below(40) {
            0 => {
                let log = self.log.take().unwrap();
                if !self.holes {
                    self.camera.watch(&self.disk, "closing");
                    log.close().unwrap();
                } else {
                    log.abort();
                }
                self.open();
            }
            1 => {
                self.log.take().unwrap().abort();
                self.open();
            }
            2 if !self.holes => {
                let end = log.sync().unwrap();
                let durable = self.positions.partition_point(|&at| at < end) as u64;
                self.change(|promise| promise.durable = durable);
            }
            3..=5 if !self.holes => log.maintain().unwrap(),
            6 if next > 0 => {
                let to = self.random.below(next);
                let position = self.positions[to as usize];
                self.change(|promise| promise.first = promise.first.max(to));
                // What is sealed up to there is durable.
                log.truncate_before(position).unwrap();
            }
            10 if next > 0 => {
                let retention = Retention::new().bytes(self.random.below(60_000));
                // What is not sealed yet counts as full: once it is sealed, it may hold less.
                let from = log.retained_from(retention).unwrap();
                let to = self.positions.partition_point(|&at| at < from) as u64;
                self.change(|promise| promise.first = promise.first.max(to));
                assert!(log.retain(retention).unwrap().begin <= from);
            }
            7 => {
                log.abandon_reservation(40);
                self.holes = true;
            }
            8 => {
                // It gets a segment of its own.
                self.change(|promise| promise.begun = next + 1);
                self.positions.push(log.append(&entry(next, 20_000)).unwrap());
                self.change(|promise| promise.told = next + 1);
            }
            9 => {
                let bodies: Vec<_> = (next..next + 3).map(|n| entry(n, 500)).collect();
                let bodies: Vec<_> = bodies.iter().map(|body| &body[..]).collect();
                self.change(|promise| promise.begun = next + 3);
                self.positions.extend(log.append_batch(&bodies).unwrap());
                self.change(|promise| promise.told = next + 3);
            }
            _ => {
                let len = self.random.below(3000) as usize;
                self.change(|promise| promise.begun = next + 1);
                self.positions.push(log.append(&entry(next, len)).unwrap());
                self.change(|promise| promise.told = next + 1);
            }
        }
    }
}

#[test]
fn every_step_of_a_log_may_be_the_last() {
    for round in 0..rounds(2) {
        let (disk, camera) = (SimulatedDisk::new(), Camera::new(round, 2));
        let mut life = Life {
            disk,
            log: None,
            camera,
            random: Random::new(round + 1),
            positions: Vec::new(),
            holes: false,
        };
        life.open();
        for _ in 0..150 {
            life.step();
        }
        life.log.take().unwrap().abort();
        let mut nth = round << 20;
        for image in life.camera.taken() {
            nth += 1;
            let deeper = if nth % 16 == 0 { 2 } else { 0 };
            for inner in image.check_log(nth, deeper) {
                inner.check_log(nth, 0);
            }
        }
    }
}

// ---- the store ----

type State = BTreeMap<u64, u64>;

fn state(store: &Store, what: &str) -> State {
    let pairs = store.iter().map(|pair| {
        let pair = pair.unwrap_or_else(|error| panic!("{what}: {error}"));
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
        (number(pair.key()), number(pair.value()))
    });
    pairs.collect()
}

impl Image {
    fn open_store(disk: &SimulatedDisk, what: &str) -> Store {
        small_store(UNIT).open_simulated(disk).unwrap_or_else(|error| {
            panic!("{what}: {error:?}\n{:?}", disk.files());
        })
    }

    fn check_store(&self, states: &[State], seed: u64, deeper: u64) -> Vec<Image> {
        let (what, promise) = (&self.what, &self.promise);
        let camera = Camera::new(seed, deeper.max(1));
        if deeper > 0 {
            *camera.promise.lock().unwrap() =
                Promise { told: self.at_least, durable: self.at_least, ..promise.clone() };
            camera.watch(&self.disk, what);
        }
        let store = Self::open_store(&self.disk, what);
        let found = state(&store, what);
        let allowed = &states[self.at_least as usize..=promise.begun as usize];
        assert!(allowed.contains(&found), "{what}: {promise:?} {found:?}");
        store.verify().unwrap_or_else(|error| panic!("{what}: {error}"));
        match seed % 4 {
            0 => store.abort(),
            1 => store.close().unwrap(),
            _ => {
                store.merge().unwrap_or_else(|error| panic!("{what}: {error}"));
                store.close().unwrap();
            }
        }
        let after = self.disk.power_loss_at_random(seed);
        let store = Self::open_store(&after, &format!("{what}, again"));
        assert_eq!(state(&store, what), found, "{what}: it stays");
        store.abort();
        camera.taken()
    }
}

#[test]
fn every_step_of_a_store_may_be_the_last() {
    for round in 0..rounds(2) {
        let (mut disk, camera) = (SimulatedDisk::new(), Camera::new(round, 3));
        let mut random = Random::new(round + 7);
        camera.watch(&disk, "opening");
        let mut store = Image::open_store(&disk, "the life of a store");
        let mut states = vec![State::new()];
        let promise = camera.promise.clone();
        for _ in 0..250 {
            let step = states.len() as u64;
            match random.below(50) {
                0 | 1 => {
                    camera.watch(&disk, "closing");
                    if random.below(3) > 0 {
                        store.close().unwrap();
                    } else {
                        store.abort();
                    }
                    camera.watch(&disk, "opening");
                    store = Image::open_store(&disk, "the life of a store");
                    // What was found is durable.
                    promise.lock().unwrap().durable = step - 1;
                    camera.watch(&disk, "running");
                }
                2 => {
                    disk.on_operation(|_, _, _| Ok(()));
                    let next = disk.power_loss_at_random(random.next());
                    store.abort();
                    disk = next;
                    store = Image::open_store(&disk, "the life of a store");
                    let found = state(&store, "after a power loss");
                    let durable = promise.lock().unwrap().durable as usize;
                    let now = states[durable..].iter().rposition(|state| *state == found);
                    let now = durable + now.expect("it is of some moment");
                    states.truncate(now + 1);
                    let now = now as u64;
                    *promise.lock().unwrap() =
                        Promise { told: now, durable: now, begun: now, first: 0 };
                    // What was taken before is of another history.
                    for image in camera.taken().into_iter().filter(|i| i.promise.begun <= now) {
                        image.check_store(&states, now, 0);
                    }
                    camera.watch(&disk, "running");
                }
                3..=5 => {
                    camera.watch(&disk, "merging");
                    _ = store.merge().unwrap();
                    camera.watch(&disk, "running");
                }
                6 => store.roll().unwrap(),
                7 | 8 => drop(store.maintain().unwrap()),
                9 => {
                    store.sync().unwrap();
                    promise.lock().unwrap().durable = step - 1;
                }
                choice => {
                    let key = random.below(12);
                    let mut next = states.last().unwrap().clone();
                    let len = if choice == 10 { 20_000 } else { random.below(2500) as usize };
                    let is_put = choice < 40;
                    if is_put {
                        next.insert(key, step);
                    } else {
                        next.remove(&key);
                    }
                    states.push(next);
                    promise.lock().unwrap().begun = step;
                    if is_put {
                        store.put(key.to_le_bytes(), entry(step, len)).unwrap();
                    } else {
                        store.delete(key.to_le_bytes()).unwrap();
                    }
                    promise.lock().unwrap().told = step;
                }
            }
        }
        disk.on_operation(|_, _, _| Ok(()));
        store.abort();
        let mut nth = round << 20;
        for image in camera.taken() {
            nth += 1;
            let deeper = if nth % 16 == 0 { 2 } else { 0 };
            for inner in image.check_store(&states, nth, deeper) {
                inner.check_store(&states, nth, 0);
            }
        }
    }
}
