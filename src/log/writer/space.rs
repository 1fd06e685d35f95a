//! Where the space for new segments comes from.
//!
//! * If there is no room for a segment of the wanted size, a smaller one is created: as small as 64
//!   KiB, or as the waiting frame needs.
//! * A standby, which is created ahead, is created only if that leaves room for others.
//! * Writes that lead to space being freed (deletes, merges) may use the reserve.
//! * A log that is opened with no byte free begins with a segment in memory that has no room at all;
//!   the first write creates a real one, as after any full segment.

use super::LogWriter;
use super::capacity::{Need, SMALLEST, capacities, first_that_fits, is_no_space, refused};
use super::next::{NewSegment, create};
use crate::error::AppendError;
use crate::format::frame;
use crate::format::header::FIRST_FRAME;
use crate::log::append::tail::Preparer;
use crate::segment::Segment;
use crate::storage::Prepared;
use crate::sync::{lock, thread};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Space that must stay free after creating a standby, and at least as much as it takes.
const MARGIN: u64 = 4 << 20;
/// The pauses, in ms, after which to unmap what was merged: others may look at it for a moment. Whoever keeps
/// some of it is not waited for.
const LOOKS: [u64; 7] = [0, 1, 2, 4, 8, 15, 30];
/// How often to try again, since other programs may take the released space.
const TRIES: usize = 3;

impl LogWriter {
    /// Creates a segment that can become active next, with room for a frame of this length.
    pub(super) fn create(
        &self,
        preparer: &Preparer<'_, Segment>,
        len: u64,
        need: Need,
    ) -> Result<Arc<Segment>, AppendError> {
        if self.ids_are_exhausted() {
            return Err(AppendError::IdsExhausted);
        }
        let new = NewSegment::Log { roll: preparer.next_roll() };
        let wanted = {
            let mut next = lock(&self.next);
            next.choose_pages(&self.config);
            next.size
        };
        let segment = self.with_space(need, || {
            // The space released by the reserve must suffice for merges too.
            let wanted = if self.is_short_of_space() { SMALLEST } else { wanted };
            let sizes = capacities(&self.config, wanted, len, self.storage.free_space());
            first_that_fits(sizes, |size| {
                create(&self.next, &*self.storage, new, self.storage.prepare(size)?)
            })
        })?;
        lock(&self.next).grow(segment.header.capacity, &self.config);
        Ok(self.created(segment))
    }

    /// As `create`, from a prepared file, which is quick.
    pub(super) fn create_of(
        &self,
        preparer: &Preparer<'_, Segment>,
        prepared: Prepared,
    ) -> Result<Arc<Segment>, AppendError> {
        if self.ids_are_exhausted() {
            return Err(AppendError::IdsExhausted);
        }
        let new = NewSegment::Log { roll: preparer.next_roll() };
        let segment = create(&self.next, &*self.storage, new, prepared).map_err(refused)?;
        Ok(self.created(segment))
    }

    fn created(&self, segment: Segment) -> Arc<Segment> {
        let segment = Arc::new(segment);
        self.table.insert(segment.clone());
        self.counters.created_segment();
        segment
    }

    /// Allocates a file with room for a frame of this length, before any thread has to wait for it.
    pub(super) fn prepare_file(&self, len: u64, need: Need) -> Result<Prepared, AppendError> {
        self.with_space(need, || {
            let sizes = capacities(&self.config, 0, len, self.storage.free_space());
            first_that_fits(sizes, |size| self.storage.prepare(size))
        })
    }

    /// Creates a segment for a merge, with room for frames of this total length.
    pub(super) fn create_for_merge(
        &self,
        len: u64,
        inputs: &[u32],
    ) -> Result<Segment, AppendError> {
        if self.ids_are_exhausted() {
            return Err(AppendError::IdsExhausted);
        }
        let gain = self.gain_of_merging(len, inputs);
        let len = frame::inputs_len(inputs.len()) + len;
        let make = || {
            let free = self.storage.free_space();
            let is_scarce = free.is_some_and(|free| free < len.saturating_add(MARGIN));
            // Its unused space is released in the end, but others may need it until then.
            let sizes = capacities(&self.config, 0, len, if is_scarce { Some(0) } else { free });
            first_that_fits(sizes, |size| {
                let prepared = self.storage.prepare(size)?;
                create(&self.next, &*self.storage, NewSegment::Merged { inputs }, prepared)
            })
        };
        match make() {
            Err(error) if is_no_space(&error) => {
                if self.unmap_retired()
                    && let Ok(segment) = make()
                {
                    return Ok(segment);
                }
                self.remove_standby();
                // Merely packing segments is not worth the reserve.
                let need = if gain >= SMALLEST { Need::Delete } else { Need::Append };
                self.with_space(need, make)
            }
            other => other.map_err(refused),
        }
    }

    /// Bytes that merging segments into one with frames of this length reclaims.
    fn gain_of_merging(&self, len: u64, inputs: &[u32]) -> u64 {
        let used: u64 = self.table.with(|all| {
            let inputs = all.iter().filter(|s| inputs.contains(&s.id()));
            inputs.map(|s| s.end().saturating_sub(FIRST_FRAME)).sum()
        });
        used.saturating_sub(len)
    }

    fn ids_are_exhausted(&self) -> bool {
        let next = lock(&self.next);
        next.id.is_none() && next.for_log.is_none()
    }

    /// Runs an operation that needs space. If there is none, releases the reserve, if `need` may use
    /// it, and runs it again.
    fn with_space<T>(
        &self,
        need: Need,
        mut run: impl FnMut() -> io::Result<T>,
    ) -> Result<T, AppendError> {
        let is_full = |done: &io::Result<T>| matches!(done, Err(error) if is_no_space(error));
        let mut done = run();
        if is_full(&done) && self.table.waiting().0 > 0 {
            for wait in LOOKS {
                thread::sleep(Duration::from_millis(wait));
                // Asked first: what nobody looked at then is unmapped now, if it can be at all.
                let is_looked_at = self.table.is_looked_at();
                self.table.reap();
                done = run();
                if !is_full(&done) || !is_looked_at {
                    break;
                }
            }
        }
        for _ in 0..TRIES {
            if !is_full(&done) || need != Need::Delete || !self.give_back_reserve() {
                break;
            }
            done = run();
        }
        done.map_err(refused)
    }

    /// Unmaps merged and truncated segments, which take their space until then. True if there were any.
    fn unmap_retired(&self) -> bool {
        if self.table.waiting().0 == 0 {
            return false;
        }
        self.table.reap();
        true
    }

    /// Whether there is room for a standby, and some left for others.
    pub(super) fn has_room_for_standby(&self) -> bool {
        let wanted = lock(&self.next).size;
        let free = self.storage.free_space();
        free.is_none_or(|free| free >= wanted.saturating_add(wanted.max(MARGIN)))
    }
}
