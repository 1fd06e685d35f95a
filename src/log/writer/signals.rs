//! How a log and its background threads communicate: wake-ups, the request to stop, and failures.
//!
//! The threads themselves are started and joined elsewhere (`log/maintenance`).

use crate::error::ThreadFailure;
use crate::sync::{AtomicBool, AtomicU8, Ordering, Thread};
use std::sync::OnceLock;

/// Where a test can make a background thread panic. With the feature `testing`.
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub, reason = "public with the feature"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum FailPoint {
    /// In the thread that keeps a standby ready.
    Standby = 1,
    /// In the thread that syncs.
    Sync,
    /// In that thread, while it leads a sync.
    Lead,
    /// In the store's thread.
    Merge,
}

#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// The thread that prepares standbys and the one that syncs, once both run.
    threads: OnceLock<[Thread; 2]>,
    stop: AtomicBool,
    /// The first thread that failed.
    failure: OnceLock<ThreadFailure>,
    /// Set if the thread that syncs failed.
    sync_failure: OnceLock<ThreadFailure>,
    /// A `FailPoint` that has not been reached yet, or 0.
    fail_point: AtomicU8,
}

impl Signals {
    /// Registers the threads to wake.
    pub(crate) fn attach(&self, standby: Thread, sync: Thread) {
        self.threads.get_or_init(|| [standby, sync]);
    }

    /// The standby is used up.
    pub(crate) fn wake_standby(&self) {
        self.threads.get().into_iter().for_each(|[standby, _]| standby.unpark());
    }

    /// There is work for the thread that syncs, seals and unmaps.
    pub(crate) fn wake_sync(&self) {
        self.threads.get().into_iter().for_each(|[_, sync]| sync.unpark());
    }

    /// Whether the log has background threads.
    pub(crate) fn is_running(&self) -> bool {
        self.threads.get().is_some()
    }

    /// Records a failure: the first of all, and the first of the thread that syncs.
    pub(crate) fn note_failure(&self, failure: ThreadFailure, syncs: bool) {
        if syncs {
            self.sync_failure.get_or_init(|| failure.clone());
        }
        self.failure.get_or_init(|| failure);
    }

    /// The first thread that failed.
    pub(crate) fn failure(&self) -> Option<&ThreadFailure> {
        self.failure.get()
    }

    /// How the thread that syncs failed.
    pub(crate) fn sync_failure(&self) -> Option<&ThreadFailure> {
        self.sync_failure.get()
    }

    /// Asks the threads to stop.
    pub(crate) fn stop(&self) {
        // ORDERING: Release; pairs with the Acquire load in `stopped`.
        self.stop.store(true, Ordering::Release);
        self.wake_standby();
        self.wake_sync();
    }

    pub(crate) fn stopped(&self) -> bool {
        // ORDERING: Acquire; pairs with the Release store in `stop`.
        self.stop.load(Ordering::Acquire)
    }

    /// Makes a thread panic at this point.
    #[cfg(feature = "testing")]
    pub(crate) fn fail_at(&self, point: FailPoint) {
        // ORDERING: Relaxed; a test's own.
        self.fail_point.store(point as u8, Ordering::Relaxed);
        self.wake_standby();
        self.wake_sync();
    }

    /// Panics if a test wants it to.
    pub(crate) fn fail_point(&self, point: FailPoint) {
        // ORDERING: Relaxed, all; a test's own.
        let (point, order) = (point as u8, Ordering::Relaxed);
        if self.fail_point.load(order) == point
            && self.fail_point.compare_exchange(point, 0, order, order).is_ok()
        {
            panic!("on purpose");
        }
    }
}
