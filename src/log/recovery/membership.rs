//! Which segments belong to the log, and which files are removed or set aside.
//!
//! The MANIFEST and the headers of the segments both say which segments there are. Where they disagree,
//! one of the two is from another time or another log. A strict recovery is then refused, with the
//! place; salvage takes the segment if it is of this log, and reports the contradiction.

#![allow(unsafe_code, reason = "opens segments that nobody writes to")]

use super::headers;
use super::inspection::{
    BEHIND_THE_END, Disposition, InspectedSegment, Inspection, ManifestSource, is_unused, missing,
};
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::format::frame;
use crate::format::header::FIRST_FRAME;
use crate::format::manifest::Manifest;
use crate::segment::Segment;
use crate::segment::frames;
use crate::segment::quiet::OfflineSegment;
use crate::storage::{Access, Storage, io_error};
use std::collections::BTreeSet;

impl Inspection {
    /// Opens a segment, unless it is discarded.
    pub(super) fn open(
        &mut self,
        storage: &dyn Storage,
        id: u32,
        access: Access,
        ids: &[u32],
    ) -> Result<Option<OfflineSegment>, OpenError> {
        if self.is_strict() && self.manifest.cut_off.binary_search(&id).is_ok() {
            // An interrupted recovery decided that. (Salvage may have brought it back just now.)
            self.discarded.push((id, Disposition::SetAside(BEHIND_THE_END)));
            return Ok(None);
        }
        let removed = self.manifest.removed.binary_search(&id).is_ok();
        let segment = match Segment::open(storage, id, access) {
            // SAFETY: it is open for reading only, or recovery has the storage to itself.
            Ok(segment) => unsafe { OfflineSegment::new(segment) },
            Err(OpenError::Corrupt(_)) if removed => {
                let why = "it has the id of a removed segment, and no header";
                self.discarded.push((id, Disposition::SetAside(why)));
                return Ok(None);
            }
            Err(OpenError::Corrupt(corruption)) if self.is_nothing(&corruption) => {
                let why = "it is blank, and was not part of the log when that was closed";
                self.discarded.push((id, Disposition::SetAside(why)));
                return Ok(None);
            }
            Err(OpenError::Corrupt(corruption)) if !self.is_strict() => {
                let anew =
                    headers::open_with_damaged_header(storage, id, access, &self.manifest, ids)?;
                self.report.lost.push(corruption.clone());
                let Some(segment) = anew else {
                    self.discarded.push((id, Disposition::SetAside("its header is damaged")));
                    return Ok(None);
                };
                self.damaged_headers.insert(id, corruption.kind);
                segment
            }
            Err(error) => return Err(error),
        };
        if self.is_foreign(&segment) {
            self.contradiction(&segment, "it is a segment of another log", false)?;
            self.discarded.push((id, Disposition::SetAside("it is a segment of another log")));
            return Ok(None);
        }
        if removed {
            self.discarded.push((id, Disposition::Remove));
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
    pub(super) fn is_nothing(&self, corruption: &Corruption) -> bool {
        let (id, blank) = (corruption.segment, CorruptionKind::SegmentHeader("it is blank"));
        let is_behind = self.manifest.closed.is_some_and(|end| id > end.segment);
        is_behind && corruption.kind == blank && self.manifest.kept.binary_search(&id).is_err()
    }

    pub(super) fn is_foreign(&mut self, segment: &Segment) -> bool {
        match (self.manifest_source, segment.header.origin) {
            (ManifestSource::Read, Some(origin)) => origin.log_id != self.manifest.log_id,
            (ManifestSource::Read, None) => segment.id() >= self.manifest.legacy,
            // Without a MANIFEST, the log is that of the first segment found.
            (_, Some(origin)) => *self.log_id.get_or_insert(origin.log_id) != origin.log_id,
            (_, None) => false,
        }
    }

    /// A segment from before the beginning of the log that is neither listed as kept nor as removed.
    pub(super) fn classify_before_first(
        &mut self,
        segment: OfflineSegment,
    ) -> Result<(), OpenError> {
        if is_unused(&segment) {
            // Its creation failed after it had its name, or it was withdrawn and not removed.
            self.discarded.push((segment.id(), Disposition::Remove));
            return Ok(());
        }
        if self.manifest.is_legacy() {
            // That version did not record which segments it removed.
            let fate = Disposition::SetAside("it is from before the beginning of the log");
            self.discarded.push((segment.id(), fate));
            return Ok(());
        }
        self.contradiction(&segment, "the MANIFEST says that the log begins after it", true)?;
        self.classify_detached(segment)
    }

    pub(super) fn check_listed(&mut self) -> Result<(), OpenError> {
        let there: BTreeSet<u32> = self.detached.iter().map(|s| s.segment.id()).collect();
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
    pub(super) fn classify_merged(
        &mut self,
        merged: Vec<OfflineSegment>,
        log: &[OfflineSegment],
    ) -> Result<(), OpenError> {
        let detached = self.detached.iter().map(|inspected| inspected.segment.id());
        let there: BTreeSet<u32> = detached.chain(log.iter().map(|segment| segment.id())).collect();
        for segment in merged {
            let inputs = frames::inputs(&segment);
            let is_copy = |inputs: &Vec<u32>| inputs.iter().all(|id| there.contains(id));
            if self.manifest_source == ManifestSource::Lost {
                self.classify_detached(segment)?;
            } else if inputs.as_ref().is_some_and(is_copy) || is_empty(&segment, inputs.as_ref()) {
                self.discarded.push((segment.id(), Disposition::Remove));
            } else if inputs.is_none() && segment.header.origin.is_none() {
                let why = "it may have been left by an interrupted merge";
                self.discarded.push((segment.id(), Disposition::SetAside(why)));
            } else {
                let what = "its inputs are gone, but the MANIFEST does not list it";
                self.contradiction(&segment, what, true)?;
                self.classify_detached(segment)?;
            }
        }
        Ok(())
    }

    /// Every segment names the one before it. Unused segments that were to be removed may be beside the
    /// chain.
    pub(super) fn check_chain(
        &mut self,
        segments: &mut Vec<OfflineSegment>,
    ) -> Result<(), OpenError> {
        let mut chain: Vec<OfflineSegment> = Vec::new();
        for here in segments.drain(..) {
            let previous = here.header.previous;
            while chain.last().is_some_and(|last| last.id() > previous && is_unused(last)) {
                let unused = chain.pop().map(|unused| (unused.id(), Disposition::Remove));
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
        self.before_first = segments.first().map(|first| first.header.previous);
        let Manifest { first, next, .. } = self.manifest;
        let begins_there = match segments.first() {
            Some(segment) => segment.id() == first,
            // A log without segments begins with the next segment created.
            None => first >= next || self.manifest.is_legacy(),
        };
        if begins_there || self.manifest_source != ManifestSource::Read {
            return Ok(());
        }
        if self.is_strict() {
            return Err(OpenError::MissingSegment { id: first, needed_by: 0 });
        }
        self.report.lost.push(missing(first));
        Ok(())
    }

    /// Checks that nothing was written after the log was closed, and that its last segment exists.
    pub(super) fn check_closed(
        &mut self,
        segments: &mut Vec<OfflineSegment>,
    ) -> Result<(), OpenError> {
        let Some(end) = self.manifest.closed else { return Ok(()) };
        let later = segments.partition_point(|segment| segment.id() <= end.segment);
        for segment in segments.split_off(later) {
            if is_unused(&segment) {
                self.discarded.push((segment.id(), Disposition::Remove));
                continue;
            }
            let what = "it was written after the log was closed, according to the MANIFEST";
            self.contradiction(&segment, what, true)?;
            segments.push(segment);
        }
        let kept = self.detached.iter().map(|inspected| inspected.segment.id());
        let is_there =
            segments.iter().map(|segment| segment.id()).chain(kept).any(|id| id == end.segment);
        // It was dropped, if the log was empty then.
        if end.segment < self.manifest.first.max(1) || is_there {
            return Ok(());
        }
        if self.is_strict() {
            return Err(OpenError::MissingSegment { id: end.segment, needed_by: 0 });
        }
        self.report.lost.push(missing(end.segment));
        Ok(())
    }

    /// If the chain is broken (salvage only), the segments before the last break are kept beside the
    /// log.
    pub(super) fn detach(&mut self) {
        let follows =
            |pair: &[InspectedSegment]| pair[1].segment.header.previous == pair[0].segment.id();
        let breaks = self.log_segments.windows(2).rposition(|pair| !follows(pair));
        if let Some(last) = breaks {
            let log = self.log_segments.split_off(last + 1);
            self.detached.append(&mut self.log_segments);
            self.log_segments = log;
        }
    }
}

/// Whether a segment was truncated: an unsealed segment has its whole capacity.
pub(super) fn is_cut(segment: &Segment) -> bool {
    !segment.is_sealed() && (segment.map.len() as u64) < segment.header.capacity
}

fn cut(segment: &Segment) -> Corruption {
    let what = "the file is shorter than its capacity and not sealed";
    let (segment, offset) = (segment.id(), segment.map.len() as u64);
    Corruption { segment, offset, kind: CorruptionKind::SegmentHeader(what) }
}

/// Whether a merged segment is still empty.
fn is_empty(segment: &OfflineSegment, inputs: Option<&Vec<u32>>) -> bool {
    let head = inputs.map(|inputs| FIRST_FRAME + frame::inputs_len(inputs.len()));
    !segment.is_sealed() && head.is_some_and(|head| segment.quiet().next_written(head).is_none())
}
