//! Several shards of the keydir, locked together.
//!
//! They are always locked in the order of their numbers, so two threads that lock several never wait
//! for each other in a circle; a thread that locks one shard holds no other. Locked for reading, they
//! show many keys as they were at one moment; locked for writing, they let a batch change many keys at
//! one moment.

use super::entry::KeydirEntry;
use super::slot::{LOOKUP_BATCH, SHARDS, shard_of};
use super::table::{Probe, Table};
use crate::position::LogPosition;
use dashmap::{RwLockReadGuard, RwLockWriteGuard};
use std::ops::Deref;

/// Some of the shards.
struct ShardSet {
    /// For each shard that is one of them, how many of them have lower numbers.
    ranks: [u16; SHARDS],
}

const WORDS: usize = SHARDS.div_ceil(64);
const _: () = assert!(SHARDS <= u16::MAX as usize);

impl ShardSet {
    /// The shards of some tags. Calls `each` with all of them, in the order of their numbers.
    #[inline]
    fn of(tags: &[u32], mut each: impl FnMut(usize)) -> Self {
        let (mut words, mut ranks, mut count) = ([0u64; WORDS], [0; SHARDS], 0);
        for &tag in tags {
            let shard = shard_of(tag);
            words[shard / 64] |= 1 << (shard % 64);
        }
        for (nth, mut word) in words.into_iter().enumerate() {
            while word != 0 {
                let shard = nth * 64 + word.trailing_zeros() as usize;
                each(shard);
                ranks[shard] = count;
                count += 1;
                word &= word - 1;
            }
        }
        Self { ranks }
    }

    /// How many of them have lower numbers than a shard, which is one of them.
    #[inline]
    fn rank(&self, shard: usize) -> usize {
        self.ranks[shard].into()
    }
}

/// Those shards, of all there are, that some tags are in. `G` is the guard of a shard's lock.
pub(crate) struct LockedShards<G> {
    shards: ShardSet,
    /// One for each of them, in the order of their numbers.
    guards: Vec<G>,
}

/// Shards that are locked for looking keys up.
pub(crate) type ReadShards<'k> = LockedShards<RwLockReadGuard<'k, Table>>;

/// Shards that are locked for changing the entries of many keys.
pub(crate) type KeydirEntries<'k> = LockedShards<RwLockWriteGuard<'k, Table>>;

impl<G> LockedShards<G> {
    /// Locks the shards of all tags, in the order of their numbers.
    #[inline]
    pub(super) fn lock(tags: &[u32], lock: impl Fn(usize) -> G) -> Self {
        let mut guards = Vec::with_capacity(tags.len().min(SHARDS));
        let shards = ShardSet::of(tags, |shard| guards.push(lock(shard)));
        Self { shards, guards }
    }
}

impl<G: Deref<Target = Table>> LockedShards<G> {
    /// The table with a tag, whose shard is locked.
    #[inline]
    fn table(&self, tag: u32) -> &Table {
        &self.guards[self.shards.rank(shard_of(tag))]
    }

    /// Finds the slots with the tags of a group, [`LOOKUP_BATCH`] at most, all of which are in shards
    /// that are locked. Each step is done for all of them before the next one, so that their cache
    /// misses overlap. Returns the position of each one's first slot, and calls `other` with those of
    /// all others and the index of the tag.
    #[inline]
    pub(crate) fn slots(
        &self,
        tags: &[u32],
        mut other: impl FnMut(usize, LogPosition),
    ) -> [Option<LogPosition>; LOOKUP_BATCH] {
        assert!(tags.len() <= LOOKUP_BATCH);
        let mut first = [None; LOOKUP_BATCH];
        let Some(table) = self.guards.first() else { return first };
        let mut probes = [Probe::new(table, 0); LOOKUP_BATCH];
        for (probe, &tag) in probes.iter_mut().zip(tags) {
            *probe = Probe::new(self.table(tag), tag);
        }
        let probes = &probes[..tags.len()];
        probes.iter().for_each(Probe::touch);
        for (nth, (first, probe)) in first.iter_mut().zip(probes).enumerate() {
            *first = probe.all(|at| other(nth, at));
        }
        first
    }
}

/// Shards without room for what is to be added: each with the number of slots.
#[derive(Debug)]
#[must_use]
pub(crate) struct Crowded(pub(super) Vec<(usize, usize)>);

impl KeydirEntries<'_> {
    /// The shards whose tables have no room for a slot more for each of these tags, which are in shards that
    /// are locked. `None`: all have. Otherwise the shards are to be unlocked, and given room
    /// (`Keydir::relieve`).
    pub(crate) fn crowded(&self, new: impl Iterator<Item = u32>) -> Option<Crowded> {
        // Slots that there is still room for, by the rank of the shard; below zero there is none.
        let mut left: Vec<isize> = Vec::new();
        let mut crowded = Vec::new();
        for tag in new {
            if left.is_empty() {
                let room = |table: &Table| (table.capacity() - table.len()) as isize;
                left = self.guards.iter().map(|table| room(table)).collect();
            }
            let left = &mut left[self.shards.rank(shard_of(tag))];
            *left -= 1;
            if *left == -1 {
                crowded.push(shard_of(tag));
            }
        }
        let more = |shard| {
            let rank = self.shards.rank(shard);
            let table = &self.guards[rank];
            (shard, (table.capacity() - table.len()).wrapping_add_signed(-left[rank]))
        };
        (!crowded.is_empty()).then(|| Crowded(crowded.into_iter().map(more).collect()))
    }

    /// The entry of a key in one of the shards. If it has no slot and is to be set, there has to be room
    /// (`crowded`).
    #[inline]
    pub(crate) fn entry(
        &mut self,
        tag: u32,
        is: impl FnMut(LogPosition) -> bool,
    ) -> KeydirEntry<&mut Table> {
        let table = &mut *self.guards[self.shards.rank(shard_of(tag))];
        KeydirEntry::find(table, tag, is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn shards_are_in_order_and_ranked() {
        let tag = |n: u32| n.wrapping_mul(0x9e37_79b1);
        for count in [0, 1, 2, 3, 32, 100, 1000, 100_000] {
            let tags: Vec<u32> = (0..count).flat_map(|n| [tag(n), tag(n / 2)]).collect();
            let expected: BTreeSet<usize> = tags.iter().map(|&tag| shard_of(tag)).collect();
            let mut all = Vec::new();
            let set = ShardSet::of(&tags, |shard| all.push(shard));
            assert!(all.iter().eq(&expected));
            for (rank, &shard) in all.iter().enumerate() {
                assert_eq!(set.rank(shard), rank);
            }
        }
    }
}
