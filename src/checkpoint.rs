//! Checkpoints: how far a consumer has read a log, to be stored elsewhere.

use crate::position::LogPosition;
use std::fmt;
use std::str::FromStr;

/// How far a consumer has read a log, and which log: what it stores to go on later, with
/// [`CommitLog::reader_from_checkpoint`](crate::CommitLog::reader_from_checkpoint) (or
/// [`reader_owned_from_checkpoint`](crate::CommitLog::reader_owned_from_checkpoint)), and with the feature `stream`
/// with `stream_from_checkpoint`.
///
/// A position alone says nothing in a log that was created anew in the same place, and does not show
/// whether what was read before it is still there. It is written as `ID@POSITION` or
/// `ID@POSITION<POSITION`, and has [24 bytes](Self::to_bytes). Like a position, it need not be trusted.
///
/// ```
/// use tailcask::{Checkpoint, CheckpointError, CommitLog};
///
/// let log = CommitLog::in_memory();
/// log.append_batch(&[b"one", b"two"])?;
/// let mut reader = log.reader();
/// reader.next_entry()?;
/// let stored = reader.checkpoint().to_string();
///
/// let checkpoint: Checkpoint = stored.parse()?;
/// assert_eq!(checkpoint, Checkpoint::from_bytes(checkpoint.to_bytes()));
/// assert_eq!(checkpoint, Checkpoint::new(checkpoint.log_id(), checkpoint.position()));
/// let mut reader = log.reader_from_checkpoint(&checkpoint)?;
/// assert_eq!(&*reader.next_entry()?.expect("there is another"), b"two");
///
/// let other = CommitLog::in_memory();
/// let refused = other.reader_from_checkpoint(&checkpoint).map(drop);
/// assert!(matches!(refused, Err(CheckpointError::OtherLog { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    log_id: u64,
    /// Where the reader stands: no entry is between `read_to` and here.
    position: LogPosition,
    /// Where the last entry ends that was read. What is behind it may be a sync mark, or the pad of a
    /// full segment: such a thing may get lost, or the segment be truncated, and no entry is missed.
    read_to: LogPosition,
}

impl Checkpoint {
    /// The length of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = 24;

    /// A checkpoint at a position of a log with this [id](crate::CommitLog::id): of an entry, to read that
    /// one and what follows, or of the tail. That of a reader,
    /// [`LogReader::checkpoint`](crate::LogReader::checkpoint), knows more.
    #[must_use]
    pub const fn new(log_id: u64, position: LogPosition) -> Self {
        Self { log_id, position, read_to: position }
    }

    pub(crate) const fn having_read(self, read_to: LogPosition) -> Self {
        Self { read_to, ..self }
    }

    /// The [id](crate::CommitLog::id) of the log.
    #[must_use]
    pub const fn log_id(self) -> u64 {
        self.log_id
    }

    /// Where to go on reading.
    #[must_use]
    pub const fn position(self) -> LogPosition {
        self.position
    }

    pub(crate) const fn read_to(self) -> LogPosition {
        self.read_to
    }

    fn words(self) -> [u64; 3] {
        [self.log_id, self.position.as_u64(), self.read_to.as_u64()]
    }

    /// As bytes: the log's id, and two positions as [`LogPosition::as_u64`], little-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.words()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`to_bytes`](Self::to_bytes). Any bytes are accepted; reading from it finds out
    /// whether they are a checkpoint of the log.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let word = |at: usize| {
            let word = bytes[at..].first_chunk().copied();
            u64::from_le_bytes(word.expect("24 bytes have three words"))
        };
        let position = |at| LogPosition::from_u64(word(at));
        Self { log_id: word(0), position: position(8), read_to: position(16) }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}@{}", self.log_id, self.position)?;
        if self.read_to == self.position { Ok(()) } else { write!(f, "<{}", self.read_to) }
    }
}

/// A text that is not a [`Checkpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a checkpoint is ID@POSITION or ID@POSITION<POSITION, not {0:?}")]
pub struct ParseCheckpointError(String);

impl FromStr for Checkpoint {
    type Err = ParseCheckpointError;

    /// Parses what `Display` writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (id, positions) = text.split_once('@')?;
            let is_id = id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            let log_id = u64::from_str_radix(id, 16).ok().filter(|_| is_id)?;
            let (position, read_to) = match positions.split_once('<') {
                Some((position, read_to)) => (position, read_to),
                None => (positions, positions),
            };
            let read_to = read_to.parse().ok()?;
            Some(Self { log_id, position: position.parse().ok()?, read_to })
        };
        parse().ok_or_else(|| ParseCheckpointError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let plain = Checkpoint::new(0xab, LogPosition::new(7, 4096));
        assert_eq!(plain.to_string(), "00000000000000ab@7:4096");
        let behind = Checkpoint::new(u64::MAX, LogPosition::new(8, 128));
        let behind = behind.having_read(LogPosition::new(7, 4088));
        assert_eq!(behind.to_string(), "ffffffffffffffff@8:128<7:4088");
        for checkpoint in [plain, behind] {
            assert_eq!(checkpoint.to_string().parse(), Ok(checkpoint));
            assert_eq!(Checkpoint::from_bytes(checkpoint.to_bytes()), checkpoint);
        }
        assert_eq!(plain.to_bytes()[..12], [0xab, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0]);
        for text in ["", "7:4096", "ab@7:4096", "00000000000000ab@", "+0000000000000ab@7:4096"] {
            let refused = text.parse::<Checkpoint>().unwrap_err();
            assert!(refused.to_string().ends_with(&format!("not {text:?}")), "{refused}");
        }
        assert!("00000000000000ab@7:4096<".parse::<Checkpoint>().is_err());
    }
}
