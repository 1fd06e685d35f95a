//! The store's commands, with real files.
#![cfg(feature = "cli")]

mod common;

use common::cli::{run, tailcask, text};
use common::files::paths_with;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

/// A directory to work in, and the name of a store in it that is not made yet.
struct Place {
    dir: tempfile::TempDir,
    store: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store").to_str().unwrap().to_owned();
        Self { dir, store }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Runs a command on the store, which has to succeed.
    fn ok(&self, command: &str, args: &[&str]) -> Vec<u8> {
        let output = self.run(command, args);
        assert!(output.status.success(), "{command} {args:?}: {}", text(&output.stderr));
        output.stdout
    }

    fn run(&self, command: &str, args: &[&str]) -> Output {
        run(&[&[command, &self.store], args].concat(), b"")
    }

    /// Runs a command that has to fail, and gives its message.
    fn fails(&self, code: i32, command: &str, args: &[&str]) -> String {
        let output = self.run(command, args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command} {args:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        message
    }

    fn json(&self, command: &str, args: &[&str]) -> serde_json::Value {
        serde_json::from_slice(&self.ok(command, args)).unwrap()
    }

    /// All pairs, from the JSON that `scan` prints.
    fn pairs(&self) -> BTreeMap<String, String> {
        pairs(&self.store)
    }
}

fn pairs(store: &str) -> BTreeMap<String, String> {
    let lines = text(&run(&["scan", store, "--format", "json"], b"").stdout);
    let pairs = lines.lines().map(|line| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        let part = |name: &str| match &json[name] {
            serde_json::Value::String(part) => part.clone(),
            _ => format!("base64:{}", json[format!("{name}_base64")].as_str().unwrap()),
        };
        (part("key"), part("value"))
    });
    pairs.collect()
}

fn numbered(count: u32, value: &str) -> String {
    (0..count).map(|n| format!("key{n}\t{value} {n}\n")).collect()
}

// ---- load ----

#[test]
fn csv_is_loaded_with_its_quotes() {
    let place = Place::new();
    let csv = "id,name,note\r\n1,\"Smith, John\",\"said \"\"hi\"\"\"\r\n2,\"two\nlines\",\n";
    let file = place.file("people.csv", csv);
    place.ok("load", &[&file, "--key", "id", "--value", "name"]);
    assert_eq!(place.ok("get", &["1"]), b"Smith, John");
    assert_eq!(place.ok("get", &["2"]), b"two\nlines");
    place.ok("load", &[&file, "--key", "1", "--value", "3"]);
    assert_eq!(place.ok("get", &["1"]), b"said \"hi\"");
    assert_eq!(place.ok("get", &["2"]), b"");
    // The whole record is CSV again.
    place.ok("load", &[&file, "--whole-line"]);
    assert_eq!(place.ok("get", &["1"]), br#"1,"Smith, John","said ""hi""""#);
    place.ok("load", &[&file, "--no-header", "--value", "2"]);
    assert_eq!(place.ok("get", &["id"]), b"name");

    let message = place.fails(2, "load", &[&file, "--key", "nr"]);
    assert!(
        message.contains("there is no column \"nr\"; the columns are id, name, note"),
        "{message}"
    );
    let short = place.file("short.csv", "a,b\n1,2\n3\n");
    let message = place.fails(6, "load", &[&short, "--value", "b"]);
    assert!(message.contains("short.csv") && message.contains("line: 3"), "{message}");
    assert!(message.contains("stopped after loading 1 pair"), "{message}");
}

#[test]
fn ndjson_says_which_line_it_cannot_take() {
    let place = Place::new();
    let good = r#"{"id": 12345678901234567890123, "v": "one\ttab", "x": [1, {"y": 2}]}
{"id": "two", "v": 1.50, "x": null}

{"id": true, "v_base64": "/wA="}
"#;
    let file = place.file("good.ndjson", good);
    place.ok("load", &[&file, "--key", "id", "--value", "v"]);
    assert_eq!(place.ok("get", &["12345678901234567890123"]), b"one\ttab");
    assert_eq!(place.ok("get", &["two"]), b"1.50");
    assert_eq!(place.ok("get", &["true"]), b"\xff\0");
    let whole = place.file("whole.jsonl", "{\"key\":\"w\", \"deep\": {\"a\": 1}}\n");
    place.ok("load", &[&whole, "--whole-line"]);
    assert_eq!(place.ok("get", &["w"]), b"{\"key\":\"w\", \"deep\": {\"a\": 1}}");

    for (line, complaint) in [
        (r#"{"id": "a"}"#, "there is no field \"v\""),
        (r#"{"v": "a"}"#, "there is no field \"id\""),
        (r#"{"id": "a", "v": {"deep": 1}}"#, "field \"v\": is an object"),
        (r#"{"id": "a", "v": [1]}"#, "field \"v\": is an array"),
        (r#"{"id": null, "v": 1}"#, "field \"id\": is null"),
        (r#"{"id": "", "v": 1}"#, "a key of 0 bytes"),
        (r#"{"id": "a", "v_base64": "?"}"#, "\"?\" is not base64"),
        (r#"{"id": "a", "#, "not a JSON object"),
        ("[1]", "not a JSON object"),
    ] {
        let input =
            format!("{{\"id\":\"before\",\"v\":1}}\n{line}\n{{\"id\":\"after\",\"v\":1}}\n");
        let file = place.file("bad.ndjson", input);
        let message = place.fails(6, "load", &[&file, "--key", "id", "--value", "v"]);
        assert!(message.contains("line 2: ") && message.contains(complaint), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert_eq!(place.ok("get", &["before"]), b"1");
        place.ok("delete", &["before"]);
        place.fails(1, "get", &["after"]);
    }
    let file = place.file("bad.ndjson", r#"{"key": "a", "value": "b", "until": [1]}"#);
    let message = place.fails(6, "load", &[&file, "--expires", "until"]);
    assert!(message.contains("line 1: field \"until\": is an array"), "{message}");
}

#[test]
fn tsv_has_escapes_names_and_whole_lines() {
    let place = Place::new();
    let file = place.file("a.tsv", b"k\\t1\ta\\nb\\\\c\\r\nk2\t\xfcml\n");
    place.ok("load", &[&file, "--value", "2"]);
    assert_eq!(place.ok("get", &["k\t1"]), b"a\nb\\c\r");
    place.ok("load", &[&file, "--value", "2", "--no-escapes"]);
    assert_eq!(place.ok("get", &["k\\t1"]), b"a\\nb\\\\c\\r");
    place.ok("load", &[&file, "--whole-line"]);
    assert_eq!(place.ok("get", &["k\t1"]), b"k\\t1\ta\\nb\\\\c\\r");

    let named = place.file("named.tsv", "size\tname\n10\tten\n");
    place.ok("load", &[&named, "--header", "--key", "name", "--value", "size"]);
    assert_eq!(place.ok("get", &["ten"]), b"10");
    let message = place.fails(2, "load", &[&named, "--key", "name"]);
    assert!(message.contains("names need --header"), "{message}");
    let message = place.fails(2, "load", &[&named, "--header", "--key", "3"]);
    assert!(message.contains("there is no column \"3\": the header has 2 columns"), "{message}");
    let path = place.file("paths.tsv", "ok\tv\nC:\\users\tv\n");
    let message = place.fails(6, "load", &[&path, "--value", "2"]);
    assert!(message.contains("line 2: ") && message.contains("--no-escapes"), "{message}");
    let message = place.fails(6, "load", &[&path, "--value", "5"]);
    assert!(message.contains("line 1: there is no column 5"), "{message}");
    let message = place.fails(6, "load", &[&place.path("missing.tsv")]);
    assert!(message.contains("missing.tsv: No such file"), "{message}");
    place.fails(6, "load", &[place.dir.path().to_str().unwrap()]);
}

#[test]
fn the_later_of_two_lines_with_one_key_counts() {
    let place = Place::new();
    let lines: String = (0..10_000).map(|n| format!("{}\t{n}\n", n % 7)).collect();
    let file = place.file("twice.tsv", lines);
    for batch in ["1", "64KiB"] {
        place.ok("load", &[&file, "--value", "2", "--batch-bytes", batch]);
        for n in 9993..10_000 {
            assert_eq!(place.ok("get", &[&(n % 7).to_string()]), n.to_string().as_bytes());
        }
    }
    assert_eq!(place.ok("count", &[]), b"7\n");
}

#[test]
fn values_expire() {
    let place = Place::new();
    let file = place.file("some.tsv", numbered(100, "v"));
    place.ok("load", &[&file, "--value", "2", "--ttl", "1ms", "--sync"]);
    place.ok("put", &["long", "lives", "--ttl", "1d"]);
    place.ok("put", &["short", "lives", "--ttl", "1ms"]);
    std::thread::sleep(std::time::Duration::from_millis(5));
    place.fails(1, "get", &["key5"]);
    place.fails(1, "get", &["short"]);
    assert_eq!(place.ok("get", &["long"]), b"lives");
    assert_eq!(place.ok("count", &[]), b"1\n");
    place.fails(2, "put", &["k", "v", "--ttl", "1year"]);
}

#[test]
fn what_a_load_acknowledged_survives_a_kill() {
    let place = Place::new();
    let mut child = tailcask(&["load", &place.store, "-", "--ack", "--batch-bytes", "1000"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        for n in 0.. {
            if writeln!(stdin, "{n}\tline").is_err() {
                return;
            }
        }
    });
    let mut acks = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let last = acks.nth(500).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(acks);
    feeder.join().unwrap();
    let acknowledged: usize = last.strip_prefix("acked ").unwrap().parse().unwrap();
    let pairs = place.pairs();
    assert!(pairs.len() >= acknowledged);
    assert!((0..pairs.len()).all(|n| pairs[&n.to_string()] == "line"));
    place.ok("verify", &[]);
}

// ---- get, put, delete, scan ----

#[test]
fn a_value_comes_from_the_command_line_a_file_or_standard_input() {
    let place = Place::new();
    let bytes: Vec<u8> = (0..=255).collect();
    place.ok("put", &["argument", "a value"]);
    place.ok("put", &["file", "--file", &place.file("bytes", &bytes), "--sync"]);
    let stored = run(&["put", &place.store, "input", "-"], &bytes);
    assert!(stored.status.success(), "{}", text(&stored.stderr));
    assert_eq!(place.ok("get", &["argument"]), b"a value");
    assert_eq!(place.ok("get", &["file"]), bytes);
    assert_eq!(place.ok("get", &["input"]), bytes);

    place.fails(1, "put", &["argument", "another", "--if-absent"]);
    assert_eq!(place.ok("get", &["argument"]), b"a value");
    place.ok("put", &["new", "value", "--if-absent", "--durability", "100ms"]);
    assert_eq!(place.ok("get", &["new"]), b"value");
    place.ok("delete", &["new"]);
    place.fails(1, "delete", &["new"]);
    assert_eq!(place.fails(1, "get", &["new"]), "");
    assert!(place.fails(2, "put", &["", "value"]).contains("a key of 0 bytes"));
    place.fails(2, "put", &["key"]);
    place.fails(2, "put", &["key", "value", "--durability", "sometimes"]);
    let message = place.fails(2, "put", &["key", "value", "--segment-size", "3"]);
    assert!(message.contains("segment_size is 3, but must be"), "{message}");
}

#[test]
fn scan_prints_what_is_asked_for() {
    let place = Place::new();
    place.ok("put", &["a\tb", "line\nline \\"]);
    assert_eq!(place.ok("scan", &[]), b"a\\tb\tline\\nline \\\\\n");
    assert_eq!(place.ok("scan", &["--what", "keys"]), b"a\\tb\n");
    assert_eq!(place.ok("scan", &["--format", "raw"]), b"a\tbline\nline \\");
    assert_eq!(place.ok("scan", &["--format", "raw", "--what", "values"]), b"line\nline \\");
    let json = place.json("scan", &["--format", "json", "--what", "keys"]);
    assert_eq!(json, serde_json::json!({"key": "a\tb"}));
    let file = place.file("some.tsv", numbered(100, "v"));
    place.ok("load", &[&file, "--value", "2"]);
    let lines = |args: &[&str]| text(&place.ok("scan", args)).lines().count();
    assert_eq!(lines(&[]), 101);
    assert_eq!(lines(&["--limit", "7"]), 7);
    assert_eq!(lines(&["--prefix", "key1"]), 11);
    assert_eq!(lines(&["--prefix", "key1", "--limit", "3"]), 3);
}

#[test]
fn a_closed_pipe_ends_scan_and_export_quietly() {
    let place = Place::new();
    let file = place.file("many.tsv", numbered(50_000, "a value of some length"));
    place.ok("load", &[&file, "--value", "2"]);
    for args in [
        &["scan", &place.store][..],
        &["scan", &place.store, "--format", "json"],
        &["export", &place.store],
        &["export", &place.store, "--format", "csv"],
        &["export", &place.store, "--format", "ndjson"],
    ] {
        let mut child = tailcask(args).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}");
        assert_eq!(text(&output.stderr), "", "{args:?}");
    }
}

#[test]
fn nothing_is_made_for_a_store_that_is_not_there() {
    let place = Place::new();
    let dest = place.path("dest");
    for args in [
        &["get", &place.store, "k"][..],
        &["delete", &place.store, "k"],
        &["scan", &place.store],
        &["count", &place.store],
        &["stat", &place.store],
        &["merge", &place.store],
        &["verify", &place.store],
        &["export", &place.store, &dest],
        &["backup", &place.store, &dest],
    ] {
        let output = run(args, b"");
        assert_eq!(output.status.code(), Some(6), "{args:?}");
        let message = text(&output.stderr);
        assert!(message.contains("there is no store in"), "{args:?}: {message}");
        assert!(!Path::new(&place.store).exists() && !Path::new(&dest).exists(), "{args:?}");
    }
}

#[test]
fn writing_commands_say_that_a_store_is_in_use() {
    let place = Place::new();
    let store = tailcask::Store::open(&place.store).unwrap();
    for (command, args) in [("put", &["k", "v"][..]), ("delete", &["k"]), ("merge", &[])] {
        let message = place.fails(5, command, args);
        let writer = format!("is in use by another writer, process {}", std::process::id());
        assert!(message.contains(&writer), "{message}");
    }
    store.close().unwrap();
}

/// Names, sizes and times of the files in a directory.
fn files(dir: &str) -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let about = |entry: std::fs::DirEntry| {
        let data = entry.metadata().unwrap();
        (entry.path(), (data.len(), data.modified().unwrap()))
    };
    entries.map(about).collect()
}

#[test]
fn reading_commands_work_while_a_program_has_the_store_open_and_leave_no_trace() {
    let place = Place::new();
    let store = tailcask::Store::options().maintenance(tailcask::Maintenance::Manual);
    let store = store.open(&place.store).unwrap();
    (0..100).for_each(|n| drop(store.put(format!("key{n}"), format!("value {n}"))));
    let look = |keys: usize| {
        let before = files(&place.store);
        assert_eq!(place.ok("get", &["key7"]), b"value 7");
        assert_eq!(place.ok("count", &[]), format!("{keys}\n").into_bytes());
        assert_eq!(place.pairs().len(), keys);
        assert_eq!(place.json("stat", &["--json"])["keys"], keys);
        assert!(text(&place.ok("verify", &[])).starts_with("sound: "));
        assert_eq!(text(&place.ok("export", &[])).lines().count(), keys);
        assert_eq!(files(&place.store), before);
        let dest = place.path("backup");
        place.ok("backup", &[&dest]);
        assert_eq!(files(&place.store), before);
        assert_eq!(pairs(&dest).len(), keys);
        let before = files(&dest);
        assert!(run(&["verify", &dest], b"").status.success());
        assert_eq!(run(&["count", &dest], b"").stdout, format!("{keys}\n").into_bytes());
        assert_eq!(files(&dest), before);
        std::fs::remove_dir_all(dest).unwrap();
    };
    look(100);
    assert!(text(&place.ok("stat", &[])).contains("open for writing"));
    store.put("another", "one").unwrap();
    look(101);
    store.close().unwrap();
    look(101);
    assert!(!text(&place.ok("stat", &[])).contains("open for writing"));
}

#[test]
fn a_store_without_its_manifest_is_not_said_to_be_no_store() {
    let place = Place::new();
    place.ok("put", &["key", "value"]);
    std::fs::remove_file(Path::new(&place.store).join("MANIFEST")).unwrap();
    for (command, args) in [
        ("get", &["key"][..]),
        ("stat", &[]),
        ("verify", &[]),
        ("merge", &[]),
        ("delete", &["key"]),
    ] {
        let message = place.fails(3, command, args);
        assert!(message.contains("MANIFEST is unusable: it is missing"), "{command}: {message}");
    }
}

#[test]
fn a_store_of_another_user_is_a_matter_of_permission() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    place.ok("put", &["key", "value"]);
    std::fs::set_permissions(place.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for args in
        [&["get", &place.store, "key"][..], &["stat", &place.store], &["merge", &place.store]]
    {
        let output = match tailcask(args).uid(65534).gid(65534).output() {
            Ok(output) => output,
            Err(error) => return eprintln!("skipped: cannot become another user: {error}"),
        };
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{args:?}: {message}");
        assert!(message.contains("Permission denied"), "{args:?}: {message}");
        assert!(!message.contains("there is no store"), "{args:?}: {message}");
    }
}

// ---- export ----

#[test]
fn an_export_is_the_same_in_a_file_and_on_standard_output() {
    let place = Place::new();
    place.ok("put", &["key", "value"]);
    for format in ["tsv", "csv", "ndjson"] {
        let file = place.path(&format!("all.{format}"));
        place.ok("export", &[&file]);
        assert_eq!(place.ok("export", &["--format", format]), std::fs::read(file).unwrap());
    }
}

// ---- stat, merge, verify, backup ----

#[test]
fn merge_gives_space_back_and_stat_shows_it() {
    let place = Place::new();
    let file = place.file("many.tsv", numbered(30_000, &"a long value ".repeat(10)));
    // A third: not so much that the store merges by itself.
    let third: String = (0..30_000).step_by(3).map(|n| format!("key{n}\tnew {n}\n")).collect();
    for file in [file, place.file("third.tsv", third)] {
        place.ok("load", &[&file, "--value", "2", "--segment-size", "2MiB"]);
    }
    let before = place.json("stat", &["--json"]);
    assert_eq!(before["keys"], 30_000);
    assert!(before["dead_ratio"].as_f64().unwrap() > 0.1, "{before}");
    assert!(before["recovery"]["clean"].as_bool().unwrap());
    let merged = place.json("merge", &["--json"]);
    assert!(merged["bytes_reclaimed"].as_u64().unwrap() > 1 << 20, "{merged}");
    assert!(merged["sealed_bytes_before"].as_u64() > merged["sealed_bytes_after"].as_u64());
    let after = place.json("stat", &["--json"]);
    assert!(after["dead_bytes"].as_u64().unwrap() < 1 << 16, "{after}");
    assert_eq!(after["keys"], 30_000);
    assert!(after["segments"].as_array().unwrap().iter().any(|s| s["merged"] == true));
    assert_eq!(place.ok("get", &["key777"]), b"new 777");
    assert!(place.ok("get", &["key778"]).starts_with(b"a long value"));
    assert!(text(&place.ok("verify", &[])).starts_with("sound: 30,000 keys"));
    assert_eq!(place.ok("merge", &[]), b"nothing to merge\n");
    assert_eq!(place.ok("merge", &["--only-if-needed"]), b"nothing to merge\n");

    let table = text(&place.ok("stat", &["--segments"]));
    for word in ["keys", "30,000", "live", "dead", "keydir", "disk", "tail", "clean", "merged"] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn merge_if_needed_does_what_the_store_would() {
    let place = Place::new();
    let file = place.file("many.tsv", numbered(60_000, "a value of some length"));
    place.ok("load", &[&file, "--value", "2", "--segment-size", "2MiB"]);
    let most: String =
        (0..60_000).filter(|n| n % 10 != 0).map(|n| format!("key{n}\tx\n")).collect();
    let most = place.file("most.tsv", most);
    let args = [&most, "--value", "2", "--segment-size", "2MiB"];
    place.ok("load", &args);
    let args = ["--only-if-needed", "--segment-size", "2MiB"];
    place.ok("merge", &args);
    assert_eq!(place.ok("merge", &args), b"nothing to merge\n");
    assert_eq!(place.ok("count", &[]), b"60000\n");
}

#[test]
fn verify_names_the_place_of_a_flipped_byte() {
    let place = Place::new();
    place.ok("load", &[&place.file("some.tsv", numbered(1000, "a value")), "--value", "2"]);
    let backup = place.path("backup");
    place.ok("backup", &[&backup]);
    let file = &paths_with(Path::new(&place.store), "seg")[0];
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes.windows(11).position(|bytes| bytes == b"a value 500").unwrap();
    bytes[at] ^= 1;
    // The backup's other name for the file stands for it, too.
    std::fs::write(file, bytes).unwrap();
    for store in [&place.store, &backup] {
        let output = run(&["verify", store], b"");
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{message}");
        let id: u32 = file.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let place = format!("segment {id} is damaged at offset ");
        let offset = message.split(&place).nth(1).expect(&message);
        let offset: usize = offset.split(':').next().unwrap().parse().unwrap();
        // The frame, or the batch that it is in.
        assert!(offset < at && at - offset < 80 << 10, "{offset}, {at}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    place.fails(3, "get", &["key500"]);
    assert_eq!(place.ok("get", &["key501"]), b"a value 501");
    // What is sound comes before the error does.
    let output = place.run("scan", &[]);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_missing_segment_is_damage() {
    let place = Place::new();
    place.ok("put", &["k", "v"]);
    place.ok("put", &["k", "w"]);
    std::fs::remove_file(&paths_with(Path::new(&place.store), "seg")[0]).unwrap();
    let message = place.fails(3, "verify", &[]);
    assert!(message.contains("segment 1 is missing"), "{message}");
}

#[test]
fn a_backup_opens_and_stands_still() {
    let place = Place::new();
    place.ok("load", &[&place.file("some.tsv", numbered(1000, "old")), "--value", "2"]);
    let backup = place.path("backup");
    let report = place.json("backup", &[&backup, "--json"]);
    assert_eq!(report["keys"], 1000);
    assert_eq!(report["copied"], 0);
    let position: tailcask::LogPosition = report["position"].as_str().unwrap().parse().unwrap();
    assert!(position > tailcask::LogPosition::START);
    place.ok("load", &[&place.file("some.tsv", numbered(2000, "new")), "--value", "2"]);
    place.ok("merge", &[]);
    assert!(text(&run(&["verify", &backup], b"").stdout).starts_with("sound: 1,000 keys"));
    assert_eq!(run(&["get", &backup, "key7"], b"").stdout, b"old 7");
    assert_eq!(place.ok("get", &["key7"]), b"new 7");
    let message = place.fails(6, "backup", &[&backup]);
    assert!(message.contains("already exists"), "{message}");
    let message = place.fails(6, "backup", &[&place.path("no/such")]);
    assert!(message.contains("No such file"), "the cause is told: {message}");
    let human = text(&place.ok("backup", &[&place.path("second")]));
    assert!(human.contains("everything before ") && human.contains("linked"), "{human}");
}
