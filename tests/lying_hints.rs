//! Hints with right checksums that say what is not so: nothing panics, nothing is deleted on their word, a
//! slot that cannot be its key's is an error, and `verify` tells.

mod common;

use common::hints::{Entry, Hint, offset};
use common::{contents, sealed as full, segment, store_by_hand as options};
use std::path::{Path, PathBuf};
use tailcask::{Corruption, CorruptionKind, MergeError, ReadError, SimulatedDisk, WriteError};

/// How many there are in the store that `make` makes.
const HINTS: u64 = 3;

fn hint(path: &Path, id: u32) -> PathBuf {
    path.join(common::hint(id))
}

/// Gives a hint other entries, and whatever else makes it look right.
fn lie(hint: &Path, change: impl FnOnce(&mut Vec<Entry>)) {
    let mut hint = Hint::read(hint);
    change(&mut hint.entries);
    hint.write();
}

/// Where in its segment's file the value of a key is, by what is in the file.
fn offset_of(path: &Path, id: u32, bytes: &[u8]) -> u64 {
    let file = std::fs::read(path.join(segment(id))).unwrap();
    file.windows(bytes.len()).position(|window| window == bytes).unwrap() as u64
}

/// A store with two keys in its first segment, one of which is in the second as well.
fn make(path: &Path) -> (u32, u32) {
    let store = options().open(path).unwrap();
    store.put("overwritten", "one").unwrap();
    store.put("left out", "value of left out").unwrap();
    store.sync().unwrap();
    store.roll().unwrap();
    store.put("overwritten", "two").unwrap();
    store.roll().unwrap();
    store.maintain().unwrap();
    let ids = full(&store);
    store.close().unwrap();
    assert_eq!(options().open(path).unwrap().recovery().hinted_segments, HINTS);
    (ids[0], ids[1])
}

fn corruption(error: ReadError) -> Corruption {
    let ReadError::Corrupt(corruption) = error else { panic!("{error}") };
    corruption
}

/// The store as it should be, whatever a hint said.
fn is_whole(path: &Path) {
    let store = options().open(path).unwrap();
    let found = contents(&store);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[&b"overwritten"[..]], b"two");
    assert_eq!(found[&b"left out"[..]], b"value of left out");
    store.verify().unwrap();
    store.merge().unwrap();
    assert_eq!(contents(&store), found);
    store.verify().unwrap();
    store.close().unwrap();
}

#[test]
fn a_merge_does_not_delete_a_key_that_a_hint_leaves_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (first, _) = make(&path);
    // The frame begins with 16 bytes, the key takes 8.
    let place = offset_of(&path, first, b"value of left out") - 24;
    lie(&hint(&path, first), |entries| entries.retain(|entry| offset(entry) != place));
    let store = options().open(&path).unwrap();
    assert_eq!(store.get("left out").unwrap().as_deref(), None, "nobody knows of it");
    let found = corruption(store.verify().unwrap_err());
    assert_eq!((found.segment, found.offset), (first, place));
    match store.merge().unwrap_err() {
        MergeError::Corrupt(Corruption { segment, offset, kind: CorruptionKind::Hint, .. }) => {
            assert_eq!((segment, offset), (first, place));
        }
        other => panic!("{other}"),
    }
    let damaged = store.stats().damaged;
    assert_eq!(damaged.iter().map(|d| d.id).collect::<Vec<_>>(), [first]);
    // From then on it is left alone.
    store.merge().unwrap();
    assert!(full(&store).contains(&first));
    store.close().unwrap();
    is_whole(&path);
}

/// As many entries as there should be are not enough.
#[test]
fn a_hint_that_names_one_frame_twice_and_another_not_at_all_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (first, _) = make(&path);
    let place = offset_of(&path, first, b"value of left out") - 24;
    // Under its own name, and under one that nothing has.
    lie(&hint(&path, first), |entries| {
        entries.retain(|entry| offset(entry) == place);
        let mut wrong = entries[0];
        wrong[0] = wrong[0].wrapping_add(0x1234_5670 << 32);
        // Shorter, so that both fit into the segment.
        wrong[2] -= 16 << 32;
        entries.push(wrong);
    });
    let store = options().open(&path).unwrap();
    assert_eq!(store.len(), 3, "one has two slots");
    assert_eq!(store.iter().count(), 2, "and comes once");
    assert_eq!(corruption(store.verify().unwrap_err()).segment, first);
    assert!(matches!(store.merge(), Err(MergeError::Corrupt(c)) if c.kind == CorruptionKind::Hint));
    assert_eq!(store.iter().filter(Result::is_ok).count(), 2);
    assert_eq!(store.get("left out").unwrap().as_deref(), Some(&b"value of left out"[..]));
    store.put("left out", "value of left out").unwrap();
    store.close().unwrap();
    is_whole(&path);
}

/// A slot that points at no frame: as after a repair that left an old hint.
#[test]
fn a_hint_that_names_what_is_no_frame_with_a_key_panics_nothing() {
    // The first frame, inside the frame, behind it (the next frame, or a pad).
    for to in [|_| 128, |at| at + 8, |at| at + 16, |at| at + 48] as [fn(u64) -> u64; 4] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let (first, _) = make(&path);
        let place = offset_of(&path, first, b"value of left out") - 24;
        let to = to(place);
        lie(&hint(&path, first), |entries| {
            let moved = entries.iter_mut().find(|entry| offset(entry) == place).unwrap();
            // As short as can be, so that it fits into the segment.
            moved[2] = 24 << 32 | to;
        });
        let store = options().open(&path).unwrap();
        let _ = store.get("left out");
        assert!(store.iter().count() <= 3);
        store.verify().unwrap_err();
        assert!(matches!(store.merge().unwrap_err(), MergeError::Corrupt(_)), "offset {to}");
        assert!(full(&store).contains(&first), "offset {to}");
        let _ = store.get_many(&["left out", "overwritten"]);
        let _ = store.put("left out", "value of left out");
        store.close().unwrap();
        is_whole(&path);
    }
}

/// No open reads the frames. A lookup does: where a slot points at a sound frame of a key that has not the
/// slot's tag, the slot is wrong, and the key is not absent.
#[test]
fn a_slot_that_points_at_another_keys_frame_is_an_error_and_no_absent_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (first, _) = make(&path);
    let place = offset_of(&path, first, b"value of left out") - 24;
    lie(&hint(&path, first), |entries| {
        let [one, other] = &mut entries[..] else { panic!("there are two") };
        std::mem::swap(&mut one[2], &mut other[2]);
    });
    let store = options().open(&path).unwrap();
    assert_eq!(store.recovery().hinted_segments, HINTS);
    assert_eq!(store.get("overwritten").unwrap().as_deref(), Some(&b"two"[..]));
    let wrong = |error| {
        let found = corruption(error);
        assert_eq!((found.segment, &found.kind), (first, &CorruptionKind::StaleSlot));
        assert_ne!(found.offset, place);
    };
    wrong(store.get("left out").unwrap_err());
    wrong(store.contains_key("left out").unwrap_err());
    wrong(store.get_many(&["overwritten", "left out"]).unwrap_err());
    match store.put("left out", "another").unwrap_err() {
        WriteError::Read(error) => wrong(error),
        other => panic!("{other}"),
    }
    assert_eq!(corruption(store.verify().unwrap_err()).segment, first);
    assert!(matches!(store.merge(), Err(MergeError::Corrupt(c)) if c.segment == first));
    store.close().unwrap();
    is_whole(&path);
}

/// Of two hints that contradict each other the higher origin counts; it does not depend on which of them is
/// read first.
#[test]
fn hints_that_contradict_each_other_have_one_result() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let (first, second) = make(&path);
        let name = Hint::read(&hint(&path, second)).entries[0];
        // Both keys of the first segment, or so it says, are older versions of the one in the second.
        lie(&hint(&path, first), |entries| {
            entries.truncate(1);
            (entries[0][0], entries[0][1]) = (name[0], name[1]);
        });
        let store = options().open(&path).unwrap();
        assert_eq!((store.recovery().hinted_segments, store.len()), (HINTS, 1));
        assert_eq!(store.get("overwritten").unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(store.get("left out").unwrap().as_deref(), None, "nobody knows of it");
        assert_eq!(corruption(store.verify().unwrap_err()).segment, first);
        store.close().unwrap();
    }
}

#[test]
fn a_hint_that_does_not_count_every_frame_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (first, _) = make(&path);
    let mut short = Hint::read(&hint(&path, first));
    short.entries.pop();
    short.write_unchecked();
    let store = options().open(&path).unwrap();
    assert_eq!(store.recovery().hinted_segments, HINTS - 1);
    drop(store);
    is_whole(&path);
}

/// Of another version, of another secret, of a segment that ended elsewhere.
#[test]
fn a_hint_with_another_head_is_not_used() {
    // Version, salt, end, fingerprint, frames.
    for field in [8, 16, 24, 32, 120] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let (first, _) = make(&path);
        let mut other = Hint::read(&hint(&path, first));
        other.head[field] = other.head[field].wrapping_sub(1);
        other.write();
        let store = options().open(&path).unwrap();
        assert_eq!(store.recovery().hinted_segments, HINTS - 1, "byte {field}");
        drop(store);
        is_whole(&path);
    }
}

/// Names of another hash are of other keys.
#[test]
fn a_hint_with_the_tags_of_another_hash_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    make(&path);
    let store = options().tag_bits(12).open(&path).unwrap();
    assert_eq!(store.recovery().hinted_segments, 0);
    assert_eq!(store.get("left out").unwrap().as_deref(), Some(&b"value of left out"[..]));
    store.verify().unwrap();
    store.close().unwrap();
    is_whole(&path);
}

/// What a segment without a hint holds is not known: a tombstone that may hide something in it stays.
#[test]
fn a_tombstone_stays_where_a_segment_without_a_hint_may_hold_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    store.put("key", "old").unwrap();
    store.put("other", "x").unwrap();
    store.roll().unwrap();
    store.delete("key").unwrap();
    store.roll().unwrap();
    store.maintain().unwrap();
    let ids = full(&store);
    std::fs::remove_file(hint(&path, ids[0])).unwrap();
    let report = store.merge_only(&ids[1..]).unwrap();
    assert_eq!((report.tombstones_kept, report.tombstones_dropped), (1, 0));
    store.close().unwrap();
    let again = options().open(&path).unwrap();
    assert_eq!(again.get("key").unwrap().as_deref(), None, "it came back");
}

/// Nor is a hint asked that has lied, although the segment counts nothing dead.
#[test]
fn a_tombstone_stays_where_a_segment_whose_hint_has_lied_may_hold_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    store.put("left out", "value of left out").unwrap();
    store.put("stays", "x").unwrap();
    store.roll().unwrap();
    store.maintain().unwrap();
    let first = full(&store)[0];
    store.close().unwrap();
    let place = offset_of(&path, first, b"value of left out") - 24;
    lie(&hint(&path, first), |entries| entries.retain(|entry| offset(entry) != place));
    let store = options().open(&path).unwrap();
    let refused = store.merge_only(&[first]);
    assert!(matches!(refused, Err(MergeError::Corrupt(c)) if c.kind == CorruptionKind::Hint));
    store.put("left out", "another").unwrap();
    store.roll().unwrap();
    store.delete("left out").unwrap();
    store.roll().unwrap();
    let rest: Vec<_> = full(&store).into_iter().filter(|&id| id != first).collect();
    let report = store.merge_only(&rest).unwrap();
    assert_eq!((report.tombstones_kept, report.tombstones_dropped), (1, 0));
    store.close().unwrap();
    let again = options().open(&path).unwrap();
    assert_eq!(again.get("left out").unwrap().as_deref(), None, "it came back");
    assert_eq!(again.get("stays").unwrap().as_deref(), Some(&b"x"[..]));
}

/// Of several tombstones of a key in one merge it is the newest that still hides all puts.
#[test]
fn the_newest_of_several_tombstones_is_kept() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let mut tombstones = Vec::new();
    for round in 0..3u8 {
        store.put("key", [round]).unwrap();
        store.put([round], "stays").unwrap();
        store.roll().unwrap();
        store.delete("key").unwrap();
        store.roll().unwrap();
        tombstones.push(*full(&store).last().unwrap());
    }
    for ids in [&tombstones[..], &tombstones[..0]] {
        let merged = store.stats().segments.into_iter().filter(|s| s.merged).map(|s| s.id);
        let ids: Vec<_> = ids.iter().copied().chain(merged).collect();
        let report = store.merge_only(&ids).unwrap();
        assert_eq!(report.tombstones_kept, 1);
        let again = options().open_simulated(&disk.process_death()).unwrap();
        assert_eq!(again.get("key").unwrap().as_deref(), None, "a put before it came back");
        again.verify().unwrap();
    }
}
