//! Writing to keys whose old frames may have to be read from the device.
//!
//! A put compares its key with that of the frame which the key's slot points at, and counts that frame as
//! dead. Under the write lock of the shard it must not wait for the device, since all keys of the shard
//! would wait with it. So where a slot points into a cold segment (`segment::cold`), the writer lets go of
//! the lock, reads the frame with its segment pinned, and locks again; now it knows what is there.
//!
//! Why what was found without the lock is right under it:
//!
//! * It is kept by position. Frames in sealed segments do not change, and no position is used twice. So
//!   whether the frame at a position has a key, and how long it is, is true forever.
//! * The slot may have changed meanwhile: a put or a merge has pointed it elsewhere, and its old segment
//!   may be gone. Then nothing that is known is asked for, and the slot is looked at like any other: its
//!   frame is compared at once if it is in a warm segment, and read without the lock if not.
//! * Nothing is decided before all slots with the key's tag are known, or one of them is the key's.
//!
//! A key that others keep moving from one cold segment to another would never be decided, so after some
//! rounds ([`ROUNDS`]) the frame is read under the lock.
//!
//! Batches and lookups of many keys lock many shards. They have the frames that the slots point at read
//! beforehand, many at a time, so that the device works on many at once ([`StoreView::warm_up`]). Whatever
//! has changed until they hold their locks was written a moment ago, and is in memory.

use super::found::{FoundCorruption, FoundRecord, has_key};
use super::view::{StoreView, segment_of};
use crate::error::{Corruption, ReadError};
use crate::format::frame::HEADER;
use crate::keydir::LockedEntry;
use crate::position::LogPosition;
use crate::segment::Segment;
use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::Ordering;

/// Frames that are asked for before the first of them is waited for.
const ASKED: usize = 128;

/// Rounds of reading without the lock.
const ROUNDS: u32 = 8;

/// What else is to be known of a key's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Key,
    /// All of it, verified.
    Record,
}

/// What is known of frames that slots with a key's tag point at, or did.
pub(super) struct KnownFrames<'a> {
    wanted: Wanted,
    /// `None` as long as no cold segment was met, as in most writes.
    read: Option<Box<ReadFrames<'a>>>,
}

#[derive(Default)]
struct ReadFrames<'a> {
    rounds: u32,
    all: Vec<KnownFrame<'a>>,
}

struct KnownFrame<'a> {
    at: LogPosition,
    is_the_keys: bool,
    len: u64,
    corruption: Option<Corruption>,
    /// If it is wanted, and sound.
    record: Option<FoundRecord<'a>>,
}

impl<'a> KnownFrames<'a> {
    pub(super) const fn none(wanted: Wanted) -> Self {
        Self { wanted, read: None }
    }

    #[inline]
    fn get(&self, at: LogPosition) -> Option<&KnownFrame<'a>> {
        self.read.as_deref().and_then(|read| read.all.iter().find(|known| known.at == at))
    }

    fn rounds(&self) -> u32 {
        self.read.as_deref().map_or(0, |read| read.rounds)
    }

    /// The length of a frame, if it is known.
    pub(super) fn len_of(&self, at: LogPosition) -> Option<u64> {
        self.get(at).map(|known| known.len)
    }

    /// The record in a frame, if it is known.
    pub(super) fn record(&self, at: LogPosition) -> Option<&FoundRecord<'a>> {
        self.get(at)?.record.as_ref()
    }

    /// Reads frames, without a lock. What is not in the set any more, no slot points at.
    fn read(&mut self, view: &'a StoreView, key: &[u8], unknown: &[LogPosition]) {
        let read_frames = self.read.get_or_insert_default();
        read_frames.rounds += 1;
        for &at in unknown {
            let Some(segment) = view.pin(at) else { continue };
            let (offset, corruption) = (u64::from(at.offset()), FoundCorruption::default());
            let is_the_keys = has_key(&view.keydir, &segment, offset, key, &corruption);
            let len = segment.frame_len(offset);
            // If it cannot be read, that is found once more by whoever needs it.
            let read = || FoundRecord::read(segment, at, view.verify).ok();
            let record = (is_the_keys && self.wanted == Wanted::Record).then(read).flatten();
            let corruption = corruption.take();
            read_frames.all.push(KnownFrame { at, is_the_keys, len, corruption, record });
        }
    }
}

impl StoreView {
    /// Locks a key's entry. Damage is an error if it may be what is left of the key.
    #[inline(always)]
    pub(super) fn lock_entry<'s>(
        &'s self,
        key: &[u8],
        known: &mut KnownFrames<'s>,
    ) -> Result<LockedEntry<'s>, ReadError> {
        let (tag, corruption, met) =
            (self.keydir.tag(key), FoundCorruption::default(), Cell::default());
        let entry = self.keydir.entry(tag, |at| {
            self.table.with(|all| match segment_of(all, at) {
                Some(segment) if !segment.is_cold() => {
                    has_key(&self.keydir, segment, at.offset().into(), key, &corruption)
                }
                _ => {
                    met.set(Some(at));
                    false
                }
            })
        });
        if entry.position().is_some() {
            return Ok(entry);
        }
        match (met.get(), corruption.take()) {
            (None, None) => Ok(entry),
            (None, Some(corruption)) => Err(self.error(corruption)),
            (Some(met), _) => {
                drop(entry);
                self.lock_cold_entry(tag, key, met, known)
            }
        }
    }

    /// As `lock_entry`, where a slot with the tag points into a cold segment, and none into a warm one is
    /// the key's.
    #[cold]
    #[inline(never)]
    fn lock_cold_entry<'s>(
        &'s self,
        tag: u32,
        key: &[u8],
        met: LogPosition,
        known: &mut KnownFrames<'s>,
    ) -> Result<LockedEntry<'s>, ReadError> {
        let mut unknown = Vec::new();
        if known.get(met).is_none() {
            unknown.push(met);
        }
        loop {
            known.read(self, key, &unknown);
            unknown.clear();
            let corruption = FoundCorruption::default();
            let entry = self.keydir.entry(tag, |at| match known.get(at) {
                Some(frame) => {
                    if frame.corruption.is_some() {
                        corruption.set(frame.corruption.clone());
                    }
                    frame.is_the_keys
                }
                None if known.rounds() < ROUNDS && self.is_in_cold(at) => {
                    unknown.push(at);
                    false
                }
                None => self.is_key(at, key, &corruption),
            });
            if entry.position().is_some() {
                return Ok(entry);
            }
            if unknown.is_empty() {
                let found = corruption.take();
                return found.map_or(Ok(entry), |found| Err(self.error(found)));
            }
        }
    }

    fn is_in_cold(&self, at: LogPosition) -> bool {
        self.table.with(|all| segment_of(all, at).is_some_and(Segment::is_cold))
    }

    /// Has the frames read that the slots of these tags point at, if they are in cold segments: their
    /// heads with a key of `key_len(nth)` bytes, or all of them if their values are wanted. Takes the lock
    /// of one shard at a time, and reads without any.
    #[inline]
    pub(super) fn warm_up(&self, tags: &[u32], key_len: impl Fn(usize) -> usize, wanted: Wanted) {
        if self.table.cache.has_cold() {
            self.warm_up_cold(tags, &key_len, wanted);
        }
    }

    #[cold]
    #[inline(never)]
    fn warm_up_cold(&self, tags: &[u32], key_len: &dyn Fn(usize) -> usize, wanted: Wanted) {
        let mut slots = Vec::with_capacity(tags.len().min(ASKED));
        for (group, tags) in tags.chunks(ASKED).enumerate() {
            for (nth, &tag) in tags.iter().enumerate() {
                let len = HEADER + key_len(group * ASKED + nth) as u64;
                self.keydir.each(tag, |at| {
                    slots.extend(self.pin(at).filter(|s| s.is_cold()).map(|s| (at, s, len)));
                });
            }
            let heads =
                slots.iter().map(|(at, segment, len)| (&**segment, at.offset().into(), *len));
            read_pages(heads.clone());
            if wanted == Wanted::Record {
                let frames = heads.map(|(segment, at, _)| (segment, at, segment.frame_len(at)));
                read_pages(frames);
            }
            slots.clear();
        }
    }
}

/// Reads the pages of ranges of cold segments, after all of them were asked for.
fn read_pages<'s>(ranges: impl Iterator<Item = (&'s Segment, u64, u64)> + Clone) {
    const PAGE: u64 = 4096;
    let inside = ranges.map(|(segment, from, len)| {
        let end = segment.end().min(segment.map.len() as u64);
        (segment, from.min(end), from.saturating_add(len).min(end))
    });
    for (segment, from, to) in inside.clone().filter(|(segment, ..)| segment.is_scattered()) {
        segment.map.will_need(from, to);
    }
    for (segment, from, to) in inside {
        let pages = (from - from % PAGE..to).step_by(PAGE as usize);
        // ORDERING: Relaxed; nothing but the page is wanted, and nothing writes to a cold segment.
        pages.for_each(|page| _ = black_box(segment.map.word(page).load(Ordering::Relaxed)));
    }
}
