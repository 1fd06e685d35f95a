//! Which segments were sealed when, and so which entries are older than a time.
//!
//! Everything in a segment was appended before it was sealed, and its seal has the time. So for a time
//! `t`: every entry of a segment that was sealed before `t` was appended before `t`. Nothing more is
//! known, so all answers here are about whole segments and err on the side of "it may be newer":
//!
//! * A segment that is not sealed may have entries of any time.
//! * A seal without a time (of an earlier version) was made before the next seal, since segments are
//!   sealed in order. It counts as made when that one was; without a next one, its time is unknown, and
//!   may be now.
//! * If the clock was set back in between, a segment may seem to be older than the one before it. It is
//!   found from the beginning of the log, so it counts as no older than those before it.

use super::Segment;
use crate::format::header::FIRST_FRAME;
use crate::options::Retention;
use crate::position::LogPosition;

/// The segments of a log at one moment, in order.
#[derive(Debug)]
pub(crate) struct History<'s> {
    segments: Vec<&'s Segment>,
    tail: LogPosition,
    /// Where the log goes on: at its tail, or in the segment that its next writer begins.
    goes_on: LogPosition,
    /// Whether a full segment that is not sealed counts as full of frames.
    as_if_sealed: bool,
}

impl<'s> History<'s> {
    /// Takes all segments, and leaves out those that do not belong to the log, and the standby.
    pub(crate) fn new(all: impl IntoIterator<Item = &'s Segment>, tail: LogPosition) -> Self {
        let of_log = |s: &&Segment| !s.header.merged && s.id() <= tail.segment();
        let segments = all.into_iter().filter(of_log).collect();
        Self { segments, tail, goes_on: tail, as_if_sealed: true }
    }

    /// The log goes on in another segment: the last one may be dropped, too.
    pub(crate) const fn going_on_at(mut self, position: LogPosition) -> Self {
        self.goes_on = position;
        self
    }

    /// Of a full segment, how much is frames and not a pad is known once it is sealed. Counts what is known, or all
    /// of it.
    pub(crate) const fn counting_as_sealed(mut self, as_if_sealed: bool) -> Self {
        self.as_if_sealed = as_if_sealed;
        self
    }

    /// Where the entries of a segment end.
    fn end(&self, segment: &Segment) -> u64 {
        if segment.is_sealed() {
            segment.end()
        } else if segment.id() == self.tail.segment() {
            u64::from(self.tail.offset())
        } else if self.as_if_sealed {
            segment.end()
        } else {
            FIRST_FRAME
        }
    }

    /// Everything before this position was appended before a time.
    pub(crate) fn position_at(&self, milliseconds: u64) -> LogPosition {
        self.first_not_before(milliseconds).unwrap_or(self.tail)
    }

    /// The beginning of the first segment in which something may not have been.
    fn first_not_before(&self, milliseconds: u64) -> Option<LogPosition> {
        // The first one of those just before whose seals have no time.
        let mut unknown = None;
        for segment in &self.segments {
            if segment.is_sealed() && segment.sealed_at().is_none() {
                unknown.get_or_insert(*segment);
            } else if segment.sealed_at().is_some_and(|at| at < milliseconds) {
                unknown = None;
            } else {
                return Some(unknown.unwrap_or(segment).begin());
            }
        }
        unknown.map(Segment::begin)
    }

    /// Behind this position are the newest frames, of at least so many bytes if there are as many.
    fn newest(&self, bytes: u64) -> LogPosition {
        let (mut from, mut held) = (self.goes_on, 0u64);
        for segment in self.segments.iter().rev() {
            if held >= bytes {
                break;
            }
            held += self.end(segment).saturating_sub(FIRST_FRAME);
            from = segment.begin();
        }
        from
    }

    /// Where the log begins once a policy has dropped what it does not keep.
    pub(crate) fn retained_from(&self, retention: Retention, now: u64) -> LogPosition {
        let bytes = retention.bytes.map(|bytes| self.newest(bytes));
        let age = retention.age.map(|age| {
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            self.first_not_before(now.saturating_sub(age)).unwrap_or(self.goes_on)
        });
        let begin = self.segments.first().map_or(self.goes_on, |first| first.begin());
        bytes.max(age).unwrap_or(begin)
    }
}
