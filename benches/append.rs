//! Appends against their ceiling, against `write(2)`, over many segments, and durably.
//!
//! `cargo bench --bench append` prints the tables of `docs/benchmarks.md`, and then runs the
//! criterion benches, which compare one version with the one before.
//! `TAILCASK_BENCH_ONLY=one|write|many|latency|durable|criterion` runs one section.
#![allow(missing_docs, reason = "a bench")]

mod common;

use common::{MIB, each, file_map, median, report, rounds, scratch, setting, timed, warm};
use criterion::{Criterion, Throughput};
use hdrhistogram::Histogram;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use tailcask::{CommitLog, Durability, LogStats, Maintenance};

/// What each contender writes in a round.
const ROUND: usize = 192 * MIB;
const SEGMENT: u64 = 256 << 20;
const HEADER: usize = 16;

fn frame(size: usize) -> usize {
    (HEADER + size).next_multiple_of(8)
}

/// Payloads that differ, so that no branch or checksum is learnt by heart.
fn payloads(size: usize) -> Vec<Vec<u8>> {
    let mut state = 1u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..100).map(|_| (0..size).map(|_| byte()).collect()).collect()
}

/// A populated map, a copy and a CRC of each payload: no atomics, no header.
fn ceiling(dir: &Path, payloads: &[Vec<u8>], count: usize) -> f64 {
    each(ceiling_time(dir, payloads, count, &Barrier::new(1)), count)
}

/// The same in two threads, each with a map of its own: what the machine allows.
fn ceiling_twice(dir: &Path, payloads: &[Vec<u8>], count: usize) -> f64 {
    let (other, barrier) = (dir.join("other"), Barrier::new(2));
    std::fs::create_dir_all(&other).expect("a directory");
    let slower = std::thread::scope(|scope| {
        let second = scope.spawn(|| ceiling_time(&other, payloads, count / 2, &barrier));
        let first = ceiling_time(dir, payloads, count / 2, &barrier);
        first.max(second.join().expect("no panic"))
    });
    each(slower, count)
}

fn ceiling_time(dir: &Path, payloads: &[Vec<u8>], count: usize, barrier: &Barrier) -> Duration {
    let size = payloads[0].len();
    let mut map = file_map(dir, (count * size.next_multiple_of(8)).next_multiple_of(2 * MIB));
    barrier.wait();
    let (time, _) = timed(|| {
        let (mut at, mut sum, empty) = (0, 0u32, crc32fast::Hasher::new());
        for n in 0..count {
            let payload = black_box(&payloads[n % 100]);
            map[at..at + size].copy_from_slice(payload);
            let mut hasher = empty.clone();
            hasher.update(payload);
            sum ^= hasher.finalize();
            at += size.next_multiple_of(8);
        }
        black_box(sum)
    });
    time
}

fn in_one_segment(dir: &Path, run: impl FnOnce(&CommitLog)) -> f64 {
    // Manual: the standby is another bench's matter.
    let options = CommitLog::options()
        .initial_segment_size(SEGMENT)
        .segment_size(SEGMENT)
        .maintenance(Maintenance::Manual);
    let log = options.open(dir.join("log")).expect("a log");
    log.maintain().expect("populated, and a standby");
    let (time, ()) = timed(|| run(&log));
    assert_eq!(log.stats().rolls, 0, "the bench is of one segment");
    log.abort();
    std::fs::remove_dir_all(dir.join("log")).expect("removed");
    time.as_nanos() as f64
}

fn singles(log: &CommitLog, payloads: &[Vec<u8>], count: usize) {
    for n in 0..count {
        log.append(black_box(&payloads[n % 100])).expect("appended");
    }
}

fn batches(log: &CommitLog, payloads: &[Vec<u8>], count: usize) {
    let batch: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
    for _ in 0..count / 100 {
        log.append_batch(black_box(&batch)).expect("appended");
    }
}

fn in_threads(threads: usize, run: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&run);
        }
    });
}

fn written(dir: &Path, payloads: &[Vec<u8>], count: usize, buffer: Option<usize>) -> f64 {
    let path = dir.join("written");
    let mut file = File::create(&path).expect("a file");
    let (time, ()) = timed(|| match buffer {
        None => (0..count).for_each(|n| file.write_all(&payloads[n % 100]).expect("written")),
        Some(bytes) => {
            let mut out = BufWriter::with_capacity(bytes, file);
            (0..count).for_each(|n| out.write_all(&payloads[n % 100]).expect("written"));
            out.flush().expect("flushed");
        }
    });
    std::fs::remove_file(path).expect("removed");
    each(time, count)
}

fn one_segment(dir: &Path, count: usize) {
    for size in [100, 1024, 4096] {
        let payloads = payloads(size);
        let n = ROUND / frame(size) / 200 * 200;
        warm(dir, 2 * SEGMENT as usize);
        let per = |time: f64| time / n as f64;
        let series = rounds(
            count,
            &mut [
                ("copy+CRC", &mut || ceiling(dir, &payloads, n)),
                ("append", &mut || per(in_one_segment(dir, |log| singles(log, &payloads, n)))),
                ("batches of 100", &mut || {
                    per(in_one_segment(dir, |log| batches(log, &payloads, n)))
                }),
                ("2 threads, copy+CRC", &mut || ceiling_twice(dir, &payloads, n)),
                ("2 threads, append", &mut || {
                    let both = |log: &CommitLog| in_threads(2, || singles(log, &payloads, n / 2));
                    per(in_one_segment(dir, both))
                }),
                ("2 threads, batches of 100", &mut || {
                    let both = |log: &CommitLog| in_threads(2, || batches(log, &payloads, n / 2));
                    per(in_one_segment(dir, both))
                }),
            ],
        );
        report(&format!("{size} B, one warm segment"), "ns a record", &series);
        let ratio = |a: usize, b: usize| {
            let pairs = series[a].times.iter().zip(&series[b].times);
            median(&pairs.map(|(a, b)| a / b).collect::<Vec<_>>())
        };
        let (plain, append, batches) = (ratio(0, 3), ratio(1, 4), ratio(2, 5));
        println!(
            "\nTwo threads against one: copy+CRC {plain:.2}, append {append:.2}, batches {batches:.2}"
        );
    }
}

fn against_write(dir: &Path, count: usize) {
    let payloads = payloads(100);
    let n = 400_000;
    warm(dir, 2 * SEGMENT as usize);
    let series = rounds(
        count,
        &mut [
            ("write(2) a record", &mut || written(dir, &payloads, n, None)),
            ("write(2) of 1 MiB", &mut || written(dir, &payloads, n, Some(MIB))),
            ("append", &mut || in_one_segment(dir, |log| singles(log, &payloads, n)) / n as f64),
            ("batches of 100", &mut || {
                in_one_segment(dir, |log| batches(log, &payloads, n)) / n as f64
            }),
        ],
    );
    report("100 B against write(2)", "ns a record", &series);
}

/// Over many segments with the default options: opened, filled with `bytes`, dropped.
fn steady(
    dir: &Path,
    bytes: usize,
    size: usize,
    run: impl FnOnce(&CommitLog, usize),
) -> (f64, LogStats) {
    let log = CommitLog::options().open(dir.join("log")).expect("a log");
    let n = bytes / frame(size) / 100 * 100;
    let (time, ()) = timed(|| run(&log, n));
    let stats = log.stats();
    log.abort();
    std::fs::remove_dir_all(dir.join("log")).expect("removed");
    (each(time, n), stats)
}

fn many_segments(dir: &Path, count: usize) {
    let bytes = setting("TAILCASK_BENCH_MIB", 1536) * MIB;
    for size in [100, 4096] {
        let payloads = payloads(size);
        let mut waits = [Vec::new(), Vec::new()];
        let mut note = |at: usize, stats: &LogStats| {
            waits[at].push((stats.rolls, stats.standby_waits, stats.standby_wait_time));
        };
        let note = std::cell::RefCell::new(&mut note);
        let n = bytes / frame(size) / 100 * 100;
        warm(dir, bytes + bytes / 2);
        let series = rounds(
            count.div_ceil(3),
            &mut [
                ("copy+CRC", &mut || {
                    warm(dir, bytes + bytes / 2);
                    ceiling(dir, &payloads, n)
                }),
                ("append", &mut || {
                    warm(dir, bytes + bytes / 2);
                    let (time, stats) =
                        steady(dir, bytes, size, |log, n| singles(log, &payloads, n));
                    note.borrow_mut()(0, &stats);
                    time
                }),
                ("batches of 100", &mut || {
                    warm(dir, bytes + bytes / 2);
                    let (time, stats) =
                        steady(dir, bytes, size, |log, n| batches(log, &payloads, n));
                    note.borrow_mut()(1, &stats);
                    time
                }),
            ],
        );
        let title = format!("{size} B, {} MiB over 64 MiB segments", bytes / MIB);
        report(&title, "ns a record", &series);
        for (name, waits) in ["append", "batches of 100"].iter().zip(&waits) {
            let told =
                waits.iter().map(|(rolls, n, time)| format!("{n} of {rolls} rolls ({time:.1?})"));
            println!("\nWaits for a standby, {name}: {}", told.collect::<Vec<_>>().join(", "));
        }
    }
}

/// How long single appends take, rolls included.
fn latencies(dir: &Path) {
    let bytes = setting("TAILCASK_BENCH_MIB", 1536) * MIB;
    println!("\n### Latency of an append across rolls, ns (two clock readings included)\n");
    println!("| | p50 | p99 | p99.9 | p99.99 | max |\n|---|---:|---:|---:|---:|---:|");
    for (size, threads) in [(100, 1), (100, 2), (4096, 1)] {
        let payloads = payloads(size);
        let all = std::sync::Mutex::new(Histogram::<u64>::new(3).expect("a histogram"));
        warm(dir, bytes + bytes / 2);
        steady(dir, bytes, size, |log, n| {
            in_threads(threads, || {
                let mut histogram = Histogram::<u64>::new(3).expect("a histogram");
                for i in 0..n / threads {
                    let started = Instant::now();
                    log.append(&payloads[i % 100]).expect("appended");
                    let _ = histogram.record(started.elapsed().as_nanos() as u64);
                }
                all.lock().expect("no panic").add(histogram).expect("added");
            });
        });
        let all = all.into_inner().expect("no panic");
        let at = |q| all.value_at_quantile(q);
        println!(
            "| {size} B, {threads} thread(s) | {} | {} | {} | {} | {} |",
            at(0.5),
            at(0.99),
            at(0.999),
            at(0.9999),
            all.max()
        );
    }
}

fn durable(dir: &Path, threads: usize) -> (f64, LogStats) {
    let log = CommitLog::options().durability(Durability::Synced).open(dir.join("log"));
    let log = log.expect("a log");
    let payload = vec![7; 100];
    let n = if threads == 1 { 300 } else { 60 };
    let (time, ()) = timed(|| {
        in_threads(threads, || {
            for _ in 0..n {
                log.append(&payload).expect("synced");
            }
        });
    });
    let stats = log.stats();
    log.abort();
    std::fs::remove_dir_all(dir.join("log")).expect("removed");
    (each(time, n * threads) / 1000.0, stats)
}

fn group_commit(dir: &Path, count: usize) {
    let series = rounds(
        count,
        &mut [
            ("1 thread", &mut || durable(dir, 1).0),
            ("4 threads", &mut || durable(dir, 4).0),
            ("16 threads", &mut || durable(dir, 16).0),
            ("64 threads", &mut || durable(dir, 64).0),
        ],
    );
    report("Durable appends of 100 B", "us a record", &series);
}

fn tables() {
    let dir = scratch();
    let dir = dir.path();
    let count = setting("TAILCASK_BENCH_ROUNDS", 9);
    let only = std::env::var("TAILCASK_BENCH_ONLY").unwrap_or_default();
    let sections: [(&str, &dyn Fn()); 6] = [
        ("one", &|| one_segment(dir, count)),
        ("write", &|| against_write(dir, count)),
        ("many", &|| many_segments(dir, count)),
        ("latency", &|| latencies(dir)),
        ("durable", &|| group_commit(dir, count)),
        ("criterion", &criterion_benches),
    ];
    for (_, run) in sections.iter().filter(|(name, _)| only.is_empty() || only == *name) {
        run();
    }
}

/// In memory, so that the setting up between samples is short.
fn criterion_benches() {
    let mut criterion = Criterion::default();
    for size in [100, 4096] {
        let payloads = payloads(size);
        let mut group = criterion.benchmark_group(format!("append {size} B"));
        group.throughput(Throughput::Bytes(size as u64));
        let log = || CommitLog::in_memory();
        let over = |run: &dyn Fn(&CommitLog, usize), count: u64| {
            let mut left = count as usize;
            let mut total = Duration::ZERO;
            while left > 0 {
                let n = left.min(64 * MIB / frame(size));
                let log = log();
                total += timed(|| run(&log, n)).0;
                left -= n;
            }
            total
        };
        group.bench_function("single", |b| {
            b.iter_custom(|n| over(&|log, n| singles(log, &payloads, n), n));
        });
        group.bench_function("in batches of 100", |b| {
            b.iter_custom(|n| over(&|log, n| batches(log, &payloads, n.next_multiple_of(100)), n));
        });
        group.finish();
    }
    criterion.final_summary();
}

fn main() {
    tables();
}
