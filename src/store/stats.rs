//! What a store counts.

use crate::error::Corruption;
use crate::log::LogStats;
use crate::segment::StripedCounter;
use std::time::Duration;

/// What a store did since it was opened, and where it stands.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Keys, expired ones included that nothing has reclaimed yet.
    pub keys: u64,
    /// Bytes of memory that the keydir takes.
    pub keydir_bytes: u64,
    /// Bytes of segment files.
    pub disk_bytes: u64,
    /// Bytes of frames in full segments and the active one that hold a key's value.
    pub live_bytes: u64,
    /// Bytes of frames that merging would not keep, as far as is known.
    pub dead_bytes: u64,
    /// Each segment.
    pub segments: Vec<SegmentStats>,
    /// Whether full segments take more than the [space goal](crate::MergePolicy::space_goal).
    pub space_goal_missed: bool,
    /// Segments that are damaged, as far as is known. Merging leaves them alone until what is damaged
    /// is needed no more: see [`Store::delete_damaged`](crate::Store::delete_damaged).
    pub damaged: Vec<DamagedSegment>,
    /// Merges since the store was opened.
    pub merges: MergeTotals,
    /// Values that were read, and keys that were looked up and there.
    pub hits: u64,
    /// Keys that were looked up and not there.
    pub misses: u64,
    /// Puts, those in batches included.
    pub puts: u64,
    /// Deletes of keys that were there, and all in batches.
    pub deletes: u64,
    /// Lookups that found a value that had expired (they count as misses, too).
    pub expired: u64,
    /// Segments that were merged away and wait for a reader to let go.
    pub segments_waiting_for_readers: usize,
    /// How long the one that waits longest has waited.
    pub longest_reader_wait: Option<Duration>,
    /// The log below.
    pub log: LogStats,
}

impl Stats {
    /// The part of the bytes of all frames that is dead.
    #[must_use]
    pub fn dead_ratio(&self) -> f64 {
        ratio(self.dead_bytes, self.live_bytes)
    }
}

/// A segment of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentStats {
    /// The number in the name of its file.
    pub id: u32,
    /// Whether a merge made it.
    pub merged: bool,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Bytes that its file takes.
    pub disk_bytes: u64,
    /// Bytes of frames that hold a key's value.
    pub live_bytes: u64,
    /// Bytes of frames that merging would not keep, as far as is known.
    pub dead_bytes: u64,
}

impl SegmentStats {
    /// The part of the bytes of its frames that is dead.
    #[must_use]
    pub fn dead_ratio(&self) -> f64 {
        ratio(self.dead_bytes, self.live_bytes)
    }
}

fn ratio(dead: u64, live: u64) -> f64 {
    dead as f64 / (dead + live).max(1) as f64
}

/// A segment with damage in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedSegment {
    /// The number in the name of its file.
    pub id: u32,
    /// The first damaged place that was met.
    pub first: Corruption,
    /// Bytes that cannot be read, as far as is known.
    pub bytes: u64,
}

/// All merges together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeTotals {
    /// Merges that were finished.
    pub merges: u64,
    /// Merges that failed.
    pub failures: u64,
    /// Bytes of frames that were read.
    pub bytes_read: u64,
    /// Bytes of frames that were written.
    pub bytes_written: u64,
    /// Bytes of files that they gave back, those of their outputs taken off.
    pub bytes_reclaimed: u64,
    /// How long they took.
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
