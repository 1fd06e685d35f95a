//! The seam between the log and its files: a directory ([`Storage`]), and the segments in it that are
//! open ([`SegmentFile`]).
//!
//! There are two implementations: real files ([`dir`]) and a disk in memory that a test can cut the
//! power of ([`simulated`]). Both promise the following, which recovery relies on:
//!
//! * **Bytes.** What was stored in a range of a segment is durable once [`SegmentFile::sync`] of that
//!   range has returned. Until then a power loss may keep or lose each sector by itself, in any order.
//!   The death of the process loses nothing. After a sync that failed, nothing is known about what it
//!   should have made durable.
//! * **Names.** A name that was created, replaced or removed is durable once
//!   [`Storage::sync_directory`] has returned. Until then a power loss may keep or lose each of these
//!   changes by itself. Methods that say "durably" sync what they need themselves.
//! * **Whole files.** A new file has a temporary name until it is complete, so it is never incomplete
//!   under its own name. If it must be durable, its bytes are synced before it gets the name.
//! * **Moves.** A file that moves between the directory and the folder of files that were set aside
//!   gets its new name durably before it loses the old one. A power loss may leave both names, and
//!   never neither.
//! * **Space.** Every page of a segment that is mapped for writing has its space on the device, so a
//!   store to it never fails. "No space" is an error of the call that creates or allocates.
//!
//! All system calls are in [`sys`]. Only backup and repair call it from outside, to copy files between
//! two directories.

pub(crate) mod dir;
pub(crate) mod map;
#[cfg_attr(
    not(feature = "testing"),
    allow(dead_code, unreachable_pub, unused_imports, reason = "logs in memory use a part of it")
)]
pub(crate) mod simulated;
pub(crate) mod sys;
mod temporary;

use crate::error::{MapFault, OpenError};
use crate::format::header::FileIdentity;
use crate::storage::map::Map;
use crate::storage::temporary::TemporaryFile;
use std::fmt::Debug;
use std::io;

/// Makes the first bytes of a file, from its identity.
pub(crate) type HeadEncoder<'h> = &'h dyn Fn(FileIdentity) -> Vec<u8>;

/// Bytes of a file, and their offsets.
pub(crate) type Pieces<'p> = &'p [(u64, &'p [u8])];

/// A directory of segments. No append calls it.
pub(crate) trait Storage: Send + Sync + Debug {
    /// The boot id; `None` if there is none.
    fn boot_id(&self) -> Option<u128>;
    /// All names in the directory.
    fn list(&self) -> Result<Vec<String>, OpenError>;
    /// Creates a segment, durably: preallocated, and zero behind what `head` makes. If the name is
    /// taken, that is an error, and the file that has it stays as it is.
    fn create(&self, name: &str, len: u64, head: HeadEncoder<'_>) -> io::Result<Opened>;
    /// Allocates a segment that [`create_prepared`](Self::create_prepared) will name, so that the
    /// latter is quick. If it is dropped, its space is released.
    fn prepare(&self, len: u64) -> io::Result<Prepared> {
        Ok(Prepared { len, file: None })
    }
    /// As [`create`](Self::create), with space that is allocated already.
    fn create_prepared(
        &self,
        prepared: Prepared,
        name: &str,
        head: HeadEncoder<'_>,
    ) -> io::Result<Opened> {
        self.create(name, prepared.len, head)
    }
    /// Bytes that are free, if that can be determined. A hint.
    fn free_space(&self) -> Option<u64> {
        None
    }
    /// Makes sure that there is a reserve for when the disk is full, of up to `wanted` bytes and at
    /// least `least`. False: there is none, since too little space is free.
    fn keep_reserve(&self, _wanted: u64, _least: u64) -> io::Result<bool> {
        Ok(true)
    }
    /// Releases the reserve. False: there was none.
    fn give_back_reserve(&self) -> io::Result<bool> {
        Ok(false)
    }
    /// Whether the reserve was released, here or for a MANIFEST that needed space, and not created
    /// again since.
    fn reserve_is_given(&self) -> bool {
        false
    }
    /// Opens and maps a regular file.
    fn open(&self, name: &str, access: Access) -> Result<Opened, OpenError>;
    /// Creates or replaces a file. Nothing is synced.
    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Has a file leave the memory that it takes as a cached one, which it can once it is on the device.
    fn leave_memory(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }
    /// Removes a name. It is not synced.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all changes of names in the directory durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// Sets a file aside: moves it, durably, into the folder for that, as `to`, or `to.1` and so on if
    /// that is taken. Returns its name there.
    fn set_aside(&self, name: &str, to: &str) -> io::Result<String>;
    /// As [`set_aside`](Self::set_aside), but the file keeps its name here, too.
    fn link_aside(&self, name: &str, to: &str) -> io::Result<String>;
    /// Creates a file among those set aside, durably: `len` bytes, zero except for the pieces. If the
    /// name is taken, nothing is done.
    fn keep_aside(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()>;
    /// Moves a file that was set aside back, durably, to a name that must not be taken.
    fn bring_back(&self, name: &str, to: &str) -> io::Result<()>;
    /// Replaces a file, durably, by one of `len` bytes, preallocated, and zero except for the pieces.
    fn replace(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()>;
    /// The names of the files that were set aside, and the space that each takes.
    fn aside(&self) -> Result<Vec<(String, u64)>, OpenError>;
    /// The bytes of the MANIFEST; `None` if there is none.
    fn read_manifest(&self) -> Result<Option<Vec<u8>>, OpenError>;
    /// Replaces the MANIFEST, durably.
    fn write_manifest(&self, bytes: &[u8]) -> io::Result<()>;
    /// The handle of the directory, if it is a real one.
    fn directory(&self) -> Option<&std::fs::File> {
        None
    }
    /// Who has the directory open for writing, in any process. Asking locks nothing and creates nothing
    /// that stays.
    fn writer(&self) -> Result<WriterState, OpenError> {
        Ok(WriterState::None)
    }
    /// The first access to a mapped file that failed, if SIGBUS is caught. From then on nothing is created,
    /// replaced or synced any more: what was read may not be what is in the files.
    fn fault(&self) -> Option<MapFault> {
        None
    }
    /// The process that has the directory open for writing, if the system tells.
    fn writer_process(&self) -> Option<u32> {
        None
    }
    /// Lets another writer in. From here on the one that unlocks changes nothing here.
    fn unlock(&self) {}
    /// Lets readers know that this writer has finished recovery.
    fn note_recovered(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The writer of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriterState {
    None,
    /// It may still be repairing what a dead writer left.
    Recovering,
    /// It has finished recovery.
    Live,
}

/// What a file or a directory is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A segment that has no name yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) len: u64,
    /// The file, if its space is allocated already.
    file: Option<TemporaryFile>,
}

/// An open segment file, mapped.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) map: Map,
    pub(crate) file: Box<dyn SegmentFile>,
    pub(crate) identity: FileIdentity,
}

/// An open file of a segment: what cannot be done through its map.
pub(crate) trait SegmentFile: Send + Sync + Debug {
    /// Makes a range of bytes durable that were stored through `map`, the map of this file.
    fn sync(&self, map: &Map, from: u64, to: u64) -> io::Result<()>;
    /// Releases the space of a range, if the file system can; its bytes are zero afterwards.
    fn release(&self, from: u64, to: u64) -> io::Result<()>;
    /// Makes sure that each of the first `len` bytes can be stored to: allocated, and not shared with
    /// another file.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

/// After opening: an error if what was read may not be what is in the files.
pub(crate) fn check_maps(storage: &dyn Storage) -> Result<(), OpenError> {
    storage.fault().map_or(Ok(()), |fault| Err(OpenError::Map(fault)))
}

/// An error of a storage that has had a fault.
pub(crate) fn refuse_after(fault: Option<MapFault>) -> io::Result<()> {
    fault.map_or(Ok(()), |fault| Err(io::Error::other(fault)))
}

/// The fault because of which a storage has refused something.
pub(crate) fn fault_in(error: &io::Error) -> Option<MapFault> {
    error.get_ref()?.downcast_ref().copied()
}

/// An `io::Error` as an error of opening.
pub(crate) fn io_error(operation: impl Into<String>, source: io::Error) -> OpenError {
    match fault_in(&source) {
        Some(fault) => OpenError::Map(fault),
        None => OpenError::Io { operation: operation.into(), source },
    }
}
