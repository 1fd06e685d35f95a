//! What is counted on the way of reads and writes.

use crate::segment::StripedCounter;

/// Every read and every write adds to one of these, so as many threads as usual have a line of each.
type Counter = StripedCounter<64>;

/// Counted by reads.
#[derive(Debug, Default)]
pub(crate) struct ReadCounters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) expired: Counter,
}

impl ReadCounters {
    /// Counts on from what others have counted.
    pub(crate) fn continue_from(&self, others: &Self) {
        self.hits.add(others.hits.get());
        self.misses.add(others.misses.get());
        self.expired.add(others.expired.get());
    }
}

/// Counted by writes.
#[derive(Debug, Default)]
pub(crate) struct WriteCounters {
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
}
