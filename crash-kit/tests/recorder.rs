//! A program that keeps a number on disk, and reports which: after a power loss it is the last one that
//! was reported, or the next one. Where the program leaves out a sync, an image shows it.

#![cfg(target_os = "linux")]

use crash_kit::{Crash, Image, Next, Recorder, Recording};
use memmap2::MmapMut;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const ROLE: &str = "CRASH_KIT_ROLE";
const PLACE: &str = "CRASH_KIT_PLACE";
const NUMBERS: u8 = 8;
const LEN: usize = 3000;
const IMAGES: u64 = 24;

#[test]
#[ignore = "the program that the other tests record"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let place = std::env::var_os(PLACE).unwrap();
    let place = Path::new(&place);
    for number in 1..=NUMBERS {
        report("begin", number);
        match role.as_str() {
            "rename" | "no file sync" | "no directory sync" | "directory first" => {
                replace(place, number, &role);
            }
            "map" | "asynchronous" => store_in_map(place, number, role == "map"),
            "in place" => {
                let path = place.join("number");
                let file = File::options().create(true).truncate(false).write(true).open(path);
                let file = file.unwrap();
                file.write_all_at(&[number; LEN], 0).unwrap();
                file.sync_all().unwrap();
                File::open(place).unwrap().sync_all().unwrap();
            }
            role => panic!("{role}"),
        }
        report("done", number);
    }
}

fn report(what: &str, number: u8) {
    let mut out = io::stdout().lock();
    out.write_all(format!("{what} {number}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// A new file takes the place of the old one.
fn replace(place: &Path, number: u8, role: &str) {
    let mut new = File::create(place.join("new")).unwrap();
    new.write_all(&[number; LEN]).unwrap();
    let rename = || fs::rename(place.join("new"), place.join("number")).unwrap();
    if role == "directory first" {
        rename();
    }
    if role != "no file sync" {
        new.sync_data().unwrap();
    }
    if role != "directory first" {
        rename();
    }
    if role != "no directory sync" {
        File::open(place).unwrap().sync_all().unwrap();
    }
}

/// Two halves of a mapped file are written in turns, so that one of them is always whole.
fn store_in_map(place: &Path, number: u8, durably: bool) {
    if number == 1 {
        let new = File::create(place.join("new")).unwrap();
        new.set_len(16384).unwrap();
        new.sync_all().unwrap();
        fs::rename(place.join("new"), place.join("number")).unwrap();
        File::open(place).unwrap().sync_all().unwrap();
    }
    let file = File::options().read(true).write(true).open(place.join("number")).unwrap();
    // SAFETY: only this program has it mapped, and nothing cuts it short.
    #[allow(unsafe_code, reason = "maps a file")]
    let mut map = unsafe { MmapMut::map_mut(&file) }.unwrap();
    let at = usize::from(number % 2) * 8192;
    map[at..at + LEN].fill(number);
    if durably {
        map.flush_range(at, LEN).unwrap();
    } else {
        map.flush_async_range(at, LEN).unwrap();
    }
}

/// What it says that it has done.
fn numbers(recording: &Recording, crash: &Crash, what: &str) -> u8 {
    let reports = recording.reports[..crash.reports].iter();
    let number = |report: &Vec<u8>| {
        String::from_utf8_lossy(report).trim().strip_prefix(what)?.trim().parse().ok()
    };
    reports.filter_map(number).next_back().unwrap_or(0)
}

/// A directory in memory, where there is one: what is synced takes no time there.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// The number that is in an image. `None`: none.
fn number_in(image: &Image) -> Option<u8> {
    let dir = directory();
    let dir = dir.path().join("image");
    image.write(&dir).unwrap();
    let bytes = match fs::read(dir.join("number")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(0),
        other => other.unwrap(),
    };
    let whole = |half: &[u8]| match half.get(..LEN) {
        Some(half) if half.iter().all(|&byte| byte == half[0]) => Some(half[0]),
        _ => None,
    };
    // Of two halves the newer one that is whole.
    whole(&bytes).max(bytes.get(8192..).and_then(whole))
}

fn record(role: &str, recorder: impl Fn(Recorder) -> Recorder, end: u64) -> Option<Recording> {
    let dir = directory();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(PLACE, dir.path());
    let recorder = recorder(Recorder::new(dir.path()));
    let recorded = recorder
        .record(command, |moment| if moment.number == end { Next::Kill } else { Next::Keep });
    match recorded {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            eprintln!("left out: {error}");
            None
        }
        other => Some(other.unwrap()),
    }
}

/// The first image that breaks the promise, in words.
fn violation(recording: &Recording) -> Option<String> {
    for crash in &recording.crashes {
        let done = numbers(recording, crash, "done");
        let begun = numbers(recording, crash, "begin");
        for seed in 0..IMAGES {
            let image = crash.image(seed);
            let found = number_in(&image);
            if found.is_none_or(|found| found < done || found > begun) {
                return Some(format!("{found:?}, not {done} to {begun}:\n{image}"));
            }
        }
    }
    None
}

#[test]
fn a_program_that_syncs_what_it_should_loses_nothing() {
    for role in ["rename", "map"] {
        let Some(recording) = record(role, |r| r, u64::MAX) else { return };
        assert!(recording.statuses[0].success() && recording.lies == 0);
        assert_eq!(violation(&recording), None, "{role}");
        let last = recording.crashes.last().unwrap();
        assert_eq!(numbers(&recording, last, "done"), NUMBERS);
        // And what is not synced shows as lost, and as not lost.
        let crash =
            recording.crashes.iter().find(|c| numbers(&recording, c, "begin") == 3).unwrap();
        assert_eq!(numbers(&recording, crash, "done"), 2);
    }
}

#[test]
fn a_program_that_leaves_out_a_sync_is_caught() {
    for role in ["no file sync", "no directory sync", "directory first", "in place", "asynchronous"]
    {
        let Some(recording) = record(role, |r| r, u64::MAX) else { return };
        assert!(violation(&recording).is_some(), "{role}");
    }
}

#[test]
fn a_recorder_that_lies_about_one_sync_in_four_is_caught() {
    for role in ["rename", "map"] {
        for seed in 0..3 {
            let lying = |recorder: Recorder| recorder.lie_one_in(4).seed(seed);
            let Some(recording) = record(role, lying, u64::MAX) else { return };
            assert!(recording.lies > 0 && violation(&recording).is_some(), "{role} {seed}");
        }
    }
}

#[test]
fn a_program_that_is_killed_leaves_what_it_had_done() {
    for end in [0, 1, 7, 20, 33] {
        let Some(recording) = record("rename", |r| r, end) else { return };
        assert!(!recording.statuses[0].success() && recording.moments == end + 1);
        assert_eq!(violation(&recording), None, "{end}");
    }
}

/// The machine goes on when a process dies: what that one has not synced is not durable, and a later one
/// may sync it.
#[test]
fn what_a_process_leaves_unsynced_stays_so_for_the_next_one() {
    for (then, is_durable) in [("true", false), ("sync -f number && sync -f .", true)] {
        let dir = directory();
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).current_dir(dir.path());
            command
        };
        let commands = [shell("printf 7 > number; kill -KILL $$"), shell(then)];
        let mut programs = 0;
        let recorded = Recorder::new(dir.path()).record_all(commands, |moment| {
            programs = programs.max(moment.program + 1);
            Next::Go
        });
        let recording = match recorded {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                eprintln!("left out: {error}");
                return;
            }
            other => other.unwrap(),
        };
        assert!(!recording.statuses[0].success() && recording.statuses[1].success());
        assert!(programs >= 1);
        let crash = recording.crashes.last().unwrap();
        let lost = (0..100).any(|seed| {
            let to = directory();
            let to = to.path().join("image");
            crash.image(seed).write(&to).unwrap();
            fs::read(to.join("number")).ok().as_deref() != Some(b"7")
        });
        assert_eq!(lost, !is_durable);
    }
}

#[test]
fn what_cannot_be_recorded_is_an_error() {
    let dir = directory();
    let mut command = Command::new("ln");
    command.args(["-s", "a", "b"]).current_dir(dir.path());
    let error = Recorder::new(dir.path()).record(command, |_| Next::Go).unwrap_err();
    if error.kind() == io::ErrorKind::Unsupported {
        eprintln!("left out: {error}");
        return;
    }
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

/// What is there at the beginning is durable; folders, links, permissions and lengths are what they were.
#[test]
fn an_image_of_what_is_synced_is_a_copy() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let dir = directory();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("a/old"), "old").unwrap();
    let script = "mkdir a/c; printf new > a/c/new; ln a/c/new a/link; rm a/old; chmod 640 a/c/new; \
        truncate -s 100000 a/b/long; mv a/b/long long; sync";
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(&from);
    let recorded = Recorder::new(&from).record(command, |_| Next::Go);
    let recording = match recorded {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            eprintln!("left out: {error}");
            return;
        }
        other => other.unwrap(),
    };
    let crash = recording.crashes.last().unwrap();
    for seed in 0..20 {
        let to = dir.path().join(seed.to_string());
        crash.image(seed).write(&to).unwrap();
        assert_eq!(fs::read(to.join("a/c/new")).unwrap(), b"new");
        assert_eq!(fs::metadata(to.join("a/link")).unwrap().nlink(), 2);
        let mode = fs::metadata(to.join("a/c/new")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(!to.join("a/old").exists() && to.join("a/b").is_dir());
        assert_eq!(fs::read(to.join("long")).unwrap(), [0; 100_000]);
    }
}
