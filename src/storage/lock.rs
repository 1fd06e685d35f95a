//! Who has a directory: one writer, or readers that look at it for a moment.
//!
//! A writer locks the directory's own descriptor, which nobody can remove or replace, and LOCK
//! beside it, which is all that version 0.1.0 looks at.

use rustix::fs::FlockOperation;
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io;

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
            let _ = rustix::fs::flock(file, FlockOperation::Unlock);
        }
    }
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
