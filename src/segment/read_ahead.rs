//! Reading ahead of a cursor that goes through a segment front to back.

use super::Segment;

/// Bytes that are asked for at a time. Between one and two such windows ahead of the cursor are asked for,
/// so the device is busy while the first one is worked on.
const WINDOW: u64 = 2 << 20;

/// Asks for what is ahead of a cursor, in a segment of which the kernel reads ahead nothing by itself.
#[derive(Debug)]
pub(crate) struct ReadAhead<'s> {
    segment: &'s Segment,
    /// What is before this is asked for, or behind the cursor.
    asked: u64,
}

impl<'s> ReadAhead<'s> {
    /// For a cursor that has not begun.
    pub(crate) const fn new(segment: &'s Segment) -> Self {
        Self { segment, asked: 0 }
    }

    /// To be called whenever the cursor has moved on.
    #[inline]
    pub(crate) fn at(&mut self, cursor: u64) {
        if self.asked < cursor + WINDOW {
            self.ask(cursor);
        }
    }

    #[cold]
    fn ask(&mut self, cursor: u64) {
        let from = self.asked.max(cursor);
        self.asked = cursor + 2 * WINDOW;
        if self.segment.is_scattered() {
            self.segment.map.will_need(from, self.asked.min(self.segment.end()));
        }
    }
}
