//! Logs: writers that append entries and batches, and one thread that truncates.

use super::common::Random;
use super::files::set_aside;
use super::history::{self, History};
use super::reports::{self, Report, Said, say};
use super::{Workload, copies};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tailcask::{CommitLog, Durability, LogOptions, LogPosition, Maintenance};

/// What goes on after a recovery appends an entry as this writer.
const LATER: u64 = 99;
const HEAD: usize = 24;

pub(crate) struct Logs;

/// What a child does.
#[derive(Debug)]
struct Plan {
    writers: u64,
    steps: u64,
    openings: u64,
    truncations: u64,
    durability: Durability,
    maintenance: Maintenance,
    segment: u64,
    sync_one_in: u64,
    closes: bool,
    /// One entry in so many is longer than a segment.
    long_one_in: u64,
}

impl Plan {
    fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x6c6f67);
        let durability = match random.below(5) {
            0 => Durability::Synced,
            1 => Durability::Periodic(Duration::from_millis(1)),
            _ => Durability::Buffered,
        };
        let background = random.below(3) == 0;
        let plan = Self {
            writers: 1 + random.below(3),
            steps: 20 + random.below(100),
            openings: 1 + random.below(2),
            truncations: random.below(4),
            durability,
            maintenance: if background { Maintenance::Background } else { Maintenance::Manual },
            segment: (16 << 10) << random.below(3),
            sync_one_in: [20, 20, u64::MAX][random.index(3)],
            closes: random.flip(),
            long_one_in: if random.below(3) == 0 { 50 } else { u64::MAX },
        };
        if random.below(4) > 0 {
            return plan;
        }
        // Nothing but the close syncs anything.
        Self {
            durability: Durability::Buffered,
            maintenance: Maintenance::Manual,
            truncations: 0,
            sync_one_in: u64::MAX,
            closes: true,
            ..plan
        }
    }

    fn options(&self) -> LogOptions {
        let options = CommitLog::options().segment_unit(self.segment).segment_size(self.segment);
        options.maintenance(self.maintenance).durability(self.durability)
    }
}

/// An entry: its writer, its step, and its number in that.
pub(crate) type Id = (u64, u64, u64);

fn entry((writer, step, nth): Id, len: u64) -> Vec<u8> {
    let mut bytes = [writer, step, nth].map(u64::to_le_bytes).concat();
    bytes.resize(HEAD + len as usize, (writer * 31 + step * 7 + nth) as u8);
    bytes
}

fn id(bytes: &[u8]) -> Result<Id, String> {
    let number = |nth: usize| {
        let bytes = bytes.get(nth * 8..nth * 8 + 8).ok_or("a short entry")?;
        Ok::<_, String>(u64::from_le_bytes(bytes.try_into().unwrap()))
    };
    let id = (number(0)?, number(1)?, number(2)?);
    let whole = entry(id, (bytes.len() - HEAD) as u64);
    if whole == bytes { Ok(id) } else { Err(format!("half an entry: {id:?}")) }
}

/// A writer of a child.
struct Writer<'s> {
    log: &'s CommitLog,
    plan: &'s Plan,
    writer: u64,
    random: Random,
}

impl Writer<'_> {
    fn len(&mut self) -> u64 {
        if self.random.below(self.plan.long_one_in) == 0 {
            return self.plan.segment + self.random.below(9000);
        }
        self.random.below(900)
    }

    fn step(&mut self, step: u64) {
        let (log, writer) = (self.log, self.writer);
        let durable = self.plan.durability == Durability::Synced;
        let kind = self.random.below(6);
        let count = if kind == 0 { 1 + self.random.below(5) } else { 1 };
        let changes = (0..count).map(|nth| (nth, true)).collect();
        let entries: Vec<_> =
            (0..count).map(|nth| entry((writer, step, nth), self.len())).collect();
        let says_it_midway = self.random.flip();
        say(&Said::Begun { writer, durable, changes });
        let position = match kind {
            0 => {
                let all: Vec<_> = entries.iter().map(Vec::as_slice).collect();
                *log.append_batch(&all).unwrap().last().unwrap()
            }
            1 => {
                let fill = |place: &mut [u8]| {
                    let (first, rest) = entries[0].split_at(place.len() / 2);
                    place[..first.len()].copy_from_slice(first);
                    if says_it_midway {
                        // A moment at which it is claimed, and not committed.
                        say(&Said::Synced { position: log.durable().as_u64() });
                    }
                    place[first.len()..].copy_from_slice(rest);
                };
                log.append_with(entries[0].len(), fill).unwrap()
            }
            _ => log.append(&entries[0]).unwrap(),
        };
        say(&Said::Done { writer, position: Some(position.as_u64()) });
        match self.random.below(self.plan.sync_one_in) {
            0 => say(&Said::Synced { position: log.sync().unwrap().as_u64() }),
            1 => say(&Said::Synced { position: log.durable().as_u64() }),
            2 => {
                log.wait_durable(position).unwrap();
                say(&Said::Synced { position: position.as_u64() });
            }
            3 => log.maintain().unwrap(),
            _ => {}
        }
    }
}

fn truncate(log: &CommitLog, random: &mut Random, times: u64) {
    for _ in 0..times {
        for _ in 0..random.below(200) {
            std::thread::yield_now();
        }
        let position = if random.flip() { log.durable() } else { log.sync().unwrap() };
        say(&Said::Truncating { position: position.as_u64() });
        log.truncate_before(position).unwrap();
    }
}

/// A seed whose children have small segments and no threads in the background.
pub(crate) fn seed_of_the_plainest() -> u64 {
    let is_plain = |plan: &Plan| {
        (plan.segment, plan.durability) == (16 << 10, Durability::Buffered)
            && plan.maintenance == Maintenance::Manual
    };
    (0..).find(|&seed| is_plain(&Plan::of(seed))).expect("one in a few")
}

/// Makes a log of five segments, of which two and a bit are synced, and leaves it as a process does that
/// dies. `change` comes at that sync, with the positions of the first entries of the segments so far.
pub(crate) fn fill(db: &Path, seed: u64, change: impl Fn(&CommitLog, &[LogPosition])) {
    let log = Plan::of(seed).options().open(db).unwrap();
    let mut firsts: Vec<LogPosition> = Vec::new();
    for step in 0.. {
        let position = log.append(&entry((0, step, 0), 700)).unwrap();
        if firsts.last().is_none_or(|last| last.segment() < position.segment()) {
            firsts.push(position);
            if firsts.len() == 3 {
                log.sync().unwrap();
                change(&log, &firsts);
            }
        }
        if firsts.len() == 5 {
            break;
        }
    }
    log.abort();
}

/// What is in a log once it is opened.
pub(crate) fn entries_of(db: &Path, seed: u64) -> Vec<Id> {
    let (_, found) = open(db, &Plan::of(seed)).unwrap();
    found.into_iter().map(|(_, id)| id).collect()
}

fn close(log: CommitLog) {
    let position = log.tail().as_u64();
    say(&Said::Closing);
    log.close().unwrap();
    say(&Said::Closed { position });
}

fn contents(log: &CommitLog) -> Result<Vec<(u64, Id)>, String> {
    let (mut reader, mut all) = (log.reader(), Vec::new());
    while let Some(entry) = reader.next_entry().map_err(|error| format!("a reader: {error}"))? {
        all.push((entry.position().as_u64(), id(&entry)?));
    }
    Ok(all)
}

/// What is in a log when it is opened: where it begins, and all entries with their positions.
fn open(path: &Path, plan: &Plan) -> Result<(u64, Vec<(u64, Id)>), String> {
    let options = plan.options().maintenance(Maintenance::Manual);
    let log = options.open(path).map_err(|error| format!("it does not open: {error:?}"))?;
    let (begin, found) = (log.begin().as_u64(), contents(&log)?);
    log.verify().map_err(|error| format!("it does not verify: {error}"))?;
    log.close().map_err(|error| format!("it does not close: {error}"))?;
    Ok((begin, found))
}

/// Whether what is found is what the crash may have left.
fn check_entries(
    history: &History,
    reports: usize,
    (begin, found): (u64, &[(u64, Id)]),
) -> Result<(), String> {
    let told = history.truncations.iter().filter(|(at, _)| *at < reports).map(|(_, p)| *p);
    let told = told.max();
    // What is before its beginning may be gone as far as it was truncated.
    let begin = begin.min(told.unwrap_or(0));
    let step = |id: Id| {
        let steps = history.writers.get(id.0 as usize).and_then(|steps| steps.get(id.1 as usize));
        steps.filter(|step| step.begun < reports).ok_or_else(|| format!("{id:?}: out of nowhere"))
    };
    if !found.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err("positions go back".into());
    }
    // Batches are whole, and in one piece.
    let mut rest = found;
    while let Some(&(_, (writer, number, _))) = rest.first() {
        let len = step((writer, number, 0))?.changes.len();
        let ids = rest.iter().map(|(_, id)| *id).take(len);
        if !ids.eq((0..len as u64).map(|nth| (writer, number, nth))) {
            return Err(format!("half a batch: {number} of {writer}"));
        }
        rest = &rest[len..];
    }
    let mut there = BTreeSet::new();
    for &(position, id) in found {
        let step = step(id)?;
        let is_last = id.2 + 1 == step.changes.len() as u64;
        if is_last && step.position.is_some_and(|said| said != position) {
            return Err(format!("{id:?} is at {position}, not at {:?}", step.position));
        }
        if !there.insert(id) {
            return Err(format!("{id:?} is there twice"));
        }
    }
    // Which of those whose place is known are there: in the order of the log.
    let is_there =
        |writer: usize, number: usize| there.contains(&(writer as u64, number as u64, 0));
    let order = history.in_order().into_iter().filter(|(position, ..)| *position >= begin);
    let durable = history.durable_before(reports);
    let mut missing = None;
    for (position, writer, number) in order {
        if is_there(writer, number) {
            if let Some(missing) = missing {
                return Err(format!(
                    "{missing:?} is gone, and {number} of {writer} at {position} is not"
                ));
            }
        } else if position < durable {
            return Err(format!(
                "{number} of {writer} at {position} is gone: durable before {durable}"
            ));
        } else {
            missing.get_or_insert((position, writer, number));
        }
    }
    Ok(())
}

impl Workload for Logs {
    const ROLE: &'static str = "log";
    type History = History;

    fn work(place: &Path, seed: u64) {
        let plan = Plan::of(seed);
        let mut steps = vec![0; plan.writers as usize];
        for opening in 0..plan.openings {
            let random = |of: u64| Random::new(seed << 16 | opening << 8 | of);
            say(&Said::Opening);
            let log = plan.options().open(place.join("db")).unwrap();
            say(&Said::Synced { position: log.durable().as_u64() });
            std::thread::scope(|scope| {
                let (log, plan) = (&log, &plan);
                for (writer, next) in (0..).zip(&mut steps) {
                    scope.spawn(move || {
                        let mut writer = Writer { log, plan, writer, random: random(writer) };
                        for _ in 0..plan.steps {
                            writer.step(*next);
                            *next += 1;
                        }
                    });
                }
                scope.spawn(move || truncate(log, &mut random(100), plan.truncations));
            });
            if plan.closes {
                close(log);
            } else {
                log.abort();
            }
        }
        let repair = |from: &Path, to: &Path| {
            let repaired = plan.options().repair(from, to);
            repaired.map(drop).map_err(|error| format!("{error:?}"))
        };
        copies::make(place, &mut Random::new(seed ^ 0x636f_7079), false, &repair);
    }

    fn go_on(place: &Path, seed: u64) {
        say(&Said::Opening);
        let log = Plan::of(seed).options().open(place.join("db")).unwrap();
        let found = contents(&log).unwrap().into_iter().map(|(_, id)| id).collect();
        say(&Said::Opened { found });
        say(&Said::Aside { files: set_aside(&place.join("db")) });
        say(&Said::Later { done: false });
        let position = log.append(&entry((LATER, 0, 0), 300)).unwrap();
        log.wait_durable(position).unwrap();
        say(&Said::Later { done: true });
        close(log);
    }

    fn history(reports: &[Report]) -> History {
        History::of(reports)
    }

    fn check(place: &Path, seed: u64, history: &History, reports: usize) -> Result<(), String> {
        let (begin, found) = open(&place.join("db"), &Plan::of(seed))?;
        check_entries(history, reports, (begin, &found))
    }

    fn check_after(
        place: &Path,
        seed: u64,
        history: &History,
        before: usize,
        reports: &[Report],
    ) -> Result<(), String> {
        let Some(opened) = reports::last_opened(reports) else {
            return Self::check(place, seed, history, before);
        };
        let (_, found) = open(&place.join("db"), &Plan::of(seed))?;
        let found = found.into_iter().map(|(_, id)| id).collect();
        history::check_later(found, opened, LATER)
    }

    fn check_opened(history: &History, reports: usize, found: &[Id]) -> Result<(), String> {
        let told = history.truncations.iter().map(|(_, position)| *position).max().unwrap_or(0);
        let there: BTreeSet<_> = found.iter().copied().collect();
        for (position, writer, number) in history.in_order() {
            let step = &history.writers[writer][number];
            let id = |nth| (writer as u64, number as u64, nth);
            let is_told = step.done.is_some_and(|at| at < reports);
            let whole = (0..step.changes.len() as u64).all(|nth| there.contains(&id(nth)));
            if is_told && position >= told && !whole {
                return Err(format!("{number} of {writer} at {position} is gone"));
            }
        }
        Ok(())
    }

    fn check_copy(
        path: &Path,
        seed: u64,
        history: &History,
        at: Option<usize>,
    ) -> Result<(), String> {
        let (_, found) = open(path, &Plan::of(seed))?;
        let found: Vec<_> = found.into_iter().map(|(_, id)| id).collect();
        at.map_or(Ok(()), |at| Self::check_opened(history, at, &found))
    }
}
