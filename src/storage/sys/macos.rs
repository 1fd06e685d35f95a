//! macOS. Checked by the compiler, and not run by the tests of this repository.

#![allow(unsafe_code, reason = "fcntl, getentropy and sysctl take addresses")]

use super::{FileSystem, plain};
use memmap2::Advice;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, retry_on_intr};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

pub(super) const HUGE_PAGES: Option<Advice> = None;
pub(super) const NO_HUGE_PAGES: Option<Advice> = None;
pub(super) const POPULATE: Option<Advice> = None;
/// `fsync` need not write what was stored through mappings: msync(2) comes first. `sync_all` and
/// `sync_data` of `std` are `F_FULLFSYNC` here, which also empties the cache of the device.
pub(super) const SYNC_NEEDS_FLUSH: bool = true;
/// flock(2) on a directory is not documented here. Where it is refused, locking LOCK has to do.
pub(crate) const DIRECTORIES_LOCK: bool = false;
/// Errors of reading that are the device's.
pub(super) const UNREADABLE: &[Errno] = &[Errno::IO, Errno::ILSEQ, Errno::BADMSG];

/// Which start of the kernel this is. `None`: it does not tell, and then what was not synced before
/// is trusted as little as after a power loss.
pub(crate) fn boot_id() -> io::Result<Option<u128>> {
    let mut text = [0u8; 64];
    let mut len = text.len();
    let name = c"kern.bootsessionuuid".as_ptr();
    // SAFETY: the name ends with a zero, `len` is the length of the buffer, and the kernel writes no
    // more to it. Nothing is set: the new value is null.
    let done = unsafe {
        libc::sysctlbyname(name, text.as_mut_ptr().cast(), &raw mut len, std::ptr::null_mut(), 0)
    };
    if done < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
    }
    let text = CStr::from_bytes_until_nul(&text).ok().and_then(|text| text.to_str().ok());
    let id = text.and_then(|text| u128::from_str_radix(&text.trim().replace('-', ""), 16).ok());
    Ok(id.filter(|&id| id != 0))
}

/// The process that holds a lock. This system does not tell.
pub(crate) fn lock_holder(_file: &File) -> Option<u32> {
    None
}

/// Fills a buffer with bytes that cannot be predicted.
pub(crate) fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    // More than this is refused.
    for piece in bytes.chunks_mut(256) {
        // SAFETY: the call writes to the piece, as far as it is long.
        let done = unsafe { libc::getentropy(piece.as_mut_ptr().cast(), piece.len()) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// There is no [`membarrier`] to ask for: both sides of a barrier use a fence.
pub(crate) fn register_membarrier() -> bool {
    false
}

/// Only called where `register_membarrier` has said yes.
pub(crate) fn membarrier() {
    unreachable!("macOS has no membarrier");
}

/// Asks for huge pages under some memory. A hint that there is no call for.
///
/// # Safety
/// All pages from `from` on, for `len` bytes, are mapped.
pub(crate) unsafe fn prefer_huge_pages(_from: *mut u8, _len: usize) {}

/// The size of a huge page: there are none to ask for.
pub(crate) fn huge_page() -> Option<usize> {
    None
}

/// Only called with the size of a huge page.
pub(super) fn move_to_huge_page(_from: usize, _len: usize) {
    unreachable!("macOS has no huge pages to ask for");
}

/// Takes pages out of the address space. A hint that is not used here.
///
/// # Safety
/// All pages from `from` on, for `len` bytes, are the caller's, and nothing is expected to be in them
/// afterwards, except what is in a file.
pub(crate) unsafe fn discard_pages(_from: *mut u8, _len: usize) {}

/// Whether a page of a mapping is in memory. `None`: not known.
///
/// # Safety
/// The page that begins at `page` is mapped.
pub(super) unsafe fn is_resident(_page: *const u8) -> Option<bool> {
    None
}

/// Tells how much memory there is for this process.
#[derive(Debug)]
pub(crate) struct AvailableMemory;

impl AvailableMemory {
    pub(crate) fn find() -> Self {
        Self
    }

    /// Half of the machine's memory: what is free is not asked for. `None`: not known.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let (mut bytes, mut len) = (0u64, size_of::<u64>());
        let name = c"hw.memsize".as_ptr();
        // SAFETY: the name ends with a zero, `len` is the length of the buffer, and the kernel writes no
        // more to it. Nothing is set: the new value is null.
        let done = unsafe {
            let to = (&raw mut bytes).cast();
            libc::sysctlbyname(name, to, &raw mut len, std::ptr::null_mut(), 0)
        };
        (done == 0 && len == size_of::<u64>()).then_some(bytes / 2)
    }
}

/// Gives up the pages of a file that are in memory. A hint that there is no call for.
pub(crate) fn leave_memory(_file: &File) -> io::Result<()> {
    Ok(())
}

/// A file without a name, of this many zeros. Not in memory: shared memory is not as large, and has
/// no holes.
pub(crate) fn memory_file(len: u64) -> io::Result<File> {
    let mut random = [0; 16];
    fill_random(&mut random)?;
    let name = format!("tailcask-{:032x}", u128::from_le_bytes(random));
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    file.set_len(len)?;
    Ok(file)
}

/// Gives a new file the contents of another one, by sharing its blocks. Here that is only to be had
/// with a new name, so the caller copies.
pub(crate) fn share_blocks(_new: &File, _old: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Allocates the first `len` bytes of a file, and makes it as long.
pub(crate) fn allocate(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() < len {
        // F_PREALLOCATE, and the length. Whatever its answer is but "no space", what counts is that
        // all blocks are written to below.
        let allocate = || rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len);
        match retry_on_intr(allocate) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT)) => return Err(error.into()),
            _ => {}
        }
    }
    plain::rewrite(file, len)
}

/// Makes sure that every page of a file can be written to, also on a full disk: there are no holes,
/// and nothing is shared with another file. Nothing writes to the file meanwhile.
pub(crate) fn ensure_own(file: &File, len: u64) -> io::Result<()> {
    plain::rewrite(file, len)
}

/// Gives back the space of a range, as far as whole blocks of it go, and makes zeros of it.
pub(crate) fn punch(file: &File, from: u64, to: u64) -> io::Result<()> {
    const BLOCK: u64 = 4096;
    let (first, last) = (from.next_multiple_of(BLOCK).min(to), to / BLOCK * BLOCK);
    if first >= last {
        return plain::write_zeros(file, from, to);
    }
    plain::write_zeros(file, from, first)?;
    plain::write_zeros(file, last, to)?;
    let hole = libc::fpunchhole_t {
        fp_flags: 0,
        reserved: 0,
        fp_offset: first as libc::off_t,
        fp_length: (last - first) as libc::off_t,
    };
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the command takes a
    // pointer to a `fpunchhole_t`, which lives until the call returns.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_PUNCHHOLE, &raw const hole) };
    // Where the file system makes no holes, the space stays taken.
    if done < 0 { plain::write_zeros(file, first, last) } else { Ok(()) }
}

/// The file system of a directory.
pub(crate) fn file_system(directory: &File) -> io::Result<FileSystem> {
    let found = retry_on_intr(|| rustix::fs::fstatfs(directory))?;
    let bytes = found.f_fstypename.iter().take_while(|&&byte| byte != 0);
    let name: String = bytes.map(|&byte| char::from(byte as u8)).collect();
    // APFS writes elsewhere what a snapshot shares, and the system makes snapshots by itself.
    let writes_in_place = name == "hfs";
    Ok(FileSystem { name, writes_in_place })
}
