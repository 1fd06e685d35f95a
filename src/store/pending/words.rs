//! Pending marks as bits: one for each place at which a frame may begin, in one chunk of a segment.

use crate::sync::{AtomicU64, Ordering};

/// Few where each of them is a step of a model or a schedule.
const WORDS: usize = match () {
    () if cfg!(tailcask_loom) => 2,
    () if cfg!(tailcask_shuttle) => 8,
    () => 512,
};

/// Marks in a chunk.
pub(crate) const MARKS: usize = WORDS * 64;

/// The marks of one chunk.
#[derive(Debug)]
pub(crate) struct Words(Box<[AtomicU64; WORDS]>);

impl Words {
    pub(crate) fn new() -> Self {
        Self(Box::new(std::array::from_fn(|_| AtomicU64::new(0))))
    }

    /// Sets a mark.
    #[inline]
    pub(crate) fn set(&self, mark: usize) {
        // ORDERING: Release; pairs with the Acquire in `take_next`: who takes the mark there sees the
        // frame's claim, header and key, which were written before.
        self.0[mark / 64].fetch_or(1 << (mark % 64), Ordering::Release);
    }

    /// Takes a mark away, to move or to drop it. False if it was not there.
    #[inline]
    pub(crate) fn take(&self, mark: usize) -> bool {
        let bit = 1 << (mark % 64);
        // ORDERING: Relaxed; nothing of the frame is read. That only one thread takes a mark follows
        // from the order in which one word changes.
        self.0[mark / 64].fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }

    /// Takes the next mark at or behind a place, to read the frame there.
    #[inline]
    pub(crate) fn take_next(&self, from: usize) -> Option<usize> {
        let (mut index, mut wanted) = (from / 64, !0 << (from % 64));
        while let Some(word) = self.0.get(index) {
            // ORDERING: Relaxed; a hint: the next line decides. A mark that is not seen yet is met in a
            // later pass.
            let marks = word.load(Ordering::Relaxed) & wanted;
            if marks == 0 {
                (index, wanted) = (index + 1, !0);
                continue;
            }
            let at = marks.trailing_zeros();
            // ORDERING: Acquire; pairs with the Release in `set`, also if other marks of the word were
            // changed in between, since each change is a read-modify-write.
            if word.fetch_and(!(1 << at), Ordering::Acquire) & 1 << at != 0 {
                return Some(index * 64 + at as usize);
            }
            // It was moved away: go on behind it.
            wanted = !0 << at << 1;
        }
        None
    }

    /// Whether there seems to be a mark.
    pub(crate) fn has_any(&self) -> bool {
        // ORDERING: Relaxed; asked when all marks have been set, and shards were locked since.
        self.0.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Asks for the memory of a mark.
    #[cfg(not(tailcask_loom))]
    #[inline]
    pub(crate) fn prefetch(&self, mark: usize) {
        crate::prefetch::prefetch(&raw const self.0[mark / 64]);
    }
}
