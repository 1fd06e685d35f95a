//! Opening a store reads no frame: the hints say all that it takes. The frames are made unreadable while
//! the store is opened, and put back afterwards.

mod common;

use common::content::contents;
use common::files::paths_with;
use common::hints::Hint;
use common::store_by_hand;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tailcask::{Batch, ReadError, Store, StoreOptions, WriteOptions};

/// Where the frames of a segment begin.
const FRAMES: u64 = 128;
const KEYS: u32 = 300;

fn key(n: u32) -> String {
    format!("key {n}")
}

/// A closed store with overwritten, deleted and expired keys, batches, and merges of merged segments: with
/// copies that are newer and older than frames in log segments, and tombstones that were moved.
fn make(options: &StoreOptions, path: &Path, clock: &AtomicU64) {
    let store = options.open(path).unwrap();
    let sealed = |store: &Store, merged: bool| -> Vec<u32> {
        let all = store.stats().segments.into_iter();
        all.filter(|s| s.sealed && s.merged == merged).map(|s| s.id).collect()
    };
    for round in 0..6 {
        let ttl = WriteOptions::new().ttl(Duration::from_millis(10));
        for n in (0..KEYS).filter(|n| (n + round) % 3 != 0) {
            let value = [round as u8; 40];
            match (n + round) % 17 {
                0 => _ = store.put_with(key(n), value, &ttl).unwrap(),
                1..4 => _ = store.delete(key(n)).unwrap(),
                _ => _ = store.put(key(n), value).unwrap(),
            }
            if n % 100 == 50 {
                store.roll().unwrap();
            }
        }
        let mut batch = Batch::new();
        (0..20).for_each(|n| _ = batch.put(key(n * 5), [round as u8; 9]).delete(key(n * 7)));
        store.write(&batch).unwrap();
        store.roll().unwrap();
        let (log, merged) = (sealed(&store, false), sealed(&store, true));
        match round {
            2 => _ = store.merge_only(&log[..log.len() / 2]).unwrap(),
            3 => _ = store.merge_only(&log[log.len() - 2..]).unwrap(),
            4 => _ = store.merge_only(&[merged[0], log[0], log[1]]).unwrap(),
            _ => {}
        }
        clock.fetch_add(1000, Ordering::Relaxed);
    }
    let kept = store.stats().segments;
    assert!(kept.iter().filter(|segment| segment.merged).count() > 0, "{kept:?}");
    assert!(kept.iter().filter(|segment| !segment.merged).count() > 3, "{kept:?}");
    store.close().unwrap();
}

/// The frames of all segments, overwritten with something else.
struct Hidden(Vec<(PathBuf, Vec<u8>)>);

impl Hidden {
    fn hide(path: &Path) -> Self {
        let hide = |path: PathBuf| {
            let bytes = fs::read(&path).unwrap()[FRAMES as usize..].to_vec();
            let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            let other = vec![0xa5; end];
            write(&path, &other);
            (path, bytes[..end].to_vec())
        };
        Self(paths_with(path, "seg").into_iter().map(hide).collect())
    }

    fn put_back(&self) {
        self.0.iter().for_each(|(path, bytes)| write(path, bytes));
    }
}

fn write(path: &Path, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, FRAMES).unwrap();
}

#[test]
fn no_frame_is_read() {
    let clock = Arc::new(AtomicU64::new(1_000_000));
    let options = || store_by_hand().clock(clock.clone());
    // Also if all keys share a few tags, and if the first of the two hashes tells no keys apart.
    for options in [options(), options().tag_bits(3), options().first_half_bits(0)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        make(&options, &path, &clock);
        let (map, stats) = {
            let store = options.open(&path).unwrap();
            let (map, stats) = (contents(&store), store.stats());
            store.close().unwrap();
            (map, stats)
        };
        let segments = paths_with(&path, "seg").len() as u64;
        let hidden = Hidden::hide(&path);
        let store = options.open(&path).unwrap();
        let view = options.open_read_only(&path).unwrap();
        assert_eq!(store.recovery().hinted_segments, segments);
        assert_eq!(store.len(), stats.keys);
        // It was not read before either: it is as it should not be.
        let there = (0..KEYS).find(|&n| map.contains_key(key(n).as_bytes())).unwrap();
        assert!(matches!(store.get(key(there)), Err(ReadError::Corrupt(_))));
        hidden.put_back();
        assert_eq!(contents(&store), map);
        assert!((0..KEYS).all(|n| {
            let value = store.get(key(n)).unwrap();
            value.as_deref() == map.get(key(n).as_bytes()).map(|value| &value[..])
        }));
        store.verify().unwrap();
        view.verify().unwrap();
        assert_eq!((view.len(), view.iter().count()), (stats.keys, map.len()));
        let dead = |stats: &tailcask::Stats| {
            let sealed = stats.segments.iter().filter(|segment| segment.sealed);
            sealed.map(|segment| (segment.id, segment.dead_bytes)).collect::<Vec<_>>()
        };
        assert!(dead(&store.stats()).starts_with(&dead(&stats)), "as when frames could be read");
        store.merge().unwrap();
        assert_eq!(contents(&store), map);
        store.close().unwrap();
        assert_eq!(contents(&options.open(&path).unwrap()), map);
    }
}

/// Something wrong with a hint of several blocks, behind its first block.
type Harm = (&'static str, fn(&Path));

/// Hints are checked while the keydir is filled: what is wrong here is found late.
const HARM: [Harm; 9] = [
    ("a flipped bit in the second block", |hint| flip(hint, |_| 5000)),
    ("a flipped bit in the middle", |hint| flip(hint, |len| len / 2)),
    ("a flipped bit behind the last entry", |hint| flip(hint, |len| len / 4096 * 4096 - 4097)),
    ("two entries that changed places, far apart", |hint| {
        lie(hint, |all| all.swap(300, 900));
    }),
    ("two entries that changed places", |hint| lie(hint, |all| all.swap(700, 701))),
    ("an entry that is there twice", |hint| lie(hint, |all| all[500] = all[501])),
    ("all entries in the wrong order", |hint| lie(hint, |all| all.reverse())),
    ("a name that is too high", |hint| lie(hint, |all| all[400][0] = u64::MAX)),
    ("a frame beyond the end", |hint| lie(hint, |all| all[600][2] |= 0xfff_fff8)),
];

fn flip(hint: &Path, place: fn(usize) -> usize) {
    let mut bytes = fs::read(hint).unwrap();
    let at = place(bytes.len());
    bytes[at] ^= 16;
    fs::write(hint, bytes).unwrap();
}

/// With the right checksums.
fn lie(hint: &Path, change: fn(&mut Vec<[u64; 3]>)) {
    let mut hint = Hint::read(hint);
    change(&mut hint.entries);
    hint.write_unchecked();
}

/// What was taken from such a hint is taken back: the store is as it is with sound hints.
#[test]
fn a_hint_that_is_found_wrong_late_counts_for_nothing() {
    for options in [store_by_hand(), store_by_hand().tag_bits(3)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = options.open(&path).unwrap();
        for round in 0..3u32 {
            for n in (0..1500).map(|n| n + round * 500) {
                match (n + round) % 7 {
                    0 => _ = store.delete(key(n)).unwrap(),
                    _ => _ = store.put(key(n), round.to_le_bytes()).unwrap(),
                }
            }
            store.roll().unwrap();
        }
        store.close().unwrap();
        let state = || {
            let store = options.open(&path).unwrap();
            let segments = store.stats().segments.into_iter().filter(|segment| segment.sealed);
            let dead: Vec<_> = segments.map(|segment| (segment.id, segment.dead_bytes)).collect();
            let state = (store.len(), contents(&store), dead);
            let hinted = store.recovery().hinted_segments;
            store.verify().unwrap();
            store.abort();
            (state, hinted)
        };
        let (good, hinted) = state();
        let hints = paths_with(&path, "hint");
        let large: Vec<_> =
            hints.iter().filter(|path| fs::metadata(path).unwrap().len() > 5 * 4096).collect();
        assert_eq!(large.len(), 3);
        for (what, harm) in HARM {
            // The first one, the last one, and all of them.
            for harmed in [&large[..1], &large[2..], &large[..]] {
                let sound: Vec<_> = harmed.iter().map(|path| fs::read(path).unwrap()).collect();
                harmed.iter().for_each(|path| harm(path));
                let view = options.open_read_only(&path).unwrap();
                assert_eq!((view.len(), view.iter().count()), (good.0, good.1.len()), "{what}");
                drop(view);
                assert_eq!(state(), (good.clone(), hinted - harmed.len() as u64), "{what}");
                let written: Vec<_> = harmed.iter().map(|path| fs::read(path).unwrap()).collect();
                assert!(written == sound, "{what}: the hint is written anew");
            }
        }
    }
}
