//! What tests of a log may do to it: the feature `testing`.

use super::held_up::Patience;
use super::{CommitLog, FailPoint, LogOptions};
use crate::error::OpenError;
use crate::storage::simulated::SimulatedDisk;
use crate::sync::lock;
use crate::wall_clock::WallClock;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// With the feature `testing`.
impl LogOptions {
    /// Opens the log on a simulated disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_simulated(&self, disk: &SimulatedDisk) -> Result<CommitLog, OpenError> {
        self.open_on(disk)
    }

    /// Segments are sealed, and found by time, by this time instead of the system's: milliseconds since
    /// 1970, which the test sets and may change while the log is open.
    pub fn clock(mut self, milliseconds: Arc<AtomicU64>) -> Self {
        self.config.clock = WallClock::Set(milliseconds);
        self
    }

    /// Segment sizes are multiples of this, instead of 2 MiB, so that a short test fills many segments. At
    /// least 4096, and a power of two.
    pub fn segment_unit(mut self, bytes: u64) -> Self {
        self.config.segment_unit = bytes;
        self.config.initial_segment_size = bytes;
        self
    }
}

/// With the feature `testing`.
impl CommitLog {
    /// Abandons the log as a dying process would: nothing is synced or sealed, so that the next open has
    /// something to recover. Other handles are closed.
    pub fn abort(self) {
        self.abandon();
    }

    pub(crate) fn abandon(&self) {
        self.shared.abandon();
    }

    /// Makes a background thread panic when it next comes to a point.
    pub fn fail_at(&self, point: FailPoint) {
        if let Some(writer) = self.writer() {
            writer.signals().fail_at(point);
        }
    }

    /// Warns of an unfinished append, and of a removed segment that something keeps, once either is so old.
    pub fn warn_after(&self, age: std::time::Duration) {
        if let Some(writer) = self.writer() {
            lock(&writer.watch).patience = Patience { append: age, reader: age };
        }
    }

    /// Reserves room for an entry of this many bytes and never claims it, as a thread does that dies in
    /// between. After this, whatever waits for appends to finish waits forever: end the log with
    /// [`abort`](Self::abort).
    pub fn abandon_reservation(&self, len: usize) {
        if let Some(writer) = self.writer() {
            writer.abandon_reservation(len as u64);
        }
    }
}
