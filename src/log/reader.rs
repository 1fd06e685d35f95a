//! Reading all entries from a position on, and all frames.

#![allow(unsafe_code, reason = "hands out committed bytes")]

use super::entry::{Entry, corrupt, inaccessible, is_boundary};
use crate::error::{CorruptionKind, ReadError};
use crate::format::frame::{HEADER, Header, Kind, State, frame_len};
use crate::format::header::FIRST_FRAME;
use crate::log::follower::Source;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::frames::{entry_at, frame_at};
use crate::segment::holders::SegmentOwner;
use crate::segment::set::Pin;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The bytes of an entry.
///
/// # Safety
/// `frame_at` has found the entry's frame at `offset`, committed and with this header.
unsafe fn body(segment: &Segment, offset: u64, header: Header) -> &[u8] {
    // SAFETY: the frame was seen committed, and its header was verified to fit it.
    unsafe { segment.map.slice(offset + HEADER, u64::from(header.value_len)) }
}

/// Reads forward, entry by entry, across segments and while writers append.
///
/// It keeps the segment that it is in mapped, and nothing else. A `LogReader<'static>`, which
/// [`CommitLog::reader_owned`](crate::CommitLog::reader_owned) makes, borrows nothing, and is a handle on
/// its log.
///
/// ```
/// use std::time::Duration;
/// use tailcask::CommitLog;
///
/// let log = CommitLog::in_memory();
/// log.append(b"one")?;
/// let mut reader = log.reader();
/// assert_eq!(&*reader.next_entry()?.expect("an entry"), b"one");
/// assert!(reader.next_entry()?.is_none()); // so far
///
/// std::thread::scope(|threads| {
///     threads.spawn(|| log.append(b"two"));
///     let entry = reader.wait_entry(Duration::from_secs(60))?;
///     assert_eq!(&*entry.expect("it sleeps until there is one"), b"two");
///     Ok::<(), tailcask::Error>(())
/// })?;
/// let checkpoint = reader.checkpoint(); // where `reader_from_checkpoint` goes on, also after a restart
/// # assert!(log.reader_from_checkpoint(&checkpoint)?.next_entry()?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LogReader<'a> {
    source: SourceRef<'a>,
    /// Where a frame begins, or the next one will, if its segment is the one that is kept; else as the
    /// user gave it.
    at: LogPosition,
    segment: Option<SegmentOwner>,
    /// Where the last entry ends that was read, and where the reader got to from there without another
    /// one. Void once it has moved on.
    skipped: Option<(LogPosition, LogPosition)>,
}

/// What a reader reads from.
#[derive(Debug)]
enum SourceRef<'a> {
    Borrowed(&'a Source),
    /// With a handle, which keeps the log open.
    Owned {
        source: Source,
        _handle: Arc<dyn fmt::Debug + Send + Sync>,
    },
}

impl Deref for SourceRef<'_> {
    type Target = Source;

    fn deref(&self) -> &Source {
        match self {
            Self::Borrowed(source) => source,
            Self::Owned { source, .. } => source,
        }
    }
}

impl SourceRef<'_> {
    /// A segment that was pinned, kept without the pin.
    fn keep(&self, pin: Option<Pin<'_>>) -> Option<SegmentOwner> {
        pin.map(|pin| self.table().pinned(&pin))
    }
}

enum Next {
    Entry(u64, Header),
    Nothing,
}

impl<'a> LogReader<'a> {
    pub(crate) const fn new(source: &'a Source, at: LogPosition) -> Self {
        Self { source: SourceRef::Borrowed(source), at, segment: None, skipped: None }
    }

    /// One that keeps the log open.
    pub(crate) fn owned(
        source: Source,
        _handle: Arc<dyn fmt::Debug + Send + Sync>,
    ) -> LogReader<'static> {
        let source = SourceRef::Owned { source, _handle };
        LogReader { source, at: LogPosition::START, segment: None, skipped: None }
    }

    /// The position of the next frame, which may not exist yet. To store how far the reader has got, use
    /// [`checkpoint`](Self::checkpoint).
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        self.at
    }

    /// Where the last entry ends that was read, or where the reader began.
    pub(super) fn read_to(&self) -> LogPosition {
        self.skipped.filter(|&(_, to)| to == self.at).map_or(self.at, |(from, _)| from)
    }

    /// Moves on without an entry.
    fn skip_to(&mut self, to: LogPosition) {
        self.skipped = Some((self.read_to(), to));
        self.at = to;
    }

    /// Pins the segment that the reader is in, if it is there yet; an error if the reader cannot go on
    /// from where it is.
    pub(super) fn enter_now(&mut self) -> Result<(), ReadError> {
        let entered = self.enter();
        if self.source.table().is_closed() { Err(ReadError::Closed) } else { entered.map(drop) }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Goes to a position: that of an entry, of the tail, or of another reader, before or behind this one.
    /// Whether an entry begins there is checked when the next one is read.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = tailcask::CommitLog::open(dir.path().join("log"))?;
    /// let positions = log.append_batch(&[b"one", b"two", b"three"])?;
    /// let mut reader = log.reader();
    /// reader.seek(positions[2]);
    /// assert_eq!(&*reader.next_entry()?.expect("the third"), b"three");
    /// reader.seek(positions[0]);
    /// assert_eq!(&*reader.next_entry()?.expect("the first"), b"one");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seek(&mut self, position: LogPosition) {
        (self.at, self.segment, self.skipped) = (position, None, None);
    }

    /// The next entry, or `None` at the end of the committed part; later calls return what was appended
    /// since.
    ///
    /// # Errors
    /// [`ReadError::Truncated`] if the log was truncated beyond the reader's position;
    /// [`ReadError::Corrupt`] at damage. If the reader was given a position to start at:
    /// [`ReadError::PastEnd`] if it is behind the end of the log, and [`ReadError::NotAnEntry`] if no
    /// entry begins there, most likely because it is a position of another log. [`ReadError::Closed`]
    /// once the log is closed and the reader has read the segment that it is in. After an error the
    /// reader stays where it is.
    #[inline]
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        if let Some((position, bytes)) = self.next_fast() {
            // SAFETY: committed bytes of the segment that is kept, which nothing lets go of while the
            // entry borrows the reader. (A reference would borrow it up to here also if there is none.)
            let bytes = unsafe { &*bytes };
            let segment = self.segment.as_ref().expect("an entry is in a segment");
            // SAFETY: as above; `next_fast` has found them there.
            return Ok(Some(unsafe { Entry::of_reader(segment, position, bytes) }));
        }
        let found = self.step()?;
        Ok(self.entry(found))
    }

    /// Fast path: steps past the next entry if its frame is in the segment that is kept.
    #[inline]
    fn next_fast(&mut self) -> Option<(LogPosition, *const [u8])> {
        let segment = &**self.segment.as_ref()?;
        let position = self.at;
        if segment.id() != position.segment() {
            return None;
        }
        let offset = u64::from(position.offset());
        // SAFETY: a frame begins, or will begin, where the reader is; see `at`.
        let bytes = unsafe { entry_at(segment, offset, segment.end()) }?;
        let next = offset + frame_len(bytes.len() as u64);
        self.at = segment.position(next);
        Some((position, bytes))
    }

    fn entry(&self, found: Next) -> Option<Entry<'_>> {
        let Next::Entry(offset, header) = found else { return None };
        let segment = self.segment.as_ref().expect("an entry is in a segment");
        // SAFETY: `step` has found it, in the segment that is still kept.
        let bytes = unsafe { body(segment, offset, header) };
        let position = segment.position(offset);
        // SAFETY: the bytes of that entry.
        Some(unsafe { Entry::of_reader(segment, position, bytes) })
    }

    /// As [`next_entry`](Self::next_entry), but waits up to `timeout` for an entry. The thread sleeps
    /// meanwhile. Closing the log ends the wait.
    ///
    /// # Errors
    /// As `next_entry`.
    pub fn wait_entry(&mut self, timeout: Duration) -> Result<Option<Entry<'_>>, ReadError> {
        let deadline = Instant::now().checked_add(timeout);
        let mut found = self.step()?;
        if matches!(found, Next::Nothing) {
            let source = (*self.source).clone();
            let mut result = Ok(Next::Nothing);
            source.wait(deadline, || {
                result = self.step();
                !matches!(result, Ok(Next::Nothing))
            });
            found = result?;
        }
        Ok(self.entry(found))
    }

    /// Steps past the next entry. In a log that is closed, only in the segment that is pinned.
    fn step(&mut self) -> Result<Next, ReadError> {
        match self.step_in_open() {
            Ok(Next::Entry(offset, header)) => Ok(Next::Entry(offset, header)),
            _ if self.source.table().is_closed() => Err(ReadError::Closed),
            other => other,
        }
    }

    fn step_in_open(&mut self) -> Result<Next, ReadError> {
        loop {
            if !self.enter()? {
                return Ok(Next::Nothing);
            }
            let segment = &**self.segment.as_ref().expect("entered");
            // The end is loaded once: a seal moves it to before the pad, at any time.
            let (offset, end) = (u64::from(self.at.offset()), segment.end());
            if offset >= end {
                if !self.leave()? {
                    return Ok(Next::Nothing);
                }
                continue;
            }
            if let Some(gap) = segment.gap_at(offset) {
                // What a dead writer left, or salvage cannot read.
                let to = segment.position(offset + gap.len);
                self.skip_to(to);
                continue;
            }
            // Before the frame is read: all are finished before a segment is sealed.
            let is_finished = segment.is_sealed();
            // SAFETY: a frame begins, or will begin, where the reader is.
            let frame = unsafe { frame_at(segment, offset, end - offset) };
            let frame = frame.map_err(|kind| corrupt(self.at, kind))?;
            let Some(frame) = frame.filter(|frame| frame.word.state != State::Claimed) else {
                if self.step_over(is_finished) {
                    continue;
                }
                return self.unfinished(is_finished);
            };
            let advance = match (frame.word.state, frame.header) {
                (_, Some(header @ Header { kind: Kind::Entry, .. })) => {
                    self.at = segment.position(offset + frame.word.len);
                    return Ok(Next::Entry(offset, header));
                }
                (_, Some(Header { kind: Kind::Batch, .. })) => HEADER,
                _ => frame.word.len,
            };
            let to = segment.position(offset + advance);
            self.skip_to(to);
        }
    }

    /// The frame here is unwritten or unfinished: that is the end of the log, unless the segment has
    /// been sealed meanwhile, in which case the frame is finished, and so is everything after it.
    fn unfinished(&self, is_finished: bool) -> Result<Next, ReadError> {
        if is_finished { Err(corrupt(self.at, CorruptionKind::Missing)) } else { Ok(Next::Nothing) }
    }

    /// Keeps the segment that `at` is in.
    fn enter(&mut self) -> Result<bool, ReadError> {
        if self.segment.as_ref().is_some_and(|segment| segment.id() == self.at.segment()) {
            return Ok(true);
        }
        self.keep_own()?;
        if self.segment.is_none() && self.at < self.source.tail() && self.source.is_store() {
            // Merged, so there were no entries in it.
            self.segment = self.source.keep(self.source.segment_after(self.at.segment())?);
            if let Some(to) = self.segment.as_ref().map(|next| next.begin()) {
                self.skip_to(to);
            }
        }
        if self.segment.is_none() {
            return self.enter_behind_a_gap();
        }
        if !self.is_place() {
            self.segment = None;
            return Err(self.no_place());
        }
        Ok(true)
    }

    /// Keeps the segment that `at` is in, if there is one; an error if it was truncated. The start of the
    /// log is where it begins now.
    fn keep_own(&mut self) -> Result<(), ReadError> {
        let from_start = self.at == LogPosition::START;
        let mut has_looked = false;
        loop {
            let begin = self.source.begin();
            if from_start {
                // A log that is closed begins at its end: the reader is not to be moved there.
                if self.source.table().is_closed() {
                    return Err(ReadError::Closed);
                }
                self.at = begin;
            }
            self.check_begin(begin)?;
            let pin = self.source.table().pin(self.at.segment());
            let pin = pin.filter(|pin| !pin.header.merged);
            self.segment = self.source.keep(pin);
            if self.segment.is_some() {
                return Ok(());
            }
            // Made by another process since its files were looked at?
            if !std::mem::replace(&mut has_looked, true) && self.source.look_for_segments() {
                continue;
            }
            // Truncated since `begin` was looked at?
            match self.check_begin(self.source.begin()) {
                Err(_) if from_start => {}
                checked => return checked,
            }
        }
    }

    fn check_begin(&self, begin: LogPosition) -> Result<(), ReadError> {
        if self.at < begin && !self.source.is_store() && !self.misses_nothing() {
            return Err(ReadError::Truncated { position: self.at, begin });
        }
        Ok(())
    }

    /// Whether the reader, before the beginning of the log, stands where a segment began that was never
    /// used: the first one that there is, or will be, follows one before that.
    #[cold]
    fn misses_nothing(&self) -> bool {
        let table = self.source.table();
        let first = table.first().and_then(|id| table.pin(id));
        let before =
            first.map_or_else(|| self.source.last_dropped(), |first| first.header.previous);
        u64::from(self.at.offset()) == FIRST_FRAME && before < self.at.segment()
    }

    /// The reader has read everything and stands at the beginning of a segment that was never used and
    /// no longer exists. It waits for the next one.
    fn enter_behind_a_gap(&mut self) -> Result<bool, ReadError> {
        let (id, tail) = (self.at.segment(), self.source.tail());
        let begins = u64::from(self.at.offset()) == FIRST_FRAME && id < self.source.next_id();
        if self.at != tail && !begins {
            return Err(self.no_place());
        }
        if self.at >= tail {
            return Ok(false);
        }
        let Some(next) = self.source.segment_after(id)? else { return Ok(false) };
        if next.header.previous >= id {
            // It was one of the log after all, or one behind it was.
            self.check_skipped(&next)?;
        }
        let (to, next) = (next.begin(), self.source.keep(Some(next)));
        self.skip_to(to);
        self.segment = next;
        Ok(true)
    }

    /// An error, if segments between here and the next one were truncated.
    fn check_skipped(&self, next: &Segment) -> Result<(), ReadError> {
        if self.source.is_lost_behind(self.at) {
            return Ok(());
        }
        let begin = self.source.begin().max(next.position(FIRST_FRAME));
        Err(ReadError::Truncated { position: self.at, begin })
    }

    /// The error for a position at which no frame begins.
    fn no_place(&self) -> ReadError {
        let (position, tail) = (self.at, self.source.tail());
        if position > tail {
            ReadError::PastEnd { position, tail }
        } else if let Some(error) = inaccessible(&self.source, position) {
            error
        } else {
            ReadError::NotAnEntry { position }
        }
    }

    /// Whether a frame begins, or the log ends, at the untrusted position `at`.
    fn is_place(&self) -> bool {
        let (tail, offset) = (self.source.tail(), u64::from(self.at.offset()));
        let segment = &**self.segment.as_ref().expect("just kept");
        // The end of a segment is where its frames end, or behind the pad that fills it: not where it will end.
        let end = segment.end();
        let ends = [end, segment.header.capacity];
        let has_ended = self.at <= tail || segment.is_sealed();
        if offset == FIRST_FRAME || self.at == tail || has_ended && ends.contains(&offset) {
            return true;
        }
        let inside = offset % 8 == 0 && (FIRST_FRAME..end).contains(&offset);
        // A frame that verifies is one: its checksum is bound to the place. What does not may be
        // a damaged frame, or no frame.
        inside
            && self.at < tail
            && self.source.readable_until(self.at, segment).is_some_and(|until| {
                // Another load of the end may be in it: sealed meanwhile, the pad is behind it.
                let end = end.min(until);
                if offset >= end {
                    return offset == end;
                }
                // SAFETY: up to `end` frames are finished, or one begins here, says `readable_until`.
                let frame = unsafe { frame_at(segment, offset, end - offset) };
                matches!(frame, Ok(Some(_))) || is_boundary(segment, offset, end)
            })
    }

    /// Goes on to the next segment; false while there is none.
    fn leave(&mut self) -> Result<bool, ReadError> {
        let id = self.at.segment();
        let Some(mut next) = self.source.segment_after(id)? else { return Ok(false) };
        let gap = |next: &Segment| next.header.previous > id;
        if gap(&next)
            && let Some(found) = self.source.rescan_after(id)?
        {
            next = found;
        }
        if gap(&next) {
            self.check_skipped(&next)?;
        }
        let (to, next) = (next.begin(), self.source.keep(Some(next)));
        self.skip_to(to);
        self.segment = next;
        Ok(true)
    }

    /// At a frame that is not there (yet): the log may have gone another way, or, if it is one of another
    /// process, may have been closed. If the segment was finished before, nothing changes any more.
    fn step_over(&mut self, is_finished: bool) -> bool {
        let segment = &**self.segment.as_ref().expect("entered");
        let offset = u64::from(self.at.offset());
        if is_finished {
            return false;
        }
        if let Source::Writer(_) = *self.source {
            let is_gone = offset == FIRST_FRAME && self.source.table().pin(segment.id()).is_none();
            // Truncated since, it is read to its end. Otherwise it is a standby that was taken back: entering
            // waits for the segment that took its place.
            if is_gone && !segment.is_sealed() {
                self.segment = None;
            }
            return is_gone;
        }
        if segment.is_sealed() {
            return false;
        }
        if segment.load_seal().is_some() {
            return true;
        }
        if offset != FIRST_FRAME {
            return false;
        }
        // A standby that was taken back: its place in the chain is another segment's.
        if let Some(next) = self.source.keep(self.source.replacement_for(segment)) {
            self.skip_to(next.begin());
            self.segment = Some(next);
            return true;
        }
        // That one may have been dropped, too. Then entering finds out where the log begins now.
        let is_gone = self.at < self.source.begin();
        if is_gone {
            self.segment = None;
        }
        is_gone
    }
}

/// A frame as it is in the file, for debugging: see [`CommitLog::frames`](crate::CommitLog::frames).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameInfo {
    /// The frame's position.
    pub position: LogPosition,
    /// Its length in bytes, including header and padding.
    pub length: u64,
    /// `committed`, `claimed`, `void`, `pad`, or `gap` for a range that a dead process left unrepaired, or
    /// that salvage cannot read.
    pub state: &'static str,
    /// `entry`, `batch`, `sync mark`, `put` or `delete`, if the frame is committed.
    pub kind: Option<&'static str>,
    /// The value length in its header: bytes of an entry or a value, number of entries in a batch.
    pub value_len: u32,
}

/// Iterates over all frames, including those without an entry: see
/// [`CommitLog::frames`](crate::CommitLog::frames).
#[derive(Debug)]
pub struct Frames<'a> {
    reader: LogReader<'a>,
    failed: bool,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(reader: LogReader<'a>) -> Self {
        Self { reader, failed: false }
    }

    fn step(&mut self) -> Result<Option<FrameInfo>, ReadError> {
        match self.step_in_open() {
            Ok(Some(frame)) => Ok(Some(frame)),
            _ if self.reader.source.table().is_closed() => Err(ReadError::Closed),
            other => other,
        }
    }

    fn step_in_open(&mut self) -> Result<Option<FrameInfo>, ReadError> {
        let reader = &mut self.reader;
        loop {
            if !reader.enter()? {
                return Ok(None);
            }
            let segment = &**reader.segment.as_ref().expect("entered");
            let (position, offset) = (reader.at, u64::from(reader.at.offset()));
            let end = segment.end();
            if offset >= end {
                if !reader.leave()? {
                    return Ok(None);
                }
                continue;
            }
            if let Some(gap) = segment.gap_at(offset) {
                reader.at = segment.position(offset + gap.len);
                let (length, state) = (gap.len, "gap");
                return Ok(Some(FrameInfo { position, length, state, kind: None, value_len: 0 }));
            }
            let is_finished = segment.is_sealed();
            // SAFETY: a frame begins, or will begin, where the reader is.
            let frame = unsafe { frame_at(segment, offset, end - offset) };
            let frame = frame.map_err(|kind| corrupt(position, kind))?;
            let (word, header) = (frame.map(|f| f.word), frame.and_then(|f| f.header));
            let (length, state) = match word {
                Some(word) => (word.len, name(word.state)),
                None if reader.step_over(is_finished) => continue,
                None => return reader.unfinished(is_finished).map(|_| None),
            };
            let kind = header.map(|header| match header.kind {
                Kind::Entry => "entry",
                Kind::Batch => "batch",
                Kind::SyncMark => "sync mark",
                Kind::Put => "put",
                Kind::Delete => "delete",
                Kind::Inputs => "inputs",
            });
            let batch = matches!(header, Some(Header { kind: Kind::Batch, .. }));
            let next = offset + if batch { HEADER } else { length };
            reader.at = LogPosition::new(position.segment(), next as u32);
            let value_len = header.map_or(0, |header| header.value_len);
            return Ok(Some(FrameInfo { position, length, state, kind, value_len }));
        }
    }
}

const fn name(state: State) -> &'static str {
    match state {
        State::Claimed => "claimed",
        State::Committed => "committed",
        State::Void => "void",
        State::Pad => "pad",
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<FrameInfo, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.step().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}
