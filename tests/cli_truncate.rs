//! `tailcask log truncate`: what it removes, what it says, and how it ends; and `log stat --segments`, which
//! shows what there is to remove.
#![cfg(feature = "cli")]

mod common;

use common::cli::run_to;
use common::files::paths_with;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
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

/// The lines of `log stat --segments`, as words.
fn segments(log: &str) -> Vec<Vec<String>> {
    let (out, _) = run_to(0, &["log", "stat", log, "--segments"]);
    let (overview, table) = out.split_once("\n\n").unwrap();
    assert_eq!(run_to(0, &["log", "stat", log]).0.trim_end(), overview);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    table.lines().map(words).collect()
}

#[test]
fn stat_shows_the_segments_that_can_go() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = log_of_four(dir.path());
    let log = text(&path);
    let table = segments(log);
    assert_eq!(table[0].join(" "), "segment kind state begin end used file sealed for");
    assert_eq!(table.len(), 5);
    let opened = CommitLog::open_read_only(&path).unwrap();
    let all = opened.stats().segment_list;
    let json: serde_json::Value =
        serde_json::from_str(&run_to(0, &["log", "stat", log, "--json"]).0).unwrap();
    for ((line, segment), json) in
        table[1..].iter().zip(&all).zip(json["segment_list"].as_array().unwrap())
    {
        let (begin, end) = (segment.begin.to_string(), segment.end.to_string());
        let id = segment.id.to_string();
        assert_eq!(line[..5], [&*id, "log", "sealed", &begin, &end]);
        let sealed_for = line[9..].join(" ");
        assert!(sealed_for.ends_with(['s', 'm']), "{sealed_for}");
        let sealed_at = segment.sealed_at.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let expected = serde_json::json!({
            "id": segment.id, "merged": false, "sealed": true,
            "sealed_at_ms": sealed_at.as_millis() as u64, "begin": begin, "end": end,
            "used_bytes": segment.end.offset() - segment.begin.offset(),
            "file_bytes": segment.file_bytes,
        });
        assert_eq!(*json, expected);
    }
    assert_eq!(json["segment_list"].as_array().unwrap().len(), 4);
    // What it says is what `truncate` takes.
    let args = ["log", "truncate", log, "--before", &table[3][3]];
    assert!(run_to(0, &args).0.starts_with("removed 2 segments"), "{table:?}");
    assert_eq!(segments(log).len(), 3);
    // Beside a writer.
    let options = CommitLog::options().segment_size(SEGMENT).maintenance(Maintenance::Manual);
    let writer = options.open(&path).unwrap();
    let active = writer.append(b"more").unwrap().segment();
    let table = segments(log);
    let line = table.iter().find(|line| line[0] == active.to_string()).unwrap();
    assert_eq!((&*line[2], line.last().unwrap().as_str()), ("open", "-"));
    writer.close().unwrap();
    let help = run_to(0, &["log", "help", "stat"]).0;
    assert!(help.contains("sealed for") && help.contains("--before"), "{help}");
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

/// To remove anything, the log is opened, and goes on in another segment: the last one can go, too.
#[test]
fn a_dry_run_says_what_is_removed_of_the_last_segment_too() {
    for dies in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = log_of_four(dir.path());
        let options = CommitLog::options().segment_size(SEGMENT).maintenance(Maintenance::Manual);
        let log = options.open(&path).unwrap();
        log.append(b"the last one").unwrap();
        if dies {
            log.abort();
        } else {
            log.close().unwrap();
        }
        let truncate = |args: &[&str]| -> serde_json::Value {
            let (out, _) = run_to(0, &[&["log", "truncate", text(&path), "--json"], args].concat());
            serde_json::from_str(&out).unwrap()
        };
        for keep in ["1GiB", "3MiB", "1", "0"] {
            let planned = truncate(&["--keep", keep, "--dry-run"]);
            let done = truncate(&["--keep", keep]);
            assert_eq!(
                planned["segments"], done["segments"],
                "dies {dies}, --keep {keep}: {planned}"
            );
            assert_eq!(planned["begin"], done["begin"], "dies {dies}, --keep {keep}");
        }
        let planned = truncate(&["--before", "0", "--dry-run"]);
        assert_eq!((&planned["segments"], planned["begin"] != "0:0"), (&0.into(), true));
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = log_of_four(dir.path());
    common::until("the clock goes on", || {
        let args = ["log", "truncate", text(&path), "--older-than", "0", "--dry-run"];
        run_to(0, &args).0.starts_with("would remove 4 segments of ")
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
