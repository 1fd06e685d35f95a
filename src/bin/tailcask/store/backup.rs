//! `backup`: a copy of a store in a new directory.

use super::open::open;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use crate::units::counted;
use anyhow::Result;
use clap::Args;
use indicatif::BinaryBytes;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(crate) struct BackupArgs {
    /// The store's directory
    dir: PathBuf,
    /// The backup's directory, which must not exist yet. On the store's file system the backup is made
    /// of hard links, which take no space
    dest: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn backup(args: &BackupArgs) -> Result<()> {
    let store = open(&args.dir)?;
    let report = Interrupt::watch()?.beside(
        || store.backup(&args.dest),
        || {},
        || format!("no backup was made; {}", unfinished(&args.dest)),
    )?;
    let keys = store.len();
    let mut out = output();
    if args.json {
        let json = json!({
            "position": report.position.to_string(),
            "keys": keys,
            "segments": report.segments,
            "linked": report.linked,
            "copied": report.copied,
            "bytes": report.bytes,
            "duration": report.duration.as_secs_f64(),
        });
        writeln!(out, "{json:#}")?;
    } else {
        writeln!(
            out,
            "backed up to {} in {:.2?}: {}, everything before {}; {} of {}, {} linked and {} copied",
            args.dest.display(),
            report.duration,
            counted(keys, "key"),
            report.position,
            counted(report.segments, "segment"),
            BinaryBytes(report.bytes),
            report.linked,
            report.copied,
        )?;
    }
    Ok(out.flush()?)
}

/// Where the library leaves what it was making when it dies.
pub(super) fn unfinished(dest: &Path) -> String {
    let name = dest.file_name().unwrap_or_default().display();
    let begun = dest.with_file_name(format!(".{name}.*.partial"));
    format!("remove what was begun: {}", begun.display())
}
