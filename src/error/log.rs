//! Appending, syncing, reading and truncating.

use super::corruption::Corruption;
use super::fault::MapFault;
use crate::checkpoint::Checkpoint;
use crate::position::LogPosition;
use std::io;
use std::sync::Arc;

/// An append was refused. Nothing of it is in the log, unless it is [`AppendError::Sync`] with a position.
/// See [`CommitLog::append`](crate::CommitLog::append).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The entry is larger than the configured limit.
    #[error("an entry of {len} bytes is above the limit of {max}")]
    TooLarge {
        /// Bytes of the entry, or of the batch.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The device has no room for another segment. Appends succeed again once it has.
    #[error("no space for another segment: {source}")]
    NoSpace {
        /// Its cause.
        source: Arc<io::Error>,
    },
    /// Another segment could not be created, for a reason other than space.
    #[error("could not create another segment: {source}")]
    Io {
        /// Its cause.
        source: Arc<io::Error>,
    },
    /// An append has been left unfinished while 256 segments filled behind it. The log can hold no more
    /// unfinished segments.
    #[error("the append at {oldest} is unfinished and holds up the log")]
    Stalled {
        /// The oldest unfinished append.
        oldest: LogPosition,
    },
    /// A sync failed, now or earlier. If the entry reached the log before that, `position` says where: it
    /// can be read, and survives the death of the process, but is not known to be durable. (If the source is
    /// [`SyncError::Map`], it may not survive.)
    #[error("the log refuses writes: {source}")]
    Sync {
        /// Where the entry is, if it got that far.
        position: Option<LogPosition>,
        /// The failure.
        source: SyncError,
    },
    /// The log was opened read-only.
    #[error("the log is open read-only")]
    ReadOnly,
    /// The log, or its store, was closed.
    #[error("the log is closed")]
    Closed,
    /// All 2^32 segment ids are used up.
    #[error("all 2^32 segment ids are used up")]
    IdsExhausted,
}

/// Making the log durable failed: see [`CommitLog::sync`](crate::CommitLog::sync) and
/// [`Store::sync`](crate::Store::sync).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// A sync failed, now or earlier. The kernel may have dropped the pages that it could not write, so this
    /// handle refuses writes permanently; reads go on. Reopen the log to find out what survived.
    #[error("a sync failed: {source}")]
    Failed {
        /// The cause of the first failure.
        source: Arc<io::Error>,
    },
    /// A background thread of the log, or of its store, ended unexpectedly, which is a bug. Writes are
    /// refused, and nothing is synced in the background any more; reads and explicit syncs go on.
    #[error("a background thread failed: {0}")]
    Background(#[source] ThreadFailure),
    /// A part of a mapped file cannot be accessed. Writes are refused permanently; reads go on. What could be
    /// read of it still can be; what was stored there since is lost when the handle is closed.
    #[error(transparent)]
    Map(#[from] MapFault),
    /// Called inside an `append_with` closure: the sync would wait for that closure's own frame.
    #[error("called inside an append_with closure, whose frame is unfinished")]
    InsideAppend,
    /// The log, or its store, was closed.
    #[error("the log is closed")]
    Closed,
    /// The log was opened read-only.
    #[error("the log is open read-only")]
    ReadOnly,
}

/// The unexpected end of a background thread, as [`LogStats`](crate::LogStats) has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{thread} ended: {reason}")]
#[non_exhaustive]
pub struct ThreadFailure {
    /// The name of the thread.
    pub thread: &'static str,
    /// Its panic message, or that it returned.
    pub reason: Arc<str>,
}

/// A read failed: see [`Store::get`](crate::Store::get) and [`CommitLog::read`](crate::CommitLog::read).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The position is before the beginning of the log: that part was truncated.
    #[error("{position} is before the beginning of the log, {begin}")]
    Truncated {
        /// The position given.
        position: LogPosition,
        /// Where the log begins now.
        begin: LogPosition,
    },
    /// The position is at or after the end of the log.
    #[error("{position} is not before the end of the log, {tail}")]
    PastEnd {
        /// The position given.
        position: LogPosition,
        /// The end of the log.
        tail: LogPosition,
    },
    /// No entry begins at this position.
    #[error("no entry begins at {position}")]
    NotAnEntry {
        /// The position given.
        position: LogPosition,
    },
    /// The entry at this position is still being written.
    #[error("the entry at {position} is unfinished")]
    Unfinished {
        /// The position given.
        position: LogPosition,
    },
    /// The entry or value is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// A segment could not be opened.
    #[error("could not open a segment: {source}")]
    Io {
        /// Its cause.
        source: Arc<io::Error>,
    },
    /// The log, or the store, was closed. What was read before stays valid.
    #[error("it is closed")]
    Closed,
}

/// Reading on from a [`Checkpoint`] is not possible.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The checkpoint is one of another log, or the log was created anew in its place.
    #[error("{checkpoint} is a checkpoint of another log; this one is {log_id:016x}")]
    OtherLog {
        /// The checkpoint given.
        checkpoint: Checkpoint,
        /// The id of this log.
        log_id: u64,
    },
    /// The checkpoint is before the beginning of the log: entries that were not read yet were truncated.
    #[error("{position} is before the beginning of the log, {begin}")]
    Truncated {
        /// The checkpoint's position.
        position: LogPosition,
        /// Where the log begins now.
        begin: LogPosition,
    },
    /// The checkpoint is after the end of the log, which is an older copy, or was cut off and is open
    /// read-only: entries that were read are not there.
    #[error("{position} is after the end of the log, {tail}")]
    PastEnd {
        /// The checkpoint's position.
        position: LogPosition,
        /// The end of the log.
        tail: LogPosition,
    },
    /// Entries that were read are lost: a power loss, or a salvage, has cut the log off before the
    /// checkpoint. What was appended since is behind `end`.
    #[error(
        "what was read up to {position} is lost: a power loss or a salvage cut it off at {end}"
    )]
    Lost {
        /// The checkpoint's position.
        position: LogPosition,
        /// Where what is left of it ends.
        end: LogPosition,
    },
    /// No entry begins or ends at the checkpoint: it was not taken in this log.
    #[error("no entry begins or ends at {position}")]
    NoBoundary {
        /// The checkpoint's position.
        position: LogPosition,
    },
    /// The place cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Dropping the beginning of the log failed: see
/// [`CommitLog::truncate_before`](crate::CommitLog::truncate_before).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TruncateError {
    /// The log belongs to a store, whose values may be anywhere in it.
    #[error("the log belongs to a store")]
    Store,
    /// The position is after the end of the log.
    #[error("{position} is after the end of the log, {tail}")]
    PastEnd {
        /// The position given.
        position: LogPosition,
        /// The end of the log.
        tail: LogPosition,
    },
    /// An I/O error. The log begins where it did, or at a segment in between.
    #[error("could not drop the beginning of the log: {source}")]
    Io {
        /// Its cause.
        source: Arc<io::Error>,
    },
    /// The log, or its store, was closed.
    #[error("the log is closed")]
    Closed,
    /// The log was opened read-only.
    #[error("the log is open read-only")]
    ReadOnly,
}
