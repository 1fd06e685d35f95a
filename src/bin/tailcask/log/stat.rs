//! `log stat`: where the log begins and ends, what it holds, and what opening it found.

use super::open::open;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use crate::units::counted;
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use tailcask::{CommitLog, LogStats};

#[derive(Args)]
pub(crate) struct LogStatArgs {
    /// The log's directory
    dir: PathBuf,
    /// Print JSON
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
    let mut totals = EntryTotals::default();
    let counted_all = count_entries(&log, &mut totals, &interrupt);
    interrupt.or_stopped(counted_all, || {
        format!("{} counted; there may be more", counted(totals.entries, "entry"))
    })?;
    let mut out = output();
    if args.json {
        writeln!(out, "{:#}", to_json(&log, &totals))?;
    } else {
        write_text(&mut out, &log, &totals)?;
    }
    Ok(out.flush()?)
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

fn to_json(log: &CommitLog, totals: &EntryTotals) -> Value {
    let LogStats { begin, tail, segments, disk_bytes, .. } = log.stats();
    let recovery = log.recovery();
    json!({
        "begin": begin.to_string(),
        "tail": tail.to_string(),
        "segments": segments,
        "disk_bytes": disk_bytes,
        "entries": totals.entries,
        "entry_bytes": totals.bytes,
        "writer_process": log.writer_process(),
        "clean": recovery.is_clean(),
        "unsealed_segments": recovery.recovered_segments,
        "holes": recovery.holes,
        "unfinished_appends": recovery.dead_claims,
        "torn_bytes": recovery.torn_bytes,
        "set_aside": recovery.set_aside.iter().map(|file| file.name.clone()).collect::<Vec<_>>(),
    })
}

fn write_text(out: &mut impl Write, log: &CommitLog, totals: &EntryTotals) -> Result<()> {
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
    for file in &recovery.set_aside {
        writeln!(out, "set aside    {} ({})", file.name, counted(file.bytes, "byte"))?;
    }
    Ok(())
}
