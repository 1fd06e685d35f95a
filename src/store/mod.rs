//! The key-value store on the log's tail.
//!
//! [`Store`] is the way in. It holds the log, and a `StoreInner` that it shares with the thread which
//! merges. Reading is in `view`, which knows no writer, and a [`ReadView`] is built on the same view;
//! writing is in `write` and `batch`; `load` makes the keydir when a store is opened, from hints and
//! frames; `merge` reclaims space; `backup`, `verify`, `salvage` and `repair` are what their names say.

mod backup;
mod batch;
mod clock;
mod hints;
mod inner;
mod iter;
mod load;
mod maintenance;
mod merge;
mod options;
mod read_view;
mod repair;
mod salvage;
mod stats;
mod value;
mod verify;
mod view;
mod write;

pub use backup::BackupReport;
pub use batch::Batch;
pub use iter::{Keys, Pair, Pairs};
pub use merge::MergeReport;
pub use merge::policy::MergePolicy;
pub use options::{StoreOptions, WriteOptions};
pub use read_view::ReadView;
pub use stats::{DamagedSegment, MergeTotals, SegmentStats, Stats};
pub use value::Value;

use self::inner::StoreInner;
use crate::error::{CasMismatch, OpenError, ReadError, SyncError, WriteError};
use crate::log::writer::LogWriter;
use crate::log::{CommitLog, RecoveryReport};
use crate::position::LogPosition;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A key-value store: keys of 1 to 65,535 bytes, values up to the configured limit.
///
/// Any number of threads use one shared handle. Operations on one key are linearizable.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use tailcask::Store;
///
/// let store = Store::open(dir.path().join("store"))?;
/// store.put("colour", "green")?;
/// assert_eq!(&*store.get("colour")?.expect("just put"), b"green");
/// assert!(store.delete("colour")?);
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Store {
    log: CommitLog,
    inner: Arc<StoreInner>,
    maintainer: Option<JoinHandle<()>>,
    /// Damage that was stepped over when the keys were loaded, beside what the log met.
    report: RecoveryReport,
}

impl Store {
    /// Opens the store in a directory with the default options.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().open(dir)
    }

    /// Opens the store in a directory for reading only, as it is now, with the default options. It
    /// may be open for writing, here or in another process.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<ReadView, OpenError> {
        Self::options().open_read_only(dir)
    }

    /// The options of a store, to be changed and then opened.
    pub fn options() -> StoreOptions {
        StoreOptions::default()
    }

    fn writer(&self) -> &LogWriter {
        &self.inner.writer
    }

    // ---- writing ----

    /// Sets a key's value.
    ///
    /// # Errors
    /// [`WriteError`]; unless it is [`AppendError::Sync`](crate::AppendError::Sync) with a position, nothing was changed.
    pub fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<LogPosition, WriteError> {
        self.put_with(key, value, &WriteOptions::new())
    }

    /// As [`put`](Self::put), with a durability or a time to live of its own.
    ///
    /// # Errors
    /// As `put`.
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<LogPosition, WriteError> {
        self.inner.put(key.as_ref(), value.as_ref(), options.ttl, options.durability)
    }

    /// Removes a key, and says whether it was there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, WriteError> {
        self.inner.delete(key.as_ref())
    }

    /// Removes a key without looking at its value, and says whether there was one: what `delete` refuses
    /// where the value is damaged, since it cannot be read. Where the key itself is damaged, the frame
    /// is removed that has the hash of this one; it could not be read by any other key either. What was
    /// damaged then goes with the next merge, and `verify` does not mind it.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete_damaged(&self, key: impl AsRef<[u8]>) -> Result<bool, WriteError> {
        self.inner.delete_damaged(key.as_ref())
    }

    /// Sets a key's value if it has none, and says whether it had none.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_if_absent(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, WriteError> {
        self.inner.put_if_absent(key.as_ref(), value.as_ref())
    }

    /// Sets a key's value to `new` (removes it for `None`) if it is `expected` (absent for `None`).
    ///
    /// # Errors
    /// As [`put`](Self::put); the inner error says that the value was another one.
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<Result<(), CasMismatch>, WriteError> {
        self.inner.compare_and_swap(key.as_ref(), expected, new)
    }

    /// Sets a key's value to what `change` makes of it (`None`: absent, before and after). `change`
    /// runs without a lock, and again if another write came in between.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn update(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, WriteError> {
        self.inner.update(key.as_ref(), change)
    }

    /// Does all writes of a batch, in its order, or none. At most 2 GiB together. The
    /// position is that of the batch; for an empty one, the end of the log.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn write(&self, batch: &Batch) -> Result<LogPosition, WriteError> {
        if batch.is_empty() { Ok(self.log.tail()) } else { self.inner.write(batch) }
    }

    // ---- reading ----

    /// A key's value, in place.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if its checksum does not match.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value<'_>>, ReadError> {
        self.inner.get(key.as_ref())
    }

    /// The values of many keys, in their order. Each [batch](Batch) is seen whole or not at all.
    ///
    /// # Errors
    /// As [`get`](Self::get), of the first key that has one.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<Value<'_>>>, ReadError> {
        self.inner.get_many(keys)
    }

    /// Whether a key has a value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool, ReadError> {
        self.inner.contains_key(key.as_ref())
    }

    /// The length of a key's value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn value_len(&self, key: impl AsRef<[u8]>) -> Result<Option<usize>, ReadError> {
        self.inner.value_len(key.as_ref())
    }

    /// All keys and values. Every key that is there throughout comes exactly once; nothing is
    /// locked between items. In no particular order.
    pub fn iter(&self) -> Pairs<'_> {
        Pairs::new(&self.inner)
    }

    /// All keys, as [`iter`](Self::iter).
    pub fn keys(&self) -> Keys<'_> {
        Keys(self.iter())
    }

    /// How many keys there are, expired ones included that nothing has reclaimed yet.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.inner.keydir.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the keydir takes.
    #[must_use]
    pub fn keydir_memory(&self) -> u64 {
        self.inner.keydir.memory()
    }

    // ---- the log below ----

    /// Makes everything durable that was written; everything before the position is then.
    ///
    /// # Errors
    /// [`SyncError`]. After a failed sync the store refuses writes for good.
    pub fn sync(&self) -> Result<LogPosition, SyncError> {
        self.log.sync()
    }

    /// The log below. What is appended to it is kept, and is no key.
    #[must_use]
    pub const fn log(&self) -> &CommitLog {
        &self.log
    }

    /// What was found when the store was opened.
    #[must_use]
    pub const fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Makes everything durable and closes the store. The next open has nothing to repair.
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn close(mut self) -> Result<(), SyncError> {
        self.close_inner()
    }

    /// Lets go without syncing or sealing, as a process that dies. For tests of recovery.
    #[doc(hidden)]
    pub fn abort(mut self) {
        self.end_maintenance();
        self.log.forsake();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.close_inner() {
            tracing::error!(%error, "closing the store failed in a drop");
        }
    }
}

impl<'a> IntoIterator for &'a Store {
    type Item = Result<Pair<'a>, ReadError>;
    type IntoIter = Pairs<'a>;

    fn into_iter(self) -> Pairs<'a> {
        self.iter()
    }
}
