//! Opening a store: for reading, or for writing with the options of the command line.

use crate::units::{durability, size};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io;
use std::path::{Path, PathBuf};
use tailcask::{CommitLog, Durability, OpenError, ReadView, Store, StoreOptions};

#[derive(Args)]
pub(crate) struct StoreDir {
    /// The store's directory
    pub(super) dir: PathBuf,
}

/// How a store is written to.
#[derive(Args)]
pub(super) struct WritingArgs {
    /// Size of new segments: a multiple of 2MiB, below 4GiB. Existing segments keep their size
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    segment_size: u64,
    /// When a write counts as done: `buffered`, `synced`, or a time
    ///
    /// buffered: once it is in the page cache, which survives the death of the process. synced: once it
    /// is on the device. A time, such as 500ms: as buffered, with a sync at this interval. In every
    /// case, all writes are on the device when the command exits without an error.
    #[arg(long, value_name = "WHEN", default_value = "buffered", value_parser = durability)]
    durability: Durability,
    /// The same as --durability synced
    #[arg(long, conflicts_with = "durability")]
    sync: bool,
}

impl WritingArgs {
    pub(super) fn durability(&self) -> Durability {
        if self.sync { Durability::Synced } else { self.durability }
    }

    pub(super) fn options(&self) -> StoreOptions {
        Store::options().segment_size(self.segment_size).durability(self.durability())
    }
}

/// Opens a store read-only: it may be open for writing in another process, and nothing is changed.
pub(super) fn open(dir: &Path) -> Result<ReadView> {
    name_store(dir, Store::open_read_only(dir))
}

/// Opens the log of a store read-only, which loads no keys.
pub(super) fn open_log(dir: &Path) -> Result<CommitLog> {
    name_store(dir, CommitLog::open_read_only(dir))
}

/// As [`open`], taking everything that can be read of a damaged store.
pub(super) fn open_salvaging(dir: &Path) -> Result<ReadView> {
    let options = Store::options().recovery_mode(tailcask::RecoveryMode::Salvage);
    name_store(dir, options.open_read_only(dir))
}

/// Opens an existing store for writing: a mistyped directory does not become a new store.
pub(super) fn open_existing(dir: &Path, options: &StoreOptions) -> Result<Store> {
    if is_missing(dir)? {
        bail!(no_store(dir));
    }
    create(dir, options)
}

/// Opens a store for writing; creates it if it does not exist.
pub(super) fn create(dir: &Path, options: &StoreOptions) -> Result<Store> {
    name_store(dir, options.open(dir))
}

/// Whether the directory is missing, or holds neither a MANIFEST nor a segment.
///
/// Segments without a MANIFEST are a damaged store, and opening them says so.
fn is_missing(dir: &Path) -> Result<bool> {
    let named = || format!("{}", dir.display());
    let names = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other.with_context(named)?,
    };
    for name in names {
        let path = name.with_context(named)?.path();
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        if is_segment || path.file_name().is_some_and(|name| name == "MANIFEST") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Adds to an error which store it is about.
fn name_store<T>(dir: &Path, opened: Result<T, OpenError>) -> Result<T> {
    match opened {
        Err(OpenError::NotFound { .. }) => bail!(no_store(dir)),
        other => other.with_context(|| format!("{}", dir.display())),
    }
}

fn no_store(dir: &Path) -> String {
    format!("there is no store in {}", dir.display())
}
