//! What is done to a simulated disk, and how it is made to fail.

use std::io;

/// An operation on a [`SimulatedDisk`](super::SimulatedDisk). Replacing the MANIFEST and creating a
/// segment take several: the file is made under a temporary name, synced, renamed, and the directory
/// is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiskOperation {
    /// A file is made under a temporary name, and filled.
    Create,
    /// What it was filled with is made durable.
    SyncNew,
    /// It gets its name; or a file gets another one.
    Rename,
    /// A name is removed.
    Remove,
    /// The names in the directory are made durable.
    SyncDirectory,
    /// A range of a segment is made durable.
    Sync,
    /// The space of a range is given back.
    Release,
    /// What is not allocated of a file is.
    Allocate,
    /// The names are listed.
    List,
    /// A file is opened.
    Open,
    /// The MANIFEST is read.
    ReadManifest,
    /// The boot id is read, which is done when the disk is opened.
    ReadBootId,
}

impl DiskOperation {
    /// Whether it changes anything.
    #[must_use]
    pub const fn is_write(self) -> bool {
        !matches!(self, Self::List | Self::Open | Self::ReadManifest | Self::ReadBootId)
    }
}

/// What is to fail.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// So many operations that change something do not, and then all do.
    pub(super) writes_left: Option<u64>,
    pub(super) syncs_left: Option<u64>,
    pub(super) once: Vec<Once>,
}

#[derive(Debug)]
pub(super) struct Once {
    pub(super) operation: DiskOperation,
    /// A part of the name.
    pub(super) name: String,
    pub(super) after: u64,
    pub(super) kind: io::ErrorKind,
}

impl Failures {
    pub(super) fn check(&mut self, operation: DiskOperation, name: &str) -> io::Result<()> {
        if operation.is_write() {
            count_down(&mut self.writes_left)?;
        }
        if operation == DiskOperation::Sync {
            count_down(&mut self.syncs_left)?;
        }
        let meant = |once: &Once| once.operation == operation && name.contains(&once.name);
        let Some(at) = self.once.iter().position(meant) else { return Ok(()) };
        if self.once[at].after > 0 {
            self.once[at].after -= 1;
            return Ok(());
        }
        let kind = self.once.remove(at).kind;
        Err(io::Error::new(kind, format!("simulated failure of {operation:?} {name}")))
    }
}

fn count_down(left: &mut Option<u64>) -> io::Result<()> {
    match left {
        Some(0) => Err(io::Error::other("simulated failure")),
        Some(n) => {
            *n -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}
