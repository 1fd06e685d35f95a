//! What is counted on the way of reads and writes.

use crate::segment::StripedCounter;

/// Counted by reads.
#[derive(Debug, Default)]
pub(crate) struct ReadCounters {
    pub(crate) hits: StripedCounter,
    pub(crate) misses: StripedCounter,
    pub(crate) expired: StripedCounter,
}

/// Counted by writes.
#[derive(Debug, Default)]
pub(crate) struct WriteCounters {
    pub(crate) puts: StripedCounter,
    pub(crate) deletes: StripedCounter,
}
