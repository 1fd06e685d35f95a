//! An entry of the keydir, locked for writing: the one place where a slot changes.
//!
//! Finding the entry takes the write lock of the key's shard, and the entry holds it until it is
//! dropped, or used up by `set` or `remove`. While it lives, nobody else reads or changes the slots of
//! that shard, so what is done in between (claiming the key's next frame, say) is in the same order
//! for everyone. Whoever holds an entry must not use the keydir, nor wait for anything that may need it.

use super::slot::Slot;
use super::table::{self, Table, hash};
use crate::position::LogPosition;
use std::ops::DerefMut;

/// One key's entry, vacant or not. `T` is the shard's table: its lock's guard, or a borrow of one that
/// is locked with others.
pub(crate) struct KeydirEntry<T> {
    table: T,
    tag: u32,
    slot: Option<Slot>,
}

impl<T: DerefMut<Target = Table>> KeydirEntry<T> {
    /// Finds the slot with a tag that `is` accepts: it compares the key with that of the frame there.
    #[inline]
    pub(super) fn find(table: T, tag: u32, mut is: impl FnMut(LogPosition) -> bool) -> Self {
        let found =
            table.get(hash(&table, tag), |(slot, _)| slot.tag == tag && is(slot.position()));
        let slot = found.map(|(slot, _)| *slot);
        Self { table, tag, slot }
    }

    /// Where the key's newest frame is, if it has one.
    #[inline]
    pub(crate) fn position(&self) -> Option<LogPosition> {
        self.slot.as_ref().map(Slot::position)
    }

    /// Points the key's slot at a frame, and gives it one if it has none.
    #[inline]
    pub(crate) fn set(mut self, position: LogPosition) {
        let new = Slot::new(self.tag, position);
        let Some(old) = self.slot else { return table::insert(&mut self.table, new) };
        // No two slots are equal, so no key has to be compared again.
        let hash = hash(&self.table, self.tag);
        let place = self.table.get_mut(hash, |(slot, _)| *slot == old);
        place.expect("its shard has been locked since it was found").0 = new;
    }

    /// Takes the key's slot away, if it has one.
    #[inline]
    pub(crate) fn remove(mut self) {
        let Some(old) = self.slot else { return };
        let hash = hash(&self.table, self.tag);
        self.table.remove_entry(hash, |(slot, _)| *slot == old);
        table::shrink_after_removing(&mut self.table);
    }
}

impl<T> std::fmt::Debug for KeydirEntry<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let position = self.slot.as_ref().map(Slot::position);
        f.debug_struct("KeydirEntry").field("position", &position).finish_non_exhaustive()
    }
}
