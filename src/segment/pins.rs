//! Pins: the number of readers in a segment, which stays mapped while there are any.
//!
//! The count is spread over several cache lines, so that reading threads do not contend for one.

#![allow(unsafe_code, reason = "a pin that is given back twice would unmap memory that is read")]

use crate::sync::{AtomicU64, Ordering};
use crossbeam_utils::CachePadded;

/// So many threads have a cache line of each segment to themselves; more share them. (In a model each
/// line is a state more.)
const STRIPES: usize = if cfg!(tailcask_loom) { 4 } else { 16 };
const RETIRED: u64 = 1 << 63;

/// Which of the counters a pin is in.
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
    #[inline]
    pub(crate) fn pin(&self) -> Option<Stripe> {
        self.pin_many(1)
    }

    /// Takes this many pins at once, each of which is released by itself.
    #[inline]
    pub(crate) fn pin_many(&self, count: u64) -> Option<Stripe> {
        let stripe = thread_number() % STRIPES;
        // ORDERING: Relaxed. This add and the `fetch_or` in `retire` change the same word, so one of them
        // comes first. If this one does, `is_free` sees the count until `unpin`. If `retire` does, the
        // pin is refused, and nothing read from the segment is used. The processor may read from the
        // segment before this add (a branch orders no loads); that read is still inside the caller's
        // epoch, in which the segment stays mapped. `unpin` (Release) puts all reads before the unmap.
        // What the bytes hold was published by the commit words.
        if self.0[stripe].fetch_add(count, Ordering::Relaxed) & RETIRED == 0 {
            return Some(Stripe(stripe));
        }
        // ORDERING: Relaxed; nothing was read.
        self.0[stripe].fetch_sub(count, Ordering::Relaxed);
        None
    }

    /// Releases a pin.
    ///
    /// # Safety
    /// The stripe is that of a pin of this segment that was not released before, and the caller reads
    /// nothing of the segment from now on.
    pub(crate) unsafe fn unpin(&self, stripe: Stripe) {
        // ORDERING: Release; pairs with the Acquire load in `is_free`: a thread that sees that the count is 0
        // and unmaps does so after all reads under this pin.
        self.0[stripe.0].fetch_sub(1, Ordering::Release);
    }

    /// Refuses all pins from now on.
    pub(crate) fn retire(&self) {
        for stripe in &self.0 {
            // ORDERING: Relaxed; as in `pin_many`: the order of the two in one word decides.
            stripe.fetch_or(RETIRED, Ordering::Relaxed);
        }
    }

    /// How many pins there are.
    pub(crate) fn count(&self) -> u64 {
        // ORDERING: Relaxed; a number to be shown, of which no memory depends.
        self.0.iter().map(|stripe| stripe.load(Ordering::Relaxed) & !RETIRED).sum()
    }

    /// Whether a retired segment has no reader left.
    pub(crate) fn is_free(&self) -> bool {
        // ORDERING: Acquire; pairs with the Release in `unpin`: the reads of all who gave their pins back
        // come before what the caller does next, which is to unmap.
        self.0.iter().all(|stripe| stripe.load(Ordering::Acquire) == RETIRED)
    }
}

/// The number of the calling thread, in the order in which threads first asked for it.
#[cfg(not(tailcask_loom))]
pub(crate) fn thread_number() -> usize {
    use crate::sync::thread_local;
    use std::sync::atomic::AtomicUsize;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // ORDERING: Relaxed; any number will do.
    thread_local!(static MINE: usize = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    MINE.with(|mine| *mine)
}

#[cfg(tailcask_loom)]
pub(crate) fn thread_number() -> usize {
    0
}
