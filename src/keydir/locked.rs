//! Several shards of the keydir, locked together.
//!
//! They are always locked in the order of their numbers, so two threads that lock several never wait
//! for each other in a circle; a thread that locks one shard holds no other. Locked for reading, they
//! show many keys as they were at one moment; locked for writing, they let a batch change many keys at
//! one moment.

use super::entry::KeydirEntry;
use super::slot::{LOOKUP_BATCH, SHARDS, shard_of};
use super::table::{Table, hash, touch_slots};
use crate::position::LogPosition;
use dashmap::{RwLockReadGuard, RwLockWriteGuard};
use std::ops::Deref;

/// Those shards, of all there are, that some tags are in. `G` is the guard of a shard's lock.
pub(crate) struct LockedShards<G>([Option<G>; SHARDS]);

/// Shards that are locked for looking keys up.
pub(crate) type ReadShards<'k> = LockedShards<RwLockReadGuard<'k, Table>>;

/// Shards that are locked for changing the entries of many keys.
pub(crate) type KeydirEntries<'k> = LockedShards<RwLockWriteGuard<'k, Table>>;

impl<G> LockedShards<G> {
    /// Locks the shards of all tags, in the order of their numbers.
    pub(super) fn lock(tags: &[u32], lock: impl Fn(usize) -> G) -> Self {
        let mut wanted = tags.iter().fold(0u64, |all, &tag| all | 1 << shard_of(tag));
        let mut locked = [const { None }; SHARDS];
        while wanted != 0 {
            let shard = wanted.trailing_zeros() as usize;
            locked[shard] = Some(lock(shard));
            wanted &= wanted - 1;
        }
        Self(locked)
    }
}

impl<G: Deref<Target = Table>> LockedShards<G> {
    fn table(&self, tag: u32) -> &Table {
        self.0[shard_of(tag)].as_deref().expect("its shard is locked")
    }

    /// Looks up a group of keys, [`LOOKUP_BATCH`] at most: each step is done for all of them before
    /// the next one, so that their cache misses overlap. All tags are in shards that are locked.
    ///
    /// `is` and `found` get the index of the key, and `is` compares it with that of the frame at a
    /// position. `prefetch` gets beforehand the positions that `is` will most likely be asked about.
    #[inline]
    pub(crate) fn get_group(
        &self,
        tags: &[u32],
        prefetch: impl FnMut(&[LogPosition]),
        is: impl FnMut(usize, LogPosition) -> bool,
        found: impl FnMut(usize, LogPosition),
    ) {
        self.touch(tags);
        self.get_touched(tags, prefetch, is, found);
    }

    /// Loads the places where the slots of these tags should be.
    #[inline]
    fn touch(&self, tags: &[u32]) {
        touch_slots(tags.iter().map(|&tag| (self.table(tag), tag)));
    }

    /// As `get_group`, for tags whose places are loaded.
    #[inline]
    fn get_touched(
        &self,
        tags: &[u32],
        mut prefetch: impl FnMut(&[LogPosition]),
        mut is: impl FnMut(usize, LogPosition) -> bool,
        mut found: impl FnMut(usize, LogPosition),
    ) {
        assert!(tags.len() <= LOOKUP_BATCH);
        let mut first = [None; LOOKUP_BATCH];
        for (first, &tag) in first.iter_mut().zip(tags) {
            let table = self.table(tag);
            let slot = table.get(hash(table, tag), |(slot, _)| slot.tag == tag);
            *first = slot.map(|(slot, _)| slot.position());
        }
        let (positions, count) = those_found(&first);
        prefetch(&positions[..count]);
        for (index, (&tag, first)) in tags.iter().zip(first).enumerate() {
            let mut at = first.filter(|&at| is(index, at));
            if at.is_none() && first.is_some() {
                // A collision, or a damaged frame: try all slots with the tag.
                let table = self.table(tag);
                let slot = table.get(hash(table, tag), |(slot, _)| {
                    slot.tag == tag && is(index, slot.position())
                });
                at = slot.map(|(slot, _)| slot.position());
            }
            at.into_iter().for_each(|at| found(index, at));
        }
    }
}

impl KeydirEntries<'_> {
    /// Compares each key with the frames of its tag, without changing anything: damage is found now,
    /// and what `entry` will need is in the cache. `is` and `prefetch` as in
    /// [`get_group`](Self::get_group).
    pub(crate) fn compare(
        &self,
        tags: &[u32],
        mut prefetch: impl FnMut(&[LogPosition]),
        mut is: impl FnMut(usize, LogPosition) -> bool,
    ) {
        // Those of all groups first, so that the misses of one group overlap with those of the next.
        tags.chunks(LOOKUP_BATCH).for_each(|tags| self.touch(tags));
        for (nth, tags) in tags.chunks(LOOKUP_BATCH).enumerate() {
            let is = |index, at| is(nth * LOOKUP_BATCH + index, at);
            self.get_touched(tags, &mut prefetch, is, |_, _| {});
        }
    }

    /// The entry of a key in one of the shards.
    #[inline]
    pub(crate) fn entry(
        &mut self,
        tag: u32,
        is: impl FnMut(LogPosition) -> bool,
    ) -> KeydirEntry<&mut Table> {
        let table = self.0[shard_of(tag)].as_deref_mut().expect("its shard is locked");
        KeydirEntry::find(table, tag, is)
    }
}

/// Moves the existing positions to the front of the array; also returns their number.
fn those_found(all: &[Option<LogPosition>; LOOKUP_BATCH]) -> ([LogPosition; LOOKUP_BATCH], usize) {
    let mut positions = [LogPosition::from_u64(0); LOOKUP_BATCH];
    let places = positions.iter_mut().zip(all.iter().flatten());
    let count = places.map(|(to, &at)| *to = at).count();
    (positions, count)
}
