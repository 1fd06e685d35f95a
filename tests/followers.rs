//! Readers that wait for an entry are woken, whatever it is that uncovers it.

mod common;

use common::{HANG, segment, small_log};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tailcask::{CommitLog, LogPosition, Maintenance, ReadError, Retention};

/// For another thread to fall asleep in. Too short a time makes a test weaker, and not fail.
const ASLEEP: Duration = Duration::from_millis(100);

/// Waits for one entry, in a thread, and sends it.
fn follower(log: &'static CommitLog) -> mpsc::Receiver<Vec<u8>> {
    let (found, entries) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = log.reader();
        let entry = reader.wait_entry(Duration::MAX).unwrap().expect("an entry");
        found.send(entry.to_vec()).unwrap();
    });
    entries
}

fn log() -> &'static CommitLog {
    Box::leak(Box::new(CommitLog::in_memory()))
}

#[test]
fn a_claim_that_is_given_up_wakes_who_waits_for_what_is_behind_it() {
    let log = log();
    let entries = follower(log);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _ = log.append_with(100, |_| {
            log.append(b"behind").unwrap();
            thread::sleep(ASLEEP);
            panic!("on purpose");
        });
    }));
    assert!(panicked.is_err());
    assert_eq!(entries.recv_timeout(HANG).expect("the reader sleeps"), b"behind");
}

#[test]
fn a_late_commit_wakes_who_waits_for_it() {
    let log = log();
    let entries = follower(log);
    log.append_with(5, |bytes| {
        log.append(b"behind").unwrap();
        thread::sleep(ASLEEP);
        bytes.copy_from_slice(b"first");
    })
    .unwrap();
    assert_eq!(entries.recv_timeout(HANG).expect("the reader sleeps"), b"first");
}

#[test]
fn no_entry_is_slept_through_beside_sync_marks() {
    let log = log();
    let done = AtomicBool::new(false);
    let seen = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    log.sync().unwrap();
                }
            });
        }
        let (tell, woken) = mpsc::channel();
        scope.spawn(move || {
            let mut reader = log.reader();
            // An empty entry is the last one.
            while !reader.wait_entry(Duration::MAX).unwrap().expect("an entry").is_empty() {
                tell.send(()).unwrap();
            }
        });
        for _ in 0..3_000 {
            log.append(b"x").unwrap();
            let woken = woken.recv_timeout(HANG);
            if woken.is_err() {
                // For the other threads to come to their ends.
                done.store(true, Ordering::Relaxed);
                log.append(b"").unwrap();
            }
            woken.expect("the reader sleeps");
            seen.fetch_add(1, Ordering::Relaxed);
        }
        done.store(true, Ordering::Relaxed);
        log.append(b"").unwrap();
    });
    assert_eq!(seen.into_inner(), 3_000);
}

#[test]
fn no_entry_is_slept_through_over_many_rolls() {
    let log = small_log(4096).maintenance(Maintenance::Background);
    let log = log.open_simulated(&tailcask::SimulatedDisk::new()).unwrap();
    let log: &'static CommitLog = Box::leak(Box::new(log));
    let (tell, woken) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = log.reader();
        for _ in 0..4_000 {
            let entry = reader.wait_entry(Duration::MAX).unwrap().expect("an entry");
            assert_eq!(entry.len() % 100, 0);
            tell.send(()).unwrap();
        }
    });
    for round in 0..2_000 {
        // Two at a time, so that one pads while the other one rolls.
        thread::scope(|scope| {
            for n in 0..2 {
                scope.spawn(move || log.append(&vec![n; 100 * (1 + round % 7)]).unwrap());
            }
        });
        for _ in 0..2 {
            woken.recv_timeout(HANG).expect("the reader sleeps");
        }
    }
}

#[test]
fn what_is_committed_ends_at_a_claim_for_readers_of_the_files_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = small_log(64 << 10).open(dir.path()).unwrap();
    log.append(b"before").unwrap();
    let begin = log.committed();
    log.append_with(5, |bytes| {
        // Into other segments, too.
        for _ in 0..1000 {
            log.append(&[1; 1000]).unwrap();
        }
        let other = CommitLog::open_read_only(dir.path()).unwrap();
        assert_eq!((other.committed(), other.stats().committed), (begin, begin));
        assert_eq!((log.committed(), log.tail()), (begin, other.tail()));
        bytes.fill(7);
    })
    .unwrap();
    let other = CommitLog::open_read_only(dir.path()).unwrap();
    assert_eq!(other.committed(), other.tail());
    assert_eq!(log.committed(), other.committed());
}

/// Hazard 9: neither the segment that a reader waits in, which was never written to, nor the one that took its place
/// is there any more. It slept for ever.
#[test]
fn a_reader_that_waits_in_a_segment_that_is_gone_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (path, options) = (dir.path().join("log"), small_log(8192));
    let log = options.open(&path).unwrap();
    // Exactly full, so that what is next is in the standby.
    for _ in 0..(8192 - 128) / 128 {
        log.append(&[1; 112]).unwrap();
    }
    log.maintain().unwrap();
    let follower = options.open_read_only(&path).unwrap();
    let mut reader = follower.reader();
    while reader.next_entry().unwrap().is_some() {}
    assert_eq!((reader.position().segment(), reader.position().offset()), (2, 128));
    log.abort();
    let log = options.open(&path).unwrap();
    while log.tail().segment() < 5 {
        log.append(&[2; 1000]).unwrap();
    }
    log.truncate_before(log.tail()).unwrap();
    let begin = log.begin();
    assert!(begin.segment() > 3);
    match reader.next_entry() {
        Err(ReadError::Truncated { position, begin: now }) => {
            assert_eq!((position.segment(), now), (2, begin));
        }
        other => panic!("{other:?}"),
    }
    reader.seek(begin);
    assert!(reader.next_entry().unwrap().is_some());
}

/// Somebody else knows the position, and this handle not yet the segment that it is in.
#[test]
fn a_reader_starts_in_a_segment_that_was_made_since_the_log_was_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (path, options) = (dir.path().join("log"), small_log(8192));
    let log = options.open(&path).unwrap();
    log.append(b"first").unwrap();
    let followers: Vec<_> = (0..4).map(|_| options.open_read_only(&path).unwrap()).collect();
    let mut in_second = Vec::new();
    while in_second.len() < 3 {
        let at = log.append(&[1; 1000]).unwrap();
        in_second.extend((at.segment() == 2).then_some(at));
    }
    log.maintain().unwrap();
    assert_eq!((in_second[0].segment(), in_second[0].offset()), (2, 128));
    for (follower, at) in followers.iter().zip(&in_second) {
        let mut reader = follower.reader_from(*at);
        let entry = reader.next_entry().unwrap().expect("an entry");
        assert_eq!((entry.position(), &*entry), (*at, &[1; 1000][..]));
    }
    let mut reader = log.reader_from(in_second[0]);
    reader.next_entry().unwrap();
    let mut reader = followers[3].reader_from_checkpoint(&reader.checkpoint()).unwrap();
    assert_eq!(reader.next_entry().unwrap().unwrap().position(), in_second[1]);
}

/// Where a segment was full, its reader is behind the pad. A close seals it in front of that, and the log ends there.
#[test]
fn a_reader_behind_the_last_pad_of_a_closed_log_is_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = small_log(8192).open(&path).unwrap();
    log.append(&[1; 4000]).unwrap();
    let taken = path.join(segment(2));
    std::fs::write(&taken, "no segment").unwrap();
    assert!(log.append(&[2; 5000]).is_err(), "there is no room, and no other segment");
    std::fs::remove_file(taken).unwrap();
    let mut reader = log.reader();
    while reader.next_entry().unwrap().is_some() {}
    let behind = reader.position();
    assert_eq!((behind.segment(), behind.offset()), (1, 8192));
    assert!(log.reader_from(behind).next_entry().unwrap().is_none());
    log.close().unwrap();
    let closed = CommitLog::open_read_only(&path).unwrap();
    assert!(closed.tail() < behind);
    assert!(closed.reader_from(behind).next_entry().unwrap().is_none());
}

/// All of the log is dropped, and what is appended then is in a segment that follows none.
#[test]
fn a_reader_that_is_behind_is_told_that_an_emptied_log_goes_on_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let open = || small_log(4096).open(&path).unwrap();
    let log = open();
    log.append(b"one").unwrap();
    let [slow, quick] = [(); 2].map(|()| CommitLog::open_read_only(&path).unwrap());
    let (mut behind, mut ahead) = (slow.reader(), quick.reader());
    assert_eq!(&*behind.next_entry().unwrap().unwrap(), b"one");
    log.close().unwrap();
    let log = open();
    (0..100).for_each(|_| assert!(log.append(&[7; 100]).is_ok()));
    while ahead.next_entry().unwrap().is_some() {}
    log.close().unwrap();
    let log = open();
    log.truncate_before(log.tail()).unwrap();
    log.close().unwrap();
    let log = open();
    log.append(b"new").unwrap();
    let read = behind.next_entry().map(|entry| entry.map(|entry| entry.to_vec()));
    let begins = log.begin();
    assert!(
        matches!(read, Err(ReadError::Truncated { begin, .. }) if begin == begins),
        "{begins}: {read:?}"
    );
    assert_eq!(&*ahead.next_entry().unwrap().expect("it has missed nothing"), b"new");
}

#[test]
fn a_log_that_is_closed_and_empty_begins_and_ends_where_it_will_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let open = || small_log(4096).open(&path).unwrap();
    let check = |before: &[LogPosition]| {
        let follower = CommitLog::open_read_only(&path).unwrap();
        let mut reader = follower.reader();
        assert!(reader.next_entry().unwrap().is_none());
        let (begin, stats) = (follower.begin(), follower.stats());
        assert_eq!([follower.tail(), follower.committed(), reader.position()], [begin; 3]);
        assert_eq!([stats.begin, stats.tail], [begin; 2]);
        assert_eq!(follower.retained_from(Retention::new().bytes(0)).unwrap(), begin);
        for &position in before {
            let read = follower.read(position).map(drop);
            assert!(matches!(read, Err(ReadError::Truncated { .. })), "{read:?}");
            let read = follower.reader_from(position).next_entry().map(drop);
            assert!(matches!(read, Err(ReadError::Truncated { .. })), "{read:?}");
        }
        let log = open();
        assert_eq!((log.begin(), follower.begin()), (begin, begin));
        log.close().unwrap();
    };
    open().close().unwrap();
    check(&[]);
    let log = open();
    let positions = log.append_batch(&[b"one", b"two"]).unwrap();
    log.close().unwrap();
    let log = open();
    log.truncate_before(log.tail()).unwrap();
    log.close().unwrap();
    check(&positions);
}

/// Also what was there when it looked for the first time.
#[test]
fn a_reader_of_an_empty_log_reads_what_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let (path, options) = (dir.path().join("log"), small_log(8192));
    options.open(&path).unwrap().close().unwrap();
    let followers = [(); 2].map(|()| options.open_read_only(&path).unwrap());
    let mut readers = followers.each_ref().map(CommitLog::reader);
    assert!(readers[0].next_entry().unwrap().is_none());
    let log = options.open(&path).unwrap();
    log.append(b"first").unwrap();
    log.append(b"second").unwrap();
    for reader in &mut readers {
        for entry in [&b"first"[..], b"second"] {
            assert_eq!(reader.next_entry().unwrap().as_deref(), Some(entry));
        }
    }
}

/// A log all of which was truncated begins, and ends, where its next segment will: no place in it is behind
/// its end.
#[test]
fn a_log_without_segments_has_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let (path, options) = (dir.path().join("log"), small_log(8192));
    let log = options.open(&path).unwrap();
    log.append(b"first").unwrap();
    log.close().unwrap();
    let log = options.open(&path).unwrap();
    let early = options.open_read_only(&path).unwrap();
    log.truncate_before(log.tail()).unwrap();
    log.close().unwrap();

    let follower = options.open_read_only(&path).unwrap();
    let mut reader = follower.reader();
    assert!(reader.next_entry().unwrap().is_none());
    let places = [&follower, &early].map(|log| [log.tail(), log.begin(), log.committed()]);
    let log = options.open(&path).unwrap();
    assert_eq!(places, [[log.begin(); 3]; 2]);
    log.append(b"second").unwrap();
    assert_eq!(reader.next_entry().unwrap().as_deref(), Some(&b"second"[..]));
}
