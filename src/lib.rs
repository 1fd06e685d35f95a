//! A lock-free, memory-mapped commit log for programs that must write a great deal, fast, and
//! lose none of it.
//!
//! Writers reserve space with one `fetch_add` on the tail of a preallocated, mapped segment;
//! frames carry checksums and are read in place; what a dead process left is found again. Start
//! at [`CommitLog`].

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr))]

mod error;
mod format;
mod keydir;
mod log;
mod options;
mod position;
mod prefetch;
mod random;
mod segment;
mod storage;
mod store;
mod sync;
mod threads;

pub use error::{
    AppendError, BackupError, CasMismatch, Corruption, CorruptionKind, MergeError, OpenError,
    ReadError, RepairError, SyncError, ThreadFailure, TruncateError, WriteError,
};
#[doc(hidden)]
pub use log::FailPoint;
pub use log::{
    BatchWriter, CommitLog, Contradiction, DamagedRange, Distribution, Doubt, Entry, FrameInfo,
    Frames, InDoubt, LogOptions, LogReader, LogStats, LostFrame, LostKind, RecoveryReport,
    SetAside, VerifyReport,
};
pub use options::{Durability, Maintenance, RecoveryMode};
pub use position::{LogPosition, ParsePositionError};
pub use storage::simulated::{DiskOperation, Fate, SimulatedDisk, Unsynced};
pub use store::{
    BackupReport, Batch, DamagedSegment, Keys, MergePolicy, MergeReport, MergeTotals, Pair, Pairs,
    ReadView, SegmentStats, Stats, Store, StoreOptions, Value, WriteOptions,
};
