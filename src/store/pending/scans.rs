//! The iterations that are under way.

use super::marks::{Extent, ScanMarks};
use crate::position::LogPosition;
use crate::sync::{AtomicUsize, Ordering, PoisonError, RwLock};
use crossbeam_utils::CachePadded;
use std::sync::Arc;

/// The iterations whose marks have to be moved. While there is none, whoever changes a slot loads one
/// word of a line that is not written to.
#[derive(Debug, Default)]
pub(crate) struct ActiveScans {
    count: CachePadded<AtomicUsize>,
    all: RwLock<Vec<Arc<ScanMarks>>>,
}

impl ActiveScans {
    /// To be called before the snapshot.
    pub(crate) fn add(&self, scan: &Arc<ScanMarks>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.push(scan.clone());
        // ORDERING: Relaxed; ordered by the lock of a shard. Marks are set under it, later; who changes
        // a slot after that has locked it later still, and sees this.
        self.count.store(all.len(), Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, scan: &Arc<ScanMarks>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| !Arc::ptr_eq(other, scan));
        // ORDERING: Relaxed; who still sees the old count finds the list without the scan.
        self.count.store(all.len(), Ordering::Relaxed);
    }

    /// Whether there may be any; certain for a slot with a mark, under the lock of its shard.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        // ORDERING: Relaxed; as in `add`.
        self.count.load(Ordering::Relaxed) != 0
    }

    /// A slot changes: it points at `new` instead of `old`, or is removed. The caller holds the write
    /// lock of its shard. `extent` is that of a segment, if
    /// it exists.
    #[inline]
    pub(crate) fn slot_changes(
        &self,
        old: LogPosition,
        new: Option<LogPosition>,
        extent: impl Fn(u32) -> Option<Extent>,
    ) {
        if self.any() {
            self.move_marks(old, new, &extent);
        }
    }

    #[cold]
    fn move_marks(
        &self,
        old: LogPosition,
        new: Option<LogPosition>,
        extent: &dyn Fn(u32) -> Option<Extent>,
    ) {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().for_each(|scan| scan.slot_changes(old, new, extent));
    }
}
