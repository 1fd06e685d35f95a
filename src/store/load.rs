//! Opening: the keydir is made from hints, and from the frames of segments that have none.

use super::hints::{self, Listed, Listing};
use super::index::{Index, frame_len, is_put, key_at, origin_of};
use super::maintenance;
use super::view::View;
use super::{Store, StoreOptions};
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::format::hint::{Census, TOMBSTONE};
use crate::keydir::{self, Entry, Fate, Keydir, Resolve};
use crate::log::core::Core;
use crate::log::{CommitLog, RecoveryReport, scan};
use crate::options::RecoveryMode;
use crate::position::LogPosition;
use crate::random::random_bytes;
use crate::segment::Segment;
use crate::storage::{Storage, io_error};
use crate::sync::{Mutex, lock};
use crate::threads::on_threads;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// More threads than this wait for memory together.
const THREADS: usize = 8;

/// What is known of a segment before it is loaded.
struct Source {
    segment: Arc<Segment>,
    census: Census,
    listing: Listing,
}

impl Store {
    pub(super) fn load(mut log: CommitLog, options: &StoreOptions) -> Result<Self, OpenError> {
        let started = Instant::now();
        log.stored = true;
        let core = log.core().expect("a store's log is open for writing").clone();
        let keydir = Keydir::new(secret_of(&core)?, options.tag_bits);
        let mut report = log.recovery().clone();
        let active = core.tail.position().segment();
        let segments = core.table.segments().into_iter().filter(|s| s.id() < active).collect();
        let loading = Loading {
            storage: &*core.storage,
            keydir: &keydir,
            segments,
            salvage: core.config.recovery_mode == RecoveryMode::Salvage,
            write_hints: true,
        };
        loading.run(&mut report)?;
        report.duration += started.elapsed();
        let view = View::new(core.table.clone(), keydir, options);
        let index = Arc::new(Index::new(core, view, options.merge_policy));
        let maintainer = maintenance::start(&index).map_err(|e| io_error("start a thread", e))?;
        Ok(Self { log, index, maintainer, report, max_value: options.max_value })
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS))
}

/// The secret of the hash, for good: hints hold tags that were made with it.
fn secret_of(core: &Core) -> Result<[u8; 16], OpenError> {
    if let Some(secret) = lock(&core.manifest).secret {
        return Ok(secret);
    }
    // A log that is somebody's own could not be truncated any more.
    let active = core.tail.position().segment();
    let is_log = core.table.with(|all| all.iter().any(|segment| segment.id() < active));
    if is_log && core.config.recovery_mode == RecoveryMode::Strict {
        return Err(OpenError::NotAStore);
    }
    let secret = random_bytes().map_err(|e| io_error("draw random bytes", e))?;
    let written = core.change_manifest(|manifest| manifest.secret = Some(secret));
    written.map_err(|e| io_error("write MANIFEST", e))?;
    Ok(secret)
}

/// Segments whose keys are to be put into a keydir.
pub(super) struct Loading<'l> {
    pub(super) storage: &'l dyn Storage,
    pub(super) keydir: &'l Keydir,
    pub(super) segments: Vec<Arc<Segment>>,
    /// Whether damage is stepped over, and noted.
    pub(super) salvage: bool,
    /// Whether segments that have no hint get one.
    pub(super) write_hints: bool,
}

impl Loading<'_> {
    /// Puts the newest frame of every key into the keydir.
    pub(super) fn run(&self, report: &mut RecoveryReport) -> Result<(), OpenError> {
        let mut lost = self.salvage.then(Vec::new);
        let sources = self.read_sources(&mut lost)?;
        let lost = Mutex::new(lost.unwrap_or_default());
        self.fill(&sources, &lost)?;
        report.lost.append(&mut lock(&lost));
        let hinted = sources.iter().filter(|s| matches!(s.listing, Listing::Hint(_)));
        report.hinted_segments = hinted.count() as u64;
        Ok(())
    }

    /// Reads hints, and the segments that have none, on all processors.
    fn read_sources(&self, lost: &mut Option<Vec<Corruption>>) -> Result<Vec<Source>, OpenError> {
        let next = AtomicUsize::new(0);
        let (done, noted) = (Mutex::new(Vec::new()), Mutex::new(lost));
        let work = || -> Result<(), Corruption> {
            // ORDERING: Relaxed; each index is drawn once.
            while let Some(segment) = self.segments.get(next.fetch_add(1, Relaxed)) {
                let (census, listing) = match self.hint_of(segment) {
                    Some(found) => {
                        // Looked at only where two entries have one tag.
                        segment.map.expect_scattered(true);
                        found
                    }
                    None => self.read_frames(segment, &noted)?,
                };
                lock(&done).push(Source { segment: segment.clone(), census, listing });
            }
            Ok(())
        };
        on_threads(threads().min(self.segments.len()), work)?;
        Ok(done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// What the hint of a segment says, which is about all of it.
    fn hint_of(&self, segment: &Segment) -> Option<(Census, Listing)> {
        let is_whole = segment.is_sealed() && segment.gaps.is_empty();
        is_whole.then(|| hints::read(self.storage, self.keydir, segment)).flatten()
    }

    /// Reads a segment that has no hint, and writes one, if all of it is sound.
    fn read_frames(
        &self,
        segment: &Segment,
        noted: &Noted<'_>,
    ) -> Result<(Census, Listing), Corruption> {
        let mut here = self.salvage.then(Vec::new);
        let (census, entries) = hints::gather(self.keydir, segment, here.as_mut())?;
        if self.write_hints && here.as_ref().is_none_or(Vec::is_empty) {
            hints::write(self.storage, self.keydir, segment, &census, &entries);
        }
        if let (Some(all), Some(here)) = (&mut **lock(noted), here) {
            all.extend(here);
        }
        Ok((census, Listing::Read(entries)))
    }

    fn fill(&self, sources: &[Source], lost: &Mutex<Vec<Corruption>>) -> Result<(), OpenError> {
        let sorted: Vec<_> = sources.iter().map(Entries::of).collect();
        let segments =
            sources.iter().map(|source| (source.segment.id(), &*source.segment)).collect();
        let frames = Frames { segments, salvage: self.salvage, lost };
        self.keydir.load(&sorted, threads(), &frames)?;
        for Source { segment, census, .. } in sources {
            segment.map.expect_scattered(false);
            segment.dead.add(census.superseded);
            // Only here is it known: so it is not set yet.
            let _ = segment.census.set(*census);
        }
        Ok(())
    }
}

type Noted<'a> = Mutex<&'a mut Option<Vec<Corruption>>>;

/// The entries of a source, as the keydir loads them.
struct Entries<'s> {
    segment: &'s Segment,
    listed: Listed<'s>,
}

impl<'s> Entries<'s> {
    fn of(source: &'s Source) -> Self {
        Self { segment: &source.segment, listed: source.listing.listed() }
    }
}

impl keydir::Source for Entries<'_> {
    fn len(&self) -> usize {
        self.listed.len()
    }

    #[inline]
    fn get(&self, nth: usize) -> Entry {
        let entry = self.listed.get(nth);
        Entry {
            tag: (entry >> 32) as u32,
            at: self.segment.position(entry & 0xffff_ffff & !TOMBSTONE),
            tombstone: entry & TOMBSTONE != 0,
        }
    }
}

/// What the frames say of the entries: of those with one key the one counts that was written last,
/// wherever merges have moved it. What this depends on and no hint vouches for is verified: keys that
/// differ, and the positions that moved frames were written at. In salvage damage is noted, and what
/// the frames say is taken as it is.
struct Frames<'s> {
    segments: HashMap<u32, &'s Segment>,
    salvage: bool,
    lost: &'s Mutex<Vec<Corruption>>,
}

impl<'s> Frames<'s> {
    fn find(&self, at: LogPosition) -> (&'s Segment, u64) {
        (self.segments[&at.segment()], u64::from(at.offset()))
    }

    fn verify(&self, segment: &Segment, offset: u64) -> Result<(), Corruption> {
        match verify(segment, offset) {
            Err(damage) if self.salvage => {
                lock(self.lost).push(damage);
                Ok(())
            }
            other => other,
        }
    }
}

impl<'s> Resolve for Frames<'s> {
    type Key = &'s [u8];
    type Error = Corruption;

    fn fate(&self, old: LogPosition, new: LogPosition) -> Result<Fate, Corruption> {
        let ((a, at_a), (b, at_b)) = (self.find(old), self.find(new));
        let same = key_at(a, at_a).is_some_and(|key| key_at(b, at_b) == Some(key));
        for (segment, offset) in [(a, at_a), (b, at_b)] {
            if !same || segment.header.merged {
                self.verify(segment, offset)?;
            }
        }
        Ok(match same {
            false => Fate::Other,
            true if origin_of(b, at_b) > origin_of(a, at_a) => Fate::Newer,
            true => Fate::Older,
        })
    }

    fn look(&self, at: LogPosition) -> Result<Option<(&'s [u8], LogPosition)>, Corruption> {
        let (segment, offset) = self.find(at);
        self.verify(segment, offset)?;
        Ok(key_at(segment, offset).map(|key| (key, origin_of(segment, offset))))
    }

    fn dropped(&self, at: LogPosition) {
        let (segment, offset) = self.find(at);
        if is_put(segment, offset) {
            segment.dead.add(frame_len(segment, offset));
        }
    }
}

fn verify(segment: &Segment, offset: u64) -> Result<(), Corruption> {
    let frame = scan::frame_at(segment, offset, segment.end() - offset);
    match frame {
        Ok(Some(frame)) if frame.header.is_some() => Ok(()),
        Ok(_) => Err(Corruption::at(segment.position(offset), CorruptionKind::Missing)),
        Err(kind) => Err(Corruption::at(segment.position(offset), kind)),
    }
}
