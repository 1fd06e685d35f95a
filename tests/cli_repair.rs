//! Repair at the shell: what `repair` makes and says, damage that is given up in place, and exports that
//! leave damage out.
#![cfg(feature = "cli")]

mod common;

use common::cli::{run_to as run, tailcask};
use common::files::{change, names};
use common::{HANG, segment, small_log, small_store};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tailcask::{CommitLog, LogOptions, LogPosition, Maintenance, Store, StoreOptions};

fn options() -> StoreOptions {
    small_store(4096)
}

fn log_options() -> LogOptions {
    small_log(4096)
}

/// A closed store with hints: an overwritten key, a deleted one, one whose key is no text.
struct Place {
    dir: tempfile::TempDir,
    store: String,
    new: String,
    at: BTreeMap<&'static str, LogPosition>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (path, new) = (name("store"), name("new"));
        let mut at = BTreeMap::new();
        let store = options().open(&path).unwrap();
        at.insert("older", store.put("key", "older").unwrap());
        at.insert("gone older", store.put("gone", "alive").unwrap());
        store.roll().unwrap();
        at.insert("newest", store.put("key", "newest").unwrap());
        at.insert("gone", store.log().tail());
        store.delete("gone").unwrap();
        at.insert("binary", store.put(b"\xff\0", "binary").unwrap());
        store.put("other", "sound").unwrap();
        store.roll().unwrap();
        store.put("last", "one").unwrap();
        store.maintain().unwrap();
        store.close().unwrap();
        Self { dir, store: path, new, at }
    }

    fn segment(&self, id: u32) -> PathBuf {
        Path::new(&self.store).join(segment(id))
    }

    fn damage(&self, name: &str, byte: usize) {
        let at = self.at[name];
        let path = self.segment(at.segment());
        change(&path, |bytes| bytes[at.offset() as usize + byte] ^= 0x10);
    }

    fn value(&self, name: &str) {
        self.damage(name, 16 + 8);
    }

    /// All files with their contents, below the directory of the store.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files(Path::new(&self.store))
    }

    fn names(&self) -> Vec<String> {
        names(self.dir.path())
    }
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

// ---- repair ----

#[test]
fn repair_makes_a_good_store_and_lists_what_is_lost() {
    let place = Place::new();
    place.value("newest");
    place.damage("gone", 16);
    fs::remove_file(Path::new(&place.store).join("LOCK")).unwrap();
    let before = place.files();
    let (out, complaint) = run(3, &["repair", &place.store, &place.new]);
    assert_eq!(place.files(), before, "the damaged one is as it was");
    assert_eq!(complaint, "");
    let (newest, older) = (place.at["newest"], place.at["older"]);
    assert!(out.starts_with(&format!("repaired store written to {}\n", place.new)), "{out}");
    assert!(out.contains(&format!("damaged places: 1\n  {newest}, 56 bytes: checksum")), "{out}");
    let value =
        format!("  {newest}: the value of \"key\"; 32 bytes; the value at {older} came back");
    assert!(out.contains(&format!("lost: 2\n{value}\n")), "{out}");
    let (gone, older) = (place.at["gone"], place.at["gone older"]);
    let tombstone = format!("  {gone}: the tombstone of \"gone\"; 24 bytes; the value at {older}");
    assert!(out.contains(&tombstone), "{out}");
    assert!(out.contains("seg.damaged"), "{out}");
    assert!(run(0, &["verify", &place.new]).0.starts_with("sound: 5 keys"), "{out}");
    assert_eq!(run(0, &["get", &place.new, "key"]).0, "older");
    assert_eq!(run(0, &["get", &place.new, "other"]).0, "sound");
    run(0, &["merge", &place.new]);
    run(0, &["verify", &place.new]);
    assert_eq!(place.names(), ["new", "store"]);
}

#[test]
fn repair_is_done_when_nothing_is_lost() {
    let place = Place::new();
    let (out, _) = run(0, &["repair", &place.store, &place.new]);
    assert!(out.contains("\nnothing is lost\n") && !out.contains("damaged"), "{out}");
    // Overwritten: not lost.
    place.value("older");
    let other = format!("{}2", place.new);
    let (out, _) = run(0, &["repair", &place.store, &other]);
    assert!(out.contains("nothing is lost") && out.contains("damaged places: 1\n"), "{out}");
    for new in [&place.new, &other] {
        assert_eq!(run(0, &["get", new, "key"]).0, "newest");
        assert_eq!(run(0, &["count", new]).0, "4\n");
    }
}

#[test]
fn json_lists_the_same_with_keys_that_are_no_text() {
    let place = Place::new();
    place.value("binary");
    place.value("newest");
    let (out, _) = run(3, &["repair", &place.store, &place.new, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json["kind"], &json["nothing_is_lost"]), (&"store".into(), &false.into()));
    assert_eq!(json["damaged"].as_array().unwrap().len(), 2);
    assert_eq!(json["damaged"][0]["length"], 32);
    let (newest, binary) = (&json["lost"][0], &json["lost"][1]);
    assert_eq!((&newest["key"], &newest["kind"]), (&"key".into(), &"value".into()));
    assert_eq!(newest["came_back"], place.at["older"].to_string());
    assert_eq!(newest["position"], place.at["newest"].to_string());
    assert_eq!((&binary["key_base64"], &binary["certain"]), (&"/wA=".into(), &true.into()));
    assert!(binary["came_back"].is_null());
    let (out, _) = run(3, &["repair", &place.store, &format!("{}2", place.new)]);
    assert!(out.contains("the value of \"\\xff\\x00\"; 32 bytes\n"), "{out}");
}

#[test]
fn repair_refuses_what_it_must_not_do_and_leaves_nothing_behind() {
    let place = Place::new();
    let before = place.files();
    fs::create_dir(&place.new).unwrap();
    let (_, complaint) = run(6, &["repair", &place.store, &place.new]);
    assert!(complaint.contains("already exists"), "{complaint}");
    fs::remove_dir(&place.new).unwrap();
    let inside = format!("{}/inside", place.store);
    let (_, complaint) = run(6, &["repair", &place.store, &inside]);
    assert!(complaint.contains("is inside the store"), "{complaint}");
    let (_, complaint) = run(6, &["repair", &format!("{}x", place.store), &place.new]);
    assert!(complaint.contains("there is no log in"), "{complaint}");
    let store = options().open(&place.store).unwrap();
    let (_, complaint) = run(5, &["repair", &place.store, &place.new]);
    assert!(complaint.contains("is in use by another writer"), "{complaint}");
    store.close().unwrap();
    assert_eq!(place.names(), ["store"]);
    drop(before);

    // Not a file: the copy fails when others are there already.
    let last = place.segment(99);
    fs::create_dir(&last).unwrap();
    let (_, complaint) = run(6, &["repair", &place.store, &place.new]);
    assert!(complaint.contains("could not copy"), "{complaint}");
    assert_eq!(place.names(), ["store"], "nothing is left that could be opened");
    fs::remove_dir(&last).unwrap();
    run(0, &["repair", &place.store, &place.new]);
}

#[test]
fn what_a_repair_was_making_when_it_was_killed_does_not_open() {
    let place = Place::new();
    // As it is before the MANIFEST is copied.
    fs::write(Path::new(&place.store).join("MANIFEST"), b"a repair was not finished here\n")
        .unwrap();
    let (_, complaint) = run(3, &["get", &place.store, "key"]);
    assert!(complaint.contains("MANIFEST"), "{complaint}");
    assert!(options().open(&place.store).is_err());
}

#[test]
fn a_log_is_repaired_by_the_same_command() {
    let dir = tempfile::tempdir().unwrap();
    let name = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (path, new) = (name("log"), name("new"));
    let log = log_options().open(&path).unwrap();
    let all: Vec<_> =
        (0..300).map(|n| log.append(format!("entry {n}").as_bytes()).unwrap()).collect();
    log.close().unwrap();
    let at = all[5];
    let file = Path::new(&path).join(segment(at.segment()));
    change(&file, |bytes| bytes[at.offset() as usize + 17] ^= 1);
    let (out, _) = run(3, &["repair", &path, &new]);
    assert!(out.starts_with("repaired log written to"), "{out}");
    assert!(out.contains(&format!("lost: 1\n  {at}: an entry; 24 bytes\n")), "{out}");
    assert_eq!(run(0, &["log", "cat", &new]).0.lines().count(), 299);
    run(0, &["log", "verify", &new]);
    // Also where nothing but the frames says that it is one.
    fs::remove_file(Path::new(&path).join("MANIFEST")).unwrap();
    let (out, _) = run(3, &["repair", &path, &name("another"), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json["kind"], &json["lost"][0]["kind"]), (&"log".into(), &"entry".into()));
    assert_eq!(run(0, &["log", "cat", &name("another")]).0.lines().count(), 299);
}

#[test]
fn without_a_manifest_a_store_is_repaired_as_one() {
    let place = Place::new();
    fs::remove_file(Path::new(&place.store).join("MANIFEST")).unwrap();
    let (out, _) = run(0, &["repair", &place.store, &place.new]);
    assert!(out.starts_with("repaired store"), "{out}");
    assert_eq!(run(0, &["get", &place.new, "key"]).0, "newest");
    assert_eq!(run(0, &["count", &place.new]).0, "4\n");
}

// ---- damage given up in place ----

#[test]
fn a_damaged_value_is_deleted_or_set_by_force() {
    for by_put in [false, true] {
        let place = Place::new();
        place.value("newest");
        let (_, complaint) = run(3, &["verify", &place.store]);
        assert!(complaint.contains("is damaged"), "{complaint}");
        run(3, &["get", &place.store, "key"]);
        run(3, &["delete", &place.store, "key"]);
        if by_put {
            run(0, &["put", &place.store, "key", "again", "--force"]);
            assert_eq!(run(0, &["get", &place.store, "key"]).0, "again");
        } else {
            run(0, &["delete", &place.store, "key", "--force"]);
            run(1, &["get", &place.store, "key"]);
            run(1, &["delete", &place.store, "key", "--force"]);
        }
        run(0, &["verify", &place.store]);
        run(0, &["merge", &place.store]);
        run(0, &["verify", &place.store]);
        assert_eq!(run(0, &["get", &place.store, "other"]).0, "sound");
    }
}

/// A value is given up for another one only, and whether anybody hears of it or not.
#[test]
fn a_damaged_value_is_given_up_for_a_value_that_is_put() {
    let place = Place::new();
    place.value("newest");
    let (_, complaint) = run(2, &["put", &place.store, "key", "again", "--force", "--ttl", "0s"]);
    assert!(complaint.contains("cannot expire before it is written"), "{complaint}");
    run(3, &["get", &place.store, "key"]);
    let mut command = tailcask(&["put", &place.store, "key", "again", "--force"]);
    let (unread, stderr) = std::io::pipe().unwrap();
    drop(unread);
    assert!(command.stderr(stderr).status().unwrap().success());
    assert_eq!(run(0, &["get", &place.store, "key"]).0, "again");
}

#[test]
fn force_changes_nothing_where_nothing_is_damaged() {
    let place = Place::new();
    run(0, &["put", &place.store, "key", "forced", "--force"]);
    assert_eq!(run(0, &["get", &place.store, "key"]).0, "forced");
    run(0, &["delete", &place.store, "key", "--force"]);
    run(1, &["delete", &place.store, "never", "--force"]);
    run(1, &["get", &place.store, "key"]);
}

// ---- going on past damage ----

#[test]
fn export_and_scan_go_on_past_damage_and_say_so() {
    let place = Place::new();
    place.value("newest");
    place.damage("gone", 16);
    let newest = place.at["newest"];
    for command in ["export", "scan"] {
        run(3, &[command, &place.store]);
        let (out, complaint) = run(4, &[command, &place.store, "--skip-damaged"]);
        let mut lines: Vec<_> = out.lines().collect();
        lines.sort_unstable();
        // Neither the older value nor what was deleted is taken for what should be there.
        assert_eq!(lines.len(), 3, "{out}");
        assert_eq!(lines[..2], ["last\tone", "other\tsound"], "{out}");
        assert!(complaint.contains("damaged, and left out: 2\n"), "{complaint}");
        assert!(complaint.contains(&format!("  {newest}: the value of \"key\"; 32 bytes")));
        assert!(complaint.contains("the tombstone of \"gone\""), "{complaint}");
    }
    let file = place.dir.path().join("out.csv");
    let (_, complaint) = run(3, &["export", &place.store, file.to_str().unwrap()]);
    assert!(!complaint.contains("out.csv"), "it is the store that is damaged: {complaint}");
    run(4, &["export", &place.store, file.to_str().unwrap(), "--skip-damaged"]);
    assert_eq!(fs::read(file).unwrap().split(|&b| b == b'\n').count(), 5);
    assert_eq!(
        run(4, &["scan", &place.store, "--limit", "1", "--skip-damaged"]).0.lines().count(),
        1
    );

    let sound = Place::new();
    for command in ["export", "scan"] {
        let (out, complaint) = run(0, &[command, &sound.store, "--skip-damaged"]);
        assert_eq!((out.lines().count(), &*complaint), (4, ""));
    }
    fs::remove_file(Path::new(&sound.store).join("MANIFEST")).unwrap();
    let before = sound.files();
    assert_eq!(run(0, &["export", &sound.store, "--skip-damaged"]).0.lines().count(), 4);
    assert_eq!(sound.files(), before);
}

#[test]
fn beside_a_writer_damage_is_left_out_too() {
    let place = Place::new();
    place.value("newest");
    let store = options().open(&place.store).unwrap();
    let (out, complaint) = run(4, &["scan", &place.store, "--skip-damaged"]);
    assert_eq!(out.lines().count(), 3, "{out}");
    assert!(complaint.contains("left out: 1\n"), "{complaint}");
    store.close().unwrap();
}

// ---- linear time ----

/// Copies of sound frames, each as long as there is room, or short.
fn frames_in(len: usize, long: bool) -> Vec<u8> {
    let mut bytes = vec![0u8; len];
    let step = if long { 16 } else { 32 };
    for at in (0..len - 32).step_by(step) {
        let body = if long { len - at - 16 } else { 16 };
        let word = 0x1234_5678_0000_0000u64 | (body as u64 + 16) & !7 | 2;
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&(1 | (body as u64) << 32).to_le_bytes());
    }
    bytes
}

/// 64 MiB of frames inside a value: salvage looks for the next sound frame in all of it.
#[test]
fn damage_in_a_value_full_of_frames_takes_linear_time() {
    for long in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let name = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let value = frames_in(64 << 20, long);
        let store = Store::options().maintenance(Maintenance::Manual).open(name("store")).unwrap();
        store.put("before", "sound").unwrap();
        let at = store.put("large", &value).unwrap();
        store.put("after", "sound").unwrap();
        store.close().unwrap();
        let log = CommitLog::options().maintenance(Maintenance::Manual).open(name("log")).unwrap();
        log.append(b"before").unwrap();
        let entry = log.append(&value).unwrap();
        log.append(b"after").unwrap();
        log.close().unwrap();
        for (from, at) in [("store", at), ("log", entry)] {
            let path = dir.path().join(from).join(segment(at.segment()));
            let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            // The length and the checksum are gone with it.
            std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 12], at.offset().into())
                .unwrap();
            let started = Instant::now();
            let (out, _) = run(3, &["repair", &name(from), &name(&format!("new {from}"))]);
            assert!(started.elapsed() < HANG, "{:?}", started.elapsed());
            assert!(out.contains("lost: 1\n"), "{out}");
        }
        assert_eq!(run(0, &["get", &name("new store"), "after"]).0, "sound");
        assert_eq!(run(0, &["count", &name("new store")]).0, "2\n");
        assert_eq!(run(0, &["log", "cat", &name("new log")]).0, "before\nafter\n");
    }
}

/// What opening set aside is no secret: `stat` lists it, also later.
#[test]
fn stat_lists_what_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    store.put("key", "value").unwrap();
    store.close().unwrap();
    // An empty file that does not belong to the closed store.
    fs::write(path.join("00000000000000000077.seg"), vec![0; 4096]).unwrap();
    options().open(&path).unwrap().close().unwrap();
    let dir = path.to_str().unwrap();
    let (out, _) = run(0, &["stat", dir]);
    assert!(out.contains("set-aside/00000000000000000077.seg"), "{out}");
    let (out, _) = run(0, &["stat", dir, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["set_aside"][0]["name"], "00000000000000000077.seg");
    let (out, _) = run(0, &["log", "stat", dir]);
    assert!(out.contains("set aside    00000000000000000077.seg"), "{out}");
}
