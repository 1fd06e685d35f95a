//! Locks on open files: whole ones (flock(2)), and of single bytes (fcntl(2), `F_OFD_SETLK`), about
//! which one can ask without taking any. Both belong to the open file, not to the process, and go
//! with its last descriptor.

#![allow(unsafe_code, reason = "byte locks of open files are in libc alone")]

use super::files::is_one_of;
use rustix::fs::FlockOperation;
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Kinds of locks on bytes.
const READ: libc::c_short = libc::F_RDLCK as libc::c_short;
const WRITE: libc::c_short = libc::F_WRLCK as libc::c_short;
const NONE: libc::c_short = libc::F_UNLCK as libc::c_short;

/// Locks a file or a directory without waiting. False: another open file has it locked.
pub(crate) fn try_lock(file: &File, exclusive: bool) -> io::Result<bool> {
    let operation = if exclusive {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    match retry_on_intr(|| rustix::fs::flock(file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn unlock(file: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::Unlock)?)
}

/// Locks one byte of a file that is open for writing. An error if another open file has it.
pub(crate) fn lock_byte(file: &File, at: u8) -> io::Result<()> {
    control(file, libc::F_OFD_SETLK, WRITE, at).map(drop)
}

pub(crate) fn unlock_byte(file: &File, at: u8) -> io::Result<()> {
    control(file, libc::F_OFD_SETLK, NONE, at).map(drop)
}

/// Whether another open file has locked a byte of this one, which is open for reading.
pub(crate) fn has_byte_lock(file: &File, at: u8) -> io::Result<bool> {
    let found = control(file, libc::F_OFD_GETLK, READ, at)?;
    Ok(found != NONE)
}

fn control(file: &File, command: i32, kind: libc::c_short, at: u8) -> io::Result<libc::c_short> {
    // SAFETY: an all-zero `flock` is a valid one.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind;
    range.l_whence = libc::SEEK_SET as i16;
    range.l_start = libc::off_t::from(at);
    range.l_len = 1;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the commands take a
    // pointer to a `flock`, which lives until the call returns.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut range) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(range.l_type) }
}

/// Whether an error of locking says that this file system cannot do that: NFS locks only what is
/// open for writing, and others lock nothing.
pub(crate) fn cannot_lock(error: &io::Error) -> bool {
    let known =
        [Errno::BADF, Errno::INVAL, Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOLCK, Errno::NOSYS];
    is_one_of(error, &known)
}
