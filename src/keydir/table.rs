//! A shard's table: hashbrown's, grown by this file instead of by itself, so that a large one lies on
//! huge pages and slots lie in the order of their tags.
//!
//! Why huge pages: a lookup anywhere in 100 MiB misses the TLB, and on 4 KiB pages the page walk that
//! follows misses the cache as well.

use super::slot::{LOOKUP_BATCH, SHARDS, Slot};
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

/// As `prefetch_slot` for many slots, but waits until they are loaded; their cache misses overlap.
#[inline]
#[allow(unsafe_code, reason = "touches what is the table's")]
pub(super) fn touch_slots<'t>(probes: impl Iterator<Item = &'t Probe<'t>>) {
    let mut all = [[std::ptr::null(); 4]; LOOKUP_BATCH];
    let mut count = 0;
    for probe in probes {
        let last = probe.table.buckets() - 1;
        if last == 0 {
            // An empty table has no memory.
            continue;
        }
        let (control, first) = (probe.table.data_end().as_ptr(), probe.hash as usize & last);
        let bytes = control.cast::<u8>().wrapping_add(first);
        let slot = |index: usize| control.wrapping_sub(index.min(last) + 1).cast::<u8>();
        // A probe looks at 16 control bytes: one time in four they are in two lines.
        all[count] = [bytes, bytes.wrapping_add(15), slot(first), slot(first + 4)];
        count += 1;
    }
    for place in all[..count].as_flattened() {
        // SAFETY: in the table's memory: there are 16 control bytes more than slots, and no slot
        // behind the last one is asked for.
        unsafe { touch(*place) };
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

/// Makes room for one more slot.
#[inline]
pub(super) fn make_room(table: &mut Table) {
    if table.len() == table.capacity() {
        reserve(table, 1);
    }
}

/// Makes room for this many more slots.
#[cold]
pub(super) fn reserve(table: &mut Table, more: usize) {
    let wanted = table.len() + more;
    if wanted <= table.capacity() {
        return;
    }
    // The capacity without the marks that removed slots leave.
    let full = match table.buckets() {
        small @ 0..=8 => small - 1,
        large => large / 8 * 7,
    };
    rebuild(table, if wanted <= full / 8 * 7 { full } else { wanted.max(full + 1) });
}

/// Gives memory back if less than an eighth of the room is used; then twice the room that is needed
/// stays. So a good part of the slots comes or goes before the table is
/// rebuilt again, and rebuilding costs less than it did when the table grew.
#[inline]
pub(super) fn shrink_after_removing(table: &mut Table) {
    if table.buckets() > SMALL && table.len() < table.buckets() / 64 * 7 {
        shrink_to(table, table.len() * 2);
    }
}

#[cold]
fn shrink_to(table: &mut Table, enough: usize) {
    // If there is no memory for a smaller table, it stays as it is.
    if let Ok(new) = Table::try_with_capacity(enough) {
        move_into(table, new);
    }
}

/// A copy of every slot.
#[allow(unsafe_code, reason = "hashbrown's raw iterator")]
pub(super) fn slots(table: &Table) -> impl Iterator<Item = Slot> {
    // SAFETY: the table is borrowed for as long as the iterator lives, so it is not changed or freed.
    let buckets = unsafe { table.iter() };
    // SAFETY: the iterator gives buckets that are full.
    buckets.map(|bucket| unsafe { bucket.as_ref() }.0)
}

/// Moves all slots into a table with room for this many.
fn rebuild(table: &mut Table, enough: usize) {
    move_into(table, Table::with_capacity(enough));
}

fn move_into(table: &mut Table, mut new: Table) {
    if new.buckets() * EACH >= LARGE {
        prefer_huge_pages(&mut new);
    }
    // In the order of their places here, which is that of their places there.
    for slot in slots(table) {
        insert(&mut new, slot);
    }
    discard_pages(std::mem::replace(table, new));
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

/// Frees a table whose slots were moved, and gives its pages back.
#[allow(unsafe_code, reason = "discards memory that is the table's")]
fn discard_pages(table: Table) {
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
