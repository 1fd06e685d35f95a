//! Overwrites, deletes and merges for a while, beside a reader that never lets go: what the store
//! takes of memory, descriptors, maps and disk stays bounded.

use crate::common::{Finish, HANG, until};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tailcask::{MergePolicy, Store};

const KEYS: u64 = 4000;
const SEGMENT: u64 = 8 << 20;
/// Bytes of values.
const ENOUGH: u64 = 40 * SEGMENT;

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    disk: u64,
    anonymous: u64,
    descriptors: u64,
    maps: u64,
}

impl Taken {
    fn now(path: &Path) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kib: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
        // Files may be removed meanwhile.
        let files =
            std::fs::read_dir(path).unwrap().filter_map(|entry| entry.ok()?.metadata().ok());
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        Self {
            disk: files.map(|file| file.blocks() * 512).sum(),
            anonymous: kib * 1024,
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count() as u64,
            maps: maps.lines().filter(|line| line.contains(".seg")).count() as u64,
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            disk: self.disk.max(other.disk),
            anonymous: self.anonymous.max(other.anonymous),
            descriptors: self.descriptors.max(other.descriptors),
            maps: self.maps.max(other.maps),
        }
    }
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    *state >> 33
}

/// Values say whose they are, so that a mix-up is seen.
fn value(key: u64, n: u64) -> Vec<u8> {
    let len = 16 + (n % 2000) as usize;
    key.to_le_bytes().into_iter().cycle().take(len).collect()
}

fn write(store: &Store, thread: u64, stop: &AtomicBool, written: &AtomicU64) {
    let mut state = thread + 1;
    while !stop.load(Relaxed) {
        let (key, n) = (next(&mut state) % KEYS, next(&mut state));
        if n % 5 == 0 {
            store.delete(key.to_le_bytes()).unwrap();
        } else {
            let value = value(key, n);
            written.fetch_add(value.len() as u64, Relaxed);
            store.put(key.to_le_bytes(), value).unwrap();
        }
        // Keys that come once, and go.
        if n % 7 == 0 {
            let once = [thread.to_le_bytes(), n.to_le_bytes()].concat();
            store.put(&once, b"job").unwrap();
            assert!(store.delete(&once).unwrap());
        }
        // As fast as a disk might be: the point is how long, and not how fast.
        if n % 256 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn read(store: &Store, stop: &AtomicBool) {
    let mut state = 99;
    while !stop.load(Relaxed) {
        let key = next(&mut state) % KEYS;
        if let Some(found) = store.get(key.to_le_bytes()).unwrap() {
            assert!(found.chunks(8).all(|part| part == &key.to_le_bytes()[..part.len()]));
        }
        if key == 0 {
            let mut keys: Vec<_> = store.keys().map(Result::unwrap).collect();
            let all = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), all);
        }
    }
}

#[test]
fn what_a_store_takes_stays_bounded() {
    let (started, lasts) = (Instant::now(), Duration::from_secs(crate::seconds().unwrap_or(15)));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let policy = MergePolicy::new().min_dead_bytes(256 << 10);
    let store = Store::options().segment_size(SEGMENT).merge_policy(policy).open(&path).unwrap();
    store.put("held", "for ever").unwrap();
    let held = store.get("held").unwrap().unwrap();
    let mut abandoned = store.iter();
    abandoned.next();
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let most = std::thread::scope(|scope| {
        for n in 0..2 {
            let (store, stop, written) = (&store, &stop, &written);
            scope.spawn(move || write(store, n, stop, written));
        }
        scope.spawn(|| read(&store, &stop));
        let _finish = Finish(&stop);
        let mut most = Taken::default();
        // On a slow machine it takes longer until enough is written to show anything.
        while started.elapsed() < lasts || written.load(Relaxed) < ENOUGH {
            std::thread::sleep(Duration::from_millis(50));
            most = most.most(Taken::now(&path));
            assert!(started.elapsed() < lasts + HANG, "{} bytes", written.load(Relaxed));
        }
        most
    });
    let stats = store.stats();
    let written = written.load(Relaxed);
    println!("{written} bytes of values written; at most {most:?}; {:?}", stats.merges);
    assert!(stats.merges.merges > 0 && stats.merges.failures == 0, "{:?}", stats.merges);
    // 4000 values of a kilobyte are live, twice that may be full of dead ones; then there are the
    // active segment, the one that stands by, a merge's outputs, and what is written while a sync
    // takes its time, which before a merge's inputs may go is waited for.
    assert!(most.disk < 32 * SEGMENT, "{most:?}");
    assert!(most.maps < 64 && most.descriptors < 96, "{most:?}");
    assert!(most.anonymous < 256 << 20, "{most:?}");
    assert_eq!(&*held, b"for ever");
    // What was retired last is unmapped in a moment.
    until("only the segment of the one reader is held", || {
        store.stats().segments_waiting_for_readers == 1
    });
    drop((held, abandoned));
    store.verify().unwrap();
    store.close().unwrap();
    Store::open(&path).unwrap().verify().unwrap();
}
