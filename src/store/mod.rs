//! The key-value store on the log's tail.
//!
//! Order: a keyed write takes its key's shard of the keydir for writing, reserves and claims its
//! frame, writes header and key, points the slot at it, and lets go; the value, its checksum and the
//! commit come after. So the order of a key's frames in the log is the order of its changes in the
//! keydir, the lock is held for as long as a key takes to copy, and a reader that meets a claimed
//! frame waits for its commit alone. Deletes and conditional writes do all of their work under the
//! lock. Nothing rolls under it (but for a value that needs a segment of its own), and no user's
//! closure runs under it.

#![allow(unsafe_code, reason = "compares keys in frames that their slots point at")]

mod batch;
mod iter;
mod load;
mod options;
mod value;

pub use batch::Batch;
pub use iter::{Keys, Pair, Pairs};
pub use options::{StoreOptions, WriteOptions};
pub use value::Value;

use crate::error::{
    AppendError, CasMismatch, Corruption, CorruptionKind, OpenError, ReadError, SyncError,
    WriteError,
};
use crate::format::frame::{self, EXPIRES, HEADER, Header, Kind, State, Word};
use crate::keydir::{Change, IN_STEP, Keydir};
use crate::log::commit::Claim;
use crate::log::core::Core;
use crate::log::table::{Listed, Pin, locate};
use crate::log::{CommitLog, RecoveryReport, scan};
use crate::options::Durability;
use crate::position::LogPosition;
use crate::prefetch::touch;
use crate::segment::Segment;
use crate::sync::Patience;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    keydir: Keydir,
    verify: bool,
    max_value: u64,
}

/// A put or a delete in the log, read.
struct Found<'a> {
    pin: Pin<'a>,
    header: Header,
    body: &'a [u8],
    position: LogPosition,
}

impl<'a> Found<'a> {
    fn key(&self) -> &'a [u8] {
        let at = self.header.key_at() as usize;
        &self.body[at..][..usize::from(self.header.key_len)]
    }

    fn value(&self) -> &'a [u8] {
        &self.body[self.header.value_at() as usize..]
    }

    fn is_live(&self) -> bool {
        is_live(self.header, self.body)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// Whether a frame has not expired.
#[inline]
fn is_live(header: Header, body: &[u8]) -> bool {
    // In milliseconds since 1970.
    header.flags & EXPIRES == 0 || now() < crate::format::u64_at(body, 0)
}

/// What a conditional write decides under the lock.
enum Decision<R> {
    Put(R),
    Delete(R),
    Leave(R),
}

impl Store {
    /// Opens the store in a directory with the default options.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().open(dir)
    }

    /// The options of a store, to be changed and then opened.
    pub fn options() -> StoreOptions {
        StoreOptions::default()
    }

    fn core(&self) -> &Core {
        self.log.core().expect("a store's log is open for writing")
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
        let expiry = options.ttl.map(expiry_after);
        let claim = self.place(key, header, expiry)?;
        let position = finish(claim, header, value);
        Ok(self.core().committed_as(position, self.durability(options))?)
    }

    fn durability(&self, options: &WriteOptions) -> Durability {
        options.durability.unwrap_or(self.core().config.durability)
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

    /// Claims a put's frame and points the key's slot at it.
    fn place(
        &self,
        key: &[u8],
        header: Header,
        expiry: Option<u64>,
    ) -> Result<Claim<'_, Segment>, WriteError> {
        let (core, tag) = (self.core(), self.keydir.tag(key));
        let len = frame::frame_len(header.body_len());
        loop {
            let placed = self.keydir.change(
                tag,
                |at| self.is_key(at, key),
                |_| match core.try_claim(len) {
                    Ok(Some(mut claim)) => {
                        write_head(&mut claim, 0, header, expiry, key);
                        (Change::Set(position(&claim)), Ok(Some(claim)))
                    }
                    other => (Change::Keep, other),
                },
            );
            match placed? {
                Some(claim) => return Ok(claim),
                None => core.roll()?,
            }
        }
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
            let found = self.find(key)?;
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

    /// A write that depends on the current value, all of it under the key's lock.
    fn decide<R>(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        mut decide: impl FnMut(Option<&Found<'_>>) -> Decision<R>,
    ) -> Result<R, WriteError> {
        let key_len = check_key(key)?;
        let put = value.map(|value| self.put_header(key, value, false)).transpose()?;
        let delete = Header { kind: Kind::Delete, flags: 0, key_len, value_len: 0 };
        let (core, tag) = (self.core(), self.keydir.tag(key));
        loop {
            let outcome = self.keydir.change(
                tag,
                |at| self.is_key(at, key),
                |at| {
                    let found = match at.map(|at| self.read(at)).transpose() {
                        Ok(found) => found.filter(Found::is_live),
                        Err(error) => return (Change::Keep, Err(WriteError::Read(error))),
                    };
                    let (header, result) = match decide(found.as_ref()) {
                        Decision::Leave(result) => return (Change::Keep, Ok(Some((None, result)))),
                        Decision::Put(result) => (put.expect("there is a value to put"), result),
                        Decision::Delete(result) => (delete, result),
                    };
                    let mut claim = match core.try_claim(frame::frame_len(header.body_len())) {
                        Ok(Some(claim)) => claim,
                        Ok(None) => return (Change::Keep, Ok(None)),
                        Err(error) => return (Change::Keep, Err(error.into())),
                    };
                    write_head(&mut claim, 0, header, None, key);
                    let body =
                        if header.kind == Kind::Put { value.unwrap_or_default() } else { &[] };
                    let position = finish(claim, header, body);
                    let change = match header.kind {
                        Kind::Put => Change::Set(position),
                        _ => Change::Remove,
                    };
                    (change, Ok(Some((Some(position), result))))
                },
            );
            match outcome? {
                None => core.roll()?,
                Some((None, result)) => return Ok(result),
                Some((Some(position), result)) => {
                    core.committed_as(position, core.config.durability)?;
                    return Ok(result);
                }
            }
        }
    }

    // ---- reading ----

    /// A key's value, in place.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if its checksum does not match.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value<'_>>, ReadError> {
        let found = self.find(key.as_ref())?;
        Ok(found.map(|found| Value::new(found.value(), found.position, found.pin, &self.log)))
    }

    /// The values of many keys, in their order.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<Value<'_>>>, ReadError> {
        let mut values = Vec::with_capacity(keys.len());
        // In one epoch: each takes some of the nanoseconds that are gained here.
        self.core().table.with(|all| {
            for keys in keys.chunks(IN_STEP) {
                self.get_in_step(all, keys, &mut values)?;
            }
            Ok(values)
        })
    }

    fn get_in_step<'a, K: AsRef<[u8]>>(
        &'a self,
        all: &[Listed],
        keys: &[K],
        values: &mut Vec<Option<Value<'a>>>,
    ) -> Result<(), ReadError> {
        let mut tags = [0; IN_STEP];
        tags.iter_mut().zip(keys).for_each(|(tag, key)| *tag = self.keydir.tag(key.as_ref()));
        let mut pinned = [const { None }; IN_STEP];
        self.keydir.get_all(
            &tags[..keys.len()],
            |positions| touch_in::<3>(all, positions),
            |index, at| match locate(all, at.segment()) {
                Some(found) => has_key(&all[found], at, keys[index].as_ref()),
                None => self.is_key(at, keys[index].as_ref()),
            },
            |index, at| pinned[index] = Some((at, self.pin_in(all, at))),
        );
        for pinned in pinned.into_iter().take(keys.len()) {
            let Some((at, pin)) = pinned else {
                values.push(None);
                continue;
            };
            let (header, body) = self.frame(at, pin.segment())?;
            let live = is_live(header, body);
            let value = &body[header.value_at() as usize..];
            values.push(live.then(|| Value::new(value, at, pin, &self.log)));
        }
        Ok(())
    }

    /// As `pin`, where the segment is most likely in a snapshot that is at hand.
    fn pin_in(&self, all: &[Listed], at: LogPosition) -> Pin<'_> {
        let listed = locate(all, at.segment()).map(|found| &all[found]);
        // SAFETY: callers have the snapshot from the table of this store.
        let pin = listed.and_then(|listed| unsafe { self.core().table.pin_listed(listed) });
        pin.unwrap_or_else(|| self.pin(at))
    }

    /// Loads the lines with the keys of frames that slots point at.
    fn touch(&self, positions: &[LogPosition]) {
        self.core().table.with(|all| touch_in::<1>(all, positions));
    }

    /// Whether a key has a value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool, ReadError> {
        Ok(self.find(key.as_ref())?.is_some())
    }

    /// The length of a key's value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn value_len(&self, key: impl AsRef<[u8]>) -> Result<Option<usize>, ReadError> {
        Ok(self.find(key.as_ref())?.map(|found| found.value().len()))
    }

    /// All keys and values. Every key that is there throughout comes exactly once; nothing is
    /// locked between items. In no particular order.
    pub fn iter(&self) -> Pairs<'_> {
        Pairs::new(self)
    }

    /// All keys, as [`iter`](Self::iter).
    pub fn keys(&self) -> Keys<'_> {
        Keys(self.iter())
    }

    /// How many keys there are, expired ones included that nothing has reclaimed yet.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.keydir.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the keydir takes.
    #[must_use]
    pub fn keydir_memory(&self) -> u64 {
        self.keydir.memory()
    }

    /// A key's newest frame, if it is live.
    fn find(&self, key: &[u8]) -> Result<Option<Found<'_>>, ReadError> {
        let tag = self.keydir.tag(key);
        let pinned = self.keydir.get(tag, |at| self.is_key(at, key), |at| (at, self.pin(at)));
        let Some((position, pin)) = pinned else { return Ok(None) };
        Ok(Some(self.read_pinned(position, pin)?).filter(Found::is_live))
    }

    fn pin(&self, at: LogPosition) -> Pin<'_> {
        self.core().table.pin(at.segment()).expect("a slot points at a segment that is there")
    }

    fn read(&self, at: LogPosition) -> Result<Found<'_>, ReadError> {
        self.read_pinned(at, self.pin(at))
    }

    /// Reads a frame that a slot points at, when it is committed.
    fn read_pinned<'a>(
        &'a self,
        position: LogPosition,
        pin: Pin<'a>,
    ) -> Result<Found<'a>, ReadError> {
        let (header, body) = self.frame(position, pin.segment())?;
        Ok(Found { pin, header, body, position })
    }

    /// A frame that a slot points at, when it is committed.
    #[inline]
    fn frame<'a>(
        &self,
        position: LogPosition,
        segment: &'a Segment,
    ) -> Result<(Header, &'a [u8]), ReadError> {
        let offset = u64::from(position.offset());
        let Ok(word) = committed(segment, offset) else {
            return Err(damage(position, segment));
        };
        let len = match Word::parse(word, segment.end() - offset) {
            Ok(parsed) => parsed.map_or(0, |word| word.len),
            Err(_) => return Err(damage(position, segment)),
        };
        // SAFETY: seen committed, with Acquire.
        let bytes = unsafe { segment.map.slice(offset, len) };
        match frame::keyed(bytes) {
            Some((header, body))
                if !self.verify || word == frame::word_of(segment.salt(), offset, header, body) =>
            {
                Ok((header, body))
            }
            _ => Err(damage(position, segment)),
        }
    }

    /// Whether the frame that a slot points at is a key's. Only under the lock of its shard: header
    /// and key were written under that, before the slot was set.
    fn is_key(&self, at: LogPosition, key: &[u8]) -> bool {
        self.core().table.with(|all| {
            let found = locate(all, at.segment());
            has_key(&all[found.expect("a slot points at a segment that is there")], at, key)
        })
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
        self.log.recovery()
    }

    /// Makes everything durable and closes the store. The next open has nothing to repair.
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn close(self) -> Result<(), SyncError> {
        self.log.close()
    }

    /// Lets go without syncing or sealing, as a process that dies. For tests of recovery.
    #[doc(hidden)]
    pub fn abort(self) {
        self.log.abort();
    }
}

fn check_key(key: &[u8]) -> Result<u16, WriteError> {
    match u16::try_from(key.len()) {
        Ok(len) if len > 0 => Ok(len),
        _ => Err(WriteError::KeyLength { len: key.len() }),
    }
}

fn expiry_after(ttl: Duration) -> u64 {
    now().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
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

/// What is wrong with a frame.
#[cold]
fn damage(position: LogPosition, segment: &Segment) -> ReadError {
    let offset = u64::from(position.offset());
    let kind = match committed(segment, offset) {
        Err(kind) => kind,
        Ok(_) => match scan::frame_at(segment, offset, segment.end() - offset) {
            Err(kind) => kind,
            Ok(_) => CorruptionKind::Header,
        },
    };
    ReadError::Corrupt(Corruption::at(position, kind))
}

/// Whether the frame that a slot points at is a key's: see [`Store::is_key`].
#[inline]
fn has_key(segment: &Segment, at: LogPosition, key: &[u8]) -> bool {
    let offset = u64::from(at.offset());
    // SAFETY: written before the slot was set, under the lock that is held, and not after.
    let header = unsafe { segment.map.slice(offset + 8, 8) };
    let Some(header) = Header::from_word(crate::format::u64_at(header, 0)) else {
        return false;
    };
    if usize::from(header.key_len) != key.len() {
        return false;
    }
    // SAFETY: as above.
    let found = unsafe { segment.map.slice(offset + HEADER + header.key_at(), key.len() as u64) };
    found == key
}

/// Loads the first lines of frames that slots point at, those in segments that are listed.
#[inline]
fn touch_in<const LINES: usize>(all: &[Listed], positions: &[LogPosition]) {
    let mut places = [[std::ptr::null(); LINES]; IN_STEP];
    let mut count = 0;
    for at in positions {
        if let Some(found) = locate(all, at.segment()) {
            places[count] = all[found].map.lines(u64::from(at.offset()));
            count += 1;
        }
    }
    for place in places[..count].as_flattened() {
        // SAFETY: in the map of a segment that is kept for as long as the snapshot is looked at.
        unsafe { touch(*place) };
    }
}

/// Waits for a frame's commit, which is under way: its writer waits for nobody.
#[inline]
fn committed(segment: &Segment, offset: u64) -> Result<u64, CorruptionKind> {
    let mut patience = Patience::default();
    loop {
        // ORDERING: Acquire; pairs with the Release store of `commit_written`.
        let word = segment.map.word(offset).load(Ordering::Acquire);
        match word & 7 {
            state if state == State::Committed as u64 => return Ok(word),
            state if state == State::Claimed as u64 => patience.wait(),
            _ => return Err(CorruptionKind::Missing),
        }
    }
}

impl From<AppendError> for WriteError {
    fn from(error: AppendError) -> Self {
        Self::Append(error)
    }
}
