//! The log's statistics.
//!
//! Appends cost nothing to count: the walk over the commit words counts them. The counters here change
//! once per segment or once per sync.

use crate::error::ThreadFailure;
use crate::latency::Recorded;
use crate::log::held_up::UnfinishedAppend;
use crate::position::LogPosition;
use crate::segment::holders::HeldSegment;
use crate::sync::{Mutex, lock};
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// Counters since the log was opened, and its current state. In a read-only log the counters are zero.
///
/// ```
/// let log = tailcask::CommitLog::in_memory();
/// log.append_batch(&[b"one", b"two"])?;
/// let stats = log.stats();
/// assert_eq!((stats.entries, stats.batches), (2, 1));
/// println!("{} segments, {} bytes on disk", stats.segments, stats.disk_bytes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LogStats {
    /// Entries committed, including those in batches.
    pub entries: u64,
    /// Batches committed.
    pub batches: u64,
    /// Bytes of committed frames, including headers and padding.
    pub bytes: u64,
    /// Frames abandoned because their closure panicked.
    pub voids: u64,
    /// Times that the log went on to another segment.
    pub rolls: u64,
    /// Segments created.
    pub segments_created: u64,
    /// Segments sealed.
    pub segments_sealed: u64,
    /// Segments dropped from the beginning, by truncation or retention.
    pub segments_truncated: u64,
    /// Times that a writer found a full segment and no standby.
    pub standby_waits: u64,
    /// Total time that those writers waited.
    pub standby_wait_time: Duration,
    /// Duration of appends, in nanoseconds, of those that were
    /// [measured](crate::LogOptions::latency_sampling): to 3 %.
    pub append_latency: Distribution,
    /// Duration of syncs, in nanoseconds.
    pub sync_latency: Distribution,
    /// Number of callers that a sync served; syncs without callers are not counted.
    pub group_sizes: Distribution,
    /// Number of failed syncs.
    pub sync_failures: u64,
    /// The first background thread that failed, if one did; since then writes are refused.
    pub failed_thread: Option<ThreadFailure>,
    /// Where the log begins.
    pub begin: LogPosition,
    /// The end of what is reserved.
    pub tail: LogPosition,
    /// The end of the contiguous committed part.
    pub committed: LogPosition,
    /// The end of what is known to be durable.
    pub durable: LogPosition,
    /// The oldest unfinished append, if there is one.
    pub oldest_unfinished: Option<LogPosition>,
    /// The same, and how long it has been known, and what waits for it. `None` in a read-only log.
    pub unfinished: Option<UnfinishedAppend>,
    /// Number of segments.
    pub segments: usize,
    /// The segments, each by itself, in the order of their ids: those of the log, the standby that is to
    /// follow them, and in the log of a store those that merges wrote.
    pub segment_list: Vec<LogSegment>,
    /// The length of their files in bytes. Preallocated space counts, and so does the space that
    /// sealing has released.
    pub disk_bytes: u64,
    /// Truncated segments that readers keep mapped.
    pub segments_waiting_for_readers: usize,
    /// How long the oldest of those has been waiting.
    pub longest_reader_wait: Option<Duration>,
    /// Which of them something that was read keeps, the one that was removed first in front. In the log of
    /// a store also those that merges removed.
    pub held_segments: Vec<HeldSegment>,
}

/// A segment, as [`LogStats`] lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogSegment {
    /// Its id: the number in the name of its file.
    pub id: u32,
    /// Where its frames begin. A log that is truncated before this position begins here.
    pub begin: LogPosition,
    /// Where its frames end, by now.
    pub end: LogPosition,
    /// The length of its file in bytes.
    pub file_bytes: u64,
    /// Whether it is complete and durable, and never written to again.
    pub sealed: bool,
    /// When it was sealed, by the wall clock: everything in it is older. `None` if it is not sealed, or
    /// was sealed by a version that did not record the time (0.1.0).
    pub sealed_at: Option<SystemTime>,
    /// Whether a merge wrote it.
    pub merged: bool,
}

/// What [`CommitLog::retain`](crate::CommitLog::retain) dropped; see [`Retention`](crate::Retention) for an
/// example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TruncateReport {
    /// Where the log begins now.
    pub begin: LogPosition,
    /// Segments dropped.
    pub segments: u64,
    /// The length of their files in bytes.
    pub bytes: u64,
}

/// A distribution of values in [`LogStats`] or [`Stats`](crate::Stats), to three significant digits unless it is
/// said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Distribution {
    /// Number of values.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p999: u64,
    /// The largest value.
    pub max: u64,
}

impl From<&Recorded> for Distribution {
    fn from(recorded: &Recorded) -> Self {
        Self {
            count: recorded.count(),
            p50: recorded.quantile(0.5),
            p99: recorded.quantile(0.99),
            p999: recorded.quantile(0.999),
            max: recorded.max,
        }
    }
}

impl Distribution {
    fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

#[derive(Debug)]
struct Syncs {
    nanoseconds: Histogram<u64>,
    groups: Histogram<u64>,
}

#[derive(Debug)]
pub(crate) struct LogCounters {
    created: AtomicU64,
    sealed: AtomicU64,
    truncated: AtomicU64,
    waits: AtomicU64,
    wait_nanoseconds: AtomicU64,
    failures: AtomicU64,
    syncs: Mutex<Syncs>,
}

impl Default for LogCounters {
    fn default() -> Self {
        let histogram = || Histogram::new(3).expect("three digits are allowed");
        Self {
            created: AtomicU64::new(1),
            sealed: AtomicU64::new(0),
            truncated: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            wait_nanoseconds: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            syncs: Mutex::new(Syncs { nanoseconds: histogram(), groups: histogram() }),
        }
    }
}

// ORDERING: Relaxed throughout; counters order nothing.
impl LogCounters {
    pub(crate) fn created_segment(&self) {
        self.created.fetch_add(1, Relaxed);
    }

    pub(crate) fn sealed_segment(&self) {
        self.sealed.fetch_add(1, Relaxed);
    }

    pub(crate) fn truncated_segments(&self, segments: u64) {
        self.truncated.fetch_add(segments, Relaxed);
    }

    pub(crate) fn waited_for_standby(&self, time: Duration) {
        self.waits.fetch_add(1, Relaxed);
        self.wait_nanoseconds.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    pub(crate) fn sync_failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub(crate) fn synced(&self, time: Duration, group: usize) {
        let mut syncs = lock(&self.syncs);
        // They grow as needed, up to any u64, so nothing is refused.
        let _ = syncs.nanoseconds.record(time.as_nanos() as u64);
        if group > 0 {
            let _ = syncs.groups.record(group as u64);
        }
    }

    pub(crate) fn read(&self, stats: &mut LogStats) {
        stats.segments_created = self.created.load(Relaxed);
        stats.segments_sealed = self.sealed.load(Relaxed);
        stats.segments_truncated = self.truncated.load(Relaxed);
        stats.standby_waits = self.waits.load(Relaxed);
        stats.standby_wait_time = Duration::from_nanos(self.wait_nanoseconds.load(Relaxed));
        stats.sync_failures = self.failures.load(Relaxed);
        let syncs = lock(&self.syncs);
        stats.sync_latency = Distribution::of(&syncs.nanoseconds);
        stats.group_sizes = Distribution::of(&syncs.groups);
    }
}
