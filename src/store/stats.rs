//! The store's statistics.

use super::inner::StoreInner;
use super::merge::report::MergeTotals;
use crate::error::Corruption;
use crate::format::header::FIRST_FRAME;
use crate::latency::{Operation, Timer};
use crate::log::{Distribution, LogStats};
use crate::segment::Segment;
use crate::segment::holders::HeldSegment;
use crate::segment::set::SegmentSet;
use crate::sync::lock;
use std::time::Duration;

/// Pages that are asked about for the share of those in memory: some 50 us.
const PAGES_OF_A_SAMPLE: u64 = 128;

/// Counters since the store was opened, and its current state. In a [`ReadView`](crate::ReadView) the
/// counters are zero.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let store = tailcask::Store::open(dir.path().join("store"))?;
/// store.put("colour", "green")?;
/// store.get("colour")?;
/// let stats = store.stats();
/// assert_eq!((stats.keys, stats.puts, stats.hits), (1, 1, 1));
/// println!("{} bytes of memory, {:.0} % dead", stats.keydir_bytes, stats.dead_ratio() * 100.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Number of keys, including expired ones that have not been reclaimed yet.
    pub keys: u64,
    /// Memory that the keydir takes, in bytes.
    pub keydir_bytes: u64,
    /// Bytes that the segments take on disk: the used part of sealed ones, the full size of the others.
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
    /// What of the store is expected to fit into memory, and is there.
    pub cache: CacheStats,
    /// How long operations take, of those that were measured.
    pub latency: LatencyStats,
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
    /// Which of them something that was read keeps, the one that was removed first in front. In a
    /// [`ReadView`](crate::ReadView): those that it shows and the store has removed, until it is
    /// [refreshed](crate::ReadView::refresh).
    pub held_segments: Vec<HeldSegment>,
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

impl Stats {
    pub(super) fn add_segment(&mut self, segment: &Segment, used: u64, dead: u64) {
        let stat = SegmentStats {
            id: segment.id(),
            merged: segment.header.merged,
            sealed: segment.is_sealed(),
            disk_bytes: segment.disk_bytes(),
            live_bytes: used - dead,
            dead_bytes: dead,
        };
        self.disk_bytes += stat.disk_bytes;
        self.live_bytes += stat.live_bytes;
        self.dead_bytes += stat.dead_bytes;
        self.segments.push(stat);
    }
}

/// The [cache budget](crate::StoreOptions::cache_budget), and what is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CacheStats {
    /// The budget in bytes.
    pub budget: u64,
    /// Whether the full segments are larger than the budget, or were until shortly below it.
    pub is_exceeded: bool,
    /// The share of their pages that are in memory, from a sample. `None` if there are none, or the
    /// system does not tell.
    pub resident: Option<f64>,
}

impl CacheStats {
    pub(super) fn of(segments: &SegmentSet) -> Self {
        let cache = &segments.cache;
        let (budget, is_exceeded) = (cache.bytes(), cache.is_exceeded());
        Self { budget, is_exceeded, resident: segments.resident(PAGES_OF_A_SAMPLE) }
    }
}

/// How long operations on a store take, in nanoseconds, to 3 %. They are measured if
/// [`latency_sampling`](crate::StoreOptions::latency_sampling) says so; merges always are. (For syncs see
/// [`LogStats::sync_latency`].)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatencyStats {
    /// `get` and `get_with`, until the value is found; the closure of `get_with` counts.
    pub get: Distribution,
    /// `get_many` and `get_many_with`: all keys of a call.
    pub get_many: Distribution,
    /// `put` and `put_with`, until the write counts as done.
    pub put: Distribution,
    /// `delete` and `delete_damaged`.
    pub delete: Distribution,
    /// Writes that depend on the current value, whether they wrote anything or not.
    pub update: Distribution,
    /// `write`: all writes of a batch.
    pub batch: Distribution,
    /// Merges: runs of some segments each.
    pub merge: Distribution,
}

impl LatencyStats {
    fn of(timer: &Timer) -> Self {
        let of = |operation| (&timer.latencies(operation)).into();
        Self {
            get: of(Operation::Get),
            get_many: of(Operation::GetMany),
            put: of(Operation::Put),
            delete: of(Operation::Delete),
            update: of(Operation::Update),
            batch: of(Operation::Batch),
            merge: of(Operation::Merge),
        }
    }
}

/// A segment of a store, as [`Stats`] lists it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentStats {
    /// Its id: the number in the name of its file.
    pub id: u32,
    /// Whether a merge wrote it.
    pub merged: bool,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Bytes that it takes on disk.
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

/// A damaged segment, as [`Stats`] lists it.
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

impl StoreInner {
    /// The figures of the store, without those of its log.
    pub(super) fn stats(&self) -> Stats {
        let (counters, writes) = (&self.counters, &self.writes);
        let (waiting, since) = self.table.waiting();
        let mut stats = Stats {
            keys: self.keydir.len(),
            keydir_bytes: self.keydir.memory(),
            cache: CacheStats::of(&self.table),
            latency: LatencyStats::of(&self.timer),
            merges: *lock(&self.totals),
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            puts: writes.puts.get(),
            deletes: writes.deletes.get(),
            expired: counters.expired.get(),
            segments_waiting_for_readers: waiting,
            longest_reader_wait: since.map(|since| since.elapsed()),
            held_segments: self.table.held(),
            ..Stats::default()
        };
        let damaged = lock(&self.damaged).clone();
        stats.damaged = damaged
            .into_iter()
            .map(|(id, damaged)| DamagedSegment { id, first: damaged.first, bytes: damaged.bytes })
            .collect();
        let full = self.candidates();
        let usages: Vec<_> = full.iter().map(|candidate| candidate.usage).collect();
        stats.space_goal_missed = self.policy.misses_goal(&usages, self.table.cache.aim());
        let tail = self.writer.tail();
        for segment in self.table.segments() {
            // In the order of their ids, as those of the set are.
            let known = usages.binary_search_by_key(&segment.id(), |usage| usage.id);
            let known = known.ok().map(|at| usages[at]);
            let used = match known {
                Some(usage) => usage.used,
                // Sealed, once the log is closed.
                None if segment.id() == tail.segment() => {
                    segment.end().min(tail.offset().into()) - FIRST_FRAME
                }
                None => 0,
            };
            let dead = known.map_or_else(|| segment.dead.get().min(used), |usage| usage.dead);
            stats.add_segment(&segment, used, dead);
        }
        stats
    }
}
