//! Mappings of files, and of memory without one.

#![allow(unsafe_code, reason = "maps files, and protects what is mapped")]

use super::faults::{Faults, FileName};
use super::platform;
use super::sigbus::Watched;
use memmap2::{Advice, Mmap, MmapMut, MmapOptions};
use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// A multiple of the kernel's page size, on all systems.
const PAGES: usize = 64 << 10;

/// Bytes that are asked for at a time: the least that kernels read ahead by default.
const ASKED: usize = 128 << 10;

/// So much is taken out of a mapping at a time, before it is unmapped.
const PIECE: usize = 4 << 20;

/// A range of addresses that is mapped, until it is dropped. What its bytes mean, and who may touch
/// them, is up to its owner.
///
/// Unmapping locks all of the process's address space until the last page is out of it, and meanwhile
/// other threads wait that map or unmap anything, and behind them those whose page faults need that lock.
/// So the pages are taken out first, piece by piece, which locks less and for less long; what is unmapped
/// then has none.
#[derive(Debug)]
pub(crate) struct Mapping {
    mapped: Mapped,
    /// Where SIGBUS is caught.
    watched: Option<Watched>,
}

#[derive(Debug)]
enum Mapped {
    Write(MmapMut),
    Read(Mmap),
}

/// Moves the content of a range of private memory, as long and as aligned as a huge page, to a huge page.
/// A hint: whatever is not memory, or not of this kind, is left as it is.
///
/// The kernel copies the range while it locks all of the process's address space, to a huge page that is
/// free. If nothing has touched that one since the machine was started, a hypervisor has to find memory for
/// it first, which takes milliseconds. So one is touched here and freed again, which locks nothing, and
/// most likely is the one that the kernel takes.
pub(crate) fn move_to_huge_page(from: usize, len: usize) {
    if let Ok(mut spare) = Mapping::anonymous(2 * len) {
        spare.prefer_huge_pages(0, 2 * len);
        let start = spare.start().as_ptr();
        let skip = start.align_offset(len);
        if skip < len {
            // SAFETY: inside the mapping, which nobody else knows.
            unsafe { start.wrapping_add(skip).write_volatile(1) };
        }
    }
    platform::move_to_huge_page(from, len);
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Before it is unmapped: the addresses are somebody else's then.
        self.watched = None;
        if cfg!(miri) {
            return; // It knows no such system call.
        }
        let (start, len) = (self.start().as_ptr(), self.len());
        for from in (0..len).step_by(PIECE) {
            let piece = PIECE.min(len - from);
            // SAFETY: inside the mapping, which nobody accesses any more. What was stored in a file's
            // pages is the file's, and stays.
            unsafe { platform::discard_pages(start.wrapping_add(from), piece) };
        }
    }
}

impl Mapping {
    const fn new(mapped: Mapped) -> Self {
        Self { mapped, watched: None }
    }

    /// Has a SIGBUS that an access to it raises recorded as a fault of a file. To be called before anything
    /// is accessed; SIGBUS is [caught](super::catch_sigbus).
    pub(crate) fn watch(&mut self, file: FileName, faults: Arc<Faults>) {
        let (from, len, writable) = (self.start().addr().get(), self.len(), self.is_writable());
        self.watched = Some(Watched::new(from, len, writable, file, faults));
    }

    /// Where the page begins that could not be accessed, the first one if there are more. What was loaded
    /// before this call is as it is in the file, if there is none.
    pub(crate) fn fault(&self) -> Option<u64> {
        self.watched.as_ref()?.failed()
    }

    /// Maps a part of a file for writing; the kernel writes back to the file what is stored there.
    ///
    /// # Safety
    /// As long as it is mapped, the file is not truncated, and all other changes of its bytes follow
    /// the rules that accesses through this mapping follow.
    pub(crate) unsafe fn writable(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        // SAFETY: the contract above.
        let map = unsafe { MmapOptions::new().offset(offset).len(len).map_mut(file) };
        map.map(|map| Self::new(Mapped::Write(map)))
    }

    /// Maps a part of a file for reading. Changes of the file show.
    ///
    /// # Safety
    /// As for [`writable`](Self::writable).
    pub(crate) unsafe fn read_only(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        // SAFETY: the contract above.
        let map = unsafe { MmapOptions::new().offset(offset).len(len).map(file) };
        map.map(|map| Self::new(Mapped::Read(map)))
    }

    /// Zeroed memory without a file.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        MmapOptions::new().len(len).map_anon().map(|map| Self::new(Mapped::Write(map)))
    }

    /// Where it begins. A pointer for writing if it is mapped for writing.
    pub(crate) fn start(&mut self) -> NonNull<u8> {
        match &mut self.mapped {
            Mapped::Write(map) => NonNull::from(&mut map[..]).cast(),
            Mapped::Read(map) => NonNull::from(&map[..]).cast(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.mapped {
            Mapped::Write(map) => map.len(),
            Mapped::Read(map) => map.len(),
        }
    }

    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.mapped, Mapped::Write(_))
    }

    /// Asks for huge pages in a range. A hint.
    pub(crate) fn prefer_huge_pages(&self, from: usize, len: usize) {
        if let Some(advice) = platform::HUGE_PAGES {
            self.advise(advice, from, len);
        }
    }

    /// No longer asks for huge pages in a range: with them, the kernel reads 2 MiB for one page. A hint.
    pub(crate) fn avoid_huge_pages(&self, from: usize, len: usize) {
        if let Some(advice) = platform::NO_HUGE_PAGES {
            self.advise(advice, from, len);
        }
    }

    /// Makes pages of a range present for writing. A hint: what the kernel does not do here, the
    /// first access to a page does.
    pub(crate) fn populate(&self, from: usize, len: usize) {
        if let Some(advice) = platform::POPULATE {
            self.advise(advice, from, len);
        }
    }

    /// Says that pages are accessed here and there, so that reading ahead is of no use; or no longer.
    /// A hint.
    pub(crate) fn expect_scattered(&self, scattered: bool) {
        let advice = if scattered { Advice::Random } else { Advice::Normal };
        self.advise(advice, 0, self.len());
    }

    /// Says that the pages of a range are accessed here and there. A hint.
    pub(crate) fn expect_scattered_in(&self, from: usize, len: usize) {
        self.advise(Advice::Random, from, len);
    }

    /// Says that the pages of a range are accessed one after the other. A hint.
    pub(crate) fn expect_in_sequence(&self, from: usize, len: usize) {
        self.advise(Advice::Sequential, from, len);
    }

    /// Starts to read a range, and does not wait for it. A hint.
    pub(crate) fn will_need(&self, from: usize, len: usize) {
        // Of each request the kernel reads no more than the device takes at a time, or the read-ahead, and
        // leaves out the rest.
        for at in (from..from + len).step_by(ASKED) {
            self.advise(Advice::WillNeed, at, ASKED.min(from + len - at));
        }
    }

    /// Whether a page near a byte is in memory, so that reading it needs no device. `None`: not known.
    pub(crate) fn is_resident(&self, at: usize) -> Option<bool> {
        let start = match &self.mapped {
            Mapped::Write(map) => map.as_ptr(),
            Mapped::Read(map) => map.as_ptr(),
        };
        assert!(at < self.len(), "{at} is beyond the mapping");
        // The start of a mapping is that of a page.
        // SAFETY: inside the mapping, as was just checked.
        let page = unsafe { start.add(at - at % PAGES) };
        // SAFETY: as above.
        unsafe { platform::is_resident(page) }
    }

    fn advise(&self, advice: Advice, from: usize, len: usize) {
        let _ = match &self.mapped {
            Mapped::Write(map) => map.advise_range(advice, from, len),
            Mapped::Read(map) => map.advise_range(advice, from, len),
        };
    }

    /// Hands what was stored in a range to the file, where syncing the file does not do so by itself.
    pub(crate) fn flush(&self, from: usize, to: usize) -> io::Result<()> {
        match &self.mapped {
            Mapped::Write(map) if platform::SYNC_NEEDS_FLUSH => {
                let to = to.min(map.len());
                map.flush_range(from, to.saturating_sub(from))
            }
            _ => Ok(()),
        }
    }

    /// Takes write permission away.
    ///
    /// # Safety
    /// Nothing is stored through this mapping any more.
    pub(crate) unsafe fn protect(&self) -> io::Result<()> {
        let Mapped::Write(map) = &self.mapped else { return Ok(()) };
        let flags = rustix::mm::MprotectFlags::READ;
        // SAFETY: the range is exactly this mapping, and what is left of it is read, as the contract
        // says.
        unsafe { rustix::mm::mprotect(map.as_ptr().cast_mut().cast(), map.len(), flags) }?;
        Ok(())
    }
}
