//! Damage.

use crate::position::LogPosition;

/// A damaged place: where it is and what is wrong with it. [`Store::verify`](crate::Store::verify) looks for
/// such places, and [`Store::repair`](crate::Store::repair) makes a copy without them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("segment {segment} is damaged at offset {offset}: {kind}")]
#[non_exhaustive]
pub struct Corruption {
    /// Id of the segment: the number in the name of its file.
    pub segment: u32,
    /// Byte offset in the segment's file.
    pub offset: u64,
    /// What is wrong there.
    pub kind: CorruptionKind,
}

impl Corruption {
    pub(crate) fn at(position: LogPosition, kind: CorruptionKind) -> Self {
        Self { segment: position.segment(), offset: u64::from(position.offset()), kind }
    }
}

/// What is wrong at a damaged place; see [`Store::verify`](crate::Store::verify).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorruptionKind {
    /// The stored checksum does not match the bytes.
    #[error("checksum {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Computed from the bytes.
        expected: u32,
        /// As stored.
        found: u32,
    },
    /// An impossible length.
    #[error("a frame of {length} bytes, where at most {room} fit")]
    Length {
        /// As stored.
        length: u64,
        /// Bytes up to the end of the segment (or of the batch).
        room: u64,
    },
    /// A frame state that does not exist.
    #[error("unknown frame state {0}")]
    State(u8),
    /// A frame header whose fields contradict one another or the frame's length.
    #[error("a frame header that does not fit its frame")]
    Header,
    /// The frames inside a batch do not fill it, or their number is not the stated one.
    #[error("a batch of {} that holds {found}", entries(*expected))]
    Batch {
        /// As the batch frame states.
        expected: u32,
        /// As counted.
        found: u32,
    },
    /// Nothing is written here, although the log is known to continue.
    #[error("nothing is written here, but the log is known to continue")]
    Missing,
    /// The keydir points here, but there is no value here, or no such segment.
    #[error("the keydir points here, but there is no value here")]
    StaleSlot,
    /// The segment's hint, from which the keydir was loaded, does not match the segment here. The hint was
    /// removed: the next open reads the segment instead.
    #[error("the segment's hint does not match the segment here")]
    Hint,
    /// A key's newest frame is here, but the keydir does not point at it.
    #[error(
        "the newest value of the key {} is here, but the keydir does not point at it",
        show(key)
    )]
    Unlisted {
        /// The key.
        key: Vec<u8>,
    },
    /// The keydir points here, but the key was set or deleted later.
    #[error("the keydir points here, but the key {} has a newer frame", show(key))]
    Outdated {
        /// The key.
        key: Vec<u8>,
    },
    /// The number of frames is not the one in the seal.
    #[error("{} in a segment that was sealed with {expected}", frames(*found))]
    Frames {
        /// As sealed.
        expected: u64,
        /// As counted.
        found: u64,
    },
    /// What is here cannot be read: the first page of the segment's file that cannot be accessed begins at
    /// `at`. Only with [`catch_sigbus`](crate::LogOptions::catch_sigbus).
    #[error(
        "it cannot be read: the file is shorter than its map, or its medium failed, at offset {at}"
    )]
    Inaccessible {
        /// Byte offset in the segment's file.
        at: u64,
    },
    /// The segment's header, or its file as a whole.
    #[error("segment header: {0}")]
    SegmentHeader(&'static str),
}

fn entries(count: u32) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

fn frames(count: u64) -> String {
    if count == 1 { "1 frame".to_owned() } else { format!("{count} frames") }
}

/// A key as printable text, cut after 64 bytes.
pub(super) fn show(key: &[u8]) -> String {
    let shown = key.get(..64).unwrap_or(key).escape_ascii();
    if key.len() > 64 {
        format!("\"{shown}\"... of {} bytes", key.len())
    } else {
        format!("\"{shown}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        let batch = |expected, found| CorruptionKind::Batch { expected, found }.to_string();
        assert_eq!(batch(1, 2), "a batch of 1 entry that holds 2");
        assert_eq!(batch(2, 1), "a batch of 2 entries that holds 1");
        let frames = |expected, found| CorruptionKind::Frames { expected, found }.to_string();
        assert_eq!(frames(2, 1), "1 frame in a segment that was sealed with 2");
        assert_eq!(frames(1, 0), "0 frames in a segment that was sealed with 1");
    }
}
