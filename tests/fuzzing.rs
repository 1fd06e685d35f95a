//! The fuzz targets without a fuzzer: their seeds, and mutations of these, by seeds of their own.
//!
//! `TAILCASK_CASES` says how many mutations each target gets. `fuzz/` is for the fuzzer itself.

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, dead_code, reason = "a package of its own, too")]
mod fuzz;

mod common;

use common::Random;
#[cfg(feature = "cli")]
use fuzz::cli::{encoding, exit, interrupt, log, stdio, store, table, text, units};
use fuzz::{files, targets};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tailcask::{Batch, CommitLog, LogPosition, Maintenance, Store};

type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("frame", targets::frame),
    ("segment", targets::segment),
    ("hint", targets::hint),
    ("manifest", targets::manifest),
    ("directory", targets::directory),
    ("repair", targets::repair),
    ("operations", targets::operations),
    #[cfg(feature = "cli")]
    ("command", targets::command),
];

fn cases() -> u64 {
    std::env::var("TAILCASK_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for entry in fs::read_dir(files::seeds().join(target)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        seeds.push((name, fs::read(&path).unwrap()));
    }
    seeds.sort();
    assert!(!seeds.is_empty(), "{target}");
    seeds
}

/// Runs a target. If it panics, the input is left in a file, to be made a seed.
fn run(name: &str, target: fn(&[u8]), what: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let path = std::env::temp_dir().join(format!("tailcask-{name}-{what}"));
        fs::write(&path, input).unwrap();
        panic!("{name}, {what}: see {}", path.display());
    }
}

/// A few changes: bits, bytes, numbers that are often wrong, and ranges that are copied or removed.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(5) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let (at, len) = (random.index(bytes.len()), bytes.len());
        let long = 1 + random.index(64);
        match random.below(9) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let number = [0, 1, 7, 8, 16, 0xff, 0xfff8, u64::from(u32::MAX), u64::MAX];
                let number = number[random.index(number.len())].to_le_bytes();
                let size = (1 << random.below(4)).min(len - at);
                bytes[at..at + size].copy_from_slice(&number[..size]);
            }
            3 => {
                let word = (at / 8 * 8).min(len.saturating_sub(8));
                if let Some(field) = bytes.get_mut(word..word + 8) {
                    let number = u64::from_le_bytes(field.try_into().unwrap());
                    let near = number.wrapping_add(random.below(65)).wrapping_sub(32);
                    field.copy_from_slice(&near.to_le_bytes());
                }
            }
            4 => {
                bytes.drain(at..(at + long).min(len));
            }
            5 => {
                let copy = bytes[at..(at + long).min(len)].to_vec();
                let to = random.index(len);
                bytes.splice(to..to, copy);
            }
            6 => {
                let (from, to) = (random.index(other.len().max(1)), at);
                let part = other.get(from..).unwrap_or_default();
                let part = part[..part.len().min(long)].to_vec();
                bytes.splice(to..(to + part.len()).min(len), part);
            }
            7 => bytes.truncate(at.max(1)),
            // How the target treats it.
            _ => bytes[0] = random.next() as u8,
        }
    }
}

fn replay(nth: usize) {
    let (name, target) = TARGETS[nth];
    let seeds = seeds(name);
    for (what, input) in &seeds {
        run(name, target, what, input);
    }
    for case in 0..cases() {
        let mut random = Random::new(case << 8 | nth as u64);
        let (_, seed) = &seeds[random.index(seeds.len())];
        let (_, other) = &seeds[random.index(seeds.len())];
        let mut input = seed.clone();
        mutate(&mut input, other, &mut random);
        run(name, target, &format!("mutation {case}"), &input);
    }
}

#[test]
fn frames() {
    replay(0);
}

#[test]
fn segments() {
    replay(1);
}

#[test]
fn hints() {
    replay(2);
}

#[test]
fn manifests() {
    replay(3);
}

#[test]
fn directories() {
    replay(4);
}

#[test]
fn repairs() {
    replay(5);
}

#[test]
fn operations() {
    replay(6);
}

#[cfg(feature = "cli")]
#[test]
fn commands() {
    replay(7);
}

fn unit() -> tailcask::StoreOptions {
    let options = Store::options().maintenance(Maintenance::Manual);
    options.segment_unit(4096).segment_size(4096)
}

/// A store with everything in it that a store can have.
fn make_store(dir: &std::path::Path, closed: bool) {
    let store = unit().open(dir).unwrap();
    store.put("a", "the first value").unwrap();
    store.put("b", [7; 300]).unwrap();
    store.sync().unwrap();
    store.roll().unwrap();
    store.put("a", "another value").unwrap();
    store.delete("b").unwrap();
    let mut batch = Batch::new();
    batch.put("c", "one of a batch").put("d", "").delete("a");
    store.write(&batch).unwrap();
    store.roll().unwrap();
    store.put("e", [1; 500]).unwrap();
    store.roll().unwrap();
    let first = store.stats().segments[0].id;
    store.merge_only(&[first]).unwrap();
    store.maintain().unwrap();
    let soon = tailcask::WriteOptions::new().ttl(std::time::Duration::from_secs(1_000_000_000));
    store.put_with("f", "that expires", &soon).unwrap();
    store.sync().unwrap();
    store.put("g", "not synced").unwrap();
    if closed { store.close().unwrap() } else { store.abort() }
}

/// A log, with an append that was never finished if it is not closed.
fn make_log(dir: &std::path::Path, closed: bool) {
    let options = CommitLog::options().maintenance(Maintenance::Manual);
    let log = options.segment_unit(4096).segment_size(4096).open(dir).unwrap();
    let mut last = LogPosition::START;
    for len in [0, 1, 8, 100, 1500, 2000, 900, 30] {
        last = log.append(&vec![len as u8 | 1; len]).unwrap();
    }
    log.append_batch(&[b"a", b"bcdefghij", b""]).unwrap();
    log.wait_durable(last).unwrap();
    if closed {
        return log.close().unwrap();
    }
    log.abandon_reservation(40);
    log.append(b"behind a hole").unwrap();
    log.abort();
}

/// Writes the seeds anew: `cargo test --all-features --test fuzzing -- --ignored seeds_are_made`.
#[test]
#[ignore = "makes the seeds that the other tests read"]
fn seeds_are_made() {
    let write = |target: &str, name: &str, mode: u8, bytes: &[u8]| {
        let dir = files::seeds().join(target);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), [&[mode], bytes].concat()).unwrap();
    };
    for (bits, (name, make, closed)) in [
        ("store", make_store as fn(&std::path::Path, bool), false),
        ("log", make_log, false),
        ("closed-store", make_store, true),
        ("closed-log", make_log, true),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        make(&path, closed);
        let all = files::read(&path).unwrap();
        let mode = (bits as u8 & 1) * 8 + (bits as u8 & 2) * 8;
        let packed = files::pack(&all);
        write("directory", name, mode, &packed);
        write("repair", name, mode, &packed);
        write("manifest", name, mode, &all["MANIFEST"]);
        for (file, bytes) in &all {
            let id = file.trim_start_matches('0');
            let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
            if file.ends_with(".seg") {
                write("segment", &format!("{name}-{id}"), mode, &bytes[..end]);
                let frames = bytes[..end].get(128..).unwrap_or_default();
                write("frame", &format!("{name}-{id}"), mode & 8, frames);
            } else if file.ends_with(".hint") {
                write("hint", &format!("{name}-{id}"), mode, bytes);
            }
        }
    }
    for seed in 0..6 {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..300).map(|_| random.next() as u8).collect();
        write("operations", &seed.to_string(), bytes[0], &bytes[1..]);
    }
}

/// Runs a target on the file that `TAILCASK_INPUT` names, such as one that a fuzzer has left.
#[test]
#[ignore = "needs TAILCASK_TARGET and TAILCASK_INPUT"]
fn one_input() {
    let (name, path) = (std::env::var("TAILCASK_TARGET"), std::env::var("TAILCASK_INPUT"));
    let (name, path) = (name.unwrap(), path.unwrap());
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    target(&fs::read(path).unwrap());
}
