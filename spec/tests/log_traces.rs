//! The real log, run by seeds on a simulated disk, and followed step by step in the model: each step has to be
//! one that the model can take, and after each operation every word of every segment has to be what the model
//! says. A word of the model is 8 bytes of a segment here.
//!
//! `TAILCASK_ROUNDS` says how many seeds.

mod common;

use common::{Random, rounds};
use spec::log::{Log, LogSpec, Phase, Place, Segment, Step, Store, Word, Writer};
use spec::page::Page;
use stateright::Model;
use std::sync::{Arc, Mutex};
use tailcask::{CommitLog, DiskOperation, LogPosition, Maintenance, SimulatedDisk};

const FIRST_FRAME: usize = 128;
const SEGMENT: u64 = 4096;
const CAPACITY: u16 = (SEGMENT as usize - FIRST_FRAME) as u16 / 8;
/// Entries of a trace: the model counts them in a `u128`.
const ENTRIES: u16 = 100;

fn spec() -> LogSpec {
    LogSpec { capacity: CAPACITY, mark: 3, writers: 40, ..common::LOG }
}

type Operations = Arc<Mutex<Vec<(DiskOperation, String)>>>;

/// The real log, and the state that the model says it is in.
struct Trace {
    spec: LogSpec,
    state: Log,
    steps: Vec<Step>,
    disk: SimulatedDisk,
    log: CommitLog,
    operations: Operations,
    /// The files of the model's segments.
    files: Vec<String>,
    /// Each entry's length in words.
    lens: Vec<u16>,
    /// The next writer that no dying append uses.
    writer: usize,
    /// Something was reserved and never finished: what waits for it would wait forever.
    unfinished: bool,
}

fn open(disk: &SimulatedDisk) -> CommitLog {
    let options = CommitLog::options().maintenance(Maintenance::Manual);
    options.segment_unit(SEGMENT).segment_size(SEGMENT).open_simulated(disk).unwrap()
}

fn watched(disk: &SimulatedDisk) -> Operations {
    let operations = Operations::default();
    let seen = operations.clone();
    disk.on_operation(move |_, operation, name| {
        seen.lock().unwrap().push((operation, name.to_owned()));
        Ok(())
    });
    operations
}

/// The files of segments, in order.
fn segment_files(disk: &SimulatedDisk) -> Vec<String> {
    let names = disk.files().into_iter().map(|(name, _)| name);
    let mut names: Vec<_> =
        names.filter(|name| name.ends_with(".seg") && !name.contains('/')).collect();
    names.sort();
    names
}

fn word(bytes: &[u8], at: u16) -> u64 {
    let at = FIRST_FRAME + usize::from(at) * 8;
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The state of a claim.
const CLAIMED: u64 = 1;

/// State and length of a frame, as its commit word has them.
fn head(word: u64) -> (u64, u16) {
    (word & 7, (word & 0xffff_fff8) as u16 / 8)
}

/// The bytes of an entry: no word of them is zero.
fn body(entry: u16, len: u16) -> Vec<u8> {
    let words = (0..len - 2).map(|nth| u64::from(entry) << 32 | u64::from(nth) << 8 | 1);
    words.flat_map(u64::to_le_bytes).collect()
}

fn is_sealed(bytes: &[u8]) -> bool {
    bytes[64..72] != [0; 8]
}

/// The first word of a frame of the model, and a real word: whether they agree.
fn is_same(word: Word, real: u64) -> bool {
    match word {
        Word::Zero => real == 0,
        Word::Claimed { len } => head(real) == (CLAIMED, len),
        Word::Committed { len, .. } | Word::Mark { len, .. } => head(real) == (2, len),
        Word::Void { len } => head(real) == (3, len),
        Word::Pad { len } => head(real) == (4, len),
        Word::Body { .. } => false,
    }
}

impl Trace {
    fn new() -> Self {
        let (spec, disk) = (spec(), SimulatedDisk::new());
        let state = spec.init_states().remove(0);
        let operations = watched(&disk);
        let log = open(&disk);
        operations.lock().unwrap().clear();
        let files = segment_files(&disk);
        let (steps, lens, writer, unfinished) = (Vec::new(), Vec::new(), 1, false);
        let new =
            Self { spec, state, steps, disk, log, operations, files, lens, writer, unfinished };
        new.compare();
        new
    }

    /// The model has to be able to take this step.
    fn step(&mut self, step: Step) {
        let next = self.spec.next_state(&self.state, step.clone());
        self.state = next.unwrap_or_else(|| panic!("not possible: {step:?}"));
        self.steps.push(step);
        for promise in self.spec.properties() {
            let is_kept = (promise.condition)(&self.spec, &self.state);
            let is_promise = promise.expectation == stateright::Expectation::Always;
            assert!(is_kept || !is_promise, "broken: {}", promise.name);
        }
    }

    /// The steps for what the engine did to the directory.
    fn directory_steps(&mut self) {
        let operations = std::mem::take(&mut *self.operations.lock().unwrap());
        for (operation, name) in operations {
            match operation {
                DiskOperation::Create if name.contains(".seg") => self.step(Step::MakeStandby),
                DiskOperation::SyncDirectory if self.state.standby == Some(false) => {
                    self.step(Step::NameStandby);
                }
                DiskOperation::Sync => panic!("{name} was synced by an append"),
                _ => {}
            }
        }
    }

    /// Reserves, with a roll if there is no room.
    fn reserve(&mut self, writer: usize, len: u16) -> Place {
        while self.state.tail + len > CAPACITY {
            if self.state.tail < CAPACITY {
                self.step(Step::Reserve { writer, len });
                self.step(Step::Pad { writer });
            }
            self.directory_steps();
            self.step(Step::Roll);
            self.files = segment_files(&self.disk);
        }
        self.step(Step::Reserve { writer, len });
        self.lens.push(len);
        let Writer::Appends { at, .. } = self.state.writers[writer] else { unreachable!() };
        at
    }

    fn stores(&mut self, writer: usize, stores: &[Store]) {
        stores.iter().for_each(|&store| self.step(Step::Store { writer, store }));
    }

    fn position(&self, (segment, word): Place) -> LogPosition {
        let id: u64 = self.files[usize::from(segment)].trim_end_matches(".seg").parse().unwrap();
        LogPosition::from_u64(id << 32 | (FIRST_FRAME as u64 + u64::from(word) * 8))
    }

    fn is_full(&self) -> bool {
        self.state.entries + 8 > ENTRIES || self.writer + 2 > self.state.writers.len()
    }

    fn append(&mut self, len: u16) {
        let position = self.log.append(&body(self.state.entries + 1, len)).unwrap();
        let at = self.reserve(0, len);
        self.stores(0, &[Store::Claim, Store::Fill, Store::Commit]);
        assert_eq!(position, self.position(at));
    }

    /// The closure that fills an entry panics.
    fn give_up(&mut self, len: u16) {
        let log = self.log.clone();
        let append = || {
            log.append_with(usize::from(len - 2) * 8, |_| std::panic::resume_unwind(Box::new("")))
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(append)).unwrap_err();
        self.reserve(0, len);
        self.stores(0, &[Store::Claim]);
        self.step(Step::GiveUp { writer: 0 });
    }

    /// Reserved, and never claimed.
    fn abandon(&mut self, len: u16) {
        if self.state.tail + len > CAPACITY {
            return;
        }
        self.log.abandon_reservation(usize::from(len - 2) * 8);
        self.reserve(self.writer, len);
        (self.writer, self.unfinished) = (self.writer + 1, true);
    }

    fn sync(&mut self) {
        if self.unfinished {
            return;
        }
        let before = self.log.durable();
        let durable = self.log.sync().unwrap();
        let mut synced: Vec<_> = std::mem::take(&mut *self.operations.lock().unwrap())
            .into_iter()
            .filter_map(|(operation, name)| (operation == DiskOperation::Sync).then_some(name))
            .collect();
        if synced.is_empty() && durable == before {
            let all = self.state.found();
            assert_eq!(self.state.promised, all, "nothing was left to sync");
            return;
        }
        self.step(Step::Lead);
        loop {
            let leader = self.state.leader.unwrap();
            let is_last = leader.segment == leader.upto.0;
            let end = if is_last { leader.upto.1 } else { CAPACITY };
            let words = &self.state.segments[usize::from(leader.segment)].words;
            let is_needed = words[..usize::from(end)].iter().any(|word| word.versions().len() > 1);
            let file = &self.files[usize::from(leader.segment)];
            if synced.first() == Some(file) {
                synced.remove(0);
            } else {
                assert!(!is_needed, "{file} was not synced");
            }
            self.step(Step::SyncSegment);
            if is_last {
                break;
            }
            self.step(Step::Seal);
        }
        self.step(Step::Publish);
        assert_eq!(durable, self.position(self.state.watermark));
    }

    /// Appends that are not finished, with finished ones behind, and then a death or a power loss.
    fn crash(&mut self, random: &mut Random) {
        let kind = random.below(4);
        if kind == 0 {
            return self.crash_now(random);
        }
        let (len, fills) = (3 + random.below(60) as u16, random.below(2) == 0);
        let behind: Vec<_> = (0..random.below(3)).map(|_| 3 + random.below(100) as u16).collect();
        let (log, mut image) = (self.log.clone(), None);
        let (mut places, first) = (Vec::new(), self.state.entries + 1);
        let claim = log.append_with(usize::from(len - 2) * 8, |place| {
            if fills {
                place.copy_from_slice(&body(first, len));
            }
            for (nth, &len) in behind.iter().enumerate() {
                places.push(log.append(&body(first + 1 + nth as u16, len)).unwrap());
            }
            let lost = (kind == 1).then(|| self.disk.power_loss_at_random(random.next()));
            let names = segment_files(&self.disk);
            let bytes = names.iter().map(|name| (name.clone(), self.disk.read(name).unwrap()));
            image = Some((lost, self.disk.process_death(), bytes.collect()));
        });
        let (lost, dead, memory) = image.unwrap();
        let writer = self.writer;
        self.writer += 1;
        let at = self.reserve(writer, len);
        self.stores(writer, &[Store::Claim]);
        if fills {
            self.stores(writer, &[Store::Fill]);
        }
        for (len, position) in behind.into_iter().zip(places) {
            let at = self.reserve(0, len);
            self.stores(0, &[Store::Claim, Store::Fill, Store::Commit]);
            assert_eq!(position, self.position(at));
        }
        assert_eq!(claim.unwrap(), self.position(at));
        self.recover(lost, dead, memory);
    }

    fn crash_now(&mut self, random: &mut Random) {
        self.directory_steps();
        let loses = random.below(2) == 0;
        let lost = loses.then(|| self.disk.power_loss_at_random(random.next()));
        let names = segment_files(&self.disk);
        let memory = names.iter().map(|name| (name.clone(), self.disk.read(name).unwrap()));
        self.recover(lost, self.disk.process_death(), memory.collect());
    }

    /// Another process finds what is left. `memory` is what the dead one saw.
    fn recover(
        &mut self,
        lost: Option<SimulatedDisk>,
        dead: SimulatedDisk,
        memory: Vec<(String, Vec<u8>)>,
    ) {
        self.directory_steps();
        match &lost {
            None => self.step(Step::Die),
            Some(image) => {
                let left = self.left(image, &memory);
                self.step(Step::LosePower(left));
            }
        }
        self.log.clone().abort();
        self.disk = lost.unwrap_or(dead);
        self.operations = watched(&self.disk);
        self.log = open(&self.disk);
        self.step(Step::Decide);
        let (mut holes, mut claims) = (0, 0);
        while let Some(next) = self.state.segments.iter().find(|s| s.seal.now().is_none()) {
            let scan = self.spec.scan(next, self.state.boot);
            let is_hole = |word: &Word| matches!(word, Word::Pad { .. });
            holes += scan.repairs.iter().filter(|(_, word)| is_hole(word)).count();
            claims += scan.repairs.iter().filter(|(_, word)| !is_hole(word)).count();
            self.step(Step::Repair);
            self.step(Step::SealRepaired);
        }
        self.step(Step::GoOn);
        let report = self.log.recovery();
        assert_eq!((report.holes, report.dead_claims), (holes as u64, claims as u64));
        self.operations.lock().unwrap().clear();
        self.files = segment_files(&self.disk);
        (self.writer, self.unfinished) = (1, false);
        self.compare();
    }

    /// Which version of each thing that was not durable an image has.
    fn left(&self, image: &SimulatedDisk, memory: &[(String, Vec<u8>)]) -> Vec<u8> {
        fn add<T: Copy + Default + PartialEq>(
            left: &mut Vec<u8>,
            page: &Page<T>,
            is: impl Fn(&T) -> bool,
        ) -> Option<()> {
            let version = page.versions().iter().rposition(is)? as u8;
            left.extend((page.versions().len() > 1).then_some(version));
            Some(())
        }
        let mut left = Vec::new();
        for (segment, name) in self.state.segments.iter().zip(&self.files) {
            let bytes = image.read(name);
            let found = add(&mut left, &segment.named, |there| *there == bytes.is_some());
            found.unwrap_or_else(|| panic!("{name}: {}", bytes.is_some()));
            let (_, was) = memory.iter().find(|(other, _)| other == name).unwrap();
            let bytes = bytes.unwrap_or_else(|| was.clone());
            let has_seal = is_sealed(&bytes) && bytes[64..96] == was[64..96];
            add(&mut left, &segment.seal, |seal| seal.is_some() == has_seal).expect("a seal");
            for (at, page) in segment.words.iter().enumerate() {
                let (real, was) = (word(&bytes, at as u16), word(was, at as u16));
                // The disk leaves claims in place of pads and marks, too, which are one step here. As the end
                // of the log they are the same as nothing.
                let in_one = matches!(page.now(), Word::Pad { .. } | Word::Mark { .. });
                let real = if in_one && head(real).0 == CLAIMED { 0 } else { real };
                let is = |version: &Word| match version {
                    Word::Body { .. } => real == was,
                    head => is_same(*head, real),
                };
                let found = add(&mut left, page, is);
                found.unwrap_or_else(|| panic!("{name}, word {at}: {real:x} is none of {page:?}"));
            }
        }
        left
    }

    /// Every word of every segment is what the model says.
    fn compare(&self) {
        let files = segment_files(&self.disk);
        let standby = usize::from(self.state.standby.is_some());
        assert_eq!(files.len(), self.state.segments.len() + standby, "{files:?}");
        for (segment, name) in self.state.segments.iter().zip(&files) {
            let bytes = self.disk.read(name).unwrap();
            assert_eq!(is_sealed(&bytes), segment.seal.now().is_some(), "{name}: its seal");
            self.compare_words(segment, &bytes);
        }
        if !self.unfinished && self.state.phase == Phase::Running {
            self.compare_entries();
        }
    }

    fn compare_words(&self, segment: &Segment, bytes: &[u8]) {
        let mut at = 0;
        while at < CAPACITY {
            let real = word(bytes, at);
            assert!(is_same(segment.word(at), real), "{at}: {:?}, {real:x}", segment.word(at));
            let content = FIRST_FRAME + usize::from(at + 2) * 8..;
            at += match segment.word(at) {
                Word::Committed { entry, len } => {
                    assert!(bytes[content].starts_with(&body(entry, len)), "entry {entry}");
                    len
                }
                Word::Mark { durable, len } => {
                    let durable = self.position(durable).as_u64().to_le_bytes();
                    assert!(bytes[content].starts_with(&durable), "a sync mark");
                    len
                }
                Word::Claimed { len } | Word::Void { len } | Word::Pad { len } => len,
                Word::Zero | Word::Body { .. } => 1,
            };
        }
    }

    /// What readers find, and where.
    fn compare_entries(&self) {
        let mut reader = self.log.reader();
        for segment in &self.state.segments {
            for (at, entry, len) in segment.entries() {
                let found = reader.next_entry().unwrap().expect("there is another one");
                assert_eq!(found.position(), self.position((segment.number, at)));
                assert_eq!(*found, body(entry, len));
            }
        }
        assert!(reader.next_entry().unwrap().is_none());
    }

    fn run(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        while !self.is_full() {
            let longest = if random.below(4) == 0 { 300 } else { 40 };
            let len = 3 + random.below(longest) as u16;
            match random.below(24) {
                0..12 => self.append(len),
                12..14 => self.give_up(len),
                14 => self.abandon(len),
                15..20 => self.sync(),
                20 => {
                    self.crash(&mut random);
                }
                _ => {
                    // So much that few words are left in the segment.
                    let rest = CAPACITY - self.state.tail;
                    let leaves = random.below(5) as u16;
                    if rest >= 3 + leaves {
                        self.append(rest - leaves);
                    }
                }
            }
            self.directory_steps();
            self.compare();
        }
    }
}

/// Closing would wait for what was never finished.
impl Drop for Trace {
    fn drop(&mut self) {
        self.log.clone().abort();
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
fn the_log_does_what_the_model_allows() {
    let (mut steps, mut crashes) = (0, 0);
    for seed in 0..rounds(60) {
        let failing = Seed(seed);
        let mut trace = Trace::new();
        trace.run(seed);
        steps += trace.steps.len();
        crashes += u64::from(trace.state.crashes);
        drop(failing);
    }
    println!("{steps} steps, {crashes} crashes");
    assert!(crashes > rounds(60));
}
