//! What is known of accesses to mapped files that failed, where SIGBUS is caught.

use std::sync::atomic::{AtomicU64, Ordering};

/// A failed access: in which file, and in which page of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) file: FileName,
    pub(crate) offset: u64,
}

/// The segment or the hint that a file is, by the id in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileName {
    pub(crate) id: u32,
    pub(crate) is_hint: bool,
}

/// Offsets are counted in the smallest pages, so that a fault fits into one word.
const PAGE: u64 = 4096;
/// Set in the word of any fault.
const IS_FAULT: u64 = 1 << 31;
const IS_HINT: u64 = 1 << 30;

impl Fault {
    const fn to_word(self) -> u64 {
        let hint = if self.file.is_hint { IS_HINT } else { 0 };
        // A segment has less than 2^20 pages; of a longer file the offset is not exact.
        let page = self.offset / PAGE;
        let page = if page < IS_HINT { page } else { IS_HINT - 1 };
        (self.file.id as u64) << 32 | IS_FAULT | hint | page
    }

    const fn from_word(word: u64) -> Option<Self> {
        if word & IS_FAULT == 0 {
            return None;
        }
        let file = FileName { id: (word >> 32) as u32, is_hint: word & IS_HINT != 0 };
        Some(Self { file, offset: (word & (IS_HINT - 1)) * PAGE })
    }
}

/// The first fault in the files of a handle. It is never forgotten.
#[derive(Debug, Default)]
pub(crate) struct Faults(AtomicU64);

impl Faults {
    /// Records a fault, unless there was one before. Called by a signal handler.
    pub(crate) fn record(&self, fault: Fault) {
        // ORDERING: Release on success; pairs with the Acquire load in `first`: who sees the fault comes
        // after what the handler did before. Relaxed on failure: the first fault counts.
        let (success, failure) = (Ordering::Release, Ordering::Relaxed);
        let _ = self.0.compare_exchange(0, fault.to_word(), success, failure);
    }

    /// The first fault, if there was one.
    pub(crate) fn first(&self) -> Option<Fault> {
        // ORDERING: Acquire; pairs with the Release exchange in `record`.
        Fault::from_word(self.0.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_is_kept() {
        let faults = Faults::default();
        assert_eq!(faults.first(), None);
        let fault = |id, is_hint, offset| Fault { file: FileName { id, is_hint }, offset };
        for first in [fault(1, false, 0), fault(u32::MAX, true, (4 << 30) - 4096)] {
            let faults = Faults::default();
            faults.record(first);
            faults.record(fault(7, false, 8192));
            assert_eq!(faults.first(), Some(first));
        }
    }
}
