//! What the handles on a log share, and how it is closed.
//!
//! A [`CommitLog`](super::CommitLog) is a handle: where to read and append, and a [`SharedLog`], which
//! ends the log when the last handle is dropped. A store is a handle on its log with a keydir; it ends
//! first, as the log's [`Tenant`].
//!
//! Invariants:
//! * A log is closed once, by whoever is first; others that close it wait for that, and get its result.
//! * **What was handed out stays valid.** Entries, values and iterators pin the segments that they are
//!   in, or own them. Closing unmaps only what nobody has, and never changes what was committed. Another
//!   writer may open the log meanwhile, merge and unlink: that changes names, not mapped files.
//! * **Nothing is lost or made up.** Closing waits for appends that have begun, and makes them durable.
//!   A read, a write or an iteration after that is an error (`Closed`), never "no such key" or "the
//!   end". An iteration that ends without an error has seen everything.
//! * **Everyone who waits is woken**: for a sync by the one that closing does, for an entry with
//!   `Closed`. Merges and the threads are stopped, and waited for, as are backups and verifications,
//!   before another writer is let in (`writer::close`).
//! * Figures and positions are those at the end.

use super::close_later::CloseLater;
use super::follower::Source;
use super::maintenance::MaintenanceThreads;
use super::recovery::RecoveryReport;
use super::stats::LogStats;
use super::writer::LogWriter;
use crate::error::SyncError;
use crate::position::LogPosition;
use crate::sync::{Mutex, lock};
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

/// What runs on a log, and ends before it does: its store.
pub(crate) trait Tenant: Debug + Send + Sync {
    /// Ends its thread, and what changes files and may take long.
    fn stop(&self);
    /// The log is sealed, and nobody writes any more. It is still locked.
    fn finish(&self);
}

/// What all handles on a log share. Dropping it closes the log.
#[derive(Debug)]
pub(crate) struct SharedLog {
    pub(super) source: Source,
    /// None for reading only, or where maintenance is done by hand, or once it is closed.
    threads: Mutex<Option<MaintenanceThreads>>,
    tenant: OnceLock<Arc<dyn Tenant>>,
    pub(super) id: u64,
    pub(super) report: RecoveryReport,
    /// Whether it was the log of a store when it was opened.
    stored: bool,
    /// The result, once it is closed.
    closing: Mutex<Option<Result<(), SyncError>>>,
    /// Its figures when it was closed.
    last: OnceLock<LogStats>,
}

impl SharedLog {
    pub(super) fn new(
        source: Source,
        threads: Option<MaintenanceThreads>,
        id: u64,
        report: RecoveryReport,
        stored: bool,
    ) -> Self {
        Self {
            source,
            threads: Mutex::new(threads),
            tenant: OnceLock::new(),
            id,
            report,
            stored,
            closing: Mutex::default(),
            last: OnceLock::new(),
        }
    }

    /// Lets a store use the log.
    pub(super) fn let_to(&self, tenant: Arc<dyn Tenant>) {
        let taken = self.tenant.set(tenant);
        debug_assert!(taken.is_ok(), "a log has one store");
    }

    pub(super) fn is_of_a_store(&self) -> bool {
        self.stored || self.tenant.get().is_some()
    }

    fn writer(&self) -> Option<&LogWriter> {
        match &self.source {
            Source::Writer(writer) => Some(writer),
            Source::Follower(_) => None,
        }
    }

    /// The figures at the end, once it is closed.
    pub(super) fn last(&self) -> Option<&LogStats> {
        self.last.get()
    }

    /// Closes the log, or waits until it is closed, and returns what came of it.
    pub(super) fn close(&self) -> Result<(), SyncError> {
        self.end(|writer| self.finish(writer), true)
    }

    fn finish(&self, writer: &LogWriter) -> Result<LogPosition, SyncError> {
        let end = writer.finish()?;
        self.tenant.get().into_iter().for_each(|tenant| tenant.finish());
        Ok(end)
    }

    /// Ends it as a dying process would.
    #[cfg(feature = "testing")]
    pub(super) fn abandon(&self) {
        let refuse = |writer: &LogWriter| {
            writer.refuse_appends();
            Ok(writer.tail())
        };
        let _ = self.end(refuse, true);
    }

    /// `finish` returns where the log ends. `has_others`: somebody may ask for figures later.
    fn end(
        &self,
        finish: impl FnOnce(&LogWriter) -> Result<LogPosition, SyncError>,
        has_others: bool,
    ) -> Result<(), SyncError> {
        if let Some(writer) = self.writer() {
            writer.check_outside_append()?;
        }
        let mut closing = lock(&self.closing);
        if let Some(result) = &*closing {
            return result.clone();
        }
        self.tenant.get().into_iter().for_each(|tenant| tenant.stop());
        // They end here.
        *lock(&self.threads) = None;
        let end = self.writer().map_or(Ok(None), |writer| finish(writer).map(Some));
        if has_others {
            let mut stats = self.source.stats();
            if let Ok(Some(end)) = end {
                (stats.tail, stats.committed) = (end, end);
                (stats.oldest_unfinished, stats.unfinished) = (None, None);
            }
            self.last.get_or_init(|| stats);
        }
        match self.writer() {
            Some(writer) => writer.let_go(),
            None => self.source.table().close(),
        }
        closing.insert(end.map(drop)).clone()
    }
}

impl SharedLog {
    /// Whether it is kept by this thread's [`CloseLater`].
    fn is_kept(&mut self) -> bool {
        if lock(&self.closing).is_some() || !self.writer().is_some_and(CloseLater::is_of) {
            return false;
        }
        // What the thread does ends soon.
        self.tenant.get().into_iter().for_each(|tenant| tenant.stop());
        let log = Self {
            source: self.source.clone(),
            threads: Mutex::new(lock(&self.threads).take()),
            tenant: std::mem::take(&mut self.tenant),
            id: self.id,
            report: std::mem::take(&mut self.report),
            stored: self.stored,
            closing: Mutex::default(),
            last: std::mem::take(&mut self.last),
        };
        // There is nothing left to be closed here.
        *lock(&self.closing) = Some(Ok(()));
        CloseLater::keep(log);
        true
    }
}

impl Drop for SharedLog {
    fn drop(&mut self) {
        if self.is_kept() {
            return;
        }
        if let Err(error) = self.end(|writer| self.finish(writer), false) {
            tracing::error!(%error, "closing a dropped log failed");
        }
    }
}
