//! Hints with a right checksum that say what is not so: nothing panics, nothing is deleted on their word,
//! and `verify` tells.

mod common;

use common::{contents, sealed as full, segment, store_by_hand as options};
use std::path::{Path, PathBuf};
use tailcask::{Corruption, CorruptionKind, MergeError, ReadError, SimulatedDisk};

/// Where a hint has its counts and its entries.
const UNLISTED: usize = 128;
const ENTRIES: usize = 152;
/// How many there are in the store that `make` makes.
const HINTS: u64 = 3;

fn hint(path: &Path, id: u32) -> PathBuf {
    path.join(common::hint(id))
}

/// The entries in a hint: tag in the high half, offset and tombstone bit in the low one.
fn entries(hint: &Path) -> Vec<u64> {
    let bytes = std::fs::read(hint).unwrap();
    let entries = bytes[ENTRIES..bytes.len() - 4].as_chunks::<8>().0.iter();
    entries.map(|&entry| u64::from_le_bytes(entry)).collect()
}

/// Gives a hint other entries, and whatever else makes it look right.
fn lie(hint: &Path, mut entries: Vec<u64>) {
    let bytes = std::fs::read(hint).unwrap();
    let before = (bytes.len() - ENTRIES - 4) / 8;
    entries.sort_unstable();
    let mut new = bytes[..ENTRIES].to_vec();
    let unlisted = u64::from_le_bytes(new[UNLISTED..][..8].try_into().unwrap());
    let unlisted = unlisted + before as u64 - entries.len() as u64;
    new[UNLISTED..][..8].copy_from_slice(&unlisted.to_le_bytes());
    new.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
    let crc = crc32fast::hash(&new);
    new.extend(crc.to_le_bytes());
    std::fs::write(hint, new).unwrap();
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
    let rest = entries(&hint(&path, first)).into_iter().filter(|e| e & 0xffff_ffff != place);
    lie(&hint(&path, first), rest.collect());
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
    let all = entries(&hint(&path, first));
    let one = *all.iter().find(|&e| e & 0xffff_ffff == place).unwrap();
    let other = *all.iter().find(|&e| e & 0xffff_ffff != place).unwrap();
    // Under its own tag, and under one that nothing has.
    let wrong = one.wrapping_add(0x1234_5670 << 32) & !0xffff_ffff | place;
    assert!(wrong != other);
    lie(&hint(&path, first), vec![one, wrong]);
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
        let all = entries(&hint(&path, first));
        let moved = |e: u64| if e & 0xffff_ffff == place { e >> 32 << 32 | to } else { e };
        lie(&hint(&path, first), all.into_iter().map(moved).collect());
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

/// Where two entries have one tag their frames are read: a hint found to be wrong is dropped.
#[test]
fn a_hint_that_is_met_lying_while_opening_is_not_used() {
    for to in [128u64, 136] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let (first, second) = make(&path);
        let tag = entries(&hint(&path, second))[0] >> 32 << 32;
        let place = offset_of(&path, first, b"value of left out") - 24;
        // Of the overwritten key there is one entry in each; the other one gets its tag.
        let all = entries(&hint(&path, first));
        let other =
            |e: u64| if e & 0xffff_ffff == place { tag | e & 0xffff_ffff } else { tag | to };
        lie(&hint(&path, first), all.into_iter().map(other).collect());
        let store = options().open(&path).unwrap();
        // That of the first; and that of the second with it, if their entries met before two of the
        // first did: which is up to the threads that load.
        let hinted = store.recovery().hinted_segments;
        assert!(hinted == HINTS - 1 || hinted == HINTS - 2, "{hinted}");
        store.verify().unwrap();
        store.close().unwrap();
        is_whole(&path);
    }
}

#[test]
fn a_hint_that_does_not_count_every_frame_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (first, _) = make(&path);
    let bytes = std::fs::read(hint(&path, first)).unwrap();
    let mut short = [&bytes[..ENTRIES], &bytes[ENTRIES + 8..bytes.len() - 4]].concat();
    let crc = crc32fast::hash(&short);
    short.extend(crc.to_le_bytes());
    std::fs::write(hint(&path, first), short).unwrap();
    let store = options().open(&path).unwrap();
    assert_eq!(store.recovery().hinted_segments, HINTS - 1);
    drop(store);
    is_whole(&path);
}

/// Tags of another hash name other keys.
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
