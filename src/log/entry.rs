//! An entry, in place, and reading one at a position.

#![allow(unsafe_code, reason = "hands out committed bytes")]

use super::follower::Source;
use crate::error::{Corruption, CorruptionKind, ReadError};
use crate::format::frame::{HEADER, Header, Kind, State, Word};
use crate::format::header::FIRST_FRAME;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::frames::{VerifiedFrame, entry_at, frame_at};
use crate::segment::held::{self, Hold};
use crate::segment::holders::SegmentOwner;
use bytes::Bytes;
use std::fmt;
use std::ops::Deref;

/// An entry, in place in the mapped segment. Dereferences to its bytes.
///
/// Its checksum was verified. While it is kept, its segment stays mapped, even if the log is truncated;
/// other segments are not affected.
///
/// An `Entry<'static>`, which [`into_owned`](Self::into_owned) makes, borrows nothing: it can be sent to
/// another thread, and kept after the log is closed.
pub struct Entry<'a> {
    /// Lent out only while the entry, and with it the segment, is borrowed.
    bytes: &'a [u8],
    position: LogPosition,
    keep: Keep<'a>,
}

/// What keeps the segment of an entry.
enum Keep<'a> {
    /// The reader, which is borrowed.
    Reader(&'a SegmentOwner),
    Entry(Hold<'a>),
}

impl Keep<'_> {
    fn into_segment(self) -> SegmentOwner {
        match self {
            Self::Reader(segment) => segment.clone(),
            Self::Entry(hold) => hold.into_segment(),
        }
    }
}

impl<'a> Entry<'a> {
    /// One that a reader lends out, which keeps its segment.
    ///
    /// # Safety
    /// These are the bytes of the committed entry at `position`, in this segment.
    #[inline]
    pub(super) const unsafe fn of_reader(
        segment: &'a SegmentOwner,
        position: LogPosition,
        bytes: &'a [u8],
    ) -> Self {
        Self { bytes, position, keep: Keep::Reader(segment) }
    }
}

impl Entry<'_> {
    /// The entry's position.
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        self.position
    }

    /// The same entry, without copying its bytes, and without borrowing the log or the reader. It keeps
    /// its segment mapped as long as it exists, and nothing else.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = tailcask::CommitLog::open(dir.path().join("log"))?;
    /// log.append_batch(&[b"one", b"two"])?;
    /// let (mut reader, mut entries) = (log.reader(), Vec::new());
    /// while let Some(entry) = reader.next_entry()? {
    ///     entries.push(entry.into_owned());
    /// }
    /// assert_eq!(&*entries[1], b"two");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn into_owned(self) -> Entry<'static> {
        // SAFETY: the entry owns the segment, and lends its bytes out only while it is borrowed.
        let bytes = unsafe { held::unbound(self.bytes) };
        let hold = Hold::Owned(self.keep.into_segment());
        Entry { bytes, position: self.position, keep: Keep::Entry(hold) }
    }

    /// Its bytes, without copying them, and without borrowing the log or the reader. They keep their
    /// segment mapped as long as they exist, and nothing else.
    ///
    /// ```
    /// # let log = tailcask::CommitLog::in_memory();
    /// let position = log.append(b"an entry")?;
    /// let bytes: bytes::Bytes = log.read(position)?.into_bytes();
    /// drop(log);
    /// assert_eq!(&bytes[..2], b"an");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        // SAFETY: the bytes of a committed entry.
        unsafe { held::into_bytes(self.keep.into_segment(), self.bytes) }
    }
}

impl Deref for Entry<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl AsRef<[u8]> for Entry<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({}, {} bytes)", self.position, self.bytes.len())
    }
}

pub(super) fn corrupt(position: LogPosition, kind: CorruptionKind) -> ReadError {
    ReadError::Corrupt(Corruption::at(position, kind))
}

/// Reads the entry at a position.
#[inline]
pub(crate) fn read_at(source: &Source, position: LogPosition) -> Result<Entry<'_>, ReadError> {
    let offset = u64::from(position.offset());
    if let Some(pin) = source.table().pin(position.segment())
        && offset.is_multiple_of(8)
        && offset >= FIRST_FRAME
    {
        // SAFETY: the entry keeps the pin.
        let segment = unsafe { pin.segment_unbound() };
        if let Some(end) = source.readable_until(position, segment)
            // SAFETY: up to `end` frames are finished, or one begins here, says `readable_until`.
            && let Some(bytes) = unsafe { entry_at(segment, offset, end) }
        {
            let keep = Keep::Entry(Hold::Pinned(pin, source.table()));
            return Ok(Entry { bytes, position, keep });
        }
    }
    read_slow(source, position)
}

/// As `read_at`; if nothing begins at the position, the error says why.
#[cold]
fn read_slow(source: &Source, position: LogPosition) -> Result<Entry<'_>, ReadError> {
    // A log that is closed has no segments, and what is missed because of that says nothing.
    let read = read_or_say_why(source, position).map_err(|error| match error {
        // No frame is known to begin there, since what is before it cannot be read.
        ReadError::NotAnEntry { .. } => inaccessible(source, position).unwrap_or(error),
        error => error,
    });
    if read.is_err() && source.table().is_closed() { Err(ReadError::Closed) } else { read }
}

/// The error, if the segment of a position cannot be read as a whole.
pub(super) fn inaccessible(source: &Source, position: LogPosition) -> Option<ReadError> {
    let segment = source.table().pin(position.segment())?;
    segment.accessible().err().map(|kind| corrupt(position, kind))
}

fn read_or_say_why(source: &Source, position: LogPosition) -> Result<Entry<'_>, ReadError> {
    let begin = source.begin();
    if position < begin {
        return Err(ReadError::Truncated { position, begin });
    }
    let tail = source.tail();
    if position >= tail {
        return Err(ReadError::PastEnd { position, tail });
    }
    let not_an_entry = ReadError::NotAnEntry { position };
    let offset = u64::from(position.offset());
    let Some(pin) = source.table().pin(position.segment()) else {
        // Truncated just now, or an id that no segment has.
        let begin = source.begin();
        let truncated = position < begin;
        return Err(if truncated {
            ReadError::Truncated { position, begin }
        } else {
            not_an_entry
        });
    };
    // SAFETY: the entry keeps the pin.
    let segment = unsafe { pin.segment_unbound() };
    // Loaded once: a seal moves it to before the pad, also right here.
    let end = source.readable_until(position, segment).filter(|&end| offset < end);
    let Some(end) = end.filter(|_| offset % 8 == 0 && offset >= FIRST_FRAME) else {
        return Err(not_an_entry);
    };
    // SAFETY: up to `end` frames are finished, or one begins here, says `readable_until`.
    match unsafe { frame_at(segment, offset, end - offset) } {
        Ok(None) if is_boundary(segment, offset, end) => Err(ReadError::Unfinished { position }),
        Ok(Some(VerifiedFrame {
            header: Some(Header { kind: Kind::Entry, .. }), body, ..
        })) => {
            let keep = Keep::Entry(Hold::Pinned(pin, source.table()));
            Ok(Entry { bytes: body, position, keep })
        }
        Ok(Some(VerifiedFrame { word: Word { state: State::Claimed, .. }, .. })) => {
            Err(ReadError::Unfinished { position })
        }
        // Damage, if a frame begins here; that is known by walking to it.
        Err(kind) if is_boundary(segment, offset, end) => Err(corrupt(position, kind)),
        Ok(_) | Err(_) => Err(not_an_entry),
    }
}

/// Whether a frame begins at an offset before `end`: walks over the frames before it by their lengths.
pub(super) fn is_boundary(segment: &Segment, offset: u64, end: u64) -> bool {
    let mut at = FIRST_FRAME;
    while at < offset {
        // SAFETY: a frame begins at `at`: the first one, or behind the one before.
        let Ok(Some(frame)) = (unsafe { frame_at(segment, at, end - at) }) else {
            return false;
        };
        let inside = at + frame.word.len > offset;
        match frame.header {
            Some(Header { kind: Kind::Batch, .. }) if inside => at += HEADER,
            _ => at += frame.word.len,
        }
    }
    at == offset
}
