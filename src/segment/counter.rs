//! A counter spread over several cache lines, so that the threads that add to it do not contend for
//! one. Counts a segment's dead bytes.

use super::pins::thread_number;
use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A sum that many threads add to, over `N` cache lines: there are few of them in each segment, and more
/// in what a store has once.
#[derive(Debug)]
pub(crate) struct StripedCounter<const N: usize = 4>([CachePadded<AtomicU64>; N]);

impl<const N: usize> Default for StripedCounter<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| CachePadded::default()))
    }
}

// ORDERING: Relaxed throughout; sums order nothing.
impl<const N: usize> StripedCounter<N> {
    #[inline]
    pub(crate) fn add(&self, amount: u64) {
        self.0[thread_number() % N].fetch_add(amount, Relaxed);
    }

    /// Only while no thread adds to it.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|stripe| stripe.store(0, Relaxed));
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.load(Relaxed)).fold(0, u64::wrapping_add)
    }
}
