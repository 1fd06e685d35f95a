//! Runs a program and stops it, and all of its threads, at the system calls that one asks for. All
//! others run at full speed.
//!
//! ```
//! use crash_kit::tracer::{Action, Tracer};
//! use std::process::Command;
//!
//! # if crash_kit::unsupported().is_some() { return Ok(()) }
//! // No space is left, for one file.
//! let mut command = Command::new("touch");
//! command.arg("/tmp/crash-kit-new-file");
//! let mut tracer = Tracer::spawn(command, &[libc::SYS_openat])?;
//! let status = tracer.run(|call| match call.path(call.int(0), call.args()[1]) {
//!     Ok(path) if path.ends_with("crash-kit-new-file") => Action::Fail(libc::ENOSPC),
//!     _ => Action::Pass,
//! })?;
//! assert_eq!(status.code(), Some(1));
//! # Ok::<(), std::io::Error>(())
//! ```

mod call;
mod filter;
mod spawn;
mod sys;

pub use call::Call;

use call::Stage;
use libc::c_long;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::marker::PhantomData;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use sys::{Resume, Stop};

/// What becomes of a thread that has stopped at a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// At its entry: the call is made, and stops again at its exit. At its exit: the thread runs on.
    Continue,
    /// The call is made, and does not stop at its exit.
    Pass,
    /// The call fails with this error number. At its entry: it is not made, and has no exit. At its
    /// exit: it was made, and the program is told that it failed.
    Fail(i32),
    /// As [`Fail`](Self::Fail), with a result of success: a call that does nothing, or less than is said.
    Return(u64),
    /// The call is made, the thread executes this many instructions more, and then one is asked again. Not
    /// if it comes to another of the calls before.
    Step(u32),
    /// SIGKILL for the process and all of its threads, now. At its entry: the call is not made.
    Kill,
}

/// A program whose system calls stop: see the [module](self). It is killed when this is dropped.
///
/// The thread that has started it has to run it, and should have no other children meanwhile: it waits
/// for all of its children. Programs that the program starts are traced, too, and killed when it ends.
/// System calls of another architecture than this one's (32 bits on x86-64) are not stopped.
#[derive(Debug)]
pub struct Tracer {
    /// The program's standard input, if it was asked to be a pipe.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, likewise.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, likewise.
    pub stderr: Option<ChildStderr>,
    pid: i32,
    threads: BTreeMap<i32, Thread>,
    /// All that were ever in `threads`.
    seen: BTreeSet<i32>,
    runs: bool,
    killed: bool,
    status: Option<ExitStatus>,
    /// Only the thread that traces may ask anything of a tracee.
    not_send: PhantomData<*mut ()>,
}

#[derive(Debug)]
struct Thread {
    pid: i32,
    /// The call that it is in, to be seen at its exit.
    call: Option<(c_long, [u64; 6])>,
    /// How many instructions it executes before it stops again, and behind which call.
    steps: Option<(u32, (c_long, [u64; 6]))>,
}

impl Tracer {
    /// Starts a program, which stops before its first instruction. `calls` are the numbers of system
    /// calls, as `libc::SYS_fsync`.
    ///
    /// # Errors
    /// The program cannot be started; `Unsupported`: it cannot be traced here; `InvalidInput`: a number
    /// is that of no call, or of one that ends a process or a thread, which has no exit.
    pub fn spawn(command: Command, calls: &[c_long]) -> io::Result<Self> {
        let mut child = spawn::spawn(command, calls)?;
        let pid = child.id() as i32;
        Ok(Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            pid,
            threads: BTreeMap::from([(pid, Thread::of(pid))]),
            seen: BTreeSet::from([pid]),
            runs: false,
            killed: false,
            status: None,
            not_send: PhantomData,
        })
    }

    /// The id of the process, while it runs: also for killing it from another thread.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets the program run to its end, and asks at each of the calls what becomes of it. Meanwhile the
    /// thread that makes the call stands still, and those that make others of them; the rest runs on.
    ///
    /// # Errors
    /// Tracing failed. The program is killed then, when this is dropped.
    pub fn run(
        &mut self,
        mut on_call: impl FnMut(&mut Call<'_>) -> Action,
    ) -> io::Result<ExitStatus> {
        if !self.runs {
            self.runs = true;
            sys::resume(self.pid, Resume::Run(0))?;
        }
        loop {
            if let Some(status) = self.status {
                self.end_descendants()?;
                return Ok(status);
            }
            let (tid, status) = sys::wait()?;
            self.on_change(tid, status, &mut on_call)?;
        }
    }

    /// A thread has stopped or ended.
    fn on_change(
        &mut self,
        tid: i32,
        status: i32,
        on_call: &mut dyn FnMut(&mut Call<'_>) -> Action,
    ) -> io::Result<()> {
        self.seen.insert(tid);
        let Some(stop) = Stop::of(status) else {
            self.threads.remove(&tid);
            if tid == self.pid {
                self.status = Some(ExitStatus::from_raw(status));
            }
            return Ok(());
        };
        if stop == Stop::Start {
            // It is known from here on, also if it has not run yet. It may have ended already.
            let new = sys::event_message(tid)? as i32;
            if self.seen.insert(new) {
                self.threads.insert(new, Thread::of(new));
            }
        }
        let thread = self.threads.entry(tid).or_insert_with(|| Thread::of(tid));
        let resume = match stop {
            _ if self.killed => Resume::Run(0),
            Stop::Entry => {
                let Some(info) = sys::entered(tid)? else { return Ok(()) };
                thread.steps = None;
                match on_call(&mut Call::new(thread.pid, tid, info, Stage::Entry)) {
                    Action::Continue => {
                        thread.call = Some(info);
                        Resume::ToExit
                    }
                    Action::Pass => Resume::Run(0),
                    Action::Fail(errno) => {
                        sys::skip(tid, -i64::from(errno))?;
                        Resume::Run(0)
                    }
                    Action::Return(value) => {
                        sys::skip(tid, value.cast_signed())?;
                        Resume::Run(0)
                    }
                    Action::Step(count) => thread.step(count, info),
                    Action::Kill => return self.kill(),
                }
            }
            Stop::Exit => {
                let Some(info) = thread.call.take() else {
                    return sys::resume(tid, Resume::Run(0));
                };
                let Some(result) = sys::left(tid)? else { return Ok(()) };
                let mut resume = Resume::Run(0);
                match on_call(&mut Call::new(thread.pid, tid, info, Stage::Exit(result))) {
                    Action::Continue | Action::Pass => {}
                    Action::Fail(errno) => sys::set_result(tid, -i64::from(errno))?,
                    Action::Return(value) => sys::set_result(tid, value.cast_signed())?,
                    Action::Step(count) => resume = thread.step(count, info),
                    Action::Kill => return self.kill(),
                }
                resume
            }
            Stop::Signal(libc::SIGTRAP) if thread.steps.is_some() => match thread.stepped() {
                None => Resume::Step(0),
                Some(info) => {
                    match on_call(&mut Call::new(thread.pid, tid, info, Stage::Stepped)) {
                        Action::Step(count) => thread.step(count, info),
                        Action::Kill => return self.kill(),
                        _ => Resume::Run(0),
                    }
                }
            },
            Stop::Exec => {
                // The thread that calls exec takes the place of the first one; the others are gone.
                *thread = Thread::of(tid);
                let before = sys::event_message(tid)? as i32;
                if before != tid {
                    self.threads.remove(&before);
                }
                Resume::Run(0)
            }
            Stop::Group => Resume::Listen,
            Stop::Signal(signal) if thread.steps.is_some() => Resume::Step(signal),
            Stop::Signal(signal) => Resume::Run(signal),
            Stop::Start | Stop::Other if thread.steps.is_some() => Resume::Step(0),
            Stop::Start | Stop::Other => Resume::Run(0),
        };
        sys::resume(tid, resume)
    }

    fn kill(&mut self) -> io::Result<()> {
        self.killed = true;
        sys::kill(self.pid)
    }

    /// Ends what the program has started, which would stop at its next call for good.
    fn end_descendants(&mut self) -> io::Result<()> {
        while let Some((&tid, thread)) = self.threads.iter().next() {
            self.killed = true;
            sys::kill(thread.pid)?;
            let (ended, status) = match sys::wait() {
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                    self.threads.remove(&tid);
                    continue;
                }
                other => other?,
            };
            self.on_change(ended, status, &mut |_| Action::Kill)?;
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if self.status.is_none() {
            // Where that fails, nothing of it is left.
            let _ = self.kill().and_then(|()| self.run(|_| Action::Kill));
        }
    }
}

impl Thread {
    fn of(tid: i32) -> Self {
        Self { pid: process_of(tid).unwrap_or(tid), call: None, steps: None }
    }

    /// Begins to execute some instructions.
    fn step(&mut self, count: u32, info: (c_long, [u64; 6])) -> Resume {
        self.steps = Some((count.max(1), info));
        Resume::Step(0)
    }

    /// One of them is done. Behind the last one: the call that it began at.
    fn stepped(&mut self) -> Option<(c_long, [u64; 6])> {
        let (left, info) = self.steps.as_mut()?;
        *left -= 1;
        if *left > 0 {
            return None;
        }
        let info = *info;
        self.steps = None;
        Some(info)
    }
}

/// The process that a thread is of.
fn process_of(tid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

pub(crate) fn unsupported() -> Option<String> {
    let traced = Tracer::spawn(Command::new("true"), &[libc::SYS_fsync]);
    traced.and_then(|mut tracer| tracer.run(|_| Action::Pass)).err().map(|error| error.to_string())
}
