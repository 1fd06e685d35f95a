//! What holds something up is named in the statistics and in a warning: values that keep a removed
//! segment, and appends that are not finished.

mod common;

use common::events::{Event, Events};
use common::{children, log_by_hand, sealed, store_by_hand, until};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tailcask::{CommitLog, Durability, HeldSegment, LogPosition, Store, UnfinishedAppend};
use tracing::Level;

/// A store whose first segment is full, with the key in it.
fn store_with(key: &str, options: &tailcask::StoreOptions) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = options.open(dir.path().join("store")).unwrap();
    store.put(key, vec![1; 10_000]).unwrap();
    store.roll().unwrap();
    store.log().maintain().unwrap();
    (dir, store)
}

/// Merges the segments that are full, with nothing live in them.
fn merge_away(store: &Store, key: &str) {
    store.put(key, "new").unwrap();
    store.merge_only(&sealed(store)).unwrap();
    store.log().maintain().unwrap();
}

fn held(store: &Store) -> Vec<HeldSegment> {
    let (of_store, of_log) = (store.stats().held_segments, store.log().stats().held_segments);
    let ids = |all: &[HeldSegment]| all.iter().map(|held| held.id).collect::<Vec<_>>();
    assert_eq!(ids(&of_store), ids(&of_log));
    of_store
}

#[test]
fn a_kept_value_is_named_with_its_segment_and_its_bytes() {
    let (_dir, store) = store_with("key", &store_by_hand());
    let value = store.get("key").unwrap().unwrap();
    let second = store.get("key").unwrap().unwrap();
    assert!(held(&store).is_empty(), "nothing is removed");
    let there = store.stats().segments[0];
    merge_away(&store, "key");
    let of = |held: &HeldSegment| (held.id, held.pins, held.owners, held.in_epoch);
    let all = held(&store);
    assert_eq!((all.len(), of(&all[0])), (1, (there.id, 2, 0, false)));
    assert_eq!(there.id, value.position().segment());
    assert_eq!((all[0].mapped_bytes, all[0].disk_bytes), (2 << 20, there.disk_bytes));
    assert!(all[0].disk_bytes < 16 << 10, "{}", all[0].disk_bytes);
    let age = all[0].removed_for.unwrap();
    assert!(held(&store)[0].removed_for.unwrap() >= age);
    let text = all[0].to_string();
    let from = format!("segment {}, removed ", there.id);
    assert!(text.starts_with(&from) && text.ends_with("2 values or entries that borrow"), "{text}");
    // The same, whichever way it is kept.
    drop(second);
    let owned = value.into_owned();
    assert_eq!(of(&held(&store)[0]), (there.id, 0, 1, false));
    let bytes = owned.into_bytes();
    let again = bytes.clone();
    assert_eq!(of(&held(&store)[0]), (there.id, 0, 1, false));
    drop(bytes);
    assert_eq!(of(&held(&store)[0]), (there.id, 0, 1, false));
    drop(again);
    assert!(held(&store).is_empty());
    store.log().maintain().unwrap();
    assert_eq!(store.stats().segments_waiting_for_readers, 0);
}

#[test]
fn what_an_iterator_has_given_and_a_reader_are_named_too() {
    let (_dir, store) = store_with("key", &store_by_hand());
    let mut pairs = store.iter();
    let pair = pairs.next().unwrap().unwrap();
    merge_away(&store, "key");
    assert_eq!(held(&store)[0].owners, 1);
    drop(pair);
    assert!(held(&store).is_empty(), "the iterator itself keeps nothing");

    let dir = tempfile::tempdir().unwrap();
    let log = log_by_hand().open(dir.path().join("log")).unwrap();
    log.append(b"first").unwrap();
    let mut reader = log.reader();
    assert_eq!(&*reader.next_entry().unwrap().unwrap(), b"first");
    let last = log.append(&vec![1; 3 << 20]).unwrap();
    let first = log.begin().segment();
    log.truncate_before(last).unwrap();
    let all = log.stats().held_segments;
    assert_eq!((all.len(), all[0].id, all[0].pins, all[0].owners), (1, first, 0, 1));
    assert!(reader.next_entry().is_ok());
    log.maintain().unwrap();
    assert!(log.stats().held_segments.is_empty(), "the reader has gone on");
}

#[test]
fn a_closure_that_reads_is_known_by_its_epoch() {
    let (_dir, store) = store_with("key", &store_by_hand());
    let inside = |value: &[u8]| {
        assert_eq!(value.len(), 10_000);
        thread::scope(|scope| {
            scope.spawn(|| merge_away(&store, "key"));
        });
        let all = held(&store);
        assert_eq!((all.len(), all[0].pins, all[0].owners, all[0].in_epoch), (1, 0, 0, true));
    };
    store.get_with("key", inside).unwrap().unwrap();
    until("the closure has ended", || held(&store).is_empty());
}

#[test]
fn a_view_names_what_it_keeps_of_what_was_removed() {
    let (dir, store) = store_with("key", &store_by_hand());
    let mut view = Store::open_read_only(dir.path().join("store")).unwrap();
    assert!(view.stats().held_segments.is_empty());
    let (first, value) = (sealed(&store)[0], view.get("key").unwrap().unwrap());
    merge_away(&store, "key");
    let all = view.stats().held_segments;
    assert_eq!((all.len(), all[0].id, all[0].removed_for), (1, first, None));
    assert_eq!((all[0].pins, all[0].owners, all[0].mapped_bytes), (1, 0, 2 << 20));
    drop(value);
    assert_eq!(view.stats().held_segments[0].pins, 0, "the view keeps it");
    view.refresh().unwrap();
    assert!(view.stats().held_segments.is_empty());
}

/// Calls `look` while an append of 100 bytes is under way, on a thread of its own.
fn while_unfinished(log: &CommitLog, look: impl FnOnce(LogPosition)) -> LogPosition {
    let position = log.tail();
    let (begun, began) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let append = scope.spawn(move || {
            log.append_with(100, |_| {
                begun.send(()).unwrap();
                // Until the sender is gone, also if `look` panics.
                let _ = wait.recv();
            })
        });
        began.recv().unwrap();
        look(position);
        drop(go);
        assert_eq!(append.join().unwrap().unwrap(), position);
    });
    position
}

#[test]
fn an_unfinished_append_is_named_with_its_place_and_what_is_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = log_by_hand().open(dir.path().join("log")).unwrap();
    log.append(b"before").unwrap();
    let (frame, mut syncing) = (16 + 104, None);
    while_unfinished(&log, |position| {
        let look = || log.stats().unfinished.unwrap();
        let found = look();
        assert_eq!((found.position, found.len, found.bytes_behind), (position, Some(frame), 0));
        assert_eq!((found.waiting, log.stats().oldest_unfinished), (0, Some(position)));
        log.append(&[1; 1000]).unwrap();
        assert_eq!(look().bytes_behind, 16 + 1000);
        // Over two rolls: all of the segments in between counts, less the beginnings.
        (0..3).for_each(|_| _ = log.append(&vec![1; 1 << 20]).unwrap());
        let ends: u64 = log.stats().segment_list.iter().map(|s| u64::from(s.end.offset())).sum();
        let (behind, tail) = (look().bytes_behind, log.tail());
        assert!(
            (3 << 20..ends).contains(&behind) && tail.segment() > position.segment(),
            "{behind}"
        );
        let other = log.clone();
        syncing = Some(thread::spawn(move || other.wait_durable(position)));
        until("a sync waits", || look().waiting == 1);
        assert!(look().known_for >= found.known_for && look().position == position);
        let text = look().to_string();
        assert!(text.contains(&format!("the append at {position}, of 120 bytes,")), "{text}");
        assert!(text.ends_with("and 1 caller waits for a sync"), "{text}");
    });
    syncing.unwrap().join().unwrap().unwrap();
    assert!(log.stats().unfinished.is_none());
    log.sync().unwrap();
}

fn one(events: &[Event], level: Level) -> &Event {
    let mut of_level = events.iter().filter(|event| event.level == level);
    let event = of_level.next().unwrap_or_else(|| panic!("no {level}: {events:?}"));
    assert!(of_level.next().is_none(), "{events:?}");
    event
}

fn has(event: &Event, field: &str, value: impl ToString) {
    assert_eq!(event.fields.get(field), Some(&value.to_string()), "{field} of {event:?}");
}

#[test]
fn an_unfinished_append_is_warned_of_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = log_by_hand().open(dir.path().join("log")).unwrap();
    let look = || Events::of(|| log.maintain().unwrap());
    let patient = || {
        while_unfinished(&log, |_| {
            for _ in 0..3 {
                assert!(look().is_empty(), "it is new");
            }
        })
    };
    patient();
    log.warn_after(Duration::ZERO);
    for _ in 0..2 {
        let position = while_unfinished(&log, |position| {
            log.append(&[1; 1000]).unwrap();
            let events = Events::of(|| (0..5).for_each(|_| log.maintain().unwrap()));
            let warning = one(&events, Level::WARN);
            assert_eq!(events.len(), 1, "{events:?}");
            has(warning, "position", position);
            has(warning, "segment", position.segment());
            has(warning, "offset", position.offset());
            has(warning, "len", 120);
            has(warning, "bytes_behind", 1016);
            assert!(warning.message().contains("unfinished"), "{warning:?}");
        });
        let events = look();
        has(one(&events, Level::INFO), "position", position);
        assert!(look().is_empty());
    }
}

#[test]
fn a_removed_segment_is_warned_of_once_and_the_oldest_first() {
    let (_dir, store) = store_with("key", &store_by_hand());
    store.log().warn_after(Duration::ZERO);
    let first = store.get("key").unwrap().unwrap().into_owned();
    store.put("key", vec![2; 20_000]).unwrap();
    store.roll().unwrap();
    let second = store.get("key").unwrap().unwrap().into_owned();
    let look = || Events::of(|| (0..3).for_each(|_| store.log().maintain().unwrap()));
    let ids = sealed(&store);
    let merged = Events::of(|| {
        store.merge_only(&ids[..1]).unwrap();
        merge_away(&store, "key");
    });
    assert_eq!(store.stats().held_segments.len(), 2);
    // The maintenance that is a part of merging has looked.
    let warning = merged.into_iter().chain(look()).filter(|event| event.level == Level::WARN);
    let warnings: Vec<_> = warning.collect();
    has(one(&warnings, Level::WARN), "segment", first.position().segment());
    has(&warnings[0], "owners", 1);
    has(&warnings[0], "mapped_bytes", 2 << 20);
    drop(first);
    // It is over, and the next one is the oldest.
    let events = look();
    has(one(&events, Level::INFO), "segment", ids[0]);
    has(one(&events, Level::WARN), "segment", second.position().segment());
    drop(second);
    has(one(&look(), Level::INFO), "segment", ids[1]);
    assert!(look().is_empty());
}

/// The thread that syncs is held up itself, and cannot say so.
#[test]
fn the_warning_comes_while_a_sync_in_the_background_waits() {
    let (mut child, mut said) = children::Process::start("background", std::path::Path::new("/"));
    assert_eq!(said.next().as_deref(), Some("warned"));
    assert!(child.0.wait().unwrap().success());
}

fn warn_in_the_background() {
    let events = Events::of_all_threads();
    let periodic = Durability::Periodic(Duration::from_millis(1));
    let dir = tempfile::tempdir().unwrap();
    let log = CommitLog::options().durability(periodic).open(dir.path().join("log")).unwrap();
    log.warn_after(Duration::ZERO);
    while_unfinished(&log, |position| {
        let is = |event: &Event| {
            event.level == Level::WARN
                && event.fields.get("position") == Some(&position.to_string())
        };
        until("it is warned of", || events.all().iter().any(is));
    });
    children::say("warned");
}

#[cfg(feature = "backtraces")]
#[test]
fn a_backtrace_says_where_it_was_taken_if_the_environment_asks_for_one() {
    for (asked, role) in [(true, "traced"), (false, "untraced")] {
        let mut command = children::command(role, std::path::Path::new("/"));
        // Panics are to have one; that is no wish for those of reads.
        command.env("RUST_BACKTRACE", "1").env_remove("RUST_LIB_BACKTRACE");
        if asked {
            command.env("RUST_LIB_BACKTRACE", "1");
        }
        let output = command.stderr(std::process::Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{role}: {output:?}");
    }
}

#[cfg(feature = "backtraces")]
#[inline(never)]
fn take_a_value(store: &Store) -> tailcask::Value<'_> {
    store.get("key").unwrap().unwrap()
}

#[cfg(feature = "backtraces")]
#[inline(never)]
fn take_it_along(value: tailcask::Value<'_>) -> tailcask::Value<'static> {
    std::hint::black_box(value.into_owned())
}

#[cfg(feature = "backtraces")]
fn be_traced(asked: bool) {
    let (_dir, store) = store_with("key", &store_by_hand());
    store.log().warn_after(Duration::ZERO);
    let value = take_a_value(&store);
    merge_away(&store, "key");
    let oldest = || held(&store)[0].oldest.clone();
    let is_of = |taken: &tailcask::TakenAt, function: &str| {
        assert!(taken.backtrace.to_string().contains(function), "{taken}");
        assert_eq!(taken.thread.as_deref(), thread::current().name());
        assert!(taken.at <= std::time::Instant::now());
    };
    assert_eq!(oldest().is_some(), asked);
    oldest().iter().for_each(|taken| is_of(taken, "take_a_value"));
    let owned = take_it_along(value);
    oldest().iter().for_each(|taken| is_of(taken, "take_it_along"));
    let bytes = owned.into_bytes();
    assert_eq!(oldest().is_some(), asked);
    drop(bytes);
    assert!(held(&store).is_empty());
    let dir = tempfile::tempdir().unwrap();
    let log = log_by_hand().open(dir.path().join("log")).unwrap();
    log.warn_after(Duration::ZERO);
    while_unfinished(&log, |_| {
        let UnfinishedAppend { taken, .. } = log.stats().unfinished.unwrap();
        assert_eq!(taken.is_some(), asked);
        assert!(taken.is_none_or(|taken| taken.to_string().contains("append_with")));
        let events = Events::of(|| log.maintain().unwrap());
        let warning = one(&events, Level::WARN);
        assert_eq!(warning.fields.get("taken").is_some_and(|at| at.contains("append_with")), asked);
    });
    assert!(log.stats().unfinished.is_none());
}

#[test]
#[ignore = "the other process of the tests above"]
fn child() {
    match children::role() {
        Some((role, _)) if role == "background" => warn_in_the_background(),
        #[cfg(feature = "backtraces")]
        Some((role, _)) => be_traced(role == "traced"),
        _ => {}
    }
}

#[test]
fn a_frame_that_is_not_even_claimed_is_named_without_a_length() {
    let dir = tempfile::tempdir().unwrap();
    let log = log_by_hand().open(dir.path().join("log")).unwrap();
    let position = log.tail();
    log.abandon_reservation(100);
    log.append(b"behind it").unwrap();
    let found = log.stats().unfinished.unwrap();
    assert_eq!((found.position, found.len, found.bytes_behind), (position, None, 120 + 32));
    log.abort();
}
