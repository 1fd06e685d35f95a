//! The writer's half of a store: its log and its merges, beside the view that reads.

use super::counters::WriteCounters;
use super::merge::policy::{MergePolicy, Settled};
use super::merge::report::MergeTotals;
use super::view::StoreView;
use crate::error::{AppendError, Corruption};
use crate::latency::Timer;
use crate::log::writer::{LogWriter, Need};
use crate::options::RecoveryMode;
use crate::segment::{Segment, StripedCounter};
use crate::storage::Storage;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, lock, thread};
use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

/// How long a delete waits for merges before it is refused.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK_FOR_A_RUN: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct StoreInner {
    /// Its segment set is the log's.
    view: StoreView,
    pub(crate) writer: Arc<LogWriter>,
    pub(crate) writes: WriteCounters,
    /// The log's, for operations of the store.
    pub(crate) timer: Timer,
    /// The longest value allowed.
    pub(crate) max_value: u64,
    pub(crate) policy: MergePolicy,
    /// Held by a merge, and by whatever must not see the segments change.
    merging: Mutex<Merging>,
    /// Number of threads waiting for it.
    waiting: AtomicUsize,
    /// Segments found damaged.
    pub(crate) damaged: Mutex<BTreeMap<u32, Damaged>>,
    /// Segments from which merging by the policy gained nothing.
    pub(crate) settled: Mutex<Settled>,
    /// Bytes of frames that merges have dropped, over the store's life.
    pub(crate) reclaimed: StripedCounter,
    /// When the last of the values expired whose slots merges have removed. Only for the holder of `Merging`.
    pub(crate) expired_until: AtomicU64,
    /// Held by the next in line: a mutex alone would let a thread that merges repeatedly get it every
    /// time.
    next: Mutex<()>,
    pub(crate) totals: Mutex<MergeTotals>,
    /// Set when the store is being closed: maintenance ends, and so does a merge.
    stop: AtomicBool,
}

/// The damage in a segment.
#[derive(Clone, Debug)]
pub(crate) struct Damaged {
    pub(crate) first: Corruption,
    /// Bytes known to be unreadable.
    pub(crate) bytes: u64,
    /// The segment's dead bytes when a merge last found that it has to stay.
    pub(crate) dead: Option<u64>,
    /// Whether its hint was found to be wrong, and so cannot be used.
    pub(crate) misled: bool,
}

impl Damaged {
    pub(crate) fn at_load(first: Corruption, gaps: &[Range<u64>]) -> Self {
        let bytes = gaps.iter().map(|gap| gap.end - gap.start).sum();
        Self { first, bytes, dead: None, misled: false }
    }
}

/// The exclusive right to merge.
#[derive(Default)]
pub(crate) struct Merging {
    /// A test's hook between copying frames and moving slots.
    pub(crate) meanwhile: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Merging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merging").finish_non_exhaustive()
    }
}

impl StoreInner {
    pub(crate) fn new(
        writer: Arc<LogWriter>,
        view: StoreView,
        max_value: u64,
        policy: MergePolicy,
        damaged: BTreeMap<u32, Damaged>,
    ) -> Self {
        // From the newest of the hints.
        let reclaimed_then = |segment: &Arc<Segment>| segment.reclaimed_then.get();
        let reclaimed = StripedCounter::default();
        reclaimed
            .add(writer.segment_set().segments().iter().map(reclaimed_then).max().unwrap_or(0));
        Self {
            view,
            timer: writer.timer.clone(),
            writer,
            writes: WriteCounters::default(),
            max_value,
            policy,
            merging: Mutex::default(),
            waiting: AtomicUsize::new(0),
            damaged: Mutex::new(damaged),
            settled: Mutex::default(),
            reclaimed,
            expired_until: AtomicU64::new(0),
            next: Mutex::default(),
            totals: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Waits until no merge runs, and keeps others from starting.
    pub(crate) fn merging(&self) -> MutexGuard<'_, Merging> {
        // ORDERING: Relaxed; a hint for the one who merges.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _next = lock(&self.next);
        let merging = lock(&self.merging);
        // ORDERING: Relaxed; as above.
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        merging
    }

    /// Rolls, as the log does. A delete that finds no space while a merge is under way waits for it: the
    /// merge may have taken what there was for a moment, and frees more than that. Not for long: it may be
    /// a slow one, or not a merge at all but a backup.
    pub(crate) fn roll_for(&self, len: u64, need: Need) -> Result<(), AppendError> {
        let deadline = Instant::now() + LONGEST_WAIT;
        loop {
            // A run that ends while this rolls has freed something, too.
            let runs = self.runs();
            match self.writer.roll(len, need) {
                Err(AppendError::NoSpace { .. })
                    if need == Need::Delete && self.wait_for_a_run(runs, deadline) => {}
                done => return done,
            }
        }
    }

    /// The runs of merges that were completed.
    fn runs(&self) -> u64 {
        lock(&self.totals).merges
    }

    /// Waits until more runs are completed than there were, or the merge that is under way has ended. False:
    /// there is none, or it takes too long.
    #[cold]
    fn wait_for_a_run(&self, before: u64, deadline: Instant) -> bool {
        let mut waited = false;
        while Instant::now() < deadline {
            // Asked first: a run is counted before its merge ends.
            let is_merging = matches!(self.merging.try_lock(), Err(TryLockError::WouldBlock));
            if self.runs() != before {
                return true;
            }
            if !is_merging {
                return waited;
            }
            waited = true;
            thread::sleep(LOOK_FOR_A_RUN);
        }
        false
    }

    /// Whether a thread waits for the running merge to end.
    pub(crate) fn has_waiters(&self) -> bool {
        // ORDERING: Relaxed; a hint.
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Ends maintenance, and a merge.
    pub(crate) fn stop(&self) {
        // ORDERING: Release; pairs with the Acquire load in `is_stopping`.
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        // ORDERING: Acquire; pairs with the Release store in `stop`.
        self.stop.load(Ordering::Acquire)
    }
}

/// The parts of a store that exist with or without a writer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents<'c> {
    pub(crate) view: &'c StoreView,
    pub(crate) storage: &'c dyn Storage,
    pub(crate) damaged: &'c Mutex<BTreeMap<u32, Damaged>>,
    /// Whether it was opened with salvage, which skips damage.
    pub(crate) salvage: bool,
}

impl Deref for Contents<'_> {
    type Target = StoreView;

    fn deref(&self) -> &StoreView {
        self.view
    }
}

impl StoreInner {
    pub(crate) fn contents(&self) -> Contents<'_> {
        Contents {
            view: &self.view,
            storage: self.writer.storage(),
            damaged: &self.damaged,
            salvage: self.writer.recovery_mode() == RecoveryMode::Salvage,
        }
    }
}

impl Deref for StoreInner {
    type Target = StoreView;

    fn deref(&self) -> &StoreView {
        &self.view
    }
}
