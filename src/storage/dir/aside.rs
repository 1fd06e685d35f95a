//! The folder of files that recovery set aside. A file is never without a name on the way there or
//! back: it gets the new one durably before it loses the old one.

use super::directory::{Directory, write_pieces};
use crate::error::OpenError;
use crate::format::names::{self, SET_ASIDE};
use crate::storage::temporary::{Existing, TemporaryFile};
use crate::storage::{Pieces, io_error, sys};
use std::fs::File;
use std::io;
use std::sync::Arc;

impl Directory {
    fn open_aside(&self) -> io::Result<File> {
        sys::open_directory_at(&self.handle, SET_ASIDE)
    }

    /// The folder of what was set aside, made where it is missing.
    fn aside_folder(&self) -> io::Result<File> {
        match sys::make_directory(&self.handle, SET_ASIDE, self.trust.directory_mode()) {
            Ok(()) => {
                let folder = self.open_aside()?;
                self.trust.share_directory(&folder, &folder.metadata()?)?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        // Also if it was there: who made it may have died before syncing its name.
        self.handle.sync_all()?;
        self.open_aside()
    }

    pub(super) fn move_aside(&self, name: &str, to: &str) -> io::Result<String> {
        let folder = self.aside_folder()?;
        let taken = free_name(to, |to| add_name(&self.handle, name, &folder, to))?;
        leave_name(&self.handle, name, &folder)?;
        Ok(taken)
    }

    pub(super) fn link_to_aside(&self, name: &str, to: &str) -> io::Result<String> {
        let folder = self.aside_folder()?;
        let taken = free_name(to, |to| sys::link(&self.handle, name, &folder, to))?;
        folder.sync_all()?;
        Ok(taken)
    }

    pub(super) fn write_aside(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()> {
        let folder = Arc::new(self.aside_folder()?);
        if sys::exists(&folder, name)? {
            // It is whole. Who wrote it may have died before syncing its name.
            return folder.sync_all();
        }
        let new = TemporaryFile::create(&folder, name, self.trust.file_mode())?;
        self.trust.share_file(&new.file)?;
        new.file.set_len(len)?;
        write_pieces(&new.file, pieces)?;
        new.file.sync_all()?;
        new.publish(name, Existing::Replace)?;
        folder.sync_all()
    }

    pub(super) fn move_back(&self, name: &str, to: &str) -> io::Result<()> {
        let folder = self.open_aside()?;
        add_name(&folder, name, &self.handle, to)?;
        leave_name(&folder, name, &self.handle)
    }

    pub(super) fn list_aside(&self) -> Result<Vec<(String, u64)>, OpenError> {
        let error = |e: io::Error| io_error(self.describe("list", SET_ASIDE), e);
        let folder = match self.open_aside() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(error)?,
        };
        let mut all = Vec::new();
        for name in sys::names(&folder).map_err(error)? {
            let Ok(name) = name.into_string() else { continue };
            if names::is_temporary(&name) {
                // What a crash left half written.
                continue;
            }
            let stat = sys::stat(&folder, &name).map_err(error)?;
            if stat.is_file {
                all.push((name, stat.allocated));
            }
        }
        all.sort_unstable();
        Ok(all)
    }
}

/// Gives a file a second name in another folder, before it loses its first: a power loss may leave both
/// names, but must not leave none. If this was interrupted before, the file has the second name
/// already.
fn add_name(from: &File, name: &str, to: &File, new: &str) -> io::Result<()> {
    match sys::link(from, name, to, new) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_same(from, name, to, new)? => {
            Ok(())
        }
        Err(e) if sys::cannot_link(&e) => sys::rename_new(from, name, to, new),
        other => other,
    }
}

/// Takes away the name of a file that has got another one in another folder, durably.
fn leave_name(from: &File, name: &str, to: &File) -> io::Result<()> {
    to.sync_all()?;
    match sys::remove(from, name) {
        // It was renamed.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    from.sync_all()
}

fn is_same(from: &File, name: &str, to: &File, new: &str) -> io::Result<bool> {
    Ok(sys::stat(from, name)?.id == sys::stat(to, new)?.id)
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
