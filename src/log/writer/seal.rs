//! Sealing a segment that is not active: its end is recorded in its head, and it is synced.

use crate::format::header::Seal;
use crate::segment::Segment;
use std::io;

/// Seals a segment that is synced up to the seal's end, which is the end of what is used.
pub(crate) fn seal_and_shrink(segment: &Segment, seal: Seal) -> io::Result<()> {
    segment.seal(seal);
    segment.sync(0, seal.end)?;
    segment.shrink();
    segment.close_file();
    Ok(())
}

/// As `seal_and_shrink`, but keeps the bytes behind the end.
pub(crate) fn seal_durably(segment: &Segment, seal: Seal) -> io::Result<()> {
    segment.seal(seal);
    segment.sync(0, seal.end)?;
    segment.close_file();
    Ok(())
}
