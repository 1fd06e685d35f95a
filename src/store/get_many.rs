//! Looking up many keys at once.
//!
//! Keys are looked up in groups of [`LOOKUP_BATCH`], each step for all keys of a group before the next
//! step: slots, then the frames that they point at, then values. So the cache misses of a step overlap.
//!
//! Each batch is seen whole or not at all. A group locks the shards of all its keys, as a batch does,
//! so within a group that holds; more keys than a group are looked up again, with all shards locked, if
//! a batch was written meanwhile.

#![allow(unsafe_code, reason = "touches and pins segments of its own snapshot")]

use super::cold::Wanted;
use super::found::{FoundCorruption, FoundRecord, has_key, stale};
use super::value::Value;
use super::view::{PinnedSlot, StoreView, segment_of};
use crate::error::{Corruption, ReadError};
use crate::keydir::{LOOKUP_BATCH, ReadShards};
use crate::position::LogPosition;
use crate::prefetch::touch;
use crate::segment::set::{Listed, Pin, locate};
use std::sync::atomic::Ordering;

/// The corruption that lookups of many keys have found, each with the index of the key.
type FoundCorruptions = Vec<(usize, Corruption)>;

/// A key's slot, if it has one.
type FoundSlot<'a> = Option<PinnedSlot<'a>>;

impl StoreView {
    /// As `is_key`, where the segment is most likely in a snapshot that is at hand.
    #[inline]
    fn is_key_in(
        &self,
        all: &[Listed],
        at: LogPosition,
        key: &[u8],
        corruption: &FoundCorruption,
    ) -> bool {
        match segment_of(all, at) {
            Some(segment) => has_key(segment, u64::from(at.offset()), key, corruption),
            None => self.is_key(at, key, corruption),
        }
    }

    /// As `pin`, where the segment is most likely in a snapshot that is at hand.
    ///
    /// # Safety
    /// The snapshot is one of this view's table.
    #[inline]
    unsafe fn pin_in(&self, all: &[Listed], at: LogPosition) -> Option<Pin<'_>> {
        let listed = locate(all, at.segment()).map(|found| &all[found]);
        // SAFETY: the same contract.
        let pin = listed.and_then(|listed| unsafe { self.table.pin_listed(listed) });
        pin.or_else(|| self.pin(at))
    }

    /// Loads the lines with the keys of frames that slots point at.
    pub(crate) fn touch(&self, positions: &[LogPosition]) {
        self.table.with(|all| touch_in::<1>(all, positions));
    }

    /// Each batch is seen whole or not at all, by however many keys.
    pub(crate) fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<Value<'_>>>, ReadError> {
        let mut damaged = Vec::new();
        // The bytes of all keys first, and once: `as_ref` is the caller's code and may use the store,
        // so it runs under no lock and in no epoch.
        if keys.len() > LOOKUP_BATCH {
            let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
            let mut places = self.look_up_many(&keys, &mut damaged);
            return self.values(&mut places, &damaged);
        }
        let (mut bytes, mut tags) = ([&[][..]; LOOKUP_BATCH], [0; LOOKUP_BATCH]);
        for ((bytes, tag), key) in bytes.iter_mut().zip(&mut tags).zip(keys) {
            *bytes = key.as_ref();
            *tag = self.keydir.tag(bytes);
        }
        let (bytes, tags) = (&bytes[..keys.len()], &tags[..keys.len()]);
        self.warm_up(tags, |nth| bytes[nth].len(), Wanted::Record);
        let mut places = [const { None }; LOOKUP_BATCH];
        self.look_up(&self.keydir.read_all(tags), bytes, tags, &mut places, |nth, corruption| {
            damaged.push((nth, corruption));
        });
        self.values(&mut places[..keys.len()], &damaged)
    }

    /// First a group at a time, which holds writers up only for a moment and brings the data into
    /// memory. If a batch was written meanwhile, again, with all shards locked that are needed.
    #[inline(never)]
    fn look_up_many(&self, keys: &[&[u8]], damaged: &mut FoundCorruptions) -> Vec<FoundSlot<'_>> {
        let tags: Vec<u32> = keys.iter().map(|key| self.keydir.tag(key)).collect();
        self.warm_up(&tags, |nth| keys[nth].len(), Wanted::Record);
        let mut places: Vec<FoundSlot<'_>> =
            std::iter::repeat_with(|| None).take(keys.len()).collect();
        let mut look_up = |all: Option<&ReadShards<'_>>| {
            damaged.clear();
            let groups = keys.chunks(LOOKUP_BATCH).zip(tags.chunks(LOOKUP_BATCH));
            for (group, ((keys, tags), places)) in
                groups.zip(places.chunks_mut(LOOKUP_BATCH)).enumerate()
            {
                places.fill_with(|| None);
                let note = |nth, corruption| damaged.push((group * LOOKUP_BATCH + nth, corruption));
                match all {
                    Some(locked) => self.look_up(locked, keys, tags, places, note),
                    None => self.look_up(&self.keydir.read_all(tags), keys, tags, places, note),
                }
            }
        };
        // ORDERING: Relaxed; the locks of the shards order both loads against the count in `try_write`,
        // which a batch adds to while it holds all of its shards. Say one group sees a batch and
        // another one does not. The one that does not had a shard before the batch: it unlocked that
        // before the batch counted itself, so this load, which is earlier, does not see the count. The
        // one that does see it locked a shard after the batch had unlocked it: the load below, which is
        // later, sees the count. So the two loads differ.
        let before = self.batches.load(Ordering::Relaxed);
        look_up(None);
        // ORDERING: Relaxed; as above.
        if self.batches.load(Ordering::Relaxed) != before {
            look_up(Some(&self.keydir.read_all(&tags)));
        }
        places
    }

    /// Looks a group of keys up, in shards that are locked.
    fn look_up<'a>(
        &'a self,
        locked: &ReadShards<'_>,
        keys: &[&[u8]],
        tags: &[u32],
        places: &mut [FoundSlot<'a>],
        mut damaged: impl FnMut(usize, Corruption),
    ) {
        let (damage, mut stale_places) = (FoundCorruption::default(), Vec::new());
        // In one epoch: each takes some of the nanoseconds that are gained here.
        self.table.with(|all| {
            locked.get_group(
                tags,
                |positions| touch_in::<3>(all, positions),
                |nth, at| {
                    let is = self.is_key_in(all, at, keys[nth], &damage);
                    if !is && let Some(corruption) = damage.take() {
                        damaged(nth, corruption);
                    }
                    is
                },
                // SAFETY: the snapshot is of this view's table.
                |nth, at| match unsafe { self.pin_in(all, at) } {
                    Some(pin) => places[nth] = Some((at, pin)),
                    None => stale_places.push((nth, stale(at))),
                },
            );
        });
        stale_places.into_iter().for_each(|(nth, corruption)| damaged(nth, corruption));
    }

    /// Reads the values that were found. A key that was not found is absent only if nothing that it
    /// was compared with is damaged.
    fn values<'a>(
        &'a self,
        places: &mut [FoundSlot<'a>],
        damaged: &FoundCorruptions,
    ) -> Result<Vec<Option<Value<'a>>>, ReadError> {
        let mut values = Vec::with_capacity(places.len());
        let mut hits = 0;
        for (nth, place) in places.iter_mut().enumerate() {
            let Some((at, pin)) = place.take() else {
                if let Some((_, corruption)) = damaged.iter().find(|(of, _)| *of == nth) {
                    return Err(ReadError::Corrupt(corruption.clone()));
                }
                values.push(None);
                continue;
            };
            let found = FoundRecord::read(pin, at, self.verify)?;
            let live = self.is_there(&found);
            hits += usize::from(live);
            values.push(live.then(|| found.into_value(&self.table)));
        }
        self.count_reads(hits, values.len() - hits);
        Ok(values)
    }
}

/// Loads the first lines of frames that slots point at, those in segments that are listed.
#[inline]
fn touch_in<const LINES: usize>(all: &[Listed], positions: &[LogPosition]) {
    let mut places = [[std::ptr::null(); LINES]; LOOKUP_BATCH];
    let mut count = 0;
    for at in positions {
        if let Some(found) = locate(all, at.segment()) {
            places[count] = all[found].map.lines(u64::from(at.offset()));
            count += 1;
        }
    }
    for place in places[..count].as_flattened() {
        // SAFETY: in the map of a segment that is kept as long as the snapshot is in use.
        unsafe { touch(*place) };
    }
}
