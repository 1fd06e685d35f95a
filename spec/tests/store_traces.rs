//! The real store, run by seeds on a simulated disk, and followed in the model: writes, merges of one or two
//! segments with writes in between, deaths and power losses at any time and at any operation of a merge. After
//! each operation readers have to find what the model says, in the segments that the model says.
//!
//! What a power loss took, and how far a merge was when it was cut short, is not known: the model then is in
//! any of several states, and at least one of them has to agree with what is found.
//!
//! `TAILCASK_ROUNDS` says how many seeds.

mod common;

use common::{Random, rounds};
use spec::merge::{Ids, MergeSpec, Record, Segment, Stage, Step, Store as State};
use stateright::Model;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tailcask::{Maintenance, MergeReport, SimulatedDisk, Store};

const KEYS: u8 = 4;
const SEGMENT: u64 = 32 << 10;

fn spec() -> MergeSpec {
    MergeSpec { keys: KEYS, ..common::MERGE }
}

fn open(disk: &SimulatedDisk) -> Store {
    let options = Store::options().maintenance(Maintenance::Manual);
    options.segment_unit(SEGMENT).segment_size(SEGMENT).open_simulated(disk).unwrap()
}

/// A state that the model may be in, and the real ids of its segments, as far as they matter.
#[derive(Clone, Debug)]
struct Possible {
    state: State,
    ids: BTreeMap<u8, u32>,
}

/// What is seen of the real store.
#[derive(Debug)]
struct Observed {
    found: Vec<Option<u8>>,
    segments: BTreeSet<u32>,
    merged: Vec<u32>,
}

impl Observed {
    fn of(store: &Store) -> Self {
        let found = (0..KEYS).map(|key| store.get([key]).unwrap().map(|value| value[0]));
        let segments = store.stats().segments;
        let merged = segments.iter().filter(|segment| segment.merged).map(|segment| segment.id);
        let merged = merged.collect();
        let segments = segments.iter().map(|segment| segment.id).collect();
        Self { found: found.collect(), segments, merged }
    }
}

impl Possible {
    fn then(&self, step: Step) -> Option<Self> {
        let state = spec().next_state(&self.state, step)?;
        Some(Self { state, ids: self.ids.clone() })
    }

    /// Whether readers find the same, in the same segments. Learns the ids of merged ones.
    fn agrees(mut self, observed: &Observed) -> Option<Self> {
        let finds = |key| self.state.found(key) == observed.found[usize::from(key)];
        (0..KEYS).all(finds).then_some(())?;
        for (id, real) in &self.ids {
            let is_observed = observed.segments.contains(real);
            let is_removed = self.state.removed & 1 << id != 0;
            // One that a power loss has emptied may be there, with a sync mark.
            (!(is_removed && is_observed) && (!self.has(*id) || is_observed)).then_some(())?;
        }
        let is_new = |id: &u8| !self.ids.contains_key(id) && self.has(*id);
        let merged = self.state.segments.iter().filter(|s| s.merged).map(|s| s.id);
        let new: Vec<u8> = merged.filter(is_new).collect();
        let known: BTreeSet<u32> = self.ids.values().copied().collect();
        let found: Vec<u32> =
            observed.merged.iter().copied().filter(|real| !known.contains(real)).collect();
        (new.len() == found.len()).then_some(())?;
        self.ids.extend(new.into_iter().zip(found));
        Some(self)
    }

    /// What makes a difference from here on. Two states that differ only in the numbers of segments have the
    /// same: origins are in the order of writes.
    fn signature(&self) -> String {
        let record = |record: &Record| (record.key, record.is_put, record.write);
        let of = |segment: &Segment| {
            let records: Vec<_> = segment.records.iter().map(record).collect();
            (self.ids.get(&segment.id), segment.file, self.state.is_there(segment), records)
        };
        let segments = self.state.segments.iter().filter(|segment| !segment.records.is_empty());
        let segments: Vec<_> = segments.map(of).collect();
        let history: Vec<_> = self.state.history.iter().map(record).collect();
        format!("{segments:?} {history:?} {}", self.state.durable)
    }

    /// What would be observed, in short.
    fn seen(&self) -> impl std::fmt::Debug {
        let found: Vec<_> = (0..KEYS).map(|key| self.state.found(key)).collect();
        let (mut there, mut removed) = (Vec::new(), Vec::new());
        for (id, real) in &self.ids {
            if self.has(*id) {
                there.push(*real);
            } else if self.state.removed & 1 << id != 0 {
                removed.push(*real);
            }
        }
        let merged = self.state.segments.iter().filter(|s| s.merged && self.has(s.id)).count();
        (found, "there", there, "merged", merged, "removed", removed)
    }

    /// A segment with records.
    fn has(&self, id: u8) -> bool {
        let mut all = self.state.segments.iter();
        all.any(|s| s.id == id && self.state.is_there(s) && !s.records.is_empty())
    }

    fn promises_hold(&self) -> bool {
        let is_always = stateright::Expectation::Always;
        let mut promises = spec().properties().into_iter().filter(|p| p.expectation == is_always);
        promises.all(|promise| (promise.condition)(&spec(), &self.state))
    }

    /// The states after each step of a merge. `meanwhile` is written before slots are moved.
    fn merge(&self, inputs: Ids, meanwhile: &[Write]) -> Option<Vec<Self>> {
        let mut path = vec![self.then(Step::Merge(inputs))?];
        let (mut meanwhile, mut wrote) = (meanwhile.iter(), false);
        while let Some(merge) = path.last()?.state.merge.clone() {
            let step = match merge.stage {
                Stage::Copy if !merge.unread.is_empty() => Step::Copy,
                Stage::Copy => Step::KeepTombstones,
                Stage::SyncOutput => Step::SyncOutput,
                Stage::MoveSlots if !wrote => {
                    let Some(write) = meanwhile.next() else {
                        wrote = true;
                        continue;
                    };
                    let next = path.last()?.write(*write)?;
                    path.push(next);
                    continue;
                }
                Stage::MoveSlots if !merge.moves.is_empty() => Step::MoveSlot,
                Stage::MoveSlots => Step::SyncLog,
                Stage::List => Step::List,
                Stage::Unlink => Step::Unlink,
            };
            let next = path.last()?.then(step)?;
            path.push(next);
        }
        Some(path)
    }

    fn write(&self, Write { key, is_put, real }: Write) -> Option<Self> {
        let mut next = self.then(if is_put { Step::Put(key) } else { Step::Delete(key) })?;
        next.ids.insert(next.state.active, real);
        Some(next)
    }

    /// What a crash may make of it.
    fn after_crash(&self, power: bool, writes: u8) -> Vec<Self> {
        let with_crashes = MergeSpec { crashes: u8::MAX, ..spec() };
        let mut steps = Vec::new();
        with_crashes.actions(&self.state, &mut steps);
        let is_crash = |step: &Step| match step {
            Step::Die => !power,
            Step::LosePower { .. } => power,
            _ => false,
        };
        let crashed = steps.into_iter().filter(is_crash).filter_map(|step| self.then(step));
        let opened = crashed.filter_map(|crashed| crashed.then(Step::Open));
        // Writes that nobody was told of had numbers, too.
        let number = |mut opened: Self| {
            opened.state.writes = writes;
            opened
        };
        opened.map(number).collect()
    }
}

/// A write that was done, and the id of the segment that has it.
#[derive(Clone, Copy, Debug)]
struct Write {
    key: u8,
    is_put: bool,
    real: u32,
}

struct Trace {
    disk: SimulatedDisk,
    store: Store,
    possible: Vec<Possible>,
    /// The number of the next write, which is its value.
    next: Arc<Mutex<u8>>,
    merges: u64,
    crashes: u64,
    /// The most states that the model could have been in at one time.
    most: usize,
}

/// Writes to the real store. `None`: a delete that found nothing.
fn write(store: &Store, next: &Mutex<u8>, key: u8, is_put: bool) -> Option<Write> {
    let mut number = next.lock().unwrap();
    let written = if is_put {
        store.put([key], [*number]).map(|_| true).unwrap()
    } else {
        store.delete([key]).unwrap()
    };
    let real = store.log().tail().segment();
    *number += u8::from(written);
    written.then_some(Write { key, is_put, real })
}

impl Trace {
    fn new() -> Self {
        let disk = SimulatedDisk::new();
        let state = spec().init_states().remove(0);
        let possible = vec![Possible { state, ids: BTreeMap::new() }];
        Self {
            store: open(&disk),
            disk,
            possible,
            next: Arc::default(),
            merges: 0,
            crashes: 0,
            most: 1,
        }
    }

    fn advance(&mut self, what: &str, next: impl Fn(&Possible) -> Vec<Possible>) {
        let observed = Observed::of(&self.store);
        let all: Vec<_> = self.possible.iter().flat_map(next).collect();
        let mut agreeing = BTreeMap::new();
        for possible in all.iter().filter_map(|possible| possible.clone().agrees(&observed)) {
            assert!(possible.promises_hold(), "{what}: {possible:#?}");
            agreeing.insert(possible.signature(), possible);
        }
        let all: BTreeSet<_> =
            all.iter().map(|possible| format!("{:?}", possible.seen())).collect();
        assert!(!agreeing.is_empty(), "{what}: {observed:?} is none of {all:#?}");
        self.possible = agreeing.into_values().collect();
        self.most = self.most.max(self.possible.len());
    }

    fn write(&mut self, key: u8, is_put: bool) {
        match write(&self.store, &self.next, key, is_put) {
            Some(write) => self.advance("write", |p| p.write(write).into_iter().collect()),
            None => self.advance("nothing to delete", |p| vec![p.clone()]),
        }
    }

    /// Merges one or two segments, with some writes in between, and perhaps crashes meanwhile.
    fn merge(&mut self, random: &mut Random) {
        let sealed: Vec<u32> = self.sealed();
        if sealed.is_empty() {
            return;
        }
        let mut pick = || sealed[random.below(sealed.len() as u64) as usize];
        let chosen: BTreeSet<u32> = [pick(), pick()].into();
        let planned: Vec<_> = (0..random.below(4))
            .map(|_| (random.below(KEYS.into()) as u8, random.below(3) > 0))
            .collect();
        let image = self.take_image(random);
        let done = Arc::new(Mutex::new(Vec::new()));
        let (store, next, writes) = (self.store.clone(), self.next.clone(), done.clone());
        let meanwhile = move || {
            for (key, is_put) in planned {
                writes.lock().unwrap().extend(write(&store, &next, key, is_put));
            }
        };
        let ids: Vec<u32> = chosen.iter().copied().collect();
        let report = self.store.merge_while(&ids, meanwhile).unwrap();
        let done = done.lock().unwrap().clone();
        assert_eq!(report.inputs, ids.len() as u64);
        self.merges += 1;
        let taken = image.lock().unwrap().take();
        self.disk.on_operation(|_, _, _| Ok(()));
        match taken.and_then(|planned| planned.image) {
            Some((image, power)) => {
                self.start_again(image);
                let writes = *self.next.lock().unwrap();
                self.advance("a crash while merging", |possible| {
                    let paths = paths(possible, &ids, &done).into_iter().flatten();
                    paths
                        .chain([possible.clone()])
                        .flat_map(|p| p.after_crash(power, writes))
                        .collect()
                });
            }
            None => self.advance("merge", |possible| {
                let paths = paths(possible, &ids, &done).into_iter();
                paths.filter_map(|path| ended(&path, &report)).collect()
            }),
        }
    }

    /// Takes an image before one of the next operations on the disk.
    fn take_image(&self, random: &mut Random) -> Arc<Mutex<Option<Planned>>> {
        let (after, power, seed) = (random.below(40), random.below(2) == 0, random.next());
        let planned = Arc::new(Mutex::new(Some(Planned { after, image: None })));
        let shared = planned.clone();
        self.disk.on_operation(move |disk, _, _| {
            if let Some(planned) = &mut *shared.lock().unwrap() {
                if planned.after == 0 && planned.image.is_none() {
                    let image =
                        if power { disk.power_loss_at_random(seed) } else { disk.process_death() };
                    planned.image = Some((image, power));
                }
                planned.after = planned.after.saturating_sub(1);
            }
            Ok(())
        });
        planned
    }

    /// The real ids of the segments that can be merged.
    fn sealed(&self) -> Vec<u32> {
        let segments = self.store.stats().segments;
        let known = |real: u32| {
            let has = |p: &Possible| p.ids.iter().any(|(id, of)| *of == real && p.has(*id));
            self.possible.iter().all(has)
        };
        segments.iter().filter(|s| s.sealed && known(s.id)).map(|s| s.id).collect()
    }

    fn start_again(&mut self, image: SimulatedDisk) {
        self.store.clone().abort();
        self.disk = image;
        self.store = open(&self.disk);
        self.crashes += 1;
    }

    fn crash(&mut self, random: &mut Random) {
        let power = random.below(2) == 0;
        let image = if power {
            self.disk.power_loss_at_random(random.next())
        } else {
            self.disk.process_death()
        };
        self.start_again(image);
        let writes = *self.next.lock().unwrap();
        self.advance("a crash", |possible| possible.after_crash(power, writes));
    }

    fn run(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        // The model has 64 segments, and numbers writes by a byte.
        while self.possible.iter().all(|p| p.state.next < 50) && *self.next.lock().unwrap() < 240 {
            let key = random.below(KEYS.into()) as u8;
            match random.below(20) {
                0..7 => self.write(key, true),
                7..11 => self.write(key, false),
                11 => {
                    self.store.sync().unwrap();
                    self.advance("sync", |p| p.then(Step::Sync).into_iter().collect());
                }
                12..15 => {
                    self.store.roll().unwrap();
                    self.advance("roll", |p| p.then(Step::Roll).into_iter().collect());
                }
                15..19 => self.merge(&mut random),
                _ => self.crash(&mut random),
            }
        }
    }
}

struct Planned {
    after: u64,
    image: Option<(SimulatedDisk, bool)>,
}

/// The ways in which these segments can be merged: together, or one after the other.
fn paths(possible: &Possible, ids: &[u32], done: &[Write]) -> Vec<Vec<Possible>> {
    let input = |real: u32| {
        let of = |(id, of): (&u8, &u32)| (*of == real).then_some(1 << *id);
        possible.ids.iter().find_map(of).expect("it is known")
    };
    let inputs: Vec<Ids> = ids.iter().map(|id| input(*id)).collect();
    let mut orders = vec![vec![inputs.iter().sum()]];
    if let [first, second] = inputs[..] {
        orders.extend([vec![first, second], vec![second, first]]);
    }
    let path = |order: Vec<Ids>| {
        let mut path = vec![possible.clone()];
        for (nth, inputs) in order.into_iter().enumerate() {
            // Writes come in between in the first of them.
            let meanwhile = if nth == 0 { done } else { &[] };
            let more = path.last()?.merge(inputs, meanwhile)?;
            path.extend(more);
        }
        Some(path)
    };
    orders.into_iter().filter_map(path).collect()
}

/// The end of a merge that has done what the real one reports.
fn ended(path: &[Possible], report: &MergeReport) -> Option<Possible> {
    let moved = |at: &Possible| at.state.merge.as_ref().map_or(0, |merge| merge.moves.len());
    let (mut puts, mut last) = (0, 0);
    for at in path {
        puts += moved(at).saturating_sub(last);
        last = moved(at);
    }
    (report.puts_moved == puts as u64).then(|| path.last().cloned())?
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.store.clone().abort();
    }
}

/// Prints where a failing trace was, when it is dropped by a panic.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

#[test]
fn the_store_does_what_the_model_allows() {
    let (mut merges, mut crashes, mut most) = (0, 0, 1);
    for seed in 0..rounds(60) {
        let failing = Seed(seed);
        let mut trace = Trace::new();
        trace.run(seed);
        (merges, crashes) = (merges + trace.merges, crashes + trace.crashes);
        most = most.max(trace.most);
        drop(failing);
    }
    println!("{merges} merges, {crashes} crashes, at most {most} states at one time");
    assert!(merges > rounds(60) && crashes > rounds(60));
}
