//! The key-value store on the log's tail.
//!
//! Order: a keyed write takes its key's shard of the keydir for writing, reserves and claims its
//! frame, writes header and key, points the slot at it, and lets go; the value, its checksum and the
//! commit come after. So the order of a key's frames in the log is the order of its changes in the
//! keydir, the lock is held for as long as a key takes to copy, and a reader that meets a claimed
//! frame waits for its commit alone. Deletes and conditional writes do all of their work under the
//! lock. Nothing rolls under it: a value that needs a segment of its own has it made before. And no
//! user's closure runs under it.

#![allow(unsafe_code, reason = "sums what it has just written")]

mod backup;
mod batch;
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

pub use backup::BackupReport;
pub use batch::Batch;
pub use iter::{Keys, Pair, Pairs};
pub use merge::MergeReport;
pub use merge::policy::MergePolicy;
pub use options::{StoreOptions, WriteOptions};
pub use read_view::ReadView;
pub use stats::{DamagedSegment, MergeTotals, SegmentStats, Stats};
pub use value::Value;

use self::inner::{Damage, StoreInner};
use self::view::{Clock, Found};

use crate::error::{AppendError, CasMismatch, OpenError, ReadError, SyncError, WriteError};
use crate::format::frame::{self, HEADER};
use crate::format::record::NewRecord;
use crate::log::append::claim::Claim;
use crate::log::writer::{Alone, LogWriter, Need, populate};
use crate::log::{CommitLog, RecoveryReport};
use crate::options::Durability;
use crate::position::LogPosition;
use crate::segment::Segment;
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
    max_value: u64,
}

/// What a conditional write decides under the lock.
enum Decision<R> {
    Put(R),
    Delete(R),
    Leave(R),
}

/// A conditional write, before it is known what it does.
struct Conditional<'v> {
    put: Option<(NewRecord<'v>, &'v [u8])>,
    delete: NewRecord<'v>,
}

/// What a conditional write has written.
#[derive(Clone, Copy)]
struct Written {
    position: LogPosition,
    is_put: bool,
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
    /// [`WriteError`]; unless it is [`AppendError::Sync`] with a position, nothing was changed.
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
        let (key, value) = (key.as_ref(), value.as_ref());
        let expiry = options.ttl.map(|ttl| self.inner.clock.expiry_after(ttl));
        let put = self.new_put(key, value.len(), expiry)?;
        let claim = self.place(&put)?;
        let position = finish(claim, &put, value);
        self.inner.writes.puts.add(1);
        Ok(self.writer().acknowledge_as(position, self.durability(options))?)
    }

    fn durability(&self, options: &WriteOptions) -> Durability {
        options.durability.unwrap_or(self.writer().durability())
    }

    fn new_put<'k>(
        &self,
        key: &'k [u8],
        value_len: usize,
        expiry: Option<u64>,
    ) -> Result<NewRecord<'k>, WriteError> {
        let len = value_len as u64;
        // What does not fit into 32 bits is above the limit, and refused below.
        let put = NewRecord::put(key, len as u32, expiry).ok_or_else(|| bad_key(key))?;
        if len > self.max_value {
            return Err(WriteError::ValueTooLarge { len, max: self.max_value });
        }
        Ok(put)
    }

    /// Claims a put's frame and points the key's slot at it, rolling where there is no room.
    #[inline]
    fn place(&self, put: &NewRecord<'_>) -> Result<Claim<'_, Segment>, WriteError> {
        let (writer, len) = (self.writer(), put.frame_len());
        let mut alone = writer.alone(len, Need::Put)?;
        let is_alone = alone.is_some();
        loop {
            if let Some(claim) = self.try_place(put, &mut alone)? {
                if is_alone {
                    writer.rolled_with_a_claim();
                    populate(&claim);
                }
                return Ok(claim);
            }
            writer.roll(len, Need::Put)?;
        }
    }

    /// As `place`, all of it under the lock of the key's shard; `None` where there is no room.
    #[inline]
    fn try_place<'s>(
        &'s self,
        put: &NewRecord<'_>,
        alone: &mut Option<Alone<'s>>,
    ) -> Result<Option<Claim<'s, Segment>>, WriteError> {
        let (inner, damage, key) = (&*self.inner, Damage::default(), put.key());
        let entry = inner.keydir.entry(inner.keydir.tag(key), |at| inner.is_key(at, key, &damage));
        let old = entry.position();
        if let (None, Some(damage)) = (old, damage.take()) {
            return Err(ReadError::Corrupt(damage).into());
        }
        let len = put.frame_len();
        let Some(mut claim) = self.writer().try_claim(alone, len, Need::Put) else {
            return Ok(None);
        };
        put.write_head(|at, part| claim.write(at, part));
        old.into_iter().for_each(|old| inner.died(old));
        entry.set(position(&claim));
        Ok(Some(claim))
    }

    /// Removes a key, and says whether it was there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, WriteError> {
        self.decide(key.as_ref(), None, |found| {
            if found.is_some() { Decision::Delete(true) } else { Decision::Leave(false) }
        })
    }

    /// Removes a key without looking at its value, and says whether there was one: what `delete` refuses
    /// where the value is damaged, since it cannot be read. Where the key itself is damaged, the frame
    /// is removed that has the hash of this one; it could not be read by any other key either. What was
    /// damaged then goes with the next merge, and `verify` does not mind it.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete_damaged(&self, key: impl AsRef<[u8]>) -> Result<bool, WriteError> {
        let key = key.as_ref();
        let (tombstone, damage) = (new_tombstone(key)?, Damage::default());
        let is_there = self.remove(&tombstone, |at| self.inner.is_key(at, key, &damage))?;
        match damage.take() {
            Some(place) if !is_there => {
                let (segment, offset) = (place.segment, place.offset as u32);
                self.remove(&tombstone, |at| at == LogPosition::new(segment, offset))
            }
            _ => Ok(is_there),
        }
    }

    /// Writes a tombstone for a key if it has a slot that `is` accepts, and removes that slot.
    fn remove(
        &self,
        tombstone: &NewRecord<'_>,
        is: impl Fn(LogPosition) -> bool,
    ) -> Result<bool, WriteError> {
        let (inner, writer) = (&*self.inner, self.writer());
        loop {
            match self.try_remove(tombstone, &is) {
                None => writer.roll(tombstone.frame_len(), Need::Delete)?,
                Some(None) => return Ok(false),
                Some(Some(position)) => {
                    inner.writes.deletes.add(1);
                    writer.acknowledge(position)?;
                    return Ok(true);
                }
            }
        }
    }

    /// As `remove`, all of it under the lock of the key's shard; `None` where there is no room.
    fn try_remove(
        &self,
        tombstone: &NewRecord<'_>,
        is: impl Fn(LogPosition) -> bool,
    ) -> Option<Option<LogPosition>> {
        let inner = &*self.inner;
        let entry = inner.keydir.entry(inner.keydir.tag(tombstone.key()), is);
        let Some(old) = entry.position() else { return Some(None) };
        let len = tombstone.frame_len();
        let mut claim = self.writer().try_claim(&mut None, len, Need::Delete)?;
        tombstone.write_head(|at, part| claim.write(at, part));
        let position = finish(claim, tombstone, &[]);
        inner.died(old);
        entry.remove();
        Some(Some(position))
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
        self.decide(key.as_ref(), Some(value.as_ref()), |found| {
            if found.is_some() { Decision::Leave(false) } else { Decision::Put(true) }
        })
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
        self.decide(key.as_ref(), new, |found| {
            let current = found.map(Found::value);
            match (current == expected, new, current) {
                (false, _, _) => {
                    Decision::Leave(Err(CasMismatch { current: current.map(<[u8]>::to_vec) }))
                }
                (true, Some(_), _) => Decision::Put(Ok(())),
                (true, None, Some(_)) => Decision::Delete(Ok(())),
                (true, None, None) => Decision::Leave(Ok(())),
            }
        })
    }

    /// Sets a key's value to what `change` makes of it (`None`: absent, before and after). `change`
    /// runs without a lock, and again if another write came in between.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn update(
        &self,
        key: impl AsRef<[u8]>,
        mut change: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, WriteError> {
        let key = key.as_ref();
        new_tombstone(key)?;
        loop {
            let found = self.inner.find(key)?;
            let seen = found.as_ref().map(|found| found.position);
            let new = change(found.as_ref().map(Found::value));
            drop(found);
            let done = self.decide(key, new.as_deref(), |found| {
                match (found.map(|found| found.position) == seen, &new) {
                    (false, _) => Decision::Leave(false),
                    (true, Some(_)) => Decision::Put(true),
                    (true, None) if found.is_some() => Decision::Delete(true),
                    (true, None) => Decision::Leave(true),
                }
            })?;
            if done {
                return Ok(new);
            }
        }
    }

    /// A write that depends on the current value, all of it under the lock of the key's shard.
    fn decide<R>(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        mut decide: impl FnMut(Option<&Found<'_>>) -> Decision<R>,
    ) -> Result<R, WriteError> {
        let delete = new_tombstone(key)?;
        let put = value.map(|value| self.new_put(key, value.len(), None)).transpose()?;
        let change = Conditional { put: put.zip(value), delete };
        let (inner, writer) = (&*self.inner, self.writer());
        let len = put.unwrap_or(delete).frame_len();
        if writer.is_alone(len)
            && let Decision::Leave(result) = decide(inner.find(key)?.as_ref())
        {
            // Decide first: do not create a segment that may not be used.
            return Ok(result);
        }
        let mut need = if put.is_some() { Need::Put } else { Need::Delete };
        let mut alone = writer.alone(len, need)?;
        let is_alone = alone.is_some();
        loop {
            match self.try_decide(&change, &mut alone, &mut need, &mut decide)? {
                None => writer.roll(len, need)?,
                Some((None, result)) => return Ok(result),
                Some((Some(Written { position, is_put }), result)) => {
                    if is_alone {
                        writer.rolled_with_a_claim();
                    }
                    inner.count_writes([is_put].into_iter());
                    writer.acknowledge(position)?;
                    return Ok(result);
                }
            }
        }
    }

    /// As `decide`, all of it under the lock of the key's shard; `None` where there is no room for what
    /// was decided, and `need` says what that is.
    #[inline]
    fn try_decide<'s, R>(
        &'s self,
        change: &Conditional<'_>,
        alone: &mut Option<Alone<'s>>,
        need: &mut Need,
        decide: impl FnOnce(Option<&Found<'_>>) -> Decision<R>,
    ) -> Result<Option<(Option<Written>, R)>, WriteError> {
        let (inner, damage, key) = (&*self.inner, Damage::default(), change.delete.key());
        let entry = inner.keydir.entry(inner.keydir.tag(key), |at| inner.is_key(at, key, &damage));
        let old = entry.position();
        if let (None, Some(damage)) = (old, damage.take()) {
            return Err(ReadError::Corrupt(damage).into());
        }
        let found = old.map(|at| inner.read(at)).transpose().map_err(WriteError::Read)?;
        let found = found.filter(|found| found.is_live(&inner.clock));
        let ((record, value), result) = match decide(found.as_ref()) {
            Decision::Leave(result) => return Ok(Some((None, result))),
            Decision::Put(result) => (change.put.expect("there is a value to put"), result),
            Decision::Delete(result) => ((change.delete, &[][..]), result),
        };
        let is_put = record.is_put();
        *need = if is_put { Need::Put } else { Need::Delete };
        let len = record.frame_len();
        let Some(mut claim) = self.writer().try_claim(alone, len, *need) else { return Ok(None) };
        record.write_head(|at, part| claim.write(at, part));
        let position = finish(claim, &record, value);
        old.into_iter().for_each(|at| inner.died(at));
        if is_put {
            entry.set(position);
        } else {
            entry.remove();
        }
        Ok(Some((Some(Written { position, is_put }), result)))
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
        self.shut()
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
        if let Err(error) = self.shut() {
            tracing::error!(%error, "closing the store failed in a drop");
        }
    }
}

impl StoreInner {
    /// Counts puts, and deletes.
    fn count_writes(&self, are_puts: impl ExactSizeIterator<Item = bool>) {
        let all = are_puts.len() as u64;
        let puts = are_puts.filter(|&is_put| is_put).count() as u64;
        self.writes.puts.add(puts);
        self.writes.deletes.add(all - puts);
    }
}

fn new_tombstone(key: &[u8]) -> Result<NewRecord<'_>, WriteError> {
    NewRecord::tombstone(key).ok_or_else(|| bad_key(key))
}

#[cold]
const fn bad_key(key: &[u8]) -> WriteError {
    WriteError::KeyLength { len: key.len() }
}

fn position(claim: &Claim<'_, Segment>) -> LogPosition {
    claim.segment().position(claim.offset())
}

/// Writes the value behind the head, and makes the frame readable.
fn finish(mut claim: Claim<'_, Segment>, record: &NewRecord<'_>, value: &[u8]) -> LogPosition {
    claim.write(record.value_at(), value);
    let body = claim.offset() + HEADER;
    // SAFETY: inside the claimed range, which only this thread writes, and it has written all of it;
    // the padding is zero, as is all of a segment before it is written.
    let crc = frame::crc(unsafe { claim.segment().map.slice(body, record.body_len()) });
    claim.commit_written(record.header(), crc)
}

impl From<AppendError> for WriteError {
    fn from(error: AppendError) -> Self {
        Self::Append(error)
    }
}
