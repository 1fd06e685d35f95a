//! The pending marks of one iteration. See the [module above](super) for what they mean.

use super::words::{MARKS, Words};
use crate::position::LogPosition;
use crate::sync::{Mutex, lock};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// Bytes of a segment between two places at which a frame may begin.
const STEP: u64 = 8;

/// Bytes of a segment whose marks are in one chunk.
const CHUNK: u64 = MARKS as u64 * STEP;

/// The marks in one segment: a chunk is made when the first mark is set in it.
#[derive(Debug)]
pub(crate) struct SegmentMarks {
    id: u32,
    chunks: Box<[OnceLock<Words>]>,
}

impl SegmentMarks {
    fn new(id: u32, len: u64) -> Self {
        let chunks = (0..len.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect();
        Self { id, chunks }
    }

    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    /// The chunk and the place in it of an offset at which a frame may begin.
    #[inline]
    fn place(&self, offset: u64) -> Option<(&OnceLock<Words>, usize)> {
        if !offset.is_multiple_of(STEP) {
            return None;
        }
        let chunk = self.chunks.get((offset / CHUNK) as usize)?;
        Some((chunk, (offset % CHUNK / STEP) as usize))
    }

    /// Sets a mark. False if no frame can begin there.
    fn set(&self, offset: u64) -> bool {
        let Some((chunk, place)) = self.place(offset) else { return false };
        chunk.get_or_init(Words::new).set(place);
        true
    }

    fn take(&self, offset: u64) -> bool {
        let place = self.place(offset).and_then(|(chunk, place)| Some((chunk.get()?, place)));
        place.is_some_and(|(chunk, place)| chunk.take(place))
    }

    fn prefetch(&self, offset: u64) {
        if let Some((chunk, place)) = self.place(offset)
            && let Some(chunk) = chunk.get()
        {
            chunk.prefetch(place);
        }
    }

    /// Takes the next mark at or behind an offset.
    #[inline]
    pub(crate) fn take_next(&self, from: u64) -> Option<u64> {
        let first = (from / CHUNK) as usize;
        let mut place = (from % CHUNK / STEP) as usize;
        for (index, chunk) in self.chunks.iter().enumerate().skip(first) {
            if let Some(found) = chunk.get().and_then(|chunk| chunk.take_next(place)) {
                return Some(index as u64 * CHUNK + found as u64 * STEP);
            }
            place = 0;
        }
        None
    }

    /// The beginning of the next chunk with marks, at or behind an offset where a chunk begins.
    fn next_chunk(&self, from: u64) -> Option<u64> {
        let first = (from / CHUNK) as usize;
        let marked = |chunk: &OnceLock<Words>| chunk.get().is_some_and(Words::has_any);
        let found = self.chunks.get(first..)?.iter().position(marked)?;
        Some((first + found) as u64 * CHUNK)
    }
}

/// In the order of their ids.
type SegmentList = Vec<Arc<SegmentMarks>>;

/// The index of a segment in a list, or where it would be. Ids are mostly consecutive.
#[inline]
fn locate(all: &[Arc<SegmentMarks>], id: u32) -> Result<usize, usize> {
    let guess = all.first().map_or(0, |first| id.wrapping_sub(first.id)) as usize;
    match all.get(guess) {
        Some(marks) if marks.id == id => Ok(guess),
        _ => all.binary_search_by_key(&id, |marks| marks.id),
    }
}

/// The marks of one iteration.
#[derive(Debug)]
pub(crate) struct ScanMarks {
    segments: RwLock<SegmentList>,
    /// Marks that are not in segments.
    loose: Mutex<BTreeSet<LogPosition>>,
    /// Whether some are loose because no frame can begin there.
    has_unplaced: AtomicBool,
    closing: AtomicBool,
    /// Number of marks, or more: if a hint is wrong, two slots may point at one frame.
    remaining: AtomicU64,
}

impl ScanMarks {
    /// For segments with these ids and lengths, in the order of their ids.
    pub(crate) fn new(segments: impl Iterator<Item = (u32, u64)>) -> Self {
        let segments = segments.map(|(id, len)| Arc::new(SegmentMarks::new(id, len))).collect();
        Self {
            segments: RwLock::new(segments),
            loose: Mutex::default(),
            has_unplaced: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            remaining: AtomicU64::new(0),
        }
    }

    /// The segments that may have marks, in order.
    pub(crate) fn segments(&self) -> SegmentList {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn remaining(&self) -> u64 {
        // ORDERING: Relaxed; each mark is subtracted once, when it has been taken, and none is added
        // after the snapshot. So a 0 is final.
        self.remaining.load(Ordering::Relaxed)
    }

    /// Marks that were taken are gone.
    pub(crate) fn subtract(&self, taken: u64) {
        // ORDERING: Relaxed; as in `remaining`.
        self.remaining.fetch_sub(taken, Ordering::Relaxed);
    }

    /// Sets marks for some slots of a shard that is locked for reading. `segments` is a list that was
    /// taken before; `len` gives the length of a segment, if it exists.
    pub(crate) fn snapshot(
        &self,
        segments: &[Arc<SegmentMarks>],
        slots: &[LogPosition],
        len: &dyn Fn(u32) -> Option<u64>,
    ) {
        // ORDERING: Relaxed; as in `remaining`. Added before any of them can be taken.
        self.remaining.fetch_add(slots.len() as u64, Ordering::Relaxed);
        let marks = |at: LogPosition| locate(segments, at.segment()).ok().map(|nth| &segments[nth]);
        for &at in slots {
            if let Some(marks) = marks(at) {
                marks.prefetch(at.offset().into());
            }
        }
        for &at in slots {
            if !marks(at).is_some_and(|marks| marks.set(at.offset().into())) {
                self.set(at, len);
            }
        }
    }

    /// A slot changes: it points at `new` instead of `old`, or is removed. The caller holds the write
    /// lock of its shard.
    pub(super) fn slot_changes(
        &self,
        old: LogPosition,
        new: Option<LogPosition>,
        len: &dyn Fn(u32) -> Option<u64>,
    ) {
        // ORDERING: Relaxed; pairs with the store in `close`, ordered by the lock of the slot's shard.
        let was_there = if self.closing.load(Ordering::Relaxed) {
            let mut loose = lock(&self.loose);
            let was_there = self.take_in_segment(old) || loose.remove(&old);
            loose.extend(new.filter(|_| was_there));
            was_there
        } else {
            let was_there = self.take_in_segment(old) || self.take_unplaced(old);
            if was_there && let Some(new) = new {
                self.set(new, len);
            }
            was_there
        };
        if was_there && new.is_none() {
            self.subtract(1);
        }
    }

    fn take_in_segment(&self, at: LogPosition) -> bool {
        self.with(at, |marks| marks.take(at.offset().into())).unwrap_or(false)
    }

    /// Takes a mark that could not be set in a segment.
    fn take_unplaced(&self, at: LogPosition) -> bool {
        // ORDERING: Relaxed; ordered by the lock of the slot's shard, under which its mark was set.
        self.has_unplaced.load(Ordering::Relaxed) && lock(&self.loose).remove(&at)
    }

    fn with<R>(&self, at: LogPosition, look: impl FnOnce(&SegmentMarks) -> R) -> Option<R> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        locate(&segments, at.segment()).ok().map(|nth| look(&segments[nth]))
    }

    fn set(&self, at: LogPosition, len: &dyn Fn(u32) -> Option<u64>) {
        let set = |marks: &SegmentMarks| marks.set(at.offset().into());
        let done = self.with(at, set).unwrap_or_else(|| {
            let Some(len) = len(at.segment()) else { return false };
            let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
            let nth = locate(&segments, at.segment()).unwrap_or_else(|nth| {
                segments.insert(nth, Arc::new(SegmentMarks::new(at.segment(), len)));
                nth
            });
            set(&segments[nth])
        });
        if !done {
            lock(&self.loose).insert(at);
            // ORDERING: Relaxed; as in `take_unplaced`.
            self.has_unplaced.store(true, Ordering::Relaxed);
        }
    }

    /// From now on all marks are loose. `wait` returns once everyone has unlocked who held the lock of
    /// a shard before.
    pub(crate) fn close(&self, wait: impl FnOnce()) {
        // ORDERING: Relaxed; who locks a shard after `wait` has locked it sees this.
        self.closing.store(true, Ordering::Relaxed);
        wait();
        for marks in self.segments() {
            let mut from = 0;
            while let Some(chunk) = marks.next_chunk(from) {
                from = chunk + CHUNK;
                let mut at = chunk;
                while self.loosen(&marks, &mut at, from) {}
            }
        }
    }

    /// Moves the next mark of a chunk, and only that: writers wait meanwhile.
    fn loosen(&self, marks: &SegmentMarks, at: &mut u64, end: u64) -> bool {
        let mut loose = lock(&self.loose);
        let Some(chunk) = marks.place(*at).filter(|_| *at < end).and_then(|(chunk, _)| chunk.get())
        else {
            return false;
        };
        let Some(found) = chunk.take_next((*at % CHUNK / STEP) as usize) else { return false };
        let offset = *at / CHUNK * CHUNK + found as u64 * STEP;
        *at = offset + STEP;
        loose.insert(LogPosition::new(marks.id, offset as u32));
        true
    }

    /// Takes the next loose mark, once all are. The slot points there until `pin` has returned.
    pub(crate) fn take_loose<R>(
        &self,
        pin: impl FnOnce(LogPosition) -> R,
    ) -> Option<(LogPosition, R)> {
        let mut loose = lock(&self.loose);
        let at = loose.pop_first()?;
        Some((at, pin(at)))
    }
}
