//! `tailcask log truncate`: what it removes, what it says, and how it ends.
#![cfg(feature = "cli")]

mod common;

use common::cli::run_to;
use common::files::paths_with;
use std::path::{Path, PathBuf};
use tailcask::{CommitLog, LogPosition, Maintenance, Store};

const SEGMENT: u64 = 2 << 20;

/// A closed log of four segments, with entries of half a MiB.
fn log_of_four(dir: &Path) -> (PathBuf, Vec<LogPosition>) {
    let path = dir.join("log");
    let options = CommitLog::options().segment_size(SEGMENT).maintenance(Maintenance::Manual);
    let log = options.open(&path).unwrap();
    let mut all = Vec::new();
    while all.last().is_none_or(|last: &LogPosition| last.segment() < 4) {
        all.push(log.append(&vec![all.len() as u8; 500_000]).unwrap());
    }
    log.close().unwrap();
    assert_eq!(paths_with(&path, "seg").len(), 4);
    (path, all)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn first_of(path: &Path) -> LogPosition {
    let log = CommitLog::open_read_only(path).unwrap();
    assert!(log.recovery().is_clean());
    log.reader().next_entry().unwrap().unwrap().position()
}

#[test]
fn segments_before_a_position_go() {
    let dir = tempfile::tempdir().unwrap();
    let (path, all) = log_of_four(dir.path());
    let log = text(&path);
    let second = all.iter().position(|at| at.segment() == 2).unwrap();
    // The middle of the third segment: two lie before it.
    let middle = all.iter().rfind(|at| at.segment() == 3).unwrap().to_string();
    let args = ["log", "truncate", log, "--before", &middle];
    let (out, _) = run_to(0, &[&args[..], &["--dry-run"]].concat());
    assert_eq!(
        out,
        "would remove 2 segments of 4,194,304 bytes in all; the log would begin at 3:128\n"
    );
    assert_eq!(first_of(&path), all[0], "nothing was done");
    let (out, _) = run_to(0, &args);
    assert_eq!(out, "removed 2 segments of 4,194,304 bytes in all; the log begins at 3:128\n");
    assert_eq!((first_of(&path).segment(), paths_with(&path, "seg").len()), (3, 2));
    let (out, _) = run_to(0, &args);
    assert_eq!(out, "nothing to remove; the log begins at 3:128\n");
    // A position that is gone, one that was never there, and none.
    run_to(0, &["log", "truncate", log, "--before", &all[second].to_string()]);
    for dry in [&[][..], &["--dry-run"]] {
        let (_, complaint) =
            run_to(6, &[&["log", "truncate", log, "--before", "99:128"], dry].concat());
        assert!(complaint.contains("99:128 is after the end of the log"), "{complaint}");
    }
    run_to(2, &["log", "truncate", log, "--before", "middle"]);
    assert_eq!(first_of(&path).segment(), 3);
}

#[test]
fn what_is_beyond_a_size_or_an_age_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, all) = log_of_four(dir.path());
    let log = text(&path);
    for (args, says) in [
        (["--older-than", "1d"], "nothing to remove; the log begins at 1:128\n"),
        (["--keep", "1GiB"], "nothing to remove; the log begins at 1:128\n"),
        // Half of the last one is used: it takes the one before to have as much.
        (
            ["--keep", "1500KiB"],
            "would remove 2 segments of 4,194,304 bytes in all; the log would begin at 3:128\n",
        ),
    ] {
        let (out, _) = run_to(0, &[&["log", "truncate", log, "--dry-run"], &args[..]].concat());
        assert_eq!(out, says);
    }
    assert_eq!(first_of(&path), all[0]);
    let (out, _) = run_to(0, &["log", "truncate", log, "--keep", "1500KiB", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        report,
        serde_json::json!({"removed": true, "segments": 2, "bytes": 4_194_304, "begin": "3:128"})
    );
    assert_eq!(first_of(&path).segment(), 3);
    // Everything that is sealed is older than nothing, once a millisecond has passed.
    common::until("the clock goes on", || {
        let (out, _) = run_to(0, &["log", "truncate", log, "--older-than", "0"]);
        assert!(out.contains("the log begins at "), "{out}");
        let log = CommitLog::open_read_only(&path).unwrap();
        assert!(log.recovery().is_clean());
        log.reader().next_entry().unwrap().is_none()
    });
}

#[test]
fn what_cannot_be_truncated_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    for dry in [&[][..], &["--dry-run"]] {
        let args = [&["log", "truncate", text(&missing), "--keep", "1"], dry].concat();
        let (_, complaint) = run_to(6, &args);
        assert!(complaint.contains("there is no log in"), "{complaint}");
    }
    assert!(!missing.exists(), "it makes none");
    let (path, all) = log_of_four(dir.path());
    let log = text(&path);
    // One of the three, and not two.
    run_to(2, &["log", "truncate", log]);
    run_to(2, &["log", "truncate", log, "--keep", "1", "--older-than", "1d"]);
    run_to(2, &["log", "truncate", log, "--keep", "many"]);
    let writer = CommitLog::open(&path).unwrap();
    let (_, complaint) = run_to(5, &["log", "truncate", log, "--keep", "1"]);
    assert!(complaint.contains("is in use by another writer, process"), "{complaint}");
    run_to(0, &["log", "truncate", log, "--keep", "1", "--dry-run"]);
    writer.close().unwrap();
    assert_eq!(first_of(&path), all[0]);

    let store = dir.path().join("store");
    Store::open(&store).unwrap().close().unwrap();
    for dry in [&[][..], &["--dry-run"]] {
        let args = [&["log", "truncate", text(&store), "--keep", "0"], dry].concat();
        let (_, complaint) = run_to(6, &args);
        assert!(complaint.contains("log belongs to a store"), "{complaint}");
    }
}
