//! The commit log: the public types [`CommitLog`] and [`LogOptions`].

pub(crate) mod append;
mod batch;
mod checkpoint;
pub(crate) mod close_later;
mod entry;
mod follower;
pub(crate) mod group_commit;
pub(crate) mod handle;
pub(crate) mod held_up;
pub(crate) mod maintenance;
mod open;
mod options;
mod reader;
pub(crate) mod recovery;
mod retention;
#[cfg(test)]
mod slow_allocation;
mod stats;
#[cfg(feature = "stream")]
mod stream;
#[cfg(feature = "testing")]
mod testing;
pub(crate) mod waiters;
pub(crate) mod writer;

pub use batch::BatchWriter;
pub use entry::Entry;
pub use held_up::UnfinishedAppend;
pub use options::LogOptions;
pub use reader::{FrameInfo, Frames, LogReader};
pub(crate) use recovery::FrameEvidence;
pub use recovery::{
    Contradiction, DamagedRange, Doubt, InDoubt, LostFrame, LostKind, RecoveryReport, SetAside,
};
pub use stats::{Distribution, LogSegment, LogStats, TruncateReport};
#[cfg(feature = "stream")]
pub use stream::EntryStream;
#[cfg_attr(
    not(feature = "testing"),
    allow(unreachable_pub, reason = "public with the feature")
)]
pub use writer::FailPoint;

use self::follower::Source;
use self::handle::{SharedLog, Tenant};
use self::writer::LogWriter;
use crate::error::{AppendError, OpenError, ReadError, SyncError, TruncateError};
use crate::latency::Operation;
use crate::position::LogPosition;
use crate::segment::quiet::QuietSegment;
use crate::segment::scan;
use crate::storage::simulated::SimulatedDisk;
use std::path::Path;
use std::sync::Arc;

/// A lock-free, memory-mapped commit log.
///
/// Any number of threads append and read, through one handle or clones of it, which are cheap. At every
/// [`Durability`](crate::Durability) an acknowledged append survives the death of the process.
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
/// Filling an entry in place, waiting for the device, reading on from a position, and dropping the beginning:
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("log");
/// use tailcask::CommitLog;
///
/// let log = CommitLog::open(&dir)?;
/// let first = log.append_with(8, |bytes| bytes.copy_from_slice(&7u64.to_le_bytes()))?;
/// log.append_vectored(&[b"key", b"=", b"value"])?; // one entry of several parts
/// let mut batch = log.batch_writer(64 << 10); // flushes whenever it has 64 KiB
/// for n in 0..1000u64 {
///     batch.push(&n.to_le_bytes())?;
/// }
/// batch.flush()?;
/// # drop(batch);
/// log.wait_durable(first)?; // or `wait_durable_async(first).await`
/// let end = log.sync()?; // everything before `end` is on the device
///
/// // Another process, or this one: without a lock, beside the writer.
/// let follower = CommitLog::open_read_only(&dir)?;
/// let mut reader = follower.reader_from(first);
/// assert_eq!(reader.next_entry()?.expect("the first").position(), first);
/// assert_eq!(follower.verify()?.damaged, 0); // reads everything
///
/// let begin = log.truncate_before(end)?; // drops whole segments that lie before `end`
/// assert!(begin <= end);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The log is closed by [`close`](Self::close) on any handle, or when the last one is dropped:
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use tailcask::{AppendError, CommitLog};
///
/// let log = CommitLog::open(dir.path().join("log"))?;
/// let worker = std::thread::spawn({
///     let log = log.clone();
///     move || log.append(b"from another thread")
/// });
/// worker.join().expect("no panic")?;
/// let other = log.clone();
/// log.close()?;
/// assert!(matches!(other.append(b"too late"), Err(AppendError::Closed)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct CommitLog {
    /// That of `shared`: so an append finds the writer at once.
    source: Source,
    shared: Arc<SharedLog>,
}

impl CommitLog {
    fn new(shared: SharedLog) -> Self {
        Self { source: shared.source.clone(), shared: Arc::new(shared) }
    }

    /// Lets a store use the log. It is closed with the log from now on.
    pub(crate) fn let_to(&self, tenant: Arc<dyn Tenant>) {
        self.shared.let_to(tenant);
    }

    /// Opens the log in a directory with the default options.
    ///
    /// # Errors
    /// As [`LogOptions::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().open(dir)
    }

    /// Opens the log in a directory for writing with the default options, and creates none.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path().join("log");
    /// use tailcask::{CommitLog, OpenError};
    ///
    /// assert!(matches!(CommitLog::open_existing(&dir), Err(OpenError::NotFound { .. })));
    /// CommitLog::options().create_new(true).open(&dir)?.close()?;
    /// assert!(matches!(
    ///     CommitLog::options().create_new(true).open(&dir),
    ///     Err(OpenError::Exists { .. })
    /// ));
    /// CommitLog::open_existing(&dir)?.append(b"first")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OpenError::NotFound`] if there is no log; others as [`LogOptions::open`].
    pub fn open_existing(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().create(false).open(dir)
    }

    /// Opens the log in a directory read-only, with the default options.
    ///
    /// # Errors
    /// As [`LogOptions::open_read_only`].
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().open_read_only(dir)
    }

    /// The default options, to be changed and then opened.
    pub fn options() -> LogOptions {
        LogOptions::default()
    }

    /// A log in anonymous memory, which is lost when it is dropped.
    ///
    /// # Panics
    /// If there is no memory for its first segment (2 MiB).
    #[must_use]
    pub fn in_memory() -> Self {
        let log = Self::options().open_on(&SimulatedDisk::volatile());
        log.expect("memory for the first segment")
    }

    pub(crate) fn writer(&self) -> Option<&Arc<LogWriter>> {
        match &self.source {
            Source::Writer(writer) => Some(writer),
            Source::Follower(_) => None,
        }
    }

    #[inline]
    fn writable(&self) -> Result<&LogWriter, AppendError> {
        match &self.source {
            Source::Writer(writer) => Ok(writer),
            Source::Follower(_) => Err(AppendError::ReadOnly),
        }
    }

    /// Appends an entry, which may be empty, and returns its position.
    ///
    /// # Errors
    /// [`AppendError`].
    #[inline]
    pub fn append(&self, entry: &[u8]) -> Result<LogPosition, AppendError> {
        self.writable()?.append(entry)
    }

    /// Appends one entry that is given in several parts.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append_vectored(&self, parts: &[&[u8]]) -> Result<LogPosition, AppendError> {
        let writer = self.writable()?;
        writer.timer.time(Operation::Append, || writer.append_vectored(parts))
    }

    /// Appends an entry of `len` bytes, which `fill` writes in place; the bytes are zero before. If
    /// `fill` panics, there is no entry. Readers, syncs and [`committed`](Self::committed) do not get
    /// past the entry while `fill` runs: it should be quick and must not wait for any of them. A sync
    /// inside it is refused.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append_with(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<LogPosition, AppendError> {
        let writer = self.writable()?;
        writer.timer.time(Operation::Append, || writer.append_with(len, fill))
    }

    /// Appends several entries as a batch, and returns their positions. It is atomic: no reader and no
    /// recovery sees only a part of it. The batch may have at most 4 GiB less 2 MiB, headers and
    /// padding included.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append_batch(&self, entries: &[&[u8]]) -> Result<Vec<LogPosition>, AppendError> {
        let mut positions = Vec::with_capacity(entries.len());
        let writer = self.writable()?;
        let append = || writer.append_batch(entries.iter().copied(), |at| positions.push(at));
        writer.timer.time(Operation::Append, append)?;
        Ok(positions)
    }

    /// A writer that gathers entries, up to `max_bytes`, and appends them as batches.
    #[must_use]
    pub fn batch_writer(&self, max_bytes: usize) -> BatchWriter<'_> {
        BatchWriter::new(self.writable(), max_bytes)
    }

    /// Reads the entry at a position, in place. The position is checked, so it may come from an
    /// untrusted source.
    ///
    /// # Errors
    /// [`ReadError`] says what is wrong with the position, or that the entry is damaged.
    pub fn read(&self, position: LogPosition) -> Result<Entry<'_>, ReadError> {
        entry::read_at(&self.source, position)
    }

    /// A reader from the beginning of the log.
    #[must_use]
    pub fn reader(&self) -> LogReader<'_> {
        self.reader_from(LogPosition::START)
    }

    /// A reader that starts at a position: that of an entry, of the tail, or of another reader. Whether it
    /// is one is found out by the first read. For positions that are stored elsewhere, a
    /// [`Checkpoint`](crate::Checkpoint) and
    /// [`reader_from_checkpoint`](Self::reader_from_checkpoint) notice more, and at once.
    #[must_use]
    pub fn reader_from(&self, position: LogPosition) -> LogReader<'_> {
        LogReader::new(&self.source, position)
    }

    /// As [`reader`](Self::reader), without borrowing the log: for a thread or a task of its own. It is a
    /// handle, so it keeps the log open, until that is [closed](Self::close). To start elsewhere, let it
    /// [`seek`](LogReader::seek), or use
    /// [`reader_owned_from_checkpoint`](Self::reader_owned_from_checkpoint).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = tailcask::CommitLog::open(dir.path().join("log"))?;
    /// use std::time::Duration;
    /// use tailcask::ReadError;
    ///
    /// let mut reader = log.reader_owned();
    /// let worker = std::thread::spawn(move || {
    ///     let mut seen = 0;
    ///     loop {
    ///         match reader.wait_entry(Duration::MAX) {
    ///             Ok(entry) => seen += entry.iter().count(),
    ///             Err(ReadError::Closed) => return Ok(seen),
    ///             Err(error) => return Err(error),
    ///         }
    ///     }
    /// });
    /// log.append(b"followed")?;
    /// log.close()?; // ends the wait
    /// worker.join().expect("no panic")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn reader_owned(&self) -> LogReader<'static> {
        LogReader::owned(self.source.clone(), self.shared.clone())
    }

    /// The entries from a position on, as a stream that follows the log, for a task on any executor. It is a
    /// handle, so it keeps the log open, until that is [closed](Self::close). Needs the feature `stream`. To go
    /// on where another stream had got to, use [`stream_from_checkpoint`](Self::stream_from_checkpoint).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = tailcask::CommitLog::open(dir.path().join("log"))?;
    /// # mod tokio_stream { pub use futures_core::Stream; pub trait StreamExt: Stream + Unpin {
    /// #     async fn next(&mut self) -> Option<Self::Item> {
    /// #         std::future::poll_fn(|context| std::pin::Pin::new(&mut *self).poll_next(context)).await
    /// #     } }
    /// # impl<S: Stream + Unpin> StreamExt for S {} }
    /// use tailcask::{LogPosition, ReadError};
    /// use tokio_stream::StreamExt; // or that of `futures`
    ///
    /// let mut entries = log.stream_from(LogPosition::START);
    /// let worker = async move {
    ///     let mut seen = 0;
    ///     while let Some(entry) = entries.next().await {
    ///         match entry {
    ///             Ok(entry) => seen += entry.len(),
    ///             Err(ReadError::Closed) => break,
    ///             Err(error) => return Err(error),
    ///         }
    ///     }
    ///     Ok(seen)
    /// };
    /// # log.append(b"12345")?;
    /// # let closing = std::thread::spawn(move || log.close());
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(worker)?;
    /// # closing.join().expect("no panic")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "stream")]
    pub fn stream_from(&self, position: LogPosition) -> EntryStream {
        let mut reader = self.reader_owned();
        reader.seek(position);
        EntryStream::new(reader)
    }

    /// All frames from a position on, for debugging.
    ///
    /// ```
    /// use tailcask::{CommitLog, LogPosition};
    ///
    /// let log = CommitLog::in_memory();
    /// log.append_batch(&[b"a", b"b"])?;
    /// for frame in log.frames(LogPosition::START) {
    ///     println!("{:?}", frame?);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn frames(&self, from: LogPosition) -> Frames<'_> {
        Frames::new(self.reader_from(from))
    }

    /// Makes the log durable: everything before the returned position is on the device. Concurrent
    /// callers share one sync. Waits for appends in progress.
    ///
    /// # Errors
    /// [`SyncError`]. After a failed sync the log refuses writes permanently.
    pub fn sync(&self) -> Result<LogPosition, SyncError> {
        self.writer().ok_or(SyncError::ReadOnly)?.sync()
    }

    /// Waits until the entry at a position is durable. For a position at or after the tail, waits until
    /// everything before the tail is.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn wait_durable(&self, position: LogPosition) -> Result<(), SyncError> {
        self.writer().ok_or(SyncError::ReadOnly)?.wait_durable(position)
    }

    /// As [`wait_durable`](Self::wait_durable), for async callers on any executor. The log's background
    /// thread does the sync; with [`Maintenance::Manual`](crate::Maintenance::Manual) the first poll does, and
    /// blocks. If that thread has failed this is an error; `wait_durable` still works.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub async fn wait_durable_async(&self, position: LogPosition) -> Result<(), SyncError> {
        self.writer().ok_or(SyncError::ReadOnly)?.wait_durable_async(position).await
    }

    /// As [`sync`](Self::sync), for async callers on any executor; as
    /// [`wait_durable_async`](Self::wait_durable_async) in all else. It is the async form of every durable
    /// write: write with [`Durability::Buffered`](crate::Durability::Buffered), then await this.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = tailcask::CommitLog::open(dir.path().join("log"))?;
    /// # let task = async {
    /// log.append(b"an entry")?;
    /// log.sync_async().await?; // it is on the device
    /// # Ok::<(), tailcask::Error>(())
    /// # };
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(task)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As `sync`.
    pub async fn sync_async(&self) -> Result<LogPosition, SyncError> {
        self.writer().ok_or(SyncError::ReadOnly)?.sync_async().await
    }

    /// The log's id, a random number drawn when it was created. Store it beside positions that are kept
    /// elsewhere: if the log is created anew in the same place, old positions mean nothing. A backup,
    /// or any other copy, has the id of the original. The id of a log written by version 0.1.0 is 0
    /// until it is opened for writing.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// Where the log begins.
    #[must_use]
    pub fn begin(&self) -> LogPosition {
        self.shared.last().map_or_else(|| self.source.begin(), |last| last.begin)
    }

    /// Where the next frame will begin: the end of what is reserved.
    #[must_use]
    pub fn tail(&self) -> LogPosition {
        self.shared.last().map_or_else(|| self.source.tail(), |last| last.tail)
    }

    /// The end of the contiguous committed part: every append before it is finished.
    #[must_use]
    pub fn committed(&self) -> LogPosition {
        self.shared.last().map_or_else(|| self.source.committed(), |last| last.committed)
    }

    /// The durable watermark: everything before it is on the device. [`LogPosition::START`] if the log
    /// is open read-only.
    #[must_use]
    pub fn durable(&self) -> LogPosition {
        self.writer().map_or(LogPosition::START, |writer| writer.durable())
    }

    /// Drops the segments that lie completely before a position, and returns where the log begins now,
    /// which is at or before that position unless the log began later already. Readers in a dropped
    /// segment can finish it; its space is released afterwards.
    ///
    /// # Errors
    /// [`TruncateError`].
    pub fn truncate_before(&self, position: LogPosition) -> Result<LogPosition, TruncateError> {
        let writer = self.writer().ok_or(TruncateError::ReadOnly)?;
        if self.shared.is_of_a_store() {
            return Err(TruncateError::Store);
        }
        Ok(writer.truncate_before(position)?.begin)
    }

    /// Does the work of the background threads: seals full segments, creates a standby, and unmaps
    /// truncated segments. Without these threads it also syncs, with
    /// [`Durability::Periodic`](crate::Durability::Periodic), if the interval is over since it did so last.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use tailcask::{CommitLog, Maintenance};
    ///
    /// let options = CommitLog::options().maintenance(Maintenance::Manual);
    /// let log = options.open(dir.path().join("log"))?;
    /// log.append(b"entry")?;
    /// log.maintain()?; // now and then, from a thread of the program
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AppendError`], if there is no room for a standby, or a sync failed.
    pub fn maintain(&self) -> Result<(), AppendError> {
        self.writable()?.maintain()
    }

    /// The id of the process that has the log open for writing now. `None` if there is none, or the
    /// system does not tell: Linux does, of processes that this one can see.
    #[must_use]
    pub fn writer_process(&self) -> Option<u32> {
        match &self.source {
            Source::Writer(_) => Some(std::process::id()),
            Source::Follower(log) => log.storage.writer_process(),
        }
    }

    /// What opening the log found.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.shared.report
    }

    /// Counters since the log was opened, and its current state. Walks over what was committed since
    /// the last call, which takes some nanoseconds per entry. Once the log is closed, those at its end.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.shared.last().cloned().unwrap_or_else(|| self.source.stats())
    }

    /// Reads every committed frame and checks its checksum.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] at the first damage; [`ReadError::Truncated`] if what it has still to read is
    /// truncated meanwhile.
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
        match self.source.table().pin(id) {
            Some(segment) if segment.is_sealed() => scan::verify_sealed(QuietSegment::of(&segment))
                .map(drop)
                .map_err(ReadError::Corrupt),
            _ => Ok(()),
        }
    }

    /// Syncs and seals the log and unlocks its directory, so that the next open has nothing to scan.
    /// If it is the log of a store, that is closed, too. Dropping the last handle does the same, but only
    /// logs an error.
    ///
    /// From then on every call, on any handle, that would read or write gives `Closed`, and so do those
    /// that wait for an entry. What was read before stays valid; figures and positions are those at the
    /// end. Appends, merges and backups in progress are waited for. Closing again does nothing and
    /// returns the same result.
    ///
    /// # Errors
    /// As [`sync`](Self::sync). The log is closed all the same, but for
    /// [`SyncError::InsideAppend`].
    pub fn close(&self) -> Result<(), SyncError> {
        self.shared.close()
    }
}

impl std::fmt::Debug for CommitLog {
    /// Id and positions only, not the whole state.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut log = f.debug_struct("CommitLog");
        log.field("id", &self.id()).field("begin", &self.begin()).field("tail", &self.tail());
        log.field("read_only", &self.writer().is_none()).finish_non_exhaustive()
    }
}

/// What [`CommitLog::verify`] or [`Store::verify`](crate::Store::verify) checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Number of segments.
    pub segments: u64,
    /// Number of frames, including those without an entry.
    pub frames: u64,
    /// Number of the log's entries.
    pub entries: u64,
    /// Number of a store's keys.
    pub keys: u64,
    /// Bytes of the entries, or of the keys' current values.
    pub bytes: u64,
    /// Damaged places in a store that hold nothing current: the next merge removes them.
    pub damaged: u64,
}
