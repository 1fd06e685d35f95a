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
use crate::format::frame::{self, HEADER, Header, Kind};
use crate::format::record::push_body;
use crate::keydir::{Crowded, Keydir, KeydirEntries, LOOKUP_BATCH};
use crate::log::append::claim::Claim;
use crate::log::writer::Need;
use crate::options::MAX_SEGMENT;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::set::Listed;
use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// Writes that are done together: all of them or none, even after a crash. See [`Store::write`](super::Store::write).
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Batch {
    writes: Vec<Write>,
    /// The bodies of their frames, one behind the other, each padded to a multiple of 8.
    bodies: Vec<u8>,
}

/// A put or a delete, and where its body is.
#[derive(Clone, Copy, Debug)]
struct Write {
    at: usize,
    key: usize,
    value: Option<usize>,
}

impl Batch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self { writes: Vec::new(), bodies: Vec::new() }
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
        let write = Write { at: self.bodies.len(), key: key.len(), value: value.map(<[u8]>::len) };
        self.writes.push(write);
        push_body(&mut self.bodies, key, value.unwrap_or_default());
        self
    }

    fn key(&self, index: usize) -> &[u8] {
        let Write { at, key, .. } = self.writes[index];
        &self.bodies[at..][..key]
    }

    /// Those deletes after which the same key is put again.
    fn put_again(&self) -> HashSet<usize> {
        let (mut put_later, mut found) = (HashSet::new(), HashSet::new());
        for (nth, write) in self.writes.iter().enumerate().rev() {
            if write.value.is_some() {
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

/// A record of a batch, but for its place.
struct BatchRecord<'b> {
    header: Header,
    body: &'b [u8],
    crc: u32,
}

impl StoreInner {
    /// Does all writes of a batch that is not empty.
    pub(super) fn write(&self, batch: &Batch) -> Result<LogPosition, WriteError> {
        let frames = batch.writes.iter().map(|write| self.frame_of(batch, write));
        let frames = frames.collect::<Result<Vec<_>, _>>()?;
        let lens = frames.iter().map(|frame| frame::frame_len(frame.header.body_len()));
        let len = HEADER + lens.sum::<u64>();
        if len > MAX_SEGMENT / 2 {
            return Err(WriteError::BatchTooLarge { len, max: MAX_SEGMENT / 2 });
        }
        let writer = &*self.writer;
        let keys: Vec<&[u8]> = (0..batch.len()).map(|n| batch.key(n)).collect();
        let tags: Vec<u32> = keys.iter().map(|key| self.keydir.tag(key)).collect();
        let deletes = !frames.iter().any(|frame| frame.header.kind == Kind::Put);
        let need = if deletes { Need::Delete } else { Need::Put };
        let mut oversize = writer.oversize_segment(len, need)?;
        let is_oversize = oversize.is_some();
        self.warm_up(&tags, |nth| batch.writes[nth].key, Wanted::Key);
        let position = loop {
            let claim = || writer.try_claim(&mut oversize, len, need);
            match self.try_write(batch, &keys, &tags, &frames, claim)? {
                Ok(position) => break position,
                Err(NoRoom::InSegment) => writer.roll(len, need)?,
                Err(NoRoom::InKeydir(crowded)) => self.keydir.relieve(crowded),
            }
        };
        if is_oversize {
            writer.after_oversize_claim();
        }
        self.count_writes(frames.iter().map(|frame| frame.header.kind == Kind::Put));
        Ok(writer.acknowledge(position)?)
    }

    /// Writes a batch under the locks of its keys' shards, unless there is no room.
    fn try_write<'s>(
        &'s self,
        batch: &Batch,
        keys: &[&[u8]],
        tags: &[u32],
        frames: &[BatchRecord<'_>],
        claim: impl FnOnce() -> Option<Claim<'s, Segment>>,
    ) -> Result<Result<LogPosition, NoRoom>, WriteError> {
        let is = |nth: usize, at| self.is_key(at, keys[nth], &FoundCorruption::default());
        // The one epoch for all that looks at segments below.
        let epoch = self.table.enter();
        let mut entries = self.keydir.entries(tags);
        // Damage is found before anything is written.
        let old = old_positions(&self.keydir, epoch.snapshot(), &entries, keys, tags)?;
        if let Some(crowded) = entries.crowded(new_slots(frames, &old, tags)) {
            return Ok(Err(NoRoom::InKeydir(crowded)));
        }
        let Some(claim) = claim() else { return Ok(Err(NoRoom::InSegment)) };
        let (position, puts) = write_all(claim, frames);
        // ORDERING: Relaxed; pairs with the loads in `look_up_many`, and the locks order it.
        self.batches.fetch_add(1, Ordering::Relaxed);
        // To an iteration, a key that a batch deletes and then puts again was there all the time.
        let mut sparse = Vec::new();
        let put_again = if self.scans.any() { batch.put_again() } else { HashSet::new() };
        for (nth, ((&tag, old), put)) in tags.iter().zip(old).zip(puts).enumerate() {
            let mut entry = entries.entry(tag, |at| match old {
                Some(old) => at == old,
                None => is(nth, at),
            });
            if entry.position().is_none() && old.is_some() {
                // The batch has written this key before.
                entry = entries.entry(tag, |at| is(nth, at));
            }
            match put {
                Some(position) => self.set_slot(entry, position, None),
                None if put_again.contains(&nth) => {}
                None => sparse.extend(self.remove_slot(entry, None)),
            }
        }
        drop(entries);
        self.keydir.shrink(sparse);
        Ok(Ok(position))
    }

    /// What can be computed of a write without its place, and so without a lock.
    fn frame_of<'b>(&self, batch: &'b Batch, write: &Write) -> Result<BatchRecord<'b>, WriteError> {
        let body = &batch.bodies[write.at..];
        let key = &body[..write.key];
        let record = match write.value {
            Some(len) => self.new_put(key, len, None)?,
            None => new_tombstone(key)?,
        };
        let header = record.header();
        let body = &body[..header.body_len() as usize];
        Ok(BatchRecord { header, body, crc: frame::crc(body) })
    }
}

/// Where a batch has none.
enum NoRoom {
    InSegment,
    InKeydir(Crowded),
}

/// The tags of puts that may need a slot more: their keys have none, or a delete in the batch may be theirs.
fn new_slots(
    frames: &[BatchRecord<'_>],
    old: &[Option<LogPosition>],
    tags: &[u32],
) -> impl Iterator<Item = u32> {
    let is_put = |frame: &BatchRecord<'_>| frame.header.kind == Kind::Put;
    let has_deletes = !frames.iter().all(is_put);
    let each = frames.iter().zip(old).zip(tags);
    each.filter(move |((frame, old), _)| is_put(frame) && (old.is_none() || has_deletes))
        .map(|(_, &tag)| tag)
}

/// Where the slots of keys point, whose shards are locked.
fn old_positions(
    keydir: &Keydir,
    all: &[Listed],
    entries: &KeydirEntries<'_>,
    keys: &[&[u8]],
    tags: &[u32],
) -> Result<Vec<Option<LogPosition>>, ReadError> {
    let mut old = Vec::with_capacity(tags.len());
    for (keys, tags) in keys.chunks(LOOKUP_BATCH).zip(tags.chunks(LOOKUP_BATCH)) {
        let slots = GroupSlots::in_snapshot(all, entries, tags);
        slots.for_each::<ReadError>(keydir, keys, Wanted::Key, |slot| {
            old.push(slot.map(|(at, _)| at));
            Ok(())
        })?;
    }
    Ok(old)
}

/// Writes and commits the frame of a batch. Returns the position of each put's frame, `None` for a
/// delete.
fn write_all(
    mut claim: Claim<'_, Segment>,
    frames: &[BatchRecord<'_>],
) -> (LogPosition, Vec<Option<LogPosition>>) {
    let mut puts = Vec::with_capacity(frames.len());
    let mut at = HEADER;
    for &BatchRecord { header, body, crc } in frames {
        let position = claim.segment().position(claim.offset() + at);
        puts.push((header.kind == Kind::Put).then_some(position));
        let len = frame::frame_len(header.body_len());
        claim.write(at + frame::WORD, &header.to_word().to_le_bytes());
        claim.write(at + HEADER, body);
        claim.write_inner_word(at, len, header, crc);
        at += len;
    }
    let header = Header::plain(Kind::Batch, frames.len() as u32);
    (claim.commit(header, frame::crc(&[])), puts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_after_a_delete_may_need_a_slot() {
        let record = |kind| BatchRecord { header: Header::plain(kind, 0), body: &[], crc: 0 };
        let kinds = |all: &[Kind]| all.iter().map(|&kind| record(kind)).collect::<Vec<_>>();
        let old = [Some(LogPosition::new(1, 128)), None, Some(LogPosition::new(1, 256)), None];
        let new = |frames: Vec<_>| new_slots(&frames, &old, &[1, 2, 3, 4]).collect::<Vec<_>>();
        assert_eq!(new(kinds(&[Kind::Put; 4])), [2, 4]);
        assert_eq!(new(kinds(&[Kind::Delete; 4])), []);
        assert_eq!(new(kinds(&[Kind::Put, Kind::Delete, Kind::Put, Kind::Put])), [1, 3, 4]);
    }
}
