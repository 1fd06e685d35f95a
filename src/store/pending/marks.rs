//! The pending marks of one iteration. See the [module above](super) for what they mean.

use super::words::{MARKS, Words};
use crate::keydir::LOOKUP_BATCH;
use crate::position::LogPosition;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, PoisonError, RwLock, lock};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

/// Bytes of a segment between two places at which a frame may begin.
const STEP: u64 = 8;

/// Bytes of a segment whose marks are in one chunk.
const CHUNK: u64 = MARKS as u64 * STEP;

/// What the marks of a segment depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) len: u64,
    /// Whether its frames are so far apart that a list of them takes less memory than bits.
    pub(crate) is_sparse: bool,
}

/// The marks in a chunk: as bits, or as a list, the first one last.
#[derive(Debug)]
enum Chunk {
    Bits(Words),
    List(Mutex<Vec<u16>>),
}

const _: () = assert!(MARKS <= 1 << 16, "a place in a chunk has 16 bits");

impl Chunk {
    fn new(is_sparse: bool) -> Self {
        if is_sparse { Self::List(Mutex::default()) } else { Self::Bits(Words::new()) }
    }

    #[inline(always)]
    fn set(&self, mark: usize) {
        match self {
            Self::Bits(words) => words.set(mark),
            Self::List(list) => insert(&mut lock(list), mark),
        }
    }

    fn take(&self, mark: usize) -> bool {
        match self {
            Self::Bits(words) => words.take(mark),
            Self::List(list) => {
                let mut list = lock(list);
                let found = list.binary_search_by(|&other| mark.cmp(&usize::from(other)));
                found.is_ok_and(|nth| {
                    list.remove(nth);
                    true
                })
            }
        }
    }

    #[inline]
    fn take_next(&self, from: usize) -> Option<usize> {
        match self {
            Self::Bits(words) => words.take_next(from),
            Self::List(list) => {
                let mut list = lock(list);
                let behind = list.partition_point(|&mark| usize::from(mark) >= from);
                Some(list.remove(behind.checked_sub(1)?).into())
            }
        }
    }

    fn has_any(&self) -> bool {
        match self {
            Self::Bits(words) => words.has_any(),
            Self::List(list) => !lock(list).is_empty(),
        }
    }

    #[inline]
    fn prefetch(&self, mark: usize) {
        if let Self::Bits(words) = self {
            words.prefetch(mark);
        }
    }
}

/// Sets a mark in a list.
fn insert(list: &mut Vec<u16>, mark: usize) {
    let nth = list.partition_point(|&other| usize::from(other) > mark);
    if list.get(nth).is_none_or(|&there| usize::from(there) != mark) {
        list.insert(nth, mark as u16);
    }
}

/// The marks in one segment: a chunk is made when the first mark is set in it.
#[derive(Debug)]
pub(crate) struct SegmentMarks {
    id: u32,
    is_sparse: bool,
    chunks: Box<[OnceLock<Chunk>]>,
}

impl SegmentMarks {
    fn new(id: u32, extent: Extent) -> Self {
        let chunks = (0..extent.len.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect();
        Self { id, is_sparse: extent.is_sparse, chunks }
    }

    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    /// The chunk and the place in it of an offset at which a frame may begin.
    #[inline]
    fn place(&self, offset: u64) -> Option<(&OnceLock<Chunk>, usize)> {
        if !offset.is_multiple_of(STEP) {
            return None;
        }
        let chunk = self.chunks.get((offset / CHUNK) as usize)?;
        Some((chunk, (offset % CHUNK / STEP) as usize))
    }

    /// Sets a mark. False if no frame can begin there.
    fn set(&self, offset: u64) -> bool {
        let chunk = self.chunk(offset);
        chunk.is_some_and(|(chunk, place)| {
            chunk.set(place);
            true
        })
    }

    /// The chunk of an offset, made if it is not there, and the place in it.
    #[inline]
    fn chunk(&self, offset: u64) -> Option<(&Chunk, usize)> {
        let (chunk, place) = self.place(offset)?;
        Some((chunk.get_or_init(|| Chunk::new(self.is_sparse)), place))
    }

    fn take(&self, offset: u64) -> bool {
        let place = self.place(offset).and_then(|(chunk, place)| Some((chunk.get()?, place)));
        place.is_some_and(|(chunk, place)| chunk.take(place))
    }

    /// Takes the next mark at or behind an offset.
    #[inline]
    pub(crate) fn take_next(&self, from: u64) -> Option<u64> {
        let (mut index, mut place) = ((from / CHUNK) as usize, (from % CHUNK / STEP) as usize);
        while let Some(chunk) = self.chunks.get(index) {
            if let Some(chunk) = chunk.get()
                && let Some(found) = chunk.take_next(place)
            {
                return Some(index as u64 * CHUNK + found as u64 * STEP);
            }
            (index, place) = (index + 1, 0);
        }
        None
    }

    /// The beginning of the next chunk with marks, at or behind an offset where a chunk begins.
    fn next_chunk(&self, from: u64) -> Option<u64> {
        let first = (from / CHUNK) as usize;
        let marked = |chunk: &OnceLock<Chunk>| chunk.get().is_some_and(Chunk::has_any);
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
    /// For segments with these ids, in the order of their ids.
    pub(crate) fn new(segments: impl Iterator<Item = (u32, Extent)>) -> Self {
        let segments = segments.map(|(id, extent)| Arc::new(SegmentMarks::new(id, extent)));
        let segments = segments.collect();
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
    /// taken before; `extent` is that of a segment, if it exists.
    pub(crate) fn snapshot(
        &self,
        segments: &[Arc<SegmentMarks>],
        slots: &[LogPosition],
        extent: &dyn Fn(u32) -> Option<Extent>,
    ) {
        // ORDERING: Relaxed; as in `remaining`. Added before any of them can be taken.
        self.remaining.fetch_add(slots.len() as u64, Ordering::Relaxed);
        let mut places = [None; LOOKUP_BATCH];
        for (place, &at) in places.iter_mut().zip(slots) {
            let marks = locate(segments, at.segment()).ok().map(|nth| &segments[nth]);
            *place = marks.and_then(|marks| marks.chunk(at.offset().into()));
            if let Some((chunk, mark)) = place {
                chunk.prefetch(*mark);
            }
        }
        for (place, &at) in places.iter().zip(slots) {
            match place {
                Some((chunk, mark)) => chunk.set(*mark),
                None => self.set(at, extent),
            }
        }
    }

    /// A slot changes: it points at `new` instead of `old`, or is removed. The caller holds the write
    /// lock of its shard.
    pub(super) fn slot_changes(
        &self,
        old: LogPosition,
        new: Option<LogPosition>,
        extent: &dyn Fn(u32) -> Option<Extent>,
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
                self.set(new, extent);
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

    fn set(&self, at: LogPosition, extent: &dyn Fn(u32) -> Option<Extent>) {
        let set = |marks: &SegmentMarks| marks.set(at.offset().into());
        let done = self.with(at, set).unwrap_or_else(|| {
            let Some(extent) = extent(at.segment()) else { return false };
            let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
            let nth = locate(&segments, at.segment()).unwrap_or_else(|nth| {
                segments.insert(nth, Arc::new(SegmentMarks::new(at.segment(), extent)));
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
