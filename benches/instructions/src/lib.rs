//! What the operations are done to: made the same each time, on one thread.

use std::path::{Path, PathBuf};
use tailcask::{CommitLog, Maintenance, Store};
use tempfile::TempDir;

/// Operations in one measurement.
pub const TIMES: usize = 1000;
/// Pairs in a store.
pub const KEYS: u64 = 10_000;
const SEGMENT: u64 = 64 << 20;

pub type Key = [u8; 16];

pub fn key(n: u64) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    key[8..].copy_from_slice(&n.to_le_bytes());
    key
}

/// `TIMES` different keys of the first `keys`, in no order, from the `from`-th on.
pub fn keys(from: u64, keys: u64) -> Vec<Key> {
    // A step that has no divisor in common with the number of keys comes to each once.
    (0..TIMES as u64).map(|i| key(from + i * 7919 % keys)).collect()
}

/// Hash secrets, salts and ids are drawn from a fixed seed. One processor: opening then needs no
/// other thread, whose instructions would not be counted.
fn same_each_time() {
    tailcask::seed_random(42);
    // SAFETY: zeros are a set of no processors, and the pointers are to one.
    unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        assert_eq!(libc::sched_getaffinity(0, size, &mut cpus), 0);
        let first = (0..libc::CPU_SETSIZE as usize).find(|cpu| libc::CPU_ISSET(*cpu, &cpus));
        libc::CPU_ZERO(&mut cpus);
        libc::CPU_SET(first.expect("this one"), &mut cpus);
        assert_eq!(libc::sched_setaffinity(0, size, &cpus), 0);
    }
}

/// What is measured, and the directory that goes after it.
pub struct On<T> {
    pub it: T,
    pub dir: TempDir,
}

/// A log whose segment has room for all that is appended.
pub fn log(len: usize) -> (On<CommitLog>, Vec<u8>) {
    same_each_time();
    let dir = tempfile::tempdir().expect("a directory");
    let options = CommitLog::options().maintenance(Maintenance::Manual);
    let options = options.segment_size(SEGMENT).initial_segment_size(SEGMENT);
    let log = options.open(dir.path().join("log")).expect("a log");
    let entry = vec![7; len];
    for _ in 0..100 {
        log.append(&entry).expect("appended");
    }
    (On { it: log, dir }, entry)
}

pub const VALUE: [u8; 100] = [7; 100];

pub fn open(path: &Path) -> Store {
    let options = Store::options().maintenance(Maintenance::Manual);
    let options = options.segment_size(SEGMENT).initial_segment_size(SEGMENT);
    options.open(path).expect("a store")
}

/// A store with `KEYS` pairs.
pub fn store() -> On<Store> {
    same_each_time();
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("store"));
    for n in 0..KEYS {
        store.put(key(n), VALUE).expect("put");
    }
    On { it: store, dir }
}

/// The same, closed. Closing writes its hints; without, opening reads every frame.
pub fn closed(hints: bool) -> On<PathBuf> {
    let On { it: store, dir } = store();
    store.close().expect("closed");
    let path = dir.path().join("store");
    let files = std::fs::read_dir(&path).expect("there").map(|entry| entry.expect("one").path());
    let found: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|e| e == "hint")).collect();
    assert!(!found.is_empty(), "closing wrote hints");
    if !hints {
        found.iter().for_each(|hint| std::fs::remove_file(hint).expect("removed"));
    }
    On { it: path, dir }
}
