//! The writer of a log: it appends, rolls, prepares segments, syncs, seals and retires them.
//!
//! `LogWriter` puts the append protocol (`log/append`), group commit and the segments together. Its
//! parts are in files by topic, each with the methods of that topic:
//!
//! * `append`, `oversize`: a frame's way into the log; `filling` marks a thread inside a closure of it;
//! * `roll`: the next segment becomes active; `space`, `reserve`: where its space comes from;
//! * `sync`: group commit, seals and sync marks; `read`: what readers in this process ask;
//! * `manifest`, `retire`, `close`: which segments exist, which are removed, and the end of the log;
//! * `watch`: what holds the log up; `maps`: what cannot be accessed any more;
//! * `gate`: who changes files, and that nobody does once the log is closed.
//!
//! Types that these share are in files that do not use the writer: `capacity`, `next`, `seal`,
//! `segment_memory`, `group_delay`, and `signals`, through which the writer and its threads
//! communicate.

mod append;
mod capacity;
mod close;
mod filling;
mod gate;
mod group_delay;
mod manifest;
mod maps;
mod next;
pub(crate) mod oversize;
mod read;
mod reserve;
mod retire;
mod roll;
mod seal;
mod segment_memory;
mod signals;
mod space;
mod sync;
mod watch;

pub(crate) use self::capacity::{MAX_BATCH, Need};
pub(crate) use self::seal::{seal_and_shrink, seal_durably};
#[cfg_attr(
    not(feature = "testing"),
    allow(unreachable_pub, reason = "public with the feature")
)]
pub use self::signals::FailPoint;

pub(crate) use self::gate::Inside;

use self::gate::Gate;
use self::group_delay::GroupDelay;
use self::next::{NextSegment, create_first};
use self::signals::Signals;
use crate::error::{AppendError, ThreadFailure};
use crate::format::frame;
use crate::format::header::FIRST_FRAME;
use crate::format::manifest::Manifest;
use crate::latency::{Operation, Timer};
use crate::log::append::prefix::{Finished, Prefix};
use crate::log::append::tail::Tail;
use crate::log::group_commit::GroupCommit;
use crate::log::held_up::Watch;
use crate::log::stats::{LogCounters, LogStats};
use crate::options::{Config, Durability, Maintenance, RecoveryMode, SEGMENT_UNIT};
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::set::SegmentSet;
use crate::storage::Storage;
use crate::sync::{AtomicBool, AtomicU64, Mutex};
use crate::taken::Marks;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Unfinished segments at a time: how far the log can run ahead of one stuck append.
const SLOTS: usize = 256;
/// Frames above this get a segment of their own, which bounds what late writers add to the tail.
const MAX_SHARED: u64 = 256 << 20;

/// What is to be synced next.
#[derive(Debug)]
struct Pending {
    /// Full segments, which are sealed when they are synced.
    finished: VecDeque<Finished<Segment>>,
    /// Where the next sync begins: an offset in the first of `finished`, or else in the segment where
    /// the prefix is.
    from: u64,
}

/// A segment whose pages are not all in memory yet.
#[derive(Debug)]
struct Unpopulated {
    segment: Arc<Segment>,
    from: u64,
}

/// The sync mark that was appended last.
#[derive(Clone, Copy, Debug, Default)]
struct LastSyncMark {
    start: Option<LogPosition>,
    end: Option<LogPosition>,
}

/// A log that is open for writing. Shared by its handle, its threads, and the store on it.
#[derive(Debug)]
pub(crate) struct LogWriter {
    storage: Box<dyn Storage>,
    config: Config,
    tail: Tail<Segment>,
    prefix: Prefix<Segment>,
    group: GroupCommit,
    /// Readers of a store share it.
    table: Arc<SegmentSet>,
    counters: LogCounters,
    pub(crate) timer: Timer,
    signals: Signals,
    gate: Gate,
    manifest: Mutex<Manifest>,
    truncating: Mutex<()>,
    /// Whether the reserve is released: a store then takes no puts.
    short_of_space: AtomicBool,
    /// Held while the reserve is changed.
    reserve: Mutex<()>,
    /// The largest frame that shares a segment with others.
    max_shared: u64,
    /// Shorter entries are allowed, share a segment with others, and are not timed: so the fast path has
    /// one test for all of that.
    plain_end: u64,
    /// Whether an append of the default durability is done once it is committed.
    acks_at_once: bool,
    next: Mutex<NextSegment>,
    pending: Mutex<Pending>,
    mark: Mutex<LastSyncMark>,
    unpopulated: Mutex<VecDeque<Unpopulated>>,
    group_delay: GroupDelay,
    /// The roll that `wants_seal` saw last.
    last_seen_roll: AtomicU64,
    /// When `maintain` synced a periodic log last, or that was opened.
    synced_by_hand: Mutex<Instant>,
    /// The closures that fill frames, by their positions: where they were called, with the feature
    /// `backtraces`.
    filling: Marks,
    pub(crate) watch: Mutex<Watch>,
}

/// What recovery hands over: the log as it was found, and repaired.
pub(crate) struct RecoveredLog {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) manifest: Manifest,
    /// The id for the first new segment, and the one it follows.
    pub(crate) next_id: u32,
    pub(crate) previous: u32,
}

impl LogWriter {
    /// Starts with a new active segment behind what was recovered.
    #[allow(unsafe_code, reason = "hands the first segment to the tail")]
    pub(crate) fn start(
        storage: Box<dyn Storage>,
        config: Config,
        recovered: RecoveredLog,
    ) -> io::Result<Self> {
        crate::sync::register_barrier();
        let held: u64 = recovered.segments.iter().map(|s| s.end()).sum();
        let size = (held / 4).next_multiple_of(config.segment_unit);
        let size = size.clamp(config.initial_segment_size, config.segment_size);
        let (log_id, previous) = (recovered.manifest.log_id, recovered.previous);
        let next = NextSegment {
            log_id,
            id: Some(recovered.next_id),
            for_log: None,
            previous,
            size,
            syncs: 0,
            small_pages: config.durability == Durability::Synced,
        };
        let next = Mutex::new(next);
        let first = create_first(&next, &*storage, &config)?;
        let timer = Timer::new(config.latency_sampling);
        let max_shared = (config.segment_size - FIRST_FRAME).min(MAX_SHARED);
        let plain_end = match timer.is_on() {
            false => config.max_entry_size.min(max_shared - frame::HEADER) + 1,
            true => 0,
        };
        let mut segments = recovered.segments;
        let mut unpopulated = VecDeque::new();
        if !first.is_without_room() {
            first.map.populate(0, SEGMENT_UNIT);
            unpopulated.push_back(Unpopulated { segment: first.clone(), from: SEGMENT_UNIT });
            segments.push(first.clone());
        }
        let start = first.position(FIRST_FRAME);
        let pending = Pending { finished: VecDeque::new(), from: FIRST_FRAME };
        // SAFETY: the segment was just created, and nothing else writes to it.
        let (tail, walker) = unsafe { Tail::new(SLOTS, first, FIRST_FRAME) };
        Ok(Self {
            prefix: Prefix::new(&tail, walker),
            tail,
            group: GroupCommit::new(start.as_u64()),
            table: Arc::new(SegmentSet::new(segments)),
            counters: LogCounters::default(),
            timer,
            signals: Signals::default(),
            gate: Gate::default(),
            manifest: Mutex::new(recovered.manifest),
            truncating: Mutex::default(),
            short_of_space: AtomicBool::new(storage.reserve_is_given()),
            reserve: Mutex::default(),
            max_shared,
            plain_end,
            acks_at_once: config.durability != Durability::Synced && !config.catch_sigbus,
            next,
            pending: Mutex::new(pending),
            mark: Mutex::new(LastSyncMark::default()),
            unpopulated: Mutex::new(unpopulated),
            group_delay: GroupDelay::default(),
            last_seen_roll: AtomicU64::new(0),
            synced_by_hand: Mutex::new(Instant::now()),
            filling: Marks::default(),
            watch: Mutex::default(),
            storage,
            config,
        })
    }

    /// The time by the log's clock, in milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.config.clock.now()
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// The segments of the log, and those that merges made. Readers of a store share it.
    pub(crate) fn segment_set(&self) -> &Arc<SegmentSet> {
        &self.table
    }

    pub(crate) fn signals(&self) -> &Signals {
        &self.signals
    }

    /// The durability of an append that does not ask for another one.
    #[inline]
    pub(crate) fn durability(&self) -> Durability {
        self.config.durability
    }

    pub(crate) fn segment_size(&self) -> u64 {
        self.config.segment_size
    }

    pub(crate) fn recovery_mode(&self) -> RecoveryMode {
        self.config.recovery_mode
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.config.maintenance == Maintenance::Manual
    }

    /// The position of the next frame: the end of everything reserved.
    pub(crate) fn tail(&self) -> LogPosition {
        self.tail.position()
    }

    /// The end of the prefix: every append before it is finished. Walks over what is new.
    pub(crate) fn committed(&self) -> LogPosition {
        self.prefix.advance(&self.tail)
    }

    /// The log's counters and its current state.
    pub(crate) fn read_stats(&self, stats: &mut LogStats) {
        // In this order, so that nothing seems to be durable that is not committed.
        stats.durable = self.durable();
        stats.committed = self.committed();
        stats.rolls = self.tail.roll_number().saturating_sub(1);
        let counts = self.prefix.counts();
        (stats.entries, stats.batches) = (counts.entries, counts.batches);
        (stats.bytes, stats.voids) = (counts.bytes, counts.voids);
        self.counters.read(stats);
        stats.append_latency = (&self.timer.latencies(Operation::Append)).into();
        stats.failed_thread = self.signals.failure().cloned();
        stats.unfinished = self.unfinished();
    }

    /// Enters, to change files of the log. `None`: it is closed. See `gate`.
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        self.gate.enter()
    }

    /// Does the work of the background threads, once.
    pub(crate) fn maintain(&self) -> Result<(), AppendError> {
        let _inside = self.enter().ok_or(AppendError::Closed)?;
        let sealed = self.seal_finished();
        self.apply_retention();
        self.reap();
        self.look_for_hold_ups();
        sealed.map_err(|source| AppendError::Sync { position: None, source })?;
        if self.is_short_of_space() {
            self.try_keep_reserve();
        }
        let prepared = self.prepare_standby();
        while self.populate_some() {}
        // The last one, since it waits for appends.
        self.sync_if_due().map_err(|source| AppendError::Sync { position: None, source })?;
        prepared
    }

    /// Records that a background thread has failed: the log refuses writes from now on, and tasks that
    /// wait for a sync are woken. `syncs`: it was the thread that syncs.
    pub(crate) fn thread_failed(&self, failure: ThreadFailure, syncs: bool) {
        tracing::error!(%failure, "a background thread failed; the log refuses writes from now on");
        self.signals.note_failure(failure, syncs);
        // Writers find a full segment from now on, and then the failure.
        self.tail.close();
        // A task looks for the failure after it has registered: so it finds it, or is woken here.
        self.group.wake_tasks();
    }
}
