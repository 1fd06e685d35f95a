//! Opening: the keydir is made from hints, and from the frames of segments that have none.

use super::hints::{self, Listed, Listing};
use super::index::{Index, frame_len, is_put, key_at, origin_of};
use super::maintenance;
use super::policy::MergePolicy;
use super::stats::Counters;
use super::view::View;
use super::{Store, StoreOptions};
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::format::hint::{Census, TOMBSTONE};
use crate::format::u64_at;
use crate::keydir::{Change, Fate, Keydir};
use crate::log::core::Core;
use crate::log::{CommitLog, scan};
use crate::options::RecoveryMode;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::storage::io_error;
use crate::sync::{Mutex, lock};
use std::hash::{BuildHasher, RandomState};
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
        let keydir = Keydir::new(u64_at(&secret_of(&core)?, 0), options.tag_bits);
        let mut report = log.recovery().clone();
        let salvage = core.config.recovery_mode == RecoveryMode::Salvage;
        let mut lost = salvage.then(Vec::new);
        let sources = read_sources(&core, &keydir, &mut lost)?;
        let lost = Mutex::new(lost.unwrap_or_default());
        fill(&core, &keydir, &sources, &lost)?;
        report.lost.append(&mut lock(&lost));
        report.hinted_segments =
            sources.iter().filter(|s| matches!(s.listing, Listing::Hint(_))).count() as u64;
        report.duration += started.elapsed();
        let view = View {
            table: core.table.clone(),
            keydir,
            clock: options.clock.clone(),
            counters: Counters::default(),
            verify: options.verify,
        };
        let index = Arc::new(Index::new(core, view, policy_of(options)?));
        let maintainer = maintenance::start(&index).map_err(|e| io_error("start a thread", e))?;
        Ok(Self { log, index, maintainer, report, max_value: options.max_value })
    }
}

fn policy_of(options: &StoreOptions) -> Result<MergePolicy, OpenError> {
    match options.merge_policy.fault() {
        Some((option, range)) => Err(OpenError::Option { option, value: 0, range }),
        None => Ok(options.merge_policy),
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
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&RandomState::new().hash_one(0).to_le_bytes());
    let written = core.change_manifest(|manifest| manifest.secret = Some(secret));
    written.map_err(|e| io_error("write MANIFEST", e))?;
    Ok(secret)
}

/// Reads hints, and the segments that have none, on all processors.
fn read_sources(
    core: &Core,
    keydir: &Keydir,
    lost: &mut Option<Vec<Corruption>>,
) -> Result<Vec<Source>, OpenError> {
    let active = core.tail.position().segment();
    let segments = core.table.segments();
    let segments: Vec<_> = segments.into_iter().filter(|s| s.id() < active).collect();
    let next = AtomicUsize::new(0);
    let (done, noted) = (Mutex::new(Vec::new()), Mutex::new(lost));
    let work = || -> Result<(), Corruption> {
        // ORDERING: Relaxed; each index is drawn once.
        while let Some(segment) = segments.get(next.fetch_add(1, Relaxed)) {
            let (census, listing) = match hints::read(&*core.storage, keydir, segment) {
                Some(found) => {
                    // Looked at only where two entries have one tag.
                    segment.map.expect_scattered(true);
                    found
                }
                None => read_frames(core, keydir, segment, &noted)?,
            };
            lock(&done).push(Source { segment: segment.clone(), census, listing });
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> =
            (1..threads().min(segments.len())).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let joined = others.into_iter().map(|other| other.join().expect("reading does not panic"));
        joined.fold(mine, Result::and)
    })?;
    Ok(done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

type Noted<'a> = Mutex<&'a mut Option<Vec<Corruption>>>;

/// Reads a segment that has no hint, and writes one, if all of it is sound.
fn read_frames(
    core: &Core,
    keydir: &Keydir,
    segment: &Segment,
    noted: &Noted<'_>,
) -> Result<(Census, Listing), Corruption> {
    let mut here = lock(noted).is_some().then(Vec::new);
    let (census, entries) = hints::gather(keydir, segment, here.as_mut())?;
    if here.as_ref().is_none_or(Vec::is_empty) {
        hints::write(&*core.storage, keydir, segment, &census, &entries);
    }
    if let (Some(all), Some(here)) = (&mut **lock(noted), here) {
        all.extend(here);
    }
    Ok((census, Listing::Read(entries)))
}

/// Puts the newest frame of every key into the keydir.
fn fill(
    core: &Core,
    keydir: &Keydir,
    sources: &[Source],
    lost: &Mutex<Vec<Corruption>>,
) -> Result<(), OpenError> {
    let salvage = core.config.recovery_mode == RecoveryMode::Salvage;
    let resolve = |old, new| match resolve(core, old, new) {
        (fate, Some(damage)) if salvage => {
            lock(lost).push(damage);
            Ok(fate)
        }
        (_, Some(damage)) => Err(damage),
        (fate, None) => Ok(fate),
    };
    let sorted: Vec<_> = sources.iter().map(Entries::of).collect();
    keydir.load(&sorted, threads(), resolve)?;
    for Source { segment, census, listing } in sources {
        if census.tombstones > 0 {
            drop_tombstones(keydir, segment, listing);
        }
        segment.map.expect_scattered(false);
        segment.dead.add(census.superseded);
        // Only here is it known: so it is not set yet.
        let _ = segment.census.set(*census);
    }
    Ok(())
}

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

impl crate::keydir::Source for Entries<'_> {
    fn len(&self) -> usize {
        self.listed.len()
    }

    #[inline]
    fn get(&self, nth: usize) -> (u32, LogPosition) {
        let entry = self.listed.get(nth);
        ((entry >> 32) as u32, self.segment.position(entry & 0xffff_ffff & !TOMBSTONE))
    }
}

/// Tombstones are slots until all is loaded, so that the order of loading does not matter.
fn drop_tombstones(keydir: &Keydir, segment: &Segment, listing: &Listing) {
    listing.each(|entry| {
        if entry & TOMBSTONE != 0 {
            let tag = (entry >> 32) as u32;
            let place = segment.position(entry & 0xffff_ffff & !TOMBSTONE);
            keydir.change(tag, |at| at == place, |_| (Change::Remove, ()));
        }
    });
}

/// What a frame is to another one with the same tag: of two with one key the one counts that was
/// written later, wherever merges have moved it. What this depends on and no hint vouches for is
/// verified: keys that differ, and the positions that moved frames were written at. Damage is told
/// beside what the frames say as they are.
fn resolve(core: &Core, old: LogPosition, new: LogPosition) -> (Fate, Option<Corruption>) {
    core.table.with(|all| {
        let find = |at: LogPosition| crate::log::table::locate(all, at.segment());
        let (Some(a), Some(b)) = (find(old), find(new)) else { return (Fate::Other, None) };
        let (a, b) = (&*all[a], &*all[b]);
        let (at_a, at_b) = (u64::from(old.offset()), u64::from(new.offset()));
        let same = key_at(a, at_a).is_some_and(|key| key_at(b, at_b) == Some(key));
        let mut frames = [(a, at_a), (b, at_b)].into_iter();
        let damage = frames.find_map(|(segment, offset)| {
            let depends = !same || segment.header.merged;
            depends.then(|| verify(segment, offset).err()).flatten()
        });
        if !same {
            return (Fate::Other, damage);
        }
        let newer = origin_of(b, at_b) > origin_of(a, at_a);
        let (loser, offset) = if newer { (a, at_a) } else { (b, at_b) };
        if is_put(loser, offset) {
            loser.dead.add(frame_len(loser, offset));
        }
        (if newer { Fate::Newer } else { Fate::Older }, damage)
    })
}

fn verify(segment: &Segment, offset: u64) -> Result<(), Corruption> {
    let frame = scan::frame_at(segment, offset, segment.end() - offset);
    match frame {
        Ok(Some(frame)) if frame.header.is_some() => Ok(()),
        Ok(_) => Err(Corruption::at(segment.position(offset), CorruptionKind::Missing)),
        Err(kind) => Err(Corruption::at(segment.position(offset), kind)),
    }
}
