//! Puts, and what all writes of single keys have in common. Those that depend on the current value are in
//! `conditional`.
//!
//! A put works in two halves. Under the write lock of its key's shard it reserves and claims a frame,
//! writes the header and the key, and points the key's slot at the frame. After the lock it copies the
//! value, computes the checksum and commits. What follows from that:
//!
//! * A key's frames are in the log in the order in which its slot changed. If a frame were claimed
//!   before the lock, two puts of one key could take their frames in one order and the lock in the
//!   other; readers would then see one value, and recovery, which goes by the log, the other.
//! * The lock is held for as long as it takes to copy a key, however long the value is.
//! * A reader may find a slot whose frame is not committed yet. It waits for that one commit, and a
//!   writer that holds a claim waits for no other thread.
//!
//! Deletes and conditional writes do all of their work under the lock, since they depend on the current
//! value. Nothing that can block is done under it: if there is no room, the entry is released, the log
//! rolls, and the write starts again; the segment for an oversize frame is created before. No user's
//! closure runs under it either: `update` calls it before, and then checks that the key has not
//! changed. A frame that may have to come from the device is not read under it either: see `cold`.

#![allow(unsafe_code, reason = "sums what it has just written")]

use super::cold::{KnownFrames, Wanted};
use super::found::FoundCorruption;
use super::inner::StoreInner;
use crate::error::{AppendError, WriteError};
use crate::format::frame::{self, HEADER};
use crate::format::record::NewRecord;
use crate::log::append::claim::Claim;
use crate::log::waiters::WakeLater;
use crate::log::writer::Need;
use crate::log::writer::oversize::{OversizeSegment, populate};
use crate::options::Durability;
use crate::position::LogPosition;
use crate::segment::Segment;
use std::time::Duration;

impl StoreInner {
    pub(super) fn put(
        &self,
        key: &[u8],
        value: &[u8],
        ttl: Option<Duration>,
        durability: Option<Durability>,
    ) -> Result<LogPosition, WriteError> {
        let durability = durability.unwrap_or(self.writer.durability());
        let expiry = ttl.map(|ttl| self.expiry_after(ttl)).transpose()?;
        let put = self.new_put(key, value.len(), expiry)?;
        let finished = self.writer.wake_after(put.frame_len());
        let claim = self.place(&put)?;
        let position = finish(claim, &put, value);
        drop(finished);
        self.writes.puts.add(1);
        Ok(self.writer.acknowledge_as(position, durability)?)
    }

    /// The expiry of a value that is written now.
    pub(super) fn expiry_after(&self, ttl: Duration) -> Result<u64, WriteError> {
        self.clock.expiry_after(ttl).ok_or(WriteError::ZeroTtl)
    }

    pub(super) fn new_put<'k>(
        &self,
        key: &'k [u8],
        value_len: usize,
        expiry: Option<u64>,
    ) -> Result<NewRecord<'k>, WriteError> {
        let len = value_len as u64;
        // A length that does not fit into 32 bits is above the limit, and refused below.
        let put = NewRecord::put(key, len as u32, expiry).ok_or_else(|| bad_key(key))?;
        if len > self.max_value {
            return Err(WriteError::ValueTooLarge { len, max: self.max_value });
        }
        Ok(put)
    }

    /// Claims a put's frame and points the key's slot at it; rolls if there is no room.
    #[inline]
    fn place(&self, put: &NewRecord<'_>) -> Result<Claim<'_, Segment>, WriteError> {
        let (writer, len) = (&*self.writer, put.frame_len());
        if writer.is_oversize(len) {
            // Before it has a segment: nobody rolls from then on until that is used.
            let key = put.key();
            self.warm_up(&[self.keydir.tag(key)], |_| key.len(), Wanted::Key);
        }
        let mut oversize = writer.oversize_segment(len, Need::Put)?;
        let (is_oversize, mut known) = (oversize.is_some(), KnownFrames::none(Wanted::Key));
        loop {
            if let Some(claim) = self.try_place(put, &mut oversize, &mut known)? {
                if is_oversize {
                    writer.after_oversize_claim();
                    populate(&claim);
                }
                return Ok(claim);
            }
            writer.roll(len, Need::Put)?;
        }
    }

    /// As `place`, under the lock of the key's shard; `None` if there is no room.
    #[inline]
    fn try_place<'s>(
        &'s self,
        put: &NewRecord<'_>,
        oversize: &mut Option<OversizeSegment<'s>>,
        known: &mut KnownFrames<'s>,
    ) -> Result<Option<Claim<'s, Segment>>, WriteError> {
        let _after_the_lock = WakeLater::begin();
        let entry = self.lock_entry(put.key(), known)?;
        let len = put.frame_len();
        let Some(mut claim) = self.writer.try_claim(oversize, len, Need::Put) else {
            return Ok(None);
        };
        put.write_head(|at, part| claim.write(at, part));
        let old_len = entry.position().and_then(|old| known.len_of(old));
        self.set_slot(entry, position(&claim), old_len);
        Ok(Some(claim))
    }

    pub(super) fn delete_damaged(&self, key: &[u8]) -> Result<bool, WriteError> {
        let (tombstone, damage) = (new_tombstone(key)?, FoundCorruption::default());
        self.warm_up(&[self.keydir.tag(key)], |_| key.len(), Wanted::Key);
        let is_there = self.remove(&tombstone, |at| self.is_key(at, key, &damage))?;
        match damage.take() {
            Some(place) if !is_there => {
                let (segment, offset) = (place.segment, place.offset as u32);
                self.remove(&tombstone, |at| at == LogPosition::new(segment, offset))
            }
            _ => Ok(is_there),
        }
    }

    /// Writes a tombstone for a key if it has a slot that `is` accepts, and removes that slot.
    fn remove(
        &self,
        tombstone: &NewRecord<'_>,
        is: impl Fn(LogPosition) -> bool,
    ) -> Result<bool, WriteError> {
        let writer = &*self.writer;
        loop {
            match self.try_remove(tombstone, &is) {
                None => self.roll_for(tombstone.frame_len(), Need::Delete)?,
                Some(None) => return self.unchanged(false, None, None),
                Some(Some(position)) => {
                    self.writes.deletes.add(1);
                    writer.acknowledge(position)?;
                    return Ok(true);
                }
            }
        }
    }

    /// As `remove`, under the lock of the key's shard; `None` if there is no room.
    fn try_remove(
        &self,
        tombstone: &NewRecord<'_>,
        is: impl Fn(LogPosition) -> bool,
    ) -> Option<Option<LogPosition>> {
        let _after_the_lock = WakeLater::begin();
        let entry = self.keydir.entry(self.keydir.tag(tombstone.key()), is);
        if entry.position().is_none() {
            return Some(None);
        }
        let len = tombstone.frame_len();
        let mut claim = self.writer.try_claim(&mut None, len, Need::Delete)?;
        tombstone.write_head(|at, part| claim.write(at, part));
        let position = finish(claim, tombstone, &[]);
        self.keydir.shrink(self.remove_slot(entry, None));
        Some(Some(position))
    }

    /// What a write decided that leaves everything as it is: it met no refusal of the log, so it asks
    /// whether the store is closed.
    #[inline]
    pub(super) fn refused<R>(&self, result: R) -> Result<R, WriteError> {
        if self.table.is_closed() {
            return Err(WriteError::Closed);
        }
        let readable = self.writer.check_maps();
        readable.map_err(|source| AppendError::Sync { position: None, source })?;
        Ok(result)
    }

    /// As `refused`, of a write that is done although it has written nothing, because of what it found at
    /// a position, or because it found nothing. A synced one returns once that is durable: of two deletes,
    /// the second one must not be acknowledged and then lost with the tombstone of the first.
    pub(super) fn unchanged<R>(
        &self,
        result: R,
        found: Option<LogPosition>,
        durability: Option<Durability>,
    ) -> Result<R, WriteError> {
        let result = self.refused(result)?;
        if durability.unwrap_or(self.writer.durability()) == Durability::Synced {
            // What is gone leaves no position.
            let durable = self.writer.wait_durable(found.unwrap_or(self.writer.tail()));
            durable.map_err(|source| AppendError::Sync { position: None, source })?;
        }
        Ok(result)
    }

    /// The end of the log, where an empty batch is.
    pub(super) fn tail_if_open(
        &self,
        durability: Option<Durability>,
    ) -> Result<LogPosition, WriteError> {
        self.unchanged(self.writer.tail(), None, durability)
    }

    /// Counts puts, and deletes.
    pub(super) fn count_writes(&self, are_puts: impl ExactSizeIterator<Item = bool>) {
        let all = are_puts.len() as u64;
        let puts = are_puts.filter(|&is_put| is_put).count() as u64;
        self.writes.puts.add(puts);
        self.writes.deletes.add(all - puts);
    }
}

pub(super) fn new_tombstone(key: &[u8]) -> Result<NewRecord<'_>, WriteError> {
    NewRecord::tombstone(key).ok_or_else(|| bad_key(key))
}

#[cold]
const fn bad_key(key: &[u8]) -> WriteError {
    WriteError::KeyLength { len: key.len() }
}

fn position(claim: &Claim<'_, Segment>) -> LogPosition {
    claim.segment().position(claim.offset())
}

/// Writes the value behind the head, and commits the frame.
pub(super) fn finish(
    mut claim: Claim<'_, Segment>,
    record: &NewRecord<'_>,
    value: &[u8],
) -> LogPosition {
    claim.write(record.value_at(), value);
    let body = claim.offset() + HEADER;
    // SAFETY: inside the claimed range, which only this thread writes, and it has written all of it;
    // the padding is zero, as is all of a segment before it is written.
    let crc = frame::crc(unsafe { claim.segment().map.slice(body, record.body_len()) });
    claim.commit_written(record.header(), crc)
}

impl From<AppendError> for WriteError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Closed => Self::Closed,
            error => Self::Append(error),
        }
    }
}
