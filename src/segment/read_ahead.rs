//! Reading ahead of a cursor that goes through a segment front to back.

use super::Segment;

/// Bytes that are asked for at a time. Between one and two such windows ahead of the cursor are asked for,
/// so the device is busy while the first one is worked on.
const WINDOW: u64 = 2 << 20;

/// Asks for what is ahead of a cursor, in a segment of which the kernel reads ahead nothing by itself.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    /// What is before this is asked for, or behind the cursor.
    asked: u64,
}

impl ReadAhead {
    /// To be called whenever the cursor has moved on, always with the same segment.
    #[inline]
    pub(crate) fn at(&mut self, segment: &Segment, cursor: u64) {
        if self.asked < cursor + WINDOW {
            self.ask(segment, cursor);
        }
    }

    #[cold]
    fn ask(&mut self, segment: &Segment, cursor: u64) {
        let from = self.asked.max(cursor);
        self.asked = cursor + 2 * WINDOW;
        if segment.is_scattered() {
            segment.map.will_need(from, self.asked.min(segment.end()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::CommitLog;

    /// However far the cursor jumps, what is behind it is not asked for, and at least a window ahead is.
    #[test]
    fn a_window_or_two_ahead_are_asked_for() {
        let log = CommitLog::in_memory();
        let segments = log.writer().expect("a log for writing").segment_set().segments();
        let mut ahead = ReadAhead::default();
        for cursor in [0, 8, WINDOW - 1, WINDOW, WINDOW + 1, 9 * WINDOW, 9 * WINDOW + 8] {
            ahead.at(&segments[0], cursor);
            assert!((cursor + WINDOW..=cursor + 2 * WINDOW).contains(&ahead.asked), "{cursor}");
        }
    }
}
