//! Crashes in every order: beside writers, one after another, inside operations, after failed ones.
//!
//! `TAILCASK_ROUNDS` says how many rounds.

mod common;

use common::{Finish, Random, rounds, small_log, small_store};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tailcask::{
    Batch, CommitLog, DiskOperation, Durability, Expected, Fate, LogOptions, LogPosition,
    Maintenance, MergePolicy, SimulatedDisk, Store, StoreOptions, Ttl, WriteOptions,
};

// ---- the log ----

fn log_options() -> LogOptions {
    small_log(64 << 10)
}

/// What an entry says of itself: its writer, and its number there. The rest is filled with it.
fn entry(writer: u64, number: u64, len: usize) -> Vec<u8> {
    let id = writer << 56 | number;
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.resize(8 + len, (id ^ id >> 56) as u8);
    bytes
}

type Found = Vec<(LogPosition, u64)>;

fn entries(log: &CommitLog) -> Found {
    let mut reader = log.reader();
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let id = u64::from_le_bytes(entry[..8].try_into().unwrap());
        assert!(entry[8..].iter().all(|&b| b == (id ^ id >> 56) as u8), "nothing is half");
        all.push((entry.position(), id));
    }
    all
}

/// Claimed, and the machine stopped: the log ends there, whatever had been written back behind it.
#[test]
fn a_claim_under_another_boot_ends_the_log() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    log.append(&entry(1, 1, 20)).unwrap();
    let mut images = Vec::new();
    let claim = log.append_with(500, |bytes| {
        bytes[..300].fill(0xee);
        log.append(&entry(1, 2, 600)).unwrap();
        images.push(disk.power_loss(|_, _| true));
        // Also after recoveries that are cut short, and after the death of the process before.
        images.push(disk.process_death().power_loss(|_, _| true));
        let cut_short = disk.power_loss(|_, _| true);
        cut_short.fail_after(4);
        log_options().open_simulated(&cut_short).unwrap_err();
        images.push(cut_short.power_loss(|_, _| true));
    });
    for (nth, image) in images.into_iter().enumerate() {
        let log = log_options().open_simulated(&image).unwrap();
        assert_eq!(entries(&log).len(), 1);
        assert!(nth == 2 || !log.recovery().same_boot);
        let from = log.recovery().torn_from;
        assert!(from.is_none() || from == Some(*claim.as_ref().unwrap()), "{from:?}");
        log.abort();
    }
    log.abort();
}

/// An image that was taken while appends ran.
struct Taken {
    /// How many entries each writer had seen acknowledged before.
    told: Vec<u64>,
    durable: LogPosition,
    found: Found,
    begin: LogPosition,
    power: bool,
}

struct Writers {
    log: CommitLog,
    disk: SimulatedDisk,
    told: Vec<AtomicU64>,
    stop: AtomicBool,
    /// All entries, in the order in which they were acknowledged.
    all: Mutex<Found>,
}

impl Writers {
    fn write(&self, writer: u64, seed: u64) {
        let (mut random, mut number, mut mine) = (Random::new(seed), 0, Vec::new());
        while !self.stop.load(Ordering::Relaxed) {
            let mut bodies = Vec::new();
            let count = if random.below(4) == 0 { 3 } else { 1 };
            for n in 0..count {
                bodies.push(entry(writer, number + n, random.below(300) as usize));
            }
            let positions = match (count, random.below(4)) {
                (3, _) => self.log.append_batch(&[&bodies[0], &bodies[1], &bodies[2]]).unwrap(),
                (_, 0) => {
                    let fill = |place: &mut [u8]| {
                        let (a, b) = bodies[0].split_at(place.len() / 2);
                        place[..a.len()].copy_from_slice(a);
                        std::thread::yield_now();
                        place[a.len()..].copy_from_slice(b);
                    };
                    vec![self.log.append_with(bodies[0].len(), fill).unwrap()]
                }
                _ => vec![self.log.append(&bodies[0]).unwrap()],
            };
            if random.below(64) == 0 {
                self.log.sync().unwrap();
            }
            for position in positions {
                mine.push((position, writer << 56 | number));
                number += 1;
            }
            self.told[writer as usize].store(number, Ordering::Release);
        }
        self.all.lock().unwrap().extend(mine);
    }

    fn take(&self, seed: u64) -> Taken {
        let told = self.told.iter().map(|n| n.load(Ordering::Acquire)).collect();
        let (durable, power) = (self.log.durable(), seed.is_multiple_of(2));
        let image =
            if power { self.disk.power_loss_at_random(seed) } else { self.disk.process_death() };
        let log = log_options().open_simulated(&image).unwrap();
        let (found, begin) = (entries(&log), log.begin());
        go_on(&image, log, &found, seed);
        Taken { told, durable, found, begin, power }
    }
}

/// The log goes on from there, and dies and loses power again.
fn go_on(image: &SimulatedDisk, log: CommitLog, found: &Found, seed: u64) {
    let mut expected: Vec<_> = found.iter().map(|(_, id)| *id).collect();
    let (mut image, mut log) = (image.clone(), log);
    for turn in 0..3u64 {
        let id = 0xff << 56 | turn;
        log.append(&entry(0xff, turn, 50)).unwrap();
        expected.push(id);
        if seed >> turn & 1 == 0 {
            log.sync().unwrap();
        }
        let promised = if log.durable() == log.begin() { 0 } else { expected.len() };
        let promised = if seed >> turn & 1 == 0 { promised } else { expected.len() - 1 };
        let next = if seed >> (turn + 3) & 1 == 0 {
            image.process_death()
        } else {
            image.process_death().power_loss_at_random(seed ^ turn)
        };
        log.abort();
        (log, image) = (log_options().open_simulated(&next).unwrap(), next);
        let found: Vec<_> = entries(&log).into_iter().map(|(_, id)| id).collect();
        assert!(found.len() >= promised, "{} of {promised}", found.len());
        assert_eq!(found, expected[..found.len()]);
        expected.truncate(found.len());
    }
    log.abort();
}

impl Taken {
    fn check(&self, all: &Found) {
        let of_writer = |writer: u64| {
            let mine = self.found.iter().map(|(_, id)| *id).filter(move |id| id >> 56 == writer);
            mine.map(|id| id & ((1 << 56) - 1))
        };
        if self.power {
            // A prefix of what is there in the end, with all that was durable.
            let begin = all.partition_point(|(position, _)| *position < self.begin);
            let expected = &all[begin..][..self.found.len()];
            assert_eq!(self.found, expected);
            let durable = all.partition_point(|(position, _)| *position < self.durable);
            assert!(begin + self.found.len() >= durable, "{} of {durable}", self.found.len());
            return;
        }
        for (writer, &told) in self.told.iter().enumerate() {
            let mut numbers: Vec<_> = of_writer(writer as u64).collect();
            numbers.sort_unstable();
            let gapless = numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]);
            assert!(gapless, "{writer}: {numbers:?}");
            let end = numbers.last().map_or(0, |last| last + 1);
            assert!(end >= told || numbers.is_empty() && self.begin > LogPosition::START);
        }
    }
}

/// Promises 1, 2 and 3 beside writers, who claim, fill and commit while the image is taken, sync and
/// roll; and while the log is truncated.
#[test]
fn images_beside_writers_keep_the_promises() {
    for round in 0..rounds(6) {
        let disk = SimulatedDisk::new();
        let manual = round % 2 == 0;
        let maintenance = if manual { Maintenance::Manual } else { Maintenance::Background };
        let log = log_options().maintenance(maintenance).open_simulated(&disk).unwrap();
        let told = (0..3).map(|_| AtomicU64::new(0)).collect();
        let (stop, all) = (AtomicBool::new(false), Mutex::default());
        let writers = Writers { log, disk, told, stop, all };
        let taken: Vec<_> = std::thread::scope(|scope| {
            let writers = &writers;
            for writer in 0..3 {
                scope.spawn(move || writers.write(writer, (round << 8) | (writer + 1)));
            }
            scope.spawn(move || {
                while !writers.stop.load(Ordering::Relaxed) {
                    writers.disk.observe();
                    std::thread::yield_now();
                }
            });
            let stopping = Finish(&writers.stop);
            let mut random = Random::new(round + 77);
            let taken = (0..30).map(|turn| {
                if turn % 10 == 9 {
                    writers.log.truncate_before(writers.log.durable()).unwrap();
                }
                writers.take(random.next())
            });
            let taken = taken.collect();
            drop(stopping);
            taken
        });
        let mut all = std::mem::take(&mut *writers.all.lock().unwrap());
        all.sort_unstable();
        taken.iter().for_each(|taken: &Taken| taken.check(&all));
        writers.log.abort();
    }
}

// ---- the store ----

const KEYS: u64 = 8;

fn store_options() -> StoreOptions {
    let policy = MergePolicy::new().min_dead_bytes(1000);
    small_store(32 << 10).merge_policy(policy)
}

/// What one writer has done to its keys, in order: each key's number, and whether it has a value
/// afterwards. Writes of one batch are one step.
type Steps = Vec<Vec<(u64, bool)>>;

fn key(writer: u64, key: u64) -> Vec<u8> {
    format!("{writer}/{key}/{}", "k".repeat((key * 7) as usize)).into_bytes()
}

fn value(step: u64, len: usize) -> Vec<u8> {
    let mut bytes = step.to_le_bytes().to_vec();
    bytes.resize(8 + len, step as u8);
    bytes
}

/// The step that each key's value is of.
fn contents(store: &Store, writer: u64) -> BTreeMap<u64, u64> {
    let mut found = BTreeMap::new();
    for number in 0..KEYS {
        if let Some(value) = store.get(key(writer, number)).unwrap() {
            let step = u64::from_le_bytes(value[..8].try_into().unwrap());
            assert!(value[8..].iter().all(|&b| b == step as u8));
            found.insert(number, step);
        }
    }
    found
}

/// The numbers of steps after which a writer's keys are as they were found.
fn moments(steps: &Steps, found: &BTreeMap<u64, u64>) -> Vec<u64> {
    let mut state = BTreeMap::new();
    let mut moments = Vec::new();
    for done in 0..=steps.len() as u64 {
        if done > 0 {
            for &(key, is_put) in &steps[done as usize - 1] {
                if is_put {
                    state.insert(key, done);
                } else {
                    state.remove(&key);
                }
            }
        }
        if state == *found {
            moments.push(done);
        }
    }
    moments
}

/// Takes one step: what it did, and whether it is durable when it returns.
fn step(store: &Store, writer: u64, done: u64, random: &mut Random) -> (Vec<(u64, bool)>, bool) {
    let len = random.below(400) as usize;
    let number = random.below(KEYS);
    let synced = random.below(16) == 0;
    let durability = if synced { Durability::Synced } else { Durability::Buffered };
    let options = WriteOptions::new().durability(durability);
    match random.below(8) {
        0 => {
            let deleted = store.delete_with(key(writer, number), &options).unwrap();
            // If there was nothing to delete, nothing was synced.
            (vec![(number, false)], synced && deleted.is_some())
        }
        2 => {
            let set = |_: Option<&[u8]>| Some(value(done + 1, len));
            store.update_with(key(writer, number), set, &options.keep_ttl()).unwrap();
            (vec![(number, true)], synced)
        }
        3 => {
            let hour = options.ttl(Duration::from_secs(3600));
            let touched = store.touch_with(key(writer, number), &hour).unwrap();
            (Vec::new(), synced && touched.is_some())
        }
        1 => {
            let (mut batch, mut changes) = (Batch::new(), Vec::new());
            for number in (0..KEYS).step_by(1 + random.below(3) as usize) {
                let is_put = random.below(3) > 0;
                let is_there = store.contains_key(key(writer, number)).unwrap();
                let expected = if is_there { Expected::Present } else { Expected::Absent };
                batch.expect(key(writer, number), expected);
                if is_put {
                    batch.put_with(key(writer, number), value(done + 1, len), Ttl::Keep);
                } else {
                    batch.delete(key(writer, number));
                }
                changes.push((number, is_put));
            }
            store.write_with(&batch, &options).unwrap();
            (changes, synced)
        }
        _ => {
            store.put_with(key(writer, number), value(done + 1, len), &options).unwrap();
            (vec![(number, true)], synced)
        }
    }
}

/// What is checked of an image of a store: each writer's keys are as they were at one moment, not
/// before `at_least`.
struct StoreImage {
    disk: SimulatedDisk,
    at_least: Vec<u64>,
}

impl StoreImage {
    fn check(&self, steps: &[Steps]) {
        let store = store_options().open_simulated(&self.disk).unwrap();
        let mut agreed = Vec::new();
        for (writer, steps) in steps.iter().enumerate() {
            let found = contents(&store, writer as u64);
            let moments = moments(steps, &found);
            let last = moments.last().copied();
            let told = self.at_least[writer];
            assert!(last >= Some(told), "{writer}: {found:?} is of {moments:?}, not {told}");
            agreed.push(found);
        }
        store.verify().unwrap();
        store.merge().unwrap();
        // What was found is durable, and stays so.
        let image = self.disk.power_loss_at_random(self.at_least[0]);
        store.abort();
        let store = store_options().open_simulated(&image).unwrap();
        for (writer, found) in agreed.iter().enumerate() {
            assert_eq!(contents(&store, writer as u64), *found);
        }
        store.abort();
    }
}

/// Writers, merges and images beside each other.
#[test]
fn images_beside_merges_keep_the_promises() {
    for round in 0..rounds(4) {
        let disk = SimulatedDisk::new();
        let store = store_options().open_simulated(&disk).unwrap();
        let told: Vec<_> = (0..2).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect();
        let stop = AtomicBool::new(false);
        let (images, steps) = std::thread::scope(|scope| {
            let (store, told, stop, disk) = (&store, &told, &stop, &disk);
            let writers: Vec<_> = (0..2u64)
                .map(|writer| {
                    scope.spawn(move || {
                        let mut random = Random::new((round << 8) | (writer + 1));
                        let mut steps = Steps::new();
                        while !stop.load(Ordering::Relaxed) {
                            let done = steps.len() as u64;
                            let (changes, durable) = step(store, writer, done, &mut random);
                            steps.push(changes);
                            told[writer as usize][0].store(done + 1, Ordering::Release);
                            if durable {
                                told[writer as usize][1].store(done + 1, Ordering::Release);
                            }
                        }
                        steps
                    })
                })
                .collect();
            scope.spawn(move || {
                let mut random = Random::new(round + 5);
                while !stop.load(Ordering::Relaxed) {
                    match random.below(4) {
                        0 => drop(store.merge().unwrap()),
                        1 => store.roll().unwrap(),
                        _ => drop(store.maintain().unwrap()),
                    }
                }
            });
            let stopping = Finish(stop);
            let mut random = Random::new(round + 99);
            let images: Vec<_> = (0..25)
                .map(|_| {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    let seed = random.next();
                    let power = (seed % 2) as usize;
                    let told = told.iter().map(|told| told[power].load(Ordering::Acquire));
                    let at_least = told.collect();
                    let disk = match power {
                        0 => disk.process_death(),
                        _ => disk.power_loss_at_random(seed),
                    };
                    StoreImage { disk, at_least }
                })
                .collect();
            drop(stopping);
            let steps: Vec<_> = writers.into_iter().map(|w| w.join().unwrap()).collect();
            (images, steps)
        });
        store.abort();
        images.iter().for_each(|image| image.check(&steps));
    }
}

/// A merge, and whatever else is done to the disk, ends at any step: by a death, or a power loss.
#[test]
fn every_operation_may_be_the_last() {
    for round in 0..rounds(4) {
        let disk = SimulatedDisk::new();
        let mut random = Random::new(round + 1);
        let store = store_options().open_simulated(&disk).unwrap();
        let images = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let (taken, known) = (images.clone(), told.clone());
        let seeds = AtomicU64::new(round << 32);
        disk.on_operation(move |disk, operation, _| {
            let seed = seeds.fetch_add(1, Ordering::Relaxed);
            if operation.is_write() && seed.is_multiple_of(3) {
                let at_least = vec![known[0].load(Ordering::Relaxed)];
                let image = StoreImage { disk: disk.process_death(), at_least };
                let durable = vec![known[1].load(Ordering::Relaxed)];
                let lost = StoreImage { disk: disk.power_loss_at_random(seed), at_least: durable };
                taken.lock().unwrap().extend([image, lost]);
            }
            Ok(())
        });
        let mut steps = Steps::new();
        for turn in 0..400u64 {
            let (changes, durable) = step(&store, 0, turn, &mut random);
            steps.push(changes);
            told[0].store(turn + 1, Ordering::Relaxed);
            if durable {
                told[1].store(turn + 1, Ordering::Relaxed);
            }
            match random.below(40) {
                0 => drop(store.merge().unwrap()),
                1 => store.roll().unwrap(),
                2 => drop(store.maintain().unwrap()),
                3 => drop(store.sync().unwrap()),
                _ => {}
            }
        }
        store.close().unwrap();
        disk.on_operation(|_, _, _| Ok(()));
        // A step under way may be there already: its changes are the next ones.
        for image in images.lock().unwrap().iter() {
            image.check(&[steps.clone()]);
        }
    }
}

/// Each kind of operation fails once, at each of its turns in one history: nothing that was
/// acknowledged is lost, be it that the store goes on, is closed, dies, or loses power.
#[test]
fn any_one_operation_may_fail() {
    use DiskOperation as Do;
    let kinds = [
        Do::Create,
        Do::SyncNew,
        Do::Rename,
        Do::Remove,
        Do::SyncDirectory,
        Do::Sync,
        Do::Release,
        Do::Allocate,
        Do::List,
        Do::Open,
        Do::ReadManifest,
    ];
    for kind in kinds {
        for after in 0..rounds(12) {
            let mut random = Random::new(after + 1);
            let disk = SimulatedDisk::new();
            let mut store = store_options().open_simulated(&disk).unwrap();
            disk.fail_once(kind, after);
            // What each key may be: more than one value after a write that failed.
            let mut may_be: BTreeMap<u64, Vec<Option<u64>>> = BTreeMap::new();
            for turn in 0..150u64 {
                let number = random.below(KEYS);
                let new = (random.below(4) > 0).then_some(turn);
                let done = match new {
                    Some(step) => store.put(key(0, number), value(step, 300)).is_ok(),
                    None => store.delete(key(0, number)).is_ok(),
                };
                let known = may_be.entry(number).or_insert_with(|| vec![None]);
                if done {
                    *known = vec![new];
                } else {
                    known.push(new);
                }
                // They may fail, and what they leave is checked below.
                match random.below(12) {
                    0 => drop(store.merge()),
                    1 => drop(store.roll()),
                    2 => drop(store.maintain()),
                    _ => {}
                }
                if random.below(50) == 0 {
                    let _ = store.close();
                    // An open that fails changes nothing.
                    store = match store_options().open_simulated(&disk) {
                        Ok(store) => store,
                        Err(_) => store_options().open_simulated(&disk).unwrap(),
                    };
                }
            }
            let check = |store: &Store, why: &str| {
                for (number, known) in &may_be {
                    let found = store.get(key(0, *number)).unwrap();
                    let found = found.map(|v| u64::from_le_bytes(v[..8].try_into().unwrap()));
                    assert!(
                        known.contains(&found),
                        "{kind:?} {after}, {why}: {number} is {found:?}, not {known:?}"
                    );
                }
                store.verify().unwrap();
            };
            check(&store, "going on");
            let dead = disk.process_death();
            let synced = store.sync().is_ok();
            let lost = disk.power_loss_by(|_| Fate::Lost);
            store.abort();
            check(&store_options().open_simulated(&dead).unwrap(), "after a death");
            let lost = store_options().open_simulated(&lost).unwrap();
            if synced {
                check(&lost, "after a power loss");
            }
        }
    }
}
