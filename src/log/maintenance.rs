//! The background threads of a log: one keeps a standby ready, one syncs, seals and unmaps. The first one
//! also looks every second what holds the log up: the other may be what is held up.
//!
//! They are two because a sync may take long, and writers should not have to wait for a standby
//! meanwhile. `CommitLog` owns the threads: it starts and joins them. They run methods of `LogWriter`,
//! and communicate through its `Signals`.
//!
//! If a thread panics, or ends before it is asked to, that is a bug. The failure is recorded: writes
//! are refused from then on, tasks that wait for a sync are woken with the error, and the log's
//! statistics show it. Reads continue, and so do syncs by callers, which then also unmap retired
//! segments.

use super::close_later::CloseLater;
use crate::error::ThreadFailure;
use crate::log::writer::{FailPoint, LogWriter};
use crate::options::Durability;
use crate::sync::thread::{self, JoinHandle};
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often to check for work that is not announced: retired segments that readers have released.
const IDLE: Duration = Duration::from_millis(100);
/// How long to wait before trying again to create a standby on a full disk, at first and at most.
const RETRY: Range<Duration> = Duration::from_millis(50)..Duration::from_secs(5);
/// How often to drop what the log's retention policy does not keep.
const RETENTION: Duration = Duration::from_secs(1);
/// How often to look what holds the log up.
const WATCH: Duration = Duration::from_secs(1);
/// The shortest pause between periodic syncs, so that a period of 0 does not occupy a processor.
const SHORTEST: Duration = Duration::from_micros(100);

const STANDBY: &str = "tailcask-standby";
const SYNC: &str = "tailcask-sync";

/// The background threads of a log. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct MaintenanceThreads {
    writer: Arc<LogWriter>,
    handles: Vec<JoinHandle<()>>,
}

impl MaintenanceThreads {
    pub(crate) fn start(writer: &Arc<LogWriter>) -> std::io::Result<Self> {
        // Dropped, which stops it, if the second thread cannot be started.
        let mut threads = Self { writer: writer.clone(), handles: Vec::new() };
        for (name, run) in [(STANDBY, keep_standby as fn(&LogWriter) -> _), (SYNC, keep_synced)] {
            threads.handles.push(spawn(name, writer, run)?);
        }
        if let [standby, sync] = &*threads.handles {
            writer.signals().attach(standby.thread().clone(), sync.thread().clone());
        }
        Ok(threads)
    }
}

impl Drop for MaintenanceThreads {
    /// Stops the threads and joins them.
    fn drop(&mut self) {
        self.writer.signals().stop();
        for handle in self.handles.drain(..) {
            // Including one that the signals do not know yet.
            handle.thread().unpark();
            join(handle);
        }
    }
}

/// Joins a background thread, which catches its panics and reports them. A thread cannot join itself: it
/// wakes tasks, and a task that is dropped then may have the last handle on the log. It ends soon after.
pub(crate) fn join(handle: JoinHandle<()>) {
    if handle.thread().id() != thread::current().id() {
        let _ = handle.join();
    }
}

/// Why a thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadEnd {
    /// It was asked to.
    Asked,
    /// It ended on its own, which is a failure.
    Early,
}

/// Starts a background thread of the log or its store. If the thread fails, the log's writer records
/// the failure.
pub(crate) fn spawn(
    name: &'static str,
    writer: &Arc<LogWriter>,
    run: impl FnOnce(&LogWriter) -> ThreadEnd + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let writer = writer.clone();
    thread::Builder::new().name(name.into()).spawn(move || {
        // Shared state is behind locks and atomics, and consistent between statements.
        let reason = match catch_unwind(AssertUnwindSafe(|| run(&writer))) {
            Ok(ThreadEnd::Asked) => return,
            Ok(ThreadEnd::Early) => "it was not asked to".into(),
            Err(panic) => message(&*panic).into(),
        };
        writer.thread_failed(ThreadFailure { thread: name, reason }, name == SYNC);
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("no message"))
}

fn keep_standby(writer: &LogWriter) -> ThreadEnd {
    let (mut wait, mut looked) = (RETRY.start, Instant::now());
    while !writer.signals().stopped() {
        writer.signals().fail_point(FailPoint::Standby);
        let prepared = writer.prepare_standby();
        if writer.populate_some() {
            continue;
        }
        if writer.is_short_of_space() {
            writer.try_keep_reserve();
        }
        if looked.elapsed() >= WATCH {
            writer.look_for_hold_ups();
            looked = Instant::now();
        }
        match prepared {
            Ok(()) if !writer.is_short_of_space() => {
                wait = RETRY.start;
                thread::park_timeout(WATCH);
            }
            other => {
                tracing::debug!(?other, "no standby, or no reserve");
                thread::park_timeout(wait.min(WATCH));
                wait = (wait * 2).min(RETRY.end);
            }
        }
    }
    ThreadEnd::Asked
}

fn keep_synced(writer: &LogWriter) -> ThreadEnd {
    let period = match writer.durability() {
        Durability::Periodic(period) => Some(period.max(SHORTEST)),
        _ => None,
    };
    // A period too long for the clock never ends.
    let next = || period.and_then(|period| Instant::now().checked_add(period));
    let mut due = next();
    let mut retained = None;
    while !writer.signals().stopped() {
        writer.signals().fail_point(FailPoint::Sync);
        writer.spread_fault();
        // A failed sync is recorded, and every caller gets the error; here there is no caller.
        if writer.wants_seal() {
            let _ = writer.seal_finished();
        }
        let _ = writer.sync_for_tasks();
        if due.is_some_and(|due| due <= Instant::now()) {
            let _ = writer.sync_in_background();
            due = next();
        }
        if retained.is_none_or(|at: Instant| at.elapsed() >= RETENTION) {
            let _later = CloseLater::begin(writer);
            writer.apply_retention();
            retained = Some(Instant::now());
        }
        writer.reap();
        let left = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()).min(IDLE));
        thread::park_timeout(left);
    }
    ThreadEnd::Asked
}
