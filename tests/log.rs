//! What the log does for one process that behaves.

mod common;

use common::tasks::block_on;
use common::{Finish, HANG, entries, log_by_hand, segment, small_log, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tailcask::{
    AppendError, CommitLog, DiskOperation, Durability, LogPosition, Maintenance, OpenError,
    ReadError, SimulatedDisk, Store, SyncError, TruncateError,
};

#[test]
fn what_is_appended_is_read_in_place_and_in_order() {
    let log = CommitLog::in_memory();
    let first = log.append(b"one").unwrap();
    let second = log.append_with(5, |bytes| bytes.copy_from_slice(b"two!!")).unwrap();
    let third = log.append_vectored(&[b"th", b"", b"ree"]).unwrap();
    let batch = log.append_batch(&[b"four", b"", b"six"]).unwrap();
    assert!(first < second && second < third && third < batch[0] && batch[1] < batch[2]);
    assert_eq!(&*log.read(first).unwrap(), b"one");
    assert_eq!(&*log.read(second).unwrap(), b"two!!");
    assert_eq!(&*log.read(third).unwrap(), b"three");
    assert_eq!(&*log.read(batch[1]).unwrap(), b"");
    assert_eq!(&*log.read(batch[2]).unwrap(), b"six");
    let expected: [&[u8]; 6] = [b"one", b"two!!", b"three", b"four", b"", b"six"];
    assert_eq!(entries(&log), expected);
    let stats = log.stats();
    assert_eq!((stats.entries, stats.batches), (6, 1));
}

#[test]
fn reopened_it_goes_on_behind_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut positions = Vec::new();
    for round in 0..5u8 {
        let log = CommitLog::open(&path).unwrap();
        assert!(log.recovery().is_clean(), "{}", log.recovery());
        positions.push(log.append(&[round; 3]).unwrap());
        log.close().unwrap();
    }
    let log = CommitLog::open(&path).unwrap();
    assert!(positions.is_sorted());
    let expected: Vec<_> = (0..5u8).map(|round| vec![round; 3]).collect();
    assert_eq!(entries(&log), expected);
    assert_eq!(&*log.read(positions[2]).unwrap(), [2; 3]);
}

#[test]
fn opening_and_closing_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..10 {
        CommitLog::open(dir.path().join("log")).unwrap().close().unwrap();
    }
    let files = std::fs::read_dir(dir.path().join("log")).unwrap();
    let mut files: Vec<_> = files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.retain(|name| name != "RESERVE" && name != "MANIFEST.spare");
    files.sort();
    assert_eq!(files, ["LOCK", "MANIFEST"]);
}

#[test]
fn it_rolls_over_many_segments() {
    let disk = SimulatedDisk::new();
    let options = CommitLog::options().segment_size(4 << 20);
    let log = options.open_simulated(&disk).unwrap();
    let body = |n: u32| vec![n as u8; 1000 + n as usize % 3000];
    let positions: Vec<_> = (0..10_000).map(|n| log.append(&body(n)).unwrap()).collect();
    assert!(positions.is_sorted());
    for (n, position) in positions.iter().enumerate() {
        assert_eq!(*log.read(*position).unwrap(), *body(n as u32));
    }
    assert!(log.stats().segments > 4);
    log.close().unwrap();
    let log = options.open_simulated(&disk).unwrap();
    assert!(log.recovery().is_clean());
    assert_eq!(log.recovery().recovered_segments, 0, "no scan of sealed data");
    assert!(entries(&log).iter().enumerate().all(|(n, entry)| *entry == body(n as u32)));
}

#[test]
fn a_large_entry_gets_a_segment_of_its_own() {
    let disk = SimulatedDisk::new();
    let options = CommitLog::options().segment_size(2 << 20).max_entry_size(8 << 20);
    let log = options.open_simulated(&disk).unwrap();
    let large = vec![7; 5 << 20];
    log.append(b"before").unwrap();
    let position = log.append(&large).unwrap();
    log.append(b"after").unwrap();
    let too_large = log.append(&vec![0; (8 << 20) + 1]);
    assert!(matches!(too_large, Err(AppendError::TooLarge { len: 8_388_609, max: 8_388_608 })));
    assert_eq!(*log.read(position).unwrap(), *large);
    log.close().unwrap();
    let log = options.open_simulated(&disk).unwrap();
    let all: [&[u8]; 3] = [b"before", &large, b"after"];
    assert_eq!(entries(&log), all);
}

#[test]
fn a_wrong_position_is_a_clear_error() {
    let log = CommitLog::in_memory();
    let first = log.append(b"a user's bytes").unwrap();
    let at = |offset| LogPosition::from_u64(first.as_u64() + offset);
    assert!(matches!(log.read(at(8)), Err(ReadError::NotAnEntry { .. })));
    assert!(matches!(log.read(at(1)), Err(ReadError::NotAnEntry { .. })));
    assert!(matches!(log.read(log.tail()), Err(ReadError::PastEnd { .. })));
    assert!(matches!(log.read(LogPosition::from_u64(0)), Err(ReadError::Truncated { .. })));
    assert!(matches!(log.read(LogPosition::from_u64(u64::MAX)), Err(ReadError::PastEnd { .. })));
    let mut reader = log.reader_from(at(8));
    assert!(matches!(reader.next_entry(), Err(ReadError::NotAnEntry { .. })));
}

#[test]
fn a_panic_in_append_with_leaves_a_void() {
    let log = CommitLog::in_memory();
    log.append(b"before").unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = log.append_with(100, |bytes| {
            bytes.fill(1);
            panic!("on purpose");
        });
    }));
    assert!(panicked.is_err());
    log.append(b"after").unwrap();
    assert_eq!(entries(&log), [b"before".to_vec(), b"after".to_vec()]);
    assert_eq!(log.stats().voids, 1);
    assert_eq!(log.committed(), log.tail());
}

#[test]
fn a_sync_inside_append_with_is_refused_and_not_waited_for() {
    let log = CommitLog::in_memory();
    log.append_with(1, |_| assert!(log.sync().is_err())).unwrap();
    log.sync().unwrap();
}

#[test]
fn a_reader_waits_for_the_next_entry() {
    let log = CommitLog::in_memory();
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| {
            let mut reader = log.reader();
            let mut seen = 0u32;
            while seen < 10_000 {
                let entry = reader.wait_entry(HANG).unwrap().expect("an entry");
                assert_eq!(*entry, seen.to_le_bytes());
                seen += 1;
            }
        });
        for n in 0..10_000u32 {
            log.append(&n.to_le_bytes()).unwrap();
            if n % 1000 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        follower.join().unwrap();
    });
    let mut reader = log.reader_from(log.tail());
    assert!(reader.wait_entry(Duration::from_millis(10)).unwrap().is_none());
}

#[test]
fn durable_moves_with_sync_and_wait_durable() {
    let dir = tempfile::tempdir().unwrap();
    let options = CommitLog::options().durability(Durability::Synced);
    let log = options.open(dir.path().join("log")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let log = &log;
            scope.spawn(move || {
                for _ in 0..50 {
                    let position = log.append(&[thread; 10]).unwrap();
                    assert!(log.durable() > position);
                }
            });
        }
    });
    let before = log.stats().sync_latency.count;
    log.sync().unwrap();
    assert_eq!(log.stats().sync_latency.count, before, "nothing is left to sync");
    log.wait_durable(log.tail()).unwrap();
    assert_eq!(entries(&log).len(), 400);
}

#[test]
fn an_async_caller_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let log = CommitLog::open(dir.path().join("log")).unwrap();
    let position = log.append(b"x").unwrap();
    block_on(log.wait_durable_async(position)).unwrap();
    assert!(log.durable() > position);
}

#[test]
fn truncation_drops_whole_segments_under_a_running_reader() {
    let disk = SimulatedDisk::new();
    let options = log_by_hand();
    let log = options.open_simulated(&disk).unwrap();
    let positions: Vec<_> = (0..200).map(|n| log.append(&vec![n; 100_000]).unwrap()).collect();
    let held = log.read(positions[0]).unwrap();
    let mut reader = log.reader();
    assert_eq!(*reader.next_entry().unwrap().unwrap(), [0; 100_000]);
    let begin = log.truncate_before(positions[150]).unwrap();
    assert!(begin <= positions[150] && begin > positions[100]);
    assert_eq!(log.begin(), begin);
    assert!(matches!(log.read(positions[0]), Err(ReadError::Truncated { .. })));
    assert_eq!(*held, [0; 100_000], "what is held stays");
    // Other tests' threads are in the same epochs, for moments.
    until("it holds up its segment alone", || {
        log.maintain().unwrap();
        log.stats().segments_waiting_for_readers == 1
    });
    assert_eq!(*reader.next_entry().unwrap().unwrap(), [1; 100_000]);
    let error = loop {
        match reader.next_entry() {
            Ok(entry) => assert!(entry.is_some()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::Truncated { .. }), "{error}");
    drop((held, reader));
    until("nothing is held up", || {
        log.maintain().unwrap();
        log.stats().segments_waiting_for_readers == 0
    });
    let beyond = log.truncate_before(LogPosition::from_u64(u64::MAX));
    assert!(matches!(beyond, Err(TruncateError::PastEnd { .. })));
    log.close().unwrap();
    let log = options.open_simulated(&disk).unwrap();
    assert_eq!(log.begin(), begin);
    assert_eq!(*log.read(positions[199]).unwrap(), [199; 100_000]);
}

#[test]
fn a_second_writer_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = CommitLog::open(dir.path().join("log")).unwrap();
    let second = CommitLog::open(dir.path().join("log"));
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    drop(log);
    CommitLog::open(dir.path().join("log")).unwrap();
}

#[test]
fn a_reader_in_read_only_mode_follows_a_live_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = CommitLog::options().segment_size(2 << 20).open(&path).unwrap();
    let follower = CommitLog::options().open_read_only(&path).unwrap();
    assert!(matches!(follower.append(b"x"), Err(AppendError::ReadOnly)));
    let mut reader = follower.reader();
    for n in 0..100u8 {
        log.append(&vec![n; 100_000]).unwrap();
        let entry = reader.wait_entry(HANG).unwrap().expect("an entry");
        assert_eq!(*entry, *vec![n; 100_000]);
    }
    log.close().unwrap();
    let log = CommitLog::open(&path).unwrap();
    log.append(b"after a reopen").unwrap();
    let entry = reader.wait_entry(HANG).unwrap().expect("an entry");
    assert_eq!(*entry, *b"after a reopen");
}

#[test]
fn threads_append_and_everything_is_there_once() {
    let disk = SimulatedDisk::new();
    let log = CommitLog::options().segment_size(2 << 20).open_simulated(&disk).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let log = &log;
            scope.spawn(move || {
                let mut batch = log.batch_writer(1000);
                for n in 0..20_000u32 {
                    let mut body = [0; 100];
                    body[..4].copy_from_slice(&thread.to_le_bytes());
                    body[4..8].copy_from_slice(&n.to_le_bytes());
                    if n % 2 == 0 {
                        batch.flush().unwrap();
                        log.append(&body).unwrap();
                    } else {
                        batch.push(&body).unwrap();
                    }
                }
            });
        }
    });
    log.close().unwrap();
    let log = CommitLog::options().open_simulated(&disk).unwrap();
    let mut next = [0u32; 4];
    for entry in entries(&log) {
        let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        assert_eq!(word(4), next[word(0) as usize], "in the order of its thread");
        next[word(0) as usize] += 1;
    }
    assert_eq!(next, [20_000; 4]);
    assert_eq!(log.verify().unwrap().entries, 80_000);
}

#[test]
#[cfg(target_os = "linux")]
fn a_log_that_is_dropped_leaves_no_map_and_no_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = CommitLog::options().segment_size(2 << 20).open(&path).unwrap();
    let append = |_, _| log.append(&[1; 200_000]).unwrap();
    let last = (0..100).fold(log.begin(), append);
    log.sync().unwrap();
    log.truncate_before(last).unwrap();
    drop(log);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(path.to_str().unwrap()), "{maps}");
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    assert_eq!(open.filter(|target| target.starts_with(&path)).count(), 0);
}

#[test]
fn statistics_hold_figures_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let log = CommitLog::options().durability(Durability::Synced).open(dir.path().join("log"));
    let log = log.unwrap();
    for _ in 0..3 {
        log.append(b"x").unwrap();
    }
    let stats = log.stats();
    assert_eq!((stats.entries, stats.sync_latency.count), (3, 3));
    assert_eq!((stats.group_sizes.p50, stats.group_sizes.max), (1, 1));
    assert!(stats.sync_latency.max > 100, "no sync takes {} ns", stats.sync_latency.max);
}

/// An entry that needs a segment of its own ends the one before it early.
#[test]
fn a_segment_that_ends_early_gives_its_space_back() {
    let disk = SimulatedDisk::new();
    let released = Arc::new(AtomicU64::new(0));
    let count = released.clone();
    disk.on_operation(move |_, operation, name| {
        let is_it = operation == DiskOperation::Release && name == segment(1);
        count.fetch_add(is_it.into(), Ordering::Relaxed);
        Ok(())
    });
    let log = small_log(256 << 10).open_simulated(&disk).unwrap();
    log.append(b"small").unwrap();
    log.append(&[1; 300 << 10]).unwrap();
    log.maintain().unwrap();
    assert_eq!((log.stats().segments_sealed, released.load(Ordering::Relaxed)), (1, 1));
}

/// However it came about that a segment ends early, nothing was abandoned.
#[test]
fn a_large_segment_that_ends_early_counts_no_void() {
    let options = Store::options().maintenance(Maintenance::Manual);
    let options = options.segment_size(260 << 20).initial_segment_size(260 << 20);
    let store = options.open_simulated(&SimulatedDisk::new()).unwrap();
    store.put("key", "value").unwrap();
    let before = store.log().stats();
    store.roll().unwrap();
    let after = store.log().stats();
    assert_eq!((after.voids, after.rolls), (before.voids, before.rolls + 1));
}

/// Whoever subtracts one from another gets no number below zero.
#[test]
fn positions_in_statistics_are_in_order() {
    let log = small_log(64 << 10).open_simulated(&SimulatedDisk::new()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _finish = Finish(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                log.append(b"entry").unwrap();
                log.sync().unwrap();
            }
        });
        for _ in 0..10_000 {
            let stats = log.stats();
            let positions = [stats.begin, stats.durable, stats.committed, stats.tail];
            assert!(positions.is_sorted(), "{positions:?}");
        }
    });
}

#[test]
fn another_log_may_be_synced_and_closed_inside_append_with() {
    let (a, b) = (CommitLog::in_memory(), CommitLog::in_memory());
    let (disk, third) = (SimulatedDisk::new(), CommitLog::in_memory());
    let closed = CommitLog::options().open_simulated(&disk).unwrap();
    closed.append(b"x").unwrap();
    a.append_with(1, |_| {
        let position = b.append(b"y").unwrap();
        b.sync().unwrap();
        b.wait_durable(position).unwrap();
        drop(closed);
        b.append_with(1, |_| {
            assert!(matches!(a.sync(), Err(SyncError::InsideAppend)), "the outer one");
            assert!(matches!(b.sync(), Err(SyncError::InsideAppend)), "the inner one");
            third.sync().unwrap();
        })
        .unwrap();
        b.sync().unwrap();
        assert!(matches!(a.sync(), Err(SyncError::InsideAppend)));
    })
    .unwrap();
    a.sync().unwrap();
    // Dropped inside the closure, it was synced and sealed as anywhere.
    let image = disk.power_loss(|_, _| false);
    let closed = CommitLog::options().open_simulated(&image).unwrap();
    assert!(closed.recovery().is_clean(), "{}", closed.recovery());
    assert_eq!(entries(&closed), [b"x"]);
}

#[test]
fn a_task_inside_append_with_is_refused_and_not_waited_for() {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};
    let log = CommitLog::in_memory();
    log.append_with(1, |_| {
        let task = std::pin::pin!(log.wait_durable_async(log.tail()));
        let polled = task.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Err(SyncError::InsideAppend))), "{polled:?}");
    })
    .unwrap();
}

#[test]
fn a_batch_writer_flushes_empty_entries_too() {
    let log = CommitLog::in_memory();
    let mut batch = log.batch_writer(1000);
    for n in 0..10_000 {
        batch.push(b"").unwrap();
        assert!(batch.len() < 1000 / 16 + 1, "{} gathered after {n}", batch.len());
    }
    batch.flush().unwrap();
    assert_eq!(log.stats().entries, 10_000);
}

/// What is refused is tried again, and what is in the log is not.
#[test]
fn a_batch_writer_keeps_what_is_not_in_the_log() {
    let disk = SimulatedDisk::new();
    let log = small_log(4096).durability(Durability::Synced).open_simulated(&disk).unwrap();
    let mut batch = log.batch_writer(1000);
    batch.push(&[1; 500]).unwrap();
    batch.clear();
    batch.push(&[2; 500]).unwrap();
    assert_eq!(batch.len(), 1, "what is forgotten does not count");
    disk.set_space(Some(0));
    let refused = batch.push(&[3; 5000]);
    assert!(matches!(refused, Err(AppendError::NoSpace { .. })), "{refused:?}");
    assert_eq!(batch.len(), 2);
    disk.set_space(None);
    batch.flush().unwrap();
    assert_eq!((batch.len(), entries(&log).len()), (0, 2));
    batch.push(&[4; 500]).unwrap();
    disk.fail_sync_after(0);
    let unsynced = batch.flush();
    assert!(matches!(unsynced, Err(AppendError::Sync { position: Some(_), .. })), "{unsynced:?}");
    assert_eq!((batch.len(), entries(&log).len()), (0, 3));
}

#[test]
fn a_reader_finds_no_damage_where_a_segment_is_just_being_sealed() {
    let log = small_log(4096).open_simulated(&SimulatedDisk::new()).unwrap();
    let done = AtomicBool::new(false);
    let last = AtomicU64::new(log.append(&[1; 2500]).unwrap().as_u64());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = 0;
                let mut end = LogPosition::START;
                while !done.load(Ordering::Relaxed) {
                    let now = last.load(Ordering::Relaxed);
                    if now != seen {
                        let mut reader = log.reader_from(LogPosition::from_u64(now));
                        reader.next_entry().expect("no damage").expect("the entry");
                        (seen, end) = (now, reader.position());
                    }
                    // Here a pad comes to be, and then the seal puts the segment's end before it.
                    log.reader_from(end).next_entry().expect("no damage");
                }
            });
        }
        let finish = Finish(&done);
        for n in 0..10_000 {
            // One fits in a segment, so each is behind the pad of the one before.
            let position = log.append(&vec![1; 2500 + n % 100]).unwrap();
            log.maintain().unwrap();
            last.store(position.as_u64(), Ordering::Relaxed);
        }
        drop(finish);
    });
}

#[test]
fn the_id_of_a_segment_that_was_never_used_is_not_used_again() {
    let disk = SimulatedDisk::new();
    let options = log_by_hand();
    let log = options.open_simulated(&disk).unwrap();
    let first = log.append(b"x").unwrap();
    log.maintain().unwrap();
    let seen: Vec<_> = disk.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(seen.len(), 2, "the active one and its standby, which others may have mapped");
    // The standby makes way for a large entry, for which there is no room.
    disk.set_space(Some(disk.files().iter().map(|(_, len)| *len as u64).sum()));
    let large = log.append(&vec![1; 5 << 20]);
    assert!(matches!(large, Err(AppendError::NoSpace { .. })), "{large:?}");
    log.abort();
    let image = disk.process_death();
    let log = options.open_simulated(&image).unwrap();
    let position = log.append(b"y").unwrap();
    assert!(position.segment() > first.segment() + 1, "{position} is in a segment that was");
}

#[test]
fn a_truncation_that_fails_changes_nothing() {
    let disk = SimulatedDisk::new();
    let options = log_by_hand();
    let log = options.open_simulated(&disk).unwrap();
    let positions: Vec<_> = (0..50).map(|n| log.append(&vec![n; 100_000]).unwrap()).collect();
    log.sync().unwrap();
    disk.fail_after(0);
    assert!(matches!(log.truncate_before(positions[40]), Err(TruncateError::Io { .. })));
    assert_eq!(log.begin().segment(), positions[0].segment());
    disk.fail_after(u64::MAX);
    log.close().unwrap();
    let log = options.open_simulated(&disk).unwrap();
    assert_eq!(entries(&log).len(), 50);
    assert_eq!(*log.read(positions[0]).unwrap(), [0; 100_000]);
}

#[test]
fn what_is_behind_a_slow_append_is_read_in_any_order() {
    let log = CommitLog::options().segment_size(4 << 20).open_simulated(&SimulatedDisk::new());
    let log = log.unwrap();
    log.append_with(8, |_| {
        let mut positions = Vec::new();
        for n in 0..30_000u32 {
            if n % 10 == 0 {
                let (a, b) = (n.to_le_bytes(), vec![7; n as usize % 999]);
                let batch = log.append_batch(&[&a, &b]).unwrap();
                positions.push((batch[0], a.to_vec()));
                positions.push((batch[1], b));
            } else {
                let body = vec![n as u8; n as usize % 200];
                positions.push((log.append(&body).unwrap(), body));
            }
        }
        let len = positions.len();
        assert!(positions[len - 1].0.segment() > positions[0].0.segment());
        for n in (0..len).map(|n| n * 7919 % len).chain((0..len).rev()) {
            let (position, body) = &positions[n];
            assert_eq!(*log.read(*position).unwrap(), **body);
            let inside = LogPosition::from_u64(position.as_u64() + 8);
            assert!(matches!(log.read(inside), Err(ReadError::NotAnEntry { .. })), "{inside}");
        }
    })
    .unwrap();
}
