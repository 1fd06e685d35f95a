//! The command line behaves as Unix users expect.
#![cfg(feature = "cli")]

mod common;

use common::cli::{run, tailcask, text};
use common::{entries, segment};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use tailcask::CommitLog;

fn with_log(test: impl FnOnce(&str, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    test(log.to_str().unwrap(), &log);
}

#[test]
fn lines_come_back_as_they_were() {
    with_log(|log, _| {
        let input = b"first\n\n\xff\xfe bytes\x00\nno newline at the end";
        for threads in [&[][..], &["--threads", "3"]] {
            let args = [&["log", "append", log, "-"], threads].concat();
            let output = run(&args, input);
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
        let output = run(&["log", "cat", log, "--limit", "4"], b"");
        assert_eq!(output.stdout, [&input[..], b"\n"].concat());
        let output = run(&["log", "cat", log], b"");
        assert_eq!(output.stdout.iter().filter(|&&b| b == b'\n').count(), 8);
        let output = run(&["log", "tail", log, "-n", "1"], b"");
        assert_eq!(output.stdout, b"no newline at the end\n");
    });
}

#[test]
fn records_of_any_bytes_come_back_encoded() {
    with_log(|log, path| {
        let records: [&[u8]; 5] = [b"two\nlines", b"", b"\n", b"\xff\x00\r\n", b" spaces "];
        let new = CommitLog::open(path).unwrap();
        for record in records {
            new.append(record).unwrap();
        }
        new.close().unwrap();
        for encoding in ["hex", "base64"] {
            let args = ["--encoding", encoding];
            let printed = run(&[&["log", "cat", log], &args[..]].concat(), b"").stdout;
            assert_eq!(printed.iter().filter(|&&byte| byte == b'\n').count(), records.len());
            let copy = path.with_file_name(encoding);
            let to = copy.to_str().unwrap();
            let output = run(&[&["log", "append", to], &args[..]].concat(), &printed);
            assert!(output.status.success(), "{}", text(&output.stderr));
            assert_eq!(entries(&CommitLog::open_read_only(&copy).unwrap()), records);
            let last = run(&[&["log", "tail", log, "-n", "2"], &args[..]].concat(), b"").stdout;
            assert!(printed.ends_with(&last), "{}", text(&last));
            assert_eq!(last.iter().filter(|&&byte| byte == b'\n').count(), 2);
        }
    });
}

#[test]
fn a_line_that_is_not_encoded_ends_an_append() {
    with_log(|_, path| {
        for threads in ["1", "3"] {
            let log = path.with_file_name(threads);
            let log = log.to_str().unwrap();
            let args = ["log", "append", log, "--encoding", "hex", "--threads", threads];
            let output = run(&args, b"6f6e65\nzz\n74776f\n");
            assert_eq!(output.status.code(), Some(6));
            let message = "tailcask: stopped after 1 record appended: line 2: \"zz\" is not hex\n";
            assert_eq!(text(&output.stderr), message);
            assert_eq!(run(&["log", "cat", log], b"").stdout, b"one\n", "nothing behind it");
        }
    });
}

#[test]
fn a_huge_line_is_a_record() {
    with_log(|log, _| {
        let line = vec![b'x'; 70 << 20];
        let output = run(&["log", "append", log], &line);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let output = run(&["log", "cat", log], b"");
        assert_eq!(output.stdout.len(), line.len() + 1);
    });
}

#[test]
fn positions_can_be_given_back() {
    with_log(|log, _| {
        run(&["log", "append", log], b"a\nb\nc\n");
        let output = text(&run(&["log", "cat", log, "--positions"], b"").stdout);
        let second = output.lines().nth(1).unwrap().split('\t').next().unwrap();
        let output = run(&["log", "cat", log, "--from", second], b"");
        assert_eq!(output.stdout, b"b\nc\n");
        let output = run(&["log", "cat", log, "--from", "1:129"], b"");
        assert_eq!(output.status.code(), Some(6));
        assert!(text(&output.stderr).contains("no entry begins at 1:129"));
    });
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    with_log(|log, _| {
        run(&["log", "append", log], "a line of some length\n".repeat(100_000).as_bytes());
        let mut child = tailcask(&["log", "cat", log]).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(text(&output.stderr), "");
    });
}

#[test]
fn failures_and_usage_have_their_exit_codes() {
    with_log(|log, _| {
        let output = run(&["log", "cat", log], b"");
        assert_eq!(output.status.code(), Some(6));
        assert!(text(&output.stderr).starts_with("tailcask: "), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("there is no log in"));
        assert_eq!(run(&["log", "cat"], b"").status.code(), Some(2));
        assert_eq!(run(&["log", "append", log, "--threads", "0"], b"").status.code(), Some(2));
        let output = run(&["log", "append", log, "/nonexistent"], b"");
        assert_eq!(output.status.code(), Some(6));
        assert!(!Path::new(log).exists(), "nothing is made for an input that is not there");
    });
}

#[test]
fn verify_names_the_first_damage() {
    with_log(|log, path| {
        run(&["log", "append", log, "--batch-bytes", "1"], b"one\ntwo\nthree\n");
        let output = run(&["log", "verify", log], b"");
        assert!(output.status.success() && text(&output.stdout).starts_with("sound: 3 entries"));
        let file = path.join(segment(1));
        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes.windows(3).position(|w| w == b"two").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let output = run(&["log", "verify", log], b"");
        assert_eq!(output.status.code(), Some(3));
        let place = format!("segment 1 is damaged at offset {}", at - 16);
        assert!(text(&output.stderr).contains(&place), "{}", text(&output.stderr));
    });
}

#[test]
fn stat_and_inspect_say_what_is_there() {
    with_log(|log, _| {
        run(&["log", "append", log], b"one\ntwo\n");
        let output = run(&["log", "stat", log, "--json"], b"");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["entries"], 2);
        assert_eq!(json["clean"], true);
        let output = text(&run(&["log", "inspect", log], b"").stdout);
        assert_eq!(output.matches(" entry ").count(), 2, "{output}");
        assert_eq!(output.matches(" batch ").count(), 1, "{output}");
    });
}

#[test]
fn tail_follows_another_process_and_ends_when_told() {
    with_log(|log, _| {
        run(&["log", "append", log], b"old\n");
        let mut follower = tailcask(&["log", "tail", log, "-f", "-n", "1"]).spawn().unwrap();
        let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "old");
        let output = run(&["log", "append", log], b"new\n");
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(lines.next().unwrap().unwrap(), "new");
        kill_process(Pid::from_child(&follower), Signal::TERM).unwrap();
        assert!(follower.wait().unwrap().success());
    });
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    with_log(|log, _| {
        let mut child = tailcask(&["log", "append", log, "--ack", "--batch-bytes", "1000"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeder = std::thread::spawn(move || {
            for n in 0.. {
                if writeln!(stdin, "line {n}").is_err() {
                    return;
                }
            }
        });
        let mut acks = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut last = acks.nth(500).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let rest: Vec<_> = acks.collect();
        if rest.len() > 1 {
            last.clone_from(&rest[rest.len() - 2]);
        }
        feeder.join().unwrap();
        let acknowledged: usize = last.strip_prefix("acked ").unwrap().parse().unwrap();
        let output = text(&run(&["log", "cat", log], b"").stdout);
        assert!(output.lines().count() >= acknowledged);
        assert!(output.lines().enumerate().all(|(n, line)| line == format!("line {n}")));
    });
}

#[test]
fn a_store_is_loaded_read_and_changed() {
    with_log(|store, path| {
        let tsv = b"k1\tone\tx\nk2\ttwo\ty\n";
        let output = run(&["load", store, "--key", "1", "--value", "2"], tsv);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(run(&["get", store, "k2"], b"").stdout, b"two");
        assert_eq!(run(&["get", store, "k3"], b"").status.code(), Some(1));
        let csv = b"id,name\nk3,\"a, b\"\n";
        let args = ["load", store, "-", "--format", "csv", "--key", "id", "--value", "name"];
        assert!(run(&args, csv).status.success());
        assert_eq!(run(&["get", store, "k3"], b"").stdout, b"a, b");
        let json = b"{\"id\": 4, \"v\": \"four\"}\n";
        let args = ["load", store, "-", "--format", "ndjson", "--key", "id", "--value", "v"];
        assert!(run(&args, json).status.success());
        assert!(run(&["put", store, "k1", "-"], b"from stdin").status.success());
        assert!(run(&["delete", store, "k2"], b"").status.success());
        assert_eq!(run(&["delete", store, "k2"], b"").status.code(), Some(1));
        assert_eq!(run(&["count", store], b"").stdout, b"3\n");
        let lines = text(&run(&["scan", store], b"").stdout);
        let mut lines: Vec<_> = lines.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["4\tfour", "k1\tfrom stdin", "k3\ta, b"]);
        let args = ["scan", store, "--what", "keys", "--format", "json", "--limit", "1"];
        let json: serde_json::Value = serde_json::from_slice(&run(&args, b"").stdout).unwrap();
        assert!(json["key"].is_string() && json.get("value").is_none());
        let output = run(&["load", store, "--value", "9"], b"only\tthis\n");
        assert!(text(&output.stderr).contains("line 1: there is no column 9"));
        let missing = path.with_file_name("missing");
        let output = run(&["get", missing.to_str().unwrap(), "k"], b"");
        assert!(text(&output.stderr).contains("there is no store in"));
        assert!(!missing.exists());
    });
}
