//! A shard's table: hashbrown's, never grown by itself, so that a large one lies on huge pages, slots lie in
//! the order of their tags, and nobody waits for the pages of a larger one (see `resize`).
//!
//! Why huge pages: a lookup anywhere in 100 MiB misses the TLB, and on 4 KiB pages the page walk that
//! follows misses the cache as well.

use super::slot::{SHARDS, Slot};
use crate::position::LogPosition;
use crate::prefetch::{prefetch, touch};
use crate::storage::sys;
use dashmap::SharedValue;
use hashbrown::raw::{Bucket, RawTable};

pub(crate) type Table = RawTable<(Slot, SharedValue<()>)>;

/// Where a slot is in a table.
pub(super) type TableBucket = Bucket<(Slot, SharedValue<()>)>;

/// Bytes that a slot takes, its control byte included.
pub(super) const EACH: usize = size_of::<(Slot, SharedValue<()>)>() + 1;

/// A table of at least this many bytes is put on huge pages.
const LARGE: usize = if cfg!(test) { 1 << 12 } else { 1 << 20 };

/// A table with at most this many buckets is not made smaller where slots come and go.
const SMALL: usize = 64;

/// The pages of a table of at least this many bytes are given back when it is freed. The allocator
/// keeps what is smaller than 128 KiB or more, so without this, the holes that are left when all
/// tables have grown would be up to a tenth of the keydir.
const WHOLE_PAGES: usize = 32 << 10;

/// Asks for the control bytes and the slot where a table's probe for a hash begins.
#[inline]
pub(super) fn prefetch_slot(table: &Table, hash: u64) {
    // hashbrown lays the slots out downward from where the control bytes begin.
    let (control, first) = (table.data_end().as_ptr(), hash as usize & (table.buckets() - 1));
    prefetch(control.cast::<u8>().wrapping_add(first));
    // A slot is where its probe begins or a few further on, in this line or the next.
    prefetch(control.wrapping_sub(first + 1));
    prefetch(control.wrapping_sub(first + 5));
}

/// Where a search for a tag begins in a table.
#[derive(Clone, Copy)]
pub(super) struct Probe<'t> {
    table: &'t Table,
    tag: u32,
    hash: u64,
}

impl<'t> Probe<'t> {
    #[inline]
    pub(super) fn new(table: &'t Table, tag: u32) -> Self {
        Self { table, tag, hash: hash(table, tag) }
    }

    /// As `prefetch_slot`, but loads the lines. In a loop over many, their cache misses overlap.
    #[inline]
    #[allow(unsafe_code, reason = "touches what is the table's")]
    pub(super) fn touch(&self) {
        let last = self.table.buckets() - 1;
        if last == 0 {
            // An empty table has no memory.
            return;
        }
        let (control, first) = (self.table.data_end().as_ptr(), self.hash as usize & last);
        let bytes = control.cast::<u8>().wrapping_add(first);
        let slot = |index: usize| control.wrapping_sub(index.min(last) + 1).cast::<u8>();
        // A probe looks at 16 control bytes: one time in four they are in two lines.
        for place in [bytes, bytes.wrapping_add(15), slot(first), slot(first + 4)] {
            // SAFETY: in the table's memory: there are 16 control bytes more than slots, and no slot
            // behind the last one is asked for.
            unsafe { touch(place) };
        }
    }

    /// The position of the first slot with the tag; calls `other` with those of all others.
    #[inline]
    pub(super) fn all(&self, mut other: impl FnMut(LogPosition)) -> Option<LogPosition> {
        let mut first = None;
        // A search that finds nothing has seen all.
        self.find(|at| {
            if first.is_none() {
                first = Some(at);
            } else {
                other(at);
            }
            false
        });
        first
    }

    /// The first position of a slot with the tag that `is` accepts.
    #[inline]
    pub(super) fn find(&self, mut is: impl FnMut(LogPosition) -> bool) -> Option<LogPosition> {
        let is = |(slot, _): &(Slot, _)| slot.tag == self.tag && is(slot.position());
        self.table.get(self.hash, is).map(|(slot, _)| slot.position())
    }
}

/// The hash of a tag, for a table of this size.
///
/// hashbrown uses a hash in two ways. Its low bits are the index at which a probe begins: here the
/// highest bits of the tag behind those that make the shard, so that the index grows with the tag. Its
/// highest 7 bits are kept in the control byte, to skip slots without a comparison: here the lowest
/// bits of the tag, which the index has least to do with.
#[inline]
pub(super) fn hash(table: &Table, tag: u32) -> u64 {
    let bits = table.buckets().trailing_zeros();
    let place = u64::from(tag << SHARDS.ilog2()) << bits >> 32;
    place | u64::from(tag) << 57
}

/// Adds a slot for a key that has none. The table has room.
#[inline]
pub(super) fn insert(table: &mut Table, slot: Slot) {
    // The table never grows inside hashbrown, because the hash depends on its size.
    let entry = (slot, SharedValue::new(()));
    assert!(table.try_insert_no_grow(hash(table, slot.tag), entry).is_ok(), "there is room");
}

/// Whether this many more slots can be inserted.
#[inline]
pub(super) fn has_room(table: &Table, more: usize) -> bool {
    table.capacity() - table.len() >= more
}

/// The capacity of a table to take the place of one that has no room for this many more slots. `None`: it
/// has.
pub(super) fn larger(table: &Table, more: usize) -> Option<usize> {
    if has_room(table, more) {
        return None;
    }
    let wanted = table.len() + more;
    // The capacity without the marks that removed slots leave.
    let full = match table.buckets() {
        small @ 0..=8 => small - 1,
        large => large / 8 * 7,
    };
    Some(if wanted <= full / 8 * 7 { full } else { wanted.max(full + 1) })
}

/// Whether less than an eighth of the room is used.
#[inline]
pub(super) fn is_sparse(table: &Table) -> bool {
    table.buckets() > SMALL && table.len() < table.buckets() / 64 * 7
}

/// The capacity of a table to take the place of a sparse one: twice what is needed. So a good part of the
/// slots comes or goes before the table is replaced again, and that costs less than it did when the table
/// grew. `None`: it is not sparse.
pub(super) fn smaller(table: &Table) -> Option<usize> {
    is_sparse(table).then(|| table.len() * 2)
}

/// A copy of every slot.
#[allow(unsafe_code, reason = "hashbrown's raw iterator")]
pub(super) fn slots(table: &Table) -> impl Iterator<Item = Slot> {
    // SAFETY: the table is borrowed for as long as the iterator lives, so it is not changed or freed.
    let buckets = unsafe { table.iter() };
    // SAFETY: the iterator gives buckets that are full.
    buckets.map(|bucket| unsafe { bucket.as_ref() }.0)
}

/// An empty table with room for this many slots, all of whose pages are in memory. No shard is locked.
/// `None`: there is no memory for it.
pub(super) fn allocate(enough: usize) -> Option<Table> {
    #[cfg(test)]
    hook::call();
    let mut new = Table::try_with_capacity(enough).ok()?;
    if new.buckets() * EACH >= LARGE {
        prefer_huge_pages(&mut new);
    }
    touch_pages(&mut new);
    Some(new)
}

/// Moves all slots into a table that has room for them, and puts it in place of the old one, which is
/// returned, to be freed once the shard is unlocked.
#[must_use]
pub(super) fn move_into(table: &mut Table, mut new: Table) -> Table {
    // In the order of their places here, which is that of their places there.
    for slot in slots(table) {
        insert(&mut new, slot);
    }
    std::mem::replace(table, new)
}

/// Writes to each page that slots of an empty table will be in. What its control bytes are in was written
/// to when it was made.
#[allow(unsafe_code, reason = "writes to memory that is the table's")]
fn touch_pages(table: &mut Table) {
    if table.buckets() == 1 {
        // It has no memory.
        return;
    }
    let len = table.buckets() * size_of::<(Slot, SharedValue<()>)>();
    let end = table.data_end().as_ptr().cast::<u8>();
    for before_end in (1..=len).step_by(PAGE).chain([len]) {
        // SAFETY: in the places of the table's `buckets()` slots, which end at `data_end()`. It is empty, so
        // nothing is there, and nothing is read there before a slot is stored.
        unsafe { end.wrapping_sub(before_end).write_volatile(0) };
    }
}

/// Asks for huge pages under an empty table. This is a hint to the kernel, so failure is no error.
#[allow(unsafe_code, reason = "advice about memory that is the table's")]
fn prefer_huge_pages(table: &mut Table) {
    let (start, layout) = table.allocation_info();
    let from = start.as_ptr().wrapping_sub(start.as_ptr() as usize % PAGE);
    let len = (start.as_ptr() as usize - from as usize + layout.size()).next_multiple_of(PAGE);
    if cfg!(miri) {
        // It knows no such system call.
        return;
    }
    // SAFETY: the range is mapped, as the table's allocation touches each of its pages.
    unsafe { sys::prefer_huge_pages(from, len) };
}

/// Where a table is in memory: its address and its length. `None`: it has no memory.
pub(super) fn place(table: &Table) -> Option<(usize, usize)> {
    let has_memory = table.buckets() > 1;
    has_memory.then(|| {
        let (start, layout) = table.allocation_info();
        (start.as_ptr() as usize, layout.size())
    })
}

/// Frees a table whose slots were moved, and gives its pages back. No shard is locked.
#[allow(unsafe_code, reason = "discards memory that is the table's")]
pub(super) fn free(table: Table) {
    #[cfg(test)]
    hook::call();
    const { assert!(!std::mem::needs_drop::<(Slot, SharedValue<()>)>()) };
    if table.buckets() * EACH < WHOLE_PAGES || cfg!(miri) {
        return;
    }
    let (start, layout) = table.allocation_info();
    let skip = start.as_ptr().align_offset(PAGE);
    let len = (layout.size() - skip) / PAGE * PAGE;
    // SAFETY: all of these pages are the table's, which is freed now; freeing it reads none of them, as
    // slots need no drop.
    unsafe { sys::discard_pages(start.as_ptr().wrapping_add(skip), len) };
}

const PAGE: usize = 4096;

/// What a test has called whenever its thread is about to allocate or free a table.
#[cfg(test)]
pub(super) mod hook {
    use std::cell::RefCell;

    type Hook = Box<dyn FnMut()>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// Returns the one that was set before.
    pub(in crate::keydir) fn set(hook: Option<Hook>) -> Option<Hook> {
        HOOK.replace(hook)
    }

    /// It is not called again by what it does itself.
    pub(super) fn call() {
        if let Some(mut hook) = HOOK.take() {
            hook();
            HOOK.set(Some(hook));
        }
    }
}
