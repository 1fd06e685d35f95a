//! Running the examples as a user does: as processes, which may be killed.

#![allow(dead_code, reason = "each test is a crate of its own and uses a part")]

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Far longer than anything takes on a slow and busy machine.
const HANG: Duration = Duration::from_secs(300);

/// A running example. It is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn start(program: &str, arguments: &[&Path]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the example starts");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        let input = child.stdin.take();
        Self { child, input, output }
    }

    pub(crate) fn write(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open");
        writeln!(input, "{line}").expect("it reads");
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        self.output.next().expect("it prints a line").expect("of text")
    }

    /// SIGKILL: it can do nothing about it.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }

    /// Ends its input, and waits for it.
    pub(crate) fn finish(mut self) -> ExitStatus {
        self.end_input();
        self.end()
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(mut self) -> ExitStatus {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().expect("kill runs");
        assert!(sent.success());
        self.end()
    }

    fn end(&mut self) -> ExitStatus {
        let mut status = None;
        until(true, || {
            status = self.child.try_wait().expect("it is ours");
            status.is_some()
        });
        status.expect("it has ended")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until something has the expected value.
pub(crate) fn until<T: PartialEq + std::fmt::Debug>(expected: T, mut what: impl FnMut() -> T) {
    let started = Instant::now();
    loop {
        let found = what();
        if found == expected {
            return;
        }
        assert!(started.elapsed() < HANG, "it stays {found:?}, and should become {expected:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
