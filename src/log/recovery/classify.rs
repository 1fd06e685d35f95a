//! Inspecting and classifying the files, before anything is changed: which segments belong to the log,
//! and where it ends.

#![allow(unsafe_code, reason = "opens segments that nobody writes to")]

use super::report::{Contradiction, RecoveryReport};
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::format::frame::{self, State};
use crate::format::header::{FIRST_FRAME, SEAL};
use crate::format::manifest::{BadManifest, Manifest};
use crate::format::names::set_aside_id;
use crate::options::RecoveryMode;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::frames;
use crate::segment::quiet::OfflineSegment;
use crate::segment::scan::{self, Repair, Rules, Scan, Stop};
use crate::storage::{Access, Storage, io_error};
use std::collections::{BTreeMap, BTreeSet};

/// A segment that belongs to the log or beside it.
pub(super) struct Inspected {
    pub(super) segment: OfflineSegment,
    /// The result of scanning it, if it needs repair.
    pub(super) scan: Option<Scan>,
}

/// What happens to a file that does not belong to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is accounted for and can be removed.
    Remove,
    /// It is set aside, for this reason.
    SetAside(&'static str),
}

/// Where the MANIFEST comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The MANIFEST was read.
    Read,
    /// The directory is empty: a new log.
    Fresh,
    /// It is lost, and reconstructed from the segments (salvage only).
    Lost,
}

pub(super) struct Inspection {
    pub(super) mode: RecoveryMode,
    pub(super) manifest: Manifest,
    pub(super) source: Source,
    /// The log, each segment naming the one before it.
    pub(super) log: Vec<Inspected>,
    /// The segments that the MANIFEST lists beside the log: merged ones, and ones from before its
    /// beginning.
    pub(super) beside: Vec<Inspected>,
    pub(super) discarded: Vec<(u32, Fate)>,
    /// The highest id of any segment file, in the directory or set aside.
    pub(super) highest: u32,
    pub(super) report: RecoveryReport,
    /// Segments whose damaged heads were rebuilt, and the damage (salvage only).
    pub(super) heads: BTreeMap<u32, CorruptionKind>,
    boot_id: Option<u128>,
    /// The log's id, if no MANIFEST has it.
    log_id: Option<u64>,
}

/// Whether the page cache still holds what a segment's writer stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// The same boot, and the same file: the page cache is as the writer left it.
    Same,
    /// Another boot, or the same file on another device, as in a snapshot of a volume.
    Other,
    /// There is no boot id, now or when the segment was created.
    Unknown,
}

impl Kernel {
    fn of(segment: &Segment, boot_id: Option<u128>) -> Self {
        let Some(boot_id) = boot_id.filter(|_| segment.header.boot_id != 0) else {
            return Self::Unknown;
        };
        let moved = segment
            .header
            .origin
            .is_some_and(|origin| origin.file.is_on_another_device(segment.identity));
        if segment.header.boot_id == boot_id && !moved { Self::Same } else { Self::Other }
    }
}

/// Whether the page cache does not hold what a segment's writer stored.
pub(super) fn is_of_another_kernel(segment: &Segment, boot_id: Option<u128>) -> bool {
    Kernel::of(segment, boot_id) == Kernel::Other
}

pub(super) fn inspect(
    storage: &dyn Storage,
    mode: RecoveryMode,
    access: Access,
) -> Result<Inspection, OpenError> {
    let ids = super::ids(storage)?;
    let aside = storage.aside()?;
    let aside = aside.iter().filter_map(|(name, _)| set_aside_id(name));
    let highest = ids.iter().copied().chain(aside).max().unwrap_or(0);
    let (manifest, source) = read_manifest(storage, mode, &ids)?;
    let report = RecoveryReport { same_boot: true, ..RecoveryReport::default() };
    let (log, beside, discarded) = (Vec::new(), Vec::new(), Vec::new());
    let boot_id = storage.boot_id();
    let mut all = Inspection {
        mode,
        manifest,
        source,
        log,
        beside,
        discarded,
        highest,
        report,
        heads: BTreeMap::new(),
        boot_id,
        log_id: None,
    };
    let (mut chain, mut merged) = (Vec::new(), Vec::new());
    for &id in &ids {
        let Some(segment) = all.open(storage, id, access, &ids)? else { continue };
        if all.manifest.kept.binary_search(&id).is_ok() {
            all.judge_beside(segment)?;
        } else if segment.header.merged {
            merged.push(segment);
        } else if id < all.manifest.first {
            all.judge_before_the_beginning(segment)?;
        } else {
            chain.push(segment);
        }
    }
    all.check_listed()?;
    all.judge_merged(merged, &chain)?;
    all.check_chain(&mut chain)?;
    all.check_closed(&mut chain)?;
    all.judge_log(chain)?;
    all.check_end()?;
    all.detach();
    all.beside.sort_by_key(|inspected| inspected.segment.id());
    Ok(all)
}

fn read_manifest(
    storage: &dyn Storage,
    mode: RecoveryMode,
    ids: &[u32],
) -> Result<(Manifest, Source), OpenError> {
    let bytes = storage.read_manifest()?;
    let fallback =
        || Manifest { first: ids.first().copied().unwrap_or(1), next: 1, ..Manifest::default() };
    match bytes.map(|bytes| Manifest::decode(&bytes)) {
        Some(Ok(manifest)) => Ok((manifest, Source::Read)),
        Some(Err(BadManifest::Version(found))) => {
            Err(OpenError::Version { found, known: crate::format::VERSION })
        }
        None if ids.is_empty() => Ok((fallback(), Source::Fresh)),
        _ if mode == RecoveryMode::Salvage => Ok((fallback(), Source::Lost)),
        Some(Err(BadManifest::Damaged(what))) => Err(OpenError::Manifest(what)),
        None => Err(OpenError::Manifest("it is missing, but there are segments")),
    }
}

/// Whether a segment was truncated: an unsealed segment has its whole capacity.
fn is_cut(segment: &Segment) -> bool {
    !segment.is_sealed() && (segment.map.len() as u64) < segment.header.capacity
}

fn cut(segment: &Segment) -> Corruption {
    let what = "the file is shorter than its capacity and not sealed";
    let (segment, offset) = (segment.id(), segment.map.len() as u64);
    Corruption { segment, offset, kind: CorruptionKind::SegmentHeader(what) }
}

/// Whether nothing was ever written to it: it was a standby.
fn is_unused(segment: &OfflineSegment) -> bool {
    !segment.is_sealed() && segment.quiet().next_written(FIRST_FRAME).is_none()
}

/// Whether a merged segment is still empty.
fn is_empty(segment: &OfflineSegment, inputs: Option<&Vec<u32>>) -> bool {
    let head = inputs.map(|inputs| FIRST_FRAME + frame::inputs_len(inputs.len()));
    !segment.is_sealed() && head.is_some_and(|head| segment.quiet().next_written(head).is_none())
}

/// Whether only the pad of a full segment is between the end that its seal stated and the end of its
/// frames. A power loss may have undone the seal, which is not synced by itself.
fn ends_in_a_pad(segment: &OfflineSegment, sealed_at: u64, found: u64) -> bool {
    let is_place = sealed_at >= FIRST_FRAME && sealed_at.is_multiple_of(8) && sealed_at < found;
    if segment.is_sealed() || !is_place {
        return false;
    }
    let frame = segment.quiet().frame_at(sealed_at, found - sealed_at);
    let pad = frame.ok().flatten().filter(|frame| frame.word.state == State::Pad);
    pad.is_some_and(|pad| sealed_at + pad.word.len == found)
}

impl Inspection {
    fn is_strict(&self) -> bool {
        self.mode == RecoveryMode::Strict
    }

    /// Opens a segment, unless it is discarded.
    fn open(
        &mut self,
        storage: &dyn Storage,
        id: u32,
        access: Access,
        ids: &[u32],
    ) -> Result<Option<OfflineSegment>, OpenError> {
        if self.manifest.cut_off.binary_search(&id).is_ok() {
            // An interrupted recovery decided that.
            self.discarded.push((id, Fate::SetAside(BEHIND_THE_END)));
            return Ok(None);
        }
        let removed = self.manifest.removed.binary_search(&id).is_ok();
        let segment = match Segment::open(storage, id, access) {
            // SAFETY: it is open for reading only, or recovery has the storage to itself.
            Ok(segment) => unsafe { OfflineSegment::new(segment) },
            Err(OpenError::Corrupt(_)) if removed => {
                let why = "it has the id of a removed segment, and no header";
                self.discarded.push((id, Fate::SetAside(why)));
                return Ok(None);
            }
            Err(OpenError::Corrupt(corruption)) if self.is_nothing(&corruption) => {
                let why = "it is blank, and was not part of the log when that was closed";
                self.discarded.push((id, Fate::SetAside(why)));
                return Ok(None);
            }
            Err(OpenError::Corrupt(corruption)) if !self.is_strict() => {
                let anew = super::heads::reopen(storage, id, access, &self.manifest, ids)?;
                self.report.lost.push(corruption.clone());
                let Some(segment) = anew else {
                    self.discarded.push((id, Fate::SetAside("its header is damaged")));
                    return Ok(None);
                };
                self.heads.insert(id, corruption.kind);
                segment
            }
            Err(error) => return Err(error),
        };
        if self.is_foreign(&segment) {
            self.contradiction(&segment, "it is a segment of another log", false)?;
            self.discarded.push((id, Fate::SetAside("it is a segment of another log")));
            return Ok(None);
        }
        if removed {
            self.discarded.push((id, Fate::Remove));
            return Ok(None);
        }
        if self.is_strict() && is_cut(&segment) {
            return Err(cut(&segment).into());
        }
        if access == Access::Write && !segment.is_sealed() {
            // A copy may have holes, and on a full tmpfs even reading a hole is a SIGBUS. This changes
            // no byte.
            let failed = |e| io_error(format!("allocate segment {id}"), e);
            segment.allocate().map_err(failed)?;
        }
        Ok(Some(segment))
    }

    /// Whether a damaged file is blank, and the log was closed without it.
    fn is_nothing(&self, corruption: &Corruption) -> bool {
        let (id, blank) = (corruption.segment, CorruptionKind::SegmentHeader("it is blank"));
        let is_behind = self.manifest.closed.is_some_and(|end| id > end.segment);
        is_behind && corruption.kind == blank && self.manifest.kept.binary_search(&id).is_err()
    }

    fn is_foreign(&mut self, segment: &Segment) -> bool {
        match (self.source, segment.header.origin) {
            (Source::Read, Some(origin)) => origin.log_id != self.manifest.log_id,
            (Source::Read, None) => segment.id() >= self.manifest.legacy,
            // Without a MANIFEST, the log is that of the first segment found.
            (_, Some(origin)) => *self.log_id.get_or_insert(origin.log_id) != origin.log_id,
            (_, None) => false,
        }
    }

    /// Whether the page cache is known to hold what a segment's writer stored.
    pub(super) fn is_same_kernel(&self, segment: &Segment) -> bool {
        Kernel::of(segment, self.boot_id) == Kernel::Same
    }

    /// The id of the log, according to its segments.
    pub(super) fn log_id(&self) -> Option<u64> {
        let all = self.log.iter().chain(&self.beside);
        all.into_iter().find_map(|s| s.segment.header.origin).map(|origin| origin.log_id)
    }

    /// Records a file that contradicts the MANIFEST; an error unless salvaging.
    fn contradiction(
        &mut self,
        segment: &Segment,
        what: &'static str,
        taken: bool,
    ) -> Result<(), OpenError> {
        if self.is_strict() {
            return Err(OpenError::Contradiction { segment: segment.id(), what });
        }
        self.report.contradictions.push(Contradiction { segment: segment.id(), what, taken });
        Ok(())
    }

    /// A segment beside the log was sealed and durable before it was listed. But the seal of a log
    /// segment is not synced by itself, so a power loss may have undone it.
    fn judge_beside(&mut self, segment: OfflineSegment) -> Result<(), OpenError> {
        let salvage = !self.is_strict();
        if segment.is_sealed() {
            self.take_sealed(segment, true);
            return Ok(());
        }
        let mut scan = scan::scan(segment.quiet(), Rules { same_boot: true, salvage });
        let lost = match &scan.stop {
            Some(Stop::Damaged(damage) | Stop::Torn(damage)) => Some(damage.clone()),
            Some(Stop::Blank) => {
                Some(Corruption::at(segment.position(scan.end), CorruptionKind::Missing))
            }
            None if segment.header.merged || !scan.repairs.is_empty() => {
                let what = "it is not sealed, but the MANIFEST says that it was";
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
        let kernel = Kernel::of(&segment, self.boot_id);
        self.tally(&segment, &scan, kernel == Kernel::Same);
        self.beside.push(Inspected { segment, scan: Some(scan) });
        Ok(())
    }

    /// A sealed segment is not scanned, except by salvage, which needs to know what is damaged.
    fn take_sealed(&mut self, segment: OfflineSegment, beside: bool) {
        let mut damaged = None;
        if !self.is_strict() {
            let mut scan = scan::scan(segment.quiet(), Rules { same_boot: true, salvage: true });
            let is_anew = self.heads.contains_key(&segment.id());
            if is_anew || !scan.repairs.is_empty() || scan.stop.is_some() {
                let missing = Corruption::at(segment.position(scan.end), CorruptionKind::Missing);
                scan.lost.extend(scan.stop.take().map(|_| missing));
                self.report.lost.append(&mut scan.lost.clone());
                self.report.recovered_segments += 1;
                damaged = Some(scan);
            }
        }
        self.report.sealed_segments += u64::from(damaged.is_none());
        let inspected = Inspected { segment, scan: damaged };
        if beside { self.beside.push(inspected) } else { self.log.push(inspected) }
    }

    /// A segment from before the beginning of the log that is neither listed as kept nor as removed.
    fn judge_before_the_beginning(&mut self, segment: OfflineSegment) -> Result<(), OpenError> {
        if is_unused(&segment) {
            // Its creation failed after it had its name, or it was withdrawn and not removed.
            self.discarded.push((segment.id(), Fate::Remove));
            return Ok(());
        }
        if self.manifest.is_legacy() {
            // That version did not record which segments it removed.
            let fate = Fate::SetAside("it is from before the beginning of the log");
            self.discarded.push((segment.id(), fate));
            return Ok(());
        }
        self.contradiction(&segment, "the MANIFEST says that the log begins after it", true)?;
        self.judge_beside(segment)
    }

    fn check_listed(&mut self) -> Result<(), OpenError> {
        let there: BTreeSet<u32> = self.beside.iter().map(|s| s.segment.id()).collect();
        let lost: BTreeSet<u32> = self.report.lost.iter().map(|lost| lost.segment).collect();
        for &id in &self.manifest.kept {
            if there.contains(&id) {
                continue;
            }
            if self.is_strict() {
                return Err(OpenError::MissingSegment { id, needed_by: 0 });
            }
            if !lost.contains(&id) {
                self.report.lost.push(missing(id));
            }
        }
        Ok(())
    }

    /// Merged segments that the MANIFEST does not list: left by an interrupted merge, if all of their
    /// inputs still exist.
    fn judge_merged(
        &mut self,
        merged: Vec<OfflineSegment>,
        log: &[OfflineSegment],
    ) -> Result<(), OpenError> {
        let beside = self.beside.iter().map(|inspected| inspected.segment.id());
        let there: BTreeSet<u32> = beside.chain(log.iter().map(|segment| segment.id())).collect();
        for segment in merged {
            let inputs = frames::inputs(&segment);
            let is_copy = |inputs: &Vec<u32>| inputs.iter().all(|id| there.contains(id));
            if self.source == Source::Lost {
                self.judge_beside(segment)?;
            } else if inputs.as_ref().is_some_and(is_copy) || is_empty(&segment, inputs.as_ref()) {
                self.discarded.push((segment.id(), Fate::Remove));
            } else if inputs.is_none() && segment.header.origin.is_none() {
                let why = "it may have been left by an interrupted merge";
                self.discarded.push((segment.id(), Fate::SetAside(why)));
            } else {
                let what = "its inputs are gone, but the MANIFEST does not list it";
                self.contradiction(&segment, what, true)?;
                self.judge_beside(segment)?;
            }
        }
        Ok(())
    }

    /// Every segment names the one before it. Unused segments that were to be removed may be beside the
    /// chain.
    fn check_chain(&mut self, segments: &mut Vec<OfflineSegment>) -> Result<(), OpenError> {
        let mut chain: Vec<OfflineSegment> = Vec::new();
        for here in segments.drain(..) {
            let previous = here.header.previous;
            while chain.last().is_some_and(|last| last.id() > previous && is_unused(last)) {
                let unused = chain.pop().map(|unused| (unused.id(), Fate::Remove));
                self.discarded.extend(unused);
            }
            match chain.last() {
                Some(last) if last.id() != previous && self.is_strict() => {
                    return Err(OpenError::MissingSegment { id: previous, needed_by: here.id() });
                }
                Some(last) if last.id() < previous => self.report.lost.push(missing(previous)),
                _ => {}
            }
            chain.push(here);
        }
        *segments = chain;
        let Manifest { first, next, .. } = self.manifest;
        let begins_there = match segments.first() {
            Some(segment) => segment.id() == first,
            // A log without segments begins with the next segment created.
            None => first >= next || self.manifest.is_legacy(),
        };
        if begins_there || self.source != Source::Read {
            return Ok(());
        }
        if self.is_strict() {
            return Err(OpenError::MissingSegment { id: first, needed_by: 0 });
        }
        self.report.lost.push(missing(first));
        Ok(())
    }

    /// Checks that nothing was written after the log was closed, and that its last segment exists.
    fn check_closed(&mut self, segments: &mut Vec<OfflineSegment>) -> Result<(), OpenError> {
        let Some(end) = self.manifest.closed else { return Ok(()) };
        let later = segments.partition_point(|segment| segment.id() <= end.segment);
        for segment in segments.split_off(later) {
            if is_unused(&segment) {
                self.discarded.push((segment.id(), Fate::Remove));
                continue;
            }
            let what = "it was written after the log was closed, according to the MANIFEST";
            self.contradiction(&segment, what, true)?;
            segments.push(segment);
        }
        let kept = self.beside.iter().map(|inspected| inspected.segment.id());
        let is_there =
            segments.iter().map(|segment| segment.id()).chain(kept).any(|id| id == end.segment);
        if end.segment == 0 || is_there {
            return Ok(());
        }
        if self.is_strict() {
            return Err(OpenError::MissingSegment { id: end.segment, needed_by: 0 });
        }
        self.report.lost.push(missing(end.segment));
        Ok(())
    }

    /// Checks that the last segment ends where the log was closed.
    fn check_end(&mut self) -> Result<(), OpenError> {
        let Some(end) = self.manifest.closed else { return Ok(()) };
        let all = self.log.iter().chain(&self.beside);
        let last = all.into_iter().find(|inspected| inspected.segment.id() == end.segment);
        let Some(Inspected { segment, scan }) = last else { return Ok(()) };
        let found = scan.as_ref().map_or_else(|| segment.end(), |scan| scan.end);
        let sealed_anew = scan.is_some() && ends_in_a_pad(segment, end.offset.into(), found);
        if found == u64::from(end.offset) || sealed_anew {
            return Ok(());
        }
        let place = segment.position(found.min(u64::from(end.offset)));
        let corruption = Corruption::at(place, CorruptionKind::Missing);
        if self.is_strict() {
            return Err(corruption.into());
        }
        // There may be more than that: what an earlier recovery had cut off.
        self.report.lost.extend((found < u64::from(end.offset)).then_some(corruption));
        Ok(())
    }

    /// Classifies the unsealed segments in order, by the table in `docs/durability.md`.
    fn judge_log(&mut self, segments: Vec<OfflineSegment>) -> Result<(), OpenError> {
        let mut segments = segments.into_iter();
        while let Some(segment) = segments.next() {
            if segment.is_sealed() {
                self.take_sealed(segment, false);
                continue;
            }
            let rest = segments.as_slice();
            let (mut scan, same_boot) = self.scan_unsealed(&segment, rest)?;
            let ended = self.resolve_tail(&segment, &mut scan, rest, same_boot)?;
            self.tally(&segment, &scan, same_boot);
            self.log.push(Inspected { segment, scan: Some(scan) });
            if ended {
                self.cut_off(segments.collect());
                break;
            }
        }
        self.drop_unused_end();
        Ok(())
    }

    /// Scans an unsealed segment. Also returns whether it was judged as left by a process death alone.
    fn scan_unsealed(
        &self,
        segment: &OfflineSegment,
        rest: &[OfflineSegment],
    ) -> Result<(Scan, bool), OpenError> {
        let scan = |same_boot, salvage| scan::scan(segment.quiet(), Rules { same_boot, salvage });
        let kernel = Kernel::of(segment, self.boot_id);
        if !self.is_strict() {
            // Everything that can be read, whatever happened.
            return Ok((scan(true, true), kernel == Kernel::Same));
        }
        if kernel != Kernel::Unknown {
            return Ok((scan(kernel == Kernel::Same, false), kernel == Kernel::Same));
        }
        let (death, power_loss) = (scan(true, false), scan(false, false));
        // After a power loss a blank place is the end of the log, whatever comes later.
        let is_last = death.stop.is_none() || rest.iter().all(is_unused);
        if is_last && death.judges_as(&power_loss) {
            return Ok((death, true));
        }
        let offset = death.end.min(power_loss.end);
        Err(OpenError::UnknownBoot { segment: segment.id(), offset })
    }

    /// Whether the log ends in this segment. Damage in what is known to be durable is an error.
    fn resolve_tail(
        &mut self,
        segment: &OfflineSegment,
        scan: &mut Scan,
        rest: &[OfflineSegment],
        same_boot: bool,
    ) -> Result<bool, OpenError> {
        let place = segment.position(scan.end);
        self.report.lost.append(&mut scan.lost);
        match &scan.stop {
            None => Ok(false),
            Some(Stop::Damaged(corruption)) => Err(corruption.clone().into()),
            Some(Stop::Blank) if same_boot || !self.is_strict() => Ok(false),
            Some(_) if !self.is_durable(segment, place, rest) => Ok(true),
            Some(Stop::Torn(corruption)) => Err(corruption.clone().into()),
            Some(Stop::Blank) => Err(Corruption::at(place, CorruptionKind::Missing).into()),
        }
    }

    /// Whether anything says that the log was durable beyond `place`.
    fn is_durable(
        &self,
        segment: &OfflineSegment,
        place: LogPosition,
        rest: &[OfflineSegment],
    ) -> bool {
        let beyond = |mark: Option<LogPosition>| mark.is_some_and(|mark| mark > place);
        let closed = self.manifest.closed.map(|end| LogPosition::new(end.segment, end.offset));
        beyond(closed)
            || beyond(scan::durable_mark(segment.quiet(), u64::from(place.offset())))
            || rest
                .iter()
                .any(|s| s.is_sealed() || beyond(scan::durable_mark(s.quiet(), FIRST_FRAME)))
    }

    fn tally(&mut self, segment: &OfflineSegment, scan: &Scan, same_boot: bool) {
        let report = &mut self.report;
        report.recovered_segments += 1;
        report.same_boot &= same_boot;
        report.frames += scan.frames;
        report.entries += scan.entries;
        let count = |what| scan.repairs.iter().filter(|(_, r)| *r == what).count() as u64;
        report.holes += count(Repair::Hole);
        report.dead_claims += count(Repair::DeadClaim);
        let torn = segment.quiet().written_len(scan.end);
        if torn > 0 {
            report.torn_from.get_or_insert(segment.position(scan.end));
            report.torn_bytes += torn;
        }
    }

    /// The log has ended: later segments are cut off with what is behind the end.
    fn cut_off(&mut self, rest: Vec<OfflineSegment>) {
        for segment in rest {
            let written = segment.quiet().written_len(FIRST_FRAME);
            let fate = if written > 0 {
                self.report.torn_from.get_or_insert(segment.position(FIRST_FRAME));
                self.report.torn_bytes += written;
                Fate::SetAside(BEHIND_THE_END)
            } else {
                Fate::Remove
            };
            self.discarded.push((segment.id(), fate));
        }
    }

    /// Discards standby segments, and an active one that nothing was written to.
    fn drop_unused_end(&mut self) {
        while let Some(Inspected { segment, scan: Some(scan) }) = self.log.last() {
            if scan.frames > 0 || segment.is_sealed() {
                break;
            }
            let unwritten = segment.quiet().written_len(FIRST_FRAME) == 0;
            let fate = if unwritten { Fate::Remove } else { Fate::SetAside(BEHIND_THE_END) };
            self.report.recovered_segments -= 1;
            self.discarded.push((segment.id(), fate));
            self.log.pop();
        }
    }

    /// If the chain is broken (salvage only), the segments before the last break are kept beside the
    /// log.
    fn detach(&mut self) {
        let follows = |pair: &[Inspected]| pair[1].segment.header.previous == pair[0].segment.id();
        let breaks = self.log.windows(2).rposition(|pair| !follows(pair));
        if let Some(last) = breaks {
            let log = self.log.split_off(last + 1);
            self.beside.append(&mut self.log);
            self.log = log;
        }
    }
}

/// The reason for setting aside what a power loss left behind the end of the log.
pub(super) const BEHIND_THE_END: &str = "it is behind the end of the log";

fn missing(segment: u32) -> Corruption {
    let kind = CorruptionKind::SegmentHeader("the file is missing");
    Corruption { segment, offset: 0, kind }
}
