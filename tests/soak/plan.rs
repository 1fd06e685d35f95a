//! What is done in a round, drawn by a seed. A seed gives the same plan each time; when exactly a
//! process is killed, and what its threads do until then, is up to the machine.

use crate::common::Random;
use std::time::Duration;
use tailcask::{
    CommitLog, Durability, LogOptions, Maintenance, MergePolicy, Retention, Store, StoreOptions,
};

pub(crate) const SEGMENT: u64 = 2 << 20;
/// Bytes of the log that are kept, at least.
pub(crate) const KEPT: u64 = 8 << 20;

/// How the child ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Killed in the midst of everything.
    Killed,
    /// Killed when all it had begun has ended, and what was held is released.
    KilledAtRest,
    Closed,
}

/// What is done to a copy, which is then repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Flips,
    Zeros,
    CutShort,
    NoSegment,
    NoManifest,
    BadHint,
}

impl Damage {
    pub(crate) const ALL: [Self; 6] = [
        Self::Flips,
        Self::Zeros,
        Self::CutShort,
        Self::NoSegment,
        Self::NoManifest,
        Self::BadHint,
    ];
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) session: u64,
    pub(crate) long: bool,
    pub(crate) load: Duration,
    pub(crate) end: End,
    /// The disk is filled in the middle.
    pub(crate) full: bool,
    /// It is still full when the child is killed, and what is left is read.
    pub(crate) dies_full: bool,
    /// Processes that open what is left, and are killed at that.
    pub(crate) killed_openers: u64,
    pub(crate) backups: u64,
    /// Backups go to another file system.
    pub(crate) backup_elsewhere: bool,
    pub(crate) damage: Option<Damage>,
    /// A process that only reads begins with this round, and ends with the next one.
    pub(crate) follower: bool,
    durability: Durability,
    maintenance: Maintenance,
    small_cache: bool,
    /// The log's own thread drops its beginning, too.
    pub(crate) retention: bool,
}

impl Plan {
    /// The first six rounds have one of everything; the others are drawn.
    pub(crate) fn of(seed: u64, session: u64, long: bool) -> Self {
        let mut random = Random::new(seed << 32 ^ session);
        let mut one_in = |n: u64| random.below(n) == 0;
        let end = match session {
            0 | 4 => End::KilledAtRest,
            2 => End::Closed,
            1 | 3 | 5 => End::Killed,
            _ if one_in(5) => End::Closed,
            _ if one_in(4) => End::KilledAtRest,
            _ => End::Killed,
        };
        let full = if session < 6 { matches!(session, 1 | 4) } else { one_in(4) };
        let dies_full = full && end == End::Killed && (session == 1 || one_in(2));
        let damage = (session < 6 || one_in(2))
            .then(|| Damage::ALL[if session < 6 { session as usize } else { random.index(6) }]);
        let mut one_in = |n: u64| random.below(n) == 0;
        let follower = session == 1 || session > 3 && one_in(3);
        let backup_elsewhere = session == 2 || one_in(3);
        let durability = match random.below(4) {
            0 => Durability::Synced,
            1 => Durability::Periodic(Duration::from_millis(random.below(200))),
            _ => Durability::Buffered,
        };
        let manual = session > 4 && random.below(4) == 0;
        let maintenance = if manual { Maintenance::Manual } else { Maintenance::Background };
        // One round in twelve is long, so that what grows slowly has its time.
        let least = if !long {
            600
        } else if random.below(12) == 0 {
            30_000
        } else {
            1000
        };
        Self {
            seed,
            session,
            long,
            load: Duration::from_millis(least + random.below(least)),
            end,
            full,
            dies_full,
            killed_openers: if end == End::Killed { random.below(3) } else { 0 },
            backups: 1 + random.below(2),
            backup_elsewhere,
            damage,
            follower,
            durability,
            maintenance,
            small_cache: random.below(4) == 0,
            retention: random.flip(),
        }
    }

    pub(crate) fn random(&self, purpose: u64) -> Random {
        Random::new(self.seed.rotate_left(40) ^ self.session << 8 ^ purpose)
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.maintenance == Maintenance::Manual
    }

    pub(crate) fn store(&self) -> StoreOptions {
        let policy = MergePolicy::new().min_dead_bytes(256 << 10);
        let options = Store::options().segment_size(SEGMENT).merge_policy(policy);
        let options = options.durability(self.durability).maintenance(self.maintenance);
        if self.small_cache { options.cache_budget(4 << 20) } else { options }
    }

    pub(crate) fn log(&self) -> LogOptions {
        let options = CommitLog::options().segment_size(SEGMENT);
        let options = options.durability(self.durability).maintenance(self.maintenance);
        if self.retention { options.retention(Retention::new().bytes(KEPT)) } else { options }
    }
}
