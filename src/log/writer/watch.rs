//! What holds the log up, found out when somebody asks: see `log::held_up`.

use super::LogWriter;
use crate::format::frame::{State, Word};
use crate::format::header::FIRST_FRAME;
use crate::log::held_up::UnfinishedAppend;
use crate::position::LogPosition;
use crate::sync::lock;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl LogWriter {
    /// The oldest append that is not finished, if there is one.
    pub(crate) fn unfinished(&self) -> Option<UnfinishedAppend> {
        // First: all before this tail is reserved, and what is finished of it the walk passes.
        let tail = self.tail();
        let position = self.committed();
        let position = (position < tail).then_some(position);
        let known_for = lock(&self.watch).known_for(position, Instant::now());
        let position = position?;
        let len = self.claimed_len(position);
        Some(UnfinishedAppend {
            position,
            len,
            known_for,
            bytes_behind: self.bytes_between(position, tail).saturating_sub(len.unwrap_or(0)),
            waiting: self.group.callers(),
            #[cfg(feature = "backtraces")]
            taken: self.filling.oldest(position.as_u64()),
        })
    }

    /// The length of a claimed frame; `None`: it is not claimed, or finished by now.
    fn claimed_len(&self, at: LogPosition) -> Option<u64> {
        let (segment, offset) = (self.table.pin(at.segment())?, u64::from(at.offset()));
        let room = segment.header.capacity.checked_sub(offset).filter(|&room| room > 0)?;
        // ORDERING: Relaxed; only the length is taken, which the claim has already.
        let word = segment.map.word(offset).load(Ordering::Relaxed);
        let word = Word::parse(word, room).ok()??;
        (word.state == State::Claimed).then_some(word.len)
    }

    /// Bytes of the log from one position to another.
    fn bytes_between(&self, from: LogPosition, to: LogPosition) -> u64 {
        let ends = from.segment()..=to.segment();
        self.table.with(|all| {
            let log = all.iter().filter(|s| !s.header.merged && ends.contains(&s.id()));
            log.map(|segment| {
                let is = |at: LogPosition| at.segment() == segment.id();
                let begin = if is(from) { from.offset().into() } else { FIRST_FRAME };
                let end = if is(to) { to.offset().into() } else { segment.end() };
                end.saturating_sub(begin)
            })
            .sum()
        })
    }

    /// Warns of what holds the log up for too long, unless that was said already.
    pub(crate) fn look_for_hold_ups(&self) {
        let unfinished = self.unfinished();
        let held = self.table.held();
        lock(&self.watch).tell(unfinished.as_ref(), &held);
    }
}
