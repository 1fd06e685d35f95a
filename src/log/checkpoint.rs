//! Reading on from a checkpoint: whether it is one of this log, and whether what was read before it is
//! still there.
//!
//! Recovery after a power loss, and salvage, may cut off what a consumer has read already. Ids are never
//! used twice, so what was cut off leaves a trace: a segment that ends before the checkpoint, or that is
//! gone although the log begins before it. A checkpoint has the end of the last entry that was read, and so
//! that trace is one of entries: the reader itself may be further on, in a segment of which nothing is left
//! and nothing is missed.

use super::CommitLog;
use super::follower::Source;
use super::reader::LogReader;
use crate::checkpoint::Checkpoint;
use crate::error::{CheckpointError, ReadError};
use crate::format::header::FIRST_FRAME;
use crate::position::LogPosition;
use crate::segment::Segment;

impl CommitLog {
    /// A reader that goes on where another one had got to when the checkpoint was taken, also in another
    /// process, before a restart, or a crash. Unlike [`reader_from`](Self::reader_from), which finds out
    /// when it reads, it fails here if that is not possible, and if what was read is lost there: what a power
    /// loss or a salvage cut off.
    ///
    /// # Errors
    /// [`CheckpointError`] says in which way the checkpoint does not fit the log. If a part was truncated
    /// or lost, [`reader_from`](Self::reader_from) the position in the error goes on behind it.
    pub fn reader_from_checkpoint(
        &self,
        checkpoint: &Checkpoint,
    ) -> Result<LogReader<'_>, CheckpointError> {
        let log_id = self.id();
        if checkpoint.log_id() != log_id {
            return Err(CheckpointError::OtherLog { checkpoint: *checkpoint, log_id });
        }
        let (position, read_to) = (checkpoint.position(), checkpoint.read_to());
        // What was read to its end may be truncated.
        let is_past = read_to < self.begin() && position > read_to;
        let from = if is_past { position } else { read_to };
        let mut reader = self.reader_from(from);
        let entered = reader.enter_now();
        let told = matches!(entered, Err(ReadError::Truncated { .. } | ReadError::PastEnd { .. }));
        let kept = if told { Ok(()) } else { self.source.check_kept(from) };
        if self.source.table().is_closed() {
            return Err(CheckpointError::Read(ReadError::Closed));
        }
        kept?;
        entered.map(|()| reader).map_err(CheckpointError::of)
    }
}

impl LogReader<'_> {
    /// How far this reader has got, to go on from later. See [`Checkpoint`].
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(self.source().log_id(), self.position()).having_read(self.read_to())
    }
}

impl CheckpointError {
    fn of(error: ReadError) -> Self {
        match error {
            ReadError::Truncated { position, begin } => Self::Truncated { position, begin },
            ReadError::PastEnd { position, tail } => Self::PastEnd { position, tail },
            ReadError::NotAnEntry { position } => Self::NoBoundary { position },
            other => Self::Read(other),
        }
    }
}

impl Source {
    fn log_id(&self) -> u64 {
        match self {
            Self::Writer(writer) => writer.log_id(),
            Self::Follower(log) => log.log_id,
        }
    }

    /// An error if what was before a place is no longer there, and was not truncated.
    fn check_kept(&self, place: LogPosition) -> Result<(), CheckpointError> {
        let offset = u64::from(place.offset());
        if place < self.begin() || place >= self.tail() || offset == FIRST_FRAME {
            return Ok(());
        }
        let lost = match self.table().pin(place.segment()) {
            Some(segment) => is_behind_the_end(&segment, offset),
            // Merges remove segments without entries.
            None => !self.is_store(),
        };
        if !lost {
            return Ok(());
        }
        let end = self.table().with(|all| {
            let before = all.iter().rfind(|s| !s.header.merged && s.id() <= place.segment());
            before.map(|segment| segment.position(segment.end()))
        });
        let end = end.unwrap_or_else(|| self.begin());
        Err(CheckpointError::Lost { position: place, end })
    }
}

/// Whether an offset is behind the end of a sealed segment. Behind that, there may be the pad that fills
/// the segment, which ends where the segment does; not so if it was cut, or closed early.
fn is_behind_the_end(segment: &Segment, offset: u64) -> bool {
    let is_padded = offset == segment.header.capacity && !segment.ends_by_its_seal();
    segment.is_sealed() && offset > segment.end() && !is_padded
}
