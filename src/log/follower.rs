//! What readers read from: a log that this handle has open for writing, or one that it follows.
//!
//! A [`Follower`] has no reference to a writer. What another process wrote it finds in the files, and it
//! never waits for that process, which may be dead: a frame that is not finished is the end of what can
//! be read, and waiting for an entry has a deadline.

#![allow(unsafe_code, reason = "walks over frames beside a live writer")]

use crate::error::{OpenError, ReadError};
use crate::format::frame::State;
use crate::format::header::FIRST_FRAME;
use crate::format::manifest::Manifest;
use crate::log::append::prefix::is_frame_before;
use crate::log::recovery;
use crate::log::stats::LogStats;
use crate::log::writer::LogWriter;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::frames::frame_at;
use crate::segment::set::{Pin, SegmentSet, locate};
use crate::storage::{Storage, WriterState};
use crate::sync::{AtomicU32, Mutex, Ordering, lock, thread};
use crate::wall_clock::WallClock;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to sleep between checks of a log that another process writes.
pub(super) const POLL: std::ops::Range<Duration> =
    Duration::from_micros(200)..Duration::from_millis(20);

/// A log that is open for reading only. Another process may be writing to it.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) storage: Box<dyn Storage>,
    pub(crate) table: SegmentSet,
    /// Whether segments may be missing: lost to damage, or merged by the log's store.
    pub(crate) gaps: bool,
    /// Whether the MANIFEST says which segments there are, so that it tells what has changed.
    pub(crate) is_as_listed: bool,
    /// The lowest id for a new segment, according to the MANIFEST when it was last read.
    pub(crate) next_id: AtomicU32,
    /// Likewise.
    pub(crate) empty: Mutex<EmptyLog>,
    /// Segments that do not belong to the log: merged ones, and those that recovery would discard.
    pub(crate) ignored: Mutex<BTreeSet<u32>>,
    pub(crate) clock: WallClock,
    pub(crate) log_id: u64,
}

/// What there is to know of a log that has no segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmptyLog {
    /// The first segment that it will have.
    pub(crate) first: u32,
    /// The last one before that.
    pub(crate) last_dropped: u32,
}

/// Where readers get segments from, and what they may read of them.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Writer(Arc<LogWriter>),
    Follower(Arc<Follower>),
}

impl Source {
    pub(crate) fn table(&self) -> &SegmentSet {
        match self {
            Self::Writer(writer) => writer.segment_set(),
            Self::Follower(log) => &log.table,
        }
    }

    /// Where the log begins.
    pub(crate) fn begin(&self) -> LogPosition {
        match (self.table().first(), self) {
            (Some(id), _) => LogPosition::new(id, FIRST_FRAME as u32),
            (None, Self::Writer(writer)) => writer.tail(),
            // Its tail may be that of a segment found just now.
            (None, Self::Follower(log)) => log.begin_of_empty(),
        }
    }

    pub(crate) fn tail(&self) -> LogPosition {
        match self {
            Self::Writer(writer) => writer.tail(),
            Self::Follower(log) => log.tail(),
        }
    }

    /// The end of what is finished without a gap.
    pub(crate) fn committed(&self) -> LogPosition {
        match self {
            Self::Writer(writer) => writer.committed(),
            Self::Follower(log) => log.committed(),
        }
    }

    /// The figures of the log.
    pub(crate) fn stats(&self) -> LogStats {
        let mut stats = LogStats { begin: self.begin(), ..LogStats::default() };
        match self {
            Self::Writer(writer) => writer.read_stats(&mut stats),
            Self::Follower(log) => stats.committed = log.committed(),
        }
        // Behind all that is committed.
        stats.tail = self.tail();
        stats.oldest_unfinished = stats.unfinished.as_ref().map(|append| append.position);
        stats.segment_list = self.segment_list(stats.tail);
        stats.segments = stats.segment_list.len();
        stats.disk_bytes = stats.segment_list.iter().map(|segment| segment.file_bytes).sum();
        let (waiting, since) = self.table().waiting();
        stats.segments_waiting_for_readers = waiting;
        stats.longest_reader_wait = since.map(|since| since.elapsed());
        stats.held_segments = self.table().held();
        stats
    }

    /// Where a log with this tail goes on: if nobody has it open, in another segment.
    pub(super) fn goes_on_at(&self, tail: LogPosition) -> LogPosition {
        let Self::Follower(log) = self else { return tail };
        let is_open = !matches!(log.storage.writer(), Ok(WriterState::None));
        if is_open || u64::from(tail.offset()) == FIRST_FRAME {
            return tail;
        }
        LogPosition::new(self.next_id(), FIRST_FRAME as u32)
    }

    /// The lowest id that no segment has had yet.
    pub(crate) fn next_id(&self) -> u32 {
        let known = self.table().last().map_or(0, |id| id.saturating_add(1));
        known.max(match self {
            Self::Writer(writer) => writer.next_id(),
            // ORDERING: Relaxed; a number by itself.
            Self::Follower(log) => log.next_id.load(Ordering::Relaxed),
        })
    }

    /// The next segment of the log, once it is active.
    pub(crate) fn segment_after(&self, id: u32) -> Result<Option<Pin<'_>>, ReadError> {
        match self {
            Self::Writer(writer) => Ok(writer.segment_after(id)),
            Self::Follower(log) => {
                if log.table.last().is_none_or(|last| last <= id) {
                    log.refresh(id)?;
                }
                Ok(log.table.pin_after(id))
            }
        }
    }

    /// As `segment_after`, after checking the disk again for segments of another process.
    pub(crate) fn rescan_after(&self, id: u32) -> Result<Option<Pin<'_>>, ReadError> {
        if let Self::Follower(log) = self {
            log.refresh(id)?;
        }
        self.segment_after(id)
    }

    /// Looks for segments that another process has made. False: nobody else makes any.
    pub(crate) fn look_for_segments(&self) -> bool {
        let Self::Follower(log) = self else { return false };
        log.look_for_segments();
        true
    }

    /// The last segment before a log that has none.
    pub(crate) fn last_dropped(&self) -> u32 {
        match self {
            Self::Writer(writer) => writer.last_created(),
            Self::Follower(log) => lock(&log.empty).last_dropped,
        }
    }

    /// Whether the log has a store: then merges may have removed segments without entries.
    pub(crate) fn is_store(&self) -> bool {
        match self {
            Self::Writer(writer) => writer.store_secret().is_some(),
            Self::Follower(log) => log.gaps,
        }
    }

    /// Whether a segment missing after a position was lost to damage, or merged (it had no entries
    /// then), rather than truncated.
    pub(crate) fn is_lost_behind(&self, position: LogPosition) -> bool {
        match self {
            Self::Writer(_) => self.begin() <= position || self.is_store(),
            Self::Follower(log) => log.gaps,
        }
    }

    /// The segment that replaces `segment`, which was withdrawn and does not belong to the log: its
    /// writer ended before anything was written to it.
    pub(crate) fn replacement_for(&self, segment: &Segment) -> Option<Pin<'_>> {
        let Self::Follower(log) = self else { return None };
        // If the disk cannot be checked now, the next call does.
        let _ = log.refresh(segment.id());
        log.table.pin_at(|all| {
            let previous = segment.header.previous;
            let follows = |s: &Segment| !s.header.merged && s.header.previous == previous;
            all.iter().position(|s| s.id() > segment.id() && follows(s))
        })
    }

    /// How far a segment may be read from an untrusted position: up to where its bytes no longer
    /// change, or where a frame is known to begin there. `None`: not at all.
    #[inline]
    pub(crate) fn readable_until(&self, position: LogPosition, segment: &Segment) -> Option<u64> {
        match self {
            Self::Writer(writer) => writer.readable_until(position, segment),
            Self::Follower(_) => readable_until_of_others(position, segment),
        }
    }

    /// Waits until `ready` returns true or the deadline passes.
    pub(crate) fn wait(&self, deadline: Option<Instant>, mut ready: impl FnMut() -> bool) -> bool {
        match self {
            Self::Writer(writer) => writer.wait_for_frame(deadline, ready),
            Self::Follower(_) => {
                let mut pause = POLL.start;
                loop {
                    if ready() {
                        return true;
                    }
                    let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
                    if left.is_some_and(|left| left.is_zero()) {
                        return false;
                    }
                    thread::sleep(left.unwrap_or(pause).min(pause));
                    pause = (pause * 2).min(POLL.end);
                }
            }
        }
    }
}

/// As above, for a segment of another process, alive or dead.
fn readable_until_of_others(position: LogPosition, segment: &Segment) -> Option<u64> {
    let end = segment.end();
    if segment.is_sealed() && segment.gaps.is_empty() {
        return Some(end);
    }
    let gap_at = |offset| segment.gap_at(offset).map(|gap| gap.len);
    let offset = u64::from(position.offset());
    is_frame_before(segment, end, gap_at, offset).then_some(end)
}

impl Follower {
    /// Adds segments after `after` that another process created. Also between known ones: reading a
    /// directory while it changes may show a later name and not an earlier one.
    fn refresh(&self, after: u32) -> Result<(), ReadError> {
        if !self.is_as_listed {
            return Ok(());
        }
        let mut ignored = lock(&self.ignored);
        let is_known = |id| self.table.with(|all| locate(all, id).is_some());
        let changes = recovery::find_changes(&*self.storage, after, is_known, &mut ignored);
        let changes = changes.map_err(|error| match error {
            OpenError::Corrupt(corruption) => ReadError::Corrupt(corruption),
            OpenError::Io { source, .. } => ReadError::Io { source: Arc::new(source) },
            other => ReadError::Io { source: Arc::new(std::io::Error::other(other)) },
        })?;
        let manifest = &changes.manifest;
        // ORDERING: Relaxed; a number by itself.
        self.next_id.store(manifest.next, Ordering::Relaxed);
        self.note_empty(manifest);
        self.forget(&changes.there);
        changes.new.into_iter().for_each(|segment| self.table.insert(segment));
        Ok(())
    }

    /// Unmaps segments that the writer has removed, once no reader is in them.
    fn forget(&self, there: &BTreeSet<u32>) {
        let gone = |id: u32| !there.contains(&id);
        if self.table.with(|all| all.iter().any(|segment| gone(segment.id()))) {
            self.table.remove(gone);
        }
        self.table.reap();
    }

    fn note_empty(&self, manifest: &Manifest) {
        let mut empty = lock(&self.empty);
        // If it begins where it did, its segments may have told more.
        if empty.first != manifest.first {
            *empty = EmptyLog { first: manifest.first, last_dropped: manifest.last_dropped() };
        }
    }

    /// Where a log begins, and ends, that has no segments.
    fn begin_of_empty(&self) -> LogPosition {
        LogPosition::new(lock(&self.empty).first, FIRST_FRAME as u32)
    }

    /// The end of the last segment that was written to.
    fn tail(&self) -> LogPosition {
        self.look_for_segments();
        let mut tail = self.begin_of_empty();
        for segment in self.table.segments().iter().rev().filter(|s| !s.header.merged) {
            let offset = end_of_frames(segment, |_| true);
            tail = segment.position(offset);
            if offset > FIRST_FRAME {
                break;
            }
        }
        tail
    }

    /// The end of what is finished without a gap: behind it is a claim, or nothing.
    fn committed(&self) -> LogPosition {
        self.look_for_segments();
        let mut committed = None;
        for segment in self.table.segments().iter().filter(|s| !s.header.merged) {
            let offset = end_of_frames(segment, |state| state != State::Claimed);
            if offset > FIRST_FRAME || committed.is_none() {
                committed = Some(segment.position(offset));
            }
            if offset < segment.end() {
                break;
            }
        }
        committed.unwrap_or_else(|| self.begin_of_empty())
    }

    fn look_for_segments(&self) {
        if let Err(error) = self.refresh(0) {
            // What is known already has to do. Reading on tries again, and reports what is wrong.
            tracing::warn!(%error, "could not look for new segments");
        }
    }
}

/// Where the first frame begins whose state is not `wanted`, or where the frames end.
fn end_of_frames(segment: &Segment, wanted: impl Fn(State) -> bool) -> u64 {
    // What its writer has closed ends where the seal says, and not behind the pad.
    let sealed = segment.is_sealed() || segment.load_seal().is_some();
    let end = segment.end();
    let mut offset = if sealed { end } else { FIRST_FRAME };
    while offset < end {
        // SAFETY: a frame begins at `offset`: the first one, or behind the one before.
        match unsafe { frame_at(segment, offset, end - offset) } {
            Ok(Some(frame)) if !wanted(frame.word.state) => break,
            Ok(Some(frame)) => offset += frame.word.len,
            _ => match segment.gap_at(offset) {
                Some(gap) => offset += gap.len,
                None => break,
            },
        }
    }
    offset
}
