//! How fast a merge runs, and when it ends early.

use crate::error::MergeError;
use crate::store::inner::StoreInner;
use crate::sync::thread;
use std::time::{Duration, Instant};

/// The speed of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Full speed.
    Full,
    /// Limited by the policy.
    Policy { goal_missed: bool },
}

/// Bytes between two readings of the clock.
const STRIDE: u64 = 256 << 10;
/// The longest sleep before checking whether the store is being closed.
const NAP: Duration = Duration::from_millis(20);
/// The longest pause, in seconds.
const LONGEST: f64 = 3600.0;

/// Ends a merge when the store is closed, and slows it down to the policy's limits.
pub(super) struct Throttle<'i> {
    inner: &'i StoreInner,
    pace: Pace,
    bytes: u64,
    since: Instant,
}

impl<'i> Throttle<'i> {
    pub(super) fn new(inner: &'i StoreInner, pace: Pace) -> Self {
        Self { inner, pace, bytes: 0, since: Instant::now() }
    }

    /// Call this after each step, with the bytes that it moved.
    pub(super) fn after(&mut self, bytes: u64) -> Result<(), MergeError> {
        self.bytes += bytes;
        if self.bytes >= STRIDE { self.pause() } else { Ok(()) }
    }

    #[cold]
    fn pause(&mut self) -> Result<(), MergeError> {
        let pause = match self.pace {
            Pace::Full => 0.0,
            // A thread waits for this merge to end.
            Pace::Policy { .. } if self.inner.has_waiters() => 0.0,
            Pace::Policy { goal_missed } => {
                let took = self.since.elapsed().as_secs_f64();
                self.inner.policy.pause(self.bytes, took, goal_missed)
            }
        };
        let until = Instant::now() + Duration::from_secs_f64(pause.min(LONGEST));
        loop {
            if self.inner.is_stopping() {
                return Err(MergeError::Closing);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.inner.has_waiters() {
                break;
            }
            thread::sleep(left.min(NAP));
        }
        (self.bytes, self.since) = (0, Instant::now());
        Ok(())
    }
}
