//! `stat`: how many keys a store has, and what it takes of memory and disk.

use super::open::open;
use crate::stdio::output;
use crate::units::counted;
use anyhow::Result;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use tailcask::{
    Distribution, LogStats, MergeTotals, ReadView, RecoveryReport, SegmentStats, Stats,
};

pub(super) const HELP: &str = "\
keys       number of keys, including expired ones that are not reclaimed yet
live       bytes of the frames (header, key, value, padding) that hold the keys' current values
dead       bytes of the frames that a merge would not copy: overwritten, deleted, expired
keydir     memory that the index of all keys takes while the store is open
disk       space that the segments take: the used part of sealed ones, the full size of the others
tail       where the log ended when this command read it
state      how the store was closed, or that a program has it open for writing
set aside  files that an earlier opening moved to set-aside/

Works while a program has the store open, and changes nothing. Counters that only that program has \
(reads, writes, merges, syncs) are zero here.

In JSON, sizes are in bytes, times in seconds and latencies in nanoseconds.";

#[derive(Args)]
pub(crate) struct StatArgs {
    /// The store's directory
    dir: PathBuf,
    /// Also print a line for each segment
    #[arg(long)]
    segments: bool,
    /// Print everything as JSON, including the segments
    #[arg(long)]
    json: bool,
}

pub(super) fn stat(args: &StatArgs) -> Result<()> {
    let store = open(&args.dir)?;
    let stats = store.stats();
    let mut out = output();
    if args.json {
        writeln!(out, "{:#}", to_json(&stats, &store))?;
        return Ok(out.flush()?);
    }
    writeln!(out, "{}", overview(&stats, &store).trim_fmt())?;
    if args.segments {
        writeln!(out, "\n{}", segments(&stats.segments).trim_fmt())?;
    }
    Ok(out.flush()?)
}

pub(super) fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

fn overview(stats: &Stats, store: &ReadView) -> Table {
    let mut table = plain();
    let mut row = |name: &str, text: String| {
        table.add_row([name, &text]);
    };
    let per_key = stats.keydir_bytes as f64 / stats.keys.max(1) as f64;
    let goal = if stats.space_goal_missed { ", above the space goal" } else { "" };
    row("keys", HumanCount(stats.keys).to_string());
    row("live", BinaryBytes(stats.live_bytes).to_string());
    row("dead", format!("{} ({})", BinaryBytes(stats.dead_bytes), percent(stats.dead_ratio())));
    row("keydir", format!("{} ({per_key:.1} bytes per key)", BinaryBytes(stats.keydir_bytes)));
    let segments = counted(stats.segments.len() as u64, "segment");
    row("disk", format!("{} in {segments}{goal}", BinaryBytes(stats.disk_bytes)));
    row("tail", stats.log.tail.to_string());
    row("state", state(store));
    for file in &store.recovery().set_aside {
        row("set aside", format!("set-aside/{}, {}", file.name, BinaryBytes(file.bytes)));
    }
    table
}

/// How many merges ran, and what they read, wrote and reclaimed.
pub(super) fn merges_line(merges: &MergeTotals) -> String {
    if merges.merges + merges.failures == 0 {
        return "none".to_owned();
    }
    let failed = match merges.failures {
        0 => String::new(),
        failures => format!(", {failures} failed"),
    };
    format!(
        "{} in {:.2?}{failed}: {} read, {} written, {} reclaimed",
        merges.merges,
        merges.time,
        BinaryBytes(merges.bytes_read),
        BinaryBytes(merges.bytes_written),
        BinaryBytes(merges.bytes_reclaimed)
    )
}

fn state(store: &ReadView) -> String {
    let recovery = store.recovery();
    let live = if store.is_live() { "open for writing; " } else { "" };
    format!("{live}{recovery}, read in {:.2?}", recovery.duration)
}

fn segments(all: &[SegmentStats]) -> Table {
    let mut table = plain();
    table.set_header(["segment", "kind", "state", "disk", "live", "dead", ""]);
    for segment in all {
        table.add_row([
            segment.id.to_string(),
            if segment.merged { "merged" } else { "log" }.to_owned(),
            if segment.sealed { "sealed" } else { "open" }.to_owned(),
            BinaryBytes(segment.disk_bytes).to_string(),
            BinaryBytes(segment.live_bytes).to_string(),
            BinaryBytes(segment.dead_bytes).to_string(),
            percent(segment.dead_ratio()),
        ]);
    }
    for column in [0, 3, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn to_json(stats: &Stats, store: &ReadView) -> Value {
    json!({
        "keys": stats.keys,
        "keydir_bytes": stats.keydir_bytes,
        "disk_bytes": stats.disk_bytes,
        "live_bytes": stats.live_bytes,
        "dead_bytes": stats.dead_bytes,
        "dead_ratio": stats.dead_ratio(),
        "space_goal_missed": stats.space_goal_missed,
        "hits": stats.hits,
        "misses": stats.misses,
        "puts": stats.puts,
        "deletes": stats.deletes,
        "expired": stats.expired,
        "segments_waiting_for_readers": stats.segments_waiting_for_readers,
        "longest_reader_wait": stats.longest_reader_wait.map(seconds),
        "merges": merges_json(&stats.merges),
        "segments": stats.segments.iter().map(segment_json).collect::<Vec<_>>(),
        "log": log_json(&stats.log),
        "open_for_writing": store.is_live(),
        "recovery": recovery_json(store.recovery()),
        "set_aside": store.recovery().set_aside.iter().map(|file| json!({
            "name": file.name,
            "bytes": file.bytes,
        })).collect::<Vec<_>>(),
    })
}

fn merges_json(merges: &MergeTotals) -> Value {
    json!({
        "merges": merges.merges,
        "failures": merges.failures,
        "bytes_read": merges.bytes_read,
        "bytes_written": merges.bytes_written,
        "bytes_reclaimed": merges.bytes_reclaimed,
        "time": seconds(merges.time),
    })
}

fn segment_json(segment: &SegmentStats) -> Value {
    json!({
        "id": segment.id,
        "merged": segment.merged,
        "sealed": segment.sealed,
        "disk_bytes": segment.disk_bytes,
        "live_bytes": segment.live_bytes,
        "dead_bytes": segment.dead_bytes,
        "dead_ratio": segment.dead_ratio(),
    })
}

fn log_json(log: &LogStats) -> Value {
    json!({
        "begin": log.begin.to_string(),
        "tail": log.tail.to_string(),
        "committed": log.committed.to_string(),
        "durable": log.durable.to_string(),
        "oldest_unfinished": log.oldest_unfinished.map(|at| at.to_string()),
        "entries": log.entries,
        "batches": log.batches,
        "bytes": log.bytes,
        "voids": log.voids,
        "rolls": log.rolls,
        "segments": log.segments,
        "segments_created": log.segments_created,
        "segments_sealed": log.segments_sealed,
        "standby_waits": log.standby_waits,
        "standby_wait_time": seconds(log.standby_wait_time),
        "sync_latency": distribution_json(&log.sync_latency),
        "group_sizes": distribution_json(&log.group_sizes),
        "sync_failures": log.sync_failures,
        "disk_bytes": log.disk_bytes,
    })
}

fn distribution_json(all: &Distribution) -> Value {
    json!({
        "count": all.count, "p50": all.p50, "p99": all.p99, "p999": all.p999, "max": all.max,
    })
}

fn recovery_json(recovery: &RecoveryReport) -> Value {
    json!({
        "clean": recovery.is_clean(),
        "same_boot": recovery.same_boot,
        "sealed_segments": recovery.sealed_segments,
        "hinted_segments": recovery.hinted_segments,
        "recovered_segments": recovery.recovered_segments,
        "frames": recovery.frames,
        "entries": recovery.entries,
        "holes": recovery.holes,
        "unfinished_appends": recovery.dead_claims,
        "torn_bytes": recovery.torn_bytes,
        "torn_from": recovery.torn_from.map(|at| at.to_string()),
        "damaged_places": recovery.damaged.len(),
        "lost_frames": recovery.gone.len(),
        "duration": seconds(recovery.duration),
    })
}
