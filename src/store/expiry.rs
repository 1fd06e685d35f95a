//! When values expire.

use crate::format::record::NEVER;
use crate::wall_clock::WallClock;
use std::time::Duration;

impl WallClock {
    /// The expiry of a value written now. `None`: it would never be there.
    pub(crate) fn expiry_after(&self, ttl: Duration) -> Option<u64> {
        let ms = ttl.as_nanos().div_ceil(1_000_000);
        (ms > 0).then(|| self.now().saturating_add(u64::try_from(ms).unwrap_or(NEVER)))
    }

    /// What is left of a value's life. `None`: it has expired.
    pub(crate) fn remaining(&self, expiry: Option<u64>) -> Option<Expiry> {
        match expiry {
            None | Some(NEVER) => Some(Expiry::Never),
            Some(at) => {
                let left = at.checked_sub(self.now()).filter(|&left| left > 0);
                left.map(|left| Expiry::In(Duration::from_millis(left)))
            }
        }
    }
}

/// When a value expires; see [`Store::ttl`](super::Store::ttl).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// It does not.
    Never,
    /// In this time, by the wall clock, in milliseconds.
    In(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_rounded_up_and_never_zero() {
        let clock = WallClock::System;
        let now = clock.now();
        assert_eq!(clock.expiry_after(Duration::ZERO), None);
        let after = |ttl| clock.expiry_after(ttl).unwrap();
        assert!(after(Duration::from_nanos(1)) > now);
        assert!(after(Duration::from_micros(1001)) >= now + 2);
        assert_eq!(after(Duration::MAX), NEVER);
        assert_eq!(clock.remaining(Some(NEVER)), Some(Expiry::Never));
        assert_eq!(clock.remaining(None), Some(Expiry::Never));
        assert_eq!(clock.remaining(Some(now)), None);
        let left = clock.remaining(Some(now + 60_000));
        assert!(matches!(left, Some(Expiry::In(left)) if left <= Duration::from_secs(60)));
    }
}
