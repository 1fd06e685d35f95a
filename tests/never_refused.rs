//! A healthy log is never refused by a strict open, whatever came together: each test is a way in which
//! one was.

mod common;

use common::{entries, segment, small_log, small_store};
use tailcask::{CommitLog, DiskOperation, LogOptions, RecoveryMode, SimulatedDisk, StoreOptions};

const UNIT: u64 = 16 << 10;

fn options() -> LogOptions {
    small_log(UNIT)
}

fn store_options() -> StoreOptions {
    small_store(UNIT)
}

fn fill(log: &CommitLog, segments: u32) {
    let first = log.tail().segment();
    for n in 0.. {
        log.append(format!("{n} {}", "x".repeat(1000)).as_bytes()).unwrap();
        if log.tail().segment() >= first + segments {
            return;
        }
    }
}

fn space_taken(disk: &SimulatedDisk) -> u64 {
    disk.files().iter().map(|(_, len)| *len as u64).sum()
}

/// The seal of a full segment is not synced by itself, and without it the segment ends behind its pad.
#[test]
fn a_seal_that_a_power_loss_takes_after_a_close_is_made_again() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    fill(&log, 1);
    log.maintain().unwrap();
    let image = disk.process_death();
    log.abort();
    // As if the process had died before it wrote to what came next.
    (2..10).for_each(|id| _ = image.cut(&segment(id), 0));
    let log = options().open_simulated(&image).unwrap();
    let all = entries(&log);
    assert!(all.len() > 10);
    log.close().unwrap();
    let image = image.power_loss(|_, _| false);
    let log = options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log), all);
}

#[test]
fn a_log_with_a_gap_that_salvage_left_is_truncated() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    fill(&log, 6);
    log.close().unwrap();
    assert!(disk.cut(&segment(3), 0));
    let log = options().recovery_mode(RecoveryMode::Salvage).open_simulated(&disk).unwrap();
    assert_eq!(log.recovery().lost.len(), 1);
    for segment in [2u64, 5] {
        let all = entries(&log);
        log.truncate_before(tailcask::LogPosition::from_u64(segment << 32 | 128)).unwrap();
        let image = disk.process_death();
        let left = entries(&log);
        assert!(left.len() < all.len());
        assert_eq!(entries(&options().open_simulated(&image).unwrap()), left);
    }
    let left = entries(&log);
    log.close().unwrap();
    assert_eq!(entries(&options().open_simulated(&disk).unwrap()), left);
}

/// A standby that could not be removed, because the MANIFEST could not be written, is of no use to a
/// log that begins behind it.
#[test]
fn an_unused_segment_from_before_the_beginning_is_removed() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    log.append(b"first").unwrap();
    log.maintain().unwrap();
    let kind = std::io::ErrorKind::StorageFull;
    disk.fail_once_with(DiskOperation::Create, "MANIFEST", 0, kind);
    // Takes the standby back, and could not note that.
    log.append(&[7; 20_000]).unwrap();
    assert!(disk.has_failed());
    fill(&log, 2);
    log.sync().unwrap();
    log.truncate_before(log.tail()).unwrap();
    let left = entries(&log);
    let image = disk.process_death();
    log.close().unwrap();
    for disk in [disk, image] {
        assert_eq!(entries(&options().open_simulated(&disk).unwrap()), left);
    }
}

/// A log without segments, opened without space: its first segment was made ahead, and is taken back
/// by a merge.
#[test]
fn a_first_segment_that_is_taken_back_moves_the_beginning() {
    let disk = SimulatedDisk::new();
    let store = store_options().open_simulated(&disk).unwrap();
    for turn in 0..2u8 {
        for n in 0..4u8 {
            store.put([turn, n], [turn; 300]).unwrap();
        }
        store.put([9], [turn; 10]).unwrap();
        store.roll().unwrap();
        let log_segments = store.stats().segments.into_iter().filter(|s| !s.merged && s.sealed);
        let ids: Vec<_> = log_segments.map(|s| s.id).collect();
        store.merge_only(&ids).unwrap();
    }
    // The active one holds nothing but the mark of a sync.
    store.close().unwrap();
    let store = store_options().open_simulated(&disk).unwrap();
    store.merge().unwrap();
    store.close().unwrap();
    let taken = space_taken(&disk);
    disk.set_space(Some(taken));
    let store = store_options().open_simulated(&disk).unwrap();
    disk.set_space(Some(taken + UNIT));
    store.maintain().unwrap();
    let before = disk.files();
    disk.set_space(Some(space_taken(&disk)));
    let ids: Vec<_> = store.stats().segments.iter().map(|s| s.id).collect();
    let merged = store.merge_only(&ids);
    let gone = before.iter().filter(|(name, _)| disk.files().iter().all(|(n, _)| n != name));
    eprintln!("{merged:?}, gone: {:?}", gone.collect::<Vec<_>>());
    disk.set_space(None);
    store.put("key", "value").unwrap();
    let count = store.len();
    let image = disk.process_death();
    store.close().unwrap();
    for disk in [disk, image] {
        let store = store_options().open_simulated(&disk).unwrap();
        assert_eq!(&*store.get("key").unwrap().unwrap(), b"value");
        assert_eq!(store.len(), count);
    }
}

/// What a merge that failed could not remove is noted as removed: later merges take its inputs.
#[test]
fn what_a_failed_merge_could_not_remove_is_no_contradiction() {
    let disk = SimulatedDisk::new();
    let store = store_options().open_simulated(&disk).unwrap();
    for n in 0..40u8 {
        store.put([n % 20], [n; 300]).unwrap();
    }
    store.roll().unwrap();
    let last = disk.files().iter().filter_map(|(name, _)| name[..20].parse::<u32>().ok()).max();
    let output = segment(last.unwrap() + 1);
    for operation in [DiskOperation::Remove, DiskOperation::Sync] {
        disk.fail_once_with(operation, &output, 0, std::io::ErrorKind::Other);
    }
    store.merge().unwrap_err();
    assert!(disk.has_failed());
    assert!(disk.files().iter().any(|(name, _)| *name == output), "it could not be removed");
    store.merge().unwrap();
    let image = disk.process_death();
    store.close().unwrap();
    for disk in [disk, image] {
        assert_eq!(store_options().open_simulated(&disk).unwrap().len(), 20);
    }
}

/// What salvage that is cut short leaves may be refused by a strict open, but not by another salvage,
/// which brings back all that the first one would have.
#[test]
fn salvage_that_is_cut_short_is_finished_by_another_one() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    log.append(b"before").unwrap();
    log.abandon_reservation(64);
    fill(&log, 3);
    let image = disk.power_loss(|_, _| true);
    log.abort();
    let log = options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log).len(), 1);
    log.append(b"after").unwrap();
    log.close().unwrap();

    let salvage = options().recovery_mode(RecoveryMode::Salvage);
    let whole = {
        let disk = image.process_death();
        entries(&salvage.open_simulated(&disk).unwrap())
    };
    assert!(whole.len() > 20);
    for step in 0.. {
        let disk = image.process_death();
        disk.fail_after(step);
        let done = salvage.open_simulated(&disk).map(CommitLog::abort);
        let mut images = vec![disk.process_death()];
        images.extend((0..4).map(|seed| disk.power_loss_at_random(step * 4 + seed)));
        for (nth, image) in images.into_iter().enumerate() {
            match options().open_simulated(&image) {
                Ok(strict) => {
                    let found = entries(&strict);
                    let has = |entry: &[u8]| found.iter().any(|found| found == entry);
                    assert!(has(b"before") && has(b"after"), "{step}, {nth}");
                    strict.close().unwrap();
                }
                // It changes nothing then.
                Err(error) => eprintln!("{step}, {nth}: {error}"),
            }
            let again = salvage.open_simulated(&image).unwrap();
            assert_eq!(entries(&again), whole, "{step}, {nth}: {}", again.recovery());
            again.close().unwrap();
            assert_eq!(entries(&options().open_simulated(&image).unwrap()), whole);
        }
        if done.is_ok() {
            break;
        }
    }
}

/// A reader that comes while a writer is opening a log after a power loss takes nothing that is behind
/// its end.
#[test]
fn a_reader_waits_for_a_writer_that_clears_up_after_a_power_loss() {
    let disk = SimulatedDisk::new();
    let store = store_options().open_simulated(&disk).unwrap();
    store.put("before", "1").unwrap();
    store.log().abandon_reservation(64);
    store.put("behind", "2").unwrap();
    let image = disk.process_death();
    store.abort();
    let dir = tempfile::tempdir().unwrap();
    for (name, _) in image.files().into_iter().chain([("MANIFEST".to_owned(), 0)]) {
        std::fs::write(dir.path().join(&name), image.read(&name).unwrap()).unwrap();
    }
    // As a writer does first of all. The boot id of a simulated disk is no kernel's.
    let lock = std::fs::File::open(dir.path()).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let store = store_options().open_read_only(dir.path()).unwrap();
            let is_there = |key| store.get(key).unwrap().is_some();
            (is_there("before"), is_there("behind"))
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(lock);
        assert_eq!(reader.join().unwrap(), (true, false));
    });
}

/// A recovery that dies between a seal and its sync leaves that in the page cache: it is durable before
/// anything is that follows, also where an earlier start of the kernel has made the segment.
#[test]
fn a_seal_that_a_dying_recovery_left_is_durable_before_what_follows_it() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    log.append(b"before").unwrap();
    let image = disk.power_loss(|_, _| true);
    log.abort();
    let dead = std::sync::Arc::new(std::sync::Mutex::new(None));
    let taken = dead.clone();
    image.on_operation(move |disk, operation, file| {
        if operation == DiskOperation::Sync && file == segment(1) {
            *taken.lock().unwrap() = Some(disk.process_death());
        }
        Ok(())
    });
    options().open_simulated(&image).unwrap().abort();
    let dead = dead.lock().unwrap().take().unwrap();
    let log = options().open_simulated(&dead).unwrap();
    assert_eq!(entries(&log), [b"before"]);
    log.append(b"after").unwrap();
    log.sync().unwrap();
    let image = dead.power_loss(|_, _| false);
    log.abort();
    let log = options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log), [&b"before"[..], b"after"]);
}

/// As above, where there was no space for what the power loss had left behind the end: that stays behind the
/// seal.
#[test]
fn a_seal_before_a_torn_tail_is_durable_before_what_follows_it() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    log.append(b"before").unwrap();
    log.append(&[7; 4000]).unwrap();
    let image = disk.power_loss(|name, sector| sector == 0 || !name.ends_with(".seg"));
    log.abort();
    image.set_space(Some(space_taken(&image)));
    let dead = std::sync::Arc::new(std::sync::Mutex::new(None));
    let taken = dead.clone();
    image.on_operation(move |disk, operation, file| {
        if operation == DiskOperation::Sync && file == segment(1) {
            *taken.lock().unwrap() = Some(disk.process_death());
        }
        Ok(())
    });
    let log = options().open_simulated(&image).unwrap();
    assert!(log.recovery().set_aside[0].name.is_empty(), "{}", log.recovery());
    log.abort();
    let dead = dead.lock().unwrap().take().unwrap();
    dead.set_space(None);
    let log = options().open_simulated(&dead).unwrap();
    assert_eq!(entries(&log), [b"before"]);
    log.append(b"after").unwrap();
    log.sync().unwrap();
    let image = dead.power_loss(|_, _| false);
    log.abort();
    let log = options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log), [&b"before"[..], b"after"]);
}

/// The space behind the end of a segment is given back, but for the word that says that the rest is a pad:
/// also where that begins a page.
#[test]
fn a_pad_that_begins_a_page_ends_the_segment_without_its_seal() {
    let disk = SimulatedDisk::new();
    let options = small_store(256 << 10);
    let store = options.open_simulated(&disk).unwrap();
    store.log().append(&[1; 4096 - 128 - 16]).unwrap();
    assert_eq!(store.log().tail().offset(), 4096);
    store.roll().unwrap();
    store.log().append(b"after").unwrap();
    store.sync().unwrap();
    // The seal is not synced by itself.
    let image = disk.power_loss(|_, sector| sector != 0);
    store.abort();
    let store = options.open_simulated(&image).unwrap();
    assert!(store.recovery().recovered_segments > 1, "a seal is lost");
    assert_eq!(entries(store.log()), [&[1; 4096 - 128 - 16][..], b"after"]);
}
