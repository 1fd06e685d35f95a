//! Reproducible randomness.

/// A small generator, so that a failing seed can be named.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 56 random bits (xorshift64*).
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) const fn index(&mut self, len: usize) -> usize {
        (self.next() % len as u64) as usize
    }

    pub(crate) const fn flip(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// How often to repeat a test: `TAILCASK_ROUNDS`, or the default.
pub(crate) fn rounds(default: u64) -> u64 {
    std::env::var("TAILCASK_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}
