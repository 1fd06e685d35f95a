//! A process that only reads, beside whatever writes, and whatever dies.

use crate::child::{PATIENCE, Places, commands, panics_end_the_process};
use crate::common::children::say;
use crate::content::{Key, Sort};
use crate::followers::{Sequence, next_of};
use crate::oracle::Found;
use crate::plan::Plan;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tailcask::{CommitLog, LogPosition, LogReader, ReadView, Store};

/// The last entry that there is, once nobody writes any more.
static LAST: OnceLock<LogPosition> = OnceLock::new();

/// What does not change by itself.
fn lasting(found: Found) -> HashMap<Key, u64> {
    found.versions.into_iter().filter(|(key, _)| key.sort() != Sort::Expiring).collect()
}

pub(crate) fn run(plan: &Plan, places: &Places) {
    panics_end_the_process();
    let log = CommitLog::open_read_only(places.log()).unwrap();
    let kept = plan.store().open_read_only(places.store()).unwrap();
    let first = lasting(Found::in_store(&kept).unwrap());
    let mut view = Store::open_read_only(places.store()).unwrap();
    say("reads");
    std::thread::spawn(|| {
        // Without the parent nobody needs this process.
        let Some(last) = commands().next() else { std::process::exit(0) };
        let _ = LAST.set(LogPosition::from_u64(last.parse().unwrap()));
    });
    let (mut reader, mut seen) = (log.reader(), Sequence::default());
    let (mut entries, mut views, mut versions) = (0u64, 0u64, HashMap::new());
    while LAST.get().is_none() {
        entries += read_for(&mut reader, &mut seen, Duration::from_millis(100));
        views += u64::from(refresh(&mut view, &mut versions));
    }
    let (last, mut waits) = (*LAST.get().unwrap(), 0);
    while seen.position < last {
        waits += 1;
        assert!(waits < PATIENCE / 50, "it stays at {}, before {last}: {reader:?}", seen.position);
        entries += read_for(&mut reader, &mut seen, Duration::from_millis(50));
    }
    refresh(&mut view, &mut versions);
    assert!(lasting(Found::in_store(&kept).unwrap()) == first, "what is kept stays as it was");
    assert_eq!(seen.position, last, "nothing is behind the last entry");
    say(&format!("read {entries} {views}"));
}

fn read_for(reader: &mut LogReader<'_>, seen: &mut Sequence, time: Duration) -> u64 {
    let (started, mut entries) = (Instant::now(), 0);
    while started.elapsed() < time {
        entries += u64::from(next_of(reader, seen));
    }
    entries
}

/// No key goes back to an older version.
fn refresh(view: &mut ReadView, versions: &mut HashMap<Key, u64>) -> bool {
    let is_new = view.refresh().unwrap();
    for (key, version) in lasting(Found::in_store(view).unwrap()) {
        let before = versions.insert(key, version).unwrap_or(0);
        assert!(before <= version, "{key:x?} was {before:x}, and is {version:x} again");
    }
    is_new
}
