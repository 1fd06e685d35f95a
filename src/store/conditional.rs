//! Writes that depend on a key's current value: deletes, conditional puts, updates, and puts that keep the
//! time at which the value expires.
//!
//! Each is one function that decides what to write, and runs under the lock of the key's shard, where the
//! value cannot change; see `write`. No user's closure runs there: what a user decides is decided before,
//! for a value at some position, and under the lock the position is compared. A position is never used
//! twice, so an equal one means that nothing was written to the key in between. (If a merge has moved the
//! value, the closure runs again.)
//!
//! A value that keeps its expiry takes it from the record that is found under the lock. Whether its frame
//! has the field is known only then; so a frame with a segment of its own, whose length has to be known
//! before, has the field in any case, with a time that never comes if there is none to be kept.

use super::cold::{KnownFrames, Wanted};
use super::found::FoundRecord;
use super::inner::StoreInner;
use super::options::{Ttl, WriteOptions};
use super::write::{finish, new_tombstone};
use crate::error::{CasMismatch, WriteError};
use crate::format::record::{NEVER, NewRecord};
use crate::log::waiters::WakeLater;
use crate::log::writer::Need;
use crate::log::writer::oversize::OversizeSegment;
use crate::position::LogPosition;

/// What [`Store::try_update`](super::Store::try_update) does with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Leave it as it is: nothing is written. A synced update returns once what it saw is durable.
    Keep,
    /// Set its value.
    Set(Vec<u8>),
    /// Delete it. Nothing is written if it has no value.
    Delete,
}

/// What an update has written.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let store = tailcask::Store::open(dir.path().join("store"))?;
/// let updated = store.update_with("key", |_| Some(vec![1]), &tailcask::WriteOptions::new())?;
/// assert_eq!(updated.value, Some(vec![1]));
/// store.log().wait_durable(updated.position.expect("it has written"))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Updated {
    /// The value that was set; `None` if the key was deleted or left as it was.
    pub value: Option<Vec<u8>>,
    /// The position of the put or of the tombstone; `None` if nothing was written.
    pub position: Option<LogPosition>,
}

/// The decision of a conditional write, made under the lock.
enum Decision<R> {
    Put(R),
    Delete(R),
    /// There is nothing to be written: it is done.
    Leave(R),
    /// It is not to be written.
    Refuse(R),
}

/// A conditional write, before it is decided.
struct Conditional<'v> {
    put: Option<(NewRecord<'v>, &'v [u8])>,
    delete: NewRecord<'v>,
    expiry: NewExpiry,
}

/// When the value of a put expires.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NewExpiry {
    /// As the record says.
    Set,
    /// When the value that it replaces does.
    Kept,
    /// Likewise, in a frame whose length is fixed: it has the field in any case.
    KeptInField,
}

impl<'v> Conditional<'v> {
    /// The put, if `found` is the live record that it replaces.
    fn put(&self, found: Option<&FoundRecord<'_>>) -> (NewRecord<'v>, &'v [u8]) {
        let (put, value) = self.put.expect("there is a value to put");
        let kept = || found.and_then(|found| found.record().expiry()).filter(|&at| at != NEVER);
        let put = match self.expiry {
            NewExpiry::Set => put,
            NewExpiry::Kept => put.expiring(kept()),
            NewExpiry::KeptInField => put.expiring(kept().or(Some(NEVER))),
        };
        (put, value)
    }
}

/// What a conditional write has done under the lock.
#[derive(Clone, Copy)]
enum Outcome {
    Wrote {
        position: LogPosition,
        is_put: bool,
    },
    /// Nothing, because of what is at this position, or because there is nothing.
    Left(Option<LogPosition>),
    Refused,
}

/// What a conditional write did: the frame that it wrote, if it wrote one, and what it decided.
type Decided<R> = (Option<LogPosition>, R);

impl StoreInner {
    pub(super) fn put_with(
        &self,
        key: &[u8],
        value: &[u8],
        options: &WriteOptions,
    ) -> Result<LogPosition, WriteError> {
        match options.ttl {
            None | Some(Ttl::Remove) => self.put(key, value, None, options.durability),
            Some(Ttl::Set(ttl)) => self.put(key, value, Some(ttl), options.durability),
            Some(Ttl::Keep) => {
                let (position, ()) =
                    self.decide(key, Some(value), options, Ttl::Keep, |_| Decision::Put(()))?;
                Ok(position.expect("it always puts"))
            }
        }
    }

    pub(super) fn delete(
        &self,
        key: &[u8],
        options: &WriteOptions,
    ) -> Result<Option<LogPosition>, WriteError> {
        let delete = |found: Option<&FoundRecord<'_>>| match found {
            Some(_) => Decision::Delete(()),
            None => Decision::Leave(()),
        };
        Ok(self.decide(key, None, options, Ttl::Remove, delete)?.0)
    }

    pub(super) fn put_if_absent(
        &self,
        key: &[u8],
        value: &[u8],
        options: &WriteOptions,
    ) -> Result<Option<LogPosition>, WriteError> {
        let put = |found: Option<&FoundRecord<'_>>| match found {
            Some(_) => Decision::Leave(()),
            None => Decision::Put(()),
        };
        Ok(self.decide(key, Some(value), options, Ttl::Remove, put)?.0)
    }

    pub(super) fn compare_and_swap(
        &self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        options: &WriteOptions,
    ) -> Result<Result<Option<LogPosition>, CasMismatch>, WriteError> {
        let (position, decided) = self.decide(key, new, options, Ttl::Keep, |found| {
            let current = found.map(FoundRecord::value);
            match (current == expected, new, current) {
                (false, _, _) => {
                    Decision::Refuse(Err(CasMismatch { current: current.map(<[u8]>::to_vec) }))
                }
                (true, Some(_), _) => Decision::Put(Ok(())),
                (true, None, Some(_)) => Decision::Delete(Ok(())),
                (true, None, None) => Decision::Leave(Ok(())),
            }
        })?;
        Ok(decided.map(|()| position))
    }

    pub(super) fn try_update<E>(
        &self,
        key: &[u8],
        options: &WriteOptions,
        mut change: impl FnMut(Option<&[u8]>) -> Result<Change, E>,
    ) -> Result<Result<Updated, E>, WriteError> {
        // Before the closure runs.
        new_tombstone(key)?;
        self.expiry_of(options.ttl.unwrap_or(Ttl::Keep))?;
        loop {
            let found = self.find(key)?;
            let seen = found.as_ref().map(FoundRecord::position);
            let new = match change(found.as_ref().map(FoundRecord::value)) {
                Ok(Change::Set(value)) => Some(value),
                Ok(Change::Delete) => None,
                Ok(Change::Keep) => {
                    drop(found);
                    return self.unchanged(Ok(Updated::default()), seen, options.durability);
                }
                Err(error) => return Ok(Err(error)),
            };
            drop(found);
            let (position, done) = self.replace(key, new.as_deref(), seen, options)?;
            if done {
                return Ok(Ok(Updated { value: new, position }));
            }
        }
    }

    /// Puts a key's value once more, if it has one.
    pub(super) fn touch(
        &self,
        key: &[u8],
        options: &WriteOptions,
    ) -> Result<Option<LogPosition>, WriteError> {
        new_tombstone(key)?;
        self.expiry_of(options.ttl.unwrap_or(Ttl::Keep))?;
        loop {
            let Some(seen) = self.find(key)? else {
                return self.unchanged(None, None, options.durability);
            };
            let at = Some(seen.position());
            if let (position, true) = self.replace(key, Some(seen.value()), at, options)? {
                return Ok(position);
            }
        }
    }

    /// Puts a value, or deletes the key if there is none, if what is there now is what was seen, at that
    /// position. False: it is not.
    fn replace(
        &self,
        key: &[u8],
        new: Option<&[u8]>,
        seen: Option<LogPosition>,
        options: &WriteOptions,
    ) -> Result<Decided<bool>, WriteError> {
        self.decide(key, new, options, Ttl::Keep, |found| {
            match (found.map(FoundRecord::position) == seen, new) {
                (false, _) => Decision::Refuse(false),
                (true, Some(_)) => Decision::Put(true),
                (true, None) if found.is_some() => Decision::Delete(true),
                (true, None) => Decision::Leave(true),
            }
        })
    }

    /// The expiry of a put that is not to keep the one of the value before.
    pub(super) fn expiry_of(&self, ttl: Ttl) -> Result<Option<u64>, WriteError> {
        match ttl {
            Ttl::Set(ttl) => self.expiry_after(ttl).map(Some),
            Ttl::Keep | Ttl::Remove => Ok(None),
        }
    }

    /// A write that depends on the current value, all of it under the lock of the key's shard. `usual` is
    /// for options that say nothing of the TTL.
    fn decide<R>(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        options: &WriteOptions,
        usual: Ttl,
        mut decide: impl FnMut(Option<&FoundRecord<'_>>) -> Decision<R>,
    ) -> Result<Decided<R>, WriteError> {
        let ttl = options.ttl.unwrap_or(usual);
        let (delete, expiry) = (new_tombstone(key)?, self.expiry_of(ttl)?);
        let put = value.map(|value| self.new_put(key, value.len(), expiry)).transpose()?;
        let writer = &*self.writer;
        // The longest that the frame may be.
        let len = match (put, ttl) {
            (None, _) => delete.frame_len(),
            (Some(put), Ttl::Keep) => put.expiring(Some(NEVER)).frame_len(),
            (Some(put), _) => put.frame_len(),
        };
        if writer.is_oversize(len) {
            // Decide first: do not create a segment that may not be used.
            let found = self.find(key)?;
            match decide(found.as_ref()) {
                Decision::Leave(result) => {
                    let at = found.as_ref().map(FoundRecord::position);
                    return self.unchanged((None, result), at, options.durability);
                }
                Decision::Refuse(result) => return self.refused((None, result)),
                Decision::Put(_) | Decision::Delete(_) => {}
            }
        }
        let expiry = match ttl {
            Ttl::Keep if writer.is_oversize(len) => NewExpiry::KeptInField,
            Ttl::Keep => NewExpiry::Kept,
            Ttl::Set(_) | Ttl::Remove => NewExpiry::Set,
        };
        let change = Conditional { put: put.zip(value), delete, expiry };
        let mut need = if put.is_some() { Need::Put } else { Need::Delete };
        let mut oversize = writer.oversize_segment(len, need)?;
        let (is_oversize, mut known) = (oversize.is_some(), KnownFrames::none(Wanted::Record));
        let (outcome, result) = loop {
            match self.try_decide(&change, &mut oversize, &mut need, &mut known, &mut decide)? {
                None => self.roll_for(len, need)?,
                Some(decided) => break decided,
            }
        };
        // One that was not used keeps all writers waiting, and what follows may wait for one of them.
        drop(oversize);
        match outcome {
            Outcome::Refused => self.refused((None, result)),
            Outcome::Left(found) => self.unchanged((None, result), found, options.durability),
            Outcome::Wrote { position, is_put } => {
                if is_oversize {
                    writer.after_oversize_claim();
                }
                self.count_writes([is_put].into_iter());
                let durability = options.durability.unwrap_or(writer.durability());
                writer.acknowledge_as(position, durability)?;
                Ok((Some(position), result))
            }
        }
    }

    /// As `decide`, under the lock of the key's shard; `None` if there is no room for the frame decided
    /// on, whose kind is then in `need`.
    #[inline]
    fn try_decide<'s, R>(
        &'s self,
        change: &Conditional<'_>,
        oversize: &mut Option<OversizeSegment<'s>>,
        need: &mut Need,
        known: &mut KnownFrames<'s>,
        decide: impl FnOnce(Option<&FoundRecord<'_>>) -> Decision<R>,
    ) -> Result<Option<(Outcome, R)>, WriteError> {
        let _after_the_lock = WakeLater::begin();
        let entry = self.lock_entry(change.delete.key(), known)?;
        let old = entry.position();
        let read;
        let found = match old.map(|at| (at, known.record(at))) {
            None => None,
            Some((_, Some(found))) => Some(found),
            Some((at, None)) => {
                read = self.read(at)?;
                Some(&read)
            }
        };
        let found = found.filter(|found| found.is_live(&self.clock));
        let ((record, value), result) = match decide(found) {
            Decision::Leave(result) => return Ok(Some((Outcome::Left(old), result))),
            Decision::Refuse(result) => return Ok(Some((Outcome::Refused, result))),
            Decision::Put(result) => (change.put(found), result),
            Decision::Delete(result) => ((change.delete, &[][..]), result),
        };
        let is_put = record.is_put();
        *need = if is_put { Need::Put } else { Need::Delete };
        let len = record.frame_len();
        let Some(mut claim) = self.writer.try_claim(oversize, len, *need) else { return Ok(None) };
        record.write_head(|at, part| claim.write(at, part));
        let position = finish(claim, &record, value);
        let old_len = old.and_then(|old| known.len_of(old));
        if is_put {
            self.set_slot(entry, position, old_len);
        } else {
            self.keydir.shrink(self.remove_slot(entry, old_len));
        }
        Ok(Some((Outcome::Wrote { position, is_put }, result)))
    }
}
