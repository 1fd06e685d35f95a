//! Oversize frames: each gets a segment of its own, because it does not fit into one that is shared.
//!
//! The file of such a segment takes long to allocate, so that is done first, with nothing locked. Then,
//! under the preparer's lock, the active segment is closed and the standby taken back, and the new
//! segment takes the standby's place, with the frame claimed in it before anybody else can see it. What
//! remains of it behind the frame is for others. Until it becomes active no thread can roll, since
//! there is no standby, and creating one takes the lock.
//!
//! A store needs this in two steps: it makes the segment ready before it locks its key's shard, and
//! claims the frame under that lock, in no time. An `OversizeSegment` is what it holds in between.

use super::LogWriter;
use super::capacity::Need;
use super::gate::Inside;
use crate::error::AppendError;
use crate::format::header::FIRST_FRAME;
use crate::log::append::claim::Claim;
use crate::log::append::tail::Preparer;
use crate::log::waiters::WakeLater;
use crate::options::MAX_SEGMENT;
use crate::segment::Segment;
use std::sync::Arc;

/// A segment for one frame, created and not yet active. Until it is, no other thread rolls. If this is
/// dropped, the segment is removed.
pub(crate) struct OversizeSegment<'c> {
    writer: &'c LogWriter,
    preparer: Preparer<'c, Segment>,
    segment: Option<Arc<Segment>>,
    len: u64,
    /// Until it is claimed or removed.
    _inside: Inside<'c>,
    /// The last one, so that it is dropped after the lock. Where the frame is not finished by then, the
    /// caller has another one.
    _after_the_lock: WakeLater,
}

impl<'c> OversizeSegment<'c> {
    /// Makes the segment active, with the frame claimed in it. To be followed by `after_roll` or
    /// `after_oversize_claim`.
    #[allow(unsafe_code, reason = "hands a new segment to the tail")]
    pub(crate) fn claim(mut self) -> Claim<'c, Segment> {
        let segment = self.segment.take().expect("it is used once");
        // SAFETY: the segment was just created with room for the frame, and nothing else writes to it.
        let claim = unsafe { self.preparer.publish_claimed(segment, FIRST_FRAME, self.len) };
        self.writer.tail.roll();
        claim
    }
}

impl Drop for OversizeSegment<'_> {
    fn drop(&mut self) {
        self.segment.take().into_iter().for_each(|unused| self.writer.discard(unused));
    }
}

impl LogWriter {
    /// Whether a frame of this length gets a segment of its own.
    #[inline]
    pub(crate) const fn is_oversize(&self, len: u64) -> bool {
        len > self.max_shared
    }

    /// The segment that a frame of this length needs before it can be claimed without waiting; `None`
    /// for a frame that shares a segment.
    #[inline]
    pub(crate) fn oversize_segment(
        &self,
        len: u64,
        need: Need,
    ) -> Result<Option<OversizeSegment<'_>>, AppendError> {
        if self.is_oversize(len) { self.prepare_oversize(len, need).map(Some) } else { Ok(None) }
    }

    /// As `claim`, without waiting for anything: `None` if there is no room (see `roll`). An oversize
    /// frame takes its segment from `oversize`.
    #[inline]
    pub(crate) fn try_claim<'c>(
        &'c self,
        oversize: &mut Option<OversizeSegment<'c>>,
        len: u64,
        need: Need,
    ) -> Option<Claim<'c, Segment>> {
        match oversize.take() {
            Some(segment) => Some(segment.claim()),
            None if need == Need::Put && self.is_short_of_space() => None,
            None => self.tail.reserve(len),
        }
    }

    /// For whoever claims a frame of this length and then finishes it.
    #[inline]
    pub(crate) fn wake_after(&self, len: u64) -> Option<WakeLater> {
        self.is_oversize(len).then(WakeLater::begin)
    }

    /// Claims an oversize frame.
    #[cold]
    pub(super) fn claim_oversize(&self, len: u64) -> Result<Claim<'_, Segment>, AppendError> {
        let claim = self.prepare_oversize(len, Need::Append)?.claim();
        self.after_roll()?;
        populate(&claim);
        Ok(claim)
    }

    #[cold]
    fn prepare_oversize(&self, len: u64, need: Need) -> Result<OversizeSegment<'_>, AppendError> {
        let max = MAX_SEGMENT - FIRST_FRAME;
        if len > max {
            return Err(AppendError::TooLarge { len, max });
        }
        let inside = self.enter().ok_or(AppendError::Closed)?;
        self.check_writable()?;
        if need == Need::Put {
            self.check_space()?;
        }
        // Allocated before anything is locked, so that no thread has to wait for it. Its pages are
        // populated only when the frame is about to be filled: if they were dirty now, they would have
        // to be written before the file can be renamed.
        let prepared = match self.prepare_file(len, need) {
            Err(AppendError::NoSpace { .. }) => {
                self.remove_standby();
                self.prepare_file(len, need)?
            }
            other => other?,
        };
        if self.tail.roll_number() == 1 && self.tail.is_full() {
            // The log was opened with no space for a segment. The MANIFEST says that it begins with the
            // next segment, which therefore must not be withdrawn.
            self.roll(0, need)?;
        }
        let _after_the_lock = WakeLater::begin();
        let mut preparer = self.tail.preparer();
        self.find_slot(&preparer)?;
        if let Some(standby) = preparer.withdraw() {
            self.discard(standby);
        }
        self.find_slot(&preparer)?;
        let segment = self.create_of(&preparer, prepared)?;
        Ok(OversizeSegment {
            writer: self,
            preparer,
            segment: Some(segment),
            len,
            _inside: inside,
            _after_the_lock,
        })
    }

    /// As `after_roll`, after an `OversizeSegment` was claimed. Its frame is finished in any case, since
    /// a slot of the keydir may point at it already; so a sync that has failed meanwhile is left for
    /// the next write to find.
    pub(crate) fn after_oversize_claim(&self) {
        if let Err(error) = self.after_roll() {
            tracing::debug!(%error, "a sync failed during a large write");
        }
    }
}

/// Faults in the pages of an oversize frame, before it is filled.
pub(crate) fn populate(claim: &Claim<'_, Segment>) {
    let segment = claim.segment();
    segment.map.populate(0, segment.header.capacity);
}
