//! A backup is the store as it was at a stated position, and opens as one.

mod common;

use common::files::{names, paths};
use common::{Finish, contents, entries, hint, sealed, segment, small_store};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tailcask::{
    BackupError, Maintenance, OpenError, RecoveryMode, SimulatedDisk, Store, StoreOptions,
};

fn options() -> StoreOptions {
    Store::options().segment_size(2 << 20)
}

#[test]
fn a_backup_holds_what_was_there_and_nothing_of_what_comes() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("store")).unwrap();
    for n in 0..3000u32 {
        store.put((n % 700).to_le_bytes(), vec![n as u8; 1500]).unwrap();
    }
    store.delete(5u32.to_le_bytes()).unwrap();
    store.merge().unwrap();
    let place = store.put("last", "before").unwrap();
    let expected = contents(&store);
    let dest = dir.path().join("backup");
    let report = store.backup(&dest).unwrap();
    assert!(report.position > place);
    assert_eq!((report.copied, report.linked), (0, report.segments));
    let after = store.put("last", "after").unwrap();
    assert!(after >= report.position);
    store.put("new", "after").unwrap();
    store.merge().unwrap();
    // Restoring is opening; it is a store of its own.
    let restored = Store::open(&dest).unwrap();
    assert_eq!(contents(&restored), expected);
    assert_eq!(restored.recovery().hinted_segments + 1, report.segments, "the last had no hint");
    restored.verify().unwrap();
    restored.put("only here", "1").unwrap();
    restored.merge().unwrap();
    restored.close().unwrap();
    assert_eq!(Store::open(&dest).unwrap().len(), expected.len() as u64 + 1);
    assert!(!store.contains_key("only here").unwrap());
    assert_eq!(&*store.get("last").unwrap().unwrap(), b"after");
    store.verify().unwrap();
    // A backup of a backup, and one of nothing.
    let again = dir.path().join("again");
    Store::open(&dest).unwrap().backup(&again).unwrap();
    assert_eq!(Store::open(&again).unwrap().len(), expected.len() as u64 + 1);
}

/// One thread's writes are numbered: a backup has all of those that had returned when it began, and
/// of the rest a beginning.
#[test]
fn a_backup_beside_writers_and_merges_is_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("store")).unwrap();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                // The same number under two keys: what comes first is never behind.
                store.put("first", n.to_le_bytes()).unwrap();
                store.put("second", n.to_le_bytes()).unwrap();
                store.put((n % 900).to_le_bytes(), vec![n as u8; 3000]).unwrap();
                done.store(n, Ordering::Release);
                if n.is_multiple_of(16) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.merge().unwrap();
                // Each one makes another segment active, and the writer is to get on.
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let _finish = Finish(&stop);
        for round in 0..6 {
            while done.load(Ordering::Acquire) < 200 * (round + 1) {
                std::thread::yield_now();
            }
            let before = done.load(Ordering::Acquire);
            let dest = dir.path().join(format!("backup-{round}"));
            store.backup(&dest).unwrap();
            let restored = Store::open(&dest).unwrap();
            let number = |key: &str| {
                let value = restored.get(key).unwrap().expect("put before");
                u64::from_le_bytes((*value).try_into().unwrap())
            };
            let (first, second) = (number("first"), number("second"));
            assert!(first == second || first == second + 1, "{first} {second}");
            assert!(second >= before, "{second} of {before}");
            restored.verify().unwrap();
            restored.close().unwrap();
            std::fs::remove_dir_all(&dest).unwrap();
        }
    });
}

#[test]
fn an_idle_store_is_backed_up_without_more_space() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = Store::options().initial_segment_size(64 << 20);
    let store = options.open(&path).unwrap();
    store.put("key", "value").unwrap();
    let dest = dir.path().join("backup");
    store.backup(&dest).unwrap();
    let size = |path: &std::path::Path| -> u64 {
        let files = std::fs::read_dir(path).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
    };
    assert!(size(&dest) < 1 << 20, "{} bytes for one key", size(&dest));
    let twice = dir.path().join("twice");
    assert_eq!(store.backup(&twice).unwrap().segments, 1);
    assert_eq!(&*Store::open(&twice).unwrap().get("key").unwrap().unwrap(), b"value");
}

#[test]
fn where_no_backup_can_be_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    store.put("key", "value").unwrap();
    assert!(matches!(store.backup(dir.path()), Err(BackupError::Exists { .. })));
    assert!(matches!(store.backup(path.join("inside")), Err(BackupError::Inside { .. })));
    let nowhere = dir.path().join("no").join("where");
    assert!(matches!(store.backup(nowhere), Err(BackupError::Io { .. })));
    let simulated = Store::options().open_simulated(&SimulatedDisk::new()).unwrap();
    assert!(matches!(simulated.backup(dir.path().join("x")), Err(BackupError::NotADirectory)));
    // One that was cut short is no store.
    let dest = dir.path().join("backup");
    store.backup(&dest).unwrap();
    std::fs::remove_file(dest.join("MANIFEST")).unwrap();
    Store::open(&dest).unwrap_err();
}

/// Segments of 4 KiB, filled up so that the next frame is the first one of the next segment.
fn about_to_roll(dir: &std::path::Path) -> Store {
    let store = small_store(4096).open(dir).unwrap();
    for n in 1..=8 {
        store.put("k".repeat(n), "there").unwrap();
    }
    while store.log().tail().offset() <= 4096 - 24 {
        store.put("fill", "").unwrap();
    }
    if store.log().tail().offset() <= 4096 - 16 {
        store.log().append(&[]).unwrap();
    }
    store
}

/// What it is called, and how it is done.
type SmallWrite = (String, Box<dyn Fn(&Store)>);

/// A frame of 24 bytes, which is what a sync mark takes, too.
fn small_writes() -> Vec<SmallWrite> {
    let mut all: Vec<SmallWrite> = Vec::new();
    for len in 0..=8 {
        let key = "k".repeat(len);
        if len > 0 {
            let (delete, put) = (key.clone(), key);
            all.push((
                format!("delete of a key of {len}"),
                Box::new(move |s| assert!(s.delete(&delete).unwrap())),
            ));
            all.push((
                format!("empty put of a key of {len}"),
                Box::new(move |s| _ = s.put(&put, "").unwrap()),
            ));
        }
        all.push((
            format!("entry of {len}"),
            Box::new(move |s| _ = s.log().append(&vec![7; len]).unwrap()),
        ));
    }
    all
}

#[test]
fn a_backup_holds_the_smallest_write_made_just_before() {
    for (what, write) in small_writes() {
        let dir = tempfile::tempdir().unwrap();
        let store = about_to_roll(&dir.path().join("store"));
        write(&store);
        assert!(store.log().tail().offset() <= 128 + 24, "{what}: it is alone in its segment");
        let place = store.log().tail();
        let report = store.backup(dir.path().join("backup")).unwrap();
        assert!(report.position >= place, "{what}");
        let restored = Store::open(dir.path().join("backup")).unwrap();
        assert_eq!(contents(&restored), contents(&store), "{what}");
        assert_eq!(entries(restored.log()), entries(store.log()), "{what}");
    }
}

#[test]
fn a_merge_takes_in_the_smallest_write_made_just_before() {
    for (what, write) in small_writes() {
        let dir = tempfile::tempdir().unwrap();
        let store = about_to_roll(&dir.path().join("store"));
        write(&store);
        let active = store.log().tail().segment();
        store.merge().unwrap();
        assert!(store.log().tail().segment() > active, "{what}");
    }
}

/// A sync leaves a mark, and that alone is nothing to be backed up or merged.
#[test]
fn a_sync_mark_alone_makes_no_other_segment_active() {
    let dir = tempfile::tempdir().unwrap();
    let store = about_to_roll(&dir.path().join("store"));
    store.merge().unwrap();
    store.sync().unwrap();
    let active = store.log().tail().segment();
    for n in 0..3 {
        store.merge().unwrap();
        store.backup(dir.path().join(format!("{n}"))).unwrap();
        assert_eq!(store.log().tail().segment(), active);
    }
}

/// Merges wait: what is in a backup does not go while it is made.
#[test]
fn a_merge_beside_a_backup_takes_nothing_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = options().maintenance(Maintenance::Manual);
    let store = Arc::new(options.open(dir.path().join("store")).unwrap());
    for n in 0..40u32 {
        store.put((n % 10).to_le_bytes(), [n as u8; 1000]).unwrap();
        if n % 10 == 9 {
            store.roll().unwrap();
        }
    }
    let (expected, dest) = (contents(&store), dir.path().join("backup"));
    let merging = store.clone();
    let mut merge = None;
    let report = store.backup_while(&dest, || {
        merge = Some(std::thread::spawn(move || merging.merge().unwrap().inputs));
        // Time enough for it, if it did not wait.
        std::thread::sleep(Duration::from_millis(300));
    });
    assert_eq!(merge.unwrap().join().unwrap(), 4, "it comes afterwards");
    let restored = Store::open(&dest).unwrap();
    assert_eq!(sealed(&restored).len() as u64, report.unwrap().segments);
    assert_eq!(contents(&restored), expected);
    restored.verify().unwrap();
    assert_eq!(contents(&store), expected);
}

/// And one that is at it is waited for: neither its inputs nor its outputs are half there.
#[test]
fn a_backup_beside_a_merge_holds_the_exact_set() {
    let dir = tempfile::tempdir().unwrap();
    let options = options().maintenance(Maintenance::Manual);
    let store = Arc::new(options.open(dir.path().join("store")).unwrap());
    for n in 0..40u32 {
        store.put((n % 10).to_le_bytes(), [n as u8; 1000]).unwrap();
        if n % 10 == 9 {
            store.roll().unwrap();
        }
    }
    let (expected, dest) = (contents(&store), dir.path().join("backup"));
    let ids = sealed(&store);
    let (backing, to) = (store.clone(), dest.clone());
    let backup = std::sync::Mutex::new(None);
    let started = Arc::new(backup);
    let inside = started.clone();
    let report = store.merge_while(&ids, move || {
        let backup = std::thread::spawn(move || backing.backup(to).unwrap());
        *inside.lock().unwrap() = Some(backup);
        std::thread::sleep(Duration::from_millis(300));
    });
    assert_eq!(report.unwrap().inputs, 4);
    let backup = started.lock().unwrap().take().unwrap().join().unwrap();
    let restored = Store::open(&dest).unwrap();
    let segments = restored.stats().segments;
    assert_eq!(segments.iter().filter(|s| s.sealed).count() as u64, backup.segments);
    assert!(segments.iter().all(|s| !ids.contains(&s.id)), "the merge's outputs, not its inputs");
    assert_eq!(contents(&restored), expected);
    restored.verify().unwrap();
}

/// Where the store's directory is called something else meanwhile, and another store is in its place.
#[test]
fn a_backup_is_of_this_store_wherever_it_is_moved() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("store"), dir.path().join("moved"));
    let store = options().open(&path).unwrap();
    store.put("which", "this one").unwrap();
    let dest = dir.path().join("backup");
    let move_away = || {
        std::fs::rename(&path, &moved).unwrap();
        let other = options().open(&path).unwrap();
        other.put("which", "the other one").unwrap();
        other.close().unwrap();
    };
    store.backup_while(&dest, move_away).unwrap();
    let restored = Store::open(&dest).unwrap();
    assert_eq!(&*restored.get("which").unwrap().unwrap(), b"this one");
    restored.verify().unwrap();
    // Also from where it is now, and not into itself by any name.
    store.put("which", "still this one").unwrap();
    assert!(matches!(store.backup(moved.join("inside")), Err(BackupError::Inside { .. })));
    store.backup(path.join("beside")).unwrap();
    let restored = Store::open(path.join("beside")).unwrap();
    assert_eq!(&*restored.get("which").unwrap().unwrap(), b"still this one");
}

/// One that fails leaves nothing: an empty directory would open as an empty store.
#[test]
fn a_backup_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().maintenance(Maintenance::Manual).open(&path).unwrap();
    for n in 0..3u8 {
        store.put([n], "value").unwrap();
        store.roll().unwrap();
    }
    let names = || names(dir.path());
    let before = names();
    let last = *sealed(&store).last().unwrap();
    let file = path.join(segment(last));
    let dest = dir.path().join("backup");
    let away = dir.path().join("away");
    let failed = store.backup_while(&dest, || std::fs::rename(&file, &away).unwrap());
    assert!(matches!(failed, Err(BackupError::Io { .. })), "{failed:?}");
    std::fs::rename(&away, &file).unwrap();
    assert_eq!(names(), before);
    // What came to be at the destination meanwhile is left alone.
    let failed = store.backup_while(&dest, || std::fs::write(&dest, "mine").unwrap());
    assert!(matches!(failed, Err(BackupError::Exists { .. })), "{failed:?}");
    assert_eq!(std::fs::read(&dest).unwrap(), b"mine");
    std::fs::remove_file(&dest).unwrap();
    assert_eq!(names(), before);
    // What a dead one left does no harm.
    std::fs::create_dir(dir.path().join(".backup.0.partial")).unwrap();
    store.backup(&dest).unwrap();
    assert_eq!(Store::open(&dest).unwrap().len(), 3);
}

/// A backup has other names of the same files. What is missing in one is missing in both, and only the
/// store's is put right.
#[test]
fn salvage_of_a_segment_that_was_cut_does_not_change_its_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("store"), dir.path().join("backup"));
    let options = small_store(16 << 10);
    let store = options.open(&path).unwrap();
    let places: Vec<_> = (0..100u8).map(|n| store.put([n], [n; 300]).unwrap()).collect();
    store.backup(&dest).unwrap();
    store.close().unwrap();
    // Where a frame begins: nothing else tells that there was more.
    let file = std::fs::File::options().write(true).open(path.join(segment(1))).unwrap();
    file.set_len(places[5].offset().into()).unwrap();
    assert!(matches!(options.open(&dest).map(drop), Err(OpenError::Corrupt(_))));
    let salvage = options.clone().recovery_mode(RecoveryMode::Salvage);
    let store = salvage.open(&path).unwrap();
    assert!(!store.recovery().nothing_is_lost() && store.len() < 100);
    store.close().unwrap();
    options.open(&path).unwrap();
    assert!(matches!(options.open(&dest).map(drop), Err(OpenError::Corrupt(_))));
}

/// Something else in the place of a hint is of no use, and in nobody's way.
#[test]
fn what_is_no_hint_is_in_no_backup_and_in_no_repaired_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = small_store(16 << 10);
    let store = options.open(&path).unwrap();
    for key in ["one", "two"] {
        store.put(key, "value").unwrap();
        store.roll().unwrap();
        store.sync().unwrap();
    }
    let _ = std::fs::remove_file(path.join(hint(1)));
    let _ = std::fs::remove_file(path.join(hint(2)));
    std::fs::create_dir(path.join(hint(1))).unwrap();
    std::os::unix::fs::symlink("nowhere", path.join(hint(2))).unwrap();
    let (backup, of_view) = (dir.path().join("backup"), dir.path().join("of a view"));
    store.backup(&backup).unwrap();
    options.open_read_only(&path).unwrap().backup(&of_view).unwrap();
    store.close().unwrap();
    let copy = dir.path().join("copy");
    options.repair(&path, &copy).unwrap();
    for dir in [backup, of_view, copy] {
        let is_odd = |path: &std::path::PathBuf| !path.is_file() && !path.ends_with("set-aside");
        let odd: Vec<_> = paths(&dir).into_iter().filter(is_odd).collect();
        assert!(odd.is_empty(), "{odd:?}");
        assert_eq!(options.open(&dir).unwrap().len(), 2);
    }
}

#[test]
fn a_segment_that_is_copied_takes_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let device = |path: &std::path::Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    let memory = std::path::Path::new("/dev/shm");
    if device(memory).is_none() || device(memory) == device(dir.path()) {
        eprintln!("skipped: there is no other file system in /dev/shm");
        return;
    }
    let other = tempfile::tempdir_in(memory).unwrap();
    let options = Store::options().initial_segment_size(64 << 20);
    let store = options.open(dir.path().join("store")).unwrap();
    store.put("key", "value").unwrap();
    let dest = other.path().join("backup");
    let report = store.backup(&dest).unwrap();
    assert_eq!((report.copied, report.linked), (1, 0));
    let files = std::fs::read_dir(&dest).unwrap();
    let size: u64 = files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum();
    assert!(size < 1 << 20, "{size} bytes for one key");
    let restored = Store::options().any_file_system(true).open(&dest).unwrap();
    assert_eq!(&*restored.get("key").unwrap().unwrap(), b"value");
    restored.verify().unwrap();
}
