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
    pub(super) dir: PathBuf,
    /// The backup's directory, which must not exist yet. On the store's file system the backup is made
    /// of hard links, which take no space
    dest: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn backup(args: &BackupArgs) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let make = || {
        let store = open(&args.dir)?;
        anyhow::Ok((store.backup(&args.dest)?, store.len()))
    };
    let done = || unfinished("no backup was made", &args.dest);
    let (report, keys) = interrupt.beside(make, || {}, done)?;
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

/// What a signal leaves behind. `None`: the destination is there, so that it is complete, or was there before.
pub(super) fn unfinished(what: &str, dest: &Path) -> Option<String> {
    if dest.symlink_metadata().is_ok() {
        return None;
    }
    // Where the library leaves what it was making when it dies.
    let name = dest.file_name().unwrap_or_default().display();
    let begun = dest.with_file_name(format!(".{name}.*.partial"));
    Some(format!("{what}; remove what was begun: {}", begun.display()))
}
