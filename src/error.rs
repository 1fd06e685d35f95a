//! The errors: one type for each kind of operation, and [`Error`] over all of them.
//!
//! A message names the place and includes its cause, in one line; the cause is also the error's `source`.

use crate::checkpoint::{Checkpoint, ParseCheckpointError};
use crate::position::{LogPosition, ParsePositionError};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Any error of this crate, for programs that treat them all alike: every other error converts into it.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// fn count(dir: &std::path::Path) -> Result<u64, tailcask::Error> {
///     let store = tailcask::Store::open(dir)?;
///     store.put("key", "value")?;
///     store.close()?;
///     Ok(tailcask::Store::open_read_only(dir)?.len())
/// }
/// # assert_eq!(count(&dir.path().join("store"))?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Opening a log or a store failed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Appending to a log failed.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Making a log durable failed.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Dropping the beginning of a log failed.
    #[error(transparent)]
    Truncate(#[from] TruncateError),
    /// Going on from a checkpoint is not possible.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Writing to a store failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A compare-and-swap found another value.
    #[error(transparent)]
    CasMismatch(#[from] CasMismatch),
    /// An expectation of a batch does not hold.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A merge failed.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// A backup failed.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A repair failed.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// A text is not a position.
    #[error(transparent)]
    ParsePosition(#[from] ParsePositionError),
    /// A text is not a checkpoint.
    #[error(transparent)]
    ParseCheckpoint(#[from] ParseCheckpointError),
    /// A place is damaged.
    #[error(transparent)]
    Corruption(#[from] Corruption),
    /// A background thread has ended.
    #[error(transparent)]
    Thread(#[from] ThreadFailure),
    /// A value is not of a type.
    #[cfg(feature = "zerocopy")]
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// A value or an entry cannot be read as a type (feature `zerocopy`).
#[cfg(feature = "zerocopy")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// It has another length than the type.
    #[error("{len} bytes do not have the size of {name}")]
    Size {
        /// The type.
        name: &'static str,
        /// Length of the value in bytes.
        len: usize,
    },
    /// The type needs another alignment than the 8 bytes that values have.
    #[error("{name} needs a larger alignment than the 8 bytes of values")]
    Alignment {
        /// The type.
        name: &'static str,
    },
    /// The bytes do not stand for anything of this type.
    #[error("the bytes are no valid {name}")]
    Value {
        /// The type.
        name: &'static str,
    },
}

/// A damaged place: where it is and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("segment {segment} is damaged at offset {offset}: {kind}")]
#[non_exhaustive]
pub struct Corruption {
    /// Id of the segment: the number in the name of its file.
    pub segment: u32,
    /// Byte offset in the segment's file.
    pub offset: u64,
    /// What is wrong there.
    pub kind: CorruptionKind,
}

impl Corruption {
    pub(crate) fn at(position: LogPosition, kind: CorruptionKind) -> Self {
        Self { segment: position.segment(), offset: u64::from(position.offset()), kind }
    }
}

/// What is wrong at a damaged place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorruptionKind {
    /// The stored checksum does not match the bytes.
    #[error("checksum {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Computed from the bytes.
        expected: u32,
        /// As stored.
        found: u32,
    },
    /// An impossible length.
    #[error("a frame of {length} bytes, where at most {room} fit")]
    Length {
        /// As stored.
        length: u64,
        /// Bytes up to the end of the segment (or of the batch).
        room: u64,
    },
    /// A frame state that does not exist.
    #[error("unknown frame state {0}")]
    State(u8),
    /// A frame header whose fields contradict one another or the frame's length.
    #[error("a frame header that does not fit its frame")]
    Header,
    /// The frames inside a batch do not fill it, or their number is not the stated one.
    #[error("a batch of {expected} entries that holds {found}")]
    Batch {
        /// As the batch frame states.
        expected: u32,
        /// As counted.
        found: u32,
    },
    /// Nothing is written here, although the log is known to continue.
    #[error("nothing is written here, but the log is known to continue")]
    Missing,
    /// The keydir points here, but there is no value here, or no such segment.
    #[error("the keydir points here, but there is no value here")]
    StaleSlot,
    /// The segment's hint, from which the keydir was loaded, does not match the segment here. The hint was
    /// removed: the next open reads the segment instead.
    #[error("the segment's hint does not match the segment here")]
    Hint,
    /// A key's newest frame is here, but the keydir does not point at it.
    #[error(
        "the newest value of the key {} is here, but the keydir does not point at it",
        show(key)
    )]
    Unlisted {
        /// The key.
        key: Vec<u8>,
    },
    /// The keydir points here, but the key was set or deleted later.
    #[error("the keydir points here, but the key {} has a newer frame", show(key))]
    Outdated {
        /// The key.
        key: Vec<u8>,
    },
    /// The number of frames is not the one in the seal.
    #[error("{found} frames in a segment that was sealed with {expected}")]
    Frames {
        /// As sealed.
        expected: u64,
        /// As counted.
        found: u64,
    },
    /// The segment's header, or its file as a whole.
    #[error("segment header: {0}")]
    SegmentHeader(&'static str),
}

/// A key as printable text, cut after 64 bytes.
fn show(key: &[u8]) -> String {
    let shown = key.get(..64).unwrap_or(key).escape_ascii();
    if key.len() > 64 {
        format!("\"{shown}\"... of {} bytes", key.len())
    } else {
        format!("\"{shown}\"")
    }
}

/// A key's value, in words.
fn written(at: Option<LogPosition>) -> String {
    at.map_or_else(|| "no value".to_owned(), |at| format!("the value written at {at}"))
}

/// The holder of a lock, in words.
fn writer(process: Option<u32>) -> String {
    match process {
        Some(id) if id == std::process::id() => "another writer in this process".to_owned(),
        Some(id) => format!("another writer, process {id}"),
        None => "another writer".to_owned(),
    }
}

/// Opening a log or a store failed. Nothing was lost: acknowledged data is unchanged.
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

/// An append was refused. Nothing of it is in the log, unless it is [`AppendError::Sync`] with a position.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The entry is larger than the configured limit.
    #[error("an entry of {len} bytes is above the limit of {max}")]
    TooLarge {
        /// Bytes of the entry, or of the batch.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The device has no room for another segment. Appends succeed again once it has.
    #[error("no space for another segment: {source}")]
    NoSpace {
        /// Its cause.
        source: Arc<io::Error>,
    },
    /// Another segment could not be created, for a reason other than space.
    #[error("could not create another segment: {source}")]
    Io {
        /// Its cause.
        source: Arc<io::Error>,
    },
    /// An append has been left unfinished while 256 segments filled behind it. The log can hold no more
    /// unfinished segments.
    #[error("the append at {oldest} is unfinished and holds up the log")]
    Stalled {
        /// The oldest unfinished append.
        oldest: LogPosition,
    },
    /// A sync failed, now or earlier. If the entry reached the log before that, `position` says where: it
    /// can be read, and survives the death of the process, but is not known to be durable.
    #[error("the log refuses writes: {source}")]
    Sync {
        /// Where the entry is, if it got that far.
        position: Option<LogPosition>,
        /// The failure.
        source: SyncError,
    },
    /// The log was opened read-only.
    #[error("the log is open read-only")]
    ReadOnly,
    /// The log, or its store, was closed.
    #[error("the log is closed")]
    Closed,
    /// All 2^32 segment ids are used up.
    #[error("all 2^32 segment ids are used up")]
    IdsExhausted,
}

/// Making the log durable failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// A sync failed, now or earlier. The kernel may have dropped the pages that it could not write, so this
    /// handle refuses writes permanently; reads go on. Reopen the log to find out what survived.
    #[error("a sync failed: {source}")]
    Failed {
        /// The cause of the first failure.
        source: Arc<io::Error>,
    },
    /// A background thread of the log, or of its store, ended unexpectedly, which is a bug. Writes are
    /// refused, and nothing is synced in the background any more; reads and explicit syncs go on.
    #[error("a background thread failed: {0}")]
    Background(#[source] ThreadFailure),
    /// Called inside an `append_with` closure: the sync would wait for that closure's own frame.
    #[error("called inside an append_with closure, whose frame is unfinished")]
    InsideAppend,
    /// The log, or its store, was closed.
    #[error("the log is closed")]
    Closed,
    /// The log was opened read-only.
    #[error("the log is open read-only")]
    ReadOnly,
}

/// The unexpected end of a background thread.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{thread} ended: {reason}")]
#[non_exhaustive]
pub struct ThreadFailure {
    /// The name of the thread.
    pub thread: &'static str,
    /// Its panic message, or that it returned.
    pub reason: Arc<str>,
}

/// A read failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The position is before the beginning of the log: that part was truncated.
    #[error("{position} is before the beginning of the log, {begin}")]
    Truncated {
        /// The position given.
        position: LogPosition,
        /// Where the log begins now.
        begin: LogPosition,
    },
    /// The position is at or after the end of the log.
    #[error("{position} is not before the end of the log, {tail}")]
    PastEnd {
        /// The position given.
        position: LogPosition,
        /// The end of the log.
        tail: LogPosition,
    },
    /// No entry begins at this position.
    #[error("no entry begins at {position}")]
    NotAnEntry {
        /// The position given.
        position: LogPosition,
    },
    /// The entry at this position is still being written.
    #[error("the entry at {position} is unfinished")]
    Unfinished {
        /// The position given.
        position: LogPosition,
    },
    /// The entry or value is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// A segment could not be opened.
    #[error("could not open a segment: {source}")]
    Io {
        /// Its cause.
        source: Arc<io::Error>,
    },
    /// The log, or the store, was closed. What was read before stays valid.
    #[error("it is closed")]
    Closed,
}

/// Reading on from a [`Checkpoint`] is not possible.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The checkpoint is one of another log, or the log was created anew in its place.
    #[error("{checkpoint} is a checkpoint of another log; this one is {log_id:016x}")]
    OtherLog {
        /// The checkpoint given.
        checkpoint: Checkpoint,
        /// The id of this log.
        log_id: u64,
    },
    /// The checkpoint is before the beginning of the log: entries that were not read yet were truncated.
    #[error("{position} is before the beginning of the log, {begin}")]
    Truncated {
        /// The checkpoint's position.
        position: LogPosition,
        /// Where the log begins now.
        begin: LogPosition,
    },
    /// The checkpoint is after the end of the log, which is an older copy, or was cut off and is open
    /// read-only: entries that were read are not there.
    #[error("{position} is after the end of the log, {tail}")]
    PastEnd {
        /// The checkpoint's position.
        position: LogPosition,
        /// The end of the log.
        tail: LogPosition,
    },
    /// Entries that were read are lost: a power loss, or a salvage, has cut the log off before the
    /// checkpoint. What was appended since is behind `end`.
    #[error(
        "what was read up to {position} is lost: a power loss or a salvage cut it off at {end}"
    )]
    Lost {
        /// The checkpoint's position.
        position: LogPosition,
        /// Where what is left of it ends.
        end: LogPosition,
    },
    /// No entry begins or ends at the checkpoint: it was not taken in this log.
    #[error("no entry begins or ends at {position}")]
    NoBoundary {
        /// The checkpoint's position.
        position: LogPosition,
    },
    /// The place cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Dropping the beginning of the log failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TruncateError {
    /// The log belongs to a store, whose values may be anywhere in it.
    #[error("the log belongs to a store")]
    Store,
    /// The position is after the end of the log.
    #[error("{position} is after the end of the log, {tail}")]
    PastEnd {
        /// The position given.
        position: LogPosition,
        /// The end of the log.
        tail: LogPosition,
    },
    /// An I/O error. The log begins where it did, or at a segment in between.
    #[error("could not drop the beginning of the log: {source}")]
    Io {
        /// Its cause.
        source: Arc<io::Error>,
    },
    /// The log, or its store, was closed.
    #[error("the log is closed")]
    Closed,
    /// The log was opened read-only.
    #[error("the log is open read-only")]
    ReadOnly,
}

/// A write to a store failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The key does not have 1 to 65,535 bytes. Nothing was changed.
    #[error("a key of {len} bytes; 1 to 65535 are allowed")]
    KeyLength {
        /// Bytes of the key.
        len: usize,
    },
    /// The value is larger than the configured limit. Nothing was changed.
    #[error("a value of {len} bytes is above the limit of {max}")]
    ValueTooLarge {
        /// Bytes of the value.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// A time to live of zero: the value would never be there. Nothing was changed.
    #[error("a TTL of zero; a value cannot expire before it is written")]
    ZeroTtl,
    /// The batch is too large. Nothing was changed.
    #[error("a batch of {len} bytes is above the limit of {max}")]
    BatchTooLarge {
        /// Bytes of its frames.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// A batch expected of a key what is not so. Nothing was changed.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The log refused the write.
    #[error("the log refused the write: {0}")]
    Append(#[source] AppendError),
    /// The write depends on the key's current value, which cannot be read.
    #[error("the current value cannot be read: {0}")]
    Read(#[source] ReadError),
    /// The store was closed. Nothing was changed.
    #[error("the store is closed")]
    Closed,
}

impl From<ReadError> for WriteError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => Self::Closed,
            error => Self::Read(error),
        }
    }
}

/// An [expectation](crate::Batch::expect) of a batch does not hold. If several do not, this is the first one
/// that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expectation {index} of the batch does not hold: {} has {}", show(key), written(*found))]
#[non_exhaustive]
pub struct Conflict {
    /// Which expectation: 0 for the one that was added first.
    pub index: usize,
    /// Its key.
    pub key: Vec<u8>,
    /// Where the key's current value was written; `None` if it has none.
    pub found: Option<LogPosition>,
}

/// A compare-and-swap found another value than the expected one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is not the expected one")]
pub struct CasMismatch {
    /// The current value; `None` if the key has none.
    pub current: Option<Vec<u8>>,
}

/// A merge failed. Nothing was lost: its inputs still exist.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// No segment could be created to merge into.
    #[error("no segment to merge into: {0}")]
    Append(#[from] AppendError),
    /// An input is damaged. Merges leave it alone from now on.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The merged segments could not be made durable, or could not replace their inputs.
    #[error("could not write the merged segments: {source}")]
    Io {
        /// Its cause.
        source: Arc<io::Error>,
    },
    /// The log could not be made durable, which must happen before inputs are removed.
    #[error("could not make the log durable: {0}")]
    Sync(#[from] SyncError),
    /// The store is being closed, or was closed.
    #[error("the store is being closed")]
    Closing,
}

/// A backup failed. The store is unchanged, and nothing is left at the destination.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The log could not be made durable.
    #[error("could not make the log durable: {0}")]
    Sync(#[from] SyncError),
    /// The log could not be rolled to another segment, which is needed to link the active one.
    #[error("could not roll the log: {0}")]
    Append(#[from] AppendError),
    /// The destination already exists.
    #[error("{} already exists", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// The destination is inside the store's own directory.
    #[error("{} is inside the store", path.display())]
    Inside {
        /// The destination.
        path: PathBuf,
    },
    /// The store is not in a directory: it is in memory, or on a simulated disk.
    #[error("only a store in a directory can be backed up")]
    NotADirectory,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// An I/O error.
    #[error("could not {operation}: {source}")]
    Io {
        /// What was being done, and to which file.
        operation: String,
        /// Its cause.
        source: io::Error,
    },
}

/// A repair failed. The damaged store is unchanged, and nothing is left at the new directory's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The damaged store, or the copy of it, could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The copy could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The copy could not be made durable.
    #[error("could not make the copy durable: {0}")]
    Sync(#[from] SyncError),
    /// The new directory already exists.
    #[error("{} already exists", path.display())]
    Exists {
        /// The new directory.
        path: PathBuf,
    },
    /// The new directory is inside the damaged store's own directory.
    #[error("{} is inside the store", path.display())]
    Inside {
        /// The new directory.
        path: PathBuf,
    },
    /// An I/O error.
    #[error("could not {operation}: {source}")]
    Io {
        /// What was being done, and to which file.
        operation: String,
        /// Its cause.
        source: io::Error,
    },
}
