//! The reading half of a store: the keydir, the segments that its slots point into, and a clock.
//!
//! It has no writer. A [`Store`](super::Store) reads through its view beside its writer; a
//! [`ReadView`](super::ReadView), which is opened for reading only, has a view and nothing that writes.
//! Lookups of many keys are in `get_many`, the records that slots point at in `found`, iteration is in
//! `iter`, and verification in `verify`.
//!
//! A get finds the position under the lock of its key's shard, and reads the frame without it: a page
//! that has to come from the device then holds up this get alone. Under the read lock it only copies the
//! position that the slot with the key's tag points at, and pins the segment; then it compares the key
//! in the frame. Only if that is another key's does it take all slots with the tag, in the same way.
//!
//! * **It is linearizable.** It takes effect while it holds the lock. A key has one slot if it has a value,
//!   and none otherwise; so of the slots with its tag at that moment either exactly one is the key's, or
//!   the key has no value. Frames do not change and positions are not used twice, so a comparison says the
//!   same later as it would have said then.
//! * **It never reads an unmapped segment.** The segment that a slot points into is in the set while the
//!   shard is locked: a merge puts its outputs into the set before it moves slots there, and takes its
//!   inputs out only after it has moved every slot out of them, which needs the write lock of each slot's
//!   shard. A pinned segment is not unmapped before the pin is dropped, and what a get returns holds the
//!   pin.
//!
//! If this does not hold for a slot, because a hint was wrong, reading it is an error, never a panic.
//!
//! Closing a store empties its set of segments (`segment::set`). From then on slots point at nothing; so
//! where a read would say "damaged", or "no such key", it asks whether the store is closed, and that is
//! the error then.

#![allow(unsafe_code, reason = "reads frames that slots point at")]

use super::counters::ReadCounters;
use super::expiry::Expiry;
use super::found::{FoundCorruption, FoundRecord, has_key, is_live, record_at, stale};
use super::pending::{ActiveScans, Extent};
use super::value::Value;
use crate::error::{Corruption, ReadError};
use crate::format::frame::WORD;
use crate::format::record::Record;
use crate::keydir::{Keydir, KeydirEntry, SparseShard, Table};
use crate::position::LogPosition;
use crate::prefetch::prefetch;
use crate::segment::Segment;
use crate::segment::set::{Listed, Pin, SegmentSet, locate};
use crate::sync::AtomicU64;
use crate::wall_clock::WallClock;
use crossbeam_utils::CachePadded;
use std::ops::DerefMut;
use std::sync::Arc;

/// Where a slot points, with the segment pinned.
pub(crate) type PinnedSlot<'a> = (LogPosition, Pin<'a>);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct StoreView {
    pub(crate) table: Arc<SegmentSet>,
    pub(crate) keydir: Keydir,
    pub(crate) clock: WallClock,
    pub(crate) counters: ReadCounters,
    /// Number of batches written. Each is counted while its shards are locked, before its slots are set.
    pub(crate) batches: CachePadded<AtomicU64>,
    /// The iterations under way.
    pub(crate) scans: ActiveScans,
    /// Whether reads verify checksums.
    pub(crate) verify: bool,
}

impl StoreView {
    pub(crate) fn new(
        table: Arc<SegmentSet>,
        keydir: Keydir,
        clock: WallClock,
        verify: bool,
    ) -> Self {
        let (counters, batches) = (ReadCounters::default(), CachePadded::default());
        let scans = ActiveScans::default();
        Self { table, keydir, clock, counters, batches, scans, verify }
    }

    // ---- under the lock of a slot's shard ----

    /// Calls `look` with the segment that a slot points into, if it exists.
    fn with<R>(&self, at: LogPosition, look: impl FnOnce(Option<&Segment>, u64) -> R) -> R {
        self.table.with(|all| look(segment_of(all, at), u64::from(at.offset())))
    }

    /// Whether the record that a slot points at is a key's; see [`has_key`].
    pub(crate) fn is_key(&self, at: LogPosition, key: &[u8], corruption: &FoundCorruption) -> bool {
        self.with(at, |segment, offset| match segment {
            Some(segment) => has_key(&self.keydir, segment, offset, key, corruption),
            None => {
                corruption.set(Some(stale(at)));
                false
            }
        })
    }

    /// Points a key's slot at a frame. The frame that it pointed at, if any, is dead.
    ///
    /// Every change of a slot goes through here or [`remove_slot`](Self::remove_slot), but for the
    /// loading of the keydir. So what has to hold between slots and the rest of the view is kept in one
    /// place, under the lock of the slot's shard: the counts of dead bytes, and the marks of
    /// [iterations](super::pending).
    ///
    /// `old_len` is the length of the frame that it pointed at, if it is known: then that frame, which may
    /// have to come from the device, is not read.
    #[inline]
    pub(crate) fn set_slot<T>(&self, entry: KeydirEntry<T>, new: LogPosition, old_len: Option<u64>)
    where
        T: DerefMut<Target = Table>,
    {
        self.set_slot_by(entry, new, |old| self.died(old, old_len));
    }

    /// As `set_slot`; `died` counts the frame that it pointed at as dead, before its shard is unlocked.
    #[inline]
    pub(super) fn set_slot_by<T>(
        &self,
        entry: KeydirEntry<T>,
        new: LogPosition,
        died: impl FnOnce(LogPosition),
    ) where
        T: DerefMut<Target = Table>,
    {
        if let Some(old) = entry.position() {
            died(old);
            self.scans.slot_changes(old, Some(new), |id| self.extent(id));
        }
        entry.set(new);
    }

    /// Removes a key's slot, if it has one. The frame that it pointed at is dead. Tells if the keydir is to
    /// give memory back once no shard is locked.
    #[inline]
    pub(crate) fn remove_slot<T>(
        &self,
        entry: KeydirEntry<T>,
        old_len: Option<u64>,
    ) -> Option<SparseShard>
    where
        T: DerefMut<Target = Table>,
    {
        self.remove_slot_by(entry, |old| self.died(old, old_len))
    }

    /// As `remove_slot`, with `died` as in `set_slot_by`.
    #[inline]
    pub(super) fn remove_slot_by<T>(
        &self,
        entry: KeydirEntry<T>,
        died: impl FnOnce(LogPosition),
    ) -> Option<SparseShard>
    where
        T: DerefMut<Target = Table>,
    {
        if let Some(old) = entry.position() {
            died(old);
            self.scans.slot_changes(old, None, |_| None);
        }
        entry.remove()
    }

    /// What an iteration's marks in a segment depend on, if it exists.
    pub(crate) fn extent(&self, id: u32) -> Option<Extent> {
        self.table.with(|all| locate(all, id).map(|found| extent_of(&all[found])))
    }

    /// Counts a frame as dead: no slot points at it any longer.
    pub(crate) fn died(&self, at: LogPosition, len: Option<u64>) {
        self.with(at, |segment, offset| {
            // Without its segment there is nothing to count.
            if let Some(segment) = segment {
                // Never nothing, also if it is damaged: merges ask whether anything has died here.
                let len = len.unwrap_or_else(|| segment.frame_len(offset));
                segment.dead.add(len.max(WORD));
            }
        });
    }

    /// Pins the segment that a slot points into, if it exists.
    pub(crate) fn pin(&self, at: LogPosition) -> Option<Pin<'_>> {
        self.table.pin(at.segment())
    }

    /// Reads the record that a slot points at, once it is committed.
    pub(crate) fn read(&self, at: LogPosition) -> Result<FoundRecord<'_>, ReadError> {
        self.read_pinned(at, self.pin(at))
    }

    // ---- without a lock ----

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Value<'_>>, ReadError> {
        let found = self.find_if(key, |found| self.is_live(found.record()))?;
        self.count_read(found.is_some());
        Ok(found.map(|found| found.into_value(&self.table)))
    }

    /// Calls `read` with a key's value, which is kept by the epoch of this call.
    pub(crate) fn get_with<R>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, ReadError> {
        let (tag, epoch) = (self.keydir.tag(key), self.table.enter());
        let all = || epoch.snapshot();
        let slot = self.keydir.get(tag, |_| true, |at| (at, segment_early(all(), at)));
        let (pinned, record);
        let record = match slot {
            None => None,
            // SAFETY: a slot pointed there when the epoch had begun, so the segment is kept.
            Some((at, Some(segment))) if unsafe { segment.has_key(at.offset().into(), key) } => {
                record = record_at(segment, at, self.verify)?;
                Some(&record)
            }
            Some(_) => match self.slot_of_several(tag, key).map_err(|found| self.error(found))? {
                None => None,
                Some((at, pin)) => {
                    pinned = FoundRecord::read(pin, at, self.verify)?;
                    Some(pinned.record())
                }
            },
        };
        match record.filter(|record| self.is_live(record)) {
            Some(record) => {
                self.count_read(true);
                Ok(Some(read(record.value())))
            }
            None => {
                self.count_read(false);
                self.nothing()
            }
        }
    }

    pub(crate) fn contains_key(&self, key: &[u8]) -> Result<bool, ReadError> {
        Ok(self.find(key)?.is_some())
    }

    pub(crate) fn value_len(&self, key: &[u8]) -> Result<Option<usize>, ReadError> {
        Ok(self.find(key)?.map(|found| found.value().len()))
    }

    /// When a key's value expires, if it has one.
    pub(crate) fn ttl(&self, key: &[u8]) -> Result<Option<Expiry>, ReadError> {
        let found = self.find(key)?;
        Ok(found.and_then(|found| self.clock.remaining(found.record().expiry())))
    }

    /// Of what is not there: `None`, unless that says nothing, because the store is closed.
    #[inline]
    pub(super) fn nothing<T>(&self) -> Result<Option<T>, ReadError> {
        if self.table.is_closed() { Err(ReadError::Closed) } else { Ok(None) }
    }

    /// Why a read failed: a store that is closed has no segments for slots to point into.
    #[cold]
    pub(super) fn error(&self, found: Corruption) -> ReadError {
        if self.table.is_closed() { ReadError::Closed } else { ReadError::Corrupt(found) }
    }

    /// A key's newest record, if it has one that has not expired.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<FoundRecord<'_>>, ReadError> {
        self.find_if(key, |found| found.is_live(&self.clock))
    }

    /// A key's newest record, if it has one that `is_live`.
    #[inline(always)]
    fn find_if(
        &self,
        key: &[u8],
        is_live: impl FnOnce(&FoundRecord<'_>) -> bool,
    ) -> Result<Option<FoundRecord<'_>>, ReadError> {
        let slot = self.slot(self.keydir.tag(key), key).map_err(|found| self.error(found))?;
        let Some((position, pin)) = slot else { return self.nothing() };
        let found = FoundRecord::read(pin, position, self.verify)?;
        Ok(is_live(&found).then_some(found))
    }

    /// Where a key's slot points, if it has one. No frame is read under the lock; see above.
    #[inline(always)]
    pub(crate) fn slot(&self, tag: u32, key: &[u8]) -> Result<Option<PinnedSlot<'_>>, Corruption> {
        let slot = self.keydir.get(tag, |_| true, |at| (at, self.pin_early(at)));
        match slot {
            None => Ok(None),
            // SAFETY: a slot pointed there when its segment was pinned.
            Some((at, Some(pin))) if unsafe { pin.has_key(at.offset().into(), key) } => {
                Ok(Some((at, pin)))
            }
            Some(_) => self.slot_of_several(tag, key),
        }
    }

    /// As `pin`. The frame is asked for, all of it at once, before the processor waits for the pin and the
    /// lock.
    #[inline]
    fn pin_early(&self, at: LogPosition) -> Option<Pin<'_>> {
        self.table.with(|all| {
            let listed = &all[locate(all, at.segment())?];
            prefetch_frame(listed, at);
            // SAFETY: the snapshot is of this view's table.
            unsafe { self.table.pin_listed(listed) }
        })
    }

    /// As `slot`, where the first slot with the tag is not the key's: all of them.
    #[cold]
    #[inline(never)]
    fn slot_of_several(&self, tag: u32, key: &[u8]) -> Result<Option<PinnedSlot<'_>>, Corruption> {
        let (mut all, corruption) = (Vec::new(), FoundCorruption::default());
        self.keydir.each(tag, |at| all.push((at, self.pin(at))));
        for (at, pin) in all {
            match pin {
                Some(pin) => {
                    if has_key(&self.keydir, &pin, at.offset().into(), key, &corruption) {
                        return Ok(Some((at, pin)));
                    }
                }
                None => corruption.set(Some(stale(at))),
            }
        }
        corruption.take().map_or(Ok(None), Err)
    }

    /// As `read`, with the segment already pinned; `None` if it does not exist.
    pub(crate) fn read_pinned<'a>(
        &'a self,
        position: LogPosition,
        pin: Option<Pin<'a>>,
    ) -> Result<FoundRecord<'a>, ReadError> {
        let pin = pin.ok_or_else(|| self.error(stale(position)))?;
        FoundRecord::read(pin, position, self.verify)
    }

    /// Whether a record has not expired, for a read that is counted.
    #[inline]
    pub(super) fn is_live(&self, record: &Record<'_>) -> bool {
        let live = is_live(record, &self.clock);
        if !live {
            self.counters.expired.add(1);
        }
        live
    }

    #[inline]
    fn count_read(&self, is_hit: bool) {
        let counter = if is_hit { &self.counters.hits } else { &self.counters.misses };
        counter.add(1);
    }

    pub(super) fn count_reads(&self, hits: usize, misses: usize) {
        for (counter, count) in [(&self.counters.hits, hits), (&self.counters.misses, misses)] {
            if count > 0 {
                counter.add(count as u64);
            }
        }
    }
}

/// Frames that are longer than this on average are sparse.
const SPARSE: u64 = 256;

pub(super) fn extent_of(segment: &Segment) -> Extent {
    let frames = segment.census.get().map_or(u64::MAX, |census| census.entries);
    Extent { len: segment.map.len() as u64, is_sparse: segment.end() / SPARSE > frames }
}

/// Asks for the first lines of a frame.
#[inline]
fn prefetch_frame(segment: &Segment, at: LogPosition) {
    segment.map.places::<3>(at.offset().into(), 64).into_iter().for_each(prefetch);
}

/// As `segment_of`; asks for the frame.
#[inline]
fn segment_early(all: &[Listed], at: LogPosition) -> Option<&Segment> {
    segment_of(all, at).inspect(|segment| prefetch_frame(segment, at))
}

/// The segment that a slot points into, in a snapshot of the segment set.
#[inline]
pub(super) fn segment_of(all: &[Listed], at: LogPosition) -> Option<&Segment> {
    locate(all, at.segment()).map(|found| &*all[found])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Corruption, WriteError};
    use crate::options::Maintenance;
    use crate::storage::simulated::SimulatedDisk;
    use crate::store::{Batch, Store};

    fn store() -> Store {
        let options = Store::options().maintenance(Maintenance::Manual);
        options.open_simulated(&SimulatedDisk::volatile()).unwrap()
    }

    fn corruption(error: ReadError) -> Corruption {
        let ReadError::Corrupt(corruption) = error else { panic!("{error}") };
        corruption
    }

    /// Points a key's slot at some position.
    fn point(store: &Store, key: &str, at: LogPosition) {
        let tag = store.inner.keydir.tag(key.as_bytes());
        store.inner.keydir.entry(tag, |_| true).set(at);
    }

    #[test]
    fn a_slot_that_points_at_nothing_is_an_error_and_no_panic() {
        let store = store();
        store.put("beside", "sound").unwrap();
        let here = store.put("key", "value").unwrap();
        // The next segment's begin holds nothing, and behind the last put is a pad.
        store.roll().unwrap();
        let pad = LogPosition::new(here.segment(), here.offset() + 16 + 8 + 8);
        let active = LogPosition::new(here.segment() + 1, 4096);
        for place in [LogPosition::new(999, 128), pad, active] {
            point(&store, "key", place);
            let at_place = |error| {
                let at = corruption(error);
                assert_eq!((at.segment, at.offset), (place.segment(), place.offset().into()));
            };
            at_place(store.get("key").unwrap_err());
            at_place(store.contains_key("key").unwrap_err());
            at_place(store.value_len("key").unwrap_err());
            at_place(store.get_many(&["beside", "key"]).unwrap_err());
            assert_eq!(&*store.get("beside").unwrap().unwrap(), b"sound");
            let (good, bad): (Vec<_>, Vec<_>) = store.iter().partition(Result::is_ok);
            assert_eq!(good.len(), 1);
            bad.into_iter().for_each(|error| at_place(error.unwrap_err()));
            assert!(store.verify().is_err());
            let at_write = |error| match error {
                WriteError::Read(error) => at_place(error),
                other => panic!("{other}"),
            };
            at_write(store.put("key", "other").unwrap_err());
            at_write(store.delete("key").unwrap_err());
            at_write(store.put_if_absent("key", "other").unwrap_err());
            let mut batch = Batch::new();
            batch.put("key", "other");
            at_write(store.write(&batch).unwrap_err());
        }
    }
}
