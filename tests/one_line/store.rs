//! The store: merges, tombstones, hints, dead bytes, backups.

use super::UNIT;
use crate::common::frames::word;
use crate::common::{hint, segment, small_store, value};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tailcask::{
    Batch, DiskOperation, Fate, OpenError, RecoveryMode, SimulatedDisk, Store, StoreOptions,
};

fn options() -> StoreOptions {
    small_store(UNIT)
}

/// Puts and deletes, and makes another segment active behind them; which one they are in.
fn full(store: &Store, writes: &[(&str, Option<&[u8]>)]) -> u32 {
    let id = store.log().tail().segment();
    for (key, value) in writes {
        match value {
            Some(value) => assert!(store.put(key, value).is_ok()),
            None => assert!(store.delete(key).unwrap()),
        }
    }
    store.roll().unwrap();
    id
}

/// The dead bytes of each segment.
fn dead(store: &Store) -> Vec<(u32, u64)> {
    store.stats().segments.iter().map(|segment| (segment.id, segment.dead_bytes)).collect()
}

fn dead_in(store: &Store, id: u32) -> u64 {
    dead(store).into_iter().find(|(there, _)| *there == id).unwrap().1
}

// ---- merges and tombstones ----

#[test]
fn of_several_tombstones_the_newest_is_kept() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    full(&store, &[("key", Some(b"first"))]);
    let older = full(&store, &[("key", None)]);
    full(&store, &[("key", Some(b"second"))]);
    let newer = full(&store, &[("key", None)]);
    store.merge_only(&[older, newer]).unwrap();
    store.close().unwrap();
    assert_eq!(value(&options().open_simulated(&disk).unwrap(), "key"), None);
}

#[test]
fn a_segment_without_a_hint_may_hold_what_a_tombstone_hides() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    disk.fail_once_with(DiskOperation::Create, ".hint", 0, ErrorKind::Other);
    full(&store, &[("key", Some(b"value"))]);
    store.maintain().unwrap();
    assert!(disk.has_failed());
    let tombstone = full(&store, &[("key", None)]);
    store.merge_only(&[tombstone]).unwrap();
    store.close().unwrap();
    assert_eq!(value(&options().open_simulated(&disk).unwrap(), "key"), None);
}

#[test]
fn an_expired_value_hides_what_is_older_also_when_it_was_merged() {
    let clock = Arc::new(std::sync::atomic::AtomicU64::new(1000));
    let (disk, options) = (SimulatedDisk::new(), options().clock(clock.clone()));
    let store = options.open_simulated(&disk).unwrap();
    full(&store, &[("key", Some(b"old"))]);
    let ttl = tailcask::WriteOptions::new().ttl(std::time::Duration::from_millis(5));
    let id = store.log().tail().segment();
    store.put_with("key", b"short", &ttl).unwrap();
    store.roll().unwrap();
    clock.store(2000, Ordering::Relaxed);
    store.merge_only(&[id]).unwrap();
    store.close().unwrap();
    assert_eq!(value(&options.open_simulated(&disk).unwrap(), "key"), None);
}

#[test]
fn what_was_moved_twice_is_as_old_as_when_it_was_written() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let mut moved = full(&store, &[("key", Some(b"old")), ("other", Some(b"x"))]);
    let newer = full(&store, &[("key", Some(b"new"))]);
    // A slot that is in doubt is moved, too: `key` is put back and away while `other` moves.
    for _ in 0..2 {
        store.merge_only(&[moved]).unwrap();
        moved = store.get("other").unwrap().unwrap().position().segment();
    }
    assert!(moved > newer);
    store.put("other", b"newest").unwrap();
    store.close().unwrap();
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(value(&store, "other").unwrap(), b"newest");
    assert_eq!(value(&store, "key").unwrap(), b"new");
}

#[test]
fn a_copy_is_no_newer_than_what_was_written_while_it_was_made() {
    let disk = SimulatedDisk::new();
    let store = Arc::new(options().open_simulated(&disk).unwrap());
    let id = full(&store, &[("key", Some(b"old")), ("other", Some(b"x"))]);
    let writer = store.clone();
    store
        .merge_while(&[id], move || {
            writer.put("key", b"new").unwrap();
        })
        .unwrap();
    assert_eq!(value(&store, "key").unwrap(), b"new");
    // Its copy is dead.
    let copy = store.get("other").unwrap().unwrap().position().segment();
    assert_eq!(dead_in(&store, copy), 16 + 8 + 8 + 8, "header, origin, key, value");
    Arc::into_inner(store).unwrap().close().unwrap();
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(value(&store, "key").unwrap(), b"new");
}

#[test]
fn what_made_an_input_dead_is_durable_before_the_input_goes() {
    let disk = SimulatedDisk::new();
    let store = Arc::new(options().open_simulated(&disk).unwrap());
    let id = full(&store, &[("key", Some(b"old"))]);
    let writer = store.clone();
    store
        .merge_while(&[id], move || {
            writer.put("key", b"new").unwrap();
        })
        .unwrap();
    let image = disk.power_loss_by(|_| Fate::Lost);
    let store = options().open_simulated(&image).unwrap();
    assert_eq!(value(&store, "key").unwrap(), b"new");
}

#[test]
fn a_merge_without_room_for_all_is_done_in_smaller_runs() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let half = vec![7; 9_000];
    let keys: Vec<_> = (0..8).flat_map(|n| [format!("a{n}"), format!("b{n}")]).collect();
    for pair in keys.chunks(2) {
        full(&store, &[(&*pair[0], Some(&half)), (&*pair[1], Some(&half))]);
    }
    for key in keys.iter().skip(1).step_by(2) {
        store.delete(key).unwrap();
    }
    store.roll().unwrap();
    store.maintain().unwrap();
    let ids: Vec<_> = store.stats().segments.iter().filter(|s| s.sealed).map(|s| s.id).collect();
    let used: u64 = disk.files().iter().map(|(_, len)| *len as u64).sum();
    disk.set_space(Some(used + 2 * UNIT));
    store.merge_only(&ids).expect("a part at a time there is room");
    assert!(keys.iter().step_by(2).all(|key| value(&store, key).unwrap() == half));
}

// ---- what is dead ----

#[test]
fn what_is_dead_is_the_same_after_every_kind_of_open() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let long = [1; 1000];
    let first = full(&store, &[("a", Some(&long)), ("a", Some(&long)), ("b", Some(&long))]);
    let second = full(&store, &[("b", Some(&long)), ("c", Some(&long))]);
    let frame = 16 + 8 + 1000;
    let of = |store: &Store| (dead_in(store, first), dead_in(store, second));
    // With what has no key, which counts as dead: pads, and marks.
    let (keyless, _) = {
        let empty = options().open_simulated(&SimulatedDisk::new()).unwrap();
        let id = full(&empty, &[("x", Some(&long))]);
        empty.maintain().unwrap();
        (dead_in(&empty, id), ())
    };
    store.maintain().unwrap();
    let before = of(&store);
    assert!(before.0 >= 2 * frame && before.0 <= 2 * frame + keyless + 64, "{before:?}");
    assert!(before.1 < frame);
    store.close().unwrap();
    for with_hints in [true, false] {
        if !with_hints {
            assert!(disk.cut(&hint(first), 0) && disk.cut(&hint(second), 0));
        }
        let store = options().open_simulated(&disk).unwrap();
        assert_eq!(of(&store), before, "with hints: {with_hints}");
        store.close().unwrap();
    }
}

#[test]
fn what_a_batch_overwrites_or_deletes_is_dead() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let id = full(&store, &[("a", Some(&[1; 1000])), ("b", Some(&[1; 1000]))]);
    store.maintain().unwrap();
    let before = dead_in(&store, id);
    let mut batch = Batch::new();
    batch.put("a", "new").delete("b");
    store.write(&batch).unwrap();
    assert_eq!(dead_in(&store, id) - before, 2 * (16 + 8 + 1000));
}

#[test]
fn what_a_put_overwrites_or_a_delete_deletes_is_dead() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let id = full(&store, &[("a", Some(&[1; 1000])), ("b", Some(&[1; 1000]))]);
    store.maintain().unwrap();
    let before = dead_in(&store, id);
    store.put("a", "new").unwrap();
    assert_eq!(dead_in(&store, id) - before, 16 + 8 + 1000);
    store.delete("b").unwrap();
    assert_eq!(dead_in(&store, id) - before, 2 * (16 + 8 + 1000));
}

// ---- hints ----

#[test]
fn a_hint_that_another_hash_has_made_is_not_used() {
    let disk = SimulatedDisk::new();
    let store = options().tag_bits(6).open_simulated(&disk).unwrap();
    let keys: Vec<_> = (0..50).map(|n| format!("key {n}")).collect();
    for key in &keys {
        store.put(key, key).unwrap();
    }
    store.roll().unwrap();
    store.maintain().unwrap();
    store.close().unwrap();
    let store = options().tag_bits(32).open_simulated(&disk).unwrap();
    assert_eq!(store.recovery().hinted_segments, 0);
    assert!(keys.iter().all(|key| value(&store, key).unwrap() == key.as_bytes()));
    store.close().unwrap();
}

/// A stale hint may not stay because its file could not be opened just then.
#[test]
fn a_hint_that_cannot_be_opened_is_not_taken_for_a_foreign_file() {
    for kind in [ErrorKind::Other, ErrorKind::PermissionDenied, ErrorKind::OutOfMemory] {
        let disk = SimulatedDisk::new();
        let store = options().open_simulated(&disk).unwrap();
        let id = full(&store, &[("key", Some(b"value"))]);
        store.maintain().unwrap();
        store.close().unwrap();
        // As the hint of a segment that a repair has rewritten: the log no longer knows it.
        let stale = hint(id + 1000);
        assert!(disk.write(&stale, &disk.read(&hint(id)).unwrap()));
        disk.fail_once_with(DiskOperation::Open, &stale, 0, kind);
        let opened = options().open_simulated(&disk).map(|store| store.len());
        assert!(matches!(opened, Err(OpenError::Io { .. })), "{opened:?}");
        let store = options().open_simulated(&disk).unwrap();
        assert_eq!(value(&store, "key").unwrap(), b"value");
        assert!(disk.read(&stale).is_none(), "it is removed once it can be");
        store.close().unwrap();
    }
}

#[test]
fn the_newest_of_a_key_in_one_segment_is_in_its_hint_and_a_tombstone_is_one() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    full(&store, &[("key", Some(b"1")), ("key", Some(b"2")), ("gone", Some(b"1")), ("gone", None)]);
    store.maintain().unwrap();
    store.close().unwrap();
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(store.recovery().hinted_segments, 2, "and the one with a mark alone");
    assert_eq!(value(&store, "key").unwrap(), b"2");
    assert_eq!((value(&store, "gone"), store.len()), (None, 1));
}

#[test]
fn a_hint_of_a_segment_that_ended_elsewhere_is_not_used() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let id = full(&store, &[("key", Some(b"value"))]);
    store.maintain().unwrap();
    store.close().unwrap();
    // A hint of the segment as it was when less was in it.
    let bytes = disk.read(&hint(id)).unwrap();
    let mut short = bytes.clone();
    short[24..32].copy_from_slice(&(word(&bytes, 24) - 8).to_le_bytes());
    crate::common::hints::reseal(&mut short);
    assert!(disk.write(&hint(id), &short));
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(store.recovery().hinted_segments, 1, "that of the other segment");
    assert_eq!(value(&store, "key").unwrap(), b"value");
}

#[test]
fn what_a_damaged_segment_may_hold_is_hidden() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let at = store.put("other", [1; 500]).unwrap();
    store.put("key", "value").unwrap();
    store.roll().unwrap();
    let tombstone = full(&store, &[("key", None)]);
    // Another program damages the file for a while.
    let file = std::fs::OpenOptions::new().write(true).open(path.join(segment(at.segment())));
    let (file, place) = (file.unwrap(), u64::from(at.offset()) + 300);
    file.write_all_at(&[0], place).unwrap();
    let report = store.merge_only(&[tombstone]).unwrap();
    assert_eq!(report.tombstones_kept, 1);
    file.write_all_at(&[1], place).unwrap();
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert_eq!((value(&store, "key"), store.len()), (None, 1));
}

#[test]
fn what_is_dead_is_left_behind() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let id = full(&store, &[("a", Some(&[1; 1000])), ("a", Some(&[2; 1000])), ("b", Some(b"b"))]);
    store.put("b", "new").unwrap();
    assert_eq!(store.merge_only(&[id]).unwrap().puts_moved, 1);
}

#[test]
fn a_copy_of_a_copy_is_as_old_as_the_first() {
    let disk = SimulatedDisk::new();
    let store = Arc::new(options().open_simulated(&disk).unwrap());
    let id = full(&store, &[("key", Some(b"old")), ("other", Some(b"x"))]);
    store.merge_only(&[id]).unwrap();
    let copy = store.get("other").unwrap().unwrap().position().segment();
    let writer = store.clone();
    let write = move || {
        writer.put("key", b"new").unwrap();
    };
    store.merge_while(&[copy], write).unwrap();
    let new = store.get("key").unwrap().unwrap().position();
    let other = store.get("other").unwrap().unwrap().position();
    assert!(new.segment() < copy && copy < other.segment(), "the copies have higher positions");
    Arc::into_inner(store).unwrap().close().unwrap();
    for with_hints in [true, false] {
        if !with_hints {
            assert!(disk.cut(&hint(other.segment()), 0));
        }
        let store = options().open_simulated(&disk).unwrap();
        assert_eq!(value(&store, "key").unwrap(), b"new");
        store.close().unwrap();
    }
}

#[test]
fn a_merge_that_fails_leaves_no_file() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let id = full(&store, &[("key", Some(b"value")), ("dead", Some(b"x")), ("dead", None)]);
    store.maintain().unwrap();
    let before = disk.files();
    disk.fail_once(DiskOperation::Sync, 0);
    store.merge_only(&[id]).unwrap_err();
    assert!(disk.has_failed());
    assert_eq!(disk.files(), before);
    assert_eq!(value(&store, "key").unwrap(), b"value");
    store.merge_only(&[id]).unwrap();
    assert_eq!(value(&store, "key").unwrap(), b"value");
}

/// With hints it makes no difference to an open: they say which key it is. Without, it is damage.
#[test]
fn a_key_that_is_damaged_is_told_from_no_other() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let at = store.put("key", "old").unwrap();
    store.roll().unwrap();
    full(&store, &[("key", Some(b"new"))]);
    store.maintain().unwrap();
    store.close().unwrap();
    assert!(disk.flip(&segment(at.segment()), at.offset() as usize + 16, 1));
    let image = disk.process_death();
    let store = options().open_simulated(&disk).expect("hints suffice");
    // Were it taken for another key's, there would be two.
    assert_eq!((value(&store, "key").unwrap(), store.len()), (b"new".to_vec(), 1));
    assert_eq!(store.verify().expect("nothing needs it").damaged, 1);
    assert!(image.cut(&hint(at.segment()), 0));
    let opened = options().open_simulated(&image).map(|store| store.len());
    assert!(matches!(opened, Err(OpenError::Corrupt(_))), "{opened:?}");
}

#[test]
fn damage_in_a_merged_segment_is_found() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let id = full(&store, &[("key", Some(&[1; 100])), ("other", Some(b"x"))]);
    store.merge_only(&[id]).unwrap();
    let merged = store.get("key").unwrap().unwrap().position().segment();
    store.close().unwrap();
    // In its first frame, which no key is in.
    assert!(disk.flip(&segment(merged), 128 + 16, 1));
    let store = options().open_simulated(&disk).expect("hints suffice");
    assert_eq!(store.verify().expect("nothing needs it").damaged, 1);
}

#[test]
fn a_merged_segment_is_kept_unless_all_of_its_inputs_are_there() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let inputs = [full(&store, &[("a", Some(b"1"))]), full(&store, &[("b", Some(b"2"))])];
    store.maintain().unwrap();
    let manifest = disk.read("MANIFEST").unwrap();
    let first = disk.read(&segment(inputs[0])).unwrap();
    store.merge_only(&inputs).unwrap();
    let image = disk.process_death();
    store.abort();
    // An older MANIFEST and one of the inputs are put back.
    assert!(image.write("MANIFEST", &manifest) && image.write(&segment(inputs[0]), &first));
    assert!(options().open_simulated(&image).is_err());
    let salvage = options().recovery_mode(RecoveryMode::Salvage);
    let store = salvage.open_simulated(&image).unwrap();
    assert_eq!(value(&store, "a").unwrap(), b"1");
    assert_eq!(value(&store, "b").unwrap(), b"2");
}

#[test]
fn a_listed_segment_is_missed() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let id = full(&store, &[("key", Some(b"value"))]);
    store.merge_only(&[id]).unwrap();
    let merged = store.get("key").unwrap().unwrap().position().segment();
    store.close().unwrap();
    assert!(disk.cut(&segment(merged), 0));
    let opened = options().open_simulated(&disk);
    assert!(matches!(opened, Err(OpenError::MissingSegment { .. })), "{opened:?}");
}

#[test]
fn a_segment_that_was_repaired_has_no_hint() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let at = store.put("key", [1; 100]).unwrap();
    store.put("other", "x").unwrap();
    store.roll().unwrap();
    store.maintain().unwrap();
    store.close().unwrap();
    assert!(disk.flip(&segment(at.segment()), at.offset() as usize + 60, 1));
    // Nor does it get one, at first.
    disk.on_operation(|_, operation, name| {
        let of_hint = operation == DiskOperation::Create && name.contains(".hint");
        if of_hint { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    for mode in [RecoveryMode::Salvage, RecoveryMode::Strict] {
        let store = options().recovery_mode(mode).open_simulated(&disk).unwrap();
        assert_eq!((value(&store, "key"), store.len()), (None, 1));
        assert_eq!(value(&store, "other").unwrap(), b"x");
        store.verify().unwrap();
        store.close().unwrap();
    }
}

/// Nothing that a backup is about to link is merged away.
#[test]
fn a_backup_waits_for_a_merge() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(options().open(dir.path().join("s")).unwrap());
    let id = full(&store, &[("key", Some(b"value"))]);
    let done = Arc::new(AtomicBool::new(false));
    let (other, is_done, dest) = (store.clone(), done.clone(), dir.path().join("b"));
    let (sender, receiver) = std::sync::mpsc::channel();
    let report = store.merge_while(&[id], move || {
        let seen = is_done.clone();
        let backup = std::thread::spawn(move || {
            other.backup(dest).unwrap();
            seen.store(true, Ordering::SeqCst);
        });
        sender.send(backup).unwrap();
        // Long enough for one that does not wait.
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(400) && !is_done.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!is_done.load(Ordering::SeqCst), "it has not waited");
    });
    assert_eq!(report.unwrap().inputs, 1);
    receiver.recv().unwrap().join().unwrap();
    let backup = options().open(dir.path().join("b")).unwrap();
    assert_eq!(value(&backup, "key").unwrap(), b"value");
}

#[test]
fn keys_with_one_tag_are_all_there_after_reopening() {
    let disk = SimulatedDisk::new();
    let options = options().tag_bits(1);
    let store = options.open_simulated(&disk).unwrap();
    let keys = ["a", "b", "c", "d", "e"];
    for key in keys {
        full(&store, &[(key, Some(key.as_bytes()))]);
    }
    store.maintain().unwrap();
    store.close().unwrap();
    let store = options.open_simulated(&disk).unwrap();
    assert!(keys.iter().all(|key| value(&store, key).unwrap() == key.as_bytes()));
    assert_eq!(store.len(), 5);
}

/// Were it believed, an old value would be the newest.
#[test]
fn a_damaged_origin_is_damage() {
    let disk = SimulatedDisk::new();
    let store = Arc::new(options().open_simulated(&disk).unwrap());
    let id = full(&store, &[("key", Some(b"old")), ("other", Some(b"x"))]);
    let writer = store.clone();
    let write = move || {
        writer.put("key", b"new").unwrap();
    };
    store.merge_while(&[id], write).unwrap();
    let newer = store.get("key").unwrap().unwrap().position().segment();
    store.roll().unwrap();
    store.merge_only(&[newer]).unwrap();
    // The copy of the old value is in front of that of the other key: header, origin, key, value.
    let other = store.get("other").unwrap().unwrap().position();
    Arc::into_inner(store).unwrap().close().unwrap();
    let copy = other.offset() as usize - (16 + 8 + 8 + 8);
    let bytes = disk.read(&segment(other.segment())).unwrap();
    assert_eq!((word(&bytes, copy + 16) >> 32) as u32, id, "its origin");
    assert!(disk.flip(&segment(other.segment()), copy + 16 + 6, 1));
    let image = disk.process_death();
    let store = options().open_simulated(&disk).expect("its hint has the origin");
    assert_eq!((value(&store, "key").unwrap(), store.len()), (b"new".to_vec(), 2));
    assert_eq!(store.verify().expect("nothing needs it").damaged, 1);
    assert!(image.cut(&hint(other.segment()), 0));
    let opened = options().open_simulated(&image).map(|store| store.len());
    assert!(matches!(opened, Err(OpenError::Corrupt(_))), "{opened:?}");
}
