//! `merge`, `verify` and `backup`.

use super::{open, open_with};
use crate::output;
use crate::units::size;
use anyhow::Result;
use clap::Args;
use indicatif::{BinaryBytes, HumanCount, ProgressBar};
use serde_json::json;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use tailcask::{
    Corruption, Maintenance, MergeError, MergeReport, OpenError, ReadError, Stats, Store,
};

#[derive(Args)]
pub(crate) struct Merge {
    /// The store's directory
    dir: PathBuf,
    /// Merge what the store would merge by itself, which may be nothing
    ///
    /// That is: segments at least half of which is dead, the deadest ones while all take more than
    /// twice what is live in them, and small ones once there are four. Without this everything that
    /// has anything dead in it is merged.
    #[arg(long)]
    only_if_needed: bool,
    /// Bytes of a segment, in steps of 2MiB, below 4GiB
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    segment_size: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct Backup {
    /// The store's directory
    dir: PathBuf,
    /// The backup's directory, which must not be there yet; on the same file system it is made of
    /// hard links, and takes no space
    dest: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

// ---- merge ----

pub(super) fn merge(args: &Merge) -> Result<()> {
    let options = Store::options().maintenance(Maintenance::Manual).segment_size(args.segment_size);
    let store = open_with(&args.dir, &options)?;
    let before = store.stats();
    let all = || if args.only_if_needed { merge_needed(&store) } else { Ok(vec![store.merge()?]) };
    let reports = with_spinner(&store, all)?;
    let after = store.stats();
    store.close()?;
    report_merge(args, &reports, sealed_bytes(&before), sealed_bytes(&after))
}

/// What full segments take. The active one is allocated ahead, and would blur the difference.
fn sealed_bytes(stats: &Stats) -> u64 {
    stats.segments.iter().filter(|s| s.sealed).map(|s| s.disk_bytes).sum()
}

/// Merges until the policy is content.
fn merge_needed(store: &Store) -> Result<Vec<MergeReport>, MergeError> {
    let mut reports = Vec::new();
    while store.needs_merge() {
        let report = store.maintain()?;
        reports.push(report);
        if report.inputs == 0 {
            break;
        }
    }
    Ok(reports)
}

/// Shows what the store takes of the disk while something goes on.
fn with_spinner<R: Send>(store: &Store, work: impl FnOnce() -> R + Send) -> R {
    if !io::stderr().is_terminal() {
        return work();
    }
    let bar = ProgressBar::new_spinner();
    let result = thread::scope(|scope| {
        let work = scope.spawn(work);
        while !work.is_finished() {
            let disk = BinaryBytes(store.stats().disk_bytes);
            bar.set_message(format!("merging for {:.0?}: {disk} on disk", bar.elapsed()));
            bar.tick();
            thread::sleep(Duration::from_millis(100));
        }
        work.join()
    });
    bar.finish_and_clear();
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn report_merge(args: &Merge, all: &[MergeReport], before: u64, after: u64) -> Result<()> {
    let sum = |field: fn(&MergeReport) -> u64| all.iter().map(field).sum::<u64>();
    let (inputs, outputs) = (sum(|r| r.inputs), sum(|r| r.outputs));
    let (read, written) = (sum(|r| r.bytes_read), sum(|r| r.bytes_written));
    let reclaimed = sum(|r| r.bytes_reclaimed);
    let duration: Duration = all.iter().map(|report| report.duration).sum();
    let mut out = output();
    if args.json {
        let json = json!({
            "inputs": inputs,
            "outputs": outputs,
            "bytes_read": read,
            "bytes_written": written,
            "bytes_reclaimed": reclaimed,
            "puts_moved": sum(|r| r.puts_moved),
            "expired": sum(|r| r.expired),
            "tombstones_kept": sum(|r| r.tombstones_kept),
            "tombstones_dropped": sum(|r| r.tombstones_dropped),
            "duration": duration.as_secs_f64(),
            "sealed_bytes_before": before,
            "sealed_bytes_after": after,
        });
        writeln!(out, "{json:#}")?;
    } else if inputs == 0 {
        writeln!(out, "nothing to merge")?;
    } else {
        writeln!(
            out,
            "{inputs} segments became {outputs} in {duration:.2?}: {} read, {} written, {} \
             reclaimed; full segments took {} before, and take {} now",
            BinaryBytes(read),
            BinaryBytes(written),
            BinaryBytes(reclaimed),
            BinaryBytes(before),
            BinaryBytes(after)
        )?;
    }
    Ok(out.flush()?)
}

// ---- verify ----

/// Whether an error says that what is in the store's files is not what was written.
pub(super) fn is_damage(cause: &(dyn std::error::Error + 'static)) -> bool {
    let opening = |error: &OpenError| {
        use OpenError::{Corrupt, Manifest, MissingSegment};
        matches!(error, Corrupt(_) | MissingSegment { .. } | Manifest(_))
    };
    // Those that are transparent are no cause of their own in the chain.
    cause.is::<Corruption>()
        || cause.downcast_ref().is_some_and(opening)
        || matches!(cause.downcast_ref(), Some(ReadError::Corrupt(_)))
        || matches!(cause.downcast_ref(), Some(MergeError::Corrupt(_)))
}

pub(super) fn verify(dir: &Path) -> Result<()> {
    let report = open(dir).and_then(|store| Ok(store.verify()?));
    let report = report.map_err(|error| name_damage(error, dir))?;
    let mut out = output();
    writeln!(
        out,
        "sound: {} keys with {} of values, {} frames in {} segments",
        HumanCount(report.keys),
        BinaryBytes(report.bytes),
        HumanCount(report.frames),
        report.segments
    )?;
    Ok(out.flush()?)
}

fn name_damage(error: anyhow::Error, dir: &Path) -> anyhow::Error {
    if !error.chain().any(is_damage) {
        return error;
    }
    error.context(format!("{} is damaged", dir.display()))
}

// ---- backup ----

pub(super) fn backup(args: &Backup) -> Result<()> {
    let store = open(&args.dir)?;
    let report = store.backup(&args.dest)?;
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
            "backed up to {}: {} keys, everything before {}; {} segments of {}, {} linked and {} \
             copied, in {:.2?}",
            args.dest.display(),
            HumanCount(keys),
            report.position,
            report.segments,
            BinaryBytes(report.bytes),
            report.linked,
            report.copied,
            report.duration
        )?;
    }
    Ok(out.flush()?)
}
