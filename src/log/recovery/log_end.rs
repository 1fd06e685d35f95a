//! Where the log ends: the unsealed segments are scanned in order, by the table in docs/durability.md.
//!
//! What a frame that is not whole means depends on whether the kernel that wrote it still runs. If it
//! does, only the process died, and memory holds every byte that it wrote: an unfinished append is stepped
//! over, and anything else is corruption. If not, pages may have been lost, in any order: so the log ends
//! at the first such frame, and `resolve_tail` asks whether anything says that the log was durable
//! beyond it, which makes it corruption. Where it is unknown whether the kernel is the same, both rules
//! are tried, and have to agree.

use super::inspection::{
    BEHIND_THE_END, Disposition, InspectedSegment, Inspection, WriterKernel, is_unused,
};
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::format::frame::State;
use crate::format::header::{FIRST_FRAME, SEAL};
use crate::format::manifest::LogEnd;
use crate::position::LogPosition;
use crate::segment::quiet::OfflineSegment;
use crate::segment::scan::{self, Repair, Rules, Scan, Stop};
use crate::threads::of_each;
use std::convert::Infallible;

impl Inspection {
    /// Classifies the unsealed segments in order, by the table in `docs/durability.md`.
    pub(super) fn classify_log(&mut self, segments: Vec<OfflineSegment>) -> Result<(), OpenError> {
        // All are scanned at once, on all processors. Only those up to the end of the log count.
        let scan = |nth: usize, segment: &OfflineSegment| {
            let scan = || self.scan_unsealed(segment, &segments[nth + 1..]);
            Ok::<_, Infallible>((!segment.is_sealed()).then(scan))
        };
        let Ok(scans) = of_each(&segments, scan);
        let (mut segments, mut scans) = (segments.into_iter(), scans.into_iter());
        while let (Some(segment), Some(scan)) = (segments.next(), scans.next()) {
            let Some(scan) = scan else {
                self.take_sealed(segment, false);
                continue;
            };
            let rest = segments.as_slice();
            let (mut scan, same_boot) = scan?;
            let ended = self.resolve_tail(&segment, &mut scan, rest, same_boot)?;
            self.tally(&segment, &scan, same_boot);
            self.log_segments.push(InspectedSegment { segment, scan: Some(scan) });
            if ended {
                self.cut_off(segments.collect());
                break;
            }
        }
        self.drop_unused_end();
        Ok(())
    }

    /// Scans an unsealed segment. Also returns whether it was judged as left by a process death alone.
    pub(super) fn scan_unsealed(
        &self,
        segment: &OfflineSegment,
        rest: &[OfflineSegment],
    ) -> Result<(Scan, bool), OpenError> {
        let scan = |same_boot, salvage| scan::scan(segment.quiet(), Rules { same_boot, salvage });
        let kernel = WriterKernel::of(segment, self.boot_id);
        if !self.is_strict() {
            // Everything that can be read, whatever happened.
            return Ok((scan(true, true), kernel == WriterKernel::Same));
        }
        if kernel != WriterKernel::Unknown {
            return Ok((scan(kernel == WriterKernel::Same, false), kernel == WriterKernel::Same));
        }
        let (death, power_loss) = (scan(true, false), scan(false, false));
        // After a power loss a blank place is the end of the log, whatever comes later.
        let is_last = death.stop.is_none() || rest.iter().all(is_unused);
        if is_last && death.agrees_with(&power_loss) {
            return Ok((death, true));
        }
        let offset = death.end.min(power_loss.end);
        Err(OpenError::UnknownBoot { segment: segment.id(), offset })
    }

    /// Whether the log ends in this segment. Damage in what is known to be durable is an error.
    pub(super) fn resolve_tail(
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
    pub(super) fn is_durable(
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

    /// Checks that the last segment ends where the log was closed.
    pub(super) fn check_end(&mut self) -> Result<(), OpenError> {
        let Some(end) = self.manifest.closed else { return Ok(()) };
        let all = self.log_segments.iter().chain(&self.detached);
        let last = all.into_iter().find(|inspected| inspected.segment.id() == end.segment);
        let Some(InspectedSegment { segment, scan }) = last else { return Ok(()) };
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

    /// A segment beside the log was sealed and durable before it was listed. But the seal of a log
    /// segment is not synced by itself, so a power loss may have undone it.
    pub(super) fn classify_detached(&mut self, segment: OfflineSegment) -> Result<(), OpenError> {
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
        let kernel = WriterKernel::of(&segment, self.boot_id);
        self.tally(&segment, &scan, kernel == WriterKernel::Same);
        self.detached.push(InspectedSegment { segment, scan: Some(scan) });
        Ok(())
    }

    /// A sealed segment is not scanned, except by salvage, which needs to know what is damaged.
    pub(super) fn take_sealed(&mut self, segment: OfflineSegment, detached: bool) {
        let mut damaged = None;
        if !self.is_strict() {
            let mut scan = scan::scan(segment.quiet(), Rules { same_boot: true, salvage: true });
            let has_new_header = self.damaged_headers.contains_key(&segment.id());
            let miscounted = miscounted(&segment, &scan);
            let is_damaged = !scan.repairs.is_empty() || scan.stop.is_some();
            if has_new_header || is_damaged || miscounted.is_some() {
                let missing = Corruption::at(segment.position(scan.end), CorruptionKind::Missing);
                scan.lost.extend(scan.stop.take().map(|_| missing));
                scan.lost.extend(miscounted);
                self.report.lost.append(&mut scan.lost.clone());
                self.report.recovered_segments += 1;
                damaged = Some(scan);
            }
        }
        self.report.sealed_segments += u64::from(damaged.is_none());
        let inspected = InspectedSegment { segment, scan: damaged };
        if detached { self.detached.push(inspected) } else { self.log_segments.push(inspected) }
    }

    pub(super) fn tally(&mut self, segment: &OfflineSegment, scan: &Scan, same_boot: bool) {
        let report = &mut self.report;
        report.recovered_segments += 1;
        report.same_boot &= same_boot;
        // What is repaired becomes a frame, too.
        report.frames += scan.frames - scan.repairs.len() as u64;
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
    pub(super) fn cut_off(&mut self, rest: Vec<OfflineSegment>) {
        for segment in rest {
            let written = segment.quiet().written_len(FIRST_FRAME);
            let fate = if written > 0 {
                self.report.torn_from.get_or_insert(segment.position(FIRST_FRAME));
                self.report.torn_bytes += written;
                Disposition::SetAside(BEHIND_THE_END)
            } else {
                Disposition::Remove
            };
            self.discarded.push((segment.id(), fate));
        }
    }

    /// Whether the log was closed with something in this segment: if it is blank now, that is lost.
    fn was_closed_in(&self, segment: &OfflineSegment) -> bool {
        let in_it =
            |end: &LogEnd| end.segment == segment.id() && u64::from(end.offset) > FIRST_FRAME;
        self.manifest.closed.as_ref().is_some_and(in_it)
    }

    /// Discards standby segments, and an active one that nothing was written to.
    pub(super) fn drop_unused_end(&mut self) {
        while let Some(InspectedSegment { segment, scan: Some(scan) }) = self.log_segments.last() {
            if scan.frames > 0 || segment.is_sealed() || self.was_closed_in(segment) {
                break;
            }
            let unwritten = segment.quiet().written_len(FIRST_FRAME) == 0;
            let fate =
                if unwritten { Disposition::Remove } else { Disposition::SetAside(BEHIND_THE_END) };
            self.report.recovered_segments -= 1;
            self.discarded.push((segment.id(), fate));
            self.log_segments.pop();
        }
    }
}

/// That a sealed segment has not as many frames as its seal says, although nothing in it is damaged: a
/// store that has no hint of it would refuse it.
fn miscounted(segment: &OfflineSegment, scan: &Scan) -> Option<Corruption> {
    let (expected, found) = (segment.load_seal()?.frames, scan.frames);
    let is_whole = scan.repairs.is_empty() && scan.stop.is_none();
    let kind = CorruptionKind::Frames { expected, found };
    (is_whole && expected != found).then(|| Corruption {
        segment: segment.id(),
        offset: SEAL,
        kind,
    })
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
