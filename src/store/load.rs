//! Opening a store: the keydir is loaded from hints, and from the frames of segments that have none.

use super::hints::{self, Listing, SegmentSummary};
use super::inner::{Damaged, StoreInner};
use super::maintenance;
use super::salvage;
use super::view::StoreView;
use super::{Store, StoreOptions};
use crate::error::{Corruption, OpenError};
use crate::format::hint::{Census, HintEntry};
use crate::keydir::{Keydir, LoadEntry, LoadSource};
use crate::log::writer::LogWriter;
use crate::log::{CommitLog, RecoveryReport};
use crate::options::RecoveryMode;
use crate::random::random_bytes;
use crate::segment::Segment;
use crate::storage::{Storage, io_error};
use crate::sync::{Mutex, lock};
use crate::threads::on_threads;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// More threads than this would only wait for memory together.
const THREADS: usize = 8;

/// Hints that the kernel is asked for before they are read.
const ANNOUNCED: usize = 2 * THREADS;

/// What is known of a segment before its keys are loaded.
struct LoadedSegment {
    segment: Arc<Segment>,
    census: Census,
    listing: Listing,
    /// Damage that could not be read (salvage only).
    damage: Vec<Corruption>,
    gaps: Vec<Range<u64>>,
}

impl Store {
    pub(super) fn load(mut log: CommitLog, options: &StoreOptions) -> Result<Self, OpenError> {
        let started = Instant::now();
        log.stored = true;
        let writer = log.writer().expect("a store's log is open for writing").clone();
        let keydir = options.keydir(secret_of(&writer)?);
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
    /// Loads the newest frame of every key into the keydir, and returns the damage found.
    pub(super) fn run(
        &self,
        report: &mut RecoveryReport,
    ) -> Result<BTreeMap<u32, Damaged>, OpenError> {
        let sources = self.read_sources()?;
        self.fill(&sources);
        for found in sources.iter().flat_map(|source| &source.damage) {
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
        Ok(damaged)
    }

    /// Reads hints, and the segments that have none, on all processors; the result is in the order of
    /// the segments' ids. In salvage all segments are read, so that all losses are known. One segment is
    /// read by one thread: where its frames begin is known only once those before them are read.
    fn read_sources(&self) -> Result<Vec<LoadedSegment>, OpenError> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::new());
        let work = || -> Result<(), Corruption> {
            loop {
                // ORDERING: Relaxed; each index is drawn once.
                let nth = next.fetch_add(1, Relaxed);
                let Some(segment) = self.segments.get(nth) else { return Ok(()) };
                let ahead =
                    if nth == 0 { 1..=ANNOUNCED } else { nth + ANNOUNCED..=nth + ANNOUNCED };
                for segment in ahead.filter_map(|nth| self.segments.get(nth)) {
                    hints::announce(self.storage, segment);
                }
                let source = match self.hint_of(segment) {
                    hint if self.salvage => self.salvage_frames(segment, hint)?,
                    Some((census, listing)) => LoadedSegment::sound(segment, census, listing),
                    None => self.read_frames(segment)?,
                };
                lock(&done).push(source);
            }
        };
        on_threads(threads().min(self.segments.len()), work)?;
        let mut sources = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        sources.sort_unstable_by_key(|source| source.segment.id());
        Ok(sources)
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

    fn fill(&self, sources: &[LoadedSegment]) {
        self.keydir.load(sources, threads());
        for LoadedSegment { segment, census, .. } in sources {
            segment.dead.add(census.superseded);
            // It is determined only here, so it is not set yet.
            let _ = segment.census.set(*census);
        }
    }
}

impl LoadedSegment {
    fn sound(segment: &Arc<Segment>, census: Census, listing: Listing) -> Self {
        let segment = segment.clone();
        Self { segment, census, listing, damage: Vec::new(), gaps: Vec::new() }
    }
}

impl LoadSource for LoadedSegment {
    fn len(&self) -> usize {
        self.listing.view().len()
    }

    fn first_half(&self, nth: usize) -> u64 {
        self.listing.view().first_half(nth)
    }

    #[inline]
    fn each_below(&self, from: usize, end: Option<u64>, mut take: impl FnMut(LoadEntry)) -> usize {
        let segment = &*self.segment;
        self.listing.view().each_below(from, end, |entry| {
            let at = segment.position(entry.offset());
            let HintEntry { name, origin, .. } = entry;
            let (len, tombstone) = (entry.len() as u32, entry.is_tombstone());
            take(LoadEntry { name, origin, at, len, tombstone });
        })
    }

    fn bytes_from(&self, nth: usize) -> &[u8] {
        self.listing.view().bytes_from(nth)
    }

    fn dropped(&self, bytes: u64) {
        self.segment.dead.add(bytes);
    }
}
