//! Files and names, found from the handle of a directory: the directory may be renamed, and the
//! process may change its own. Every call is made again when a signal interrupts it.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, RenameFlags, SeekFrom};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenMode {
    Read,
    /// Reading and writing.
    Write,
    /// As `Write`, and the file is created where there is none.
    Create,
    /// As `Write`, and there must be no file of that name.
    CreateNew,
}

/// Flags of all directories that are opened by a name in another one.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory by its path, for finding files in it.
pub(crate) fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?.into())
}

/// Opens a directory in a directory; `.` is another descriptor of the same one. Follows no link.
pub(crate) fn open_directory_at(folder: &File, name: impl AsRef<OsStr>) -> io::Result<File> {
    let name = name.as_ref();
    Ok(retry_on_intr(|| rustix::fs::openat(folder, name, DIRECTORY, Mode::empty()))?.into())
}

/// Opens a file in a directory, and follows no link. A new file gets the permissions, less the umask.
/// What is found may be something else than a regular file, and does not hold up the open.
pub(crate) fn open_at(
    folder: &File,
    name: impl AsRef<OsStr>,
    mode: OpenMode,
    permissions: u32,
) -> io::Result<File> {
    let flags = match mode {
        OpenMode::Read => OFlags::RDONLY,
        OpenMode::Write => OFlags::RDWR,
        OpenMode::Create => OFlags::RDWR | OFlags::CREATE,
        OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
    };
    // NONBLOCK: opening a FIFO would wait for its other end.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let (name, permissions) = (name.as_ref(), permission_bits(permissions));
    Ok(retry_on_intr(|| rustix::fs::openat(folder, name, flags, permissions))?.into())
}

fn permission_bits(bits: u32) -> Mode {
    // 16 bits on macOS, which are enough.
    Mode::from_bits_truncate(bits as RawMode)
}

/// Changes the permissions of an open file or directory, whatever the umask is.
pub(crate) fn set_permissions(file: &File, bits: u32) -> io::Result<()> {
    Ok(retry_on_intr(|| rustix::fs::fchmod(file, permission_bits(bits)))?)
}

/// Makes a directory with these permissions, less the umask.
pub(crate) fn make_directory(
    folder: &File,
    name: impl AsRef<OsStr>,
    permissions: u32,
) -> io::Result<()> {
    let name = name.as_ref();
    Ok(retry_on_intr(|| rustix::fs::mkdirat(folder, name, permission_bits(permissions)))?)
}

/// Renames, and replaces what has the new name.
pub(crate) fn rename(
    from: &File,
    name: impl AsRef<OsStr>,
    to: &File,
    new: impl AsRef<OsStr>,
) -> io::Result<()> {
    let (name, new) = (name.as_ref(), new.as_ref());
    Ok(retry_on_intr(|| rustix::fs::renameat(from, name, to, new))?)
}

/// Renames; it is an error if the new name is taken. Not every file system can: see
/// [`is_unsupported`].
pub(crate) fn rename_new(
    from: &File,
    name: impl AsRef<OsStr>,
    to: &File,
    new: impl AsRef<OsStr>,
) -> io::Result<()> {
    let (name, new) = (name.as_ref(), new.as_ref());
    let rename = || rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE);
    Ok(retry_on_intr(rename)?)
}

/// Lets two files of a directory change their names, in one step. Not every file system can.
pub(crate) fn exchange(folder: &File, one: &str, other: &str) -> io::Result<()> {
    let rename = || rustix::fs::renameat_with(folder, one, folder, other, RenameFlags::EXCHANGE);
    Ok(retry_on_intr(rename)?)
}

/// Gives a file one more name, which must not be taken.
pub(crate) fn link(
    from: &File,
    name: impl AsRef<OsStr>,
    to: &File,
    new: impl AsRef<OsStr>,
) -> io::Result<()> {
    let (name, new) = (name.as_ref(), new.as_ref());
    Ok(retry_on_intr(|| rustix::fs::linkat(from, name, to, new, AtFlags::empty()))?)
}

/// Removes the name of a file.
pub(crate) fn remove(folder: &File, name: impl AsRef<OsStr>) -> io::Result<()> {
    let name = name.as_ref();
    Ok(retry_on_intr(|| rustix::fs::unlinkat(folder, name, AtFlags::empty()))?)
}

/// Removes an empty directory.
pub(crate) fn remove_directory(folder: &File, name: impl AsRef<OsStr>) -> io::Result<()> {
    let name = name.as_ref();
    Ok(retry_on_intr(|| rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR))?)
}

/// All names in a directory but `.` and `..`.
pub(crate) fn names(folder: &File) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in retry_on_intr(|| rustix::fs::Dir::read_from(folder))? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// What a name in a directory refers to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileStat {
    /// The device and the inode: which file it is.
    pub(crate) id: (u64, u64),
    pub(crate) is_file: bool,
    /// Bytes that are allocated.
    pub(crate) allocated: u64,
}

/// What a name refers to; for a link, the link itself.
#[allow(clippy::unnecessary_cast, reason = "these fields have other types on macOS")]
pub(crate) fn stat(folder: &File, name: impl AsRef<OsStr>) -> io::Result<FileStat> {
    let name = name.as_ref();
    let stat = retry_on_intr(|| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW))?;
    Ok(FileStat {
        id: (stat.st_dev as u64, stat.st_ino as u64),
        is_file: FileType::from_raw_mode(stat.st_mode).is_file(),
        allocated: stat.st_blocks as u64 * 512,
    })
}

/// Whether there is something of that name, at the end of its link if it is one.
pub(crate) fn exists(folder: &File, name: &str) -> io::Result<bool> {
    let access = rustix::fs::Access::EXISTS;
    match retry_on_intr(|| rustix::fs::accessat(folder, name, access, AtFlags::empty())) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Where data begins in a file, at an offset or after it; `None` if there is none. An error if the file
/// system cannot say.
pub(crate) fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where the next hole begins in a file, or it ends.
pub(crate) fn next_hole(file: &File, at: u64) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, SeekFrom::Hole(at))?)
}

/// Bytes that are free on the file system of a file or directory, for this user. A hint: quotas and
/// what other programs take meanwhile are not in it.
pub(crate) fn free_space(file: &File) -> io::Result<u64> {
    let found = retry_on_intr(|| rustix::fs::fstatvfs(file))?;
    let blocks = if rustix::process::geteuid().is_root() { found.f_bfree } else { found.f_bavail };
    Ok(blocks.saturating_mul(found.f_frsize))
}

/// The user that the process acts as.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether an error of opening says that this is no regular file.
pub(crate) fn is_not_regular(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::LOOP, Errno::NXIO, Errno::ISDIR])
}

/// Whether an error says that the kernel or the file system cannot do this at all.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP])
}

/// Whether an error of linking says that this file cannot be linked here: some file systems have no
/// links, or none to files of other users, or a limited number to one file.
pub(crate) fn cannot_link(error: &io::Error) -> bool {
    is_unsupported(error) || is_one_of(error, &[Errno::PERM, Errno::MLINK])
}

/// Whether an error of reading says that the device cannot read these blocks.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    is_one_of(error, super::platform::UNREADABLE)
}

pub(super) fn is_one_of(error: &io::Error, errors: &[Errno]) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    code.is_some_and(|code| errors.contains(&code))
}
