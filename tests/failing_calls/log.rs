//! What a log does while a call fails.

use super::{Outcome, PAUSE, tell};
use crate::common::small_log;
use std::path::Path;
use tailcask::{AppendError, CommitLog, LogPosition, Maintenance, OpenError};

/// Each entry says which step has appended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Closes the log, if it is open, and opens it.
    Open,
    Append(usize),
    /// This many entries, all or none.
    Batch(usize),
    Sync,
    /// Drops what is before the entry of a step.
    Truncate(usize),
    /// Reads all.
    Read,
}

const SMALL: usize = 100;
/// Two of them do not fit one segment.
const LARGE: usize = 40 << 10;
/// Longer than a segment.
const LONG: usize = 3 * SEGMENT as usize;
/// Smaller than users can ask for.
const SEGMENT: u64 = 64 << 10;

pub(crate) fn steps() -> Vec<Step> {
    use Step::{Append, Batch, Open, Read, Sync, Truncate};
    vec![
        Open,
        Append(SMALL),
        Sync,
        Append(LARGE),
        Append(LARGE),
        Batch(3),
        Append(LONG),
        Sync,
        Truncate(4),
        Append(SMALL),
        Open,
        Read,
        Append(LARGE),
        Append(LARGE),
        Truncate(9),
        Sync,
        Open,
        Append(SMALL),
        Read,
    ]
}

fn open(place: &Path, maintenance: Maintenance) -> Result<CommitLog, OpenError> {
    small_log(SEGMENT).maintenance(maintenance).open(place.join("log"))
}

fn entry(step: usize, len: usize) -> Vec<u8> {
    vec![step as u8; len]
}

pub(crate) fn work(place: &Path, maintenance: Maintenance) {
    let steps = steps();
    let (mut log, mut at) = (None, vec![None; steps.len()]);
    for (nth, step) in steps.into_iter().enumerate() {
        if step == Step::Open {
            if let Some(closing) = log.take().map(|log: CommitLog| log.close()) {
                closing.unwrap_or_else(|error| eprintln!("closed: {error}"));
            }
            let opened = open(place, maintenance);
            tell(nth, opened.as_ref().map(|_| ""));
            log = Some(
                opened
                    .unwrap_or_else(|_| open(place, maintenance).expect("opened the second time")),
            );
            continue;
        }
        at[nth] = take(log.as_ref().expect("opened"), nth, step, &at);
        if maintenance == Maintenance::Background {
            std::thread::sleep(PAUSE);
        }
    }
}

fn take(
    log: &CommitLog,
    nth: usize,
    step: Step,
    at: &[Option<LogPosition>],
) -> Option<LogPosition> {
    match step {
        Step::Open => unreachable!("above"),
        Step::Append(len) => {
            let appended = log.append(&entry(nth, len));
            let position = appended.as_ref().ok().copied();
            tell(nth, appended);
            position
        }
        Step::Batch(count) => {
            let entry = entry(nth, SMALL);
            let appended: Result<_, AppendError> = log.append_batch(&vec![&entry[..]; count]);
            let position = appended.as_ref().ok().map(|all| all[0]);
            tell(nth, appended.map(|_| ""));
            position
        }
        Step::Sync => {
            tell(nth, log.sync());
            None
        }
        Step::Truncate(step) => {
            // Where the append has failed there is nothing to be dropped.
            let kept = at[step].map_or(Ok(String::new()), |position| {
                log.truncate_before(position).map(|_| step.to_string())
            });
            tell(nth, kept);
            None
        }
        Step::Read => {
            let mut reader = log.reader();
            let read =
                std::iter::from_fn(|| reader.next_entry().map(|entry| entry.map(drop)).transpose());
            tell(nth, read.collect::<Result<Vec<()>, _>>().map(|all| all.len()));
            None
        }
    }
}

/// What was acknowledged is there, in its order, from where the log may have been cut off.
pub(crate) fn check(place: &Path, outcomes: &[Outcome]) {
    let log = open(place, Maintenance::Manual).expect("opened");
    let mut reader = log.reader();
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().expect("sound") {
        assert!(entry.iter().all(|&byte| byte == entry[0]), "a torn entry");
        found.push(usize::from(entry[0]));
    }
    assert!(found.is_sorted(), "{found:?}");
    let mut may_be_gone = 0;
    for step in steps() {
        if let Step::Truncate(before) = step {
            may_be_gone = may_be_gone.max(before);
        }
    }
    for (nth, (step, outcome)) in steps().into_iter().zip(outcomes).enumerate() {
        let count = found.iter().filter(|&&found| found == nth).count();
        let all = match step {
            Step::Append(_) => 1,
            Step::Batch(count) => count,
            _ => 0,
        };
        assert!(count == 0 || count == all, "step {nth}: {count} of {all}");
        let is_done = matches!(outcome, Outcome::Done(_));
        assert!(count == all || !is_done || nth < may_be_gone, "step {nth} is gone: {found:?}");
    }
}
