//! How much of a segment is in use, and how much of that is dead.

use crate::format::frame;
use crate::format::header::FIRST_FRAME;
use crate::segment::{Segment, frames};

/// What a merge would gain from a segment, as the policy sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SegmentUsage {
    pub(crate) id: u32,
    /// Bytes in use, without the head.
    pub(crate) used: u64,
    /// How many of those are dead.
    pub(crate) dead: u64,
    /// Whether it is sealed, has a census, and holds nothing that has to stay.
    pub(crate) mergeable: bool,
}

impl SegmentUsage {
    pub(crate) const fn live(&self) -> u64 {
        self.used - self.dead
    }

    pub(crate) fn dead_ratio(&self) -> f64 {
        self.dead as f64 / self.used.max(1) as f64
    }
}

/// Bytes of frames in a full segment, except the frame that lists its inputs, which is neither live nor
/// dead.
pub(crate) fn content_bytes(segment: &Segment) -> u64 {
    let used = segment.end().saturating_sub(FIRST_FRAME);
    let inputs = if segment.header.merged { frames::inputs(segment) } else { None };
    used.saturating_sub(inputs.map_or(0, |ids| frame::inputs_len(ids.len())))
}
