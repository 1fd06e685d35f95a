//! What holds a log up, and who is told of it: an append that is not finished, behind which nothing
//! becomes durable, and what was read from segments that are removed.
//!
//! Nothing is recorded where an append begins, so the age of an unfinished one is counted from when it
//! was first seen, by somebody who asked for statistics or by the log's thread, which looks every second.
//! [`Watch`] remembers that, and of what it has warned already: once of each culprit, and of the oldest
//! at a time.

use crate::position::LogPosition;
use crate::segment::holders::HeldSegment;
#[cfg(feature = "backtraces")]
use crate::taken::TakenAt;
use std::fmt;
use std::time::{Duration, Instant};

/// An append that is reserved and not finished: nothing behind it becomes durable, and syncs wait for it.
/// Every append is that for a moment; the age tells those that hang, most likely in the closure of an
/// [`append_with`](crate::CommitLog::append_with). Readers of the log wait in front of it, too.
///
/// ```
/// let log = tailcask::CommitLog::in_memory();
/// log.append_with(8, |_| {
///     log.append(b"behind it").expect("appends go on");
///     let unfinished = log.stats().unfinished.expect("this one");
///     assert_eq!((unfinished.len, unfinished.bytes_behind), (Some(24), 32));
///     println!("{unfinished}");
/// })?;
/// assert!(log.stats().unfinished.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UnfinishedAppend {
    /// Where its frame begins: its segment, and the offset there.
    pub position: LogPosition,
    /// Bytes of its frame: of an entry, or of a batch. `None`: its thread has not got as far as to say.
    pub len: Option<u64>,
    /// How long it has been known, which is not longer than it has been there.
    pub known_for: Duration,
    /// Bytes of the log from the end of its frame to the tail, which cannot become durable before it is
    /// finished.
    pub bytes_behind: u64,
    /// Threads and tasks that wait for a sync, the one that is to do it among them.
    pub waiting: usize,
    /// Where and when the closure that fills it was called, if it is known.
    #[cfg(feature = "backtraces")]
    pub taken: Option<TakenAt>,
}

impl UnfinishedAppend {
    fn taken(&self) -> Option<String> {
        #[cfg(feature = "backtraces")]
        return self.taken.as_ref().map(ToString::to_string);
        #[cfg(not(feature = "backtraces"))]
        None
    }
}

impl fmt::Display for UnfinishedAppend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, bytes_behind, waiting, .. } = self;
        write!(f, "the append at {position}")?;
        if let Some(len) = self.len {
            write!(f, ", of {len} bytes,")?;
        }
        let time = self.known_for.as_secs_f64();
        write!(f, " is unfinished for {time:.1} s or more; {bytes_behind} bytes are behind it")?;
        match waiting {
            0 => Ok(()),
            1 => f.write_str(", and 1 caller waits for a sync"),
            _ => write!(f, ", and {waiting} callers wait for a sync"),
        }
    }
}

/// How old a thing has to be before it is warned of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) append: Duration,
    pub(crate) reader: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { append: Duration::from_secs(10), reader: Duration::from_secs(60) }
    }
}

/// What was seen of what holds the log up.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) patience: Patience,
    /// The unfinished append that was seen last, and when it was seen first.
    seen: Option<(LogPosition, Instant)>,
    /// The append that was warned of, and the segment.
    append: Option<LogPosition>,
    segment: Option<u32>,
}

impl Watch {
    /// How long the oldest unfinished append has been known.
    pub(crate) fn known_for(&mut self, unfinished: Option<LogPosition>, now: Instant) -> Duration {
        let seen = self.seen.filter(|&(at, _)| Some(at) == unfinished);
        self.seen = seen.or_else(|| unfinished.map(|at| (at, now)));
        self.seen.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(since))
    }

    /// Says once what holds the log up for too long, and once that it no longer does. `held` begins with
    /// the oldest.
    pub(crate) fn tell(&mut self, unfinished: Option<&UnfinishedAppend>, held: &[HeldSegment]) {
        self.tell_of_append(unfinished);
        self.tell_of_segment(held);
    }

    fn tell_of_append(&mut self, unfinished: Option<&UnfinishedAppend>) {
        if let Some(position) = self.append
            && unfinished.is_none_or(|append| append.position != position)
        {
            self.append = None;
            tracing::info!(%position, "the append that held up the log is finished");
        }
        let late = unfinished.filter(|append| append.known_for >= self.patience.append);
        let Some(append) = late.filter(|_| self.append.is_none()) else { return };
        self.append = Some(append.position);
        tracing::warn!(
            position = %append.position,
            segment = append.position.segment(),
            offset = append.position.offset(),
            len = append.len,
            known_for = ?append.known_for,
            bytes_behind = append.bytes_behind,
            waiting = append.waiting,
            taken = append.taken().as_deref(),
            "an append is unfinished, and nothing behind it becomes durable"
        );
    }

    fn tell_of_segment(&mut self, held: &[HeldSegment]) {
        if let Some(segment) = self.segment
            && held.iter().all(|held| held.id != segment)
        {
            self.segment = None;
            tracing::info!(segment, "the removed segment that readers kept is free");
        }
        let late =
            |held: &&HeldSegment| held.removed_for.is_some_and(|time| time >= self.patience.reader);
        let Some(oldest) = held.first().filter(late) else { return };
        if self.segment.is_some() {
            return;
        }
        self.segment = Some(oldest.id);
        tracing::warn!(
            segment = oldest.id,
            removed_for = ?oldest.removed_for.unwrap_or_default(),
            mapped_bytes = oldest.mapped_bytes,
            disk_bytes = oldest.disk_bytes,
            pins = oldest.pins,
            owners = oldest.owners,
            in_epoch = oldest.in_epoch,
            segments = held.len(),
            all_disk_bytes = held.iter().map(|held| held.disk_bytes).sum::<u64>(),
            taken = oldest.taken().as_deref(),
            "something that was read keeps a removed segment, and its space on disk"
        );
    }
}
