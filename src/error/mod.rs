//! The errors: one type for each kind of operation, and [`Error`] over all of them.
//!
//! A message names the place and includes its cause, in one line; the cause is also the error's `source`.

mod corruption;
mod fault;
mod log;
mod open;
mod store;

pub use corruption::{Corruption, CorruptionKind};
pub use fault::MapFault;
pub use log::{AppendError, CheckpointError, ReadError, SyncError, ThreadFailure, TruncateError};
pub use open::OpenError;
pub use store::{BackupError, CasMismatch, Conflict, MergeError, RepairError, WriteError};

use crate::checkpoint::ParseCheckpointError;
use crate::position::ParsePositionError;

/// Any error of this crate, for programs that treat them all alike: every other error converts into it.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// fn count(dir: &std::path::Path) -> Result<u64, tailcask::Error> {
///     let store = tailcask::Store::open(dir)?;
///     store.put("key", "value")?;
///     store.close()?;
///     Ok(tailcask::Store::open_read_only(dir)?.len())
/// }
/// # assert_eq!(count(&dir.path().join("store"))?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Opening a log or a store failed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Appending to a log failed.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Making a log durable failed.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Dropping the beginning of a log failed.
    #[error(transparent)]
    Truncate(#[from] TruncateError),
    /// Going on from a checkpoint is not possible.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Writing to a store failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A compare-and-swap found another value.
    #[error(transparent)]
    CasMismatch(#[from] CasMismatch),
    /// An expectation of a batch does not hold.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A merge failed.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// A backup failed.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A part of a mapped file cannot be accessed.
    #[error(transparent)]
    Map(#[from] MapFault),
    /// A repair failed.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// A text is not a position.
    #[error(transparent)]
    ParsePosition(#[from] ParsePositionError),
    /// A text is not a checkpoint.
    #[error(transparent)]
    ParseCheckpoint(#[from] ParseCheckpointError),
    /// A place is damaged.
    #[error(transparent)]
    Corruption(#[from] Corruption),
    /// A background thread has ended.
    #[error(transparent)]
    Thread(#[from] ThreadFailure),
    /// A value is not of a type.
    #[cfg(feature = "zerocopy")]
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// A value or an entry cannot be read as a type (feature `zerocopy`): see
/// [`Value::get_as`](crate::Value::get_as).
#[cfg(feature = "zerocopy")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// It has another length than the type.
    #[error("{len} bytes do not have the size of {name}")]
    Size {
        /// The type.
        name: &'static str,
        /// Length of the value in bytes.
        len: usize,
    },
    /// The type needs another alignment than the 8 bytes that values have.
    #[error("{name} needs a larger alignment than the 8 bytes of values")]
    Alignment {
        /// The type.
        name: &'static str,
    },
    /// The bytes do not stand for anything of this type.
    #[error("the bytes are no valid {name}")]
    Value {
        /// The type.
        name: &'static str,
    },
}
