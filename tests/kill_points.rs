//! SIGKILL of a real process at named points: reserved and not claimed, claimed and not committed,
//! while rolling, while recovering. Longer with `TAILCASK_ROUNDS`.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tailcask::{CommitLog, LogOptions};

const ENTRY: usize = 150_000;

fn options() -> LogOptions {
    CommitLog::options().segment_size(2 << 20)
}

fn rounds(default: u64) -> u64 {
    std::env::var("TAILCASK_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn die() -> ! {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
        .expect("killed");
    unreachable!("SIGKILL is not survived")
}

fn entry(id: u64, len: usize) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.resize(len.max(8), id as u8);
    bytes
}

/// Appends, and says so only then.
fn append(log: &CommitLog, id: u64, len: usize) {
    log.append(&entry(id, len)).unwrap();
    let mut out = std::io::stderr().lock();
    writeln!(out, "ack {id}").unwrap();
}

#[test]
#[ignore = "the process that the other tests kill"]
fn child() {
    let (Ok(dir), Ok(point)) = (std::env::var("KILL_DIR"), std::env::var("KILL_POINT")) else {
        return;
    };
    let first: u64 = std::env::var("KILL_FIRST").unwrap().parse().unwrap();
    let log = options().open(Path::new(&dir)).unwrap();
    match &point[..] {
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

fn start(dir: &Path, point: &str, first: u64) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("KILL_DIR", dir)
        .env("KILL_POINT", point)
        .env("KILL_FIRST", first.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a child to its end, and says what it acknowledged.
fn acknowledged(mut child: std::process::Child, patience: Option<Duration>) -> Vec<u64> {
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        let ids = lines.map_while(Result::ok);
        ids.filter_map(|line| line.strip_prefix("ack ")?.parse().ok()).collect()
    });
    if let Some(patience) = patience {
        std::thread::sleep(patience);
        child.kill().unwrap();
    }
    child.wait().unwrap();
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
    let mut seed = u64::from(std::process::id());
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    for round in 0..rounds(6) {
        let patience = Duration::from_micros(20_000 + random(60_000));
        acked.extend(acknowledged(start(&path, "rolling", next), Some(patience)));
        next += 1_000_000;
        // The recovery of that, cut short again and again.
        for _ in 0..4 {
            let patience = Duration::from_micros(random(15_000));
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
