//! A store that is left alone comes to rest: merges end, and memory is given back.

mod common;

use common::files::paths_with;
use common::hints::Hint;
use common::{sealed as full, store_by_hand as options};
use tailcask::{MergePolicy, OpenError, RepairError, SimulatedDisk, Store};

const SEGMENT: u64 = 2 << 20;

/// Maintains until there is nothing to be done, and says how many merges that took.
fn rounds_to_rest(store: &Store) -> usize {
    let mut rounds = 0;
    while store.needs_merge() {
        assert!(rounds < 30, "it merges for ever: {:?}", store.stats());
        store.maintain().unwrap();
        rounds += 1;
    }
    rounds
}

/// Segments that are as full as they may be to be packed, of values of many sizes.
#[test]
fn packing_at_its_limit_comes_to_rest() {
    for small in [SEGMENT / 4, SEGMENT / 2] {
        for size in [10, 3000, 200_000, 250_000, 340_000, 700_000, 1_000_000] {
            let disk = SimulatedDisk::new();
            let policy = MergePolicy::new().pack_below(small);
            let store = options().merge_policy(policy).open_simulated(&disk).unwrap();
            let mut n = 0u32;
            for _ in 0..9 {
                let mut room = small as i64 - 1000;
                while room > size + 100 && n < 90_000 {
                    store.put(n.to_le_bytes(), vec![n as u8; size as usize]).unwrap();
                    (room, n) = (room - size - 40, n + 1);
                }
                store.roll().unwrap();
            }
            store.maintain().unwrap();
            let rounds = rounds_to_rest(&store);
            assert!(rounds <= 3, "{small} {size}: {rounds} merges");
            assert_eq!(store.len(), u64::from(n));
            store.verify().unwrap();
        }
    }
}

#[test]
fn options_out_of_range_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let refused = |policy: MergePolicy| {
        let error = options().merge_policy(policy).open(&path).unwrap_err();
        assert!(!path.exists(), "{error}");
        error
    };
    let policy = MergePolicy::new;
    let range = "at most half of the segment size";
    for bytes in [SEGMENT / 2 + 1, SEGMENT - 1, SEGMENT, u64::MAX] {
        match refused(policy().pack_below(bytes)) {
            OpenError::Option { option: "pack_below", value, range: said } => {
                assert_eq!((value, said), (bytes, range));
            }
            other => panic!("{other}"),
        }
    }
    assert!(matches!(
        refused(policy().dead_ratio(1.5)),
        OpenError::Ratio { option: "dead_ratio", value: 1.5, .. }
    ));
    let error = refused(policy().rate_limit(0));
    assert!(matches!(error, OpenError::Option { option: "rate_limit", value: 0, .. }), "{error}");
    options().merge_policy(policy().pack_below(SEGMENT / 2)).open(&path).unwrap();
    let copy = dir.path().join("copy");
    let error = options().merge_policy(policy().rate_limit(0)).repair(&path, &copy).unwrap_err();
    let RepairError::Open(OpenError::Option { option: "rate_limit", .. }) = error else {
        panic!("{error}");
    };
    assert!(!copy.exists());
}

#[test]
fn memory_is_given_back_while_the_store_is_open() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let key = |n: u32| n.to_le_bytes();
    (0..600_000).for_each(|n| _ = store.put(key(n), "value").unwrap());
    let full = store.keydir_memory();
    (0..590_000).for_each(|n| assert!(store.delete(key(n)).unwrap()));
    let left = store.keydir_memory();
    assert!(left < full / 8, "{left} bytes of {full}");
    assert_eq!(store.len(), 10_000);
    for n in 580_000..600_000 {
        assert_eq!(store.get(key(n)).unwrap().is_some(), n >= 590_000);
    }
    // Batches delete, too; and what is empty grows again.
    for keys in (590_000..600_000).collect::<Vec<_>>().chunks(1000) {
        let mut batch = tailcask::Batch::new();
        keys.iter().for_each(|&n| _ = batch.delete(key(n)));
        store.write(&batch).unwrap();
    }
    assert!(store.is_empty());
    assert!(store.keydir_memory() <= 1024 * 64 * 13 + full / 16);
    (0..600_000).for_each(|n| _ = store.put(key(n), "again").unwrap());
    assert_eq!(store.keydir_memory(), full);
    (0..600_000).for_each(|n| assert_eq!(&*store.get(key(n)).unwrap().unwrap(), b"again"));
}

/// Between growing and being cut, a table's size stays where it is while keys come and go.
#[test]
fn memory_does_not_go_up_and_down_with_every_key() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    (0..20_000u32).for_each(|n| _ = store.put(n.to_le_bytes(), "value").unwrap());
    (0..19_000u32).for_each(|n| _ = store.delete(n.to_le_bytes()).unwrap());
    let settled = store.keydir_memory();
    let mut changes = 0;
    let mut last = settled;
    for round in 0..20u32 {
        for n in 0..200 {
            store.put((round * 1000 + n + 100_000).to_le_bytes(), "").unwrap();
        }
        for n in 0..200 {
            store.delete((round * 1000 + n + 100_000).to_le_bytes()).unwrap();
        }
        changes += usize::from(store.keydir_memory() != last);
        last = store.keydir_memory();
    }
    assert!(changes <= 1, "{changes} changes");
}

/// Keys that had one tag in every store of version 0.1.0.
#[test]
fn keys_chosen_for_the_old_hash_are_keys_like_others() {
    let disk = SimulatedDisk::new();
    let key = |n: u64| [n, 0xcb79_c08c_cb6f_1cb3].map(u64::to_le_bytes).concat();
    for _ in 0..2 {
        let store = options().open_simulated(&disk).unwrap();
        for n in 0..4000 {
            store.put(key(n), n.to_le_bytes()).unwrap();
            assert_eq!(*store.get(key(n)).unwrap().unwrap(), n.to_le_bytes());
        }
        assert_eq!(store.len(), 4000);
        store.close().unwrap();
    }
}

/// A hint with right checksums, in which all keys have one tag: no key would be found, and every lookup
/// would compare them all.
#[test]
fn a_hint_in_which_one_tag_is_too_frequent_is_not_used() {
    const KEYS: usize = 5000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    (0..KEYS).for_each(|n| _ = store.put(n.to_le_bytes(), n.to_le_bytes()).unwrap());
    store.close().unwrap();
    let open = || {
        let store = options().open(&path).unwrap();
        for n in 0..KEYS {
            assert_eq!(*store.get(n.to_le_bytes()).unwrap().unwrap(), n.to_le_bytes());
        }
        let hinted = store.recovery().hinted_segments;
        store.close().unwrap();
        hinted
    };
    assert_eq!(open(), 1);
    let hints = paths_with(&path, "hint").into_iter();
    let hint = hints.max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    let mut hint = Hint::read(&hint);
    assert_eq!(hint.entries.len(), KEYS);
    // The high half of a name's first half is the tag.
    hint.entries.iter_mut().for_each(|entry| entry[0] = entry[0] & 0xffff_ffff | 5 << 32);
    hint.write();
    assert_eq!(open(), 0);
    // It was rewritten.
    assert!(open() > 0);
}

/// Tombstones that a merge had to keep are checked again once as much was reclaimed as that costs;
/// what was reclaimed so far is not forgotten when the store is closed.
#[test]
fn what_was_reclaimed_is_remembered_when_the_store_is_opened_again() {
    let disk = SimulatedDisk::new();
    let open = || options().open_simulated(&disk).unwrap();
    let merged = |store: &Store| {
        let all = store.stats().segments.into_iter().filter(|segment| segment.merged);
        all.map(|segment| (segment.id, segment.live_bytes, segment.dead_bytes)).collect::<Vec<_>>()
    };
    let key = |n: u32| format!("a key of some length {n}");
    let mut store = open();
    (0..1000).for_each(|n| _ = store.put(key(n), "value").unwrap());
    store.roll().unwrap();
    (0..900).for_each(|n| assert!(store.delete(key(n)).unwrap()));
    store.roll().unwrap();
    let report = store.merge_only(&[*full(&store).last().unwrap()]).unwrap();
    assert_eq!(report.tombstones_kept, 900);
    let kept = |merged: &[(u32, u64, u64)]| merged.first().copied().unwrap();
    let before = merged(&store);
    let (tombstones, _, dead) = kept(&before);
    assert_eq!(dead, 0, "just looked at");
    store.close().unwrap();
    store = open();
    assert_eq!(merged(&store), before, "not looked at again because of an open");
    // What merges reclaim elsewhere, a part of it before each open.
    for _ in 0..4 {
        (0..1000u32).for_each(|n| _ = store.put("other", n.to_le_bytes()).unwrap());
        store.roll().unwrap();
        store.merge_only(&[*full(&store).last().unwrap()]).unwrap();
        store.put("so that there is", "a segment to seal").unwrap();
        let before = merged(&store);
        store.close().unwrap();
        store = open();
        assert_eq!(merged(&store), before);
    }
    let (same, _, dead) = kept(&merged(&store));
    assert_eq!(same, tombstones);
    assert!(dead > 900 * 16, "worth another look: {dead}");
}
