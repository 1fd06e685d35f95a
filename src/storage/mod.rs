//! Where segments live: real files, or memory that can lose power.

pub(crate) mod dir;
pub(crate) mod map;
pub(crate) mod simulated;
pub(crate) mod sys;
mod temporary;

use crate::error::OpenError;
use crate::format::header::FileIdentity;
use crate::storage::map::Map;
use crate::storage::temporary::TemporaryFile;
use std::fmt::Debug;
use std::io;

/// Makes the first bytes of a file from its identity.
pub(crate) type Head<'h> = &'h dyn Fn(FileIdentity) -> Vec<u8>;

/// Bytes of a file, and where they stand in it.
pub(crate) type Pieces<'p> = &'p [(u64, &'p [u8])];

/// A directory of segments. Every method is off the writers' path.
pub(crate) trait Storage: Send + Sync + Debug {
    /// Which start of the kernel this is; `None` where the kernel does not tell.
    fn boot_id(&self) -> Option<u128>;
    /// All names in the directory.
    fn list(&self) -> Result<Vec<String>, OpenError>;
    /// Makes a preallocated, zeroed file that begins with what `head` makes of its identity. On
    /// return it and its name are durable. A file of that name is left alone, and an error.
    fn create(&self, name: &str, len: u64, head: Head<'_>) -> io::Result<Opened>;
    /// Allocates what `create_prepared` gives a name to, later and quickly. Given back if it is
    /// dropped.
    fn prepare(&self, len: u64) -> io::Result<Prepared> {
        Ok(Prepared { len, file: None })
    }
    /// As `create`, of what was prepared.
    fn create_prepared(
        &self,
        prepared: Prepared,
        name: &str,
        head: Head<'_>,
    ) -> io::Result<Opened> {
        self.create(name, prepared.len, head)
    }
    /// Bytes that are free, as far as that can be told. A hint.
    fn free_space(&self) -> Option<u64> {
        None
    }
    /// Puts up to `wanted` bytes by, but at least `least`, for when there is no space, unless enough
    /// is put by already, or there is too little. False: nothing is put by.
    fn keep_reserve(&self, _wanted: u64, _least: u64) -> io::Result<bool> {
        Ok(true)
    }
    /// Gives back what was put by. False: there was nothing.
    fn give_back_reserve(&self) -> io::Result<bool> {
        Ok(false)
    }
    /// Whether it was given back, by this call or by a MANIFEST that needed room, and not put by
    /// again since.
    fn reserve_is_given(&self) -> bool {
        false
    }
    /// Opens and maps a regular file.
    fn open(&self, name: &str, access: Access) -> Result<Opened, OpenError>;
    /// Makes or replaces a file, whole or not at all where the process dies. Nothing is synced.
    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Removes a name; durable after [`sync_directory`](Self::sync_directory).
    fn remove(&self, name: &str) -> io::Result<()>;
    fn sync_directory(&self) -> io::Result<()>;
    /// Moves a file into the folder of what was set aside, durably, as `to` (or `to.1` and so on),
    /// and gives its name there.
    fn set_aside(&self, name: &str, to: &str) -> io::Result<String>;
    /// As `set_aside`, and the file stays where it is, too.
    fn link_aside(&self, name: &str, to: &str) -> io::Result<String>;
    /// Makes a file in the folder of what was set aside, durably, and whole or not at all: `len`
    /// bytes, zero but for the pieces. Where there is one of this name, it is left as it is.
    fn keep_aside(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()>;
    /// Moves a file out of the folder of what was set aside, durably, to a name that must not be
    /// taken.
    fn bring_back(&self, name: &str, to: &str) -> io::Result<()>;
    /// Replaces a file by one of `len` bytes, preallocated, zero but for the pieces; atomically and
    /// durably.
    fn replace(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()>;
    /// The names of the files that were set aside, and how much space they take.
    fn aside(&self) -> Result<Vec<(String, u64)>, OpenError>;
    fn read_manifest(&self) -> Result<Option<Vec<u8>>, OpenError>;
    /// Replaces the MANIFEST, atomically and durably.
    fn write_manifest(&self, bytes: &[u8]) -> io::Result<()>;
    /// The directory, if it is one.
    fn directory(&self) -> Option<&std::fs::File> {
        None
    }
    /// Whether some handle, of this process or another one, has it open for writing. Nothing stays
    /// locked, or is made, to find out.
    fn writer(&self) -> Result<Writer, OpenError> {
        Ok(Writer::None)
    }
    /// Tells readers that this writer has recovered what was there.
    fn note_recovered(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Who writes to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    None,
    /// One that may still be repairing what another one left.
    Recovering,
    /// One whose own log it is by now.
    Live,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Space for a segment.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) len: u64,
    /// Where it is allocated already.
    file: Option<TemporaryFile>,
}

/// An open segment file, mapped.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) map: Map,
    pub(crate) file: Box<dyn SegmentFile>,
    pub(crate) identity: FileIdentity,
}

/// What is done to a segment file beside its mapping.
pub(crate) trait SegmentFile: Send + Sync + Debug {
    /// Makes a range of bytes durable. They were stored through `map`, the map of this file.
    fn sync(&self, map: &Map, from: u64, to: u64) -> io::Result<()>;
    /// Gives back the space of a range, which reads as zeros afterwards, where that can be done.
    fn release(&self, from: u64, to: u64) -> io::Result<()>;
    /// Sees to it that each of the first `len` bytes can be written to: allocated, and not shared
    /// with another file.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

/// What an `io::Error` means for opening.
pub(crate) fn io_error(operation: impl Into<String>, source: io::Error) -> OpenError {
    OpenError::Io { operation: operation.into(), source }
}
