//! The public types for what salvage lost, and for what it took although it is in doubt.

use crate::error::CorruptionKind;
use crate::format::frame::Kind;
use crate::format::hint::KeyName;
use crate::format::remains::Remnant;
use crate::position::LogPosition;
use std::fmt;

/// A damaged range that salvage skipped, as a [`RecoveryReport`](crate::RecoveryReport) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedRange {
    /// Where it begins. Offset 0 means the whole segment.
    pub position: LogPosition,
    /// Its length in bytes; 0 if unknown, because the bytes are missing.
    pub length: u64,
    /// What is wrong at its beginning.
    pub damage: CorruptionKind,
}

/// What a lost frame of a [`RecoveryReport`](crate::RecoveryReport) was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostKind {
    /// A key's value.
    Put,
    /// A tombstone: an older value of the key may be back.
    Tombstone,
    /// An entry of the log.
    Entry,
    /// Unknown. It may have been several frames.
    Unknown,
}

/// A value, tombstone or entry that is lost, as a [`RecoveryReport`](crate::RecoveryReport) lists it. In a store
/// only if its key has no newer sound version, since otherwise nothing is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostFrame {
    /// Where it was. Offset 0 means the whole segment.
    pub position: LogPosition,
    /// Its length in bytes, including header and padding; 0 if unknown.
    pub length: u64,
    /// What it was.
    pub kind: LostKind,
    /// Its key, if known.
    pub key: Option<Vec<u8>>,
    /// Whether a checksum or a hint confirms the key. Otherwise it is what the damaged bytes say.
    pub certain: bool,
    /// The position of the older value that the key has now; `None` if it has none.
    pub now: Option<LogPosition>,
}

/// Why something in a [`RecoveryReport`](crate::RecoveryReport) is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doubt {
    /// An earlier recovery had cut it off after a power loss, and salvage brought it back.
    BroughtBack,
    /// It is behind the place where a power loss ended the log.
    BehindTheEnd,
    /// It was part of a damaged batch and was taken without the rest; the batch may never have been
    /// committed.
    TornBatch,
}

/// A range that salvage took although a strict recovery would have cut it off, as a
/// [`RecoveryReport`](crate::RecoveryReport) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InDoubt {
    /// Where it begins.
    pub position: LogPosition,
    /// Its length in bytes.
    pub length: u64,
    /// Number of entries, values and tombstones taken from it.
    pub frames: u64,
    /// Why it is in doubt.
    pub reason: Doubt,
}

/// A lost frame, with everything that is known of it.
#[derive(Clone, Debug)]
pub(crate) struct FrameEvidence {
    pub(crate) position: LogPosition,
    pub(crate) length: u64,
    pub(crate) remnant: Option<Remnant>,
    pub(crate) hinted: Option<HintEvidence>,
}

/// What a hint says of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HintEvidence {
    /// What stands for its key, unless the hint is of version 1.
    pub(crate) name: Option<KeyName>,
    pub(crate) tombstone: bool,
    /// Identifies the hashes that made the name.
    pub(crate) fingerprint: u64,
}

impl FrameEvidence {
    pub(crate) fn kind(&self) -> LostKind {
        let of = |remnant: &Remnant| match remnant.header.kind {
            Kind::Put => LostKind::Put,
            Kind::Delete => LostKind::Tombstone,
            Kind::Entry => LostKind::Entry,
            _ => LostKind::Unknown,
        };
        match (self.hinted, &self.remnant) {
            (Some(HintEvidence { tombstone: true, .. }), _) => LostKind::Tombstone,
            (Some(_), _) => LostKind::Put,
            (None, remnant) => remnant.as_ref().map_or(LostKind::Unknown, of),
        }
    }

    /// The report of a lost frame, as far as the log knows it; it cannot tell which key has a name.
    pub(super) fn to_lost(&self) -> LostFrame {
        let remnant = self.remnant.as_ref().filter(|remnant| !remnant.key.is_empty());
        LostFrame {
            position: self.position,
            length: self.length,
            kind: self.kind(),
            key: remnant.map(|remnant| remnant.key.clone()),
            certain: self.remnant.as_ref().is_some_and(|remnant| remnant.certain),
            now: None,
        }
    }
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
            Self::BehindTheEnd => "it is behind the place where a power loss ended the log",
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
            (None, _) => f.write_str("an unknown key")?,
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
