//! A damaged value is an error until its key is set or deleted, and is then gone. Merging goes on around
//! damage, and nothing that was deleted comes back because of it.

mod common;

use common::files::{copy_dir, flip};
use common::{contents, hint, sealed as full, segment, store_by_hand as options, value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tailcask::{MergeError, RecoveryMode, SimulatedDisk, Store, StoreOptions, WriteOptions};

fn salvage() -> StoreOptions {
    options().recovery_mode(RecoveryMode::Salvage)
}

/// What of a frame is damaged.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Part {
    Length,
    Checksum,
    Key,
    Value,
}

const PARTS: [Part; 4] = [Part::Length, Part::Checksum, Part::Key, Part::Value];

/// A store in which one value is damaged, beside others in the same segment and in another one; and the
/// segment that it is in.
fn make(part: Part) -> (SimulatedDisk, u32) {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("before", "1").unwrap();
    let at = store.put("the key ", "the value").unwrap();
    store.put("behind", "2").unwrap();
    store.put("dead", [0; 500]).unwrap();
    store.roll().unwrap();
    store.put("elsewhere", "3").unwrap();
    store.put("dead", "alive").unwrap();
    store.put("dead", "now").unwrap();
    store.roll().unwrap();
    store.close().unwrap();
    let by = match part {
        Part::Length => 1,
        Part::Checksum => 5,
        Part::Key => 16,
        Part::Value => 16 + 8,
    };
    assert!(disk.flip(&segment(at.segment()), at.offset() as usize + by, 32));
    (disk, at.segment())
}

/// All but the damaged one.
fn others(store: &Store) {
    for (key, expected) in [("before", "1"), ("behind", "2"), ("dead", "now"), ("elsewhere", "3")] {
        assert_eq!(value(store, key).as_deref(), Some(expected.as_bytes()), "{key}");
    }
}

/// Without a hint that would step over damage.
fn without_hints(disk: &SimulatedDisk) -> SimulatedDisk {
    let image = disk.process_death();
    for (name, _) in image.files().into_iter().filter(|(name, _)| name.ends_with(".hint")) {
        image.cut(&name, 0);
    }
    image
}

#[test]
fn merges_step_around_damage_and_say_so() {
    for part in PARTS {
        let (disk, damaged) = make(part);
        let store = options().open_simulated(&disk).unwrap();
        store.get("the key ").unwrap_err();
        store.verify().unwrap_err();
        let before = full(&store);
        match store.merge().unwrap_err() {
            MergeError::Corrupt(corruption) => assert_eq!(corruption.segment, damaged, "{part:?}"),
            other => panic!("{other}"),
        }
        // The rest is merged, in this merge or the next, which do not fail any more.
        for _ in 0..3 {
            store.merge().unwrap();
            store.maintain().unwrap();
        }
        let stats = store.stats();
        assert_eq!(stats.damaged.len(), 1);
        assert_eq!((stats.damaged[0].id, stats.damaged[0].first.segment), (damaged, damaged));
        assert!(stats.damaged[0].bytes >= 40, "{part:?}: {}", stats.damaged[0].bytes);
        assert_eq!(stats.merges.failures, 1);
        let left: Vec<_> = full(&store).into_iter().filter(|id| before.contains(id)).collect();
        assert_eq!(left, [damaged], "{part:?}");
        others(&store);
        store.get("the key ").unwrap_err();
        store.close().unwrap();
        // Also after opening again the damage is an error, with a hint and without.
        if let Ok(store) = options().open_simulated(&disk) {
            others(&store);
            store.get("the key ").unwrap_err();
        }
        options().open_simulated(&without_hints(&disk)).unwrap_err();
    }
}

#[test]
fn what_is_damaged_can_be_deleted_and_is_then_gone() {
    for part in PARTS {
        let (disk, damaged) = make(part);
        let store = options().open_simulated(&disk).unwrap();
        let _ = store.merge();
        store.delete("the key ").unwrap_err();
        assert!(store.delete_damaged("the key ").unwrap(), "{part:?}");
        assert!(!store.delete_damaged("the key ").unwrap());
        assert_eq!(value(&store, "the key "), None);
        let report = store.verify().unwrap();
        assert_eq!(report.damaged, 1, "{part:?}: it is there, and nothing needs it");
        store.maintain().unwrap();
        store.merge().unwrap();
        assert!(!full(&store).contains(&damaged), "{part:?}");
        assert_eq!(store.stats().damaged, []);
        assert_eq!(store.verify().unwrap().damaged, 0);
        others(&store);
        store.close().unwrap();
        for disk in [without_hints(&disk), disk] {
            let store = options().open_simulated(&disk).unwrap();
            assert_eq!(value(&store, "the key "), None, "{part:?}");
            others(&store);
            store.verify().unwrap();
        }
    }
}

#[test]
fn what_is_damaged_can_be_overwritten_and_is_then_gone() {
    for part in PARTS {
        let (disk, damaged) = make(part);
        let store = options().open_simulated(&disk).unwrap();
        if store.put("the key ", "new").is_err() {
            assert_eq!(part, Part::Key, "whose it is cannot be told");
            assert!(store.delete_damaged("the key ").unwrap());
            store.put("the key ", "new").unwrap();
        }
        assert_eq!(store.verify().unwrap().damaged, 1, "{part:?}");
        if part != Part::Key {
            // What is overwritten with a value that is sound does not keep the store from opening.
            let again = options().open_simulated(&disk.process_death()).unwrap();
            assert_eq!(value(&again, "the key ").unwrap(), b"new");
        }
        store.merge().unwrap();
        assert!(!full(&store).contains(&damaged), "{part:?}");
        assert_eq!(store.verify().unwrap().damaged, 0);
        store.close().unwrap();
        for disk in [without_hints(&disk), disk] {
            let store = options().open_simulated(&disk).unwrap();
            assert_eq!(value(&store, "the key ").unwrap(), b"new", "{part:?}");
            others(&store);
            store.verify().unwrap();
        }
    }
}

#[test]
fn deleting_what_is_sound_or_not_there_is_as_always() {
    let (disk, _) = make(Part::Value);
    let store = options().open_simulated(&disk).unwrap();
    assert!(store.delete_damaged("behind").unwrap());
    assert_eq!(value(&store, "behind"), None);
    assert!(!store.delete_damaged("never").unwrap());
    store.abort();
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(value(&store, "behind"), None);
}

/// In a merged segment: whether what is damaged there is newer is not asked of it where it cannot be.
#[test]
fn a_damaged_copy_that_was_overwritten_does_not_matter() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("the key ", "old").unwrap();
    store.put("other", "1").unwrap();
    store.merge().unwrap();
    store.merge_only(&full(&store)).unwrap();
    let at = store.get("the key ").unwrap().unwrap().position();
    store.put("the key ", "new").unwrap();
    store.close().unwrap();
    // The position that it was first written at.
    assert!(disk.flip(&segment(at.segment()), at.offset() as usize + 16 + 4, 64));
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(value(&store, "the key ").unwrap(), b"new");
    assert_eq!(store.verify().unwrap().damaged, 1);
    store.merge().unwrap();
    assert_eq!(store.verify().unwrap().damaged, 0);
    assert_eq!(contents(&store).len(), 2);
}

/// A damaged tombstone hides what it hid for as long as there is something to be hidden.
#[test]
fn a_damaged_tombstone_brings_nothing_back() {
    for part in [Part::Checksum, Part::Key] {
        let dir = tempfile::tempdir().unwrap();
        let (path, image) = (dir.path().join("store"), dir.path().join("image"));
        let store = options().open(&path).unwrap();
        store.put("deleted ", "old").unwrap();
        store.put("beside", "1").unwrap();
        store.roll().unwrap();
        let first = *full(&store).last().unwrap();
        store.put("also", "2").unwrap();
        let place = store.log().tail();
        store.delete("deleted ").unwrap();
        store.roll().unwrap();
        store.maintain().unwrap();
        let second = place.segment();
        // In this process, which knows of the delete.
        let by = if part == Part::Key { 16 } else { 5 };
        flip(&path.join(segment(second)), u64::from(place.offset()) + by, 8);
        assert!(matches!(store.merge_only(&[second]), Err(MergeError::Corrupt(_))), "{part:?}");
        store.verify().unwrap_err();
        assert!(full(&store).contains(&second), "it may hide what is in the first one");
        // Never without notice.
        copy_dir(&path, &image, true);
        if let Ok(again) = options().open(&image) {
            assert_eq!(value(&again, "deleted "), None, "{part:?}");
        }
        copy_dir(&path, &image, false);
        options().open(&image).unwrap_err();
        // Once what it hides is gone it may go.
        assert_eq!(store.merge_only(&[first]).unwrap().puts_moved, 1);
        assert_eq!(store.verify().unwrap().damaged, 1);
        store.merge_only(&[second]).unwrap();
        assert!(!full(&store).contains(&second));
        assert_eq!(store.verify().unwrap().damaged, 0);
        store.close().unwrap();
        assert!(path.join("set-aside").join(segment(second)).exists());
        for hints in [true, false] {
            copy_dir(&path, &image, hints);
            let again = options().open(&image).unwrap();
            assert_eq!(value(&again, "deleted "), None, "{part:?}");
            assert_eq!(contents(&again).len(), 2);
            again.verify().unwrap();
        }
    }
}

/// Without a hint a damaged frame may have said anything.
#[test]
fn damage_of_which_nothing_is_known_stays_while_anything_older_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    store.put("old", "1").unwrap();
    store.roll().unwrap();
    let at = store.put("overwritten", [1; 100]).unwrap();
    store.put("kept", "2").unwrap();
    store.roll().unwrap();
    store.put("overwritten", "new").unwrap();
    store.maintain().unwrap();
    std::fs::remove_file(path.join(hint(at.segment()))).unwrap();
    flip(&path.join(segment(at.segment())), u64::from(at.offset()) + 60, 8);
    for _ in 0..2 {
        let _ = store.merge_only(&[at.segment()]);
        assert!(full(&store).contains(&at.segment()), "it may hide something older");
        assert_eq!(contents(&store).len(), 3);
        store.verify().unwrap_err();
    }
    // Together with all that is older: what is dead there goes as well.
    store.merge().unwrap();
    assert!(!full(&store).contains(&at.segment()));
    assert_eq!(contents(&store).len(), 3);
    store.verify().unwrap();
}

/// Salvage reads everything and heals: what is lost is reported, and no longer an error.
#[test]
fn salvage_lists_damage_in_spite_of_hints_and_heals() {
    for part in PARTS {
        for hinted in [true, false] {
            let (disk, damaged) = make(part);
            let disk = if hinted { disk } else { without_hints(&disk) };
            let store = salvage().open_simulated(&disk).unwrap();
            let lost = &store.recovery().lost;
            assert!(lost.iter().any(|lost| lost.segment == damaged), "{part:?} {hinted}: {lost:?}");
            others(&store);
            assert_eq!(value(&store, "the key "), None);
            store.verify().unwrap();
            store.merge().unwrap();
            assert_eq!(store.stats().damaged, []);
            store.verify().unwrap();
            store.close().unwrap();
            let store = options().open_simulated(&disk).unwrap();
            assert!(store.recovery().is_clean());
            others(&store);
            assert_eq!(value(&store, "the key "), None);
            store.verify().unwrap();
        }
    }
}

/// Damage that is met before there is a hint can be healed, too.
#[test]
fn damage_in_a_segment_that_was_just_sealed_can_be_healed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    let at = store.put("the key ", "the value").unwrap();
    store.put("beside", "1").unwrap();
    store.roll().unwrap();
    flip(&path.join(segment(at.segment())), u64::from(at.offset()) + 24, 8);
    let _ = store.maintain();
    assert_eq!(store.stats().damaged[0].id, at.segment());
    store.get("the key ").unwrap_err();
    store.verify().unwrap_err();
    assert!(store.delete_damaged("the key ").unwrap());
    store.merge().unwrap();
    assert_eq!(store.stats().damaged, []);
    assert_eq!(store.verify().unwrap().damaged, 0);
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert_eq!(contents(&store).len(), 1);
    assert_eq!(value(&store, "beside").unwrap(), b"1");
}

/// A merge copies what has a key. Beside damage nobody has counted what has none.
#[test]
fn entries_of_the_log_beside_damage_stay_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    let at = store.put("the key ", "the value").unwrap();
    let entry = store.log().append(b"an entry").unwrap();
    store.roll().unwrap();
    flip(&path.join(segment(at.segment())), u64::from(at.offset()) + 24, 8);
    let _ = store.maintain();
    assert_eq!(store.stats().damaged[0].id, at.segment());
    assert!(store.delete_damaged("the key ").unwrap());
    // It may fail.
    let _ = store.merge();
    let _ = store.merge_only(&[at.segment()]);
    assert_eq!(&*store.log().read(entry).unwrap(), b"an entry");
    assert!(full(&store).contains(&at.segment()));
}

/// A damaged frame that says it has no length is something dead all the same: its tombstone is needed.
#[test]
fn what_has_no_length_any_more_and_is_deleted_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    // A frame of 32 bytes, which is one bit.
    let at = store.put("key", "value").unwrap();
    store.put("beside", "sound").unwrap();
    store.roll().unwrap();
    store.maintain().unwrap();
    flip(&path.join(segment(at.segment())), at.offset().into(), 32);
    assert!(store.delete_damaged("key").unwrap());
    store.roll().unwrap();
    let newest = *full(&store).last().unwrap();
    assert_eq!(store.merge_only(&[newest]).unwrap().tombstones_kept, 1);
    store.close().unwrap();
    assert_eq!(value(&options().open(&path).unwrap(), "key"), None);
}

/// An expired value hides what is older, as a tombstone does: also when a merge that failed has removed its
/// slot, and when it cannot be read any more after that.
#[test]
fn an_expired_value_that_is_damaged_brings_nothing_back() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(1_000_000)));
    let (path, options) = (dir.path().join("store"), options().clock(clock.clone()));
    let store = options.open(&path).unwrap();
    store.put("key", "older").unwrap();
    store.put("stays", "here").unwrap();
    store.roll().unwrap();
    let ttl = WriteOptions::new().ttl(Duration::from_millis(10));
    let at = store.put_with("key", "expires", &ttl).unwrap();
    let beside = store.put("beside", "needed").unwrap();
    store.roll().unwrap();
    store.maintain().unwrap();
    let file = path.join(segment(at.segment()));
    clock.fetch_add(10, Ordering::Relaxed);
    flip(&file, u64::from(beside.offset()) + 24, 1);
    assert!(matches!(store.merge_only(&[at.segment()]), Err(MergeError::Corrupt(_))));
    store.put("beside", "again").unwrap();
    store.roll().unwrap();
    let damaged = store.verify();
    assert!(damaged.is_ok(), "nothing in it is needed that cannot be read: {damaged:?}");
    flip(&file, u64::from(at.offset()) + 32, 1);
    assert_eq!(store.merge_only(&[at.segment()]).unwrap().inputs, 0);
    assert!(full(&store).contains(&at.segment()), "it is still needed");
    store.close().unwrap();
    let store = options.open(&path).unwrap();
    assert_ne!(store.get("key").ok().flatten().as_deref(), Some(&b"older"[..]));
}
