//! Starts a program that is traced from its first instruction on.
//!
//! Between fork and exec the child says its id, waits until it is traced, and then puts the filter on
//! itself. Another thread starts it, since `Command::spawn` returns after the exec only.

#![allow(unsafe_code, reason = "`pre_exec`")]

use super::filter;
use super::sys::{self, Resume, Stop};
use libc::c_long;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread;

/// The child, which stands at the end of its exec.
pub(super) fn spawn(mut command: Command, calls: &[c_long]) -> io::Result<Child> {
    let program = filter::program(calls)?;
    let (mut from_child, said) = io::pipe()?;
    let (told, mut to_child) = io::pipe()?;
    let before_exec = move || {
        (&said).write_all(&std::process::id().to_le_bytes())?;
        (&told).read_exact(&mut [0])?;
        filter::install(&program)?;
        (&said).write_all(b"f")
    };
    // SAFETY: it makes system calls on what it owns, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(before_exec) };
    let starting = thread::spawn(move || command.spawn());
    let finish = || starting.join().expect("it does not panic");

    let mut pid = [0; 4];
    if from_child.read_exact(&mut pid).is_err() {
        return Err(finish().err().unwrap_or_else(gone));
    }
    let pid = i32::from_le_bytes(pid);
    if let Err(error) = sys::seize(pid) {
        sys::kill(pid)?;
        // Nothing was executed: it has died before.
        let _ = finish().and_then(|mut child| child.wait());
        return Err(refused("ptrace", &error));
    }
    to_child.write_all(&[0])?;
    if run_to_exec(pid)? {
        return finish();
    }
    match finish() {
        Ok(mut child) => {
            // It has been killed. Most likely it is gone already.
            let _ = child.wait();
            Err(gone())
        }
        Err(error) => {
            let has_filter = from_child.read(&mut [0])? > 0;
            Err(if has_filter { error } else { refused("seccomp", &error) })
        }
    }
}

/// Whether it comes to the exec. If not, its end is left to the thread that starts it.
fn run_to_exec(pid: i32) -> io::Result<bool> {
    while sys::is_stopped(pid)? {
        let (_, status) = sys::wait_for(pid)?;
        let resume = match Stop::of(status) {
            Some(Stop::Exec) => return Ok(true),
            Some(Stop::Signal(signal)) => Resume::Run(signal),
            Some(Stop::Group) => Resume::Listen,
            _ => Resume::Run(0),
        };
        sys::resume(pid, resume)?;
    }
    Ok(false)
}

fn gone() -> io::Error {
    io::Error::other("the child ended before its program began")
}

fn refused(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{what} is refused here: {error}"))
}
