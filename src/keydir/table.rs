//! A shard's table: hashbrown's, which is grown here, so that a large one lies on huge pages, and
//! slots are in the order of their tags.
//!
//! A lookup anywhere in 100 MiB misses the TLB, and on 4 KiB pages the walk that follows misses the
//! cache as well.

use super::slot::{LOOKUP_BATCH, SHARDS, Slot};
use crate::prefetch::{prefetch, touch};
use crate::storage::sys;
use dashmap::SharedValue;
use hashbrown::raw::{Bucket, RawTable};

pub(crate) type Table = RawTable<(Slot, SharedValue<()>)>;

/// Where a slot is in a table.
pub(super) type TableBucket = Bucket<(Slot, SharedValue<()>)>;

/// What a slot takes, with its control byte.
pub(super) const EACH: usize = size_of::<(Slot, SharedValue<()>)>() + 1;

/// Bytes of a table from which on it is grown here.
const LARGE: usize = if cfg!(test) { 1 << 12 } else { 1 << 20 };

/// Buckets of a table that is not worth being made smaller.
const SMALL: usize = 64;

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

/// Loads what `prefetch_slot` asks for, of many: the misses overlap, and all are waited for.
#[inline]
#[allow(unsafe_code, reason = "touches what is the table's")]
pub(super) fn touch_slots<'t>(probes: impl Iterator<Item = (&'t Table, u32)>) {
    let mut all = [[std::ptr::null(); 4]; LOOKUP_BATCH];
    let mut count = 0;
    for (table, tag) in probes {
        let last = table.buckets() - 1;
        if last == 0 {
            // It has no memory.
            continue;
        }
        let (control, first) = (table.data_end().as_ptr(), hash(table, tag) as usize & last);
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

/// The hash of a tag, for a table of this size. A table begins to look for it at the index that its
/// low bits are: those of the tag behind the ones that make the shard, the highest first, so that
/// the index grows with the tag. The table tells slots in one place apart by the highest 7 bits:
/// the lowest of the tag.
#[inline]
pub(super) fn hash(table: &Table, tag: u32) -> u64 {
    let bits = table.buckets().trailing_zeros();
    let place = u64::from(tag << SHARDS.ilog2()) << bits >> 32;
    place | u64::from(tag) << 57
}

/// Puts a slot in whose key is not there.
pub(super) fn insert(table: &mut Table, slot: Slot) {
    // Always here, and never inside of hashbrown: the hash depends on the table's size.
    if table.len() == table.capacity() {
        reserve(table, 1);
    }
    let entry = (slot, SharedValue::new(()));
    assert!(table.try_insert_no_grow(hash(table, slot.tag), entry).is_ok(), "there is room");
}

/// Makes room for so many slots more.
pub(super) fn reserve(table: &mut Table, more: usize) {
    let wanted = table.len() + more;
    if wanted <= table.capacity() {
        return;
    }
    // What fits if removed slots leave nothing behind.
    let full = match table.buckets() {
        small @ 0..=8 => small - 1,
        large => large / 8 * 7,
    };
    rebuild(table, if wanted <= full / 8 * 7 { full } else { wanted.max(full + 1) });
}

/// Gives memory back of which there is more than twice what the slots take.
pub(super) fn shrink(table: &mut Table) {
    if table.buckets() > SMALL && table.len() * 2 < table.buckets() / 8 * 7 {
        rebuild(table, table.len());
    }
}

/// As `shrink`, where slots come and go: an eighth of the room has to do for all, and twice as much
/// as they need stays, so that before the table is moved again a good part of it has come or gone.
/// Moving what is left takes less than moving it did when the table grew.
#[inline]
pub(super) fn shrink_after_removing(table: &mut Table) {
    if table.buckets() > SMALL && table.len() < table.buckets() / 64 * 7 {
        shrink_to(table, table.len() * 2);
    }
}

#[cold]
fn shrink_to(table: &mut Table, enough: usize) {
    // Without memory for a smaller one, it stays as it is.
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

/// Removes the slots that are doomed.
#[allow(unsafe_code, reason = "hashbrown's raw iterator")]
pub(super) fn remove_if(table: &mut Table, doomed: impl Fn(&Slot) -> bool) {
    // SAFETY: the table is neither moved nor grown while the iterator is used.
    let all = unsafe { table.iter() };
    for bucket in all {
        // SAFETY: the iterator gives buckets that are full, each once.
        if doomed(unsafe { &bucket.as_ref().0 }) {
            // SAFETY: full, as above; erasing what the iterator has given is allowed, as `retain` of
            // hashbrown's own map does it.
            unsafe { table.erase(bucket) };
        }
    }
}

/// Moves all slots into a table with room for so many.
fn rebuild(table: &mut Table, enough: usize) {
    move_into(table, Table::with_capacity(enough));
}

fn move_into(table: &mut Table, mut new: Table) {
    if new.buckets() * EACH >= LARGE {
        prefer_huge_pages(&mut new);
    }
    // In the order of their places here, which is that of their places there.
    for entry in std::mem::take(table) {
        let hash = hash(&new, entry.0.tag);
        assert!(new.try_insert_no_grow(hash, entry).is_ok(), "there is room");
    }
    *table = new;
}

/// Asks for huge pages under an empty table. The kernel may do as it likes, so failure is no error.
#[allow(unsafe_code, reason = "advice about memory that is the table's")]
fn prefer_huge_pages(table: &mut Table) {
    let (start, layout) = table.allocation_info();
    let from = start.as_ptr().wrapping_sub(start.as_ptr() as usize % PAGE);
    let len = (start.as_ptr() as usize - from as usize + layout.size()).next_multiple_of(PAGE);
    // SAFETY: the range is mapped, as the table's allocation touches each of its pages.
    unsafe { sys::prefer_huge_pages(from, len) };
}

const PAGE: usize = 4096;
