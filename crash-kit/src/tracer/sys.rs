//! The system calls of tracing.
//!
//! A thread that is killed while it stands still is gone for its tracer at once, and its end is reported
//! later. So "no such process" is no error here: whoever asks sees the end next.

#![allow(unsafe_code, reason = "ptrace, wait and process_vm_readv")]

use libc::{c_int, c_long};
use std::io;

const OPTIONS: c_int = libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_EXITKILL;

// Those that libc does not have for every C library.
const PTRACE_EVENT_STOP: c_int = 128;
const PTRACE_GET_SYSCALL_INFO: u32 = 0x420e;
/// Kinds of stops that it tells.
const INFO_EXIT: u64 = 2;
const INFO_SECCOMP: u64 = 3;

/// Why a thread has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Before a system call that was asked for.
    Entry,
    /// Behind one.
    Exit,
    Exec,
    /// A signal is to be delivered.
    Signal(c_int),
    /// All of the process has been stopped by a signal.
    Group,
    /// It has started a thread or a process.
    Start,
    /// It has been started.
    Other,
}

impl Stop {
    /// By what `wait` says. `None`: it has ended.
    pub(super) fn of(status: c_int) -> Option<Self> {
        if !libc::WIFSTOPPED(status) {
            return None;
        }
        let signal = libc::WSTOPSIG(status);
        Some(match status >> 16 {
            libc::PTRACE_EVENT_SECCOMP => Self::Entry,
            libc::PTRACE_EVENT_EXEC => Self::Exec,
            libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
                Self::Start
            }
            PTRACE_EVENT_STOP if signal != libc::SIGTRAP => Self::Group,
            0 if signal == libc::SIGTRAP | 0x80 => Self::Exit,
            0 => Self::Signal(signal),
            _ => Self::Other,
        })
    }
}

/// How a thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// With this signal, or without one (0).
    Run(c_int),
    /// To the exit of the system call that it is in.
    ToExit,
    /// For one instruction, with this signal.
    Step(c_int),
    /// It does not: until a signal lets all of the process go on.
    Listen,
}

fn check(result: impl Into<i64>) -> io::Result<i64> {
    match result.into() {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// `false`: the thread is gone.
fn is_there(done: io::Result<i64>) -> io::Result<bool> {
    match done {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        other => other.map(|_| true),
    }
}

/// # Safety
/// What the request reads or writes here, by these arguments, is there for it.
unsafe fn ptrace(request: u32, tid: i32, address: usize, data: usize) -> io::Result<bool> {
    // SAFETY: the contract.
    is_there(check(unsafe { libc::ptrace(request as _, tid, address, data) }))
}

/// A request whose arguments are numbers.
fn ask(request: u32, tid: i32, address: usize, data: usize) -> io::Result<bool> {
    // SAFETY: those that are made this way access no memory of this process.
    unsafe { ptrace(request, tid, address, data) }
}

/// Begins to trace a process, which runs on.
pub(super) fn seize(pid: i32) -> io::Result<()> {
    ask(libc::PTRACE_SEIZE as _, pid, 0, OPTIONS as usize).map(drop)
}

pub(super) fn resume(tid: i32, how: Resume) -> io::Result<()> {
    let (request, signal) = match how {
        Resume::Run(signal) => (libc::PTRACE_CONT as _, signal),
        Resume::ToExit => (libc::PTRACE_SYSCALL as _, 0),
        Resume::Step(signal) => (libc::PTRACE_SINGLESTEP as _, signal),
        Resume::Listen => (libc::PTRACE_LISTEN as _, 0),
    };
    ask(request, tid, 0, signal as usize).map(drop)
}

pub(super) fn kill(pid: i32) -> io::Result<()> {
    // SAFETY: it takes numbers only.
    is_there(check(unsafe { libc::kill(pid, libc::SIGKILL) })).map(drop)
}

/// What goes with an event: at an exec, the id that the thread had before; at a start, that of what was
/// started.
pub(super) fn event_message(tid: i32) -> io::Result<u64> {
    let mut message: libc::c_ulong = tid as _;
    // SAFETY: the kernel writes a `long` there.
    unsafe { ptrace(libc::PTRACE_GETEVENTMSG as _, tid, 0, (&raw mut message) as usize) }?;
    Ok(message as u64)
}

/// `struct ptrace_syscall_info`, in words: the kind, two that do not matter, and what is of the kind.
fn info(tid: i32, kind: u64) -> io::Result<Option<[u64; 11]>> {
    let mut words = [0u64; 11];
    let (len, at) = (size_of_val(&words), (&raw mut words) as usize);
    // SAFETY: the kernel writes at most this many bytes there.
    let is_there = unsafe { ptrace(PTRACE_GET_SYSCALL_INFO, tid, len, at) }?;
    if is_there && words[0] & 0xff != kind {
        return Err(io::Error::other("stopped at something else: Linux 5.3 or newer is needed"));
    }
    Ok(is_there.then_some(words))
}

/// The call that a thread stands before, and its arguments. `None`: the thread is gone.
pub(super) fn entered(tid: i32) -> io::Result<Option<(c_long, [u64; 6])>> {
    let words = info(tid, INFO_SECCOMP)?;
    Ok(words.map(|words| {
        let mut args = [0; 6];
        args.copy_from_slice(&words[4..10]);
        (words[3] as c_long, args)
    }))
}

/// The result of the call that a thread stands behind. `None`: the thread is gone.
pub(super) fn left(tid: i32) -> io::Result<Option<i64>> {
    Ok(info(tid, INFO_EXIT)?.map(|words| words[3].cast_signed()))
}

/// A call that a thread stands before is not made, and has this result.
pub(super) fn skip(tid: i32, result: i64) -> io::Result<()> {
    registers::set_number(tid, -1)?;
    set_result(tid, result)
}

/// The call that a thread stands at has this result.
pub(super) fn set_result(tid: i32, result: i64) -> io::Result<()> {
    registers::set_result(tid, result)
}

#[cfg(target_arch = "x86_64")]
mod registers {
    use super::ask;
    use std::io;

    /// Offsets in `struct user`.
    const RAX: usize = 10 * 8;
    const ORIG_RAX: usize = 15 * 8;

    pub(super) fn set_number(tid: i32, number: i64) -> io::Result<()> {
        ask(libc::PTRACE_POKEUSER as _, tid, ORIG_RAX, number as usize).map(drop)
    }

    pub(super) fn set_result(tid: i32, result: i64) -> io::Result<()> {
        ask(libc::PTRACE_POKEUSER as _, tid, RAX, result as usize).map(drop)
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod registers {
    use std::io;

    // No program is traced here: see `filter`.
    pub(super) fn set_number(_tid: i32, _number: i64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn set_result(_tid: i32, _result: i64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(target_arch = "aarch64")]
mod registers {
    use super::ptrace;
    use std::io;

    /// The general registers, and the number of the system call.
    const GENERAL: usize = 1;
    const NUMBER: usize = 0x404;

    fn transfer(request: u32, tid: i32, set: usize, bytes: &mut [u64]) -> io::Result<bool> {
        let len = if set == NUMBER { 4 } else { size_of_val(bytes) };
        let mut place = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
        // SAFETY: the kernel reads or writes at most as many bytes as the buffer has.
        unsafe { ptrace(request, tid, set, (&raw mut place) as usize) }
    }

    pub(super) fn set_number(tid: i32, number: i64) -> io::Result<()> {
        transfer(libc::PTRACE_SETREGSET as _, tid, NUMBER, &mut [number as u64]).map(drop)
    }

    pub(super) fn set_result(tid: i32, result: i64) -> io::Result<()> {
        // x0 to x30, and sp, pc, pstate.
        let mut all = [0; 34];
        if transfer(libc::PTRACE_GETREGSET as _, tid, GENERAL, &mut all)? {
            all[0] = result as u64;
            transfer(libc::PTRACE_SETREGSET as _, tid, GENERAL, &mut all)?;
        }
        Ok(())
    }
}

/// Waits until a thread that this one traces stops or ends: its id, and what `wait` says of it.
pub(super) fn wait() -> io::Result<(i32, c_int)> {
    wait_for(-1)
}

/// As [`wait`], for one thread.
pub(super) fn wait_for(tid: i32) -> io::Result<(i32, c_int)> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes the status there.
        let found =
            unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        match check(found) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return Ok((other? as i32, status)),
        }
    }
}

/// Waits until a thread stops (true) or ends, and leaves either to be waited for again.
pub(super) fn is_stopped(tid: i32) -> io::Result<bool> {
    let flags = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL;
    loop {
        // SAFETY: all of it may be zero.
        let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes it there.
        let done = unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &raw mut found, flags) };
        match check(done) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Its end is known already, to the thread that has started it.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(false),
            other => {
                other?;
                let ends = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED];
                return Ok(!ends.contains(&found.si_code));
            }
        }
    }
}

/// Reads memory of another process.
pub(super) fn read(tid: i32, address: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let there = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address as usize),
        iov_len: bytes.len(),
    };
    // SAFETY: the kernel writes at most as many bytes as there are here; what is there is read by the
    // kernel alone.
    let read = unsafe { libc::process_vm_readv(tid, &raw const here, 1, &raw const there, 1, 0) };
    check(read as i64).map(|read| read as usize)
}
