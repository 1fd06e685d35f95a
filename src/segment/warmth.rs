//! Whether a segment is taken to be in memory. What that means is in [`super::cold`].

use crate::sync::{AtomicBool, Ordering};

/// What a segment is taken for.
#[derive(Debug)]
pub(crate) struct Warmth {
    cold: AtomicBool,
    scattered: AtomicBool,
}

impl Warmth {
    /// That of a segment that was found on opening, or was just made.
    pub(super) const fn new(was_found: bool) -> Self {
        Self { cold: AtomicBool::new(was_found), scattered: AtomicBool::new(false) }
    }

    #[inline]
    pub(super) fn is_cold(&self) -> bool {
        // ORDERING: Relaxed; advice: a thread that misses a change waits longer, or under a lock.
        self.cold.load(Ordering::Relaxed)
    }

    pub(super) fn set_cold(&self, cold: bool) {
        // ORDERING: Relaxed; as above.
        self.cold.store(cold, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn is_scattered(&self) -> bool {
        // ORDERING: Relaxed; as above.
        self.scattered.load(Ordering::Relaxed)
    }

    pub(super) fn set_scattered(&self, scattered: bool) {
        // ORDERING: Relaxed; as above.
        self.scattered.store(scattered, Ordering::Relaxed);
    }
}
