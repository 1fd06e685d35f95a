//! The wall clock, or one that a test sets.

#[cfg(feature = "testing")]
use std::sync::Arc;
#[cfg(feature = "testing")]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of the time of day.
#[derive(Clone, Debug, Default)]
pub(crate) enum WallClock {
    #[default]
    System,
    /// One that a test sets.
    #[cfg(feature = "testing")]
    Set(Arc<AtomicU64>),
}

impl WallClock {
    /// In milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::System => milliseconds(SystemTime::now()),
            // ORDERING: Relaxed; a test's own.
            #[cfg(feature = "testing")]
            Self::Set(time) => time.load(Ordering::Relaxed),
        }
    }
}

/// Milliseconds since 1970; 0 for a time before.
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// The inverse of `milliseconds`; `None` if the system cannot represent it.
pub(crate) fn time_of(milliseconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_and_none_is_too_early_or_too_late() {
        for ms in [0, 1, 1_700_000_000_123, u64::from(u32::MAX) << 12] {
            assert_eq!(milliseconds(time_of(ms).unwrap()), ms);
        }
        assert_eq!(milliseconds(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert!(WallClock::System.now() > 1_700_000_000_000);
    }
}
