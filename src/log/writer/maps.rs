//! Segments that cannot be accessed any more, where SIGBUS is caught.
//!
//! An access that fails leaves a fault behind, and a page that is in no file (`storage/sys/sigbus`). From
//! then on the log refuses writes. Invariant: **no write is acknowledged, and no sync succeeds, whose bytes
//! may be in such a page.** The fault is recorded before the page is replaced; so whoever has stored
//! something, and then finds no fault, has stored it in the file's pages. Everything that is acknowledged
//! comes here first: appends (`acknowledge_as`), syncs before they move the watermark (`lead`), and changes
//! of files, which the storage itself refuses.
//!
//! Without the option `catch_sigbus` this is one look at a flag, on paths that have one anyway.

use super::LogWriter;
use crate::error::{MapFault, SyncError};
use crate::log::group_commit::Failure;
use crate::storage::fault_in;
use std::sync::atomic::{Ordering, fence};

impl LogWriter {
    /// An error if a mapped file could not be accessed, by any thread. What this thread has stored before
    /// is in the files' pages if there is none.
    #[inline]
    pub(crate) fn check_maps(&self) -> Result<(), SyncError> {
        if self.config.catch_sigbus { self.look_for_fault() } else { Ok(()) }
    }

    #[inline(never)]
    fn look_for_fault(&self) -> Result<(), SyncError> {
        match self.map_fault() {
            None => Ok(()),
            Some(fault) => {
                // Writers find a full segment from now on, and then the fault; readers look again.
                self.tail.close();
                self.tail.waiters.notify();
                Err(SyncError::Map(fault))
            }
        }
    }

    /// The first access to a mapped file that failed.
    pub(super) fn map_fault(&self) -> Option<MapFault> {
        // ORDERING: SeqCst fence; pairs with the fault's Release, by way of the page that was replaced: what
        // this thread has stored went to some page before the fault is looked for. If it was one that had
        // been replaced, its fault was recorded before.
        fence(Ordering::SeqCst);
        self.storage.fault()
    }

    /// Has a fault known to all who wait for a sync. Called now and then in the background.
    pub(crate) fn spread_fault(&self) {
        if self.config.catch_sigbus
            && self.group.failure().is_none()
            && let Err(error) = self.look_for_fault()
        {
            tracing::error!(%error, "a file cannot be accessed; the log refuses writes from now on");
            // It fails, and whoever waits gets the failure.
            let _ = self.group.wait(u64::MAX, || self.lead_after_fault());
            self.group.wake_tasks();
        }
    }
}

/// The error of a sync that failed.
pub(super) fn sync_error(source: Failure) -> SyncError {
    match fault_in(&source) {
        Some(fault) => SyncError::Map(fault),
        None => SyncError::Failed { source },
    }
}
