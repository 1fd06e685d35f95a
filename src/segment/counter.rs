//! How much of a segment is dead, counted so that many threads do not meet on one cache line.

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

    /// Only where nobody adds to it.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|stripe| stripe.store(0, Relaxed));
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.load(Relaxed)).fold(0, u64::wrapping_add)
    }
}
