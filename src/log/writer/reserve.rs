//! The reserve: a file that only takes space, and is released when the disk is full.
//!
//! It is released when a delete, a merge or the MANIFEST finds no space. From then on a store takes no
//! puts, so that deletes and merges can continue, until there is space for a reserve again.

use super::LogWriter;
use super::capacity::refused;
use crate::error::AppendError;
use crate::sync::lock;
use std::io;
use std::sync::atomic::Ordering;

/// The smallest and the largest reserve.
const RESERVE: (u64, u64) = (256 << 10, 4 << 20);
/// Less than this in all segments is not worth a reserve.
const WORTH_A_RESERVE: u64 = 1 << 20;

impl LogWriter {
    /// Whether the reserve is released. One load of a word that rarely changes.
    #[inline]
    pub(crate) fn is_short_of_space(&self) -> bool {
        // ORDERING: Relaxed; it stands for no other memory. A put that misses it takes some of the
        // space that the reserve has freed, whose exact amount does not matter.
        self.short_of_space.load(Ordering::Relaxed)
    }

    /// An error if the reserve is released and there is no space for another one.
    #[inline]
    pub(super) fn check_space(&self) -> Result<(), AppendError> {
        if self.is_short_of_space() { self.check_space_again() } else { Ok(()) }
    }

    #[cold]
    #[inline(never)]
    fn check_space_again(&self) -> Result<(), AppendError> {
        if self.keep_reserve().map_err(refused)? {
            return Ok(());
        }
        Err(refused(io::Error::new(io::ErrorKind::StorageFull, "the reserve is in use")))
    }

    /// Makes sure that there is a reserve, if the log is large enough for one. False: there is no
    /// space for it.
    pub(super) fn keep_reserve(&self) -> io::Result<bool> {
        let held: u64 = self.table.with(|all| all.iter().map(|s| s.map.len() as u64).sum());
        let wanted = if held < WORTH_A_RESERVE {
            0
        } else {
            (held / 8).next_power_of_two().clamp(RESERVE.0, RESERVE.1)
        };
        let _guard = lock(&self.reserve);
        let kept = self.storage.keep_reserve(wanted, RESERVE.0)?;
        if kept {
            // ORDERING: Relaxed; as in `is_short_of_space`.
            self.short_of_space.store(false, Ordering::Relaxed);
        }
        Ok(kept)
    }

    /// As `keep_reserve`, for callers that can do without.
    pub(crate) fn try_keep_reserve(&self) {
        if let Err(error) = self.keep_reserve() {
            tracing::debug!(%error, "no reserve");
        }
    }

    pub(super) fn give_back_reserve(&self) -> bool {
        let _guard = lock(&self.reserve);
        let given = self.storage.give_back_reserve();
        self.note_reserve();
        given.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not release the reserve");
            false
        })
    }

    /// Records whether the reserve was released, here or by the storage, for a MANIFEST.
    pub(super) fn note_reserve(&self) {
        if self.storage.reserve_is_given() {
            // ORDERING: Relaxed; as in `is_short_of_space`.
            self.short_of_space.store(true, Ordering::Relaxed);
        }
    }
}
