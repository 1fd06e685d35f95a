//! An append-only log and a key-value store for programs that write a lot of data, fast, and must not
//! lose any of it.
//!
//! * [`CommitLog`] is a lock-free log in memory-mapped, preallocated segments. A writer reserves space with
//!   one `fetch_add`; entries carry checksums and are read in place, without copying.
//! * [`Store`] is a key-value store in the manner of Bitcask on such a log. Values are written once, to the
//!   log; an index in memory finds them; merges reclaim the space of overwritten and deleted values.
//!
//! An acknowledged write survives SIGKILL at any moment, without a system call on the write path. With
//! [`Durability::Synced`] it also survives a power loss.
//!
//! # The store
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use tailcask::{Batch, Store};
//!
//! let store = Store::open(dir.path().join("store"))?;
//! store.put("colour", "green")?;
//! assert_eq!(&*store.get("colour")?.expect("it was just put"), b"green");
//!
//! let mut batch = Batch::new();
//! batch.put("shape", "round").delete("colour");
//! store.write(&batch)?; // all of it or nothing
//! assert!(store.get("colour")?.is_none());
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The log
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use tailcask::{CommitLog, Durability};
//!
//! let log = CommitLog::options().durability(Durability::Synced).open(dir.path().join("log"))?;
//! let position = log.append(b"one record")?; // on the device when this returns
//! assert_eq!(&*log.read(position)?, b"one record");
//!
//! let mut reader = log.reader();
//! while let Some(entry) = reader.next_entry()? {
//!     println!("{} has {} bytes", entry.position(), entry.len());
//! }
//! log.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | opening | [`LogOptions`], [`StoreOptions`], [`RecoveryMode`], [`RecoveryReport`] |
//! | when a write counts as done | [`Durability`], [`WriteOptions`] |
//! | many writes at once | [`CommitLog::append_batch`], [`BatchWriter`], [`Batch`] |
//! | writes that depend on the current value | [`Store::put_if_absent`], [`Store::compare_and_swap`], [`Store::update`], [`Store::try_update`] |
//! | writes of several keys, if something holds | [`Batch::expect`], [`Expected`], [`Conflict`] |
//! | values that expire | [`WriteOptions::ttl`], [`Ttl`], [`Store::ttl`], [`Store::touch`] |
//! | reading a log, and following its tail | [`LogReader`], [`Entry`], [`Checkpoint`] |
//! | threads and tasks: handles, and what borrows nothing | [`Store::close`], [`Store::iter_owned`], [`CommitLog::reader_owned`], [`Value::into_owned`] |
//! | async code | [`Store::sync_async`], [`CommitLog::wait_durable_async`], `CommitLog::stream_from`, [what blocks](guide_async) |
//! | reading many keys, or all of them | [`Store::get_many`], [`Pairs`], [`Keys`] |
//! | reading beside a writer in another process | [`CommitLog::open_read_only`], [`Store::open_read_only`] |
//! | statistics, and what holds something up | [`Store::stats`], [`CommitLog::stats`], [`HeldSegment`], [`UnfinishedAppend`], [metrics.md] |
//! | reclaiming space | [`CommitLog::truncate_before`], [`Retention`], [`Store::merge`], [`MergePolicy`], [`Maintenance`] |
//! | backup, verification, repair | [`Store::backup`], [`Store::verify`], [`Store::repair`], [`CommitLog::repair`] |
//! | errors | [`Error`], and a type for each operation |
//! | testing against failing disks and power loss | `SimulatedDisk` (feature `testing`), [`CommitLog::in_memory`] |
//!
//! Inside, the modules build on each other in this order: `format` (bytes), `storage` (files, or the
//! simulated disk), `segment` (mapped files and their pins), `log` (append protocol, group commit, recovery),
//! `keydir` (the index), `store`. [architecture.md] describes them, [glossary.md] the terms.
//!
//! # Guarantees and limits
//!
//! * [durability.md] lists the promises, each with the tests that show it, and what they assume.
//! * Any number of threads share one handle, or have clones of it; one process at a time writes, and any number
//!   read meanwhile. Operations on one key are linearizable, and batches are atomic.
//! * Linux, on ext4, xfs or tmpfs. Other file systems are refused unless asked for, since they may kill the
//!   process with SIGBUS on a full disk ([`LogOptions::any_file_system`]).
//! * Keys, values and entries have limits: see [`Store`], [`StoreOptions::max_value_size`] and
//!   [`LogOptions::max_entry_size`]. All keys have a slot in memory.
//! * Iteration over a store is in no particular order.
//!
//! # More
//!
//! * The [guide]: how to use it well, from the first write to a backup; and [async code](guide_async).
//! * In the package, and in the repository: [operations.md] (sizing, tuning, monitoring, backup, damage),
//!   [comparison.md] (beside redb, fjall, RocksDB, LMDB and others), [faq.md], [compatibility.md] (platforms, what a
//!   version number says), [store.md] (how the store works).
//! * In the repository only: `examples/`, programs: a durable async service with a worker that follows its log, event
//!   sourcing with a consumer in another process, and a job queue with a cache.
//!
//! # Features
//!
//! All are off by default.
//!
//! * `backtraces`: [`HeldSegment`]`::oldest` and [`UnfinishedAppend`]`::taken` say where and when was taken what
//!   holds something up, if `RUST_LIB_BACKTRACE=1` asks for that.
//! * `cli`: the command `tailcask`. The library does not need it.
//! * `metrics`: [`Store`]`::publish_metrics` and [`CommitLog`]`::publish_metrics`, for exporters of the crate
//!   `metrics` (Prometheus, OpenTelemetry).
//! * `stream`: [`CommitLog`]`::stream_from` gives a log's entries as a `Stream` that follows it.
//! * `testing`: for tests of programs that use tailcask; enable it in `[dev-dependencies]`. `SimulatedDisk` is
//!   a disk in memory that fails and loses power where a test says so, for `open_simulated`;
//!   `StoreOptions::clock` sets the time that values expire by; `segment_unit` allows segments of 4 KiB; `abort`
//!   ends a log or a store as a dying process would.
//! * `zerocopy`: `Value::get_as`, `Entry::get_as` and `Pair::value_as` give a value as a type, in place.
//!
//! Types of other crates are part of the public face: `bytes` 1 (`Value::into_bytes`) and, with their
//! features, `zerocopy` 0.8 and `futures-core` 0.3. Events go to `tracing` 0.1, and figures to `metrics` 0.24.
//!
//! [architecture.md]: https://docs.rs/crate/tailcask/latest/source/docs/architecture.md
//! [comparison.md]: https://docs.rs/crate/tailcask/latest/source/docs/comparison.md
//! [compatibility.md]: https://docs.rs/crate/tailcask/latest/source/docs/compatibility.md
//! [durability.md]: https://docs.rs/crate/tailcask/latest/source/docs/durability.md
//! [faq.md]: https://docs.rs/crate/tailcask/latest/source/docs/faq.md
//! [glossary.md]: https://docs.rs/crate/tailcask/latest/source/docs/glossary.md
//! [metrics.md]: https://docs.rs/crate/tailcask/latest/source/docs/metrics.md
//! [operations.md]: https://docs.rs/crate/tailcask/latest/source/docs/operations.md
//! [store.md]: https://docs.rs/crate/tailcask/latest/source/docs/store.md

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr))]

mod checkpoint;
mod error;
mod format;
mod keydir;
mod latency;
mod log;
#[cfg(feature = "metrics")]
mod metrics;
mod options;
mod position;
mod prefetch;
mod random;
#[cfg(tailcask_shuttle)]
mod scheduled;
mod segment;
mod storage;
mod store;
mod sync;
mod taken;
mod threads;
mod wall_clock;

pub use checkpoint::{Checkpoint, ParseCheckpointError};
#[cfg(feature = "zerocopy")]
pub use error::LayoutError;
pub use error::{
    AppendError, BackupError, CasMismatch, CheckpointError, Conflict, Corruption, CorruptionKind,
    Error, MapFault, MergeError, OpenError, ReadError, RepairError, SyncError, ThreadFailure,
    TruncateError, WriteError,
};
#[cfg(feature = "stream")]
pub use log::EntryStream;
#[cfg(feature = "testing")]
pub use log::FailPoint;
pub use log::{
    BatchWriter, CommitLog, Contradiction, DamagedRange, Distribution, Doubt, Entry, FrameInfo,
    Frames, InDoubt, LogOptions, LogReader, LogSegment, LogStats, LostFrame, LostKind,
    RecoveryReport, SetAside, TruncateReport, UnfinishedAppend, VerifyReport,
};
pub use options::{Durability, Maintenance, RecoveryMode, Retention};
pub use position::{LogPosition, ParsePositionError};
#[cfg(feature = "testing")]
pub use random::seeded::seed_random;
pub use segment::holders::HeldSegment;
#[cfg(feature = "testing")]
pub use storage::simulated::{DiskOperation, Fate, SimulatedDisk, Unsynced};
pub use store::{
    BackupReport, Batch, CacheStats, Change, DamagedSegment, Expected, Expiry, Keys, LatencyStats,
    MergePolicy, MergeReport, MergeTotals, Pair, Pairs, ReadView, SegmentStats, Stats, Store,
    StoreOptions, Ttl, Updated, Value, WriteOptions,
};
#[cfg(feature = "backtraces")]
pub use taken::TakenAt;

/// How to use tailcask well, from the first write to a backup. This is a page, and no module that can be used.
///
/// [readme]: https://docs.rs/crate/tailcask/latest
/// [examples]: crate#more
/// [async]: crate::guide_async
/// [durability]: https://docs.rs/crate/tailcask/latest/source/docs/durability.md
/// [durable-puts]: https://docs.rs/crate/tailcask/latest/source/docs/benchmarks.md
/// [damage]: https://docs.rs/crate/tailcask/latest/source/docs/operations.md
/// [sizing]: https://docs.rs/crate/tailcask/latest/source/docs/operations.md
/// [backup]: https://docs.rs/crate/tailcask/latest/source/docs/operations.md
/// [following]: crate::guide_async#following-a-log
// Of two definitions of a link the first one counts, so these replace those of the file.
#[cfg(doc)]
#[doc = include_str!("../docs/guide.md")]
pub mod guide {}

/// What blocks, durable writes, and following a log in async code. This is a page, and no module that can be used.
///
/// [benchmarks]: https://docs.rs/crate/tailcask/latest/source/docs/benchmarks.md
/// [keydir]: https://docs.rs/crate/tailcask/latest/source/docs/store.md
/// [larger-than-memory]: https://docs.rs/crate/tailcask/latest/source/docs/store.md
/// [guide]: crate::guide#reading-a-log
// Its code, which is tested, needs the feature.
#[cfg(doc)]
#[cfg_attr(any(not(doctest), feature = "stream"), doc = include_str!("../docs/async.md"))]
pub mod guide_async {}
