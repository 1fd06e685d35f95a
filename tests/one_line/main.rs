//! What a wrong line would break that longer histories seldom meet, each in one as short as it can be.
//! `scripts/mutate.sh` changes those lines one at a time, and one of these has to fail.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tailcask::{
    Batch, CommitLog, DiskOperation, Fate, LogOptions, LogPosition, Maintenance, OpenError,
    RecoveryMode, SimulatedDisk, Store, StoreOptions, Unsynced,
};

const UNIT: u64 = 32 << 10;

fn log_options() -> LogOptions {
    let options = CommitLog::options().segment_unit(UNIT).segment_size(UNIT);
    options.maintenance(Maintenance::Manual)
}

fn options() -> StoreOptions {
    let options = Store::options().segment_unit(UNIT).segment_size(UNIT);
    options.maintenance(Maintenance::Manual)
}

fn segment(id: u32) -> String {
    format!("{id:020}.seg")
}

fn hint(id: u32) -> String {
    format!("{id:020}.hint")
}

fn entries(log: &CommitLog) -> Vec<Vec<u8>> {
    let mut reader = log.reader();
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        all.push(entry.to_vec());
    }
    all
}

fn value(store: &Store, key: &str) -> Option<Vec<u8>> {
    store.get(key).unwrap().map(|value| value.to_vec())
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

/// A frame's checksum is mixed with this: as in `format/frame.rs`.
fn seed(salt: u64, offset: u64, low: u64, header: u64) -> u32 {
    let place = (offset << 32 | low) ^ 0x9e37_79b9_7f4a_7c15;
    let product = u128::from(salt ^ header) * u128::from(place);
    let folded = product as u64 ^ (product >> 64) as u64;
    folded as u32 ^ (folded >> 32) as u32
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
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
    let len = short.len() - 4;
    let crc = crc32fast::hash(&short[..len]);
    short[len..].copy_from_slice(&crc.to_le_bytes());
    assert!(disk.write(&hint(id), &short));
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(store.recovery().hinted_segments, 1, "that of the other segment");
    assert_eq!(value(&store, "key").unwrap(), b"value");
}

// ---- recovery after a power loss ----

#[test]
fn behind_the_end_of_the_log_everything_is_zero_after_a_recovery() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    log.append(&[1; 100]).unwrap();
    log.sync().unwrap();
    log.append(&[2; 3000]).unwrap();
    // The middle is lost, the end is there.
    let image = disk.power_loss(|_, sector| sector == 5);
    log.abort();
    let log = log_options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log), [[1; 100]]);
    assert!(log.recovery().torn_bytes > 0);
    log.abort();
    let bytes = image.read(&segment(1)).unwrap();
    assert!(bytes[400..].iter().all(|&b| b == 0));
    // What was cut off is kept aside.
    let aside: Vec<_> = image.files().into_iter().filter(|(n, _)| n.contains('/')).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
}

#[test]
fn what_is_sealed_is_durable_whatever_step_of_a_recovery_is_the_last() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    log.append(&[1; 3000]).unwrap();
    let dead = disk.process_death();
    log.abort();
    let images = Arc::new(Mutex::new(Vec::new()));
    let taken = images.clone();
    dead.on_operation(move |disk, operation, _| {
        // Only the head gets to the device, with the seal if there is one.
        if operation.is_write() {
            taken.lock().unwrap().push(disk.power_loss(|_, sector| sector == 0));
        }
        Ok(())
    });
    log_options().open_simulated(&dead).unwrap().abort();
    for image in images.lock().unwrap().iter() {
        let log = log_options().open_simulated(image).unwrap();
        let found = entries(&log);
        assert!(found.is_empty() || found == [[1; 3000]]);
        log.verify().unwrap();
        log.abort();
    }
}

/// Two full segments, and what is left of them after a power loss: the seal of the first is lost, the
/// second one is as `second` says; and a frame of the first one is damaged.
fn damaged_below(
    disk: &SimulatedDisk,
    at: LogPosition,
    second: fn(usize) -> bool,
) -> Result<CommitLog, OpenError> {
    let image = disk.power_loss(|name, sector| name == segment(2) && second(sector));
    assert!(image.flip(&segment(1), at.offset() as usize + 20, 1));
    log_options().open_simulated(&image)
}

fn fill(log: &CommitLog, id: u32) -> LogPosition {
    let at = log.append(&[1; 1000]).unwrap();
    assert_eq!(at.segment(), id);
    while log.append(&[1; 1000]).unwrap().segment() == id {}
    at
}

#[test]
fn a_later_seal_says_that_what_is_before_it_was_durable() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    let at = fill(&log, 1);
    fill(&log, 2);
    // Seals, and leaves no mark.
    log.maintain().unwrap();
    let opened = damaged_below(&disk, at, |sector| sector == 0);
    assert!(matches!(opened, Err(OpenError::Corrupt(_))), "{opened:?}");
    log.abort();
}

#[test]
fn a_mark_in_a_later_segment_says_that_what_is_before_it_was_durable() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    let at = fill(&log, 1);
    log.sync().unwrap();
    log.sync().unwrap();
    let opened = damaged_below(&disk, at, |_| true);
    assert!(matches!(opened, Err(OpenError::Corrupt(_))), "{opened:?}");
    log.abort();
}

/// Appends entries while a sync is under way, each while its own. What they are.
fn appended_inside_syncs(disk: &SimulatedDisk, log: &Arc<CommitLog>, syncs: usize) -> LogPosition {
    let (inside, count) = (log.clone(), AtomicUsize::new(0));
    let at = Arc::new(Mutex::new(LogPosition::START));
    let first = at.clone();
    disk.on_operation(move |_, operation, _| {
        if operation == DiskOperation::Sync && count.fetch_add(1, Ordering::Relaxed) == 0 {
            *first.lock().unwrap() = inside.append(&[5; 2000]).unwrap();
        }
        Ok(())
    });
    for _ in 0..syncs {
        log.sync().unwrap();
    }
    disk.on_operation(|_, _, _| Ok(()));
    let at = *at.lock().unwrap();
    assert!(at > LogPosition::START);
    at
}

fn abort(log: Arc<CommitLog>) {
    Arc::into_inner(log).unwrap().abort();
}

#[test]
fn a_mark_says_no_more_than_what_the_sync_covered() {
    let disk = SimulatedDisk::new();
    let log = Arc::new(log_options().open_simulated(&disk).unwrap());
    log.append(&[1; 400]).unwrap();
    let inside = appended_inside_syncs(&disk, &log, 1);
    assert!(log.durable() <= inside);
    // The mark is behind it, and says nothing of it.
    let lost = inside.offset() as usize / 512 + 1;
    let image = disk.power_loss(|name, sector| name != segment(1) || sector != lost);
    let log_after = log_options().open_simulated(&image).expect("it was not durable");
    assert_eq!(entries(&log_after), [[1; 400]]);
    log_after.abort();
    abort(log);
}

#[test]
fn the_furthest_mark_counts_and_not_the_first() {
    let disk = SimulatedDisk::new();
    let log = Arc::new(log_options().open_simulated(&disk).unwrap());
    log.append(&[1; 400]).unwrap();
    let inside = appended_inside_syncs(&disk, &log, 2);
    log.sync().unwrap();
    let image = disk.power_loss(|_, _| true);
    assert!(image.flip(&segment(1), inside.offset() as usize + 20, 1));
    let opened = log_options().open_simulated(&image);
    assert!(matches!(opened, Err(OpenError::Corrupt(_))), "{opened:?}");
    abort(log);
}

#[test]
fn bytes_of_a_user_are_no_mark() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    log.append(&[1; 3000]).unwrap();
    // A mark of 24 bytes, committed, of the kind 3, with 8 bytes that say "everything is durable".
    let words = [24 | 2 | 7 << 32, 3 | 8 << 32, u64::MAX >> 1];
    let body: Vec<u8> = words.iter().cycle().take(30).flat_map(|w: &u64| w.to_le_bytes()).collect();
    log.append(&body).unwrap();
    let image = disk.power_loss(|_, sector| sector != 2);
    let log_after = log_options().open_simulated(&image).expect("nothing was durable");
    assert!(entries(&log_after).is_empty());
    log_after.abort();
    log.abort();
}

#[test]
fn a_batch_of_fewer_entries_than_it_says_is_damaged() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    let at = log.append_batch(&[b"one", b"two"]).unwrap()[0].offset() as usize - 16;
    let image = disk.process_death();
    log.abort();
    let good = image.read(&segment(1)).unwrap();
    let (salt, low) = (word(&good, 24), word(&good, at) & 0xffff_ffff);
    for (count, sound) in [(2u64, true), (1, false), (3, false)] {
        let (mut bytes, header) = (good.clone(), 2 | count << 32);
        let check = seed(salt, at as u64, low, header);
        bytes[at..at + 8].copy_from_slice(&(u64::from(check) << 32 | low).to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&header.to_le_bytes());
        let image = image.process_death();
        assert!(image.write(&segment(1), &bytes));
        let opened = log_options().open_simulated(&image);
        assert_eq!(opened.is_ok(), sound, "{count}: {opened:?}");
        opened.into_iter().for_each(CommitLog::abort);
    }
}

#[test]
fn the_entries_of_a_dead_batch_are_not_read() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    let positions = log.append_batch(&[b"one", b"two"]).unwrap();
    let at = positions[0].offset() as usize - 16;
    log.append(b"behind").unwrap();
    let image = disk.process_death();
    log.abort();
    // As it is before its commit.
    let mut bytes = image.read(&segment(1)).unwrap();
    let (salt, low) = (word(&bytes, 24), word(&bytes, at) & 0xffff_fff8 | 1);
    let claim = u64::from(seed(salt, at as u64, low, 0)) << 32 | low;
    bytes[at..at + 8].copy_from_slice(&claim.to_le_bytes());
    assert!(image.write(&segment(1), &bytes));
    let log = log_options().open_simulated(&image).unwrap();
    assert_eq!((log.recovery().dead_claims, entries(&log)), (1, vec![b"behind".to_vec()]));
    for position in positions {
        log.read(position).unwrap_err();
    }
    log.abort();
}

#[test]
fn a_snapshot_of_the_device_is_judged_as_a_power_loss() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    log.append(&[1; 3000]).unwrap();
    log.append(b"behind").unwrap();
    // A hole in the middle, which a death would be taken for.
    let snapshot = disk.on_another_device(|unsynced| match unsynced {
        Unsynced::Sector { sector: 0..5, .. } => Fate::Lost,
        _ => Fate::Kept,
    });
    log.abort();
    let log = log_options().open_simulated(&snapshot).unwrap();
    assert!(entries(&log).is_empty());
    assert!(!log.recovery().same_boot || log.recovery().recovered_segments == 0);
    log.abort();
}

#[test]
fn where_the_kernel_does_not_tell_nothing_is_cut_off_that_a_death_would_keep() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    log.append(b"before").unwrap();
    log.abandon_reservation(100);
    log.append(b"behind").unwrap();
    let image = disk.process_death();
    log.abort();
    image.set_boot_id(None);
    let opened = log_options().open_simulated(&image);
    assert!(matches!(opened, Err(OpenError::UnknownBoot { .. })), "{opened:?}");
    image.set_boot_id(Some(1));
    assert_eq!(entries(&log_options().open_simulated(&image).unwrap()).len(), 2);
}

// ---- closing, and what is removed ----

#[test]
fn after_a_close_any_names_may_come_back() {
    for appended in [0, 1, 40] {
        let disk = SimulatedDisk::new();
        let log = log_options().open_simulated(&disk).unwrap();
        for _ in 0..appended {
            log.append(&[1; 1000]).unwrap();
        }
        // So that there is a standby.
        log.maintain().unwrap();
        let images = Arc::new(Mutex::new(Vec::new()));
        let taken = images.clone();
        disk.on_operation(move |disk, operation, _| {
            if operation.is_write() {
                let names = disk.unsynced().iter().filter(|(_, s)| *s == usize::MAX).count();
                for subset in 0..1u32 << names.min(6) {
                    let mut nth = 0;
                    taken.lock().unwrap().push(disk.power_loss_by(|unsynced| match unsynced {
                        Unsynced::Name { .. } => {
                            nth += 1;
                            if subset >> (nth - 1) & 1 == 1 { Fate::Kept } else { Fate::Lost }
                        }
                        _ => Fate::Kept,
                    }));
                }
            }
            Ok(())
        });
        log.close().unwrap();
        let last = disk.power_loss(|_, _| false);
        let names = disk.unsynced().into_iter().filter(|(_, sector)| *sector == usize::MAX);
        assert_eq!(names.collect::<Vec<_>>(), [], "a close leaves no name to be synced");
        images.lock().unwrap().push(last);
        for image in images.lock().unwrap().iter() {
            let log = log_options().open_simulated(image).unwrap();
            assert_eq!(entries(&log).len(), appended);
            log.abort();
        }
    }
}

#[test]
fn the_manifest_says_that_segments_are_gone_before_they_go() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    fill(&log, 1);
    fill(&log, 2);
    let tail = log.tail();
    let (images, removed) = (Arc::new(Mutex::new(Vec::new())), AtomicBool::new(false));
    let taken = images.clone();
    disk.on_operation(move |disk, operation, name| {
        removed.fetch_or(operation == DiskOperation::Remove, Ordering::Relaxed);
        if removed.load(Ordering::Relaxed) && operation.is_write() && name != "MANIFEST.tmp" {
            let images = [disk.process_death(), disk.power_loss(|_, _| true)];
            taken.lock().unwrap().extend(images);
        }
        Ok(())
    });
    log.sync().unwrap();
    log.truncate_before(tail).unwrap();
    let left = entries(&log);
    disk.on_operation(|_, _, _| Ok(()));
    let images = images.lock().unwrap();
    assert!(images.len() >= 4);
    for image in images.iter() {
        let log = log_options().open_simulated(image).unwrap();
        assert_eq!(entries(&log), left);
        log.abort();
    }
    log.abort();
}

#[test]
fn a_manifest_that_could_not_be_written_changes_nothing() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    fill(&log, 1);
    fill(&log, 2);
    log.sync().unwrap();
    let (begin, all) = (log.begin(), entries(&log));
    disk.fail_once_with(DiskOperation::Create, "MANIFEST", 0, ErrorKind::Other);
    log.truncate_before(log.tail()).unwrap_err();
    assert!(disk.has_failed());
    assert_eq!((log.begin(), &entries(&log)), (begin, &all));
    log.close().unwrap();
    let log = log_options().open_simulated(&disk).unwrap();
    assert_eq!((log.begin(), &entries(&log)), (begin, &all));
}

#[test]
fn a_segment_of_another_log_is_refused_and_set_aside_by_salvage() {
    let (disk, other) = (SimulatedDisk::new(), SimulatedDisk::new());
    for (disk, body) in [(&disk, b"mine"), (&other, b"his!")] {
        let log = log_options().open_simulated(disk).unwrap();
        log.append(body).unwrap();
        log.close().unwrap();
    }
    assert!(disk.write(&segment(1), &other.read(&segment(1)).unwrap()));
    assert!(log_options().open_simulated(&disk).is_err());
    let log = log_options().recovery_mode(RecoveryMode::Salvage).open_simulated(&disk).unwrap();
    assert!(entries(&log).is_empty());
    assert!(disk.files().iter().any(|(name, _)| name.starts_with("set-aside/")));
}

#[test]
fn the_last_segment_of_a_closed_log_is_missed() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    fill(&log, 1);
    log.close().unwrap();
    let whole = disk.process_death();
    assert!(disk.cut(&segment(2), 0));
    let opened = log_options().open_simulated(&disk);
    assert!(matches!(opened, Err(OpenError::MissingSegment { id: 2, .. })), "{opened:?}");
    // Or it ends earlier than it did: here it is the one of an older backup.
    let mut bytes = whole.read(&segment(2)).unwrap();
    let salt = word(&bytes, 24);
    let (end, frames) = (128u64, 0u64);
    let crc = [salt, end, frames].map(u64::to_le_bytes).concat();
    let crc = u64::from(crc32fast::hash(&crc));
    for (at, word) in [(72, end), (80, frames), (88, crc)] {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    assert!(whole.write(&segment(2), &bytes));
    let opened = log_options().open_simulated(&whole);
    assert!(matches!(opened, Err(OpenError::Corrupt(_))), "{opened:?}");
}

#[test]
fn what_a_power_loss_left_behind_the_end_is_set_aside_whole_segments_too() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    fill(&log, 1);
    fill(&log, 2);
    let image = disk.power_loss(|name, sector| name != segment(1) || sector > 4);
    log.abort();
    let log = log_options().open_simulated(&image).unwrap();
    assert!(entries(&log).is_empty());
    log.close().unwrap();
    let aside =
        |id: u32| image.files().iter().any(|(n, _)| n.starts_with(&format!("set-aside/{id:020}")));
    assert!(aside(1) && aside(2));
}

#[test]
fn ids_that_a_power_loss_took_are_not_used_again() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    fill(&log, 1);
    let highest = disk.files().iter().filter(|(n, _)| n.ends_with(".seg")).count() as u32;
    let image = disk.power_loss(|_, _| false);
    log.abort();
    let log = log_options().open_simulated(&image).unwrap();
    assert!(log.tail().segment() > highest);
    log.abort();
    // Nor when this one dies before it has written anything.
    let log = log_options().open_simulated(&image.power_loss(|_, _| false)).unwrap();
    assert!(log.tail().segment() > highest + 1);
    log.abort();
}
