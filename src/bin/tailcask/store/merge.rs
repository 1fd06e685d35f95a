//! `merge`: reclaims the space of dead frames.

use super::open::open_existing;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use crate::units::{counted, size};
use anyhow::Result;
use clap::Args;
use indicatif::{BinaryBytes, ProgressBar};
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;
use tailcask::{Maintenance, MergeError, MergeReport, Stats, Store};

#[derive(Args)]
pub(crate) struct MergeArgs {
    /// The store's directory
    pub(super) dir: PathBuf,
    /// Merge only what the store would merge on its own, which may be nothing
    ///
    /// That is: segments of which at least half, and at least 1MiB, is dead; those with the largest dead
    /// part, while full segments take more than twice their live bytes; and small segments, once there
    /// are four. Without this option every segment that has dead bytes is merged.
    #[arg(long)]
    only_if_needed: bool,
    /// Size of new segments: a multiple of 2MiB, below 4GiB
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    segment_size: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn merge(args: &MergeArgs) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let options = Store::options().maintenance(Maintenance::Manual).segment_size(args.segment_size);
    let store = open_existing(&args.dir, &options)?;
    let before = sealed_bytes(&store.stats());
    let merge =
        || if args.only_if_needed { merge_needed(&store) } else { Ok(vec![store.merge()?]) };
    let reports = with_spinner(&interrupt, &store, merge)?;
    let after = sealed_bytes(&store.stats());
    store.close()?;
    let totals = Totals::of(&reports, before, after);
    let mut out = output();
    if args.json {
        writeln!(out, "{:#}", totals.to_json())?;
    } else {
        writeln!(out, "{}", totals.to_text())?;
    }
    Ok(out.flush()?)
}

/// Disk space of the sealed segments. (The active one is preallocated, which would blur the difference.)
fn sealed_bytes(stats: &Stats) -> u64 {
    stats.segments.iter().filter(|s| s.sealed).map(|s| s.disk_bytes).sum()
}

/// Merges until the policy selects nothing more.
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

/// Shows the store's size on disk while `work` runs.
fn with_spinner<R: Send>(
    interrupt: &Interrupt,
    store: &Store,
    work: impl FnOnce() -> R + Send,
) -> R {
    let bar = match io::stderr().is_terminal() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    let tick = || {
        if !bar.is_hidden() {
            let disk = BinaryBytes(store.stats().disk_bytes);
            bar.set_message(format!("merging for {:.0?}: {disk} on disk", bar.elapsed()));
            bar.tick();
        }
    };
    let result = interrupt.beside(work, tick, || {
        bar.finish_and_clear();
        let done = super::stat::merges_line(&store.stats().merges);
        Some(format!("merges done: {done}; the next open completes or undoes what was under way"))
    });
    bar.finish_and_clear();
    result
}

/// The sums of several merges.
struct Totals {
    inputs: u64,
    outputs: u64,
    bytes_read: u64,
    bytes_written: u64,
    bytes_reclaimed: u64,
    puts_moved: u64,
    expired: u64,
    tombstones_kept: u64,
    tombstones_dropped: u64,
    duration: Duration,
    sealed_bytes_before: u64,
    sealed_bytes_after: u64,
}

impl Totals {
    fn of(reports: &[MergeReport], sealed_bytes_before: u64, sealed_bytes_after: u64) -> Self {
        let sum = |field: fn(&MergeReport) -> u64| reports.iter().map(field).sum::<u64>();
        Self {
            inputs: sum(|r| r.inputs),
            outputs: sum(|r| r.outputs),
            bytes_read: sum(|r| r.bytes_read),
            bytes_written: sum(|r| r.bytes_written),
            bytes_reclaimed: sum(|r| r.bytes_reclaimed),
            puts_moved: sum(|r| r.puts_moved),
            expired: sum(|r| r.expired),
            tombstones_kept: sum(|r| r.tombstones_kept),
            tombstones_dropped: sum(|r| r.tombstones_dropped),
            duration: reports.iter().map(|report| report.duration).sum(),
            sealed_bytes_before,
            sealed_bytes_after,
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "inputs": self.inputs,
            "outputs": self.outputs,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "bytes_reclaimed": self.bytes_reclaimed,
            "puts_moved": self.puts_moved,
            "expired": self.expired,
            "tombstones_kept": self.tombstones_kept,
            "tombstones_dropped": self.tombstones_dropped,
            "duration": self.duration.as_secs_f64(),
            "sealed_bytes_before": self.sealed_bytes_before,
            "sealed_bytes_after": self.sealed_bytes_after,
        })
    }

    fn to_text(&self) -> String {
        if self.inputs == 0 {
            return "nothing to merge".to_owned();
        }
        format!(
            "merged {} into {} in {:.2?}: {} read, {} written, {} reclaimed; sealed segments \
             took {} before, {} after",
            counted(self.inputs, "segment"),
            self.outputs,
            self.duration,
            BinaryBytes(self.bytes_read),
            BinaryBytes(self.bytes_written),
            BinaryBytes(self.bytes_reclaimed),
            BinaryBytes(self.sealed_bytes_before),
            BinaryBytes(self.sealed_bytes_after)
        )
    }
}
