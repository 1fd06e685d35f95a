//! The keydir and the segments that its slots point into.
//!
//! Invariant: a slot points at a frame in a segment that is in the table, and header and key of the
//! frame were written before the slot was set. A merge moves the slots out of a segment before the
//! segment leaves the table; so whoever holds the lock of a slot's shard finds the segment.

#![allow(unsafe_code, reason = "looks at frames that slots point at")]

use super::Clock;
use super::policy::MergePolicy;
use super::stats::{Counters, MergeTotals};
use crate::error::{Corruption, CorruptionKind};
use crate::format::frame::{HEADER, Header, Kind, State};
use crate::format::u64_at;
use crate::keydir::{IN_STEP, Keydir};
use crate::log::core::Core;
use crate::log::scan;
use crate::log::table::{Listed, Pin, locate};
use crate::position::LogPosition;
use crate::prefetch::touch;
use crate::segment::{Segment, Sum};
use crate::sync::{Mutex, MutexGuard, lock};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Damage that a lookup met where it expected a key.
pub(crate) type Damage = Cell<Option<Corruption>>;

#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) core: Arc<Core>,
    pub(crate) keydir: Keydir,
    pub(crate) counters: Counters,
    pub(crate) policy: MergePolicy,
    pub(crate) clock: Clock,
    /// Held by the one merge, and by whatever must not see the segments change.
    merging: Mutex<Merging>,
    /// How many wait for it.
    waiting: AtomicUsize,
    /// Segments that were found damaged, and that merges leave alone.
    pub(crate) damaged: Mutex<Vec<u32>>,
    /// Bytes of frames that merges have dropped.
    pub(crate) reclaimed: Sum,
    /// Held by the one who is next: a mutex alone lets a thread that merges again and again have it
    /// again and again.
    next: Mutex<()>,
    pub(crate) totals: Mutex<MergeTotals>,
    /// Set when the store is being closed: maintenance ends, and so does a merge.
    pub(crate) stop: AtomicBool,
}

/// The right to merge.
#[derive(Default)]
pub(crate) struct Merging {
    /// What a test does between the copying of frames and the moving of slots.
    pub(crate) meanwhile: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Merging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merging").finish_non_exhaustive()
    }
}

impl Index {
    pub(crate) fn new(core: Arc<Core>, keydir: Keydir, policy: MergePolicy, clock: Clock) -> Self {
        Self {
            core,
            keydir,
            counters: Counters::default(),
            policy,
            clock,
            merging: Mutex::default(),
            waiting: AtomicUsize::new(0),
            damaged: Mutex::default(),
            reclaimed: Sum::default(),
            next: Mutex::default(),
            totals: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Waits until no merge runs, and keeps others from running.
    pub(crate) fn merging(&self) -> MutexGuard<'_, Merging> {
        // ORDERING: Relaxed; a hint for the one who merges.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _next = lock(&self.next);
        let merging = lock(&self.merging);
        // ORDERING: Relaxed; as above.
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        merging
    }

    /// Whether somebody waits for the merge that runs to end.
    pub(crate) fn has_waiters(&self) -> bool {
        // ORDERING: Relaxed; a hint.
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn is_stopping(&self) -> bool {
        // ORDERING: Acquire; pairs with the Release store in `end_maintenance`.
        self.stop.load(Ordering::Acquire)
    }

    /// Looks at the segment that a slot points into. Only under the lock of its shard.
    fn with<R>(&self, at: LogPosition, look: impl FnOnce(&Segment, u64) -> R) -> R {
        self.core.table.with(|all| look(segment_of(all, at), u64::from(at.offset())))
    }

    /// Whether the frame that a slot points at is a key's. Only under the lock of its shard. What is
    /// not the key's is verified: a damaged key must not look like another one.
    pub(crate) fn is_key(&self, at: LogPosition, key: &[u8], damage: &Damage) -> bool {
        self.with(at, |segment, offset| has_key(segment, offset, key, damage))
    }

    /// As `is_key`, where the segment is most likely in a snapshot that is at hand.
    #[inline]
    pub(crate) fn is_key_in(
        &self,
        all: &[Listed],
        at: LogPosition,
        key: &[u8],
        damage: &Damage,
    ) -> bool {
        match locate(all, at.segment()) {
            Some(found) => has_key(&all[found], u64::from(at.offset()), key, damage),
            None => self.is_key(at, key, damage),
        }
    }

    /// Takes note that no slot points at a frame any more. Only under the lock of its shard.
    pub(crate) fn died(&self, at: LogPosition) {
        self.with(at, |segment, offset| segment.dead.add(frame_len(segment, offset)));
    }

    /// Keeps the segment that a slot points into. Only under the lock of its shard.
    pub(crate) fn pin(&self, at: LogPosition) -> Pin<'_> {
        self.core.table.pin(at.segment()).expect("a slot points at a segment that is there")
    }

    /// As `pin`, where the segment is most likely in a snapshot of this store's table.
    #[inline]
    pub(crate) fn pin_in(&self, all: &[Listed], at: LogPosition) -> Pin<'_> {
        let listed = locate(all, at.segment()).map(|found| &all[found]);
        // SAFETY: callers have the snapshot from the table of this store.
        let pin = listed.and_then(|listed| unsafe { self.core.table.pin_listed(listed) });
        pin.unwrap_or_else(|| self.pin(at))
    }

    /// Loads the lines with the keys of frames that slots point at.
    pub(crate) fn touch(&self, positions: &[LogPosition]) {
        self.core.table.with(|all| touch_in::<1>(all, positions));
    }
}

/// Loads the first lines of frames that slots point at, those in segments that are listed.
#[inline]
pub(crate) fn touch_in<const LINES: usize>(all: &[Listed], positions: &[LogPosition]) {
    let mut places = [[std::ptr::null(); LINES]; IN_STEP];
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
    let is = key_at(segment, offset) == Some(key);
    if !is {
        note_damage(segment, offset, damage);
    }
    is
}

fn segment_of(all: &[Listed], at: LogPosition) -> &Segment {
    &all[locate(all, at.segment()).expect("a slot points at a segment that is there")]
}

/// The length of a frame that is at least claimed.
pub(crate) fn frame_len(segment: &Segment, offset: u64) -> u64 {
    // ORDERING: Relaxed; the claim's length is that of the commit.
    segment.map.word(offset).load(Ordering::Relaxed) & 0xffff_fff8
}

/// The header of a frame that a slot points at, if it can be one.
#[inline]
fn header_at(segment: &Segment, offset: u64) -> Option<Header> {
    if offset + HEADER > segment.end() {
        return None;
    }
    // SAFETY: in the segment; written before the slot was set, and not after.
    let word = unsafe { segment.map.slice(offset + 8, 8) };
    let header = Header::from_word(u64_at(word, 0))?;
    matches!(header.kind, Kind::Put | Kind::Delete).then_some(header)
}

/// The key of a frame that a slot points at, if there can be one. Not verified.
#[inline]
pub(crate) fn key_at(segment: &Segment, offset: u64) -> Option<&[u8]> {
    let header = header_at(segment, offset)?;
    let (at, len) = (offset + HEADER + header.key_at(), u64::from(header.key_len));
    // SAFETY: in the segment; written before the slot was set, and not after.
    (at + len <= segment.end()).then(|| unsafe { segment.map.slice(at, len) })
}

/// The position that a frame was written at, which says how new it is. Not verified.
pub(crate) fn origin_of(segment: &Segment, offset: u64) -> LogPosition {
    let here = segment.position(offset);
    if !segment.header.merged {
        return here;
    }
    let moved = header_at(segment, offset).and_then(Header::origin_at);
    let Some(at) = moved.map(|at| offset + HEADER + at) else { return here };
    if at + 8 > segment.end() {
        return here;
    }
    // SAFETY: in the segment; written before the slot was set, and not after.
    LogPosition::from_u64(u64_at(unsafe { segment.map.slice(at, 8) }, 0))
}

#[cold]
#[inline(never)]
fn note_damage(segment: &Segment, offset: u64, damage: &Damage) {
    // ORDERING: Acquire; pairs with the Release store of `commit_written`.
    let word = segment.map.word(offset).load(Ordering::Acquire);
    if word & 7 == State::Claimed as u64 && !segment.is_sealed() {
        // Its writer is at it, in this process.
        return;
    }
    let kind = match scan::frame_at(segment, offset, segment.end() - offset) {
        Ok(Some(frame)) if frame.header.is_some() => return,
        Ok(_) => CorruptionKind::Missing,
        Err(kind) => kind,
    };
    damage.set(Some(Corruption::at(segment.position(offset), kind)));
}

/// Whether a frame is a put. Not verified.
pub(crate) fn is_put(segment: &Segment, offset: u64) -> bool {
    header_at(segment, offset).is_some_and(|header| header.kind == Kind::Put)
}
