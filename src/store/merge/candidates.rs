//! Which segments could be merged, and what a merge of each would gain.

use crate::format::hint::{Census, HintEntry};
use crate::segment::Segment;
use crate::store::hints;
use crate::store::inner::{Damaged, StoreInner};
use crate::store::usage::{SegmentUsage, content_bytes};
use crate::sync::lock;
use std::sync::Arc;

/// The most that one run copies, in full segments: this much disk space is needed for a while.
pub(super) const RUN: u64 = 8;

/// A full segment, and the tombstones in it that count as live.
pub(crate) struct Candidate {
    pub(crate) segment: Arc<Segment>,
    pub(crate) usage: SegmentUsage,
    pub(super) tombstones: u64,
    /// The most bytes that merging it copies: what has expired may be counted as dead a second time.
    pub(super) copied: u64,
    /// It is damaged, or merging it failed before; `merge` tries it again.
    pub(super) retry: bool,
}

impl StoreInner {
    /// The full segments.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let damaged = lock(&self.damaged).clone();
        let active = self.writer.tail().segment();
        let full = |s: &Arc<Segment>| s.header.merged || s.id() < active;
        let segments = self.writer.segment_set().segments().into_iter().filter(full);
        let look = |segment: Arc<Segment>| {
            let damaged = damaged.get(&segment.id());
            self.candidate(segment, damaged)
        };
        segments.map(look).collect()
    }

    pub(super) fn candidate(&self, segment: Arc<Segment>, damaged: Option<&Damaged>) -> Candidate {
        let used = content_bytes(&segment);
        let census = segment.census.get().copied();
        let found = census.unwrap_or_default();
        // Tombstones in merged segments were needed when the merge checked. Checking again pays once as
        // many bytes have been reclaimed since, anywhere, as it would read.
        let reclaimed = self.reclaimed.get().saturating_sub(segment.reclaimed_then.get());
        let needed = segment.header.merged && reclaimed < used;
        let tombstones = if needed { 0 } else { found.tombstones };
        let expired = found.expiring.expired(self.clock.now());
        let parts = [segment.dead.get(), found.keyless, tombstones, expired];
        let dead = parts.into_iter().fold(0, u64::saturating_add).min(used);
        let mergeable = segment.is_sealed() && census.is_some_and(|census| !census.plain);
        // Dead bytes beside entries of the log, or beside damage that is needed, cannot be reclaimed.
        let is_needed = |damaged: &Damaged| damaged.dead == Some(segment.dead.get());
        let may_be = segment.is_sealed() && !found.plain;
        let retry = may_be && damaged.is_some_and(|damaged| !damaged.misled);
        let stays = found.plain || damaged.is_some_and(|d| d.misled || is_needed(d));
        let (dead, mergeable) = if stays { (0, false) } else { (dead, mergeable) };
        let usage = SegmentUsage { id: segment.id(), used, dead, mergeable };
        let copied = used.saturating_sub(segment.dead.get().saturating_add(found.keyless));
        Candidate { segment, usage, tombstones: found.tombstones, copied, retry }
    }

    /// The ids that the policy would merge now, and whether the space goal is missed.
    pub(crate) fn due(&self) -> (Vec<u32>, bool) {
        let all: Vec<_> = self.candidates().iter().map(|candidate| candidate.usage).collect();
        let settled = lock(&self.settled);
        let rest = |usage: &SegmentUsage| SegmentUsage {
            mergeable: usage.mergeable && !settled.holds(usage),
            ..*usage
        };
        let all: Vec<_> = all.iter().map(rest).collect();
        let segment_size = self.writer.segment_size();
        let memory = self.writer.segment_set().cache.aim();
        let ids = self.policy.choose(&all, segment_size, segment_size * RUN, memory);
        (ids, self.policy.misses_goal(&all, memory))
    }

    pub(crate) fn write_hint(&self, segment: &Segment, census: &Census, entries: &[HintEntry]) {
        let is_tight = self.writer.segment_set().cache.is_tight();
        hints::write(self.writer.storage(), &self.keydir, segment, census, entries, is_tight);
    }

    /// Takes the census of sealed segments that have none, and writes their hints. Stops when the store
    /// is being closed, if asked to. Only for the holder of `Merging`.
    pub(crate) fn list_sealed(&self, until_stop: bool) {
        for segment in self.writer.segment_set().segments() {
            let is_damaged = lock(&self.damaged).contains_key(&segment.id());
            let known = segment.census.get().is_some() || is_damaged;
            if known || !segment.is_sealed() || until_stop && self.is_stopping() {
                continue;
            }
            match hints::summarize(&self.keydir, &segment, None) {
                Ok(found) => {
                    let (census, entries) = (found.census, found.entries);
                    segment.reclaimed_then.clear();
                    segment.reclaimed_then.add(self.reclaimed.get());
                    self.write_hint(&segment, &census, &entries);
                    // It is set only here, and before the store is open.
                    let _ = segment.census.set(census);
                }
                Err(error) => _ = self.has_to_stay(&error),
            }
        }
    }
}
