//! `log truncate`: drops the oldest segments of a log.

use super::open::open;
use crate::stdio::output;
use crate::units::{counted, size, time};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use tailcask::{CommitLog, LogPosition, LogSegment, Retention, TruncateError};

#[derive(Args)]
pub(crate) struct TruncateArgs {
    /// The log's directory
    pub(super) dir: PathBuf,
    #[command(flatten)]
    what: What,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What to remove. Whole segments go: nothing that is not meant does.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Remove the segments that lie completely before this position
    #[arg(long, value_name = "POSITION")]
    before: Option<LogPosition>,
    /// Remove the segments that were sealed longer ago than this
    #[arg(long, value_name = "AGE", value_parser = time)]
    older_than: Option<Duration>,
    /// Remove the segments before those that hold the newest BYTES
    #[arg(long, value_name = "BYTES", value_parser = size)]
    keep: Option<u64>,
}

/// What was removed, or would be.
struct Removed {
    begin: LogPosition,
    segments: u64,
    bytes: u64,
}

pub(super) fn truncate(args: &TruncateArgs) -> Result<()> {
    let named = || format!("{}", args.dir.display());
    let removed = if args.dry_run {
        plan(&open(&args.dir)?, &args.what).with_context(named)?
    } else {
        // It is to be there: a misspelt name does not become an empty log.
        let log = CommitLog::options().create(false).open(&args.dir).with_context(named)?;
        let removed = remove(&log, &args.what).with_context(named)?;
        log.close()?;
        removed
    };
    write(args, &removed)
}

fn write(args: &TruncateArgs, removed: &Removed) -> Result<()> {
    let Removed { begin, segments, bytes } = removed;
    let mut out = output();
    if args.json {
        let report = json!({
            "removed": !args.dry_run,
            "segments": segments,
            "bytes": bytes,
            "begin": begin.to_string(),
        });
        writeln!(out, "{report:#}")?;
    } else if *segments == 0 {
        writeln!(out, "nothing to remove; the log begins at {begin}")?;
    } else {
        let (verb, begins) =
            if args.dry_run { ("would remove", "would begin") } else { ("removed", "begins") };
        let (segments, bytes) = (counted(*segments, "segment"), counted(*bytes, "byte"));
        writeln!(out, "{verb} {segments} of {bytes} in all; the log {begins} at {begin}")?;
    }
    Ok(out.flush()?)
}

impl What {
    fn retention(&self) -> Retention {
        match (self.older_than, self.keep) {
            (Some(age), _) => Retention::new().age(age),
            (_, Some(bytes)) => Retention::new().bytes(bytes),
            _ => Retention::new(),
        }
    }
}

fn remove(log: &CommitLog, what: &What) -> Result<Removed, TruncateError> {
    if let Some(position) = what.before {
        let planned = removed_before(log, position);
        return Ok(Removed { begin: log.truncate_before(position)?, ..planned });
    }
    let dropped = log.retain(what.retention())?;
    Ok(Removed { begin: dropped.begin, segments: dropped.segments, bytes: dropped.bytes })
}

/// What `remove` would do, in a log that is open read-only.
fn plan(log: &CommitLog, what: &What) -> Result<Removed, TruncateError> {
    // An error in a store, whatever is asked for.
    let retained = log.retained_from(what.retention())?;
    let tail = log.tail();
    match what.before {
        Some(position) if position > tail => Err(TruncateError::PastEnd { position, tail }),
        Some(position) => Ok(removed_before(log, position)),
        None => Ok(removed_before(log, retained)),
    }
}

/// What lies completely before a position. Opening a log for writing seals what a dead writer has left.
fn removed_before(log: &CommitLog, position: LogPosition) -> Removed {
    let stats = log.stats();
    let goes = |segment: &&LogSegment| segment.id < position.segment();
    let all = stats.segment_list.iter().filter(goes);
    let (segments, bytes) = all.fold((0, 0), |(n, bytes), s| (n + 1, bytes + s.file_bytes));
    let next = stats.segment_list.iter().find(|segment| !goes(segment));
    let begin = next.map_or(position.max(stats.begin), |next| next.begin);
    Removed { begin, segments, bytes }
}
