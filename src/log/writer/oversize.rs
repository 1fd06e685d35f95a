//! Frames that get a segment of their own, because they are too large to share one.
//!
//! Such a segment takes long to create, so that is done before anything is locked. Then the standby is
//! taken back and the new segment takes its place, with the frame claimed in it before anybody else
//! can see it. In between nobody rolls: the preparer's lock is held, and there is no standby.
//!
//! A store creates the segment before it locks its key's shard, and claims under the lock; so there
//! the two are separate steps, with an `OversizeSegment` in between.

use super::LogWriter;
use super::capacity::Need;
use crate::error::AppendError;
use crate::format::header::FIRST_FRAME;
use crate::log::append::claim::Claim;
use crate::log::append::tail::Preparer;
use crate::options::MAX_SEGMENT;
use crate::segment::Segment;
use std::sync::Arc;

/// A segment for one frame, which is not active yet. Until it is, nobody rolls.
pub(crate) struct OversizeSegment<'c> {
    writer: &'c LogWriter,
    preparer: Preparer<'c, Segment>,
    segment: Option<Arc<Segment>>,
    len: u64,
}

impl<'c> OversizeSegment<'c> {
    /// Makes the segment active, with the frame claimed in it; to be followed by
    /// `after_roll` or `after_oversize_claim`.
    #[allow(unsafe_code, reason = "hands a new segment to the tail")]
    pub(crate) fn claim(mut self) -> Claim<'c, Segment> {
        let segment = self.segment.take().expect("it is used once");
        // SAFETY: the segment was just created with room for the frame, and nobody else writes to it.
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

    /// What a frame of this length needs before it can be claimed in no time: a segment of its own,
    /// or nothing.
    #[inline]
    pub(crate) fn oversize_segment(
        &self,
        len: u64,
        need: Need,
    ) -> Result<Option<OversizeSegment<'_>>, AppendError> {
        if self.is_oversize(len) { self.prepare_oversize(len, need).map(Some) } else { Ok(None) }
    }

    /// As `claim`, without waiting for anything: `None` where there is no room (see `roll`). A frame
    /// that gets a segment of its own takes it from `oversize`.
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

    /// Claims a frame that gets a segment of its own (and leaves what remains of it to others).
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
        self.check_writable()?;
        if need == Need::Put {
            self.check_space()?;
        }
        // What takes long comes first, and holds up nobody. Its pages are populated last, by the one
        // who fills them: what is dirty would have to be written before it has a name.
        let prepared = match self.prepare_file(len, need) {
            Err(AppendError::NoSpace { .. }) => {
                self.remove_standby();
                self.prepare_file(len, need)?
            }
            other => other?,
        };
        if self.tail.roll_number() == 1 && self.tail.is_full() {
            // The MANIFEST may say that the log begins with the segment that comes next.
            self.roll(0, need)?;
        }
        let mut preparer = self.tail.preparer();
        self.find_slot(&preparer)?;
        if let Some(standby) = preparer.withdraw() {
            self.discard(standby);
        }
        self.find_slot(&preparer)?;
        let segment = self.create_of(&preparer, prepared)?;
        Ok(OversizeSegment { writer: self, preparer, segment: Some(segment), len })
    }

    /// As `after_roll`, after an `OversizeSegment` was claimed, whose frame will be finished in any case: a slot may
    /// point at it. If a sync has failed meanwhile, the next write is told.
    pub(crate) fn after_oversize_claim(&self) {
        if let Err(error) = self.after_roll() {
            tracing::debug!(%error, "a sync failed beside a large write");
        }
    }
}

/// Faults in the pages of a frame that has a segment of its own, before they are filled.
pub(crate) fn populate(claim: &Claim<'_, Segment>) {
    let segment = claim.segment();
    segment.map.populate(0, segment.header.capacity);
}
