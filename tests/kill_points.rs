//! SIGKILL of a real process at named points: reserved and not claimed, claimed and not committed,
//! while rolling, while recovering. Longer with `TAILCASK_ROUNDS`.
#![cfg(unix)]

mod common;

use common::children::{self, Process, Said, die, say};
use common::{Random, rounds};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tailcask::{CommitLog, LogOptions};

const ENTRY: usize = 150_000;

fn options() -> LogOptions {
    CommitLog::options().segment_size(2 << 20)
}

fn entry(id: u64, len: usize) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.resize(len.max(8), id as u8);
    bytes
}

/// Appends, and says so only then.
fn append(log: &CommitLog, id: u64, len: usize) {
    log.append(&entry(id, len)).unwrap();
    say(&format!("ack {id}"));
}

#[test]
#[ignore = "the process that the other tests kill"]
fn child() {
    let Some((role, dir)) = children::role() else { return };
    let (point, first) = role.split_once(' ').unwrap();
    let first: u64 = first.parse().unwrap();
    let log = options().open(dir).unwrap();
    match point {
        "reserved" => {
            append(&log, first, 100);
            log.abandon_reservation(300);
            append(&log, first + 1, 100);
            die();
        }
        "claimed" => {
            append(&log, first, 100);
            let died = log.append_with(1000, |place| {
                place[..500].fill(0xaa);
                std::thread::scope(|scope| scope.spawn(|| append(&log, first + 1, 100)).join())
                    .unwrap();
                die();
            });
            unreachable!("{died:?}");
        }
        // Most of the time of these goes into making segments.
        "rolling" => {
            for id in first.. {
                append(&log, id, ENTRY);
            }
        }
        "recovering" => die(),
        other => panic!("there is no point {other}"),
    }
}

fn start(dir: &Path, point: &str, first: u64) -> (Process, Said) {
    Process::start(&format!("{point} {first}"), dir)
}

/// What a child acknowledges before its end, or before it is killed after a while.
fn acknowledged((mut child, said): (Process, Said), patience: Option<Duration>) -> Vec<u64> {
    let reader = std::thread::spawn(move || {
        said.map(|line| line.strip_prefix("ack ").unwrap().parse().unwrap()).collect()
    });
    if let Some(patience) = patience {
        std::thread::sleep(patience);
        child.0.kill().unwrap();
    }
    child.0.wait().unwrap();
    reader.join().unwrap()
}

fn found(log: &CommitLog) -> BTreeMap<u64, usize> {
    let mut reader = log.reader();
    let mut found = BTreeMap::new();
    while let Some(bytes) = reader.next_entry().unwrap() {
        let id = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(*bytes, entry(id, bytes.len()), "nothing is half");
        assert!(found.insert(id, bytes.len()).is_none(), "{id} is there twice");
    }
    found
}

#[test]
fn killed_between_reserve_claim_and_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut all = Vec::new();
    for round in 0..rounds(4) {
        for (at, point) in ["reserved", "claimed"].into_iter().enumerate() {
            let first = round * 10 + at as u64 * 5;
            all.extend(acknowledged(start(&path, point, first), None));
            let log = options().open(&path).unwrap();
            let report = log.recovery();
            assert_eq!((report.holes, report.dead_claims), if at == 0 { (1, 0) } else { (0, 1) });
            assert_eq!(found(&log).into_keys().collect::<Vec<_>>(), all);
        }
    }
    assert_eq!(all.len() as u64, rounds(4) * 4);
}

#[test]
fn killed_while_rolling_and_while_recovering() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (mut acked, mut next) = (Vec::new(), 0);
    let mut random = Random::new(std::process::id().into());
    for round in 0..rounds(6) {
        let patience = Duration::from_micros(20_000 + random.below(60_000));
        acked.extend(acknowledged(start(&path, "rolling", next), Some(patience)));
        next += 1_000_000;
        // The recovery of that, cut short again and again.
        for _ in 0..4 {
            let patience = Duration::from_micros(random.below(15_000));
            acknowledged(start(&path, "recovering", 0), Some(patience));
        }
        let log = options().open(&path).unwrap();
        assert!(log.recovery().same_boot);
        let found = found(&log);
        let lost: Vec<_> = acked.iter().filter(|id| !found.contains_key(id)).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?} were acknowledged");
        // Keeps the log small: what the next rounds add is what they look for.
        let tail = log.tail();
        log.truncate_before(tail).unwrap();
        log.close().unwrap();
        let log = options().open(&path).unwrap();
        let found = self::found(&log);
        acked.retain(|id| found.contains_key(id));
        log.close().unwrap();
    }
}
