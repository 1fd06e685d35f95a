//! Whose directories are opened, who keeps whom out of them, and what a process may do to itself
//! meanwhile.
#![cfg(target_os = "linux")]

mod common;

use common::children::{self, ARGUMENTS, prepare};
use common::files::{mode, paths as files};
use common::{HANG, count};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tailcask::{CommitLog, LogOptions, Maintenance, OpenError, Store};

const NOBODY: u32 = 65534;
const GROUP: u32 = 54321;

fn options() -> LogOptions {
    CommitLog::options().segment_size(2 << 20)
}

/// Runs a role in a process of its own.
fn run(role: &str, place: &Path, change: impl FnOnce(&mut Command) -> &mut Command) -> Output {
    change(children::command(role, place).stdout(Stdio::piped())).output().unwrap()
}

fn check(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("child: done"), "{said}\n{out}");
}

#[test]
#[ignore = "the other process of the tests below"]
fn child() {
    let Some((role, place)) = children::role() else { return };
    let place = &place;
    match &role[..] {
        "wanderer" => wander(place),
        "threadless" => without_threads(place),
        "stranger" => be_refused(place),
        "limited" => be_limited(place),
        "member" => take_turn(place),
        other => panic!("there is no role {other}"),
    }
    children::say("done");
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root may give files away");
    }
    root
}

/// A log that was closed, with a file of each kind in it.
fn closed_log(dir: &Path) -> PathBuf {
    let path = dir.join("log");
    let log = options().open(&path).unwrap();
    log.append(b"one").unwrap();
    log.close().unwrap();
    path
}

#[test]
fn a_second_writer_is_kept_out_also_where_lock_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    log.append(b"one").unwrap();
    fs::remove_file(path.join("LOCK")).unwrap();
    assert!(matches!(options().open(&path), Err(OpenError::Locked { .. })));
    fs::write(path.join("LOCK"), b"").unwrap();
    mode(&path.join("LOCK"), 0o600);
    assert!(matches!(options().open(&path), Err(OpenError::Locked { .. })));
    let moved = dir.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    assert!(matches!(options().open(&moved), Err(OpenError::Locked { .. })));
    log.append(b"two").unwrap();
    log.close().unwrap();
    let log = options().open(&moved).unwrap();
    assert_eq!(count(&log), 2);
    assert!(log.recovery().is_clean());
}

#[test]
fn opening_for_reading_makes_nothing_and_needs_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed_log(dir.path());
    fs::remove_file(path.join("LOCK")).unwrap();
    mode(&path, 0o500);
    let before = files(&path);
    let log = options().open_read_only(&path).unwrap();
    assert_eq!(&*log.reader().next_entry().unwrap().unwrap(), b"one");
    drop(log);
    assert_eq!(files(&path), before);
    mode(&path, 0o700);
}

#[test]
fn a_file_that_others_may_write_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed_log(dir.path());
    // Files that are only space are not checked before they are used, and then not used.
    let is_space = |file: &Path| ["RESERVE", "MANIFEST.spare"].iter().any(|n| file.ends_with(n));
    for file in files(&path).into_iter().filter(|file| !is_space(file)) {
        for bits in [0o620, 0o602, 0o666] {
            mode(&file, bits);
            match options().open(&path) {
                Err(OpenError::NotPrivate { path, mode }) => {
                    assert_eq!((path, mode), (file.clone(), bits));
                }
                other => panic!("{}: {other:?}", file.display()),
            }
        }
        // Others may read.
        mode(&file, 0o644);
        options().open(&path).unwrap().close().unwrap();
        mode(&file, 0o600);
    }
}

#[test]
fn what_belongs_to_another_user_is_refused() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = closed_log(dir.path());
    let refused = |file: &Path| match options().open(&path) {
        Err(OpenError::NotOwned { path, owner: NOBODY, user: 0 }) => assert_eq!(path, *file),
        other => panic!("{}: {other:?}", file.display()),
    };
    let is_space = |file: &Path| ["RESERVE", "MANIFEST.spare"].iter().any(|n| file.ends_with(n));
    for file in files(&path).iter().filter(|file| !is_space(file)).chain([&path]) {
        chown(file, Some(NOBODY), None).unwrap();
        refused(file);
        options().shared_directory(true).open(&path).unwrap().close().unwrap();
        chown(file, Some(0), None).unwrap();
        // What it wrote the group may write to.
        files(&path).iter().for_each(|file| mode(file, 0o600));
    }
    // Files of root are as safe as one's own, but there is one that root may not write to.
    mode(dir.path(), 0o711);
    for file in files(&path).iter().chain([&path]) {
        chown(file, Some(NOBODY - 1), None).unwrap();
        mode(file, if *file == path { 0o755 } else { 0o644 });
    }
    check(&run("stranger", &path, |command| command.uid(NOBODY).gid(NOBODY)));
}

fn be_refused(path: &Path) {
    let read = options().open_read_only(path);
    assert!(matches!(read, Err(OpenError::NotOwned { user: NOBODY, .. })), "{read:?}");
}

#[test]
fn a_directory_that_a_group_shares_is_opened_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared");
    fs::create_dir(&path).unwrap();
    mode(&path, 0o2775);
    let refused = Store::open(&path);
    assert!(matches!(refused, Err(OpenError::NotPrivate { mode: 0o2775, .. })));
    let options = Store::options().shared_directory(true);
    let store = options.open(&path).unwrap();
    store.put("a", "b").unwrap();
    store.close().unwrap();
    for file in files(&path) {
        let mode = fs::metadata(&file).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o660, "{}", file.display());
    }
    assert!(matches!(Store::open(&path), Err(OpenError::NotPrivate { .. })));
    assert_eq!(&*options.open(&path).unwrap().get("a").unwrap().unwrap(), b"b");
    // What anybody may write to is too much.
    mode(&path.join("MANIFEST"), 0o666);
    assert!(matches!(options.open(&path), Err(OpenError::NotPrivate { mode: 0o666, .. })));
    mode(&path.join("MANIFEST"), 0o660);
    mode(&path, 0o2777);
    assert!(matches!(options.open(&path), Err(OpenError::NotPrivate { mode: 0o2777, .. })));
}

/// A volume of a group, on which its members have an umask that would keep the others out.
#[test]
fn the_members_of_a_group_take_turns_on_what_they_share() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    mode(dir.path(), 0o711);
    let volume = dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    chown(&volume, Some(0), Some(GROUP)).unwrap();
    mode(&volume, 0o2775);
    for (turn, member) in [(0, NOBODY), (1, NOBODY - 1), (2, NOBODY), (3, NOBODY - 1)] {
        let place = volume.join("store");
        let turn = ("TAILCASK_TURN", turn.to_string());
        let output =
            run("member", &place, |command| command.env(turn.0, turn.1).uid(member).gid(GROUP));
        check(&output);
    }
    let store = volume.join("store");
    for file in files(&store).into_iter().chain([store]) {
        let found = fs::metadata(&file).unwrap();
        let wanted = if found.is_dir() { 0o2770 } else { 0o660 };
        assert_eq!(found.mode() & 0o7777, wanted, "{}", file.display());
        assert_eq!(found.gid(), GROUP, "{}", file.display());
    }
}

/// Each turn overwrites, deletes and merges what the others wrote, and dies or closes.
fn take_turn(place: &Path) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let turn: u8 = std::env::var("TAILCASK_TURN").unwrap().parse().unwrap();
    let options = Store::options().segment_size(2 << 20).shared_directory(true);
    let options = options.maintenance(Maintenance::Manual).create_new(turn == 0);
    let store = options.open(place).unwrap();
    assert_eq!(store.len(), u64::from(turn));
    for n in 0..=turn {
        let old = store.get([n]).unwrap().map(|value| value[0]);
        assert_eq!(old, n.lt(&turn).then(|| turn - 1));
        store.put([n], vec![turn; 1 << 20]).unwrap();
    }
    store.merge().unwrap();
    if turn == 1 {
        // The next one has to recover what another user left.
        return store.abort();
    }
    store.close().unwrap();
    if turn == 2 {
        // And to set aside what is no segment.
        let closed = options.create_new(false);
        fs::write(place.join("00000000000000000999.seg"), vec![0; 4096]).unwrap();
        mode(&place.join("00000000000000000999.seg"), 0o660);
        let store = closed.open(place).unwrap();
        assert_eq!(store.recovery().set_aside.len(), 1);
        store.close().unwrap();
    }
}

#[test]
fn a_pipe_in_the_place_of_the_directory_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::RUSR, 0).unwrap();
    for opened in [options().open(&path), options().open_read_only(&path)] {
        assert!(matches!(opened, Err(OpenError::NotRegular { expected: "directory", .. })));
    }
}

#[test]
fn a_log_opened_by_a_relative_path_goes_on_after_a_change_of_directory() {
    let dir = tempfile::tempdir().unwrap();
    check(&run("wanderer", dir.path(), |command| command));
}

fn wander(place: &Path) {
    std::env::set_current_dir(place).unwrap();
    let log = options().maintenance(Maintenance::Manual).open("log").unwrap();
    log.append(b"one").unwrap();
    let follower = options().open_read_only("log").unwrap();
    std::env::set_current_dir("/").unwrap();
    let mut reader = follower.reader();
    assert_eq!(&*reader.next_entry().unwrap().unwrap(), b"one");
    // Into segments that the follower has to find.
    for _ in 0..3 {
        log.append(&vec![1; 1 << 20]).unwrap();
        log.append(&vec![2; 1 << 20]).unwrap();
    }
    for _ in 0..6 {
        let entry = reader.wait_entry(HANG).unwrap();
        assert_eq!(entry.expect("it was appended").len(), 1 << 20);
    }
    fs::rename(place.join("log"), place.join("moved")).unwrap();
    log.append(b"moved").unwrap();
    assert_eq!(&*reader.wait_entry(HANG).unwrap().unwrap(), b"moved");
    log.close().unwrap();
    assert!(options().open(place.join("moved")).unwrap().recovery().is_clean());
}

#[test]
fn sealed_segments_are_mapped_read_only_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("log");
    let log = options().open(&path).unwrap();
    for _ in 0..5 {
        log.append(&vec![1; 1 << 20]).unwrap();
    }
    log.close().unwrap();
    let log = options().maintenance(Maintenance::Manual).open(&path).unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let ours = maps.lines().filter(|map| map.contains(path.to_str().unwrap()));
    let (writable, sealed): (Vec<_>, Vec<_>) = ours.partition(|map| map.contains(" rw-s "));
    assert_eq!(writable.len(), 1, "the active one: {maps}");
    assert!(sealed.len() >= 3, "{maps}");
    log.append(b"more").unwrap();
}

#[test]
fn a_store_opens_where_no_thread_can_be_made() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::options().segment_size(2 << 20).open(&path).unwrap();
    for n in 0..9 {
        store.put(format!("{n}"), vec![n; 1 << 20]).unwrap();
    }
    store.close().unwrap();
    mode(dir.path(), 0o711);
    for file in files(&path).iter().chain([&path]) {
        chown(file, Some(NOBODY - 7), Some(NOBODY)).unwrap();
    }
    // A user of its own: it may be running other processes.
    check(&run("threadless", &path, |command| command.uid(NOBODY - 7).gid(NOBODY)));
}

fn without_threads(path: &Path) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Nproc, none).unwrap();
    let spawned = std::thread::Builder::new().spawn(|| ());
    assert!(spawned.is_err(), "the limit does not work");
    match Store::open(path) {
        Err(OpenError::Io { operation, .. }) => assert_eq!(operation, "start a thread"),
        other => panic!("{other:?}"),
    }
    for hints in [true, false] {
        let all = files(path).into_iter();
        let named = all.filter(|file| !hints && file.extension().is_some_and(|e| e == "hint"));
        named.for_each(|hint| fs::remove_file(hint).unwrap());
        let store = Store::options().maintenance(Maintenance::Manual).open(path).unwrap();
        assert_eq!(store.len(), 9);
        assert_eq!(&*store.get("8").unwrap().unwrap(), &[8; 1 << 20][..]);
        store.close().unwrap();
    }
}

#[test]
fn a_limit_on_the_size_of_files_makes_segments_smaller_where_its_signal_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$@\"", "sh"]);
    command.arg(std::env::current_exe().unwrap()).args(ARGUMENTS);
    check(&prepare(&mut command, "limited", &dir.path().join("log")).output().unwrap());
}

/// Blocks of 512 bytes: some 500 KB.
fn be_limited(path: &Path) {
    let log = options().open(path).unwrap();
    (0..30u8).for_each(|n| assert!(log.append(&[n; 100_000]).is_ok()));
    let refused = log.append(&[1; 1_000_000]).unwrap_err();
    assert!(matches!(refused, tailcask::AppendError::NoSpace { .. }), "{refused:?}");
    log.close().unwrap();
    let log = options().open(path).unwrap();
    assert_eq!(log.verify().unwrap().entries, 30);
    assert!(log.stats().segments > 6);
}
