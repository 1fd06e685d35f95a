//! Closing the log: everything is synced and sealed, and the MANIFEST says where the log ends.
//!
//! Other threads may still use the log. What they meet, in this order:
//!
//! 1. The gate is closed: nobody changes files any more, and so nobody rolls (`gate`).
//! 2. The standby is taken back and the rest of the active segment is padded. An append that has its
//!    range by then is finished, and waited for; every later one finds the segment full, rolls, and is
//!    refused. So the append path itself knows nothing of closing.
//! 3. All is synced, sealed and recorded. Whoever waits for a sync is woken by this one.
//! 4. `let_go`: the set of segments is emptied, which ends reading (see `segment::set`); those who wait
//!    for an entry are woken; and the directory is unlocked.

use super::LogWriter;
use super::maps::sync_error;
use super::seal::seal_and_shrink;
use crate::error::SyncError;
use crate::format::frame::WORD;
use crate::format::header::{FIRST_FRAME, Seal};
use crate::format::manifest::LogEnd;
use crate::log::waiters::WakeLater;
use crate::position::LogPosition;
use crate::segment::file_name;
use crate::sync::{Backoff, lock};
use std::io;
use std::sync::Arc;

impl LogWriter {
    /// Refuses appends, syncs and seals everything, and returns where the log ends. To be followed by
    /// `let_go`, whatever comes of it. Waits for appends in progress, and for those inside the gate.
    pub(crate) fn finish(&self) -> Result<LogPosition, SyncError> {
        let failed = |error| sync_error(Arc::new(error));
        self.gate.close();
        let after_the_lock = WakeLater::begin();
        let standby = self.tail.preparer().withdraw();
        drop(after_the_lock);
        let (tail, mut backoff) = (self.tail.position(), Backoff::default());
        while self.prefix.advance(&self.tail) < tail {
            self.check_maps()?;
            backoff.wait();
        }
        let (active, end, frames) = self.prefix.current();
        let end_of_log = active.position(end);
        self.sync_to(end_of_log)?;
        let mut unused: Vec<u32> = standby.iter().map(|standby| standby.id()).collect();
        if frames == 0 {
            // Its space is given back though handles may keep it mapped for long. (Except the one in
            // memory, which has no file.)
            active.shrink();
            unused.extend((!active.is_without_room()).then(|| active.id()));
        } else {
            // With the word of the pad, if there is one: a reader may be behind that, and come back.
            active.sync(FIRST_FRAME, (end + WORD).min(active.header.capacity)).map_err(failed)?;
            let seal = Seal { end, frames, time: self.now() };
            seal_and_shrink(&active, seal).map_err(failed)?;
        }
        // No id is used again, since a reader in another process may have the segment mapped. If that
        // cannot be recorded (on a full disk), unused segments are left to the next recovery.
        if let Err(error) = self.note_closed(&unused, active.header.previous) {
            tracing::warn!(%error, "the log is durable, but could not be marked as closed");
            return Ok(end_of_log);
        }
        drop((standby, active));
        for &id in &unused {
            // The next recovery removes what stays.
            self.remove_file(&file_name(id));
        }
        self.storage.sync_directory().map_err(failed)?;
        Ok(end_of_log)
    }

    /// Ends reading, wakes all who wait, and lets another writer in.
    pub(crate) fn let_go(&self) {
        self.gate.close();
        lock(&self.unpopulated).clear();
        self.table.close();
        self.tail.waiters.notify();
        self.group.wake_tasks();
        self.storage.unlock();
    }

    /// Whether `let_go` was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.table.is_closed()
    }

    /// Refuses appends and changes no file: a dying process leaves them as they are.
    #[cfg(feature = "testing")]
    pub(crate) fn refuse_appends(&self) {
        self.gate.close();
        self.tail.reserve_unclaimed(crate::options::MAX_SEGMENT);
    }

    /// Records where the log ends, and that the unused segments do not belong to it. `before` the active
    /// one was this segment.
    fn note_closed(&self, unused: &[u32], before: u32) -> io::Result<()> {
        let next = lock(&self.next).id.unwrap_or(u32::MAX);
        let last = self.table.with(|all| {
            let last = all.iter().rfind(|s| !s.header.merged && !unused.contains(&s.id()));
            last.map(|s| LogEnd { segment: s.id(), offset: s.end() as u32 })
        });
        self.change_manifest(|manifest| {
            manifest.next = next;
            manifest.remove(unused);
            // Of an empty log the last segment that was dropped: the next one names that.
            manifest.closed = Some(last.unwrap_or(LogEnd { segment: before, offset: 0 }));
            if last.is_none_or(|last| last.segment < manifest.first) {
                manifest.first = next;
            }
        })
    }
}
