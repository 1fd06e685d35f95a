//! Claims, and the walk over their words that says what is committed.
//!
//! A frame's life is in its commit word: zero, claimed, then committed or void. The claim is
//! stored before any other byte of the frame, so after the death of the process a word is zero
//! only where nothing was written, and the length is known wherever something was.

#![allow(unsafe_code, reason = "a claim is the right to write its range")]

use crate::format::frame::{self, Header, Kind, State, Word};
use crate::format::header::FIRST_FRAME;
use crate::log::append::tail::Tail;
use crate::log::waiters::Waiters;
use crate::position::LogPosition;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, fence, lock};
use std::ptr::NonNull;

/// A segment as the protocol sees it: the map, or loom's cells.
pub(crate) trait Memory {
    fn id(&self) -> u32;
    fn salt(&self) -> u64;
    fn capacity(&self) -> u64;
    /// The word at the beginning of a frame.
    fn word(&self, offset: u64) -> &AtomicU64;
    /// As `word`, without a check.
    ///
    /// # Safety
    /// The offset is a multiple of 8 before the capacity.
    #[inline]
    unsafe fn reserved_word(&self, offset: u64) -> &AtomicU64 {
        self.word(offset)
    }
    /// # Safety
    /// The caller owns a claim over the range and has not committed it.
    unsafe fn write(&self, offset: u64, bytes: &[u8]);
    /// Writes a frame's header and body.
    ///
    /// # Safety
    /// As for `write`; the frame is within the capacity, which may not be checked.
    #[inline]
    unsafe fn write_frame(&self, offset: u64, header: u64, body: &[u8]) {
        // SAFETY: the same contract.
        unsafe { self.write(offset + frame::WORD, &header.to_le_bytes()) };
        // SAFETY: the same contract.
        unsafe { self.write(offset + frame::HEADER, body) };
    }
    /// The header word of a frame, its second.
    ///
    /// # Safety
    /// The caller has seen the frame committed (Acquire).
    unsafe fn header(&self, offset: u64) -> u64;
    /// Bytes for each of the places in `found_frames`.
    const BLOCK: u64 = 64 << 10;
    /// For each block a place in it where a frame begins, or 0: what `is_frame` has found.
    fn found_frames(&self) -> &[AtomicU64];
}

/// Finishes a frame: stores the word that it keeps, and wakes whoever waits for one.
///
/// Every range that was reserved comes to its end here, committed, void or padded, so none can be
/// slept through: the end of any of them may be what uncovers the next entry.
#[inline(always)]
fn settle(waiters: &Waiters, place: &AtomicU64, word: u64) {
    // ORDERING: Release; pairs with the Acquire loads of readers and of `read`: who sees the word
    // sees the bytes, and comes after the last access to the segment by the frame's writer.
    place.store(word, Ordering::Release);
    waiters.notify();
}

/// Stores a pad: one word, so that there is no moment at which it is half written.
pub(crate) fn pad<S: Memory>(waiters: &Waiters, segment: &S, offset: u64, len: u64) {
    let word = frame::bare_word(segment.salt(), offset, len, State::Pad);
    settle(waiters, segment.word(offset), word);
}

/// Makes void what a dead process claimed, and empties it: sound frames may stand inside a batch that
/// was never committed, and none of them counts. A reader beside this steps over the claim as it steps
/// over the void, and looks at nothing in between.
///
/// # Safety
/// The claim is that of a process that died, and this thread alone writes to the segment.
pub(crate) unsafe fn bury<S: Memory>(segment: &S, offset: u64, len: u64) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let end = offset + len;
    for at in (offset + frame::WORD..end).step_by(ZEROS.len()) {
        let zeros = &ZEROS[..ZEROS.len().min((end - at) as usize)];
        // SAFETY: inside the dead claim, which nobody else writes to or reads from.
        unsafe { segment.write(at, zeros) };
    }
    let word = frame::bare_word(segment.salt(), offset, len, State::Void);
    // ORDERING: Release; pairs with the Acquire loads of readers, as in `settle`; nobody waits.
    segment.word(offset).store(word, Ordering::Release);
}

/// A reserved range whose claim is stored: what a `Claim` guards.
///
/// It has no `Drop`, so that the append path keeps it in registers. In memory it is read back as
/// one, behind the claim's store to a cold line, and waits for that: 47 ns for 100 B instead of 33.
#[must_use = "a claim that is not finished stops the watermarks"]
pub(crate) struct Reserved<'t, S: Memory> {
    segment: NonNull<S>,
    word: NonNull<AtomicU64>,
    offset: u64,
    len: u64,
    waiters: &'t Waiters,
}

impl<'t, S: Memory> Reserved<'t, S> {
    /// Stores the claim.
    ///
    /// # Safety
    /// The range was reserved by this thread and by no other, and lies before the capacity; offset
    /// and length are multiples of 8; the segment lives until the frame is finished.
    #[inline(always)]
    pub(crate) unsafe fn new(
        waiters: &'t Waiters,
        segment: NonNull<S>,
        offset: u64,
        len: u64,
    ) -> Self {
        // SAFETY: alive, says the contract.
        let memory = unsafe { segment.as_ref() };
        let word = frame::bare_word(memory.salt(), offset, len, State::Claimed);
        // ORDERING: Relaxed; ordered before the body by the fence below.
        // SAFETY: inside the range.
        let place = unsafe { memory.reserved_word(offset) };
        place.store(word, Ordering::Relaxed);
        // ORDERING: Release fence; pairs with the death of the process: no byte of the body
        // reaches memory before the claim, so recovery never meets a body behind a zero word.
        fence(Ordering::Release);
        Self { segment, word: NonNull::from(place), offset, len, waiters }
    }

    /// Puts it under a guard that voids the frame if it is not finished.
    #[inline]
    pub(crate) fn guard(self) -> Claim<'t, S> {
        let Self { segment, offset, len, waiters, .. } = self;
        Claim { segment, offset, len, waiters }
    }

    /// Writes the whole frame, and makes it readable.
    #[inline(always)]
    pub(crate) fn finish(self, body: &[u8], header: Header, crc: u32) -> LogPosition {
        if frame::HEADER + body.len() as u64 > self.len {
            too_long(self.guard());
        }
        // SAFETY: unfinished, so alive, up to the store below, which is the last access.
        let segment = unsafe { self.segment.as_ref() };
        let position = LogPosition::new(segment.id(), self.offset as u32);
        let header = header.to_word();
        // SAFETY: inside the claimed range, as was just checked, and not committed yet.
        unsafe { segment.write_frame(self.offset, header, body) };
        let word = frame::commit_word(segment.salt(), self.offset, self.len, header, crc);
        // SAFETY: in the segment, which is alive.
        let place = unsafe { self.word.as_ref() };
        settle(self.waiters, place, word);
        position
    }
}

#[cold]
#[inline(never)]
fn too_long<S: Memory>(claim: Claim<'_, S>) -> ! {
    drop(claim);
    panic!("a body is longer than its frame")
}

#[cold]
#[inline(never)]
fn outside(at: u64, len: u64) -> ! {
    panic!("a frame of {len} bytes at {at} is outside of its batch")
}

/// The right to write one reserved range, and the duty to finish it.
///
/// Dropping it without `commit` makes the frame void: nobody will see it, and nothing waits.
pub(crate) struct Claim<'t, S: Memory> {
    segment: NonNull<S>,
    offset: u64,
    len: u64,
    waiters: &'t Waiters,
}

impl<S: Memory> Claim<'_, S> {
    #[inline]
    pub(crate) fn segment(&self) -> &S {
        // SAFETY: the frame is unfinished, so the segment lives (see `Reserved::new`).
        unsafe { self.segment.as_ref() }
    }

    #[inline]
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes bytes at a distance from the beginning of the frame, behind the commit word.
    #[inline]
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        assert!(at >= frame::WORD && at + bytes.len() as u64 <= self.len);
        // SAFETY: inside the claimed range, not committed yet, and not its commit word.
        unsafe { self.segment().write(self.offset + at, bytes) };
    }

    /// Writes an entry's frame inside this one, and says how long it is. It is seen with this
    /// one's commit.
    #[inline(always)]
    pub(crate) fn write_inner(&mut self, at: u64, entry: &[u8]) -> u64 {
        let len = frame::frame_len(entry.len() as u64);
        // Behind the header, so never over the claim itself.
        if at < frame::HEADER || at + len > self.len {
            outside(at, len);
        }
        let (segment, offset) = (self.segment(), self.offset + at);
        let header = Header::entry(entry).to_word();
        let word = frame::commit_word(segment.salt(), offset, len, header, frame::crc(entry));
        // SAFETY: inside the claimed range.
        let place = unsafe { segment.reserved_word(offset) };
        // ORDERING: Relaxed; published by the Release store of this claim's commit.
        place.store(word, Ordering::Relaxed);
        // SAFETY: inside the claimed range, and not committed yet.
        unsafe { segment.write_frame(offset, header, entry) };
        len
    }

    /// Writes the commit word of a frame inside this one, whose other bytes are written. It is seen
    /// with this one's commit.
    pub(crate) fn write_inner_word(&mut self, at: u64, len: u64, header: Header, crc: u32) {
        if at < frame::HEADER || at + len > self.len {
            outside(at, len);
        }
        let (segment, offset) = (self.segment(), self.offset + at);
        let word = frame::commit_word(segment.salt(), offset, len, header.to_word(), crc);
        // ORDERING: Relaxed; published by the Release store of this claim's commit.
        segment.word(offset).store(word, Ordering::Relaxed);
    }

    /// Makes the frame readable.
    #[inline]
    pub(crate) fn commit(mut self, header: Header, crc: u32) -> LogPosition {
        self.write(frame::WORD, &header.to_word().to_le_bytes());
        self.commit_written(header, crc)
    }

    /// As `commit`, where the header was written before.
    #[inline]
    pub(crate) fn commit_written(self, header: Header, crc: u32) -> LogPosition {
        let header = header.to_word();
        let claim = std::mem::ManuallyDrop::new(self);
        let segment = claim.segment();
        let position = LogPosition::new(segment.id(), claim.offset as u32);
        let word = frame::commit_word(segment.salt(), claim.offset, claim.len, header, crc);
        settle(claim.waiters, segment.word(claim.offset), word);
        position
    }
}

impl<S: Memory> Drop for Claim<'_, S> {
    fn drop(&mut self) {
        let segment = self.segment();
        let word = frame::bare_word(segment.salt(), self.offset, self.len, State::Void);
        settle(self.waiters, segment.word(self.offset), word);
    }
}

/// What the walk has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
    pub(crate) voids: u64,
}

/// A segment in which every frame is finished.
pub(crate) struct Finished<S> {
    pub(crate) segment: Arc<S>,
    pub(crate) frames: u64,
    /// Where they end: before the pad at the end, if there is one.
    pub(crate) end: u64,
}

struct Cursor<S> {
    roll: u64,
    segment: Arc<S>,
    offset: u64,
    frames: u64,
    /// Where the last frame begins, if it is a pad.
    pad: Option<u64>,
    counts: Counts,
    finished: Vec<Finished<S>>,
}

/// The contiguous committed prefix: everything before it is finished.
///
/// Found by walking the commit words, by whoever wants to know; the log is its own ledger.
pub(crate) struct Prefix<S> {
    position: AtomicU64,
    cursor: Mutex<Cursor<S>>,
}

impl<S: Memory> Prefix<S> {
    pub(crate) fn new(tail: &Tail<S>) -> Self {
        let segment = tail.unfinished(1).expect("the first segment");
        Self::at(segment)
    }

    fn at(segment: Arc<S>) -> Self {
        let offset = FIRST_FRAME;
        let start = LogPosition::new(segment.id(), offset as u32);
        let (counts, finished) = (Counts::default(), Vec::new());
        let (roll, frames, pad) = (1, 0, None);
        let cursor = Cursor { roll, segment, offset, frames, pad, counts, finished };
        Self { position: AtomicU64::new(start.as_u64()), cursor: Mutex::new(cursor) }
    }

    /// As far as is known.
    pub(crate) fn position(&self) -> LogPosition {
        // ORDERING: Acquire; pairs with the Release store in `advance`: frames before it are seen.
        LogPosition::from_u64(self.position.load(Ordering::Acquire))
    }

    /// Walks on, over finished frames, and into segments that became active.
    pub(crate) fn advance(&self, tail: &Tail<S>) -> LogPosition {
        let mut cursor = lock(&self.cursor);
        loop {
            cursor.walk();
            if cursor.offset < cursor.segment.capacity() {
                break;
            }
            let Some(next) = tail.unfinished(cursor.roll + 1) else { break };
            cursor.enter(next);
            tail.finish(cursor.roll);
        }
        let position = LogPosition::new(cursor.segment.id(), cursor.offset as u32);
        // ORDERING: Release; pairs with the Acquire load in `position`. Stored under the lock, so
        // it never goes back.
        self.position.store(position.as_u64(), Ordering::Release);
        position
    }

    /// Takes the segments that were finished since the last call, and says where the walk is.
    pub(crate) fn take_finished(&self) -> (Arc<S>, u64, Vec<Finished<S>>) {
        let mut cursor = lock(&self.cursor);
        (cursor.segment.clone(), cursor.offset, std::mem::take(&mut cursor.finished))
    }

    /// The roll of the first segment that is not taken.
    pub(crate) fn sealable_from(&self) -> u64 {
        let cursor = lock(&self.cursor);
        cursor.roll - cursor.finished.len() as u64
    }

    /// How many segments are finished and not taken.
    pub(crate) fn finished(&self) -> usize {
        lock(&self.cursor).finished.len()
    }

    pub(crate) fn counts(&self) -> Counts {
        lock(&self.cursor).counts
    }

    /// The segment that the walk is in, how far it is, and over how many frames; but for a pad at
    /// the end.
    pub(crate) fn current(&self) -> (Arc<S>, u64, u64) {
        let cursor = lock(&self.cursor);
        let (end, frames) = cursor.end();
        (cursor.segment.clone(), end, frames)
    }
}

/// Whether a frame begins at `target`, an offset in a segment that is active or was, going by the
/// words from `from` on, where one begins. Claims are stepped over by their length; behind a range
/// that is not even claimed nothing is known.
///
/// Invariant: where a frame begins, one begins for as long as the segment is mapped: a word keeps
/// its length from the claim on, and a batch, once committed, the frames inside it. So what a walk
/// finds is kept, a place for each `BLOCK`, and a later one begins there: every word is walked over
/// about once, however often somebody reads behind an unfinished frame. No lock is held: the
/// caller has the segment pinned, and the words at frames' beginnings are atomics.
pub(crate) fn is_frame<S: Memory>(segment: &S, from: u64, target: u64) -> bool {
    is_frame_before(segment, segment.capacity(), |_| None, from, target)
}

/// As `is_frame`, in a segment that another process writes to, or has left: it ends at `limit`, there
/// may be gaps to step over, and what is no word of a frame is where nothing is known behind.
pub(crate) fn is_frame_before<S: Memory>(
    segment: &S,
    limit: u64,
    gap_at: impl Fn(u64) -> Option<u64>,
    from: u64,
    target: u64,
) -> bool {
    if target > limit {
        return false;
    }
    let found = segment.found_frames();
    let place = |offset: u64| found.get((offset / S::BLOCK) as usize);
    let mut offset = from;
    for block in (from / S::BLOCK..=target / S::BLOCK).rev() {
        // ORDERING: Acquire; pairs with the Release store below: who begins at a frame that another
        // thread has found sees its word, too.
        let known = found.get(block as usize).map_or(0, |place| place.load(Ordering::Acquire));
        if known > from && known <= target {
            offset = known;
            break;
        }
    }
    while offset < target {
        if let Some(len) = gap_at(offset) {
            offset += len;
            continue;
        }
        // ORDERING: Acquire; pairs with the Release store of `settle`.
        let word = segment.word(offset).load(Ordering::Acquire);
        let Ok(Some(word)) = Word::parse(word, limit - offset) else { return false };
        // ORDERING: Relaxed; any frame in the block will do.
        if let Some(place) = place(offset).filter(|place| place.load(Ordering::Relaxed) == 0) {
            // ORDERING: Release; pairs with the Acquire load above.
            place.store(offset, Ordering::Release);
        }
        offset += stride(segment, offset, word, target);
    }
    offset == target
}

/// How far to step towards `target`: over a frame, or into the batch that `target` is in.
fn stride<S: Memory>(segment: &S, offset: u64, word: Word, target: u64) -> u64 {
    if word.state != State::Committed || offset + word.len <= target {
        return word.len;
    }
    // SAFETY: the word was read as committed, with Acquire.
    let header = Header::from_word(unsafe { segment.header(offset) });
    match header {
        Some(Header { kind: Kind::Batch, .. }) => frame::HEADER,
        _ => word.len,
    }
}

fn read<S: Memory>(segment: &S, offset: u64) -> Option<Word> {
    let room = segment.capacity() - offset;
    if room == 0 {
        return None;
    }
    // ORDERING: Acquire; pairs with the Release store of `settle`.
    let word = segment.word(offset).load(Ordering::Acquire);
    Word::parse(word, room).expect("words of this process are sound")
}

impl<S: Memory> Cursor<S> {
    fn walk(&mut self) {
        while let Some(word) = read(&*self.segment, self.offset) {
            match word.state {
                State::Claimed => return,
                State::Committed => self.count(word.len),
                State::Void => self.counts.voids += 1,
                State::Pad => {}
            }
            self.frames += 1;
            self.pad = (word.state == State::Pad).then_some(self.offset);
            self.offset += word.len;
        }
    }

    fn count(&mut self, len: u64) {
        // SAFETY: the word was read as committed, with Acquire.
        let header = unsafe { self.segment.header(self.offset) };
        self.counts.bytes += len;
        match Header::from_word(header) {
            Some(Header { kind: Kind::Entry | Kind::Put | Kind::Delete, .. }) => {
                self.counts.entries += 1;
            }
            Some(Header { kind: Kind::Batch, value_len, .. }) => {
                self.counts.batches += 1;
                self.counts.entries += u64::from(value_len);
            }
            _ => {}
        }
    }

    fn enter(&mut self, next: Arc<S>) {
        let (end, frames) = self.end();
        let segment = std::mem::replace(&mut self.segment, next);
        self.finished.push(Finished { segment, frames, end });
        self.roll += 1;
        (self.offset, self.frames, self.pad) = (FIRST_FRAME, 0, None);
    }

    /// Where the frames end that were walked over, and how many they are, without a pad at the end.
    fn end(&self) -> (u64, u64) {
        self.pad.map_or((self.offset, self.frames), |pad| (pad, self.frames - 1))
    }
}

impl<S> std::fmt::Debug for Prefix<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prefix").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tailcask_loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;

    const ROOM: u64 = 1 << 20;

    /// A segment that counts how often a word is looked at.
    struct Counting {
        words: Vec<AtomicU64>,
        found: Vec<AtomicU64>,
        looks: Cell<u64>,
    }

    impl Memory for Counting {
        fn id(&self) -> u32 {
            1
        }
        fn salt(&self) -> u64 {
            7
        }
        fn capacity(&self) -> u64 {
            FIRST_FRAME + ROOM
        }
        fn word(&self, offset: u64) -> &AtomicU64 {
            self.looks.set(self.looks.get() + 1);
            &self.words[(offset / 8) as usize]
        }
        unsafe fn write(&self, _: u64, _: &[u8]) {}
        unsafe fn header(&self, offset: u64) -> u64 {
            self.words[(offset / 8) as usize + 1].load(Ordering::Relaxed)
        }
        fn found_frames(&self) -> &[AtomicU64] {
            &self.found
        }
    }

    /// Frames of 24 to 96 bytes, every fifth one a batch of two; and where all of them begin.
    fn segment(used: u64) -> (Counting, Vec<u64>) {
        let zeros = |n: u64| (0..n).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let capacity = FIRST_FRAME + ROOM;
        let (words, found) = (zeros(capacity / 8), zeros(capacity.div_ceil(Counting::BLOCK)));
        let segment = Counting { words, found, looks: Cell::new(0) };
        let (mut offset, mut begins) = (FIRST_FRAME, Vec::new());
        let put = |offset, len, header: Option<Header>| {
            let (salt, state) =
                (segment.salt(), [State::Claimed, State::Void][len as usize / 8 % 2]);
            let word = match header {
                None => frame::bare_word(salt, offset, len, state),
                Some(header) => frame::commit_word(salt, offset, len, header.to_word(), 0),
            };
            segment.word(offset).store(word, Ordering::Relaxed);
            segment.word(offset + 8).store(header.map_or(0, Header::to_word), Ordering::Relaxed);
        };
        for n in 0u64.. {
            let len = 24 + n * 7 % 10 * 8;
            if offset + 2 * len + frame::HEADER > FIRST_FRAME + used {
                break;
            }
            begins.push(offset);
            if n % 5 == 0 {
                put(offset, frame::HEADER + 2 * len, Some(Header::plain(Kind::Batch, 2)));
                offset += frame::HEADER;
                for _ in 0..2 {
                    put(offset, len, Some(Header::plain(Kind::Entry, 8)));
                    begins.push(offset);
                    offset += len;
                }
            } else {
                put(offset, len, None);
                offset += len;
            }
        }
        begins.push(offset);
        segment.looks.set(0);
        (segment, begins)
    }

    #[test]
    fn reading_behind_an_unfinished_frame_walks_over_each_frame_about_once() {
        let (segment, begins) = segment(ROOM);
        // From back to front, the worst order there is, and then again.
        for _ in 0..2 {
            for &target in begins.iter().rev() {
                assert!(is_frame(&segment, FIRST_FRAME, target), "{target}");
            }
        }
        // Each target costs a walk of half a block, and not of half the segment.
        let (frames, in_a_block) = (begins.len() as u64, Counting::BLOCK / 24);
        let looks = segment.looks.get();
        assert!(looks < 2 * frames * in_a_block, "{looks} looks for {frames} frames");
        segment.looks.set(0);
        let target = *begins.last().expect("many");
        assert!(is_frame(&segment, FIRST_FRAME, target));
        assert!(segment.looks.get() < in_a_block, "{} looks", segment.looks.get());
    }

    #[test]
    fn only_where_a_frame_begins_is_one_found() {
        let (segment, begins) = segment(100_000);
        let end = *begins.last().expect("many");
        for target in (0..end + 100).step_by(4) {
            let is = begins.binary_search(&target).is_ok();
            assert_eq!(is_frame(&segment, FIRST_FRAME, target), is, "{target}");
        }
        for target in [segment.capacity(), segment.capacity() + 8, u64::from(u32::MAX)] {
            assert!(!is_frame(&segment, FIRST_FRAME, target), "nothing is known behind zeros");
        }
    }
}
