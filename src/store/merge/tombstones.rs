//! Which tombstones are still needed: those of keys that another segment may hold an older put of.
//!
//! Most segments are ruled out without reading anything:
//!
//! * by age: nothing in them is older than the tombstone;
//! * because no put in them is dead. An older put of a key was overwritten or deleted, and every put that
//!   was is counted as dead in its segment.
//!
//! A delete commits its tombstone first and counts the put after that, so a merge may have read the
//! tombstone while the count is still zero. Invariant: **the count is asked after all who wrote one of the
//! inputs' tombstones have counted.** They wrote it, and counted, while they held the lock of the key's
//! shard. So the filter, which is made when the inputs are sealed and no frame is added to them, begins by
//! waiting until every lock of a shard that is held at that time has been released
//! ([`Keydir::wait_for_writers`]). This holds for tombstones that damage has made unreadable, too, whose
//! keys nobody knows.
//!
//! Of the others the hint is asked. It is not read whole: its filter rules out most names, a block of it
//! at a time, and for the rest the one block is read that the name would be in. Questions come sorted,
//! so each block is read once. Hints are opened one after the other, so nothing is kept in memory but
//! the questions, however many segments there are. (A sketch in memory of a few KiB a segment could say
//! no only of segments with a few thousand keys: whatever says no to a key that is not there takes some
//! bits for each that is.)
//!
//! Invariant: a question whose answer is not certain is answered with yes.
//!
//! [`Keydir::wait_for_writers`]: crate::keydir::Keydir::wait_for_writers

use crate::format::hint::{BLOCK, Census, KeyName};
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::store::hints;
use crate::store::inner::Contents;
use crate::sync::lock;
use std::sync::Arc;

/// The segments other than the inputs, which may hold older values that the inputs' tombstones hide.
#[derive(Debug)]
pub(crate) struct TombstoneFilter<'i> {
    inner: Contents<'i>,
    others: Vec<OtherSegment>,
}

#[derive(Debug)]
struct OtherSegment {
    segment: Arc<Segment>,
    /// No frame in it was first written before this position.
    oldest: u64,
    /// What is known of it; `None` if it may hold anything.
    census: Option<Census>,
}

/// Whether one of the other segments may hold a put of a key that is older than a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) name: KeyName,
    pub(crate) before: LogPosition,
    /// Not so far, until it is asked.
    pub(crate) may_be: bool,
}

impl Question {
    pub(crate) const fn new(name: KeyName, before: LogPosition) -> Self {
        Self { name, before, may_be: false }
    }
}

impl<'i> TombstoneFilter<'i> {
    /// Reads no hint. Waits for writers that may not have counted yet; see above.
    pub(crate) fn new(inner: Contents<'i>, inputs: &[Arc<Segment>]) -> Self {
        debug_assert!(inputs.iter().all(|input| input.is_sealed()));
        inner.keydir.wait_for_writers();
        let all = inner.table.segments().into_iter();
        let others = all.filter(|other| inputs.iter().all(|input| input.id() != other.id()));
        let others = others.map(|segment| OtherSegment::of(inner, segment)).collect();
        Self { inner, others }
    }

    /// Answers questions, which are sorted by their names. `after` is called with the bytes of hints that
    /// were read, segment by segment.
    pub(crate) fn ask<E>(
        &self,
        questions: &mut [Question],
        mut after: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        debug_assert!(questions.is_sorted_by_key(|question| question.name));
        for other in &self.others {
            after(other.answer(self.inner, questions))?;
        }
        Ok(())
    }

    /// Whether one of them may hold anything older.
    pub(crate) fn may_hold_any(&self, origin: LogPosition) -> bool {
        self.others.iter().any(|other| other.oldest < origin.as_u64())
    }
}

impl OtherSegment {
    fn of(inner: Contents<'_>, segment: Arc<Segment>) -> Self {
        let misled = lock(inner.damaged).get(&segment.id()).is_some_and(|damaged| damaged.misled);
        // Without a census it is active, or damaged; or its hint is not trusted.
        let census = segment.census.get().filter(|_| !misled).copied();
        // Frames that a merge moved are older than their segment, by an unknown amount.
        let least = if segment.header.merged { 0 } else { segment.position(0).as_u64() };
        Self { oldest: census.map_or(least, |census| census.oldest), census, segment }
    }

    /// Says yes to the questions that are to be answered so for this segment. Returns the bytes read.
    fn answer(&self, inner: Contents<'_>, questions: &mut [Question]) -> u64 {
        let is_open =
            |question: &&mut Question| !question.may_be && self.oldest < question.before.as_u64();
        let mut open = questions.iter_mut().filter(is_open).peekable();
        if open.peek().is_none() || self.census.is_some() && self.segment.dead.get() == 0 {
            return 0;
        }
        let hint = self.census.as_ref().and_then(|census| {
            let hint = hints::open_index(inner.storage, &inner.keydir, &self.segment)?;
            Some((hint, census))
        });
        let index = hint.as_ref().and_then(|(hint, census)| hint.index(census));
        let Some(mut index) = index else {
            open.for_each(|question| question.may_be = true);
            return 0;
        };
        for question in open {
            question.may_be = index.may_hold(question.name, question.before);
        }
        index.blocks_read() * BLOCK as u64
    }
}
