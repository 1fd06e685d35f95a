//! The commit log.

pub(crate) mod append;
mod batch;
mod follower;
pub(crate) mod group_commit;
pub(crate) mod maintenance;
#[cfg(test)]
mod oversize;
mod reader;
pub(crate) mod recovery;
mod stats;
mod waiters;
pub(crate) mod writer;

pub use batch::BatchWriter;
#[doc(hidden)]
pub use maintenance::FailPoint;
pub use reader::{Entry, FrameInfo, Frames, LogReader};
pub(crate) use recovery::evidence::Suspect;
pub use recovery::{
    Contradiction, DamagedRange, Doubt, InDoubt, LostFrame, LostKind, RecoveryReport, SetAside,
};
pub use stats::{Distribution, LogStats};

use self::follower::{ReadOnly, View};
use self::group_commit::Poll as Durable;
use self::maintenance::Signals;
use self::writer::LogWriter;
use crate::error::{AppendError, OpenError, ReadError, SyncError, TruncateError};
use crate::format::manifest::Manifest;
use crate::options::{Config, Durability, MAX_SEGMENT, Maintenance, RecoveryMode, SEGMENT_UNIT};
use crate::position::LogPosition;
use crate::segment::set::SegmentSet;
use crate::segment::{file_name, scan};
use crate::storage::dir::{Directory, TrustRules};
use crate::storage::simulated::SimulatedDisk;
use crate::storage::{Access, Storage, io_error};
use crate::sync::{Mutex, lock};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::task::Poll;

/// How a log is opened.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct LogOptions {
    config: Config,
}

impl LogOptions {
    /// Bytes of a full-grown segment: a multiple of 2 MiB, at most 4 GiB less 2 MiB. Default
    /// 64 MiB. An entry larger than this gets a segment of its own.
    pub fn segment_size(mut self, bytes: u64) -> Self {
        self.config.segment_size = bytes;
        self
    }

    /// Bytes of the first segment of an empty log; each one is twice as large as the one before
    /// (eight times, where a writer had to wait for it), up to [`segment_size`](Self::segment_size). A multiple of 2 MiB. Default 2 MiB.
    pub fn initial_segment_size(mut self, bytes: u64) -> Self {
        self.config.initial_segment_size = bytes;
        self
    }

    /// The largest entry, in bytes. Default 1 GiB; at most 4 GiB less 4 MiB.
    pub fn max_entry_size(mut self, bytes: u64) -> Self {
        self.config.max_entry_size = bytes;
        self
    }

    /// When an append counts as done. Default [`Durability::Buffered`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.config.durability = durability;
        self
    }

    /// What opening does about damage. Default [`RecoveryMode::Strict`].
    pub fn recovery_mode(mut self, mode: RecoveryMode) -> Self {
        self.config.recovery_mode = mode;
        self
    }

    /// Who does the maintenance. Default [`Maintenance::Background`].
    pub fn maintenance(mut self, maintenance: Maintenance) -> Self {
        self.config.maintenance = maintenance;
        self
    }

    /// Takes directories and files that other members of their group may own and write to, as on a
    /// volume that a group shares (mode 2775), and makes new ones with mode 0770 and 0660, less the
    /// umask. Default false: they belong to this process's user, or root, and nobody else writes to
    /// them.
    ///
    /// Mapped files must not be changed by anybody but the log while they are open. That nobody can
    /// is what makes opening one safe; with this option it rests on the members of the group, who
    /// must leave the files alone, and must not cut them short.
    pub fn shared_directory(mut self, shared: bool) -> Self {
        self.config.shared_directory = shared;
        self
    }

    /// Opens a log for writing on any file system. Default false: on ext4, xfs, tmpfs and what is
    /// like them, and on overlays.
    ///
    /// Others write to a new place even where a file is preallocated (btrfs, zfs, bcachefs, f2fs),
    /// or keep the file on another machine (nfs, 9p, fuse): on a full disk, or without a connection,
    /// a write to a mapped file then kills the process with SIGBUS. Nothing that was acknowledged
    /// is lost by that, where an fsync is one.
    pub fn any_file_system(mut self, any: bool) -> Self {
        self.config.any_file_system = any;
        self
    }

    /// Opens the log that a store lives on, too, and appends to it: that is refused otherwise. Entries
    /// are no keys, and merges leave the segments alone that hold any; so space that was overwritten
    /// beside them is never given back. Default false.
    pub fn on_store(mut self, allowed: bool) -> Self {
        self.config.on_store = allowed;
        self
    }

    /// Lets segments be multiples of this, instead of 2 MiB. For tests, which can do more of them.
    #[doc(hidden)]
    pub fn segment_unit(mut self, bytes: u64) -> Self {
        self.config.segment_unit = bytes;
        self.config.initial_segment_size = bytes;
        self
    }

    pub(crate) fn check(&self) -> Result<Config, OpenError> {
        let mut config = self.config;
        let range = "a multiple of 2 MiB, from 2 MiB to 4 GiB less 2 MiB";
        for (option, value) in [
            ("segment_size", config.segment_size),
            ("initial_segment_size", config.initial_segment_size),
        ] {
            if value == 0 || value % config.segment_unit != 0 || value > MAX_SEGMENT {
                return Err(OpenError::Option { option, value, range });
            }
        }
        if config.max_entry_size > MAX_SEGMENT - SEGMENT_UNIT {
            let (option, value) = ("max_entry_size", config.max_entry_size);
            return Err(OpenError::Option { option, value, range: "at most 4 GiB less 4 MiB" });
        }
        config.initial_segment_size = config.initial_segment_size.min(config.segment_size);
        Ok(config)
    }

    /// Opens the log in a directory, and makes it where there is none (with mode 0700; its parent
    /// has to exist).
    ///
    /// # Errors
    /// [`OpenError`]; nothing that was acknowledged is changed then.
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<CommitLog, OpenError> {
        let config = self.check()?;
        let storage = Directory::open(dir.as_ref(), Access::Write, rules(&config))?;
        CommitLog::start(Box::new(storage), config)
    }

    /// Opens a log for reading only. Nothing is created or changed, and no lock is held. A writer may
    /// have it open, or open it later, also in another process: readers follow what it appends.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_read_only(&self, dir: impl AsRef<Path>) -> Result<CommitLog, OpenError> {
        let config = self.check()?;
        let storage = Directory::open(dir.as_ref(), Access::Read, rules(&config))?;
        let storage: Box<dyn Storage> = Box::new(storage);
        if storage.read_manifest()?.is_none() && !has_segments(&*storage)? {
            return Err(OpenError::NotFound { path: dir.as_ref().into() });
        }
        let found = recovery::look(&*storage, config.recovery_mode, false)?;
        let stored = found.manifest.is_store();
        let gaps = stored || config.recovery_mode == RecoveryMode::Salvage;
        let (beside, segments): (Vec<_>, Vec<_>) =
            found.segments.into_iter().partition(|segment| segment.header.merged);
        let mut ignored = found.ignored;
        ignored.extend(beside.iter().map(|segment| segment.id()));
        let (table, ignored) = (SegmentSet::new(segments), Mutex::new(ignored));
        let (id, next_id) = (found.manifest.log_id, AtomicU32::new(found.manifest.next));
        Ok(CommitLog {
            view: View::ReadOnly(ReadOnly { storage, table, gaps, next_id, ignored }),
            id,
            report: found.report,
            closed: false,
            stored,
        })
    }

    /// The directory of a log, for reading only.
    pub(crate) fn directory(&self, dir: &Path) -> Result<Directory, OpenError> {
        Directory::open(dir, Access::Read, rules(&self.check()?))
    }

    /// Opens the log on a simulated disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_simulated(&self, disk: &SimulatedDisk) -> Result<CommitLog, OpenError> {
        CommitLog::start(Box::new(disk.attach()?), self.check()?)
    }
}

fn rules(config: &Config) -> TrustRules {
    TrustRules { shared: config.shared_directory, any_file_system: config.any_file_system }
}

/// A lock-free, memory-mapped commit log.
///
/// Any number of threads append and read through one shared handle. At every
/// [`Durability`] an append that returned survives the death of the process.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use tailcask::CommitLog;
///
/// let log = CommitLog::open(dir.path().join("log"))?;
/// let position = log.append(b"first")?;
/// log.append_batch(&[b"second", b"third"])?;
/// assert_eq!(&*log.read(position)?, b"first");
///
/// let mut reader = log.reader();
/// while let Some(entry) = reader.next_entry()? {
///     println!("{} {:?}", entry.position(), &*entry);
/// }
/// # drop(reader);
/// log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CommitLog {
    view: View,
    id: u64,
    report: RecoveryReport,
    closed: bool,
    /// Whether a store lives on it.
    pub(crate) stored: bool,
}

fn has_segments(storage: &dyn Storage) -> Result<bool, OpenError> {
    Ok(storage.list()?.iter().any(|name| crate::format::names::segment_id(name).is_some()))
}

impl CommitLog {
    /// Opens the log in a directory with the default options.
    ///
    /// # Errors
    /// As [`LogOptions::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().open(dir)
    }

    /// Opens the log in a directory for reading only.
    ///
    /// # Errors
    /// As [`LogOptions::open_read_only`].
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().open_read_only(dir)
    }

    /// The options of a log, to be changed and then opened.
    pub fn options() -> LogOptions {
        LogOptions::default()
    }

    /// A log in anonymous memory, gone when it is dropped.
    ///
    /// # Panics
    /// If there is no memory for its first segment, 2 MiB.
    #[must_use]
    pub fn in_memory() -> Self {
        let log = Self::options().open_simulated(&SimulatedDisk::volatile());
        log.expect("memory for the first segment")
    }

    fn start(storage: Box<dyn Storage>, config: Config) -> Result<Self, OpenError> {
        if !config.on_store && recovery::is_store(&*storage)? {
            return Err(OpenError::HoldsStore);
        }
        let (found, report) = recovery::recover(&*storage, config.recovery_mode)?;
        let stored = found.manifest.is_store();
        let writer = LogWriter::start(storage, config, found);
        let writer = Arc::new(writer.map_err(|e| io_error("create a segment", e))?);
        writer.storage.note_recovered().map_err(|e| io_error("lock LOCK", e))?;
        if !writer.is_manual() {
            Signals::start(&writer).map_err(|e| io_error("start a thread", e))?;
        }
        let id = lock(&writer.manifest).log_id;
        Ok(Self { view: View::Writer(writer), id, report, closed: false, stored })
    }

    pub(crate) fn writer(&self) -> Option<&Arc<LogWriter>> {
        match &self.view {
            View::Writer(writer) => Some(writer),
            View::ReadOnly(_) => None,
        }
    }

    #[inline]
    fn writable(&self) -> Result<&LogWriter, AppendError> {
        match &self.view {
            View::Writer(writer) => Ok(writer),
            View::ReadOnly(_) => Err(AppendError::ReadOnly),
        }
    }

    /// Appends an entry; 0 bytes are fine.
    ///
    /// # Errors
    /// [`AppendError`].
    #[inline]
    pub fn append(&self, entry: &[u8]) -> Result<LogPosition, AppendError> {
        self.writable()?.append(entry)
    }

    /// Appends an entry that is in pieces, as one.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append_vectored(&self, parts: &[&[u8]]) -> Result<LogPosition, AppendError> {
        self.writable()?.append_vectored(parts)
    }

    /// Appends an entry of `len` bytes that `fill` writes in place; they are zero before. If it
    /// panics, there is no entry. Readers, syncs and [`committed`](Self::committed) do not get
    /// past the entry while `fill` runs, so it should be quick, and must not wait for them; a sync
    /// inside it is refused.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append_with(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<LogPosition, AppendError> {
        self.writable()?.append_with(len, fill)
    }

    /// Appends entries side by side, all or none: no reader and no recovery sees a part of them.
    /// At most 4 GiB less 2 MiB together.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append_batch(&self, entries: &[&[u8]]) -> Result<Vec<LogPosition>, AppendError> {
        let mut positions = Vec::with_capacity(entries.len());
        self.writable()?.append_batch(entries.iter().copied(), |at| positions.push(at))?;
        Ok(positions)
    }

    /// A writer that gathers entries, up to `max_bytes`, and appends them in batches.
    #[must_use]
    pub fn batch_writer(&self, max_bytes: usize) -> BatchWriter<'_> {
        BatchWriter::new(self.writable(), max_bytes)
    }

    /// Reads the entry at a position, in place. The position may come from anywhere.
    ///
    /// # Errors
    /// [`ReadError`], which says what is wrong with the position, or that the entry is damaged.
    pub fn read(&self, position: LogPosition) -> Result<Entry<'_>, ReadError> {
        reader::read_at(&self.view, position)
    }

    /// Reads from the beginning of the log.
    #[must_use]
    pub fn reader(&self) -> LogReader<'_> {
        self.reader_from(LogPosition::START)
    }

    /// Reads from a position on: that of an entry, of the tail, or of another reader.
    #[must_use]
    pub fn reader_from(&self, position: LogPosition) -> LogReader<'_> {
        LogReader::new(&self.view, position)
    }

    /// All frames from a position on, for people debugging.
    #[must_use]
    pub fn frames(&self, from: LogPosition) -> Frames<'_> {
        Frames::new(self.reader_from(from))
    }

    /// Makes everything that is in the log durable; everything before the position is then.
    /// Concurrent callers share one sync. Waits for appends that are under way.
    ///
    /// # Errors
    /// [`SyncError`]. After a failed sync the log refuses writes for good.
    pub fn sync(&self) -> Result<LogPosition, SyncError> {
        self.writer().ok_or(SyncError::ReadOnly)?.sync()
    }

    /// Waits until the entry at a position is durable (for a position at or behind the tail:
    /// everything before the tail).
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn wait_durable(&self, position: LogPosition) -> Result<(), SyncError> {
        self.writer().ok_or(SyncError::ReadOnly)?.wait_durable(position)
    }

    /// As [`wait_durable`](Self::wait_durable) for async callers, with any executor. The sync is
    /// done by the log's own thread; with [`Maintenance::Manual`] by the first poll. Where that
    /// thread has failed it is an error, and `wait_durable` still works.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub async fn wait_durable_async(&self, position: LogPosition) -> Result<(), SyncError> {
        let writer = self.writer().ok_or(SyncError::ReadOnly)?;
        if !writer.background.is_running() {
            return writer.wait_durable(position);
        }
        writer.check_outside_append()?;
        let target = writer.target(position);
        let mut waiting = Waiting { writer, ticket: 0 };
        std::future::poll_fn(|context| {
            if writer.is_durable(target) {
                return Poll::Ready(Ok(()));
            }
            match writer.group.poll(target.as_u64(), &mut waiting.ticket, context.waker()) {
                Durable::Done => Poll::Ready(Ok(())),
                Durable::Failed(source) => Poll::Ready(Err(SyncError::Failed { source })),
                Durable::Registered => {
                    // Only now: whoever looks before may be registered after all were woken.
                    if let Some(failure) = writer.background.sync_failure() {
                        return Poll::Ready(Err(SyncError::Background(failure.clone())));
                    }
                    writer.background.wake_sync();
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The id of the log, drawn at random when it was made. Keep it beside positions that are stored
    /// elsewhere: those of a log that was made anew in the same place mean nothing. A backup, or any
    /// other copy, has the id of the original. 0 where version 0.1.0 made the log, until it is opened
    /// for writing.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Where the log begins.
    #[must_use]
    pub fn begin(&self) -> LogPosition {
        self.view.begin()
    }

    /// Where the next frame will be: the end of what is reserved.
    #[must_use]
    pub fn tail(&self) -> LogPosition {
        self.view.tail()
    }

    /// The end of the contiguous committed part: every append before it is finished.
    #[must_use]
    pub fn committed(&self) -> LogPosition {
        self.writer().map_or_else(|| self.tail(), |writer| writer.prefix.advance(&writer.tail))
    }

    /// The end of what is known to be durable.
    #[must_use]
    pub fn durable(&self) -> LogPosition {
        self.writer().map_or(LogPosition::START, |writer| writer.durable())
    }

    /// Drops segments that lie wholly before a position, and says where the log now begins: at
    /// the position or before it. Readers that are in a dropped segment may finish with it.
    ///
    /// # Errors
    /// [`TruncateError`].
    pub fn truncate_before(&self, position: LogPosition) -> Result<LogPosition, TruncateError> {
        let writer = self.writer().ok_or(TruncateError::ReadOnly)?;
        if self.stored {
            return Err(TruncateError::Store);
        }
        let io = |error: std::io::Error| TruncateError::Io { source: Arc::new(error) };
        let tail = writer.tail.position();
        if position > tail {
            return Err(TruncateError::PastEnd { position, tail });
        }
        writer.seal_finished().map_err(|error| io(std::io::Error::other(error)))?;
        // One at a time: who comes second finds nothing left to do.
        let _alone = lock(&writer.truncating);
        let doomed: Vec<u32> = writer.table.with(|all| {
            let before = all.iter().take_while(|s| s.id() < position.segment() && s.is_sealed());
            before.map(|s| s.id()).collect()
        });
        let Some(&last) = doomed.last() else { return Ok(self.begin()) };
        let first = writer.table.with(|all| all.iter().map(|s| s.id()).find(|&id| id > last));
        let first = first.or_else(|| writer.first_to_come()).unwrap_or(tail.segment());
        let begin_there = |manifest: &mut Manifest| {
            // Those that salvage keeps beside the log are dropped first, and the log begins later.
            manifest.first = manifest.first.max(first);
            manifest.kept.retain(|id| !doomed.contains(id));
            manifest.remove(&doomed);
        };
        writer.change_manifest(begin_there).map_err(io)?;
        writer.table.remove(|id| id <= last);
        writer.tidy();
        // What cannot be removed stays listed, and is removed by the next open.
        let mut failed = None;
        let gone = doomed.into_iter().filter(|&id| match writer.storage.remove(&file_name(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                failed.get_or_insert(error);
                false
            }
            _ => true,
        });
        let gone: Vec<u32> = gone.collect();
        writer.storage.sync_directory().map_err(io)?;
        writer.files_are_gone(&gone);
        failed.map_or_else(|| Ok(self.begin()), |error| Err(io(error)))
    }

    /// Does what the background threads would: seals full segments, prepares a standby, unmaps
    /// what was truncated away.
    ///
    /// # Errors
    /// [`AppendError`] if there is no room for a standby, or a sync failed.
    pub fn maintain(&self) -> Result<(), AppendError> {
        self.writable()?.maintain()
    }

    /// What was found when the log was opened.
    #[must_use]
    pub const fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// What the log did since it was opened, and where it stands. Walks over what was committed
    /// since the last call, some nanoseconds an entry.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let mut stats = LogStats::default();
        if let Some(writer) = self.writer() {
            stats.committed = writer.prefix.advance(&writer.tail);
            stats.rolls = writer.tail.roll_number().saturating_sub(1);
            let counts = writer.prefix.counts();
            (stats.entries, stats.batches) = (counts.entries, counts.batches);
            (stats.bytes, stats.voids) = (counts.bytes, counts.voids);
            writer.counters.read(&mut stats);
            stats.failed_thread = writer.background.failure().cloned();
            stats.durable = writer.durable();
        }
        stats.begin = self.begin();
        stats.tail = self.tail();
        if self.writer().is_none() {
            stats.committed = stats.tail;
        }
        stats.oldest_unfinished = (stats.committed < stats.tail).then_some(stats.committed);
        self.view.table().with(|all| {
            stats.segments = all.len();
            stats.disk_bytes = all.iter().map(|s| s.map.len() as u64).sum();
        });
        let (waiting, since) = self.view.table().waiting();
        stats.segments_waiting_for_readers = waiting;
        stats.longest_reader_wait = since.map(|since| since.elapsed());
        stats
    }

    /// Reads everything that is committed and checks every checksum.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] at the first damage.
    pub fn verify(&self) -> Result<VerifyReport, ReadError> {
        let mut report = VerifyReport::default();
        let mut last = None;
        for frame in self.frames(LogPosition::START) {
            let frame = frame?;
            if last.replace(frame.position.segment()) != Some(frame.position.segment()) {
                report.segments += 1;
                self.verify_sealed(frame.position.segment())?;
            }
            report.frames += 1;
            if frame.kind == Some("entry") {
                report.entries += 1;
                report.bytes += u64::from(frame.value_len);
            }
        }
        Ok(report)
    }

    fn verify_sealed(&self, id: u32) -> Result<(), ReadError> {
        match self.view.table().pin(id) {
            Some(segment) if segment.is_sealed() => {
                scan::verify_sealed(&segment).map(drop).map_err(ReadError::Corrupt)
            }
            _ => Ok(()),
        }
    }

    /// Syncs, seals, and lets go of the directory. The next open has nothing to scan. Dropping the
    /// log does the same, and loses the error.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn close(mut self) -> Result<(), SyncError> {
        self.shut()
    }

    #[allow(unsafe_code, reason = "the end of the log, at which nobody else uses it")]
    pub(crate) fn shut(&mut self) -> Result<(), SyncError> {
        match &self.view {
            View::Writer(writer) if !std::mem::replace(&mut self.closed, true) => {
                writer.background.stop();
                // SAFETY: the log is borrowed mutably, its own threads have ended, and a store on it
                // has ended its own before.
                unsafe { writer.close() }
            }
            _ => Ok(()),
        }
    }

    /// Lets go of the log as a dying process would: nothing is synced or sealed. For tests of
    /// recovery.
    #[doc(hidden)]
    pub fn abort(mut self) {
        self.forsake();
    }

    pub(crate) fn forsake(&mut self) {
        self.closed = true;
        if let Some(writer) = self.writer() {
            writer.background.stop();
        }
    }

    /// Makes a background thread panic. For tests.
    #[doc(hidden)]
    pub fn fail_at(&self, point: FailPoint) {
        if let Some(writer) = self.writer() {
            writer.background.fail_at(point);
        }
    }

    /// Reserves room and never claims it, as a thread does that dies in between. For tests of
    /// recovery: everything that waits for appends to finish waits for ever after this.
    #[doc(hidden)]
    pub fn abandon_reservation(&self, len: usize) {
        if let Some(writer) = self.writer() {
            writer.tail.abandon(crate::format::frame::frame_len(len as u64));
        }
    }
}

/// A task in the group of those who wait for a sync, until this is dropped.
struct Waiting<'a> {
    writer: &'a LogWriter,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.writer.group.forget(self.ticket);
    }
}

impl std::fmt::Debug for CommitLog {
    /// Which log, and where it stands: not all that is in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut log = f.debug_struct("CommitLog");
        log.field("id", &self.id).field("begin", &self.begin()).field("tail", &self.tail());
        log.field("read_only", &self.writer().is_none()).finish_non_exhaustive()
    }
}

impl Drop for CommitLog {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::error!(%error, "closing the log failed in a drop");
        }
    }
}

/// What [`CommitLog::verify`] went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments.
    pub segments: u64,
    /// Frames, also those that hold no entry.
    pub frames: u64,
    /// Entries.
    pub entries: u64,
    /// Keys of a store.
    pub keys: u64,
    /// Bytes of entries, or of the newest values.
    pub bytes: u64,
    /// Damaged places in a store that nothing needs any more: they go with the next merge.
    pub damaged: u64,
}
