//! Real files in a directory that is private to its user.

use super::{ASIDE, Access, Head, Opened, SegmentFile, Storage, io_error};
use crate::error::OpenError;
use crate::format::header::FileIdentity;
use crate::segment::map::Map;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MANIFEST: &str = "MANIFEST";
/// More than a MANIFEST with all ids that there can be on a device of some petabytes.
const MANIFEST_MAX: u64 = 64 << 20;
const TEMPORARY: &str = ".tmp";
/// How long a writer waits for readers that look at what is there.
const READERS: Duration = Duration::from_secs(10);

/// A directory, locked by its one writer.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    handle: File,
    lock: Option<Lock>,
    access: Access,
    boot_id: Option<u128>,
}

/// LOCK, locked. It is unlocked, and not just closed: a process that is being started by another
/// thread has a copy of the descriptor until it runs its program, and would hold the lock.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Where that fails, closing does it.
        let _ = self.0.unlock();
    }
}

impl Directory {
    /// Opens and locks a directory, and makes it where it is missing and `access` is writing.
    pub(crate) fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        if access == Access::Write {
            make_private(path)?;
        }
        let handle = File::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => OpenError::NotFound { path: path.into() },
            _ => io_error(format!("open {}", path.display()), e),
        })?;
        check_private(path, &handle)?;
        // Before there are many segments: a descriptor is needed, and "no descriptor is left" must
        // not look like "another start of the kernel".
        let boot_id = read_boot_id()?;
        let mut directory = Self { path: path.into(), handle, lock: None, access, boot_id };
        directory.take_lock()?;
        Ok(directory)
    }

    /// A writer holds LOCK alone. A reader shares it while it looks at what is there, so that no
    /// writer repairs it meanwhile, and does without where one has it; the log is then live. The
    /// kernel drops the lock with its holder.
    fn take_lock(&mut self) -> Result<(), OpenError> {
        self.lock = match self.access {
            Access::Write => Some(self.lock_alone()?),
            Access::Read => self.lock_shared()?,
        };
        Ok(())
    }

    /// Waits for readers, who hold the lock for a moment, but not for another writer.
    fn lock_alone(&self) -> Result<Lock, OpenError> {
        let deadline = Instant::now() + READERS;
        let lock = self.open_at("LOCK", OFlags::RDWR | OFlags::CREATE)?;
        loop {
            if try_lock(lock.try_lock())? {
                return Ok(Lock(lock));
            }
            let probe = self.open_at("LOCK", OFlags::RDWR)?;
            if !try_lock(probe.try_lock_shared())? || Instant::now() > deadline {
                return Err(OpenError::Locked { path: self.path.clone() });
            }
            drop(Lock(probe));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn lock_shared(&self) -> Result<Option<Lock>, OpenError> {
        use io::ErrorKind::{NotFound, PermissionDenied};
        match self.open_at("LOCK", OFlags::RDONLY) {
            Ok(lock) => Ok(try_lock(lock.try_lock_shared())?.then(|| Lock(lock))),
            Err(OpenError::Io { source, .. })
                if matches!(source.kind(), NotFound | PermissionDenied) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn describe(&self, verb: &str, name: &str) -> String {
        format!("{verb} {}", self.path.join(name).display())
    }

    fn open_raw(&self, name: &str, flags: OFlags) -> io::Result<File> {
        // NONBLOCK: a FIFO must not hold up the open; it is refused by `open_at`.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(rustix::fs::openat(&self.handle, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Opens a regular file of this directory, never through a link.
    fn open_at(&self, name: &str, flags: OFlags) -> Result<File, OpenError> {
        let not_regular =
            || OpenError::NotRegular { path: self.path.join(name), expected: "regular file" };
        let file = self.open_raw(name, flags).map_err(|e| {
            match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(
                    rustix::io::Errno::LOOP | rustix::io::Errno::NXIO | rustix::io::Errno::ISDIR,
                ) => not_regular(),
                _ => io_error(self.describe("open", name), e),
            }
        })?;
        let kind = file.metadata().map_err(|e| io_error(self.describe("stat", name), e))?;
        if kind.is_file() { Ok(file) } else { Err(not_regular()) }
    }

    /// Writes a new file under a temporary name, durably, and gives it its own.
    fn publish_durably(
        &self,
        name: &str,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<File> {
        let write = |file: &File| write(file).and_then(|()| file.sync_all());
        let file = self.publish_with(name, write)?;
        self.sync_directory()?;
        Ok(file)
    }

    fn publish_with(
        &self,
        name: &str,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<File> {
        let temporary = format!("{name}{TEMPORARY}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = match self.open_raw(&temporary, flags) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(&temporary)?;
                self.open_raw(&temporary, flags)?
            }
            other => other?,
        };
        let done = write(&file).and_then(|()| {
            Ok(rustix::fs::renameat(&self.handle, &*temporary, &self.handle, name)?)
        });
        if let Err(error) = done {
            let _ = self.remove(&temporary);
            return Err(error);
        }
        Ok(file)
    }
}

impl Directory {
    fn open_aside(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.handle, ASIDE, flags, Mode::empty())?.into())
    }

    /// The folder of what was set aside, made where it is missing.
    fn aside_folder(&self) -> io::Result<File> {
        match rustix::fs::mkdirat(&self.handle, ASIDE, Mode::RWXU) {
            Ok(()) => self.handle.sync_all()?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        self.open_aside()
    }
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

fn try_lock(tried: Result<(), TryLockError>) -> Result<bool, OpenError> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(io_error("lock LOCK", e)),
    }
}

fn make_private(path: &Path) -> Result<(), OpenError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_parent(path).map_err(|e| io_error("sync the parent directory", e)),
        // Whoever made it may not have synced its name.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match sync_parent(path) {
            Err(e) if e.kind() != io::ErrorKind::PermissionDenied => {
                Err(io_error("sync the parent directory", e))
            }
            _ => Ok(()),
        },
        Err(e) => Err(io_error(format!("create {}", path.display()), e)),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
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

fn check_private(path: &Path, handle: &File) -> Result<(), OpenError> {
    let metadata =
        handle.metadata().map_err(|e| io_error(format!("stat {}", path.display()), e))?;
    if !metadata.is_dir() {
        return Err(OpenError::NotRegular { path: path.into(), expected: "directory" });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(OpenError::NotPrivate { path: path.into(), mode });
    }
    Ok(())
}

impl Storage for Directory {
    fn boot_id(&self) -> Option<u128> {
        self.boot_id
    }

    fn list(&self) -> Result<Vec<String>, OpenError> {
        let error = |e| io_error(format!("list {}", self.path.display()), e);
        let names = std::fs::read_dir(&self.path).map_err(error)?;
        let names = names.map(|entry| Ok(entry?.file_name().into_string().ok()));
        Ok(names.collect::<io::Result<Vec<_>>>().map_err(error)?.into_iter().flatten().collect())
    }

    fn create(&self, name: &str, len: u64, head: Head<'_>) -> io::Result<Opened> {
        let file = self.publish_durably(name, |file| {
            rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)?;
            file.write_all_at(&head(identity(file)?), 0)
        })?;
        let identity = identity(&file)?;
        let map = Map::of_file(&file, len as usize)?;
        map.prefer_huge_pages();
        Ok(Opened { map, file: Box::new(RealFile(file)), identity })
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
        Ok(rustix::fs::unlinkat(&self.handle, name, rustix::fs::AtFlags::empty())?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn set_aside(&self, name: &str) -> io::Result<String> {
        let folder = self.aside_folder()?;
        let taken = free_name(name, |to| {
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            Ok(rustix::fs::renameat_with(&self.handle, name, &folder, to, flags)?)
        })?;
        // The new name first: a power loss may show both, and must not show neither.
        folder.sync_all()?;
        self.handle.sync_all()?;
        Ok(taken)
    }

    fn keep_aside(&self, name: &str, len: u64, pieces: &[(u64, &[u8])]) -> io::Result<String> {
        let folder = self.aside_folder()?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut made = None;
        let taken = free_name(name, |to| {
            made = Some(rustix::fs::openat(&folder, to, flags, Mode::RUSR | Mode::WUSR)?);
            Ok(())
        })?;
        let file = File::from(made.expect("it was opened"));
        let write = || {
            file.set_len(len)?;
            pieces.iter().try_for_each(|(at, bytes)| file.write_all_at(bytes, *at))?;
            file.sync_all()
        };
        if let Err(error) = write() {
            // Of no use, and what it is a copy of is still where it was.
            let _ = rustix::fs::unlinkat(&folder, &*taken, rustix::fs::AtFlags::empty());
            return Err(error);
        }
        folder.sync_all()?;
        self.handle.sync_all()?;
        Ok(taken)
    }

    fn aside(&self) -> Result<Vec<(String, u64)>, OpenError> {
        let error = |e: io::Error| io_error(self.describe("list", ASIDE), e);
        let folder = match self.open_aside() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(error)?,
        };
        let mut all = Vec::new();
        for entry in rustix::fs::Dir::read_from(&folder).map_err(|e| error(e.into()))? {
            let entry = entry.map_err(|e| error(e.into()))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
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
        self.publish_durably(MANIFEST, |mut file| file.write_all(bytes)).map(drop)
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if let Err(OpenError::NotRegular { .. }) = self.open_at(name, OFlags::RDONLY) {
            // Somebody else's, and not to be replaced.
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.publish_with(name, |mut file| file.write_all(bytes)).map(drop)
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn is_shared(&self) -> bool {
        self.lock.is_none()
    }

    fn share(&mut self) {
        self.lock = None;
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
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.0, flags, from, to - from) {
            // The space stays taken, and nothing else is lost.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len)?)
    }
}
