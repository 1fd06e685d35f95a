//! Closing the log: everything is synced and sealed, and the MANIFEST says where the log ends.

use super::LogWriter;
use super::seal::seal_and_shrink;
use crate::error::SyncError;
use crate::format::header::{FIRST_FRAME, Seal};
use crate::format::manifest::LogEnd;
use crate::segment::file_name;
use crate::sync::lock;
use std::io;
use std::sync::Arc;

impl LogWriter {
    /// Syncs and seals everything.
    ///
    /// # Safety
    /// From here on the log is only read.
    #[allow(unsafe_code, reason = "passes the contract on")]
    pub(crate) unsafe fn close(&self) -> Result<(), SyncError> {
        let failed = |error| SyncError::Failed { source: Arc::new(error) };
        // SAFETY: the same contract.
        let standby = unsafe { self.tail.preparer().withdraw_for_close() };
        self.sync()?;
        self.prefix.advance(&self.tail);
        let (active, end, frames) = self.prefix.current();
        let mut unused: Vec<u32> = standby.iter().map(|standby| standby.id()).collect();
        if frames == 0 {
            // Except the one in memory, which has no file.
            unused.extend((!active.is_without_room()).then(|| active.id()));
        } else {
            active.sync(FIRST_FRAME, end).map_err(failed)?;
            let seal = Seal { end, frames, time: self.now() };
            seal_and_shrink(&active, seal).map_err(failed)?;
        }
        // No id is used again, since a reader in another process may have the segment mapped. If that
        // cannot be recorded (on a full disk), unused segments are left to the next recovery.
        if let Err(error) = self.note_closed(&unused) {
            tracing::warn!(%error, "the log is durable, but could not be marked as closed");
            return Ok(());
        }
        drop((standby, active));
        for &id in &unused {
            // The next recovery removes what stays.
            self.remove_file(&file_name(id));
        }
        self.storage.sync_directory().map_err(failed)
    }

    /// Records where the log ends, and that the unused segments do not belong to it.
    fn note_closed(&self, unused: &[u32]) -> io::Result<()> {
        let next = lock(&self.next).id.unwrap_or(u32::MAX);
        let last = self.table.with(|all| {
            let last = all.iter().rfind(|s| !s.header.merged && !unused.contains(&s.id()));
            last.map(|s| LogEnd { segment: s.id(), offset: s.end() as u32 })
        });
        let last = last.unwrap_or_default();
        self.change_manifest(|manifest| {
            manifest.next = next;
            manifest.remove(unused);
            manifest.closed = Some(last);
            if last.segment < manifest.first {
                manifest.first = next;
            }
        })
    }
}
