//! A slot of the keydir, and the shards that slots are spread over.

use crate::position::LogPosition;

/// Each shard is locked, and grows, on its own.
///
/// So many, because all slots of a table are moved when it grows, and the writer whose key does not fit any
/// more waits for that: with 100 million keys a table takes 1.6 MiB, and growing takes about a millisecond.
/// Not more, because the locks should stay in the L2 cache: each takes a line.
pub(super) const SHARDS: usize = if cfg!(tailcask_shuttle) { 4 } else { 1024 };

/// At most this many keys are looked up together, so that their cache misses overlap.
pub(crate) const LOOKUP_BATCH: usize = 32;

/// A key's tag and the position of its newest frame. Packed to 12 bytes, two thirds of an aligned one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, packed(4))]
pub(crate) struct Slot {
    pub(super) tag: u32,
    pub(super) position: u64,
}

impl Slot {
    pub(super) const fn new(tag: u32, position: LogPosition) -> Self {
        Self { tag, position: position.as_u64() }
    }

    pub(super) const fn position(&self) -> LogPosition {
        LogPosition::from_u64(self.position)
    }
}

/// The shard that holds the slots with a tag: its highest bits.
#[inline]
pub(super) const fn shard_of(tag: u32) -> usize {
    (tag >> (32 - SHARDS.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use dashmap::SharedValue;

    #[test]
    fn a_slot_is_twelve_bytes() {
        assert_eq!(size_of::<(Slot, SharedValue<()>)>(), 12);
    }
}
