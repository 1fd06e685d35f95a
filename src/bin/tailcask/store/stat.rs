//! `stat`: how many keys a store has, and what it takes of memory and disk.

use super::kept::KeptSegments;
use super::memory::Memory;
use super::open::open;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use crate::table::{align_right, plain};
use crate::units::{counted, time};
use anyhow::Result;
use clap::Args;
use comfy_table::Table;
use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tailcask::{
    Distribution, LogStats, MergeTotals, ReadView, RecoveryReport, SegmentStats, Stats,
};

pub(super) const HELP: &str = "\
keys       number of keys, including expired ones that are not reclaimed yet
live       bytes of the frames (header, key, value, padding) that hold the keys' current values, and of \
those that a merge has to keep
dead       bytes of the frames that a merge would not copy: overwritten, deleted, expired
keydir     memory that the index of all keys takes while the store is open
disk       space that the segments take: the used part of sealed ones, the full size of the others
cache      the bytes of full segments, the budget for them in memory, and how much of them is there
tail       where the log ended when this command read it
state      how the store was closed, or that a process has it open for writing
memory     what that process takes: memory of its own, and pages of mapped files
kept       removed segments that it keeps mapped, most likely for values that it has read and not dropped
set aside  files that an earlier opening moved to set-aside/

Works while a program has the store open, and changes nothing. It loads the keydir, as opening does. \
Counters that only the other program has (reads, writes, merges, syncs) are zero here: that program \
can publish them as metrics. With --watch it loads nothing, and prints a line for each interval: puts, \
deletes and syncs, counted in the log as they are written by any process, bytes written, space on disk, \
and memory of the writing process. Reads leave no trace, so no other process can count them.

In JSON, sizes are in bytes, times in seconds and latencies in nanoseconds.

Why does the disk take more than the live bytes? Dead frames stay until a merge, and the store merges on \
its own once full segments take more than twice their live bytes, or a segment is half dead. The active \
segment and the standby behind it are preallocated, and count in full.

Why do live bytes grow after a merge? A frame that is moved for the first time remembers where it was \
written first, which takes 8 bytes more; and tombstones that hide older frames are kept, and count as \
live. The dead bytes that the merge removed are more than that.

Why is the process so large? Its resident memory (RSS) contains the pages of mapped segments that are in \
the page cache. The kernel takes these back when memory is short; they are not memory that the program \
has allocated. What it has allocated, the keydir among it, is anonymous memory.";

#[derive(Args)]
pub(crate) struct StatArgs {
    /// The store's directory
    pub(super) dir: PathBuf,
    /// Also print a line for each segment
    #[arg(long)]
    segments: bool,
    /// Print everything as JSON, including the segments; with --watch an object a line
    #[arg(long)]
    json: bool,
    /// Print what is written, once in so many seconds, until Ctrl-C
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = time,
        num_args = 0..=1,
        default_missing_value = "2",
        conflicts_with = "segments"
    )]
    watch: Option<Duration>,
}

pub(super) fn stat(args: &StatArgs) -> Result<()> {
    if let Some(every) = args.watch {
        return super::watch::watch(&args.dir, every, args.json);
    }
    let interrupt = Interrupt::watch()?;
    let store =
        interrupt.beside_reading(|| open(&args.dir), || "not all keys were read".to_owned())?;
    let stats = store.stats();
    let mut out = output();
    if args.json {
        writeln!(out, "{:#}", to_json(&stats, &store, &args.dir))?;
        return Ok(out.flush()?);
    }
    writeln!(out, "{}", overview(&stats, &store, &args.dir).trim_fmt())?;
    if args.segments {
        writeln!(out, "\n{}", segments(&stats.segments).trim_fmt())?;
    }
    Ok(out.flush()?)
}

pub(super) fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

/// What the process that has the store open keeps of what was removed.
fn kept(store: &ReadView, dir: &Path) -> Option<KeptSegments> {
    KeptSegments::of(store.writer_process()?, dir)
}

fn overview(stats: &Stats, store: &ReadView, dir: &Path) -> Table {
    let mut table = plain();
    let mut row = |name: &str, text: String| {
        table.add_row([name, &text]);
    };
    let per_key = stats.keydir_bytes as f64 / stats.keys.max(1) as f64;
    let goal = if stats.space_goal_missed { ", above the space goal" } else { "" };
    row("keys", HumanCount(stats.keys).to_string());
    let live_per_key = stats.live_bytes as f64 / stats.keys.max(1) as f64;
    row("live", format!("{} ({live_per_key:.1} bytes per key)", BinaryBytes(stats.live_bytes)));
    row("dead", format!("{} ({})", BinaryBytes(stats.dead_bytes), percent(stats.dead_ratio())));
    row("keydir", format!("{} ({per_key:.1} bytes per key)", BinaryBytes(stats.keydir_bytes)));
    let segments = counted(stats.segments.len() as u64, "segment");
    let times = stats.disk_bytes as f64 / stats.live_bytes.max(1) as f64;
    let disk = BinaryBytes(stats.disk_bytes);
    row("disk", format!("{disk} in {segments}: {times:.1} times the live bytes{goal}"));
    row("cache", cache(stats));
    row("tail", stats.log.tail.to_string());
    row("state", state(store));
    if let Some(memory) = store.writer_process().and_then(Memory::of) {
        row("memory", memory.to_string());
    }
    if let Some(kept) = kept(store, dir).filter(|kept| !kept.is_empty()) {
        row("kept", kept.to_string());
    }
    for file in &store.recovery().set_aside {
        row("set aside", format!("set-aside/{}, {}", file.name, BinaryBytes(file.bytes)));
    }
    table
}

/// Bytes of full segments, the budget for them, and how much of them is in memory.
fn cache(stats: &Stats) -> String {
    let full: u64 = stats.segments.iter().filter(|s| s.sealed).map(|s| s.disk_bytes).sum();
    let budget = BinaryBytes(stats.cache.budget);
    let fit = if stats.cache.is_exceeded { "exceed" } else { "fit into" };
    let resident = match stats.cache.resident {
        Some(part) => format!("; {} of them in memory", percent(part)),
        None => String::new(),
    };
    format!("full segments of {} {fit} a budget of {budget}{resident}", BinaryBytes(full))
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
    let live = match store.writer_process() {
        Some(process) if store.is_live() => format!("open for writing by process {process}; "),
        _ if store.is_live() => "open for writing; ".to_owned(),
        _ => String::new(),
    };
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
    align_right(&mut table, &[0, 3, 4, 5, 6]);
    table
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn to_json(stats: &Stats, store: &ReadView, dir: &Path) -> Value {
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
        "cache": {
            "budget": stats.cache.budget,
            "is_exceeded": stats.cache.is_exceeded,
            "resident": stats.cache.resident,
        },
        "open_for_writing": store.is_live(),
        "writer_process": store.writer_process(),
        "writer_keeps": kept(store, dir).map(KeptSegments::to_json),
        "writer_memory": store.writer_process().and_then(Memory::of).map(Memory::to_json),
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
