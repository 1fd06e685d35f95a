//! Bugs that logs like this one have had, where no other test is about them.

mod common;

use common::tasks::spawn_task;
use common::{HANG, count, log_by_hand as options};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use tailcask::{CommitLog, Durability, LogPosition, OpenError, ReadError, SimulatedDisk};

/// Hazard 24.
#[test]
fn what_is_before_a_durable_entry_is_durable_in_earlier_segments_too() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    let mut last = LogPosition::START;
    for n in 0..100u8 {
        last = log.append(&vec![n; 100_000]).unwrap();
    }
    assert!(last.segment() > 4);
    log.wait_durable(last).unwrap();
    let image = disk.power_loss(|_, _| false);
    log.abort();
    let log = options().open_simulated(&image).unwrap();
    assert_eq!(count(&log), 100);
    assert_eq!(*log.read(last).unwrap(), [99; 100_000]);
}

/// Hazard 25, on a disk where a creation is durable (tests/processes.rs has real files): the names
/// of a new log, of a segment that was rolled to, and of one that was removed.
#[test]
fn names_are_durable_before_anything_in_them_is() {
    let disk = SimulatedDisk::new();
    let log = options().durability(Durability::Synced).open_simulated(&disk).unwrap();
    for n in 0..30u8 {
        log.append(&vec![n; 200_000]).unwrap();
        let image = disk.power_loss(|_, _| false);
        let recovered = options().open_simulated(&image).unwrap();
        assert_eq!(count(&recovered), usize::from(n) + 1);
    }
    let begin = log.truncate_before(log.tail()).unwrap();
    let kept = count(&log);
    let image = disk.power_loss(|_, _| false);
    log.abort();
    let log = options().open_simulated(&image).unwrap();
    assert_eq!((log.begin(), count(&log)), (begin, kept), "and what was removed stays so");
}

/// Hazard 28: each byte of a batch's end in turn is not there after the power loss.
#[test]
fn a_batch_that_lost_its_end_is_dropped_whole() {
    let bodies: Vec<Vec<u8>> = (0..10u8).map(|n| vec![n + 1; 900]).collect();
    let batch: Vec<&[u8]> = bodies.iter().map(|body| &body[..]).collect();
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    log.append(b"before").unwrap();
    log.sync().unwrap();
    log.append_batch(&batch).unwrap();
    let sectors = disk.unsynced();
    assert!(sectors.len() > 15, "the batch is over many sectors");
    for lost in &sectors {
        let image = disk.power_loss(|name, sector| (name, sector) != (&lost.0, lost.1));
        let log = options().open_simulated(&image).unwrap();
        // One sector may hold nothing but what was synced before.
        let found = count(&log);
        assert!(found == 1 || found == 11, "{found} entries without {lost:?}");
        if lost == sectors.last().unwrap() {
            assert_eq!(found, 1, "the end of the batch is lost");
        }
    }
    log.abort();
}

#[cfg(target_os = "linux")]
fn maps(of: &str) -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|l| l.contains(of)).count()
}

#[cfg(target_os = "linux")]
fn descriptors(of: &str) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = all.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(of)).count()
}

/// Hazard 33: garbage stays bounded under churn, with readers in and out all the time.
#[test]
#[cfg(target_os = "linux")]
fn churn_leaves_no_garbage_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = CommitLog::options().segment_size(2 << 20).open(&path).unwrap();
    let of = path.to_str().unwrap();
    let (mut mapped, mut opened) = (0, 0);
    for n in 0..300u32 {
        let position = log.append(&vec![n as u8; 400_000]).unwrap();
        assert_eq!(log.read(position).unwrap().len(), 400_000);
        if n % 10 == 9 {
            log.sync().unwrap();
            log.truncate_before(position).unwrap();
            // Other tests' threads are in the same epochs.
            common::until("what nobody reads is unmapped", || {
                log.stats().segments_waiting_for_readers == 0
            });
            (mapped, opened) = (mapped.max(maps(of)), opened.max(descriptors(of)));
        }
    }
    // One is active, one standing by, and two may just have gone; LOCK and the directory.
    assert!(mapped <= 8, "{mapped} segments were mapped at a time");
    assert!(opened <= 10, "{opened} descriptors were open at a time");
    log.close().unwrap();
}

/// A program that dies again and again would fill the disk with what it had reserved.
#[test]
fn a_segment_that_was_recovered_takes_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    log.append(b"x").unwrap();
    log.abort();
    let taken = || std::fs::metadata(path.join(common::segment(1))).unwrap().blocks() * 512;
    assert!(taken() >= 2 << 20);
    let log = options().open(&path).unwrap();
    assert!(taken() < 1 << 20, "{} bytes", taken());
    log.abort();
}

/// Hazard 37: another program cut the file of a closed log short.
#[test]
fn a_segment_that_was_cut_short_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    for n in 0..60u8 {
        log.append(&vec![n; 100_000]).unwrap();
    }
    log.close().unwrap();
    let file = path.join("00000000000000000002.seg");
    let whole = std::fs::read(&file).unwrap();
    for len in [0, 1, 4096, 100_001] {
        std::fs::write(&file, &whole[..len]).unwrap();
        match options().open(&path) {
            Err(OpenError::Corrupt(corruption)) => assert_eq!(corruption.segment, 2),
            other => panic!("cut to {len}: {other:?}"),
        }
    }
    std::fs::write(&file, whole).unwrap();
    assert_eq!(count(&options().open(&path).unwrap()), 60);
}

/// Hazard 14: a refused open leaves nothing that refuses the next one.
#[test]
fn a_refused_open_holds_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    log.append(b"x").unwrap();
    for _ in 0..3 {
        assert!(matches!(options().open(&path), Err(OpenError::Locked { .. })));
    }
    let reader = options().open_read_only(&path).unwrap();
    assert_eq!(count(&reader), 1);
    log.close().unwrap();
    // Nor does a reader that stays.
    let log = options().open(&path).unwrap();
    log.append(b"y").unwrap();
    assert_eq!(count(&reader), 2);
    log.close().unwrap();
    std::fs::write(path.join("MANIFEST"), b"nonsense").unwrap();
    assert!(matches!(options().open(&path), Err(OpenError::Manifest(_))));
    assert!(matches!(options().open(&path), Err(OpenError::Manifest(_))));
}

#[test]
#[cfg(unix)]
fn a_directory_without_write_permission_is_an_error_that_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    log.append(b"x").unwrap();
    log.close().unwrap();
    let mode = |bits| std::fs::set_permissions(&path, PermissionsExt::from_mode(bits)).unwrap();
    mode(0o500);
    if std::fs::write(path.join("probe"), b"").is_ok() {
        eprintln!("skipped: this user may write everywhere");
        std::fs::remove_file(path.join("probe")).unwrap();
        return mode(0o700);
    }
    let refused = options().open(&path);
    assert!(matches!(&refused, Err(OpenError::Io { .. })), "{refused:?}");
    assert_eq!(count(&options().open_read_only(&path).unwrap()), 1, "reading goes on");
    mode(0o700);
    assert_eq!(count(&options().open(&path).unwrap()), 1);
}

/// A reader in another handle has the whole segment mapped; closing gives its space back.
#[test]
fn a_position_behind_the_end_of_a_closed_segment_is_an_error_to_a_follower() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    log.append(b"x").unwrap();
    let follower = options().open_read_only(&path).unwrap();
    log.close().unwrap();
    for offset in [4096, 1 << 20, (2 << 20) - 8] {
        let read = follower.read(LogPosition::from_u64(1 << 32 | offset));
        assert!(matches!(read, Err(ReadError::PastEnd { .. })), "{read:?}");
    }
}

/// Positions have 32 bits for an offset: a segment beyond that would be read in circles.
#[test]
fn a_segment_of_more_than_four_gib_is_refused() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    log.append(b"x").unwrap();
    log.close().unwrap();
    let name = path.join("00000000000000000001.seg");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0).unwrap();
    head[48..56].copy_from_slice(&(12u64 << 30).to_le_bytes());
    let crc = crc32fast::hash(&head[..60]);
    head[60..64].copy_from_slice(&crc.to_le_bytes());
    file.set_len(12 << 30).unwrap();
    file.write_all_at(&head, 0).unwrap();
    assert!(matches!(options().open(&path), Err(OpenError::Corrupt(_))));
    assert!(matches!(options().open_read_only(&path), Err(OpenError::Corrupt(_))));
}

/// A task that waits for the place right behind a sync mark, which needs a sync of its own.
#[test]
fn a_task_that_waits_for_what_a_sync_left_behind_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(CommitLog::open(dir.path().join("log")).unwrap());
    for _ in 0..300 {
        log.append(b"something").unwrap();
        std::thread::scope(|scope| {
            let before = log.tail();
            let sync = scope.spawn(|| log.sync().unwrap());
            while log.tail() == before && !sync.is_finished() {
                std::hint::spin_loop();
            }
            let (log, tail) = (log.clone(), log.tail());
            let woken = spawn_task(async move { log.wait_durable_async(tail).await });
            woken.recv_timeout(HANG).expect("it is woken").unwrap();
        });
    }
}

/// Inside a closure that fills a frame, whatever waits for frames to finish is refused.
#[test]
fn nothing_that_waits_is_done_inside_an_append() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    for n in 0..40u8 {
        log.append(&vec![n; 100_000]).unwrap();
    }
    log.append_with(8, |_| {
        assert!(log.sync().is_err() && log.maintain().is_err());
        assert!(log.truncate_before(log.tail()).is_err());
    })
    .unwrap();
    log.sync().unwrap();
    log.truncate_before(log.tail()).unwrap();
}
