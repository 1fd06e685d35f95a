//! Any sequence of operations, crashes included, against a `Vec`.
//!
//! `TAILCASK_CASES` says how many sequences; a failure prints the shortest one it finds.

mod common;

use common::content::placed_entries;
use common::log_by_hand as options;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tailcask::{CommitLog, LogPosition, ReadError, SimulatedDisk};

const SEGMENT: u64 = 2 << 20;

#[derive(Clone, Debug)]
enum Op {
    Append(usize),
    Vectored(Vec<usize>),
    With(usize),
    /// The closure panics: no entry.
    Panic(usize),
    Batch(Vec<usize>),
    /// Gathered, and flushed when the writer is dropped.
    Gather(usize, Vec<usize>),
    /// Appends so much that this many bytes are left in the segment.
    Leave(u64),
    /// A reservation that is never claimed, as a dying thread leaves it.
    Abandon(u64),
    Sync,
    WaitDurable(prop::sample::Index),
    Maintain,
    Truncate(prop::sample::Index),
    Read(prop::sample::Index),
    ReadFrom(prop::sample::Index),
    ReadAll,
    /// Closed, or only dropped, which is to do the same.
    Reopen {
        close: bool,
    },
    ProcessDeath(Cuts),
    /// The process dies while an append fills its entry, behind which others are finished.
    DieInside(usize, Vec<usize>, Cuts),
    PowerLoss(u64, Cuts),
}

/// The recoveries after a crash that crash too, each after this many operations on the disk.
type Cuts = Vec<u64>;

fn cuts() -> impl Strategy<Value = Cuts> {
    prop::collection::vec(0u64..20, 0..3)
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0usize..40,
        3 => 40usize..3000,
        1 => 100_000usize..400_000,
    ]
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(size(), 0..6)
}

fn operation() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => size().prop_map(Op::Append),
        1 => (2_200_000usize..3_000_000).prop_map(Op::Append),
        3 => sizes().prop_map(Op::Vectored),
        3 => size().prop_map(Op::With),
        2 => size().prop_map(Op::Panic),
        5 => sizes().prop_map(Op::Batch),
        3 => (0usize..2000, sizes()).prop_map(|(max, sizes)| Op::Gather(max, sizes)),
        4 => (0u64..25).prop_map(|words| Op::Leave(words * 8)),
        2 => (1u64..40).prop_map(|words| Op::Abandon(words * 8)),
        5 => Just(Op::Sync),
        2 => index().prop_map(Op::WaitDurable),
        3 => Just(Op::Maintain),
        2 => index().prop_map(Op::Truncate),
        4 => index().prop_map(Op::Read),
        2 => index().prop_map(Op::ReadFrom),
        2 => Just(Op::ReadAll),
        3 => any::<bool>().prop_map(|close| Op::Reopen { close }),
        3 => cuts().prop_map(Op::ProcessDeath),
        2 => (size(), sizes(), cuts()).prop_map(|(len, lens, cuts)| Op::DieInside(len, lens, cuts)),
        3 => (any::<u64>(), cuts()).prop_map(|(seed, cuts)| Op::PowerLoss(seed, cuts)),
    ]
}

#[derive(Clone, Debug)]
struct Known {
    position: LogPosition,
    /// Whether that is the entry's place, and not only a bound above it.
    exact: bool,
    bytes: Vec<u8>,
    /// Entries of one batch share it.
    batch: usize,
}

struct World {
    disk: SimulatedDisk,
    log: Option<CommitLog>,
    entries: Vec<Known>,
    /// So many of them are durable, at least.
    durable: usize,
    /// The last position that was ever given out.
    highest: Option<LogPosition>,
    /// Where the log was last seen to begin.
    begin: LogPosition,
    /// Counts what was appended, so that no two entries are alike.
    counter: usize,
    /// An abandoned reservation stops the watermarks until the next crash.
    abandoned: bool,
}

impl World {
    fn new() -> Self {
        let disk = SimulatedDisk::new();
        let log = Some(options().open_simulated(&disk).unwrap());
        let (entries, durable, highest, begin) = (Vec::new(), 0, None, LogPosition::START);
        Self { disk, log, entries, durable, highest, begin, counter: 0, abandoned: false }
    }

    fn log(&self) -> &CommitLog {
        self.log.as_ref().unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.counter += 1;
        let tag = (self.counter as u64).to_le_bytes();
        (0..len).map(|n| tag[n % 8] ^ (n / 8) as u8).collect()
    }

    fn take_in(&mut self, position: LogPosition, bytes: Vec<u8>, batch: usize) {
        assert!(self.highest.is_none_or(|highest| position > highest), "{position} is not new");
        self.highest = Some(position);
        self.entries.push(Known { position, exact: true, bytes, batch });
    }

    fn take_in_one(&mut self, position: LogPosition, bytes: Vec<u8>) {
        self.counter += 1;
        let batch = self.counter;
        self.take_in(position, bytes, batch);
    }

    fn run(&mut self, operation: &Op) {
        match operation {
            Op::Append(len) => {
                let bytes = self.bytes(*len);
                let position = self.log().append(&bytes).unwrap();
                self.take_in_one(position, bytes);
            }
            Op::Vectored(lens) => {
                let parts: Vec<_> = lens.iter().map(|&len| self.bytes(len)).collect();
                let slices: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
                let position = self.log().append_vectored(&slices).unwrap();
                self.take_in_one(position, parts.concat());
            }
            Op::With(len) => {
                let bytes = self.bytes(*len);
                let fill = |place: &mut [u8]| place.copy_from_slice(&bytes);
                let position = self.log().append_with(*len, fill).unwrap();
                self.take_in_one(position, bytes);
            }
            Op::Panic(len) => {
                let fill = |place: &mut [u8]| {
                    place.fill(0xff);
                    std::panic::resume_unwind(Box::new("on purpose"));
                };
                let log = self.log();
                let append = AssertUnwindSafe(|| log.append_with(*len, fill));
                assert!(catch_unwind(append).is_err());
            }
            Op::Batch(lens) => {
                let bodies: Vec<_> = lens.iter().map(|&len| self.bytes(len)).collect();
                let slices: Vec<&[u8]> = bodies.iter().map(|body| &body[..]).collect();
                let positions = self.log().append_batch(&slices).unwrap();
                self.counter += 1;
                let batch = self.counter;
                for (position, bytes) in positions.into_iter().zip(bodies) {
                    self.take_in(position, bytes, batch);
                }
            }
            Op::Gather(max, lens) => self.gather(*max, lens),
            Op::Leave(rest) => self.leave(*rest),
            Op::Abandon(len) => {
                self.log().abandon_reservation(*len as usize);
                self.abandoned = true;
            }
            Op::Sync if self.abandoned => {}
            Op::Sync => {
                let durable = self.log().sync().unwrap();
                assert!(self.highest.is_none_or(|highest| durable > highest));
                self.durable = self.entries.len();
            }
            Op::WaitDurable(index) => self.wait_durable(index),
            Op::Maintain if self.abandoned => {}
            Op::Maintain => self.log().maintain().unwrap(),
            Op::Truncate(index) => self.truncate(index),
            Op::Read(index) => self.read(index),
            Op::ReadFrom(index) => self.read_from(index),
            Op::ReadAll if self.abandoned => {}
            Op::ReadAll => self.check(),
            Op::Reopen { .. } if self.abandoned => {}
            Op::Reopen { close } => self.reopen(*close),
            Op::ProcessDeath(cuts) => {
                let image = self.disk.process_death();
                self.survive(image, cuts);
            }
            Op::DieInside(len, lens, cuts) => self.die_inside(*len, lens, cuts),
            Op::PowerLoss(seed, cuts) => self.lose_power(*seed, cuts),
        }
    }

    fn wait_durable(&mut self, index: &prop::sample::Index) {
        if self.entries.is_empty() || self.abandoned {
            return;
        }
        let at = index.index(self.entries.len());
        self.log().wait_durable(self.entries[at].position).unwrap();
        assert!(self.log().durable() > self.entries[at].position);
        self.durable = self.durable.max(at + 1);
    }

    fn reopen(&mut self, close: bool) {
        let log = self.log.take().unwrap();
        if close {
            log.close().unwrap();
        } else {
            drop(log);
        }
        self.log = Some(options().open_simulated(&self.disk).unwrap());
        assert!(self.log().recovery().is_clean());
        self.durable = self.entries.len();
        self.check();
    }

    fn die_inside(&mut self, len: usize, lens: &[usize], cuts: &[u64]) {
        let bodies: Vec<_> = lens.iter().map(|&len| self.bytes(len)).collect();
        let (mut image, mut positions) = (None, Vec::new());
        let log = self.log();
        let dead = log.append_with(len, |place| {
            place[..len / 2].fill(0xff);
            positions.extend(bodies.iter().map(|body| log.append(body).unwrap()));
            image = Some(self.disk.process_death());
        });
        let dead = dead.unwrap();
        for (position, bytes) in positions.into_iter().zip(bodies) {
            self.take_in_one(position, bytes);
        }
        self.highest = self.highest.max(Some(dead));
        self.survive(image.unwrap(), cuts);
    }

    /// After the death of the process: everything that was acknowledged is there.
    fn survive(&mut self, image: SimulatedDisk, cuts: &[u64]) {
        self.start_again(image, cuts, SimulatedDisk::process_death);
        assert!(self.log().recovery().same_boot);
        self.check();
    }

    fn gather(&mut self, max: usize, lens: &[usize]) {
        let bodies: Vec<_> = lens.iter().map(|&len| self.bytes(len)).collect();
        let before = self.log().tail();
        let (mut gathered, mut batch, mut batches) = (0, 0, Vec::new());
        let mut writer = self.log().batch_writer(max);
        for body in &bodies {
            writer.push(body).unwrap();
            // With its header.
            gathered += 16 + body.len().next_multiple_of(8);
            batches.push(batch);
            if gathered >= max {
                assert!(writer.is_empty());
                (gathered, batch) = (0, batch + 1);
            }
        }
        drop(writer);
        let first = self.counter + 1;
        if self.abandoned {
            // Readers do not get there before the next crash, so the positions are not known.
            let place = LogPosition::from_u64(self.log().tail().as_u64() - 1);
            if !bodies.is_empty() {
                self.highest = Some(place);
            }
            for (bytes, batch) in bodies.into_iter().zip(batches) {
                let batch = first + batch;
                self.entries.push(Known { position: place, exact: false, bytes, batch });
            }
            self.counter += batch + 1;
            return;
        }
        let mut reader = self.log().reader_from(before);
        let mut places = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            places.push(entry.position());
        }
        drop(reader);
        assert_eq!(places.len(), bodies.len());
        for ((position, bytes), batch) in places.into_iter().zip(bodies).zip(batches) {
            self.take_in(position, bytes, first + batch);
        }
        self.counter += batch + 1;
    }

    fn leave(&mut self, rest: u64) {
        let tail = u64::from(self.log().tail().offset());
        let room = SEGMENT.saturating_sub(tail);
        // A frame's header is 16 bytes.
        if room < rest + 16 || room > SEGMENT {
            return;
        }
        let bytes = self.bytes((room - rest - 16) as usize);
        let position = self.log().append(&bytes).unwrap();
        self.take_in_one(position, bytes);
    }

    fn truncate(&mut self, index: &prop::sample::Index) {
        if self.entries.is_empty() || self.abandoned {
            return;
        }
        let target = index.get(&self.entries).position;
        let begin = self.log().truncate_before(target).unwrap();
        assert!(begin <= target);
        assert_eq!(self.log().begin(), begin);
        assert!(begin >= self.begin, "the log begins at {begin}, before {}", self.begin);
        self.begin = begin;
        let gone = self.entries.iter().take_while(|known| known.position < begin).count();
        for known in &self.entries[..gone.min(3)] {
            let read = self.log().read(known.position);
            assert!(matches!(read, Err(ReadError::Truncated { .. })), "{read:?}");
        }
        self.entries.drain(..gone);
        self.durable = self.durable.saturating_sub(gone);
    }

    fn read(&self, index: &prop::sample::Index) {
        if self.entries.is_empty() || self.abandoned {
            return;
        }
        let known = index.get(&self.entries);
        assert_eq!(*self.log().read(known.position).unwrap(), known.bytes);
        // A word further on is no entry.
        let inside = LogPosition::from_u64(known.position.as_u64() + 8);
        let read = self.log().read(inside);
        assert!(matches!(read, Err(ReadError::NotAnEntry { .. } | ReadError::PastEnd { .. })));
    }

    fn read_from(&self, index: &prop::sample::Index) {
        if self.entries.is_empty() || self.abandoned {
            return;
        }
        let first = index.index(self.entries.len());
        let mut reader = self.log().reader_from(self.entries[first].position);
        for known in &self.entries[first..] {
            let entry = reader.next_entry().unwrap().expect("there is more");
            assert_eq!((entry.position(), &*entry), (known.position, &known.bytes[..]));
        }
        assert!(reader.next_entry().unwrap().is_none());
    }

    /// Opens what a crash left. `crash` is what ends each recovery that is cut short.
    fn start_again(
        &mut self,
        mut image: SimulatedDisk,
        cuts: &[u64],
        mut crash: impl FnMut(&SimulatedDisk) -> SimulatedDisk,
    ) {
        self.log.take().unwrap().abort();
        for &operations in cuts {
            image.fail_after(operations);
            if let Ok(log) = options().open_simulated(&image) {
                log.abort();
            }
            image = crash(&image);
        }
        self.log = Some(options().open_simulated(&image).unwrap());
        self.disk = image;
        self.abandoned = false;
    }

    /// What is there is what is known, no less and no more, and in its place.
    fn check(&mut self) {
        let found = placed_entries(self.log());
        assert_eq!(found.len(), self.entries.len());
        for ((position, bytes), known) in found.into_iter().zip(&mut self.entries) {
            assert_eq!(bytes, known.bytes);
            if known.exact {
                assert_eq!(position, known.position);
            } else {
                assert!(position <= known.position);
                (known.position, known.exact) = (position, true);
            }
        }
        for known in &self.entries {
            assert_eq!(*self.log().read(known.position).unwrap(), known.bytes);
        }
        let begin = self.log().begin();
        assert!(begin >= self.begin, "the log begins at {begin}, before {}", self.begin);
        assert!(self.entries.first().is_none_or(|first| begin <= first.position));
        self.begin = begin;
    }

    /// So many entries have to survive a power loss: those that were synced, and all that the log
    /// says are durable.
    fn promised(&self) -> usize {
        let durable = self.log().durable();
        let below = |known: &&Known| known.exact && known.position < durable;
        self.durable.max(self.entries.iter().take_while(below).count())
    }

    fn lose_power(&mut self, mut seed: u64, cuts: &[u64]) {
        let promised = self.promised();
        let mut crash = |disk: &SimulatedDisk| {
            seed = seed.wrapping_add(1);
            disk.power_loss_at_random(seed)
        };
        let image = crash(&self.disk);
        self.start_again(image, cuts, crash);
        let found = placed_entries(self.log()).len();
        assert!(found >= promised, "{found} of {promised} durable ones are there");
        assert!(found <= self.entries.len());
        if let (Some(last), Some(next)) =
            (found.checked_sub(1).map(|at| &self.entries[at]), self.entries.get(found))
        {
            assert_ne!(last.batch, next.batch, "a batch is there in part");
        }
        self.entries.truncate(found);
        self.durable = found;
        self.check();
    }
}

/// Closing would wait for the abandoned reservation.
impl Drop for World {
    fn drop(&mut self) {
        if let Some(log) = self.log.take() {
            log.abort();
        }
    }
}

#[test]
fn any_sequence_of_operations_agrees_with_a_vec() {
    let cases = std::env::var("TAILCASK_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let sequences = prop::collection::vec(operation(), 1..60);
    let run = |operations: Vec<Op>| {
        let mut world = World::new();
        for operation in &operations {
            world.run(operation);
        }
        if !world.abandoned {
            world.check();
        }
        Ok(())
    };
    TestRunner::new(config).run(&sequences, run).unwrap();
}
