//! Real file systems: which ones are taken, what is shared with a copy, and mounts that cannot be
//! written to. Skipped, with a message, where this machine cannot make them.
#![cfg(target_os = "linux")]

mod common;

use common::entries;
use common::mounts::{self, Kind, fill, run_on};
use std::path::Path;
use std::process::Command;
use tailcask::{CommitLog, LogOptions, Maintenance, OpenError, Store};

fn options() -> LogOptions {
    CommitLog::options().segment_size(2 << 20)
}

#[test]
#[ignore = "the other process of the tests below"]
fn child() {
    let Some((role, place)) = mounts::role() else { return };
    match &role[..] {
        "user" => use_it(&place),
        "refused" => be_refused(&place),
        "reflink" => open_reflinked(&place),
        "read-only" => read_only(&place),
        other => panic!("there is no role {other}"),
    }
    mounts::done();
}

#[test]
fn file_systems_that_write_in_place_are_taken() {
    for (kind, mib) in [(Kind::Tmpfs, 64), (Kind::Ext4, 64), (Kind::Xfs, 320)] {
        run_on(kind, mib, "user");
    }
}

fn use_it(place: &Path) {
    let store = Store::options().segment_size(2 << 20).open(place.join("s")).unwrap();
    for n in 0..8u8 {
        store.put([n], vec![n; 1 << 20]).unwrap();
    }
    (0..4u8).for_each(|n| assert!(store.delete([n]).unwrap()));
    store.merge().unwrap();
    store.close().unwrap();
    let store = Store::open(place.join("s")).unwrap();
    assert_eq!(store.len(), 4);
    assert_eq!(store.verify().unwrap().keys, 4);
}

#[test]
fn one_that_copies_on_write_is_refused_unless_it_is_asked_for() {
    run_on(Kind::Btrfs, 160, "refused");
}

fn be_refused(place: &Path) {
    let path = place.join("log");
    match options().open(&path) {
        Err(OpenError::FileSystem { path: refused, name }) => {
            assert_eq!((&refused, &name[..]), (&path, "btrfs"));
        }
        other => panic!("{other:?}"),
    }
    assert!(!path.exists(), "nothing is left of it");
    let log = options().any_file_system(true).open(&path).unwrap();
    log.append(b"one").unwrap();
    log.close().unwrap();
    // Reading is not in danger.
    assert_eq!(entries(&options().open_read_only(&path).unwrap()), [b"one"]);
    assert!(matches!(Store::open(&path), Err(OpenError::FileSystem { .. })));
}

#[test]
fn a_reflinked_log_on_a_full_xfs_is_no_space_and_never_a_signal() {
    run_on(Kind::Xfs, 320, "reflink");
}

/// A segment that is written to its last page, so that the copy shares all of it, and a hole among
/// the frames, which opening pads.
fn open_reflinked(place: &Path) {
    let (path, copy) = (place.join("log"), place.join("copy"));
    let log = options().maintenance(Maintenance::Manual).open(&path).unwrap();
    log.append(b"before").unwrap();
    log.abandon_reservation(100);
    log.append(&vec![1; (2 << 20) - 3000]).unwrap();
    log.abort();
    let check = |log: &CommitLog| {
        let all = entries(log);
        assert_eq!((all.len(), &all[0][..], all[1].len()), (2, &b"before"[..], (2 << 20) - 3000));
    };
    let copied = Command::new("cp").args(["-a", "--reflink=always"]).args([&path, &copy]).status();
    assert!(copied.unwrap().success());
    // Room for a MANIFEST, and not for what is to be unshared.
    let ballast = fill(place, 1 << 20);
    match options().open(&copy) {
        Err(OpenError::Io { operation, source }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
            assert!(operation.starts_with("allocate segment"), "{operation}");
        }
        other => panic!("{other:?}"),
    }
    check(&options().open_read_only(&copy).unwrap());
    std::fs::remove_file(ballast).unwrap();
    for path in [copy, path] {
        check(&options().open(path).unwrap());
    }
}

#[test]
fn reading_works_on_a_mount_that_cannot_be_written_to() {
    run_on(Kind::Tmpfs, 32, "read-only");
}

fn read_only(place: &Path) {
    let path = place.join("log");
    let log = options().open(&path).unwrap();
    log.append(b"one").unwrap();
    log.abort();
    std::fs::remove_file(path.join("LOCK")).unwrap();
    let status = Command::new("mount").args(["-o", "remount,ro"]).arg(place).status().unwrap();
    assert!(status.success());
    assert_eq!(entries(&options().open_read_only(&path).unwrap()), [b"one"]);
    match options().open(&path) {
        Err(OpenError::Io { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        }
        other => panic!("{other:?}"),
    }
}
