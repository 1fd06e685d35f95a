//! Which directories a log or a store is created in, and which stay as they are.

mod common;

use common::files::{mode, paths};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tailcask::{CommitLog, LogOptions, OpenError, SimulatedDisk, Store, StoreOptions};

const UNIT: u64 = 16 << 10;

fn existing() -> LogOptions {
    CommitLog::options().create(false)
}

fn new() -> LogOptions {
    CommitLog::options().create_new(true)
}

fn new_store() -> StoreOptions {
    Store::options().create_new(true)
}

fn assert_missing<T>(opened: Result<T, OpenError>, dir: &Path) {
    match opened.map(drop) {
        Err(error @ OpenError::NotFound { .. }) => {
            assert_eq!(error.to_string(), format!("there is no log in {}", dir.display()));
        }
        other => panic!("{other:?}"),
    }
}

fn assert_exists<T>(opened: Result<T, OpenError>, dir: &Path) {
    match opened.map(drop) {
        Err(error @ OpenError::Exists { .. }) => {
            assert_eq!(error.to_string(), format!("there is a log in {} already", dir.display()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_to_be_created_is_not() {
    let parent = tempfile::tempdir().unwrap();
    let missing = parent.path().join("missing");
    assert_missing(existing().open(&missing), &missing);
    assert_missing(Store::open_existing(&missing), &missing);
    assert!(!missing.exists());
    let empty = parent.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_missing(CommitLog::open_existing(&empty), &empty);
    assert_missing(Store::open_existing(&empty), &empty);
    assert!(paths(&empty).is_empty(), "not even a lock: {:?}", paths(&empty));
    assert_missing(
        existing().open_simulated(&SimulatedDisk::new()),
        Path::new("the simulated disk"),
    );

    CommitLog::open(&empty).unwrap().close().unwrap();
    let log = CommitLog::open_existing(&empty).unwrap();
    log.append(b"entry").unwrap();
    log.close().unwrap();
    // There is a log in it now, and no store.
    assert!(matches!(Store::open_existing(&empty), Err(OpenError::NotAStore)));
}

/// The MANIFEST of a new store has no secret at first: whoever dies then leaves an empty log.
/// A parent that has no place on a device.
#[test]
#[cfg(target_os = "linux")]
fn a_parent_directory_that_cannot_be_synced_is_named() {
    let refused = CommitLog::open("/proc/self").unwrap_err().to_string();
    assert!(refused.starts_with("could not sync /proc, the parent of /proc/self: "), "{refused}");
}

#[test]
fn an_empty_log_is_no_store_that_exists() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    CommitLog::open(&dir).unwrap().close().unwrap();
    assert!(matches!(Store::open_existing(&dir), Err(OpenError::NotAStore)));
    CommitLog::open_existing(&dir).unwrap().close().unwrap();
    Store::open(&dir).unwrap().close().unwrap();
    Store::open_existing(&dir).unwrap().close().unwrap();
}

#[test]
fn what_has_to_be_created_must_not_be_there() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new");
    let log = new().open(&dir).unwrap();
    log.append(b"entry").unwrap();
    // That it exists says more than that it is in use.
    assert_exists(new().open(&dir), &dir);
    log.close().unwrap();
    assert_exists(new().open(&dir), &dir);
    assert_exists(new().create(true).open(&dir), &dir);
    assert_exists(new_store().open(&dir), &dir);
    assert_eq!(CommitLog::open_existing(&dir).unwrap().verify().unwrap().entries, 1);
    // With its MANIFEST lost it is a damaged log, and no empty place.
    fs::remove_file(dir.join("MANIFEST")).unwrap();
    assert_exists(new().open(&dir), &dir);
    assert!(matches!(existing().open(&dir), Err(OpenError::Manifest(_))));

    let empty = parent.path().join("empty");
    fs::create_dir(&empty).unwrap();
    new_store().open(&empty).unwrap().close().unwrap();
    assert_exists(new_store().open(&empty), &empty);
    let disk = SimulatedDisk::new();
    new().open_simulated(&disk).unwrap().close().unwrap();
    assert_exists(new().open_simulated(&disk), Path::new("the simulated disk"));
}

#[test]
fn of_several_that_create_one_succeeds() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new");
    let created = std::sync::Barrier::new(4);
    let open = || {
        created.wait();
        match new().open(&dir) {
            Ok(log) => log.close().map(|()| true).unwrap(),
            Err(OpenError::Exists { .. } | OpenError::Locked { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    };
    let won = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("home");
    fs::create_dir(&dir).unwrap();
    let latin = std::ffi::OsStr::from_bytes(b"caf\xe9");
    for name in ["notes.txt".as_ref(), "7.seg".as_ref(), "other.tmp".as_ref(), latin] {
        let other = dir.join(name);
        fs::write(&other, "precious").unwrap();
        for refused in [
            CommitLog::open(&dir).map(drop),
            new().open(&dir).map(drop),
            Store::open(&dir).map(drop),
        ] {
            match refused {
                Err(error @ OpenError::Foreign { .. }) => {
                    let said = error.to_string();
                    let found = format!(", but other files: {name:?}");
                    assert!(
                        said.starts_with("there is no log in ") && said.ends_with(&found),
                        "{said}"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        assert_missing(existing().open(&dir), &dir);
        assert!(paths(&dir) == [&*other], "nothing was made");
        fs::remove_file(other).unwrap();
    }
    // A directory is no less foreign.
    fs::create_dir(dir.join("photos")).unwrap();
    assert!(
        matches!(Store::open(&dir), Err(OpenError::Foreign { found, .. }) if found == "photos")
    );
}

#[test]
fn a_mount_point_is_as_good_as_empty() {
    let parent = tempfile::tempdir().unwrap();
    fs::create_dir(parent.path().join("lost+found")).unwrap();
    new_store().open(parent.path()).unwrap().close().unwrap();
    assert!(Store::open_existing(parent.path()).unwrap().is_empty());
}

/// What is in the directory of a log is not looked at again once it is one.
#[test]
fn other_files_beside_a_log_do_not_keep_it_from_opening() {
    let parent = tempfile::tempdir().unwrap();
    CommitLog::open(parent.path()).unwrap().close().unwrap();
    fs::write(parent.path().join("notes.txt"), "notes").unwrap();
    CommitLog::open_existing(parent.path()).unwrap().close().unwrap();
}

/// A creation that dies before its MANIFEST is written leaves nothing that a new one would stumble over;
/// from then on there is a log, which opens.
#[test]
fn a_creation_that_died_is_finished_by_the_next_one() {
    let disk = SimulatedDisk::new();
    let images = Arc::new(Mutex::new(Vec::new()));
    let taken = images.clone();
    disk.on_operation(move |disk, operation, name| {
        if operation.is_write() {
            taken.lock().unwrap().push((format!("{operation:?} {name}"), disk.process_death()));
        }
        Ok(())
    });
    common::small_store(UNIT).open_simulated(&disk).unwrap().abort();
    let images = std::mem::take(&mut *images.lock().unwrap());
    assert!(images.len() > 3);
    let parent = tempfile::tempdir().unwrap();
    let (mut created, mut existed) = (0, 0);
    for (nth, (before, image)) in images.into_iter().enumerate() {
        let dir = parent.path().join(nth.to_string());
        fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
        fs::write(dir.join("LOCK"), "").unwrap();
        mode(&dir.join("LOCK"), 0o600);
        let named = image.files().into_iter().map(|(name, _)| name);
        for name in named.chain(["MANIFEST".to_owned()]) {
            let Some(bytes) = image.read(&name) else { continue };
            fs::write(dir.join(&name), bytes).unwrap();
            mode(&dir.join(&name), 0o600);
        }
        let options = common::small_store(UNIT).create_new(true);
        match options.open(&dir) {
            Ok(store) => created += usize::from(store.close().is_ok()),
            Err(OpenError::Exists { .. }) => existed += 1,
            Err(other) => panic!("died before {before}: {other}"),
        }
        let store =
            common::small_store(UNIT).open(&dir).unwrap_or_else(|e| panic!("{before}: {e}"));
        store.put("key", "value").unwrap();
        store.close().unwrap();
    }
    assert!(created > 0 && existed > 0, "{created} {existed}");
}

/// They are about the store, and not about its copy, which is there when it is opened.
#[test]
fn a_repair_makes_its_copy_whatever_is_said_of_creating() {
    let dir = tempfile::tempdir().unwrap();
    let (store, log) = (dir.path().join("store"), dir.path().join("log"));
    Store::open(&store).unwrap().put("key", "value").unwrap();
    CommitLog::open(&log).unwrap().append(b"entry").unwrap();
    let copy = |name: &str| dir.path().join(name);
    new_store().repair(&store, copy("a store")).unwrap();
    assert_eq!(Store::open_existing(copy("a store")).unwrap().len(), 1);
    new().repair(&log, copy("a log")).unwrap();
    existing().repair(&log, copy("another log")).unwrap();
}
