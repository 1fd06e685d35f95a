//! Opening a log: on a directory or a simulated disk, for writing or for reading only.

use super::follower::{EmptyLog, Follower, Source};
use super::handle::SharedLog;
use super::maintenance::MaintenanceThreads;
use super::options::{LogOptions, rules};
use super::writer::LogWriter;
use super::{CommitLog, recovery};
use crate::error::OpenError;
use crate::format::names::is_of_a_log;
use crate::options::{Config, Creation, RecoveryMode};
use crate::segment::set::SegmentSet;
use crate::storage::dir::Directory;
use crate::storage::simulated::{SimulatedDisk, SimulatedStorage};
use crate::storage::{Storage, check_maps, io_error};
use crate::sync::{AtomicU32, Mutex};
use std::path::Path;
use std::sync::Arc;

impl LogOptions {
    /// Opens the log in a directory for writing. Creates the log, and its directory, where there is none
    /// (mode 0700; the parent must exist), unless [`create`](Self::create) says otherwise. A directory
    /// without a log has to be empty, except for `lost+found` and what a creation left behind that did not
    /// get to its end.
    ///
    /// # Errors
    /// [`OpenError`]; acknowledged data is unchanged.
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<CommitLog, OpenError> {
        let (config, dir) = (self.check()?, dir.as_ref());
        let storage = Directory::open_to_write(dir, config.creation(), rules(&config))?;
        // Again, now that no other process can create one.
        check_existence(&storage, config.creation(), dir)?;
        CommitLog::start(Box::new(storage), config)
    }

    /// Opens a log read-only. Nothing is created or changed, and no lock is held. A writer may have the
    /// log open, or open it later, also in another process: readers follow what it appends. What
    /// [`RecoveryMode::Salvage`] has found without a MANIFEST, or against it, stays as it was found.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_read_only(&self, dir: impl AsRef<Path>) -> Result<CommitLog, OpenError> {
        let config = self.check()?;
        let storage = Directory::open_to_read(dir.as_ref(), rules(&config))?;
        let storage: Box<dyn Storage> = Box::new(storage);
        if !exists(&*storage)? {
            return Err(OpenError::NotFound { path: dir.as_ref().into() });
        }
        let found = recovery::open_read_only(&*storage, config.recovery_mode, false)?;
        check_maps(&*storage)?;
        let stored = found.manifest.is_store();
        let gaps = stored || config.recovery_mode == RecoveryMode::Salvage;
        let (beside, segments): (Vec<_>, Vec<_>) =
            found.segments.into_iter().partition(|segment| segment.header.merged);
        let mut ignored = found.ignored;
        ignored.extend(beside.iter().map(|segment| segment.id()));
        let (table, ignored) = (SegmentSet::new(segments), Mutex::new(ignored));
        let (id, next_id) = (found.manifest.log_id, AtomicU32::new(found.manifest.next));
        let empty = EmptyLog { first: found.manifest.first, last_dropped: found.last_dropped };
        let clock = config.clock;
        let is_as_listed = found.is_as_listed;
        let source = Source::Follower(Arc::new(Follower {
            storage,
            table,
            gaps,
            is_as_listed,
            next_id,
            empty: Mutex::new(empty),
            ignored,
            clock,
            log_id: id,
        }));
        Ok(CommitLog::new(SharedLog::new(source, None, id, found.report, stored)))
    }

    pub(crate) fn open_on(&self, disk: &SimulatedDisk) -> Result<CommitLog, OpenError> {
        let (storage, config) = (SimulatedStorage::attach(disk)?, self.check()?);
        check_existence(&storage, config.creation(), Path::new("the simulated disk"))?;
        CommitLog::start(Box::new(storage), config)
    }
}

impl CommitLog {
    pub(super) fn start(mut storage: Box<dyn Storage>, config: Config) -> Result<Self, OpenError> {
        if (!config.on_store || config.retention.is_some()) && recovery::is_store(&*storage)? {
            let allowed = config.on_store;
            return Err(if allowed { OpenError::StoreRetention } else { OpenError::HoldsStore });
        }
        let (found, report) =
            recovery::recover(&mut *storage, config.recovery_mode, &config.clock)?;
        let stored = found.manifest.is_store();
        let writer = LogWriter::start(storage, config, found);
        let writer = Arc::new(writer.map_err(|e| io_error("create a segment", e))?);
        check_maps(writer.storage())?;
        writer.storage().note_recovered().map_err(|e| io_error("lock LOCK", e))?;
        let threads = (!writer.is_manual()).then(|| MaintenanceThreads::start(&writer)).transpose();
        let threads = threads.map_err(|e| io_error("start a thread", e))?;
        let id = writer.log_id();
        Ok(Self::new(SharedLog::new(Source::Writer(writer), threads, id, report, stored)))
    }
}

/// Refuses a log that is not to exist, or one that has to.
fn check_existence(storage: &dyn Storage, creation: Creation, dir: &Path) -> Result<(), OpenError> {
    match creation {
        Creation::Never if !exists(storage)? => Err(OpenError::NotFound { path: dir.into() }),
        Creation::Required if exists(storage)? => Err(OpenError::Exists { path: dir.into() }),
        _ => Ok(()),
    }
}

/// Whether there is a log, however damaged.
fn exists(storage: &dyn Storage) -> Result<bool, OpenError> {
    Ok(storage.list()?.iter().any(|name| is_of_a_log(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Maintenance;
    use std::time::Duration;

    /// The writer has recovered and made its first segment, and has not said so yet.
    #[test]
    fn a_reader_that_comes_while_a_writer_opens_reads_what_that_writes() {
        let dir = tempfile::tempdir().unwrap();
        let options = CommitLog::options().segment_size(2 << 20).maintenance(Maintenance::Manual);
        let log = options.open(dir.path()).unwrap();
        log.append(b"before").unwrap();
        log.close().unwrap();
        let config = options.check().unwrap();
        let storage = Directory::open_to_write(dir.path(), config.creation(), rules(&config));
        let mut storage = storage.unwrap();
        let (found, _) =
            recovery::recover(&mut storage, config.recovery_mode, &config.clock).unwrap();
        let writer = LogWriter::start(Box::new(storage), config, found).unwrap();
        let log = options.open_read_only(dir.path()).unwrap();
        let mut reader = log.reader();
        assert_eq!(&*reader.next_entry().unwrap().unwrap(), b"before");
        assert!(reader.next_entry().unwrap().is_none());
        writer.storage().note_recovered().unwrap();
        writer.append(b"after").unwrap();
        let entry = reader.wait_entry(Duration::from_secs(10)).unwrap();
        assert_eq!(entry.as_deref(), Some(&b"after"[..]));
    }
}
