//! Backup.
//!
//! A backup is a directory of hard links: sealed segments never change, so another name for each is as
//! good as a copy, takes no space and no time. The active segment is first sealed by a roll. Files are
//! copied only to another file system. Everything goes through open handles of the directories, so the
//! store may be renamed meanwhile. The backup is made under a temporary name and gets its own when it
//! is complete and durable: a destination that exists is a complete backup.

use super::Store;
use crate::error::BackupError;
use crate::format::header::FIRST_FRAME;
use crate::format::manifest::{LogEnd, Manifest};
use crate::format::names::{MANIFEST, SET_ASIDE, hint_name, segment_name};
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::storage::sys::{self, OpenMode};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a backup contains, as [`Store::backup`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The backup contains everything written before this position, and nothing from it on.
    pub position: LogPosition,
    /// Number of segments in it.
    pub segments: u64,
    /// Segments that are hard links to the store's files, and take no space.
    pub linked: u64,
    /// Segments that were copied, because the backup is on another file system.
    pub copied: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
}

impl Store {
    /// Makes a backup in a new directory while writers and readers continue. It contains everything
    /// written before the call. It opens as a store; to restore it, open it or a copy of it. Files that it
    /// shares with a store in a [shared directory](crate::StoreOptions::shared_directory) keep their modes, so
    /// that such a backup needs the same option.
    ///
    /// # Errors
    /// [`BackupError`]; nothing is left at the destination.
    pub fn backup(&self, dest: impl AsRef<Path>) -> Result<BackupReport, BackupError> {
        self.backup_in_steps(dest.as_ref(), || {})
    }

    /// `then` runs once it is decided what the backup contains, before any file is linked.
    pub(super) fn backup_in_steps(
        &self,
        dest: &Path,
        then: impl FnOnce(),
    ) -> Result<BackupReport, BackupError> {
        let started = Instant::now();
        let _inside = self.enter().ok_or(BackupError::Closed)?;
        let writer = self.writer();
        let from = writer.storage().directory().ok_or(BackupError::NotADirectory)?;
        // No merge removes a segment meanwhile.
        let _still = self.inner.merging();
        let place = Destination::new(from, dest)?;
        // So that the active segment is linked too.
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
        then();
        let manifest = manifest_of(&writer.manifest(), position, &kept);
        // Behind its end a file is as long as it was, and empty.
        let put = |segment: &Segment, to: &File| {
            take(from, to, &segment_name(segment.id()), segment.disk_bytes())
        };
        let mut report = make(from, &place, &kept, &manifest, put)?;
        (report.position, report.duration) = (position, started.elapsed());
        tracing::info!(?report, "backed up");
        Ok(report)
    }
}

/// Whether all of a segment was written before a position in the log. That holds for merged segments
/// too, if it does for their inputs.
fn before(segment: &Segment, position: LogPosition) -> bool {
    segment.header.merged || segment.id() < position.segment()
}

/// The MANIFEST of a backup, in which all segments are sealed.
pub(super) fn manifest_of(
    of_store: &Manifest,
    position: LogPosition,
    kept: &[Arc<Segment>],
) -> Manifest {
    let kept: Vec<_> = kept.iter().map(|segment| segment.id()).collect();
    let first = position.segment().max(kept.last().map_or(0, |id| id.saturating_add(1)));
    let closed = Some(LogEnd::default());
    Manifest { first, next: first, kept, closed, removed: Vec::new(), ..of_store.clone() }
}

/// Makes a backup, completely or not at all. `put` puts a segment into a folder; true if that is a
/// link.
pub(super) fn make(
    from: &File,
    place: &Destination<'_>,
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

/// Links or copies segments and hints, then writes the MANIFEST.
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
        report.bytes += segment.disk_bytes();
        if !segment.is_sealed() || !segment.gaps.is_empty() {
            // The copy is cut: a hint that the writer may have made since describes another segment.
            continue;
        }
        let name = hint_name(segment.id());
        let taken = match is_file(from, &name) {
            Ok(true) => take(from, &to.folder, &name, u64::MAX).map(drop),
            other => other.map(drop),
        };
        match taken {
            // A hint is not needed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(failed(|| format!("copy {name}")))?,
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

/// Links a file; false if that is not possible.
pub(super) fn link(from: &File, to: &File, name: &str) -> bool {
    sys::link(from, name, to, name).is_ok()
}

/// Whether a name is that of a regular file.
pub(super) fn is_file(folder: &File, name: &str) -> io::Result<bool> {
    Ok(sys::stat(folder, name)?.is_file)
}

/// Links a file, or copies its first `len` bytes if that is not possible. True if it was linked.
fn take(from: &File, to: &File, name: &str, len: u64) -> io::Result<bool> {
    match sys::link(from, name, to, name) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        // Another file system, or one without links, or too many links.
        Err(error) => tracing::debug!(name, %error, "a file cannot be linked: it is copied"),
    }
    let old = sys::open_at(from, name, OpenMode::Read, 0)?;
    let mut new = create(to, name)?;
    io::copy(&mut old.take(len), &mut new)?;
    new.sync_all()?;
    Ok(false)
}

pub(super) fn create(folder: &File, name: &str) -> io::Result<File> {
    sys::open_at(folder, name, OpenMode::CreateNew, 0o600)
}

/// The destination of a backup: a name in a directory.
pub(super) struct Destination<'d> {
    parent: File,
    name: &'d OsStr,
    dest: &'d Path,
}

impl<'d> Destination<'d> {
    pub(super) fn new(store: &File, dest: &'d Path) -> Result<Self, BackupError> {
        let exists = || BackupError::Exists { path: dest.into() };
        // A path without a name is `..` or a root, which exist.
        let name = dest.file_name().ok_or_else(exists)?;
        let parent = dest.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed_parent = failed(|| format!("open {}", parent.display()));
        if is_inside(parent, store).map_err(&failed_parent)? {
            return Err(BackupError::Inside { path: dest.into() });
        }
        let parent = File::open(parent).map_err(failed_parent)?;
        match sys::stat(&parent, name) {
            Ok(_) => Err(exists()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { parent, name, dest })
            }
            Err(error) => Err(failed(|| format!("stat {}", dest.display()))(error)),
        }
    }
}

/// Whether a directory is the store's or inside it, whatever their names are now.
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

/// An unfinished backup under a temporary name, so that a backup at the destination is complete.
pub(super) struct Partial<'p> {
    place: &'p Destination<'p>,
    name: OsString,
    pub(super) folder: File,
}

impl<'p> Partial<'p> {
    pub(super) fn make(place: &'p Destination<'p>) -> Result<Self, BackupError> {
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
                // Left by a process that died.
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

    /// Gives it its final name, durably.
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

    /// Removes the unfinished backup, under either name.
    pub(super) fn remove(&self) {
        if let Err(error) = self.try_remove() {
            tracing::warn!(name = ?self.name, %error, "could not remove an unfinished backup");
        }
    }

    /// Its path while it is unfinished.
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
