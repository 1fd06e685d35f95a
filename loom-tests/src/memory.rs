//! A segment made of loom's cells, and a log made of such segments.

#![allow(unsafe_code, reason = "the cells stand for the map")]

use crate::format::frame::{self, Header, Kind, State, Word};
use crate::format::header::FIRST_FRAME;
use crate::log::append::claim::{Claim, SegmentMemory};
use crate::log::append::prefix::Prefix;
use crate::log::append::tail::{Preparer, Tail};
use crate::position::LogPosition;
use crate::sync::{Arc, AtomicU64, Ordering, UnsafeCell, yield_now};
use std::sync::Mutex;

const SALT: u64 = 0x0123_4567_89ab_cdef;
/// A frame with a body of 8 bytes.
pub(crate) const FRAME: u64 = frame::frame_len(8);

/// Each 8 bytes behind the head are both an atomic (a commit word) and a cell (payload).
///
/// An access to the atomic also reads the cell. So loom reports a thread that takes another one's
/// payload for a commit word.
pub(crate) struct LoomSegment {
    id: u32,
    words: Vec<AtomicU64>,
    cells: Vec<UnsafeCell<u64>>,
    /// What `is_frame` has found: small blocks, for small segments.
    found: Vec<AtomicU64>,
    /// The payload once more, for models that inspect the file after the death of the process; empty in
    /// the others.
    file: Vec<AtomicU64>,
}

impl LoomSegment {
    /// A segment with `room` bytes behind its head.
    pub(crate) fn new(id: u32, room: u64) -> Self {
        let words = (0..room / 8).map(|_| AtomicU64::new(0)).collect();
        let cells = (0..room / 8).map(|_| UnsafeCell::new(0)).collect();
        let blocks = (FIRST_FRAME + room).div_ceil(Self::BLOCK);
        let found = (0..blocks).map(|_| AtomicU64::new(0)).collect();
        Self { id, words, cells, found, file: Vec::new() }
    }

    pub(crate) fn on_file(id: u32, room: u64) -> Self {
        let file = (0..room / 8).map(|_| AtomicU64::new(0)).collect();
        Self { file, ..Self::new(id, room) }
    }

    fn index(offset: u64) -> usize {
        assert!(offset.is_multiple_of(8) && offset >= FIRST_FRAME);
        ((offset - FIRST_FRAME) / 8) as usize
    }

    /// The commit word as it is in the file.
    pub(crate) fn file_word(&self, offset: u64) -> u64 {
        self.words[Self::index(offset)].load(Ordering::Relaxed)
    }

    /// The payload as it is in the file.
    pub(crate) fn file_payload(&self, offset: u64) -> u64 {
        self.file[Self::index(offset)].load(Ordering::Relaxed)
    }

    /// Whether a thread has found the second frame. Relaxed, so that asking orders nothing.
    pub(crate) fn second_found(&self) -> bool {
        let place = (FIRST_FRAME + FRAME) / Self::BLOCK;
        self.found[place as usize].load(Ordering::Relaxed) != 0
    }

    fn payload(&self, offset: u64) -> u64 {
        // SAFETY: loom reports it if another thread writes meanwhile.
        self.cells[Self::index(offset)].with(|cell| unsafe { *cell })
    }

    /// Stands for unmapping the memory: loom reports any thread that still uses it.
    pub(crate) fn unmap(&self) {
        // SAFETY: the caller has found that no thread uses it any more.
        self.cells.iter().for_each(|cell| cell.with_mut(|cell| unsafe { *cell = u64::MAX }));
    }

    /// Whatever begins at an offset: parsed, and with the body if it is committed.
    pub(crate) fn frame(&self, offset: u64, order: Ordering) -> Option<(Word, Vec<u8>)> {
        let word = self.word(offset).load(order);
        let word = Word::parse(word, self.capacity() - offset).expect("a sound word")?;
        if word.state != State::Committed {
            frame::verify_bare(SALT, offset, word).expect("a sound bare word");
            return Some((word, Vec::new()));
        }
        let mut bytes = vec![0; 8];
        for at in (offset + 8..offset + word.len).step_by(8) {
            bytes.extend(self.payload(at).to_le_bytes());
        }
        let header = frame::verify_committed(SALT, offset, word, &bytes).expect("a whole frame");
        let body = bytes[16..16 + header.body_len() as usize].to_vec();
        Some((word, body))
    }
}

// SAFETY: plain vectors, which live as long as it; the models write to it by claims.
unsafe impl SegmentMemory for LoomSegment {
    fn id(&self) -> u32 {
        self.id
    }

    fn salt(&self) -> u64 {
        SALT
    }

    fn capacity(&self) -> u64 {
        FIRST_FRAME + self.words.len() as u64 * 8
    }

    fn word(&self, offset: u64) -> &AtomicU64 {
        let index = Self::index(offset);
        self.cells[index].with(|_| ());
        &self.words[index]
    }

    unsafe fn write(&self, offset: u64, bytes: &[u8]) {
        for (at, chunk) in (offset..).step_by(8).zip(bytes.chunks(8)) {
            let mut value = [0; 8];
            value[..chunk.len()].copy_from_slice(chunk);
            let value = u64::from_le_bytes(value);
            // SAFETY: loom reports any other thread that accesses it.
            self.cells[Self::index(at)].with_mut(|cell| unsafe { *cell = value });
            if let Some(file) = self.file.get(Self::index(at)) {
                file.store(value, Ordering::Relaxed);
            }
        }
    }

    unsafe fn header(&self, offset: u64) -> u64 {
        self.payload(offset + frame::WORD)
    }

    const BLOCK: u64 = FRAME;

    fn found_frames(&self) -> &[AtomicU64] {
        &self.found
    }
}

/// Tail and prefix as `LogWriter` has them, and every segment that was ever made.
pub(crate) struct Log {
    pub(crate) tail: Tail<LoomSegment>,
    pub(crate) prefix: Prefix<LoomSegment>,
    room: u64,
    /// A mutex of std, which orders nothing in the model. No other lock or atomic is used under it.
    all: Mutex<Vec<Arc<LoomSegment>>>,
}

impl Log {
    pub(crate) fn new(slots: usize, room: u64) -> Self {
        let first = Arc::new(LoomSegment::new(1, room));
        Self::with(slots, first, room)
    }

    pub(crate) fn with(slots: usize, first: Arc<LoomSegment>, room: u64) -> Self {
        // SAFETY: it is new, and nothing else writes to it.
        let (tail, walker) = unsafe { Tail::new(slots, first.clone(), FIRST_FRAME) };
        let prefix = Prefix::new(&tail, walker);
        Self { tail, prefix, room, all: Mutex::new(vec![first]) }
    }

    pub(crate) fn create(&self, room: u64) -> Arc<LoomSegment> {
        let id = self.all.lock().unwrap().len() as u32 + 1;
        let segment = Arc::new(LoomSegment::new(id, room));
        self.all.lock().unwrap().push(segment.clone());
        segment
    }

    pub(crate) fn segment(&self, id: u32) -> Arc<LoomSegment> {
        self.all.lock().unwrap()[id as usize - 1].clone()
    }

    pub(crate) fn has_segment(&self, id: u32) -> bool {
        self.all.lock().unwrap().len() >= id as usize
    }

    // ---- as in `LogWriter` ----

    pub(crate) fn append(&self, body: &[u8]) -> LogPosition {
        let len = frame::frame_len(body.len() as u64);
        match self.tail.reserve_unguarded(len) {
            Some(claim) => claim.finish(body, Header::entry(body), frame::crc(body)),
            None => fill(self.claim(len), body),
        }
    }

    pub(crate) fn claim(&self, len: u64) -> Claim<'_, LoomSegment> {
        loop {
            if let Some(claim) = self.tail.reserve(len) {
                return claim;
            }
            self.roll();
        }
    }

    pub(crate) fn roll(&self) {
        if self.tail.roll() {
            return;
        }
        let mut preparer = self.tail.preparer();
        if self.tail.is_full() && !preparer.has_standby() && !self.prepare(&mut preparer) {
            drop(preparer);
            // An append would fail with `Stalled`; here the caller tries again.
            yield_now();
            return;
        }
        self.tail.roll();
    }

    /// What the background thread does.
    pub(crate) fn prepare_standby(&self) {
        let mut preparer = self.tail.preparer();
        if !preparer.has_standby() {
            self.prepare(&mut preparer);
        }
    }

    /// Publishes a new segment as the standby.
    pub(crate) fn publish(&self, preparer: &mut Preparer<'_, LoomSegment>, room: u64) {
        let segment = self.create(room);
        // SAFETY: it is new, and nothing else writes to it.
        unsafe { preparer.publish(segment, FIRST_FRAME) }.expect("there is a slot");
    }

    fn find_slot(&self, preparer: &Preparer<'_, LoomSegment>) -> bool {
        preparer.has_slot() || {
            self.prefix.advance(&self.tail);
            preparer.has_slot()
        }
    }

    pub(crate) fn prepare(&self, preparer: &mut Preparer<'_, LoomSegment>) -> bool {
        self.find_slot(preparer) && {
            self.publish(preparer, self.room);
            true
        }
    }

    /// Appends an oversize frame; returns its position, and the id of the standby that was taken back.
    pub(crate) fn append_oversize(&self, body: &[u8]) -> (LogPosition, Option<u32>) {
        let len = frame::frame_len(body.len() as u64);
        let mut preparer = self.tail.preparer();
        let withdrawn = preparer.withdraw().map(|segment| segment.id());
        assert!(self.find_slot(&preparer), "enough slots for this model");
        let segment = self.create(len);
        // SAFETY: it is new, has room for the frame, and nothing else writes to it.
        let claim = unsafe { preparer.publish_claimed(segment, FIRST_FRAME, len) };
        self.tail.roll();
        drop(preparer);
        (fill(claim, body), withdrawn)
    }

    /// Whether a frame begins at a position, as a reader finds out.
    pub(crate) fn is_frame(&self, target: LogPosition) -> bool {
        self.prefix.is_frame(&self.segment(target.segment()), u64::from(target.offset()))
    }

    // ---- inspection ----

    /// Every finished frame before a position; all words and bytes before it must be seen.
    pub(crate) fn frames_before(&self, end: LogPosition) -> Vec<(LogPosition, Word, Vec<u8>)> {
        let mut frames = Vec::new();
        let ids: Vec<_> = {
            let all = self.all.lock().unwrap();
            all.iter().map(|s| s.id()).filter(|&id| id <= end.segment()).collect()
        };
        for id in ids {
            let segment = self.segment(id);
            let mut offset = FIRST_FRAME;
            let end =
                if id == end.segment() { u64::from(end.offset()) } else { segment.capacity() };
            while offset < end {
                let Some((word, body)) = segment.frame(offset, Ordering::Relaxed) else {
                    assert!(offset == FIRST_FRAME, "a hole before {end} at {id}:{offset}");
                    break; // A standby that was taken back.
                };
                assert_ne!(word.state, State::Claimed, "unfinished before {end}: {id}:{offset}");
                frames.push((LogPosition::new(id, offset as u32), word, body));
                offset += word.len;
            }
            assert!(offset == end || offset == FIRST_FRAME, "frames do not tile segment {id}");
        }
        frames
    }

    /// The entries before a position.
    pub(crate) fn entries_before(&self, end: LogPosition) -> Vec<(LogPosition, Vec<u8>)> {
        let frames = self.frames_before(end).into_iter();
        let entries = frames.filter(|(_, word, _)| word.state == State::Committed);
        entries.map(|(position, _, body)| (position, body)).collect()
    }

    /// The entries, once all writers are done: the prefix then covers everything.
    pub(crate) fn all_entries(&self) -> Vec<(LogPosition, Vec<u8>)> {
        let end = self.prefix.advance(&self.tail);
        assert_eq!(end, self.tail.position(), "the prefix reaches the tail");
        let entries = self.entries_before(end);
        assert_eq!(self.prefix.counts().entries, entries.len() as u64);
        entries
    }
}

pub(crate) fn fill(mut claim: Claim<'_, LoomSegment>, body: &[u8]) -> LogPosition {
    claim.write(frame::HEADER, body);
    let header = Header::entry(body);
    claim.commit(header, frame::crc(body))
}
