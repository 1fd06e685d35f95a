//! Closing, truncating, syncing, and what the MANIFEST says.

use super::{fill, log_options};
use crate::common::frames::word;
use crate::common::{entries, segment};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tailcask::{
    DiskOperation, Fate, Maintenance, OpenError, ReadError, RecoveryMode, SimulatedDisk, Unsynced,
};

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

#[test]
fn the_first_segment_of_a_log_is_missed() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    fill(&log, 1);
    fill(&log, 2);
    log.close().unwrap();
    assert!(disk.cut(&segment(1), 0));
    let opened = log_options().open_simulated(&disk);
    assert!(matches!(opened, Err(OpenError::MissingSegment { id: 1, .. })), "{opened:?}");
}

#[test]
fn a_hole_in_a_sealed_segment_is_found() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    let at = log.append(&[0; 100]).unwrap();
    log.append(b"behind").unwrap();
    log.close().unwrap();
    let mut bytes = disk.read(&segment(1)).unwrap();
    bytes[at.offset() as usize..][..16].fill(0);
    assert!(disk.write(&segment(1), &bytes));
    let log = log_options().open_simulated(&disk).unwrap();
    log.verify().unwrap_err();
    // It is not the end of the log, which is behind it.
    let found = log.reader().next_entry().map(|entry| entry.map(|e| e.to_vec()));
    assert!(matches!(found, Err(ReadError::Corrupt(_))), "{found:?}");
}

/// As where the device has lost a write: a page of zeros.
#[test]
fn a_hole_in_the_middle_of_a_sealed_segment_is_found() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    fill(&log, 1);
    let all = entries(&log).len();
    log.close().unwrap();
    let mut bytes = disk.read(&segment(1)).unwrap();
    let at = 128 + 10 * (16 + 1000);
    bytes[at..at + 3 * (16 + 1000)].fill(0);
    assert!(disk.write(&segment(1), &bytes));
    let log = log_options().open_simulated(&disk).unwrap();
    log.verify().unwrap_err();
    let mut reader = log.reader();
    let mut found = 0;
    while let Ok(Some(_)) = reader.next_entry() {
        found += 1;
    }
    assert!(found < all);
    assert!(matches!(reader.next_entry(), Err(ReadError::Corrupt(_))));
}

#[test]
fn after_a_close_everything_is_durable() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    fill(&log, 1);
    fill(&log, 2);
    let all = entries(&log);
    log.close().unwrap();
    let log = log_options().open_simulated(&disk.power_loss(|_, _| false)).unwrap();
    assert_eq!(entries(&log), all);
}

#[test]
fn every_manifest_has_a_generation_of_its_own() {
    let disk = SimulatedDisk::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let all = seen.clone();
    disk.on_operation(move |disk, operation, name| {
        // It has its name now.
        if operation == DiskOperation::SyncDirectory
            && name.is_empty()
            && let Some(manifest) = disk.read("MANIFEST")
        {
            all.lock().unwrap().push((word(&manifest, 32), manifest));
        }
        Ok(())
    });
    for _ in 0..3 {
        let log = log_options().open_simulated(&disk).unwrap();
        fill(&log, log.tail().segment());
        log.truncate_before(log.tail()).unwrap();
        log.close().unwrap();
    }
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.dedup();
    assert!(seen.len() > 6);
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{seen:?}");
}

#[test]
fn a_seal_with_a_flipped_bit_is_none() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    fill(&log, 1);
    log.maintain().unwrap();
    let (all, image) = (entries(&log), disk.process_death());
    log.abort();
    for bit in 64 * 8..96 * 8 {
        let image = image.process_death();
        assert!(image.flip(&segment(1), bit / 8, 1 << (bit % 8)));
        let log = log_options().open_simulated(&image).unwrap();
        assert_eq!(entries(&log), all, "bit {bit}");
        log.abort();
    }
}

#[test]
fn a_task_that_waits_after_a_failed_sync_is_told_at_once() {
    let disk = SimulatedDisk::new();
    let options = log_options().maintenance(Maintenance::Background);
    let log = options.open_simulated(&disk).unwrap();
    let position = log.append(b"entry").unwrap();
    disk.fail_sync_after(0);
    log.sync().unwrap_err();
    let mut waiting = std::pin::pin!(log.wait_durable_async(position));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let polled = waiting.as_mut().poll(&mut context);
    assert!(matches!(polled, std::task::Poll::Ready(Err(_))), "{polled:?}");
}

#[test]
fn a_standby_that_is_given_up_breaks_no_chain() {
    let disk = SimulatedDisk::new();
    let log = log_options().open_simulated(&disk).unwrap();
    log.append(b"first").unwrap();
    // A standby, which the large entry has no use for.
    log.maintain().unwrap();
    log.append(&[1; 100_000]).unwrap();
    log.append(b"last").unwrap();
    let image = disk.process_death();
    log.abort();
    let log = log_options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log).len(), 3);
    log.abort();
}
