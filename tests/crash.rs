//! Crashes that are forced, not hoped for: holes, open claims, power loss, failing disks.

mod common;

use common::children::{self, Process};
use common::{Random, entries, log_by_hand as options, rounds};
use std::sync::mpsc;
use tailcask::{
    AppendError, Batch, CommitLog, Durability, LogPosition, Maintenance, OpenError, RecoveryMode,
    SimulatedDisk, WriteError,
};

/// Hazard 22.
#[test]
fn behind_a_hole_everything_is_found() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    log.append(b"before").unwrap();
    log.abandon_reservation(100);
    let behind = log.append(b"behind").unwrap();
    log.abandon_reservation(8);
    log.append_batch(&[b"x", b"y"]).unwrap();
    log.abandon_reservation(50);
    let image = disk.process_death();
    log.abort();
    let log = options().open_simulated(&image).unwrap();
    assert_eq!(log.recovery().holes, 2, "the one at the end is no hole");
    assert_eq!(entries(&log), [&b"before"[..], b"behind", b"x", b"y"]);
    assert_eq!(&*log.read(behind).unwrap(), b"behind");
    log.close().unwrap();
    assert_eq!(entries(&options().open_simulated(&image).unwrap()).len(), 4);
}

/// Hazard 21: a claim that is open at the moment of death, also across a roll.
#[test]
fn an_open_claim_is_voided_and_what_is_behind_it_is_found() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    let (image, behind) = (&disk, 3_000_000 / 100_000);
    let mut taken = None;
    log.append_with(1000, |bytes| {
        bytes[..500].fill(0xff);
        for n in 0..behind {
            log.append(&vec![n as u8; 100_000]).unwrap();
        }
        taken = Some(image.process_death());
    })
    .unwrap();
    log.abort();
    let log = options().open_simulated(&taken.unwrap()).unwrap();
    assert_eq!(log.recovery().dead_claims, 1);
    let all = entries(&log);
    assert_eq!(all.len(), behind);
    assert!(all.iter().enumerate().all(|(n, entry)| *entry == vec![n as u8; 100_000]));
}

/// Hazard 31: a user's value that is a copy of the file itself, with a hole before it.
#[test]
fn a_copy_of_the_segment_in_a_value_is_not_taken_for_frames() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    for n in 0..50u8 {
        log.append(&[n; 40]).unwrap();
    }
    log.sync().unwrap();
    let copy = std::fs::read(path.join("00000000000000000001.seg")).unwrap();
    log.abandon_reservation(200);
    log.append(&copy[128..100_000]).unwrap();
    log.abandon_reservation(3000);
    log.append(b"last").unwrap();
    log.abort();
    let log = options().open(&path).unwrap();
    assert_eq!(entries(&log).len(), 52);
    assert_eq!(log.recovery().holes, 2);
}

/// Hazard 26: the recovery itself is cut short after each of its operations in turn.
#[test]
fn recovery_that_is_cut_short_changes_nothing() {
    for power in [false, true] {
        let disk = SimulatedDisk::new();
        let log = options().open_simulated(&disk).unwrap();
        for n in 0..60u8 {
            log.append(&vec![n; 100_000]).unwrap();
            if n == 20 {
                log.sync().unwrap();
            }
        }
        let mut random = Random::new(7);
        let mut image = if power {
            disk.power_loss(|_, _| !random.next().is_multiple_of(50))
        } else {
            disk.process_death()
        };
        log.abort();
        let expected = {
            let copy = image.power_loss(|_, _| true);
            let copy = if power { copy } else { image.process_death() };
            entries(&options().open_simulated(&copy).unwrap())
        };
        assert!(expected.len() > 20);
        for allowed in 0.. {
            image.fail_after(allowed);
            let opened = options().open_simulated(&image);
            if let Ok(log) = opened {
                assert_eq!(entries(&log), expected, "after {allowed} operations");
                log.abort();
                break;
            }
            image =
                if power { image.power_loss(|_, _| random.flip()) } else { image.process_death() };
            assert!(allowed < 1000);
        }
    }
}

/// Hazard 26: a recovery that removes many segments, cut short between two of them; by the death of
/// the process, and by a power loss that takes back some of the removals.
#[test]
fn segments_that_are_dropped_leave_no_gap() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    for n in 0..100u8 {
        log.append(&vec![n; 100_000]).unwrap();
        if n == 5 {
            log.sync().unwrap();
        }
    }
    for power in [false, true] {
        let mut random = Random::new(11);
        for allowed in 0..20 {
            let mut image = disk.power_loss(|_, _| false);
            for _ in 0..4 {
                image.fail_after(allowed);
                let opened = options().open_simulated(&image).map(CommitLog::abort);
                let as_told = matches!(&opened, Ok(()) | Err(OpenError::Io { .. }));
                assert!(as_told, "after {allowed} operations: {opened:?}");
                image = if power {
                    image.power_loss(|_, _| random.flip())
                } else {
                    image.process_death()
                };
            }
            let log = options().open_simulated(&image).unwrap();
            assert_eq!(entries(&log).len(), 6, "after {allowed} operations");
            log.abort();
        }
    }
    log.abort();
}

/// A seal that a dying process left in the page cache alone, while it closed or recovered the log: it is
/// durable before anything follows.
#[test]
fn a_seal_is_durable_before_anything_follows_it() {
    for closing in [false, true] {
        for allowed in 0.. {
            let disk = SimulatedDisk::new();
            let log = options().open_simulated(&disk).unwrap();
            log.append(b"first").unwrap();
            let (mut image, mut done) = (disk.clone(), false);
            if closing {
                disk.fail_after(allowed);
                done = log.close().is_ok();
            } else {
                image = disk.process_death();
                log.abort();
                image.fail_after(allowed);
                if let Ok(log) = options().open_simulated(&image) {
                    log.abort();
                    done = true;
                }
            }
            let image = image.process_death();
            let log = options().open_simulated(&image).unwrap();
            log.append(b"second").unwrap();
            log.sync().unwrap();
            let image = image.power_loss(|_, _| false);
            log.abort();
            let log = options().open_simulated(&image).unwrap();
            assert_eq!(entries(&log), [&b"first"[..], b"second"], "after {allowed} operations");
            log.abort();
            if done {
                break;
            }
        }
    }
}

fn is_prefix(found: &[Vec<u8>], all: &[Vec<u8>]) -> bool {
    found.len() <= all.len() && found.iter().zip(all).all(|(a, b)| a == b)
}

/// Appends some entries and batches with a sync in between; what was appended, and how much of it
/// is synced; and where batches begin and end.
fn workload(log: &CommitLog, random: &mut Random, steps: u64) -> (Vec<Vec<u8>>, usize, Vec<usize>) {
    let (mut all, mut synced, mut ends) = (Vec::new(), 0, vec![0]);
    for step in 0..steps {
        let body = |random: &mut Random| vec![random.next() as u8; (random.next() % 400) as usize];
        match random.next() % 8 {
            0..=4 => {
                all.push(body(random));
                log.append(all.last().unwrap()).unwrap();
            }
            5 | 6 => {
                let batch: Vec<_> = (0..3).map(|_| body(random)).collect();
                let refs: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
                log.append_batch(&refs).unwrap();
                all.extend(batch);
            }
            _ if step + 4 < steps => {
                log.sync().unwrap();
                synced = all.len();
            }
            _ => {}
        }
        ends.push(all.len());
    }
    (all, synced, ends)
}

/// What was synced is there, the rest is a prefix, batches are whole, and it stays so.
fn check_power_loss(image: &SimulatedDisk, all: &[Vec<u8>], synced: usize, ends: &[usize]) {
    let log = options().open_simulated(image).unwrap();
    let found = entries(&log);
    assert!(is_prefix(&found, all), "a prefix");
    assert!(found.len() >= synced, "{} of {synced} synced ones", found.len());
    assert!(ends.contains(&found.len()), "batches are whole");
    let tail = log.append(b"afterwards").unwrap();
    log.sync().unwrap();
    // Hazard 29: bytes that were dropped do not come back.
    let again = image.power_loss(|_, _| false);
    log.abort();
    let log = options().open_simulated(&again).unwrap();
    let mut expected = found;
    expected.push(b"afterwards".to_vec());
    assert_eq!(entries(&log), expected);
    assert_eq!(&*log.read(tail).unwrap(), b"afterwards");
}

/// Promises 2 and 3, every subset of the unsynced sectors.
#[test]
fn power_loss_exhaustive_for_small_logs() {
    for seed in 1..=rounds(6) {
        let mut random = Random::new(seed * 0x9e37_79b9);
        let disk = SimulatedDisk::new();
        let log = options().open_simulated(&disk).unwrap();
        let (all, synced, ends) = workload(&log, &mut random, 10);
        let sectors = disk.unsynced();
        let sectors = &sectors[..sectors.len().min(6)];
        for subset in 0..1u32 << sectors.len() {
            let image = disk.power_loss(|name, sector| {
                let at = sectors.iter().position(|(n, s)| n == name && *s == sector);
                at.is_none_or(|at| subset >> at & 1 == 1)
            });
            check_power_loss(&image, &all, synced, &ends);
        }
        log.abort();
    }
}

#[test]
fn power_loss_random_for_large_logs() {
    for seed in 1..=rounds(40) {
        let mut random = Random::new(seed.wrapping_mul(0x1234_5678_9abc_def1));
        let disk = SimulatedDisk::new();
        let log = options().open_simulated(&disk).unwrap();
        let (all, synced, ends) = workload(&log, &mut random, 12_000);
        let rarely = random.flip();
        let image =
            disk.power_loss(
                |_, _| if rarely { !random.next().is_multiple_of(64) } else { random.flip() },
            );
        check_power_loss(&image, &all, synced, &ends);
        log.abort();
    }
}

/// Promise 5: damage below a sync mark is an error that names the place, also after power loss.
#[test]
fn damage_in_the_durable_part_is_never_cut_off() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    let positions: Vec<_> = (0..20u8).map(|n| log.append(&[n; 64]).unwrap()).collect();
    log.sync().unwrap();
    log.append(b"more").unwrap();
    log.sync().unwrap();
    let image = disk.power_loss(|_, _| false);
    log.abort();
    let place = positions[7];
    assert!(image.flip("00000000000000000001.seg", place.offset() as usize + 20, 4));
    match options().open_simulated(&image) {
        Err(OpenError::Corrupt(corruption)) => {
            assert_eq!(corruption.segment, 1);
            assert_eq!(corruption.offset, u64::from(place.offset()));
        }
        other => panic!("{other:?}"),
    }
    let log = options().recovery_mode(RecoveryMode::Salvage).open_simulated(&image).unwrap();
    assert_eq!(log.recovery().lost.len(), 1);
    let mut expected: Vec<_> = (0..20u8).filter(|n| *n != 7).map(|n| vec![n; 64]).collect();
    expected.push(b"more".to_vec());
    assert_eq!(entries(&log), expected);
}

/// Promise 6, hazard 30.
#[test]
fn after_a_failed_sync_every_waiter_is_told_and_writes_are_refused() {
    let disk = SimulatedDisk::new();
    let log = CommitLog::options()
        .segment_size(2 << 20)
        .durability(Durability::Synced)
        .open_simulated(&disk)
        .unwrap();
    let first = log.append(b"first").unwrap();
    disk.fail_sync_after(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert!(matches!(log.append(b"x"), Err(AppendError::Sync { .. })));
            });
        }
    });
    for _ in 0..3000 {
        let refused = log.append(b"y");
        assert!(matches!(refused, Err(AppendError::Sync { position: None, .. })), "{refused:?}");
        log.sync().unwrap_err();
    }
    assert_eq!(&*log.read(first).unwrap(), b"first");
    log.close().unwrap_err();
}

/// The same for what gets a segment of its own, which a store makes before it locks anything.
#[test]
fn after_a_failed_sync_large_writes_to_a_store_are_refused() {
    let disk = SimulatedDisk::new();
    let store = common::store_by_hand().open_simulated(&disk).unwrap();
    store.put("key", "value").unwrap();
    store.roll().unwrap();
    store.put("other", "value").unwrap();
    disk.fail_sync_after(0);
    store.sync().unwrap_err();
    let before = disk.files();
    let large = vec![1; 3 << 20];
    let mut batch = Batch::new();
    batch.put("key", &large);
    let refused = [
        store.put("key", &large).map(drop),
        store.write(&batch).map(drop),
        store.update("key", |_| Some(large.as_slice().into())).map(drop),
        store.put_if_absent("new", &large).map(drop),
    ];
    for refused in refused {
        let Err(WriteError::Append(error)) = &refused else { panic!("{refused:?}") };
        assert!(matches!(error, AppendError::Sync { position: None, .. }), "{error:?}");
    }
    assert_eq!(disk.files(), before);
    assert_eq!(store.get("key").unwrap().as_deref(), Some(&b"value"[..]));
}

/// Promise 7.
#[test]
fn a_full_disk_refuses_and_then_goes_on() {
    for maintenance in [Maintenance::Manual, Maintenance::Background] {
        let disk = SimulatedDisk::new();
        let options = options().maintenance(maintenance);
        let log = options.open_simulated(&disk).unwrap();
        disk.set_space(Some(8 << 20));
        let mut appended = 0u32;
        let body = |n: u32| vec![n as u8; 50_000];
        let refused = loop {
            match log.append(&body(appended)) {
                Ok(_) => appended += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, AppendError::NoSpace { .. }), "{refused:?}");
        for _ in 0..100 {
            assert!(log.append(&body(0)).is_err());
            assert!(log.append(&vec![0; 3 << 20]).is_err());
        }
        disk.set_space(None);
        log.append(&body(appended)).unwrap();
        log.append(&vec![9; 3 << 20]).unwrap();
        assert_eq!(entries(&log).len() as u32, appended + 2);
        log.close().unwrap();
        let log = options.open_simulated(&disk).unwrap();
        assert_eq!(entries(&log).len() as u32, appended + 2);
    }
}

/// Hazard 9: what a power loss took does not give its positions to others.
#[test]
fn positions_are_not_used_again() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    log.append(b"kept").unwrap();
    log.sync().unwrap();
    let mut given: Vec<LogPosition> = Vec::new();
    for _ in 0..60 {
        given.push(log.append(&[1; 100_000]).unwrap());
    }
    let image = disk.power_loss(|_, _| false);
    log.abort();
    let log = options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log), [b"kept"]);
    for _ in 0..60 {
        let position = log.append(&[2; 100_000]).unwrap();
        assert!(!given.contains(&position), "{position} was given out before");
    }
}

/// The other process of the test below: appends from several threads and says what was acknowledged.
#[test]
#[ignore = "the other process of the test below"]
fn child() {
    let Some((round, path)) = children::role() else { return };
    let round: u32 = round.parse().unwrap();
    let log = CommitLog::options().segment_size(2 << 20).open(path).unwrap();
    let (sender, receiver) = mpsc::sync_channel::<(LogPosition, u64)>(16);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (log, sender) = (&log, sender.clone());
            scope.spawn(move || {
                for n in 0.. {
                    let id = u64::from(round) << 40 | thread << 32 | n;
                    let body = |id: u64| {
                        let mut body = id.to_le_bytes().to_vec();
                        body.resize(
                            8 + (id.wrapping_mul(0x9e37_79b9) >> 20) as usize % 900,
                            id as u8,
                        );
                        body
                    };
                    if n % 3 == 0 {
                        let (a, b) = (body(id), body(id | 1 << 39));
                        let at = log.append_batch(&[&a, &b]).unwrap();
                        sender.send((at[0], id)).unwrap();
                        sender.send((at[1], id | 1 << 39)).unwrap();
                    } else if n % 3 == 1 {
                        let body = body(id);
                        let at = log.append_with(body.len(), |b| b.copy_from_slice(&body)).unwrap();
                        sender.send((at, id)).unwrap();
                    } else {
                        sender.send((log.append(&body(id)).unwrap(), id)).unwrap();
                    }
                }
            });
        }
        for (position, id) in receiver {
            children::say(&format!("ack {} {id}", position.as_u64()));
        }
    });
}

/// Promise 1, with a real process and a real SIGKILL, again and again on one directory.
#[test]
fn kill_at_random_moments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut random = Random::new(std::process::id().into());
    let mut acknowledged: Vec<(LogPosition, u64)> = Vec::new();
    let mut waited_for = 0;
    for round in 0..rounds(25) {
        let (child, mut lines) = Process::start(&round.to_string(), &path);
        let wanted = random.below(3000);
        let mut parse = |line: String| {
            let (at, id) = line.strip_prefix("ack ").unwrap().split_once(' ').unwrap();
            let at = LogPosition::from_u64(at.parse().unwrap());
            acknowledged.push((at, id.parse().unwrap()));
        };
        (0..wanted).map_while(|_| lines.next()).for_each(&mut parse);
        waited_for += wanted;
        drop(child);
        lines.for_each(parse);

        let log = CommitLog::options().segment_size(2 << 20).open(&path).unwrap();
        assert!(log.recovery().same_boot);
        let mut found = std::collections::HashMap::new();
        let mut reader = log.reader();
        while let Some(entry) = reader.next_entry().unwrap() {
            let id = u64::from_le_bytes(entry[..8].try_into().unwrap());
            assert!(entry[8..].iter().all(|&b| b == id as u8), "nothing is half");
            assert!(found.insert(id, entry.position()).is_none(), "{id:x} is there twice");
        }
        for (position, id) in &acknowledged {
            assert_eq!(found.get(id), Some(position), "{id:x} in round {round}");
        }
        for id in found.keys().filter(|id| **id >> 39 & 1 == 1) {
            assert!(found.contains_key(&(id & !(1 << 39))), "batches are whole");
        }
        drop(reader);
        log.close().unwrap();
    }
    assert!(acknowledged.len() as u64 >= waited_for);
}
