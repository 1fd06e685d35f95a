//! Views beside writers that run, are stopped, and are killed; and writers beside a stopped reader.

use super::{all, without_a_trace};
use crate::common::children::{self, Process};
use crate::common::{Finish, Random, contents, rounds, store_by_hand as by_hand, until, within};
use rustix::process::Signal;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tailcask::{Batch, ReadView, Store};

/// How many threads hand a token to each other, and write under it.
const CHAIN: u64 = 3;
const BATCH: u64 = 40;
/// Bytes of files, of which writers wait for merges: where views are slow to open, these would get longer, and
/// opening one slower, without end.
const MOST: u64 = 256 << 20;

/// What a writer has done by now, for others to compare with.
trait Progress: Sync {
    fn acknowledged(&self, n: u64);
}

struct InMemory(AtomicU64);

impl Progress for InMemory {
    fn acknowledged(&self, n: u64) {
        self.0.store(n, Ordering::Release);
    }
}

struct InFile(File);

impl Progress for InFile {
    fn acknowledged(&self, n: u64) {
        self.0.write_all_at(&n.to_le_bytes(), 0).unwrap();
    }
}

fn read_progress(file: &File) -> u64 {
    let mut bytes = [0; 8];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => 0,
    }
}

/// Writes until it is asked to stop: puts that follow on each other across threads, batches, and others
/// that make the log large, and full of appends that are under way; and merges.
fn write(store: &Store, progress: &impl Progress, stop: &AtomicBool) {
    let token = Mutex::new(0u64);
    let go_on = || !stop.load(Ordering::Relaxed);
    let wait_for_merges = |n: u64| {
        while n.is_multiple_of(32) && store.log().stats().disk_bytes > MOST && go_on() {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..CHAIN {
            let token = &token;
            scope.spawn(move || {
                while go_on() {
                    let mut token = token.lock().unwrap();
                    if *token % CHAIN != thread {
                        drop(token);
                        std::thread::yield_now();
                        continue;
                    }
                    *token += 1;
                    store.put(format!("chain {thread}"), token.to_le_bytes()).unwrap();
                    progress.acknowledged(*token);
                }
            });
        }
        scope.spawn(|| {
            for n in 1u64.. {
                let mut batch = Batch::new();
                for key in 0..BATCH {
                    batch.put(format!("batch {key}"), n.to_le_bytes());
                }
                store.write(&batch).unwrap();
                wait_for_merges(n);
                if !go_on() {
                    return;
                }
            }
        });
        scope.spawn(|| {
            let mut random = Random::new(77);
            for n in 1u64.. {
                wait_for_merges(n);
                if !go_on() {
                    return;
                }
                let key = format!("noise {}", random.below(200));
                match random.below(10) {
                    0 => drop(store.delete(&key).unwrap()),
                    _ => drop(store.put(&key, vec![1; random.below(20_000) as usize]).unwrap()),
                }
            }
        });
        scope.spawn(|| {
            while go_on() {
                store.merge().unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    });
}

fn number(view: &ReadView, key: &str) -> u64 {
    let value = view.get(key).unwrap();
    value.map_or(0, |value| u64::from_le_bytes(value[..].try_into().unwrap()))
}

/// What holds of every view beside such a writer.
fn check(view: &ReadView, acknowledged: u64) {
    // Token n was written after token n - 1 was acknowledged, by another thread.
    let chain: Vec<_> = (0..CHAIN).map(|thread| number(view, &format!("chain {thread}"))).collect();
    let last = chain.iter().copied().max().unwrap();
    assert!(last >= acknowledged, "{last} is there, and {acknowledged} was acknowledged");
    for n in last.saturating_sub(CHAIN - 1).max(1)..=last {
        let thread = (n - 1) % CHAIN;
        assert_eq!(chain[thread as usize], n, "{last} is there: {chain:?}");
    }
    let batch: Vec<_> = (0..BATCH).map(|key| number(view, &format!("batch {key}"))).collect();
    assert!(batch.iter().all(|&n| n == batch[0]), "half a batch: {batch:?}");
    let count = view.iter().map(Result::unwrap).count() as u64;
    assert_eq!(count, view.len(), "no key expires here");
}

#[test]
fn views_beside_a_writer_of_this_process_hold_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::options().segment_size(2 << 20).open(&path).unwrap();
    let (progress, stop) = (InMemory(AtomicU64::new(0)), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _finish = Finish(&stop);
        scope.spawn(|| write(&store, &progress, &stop));
        let mut refreshed = Store::open_read_only(&path).unwrap();
        for n in 0..rounds(20) {
            let acknowledged = progress.0.load(Ordering::Acquire);
            let view = Store::open_read_only(&path).unwrap();
            check(&view, acknowledged);
            let acknowledged = progress.0.load(Ordering::Acquire);
            refreshed.refresh().unwrap();
            check(&refreshed, acknowledged);
            if n % 10 == 0 {
                refreshed.verify().unwrap();
            }
        }
    });
    store.close().unwrap();
}

/// What the other process does.
pub(crate) fn child() {
    let Some((role, dir)) = children::role() else { return };
    let path = dir.join("store");
    children::end_with_the_test();
    match &*role {
        "writer" => {
            let options = Store::options().segment_size(2 << 20);
            let store = options.open(&path).unwrap();
            let progress = InFile(File::create(dir.join("progress")).unwrap());
            write(&store, &progress, &AtomicBool::new(false));
        }
        _ => {
            let view = Store::open_read_only(&path).unwrap();
            let kept = view.get("key").unwrap().unwrap();
            File::create(dir.join("progress")).unwrap().write_all_at(&[1; 8], 0).unwrap();
            loop {
                assert_eq!(&*kept, b"value");
                assert_eq!(&*view.get("key").unwrap().unwrap(), b"value");
                assert_eq!(view.iter().count(), 1);
            }
        }
    }
}

/// Starts another process, and waits until it has begun.
fn start(role: &str, dir: &Path) -> (Process, File) {
    let mut process = Process::spawn(&mut children::command(role, dir));
    let mut progress = None;
    until("the other process begins", || {
        process.assert_runs();
        progress = File::open(dir.join("progress")).ok();
        progress.as_ref().is_some_and(|file| read_progress(file) > 10)
    });
    (process, progress.expect("it has begun"))
}

#[test]
fn views_beside_a_writer_of_another_process_hold_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (mut writer, progress) = start("writer", dir.path());
    let mut refreshed = Store::open_read_only(&path).unwrap();
    for n in 0..rounds(20) {
        let acknowledged = read_progress(&progress);
        let view = Store::open_read_only(&path).unwrap();
        check(&view, acknowledged);
        let acknowledged = read_progress(&progress);
        refreshed.refresh().unwrap();
        check(&refreshed, acknowledged);
        if n % 10 == 0 {
            view.verify().unwrap();
            let backup = dir.path().join(format!("backup {n}"));
            view.backup(&backup).unwrap();
            assert!(contents(&by_hand().open(&backup).unwrap()) == all(&view));
        }
        writer.assert_runs();
    }
}

/// What a dead process left is judged as recovery does, and a backup of it is a good store.
#[test]
fn a_killed_writer_is_read_as_it_will_be_recovered() {
    for n in 0..rounds(12) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let (writer, progress) = start("writer", dir.path());
        std::thread::sleep(Duration::from_millis(n * 13 % 150));
        drop(writer);
        let view = without_a_trace(&path, || {
            let view = Store::open_read_only(&path).unwrap();
            check(&view, read_progress(&progress));
            view.verify().unwrap();
            view
        });
        let backup = dir.path().join("backup");
        let report = without_a_trace(&path, || view.backup(&backup).unwrap());
        assert_eq!(report.position, view.position());
        let copy = without_a_trace(&backup, || Store::open_read_only(&backup).unwrap());
        assert!(copy.recovery().is_clean());
        assert!(all(&copy) == all(&view));
        copy.verify().unwrap();
        let store = by_hand().open(&path).unwrap();
        assert!(contents(&store) == all(&view));
        store.put("later", "than the view").unwrap();
        let opened = by_hand().open(&backup).unwrap();
        assert!(contents(&opened) == all(&view));
        opened.verify().unwrap();
    }
}

#[test]
fn a_stopped_writer_holds_up_no_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (mut writer, progress) = start("writer", dir.path());
    for n in 0..rounds(15) {
        std::thread::sleep(Duration::from_millis(n * 7 % 40));
        writer.signal(Signal::STOP);
        let acknowledged = read_progress(&progress);
        let path = path.clone();
        within(move || {
            let mut view = Store::open_read_only(&path).unwrap();
            check(&view, acknowledged);
            view.refresh().unwrap();
            check(&view, acknowledged);
        });
        writer.signal(Signal::CONT);
        writer.assert_runs();
    }
}

#[test]
fn a_stopped_reader_holds_up_no_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = by_hand().open(&path).unwrap();
    store.put("key", "value").unwrap();
    store.close().unwrap();
    let (mut reader, _) = start("reader", dir.path());
    for n in 0..rounds(10) {
        std::thread::sleep(Duration::from_millis(n * 7 % 40));
        reader.signal(Signal::STOP);
        let path = path.clone();
        within(move || {
            let store = by_hand().open(&path).unwrap();
            for n in 0..100 {
                store.put(format!("key {n}"), vec![7; 1000]).unwrap();
            }
            store.sync().unwrap();
            store.merge().unwrap();
            store.close().unwrap();
        });
        reader.signal(Signal::CONT);
        reader.assert_runs();
    }
}
