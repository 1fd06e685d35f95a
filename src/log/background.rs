//! The background threads: one keeps a standby ready, one syncs, seals and unmaps.
//!
//! They are two because a sync may take long, and writers should not wait for a standby meanwhile.

use crate::log::core::Core;
use crate::options::Durability;
use crate::position::LogPosition;
use crate::sync::{Mutex, lock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How often to look for work that nobody announces: readers that let go of a retired segment.
const IDLE: Duration = Duration::from_millis(100);
/// How long to wait before trying again to make a standby on a full disk.
const RETRY: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(crate) struct Background {
    threads: OnceLock<[Thread; 2]>,
    handles: Mutex<Vec<JoinHandle<()>>>,
    stop: AtomicBool,
}

impl Background {
    pub(crate) fn start(core: &Arc<Core>) -> std::io::Result<()> {
        let standby = spawn("tailcask-standby", core, keep_standby)?;
        let syncer = spawn("tailcask-sync", core, keep_synced).inspect_err(|_| {
            // ORDERING: Release; as in `stop`.
            core.background.stop.store(true, Ordering::Release);
            standby.thread().unpark();
        })?;
        let threads = [standby.thread().clone(), syncer.thread().clone()];
        core.background.threads.get_or_init(|| threads);
        lock(&core.background.handles).extend([standby, syncer]);
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

    /// Ends the threads, and waits until they have.
    pub(crate) fn stop(&self) {
        // ORDERING: Release; pairs with the Acquire load in `stopped`.
        self.stop.store(true, Ordering::Release);
        self.wake_standby();
        self.wake_sync();
        for handle in std::mem::take(&mut *lock(&self.handles)) {
            if handle.join().is_err() {
                tracing::error!("a background thread panicked");
            }
        }
    }

    fn stopped(&self) -> bool {
        // ORDERING: Acquire; pairs with the Release store in `stop`.
        self.stop.load(Ordering::Acquire)
    }
}

fn spawn(name: &str, core: &Arc<Core>, run: fn(&Core)) -> std::io::Result<JoinHandle<()>> {
    let core = core.clone();
    thread::Builder::new().name(name.into()).spawn(move || run(&core))
}

fn keep_standby(core: &Core) {
    while !core.background.stopped() {
        match core.prepare_standby() {
            Ok(()) if core.populate_some() => {}
            Ok(()) => thread::park(),
            Err(error) => {
                tracing::debug!(%error, "no standby");
                thread::park_timeout(RETRY);
            }
        }
    }
}

fn keep_synced(core: &Core) {
    let period = match core.config.durability {
        Durability::Periodic(period) => Some(period),
        _ => None,
    };
    let mut due = period.map(|period| Instant::now() + period);
    while !core.background.stopped() {
        // A failure is kept and told to every caller; there is nobody here to tell.
        if core.wants_seal() {
            let _ = core.seal_finished();
        }
        if let Some(target) = core.group.wanted() {
            let _ = core.wait_strictly(LogPosition::from_u64(target));
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            let _ = core.sync();
            due = period.map(|period| Instant::now() + period);
        }
        core.table.reap();
        let left = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()).min(IDLE));
        thread::park_timeout(left);
    }
}
