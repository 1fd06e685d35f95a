//! Records that slots point at: comparing their keys, waiting for their commits, verifying them.
//!
//! The header and the key of a record are written before its slot is set, and never change. So a key can
//! be compared at once by a thread that has seen the slot, under the lock of its shard or later with the
//! segment pinned. The rest is readable once the frame is committed; until then it is waited for.
//!
//! No wait is for a writer that may be dead. A claimed frame is waited for only in a segment that this
//! process writes to. The thread that claimed it is between two steps of one call, in which it waits
//! for nothing, and if it panics there, its claim is settled as void. In any other segment a frame
//! that is not finished is damage.
//!
//! If a hint was wrong, a slot may point at something that is not a record. Everything here is
//! bounds-checked, and returns an error then.

#![allow(unsafe_code, reason = "reads frames that slots point at")]

use super::value::Value;
use crate::error::{Corruption, CorruptionKind, ReadError};
use crate::format::frame::{State, has_state, len_of};
use crate::format::record::Record;
use crate::keydir::Keydir;
use crate::position::LogPosition;
use crate::segment::holders::SegmentOwner;
use crate::segment::set::{Pin, SegmentSet};
use crate::segment::{Segment, frames, held};
use crate::sync::Backoff;
use crate::wall_clock::WallClock;
use bytes::Bytes;
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The corruption that a lookup has found where it expected a key, if it has found any.
pub(crate) type FoundCorruption = Cell<Option<Corruption>>;

/// Of a longer frame at least two pages more than the first have to be read, and are asked for together.
const FAR: u64 = 8192;

/// A record that a slot points at, in a segment that is kept mapped for it.
pub(crate) struct FoundRecord<'a> {
    /// Only lent out while this is borrowed: it is valid for as long as the pin is kept.
    record: Record<'a>,
    pin: Pin<'a>,
    position: LogPosition,
}

impl<'a> FoundRecord<'a> {
    /// Reads the record that a slot points at, once it is committed. Verifies it if `verify` is set.
    #[inline]
    pub(crate) fn read(
        pin: Pin<'a>,
        position: LogPosition,
        verify: bool,
    ) -> Result<Self, ReadError> {
        // SAFETY: the pin is kept beside what is borrowed from the segment.
        let record = record_at(unsafe { pin.segment_unbound() }, position, verify)?;
        Ok(Self { record, pin, position })
    }

    pub(crate) const fn position(&self) -> LogPosition {
        self.position
    }

    /// The position that it was first written at; a merge may have moved it since.
    pub(crate) fn origin(&self) -> LogPosition {
        self.pin.origin_of(self.position.offset().into(), &self.record)
    }

    pub(crate) fn value(&self) -> &[u8] {
        self.record.value()
    }

    pub(crate) fn into_value(self, table: &'a SegmentSet) -> Value<'a> {
        Value::new(self.record.value(), self.position, self.pin, table)
    }

    pub(crate) const fn record(&self) -> &Record<'a> {
        &self.record
    }

    /// Whether it has not expired.
    #[inline]
    pub(crate) fn is_live(&self, clock: &WallClock) -> bool {
        is_live(&self.record, clock)
    }
}

/// Whether a record has not expired.
#[inline]
pub(super) fn is_live(record: &Record<'_>, clock: &WallClock) -> bool {
    record.expiry().is_none_or(|expiry| clock.now() < expiry)
}

/// As [`FoundRecord`], in a segment that is kept without a pin.
pub(crate) struct HeldRecord<'a> {
    /// Only lent out while this is borrowed: it is valid for as long as the segment is kept.
    record: Record<'a>,
    /// Kept for that.
    segment: KeptSegment,
    position: LogPosition,
}

/// An `Arc` that is moved out before it is dropped: the address that is taken then is not its own, and so a
/// record in a loop stays in registers.
struct KeptSegment(ManuallyDrop<SegmentOwner>);

impl KeptSegment {
    #[inline(always)]
    fn new(segment: Arc<Segment>) -> Self {
        Self(ManuallyDrop::new(SegmentOwner::new(segment)))
    }
}

impl Drop for KeptSegment {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: taken here and nowhere else, and a value is dropped once.
        drop(unsafe { ManuallyDrop::take(&mut self.0) });
    }
}

impl<'a> HeldRecord<'a> {
    /// The same record, which borrows nothing.
    pub(crate) fn into_owned(self) -> HeldRecord<'static> {
        let Self { record, segment, position } = self;
        // SAFETY: only the lifetime differs, and it borrows from the segment that is kept beside it, by which
        // it is lent out.
        let record = unsafe { std::mem::transmute::<Record<'a>, Record<'static>>(record) };
        HeldRecord { record, segment, position }
    }

    /// Key and value, as bytes that own their segment.
    pub(crate) fn into_parts(self) -> (Bytes, Bytes) {
        let segment = SegmentOwner::clone(&self.segment.0);
        // SAFETY: the key of a committed frame of this segment.
        let key = unsafe { held::into_bytes(segment.clone(), self.record.key()) };
        // SAFETY: its value.
        let value = unsafe { held::into_bytes(segment, self.record.value()) };
        (key, value)
    }

    /// As [`FoundRecord::read`], in line.
    #[inline(always)]
    pub(crate) fn read(
        segment: Arc<Segment>,
        position: LogPosition,
        verify: bool,
    ) -> Result<Self, ReadError> {
        // SAFETY: the segment is kept beside what is borrowed from it, and does not move.
        let unbound = unsafe { &*Arc::as_ptr(&segment) };
        let record = match record_at_once(unbound, position.offset().into(), verify) {
            Some(record) => record,
            None => record_later(unbound, position, verify)?,
        };
        Ok(Self { record, segment: KeptSegment::new(segment), position })
    }

    pub(crate) const fn position(&self) -> LogPosition {
        self.position
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.record.key()
    }

    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        self.record.value()
    }

    /// When it expires, in milliseconds since 1970.
    #[inline]
    pub(crate) fn expiry(&self) -> Option<u64> {
        self.record.expiry()
    }

    /// Whether it has not expired.
    #[inline]
    pub(crate) fn is_live(&self, clock: &WallClock) -> bool {
        is_live(&self.record, clock)
    }
}

/// Reads the record that a slot points at, or did when its shard was locked, once it is committed.
#[inline]
pub(super) fn record_at(
    segment: &Segment,
    position: LogPosition,
    verify: bool,
) -> Result<Record<'_>, ReadError> {
    match record_at_once(segment, position.offset().into(), verify) {
        Some(record) => Ok(record),
        None => record_later(segment, position, verify),
    }
}

/// As [`record_at`], if the record is committed and sound.
#[inline(always)]
fn record_at_once(segment: &Segment, offset: u64, verify: bool) -> Option<Record<'_>> {
    // ORDERING: Acquire; pairs with the Release store in `settle`.
    let word = segment.map.word(offset).load(Ordering::Acquire);
    record_with(segment, offset, word, verify)
}

/// The record with a commit word, which was loaded with Acquire. `None`: it is not committed, or damaged.
#[inline(always)]
fn record_with(segment: &Segment, offset: u64, word: u64, verify: bool) -> Option<Record<'_>> {
    let len = len_of(word);
    if !has_state(word, State::Committed) || len > segment.end().saturating_sub(offset) {
        return None;
    }
    if len > FAR && segment.is_scattered() {
        segment.map.will_need(offset, offset + len);
    }
    // SAFETY: seen committed, with Acquire.
    let frame = unsafe { segment.map.slice(offset, len) };
    Record::in_committed(frame, word, (segment.salt(), offset), verify)
}

/// As [`record_at`], where the record was not committed a moment ago, or is not sound.
#[cold]
#[inline(never)]
fn record_later(
    segment: &Segment,
    position: LogPosition,
    verify: bool,
) -> Result<Record<'_>, ReadError> {
    let offset = u64::from(position.offset());
    let word = committed(segment, offset).ok();
    let record = word.and_then(|word| record_with(segment, offset, word, verify));
    record.ok_or_else(|| diagnose(position, segment))
}

/// Whether the record that a slot points at is a key's. The slot was seen under the lock of its shard, and
/// the segment is kept since. A record that is not the key's is verified, since a key that is damaged must
/// not pass for another one; and its key must have the slot's tag, since a slot that a wrong hint has
/// pointed elsewhere must not pass for that of another key.
#[inline]
pub(super) fn has_key(
    keydir: &Keydir,
    segment: &Segment,
    offset: u64,
    key: &[u8],
    corruption: &FoundCorruption,
) -> bool {
    // SAFETY: a slot points there, or did when its shard was locked.
    let is = unsafe { segment.has_key(offset, key) };
    if !is {
        note_corruption(keydir, segment, offset, key, corruption);
    }
    is
}

#[cold]
#[inline(never)]
fn note_corruption(
    keydir: &Keydir,
    segment: &Segment,
    offset: u64,
    key: &[u8],
    corruption: &FoundCorruption,
) {
    let has_tag = |record: Record<'_>| keydir.tag(record.key()) == keydir.tag(key);
    // ORDERING: Acquire; pairs with the Release store in `settle`.
    let word = segment.map.word(offset).load(Ordering::Acquire);
    if has_state(word, State::Claimed) && is_written_here(segment) {
        // It is not finished, so it cannot be verified yet, and its key is as it was written.
        return;
    }
    let room = segment.end().saturating_sub(offset);
    // SAFETY: a frame begins where a slot points.
    let kind = match unsafe { frames::frame_at(segment, offset, room) } {
        Ok(Some(frame)) if frame.record().is_some_and(has_tag) => return,
        Ok(frame) => no_frame(frame.is_some()),
        Err(kind) => kind,
    };
    corruption.set(Some(Corruption::at(segment.position(offset), kind)));
}

/// Whether writers of this process may have claims in a segment.
fn is_written_here(segment: &Segment) -> bool {
    segment.roll.is_some() && !segment.is_sealed()
}

/// A slot whose segment does not exist.
#[cold]
pub(super) fn stale(at: LogPosition) -> Corruption {
    Corruption::at(at, CorruptionKind::StaleSlot)
}

/// Where no frame is, there is something else, or nothing at all.
const fn no_frame(is_something: bool) -> CorruptionKind {
    if is_something { CorruptionKind::StaleSlot } else { CorruptionKind::Missing }
}

/// Finds out what is wrong with a frame that could not be read.
#[cold]
fn diagnose(position: LogPosition, segment: &Segment) -> ReadError {
    let offset = u64::from(position.offset());
    let kind = match segment.accessible().and_then(|()| committed(segment, offset).map(drop)) {
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

/// The commit word of a frame, waited for if its commit is under way.
fn committed(segment: &Segment, offset: u64) -> Result<u64, CorruptionKind> {
    let mut backoff = Backoff::default();
    loop {
        // Loaded before the word: a segment is sealed only once all claims in it are finished, so in
        // one that was sealed by now the word says how its frame ended.
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
