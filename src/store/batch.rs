//! Atomic batches.
//!
//! A batch is one frame with the puts and deletes inside it, which become visible together when it
//! commits. The shards of all keys are locked, from before the frame is reserved until every slot is
//! set, so no reader sees a part of it. The values are copied under the locks: a batch is for many
//! small writes.
//!
//! What a batch [expects](super::expectations) of keys is decided under the same locks: those of what it
//! expects are locked with those of what it writes.
//!
//! The order of locks: a batch and `get_many`, which lock several shards, lock them in the order of
//! their numbers, and everyone else locks one. So no two threads wait for each other.

use super::batch_ttls::{SeenExpiry, TtlCursor};
use super::cold::Wanted;
use super::dead_bytes::DeadBytes;
use super::expectations::{Expectation, Expected, Judgement};
use super::found::FoundCorruption;
use super::get_many::GroupSlots;
use super::inner::StoreInner;
use super::options::{Ttl, WriteOptions};
use super::write::new_tombstone;
use crate::error::{ReadError, WriteError};
use crate::format::frame::{self, HEADER, Header, Kind, WORD};
use crate::format::record::push_frame;
use crate::format::{pad_to_8, u64_at};
use crate::keydir::{Crowded, Keydir, LOOKUP_BATCH, LockedShards, Table};
use crate::log::append::claim::Claim;
use crate::log::waiters::WakeLater;
use crate::log::writer::Need;
use crate::options::{Durability, MAX_SEGMENT};
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::set::Listed;
use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Deref;
use std::sync::atomic::Ordering;

/// Writes that are done together: all of them or none, even after a crash, and none if something is not as the
/// batch [expects](Self::expect). See [`Store::write`](super::Store::write).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let store = tailcask::Store::open(dir.path().join("store"))?;
/// use tailcask::Batch;
///
/// let mut batch = Batch::new();
/// batch.put("new name", "ann").delete("old name"); // in this order
/// store.write(&batch)?;
/// # assert_eq!(store.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Batch {
    writes: Vec<Write>,
    /// Their frames, one behind the other, as they are written but for their commit words and expiries.
    frames: Vec<u8>,
    /// For each put that was given a TTL its index and that, in order.
    pub(super) ttls: Vec<(usize, Ttl)>,
    pub(super) expectations: Vec<Expectation>,
}

/// A put or a delete, and where its frame is.
#[derive(Clone, Copy, Debug)]
struct Write {
    at: usize,
    key: usize,
    value: usize,
    kind: WriteKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteKind {
    Put,
    /// A put whose frame has room for an expiry.
    ExpiringPut,
    Delete,
}

impl Write {
    const fn is_put(&self) -> bool {
        !matches!(self.kind, WriteKind::Delete)
    }

    /// Where its frame is in the log, if the batch is at a position.
    #[inline]
    fn position(&self, batch: LogPosition) -> LogPosition {
        let offset = u64::from(batch.offset()) + HEADER + self.at as u64;
        LogPosition::new(batch.segment(), offset as u32)
    }

    /// Where its key is.
    #[inline]
    const fn key_at(&self) -> usize {
        let fields = if matches!(self.kind, WriteKind::ExpiringPut) { 8 } else { 0 };
        self.at + HEADER as usize + fields
    }
}

impl Batch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self { writes: Vec::new(), frames: Vec::new(), ttls: Vec::new(), expectations: Vec::new() }
    }

    /// Adds a put. Of several writes to a key the last one counts.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.add(key.as_ref(), Some(value.as_ref()), false)
    }

    /// Adds a put with a TTL, which counts from when the batch is written. [`Ttl::Keep`] keeps the one that
    /// the key has by then, also by an earlier write of the same batch.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// use std::time::Duration;
    /// use tailcask::{Batch, Expiry};
    ///
    /// let mut batch = Batch::new();
    /// batch.put("user", "ann").put_with("session", "1", Duration::from_secs(3600));
    /// store.write(&batch)?;
    /// assert_eq!(store.ttl("user")?, Some(Expiry::Never));
    /// assert!(matches!(store.ttl("session")?, Some(Expiry::In(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_with(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: impl Into<Ttl>,
    ) -> &mut Self {
        let ttl = ttl.into();
        self.ttls.push((self.writes.len(), ttl));
        self.add(key.as_ref(), Some(value.as_ref()), ttl != Ttl::Remove)
    }

    /// Adds a delete.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.add(key.as_ref(), None, false)
    }

    /// The batch is written only if this is so; otherwise nothing is, and the error is
    /// [`WriteError::Conflict`]. What is expected is that of the keys before the batch, whatever it writes to
    /// them, and all of it at the moment at which the batch is written: no other write comes in between. If
    /// several things are expected of a key, all have to hold. A batch that writes nothing only asks whether
    /// they do.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// use tailcask::{Batch, Expected, Store, WriteError};
    ///
    /// /// Moves a job from the queue to what is done, with its result, if it is still mine.
    /// fn finish(store: &Store, job: u32, me: &str, result: &str) -> Result<bool, WriteError> {
    ///     let (owner, done) = (format!("owner/{job}"), format!("done/{job}"));
    ///     let mut batch = Batch::new();
    ///     batch.expect(&owner, Expected::Value(me.as_bytes()));
    ///     batch.expect(&done, Expected::Absent);
    ///     batch.delete(&owner).delete(format!("job/{job}")).put(&done, result);
    ///     match store.write(&batch) {
    ///         Ok(_) => Ok(true),
    ///         Err(WriteError::Conflict(_)) => Ok(false), // somebody has taken it over
    ///         Err(error) => Err(error),
    ///     }
    /// }
    ///
    /// store.put("job/7", "resize a picture")?;
    /// store.put("owner/7", "ann")?;
    /// assert!(!finish(&store, 7, "bob", "a picture")?);
    /// assert!(finish(&store, 7, "ann", "a picture")?);
    /// assert!(!finish(&store, 7, "ann", "another picture")?);
    /// assert_eq!(&*store.get("done/7")?.expect("it is done"), b"a picture");
    /// assert!(!store.contains_key("job/7")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn expect(&mut self, key: impl AsRef<[u8]>, expected: Expected<'_>) -> &mut Self {
        self.expectations.push(Expectation::new(key.as_ref(), expected));
        self
    }

    #[inline]
    fn add(&mut self, key: &[u8], value: Option<&[u8]>, has_expiry: bool) -> &mut Self {
        let kind = match value {
            Some(_) if has_expiry => WriteKind::ExpiringPut,
            Some(_) => WriteKind::Put,
            None => WriteKind::Delete,
        };
        let value_len = value.map_or(0, <[u8]>::len);
        let write = Write { at: self.frames.len(), key: key.len(), value: value_len, kind };
        self.writes.push(write);
        push_frame(&mut self.frames, key, value, has_expiry);
        self
    }

    #[inline]
    pub(super) fn key(&self, index: usize) -> &[u8] {
        let write = &self.writes[index];
        &self.frames[write.key_at()..][..write.key]
    }

    /// The value of a put.
    fn value(&self, index: usize) -> Option<&[u8]> {
        let write = &self.writes[index];
        let at = write.key_at() + pad_to_8(write.key as u64) as usize;
        write.is_put().then(|| &self.frames[at..][..write.value])
    }

    /// The batch that is written with options of this TTL.
    fn given(&self, ttl: Option<Ttl>) -> Cow<'_, Self> {
        match ttl {
            None | Some(Ttl::Remove) => Cow::Borrowed(self),
            Some(ttl) => Cow::Owned(self.with_ttl(ttl)),
        }
    }

    /// The same batch, in which each put that was given no TTL has this one.
    fn with_ttl(&self, ttl: Ttl) -> Self {
        let mut batch = Self { expectations: self.expectations.clone(), ..Self::new() };
        let mut ttls = TtlCursor::new(&self.ttls);
        for index in 0..self.len() {
            let own = ttls.of(index).map(|(_, own)| own);
            match self.value(index) {
                Some(value) => batch.put_with(self.key(index), value, own.unwrap_or(ttl)),
                None => batch.delete(self.key(index)),
            };
        }
        batch
    }

    /// The checksum of the body of a put that expires then.
    fn crc_expiring(&self, index: usize, expiry: u64) -> u32 {
        let write = &self.writes[index];
        let len = pad_to_8(write.key as u64) as usize + write.value;
        frame::crc_parts(&[&expiry.to_le_bytes(), &self.frames[write.key_at()..][..len]])
    }

    /// The length of the key of a write, or behind those of an expectation.
    fn key_len(&self, index: usize) -> usize {
        match self.writes.get(index) {
            Some(write) => write.key,
            None => self.expectations[index - self.len()].key.len(),
        }
    }

    /// Those deletes after which the same key is put again.
    fn put_again(&self) -> HashSet<usize> {
        let (mut put_later, mut found) = (HashSet::new(), HashSet::new());
        for (nth, write) in self.writes.iter().enumerate().rev() {
            if write.is_put() {
                put_later.insert(self.key(nth));
            } else if put_later.contains(self.key(nth)) {
                found.insert(nth);
            }
        }
        found
    }

    /// Number of writes. What is expected does not count.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether there are no writes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// What is computed of a batch without its place, and so without a lock.
struct Computed {
    /// Of the keys that it writes, and of those that it expects something of.
    tags: Vec<u32>,
    /// Of the bodies of its frames.
    crcs: Vec<u32>,
    /// For each put with a TTL its expiry.
    expiries: Vec<u64>,
    /// For each put that keeps a TTL the one that was seen.
    seen: Vec<SeenExpiry>,
    judgement: Judgement,
}

impl Computed {
    /// The tags of what is expected.
    fn expected_tags(&self) -> &[u32] {
        &self.tags[self.crcs.len()..]
    }

    /// Whether something depends on the moment at which the batch is written. All of it is then decided for
    /// one moment: a value that is expected does not expire before its TTL is kept.
    const fn needs_time(&self) -> bool {
        self.tags.len() > self.crcs.len() || !self.seen.is_empty()
    }

    /// Computes the checksums of those puts whose expiries are known now.
    fn sum_again(&mut self, batch: &Batch, which: impl Fn(Ttl) -> bool) {
        for (&(nth, ttl), &expiry) in batch.ttls.iter().zip(&self.expiries) {
            if which(ttl) {
                self.crcs[nth] = batch.crc_expiring(nth, expiry);
            }
        }
    }
}

impl StoreInner {
    /// Does all writes of a batch, if all is as it expects. One that writes nothing only asks that.
    pub(super) fn write(
        &self,
        batch: &Batch,
        options: &WriteOptions,
    ) -> Result<LogPosition, WriteError> {
        self.write_given(&batch.given(options.ttl), options.durability)
    }

    /// As `write`; returns the position of each write.
    pub(super) fn write_positions(
        &self,
        batch: &Batch,
        options: &WriteOptions,
    ) -> Result<Vec<LogPosition>, WriteError> {
        let given = batch.given(options.ttl);
        let at = self.write_given(&given, options.durability)?;
        Ok(given.writes.iter().map(|write| write.position(at)).collect())
    }

    /// As `write`, for a batch whose puts have the TTLs that they were given.
    fn write_given(
        &self,
        batch: &Batch,
        durability: Option<Durability>,
    ) -> Result<LogPosition, WriteError> {
        if batch.is_empty() {
            self.check(batch)?;
            return self.tail_if_open(durability);
        }
        let mut computed = self.compute(batch)?;
        let len = HEADER + batch.frames.len() as u64;
        if len > MAX_SEGMENT / 2 {
            return Err(WriteError::BatchTooLarge { len, max: MAX_SEGMENT / 2 });
        }
        let writer = &*self.writer;
        let deletes = !batch.writes.iter().any(Write::is_put);
        let need = if deletes { Need::Delete } else { Need::Put };
        // Before there is a segment for a large one: nobody rolls from then on until that is used.
        self.warm_up_batch(batch, &computed.tags);
        let mut oversize = writer.oversize_segment(len, need)?;
        let is_oversize = oversize.is_some();
        let position = loop {
            let claim = || writer.try_claim(&mut oversize, len, need);
            match self.try_write(batch, &mut computed, claim)? {
                Ok(position) => break position,
                Err(NoRoom::InSegment) => self.roll_for(len, need)?,
                Err(NoRoom::InKeydir(crowded)) => self.keydir.relieve(crowded),
            }
        };
        if is_oversize {
            writer.after_oversize_claim();
        }
        self.count_writes(batch.writes.iter().map(Write::is_put));
        let durability = durability.unwrap_or(writer.durability());
        Ok(writer.acknowledge_as(position, durability)?)
    }

    /// An error unless everything holds that a batch without writes expects.
    fn check(&self, batch: &Batch) -> Result<(), WriteError> {
        let computed = self.compute(batch)?;
        self.warm_up_batch(batch, &computed.tags);
        let epoch = self.table.enter();
        let locked = self.keydir.read_all(&computed.tags);
        self.check_locked(batch, &computed, epoch.snapshot(), &locked, self.clock.now())
    }

    /// As `check`, with the shards locked.
    fn check_locked<G: Deref<Target = Table>>(
        &self,
        batch: &Batch,
        computed: &Computed,
        all: &[Listed],
        locked: &LockedShards<G>,
        now: u64,
    ) -> Result<(), WriteError> {
        let key = |nth: usize| &*batch.expectations[nth].key;
        let slots = self.old_positions(all, locked, key, computed.expected_tags())?;
        self.judge_locked(&batch.expectations, &computed.judgement, &slots, now)
    }

    /// Where the slots of keys point, whose shards are locked.
    #[inline]
    fn old_positions<'k, G: Deref<Target = Table>>(
        &self,
        all: &[Listed],
        locked: &LockedShards<G>,
        key: impl Fn(usize) -> &'k [u8],
        tags: &[u32],
    ) -> Result<Vec<Option<LogPosition>>, ReadError> {
        positions(&self.keydir, all, locked, key, tags)
            .map_err(|error| if self.table.is_closed() { ReadError::Closed } else { error })
    }

    fn warm_up_batch(&self, batch: &Batch, tags: &[u32]) {
        self.warm_up(tags, |nth| batch.key_len(nth), Wanted::Key);
    }

    /// Has the records read that decide about the batch, or that TTLs are kept of.
    fn warm_up_records(&self, batch: &Batch, tags: &[u32]) {
        let keeping = batch.ttls.iter().filter(|(_, ttl)| *ttl == Ttl::Keep).map(|&(nth, _)| nth);
        let all: Vec<usize> = keeping.chain(batch.len()..tags.len()).collect();
        let tags: Vec<u32> = all.iter().map(|&nth| tags[nth]).collect();
        self.warm_up(&tags, |nth| batch.key_len(all[nth]), Wanted::Record);
    }

    /// Writes a batch under the locks of its keys' shards, unless there is no room.
    fn try_write<'s>(
        &'s self,
        batch: &Batch,
        computed: &mut Computed,
        claim: impl FnOnce() -> Option<Claim<'s, Segment>>,
    ) -> Result<Result<LogPosition, NoRoom>, WriteError> {
        let is = |nth: usize, at| self.is_key(at, batch.key(nth), &FoundCorruption::default());
        let _after_the_lock = WakeLater::begin();
        // The one epoch for all that looks at segments below.
        let epoch = self.table.enter();
        let mut entries = self.keydir.entries(&computed.tags);
        // The set as it is under the locks has what the slots point at; an older one may not.
        let all = epoch.snapshot();
        let now = if computed.needs_time() { self.clock.now() } else { 0 };
        if !batch.expectations.is_empty() {
            self.check_locked(batch, computed, all, &entries, now)?;
        }
        // Damage is found before anything is written.
        let key = |nth| batch.key(nth);
        let old = self.old_positions(all, &entries, key, &computed.tags[..batch.len()])?;
        if !computed.seen.is_empty() {
            self.keep_ttls(&batch.ttls, key, &computed.seen, &old, now, &mut computed.expiries)?;
            computed.sum_again(batch, |ttl| ttl == Ttl::Keep);
        }
        let tags = &computed.tags[..batch.len()];
        if let Some(crowded) = entries.crowded(new_slots(&batch.writes, &old, tags)) {
            return Ok(Err(NoRoom::InKeydir(crowded)));
        }
        let Some(claim) = claim() else { return Ok(Err(NoRoom::InSegment)) };
        let position = write_all(claim, batch, &computed.crcs, &computed.expiries);
        // ORDERING: Relaxed; pairs with the loads in `look_up_many`, and the locks order it.
        self.batches.fetch_add(1, Ordering::Relaxed);
        // To an iteration, a key that a batch deletes and then puts again was there all the time.
        let put_again = if self.scans.any() { batch.put_again() } else { HashSet::new() };
        // With the segment of the batch, in which keys that are in it twice have died.
        let (mut sparse, mut dead) = (Vec::new(), DeadBytes::new(epoch.snapshot()));
        for (nth, ((&tag, old), write)) in tags.iter().zip(old).zip(&batch.writes).enumerate() {
            let mut entry = entries.entry(tag, |at| match old {
                Some(old) => at == old,
                None => is(nth, at),
            });
            if entry.position().is_none() && old.is_some() {
                // The batch has written this key before.
                entry = entries.entry(tag, |at| is(nth, at));
            }
            let died = |old| dead.add(old);
            if write.is_put() {
                self.set_slot_by(entry, write.position(position), died);
            } else if !put_again.contains(&nth) {
                sparse.extend(self.remove_slot_by(entry, died));
            }
        }
        drop(dead);
        drop(entries);
        self.keydir.shrink(sparse);
        Ok(Ok(position))
    }

    /// What can be computed of a batch without its place, and so without a lock.
    fn compute(&self, batch: &Batch) -> Result<Computed, WriteError> {
        let mut tags = Vec::with_capacity(batch.len() + batch.expectations.len());
        let mut crcs = Vec::with_capacity(batch.len());
        for (nth, write) in batch.writes.iter().enumerate() {
            let key = batch.key(nth);
            let record = match write.kind {
                WriteKind::Put => self.new_put(key, write.value, None)?,
                WriteKind::ExpiringPut => self.new_put(key, write.value, Some(0))?,
                WriteKind::Delete => new_tombstone(key)?,
            };
            let body = &batch.frames[write.at + HEADER as usize..][..record.body_len() as usize];
            tags.push(self.keydir.tag(key));
            crcs.push(frame::crc(body));
        }
        for expectation in &batch.expectations {
            new_tombstone(&expectation.key)?;
            tags.push(self.keydir.tag(&expectation.key));
        }
        let expiries = self.expiries(&batch.ttls)?;
        self.warm_up_records(batch, &tags);
        let judgement = self.judge(&batch.expectations)?;
        let seen = self.see_expiries(&batch.ttls, |nth| batch.key(nth))?;
        let mut computed = Computed { tags, crcs, expiries, seen, judgement };
        computed.sum_again(batch, |ttl| matches!(ttl, Ttl::Set(_)));
        Ok(computed)
    }
}

/// Where a batch has none.
enum NoRoom {
    InSegment,
    InKeydir(Crowded),
}

/// The tags of puts that may need a slot more: their keys have none, or a delete in the batch may be theirs.
fn new_slots(
    writes: &[Write],
    old: &[Option<LogPosition>],
    tags: &[u32],
) -> impl Iterator<Item = u32> {
    let has_deletes = !writes.iter().all(Write::is_put);
    let each = writes.iter().zip(old).zip(tags);
    each.filter(move |((write, old), _)| write.is_put() && (old.is_none() || has_deletes))
        .map(|(_, &tag)| tag)
}

/// As [`StoreInner::old_positions`].
#[inline]
fn positions<'k, G: Deref<Target = Table>>(
    keydir: &Keydir,
    all: &[Listed],
    locked: &LockedShards<G>,
    key: impl Fn(usize) -> &'k [u8],
    tags: &[u32],
) -> Result<Vec<Option<LogPosition>>, ReadError> {
    let mut old = Vec::with_capacity(tags.len());
    for (group, tags) in tags.chunks(LOOKUP_BATCH).enumerate() {
        let mut keys = [&[][..]; LOOKUP_BATCH];
        let keys = &mut keys[..tags.len()];
        for (nth, its) in keys.iter_mut().enumerate() {
            *its = key(group * LOOKUP_BATCH + nth);
        }
        let slots = GroupSlots::in_snapshot(all, locked, tags);
        slots.for_each::<ReadError>(keydir, keys, Wanted::Key, |slot| {
            old.push(slot.map(|(at, _)| at));
            Ok(())
        })?;
    }
    Ok(old)
}

/// Writes and commits the frame of a batch.
fn write_all(
    mut claim: Claim<'_, Segment>,
    batch: &Batch,
    crcs: &[u32],
    expiries: &[u64],
) -> LogPosition {
    // With zeros for the commit words of the frames inside, which nobody reads before the batch is
    // committed.
    claim.write(HEADER, &batch.frames);
    for (&(nth, ttl), expiry) in batch.ttls.iter().zip(expiries) {
        if ttl != Ttl::Remove {
            let at = 2 * HEADER + batch.writes[nth].at as u64;
            claim.write(at, &expiry.to_le_bytes());
        }
    }
    let ends = batch.writes.iter().skip(1).map(|next| next.at).chain([batch.frames.len()]);
    for ((write, end), &crc) in batch.writes.iter().zip(ends).zip(crcs) {
        let header = u64_at(&batch.frames, write.at + WORD as usize);
        let len = (end - write.at) as u64;
        claim.write_inner_word(HEADER + write.at as u64, len, header, crc);
    }
    let header = Header::plain(Kind::Batch, batch.len() as u32);
    claim.commit(header, frame::crc(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Maintenance;
    use crate::storage::simulated::SimulatedDisk;
    use crate::store::{Expiry, Store};
    use std::time::Duration;

    /// The batch waits for the lock of its first key while its second one is put into a segment that was
    /// made meanwhile.
    #[test]
    fn a_batch_finds_what_was_written_while_it_waited_for_its_locks() {
        let options = Store::options().segment_size(2 << 20).maintenance(Maintenance::Manual);
        let store = options.open_simulated(&SimulatedDisk::new()).expect("a store");
        let keydir = &store.inner.keydir;
        let mut keys: Vec<_> = (0..1000u32).map(u32::to_le_bytes).collect();
        keys.sort_by_key(|key| keydir.tag(key));
        // Shards are in the order of tags, and locked in theirs.
        let (first, last) = (keys[0], keys[999]);
        store.put(last, "old").expect("put");
        let held = keydir.entry(keydir.tag(&first), |_| true);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| store.write(Batch::new().put(first, "1").put(last, "2")));
            // Longer than it takes to get to the lock.
            std::thread::sleep(std::time::Duration::from_millis(200));
            (0..3).for_each(|_| store.roll().expect("rolled"));
            store.put(last, "new").expect("put");
            drop(held);
            writing.join().expect("no panic").expect("written");
        });
        assert_eq!(store.get(last).expect("sound").as_deref(), Some(&b"2"[..]));
        assert!(store.stats().damaged.is_empty());
    }

    /// A batch that has judged what it expects, and then locks its shards.
    fn judged_before(
        store: &Store,
        batch: &Batch,
        meanwhile: impl FnOnce(),
    ) -> Result<LogPosition, WriteError> {
        let mut computed = store.inner.compute(batch)?;
        meanwhile();
        let (inner, len) = (&store.inner, HEADER + batch.frames.len() as u64);
        loop {
            let claim = || inner.writer.try_claim(&mut None, len, Need::Put);
            match inner.try_write(batch, &mut computed, claim)? {
                Ok(position) => return Ok(position),
                Err(NoRoom::InSegment) => inner.roll_for(len, Need::Put)?,
                Err(NoRoom::InKeydir(crowded)) => inner.keydir.relieve(crowded),
            }
        }
    }

    fn store() -> Store {
        let options = Store::options().maintenance(Maintenance::Manual);
        options.open_simulated(&SimulatedDisk::volatile()).unwrap()
    }

    #[test]
    fn what_is_expected_is_judged_again_under_the_locks() {
        let store = store();
        let mut batch = Batch::new();
        batch.expect("there", Expected::Value(b"1")).expect("not there", Expected::Absent);
        batch.put("done", "yes");
        store.put("there", "1").unwrap();
        judged_before(&store, &batch, || {}).unwrap();
        store.delete("done").unwrap();
        let conflict = |meanwhile: &dyn Fn()| {
            let error = judged_before(&store, &batch, meanwhile).unwrap_err();
            let WriteError::Conflict(conflict) = error else { panic!("{error}") };
            assert!(!store.contains_key("done").unwrap());
            (conflict.index, conflict.found)
        };
        let put = || store.put("there", "2").map(drop).unwrap();
        let at = store.log().tail();
        assert_eq!(conflict(&put), (0, Some(at)));
        store.put("there", "1").unwrap();
        assert_eq!(conflict(&|| assert!(store.delete("there").unwrap())), (0, None));
        store.put("there", "1").unwrap();
        let at = store.log().tail();
        let put = || assert!(store.put_if_absent("not there", "2").unwrap());
        assert_eq!(conflict(&put), (1, Some(at)));
        store.delete("not there").unwrap();
        // The same value again, and a merge, change nothing of it.
        judged_before(&store, &batch, || store.put("there", "1").map(drop).unwrap()).unwrap();
        judged_before(&store, &batch, || _ = store.merge().unwrap()).unwrap();
    }

    #[test]
    fn a_ttl_to_be_kept_is_that_under_the_locks() {
        let (store, hour) = (store(), Duration::from_secs(3600));
        let mut batch = Batch::new();
        batch.put_with("key", "new", Ttl::Keep);
        store.put("key", "old").unwrap();
        let touch = || assert!(store.touch("key", hour).unwrap());
        judged_before(&store, &batch, touch).unwrap();
        assert!(matches!(store.ttl("key").unwrap(), Some(Expiry::In(_))));
        judged_before(&store, &batch, || _ = store.merge().unwrap()).unwrap();
        assert!(matches!(store.ttl("key").unwrap(), Some(Expiry::In(_))));
        judged_before(&store, &batch, || assert!(store.delete("key").unwrap())).unwrap();
        assert_eq!(store.ttl("key").unwrap(), Some(Expiry::Never));
        assert_eq!(&*store.get("key").unwrap().unwrap(), b"new");
    }

    #[test]
    fn a_put_after_a_delete_may_need_a_slot() {
        let kind = |put: bool| if put { WriteKind::Put } else { WriteKind::Delete };
        let write = |put: bool| Write { at: 0, key: 1, value: 1, kind: kind(put) };
        let old = [Some(LogPosition::new(1, 128)), None, Some(LogPosition::new(1, 256)), None];
        let new =
            |puts: [bool; 4]| new_slots(&puts.map(write), &old, &[1, 2, 3, 4]).collect::<Vec<_>>();
        assert_eq!(new([true; 4]), [2, 4]);
        assert_eq!(new([false; 4]), []);
        assert_eq!(new([true, false, true, true]), [1, 3, 4]);
    }
}
