//! Merging: the live frames of some sealed segments are copied into new ones, and the old ones are
//! removed.
//!
//! Invariants, each with what it protects:
//! * A frame's age is the position that it was first written at, which every copy keeps (its origin);
//!   never a clock, and never the id of a file. So it does not matter which segments are merged
//!   together or loaded first.
//! * A slot is moved only if it still points at exactly the frame that was copied. So a write or delete
//!   that came in between is not undone.
//! * Before an input is removed, its copies are durable, and so is the log up to its end after the last
//!   slot was examined: whatever made a frame in the input dead is durable too.
//! * A tombstone, or an expired value, which counts as one, is kept as long as a segment outside the
//!   merge may hold an older put of its key. The segments' hints tell, by the key's tag.
//! * Slots point into segments in the set: outputs are inserted before slots move, inputs removed
//!   afterwards. Before that, all slots are checked: if one still points into an input, nothing is
//!   removed.
//! * The frames read are compared with what the keydir was loaded from, so that a key which a hint left
//!   out is not lost.
//! * A damaged segment stays until nothing damaged in it is needed; see `damage`.

pub(crate) mod damage;
mod output;
pub(crate) mod policy;
mod run;
mod throttle;
pub(crate) mod tombstones;

pub(crate) use throttle::Pace;

use self::policy::Facts;
use self::run::Run;
use super::Store;
use super::hints;
use super::inner::{Damaged, Merging, StoreInner};
use crate::error::{AppendError, Corruption, CorruptionKind, MergeError};
use crate::format::frame;
use crate::format::header::FIRST_FRAME;
use crate::segment::frames;
use crate::segment::{Segment, hint_name};
use crate::sync::lock;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a merge did. All zero if there was nothing to merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeReport {
    /// Segments that were merged and removed.
    pub inputs: u64,
    /// Segments that replaced them.
    pub outputs: u64,
    /// Bytes of frames read.
    pub bytes_read: u64,
    /// Bytes of frames written.
    pub bytes_written: u64,
    /// Bytes of the removed files, less those of the outputs.
    pub bytes_reclaimed: u64,
    /// Puts copied.
    pub puts_moved: u64,
    /// Expired values dropped.
    pub expired: u64,
    /// Tombstones kept, because an older value of their key may be in another segment.
    pub tombstones_kept: u64,
    /// Tombstones dropped.
    pub tombstones_dropped: u64,
    /// How long it took.
    pub duration: Duration,
}

impl MergeReport {
    fn add(&mut self, other: &Self) {
        self.inputs += other.inputs;
        self.outputs += other.outputs;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.bytes_reclaimed += other.bytes_reclaimed;
        self.puts_moved += other.puts_moved;
        self.expired += other.expired;
        self.tombstones_kept += other.tombstones_kept;
        self.tombstones_dropped += other.tombstones_dropped;
        self.duration += other.duration;
    }
}

/// The most that one run copies, in full segments: this much disk space is needed for a while.
const RUN: u64 = 8;

impl Store {
    /// Merges all segments that have dead bytes, and small ones, at full speed. It first makes another
    /// segment active, so that everything written so far is included. Writers and readers continue; one
    /// merge runs at a time. Meant for occasional use: called in a loop, it makes writers wait for one
    /// roll after the other.
    ///
    /// # Errors
    /// [`MergeError`]; nothing is lost, and runs completed before the error stay merged.
    pub fn merge(&self) -> Result<MergeReport, MergeError> {
        let writer = self.writer();
        match writer.roll_if_used() {
            // Merge the segments that are full already, which may make room.
            Err(AppendError::NoSpace { .. }) => {}
            other => other?,
        }
        writer.sync()?;
        let mut merging = self.inner.merging();
        self.inner.list_sealed(true);
        let all = self.inner.known();
        let small = |known: &Known| known.facts.used < writer.segment_size() / 2;
        let several = all.iter().filter(|known| known.facts.mergeable && small(known)).count() > 1;
        let wanted = |known: &&Known| {
            let facts = &known.facts;
            let gain = facts.dead > 0 || known.tombstones > 0 || several && small(known);
            facts.mergeable && gain || known.retry
        };
        let ids: Vec<_> = all.iter().filter(wanted).map(|known| known.facts.id).collect();
        drop(all);
        self.inner.merge_in_runs(&mut merging, &ids, Pace::Full)
    }

    /// Merges those of the segments with these ids that can be merged.
    #[doc(hidden)]
    pub fn merge_only(&self, ids: &[u32]) -> Result<MergeReport, MergeError> {
        self.merge_while(ids, || {})
    }

    /// As `merge_only`; `meanwhile` runs once, after the frames are copied and before slots are moved.
    #[doc(hidden)]
    pub fn merge_while(
        &self,
        ids: &[u32],
        meanwhile: impl FnOnce() + Send + 'static,
    ) -> Result<MergeReport, MergeError> {
        let mut merging = self.inner.merging();
        merging.meanwhile = Some(Box::new(meanwhile));
        self.inner.list_sealed(true);
        let all = self.inner.known();
        let may_be = |known: &Known| known.facts.mergeable || known.retry;
        let mergeable = |id| all.iter().any(|k| k.facts.id == id && may_be(k));
        let ids: Vec<_> = ids.iter().copied().filter(|&id| mergeable(id)).collect();
        drop(all);
        self.inner.merge_in_runs(&mut merging, &ids, Pace::Full)
    }

    /// Makes another segment active and seals the previous one. For tests of merges.
    #[doc(hidden)]
    pub fn roll(&self) -> Result<(), MergeError> {
        self.writer().force_roll()?;
        self.writer().sync()?;
        Ok(())
    }

    /// Whether the policy would merge anything now.
    #[must_use]
    pub fn needs_merge(&self) -> bool {
        !self.inner.due().0.is_empty()
    }
}

/// A full segment, and the tombstones in it that count as live.
pub(crate) struct Known {
    pub(crate) segment: Arc<Segment>,
    pub(crate) facts: Facts,
    tombstones: u64,
    /// It is damaged, or merging it failed before; `merge` tries it again.
    retry: bool,
}

impl StoreInner {
    /// The full segments.
    pub(super) fn known(&self) -> Vec<Known> {
        let damaged = lock(&self.damaged).clone();
        let active = self.writer.tail().segment();
        let full = |s: &Arc<Segment>| s.header.merged || s.id() < active;
        let segments = self.writer.segment_set().segments().into_iter().filter(full);
        let look = |segment: Arc<Segment>| {
            let damaged = damaged.get(&segment.id());
            self.look_at(segment, damaged)
        };
        segments.map(look).collect()
    }

    fn look_at(&self, segment: Arc<Segment>, damaged: Option<&Damaged>) -> Known {
        let used = content(&segment);
        let census = segment.census.get().copied();
        let found = census.unwrap_or_default();
        // Tombstones in merged segments were needed when the merge checked. Checking again pays once as
        // many bytes have been reclaimed since, anywhere, as it would read.
        let reclaimed = self.reclaimed.get().saturating_sub(segment.looked_at.get());
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
        let facts = Facts { id: segment.id(), used, dead, mergeable };
        Known { segment, facts, tombstones: found.tombstones, retry }
    }

    /// The ids that the policy would merge now, and whether the space goal is missed.
    pub(super) fn due(&self) -> (Vec<u32>, bool) {
        let all: Vec<_> = self.known().iter().map(|known| known.facts).collect();
        let settled = lock(&self.settled);
        let rest =
            |facts: &Facts| Facts { mergeable: facts.mergeable && !settled.holds(facts), ..*facts };
        let all: Vec<_> = all.iter().map(rest).collect();
        let segment_size = self.writer.segment_size();
        let ids = self.policy.choose(&all, segment_size, segment_size * RUN);
        (ids, self.policy.misses_goal(&all))
    }

    /// Takes the census of sealed segments that have none, and writes their hints. Stops when the store
    /// is being closed, if asked to. Only for the holder of `Merging`.
    pub(super) fn list_sealed(&self, until_stop: bool) {
        for segment in self.writer.segment_set().segments() {
            let is_damaged = lock(&self.damaged).contains_key(&segment.id());
            let known = segment.census.get().is_some() || is_damaged;
            if known || !segment.is_sealed() || until_stop && self.is_stopping() {
                continue;
            }
            match hints::gather(&self.keydir, &segment, None) {
                Ok(found) => {
                    let (census, entries) = (found.census, found.entries);
                    segment.looked_at.clear();
                    segment.looked_at.add(self.reclaimed.get());
                    hints::write(self.writer.storage(), &self.keydir, &segment, &census, &entries);
                    // It is set only here, and before the store is open.
                    let _ = segment.census.set(census);
                }
                Err(error) => _ = self.has_to_stay(&error),
            }
        }
    }

    /// Records damage.
    fn note_damage(&self, first: &Corruption, gaps: &[Range<u64>]) {
        let bytes = gaps.iter().map(|gap| gap.end - gap.start).sum();
        let found = || Damaged { first: first.clone(), bytes, dead: None, misled: false };
        let mut all = lock(&self.damaged);
        let damaged = all.entry(first.segment).or_insert_with(found);
        damaged.bytes = damaged.bytes.max(bytes);
    }

    /// Records that a segment is to be left alone until more of it is dead. True if it was not recorded
    /// before.
    fn has_to_stay(&self, damage: &Corruption) -> bool {
        let id = damage.segment;
        let misled = matches!(damage.kind, CorruptionKind::Hint | CorruptionKind::StaleSlot);
        if misled {
            // So that the next open reads the segment.
            self.writer.remove_file(&hint_name(id));
        }
        self.note_damage(damage, &[]);
        let dead = self.writer.segment_set().pin(id).map(|segment| segment.dead.get());
        let mut all = lock(&self.damaged);
        let Some(damaged) = all.get_mut(&id) else { return false };
        let is_news = damaged.dead.is_none();
        damaged.misled |= misled;
        damaged.dead = Some(dead.unwrap_or_default());
        if is_news {
            tracing::error!(error = %damage, "a segment is damaged, and is left alone");
        }
        is_news
    }

    /// Forgets the damage of segments that were merged.
    fn are_gone(&self, ids: &[u32]) {
        lock(&self.damaged).retain(|id, _| !ids.contains(id));
    }

    /// Merges segments in runs, the oldest first, so that tombstones in later runs need not be kept for
    /// values in earlier ones.
    pub(super) fn merge_in_runs(
        &self,
        merging: &mut Merging,
        ids: &[u32],
        pace: Pace,
    ) -> Result<MergeReport, MergeError> {
        let mut total = MergeReport::default();
        let live = |known: &Known| known.facts.used - known.facts.dead;
        // Released here: as long as one is kept, its file takes space.
        let mut chosen = self.known();
        chosen.retain(|known| ids.contains(&known.facts.id));
        // Completely dead segments come first and separately: they need no output, and free space.
        let oldest = |known: &Known| known.segment.census.get().map(|census| census.oldest);
        chosen.sort_by_key(|known| (live(known) > 0, oldest(known)));
        let (mut budget, mut most) = (self.writer.segment_size() * RUN, usize::MAX);
        let mut failure = None;
        while let Some(first) = chosen.first() {
            let (dead, mut sum) = (live(first) == 0, 0);
            let fits = |known: &&Known| {
                sum += live(known);
                sum <= budget && (live(known) == 0) == dead
            };
            let count = chosen.iter().take(most).take_while(fits).count().max(1);
            let inputs = chosen[..count].iter().map(|known| known.segment.clone()).collect();
            match self.merge_once(merging, inputs, pace) {
                Ok(report) => {
                    total.add(&report);
                    chosen.drain(..count);
                }
                // A smaller run may find room.
                Err(MergeError::Append(AppendError::NoSpace { .. })) if count > 1 => {
                    budget = chosen[..count].iter().map(live).sum::<u64>() / 4;
                    most = count / 2;
                }
                // There may be room for the live frames of another segment.
                Err(error @ MergeError::Append(AppendError::NoSpace { .. }))
                    if chosen.len() > 1 =>
                {
                    drop(chosen.remove(0));
                    if failure.is_none() {
                        self.failed(&error);
                        failure = Some(error);
                    }
                }
                // Merge around the damaged segment.
                Err(MergeError::Corrupt(damage))
                    if chosen[..count].iter().any(|known| known.facts.id == damage.segment) =>
                {
                    chosen.retain(|known| known.facts.id != damage.segment);
                    if self.has_to_stay(&damage) {
                        lock(&self.totals).failures += 1;
                        failure.get_or_insert(MergeError::Corrupt(damage));
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    return Err(error);
                }
            }
        }
        failure.map_or(Ok(total), Err)
    }

    /// Records the outputs of a merge that gained nothing.
    fn settle(&self, report: &MergeReport, outputs: Vec<Arc<Segment>>) {
        let mut settled = lock(&self.settled);
        let there = self.writer.segment_set().segments();
        settled.forget(|id| there.iter().any(|segment| segment.id() == id));
        let MergeReport { inputs, outputs: made, bytes_read, bytes_reclaimed, .. } = *report;
        if !policy::gains(inputs, made, bytes_read, bytes_reclaimed) {
            tracing::debug!(?report, "a merge gained nothing");
            outputs.into_iter().for_each(|output| settled.note(&self.look_at(output, None).facts));
        }
    }

    fn failed(&self, error: &MergeError) {
        match error {
            // Not permanent, and not a failure.
            MergeError::Closing => return,
            MergeError::Corrupt(damage) => _ = self.has_to_stay(damage),
            _ => {}
        }
        lock(&self.totals).failures += 1;
    }

    fn merge_once(
        &self,
        merging: &mut Merging,
        inputs: Vec<Arc<Segment>>,
        pace: Pace,
    ) -> Result<MergeReport, MergeError> {
        let started = Instant::now();
        let mut run = Run::new(self, inputs, pace);
        let copied = run.copy().and_then(|()| run.keep_tombstones());
        let copied = copied.and_then(|()| run.output.seal());
        if let Err(error) = copied {
            run.discard();
            return Err(error);
        }
        merging.meanwhile.take().into_iter().for_each(|meanwhile| meanwhile());
        let outputs = run.output.done.clone();
        let mut report = run.replace()?;
        report.duration = started.elapsed();
        self.settle(&report, outputs);
        tracing::info!(?report, "merged");
        self.reclaimed.add(report.bytes_read.saturating_sub(report.bytes_written));
        let mut totals = lock(&self.totals);
        totals.merges += 1;
        totals.bytes_read += report.bytes_read;
        totals.bytes_written += report.bytes_written;
        totals.bytes_reclaimed += report.bytes_reclaimed;
        totals.time += report.duration;
        Ok(report)
    }
}

/// Bytes of frames in a full segment, except the frame that lists its inputs, which is neither live nor
/// dead.
fn content(segment: &Segment) -> u64 {
    let used = segment.end().saturating_sub(FIRST_FRAME);
    let inputs = if segment.header.merged { frames::inputs(segment) } else { None };
    used.saturating_sub(inputs.map_or(0, |ids| frame::inputs_len(ids.len())))
}

/// Bytes that a segment's file takes.
pub(super) fn disk_bytes(segment: &Segment) -> u64 {
    let len = segment.map.len() as u64;
    if segment.is_sealed() { (segment.end() + 8).next_multiple_of(4096).min(len) } else { len }
}

#[cfg(test)]
mod tests {
    use super::tombstones::TombstoneFilter;
    use super::*;
    use crate::options::Maintenance;
    use crate::position::LogPosition;
    use crate::storage::simulated::SimulatedDisk;

    fn store() -> Store {
        let options = Store::options().segment_size(2 << 20).maintenance(Maintenance::Manual);
        options.open_simulated(&SimulatedDisk::new()).unwrap()
    }

    fn full(store: &Store) -> Vec<u32> {
        store.inner.known().iter().map(|known| known.facts.id).collect()
    }

    /// However it came about: a segment that a slot points into is not removed.
    #[test]
    fn a_segment_that_a_slot_points_into_is_not_retired() {
        let store = store();
        store.put("key", "value").unwrap();
        store.put("other", "one").unwrap();
        store.roll().unwrap();
        store.put("other", "two").unwrap();
        store.roll().unwrap();
        let ids = full(&store);
        // A pad, a place inside of a frame, and a frame with another key.
        for offset in [1 << 20, 136, 128] {
            let stale = LogPosition::new(ids[0], offset);
            let tag = store.inner.keydir.tag(b"nobody's");
            store.inner.keydir.entry(tag, |at| at == stale).set(stale);
            match store.merge_only(&ids).unwrap_err() {
                MergeError::Corrupt(Corruption { segment, offset: at, kind, .. }) => {
                    assert_eq!((segment, at), (ids[0], offset.into()));
                    assert_eq!(kind, CorruptionKind::StaleSlot);
                }
                other => panic!("{other}"),
            }
            assert!(full(&store).contains(&ids[0]));
            assert_eq!(store.stats().damaged.len(), 1);
            assert_eq!(store.get("key").unwrap().as_deref(), Some(&b"value"[..]));
            assert_eq!(store.get("other").unwrap().as_deref(), Some(&b"two"[..]));
            store.inner.keydir.entry(tag, |at| at == stale).remove();
            lock(&store.inner.damaged).clear();
        }
        store.merge_only(&ids).unwrap();
        assert!(!full(&store).contains(&ids[0]));
        assert_eq!(store.get("key").unwrap().as_deref(), Some(&b"value"[..]));
        store.verify().unwrap();
    }

    /// So that a merge that reads many can be slowed down, and ended.
    #[test]
    fn reading_hints_for_tombstones_can_be_ended_after_each() {
        let store = store();
        for n in 0..5u8 {
            store.put([n], "value").unwrap();
            store.roll().unwrap();
        }
        store.inner.list_sealed(false);
        let newest = store.log().tail();
        let mut read = 0;
        let all = TombstoneFilter::new(store.inner.contents(), &[], newest, |bytes| {
            read += u64::from(bytes > 0);
            Ok::<_, ()>(())
        });
        assert!(all.is_ok());
        assert_eq!(read, 5);
        let mut read = 0;
        let ended = TombstoneFilter::new(store.inner.contents(), &[], newest, |_| {
            read += 1;
            if read == 2 { Err("closing") } else { Ok(()) }
        });
        assert_eq!((ended.unwrap_err(), read), ("closing", 2));
        // Hints of segments newer than every tombstone in question are not read.
        let first = LogPosition::new(full(&store)[0], 0);
        let none = TombstoneFilter::new(store.inner.contents(), &[], first, |_| Err("it is read"));
        assert!(none.is_ok());
    }
}
