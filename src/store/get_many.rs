//! Looking up many keys at once.
//!
//! Keys are looked up in groups of [`LOOKUP_BATCH`], each step for all keys of a group before the next
//! step: slots, then the frames that they point at. So the cache misses of a step overlap.
//!
//! As in a single get, only positions are copied under the locks: those of all slots with the tags of a
//! group. The frames are read afterwards, and there the keys are compared.
//!
//! Each batch is seen whole or not at all. A group locks the shards of all its keys, as a batch does,
//! so within a group that holds; more keys than a group are looked up again, with all shards locked, if
//! a batch was written meanwhile.
//!
//! What keeps the segments mapped until then is either a pin for each value that is given out, or, for
//! values that only a closure sees, the epoch of the call.

#![allow(unsafe_code, reason = "touches and pins segments of its own snapshot")]

use super::cold::Wanted;
use super::found::{FoundCorruption, has_key, record_at, stale};
use super::value::Value;
use super::view::{StoreView, segment_of};
use crate::error::{Corruption, ReadError};
use crate::format::frame::HEADER;
use crate::keydir::{Keydir, LOOKUP_BATCH, LockedShards, ReadShards, Table};
use crate::position::LogPosition;
use crate::prefetch::touch;
use crate::segment::Segment;
use crate::segment::set::{Listed, Pin};
use std::ops::Deref;
use std::sync::atomic::Ordering;

/// Of a frame with a key of this length or less, all that is in front of the value is loaded before it is
/// looked at.
const SHORT_KEY: usize = 16;

/// Where the slots with the tags of a group of keys pointed, while their shards were locked. `S` keeps
/// a segment mapped from then on.
pub(super) struct GroupSlots<S> {
    /// The first slot with the tag of each key.
    first: [Option<LogPosition>; LOOKUP_BATCH],
    /// The segments that those point into, if they exist.
    segments: [Option<S>; LOOKUP_BATCH],
    /// All other slots with the tag of a key, each with the index of the key.
    others: Vec<(usize, LogPosition, Option<S>)>,
}

impl<'e> GroupSlots<&'e Segment> {
    /// With segments of a snapshot that was taken while the shards were locked.
    #[inline]
    pub(super) fn in_snapshot<G: Deref<Target = Table>>(
        all: &'e [Listed],
        locked: &LockedShards<G>,
        tags: &[u32],
    ) -> Self {
        let mut others = Vec::new();
        let other = |nth, at| others.push((nth, at, segment_of(all, at)));
        let first = locked.slots(tags, other);
        let segments = first.map(|at| at.and_then(|at| segment_of(all, at)));
        Self { first, segments, others }
    }
}

impl<S: Deref<Target = Segment>> GroupSlots<S> {
    /// Calls `each` with the slot of each key, if the key has one.
    #[inline]
    pub(super) fn for_each<E: From<Corruption>>(
        mut self,
        keydir: &Keydir,
        keys: &[&[u8]],
        wanted: Wanted,
        mut each: impl FnMut(Option<(LogPosition, S)>) -> Result<(), E>,
    ) -> Result<(), E> {
        match wanted {
            Wanted::Key => self.touch::<2>(HEADER as usize + SHORT_KEY - 1),
            Wanted::Record => self.touch::<3>(64),
        }
        keys.iter().enumerate().try_for_each(|(nth, key)| each(self.slot_of(keydir, nth, key)?))
    }

    /// Loads lines of frames: those of places in each, this many bytes from one to the next.
    #[inline]
    fn touch<const PLACES: usize>(&self, step: usize) {
        for (at, segment) in self.first.iter().zip(&self.segments) {
            if let (Some(at), Some(segment)) = (at, segment) {
                for place in segment.map.places::<PLACES>(at.offset().into(), step) {
                    // SAFETY: in the map of a segment that is kept.
                    unsafe { touch(place) };
                }
            }
        }
    }

    /// The slot of a key, if it has one. To be called once for each.
    #[inline]
    fn slot_of(
        &mut self,
        keydir: &Keydir,
        nth: usize,
        key: &[u8],
    ) -> Result<Option<(LogPosition, S)>, Corruption> {
        let Some(at) = self.first[nth] else { return Ok(None) };
        let segment = self.segments[nth].take();
        match segment {
            // SAFETY: a slot pointed there when its shard was locked, and the segment was kept.
            Some(segment) if unsafe { segment.has_key(at.offset().into(), key) } => {
                Ok(Some((at, segment)))
            }
            first => self.slot_of_several(keydir, nth, key, (at, first)),
        }
    }

    /// As `slot_of`, where the first slot with the tag is not the key's. A key that was not found is
    /// absent only if nothing that it was compared with is damaged.
    #[cold]
    #[inline(never)]
    fn slot_of_several(
        &mut self,
        keydir: &Keydir,
        nth: usize,
        key: &[u8],
        first: (LogPosition, Option<S>),
    ) -> Result<Option<(LogPosition, S)>, Corruption> {
        let others = self.others.iter_mut().filter(|&&mut (of, ..)| of == nth);
        let others = others.map(|(_, at, segment)| (*at, segment.take()));
        let corruption = FoundCorruption::default();
        for (at, segment) in std::iter::once(first).chain(others) {
            match segment {
                Some(segment) => {
                    if has_key(keydir, &segment, at.offset().into(), key, &corruption) {
                        return Ok(Some((at, segment)));
                    }
                }
                None => corruption.set(Some(stale(at))),
            }
        }
        corruption.take().map_or(Ok(None), Err)
    }
}

impl StoreView {
    /// The slots of a group whose shards are locked, with their segments pinned.
    #[inline]
    fn pinned_slots(&self, locked: &ReadShards<'_>, tags: &[u32]) -> GroupSlots<Pin<'_>> {
        let mut others = Vec::new();
        let other = |nth, at| others.push((nth, at, self.pin(at)));
        let first = locked.slots(tags, other);
        // SAFETY: the snapshot is of this view's table.
        let segments = self.table.with(|all| unsafe { self.table.pin_group(all, &first) });
        GroupSlots { first, segments, others }
    }

    /// Calls `run` with the bytes and the tags of keys, when cold frames were read.
    ///
    /// The bytes of all keys come first, and once: `as_ref` is the caller's code and may use the store,
    /// so it runs under no lock and in no epoch.
    #[inline]
    fn with_tags<K: AsRef<[u8]>, R>(
        &self,
        keys: &[K],
        run: impl FnOnce(&[&[u8]], &[u32]) -> R,
    ) -> R {
        if keys.len() > LOOKUP_BATCH {
            let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
            let tags: Vec<u32> = keys.iter().map(|key| self.keydir.tag(key)).collect();
            self.warm_up(&tags, |nth| keys[nth].len(), Wanted::Record);
            return run(&keys, &tags);
        }
        let (mut bytes, mut tags) = ([&[][..]; LOOKUP_BATCH], [0; LOOKUP_BATCH]);
        for ((bytes, tag), key) in bytes.iter_mut().zip(&mut tags).zip(keys) {
            *bytes = key.as_ref();
            *tag = self.keydir.tag(bytes);
        }
        let (bytes, tags) = (&bytes[..keys.len()], &tags[..keys.len()]);
        self.warm_up(tags, |nth| bytes[nth].len(), Wanted::Record);
        run(bytes, tags)
    }

    /// Calls `each` with the slot of each key as of one moment. `slots` gives those of a group, under
    /// locks.
    #[inline]
    fn each_slot<S: Deref<Target = Segment>>(
        &self,
        keys: &[&[u8]],
        tags: &[u32],
        slots: impl Fn(&ReadShards<'_>, &[u32]) -> GroupSlots<S>,
        mut each: impl FnMut(Option<(LogPosition, S)>) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        if tags.len() <= LOOKUP_BATCH {
            let slots = slots(&self.keydir.read_all(tags), tags);
            return slots.for_each(&self.keydir, keys, Wanted::Record, each);
        }
        let groups = self.look_up_many(tags, slots);
        let mut groups = groups.into_iter().zip(keys.chunks(LOOKUP_BATCH));
        groups.try_for_each(|(slots, keys)| {
            slots.for_each(&self.keydir, keys, Wanted::Record, &mut each)
        })
    }

    /// First a group at a time, which holds writers up only for a moment and brings the tables into
    /// the cache. If a batch was written meanwhile, again, with all shards locked that are needed.
    #[inline(never)]
    fn look_up_many<S>(
        &self,
        tags: &[u32],
        slots: impl Fn(&ReadShards<'_>, &[u32]) -> GroupSlots<S>,
    ) -> Vec<GroupSlots<S>> {
        let groups = tags.chunks(LOOKUP_BATCH);
        // ORDERING: Relaxed; the locks of the shards order both loads against the count in `try_write`,
        // which a batch adds to while it holds all of its shards. Say one group sees a batch and
        // another one does not. The one that does not had a shard before the batch: it unlocked that
        // before the batch counted itself, so this load, which is earlier, does not see the count. The
        // one that does see it locked a shard after the batch had unlocked it: the load below, which is
        // later, sees the count. So the two loads differ.
        let before = self.batches.load(Ordering::Relaxed);
        let found: Vec<_> =
            groups.clone().map(|tags| slots(&self.keydir.read_all(tags), tags)).collect();
        // ORDERING: Relaxed; as above.
        if self.batches.load(Ordering::Relaxed) == before {
            return found;
        }
        drop(found);
        let locked = self.keydir.read_all(tags);
        groups.map(|tags| slots(&locked, tags)).collect()
    }

    /// A lookup that failed, or did not find all keys, says nothing about them if the store is closed.
    #[inline(always)]
    fn unless_closed(&self, read: Result<(), ReadError>, found_all: bool) -> Result<(), ReadError> {
        if (read.is_err() || !found_all) && self.table.is_closed() {
            return Err(ReadError::Closed);
        }
        read
    }

    /// Each batch is seen whole or not at all, by however many keys.
    pub(crate) fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<Value<'_>>>, ReadError> {
        self.with_tags(keys, |keys, tags| {
            let (mut values, mut hits) = (Vec::with_capacity(keys.len()), 0);
            let slots = |locked: &ReadShards<'_>, tags: &[u32]| self.pinned_slots(locked, tags);
            let read = self.each_slot(keys, tags, slots, |slot| {
                let mut value = None;
                if let Some((at, pin)) = slot {
                    // SAFETY: the value keeps the pin beside what is borrowed from the segment.
                    let record = record_at(unsafe { pin.segment_unbound() }, at, self.verify)?;
                    if self.is_live(&record) {
                        value = Some(Value::new(record.value(), at, pin, &self.table));
                        hits += 1;
                    }
                }
                values.push(value);
                Ok(())
            });
            self.unless_closed(read, hits == keys.len())?;
            self.count_reads(hits, values.len() - hits);
            Ok(values)
        })
    }

    /// As `get_many`, for values that only `each` sees. They are kept by the epoch of this call.
    pub(crate) fn get_many_with<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        mut each: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<(), ReadError> {
        self.with_tags(keys, |keys, tags| {
            let (epoch, mut nth, mut hits) = (self.table.enter(), 0, 0);
            let slots = |locked: &ReadShards<'_>, tags: &[u32]| {
                GroupSlots::in_snapshot(epoch.snapshot(), locked, tags)
            };
            let read = self.each_slot(keys, tags, slots, |slot| {
                let mut value = None;
                if let Some((at, segment)) = slot {
                    let record = record_at(segment, at, self.verify)?;
                    if self.is_live(&record) {
                        value = Some(record.value());
                        hits += 1;
                    }
                }
                each(nth, value);
                nth += 1;
                Ok(())
            });
            self.unless_closed(read, hits == keys.len())?;
            self.count_reads(hits, nth - hits);
            Ok(())
        })
    }
}
