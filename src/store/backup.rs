//! Backup, and where the store stands.
//!
//! A backup is a directory of hard links: sealed segments never change, so another name for each is
//! a copy of it, at once and without taking space. What is active is sealed first, by a roll. Only
//! to another file system are files copied. All of it goes through handles of directories, so it makes
//! no difference where the store is moved meanwhile. The backup is made under another name, and gets its
//! own when it is whole and durable: a destination that is there opens as the store, all of it.

use super::Store;
use super::merge::disk_bytes;
use super::stats::{DamagedSegment, SegmentStats, Stats};
use crate::error::BackupError;
use crate::format::header::FIRST_FRAME;
use crate::format::manifest::{LogEnd, Manifest};
use crate::format::names::{MANIFEST, SET_ASIDE, hint_name, segment_name};
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::storage::sys::{self, OpenMode};
use crate::sync::lock;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
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
    /// [`BackupError`]; then there is nothing at the destination.
    pub fn backup(&self, dest: impl AsRef<Path>) -> Result<BackupReport, BackupError> {
        self.backup_while(dest, || {})
    }

    /// As `backup`; `meanwhile` runs after it is known what is to be in it, and before that is.
    #[doc(hidden)]
    pub fn backup_while(
        &self,
        dest: impl AsRef<Path>,
        meanwhile: impl FnOnce(),
    ) -> Result<BackupReport, BackupError> {
        let started = Instant::now();
        let writer = self.writer();
        let from = writer.storage().directory().ok_or(BackupError::NotADirectory)?;
        // No segment is merged away meanwhile.
        let _still = self.inner.merging();
        let place = Place::new(from, dest.as_ref())?;
        // So that what is active is linked, too.
        writer.roll_if_used()?;
        let position = LogPosition::new(writer.tail().segment(), FIRST_FRAME as u32);
        writer.sync()?;
        let segments = writer.segment_set().segments().into_iter();
        let kept: Vec<_> = segments.filter(|s| before(s, position)).collect();
        if let Some(open) = kept.iter().find(|segment| !segment.is_sealed()) {
            let operation = format!("seal segment {}", open.id());
            let source = io::Error::other("it is synced, and not sealed");
            return Err(BackupError::Io { operation, source });
        }
        meanwhile();
        let manifest = manifest_of(&writer.manifest(), position, &kept);
        let put = |segment: &Segment, to: &File| take(from, to, &segment_name(segment.id()));
        let mut report = make(from, &place, &kept, &manifest, put)?;
        (report.position, report.duration) = (position, started.elapsed());
        tracing::info!(?report, "backed up");
        Ok(report)
    }

    /// What the store did since it was opened, and where it stands. Takes some nanoseconds for
    /// every write since the last call, and for every segment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let log = self.log.stats();
        let (counters, writes) = (&self.inner.counters, &self.inner.writes);
        let mut stats = Stats {
            keys: self.len(),
            keydir_bytes: self.keydir_memory(),
            merges: *lock(&self.inner.totals),
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
        let damaged = lock(&self.inner.damaged).clone();
        stats.damaged = damaged
            .into_iter()
            .map(|(id, damaged)| DamagedSegment { id, first: damaged.first, bytes: damaged.bytes })
            .collect();
        let full = self.inner.known();
        let facts: Vec<_> = full.iter().map(|known| known.facts).collect();
        stats.space_goal_missed = self.inner.policy.misses_goal(&facts);
        let tail = self.log.tail();
        for segment in self.writer().segment_set().segments() {
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

/// The MANIFEST of a backup of segments that are sealed there, all of them.
pub(super) fn manifest_of(
    of_store: &Manifest,
    position: LogPosition,
    kept: &[Arc<Segment>],
) -> Manifest {
    let kept: Vec<_> = kept.iter().map(|segment| segment.id()).collect();
    let first = position.segment().max(kept.last().map_or(0, |id| id + 1));
    let closed = Some(LogEnd::default());
    Manifest { first, next: first, kept, closed, removed: Vec::new(), ..of_store.clone() }
}

/// Makes a backup, whole or not at all. `put` puts a segment into a folder, and says whether that is a
/// link.
pub(super) fn make(
    from: &File,
    place: &Place<'_>,
    kept: &[Arc<Segment>],
    manifest: &Manifest,
    put: impl Fn(&Segment, &File) -> io::Result<bool>,
) -> Result<BackupReport, BackupError> {
    let mut report = BackupReport::default();
    let made = Partial::make(place)?;
    let filled = fill(from, &made, kept, manifest, put, &mut report).and_then(|()| made.publish());
    match filled {
        Ok(()) => Ok(report),
        Err(error) => {
            made.remove();
            Err(error)
        }
    }
}

/// Links or copies segments and hints, and writes the MANIFEST.
fn fill(
    from: &File,
    to: &Partial<'_>,
    kept: &[Arc<Segment>],
    manifest: &Manifest,
    put: impl Fn(&Segment, &File) -> io::Result<bool>,
    report: &mut BackupReport,
) -> Result<(), BackupError> {
    for segment in kept {
        let name = segment_name(segment.id());
        let linked = put(segment, &to.folder).map_err(failed(|| format!("copy {name}")))?;
        report.linked += u64::from(linked);
        report.copied += u64::from(!linked);
        report.segments += 1;
        report.bytes += disk_bytes(segment);
        if !segment.is_sealed() || !segment.gaps.is_empty() {
            // It is not what a hint that its writer may have made since is about.
            continue;
        }
        let name = hint_name(segment.id());
        match take(from, &to.folder, &name) {
            // It is not needed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => _ = other.map_err(failed(|| format!("copy {name}")))?,
        }
    }
    let write = || {
        let mut file = create(&to.folder, MANIFEST)?;
        file.write_all(&manifest.encode())?;
        file.sync_all()?;
        to.folder.sync_all()
    };
    write().map_err(failed(|| "write MANIFEST".into()))
}

/// Links a file, and says whether that could be done.
pub(super) fn link(from: &File, to: &File, name: &str) -> bool {
    sys::link(from, name, to, name).is_ok()
}

/// Links a file, or copies it where that cannot be done; says whether it was linked.
fn take(from: &File, to: &File, name: &str) -> io::Result<bool> {
    match sys::link(from, name, to, name) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        // Another file system, or one that has no links, or has too many.
        Err(error) => tracing::debug!(name, %error, "a file is copied, for it cannot be linked"),
    }
    let mut old = sys::open_at(from, name, OpenMode::Read, 0)?;
    let mut new = create(to, name)?;
    io::copy(&mut old, &mut new)?;
    new.sync_all()?;
    Ok(false)
}

pub(super) fn create(folder: &File, name: &str) -> io::Result<File> {
    sys::open_at(folder, name, OpenMode::CreateNew, 0o600)
}

/// Where a backup is to be: a name in a directory.
pub(super) struct Place<'d> {
    parent: File,
    name: &'d OsStr,
    dest: &'d Path,
}

impl<'d> Place<'d> {
    pub(super) fn new(store: &File, dest: &'d Path) -> Result<Self, BackupError> {
        let exists = || BackupError::Exists { path: dest.into() };
        // What has no name is `..` or a root, which are there.
        let name = dest.file_name().ok_or_else(exists)?;
        let parent = dest.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let look = failed(|| format!("look at {}", parent.display()));
        if is_inside(parent, store).map_err(&look)? {
            return Err(BackupError::Inside { path: dest.into() });
        }
        let parent = File::open(parent).map_err(look)?;
        match sys::stat(&parent, name) {
            Ok(_) => Err(exists()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { parent, name, dest })
            }
            Err(error) => Err(failed(|| format!("look at {}", dest.display()))(error)),
        }
    }
}

/// Whether a directory is the store's, or inside of it, whatever that is called now.
fn is_inside(directory: &Path, store: &File) -> io::Result<bool> {
    let store = store.metadata()?;
    for ancestor in directory.canonicalize()?.ancestors() {
        let here = fs::metadata(ancestor)?;
        if (here.dev(), here.ino()) == (store.dev(), store.ino()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A backup that is being made, under another name: what is at the destination is whole.
pub(super) struct Partial<'p> {
    place: &'p Place<'p>,
    name: OsString,
    pub(super) folder: File,
}

impl<'p> Partial<'p> {
    pub(super) fn make(place: &'p Place<'p>) -> Result<Self, BackupError> {
        let make = |name: &OsStr| {
            sys::make_directory(&place.parent, name, 0o700)?;
            sys::open_directory_at(&place.parent, name)
        };
        let mut number = 0u32;
        loop {
            let mut name = OsString::from(".");
            name.push(place.name);
            name.push(format!(".{number}.partial"));
            match make(&name) {
                Ok(folder) => return Ok(Self { place, name, folder }),
                // That of one that died.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => {
                    number += 1;
                }
                Err(error) => {
                    let create = failed(|| format!("create {}", place.dest.display()));
                    return Err(create(error));
                }
            }
        }
    }

    /// Gives it its own name, durably.
    pub(super) fn publish(&self) -> Result<(), BackupError> {
        use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
        let (parent, name) = (&self.place.parent, self.place.name);
        let renamed = match sys::rename_new(parent, &self.name, parent, name) {
            // Where that is not known: a directory replaces none but an empty one.
            Err(error) if sys::is_unsupported(&error) => {
                sys::rename(parent, &self.name, parent, name)
            }
            other => other,
        };
        if let Err(error) = &renamed
            && matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
        {
            return Err(BackupError::Exists { path: self.place.dest.into() });
        }
        renamed
            .and_then(|()| parent.sync_all())
            .map_err(failed(|| format!("create {}", self.place.dest.display())))
    }

    /// Removes what was made, under the one name or the other.
    pub(super) fn remove(&self) {
        if let Err(error) = self.try_remove() {
            tracing::warn!(name = ?self.name, %error, "could not remove what a backup left");
        }
    }

    /// Where it is while it is made.
    pub(super) fn path(&self) -> PathBuf {
        self.place.dest.with_file_name(&self.name)
    }

    fn try_remove(&self) -> io::Result<()> {
        match sys::open_directory_at(&self.folder, SET_ASIDE) {
            Ok(aside) => {
                remove_files(&aside)?;
                sys::remove_directory(&self.folder, SET_ASIDE)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        remove_files(&self.folder)?;
        let remove = |name: &OsStr| sys::remove_directory(&self.place.parent, name);
        match remove(&self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => remove(self.place.name),
            other => other,
        }
    }
}

fn remove_files(folder: &File) -> io::Result<()> {
    sys::names(folder)?.into_iter().try_for_each(|name| sys::remove(folder, name))
}

fn failed(operation: impl Fn() -> String) -> impl Fn(io::Error) -> BackupError {
    move |source| BackupError::Io { operation: operation(), source }
}
