//! What salvage could not take, and what it took although it is in doubt: the public types.

use crate::error::CorruptionKind;
use crate::position::LogPosition;
use std::fmt;

/// A damaged place that salvage stepped over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedRange {
    /// Where it begins. Offset 0 is a whole segment.
    pub position: LogPosition,
    /// How many bytes; 0 where that is not known, since they are not there.
    pub length: u64,
    /// What is wrong with what stands at its beginning.
    pub damage: CorruptionKind,
}

/// What a lost frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostKind {
    /// A key's value.
    Put,
    /// A tombstone: an older value of the key may have come back.
    Tombstone,
    /// An entry of the log.
    Entry,
    /// That cannot be told. There may have been several frames.
    Unknown,
}

/// Something that was written and is gone. In a store: unless something newer is known of its key,
/// for then nothing is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostFrame {
    /// Where it stood. Offset 0 is a whole segment.
    pub position: LogPosition,
    /// How many bytes, header and padding included; 0 where that is not known.
    pub length: u64,
    /// What it was.
    pub kind: LostKind,
    /// Its key, where that can still be told.
    pub key: Option<Vec<u8>>,
    /// Whether a checksum or a hint vouches for the key. If not, it is what the damaged bytes say.
    pub certain: bool,
    /// Where the value stands that the store has for the key now: an older one, which came back.
    /// `None`: it has none.
    pub now: Option<LogPosition>,
}

/// Why something is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doubt {
    /// An earlier recovery had cut it off after a power loss, and it was taken back.
    BroughtBack,
    /// It stands behind a place at which a power loss ended the log.
    BehindTheEnd,
    /// It was in a batch that is damaged, and was taken without the rest of it; the batch may never
    /// have been finished.
    TornBatch,
}

/// What salvage took although a strict recovery would not have.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InDoubt {
    /// Where it begins.
    pub position: LogPosition,
    /// How many bytes.
    pub length: u64,
    /// Entries, values and tombstones that were taken there.
    pub frames: u64,
    /// Why it is in doubt.
    pub reason: Doubt,
}

impl fmt::Display for LostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Put => "value",
            Self::Tombstone => "tombstone",
            Self::Entry => "entry",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::BroughtBack => "an earlier recovery had cut it off",
            Self::BehindTheEnd => "it is behind the end that a power loss left",
            Self::TornBatch => "its batch is damaged",
        })
    }
}

impl fmt::Display for DamagedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length {
            0 => write!(f, "{}: {}", self.position, self.damage),
            length => write!(f, "{}, {length} bytes: {}", self.position, self.damage),
        }
    }
}

impl fmt::Display for LostFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, length, kind, certain, now, .. } = self;
        write!(f, "{position}: ")?;
        match (&self.key, kind) {
            (Some(key), _) => write!(f, "the {kind} of \"{}\"", key.escape_ascii())?,
            (None, LostKind::Entry) => f.write_str("an entry")?,
            (None, _) => f.write_str("a key unknown")?,
        }
        if *length > 0 {
            write!(f, "; {length} bytes")?;
        }
        if self.key.is_some() && !certain {
            f.write_str("; the key is read from damaged bytes")?;
        }
        match now {
            Some(now) => write!(f, "; the value at {now} came back"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for InDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, length, frames, reason } = self;
        write!(f, "{position}, {length} bytes, {frames} frames: {reason}")
    }
}
