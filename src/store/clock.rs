//! The clock by which values expire.

#[cfg(feature = "testing")]
use std::sync::Arc;
#[cfg(feature = "testing")]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A store's source of time.
#[derive(Clone, Debug, Default)]
pub(crate) enum Clock {
    #[default]
    System,
    /// One that a test sets.
    #[cfg(feature = "testing")]
    Set(Arc<AtomicU64>),
}

impl Clock {
    /// In milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                since.map_or(0, |time| time.as_millis() as u64)
            }
            // ORDERING: Relaxed; a test's own.
            #[cfg(feature = "testing")]
            Self::Set(time) => time.load(Ordering::Relaxed),
        }
    }

    /// The expiry of a value written now.
    pub(crate) fn expiry_after(&self, ttl: Duration) -> u64 {
        self.now().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
    }
}
