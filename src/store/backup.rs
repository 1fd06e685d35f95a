//! Backup, and where the store stands.
//!
//! A backup is a directory of hard links: sealed segments never change, so another name for each is
//! a copy of it, at once and without taking space. What is active is sealed first, by a roll. Only
//! to another file system are files copied. The MANIFEST is written last; without it the directory
//! does not open as a store.

use super::Store;
use super::merge::disk_bytes;
use super::stats::{DamagedSegment, SegmentStats, Stats};
use crate::error::BackupError;
use crate::format::header::FIRST_FRAME;
use crate::format::manifest::{LogEnd, Manifest};
use crate::position::LogPosition;
use crate::segment::{Segment, file_name, hint_name};
use crate::sync::lock;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The backup holds everything before this place in the log, and nothing from it on.
    pub position: LogPosition,
    /// Segments in it.
    pub segments: u64,
    /// Segments that are links to the store's own files, and take no space.
    pub linked: u64,
    /// Segments that were copied: the backup is on another file system.
    pub copied: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
}

impl Store {
    /// Makes a backup in a new directory, while writers and readers go on: everything that was
    /// written when this was called is in it. It opens as a store, which is also how to restore it.
    ///
    /// # Errors
    /// [`BackupError`]; the destination is then no store.
    pub fn backup(&self, dest: impl AsRef<Path>) -> Result<BackupReport, BackupError> {
        let (dest, started) = (dest.as_ref(), Instant::now());
        let from = self.core().storage.path().ok_or(BackupError::NotADirectory)?;
        // No segment is merged away meanwhile.
        let _still = self.index.merging();
        let core = self.core();
        make_directory(from, dest)?;
        // So that what is active is linked, too.
        core.roll_if_used()?;
        let position = LogPosition::new(core.tail.position().segment(), FIRST_FRAME as u32);
        core.sync()?;
        let mut report = BackupReport { position, ..BackupReport::default() };
        let segments = core.table.segments().into_iter();
        let kept: Vec<_> = segments.filter(|s| s.is_sealed() && before(s, position)).collect();
        for segment in &kept {
            let linked = take(from, dest, &file_name(segment.id()))?;
            report.linked += u64::from(linked);
            report.copied += u64::from(!linked);
            report.segments += 1;
            report.bytes += disk_bytes(segment);
            let hint = hint_name(segment.id());
            if from.join(&hint).exists() {
                take(from, dest, &hint)?;
            }
        }
        self.write_manifest(dest, position, &kept)?;
        report.duration = started.elapsed();
        tracing::info!(?report, "backed up");
        Ok(report)
    }

    fn write_manifest(
        &self,
        dest: &Path,
        position: LogPosition,
        kept: &[Arc<Segment>],
    ) -> Result<(), BackupError> {
        let kept: Vec<_> = kept.iter().map(|segment| segment.id()).collect();
        let first = position.segment().max(kept.last().map_or(0, |id| id + 1));
        let manifest = Manifest {
            first,
            next: first,
            kept,
            closed: Some(LogEnd::default()),
            removed: Vec::new(),
            ..lock(&self.core().manifest).clone()
        };
        let path = dest.join("MANIFEST");
        let write = || {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(&manifest.encode())?;
            file.sync_all()?;
            File::open(dest)?.sync_all()
        };
        write().map_err(failed(|| format!("write {}", path.display())))
    }

    /// What the store did since it was opened, and where it stands. Takes some nanoseconds for
    /// every write since the last call, and for every segment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let log = self.log.stats();
        let (counters, writes) = (&self.index.counters, &self.index.writes);
        let mut stats = Stats {
            keys: self.len(),
            keydir_bytes: self.keydir_memory(),
            merges: *lock(&self.index.totals),
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            puts: writes.puts.get(),
            deletes: writes.deletes.get(),
            expired: counters.expired.get(),
            segments_waiting_for_readers: log.segments_waiting_for_readers,
            longest_reader_wait: log.longest_reader_wait,
            log,
            ..Stats::default()
        };
        let damaged = lock(&self.index.damaged).clone();
        stats.damaged = damaged
            .into_iter()
            .map(|(id, damaged)| DamagedSegment { id, first: damaged.first, bytes: damaged.bytes })
            .collect();
        let full = self.index.known();
        let facts: Vec<_> = full.iter().map(|known| known.facts).collect();
        stats.space_goal_missed = self.index.policy.misses_goal(&facts);
        let tail = self.log.tail();
        for segment in self.core().table.segments() {
            let known = facts.iter().find(|facts| facts.id == segment.id());
            let used = match known {
                Some(facts) => facts.used,
                None if segment.id() == tail.segment() => u64::from(tail.offset()) - FIRST_FRAME,
                None => 0,
            };
            let dead = known.map_or_else(|| segment.dead.get().min(used), |facts| facts.dead);
            stats.disk_bytes += disk_bytes(&segment);
            stats.live_bytes += used - dead;
            stats.dead_bytes += dead;
            stats.segments.push(SegmentStats {
                id: segment.id(),
                merged: segment.header.merged,
                sealed: segment.is_sealed(),
                disk_bytes: disk_bytes(&segment),
                live_bytes: used - dead,
                dead_bytes: dead,
            });
        }
        stats
    }
}

/// Whether all of a segment was written before a place in the log. What a merge made of such
/// segments was, too.
fn before(segment: &Segment, position: LogPosition) -> bool {
    segment.header.merged || segment.id() < position.segment()
}

fn failed(operation: impl Fn() -> String) -> impl Fn(io::Error) -> BackupError {
    move |source| BackupError::Io { operation: operation(), source }
}

fn make_directory(store: &Path, dest: &Path) -> Result<(), BackupError> {
    let parent = dest.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let whole =
        |path: &Path| path.canonicalize().map_err(failed(|| format!("look at {}", path.display())));
    if whole(parent)?.starts_with(whole(store)?) {
        return Err(BackupError::Inside { path: dest.into() });
    }
    match fs::DirBuilder::new().mode(0o700).create(dest) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(BackupError::Exists { path: dest.into() })
        }
        other => other.map_err(failed(|| format!("create {}", dest.display()))),
    }?;
    let synced = File::open(parent).and_then(|parent| parent.sync_all());
    synced.map_err(failed(|| format!("sync {}", parent.display())))
}

/// Links a file, or copies it where that cannot be done; says whether it was linked.
fn take(from: &Path, dest: &Path, name: &str) -> Result<bool, BackupError> {
    let (old, new) = (from.join(name), dest.join(name));
    if fs::hard_link(&old, &new).is_ok() {
        return Ok(true);
    }
    let copy = || {
        fs::copy(&old, &new)?;
        File::open(&new)?.sync_all()
    };
    copy().map_err(failed(|| format!("copy {} to {}", old.display(), new.display())))?;
    Ok(false)
}
