//! The handle of a directory, and how files in it are opened: never by a path, and never through a
//! link.

use super::lock::Lock;
use super::trust::TrustRules;
use crate::error::OpenError;
use crate::format::header::FileIdentity;
use crate::format::names;
use crate::options::Creation;
use crate::storage::sys::{self, Faults, OpenMode};
use crate::storage::temporary::{Existing, TemporaryFile};
use crate::storage::{Access, Pieces, io_error};
use crate::sync::{AtomicU32, Mutex};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A directory, locked by its one writer. Its files are found through its handle only: it may be
/// renamed, and the process may change its own directory.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Its path when it was opened, for messages.
    pub(super) path: PathBuf,
    pub(super) handle: Arc<File>,
    /// Of a writer, until it unlocks the directory.
    pub(super) lock: Mutex<Option<Lock>>,
    pub(super) access: Access,
    pub(super) trust: TrustRules,
    pub(super) boot_id: Option<u128>,
    /// For the temporary names of new files: ids that no segment has yet.
    pub(super) next_temporary: AtomicU32,
    pub(super) reserve_is_given: AtomicBool,
    /// Where SIGBUS is caught: what of its mapped files could not be accessed.
    pub(super) faults: Option<Arc<Faults>>,
}

impl Directory {
    /// As `open_to_write`, for reading: nothing is created, and no lock is taken.
    pub(crate) fn open_to_read(path: &Path, trust: TrustRules) -> Result<Self, OpenError> {
        Self::find(path, Access::Read, Creation::Never, trust)
    }

    /// Opens and locks a directory for a writer, and makes it where it is missing and may be created.
    /// Where there is a log that is not to exist, or none that has to, or something else, the directory
    /// stays as it is.
    pub(crate) fn open_to_write(
        path: &Path,
        creation: Creation,
        trust: TrustRules,
    ) -> Result<Self, OpenError> {
        Self::find(path, Access::Write, creation, trust)?.with_lock(creation)
    }

    /// Opens a directory, and makes it where it is missing and may be created.
    pub(super) fn find(
        path: &Path,
        access: Access,
        creation: Creation,
        trust: TrustRules,
    ) -> Result<Self, OpenError> {
        let faults = if trust.catch_sigbus {
            sys::catch_sigbus().map_err(|e| io_error("catch SIGBUS", e))?;
            Some(Arc::default())
        } else {
            None
        };
        let made = creation != Creation::Never && make_directory(path, trust)?;
        let handle = sys::open_directory(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::NotFound { path: path.into() },
            io::ErrorKind::NotADirectory => {
                OpenError::NotRegular { path: path.into(), expected: "directory" }
            }
            _ => io_error(format!("open {}", path.display()), error),
        })?;
        let metadata = handle.metadata();
        let metadata = metadata.map_err(|e| io_error(format!("stat {}", path.display()), e))?;
        trust.check(path, &metadata)?;
        if made {
            let shared = trust.share_directory(&handle, &metadata);
            shared.map_err(|e| io_error(format!("share {}", path.display()), e))?;
        } else if access == Access::Write {
            check_content(path, &handle, creation)?;
        }
        if access == Access::Write
            && let Err(error) = trust.check_file_system(path, &handle)
        {
            if made {
                // It is empty. If it cannot be removed, it does no harm.
                let _ = std::fs::remove_dir(path);
            }
            return Err(error);
        }
        // Early, while few descriptors are in use: if none is left, the boot id cannot be read, and
        // that must not be taken for another boot.
        let boot_id = sys::boot_id().map_err(|e| io_error("read the boot id", e))?;
        // For messages only: if the current directory is unknown, the path as given will do.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        Ok(Self {
            path,
            handle: Arc::new(handle),
            lock: Mutex::new(None),
            access,
            trust,
            boot_id,
            next_temporary: AtomicU32::new(u32::MAX),
            reserve_is_given: AtomicBool::new(false),
            faults,
        })
    }

    /// Locks it for a writer.
    pub(super) fn with_lock(self, creation: Creation) -> Result<Self, OpenError> {
        self.take_lock()?;
        if creation == Creation::Required {
            // Another one may have created a log, and closed it, before this one had the lock.
            check_content(&self.path, &self.handle, creation)?;
        }
        Ok(self)
    }

    pub(super) fn describe(&self, verb: &str, name: &str) -> String {
        format!("{verb} {}", self.path.join(name).display())
    }

    /// All names in the directory, except those that are not UTF-8: the log has none of them.
    pub(super) fn file_names(&self) -> Result<Vec<String>, OpenError> {
        let names = sys::names(&self.handle);
        let names = names.map_err(|e| io_error(format!("list {}", self.path.display()), e))?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    /// Opens a file of this directory, of any kind. If it is new, only trusted users may access it.
    fn open_any(&self, name: &str, mode: OpenMode) -> io::Result<File> {
        let open = |mode| sys::open_at(&self.handle, name, mode, self.trust.file_mode());
        if mode != OpenMode::Create {
            return open(mode);
        }
        match open(OpenMode::CreateNew) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(mode),
            new => new.and_then(|file| self.trust.share_file(&file).map(|()| file)),
        }
    }

    /// Opens a regular file of this directory, never through a link, that only trusted users can
    /// write to.
    pub(super) fn open_file(&self, name: &str, mode: OpenMode) -> Result<File, OpenError> {
        let not_regular =
            || OpenError::NotRegular { path: self.path.join(name), expected: "regular file" };
        let file = self.open_any(name, mode).map_err(|e| {
            if sys::is_not_regular(&e) {
                not_regular()
            } else {
                io_error(self.describe("open", name), e)
            }
        })?;
        let metadata = file.metadata().map_err(|e| io_error(self.describe("stat", name), e))?;
        if !metadata.is_file() {
            return Err(not_regular());
        }
        self.trust.check(&self.path.join(name), &metadata)?;
        Ok(file)
    }

    /// A new file of this directory, under a temporary name.
    pub(super) fn temporary_file(&self, name: &str) -> io::Result<TemporaryFile> {
        let new = TemporaryFile::create(&self.handle, name, self.trust.file_mode())?;
        self.trust.share_file(&new.file)?;
        Ok(new)
    }

    /// Writes a new file, and gives it its name when it is whole.
    pub(super) fn publish_with(
        &self,
        name: &str,
        existing: Existing,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let new = self.temporary_file(name)?;
        write(&new.file)?;
        new.publish(name, existing).map(drop)
    }

    /// As `publish_with`, durably.
    pub(super) fn publish_durably(
        &self,
        name: &str,
        existing: Existing,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        self.publish_with(name, existing, |file| write(file).and_then(|()| file.sync_all()))?;
        self.handle.sync_all()
    }
}

pub(super) fn write_pieces(file: &File, pieces: Pieces<'_>) -> io::Result<()> {
    pieces.iter().try_for_each(|(at, bytes)| file.write_all_at(bytes, *at))
}

pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) fn identity(file: &File) -> io::Result<FileIdentity> {
    let metadata = file.metadata()?;
    Ok(FileIdentity { device: metadata.dev(), inode: metadata.ino() })
}

/// Refuses a directory whose content is not what `creation` wants, before anything is created in it, and
/// be it a lock.
fn check_content(path: &Path, handle: &File, creation: Creation) -> Result<(), OpenError> {
    let all = sys::names(handle).map_err(|e| io_error(format!("list {}", path.display()), e))?;
    let is = |name: &OsString, kind: fn(&str) -> bool| name.to_str().is_some_and(kind);
    let path = path.to_owned();
    match (creation, all.iter().any(|name| is(name, names::is_of_a_log))) {
        (Creation::Never, false) => return Err(OpenError::NotFound { path }),
        (Creation::Required, true) => return Err(OpenError::Exists { path }),
        (_, true) => return Ok(()),
        (_, false) => {}
    }
    let foreign = |name: &OsString| !is(name, names::may_be_beside_a_new_log);
    // The same one each time, in whatever order the file system has them.
    let found = all.into_iter().filter(foreign).min();
    found.map_or(Ok(()), |found| Err(OpenError::Foreign { path, found }))
}

/// Creates a directory if there is none. Returns whether it did.
fn make_directory(path: &Path, trust: TrustRules) -> Result<bool, OpenError> {
    let made = match std::fs::DirBuilder::new().mode(trust.directory_mode()).create(path) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
        Err(e) => return Err(io_error(format!("create {}", path.display()), e)),
    };
    match sync_parent(path) {
        // Its creator may have died before syncing the name; this user may not be allowed to.
        Err(e) if made || e.kind() != io::ErrorKind::PermissionDenied => {
            let parent = parent(path).display();
            Err(io_error(format!("sync {parent}, the parent of {}", path.display()), e))
        }
        _ => Ok(made),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
