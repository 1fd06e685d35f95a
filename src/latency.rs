//! How long operations take: histograms that many threads record to.
//!
//! Off by default, since two looks at the clock take longer than some operations. While off, an operation
//! tests one byte. While on, each thread times one operation in so many, at random, and adds to a histogram
//! of its own stripe. Syncs and merges are rare and long, and are timed always.

use crate::segment::thread_number;
use crate::sync::{Mutex, lock};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    GetMany,
    Put,
    Delete,
    Update,
    Batch,
    Append,
    Sync,
    Merge,
}

impl Operation {
    pub(crate) const ALL: [Self; 9] = [
        Self::Get,
        Self::GetMany,
        Self::Put,
        Self::Delete,
        Self::Update,
        Self::Batch,
        Self::Append,
        Self::Sync,
        Self::Merge,
    ];
}

/// Times operations, if it is on. A clone records to the same histograms.
#[derive(Clone, Debug)]
pub(crate) struct Timer {
    /// Here and not in `all`, so that looking at it touches no other line.
    on: bool,
    all: Arc<Latencies>,
}

#[derive(Debug)]
struct Latencies {
    /// One operation in so many is timed.
    every: u32,
    histograms: [Histogram; Operation::ALL.len()],
}

impl Timer {
    /// Times one operation in `every`; 0: none.
    pub(crate) fn new(every: u32) -> Self {
        let all = Latencies { every, histograms: Default::default() };
        Self { on: every > 0, all: Arc::new(all) }
    }

    pub(crate) const fn is_on(&self) -> bool {
        self.on
    }

    #[inline(always)]
    pub(crate) fn time<R>(&self, operation: Operation, run: impl FnOnce() -> R) -> R {
        if self.on { self.time_sampled(operation, run) } else { run() }
    }

    #[cold]
    #[inline(never)]
    fn time_sampled<R>(&self, operation: Operation, run: impl FnOnce() -> R) -> R {
        if !is_chosen(self.all.every) {
            return run();
        }
        let started = Instant::now();
        let result = run();
        self.record(operation, started.elapsed());
        result
    }

    /// Records a time, whether it is on or not.
    pub(crate) fn record(&self, operation: Operation, time: Duration) {
        self.histogram(operation).add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What was recorded so far, in nanoseconds.
    pub(crate) fn latencies(&self, operation: Operation) -> Recorded {
        self.histogram(operation).recorded()
    }

    /// Calls `each` with every value, in nanoseconds, that was recorded since the last call for this
    /// operation, and with how often.
    #[cfg_attr(not(any(test, feature = "metrics")), allow(dead_code))]
    pub(crate) fn publish(&self, operation: Operation, each: impl FnMut(u64, u64)) {
        self.histogram(operation).publish(each);
    }

    fn histogram(&self, operation: Operation) -> &Histogram {
        &self.all.histograms[operation as usize]
    }
}

/// Whether this operation of this thread is one that is timed: on average one in `every`, at distances that
/// follow no pattern, since a program's operations may.
fn is_chosen(every: u32) -> bool {
    // How many are left out before the next, and the state of a generator (xorshift).
    thread_local!(static NEXT: Cell<(u32, u32)> = const { Cell::new((0, 0x9e37_79b9)) });
    let (left, mut random) = NEXT.get();
    if left > 0 {
        NEXT.set((left - 1, random));
        return false;
    }
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    // From 0 to twice the mean distance.
    let choices = u64::from(every - 1) * 2 + 1;
    NEXT.set((((u64::from(random) * choices) >> 32) as u32, random));
    true
}

/// Parts that a power of two is divided into: a value is known to a 32nd.
const PARTS: usize = 1 << PART_BITS;
const PART_BITS: u32 = 5;
/// Values of 2^42 ns (73 minutes) and more are in the last bucket.
const BUCKETS: usize = (42 - PART_BITS as usize + 1) * PARTS;
/// Threads that record at the same time seldom share one.
const STRIPES: usize = 8;

#[derive(Debug, Default)]
struct Histogram {
    /// Made when a thread first records to it.
    stripes: [OnceLock<Box<Buckets>>; STRIPES],
    /// What was published of each bucket.
    published: Mutex<Vec<u64>>,
}

#[derive(Debug)]
struct Buckets {
    counts: [AtomicU64; BUCKETS],
    max: AtomicU64,
}

// ORDERING: Relaxed throughout; counts order nothing.
impl Histogram {
    fn add(&self, value: u64) {
        let buckets = self.stripes[thread_number() % STRIPES].get_or_init(|| {
            let counts = std::array::from_fn(|_| AtomicU64::new(0));
            Box::new(Buckets { counts, max: AtomicU64::new(0) })
        });
        buckets.counts[bucket_of(value)].fetch_add(1, Relaxed);
        if buckets.max.load(Relaxed) < value {
            buckets.max.fetch_max(value, Relaxed);
        }
    }

    fn recorded(&self) -> Recorded {
        let mut all = Recorded { counts: vec![0; BUCKETS], max: 0 };
        for stripe in self.stripes.iter().filter_map(OnceLock::get) {
            for (sum, count) in all.counts.iter_mut().zip(&stripe.counts) {
                *sum += count.load(Relaxed);
            }
            all.max = all.max.max(stripe.max.load(Relaxed));
        }
        all
    }

    fn publish(&self, mut each: impl FnMut(u64, u64)) {
        let mut published = lock(&self.published);
        let now = self.recorded().counts;
        published.resize(BUCKETS, 0);
        for (bucket, (&now, before)) in now.iter().zip(&*published).enumerate() {
            if now > *before {
                each(middle_of(bucket), now - before);
            }
        }
        *published = now;
    }
}

/// What a histogram holds.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    counts: Vec<u64>,
    pub(crate) max: u64,
}

impl Recorded {
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The value that so large a part of all is not above, to a 32nd.
    pub(crate) fn quantile(&self, part: f64) -> u64 {
        let wanted = (self.count() as f64 * part).ceil() as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            *count > 0 && seen >= wanted
        });
        match bucket {
            None => 0,
            // What is above the last one is in it, too.
            Some(bucket) if bucket == BUCKETS - 1 => self.max,
            Some(bucket) => (first_of(bucket + 1) - 1).min(self.max),
        }
    }
}

/// Values below `PARTS` have a bucket each; then each power of two is divided into `PARTS`.
fn bucket_of(value: u64) -> usize {
    let shift = value.max(PARTS as u64).ilog2() - PART_BITS;
    let bucket = shift as usize * PARTS + (value >> shift) as usize;
    bucket.min(BUCKETS - 1)
}

/// The least value of a bucket.
fn first_of(bucket: usize) -> u64 {
    let shift = (bucket / PARTS).saturating_sub(1);
    ((bucket - shift * PARTS) as u64) << shift
}

fn middle_of(bucket: usize) -> u64 {
    first_of(bucket).midpoint(first_of(bucket + 1) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        assert_eq!(first_of(0), 0);
        for bucket in 0..BUCKETS - 1 {
            let (first, next) = (first_of(bucket), first_of(bucket + 1));
            assert!(first < next);
            assert_eq!((bucket_of(first), bucket_of(next - 1)), (bucket, bucket));
            assert!(next - first == 1 || (next - first) * PARTS as u64 <= first);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(first_of(BUCKETS), 1 << 42);
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_values(mut values in prop::collection::vec(0u64..1 << 41, 1..300)) {
            let timer = Timer::new(1);
            values.iter().for_each(|&value| timer.record(Operation::Get, Duration::from_nanos(value)));
            values.sort_unstable();
            let recorded = timer.latencies(Operation::Get);
            prop_assert_eq!(recorded.count(), values.len() as u64);
            prop_assert_eq!(recorded.max, values[values.len() - 1]);
            for part in [0.5, 0.99, 0.999, 1.0] {
                let exact = values[(values.len() as f64 * part).ceil() as usize - 1];
                let found = recorded.quantile(part);
                prop_assert!(found >= exact && found - exact <= exact / PARTS as u64, "{} {}", found, exact);
            }
            let mut published = 0;
            timer.publish(Operation::Get, |value, count| {
                let near = |&&exact: &&u64| value.abs_diff(exact) <= exact / PARTS as u64;
                assert!(values.iter().filter(near).count() as u64 >= count);
                published += count;
            });
            prop_assert_eq!(published, values.len() as u64);
            timer.publish(Operation::Get, |_, _| panic!("nothing is published twice"));
        }
    }

    #[test]
    fn all_threads_are_counted() {
        let timer = Timer::new(1);
        std::thread::scope(|scope| {
            for _ in 0..2 * STRIPES {
                scope.spawn(|| (0..1000).for_each(|_| timer.time(Operation::Put, || {})));
            }
        });
        assert_eq!(timer.latencies(Operation::Put).count(), 2 * STRIPES as u64 * 1000);
        assert_eq!(timer.latencies(Operation::Get).count(), 0);
    }

    #[test]
    fn one_in_so_many_is_timed_whatever_the_pattern() {
        let timer = Timer::new(10);
        for _ in 0..10_000 {
            timer.time(Operation::Get, || {});
            timer.time(Operation::Put, || {});
        }
        for operation in [Operation::Get, Operation::Put] {
            let count = timer.latencies(operation).count();
            assert!((500..2000).contains(&count), "{operation:?}: {count}");
        }
        let off = Timer::new(0);
        off.time(Operation::Get, || {});
        assert_eq!(off.latencies(Operation::Get).count(), 0);
    }
}
