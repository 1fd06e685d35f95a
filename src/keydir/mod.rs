//! The keydir: where each key's newest frame is, without the key.
//!
//! A slot is a 32-bit tag of the key's hash and the position of its frame, 12 bytes; whether a slot
//! with the right tag is the key's is told by the caller, who compares the key in the mapped frame.
//! So keys of any length cost the same, and equal tags never make keys one.
//!
//! It is a `DashMap` used through its raw API: the table hashes slots by their tag, so that it can
//! grow without looking at frames.

use crate::position::LogPosition;
use crate::prefetch::prefetch;
use dashmap::{DashMap, SharedValue};
use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use std::hash::BuildHasher;

/// Packed to 12 bytes: two thirds of what an aligned one takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, packed(4))]
struct Slot {
    tag: u32,
    position: u64,
}

/// Asks for the control bytes and the slot where a table's probe for a hash begins.
macro_rules! prefetch_slot {
    ($table:expr, $hash:expr) => {{
        // hashbrown lays the slots out downward from where the control bytes begin.
        let (control, first) = ($table.data_end(), $hash as usize & ($table.buckets() - 1));
        prefetch(control.as_ptr().cast::<u8>().wrapping_add(first));
        // A slot is where its probe begins or a few further on, in this line or the next.
        prefetch(control.as_ptr().wrapping_sub(first + 1));
        prefetch(control.as_ptr().wrapping_sub(first + 5));
    }};
}

/// What becomes of a key's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Keep,
    Set(LogPosition),
    Remove,
}

pub(crate) struct Keydir {
    map: DashMap<Slot, ()>,
    hasher: SeedableRandomState,
    /// Bits of the tag that are used: fewer only in tests, to make keys collide.
    mask: u32,
}

impl Keydir {
    /// A keydir whose hashes depend on `seed`, with tags of so many bits.
    pub(crate) fn new(seed: u64, bits: u32) -> Self {
        let hasher = SeedableRandomState::with_seed(seed, SharedSeed::global_random());
        Self { map: DashMap::new(), hasher, mask: u32::MAX >> (32 - bits) }
    }

    /// The tag of a key.
    pub(crate) fn tag(&self, key: &[u8]) -> u32 {
        self.hasher.hash_one(key) as u32 & self.mask
    }

    fn shard(&self, tag: u32) -> usize {
        self.map.determine_shard(spread(tag) as usize)
    }

    /// Looks a key up, and calls `found` with its position while its shard is locked for reading.
    pub(crate) fn get<R>(
        &self,
        tag: u32,
        mut is: impl FnMut(LogPosition) -> bool,
        found: impl FnOnce(LogPosition) -> R,
    ) -> Option<R> {
        let shard = self.map.shards()[self.shard(tag)].read();
        prefetch_slot!(shard, spread(tag));
        let (slot, _) = shard.get(spread(tag), |(slot, _)| slot.tag == tag && is(slot.at()))?;
        Some(found(slot.at()))
    }

    /// Looks up many keys in step, so that their cache misses overlap. As `get` for each: `is` and
    /// `found` get the index of the tag. `likely` is told beforehand which positions `is` will be
    /// asked about.
    pub(crate) fn get_all(
        &self,
        tags: &[u32],
        mut likely: impl FnMut(LogPosition),
        mut is: impl FnMut(usize, LogPosition) -> bool,
        mut found: impl FnMut(usize, LogPosition),
    ) {
        let mut shards: Vec<_> = tags.iter().map(|&tag| self.shard(tag)).collect();
        shards.sort_unstable();
        shards.dedup();
        let locked: Vec<_> = shards.iter().map(|&at| self.map.shards()[at].read()).collect();
        let place = |tag| shards.binary_search(&self.shard(tag)).expect("its shard is locked");
        tags.iter().for_each(|&tag| prefetch_slot!(locked[place(tag)], spread(tag)));
        for &tag in tags {
            let slot = locked[place(tag)].get(spread(tag), |(slot, _)| slot.tag == tag);
            slot.into_iter().for_each(|(slot, _)| likely(slot.at()));
        }
        for (index, &tag) in tags.iter().enumerate() {
            let is = |(slot, _): &(Slot, _)| slot.tag == tag && is(index, slot.at());
            let slot = locked[place(tag)].get(spread(tag), is);
            slot.into_iter().for_each(|(slot, _)| found(index, slot.at()));
        }
    }

    /// Calls `decide` with a key's position, if it has one, while its shard is locked for writing,
    /// and does as it says. Neither closure may use the keydir.
    pub(crate) fn change<R>(
        &self,
        tag: u32,
        mut is: impl FnMut(LogPosition) -> bool,
        decide: impl FnOnce(Option<LogPosition>) -> (Change, R),
    ) -> R {
        let mut shard = self.map.shards()[self.shard(tag)].write();
        let hash = spread(tag);
        let old = shard.get(hash, |(slot, _)| slot.tag == tag && is(slot.at()));
        let old = old.map(|(slot, _)| *slot);
        let (change, result) = decide(old.map(|slot| slot.at()));
        // The slot itself is looked for now, which is exact: no two have the same position.
        match (change, old) {
            (Change::Keep, _) | (Change::Remove, None) => {}
            (Change::Set(position), Some(old)) => {
                let place = shard.get_mut(hash, |(slot, _)| *slot == old);
                place.expect("it was there").0.position = position.as_u64();
            }
            (Change::Set(position), None) => {
                let slot = Slot { tag, position: position.as_u64() };
                let value = (slot, SharedValue::new(()));
                shard.insert(hash, value, |(slot, _)| spread(slot.tag));
            }
            (Change::Remove, Some(old)) => {
                shard.remove_entry(hash, |(slot, _)| *slot == old);
            }
        }
        result
    }

    /// Calls `decide` while the shards of all tags are locked for writing, and does as it says, one
    /// change for each tag, in order. `is` tells whether the frame at a position has the key of the
    /// tag with that index; `likely` is told beforehand which positions it will be asked about.
    /// `None` changes nothing.
    pub(crate) fn change_all<E>(
        &self,
        tags: &[u32],
        mut likely: impl FnMut(LogPosition),
        mut is: impl FnMut(usize, LogPosition) -> bool,
        decide: impl FnOnce() -> Result<Option<Vec<Change>>, E>,
    ) -> Result<bool, E> {
        let mut shards: Vec<_> = tags.iter().map(|&tag| self.shard(tag)).collect();
        // In one order, so that no two callers wait for each other.
        shards.sort_unstable();
        shards.dedup();
        let mut locked: Vec<_> = shards.iter().map(|&at| self.map.shards()[at].write()).collect();
        let place = |tag| shards.binary_search(&self.shard(tag)).expect("its shard is locked");
        tags.iter().for_each(|&tag| prefetch_slot!(locked[place(tag)], spread(tag)));
        for &tag in tags {
            let found = locked[place(tag)].get(spread(tag), |(slot, _)| slot.tag == tag);
            found.into_iter().for_each(|(slot, _)| likely(slot.at()));
        }
        let Some(changes) = decide()? else { return Ok(false) };
        for (index, (&tag, change)) in tags.iter().zip(changes).enumerate() {
            let (shard, hash) = (&mut locked[place(tag)], spread(tag));
            let old = shard.get(hash, |(slot, _)| slot.tag == tag && is(index, slot.at()));
            let old = old.map(|(slot, _)| *slot);
            if let Some(old) = old {
                shard.remove_entry(hash, |(slot, _)| *slot == old);
            }
            if let Change::Set(position) = change {
                let slot = Slot { tag, position: position.as_u64() };
                let value = (slot, SharedValue::new(()));
                shard.insert(hash, value, |(slot, _)| spread(slot.tag));
            }
        }
        Ok(true)
    }

    pub(crate) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    pub(crate) fn shards(&self) -> usize {
        self.map.shards().len()
    }

    /// The positions in a shard, in order.
    #[allow(unsafe_code, reason = "hashbrown's raw iterator")]
    pub(crate) fn positions(&self, shard: usize) -> Vec<LogPosition> {
        let shard = self.map.shards()[shard].read();
        // SAFETY: the table is locked for as long as the iterator is used.
        let buckets = unsafe { shard.iter() };
        let position = |bucket: &(Slot, SharedValue<()>)| bucket.0.at();
        // SAFETY: each bucket is full, and nothing is removed meanwhile.
        let mut all: Vec<_> = buckets.map(|bucket| position(unsafe { bucket.as_ref() })).collect();
        all.sort_unstable();
        all
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> u64 {
        let slot = size_of::<(Slot, SharedValue<()>)>() as u64 + 1;
        self.map.shards().iter().map(|shard| shard.read().buckets() as u64 * slot).sum()
    }
}

impl Slot {
    fn at(&self) -> LogPosition {
        LogPosition::from_u64(self.position)
    }
}

/// 64 bits for the table, which takes its shard and its own tag from high ones and its index from
/// low ones.
fn spread(tag: u32) -> u64 {
    let product = u64::from(tag | 1 << 31).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(tag);
    product ^ product >> 29
}

impl std::fmt::Debug for Keydir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keydir").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_twelve_bytes() {
        assert_eq!(size_of::<(Slot, SharedValue<()>)>(), 12);
    }

    #[test]
    fn equal_tags_do_not_make_keys_one() {
        let keydir = Keydir::new(7, 2);
        let position = |n: u32| LogPosition::new(1, 128 + n * 8);
        for n in 0..100 {
            let tag = keydir.tag(&[n as u8]);
            let set = |old: Option<_>| (Change::Set(position(n)), old.is_none());
            assert!(keydir.change(tag, |at| at == position(n), set));
        }
        assert_eq!(keydir.len(), 100);
        for n in 0..100 {
            let tag = keydir.tag(&[n as u8]);
            assert_eq!(keydir.get(tag, |at| at == position(n), |at| at), Some(position(n)));
            if n % 2 == 0 {
                keydir.change(tag, |at| at == position(n), |_| (Change::Remove, ()));
            }
        }
        assert_eq!(keydir.len(), 50);
        let all: Vec<_> = (0..keydir.shards()).flat_map(|n| keydir.positions(n)).collect();
        assert_eq!(all.len(), 50);
    }
}
