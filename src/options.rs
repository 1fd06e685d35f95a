//! What a user chooses.

use std::time::Duration;

/// When a write counts as done.
///
/// At every level a write that returned survives the death of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// As soon as it is in the page cache. A power loss drops a suffix of the log, of up to what
    /// the kernel has not written back (on Linux some 30 seconds of writes).
    #[default]
    Buffered,
    /// As [`Buffered`](Self::Buffered), and the log is synced in the background this often: as often as
    /// the device allows for 0, never for periods beyond what a clock can tell.
    Periodic(Duration),
    /// When it is on the device. Concurrent writers share one sync (group commit).
    Synced,
}

/// What opening does about damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryMode {
    /// Damage in the part of the log that is known to be durable is an error, and nothing is
    /// changed.
    #[default]
    Strict,
    /// Take what can be read, and list the rest in the
    /// [`RecoveryReport`](crate::RecoveryReport).
    Salvage,
}

/// Who prepares standby segments, seals full ones, and syncs periodically.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Maintenance {
    /// Threads of the log's own.
    #[default]
    Background,
    /// Nobody: a writer that fills a segment creates the next one, and full segments are sealed
    /// when the program calls `maintain`. For tests, and for programs with threads of their own.
    Manual,
}

pub(crate) const SEGMENT_UNIT: u64 = 2 << 20;
pub(crate) const MAX_SEGMENT: u64 = (4 << 30) - SEGMENT_UNIT;

/// The configuration of a log, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// What segments are multiples of.
    pub(crate) segment_unit: u64,
    pub(crate) segment_size: u64,
    pub(crate) initial_segment_size: u64,
    pub(crate) max_entry_size: u64,
    pub(crate) durability: Durability,
    pub(crate) recovery_mode: RecoveryMode,
    pub(crate) maintenance: Maintenance,
    /// Whether a store may live on it.
    pub(crate) on_store: bool,
    /// Others in the group may write to the directory.
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
            durability: Durability::Buffered,
            recovery_mode: RecoveryMode::Strict,
            maintenance: Maintenance::Background,
            on_store: false,
            shared_directory: false,
            any_file_system: false,
        }
    }
}
