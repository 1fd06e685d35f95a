//! Merges, backups and verification while everything goes on.

use crate::child::Shared;
use crate::journal::Journal;
use crate::tally::Count;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;
use tailcask::{AppendError, BackupError, MergeError, ReadError};

fn is_no_space(error: &MergeError) -> bool {
    match error {
        MergeError::Append(error) => matches!(error, AppendError::NoSpace { .. }),
        MergeError::Io { source } => source.kind() == ErrorKind::StorageFull,
        _ => false,
    }
}

/// Merges by hand now and then; without threads of the store does what they would.
pub(crate) fn merge(shared: &Shared, _: u64) {
    let mut random = shared.plan.random(400);
    while !shared.stops() {
        let pause = if shared.plan.is_manual() { 2 } else { 20 + random.below(200) };
        std::thread::sleep(Duration::from_millis(pause));
        if shared.plan.is_manual() {
            maintain(shared);
        }
        if random.below(8) == 0 {
            match shared.store.merge() {
                Ok(_) => shared.count(Count::MergesByHand),
                Err(error) => assert!(shared.plan.full && is_no_space(&error), "{error:?}"),
            }
        }
        let merges = shared.store.stats().merges;
        shared.tally.set(Count::Merges, merges.merges);
        shared.tally.set(Count::Reclaimed, merges.bytes_reclaimed);
        assert!(merges.failures == 0 || shared.plan.full, "{merges:?}");
    }
}

pub(crate) fn maintain(shared: &Shared) {
    if let Err(error) = shared.store.maintain() {
        assert!(shared.plan.full && is_no_space(&error), "{error:?}");
    }
    if let Err(error) = shared.log.maintain() {
        let is_no_space = matches!(error, AppendError::NoSpace { .. });
        assert!(shared.plan.full && is_no_space, "{error:?}");
    }
}

/// Backups, with what each writer had ended before and had begun after.
pub(crate) fn back_up(shared: &Shared, _: u64) {
    let mut random = shared.plan.random(500);
    for nth in 0..shared.plan.backups {
        std::thread::sleep(Duration::from_millis(100 + random.below(300)));
        // There is one in each round, unless it is killed.
        if nth > 0 && shared.stops() {
            return;
        }
        let note = |name: &str, counts: Vec<u64>| {
            let text: Vec<_> = counts.iter().map(u64::to_string).collect();
            let path = shared.places.journal(&format!("{name} {nth}"));
            let partial = path.with_extension("partial");
            fs::write(&partial, text.join(" ")).unwrap();
            fs::rename(partial, path).unwrap();
        };
        note("before backup", shared.writers.iter().map(Journal::ended).collect());
        match shared.store.backup(shared.places.backup(&shared.plan, nth)) {
            Ok(_) => {
                note("after backup", shared.writers.iter().map(Journal::begun).collect());
            }
            Err(BackupError::Append(AppendError::NoSpace { .. })) if shared.plan.full => {
                shared.count(Count::BackupsRefused);
            }
            Err(BackupError::Io { source, .. })
                if shared.plan.full && source.kind() == ErrorKind::StorageFull =>
            {
                shared.count(Count::BackupsRefused);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

pub(crate) fn verify(shared: &Shared, _: u64) {
    let mut random = shared.plan.random(600);
    while !shared.stops() {
        std::thread::sleep(Duration::from_millis(50 + random.below(200)));
        if random.flip() {
            shared.store.verify().unwrap();
        } else {
            // On a busy machine the log's beginning may be dropped before it has been read.
            match shared.log.verify() {
                Ok(_) | Err(ReadError::Truncated { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        shared.count(Count::Verified);
    }
}
