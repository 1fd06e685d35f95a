//! Segments beside the log, for merges; and the removal of segments, merged or truncated.
//!
//! In either case the MANIFEST durably lists a segment as removed before its file is removed. Until the
//! removal is durable, each MANIFEST lists it, so that a file which reappears is not mistaken for the
//! only one with its content.

use super::LogWriter;
use crate::error::{AppendError, SyncError, TruncateError};
use crate::format::frame;
use crate::format::header::FIRST_FRAME;
use crate::format::manifest::Manifest;
use crate::log::stats::TruncateReport;
use crate::options::{MAX_SEGMENT, Retention};
use crate::position::LogPosition;
use crate::segment::history::History;
use crate::segment::{Segment, file_name, hint_name};
use crate::sync::lock;
use std::io;
use std::sync::Arc;

impl LogWriter {
    /// Creates a segment for a merge, with room for frames of this total length. It is not part of the
    /// log, and not in the set yet. It lists its inputs from the beginning, so that recovery can tell
    /// an output of an interrupted merge, whose inputs all exist, from a segment that has replaced its
    /// inputs.
    pub(crate) fn create_merged(&self, len: u64, inputs: &[u32]) -> Result<Segment, AppendError> {
        self.check_writable()?;
        let max = MAX_SEGMENT - FIRST_FRAME - frame::inputs_len(inputs.len());
        if len > max {
            return Err(AppendError::TooLarge { len, max });
        }
        self.create_for_merge(len, inputs)
    }

    /// Adds the output of a merge to the set, where readers find it.
    pub(crate) fn add_merged(&self, segment: Arc<Segment>) {
        self.table.insert(segment);
    }

    /// Durably records that segments are removed, and removes them: their replacements are in the set,
    /// and durable. After an error all of them still exist. Damaged ones are set aside.
    pub(crate) fn retire(&self, doomed: &[u32], damaged: &[u32]) -> io::Result<()> {
        self.change_manifest(|new| {
            self.table.with(|all| {
                let last = all.iter().rfind(|s| !s.header.merged && doomed.contains(&s.id()));
                if let Some(last) = last.map(|s| s.id()).filter(|&id| id >= new.first) {
                    let next =
                        all.iter().find(|s| !s.header.merged && s.id() > last).map(|s| s.id());
                    let next = next.or_else(|| self.first_to_come());
                    new.first = next.expect("the active segment is not merged");
                }
                let beside = all.iter().filter(|s| s.header.merged || s.id() < new.first);
                new.kept = beside.map(|s| s.id()).filter(|id| !doomed.contains(id)).collect();
            });
            new.remove(doomed);
        })?;
        self.table.remove(|id| doomed.contains(&id));
        // Segments whose files could not be removed stay listed.
        let mut gone = Vec::with_capacity(doomed.len());
        for &id in doomed {
            self.remove_file(&hint_name(id));
            let name = file_name(id);
            let is_gone = match damaged.contains(&id).then(|| self.storage.set_aside(&name, &name))
            {
                Some(Ok(to)) => {
                    tracing::warn!(name, to, "a damaged segment was set aside");
                    true
                }
                // The unused file stays, and the next recovery removes it.
                Some(Err(error)) => {
                    tracing::warn!(name, %error, "could not set a damaged segment aside");
                    false
                }
                None => self.remove_file(&name),
            };
            if is_gone {
                gone.push(id);
            }
        }
        match self.storage.sync_directory() {
            Ok(()) => self.files_are_gone(&gone),
            Err(error) => tracing::warn!(%error, "could not sync the directory after a merge"),
        }
        Ok(())
    }

    /// Removes outputs of a merge that no MANIFEST lists. Until they are durably gone, each MANIFEST
    /// lists them as removed: once their inputs are merged after all, an output that was left, or
    /// reappeared after a power loss, would look like the only segment with its content.
    pub(crate) fn discard_merged(&self, ids: &[u32]) {
        lock(&self.manifest).remove(ids);
        if let Err(error) = self.write_next_id() {
            tracing::warn!(%error, "could not record that ids are used up");
        }
        let mut gone = Vec::with_capacity(ids.len());
        for &id in ids {
            self.remove_file(&hint_name(id));
            if self.remove_file(&file_name(id)) {
                gone.push(id);
            }
        }
        match self.storage.sync_directory() {
            Ok(()) => self.files_are_gone(&gone),
            Err(error) => tracing::warn!(%error, "could not sync the directory after a merge"),
        }
    }

    /// Where the log begins once a policy has dropped what it does not keep.
    fn retained_from(&self, retention: Retention, as_if_sealed: bool) -> LogPosition {
        let (tail, now) = (self.tail.position(), self.now());
        self.table.with(|all| {
            let history = History::new(all.iter().map(|listed| &**listed), tail);
            history.counting_as_sealed(as_if_sealed).retained_from(retention, now)
        })
    }

    /// Drops what a policy does not keep.
    pub(crate) fn retain(&self, retention: Retention) -> Result<TruncateReport, TruncateError> {
        let _inside = self.enter().ok_or(TruncateError::Closed)?;
        // What is full and not sealed yet may have to go, too.
        self.seal_finished().map_err(io_failed)?;
        self.truncate_before(self.retained_from(retention, false))
    }

    /// As `retain`, with the log's own policy, if it has one. If that fails, it is tried again.
    pub(crate) fn apply_retention(&self) {
        let Some(retention) = self.config.retention else { return };
        let is_due = |as_if_sealed| {
            let from = self.retained_from(retention, as_if_sealed);
            self.table.first().is_some_and(|first| first < from.segment()).then_some(from)
        };
        // Sealing is left to a quiet moment where nothing may go in any case. A failed sync is told to others.
        if is_due(true).is_none() || self.seal_finished().is_err() {
            return;
        }
        let Some(from) = is_due(false) else { return };
        match self.truncate_before(from) {
            Ok(TruncateReport { begin, segments, bytes }) => {
                tracing::debug!(%begin, segments, bytes, "old segments were dropped");
            }
            Err(error) => tracing::warn!(%error, "old segments could not be dropped"),
        }
    }

    /// Drops the segments that lie completely before a position. A file that cannot be removed stays
    /// listed in the MANIFEST, and the next open removes it.
    pub(crate) fn truncate_before(
        &self,
        position: LogPosition,
    ) -> Result<TruncateReport, TruncateError> {
        let io = |error: io::Error| TruncateError::Io { source: Arc::new(error) };
        let _inside = self.enter().ok_or(TruncateError::Closed)?;
        let tail = self.tail.position();
        if position > tail {
            return Err(TruncateError::PastEnd { position, tail });
        }
        self.seal_finished().map_err(io_failed)?;
        // One truncation at a time: a second one finds nothing left to do.
        let _turn = lock(&self.truncating);
        let (doomed, bytes): (Vec<u32>, Vec<u64>) = self.table.with(|all| {
            let before = all.iter().take_while(|s| s.id() < position.segment() && s.is_sealed());
            before.map(|s| (s.id(), s.map.len() as u64)).unzip()
        });
        let Some(&last) = doomed.last() else { return Ok(self.truncated(&[])) };
        let first = self.table.with(|all| all.iter().map(|s| s.id()).find(|&id| id > last));
        let first = first.or_else(|| self.first_to_come()).unwrap_or(tail.segment());
        let begin_there = |manifest: &mut Manifest| {
            // Segments that salvage keeps beside the log are dropped first; then the log itself begins
            // later.
            manifest.first = manifest.first.max(first);
            manifest.kept.retain(|id| !doomed.contains(id));
            manifest.remove(&doomed);
        };
        self.change_manifest(begin_there).map_err(io)?;
        self.table.remove(|id| id <= last);
        self.schedule_reap();
        let mut failed = None;
        let mut gone = Vec::with_capacity(doomed.len());
        for &id in &doomed {
            match self.storage.remove(&file_name(id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    failed.get_or_insert(error);
                }
                _ => gone.push(id),
            }
        }
        self.counters.truncated_segments(doomed.len() as u64);
        self.storage.sync_directory().map_err(io)?;
        self.files_are_gone(&gone);
        failed.map_or_else(|| Ok(self.truncated(&bytes)), |error| Err(io(error)))
    }

    /// What came of dropping segments of these lengths.
    fn truncated(&self, bytes: &[u64]) -> TruncateReport {
        let first = self.table.first();
        TruncateReport {
            begin: first
                .map_or(self.tail.position(), |id| LogPosition::new(id, FIRST_FRAME as u32)),
            segments: bytes.len() as u64,
            bytes: bytes.iter().sum(),
        }
    }

    /// Unmaps retired segments, here or in the background, and tells the kernel what the change of the
    /// segments means for the others.
    pub(crate) fn schedule_reap(&self) {
        if self.has_sync_thread() {
            self.signals.wake_sync();
        } else {
            self.reap();
        }
    }

    /// Unmaps retired segments without readers, and tells the kernel what to do with the others.
    pub(crate) fn reap(&self) {
        self.table.reap();
        self.table.advise();
    }

    /// Whether a background thread unmaps retired segments and seals full ones.
    pub(crate) fn has_sync_thread(&self) -> bool {
        !self.is_manual() && self.signals.sync_failure().is_none()
    }
}

fn io_failed(error: SyncError) -> TruncateError {
    TruncateError::Io { source: Arc::new(io::Error::other(error)) }
}
