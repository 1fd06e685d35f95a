//! What tests of a store may do to it: the feature `testing`.

use super::{BackupReport, MergeReport, Store, StoreOptions};
use crate::error::{BackupError, MergeError, OpenError};
use crate::storage::simulated::SimulatedDisk;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// With the feature `testing`.
impl StoreOptions {
    /// Opens the store on a simulated disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_simulated(&self, disk: &SimulatedDisk) -> Result<Store, OpenError> {
        self.check()?;
        Store::load(self.log.open_simulated(disk)?, self)
    }

    /// Values expire by this time instead of the system's, and segments of the log are sealed by it:
    /// milliseconds since 1970, which the test sets and may change while the store is open.
    ///
    /// ```
    /// # use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
    /// # use std::time::Duration;
    /// use tailcask::{SimulatedDisk, Store, WriteOptions};
    ///
    /// let now = Arc::new(AtomicU64::new(1_000_000));
    /// let store = Store::options().clock(now.clone()).open_simulated(&SimulatedDisk::new())?;
    /// store.put_with("session", "x", &WriteOptions::new().ttl(Duration::from_secs(60)))?;
    /// now.fetch_add(59_999, Ordering::Relaxed);
    /// assert!(store.contains_key("session")?);
    /// now.fetch_add(1, Ordering::Relaxed);
    /// assert!(!store.contains_key("session")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clock(mut self, milliseconds: Arc<AtomicU64>) -> Self {
        self.log = self.log.clock(milliseconds);
        self
    }

    /// As [`LogOptions::segment_unit`](crate::LogOptions::segment_unit).
    pub fn segment_unit(mut self, bytes: u64) -> Self {
        self.log = self.log.segment_unit(bytes);
        self
    }

    /// Uses only this many bits of each key's tag, of 32, so that keys collide in the index.
    pub const fn tag_bits(mut self, bits: u32) -> Self {
        self.tag_bits = bits;
        self
    }

    /// Uses only this many bits of the first of the two hashes that stand for a key in hints, of 64, so that
    /// only the second one tells keys apart.
    pub const fn first_half_bits(mut self, bits: u32) -> Self {
        self.first_half_bits = bits;
        self
    }
}

/// With the feature `testing`.
impl Store {
    /// Abandons the store as a dying process would: nothing is synced or sealed, so that the next open has
    /// something to recover. Other handles are closed.
    pub fn abort(self) {
        self.log.abandon();
    }

    /// Makes another segment active and seals the previous one, however full it is.
    ///
    /// # Errors
    /// As [`merge`](Self::merge).
    pub fn roll(&self) -> Result<(), MergeError> {
        let _inside = self.enter().ok_or(MergeError::Closing)?;
        self.writer().force_roll()?;
        self.writer().sync()?;
        Ok(())
    }

    /// Merges those of the segments with these ids that can be merged.
    ///
    /// # Errors
    /// As [`merge`](Self::merge).
    pub fn merge_only(&self, ids: &[u32]) -> Result<MergeReport, MergeError> {
        self.merge_while(ids, || {})
    }

    /// As [`merge_only`](Self::merge_only); `meanwhile` runs once, after the records are copied and before
    /// readers are sent to the copies.
    ///
    /// # Errors
    /// As [`merge`](Self::merge).
    pub fn merge_while(
        &self,
        ids: &[u32],
        meanwhile: impl FnOnce() + Send + 'static,
    ) -> Result<MergeReport, MergeError> {
        let _inside = self.enter().ok_or(MergeError::Closing)?;
        self.inner.merge_these(ids, meanwhile)
    }

    /// As [`backup`](Self::backup); `meanwhile` runs once it is decided what the backup contains, before
    /// any file is linked.
    ///
    /// # Errors
    /// As `backup`.
    pub fn backup_while(
        &self,
        dest: impl AsRef<Path>,
        meanwhile: impl FnOnce(),
    ) -> Result<BackupReport, BackupError> {
        self.backup_in_steps(dest.as_ref(), meanwhile)
    }
}
