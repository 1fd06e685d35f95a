//! How commands end: each kind of end has its exit code and its message, and a signal stops a command where
//! nothing is lost.
#![cfg(feature = "cli")]

mod common;

use common::cli::{run, run_to, tailcask, text};
use common::files::{change, paths_with, segment};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use tailcask::{CommitLog, Store};

struct Place {
    dir: tempfile::TempDir,
    store: String,
    log: String,
}

impl Place {
    /// With a store of one pair and a log of one entry.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (store, log) = (path("store"), path("log"));
        let new = Store::open(&store).unwrap();
        new.put("key", "value").unwrap();
        new.close().unwrap();
        let new = CommitLog::open(&log).unwrap();
        new.append(b"entry").unwrap();
        new.close().unwrap();
        Self { dir, store, log }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// All commands that read, with a directory in the place of theirs.
    fn reading(&self, store: &str, log: &str) -> Vec<Vec<String>> {
        let dest = self.path("dest");
        let all = [
            &["get", store, "key"][..],
            &["scan", store],
            &["count", store],
            &["stat", store],
            &["verify", store],
            &["export", store],
            &["backup", store, &dest],
            &["log", "cat", log],
            &["log", "tail", log],
            &["log", "stat", log],
            &["log", "verify", log],
            &["log", "inspect", log],
        ];
        all.iter().map(|args| args.iter().map(|&arg| arg.to_owned()).collect()).collect()
    }

    fn writing(&self, store: &str, log: &str) -> Vec<Vec<String>> {
        let all = [
            &["put", store, "key", "value"][..],
            &["delete", store, "key"],
            &["load", store, "/dev/null"],
            &["merge", store],
            &["log", "append", log, "/dev/null"],
            &["log", "truncate", log, "--keep", "1GiB"],
        ];
        all.iter().map(|args| args.iter().map(|&arg| arg.to_owned()).collect()).collect()
    }
}

/// Commands that have tests of their own here, as they neither only read nor write.
const OTHERS: [&str; 3] = ["repair", "completions", "man"];

/// That of all commands in the tests below none is missing.
#[test]
fn each_command_is_run_to_each_of_its_ends() {
    let place = Place::new();
    let all = [place.reading("", ""), place.writing("", "")].concat();
    let mut tested: Vec<_> = all
        .iter()
        .map(|args| if args[0] == "log" { args[..2].join(" ") } else { args[0].clone() })
        .chain(OTHERS.map(str::to_owned))
        .collect();
    tested.sort();
    let of_log = commands(&["log"]).into_iter().map(|name| format!("log {name}"));
    let mut there: Vec<_> = commands(&[]).into_iter().filter(|name| name != "log").collect();
    there.extend(of_log);
    there.sort();
    assert_eq!(tested, there);
}

/// Runs a command, which ends with this code and one line on standard error; gives the line.
fn complains(code: i32, args: &[String]) -> String {
    let (_, message) = run_to(code, &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(message.lines().count(), 1, "{args:?}: {message}");
    assert!(message.starts_with("tailcask: "), "{args:?}: {message}");
    message
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn success_is_0_and_no_is_1() {
    let place = Place::new();
    for args in
        [place.reading(&place.store, &place.log), place.writing(&place.store, &place.log)].concat()
    {
        run_to(0, &args.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let store = place.store.as_str();
    run_to(0, &["put", store, "key", "value"]);
    for args in [
        &["repair", store, &place.path("repaired")][..],
        &["completions", "bash"],
        &["man", &place.path("man")],
    ] {
        run_to(0, args);
    }
    for args in [
        &["get", store, "missing"][..],
        &["delete", store, "missing"],
        &["put", store, "key", "value", "--if-absent"],
    ] {
        assert_eq!(run_to(1, args), Default::default(), "an answer has no message: {args:?}");
    }
}

#[test]
fn usage_that_cannot_be_is_2() {
    let place = Place::new();
    let store = place.store.as_str();
    for args in [
        &["nonsense"][..],
        &["get", store],
        &["scan", store, "--limit", "many"],
        &["log", "append", &place.log, "--threads", "0"],
        &["log", "cat", &place.log, "--from", "nowhere"],
        &["completions", "cmd.exe"],
    ] {
        assert!(run_to(2, args).1.contains("error: "), "{args:?}");
    }
    for (args, message) in [
        (&["put", store, "", "value"][..], "a key of 0 bytes"),
        (&["put", store, "k", "v", "--segment-size", "3"], "segment_size is 3, but must be"),
        (&["get", store, "0x", "--key-encoding", "hex"], "the key: \"0x\" is not hex"),
        (&["delete", store, "?", "--key-encoding", "base64"], "the key: \"?\" is not base64"),
        (&["put", store, "k", "0", "--value-encoding", "hex"], "the value: \"0\" is not hex"),
        (&["scan", store, "--prefix", "g", "--key-encoding", "hex"], "the prefix: \"g\""),
    ] {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        assert!(complains(2, &args).contains(message), "{args:?}");
    }
    assert_eq!(run_to(0, &["count", store]).0, "1\n", "nothing was changed");
}

#[test]
fn what_no_key_or_option_can_be_is_found_before_anything_is_made() {
    let place = Place::new();
    let new = place.path("new");
    for args in [&["put", &new, "key", "value", "--ttl", "0"][..], &["load", &new, "--ttl", "0s"]] {
        let (_, message) = run_to(2, args);
        let said = "'--ttl <TIME>': a value cannot expire before it is written";
        assert!(message.contains(said), "{message}");
    }
    let long = "k".repeat(65_536);
    for (key, len) in [("", 0), (&long[..], 65_536)] {
        for args in [&["put", &new, key, "value"][..], &["get", &place.store, key]] {
            let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
            assert!(complains(2, &args).contains(&format!("a key of {len} bytes; 1 to 65535")));
        }
    }
    assert!(!Path::new(&new).exists());
}

/// What went wrong is the output, and not the store: what was to be done to that is done.
#[test]
fn output_that_has_no_place_is_named() {
    let place = Place::new();
    let all = [place.reading(&place.store, &place.log), place.writing(&place.store, &place.log)];
    let quiet = ["put", "delete", "load"];
    for args in
        all.concat().iter().filter(|args| !quiet.contains(&&*args[0]) && args[1] != "append")
    {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let output = tailcask(&args).stdout(full).output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{args:?}: {message}");
        let said = "tailcask: standard output: No space left on device (os error 28)\n";
        assert_eq!(message, said, "{args:?}");
    }
    assert_eq!(Store::open_read_only(place.path("dest")).unwrap().len(), 1);
}

#[test]
fn damage_is_3() {
    let place = Place::new();
    for (dir, what) in [(&place.store, &b"value"[..]), (&place.log, b"entry")] {
        let file = paths_with(Path::new(dir), "seg").remove(0);
        change(&file, |bytes| {
            let at = bytes.windows(5).position(|bytes| bytes == what).unwrap();
            bytes[at] ^= 1;
        });
    }
    let damaged = |args: &Vec<String>| {
        !["count", "stat", "backup"].contains(&args[0].as_str()) && args[1] != "inspect"
    };
    for args in place.reading(&place.store, &place.log).iter().filter(|args| damaged(args)) {
        let message = complains(3, args);
        assert!(message.contains("is damaged at offset"), "{message}");
        assert_eq!(count(&message, "checksum"), 1, "{message}");
        let dir = if args[0] == "log" { &place.log } else { &place.store };
        assert_eq!(count(&message, dir), 1, "{message}");
    }
    for command in ["scan", "export"] {
        run_to(4, &[command, &place.store, "--skip-damaged"]);
    }
    run_to(3, &["repair", &place.store, &place.path("repaired store")]);
    run_to(3, &["repair", &place.log, &place.path("repaired log")]);
}

#[test]
fn what_is_in_use_is_5_and_names_the_process() {
    let place = Place::new();
    let store = Store::open(&place.store).unwrap();
    let log = CommitLog::open(&place.log).unwrap();
    let mut all = place.writing(&place.store, &place.log);
    for dir in [&place.store, &place.log] {
        all.push(["repair", dir, &place.path("new")].map(str::to_owned).to_vec());
    }
    for args in &all {
        let message = complains(5, args);
        let dir = if message.contains(&place.store) { &place.store } else { &place.log };
        let holder = format!("is in use by another writer, process {}", std::process::id());
        assert!(message.contains(&holder), "{message}");
        assert_eq!(count(&message, dir), 1, "the directory is named once: {message}");
    }
    store.close().unwrap();
    log.close().unwrap();
    for args in &all {
        let output = run(&args.iter().map(String::as_str).collect::<Vec<_>>(), b"");
        assert_ne!(output.status.code(), Some(5), "{args:?}");
    }
}

#[test]
fn other_failures_are_6_and_name_their_cause_once() {
    let place = Place::new();
    let missing = place.path("missing");
    for args in place.reading(&missing, &missing) {
        let message = complains(6, &args);
        assert_eq!(count(&message, "there is no "), 1, "{message}");
        assert_eq!(count(&message, &missing), 1, "{message}");
    }
    let file = place.path("file");
    std::fs::write(&file, "no directory").unwrap();
    let all = [place.reading(&file, &file), place.writing(&file, &file)].concat();
    for args in &all {
        let message = complains(6, args);
        assert_eq!(count(&message, &file), 1, "{message}");
    }
    let message = complains(6, &["load", &place.store, &missing].map(str::to_owned));
    assert_eq!(count(&message, "No such file"), 1, "{message}");
    let message = complains(6, &["man", &file].map(str::to_owned));
    assert!(message.contains(&file), "{message}");
}

/// What opening finds wrong names no directory; the command does, once.
#[test]
fn a_directory_that_cannot_be_opened_is_named_once() {
    let place = Place::new();
    let all = [place.reading(&place.log, ""), place.writing(&place.log, "")].concat();
    for args in all.iter().filter(|args| args[0] != "log") {
        let message = complains(6, args);
        assert!(message.ends_with(": the directory holds a log, not a store\n"), "{message}");
        assert_eq!(count(&message, &place.log), 1, "{message}");
    }
    type Case = (i32, &'static str, fn(&Path));
    let cases: [Case; 4] = [
        (3, "the MANIFEST is unusable: its magic number is wrong", |dir| {
            change(&dir.join("MANIFEST"), |bytes| bytes[0] ^= 1);
        }),
        (6, "unknown format version 9; this library reads", |dir| {
            change(&dir.join("MANIFEST"), |bytes| {
                let end = bytes.len() - 4;
                bytes[8] = 9;
                let checksum = crc32fast::hash(&bytes[..end]);
                bytes[end..].copy_from_slice(&checksum.to_le_bytes());
            });
        }),
        (3, "segment 1 is missing: the MANIFEST names it", |dir| {
            std::fs::remove_file(dir.join(segment(1))).unwrap();
        }),
        (3, "segment 1 is damaged at offset", |dir| {
            change(&dir.join(segment(1)), |bytes| bytes[16] ^= 1);
        }),
    ];
    for (code, says, spoil) in cases {
        let place = Place::new();
        let dirs = [&place.store, &place.log];
        dirs.iter().for_each(|dir| spoil(Path::new(dir)));
        let all = place.reading(&place.store, &place.log);
        for args in [all, place.writing(&place.store, &place.log)].concat() {
            let message = complains(code, &args);
            assert_eq!(count(&message, says), 1, "{args:?}: {message}");
            let named = dirs.map(|dir| count(&message, dir));
            assert!(named == [1, 0] || named == [0, 1], "{args:?}: {message}");
        }
    }
}

#[test]
fn binary_keys_and_values_are_given_and_printed_as_hex_or_base64() {
    let place = Place::new();
    let store = place.path("binary");
    let hex = ["--key-encoding", "hex"];
    run_to(
        0,
        &[&["put", &store, "00ff0A", "wP8=", "--value-encoding", "base64"], &hex[..]].concat(),
    );
    let file = place.path("value");
    std::fs::write(&file, "0102\n").unwrap();
    let args = ["put", &store, "00ff0b", "--file", &file, "--value-encoding", "hex"];
    run_to(0, &[&args, &hex[..]].concat());
    let value = |args: &[&str]| run(&[&["get", store.as_str()], args].concat(), b"").stdout;
    assert_eq!(value(&["00ff0a", "--key-encoding", "hex"]), b"\xc0\xff");
    assert_eq!(value(&["AP8L", "--key-encoding", "base64"]), b"\x01\x02");
    let both = ["00ff0a", "--key-encoding", "hex", "--value-encoding"];
    assert_eq!(value(&[&both[..], &["hex"]].concat()), b"c0ff\n");
    assert_eq!(value(&[&both[..], &["base64"]].concat()), b"wP8=\n");
    let scan = |args: &[&str]| {
        let out = run_to(0, &[&["scan", store.as_str()], &hex[..], args].concat()).0;
        let mut lines: Vec<_> = out.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(scan(&["--what", "keys"]), ["00ff0a", "00ff0b"]);
    assert_eq!(scan(&["--value-encoding", "hex"]), ["00ff0a\tc0ff", "00ff0b\t0102"]);
    assert_eq!(scan(&["--prefix", "00ff0b", "--what", "keys"]), ["00ff0b"]);
    let json = r#"{"key_hex":"00ff0a","value_base64":"wP8="}"#;
    assert_eq!(scan(&["--format", "json", "--prefix", "00ff0a"]), [json]);
    assert_eq!(scan(&["--format", "raw", "--what", "keys", "--limit", "1"])[0].len(), 6);
    run_to(0, &["delete", &store, "00FF0A", "--key-encoding", "hex"]);
    run_to(1, &["delete", &store, "00FF0A", "--key-encoding", "hex"]);
}

// ---- signals ----

/// Starts a command that reads standard input, and waits until it has acknowledged `lines`.
fn feed(args: &[&str], lines: &str) -> Child {
    let mut child = tailcask(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
    let mut acks = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let last = format!("acked {}", lines.lines().count());
    while acks.next().expect("it acknowledges").unwrap() != last {}
    child
}

/// Sends a signal to a child whose input stays open, and gives how it ended.
fn stop(mut child: Child, signal: Signal) -> Output {
    let input = child.stdin.take();
    kill_process(Pid::from_child(&child), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(input);
    output
}

#[test]
fn a_load_that_is_stopped_says_what_is_loaded_and_closes_the_store() {
    let place = Place::new();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let store = place.path(&format!("store {code}"));
        let args = ["load", &store, "-", "--ack", "--batch-bytes", "1"];
        // The line that has no end yet is not a pair.
        let mut child = feed(&args, "k1\tone\nk2\ttwo\n");
        child.stdin.as_mut().unwrap().write_all(b"k3\tthr").unwrap();
        let output = stop(child, signal);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{message}");
        let stopped =
            "tailcask: stopped: 2 pairs loaded, and on the device; the rest was not read\n";
        assert_eq!(message, stopped);
        assert_eq!(run_to(0, &["count", &store]).0, "2\n");
        assert!(run_to(0, &["stat", &store]).0.contains("clean"), "it was closed");
    }
}

#[test]
fn a_log_append_that_is_stopped_says_what_is_appended() {
    let place = Place::new();
    let args = ["log", "append", &place.log, "--ack", "--batch-bytes", "1"];
    let output = stop(feed(&args, "one\n"), Signal::INT);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.starts_with("tailcask: stopped: 1 record appended, and on"), "{message}");
    assert_eq!(run_to(0, &["log", "cat", &place.log]).0, "entry\none\n");
    let json: serde_json::Value =
        serde_json::from_str(&run_to(0, &["log", "stat", &place.log, "--json"]).0).unwrap();
    assert_eq!(json["clean"], true);
}

/// Who does not hear that all of the input is taken must not take success for that.
#[test]
fn what_is_acknowledged_to_nobody_is_not_done() {
    let place = Place::new();
    let ends = |args: &[&str], line: &str| {
        let mut child = feed(args, line);
        drop(child.stdout.take());
        let mut input = child.stdin.take().unwrap();
        let _ = input.write_all(line.repeat(1000).as_bytes());
        drop(input);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(6));
        text(&output.stderr)
    };
    let message = ends(&["load", &place.store, "-", "--ack", "--batch-bytes", "1"], "key\tvalue\n");
    assert!(message.contains("could not acknowledge"), "{message}");
    let message = ends(&["log", "append", &place.log, "--ack", "--batch-bytes", "1"], "line\n");
    assert!(message.contains("could not acknowledge"), "{message}");
    let lines = run_to(0, &["log", "cat", &place.log]).0.matches("line\n").count();
    assert!(message.contains(&format!("stopped after {lines} records appended")), "{message}");
}

/// The output is a pipe that nobody reads for a while, so the command cannot have ended before.
#[test]
fn an_export_or_scan_that_is_stopped_says_how_far_it_came() {
    let place = Place::new();
    let store = Store::open(&place.store).unwrap();
    for n in 0..20_000 {
        store.put(format!("key {n}"), [b'v'; 100]).unwrap();
    }
    store.close().unwrap();
    for (command, said) in [("export", "the output is incomplete"), ("scan", "printed")] {
        let mut child = tailcask(&[command, &place.store]).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 10]).unwrap();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let reader = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        let output = child.wait_with_output().unwrap();
        reader.join().unwrap().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{message}");
        assert!(message.starts_with("tailcask: stopped: "), "{message}");
        assert!(message.contains(said) && message.contains(" pairs "), "{message}");
    }
}

/// It waits for a value that does not come.
#[test]
fn a_put_is_ended_by_the_signal_itself_and_changes_nothing() {
    let place = Place::new();
    let args = ["put", &place.store, "key", "-"];
    // A shell may have SIGINT ignored by what runs in its background, and this test's children with it.
    let output = stop(tailcask(&args).stdin(Stdio::piped()).spawn().unwrap(), Signal::TERM);
    assert_eq!(output.status.signal(), Some(Signal::TERM.as_raw()));
    assert_eq!(text(&output.stdout) + &text(&output.stderr), "");
    assert_eq!(run_to(0, &["get", &place.store, "key"]).0, "value");
}

// ---- what stat shows of another process ----

#[test]
fn stat_names_the_process_that_writes_and_its_memory() {
    let place = Place::new();
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&run_to(0, &[args, &["--json"]].concat()).0).unwrap()
    };
    let (of_store, of_log) = (["stat", place.store.as_str()], ["log", "stat", place.log.as_str()]);
    assert!(
        json(&of_store)["writer_process"].is_null() && json(&of_log)["writer_process"].is_null()
    );
    let store = Store::open(&place.store).unwrap();
    let log = CommitLog::open(&place.log).unwrap();
    assert_eq!(json(&of_store)["writer_process"], std::process::id());
    assert_eq!(json(&of_log)["writer_process"], std::process::id());
    let memory = &json(&of_store)["writer_memory"];
    let bytes = |name: &str| memory[name].as_u64().unwrap();
    assert!(bytes("anonymous") > 0 && bytes("resident") >= bytes("anonymous"), "{memory}");
    let text = run_to(0, &of_store).0;
    let by = format!("open for writing by process {}", std::process::id());
    for part in [&by, "of its own", "bytes per key", "times the live bytes", "fit into a budget"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    store.close().unwrap();
    log.close().unwrap();
}

#[test]
fn watching_counts_what_another_process_writes_until_it_is_stopped() {
    let place = Place::new();
    let store = Store::open(&place.store).unwrap();
    let args = ["stat", &place.store, "--watch", "50ms", "--json"];
    let mut child = tailcask(&args).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> serde_json::Value {
        serde_json::from_str(&lines.next().expect("it goes on").unwrap()).unwrap()
    };
    assert_eq!((&next()["puts"], &next()["bytes_written"]), (&0.into(), &0.into()));
    let begin = store.log().tail();
    (0..100).for_each(|n| drop(store.put(format!("key {n}"), "value")));
    let mut batch = tailcask::Batch::new();
    batch.put("in a", "batch").delete("key 1");
    store.write(&batch).unwrap();
    assert!(store.delete("key 2").unwrap());
    let end = store.log().tail();
    let (mut puts, mut deletes, mut bytes) = (0, 0, 0);
    while (puts, deletes) != (101, 2) {
        let line = next();
        puts += line["puts"].as_u64().unwrap();
        deletes += line["deletes"].as_u64().unwrap();
        bytes += line["bytes_written"].as_u64().unwrap();
        assert_eq!(line["writer_process"], std::process::id());
        assert!(line["disk_bytes"].as_u64().unwrap() > 0 && line["missed"] == false);
        assert!(puts <= 101 && deletes <= 2, "nothing is counted twice: {puts}, {deletes}");
    }
    assert_eq!(begin.segment(), end.segment());
    assert!(bytes >= u64::from(end.offset() - begin.offset()), "{bytes}: {begin} to {end}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
    store.close().unwrap();
}

// ---- completions and man pages ----

#[test]
fn completions_know_the_commands() {
    for (shell, part) in
        [("bash", "complete -F"), ("zsh", "#compdef tailcask"), ("fish", "complete -c tailcask")]
    {
        let (script, complaint) = run_to(0, &["completions", shell]);
        assert_eq!(complaint, "");
        for word in [part, "backup", "skip-damaged", "key-encoding"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

/// Names of all commands, from the help texts.
fn commands(of: &[&str]) -> Vec<String> {
    let help = run_to(0, &[of, &["--help"]].concat()).0;
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    list.lines().filter_map(first).filter(|name| name != "help").collect()
}

#[test]
fn each_command_has_a_man_page_with_the_exit_codes() {
    let place = Place::new();
    let dir = place.path("share/man1");
    let said = run_to(0, &["man", &dir]).0;
    let page = |name: &str| PathBuf::from(&dir).join(format!("{name}.1"));
    let top = commands(&[]).into_iter().map(|name| format!("tailcask-{name}"));
    let log = commands(&["log"]).into_iter().map(|name| format!("tailcask-log-{name}"));
    let all: Vec<_> = top.chain(log).chain(["tailcask".to_owned()]).collect();
    assert!(all.len() > 20, "{all:?}");
    assert!(said.starts_with(&format!("{} pages written to", all.len())), "{said}");
    for name in &all {
        let text = std::fs::read_to_string(page(name)).expect(name);
        assert!(text.contains(".TH"), "{name}");
        assert!(text.contains("in use by another process"), "{name} has the exit codes");
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), all.len());
    let help = run_to(0, &["--help"]).0;
    for code in ["0  success", "1  the answer is no", "5  the store or log is in use", "130  "] {
        assert!(help.contains(code), "{code}: {help}");
    }
}
