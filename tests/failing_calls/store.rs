//! What a store does while a call fails.

use super::{Outcome, PAUSE, tell};
use crate::common::small_store;
use std::collections::BTreeSet;
use std::path::Path;
use tailcask::{Batch, Durability, Maintenance, OpenError, Store, WriteError, WriteOptions};

/// Each writes a value that says which step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Closes the store, if it is open, and opens it.
    Open,
    Put(usize, usize, Durability),
    Delete(usize),
    /// Puts both keys.
    Batch(usize, usize),
    Sync,
    Roll,
    Merge,
    Read,
    Backup,
    Repair,
}

impl Step {
    pub(crate) fn syncs(self) -> bool {
        matches!(self, Self::Sync | Self::Put(.., Durability::Synced))
    }
}

const KEYS: usize = 4;
const SMALL: usize = 100;
/// Longer than a segment.
const LONG: usize = 3 * SEGMENT as usize;
/// Smaller than users can ask for.
const SEGMENT: u64 = 64 << 10;

pub(crate) fn steps() -> Vec<Step> {
    use Durability::{Buffered, Synced};
    use Step::{Backup, Batch, Delete, Merge, Open, Put, Read, Repair, Roll, Sync};
    vec![
        Open,
        Put(0, SMALL, Buffered),
        Put(1, SMALL, Synced),
        Put(2, LONG, Buffered),
        Batch(0, 3),
        Sync,
        Roll,
        Put(0, SMALL, Buffered),
        Delete(1),
        Merge,
        Put(1, SMALL, Buffered),
        Backup,
        Open,
        Read,
        Put(2, SMALL, Synced),
        Roll,
        Delete(3),
        Merge,
        Read,
        Backup,
        Repair,
        Put(3, SMALL, Buffered),
        Open,
        Read,
    ]
}

fn key(nth: usize) -> String {
    format!("key {nth}")
}

/// The value that a step writes.
fn value(step: usize, len: usize) -> Vec<u8> {
    vec![step as u8; len]
}

fn open(place: &Path, maintenance: Maintenance) -> Result<Store, OpenError> {
    small_store(SEGMENT).maintenance(maintenance).open(place.join("store"))
}

pub(crate) fn work(place: &Path, maintenance: Maintenance) {
    let mut store = None;
    for (nth, step) in steps().into_iter().enumerate() {
        if step == Step::Open {
            // Whatever closing says, the directory is free.
            if let Some(closing) = store.take().map(|store: Store| store.close()) {
                closing.unwrap_or_else(|error| eprintln!("closed: {error}"));
            }
            let opened = open(place, maintenance);
            tell(nth, opened.as_ref().map(|_| ""));
            // What has failed once does not fail again.
            store = Some(
                opened
                    .unwrap_or_else(|_| open(place, maintenance).expect("opened the second time")),
            );
            continue;
        }
        take(place, store.as_ref().expect("opened"), nth, step);
        if maintenance == Maintenance::Background {
            // Whatever its threads do meanwhile.
            std::thread::sleep(PAUSE);
        }
    }
    // Dropped, which closes it.
}

fn take(place: &Path, store: &Store, nth: usize, step: Step) {
    match step {
        Step::Open => unreachable!("above"),
        Step::Put(k, len, durability) => {
            let options = WriteOptions::new().durability(durability);
            tell(nth, store.put_with(key(k), value(nth, len), &options));
        }
        Step::Delete(k) => tell(nth, store.delete(key(k))),
        Step::Batch(a, b) => {
            let mut batch = Batch::new();
            batch.put(key(a), value(nth, SMALL)).put(key(b), value(nth, SMALL));
            tell::<_, WriteError>(nth, store.write(&batch));
        }
        Step::Sync => tell(nth, store.sync().map(|_| "")),
        Step::Roll => tell(nth, store.roll().map(|()| "")),
        Step::Merge => tell(nth, store.merge().map(|_| "")),
        Step::Read => {
            let all = store.iter().try_for_each(|pair| pair.map(drop));
            tell(nth, all.and_then(|()| store.verify()).map(|_| ""));
        }
        Step::Backup => {
            tell(nth, store.backup(place.join(format!("backup-{nth}"))).map(|_| ""));
        }
        Step::Repair => {
            // Of a copy that nobody has open.
            let from = place.join("backup-19");
            tell(nth, Store::repair(from, place.join(format!("repaired-{nth}"))).map(|_| ""));
        }
    }
}

/// The values that a key may have: each by the step that has written it.
type Possible = [BTreeSet<Option<u8>>; KEYS];

/// What is there is what was acknowledged, or what was begun after that and failed.
fn check_values(store: &Store, possible: &Possible, what: &str) {
    for (k, possible) in possible.iter().enumerate() {
        let found = store.get(key(k)).expect("sound").map(|value| {
            assert!(value.iter().all(|&byte| byte == value[0]), "{what}: a torn value");
            value[0]
        });
        assert!(possible.contains(&found), "{what}: key {k} has {found:?}, not {possible:?}");
    }
    store.verify().expect("verified");
}

pub(crate) fn check(place: &Path, outcomes: &[Outcome]) {
    let mut possible: Possible = std::array::from_fn(|_| BTreeSet::from([None]));
    let mut copies = Vec::new();
    for (nth, (step, outcome)) in steps().into_iter().zip(outcomes).enumerate() {
        let is_done = matches!(outcome, Outcome::Done(_));
        let writes: &[(usize, Option<u8>)] = match step {
            Step::Put(k, ..) => &[(k, Some(nth as u8))],
            Step::Delete(k) => &[(k, None)],
            Step::Batch(a, b) => &[(a, Some(nth as u8)), (b, Some(nth as u8))],
            Step::Backup if is_done => {
                copies.push((format!("backup-{nth}"), possible.clone()));
                &[]
            }
            // Of the backup before.
            Step::Repair if is_done => {
                let of = copies.last().expect("there is one").1.clone();
                copies.push((format!("repaired-{nth}"), of));
                &[]
            }
            _ => &[],
        };
        for &(k, value) in writes {
            if is_done {
                possible[k].clear();
            }
            possible[k].insert(value);
        }
    }
    check_values(&open(place, Maintenance::Manual).expect("opened"), &possible, "the store");
    for (name, possible) in copies {
        let copy = small_store(SEGMENT).open(place.join(&name)).expect("the copy opens");
        check_values(&copy, &possible, &name);
    }
}
