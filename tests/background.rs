//! What becomes of a log whose background threads fail, of tasks that wait, and of odd periods.

mod common;

use common::tasks::spawn_task;
use common::{HANG, small_log, until};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;
use tailcask::{
    AppendError, CommitLog, Durability, FailPoint, MergeError, SimulatedDisk, Store, SyncError,
    WriteError,
};

fn is_background(result: Result<impl Sized, AppendError>) -> bool {
    matches!(
        result,
        Err(AppendError::Sync { position: None, source: SyncError::Background(_), .. })
    )
}

/// Until the failure is known, writes may still get in.
fn refuses_writes(log: &CommitLog) {
    until("a write is refused", || is_background(log.append(&[1; 100])));
    let failed = log.stats().failed_thread.expect("statistics tell");
    assert!(failed.to_string().contains("on purpose"), "{failed}");
    assert!(is_background(log.append_batch(&[b"x"]).map(|_| ())));
    assert!(is_background(log.append(&vec![1; 5 << 20])), "a segment of its own");
}

#[test]
fn a_panic_of_any_background_thread_is_told_and_loses_nothing() {
    for point in [FailPoint::Standby, FailPoint::Sync] {
        let disk = SimulatedDisk::new();
        let log = CommitLog::options().segment_size(2 << 20).open_simulated(&disk).unwrap();
        for n in 0..100u8 {
            log.append(&vec![n; 100_000]).unwrap();
        }
        let last = log.append(b"last").unwrap();
        log.fail_at(point);
        refuses_writes(&log);
        // Callers do what the thread did: they sync, seal, and unmap what they retire.
        assert_eq!(&*log.read(last).unwrap(), b"last");
        log.sync().unwrap();
        assert!(log.durable() > last);
        log.wait_durable(last).unwrap();
        let begin = log.truncate_before(last).unwrap();
        assert!(begin <= last);
        until("truncated segments are unmapped", || {
            log.truncate_before(last).unwrap();
            log.maintain().ok();
            log.stats().segments_waiting_for_readers == 0
        });
        log.close().unwrap();
        let log = CommitLog::options().open_simulated(&disk).unwrap();
        assert!(log.recovery().is_clean(), "{}", log.recovery());
        assert_eq!(&*log.read(last).unwrap(), b"last");
        log.append(b"goes on").unwrap();
    }
}

#[test]
fn a_panic_of_the_sync_thread_reaches_tasks_that_wait() {
    let disk = SimulatedDisk::new();
    let log = Arc::new(CommitLog::options().open_simulated(&disk).unwrap());
    // An append that is under way keeps the sync from ending.
    let (go, slow) = slow_append(&log);
    let position = log.append(b"x").unwrap();
    log.fail_at(FailPoint::Lead);
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let log = log.clone();
            spawn_task(async move { log.wait_durable_async(position).await })
        })
        .collect();
    for task in tasks {
        let result = task.recv_timeout(HANG).expect("the task is woken");
        assert!(
            matches!(result, Err(SyncError::Background(_) | SyncError::Failed { .. })),
            "{result:?}"
        );
    }
    go.send(()).unwrap();
    slow.join().unwrap();
    // After a panic during a sync it is unknown what of the log is durable.
    until("a write is refused", || log.append(&[1; 100]).is_err());
    assert!(log.stats().failed_thread.is_some());
    assert!(log.sync().is_err());
}

/// An append in progress until it is asked to end.
fn slow_append(log: &Arc<CommitLog>) -> (mpsc::Sender<()>, thread::JoinHandle<()>) {
    let (go, wait) = mpsc::channel();
    let (begun, began) = mpsc::channel();
    let log = log.clone();
    let thread = thread::spawn(move || {
        log.append_with(1, |_| {
            begun.send(()).unwrap();
            wait.recv().unwrap();
        })
        .unwrap();
    });
    began.recv().unwrap();
    (go, thread)
}

#[test]
fn a_task_that_waits_while_the_sync_thread_panics_is_woken() {
    let log = Arc::new(CommitLog::in_memory());
    let wait_for = |position| {
        let log = log.clone();
        spawn_task(async move { log.wait_durable_async(position).await })
    };
    let first = log.tail();
    let (go, slow) = slow_append(&log);
    let earlier = wait_for(first);
    // The thread is in a sync now, which waits for the first append.
    // It needs no more than this as a rule, and if it does the test is a weaker one.
    thread::sleep(Duration::from_millis(200));
    let second = log.tail();
    let (go_on, slower) = slow_append(&log);
    let later = wait_for(second);
    thread::sleep(Duration::from_millis(50));
    log.fail_at(FailPoint::Sync);
    go.send(()).unwrap();
    // On a slow machine the sync may wait for the second append, too, or may not have begun.
    if let Ok(earlier) = earlier.recv_timeout(Duration::from_secs(10)) {
        assert!(matches!(earlier, Ok(()) | Err(SyncError::Background(_))), "{earlier:?}");
        let later = later.recv_timeout(HANG).expect("the task is woken");
        assert!(matches!(later, Err(SyncError::Background(_))), "{later:?}");
    }
    go_on.send(()).unwrap();
    slow.join().unwrap();
    slower.join().unwrap();
    log.sync().unwrap();
}

#[test]
fn a_task_that_comes_after_the_panic_gets_the_error() {
    let log = Arc::new(CommitLog::in_memory());
    let position = log.append(b"x").unwrap();
    log.fail_at(FailPoint::Sync);
    until("it fails", || log.stats().failed_thread.is_some());
    let task = {
        let log = log.clone();
        spawn_task(async move { log.wait_durable_async(position).await })
    };
    let result = task.recv_timeout(HANG).expect("it does not wait");
    assert!(matches!(result, Err(SyncError::Background(_))), "{result:?}");
    // Who waits with a thread syncs with it.
    log.wait_durable(position).unwrap();
    let task = {
        let log = log.clone();
        spawn_task(async move { log.wait_durable_async(position).await })
    };
    task.recv_timeout(HANG).expect("it is durable").unwrap();
}

#[test]
fn a_panic_of_the_stores_thread_is_told_by_the_next_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("db")).unwrap();
    store.put("a", "1").unwrap();
    store.log().fail_at(FailPoint::Merge);
    until("a write is refused", || {
        matches!(
            store.put("b", "2"),
            Err(WriteError::Append(AppendError::Sync { source: SyncError::Background(_), .. }))
        )
    });
    assert!(store.delete("a").is_err());
    assert_eq!(store.stats().log.failed_thread.expect("told").thread, "tailcask-merge");
    assert_eq!(&*store.get("a").unwrap().unwrap(), b"1");
    assert!(matches!(store.merge(), Ok(_) | Err(MergeError::Append(_))));
    store.sync().unwrap();
    store.close().unwrap();
    let store = Store::open(dir.path().join("db")).unwrap();
    assert!(store.recovery().is_clean(), "{}", store.recovery());
    assert_eq!(&*store.get("a").unwrap().unwrap(), b"1");
    store.put("b", "3").unwrap();
}

#[test]
fn a_period_may_have_any_length() {
    for period in [Duration::MAX, Duration::from_secs(u64::MAX / 2), Duration::ZERO] {
        let disk = SimulatedDisk::new();
        let options = CommitLog::options().durability(Durability::Periodic(period));
        let log = Arc::new(options.open_simulated(&disk).unwrap());
        let position = log.append(b"x").unwrap();
        if period.is_zero() {
            until("it is synced by itself", || log.durable() > position);
        }
        let task = {
            let log = log.clone();
            spawn_task(async move { log.wait_durable_async(position).await })
        };
        task.recv_timeout(HANG).expect("the task is woken").unwrap();
        assert_eq!(log.stats().failed_thread, None);
        Arc::into_inner(log).expect("the task is done").close().unwrap();
    }
}

#[test]
fn a_periodic_sync_is_followed_by_others() {
    let disk = SimulatedDisk::new();
    let options = CommitLog::options().durability(Durability::Periodic(Duration::from_millis(1)));
    let log = options.open_simulated(&disk).unwrap();
    for n in 0..5 {
        let at = log.append(&[n]).unwrap();
        until("it is synced again", || log.durable() > at);
    }
}

/// Where there is no thread, the call that does its work syncs.
#[test]
fn a_periodic_log_without_threads_is_synced_by_maintenance() {
    for (period, is_synced) in [(Duration::ZERO, true), (Duration::MAX, false)] {
        let disk = SimulatedDisk::new();
        let log = small_log(8192).durability(Durability::Periodic(period));
        let log = log.open_simulated(&disk).unwrap();
        let position = log.append(b"entry").unwrap();
        log.maintain().unwrap();
        assert_eq!(log.durable() > position, is_synced, "{period:?}");
        log.append(b"another").unwrap();
        disk.fail_sync_after(0);
        let failed = log.maintain();
        assert_eq!(matches!(failed, Err(AppendError::Sync { .. })), is_synced, "{failed:?}");
    }
    let log = small_log(8192).open_simulated(&SimulatedDisk::new()).unwrap();
    let position = log.append(b"entry").unwrap();
    log.maintain().unwrap();
    assert!(log.durable() <= position, "nobody has asked for that");
}

/// Counts, and panics if it is to.
struct Bomb {
    woken: Arc<AtomicUsize>,
    panics: bool,
}

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics, "on purpose");
    }
}

#[test]
fn a_waker_that_panics_hurts_nobody_else() {
    let disk = SimulatedDisk::new();
    let log = Arc::new(CommitLog::options().open_simulated(&disk).unwrap());
    let (go, slow) = slow_append(&log);
    let position = log.append(b"x").unwrap();
    let woken = Arc::new(AtomicUsize::new(0));
    let mut tasks: Vec<Pin<Box<dyn Future<Output = _>>>> = Vec::new();
    for n in 0..4 {
        let waker = Waker::from(Arc::new(Bomb { woken: woken.clone(), panics: n < 3 }));
        let mut task = Box::pin(log.wait_durable_async(position));
        assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        tasks.push(task);
    }
    let (done, threads) = mpsc::channel();
    for _ in 0..4 {
        let (log, done) = (log.clone(), done.clone());
        thread::spawn(move || done.send(log.wait_durable(position)).unwrap());
    }
    thread::sleep(Duration::from_millis(50));
    go.send(()).unwrap();
    for _ in 0..4 {
        threads.recv_timeout(HANG).expect("the thread is woken").unwrap();
    }
    until("all tasks are woken", || woken.load(Ordering::SeqCst) == 4);
    for mut task in tasks {
        let polled = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(()))));
    }
    slow.join().unwrap();
    assert_eq!(log.stats().failed_thread, None);
    log.append(b"goes on").unwrap();
}

#[test]
fn a_task_is_woken_by_the_waker_that_it_was_polled_with_last() {
    let log = Arc::new(CommitLog::options().open_simulated(&SimulatedDisk::new()).unwrap());
    let (go, slow) = slow_append(&log);
    let position = log.append(b"x").unwrap();
    let woken = [0, 1].map(|_| Arc::new(AtomicUsize::new(0)));
    let mut task = Box::pin(log.wait_durable_async(position));
    for woken in &woken {
        let waker = Waker::from(Arc::new(Bomb { woken: woken.clone(), panics: false }));
        assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    go.send(()).unwrap();
    slow.join().unwrap();
    let counts = || woken.each_ref().map(|woken| woken.load(Ordering::SeqCst));
    until("it is woken", || counts() != [0, 0]);
    assert_eq!(counts(), [0, 1]);
}

#[test]
fn a_task_is_one_caller_however_often_it_is_polled_and_none_once_it_is_dropped() {
    let disk = SimulatedDisk::new();
    let log = Arc::new(CommitLog::options().open_simulated(&disk).unwrap());
    let position = log.append(b"x").unwrap();
    let (go, slow) = slow_append(&log);
    let later = log.append(b"y").unwrap();
    let mut dropped = Box::pin(log.wait_durable_async(later));
    let mut kept = Box::pin(log.wait_durable_async(later));
    for _ in 0..100 {
        let mut context = Context::from_waker(Waker::noop());
        assert!(dropped.as_mut().poll(&mut context).is_pending());
        assert!(kept.as_mut().poll(&mut context).is_pending());
    }
    drop(dropped);
    go.send(()).unwrap();
    until("it is durable", || {
        kept.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    });
    slow.join().unwrap();
    log.wait_durable(position).unwrap();
    assert!(log.stats().group_sizes.max <= 2, "{:?}", log.stats().group_sizes);
}
