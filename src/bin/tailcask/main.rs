//! The command line of tailcask.

mod store;
mod units;

use crate::units::size;
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tailcask::{BatchWriter, CommitLog, Durability, LogPosition, LogStats};

const AFTER_HELP: &str = "\
Units: sizes are bytes, or take KiB, MiB or GiB (1024 of the one before; K, M and G are the same). \
Times take ms, s, m, h or d, as in 500ms or 7d; a bare number is seconds.

Exit codes of the store's commands: 0 done, 1 the key is absent (get, delete) or there already \
(put --if-absent), 2 an error, 3 the store or backup is damaged (repair: something is lost), 4 damaged \
values were left out (--skip-damaged). Those of `log` are 0, and 1 for an error.";

#[derive(Parser)]
#[command(
    name = "tailcask",
    version,
    about = "A commit log, and a key-value store on its tail, at the shell",
    after_long_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The commit log: append, cat, tail, stat, verify, inspect
    #[command(subcommand)]
    Log(Log),
    #[command(flatten)]
    Store(store::Command),
}

#[derive(Subcommand)]
enum Log {
    /// Append a record for each line
    Append(Append),
    /// Print all records, one a line
    Cat(Cat),
    /// Print the last records
    Tail(Tail),
    /// Print sizes and positions
    Stat(Stat),
    /// Check every checksum
    Verify(Dir),
    /// Print the frames, for people debugging
    Inspect(Inspect),
}

#[derive(Args)]
struct Dir {
    /// The log's directory
    dir: PathBuf,
}

#[derive(Args)]
struct Append {
    /// The log's directory; made if it is missing
    dir: PathBuf,
    /// Where the lines come from; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Sync each batch before it counts as appended
    #[arg(long)]
    sync: bool,
    /// Threads that append; with more than one the order of lines is not kept
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Bytes of lines to gather for one batch
    #[arg(long, default_value = "64KiB", value_parser = size)]
    batch_bytes: u64,
    /// Bytes of a segment
    #[arg(long, default_value = "64MiB", value_parser = size)]
    segment_size: u64,
    /// Append even if a store lives here: what is merged leaves segments with records alone
    #[arg(long)]
    on_store: bool,
    /// Print `acked N` for each batch: the first N lines are in the log
    #[arg(long, conflicts_with = "threads")]
    ack: bool,
}

#[derive(Args)]
struct Cat {
    /// The log's directory
    dir: PathBuf,
    /// Begin at this position
    #[arg(long, value_name = "POSITION")]
    from: Option<LogPosition>,
    /// Print at most so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print each record's position and a tab before it
    #[arg(long)]
    positions: bool,
}

#[derive(Args)]
struct Tail {
    /// The log's directory
    dir: PathBuf,
    /// How many records
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: usize,
    /// Go on with records that are appended, also by another process
    #[arg(short, long)]
    follow: bool,
}

#[derive(Args)]
struct Stat {
    /// The log's directory
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Inspect {
    /// The log's directory
    dir: PathBuf,
    /// Begin at this position
    #[arg(long, value_name = "POSITION")]
    from: Option<LogPosition>,
    /// Print at most so many frames
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

fn main() -> ExitCode {
    let (result, failure) = match Cli::parse().command {
        Command::Log(command) => (run(&command).map(|()| ExitCode::SUCCESS), failed as fn(&_) -> _),
        Command::Store(command) => (store::run(&command), store::exit_code as fn(&_) -> _),
    };
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "tailcask: {error:#}");
            failure(&error)
        }
    }
}

fn run(command: &Log) -> Result<()> {
    match command {
        Log::Append(args) => append(args),
        Log::Cat(args) => cat(args),
        Log::Tail(args) => tail(args),
        Log::Stat(args) => stat(args),
        Log::Verify(args) => verify(&args.dir),
        Log::Inspect(args) => inspect(args),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut io = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io.any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

const fn failed(_: &anyhow::Error) -> ExitCode {
    ExitCode::FAILURE
}

fn open(dir: &Path) -> Result<CommitLog> {
    CommitLog::options().open_read_only(dir).with_context(|| format!("{}", dir.display()))
}

fn output() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::with_capacity(64 << 10, io::stdout().lock())
}

// ---- append ----

fn append(args: &Append) -> Result<()> {
    let (input, total): (Box<dyn BufRead + Send>, _) = if args.file == Path::new("-") {
        (Box::new(BufReader::with_capacity(1 << 20, io::stdin())), None)
    } else {
        let file = File::open(&args.file).with_context(|| format!("{}", args.file.display()))?;
        let total = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        (Box::new(BufReader::with_capacity(1 << 20, file)), total)
    };
    let durability = if args.sync { Durability::Synced } else { Durability::Buffered };
    let log = CommitLog::options()
        .segment_size(args.segment_size)
        .durability(durability)
        .on_store(args.on_store)
        .open(&args.dir)
        .with_context(|| format!("{}", args.dir.display()))?;
    let progress = progress(total);
    let lines = if args.threads == 1 {
        append_in_order(&log, input, args, &progress)?
    } else {
        append_in_threads(&log, input, args, &progress)?
    };
    progress.finish_and_clear();
    let tail = log.tail();
    log.close()?;
    writeln!(io::stderr(), "{lines} records appended, the log ends at {tail}")?;
    Ok(())
}

fn progress(total: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {binary_bytes_per_sec}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("a sound template"))
}

/// Reads a line, without its newline. False at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if input.read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(true)
}

fn append_in_order(
    log: &CommitLog,
    mut input: impl BufRead,
    args: &Append,
    progress: &ProgressBar,
) -> Result<u64> {
    // The writer's own threshold is never reached: flushes are ours, to acknowledge them.
    let mut writer = log.batch_writer(usize::MAX);
    let (mut line, mut bytes, mut lines) = (Vec::new(), 0, 0u64);
    while read_line(&mut input, &mut line)? {
        writer.push(&line)?;
        bytes += line.len() as u64 + 1;
        lines += 1;
        if bytes >= args.batch_bytes {
            flush(&mut writer, lines, args.ack)?;
            progress.inc(std::mem::take(&mut bytes));
        }
    }
    flush(&mut writer, lines, args.ack)?;
    progress.inc(bytes);
    Ok(lines)
}

fn flush(writer: &mut BatchWriter<'_>, lines: u64, ack: bool) -> Result<()> {
    writer.flush()?;
    if ack {
        let mut out = io::stdout().lock();
        writeln!(out, "acked {lines}")?;
        out.flush()?;
    }
    Ok(())
}

fn append_in_threads(
    log: &CommitLog,
    input: impl BufRead + Send,
    args: &Append,
    progress: &ProgressBar,
) -> Result<u64> {
    let input = Mutex::new(input);
    let total = AtomicU64::new(0);
    let work = || -> Result<()> {
        let mut writer = log.batch_writer(usize::MAX);
        let mut line = Vec::new();
        loop {
            let mut bytes = 0;
            // A batch of lines for each turn at the input.
            let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
            while bytes < args.batch_bytes && read_line(&mut *input, &mut line)? {
                writer.push(&line)?;
                bytes += line.len() as u64 + 1;
            }
            drop(input);
            if writer.is_empty() {
                return Ok(());
            }
            let lines = writer.len() as u64;
            writer.flush()?;
            // ORDERING: Relaxed; read after the threads are joined.
            total.fetch_add(lines, Relaxed);
            progress.inc(bytes);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads).map(|_| scope.spawn(work)).collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            t.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
        };
        // All are joined before the first error is told.
        let results: Vec<_> = threads.into_iter().map(join).collect();
        results.into_iter().collect::<Result<()>>()
    })?;
    // ORDERING: Relaxed; joining the threads orders their adds.
    Ok(total.load(Relaxed))
}

// ---- reading ----

fn cat(args: &Cat) -> Result<()> {
    let log = open(&args.dir)?;
    let mut reader = log.reader_from(args.from.unwrap_or_default());
    let mut out = output();
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        // What comes before damage is printed before the error is.
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => {
                out.flush()?;
                return Err(error.into());
            }
        };
        if args.positions {
            write!(out, "{}\t", entry.position())?;
        }
        out.write_all(&entry)?;
        out.write_all(b"\n")?;
        left -= 1;
    }
    Ok(out.flush()?)
}

fn tail(args: &Tail) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let log = open(&args.dir)?;
    let mut reader = log.reader();
    let mut last = std::collections::VecDeque::new();
    while let Some(entry) = reader.next_entry()? {
        last.push_back(entry.position());
        if last.len() > args.lines {
            last.pop_front();
        }
    }
    let mut out = output();
    for position in last {
        out.write_all(&log.read(position)?)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    // ORDERING: Relaxed; a flag that a signal sets, with nothing behind it.
    while args.follow && !stop.load(Relaxed) {
        if let Some(entry) = reader.wait_entry(Duration::from_millis(100))? {
            out.write_all(&entry)?;
            out.write_all(b"\n")?;
            out.flush()?;
        }
    }
    Ok(())
}

fn stat(args: &Stat) -> Result<()> {
    let log = open(&args.dir)?;
    let (stats, recovery) = (log.stats(), log.recovery());
    let mut entries = 0u64;
    let mut bytes = 0u64;
    let mut reader = log.reader();
    while let Some(entry) = reader.next_entry()? {
        entries += 1;
        bytes += entry.len() as u64;
    }
    let LogStats { begin, tail, segments, disk_bytes, .. } = stats;
    let mut out = output();
    if args.json {
        let json = serde_json::json!({
            "begin": begin.to_string(),
            "tail": tail.to_string(),
            "segments": segments,
            "disk_bytes": disk_bytes,
            "entries": entries,
            "entry_bytes": bytes,
            "clean": recovery.is_clean(),
            "unsealed_segments": recovery.recovered_segments,
            "holes": recovery.holes,
            "unfinished_appends": recovery.dead_claims,
            "torn_bytes": recovery.torn_bytes,
            "set_aside": recovery.set_aside.iter().map(|file| file.name.clone()).collect::<Vec<_>>(),
        });
        writeln!(out, "{json:#}")?;
    } else {
        writeln!(out, "begin        {begin}")?;
        writeln!(out, "tail         {tail}")?;
        writeln!(out, "segments     {segments}")?;
        writeln!(out, "disk bytes   {disk_bytes}")?;
        writeln!(out, "entries      {entries}")?;
        writeln!(out, "entry bytes  {bytes}")?;
        writeln!(out, "state        {recovery}")?;
        for file in &recovery.set_aside {
            writeln!(out, "set aside    {} ({} bytes)", file.name, file.bytes)?;
        }
    }
    Ok(out.flush()?)
}

fn verify(dir: &Path) -> Result<()> {
    let report = open(dir)?.verify()?;
    let mut out = output();
    writeln!(
        out,
        "sound: {} entries of {} bytes, {} frames in {} segments",
        report.entries, report.bytes, report.frames, report.segments
    )?;
    Ok(out.flush()?)
}

fn inspect(args: &Inspect) -> Result<()> {
    let log = open(&args.dir)?;
    let mut out = output();
    writeln!(out, "{:<20} {:>10}  {:<9}  {:<9} value", "position", "length", "state", "kind")?;
    for frame in log.frames(args.from.unwrap_or_default()).take(args.limit.unwrap_or(usize::MAX)) {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                out.flush()?;
                return Err(error.into());
            }
        };
        let position = frame.position.to_string();
        let kind = frame.kind.unwrap_or("-");
        writeln!(
            out,
            "{position:<20} {:>10}  {:<9}  {kind:<9} {}",
            frame.length, frame.state, frame.value_len
        )?;
    }
    Ok(out.flush()?)
}
