//! Opening a log or a store.

use super::corruption::Corruption;
use super::fault::MapFault;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// Opening a log or a store failed. Nothing was lost: acknowledged data is unchanged. See
/// [`Store::open`](crate::Store::open) and [`CommitLog::open`](crate::CommitLog::open).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another handle, in this process or another one, has the log open for writing.
    #[error("{} is in use by {}", path.display(), writer(*process))]
    #[non_exhaustive]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The id of the process that holds the lock, if the system tells: Linux does, of processes that
        /// this one can see.
        process: Option<u32>,
    },
    /// Users other than its owner can write to the directory or a file in it. See
    /// [`shared_directory`](crate::LogOptions::shared_directory).
    #[error("other users can write to {} (mode {mode:o}); a log must be private to its user", path.display())]
    NotPrivate {
        /// The directory or file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The directory, or a file in it, belongs to a user who is neither this process's effective user nor
    /// root. See [`shared_directory`](crate::LogOptions::shared_directory).
    #[error("{} belongs to user {owner}, but this process runs as user {user}", path.display())]
    NotOwned {
        /// The directory or file.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// The effective user id of this process.
        user: u32,
    },
    /// The directory is on a file system that may not write preallocated blocks in place: on a full disk,
    /// a write to a mapped file would kill the process with SIGBUS. See
    /// [`any_file_system`](crate::LogOptions::any_file_system).
    #[error("{} is on a file system ({name}) that may not write in place; use ext4, xfs or tmpfs", path.display())]
    FileSystem {
        /// The directory.
        path: PathBuf,
        /// The file system's name, or its type number.
        name: String,
    },
    /// A file of the log is not a regular file, or its directory is not a directory.
    #[error("{} is not a {expected}", path.display())]
    NotRegular {
        /// The offending path.
        path: PathBuf,
        /// What it should be: "regular file" or "directory".
        expected: &'static str,
    },
    /// Damage in the part of the log that is known to be durable, or that only a process death left behind.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// A segment that the log needs does not exist.
    #[error("segment {id} is missing: {} it", if *needed_by == 0 {
        "the MANIFEST names".to_owned()
    } else {
        format!("segment {needed_by} follows")
    })]
    MissingSegment {
        /// The id of the missing segment.
        id: u32,
        /// The id of the segment that follows it; 0 if it is the MANIFEST that names it.
        needed_by: u32,
    },
    /// A segment and the MANIFEST contradict each other: one of them is an older copy, or of another log.
    /// Neither is trusted, and nothing is changed. Restore the right file, or open with
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage), which takes the segment if it can belong to
    /// this log, and sets it aside otherwise.
    #[error("segment {segment} contradicts the MANIFEST: {what}")]
    Contradiction {
        /// The id of the segment.
        segment: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// The log was not closed, and it is unknown whether the machine has been restarted since, because there
    /// is no boot id. If only the process died, everything is valid; otherwise the log ends here.
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage) takes everything that can be read.
    #[error(
        "segment {segment}, offset {offset}: the log may end here, which depends on whether the machine \
         was restarted, and there is no boot id to tell"
    )]
    UnknownBoot {
        /// The id of the segment.
        segment: u32,
        /// The first offset that is in doubt.
        offset: u64,
    },
    /// The MANIFEST is missing or damaged.
    #[error("the MANIFEST is unusable: {0}")]
    Manifest(&'static str),
    /// The files are of a newer format version than this library reads.
    #[error("unknown format version {found}; this library reads versions up to {known}")]
    Version {
        /// In the file.
        found: u32,
        /// The newest one that this library reads.
        known: u32,
    },
    /// An option is out of range.
    #[error("{option} is {value}, but must be {range}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: u64,
        /// The allowed values.
        range: &'static str,
    },
    /// An option that is a ratio is out of range.
    #[error("{option} is {value}, but must be {range}")]
    Ratio {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: f64,
        /// The allowed values.
        range: &'static str,
    },
    /// The directory holds a log without a store.
    #[error("the directory holds a log, not a store")]
    NotAStore,
    /// The log belongs to a store. Plain entries among its values would keep their segments from being
    /// merged; [`LogOptions::on_store`](crate::LogOptions::on_store) opens it nevertheless.
    #[error("this log belongs to a store; appending to it needs the option `on_store`")]
    HoldsStore,
    /// The log belongs to a store, whose values may be anywhere in it, and has a
    /// [`retention`](crate::LogOptions::retention).
    #[error("this log belongs to a store, so it cannot have a retention policy")]
    StoreRetention,
    /// There is no log in this directory, and opening it was not to create one.
    #[error("there is no log in {}", path.display())]
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// There is a log, or a store, in this directory, and opening it was to create a new one. See
    /// [`create_new`](crate::LogOptions::create_new).
    #[error("there is a log in {} already", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// There is no log in this directory, and something else that is not tailcask's: most likely it is not
    /// the directory that was meant. Nothing was created in it.
    #[error("there is no log in {}, but other files: {found:?}", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The name of one of the other files.
        found: OsString,
    },
    /// A part of a mapped file could not be accessed.
    #[error(transparent)]
    Map(#[from] MapFault),
    /// All 2^32 segment ids are used up.
    #[error("all 2^32 segment ids are used up")]
    IdsExhausted,
    /// An I/O error.
    #[error("could not {operation}: {source}")]
    Io {
        /// What was being done, and to which file.
        operation: String,
        /// Its cause.
        source: io::Error,
    },
}

/// The holder of a lock, in words.
fn writer(process: Option<u32>) -> String {
    match process {
        Some(id) if id == std::process::id() => "another writer in this process".to_owned(),
        Some(id) => format!("another writer, process {id}"),
        None => "another writer".to_owned(),
    }
}
