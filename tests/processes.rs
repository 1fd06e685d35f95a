//! What shows only between processes, or in what one asks of the kernel: locks, followers, the
//! order of syncs, a full file system, a recovery that is killed.
#![cfg(target_os = "linux")]

mod common;

use common::children::{ARGUMENTS, Process, end_with_the_test, prepare, role, say};
use common::files::{copy_dir, paths_with};
use common::{Finish, HANG, entries, rounds};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tailcask::{AppendError, CommitLog, Durability, LogOptions, Maintenance, OpenError, Store};

fn options() -> LogOptions {
    CommitLog::options().segment_size(2 << 20)
}

#[test]
#[ignore = "the other process of the tests below"]
fn child() {
    let Some((role, path)) = role() else { return };
    let path = &path;
    match &role[..] {
        "writer" => write_and_stay(path),
        "follower" => follow(path),
        "recoverer" => recover(path),
        "synced" => write_synced(path),
        "backed up" => back_up(path),
        "filler" => fill(path),
        other => panic!("there is no role {other}"),
    }
}

fn write_and_stay(path: &Path) {
    end_with_the_test();
    let log = options().open(path).unwrap();
    log.append(b"one").unwrap();
    log.append(b"two").unwrap();
    say("written");
    loop {
        std::thread::park();
    }
}

/// Hazard 14: one writer, in whatever process, and none once that was killed.
#[test]
fn a_writer_in_another_process_keeps_others_out_until_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    for round in 1..=rounds(3) as usize {
        let (writer, mut lines) = Process::start("writer", &path);
        assert_eq!(lines.next().unwrap(), "written");
        let refused = options().open(&path).unwrap_err();
        if cfg!(target_os = "linux") {
            let holder = writer.0.id();
            let named = format!("{} is in use by another writer, process {holder}", path.display());
            assert_eq!(refused.to_string(), named);
            assert!(
                matches!(refused, OpenError::Locked { process, .. } if process == Some(holder))
            );
        }
        let reader = options().open_read_only(&path).unwrap();
        assert_eq!(entries(&reader).len(), round * 2, "a reader is let in");
        drop(writer);
        let log = options().open(&path).unwrap();
        assert_eq!(entries(&log).len(), round * 2);
        assert_eq!(entries(&reader).len(), round * 2, "what the reader has stays readable");
        log.close().unwrap();
    }
}

/// A process that is started has its parent's descriptors for a moment, and the lock with them.
#[test]
fn a_log_can_be_opened_again_at_once_while_processes_are_started() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let done = AtomicBool::new(false);
    let opened = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        let _finish = Finish(&done);
        let open = |_| options().open(&path).map(CommitLog::abort);
        (0..200).map(open).collect::<Vec<_>>()
    });
    let refused: Vec<_> = opened.into_iter().filter_map(Result::err).collect();
    assert!(refused.is_empty(), "{} times: {:?}", refused.len(), refused[0]);
}

fn follow(path: &Path) {
    let log = options().open_read_only(path).unwrap();
    let mut reader = log.reader();
    end_with_the_test();
    while let Some(entry) = reader.wait_entry(Duration::MAX).unwrap() {
        say(&String::from_utf8_lossy(&entry));
    }
}

#[test]
fn a_reader_in_another_process_keeps_no_writer_out_and_follows_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    log.append(b"before").unwrap();
    log.close().unwrap();
    let (follower, mut lines) = Process::start("follower", &path);
    assert_eq!(lines.next().unwrap(), "before");
    let log = options().open(&path).unwrap();
    assert!(matches!(options().open(&path), Err(OpenError::Locked { .. })));
    for n in 0..10 {
        let line = n.to_string().repeat(700_000);
        let position = log.append(line.as_bytes()).unwrap();
        assert!(lines.next().unwrap() == line, "entry {n} is followed");
        log.truncate_before(position).unwrap();
    }
    drop(follower);
    log.close().unwrap();
}

/// Hazard 9, an open bug: the id of a segment that was made and not used is used again, and a
/// reader that had it open waits in a file that is gone.
#[test]
fn a_reader_follows_a_writer_that_is_closed_and_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let options = options().maintenance(Maintenance::Manual);
    let log = options.open(&path).unwrap();
    log.append(b"before").unwrap();
    log.maintain().unwrap(); // A standby.
    let follower = options.open_read_only(&path).unwrap();
    let mut reader = follower.reader();
    assert_eq!(&*reader.next_entry().unwrap().unwrap(), b"before");
    log.close().unwrap();
    let log = options.open(&path).unwrap();
    log.append(b"after").unwrap();
    let entry = reader.wait_entry(HANG).unwrap().expect("it was appended");
    assert_eq!(&*entry, b"after");
}

fn recover(path: &Path) {
    say("opening");
    options().open(path).unwrap().abort();
}

/// What a dead process leaves: an open claim, and unsealed segments full of entries and holes.
fn leave_unsealed(path: &Path, segments: u32) -> Vec<Vec<u8>> {
    let original = path.with_extension("original");
    let log = options().maintenance(Maintenance::Manual).open(&original).unwrap();
    let mut all = Vec::new();
    log.append_with(100, |place| {
        place[..50].fill(0xee);
        while log.tail().segment() <= segments {
            all.push(vec![all.len() as u8; 100_000]);
            log.append(all.last().unwrap()).unwrap();
            log.abandon_reservation(1000);
        }
        copy_dir(&original, path, true);
    })
    .unwrap();
    log.abort();
    all
}

/// How many segments the next open has to recover. A reader finds every entry at any stage.
fn unsealed(path: &Path, expected: &[Vec<u8>]) -> u64 {
    let log = options().open_read_only(path).unwrap();
    assert!(entries(&log) == expected, "a reader finds all");
    log.recovery().recovered_segments
}

fn time_of_recovery(path: &Path) -> Duration {
    let trial = path.with_extension("trial");
    copy_dir(path, &trial, true);
    let log = options().open(&trial).unwrap();
    let took = log.recovery().duration;
    log.abort();
    took
}

/// Hazard 26.
#[test]
fn a_recovery_that_is_killed_again_and_again_loses_nothing() {
    let (mut round, mut inside) = (0, 0);
    // More rounds if no kill has hit the inside of a recovery, as on a busy machine.
    while round < rounds(3) as u32 || (inside == 0 && round < 30) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let all = leave_unsealed(&path, 10);
        let mut left = unsealed(&path, &all);
        assert!(left >= 10);
        let whole = time_of_recovery(&path);
        for attempt in 0..60 {
            let (child, mut lines) = Process::start("recoverer", &path);
            assert_eq!(lines.next().unwrap(), "opening");
            // Later and later, by what a recovery takes here: each gets a little further.
            std::thread::sleep(whole * (attempt * 3 + round % 3) / 100);
            drop(child);
            let now = unsealed(&path, &all);
            assert!(now <= left, "a sealed segment stays sealed");
            inside += u32::from(0 < now && now < left);
            left = now;
            if left == 0 {
                break;
            }
        }
        let log = options().open(&path).unwrap();
        assert!(entries(&log) == all);
        assert_eq!(log.verify().unwrap().entries, all.len() as u64);
        log.close().unwrap();
        round += 1;
    }
    if inside == 0 {
        eprintln!("skipped: here no kill hits the inside of a recovery");
    }
}

fn write_synced(path: &Path) {
    let options = options().durability(Durability::Synced).maintenance(Maintenance::Manual);
    let log = options.open(path).unwrap();
    for n in 0..9 {
        log.append(&[n; 700_000]).unwrap();
        say("acknowledged");
    }
    log.truncate_before(log.tail()).unwrap();
    say("truncated");
}

/// What a trace of system calls says of files and names.
#[derive(Default)]
struct Trace {
    /// Directories with changes that no sync of them has followed.
    unsynced: Vec<String>,
    /// Files that were synced, by their names at that time.
    synced: Vec<String>,
    data_synced: bool,
    acknowledged: u32,
    renamed: u32,
    removed: u32,
}

impl Trace {
    /// Reads one line: `1234 fsync(3</tmp/log>) = 0`. `-y` puts paths behind descriptors.
    fn line(&mut self, line: &str, log: &str, parent: &str) {
        let call = line.split_once(' ').map_or(line, |(_, call)| call.trim_start());
        let path = call.split(['<', '>']).nth(1).unwrap_or_default();
        let names: Vec<_> = call.split('"').skip(1).step_by(2).collect();
        // Nothing is in these, and nothing is lost with them.
        if names.last().is_some_and(|name| ["RESERVE", "MANIFEST.spare"].contains(name)) {
            return;
        }
        if call.starts_with("rename") && path == log {
            assert!(self.synced.iter().any(|s| s == names[0]), "not synced before it: {call}");
            self.unsynced.push(log.into());
            self.renamed += 1;
        } else if call.starts_with("unlink") && path == log {
            self.unsynced.push(log.into());
            self.removed += 1;
        } else if call.starts_with("mkdir") && names[0] == log {
            self.unsynced.push(parent.into());
        } else if call.starts_with("fsync") || call.starts_with("fdatasync") {
            self.unsynced.retain(|directory| directory != path);
            self.synced.extend(path.rsplit('/').next().map(Into::into));
            self.data_synced |= path.ends_with(".seg");
        } else if call.contains("child: acknowledged") {
            assert_eq!(self.unsynced, [""; 0], "acknowledged before names are durable");
            assert!(std::mem::take(&mut self.data_synced), "acknowledged without a sync");
            self.acknowledged += 1;
        } else if call.contains("child: truncated") {
            assert_eq!(self.unsynced, [""; 0], "removed names may come back");
        }
    }
}

/// The system calls of a child. `None`, with a message, where they cannot be traced.
fn traced(role: &str, place: &Path, calls: &str) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("trace");
    let mut command = Command::new("strace");
    let traced = prepare(&mut command, role, place)
        .args(["-f", "-y", "-s", "64", "-e", &format!("trace={calls}"), "-o"])
        .args([output.as_os_str(), std::env::current_exe().unwrap().as_os_str()])
        .args(ARGUMENTS)
        .output();
    let text = std::fs::read_to_string(&output).unwrap_or_default();
    if !text.contains("exited with") {
        eprintln!("skipped: strace does not work here ({traced:?})");
        return None;
    }
    assert!(text.contains("exited with 0"), "{traced:?}");
    Some(text)
}

/// Hazard 25, on real files; the simulated disk takes it for granted that a creation is durable. A
/// file is synced before it gets its name, and the name before anything in it is acknowledged.
#[test]
fn names_and_data_are_synced_before_they_are_relied_on() {
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().canonicalize().unwrap();
    let log = parent.join("log");
    let calls = "?rename,?renameat,renameat2,?mkdir,mkdirat,?unlink,unlinkat,fsync,fdatasync,write";
    let Some(text) = traced("synced", &log, calls) else { return };
    let mut trace = Trace::default();
    let (log, parent) = (log.to_str().unwrap(), parent.to_str().unwrap());
    text.lines().for_each(|line| trace.line(line, log, parent));
    assert_eq!(trace.acknowledged, 9, "{text}");
    assert!(trace.renamed > 4, "a MANIFEST and segments: {}", trace.renamed);
    assert!(trace.removed > 1, "truncated: {}", trace.removed);
}

fn back_up(path: &Path) {
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = Store::options().segment_size(2 << 20).open(memory.path().join("store")).unwrap();
    store.put("key", "value").unwrap();
    let view = Store::open_read_only(memory.path().join("store")).unwrap();
    for report in [view.backup(path.join("of-a-view")), store.backup(path.join("of-a-store"))] {
        assert!(report.unwrap().copied > 0);
    }
}

/// What is on another file system is copied, and not in the cache of the kernel alone.
#[test]
fn what_a_backup_copies_is_synced_before_it_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    let memory = device(Path::new("/dev/shm"));
    if memory.is_none() || memory == device(dir.path()) {
        eprintln!("skipped: there is no other file system in /dev/shm");
        return;
    }
    let calls = "?rename,?renameat,renameat2,fsync,fdatasync";
    let Some(text) = traced("backed up", dir.path(), calls) else { return };
    for backup in ["of-a-view", "of-a-store"] {
        let partial = format!(".{backup}.0.partial");
        let publishes = |line: &&str| line.contains("rename") && line.contains(&partial);
        let before: Vec<_> = text.lines().take_while(|line| !publishes(line)).collect();
        assert!(before.len() < text.lines().count(), "{text}");
        let segments = paths_with(&dir.path().join(backup), "seg");
        assert!(!segments.is_empty());
        for segment in segments {
            let file = format!("{partial}/{}>", segment.file_name().unwrap().display());
            let synced = before.iter().any(|line| line.contains("sync(") && line.contains(&file));
            assert!(synced, "{file} is not synced: {text}");
        }
    }
}

/// What this thread has made dirty of files on devices, in bytes.
fn made_dirty() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap_or_default();
    let bytes = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    bytes.map_or(0, |bytes| bytes.parse().unwrap())
}

/// After a sync that failed, the kernel may take pages for clean that are not on the device.
#[test]
fn a_recovery_writes_all_pages_whether_they_are_dirty_or_not() {
    const LEN: u64 = 6 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let options = CommitLog::options().maintenance(Maintenance::Manual);
    let at_first = made_dirty();
    let log = options.clone().initial_segment_size(LEN + (2 << 20)).open(&path).unwrap();
    log.append(&vec![1; LEN as usize]).unwrap();
    log.sync().unwrap();
    log.abort();
    let before = made_dirty();
    if before < at_first + LEN {
        eprintln!("skipped: the kernel does not count what is written here");
        return;
    }
    // The segment that follows takes less than what there is.
    let log = options.initial_segment_size(2 << 20).open(&path).unwrap();
    let written = made_dirty() - before;
    assert!(written >= LEN, "{written} bytes");
    log.abort();
}

fn fill(path: &Path) {
    say("filling");
    let ballast = path.with_extension("ballast");
    std::fs::write(&ballast, vec![1; 3 << 20]).unwrap();
    let log = options().open(path).unwrap();
    let mut appended = 0u8;
    let refused = loop {
        match log.append(&vec![appended; 100_000]) {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::NoSpace { .. }), "{refused:?}");
    log.sync().unwrap();
    assert_eq!(entries(&log).len(), usize::from(appended));
    std::fs::remove_file(ballast).unwrap();
    log.append(&vec![appended; 100_000]).unwrap();
    log.close().unwrap();
    let all = entries(&options().open(path).unwrap());
    assert_eq!(all.len(), usize::from(appended) + 1);
    assert!(all.iter().enumerate().all(|(n, entry)| *entry == vec![n as u8; 100_000]));
    open_a_copy_with_holes(path.parent().unwrap());
    say("filled");
}

/// A copy leaves out what is zero. On a full file system a write to that would be a SIGBUS.
fn open_a_copy_with_holes(dir: &Path) {
    let (from, copy) = (dir.join("from"), dir.join("copy"));
    let log = options().initial_segment_size(2 << 20).open(&from).unwrap();
    log.append(b"before").unwrap();
    log.abandon_reservation(1 << 20);
    log.append(b"behind").unwrap();
    log.abort();
    let copied = Command::new("cp").args(["-a", "--sparse=always"]).arg(&from).arg(&copy).status();
    assert!(copied.unwrap().success());
    std::fs::remove_dir_all(from).unwrap();
    let filler = dir.join("filler");
    let _ = std::fs::write(&filler, vec![1; 12 << 20]);
    match options().open(&copy) {
        Err(OpenError::Io { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
    std::fs::remove_file(filler).unwrap();
    assert_eq!(entries(&options().open(&copy).unwrap()), [&b"before"[..], b"behind"]);
}

/// Promise 7 on a real file system: a small one, in a name space of its own.
#[test]
fn a_full_file_system_is_no_space_and_never_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=12m,mode=700 none \"$1\" || exit; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    let done = prepare(&mut command, "filler", &dir.path().join("log"))
        .args(["-U", "-r", "-m", "sh", "-c", script, "sh"])
        .args([dir.path().as_os_str(), std::env::current_exe().unwrap().as_os_str()])
        .args(ARGUMENTS)
        .output();
    let said = done.as_ref().map_or(String::new(), |o| String::from_utf8_lossy(&o.stderr).into());
    if !said.contains("child: filling") {
        eprintln!("skipped: no file system can be made here ({done:?})");
        return;
    }
    assert!(said.contains("child: filled") && done.unwrap().status.success(), "{said}");
}
