//! Ctrl-C while a command is at work: it says what was done, nothing is lost, and the store opens afterwards
//! with all that it held.
#![cfg(feature = "cli")]

mod common;

use common::cli::{run_to, tailcask, text};
use common::content::{Map, contents};
use common::files::{change, copy_dir, names, paths_with};
use common::{log_by_hand, small_store, until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Child;
use tailcask::{Batch, Store};

/// Of the segments, which are small, so that there are some to copy and link.
const SEGMENT: u64 = 128 << 10;
const KEYS: u32 = 8_000;

/// A closed store of which a half is dead, and what it holds.
struct Place {
    dir: tempfile::TempDir,
    store: PathBuf,
    new: PathBuf,
    all: Map,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (path, new) = (dir.path().join("store"), dir.path().join("new"));
        let store = small_store(SEGMENT).open(&path).unwrap();
        for round in [1, 2] {
            for first in (0..KEYS).step_by(100) {
                let mut batch = Batch::new();
                // The second half stays as it is.
                let all = (first..first + 100).filter(|n| round == 1 || n % 2 == 0);
                for n in all {
                    batch.put(format!("key {n}"), [round; 1000]);
                }
                store.write(&batch).unwrap();
            }
        }
        let all = contents(&store);
        assert_eq!(all.len(), KEYS as usize);
        store.close().unwrap();
        Self { dir, store: path, new, all }
    }

    fn assert_holds_all(&self, store: &Path) {
        let store = Store::open(store).unwrap();
        assert!(contents(&store) == self.all, "something is lost");
        store.verify().unwrap();
        store.close().unwrap();
    }

    /// The names of what was begun at the place of the new directory.
    fn begun(&self) -> Vec<String> {
        let mut all = names(self.dir.path());
        all.retain(|name| name.ends_with(".partial"));
        all
    }
}

fn of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Sends a signal to a command once it is at work; gives what it complains about, with the exit code of a
/// signal. The command may come to its end before the signal does, with `code`: after `anew` it is tried
/// again then.
fn stop(args: &[&str], code: i32, is_at_work: impl Fn(&Child) -> bool, anew: impl Fn()) -> String {
    for tries in 1..=100 {
        let signal = if tries % 2 == 0 { Signal::TERM } else { Signal::INT };
        let mut child = tailcask(args).spawn().unwrap();
        until("it begins", || is_at_work(&child) || child.try_wait().unwrap().is_some());
        // It may have ended, but was not waited for: the number is still its own.
        if child.try_wait().unwrap().is_none() {
            kill_process(Pid::from_child(&child), signal).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let said = text(&output.stderr);
        if output.status.code() != Some(code) {
            assert_eq!(output.status.code(), Some(128 + signal.as_raw()), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            assert_eq!(text(&output.stdout), "");
            return said;
        }
        assert_eq!(said, "");
        anew();
    }
    panic!("a hundred times it has ended before the signal came");
}

#[test]
fn a_merge_that_is_stopped_says_which_merges_are_done_and_loses_nothing() {
    let place = Place::new();
    let before = place.dir.path().join("before");
    copy_dir(&place.store, &before, true);
    let segments = paths_with(&place.store, "seg").len();
    let args = ["merge", of(&place.store), "--segment-size", "2MiB"];
    // The log goes on in one more, and in another one; the others are outputs.
    let is_at_work = |_: &Child| paths_with(&place.store, "seg").len() > segments + 3;
    let said = stop(&args, 0, is_at_work, || copy_dir(&before, &place.store, true));
    assert!(said.starts_with("tailcask: stopped: merges done: "), "{said}");
    assert!(said.ends_with("; the next open completes or undoes what was under way\n"), "{said}");
    assert!(said.contains(" done: none;") || said.contains(" reclaimed;"), "{said}");
    place.assert_holds_all(&place.store);
    run_to(0, &args);
    place.assert_holds_all(&place.store);
    let segments = paths_with(&place.store, "seg").len();
    assert!(segments < 16, "neither inputs nor other outputs stay: {segments}");
}

#[test]
fn a_backup_that_is_stopped_says_that_there_is_none_and_what_was_begun() {
    let place = Place::new();
    let args = ["backup", of(&place.store), of(&place.new)];
    let is_at_work = |_: &Child| !place.begun().is_empty();
    let anew = || {
        place.assert_holds_all(&place.new);
        fs::remove_dir_all(&place.new).unwrap();
    };
    let said = stop(&args, 0, is_at_work, anew);
    assert_eq!(said, said_of(&place, "no backup was made"));
    place.assert_holds_all(&place.store);
    run_to(0, &args);
    place.assert_holds_all(&place.new);
}

#[test]
fn a_repair_that_is_stopped_says_that_nothing_is_repaired_and_what_was_begun() {
    let place = Place::new();
    let damaged = paths_with(&place.store, "seg").remove(0);
    change(&damaged, |bytes| *bytes.iter_mut().rfind(|byte| **byte == 1).unwrap() = 0);
    let before = fs::read(&damaged).unwrap();
    let args = ["repair", of(&place.store), of(&place.new)];
    let is_at_work = |_: &Child| !place.begun().is_empty();
    // At its end, something is lost.
    let said = stop(&args, 3, is_at_work, || fs::remove_dir_all(&place.new).unwrap());
    assert_eq!(said, said_of(&place, "nothing was repaired"));
    assert!(fs::read(&damaged).unwrap() == before, "what is damaged stays as it is");
    run_to(3, &args);
    let repaired = Store::open(&place.new).unwrap();
    assert_eq!(contents(&repaired).len(), KEYS as usize - 1);
    repaired.close().unwrap();
}

/// What is said of a new directory that was not made. What was begun is there, and is removed.
fn said_of(place: &Place, what: &str) -> String {
    assert!(!place.new.exists(), "it is whole or not there");
    let [begun] = &place.begun()[..] else { panic!("{:?}", place.begun()) };
    assert_eq!(begun, ".new.0.partial");
    fs::remove_dir_all(place.dir.path().join(begun)).unwrap();
    let named = place.dir.path().join(".new.*.partial");
    format!("tailcask: stopped: {what}; remove what was begun: {}\n", named.display())
}

// ---- commands that only read ----

/// Whether signals are no longer left to the system: SIGTERM is looked after last.
fn catches_signals(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
    caught >> (Signal::TERM.as_raw() - 1) & 1 == 1
}

#[test]
fn reading_a_store_that_is_stopped_says_how_far_it_came() {
    let place = Place::new();
    let store = of(&place.store);
    for (command, end) in [
        ("verify", "no damage was found so far; the rest was not checked"),
        ("count", " counted"),
        ("stat", "not all keys were read"),
    ] {
        let said = stop(&[command, store], 0, catches_signals, || {});
        assert!(said.starts_with("tailcask: stopped: "), "{said}");
        assert!(said.ends_with(&format!("{end}\n")), "{said}");
    }
    place.assert_holds_all(&place.store);
}

const RECORDS: u64 = 300_000;

/// A log of many small records, of one line each.
fn long_log() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = log_by_hand().open(&path).unwrap();
    let mut batch = log.batch_writer(64 << 10);
    for n in 0..RECORDS {
        batch.push(format!("record {n}").as_bytes()).unwrap();
    }
    batch.flush().unwrap();
    drop(batch);
    log.close().unwrap();
    let path = of(&path).to_owned();
    (dir, path)
}

#[test]
fn reading_a_log_that_is_stopped_says_how_far_it_came() {
    let (_dir, log) = long_log();
    let not_reached = "nothing was printed; the end of the log was not reached";
    for (args, end) in [
        (&["verify", &log][..], "no damage was found so far; the rest was not checked"),
        (&["stat", &log], " counted; there may be more"),
        // Of none, so that nothing is printed after the reading.
        (&["tail", &log, "-n", "0"], not_reached),
        (&["tail", &log, "-n", "0", "--follow"], not_reached),
    ] {
        let args = [&["log"], args].concat();
        let said = stop(&args, 0, catches_signals, || {});
        assert!(said.starts_with("tailcask: stopped: "), "{said}");
        assert!(said.ends_with(&format!("{end}\n")), "{said}");
    }
}

/// The output is a pipe that nobody reads for a while, so the command cannot have ended before.
#[test]
fn printing_a_log_that_is_stopped_says_how_much_was_printed() {
    let (_dir, log) = long_log();
    let all = RECORDS.to_string();
    for (args, heading, unit) in [
        (&["cat", &log][..], 0, " records printed"),
        (&["tail", &log, "-n", &all], 0, " of 300,000 records printed"),
        (&["inspect", &log], 1, " frames printed"),
    ] {
        let mut child = tailcask(&[&["log"], args].concat()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut first = [0; 10];
        out.read_exact(&mut first).unwrap();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let reader = std::thread::spawn(move || {
            let mut rest = Vec::new();
            out.read_to_end(&mut rest).map(|_| rest)
        });
        let output = child.wait_with_output().unwrap();
        let printed = [&first[..], &reader.join().unwrap().unwrap()].concat();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{said}");
        let number = said.strip_prefix("tailcask: stopped: ");
        let number = number.and_then(|said| said.trim_end().strip_suffix(unit)).expect(&said);
        let number: usize = number.replace(',', "").parse().unwrap();
        assert_eq!(printed.last(), Some(&b'\n'), "no record is printed in part");
        let lines = printed.iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(lines, number + heading, "it says what it has printed");
        assert!(number < RECORDS as usize, "it went on to the end");
    }
}
