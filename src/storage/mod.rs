//! Where segments live: real files, or memory that can lose power.

pub(crate) mod real;
pub(crate) mod simulated;

use crate::error::OpenError;
use crate::segment::map::Map;
use std::fmt::Debug;
use std::io;
use std::path::Path;

/// A directory of segments. Every method is off the writers' path.
pub(crate) trait Storage: Send + Sync + Debug {
    /// Which start of the kernel this is, if that can be known.
    fn boot_id(&self) -> Option<u128>;
    /// All names in the directory.
    fn list(&self) -> Result<Vec<String>, OpenError>;
    /// Makes a preallocated, zeroed file that begins with `head`. On return it and its name are
    /// durable.
    fn create(&self, name: &str, len: u64, head: &[u8]) -> io::Result<Opened>;
    /// Opens and maps a regular file.
    fn open(&self, name: &str, access: Access) -> Result<Opened, OpenError>;
    /// Makes or replaces a file, whole or not at all where the process dies. Nothing is synced.
    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Removes a name; durable after [`sync_directory`](Self::sync_directory).
    fn remove(&self, name: &str) -> io::Result<()>;
    fn sync_directory(&self) -> io::Result<()>;
    fn read_manifest(&self) -> Result<Option<Vec<u8>>, OpenError>;
    /// Replaces the MANIFEST, atomically and durably.
    fn write_manifest(&self, bytes: &[u8]) -> io::Result<()>;
    /// Where it is, if it is a directory.
    fn path(&self) -> Option<&Path> {
        None
    }
    /// Whether another process may be writing.
    fn is_shared(&self) -> bool {
        false
    }
    /// Lets writers in, where this is a reader that has looked at everything.
    fn share(&mut self) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// An open segment file, mapped.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) map: Map,
    pub(crate) file: Box<dyn SegmentFile>,
}

/// What is done to a segment file beside its mapping.
pub(crate) trait SegmentFile: Send + Sync + Debug {
    /// Makes a range of bytes durable.
    fn sync(&self, from: u64, to: u64) -> io::Result<()>;
    /// Gives back the space of a range, which reads as zeros afterwards, where that can be done.
    fn release(&self, from: u64, to: u64) -> io::Result<()>;
    /// Allocates what is not allocated of the first `len` bytes.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

/// What an `io::Error` means for opening.
pub(crate) fn io_error(operation: impl Into<String>, source: io::Error) -> OpenError {
    OpenError::Io { operation: operation.into(), source }
}
