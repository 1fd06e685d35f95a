//! Opening: what is there, what of it counts, and what a crash left to be cleared up.
//!
//! First everything is looked at and nothing is changed; then, in this order, each step durable
//! before the next one begins:
//!
//! 1. The MANIFEST says which ids may not be used again.
//! 2. Segments that do not count are removed, the last one first.
//! 3. In each unsealed segment holes become pads, dead claims void, and what lies beyond the end
//!    zero; it is synced, and sealed.
//!
//! Invariant: a crash after any step leaves what the next recovery judges the same way. Later
//! segments go before an earlier one is sealed, for a sealed one would no longer say that the log
//! ended in it.

#![allow(unsafe_code, reason = "repairs segments that nobody else has open")]

use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::format::frame::{self, State};
use crate::format::header::{FIRST_FRAME, SEAL};
use crate::format::is_zero;
use crate::format::manifest::{BadManifest, Manifest};
use crate::log::core::{Found, seal_and_shrink};
use crate::log::scan::{self, Repair, Rules, Scan, Stop};
use crate::options::RecoveryMode;
use crate::position::LogPosition;
use crate::random::{random_bytes, random_u64};
use crate::segment::{Segment, file_name, hint_id_of, id_of};
use crate::storage::{Access, Storage, io_error};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was found when the log was opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Segments that were sealed, and not scanned.
    pub sealed_segments: u64,
    /// Segments whose keys a store took from their hints. The rest it read.
    pub hinted_segments: u64,
    /// Segments that were not: the log was not closed.
    pub recovered_segments: u64,
    /// Whether the kernel still runs under which those were written: then the process died, and
    /// nothing that was acknowledged is lost.
    pub same_boot: bool,
    /// Sound frames in recovered segments.
    pub frames: u64,
    /// Entries in recovered segments.
    pub entries: u64,
    /// Ranges that a dead process had reserved and not begun to write.
    pub holes: u64,
    /// Frames that a dead process had begun and not finished.
    pub dead_claims: u64,
    /// Bytes behind the end of the log that were written and do not count: what a power loss tore.
    pub torn_bytes: u64,
    /// Where those begin.
    pub torn_from: Option<LogPosition>,
    /// Damage that was stepped over. Only with [`RecoveryMode::Salvage`].
    pub lost: Vec<Corruption>,
    /// How long it took.
    pub duration: Duration,
}

impl RecoveryReport {
    /// Whether the log had been closed properly, and is whole.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.recovered_segments == 0 && self.torn_bytes == 0 && self.lost.is_empty()
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return write!(f, "clean, {} sealed segments", self.sealed_segments);
        }
        let cause = if self.same_boot { "the process died" } else { "the machine stopped" };
        write!(
            f,
            "{cause}: {} entries in {} unsealed segments",
            self.entries, self.recovered_segments
        )?;
        write!(f, ", {} holes, {} unfinished appends", self.holes, self.dead_claims)?;
        if let Some(from) = self.torn_from {
            write!(f, ", {} torn bytes dropped from {from} on", self.torn_bytes)?;
        }
        self.lost.iter().try_for_each(|lost| write!(f, "; lost: {lost}"))
    }
}

/// What is there, looked at and not yet changed.
struct Survey {
    manifest: Manifest,
    /// Whether the MANIFEST has to be written although nothing is dropped.
    unwritten: bool,
    /// The log.
    kept: Vec<(Segment, Option<Scan>)>,
    /// What the MANIFEST keeps beside it: merged segments, and segments from before its beginning.
    beside: Vec<(Segment, Option<Scan>)>,
    dropped: Vec<u32>,
    /// Whether one of those may have held frames: then its id is used up.
    used: bool,
    highest: u32,
    report: RecoveryReport,
}

/// Recovers the log in `storage`, for writing.
pub(crate) fn recover(
    storage: &dyn Storage,
    mode: RecoveryMode,
) -> Result<(Found, RecoveryReport), OpenError> {
    let started = Instant::now();
    let mut survey = survey(storage, mode, Access::Write)?;
    if survey.manifest.is_legacy() {
        survey.unwritten = true;
    }
    remove_temporary(storage)?;
    let manifest = settle(storage, &mut survey)?;
    let log = survey.kept.into_iter().map(repair).collect::<Result<Vec<_>, _>>()?;
    let beside = survey.beside.into_iter().map(repair).collect::<Result<Vec<_>, _>>()?;
    let highest = beside.iter().chain(&log).map(|s| s.id()).max().unwrap_or(0);
    let after = highest.checked_add(1).ok_or(OpenError::IdsExhausted)?;
    let next_id = after.max(manifest.next).max(manifest.first);
    let previous = log.last().map_or(0, |s| s.id());
    let manifest = begin_at(storage, manifest, log.first().map_or(next_id, |s| s.id()))?;
    let mut segments = [beside, log].concat();
    segments.sort_by_key(|segment| segment.id());
    survey.report.duration = started.elapsed();
    tracing::info!(report = %survey.report, "opened");
    Ok((Found { segments, manifest, next_id, previous }, survey.report))
}

/// Looks at the log for reading: nothing is changed. Where no writer has it, gaps are noted.
pub(crate) fn look(
    storage: &dyn Storage,
    mode: RecoveryMode,
) -> Result<(Vec<Arc<Segment>>, RecoveryReport), OpenError> {
    if storage.is_shared() {
        return Ok((open_live(storage, ids(storage)?)?, RecoveryReport::default()));
    }
    let survey = survey(storage, mode, Access::Read)?;
    let found = survey.beside.into_iter().chain(survey.kept).map(|(mut segment, scan)| {
        if let Some(scan) = scan {
            segment.gaps = scan.repairs.iter().map(|(gap, _)| *gap).collect();
            segment.set_end(scan.end);
        }
        Arc::new(segment)
    });
    let mut segments: Vec<_> = found.collect();
    segments.sort_by_key(|segment| segment.id());
    Ok((segments, survey.report))
}

/// The segments with these ids, while a writer may be adding and removing some.
pub(crate) fn open_live(
    storage: &dyn Storage,
    ids: Vec<u32>,
) -> Result<Vec<Arc<Segment>>, OpenError> {
    let mut segments = Vec::new();
    for id in ids {
        match Segment::open(storage, id, Access::Read) {
            Ok(segment) => segments.push(Arc::new(segment)),
            // Truncated away since it was listed.
            Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(segments)
}

/// The ids of all segments that there are files of, in order.
pub(crate) fn ids(storage: &dyn Storage) -> Result<Vec<u32>, OpenError> {
    let mut ids: Vec<u32> = storage.list()?.iter().filter_map(|name| id_of(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// What a creation left that a crash interrupted.
fn remove_temporary(storage: &dyn Storage) -> Result<(), OpenError> {
    for name in storage.list()? {
        let stem = name.strip_suffix(".tmp");
        let ours = |stem| id_of(stem).or(hint_id_of(stem)).is_some() || stem == "MANIFEST";
        if stem.is_some_and(ours) && is_file(storage, &name) {
            storage.remove(&name).map_err(|e| io_error(format!("remove {name}"), e))?;
        }
    }
    Ok(())
}

/// Whether it is a file, which this library made then, and no link or directory.
fn is_file(storage: &dyn Storage, name: &str) -> bool {
    storage.open(name, Access::Read).is_ok()
}

/// Hints of segments that are gone: of no use, and no harm if they come back.
fn remove_stray_hints(storage: &dyn Storage, known: &[u32]) -> Result<(), OpenError> {
    for name in storage.list()? {
        let is_stray = hint_id_of(&name).is_some_and(|id| !known.contains(&id));
        if is_stray && is_file(storage, &name) {
            storage.remove(&name).map_err(|e| io_error(format!("remove {name}"), e))?;
        }
    }
    Ok(())
}

fn read_manifest(
    storage: &dyn Storage,
    mode: RecoveryMode,
    lowest: Option<u32>,
) -> Result<(Manifest, bool), OpenError> {
    let bytes = storage.read_manifest()?;
    let first = lowest.unwrap_or(1);
    let fallback = Manifest { first, next: 1, ..Manifest::default() };
    match bytes.map(|bytes| Manifest::decode(&bytes)) {
        Some(Ok(manifest)) => Ok((manifest, false)),
        Some(Err(BadManifest::Version(found))) => {
            Err(OpenError::Version { found, known: crate::format::VERSION })
        }
        None if lowest.is_none() => Ok((fallback, true)),
        _ if mode == RecoveryMode::Salvage => Ok((fallback, true)),
        Some(Err(BadManifest::Damaged(what))) => Err(OpenError::Manifest(what)),
        None => Err(OpenError::Manifest("it is missing, though there are segments")),
    }
}

/// Whether a store lives on the log.
pub(crate) fn is_store(storage: &dyn Storage) -> Result<bool, OpenError> {
    let bytes = storage.read_manifest()?;
    let manifest = bytes.and_then(|bytes| Manifest::decode(&bytes).ok());
    Ok(manifest.is_some_and(|manifest| manifest.secret.is_some()))
}

fn survey(storage: &dyn Storage, mode: RecoveryMode, access: Access) -> Result<Survey, OpenError> {
    let ids = ids(storage)?;
    let (manifest, unwritten) = read_manifest(storage, mode, ids.first().copied())?;
    let highest = ids.last().copied().unwrap_or(0);
    let report = RecoveryReport { same_boot: true, ..RecoveryReport::default() };
    let (kept, beside, dropped) = (Vec::new(), Vec::new(), Vec::new());
    let mut survey =
        Survey { manifest, unwritten, kept, beside, dropped, used: false, highest, report };
    let mut log = Vec::new();
    for id in ids {
        if id < survey.manifest.first && !survey.is_listed(id) {
            survey.dropped.push(id);
            continue;
        }
        let Some(segment) = survey.open(storage, id, mode, access)? else { continue };
        if survey.is_listed(id) || segment.header.merged && survey.unwritten {
            survey.judge_beside(segment, storage.boot_id(), mode)?;
        } else if segment.header.merged {
            // What a merge was making when it was cut short.
            survey.used = true;
            survey.dropped.push(id);
        } else {
            log.push(segment);
        }
    }
    survey.check_listed(mode)?;
    survey.check_chain(&mut log, mode)?;
    survey.judge(log, storage.boot_id(), mode)?;
    Ok(survey)
}

/// A segment is cut to what it uses only once it is sealed.
fn is_cut(segment: &Segment) -> bool {
    !segment.is_sealed() && (segment.map.len() as u64) < segment.header.capacity
}

fn cut(segment: &Segment) -> Corruption {
    let what = "the file is shorter than its capacity, and not sealed";
    let (segment, offset) = (segment.id(), segment.map.len() as u64);
    Corruption { segment, offset, kind: CorruptionKind::SegmentHeader(what) }
}

/// Whether a preallocated file holds nothing at all: its creation was cut short.
fn is_blank(storage: &dyn Storage, id: u32, access: Access) -> Result<bool, OpenError> {
    let opened = storage.open(&file_name(id), access)?;
    let len = opened.map.len() as u64;
    if !len.is_multiple_of(4096) {
        return Ok(false);
    }
    // SAFETY: nobody writes to the file: the log is locked, and not open yet.
    let bytes = unsafe { opened.map.slice(0, len) };
    Ok(is_zero(bytes))
}

impl Survey {
    fn is_listed(&self, id: u32) -> bool {
        self.manifest.kept.binary_search(&id).is_ok()
    }

    /// Opens a segment, if there is one behind its name.
    fn open(
        &mut self,
        storage: &dyn Storage,
        id: u32,
        mode: RecoveryMode,
        access: Access,
    ) -> Result<Option<Segment>, OpenError> {
        match Segment::open(storage, id, access) {
            Ok(segment) if mode == RecoveryMode::Strict && is_cut(&segment) => {
                Err(cut(&segment).into())
            }
            Ok(segment) => {
                if access == Access::Write && !segment.is_sealed() {
                    let failed = |e| io_error(format!("allocate segment {id}"), e);
                    segment.allocate().map_err(failed)?;
                }
                Ok(Some(segment))
            }
            Err(OpenError::Corrupt(corruption)) => {
                if id == self.highest && is_blank(storage, id, access)? {
                    self.dropped.push(id);
                } else if mode == RecoveryMode::Strict {
                    return Err(corruption.into());
                } else {
                    self.report.lost.push(corruption);
                }
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// A segment that is kept beside the log was sealed, and all of it durable, before it was
    /// listed. The seal of a log segment is not synced by itself: power loss may have taken it.
    fn judge_beside(
        &mut self,
        segment: Segment,
        boot_id: Option<u128>,
        mode: RecoveryMode,
    ) -> Result<(), OpenError> {
        if segment.is_sealed() {
            self.report.sealed_segments += 1;
            self.beside.push((segment, None));
            return Ok(());
        }
        let salvage = mode == RecoveryMode::Salvage;
        let mut scan = scan::scan(&segment, Rules { same_boot: true, salvage });
        let lost = match &scan.stop {
            Some(Stop::Damaged(damage) | Stop::Torn(damage)) => Some(damage.clone()),
            Some(Stop::Blank) => {
                Some(Corruption::at(segment.position(scan.end), CorruptionKind::Missing))
            }
            None if segment.header.merged || !scan.repairs.is_empty() => {
                let what = "it is not sealed, and the MANIFEST says that it was";
                let kind = CorruptionKind::SegmentHeader(what);
                Some(Corruption { segment: segment.id(), offset: SEAL, kind })
            }
            None => None,
        };
        match lost {
            Some(lost) if !salvage => return Err(lost.into()),
            lost => self.report.lost.extend(lost),
        }
        self.report.lost.append(&mut scan.lost);
        self.note(&segment, &scan, boot_id == Some(segment.header.boot_id));
        self.beside.push((segment, Some(scan)));
        Ok(())
    }

    fn check_listed(&mut self, mode: RecoveryMode) -> Result<(), OpenError> {
        for &id in &self.manifest.kept {
            if self.beside.iter().any(|(segment, _)| segment.id() == id) {
                continue;
            }
            if mode == RecoveryMode::Strict {
                return Err(OpenError::MissingSegment { id, needed_by: 0 });
            }
            if self.report.lost.iter().all(|lost| lost.segment != id) {
                let kind = CorruptionKind::SegmentHeader("the file is missing");
                self.report.lost.push(Corruption { segment: id, offset: 0, kind });
            }
        }
        Ok(())
    }

    /// Every segment names the one before it. Unused ones that were to be removed may stand beside
    /// the chain.
    fn check_chain(
        &mut self,
        segments: &mut Vec<Segment>,
        mode: RecoveryMode,
    ) -> Result<(), OpenError> {
        if mode == RecoveryMode::Salvage {
            return Ok(());
        }
        let mut chain: Vec<Segment> = Vec::new();
        for here in segments.drain(..) {
            let previous = here.header.previous;
            while chain.last().is_some_and(|last| last.id() > previous && is_unused(last)) {
                self.dropped.extend(chain.pop().map(|unused| unused.id()));
            }
            match chain.last() {
                Some(last) if last.id() != previous => {
                    return Err(OpenError::MissingSegment { id: previous, needed_by: here.id() });
                }
                _ => chain.push(here),
            }
        }
        *segments = chain;
        match segments.first() {
            Some(first) if first.id() != self.manifest.first => {
                Err(OpenError::MissingSegment { id: self.manifest.first, needed_by: 0 })
            }
            _ => Ok(()),
        }
    }

    /// Goes through the unsealed segments in order, by the table of `docs/durability.md`.
    fn judge(
        &mut self,
        segments: Vec<Segment>,
        boot_id: Option<u128>,
        mode: RecoveryMode,
    ) -> Result<(), OpenError> {
        let salvage = mode == RecoveryMode::Salvage;
        let mut segments = segments.into_iter();
        while let Some(segment) = segments.next() {
            if segment.is_sealed() {
                self.report.sealed_segments += 1;
                self.kept.push((segment, None));
                continue;
            }
            let same_boot = boot_id == Some(segment.header.boot_id);
            let mut scan = scan::scan(&segment, Rules { same_boot, salvage });
            let rest: Vec<_> = segments.by_ref().collect();
            let ended = self.weigh(&segment, &mut scan, &rest, same_boot, salvage)?;
            self.note(&segment, &scan, same_boot);
            self.kept.push((segment, Some(scan)));
            if ended {
                self.drop_rest(rest);
                break;
            }
            segments = rest.into_iter();
        }
        self.drop_unused_end();
        Ok(())
    }

    /// Whether the log ends in this segment. Damage in what is known to be durable is an error.
    fn weigh(
        &mut self,
        segment: &Segment,
        scan: &mut Scan,
        rest: &[Segment],
        same_boot: bool,
        salvage: bool,
    ) -> Result<bool, OpenError> {
        let place = segment.position(scan.end);
        self.report.lost.append(&mut scan.lost);
        let corruption = match &scan.stop {
            None => return Ok(false),
            Some(Stop::Damaged(corruption)) => return Err(corruption.clone().into()),
            Some(Stop::Blank) if same_boot => return Ok(false),
            Some(_) if !is_durable(segment, scan.end, place, rest) => return Ok(true),
            Some(Stop::Torn(corruption)) => corruption.clone(),
            Some(Stop::Blank) => Corruption::at(place, CorruptionKind::Missing),
        };
        if !salvage {
            return Err(corruption.into());
        }
        *scan = scan::scan(segment, Rules { same_boot: true, salvage });
        if scan.lost.is_empty() {
            scan.lost.push(corruption);
        }
        self.report.lost.append(&mut scan.lost);
        Ok(false)
    }

    fn note(&mut self, segment: &Segment, scan: &Scan, same_boot: bool) {
        let report = &mut self.report;
        report.recovered_segments += 1;
        report.same_boot &= same_boot;
        report.frames += scan.frames;
        report.entries += scan.entries;
        let count = |what| scan.repairs.iter().filter(|(_, r)| *r == what).count() as u64;
        report.holes += count(Repair::Hole);
        report.dead_claims += count(Repair::DeadClaim);
        if matches!(scan.stop, Some(Stop::Torn(_))) {
            report.torn_from.get_or_insert(segment.position(scan.end));
            report.torn_bytes += written(segment, scan.end);
        }
    }

    /// The log has ended: what stands in later segments goes with what is behind the end.
    fn drop_rest(&mut self, rest: Vec<Segment>) {
        for segment in rest {
            let written = written(&segment, FIRST_FRAME);
            if written > 0 {
                self.report.torn_from.get_or_insert(segment.position(FIRST_FRAME));
                self.report.torn_bytes += written;
            }
            // Its pages may have been lost, so its positions may have been given out.
            self.used = true;
            self.dropped.push(segment.id());
        }
    }

    /// Standby segments, and an active one that nothing was written to.
    fn drop_unused_end(&mut self) {
        while let Some((segment, Some(scan))) = self.kept.last() {
            if scan.frames > 0 {
                break;
            }
            // Also where nothing was written: a reader in another process may have it mapped.
            self.used = true;
            self.report.recovered_segments -= 1;
            self.dropped.push(segment.id());
            self.kept.pop();
        }
    }
}

fn is_unused(segment: &Segment) -> bool {
    !segment.is_sealed() && scan::next_written(segment, FIRST_FRAME).is_none()
}

/// Bytes from `from` to the last one that is not zero.
fn written(segment: &Segment, from: u64) -> u64 {
    // SAFETY: nobody writes to the segment: the log is locked, and not open yet.
    let bytes = unsafe { segment.map.slice(from, segment.end() - from) };
    let Some(block) = bytes.chunks(4096).rposition(|block| !is_zero(block)) else { return 0 };
    let end = bytes.len().min((block + 1) * 4096);
    bytes[..end].iter().rposition(|&b| b != 0).map_or(0, |at| at as u64 + 1)
}

/// Whether anything says that the log was durable beyond `place`.
fn is_durable(segment: &Segment, offset: u64, place: LogPosition, rest: &[Segment]) -> bool {
    let beyond = |mark: Option<LogPosition>| mark.is_some_and(|mark| mark > place);
    beyond(scan::durable_mark(segment, offset))
        || rest.iter().any(|s| s.is_sealed() || beyond(scan::durable_mark(s, FIRST_FRAME)))
}

/// Steps 1 and 2: what does not count is gone for good.
fn settle(storage: &dyn Storage, survey: &mut Survey) -> Result<Manifest, OpenError> {
    let mut manifest = survey.manifest.clone();
    // Salvage may have found others, or fewer.
    manifest.kept = survey.beside.iter().map(|(segment, _)| segment.id()).collect();
    if survey.used || !survey.report.lost.is_empty() {
        let next = survey.highest.checked_add(1).ok_or(OpenError::IdsExhausted)?;
        manifest.next = manifest.next.max(next);
    }
    if manifest.is_legacy() {
        let drawn = |e| io_error("draw random bytes", e);
        manifest.log_id = random_u64().map_err(drawn)?.max(1);
        if let Some(secret) = &mut manifest.secret {
            // Its hints are of no use: the hash is another one.
            *secret = random_bytes().map_err(drawn)?;
        }
        manifest.legacy = survey.highest.saturating_add(1);
    }
    manifest.closed = None;
    if manifest != survey.manifest || survey.unwritten {
        manifest.generation += 1;
        write_manifest(storage, &manifest)?;
    }
    // The last one first: whatever a crash leaves of them is a chain without a gap. Those that
    // were truncated away are in no chain, and one sync does for all of them.
    survey.dropped.sort_unstable_by(|a, b| b.cmp(a));
    let in_chain = survey.dropped.partition_point(|&id| id >= manifest.first);
    let kept = survey.kept.iter().chain(&survey.beside);
    let known: Vec<_> = kept.map(|(segment, _)| segment.id()).collect();
    remove_stray_hints(storage, &known)?;
    for (at, id) in survey.dropped.iter().enumerate() {
        let name = file_name(*id);
        storage.remove(&name).map_err(|e| io_error(format!("remove {name}"), e))?;
        if at < in_chain || at + 1 == survey.dropped.len() {
            storage.sync_directory().map_err(|e| io_error("sync the directory", e))?;
        }
    }
    Ok(manifest)
}

/// Makes sure that the MANIFEST names the segment that the log begins with.
fn begin_at(storage: &dyn Storage, manifest: Manifest, first: u32) -> Result<Manifest, OpenError> {
    if manifest.first == first {
        return Ok(manifest);
    }
    let manifest = Manifest { first, generation: manifest.generation + 1, ..manifest };
    write_manifest(storage, &manifest)?;
    Ok(manifest)
}

fn write_manifest(storage: &dyn Storage, manifest: &Manifest) -> Result<(), OpenError> {
    let written = storage.write_manifest(&manifest.encode());
    written.map_err(|e| io_error("write MANIFEST", e))
}

/// Step 3, for one segment.
fn repair((segment, scan): (Segment, Option<Scan>)) -> Result<Arc<Segment>, OpenError> {
    let repaired = match &scan {
        Some(scan) => repair_and_seal(&segment, scan),
        None => segment.sync_seal(),
    };
    repaired.map_err(|e| io_error(format!("repair segment {}", segment.id()), e))?;
    Ok(Arc::new(segment))
}

fn repair_and_seal(segment: &Segment, scan: &Scan) -> std::io::Result<()> {
    for (gap, repair) in &scan.repairs {
        let state = if *repair == Repair::DeadClaim { State::Void } else { State::Pad };
        let word = frame::bare_word(segment.salt(), gap.offset, gap.len, state);
        // ORDERING: Relaxed; this thread is alone with the segment.
        segment.map.word(gap.offset).store(word, std::sync::atomic::Ordering::Relaxed);
    }
    let len = segment.map.len() as u64;
    if written(segment, scan.end) > 0 {
        // SAFETY: this thread is alone with the segment, and no claim is in it.
        unsafe { segment.map.slice_mut(scan.end, len - scan.end) }.fill(0);
    }
    segment.dirty(scan.end);
    segment.sync(FIRST_FRAME, len)?;
    seal_and_shrink(segment, scan.end, scan.frames)
}
