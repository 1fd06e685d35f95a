//! One run of a merge: the live frames of its inputs are copied, slots are moved, and the inputs are
//! removed.

#![allow(unsafe_code, reason = "reads frames that were verified")]

use super::damage;
use super::output::MergeWriter;
use super::report::MergeReport;
use super::throttle::{Pace, Throttle};
use super::tombstones::{Question, TombstoneFilter};
use crate::error::{Corruption, CorruptionKind, MergeError};
use crate::format::hint::KeyName;
use crate::format::record::Record;
use crate::keydir::LOOKUP_BATCH;
use crate::options::RecoveryMode;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::quiet::QuietSegment;
use crate::segment::scan;
use crate::store::hints::{self, SegmentSummary, SummaryBuilder};
use crate::store::inner::StoreInner;
use crate::store::usage::content_bytes;
use crate::sync::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A copy of a frame.
struct Move {
    tag: u32,
    old: LogPosition,
    old_len: u64,
    new: LogPosition,
}

/// A put in an input, of which is not known yet whether a slot points at it.
#[derive(Clone, Copy)]
struct FoundPut<'s> {
    record: Record<'s>,
    tag: u32,
    at: LogPosition,
    len: u64,
}

/// A tombstone or an expired value in an input.
struct Tombstone<'s> {
    name: KeyName,
    origin: LogPosition,
    key: &'s [u8],
}

/// One run of a merge.
pub(super) struct Run<'i> {
    inner: &'i StoreInner,
    inputs: Vec<Arc<Segment>>,
    throttle: Throttle<'i>,
    pub(super) output: MergeWriter<'i>,
    moves: Vec<Move>,
    /// The tombstones in the inputs: input and offset.
    tombstones: Vec<(usize, u64)>,
    /// What damaged frames in the inputs may have been, and where the damage is.
    doubts: Vec<(damage::LostTombstone, Corruption)>,
    /// Damaged inputs in which nothing damaged is needed.
    damaged: Vec<u32>,
    report: MergeReport,
}

impl StoreInner {
    /// Points a key's slot at the copy of its frame, if it still points at that.
    fn move_slot(&self, &Move { tag, old, old_len, new }: &Move) {
        let entry = self.keydir.entry(tag, |at| at == old);
        match entry.position() {
            Some(_) => self.set_slot(entry, new, Some(old_len)),
            // The key was written or deleted meanwhile.
            None => self.died(new, None),
        }
    }
}

impl<'i> Run<'i> {
    pub(super) fn new(inner: &'i StoreInner, inputs: Vec<Arc<Segment>>, pace: Pace) -> Self {
        let live = |s: &Arc<Segment>| content_bytes(s).saturating_sub(s.dead.get());
        let expected = inputs.iter().map(live).sum();
        let ids = inputs.iter().map(|segment| segment.id()).collect();
        Self {
            inner,
            inputs,
            throttle: Throttle::new(inner, pace),
            output: MergeWriter::new(inner, ids, expected),
            moves: Vec::new(),
            tombstones: Vec::new(),
            doubts: Vec::new(),
            damaged: Vec::new(),
            report: MergeReport::default(),
        }
    }

    /// Copies the live frames, input by input.
    pub(super) fn copy(&mut self) -> Result<(), MergeError> {
        for nth in 0..self.inputs.len() {
            let segment = self.inputs[nth].clone();
            let (mut failed, mut lost, mut gather) = (None, Vec::new(), SummaryBuilder::new());
            let mut found = Vec::with_capacity(LOOKUP_BATCH);
            let quiet = QuietSegment::of(&segment);
            scan::each_frame(quiet, Some(&mut lost), |offset, len, frame| {
                let keydir = &self.inner.keydir;
                let name = gather.add(keydir, &segment, offset, len, frame);
                let tag = name.map(|name| keydir.tag_of(name));
                let done = self.throttle.after(len).and_then(|()| match (frame.record(), tag) {
                    (Some(record), Some(tag)) if record.is_put() => {
                        let put = FoundPut { record, tag, at: segment.position(offset), len };
                        self.put(nth, &segment, put, &mut found)
                    }
                    (_, Some(_)) => {
                        self.tombstones.push((nth, offset));
                        Ok(())
                    }
                    _ => Ok(()),
                });
                failed = done.err();
                if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            failed.map_or(Ok(()), Err)?;
            self.copy_live(nth, &segment, &mut found)?;
            self.check(&segment, &gather.finish(&segment), lost)?;
            self.report.bytes_read += segment.end() - crate::format::header::FIRST_FRAME;
        }
        Ok(())
    }

    /// Checks that the frames read are what the keydir was loaded from: a key that a hint left out
    /// would be lost with its segment.
    fn check(
        &mut self,
        segment: &Segment,
        found: &SegmentSummary,
        lost: Vec<Corruption>,
    ) -> Result<(), MergeError> {
        let inner = self.inner;
        let Some(first) = lost.into_iter().next() else {
            hints::check_count(segment, &found.census)?;
            hints::compare(inner.writer.storage(), &inner.keydir, segment, found)?;
            return Ok(());
        };
        inner.note_damage(&first, &found.gaps);
        if found.census.plain {
            return Err(first.into());
        }
        let doubts = damage::lost_tombstones(inner.contents(), segment, found, &first)?;
        // Opening the store has reported what it may have been.
        if inner.writer.recovery_mode() == RecoveryMode::Strict {
            self.doubts.extend(doubts.into_iter().map(|doubt| (doubt, first.clone())));
        }
        self.damaged.push(segment.id());
        Ok(())
    }

    /// Has a put copied with those that were found before it, unless it has expired, which makes it a
    /// tombstone.
    fn put<'s>(
        &mut self,
        nth: usize,
        segment: &Segment,
        put: FoundPut<'s>,
        found: &mut Vec<FoundPut<'s>>,
    ) -> Result<(), MergeError> {
        let (keydir, FoundPut { record, tag, at, len }) = (&self.inner.keydir, put);
        let is_over = |&expiry: &u64| expiry <= self.inner.clock.now();
        if let Some(expiry) = record.expiry().filter(is_over) {
            // ORDERING: Relaxed; only for the holder of `Merging`.
            self.inner.expired_until.fetch_max(expiry, Ordering::Relaxed);
            let entry = keydir.entry(tag, |here| here == at);
            keydir.shrink(self.inner.remove_slot(entry, Some(len)));
            // Whether it has a slot or not: a failed merge may have removed that.
            self.tombstones.push((nth, at.offset().into()));
            self.report.expired += 1;
            return Ok(());
        }
        found.push(put);
        if found.len() == LOOKUP_BATCH { self.copy_live(nth, segment, found) } else { Ok(()) }
    }

    /// Copies those of some puts that a slot points at: [`LOOKUP_BATCH`] at most, which are looked up
    /// together.
    fn copy_live(
        &mut self,
        input: usize,
        segment: &Segment,
        found: &mut Vec<FoundPut<'_>>,
    ) -> Result<(), MergeError> {
        let tags: Vec<u32> = found.iter().map(|put| put.tag).collect();
        let mut is_live = [false; LOOKUP_BATCH];
        let first = self.inner.keydir.read_all(&tags).slots(&tags, |nth, at| {
            is_live[nth] |= at == found[nth].at;
        });
        // ORDERING: Relaxed; only for the holder of `Merging`.
        let expired_until = self.inner.expired_until.load(Ordering::Relaxed);
        for (nth, FoundPut { record, tag, at, len }) in found.drain(..).enumerate() {
            if !is_live[nth] && first[nth] != Some(at) {
                // It may have had a slot until a merge that failed found that it had expired; it hides what is
                // older though the clock has gone back since.
                if record.expiry().is_some_and(|expiry| expiry <= expired_until) {
                    self.tombstones.push((input, at.offset().into()));
                }
                continue;
            }
            let new = self.output.copy(record, segment.origin_of(at.offset().into(), &record))?;
            self.moves.push(Move { tag, old: at, old_len: len, new });
            self.report.puts_moved += 1;
            self.throttle.after(len)?;
        }
        Ok(())
    }

    /// Copies the tombstones that are still needed.
    pub(super) fn keep_tombstones(&mut self) -> Result<(), MergeError> {
        let places = std::mem::take(&mut self.tombstones);
        if places.is_empty() && self.doubts.is_empty() {
            return Ok(());
        }
        let inputs = self.inputs.clone();
        let filter = TombstoneFilter::new(self.inner.contents(), &inputs);
        self.settle_doubts(&filter)?;
        let mut all = Vec::with_capacity(places.len());
        for &(nth, offset) in &places {
            // SAFETY: in a frame that was verified, and so committed.
            let Some(record) = (unsafe { inputs[nth].record_head(offset) }) else {
                let at = inputs[nth].position(offset);
                return Err(Corruption::at(at, CorruptionKind::Header).into());
            };
            let key = record.key();
            let (name, origin) =
                (self.inner.keydir.name(key), inputs[nth].origin_of(offset, &record));
            all.push(Tombstone { name, origin, key });
        }
        // The newest of each key comes first.
        all.sort_by(|a, b| (a.name, a.key, b.origin).cmp(&(b.name, b.key, a.origin)));
        all.dedup_by(|later, first| later.key == first.key);
        // If the key has a value, that is newer.
        all.retain(|tombstone| !self.has_value(tombstone));
        let questions = all.iter().map(|one| Question::new(one.name, one.origin));
        let mut questions: Vec<_> = questions.collect();
        filter.ask(&mut questions, |bytes| self.throttle.after(bytes))?;
        let mut kept = 0;
        for (tombstone, question) in all.into_iter().zip(questions) {
            self.throttle.after(tombstone.key.len() as u64)?;
            if question.may_be {
                self.output.tombstone(tombstone.key, tombstone.origin)?;
                kept += 1;
            }
        }
        self.report.tombstones_kept += kept;
        self.report.tombstones_dropped += places.len() as u64 - kept;
        Ok(())
    }

    /// Fails if a damaged frame may have been a tombstone that is still needed.
    fn settle_doubts(&mut self, filter: &TombstoneFilter<'_>) -> Result<(), MergeError> {
        let doubts: Vec<_> = self.doubts.iter().map(|(doubt, _)| *doubt).collect();
        let needed = damage::needed(&doubts, filter, |bytes| self.throttle.after(bytes))?;
        needed.map_or(Ok(()), |nth| Err(self.doubts[nth].1.clone().into()))
    }

    fn has_value(&self, tombstone: &Tombstone<'_>) -> bool {
        // Beside damage nothing is certain: the tombstone stays.
        let tag = self.inner.keydir.tag_of(tombstone.name);
        let slot = self.inner.slot(tag, tombstone.key);
        slot.is_ok_and(|slot| slot.is_some())
    }

    /// No slot points at the outputs: discard them.
    pub(super) fn discard(self) {
        self.output.discard();
    }

    /// Replaces the inputs by the outputs.
    pub(super) fn replace(mut self) -> Result<MergeReport, MergeError> {
        let (inner, writer) = (self.inner, &*self.inner.writer);
        let outputs = std::mem::take(&mut self.output.done);
        for output in &outputs {
            writer.add_merged(output.clone());
        }
        for moves in std::mem::take(&mut self.moves).chunks(LOOKUP_BATCH) {
            // Finds all of the slots first, so that waiting for memory overlaps.
            let tags: Vec<u32> = moves.iter().map(|moved| moved.tag).collect();
            inner.keydir.read_all(&tags).slots(&tags, |_, _| ());
            moves.iter().for_each(|moved| inner.move_slot(moved));
        }
        self.check_slots()?;
        writer.sync()?;
        let ids: Vec<_> = self.inputs.iter().map(|segment| segment.id()).collect();
        let retired = writer.retire(&ids, &self.damaged);
        retired.map_err(|source| MergeError::Io { source: Arc::new(source) })?;
        inner.are_gone(&ids);
        writer.schedule_reap();
        let bytes = |all: &[Arc<Segment>]| all.iter().map(|s| s.disk_bytes()).sum::<u64>();
        self.report.inputs = self.inputs.len() as u64;
        self.report.outputs = outputs.len() as u64;
        self.report.bytes_written = outputs.iter().map(|s| content_bytes(s)).sum();
        self.report.bytes_reclaimed = bytes(&self.inputs).saturating_sub(bytes(&outputs));
        Ok(self.report)
    }

    /// No slot may point into a segment that is about to be removed.
    fn check_slots(&self) -> Result<(), MergeError> {
        let mut ids: Vec<_> = self.inputs.iter().map(|segment| segment.id()).collect();
        ids.sort_unstable();
        let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else { return Ok(()) };
        let doomed = |at: LogPosition| {
            (first..=last).contains(&at.segment()) && ids.binary_search(&at.segment()).is_ok()
        };
        match self.inner.keydir.find(doomed) {
            Some(at) => Err(Corruption::at(at, CorruptionKind::StaleSlot).into()),
            None => Ok(()),
        }
    }
}
