//! The end of a store: its thread is stopped before its log is closed, and its last hints and figures are
//! taken before the log is unlocked. See `log::handle`.

use super::inner::StoreInner;
use super::stats::Stats;
use crate::log::handle::Tenant;
use crate::log::maintenance::join;
use crate::sync::thread::JoinHandle;
use crate::sync::{Mutex, lock};
use std::sync::{Arc, OnceLock};

#[derive(Debug)]
pub(super) struct StoreEnd {
    inner: Arc<StoreInner>,
    /// `None` where maintenance is done by hand, or once it has ended.
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The figures when the store was closed.
    last: OnceLock<Stats>,
}

impl StoreEnd {
    pub(super) fn new(inner: Arc<StoreInner>, thread: Option<JoinHandle<()>>) -> Self {
        Self { inner, thread: Mutex::new(thread), last: OnceLock::new() }
    }

    /// The store's figures, without those of its log.
    pub(super) fn stats(&self) -> Stats {
        self.last.get().cloned().unwrap_or_else(|| self.inner.stats())
    }
}

impl Tenant for StoreEnd {
    fn stop(&self) {
        self.inner.stop();
        if let Some(thread) = lock(&self.thread).take() {
            thread.thread().unpark();
            join(thread);
        }
    }

    fn finish(&self) {
        // A write sets its slots before or after its commit.
        self.inner.keydir.wait_for_writers();
        let _alone = self.inner.merging();
        self.inner.list_sealed(false);
        self.last.get_or_init(|| self.inner.stats());
    }
}
