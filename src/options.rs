//! The options that the log and the store share.

use crate::wall_clock::WallClock;
use std::time::Duration;

/// When a write counts as done.
///
/// At every level an acknowledged write survives the death of the process. The levels differ in what a power
/// loss may take.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("store");
/// use std::time::Duration;
/// use tailcask::{Durability, Store, WriteOptions};
///
/// let second = Durability::Periodic(Duration::from_secs(1));
/// let store = Store::options().durability(second).open(&dir)?;
/// store.put("seen", "now")?; // a power loss takes the last second of such writes at most
/// let synced = WriteOptions::new().durability(Durability::Synced);
/// store.put_with("paid", "yes", &synced)?; // this one is on the device, and all before it
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// As soon as it is in the page cache. A power loss may drop a suffix of the log: what the kernel has not
    /// written back yet (on Linux, some 30 seconds of writes).
    #[default]
    Buffered,
    /// As [`Buffered`](Self::Buffered), and the log is synced in the background at this interval: 0 means as
    /// often as the device allows, and an interval too long for the clock means never. With
    /// [`Maintenance::Manual`], [`maintain`](crate::CommitLog::maintain) syncs. It is an option of the whole
    /// log; of a single write it is the same as `Buffered`.
    Periodic(Duration),
    /// Once it is on the device. Concurrent writers share one sync (group commit). A write that finds nothing
    /// to do, such as a delete of a key that has no value, counts as done once what it found is on the device.
    Synced,
}

/// How opening treats damage.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("store");
/// use tailcask::{RecoveryMode, Store};
///
/// let store = Store::options().recovery_mode(RecoveryMode::Salvage).open(&dir)?;
/// for lost in &store.recovery().gone {
///     println!("{lost}");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryMode {
    /// Damage in the part of the log that is known to be durable is an error, and nothing is changed.
    #[default]
    Strict,
    /// Takes everything that can be read, and lists the rest in the
    /// [`RecoveryReport`](crate::RecoveryReport).
    Salvage,
}

/// Who creates standby segments, seals full ones, syncs periodically, and merges. See
/// [`CommitLog::maintain`](crate::CommitLog::maintain) for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Maintenance {
    /// Background threads of the log and the store.
    #[default]
    Background,
    /// No threads: a writer that fills a segment creates the next one, and the rest is done when the program
    /// calls `maintain`. For tests, and for programs that use their own threads.
    Manual,
}

/// How much of a log is kept: what is not among its newest bytes, or not young enough, is dropped, by
/// whole segments, the oldest first. If both are set, either is enough to drop it.
///
/// ```
/// # use std::time::Duration;
/// use tailcask::{CommitLog, Retention};
///
/// // A week, but not more than about 100 GiB.
/// let retention = Retention::new().age(Duration::from_secs(7 * 86_400)).bytes(100 << 30);
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("log");
/// let log = CommitLog::options().retention(retention).open(&dir)?; // in the background
/// let dropped = log.retain(retention)?; // or by hand
/// assert_eq!((dropped.segments, dropped.begin), (0, log.begin()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Retention {
    pub(crate) bytes: Option<u64>,
    pub(crate) age: Option<Duration>,
}

impl Retention {
    /// Everything is kept.
    pub const fn new() -> Self {
        Self { bytes: None, age: None }
    }

    /// Drops a segment once those after it hold this many bytes of frames. So at least the newest `bytes`
    /// bytes are kept, and at most one segment more, besides the space that is allocated ahead.
    pub const fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Drops a segment once it was sealed longer ago than this, by the wall clock, in milliseconds: then
    /// everything in it is older. If the clock is set ahead, what seems to be older goes, too.
    pub const fn age(mut self, age: Duration) -> Self {
        self.age = Some(age);
        self
    }
}

/// Whether opening for writing creates a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Creation {
    /// If there is none.
    #[default]
    Allowed,
    /// Never: without a log, opening fails.
    Never,
    /// Always: with a log, opening fails.
    Required,
}

pub(crate) const SEGMENT_UNIT: u64 = 2 << 20;
pub(crate) const MAX_SEGMENT: u64 = (4 << 30) - SEGMENT_UNIT;

/// The validated configuration of a log.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Segment sizes are multiples of this.
    pub(crate) segment_unit: u64,
    pub(crate) segment_size: u64,
    pub(crate) initial_segment_size: u64,
    pub(crate) max_entry_size: u64,
    /// Whether opening creates a log where there is none.
    pub(crate) create: bool,
    /// Whether opening has to create it; then `create` does not count.
    pub(crate) create_new: bool,
    pub(crate) durability: Durability,
    pub(crate) recovery_mode: RecoveryMode,
    pub(crate) maintenance: Maintenance,
    /// Whether the log of a store may be opened.
    pub(crate) on_store: bool,
    /// Whether members of the group may own and write to the directory.
    pub(crate) shared_directory: bool,
    pub(crate) any_file_system: bool,
    /// Whether an access to a mapped file that fails is an error.
    pub(crate) catch_sigbus: bool,
    /// What is dropped in the background.
    pub(crate) retention: Option<Retention>,
    pub(crate) clock: WallClock,
    /// One operation in so many is timed; 0: none.
    pub(crate) latency_sampling: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_unit: SEGMENT_UNIT,
            segment_size: 64 << 20,
            initial_segment_size: SEGMENT_UNIT,
            max_entry_size: 1 << 30,
            create: true,
            create_new: false,
            durability: Durability::Buffered,
            recovery_mode: RecoveryMode::Strict,
            maintenance: Maintenance::Background,
            on_store: false,
            shared_directory: false,
            any_file_system: false,
            catch_sigbus: false,
            retention: None,
            clock: WallClock::System,
            latency_sampling: 0,
        }
    }
}

impl Config {
    pub(crate) const fn creation(&self) -> Creation {
        match (self.create_new, self.create) {
            (true, _) => Creation::Required,
            (false, true) => Creation::Allowed,
            (false, false) => Creation::Never,
        }
    }
}
