//! Sealing a segment that is not active: its end is recorded in its head, and it is synced.

use crate::format::header::Seal;
use crate::segment::Segment;
use std::io;

/// Seals a segment that is used up to `end` and synced.
pub(crate) fn seal_and_shrink(segment: &Segment, end: u64, frames: u64) -> io::Result<()> {
    segment.seal(Seal { end, frames });
    segment.sync(0, end)?;
    segment.shrink();
    segment.close_file();
    Ok(())
}

/// As `seal_and_shrink`, but keeps the bytes behind the end.
pub(crate) fn seal_durably(segment: &Segment, end: u64, frames: u64) -> io::Result<()> {
    segment.seal(Seal { end, frames });
    segment.sync(0, end)?;
    segment.close_file();
    Ok(())
}
