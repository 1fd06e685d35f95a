//! Real files in a directory that is private to its user.

use super::lock::{Lock, Record, has_record, is_unsupported};
use super::trust::Rules;
use super::{
    Access, Head, Opened, Pieces, Prepared, SegmentFile, Storage, Writer, io_error, space,
};
use crate::error::OpenError;
use crate::format::header::FileIdentity;
use crate::format::names::{self, LOCK, MANIFEST, MANIFEST_SPARE, RESERVE, SET_ASIDE};
use crate::format::u32_at;
use crate::storage::map::Map;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SPARE_LEN: u64 = 4096;
/// How many times the size of the reserve has to be free for one to be made.
const PLENTY: u64 = 4;
/// More than a MANIFEST with all ids that there can be on a device of some petabytes.
const MANIFEST_MAX: u64 = 64 << 20;
/// How long a writer waits for readers that look at what is there.
const READERS: Duration = Duration::from_secs(10);

/// A directory, locked by its one writer. Its files are found through its handle only: it may be
/// renamed, and the process may change its own directory.
#[derive(Debug)]
pub(crate) struct Directory {
    /// As it was called when it was opened: for messages.
    path: PathBuf,
    handle: File,
    lock: Option<Lock>,
    access: Access,
    rules: Rules,
    boot_id: Option<u128>,
    /// For the temporary names of new files: ids that no segment has yet.
    unnamed: AtomicU32,
    reserve_is_given: AtomicBool,
}

/// A new file under a temporary name, which goes if the file gets no other.
#[derive(Debug)]
pub(crate) struct Unnamed {
    directory: File,
    file: File,
    name: String,
    named: bool,
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if self.named {
            return;
        }
        let removed = rustix::fs::unlinkat(&self.directory, &*self.name, AtFlags::empty());
        if let Err(error) = removed {
            // The next open removes it.
            tracing::warn!(name = self.name, %error, "could not remove an unfinished file");
        }
    }
}

/// What a new file does about one that has its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

impl Directory {
    /// Opens and locks a directory, and makes it where it is missing and `access` is writing.
    pub(crate) fn open(path: &Path, access: Access, rules: Rules) -> Result<Self, OpenError> {
        let made = access == Access::Write && make_directory(path, rules)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
        let handle: File = match opened {
            Ok(handle) => handle.into(),
            Err(Errno::NOENT) => return Err(OpenError::NotFound { path: path.into() }),
            Err(Errno::NOTDIR) => {
                return Err(OpenError::NotRegular { path: path.into(), expected: "directory" });
            }
            Err(error) => return Err(io_error(format!("open {}", path.display()), error.into())),
        };
        let metadata = handle.metadata();
        let metadata = metadata.map_err(|e| io_error(format!("stat {}", path.display()), e))?;
        rules.check(path, &metadata)?;
        if access == Access::Write
            && let Err(error) = rules.check_file_system(path, &handle)
        {
            if made {
                // Empty, and of no use to anybody. If it cannot be removed, it does no harm.
                let _ = std::fs::remove_dir(path);
            }
            return Err(error);
        }
        // Before there are many segments: a descriptor is needed, and "no descriptor is left" must
        // not look like "another start of the kernel".
        let boot_id = read_boot_id()?;
        // Where the path of the process cannot be told, messages have to do with what was given.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        let mut directory = Self {
            path,
            handle,
            lock: None,
            access,
            rules,
            boot_id,
            unnamed: AtomicU32::new(u32::MAX),
            reserve_is_given: AtomicBool::new(false),
        };
        directory.take_lock()?;
        Ok(directory)
    }

    /// A writer holds the lock alone, a reader holds none. The kernel drops it with its holder.
    fn take_lock(&mut self) -> Result<(), OpenError> {
        self.lock = match self.access {
            Access::Write => Some(self.lock_alone()?),
            Access::Read => None,
        };
        Ok(())
    }

    /// Waits for readers, who hold the lock for a moment, but not for another writer.
    fn lock_alone(&self) -> Result<Lock, OpenError> {
        let deadline = Instant::now() + READERS;
        loop {
            if let Some(lock) = self.try_lock(true)? {
                match lock.record(Record::Open) {
                    Err(error) if !is_unsupported(&error) => return Err(self.lock_error(error)),
                    _ => return Ok(lock),
                }
            }
            let readers = self.try_lock(false)?;
            if readers.is_none() || Instant::now() > deadline {
                return Err(OpenError::Locked { path: self.path.clone() });
            }
            drop(readers);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn lock_error(&self, error: io::Error) -> OpenError {
        io_error(format!("lock {}", self.path.display()), error)
    }

    /// Locks the directory, by a descriptor of its own, and then LOCK, which is made for a writer. A
    /// reader does without LOCK where there is none, or it may not open it.
    fn try_lock(&self, exclusive: bool) -> Result<Option<Lock>, OpenError> {
        let mut lock = Lock::default();
        let directory = self.open_raw(".", OFlags::RDONLY | OFlags::DIRECTORY);
        match lock.add(directory.map_err(|e| self.lock_error(e))?, exclusive) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) if self.rules.any_file_system && is_unsupported(&error) => {
                tracing::warn!(%error, "this file system locks no directories: LOCK has to do");
            }
            Err(error) => return Err(self.lock_error(error)),
        }
        let flags = if exclusive { OFlags::RDWR | OFlags::CREATE } else { OFlags::RDONLY };
        let file = match self.open_at(LOCK, flags) {
            // The directory's own lock is enough. Only version 0.1.0 has no other.
            Err(OpenError::Io { source, .. }) if self.does_without(&source) => {
                return Ok(Some(lock));
            }
            other => other?,
        };
        let taken = lock.add(file, exclusive).map_err(|e| self.lock_error(e))?;
        Ok(taken.then_some(lock))
    }

    /// Whether the MANIFEST is one of version 0.1.0, or cannot be told.
    fn is_legacy(&self) -> Result<bool, OpenError> {
        let manifest = self.read_manifest()?;
        Ok(manifest.is_none_or(|manifest| u32_at(&manifest, 8) != crate::format::VERSION))
    }

    /// Whether an error of opening LOCK is no reason to stop.
    fn does_without(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{NotFound, PermissionDenied, QuotaExceeded, StorageFull};
        match error.kind() {
            NotFound | PermissionDenied => self.access == Access::Read,
            StorageFull | QuotaExceeded => true,
            _ => false,
        }
    }

    /// Keeps writers out for as long as it is held; nothing is made for that.
    pub(crate) fn lock_shared(&self) -> Result<impl Drop + use<>, OpenError> {
        let lock = self.try_lock(false)?;
        lock.ok_or_else(|| OpenError::Locked { path: self.path.clone() })
    }

    fn describe(&self, verb: &str, name: &str) -> String {
        format!("{verb} {}", self.path.join(name).display())
    }

    fn open_raw(&self, name: &str, flags: OFlags) -> io::Result<File> {
        // NONBLOCK: a FIFO must not hold up the open; it is refused by `open_at`.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::from_bits_truncate(self.rules.file_mode());
        Ok(retry_on_intr(|| rustix::fs::openat(&self.handle, name, flags, mode))?.into())
    }

    /// Opens a regular file of this directory, never through a link, that only trusted users can
    /// write to.
    fn open_at(&self, name: &str, flags: OFlags) -> Result<File, OpenError> {
        let not_regular =
            || OpenError::NotRegular { path: self.path.join(name), expected: "regular file" };
        let file = self.open_raw(name, flags).map_err(|e| {
            match e.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => not_regular(),
                _ => io_error(self.describe("open", name), e),
            }
        })?;
        let metadata = file.metadata().map_err(|e| io_error(self.describe("stat", name), e))?;
        if !metadata.is_file() {
            return Err(not_regular());
        }
        self.rules.check(&self.path.join(name), &metadata)?;
        Ok(file)
    }

    /// Writes a new file under a temporary name, durably, and gives it its own.
    fn publish_durably(
        &self,
        name: &str,
        existing: Existing,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<File> {
        let write = |file: &File| write(file).and_then(|()| file.sync_all());
        let file = self.publish_with(name, existing, write)?;
        self.sync_directory()?;
        Ok(file)
    }

    fn publish_with(
        &self,
        name: &str,
        existing: Existing,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<File> {
        let temporary = names::temporary_name(name);
        let file = self.new_file(&temporary)?;
        let done = write(&file).and_then(|()| self.rename(&temporary, name, existing));
        if let Err(error) = done {
            // What it has allocated must not stay behind. Else the next open removes it.
            if let Err(error) = self.remove(&temporary) {
                tracing::warn!(name = temporary, %error, "could not remove an unfinished file");
            }
            return Err(error);
        }
        Ok(file)
    }

    /// A new file under a temporary name, which only this process uses.
    fn new_file(&self, temporary: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        match self.open_raw(temporary, flags) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(temporary)?;
                self.open_raw(temporary, flags)
            }
            other => other,
        }
    }

    fn rename(&self, from: &str, to: &str, existing: Existing) -> io::Result<()> {
        let here = &self.handle;
        if existing == Existing::Replace {
            return Ok(retry_on_intr(|| rustix::fs::renameat(here, from, here, to))?);
        }
        let rename = || rustix::fs::renameat_with(here, from, here, to, RenameFlags::NOREPLACE);
        match retry_on_intr(rename) {
            // Not on every file system. A link does not replace anything, either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                retry_on_intr(|| rustix::fs::linkat(here, from, here, to, AtFlags::empty()))?;
                self.remove(from)
            }
            other => Ok(other?),
        }
    }
}

impl Directory {
    /// Makes a reserve, as large as it can be, that leaves several times as much free.
    fn make_reserve(&self, wanted: u64, least: u64, there: u64) -> io::Result<bool> {
        let free = space::free(&self.handle)?.saturating_add(there);
        let sizes = std::iter::successors(Some(wanted), |size| Some(size / 2));
        for size in sizes.take_while(|&size| size >= least && size > there) {
            if free < size.saturating_mul(PLENTY) {
                continue;
            }
            let allocate = |file: &File| space::allocate(file, size);
            match self.publish_with(RESERVE, Existing::Replace, allocate) {
                Err(error) if is_no_space(&error) => {}
                other => {
                    other?;
                    self.make_spare()?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn make_spare(&self) -> io::Result<()> {
        match self.open_at(MANIFEST_SPARE, OFlags::RDONLY) {
            Ok(_) => Ok(()),
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let allocate = |file: &File| space::allocate(file, SPARE_LEN);
                self.publish_with(MANIFEST_SPARE, Existing::Replace, allocate).map(drop)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Writes a MANIFEST in the place of the one before the last, and lets the two change names: that
    /// takes no space.
    fn write_spare(&self, bytes: &[u8]) -> io::Result<()> {
        let file = self.open_at(MANIFEST_SPARE, OFlags::RDWR).map_err(io::Error::other)?;
        // If somebody died between the exchange and the sync behind it, what is the spare now is still
        // the MANIFEST on the device.
        self.sync_directory()?;
        file.write_all_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()?;
        let here = &self.handle;
        let exchange = || {
            rustix::fs::renameat_with(here, MANIFEST_SPARE, here, MANIFEST, RenameFlags::EXCHANGE)
        };
        match retry_on_intr(exchange) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOENT) => {
                self.rename(MANIFEST_SPARE, MANIFEST, Existing::Replace)?;
            }
            other => other?,
        }
        self.sync_directory()
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a directory where there is none, and says whether it did.
fn make_directory(path: &Path, rules: Rules) -> Result<bool, OpenError> {
    let made = match std::fs::DirBuilder::new().mode(rules.directory_mode()).create(path) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
        Err(e) => return Err(io_error(format!("create {}", path.display()), e)),
    };
    match sync_parent(path) {
        // Whoever made it may not have synced its name, and whoever opens it may not be able to.
        Err(e) if made || e.kind() != io::ErrorKind::PermissionDenied => {
            Err(io_error("sync the parent directory", e))
        }
        _ => Ok(made),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Writes a new file under a temporary name, and gives it its own.
fn publish_in(
    folder: &File,
    name: &str,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<File> {
    let temporary = names::temporary_name(name);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(folder, &*temporary, flags, Mode::RUSR | Mode::WUSR);
    let remove = || rustix::fs::unlinkat(folder, &*temporary, AtFlags::empty());
    let file = match open() {
        Err(rustix::io::Errno::EXIST) => {
            remove()?;
            File::from(open()?)
        }
        other => File::from(other?),
    };
    let done =
        write(&file).and_then(|()| Ok(rustix::fs::renameat(folder, &*temporary, folder, name)?));
    if let Err(error) = done {
        // Of no use, and the next recovery removes it, too.
        let _ = remove();
        return Err(error);
    }
    Ok(file)
}

fn write_pieces(file: &File, pieces: Pieces<'_>) -> io::Result<()> {
    pieces.iter().try_for_each(|(at, bytes)| file.write_all_at(bytes, *at))
}

impl Directory {
    fn open_aside(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.handle, SET_ASIDE, flags, Mode::empty())?.into())
    }

    /// The folder of what was set aside, made where it is missing.
    fn aside_folder(&self) -> io::Result<File> {
        let mode = Mode::from_bits_truncate(self.rules.directory_mode());
        match rustix::fs::mkdirat(&self.handle, SET_ASIDE, mode) {
            Ok(()) => self.handle.sync_all()?,
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        self.open_aside()
    }
}

/// Gives a file another name in another folder, before it loses its own: a power loss may show both,
/// and must not show neither. One that was cut short here before has that name already.
fn add_name(from: &File, name: &str, to: &File, new: &str) -> io::Result<()> {
    match rustix::fs::linkat(from, name, to, new, AtFlags::empty()) {
        Err(Errno::EXIST) if is_same(from, name, to, new)? => Ok(()),
        // Links are not to be had everywhere, nor to files of others.
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::MLINK) => {
            Ok(rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE)?)
        }
        other => Ok(other?),
    }
}

/// Takes away the name of a file that has got another one in another folder, durably.
fn leave_name(from: &File, name: &str, to: &File) -> io::Result<()> {
    to.sync_all()?;
    match rustix::fs::unlinkat(from, name, AtFlags::empty()) {
        // It was renamed.
        Ok(()) | Err(Errno::NOENT) => from.sync_all(),
        Err(error) => Err(error.into()),
    }
}

fn is_same(from: &File, name: &str, to: &File, new: &str) -> io::Result<bool> {
    let one = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let other = rustix::fs::statat(to, new, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Tries `name`, then `name.1` and so on, until one is not taken.
fn free_name(name: &str, mut take: impl FnMut(&str) -> io::Result<()>) -> io::Result<String> {
    for number in 0u32.. {
        let to = if number == 0 { name.to_owned() } else { format!("{name}.{number}") };
        match take(&to) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| to),
        }
    }
    unreachable!("no folder holds 2^32 files of one name")
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// `None` where there is no such file, or nothing in it that is an id: a kernel or a sandbox that
/// does not tell. Any other failure says nothing about the kernel, and is an error.
fn read_boot_id() -> Result<Option<u128>, OpenError> {
    use io::ErrorKind::{InvalidData, NotADirectory, NotFound};
    match std::fs::read_to_string(BOOT_ID) {
        Ok(text) => {
            let id = u128::from_str_radix(&text.trim().replace('-', ""), 16);
            Ok(id.ok().filter(|&id| id != 0))
        }
        Err(e) if matches!(e.kind(), NotFound | NotADirectory | InvalidData) => Ok(None),
        Err(e) => Err(io_error(format!("read {BOOT_ID}"), e)),
    }
}

fn identity(file: &File) -> io::Result<FileIdentity> {
    let metadata = file.metadata()?;
    Ok(FileIdentity { device: metadata.dev(), inode: metadata.ino() })
}

impl Storage for Directory {
    fn boot_id(&self) -> Option<u128> {
        self.boot_id
    }

    fn list(&self) -> Result<Vec<String>, OpenError> {
        let error =
            |e: Errno| io_error(format!("list {}", self.path.display()), io::Error::from(e));
        let mut names = Vec::new();
        for entry in retry_on_intr(|| rustix::fs::Dir::read_from(&self.handle)).map_err(error)? {
            // A name that is no text is none of the log's.
            if let Ok(name) = entry.map_err(error)?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        names.retain(|name| name != "." && name != "..");
        Ok(names)
    }

    fn create(&self, name: &str, len: u64, head: Head<'_>) -> io::Result<Opened> {
        self.create_prepared(self.prepare(len)?, name, head)
    }

    fn prepare(&self, len: u64) -> io::Result<Prepared> {
        // ORDERING: Relaxed; each number is drawn once.
        let number = self.unnamed.fetch_sub(1, Ordering::Relaxed);
        let name = names::temporary_name(&names::segment_name(number));
        let directory = self.handle.try_clone()?;
        let file = self.new_file(&name)?;
        let unnamed = Unnamed { directory, file, name, named: false };
        space::allocate(&unnamed.file, len)?;
        Ok(Prepared { len, file: Some(unnamed) })
    }

    fn create_prepared(
        &self,
        prepared: Prepared,
        name: &str,
        head: Head<'_>,
    ) -> io::Result<Opened> {
        let len = prepared.len as usize;
        let mut unnamed = prepared.file.expect("it was prepared here");
        let file = unnamed.file.try_clone()?;
        let identity = identity(&file)?;
        file.write_all_at(&head(identity), 0)?;
        file.sync_all()?;
        let map = Map::of_file(&file, len)?;
        self.rename(&unnamed.name, name, Existing::Keep)?;
        unnamed.named = true;
        self.sync_directory()?;
        map.prefer_huge_pages();
        Ok(Opened { map, file: Box::new(RealFile(file)), identity })
    }

    fn free_space(&self) -> Option<u64> {
        // Where it cannot be told, what is too large is tried, and refused.
        space::free(&self.handle).ok()
    }

    fn keep_reserve(&self, wanted: u64, least: u64) -> io::Result<bool> {
        let there = match self.open_at(RESERVE, OFlags::RDONLY) {
            Ok(file) => file.metadata()?.blocks() * 512,
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(io::Error::other(error)),
        };
        if wanted > 0 && there <= wanted / 2 && !self.make_reserve(wanted, least, there)? {
            return Ok(there > 0);
        }
        // ORDERING: Relaxed; whoever changes the reserve does so alone.
        self.reserve_is_given.store(false, Ordering::Relaxed);
        Ok(true)
    }

    fn give_back_reserve(&self) -> io::Result<bool> {
        match self.remove(RESERVE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
            Ok(()) => {
                // ORDERING: Relaxed; as above.
                self.reserve_is_given.store(true, Ordering::Relaxed);
                tracing::warn!("there is no space left: the reserve is given back");
                Ok(true)
            }
        }
    }

    fn reserve_is_given(&self) -> bool {
        // ORDERING: Relaxed; says nothing about other memory.
        self.reserve_is_given.load(Ordering::Relaxed)
    }

    fn open(&self, name: &str, access: Access) -> Result<Opened, OpenError> {
        let flags = if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY };
        let file = self.open_at(name, flags)?;
        let error = |e| io_error(self.describe("map", name), e);
        let len = file.metadata().map_err(error)?.len() as usize;
        let identity = identity(&file).map_err(error)?;
        let map = match access {
            _ if len == 0 => Map::anonymous(1).map_err(error)?,
            Access::Write => Map::of_file(&file, len).map_err(error)?,
            Access::Read => Map::of_file_read_only(&file, len).map_err(error)?,
        };
        Ok(Opened { map, file: Box::new(RealFile(file)), identity })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()))?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn set_aside(&self, name: &str, to: &str) -> io::Result<String> {
        let folder = self.aside_folder()?;
        let taken = free_name(to, |to| add_name(&self.handle, name, &folder, to))?;
        leave_name(&self.handle, name, &folder)?;
        Ok(taken)
    }

    fn link_aside(&self, name: &str, to: &str) -> io::Result<String> {
        let folder = self.aside_folder()?;
        let taken = free_name(to, |to| {
            let flags = rustix::fs::AtFlags::empty();
            Ok(rustix::fs::linkat(&self.handle, name, &folder, to, flags)?)
        })?;
        folder.sync_all()?;
        Ok(taken)
    }

    fn keep_aside(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()> {
        let folder = self.aside_folder()?;
        match rustix::fs::accessat(&folder, name, rustix::fs::Access::EXISTS, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let write = |file: &File| {
            file.set_len(len)?;
            write_pieces(file, pieces)?;
            file.sync_all()
        };
        publish_in(&folder, name, write)?;
        folder.sync_all()
    }

    fn bring_back(&self, name: &str, to: &str) -> io::Result<()> {
        let folder = self.open_aside()?;
        add_name(&folder, name, &self.handle, to)?;
        leave_name(&folder, name, &self.handle)
    }

    fn replace(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()> {
        let write = |file: &File| {
            space::allocate(file, len)?;
            write_pieces(file, pieces)
        };
        self.publish_durably(name, Existing::Replace, write).map(drop)
    }

    fn aside(&self) -> Result<Vec<(String, u64)>, OpenError> {
        let error = |e: io::Error| io_error(self.describe("list", SET_ASIDE), e);
        let folder = match self.open_aside() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(error)?,
        };
        let mut all = Vec::new();
        for entry in rustix::fs::Dir::read_from(&folder).map_err(|e| error(e.into()))? {
            let entry = entry.map_err(|e| error(e.into()))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if names::is_temporary(name) {
                // What a crash left half written.
                continue;
            }
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            let stat = rustix::fs::statat(&folder, name, flags).map_err(|e| error(e.into()))?;
            if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
                all.push((name.to_owned(), stat.st_blocks as u64 * 512));
            }
        }
        all.sort_unstable();
        Ok(all)
    }

    fn read_manifest(&self) -> Result<Option<Vec<u8>>, OpenError> {
        let file = match self.open_at(MANIFEST, OFlags::RDONLY) {
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let mut bytes = Vec::new();
        let read = file.take(MANIFEST_MAX).read_to_end(&mut bytes);
        read.map_err(|e| io_error(self.describe("read", MANIFEST), e))?;
        Ok(Some(bytes))
    }

    fn write_manifest(&self, bytes: &[u8]) -> io::Result<()> {
        let write = || {
            let write = |mut file: &File| file.write_all(bytes);
            self.publish_durably(MANIFEST, Existing::Replace, write).map(drop)
        };
        let first = match write() {
            Err(error) if is_no_space(&error) => error,
            other => return other,
        };
        let Err(error) = self.write_spare(bytes) else { return Ok(()) };
        tracing::debug!(%error, "the spare MANIFEST cannot be used");
        if self.give_back_reserve()? {
            return write();
        }
        // Hints are of use, and not needed: the segments say the same.
        for name in self.list().map_err(io::Error::other)? {
            if names::hint_id(&name).is_some() && self.remove(&name).is_ok() {
                tracing::warn!(name, "there is no space left: a hint was removed");
                match write() {
                    Err(error) if is_no_space(&error) => {}
                    other => return other,
                }
            }
        }
        Err(first)
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if let Err(OpenError::NotRegular { .. }) = self.open_at(name, OFlags::RDONLY) {
            // Somebody else's, and not to be replaced.
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.publish_with(name, Existing::Replace, |mut file| file.write_all(bytes)).map(drop)
    }

    fn directory(&self) -> Option<&File> {
        Some(&self.handle)
    }

    fn writer(&self) -> Result<Writer, OpenError> {
        let probe =
            || Ok(if self.try_lock(false)?.is_some() { Writer::None } else { Writer::Live });
        let lock = match self.open_at(LOCK, OFlags::RDONLY) {
            // Removed by hand, or never made: the directory itself tells, for the price of a lock
            // that is held for a moment.
            Err(OpenError::Io { source, .. }) if self.does_without(&source) => return probe(),
            other => other?,
        };
        match has_record(&lock, Record::Recovered) {
            Ok(true) => Ok(Writer::Live),
            Ok(false) if has_record(&lock, Record::Open).map_err(|e| self.lock_error(e))? => {
                Ok(Writer::Recovering)
            }
            // Version 0.1.0 has none of these.
            Ok(false) if self.is_legacy()? => probe(),
            Ok(false) => Ok(Writer::None),
            Err(error) if is_unsupported(&error) => probe(),
            Err(error) => Err(self.lock_error(error)),
        }
    }

    fn note_recovered(&self) -> io::Result<()> {
        match self.lock.as_ref().map_or(Ok(()), |lock| lock.record(Record::Recovered)) {
            // Then readers probe.
            Err(error) if is_unsupported(&error) => Ok(()),
            other => other,
        }
    }
}

#[derive(Debug)]
struct RealFile(File);

impl SegmentFile for RealFile {
    /// The whole file: what is dirty in it beside the range was just written and must follow
    /// anyway, and `fdatasync` also waits for what the kernel began to write by itself.
    fn sync(&self, _from: u64, _to: u64) -> io::Result<()> {
        self.0.sync_data()
    }

    fn release(&self, from: u64, to: u64) -> io::Result<()> {
        space::punch(&self.0, from, to)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        space::ensure_own(&self.0, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, access: Access) -> Directory {
        Directory::open(path, access, Rules::default()).unwrap()
    }

    #[test]
    fn a_new_segment_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path(), Access::Write);
        std::fs::write(dir.path().join("there"), "precious").unwrap();
        let created = directory.create("there", 4096, &|_| vec![1; 128]);
        assert_eq!(created.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("there")).unwrap(), b"precious");
        let mut names = directory.list().unwrap();
        names.sort();
        assert_eq!(names, ["LOCK", "there"], "nothing is left of it");
        assert_eq!(directory.create("new", 4096, &|_| vec![1; 128]).unwrap().map.len(), 4096);
    }

    #[test]
    fn what_was_prepared_and_is_not_used_goes() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path(), Access::Write);
        let (one, two) = (directory.prepare(1 << 20).unwrap(), directory.prepare(1 << 20).unwrap());
        drop(one);
        directory.create_prepared(two, "two", &|_| vec![2; 128]).unwrap();
        let mut names = directory.list().unwrap();
        names.sort();
        assert_eq!(names, ["LOCK", "two"]);
        assert_eq!(std::fs::metadata(dir.path().join("two")).unwrap().len(), 1 << 20);
    }

    #[test]
    fn readers_see_whether_there_is_a_writer_and_keep_none_out() {
        let dir = tempfile::tempdir().unwrap();
        let reader = open(dir.path(), Access::Read);
        assert_eq!(reader.writer().unwrap(), Writer::None);
        assert_eq!(reader.list().unwrap(), [""; 0], "nothing is made");
        let writer = open(dir.path(), Access::Write);
        assert_eq!(reader.writer().unwrap(), Writer::Recovering);
        writer.note_recovered().unwrap();
        assert_eq!(reader.writer().unwrap(), Writer::Live);
        std::fs::remove_file(dir.path().join("LOCK")).unwrap();
        assert_eq!(reader.writer().unwrap(), Writer::Live, "the directory's own lock tells, too");
        drop(writer);
        assert_eq!(reader.writer().unwrap(), Writer::None);
    }

    #[test]
    fn a_manifest_is_written_in_the_place_of_the_last_but_one() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path(), Access::Write);
        directory.write_manifest(b"first").unwrap();
        assert!(directory.write_spare(b"no spare").is_err());
        directory.make_spare().unwrap();
        for text in [&b"second, and longer"[..], b"third", b"fourth"] {
            directory.write_spare(text).unwrap();
            assert_eq!(directory.read_manifest().unwrap().unwrap(), text);
        }
        directory.write_manifest(b"fifth").unwrap();
        assert_eq!(directory.read_manifest().unwrap().unwrap(), b"fifth");
    }

    #[test]
    fn a_reserve_grows_and_is_given_back_once() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path(), Access::Write);
        assert!(!directory.give_back_reserve().unwrap());
        let len = || std::fs::metadata(dir.path().join(RESERVE)).map_or(0, |found| found.len());
        for (wanted, kept) in [(0, 0), (1 << 20, 1 << 20), (3 << 19, 1 << 20), (2 << 20, 2 << 20)] {
            assert!(directory.keep_reserve(wanted, 256 << 10).unwrap());
            assert_eq!(len(), kept);
        }
        assert!(directory.give_back_reserve().unwrap() && directory.reserve_is_given());
        assert!(!directory.give_back_reserve().unwrap());
        assert!(directory.keep_reserve(1 << 20, 256 << 10).unwrap());
        assert!(!directory.reserve_is_given());
        // No disk has that much.
        assert!(!directory.make_reserve(1 << 60, 1 << 60, 0).unwrap());
    }
}
