//! Repair: a sound store in a new directory, made of everything that can be read in a damaged one,
//! which is not changed.
//!
//! All files are copied, including those set aside, and the copy is opened with
//! `RecoveryMode::Salvage`. It is made under a temporary name, like a backup, and gets its own when it
//! is complete and durable.

use super::backup::{Destination, Partial, create, is_file};
use super::{Store, StoreOptions};
use crate::error::{BackupError, OpenError, RepairError};
use crate::format::manifest::Manifest;
use crate::format::names::{
    MANIFEST, SET_ASIDE, hint_id, is_segment_or_hint, segment_id, temporary_name,
};
use crate::log::{CommitLog, LogOptions, RecoveryReport};
use crate::options::{Maintenance, RecoveryMode};
use crate::position::LogPosition;
use crate::storage::Storage;
use crate::storage::dir::Directory;
use crate::storage::sys::{self, OpenMode};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Stands in for the MANIFEST until all files are copied: a directory with it cannot be opened.
const UNFINISHED: &[u8] = b"a repair was not finished here\n";
/// Bytes copied at a time, and bytes given up at a time where the device cannot read them.
const PIECE: usize = 1 << 20;
const BLOCK: usize = 4096;

impl Store {
    /// As [`StoreOptions::repair`], with the default options.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let (damaged, copy) = (dir.path().join("store"), dir.path().join("copy"));
    /// # tailcask::Store::open(&damaged)?.put("key", "value")?;
    /// use tailcask::Store;
    ///
    /// let report = Store::repair(&damaged, &copy)?; // `damaged` stays as it is
    /// for lost in &report.gone {
    ///     println!("{lost:?}");
    /// }
    /// assert_eq!(Store::open(&copy)?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RepairError`].
    pub fn repair(
        dir: impl AsRef<Path>,
        new_dir: impl AsRef<Path>,
    ) -> Result<RecoveryReport, RepairError> {
        Self::options().repair(dir, new_dir)
    }
}

impl StoreOptions {
    /// Makes a repaired copy of a damaged store in a new directory, with everything that can be read,
    /// and reports what is lost or in doubt; see [`Store::repair`] for an example. The damaged
    /// store is not changed; no program may have it open for writing meanwhile.
    ///
    /// # Errors
    /// [`RepairError`]; nothing is left at the new directory's name. [`OpenError::NotAStore`] for a log
    /// without a store: see [`CommitLog::repair`].
    pub fn repair(
        &self,
        dir: impl AsRef<Path>,
        new_dir: impl AsRef<Path>,
    ) -> Result<RecoveryReport, RepairError> {
        self.check()?;
        let from = self.log.directory(dir.as_ref())?;
        let manifest = from.read_manifest()?.and_then(|bytes| Manifest::decode(&bytes).ok());
        if manifest.as_ref().is_some_and(|manifest| !manifest.is_store()) {
            return Err(OpenError::NotAStore.into());
        }
        // The copy is there when it is opened.
        let options = self.clone().maintenance(Maintenance::Manual).create_new(false);
        let options = options.recovery_mode(RecoveryMode::Salvage);
        salvage_copy(&from, dir.as_ref(), new_dir.as_ref(), |copy| {
            let log = options.log.open(copy)?;
            if manifest.is_none() && !has_keys(&log)? {
                return Err(OpenError::NotAStore.into());
            }
            let store = Self::load_salvaged(log, &options)?;
            let report = store.recovery().clone();
            store.close()?;
            Ok(report)
        })
    }

    fn load_salvaged(log: CommitLog, options: &Self) -> Result<Store, OpenError> {
        Store::load(log, options)
    }
}

impl CommitLog {
    /// As [`Store::repair`], for a log. `gone` in the report lists the lost entries.
    ///
    /// # Errors
    /// [`RepairError`]; nothing is left at the new directory's name. [`OpenError::HoldsStore`] for the log of
    /// a store: see [`Store::repair`].
    pub fn repair(
        dir: impl AsRef<Path>,
        new_dir: impl AsRef<Path>,
    ) -> Result<RecoveryReport, RepairError> {
        Self::options().repair(dir, new_dir)
    }
}

impl LogOptions {
    /// As [`CommitLog::repair`], with these options; see [`Store::repair`] for an example.
    ///
    /// # Errors
    /// [`RepairError`].
    pub fn repair(
        &self,
        dir: impl AsRef<Path>,
        new_dir: impl AsRef<Path>,
    ) -> Result<RecoveryReport, RepairError> {
        let from = self.directory(dir.as_ref())?;
        // The copy is there when it is opened.
        let options = self.clone().maintenance(Maintenance::Manual).create_new(false);
        let options = options.recovery_mode(RecoveryMode::Salvage);
        salvage_copy(&from, dir.as_ref(), new_dir.as_ref(), |copy| {
            let log = options.open(copy)?;
            let report = log.recovery().clone();
            log.close()?;
            Ok(report)
        })
    }
}

/// Whether a log was a store's: it has frames with keys, or merged segments.
fn has_keys(log: &CommitLog) -> Result<bool, RepairError> {
    let merged = |writer: &std::sync::Arc<crate::log::writer::LogWriter>| {
        writer.segment_set().with(|all| all.iter().any(|segment| segment.header.merged))
    };
    if log.writer().is_some_and(merged) {
        return Ok(true);
    }
    for frame in log.frames(LogPosition::START) {
        if matches!(frame?.kind, Some("put" | "delete")) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn salvage_copy(
    from: &Directory,
    dir: &Path,
    new_dir: &Path,
    salvage: impl FnOnce(&Path) -> Result<RecoveryReport, RepairError>,
) -> Result<RecoveryReport, RepairError> {
    // No writer opens it meanwhile.
    let lock = from.lock_shared()?;
    let names = from.list()?;
    let has = |is: fn(&str) -> bool| names.iter().any(|name| is(name));
    if !has(|name| segment_id(name).is_some()) && !has(|name| name == MANIFEST) {
        return Err(OpenError::NotFound { path: dir.into() }.into());
    }
    let handle = from.directory().ok_or(OpenError::NotFound { path: dir.into() })?;
    let place = Destination::new(handle, new_dir)?;
    let made = Partial::make(&place)?;
    let done = fill(from, handle, &names, &made.folder)
        .and_then(|()| {
            drop(lock);
            salvage(&made.path())
        })
        .and_then(|report| made.publish().map(|()| report).map_err(RepairError::from));
    if done.is_err() {
        made.remove();
    }
    done
}

/// Copies everything: the MANIFEST last, since with it the copy opens.
fn fill(from: &Directory, old: &File, names: &[String], new: &File) -> Result<(), RepairError> {
    let failed = |name: &str| {
        let operation = format!("copy {name}");
        move |source| RepairError::Io { operation, source }
    };
    let mut unfinished = create(new, MANIFEST).map_err(failed(MANIFEST))?;
    unfinished.write_all(UNFINISHED).map_err(failed(MANIFEST))?;
    let aside = from.aside()?;
    if !aside.is_empty() {
        let folder = make_folder(old, new).map_err(failed(SET_ASIDE))?;
        for (name, _) in &aside {
            copy(&folder.0, &folder.1, name, name).map_err(failed(name))?;
        }
        folder.1.sync_all().map_err(failed(SET_ASIDE))?;
    }
    for name in names.iter().filter(|name| is_segment_or_hint(name)) {
        if hint_id(name).is_some() && !is_file(old, name).map_err(failed(name))? {
            // A hint is not needed.
            continue;
        }
        copy(old, new, name, name).map_err(failed(name))?;
    }
    let manifest = || {
        if names.iter().any(|name| name == MANIFEST) {
            let temporary = temporary_name(MANIFEST);
            copy(old, new, MANIFEST, &temporary)?;
            sys::rename(new, &temporary, new, MANIFEST)?;
        } else {
            sys::remove(new, MANIFEST)?;
        }
        new.sync_all()
    };
    manifest().map_err(failed(MANIFEST))
}

fn make_folder(old: &File, new: &File) -> io::Result<(File, File)> {
    sys::make_directory(new, SET_ASIDE, 0o700)?;
    Ok((sys::open_directory_at(old, SET_ASIDE)?, sys::open_directory_at(new, SET_ASIDE)?))
}

/// Copies a file, durably: by sharing its blocks, where the file system can. What the device cannot read
/// becomes zeros, which is damage as any other.
fn copy(from: &File, to: &File, name: &str, new_name: &str) -> io::Result<()> {
    let old = sys::open_at(from, name, OpenMode::Read, 0)?;
    let metadata = old.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let new = create(to, new_name)?;
    if sys::share_blocks(&new, &old).is_err() {
        // Whatever the reason was: if something is really wrong, this fails too.
        new.set_len(metadata.len())?;
        copy_data(&old, &new, metadata.len())?;
    }
    new.sync_all()
}

/// Copies what is not a hole.
fn copy_data(old: &File, new: &File, len: u64) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        let from = match sys::next_data(old, at) {
            Ok(Some(from)) => from,
            Ok(None) => break,
            // A file system that does not say.
            Err(_) => at,
        };
        let to = sys::next_hole(old, from).unwrap_or(len);
        let to = if to > from { to.min(len) } else { len };
        copy_range(old, new, from, to)?;
        at = to;
    }
    Ok(())
}

fn copy_range(old: &File, new: &File, from: u64, to: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut at = from;
    while at < to {
        let wanted = &mut piece[..(to - at).min(PIECE as u64) as usize];
        let read = match old.read_at(wanted, at) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if sys::is_unreadable(&error) => {
                at += copy_block(old, new, at, wanted)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        new.write_all_at(&wanted[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

/// Copies as much as fits a block, or leaves zeros in its place.
fn copy_block(old: &File, new: &File, at: u64, piece: &mut [u8]) -> io::Result<u64> {
    let len = (BLOCK - at as usize % BLOCK).min(piece.len());
    match old.read_exact_at(&mut piece[..len], at) {
        Ok(()) => new.write_all_at(&piece[..len], at)?,
        Err(error) if sys::is_unreadable(&error) => {
            tracing::warn!(at, %error, "an unreadable block is left out");
        }
        Err(error) => return Err(error),
    }
    Ok(len as u64)
}

impl From<BackupError> for RepairError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Exists { path } => Self::Exists { path },
            BackupError::Inside { path } => Self::Inside { path },
            BackupError::Io { operation, source } => Self::Io { operation, source },
            other => {
                Self::Io { operation: "make the copy".into(), source: io::Error::other(other) }
            }
        }
    }
}
