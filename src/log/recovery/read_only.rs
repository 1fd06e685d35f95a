//! Inspecting a log without changing it: what belongs to it, by recovery's rules; or, if a writer has
//! it open, what that writer has written so far.
//!
//! No lock is held meanwhile. A writer may open the log, repair it and append. So the view of a log
//! without a writer is valid only if the MANIFEST is still the same afterwards: every writer that opens
//! a log replaces the MANIFEST before it changes anything else.

use super::classify::inspect;
use super::evidence;
use super::inspection::{
    Disposition, InspectedSegment, ManifestSource, is_of_another_kernel, segment_ids,
};
use super::report::{RecoveryReport, SetAside};
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::format::header::FIRST_FRAME;
use crate::format::manifest::{BadManifest, Manifest};
use crate::options::RecoveryMode;
use crate::segment::Segment;
use crate::segment::live;
use crate::storage::{Access, Storage, WriterState};
use crate::sync::thread;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to try to inspect a log without a writer coming meanwhile.
const STABLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to try again if a live writer's log seems incomplete although no segment was merged or
/// dropped meanwhile.
const LIVE_ATTEMPTS: u32 = 20;
/// How long to wait in total for appends in progress.
const UNFINISHED_TIMEOUT: Duration = Duration::from_millis(100);

/// What a reader can read.
#[derive(Debug)]
pub(crate) struct ReadableLog {
    /// The segments to read, in ascending order, each up to its end.
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) manifest: Manifest,
    /// The last segment before a log that has none.
    pub(crate) last_dropped: u32,
    pub(crate) report: RecoveryReport,
    /// Whether a writer has it open.
    pub(crate) live: bool,
    /// Ids of segment files that do not belong to the log.
    pub(crate) ignored: BTreeSet<u32>,
    /// Whether the MANIFEST says that all these segments are there. Salvage may know better.
    pub(crate) is_as_listed: bool,
}

/// Inspects a log. With `as_of_now`, what a live writer adds later is excluded: each segment ends where
/// its writer was, and appends unfinished by then are gaps. Otherwise unsealed segments are open-ended,
/// for a reader that follows.
pub(crate) fn open_read_only(
    storage: &dyn Storage,
    mode: RecoveryMode,
    as_of_now: bool,
) -> Result<ReadableLog, OpenError> {
    let deadline = Instant::now() + STABLE_TIMEOUT;
    let mut attempts_left = LIVE_ATTEMPTS;
    loop {
        let before = (storage.writer()?, storage.read_manifest()?);
        let is_live = before.0 == WriterState::Live;
        // A recovering writer does not change the result: at each of its steps another recovery would
        // decide in the same way.
        let found = if is_live {
            match read_live_log(storage, as_of_now) {
                Ok(Some(live)) => Ok(live),
                Err(error) => Err(error),
                // The writer will seal them soon.
                Ok(None) if Instant::now() <= deadline => {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Ok(None) => return read_stopped_log(storage, mode, before.0),
            }
        } else {
            read_stopped_log(storage, mode, before.0)
        };
        // What a writer appends does no harm, but it may merge away a segment that was to be opened.
        let is_stable = match &found {
            Ok(_) if is_live => true,
            _ => before == (storage.writer()?, storage.read_manifest()?),
        };
        // Reading a directory while it changes may show a later name and not an earlier one.
        if is_live && found.is_err() {
            attempts_left -= u32::from(is_stable);
        } else if is_stable {
            return found;
        }
        if attempts_left == 0 || Instant::now() > deadline {
            return found;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn read_stopped_log(
    storage: &dyn Storage,
    mode: RecoveryMode,
    writer: WriterState,
) -> Result<ReadableLog, OpenError> {
    let mut inspection = inspect(storage, mode, Access::Read)?;
    evidence::list_losses(storage, &mut inspection, &[])?;
    let last_dropped = inspection.last_dropped();
    // What is unused may be the first segment of a writer that is just opening the log.
    let is_ignored = |fate| writer == WriterState::None || fate != Disposition::Remove;
    let ignored = inspection.discarded.iter().filter(|(_, fate)| is_ignored(*fate));
    let ignored = ignored.map(|&(id, _)| id).collect();
    let all = inspection.detached.into_iter().chain(inspection.log_segments);
    let found = all.map(|InspectedSegment { mut segment, scan }| {
        if let Some(scan) = scan {
            segment.gaps = scan.repairs.iter().map(|(gap, _)| *gap).collect();
            segment.set_end(scan.end);
        }
        Arc::new(segment.into_segment())
    });
    let mut segments: Vec<_> = found.collect();
    segments.sort_by_key(|segment| segment.id());
    let (mut report, mut manifest) = (inspection.report, inspection.manifest);
    if inspection.manifest_source == ManifestSource::Lost {
        // As a recovery would write it, for backups and checkpoints.
        manifest.log_id = inspection.log_id.unwrap_or_default();
        manifest.legacy = inspection.highest.saturating_add(1);
    }
    list_aside(storage, &mut report)?;
    let is_as_listed = inspection.manifest_source == ManifestSource::Read
        && segments.iter().all(|segment| is_member(&manifest, segment.id()));
    let live = false;
    Ok(ReadableLog { segments, manifest, last_dropped, report, live, ignored, is_as_listed })
}

fn list_aside(storage: &dyn Storage, report: &mut RecoveryReport) -> Result<(), OpenError> {
    let all = storage.aside()?.into_iter();
    report.set_aside = all.map(|(name, bytes)| SetAside { name, bytes, reason: None }).collect();
    Ok(())
}

/// `None`: its writer is still opening it and has not yet cleared up what an earlier boot left, not all
/// of which may be valid.
fn read_live_log(storage: &dyn Storage, as_of_now: bool) -> Result<Option<ReadableLog>, OpenError> {
    let manifest = read_manifest(storage)?;
    let mut found = LiveSegments::default();
    for id in segment_ids(storage)? {
        found.open(storage, &manifest, id)?;
    }
    for &id in &manifest.kept {
        if found.detached.iter().all(|segment| segment.id() != id) {
            return Err(OpenError::MissingSegment { id, needed_by: 0 });
        }
    }
    found.check_chain(&manifest)?;
    let boot_id = storage.boot_id();
    let is_left =
        |segment: &Segment| !segment.is_sealed() && is_of_another_kernel(segment, boot_id);
    if found.log_segments.iter().any(is_left) {
        return Ok(None);
    }
    if as_of_now {
        found.end_here()?;
    }
    let LiveSegments { detached, log_segments, ignored } = found;
    let mut segments: Vec<_> = detached.into_iter().chain(log_segments).map(Arc::new).collect();
    segments.sort_by_key(|segment| segment.id());
    let mut report = RecoveryReport { same_boot: true, ..RecoveryReport::default() };
    report.sealed_segments = segments.iter().filter(|segment| segment.is_sealed()).count() as u64;
    list_aside(storage, &mut report)?;
    let (last_dropped, live, is_as_listed) = (manifest.last_dropped(), true, true);
    Ok(Some(ReadableLog { segments, manifest, last_dropped, report, live, ignored, is_as_listed }))
}

fn read_manifest(storage: &dyn Storage) -> Result<Manifest, OpenError> {
    let Some(bytes) = storage.read_manifest()? else {
        return Err(OpenError::Manifest("it is missing, but a writer has the log open"));
    };
    Manifest::decode(&bytes).map_err(|bad| match bad {
        BadManifest::Version(found) => OpenError::Version { found, known: crate::format::VERSION },
        BadManifest::Damaged(what) => OpenError::Manifest(what),
    })
}

/// The segments of a log that is being written.
#[derive(Default)]
struct LiveSegments {
    detached: Vec<Segment>,
    log_segments: Vec<Segment>,
    ignored: BTreeSet<u32>,
}

impl LiveSegments {
    fn open(
        &mut self,
        storage: &dyn Storage,
        manifest: &Manifest,
        id: u32,
    ) -> Result<(), OpenError> {
        let kept = manifest.kept.binary_search(&id).is_ok();
        if !is_member(manifest, id) {
            self.ignored.insert(id);
            return Ok(());
        }
        let segment = match Segment::open(storage, id, Access::Read) {
            Ok(segment) => segment,
            // Merged or truncated since it was listed.
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if is_foreign(manifest, &segment) {
            let what = "it is a segment of another log";
            return Err(OpenError::Contradiction { segment: id, what });
        }
        match (kept, segment.header.merged) {
            (true, _) => self.detached.push(segment),
            // The unfinished output of a merge.
            (false, true) => drop(self.ignored.insert(id)),
            (false, false) => self.log_segments.push(segment),
        }
        Ok(())
    }

    /// As in recovery, except for a withdrawn standby whose place in the chain another segment has
    /// taken.
    fn check_chain(&mut self, manifest: &Manifest) -> Result<(), OpenError> {
        let mut chain: Vec<Segment> = Vec::new();
        for here in self.log_segments.drain(..) {
            let previous = here.header.previous;
            while chain.last().is_some_and(|last| last.id() > previous) {
                self.ignored.extend(chain.pop().map(|unused| unused.id()));
            }
            if chain.last().is_some_and(|last| last.id() != previous) {
                return Err(OpenError::MissingSegment { id: previous, needed_by: here.id() });
            }
            chain.push(here);
        }
        self.log_segments = chain;
        match self.log_segments.first() {
            Some(first) if first.id() != manifest.first => {
                Err(OpenError::MissingSegment { id: manifest.first, needed_by: 0 })
            }
            _ => Ok(()),
        }
    }

    /// Ends each segment where its writers are now.
    ///
    /// The end is read first, and then the frames before it. A write that began after another was
    /// acknowledged is behind that other one. So if a finished frame is included, so is every frame
    /// acknowledged before its write began; and what is skipped was not acknowledged when the end was
    /// read.
    fn end_here(&mut self) -> Result<(), OpenError> {
        for segment in self.log_segments.iter().rev() {
            if segment.is_sealed() || segment.load_seal().is_some() {
                break;
            }
            let end = live::reserved_end(segment);
            segment.set_end(end);
            if end > FIRST_FRAME {
                break;
            }
        }
        let deadline = Instant::now() + UNFINISHED_TIMEOUT;
        for segment in &mut self.log_segments {
            if !segment.is_sealed() {
                segment.gaps = live::unfinished(segment, deadline)?;
            }
        }
        Ok(())
    }
}

fn is_member(manifest: &Manifest, id: u32) -> bool {
    let is_in = |ids: &[u32]| ids.binary_search(&id).is_ok();
    let in_log = id >= manifest.first && !is_in(&manifest.removed) && !is_in(&manifest.cut_off);
    in_log || manifest.kept.binary_search(&id).is_ok()
}

pub(super) fn is_foreign(manifest: &Manifest, segment: &Segment) -> bool {
    match segment.header.origin {
        Some(origin) => origin.log_id != manifest.log_id,
        None => segment.id() >= manifest.legacy,
    }
}

/// What another process has changed.
pub(crate) struct LogChanges {
    /// Segments that it added to the log.
    pub(crate) new: Vec<Arc<Segment>>,
    /// The ids of all current segments. The others are gone.
    pub(crate) there: BTreeSet<u32>,
    pub(crate) manifest: Manifest,
}

/// Finds segments after `after` that another process has added to the log. Those in `ignored` are left
/// out; files found not to belong to the log are added to them.
pub(crate) fn find_changes(
    storage: &dyn Storage,
    after: u32,
    is_known: impl Fn(u32) -> bool,
    ignored: &mut BTreeSet<u32>,
) -> Result<LogChanges, OpenError> {
    let manifest = read_manifest(storage)?;
    let ids = segment_ids(storage)?.into_iter();
    let there: BTreeSet<u32> = ids.filter(|&id| is_member(&manifest, id)).collect();
    let mut new = Vec::new();
    for &id in there.range(after.saturating_add(1)..) {
        if is_known(id) || ignored.contains(&id) {
            continue;
        }
        match Segment::open(storage, id, Access::Read) {
            Ok(segment) if segment.header.merged => drop(ignored.insert(id)),
            Ok(segment) if is_foreign(&manifest, &segment) => {
                let kind = CorruptionKind::SegmentHeader("it is a segment of another log");
                return Err(Corruption { segment: id, offset: 0, kind }.into());
            }
            Ok(segment) => new.push(Arc::new(segment)),
            // Truncated since it was listed.
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(LogChanges { new, there, manifest })
}
