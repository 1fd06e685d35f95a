//! The ways to open a store.

use super::{ReadView, Store, StoreOptions};
use crate::error::OpenError;
use std::path::Path;

impl Store {
    /// Opens the store in a directory with the default options.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().open(dir)
    }

    /// Opens the store in a directory read-only, as it is now, with the default options. It may be open
    /// for writing, in this process or another one.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<ReadView, OpenError> {
        Self::options().open_read_only(dir)
    }

    /// Opens the store in a directory for writing with the default options, and creates none.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path().join("store");
    /// use tailcask::{OpenError, Store};
    ///
    /// assert!(matches!(Store::open_existing(&dir), Err(OpenError::NotFound { .. })));
    /// Store::options().create_new(true).open(&dir)?.close()?;
    /// assert!(Store::open_existing(&dir)?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OpenError::NotFound`] if there is no store and no log, [`OpenError::NotAStore`] if there is only a
    /// log; others as [`StoreOptions::open`].
    pub fn open_existing(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().create(false).open(dir)
    }

    /// The default options, to be changed and then opened.
    pub fn options() -> StoreOptions {
        StoreOptions::default()
    }
}

impl StoreOptions {
    /// Opens the store in a directory for writing. Creates it if it does not exist, as
    /// [`LogOptions::open`](crate::LogOptions::open) does.
    ///
    /// # Errors
    /// [`OpenError`]; acknowledged data is unchanged.
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<Store, OpenError> {
        self.check()?;
        Store::load(self.log.open(dir)?, self)
    }

    /// Opens the store in a directory read-only, as it is now. Nothing is created or changed, and no
    /// lock is held: it may be open for writing, in this process or another one.
    ///
    /// Only the [recovery mode](Self::recovery_mode), [`verify_on_read`](Self::verify_on_read) and the
    /// [cache budget](Self::cache_budget) have an effect, besides [`shared_directory`](Self::shared_directory)
    /// and [`catch_sigbus`](Self::catch_sigbus).
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_read_only(&self, dir: impl AsRef<Path>) -> Result<ReadView, OpenError> {
        let dir = dir.as_ref();
        ReadView::open(dir, Box::new(self.log.directory(dir)?), self)
    }
}
