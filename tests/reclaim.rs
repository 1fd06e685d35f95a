//! What merging gives back, and what it must not do when the disk is full, a frame is damaged, or there
//! is nothing to be gained.

mod common;

use common::files::paths_with;
use common::{sealed as full, segment, small_store, store_by_hand as options, until, value};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tailcask::{
    AppendError, Batch, CommitLog, DiskOperation, MergeError, MergePolicy, RecoveryMode,
    SimulatedDisk, Store, StoreOptions, WriteOptions,
};

/// An expired value hides older ones like a tombstone, also after a merge that failed, and if the clock goes
/// back before the next one: the value has no slot any more.
#[test]
fn a_failed_merge_does_not_forget_what_an_expired_value_hides() {
    for back in [0, 5_000] {
        let disk = SimulatedDisk::new();
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let options = options().clock(clock.clone());
        let store = options.open_simulated(&disk).unwrap();
        store.put("key", "old, for good").unwrap();
        store.put("stay", "x").unwrap();
        store.roll().unwrap();
        let first = full(&store);
        store.put_with("key", "new", &WriteOptions::new().ttl(Duration::from_secs(1))).unwrap();
        store.put("other", "live").unwrap(); // so that the merge needs an output
        store.roll().unwrap();
        let second: Vec<u32> = full(&store).into_iter().filter(|id| !first.contains(id)).collect();
        clock.fetch_add(5_000, Ordering::Relaxed);
        assert_eq!(value(&store, "key"), None);
        disk.set_space(Some(0));
        assert!(matches!(store.merge_only(&second), Err(MergeError::Append(_))));
        disk.set_space(None);
        clock.fetch_sub(back, Ordering::Relaxed);
        assert_eq!(store.merge_only(&second).unwrap().tombstones_kept, 1);
        assert_eq!(value(&store, "key"), None);
        store.close().unwrap();
        let store = options.open_simulated(&disk).unwrap();
        assert_eq!(value(&store, "key"), None, "an older value is back");
    }
}

/// Wholly dead segments cost nothing to give back, and then there is room for the next ones.
#[test]
fn a_full_disk_is_reclaimed_bit_by_bit() {
    for room in [0u64, 2, 4, 6, 8, 16, 32] {
        let disk = SimulatedDisk::new();
        let store = options().open_simulated(&disk).unwrap();
        let v = vec![1u8; 100_000];
        for n in 0..60 {
            store.put(format!("dead{n}"), &v).unwrap();
        }
        for n in 0..120 {
            store.put(format!("half{n}"), &v).unwrap();
        }
        for n in 0..60 {
            store.delete(format!("dead{n}")).unwrap();
        }
        for n in (0..120).step_by(2) {
            store.delete(format!("half{n}")).unwrap();
        }
        store.roll().unwrap();
        store.log().maintain().unwrap(); // the standby is there
        let used: u64 = disk.files().iter().map(|(_, l)| *l as u64).sum();
        disk.set_space(Some(used + (room << 20)));
        let mut inputs = 0;
        for _ in 0..5 {
            inputs += store.maintain().map_or(0, |r| r.inputs);
        }
        let s = store.stats();
        let dead = s.segments.iter().filter(|s| s.sealed && s.live_bytes == 0).count();
        assert!(
            inputs >= 3 && dead == 0,
            "{room} MiB free: {inputs} merged, {dead} wholly dead left"
        );
        // The rest is up to the policy, which lets half of a segment be dead.
        assert!(s.dead_ratio() < 0.5, "{room} MiB free: {} is dead", s.dead_ratio());
    }
}

/// What a wholly dead segment gives back is there for an older one that needs an output.
#[test]
fn on_a_full_disk_what_is_wholly_dead_goes_first() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    // Each fills a segment.
    for what in ["half", "dead"] {
        (0..19).for_each(|n| _ = store.put(format!("{what}{n}"), vec![1; 100_000]).unwrap());
        store.roll().unwrap();
    }
    (0..4).for_each(|n| assert!(store.delete(format!("half{n}")).unwrap()));
    (0..19).for_each(|n| assert!(store.delete(format!("dead{n}")).unwrap()));
    disk.set_space(Some(disk.files().iter().map(|(_, len)| *len as u64).sum()));
    let report = store.merge().unwrap();
    assert_eq!((report.inputs, report.puts_moved), (2, 15), "{report:?}");
}

/// By hand as in the background: there is no room for a standby, and what is dead is merged all the same.
#[test]
fn maintenance_without_room_for_a_standby_merges() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let fill = |what: &str| {
        (0..60).for_each(|n| _ = store.put(format!("{what}{n}"), vec![1; 100_000]).unwrap());
    };
    fill("dead");
    fill("live");
    store.roll().unwrap();
    disk.set_space(Some(disk.files().iter().map(|(_, len)| *len as u64).sum()));
    assert!(matches!(store.maintain(), Err(MergeError::Append(AppendError::NoSpace { .. }))));
    (0..60).for_each(|n| assert!(store.delete(format!("dead{n}")).unwrap()));
    let report = store.maintain().unwrap();
    assert!(report.inputs >= 2 && report.outputs == 0, "{report:?}");
    store.put("standby", vec![1; 1_000_000]).unwrap();
}

/// A merge that finds no room takes none from writers.
#[test]
fn a_merge_on_a_full_disk_stops_no_writer() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("a", "1").unwrap();
    store.roll().unwrap();
    store.put("a", "2").unwrap();
    disk.set_space(Some(0));
    store.put("b", "there is room in the active segment").unwrap();
    let _ = store.merge();
    let _ = store.put("c", "3");
    let _ = store.merge();
    store.put("c", "3").expect("there was room before the merge");
}

/// A merge may take all the space that there is for a moment. A delete waits for what the merge frees,
/// rather than being refused.
#[test]
fn a_delete_on_a_full_disk_waits_for_a_merge_that_is_under_way() {
    type Delete = fn(&Store) -> bool;
    let deletes: [Delete; 3] = [
        |store| store.delete("stays").unwrap(),
        |store| store.compare_and_swap("stays", Some(b"x"), None).unwrap().is_ok(),
        |store| store.write(Batch::new().delete("stays")).is_ok(),
    ];
    for delete in deletes {
        let disk = SimulatedDisk::new();
        let store = Arc::new(options().open_simulated(&disk).unwrap());
        store.put("stays", "x").unwrap();
        for n in 0..40u32 {
            store.put([n as u8 % 8], vec![1; 100_000]).unwrap();
        }
        store.roll().unwrap();
        let (ids, other) = (full(&store), store.clone());
        let (ended, has_ended) = std::sync::mpsc::channel();
        let report = store.merge_while(&ids, {
            let disk = disk.clone();
            move || {
                disk.set_space(Some(0));
                // As far as there is room without another segment.
                while other.put("small", vec![1; 10_000]).is_ok() {}
                while other.put("small", "").is_ok() {}
                std::thread::spawn(move || ended.send(delete(&other)));
                std::thread::sleep(Duration::from_millis(50));
                let used: u64 = disk.files().iter().map(|(_, len)| *len as u64).sum();
                disk.set_space(Some(used));
            }
        });
        assert!(report.unwrap().bytes_reclaimed > 0);
        assert!(has_ended.recv_timeout(Duration::from_secs(60)).unwrap());
        assert_eq!(value(&store, "stays"), None);
    }
}

/// It has made no room then, but somebody else may have.
#[test]
fn a_delete_on_a_full_disk_tries_again_when_a_merge_has_failed() {
    let disk = SimulatedDisk::new();
    let store = Arc::new(options().open_simulated(&disk).unwrap());
    store.put("stays", "x").unwrap();
    (0..40u8).for_each(|n| _ = store.put([n % 8], vec![1; 100_000]).unwrap());
    store.roll().unwrap();
    let (ended, has_ended) = mpsc::channel();
    let merged = store.merge_while(&full(&store), {
        let (disk, other) = (disk.clone(), store.clone());
        move || {
            disk.set_space(Some(0));
            while other.put("small", vec![1; 10_000]).is_ok() {}
            while other.put("small", "").is_ok() {}
            std::thread::spawn(move || ended.send(other.delete("stays")));
            // Until it waits. Too short a time makes the test weaker, and not fail.
            std::thread::sleep(Duration::from_millis(50));
            disk.fail_once_with(DiskOperation::Create, "MANIFEST", 0, io::ErrorKind::Other);
            disk.set_space(None);
        }
    });
    assert!(matches!(merged, Err(MergeError::Io { .. })), "{merged:?}");
    assert!(has_ended.recv_timeout(Duration::from_secs(60)).unwrap().unwrap());
    assert_eq!(value(&store, "stays"), None);
}

/// What was merged takes its space until nobody looks at it. Whoever does in passing is waited for.
#[test]
fn a_put_on_a_full_disk_waits_for_those_who_look_at_what_was_merged() {
    // At whichever of its tries the other one lets go.
    for let_go_at in 1..20 {
        let disk = SimulatedDisk::new();
        let store = options().open_simulated(&disk).unwrap();
        store.put("stays", "x").unwrap();
        for n in 0..40u32 {
            store.put([n as u8 % 8], vec![1; 100_000]).unwrap();
        }
        store.roll().unwrap();
        std::thread::scope(|scope| {
            let (looks, is_looking) = mpsc::channel();
            let (may_end, let_go) = mpsc::channel::<()>();
            let (ended, has_ended) = mpsc::channel();
            let other = &store;
            scope.spawn(move || {
                let look = |value: &[u8]| {
                    looks.send(()).unwrap();
                    let_go.recv().ok();
                    value.len()
                };
                assert_eq!(other.get_with("stays", look).unwrap(), Some(1));
                ended.send(()).ok();
            });
            is_looking.recv().unwrap();
            assert!(store.merge().unwrap().bytes_reclaimed > 0);
            let (tries, has_ended) = (AtomicU64::new(0), Mutex::new(has_ended));
            disk.on_operation(move |_, operation, _| {
                if operation != DiskOperation::Create {
                    return Ok(());
                }
                let nth = tries.fetch_add(1, Ordering::Relaxed) + 1;
                if nth == let_go_at {
                    may_end.send(()).unwrap();
                    has_ended.lock().unwrap().recv().unwrap();
                }
                if nth <= let_go_at { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
            });
            let put = |n| store.put([n as u8 % 8], vec![2; 100_000]);
            let refused = (0..40u32).find_map(|n| put(n).err());
            disk.on_operation(|_, _, _| Ok(())); // lets go of the other one in any case
            assert!(refused.is_none(), "{let_go_at}: {refused:?}");
        });
        assert_eq!(value(&store, "stays").as_deref(), Some(&b"x"[..]));
    }
}

/// Entries of the log stay, and do not count as something to be reclaimed.
#[test]
fn entries_of_the_log_do_not_make_merging_restless() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    for _ in 0..200 {
        store.log().append(&[7; 100_000]).unwrap();
    }
    store.roll().unwrap();
    for n in 0..40 {
        store.put(format!("k{n}"), vec![1; 100_000]).unwrap();
    }
    store.roll().unwrap();
    store.maintain().unwrap();
    let mut written = 0;
    for round in 0..10 {
        store.put("k0", [round]).unwrap();
        store.put("k30", [round]).unwrap();
        store.roll().unwrap();
        written += store.maintain().unwrap().bytes_written;
    }
    assert!(written < 8 << 20, "{written} bytes for 20 small overwrites");
    assert!(!store.stats().space_goal_missed);
}

/// Keys that come and go leave tombstones in merged segments, which are checked again in time.
#[test]
fn tombstones_in_merged_segments_do_not_pile_up() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    for cycle in 0..5 {
        let n = 30_000u32;
        let key = |i: u32| format!("{cycle:04}-{i:012}");
        for i in 0..n {
            store.put(key(i), [1u8; 60]).unwrap();
        }
        store.roll().unwrap();
        store.maintain().unwrap();
        for i in 0..n {
            if i % 10 < 3 {
                store.delete(key(i)).unwrap();
            }
        }
        store.roll().unwrap();
        for _ in 0..3 {
            store.maintain().unwrap();
        }
        for i in 0..n {
            if i % 10 >= 3 {
                store.delete(key(i)).unwrap();
            }
        }
        store.roll().unwrap();
        for _ in 0..10 {
            store.maintain().unwrap();
        }
    }
    let before = store.stats().live_bytes;
    assert!(before < 3 << 19, "{before} bytes live, and no key");
}

/// Loading makes room for every entry of every hint, and frees what was too much.
#[test]
fn the_keydir_is_no_larger_after_reopening() {
    let disk = SimulatedDisk::new();
    let o = options().merge_policy(MergePolicy::new().space_goal(1e9));
    let store = o.open_simulated(&disk).unwrap();
    for round in 0..12u32 {
        for n in 0..100_000u32 {
            store.put(n.to_le_bytes(), round.to_le_bytes()).unwrap();
        }
    }
    let before = store.keydir_memory() as f64 / store.len() as f64;
    store.close().unwrap();
    let store = o.open_simulated(&disk).unwrap();
    let after = store.keydir_memory() as f64 / store.len() as f64;
    assert!(before < 31.0 && after < 31.0, "{before}, {after} bytes a key");
}

/// Slots of keys that are gone make room for others.
#[test]
fn the_keydir_does_not_grow_with_keys_that_come_and_go() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let n = 60_000u32;
    for i in 0..n {
        store.put(i.to_le_bytes(), b"").unwrap();
    }
    let mut worst = 0f64;
    for i in n..n * 6 {
        store.delete((i - n).to_le_bytes()).unwrap();
        store.put(i.to_le_bytes(), b"").unwrap();
        if i % 1000 == 0 {
            worst = worst.max(store.keydir_memory() as f64 / store.len() as f64);
        }
        if i % 50_000 == 0 {
            store.roll().unwrap();
            store.maintain().unwrap();
        }
    }
    assert!(worst < 35.0, "{worst} bytes a key");
}

/// A write over a damaged key is refused, also in a batch.
#[test]
fn a_batch_over_a_damaged_key_is_refused() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let at = store.put("damaged-key-1234", "value").unwrap();
    store.close().unwrap();
    let file = segment(at.segment());
    assert!(disk.flip(&file, at.offset() as usize + 16 + 3, 1));
    let store = options().open_simulated(&disk).expect("hints suffice");
    store.get("damaged-key-1234").unwrap_err();
    store.put("damaged-key-1234", "v2").unwrap_err();
    let mut batch = Batch::new();
    batch.put("damaged-key-1234", "v2");
    store.write(&batch).unwrap_err();
    assert_eq!(store.len(), 1);
    // Other keys are not affected, and the store opens again.
    store.put("other", "v").unwrap();
    store.close().unwrap();
    assert_eq!(options().open_simulated(&disk).unwrap().len(), 2);
}

/// Damage in a value that is overwritten makes no second slot for its key.
#[test]
fn salvage_keeps_one_slot_for_a_key() {
    for n in 0..5 {
        let key = format!("key{n}");
        let disk = SimulatedDisk::new();
        let store = options().open_simulated(&disk).unwrap();
        store.put(&key, "v1 which is damaged later").unwrap();
        store.put("other", "x").unwrap();
        store.roll().unwrap();
        store.merge_only(&full(&store)).unwrap();
        let at = store.get(&key).unwrap().unwrap().position();
        store.put(&key, "v2").unwrap();
        store.close().unwrap();
        let file = segment(at.segment());
        assert!(disk.flip(&file, at.offset() as usize + 16 + 8 + 8 + 3, 1));
        let store = options().recovery_mode(RecoveryMode::Salvage).open_simulated(&disk).unwrap();
        assert_eq!(store.len(), 2);
        assert_eq!(store.recovery().lost.len(), 1);
        assert_eq!(value(&store, &key).unwrap(), b"v2");
        assert_eq!(store.keys().map(Result::unwrap).filter(|k| k == key.as_bytes()).count(), 1);
        store.put(&key, "v3").unwrap();
        assert!(store.delete(&key).unwrap());
        assert_eq!(value(&store, &key), None);
    }
}

/// A reader in another handle unmaps what the store has merged.
#[test]
fn a_follower_of_the_log_does_not_keep_what_is_merged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::options().segment_size(2 << 20).open(&path).unwrap();
    let follower = CommitLog::options().open_read_only(&path).unwrap();
    for round in 0..10u8 {
        for n in 0..200 {
            store.put(format!("{n}"), vec![round; 20_000]).unwrap();
        }
        store.merge().unwrap();
        let _ = follower.tail();
    }
    let mine = path.to_str().unwrap();
    until("few files are mapped that are gone", || {
        store.maintain().unwrap();
        let _ = follower.tail();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|l| l.contains(mine) && l.ends_with("(deleted)")).count() < 8
    });
}

/// Hazard 35: what a hint says beside its entries may be anything, also with a right checksum.
#[test]
fn hints_with_absurd_numbers_and_a_right_checksum() {
    for at in [40usize, 48, 56, 64, 72, 120, 128, 136, 144, 152] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let o = options();
        let store = o.open(&path).unwrap();
        for n in 0..100 {
            store.put(format!("{n}"), "x").unwrap();
        }
        store.put_with("t", "x", &WriteOptions::new().ttl(Duration::from_millis(1))).unwrap();
        store.close().unwrap();
        let hint = &paths_with(&path, "hint")[0];
        let mut b = std::fs::read(hint).unwrap();
        b[at..at + 8].copy_from_slice(&(u64::MAX - 3).to_le_bytes());
        common::hints::reseal(&mut b);
        std::fs::write(hint, &b).unwrap();
        let store = o.open(&path).unwrap();
        assert_eq!(store.recovery().hinted_segments, 0, "it cannot be true");
        store.put("0", "y").unwrap();
        let _ = store.stats();
        store.maintain().unwrap();
        store.merge().unwrap();
        assert_eq!(value(&store, "7").unwrap(), b"x");
    }
}

/// Hazard 9: an id that a merge took for what it then discarded is used up.
#[test]
fn ids_of_discarded_outputs_are_not_used_again() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    for n in 0..120 {
        store.put(format!("{n}"), vec![1u8; 100_000]).unwrap();
    }
    for n in (0..120).step_by(3) {
        store.delete(format!("{n}")).unwrap();
    }
    store.roll().unwrap();
    store.put("active", "x").unwrap();
    store.log().maintain().unwrap();
    let ids = full(&store);
    store.merge_only(&[]).unwrap();
    let highest = disk
        .files()
        .iter()
        .filter(|(n, _)| n.ends_with(".seg"))
        .map(|(n, _)| n[..20].parse::<u32>().unwrap())
        .max()
        .unwrap();
    let used: u64 = disk.files().iter().map(|(_, l)| *l as u64).sum();
    disk.set_space(Some(used + (3 << 20)));
    let _ = store.merge_only(&ids);
    // the first output had highest + 1
    let image = disk.process_death();
    let again = options().open_simulated(&image).unwrap();
    let at = again.put("new", "x").unwrap();
    assert!(at.segment() > highest + 1);
}

/// Bytes that a put takes.
fn frame(key: &str, value: usize) -> u64 {
    (16 + key.len().next_multiple_of(8) + value.next_multiple_of(8)) as u64
}

/// What is dead in each full segment that a test has filled, in order: what no key is in is left out.
fn dead(store: &Store, ids: &[u32]) -> Vec<u64> {
    let all = store.stats().segments;
    ids.iter().map(|id| all.iter().find(|s| s.id == *id).unwrap().dead_bytes).collect()
}

/// As `dead`, apart from frames without a key: what was dead when nothing had been overwritten.
fn died(store: &Store, ids: &[u32], before: &[u64]) -> Vec<u64> {
    dead(store, ids).iter().zip(before).map(|(now, before)| now - before).collect()
}

/// Every way to overwrite or delete a value makes its bytes dead, in its own segment, at once.
#[test]
fn what_is_overwritten_is_dead_also_by_batches() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    for n in 1..=6 {
        store.put(format!("k{n}"), vec![1; n * 1000]).unwrap();
    }
    store.roll().unwrap();
    store.maintain().unwrap();
    let ids = full(&store);
    let before = dead(&store, &ids);
    let mut sum = 0;
    let mut check = |n: usize| {
        sum += frame("k1", n * 1000);
        assert_eq!(died(&store, &ids, &before), [sum], "k{n}");
    };
    store.put("k1", "x").unwrap();
    check(1);
    assert!(store.delete("k2").unwrap());
    check(2);
    let mut batch = Batch::new();
    batch.put("k3", "x").put("other", "y");
    store.write(&batch).unwrap();
    check(3);
    let mut batch = Batch::new();
    batch.delete("k4").put("k4", "again").delete("never");
    store.write(&batch).unwrap();
    check(4);
    store.compare_and_swap("k5", Some(&[1; 5000]), None).unwrap().unwrap();
    check(5);
    store.update("k6", |_| Some(b"x".to_vec())).unwrap();
    check(6);
    // Of a key that is in one batch twice, what comes first is dead from the beginning.
    let mut batch = Batch::new();
    batch.put("twice", [2; 700]).put("twice", "x");
    store.write(&batch).unwrap();
    store.roll().unwrap();
    store.maintain().unwrap();
    let all = full(&store);
    let now = dead(&store, &all);
    store.close().unwrap();
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(dead(&store, &all), now, "and after opening");
}

/// After opening, what an older segment holds of a key that a newer one has is dead: from hints, and
/// from frames.
#[test]
fn what_was_overwritten_is_dead_when_it_is_loaded() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("twice", [1; 800]).unwrap();
    store.put("deleted", [1; 1600]).unwrap();
    store.put("stays", [1; 3200]).unwrap();
    store.roll().unwrap();
    store.maintain().unwrap();
    let ids = full(&store);
    let before = dead(&store, &ids);
    store.put("twice", "x").unwrap();
    store.delete("deleted").unwrap();
    store.close().unwrap();
    let expected = [frame("twice", 800) + frame("deleted", 1600)];
    let check = |disk: &SimulatedDisk, hinted: bool| {
        let store = options().open_simulated(disk).unwrap();
        assert_eq!(store.recovery().hinted_segments > 0, hinted);
        assert_eq!(died(&store, &ids, &before), expected);
    };
    let image = disk.process_death();
    check(&image, true);
    for (name, _) in disk.files().iter().filter(|(name, _)| name.ends_with(".hint")) {
        assert!(disk.cut(name, 0));
    }
    check(&disk, false);
}

/// What was overwritten while a merge copied it is dead in the merge's output.
#[test]
fn a_copy_that_comes_too_late_is_dead() {
    let disk = SimulatedDisk::new();
    let store = Arc::new(options().open_simulated(&disk).unwrap());
    store.put("late", [1; 4000]).unwrap();
    store.put("gone", [1; 2000]).unwrap();
    store.put("stays", [1; 1000]).unwrap();
    store.roll().unwrap();
    let ids = full(&store);
    let meanwhile = store.clone();
    let report = store.merge_while(&ids, move || {
        meanwhile.put("late", "x").unwrap();
        meanwhile.delete("gone").unwrap();
    });
    assert_eq!(report.unwrap().puts_moved, 3);
    let output = store.stats().segments.into_iter().rfind(|s| s.merged).unwrap();
    // Copies have the position in front of the key that they were written at.
    let expected = frame("late", 4000) + frame("gone", 2000) + 2 * 8;
    assert_eq!((output.dead_bytes, output.live_bytes), (expected, frame("stays", 1000) + 8));
}

/// Where all at once does not fit, less at a time does: what the first runs give back is room for the
/// next ones.
#[test]
fn a_merge_that_finds_no_room_takes_less_at_a_time() {
    let disk = SimulatedDisk::new();
    let store = options_of_4k().open_simulated(&disk).unwrap();
    for n in 0..8 {
        for half in 0..2 {
            store.put(format!("{n} {half}"), vec![n; 28 << 10]).unwrap();
        }
        store.roll().unwrap();
    }
    let ids = full(&store);
    for n in 0..8 {
        store.delete(format!("{n} 0")).unwrap();
    }
    store.sync().unwrap();
    store.log().maintain().unwrap();
    let used: u64 = disk.files().iter().map(|(_, len)| *len as u64).sum();
    // One output fits, of the four or five that all of them together need.
    disk.set_space(Some(used + (72 << 10)));
    let report = store.merge_only(&ids).unwrap();
    assert_eq!((report.inputs, report.puts_moved), (ids.len() as u64, 8));
    for n in 0..8u8 {
        assert_eq!(value(&store, format!("{n} 0")), None);
        assert_eq!(value(&store, format!("{n} 1")).unwrap(), vec![n; 28 << 10]);
    }
    let again = options_of_4k().open_simulated(&disk.process_death()).unwrap();
    assert_eq!(again.len(), 8);
    again.verify().unwrap();
}

fn options_of_4k() -> StoreOptions {
    small_store(4096).segment_size(64 << 10).initial_segment_size(64 << 10)
}
