//! The MANIFEST as the writer changes it, and the ids that it records as used.

use super::LogWriter;
use crate::format::manifest::Manifest;
use crate::sync::lock;
use std::io;

impl LogWriter {
    /// The MANIFEST as it was last written.
    pub(crate) fn manifest(&self) -> Manifest {
        lock(&self.manifest).clone()
    }

    pub(crate) fn log_id(&self) -> u64 {
        lock(&self.manifest).log_id
    }

    /// The secret of the log's store, if it has one.
    pub(crate) fn store_secret(&self) -> Option<[u8; 16]> {
        lock(&self.manifest).secret
    }

    /// Replaces the MANIFEST, which then also records which ids were used. The copy in memory changes
    /// only once that is durable.
    pub(crate) fn change_manifest(&self, change: impl FnOnce(&mut Manifest)) -> io::Result<()> {
        let mut manifest = lock(&self.manifest);
        let mut new = manifest.clone();
        change(&mut new);
        // Read under the manifest's lock, so that it never goes back.
        let mut next = lock(&self.next);
        new.next = next.id.unwrap_or(u32::MAX);
        new.generation = new.generation.saturating_add(1);
        if next.for_log == Some(new.first) {
            // The log is empty, and its first segment could not be created yet: it begins with the next
            // id, after those that merges have used.
            new.first = new.next;
            self.storage.write_manifest(&new.encode())?;
            next.for_log = Some(new.first);
            next.id = new.first.checked_add(1);
        } else {
            drop(next);
            self.storage.write_manifest(&new.encode())?;
        }
        self.note_reserve();
        *manifest = new;
        Ok(())
    }

    pub(super) fn write_next_id(&self) -> io::Result<()> {
        self.change_manifest(|_| {})
    }

    /// The id of the next segment.
    pub(crate) fn next_id(&self) -> u32 {
        lock(&self.next).id.unwrap_or(u32::MAX)
    }

    /// The id of the newest segment of the log, or of the one before its first.
    pub(crate) fn last_created(&self) -> u32 {
        lock(&self.next).previous
    }

    /// The id of the first segment, if that could not be created yet.
    pub(super) fn first_to_come(&self) -> Option<u32> {
        lock(&self.next).for_log
    }

    /// Records that the files of removed segments are durably gone, so that the next MANIFEST need not
    /// list them.
    pub(super) fn files_are_gone(&self, ids: &[u32]) {
        lock(&self.manifest).removed.retain(|id| !ids.contains(id));
    }

    /// Removes a file that the next recovery would remove as well. True if it is gone.
    pub(crate) fn remove_file(&self, name: &str) -> bool {
        match self.storage.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(name, %error, "could not remove an unused file");
                false
            }
            _ => true,
        }
    }
}
