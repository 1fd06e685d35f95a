//! The store's statistics.

use crate::error::Corruption;
use crate::log::LogStats;
use crate::segment::StripedCounter;
use std::time::Duration;

/// Counters since the store was opened, and its current state. In a [`ReadView`](crate::ReadView) the
/// counters are zero.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Number of keys, including expired ones that have not been reclaimed yet.
    pub keys: u64,
    /// Memory that the keydir takes, in bytes.
    pub keydir_bytes: u64,
    /// Bytes of all segment files, preallocated space included.
    pub disk_bytes: u64,
    /// Bytes of live frames: those that hold a key's current value (header, key, value and padding),
    /// and those that merging cannot reclaim.
    pub live_bytes: u64,
    /// Bytes of dead frames: those that merging would not copy, as far as is known.
    pub dead_bytes: u64,
    /// The segments, each by itself.
    pub segments: Vec<SegmentStats>,
    /// Whether full segments take more space than the [space goal](crate::MergePolicy::space_goal)
    /// allows.
    pub space_goal_missed: bool,
    /// Segments that are known to be damaged. Merging leaves each alone until nothing damaged in it is
    /// current any more: see [`Store::delete_damaged`](crate::Store::delete_damaged).
    pub damaged: Vec<DamagedSegment>,
    /// Totals of the merges since the store was opened.
    pub merges: MergeTotals,
    /// Reads that found a value.
    pub hits: u64,
    /// Reads that found no value.
    pub misses: u64,
    /// Puts, including those in batches.
    pub puts: u64,
    /// Deletes of existing keys, and all deletes in batches.
    pub deletes: u64,
    /// Reads that found an expired value (they count as misses too).
    pub expired: u64,
    /// Merged inputs that readers keep mapped.
    pub segments_waiting_for_readers: usize,
    /// How long the oldest of those has been waiting.
    pub longest_reader_wait: Option<Duration>,
    /// Statistics of the log below.
    pub log: LogStats,
}

impl Stats {
    /// The fraction of all frames' bytes that is dead.
    #[must_use]
    pub fn dead_ratio(&self) -> f64 {
        ratio(self.dead_bytes, self.live_bytes)
    }
}

/// A segment of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentStats {
    /// Its id: the number in the name of its file.
    pub id: u32,
    /// Whether a merge wrote it.
    pub merged: bool,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Bytes of its file.
    pub disk_bytes: u64,
    /// Bytes of live frames.
    pub live_bytes: u64,
    /// Bytes of dead frames: those that merging would not copy, as far as is known.
    pub dead_bytes: u64,
}

impl SegmentStats {
    /// The fraction of its frames' bytes that is dead.
    #[must_use]
    pub fn dead_ratio(&self) -> f64 {
        ratio(self.dead_bytes, self.live_bytes)
    }
}

fn ratio(dead: u64, live: u64) -> f64 {
    dead as f64 / (dead + live).max(1) as f64
}

/// A damaged segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedSegment {
    /// Its id: the number in the name of its file.
    pub id: u32,
    /// The first damaged place found.
    pub first: Corruption,
    /// Bytes known to be unreadable.
    pub bytes: u64,
}

/// Totals over all merges.
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

/// Sums of what is counted on the way of reads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: StripedCounter,
    pub(crate) misses: StripedCounter,
    pub(crate) expired: StripedCounter,
}

/// Sums of what is counted on the way of writes.
#[derive(Debug, Default)]
pub(crate) struct WriteCounters {
    pub(crate) puts: StripedCounter,
    pub(crate) deletes: StripedCounter,
}
