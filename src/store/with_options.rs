//! Writes with options, and times to live: what users call. Each write of a single key returns the position
//! of what it wrote, or `None` if there was nothing to write.

use super::Store;
use super::batch::Batch;
use super::conditional::{Change, Updated};
use super::expiry::Expiry;
use super::options::{Ttl, WriteOptions};
use crate::error::{CasMismatch, ReadError, WriteError};
use crate::latency::Operation;
use crate::position::LogPosition;
use std::convert::Infallible;

impl Store {
    /// As [`delete`](Self::delete), with a durability for this write. Returns the position of the tombstone;
    /// `None` if the key had no value. A TTL has no effect, but for one of zero, which is an error as in
    /// every write.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete_with(
        &self,
        key: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<Option<LogPosition>, WriteError> {
        self.time(Operation::Delete, || self.inner.delete(key.as_ref(), options))
    }

    /// As [`put_if_absent`](Self::put_if_absent), with a durability or a TTL for this write; see
    /// [`WriteOptions`] for an example. Returns the position of the put; `None` if the key had a value.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_if_absent_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<Option<LogPosition>, WriteError> {
        self.time(Operation::Update, || {
            self.inner.put_if_absent(key.as_ref(), value.as_ref(), options)
        })
    }

    /// As [`compare_and_swap`](Self::compare_and_swap), with a durability or a TTL for this write; see
    /// [`WriteOptions`] for an example. The TTL stays as it is unless the options say so. Returns the position
    /// of the put or the tombstone; `None` if the key has no value, and was to have none.
    ///
    /// # Errors
    /// As `compare_and_swap`.
    pub fn compare_and_swap_with(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        options: &WriteOptions,
    ) -> Result<Result<Option<LogPosition>, CasMismatch>, WriteError> {
        self.time(Operation::Update, || {
            self.inner.compare_and_swap(key.as_ref(), expected, new, options)
        })
    }

    /// As [`update`](Self::update), with a durability or a TTL for this write. The TTL stays as it is unless
    /// the options say so.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn update_with(
        &self,
        key: impl AsRef<[u8]>,
        mut change: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
        options: &WriteOptions,
    ) -> Result<Updated, WriteError> {
        let change = |old: Option<&[u8]>| {
            Ok::<_, Infallible>(change(old).map_or(Change::Delete, Change::Set))
        };
        let update = || self.inner.try_update(key.as_ref(), options, change);
        let Ok(updated) = self.time(Operation::Update, update)?;
        Ok(updated)
    }

    /// Does with a key what `change` returns for its value, or nothing if it returns an error, which is then
    /// the inner one. `change` gets `None` if the key has no value. It runs without a lock, and again if
    /// another write to the key came in between. The TTL stays as it is.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// use tailcask::{Change, Store, WriteError};
    ///
    /// #[derive(Debug, PartialEq)]
    /// struct SoldOut;
    ///
    /// /// Takes one of what is in stock. The last one removes the key.
    /// fn take(store: &Store, item: &str) -> Result<Result<(), SoldOut>, WriteError> {
    ///     let taken = store.try_update(item, |stock| match stock {
    ///         None => Err(SoldOut),
    ///         Some([1]) => Ok(Change::Delete),
    ///         Some(stock) => Ok(Change::Set(vec![stock[0] - 1])),
    ///     })?;
    ///     Ok(taken.map(drop))
    /// }
    ///
    /// store.put("apples", [2])?;
    /// assert_eq!(take(&store, "apples")?, Ok(()));
    /// assert_eq!(take(&store, "apples")?, Ok(()));
    /// assert_eq!(take(&store, "apples")?, Err(SoldOut));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn try_update<E>(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(Option<&[u8]>) -> Result<Change, E>,
    ) -> Result<Result<Updated, E>, WriteError> {
        self.try_update_with(key, change, &WriteOptions::new())
    }

    /// As [`try_update`](Self::try_update), with a durability or a TTL for this write.
    ///
    /// # Errors
    /// As `try_update`.
    pub fn try_update_with<E>(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(Option<&[u8]>) -> Result<Change, E>,
        options: &WriteOptions,
    ) -> Result<Result<Updated, E>, WriteError> {
        self.time(Operation::Update, || self.inner.try_update(key.as_ref(), options, change))
    }

    /// As [`write`](Self::write), with a durability for the batch, and a TTL for those of its puts that were
    /// given none.
    ///
    /// # Errors
    /// As `write`.
    pub fn write_with(
        &self,
        batch: &Batch,
        options: &WriteOptions,
    ) -> Result<LogPosition, WriteError> {
        self.inner.expiry_of(options.ttl.unwrap_or(Ttl::Remove))?;
        if batch.is_empty() && batch.expectations.is_empty() {
            return self.inner.tail_if_open(options.durability);
        }
        self.time(Operation::Batch, || self.inner.write(batch, options))
    }

    /// As [`write_with`](Self::write_with), and returns the position of each write, in the order of the batch:
    /// of a put what [`Value::written_at`](super::Value::written_at) tells and a later batch can
    /// [expect](super::Expected::Position), of a delete that of its tombstone. Empty if the batch writes
    /// nothing.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// # store.put("queue/7", "resize a picture")?;
    /// use tailcask::{Batch, Expected, WriteError, WriteOptions};
    ///
    /// // Takes a job that nobody has, in one step.
    /// let mut take = Batch::new();
    /// take.expect("owner/7", Expected::Absent).put("owner/7", "ann").delete("queue/7");
    /// let lease = store.write_positions(&take, &WriteOptions::new())?[0];
    ///
    /// // Finishes it, if that is still the lease: not one that ann took later.
    /// let mut finish = Batch::new();
    /// finish.expect("owner/7", Expected::Position(lease)).delete("owner/7").put("done/7", "a picture");
    /// store.write(&finish)?;
    /// assert!(matches!(store.write(&finish), Err(WriteError::Conflict(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_positions(
        &self,
        batch: &Batch,
        options: &WriteOptions,
    ) -> Result<Vec<LogPosition>, WriteError> {
        self.inner.expiry_of(options.ttl.unwrap_or(Ttl::Remove))?;
        if batch.is_empty() && batch.expectations.is_empty() {
            return self.inner.unchanged(Vec::new(), None, options.durability);
        }
        self.time(Operation::Batch, || self.inner.write_positions(batch, options))
    }

    /// When a key's value expires. `None` if the key has no value.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// use std::time::Duration;
    /// use tailcask::{Expiry, Ttl};
    ///
    /// store.put("session", "ann")?;
    /// assert_eq!(store.ttl("session")?, Some(Expiry::Never));
    /// assert_eq!(store.ttl("nothing")?, None);
    ///
    /// let hour = Duration::from_secs(3600);
    /// assert!(store.touch("session", hour)?);
    /// assert!(matches!(store.ttl("session")?, Some(Expiry::In(left)) if left <= hour));
    /// store.touch("session", Ttl::Remove)?;
    /// assert_eq!(store.ttl("session")?, Some(Expiry::Never));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<Expiry>, ReadError> {
        self.inner.ttl(key.as_ref())
    }

    /// Changes the TTL of a key, and leaves its value as it is; see [`ttl`](Self::ttl) for an example. True
    /// if it has a value. The value is written again, so this takes as long, and as much space, as putting
    /// it.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn touch(&self, key: impl AsRef<[u8]>, ttl: impl Into<Ttl>) -> Result<bool, WriteError> {
        let options = WriteOptions { ttl: Some(ttl.into()), ..WriteOptions::new() };
        Ok(self.touch_with(key, &options)?.is_some())
    }

    /// As [`touch`](Self::touch) (and see [`ttl`](Self::ttl)), with the TTL of the options, and a durability
    /// for this write. Returns the position of the put; `None` if the key has no value. Options without a
    /// TTL keep the one that there is.
    ///
    /// # Errors
    /// As `touch`.
    pub fn touch_with(
        &self,
        key: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<Option<LogPosition>, WriteError> {
        self.time(Operation::Update, || self.inner.touch(key.as_ref(), options))
    }
}
