//! [`ReadView`]: a store opened read-only, as it was at one moment.
//!
//! Opening inspects the log as recovery does, without changing anything ([`look`]): which segments
//! belong to it, where each ends, and which gaps in them are skipped. The keydir is loaded from that as
//! for a writer, but no hint is written. The merged segments are those of the MANIFEST that was read
//! first. All files are open and mapped when opening returns, so nothing that a writer does later,
//! merges included, changes what the view shows.

use super::backup::{self, BackupReport};
use super::expiry::Expiry;
use super::inner::{Contents, Damaged};
use super::load::{Loading, holds_entries_alone};
use super::stats::{CacheStats, Stats};
use super::usage::SegmentUsage;
use super::verify::verify_still;
use super::view::StoreView;
use super::{Keys, Pairs, StoreOptions, Value};
use crate::error::{BackupError, OpenError, ReadError};
use crate::format::frame::{self, State};
use crate::format::header::{FIRST_FRAME, SEAL, Seal};
use crate::format::manifest::Manifest;
use crate::log::recovery::{ReadableLog, open_read_only};
use crate::log::{LogStats, RecoveryReport, VerifyReport};
use crate::options::RecoveryMode;
use crate::position::LogPosition;
use crate::random::random_bytes;
use crate::segment::holders::HeldSegment;
use crate::segment::quiet::QuietSegment;
use crate::segment::scan;
use crate::segment::set::SegmentSet;
use crate::segment::{Gap, Segment, file_name};
use crate::storage::{Storage, check_maps, io_error};
use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A store as it was when the view was opened, read-only.
///
/// It takes no lock and writes nothing, so it works beside a program that has the store open for
/// writing, on a backup, on a read-only file system and on a full disk. It contains everything that was
/// acknowledged before it was opened, and nothing written later until [`refresh`](Self::refresh). A
/// batch is contained whole or not at all.
///
/// While it exists, the segments that it shows keep their disk space, even if a merge removes them.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("store");
/// use tailcask::Store;
///
/// let store = Store::open(&dir)?;
/// store.put("colour", "green")?;
///
/// // In this process or in another one, also while the store is open.
/// let mut view = Store::open_read_only(&dir)?;
/// store.put("colour", "blue")?;
/// assert_eq!(&*view.get("colour")?.expect("it was put"), b"green");
/// assert!(view.refresh()?);
/// assert_eq!(&*view.get("colour")?.expect("it was put"), b"blue");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ReadView {
    /// Shared with iterations that do not borrow it.
    view: Arc<StoreView>,
    storage: Box<dyn Storage>,
    options: StoreOptions,
    manifest: Manifest,
    damaged: Mutex<BTreeMap<u32, Damaged>>,
    report: RecoveryReport,
    position: LogPosition,
    live: bool,
}

impl ReadView {
    pub(super) fn open(
        path: &Path,
        storage: Box<dyn Storage>,
        options: &StoreOptions,
    ) -> Result<Self, OpenError> {
        let found = open_read_only(&*storage, options.recovery_mode, true)?;
        if found.segments.is_empty() && storage.read_manifest()?.is_none() {
            return Err(OpenError::NotFound { path: path.into() });
        }
        Self::load(storage, options.clone(), found)
    }

    fn load(
        storage: Box<dyn Storage>,
        options: StoreOptions,
        mut found: ReadableLog,
    ) -> Result<Self, OpenError> {
        let started = Instant::now();
        let (view, damaged, report) = load(&*storage, &options, &mut found)?;
        check_maps(&*storage)?;
        let position = end_of(&found);
        let (view, ReadableLog { manifest, live, .. }) = (Arc::new(view), found);
        let mut this = Self { view, storage, options, manifest, damaged, report, position, live };
        this.report.duration += started.elapsed();
        Ok(this)
    }

    /// Updates the view to the store as it is now. True if anything was written since. After an error
    /// the view is unchanged.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn refresh(&mut self) -> Result<bool, OpenError> {
        let started = Instant::now();
        let mut found = open_read_only(&*self.storage, self.options.recovery_mode, true)?;
        let (old, new) = (places(&self.view.table.segments()), places(&found.segments));
        self.live = found.live;
        if old == new {
            return Ok(false);
        }
        let (view, damaged, report) = load(&*self.storage, &self.options, &mut found)?;
        check_maps(&*self.storage)?;
        let position = end_of(&found);
        // A merge alone changes the segments, but nothing that can be read.
        let is_new = position != self.position || gaps(&old) != gaps(&new);
        view.counters.continue_from(&self.view.counters);
        (self.view, self.report, self.position) = (Arc::new(view), report, position);
        (self.manifest, self.damaged) = (found.manifest, damaged);
        self.report.duration += started.elapsed();
        Ok(is_new)
    }

    /// Where the view ends: it contains every finished write before this position, and nothing from it
    /// on.
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        self.position
    }

    /// Whether a program had the store open for writing when the view was opened or last refreshed.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.live
    }

    /// The id of the process that has the store open for writing now. `None` if there is none, or the
    /// system does not tell: Linux does, of processes that this one can see.
    #[must_use]
    pub fn writer_process(&self) -> Option<u32> {
        self.storage.writer_process()
    }

    /// What opening, or the last refresh, found. Nothing was repaired.
    #[must_use]
    pub const fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// A key's value, in place.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if its checksum does not match.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value<'_>>, ReadError> {
        self.view.get(key.as_ref())
    }

    /// The values of several keys, in the order of the keys.
    ///
    /// # Errors
    /// As [`get`](Self::get): the error of the first key that has one.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<Value<'_>>>, ReadError> {
        self.view.get_many(keys)
    }

    /// Calls `read` with a key's value, in place, and returns what it returns; `None` if the key has no
    /// value, or it has expired. Cheaper than [`get`](Self::get), since nothing has to keep the value
    /// for longer. No lock is held meanwhile, but no segment that a merge has replaced is unmapped, so
    /// `read` should be quick.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_with<R>(
        &self,
        key: impl AsRef<[u8]>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, ReadError> {
        self.view.get_with(key.as_ref(), read)
    }

    /// Calls `each` with the index and the value of several keys, in the order of the keys, as
    /// [`get_with`](Self::get_with) does for one.
    ///
    /// # Errors
    /// As [`get`](Self::get): the error of the first key that has one. `each` was called for the keys
    /// before it.
    pub fn get_many_with<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        each: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<(), ReadError> {
        self.view.get_many_with(keys, each)
    }

    /// Whether a key has a value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool, ReadError> {
        self.view.contains_key(key.as_ref())
    }

    /// The length of a key's value in bytes.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn value_len(&self, key: impl AsRef<[u8]>) -> Result<Option<usize>, ReadError> {
        self.view.value_len(key.as_ref())
    }

    /// As [`Store::ttl`](super::Store::ttl).
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<Expiry>, ReadError> {
        self.view.ttl(key.as_ref())
    }

    /// All keys and values, each once, in no particular order.
    pub fn iter(&self) -> Pairs<'_> {
        Pairs::new(&self.view)
    }

    /// As [`iter`](Self::iter), without borrowing the view: for a thread or a task of its own. It shows what
    /// the view shows now, also when that is [refreshed](Self::refresh) or dropped meanwhile, and keeps those
    /// segments as long as it exists.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path().join("store");
    /// # let store = tailcask::Store::open(&dir)?;
    /// # store.put("colour", "green")?;
    /// let view = tailcask::Store::open_read_only(&dir)?;
    /// let pairs = view.iter_owned();
    /// let counting = std::thread::spawn(move || pairs.filter(Result::is_ok).count());
    /// assert_eq!(counting.join().expect("no panic"), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter_owned(&self) -> Pairs<'static> {
        Pairs::shared(&self.view)
    }

    /// As [`keys`](Self::keys), without borrowing the view; see [`iter_owned`](Self::iter_owned).
    pub fn keys_owned(&self) -> Keys<'static> {
        Keys(self.iter_owned())
    }

    /// As [`iter`](Self::iter), in several parts, for as many threads; see
    /// [`Store::iter_parts`](super::Store::iter_parts).
    pub fn iter_parts(&self, parts: usize) -> Vec<Pairs<'_>> {
        Pairs::parts(&self.view, parts)
    }

    /// All keys, with the guarantees of [`iter`](Self::iter).
    pub fn keys(&self) -> Keys<'_> {
        Keys(self.iter())
    }

    /// Number of keys, including expired ones that have not been reclaimed yet.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.view.keydir.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.view.keydir.is_empty()
    }

    /// Verifies the store: reads every frame, including values that are no longer current, and checks
    /// its checksum; compares the frames with the hints and the keydir; then looks up every key. Damage
    /// to frames that are no longer current is counted, and is no error. As [`Store::verify`](super::Store::verify).
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] at the first damage or contradiction.
    pub fn verify(&self) -> Result<VerifyReport, ReadError> {
        let salvage = self.options.recovery_mode == RecoveryMode::Salvage;
        let (view, storage, damaged) = (&*self.view, &*self.storage, &self.damaged);
        verify_still(Contents { view, storage, damaged, salvage })
    }

    /// Statistics of the view. Counters of writes, merges and syncs are zero; those of reads go on when the
    /// view is [refreshed](Self::refresh).
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.view.counters;
        let mut stats = Stats {
            keys: self.len(),
            keydir_bytes: self.view.keydir.memory(),
            cache: CacheStats::of(&self.view.table),
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            expired: counters.expired.get(),
            log: LogStats { tail: self.position, committed: self.position, ..LogStats::default() },
            ..Stats::default()
        };
        let now = self.view.clock.now();
        let segments = self.view.table.segments();
        let usages: Vec<_> =
            segments.iter().filter(|s| s.is_sealed()).map(|s| usage_of(s, now)).collect();
        stats.space_goal_missed = self.options.merge_policy.misses_goal(&usages, u64::MAX);
        // If the directory cannot be listed now, nothing is known.
        let there = self.storage.list().ok();
        let is_gone = |id| there.as_ref().is_some_and(|all| !all.contains(&file_name(id)));
        for segment in segments {
            if is_gone(segment.id()) {
                // Beside those that are counted: the view's own, and this one.
                let owners = Arc::strong_count(&segment).saturating_sub(2) as u64;
                stats.held_segments.push(HeldSegment::of(&segment, None, owners, false));
            }
            let SegmentUsage { used, dead, .. } = usage_of(&segment, now);
            stats.add_segment(&segment, used, dead);
            stats.log.segments += usize::from(!segment.header.merged);
            stats.log.disk_bytes += segment.disk_bytes();
        }
        let first = self.view.table.first();
        let begin = first.map(|id| LogPosition::new(id, FIRST_FRAME as u32));
        stats.log.begin = begin.unwrap_or(self.position);
        stats
    }

    /// Makes a backup of the view in a new directory, which opens as a store. Sealed segments are hard
    /// links if possible. As [`Store::backup`](super::Store::backup).
    ///
    /// # Errors
    /// [`BackupError`]; nothing is left at the destination.
    pub fn backup(&self, dest: impl AsRef<Path>) -> Result<BackupReport, BackupError> {
        let started = Instant::now();
        let from = self.storage.directory().ok_or(BackupError::NotADirectory)?;
        let place = backup::Destination::new(from, dest.as_ref())?;
        let segments = self.view.table.segments();
        let manifest = backup::manifest_of(&self.manifest, self.position, &segments);
        let put = |segment: &Segment, to: &File| {
            let name = file_name(segment.id());
            // A merge may have removed this file since; the view still has it mapped.
            let linked = is_whole(segment) && backup::link(from, to, &name);
            if linked { Ok(true) } else { copy(segment, to, &name).map(|()| false) }
        };
        let mut report = backup::make(from, &place, &segments, &manifest, put)?;
        (report.position, report.duration) = (self.position, started.elapsed());
        tracing::info!(?report, "backed up");
        Ok(report)
    }
}

impl<'a> IntoIterator for &'a ReadView {
    type Item = <Pairs<'a> as Iterator>::Item;
    type IntoIter = Pairs<'a>;

    fn into_iter(self) -> Pairs<'a> {
        self.iter()
    }
}

/// By their ids.
type DamagedSegments = Mutex<BTreeMap<u32, Damaged>>;

/// Loads a keydir from the segments. If the MANIFEST that says so is lost, it becomes one of a store.
fn load(
    storage: &dyn Storage,
    options: &StoreOptions,
    found: &mut ReadableLog,
) -> Result<(StoreView, DamagedSegments, RecoveryReport), OpenError> {
    let salvage = options.recovery_mode == RecoveryMode::Salvage;
    let secret = match found.manifest.secret {
        Some(secret) => secret,
        // The secret was only in the MANIFEST, which is lost. No hint will match.
        None if salvage && !holds_entries_alone(&found.segments) => {
            random_bytes().map_err(|e| io_error("draw random bytes", e))?
        }
        None => return Err(OpenError::NotAStore),
    };
    found.manifest.secret = Some(secret);
    let keydir = options.keydir(secret);
    let mut report = found.report.clone();
    let segments = found.segments.clone();
    let loading = Loading { storage, keydir: &keydir, segments, salvage, write_hints: false };
    let damaged = Mutex::new(loading.run(&mut report)?);
    let table = Arc::new(SegmentSet::new(found.segments.clone()));
    options.budget_for(&table, 0);
    let view = StoreView::new(table, keydir, options.log.wall_clock(), options.verify);
    Ok((view, damaged, report))
}

/// Where the log ends.
fn end_of(found: &ReadableLog) -> LogPosition {
    let first = found.manifest.first;
    let of_log = |segment: &&Arc<Segment>| !segment.header.merged && segment.id() >= first;
    let log = found.segments.iter().filter(of_log);
    // A standby behind it has not been used yet.
    match log.clone().rfind(|segment| segment.end() > FIRST_FRAME).or_else(|| log.clone().next()) {
        Some(last) => last.position(last.end()),
        None => LogPosition::new(first, FIRST_FRAME as u32),
    }
}

/// A segment, where reading it ends, and the gaps to skip.
type Extent = (u32, u64, Vec<Gap>);

fn places(segments: &[Arc<Segment>]) -> Vec<Extent> {
    segments.iter().map(|segment| (segment.id(), segment.end(), segment.gaps.clone())).collect()
}

/// Gaps in any segment.
fn gaps(all: &[Extent]) -> Vec<(u32, Gap)> {
    all.iter().flat_map(|(id, _, gaps)| gaps.iter().map(|&gap| (*id, gap))).collect()
}

fn usage_of(segment: &Segment, now: u64) -> SegmentUsage {
    let used = segment.end().saturating_sub(FIRST_FRAME);
    let census = segment.census.get().copied().unwrap_or_default();
    // Tombstones in merged segments were needed when the merge checked.
    let tombstones = if segment.header.merged { 0 } else { census.tombstones };
    let stepped_over = segment.gaps.iter().map(|gap| gap.len).sum();
    let expired = census.expiring.expired(now);
    let parts = [segment.dead.get(), census.keyless, tombstones, expired, stepped_over];
    let dead = parts.into_iter().fold(0, u64::saturating_add).min(used);
    // Dead bytes beside entries of the log cannot be reclaimed.
    let dead = if census.plain { 0 } else { dead };
    SegmentUsage { id: segment.id(), used, dead, mergeable: false }
}

/// Whether a segment's file is what is read of it, and will stay so.
fn is_whole(segment: &Segment) -> bool {
    segment.is_sealed() && segment.gaps.is_empty() && has_its_head(segment)
}

/// Whether the head in a segment's file is the one that is relied on: salvage may have rebuilt that.
fn has_its_head(segment: &Segment) -> bool {
    let head = segment.header.encode();
    let mut words = (0..FIRST_FRAME).step_by(8).zip(head.as_chunks::<8>().0);
    // ORDERING: Relaxed; written before the file had its name, and never changed.
    let word = |at| segment.map.word(at).load(Ordering::Relaxed);
    let is_in_seal = |at| (SEAL..SEAL + 32).contains(&at);
    words.all(|(at, bytes)| is_in_seal(at) || word(at) == u64::from_le_bytes(*bytes))
}

/// Writes a segment as the view reads it: sealed where it ends, with pads for the gaps.
fn copy(segment: &Segment, folder: &File, name: &str) -> io::Result<()> {
    let file = backup::create(folder, name)?;
    let end = segment.end();
    let mut head = segment.header.encode();
    let quiet = QuietSegment::of(segment);
    let sound = scan::verify_sealed(quiet).map_err(io::Error::other)?;
    let frames = sound.frames + segment.gaps.len() as u64;
    let time = segment.sealed_at().unwrap_or_default();
    let seal = Seal { end, frames, time }.words(segment.salt());
    for (bytes, word) in head[SEAL as usize..].chunks_exact_mut(8).zip(seal) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let mut at = FIRST_FRAME;
    for gap in &segment.gaps {
        file.write_all_at(quiet.bytes_between(at, gap.offset), at)?;
        let pad = frame::bare_word(segment.salt(), gap.offset, gap.len, State::Pad);
        file.write_all_at(&pad.to_le_bytes(), gap.offset)?;
        at = gap.offset + gap.len;
    }
    file.write_all_at(quiet.bytes_between(at, end), at)?;
    file.set_len((end + 8).next_multiple_of(4096).min(segment.header.capacity))?;
    // The head comes last: a file without it is not a segment.
    file.write_all_at(&head, 0)?;
    file.sync_all()
}
