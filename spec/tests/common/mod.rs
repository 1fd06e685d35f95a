//! What the tests share.

#![allow(dead_code, reason = "each test is a crate of its own and uses a part")]

use spec::log::LogSpec;
use spec::merge::MergeSpec;

/// Segments of three words: two entries of one word, or one of two and one of one, fill one.
pub(crate) const LOG: LogSpec = LogSpec {
    flaw: None,
    capacity: 3,
    mark: 1,
    lens: [1, 2],
    writers: 1,
    entries: 3,
    segments: 2,
    syncs: 1,
    crashes: 1,
};

pub(crate) const MERGE: MergeSpec =
    MergeSpec { flaw: None, keys: 2, writes: 3, segments: 4, merges: 1, crashes: 1 };

/// How often to repeat a test: `TAILCASK_ROUNDS`, or the default.
pub(crate) fn rounds(default: u64) -> u64 {
    std::env::var("TAILCASK_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

pub(crate) fn is_long() -> bool {
    rounds(1) > 1
}

/// A small generator (xorshift64*), so that a failing seed can be named.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
