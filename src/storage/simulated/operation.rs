//! The operations of a simulated disk, and how they are made to fail.

use std::io;

/// An operation on a [`SimulatedDisk`](super::SimulatedDisk). Replacing the MANIFEST and creating a
/// segment take several: the file is created under a temporary name, synced, renamed, and the directory
/// is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiskOperation {
    /// Creates a file under a temporary name, and fills it.
    Create,
    /// Syncs its content.
    SyncNew,
    /// Gives it its name; or renames a file.
    Rename,
    /// Removes a name.
    Remove,
    /// Syncs the directory.
    SyncDirectory,
    /// Syncs a range of a segment.
    Sync,
    /// Releases the space of a range (punches a hole).
    Release,
    /// Allocates the parts of a file that have no space.
    Allocate,
    /// Lists the names.
    List,
    /// Opens a file.
    Open,
    /// Reads the MANIFEST.
    ReadManifest,
    /// Reads the boot id, when the disk is opened.
    ReadBootId,
}

impl DiskOperation {
    /// Whether it changes the disk.
    #[must_use]
    pub const fn is_write(self) -> bool {
        !matches!(self, Self::List | Self::Open | Self::ReadManifest | Self::ReadBootId)
    }
}

/// A planned failure.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// This many operations that change the disk succeed, and then all fail.
    pub(super) writes_left: Option<u64>,
    pub(super) syncs_left: Option<u64>,
    pub(super) once: Vec<PlannedFailure>,
}

#[derive(Debug)]
pub(super) struct PlannedFailure {
    pub(super) operation: DiskOperation,
    /// Part of the file's name.
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
        let meant =
            |once: &PlannedFailure| once.operation == operation && name.contains(&once.name);
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
