//! The key-value store: values in a log, and an index of keys in memory.
//!
//! [`Store`] is the way in. It holds the log, and a `StoreInner` that it shares with the thread which
//! merges. Reading is in `view`, which knows no writer, and a [`ReadView`] is built on the same view;
//! writing is in `write`, `conditional` and `batch`; `open` opens a store, and `load` makes its keydir from hints and
//! frames; `merge` reclaims space; `backup`, `verify`, `salvage` and `repair` are what their names say.

mod backup;
mod batch;
mod batch_ttls;
mod cold;
mod conditional;
mod counters;
mod dead_bytes;
mod end;
mod expectations;
mod expiry;
mod found;
mod get_many;
mod hints;
mod inner;
mod iter;
mod load;
mod maintenance;
mod merge;
mod open;
mod options;
mod pending;
mod read_view;
mod repair;
mod salvage;
mod stats;
#[cfg(feature = "testing")]
mod testing;
#[cfg(feature = "zerocopy")]
mod typed;
mod usage;
mod value;
mod verify;
mod view;
mod with_options;
mod write;

pub use backup::BackupReport;
pub use batch::Batch;
pub use conditional::{Change, Updated};
pub use expectations::Expected;
pub use expiry::Expiry;
pub use iter::{Keys, Pair, Pairs};
pub use merge::policy::MergePolicy;
pub use merge::{MergeReport, MergeTotals};
pub use options::{StoreOptions, Ttl, WriteOptions};
pub use read_view::ReadView;
pub use stats::{CacheStats, DamagedSegment, LatencyStats, SegmentStats, Stats};
pub use value::Value;

use self::end::StoreEnd;
use self::inner::StoreInner;
use crate::error::{CasMismatch, ReadError, SyncError, WriteError};
use crate::latency::Operation;
#[cfg(feature = "metrics")]
use crate::latency::Timer;
use crate::log::writer::{Inside, LogWriter};
use crate::log::{CommitLog, RecoveryReport};
use crate::position::LogPosition;
use std::sync::Arc;

/// A key-value store: keys of 1 to 65,535 bytes, values up to
/// [`max_value_size`](StoreOptions::max_value_size).
///
/// Any number of threads use one handle, or clones of it, which are cheap. Operations on one key are
/// linearizable, and a [`Batch`] is atomic. At every [`Durability`](crate::Durability) an acknowledged write
/// survives the death of the process.
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
///
/// Writes that depend on what is there, or that have options:
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let store = tailcask::Store::open(dir.path().join("store"))?;
/// use std::time::Duration;
/// use tailcask::{Batch, Durability, WriteOptions};
///
/// assert!(store.put_if_absent("lock", "ann")?);
/// assert!(store.compare_and_swap("lock", Some(b"ann"), Some(b"bob"))?.is_ok());
/// let count = |old: Option<&[u8]>| Some(vec![old.map_or(0, |old| old[0]) + 1]);
/// assert_eq!(store.update("count", count)?, Some(vec![1]));
/// let session = WriteOptions::new().ttl(Duration::from_secs(3600)).durability(Durability::Synced);
/// store.put_with("session", "x", &session)?;
/// let mut batch = Batch::new();
/// batch.put("a", "1").delete("b");
/// store.write(&batch)?; // all of it or nothing
/// store.sync()?; // everything so far is on the device
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Reading:
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let store = tailcask::Store::open(dir.path().join("store"))?;
/// # store.put("a", "1")?; store.put("b", "22")?;
/// assert!(store.contains_key("a")?);
/// assert_eq!(store.value_len("b")?, Some(2));
/// assert_eq!(store.get_with("b", |value| value.len())?, Some(2)); // the cheapest way
/// let values = store.get_many(&["a", "b", "c"])?; // many at once are faster than one by one
/// assert!(values[2].is_none());
/// let mut bytes = 0;
/// store.get_many_with(&["a", "b"], |_, value| bytes += value.map_or(0, |value| value.len()))?;
/// assert_eq!(bytes, 3);
/// for pair in store.iter() { // or in `&store`
///     let pair = pair?;
///     println!("{:?}: {:?}", pair.key(), pair.value());
/// }
/// let keys: Vec<Vec<u8>> = store.keys().collect::<Result<_, _>>()?;
/// assert_eq!(keys.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What an operator does, while others read and write:
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let (path, backup) = (dir.path().join("store"), dir.path().join("backup"));
/// # let (copy, store) = (dir.path().join("copy"), tailcask::Store::open(&path)?);
/// use tailcask::Store;
///
/// store.put("a", "1")?;
/// store.merge()?; // reclaims space, which the store also does by itself
/// store.verify()?; // reads every byte
/// store.set_cache_budget(4 << 30);
/// store.backup(&backup)?;
/// assert_eq!(Store::open_read_only(&backup)?.len(), 1); // a backup is a store
/// Store::repair(&backup, &copy)?; // a good copy of a damaged one
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The store is closed by [`close`](Self::close) on any handle, or when the last one is dropped:
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use tailcask::{Store, WriteError};
///
/// let store = Store::open(dir.path().join("store"))?;
/// let worker = std::thread::spawn({
///     let store = store.clone();
///     move || store.put("colour", "green")
/// });
/// worker.join().expect("no panic")?;
/// let other = store.clone();
/// let value = other.get("colour")?.expect("it was put");
/// store.close()?;
/// assert!(matches!(other.put("colour", "red"), Err(WriteError::Closed)));
/// assert_eq!(&*value, b"green"); // what was read stays valid
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    /// A handle: the last one closes the store, with the log.
    log: CommitLog,
    inner: Arc<StoreInner>,
    end: Arc<StoreEnd>,
    /// The log's report, with what loading the keys found.
    report: Arc<RecoveryReport>,
}

impl Store {
    fn writer(&self) -> &LogWriter {
        &self.inner.writer
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn timer(&self) -> &Timer {
        &self.inner.timer
    }

    #[inline(always)]
    fn time<R>(&self, operation: Operation, run: impl FnOnce() -> R) -> R {
        self.inner.timer.time(operation, run)
    }

    /// Enters, to change files or to read all of them. `None`: the store is closed.
    fn enter(&self) -> Option<Inside<'_>> {
        self.writer().enter()
    }

    // ---- writing ----

    /// Sets a key's value, and returns the position of its frame in the log.
    ///
    /// # Errors
    /// [`WriteError`]; unless it is [`AppendError::Sync`](crate::AppendError::Sync) with a position, nothing
    /// was changed.
    pub fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<LogPosition, WriteError> {
        self.time(Operation::Put, || self.inner.put(key.as_ref(), value.as_ref(), None, None))
    }

    /// As [`put`](Self::put), with a durability or a TTL for this write. The value does not expire unless the
    /// options say so. Keeping the TTL makes it a conditional write: the old value is read, and the new one
    /// is copied under the lock of the key's shard.
    ///
    /// # Errors
    /// As `put`.
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<LogPosition, WriteError> {
        self.time(Operation::Put, || self.inner.put_with(key.as_ref(), value.as_ref(), options))
    }

    /// Deletes a key. True if it had a value.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, WriteError> {
        Ok(self.delete_with(key, &WriteOptions::new())?.is_some())
    }

    /// Deletes a key without reading its value; true if there was one. [`delete`](Self::delete) refuses
    /// to delete a damaged value, since it cannot be read. If the stored key itself is damaged, the
    /// frame with this key's hash is given up; no other key could read it either. The next merge
    /// removes the damaged frame, and `verify` no longer reports it as an error.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete_damaged(&self, key: impl AsRef<[u8]>) -> Result<bool, WriteError> {
        self.time(Operation::Delete, || self.inner.delete_damaged(key.as_ref()))
    }

    /// Sets a key's value if it has none. True if it was set.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_if_absent(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, WriteError> {
        Ok(self.put_if_absent_with(key, value, &WriteOptions::new())?.is_some())
    }

    /// Sets a key's value to `new` if it is `expected`. `None` stands for no value, in both. The TTL stays
    /// as it is.
    ///
    /// # Errors
    /// As [`put`](Self::put). The inner error says that the value was another one, and which.
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<Result<(), CasMismatch>, WriteError> {
        let swapped = self.compare_and_swap_with(key, expected, new, &WriteOptions::new())?;
        Ok(swapped.map(drop))
    }

    /// Replaces a key's value by what `change` returns for it, and returns the new value. `change` gets
    /// `None` if the key has no value; returning `None` deletes the key. It runs without a lock, and
    /// again if another write to the key came in between. The TTL stays as it is. For a closure that can fail
    /// or leave the value as it is see [`try_update`](Self::try_update).
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn update(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, WriteError> {
        Ok(self.update_with(key, change, &WriteOptions::new())?.value)
    }

    /// Does all writes of a batch, in their order, or none; none if something is not as the batch
    /// [expects](Batch::expect). Together they may have almost 2 GiB. Returns the position of the batch, or
    /// the end of the log if it writes nothing; [`write_positions`](Self::write_positions) returns those of
    /// the writes.
    ///
    /// # Errors
    /// As [`put`](Self::put), and [`WriteError::Conflict`].
    pub fn write(&self, batch: &Batch) -> Result<LogPosition, WriteError> {
        self.write_with(batch, &WriteOptions::new())
    }

    // ---- reading ----

    /// A key's value, in place. `None` if the key has none, or it has expired.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if the value, or the key that it is stored with, is damaged.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value<'_>>, ReadError> {
        self.time(Operation::Get, || self.inner.get(key.as_ref()))
    }

    /// The values of several keys, in the order of the keys. Each [batch](Batch) is seen whole or not
    /// at all.
    ///
    /// # Errors
    /// As [`get`](Self::get): the error of the first key that has one.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<Value<'_>>>, ReadError> {
        self.time(Operation::GetMany, || self.inner.get_many(keys))
    }

    /// Calls `read` with a key's value, in place, and returns what it returns; `None` if the key has no
    /// value, or it has expired. Cheaper than [`get`](Self::get), since nothing has to keep the value
    /// for longer. No lock is held meanwhile, but no segment that a merge has replaced is unmapped, so
    /// `read` should be quick.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_with<R>(
        &self,
        key: impl AsRef<[u8]>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, ReadError> {
        self.time(Operation::Get, || self.inner.get_with(key.as_ref(), read))
    }

    /// Calls `each` with the index and the value of several keys, in the order of the keys, as
    /// [`get_with`](Self::get_with) does for one. Each [batch](Batch) is seen whole or not
    /// at all.
    ///
    /// # Errors
    /// As [`get`](Self::get): the error of the first key that has one. `each` was called for the keys
    /// before it.
    pub fn get_many_with<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        each: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<(), ReadError> {
        self.time(Operation::GetMany, || self.inner.get_many_with(keys, each))
    }

    /// Whether a key has a value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool, ReadError> {
        self.inner.contains_key(key.as_ref())
    }

    /// The length of a key's value in bytes.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn value_len(&self, key: impl AsRef<[u8]>) -> Result<Option<usize>, ReadError> {
        self.inner.value_len(key.as_ref())
    }

    /// All keys and values, in no particular order. Every key that exists throughout the iteration
    /// comes exactly once, with the value that is current when it comes; a key that is deleted before
    /// does not come. Nothing is locked between items, and the iteration ends even if writers never
    /// rest.
    ///
    /// It begins with a pass over the keydir, and then reads each segment once, from the front to the back.
    /// Until it is dropped it keeps marks in memory; see [store.md](https://docs.rs/crate/tailcask/latest/source/docs/store.md).
    pub fn iter(&self) -> Pairs<'_> {
        Pairs::new(&self.inner)
    }

    /// As [`iter`](Self::iter), in several parts, for as many threads: each key comes in one of them.
    /// They share out the segments as they go. If one is dropped before its end, the others that are
    /// not at theirs take over what it leaves. No parts (0) have no keys.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// # (0..100u32).try_for_each(|n| store.put(n.to_le_bytes(), "value").map(drop))?;
    /// let keys: usize = std::thread::scope(|threads| {
    ///     let parts = store.iter_parts(4).into_iter();
    ///     let counts: Vec<_> = parts.map(|part| threads.spawn(|| part.count())).collect();
    ///     counts.into_iter().map(|count| count.join().expect("no panic")).sum()
    /// });
    /// assert_eq!(keys, 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter_parts(&self, parts: usize) -> Vec<Pairs<'_>> {
        Pairs::parts(&self.inner, parts)
    }

    /// As [`iter`](Self::iter), without borrowing the store: for a thread or a task of its own. It is a
    /// handle, so it keeps the store open, until that is [closed](Self::close).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// store.put("colour", "green")?;
    /// let pairs = store.iter_owned();
    /// let counting = std::thread::spawn(move || pairs.filter(Result::is_ok).count());
    /// assert_eq!(counting.join().expect("no panic"), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter_owned(&self) -> Pairs<'static> {
        Pairs::owned(&self.inner, &self.log)
    }

    /// As [`keys`](Self::keys), without borrowing the store; see [`iter_owned`](Self::iter_owned).
    pub fn keys_owned(&self) -> Keys<'static> {
        Keys(self.iter_owned())
    }

    /// All keys, with the guarantees of [`iter`](Self::iter).
    pub fn keys(&self) -> Keys<'_> {
        Keys(self.iter())
    }

    /// Number of keys, including expired ones that have not been reclaimed yet.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.inner.keydir.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.keydir.is_empty()
    }

    /// Memory that the keydir takes, in bytes.
    #[must_use]
    pub fn keydir_memory(&self) -> u64 {
        self.inner.keydir.memory()
    }

    /// Changes the [cache budget](StoreOptions::cache_budget) while the store is open; it does not follow
    /// the memory any longer. With 0 the store is cold from now on, with `u64::MAX` never.
    pub fn set_cache_budget(&self, bytes: u64) {
        self.writer().segment_set().set_cache_budget(bytes);
    }

    /// Counters since the store was opened, and its current state. Takes some nanoseconds per write
    /// since the last call, and per segment, and some 50 us to look at what is in memory. Once the store
    /// is closed, those at its end.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let log = self.log.stats();
        Stats { log, ..self.end.stats() }
    }

    // ---- the log below ----

    /// Makes all writes durable: everything before the returned position is on the device.
    ///
    /// # Errors
    /// [`SyncError`]. After a failed sync the store refuses writes permanently.
    pub fn sync(&self) -> Result<LogPosition, SyncError> {
        self.log.sync()
    }

    /// As [`sync`](Self::sync), for async callers on any executor. It is the async form of every durable
    /// write: write with [`Durability::Buffered`](crate::Durability::Buffered), then await this. Tasks that
    /// wait share syncs.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// # let task = async {
    /// store.put("colour", "green")?;
    /// store.sync_async().await?; // it is on the device
    /// # Ok::<(), tailcask::Error>(())
    /// # };
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(task)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SyncError`].
    pub async fn sync_async(&self) -> Result<LogPosition, SyncError> {
        self.log.sync_async().await
    }

    /// The log below. Entries appended to it are kept beside the values; they are not keys.
    #[must_use]
    pub const fn log(&self) -> &CommitLog {
        &self.log
    }

    /// What opening the store found.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Makes all writes durable and closes the store, so that the next open has nothing to recover.
    /// Dropping the last handle does the same, but only logs an error; a clone of the store's
    /// [log](Self::log) is a handle, too.
    ///
    /// From then on every call that would read or write, on any handle, gives `Closed`, and so does an
    /// iteration that is under way. Values and pairs that were read stay valid, and [`len`](Self::len),
    /// [`stats`](Self::stats) and the like answer as of the end. Writes, backups and verifications in
    /// progress are waited for; a merge ends early. Closing again does nothing and returns the same
    /// result.
    ///
    /// # Errors
    /// [`SyncError`]. The store is closed all the same, but for [`SyncError::InsideAppend`].
    pub fn close(&self) -> Result<(), SyncError> {
        self.log.close()
    }
}

impl<'a> IntoIterator for &'a Store {
    type Item = Result<Pair<'a>, ReadError>;
    type IntoIter = Pairs<'a>;

    fn into_iter(self) -> Pairs<'a> {
        self.iter()
    }
}
