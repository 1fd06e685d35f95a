//! An entry of the keydir, locked for writing: the one place where a slot changes. (The store changes
//! them through its view, which does what goes with it.)
//!
//! Finding the entry takes the write lock of the key's shard, and the entry holds it until it is
//! dropped, or consumed by `set` or `remove`. Meanwhile no other thread reads or changes the slots of
//! that shard, so what is done in between (such as claiming the key's next frame) is in the same order
//! for all. A thread that holds an entry must not use the keydir, nor wait for anything that may need
//! it.
//!
//! An entry without a slot has room for one before a frame is claimed for it: tables never grow in `set`, and
//! never under a lock (see `resize`). A single entry is given out with room; who has locked many asks for
//! it with [`KeydirEntries::crowded`](super::KeydirEntries::crowded).

#![allow(unsafe_code, reason = "changes a slot where it was found, without another search")]

use super::slot::{Slot, shard_of};
use super::table::{self, Table, TableBucket, hash};
use crate::position::LogPosition;
use std::ops::DerefMut;

/// One key's entry, vacant or not. `T` is the shard's table: its lock's guard, or a borrow of one that
/// is locked with others.
///
/// Invariant: the bucket is one of the table's, and full. The entry has the table to itself from when the
/// bucket is looked for until `set` or `remove`, which use the entry up.
pub(crate) struct KeydirEntry<T> {
    table: T,
    tag: u32,
    found: Option<(TableBucket, LogPosition)>,
}

impl<T: DerefMut<Target = Table>> KeydirEntry<T> {
    /// Finds the slot with a tag that `is` accepts: it compares the key with that of the frame there.
    #[inline]
    pub(super) fn find(table: T, tag: u32, mut is: impl FnMut(LogPosition) -> bool) -> Self {
        let mut position = None;
        let bucket = table.find(hash(&table, tag), |(slot, _)| {
            position = Some(slot.position());
            slot.tag == tag && is(slot.position())
        });
        Self { table, tag, found: bucket.zip(position) }
    }

    /// Whether it has a slot, or room for one.
    #[inline]
    pub(super) fn can_be_set(&self) -> bool {
        self.found.is_some() || table::has_room(&self.table, 1)
    }

    /// The position of the key's newest frame, if it has one.
    #[inline]
    pub(crate) fn position(&self) -> Option<LogPosition> {
        self.found.as_ref().map(|&(_, position)| position)
    }

    /// Points the key's slot at a frame; adds a slot if the key has none, for which there is room.
    #[inline]
    pub(crate) fn set(mut self, position: LogPosition) {
        let new = Slot::new(self.tag, position);
        match self.found {
            // SAFETY: full, and nothing else refers to it, by the invariant.
            Some((bucket, _)) => unsafe { bucket.as_mut() }.0 = new,
            None => table::insert(&mut self.table, new),
        }
    }

    /// Removes the key's slot, if it has one. If few are left then, the table is to be made smaller, once
    /// no shard is locked.
    #[inline]
    pub(crate) fn remove(mut self) -> Option<SparseShard> {
        let (bucket, _) = self.found?;
        // SAFETY: full, and one of this table's, by the invariant.
        unsafe { self.table.remove(bucket) };
        table::is_sparse(&self.table).then_some(SparseShard(shard_of(self.tag)))
    }
}

/// A shard with a table that is much larger than it has to be. To be given to
/// [`Keydir::shrink`](super::Keydir::shrink) once no shard is locked.
#[derive(Debug)]
#[must_use]
pub(crate) struct SparseShard(pub(super) usize);

impl<T> std::fmt::Debug for KeydirEntry<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let position = self.found.as_ref().map(|(_, position)| position);
        f.debug_struct("KeydirEntry").field("position", &position).finish_non_exhaustive()
    }
}
