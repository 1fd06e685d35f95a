//! Space for files: what is free, and whether all of a file has its own.

#![allow(unsafe_code, reason = "asks the kernel where the extents of a file are")]

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::ioctl::{Opcode, Updater, opcode};
use std::fs::File;
use std::io;

/// The least that is allocated at a time, where signals cut larger pieces short.
const PIECE: u64 = 64 << 10;

/// Allocates the first `len` bytes of a file, and makes it as long.
pub(super) fn allocate(file: &File, len: u64) -> io::Result<()> {
    let (mut at, mut step) = (0, len);
    while at < len {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), at, step.min(len - at)) {
            Ok(()) => at += step,
            // tmpfs gives back what it has got so far: smaller pieces fit between two signals.
            Err(Errno::INTR) => step = (step / 2).next_multiple_of(PIECE),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes sure that every page of a file can be written to, also on a full disk: there are no holes,
/// and nothing is shared with another file.
pub(super) fn ensure_own(file: &File, len: u64) -> io::Result<()> {
    // Asked first: on XFS allocating what is allocated takes free space.
    if is_own(file, len)? {
        return Ok(());
    }
    let unshare = || rustix::fs::fallocate(file, FallocateFlags::UNSHARE_RANGE, 0, len);
    match retry_on_intr(unshare) {
        // File systems that share no extents.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    allocate(file, len)
}

/// Gives back the space of a range, which reads as zeros afterwards.
pub(super) fn punch(file: &File, from: u64, to: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(retry_on_intr(|| rustix::fs::fallocate(file, flags, from, to - from))?)
}

/// Bytes that are free on the file system of a file or directory, for this user. A hint: quotas and
/// what other programs take meanwhile are not in it.
#[allow(dead_code, reason = "for the size of segments")]
pub(super) fn free(file: &File) -> io::Result<u64> {
    let found = retry_on_intr(|| rustix::fs::fstatvfs(file))?;
    let blocks = if rustix::process::geteuid().is_root() { found.f_bfree } else { found.f_bavail };
    Ok(blocks.saturating_mul(found.f_frsize))
}

/// `struct fiemap` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Head {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// Extents that are asked for at a time.
const EXTENTS: usize = 64;

#[repr(C)]
struct Extents {
    head: Head,
    all: [Extent; EXTENTS],
}

const FIEMAP: Opcode = opcode::read_write::<Head>(b'f', 11);
const SHARED: u32 = 0x2000;

/// Whether all of the first `len` bytes are allocated, and not shared with another file. False where
/// the file system does not say.
fn is_own(file: &File, len: u64) -> io::Result<bool> {
    let mut at = 0;
    while at < len {
        let head = Head { start: at, length: len - at, count: EXTENTS as u32, ..Head::default() };
        let mut found = Extents { head, all: [Extent::default(); EXTENTS] };
        // SAFETY: the opcode is FS_IOC_FIEMAP, whose argument is a `struct fiemap` with room for as
        // many extents behind it as `count` says.
        let request = unsafe { Updater::<FIEMAP, Extents>::new(&mut found) };
        // SAFETY: the kernel fills what the request points to and nothing else.
        match unsafe { rustix::ioctl::ioctl(file, request) } {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let before = at;
        for extent in &found.all[..(found.head.mapped as usize).min(EXTENTS)] {
            if extent.logical > at || extent.flags & SHARED != 0 {
                return Ok(false);
            }
            at = at.max(extent.logical.saturating_add(extent.length));
        }
        if at == before {
            return Ok(false);
        }
    }
    Ok(true)
}
