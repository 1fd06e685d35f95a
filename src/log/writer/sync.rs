//! Durability: how the leader of a group syncs the log, seals full segments and leaves a sync mark.
//!
//! `GroupCommit` decides which thread leads; this file is what the leader does. It advances the prefix
//! until everything before its goal is finished, syncs from where the last sync ended, segment by
//! segment in order, and seals each full segment. Then it appends a sync mark, which says how far the
//! log is durable, so that after a power loss damage before that place is known to be corruption and
//! not a torn tail.
//!
//! The mark itself makes the log longer. If only the last mark is behind the watermark, the log counts
//! as durable (`is_durable`); otherwise each sync would make the next one necessary.

use super::group_delay::Leader;
use super::maps::sync_error;
use super::signals::FailPoint;
use super::{LastSyncMark, LogWriter};
use crate::error::SyncError;
use crate::format::frame::{self, Header, Kind};
use crate::format::header::{FIRST_FRAME, Seal};
use crate::latency::Operation;
use crate::log::append::prefix::{Finished, Walked};
use crate::log::append::tail::rolls_between;
use crate::log::group_commit::{Failure, TaskTurn};
use crate::log::waiters::WakeLater;
use crate::options::Durability;
use crate::position::LogPosition;
use crate::storage::refuse_after;
use crate::sync::{Backoff, lock};
use std::io;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

/// Number of full segments that may wait for a quiet moment to be synced and sealed.
const SEAL_BACKLOG: u64 = 64;
/// The least unused space at the end of a sealed segment that is released; there is that much if it was
/// rolled early.
const WORTH_RELEASING: u64 = 64 << 10;

impl LogWriter {
    /// Makes everything before the tail durable, and returns that position.
    pub(crate) fn sync(&self) -> Result<LogPosition, SyncError> {
        self.sync_for(Leader::Caller)
    }

    /// As `sync`, on the background thread.
    pub(crate) fn sync_in_background(&self) -> Result<LogPosition, SyncError> {
        self.sync_for(Leader::Background)
    }

    /// As `sync`, of a periodic log without a thread that does it, once its period is over.
    pub(super) fn sync_if_due(&self) -> Result<(), SyncError> {
        let Durability::Periodic(period) = self.config.durability else { return Ok(()) };
        let is_due = self.is_manual() && {
            let mut last = lock(&self.synced_by_hand);
            let is_due = last.elapsed() >= period;
            if is_due {
                *last = Instant::now();
            }
            is_due
        };
        if is_due { self.sync_in_background().map(drop) } else { Ok(()) }
    }

    /// Syncs up to the position that tasks wait for, if any do.
    pub(crate) fn sync_for_tasks(&self) -> Result<(), SyncError> {
        match self.group.wanted() {
            Some(target) => self.wait_strictly(LogPosition::from_u64(target), Leader::Background),
            None => Ok(()),
        }
    }

    fn sync_for(&self, leader: Leader) -> Result<LogPosition, SyncError> {
        if self.is_closed() {
            return Err(SyncError::Closed);
        }
        self.check_maps()?;
        let target = self.tail.position();
        if !self.is_durable(target) {
            self.wait_strictly(target, leader)?;
        }
        Ok(self.durable())
    }

    /// Makes everything before a position durable.
    pub(super) fn sync_to(&self, target: LogPosition) -> Result<(), SyncError> {
        if self.is_durable(target) { Ok(()) } else { self.wait_strictly(target, Leader::Caller) }
    }

    /// The durable watermark: everything before it is on the device.
    pub(crate) fn durable(&self) -> LogPosition {
        LogPosition::from_u64(self.group.durable())
    }

    /// Waits until the frame at `position` is durable; for a position at or after the tail, until
    /// everything before the tail is.
    pub(crate) fn wait_durable(&self, position: LogPosition) -> Result<(), SyncError> {
        self.sync_to(self.target(position))
    }

    /// As `wait_durable`, for a task: the background thread syncs for it.
    pub(crate) async fn wait_durable_async(&self, position: LogPosition) -> Result<(), SyncError> {
        self.sync_to_async(self.target(position)).await
    }

    /// As `sync`, for a task.
    pub(crate) async fn sync_async(&self) -> Result<LogPosition, SyncError> {
        if self.is_closed() {
            return Err(SyncError::Closed);
        }
        self.sync_to_async(self.tail.position()).await?;
        Ok(self.durable())
    }

    async fn sync_to_async(&self, target: LogPosition) -> Result<(), SyncError> {
        if !self.signals.is_running() {
            return self.sync_to(target);
        }
        self.check_outside_append()?;
        let mut waiting = WaitingTask { writer: self, ticket: 0 };
        std::future::poll_fn(|context| {
            if self.is_durable(target) {
                return Poll::Ready(Ok(()));
            }
            match self.group.poll(target.as_u64(), &mut waiting.ticket, context.waker()) {
                TaskTurn::Done => Poll::Ready(Ok(())),
                TaskTurn::Failed(source) => Poll::Ready(Err(sync_error(source))),
                TaskTurn::Registered => {
                    // Only now: a task that looks before it is registered may miss the failure, or the
                    // end of the log, and the waking of all tasks.
                    if let Some(failure) = self.signals.sync_failure() {
                        return Poll::Ready(Err(SyncError::Background(failure.clone())));
                    }
                    if self.is_closed() {
                        return Poll::Ready(Err(SyncError::Closed));
                    }
                    self.signals.wake_sync();
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The watermark at which the frame at a position is durable.
    fn target(&self, position: LogPosition) -> LogPosition {
        LogPosition::from_u64(position.as_u64().saturating_add(1)).min(self.tail.position())
    }

    /// Whether everything before `target` is durable, except perhaps the last sync mark.
    fn is_durable(&self, target: LogPosition) -> bool {
        let mark = *lock(&self.mark);
        self.durable() >= target
            || mark.end == Some(target) && mark.start.is_some_and(|start| self.durable() >= start)
    }

    /// Waits until the watermark itself has reached `target`, including the last sync mark.
    fn wait_strictly(&self, target: LogPosition, leader: Leader) -> Result<(), SyncError> {
        self.check_outside_append()?;
        if self.is_closed() {
            return Err(SyncError::Closed);
        }
        let _after_the_sync = WakeLater::begin();
        let lead = || {
            self.wait_for_group(leader);
            self.lead(Some(self.tail.position()), leader)
        };
        let waited = self.group.wait(target.as_u64(), lead);
        waited.map_err(|source| self.sync_failed(source))
    }

    fn sync_failed(&self, source: Failure) -> SyncError {
        // Writers find a full segment from now on, and then the failure.
        self.tail.close();
        sync_error(source)
    }

    /// Whether it is time to seal: there was no roll since the last call, or there is a backlog. While
    /// writers are busy, walking and syncing would take processor time and memory bandwidth from them.
    pub(crate) fn wants_seal(&self) -> bool {
        let roll = self.tail.roll_number();
        // ORDERING: Relaxed; only the background thread uses it.
        let quiet = self.last_seen_roll.swap(roll, Ordering::Relaxed) == roll;
        let backlog = rolls_between(self.prefix.sealable_from(), roll);
        if !quiet && backlog < SEAL_BACKLOG {
            return false;
        }
        self.prefix.advance(&self.tail);
        self.prefix.finished() > 0
    }

    /// Seals the full segments in which every frame is finished. Waits for no append.
    pub(crate) fn seal_finished(&self) -> Result<(), SyncError> {
        self.check_outside_append()?;
        let prefix = self.prefix.advance(&self.tail);
        let sealed_up_to = LogPosition::new(prefix.segment(), 0);
        if self.group.durable() >= sealed_up_to.as_u64() {
            return Ok(());
        }
        let _after_the_sync = WakeLater::begin();
        let waited = self.group.wait(sealed_up_to.as_u64(), || self.lead(None, Leader::Background));
        waited.map_err(|source| self.sync_failed(source))
    }

    /// Waits until as many callers have come as the last sync served, but not for long (`GroupDelay`).
    /// Without this, two groups take turns, each half as large (with 64 threads, 19 per sync instead of
    /// 60).
    fn wait_for_group(&self, leader: Leader) {
        let (expected, limit) = (self.group_delay.expected(), self.group_delay.limit());
        let started = Instant::now();
        while self.group.waiting() + leader.callers() < expected && started.elapsed() < limit {
            std::thread::yield_now();
        }
    }

    /// One sync, by the leader. It first waits for the claims before `goal` to be finished. Without a
    /// goal it only seals: syncing the active segment would make its writers fault in each page again.
    fn lead(&self, goal: Option<LogPosition>, leader: Leader) -> io::Result<u64> {
        if leader == Leader::Background {
            self.signals.fail_point(FailPoint::Lead);
        }
        let callers = || self.group.waiting() + leader.callers();
        let served = callers();
        let mut backoff = Backoff::default();
        while self.prefix.advance(&self.tail) < goal.unwrap_or_default() {
            // The claim that is waited for may be gone.
            self.refuse_after_fault()?;
            backoff.wait();
        }
        let started = Instant::now();
        let result = self.sync_pending(goal.is_some());
        let result = result.and_then(|end| self.refuse_after_fault().map(|()| end));
        let took = started.elapsed();
        self.counters.synced(took, served);
        self.timer.record(Operation::Sync, took);
        if goal.is_some() {
            self.group_delay.record(callers(), took);
            lock(&self.next).syncs += 1;
        }
        match &result {
            Ok(end) if goal.is_some() => self.leave_mark(*end),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "a sync failed; the log refuses writes from now on");
                self.counters.sync_failed();
            }
        }
        result.map(LogPosition::as_u64)
    }

    /// An error once a mapped file could not be accessed.
    fn refuse_after_fault(&self) -> io::Result<()> {
        if self.config.catch_sigbus { refuse_after(self.map_fault()) } else { Ok(()) }
    }

    /// A sync after a fault, which fails.
    pub(super) fn lead_after_fault(&self) -> io::Result<u64> {
        self.counters.sync_failed();
        self.refuse_after_fault().map(|()| self.group.durable())
    }

    /// Syncs what is finished and not synced yet, and seals full segments. Returns the new watermark.
    fn sync_pending(&self, with_active: bool) -> io::Result<LogPosition> {
        let mut pending = lock(&self.pending);
        let (Walked { segment: current, offset, written }, finished) = self.prefix.take_finished();
        pending.finished.extend(finished);
        let sealed = pending.finished.len();
        while let Some(Finished { segment, frames, end }) = pending.finished.front() {
            let (frames, end, capacity) = (*frames, *end, segment.header.capacity);
            segment.sync(pending.from, capacity)?;
            segment.seal(Seal { end, frames, time: self.now() });
            if capacity - end >= WORTH_RELEASING {
                segment.shrink();
            }
            segment.close_file();
            tracing::debug!(segment = segment.id(), "sealed");
            self.counters.sealed_segment();
            pending.finished.pop_front();
            pending.from = FIRST_FRAME;
        }
        if sealed > 0 {
            self.table.weigh();
            // Otherwise that thread does, and nobody waits for it.
            if !self.has_sync_thread() {
                self.table.advise();
            }
        }
        if with_active && offset > pending.from {
            current.sync(pending.from, written)?;
            pending.from = offset;
        }
        Ok(current.position(pending.from))
    }

    /// Appends a sync mark: everything before `durable` is durable.
    fn leave_mark(&self, durable: LogPosition) {
        // If the segment is full, there is no mark: it is not worth a roll, nor an error.
        let Some(mut claim) = self.tail.reserve(frame::SYNC_MARK) else { return };
        let body = durable.as_u64().to_le_bytes();
        claim.write(frame::HEADER, &body);
        let end = claim.offset() + frame::SYNC_MARK;
        let header = Header::plain(Kind::SyncMark, 8);
        let start = claim.commit(header, frame::crc(&body));
        let end = LogPosition::new(start.segment(), end as u32);
        *lock(&self.mark) = LastSyncMark { start: Some(start), end: Some(end) };
    }
}

/// Keeps a task in the group that waits for a sync, until this is dropped.
struct WaitingTask<'a> {
    writer: &'a LogWriter,
    ticket: u64,
}

impl Drop for WaitingTask<'_> {
    fn drop(&mut self) {
        self.writer.group.forget(self.ticket);
    }
}
