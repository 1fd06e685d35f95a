//! Pins: the number of readers in a segment, which stays mapped while there are any.
//!
//! The count is spread over several cache lines, so that reading threads do not contend for one.

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
/// [`is_free`](Self::is_free) has returned true after that, no thread reads the memory, then or later.
/// Bit and count share a word, so a pin and a retirement are always ordered.
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
        // ORDERING: Relaxed. This add and the one in `retire` change the same word, so one of them
        // comes first. If this one does, `is_free` sees the count. If `retire` does, the pin is
        // refused, and nothing read from the segment is used. The processor may read from the segment
        // before this add; that read is still inside the caller's epoch, in which the segment stays
        // mapped, and `unpin` (Release) puts it before the unmap. What the bytes hold was published by
        // the commit words.
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

    /// Refuses all pins from now on.
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
