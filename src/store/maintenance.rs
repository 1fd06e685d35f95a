//! The store's background thread: hints, merges, and room and huge pages for the keydir.

use super::Store;
use super::inner::StoreInner;
use super::merge::{MergeReport, Pace};
use crate::error::{AppendError, MergeError};
use crate::keydir::{FillRate, Settling};
use crate::log::FailPoint;
use crate::log::close_later::CloseLater;
use crate::log::maintenance::{ThreadEnd, spawn};
use crate::sync::thread::{self, JoinHandle};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How often to check for work.
const PERIOD: Duration = Duration::from_millis(100);
/// The pause between two ranges of the keydir that are moved to huge pages. A move locks the address space,
/// and whoever waits for that lock gets it now; the kernel lets the same thread take it over and over.
const BREATH: Duration = Duration::from_millis(1);
/// The longest wait after a failed merge, for example on a full disk.
const RETRY: Duration = Duration::from_secs(30);

/// Starts the store's thread, unless maintenance is manual.
pub(super) fn start(inner: &Arc<StoreInner>) -> io::Result<Option<JoinHandle<()>>> {
    if inner.writer.is_manual() {
        return Ok(None);
    }
    let kept = inner.clone();
    spawn("tailcask-merge", &inner.writer, move |_| keep(&kept)).map(Some)
}

fn keep(inner: &StoreInner) -> ThreadEnd {
    let (mut wait, mut settling) = (PERIOD, Settling::default());
    let mut rate = FillRate::default();
    while !inner.is_stopping() {
        inner.writer.signals().fail_point(FailPoint::Merge);
        let later = CloseLater::begin(&inner.writer);
        let merged = once(inner, false);
        drop(later);
        wait = match merged {
            Ok(_) => PERIOD,
            Err(MergeError::Closing) if inner.is_stopping() => return ThreadEnd::Asked,
            Err(MergeError::Closing) => return ThreadEnd::Early,
            Err(error) => {
                tracing::warn!(%error, "a merge failed");
                (wait * 2).min(RETRY)
            }
        };
        inner.keydir.grow_ahead(&mut rate, || inner.is_stopping());
        if settling.has_settled(inner.keydir.memory()) {
            inner.keydir.move_to_huge_pages(|| {
                thread::park_timeout(BREATH);
                inner.is_stopping()
            });
        }
        if !inner.is_stopping() {
            thread::park_timeout(wait);
        }
    }
    ThreadEnd::Asked
}

/// Writes missing hints, and merges what the policy selects.
fn once(inner: &StoreInner, by_hand: bool) -> Result<MergeReport, MergeError> {
    let mut merging = inner.merging();
    inner.list_sealed(true);
    inner.writer.segment_set().look_at_memory();
    inner.writer.segment_set().look_at_cold();
    let (ids, goal_missed) = inner.due();
    if goal_missed && !by_hand {
        // Full segments are otherwise sealed at a quiet moment, which may not come for long.
        inner.writer.seal_finished()?;
    }
    let pace = if by_hand { Pace::Full } else { Pace::Policy { goal_missed } };
    inner.merge_in_runs(&mut merging, &ids, pace)
}

impl Store {
    /// Does the work of the background threads: that of the [log](crate::CommitLog::maintain), then
    /// missing hints, then one merge if the policy selects any segments. Then the keydir's tables are moved
    /// to huge pages.
    ///
    /// # Errors
    /// [`MergeError`]. If there is no room for a standby, that is the error only if the merge has made none.
    pub fn maintain(&self) -> Result<MergeReport, MergeError> {
        let _inside = self.enter().ok_or(MergeError::Closing)?;
        let has_standby = match self.log.maintain() {
            // A merge may make room, also for that.
            Err(AppendError::NoSpace { .. }) => false,
            done => done.map(|()| true)?,
        };
        let merged = once(&self.inner, true);
        self.writer().reap();
        self.inner.keydir.move_to_huge_pages(|| false);
        if !has_standby && merged.is_ok() {
            self.log.maintain()?;
        }
        merged
    }
}
