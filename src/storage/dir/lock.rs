//! Locks on a directory: one writer holds them, and a reader for a moment.
//!
//! A writer locks the directory's own descriptor, which cannot be removed or replaced, and the file
//! LOCK, which is all that version 0.1.0 knows. To find out whether such a lock is taken, one has to
//! take it for a moment. But a reader must not block a writer, not even if it is stopped at that
//! moment; so a writer also locks single bytes of LOCK, whose state can be queried.

use crate::storage::sys;
use std::fs::File;
use std::io;

/// Descriptors that are locked. Dropping it unlocks them first, since closing them may not be enough:
/// a child process that another thread is just starting has copies of them until it runs its program.
#[derive(Debug, Default)]
pub(super) struct Lock(Vec<File>);

/// What a lock on a byte of LOCK says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockByte {
    /// A writer has the directory.
    Open = 0,
    /// It has recovered what was there.
    Recovered = 1,
}

impl Lock {
    /// Locks one more, without waiting. False: another process, or another handle of this one, has
    /// it.
    pub(super) fn add(&mut self, file: File, exclusive: bool) -> io::Result<bool> {
        let taken = sys::try_lock(&file, exclusive)?;
        if taken {
            self.0.push(file);
        }
        Ok(taken)
    }

    /// Locks a byte of LOCK, if that is among what is locked.
    pub(super) fn lock_byte(&self, byte: LockByte) -> io::Result<()> {
        match self.0.last() {
            Some(file) if self.0.len() > 1 => sys::lock_byte(file, byte as u8),
            _ => Ok(()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        for file in &self.0 {
            // If that fails, closing them has to do.
            for byte in [LockByte::Recovered, LockByte::Open] {
                let _ = sys::unlock_byte(file, byte as u8);
            }
            let _ = sys::unlock(file);
        }
    }
}

/// Whether some writer has locked a byte of LOCK, which is open for reading here.
pub(super) fn has_byte(lock: &File, byte: LockByte) -> io::Result<bool> {
    sys::has_byte_lock(lock, byte as u8)
}
