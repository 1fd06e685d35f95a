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
use crate::format::frame::{self, EXPIRES, HEADER, Header, Kind};
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
    key: &'v [u8],
    put: Option<(Header, &'v [u8])>,
    delete: Header,
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
        let header = self.put_header(key, value, options.ttl.is_some())?;
        let expiry = options.ttl.map(|ttl| self.inner.clock.expiry_after(ttl));
        let claim = self.place(key, header, expiry)?;
        let position = finish(claim, header, value);
        self.inner.writes.puts.add(1);
        Ok(self.writer().committed_as(position, self.durability(options))?)
    }

    fn durability(&self, options: &WriteOptions) -> Durability {
        options.durability.unwrap_or(self.writer().config.durability)
    }

    fn put_header(&self, key: &[u8], value: &[u8], expires: bool) -> Result<Header, WriteError> {
        let key_len = check_key(key)?;
        let len = value.len() as u64;
        if len > self.max_value {
            return Err(WriteError::ValueTooLarge { len, max: self.max_value });
        }
        let flags = if expires { EXPIRES } else { 0 };
        Ok(Header { kind: Kind::Put, flags, key_len, value_len: len as u32 })
    }

    /// Claims a put's frame and points the key's slot at it, rolling where there is no room.
    #[inline]
    fn place(
        &self,
        key: &[u8],
        header: Header,
        expiry: Option<u64>,
    ) -> Result<Claim<'_, Segment>, WriteError> {
        let writer = self.writer();
        let len = frame::frame_len(header.body_len());
        let mut alone = writer.alone(len, Need::Put)?;
        let is_alone = alone.is_some();
        loop {
            if let Some(claim) = self.try_place(key, header, expiry, &mut alone)? {
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
        key: &[u8],
        header: Header,
        expiry: Option<u64>,
        alone: &mut Option<Alone<'s>>,
    ) -> Result<Option<Claim<'s, Segment>>, WriteError> {
        let (inner, damage) = (&*self.inner, Damage::default());
        let entry = inner.keydir.entry(inner.keydir.tag(key), |at| inner.is_key(at, key, &damage));
        let old = entry.position();
        if let (None, Some(damage)) = (old, damage.take()) {
            return Err(ReadError::Corrupt(damage).into());
        }
        let len = frame::frame_len(header.body_len());
        let Some(mut claim) = self.writer().try_claim(alone, len, Need::Put) else {
            return Ok(None);
        };
        write_head(&mut claim, 0, header, expiry, key);
        old.into_iter().for_each(|old| inner.died(old));
        entry.set(position(&claim));
        Ok(Some(claim))
    }

    /// Removes a key, and says whether it was there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, WriteError> {
        let key = key.as_ref();
        check_key(key)?;
        self.decide(key, None, |found| {
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
        let header =
            Header { kind: Kind::Delete, flags: 0, key_len: check_key(key)?, value_len: 0 };
        let damage = Damage::default();
        let is_there = self.remove(key, header, |at| self.inner.is_key(at, key, &damage))?;
        match damage.take() {
            Some(place) if !is_there => {
                let (segment, offset) = (place.segment, place.offset as u32);
                self.remove(key, header, |at| at == LogPosition::new(segment, offset))
            }
            _ => Ok(is_there),
        }
    }

    /// Writes a tombstone for a key if it has a slot that `is` accepts, and removes that slot.
    fn remove(
        &self,
        key: &[u8],
        header: Header,
        is: impl Fn(LogPosition) -> bool,
    ) -> Result<bool, WriteError> {
        let (inner, writer) = (&*self.inner, self.writer());
        loop {
            match self.try_remove(key, header, &is) {
                None => writer.roll(frame::frame_len(header.body_len()), Need::Delete)?,
                Some(None) => return Ok(false),
                Some(Some(position)) => {
                    inner.count_writes([header.kind].into_iter());
                    writer.committed_as(position, writer.config.durability)?;
                    return Ok(true);
                }
            }
        }
    }

    /// As `remove`, all of it under the lock of the key's shard; `None` where there is no room.
    fn try_remove(
        &self,
        key: &[u8],
        header: Header,
        is: impl Fn(LogPosition) -> bool,
    ) -> Option<Option<LogPosition>> {
        let inner = &*self.inner;
        let entry = inner.keydir.entry(inner.keydir.tag(key), is);
        let Some(old) = entry.position() else { return Some(None) };
        let len = frame::frame_len(header.body_len());
        let mut claim = self.writer().try_claim(&mut None, len, Need::Delete)?;
        write_head(&mut claim, 0, header, None, key);
        let position = finish(claim, header, &[]);
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
        check_key(key)?;
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
        let key_len = check_key(key)?;
        let put = value.map(|value| self.put_header(key, value, false)).transpose()?;
        let delete = Header { kind: Kind::Delete, flags: 0, key_len, value_len: 0 };
        let change = Conditional { key, put: put.zip(value), delete };
        let (inner, writer) = (&*self.inner, self.writer());
        let len = frame::frame_len(put.unwrap_or(delete).body_len());
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
                Some((Some((position, kind)), result)) => {
                    if is_alone {
                        writer.rolled_with_a_claim();
                    }
                    inner.count_writes([kind].into_iter());
                    writer.committed_as(position, writer.config.durability)?;
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
    ) -> Result<Option<(Option<(LogPosition, Kind)>, R)>, WriteError> {
        let (inner, damage, key) = (&*self.inner, Damage::default(), change.key);
        let entry = inner.keydir.entry(inner.keydir.tag(key), |at| inner.is_key(at, key, &damage));
        let old = entry.position();
        if let (None, Some(damage)) = (old, damage.take()) {
            return Err(ReadError::Corrupt(damage).into());
        }
        let found = old.map(|at| inner.read(at)).transpose().map_err(WriteError::Read)?;
        let found = found.filter(|found| found.is_live(&inner.clock));
        let ((header, value), result) = match decide(found.as_ref()) {
            Decision::Leave(result) => return Ok(Some((None, result))),
            Decision::Put(result) => (change.put.expect("there is a value to put"), result),
            Decision::Delete(result) => ((change.delete, &[][..]), result),
        };
        *need = if header.kind == Kind::Put { Need::Put } else { Need::Delete };
        let len = frame::frame_len(header.body_len());
        let Some(mut claim) = self.writer().try_claim(alone, len, *need) else { return Ok(None) };
        write_head(&mut claim, 0, header, None, key);
        let position = finish(claim, header, value);
        old.into_iter().for_each(|at| inner.died(at));
        match header.kind {
            Kind::Put => entry.set(position),
            _ => entry.remove(),
        }
        Ok(Some((Some((position, header.kind)), result)))
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
    fn count_writes(&self, kinds: impl ExactSizeIterator<Item = Kind>) {
        let all = kinds.len() as u64;
        let puts = kinds.filter(|&kind| kind == Kind::Put).count() as u64;
        self.writes.puts.add(puts);
        self.writes.deletes.add(all - puts);
    }
}

fn check_key(key: &[u8]) -> Result<u16, WriteError> {
    match u16::try_from(key.len()) {
        Ok(len) if len > 0 => Ok(len),
        _ => Err(WriteError::KeyLength { len: key.len() }),
    }
}

fn position(claim: &Claim<'_, Segment>) -> LogPosition {
    claim.segment().position(claim.offset())
}

/// Writes everything but the value of the frame at a distance into the claim: what has to be there
/// before a slot points at it.
fn write_head(
    claim: &mut Claim<'_, Segment>,
    at: u64,
    header: Header,
    expiry: Option<u64>,
    key: &[u8],
) {
    claim.write(at + frame::WORD, &header.to_word().to_le_bytes());
    if let Some(expiry) = expiry {
        claim.write(at + HEADER, &expiry.to_le_bytes());
    }
    // The padding is zero already: so is all of a segment before it is written.
    claim.write(at + HEADER + header.key_at(), key);
}

/// The checksum of a frame's body, all of which is written.
fn body_crc(claim: &Claim<'_, Segment>, at: u64, header: Header) -> u32 {
    let at = claim.offset() + at + HEADER;
    // SAFETY: inside the claimed range, which only this thread writes, and it has.
    frame::crc(unsafe { claim.segment().map.slice(at, header.body_len()) })
}

/// Writes the value, and makes the frame readable.
fn finish(mut claim: Claim<'_, Segment>, header: Header, value: &[u8]) -> LogPosition {
    claim.write(HEADER + header.value_at(), value);
    let crc = body_crc(&claim, 0, header);
    claim.commit_written(header, crc)
}

impl From<AppendError> for WriteError {
    fn from(error: AppendError) -> Self {
        Self::Append(error)
    }
}
