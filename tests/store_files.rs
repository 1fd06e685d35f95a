//! Hazards 11 to 13 and 34 to 36 for the store: damaged and hostile files give an error or the right
//! answer, and a hint is never needed.

mod common;

use common::content::{Map, contents};
use common::small_store;
use std::os::unix::fs::symlink;
use std::time::Duration;
use tailcask::{Batch, RecoveryMode, SimulatedDisk, Store, StoreOptions, WriteOptions};

fn options() -> StoreOptions {
    small_store(4096)
}

/// A small store with a bit of everything: overwritten and deleted keys, a batch, an expiry, moved
/// frames, a moved tombstone, hints.
fn make() -> (SimulatedDisk, Map) {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("gone", "before").unwrap();
    store.put("key", "old").unwrap();
    store.roll().unwrap();
    store.put("key", "new").unwrap();
    store.delete("gone").unwrap();
    store.put("gone too", "x").unwrap();
    store.put_with("for long", "y", &WriteOptions::new().ttl(Duration::from_secs(9999))).unwrap();
    store.roll().unwrap();
    let last = store.stats().segments.iter().rfind(|s| s.sealed).unwrap().id;
    assert_eq!(store.merge_only(&[last]).unwrap().tombstones_kept, 1);
    store.delete("gone too").unwrap();
    let mut batch = Batch::new();
    batch.put("a", "1").put("b", "").delete("key").put("key", "newest");
    store.write(&batch).unwrap();
    store.roll().unwrap();
    store.put("last", "one").unwrap();
    store.maintain().unwrap();
    let map = contents(&store);
    assert_eq!(map.len(), 5);
    store.close().unwrap();
    (disk, map)
}

const KEYS: [&str; 8] = ["key", "gone", "gone too", "for long", "a", "b", "last", "never"];

/// Every answer is an error or the right one; says whether all were answers.
fn check(disk: &SimulatedDisk, map: &Map, merge: bool, what: &str) -> bool {
    let Ok(store) = options().open_simulated(disk) else { return false };
    let mut sound = true;
    for key in KEYS {
        match store.get(key) {
            Ok(found) => {
                let expected = map.get(key.as_bytes());
                assert_eq!(found.as_deref(), expected.map(|v| &v[..]), "{key}, {what}");
            }
            Err(_) => sound = false,
        }
    }
    for pair in &store {
        match pair {
            Ok(pair) => {
                assert_eq!(map.get(pair.key()).map(|v| &v[..]), Some(pair.value()), "{what}");
            }
            Err(_) => sound = false,
        }
    }
    // A merge copies nothing that is damaged, and loses nothing that is not.
    if merge && store.merge().is_ok() && sound {
        let after = KEYS.map(|key| store.get(key).unwrap().map(|value| value.to_vec()));
        assert_eq!(after, KEYS.map(|key| map.get(key.as_bytes()).cloned()), "{what}");
    }
    sound
}

fn files(disk: &SimulatedDisk) -> Vec<(String, usize)> {
    let mut files = disk.files();
    files.push(("MANIFEST".to_owned(), 80));
    files
}

#[test]
fn every_flipped_bit_is_an_error_or_changes_nothing() {
    let (disk, map) = make();
    assert!(check(&disk.process_death(), &map, true, "nothing"));
    let mut errors = 0;
    for (name, len) in files(&disk) {
        for bit in 0..len.min(480) * 8 {
            let image = disk.process_death();
            if image.flip(&name, bit / 8, 1 << (bit % 8)) {
                errors +=
                    u32::from(!check(&image, &map, bit % 5 == 0, &format!("{name}, bit {bit}")));
            }
        }
    }
    assert!(errors > 1000, "{errors}");
}

#[test]
fn every_truncation_is_an_error_or_changes_nothing() {
    let (disk, map) = make();
    for (name, len) in files(&disk) {
        for len in (1..len.min(480)).chain([len - 8, len - 1]) {
            let image = disk.process_death();
            if image.cut(&name, len) {
                check(&image, &map, len % 5 == 0, &format!("{name}, {len} bytes"));
            }
        }
    }
}

/// Hazard 11: a hint that is missing, damaged, or of another segment, is as good as none.
#[test]
fn without_its_hint_a_segment_is_read() {
    let (disk, map) = make();
    let hints: Vec<_> = disk.files().into_iter().filter(|(n, _)| n.ends_with(".hint")).collect();
    assert!(hints.len() >= 3, "{hints:?}");
    let hinted = |disk: &SimulatedDisk| {
        let store = options().open_simulated(disk).unwrap();
        assert_eq!(contents(&store), map);
        store.recovery().hinted_segments
    };
    let all = hinted(&disk.process_death());
    assert_eq!(all, hints.len() as u64);
    for (nth, (name, len)) in hints.iter().enumerate() {
        let missing = disk.process_death();
        assert!(missing.cut(name, 0));
        let damaged = disk.process_death();
        assert!(damaged.flip(name, len / 2, 4));
        let torn = disk.process_death();
        assert!(torn.cut(name, len - 8));
        let stale = disk.process_death();
        assert!(stale.copy(&hints[(nth + 1) % hints.len()].0, name));
        for image in [missing, damaged, torn, stale] {
            assert_eq!(hinted(&image), all - 1, "only {name} is of no use");
        }
    }
}

/// Hazard 12: what has a bad checksum never gets into the keydir, nor into a merged segment.
#[test]
fn salvage_takes_what_is_sound_and_names_the_rest() {
    let (disk, map) = make();
    for (name, _) in disk.files().iter().filter(|(name, _)| name.ends_with(".seg")) {
        let image = disk.process_death();
        // Inside the first frame, and without a hint that would skip over it.
        assert!(image.flip(name, 145, 1));
        image.cut(&name.replace(".seg", ".hint"), 0);
        assert!(options().open_simulated(&image.process_death()).is_err(), "{name}");
        let store = options().recovery_mode(RecoveryMode::Salvage).open_simulated(&image).unwrap();
        assert!(!store.recovery().lost.is_empty(), "{name}");
        let found = contents(&store);
        assert!(found.len() + 1 >= map.len(), "one frame is damaged: {found:?}");
        assert!(store.verify().is_ok(), "what is damaged was set aside, and is gone from here");
        store.close().unwrap();
        assert_eq!(contents(&options().open_simulated(&image).unwrap()), found, "{name}");
    }
}

/// Hazard 13.
#[test]
fn opening_a_damaged_store_again_and_again_leaks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    (0..100u32).for_each(|n| _ = store.put(n.to_le_bytes(), [1; 100]).unwrap());
    store.close().unwrap();
    drop(store);
    let file = path.join("00000000000000000001.seg");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    std::fs::remove_file(path.join("00000000000000000001.hint")).unwrap();
    let count = |what: &str| match what {
        "maps" => {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.matches(path.to_str().unwrap()).count()
        }
        _ => {
            let all = std::fs::read_dir("/proc/self/fd").unwrap();
            let names = all.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
            names.filter(|name| name.starts_with(&path)).count()
        }
    };
    for _ in 0..20 {
        Store::open(&path).unwrap_err();
    }
    assert_eq!((count("maps"), count("descriptors")), (0, 0));
}

/// Hazard 36: links, directories and names of others are ignored, never followed, never deleted.
#[test]
fn what_is_no_file_of_the_store_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    store.put("key", "value").unwrap();
    store.close().unwrap();
    let precious = dir.path().join("precious");
    std::fs::write(&precious, "not a hint").unwrap();
    let hint = path.join("00000000000000000001.hint");
    std::fs::remove_file(&hint).unwrap();
    symlink(&precious, &hint).unwrap();
    symlink(&precious, path.join("00000000000000000077.hint")).unwrap();
    std::fs::create_dir(path.join("00000000000000000078.hint")).unwrap();
    for stray in ["1.hint", "notes.txt", "00000000000000000001.hint.bak"] {
        std::fs::write(path.join(stray), "mine").unwrap();
    }
    for _ in 0..2 {
        let store = Store::open(&path).unwrap();
        assert_eq!(&*store.get("key").unwrap().unwrap(), b"value");
        assert_eq!(store.recovery().hinted_segments, 0);
        store.close().unwrap();
    }
    assert_eq!(std::fs::read(&precious).unwrap(), b"not a hint");
    for stray in ["1.hint", "notes.txt", "00000000000000000001.hint.bak"] {
        assert_eq!(std::fs::read(path.join(stray)).unwrap(), b"mine");
    }
    assert!(path.join("00000000000000000078.hint").is_dir());
    assert!(path.join("00000000000000000077.hint").is_symlink());
}
