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
#[cfg(feature = "stream")]
use super::stream::EntryStream;
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
        self.resume(self.reader(), checkpoint)
    }

    /// As [`reader_from_checkpoint`](Self::reader_from_checkpoint), without borrowing the log: for a thread
    /// or a task of its own, as [`reader_owned`](Self::reader_owned).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tailcask::{Checkpoint, CommitLog, ReadError};
    ///
    /// let log = CommitLog::in_memory();
    /// log.append_batch(&[b"one", b"two"])?;
    /// let mut reader = log.reader();
    /// reader.next_entry()?;
    /// let stored = reader.checkpoint().to_bytes();
    ///
    /// let mut reader = log.reader_owned_from_checkpoint(&Checkpoint::from_bytes(stored))?;
    /// let worker = std::thread::spawn(move || {
    ///     let entry = reader.wait_entry(Duration::MAX)?.expect("it waits for one");
    ///     assert_eq!(&*entry, b"two");
    ///     Ok::<_, ReadError>(())
    /// });
    /// worker.join().expect("no panic")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As `reader_from_checkpoint`. To go on from the position in the error, let a `reader_owned`
    /// [`seek`](LogReader::seek) it.
    pub fn reader_owned_from_checkpoint(
        &self,
        checkpoint: &Checkpoint,
    ) -> Result<LogReader<'static>, CheckpointError> {
        self.resume(self.reader_owned(), checkpoint)
    }

    /// The entries from where another stream, or a reader, had got to when the checkpoint was taken, as a
    /// stream that follows the log: [`stream_from`](Self::stream_from) for positions that are stored
    /// elsewhere. Needs the feature `stream`.
    ///
    /// ```
    /// # mod tokio_stream { pub use futures_core::Stream; pub trait StreamExt: Stream + Unpin {
    /// #     async fn next(&mut self) -> Option<Self::Item> {
    /// #         std::future::poll_fn(|context| std::pin::Pin::new(&mut *self).poll_next(context)).await
    /// #     } }
    /// # impl<S: Stream + Unpin> StreamExt for S {} }
    /// use tailcask::{Checkpoint, CheckpointError, CommitLog, Error, LogPosition};
    /// use tokio_stream::StreamExt; // or that of `futures`
    ///
    /// let log = CommitLog::in_memory();
    /// log.append_batch(&[b"one", b"two"])?;
    /// # let task = async {
    /// let mut entries = log.stream_from(LogPosition::START);
    /// assert_eq!(&*entries.next().await.expect("it does not end")?, b"one");
    /// let stored = entries.checkpoint().to_bytes();
    ///
    /// let checkpoint = Checkpoint::from_bytes(stored);
    /// let mut entries = log.stream_from_checkpoint(&checkpoint)?;
    /// assert_eq!(&*entries.next().await.expect("it does not end")?, b"two");
    ///
    /// let refused = CommitLog::in_memory().stream_from_checkpoint(&checkpoint).map(drop);
    /// assert!(matches!(refused, Err(CheckpointError::OtherLog { .. })));
    /// # Ok::<_, Error>(())
    /// # };
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(task)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`reader_from_checkpoint`](Self::reader_from_checkpoint).
    #[cfg(feature = "stream")]
    pub fn stream_from_checkpoint(
        &self,
        checkpoint: &Checkpoint,
    ) -> Result<EntryStream, CheckpointError> {
        self.reader_owned_from_checkpoint(checkpoint).map(EntryStream::new)
    }

    /// Has a reader of this log go on from a checkpoint.
    fn resume<'r>(
        &self,
        mut reader: LogReader<'r>,
        checkpoint: &Checkpoint,
    ) -> Result<LogReader<'r>, CheckpointError> {
        let log_id = self.id();
        if checkpoint.log_id() != log_id {
            return Err(CheckpointError::OtherLog { checkpoint: *checkpoint, log_id });
        }
        let (position, read_to) = (checkpoint.position(), checkpoint.read_to());
        // What was read to its end may be truncated.
        let is_past = read_to < self.begin() && position > read_to;
        let from = if is_past { position } else { read_to };
        reader.seek(from);
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
