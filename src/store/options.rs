//! The options of a store, and of a single write.

use super::merge::policy::MergePolicy;
use crate::error::OpenError;
use crate::keydir::Keydir;
use crate::log::LogOptions;
use crate::options::{Durability, Maintenance, RecoveryMode};
use crate::segment::cold::FollowedMemory;
use crate::segment::set::SegmentSet;
use std::time::Duration;

/// How a store is opened: set what should differ from the defaults, then call [`open`](Self::open).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("store");
/// use std::time::Duration;
/// use tailcask::{Durability, MergePolicy, Store};
///
/// let store = Store::options()
///     .durability(Durability::Periodic(Duration::from_millis(100)))
///     .cache_budget(1 << 30)
///     .max_value_size(1 << 20)
///     .merge_policy(MergePolicy::new().space_goal(1.5))
///     .open(&dir)?;
/// store.put("key", "value")?;
///
/// let beside = Store::options().verify_on_read(false).open_read_only(&dir)?;
/// assert_eq!(beside.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct StoreOptions {
    pub(super) log: LogOptions,
    pub(super) recovery_mode: RecoveryMode,
    pub(super) verify: bool,
    pub(super) max_value: u64,
    pub(super) merge_policy: MergePolicy,
    pub(super) tag_bits: u32,
    pub(super) cache_budget: Option<u64>,
    /// Bits used of the first half of names. All, except in tests.
    pub(super) first_half_bits: u32,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            log: LogOptions::default().on_store(true),
            recovery_mode: RecoveryMode::default(),
            verify: true,
            max_value: 1 << 30,
            merge_policy: MergePolicy::default(),
            tag_bits: 32,
            cache_budget: None,
            first_half_bits: 64,
        }
    }
}

impl StoreOptions {
    /// As [`LogOptions::segment_size`].
    pub fn segment_size(mut self, bytes: u64) -> Self {
        self.log = self.log.segment_size(bytes);
        self
    }

    /// As [`LogOptions::initial_segment_size`].
    pub fn initial_segment_size(mut self, bytes: u64) -> Self {
        self.log = self.log.initial_segment_size(bytes);
        self
    }

    /// As [`LogOptions::create`].
    pub fn create(mut self, create: bool) -> Self {
        self.log = self.log.create(create);
        self
    }

    /// As [`LogOptions::create_new`].
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.log = self.log.create_new(create_new);
        self
    }

    /// When a write counts as done. Default [`Durability::Buffered`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.log = self.log.durability(durability);
        self
    }

    /// How opening treats damage. Default [`RecoveryMode::Strict`].
    pub fn recovery_mode(mut self, mode: RecoveryMode) -> Self {
        self.log = self.log.recovery_mode(mode);
        self.recovery_mode = mode;
        self
    }

    /// Who does the maintenance. Default [`Maintenance::Background`].
    pub fn maintenance(mut self, maintenance: Maintenance) -> Self {
        self.log = self.log.maintenance(maintenance);
        self
    }

    /// As [`LogOptions::shared_directory`].
    pub fn shared_directory(mut self, shared: bool) -> Self {
        self.log = self.log.shared_directory(shared);
        self
    }

    /// As [`LogOptions::any_file_system`].
    pub fn any_file_system(mut self, any: bool) -> Self {
        self.log = self.log.any_file_system(any);
        self
    }

    /// As [`LogOptions::catch_sigbus`], for a [`ReadView`](super::ReadView), too. Without
    /// [`verify_on_read`](Self::verify_on_read) a value that cannot be read is zeros, and no error.
    pub fn catch_sigbus(mut self, catch: bool) -> Self {
        self.log = self.log.catch_sigbus(catch);
        self
    }

    /// Measures how long operations take: one in so many, at random, 1 for each of them. Default 0: none.
    /// See [`Stats::latency`](crate::Stats::latency); what it costs is in
    /// [metrics.md](https://docs.rs/crate/tailcask/latest/source/docs/metrics.md).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use tailcask::Store;
    ///
    /// let store = Store::options().latency_sampling(1).open(dir.path().join("store"))?;
    /// store.put("colour", "green")?;
    /// assert_eq!(store.stats().latency.put.count, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn latency_sampling(mut self, one_in: u32) -> Self {
        self.log = self.log.latency_sampling(one_in);
        self
    }

    /// Whether reads verify the checksum of the value. Default true. Without it, damage to a value goes
    /// unnoticed until [`Store::verify`](super::Store::verify) or a merge reads it.
    pub const fn verify_on_read(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// How many bytes of full segments are expected to fit into memory. Default: the memory that is
    /// available to this process, on the machine and in its control groups, less a sixteenth and four
    /// segments; it is looked at every second. Several large stores in one process, each of which would
    /// expect all of it, need to be told.
    ///
    /// Below the budget the operating system reads a stretch of the file around each value that is
    /// missing, so that everything is soon in memory. Beyond it the store is cold: only what is asked for
    /// is read, and scans, merges and verification read ahead for themselves. While the live bytes fit
    /// well, the store merges so that all of it does. The budget reserves nothing; see
    /// [`Store::set_cache_budget`](super::Store::set_cache_budget) to change it later.
    pub const fn cache_budget(mut self, bytes: u64) -> Self {
        self.cache_budget = Some(bytes);
        self
    }

    /// Gives segments the budget, or has it follow the memory that there is, where a writer makes others of
    /// that size, or none.
    pub(super) fn budget_for(&self, segments: &SegmentSet, segment_size: u64) {
        match self.cache_budget {
            Some(bytes) => segments.set_cache_budget(bytes),
            None => segments.follow_memory(FollowedMemory::of_process(segment_size)),
        }
    }

    /// The largest value in bytes. Default 1 GiB; at most 4 GiB less 4 MiB.
    pub const fn max_value_size(mut self, bytes: u64) -> Self {
        self.max_value = bytes;
        self
    }

    /// When the store merges in the background, and how much of the machine it may use.
    pub const fn merge_policy(mut self, policy: MergePolicy) -> Self {
        self.merge_policy = policy;
        self
    }

    /// An empty keydir, whose hashes depend on the store's secret.
    pub(super) fn keydir(&self, secret: [u8; 16]) -> Keydir {
        let keydir = Keydir::new(secret, self.tag_bits);
        if self.first_half_bits < 64 {
            return keydir.with_bits_of_first_half(self.first_half_bits);
        }
        keydir
    }

    /// Validates the options, before anything is opened or changed.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        // A frame holds header, expiry, key and value, and a segment has a head.
        const MAX: u64 = (4 << 30) - (4 << 20);
        if self.max_value > MAX {
            let (option, value) = ("max_value_size", self.max_value);
            return Err(OpenError::Option { option, value, range: "at most 4 GiB less 4 MiB" });
        }
        if !(1..=32).contains(&self.tag_bits) {
            let (option, value) = ("tag_bits", u64::from(self.tag_bits));
            return Err(OpenError::Option { option, value, range: "from 1 to 32" });
        }
        self.merge_policy.validate(self.log.check()?.segment_size)
    }
}

/// What a put does to the time to live of a key: the time after which its value expires, by the wall clock,
/// in milliseconds. A part of a millisecond counts as a whole one; zero is an error, and
/// [`Duration::MAX`] is the same as none. See [`Store::ttl`](super::Store::ttl) for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ttl {
    /// The value expires when the one before would have. If there was none, or it did not expire, this one
    /// does not either.
    Keep,
    /// The value expires after this time.
    Set(Duration),
    /// The value does not expire.
    Remove,
}

impl From<Duration> for Ttl {
    fn from(ttl: Duration) -> Self {
        Self::Set(ttl)
    }
}

/// Options of a single write.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let store = tailcask::Store::open(dir.path().join("store"))?;
/// use std::time::Duration;
/// use tailcask::{Durability, WriteOptions};
///
/// let for_a_minute = WriteOptions::new().ttl(Duration::from_secs(60));
/// store.put_if_absent_with("session", "ann", &for_a_minute)?;
/// // Durable when it returns, and still gone after that minute: a swap keeps the TTL.
/// let durable = WriteOptions::new().durability(Durability::Synced);
/// store.compare_and_swap_with("session", Some(b"ann"), Some(b"bob"), &durable)??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct WriteOptions {
    pub(super) durability: Option<Durability>,
    pub(super) ttl: Option<Ttl>,
}

impl WriteOptions {
    /// The store's default durability, and what is usual for the TTL: `put` and `put_if_absent` set values
    /// that do not expire; `compare_and_swap`, `update` and `try_update` keep the TTL that there is; in a
    /// batch each put has its own. A delete has no use for a TTL; one of zero is an error in every form
    /// ([`WriteError::ZeroTtl`](crate::WriteError::ZeroTtl)).
    pub const fn new() -> Self {
        Self { durability: None, ttl: None }
    }

    /// When this write counts as done. Here [`Durability::Periodic`] is the same as
    /// [`Durability::Buffered`]: the interval is that of the whole store.
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// The time after which the value expires: [`Ttl::Set`].
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(Ttl::Set(ttl));
        self
    }

    /// The value expires when the one before would have: [`Ttl::Keep`].
    pub const fn keep_ttl(mut self) -> Self {
        self.ttl = Some(Ttl::Keep);
        self
    }

    /// The value does not expire: [`Ttl::Remove`].
    pub const fn no_ttl(mut self) -> Self {
        self.ttl = Some(Ttl::Remove);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SimulatedDisk, Store};

    /// The error names the value, and nothing was opened or created.
    #[test]
    fn a_bad_merge_policy_is_refused_before_anything_is_opened() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("store");
        let options = StoreOptions::default().merge_policy(MergePolicy::new().dead_ratio(1.5));
        let message = "dead_ratio is 1.5, but must be above 0 and at most 1";
        assert_eq!(options.open(&dir).unwrap_err().to_string(), message);
        assert!(!dir.exists());
        let disk = SimulatedDisk::new();
        assert_eq!(options.open_simulated(&disk).unwrap_err().to_string(), message);
        assert!(disk.files().is_empty());
        // What is there already is not recovered first, either.
        Store::open(&dir).unwrap().close().unwrap();
        std::fs::write(dir.join("MANIFEST"), b"damaged").unwrap();
        assert_eq!(options.open(&dir).unwrap_err().to_string(), message);
    }
}
