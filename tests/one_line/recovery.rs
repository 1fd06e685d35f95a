//! What is judged after a crash, and what is done about it.

use super::{fill, log_options};
use crate::common::frames::{seed, set_word, uncommit, word};
use crate::common::{entries, segment};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tailcask::{CommitLog, DiskOperation, Fate, LogPosition, OpenError, SimulatedDisk, Unsynced};

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
fn a_torn_tail_stays_in_place_if_there_is_no_space_for_a_copy() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    log.append(&[1; 100]).unwrap();
    log.sync().unwrap();
    log.append(&[2; 3000]).unwrap();
    let image = disk.power_loss(|_, sector| sector == 5);
    log.abort();
    let torn = || image.read(&segment(1)).unwrap()[5 * 512..6 * 512] == [2; 512];
    assert!(torn());
    image.fail_once_with(DiskOperation::Create, "set-aside/", 0, ErrorKind::StorageFull);
    let log = log_options().open_simulated(&image).unwrap();
    assert!(image.has_failed());
    assert_eq!(entries(&log), [[1; 100]]);
    let aside = &log.recovery().set_aside;
    assert_eq!(aside.iter().filter(|file| file.name.is_empty()).count(), 1, "{aside:?}");
    assert!(torn(), "there is no other copy");
    // The end is written down, so that those bytes end no later log.
    log.append(b"after").unwrap();
    log.sync().unwrap();
    let image = image.power_loss(|_, _| false);
    log.abort();
    let log = log_options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log), [&[1; 100][..], b"after"]);
    log.abort();
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
        set_word(&mut bytes, at, u64::from(check) << 32 | low);
        set_word(&mut bytes, at + 8, header);
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
    uncommit(&mut bytes, at);
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

#[test]
fn where_the_kernel_does_not_tell_there_is_no_hole_between_segments() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    fill(&log, 1);
    // The end of the first segment is lost, from a frame on, and the second one is there.
    assert_eq!(16 * (16 + 1000) + 128, 32 * 512);
    let image = disk.power_loss(|name, sector| name != segment(1) || sector < 32);
    log.abort();
    image.set_boot_id(None);
    let opened = log_options().open_simulated(&image);
    assert!(matches!(opened, Err(OpenError::UnknownBoot { segment: 1, .. })), "{opened:?}");
}

#[test]
fn a_batch_holds_entries_and_nothing_else() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    let at = log.append_batch(&[b"8 bytes.", b"and more"]).unwrap()[0].offset() as usize;
    let image = disk.process_death();
    log.abort();
    // A sync mark in it, with a right checksum.
    let mut bytes = image.read(&segment(1)).unwrap();
    let (salt, low, header) = (word(&bytes, 24), word(&bytes, at) & 0xffff_ffff, 3 | 8 << 32);
    let crc = crc32fast::hash(&bytes[at + 16..at + 24]);
    let check = u64::from(crc ^ seed(salt, at as u64, low, header)) << 32;
    bytes[at..at + 8].copy_from_slice(&(check | low).to_le_bytes());
    bytes[at + 8..at + 16].copy_from_slice(&u64::to_le_bytes(header));
    assert!(image.write(&segment(1), &bytes));
    let opened = log_options().open_simulated(&image);
    assert!(matches!(opened, Err(OpenError::Corrupt(_))), "{opened:?}");
}

#[test]
fn a_damaged_claim_is_damage() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    log.append(b"before").unwrap();
    let mut image = None;
    let claim = log.append_with(100, |_| {
        log.append(b"behind").unwrap();
        image = Some(disk.process_death());
    });
    let (claim, image) = (claim.unwrap(), image.unwrap());
    log.abort();
    assert!(image.flip(&segment(1), claim.offset() as usize + 5, 1));
    let opened = log_options().open_simulated(&image);
    assert!(matches!(opened, Err(OpenError::Corrupt(_))), "{opened:?}");
}

#[test]
fn what_stands_before_a_mark_is_not_durable_by_it() {
    let disk = SimulatedDisk::new();
    let log = Arc::new(log_options().open_simulated(&disk).unwrap());
    log.append(&[1; 400]).unwrap();
    let inside = appended_inside_syncs(&disk, &log, 1);
    // Nothing but that entry and the mark behind it is left to be synced.
    assert!(log.sync().unwrap() > inside);
    let image = disk.power_loss(|_, _| false);
    let log_after = log_options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log_after).len(), 2);
    log_after.abort();
    abort(log);
}

#[test]
fn a_hole_under_another_boot_ends_the_log() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    // So long that what follows begins with a sector.
    log.append(&[1; 1024 - 128 - 16]).unwrap();
    assert_eq!(log.append(&[2; 100]).unwrap().offset(), 1024);
    let image = disk.power_loss(|_, sector| sector == 2);
    log.abort();
    let log = log_options().open_simulated(&image).unwrap();
    assert_eq!((entries(&log).len(), log.recovery().holes), (0, 0));
    log.abort();
}

#[test]
fn what_is_cut_off_stays_so_whatever_step_of_a_recovery_is_the_last() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    for id in 1..5 {
        fill(&log, id);
    }
    let torn = |name: &str, sector: usize| name != segment(1) || sector > 4;
    for power in [false, true] {
        for allowed in 0.. {
            let image = disk.power_loss(torn);
            image.fail_after(allowed);
            let done = log_options().open_simulated(&image).map(CommitLog::abort).is_ok();
            let image =
                if power { image.power_loss_at_random(allowed) } else { image.process_death() };
            let log = log_options().open_simulated(&image).unwrap();
            assert!(entries(&log).is_empty(), "after {allowed} operations");
            log.abort();
            if done {
                break;
            }
        }
    }
    log.abort();
}

#[test]
fn what_is_cut_off_stays_so_where_there_is_no_space_to_move_it() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    for id in 1..5 {
        fill(&log, id);
    }
    let torn = |name: &str, sector: usize| name != segment(1) || sector > 4;
    let full = |disk: SimulatedDisk| {
        disk.on_operation(|_, operation, name| {
            let moved = operation == DiskOperation::Rename && (2..6).any(|id| name == segment(id));
            if moved { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
        });
        disk
    };
    let aside = |log: &CommitLog, named: bool| {
        let all = log.recovery().set_aside.iter();
        all.filter(|file| file.name.is_empty() != named && file.bytes > 0).count()
    };
    let mut disk = full(disk.power_loss(torn));
    log.abort();
    let mut appended = Vec::new();
    for turn in 0..4u8 {
        let log = log_options().open_simulated(&disk).unwrap();
        assert_eq!(entries(&log), appended);
        assert_eq!((aside(&log, true), aside(&log, false)), (1, 4), "{}", log.recovery());
        log.append(&[turn; 9]).unwrap();
        appended.push(vec![turn; 9]);
        log.sync().unwrap();
        disk = match turn {
            0 => full(disk.process_death()),
            1 => full(disk.power_loss(|_, _| false)),
            _ => disk,
        };
        if turn < 2 { log.abort() } else { log.close().unwrap() }
    }
    disk.on_operation(|_, _, _| Ok(()));
    let log = log_options().open_simulated(&disk).unwrap();
    assert_eq!(entries(&log), appended);
    assert_eq!((aside(&log, true), aside(&log, false)), (5, 0));
    log.abort();
}

#[test]
fn a_recovered_segment_is_sealed_before_anything_follows_it() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    log.append(b"first").unwrap();
    let image = disk.process_death();
    log.abort();
    let log = log_options().open_simulated(&image).unwrap();
    log.append(b"second").unwrap();
    log.sync().unwrap();
    let image = image.power_loss(|_, _| false);
    log.abort();
    let log = log_options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log), [&b"first"[..], b"second"]);
    log.abort();
}
