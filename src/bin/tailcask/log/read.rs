//! `log cat` and `log tail`: the records, one per line.

use super::open::open;
use crate::encoding::Encoding;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use crate::units::counted;
use anyhow::Result;
use clap::Args;
use indicatif::HumanCount;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;
use tailcask::{CommitLog, LogPosition, LogReader};

#[derive(Args)]
pub(crate) struct CatArgs {
    /// The log's directory
    pub(super) dir: PathBuf,
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
    pub(super) dir: PathBuf,
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
    let interrupt = Interrupt::watch()?;
    let log = open(&args.dir)?;
    let (mut out, mut printed) = (output(), 0);
    let done = print_all(&log, args, &mut out, &mut printed, &interrupt);
    // Print the records before the damage, then the error.
    out.flush()?;
    interrupt.or_stopped(done, || format!("{} printed", counted(printed, "record")))
}

fn print_all(
    log: &CommitLog,
    args: &CatArgs,
    out: &mut impl Write,
    printed: &mut u64,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut reader = log.reader_from(args.from.unwrap_or_default());
    while *printed < args.limit.unwrap_or(u64::MAX) {
        interrupt.check()?;
        let Some(entry) = reader.next_entry()? else { break };
        if args.positions {
            write!(out, "{}\t", entry.position())?;
        }
        write_record(out, &entry, args.encoding)?;
        *printed += 1;
    }
    Ok(())
}

pub(super) fn tail(args: &TailArgs) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let log = open(&args.dir)?;
    let mut reader = log.reader();
    let last = read_last(&mut reader, args.lines, &interrupt);
    let not_read = || "nothing was printed; the end of the log was not reached".to_owned();
    let last = interrupt.or_stopped(last, not_read)?;
    let (mut out, mut printed) = (output(), 0u64);
    let done = last.iter().try_for_each(|&position| {
        interrupt.check()?;
        write_record(&mut out, &log.read(position)?, args.encoding)?;
        printed += 1;
        anyhow::Ok(())
    });
    out.flush()?;
    let all = counted(last.len() as u64, "record");
    interrupt.or_stopped(done, || format!("{} of {all} printed", HumanCount(printed)))?;
    while args.follow && !interrupt.came() {
        if let Some(entry) = reader.wait_entry(Duration::from_millis(100))? {
            write_record(&mut out, &entry, args.encoding)?;
            out.flush()?;
        }
    }
    Ok(())
}

/// The positions of the last records. The log is read from its beginning: frames lead forward only.
fn read_last(
    reader: &mut LogReader<'_>,
    count: usize,
    interrupt: &Interrupt,
) -> Result<VecDeque<LogPosition>> {
    let mut last = VecDeque::new();
    while let Some(entry) = reader.next_entry()? {
        interrupt.check()?;
        last.push_back(entry.position());
        if last.len() > count {
            last.pop_front();
        }
    }
    Ok(last)
}
