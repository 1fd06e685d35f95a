//! The background threads: one keeps a standby ready, one syncs, seals and unmaps.
//!
//! They are two because a sync may take long, and writers should not wait for a standby meanwhile.
//!
//! A thread that panics, or ends before it was told to, is a bug. It is kept and told: writes are
//! refused from then on, tasks that wait for a sync are woken with the error, and it is in the
//! log's statistics. Reads go on; so do syncs by callers, who also unmap what they retire.

use crate::error::ThreadFailure;
use crate::log::writer::{Leader, LogWriter};
use crate::options::Durability;
use crate::position::LogPosition;
use crate::sync::{Mutex, lock};
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How often to look for work that nobody announces: readers that let go of a retired segment.
const IDLE: Duration = Duration::from_millis(100);
/// How long to wait before trying again to make a standby on a full disk, at first and at most.
const RETRY: Range<Duration> = Duration::from_millis(50)..Duration::from_secs(5);
/// The shortest pause between periodic syncs, so that a period of 0 does not take up a processor.
const SHORTEST: Duration = Duration::from_micros(100);

const STANDBY: &str = "tailcask-standby";
const SYNC: &str = "tailcask-sync";

/// Where a test can make a background thread panic.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FailPoint {
    /// In the thread that keeps a standby ready.
    Standby = 1,
    /// In the thread that syncs.
    Sync,
    /// There, while it leads a sync.
    Lead,
    /// In the store's thread.
    Merge,
}

#[derive(Debug, Default)]
pub(crate) struct Signals {
    threads: OnceLock<[Thread; 2]>,
    handles: Mutex<Vec<JoinHandle<()>>>,
    stop: AtomicBool,
    /// The first thread that failed.
    failure: OnceLock<ThreadFailure>,
    /// Set where the thread that syncs failed.
    sync_failure: OnceLock<ThreadFailure>,
    /// A `FailPoint` that has not been met yet, or 0.
    fail_point: AtomicU8,
}

impl Signals {
    pub(crate) fn start(writer: &Arc<LogWriter>) -> std::io::Result<()> {
        let standby = spawn(STANDBY, writer, keep_standby)?;
        let syncer = spawn(SYNC, writer, keep_synced).inspect_err(|_| {
            // ORDERING: Release; as in `stop`.
            writer.background.stop.store(true, Ordering::Release);
            standby.thread().unpark();
        })?;
        let threads = [standby.thread().clone(), syncer.thread().clone()];
        writer.background.threads.get_or_init(|| threads);
        lock(&writer.background.handles).extend([standby, syncer]);
        Ok(())
    }

    /// The standby is used up.
    pub(crate) fn wake_standby(&self) {
        self.threads.get().into_iter().for_each(|[standby, _]| standby.unpark());
    }

    /// There is something to sync, or to unmap.
    pub(crate) fn wake_sync(&self) {
        self.threads.get().into_iter().for_each(|[_, sync]| sync.unpark());
    }

    pub(crate) fn is_running(&self) -> bool {
        self.threads.get().is_some()
    }

    /// The first thread that failed.
    pub(crate) fn failure(&self) -> Option<&ThreadFailure> {
        self.failure.get()
    }

    /// How the thread that syncs failed.
    pub(crate) fn sync_failure(&self) -> Option<&ThreadFailure> {
        self.sync_failure.get()
    }

    /// Makes a thread panic when it comes there. For tests.
    pub(crate) fn fail_at(&self, point: FailPoint) {
        // ORDERING: Relaxed; a test's own.
        self.fail_point.store(point as u8, Ordering::Relaxed);
        self.wake_standby();
        self.wake_sync();
    }

    /// Panics where a test wants it.
    pub(crate) fn fail_point(&self, point: FailPoint) {
        // ORDERING: Relaxed, all; a test's own.
        let (point, order) = (point as u8, Ordering::Relaxed);
        if self.fail_point.load(order) == point
            && self.fail_point.compare_exchange(point, 0, order, order).is_ok()
        {
            panic!("on purpose");
        }
    }

    /// Ends the threads, and waits until they have.
    pub(crate) fn stop(&self) {
        // ORDERING: Release; pairs with the Acquire load in `stopped`.
        self.stop.store(true, Ordering::Release);
        self.wake_standby();
        self.wake_sync();
        for handle in std::mem::take(&mut *lock(&self.handles)) {
            // They catch their panics, and what these were is in `failure`.
            let _ = handle.join();
        }
    }

    fn stopped(&self) -> bool {
        // ORDERING: Acquire; pairs with the Release store in `stop`.
        self.stop.load(Ordering::Acquire)
    }
}

/// Whether a thread ended because it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Told,
    Early,
}

/// Starts a background thread of the log, or of the store on it, whose failure is kept and told.
pub(crate) fn spawn(
    name: &'static str,
    writer: &Arc<LogWriter>,
    run: impl FnOnce(&LogWriter) -> End + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let writer = writer.clone();
    thread::Builder::new().name(name.into()).spawn(move || {
        // What it shares with others is behind locks and atomics, and consistent between statements.
        let reason = match catch_unwind(AssertUnwindSafe(|| run(&writer))) {
            Ok(End::Told) => return,
            Ok(End::Early) => "it was not told to".into(),
            Err(panic) => message(&*panic).into(),
        };
        writer.thread_failed(ThreadFailure { thread: name, reason });
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("no message"))
}

impl LogWriter {
    /// Refuses writes from now on, and wakes whoever counted on the thread.
    fn thread_failed(&self, failure: ThreadFailure) {
        tracing::error!(%failure, "a background thread failed; the log refuses writes from now on");
        if failure.thread == SYNC {
            self.background.sync_failure.get_or_init(|| failure.clone());
        }
        self.background.failure.get_or_init(|| failure);
        // Writers find a full segment from now on, and then the failure.
        self.tail.close();
        // Tasks look for the failure once they are registered, so each finds it or is woken here.
        self.group.wake_tasks();
    }

    /// Whether a thread unmaps what is retired, and seals what is full.
    pub(crate) fn is_tended(&self) -> bool {
        !self.is_manual() && self.background.sync_failure().is_none()
    }
}

fn keep_standby(writer: &LogWriter) -> End {
    let mut wait = RETRY.start;
    while !writer.background.stopped() {
        writer.background.fail_point(FailPoint::Standby);
        let prepared = writer.prepare_standby();
        if writer.populate_some() {
            continue;
        }
        if writer.is_short_of_space() {
            writer.tend_reserve();
        }
        match prepared {
            Ok(()) if !writer.is_short_of_space() => {
                wait = RETRY.start;
                thread::park();
            }
            other => {
                tracing::debug!(?other, "no standby, or no reserve");
                thread::park_timeout(wait);
                wait = (wait * 2).min(RETRY.end);
            }
        }
    }
    End::Told
}

fn keep_synced(writer: &LogWriter) -> End {
    let period = match writer.config.durability {
        Durability::Periodic(period) => Some(period.max(SHORTEST)),
        _ => None,
    };
    // A period beyond what a clock can say never ends.
    let next = || period.and_then(|period| Instant::now().checked_add(period));
    let mut due = next();
    while !writer.background.stopped() {
        writer.background.fail_point(FailPoint::Sync);
        // A failure is kept and told to every caller; there is nobody here to tell.
        if writer.wants_seal() {
            let _ = writer.seal_finished();
        }
        if let Some(target) = writer.group.wanted() {
            let _ = writer.wait_strictly(LogPosition::from_u64(target), Leader::Background);
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            let _ = writer.sync_for(Leader::Background);
            due = next();
        }
        writer.table.reap();
        let left = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()).min(IDLE));
        thread::park_timeout(left);
    }
    End::Told
}
