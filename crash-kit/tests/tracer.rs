//! A traced program: every call that was asked for is seen, whatever the program's threads do.

#![cfg(target_os = "linux")]

use crash_kit::tracer::{Action, Call, Tracer};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

const ROLE: &str = "CRASH_KIT_ROLE";
const PLACE: &str = "CRASH_KIT_PLACE";
const THREADS: u64 = 4;
const CALLS: u64 = 50;

/// The calls that make a directory, of all architectures.
#[cfg(target_arch = "x86_64")]
const MAKE_DIRECTORY: &[libc::c_long] = &[libc::SYS_mkdir, libc::SYS_mkdirat];
#[cfg(not(target_arch = "x86_64"))]
const MAKE_DIRECTORY: &[libc::c_long] = &[libc::SYS_mkdirat];

/// Traces a program, or says why not.
fn spawn(command: Command, calls: &[libc::c_long]) -> Option<Tracer> {
    match Tracer::spawn(command, calls) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            eprintln!("left out: {error}");
            None
        }
        other => Some(other.unwrap()),
    }
}

fn run(
    command: Command,
    calls: &[libc::c_long],
    on_call: impl FnMut(&mut Call<'_>) -> Action,
) -> Option<ExitStatus> {
    Some(spawn(command, calls)?.run(on_call).unwrap())
}

/// This program again, for the test `child`.
fn this(role: &str, place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(PLACE, place).stdout(Stdio::null());
    command
}

fn shell(script: &str, dir: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(dir).stdout(Stdio::null());
    command
}

#[test]
#[ignore = "the program that the other tests trace"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let place = std::env::var_os(PLACE).unwrap();
    match role.as_str() {
        "threads" => {
            // Threads start and end while others are at their calls.
            for _ in 0..3 {
                std::thread::scope(|scope| {
                    for _ in 0..THREADS {
                        scope.spawn(|| {
                            let file = File::open(&place).unwrap();
                            for _ in 0..CALLS {
                                file.sync_all().unwrap();
                                std::thread::yield_now();
                            }
                        });
                    }
                });
            }
        }
        "sync" => {
            let done = File::open(&place).unwrap().sync_all();
            let code = done.err().map_or(0, |error| error.raw_os_error().unwrap());
            std::process::exit(code);
        }
        role => panic!("{role}"),
    }
}

#[test]
fn every_call_of_every_thread_is_seen_at_its_entry_and_at_its_exit() {
    let place = tempfile::NamedTempFile::new().unwrap();
    let (mut entries, mut exits, mut tids) = (0, 0, BTreeSet::new());
    let status = run(this("threads", place.path()), &[libc::SYS_fsync], |call| {
        assert_eq!(call.number(), libc::SYS_fsync);
        assert_eq!(call.fd_path(call.int(0)).unwrap(), place.path());
        tids.insert(call.tid());
        match call.result() {
            None => entries += 1,
            Some(result) => {
                assert_eq!(result, Ok(0));
                exits += 1;
            }
        }
        Action::Continue
    });
    let Some(status) = status else { return };
    assert!(status.success());
    assert_eq!((entries, exits), (3 * THREADS * CALLS, 3 * THREADS * CALLS));
    assert!(tids.len() as u64 >= THREADS);
}

#[test]
fn a_call_that_passes_has_no_exit() {
    let place = tempfile::NamedTempFile::new().unwrap();
    let mut entries = 0;
    let status = run(this("threads", place.path()), &[libc::SYS_fsync], |call| {
        assert!(call.is_entry());
        entries += 1;
        Action::Pass
    });
    let Some(status) = status else { return };
    assert!(status.success() && entries == 3 * THREADS * CALLS);
}

#[test]
fn a_call_fails_as_it_is_told() {
    let place = tempfile::NamedTempFile::new().unwrap();
    for at_entry in [true, false] {
        let mut stops = 0;
        let status = run(this("sync", place.path()), &[libc::SYS_fsync], |call| {
            stops += 1;
            if call.is_entry() == at_entry { Action::Fail(libc::EIO) } else { Action::Continue }
        });
        let Some(status) = status else { return };
        assert_eq!(status.code(), Some(libc::EIO));
        assert_eq!(stops, if at_entry { 1 } else { 2 }, "a call that is not made has no exit");
    }
    // And may succeed without being made: there is no such directory afterwards.
    let dir = tempfile::tempdir().unwrap();
    let status = run(shell("mkdir none", dir.path()), MAKE_DIRECTORY, |_| Action::Return(0));
    assert!(status.is_none_or(|status| status.success()) && !dir.path().join("none").exists());
}

/// At each of its calls, in the midst of other threads that start, end and stop.
#[test]
fn a_process_is_killed_at_a_call() {
    let place = tempfile::NamedTempFile::new().unwrap();
    for (nth, at_entry) in [(1, true), (40, false), (41, true), (333, true), (599, false)] {
        let mut seen = 0;
        let status = run(this("threads", place.path()), &[libc::SYS_fsync], |call| {
            assert!(seen < nth, "nothing comes after it");
            if call.is_entry() != at_entry {
                return Action::Continue;
            }
            seen += 1;
            if seen == nth { Action::Kill } else { Action::Continue }
        });
        let Some(status) = status else { return };
        assert_eq!((status.signal(), seen), (Some(libc::SIGKILL), nth));
    }
}

#[test]
fn a_process_is_killed_by_others_at_any_time() {
    let place = tempfile::NamedTempFile::new().unwrap();
    for calls in [0, 1, 20, 100, 300] {
        let Some(mut tracer) = spawn(this("threads", place.path()), &[libc::SYS_fsync]) else {
            return;
        };
        let (mut seen, pid) = (0, tracer.pid().to_string());
        let status = tracer.run(|_| {
            if seen == calls {
                // It stands still here, and other threads, too.
                let killed = Command::new("sh").args(["-c", "kill -KILL $1", "sh", &pid]).status();
                assert!(killed.unwrap().success());
            }
            seen += 1;
            Action::Continue
        });
        assert_eq!(status.unwrap().signal(), Some(libc::SIGKILL));
    }
}

#[test]
fn one_that_is_dropped_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = shell("echo begun; read line; mkdir never", dir.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let Some(mut tracer) = spawn(command, MAKE_DIRECTORY) else { return };
    let (pid, mut out) = (tracer.pid(), tracer.stdout.take().unwrap());
    drop(tracer);
    let mut said = String::new();
    out.read_to_string(&mut said).unwrap();
    assert_eq!(said, "", "it was never run");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn other_programs_are_traced_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = Vec::new();
    let script = "mkdir one; (mkdir two); exec mkdir three";
    let status = run(shell(script, dir.path()), MAKE_DIRECTORY, |call| {
        if call.is_entry() {
            let (directory, path) = match call.number() {
                libc::SYS_mkdirat => (call.int(0), call.args()[1]),
                _ => (libc::AT_FDCWD, call.args()[0]),
            };
            assert!(!call.place(directory, path).unwrap().exists());
            made.push(call.path(directory, path).unwrap());
        }
        Action::Continue
    });
    let Some(status) = status else { return };
    assert!(status.success());
    let dir = dir.path().canonicalize().unwrap();
    assert_eq!(made, ["one", "two", "three"].map(|name| dir.join(name)));
}

#[test]
fn signals_reach_the_program_and_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap 'mkdir trapped' USR1; kill -USR1 $$; \
        (while [ ! -d behind ]; do kill -CONT $$; done) & \
        kill -STOP $$; mkdir behind; wait; kill -TERM $$; mkdir never";
    let mut calls = 0;
    let status = run(shell(script, dir.path()), MAKE_DIRECTORY, |_| {
        calls += 1;
        Action::Pass
    });
    let Some(status) = status else { return };
    assert_eq!((status.signal(), calls), (Some(libc::SIGTERM), 2));
    assert!(dir.path().join("trapped").exists() && dir.path().join("behind").exists());
}

#[test]
fn what_a_program_leaves_running_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let script = "sh -c 'while :; do mkdir -p loop; done' & echo $! > pid";
    let status = run(shell(script, dir.path()), MAKE_DIRECTORY, |_| Action::Pass);
    let Some(status) = status else { return };
    assert!(status.success());
    let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    // It may wait for its parent, which is not this process any more.
    let state = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
    assert!(state.is_err() || state.unwrap().contains("State:\tZ"));
}

#[test]
fn what_cannot_be_started_is_an_error() {
    for calls in [&[libc::SYS_fsync][..], &[libc::SYS_write, libc::SYS_execve]] {
        match Tracer::spawn(Command::new("/no/such/program"), calls) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                eprintln!("left out: {error}");
            }
            other => assert_eq!(other.unwrap_err().kind(), io::ErrorKind::NotFound),
        }
    }
    let error = Tracer::spawn(Command::new("true"), &[libc::SYS_exit_group]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_thread_stops_between_two_calls() {
    let place = tempfile::NamedTempFile::new().unwrap();
    let (mut steps, mut calls) = (0, 0);
    let status = run(this("threads", place.path()), &[libc::SYS_fsync], |call| {
        if call.is_step() {
            assert!(!call.is_entry() && call.result().is_none());
            steps += 1;
            return if steps % 2 == 0 { Action::Step(7) } else { Action::Continue };
        }
        calls += 1;
        // From either place: at its entry, or at its exit.
        match (calls % 5, call.is_entry()) {
            (0, _) => Action::Step(3),
            (_, true) => Action::Continue,
            (_, false) => Action::Pass,
        }
    });
    let Some(status) = status else { return };
    assert!(status.success());
    assert!(calls >= 3 * THREADS * CALLS && steps > calls / 5, "{steps} of {calls}");
    // And is killed there.
    let mut steps = 0;
    let status = run(this("sync", place.path()), &[libc::SYS_fsync], |call| {
        if !call.is_step() {
            return Action::Step(10);
        }
        steps += 1;
        if steps < 5 { Action::Step(100) } else { Action::Kill }
    });
    assert_eq!((status.unwrap().signal(), steps), (Some(libc::SIGKILL), 5));
}
