//! How a log is opened: the options and their limits.

use crate::error::OpenError;
use crate::options::{
    Config, Creation, Durability, MAX_SEGMENT, Maintenance, RecoveryMode, Retention, SEGMENT_UNIT,
};
use crate::storage::dir::{Directory, TrustRules};
use crate::wall_clock::WallClock;
use std::path::Path;

/// How a log is opened: set what should differ from the defaults, then call [`open`](Self::open).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("log");
/// use std::time::Duration;
/// use tailcask::{CommitLog, Durability};
///
/// let log = CommitLog::options()
///     .segment_size(16 << 20)
///     .durability(Durability::Periodic(Duration::from_millis(100)))
///     .open(&dir)?;
/// log.append(b"entry")?;
///
/// let beside = CommitLog::options().open_read_only(&dir)?;
/// assert!(beside.reader().next_entry()?.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`Store::repair`](crate::Store::repair) and `SimulatedDisk` (feature `testing`) have examples of the other
/// ways to open.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct LogOptions {
    pub(super) config: Config,
}

impl LogOptions {
    /// Size of segments in bytes: a multiple of 2 MiB, at most 4 GiB less 2 MiB. Default 64 MiB. A
    /// larger entry gets a segment of its own.
    pub fn segment_size(mut self, bytes: u64) -> Self {
        self.config.segment_size = bytes;
        self
    }

    /// Size of an empty log's first segment in bytes, a multiple of 2 MiB. Default 2 MiB. Each later
    /// segment is twice as large as the one before (eight times, if a writer had to wait for it), up to
    /// [`segment_size`](Self::segment_size).
    pub fn initial_segment_size(mut self, bytes: u64) -> Self {
        self.config.initial_segment_size = bytes;
        self
    }

    /// The largest entry in bytes. Default 1 GiB; at most 4 GiB less 4 MiB.
    pub fn max_entry_size(mut self, bytes: u64) -> Self {
        self.config.max_entry_size = bytes;
        self
    }

    /// Whether opening for writing creates the log, and its directory, where there is none. Default true.
    /// If false, opening a log that does not exist is [`OpenError::NotFound`], and nothing is created; a
    /// store is [`OpenError::NotAStore`] if there is a log without one.
    pub fn create(mut self, create: bool) -> Self {
        self.config.create = create;
        self
    }

    /// Whether opening for writing has to create the log: if there is one already, that is
    /// [`OpenError::Exists`], and it stays as it is. Of several that try at the same time, one succeeds.
    /// An empty directory may exist. If true, [`create`](Self::create) does not count. Default false.
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.config.create_new = create_new;
        self
    }

    /// When an append counts as done. Default [`Durability::Buffered`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.config.durability = durability;
        self
    }

    /// How opening treats damage. Default [`RecoveryMode::Strict`].
    pub fn recovery_mode(mut self, mode: RecoveryMode) -> Self {
        self.config.recovery_mode = mode;
        self
    }

    /// Who does the maintenance. Default [`Maintenance::Background`].
    pub fn maintenance(mut self, maintenance: Maintenance) -> Self {
        self.config.maintenance = maintenance;
        self
    }

    /// Accepts directories and files that other members of their group may own and write to, as on a
    /// volume that a group shares (mode 2775), and creates new ones with mode 0770 and 0660, whatever the
    /// umask is. New files get the group of the directory if that has the set-group-id bit, and else that
    /// of the process. Backups and repaired copies are private nevertheless. Default false: they must belong
    /// to this process's user, or root, and nobody else may write to them.
    ///
    /// While a log is open, nothing but the log may change its files. Normally nobody else can, which
    /// makes opening safe. With this option safety depends on the members of the group: they must not
    /// write to the files or truncate them.
    pub fn shared_directory(mut self, shared: bool) -> Self {
        self.config.shared_directory = shared;
        self
    }

    /// Opens a log for writing on any file system. Default false: only on ext2, ext3, ext4, xfs, tmpfs
    /// and ramfs, and on overlays.
    ///
    /// Other file systems write to a new place even if the file is preallocated (btrfs, zfs, bcachefs,
    /// f2fs), or keep the file on another machine (nfs, 9p, fuse). On a full disk, or without a
    /// connection, a write to a mapped file then kills the process with SIGBUS. That loses nothing that
    /// was acknowledged, provided that the file system's fsync is honest.
    pub fn any_file_system(mut self, any: bool) -> Self {
        self.config.any_file_system = any;
        self
    }

    /// Makes errors of accesses to mapped files that fail, instead of the SIGBUS that kills the process:
    /// because somebody has cut a file short, because its medium fails, or because a disk is full on a file
    /// system that copies on write. A read gives [`ReadError::Corrupt`](crate::ReadError::Corrupt) of the kind
    /// [`Inaccessible`](crate::CorruptionKind::Inaccessible), which names segment and offset; and writes are
    /// refused from then on with a [`MapFault`](crate::MapFault). No write is acknowledged whose bytes did not
    /// get to the file's pages. Default false.
    ///
    /// The first handle that is opened so installs a signal handler for the whole process, for good. Handlers
    /// that were there before get what is no access to a file of such a handle, and those installed later have
    /// to pass on what is not theirs. **Values and entries that you already have may change** to zeros, when
    /// their page cannot be read any more: nothing can tell their holder. What else it does and does not do is
    /// in [durability.md](https://docs.rs/crate/tailcask/latest/source/docs/durability.md). Linux only:
    /// elsewhere opening fails.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path().join("log");
    /// use tailcask::{CommitLog, ReadError};
    ///
    /// let log = CommitLog::options().catch_sigbus(true).open(&dir)?;
    /// let position = log.append(&[7; 100_000])?;
    /// # let name = format!("{:020}.seg", position.segment());
    /// let file = std::fs::File::options().write(true).open(dir.join(name))?;
    /// file.set_len(50_000)?; // as something does that should not
    /// let Err(ReadError::Corrupt(damage)) = log.read(position) else { panic!("it is not there") };
    /// println!("{damage}");
    /// assert!(log.append(b"more").is_err());
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn catch_sigbus(mut self, catch: bool) -> Self {
        self.config.catch_sigbus = catch;
        self
    }

    /// Allows opening the log of a store for appending, which is refused otherwise. Merges leave
    /// segments alone that hold plain entries, so the dead space beside these is never reclaimed.
    /// Default false.
    pub fn on_store(mut self, allowed: bool) -> Self {
        self.config.on_store = allowed;
        self
    }

    /// Drops old segments in the background, soon after they have been sealed or have become old enough.
    /// (With [`Maintenance::Manual`], [`CommitLog::maintain`](crate::CommitLog::maintain) does.) Readers
    /// that are still there get [`ReadError::Truncated`](crate::ReadError::Truncated). Default: nothing is
    /// dropped. The log of a store cannot have one: its values may be anywhere.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.config.retention = Some(retention);
        self
    }

    /// Measures how long appends take: one in so many, at random, 1 for each of them. Default 0: none. See
    /// [`LogStats::append_latency`](crate::LogStats::append_latency). What it
    /// costs is in [metrics.md](https://docs.rs/crate/tailcask/latest/source/docs/metrics.md).
    pub fn latency_sampling(mut self, one_in: u32) -> Self {
        self.config.latency_sampling = one_in;
        self
    }

    pub(crate) fn check(&self) -> Result<Config, OpenError> {
        let mut config = self.config.clone();
        let range = "a multiple of 2 MiB, from 2 MiB to 4 GiB less 2 MiB";
        for (option, value) in [
            ("segment_size", config.segment_size),
            ("initial_segment_size", config.initial_segment_size),
        ] {
            if value == 0 || value % config.segment_unit != 0 || value > MAX_SEGMENT {
                return Err(OpenError::Option { option, value, range });
            }
        }
        if config.max_entry_size > MAX_SEGMENT - SEGMENT_UNIT {
            let (option, value) = ("max_entry_size", config.max_entry_size);
            return Err(OpenError::Option { option, value, range: "at most 4 GiB less 4 MiB" });
        }
        config.initial_segment_size = config.initial_segment_size.min(config.segment_size);
        Ok(config)
    }

    /// Opens the directory of a log for reading.
    pub(crate) fn directory(&self, dir: &Path) -> Result<Directory, OpenError> {
        Directory::open_to_read(dir, rules(&self.check()?))
    }

    pub(crate) const fn creation(&self) -> Creation {
        self.config.creation()
    }

    pub(crate) fn wall_clock(&self) -> WallClock {
        self.config.clock.clone()
    }
}

/// Whose files are trusted.
pub(super) fn rules(config: &Config) -> TrustRules {
    TrustRules {
        shared: config.shared_directory,
        any_file_system: config.any_file_system,
        catch_sigbus: config.catch_sigbus,
    }
}
