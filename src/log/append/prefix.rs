//! The walk over commit words: how far the log is complete, and where its frames begin.
//!
//! There is no second record of what is committed: each frame's commit word says its length and its
//! state, so a walk from word to word finds it. The prefix is as far as all frames are finished
//! (committed, void or padded). It advances when a thread asks: a sync, a seal, a reader at the end,
//! the statistics. Appends never do it.
//!
//! The walk also frees the tail's slots: a segment that it has left is finished as a whole.

#![allow(unsafe_code, reason = "reads headers whose words it saw committed")]

use crate::format::frame::{self, Header, Kind, State, Word};
use crate::format::header::FIRST_FRAME;
use crate::log::append::claim::SegmentMemory;
use crate::log::append::tail::{Tail, Walker};
use crate::position::LogPosition;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, lock};

/// What the walk has counted, of all that it has walked over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
    pub(crate) voids: u64,
}

/// A segment that is full, and in which every frame is finished.
pub(crate) struct Finished<S> {
    pub(crate) segment: Arc<S>,
    pub(crate) frames: u64,
    /// Where the frames end: before the pad at the end, if there is one.
    pub(crate) end: u64,
}

/// How far the walk has come.
pub(crate) struct Walked<S> {
    pub(crate) segment: Arc<S>,
    pub(crate) offset: u64,
    /// Where what was written up to there ends: of a pad, that is its first word.
    pub(crate) written: u64,
}

/// Where the walk is.
struct Cursor<S> {
    walker: Walker,
    /// That of `segment`.
    roll: u64,
    segment: Arc<S>,
    offset: u64,
    /// Frames before `offset` in this segment.
    frames: u64,
    /// Where the final pad begins, if there is one.
    pad: Option<u64>,
    counts: Counts,
    finished: Vec<Finished<S>>,
}

/// The contiguous finished part of the log: no frame before its end is still claimed.
pub(crate) struct Prefix<S> {
    position: AtomicU64,
    cursor: Mutex<Cursor<S>>,
}

impl<S: SegmentMemory> Prefix<S> {
    pub(crate) fn new(tail: &Tail<S>, walker: Walker) -> Self {
        let segment = tail.unfinished(&walker, 1).expect("the first segment");
        let offset = FIRST_FRAME;
        let start = LogPosition::new(segment.id(), offset as u32);
        let (counts, finished) = (Counts::default(), Vec::new());
        let (roll, frames, pad) = (1, 0, None);
        let cursor = Cursor { walker, roll, segment, offset, frames, pad, counts, finished };
        Self { position: AtomicU64::new(start.as_u64()), cursor: Mutex::new(cursor) }
    }

    /// The end of the prefix as it was found last.
    pub(crate) fn position(&self) -> LogPosition {
        // ORDERING: Acquire; pairs with the Release store in `advance`: a thread that sees a position sees
        // all frames before it, which the walk acquired from their words.
        LogPosition::from_u64(self.position.load(Ordering::Acquire))
    }

    /// Walks on to the first frame that is not finished, and says where that is.
    ///
    /// At the end of a segment it goes on in the next one, if that is active already, and frees the
    /// slot of the one it leaves: every frame there is finished, so no writer uses it any more.
    pub(crate) fn advance(&self, tail: &Tail<S>) -> LogPosition {
        let mut cursor = lock(&self.cursor);
        loop {
            cursor.walk();
            if cursor.offset < cursor.segment.capacity() {
                break;
            }
            let Some(next) = tail.unfinished(&cursor.walker, cursor.roll + 1) else { break };
            cursor.enter(next);
            let roll = cursor.roll;
            // SAFETY: the walk finishes roll by roll, and has just walked over the last frame of the
            // one before `roll`, each of which it saw finished (Acquire, in `read`).
            unsafe { tail.finish(&mut cursor.walker, roll) };
        }
        let position = LogPosition::new(cursor.segment.id(), cursor.offset as u32);
        // ORDERING: Release; pairs with the Acquire load in `position`. Stored under the lock, so it
        // never goes back.
        self.position.store(position.as_u64(), Ordering::Release);
        position
    }

    /// Whether a frame begins at `target`, an offset in a segment of this log that is active or was.
    ///
    /// Needed for reading behind an unfinished frame, which the prefix cannot pass. The segment's own
    /// words are walked over; claims are stepped over by their length; behind a range that is not even
    /// claimed nothing is known.
    ///
    /// Invariant: where a frame begins, one begins for as long as the segment is mapped. For a word
    /// keeps its length from the claim on, and the frames inside a committed batch never change. So
    /// what one walk finds is kept for all later ones: for each `BLOCK` an offset at which a frame
    /// begins, and a walk starts from the last of them before its target. Thus every word is walked
    /// over about once, however often this is called. It takes no lock.
    pub(crate) fn is_frame(&self, segment: &S, target: u64) -> bool {
        let prefix = self.position();
        let offset = u64::from(prefix.offset());
        let known = prefix.segment() == segment.id() && offset <= target;
        let from = if known { offset } else { FIRST_FRAME };
        is_frame_from(segment, segment.capacity(), |_| None, from, target)
    }

    /// Returns the segments that were finished since the last call, and the walk's position.
    pub(crate) fn take_finished(&self) -> (Walked<S>, Vec<Finished<S>>) {
        let mut cursor = lock(&self.cursor);
        let written = cursor.pad.map_or(cursor.offset, |pad| pad + frame::WORD);
        let walked = Walked { segment: cursor.segment.clone(), offset: cursor.offset, written };
        (walked, std::mem::take(&mut cursor.finished))
    }

    /// The roll of the first segment that `take_finished` has not given out.
    pub(crate) fn sealable_from(&self) -> u64 {
        let cursor = lock(&self.cursor);
        cursor.roll - cursor.finished.len() as u64
    }

    /// How many segments are finished and were not given out by `take_finished`.
    pub(crate) fn finished(&self) -> usize {
        lock(&self.cursor).finished.len()
    }

    pub(crate) fn counts(&self) -> Counts {
        lock(&self.cursor).counts
    }

    /// The segment that the walk is in, how far it has come there, and over how many frames. A pad at
    /// the end counts for neither.
    pub(crate) fn current(&self) -> (Arc<S>, u64, u64) {
        let cursor = lock(&self.cursor);
        let (end, frames) = cursor.end();
        (cursor.segment.clone(), end, frames)
    }
}

/// Whether a frame begins at `target` in a segment of another process, alive or dead. The segment ends
/// at `limit` and may have gaps to step over; behind a word that belongs to no frame nothing is known.
/// See [`Prefix::is_frame`].
pub(crate) fn is_frame_before<S: SegmentMemory>(
    segment: &S,
    limit: u64,
    gap_at: impl Fn(u64) -> Option<u64>,
    target: u64,
) -> bool {
    is_frame_from(segment, limit, gap_at, FIRST_FRAME, target)
}

/// As `is_frame_before`, walking from `from`, where a frame begins.
fn is_frame_from<S: SegmentMemory>(
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
        // ORDERING: Acquire; pairs with the Release store below: if another thread has found a frame
        // here, its word is seen, too; if the load misses that, the walk begins further ahead.
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
        // ORDERING: Acquire; pairs with the Release store in `settle`: `stride` reads the header of a
        // committed frame.
        let word = segment.word(offset).load(Ordering::Acquire);
        let Ok(Some(word)) = Word::parse(word, limit - offset) else { return false };
        // ORDERING: Relaxed; if two threads store here at once, either frame will do.
        if let Some(place) = place(offset).filter(|place| place.load(Ordering::Relaxed) == 0) {
            // ORDERING: Release; pairs with the Acquire load above, and hands on the word that was
            // acquired.
            place.store(offset, Ordering::Release);
        }
        offset += stride(segment, offset, word, target);
    }
    offset == target
}

/// How far to step towards `target`: over a frame, or into the batch that `target` is in.
fn stride<S: SegmentMemory>(segment: &S, offset: u64, word: Word, target: u64) -> u64 {
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

/// The word at an offset; `None`: nothing is claimed there, or the segment ends.
fn read<S: SegmentMemory>(segment: &S, offset: u64) -> Option<Word> {
    let room = segment.capacity() - offset;
    if room == 0 {
        return None;
    }
    // ORDERING: Acquire; pairs with the Release store in `settle`. If the frame is seen finished, its
    // bytes are seen, too, and its writer is done with the segment; if not, the walk stops here.
    let word = segment.word(offset).load(Ordering::Acquire);
    // What SIGBUS leaves of a page that cannot be accessed is what was there, or zeros: the walk ends there.
    Word::parse(word, room).expect("words of this process are sound")
}

impl<S: SegmentMemory> Cursor<S> {
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

    /// Where the frames end that were walked over, and how many they are. Without a pad at the end.
    fn end(&self) -> (u64, u64) {
        self.pad.map_or((self.offset, self.frames), |pad| (pad, self.frames - 1))
    }
}

impl<S> std::fmt::Debug for Prefix<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prefix").finish_non_exhaustive()
    }
}

impl<S> std::fmt::Debug for Finished<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finished").field("frames", &self.frames).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tailcask_loom)))]
mod tests {
    use super::*;
    use crate::sync::FileWord;
    use std::cell::Cell;

    const ROOM: u64 = 1 << 20;

    /// A segment that counts how often its words are read.
    struct Counting {
        words: Vec<FileWord>,
        found: Vec<AtomicU64>,
        looks: Cell<u64>,
    }

    // SAFETY: plain vectors, which live as long as it.
    unsafe impl SegmentMemory for Counting {
        fn id(&self) -> u32 {
            1
        }
        fn salt(&self) -> u64 {
            7
        }
        fn capacity(&self) -> u64 {
            FIRST_FRAME + ROOM
        }
        fn word(&self, offset: u64) -> &FileWord {
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

    /// Frames of 24 to 96 bytes, every fifth one a batch of two, with their offsets.
    fn segment(used: u64) -> (Counting, Vec<u64>) {
        let capacity = FIRST_FRAME + ROOM;
        let words = (0..capacity / 8).map(|_| FileWord::new(0)).collect();
        let found = (0..capacity.div_ceil(Counting::BLOCK)).map(|_| AtomicU64::new(0)).collect();
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
        // From back to front, which is the worst order, and then again.
        for _ in 0..2 {
            for &target in begins.iter().rev() {
                assert!(
                    is_frame_before(&segment, segment.capacity(), |_| None, target),
                    "{target}"
                );
            }
        }
        // Each target costs a walk of half a block, not of half the segment.
        let (frames, in_a_block) = (begins.len() as u64, Counting::BLOCK / 24);
        let looks = segment.looks.get();
        assert!(looks < 2 * frames * in_a_block, "{looks} looks for {frames} frames");
        segment.looks.set(0);
        let target = *begins.last().expect("many");
        assert!(is_frame_before(&segment, segment.capacity(), |_| None, target));
        assert!(segment.looks.get() < in_a_block, "{} looks", segment.looks.get());
    }

    #[test]
    fn only_where_a_frame_begins_is_one_found() {
        let (segment, begins) = segment(100_000);
        let end = *begins.last().expect("many");
        for target in (0..end + 100).step_by(4) {
            let is = begins.binary_search(&target).is_ok();
            assert_eq!(
                is_frame_before(&segment, segment.capacity(), |_| None, target),
                is,
                "{target}"
            );
        }
        for target in [segment.capacity(), segment.capacity() + 8, u64::from(u32::MAX)] {
            assert!(
                !is_frame_before(&segment, segment.capacity(), |_| None, target),
                "nothing is known behind zeros"
            );
        }
    }
}
