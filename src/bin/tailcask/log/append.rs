//! `log append`: each line of the input becomes a record.

use crate::encoding::Encoding;
use crate::interrupt::{Interrupt, open_input};
use crate::stdio::read_line;
use crate::units::{counted, size};
use anyhow::{Context, Result, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use tailcask::{AppendError, BatchWriter, CommitLog, Durability};

#[derive(Args)]
pub(crate) struct AppendArgs {
    /// The log's directory; created if it does not exist
    pub(super) dir: PathBuf,
    /// The file to read lines from; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// How records are given: one a line
    #[arg(long, value_enum, default_value = "raw")]
    encoding: Encoding,
    /// Sync each batch to the device before it counts as appended
    #[arg(long)]
    sync: bool,
    /// Number of appending threads; with more than one, lines may be appended out of order
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Bytes of lines gathered into one batch
    #[arg(long, default_value = "64KiB", value_parser = size)]
    batch_bytes: u64,
    /// Size of new segments
    #[arg(long, default_value = "64MiB", value_parser = size)]
    segment_size: u64,
    /// Append even if the directory holds a store; its merges cannot reclaim segments with such records
    #[arg(long)]
    on_store: bool,
    /// Print `acked N` after each batch: the first N lines are in the log
    #[arg(long, conflicts_with = "threads")]
    ack: bool,
}

pub(super) fn append(args: &AppendArgs) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let (input, total) = open_input(&args.file)?;
    let input = BufReader::with_capacity(1 << 20, interrupt.guard(input));
    let durability = if args.sync { Durability::Synced } else { Durability::Buffered };
    let log = CommitLog::options()
        .segment_size(args.segment_size)
        .durability(durability)
        .on_store(args.on_store)
        .open(&args.dir)
        .with_context(|| format!("{}", args.dir.display()))?;
    let progress = progress(total);
    let lines = AtomicU64::new(0);
    let appended = append_lines(&log, input, args, &lines, &progress);
    progress.finish_and_clear();
    // ORDERING: Relaxed; the threads that added to it are joined.
    let done = format!("{} appended", counted(lines.into_inner(), "record"));
    let tail = log.tail();
    let closed = log.close();
    if appended.is_ok() || interrupt.came() {
        closed?;
    }
    let appended = appended.with_context(|| format!("stopped after {done}"));
    interrupt.or_stopped(appended, || {
        format!("{done}, and on the device; the rest was not read; the log ends at {tail}")
    })?;
    writeln!(io::stderr(), "{done}; the log ends at {tail}")?;
    Ok(())
}

/// Appends all lines of the input, or those before an error, and counts them.
pub(crate) fn append_lines(
    log: &CommitLog,
    input: impl BufRead + Send,
    args: &AppendArgs,
    lines: &AtomicU64,
    progress: &ProgressBar,
) -> Result<()> {
    let records =
        Records { input, encoding: args.encoding, line: Vec::new(), number: 0, ended: false };
    if args.threads == 1 {
        append_in_order(log, records, args, lines, progress)
    } else {
        append_in_threads(log, records, args, lines, progress)
    }
}

/// The records in the lines of the input.
struct Records<R> {
    input: R,
    encoding: Encoding,
    line: Vec<u8>,
    /// Lines read.
    number: u64,
    ended: bool,
}

/// A record, and the length of its line.
type Record<'l> = (Cow<'l, [u8]>, u64);

impl<R: BufRead> Records<R> {
    /// The next record; `None` at the end of the input. An error names the line and is the end, too: no
    /// other thread goes on behind it.
    fn next_record(&mut self) -> Result<Option<Record<'_>>> {
        if std::mem::replace(&mut self.ended, true) || !read_line(&mut self.input, &mut self.line)?
        {
            return Ok(None);
        }
        self.number += 1;
        let (number, len) = (self.number, self.line.len() as u64 + 1);
        let record = self.encoding.decode(&self.line).with_context(|| format!("line {number}"))?;
        self.ended = false;
        Ok(Some((record, len)))
    }

    /// The error of the log for the last record, which is the end, too.
    fn refused(&mut self, error: AppendError) -> anyhow::Error {
        self.ended = true;
        anyhow::Error::new(error).context(format!("line {}", self.number))
    }
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
    bar.with_style(ProgressStyle::with_template(template).expect("the template is valid"))
}

fn append_in_order(
    log: &CommitLog,
    mut records: Records<impl BufRead>,
    args: &AppendArgs,
    appended: &AtomicU64,
    progress: &ProgressBar,
) -> Result<()> {
    // The writer never flushes by itself: each flush here is acknowledged.
    let mut writer = log.batch_writer(usize::MAX);
    let (mut bytes, mut lines) = (0, 0u64);
    let flush = |writer: &mut BatchWriter<'_>, lines, bytes| {
        flush(writer)?;
        progress.inc(bytes);
        // ORDERING: Relaxed; only this thread uses it.
        appended.store(lines, Relaxed);
        if args.ack { acknowledge(lines) } else { Ok(()) }
    };
    let read = loop {
        let (record, len) = match records.next_record() {
            Ok(Some(record)) => record,
            Ok(None) => break Ok(()),
            // What was read before an error is appended, too.
            Err(error) => break Err(error),
        };
        let pushed = writer.push(&record);
        drop(record);
        if let Err(error) = pushed {
            break Err(records.refused(error));
        }
        bytes += len;
        lines += 1;
        if bytes >= args.batch_bytes {
            flush(&mut writer, lines, std::mem::take(&mut bytes))?;
        }
    };
    flush(&mut writer, lines, bytes)?;
    read
}

/// Appends what was gathered. If that fails, a writer that is dropped must not do it after all, uncounted.
fn flush(writer: &mut BatchWriter<'_>) -> Result<(), AppendError> {
    let done = writer.flush();
    if done.is_err() {
        writer.clear();
    }
    done.map(drop)
}

fn acknowledge(lines: u64) -> Result<()> {
    let mut out = io::stdout().lock();
    let acked = writeln!(out, "acked {lines}").and_then(|()| out.flush());
    // A closed pipe is an error here (the text hides its kind): the rest is not appended.
    acked.map_err(|error| anyhow!("could not acknowledge: {error}"))
}

fn append_in_threads(
    log: &CommitLog,
    records: Records<impl BufRead + Send>,
    args: &AppendArgs,
    total: &AtomicU64,
    progress: &ProgressBar,
) -> Result<()> {
    let records = Mutex::new(records);
    let work = || append_batches(log, &records, args.batch_bytes, total, progress);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        };
        // Join all threads before returning the first error.
        let results: Vec<_> = threads.into_iter().map(join).collect();
        results.into_iter().collect()
    })
}

/// One thread's work: takes a batch of lines at a time from the shared input and appends it.
fn append_batches(
    log: &CommitLog,
    records: &Mutex<Records<impl BufRead>>,
    batch_bytes: u64,
    total: &AtomicU64,
    progress: &ProgressBar,
) -> Result<()> {
    let mut writer = log.batch_writer(usize::MAX);
    loop {
        let mut bytes = 0;
        let mut input = records.lock().unwrap_or_else(PoisonError::into_inner);
        let read = loop {
            let (record, len) = match input.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => break Ok(false),
                // What was read before an error is appended, too.
                Err(error) => break Err(error),
            };
            let pushed = writer.push(&record);
            drop(record);
            if let Err(error) = pushed {
                break Err(input.refused(error));
            }
            bytes += len;
            if bytes >= batch_bytes {
                break Ok(true);
            }
        };
        drop(input);
        let lines = writer.len() as u64;
        if let Err(error) = flush(&mut writer) {
            records.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
            return Err(error.into());
        }
        // ORDERING: Relaxed; the sum is read after all threads are joined.
        total.fetch_add(lines, Relaxed);
        progress.inc(bytes);
        if !read? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tailcask::SimulatedDisk;

    /// What is said to be appended is what is there, and nothing behind a line that is refused.
    #[test]
    fn a_record_that_is_refused_ends_the_input_with_its_number() {
        for threads in [1, 4] {
            let log = CommitLog::options().max_entry_size(10);
            let log = log.open_simulated(&SimulatedDisk::new()).unwrap();
            let args = AppendArgs {
                dir: PathBuf::new(),
                file: PathBuf::new(),
                encoding: Encoding::Raw,
                sync: false,
                threads,
                batch_bytes: if threads == 1 { 1 << 20 } else { 1 },
                segment_size: 0,
                on_store: false,
                ack: false,
            };
            let input = format!("a\nb\n{}\nc\n", "too long ".repeat(3));
            let lines = AtomicU64::new(0);
            let hidden = ProgressBar::hidden();
            let error = append_lines(&log, input.as_bytes(), &args, &lines, &hidden).unwrap_err();
            assert!(format!("{error:#}").starts_with("line 3: "), "{error:#}");
            let (mut reader, mut found) = (log.reader(), Vec::new());
            while let Some(entry) = reader.next_entry().unwrap() {
                found.push(entry.to_vec());
            }
            found.sort();
            assert_eq!(found, [b"a", b"b"], "{threads}");
            assert_eq!(lines.into_inner(), 2);
        }
    }
}
