//! Stores: writers with keys of their own, beside one thread that merges, rolls and makes backups.

use super::common::Random;
use super::files::set_aside;
use super::history::{self, Backup, History, Keys};
use super::reports::{self, Change, Report, Said, say};
use super::{Workload, copies};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tailcask::{
    AppendError, Batch, Durability, LogPosition, Maintenance, MergePolicy, OpenError, Store,
    StoreOptions, WriteError, WriteOptions,
};

/// What goes on after a recovery writes its own key, as this writer.
const LATER: u64 = 99;

/// Of a store, or of one on a file system that is nearly full.
pub(crate) struct Stores<const FULL: bool>;

/// What a child does.
#[derive(Debug)]
struct Plan {
    writers: u64,
    steps: u64,
    /// How often each writer opens the store.
    openings: u64,
    turns: u64,
    durability: Durability,
    maintenance: Maintenance,
    segment: u64,
    synced_one_in: u64,
    sync_one_in: u64,
    closes: bool,
    /// Keys of each writer.
    keys: u64,
    /// Bytes of values.
    most: u64,
    /// Whether a write may be refused, since there is no space.
    may_be_full: bool,
}

impl Plan {
    fn of(seed: u64, full: bool) -> Self {
        let mut random = Random::new(seed ^ u64::from(full) << 40);
        let durability = match random.below(6) {
            0 => Durability::Synced,
            1 => Durability::Periodic(Duration::from_millis(1)),
            _ => Durability::Buffered,
        };
        let background = random.below(3) == 0;
        let plan = Self {
            writers: 1 + random.below(3),
            steps: if full { 100 + random.below(300) } else { 20 + random.below(100) },
            openings: 1 + random.below(2),
            turns: random.below(if full { 60 } else { 12 }),
            durability,
            maintenance: if background { Maintenance::Background } else { Maintenance::Manual },
            segment: (16 << 10) << random.below(if full { 4 } else { 3 }),
            synced_one_in: [4, 16, 64, u64::MAX][random.index(4)],
            sync_one_in: [20, 20, u64::MAX][random.index(3)],
            closes: random.flip(),
            keys: 8 << random.below(if full { 1 } else { 4 }),
            most: if full { 40_000 } else { 500 },
            may_be_full: full,
        };
        if full || random.below(4) > 0 {
            return plan;
        }
        // Nothing but the close syncs anything.
        Self {
            turns: 0,
            durability: Durability::Buffered,
            maintenance: Maintenance::Manual,
            segment: 16 << 10,
            synced_one_in: u64::MAX,
            sync_one_in: u64::MAX,
            closes: true,
            ..plan
        }
    }

    fn options(&self) -> StoreOptions {
        let policy = MergePolicy::new().min_dead_bytes(1000);
        let options = Store::options().segment_unit(self.segment).segment_size(self.segment);
        let options = options.merge_policy(policy).maintenance(self.maintenance);
        options.durability(self.durability)
    }
}

fn key(writer: u64, key: u64) -> Vec<u8> {
    format!("{writer}/{key}/{}", "k".repeat((key % 8 * 7) as usize)).into_bytes()
}

fn value(step: u64, len: u64) -> Vec<u8> {
    let mut bytes = step.to_le_bytes().to_vec();
    bytes.resize(8 + len as usize, step as u8);
    bytes
}

/// A writer of a child: takes its steps, and counts them from 1 on.
struct Writer<'s> {
    store: &'s Store,
    plan: &'s Plan,
    writer: u64,
    random: Random,
}

impl Writer<'_> {
    fn step(&mut self, number: u64) {
        let Self { store, plan, writer, ref mut random } = *self;
        let synced = random.below(plan.synced_one_in) == 0;
        let options = WriteOptions::new();
        let options = if synced { options.durability(Durability::Synced) } else { options };
        let durable = synced || plan.durability == Durability::Synced;
        // Now and then a value is longer than a segment.
        let most = if random.below(80) == 0 { 2 * plan.segment } else { plan.most };
        let (one, len) = (random.below(plan.keys), random.below(most));
        let begin = |changes: Vec<Change>| say(&Said::Begun { writer, durable, changes });
        let written = match random.below(6) {
            0 => {
                begin(vec![(one, false)]);
                store.delete_with(key(writer, one), &options)
            }
            1 => {
                let keys = (one..plan.keys).take(12).step_by(1 + random.below(3) as usize);
                let changes: Vec<_> = keys.map(|key| (key, random.below(3) > 0)).collect();
                let mut batch = Batch::new();
                for &(at, put) in &changes {
                    if put {
                        batch.put(key(writer, at), value(number, len));
                    } else {
                        batch.delete(key(writer, at));
                    }
                }
                begin(changes);
                store.write_with(&batch, &options).map(Some)
            }
            _ => {
                begin(vec![(one, true)]);
                store.put_with(key(writer, one), value(number, len), &options).map(Some)
            }
        };
        self.tell(written);
        let Self { store, plan, ref mut random, .. } = *self;
        match random.below(plan.sync_one_in) {
            0 => say(&Said::Synced { position: store.sync().unwrap().as_u64() }),
            1 => say(&Said::Synced { position: store.log().durable().as_u64() }),
            _ => {}
        }
    }
}

impl Writer<'_> {
    fn tell(&self, written: Result<Option<LogPosition>, WriteError>) {
        let writer = self.writer;
        match written {
            Ok(position) => {
                let position = position.map(LogPosition::as_u64);
                say(&Said::Done { writer, position });
            }
            Err(WriteError::Append(AppendError::NoSpace { .. })) if self.plan.may_be_full => {
                say(&Said::Refused { writer });
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Gives each key a short value, so that all before is dead.
    fn overwrite(&self, number: &mut u64) {
        let (writer, durable) = (self.writer, self.plan.durability == Durability::Synced);
        for one in 0..self.plan.keys {
            *number += 1;
            say(&Said::Begun { writer, durable, changes: vec![(one, true)] });
            self.tell(self.store.put(key(writer, one), value(*number, 200)).map(Some));
        }
    }
}

/// How many steps a writer has still to take, and how many all of them have taken. Those that it does not
/// come to count when it ends.
struct Left<'a>(u64, &'a AtomicU64);

impl Left<'_> {
    fn take(&mut self, steps: u64) {
        self.0 -= steps;
        self.1.fetch_add(steps, Ordering::Relaxed);
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.take(self.0);
    }
}

/// The thread that does everything but write, spread over the steps that the writers take.
fn keep(
    store: &Store,
    place: &Path,
    plan: &Plan,
    random: &mut Random,
    (backups, taken): (&mut u64, &AtomicU64),
) {
    // What finds no room has done nothing.
    let done = |done: Result<(), String>| assert!(done.is_ok() || plan.may_be_full, "{done:?}");
    let all = plan.writers * plan.steps;
    for turn in 1..=plan.turns {
        while taken.load(Ordering::Relaxed) < all * turn / (plan.turns + 1) {
            std::thread::sleep(Duration::from_micros(20));
        }
        match random.below(8) {
            0 | 1 => done(store.merge().map(drop).map_err(|e| e.to_string())),
            2 => done(store.roll().map_err(|e| e.to_string())),
            3 if *backups < 3 => {
                *backups += 1;
                say(&Said::Backup { number: *backups, position: None });
                let backup = store.backup(place.join(format!("backup-{backups}")));
                if let Ok(backup) = &backup {
                    let position = Some(backup.position.as_u64());
                    say(&Said::Backup { number: *backups, position });
                }
                done(backup.map(drop).map_err(|e| e.to_string()));
            }
            4 => say(&Said::Synced { position: store.sync().unwrap().as_u64() }),
            _ => done(store.maintain().map(drop).map_err(|e| e.to_string())),
        }
    }
}

/// Takes the space that is left, to the last page.
fn take_space(place: &Path) {
    let mut ballast =
        OpenOptions::new().append(true).open(place.with_file_name("ballast")).unwrap();
    for piece in [64 << 10, 4096] {
        while ballast.write(&vec![1; piece]).is_ok_and(|written| written > 0) {}
    }
}

/// Merges segments in which all is dead when there is no space. Then the next MANIFEST takes the blocks of
/// the one before.
fn merge_without_space(store: &Store, plan: &Plan, numbers: &mut [u64], place: &Path) {
    for _ in 0..2 {
        for (writer, number) in (0..).zip(&mut *numbers) {
            Writer { store, plan, writer, random: Random::new(0) }.overwrite(number);
        }
        // Where there is no room for the next segment, that one stays.
        let _ = store.roll();
    }
    let ballast = place.with_file_name("ballast");
    let before = ballast.metadata().unwrap().len();
    take_space(&ballast);
    say(&Said::Full { over: false });
    let _ = store.merge();
    say(&Said::Full { over: true });
    // A moment behind it, before anything else is written.
    let behind = place.join("behind");
    std::fs::create_dir(&behind).and_then(|()| std::fs::remove_dir(&behind)).unwrap();
    OpenOptions::new().write(true).open(ballast).unwrap().set_len(before).unwrap();
}

fn close(store: Store) {
    let position = store.log().tail().as_u64();
    say(&Said::Closing);
    store.close().unwrap();
    say(&Said::Closed { position });
}

fn is_no_space(error: &OpenError) -> bool {
    matches!(error, OpenError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
}

/// All keys of a store, by writers.
fn contents(store: &Store) -> Result<BTreeMap<u64, Keys>, String> {
    let mut found = BTreeMap::<_, Keys>::new();
    for pair in store {
        let pair = pair.map_err(|error| format!("an iteration: {error}"))?;
        let text = String::from_utf8(pair.key().to_vec()).map_err(|_| "a strange key")?;
        let mut words = text.split('/').map(str::parse);
        let (Some(Ok(writer)), Some(Ok(at))) = (words.next(), words.next()) else {
            return Err(format!("a strange key: {text}"));
        };
        let step = u64::from_le_bytes(pair.value()[..8].try_into().unwrap());
        if pair.key() != key(writer, at) || pair.value()[8..].iter().any(|&b| b != step as u8) {
            return Err(format!("a strange pair: {text} of {step}"));
        }
        found.entry(writer).or_default().insert(at, step);
    }
    Ok(found)
}

/// What is in a store when it is opened.
fn open(path: &Path, plan: &Plan) -> Result<BTreeMap<u64, Keys>, String> {
    let options = plan.options().maintenance(Maintenance::Manual);
    let store = options.open(path).map_err(|error| format!("it does not open: {error:?}"))?;
    let found = contents(&store)?;
    store.verify().map_err(|error| format!("it does not verify: {error}"))?;
    store.close().map_err(|error| format!("it does not close: {error}"))?;
    Ok(found)
}

/// The keys of the writers of a history.
fn by_writers(mut found: BTreeMap<u64, Keys>, writers: usize) -> Result<Vec<Keys>, String> {
    let all = (0..writers as u64).map(|writer| found.remove(&writer).unwrap_or_default());
    let all = all.collect();
    if found.is_empty() { Ok(all) } else { Err(format!("foreign keys: {found:?}")) }
}

fn check_backup(
    place: &Path,
    plan: &Plan,
    history: &History,
    reports: usize,
    backup: &Backup,
) -> Result<(), String> {
    let path = place.join(format!("backup-{}", backup.number));
    let position = backup.done.filter(|(at, _)| *at < reports).map(|(_, position)| position);
    if !path.exists() {
        return match position {
            Some(_) => Err(format!("backup {} is gone", backup.number)),
            None => Ok(()),
        };
    }
    let error = |why| format!("backup {}: {why}", backup.number);
    let found = open(&path, plan).map_err(error)?;
    let found = by_writers(found, history.writers.len()).map_err(error)?;
    let states: Vec<_> = history.writers.iter().map(|steps| history::states(steps)).collect();
    // One that is not acknowledged is whole, too, if it is there; but not known is where it ends.
    let (from, to) = position.map_or((0, u64::MAX), |position| (position, position));
    if history::prefix(history, &states, &found, reports, from, to) {
        return Ok(());
    }
    Err(error(format!("not what was before {position:?}: {found:?}")))
}

impl<const FULL: bool> Workload for Stores<FULL> {
    const ROLE: &'static str = if FULL { "full" } else { "store" };
    type History = History;

    fn work(place: &Path, seed: u64) {
        let plan = Plan::of(seed, FULL);
        let (mut numbers, mut backups) = (vec![0; plan.writers as usize], 0);
        for opening in 0..plan.openings {
            let random = |of: u64| Random::new(seed << 16 | opening << 8 | of);
            say(&Said::Opening);
            let store = match plan.options().open(place.join("db")) {
                // It may need space for a MANIFEST (docs/durability.md, "Full disks").
                Err(error) if FULL && is_no_space(&error) => return,
                other => other.unwrap(),
            };
            say(&Said::Synced { position: store.log().durable().as_u64() });
            if FULL {
                merge_without_space(&store, &plan, &mut numbers, place);
            }
            let taken = AtomicU64::new(0);
            std::thread::scope(|scope| {
                let (store, plan, taken) = (&store, &plan, &taken);
                for (writer, number) in (0..).zip(&mut numbers) {
                    scope.spawn(move || {
                        let mut writer = Writer { store, plan, writer, random: random(writer) };
                        let mut left = Left(plan.steps, taken);
                        for _ in 0..plan.steps {
                            *number += 1;
                            writer.step(*number);
                            left.take(1);
                        }
                    });
                }
                scope.spawn(|| {
                    keep(store, place, plan, &mut random(100), (&mut backups, taken));
                });
            });
            if plan.closes {
                close(store);
            } else {
                store.abort();
            }
        }
        let repair = |from: &Path, to: &Path| {
            let repaired = plan.options().repair(from, to);
            repaired.map(drop).map_err(|error| format!("{error:?}"))
        };
        copies::make(place, &mut Random::new(seed ^ 0x636f_7079), FULL, &repair);
    }

    fn go_on(place: &Path, seed: u64) {
        let plan = Plan::of(seed, FULL);
        // What fills the file system goes first: opening may need space for a MANIFEST.
        let _ = std::fs::remove_file(place.with_file_name("ballast"));
        say(&Said::Opening);
        let store = plan.options().open(place.join("db")).unwrap();
        let found = contents(&store).unwrap().into_iter();
        let found =
            found.flat_map(|(writer, keys)| keys.into_iter().map(move |(k, s)| (writer, k, s)));
        say(&Said::Opened { found: found.collect() });
        say(&Said::Aside { files: set_aside(&place.join("db")) });
        say(&Said::Later { done: false });
        let synced = WriteOptions::new().durability(Durability::Synced);
        store.put_with(key(LATER, 0), value(1, 100), &synced).unwrap();
        say(&Said::Later { done: true });
        store.merge().unwrap();
        close(store);
    }

    fn history(reports: &[Report]) -> History {
        History::of(reports)
    }

    fn check(place: &Path, seed: u64, history: &History, reports: usize) -> Result<(), String> {
        let plan = Plan::of(seed, FULL);
        let found = by_writers(open(&place.join("db"), &plan)?, history.writers.len())?;
        history::check(history, reports, &found)?;
        let mut begun = history.backups.iter().filter(|backup| backup.begun < reports);
        begun.try_for_each(|backup| check_backup(place, &plan, history, reports, backup))
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
        let found = open(&place.join("db"), &Plan::of(seed, FULL))?.into_iter();
        let found = found.flat_map(|(writer, keys)| {
            keys.into_iter().map(move |(key, step)| (writer, key, step))
        });
        history::check_later(found.collect(), opened, LATER)
    }

    fn check_opened(
        history: &History,
        reports: usize,
        found: &[(u64, u64, u64)],
    ) -> Result<(), String> {
        let mut keys = BTreeMap::<_, Keys>::new();
        for &(writer, key, step) in found {
            keys.entry(writer).or_default().insert(key, step);
        }
        history::check_death(history, reports, &by_writers(keys, history.writers.len())?)
    }

    fn check_copy(
        path: &Path,
        seed: u64,
        history: &History,
        at: Option<usize>,
    ) -> Result<(), String> {
        let found = open(path, &Plan::of(seed, FULL))?;
        let Some(at) = at else { return Ok(()) };
        history::check_death(history, at, &by_writers(found, history.writers.len())?)
    }
}
