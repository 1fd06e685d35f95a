//! Opening a log for reading.

use anyhow::{Context, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use tailcask::CommitLog;

#[derive(Args)]
pub(crate) struct LogDir {
    /// The log's directory
    pub(super) dir: PathBuf,
}

/// Opens a log read-only: it may be open for writing in another process, and nothing is changed.
pub(super) fn open(dir: &Path) -> Result<CommitLog> {
    CommitLog::options().open_read_only(dir).with_context(|| format!("{}", dir.display()))
}
