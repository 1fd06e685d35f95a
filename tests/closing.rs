//! Handles are clones of each other, and any of them closes the log or the store for all.

mod common;

use common::tasks::{block_on, spawn_task};
use common::{HANG, log_by_hand, small_log, small_store, until, within};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::Duration;
use tailcask::{
    AppendError, BackupError, Batch, CommitLog, Durability, LogPosition, Maintenance, MergeError,
    MergePolicy, OpenError, ReadError, SimulatedDisk, Store, SyncError, TruncateError, WriteError,
};

/// A log of a few segments on a disk in memory.
fn log() -> (CommitLog, SimulatedDisk, Vec<LogPosition>) {
    let disk = SimulatedDisk::new();
    let log = small_log(8192).open_simulated(&disk).unwrap();
    let positions = (0..100u8).map(|n| log.append(&[n; 300]).unwrap()).collect();
    (log, disk, positions)
}

fn store() -> (Store, SimulatedDisk) {
    let disk = SimulatedDisk::new();
    let store = small_store(8192).open_simulated(&disk).unwrap();
    (0..100u8).for_each(|n| _ = store.put([n], [n; 300]).unwrap());
    (store, disk)
}

#[test]
fn every_call_on_a_closed_log_says_so() {
    let (log, _disk, positions) = log();
    let mut begun = log.batch_writer(1 << 20);
    begun.push(b"gathered").unwrap();
    let (begin, tail, stats) = (log.begin(), log.tail(), log.stats());
    let checkpoint = log.reader_from(positions[50]).checkpoint();
    let other = log.clone();
    other.close().unwrap();
    assert!(matches!(log.append(b"x"), Err(AppendError::Closed)));
    assert!(matches!(log.append(&[0; 1 << 20]), Err(AppendError::Closed)), "oversize");
    assert!(matches!(log.append_vectored(&[b"x", b"y"]), Err(AppendError::Closed)));
    assert!(matches!(log.append_with(1, |_| panic!("no room")), Err(AppendError::Closed)));
    assert!(matches!(log.append_batch(&[b"x"]), Err(AppendError::Closed)));
    assert!(matches!(begun.flush(), Err(AppendError::Closed)));
    assert_eq!(begun.len(), 1, "it is kept");
    assert!(matches!(log.batch_writer(0).push(b"x"), Err(AppendError::Closed)));
    for position in [positions[0], positions[99], tail, LogPosition::START] {
        assert!(matches!(log.read(position), Err(ReadError::Closed)));
        assert!(matches!(log.reader_from(position).next_entry(), Err(ReadError::Closed)));
    }
    assert!(matches!(log.reader().wait_entry(HANG), Err(ReadError::Closed)));
    let frames: Vec<_> = log.frames(LogPosition::START).collect();
    assert!(matches!(frames[..], [Err(ReadError::Closed)]));
    assert!(matches!(log.verify(), Err(ReadError::Closed)));
    assert!(matches!(log.sync(), Err(SyncError::Closed)));
    assert!(matches!(log.truncate_before(tail), Err(TruncateError::Closed)));
    let retention = tailcask::Retention::new().bytes(1);
    assert!(matches!(log.retain(retention), Err(TruncateError::Closed)));
    assert!(matches!(log.retained_from(retention), Err(TruncateError::Closed)));
    assert_eq!(log.position_at(std::time::SystemTime::now()), begin);
    let again = log.reader_from_checkpoint(&checkpoint);
    assert!(matches!(again, Err(tailcask::CheckpointError::Read(ReadError::Closed))));
    assert!(matches!(log.maintain(), Err(AppendError::Closed)));
    // All of it is durable.
    log.wait_durable(positions[99]).unwrap();
    block_on(log.wait_durable_async(positions[99])).unwrap();
    log.close().unwrap();
    // Figures are those at the end.
    assert_eq!((log.begin(), log.tail(), log.committed()), (begin, tail, tail));
    assert!(log.durable() >= tail);
    let last = log.stats();
    assert_eq!((last.entries, last.begin, last.tail), (stats.entries, begin, tail));
    assert!(last.segments > 3 && last.disk_bytes > 0);
    assert_eq!((log.id(), log.recovery().entries), (other.id(), 0));
    assert!(format!("{log:?}").contains("CommitLog"));
}

#[test]
fn every_call_on_a_closed_store_says_so() {
    let (store, _disk) = store();
    let dir = tempfile::tempdir().unwrap();
    store.clone().close().unwrap();
    // A key that is there, and one that is not.
    for key in [&[1][..], b"absent"] {
        assert!(matches!(store.put(key, "x"), Err(WriteError::Closed)));
        assert!(matches!(store.put(key, vec![0; 1 << 20]), Err(WriteError::Closed)), "oversize");
        assert!(matches!(store.delete(key), Err(WriteError::Closed)));
        assert!(matches!(store.delete_damaged(key), Err(WriteError::Closed)));
        assert!(matches!(store.put_if_absent(key, "x"), Err(WriteError::Closed)));
        for expected in [None, Some(&[1; 300][..]), Some(b"other")] {
            for new in [None, Some(&b"new"[..])] {
                let swapped = store.compare_and_swap(key, expected, new);
                assert!(matches!(swapped, Err(WriteError::Closed)), "{swapped:?}");
            }
        }
        assert!(matches!(store.update(key, |_| None), Err(WriteError::Closed)));
        let (mut put, mut delete) = (Batch::new(), Batch::new());
        put.put(key, "x");
        delete.delete(key);
        assert!(matches!(store.write(&put), Err(WriteError::Closed)));
        assert!(matches!(store.write(&delete), Err(WriteError::Closed)));
        assert!(matches!(store.get(key), Err(ReadError::Closed)));
        assert!(matches!(store.get_with(key, |_| ()), Err(ReadError::Closed)));
        assert!(matches!(store.contains_key(key), Err(ReadError::Closed)));
        assert!(matches!(store.value_len(key), Err(ReadError::Closed)));
        for count in [1, 100] {
            let keys = vec![key; count];
            assert!(matches!(store.get_many(&keys), Err(ReadError::Closed)));
            assert!(matches!(store.get_many_with(&keys, |_, _| ()), Err(ReadError::Closed)));
        }
    }
    assert!(matches!(store.write(&Batch::new()), Err(WriteError::Closed)));
    let (pairs, keys): (Vec<_>, Vec<_>) = (store.iter().collect(), store.keys().collect());
    assert!(matches!(pairs[..], [Err(ReadError::Closed)]));
    assert!(matches!(keys[..], [Err(ReadError::Closed)]));
    for part in store.iter_parts(2) {
        assert!(matches!(part.collect::<Vec<_>>()[..], [Err(ReadError::Closed)]));
    }
    assert!(matches!(store.sync(), Err(SyncError::Closed)));
    assert!(matches!(store.merge(), Err(MergeError::Closing)));
    assert!(matches!(store.maintain(), Err(MergeError::Closing)));
    assert!(matches!(store.roll(), Err(MergeError::Closing)));
    assert!(matches!(store.backup(dir.path().join("backup")), Err(BackupError::Closed)));
    assert!(matches!(store.verify(), Err(ReadError::Closed)));
    assert!(matches!(store.log().append(b"x"), Err(AppendError::Closed)));
    store.close().unwrap();
    store.log().close().unwrap();
    // Figures are those at the end.
    store.set_cache_budget(1);
    assert!(!store.needs_merge());
    assert!(store.keydir_memory() > 0);
    assert_eq!((store.len(), store.is_empty(), store.recovery().entries), (100, false, 0));
    let after = store.stats();
    // Each with 16 bytes of header, 8 of a key and 304 of a value.
    assert_eq!((after.keys, after.live_bytes), (100, 100 * 328));
    assert!(after.segments.len() > 3 && after.log.segments > 3);
}

#[test]
fn a_read_only_log_is_closed_for_all_of_its_handles() {
    let dir = tempfile::tempdir().unwrap();
    let log = log_by_hand().open(dir.path().join("log")).unwrap();
    let position = log.append(b"entry").unwrap();
    let follower = CommitLog::open_read_only(dir.path().join("log")).unwrap();
    let mut waiting = follower.reader_from(position);
    assert_eq!(&*waiting.next_entry().unwrap().unwrap(), b"entry");
    thread::scope(|scope| {
        let waiter = scope.spawn(move || waiting.wait_entry(HANG).map(|_| ()));
        follower.clone().close().unwrap();
        assert!(matches!(waiter.join().unwrap(), Err(ReadError::Closed)));
    });
    assert!(matches!(follower.read(position), Err(ReadError::Closed)));
    assert!(matches!(follower.reader().next_entry(), Err(ReadError::Closed)));
    assert!(matches!(follower.append(b"x"), Err(AppendError::ReadOnly)));
    assert_eq!((follower.begin(), follower.stats().segments > 0), (log.begin(), true));
    log.append(b"the writer goes on").unwrap();
}

/// What was handed out is valid to its end, whatever another writer does with the files meanwhile.
#[test]
fn what_was_read_outlives_the_close() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = small_store(8192).open(&path).unwrap();
    for n in 0..100u8 {
        store.put([n], [n; 300]).unwrap();
    }
    let entry_at = store.log().append(b"an entry").unwrap();
    let entry = store.log().read(entry_at).unwrap();
    let values: Vec<_> = (0..100u8).map(|n| store.get([n]).unwrap().unwrap()).collect();
    let many = store.get_many(&[[1], [2]]).unwrap();
    let pair = store.iter().next().unwrap().unwrap();
    let bytes = store.get([7]).unwrap().unwrap().into_bytes();
    store.close().unwrap();

    // Another writer overwrites, merges and unlinks all of it.
    let other = small_store(8192).open(&path).unwrap();
    for n in 0..100u8 {
        other.put([n], [!n; 300]).unwrap();
    }
    let merged = other.merge().unwrap();
    assert!(merged.inputs > 3);
    other.close().unwrap();

    for (n, value) in values.into_iter().enumerate() {
        assert_eq!(&*value, [n as u8; 300]);
        let position = value.position();
        assert_eq!(value.into_bytes(), vec![n as u8; 300], "{position}");
    }
    assert!(
        many.iter().enumerate().all(|(n, value)| value.as_deref() == Some(&[n as u8 + 1; 300]))
    );
    assert_eq!(pair.value(), [pair.key()[0]; 300]);
    assert_eq!((&*entry, &*bytes), (&b"an entry"[..], &[7; 300][..]));
    drop((many, pair, entry));
    drop(store);
    assert_eq!(&*bytes, [7; 300]);
}

/// An iteration that is closed in the middle has an error for an end, and yields no wrong value.
#[test]
fn an_iteration_under_way_does_not_end_as_if_it_were_complete() {
    for taken in 0..100 {
        let (store, _disk) = store();
        let mut pairs = store.iter();
        let mut seen: Vec<u8> =
            pairs.by_ref().take(taken).map(|pair| pair.unwrap().key()[0]).collect();
        store.close().unwrap();
        let mut closed = 0;
        for pair in pairs {
            match pair {
                Ok(pair) => {
                    assert_eq!(pair.value(), [pair.key()[0]; 300]);
                    seen.push(pair.key()[0]);
                }
                Err(ReadError::Closed) => closed += 1,
                Err(other) => panic!("{other}"),
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert!(closed == 1 || seen.len() == 100, "{closed}, {}", seen.len());
    }
    let (store, _disk) = store();
    let mut parts = store.iter_parts(3);
    assert!(parts[1].next().unwrap().is_ok());
    store.close().unwrap();
    let ends: Vec<_> = parts.into_iter().map(|part| part.last().unwrap()).collect();
    assert!(ends.iter().all(|end| matches!(end, Err(ReadError::Closed))));
}

#[test]
fn a_reader_reads_its_segment_and_then_hears_of_the_close() {
    let (log, _disk, positions) = log();
    let mut reader = log.reader();
    assert_eq!(reader.next_entry().unwrap().unwrap().position(), positions[0]);
    let mut at_the_end = log.reader_from(positions[99]);
    assert!(at_the_end.next_entry().unwrap().is_some());
    assert!(at_the_end.next_entry().unwrap().is_none());
    log.append(b"one more").unwrap();
    log.close().unwrap();
    assert_eq!(&*at_the_end.next_entry().unwrap().unwrap(), b"one more");
    assert!(matches!(at_the_end.next_entry(), Err(ReadError::Closed)));
    let mut read = 1;
    let end = loop {
        match reader.next_entry() {
            Ok(Some(entry)) => {
                assert_eq!(entry.position(), positions[read]);
                read += 1;
            }
            other => break other.map(|_| ()),
        }
    };
    assert!(matches!(end, Err(ReadError::Closed)) && (2..100).contains(&read), "{read}");
    assert_eq!(reader.position().segment(), positions[read - 1].segment());
}

#[test]
fn those_who_wait_are_woken() {
    let (log, _disk, positions) = log();
    let tail = log.tail();
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let log = log.clone();
            thread::spawn(move || {
                let mut reader = log.reader_from(tail);
                reader.wait_entry(Duration::MAX).map(|_| ())
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(5));
    log.close().unwrap();
    for waiter in waiters {
        assert!(matches!(within(move || waiter.join().unwrap()), Err(ReadError::Closed)));
    }
    log.wait_durable(positions[3]).unwrap();

    // Those who wait for a sync get it from the close.
    let disk = SimulatedDisk::new();
    let options = CommitLog::options().segment_size(4096).segment_unit(4096);
    let log = options.open_simulated(&disk).unwrap();
    let position = log.append(b"entry").unwrap();
    let task = spawn_task({
        let log = log.clone();
        async move { log.wait_durable_async(position).await }
    });
    log.close().unwrap();
    task.recv_timeout(HANG).unwrap().unwrap();
}

/// Closing waits for what has begun: the append is in the log, and durable.
#[test]
fn an_append_that_has_begun_is_finished() {
    let (log, disk, _) = log();
    let (filling, is_filling) = mpsc::channel();
    let (go_on, is_to_go_on) = mpsc::channel::<()>();
    let appending = thread::spawn({
        let log = log.clone();
        move || {
            log.append_with(8, |bytes| {
                filling.send(()).unwrap();
                is_to_go_on.recv().unwrap();
                bytes.fill(7);
            })
        }
    });
    is_filling.recv().unwrap();
    let closing = thread::spawn({
        let log = log.clone();
        move || log.close()
    });
    // From some moment on appends are refused, while that one is still unfinished.
    until("appends are refused", || matches!(log.append(b"x"), Err(AppendError::Closed)));
    assert!(!closing.is_finished());
    go_on.send(()).unwrap();
    let position = appending.join().unwrap().unwrap();
    closing.join().unwrap().unwrap();
    let again = small_log(8192).open_simulated(&disk).unwrap();
    assert_eq!(&*again.read(position).unwrap(), &[7; 8]);
    assert!(again.recovery().is_clean(), "{:?}", again.recovery());
}

#[test]
fn closing_inside_of_an_append_is_refused_and_does_nothing() {
    let (log, _disk, _) = log();
    let refused = log.clone();
    let closed = |_: &mut [u8]| assert!(matches!(refused.close(), Err(SyncError::InsideAppend)));
    log.append_with(8, closed).unwrap();
    log.append(b"it goes on").unwrap();
    log.close().unwrap();
}

/// Whoever closes gets the result, and only after it is closed: another may open it at once.
#[test]
fn many_close_at_once() {
    for _ in 0..20 {
        let (store, disk) = store();
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..4 {
                let (store, disk, barrier) = (store.clone(), &disk, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    store.close().unwrap();
                    match small_store(8192).open_simulated(disk) {
                        Ok(again) => assert_eq!(again.len(), 100),
                        // Another thread has it now.
                        Err(OpenError::Locked { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                });
            }
        });
        assert_eq!(small_store(8192).open_simulated(&disk).unwrap().len(), 100);
    }
}

#[test]
fn a_failed_close_closes_and_says_so_each_time() {
    let (log, disk, _) = log();
    disk.fail_after(0);
    let errors = [log.clone().close(), log.close()];
    assert!(
        errors.iter().all(|error| matches!(error, Err(SyncError::Failed { .. }))),
        "{errors:?}"
    );
    assert!(matches!(log.read(LogPosition::START), Err(ReadError::Closed)));
    assert!(log.append(b"x").is_err());
    let retained = log.retain(tailcask::Retention::new().bytes(1));
    assert!(matches!(retained, Err(TruncateError::Closed)), "{retained:?}");
}

/// Writers, readers, merges and backups run into a close: each ends with a value or with `Closed`, and
/// what was acknowledged is there afterwards.
#[test]
fn a_store_is_closed_under_everyone() {
    for round in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let options = Store::options().segment_size(64 << 10).segment_unit(4096);
        let store = options.open(&path).unwrap();
        let (end, begun) = (AtomicBool::new(false), Barrier::new(7));
        let acknowledged = thread::scope(|scope| {
            let writers: Vec<_> = (0..2u8)
                .map(|writer| {
                    let (store, begun) = (store.clone(), &begun);
                    scope.spawn(move || {
                        begun.wait();
                        for n in 0..u32::MAX {
                            let key = [&[writer][..], &(n % 500).to_le_bytes()].concat();
                            let mut batch = Batch::new();
                            batch.put(&key, n.to_le_bytes());
                            let put = match n % 3 {
                                0 => store.write(&batch).map(drop),
                                1 => store.update(&key, |_| Some(n.to_le_bytes().into())).map(drop),
                                _ => store.put(&key, n.to_le_bytes()).map(drop),
                            };
                            match put {
                                Ok(()) => {}
                                Err(WriteError::Closed) => return n,
                                Err(other) => panic!("{other}"),
                            }
                        }
                        unreachable!("it is closed at some time")
                    })
                })
                .collect();
            scope.spawn(|| {
                begun.wait();
                loop {
                    match store.merge() {
                        Ok(_) => {}
                        Err(MergeError::Closing | MergeError::Append(AppendError::Closed)) => break,
                        Err(MergeError::Sync(SyncError::Closed)) => break,
                        Err(other) => panic!("{other}"),
                    }
                }
            });
            scope.spawn(|| {
                begun.wait();
                for n in 0.. {
                    match store.backup(dir.path().join(format!("backup{n}"))) {
                        Ok(_) => {}
                        Err(
                            BackupError::Closed
                            | BackupError::Append(AppendError::Closed)
                            | BackupError::Sync(SyncError::Closed),
                        ) => break,
                        Err(other) => panic!("{other}"),
                    }
                }
            });
            scope.spawn(|| {
                begun.wait();
                while !end.load(Relaxed) {
                    for pair in &store {
                        match pair {
                            Ok(pair) => assert_eq!(pair.value().len(), 4),
                            Err(ReadError::Closed) => return,
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            });
            scope.spawn(|| {
                begun.wait();
                let mut reader = store.log().reader();
                loop {
                    match reader.wait_entry(HANG) {
                        Ok(_) => {}
                        Err(ReadError::Closed) => break,
                        Err(other) => panic!("{other}"),
                    }
                }
            });
            begun.wait();
            thread::sleep(Duration::from_millis(3 + round));
            store.close().unwrap();
            end.store(true, Relaxed);
            // The lock is free, while all handles and threads are still there.
            drop(options.open(&path).unwrap());
            writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        let again = options.open(&path).unwrap();
        assert!(again.recovery().is_clean());
        again.verify().unwrap();
        for (writer, &next) in acknowledged.iter().enumerate() {
            for n in next.saturating_sub(500)..next {
                let key = [&[writer as u8][..], &(n % 500).to_le_bytes()].concat();
                assert_eq!(&*again.get(key).unwrap().unwrap(), n.to_le_bytes());
            }
        }
    }
}

/// A merge that has a slow rate sleeps for most of its time.
#[test]
fn a_merge_that_sleeps_for_long_is_not_waited_for() {
    let disk = SimulatedDisk::new();
    let options = small_store(1 << 20);
    let store = options.open_simulated(&disk).unwrap();
    // More than is merged between two pauses, most of it dead.
    (0..500u16).for_each(|n| _ = store.put(n.to_le_bytes(), [1; 1000]).unwrap());
    store.roll().unwrap();
    let again = (0..500u16).filter(|n| n % 3 > 0);
    again.for_each(|n| _ = store.put(n.to_le_bytes(), [2; 1000]).unwrap());
    store.close().unwrap();
    let segments = |disk: &SimulatedDisk| {
        disk.files().iter().filter(|(name, _)| name.ends_with(".seg")).count()
    };
    let sealed = segments(&disk);
    // It sleeps for an hour after each piece.
    let policy = MergePolicy::new().min_dead_bytes(1000).rate_limit(1);
    let options = options.maintenance(Maintenance::Background).merge_policy(policy);
    let store = options.open_simulated(&disk).unwrap();
    // The active segment, the standby, and one more.
    until("the merge has an output", || segments(&disk) > sealed + 2);
    within(move || store.close()).unwrap();
    let store = small_store(1 << 20).open_simulated(&disk).unwrap();
    assert!(store.recovery().is_clean(), "{}", store.recovery());
    assert_eq!(store.stats().segments.iter().filter(|segment| segment.merged).count(), 0);
    for n in 0..500u16 {
        let expected = if n % 3 > 0 { 2 } else { 1 };
        assert_eq!(&*store.get(n.to_le_bytes()).unwrap().unwrap(), [expected; 1000]);
    }
}

#[test]
fn the_last_handle_closes_and_no_other() {
    let disk = SimulatedDisk::new();
    let store = small_store(8192).open_simulated(&disk).unwrap();
    let (other, log) = (store.clone(), store.log().clone());
    drop(store);
    other.put("key", "value").unwrap();
    drop(other);
    // A handle on the log keeps the store open.
    assert!(matches!(small_store(8192).open_simulated(&disk), Err(OpenError::Locked { .. })));
    log.append(b"entry").unwrap();
    drop(log);
    let store = small_store(8192).open_simulated(&disk).unwrap();
    assert!(store.recovery().is_clean());
    assert!(store.contains_key("key").unwrap());
}

#[test]
fn closing_the_log_of_a_store_closes_the_store() {
    let disk = SimulatedDisk::new();
    let store = Store::options().open_simulated(&disk).unwrap();
    store.put("key", "value").unwrap();
    store.log().clone().close().unwrap();
    assert!(matches!(store.get("key"), Err(ReadError::Closed)));
    let again = Store::options().open_simulated(&disk).unwrap();
    assert_eq!(again.recovery().hinted_segments, 1, "its last hint was written");
}

/// A task that is dropped by the log's own thread, when it wakes it, may have the last handle.
#[test]
fn the_last_handle_may_be_dropped_by_the_logs_own_thread() {
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Wake, Waker};
    struct Handle(Mutex<Option<CommitLog>>, mpsc::Sender<()>);
    impl Wake for Handle {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
            self.1.send(()).unwrap();
        }
    }
    let disk = SimulatedDisk::new();
    let log = CommitLog::options().segment_size(4096).segment_unit(4096);
    let log = log.durability(Durability::Buffered).maintenance(Maintenance::Background);
    let log = log.open_simulated(&disk).unwrap();
    let position = log.append(b"entry").unwrap();
    let (woken, is_woken) = mpsc::channel();
    let handle = Arc::new(Handle(Mutex::new(None), woken));
    let waker = Waker::from(handle.clone());
    let mut waiting = Box::pin({
        let log = log.clone();
        async move { log.wait_durable_async(position).await }
    });
    *handle.0.lock().unwrap() = Some(log);
    if waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        // Only the waker's handle is left, unless it was faster.
        is_woken.recv_timeout(HANG).unwrap();
    }
    drop(waiting);
    drop(handle);
    drop(waker);
    until("the lock is free", || {
        CommitLog::options().segment_unit(4096).open_simulated(&disk).is_ok()
    });
}

/// The same while that thread merges: closing waits for the merge, and so it is done behind it.
#[cfg(feature = "stream")]
#[test]
fn the_last_handle_may_be_dropped_by_the_thread_that_merges() {
    use futures_core::Stream;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Wake, Waker};
    use tailcask::{DiskOperation, EntryStream};
    struct Handles(Mutex<Option<(Store, EntryStream)>>);
    impl Wake for Handles {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let disk = SimulatedDisk::new();
    let (begins, has_begun) = mpsc::channel();
    let (goes_on, go_on) = mpsc::channel::<()>();
    let go_on = Mutex::new(go_on);
    disk.on_operation(move |_, operation, _| {
        let merges = thread::current().name() == Some("tailcask-merge");
        if merges && operation == DiskOperation::Create && begins.send(()).is_ok() {
            go_on.lock().unwrap().recv().ok();
        }
        Ok(())
    });
    let policy = MergePolicy::new().min_dead_bytes(1000);
    let options = small_store(8192).maintenance(Maintenance::Background).merge_policy(policy);
    let store = options.open_simulated(&disk).unwrap();
    for n in 0..200u32 {
        store.put([n as u8 % 20], [0; 300]).unwrap();
    }
    has_begun.recv_timeout(HANG).expect("a merge");
    drop(has_begun); // no other one waits
    // The merge syncs this, and leaves a mark, which wakes.
    store.put("unsynced", "value").unwrap();
    let mut stream = store.log().stream_from(store.log().tail());
    let handles = Arc::new(Handles(Mutex::new(None)));
    let waker = Waker::from(handles.clone());
    let pending = Pin::new(&mut stream).poll_next(&mut Context::from_waker(&waker)).is_pending();
    assert!(pending);
    *handles.0.lock().unwrap() = Some((store, stream));
    goes_on.send(()).unwrap();
    until("the lock is free", || small_store(8192).open_simulated(&disk).is_ok());
}
