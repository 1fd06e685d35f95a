//! Rolling: another segment becomes active, and the one after that is prepared.
//!
//! Usually a background thread has created the standby ahead of time, and rolling is one
//! compare-and-swap, done by any writer that finds the active segment full. If there is no standby, one
//! of the writers takes the preparer's lock and creates a segment, while the others wait for the lock.
//!
//! A standby is published before its pages are in memory, and populated afterwards, a part at a time. A
//! writer that gets there sooner faults in its own pages, which costs it less than waiting for all.

#![allow(unsafe_code, reason = "reads a segment's first frame")]

use super::capacity::{Need, refused};
use super::maps::sync_error;
use super::{LogWriter, Unpopulated};
use crate::error::{AppendError, SyncError};
use crate::format::frame::{Kind, SYNC_MARK};
use crate::format::header::FIRST_FRAME;
use crate::log::append::tail::Preparer;
use crate::log::waiters::WakeLater;
use crate::options::{MAX_SEGMENT, SEGMENT_UNIT};
use crate::segment::{Segment, file_name, frames};
use crate::sync::lock;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Bytes to populate before checking whether a standby is needed: about a millisecond.
const POPULATE: u64 = 4 << 20;

impl LogWriter {
    /// Makes room for a frame of this length: makes another segment active, and creates it here if
    /// there is no standby. The caller then tries to reserve again: others may have filled that, too.
    #[cold]
    pub(crate) fn roll(&self, len: u64, need: Need) -> Result<(), AppendError> {
        let _inside = self.enter().ok_or(AppendError::Closed)?;
        self.check_writable()?;
        if need == Need::Put {
            self.check_space()?;
        }
        if !self.tail.roll() {
            let waiting = Instant::now();
            let mut preparer = self.tail.preparer();
            // The previous holder of the lock may have created a standby, and rolled already.
            if self.tail.is_full() && !preparer.has_standby() {
                self.prepare(&mut preparer, len, need)?;
            }
            self.tail.roll();
            if !self.is_manual() {
                lock(&self.next).grow_faster(&self.config);
            }
            drop(preparer);
            self.counters.waited_for_standby(waiting.elapsed());
        }
        self.after_roll()
    }

    /// Gets the next standby prepared. An error means that the log takes no more writes.
    pub(super) fn after_roll(&self) -> Result<(), AppendError> {
        tracing::debug!(tail = %self.tail.position(), "rolled");
        if self.is_manual() {
            while self.populate_some() {}
        } else {
            self.signals.wake_standby();
        }
        // A sync that failed closes the segment that is active at that time. If that was before this
        // roll, the failure is seen here, and the new segment is closed as well. If it is after this
        // check, it closes the new segment itself.
        self.check_writable().inspect_err(|_| self.tail.close())
    }

    /// An error if a sync or a background thread has failed, or the log is closed.
    pub(super) fn check_writable(&self) -> Result<(), AppendError> {
        let failed = self.check_maps().err();
        let failed = failed.or_else(|| self.group.failure().map(sync_error));
        let failed = failed.or_else(|| self.signals.failure().cloned().map(SyncError::Background));
        match failed {
            Some(source) => Err(AppendError::Sync { position: None, source }),
            None if self.gate.is_closed() => Err(AppendError::Closed),
            None => Ok(()),
        }
    }

    /// Creates a standby if there is none, and if that leaves space for others.
    pub(crate) fn prepare_standby(&self) -> Result<(), AppendError> {
        if self.tail.preparer().has_standby() || self.has_room_for_standby() {
            return self.prepare_next();
        }
        Err(refused(io::Error::new(
            io::ErrorKind::StorageFull,
            "a standby would leave too little space",
        )))
    }

    /// Creates a standby if there is none, even if it takes the last space.
    fn prepare_next(&self) -> Result<(), AppendError> {
        // What is found here to be inaccessible pads the active segment.
        let _after_the_lock = WakeLater::begin();
        let mut preparer = self.tail.preparer();
        if preparer.has_standby() || self.check_writable().is_err() {
            return Ok(());
        }
        self.prepare(&mut preparer, 0, Need::Append)
    }

    #[allow(unsafe_code, reason = "hands a new segment to the tail")]
    fn prepare(
        &self,
        preparer: &mut Preparer<'_, Segment>,
        len: u64,
        need: Need,
    ) -> Result<(), AppendError> {
        self.find_slot(preparer)?;
        // The reserve grows with the log. It comes first, since the new segment may take the last
        // space.
        if !self.is_short_of_space() {
            self.try_keep_reserve();
        }
        let segment = self.create(preparer, len, need)?;
        let unpopulated = Unpopulated { segment: segment.clone(), from: 0 };
        lock(&self.unpopulated).push_back(unpopulated);
        // SAFETY: the segment was just created, and nothing else writes to it.
        let published = unsafe { preparer.publish(segment, FIRST_FRAME) };
        published.expect("there is a slot");
        Ok(())
    }

    /// Makes sure that the tail has a slot for another segment, by advancing the prefix if necessary.
    pub(super) fn find_slot(&self, preparer: &Preparer<'_, Segment>) -> Result<(), AppendError> {
        if preparer.has_slot() {
            return Ok(());
        }
        let oldest = self.prefix.advance(&self.tail);
        if preparer.has_slot() { Ok(()) } else { Err(AppendError::Stalled { oldest }) }
    }

    /// Populates some pages that are not populated yet; false if there are none. Those that writers
    /// have filled already are skipped.
    pub(crate) fn populate_some(&self) -> bool {
        let Some(mut next) = lock(&self.unpopulated).pop_front() else { return false };
        let (tail, id) = (self.tail.position(), next.segment.id());
        if tail.segment() == id {
            next.from = next.from.max(u64::from(tail.offset()) / SEGMENT_UNIT * SEGMENT_UNIT);
        }
        let is_over = tail.segment() > id || next.from >= next.segment.header.capacity;
        if is_over || self.table.pin(id).is_none() {
            return true;
        }
        next.segment.map.populate(next.from, next.from + POPULATE);
        next.from += POPULATE;
        lock(&self.unpopulated).push_front(next);
        true
    }

    /// Removes a segment that was never active, and records that its id is used.
    pub(super) fn discard(&self, standby: Arc<Segment>) {
        // The id must not be used again, even if this process dies now: a reader in another process may
        // have the segment mapped, and would mistake it for the new one. If the id cannot be recorded,
        // the file stays, as an empty segment that the next recovery removes.
        let noted = self.write_next_id();
        if let Err(error) = &noted {
            tracing::warn!(segment = standby.id(), %error, "an unused segment is left in place");
        }
        self.take_out(standby, noted.is_ok());
    }

    /// Takes a segment that never was active out of the log, and removes its file.
    fn take_out(&self, standby: Arc<Segment>, with_file: bool) {
        let id = standby.id();
        // The next segment must name the one before this, or the chain of ids would break.
        lock(&self.next).previous = standby.header.previous;
        drop(standby);
        // Nor is it populated any more, which would keep its space taken.
        lock(&self.unpopulated).retain(|unpopulated| unpopulated.segment.id() != id);
        self.table.remove(|other| other == id);
        if !with_file {
            return;
        }
        if let Err(error) = self.storage.remove(&file_name(id)) {
            tracing::warn!(segment = id, %error, "could not remove an unused segment");
        }
    }

    /// Removes a standby that was created ahead.
    pub(super) fn remove_standby(&self) {
        // Withdrawing it pads the active segment.
        let _after_the_lock = WakeLater::begin();
        let mut preparer = self.tail.preparer();
        // The first segment is not withdrawn: the MANIFEST may say that the log begins with it.
        let is_first =
            self.tail.is_full() && u64::from(self.tail.position().offset()) == FIRST_FRAME;
        if !is_first
            && preparer.has_standby()
            && let Some(standby) = preparer.withdraw()
        {
            self.discard(standby);
        }
    }

    /// Makes another segment active, although there is room in the active one.
    pub(crate) fn force_roll(&self) -> Result<(), AppendError> {
        let active = self.tail.position().segment();
        // The standby comes first: if the disk is full, the active segment keeps its room.
        self.prepare_next()?;
        // A reservation that overruns the end pads the rest of the segment. This one fits into none.
        if self.tail.position().segment() == active {
            drop(self.tail.reserve(MAX_SEGMENT));
        }
        if self.tail.position().segment() == active { self.roll(0, Need::Append) } else { Ok(()) }
    }

    /// Makes another segment active, unless the active one is empty or holds only the last sync mark.
    pub(crate) fn roll_if_used(&self) -> Result<(), AppendError> {
        if self.active_is_unused() { Ok(()) } else { self.force_roll() }
    }

    /// A mark is told from other frames of its length by its header.
    fn active_is_unused(&self) -> bool {
        let tail = self.tail.position();
        let used = u64::from(tail.offset()).saturating_sub(FIRST_FRAME);
        if used == 0 {
            return true;
        }
        let is_mark = |segment: &Segment| {
            // SAFETY: a frame begins here.
            let frame = unsafe { frames::frame_at(segment, FIRST_FRAME, used) };
            let header = frame.ok().flatten().and_then(|frame| frame.header);
            header.is_some_and(|header| header.kind == Kind::SyncMark)
        };
        used == SYNC_MARK && self.table.pin(tail.segment()).is_some_and(|pin| is_mark(&pin))
    }
}

#[cfg(test)]
mod tests {
    use crate::sync::lock;
    use crate::{AppendError, CommitLog, Maintenance, SimulatedDisk};

    /// A large entry needs the space of the standby, which is populated or about to be.
    #[test]
    fn a_standby_that_makes_way_is_unmapped_at_once() {
        let options = CommitLog::options().segment_size(8192).segment_unit(4096);
        let options = options.maintenance(Maintenance::Manual);
        for is_begun in [false, true] {
            let disk = SimulatedDisk::new();
            let log = options.open_simulated(&disk).expect("a log");
            let writer = log.writer().expect("a writer's");
            lock(&writer.unpopulated).clear();
            writer.prepare_standby().expect("room");
            let begun = is_begun.then(|| lock(&writer.unpopulated).pop_back()).flatten();
            disk.set_space(Some(0));
            assert!(matches!(log.append(&[1; 20_000]), Err(AppendError::NoSpace { .. })));
            lock(&writer.unpopulated).extend(begun);
            assert_eq!(writer.populate_some(), is_begun);
            writer.reap();
            assert_eq!(log.stats().segments_waiting_for_readers, 0, "{is_begun}");
        }
    }
}
