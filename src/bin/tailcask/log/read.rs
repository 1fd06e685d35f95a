//! `log cat` and `log tail`: the records, one per line.

use super::open::open;
use crate::encoding::Encoding;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use anyhow::Result;
use clap::Args;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;
use tailcask::LogPosition;

#[derive(Args)]
pub(crate) struct CatArgs {
    /// The log's directory
    dir: PathBuf,
    /// Start at this position
    #[arg(long, value_name = "POSITION")]
    from: Option<LogPosition>,
    /// Print at most N records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print each record's position and a tab before it
    #[arg(long)]
    positions: bool,
    /// How to print records
    #[arg(long, value_enum, default_value = "raw")]
    encoding: Encoding,
}

#[derive(Args)]
pub(crate) struct TailArgs {
    /// The log's directory
    dir: PathBuf,
    /// Number of records
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: usize,
    /// Keep printing records as they are appended, also by another process
    #[arg(short, long)]
    follow: bool,
    /// How to print records
    #[arg(long, value_enum, default_value = "raw")]
    encoding: Encoding,
}

fn write_record(out: &mut impl Write, record: &[u8], encoding: Encoding) -> io::Result<()> {
    out.write_all(&encoding.encode(record))?;
    out.write_all(b"\n")
}

pub(super) fn cat(args: &CatArgs) -> Result<()> {
    let log = open(&args.dir)?;
    let mut reader = log.reader_from(args.from.unwrap_or_default());
    let mut out = output();
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => {
                // Print the records before the damage, then the error.
                out.flush()?;
                return Err(error.into());
            }
        };
        if args.positions {
            write!(out, "{}\t", entry.position())?;
        }
        write_record(&mut out, &entry, args.encoding)?;
        left -= 1;
    }
    Ok(out.flush()?)
}

pub(super) fn tail(args: &TailArgs) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let log = open(&args.dir)?;
    let mut reader = log.reader();
    let mut last = VecDeque::new();
    while let Some(entry) = reader.next_entry()? {
        last.push_back(entry.position());
        if last.len() > args.lines {
            last.pop_front();
        }
    }
    let mut out = output();
    for position in last {
        write_record(&mut out, &log.read(position)?, args.encoding)?;
    }
    out.flush()?;
    while args.follow && !interrupt.came() {
        if let Some(entry) = reader.wait_entry(Duration::from_millis(100))? {
            write_record(&mut out, &entry, args.encoding)?;
            out.flush()?;
        }
    }
    Ok(())
}
