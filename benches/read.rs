//! Scans against a plain CRC pass, reads at a position, and opening.
//!
//! `cargo bench --bench read` prints the tables of `docs/benchmarks.md`.
//! `TAILCASK_BENCH_ONLY=scan|read|open` runs one section.
#![allow(missing_docs, reason = "a bench")]

mod common;

use common::{MIB, each, report, rounds, scratch, setting, timed};
use std::hint::black_box;
use std::path::Path;
use tailcask::{CommitLog, LogPosition};

fn filled(dir: &Path, size: usize, bytes: usize) -> (CommitLog, Vec<LogPosition>) {
    let log = CommitLog::options().open(dir.join("log")).expect("a log");
    let payload: Vec<u8> = (0..size).map(|n| (n * 31) as u8).collect();
    let batch: Vec<&[u8]> = (0..100).map(|_| &payload[..]).collect();
    let mut positions = Vec::new();
    while positions.len() * size < bytes {
        positions.extend(log.append_batch(&batch).expect("appended"));
    }
    (log, positions)
}

fn remove(dir: &Path) {
    std::fs::remove_dir_all(dir.join("log")).expect("removed");
}

fn scan(dir: &Path, count: usize) {
    for size in [100, 1024, 4096] {
        let (log, positions) = filled(dir, size, 512 * MIB);
        let n = positions.len();
        // The same bytes in one piece, and in the same pieces.
        let plain = vec![7u8; n * size];
        let pieces = || {
            let empty = crc32fast::Hasher::new();
            let sums = plain.chunks(size).map(|piece| {
                let mut hasher = empty.clone();
                hasher.update(black_box(piece));
                hasher.finalize()
            });
            black_box(sums.fold(0, |all, one| all ^ one));
        };
        let series = rounds(
            count,
            &mut [
                ("CRC of each record's bytes", &mut || each(timed(pieces).0, n)),
                ("CRC of all bytes at once", &mut || {
                    each(timed(|| black_box(crc32fast::hash(&plain))).0, n)
                }),
                ("scan", &mut || {
                    let (time, found) = timed(|| {
                        let (mut reader, mut found) = (log.reader(), 0);
                        while let Some(entry) = reader.next_entry().expect("sound") {
                            black_box(&*entry);
                            found += 1;
                        }
                        found
                    });
                    assert_eq!(found, n);
                    each(time, n)
                }),
            ],
        );
        report(
            &format!("Scan of {n} records of {size} B, checksums verified"),
            "ns a record",
            &series,
        );
        log.abort();
        remove(dir);
    }
}

fn read(dir: &Path, count: usize) {
    let size = 100;
    let (log, positions) = filled(dir, size, 512 * MIB);
    let mut state = 1u64;
    let random: Vec<LogPosition> = (0..1_000_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            positions[(state >> 33) as usize % positions.len()]
        })
        .collect();
    let reads = |positions: &[LogPosition]| {
        let (time, ()) = timed(|| {
            for &position in positions {
                black_box(&*log.read(position).expect("there"));
            }
        });
        each(time, positions.len())
    };
    let series = rounds(
        count,
        &mut [
            ("read, in order", &mut || reads(&positions[..1_000_000])),
            ("read, anywhere in 512 MiB", &mut || reads(&random)),
        ],
    );
    report("read(position), 100 B", "ns a record", &series);
    log.abort();
    remove(dir);
}

fn open(dir: &Path, count: usize) {
    let bytes = setting("TAILCASK_BENCH_MIB", 1024) * MIB;
    let (log, positions) = filled(dir, 100, bytes);
    log.close().expect("closed");
    let reopen = |close: bool| {
        let (time, log) = timed(|| CommitLog::open(dir.join("log")).expect("opened"));
        let report = log.recovery().clone();
        if close {
            log.close().expect("closed");
        } else {
            log.append(b"x").expect("appended");
            log.abort();
        }
        (time.as_secs_f64() * 1e3, report)
    };
    assert!(reopen(true).1.is_clean());
    let series = rounds(
        count,
        &mut [("closed before", &mut || {
            let (time, report) = reopen(true);
            assert!(report.is_clean() && report.frames == 0, "nothing is scanned");
            time
        })],
    );
    let title = format!("Opening a closed log of {} records, {} MiB", positions.len(), bytes / MIB);
    report(&title, "ms", &series);
    remove(dir);
    let (log, _) = filled(dir, 100, bytes);
    log.abort();
    let (time, report) = timed(|| CommitLog::open(dir.join("log")).expect("opened"));
    println!(
        "\nAfter the process died with all {} segments unsealed: {time:.0?}, {} entries verified.",
        report.recovery().recovered_segments,
        report.recovery().entries
    );
    report.abort();
    remove(dir);
}

fn main() {
    let dir = scratch();
    let dir = dir.path();
    let count = setting("TAILCASK_BENCH_ROUNDS", 9);
    let only = std::env::var("TAILCASK_BENCH_ONLY").unwrap_or_default();
    let sections: [(&str, &dyn Fn()); 3] = [
        ("scan", &|| scan(dir, count)),
        ("read", &|| read(dir, count)),
        ("open", &|| open(dir, count)),
    ];
    for (_, run) in sections.iter().filter(|(name, _)| only.is_empty() || only == *name) {
        run();
    }
}
