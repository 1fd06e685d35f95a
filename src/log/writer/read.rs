//! What readers in this process need from the writer: where the log is complete, and which segment is
//! next.

use super::LogWriter;
use crate::log::append::tail::is_after;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::set::Pin;
use std::time::Instant;

impl LogWriter {
    /// The next segment of the log, once it is active.
    pub(crate) fn segment_after(&self, id: u32) -> Option<Pin<'_>> {
        // Before the set: a withdrawn standby is then no longer in it.
        let mut active = self.tail.roll_number();
        loop {
            let begun = |roll: u32| !is_after(u64::from(roll), active);
            let next = self.table.pin_after(id)?;
            if next.roll.is_none_or(begun) {
                return Some(next);
            }
            drop(next);
            // The active segment may have become full meanwhile, and even been truncated: then that is the
            // next one.
            let before = std::mem::replace(&mut active, self.tail.roll_number());
            if before == active {
                return None;
            }
        }
    }

    /// How far a segment may be read from an untrusted position: up to where its bytes no longer
    /// change, or where a frame is known to begin there. `None`: not at all.
    #[inline]
    pub(crate) fn readable_until(&self, position: LogPosition, segment: &Segment) -> Option<u64> {
        let mut prefix = self.prefix.position();
        if position >= prefix {
            prefix = self.committed();
        }
        if position >= prefix {
            let is_frame = segment.roll.is_some_and(|roll| self.has_begun(roll))
                && self.prefix.is_frame(segment, u64::from(position.offset()));
            return is_frame.then(|| segment.end());
        }
        let same = prefix.segment() == segment.id();
        Some(if same { u64::from(prefix.offset()) } else { segment.end() })
    }

    /// Whether a segment of the log has become active, now or earlier.
    fn has_begun(&self, roll: u32) -> bool {
        !is_after(u64::from(roll), self.tail.roll_number())
    }

    /// Waits until `ready` returns true or the deadline passes; `ready` is called after every finished
    /// frame.
    pub(crate) fn wait_for_frame(
        &self,
        deadline: Option<Instant>,
        ready: impl FnMut() -> bool,
    ) -> bool {
        self.tail.waiters.wait(deadline, ready)
    }

    /// Has a task woken by the next finished frame, or by the end of the log; see `Waiters`.
    #[cfg(feature = "stream")]
    pub(crate) fn register_task(&self, ticket: &mut u64, waker: &std::task::Waker) {
        self.tail.waiters.register_task(ticket, waker);
    }

    /// The task waits no longer.
    #[cfg(feature = "stream")]
    pub(crate) fn forget_task(&self, ticket: &mut u64) {
        self.tail.waiters.forget_task(ticket);
    }
}
