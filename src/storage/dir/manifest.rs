//! The MANIFEST, and the files that make it possible to write it when the disk is full: a spare file
//! whose blocks the next MANIFEST takes, and a reserve, which is released when writers need space.

use super::directory::{Directory, is_no_space};
use crate::error::OpenError;
use crate::format::names::{self, MANIFEST, MANIFEST_SPARE, RESERVE};
use crate::storage::io_error;
use crate::storage::sys::{self, OpenMode};
use crate::storage::temporary::Existing;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering;

const SPARE_LEN: u64 = 4096;
/// How many times the size of the reserve has to be free for one to be made.
const PLENTY: u64 = 4;
/// More than a MANIFEST with all ids that there can be on a device of some petabytes.
const MANIFEST_MAX: u64 = 64 << 20;

impl Directory {
    pub(super) fn manifest(&self) -> Result<Option<Vec<u8>>, OpenError> {
        let file = match self.open_file(MANIFEST, OpenMode::Read) {
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let mut bytes = Vec::new();
        let read = file.take(MANIFEST_MAX).read_to_end(&mut bytes);
        read.map_err(|e| io_error(self.describe("read", MANIFEST), e))?;
        Ok(Some(bytes))
    }

    pub(super) fn replace_manifest(&self, bytes: &[u8]) -> io::Result<()> {
        let write = || {
            let write = |mut file: &File| file.write_all(bytes);
            self.publish_durably(MANIFEST, Existing::Replace, write)
        };
        let first = match write() {
            Err(error) if is_no_space(&error) => error,
            other => return other,
        };
        let Err(error) = self.write_spare(bytes) else { return Ok(()) };
        tracing::debug!(%error, "the spare MANIFEST cannot be used");
        if self.remove_reserve()? {
            return write();
        }
        // Hints can be removed: they are useful but not needed, since the segments hold the same
        // information.
        for name in self.file_names().map_err(io::Error::other)? {
            if names::hint_id(&name).is_some() && sys::remove(&self.handle, &name).is_ok() {
                tracing::warn!(name, "no space is left: a hint was removed");
                match write() {
                    Err(error) if is_no_space(&error) => {}
                    other => return other,
                }
            }
        }
        Err(first)
    }

    pub(super) fn make_spare(&self) -> io::Result<()> {
        match self.open_file(MANIFEST_SPARE, OpenMode::Read) {
            Ok(_) => Ok(()),
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let allocate = |file: &File| sys::allocate(file, SPARE_LEN);
                self.publish_with(MANIFEST_SPARE, Existing::Replace, allocate)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Writes a MANIFEST over the spare one, and exchanges the names of the two, which takes no space.
    pub(super) fn write_spare(&self, bytes: &[u8]) -> io::Result<()> {
        let file = self.open_file(MANIFEST_SPARE, OpenMode::Write).map_err(io::Error::other)?;
        // If an earlier process died between the exchange and the sync after it, the present spare is
        // still the MANIFEST on the device.
        self.handle.sync_all()?;
        file.write_all_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()?;
        let here = &self.handle;
        match sys::exchange(here, MANIFEST_SPARE, MANIFEST) {
            Err(error)
                if sys::is_unsupported(&error) || error.kind() == io::ErrorKind::NotFound =>
            {
                sys::rename(here, MANIFEST_SPARE, here, MANIFEST)?;
            }
            other => other?,
        }
        self.handle.sync_all()
    }

    /// Makes a reserve, as large as it can be, that leaves several times as much free.
    pub(super) fn make_reserve(&self, wanted: u64, least: u64, there: u64) -> io::Result<bool> {
        let free = sys::free_space(&self.handle)?.saturating_add(there);
        let sizes = std::iter::successors(Some(wanted), |size| Some(size / 2));
        for size in sizes.take_while(|&size| size >= least && size > there) {
            if free < size.saturating_mul(PLENTY) {
                continue;
            }
            let allocate = |file: &File| sys::allocate(file, size);
            match self.publish_with(RESERVE, Existing::Replace, allocate) {
                Err(error) if is_no_space(&error) => {}
                other => {
                    other?;
                    self.make_spare()?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    pub(super) fn ensure_reserve(&self, wanted: u64, least: u64) -> io::Result<bool> {
        let there = match self.open_file(RESERVE, OpenMode::Read) {
            Ok(file) => file.metadata()?.blocks() * 512,
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(io::Error::other(error)),
        };
        if wanted > 0 && there <= wanted / 2 && !self.make_reserve(wanted, least, there)? {
            return Ok(there > 0);
        }
        // ORDERING: Relaxed; whoever changes the reserve does so alone.
        self.reserve_is_given.store(false, Ordering::Relaxed);
        Ok(true)
    }

    pub(super) fn remove_reserve(&self) -> io::Result<bool> {
        match sys::remove(&self.handle, RESERVE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
            Ok(()) => {
                // ORDERING: Relaxed; as above.
                self.reserve_is_given.store(true, Ordering::Relaxed);
                tracing::warn!("no space is left: the reserve is released");
                Ok(true)
            }
        }
    }
}
