//! Bytes of frames that die when a batch is written, before they are counted: so a segment's count is
//! changed a few times a batch. They are counted when [`DeadBytes`] is dropped, under the locks of the batch,
//! as those of a single write.

use crate::format::frame::WORD;
use crate::position::LogPosition;
use crate::segment::set::{Listed, locate};

/// See the [module](self).
pub(super) struct DeadBytes<'e> {
    all: &'e [Listed],
    /// By the low bits of a segment's index: the index, and the bytes in it.
    sums: [(usize, u64); 16],
}

impl<'e> DeadBytes<'e> {
    pub(super) const fn new(all: &'e [Listed]) -> Self {
        Self { all, sums: [(0, 0); 16] }
    }

    /// As [`StoreView::died`](super::view::StoreView::died).
    #[inline]
    pub(super) fn add(&mut self, at: LogPosition) {
        let Some(index) = locate(self.all, at.segment()) else { return };
        let sum = &mut self.sums[index % 16];
        if sum.0 != index {
            Self::count(self.all, *sum);
            *sum = (index, 0);
        }
        sum.1 += self.all[index].frame_len(at.offset().into()).max(WORD);
    }

    fn count(all: &[Listed], (index, bytes): (usize, u64)) {
        if bytes > 0 {
            all[index].dead.add(bytes);
        }
    }
}

impl Drop for DeadBytes<'_> {
    fn drop(&mut self) {
        self.sums.iter().for_each(|&sum| Self::count(self.all, sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::CommitLog;
    use crate::segment::set::SegmentSet;
    use std::sync::Arc;

    #[test]
    fn what_dies_in_many_segments_is_counted_in_each() {
        let log = CommitLog::in_memory();
        let writer = log.writer().expect("a log for writing");
        let table = SegmentSet::new(Vec::new());
        for _ in 0..40 {
            table.insert(writer.create_merged(64, &[1]).map(Arc::new).expect("there is room"));
        }
        let segments = table.segments();
        table.with(|all| {
            let mut dead = DeadBytes::new(all);
            for nth in (0..40).chain([3, 19, 3, 35, 3]) {
                dead.add(segments[nth].position(4096));
            }
            dead.add(LogPosition::new(u32::MAX, 128));
        });
        // Where nothing is, a word is counted.
        for (nth, segment) in segments.iter().enumerate() {
            let times = [1, 2, 4][usize::from(nth == 19 || nth == 35) + 2 * usize::from(nth == 3)];
            assert_eq!(segment.dead.get(), WORD * times);
        }
    }
}
