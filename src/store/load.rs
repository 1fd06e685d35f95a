//! Opening a store: the keydir is loaded from hints, and from the frames of segments that have none.
//!
//! Hints are checked while the keydir is filled, so that each byte of them is read once, and the device
//! reads ahead of that. Invariant: what a hint says counts only if all of it was found sound. If one is
//! not, that is known when the keydir has been filled: then the hint's segment is read instead, and the
//! keydir filled anew.

use super::end::StoreEnd;
use super::hints::{self, HintMap, Listing, SegmentSummary};
use super::inner::{Damaged, StoreInner};
use super::maintenance;
use super::salvage;
use super::view::StoreView;
use super::{Store, StoreOptions};
use crate::error::{Corruption, OpenError};
use crate::format::frame::Kind;
use crate::format::hint::{Census, HintEntry, HintWalk, Listed};
use crate::keydir::{Keydir, LoadEntry, LoadSource};
use crate::log::writer::LogWriter;
use crate::log::{CommitLog, RecoveryReport};
use crate::options::{Creation, RecoveryMode};
use crate::random::random_bytes;
use crate::segment::Segment;
use crate::segment::quiet::QuietSegment;
use crate::segment::scan::each_frame;
use crate::storage::{Storage, check_maps, io_error};
use crate::sync::{Mutex, lock};
use crate::threads::{of_each, processors};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Instant;

/// What is known of a segment before its keys are loaded.
struct LoadedSegment {
    segment: Arc<Segment>,
    census: Census,
    listing: Listing,
    /// Damage that could not be read (salvage only).
    damage: Vec<Corruption>,
    gaps: Vec<Range<u64>>,
    loaded: Mutex<Loaded>,
}

/// What the walks through a segment's entries have found.
#[derive(Clone, Copy, Debug)]
struct Loaded {
    listed: Listed,
    /// Bytes of puts whose keys have newer frames.
    dead: u64,
    sound: bool,
}

/// A walk through the entries of a segment.
struct LoadWalk {
    at: WalkPlace,
    sound: bool,
}

enum WalkPlace {
    Hint(HintWalk),
    Read(usize),
}

impl Store {
    pub(super) fn load(log: CommitLog, options: &StoreOptions) -> Result<Self, OpenError> {
        let started = Instant::now();
        let writer = log.writer().expect("a store's log is open for writing").clone();
        let keydir = options.keydir(secret_of(&writer, options.log.creation())?);
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
        check_maps(writer.storage())?;
        report.duration += started.elapsed();
        let view = StoreView::new(
            writer.segment_set().clone(),
            keydir,
            options.log.wall_clock(),
            options.verify,
        );
        options.budget_for(writer.segment_set(), writer.segment_size());
        let (max_value, policy) = (options.max_value, options.merge_policy);
        let inner = Arc::new(StoreInner::new(writer, view, max_value, policy, damaged));
        let thread = maintenance::start(&inner).map_err(|e| io_error("start a thread", e))?;
        let end = Arc::new(StoreEnd::new(inner.clone(), thread));
        log.let_to(end.clone());
        Ok(Self { log, inner, end, report: Arc::new(report) })
    }
}

/// The secret of the hash. It never changes, since hints hold tags that were made with it.
fn secret_of(writer: &LogWriter, creation: Creation) -> Result<[u8; 16], OpenError> {
    if let Some(secret) = writer.store_secret() {
        return Ok(secret);
    }
    if creation == Creation::Never {
        return Err(OpenError::NotAStore);
    }
    // A plain log could not be truncated any longer if it became a store.
    let active = writer.tail().segment();
    let segments = writer.segment_set().segments().into_iter().filter(|s| s.id() < active);
    let segments: Vec<_> = segments.collect();
    let is_log = match writer.recovery_mode() {
        RecoveryMode::Strict => !segments.is_empty(),
        RecoveryMode::Salvage => holds_entries_alone(&segments),
    };
    if is_log {
        return Err(OpenError::NotAStore);
    }
    let secret = random_bytes().map_err(|e| io_error("draw random bytes", e))?;
    let written = writer.change_manifest(|manifest| manifest.secret = Some(secret));
    written.map_err(|e| io_error("write MANIFEST", e))?;
    Ok(secret)
}

/// Whether segments hold entries of a log, and nothing of a store: what salvage finds without a secret may be
/// a store that has lost its MANIFEST.
pub(super) fn holds_entries_alone(segments: &[Arc<Segment>]) -> bool {
    let (mut entries, mut keys) = (false, false);
    for segment in segments {
        keys |= segment.header.merged;
        // What is damaged is recorded, and says nothing.
        let _ = each_frame(QuietSegment::of(segment), Some(&mut Vec::new()), |_, _, frame| {
            let kind = frame.header.map(|header| header.kind);
            entries |= kind == Some(Kind::Entry);
            keys |= kind.is_some_and(Kind::has_key);
            if keys { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
    }
    entries && !keys
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
        let mut sources = self.read_sources()?;
        self.fill(&mut sources)?;
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

    /// Opens hints, and reads the segments that have none, on all processors. In salvage all segments are
    /// read, so that all losses are known. One segment is read by one thread: where its frames begin is
    /// known only once those before them are read.
    fn read_sources(&self) -> Result<Vec<LoadedSegment>, OpenError> {
        if self.salvage {
            let read = |_: usize, segment: &Arc<Segment>| {
                let is_hinted = may_have_hint(segment);
                let hint = is_hinted.then(|| hints::read(self.storage, self.keydir, segment));
                self.salvage_frames(segment, hint.flatten())
            };
            return Ok(of_each(&self.segments, read)?);
        }
        // The beginnings of all are on their way before the first one is looked at.
        let open = |_: usize, segment: &Arc<Segment>| {
            let hint = may_have_hint(segment)
                .then(|| HintMap::open_ahead(self.storage, self.keydir, segment));
            Ok::<_, Infallible>((segment.clone(), Mutex::new(hint.flatten())))
        };
        let Ok(opened) = of_each(&self.segments, open);
        let read = |_: usize, (segment, hint): &(Arc<Segment>, Mutex<Option<HintMap>>)| {
            let Some(hint) = lock(hint).take() else { return self.read_frames(segment) };
            match hint.check_head(self.keydir) {
                Some((census, hint)) => {
                    Ok(LoadedSegment::sound(segment, census, Listing::Hint(hint)))
                }
                None => {
                    hints::warn_of(segment);
                    self.read_frames(segment)
                }
            }
        };
        Ok(of_each(&opened, read)?)
    }

    /// Reads a segment without a hint, and writes one.
    fn read_frames(&self, segment: &Arc<Segment>) -> Result<LoadedSegment, Corruption> {
        let SegmentSummary { census, entries, .. } = hints::summarize(self.keydir, segment, None)?;
        if self.write_hints {
            hints::write(self.storage, self.keydir, segment, &census, &entries, false);
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
                hints::write(self.storage, self.keydir, segment, &census, &entries, false);
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

    /// Fills the keydir. If hints turn out not to be sound, their segments are read, and the keydir is
    /// filled again, without them.
    fn fill(&self, sources: &mut [LoadedSegment]) -> Result<(), Corruption> {
        loop {
            self.keydir.load(sources, processors());
            let unsound: Vec<_> =
                (0..sources.len()).filter(|&nth| !sources[nth].complete()).collect();
            if unsound.is_empty() {
                break;
            }
            let read = |_: usize, &nth: &usize| {
                let segment = &sources[nth].segment;
                hints::warn_of(segment);
                self.read_frames(segment)
            };
            let read = of_each(&unsound, read)?;
            for (nth, source) in unsound.into_iter().zip(read) {
                sources[nth] = source;
            }
            sources.iter_mut().for_each(LoadedSegment::forget);
        }
        for LoadedSegment { segment, census, loaded, .. } in sources {
            segment.dead.add(census.superseded + lock(loaded).dead);
            // It is determined only here, so it is not set yet.
            let _ = segment.census.set(*census);
        }
        Ok(())
    }
}

/// Whether a segment may have a hint, which describes all of it.
fn may_have_hint(segment: &Segment) -> bool {
    segment.is_sealed() && segment.gaps.is_empty()
}

impl Loaded {
    const NOTHING: Self = Self { listed: Listed::NONE, dead: 0, sound: true };
}

impl LoadedSegment {
    fn sound(segment: &Arc<Segment>, census: Census, listing: Listing) -> Self {
        let segment = segment.clone();
        let loaded = Mutex::new(Loaded::NOTHING);
        Self { segment, census, listing, damage: Vec::new(), gaps: Vec::new(), loaded }
    }

    /// Once the keydir was filled: whether all that it was filled with from here was sound. The census of a
    /// hint is complete then.
    fn complete(&mut self) -> bool {
        let Listing::Hint(hint) = &self.listing else { return true };
        let loaded = lock(&self.loaded);
        let whole = hint.complete(self.census, &loaded.listed).filter(|_| loaded.sound);
        self.census = whole.unwrap_or(self.census);
        whole.is_some()
    }

    /// Forgets what was found, before the keydir is filled again.
    fn forget(&mut self) {
        *lock(&self.loaded) = Loaded::NOTHING;
    }
}

impl LoadSource for LoadedSegment {
    type Walk = LoadWalk;

    fn len(&self) -> usize {
        self.listing.view().len()
    }

    fn first_half(&self, nth: usize) -> u64 {
        self.listing.view().first_half(nth)
    }

    fn ask_for(&self, end: Option<u64>) {
        if let Listing::Hint(hint) = &self.listing {
            hint.ask_for(end);
        }
    }

    fn walk(&self, from: usize, floor: u64) -> LoadWalk {
        let at = match &self.listing {
            Listing::Hint(hint) => WalkPlace::Hint(hint.walk(from, floor)),
            Listing::Read(_) => WalkPlace::Read(from),
        };
        LoadWalk { at, sound: true }
    }

    #[inline]
    fn each_below(&self, walk: &mut LoadWalk, end: Option<u64>, mut take: impl FnMut(LoadEntry)) {
        if !walk.sound {
            return;
        }
        let segment = &*self.segment;
        let each = |entry: HintEntry| {
            let at = segment.position(entry.offset());
            let HintEntry { name, origin, .. } = entry;
            let (len, tombstone) = (entry.len() as u32, entry.is_tombstone());
            take(LoadEntry { name, origin, at, len, tombstone });
        };
        match (&self.listing, &mut walk.at) {
            (Listing::Hint(hint), WalkPlace::Hint(at)) => {
                walk.sound = hint.each_below(at, end, each).is_some();
            }
            (Listing::Read(all), WalkPlace::Read(from)) => {
                let is_below = |entry: &&HintEntry| end.is_none_or(|end| entry.name.first < end);
                *from += all[*from..].iter().take_while(is_below).copied().map(each).count();
            }
            _ => unreachable!("a walk through these entries"),
        }
    }

    #[inline]
    fn bytes_from(&self, walk: &LoadWalk) -> &[u8] {
        match (&self.listing, &walk.at) {
            (Listing::Hint(hint), WalkPlace::Hint(at)) => hint.bytes_from(at),
            // The processor sees that coming.
            _ => &[],
        }
    }

    fn walked(&self, walk: LoadWalk, dead: u64) {
        let mut loaded = lock(&self.loaded);
        loaded.dead += dead;
        loaded.sound &= walk.sound;
        if let WalkPlace::Hint(at) = &walk.at {
            loaded.listed.add(&at.listed);
        }
    }
}
