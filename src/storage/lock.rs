//! Who has a directory: one writer, or readers that look at it for a moment.
//!
//! A writer locks the directory's own descriptor, which nobody can remove or replace, and LOCK
//! beside it, which is all that version 0.1.0 looks at. These are locks of flock(2), and who asks
//! whether one is taken has to take it for a moment. A reader must not stand in a writer's way even
//! if it is stopped at that moment; so a writer also has record locks on two bytes of LOCK, that of
//! its open file (fcntl(2), `F_OFD_SETLK`), and about those one can ask.

#![allow(unsafe_code, reason = "record locks of open files are in libc alone")]

use rustix::fs::FlockOperation;
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Descriptors that are locked. They are unlocked, and not just closed: a process that is being
/// started by another thread has copies of them until it runs its program, and would hold the lock.
#[derive(Debug, Default)]
pub(super) struct Lock(Vec<File>);

impl Lock {
    /// Locks one more, without waiting. False: another process, or another handle of this one, has
    /// it.
    pub(super) fn add(&mut self, file: File, exclusive: bool) -> io::Result<bool> {
        let taken = try_lock(&file, exclusive)?;
        if taken {
            self.0.push(file);
        }
        Ok(taken)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        for file in &self.0 {
            // Where that fails, closing does it.
            for record in [Record::Recovered, Record::Open] {
                let _ = control(file, libc::F_OFD_SETLK, libc::F_UNLCK, record);
            }
            let _ = rustix::fs::flock(file, FlockOperation::Unlock);
        }
    }
}

/// What a record lock on LOCK says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A writer has the directory.
    Open = 0,
    /// It has recovered what was there.
    Recovered = 1,
}

impl Lock {
    /// Takes a record lock, on LOCK, if that is among what is locked.
    pub(super) fn record(&self, record: Record) -> io::Result<()> {
        match self.0.last() {
            Some(file) if self.0.len() > 1 => {
                control(file, libc::F_OFD_SETLK, libc::F_WRLCK, record).map(drop)
            }
            _ => Ok(()),
        }
    }
}

/// Whether some writer has a record lock on LOCK, which is open for reading here.
pub(super) fn has_record(lock: &File, record: Record) -> io::Result<bool> {
    let found = control(lock, libc::F_OFD_GETLK, libc::F_RDLCK, record)?;
    Ok(found != libc::F_UNLCK)
}

fn control(file: &File, command: i32, kind: i32, record: Record) -> io::Result<i32> {
    // SAFETY: an all-zero `flock` is a valid one.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as i16;
    range.l_whence = libc::SEEK_SET as i16;
    range.l_start = record as libc::off_t;
    range.l_len = 1;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the commands take a
    // pointer to a `flock`, which lives until the call returns.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut range) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::from(range.l_type)) }
}

fn try_lock(file: &File, exclusive: bool) -> io::Result<bool> {
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

/// Whether an error of locking a directory says that this file system cannot do that: NFS locks what
/// is open for writing only, and others lock nothing.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    let known = [Errno::BADF, Errno::INVAL, Errno::OPNOTSUPP, Errno::NOLCK, Errno::NOSYS];
    error.raw_os_error().is_some_and(|code| known.contains(&Errno::from_raw_os_error(code)))
}
