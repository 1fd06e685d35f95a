//! The options that the log and the store share.

use std::time::Duration;

/// When a write counts as done.
///
/// At every level an acknowledged write survives the death of the process. The levels differ in what a power
/// loss may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// As soon as it is in the page cache. A power loss may drop a suffix of the log: what the kernel has not
    /// written back yet (on Linux, some 30 seconds of writes).
    #[default]
    Buffered,
    /// As [`Buffered`](Self::Buffered), and the log is synced in the background at this interval: 0 means as
    /// often as the device allows, and an interval too long for the clock means never.
    Periodic(Duration),
    /// Once it is on the device. Concurrent writers share one sync (group commit).
    Synced,
}

/// How opening treats damage.
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

/// Who creates standby segments, seals full ones, syncs periodically, and merges.
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
#[derive(Clone, Copy, Debug)]
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
