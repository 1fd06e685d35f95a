//! The size of a new segment, depending on what it is needed for and how much space is free.

use crate::error::AppendError;
use crate::format::frame;
use crate::format::header::FIRST_FRAME;
use crate::options::{Config, MAX_SEGMENT};
use std::io;
use std::sync::Arc;

/// What space is needed for, which decides what may be taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// An entry of a log. It does not use the reserve.
    Append,
    /// A put to a store. It does not use the reserve either, and is refused while the reserve is
    /// released.
    Put,
    /// What frees space sooner or later: a delete, a merge. It may take the reserve.
    Delete,
}

/// The most that the frames inside one batch can take.
pub(crate) const MAX_BATCH: u64 = MAX_SEGMENT - FIRST_FRAME - frame::HEADER;
/// No segment is made smaller than this for lack of space, except in tests.
pub(super) const SMALLEST: u64 = 64 << 10;

/// Whether an error means lack of space rather than a fault. A file size limit counts too, since
/// smaller files stay within it.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The error of a write for which a segment could not be created.
pub(super) fn refused(error: io::Error) -> AppendError {
    let no_space = is_no_space(&error);
    let source = Arc::new(error);
    if no_space { AppendError::NoSpace { source } } else { AppendError::Io { source } }
}

/// The capacity of a segment that holds frames of this length.
fn room_for(len: u64, unit: u64) -> u64 {
    (FIRST_FRAME + len).next_multiple_of(unit)
}

/// The capacities to try for a segment, from `wanted` down to the least that holds `len` bytes of
/// frames. Those that certainly do not fit into the free space are left out, except the last one.
pub(super) fn capacities(
    config: &Config,
    wanted: u64,
    len: u64,
    free: Option<u64>,
) -> impl Iterator<Item = u64> + use<> {
    let least = room_for(len, 4096).max(SMALLEST.min(config.segment_unit));
    let wanted = wanted.max(room_for(len, config.segment_unit)).max(least);
    let half = move |&size: &u64| (size > least).then(|| (size / 2).next_multiple_of(4096));
    let sizes = std::iter::successors(Some(wanted), move |size| Some(half(size)?.max(least)));
    sizes.filter(move |&size| size == least || free.is_none_or(|free| size <= free))
}

/// Tries one capacity after the other, until there is space for one.
pub(super) fn first_that_fits<T>(
    capacities: impl Iterator<Item = u64>,
    mut make: impl FnMut(u64) -> io::Result<T>,
) -> io::Result<T> {
    let mut refused = io::Error::from(io::ErrorKind::StorageFull);
    for capacity in capacities {
        match make(capacity) {
            Err(error) if is_no_space(&error) => refused = error,
            other => return other,
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(wanted: u64, len: u64, free: Option<u64>) -> Vec<u64> {
        capacities(&Config::default(), wanted, len, free).collect()
    }

    #[test]
    fn capacities_get_smaller_down_to_what_is_needed() {
        let kib = |sizes: Vec<u64>| sizes.iter().map(|size| size >> 10).collect::<Vec<_>>();
        assert_eq!(kib(sizes(2 << 20, 0, None)), [2048, 1024, 512, 256, 128, 64]);
        assert_eq!(kib(sizes(2 << 20, 0, Some(300 << 10))), [256, 128, 64]);
        assert_eq!(kib(sizes(2 << 20, 0, Some(0))), [64]);
        assert_eq!(kib(sizes(2 << 20, 300_000, None)), [2048, 1024, 512, 296]);
        assert_eq!(kib(sizes(2 << 20, 3_000_000, None)), [4096, 2932]);
        assert_eq!(kib(sizes(0, 3_000_000, Some(1))), [2932]);
    }
}
