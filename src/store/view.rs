//! What reading takes, and nothing that writing does: the keydir, the segments that its slots point
//! into, and a clock. A store reads through its view beside its writers; a [`ReadView`] has one and no
//! writer.
//!
//! Invariant: a slot points at a frame in a segment that is in the table, and header and key of the
//! frame were written before the slot was set. A merge moves the slots out of a segment before the
//! segment leaves the table; so whoever holds the lock of a slot's shard finds the segment. A slot for
//! which this does not hold, because a file said what was not so, is an error, never a panic.
//!
//! A frame that is claimed is waited for only in a segment that this process writes to: its writer
//! waits for nobody. Anywhere else it is damage.

#![allow(unsafe_code, reason = "looks at frames that slots point at")]

use super::clock::Clock;
use super::stats::Counters;
use super::value::Value;
use crate::error::{Corruption, CorruptionKind, ReadError};
use crate::format::frame::{State, Word, has_state};
use crate::format::record::Record;
use crate::keydir::{Keydir, LOOKUP_BATCH, ReadShards};
use crate::position::LogPosition;
use crate::prefetch::touch;
use crate::segment::Segment;
use crate::segment::frames;
use crate::segment::set::{Listed, Pin, SegmentSet, locate};
use crate::sync::Backoff;
use crossbeam_utils::CachePadded;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Damage that a lookup met where it expected a key.
pub(crate) type Damage = Cell<Option<Corruption>>;

/// Damage that lookups of many keys met, each with the index of the key.
type Damages = Vec<(usize, Corruption)>;

/// Where a key's slot points, if it has one, and the segment there.
type Place<'a> = Option<(LogPosition, Pin<'a>)>;

#[derive(Debug)]
pub(crate) struct View {
    pub(crate) table: Arc<SegmentSet>,
    pub(crate) keydir: Keydir,
    pub(crate) clock: Clock,
    pub(crate) counters: Counters,
    /// Batches that were written, each counted while its shards are locked and before its slots are
    /// set.
    pub(crate) batches: CachePadded<AtomicU64>,
    /// Whether reads verify checksums.
    pub(crate) verify: bool,
}

/// A put or a delete in the log, read.
pub(crate) struct Found<'a> {
    pub(crate) pin: Pin<'a>,
    pub(crate) record: Record<'a>,
    pub(crate) position: LogPosition,
}

impl<'a> Found<'a> {
    pub(crate) fn key(&self) -> &[u8] {
        self.record.key()
    }

    pub(crate) fn value(&self) -> &[u8] {
        self.record.value()
    }

    pub(crate) fn into_value(self, table: &'a SegmentSet) -> Value<'a> {
        Value::new(self.record.value(), self.position, self.pin, table)
    }

    pub(crate) fn is_live(&self, clock: &Clock) -> bool {
        is_live(&self.record, clock)
    }
}

/// Whether a frame has not expired.
#[inline]
fn is_live(record: &Record<'_>, clock: &Clock) -> bool {
    record.expiry().is_none_or(|expiry| clock.now() < expiry)
}

impl View {
    pub(crate) fn new(table: Arc<SegmentSet>, keydir: Keydir, clock: Clock, verify: bool) -> Self {
        let (counters, batches) = (Counters::default(), CachePadded::default());
        Self { table, keydir, clock, counters, batches, verify }
    }

    // ---- under the lock of a slot's shard ----

    /// Looks at the segment that a slot points into, if it is there.
    fn with<R>(&self, at: LogPosition, look: impl FnOnce(Option<&Segment>, u64) -> R) -> R {
        self.table.with(|all| look(segment_of(all, at), u64::from(at.offset())))
    }

    /// Whether the frame that a slot points at is a key's. What is not the key's is verified: a
    /// damaged key must not look like another one.
    pub(crate) fn is_key(&self, at: LogPosition, key: &[u8], damage: &Damage) -> bool {
        self.with(at, |segment, offset| match segment {
            Some(segment) => has_key(segment, offset, key, damage),
            None => {
                damage.set(Some(stale(at)));
                false
            }
        })
    }

    /// As `is_key`, where the segment is most likely in a snapshot that is at hand.
    #[inline]
    fn is_key_in(&self, all: &[Listed], at: LogPosition, key: &[u8], damage: &Damage) -> bool {
        match segment_of(all, at) {
            Some(segment) => has_key(segment, u64::from(at.offset()), key, damage),
            None => self.is_key(at, key, damage),
        }
    }

    /// How new the frame is that a slot points at.
    pub(crate) fn origin(&self, at: LogPosition) -> Option<LogPosition> {
        self.with(at, |segment, offset| {
            let segment = segment?;
            // SAFETY: a slot points there, and its shard is locked.
            let record = unsafe { segment.record_head(offset) };
            Some(record.map_or(at, |record| segment.origin_of(offset, &record)))
        })
    }

    /// Takes note that no slot points at a frame any more.
    pub(crate) fn died(&self, at: LogPosition) {
        self.with(at, |segment, offset| {
            // Where there is none, nothing is counted of it either.
            if let Some(segment) = segment {
                segment.dead.add(segment.frame_len(offset));
            }
        });
    }

    /// Keeps the segment that a slot points into, if it is there.
    pub(crate) fn pin(&self, at: LogPosition) -> Option<Pin<'_>> {
        self.table.pin(at.segment())
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

    /// Reads what a slot points at.
    pub(crate) fn read(&self, at: LogPosition) -> Result<Found<'_>, ReadError> {
        self.read_pinned(at, self.pin(at))
    }

    // ---- without a lock ----

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Value<'_>>, ReadError> {
        let found = self.find(key)?;
        self.count_reads(usize::from(found.is_some()), usize::from(found.is_none()));
        Ok(found.map(|found| found.into_value(&self.table)))
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
        let mut places = [const { None }; LOOKUP_BATCH];
        self.look_up(&self.keydir.read_all(tags), bytes, tags, &mut places, |nth, corruption| {
            damaged.push((nth, corruption));
        });
        self.values(&mut places[..keys.len()], &damaged)
    }

    /// First a group at a time, which holds writers up for a moment only and brings what is looked at
    /// into memory. If a batch was written meanwhile, again, with all shards locked that are needed.
    #[cold]
    fn look_up_many(&self, keys: &[&[u8]], damaged: &mut Damages) -> Vec<Place<'_>> {
        let tags: Vec<u32> = keys.iter().map(|key| self.keydir.tag(key)).collect();
        let mut places: Vec<Place<'_>> = std::iter::repeat_with(|| None).take(keys.len()).collect();
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
        // ORDERING: Relaxed; the locks of the shards order it. A batch of which one group sees
        // nothing counts itself after that group's locks, so after this load; a later group that
        // sees something of it has a lock that the batch had, so its count comes before the load
        // below.
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
        places: &mut [Place<'a>],
        mut damaged: impl FnMut(usize, Corruption),
    ) {
        let (damage, mut stale_places) = (Damage::default(), Vec::new());
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
        places: &mut [Place<'a>],
        damaged: &Damages,
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
            // SAFETY: the value keeps the pin beside it, and lends it out only while itself is borrowed.
            let record = self.frame(at, unsafe { pin.segment_unbound() })?;
            let live = self.is_there(&record);
            hits += usize::from(live);
            values.push(live.then(|| Value::new(record.value(), at, pin, &self.table)));
        }
        self.count_reads(hits, values.len() - hits);
        Ok(values)
    }

    pub(crate) fn contains_key(&self, key: &[u8]) -> Result<bool, ReadError> {
        Ok(self.find(key)?.is_some())
    }

    pub(crate) fn value_len(&self, key: &[u8]) -> Result<Option<usize>, ReadError> {
        Ok(self.find(key)?.map(|found| found.value().len()))
    }

    /// A key's newest frame, if it is live.
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<Found<'_>>, ReadError> {
        let (tag, damage) = (self.keydir.tag(key), Damage::default());
        let is = |at| self.is_key(at, key, &damage);
        let Some((position, pin)) = self.keydir.get(tag, is, |at| (at, self.pin(at))) else {
            return damage.take().map_or(Ok(None), |damage| Err(ReadError::Corrupt(damage)));
        };
        let found = self.read_pinned(position, pin)?;
        Ok(self.is_there(&found.record).then_some(found))
    }

    /// Reads a frame that a slot points at, when it is committed.
    pub(crate) fn read_pinned<'a>(
        &'a self,
        position: LogPosition,
        pin: Option<Pin<'a>>,
    ) -> Result<Found<'a>, ReadError> {
        let pin = pin.ok_or_else(|| ReadError::Corrupt(stale(position)))?;
        // SAFETY: what is found keeps the pin beside it, and lends it out only while itself is borrowed.
        let record = self.frame(position, unsafe { pin.segment_unbound() })?;
        Ok(Found { pin, record, position })
    }

    /// A frame that a slot points at, when it is committed.
    #[inline]
    fn frame<'a>(
        &self,
        position: LogPosition,
        segment: &'a Segment,
    ) -> Result<Record<'a>, ReadError> {
        let offset = u64::from(position.offset());
        let Ok(word) = committed(segment, offset) else {
            return Err(diagnose(position, segment));
        };
        let len = match Word::parse(word, segment.end().saturating_sub(offset)) {
            Ok(parsed) => parsed.map_or(0, |word| word.len),
            Err(_) => return Err(diagnose(position, segment)),
        };
        // SAFETY: seen committed, with Acquire.
        let bytes = unsafe { segment.map.slice(offset, len) };
        match Record::in_frame(bytes) {
            Some(record) if !self.verify || word == record.commit_word(segment.salt(), offset) => {
                Ok(record)
            }
            _ => Err(diagnose(position, segment)),
        }
    }

    /// Whether a value that was found has not expired.
    #[inline]
    fn is_there(&self, record: &Record<'_>) -> bool {
        let live = is_live(record, &self.clock);
        if !live {
            self.counters.expired.add(1);
        }
        live
    }

    fn count_reads(&self, hits: usize, misses: usize) {
        for (counter, count) in [(&self.counters.hits, hits), (&self.counters.misses, misses)] {
            if count > 0 {
                counter.add(count as u64);
            }
        }
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
        // SAFETY: in the map of a segment that is kept for as long as the snapshot is looked at.
        unsafe { touch(*place) };
    }
}

#[inline]
fn has_key(segment: &Segment, offset: u64, key: &[u8], damage: &Damage) -> bool {
    // SAFETY: a slot points there, and its shard is locked.
    let is = unsafe { segment.record_head(offset) }.is_some_and(|record| record.key() == key);
    if !is {
        note_damage(segment, offset, damage);
    }
    is
}

#[inline]
fn segment_of(all: &[Listed], at: LogPosition) -> Option<&Segment> {
    locate(all, at.segment()).map(|found| &*all[found])
}

#[cold]
#[inline(never)]
fn note_damage(segment: &Segment, offset: u64, damage: &Damage) {
    // ORDERING: Acquire; pairs with the Release store in `settle`.
    let word = segment.map.word(offset).load(Ordering::Acquire);
    if has_state(word, State::Claimed) && is_written_here(segment) {
        // Its writer is at it.
        return;
    }
    let room = segment.end().saturating_sub(offset);
    // SAFETY: a frame begins where a slot points.
    let kind = match unsafe { frames::frame_at(segment, offset, room) } {
        Ok(Some(frame)) if frame.header.is_some() => return,
        Ok(frame) => no_frame(frame.is_some()),
        Err(kind) => kind,
    };
    damage.set(Some(Corruption::at(segment.position(offset), kind)));
}

/// Whether writers of this process may have claims in a segment.
fn is_written_here(segment: &Segment) -> bool {
    segment.roll.is_some() && !segment.is_sealed()
}

/// What is wrong with a slot whose segment is not there.
#[cold]
fn stale(at: LogPosition) -> Corruption {
    Corruption::at(at, CorruptionKind::StaleSlot)
}

/// What is wrong where no frame is: something else, or nothing at all.
const fn no_frame(is_something: bool) -> CorruptionKind {
    if is_something { CorruptionKind::StaleSlot } else { CorruptionKind::Missing }
}

/// What is wrong with a frame.
#[cold]
fn diagnose(position: LogPosition, segment: &Segment) -> ReadError {
    let offset = u64::from(position.offset());
    let kind = match committed(segment, offset) {
        Err(kind) => kind,
        Ok(_) => {
            let room = segment.end().saturating_sub(offset);
            // SAFETY: a frame begins where a slot points.
            let frame = unsafe { frames::frame_at(segment, offset, room) };
            frame.err().unwrap_or(CorruptionKind::Header)
        }
    };
    ReadError::Corrupt(Corruption::at(position, kind))
}

/// Waits for a frame's commit, where it is under way: its writer waits for nobody.
#[inline]
fn committed(segment: &Segment, offset: u64) -> Result<u64, CorruptionKind> {
    // ORDERING: Acquire; pairs with the Release store in `settle`.
    let word = segment.map.word(offset).load(Ordering::Acquire);
    if has_state(word, State::Committed) { Ok(word) } else { commit_of(segment, offset) }
}

/// As `committed`, of a frame that is not yet.
#[cold]
fn commit_of(segment: &Segment, offset: u64) -> Result<u64, CorruptionKind> {
    let mut backoff = Backoff::default();
    loop {
        // Before the word: a segment is sealed only once all claims in it are finished.
        let has_writer = is_written_here(segment);
        // ORDERING: Acquire; pairs with the Release store in `settle`.
        let word = segment.map.word(offset).load(Ordering::Acquire);
        if has_state(word, State::Committed) {
            return Ok(word);
        }
        if !has_state(word, State::Claimed) {
            return Err(no_frame(word != 0));
        }
        if !has_writer {
            return Err(CorruptionKind::Missing);
        }
        backoff.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::WriteError;
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

    /// Points the slot of a key somewhere.
    fn point(store: &Store, key: &str, at: LogPosition) {
        let tag = store.inner.keydir.tag(key.as_bytes());
        store.inner.keydir.entry(tag, |_| true).set(at);
    }

    #[test]
    fn a_slot_that_points_at_nothing_is_an_error_and_no_panic() {
        let store = store();
        store.put("beside", "sound").unwrap();
        let here = store.put("key", "value").unwrap();
        // Where the next segment begins there is nothing, and behind the last put a pad.
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
