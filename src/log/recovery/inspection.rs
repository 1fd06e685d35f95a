//! What inspecting a log has found and decided: the plan that `repair` carries out. `membership` and
//! `log_end` fill it in.

use super::report::{Contradiction, RecoveryReport};
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::format::header::FIRST_FRAME;
use crate::format::manifest::Manifest;
use crate::options::RecoveryMode;
use crate::segment::quiet::OfflineSegment;
use crate::segment::scan::Scan;
use crate::segment::{Segment, id_of};
use crate::storage::Storage;
use std::collections::BTreeMap;

/// A segment that belongs to the log or beside it.
pub(super) struct InspectedSegment {
    pub(super) segment: OfflineSegment,
    /// The result of scanning it, if it needs repair.
    pub(super) scan: Option<Scan>,
}

/// What happens to a file that does not belong to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disposition {
    /// It is accounted for and can be removed.
    Remove,
    /// It is set aside, for this reason.
    SetAside(&'static str),
}

/// Where the MANIFEST comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ManifestSource {
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
    pub(super) manifest_source: ManifestSource,
    /// The log, each segment naming the one before it.
    pub(super) log_segments: Vec<InspectedSegment>,
    /// The segments that the MANIFEST lists beside the log: merged ones, and ones from before its
    /// beginning.
    pub(super) detached: Vec<InspectedSegment>,
    /// The segment before the first one of the log, as that names it.
    pub(super) before_first: Option<u32>,
    pub(super) discarded: Vec<(u32, Disposition)>,
    /// The highest id of any segment file, in the directory or set aside.
    pub(super) highest: u32,
    pub(super) report: RecoveryReport,
    /// Segments whose damaged heads were rebuilt, and the damage (salvage only).
    pub(super) damaged_headers: BTreeMap<u32, CorruptionKind>,
    pub(super) boot_id: Option<u128>,
    /// The log's id, if no MANIFEST has it.
    pub(super) log_id: Option<u64>,
}

/// Whether the page cache still holds what a segment's writer stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriterKernel {
    /// The same boot, and the same file: the page cache is as the writer left it.
    Same,
    /// Another boot, or the same file on another device, as in a snapshot of a volume.
    Other,
    /// There is no boot id, now or when the segment was created.
    Unknown,
}

impl WriterKernel {
    pub(super) fn of(segment: &Segment, boot_id: Option<u128>) -> Self {
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
    WriterKernel::of(segment, boot_id) == WriterKernel::Other
}

impl Inspection {
    pub(super) fn is_strict(&self) -> bool {
        self.mode == RecoveryMode::Strict
    }

    /// Whether the page cache is known to hold what a segment's writer stored.
    pub(super) fn is_same_kernel(&self, segment: &Segment) -> bool {
        WriterKernel::of(segment, self.boot_id) == WriterKernel::Same
    }

    /// The last segment before a log of which none is left: what is appended now follows that one, so that
    /// who has read up to an earlier one misses something.
    pub(super) fn last_dropped(&self) -> u32 {
        match self.before_first {
            Some(before) if self.manifest.closed.is_none() => before,
            _ => self.manifest.last_dropped(),
        }
    }

    /// The id of the log, according to its segments.
    pub(super) fn log_id(&self) -> Option<u64> {
        let all = self.log_segments.iter().chain(&self.detached);
        all.into_iter().find_map(|s| s.segment.header.origin).map(|origin| origin.log_id)
    }

    /// Records a file that contradicts the MANIFEST; an error unless salvaging.
    pub(super) fn contradiction(
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
}

/// Whether nothing was ever written to it: it was a standby.
pub(super) fn is_unused(segment: &OfflineSegment) -> bool {
    !segment.is_sealed() && segment.quiet().next_written(FIRST_FRAME).is_none()
}

/// What salvage brought back: the id of a segment, and from which offset on.
pub(super) type RestoredRange = (u32, u64);

/// The ids of all segments that there are files of, in order.
pub(super) fn segment_ids(storage: &dyn Storage) -> Result<Vec<u32>, OpenError> {
    let mut ids: Vec<u32> = storage.list()?.iter().filter_map(|name| id_of(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The reason for setting aside what a power loss left behind the end of the log.
pub(super) const BEHIND_THE_END: &str = "it is behind the end of the log";

pub(super) fn missing(segment: u32) -> Corruption {
    let kind = CorruptionKind::SegmentHeader("the file is missing");
    Corruption { segment, offset: 0, kind }
}
