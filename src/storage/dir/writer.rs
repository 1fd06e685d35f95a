//! Who writes to a directory: how a writer keeps other writers out, and how a reader finds out
//! whether there is one.

use super::directory::Directory;
use super::lock::{Lock, LockByte, has_byte};
use crate::error::OpenError;
use crate::format::names::LOCK;
use crate::format::u32_at;
use crate::storage::sys::{self, OpenMode};
use crate::storage::{Access, WriterState, io_error};
use crate::sync::lock;
use std::io;
use std::time::{Duration, Instant};

/// How long a writer waits for readers that hold the lock.
const READERS: Duration = Duration::from_secs(10);

impl Directory {
    /// Locks the directory for a writer. The kernel unlocks it when the holder dies.
    pub(super) fn take_lock(&self) -> Result<(), OpenError> {
        *lock(&self.lock) = Some(self.lock_alone()?);
        Ok(())
    }

    /// Unlocks the directory, if this is its writer.
    pub(super) fn release_lock(&self) {
        *lock(&self.lock) = None;
    }

    /// Waits for readers, which hold the lock for a moment only, but not for another writer.
    fn lock_alone(&self) -> Result<Lock, OpenError> {
        let deadline = Instant::now() + READERS;
        loop {
            if let Some(lock) = self.try_lock(true)? {
                match lock.lock_byte(LockByte::Open) {
                    Err(error) if !sys::cannot_lock(&error) => return Err(self.lock_error(error)),
                    _ => return Ok(lock),
                }
            }
            let readers = self.try_lock(false)?;
            if readers.is_none() || Instant::now() > deadline {
                return Err(self.locked());
            }
            drop(readers);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The error for a directory that someone else has locked, with the one who has, if that is known.
    fn locked(&self) -> OpenError {
        OpenError::Locked { path: self.path.clone(), process: self.lock_holder() }
    }

    /// The process that has it open for writing, if the system tells.
    pub(super) fn lock_holder(&self) -> Option<u32> {
        let lock = self.open_file(LOCK, OpenMode::Read).ok();
        lock.iter().chain([&*self.handle]).find_map(sys::lock_holder)
    }

    fn lock_error(&self, error: io::Error) -> OpenError {
        io_error(format!("lock {}", self.path.display()), error)
    }

    /// Locks the directory, by a descriptor of its own, and then LOCK, which a writer creates. A reader
    /// does without LOCK if there is none, or it may not open it.
    fn try_lock(&self, exclusive: bool) -> Result<Option<Lock>, OpenError> {
        let mut lock = Lock::default();
        let directory = sys::open_directory_at(&self.handle, ".");
        match lock.add(directory.map_err(|e| self.lock_error(e))?, exclusive) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error)
                if (self.trust.any_file_system || !sys::DIRECTORIES_LOCK)
                    && sys::cannot_lock(&error) =>
            {
                tracing::warn!(%error, "this file system cannot lock a directory: only LOCK is locked");
            }
            Err(error) => return Err(self.lock_error(error)),
        }
        let mode = if exclusive { OpenMode::Create } else { OpenMode::Read };
        let file = match self.open_file(LOCK, mode) {
            // The directory's own lock is enough. Only version 0.1.0 has no other.
            Err(OpenError::Io { source, .. }) if self.does_without(&source) => {
                return Ok(Some(lock));
            }
            other => other?,
        };
        let taken = lock.add(file, exclusive).map_err(|e| self.lock_error(e))?;
        Ok(taken.then_some(lock))
    }

    /// Whether the MANIFEST is one of version 0.1.0, or there is none.
    fn is_legacy(&self) -> Result<bool, OpenError> {
        let manifest = self.manifest()?;
        Ok(manifest.is_none_or(|manifest| u32_at(&manifest, 8) != crate::format::VERSION))
    }

    /// Whether the lock of the directory is enough after this error of opening LOCK.
    fn does_without(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{NotFound, PermissionDenied, QuotaExceeded, StorageFull};
        match error.kind() {
            NotFound | PermissionDenied => self.access == Access::Read,
            StorageFull | QuotaExceeded => true,
            _ => false,
        }
    }

    /// Keeps writers out for as long as it is held, and creates no file for that.
    pub(crate) fn lock_shared(&self) -> Result<impl Drop + use<>, OpenError> {
        let lock = self.try_lock(false)?;
        lock.ok_or_else(|| self.locked())
    }

    pub(super) fn find_writer(&self) -> Result<WriterState, OpenError> {
        let probe = || {
            Ok(if self.try_lock(false)?.is_some() { WriterState::None } else { WriterState::Live })
        };
        let lock = match self.open_file(LOCK, OpenMode::Read) {
            // Removed by hand, or never created. The lock of the directory says it as well, but has to
            // be taken for a moment.
            Err(OpenError::Io { source, .. }) if self.does_without(&source) => return probe(),
            other => other?,
        };
        match has_byte(&lock, LockByte::Recovered) {
            Ok(true) => Ok(WriterState::Live),
            Ok(false) if has_byte(&lock, LockByte::Open).map_err(|e| self.lock_error(e))? => {
                Ok(WriterState::Recovering)
            }
            // Version 0.1.0 has none of these.
            Ok(false) if self.is_legacy()? => probe(),
            Ok(false) => Ok(WriterState::None),
            Err(error) if sys::cannot_lock(&error) => probe(),
            Err(error) => Err(self.lock_error(error)),
        }
    }

    pub(super) fn lock_recovered(&self) -> io::Result<()> {
        match lock(&self.lock).as_ref().map_or(Ok(()), |lock| lock.lock_byte(LockByte::Recovered)) {
            // Then readers try to take the lock.
            Err(error) if sys::cannot_lock(&error) => Ok(()),
            other => other,
        }
    }
}
