//! A store that is opened for reading only: it shows what was acknowledged before, each batch whole or not
//! at all, whatever a writer does meanwhile; and it leaves no trace.
//!
//! `TAILCASK_ROUNDS` says how often the tests beside writers look.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime};
use tailcask::{
    Batch, CommitLog, Maintenance, OpenError, ReadView, Store, StoreOptions, WriteOptions,
};

const ROLE: &str = "TAILCASK_READ_ONLY_ROLE";
const DIR: &str = "TAILCASK_READ_ONLY_DIR";

fn rounds(default: u64) -> u64 {
    std::env::var("TAILCASK_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn by_hand() -> StoreOptions {
    Store::options().segment_size(2 << 20).maintenance(Maintenance::Manual)
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn all(view: &ReadView) -> Model {
    let pairs = view.iter().map(|pair| pair.unwrap());
    let mut found = Model::new();
    for pair in pairs {
        let twice = found.insert(pair.key().to_vec(), pair.value().to_vec());
        assert!(twice.is_none(), "{:?} comes twice", pair.key());
    }
    found
}

fn all_of(store: &Store) -> Model {
    let pairs = store.iter().map(|pair| pair.unwrap());
    pairs.map(|pair| (pair.key().to_vec(), pair.value().to_vec())).collect()
}

/// A view is what a map is, by every way of asking.
fn assert_is(view: &ReadView, model: &Model) {
    assert!(all(view) == *model);
    let mut keys: Vec<_> = view.keys().map(Result::unwrap).collect();
    keys.sort_unstable();
    assert!(keys.iter().eq(model.keys()));
    for (key, value) in model {
        assert_eq!(&*view.get(key).unwrap().unwrap(), &value[..]);
        assert!(view.contains_key(key).unwrap());
        assert_eq!(view.value_len(key).unwrap(), Some(value.len()));
    }
    assert!(view.get("no such key").unwrap().is_none());
    let asked: Vec<_> = model.keys().map(Vec::as_slice).chain([&b"no such key"[..]]).collect();
    let found = view.get_many(&asked).unwrap();
    assert!(found[..model.len()].iter().zip(model.values()).all(|(a, b)| a.as_deref() == Some(b)));
    assert!(found[model.len()].is_none());
    let report = view.verify().unwrap();
    assert_eq!(report.keys, model.len() as u64);
    assert_eq!(view.is_empty(), view.is_empty());
    assert_eq!(view.stats().keys, view.len());
}

/// All there is in a directory, and what would show that something was done to it.
fn listing(dir: &Path) -> BTreeMap<PathBuf, (u64, u32, u64, SystemTime, u64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::symlink_metadata(&path).unwrap();
        if data.is_dir() {
            found.extend(listing(&path));
        }
        let modified = data.modified().unwrap();
        found.insert(path, (data.len(), data.mode(), data.ino(), modified, data.blocks()));
    }
    let data = std::fs::metadata(dir).unwrap();
    found.insert(dir.into(), (0, data.mode(), data.ino(), data.modified().unwrap(), 0));
    found
}

/// Looks at a directory, and at nothing's being changed by that.
fn without_a_trace<R>(dir: &Path, look: impl FnOnce() -> R) -> R {
    let before = listing(dir);
    let result = look();
    assert_eq!(listing(dir), before);
    result
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// Does things to a store, and to a map.
fn change(store: &Store, model: &mut Model, random: &mut Random, count: u64) {
    for n in 0..count {
        let key = format!("key {}", random.below(300)).into_bytes();
        let value = vec![n as u8; random.below(3000) as usize];
        match random.below(100) {
            0..60 => {
                store.put(&key, &value).unwrap();
                model.insert(key, value);
            }
            60..75 => {
                assert_eq!(store.delete(&key).unwrap(), model.remove(&key).is_some());
            }
            75..80 => {
                let past = WriteOptions::new().ttl(Duration::ZERO);
                store.put_with(&key, &value, &past).unwrap();
                model.remove(&key);
            }
            80..95 => {
                let mut batch = Batch::new();
                for n in 0..random.below(20) {
                    let key = format!("key {}", random.below(300)).into_bytes();
                    if n % 4 == 0 {
                        batch.delete(&key);
                        model.remove(&key);
                    } else {
                        batch.put(&key, &value);
                        model.insert(key, value.clone());
                    }
                }
                store.write(&batch).unwrap();
            }
            95..97 => store.log().append(b"an entry of the log").map(drop).unwrap(),
            97..98 => drop(store.merge().unwrap()),
            98..99 => drop(store.maintain().unwrap()),
            _ => store.sync().map(drop).unwrap(),
        }
    }
}

#[test]
fn a_closed_store_is_read_as_it_is_and_left_as_it_is() {
    for seed in 1..4 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let (mut model, mut random) = (Model::new(), Random(seed));
        let store = by_hand().open(&path).unwrap();
        change(&store, &mut model, &mut random, 1500);
        store.put("large", vec![7; 5 << 20]).unwrap();
        model.insert(b"large".into(), vec![7; 5 << 20]);
        store.close().unwrap();
        without_a_trace(dir.path(), || {
            let view = Store::open_read_only(&path).unwrap();
            assert_is(&view, &model);
            assert!(view.recovery().is_clean());
        });
        // Also without hints, which are not made then.
        for (path, _) in listing(&path) {
            if path.extension().is_some_and(|end| end == "hint") {
                std::fs::remove_file(path).unwrap();
            }
        }
        without_a_trace(dir.path(), || assert_is(&Store::open_read_only(&path).unwrap(), &model));
        assert!(all_of(&by_hand().open(&path).unwrap()) == model);
    }
}

#[test]
fn a_view_beside_a_writer_of_this_process_is_as_of_its_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (mut model, mut random) = (Model::new(), Random(9));
    let store = by_hand().open(&path).unwrap();
    assert!(Store::open_read_only(&path).unwrap().is_empty());
    let mut old: Vec<(ReadView, Model)> = Vec::new();
    for _ in 0..12 {
        change(&store, &mut model, &mut random, 300);
        // Not a byte of memory that the writer maps is written to either.
        let view = without_a_trace(dir.path(), || {
            let view = Store::open_read_only(&path).unwrap();
            assert_is(&view, &model);
            view
        });
        assert!(view.position() <= store.log().tail());
        old.push((view, model.clone()));
    }
    store.merge().unwrap();
    for (view, model) in &old {
        assert_is(view, model);
    }
    store.close().unwrap();
    for (view, then) in &mut old {
        assert_is(view, then);
        view.refresh().unwrap();
        assert_is(view, &model);
        assert!(!view.refresh().unwrap());
    }
}

#[test]
fn a_refresh_takes_in_what_was_written_since_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = by_hand().open(&path).unwrap();
    store.put("key", "one").unwrap();
    let mut view = Store::open_read_only(&path).unwrap();
    assert!(!view.refresh().unwrap());
    let before = view.position();
    let kept = view.get("key").unwrap().unwrap().into_bytes();

    store.put("key", "two").unwrap();
    store.put("other", "new").unwrap();
    assert_eq!(&*view.get("key").unwrap().unwrap(), b"one");
    assert!(!view.contains_key("other").unwrap());
    assert!(view.refresh().unwrap());
    assert!(view.position() > before);
    assert_eq!(&*view.get("key").unwrap().unwrap(), b"two");
    assert_eq!(&*view.get("other").unwrap().unwrap(), b"new");

    assert!(store.delete("key").unwrap());
    store.merge().unwrap();
    assert_eq!(&*view.get("key").unwrap().unwrap(), b"two");
    assert!(view.refresh().unwrap());
    assert!(view.get("key").unwrap().is_none());
    assert!(!view.refresh().unwrap());
    // What was merged away is held no longer.
    assert_eq!(view.stats().segments.iter().filter(|segment| segment.merged).count(), 1);

    store.close().unwrap();
    view.refresh().unwrap();
    let store = by_hand().open(&path).unwrap();
    store.put("after", "reopening").unwrap();
    assert!(view.refresh().unwrap());
    assert_eq!(&*view.get("after").unwrap().unwrap(), b"reopening");
    assert_eq!(&kept[..], b"one");
}

// ---- beside writers ----

/// How many threads hand a token to each other, and write under it.
const CHAIN: u64 = 3;
const BATCH: u64 = 40;

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

/// Writes until it is told to stop: puts that follow on each other across threads, batches, and others
/// that make the log large, and full of appends that are under way; and merges.
fn write(store: &Store, progress: &impl Progress, stop: &AtomicBool) {
    let token = Mutex::new(0u64);
    let go_on = || !stop.load(Ordering::Relaxed);
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
                if !go_on() {
                    return;
                }
            }
        });
        scope.spawn(|| {
            let mut random = Random(77);
            while go_on() {
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
        let _end = Set(&stop);
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

/// Sets a flag, also when the thread that has it panics.
struct Set<'f>(&'f AtomicBool);

impl Drop for Set<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A process that is killed when this is dropped.
struct Process(Child);

impl Process {
    fn start(role: &str, dir: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--ignored"])
            .env(ROLE, role)
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    fn assert_runs(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "the other process has ended");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the other process does.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let (Ok(role), Some(dir)) = (std::env::var(ROLE), std::env::var_os(DIR)) else { return };
    let dir = PathBuf::from(dir);
    let path = dir.join("store");
    // It ends with the test, however that ends.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
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

/// Waits for another process to have begun.
fn begun(process: &mut Process, dir: &Path) -> File {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        process.assert_runs();
        if let Ok(file) = File::open(dir.join("progress"))
            && read_progress(&file) > 10
        {
            return file;
        }
        assert!(Instant::now() < deadline, "it does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn views_beside_a_writer_of_another_process_hold_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut writer = Process::start("writer", dir.path());
    let progress = begun(&mut writer, dir.path());
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
            assert!(all_of(&by_hand().open(&backup).unwrap()) == all(&view));
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
        let mut writer = Process::start("writer", dir.path());
        let progress = begun(&mut writer, dir.path());
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
        assert!(all_of(&store) == all(&view));
        store.put("later", "than the view").unwrap();
        let opened = by_hand().open(&backup).unwrap();
        assert!(all_of(&opened) == all(&view));
        opened.verify().unwrap();
    }
}

#[test]
fn a_stopped_writer_holds_up_no_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut writer = Process::start("writer", dir.path());
    let progress = begun(&mut writer, dir.path());
    for n in 0..rounds(15) {
        std::thread::sleep(Duration::from_millis(n * 7 % 40));
        writer.signal("STOP");
        let acknowledged = read_progress(&progress);
        let path = path.clone();
        within(Duration::from_secs(60), move || {
            let mut view = Store::open_read_only(&path).unwrap();
            check(&view, acknowledged);
            view.refresh().unwrap();
            check(&view, acknowledged);
        });
        writer.signal("CONT");
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
    let mut reader = Process::start("reader", dir.path());
    begun(&mut reader, dir.path());
    for n in 0..rounds(10) {
        std::thread::sleep(Duration::from_millis(n * 7 % 40));
        reader.signal("STOP");
        let path = path.clone();
        within(Duration::from_secs(60), move || {
            let store = by_hand().open(&path).unwrap();
            for n in 0..100 {
                store.put(format!("key {n}"), vec![7; 1000]).unwrap();
            }
            store.sync().unwrap();
            store.merge().unwrap();
            store.close().unwrap();
        });
        reader.signal("CONT");
        reader.assert_runs();
    }
}

/// Runs something that may hang if it is wrong.
fn within(time: Duration, run: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        run();
        let _ = done.send(());
    });
    match finished.recv_timeout(time) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it takes more than {time:?}"),
        _ => thread.join().unwrap(),
    }
}

// ---- backups ----

#[test]
fn a_backup_is_read_and_a_view_is_backed_up() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup) = (dir.path().join("store"), dir.path().join("backup"));
    let (mut model, mut random) = (Model::new(), Random(5));
    let store = by_hand().open(&path).unwrap();
    change(&store, &mut model, &mut random, 1000);
    store.backup(&backup).unwrap();
    without_a_trace(&backup, || assert_is(&Store::open_read_only(&backup).unwrap(), &model));

    // Of one that a writer has open, of a backup, and of one that is closed.
    let view = Store::open_read_only(&path).unwrap();
    let of_live = dir.path().join("of live");
    view.backup(&of_live).unwrap();
    let then = model.clone();
    change(&store, &mut model, &mut random, 500);
    assert_is(&Store::open_read_only(&of_live).unwrap(), &then);
    let later = dir.path().join("of live, later");
    view.backup(&later).unwrap();
    assert_is(&Store::open_read_only(&later).unwrap(), &then);
    let of_backup = dir.path().join("of backup");
    without_a_trace(&backup, || Store::open_read_only(&backup).unwrap().backup(&of_backup))
        .unwrap();
    assert_is(&Store::open_read_only(&of_backup).unwrap(), &then);
    store.close().unwrap();
    let of_closed = dir.path().join("of closed");
    let report = Store::open_read_only(&path).unwrap().backup(&of_closed).unwrap();
    assert_eq!((report.linked, report.copied), (report.segments, 0));
    assert_is(&Store::open_read_only(&of_closed).unwrap(), &model);

    for (dir, model) in [(of_live, &then), (later, &then), (of_backup, &then), (of_closed, &model)]
    {
        let store = by_hand().open(dir).unwrap();
        assert!(store.recovery().is_clean());
        assert!(all_of(&store) == *model);
        store.verify().unwrap();
        store.put("it can be", "written to").unwrap();
        store.merge().unwrap();
        store.close().unwrap();
    }
    assert_is(&Store::open_read_only(&path).unwrap(), &model);
}

// ---- where nothing can be written ----

/// Something mounted, until this is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, args: &[&str]) -> Option<Self> {
        let mounted = Command::new("mount").args(args).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at.into())),
            other => {
                eprintln!("skipped: this machine does not let the test mount {args:?}: {other:?}");
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_read_only_file_system_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (path, at) = (dir.path().join("disk"), dir.path().join("mounted"));
    std::fs::create_dir(&path).unwrap();
    std::fs::create_dir(&at).unwrap();
    let (mut model, mut random) = (Model::new(), Random(3));
    let store = by_hand().open(path.join("store")).unwrap();
    change(&store, &mut model, &mut random, 500);
    let Some(_mount) = Mount::new(&at, &["--bind", path.to_str().unwrap()]) else { return };
    let remounted = Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&at).status();
    assert!(remounted.unwrap().success());
    std::fs::write(at.join("file"), "x").unwrap_err();
    // Beside a live writer, after its death, and when it was closed.
    assert_is(&Store::open_read_only(at.join("store")).unwrap(), &model);
    change(&store, &mut model, &mut random, 100);
    store.abort();
    assert_is(&Store::open_read_only(at.join("store")).unwrap(), &model);
    by_hand().open(path.join("store")).unwrap().close().unwrap();
    let view = Store::open_read_only(at.join("store")).unwrap();
    assert_is(&view, &model);
    let backup = dir.path().join("backup");
    view.backup(&backup).unwrap();
    assert_is(&Store::open_read_only(&backup).unwrap(), &model);
}

#[test]
fn a_full_disk_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("disk");
    std::fs::create_dir(&at).unwrap();
    let args = ["-t", "tmpfs", "-o", "size=64m,mode=700", "tailcask-test"];
    let Some(_mount) = Mount::new(&at, &args) else { return };
    let (mut model, mut random) = (Model::new(), Random(4));
    let store = by_hand().open(at.join("store")).unwrap();
    change(&store, &mut model, &mut random, 500);
    store.abort();
    let filler = File::create(at.join("filler")).unwrap();
    let mut len = 0u64;
    for step in [1 << 20, 4096, 1] {
        while filler.write_all_at(&vec![1; step], len).is_ok() {
            len += step as u64;
        }
    }
    let view = without_a_trace(&at, || {
        let view = Store::open_read_only(at.join("store")).unwrap();
        assert_is(&view, &model);
        view
    });
    let backup = dir.path().join("backup");
    view.backup(&backup).unwrap();
    assert_is(&Store::open_read_only(&backup).unwrap(), &model);
}

// ---- what is no store ----

#[test]
fn where_there_is_no_store_none_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert!(matches!(Store::open_read_only(&missing), Err(OpenError::NotFound { .. })));
    assert!(!missing.exists());
    let empty = dir.path().join("empty");
    std::fs::DirBuilder::new().create(&empty).unwrap();
    without_a_trace(&empty, || {
        assert!(matches!(Store::open_read_only(&empty), Err(OpenError::NotFound { .. })));
    });
    let log = dir.path().join("log");
    CommitLog::open(&log).unwrap().append(b"entry").unwrap();
    without_a_trace(&log, || {
        assert!(matches!(Store::open_read_only(&log), Err(OpenError::NotAStore)));
    });
    let lost = dir.path().join("lost");
    let store = by_hand().open(&lost).unwrap();
    store.put("key", "value").unwrap();
    store.close().unwrap();
    std::fs::remove_file(lost.join("MANIFEST")).unwrap();
    without_a_trace(&lost, || {
        assert!(matches!(Store::open_read_only(&lost), Err(OpenError::Manifest(_))));
        let salvage = Store::options().recovery_mode(tailcask::RecoveryMode::Salvage);
        let view = salvage.open_read_only(&lost).unwrap();
        assert_eq!(&*view.get("key").unwrap().unwrap(), b"value");
    });
}

#[test]
fn views_may_be_sent_and_shared() {
    fn is<T: Send + Sync>(_: &T) {}
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = by_hand().open(&path).unwrap();
    store.put("key", "value").unwrap();
    let view = Arc::new(Store::open_read_only(&path).unwrap());
    is(&view);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let view = view.clone();
            std::thread::spawn(move || view.get("key").unwrap().unwrap().into_bytes())
        })
        .collect();
    drop(view);
    for thread in threads {
        assert_eq!(&thread.join().unwrap()[..], b"value");
    }
}

/// As `Store::verify` does: what nothing needs any more is counted, and the rest is an error.
#[test]
fn a_view_verifies_as_the_store_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = by_hand().open(&path).unwrap();
    let at = store.put("key", "a value that is damaged").unwrap();
    store.put("other", "value").unwrap();
    store.close().unwrap();
    let file = path.join(format!("{:020}.seg", at.segment()));
    let file = File::options().write(true).open(file).unwrap();
    file.write_all_at(b"x", u64::from(at.offset()) + 16 + 8 + 4).unwrap();
    let view = Store::open_read_only(&path).unwrap();
    view.get("key").unwrap_err();
    assert_eq!(&*view.get("other").unwrap().unwrap(), b"value");
    view.verify().unwrap_err();

    let store = by_hand().open(&path).unwrap();
    store.put("key", "healed").unwrap();
    let live = Store::open_read_only(&path).unwrap().verify().unwrap();
    assert_eq!((live.keys, live.damaged), (2, 1));
    store.close().unwrap();
    let closed = without_a_trace(&path, || Store::open_read_only(&path).unwrap().verify().unwrap());
    assert_eq!((closed.keys, closed.damaged), (2, 1));
    let by_the_store = by_hand().open(&path).unwrap().verify().unwrap();
    assert_eq!((closed.frames, closed.bytes), (by_the_store.frames, by_the_store.bytes));
}
