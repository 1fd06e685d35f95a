//! The memory of a segment or a hint, mapped whole: every access to its bytes goes through [`Map`].
//!
//! [`Map::word`] checks its place and gives an atomic, so it is safe. All other accesses are `unsafe`:
//! they are exclusive because of a claim, or constant because of a commit, which only their callers
//! know. The mappings themselves are made in `sys/mapping.rs`.

#![allow(unsafe_code, reason = "accesses to mapped bytes")]

use super::sys::{Faults, FileName, Mapping};
use crate::format::frame::HEADER;
use crate::sync::FileWord;
use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A mapping, and what has to live as long.
#[derive(Debug)]
struct MapOwner {
    mapping: Mapping,
    /// Of a part of a memory file: what keeps the part.
    keep: Option<KeptAlive>,
    /// Whether huge pages were asked for.
    huge: AtomicBool,
}

/// What has to live as long as a mapping.
pub(crate) type KeptAlive = Arc<dyn std::fmt::Debug + Send + Sync>;

/// A segment's memory, mapped whole. Clones share the mapping, which lives as long as any.
///
/// What the log keeps to, and the blocks below rely on:
/// * Words (see [`word`](Self::word)) are only accessed atomically while a writer may touch them.
/// * Other bytes are written only by the owner of a claim over them, before its commit, and read
///   only after an Acquire load of that commit; after it they never change.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    ptr: NonNull<u8>,
    len: usize,
    writable: bool,
    owner: Arc<MapOwner>,
}

// SAFETY: the mapping belongs to no thread; how its bytes are shared is the contract above, which
// the unsafe methods put on their callers.
unsafe impl Send for Map {}
// SAFETY: as for Send.
unsafe impl Sync for Map {}

impl Map {
    fn new(mut mapping: Mapping, keep: Option<KeptAlive>) -> Self {
        let (ptr, len, writable) = (mapping.start(), mapping.len(), mapping.is_writable());
        Self {
            ptr,
            len,
            writable,
            owner: Arc::new(MapOwner { mapping, keep, huge: AtomicBool::new(false) }),
        }
    }

    /// Maps a preallocated file for writing.
    pub(crate) fn of_file(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: the directory is private to its user and locked by this handle, so no one
        // changes the file but this process and those who could change its memory anyway
        // (docs/durability.md, "assumptions"); and it was preallocated, so no access faults.
        let mapping = unsafe { Mapping::writable(file, 0, len)? };
        Ok(Self::new(mapping, None))
    }

    /// Maps a file for reading.
    pub(crate) fn of_file_read_only(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: as in `of_file`. A live writer may append meanwhile, which the contract of this
        // type covers: committed bytes do not change.
        let mapping = unsafe { Mapping::read_only(file, 0, len)? };
        Ok(Self::new(mapping, None))
    }

    /// Maps a part of a memory file, which begins at a page. Little of it is ever touched.
    pub(crate) fn of_memory(
        file: &File,
        offset: u64,
        len: usize,
        writable: bool,
        keep: KeptAlive,
    ) -> io::Result<Self> {
        let mapping = if writable {
            // SAFETY: a memory file of this process that is never cut short. While the part is mapped,
            // its bytes are accessed through mappings only, as the contract of this type has it, except
            // that holes are punched if the log asks for it, behind all frames; `keep` goes with the
            // last mapping.
            unsafe { Mapping::writable(file, offset, len)? }
        } else {
            // SAFETY: as above.
            unsafe { Mapping::read_only(file, offset, len)? }
        };
        Ok(Self::new(mapping, Some(keep)))
    }

    /// Zeroed memory without a file.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        Ok(Self::new(Mapping::anonymous(len)?, None))
    }

    /// The same, with accesses that fail recorded as faults of a file. It has no clone, and nothing was
    /// accessed yet.
    pub(crate) fn watched(mut self, file: FileName, faults: Arc<Faults>) -> Self {
        let owner = Arc::get_mut(&mut self.owner).expect("a map of one's own");
        owner.mapping.watch(file, faults);
        self
    }

    /// Where the first page begins that could not be accessed, if SIGBUS is caught. What was loaded before
    /// this call is as it is in the file, if there is none.
    pub(crate) fn fault(&self) -> Option<u64> {
        self.owner.mapping.fault()
    }

    /// Copies bytes into a map that has no clone.
    pub(crate) fn fill(&mut self, offset: u64, bytes: &[u8]) {
        let at = self.check(offset, bytes.len() as u64);
        assert!(self.writable && Arc::get_mut(&mut self.owner).is_some(), "a map of one's own");
        // SAFETY: `check` keeps the range inside the mapping.
        let to = unsafe { self.ptr.as_ptr().add(at) };
        // SAFETY: in bounds; there is no other handle of this mapping, and this one is borrowed
        // exclusively, so nothing else touches the range, and `bytes` is not in it.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Whether this mapping was made for writing.
    pub(crate) const fn is_writable(&self) -> bool {
        self.writable
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> usize {
        self.ptr.as_ptr() as usize
    }

    /// Places inside the map, this many bytes from one to the next.
    #[inline]
    pub(crate) fn places<const N: usize>(&self, offset: u64, step: usize) -> [*const u8; N] {
        let at = |nth: usize| (offset as usize).wrapping_add(nth * step).min(self.len - 1);
        std::array::from_fn(|nth| self.ptr.as_ptr().wrapping_add(at(nth)).cast_const())
    }

    /// Whether it is mapped from a file of its own, or from none.
    fn is_whole(&self) -> bool {
        self.owner.keep.is_none()
    }

    /// Asks for huge pages.
    pub(crate) fn prefer_huge_pages(&self) {
        if self.writable && self.is_whole() {
            self.owner.mapping.prefer_huge_pages(0, self.len);
            // ORDERING: Relaxed; a flag alone, about a hint.
            self.owner.huge.store(true, Ordering::Relaxed);
        }
    }

    /// Says that pages are touched here and there, and that reading ahead is of no use; or no longer.
    /// The kernel may read 8 MiB for one header.
    pub(crate) fn expect_scattered(&self, scattered: bool) {
        self.owner.mapping.expect_scattered(scattered);
    }

    /// As `expect_scattered`, for as long as little of the file fits into memory: one page is read at a
    /// time, and none of the huge ones that were asked for.
    pub(crate) fn expect_cold(&self, cold: bool) {
        if cold {
            self.expect_cold_in(0, self.len as u64);
            return;
        }
        // ORDERING: Relaxed; as in `prefer_huge_pages`.
        if self.owner.huge.load(Ordering::Relaxed) {
            self.owner.mapping.prefer_huge_pages(0, self.len);
        }
        self.expect_scattered(false);
    }

    /// Says that a range is about to be read front to back, while all else is `expect_cold`: the kernel
    /// reads ahead there, into huge pages if it has any. What is beyond the map is left out.
    pub(crate) fn expect_in_sequence(&self, from: u64, to: u64) {
        self.in_range(from, to, |mapping, from, len| {
            if self.is_whole() {
                mapping.prefer_huge_pages(from, len);
            }
            mapping.expect_in_sequence(from, len);
        });
    }

    /// As `expect_cold`, for a range. What is beyond the map is left out.
    pub(crate) fn expect_cold_in(&self, from: u64, to: u64) {
        self.in_range(from, to, |mapping, from, len| {
            if self.is_whole() {
                mapping.avoid_huge_pages(from, len);
            }
            mapping.expect_scattered_in(from, len);
        });
    }

    /// Starts to read a range that is about to be needed. What is beyond the map is left out.
    pub(crate) fn will_need(&self, from: u64, to: u64) {
        self.in_range(from, to, Mapping::will_need);
    }

    /// Calls `advise` with the beginning and the length of what of a range is in the map, unless nothing is.
    fn in_range(&self, from: u64, to: u64, advise: impl FnOnce(&Mapping, usize, usize)) {
        let to = (to as usize).min(self.len);
        if let Some(len) = to.checked_sub(from as usize).filter(|&len| len > 0) {
            advise(&self.owner.mapping, from as usize, len);
        }
    }

    /// Whether a page near an offset is in memory. `None`: not known.
    pub(crate) fn is_resident(&self, offset: u64) -> Option<bool> {
        self.owner.mapping.is_resident(self.check(offset, 1))
    }

    /// Faults a range of pages in for writing. If the kernel cannot do that, the first access to each
    /// page does it, only slower, so failure is not an error; nor is it if the segment was sealed and
    /// shrunk meanwhile.
    pub(crate) fn populate(&self, from: u64, to: u64) {
        if self.writable && self.is_whole() {
            let (from, to) = (from as usize, (to as usize).min(self.len));
            self.owner.mapping.populate(from, to.saturating_sub(from));
        }
    }

    /// Hands what was stored in a range to the file. To be called before the file is synced.
    pub(crate) fn flush(&self, from: u64, to: u64) -> io::Result<()> {
        self.owner.mapping.flush(from as usize, to as usize)
    }

    /// Takes write permission away from the pages of a sealed segment. Memory that is shared with
    /// others stays writable.
    pub(crate) fn protect(&self) -> io::Result<()> {
        if Arc::strong_count(&self.owner) > 1 || !self.writable {
            return Ok(());
        }
        // SAFETY: the segment is sealed: no claim on it is open and none can be made, so nothing
        // writes through this map any more.
        unsafe { self.owner.mapping.protect() }
    }

    #[inline]
    fn check(&self, offset: u64, len: u64) -> usize {
        match offset.checked_add(len) {
            Some(end) if end <= self.len as u64 => offset as usize,
            _ => beyond(offset, len, self.len),
        }
    }

    /// The word at an offset: a commit word, or part of a segment's head.
    #[inline]
    pub(crate) fn word(&self, offset: u64) -> &FileWord {
        let at = self.check(offset, 8);
        if !offset.is_multiple_of(8) {
            misplaced(offset);
        }
        // SAFETY: `check` keeps the offset inside the mapping.
        let ptr = unsafe { self.ptr.as_ptr().add(at) };
        // SAFETY: in bounds and aligned (the mapping is page-aligned), and it lives as long as
        // `self`. Callers make words only of places where no claim's body can be, so that every
        // concurrent access is atomic. On a read-only map callers only load, and a relaxed or
        // acquire load of 8 bytes is allowed on read-only memory. (Of processors of 32 bits `std`
        // does not promise that, but it is so on those that are supported: the load is one `movq`
        // on i686 and one `ldrexd` on ARMv7, neither of which writes.)
        unsafe { FileWord::from_ptr(ptr.cast()) }
    }

    /// As [`word`](Self::word), for the append path: the tail has checked the place.
    ///
    /// # Safety
    /// The offset is a multiple of 8, and the word is inside the map.
    #[inline(always)]
    pub(crate) unsafe fn word_unchecked(&self, offset: u64) -> &FileWord {
        debug_assert!(offset.is_multiple_of(8) && offset + 8 <= self.len as u64);
        // SAFETY: inside the mapping, by the contract.
        let ptr = unsafe { self.ptr.as_ptr().add(offset as usize) };
        // SAFETY: as in `word`.
        unsafe { FileWord::from_ptr(ptr.cast()) }
    }

    /// Copies bytes in.
    ///
    /// # Safety
    /// The caller owns a claim over the range, has not committed it, and the map is writable.
    #[inline]
    pub(crate) unsafe fn write(&self, offset: u64, bytes: &[u8]) {
        let at = self.check(offset, bytes.len() as u64);
        debug_assert!(self.writable);
        // SAFETY: `check` keeps the range inside the mapping.
        let to = unsafe { self.ptr.as_ptr().add(at) };
        // SAFETY: `to` is valid for the length; the claim makes this thread the only one that
        // touches the range, and no safe reference to it exists, so `bytes` does not overlap.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Writes a frame's header and body behind its commit word, at `offset`.
    ///
    /// # Safety
    /// As for [`write`](Self::write), of the whole frame, which is inside the map.
    #[inline(always)]
    pub(crate) unsafe fn write_frame(&self, offset: u64, header: u64, body: &[u8]) {
        debug_assert!(self.writable && offset + HEADER + body.len() as u64 <= self.len as u64);
        // SAFETY: the frame, header and body, is inside the mapping.
        let head = unsafe { self.ptr.as_ptr().add(offset as usize + 8) };
        // SAFETY: in bounds; the claim makes this thread the only one that touches the range.
        unsafe { head.cast::<[u8; 8]>().write(header.to_le_bytes()) };
        // SAFETY: as for `head`.
        let to = unsafe { head.add(8) };
        // SAFETY: as in `write`.
        unsafe { to.copy_from_nonoverlapping(body.as_ptr(), body.len()) };
    }

    /// The range as a slice for filling.
    ///
    /// # Safety
    /// As for [`write`](Self::write), for as long as the slice lives, and there is no second one.
    #[allow(clippy::mut_from_ref, reason = "exclusive by the claim, not by the borrow")]
    pub(crate) unsafe fn slice_mut(&self, offset: u64, len: u64) -> &mut [u8] {
        let at = self.check(offset, len);
        debug_assert!(self.writable);
        // SAFETY: `check` keeps the range inside the mapping.
        let from = unsafe { self.ptr.as_ptr().add(at) };
        // SAFETY: in bounds, initialised (file or zero pages), exclusive by the caller's claim.
        unsafe { std::slice::from_raw_parts_mut(from, len as usize) }
    }

    /// The range as bytes that no longer change.
    ///
    /// # Safety
    /// The range lies in a frame that the caller has seen committed (Acquire), or no writer exists.
    #[inline]
    pub(crate) unsafe fn slice(&self, offset: u64, len: u64) -> &[u8] {
        let at = self.check(offset, len);
        // SAFETY: `check` keeps the range inside the mapping.
        let from = unsafe { self.ptr.as_ptr().add(at) };
        // SAFETY: in bounds and initialised; nothing writes committed bytes, by the contract.
        unsafe { std::slice::from_raw_parts(from, len as usize) }
    }
}

// By value, and apart: a format string takes the address of what it names, and then the values
// that the append path works with live on the stack, behind its stores to cold memory.
#[cold]
#[inline(never)]
fn beyond(offset: u64, len: u64, map: usize) -> ! {
    panic!("{offset}+{len} is beyond the map of {map}")
}

#[cold]
#[inline(never)]
fn misplaced(offset: u64) -> ! {
    panic!("a word at {offset}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_is_written_is_read() {
        let map = Map::anonymous(4096).unwrap();
        // SAFETY: this thread is alone with the map.
        unsafe { map.write(8, b"12345678") };
        assert_eq!(map.word(8).load(Relaxed), u64::from_le_bytes(*b"12345678"));
        // SAFETY: as above.
        assert_eq!(unsafe { map.slice(8, 2) }, b"12");
    }

    #[test]
    #[should_panic(expected = "beyond the map")]
    fn out_of_bounds_is_refused() {
        Map::anonymous(4096).unwrap().word(4096);
    }
}
