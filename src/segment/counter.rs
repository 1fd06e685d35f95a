//! A counter spread over several cache lines, so that the threads that add to it do not contend for
//! one. Counts a segment's dead bytes.

use super::pins::stripe;
use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const STRIPES: usize = 4;

/// A sum that many threads add to.
#[derive(Debug, Default)]
pub(crate) struct StripedCounter([CachePadded<AtomicU64>; STRIPES]);

// ORDERING: Relaxed throughout; sums order nothing.
impl StripedCounter {
    pub(crate) fn add(&self, amount: u64) {
        self.0[stripe() % STRIPES].fetch_add(amount, Relaxed);
    }

    /// Only while no thread adds to it.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|stripe| stripe.store(0, Relaxed));
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.load(Relaxed)).fold(0, u64::wrapping_add)
    }
}
