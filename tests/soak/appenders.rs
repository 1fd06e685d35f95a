//! Appenders of the log, and who truncates it.

use crate::child::Shared;
use crate::content::Entry;
use crate::journal::{Outcome, Record, What};
use crate::plan::KEPT;
use crate::tally::Count;
use std::time::Duration;
use tailcask::{AppendError, LogPosition, Retention};

/// The result of an append: `None` if there was no space.
fn spaced<T>(result: Result<T, AppendError>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(AppendError::NoSpace { .. }) => None,
        Err(other) => panic!("{other:?}"),
    }
}

pub(crate) fn append(shared: &Shared, appender: u64) {
    let mut random = shared.plan.random(100 + appender);
    let mut next = (shared.plan.session + 1) << 32;
    loop {
        let how = random.below(5);
        let len = if how < 3 { 1 } else { 1 + random.below(20) };
        let entries = (next..next + len).map(|nth| Entry { appender, nth }.bytes());
        let entries: Vec<_> = entries.collect();
        let bytes = entries.iter().map(|entry| entry.len() + 24).sum();
        if !shared.spend(&shared.log_credit, bytes) {
            return;
        }
        let done = shared.appenders[appender as usize].record(
            Record::new(What::Append, next, len),
            |record| {
                let position = append_in_a_way(shared, how, &entries);
                record.aux = position.flatten().map_or(0, LogPosition::as_u64);
                let outcome = if position.is_some() { Outcome::Done } else { Outcome::NoSpace };
                (outcome, position.is_some())
            },
        );
        if done {
            next += len;
        } else {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Appends an entry or several in one of five ways; `None` if there is no space. The position is that of the first
/// entry, where it is told.
fn append_in_a_way(shared: &Shared, how: u64, entries: &[Vec<u8>]) -> Option<Option<LogPosition>> {
    let (log, first) = (&shared.log, &entries[0]);
    let parts: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
    match how {
        0 => spaced(log.append(first)).map(Some),
        1 => {
            let (a, b) = first.split_at(first.len() / 2);
            spaced(log.append_vectored(&[a, b])).map(Some)
        }
        2 => spaced(log.append_with(first.len(), |place| place.copy_from_slice(first))).map(Some),
        3 => spaced(log.append_batch(&parts)).map(|all| Some(all[0])),
        _ => {
            let mut batch = log.batch_writer(1 << 30);
            parts.iter().for_each(|entry| batch.push(entry).unwrap());
            let flushed = spaced(batch.flush());
            if flushed.is_none() {
                // It would try again when it is dropped.
                std::mem::forget(batch);
            }
            flushed.map(|_| None)
        }
    }
}

/// Drops the beginning of the log, in different ways, but never of what is to be kept.
pub(crate) fn truncate(shared: &Shared, _: u64) {
    let mut random = shared.plan.random(200);
    while !shared.stops() {
        std::thread::sleep(Duration::from_millis(20));
        let by_policy = random.flip();
        let before = shared.log.begin();
        let after = if by_policy {
            shared.log.retain(Retention::new().bytes(KEPT)).unwrap().begin
        } else {
            let to = old_enough(shared);
            let after = shared.log.truncate_before(to).unwrap();
            assert!(shared.plan.retention || after <= to.max(before), "{to}: {after}");
            after
        };
        assert!(before <= after && after <= shared.log.begin(), "{before}, {after}");
        if after > before {
            shared.count(Count::Truncations);
        }
    }
}

/// The last segment's beginning before which the log may be dropped.
fn old_enough(shared: &Shared) -> LogPosition {
    let mut kept = 0;
    // Of those that are not sealed yet it is not known how much is frames.
    for segment in shared.log.stats().segment_list.iter().rev().filter(|s| s.sealed) {
        kept += u64::from(segment.end.offset() - segment.begin.offset());
        if kept >= KEPT {
            return segment.begin;
        }
    }
    LogPosition::START
}
