//! `stat --watch`: what is written to a store, seen from outside.
//!
//! The log tells: its frames are counted as they come, whoever writes them. Nothing is asked of the writing
//! process, and nothing is loaded.

use super::memory::Memory;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use anyhow::{Context, Result};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tailcask::{CommitLog, LogPosition};

/// Lines between two headings.
const PAGE: u32 = 20;

/// What came in one interval.
#[derive(Debug, Default)]
struct Interval {
    puts: u64,
    deletes: u64,
    syncs: u64,
    bytes: u64,
    /// Whether a part of the log was merged away before it was counted.
    missed: bool,
    seconds: f64,
}

/// A log and how far it was counted.
struct Watched {
    log: CommitLog,
    from: LogPosition,
}

impl Watched {
    fn open(dir: &Path) -> Result<Self> {
        let log = super::open::open_log(dir)?;
        let from = log.committed();
        Ok(Self { log, from })
    }

    /// Counts the frames that were finished since the last call.
    fn count(&mut self, dir: &Path) -> Result<Interval> {
        let mut new = Interval::default();
        let end = self.log.committed();
        for frame in self.log.frames(self.from) {
            let frame = match frame {
                Ok(frame) if frame.position < end => frame,
                Ok(_) => break,
                Err(tailcask::ReadError::Truncated { .. }) => {
                    new.missed = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            match (frame.state, frame.kind) {
                ("committed", Some("put")) => new.puts += 1,
                ("committed", Some("delete")) => new.deletes += 1,
                ("committed", Some("sync mark")) => new.syncs += 1,
                _ => {}
            }
            // The frames in a batch are a part of it, and counted with it.
            if frame.position >= self.from {
                new.bytes += if frame.state == "committed" { frame.length } else { 0 };
                self.from = LogPosition::from_u64(frame.position.as_u64() + frame.length);
            }
        }
        if new.missed {
            *self = Self::open(dir)?;
        }
        self.from = self.from.max(end);
        Ok(new)
    }
}

/// Bytes that the files of a directory take on disk.
fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for file in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        // One that is just removed takes nothing.
        bytes += file?.metadata().map_or(0, |file| file.blocks() * 512);
    }
    Ok(bytes)
}

pub(super) fn watch(dir: &Path, every: Duration, json: bool) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let mut watched = Watched::open(dir)?;
    let (mut before, mut lines) = (Instant::now(), 0);
    while !interrupt.wait(every)? {
        let mut new = watched.count(dir)?;
        new.seconds = before.elapsed().as_secs_f64();
        before = Instant::now();
        let disk = disk_bytes(dir)?;
        let writer = watched.log.writer_process();
        let memory = writer.and_then(Memory::of);
        let mut out = output();
        if json {
            let memory = memory.map(Memory::to_json);
            let line = json!({
                "seconds": new.seconds, "puts": new.puts, "deletes": new.deletes, "syncs": new.syncs,
                "bytes_written": new.bytes, "missed": new.missed, "disk_bytes": disk,
                "writer_process": writer, "writer_memory": memory,
            });
            writeln!(out, "{line}")?;
        } else {
            if lines % PAGE == 0 {
                write_heading(&mut out)?;
            }
            write_line(&mut out, &new, disk, memory)?;
        }
        out.flush()?;
        lines += 1;
    }
    Ok(())
}

fn write_heading(out: &mut impl Write) -> Result<()> {
    Ok(writeln!(
        out,
        "{:>12} {:>10} {:>8} {:>14} {:>12} {:>12} {:>12}",
        "puts/s", "deletes/s", "syncs/s", "written/s", "disk", "own memory", "mapped files"
    )?)
}

fn write_line(
    out: &mut impl Write,
    new: &Interval,
    disk: u64,
    memory: Option<Memory>,
) -> Result<()> {
    let rate = |count: u64| (count as f64 / new.seconds.max(1e-9)).round() as u64;
    let count = |count| HumanCount(rate(count)).to_string();
    let size = |bytes| BinaryBytes(bytes).to_string();
    let of = |part: fn(Memory) -> u64| memory.map_or_else(|| "-".to_owned(), |m| size(part(m)));
    writeln!(
        out,
        "{:>12} {:>10} {:>8} {:>14} {:>12} {:>12} {:>12}{}",
        count(new.puts),
        count(new.deletes),
        count(new.syncs),
        size(rate(new.bytes)),
        size(disk),
        of(|memory| memory.anonymous),
        of(|memory| memory.mapped),
        if new.missed { "  some were merged before they could be counted" } else { "" }
    )?;
    Ok(())
}
