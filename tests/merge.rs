//! Merging: deleted keys stay deleted, live ones stay there, and what is dead goes.

mod common;

use common::content::placed_entries;
use common::files::paths_with;
use common::{
    Finish, contents, sealed as full, small_store, store_by_hand as options, until, value,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tailcask::{MergePolicy, SimulatedDisk, Store, WriteOptions};

/// Waits until this many retired segments are held by readers, and no more: the tests of this file
/// share their epochs, so others may be held for a moment.
fn until_held(store: &Store, count: usize) {
    until(&format!("{count} segments are held"), || {
        store.maintain().unwrap();
        store.stats().segments_waiting_for_readers == count
    });
}

/// What a crash would leave, after each of which the store is opened: the process dies, or the
/// power fails and nothing survives that was not synced.
fn after_crashes(disk: &SimulatedDisk, check: impl Fn(&Store)) {
    for image in [disk.process_death(), disk.power_loss(|_, _| false), disk.power_loss(|_, _| true)]
    {
        check(&options().open_simulated(&image).unwrap());
    }
}

/// Hazard 1: put, delete, roll, merge only the tombstone's segment, reopen.
#[test]
fn a_deleted_key_stays_deleted_when_only_its_tombstone_is_merged() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("key", "old").unwrap();
    store.put("other", "here").unwrap();
    store.roll().unwrap();
    store.delete("key").unwrap();
    store.roll().unwrap();
    let tombstones = *full(&store).last().unwrap();
    let report = store.merge_only(&[tombstones]).unwrap();
    assert_eq!((report.inputs, report.outputs, report.tombstones_kept), (1, 1, 1));
    assert_eq!(value(&store, "key"), None);
    after_crashes(&disk, |store| assert_eq!(value(store, "key"), None));
    // Once the put's segment is merged too, nothing is left to hide.
    let all = full(&store);
    let report = store.merge_only(&all).unwrap();
    assert_eq!((report.tombstones_kept, report.tombstones_dropped, report.puts_moved), (0, 1, 1));
    after_crashes(&disk, |store| {
        assert_eq!(value(store, "key"), None);
        assert_eq!(value(store, "other").unwrap(), b"here");
    });
}

/// Hazard 2, 4: deletes, overwrites and new puts race merges; what each thread did last counts,
/// also after reopening.
#[test]
fn writes_that_race_a_merge_are_not_undone() {
    let dir = tempfile::tempdir().unwrap();
    let options = Store::options().segment_size(2 << 20);
    let store = options.open(dir.path().join("store")).unwrap();
    let stop = AtomicBool::new(false);
    let expected: Vec<BTreeMap<String, Option<u64>>> = std::thread::scope(|scope| {
        let finish = Finish(&stop);
        let merger = scope.spawn(|| {
            let mut merges = 0;
            loop {
                // One more when all is written: there is something to merge, whichever thread came first.
                let last = stop.load(Ordering::Relaxed);
                merges += store.merge().unwrap().inputs;
                if last {
                    return merges;
                }
            }
        });
        let writers: Vec<_> = (0..3u64)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    let mut last = BTreeMap::new();
                    let mut random = thread + 1;
                    for n in 0..60_000u64 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let key = format!("{thread}-{}", (random >> 33) % 3000);
                        if random >> 62 == 0 {
                            store.delete(&key).unwrap();
                            last.insert(key, None);
                        } else {
                            store.put(&key, n.to_le_bytes()).unwrap();
                            last.insert(key, Some(n));
                        }
                    }
                    last
                })
            })
            .collect();
        let expected = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        drop(finish);
        assert!(merger.join().unwrap() > 0);
        expected
    });
    let check = |store: &Store| {
        for (key, last) in expected.iter().flatten() {
            let found = value(store, key).map(|v| u64::from_le_bytes(v.try_into().unwrap()));
            assert_eq!(found, *last, "{key}");
        }
    };
    check(&store);
    store.abort();
    let store = options.open(dir.path().join("store")).unwrap();
    check(&store);
    store.merge().unwrap();
    store.verify().unwrap();
    store.close().unwrap();
    check(&options.open(dir.path().join("store")).unwrap());
}

/// Hazard 2, 4: what is written after a merge has copied its frames, and before it moves the slots.
#[test]
fn writes_between_copying_and_moving_stay() {
    let disk = SimulatedDisk::new();
    let store = Arc::new(options().open_simulated(&disk).unwrap());
    for key in ["overwritten", "deleted", "deleted and put", "swapped", "left"] {
        store.put(key, "old").unwrap();
    }
    store.roll().unwrap();
    let ids = full(&store);
    let meanwhile = store.clone();
    let report = store.merge_while(&ids, move || {
        meanwhile.put("overwritten", "new").unwrap();
        assert!(meanwhile.delete("deleted").unwrap());
        assert!(meanwhile.delete("deleted and put").unwrap());
        meanwhile.put("deleted and put", "new").unwrap();
        meanwhile.compare_and_swap("swapped", Some(b"old"), Some(b"new")).unwrap().unwrap();
        // What is deleted again has its tombstone after the copy.
        meanwhile.put("fleeting", "x").unwrap();
        meanwhile.delete("fleeting").unwrap();
    });
    assert_eq!(report.unwrap().puts_moved, 5);
    let check = |store: &Store| {
        let expected = ["deleted and put", "left", "overwritten", "swapped"];
        let found = contents(store);
        assert!(found.keys().map(|key| &key[..]).eq(expected.map(str::as_bytes)), "{found:?}");
        for (key, value) in found {
            let expected: &[u8] = if key == b"left" { b"old" } else { b"new" };
            assert_eq!(value, expected);
        }
        assert_eq!(store.len(), 4);
    };
    check(&store);
    after_crashes(&disk, check);
    // The copies that are dead go with the next merge.
    store.merge().unwrap();
    check(&store);
    after_crashes(&disk, check);
}

/// Hazard 3: a tombstone that a merge has copied never beats a put that came after it.
#[test]
fn a_tombstone_that_was_moved_is_as_old_as_it_was() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("key", "first").unwrap();
    store.roll().unwrap();
    store.delete("key").unwrap();
    store.roll().unwrap();
    let tombstone = *full(&store).last().unwrap();
    store.put("key", "second").unwrap();
    store.roll().unwrap();
    // The key has a value, so the tombstone is not needed: it must go, or be older.
    store.merge_only(&[tombstone]).unwrap();
    after_crashes(&disk, |store| assert_eq!(value(store, "key").unwrap(), b"second"));
    // Kept, in a segment with a higher id than that of the later put.
    store.delete("key").unwrap();
    store.roll().unwrap();
    let tombstone = *full(&store).last().unwrap();
    assert_eq!(store.merge_only(&[tombstone]).unwrap().tombstones_kept, 1);
    store.put("key", "third").unwrap();
    store.sync().unwrap();
    after_crashes(&disk, |store| assert_eq!(value(store, "key").unwrap(), b"third"));
}

/// Hazard 6: a get during merges never misses a live key.
#[test]
fn gets_during_merges_find_every_live_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::options().segment_size(2 << 20).open(dir.path().join("store")).unwrap();
    let key = |n: u32| n.to_le_bytes();
    (0..200u32).for_each(|n| _ = store.put(key(n), vec![n as u8; 5000]).unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2u32 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                let mut n = thread;
                while !stop.load(Ordering::Relaxed) {
                    n = (n + 7) % 200;
                    let value = store.get(key(n)).unwrap().expect("it is never deleted");
                    assert_eq!(*value, vec![n as u8; 5000]);
                    let all: Vec<_> = (0..200).map(key).collect();
                    assert!(store.get_many(&all).unwrap().iter().all(Option::is_some));
                }
            });
        }
        let finish = Finish(&stop);
        let mut merged = 0;
        for round in 0..15u32 {
            (0..200u32).filter(|n| n % 3 == round % 3).for_each(|n| {
                store.put(key(n), vec![n as u8; 5000]).unwrap();
            });
            merged += store.merge().unwrap().inputs;
        }
        drop(finish);
        assert!(merged > 0);
    });
}

/// Hazard 7: an iterator that is held over merges yields every key that is there throughout
/// exactly once; one that is abandoned holds nothing up.
#[test]
fn iterators_are_not_upset_by_merges() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    for n in 0..3000u32 {
        store.put(n.to_le_bytes(), [1; 500]).unwrap();
    }
    let mut abandoned = store.iter();
    abandoned.next().unwrap().unwrap();
    let mut seen = Vec::new();
    let mut iterator = store.iter();
    for round in 0..10u32 {
        seen.extend(iterator.by_ref().take(200).map(|pair| pair.unwrap().key().to_vec()));
        for n in (0..3000u32).filter(|n| n % 10 == round) {
            if n % 4 == 0 {
                store.delete(n.to_le_bytes()).unwrap();
            } else {
                store.put(n.to_le_bytes(), [2; 500]).unwrap();
            }
        }
        store.merge().unwrap();
    }
    // The iterators hold none.
    until_held(&store, 0);
    seen.extend(iterator.map(|pair| pair.unwrap().key().to_vec()));
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), all, "no key comes twice");
    for n in (0..3000u32).filter(|n| n % 4 != 0) {
        assert!(seen.binary_search(&n.to_le_bytes().to_vec()).is_ok(), "{n} is missing");
    }
}

/// Hazard 5, 8: expiry follows the clock, also backwards; what a merge has reclaimed stays gone, and
/// never uncovers an older value.
#[test]
fn expired_values_are_reclaimed_and_uncover_nothing() {
    let clock = Arc::new(AtomicU64::new(1_000_000));
    let disk = SimulatedDisk::new();
    let options = options().clock(clock.clone());
    let store = options.open_simulated(&disk).unwrap();
    let ttl = |seconds| WriteOptions::new().ttl(Duration::from_secs(seconds));
    store.put("key", "old").unwrap();
    store.put("stays", "here").unwrap();
    store.roll().unwrap();
    store.put_with("key", "short", &ttl(10)).unwrap();
    store.put_with("later", "long", &ttl(100)).unwrap();
    store.roll().unwrap();
    let expiring = *full(&store).last().unwrap();
    assert_eq!(value(&store, "key").unwrap(), b"short");
    clock.fetch_add(10_000, Ordering::Relaxed);
    assert_eq!(value(&store, "key"), None);
    clock.fetch_sub(5_000, Ordering::Relaxed);
    assert_eq!(value(&store, "key").unwrap(), b"short");
    clock.fetch_add(5_000, Ordering::Relaxed);
    let report = store.merge_only(&[expiring]).unwrap();
    assert_eq!((report.expired, report.tombstones_kept, report.puts_moved), (1, 1, 1));
    // Back to when it was there: it is reclaimed, and the value before it does not come back.
    clock.fetch_sub(9_000, Ordering::Relaxed);
    for image in [disk.process_death(), disk.power_loss(|_, _| false)] {
        let store = options.open_simulated(&image).unwrap();
        assert_eq!(value(&store, "key"), None);
        assert_eq!(value(&store, "later").unwrap(), b"long");
        assert_eq!(value(&store, "stays").unwrap(), b"here");
    }
    assert_eq!(value(&store, "key"), None);
    store.put("key", "new").unwrap();
    assert_eq!(value(&store, "key").unwrap(), b"new");
    assert!(store.stats().expired > 0);
}

/// What was overwritten and has expired since is counted as dead twice. What is live beside it is copied in
/// runs that take no more space than others.
#[test]
fn what_is_dead_and_has_expired_makes_no_run_larger() {
    let clock = Arc::new(AtomicU64::new(1_000_000));
    let options = small_store(64 << 10).clock(clock.clone());
    let store = options.open_simulated(&SimulatedDisk::new()).unwrap();
    let second = WriteOptions::new().ttl(Duration::from_secs(1));
    for n in 0..500u32 {
        store.put_with(n.to_le_bytes(), vec![1; 5000], &second).unwrap();
        store.put(n.to_le_bytes(), vec![2; 5000]).unwrap();
    }
    store.roll().unwrap();
    clock.fetch_add(1000, Ordering::Relaxed);
    let report = store.merge().unwrap();
    assert_eq!(report.puts_moved, 500);
    let runs = store.stats().merges.merges;
    assert!(report.bytes_written <= runs * 8 * (64 << 10), "{runs} runs: {report:?}");
}

/// Hazard 10: the active segment is not merged, and files go only once all of them is elsewhere.
#[test]
fn the_active_segment_is_left_alone() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("key", "value").unwrap();
    let active = store.log().tail().segment();
    assert_eq!(store.merge_only(&[active]).unwrap().inputs, 0);
    assert_eq!(value(&store, "key").unwrap(), b"value");
    let store = options().open_simulated(&disk.process_death()).unwrap();
    assert_eq!(value(&store, "key").unwrap(), b"value");
}

/// Hazard 11 (rosedb#258): put, merge, delete, merge, reopen: no keys.
#[test]
fn put_merge_delete_merge_reopen() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("key", "value").unwrap();
    store.merge().unwrap();
    assert_eq!(value(&store, "key").unwrap(), b"value");
    store.delete("key").unwrap();
    store.merge().unwrap();
    assert!(store.is_empty());
    after_crashes(&disk, |store| assert!(store.is_empty()));
    store.close().unwrap();
    let store = options().open_simulated(&disk).unwrap();
    assert!(store.is_empty());
    // Nothing is left to be merged, tombstones included.
    let report = store.merge().unwrap();
    assert_eq!((report.puts_moved, report.tombstones_dropped, report.outputs), (0, 0, 0));
    assert_eq!(store.merge().unwrap().bytes_read, 0);
}

/// Hazard 17: what is written after a merge is there after reopening.
#[test]
fn writes_after_a_merge_are_there() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("a", "1").unwrap();
    store.merge().unwrap();
    store.put("a", "2").unwrap();
    store.put("b", "1").unwrap();
    store.sync().unwrap();
    after_crashes(&disk, |store| {
        assert_eq!(value(store, "a").unwrap(), b"2");
        assert_eq!(value(store, "b").unwrap(), b"1");
    });
}

/// Hazard 18: an input goes only once what made its frames dead is durable. Power fails after any
/// file operation of a merge, with anything or nothing of what was not synced on the device.
#[test]
fn power_loss_at_any_step_of_a_merge_loses_nothing_durable() {
    let fill = |store: &Store| {
        for round in 0..3u8 {
            for key in ["a", "b", "c", "d"] {
                store.put(key, [round; 1000]).unwrap();
            }
            store.delete("d").unwrap();
            store.roll().unwrap();
        }
        // Not synced: the merge has to.
        store.put("a", "last").unwrap();
        store.delete("b").unwrap();
    };
    let (mut operations, mut done) = (0, false);
    while !done {
        let disk = SimulatedDisk::new();
        let store = options().open_simulated(&disk).unwrap();
        fill(&store);
        let durable = contents(&options().open_simulated(&disk.power_loss(|_, _| false)).unwrap());
        let all = contents(&store);
        let ids = full(&store);
        disk.fail_after(operations);
        done = store.merge_only(&ids).is_ok() && disk.operations_left() > Some(0);
        operations += 1;
        assert_eq!(contents(&store), all, "as seen by this process");
        assert_eq!(contents(&options().open_simulated(&disk.process_death()).unwrap()), all);
        for keep in [false, true] {
            let image = disk.power_loss(|_, _| keep);
            let store = options().open_simulated(&image).unwrap();
            let found = contents(&store);
            assert!(found == durable || found == all, "{operations} operations: {found:?}");
            assert!(!done || found == all, "a merge makes the log durable");
            store.verify().unwrap();
        }
    }
    assert!(operations > 8, "a merge takes {operations} operations");
}

/// Hazard 15: one reader that does not let go holds up its own segment, and no other.
#[test]
fn a_stuck_reader_holds_one_segment() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("held", "for long").unwrap();
    let held = store.get("held").unwrap().unwrap();
    let bytes = store.get("held").unwrap().unwrap().into_bytes();
    for round in 0..10u8 {
        store.put("held", [round]).unwrap();
        store.put("other", [round; 5000]).unwrap();
        store.merge().unwrap();
        until_held(&store, 1);
        let stats = store.stats();
        assert!(stats.longest_reader_wait.is_some());
        assert!(stats.segments.len() <= 4, "{:?}", stats.segments);
    }
    assert_eq!(&*held, b"for long");
    drop(held);
    until_held(&store, 1);
    assert_eq!(&*bytes, b"for long", "it keeps its segment's memory");
    drop(bytes);
    until_held(&store, 0);
}

/// `into_bytes` after the value's segment was merged away.
#[test]
fn a_value_outlives_its_segment() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("key", "value").unwrap();
    let value = store.get("key").unwrap().unwrap();
    store.merge().unwrap();
    let bytes = value.into_bytes();
    store.merge().unwrap();
    drop(store);
    assert_eq!(&*bytes, b"value");
}

#[test]
fn entries_of_the_log_stay_where_they_are() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let place = store.log().append(b"an entry").unwrap();
    store.put("key", "1").unwrap();
    store.roll().unwrap();
    store.put("key", "2").unwrap();
    store.roll().unwrap();
    store.put("key", "3").unwrap();
    let later = store.log().append(b"another").unwrap();
    store.merge().unwrap();
    let entries = |store: &Store| placed_entries(store.log());
    let expected = [(place, b"an entry".to_vec()), (later, b"another".to_vec())];
    assert_eq!(entries(&store), expected);
    assert_eq!(&*store.log().read(place).unwrap(), b"an entry");
    store.close().unwrap();
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(entries(&store), expected);
    assert_eq!(value(&store, "key").unwrap(), b"3");
}

#[test]
fn the_policy_merges_what_is_mostly_dead_and_disk_use_stays_bounded() {
    let disk = SimulatedDisk::new();
    let policy = MergePolicy::new().min_dead_bytes(64 << 10);
    let store = options().merge_policy(policy).open_simulated(&disk).unwrap();
    let mut most = 0;
    for n in 0..30_000u32 {
        store.put((n % 100).to_le_bytes(), vec![n as u8; 2000]).unwrap();
        if n % 500 == 0 {
            store.maintain().unwrap();
            assert!(!store.needs_merge());
            most = most.max(store.stats().disk_bytes);
        }
    }
    assert!(most < 12 << 20, "60 MB of puts, 200 kB of them live, took {most} bytes");
    let stats = store.stats();
    assert!(stats.merges.merges > 3 && stats.merges.bytes_reclaimed > 40 << 20);
    assert_eq!(stats.keys, 100);
    (0..100u32).for_each(|n| assert!(store.contains_key(n.to_le_bytes()).unwrap()));
}

/// Keys that come and go leave no tombstones behind, though other keys stay forever.
#[test]
fn tombstones_go_though_old_segments_stay() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    (0..500u32).for_each(|n| _ = store.put(n.to_le_bytes(), [1; 3000]).unwrap());
    store.roll().unwrap();
    for round in 0..5u32 {
        for n in 0..300u32 {
            let key = format!("job {round} {n}");
            store.put(&key, [2; 100]).unwrap();
            store.delete(&key).unwrap();
        }
        store.roll().unwrap();
        let last = *full(&store).last().unwrap();
        let report = store.merge_only(&[last]).unwrap();
        assert_eq!((report.tombstones_kept, report.tombstones_dropped), (0, 300));
        assert_eq!(report.outputs, 0);
    }
    after_crashes(&disk, |store| assert_eq!(store.len(), 500));
}

#[test]
fn live_and_dead_bytes_are_the_same_before_and_after_reopening() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    for n in 0..4000u32 {
        store.put((n % 700).to_le_bytes(), vec![1; (n % 900) as usize]).unwrap();
        if n % 3 == 0 {
            store.delete((n % 311).to_le_bytes()).unwrap();
        }
    }
    store.merge_only(&full(&store)).unwrap();
    (0..700u32).for_each(|n| _ = store.put((n * 2).to_le_bytes(), [7; 300]).unwrap());
    store.roll().unwrap();
    store.maintain().unwrap();
    let sealed = |store: &Store| {
        let mut all: Vec<_> = store.stats().segments.into_iter().filter(|s| s.sealed).collect();
        all.retain(|segment| segment.live_bytes > 0);
        all.iter().map(|s| (s.id, s.live_bytes, s.dead_bytes)).collect::<Vec<_>>()
    };
    let before = sealed(&store);
    let live: u64 = contents(&store)
        .iter()
        .map(|(key, value)| {
            (key.len().next_multiple_of(8) + value.len().next_multiple_of(8)) as u64
        })
        .sum();
    let counted: u64 = before.iter().map(|(_, live, _)| live).sum();
    assert!(
        counted >= live && counted < live + 24 * store.len() + 100,
        "{counted}, {live} in values"
    );
    store.abort();
    let store = options().open_simulated(&disk.process_death()).unwrap();
    assert_eq!(sealed(&store), before, "from the hints");
    for (name, _) in disk.files().iter().filter(|(name, _)| name.ends_with(".hint")) {
        assert!(disk.flip(name, 100, 1));
    }
    let store = options().open_simulated(&disk.process_death()).unwrap();
    assert_eq!(store.recovery().hinted_segments, 0);
    assert_eq!(sealed(&store), before, "from the frames");
}

/// The first frame of an output says what it was made of, from the moment its file is there.
#[test]
fn a_merged_segment_names_its_inputs_from_the_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    for round in 0..3u8 {
        store.put("key", [round; 100]).unwrap();
        store.put([round], "stays").unwrap();
        store.roll().unwrap();
    }
    let inputs = full(&store);
    let files = |path: &std::path::Path| -> Vec<(u32, Vec<u8>)> {
        let segments = paths_with(path, "seg").into_iter();
        let id = |path: &std::path::Path| path.file_stem()?.to_str()?.parse().ok();
        segments.map(|path| (id(&path).unwrap(), std::fs::read(path).unwrap())).collect()
    };
    let named = {
        let inputs = inputs.clone();
        move |bytes: &[u8]| {
            let ids = bytes[144..][..inputs.len() * 4].as_chunks::<4>().0.iter();
            bytes[12] == 2
                && bytes[136] == 6
                && ids.map(|&id| u32::from_le_bytes(id)).eq(inputs.clone())
        }
    };
    let before: Vec<u32> = files(&path).into_iter().map(|(id, _)| id).collect();
    let (there, check) = (path.clone(), named.clone());
    let report = store.merge_while(&inputs, move || {
        let new: Vec<_> =
            files(&there).into_iter().filter(|(id, _)| !before.contains(id)).collect();
        assert!(new.iter().any(|(_, bytes)| check(bytes)), "there before its inputs go");
    });
    assert_eq!(report.unwrap().outputs, 1);
    // It is neither live nor dead: a segment with nothing else that is dead is not merged again.
    let last = store.stats().segments.into_iter().rfind(|s| s.merged).unwrap();
    assert_eq!(last.dead_bytes, 0);
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert_eq!(store.len(), 4);
    store.verify().unwrap();
}
