//! One key of the store: its slot, and the frames that it points at.
//!
//! Claims, commits and pins are tailcask's own. The slot is a lock around a position, as a shard of
//! the keydir is. Pending marks are tailcask's own, too, and moved as `ScanMarks::slot_changes` does it.
//! What is done under the lock, and in which order, follows `src/store`: `try_place` and
//! `try_remove` in `write.rs`, `find` and `read_pinned` in `view.rs`, `try_write` in `batch.rs`, `put`
//! and `replace` in `store/merge/run.rs`, `write` in `store/merge/output.rs`.

#![allow(unsafe_code, reason = "writes the copy that a merge makes")]

use crate::format::frame::{self, HEADER, Header, Kind, State};
use crate::format::header::FIRST_FRAME;
use crate::log::append::claim::SegmentMemory;
use crate::memory::{FRAME, Log, LoomSegment, fill};
use crate::pending::words::Words;
use crate::position::LogPosition;
use crate::segment::pins::Pins;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, lock, yield_now};
use crate::{begin_main, model, spawn};

pub(crate) const OLD: [u8; 8] = [1; 8];
pub(crate) const NEW: [u8; 8] = [2; 8];
const GONE: [u8; 8] = [9; 8];
/// The id of the segment that a merge makes.
const COPY: u32 = 77;

pub(crate) struct Key {
    log: Log,
    pub(crate) slot: Mutex<Option<LogPosition>>,
    copies: Arc<LoomSegment>,
    /// Of the first segment of the log, and of the copies.
    pins: [Pins; 2],
    /// The pending marks of an iteration in those two.
    marks: Option<[Words; 2]>,
}

impl Key {
    /// One with a value, in a segment with room for two more frames.
    fn with_a_value() -> Arc<Self> {
        Self::new(None)
    }

    /// As `with_a_value`, and an iteration can mark it.
    pub(crate) fn with_marks() -> Arc<Self> {
        Self::new(Some([Words::new(), Words::new()]))
    }

    fn new(marks: Option<[Words; 2]>) -> Arc<Self> {
        let log = Log::new(2, 3 * FRAME);
        let place = log.append(&OLD);
        let copies = Arc::new(LoomSegment::new(COPY, FRAME));
        let pins = [Pins::default(), Pins::default()];
        Arc::new(Self { log, slot: Mutex::new(Some(place)), copies, pins, marks })
    }

    fn mark(at: LogPosition) -> usize {
        at.offset() as usize / 8
    }

    /// Moves the mark, if it is there.
    fn slot_changes(&self, old: LogPosition, new: Option<LogPosition>) {
        let Some(marks) = &self.marks else { return };
        let of = |at: LogPosition| &marks[usize::from(at.segment() == COPY)];
        if of(old).take(Self::mark(old))
            && let Some(new) = new
        {
            of(new).set(Self::mark(new));
        }
    }

    /// The snapshot of an iteration.
    pub(crate) fn snapshot(&self) {
        let slot = lock(&self.slot);
        if let (Some(at), Some([marks, _])) = (*slot, &self.marks) {
            assert!(at.segment() != COPY, "no merge has come by");
            marks.set(Self::mark(at));
        }
    }

    /// One pass of an iteration: the values that it yields.
    pub(crate) fn pass(&self) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        for (pins, (id, marks)) in
            self.pins.iter().zip([1, COPY].into_iter().zip(self.marks.iter().flatten()))
        {
            // Refused: retired, and its marks were moved.
            let Some(stripe) = pins.pin() else { continue };
            if let Some(mark) = marks.take_next(0) {
                found.push(self.read(LogPosition::new(id, mark as u32 * 8)));
            }
            // SAFETY: it was pinned once, and is not read any more.
            unsafe { pins.unpin(stripe) };
        }
        found
    }

    /// Moves the slot to a copy, and lets go of the segment that it pointed into.
    pub(crate) fn merge_away(&self, old: LogPosition) {
        self.merge(old);
        self.pins(old).retire();
        if self.pins(old).is_free() {
            self.segment(old).unmap();
        }
    }

    fn segment(&self, at: LogPosition) -> Arc<LoomSegment> {
        if at.segment() == COPY { self.copies.clone() } else { self.log.segment(at.segment()) }
    }

    fn pins(&self, at: LogPosition) -> &Pins {
        &self.pins[usize::from(at.segment() == COPY)]
    }

    /// The slot is set between claim and commit.
    pub(crate) fn put(&self) -> LogPosition {
        self.put_with(|| true)
    }

    /// As `put`, by a writer who moves marks only if an iteration has registered itself.
    pub(crate) fn put_if_registered(&self, registered: &AtomicBool) -> LogPosition {
        // ORDERING: Relaxed; as in `ActiveScans::any`.
        self.put_with(|| registered.load(Ordering::Relaxed))
    }

    fn put_with(&self, is_scanned: impl FnOnce() -> bool) -> LogPosition {
        let mut slot = lock(&self.slot);
        let claim = self.log.claim(FRAME);
        let place = LogPosition::new(claim.segment().id(), claim.offset() as u32);
        if let Some(old) = *slot
            && is_scanned()
        {
            self.slot_changes(old, Some(place));
        }
        *slot = Some(place);
        drop(slot);
        fill(claim, &NEW)
    }

    /// All of it under the lock.
    pub(crate) fn delete(&self) -> Option<LogPosition> {
        let mut slot = lock(&self.slot);
        let old = slot.take()?;
        self.slot_changes(old, None);
        Some(fill(self.log.claim(FRAME), &GONE))
    }

    fn get(&self) -> Option<Vec<u8>> {
        let slot = lock(&self.slot);
        let at = (*slot)?;
        let stripe = self.pins(at).pin().expect("a slot points at a segment that is there");
        drop(slot);
        let body = self.read(at);
        // SAFETY: it was pinned once, and is not read any more.
        unsafe { self.pins(at).unpin(stripe) };
        Some(body)
    }

    fn read(&self, at: LogPosition) -> Vec<u8> {
        let segment = self.segment(at);
        loop {
            match segment.frame(u64::from(at.offset()), Ordering::Acquire) {
                Some((word, body)) if word.state == State::Committed => break body,
                Some(_) => yield_now(),
                None => panic!("a slot points at a frame that is claimed at least"),
            }
        }
    }

    /// Copies the first frame if the slot points at it, and moves the slot if it still does.
    fn merge(&self, old: LogPosition) {
        if *lock(&self.slot) != Some(old) {
            return;
        }
        let offset = u64::from(old.offset());
        let (_, body) = self.segment(old).frame(offset, Ordering::Acquire).expect("committed");
        let new = self.copy(&body);
        let mut slot = lock(&self.slot);
        if *slot == Some(old) {
            self.slot_changes(old, Some(new));
            *slot = Some(new);
        }
    }

    fn copy(&self, body: &[u8]) -> LogPosition {
        let (copies, header) = (&*self.copies, Header::entry(body));
        // SAFETY: no other thread knows of the copy yet; loom reports it if one does.
        unsafe { copies.write(FIRST_FRAME + frame::WORD, &header.to_word().to_le_bytes()) };
        // SAFETY: as above.
        unsafe { copies.write(FIRST_FRAME + HEADER, body) };
        let word = frame::word_of(copies.salt(), FIRST_FRAME, header, body);
        // ORDERING: Release; as in `store/merge/output.rs`.
        copies.word(FIRST_FRAME).store(word, Ordering::Release);
        LogPosition::new(COPY, FIRST_FRAME as u32)
    }
}

/// A put, a delete and a merge of one key: in the end the slot and the log agree.
pub fn a_merge_undoes_no_write() {
    model(3, || {
        let key = Key::with_a_value();
        let old = lock(&key.slot).expect("a value");
        let putting = spawn({
            let key = key.clone();
            move || key.put()
        });
        let deleting = spawn({
            let key = key.clone();
            move || key.delete()
        });
        begin_main();
        key.merge(old);
        let put = putting.join().unwrap();
        let deleted = deleting.join().unwrap().expect("there was a value at any time");
        let expected = if deleted > put { None } else { Some(NEW.to_vec()) };
        assert_eq!(key.get(), expected, "the later of the two counts");
    });
}

/// A get while the key is overwritten waits for the one commit, and sees one value or the other.
pub fn a_get_sees_a_whole_value() {
    model(3, || {
        let key = Key::with_a_value();
        let putting = spawn({
            let key = key.clone();
            move || key.put()
        });
        begin_main();
        let found = key.get().expect("a value at any time");
        assert!(found == OLD || found == NEW);
        putting.join().unwrap();
        assert_eq!(key.get().unwrap(), NEW);
    });
}

/// A get while the key's segment is merged away: it finds the value, in memory that is mapped.
pub fn a_get_reads_no_unmapped_segment() {
    model(3, || {
        let key = Key::with_a_value();
        let old = lock(&key.slot).expect("a value");
        let readers = [(); 2].map(|()| {
            let key = key.clone();
            spawn(move || assert_eq!(key.get().unwrap(), OLD))
        });
        begin_main();
        key.merge(old);
        key.pins(old).retire();
        if key.pins(old).is_free() {
            key.segment(old).unmap();
        }
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(key.pins(old).is_free());
        assert_eq!(key.get().unwrap(), OLD);
    });
}

/// A batch sets two keys: a reader of both sees both, or neither.
pub fn a_batch_is_seen_whole_in_its_slots() {
    const INNER: u64 = FRAME;
    type Slots = [Mutex<Option<LogPosition>>; 2];
    model(3, || {
        let log = Arc::new(Log::new(2, HEADER + 2 * INNER));
        let slots: Arc<Slots> = Arc::new([Mutex::new(None), Mutex::new(None)]);
        let writer = spawn({
            let (log, slots) = (log.clone(), slots.clone());
            move || {
                let mut locked = [lock(&slots[0]), lock(&slots[1])];
                let mut claim = log.claim(HEADER + 2 * INNER);
                let (id, at) = (claim.segment().id(), claim.offset());
                for (nth, slot) in locked.iter_mut().enumerate() {
                    let inside = HEADER + nth as u64 * INNER;
                    claim.write_inner(inside, &[nth as u8 + 1; 8]);
                    **slot = Some(LogPosition::new(id, (at + inside) as u32));
                }
                claim.commit(Header::plain(Kind::Batch, 2), frame::crc(&[]));
            }
        });
        begin_main();
        let look = || [&slots[0], &slots[1]].map(lock).map(|slot| *slot);
        let read = |seen: [Option<LogPosition>; 2]| {
            assert_eq!(seen[0].is_some(), seen[1].is_some());
            for (nth, at) in seen.into_iter().flatten().enumerate() {
                let found = log.segment(1).frame(u64::from(at.offset()), Ordering::Acquire);
                let (word, body) = found.expect("a frame inside");
                assert_eq!((word.state, &body[..]), (State::Committed, &[nth as u8 + 1; 8][..]));
            }
        };
        read(look());
        writer.join().unwrap();
        read(look());
    });
}
