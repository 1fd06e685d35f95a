//! Promise 7 on real, small file systems: at zero bytes free a log and a store open, read, delete and
//! merge; nothing is lost; and a signal never comes. Skipped, with a message, where this machine
//! cannot make them.
#![cfg(target_os = "linux")]

mod common;

use common::files::{change, paths_with};
use common::mounts::{self, Kind, fill, run_on};
use common::{count, entries, segment, small_store, until};
use std::path::Path;
use std::time::{Duration, Instant};
use tailcask::{
    AppendError, Batch, CommitLog, LogOptions, Maintenance, RecoveryMode, Store, StoreOptions,
    WriteError,
};

const VALUE: usize = 40_000;

fn log_options() -> LogOptions {
    CommitLog::options().segment_size(2 << 20)
}

fn options() -> StoreOptions {
    Store::options().segment_size(4 << 20)
}

#[test]
#[ignore = "the other process of the tests below"]
fn child() {
    let Some((role, place)) = mounts::role() else { return };
    match &role[..] {
        "filler" => fill_and_go_on(&place, Maintenance::Background),
        "manual filler" => fill_and_go_on(&place, Maintenance::Manual),
        "reopener" => reopen(&place),
        "opener" => open_with_little_space(&place),
        "log" => open_a_log(&place),
        "dead" => recover(&place),
        "cut off" => cut_off(&place),
        "neighbour" => leave_room(&place),
        "shrinker" => shrink(&place),
        "manifest" => write_a_manifest_without_its_spare(&place),
        other => panic!("there is no role {other}"),
    }
    mounts::done();
}

fn on_each(role: &str) {
    for (kind, mib) in [(Kind::Tmpfs, 40), (Kind::Ext4, 64), (Kind::Xfs, 320)] {
        run_on(kind, mib, role);
    }
}

fn free(place: &Path) -> u64 {
    let found = rustix::fs::statvfs(place).unwrap();
    found.f_bfree * found.f_frsize
}

fn key(n: u32) -> [u8; 4] {
    n.to_be_bytes()
}

fn value(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(VALUE / 4)
}

fn is_no_space(error: &WriteError) -> bool {
    matches!(error, WriteError::Append(AppendError::NoSpace { .. }))
}

/// Puts from `from` on until there is no space, and says how far it came.
fn put_until_full(store: &Store, from: u32) -> u32 {
    (from..).find(|&n| !is_put(store, n, Duration::from_secs(1))).expect("no disk is that large")
}

/// Puts, if there is space within this time: the store's own thread may merge, which takes some until it
/// is done, and what was merged goes when no thread looks at it.
fn is_put(store: &Store, n: u32, within: Duration) -> bool {
    let started = Instant::now();
    while let Err(error) = store.put(key(n), value(n)) {
        assert!(is_no_space(&error), "{error:?}");
        if started.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn check(store: &Store, is_there: impl Fn(u32) -> bool, puts: u32) {
    for n in 0..puts {
        let found = store.get(key(n)).unwrap();
        assert_eq!(found.is_some(), is_there(n), "key {n}");
        assert!(found.is_none_or(|found| *found == value(n)[..]), "key {n}");
    }
    let all = (0..puts).filter(|&n| is_there(n)).count();
    assert_eq!(store.len(), all as u64);
}

fn no_temporary_files(path: &Path) {
    for entry in std::fs::read_dir(path).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".tmp"), "{name}");
    }
}

#[test]
fn a_full_store_deletes_merges_and_goes_on() {
    on_each("filler");
}

#[test]
fn a_full_store_deletes_merges_and_goes_on_without_threads() {
    on_each("manual filler");
}

fn fill_and_go_on(place: &Path, maintenance: Maintenance) {
    let path = place.join("store");
    let store = options().maintenance(maintenance).open(&path).unwrap();
    let puts = put_until_full(&store, 0);
    fill(place, 0);
    assert!(is_no_space(&store.put("large", vec![1; VALUE]).unwrap_err()));
    check(&store, |_| true, puts);
    // More than the room that any segment has left: one in eight stays.
    let stays = |n: u32| n.is_multiple_of(8);
    for n in (0..puts).filter(|&n| !stays(n)) {
        match n % 3 {
            0 => assert!(store.delete(key(n)).unwrap()),
            1 => assert!(store.compare_and_swap(key(n), Some(&value(n)), None).unwrap().is_ok()),
            _ => drop(store.write(Batch::new().delete(key(n))).unwrap()),
        }
    }
    // What would have to wait for space is refused, and what needs none is answered.
    assert!(!store.put_if_absent(key(0), "other").unwrap());
    check(&store, stays, puts);
    // The store's own thread may have done some of it.
    store.merge().unwrap();
    check(&store, stays, puts);
    for n in (0..puts / 2).filter(|&n| !stays(n)) {
        assert!(is_put(&store, n, Duration::from_secs(60)), "{n} of {puts}");
    }
    let now = |n: u32| stays(n) || n < puts / 2;
    check(&store, now, puts);
    store.close().unwrap();
    no_temporary_files(&path);
    let store = options().open(&path).unwrap();
    assert!(store.recovery().is_clean(), "{}", store.recovery());
    check(&store, now, puts);
    store.verify().unwrap();
}

#[test]
fn a_full_store_is_opened_and_gets_out_of_it() {
    on_each("reopener");
}

fn reopen(place: &Path) {
    let path = place.join("store");
    let store = options().open(&path).unwrap();
    let puts = put_until_full(&store, 0);
    fill(place, 0);
    drop(store);
    // Without a byte free, and again and again; each one leaves what it finds.
    for _ in 0..3 {
        let store = options().open(&path).unwrap();
        check(&store, |_| true, puts);
        store.close().unwrap();
    }
    let log = log_options().open_read_only(&path).unwrap();
    assert!(log.verify().is_ok());
    drop(log);
    let store = options().open(&path).unwrap();
    let stays = |n: u32| n.is_multiple_of(8);
    for n in (0..puts).filter(|&n| !stays(n)) {
        assert!(store.delete(key(n)).unwrap());
    }
    drop(store);
    let store = options().open(&path).unwrap();
    check(&store, stays, puts);
    // The store's own thread may have done some of it.
    store.merge().unwrap();
    let now = put_until_full(&store, puts);
    assert!(now > puts + puts / 2, "there is room again: {puts}, {now}");
    check(&store, |n| stays(n) || n >= puts, now);
}

#[test]
fn opening_leaves_space_for_merges() {
    on_each("opener");
}

/// The first segment took all there was, and then no merge had space to free more.
fn open_with_little_space(place: &Path) {
    let path = place.join("store");
    let store = options().maintenance(Maintenance::Manual).open(&path).unwrap();
    for n in 0..500 {
        store.put(key(n), value(n)).unwrap();
    }
    for n in (0..500u32).filter(|&n| !n.is_multiple_of(8)) {
        store.delete(key(n)).unwrap();
    }
    store.close().unwrap();
    // No reserve, as after a delete that has used it.
    std::fs::remove_file(path.join("RESERVE")).unwrap();
    fill(place, (4 << 20) + (64 << 10));
    let store = options().maintenance(Maintenance::Manual).open(&path).unwrap();
    assert!(free(place) >= 2 << 20, "{} bytes are left", free(place));
    store.merge().unwrap();
    check(&store, |n| n.is_multiple_of(8), 500);
    store.close().unwrap();
}

#[test]
fn a_log_is_opened_without_a_byte_free_and_goes_on_once_there_is_space() {
    on_each("log");
}

fn open_a_log(place: &Path) {
    let path = place.join("log");
    let log = log_options().open(&path).unwrap();
    for n in 0..40u8 {
        log.append(&vec![n; 100_000]).unwrap();
    }
    log.close().unwrap();
    let ballast = fill(place, 0);
    for mode in [RecoveryMode::Strict, RecoveryMode::Salvage] {
        let log = log_options().recovery_mode(mode).open(&path).unwrap();
        assert_eq!(entries(&log).len(), 40);
        let refused = log.append(&vec![1; 100_000]);
        assert!(matches!(refused, Err(AppendError::NoSpace { .. })), "{refused:?}");
        log.sync().unwrap();
        assert_eq!(log.committed(), log.tail());
        log.close().unwrap();
    }
    let log = log_options().open(&path).unwrap();
    let tail = log.tail();
    std::fs::remove_file(ballast).unwrap();
    let position = log.append(&vec![40; 100_000]).unwrap();
    assert!(position >= tail);
    log.sync().unwrap();
    assert_eq!(log.read(position).unwrap().len(), 100_000);
    assert_eq!(entries(&log).len(), 41);
    log.abort();
    let log = log_options().open(&path).unwrap();
    let all = entries(&log);
    assert!(all.iter().enumerate().all(|(n, entry)| *entry == vec![n as u8; 100_000]));
    assert_eq!(all.len(), 41);
}

#[test]
fn a_log_that_a_dead_process_left_is_recovered_without_a_byte_free() {
    on_each("dead");
}

/// With a hole that has to be padded, and segments that have to be sealed.
fn recover(place: &Path) {
    let path = place.join("log");
    let log = log_options().maintenance(Maintenance::Manual).open(&path).unwrap();
    (0..40u8).for_each(|n| assert!(log.append(&vec![n; 100_000]).is_ok()));
    log.abandon_reservation(500);
    log.append(b"behind").unwrap();
    log.abort();
    let ballast = fill(place, 0);
    assert_eq!(count(&log_options().open_read_only(&path).unwrap()), 41);
    for round in 0..3 {
        let log = log_options().open(&path).unwrap();
        assert_eq!(log.recovery().holes, u64::from(round == 0));
        assert_eq!(count(&log), 41);
        log.abort();
    }
    std::fs::remove_file(ballast).unwrap();
    let log = log_options().open(&path).unwrap();
    log.append(b"more").unwrap();
    log.close().unwrap();
    assert_eq!(count(&log_options().open(&path).unwrap()), 42);
}

#[test]
fn a_log_that_a_power_loss_cut_off_is_opened_without_a_byte_free() {
    on_each("cut off");
}

/// With a torn tail and whole segments behind the end, all of which stay where they are: there is no
/// space for a folder.
fn cut_off(place: &Path) {
    let path = place.join("log");
    let log = log_options().maintenance(Maintenance::Manual).open(&path).unwrap();
    (0..80u8).for_each(|n| assert!(log.append(&vec![n; 100_000]).is_ok()));
    log.abort();
    // As after a power loss: another boot, and a page in the middle that never got to the device.
    for file in paths_with(&path, "seg") {
        change(&file, |bytes| {
            bytes[32] ^= 1;
            let crc = crc32fast::hash(&bytes[..60]);
            bytes[60..64].copy_from_slice(&crc.to_le_bytes());
            if file.ends_with(segment(1)) {
                bytes[1 << 20..][..4096].fill(0);
            }
        });
    }
    let ballast = fill(place, 0);
    for _ in 0..2 {
        let log = log_options().open(&path).unwrap();
        assert_eq!(count(&log), 10, "{}", log.recovery());
        assert_eq!(count(&log_options().open_read_only(&path).unwrap()), 10);
        log.abort();
        assert_eq!(count(&log_options().open_read_only(&path).unwrap()), 10);
    }
    std::fs::remove_file(ballast).unwrap();
    let log = log_options().open(&path).unwrap();
    log.append(b"more").unwrap();
    log.close().unwrap();
    let log = log_options().open(&path).unwrap();
    assert_eq!(count(&log), 11);
    assert!(log.recovery().set_aside.iter().all(|file| !file.name.is_empty()));
}

#[test]
fn the_last_space_is_left_to_others() {
    on_each("neighbour");
}

/// Nothing is written here any more, and so nothing may be taken for it.
fn leave_room(place: &Path) {
    let log = CommitLog::options().segment_size(16 << 20).initial_segment_size(4 << 20);
    let path = place.join("log");
    let log = log.open(&path).unwrap();
    log.append(b"one").unwrap();
    until("there is a standby", || paths_with(&path, "seg").len() > 1);
    fill(place, 6 << 20);
    // Rolls into the standby, and so another one is wanted.
    for _ in 0..50 {
        log.append(&vec![1; 100_000]).unwrap();
    }
    // For the thread that makes it to try.
    std::thread::sleep(Duration::from_secs(1));
    assert!(free(place) >= 4 << 20, "{} bytes are left", free(place));
}

#[test]
fn segments_shrink_where_space_is_short() {
    on_each("shrinker");
}

fn shrink(place: &Path) {
    let log = CommitLog::options().segment_size(8 << 20).initial_segment_size(8 << 20);
    let log = log.maintenance(Maintenance::Manual).open(place.join("log")).unwrap();
    fill(place, 2 << 20);
    let mut bytes = 0;
    while log.append(&[1; 10_000]).is_ok() {
        bytes += 10_000;
    }
    assert!(bytes > (8 << 20) + (1 << 20), "only {bytes} bytes");
    // And less than what that would take is no reason to make one after the other.
    let segments = log.stats().segments;
    for _ in 0..100 {
        assert!(log.append(&[1; 1 << 20]).is_err());
    }
    assert_eq!(log.stats().segments, segments);
    no_temporary_files(&place.join("log"));
}

/// Any file system will do: it is the store that has to know.
#[test]
fn a_manifest_that_takes_the_reserve_leaves_space_for_deletes() {
    run_on(Kind::Tmpfs, 8, "manifest");
}

fn write_a_manifest_without_its_spare(place: &Path) {
    let path = place.join("store");
    // A segment for each value. What one of them and the reserve free is too little for another reserve.
    let store = small_store(64 << 10).open(&path).unwrap();
    let dead = store.put(key(0), value(0)).unwrap().segment();
    for n in 0..20 {
        store.put(key(n), value(n)).unwrap();
    }
    store.maintain().unwrap();
    fill(place, 0);
    for len in [VALUE, 1000, 0] {
        while store.put("filler", vec![1; len]).is_ok() {}
    }
    std::fs::remove_file(path.join("MANIFEST.spare")).unwrap();
    fill(place, 0);
    assert!(path.join("RESERVE").exists());
    let report = store.merge_only(&[dead]).unwrap();
    assert_eq!((report.inputs, report.outputs), (1, 0));
    assert!(!path.join("RESERVE").exists(), "the MANIFEST has taken it");
    for len in [VALUE, 1000, 0] {
        let refused = (0..100_000).find_map(|_| store.put("filler", vec![1; len]).err());
        assert!(refused.is_some_and(|error| is_no_space(&error)));
    }
    for n in 0..20 {
        assert!(store.delete(key(n)).unwrap(), "key {n}");
    }
}
