//! Atomic batches.
//!
//! A batch is one frame with the puts and deletes inside it, which become visible together when it
//! commits. The shards of all keys are locked, from before the frame is reserved until every slot is
//! set, so no reader sees a part of it. The values are copied under the locks: a batch is for many
//! small writes.
//!
//! The order of locks: a batch and `get_many`, which lock several shards, lock them in the order of
//! their numbers, and everyone else locks one. So no two threads wait for each other.

use super::cold::Wanted;
use super::found::FoundCorruption;
use super::get_many::GroupSlots;
use super::inner::StoreInner;
use super::write::new_tombstone;
use crate::error::{ReadError, WriteError};
use crate::format::frame::{self, HEADER, Header, Kind, WORD};
use crate::format::record::push_frame;
use crate::format::u64_at;
use crate::keydir::{Crowded, Keydir, KeydirEntries, LOOKUP_BATCH};
use crate::log::append::claim::Claim;
use crate::log::writer::Need;
use crate::options::MAX_SEGMENT;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::set::{Listed, locate};
use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// Writes that are done together: all of them or none, even after a crash. See [`Store::write`](super::Store::write).
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
    /// Their frames, one behind the other, as they are written but for their commit words.
    frames: Vec<u8>,
}

/// A put or a delete, and where its frame is.
#[derive(Clone, Copy, Debug)]
struct Write {
    at: usize,
    key: usize,
    value: Option<usize>,
}

impl Write {
    const fn is_put(&self) -> bool {
        self.value.is_some()
    }
}

impl Batch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self { writes: Vec::new(), frames: Vec::new() }
    }

    /// Adds a put.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.add(key.as_ref(), Some(value.as_ref()))
    }

    /// Adds a delete.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.add(key.as_ref(), None)
    }

    fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> &mut Self {
        let write = Write { at: self.frames.len(), key: key.len(), value: value.map(<[u8]>::len) };
        self.writes.push(write);
        push_frame(&mut self.frames, key, value);
        self
    }

    #[inline]
    fn key(&self, index: usize) -> &[u8] {
        let Write { at, key, .. } = self.writes[index];
        &self.frames[at + HEADER as usize..][..key]
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

    /// Number of writes.
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
    tags: Vec<u32>,
    /// Of the bodies of its frames.
    crcs: Vec<u32>,
}

/// Bytes of frames that die when a batch is written, before they are counted: so a segment's count is
/// changed a few times a batch. They are counted when this is dropped, under the locks of the batch, as
/// those of a single write.
struct DeadBytes<'e> {
    all: &'e [Listed],
    /// By the low bits of a segment's index: the index, and the bytes in it.
    sums: [(usize, u64); 16],
}

impl<'e> DeadBytes<'e> {
    const fn new(all: &'e [Listed]) -> Self {
        Self { all, sums: [(0, 0); 16] }
    }

    /// As [`StoreView::died`](super::view::StoreView::died).
    #[inline]
    fn add(&mut self, at: LogPosition) {
        let Some(index) = locate(self.all, at.segment()) else { return };
        let sum = &mut self.sums[index % 16];
        if sum.0 != index {
            Self::count(self.all, *sum);
            *sum = (index, 0);
        }
        sum.1 += self.all[index].frame_len(at.offset().into()).max(WORD);
    }

    fn count(all: &[Listed], (index, bytes): (usize, u64)) {
        if bytes > 0 {
            all[index].dead.add(bytes);
        }
    }
}

impl Drop for DeadBytes<'_> {
    fn drop(&mut self) {
        self.sums.iter().for_each(|&sum| Self::count(self.all, sum));
    }
}

impl StoreInner {
    /// Does all writes of a batch that is not empty.
    pub(super) fn write(&self, batch: &Batch) -> Result<LogPosition, WriteError> {
        let computed = self.compute(batch)?;
        let len = HEADER + batch.frames.len() as u64;
        if len > MAX_SEGMENT / 2 {
            return Err(WriteError::BatchTooLarge { len, max: MAX_SEGMENT / 2 });
        }
        let writer = &*self.writer;
        let deletes = !batch.writes.iter().any(Write::is_put);
        let need = if deletes { Need::Delete } else { Need::Put };
        let mut oversize = writer.oversize_segment(len, need)?;
        let is_oversize = oversize.is_some();
        self.warm_up(&computed.tags, |nth| batch.writes[nth].key, Wanted::Key);
        let position = loop {
            let claim = || writer.try_claim(&mut oversize, len, need);
            match self.try_write(batch, &computed, claim)? {
                Ok(position) => break position,
                Err(NoRoom::InSegment) => self.roll_for(len, need)?,
                Err(NoRoom::InKeydir(crowded)) => self.keydir.relieve(crowded),
            }
        };
        if is_oversize {
            writer.after_oversize_claim();
        }
        self.count_writes(batch.writes.iter().map(Write::is_put));
        Ok(writer.acknowledge(position)?)
    }

    /// Writes a batch under the locks of its keys' shards, unless there is no room.
    fn try_write<'s>(
        &'s self,
        batch: &Batch,
        Computed { tags, crcs }: &Computed,
        claim: impl FnOnce() -> Option<Claim<'s, Segment>>,
    ) -> Result<Result<LogPosition, NoRoom>, WriteError> {
        let is = |nth: usize, at| self.is_key(at, batch.key(nth), &FoundCorruption::default());
        // The one epoch for all that looks at segments below.
        let epoch = self.table.enter();
        let mut entries = self.keydir.entries(tags);
        // Damage is found before anything is written. The set as it is under the locks has what the slots
        // point at; an older one may not.
        let old = old_positions(&self.keydir, epoch.snapshot(), &entries, batch, tags)
            .map_err(|error| if self.table.is_closed() { ReadError::Closed } else { error })?;
        if let Some(crowded) = entries.crowded(new_slots(&batch.writes, &old, tags)) {
            return Ok(Err(NoRoom::InKeydir(crowded)));
        }
        let Some(claim) = claim() else { return Ok(Err(NoRoom::InSegment)) };
        let position = write_all(claim, batch, crcs);
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
                let offset = u64::from(position.offset()) + HEADER + write.at as u64;
                let new = LogPosition::new(position.segment(), offset as u32);
                self.set_slot_by(entry, new, died);
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
        let mut tags = Vec::with_capacity(batch.len());
        let mut crcs = Vec::with_capacity(batch.len());
        for (nth, write) in batch.writes.iter().enumerate() {
            let key = batch.key(nth);
            let record = match write.value {
                Some(len) => self.new_put(key, len, None)?,
                None => new_tombstone(key)?,
            };
            let body = &batch.frames[write.at + HEADER as usize..][..record.body_len() as usize];
            tags.push(self.keydir.tag(key));
            crcs.push(frame::crc(body));
        }
        Ok(Computed { tags, crcs })
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

/// Where the slots of keys point, whose shards are locked.
fn old_positions(
    keydir: &Keydir,
    all: &[Listed],
    entries: &KeydirEntries<'_>,
    batch: &Batch,
    tags: &[u32],
) -> Result<Vec<Option<LogPosition>>, ReadError> {
    let mut old = Vec::with_capacity(tags.len());
    for (group, tags) in tags.chunks(LOOKUP_BATCH).enumerate() {
        let mut keys = [&[][..]; LOOKUP_BATCH];
        let keys = &mut keys[..tags.len()];
        for (nth, key) in keys.iter_mut().enumerate() {
            *key = batch.key(group * LOOKUP_BATCH + nth);
        }
        let slots = GroupSlots::in_snapshot(all, entries, tags);
        slots.for_each::<ReadError>(keydir, keys, Wanted::Key, |slot| {
            old.push(slot.map(|(at, _)| at));
            Ok(())
        })?;
    }
    Ok(old)
}

/// Writes and commits the frame of a batch.
fn write_all(mut claim: Claim<'_, Segment>, batch: &Batch, crcs: &[u32]) -> LogPosition {
    // With zeros for the commit words of the frames inside, which nobody reads before the batch is
    // committed.
    claim.write(HEADER, &batch.frames);
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
    use crate::log::CommitLog;
    use crate::options::Maintenance;
    use crate::segment::set::SegmentSet;
    use crate::storage::simulated::SimulatedDisk;
    use crate::store::Store;
    use std::sync::Arc;

    #[test]
    fn what_dies_in_many_segments_is_counted_in_each() {
        let log = CommitLog::in_memory();
        let writer = log.writer().expect("a log for writing");
        let table = SegmentSet::new(Vec::new());
        for _ in 0..40 {
            table.insert(writer.create_merged(64, &[1]).map(Arc::new).expect("there is room"));
        }
        let segments = table.segments();
        table.with(|all| {
            let mut dead = DeadBytes::new(all);
            for nth in (0..40).chain([3, 19, 3, 35, 3]) {
                dead.add(segments[nth].position(4096));
            }
            dead.add(LogPosition::new(u32::MAX, 128));
        });
        // Where nothing is, a word is counted.
        for (nth, segment) in segments.iter().enumerate() {
            let times = [1, 2, 4][usize::from(nth == 19 || nth == 35) + 2 * usize::from(nth == 3)];
            assert_eq!(segment.dead.get(), WORD * times);
        }
    }

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

    #[test]
    fn a_put_after_a_delete_may_need_a_slot() {
        let write = |put: bool| Write { at: 0, key: 1, value: put.then_some(1) };
        let old = [Some(LogPosition::new(1, 128)), None, Some(LogPosition::new(1, 256)), None];
        let new =
            |puts: [bool; 4]| new_slots(&puts.map(write), &old, &[1, 2, 3, 4]).collect::<Vec<_>>();
        assert_eq!(new([true; 4]), [2, 4]);
        assert_eq!(new([false; 4]), []);
        assert_eq!(new([true, false, true, true]), [1, 3, 4]);
    }
}
