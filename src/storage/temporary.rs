//! New files: each has a temporary name until it is whole.

use super::sys::{self, OpenMode};
use crate::format::names;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// What a new file does about one that has its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// That one stays, and the new one is an error.
    Keep,
    Replace,
}

/// A new file under a temporary name. It is removed when it is dropped without being published.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    pub(crate) file: File,
    name: TemporaryName,
}

#[derive(Debug)]
struct TemporaryName {
    folder: Arc<File>,
    name: String,
    published: bool,
}

impl TemporaryFile {
    /// Creates a file that is to be called `name`, most likely. Only this process makes files in the
    /// folder: what is found under the temporary name was left by one that died.
    pub(crate) fn create(folder: &Arc<File>, name: &str, permissions: u32) -> io::Result<Self> {
        let name = names::temporary_name(name);
        let open = || sys::open_at(folder, &name, OpenMode::CreateNew, permissions);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                sys::remove(folder, &name)?;
                open()?
            }
            other => other?,
        };
        let name = TemporaryName { folder: folder.clone(), name, published: false };
        Ok(Self { file, name })
    }

    /// Gives it its name, durably once the folder is synced.
    pub(crate) fn publish(self, name: &str, existing: Existing) -> io::Result<File> {
        let Self { file, name: mut temporary } = self;
        let folder = &temporary.folder;
        match existing {
            Existing::Replace => sys::rename(folder, &temporary.name, folder, name)?,
            Existing::Keep => match sys::rename_new(folder, &temporary.name, folder, name) {
                // A link does not replace anything, either.
                Err(error) if sys::is_unsupported(&error) => {
                    sys::link(folder, &temporary.name, folder, name)?;
                    sys::remove(folder, &temporary.name)?;
                }
                other => other?,
            },
        }
        temporary.published = true;
        Ok(file)
    }
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // What it has allocated must not stay behind. Where this fails, the next open removes it.
        if let Err(error) = sys::remove(&self.folder, &self.name) {
            tracing::warn!(name = self.name, %error, "could not remove an unfinished file");
        }
    }
}
