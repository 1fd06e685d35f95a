//! `repair`: a repaired copy of a store or log in a new directory, and a list of what is lost.

use super::backup::unfinished;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use crate::text::to_base64;
use crate::units::counted;
use anyhow::{Error, Result};
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use tailcask::{
    CommitLog, Contradiction, DamagedRange, InDoubt, LostFrame, OpenError, RecoveryReport,
    RepairError, Store,
};

pub(super) const HELP: &str = "\
Everything that can be read is recovered, including what an earlier opening cut off after a power loss. \
The rest is listed:

damaged places  where each begins, its length, and what is wrong there
lost            each value, tombstone or entry that is gone, with its key if that can still be read, \
and the older value that the key has now, if there is one. Where a tombstone is lost, that is a value \
that had been deleted. A damaged value that was overwritten or deleted later is not lost
in doubt        what was recovered although opening the store would have cut it off

Exit code 0: nothing is lost. 3: something is.";

#[derive(Args)]
pub(crate) struct RepairArgs {
    /// The damaged store or log. It is not changed; no program may write to it meanwhile
    pub(super) dir: PathBuf,
    /// The directory of the repaired copy, which must not exist yet
    new_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn repair(args: &RepairArgs) -> Result<ExitCode> {
    let (dir, new_dir) = (&args.dir, &args.new_dir);
    let repair = || match Store::repair(dir, new_dir) {
        Err(RepairError::Open(OpenError::NotAStore)) => (CommitLog::repair(dir, new_dir), false),
        other => (other, true),
    };
    let interrupt = Interrupt::watch()?;
    let done = || unfinished("nothing was repaired", new_dir);
    let (report, is_store) = interrupt.beside(repair, || {}, done);
    // If a cause is damage, the exit code would be 3, which promises a list of what is lost.
    let report = report
        .map_err(|error| exit::undamaged(&Error::from(error).context(dir.display().to_string())))?;
    let mut out = output();
    if args.json {
        writeln!(out, "{:#}", to_json(&report, is_store))?;
    } else {
        write_text(&mut out, args, &report, is_store)?;
    }
    out.flush()?;
    Ok(exit::sound(report.nothing_is_lost()))
}

fn write_text(
    out: &mut impl Write,
    args: &RepairArgs,
    report: &RecoveryReport,
    is_store: bool,
) -> Result<()> {
    let what = if is_store { "store" } else { "log" };
    writeln!(out, "repaired {what} written to {}", args.new_dir.display())?;
    if report.nothing_is_lost() {
        writeln!(out, "nothing is lost")?;
    }
    write_list(out, "damaged places", &report.damaged)?;
    write_list(out, "lost", &report.gone)?;
    write_list(out, "in doubt", &report.in_doubt)?;
    let contradictions = report.contradictions.iter().map(|c| {
        let done = if c.taken { "it was taken" } else { "it was set aside" };
        format!("segment {}: {}; {done}", c.segment, c.what)
    });
    write_list(out, "contradictions", &contradictions.collect::<Vec<_>>())?;
    let aside = report.set_aside.iter().map(|file| match file.reason {
        Some(reason) => format!("{}, {}: {reason}", file.name, counted(file.bytes, "byte")),
        None => format!("{}, {}", file.name, counted(file.bytes, "byte")),
    });
    write_list(out, "set aside", &aside.collect::<Vec<_>>())
}

fn write_list<T: std::fmt::Display>(out: &mut impl Write, name: &str, all: &[T]) -> Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    writeln!(out, "{name}: {}", all.len())?;
    for one in all {
        writeln!(out, "  {one}")?;
    }
    Ok(())
}

fn to_json(report: &RecoveryReport, is_store: bool) -> Value {
    json!({
        "kind": if is_store { "store" } else { "log" },
        "nothing_is_lost": report.nothing_is_lost(),
        "damaged": report.damaged.iter().map(damaged_json).collect::<Vec<_>>(),
        "lost": report.gone.iter().map(lost_json).collect::<Vec<_>>(),
        "in_doubt": report.in_doubt.iter().map(doubt_json).collect::<Vec<_>>(),
        "contradictions": report.contradictions.iter().map(contradiction_json).collect::<Vec<_>>(),
        "set_aside": report.set_aside.iter().map(|file| json!({
            "name": file.name,
            "bytes": file.bytes,
            "reason": file.reason,
        })).collect::<Vec<_>>(),
        "duration": report.duration.as_secs_f64(),
    })
}

fn damaged_json(range: &DamagedRange) -> Value {
    json!({
        "position": range.position.to_string(),
        "length": range.length,
        "damage": range.damage.to_string(),
    })
}

/// A key that is not UTF-8 is given as base64.
fn lost_json(lost: &LostFrame) -> Value {
    let mut json = json!({
        "position": lost.position.to_string(),
        "length": lost.length,
        "kind": lost.kind.to_string(),
        "certain": lost.certain,
        "came_back": lost.now.map(|at| at.to_string()),
    });
    match lost.key.as_deref().map(|key| (std::str::from_utf8(key), key)) {
        Some((Ok(text), _)) => json["key"] = text.into(),
        Some((Err(_), key)) => json["key_base64"] = to_base64(key).into(),
        None => json["key"] = Value::Null,
    }
    json
}

fn doubt_json(doubt: &InDoubt) -> Value {
    json!({
        "position": doubt.position.to_string(),
        "length": doubt.length,
        "frames": doubt.frames,
        "reason": doubt.reason.to_string(),
    })
}

fn contradiction_json(found: &Contradiction) -> Value {
    json!({ "segment": found.segment, "what": found.what, "taken": found.taken })
}
