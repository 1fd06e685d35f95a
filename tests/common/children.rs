//! Other processes: a test starts its own program again, which runs the ignored test `child` in a
//! role, and ends it as it likes.

use rustix::process::{Pid, Signal, getpid, kill_process};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

const ROLE: &str = "TAILCASK_ROLE";
const PLACE: &str = "TAILCASK_PLACE";
/// What a child prints begins with this, to tell it from the output of the test harness.
const SAYS: &str = "child: ";
/// Arguments of the test program that run the test `child` alone.
pub(crate) const ARGUMENTS: [&str; 5] =
    ["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"];

/// Lets a program be the child of `role` that works in `place`.
pub(crate) fn prepare<'c>(command: &'c mut Command, role: &str, place: &Path) -> &'c mut Command {
    command.env(ROLE, role).env(PLACE, place)
}

/// This program, to be run as a child.
pub(crate) fn command(role: &str, place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    prepare(&mut command, role, place).args(ARGUMENTS).stdout(Stdio::null());
    command
}

/// The role and the place of this process, if it is a child.
pub(crate) fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, PathBuf::from(std::env::var_os(PLACE)?)))
}

/// Says something to the parent: one write, so that it is whole or not at all, and a trace of system
/// calls has it in one line.
pub(crate) fn say(line: &str) {
    std::io::stderr().write_all(format!("{SAYS}{line}\n").as_bytes()).unwrap();
}

/// What a child says.
pub(crate) struct Said(Lines<BufReader<ChildStderr>>);

impl Iterator for Said {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            let line = self.0.next()?.ok()?;
            if let Some(line) = line.strip_prefix(SAYS) {
                return Some(line.to_owned());
            }
            // A panic is seen with the test's output.
            eprintln!("{line}");
        }
    }
}

/// A child, which is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts a process whose standard input is open for as long as this one lives.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).spawn().unwrap())
    }

    /// Starts a child, and gives what it says.
    pub(crate) fn start(role: &str, place: &Path) -> (Self, Said) {
        let mut this = Self::spawn(command(role, place).stderr(Stdio::piped()));
        let lines = BufReader::new(this.0.stderr.take().unwrap()).lines();
        (this, Said(lines))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    pub(crate) fn assert_runs(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "the other process has ended");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In a child: ends it with the test, however that ends. Its standard input is the test's.
pub(crate) fn end_with_the_test() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}

/// Kills this process at once.
pub(crate) fn die() -> ! {
    kill_process(getpid(), Signal::KILL).expect("killed");
    unreachable!("SIGKILL is not survived")
}
