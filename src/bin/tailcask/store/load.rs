//! `load`: text becomes keys and values.

use super::input::{Format, Layout, read};
use super::{Writing, create};
use crate::units::{size, time};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressState, ProgressStyle};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tailcask::{Batch, Durability, Store, WriteOptions};

pub(super) const HELP: &str = "\
Columns are named as in the first line (CSV, or --header), or counted from 1; fields of JSON objects \
are named. Of two lines with one key the later one counts.

TSV: a line ends with a newline alone. In the columns that are taken, \\t, \\n, \\r and \\\\ stand for \
a tab, a newline, a carriage return and a backslash; --no-escapes takes backslashes as they are. A \
whole line is always taken as it is.
CSV: a whole line is the record, written as CSV again.
NDJSON: strings are taken as their text, numbers as their digits. Where the field NAME is missing, \
NAME_base64 is taken and decoded.

Lines are written in batches: all of a batch or none of it. The first line that cannot be read ends \
it; the lines before it are loaded, and the message says how many.

Examples:
  tailcask load people.db people.csv --key id --value name
  zcat events.ndjson.gz | tailcask load events.db - --format ndjson --key id
  tailcask export old.db --format tsv | tailcask load new.db - --key 1 --value 2";

#[derive(Args)]
pub(crate) struct Load {
    /// The store's directory; made if it is missing
    dir: PathBuf,
    /// Where the lines come from; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// What the lines are; else what the file's name ends with says, or it is TSV
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The key's column or field; else the first column, or the field "key"
    #[arg(long, value_name = "COLUMN")]
    key: Option<String>,
    /// The value's column or field; without it the value is the whole line
    #[arg(long, value_name = "COLUMN")]
    value: Option<String>,
    /// The first line has the columns' names; so for CSV anyway
    #[arg(long, conflicts_with = "no_header")]
    header: bool,
    /// The first line of the CSV is a record like the others
    #[arg(long)]
    no_header: bool,
    /// Take backslashes in columns of TSV as they are
    #[arg(long)]
    no_escapes: bool,
    /// Key and value are base64
    #[arg(long, requires = "value")]
    base64: bool,
    /// How long the values are there: 500ms, 90s, 15m, 12h, 7d
    ///
    /// From when each is loaded on. They are then written one by one, not in batches.
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// Bytes of keys and values to gather for one batch
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = size)]
    batch_bytes: u64,
    /// Print `acked N` for each batch: the first N pairs are in the store
    #[arg(long)]
    ack: bool,
    #[command(flatten)]
    writing: Writing,
}

impl Load {
    fn layout(&self) -> Layout {
        let format = self.format.or_else(|| Format::of(&self.file)).unwrap_or(Format::Tsv);
        let key = if format == Format::Ndjson { "key" } else { "1" };
        Layout {
            format,
            key: self.key.clone().unwrap_or_else(|| key.to_owned()),
            value: self.value.clone(),
            header: self.header || format == Format::Csv && !self.no_header,
            escapes: !self.no_escapes,
            base64: self.base64,
        }
    }
}

/// Gathers pairs, and writes them in batches.
struct Loader<'a> {
    store: &'a Store,
    args: &'a Load,
    batch: Batch,
    bytes: u64,
    pairs: u64,
    written: Arc<AtomicU64>,
}

impl Loader<'_> {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // Here, where the line is known, and not when the batch is written.
        if key.is_empty() || key.len() > usize::from(u16::MAX) {
            bail!("a key of {} bytes; 1 to 65535 are allowed", key.len());
        }
        match self.args.ttl {
            None => {
                self.batch.put(key, value);
            }
            Some(ttl) => {
                // Synced together, by `flush`.
                let options = WriteOptions::new().ttl(ttl).durability(Durability::Buffered);
                self.store.put_with(key, value, &options)?;
            }
        }
        self.bytes += (key.len() + value.len()) as u64;
        self.pairs += 1;
        if self.bytes >= self.args.batch_bytes { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.store.write(&self.batch)?;
        self.batch = Batch::new();
        self.bytes = 0;
        if self.args.ttl.is_some() && self.args.writing.durability() == Durability::Synced {
            self.store.sync()?;
        }
        // ORDERING: Relaxed; a figure for the progress bar, and for this thread.
        self.written.store(self.pairs, Relaxed);
        if self.args.ack {
            let mut out = io::stdout().lock();
            let told = writeln!(out, "acked {}", self.pairs).and_then(|()| out.flush());
            // Not a pipe to end at quietly: the rest is not loaded.
            told.map_err(|error| anyhow!("could not acknowledge: {error}"))?;
        }
        Ok(())
    }

    /// Loads everything; what was read before an error, too.
    fn load(&mut self, input: impl BufRead, layout: &Layout) -> Result<()> {
        let read = read(input, layout, &mut |key, value| self.add(key, value));
        let flushed = self.flush();
        // ORDERING: Relaxed; this thread's own.
        let loaded = self.written.load(Relaxed);
        read.and(flushed).with_context(|| format!("stopped when {loaded} pairs were loaded"))
    }
}

pub(super) fn load(args: &Load) -> Result<()> {
    let (input, total) = open_input(&args.file)?;
    let started = Instant::now();
    let store = create(&args.dir, &args.writing.options())?;
    let written = Arc::new(AtomicU64::new(0));
    let progress = progress(total, written.clone());
    let input = BufReader::with_capacity(1 << 20, progress.wrap_read(input));
    let mut loader =
        Loader { store: &store, args, batch: Batch::new(), bytes: 0, pairs: 0, written };
    let loaded = loader.load(input, &args.layout());
    let pairs = loader.pairs;
    progress.finish_and_clear();
    loaded.with_context(|| match &args.file {
        input if input == Path::new("-") => "standard input".to_owned(),
        file => file.display().to_string(),
    })?;
    let (stats, read) = (store.stats(), progress.position());
    store.close()?;
    let seconds = started.elapsed().as_secs_f64();
    let mut err = io::stderr();
    writeln!(
        err,
        "{pairs} pairs loaded in {seconds:.2} s ({}/s, {} pairs/s), {} keys in the store",
        BinaryBytes((read as f64 / seconds) as u64),
        HumanCount((pairs as f64 / seconds) as u64),
        stats.keys
    )?;
    if stats.merges.merges > 0 {
        writeln!(err, "meanwhile: {}", super::stat::merges_line(&stats.merges))?;
    }
    Ok(())
}

fn open_input(path: &Path) -> Result<(Box<dyn Read>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), None));
    }
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("{}", path.display()))?;
    if metadata.is_dir() {
        bail!("{} is a directory", path.display());
    }
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

/// Bytes of the input, and pairs a second beside them.
fn progress(total: Option<u64>, pairs: Arc<AtomicU64>) -> ProgressBar {
    let hidden = !io::stderr().is_terminal();
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {pairs}/s {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {binary_bytes} {binary_bytes_per_sec} {pairs}/s",
        ),
    };
    if hidden {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let rate = move |state: &ProgressState, out: &mut dyn fmt::Write| {
        let seconds = state.elapsed().as_secs_f64().max(1e-3);
        // ORDERING: Relaxed; a figure to show.
        let rate = pairs.load(Relaxed) as f64 / seconds;
        let _ = write!(out, "{} pairs", HumanCount(rate as u64));
    };
    let style = ProgressStyle::with_template(template).expect("a sound template");
    bar.with_style(style.with_key("pairs", rate))
}
