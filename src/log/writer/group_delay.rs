//! How long the leader of a group waits for other callers before it syncs.
//!
//! The callers that the last sync served are likely to come back at once. Without a wait for them two
//! groups take turns, and each sync serves half of them.

use crate::sync::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The longest wait. Longer ones gain little: callers that the last sync has woken come
/// back within microseconds, or are about something else.
const LONGEST: Duration = Duration::from_millis(1);

/// Who leads a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leader {
    /// A caller that waits for it.
    Caller,
    /// The background thread: for waiting tasks, for a periodic sync, or to seal.
    Background,
}

impl Leader {
    /// The number of callers that this is.
    pub(super) const fn callers(self) -> usize {
        matches!(self, Self::Caller) as usize
    }
}

/// What the last sync for callers says about the next one.
#[derive(Debug, Default)]
pub(super) struct GroupDelay {
    /// The number of callers when it ended: those it served, and those that had come since.
    last_group_size: AtomicUsize,
    /// How long it took, in ns.
    last_sync: AtomicU64,
}

// ORDERING: Relaxed throughout; hints, and only the leader uses them.
impl GroupDelay {
    /// After a sync for callers; one that only seals says nothing about callers.
    pub(super) fn record(&self, callers: usize, took: Duration) {
        self.last_group_size.store(callers, Ordering::Relaxed);
        self.last_sync.store(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The number of callers to expect.
    pub(super) fn expected(&self) -> usize {
        self.last_group_size.load(Ordering::Relaxed)
    }

    /// How long to wait for them: at most half of the time that the last sync took.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_nanos(self.last_sync.load(Ordering::Relaxed) / 2).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommitLog, Maintenance, SimulatedDisk};

    #[test]
    fn who_seals_is_no_caller_to_wait_for() {
        let options = CommitLog::options().segment_size(4096).segment_unit(4096);
        let options = options.maintenance(Maintenance::Manual);
        let log = options.open_simulated(&SimulatedDisk::new()).expect("a log");
        let writer = log.writer().expect("a writer's");
        for _ in 0..10 {
            log.append(&[1; 2500]).expect("room");
            log.maintain().expect("a seal");
        }
        assert!(log.stats().segments_sealed > 5);
        assert_eq!(writer.group_delay.expected(), 0);
        assert_eq!(log.stats().group_sizes.count, 0);
        writer.sync_in_background().expect("a sync");
        assert_eq!((writer.group_delay.expected(), log.stats().group_sizes.count), (0, 0));
        log.append(b"x").expect("room");
        log.sync().expect("a sync");
        assert_eq!((writer.group_delay.expected(), log.stats().group_sizes.max), (1, 1));
    }

    #[test]
    fn a_stall_does_not_make_the_next_sync_wait() {
        let group_delay = GroupDelay::default();
        group_delay.record(3, Duration::from_secs(6));
        assert_eq!((group_delay.expected(), group_delay.limit()), (3, LONGEST));
        group_delay.record(64, Duration::from_micros(300));
        assert_eq!(group_delay.limit(), Duration::from_micros(150));
    }
}
