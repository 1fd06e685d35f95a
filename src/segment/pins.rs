//! Who is reading in a segment, counted so that many threads do not meet on one cache line.

use crate::sync::{AtomicU64, Ordering};
use crossbeam_utils::CachePadded;

const STRIPES: usize = 4;
const RETIRED: u64 = 1 << 63;

/// Which counter a pin is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stripe(usize);

/// Counts of readers, with a bit that turns new ones away.
///
/// Invariant: once [`retire`](Self::retire) has returned, no pin is taken; so once
/// [`is_free`](Self::is_free) has then returned true, nobody reads the memory and nobody will.
/// Bit and count share a word, so that which came first is never in doubt.
#[derive(Debug)]
pub(crate) struct Pins([CachePadded<AtomicU64>; STRIPES]);

impl Default for Pins {
    fn default() -> Self {
        Self(std::array::from_fn(|_| CachePadded::new(AtomicU64::new(0))))
    }
}

impl Pins {
    /// Takes a pin, unless the segment is retired.
    pub(crate) fn pin(&self) -> Option<Stripe> {
        let stripe = stripe();
        // ORDERING: Relaxed; the word alone decides, and what is read afterwards was published
        // by the commit words. It cannot be read before: the branch below depends on it.
        if self.0[stripe].fetch_add(1, Ordering::Relaxed) & RETIRED == 0 {
            return Some(Stripe(stripe));
        }
        // ORDERING: Relaxed; nothing was read.
        self.0[stripe].fetch_sub(1, Ordering::Relaxed);
        None
    }

    pub(crate) fn unpin(&self, stripe: Stripe) {
        // ORDERING: Release; pairs with the Acquire load in `is_free`: reads come before unmap.
        self.0[stripe.0].fetch_sub(1, Ordering::Release);
    }

    /// Turns new pins away from now on.
    pub(crate) fn retire(&self) {
        for stripe in &self.0 {
            // ORDERING: Relaxed; see `pin`.
            stripe.fetch_or(RETIRED, Ordering::Relaxed);
        }
    }

    /// Whether a retired segment has no reader left.
    pub(crate) fn is_free(&self) -> bool {
        // ORDERING: Acquire; pairs with the Release in `unpin`.
        self.0.iter().all(|stripe| stripe.load(Ordering::Acquire) == RETIRED)
    }
}

#[cfg(not(tailcask_loom))]
pub(super) fn stripe() -> usize {
    use std::sync::atomic::AtomicUsize;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // ORDERING: Relaxed; any number will do.
    thread_local!(static MINE: usize = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    MINE.with(|mine| *mine) % STRIPES
}

#[cfg(tailcask_loom)]
pub(super) fn stripe() -> usize {
    0
}
