//! What a merge says of itself.

use std::time::Duration;

/// What [`Store::merge`](crate::Store::merge) did. All zero if there was nothing to merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeReport {
    /// Segments that were merged and removed.
    pub inputs: u64,
    /// Segments that replaced them.
    pub outputs: u64,
    /// Bytes of frames read.
    pub bytes_read: u64,
    /// Bytes of frames written.
    pub bytes_written: u64,
    /// Bytes of the removed files, less those of the outputs.
    pub bytes_reclaimed: u64,
    /// Puts copied.
    pub puts_moved: u64,
    /// Expired values dropped.
    pub expired: u64,
    /// Tombstones kept, because an older value of their key may be in another segment.
    pub tombstones_kept: u64,
    /// Tombstones dropped.
    pub tombstones_dropped: u64,
    /// How long it took.
    pub duration: Duration,
}

impl MergeReport {
    pub(super) fn add(&mut self, other: &Self) {
        self.inputs += other.inputs;
        self.outputs += other.outputs;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.bytes_reclaimed += other.bytes_reclaimed;
        self.puts_moved += other.puts_moved;
        self.expired += other.expired;
        self.tombstones_kept += other.tombstones_kept;
        self.tombstones_dropped += other.tombstones_dropped;
        self.duration += other.duration;
    }
}

/// Totals over all merges, in [`Stats`](crate::Stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeTotals {
    /// Number of completed merges.
    pub merges: u64,
    /// Number of failed merges.
    pub failures: u64,
    /// Bytes of frames that were read.
    pub bytes_read: u64,
    /// Bytes of frames that were written.
    pub bytes_written: u64,
    /// Bytes of removed files, less those of the outputs.
    pub bytes_reclaimed: u64,
    /// Total duration.
    pub time: Duration,
}
