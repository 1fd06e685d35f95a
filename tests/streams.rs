//! A log's entries as a stream.

#![cfg(feature = "stream")]

mod common;

use common::tasks::{block_on, spawn_task};
use common::{HANG, small_log, until, within};
use futures_core::Stream;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use tailcask::{
    Batch, Checkpoint, CheckpointError, CommitLog, EntryStream, LogPosition, ReadError,
    SimulatedDisk, Store,
};

fn log() -> CommitLog {
    small_log(8192).open_simulated(&SimulatedDisk::new()).unwrap()
}

async fn next(stream: &mut EntryStream) -> Option<Result<Vec<u8>, ReadError>> {
    let next = poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await;
    next.map(|entry| entry.map(|entry| entry.to_vec()))
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn poll(stream: &mut EntryStream, waker: &Waker) -> Poll<Option<Result<Vec<u8>, ReadError>>> {
    let polled = Pin::new(stream).poll_next(&mut Context::from_waker(waker));
    polled.map(|next| next.map(|entry| entry.map(|entry| entry.to_vec())))
}

/// Whatever threads append, and however they and the tasks come to run: each task sees all entries, in
/// order, and sleeps through none.
#[test]
fn tasks_follow_what_threads_append() {
    const EACH: u64 = 3000;
    let log = log();
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = log.stream_from(LogPosition::START);
            spawn_task(async move {
                let (mut seen, mut last) = ([0; 2], None);
                while seen != [EACH; 2] {
                    let before = stream.position();
                    let entry = next(&mut stream).await.unwrap().unwrap();
                    let n = u64::from_le_bytes(entry[1..].try_into().unwrap());
                    let writer = usize::from(entry[0]);
                    assert_eq!(seen[writer], n);
                    seen[writer] += 1;
                    assert!(last < Some(before));
                    last = Some(before);
                }
            })
        })
        .collect();
    thread::scope(|scope| {
        for writer in 0..2u8 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..EACH {
                    log.append(&[&[writer][..], &n.to_le_bytes()].concat()).unwrap();
                    if n % 64 == 0 {
                        thread::yield_now();
                    }
                }
            });
        }
    });
    tasks.into_iter().for_each(|task| task.recv_timeout(HANG).unwrap());
}

#[test]
fn a_close_wakes_a_stream_and_ends_it() {
    let log = log();
    log.append(b"one").unwrap();
    let mut stream = log.stream_from(LogPosition::START);
    assert_eq!(block_on(next(&mut stream)).unwrap().unwrap(), b"one");
    let task = spawn_task(async move {
        let closed = next(&mut stream).await;
        assert!(matches!(closed, Some(Err(ReadError::Closed))), "{closed:?}");
        assert!(next(&mut stream).await.is_none());
    });
    log.close().unwrap();
    task.recv_timeout(HANG).unwrap();

    let log = self::log();
    let at = LogPosition::from_u64(log.tail().as_u64() + 64);
    let mut wrong = log.stream_from(at);
    assert!(matches!(block_on(next(&mut wrong)), Some(Err(ReadError::PastEnd { .. }))));
    assert!(block_on(next(&mut wrong)).is_none());
}

/// A task that comes back with its checkpoint goes on behind what it was given, after a restart too. If it
/// cannot, it is told before it reads anything.
#[test]
fn a_stream_goes_on_from_its_checkpoint() {
    let disk = SimulatedDisk::new();
    let log = small_log(8192).open_simulated(&disk).unwrap();
    (0..40u8).for_each(|n| _ = log.append(&[n; 500]).unwrap());
    let mut stream = log.stream_from(LogPosition::START);
    let mut taken = vec![stream.checkpoint()];
    for n in 0..40u8 {
        assert_eq!(block_on(next(&mut stream)).unwrap().unwrap(), [n; 500]);
        taken.push(stream.checkpoint());
    }
    drop(stream);
    log.close().unwrap();
    let log = small_log(8192).open_simulated(&disk).unwrap();
    log.append(&[40; 500]).unwrap();
    for (read, checkpoint) in taken.iter().enumerate() {
        let stored = Checkpoint::from_bytes(checkpoint.to_bytes());
        let mut stream = log.stream_from_checkpoint(&stored).unwrap();
        assert_eq!(block_on(next(&mut stream)).unwrap().unwrap(), [read as u8; 500]);
    }
    let refused = self::log().stream_from_checkpoint(&taken[40]).map(drop);
    assert!(matches!(refused, Err(CheckpointError::OtherLog { .. })), "{refused:?}");
    log.truncate_before(log.tail()).unwrap();
    let refused = log.stream_from_checkpoint(&taken[1]).map(drop);
    assert!(matches!(refused, Err(CheckpointError::Truncated { .. })), "{refused:?}");
    log.close().unwrap();
    let refused = log.stream_from_checkpoint(&taken[40]).map(drop);
    assert!(matches!(refused, Err(CheckpointError::Read(ReadError::Closed))), "{refused:?}");
}

/// A stream that waits is past the mark of a sync, and has not read it: a power loss that takes the mark
/// takes nothing from the task.
#[test]
fn a_stream_that_waits_has_read_no_more_than_entries() {
    let disk = SimulatedDisk::new();
    let log = small_log(8192).open_simulated(&disk).unwrap();
    log.append(b"one").unwrap();
    log.sync().unwrap();
    let mut stream = log.stream_from(LogPosition::START);
    assert_eq!(block_on(next(&mut stream)).unwrap().unwrap(), b"one");
    assert!(poll(&mut stream, &Waker::from(Arc::new(Count::default()))).is_pending());
    let checkpoint = stream.checkpoint();
    assert_eq!(checkpoint.position(), log.tail(), "it is past the mark");
    drop(stream);
    let image = disk.power_loss(|_, _| false);
    log.abort();
    let log = small_log(8192).open_simulated(&image).unwrap();
    log.append(b"two").unwrap();
    let mut stream = log.stream_from_checkpoint(&checkpoint).unwrap();
    assert_eq!(block_on(next(&mut stream)).unwrap().unwrap(), b"two");
    // A position alone does not tell the mark from an entry.
    let bare = Checkpoint::new(checkpoint.log_id(), checkpoint.position());
    let refused = log.stream_from_checkpoint(&bare).map(drop);
    assert!(matches!(refused, Err(CheckpointError::Lost { .. })), "{refused:?}");
}

/// Nothing of a stream that is dropped, or has what it waited for, is left with the log.
#[test]
fn a_stream_that_is_dropped_is_forgotten() {
    let log = log();
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let mut stream = log.stream_from(LogPosition::START);
    assert!(poll(&mut stream, &waker).is_pending());
    assert!(poll(&mut stream, &waker).is_pending());
    assert_eq!(Arc::strong_count(&count), 3, "registered once");
    log.append(b"one").unwrap();
    assert_eq!(count.0.load(SeqCst), 1);
    log.append(b"two").unwrap();
    assert_eq!(count.0.load(SeqCst), 1, "woken once for each time that it waits");
    assert!(matches!(poll(&mut stream, &waker), Poll::Ready(Some(Ok(one))) if one == b"one"));
    assert!(matches!(poll(&mut stream, &waker), Poll::Ready(Some(Ok(two))) if two == b"two"));
    assert!(poll(&mut stream, &waker).is_pending());
    assert_eq!(Arc::strong_count(&count), 3);
    drop(stream);
    assert_eq!(Arc::strong_count(&count), 2, "its waker is gone");
    log.append(b"three").unwrap();
    assert_eq!(count.0.load(SeqCst), 1);
}

/// As a task is that goes on in another executor.
#[test]
fn a_stream_wakes_by_the_waker_that_it_was_polled_with_last() {
    let log = log();
    let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
    let mut stream = log.stream_from(LogPosition::START);
    for count in &counts {
        assert!(poll(&mut stream, &Waker::from(count.clone())).is_pending());
    }
    log.append(b"entry").unwrap();
    assert_eq!(counts.map(|count| count.0.load(SeqCst)), [0, 1]);
}

#[test]
fn others_get_a_turn_while_a_stream_catches_up() {
    let log = log();
    (0..1000u32).for_each(|n| _ = log.append(&n.to_le_bytes()).unwrap());
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let (mut stream, mut read, mut turns) = (log.stream_from(LogPosition::START), 0, 0);
    while read < 1000u32 {
        match poll(&mut stream, &waker) {
            Poll::Ready(entry) => {
                assert_eq!(entry.unwrap().unwrap(), read.to_le_bytes());
                read += 1;
            }
            Poll::Pending => turns += 1,
        }
    }
    assert_eq!((turns, count.0.load(SeqCst)), (7, 7), "and it is woken at once");
}

/// The waker is called by the thread that appends, which it does no harm.
#[test]
fn a_waker_that_panics_does_not_disturb_the_writer() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("on purpose");
        }
    }
    let log = log();
    let mut first = log.stream_from(LogPosition::START);
    let mut second = log.stream_from(LogPosition::START);
    let count = Arc::new(Count::default());
    assert!(poll(&mut first, &Waker::from(Arc::new(Panics))).is_pending());
    assert!(poll(&mut second, &Waker::from(count.clone())).is_pending());
    let position = log.append(b"entry").unwrap();
    assert_eq!(count.0.load(SeqCst), 1);
    assert_eq!(&*log.read(position).unwrap(), b"entry");
    assert_eq!(block_on(next(&mut first)).unwrap().unwrap(), b"entry");
}

/// A waker that uses the store.
struct Uses(Store, AtomicUsize);

impl Wake for Uses {
    fn wake(self: Arc<Self>) {
        let store = &self.0;
        store.put("key", [1; 700]).unwrap();
        assert!(store.compare_and_swap("key", Some(&[1; 700]), Some(b"2")).unwrap().is_ok());
        store.write(Batch::new().delete("key").put("other", "3")).unwrap();
        assert!(!store.delete("key").unwrap());
        store.put("large", [1; 20_000]).unwrap();
        store.sync().unwrap();
        self.1.fetch_add(1, SeqCst);
    }
}

/// A waker is code of a runtime, and may use the store: also the key that is being written, whose lock the
/// writer has had until then, and what else writers hold: where segments are made, and the sync that all
/// wait for.
#[test]
fn a_waker_may_use_the_store() {
    type Write = fn(&Store);
    let writes: [Write; 12] = [
        |store| _ = store.put("key", [0; 1000]).unwrap(),
        |store| assert!(store.delete("key").unwrap()),
        |store| assert!(store.delete_damaged("key").unwrap()),
        |store| _ = store.compare_and_swap("key", Some(&[0; 300]), Some(&[0; 1000])).unwrap(),
        |store| _ = store.update("key", |_| Some(vec![0; 1000])).unwrap(),
        |store| _ = store.write(Batch::new().put("key", "").put("other", [0; 1000])).unwrap(),
        |store| assert!(store.put_if_absent("fresh", [0; 1000]).unwrap()),
        |store| _ = store.put("key", [0; 20_000]).unwrap(),
        |store| _ = store.update("key", |_| Some(vec![0; 20_000])).unwrap(),
        |store| _ = store.write(Batch::new().put("key", [0; 20_000])).unwrap(),
        |store| _ = store.log().append(&[0; 20_000]).unwrap(),
        |store| _ = store.log().append_batch(&[&[0; 20_000]]).unwrap(),
    ];
    let store = common::small_store(8192).open_simulated(&SimulatedDisk::new()).unwrap();
    let (done, is_done) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let uses = Arc::new(Uses(store.clone(), AtomicUsize::new(0)));
        for (which, write) in writes.into_iter().enumerate() {
            // Often enough that some begin another segment, where the end of the last one is padded.
            for nth in 1..=20 {
                store.put("key", [0; 300]).unwrap();
                store.delete("fresh").unwrap();
                let mut stream = store.log().stream_from(store.log().tail());
                assert!(poll(&mut stream, &Waker::from(uses.clone())).is_pending());
                write(&store);
                assert_eq!(uses.1.swap(0, SeqCst), 1, "{which}, {nth}");
            }
        }
        // What a sync leaves behind in the log wakes, if there is room for it.
        for _ in 0..20 {
            store.put("key", [0; 300]).unwrap();
            let mut stream = store.log().stream_from(store.log().tail());
            assert!(poll(&mut stream, &Waker::from(uses.clone())).is_pending());
            store.sync().unwrap();
        }
        assert!(uses.1.swap(0, SeqCst) > 0);
        done.send(()).unwrap();
    });
    is_done.recv_timeout(HANG).expect("no write waits for itself");
}

/// An executor may drop a task under a lock that its wakers take.
#[test]
fn a_stream_can_be_dropped_while_its_thread_wakes_a_task() {
    struct Locks(Arc<Mutex<()>>, AtomicBool);
    impl Wake for Locks {
        fn wake(self: Arc<Self>) {
            self.1.store(true, SeqCst);
            drop(self.0.lock());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let writer = small_log(8192).open(dir.path().join("log")).unwrap();
    let follower = CommitLog::open_read_only(dir.path().join("log")).unwrap();
    let mut stream = follower.stream_from(writer.tail());
    let tasks = Arc::new(Mutex::new(()));
    let waker = Arc::new(Locks(tasks.clone(), AtomicBool::new(false)));
    let held = tasks.lock().unwrap();
    assert!(poll(&mut stream, &Waker::from(waker.clone())).is_pending());
    until("its thread wakes the task", || waker.1.load(SeqCst));
    within(move || drop(stream));
    drop(held);
}

/// Nobody wakes who follows the log of another process: it looks for itself.
#[test]
fn a_read_only_log_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let writer = small_log(8192).open(dir.path().join("log")).unwrap();
    writer.append(b"first").unwrap();
    let follower = CommitLog::open_read_only(dir.path().join("log")).unwrap();
    let mut stream = follower.stream_from(LogPosition::START);
    let (caught_up, is_caught_up) = std::sync::mpsc::channel();
    let task = spawn_task(async move {
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), b"first");
        for n in 0..100u32 {
            let entry = next(&mut stream).await.unwrap().unwrap();
            assert_eq!(entry, [&n.to_le_bytes()[..], &[0; 300]].concat());
        }
        caught_up.send(()).unwrap();
        next(&mut stream).await
    });
    for n in 0..100u32 {
        writer.append(&[&n.to_le_bytes()[..], &[0; 300]].concat()).unwrap();
        if n % 30 == 0 {
            thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    is_caught_up.recv_timeout(HANG).unwrap();
    follower.close().unwrap();
    let end = task.recv_timeout(HANG).unwrap();
    assert!(matches!(end, Some(Err(ReadError::Closed))), "{end:?}");

    let follower = CommitLog::open_read_only(dir.path().join("log")).unwrap();
    let mut stream = follower.stream_from(writer.tail());
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    assert!(poll(&mut stream, &waker).is_pending());
    until("it is woken to look", || count.0.load(SeqCst) > 0);
    drop(stream);
    drop(waker);
    until("its thread has ended", || Arc::strong_count(&count) == 1);
}

/// As many writers as wait share syncs, and what is awaited is durable.
#[test]
fn syncs_are_awaited() {
    let disk = SimulatedDisk::new();
    let options = CommitLog::options().segment_size(64 << 10).segment_unit(4096);
    let log = options.open_simulated(&disk).unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let log = log.clone();
            spawn_task(async move {
                for _ in 0..20 {
                    let position = log.append(b"entry").unwrap();
                    assert!(log.sync_async().await.unwrap() > position);
                    assert!(log.durable() > position);
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| task.recv_timeout(HANG).unwrap());
    log.close().unwrap();
    assert!(block_on(log.sync_async()).is_err());
}
