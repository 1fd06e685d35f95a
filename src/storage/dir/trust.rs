//! Which directories and files are trusted enough to be mapped.
//!
//! A change of a mapped file by anyone else is undefined behaviour, and if the file system cannot
//! keep a page that it has given, a store to it is a SIGBUS. So `open` accepts only files that belong
//! to its user and that no other user may write to, on file systems that write to preallocated blocks in
//! place.

use crate::error::OpenError;
use crate::storage::{io_error, sys};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Exceptions from these rules that the user has asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TrustRules {
    /// Other members of the group may own files, and write to them.
    pub(crate) shared: bool,
    /// Any file system is accepted.
    pub(crate) any_file_system: bool,
    /// Of an access to a mapped file that fails, the process is told, and not killed by it.
    pub(crate) catch_sigbus: bool,
}

impl TrustRules {
    /// Gives a file that was created just now the bits that its group needs: the umask may have taken them
    /// away.
    pub(super) fn share_file(self, file: &File) -> io::Result<()> {
        if self.shared { sys::set_permissions(file, self.file_mode()) } else { Ok(()) }
    }

    /// As `share_file`, for a directory. It keeps the set-group-id bit that it may have from its parent.
    pub(super) fn share_directory(self, directory: &File, metadata: &Metadata) -> io::Result<()> {
        let (mode, wanted) = (metadata.mode() & 0o7777, self.directory_mode());
        if self.shared && mode & wanted != wanted {
            sys::set_permissions(directory, mode | wanted)?;
        }
        Ok(())
    }

    /// Bits of new files, less the umask.
    pub(super) const fn file_mode(self) -> u32 {
        if self.shared { 0o660 } else { 0o600 }
    }

    /// Bits of new directories, less the umask.
    pub(super) const fn directory_mode(self) -> u32 {
        if self.shared { 0o770 } else { 0o700 }
    }

    /// Refuses a file or directory that others may write to who could not change this process, too.
    pub(super) fn check(self, path: &Path, metadata: &Metadata) -> Result<(), OpenError> {
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        let writers = if self.shared { 0o002 } else { 0o022 };
        if mode & writers != 0 {
            return Err(OpenError::NotPrivate { path: path.into(), mode });
        }
        let user = sys::user();
        if !self.shared && owner != user && owner != 0 {
            return Err(OpenError::NotOwned { path: path.into(), owner, user });
        }
        Ok(())
    }

    /// Refuses a file system on which a store to a preallocated page may need space.
    pub(super) fn check_file_system(self, path: &Path, directory: &File) -> Result<(), OpenError> {
        if self.any_file_system {
            return Ok(());
        }
        let found = sys::file_system(directory)
            .map_err(|e| io_error(format!("determine the file system of {}", path.display()), e))?;
        if found.writes_in_place {
            return Ok(());
        }
        Err(OpenError::FileSystem { path: path.into(), name: found.name })
    }
}
