//! Options for tests: small segments, and no background threads, so that a test says what is done
//! when.

use tailcask::{CommitLog, LogOptions, Maintenance, Store, StoreOptions};

/// A log with the smallest segments that users can ask for, and without background threads.
pub(crate) fn log_by_hand() -> LogOptions {
    CommitLog::options().segment_size(2 << 20).maintenance(Maintenance::Manual)
}

/// As [`log_by_hand`], for a store.
pub(crate) fn store_by_hand() -> StoreOptions {
    Store::options().segment_size(2 << 20).maintenance(Maintenance::Manual)
}

/// A log in segments of this many bytes, smaller than users can ask for.
pub(crate) fn small_log(bytes: u64) -> LogOptions {
    CommitLog::options().maintenance(Maintenance::Manual).segment_unit(bytes).segment_size(bytes)
}

/// As [`small_log`], for a store.
pub(crate) fn small_store(bytes: u64) -> StoreOptions {
    Store::options().maintenance(Maintenance::Manual).segment_unit(bytes).segment_size(bytes)
}
