//! What can go wrong, one type for each kind of operation.

use crate::position::LogPosition;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A damaged place: where it is and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("segment {segment} is damaged at offset {offset}: {kind}")]
#[non_exhaustive]
pub struct Corruption {
    /// Id of the segment: the number in the name of its file.
    pub segment: u32,
    /// Byte offset in the segment's file.
    pub offset: u64,
    /// What was expected there, and what was found.
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
    /// The checksum stored with the bytes is not the one computed from them.
    #[error("checksum {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Computed from the bytes.
        expected: u32,
        /// Stored beside them.
        found: u32,
    },
    /// A length that cannot be right.
    #[error("a frame of {length} bytes where at most {room} fit")]
    Length {
        /// As stored.
        length: u64,
        /// Bytes up to the end of the segment (or of the batch).
        room: u64,
    },
    /// A state that no frame has.
    #[error("unknown frame state {0}")]
    State(u8),
    /// A header whose fields contradict one another or the frame's length.
    #[error("a frame header that does not fit its frame")]
    Header,
    /// The frames inside a batch do not fill it, or are not as many as it says.
    #[error("a batch that says {expected} entries and holds {found}")]
    Batch {
        /// As the batch frame says.
        expected: u32,
        /// As counted.
        found: u32,
    },
    /// Nothing was written where the log is known to go on.
    #[error("nothing is written here, but the log is known to go on")]
    Missing,
    /// The keydir points at a place where no value is, or into a segment that is not there.
    #[error("the keydir points here, and there is no value here")]
    StaleSlot,
    /// The hint of the segment, from which the keydir was made, does not say what is here. It was
    /// removed: when the store is opened again the segment is read.
    #[error("the segment's hint does not say what is here")]
    Hint,
    /// A key's newest frame, which no slot of the keydir points at.
    #[error("the newest value of the key {} is here, and the keydir does not know", show(key))]
    Unlisted {
        /// The key.
        key: Vec<u8>,
    },
    /// A key that was deleted later, or set, and of which a slot of the keydir points here.
    #[error("the key {} has a newer frame than this, and the keydir does not know", show(key))]
    Outdated {
        /// The key.
        key: Vec<u8>,
    },
    /// There are not as many frames as the seal says.
    #[error("{found} frames in a segment that was sealed with {expected}")]
    Frames {
        /// As sealed.
        expected: u64,
        /// As counted.
        found: u64,
    },
    /// The segment's own header.
    #[error("segment header: {0}")]
    SegmentHeader(&'static str),
}

/// A key for people, as a byte string.
fn show(key: &[u8]) -> String {
    let shown = key.get(..64).unwrap_or(key).escape_ascii();
    if key.len() > 64 {
        format!("\"{shown}\"... of {} bytes", key.len())
    } else {
        format!("\"{shown}\"")
    }
}

/// Opening a log failed. Nothing was lost by trying.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another handle, of this process or of another one, has the log open for writing.
    #[error("{} is in use by another writer", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory, or a file in it, can be written by others than its owner. See
    /// [`shared_directory`](crate::LogOptions::shared_directory).
    #[error("{} may be written by others (mode {mode:o}); a log must be private to its user", path.display())]
    NotPrivate {
        /// The directory or file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The directory, or a file in it, belongs to somebody who is neither this process's user nor
    /// root. See [`shared_directory`](crate::LogOptions::shared_directory).
    #[error("{} belongs to user {owner}, and this process runs as user {user}", path.display())]
    NotOwned {
        /// The directory or file.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// The effective user of this process.
        user: u32,
    },
    /// The directory is on a file system that may not write preallocated blocks in place: on a full
    /// disk writing to a mapped file would kill the process with SIGBUS. See
    /// [`any_file_system`](crate::LogOptions::any_file_system).
    #[error("{} is on a file system ({name}) that may not write in place; use ext4, xfs or tmpfs", path.display())]
    FileSystem {
        /// The directory.
        path: PathBuf,
        /// The file system's name, or its number.
        name: String,
    },
    /// A name that belongs to the log is not a regular file (or the directory not a directory).
    #[error("{} is not a {expected}", path.display())]
    NotRegular {
        /// The offending path.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// A damaged place in the part that is known to be durable, or that a dead process left.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// A segment that the log needs is not there.
    #[error("segment {id} is missing: {} it", if *needed_by == 0 {
        "the MANIFEST names".to_owned()
    } else {
        format!("segment {needed_by} follows")
    })]
    MissingSegment {
        /// The id of the missing segment.
        id: u32,
        /// The id of the segment, or 0 for the MANIFEST, that says it was there.
        needed_by: u32,
    },
    /// A segment contradicts the MANIFEST: one of the two is from another time, or another log.
    /// Nothing is used or removed on the word of either. Put the right file back; or open with
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage), which takes the segment if it can be
    /// one of this log, and sets it aside if not.
    #[error("segment {segment} contradicts the MANIFEST: {what}")]
    Contradiction {
        /// The id of the segment.
        segment: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// The log was not closed, and whether the kernel has been restarted since cannot be known. What
    /// counts depends on it: if only the process died, everything does; if not, the log ends here.
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage) takes everything that can be read.
    #[error(
        "segment {segment}, offset {offset}: whether the machine was restarted cannot be known \
         (there is no boot id), and what counts depends on it"
    )]
    UnknownBoot {
        /// The id of the segment.
        segment: u32,
        /// The first place that is in doubt.
        offset: u64,
    },
    /// The MANIFEST is missing or damaged.
    #[error("MANIFEST: {0}")]
    Manifest(&'static str),
    /// Written by a version of tailcask that this one does not know.
    #[error("format version {found} is not known; this library reads version {known}")]
    Version {
        /// In the file.
        found: u32,
        /// The one this library knows.
        known: u32,
    },
    /// An option out of its range.
    #[error("{option} is {value}, and must be {range}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: u64,
        /// What is allowed.
        range: &'static str,
    },
    /// An option that is a ratio, out of its range.
    #[error("{option} is {value}, and must be {range}")]
    Ratio {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: f64,
        /// What is allowed.
        range: &'static str,
    },
    /// There is a log, and no store on it. (Where the MANIFEST is lost, salvage opens it as one.)
    #[error("this is a log, with no store on it")]
    NotAStore,
    /// A store lives on the log, and entries among its values would keep their segments from being
    /// merged. [`LogOptions::on_store`](crate::LogOptions::on_store) opens it all the same.
    #[error("a store lives on this log; to append beside it has to be asked for")]
    HoldsStore,
    /// There is no log in this directory, and none was to be created.
    #[error("there is no log in {}", path.display())]
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// All segment ids are used up.
    #[error("all 2^32 segment ids are used up")]
    IdsExhausted,
    /// The operating system said no.
    #[error("could not {operation}")]
    Io {
        /// What was being done, and to which file.
        operation: String,
        /// What it said.
        source: io::Error,
    },
}

/// An append was refused. Nothing of it is in the log, save where [`AppendError::Sync`] says so.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Larger than the configured limit; nothing was reserved.
    #[error("{len} bytes are more than the limit of {max}")]
    TooLarge {
        /// Bytes asked for.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// No room on the device for another segment. Later appends succeed once there is.
    #[error("no space for another segment")]
    NoSpace {
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// Another segment could not be created for a reason other than space.
    #[error("could not create another segment")]
    Io {
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// One append is so far behind (it was left unfinished while hundreds of segments filled)
    /// that there is no place for another segment.
    #[error("an unfinished append holds up the log at {oldest}")]
    Stalled {
        /// The oldest unfinished append.
        oldest: LogPosition,
    },
    /// A sync failed. If the append reached the log before that, `position` says where: it can be
    /// read, and survives the death of the process, but is not known to be durable.
    #[error("the log refuses writes")]
    Sync {
        /// Where the entry is, if it got that far.
        position: Option<LogPosition>,
        /// The failure.
        source: SyncError,
    },
    /// The log was opened for reading only.
    #[error("the log is open for reading only")]
    ReadOnly,
    /// All segment ids are used up.
    #[error("all 2^32 segment ids are used up")]
    IdsExhausted,
}

/// Making the log durable failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// A sync failed, now or earlier. The kernel may have dropped the pages it could not write,
    /// so this handle refuses writes for good; reads go on. Reopen the log to find what is there.
    #[error("a sync failed")]
    Failed {
        /// What the operating system said first.
        source: Arc<io::Error>,
    },
    /// A background thread of the log, or of the store on it, ended that should not have: a bug.
    /// Writes are refused, and nobody syncs by themselves any more; reads go on, and so do syncs.
    #[error("a background thread failed")]
    Background(#[source] ThreadFailure),
    /// Called from inside an `append_with` closure, whose own frame it would wait for.
    #[error("called from inside append_with, whose frame is not finished")]
    InsideAppend,
    /// The log was opened for reading only.
    #[error("the log is open for reading only")]
    ReadOnly,
}

/// How a background thread ended that nobody told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{thread} ended: {reason}")]
#[non_exhaustive]
pub struct ThreadFailure {
    /// The name of the thread.
    pub thread: &'static str,
    /// What it panicked with, or that it ended by itself.
    pub reason: Arc<str>,
}

/// A read failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The position is before the beginning of the log: it was truncated away.
    #[error("{position} is before the beginning of the log, {begin}")]
    Truncated {
        /// As asked.
        position: LogPosition,
        /// Where the log now begins.
        begin: LogPosition,
    },
    /// The position is at or after the end of the log.
    #[error("{position} is not before the end of the log, {tail}")]
    PastEnd {
        /// As asked.
        position: LogPosition,
        /// The end of the log.
        tail: LogPosition,
    },
    /// No entry begins at this position.
    #[error("no entry begins at {position}")]
    NotAnEntry {
        /// As asked.
        position: LogPosition,
    },
    /// The entry at this position is not finished.
    #[error("the entry at {position} is not finished")]
    Unfinished {
        /// As asked.
        position: LogPosition,
    },
    /// Damage.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The operating system said no.
    #[error("could not open a segment")]
    Io {
        /// What it said.
        source: Arc<io::Error>,
    },
}

/// Dropping the beginning of the log failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TruncateError {
    /// A store lives on the log, and its values may be anywhere in it.
    #[error("a store lives on the log")]
    Store,
    /// The position is after the end of the log.
    #[error("{position} is after the end of the log, {tail}")]
    PastEnd {
        /// As asked.
        position: LogPosition,
        /// The end of the log.
        tail: LogPosition,
    },
    /// The operating system said no. The log begins where it did, or at a segment in between.
    #[error("could not drop the beginning of the log")]
    Io {
        /// What it said.
        source: Arc<io::Error>,
    },
    /// The log was opened for reading only.
    #[error("the log is open for reading only")]
    ReadOnly,
}

/// A write to a store failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A key has 1 to 65,535 bytes. Nothing was changed.
    #[error("a key of {len} bytes; 1 to 65535 are allowed")]
    KeyLength {
        /// Bytes of the key.
        len: usize,
    },
    /// The value is larger than the configured limit. Nothing was changed.
    #[error("a value of {len} bytes is more than the limit of {max}")]
    ValueTooLarge {
        /// Bytes of the value.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The batch is larger than a frame can be. Nothing was changed.
    #[error("a batch of {len} bytes is more than the limit of {max}")]
    BatchTooLarge {
        /// Bytes of its frames.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The log refused the frame.
    #[error("the log refused the write")]
    Append(#[source] AppendError),
    /// The current value, which the write depends on, cannot be read.
    #[error("the current value cannot be read")]
    Read(#[source] ReadError),
}

impl From<ReadError> for WriteError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// The value was not the expected one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is not the expected one")]
pub struct CasMismatch {
    /// The value that it was; `None`: there was none.
    pub current: Option<Vec<u8>>,
}

/// A merge failed. Nothing was lost: what it was to replace is still there.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// No segment could be created for what is to be moved.
    #[error("no segment to merge into")]
    Append(#[from] AppendError),
    /// A segment that was to be merged is damaged. It is left alone from now on.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// What was written could not be made durable, or could not be put in place.
    #[error("could not write what was merged")]
    Io {
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The log could not be made durable, which has to come before anything is removed.
    #[error("could not make the log durable")]
    Sync(#[from] SyncError),
    /// The store is being closed.
    #[error("the store is being closed")]
    Closing,
}

/// A backup failed. The store is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The log could not be made durable, which comes first.
    #[error("could not make the log durable")]
    Sync(#[from] SyncError),
    /// Another segment could not be made active, so that the current one can be linked.
    #[error("could not roll the log")]
    Append(#[from] AppendError),
    /// There is something at the destination already.
    #[error("{} is there already", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// The destination is in the store's own directory.
    #[error("{} is inside of the store", path.display())]
    Inside {
        /// The destination.
        path: PathBuf,
    },
    /// The store is not in a directory.
    #[error("only a store in a directory can be backed up")]
    NotADirectory,
    /// The operating system said no.
    #[error("could not {operation}")]
    Io {
        /// What was being done, and to which file.
        operation: String,
        /// What it said.
        source: io::Error,
    },
}

/// A repair failed. The damaged store is as it was.
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
    #[error("could not make the copy durable")]
    Sync(#[from] SyncError),
    /// There is something at the new directory's name already.
    #[error("{} is there already", path.display())]
    Exists {
        /// The new directory.
        path: PathBuf,
    },
    /// The new directory is in the damaged store's own directory.
    #[error("{} is inside of the store", path.display())]
    Inside {
        /// The new directory.
        path: PathBuf,
    },
    /// An I/O error. Its cause.
    #[error("could not {operation}")]
    Io {
        /// What was being done, and to which file.
        operation: String,
        /// What the operating system said.
        source: io::Error,
    },
}
