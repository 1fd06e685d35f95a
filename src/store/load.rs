//! Opening a store: the keydir is loaded from hints, and from the frames of segments that have none.

use super::hints::{self, Listing, ListingView, SegmentSummary};
use super::inner::{Damaged, StoreInner};
use super::maintenance;
use super::salvage;
use super::view::StoreView;
use super::{Store, StoreOptions};
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::format::hint::{Census, HintEntry, SortedEntries};
use crate::format::record::RecordHead;
use crate::keydir::{EntryRelation, Keydir, LoadEntry, LoadSource, Resolve};
use crate::log::writer::LogWriter;
use crate::log::{CommitLog, RecoveryReport};
use crate::options::RecoveryMode;
use crate::position::LogPosition;
use crate::random::random_bytes;
use crate::segment::Segment;
use crate::segment::frames;
use crate::segment::quiet::QuietSegment;
use crate::storage::{Storage, io_error};
use crate::sync::{Mutex, lock};
use crate::threads::on_threads;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// More threads than this would only wait for memory together.
const THREADS: usize = 8;

/// What is known of a segment before its keys are loaded.
struct LoadedSegment {
    segment: Arc<Segment>,
    census: Census,
    listing: Listing,
    /// No frame in it was first written in a segment with a higher id.
    newest: u32,
    /// Damage that could not be read (salvage only).
    damage: Vec<Corruption>,
    gaps: Vec<Range<u64>>,
}

/// Why the keydir could not be loaded.
enum LoadFault {
    Corrupt(Corruption),
    /// The hints of these segments do not match them.
    Hints(Vec<u32>),
}

impl Store {
    pub(super) fn load(mut log: CommitLog, options: &StoreOptions) -> Result<Self, OpenError> {
        let started = Instant::now();
        log.stored = true;
        let writer = log.writer().expect("a store's log is open for writing").clone();
        let keydir = Keydir::new(secret_of(&writer)?, options.tag_bits);
        let mut report = log.recovery().clone();
        let active = writer.tail().segment();
        let segments =
            writer.segment_set().segments().into_iter().filter(|s| s.id() < active).collect();
        let loading = Loading {
            storage: writer.storage(),
            keydir: &keydir,
            segments,
            salvage: writer.recovery_mode() == RecoveryMode::Salvage,
            write_hints: true,
        };
        let damaged = loading.run(&mut report)?;
        report.duration += started.elapsed();
        let view = StoreView::new(
            writer.segment_set().clone(),
            keydir,
            options.clock.clone(),
            options.verify,
        );
        writer.segment_set().set_cache_budget(options.cache_bytes());
        let (max_value, policy) = (options.max_value, options.merge_policy);
        let inner = Arc::new(StoreInner::new(writer, view, max_value, policy, damaged));
        let maintainer = maintenance::start(&inner).map_err(|e| io_error("start a thread", e))?;
        Ok(Self { log, inner, maintainer, report })
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS))
}

/// The secret of the hash. It never changes, since hints hold tags that were made with it.
fn secret_of(writer: &LogWriter) -> Result<[u8; 16], OpenError> {
    if let Some(secret) = writer.store_secret() {
        return Ok(secret);
    }
    // A plain log could not be truncated any longer if it became a store.
    let active = writer.tail().segment();
    let is_log = writer.segment_set().with(|all| all.iter().any(|segment| segment.id() < active));
    if is_log && writer.recovery_mode() == RecoveryMode::Strict {
        return Err(OpenError::NotAStore);
    }
    let secret = random_bytes().map_err(|e| io_error("draw random bytes", e))?;
    let written = writer.change_manifest(|manifest| manifest.secret = Some(secret));
    written.map_err(|e| io_error("write MANIFEST", e))?;
    Ok(secret)
}

/// Segments whose keys are to be loaded into a keydir.
pub(super) struct Loading<'l> {
    pub(super) storage: &'l dyn Storage,
    pub(super) keydir: &'l Keydir,
    pub(super) segments: Vec<Arc<Segment>>,
    /// Whether damage is skipped and recorded.
    pub(super) salvage: bool,
    /// Whether hints are written for segments that have none.
    pub(super) write_hints: bool,
}

impl Loading<'_> {
    /// Loads the newest frame of every key into the keydir, and returns the damage found. If a hint
    /// turns out to be wrong, it is dropped, and everything is loaded again without it.
    pub(super) fn run(
        &self,
        report: &mut RecoveryReport,
    ) -> Result<BTreeMap<u32, Damaged>, OpenError> {
        let mut distrusted = Vec::new();
        loop {
            let lost = Mutex::new(Vec::new());
            let sources = self.read_sources(&distrusted)?;
            match self.fill(&sources, &lost) {
                Ok(()) => {}
                Err(LoadFault::Corrupt(damage)) => return Err(damage.into()),
                Err(LoadFault::Hints(ids)) => {
                    tracing::warn!(segments = ?ids, "hints do not match their segments");
                    distrusted.extend(ids);
                    self.keydir.clear();
                    sources.iter().for_each(|source| source.segment.dead.clear());
                    continue;
                }
            }
            for found in sources.iter().flat_map(|source| &source.damage).chain(&*lock(&lost)) {
                if !report.lost.contains(found) {
                    report.lost.push(found.clone());
                }
            }
            let loaded = sources.iter().map(|source| (&*source.segment, source.listing.view()));
            salvage::resolve(self.keydir, loaded, report);
            let hinted = sources.iter().filter(|s| matches!(s.listing, Listing::Hint(_)));
            report.hinted_segments = hinted.count() as u64;
            let damaged = sources.iter().filter_map(|source| {
                let first = source.damage.first()?.clone();
                Some((source.segment.id(), Damaged::at_load(first, &source.gaps)))
            });
            let damaged = damaged.collect();
            for LoadedSegment { segment, listing, .. } in &sources {
                segment.reclaimed_then.clear();
                segment.reclaimed_then.add(listing.reclaimed_then());
            }
            return Ok(damaged);
        }
    }

    /// Reads hints, and the segments that have none or an untrusted one, on all processors. In salvage
    /// all segments are read, so that all losses are known.
    fn read_sources(&self, distrusted: &[u32]) -> Result<Vec<LoadedSegment>, OpenError> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::new());
        let work = || -> Result<(), Corruption> {
            // ORDERING: Relaxed; each index is drawn once.
            while let Some(segment) = self.segments.get(next.fetch_add(1, Relaxed)) {
                let trusted = !distrusted.contains(&segment.id());
                let source = match trusted.then(|| self.hint_of(segment)).flatten() {
                    hint if self.salvage => self.salvage_frames(segment, hint)?,
                    Some((census, listing)) => {
                        // Read only where two entries have one tag.
                        segment.map.expect_scattered(true);
                        LoadedSegment::sound(segment, census, listing)
                    }
                    None => self.read_frames(segment)?,
                };
                lock(&done).push(source);
            }
            Ok(())
        };
        on_threads(threads().min(self.segments.len()), work)?;
        Ok(done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Uses the hint of a segment, which describes all of it.
    fn hint_of(&self, segment: &Segment) -> Option<(Census, Listing)> {
        let is_whole = segment.is_sealed() && segment.gaps.is_empty();
        is_whole.then(|| hints::read(self.storage, self.keydir, segment)).flatten()
    }

    /// Reads a segment without a hint, and writes one.
    fn read_frames(&self, segment: &Arc<Segment>) -> Result<LoadedSegment, Corruption> {
        let SegmentSummary { census, entries, .. } = hints::summarize(self.keydir, segment, None)?;
        if self.write_hints {
            hints::write(self.storage, self.keydir, segment, &census, &entries);
        }
        Ok(LoadedSegment::sound(segment, census, Listing::Read(entries)))
    }

    /// Reads what can be read of a segment. For the rest a valid hint says which keys have their newest
    /// frame there: these are damaged, and their older values do not come back.
    fn salvage_frames(
        &self,
        segment: &Arc<Segment>,
        hint: Option<(Census, Listing)>,
    ) -> Result<LoadedSegment, Corruption> {
        let mut damage = Vec::new();
        let found = hints::summarize(self.keydir, segment, Some(&mut damage))?;
        let SegmentSummary { census, mut entries, gaps } = found;
        if damage.is_empty() {
            if self.write_hints && hint.is_none_or(|(hinted, _)| hinted != census) {
                hints::write(self.storage, self.keydir, segment, &census, &entries);
            }
            return Ok(LoadedSegment::sound(segment, census, Listing::Read(entries)));
        }
        let mut known = census;
        if let Some((census, listing)) = hint {
            let is_lost = |entry: &HintEntry| gaps.iter().any(|gap| gap.contains(&entry.offset()));
            entries.extend(listing.view().iter().filter(is_lost));
            entries.sort_unstable();
            known = census;
        }
        let source = LoadedSegment::sound(segment, known, Listing::Read(entries));
        Ok(LoadedSegment { damage, gaps, ..source })
    }

    fn fill(
        &self,
        sources: &[LoadedSegment],
        lost: &Mutex<Vec<Corruption>>,
    ) -> Result<(), LoadFault> {
        let sorted: Vec<_> = sources.iter().map(SegmentEntries::of).collect();
        let segments = sources.iter().map(|source| (source.segment.id(), source)).collect();
        let frames = FrameResolver { keydir: self.keydir, segments, salvage: self.salvage, lost };
        self.keydir.load(&sorted, threads(), &frames)?;
        for LoadedSegment { segment, census, .. } in sources {
            segment.map.expect_scattered(false);
            segment.dead.add(census.superseded);
            // It is determined only here, so it is not set yet.
            let _ = segment.census.set(*census);
        }
        Ok(())
    }
}

impl LoadedSegment {
    fn sound(segment: &Arc<Segment>, census: Census, listing: Listing) -> Self {
        let origins = if segment.header.merged { frames::inputs(segment) } else { None };
        let newest = origins.and_then(|inputs| inputs.into_iter().max());
        let newest = newest.unwrap_or(segment.id() - u32::from(segment.header.merged));
        let segment = segment.clone();
        Self { segment, census, listing, newest, damage: Vec::new(), gaps: Vec::new() }
    }
}

/// A source's entries, in the form in which the keydir loads them.
struct SegmentEntries<'s> {
    segment: &'s Segment,
    listed: ListingView<'s>,
}

impl<'s> SegmentEntries<'s> {
    fn of(source: &'s LoadedSegment) -> Self {
        Self { segment: &source.segment, listed: source.listing.view() }
    }
}

impl LoadSource for SegmentEntries<'_> {
    fn len(&self) -> usize {
        self.listed.len()
    }

    #[inline]
    fn get(&self, nth: usize) -> LoadEntry {
        let entry = self.listed.get(nth);
        LoadEntry {
            tag: entry.tag(),
            at: self.segment.position(entry.offset()),
            tombstone: entry.is_tombstone(),
        }
    }
}

/// Compares entries by their frames: of those with one key the newest is the one with the highest
/// origin, wherever merges have moved it. What this depends on, and no hint covers, is verified: keys
/// that differ, and the origins of moved frames. A hint with an entry that does not name a frame with
/// its tag is no longer trusted. In salvage damage is recorded, and the frames' content is used as it
/// is.
struct FrameResolver<'s> {
    keydir: &'s Keydir,
    segments: HashMap<u32, &'s LoadedSegment>,
    salvage: bool,
    lost: &'s Mutex<Vec<Corruption>>,
}

/// The record at the place that an entry names.
#[derive(Clone, Copy)]
struct EntryRecord<'s> {
    segment: &'s Segment,
    at: LogPosition,
    /// Not verified.
    record: Option<RecordHead<'s>>,
}

impl<'s> EntryRecord<'s> {
    fn key(&self) -> Option<&'s [u8]> {
        self.record.map(|record| record.key())
    }

    fn origin(&self) -> LogPosition {
        let offset = u64::from(self.at.offset());
        self.record.map_or(self.at, |record| self.segment.origin_of(offset, &record))
    }
}

impl<'s> FrameResolver<'s> {
    #[allow(unsafe_code, reason = "looks at frames that nobody writes to")]
    fn find(&self, at: LogPosition) -> EntryRecord<'s> {
        let segment = &*self.segments[&at.segment()].segment;
        // SAFETY: either the segment is sealed, and then it makes no difference what a hint says; or it
        // is only read here, and the entry is that of a frame that was found committed.
        let record = unsafe { segment.record_head(u64::from(at.offset())) };
        EntryRecord { segment, at, record }
    }

    fn verify(&self, EntryRecord { segment, at, .. }: EntryRecord<'_>) -> Result<(), LoadFault> {
        let Err(damage) = verify(segment, u64::from(at.offset())) else { return Ok(()) };
        if self.is_hinted(segment) {
            // Reading the segment tells whether the hint or the frame is damaged.
            return Err(LoadFault::Hints(vec![segment.id()]));
        }
        if !self.salvage {
            return Err(LoadFault::Corrupt(damage));
        }
        let mut lost = lock(self.lost);
        if !lost.contains(&damage) {
            lost.push(damage);
        }
        Ok(())
    }

    fn is_hinted(&self, segment: &Segment) -> bool {
        matches!(self.segments[&segment.id()].listing, Listing::Hint(_))
    }

    /// Two sound frames of different keys have the same tag, unless a hint is wrong.
    fn check_tags(&self, a: EntryRecord<'_>, b: EntryRecord<'_>) -> Result<(), LoadFault> {
        let tag = |loaded: EntryRecord<'_>| loaded.key().map(|key| self.keydir.tag(key));
        if tag(a) == tag(b) {
            return Ok(());
        }
        let hinted = [a.segment, b.segment].into_iter().filter(|segment| self.is_hinted(segment));
        let ids: Vec<_> = hinted.map(Segment::id).collect();
        if ids.is_empty() { Ok(()) } else { Err(LoadFault::Hints(ids)) }
    }
}

impl<'s> Resolve for FrameResolver<'s> {
    type Key = &'s [u8];
    type Error = LoadFault;

    fn relation(&self, old: LogPosition, new: LogPosition) -> Result<EntryRelation, LoadFault> {
        let (a, b) = (self.find(old), self.find(new));
        let same = a.key().is_some_and(|key| b.key() == Some(key));
        // Frames that a merge moved were written in its inputs or earlier. Compared with later frames
        // of the log their exact origin does not matter, and need not be verified.
        let is_before = |moved: &Segment, log: &Segment| {
            let newest = self.segments[&moved.id()].newest;
            moved.header.merged && !log.header.merged && newest < log.id()
        };
        if same && is_before(a.segment, b.segment) {
            return Ok(EntryRelation::Newer);
        }
        if same && is_before(b.segment, a.segment) {
            return Ok(EntryRelation::Older);
        }
        for loaded in [a, b] {
            if !same || loaded.segment.header.merged {
                self.verify(loaded)?;
            }
        }
        if !same {
            self.check_tags(a, b)?;
        }
        Ok(match same {
            false => EntryRelation::Other,
            true if b.origin() > a.origin() => EntryRelation::Newer,
            true => EntryRelation::Older,
        })
    }

    fn look(&self, at: LogPosition) -> Result<Option<(&'s [u8], LogPosition)>, LoadFault> {
        let loaded = self.find(at);
        self.verify(loaded)?;
        Ok(loaded.key().map(|key| (key, loaded.origin())))
    }

    fn dropped(&self, at: LogPosition) {
        let EntryRecord { segment, record, .. } = self.find(at);
        if record.is_some_and(|record| record.is_put()) {
            segment.dead.add(segment.frame_len(u64::from(at.offset())));
        }
    }
}

fn verify(segment: &Segment, offset: u64) -> Result<(), Corruption> {
    let room = segment.end().saturating_sub(offset);
    let frame = QuietSegment::of(segment).frame_at(offset, room);
    match frame {
        Ok(Some(frame)) if frame.record().is_some() => Ok(()),
        Ok(_) => Err(Corruption::at(segment.position(offset), CorruptionKind::StaleSlot)),
        Err(kind) => Err(Corruption::at(segment.position(offset), kind)),
    }
}
