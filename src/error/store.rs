//! Writing to a store, merging, backing up and repairing.

use super::corruption::{Corruption, show};
use super::log::{AppendError, ReadError, SyncError};
use super::open::OpenError;
use crate::position::LogPosition;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A write to a store failed: see [`Store::put`](crate::Store::put) and [`Store::write`](crate::Store::write).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The key does not have 1 to 65,535 bytes. Nothing was changed.
    #[error("a key of {len} bytes; 1 to 65535 are allowed")]
    KeyLength {
        /// Bytes of the key.
        len: usize,
    },
    /// The value is larger than the configured limit. Nothing was changed.
    #[error("a value of {len} bytes is above the limit of {max}")]
    ValueTooLarge {
        /// Bytes of the value.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// A time to live of zero: the value would never be there. Nothing was changed.
    #[error("a TTL of zero; a value cannot expire before it is written")]
    ZeroTtl,
    /// The batch is too large. Nothing was changed.
    #[error("a batch of {len} bytes is above the limit of {max}")]
    BatchTooLarge {
        /// Bytes of its frames.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// A batch expected of a key what is not so. Nothing was changed.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The log refused the write.
    #[error("the log refused the write: {0}")]
    Append(#[source] AppendError),
    /// The write depends on the key's current value, which cannot be read.
    #[error("the current value cannot be read: {0}")]
    Read(#[source] ReadError),
    /// The store was closed. Nothing was changed.
    #[error("the store is closed")]
    Closed,
}

impl From<ReadError> for WriteError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => Self::Closed,
            error => Self::Read(error),
        }
    }
}

/// An [expectation](crate::Batch::expect) of a batch does not hold. If several do not, this is the first one
/// that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expectation {index} of the batch does not hold: {} has {}", show(key), written(*found))]
#[non_exhaustive]
pub struct Conflict {
    /// Which expectation: 0 for the one that was added first.
    pub index: usize,
    /// Its key.
    pub key: Vec<u8>,
    /// Where the key's current value was written; `None` if it has none.
    pub found: Option<LogPosition>,
}

/// A [compare-and-swap](crate::Store::compare_and_swap) found another value than the expected one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is not the expected one")]
pub struct CasMismatch {
    /// The current value; `None` if the key has none.
    pub current: Option<Vec<u8>>,
}

/// A merge failed. Nothing was lost: its inputs still exist. See [`Store::merge`](crate::Store::merge).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// No segment could be created to merge into.
    #[error("no segment to merge into: {0}")]
    Append(#[from] AppendError),
    /// An input is damaged. Merges leave it alone from now on.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The merged segments could not be made durable, or could not replace their inputs.
    #[error("could not write the merged segments: {source}")]
    Io {
        /// Its cause.
        source: Arc<io::Error>,
    },
    /// The log could not be made durable, which must happen before inputs are removed.
    #[error("could not make the log durable: {0}")]
    Sync(#[from] SyncError),
    /// The store is being closed, or was closed.
    #[error("the store is being closed")]
    Closing,
}

/// A backup failed. The store is unchanged, and nothing is left at the destination. See
/// [`Store::backup`](crate::Store::backup).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The log could not be made durable.
    #[error("could not make the log durable: {0}")]
    Sync(#[from] SyncError),
    /// The log could not be rolled to another segment, which is needed to link the active one.
    #[error("could not roll the log: {0}")]
    Append(#[from] AppendError),
    /// The destination already exists.
    #[error("{} already exists", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// The destination is inside the store's own directory.
    #[error("{} is inside the store", path.display())]
    Inside {
        /// The destination.
        path: PathBuf,
    },
    /// The store is not in a directory: it is in memory, or on a simulated disk.
    #[error("only a store in a directory can be backed up")]
    NotADirectory,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// An I/O error.
    #[error("could not {operation}: {source}")]
    Io {
        /// What was being done, and to which file.
        operation: String,
        /// Its cause.
        source: io::Error,
    },
}

/// A repair failed. The damaged store is unchanged, and nothing is left at the new directory's name. See
/// [`Store::repair`](crate::Store::repair).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The damaged store, or the copy of it, could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The copy could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The copy could not be made durable.
    #[error("could not make the copy durable: {0}")]
    Sync(#[from] SyncError),
    /// The new directory already exists.
    #[error("{} already exists", path.display())]
    Exists {
        /// The new directory.
        path: PathBuf,
    },
    /// The new directory is inside the damaged store's own directory.
    #[error("{} is inside the store", path.display())]
    Inside {
        /// The new directory.
        path: PathBuf,
    },
    /// An I/O error.
    #[error("could not {operation}: {source}")]
    Io {
        /// What was being done, and to which file.
        operation: String,
        /// Its cause.
        source: io::Error,
    },
}

/// A key's value, in words.
fn written(at: Option<LogPosition>) -> String {
    at.map_or_else(|| "no value".to_owned(), |at| format!("the value written at {at}"))
}
