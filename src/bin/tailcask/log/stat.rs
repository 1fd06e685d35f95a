//! `log stat`: where the log begins and ends, what it holds, and what opening it found.

use super::open::open;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use crate::table::{align_right, plain};
use crate::units::{age, counted};
use anyhow::Result;
use clap::Args;
use comfy_table::Table;
use indicatif::BinaryBytes;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};
use tailcask::{CommitLog, LogPosition, LogSegment, LogStats};

pub(super) const HELP: &str = "\
begin        where the log begins: what lies before was truncated
tail         where the log ended when this command read it
segments     number of segments, the preallocated standby among them
disk bytes   length of their files
entries      number of entries, and the sum of their lengths (entry bytes)
state        how the log was closed, or what a crash has left
writer       the process that has it open for writing
unfinished   an append that this process does not finish: nothing behind it becomes durable
set aside    files that an earlier opening moved to set-aside/

With --segments, a line for each segment, which is what `log truncate` removes:

segment      its id, the number in the name of its file
kind         log, or merged: written by a merge, in the log of a store
state        sealed: complete, durable, and never written to again; open: still written to, or left so by a \
crash; standby: empty, and the next one
begin        where its frames begin: `log truncate --before` this position removes all segments before it
end          where its frames end
used         bytes from its begin to its end
file         length of its file, which `log truncate` reports as removed
sealed for   how long ago it was sealed, and so the least age of what is in it: `log truncate --older-than` a \
shorter time removes it. Unknown if version 0.1.0 sealed it

Works while a program has the log open, and changes nothing. In JSON, \"sealed_at_ms\" is in milliseconds \
since 1970.";

/// Far longer than an append takes.
const A_WHILE: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(crate) struct LogStatArgs {
    /// The log's directory
    pub(super) dir: PathBuf,
    /// Also print a line for each segment
    #[arg(long)]
    segments: bool,
    /// Print everything as JSON, including the segments
    #[arg(long)]
    json: bool,
}

/// Number of entries, and their bytes.
#[derive(Default)]
struct EntryTotals {
    entries: u64,
    bytes: u64,
}

pub(super) fn stat(args: &LogStatArgs) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let log = open(&args.dir)?;
    let (mut totals, looked) = (EntryTotals::default(), Instant::now());
    let unfinished = unfinished(&log);
    let counted_all = count_entries(&log, &mut totals, &interrupt);
    interrupt.or_stopped(counted_all, || {
        format!("{} counted; there may be more", counted(totals.entries, "entry"))
    })?;
    let unfinished = still_unfinished(&log, unfinished, looked);
    let mut out = output();
    if args.json {
        writeln!(out, "{:#}", to_json(&log, &totals, unfinished))?;
        return Ok(out.flush()?);
    }
    write_text(&mut out, &log, &totals, unfinished)?;
    if args.segments {
        let stats = log.stats();
        let table = segments(&stats.segment_list, stats.tail, SystemTime::now());
        writeln!(out, "\n{}", table.trim_fmt())?;
    }
    Ok(out.flush()?)
}

/// Where an append is not finished: in a live log there always may be one, for a moment.
fn unfinished(log: &CommitLog) -> Option<LogPosition> {
    log.writer_process()?;
    let committed = log.committed();
    (committed < log.tail()).then_some(committed)
}

/// The same, if it is still there a while after the first look.
fn still_unfinished(
    log: &CommitLog,
    first: Option<LogPosition>,
    looked: Instant,
) -> Option<LogPosition> {
    let first = first?;
    std::thread::sleep(A_WHILE.saturating_sub(looked.elapsed()));
    unfinished(log).filter(|&now| now == first)
}

fn count_entries(log: &CommitLog, totals: &mut EntryTotals, interrupt: &Interrupt) -> Result<()> {
    let mut reader = log.reader();
    while let Some(entry) = reader.next_entry()? {
        interrupt.check()?;
        totals.entries += 1;
        totals.bytes += entry.len() as u64;
    }
    Ok(())
}

/// A line for each segment of a log that ends at `tail`.
fn segments(all: &[LogSegment], tail: LogPosition, now: SystemTime) -> Table {
    let mut table = plain();
    table.set_header(["segment", "kind", "state", "begin", "end", "used", "file", "sealed for"]);
    for segment in all {
        let state = match segment.sealed {
            true => "sealed",
            false if segment.id > tail.segment() => "standby",
            false => "open",
        };
        let sealed_for = match segment.sealed_at {
            // A clock that was set back makes it no younger than new.
            Some(at) => age(now.duration_since(at).unwrap_or_default()),
            None if segment.sealed => "unknown".to_owned(),
            None => "-".to_owned(),
        };
        table.add_row([
            segment.id.to_string(),
            if segment.merged { "merged" } else { "log" }.to_owned(),
            state.to_owned(),
            segment.begin.to_string(),
            segment.end.to_string(),
            BinaryBytes(used(segment)).to_string(),
            BinaryBytes(segment.file_bytes).to_string(),
            sealed_for,
        ]);
    }
    align_right(&mut table, &[0, 3, 4, 5, 6, 7]);
    table
}

/// Bytes of its frames.
const fn used(segment: &LogSegment) -> u64 {
    segment.end.as_u64().saturating_sub(segment.begin.as_u64())
}

fn segment_json(segment: &LogSegment) -> Value {
    let since_1970 = segment.sealed_at.map(|at| at.duration_since(SystemTime::UNIX_EPOCH));
    let milliseconds = since_1970.map(|since| since.map_or(0, |time| time.as_millis() as u64));
    json!({
        "id": segment.id,
        "merged": segment.merged,
        "sealed": segment.sealed,
        "sealed_at_ms": milliseconds,
        "begin": segment.begin.to_string(),
        "end": segment.end.to_string(),
        "used_bytes": used(segment),
        "file_bytes": segment.file_bytes,
    })
}

fn to_json(log: &CommitLog, totals: &EntryTotals, unfinished: Option<LogPosition>) -> Value {
    let LogStats { begin, tail, segments, segment_list, disk_bytes, .. } = log.stats();
    let recovery = log.recovery();
    json!({
        "begin": begin.to_string(),
        "tail": tail.to_string(),
        "segments": segments,
        "segment_list": segment_list.iter().map(segment_json).collect::<Vec<_>>(),
        "disk_bytes": disk_bytes,
        "entries": totals.entries,
        "entry_bytes": totals.bytes,
        "writer_process": log.writer_process(),
        "unfinished": unfinished.map(|at| at.to_string()),
        "clean": recovery.is_clean(),
        "unsealed_segments": recovery.recovered_segments,
        "holes": recovery.holes,
        "unfinished_appends": recovery.dead_claims,
        "torn_bytes": recovery.torn_bytes,
        "set_aside": recovery.set_aside.iter().map(|file| file.name.clone()).collect::<Vec<_>>(),
    })
}

fn write_text(
    out: &mut impl Write,
    log: &CommitLog,
    totals: &EntryTotals,
    unfinished: Option<LogPosition>,
) -> Result<()> {
    let LogStats { begin, tail, segments, disk_bytes, .. } = log.stats();
    let recovery = log.recovery();
    writeln!(out, "begin        {begin}")?;
    writeln!(out, "tail         {tail}")?;
    writeln!(out, "segments     {segments}")?;
    writeln!(out, "disk bytes   {disk_bytes}")?;
    writeln!(out, "entries      {}", totals.entries)?;
    writeln!(out, "entry bytes  {}", totals.bytes)?;
    writeln!(out, "state        {recovery}")?;
    if let Some(process) = log.writer_process() {
        writeln!(out, "writer       process {process} has it open")?;
    }
    if let Some(position) = unfinished {
        writeln!(out, "unfinished   the append at {position}")?;
    }
    for file in &recovery.set_aside {
        writeln!(out, "set aside    {} ({})", file.name, counted(file.bytes, "byte"))?;
    }
    Ok(())
}
