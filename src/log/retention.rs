//! The log by time: what was appended when, what a policy keeps, and which segments there are.

use super::CommitLog;
use super::follower::Source;
use super::stats::{LogSegment, TruncateReport};
use crate::error::TruncateError;
use crate::format::header::FIRST_FRAME;
use crate::options::Retention;
use crate::position::LogPosition;
use crate::segment::history::History;
use crate::wall_clock::{milliseconds, time_of};
use std::time::SystemTime;

impl CommitLog {
    /// A position such that all entries before it were appended before `time`, by the wall clock: reading
    /// from there finds everything that was appended at that time or later, and perhaps some earlier
    /// entries. It is where a segment begins, since the time is recorded when a segment is sealed: in a
    /// log that fills a segment in an hour, it is up to an hour early.
    ///
    /// Segments sealed by version 0.1.0 have no time; they count as sealed when the next one was. If the
    /// clock was set back, the position is one that holds for the earlier times, too. Of a log that was
    /// closed, it is where the log began.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// use tailcask::CommitLog;
    ///
    /// let log = CommitLog::in_memory();
    /// log.append(b"just now")?;
    /// let mut reader = log.reader_from(log.position_at(SystemTime::now() - Duration::from_secs(60)));
    /// assert_eq!(&*reader.next_entry()?.expect("it is younger"), b"just now");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn position_at(&self, time: SystemTime) -> LogPosition {
        match self.shared.last() {
            // Where all of it begins, which holds for any time.
            Some(last) => last.begin,
            None => self.with_history(|history| history.position_at(milliseconds(time))),
        }
    }

    /// Drops what a retention policy does not keep, by whole segments, and says what that was. Segments
    /// that are not sealed stay. Readers in a dropped segment can finish it; a reader that is before it
    /// gets [`ReadError::Truncated`](crate::ReadError::Truncated).
    ///
    /// To have it done in the background, use [`LogOptions::retention`](crate::LogOptions::retention).
    ///
    /// # Errors
    /// [`TruncateError`].
    pub fn retain(&self, retention: Retention) -> Result<TruncateReport, TruncateError> {
        let writer = self.writer().ok_or(TruncateError::ReadOnly)?;
        if self.shared.is_of_a_store() {
            return Err(TruncateError::Store);
        }
        writer.retain(retention)
    }

    /// Where the log would begin if [`retain`](Self::retain) were called now, and all full segments were
    /// sealed; see [`Retention`](crate::Retention) for an example. Changes nothing, and works in a log that is open
    /// read-only: if no process has that open for writing, the next one that does begins another segment.
    ///
    /// # Errors
    /// [`TruncateError::Store`].
    pub fn retained_from(&self, retention: Retention) -> Result<LogPosition, TruncateError> {
        if self.shared.is_of_a_store() {
            return Err(TruncateError::Store);
        }
        if self.shared.last().is_some() {
            return Err(TruncateError::Closed);
        }
        let now = match &self.source {
            Source::Writer(writer) => writer.now(),
            Source::Follower(log) => log.clock.now(),
        };
        Ok(self.with_history(|history| history.retained_from(retention, now)))
    }

    fn with_history<R>(&self, look: impl FnOnce(&History<'_>) -> R) -> R {
        let tail = self.source.tail();
        let goes_on = self.source.goes_on_at(tail);
        self.source.find_seals();
        self.source
            .table()
            .with(|all| look(&History::new(all.iter().map(|s| &**s), tail).going_on_at(goes_on)))
    }
}

impl Source {
    /// All segments, where the log ends at `tail`.
    pub(super) fn segment_list(&self, tail: LogPosition) -> Vec<LogSegment> {
        self.find_seals();
        let list = |all: &[_]| {
            let all = all.iter().map(|segment: &crate::segment::set::Listed| {
                let sealed = segment.is_sealed();
                let end = match segment.id() {
                    _ if sealed => segment.end(),
                    id if id < tail.segment() => segment.header.capacity,
                    id if id == tail.segment() => u64::from(tail.offset()),
                    _ => FIRST_FRAME,
                };
                LogSegment {
                    id: segment.id(),
                    begin: segment.begin(),
                    end: segment.position(end),
                    file_bytes: segment.map.len() as u64,
                    sealed,
                    sealed_at: segment.sealed_at().and_then(time_of),
                    merged: segment.header.merged,
                }
            });
            all.collect()
        };
        self.table().with(list)
    }

    /// Looks for seals that another process has set.
    fn find_seals(&self) {
        if let Self::Follower(log) = self {
            log.table.with(|all| {
                all.iter().filter(|segment| !segment.is_sealed()).for_each(|segment| {
                    segment.load_seal();
                });
            });
        }
    }
}
