//! Positions: places in the log.

use std::fmt;

/// The place of a frame in the log: a segment, and a byte offset in its file.
///
/// Positions are ordered as the log is: if one append returned before another began, its position is lower. A
/// position is never used twice, not even after a crash, so it can be stored elsewhere, for example as a
/// checkpoint. A stored position need not be trusted: [`CommitLog::read`](crate::CommitLog::read) checks it.
/// It is written as `SEGMENT:OFFSET`.
///
/// ```
/// use tailcask::{CommitLog, LogPosition};
///
/// let log = CommitLog::in_memory();
/// let position = log.append(b"entry")?;
/// let stored = position.as_u64(); // or `position.to_string()`
/// assert_eq!(LogPosition::from_u64(stored), position);
/// assert_eq!(position.to_string().parse::<LogPosition>()?, position);
/// assert_eq!(position.to_string(), format!("{}:{}", position.segment(), position.offset()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(u64);

impl LogPosition {
    /// Before every entry of any log.
    pub const START: Self = Self(0);

    pub(crate) const fn new(segment: u32, offset: u32) -> Self {
        Self((segment as u64) << 32 | offset as u64)
    }

    /// The position as a number that keeps its order: the segment id in the high 32 bits, the byte
    /// offset in the low 32.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The inverse of [`as_u64`](Self::as_u64). Every number is accepted; reading finds out whether an entry
    /// begins there.
    #[must_use]
    pub const fn from_u64(value: u64) -> Self {
        Self(value)
    }

    /// The id of the segment: the number in the name of its file.
    #[must_use]
    pub const fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The offset in the segment's file, in bytes.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment(), self.offset())
    }
}

impl fmt::Debug for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogPosition({self})")
    }
}

/// A string that is neither `SEGMENT:OFFSET` nor a number, and so no [`LogPosition`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log position is SEGMENT:OFFSET or a number, not {0:?}")]
pub struct ParsePositionError(String);

impl std::str::FromStr for LogPosition {
    type Err = ParsePositionError;

    /// Parses what `Display` writes, or the number that [`as_u64`](LogPosition::as_u64) returns.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let error = || ParsePositionError(s.to_owned());
        match s.split_once(':') {
            Some((segment, offset)) => Ok(Self::new(
                segment.parse().map_err(|_| error())?,
                offset.parse().map_err(|_| error())?,
            )),
            None => s.parse().map(Self).map_err(|_| error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_segment_then_offset() {
        assert!(LogPosition::new(1, u32::MAX) < LogPosition::new(2, 0));
        assert!(LogPosition::new(2, 8) < LogPosition::new(2, 16));
    }

    #[test]
    fn text_and_number_round_trip() {
        let position = LogPosition::new(7, 4096);
        assert_eq!(position.to_string().parse(), Ok(position));
        assert_eq!(position.as_u64().to_string().parse(), Ok(position));
        assert_eq!(LogPosition::from_u64(position.as_u64()), position);
        assert!("7:".parse::<LogPosition>().is_err());
        assert!("x".parse::<LogPosition>().is_err());
    }
}
