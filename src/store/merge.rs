//! Merging: what is live in some sealed segments is copied into new ones, and the old ones go.
//!
//! Invariants, each with what would be lost without it:
//! * A frame's age is the position that it was first written at, kept in every copy; never a clock,
//!   and never the id of a file. So it does not matter what is merged with what, or loaded first.
//! * A slot is moved only if it points at exactly the frame that was copied. So a write or delete
//!   that came in between stays.
//! * Before an input goes, its copies are durable, and so is the log up to where it ended after the
//!   last look at a slot: whatever made a frame in the input dead is durable, too.
//! * A tombstone, and an expired value, which is one, is kept for as long as a put of its key
//!   that is older may be in a segment that is not merged with it. Hints tell by the key's tag.
//! * Slots point into segments in the table: copies are put in before, inputs taken out after.

#![allow(unsafe_code, reason = "copies frames between segments that nobody else writes to")]

use super::Store;
use super::hints::{self, Gather, Listing};
use super::index::{Damage, Index, Merging, key_at, origin_of};
use super::policy::{self, Facts};
use crate::error::{AppendError, Corruption, MergeError};
use crate::format::frame::{self, HEADER, Header, Kind, MOVED};
use crate::format::header::FIRST_FRAME;
use crate::keydir::Change;
use crate::log::core::seal_and_shrink;
use crate::log::scan;
use crate::position::LogPosition;
use crate::segment::{Segment, file_name, hint_name};
use crate::sync::lock;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeReport {
    /// Segments that were merged, and are gone.
    pub inputs: u64,
    /// Segments that took their place.
    pub outputs: u64,
    /// Bytes of frames that were looked at.
    pub bytes_read: u64,
    /// Bytes of frames that were written.
    pub bytes_written: u64,
    /// Bytes of files that are gone, those of the outputs taken off.
    pub bytes_reclaimed: u64,
    /// Puts that were copied.
    pub puts_moved: u64,
    /// Values that had expired.
    pub expired: u64,
    /// Tombstones that were kept: an older value of their key may be in another segment.
    pub tombstones_kept: u64,
    /// Tombstones that were dropped.
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

/// Live bytes that one run copies at most, in full segments: what it takes of the disk for a while.
const RUN: u64 = 8;

impl Store {
    /// Merges everything that has anything dead in it, and small segments, as fast as it can; first
    /// another segment becomes active, so that this is done to all that was written up to now.
    /// Writers and readers go on meanwhile. One merge runs at a time. For now and then: called in a
    /// loop it makes writers wait for one segment after the other.
    ///
    /// # Errors
    /// [`MergeError`]; nothing is lost, and what was merged before the error stays merged.
    pub fn merge(&self) -> Result<MergeReport, MergeError> {
        let core = self.core();
        match core.roll_if_used() {
            // Then what is full already is merged, which may make room.
            Err(AppendError::NoSpace { .. }) => {}
            other => other?,
        }
        core.sync()?;
        let mut merging = self.index.merging();
        self.index.list_sealed(true);
        let all = self.index.known();
        let small = |known: &Known| known.facts.used < core.config.segment_size / 2;
        let several = all.iter().filter(|known| known.facts.mergeable && small(known)).count() > 1;
        let wanted = |known: &&Known| {
            let facts = &known.facts;
            let gain = facts.dead > 0 || known.tombstones > 0 || several && small(known);
            facts.mergeable && gain
        };
        let ids: Vec<_> = all.iter().filter(wanted).map(|known| known.facts.id).collect();
        self.index.merge_in_runs(&mut merging, &ids, Pace::Full)
    }

    /// Merges the segments with these ids, those of them that can be.
    #[doc(hidden)]
    pub fn merge_only(&self, ids: &[u32]) -> Result<MergeReport, MergeError> {
        self.merge_while(ids, || {})
    }

    /// As `merge_only`; `meanwhile` runs once, after frames were copied and before slots are moved.
    #[doc(hidden)]
    pub fn merge_while(
        &self,
        ids: &[u32],
        meanwhile: impl FnOnce() + Send + 'static,
    ) -> Result<MergeReport, MergeError> {
        let mut merging = self.index.merging();
        merging.meanwhile = Some(Box::new(meanwhile));
        self.index.list_sealed(true);
        let all = self.index.known();
        let mergeable = |id| all.iter().any(|k| k.facts.id == id && k.facts.mergeable);
        let ids: Vec<_> = ids.iter().copied().filter(|&id| mergeable(id)).collect();
        self.index.merge_in_runs(&mut merging, &ids, Pace::Full)
    }

    /// Makes another segment active, and seals the one that was. For tests of merges.
    #[doc(hidden)]
    pub fn roll(&self) -> Result<(), MergeError> {
        self.core().roll_early()?;
        self.core().sync()?;
        Ok(())
    }

    /// Whether the policy would merge something now.
    #[must_use]
    pub fn needs_merge(&self) -> bool {
        !self.index.due().0.is_empty()
    }
}

/// A full segment, and the tombstones in it that count as live.
pub(crate) struct Known {
    pub(crate) segment: Arc<Segment>,
    pub(crate) facts: Facts,
    tombstones: u64,
}

impl Index {
    /// The segments that are full.
    pub(super) fn known(&self) -> Vec<Known> {
        let damaged = lock(&self.damaged).clone();
        let active = self.core.tail.position().segment();
        let full = |s: &Arc<Segment>| s.header.merged || s.id() < active;
        let segments = self.core.table.segments().into_iter().filter(full);
        segments.map(|segment| self.look_at(segment, &damaged)).collect()
    }

    fn look_at(&self, segment: Arc<Segment>, damaged: &[u32]) -> Known {
        let used = content(&segment);
        let census = segment.census.get().copied();
        let found = census.unwrap_or_default();
        // Those in merged segments were needed when they were made. They are worth another look when
        // as much was reclaimed since, anywhere, as the look costs.
        let reclaimed = self.reclaimed.get().saturating_sub(segment.looked_at.get());
        let needed = segment.header.merged && reclaimed < used;
        let tombstones = if needed { 0 } else { found.tombstones };
        let expired = found.expiring.expired(self.clock.now());
        let parts = [segment.dead.get(), found.keyless, tombstones, expired];
        let dead = parts.into_iter().fold(0, u64::saturating_add).min(used);
        let mergeable = segment.is_sealed() && census.is_some_and(|census| !census.plain);
        // What is dead beside entries of the log, or damage, stays where it is.
        let stays = found.plain || damaged.contains(&segment.id());
        let (dead, mergeable) = if stays { (0, false) } else { (dead, mergeable) };
        let facts = Facts { id: segment.id(), used, dead, mergeable };
        Known { segment, facts, tombstones: found.tombstones }
    }

    /// What the policy would merge now, and whether the space goal is missed.
    pub(super) fn due(&self) -> (Vec<u32>, bool) {
        let all: Vec<_> = self.known().iter().map(|known| known.facts).collect();
        let settled = lock(&self.settled);
        let rest =
            |facts: &Facts| Facts { mergeable: facts.mergeable && !settled.holds(facts), ..*facts };
        let all: Vec<_> = all.iter().map(rest).collect();
        let segment_size = self.core.config.segment_size;
        let ids = self.policy.choose(&all, segment_size, segment_size * RUN);
        (ids, self.policy.misses_goal(&all))
    }

    /// Looks through sealed segments that were not yet, and writes their hints; until the store is
    /// being closed, where that is to end it.
    /// Only by who has the merging.
    pub(super) fn list_sealed(&self, until_stop: bool) {
        for segment in self.core.table.segments() {
            let is_damaged = lock(&self.damaged).contains(&segment.id());
            let known = segment.census.get().is_some() || is_damaged;
            if known || !segment.is_sealed() || until_stop && self.is_stopping() {
                continue;
            }
            match hints::gather(&self.keydir, &segment, None) {
                Ok((census, entries)) => {
                    hints::write(&*self.core.storage, &self.keydir, &segment, &census, &entries);
                    // Only here and before the store is open: it is not set yet.
                    let _ = segment.census.set(census);
                }
                Err(error) => self.found_damage(&error),
            }
        }
    }

    fn found_damage(&self, error: &Corruption) {
        tracing::error!(%error, "a segment is damaged, and is left alone");
        lock(&self.damaged).push(error.segment);
    }

    /// Merges segments, some at a time, the oldest first: then the tombstones in later ones need
    /// not be kept for what was in them.
    pub(super) fn merge_in_runs(
        &self,
        merging: &mut Merging,
        ids: &[u32],
        pace: Pace,
    ) -> Result<MergeReport, MergeError> {
        let mut total = MergeReport::default();
        let all = self.known();
        let live = |known: &Known| known.facts.used - known.facts.dead;
        let mut chosen: Vec<_> = all.iter().filter(|k| ids.contains(&k.facts.id)).collect();
        // What is dead wholly comes first, and by itself: it takes no space, and gives some.
        let oldest = |known: &Known| known.segment.census.get().map(|census| census.oldest);
        chosen.sort_by_key(|known| (live(known) > 0, oldest(known)));
        let (mut budget, mut most) = (self.core.config.segment_size * RUN, usize::MAX);
        while let Some(first) = chosen.first() {
            let (dead, mut sum) = (live(first) == 0, 0);
            let fits = |known: &&&Known| {
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
                // With less to be copied at a time there may be room.
                Err(MergeError::Append(AppendError::NoSpace { .. })) if count > 1 => {
                    budget = chosen[..count].iter().map(|known| live(known)).sum::<u64>() / 4;
                    most = count / 2;
                }
                Err(error) => {
                    self.failed(&error);
                    return Err(error);
                }
            }
        }
        Ok(total)
    }

    /// Takes note of what came out of a merge that gained nothing.
    fn settle(&self, report: &MergeReport, outputs: Vec<Arc<Segment>>) {
        let mut settled = lock(&self.settled);
        let there = self.core.table.segments();
        settled.forget(|id| there.iter().any(|segment| segment.id() == id));
        let MergeReport { inputs, outputs: made, bytes_read, bytes_reclaimed, .. } = *report;
        if !policy::gains(inputs, made, bytes_read, bytes_reclaimed) {
            tracing::debug!(?report, "a merge gained nothing");
            outputs.into_iter().for_each(|output| settled.note(&self.look_at(output, &[]).facts));
        }
    }

    fn failed(&self, error: &MergeError) {
        match error {
            // Not for good, and nothing is wrong.
            MergeError::Closing => return,
            MergeError::Corrupt(damage) => self.found_damage(damage),
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
        let copied = run.copy().and_then(|()| run.keep_tombstones()).and_then(|()| run.seal());
        if let Err(error) = copied {
            run.discard();
            return Err(error);
        }
        merging.meanwhile.take().into_iter().for_each(|meanwhile| meanwhile());
        let outputs = run.writer.done.clone();
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

/// Bytes of frames in a full segment, but for the one that says what it was made of: that is neither
/// live nor dead.
fn content(segment: &Segment) -> u64 {
    let used = segment.end().saturating_sub(FIRST_FRAME);
    let header = scan::frame_at(segment, FIRST_FRAME, used).ok().flatten();
    let inputs = header.filter(|frame| frame.header.is_some_and(|h| h.kind == Kind::Inputs));
    used - inputs.map_or(0, |frame| frame.word.len)
}

/// Bytes that a segment's file takes.
pub(super) fn disk_bytes(segment: &Segment) -> u64 {
    let len = segment.map.len() as u64;
    if segment.is_sealed() { (segment.end() + 8).next_multiple_of(4096).min(len) } else { len }
}

/// A copy of a frame.
struct Move {
    tag: u32,
    old: LogPosition,
    new: LogPosition,
}

/// A tombstone in an input, or a value there that has expired.
struct Tombstone<'s> {
    tag: u32,
    origin: LogPosition,
    key: &'s [u8],
}

/// One merge.
struct Run<'i> {
    index: &'i Index,
    inputs: Vec<Arc<Segment>>,
    pacer: Pacer<'i>,
    writer: Writer<'i>,
    moves: Vec<Move>,
    /// Where in the inputs tombstones are: the input, and the offset.
    tombstones: Vec<(usize, u64)>,
    report: MergeReport,
}

impl<'i> Run<'i> {
    fn new(index: &'i Index, inputs: Vec<Arc<Segment>>, pace: Pace) -> Self {
        let live = |s: &Arc<Segment>| content(s).saturating_sub(s.dead.get());
        let expected = inputs.iter().map(live).sum();
        let ids = inputs.iter().map(|segment| segment.id()).collect();
        Self {
            index,
            inputs,
            pacer: Pacer::new(index, pace),
            writer: Writer::new(index, ids, expected),
            moves: Vec::new(),
            tombstones: Vec::new(),
            report: MergeReport::default(),
        }
    }

    /// Copies what is live, input by input.
    fn copy(&mut self) -> Result<(), MergeError> {
        for nth in 0..self.inputs.len() {
            let segment = self.inputs[nth].clone();
            let mut failed = None;
            scan::each_frame(&segment, None, |offset, len, header| {
                let done = self.pacer.after(len).and_then(|()| match header {
                    Some(header) if header.kind == Kind::Put => {
                        self.put(nth, &segment, offset, len, header)
                    }
                    Some(header) if header.kind == Kind::Delete => {
                        self.tombstones.push((nth, offset));
                        Ok(())
                    }
                    _ => Ok(()),
                });
                failed = done.err();
                if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            failed.map_or(Ok(()), Err)?;
            self.report.bytes_read += segment.end() - FIRST_FRAME;
        }
        Ok(())
    }

    fn put(
        &mut self,
        nth: usize,
        segment: &Segment,
        offset: u64,
        len: u64,
        header: Header,
    ) -> Result<(), MergeError> {
        let (keydir, here) = (&self.index.keydir, segment.position(offset));
        let key = key_at(segment, offset).expect("a verified put has a key");
        let tag = keydir.tag(key);
        let is_over = |expiry| expiry <= self.index.clock.now();
        if hints::expiry_of(segment, offset, header).is_some_and(is_over) {
            let is_there = |at: Option<_>| (at.map_or(Change::Keep, |_| Change::Remove), ());
            keydir.change(tag, |at| at == here, is_there);
            // Whether it had a slot or not: a merge that failed may have taken that.
            self.tombstones.push((nth, offset));
            self.report.expired += 1;
            return Ok(());
        }
        if keydir.get(tag, |at| at == here, |_| ()).is_none() {
            return Ok(());
        }
        // SAFETY: in the frame, which `each_frame` has verified.
        let body = unsafe { segment.map.slice(offset + HEADER, header.body_len()) };
        let new = self.writer.copy(header, body, origin_of(segment, offset))?;
        self.moves.push(Move { tag, old: here, new });
        self.report.puts_moved += 1;
        self.pacer.after(len)
    }

    /// Copies the tombstones that are still needed.
    fn keep_tombstones(&mut self) -> Result<(), MergeError> {
        let places = std::mem::take(&mut self.tombstones);
        if places.is_empty() {
            return Ok(());
        }
        let older = Older::than(self.index, &self.inputs);
        let inputs = self.inputs.clone();
        let mut all: Vec<_> = places
            .iter()
            .map(|&(nth, offset)| {
                let key = key_at(&inputs[nth], offset).expect("a verified frame has a key");
                let tag = self.index.keydir.tag(key);
                Tombstone { tag, origin: origin_of(&inputs[nth], offset), key }
            })
            .collect();
        // For each key the newest first.
        all.sort_by(|a, b| (a.tag, a.key, b.origin).cmp(&(b.tag, b.key, a.origin)));
        all.dedup_by(|later, first| later.key == first.key);
        self.report.tombstones_dropped += (places.len() - all.len()) as u64;
        for tombstone in all {
            self.pacer.after(tombstone.key.len() as u64)?;
            // A key that has a value has it from later on.
            if !self.has_value(&tombstone) && older.may_hold(tombstone.tag, tombstone.origin) {
                self.writer.tombstone(tombstone.key, tombstone.origin)?;
                self.report.tombstones_kept += 1;
            } else {
                self.report.tombstones_dropped += 1;
            }
        }
        Ok(())
    }

    fn has_value(&self, tombstone: &Tombstone<'_>) -> bool {
        let (index, damage) = (self.index, Damage::default());
        index
            .keydir
            .get(tombstone.tag, |at| index.is_key(at, tombstone.key, &damage), |_| ())
            .is_some()
    }

    fn seal(&mut self) -> Result<(), MergeError> {
        self.writer.seal()
    }

    /// Nothing points at what was written: it goes.
    fn discard(self) {
        self.writer.discard();
    }

    /// Puts the outputs in the place of the inputs.
    fn replace(mut self) -> Result<MergeReport, MergeError> {
        let (index, core) = (self.index, &*self.index.core);
        let outputs = self.writer.done;
        for output in &outputs {
            core.table.insert(output.clone());
        }
        for Move { tag, old, new } in std::mem::take(&mut self.moves) {
            index.keydir.change(
                tag,
                |at| at == old,
                |found| {
                    index.died(if found.is_some() { old } else { new });
                    (found.map_or(Change::Keep, |_| Change::Set(new)), ())
                },
            );
        }
        core.sync()?;
        let ids: Vec<_> = self.inputs.iter().map(|segment| segment.id()).collect();
        core.retire(&ids).map_err(|source| MergeError::Io { source: Arc::new(source) })?;
        core.tidy();
        let bytes = |all: &[Arc<Segment>]| all.iter().map(|s| disk_bytes(s)).sum::<u64>();
        self.report.inputs = self.inputs.len() as u64;
        self.report.outputs = outputs.len() as u64;
        self.report.bytes_written = outputs.iter().map(|s| s.end() - FIRST_FRAME).sum();
        self.report.bytes_reclaimed = bytes(&self.inputs).saturating_sub(bytes(&outputs));
        Ok(self.report)
    }
}

/// The segments beside the inputs, which may hold what a tombstone in them hides.
struct Older(Vec<(u64, Option<Listing>)>);

impl Older {
    fn than(index: &Index, inputs: &[Arc<Segment>]) -> Self {
        let segments = index.core.table.segments().into_iter();
        let others = segments.filter(|s| inputs.iter().all(|input| input.id() != s.id()));
        let listed = others.map(|segment| match segment.census.get() {
            Some(census) => {
                let listing = hints::read(&*index.core.storage, &index.keydir, &segment);
                (census.oldest, listing.map(|(_, listing)| listing))
            }
            // Not looked through: the active one, or damaged.
            None => (segment.position(0).as_u64(), None),
        });
        Self(listed.collect())
    }

    fn may_hold(&self, tag: u32, origin: LogPosition) -> bool {
        let holds = |listing: &Option<Listing>| listing.as_ref().is_none_or(|l| l.has_put(tag));
        self.0.iter().any(|(oldest, listing)| *oldest < origin.as_u64() && holds(listing))
    }
}

/// Writes the outputs.
struct Writer<'i> {
    index: &'i Index,
    /// What the outputs are made of.
    inputs: Vec<u32>,
    /// Bytes that are still expected.
    expected: u64,
    open: Option<Output>,
    done: Vec<Arc<Segment>>,
}

struct Output {
    segment: Segment,
    at: u64,
    frames: u64,
    gather: Gather,
}

impl<'i> Writer<'i> {
    fn new(index: &'i Index, inputs: Vec<u32>, expected: u64) -> Self {
        Self { index, inputs, expected, open: None, done: Vec::new() }
    }

    /// Copies a put, and says where the copy is.
    fn copy(
        &mut self,
        header: Header,
        body: &[u8],
        origin: LogPosition,
    ) -> Result<LogPosition, MergeError> {
        let moved = Header { flags: header.flags | MOVED, ..header };
        let at = moved.origin_at().expect("it is moved") as usize;
        let rest = at + if header.flags & MOVED != 0 { 8 } else { 0 };
        self.write(moved, &[&body[..at], &origin.as_u64().to_le_bytes(), &body[rest..]])
    }

    fn tombstone(&mut self, key: &[u8], origin: LogPosition) -> Result<(), MergeError> {
        let key_len = key.len() as u16;
        let header = Header { kind: Kind::Delete, flags: MOVED, key_len, value_len: 0 };
        self.write(header, &[&origin.as_u64().to_le_bytes(), key]).map(drop)
    }

    fn write(&mut self, header: Header, parts: &[&[u8]]) -> Result<LogPosition, MergeError> {
        let len = frame::frame_len(header.body_len());
        let keydir = &self.index.keydir;
        let output = self.output(len)?;
        let (segment, offset) = (&output.segment, output.at);
        let mut at = offset + frame::WORD;
        for part in [&header.to_word().to_le_bytes()[..]].iter().chain(parts) {
            // SAFETY: behind all frames of a segment that nobody else knows.
            unsafe { segment.map.write(at, part) };
            at += part.len() as u64;
        }
        // SAFETY: as above, and just written; the rest of the body is zero.
        let body = unsafe { segment.map.slice(offset + HEADER, header.body_len()) };
        let word = frame::word_of(segment.salt(), offset, header, body);
        // ORDERING: Release; pairs with the Acquire load in `committed`. Whoever finds the frame
        // has it from a slot that was set under its shard's lock later.
        segment.map.word(offset).store(word, Ordering::Release);
        output.gather.add(keydir, &output.segment, offset, len, Some(header));
        output.at += len;
        output.frames += 1;
        Ok(output.segment.position(offset))
    }

    /// An output with room for a frame.
    fn output(&mut self, len: u64) -> Result<&mut Output, MergeError> {
        let has_room = |output: &Output| output.at + len <= output.segment.header.capacity;
        if !self.open.as_ref().is_some_and(has_room) {
            self.seal()?;
            // Copies are 8 bytes longer than what was written first: room for that, too.
            let expected = self.expected + self.expected / 8;
            let head = frame::inputs_len(self.inputs.len());
            let most = (self.index.core.config.segment_size - FIRST_FRAME).saturating_sub(head);
            let room = expected.min(most).max(len);
            let segment = self.index.core.create_merged(room, &self.inputs)?;
            let gather = Gather::new();
            self.open = Some(Output { segment, at: FIRST_FRAME + head, frames: 1, gather });
        }
        self.expected = self.expected.saturating_sub(len);
        Ok(self.open.as_mut().expect("just made"))
    }

    /// Makes the open output durable.
    fn seal(&mut self) -> Result<(), MergeError> {
        let Some(Output { segment, at, frames, gather }) = self.open.take() else { return Ok(()) };
        let segment = Arc::new(segment);
        // Known from here on, to be discarded if anything fails.
        self.done.push(segment.clone());
        let io = |source| MergeError::Io { source: Arc::new(source) };
        segment.sync(FIRST_FRAME, at).map_err(io)?;
        seal_and_shrink(&segment, at, frames).map_err(io)?;
        let (census, entries) = gather.finish(&segment);
        let index = self.index;
        hints::write(&*index.core.storage, &index.keydir, &segment, &census, &entries);
        // A new segment has none yet.
        let _ = segment.census.set(census);
        segment.looked_at.add(self.index.reclaimed.get());
        Ok(())
    }

    /// Their ids are used up: somebody in another process may have seen them.
    fn discard(self) {
        if let Err(error) = self.index.core.write_next_id() {
            tracing::warn!(%error, "could not note that ids are used up");
        }
        let open = self.open.iter().map(|output| output.segment.id());
        for id in self.done.iter().map(|segment| segment.id()).chain(open) {
            self.index.core.remove_file(&file_name(id));
            self.index.core.remove_file(&hint_name(id));
        }
    }
}

/// How hard a merge works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as it can.
    Full,
    /// As the policy says.
    Policy { in_a_hurry: bool },
}

/// Bytes between two looks at the clock.
const STRIDE: u64 = 256 << 10;
/// The longest sleep before looking whether the store is being closed.
const NAP: Duration = Duration::from_millis(20);
/// The longest pause at all, in seconds.
const LONGEST: f64 = 3600.0;

/// Ends a merge when the store is closed, and slows it down as the policy says.
struct Pacer<'i> {
    index: &'i Index,
    pace: Pace,
    bytes: u64,
    since: Instant,
}

impl<'i> Pacer<'i> {
    fn new(index: &'i Index, pace: Pace) -> Self {
        Self { index, pace, bytes: 0, since: Instant::now() }
    }

    /// To be called after each step, with the bytes that it moved.
    fn after(&mut self, bytes: u64) -> Result<(), MergeError> {
        self.bytes += bytes;
        if self.bytes >= STRIDE { self.pause() } else { Ok(()) }
    }

    #[cold]
    fn pause(&mut self) -> Result<(), MergeError> {
        let pause = match self.pace {
            Pace::Full => 0.0,
            // Somebody waits for this merge to end.
            Pace::Policy { .. } if self.index.has_waiters() => 0.0,
            Pace::Policy { in_a_hurry } => {
                let took = self.since.elapsed().as_secs_f64();
                self.index.policy.pause(self.bytes, took, in_a_hurry)
            }
        };
        let until = Instant::now() + Duration::from_secs_f64(pause.min(LONGEST));
        loop {
            if self.index.is_stopping() {
                return Err(MergeError::Closing);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.index.has_waiters() {
                break;
            }
            std::thread::sleep(left.min(NAP));
        }
        (self.bytes, self.since) = (0, Instant::now());
        Ok(())
    }
}
