//! Linux.

#![allow(unsafe_code, reason = "ioctl and madvise take addresses")]

use super::{FileSystem, holders};
use memmap2::Advice;
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::ioctl::{Opcode, Updater, opcode};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::MembarrierCommand;
use std::fs::File;
use std::io;

pub(super) const HUGE_PAGES: Option<Advice> = Some(Advice::HugePage);
pub(super) const NO_HUGE_PAGES: Option<Advice> = Some(Advice::NoHugePage);
pub(super) const POPULATE: Option<Advice> = Some(Advice::PopulateWrite);
/// `fsync` and `fdatasync` write what was stored through mappings, too.
pub(super) const SYNC_NEEDS_FLUSH: bool = false;
/// Whether a directory can be locked on every file system of this system's own.
pub(crate) const DIRECTORIES_LOCK: bool = true;
/// Errors of reading that are the device's.
pub(super) const UNREADABLE: &[Errno] = &[Errno::IO, Errno::ILSEQ, Errno::UCLEAN, Errno::BADMSG];

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Which start of the kernel this is. `None` where there is no such file, or nothing in it that is an
/// id: a kernel or a sandbox that does not tell. Any other failure says nothing about the kernel, and
/// is an error.
pub(crate) fn boot_id() -> io::Result<Option<u128>> {
    use io::ErrorKind::{InvalidData, NotADirectory, NotFound};
    match std::fs::read_to_string(BOOT_ID) {
        Ok(text) => {
            let id = u128::from_str_radix(&text.trim().replace('-', ""), 16);
            Ok(id.ok().filter(|&id| id != 0))
        }
        Err(e) if matches!(e.kind(), NotFound | NotADirectory | InvalidData) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The process that holds the lock of a whole file or directory (flock(2)), as far as the kernel tells.
pub(crate) fn lock_holder(file: &File) -> Option<u32> {
    let found = rustix::fs::fstat(file).ok()?;
    let device = (rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev));
    holders::of_file(&std::fs::read_to_string("/proc/locks").ok()?, device, found.st_ino)
}

/// Fills a buffer with bytes that cannot be predicted.
pub(crate) fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match getrandom(&mut bytes[done..], GetRandomFlags::empty()) {
            // Not an answer that the kernel gives; the loop would never end.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => done += more,
            // A signal came before the kernel's generator was ready, early in a boot.
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Asks for [`membarrier`], and says whether it can be had.
pub(crate) fn register_membarrier() -> bool {
    rustix::thread::membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
}

/// A full memory barrier in every running thread of this process, which has registered for it.
pub(crate) fn membarrier() {
    let done = rustix::thread::membarrier(MembarrierCommand::PrivateExpedited);
    done.expect("a registered membarrier works");
}

/// Asks for huge pages under some memory. A hint.
///
/// # Safety
/// All pages from `from` on, for `len` bytes, are mapped.
pub(crate) unsafe fn prefer_huge_pages(from: *mut u8, len: usize) {
    // SAFETY: the pages are mapped, and the advice changes nothing that can be seen in them.
    let _ = unsafe { rustix::mm::madvise(from.cast(), len, rustix::mm::Advice::LinuxHugepage) };
}

/// The size of a huge page, if there are any and processes may ask for them.
pub(crate) fn huge_page() -> Option<usize> {
    const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";
    let setting = |name| std::fs::read_to_string(format!("{SETTINGS}/{name}")).ok();
    if setting("enabled")?.contains("[never]") {
        return None;
    }
    setting("hpage_pmd_size")?.trim().parse().ok().filter(|size: &usize| size.is_power_of_two())
}

/// Moves the content of a range of private memory, as long and as aligned as a huge page, to a huge page.
/// A hint: whatever is not memory, or not of this kind, is left as it is.
pub(super) fn move_to_huge_page(from: usize, len: usize) {
    // Since Linux 6.1; older ones refuse it.
    const MADV_COLLAPSE: libc::c_int = 25;
    // SAFETY: it changes neither what is mapped nor what can be read there.
    unsafe { libc::madvise(std::ptr::without_provenance_mut(from), len, MADV_COLLAPSE) };
}

/// Takes pages out of the address space, and gives private memory back to the system: that is zero when
/// it is read again, and of a file's pages what the file has. A hint.
///
/// # Safety
/// All pages from `from` on, for `len` bytes, are the caller's, and nothing is expected to be in them
/// afterwards, except what is in a file.
pub(crate) unsafe fn discard_pages(from: *mut u8, len: usize) {
    // SAFETY: as if zeros were stored in private memory, which the caller may do; files do not change.
    let _ = unsafe { rustix::mm::madvise(from.cast(), len, rustix::mm::Advice::LinuxDontNeed) };
}

/// Whether a page of a mapping is in memory, so that reading it needs no device. `None`: not known.
///
/// # Safety
/// The page that begins at `page` is mapped.
pub(super) unsafe fn is_resident(page: *const u8) -> Option<bool> {
    let mut answer = 0;
    // SAFETY: one byte is asked for, so the kernel writes one byte; the page is mapped.
    let done = unsafe { libc::mincore(page.cast_mut().cast(), 1, &raw mut answer) };
    (done == 0).then_some(answer & 1 == 1)
}

/// Tells how much memory there is for this process.
#[derive(Debug)]
pub(crate) struct AvailableMemory(super::memory::MemoryGroups);

impl AvailableMemory {
    pub(crate) fn find() -> Self {
        Self(super::memory::MemoryGroups::find(text))
    }

    /// Bytes that are free now, or would be if pages of files were given up: of the machine, or less if a
    /// control group limits this process. `None`: not known.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.0.available(text)
    }
}

fn text(path: &std::path::Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Gives up the pages of a file that are in memory, as far as they are on the device. A hint.
pub(crate) fn leave_memory(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

/// A file in memory, without a name, of this many zeros.
pub(crate) fn memory_file(len: u64) -> io::Result<File> {
    let file = rustix::fs::memfd_create("tailcask", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, len)?;
    Ok(file.into())
}

/// Gives a new file the contents of another one, by sharing its blocks. Not every file system can.
pub(crate) fn share_blocks(new: &File, old: &File) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(new, old)?)
}

/// The least that is allocated at a time, where signals cut larger pieces short.
const PIECE: u64 = 64 << 10;

/// Allocates the first `len` bytes of a file, and makes it as long.
pub(crate) fn allocate(file: &File, len: u64) -> io::Result<()> {
    let (mut at, mut step) = (0, len);
    while at < len {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), at, step.min(len - at)) {
            Ok(()) => at += step,
            // tmpfs frees what it has allocated so far: smaller pieces fit between two signals.
            Err(Errno::INTR) => step = (step / 2).next_multiple_of(PIECE),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes sure that every page of a file can be written to, also on a full disk: there are no holes,
/// and nothing is shared with another file. Nothing writes to the file meanwhile.
pub(crate) fn ensure_own(file: &File, len: u64) -> io::Result<()> {
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
pub(crate) fn punch(file: &File, from: u64, to: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(retry_on_intr(|| rustix::fs::fallocate(file, flags, from, to - from))?)
}

/// `struct fiemap` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Fiemap {
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
struct FiemapExtent {
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
struct FiemapRequest {
    head: Fiemap,
    all: [FiemapExtent; EXTENTS],
}

const FIEMAP: Opcode = opcode::read_write::<Fiemap>(b'f', 11);
const SHARED: u32 = 0x2000;

/// Whether all of the first `len` bytes are allocated, and not shared with another file. False where
/// the file system does not say.
fn is_own(file: &File, len: u64) -> io::Result<bool> {
    let mut at = 0;
    while at < len {
        let head =
            Fiemap { start: at, length: len - at, count: EXTENTS as u32, ..Fiemap::default() };
        let mut found = FiemapRequest { head, all: [FiemapExtent::default(); EXTENTS] };
        // SAFETY: the opcode is FS_IOC_FIEMAP, whose argument is a `struct fiemap` with room for as
        // many extents behind it as `count` says.
        let request = unsafe { Updater::<FIEMAP, FiemapRequest>::new(&mut found) };
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

/// The file system of a directory.
pub(crate) fn file_system(directory: &File) -> io::Result<FileSystem> {
    let found = retry_on_intr(|| rustix::fs::fstatfs(directory))?;
    // 32 bits on all architectures, in fields of different sizes and signs.
    let magic = found.f_type as u32;
    Ok(FileSystem { name: name_of(magic), writes_in_place: IN_PLACE.contains(&magic) })
}

const EXT: u32 = 0xef53;
const XFS: u32 = 0x5846_5342;
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;
const OVERLAY: u32 = 0x794c_7630;

/// They write to preallocated blocks where these are, or keep them in memory. What lies under an
/// overlay cannot be determined; docs/durability.md says what is assumed of it.
const IN_PLACE: [u32; 5] = [EXT, XFS, TMPFS, RAMFS, OVERLAY];

const OTHERS: [(u32, &str); 20] = [
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0xf2f5_2010, "f2fs"),
    (0x6969, "nfs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x517b, "smb"),
    (0x00c3_6400, "ceph"),
    (0x786f_4256, "vboxsf"),
    (0xf15f, "ecryptfs"),
    (0x2011_bab0, "exfat"),
    (0x4d44, "vfat"),
    (0x5346_544e, "ntfs"),
    (0x7366_746e, "ntfs3"),
    (0x3434, "nilfs"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
];

fn name_of(magic: u32) -> String {
    let known = OTHERS.iter().find(|(known, _)| *known == magic);
    known.map_or_else(|| format!("of type {magic:#x}"), |(_, name)| (*name).to_owned())
}
