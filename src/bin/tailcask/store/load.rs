//! `load`: lines of text become keys and values.

use super::input::{Format, Layout, read};
use super::open::{WritingArgs, create};
use super::progress::progress;
use crate::units::{counted, size, time};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use indicatif::{BinaryBytes, HumanCount};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tailcask::{Batch, Durability, Store, WriteOptions};

pub(super) const HELP: &str = "\
Columns are named by the header line (CSV, or --header) or by their number, starting at 1. Fields of \
JSON objects are named. If a key occurs more than once, its last line wins.

TSV: lines end with a newline only. In the key and value columns, \\t, \\n, \\r and \\\\ stand for a \
tab, a newline, a carriage return and a backslash; --no-escapes takes backslashes literally. Without \
--value the value is the line as it is, escapes included.
CSV: without --value the value is the whole record, written as CSV.
NDJSON: a string becomes its text, a number its digits. If the field NAME is missing, NAME_base64 is \
decoded and used.

Lines are written in batches, each completely or not at all. Loading stops at the first line that \
cannot be read; the lines before it are loaded, and the error says how many.

Examples:
  tailcask load people.db people.csv --key id --value name
  zcat events.ndjson.gz | tailcask load events.db - --format ndjson --key id
  tailcask export old.db --format tsv | tailcask load new.db - --key 1 --value 2";

#[derive(Args)]
pub(crate) struct LoadArgs {
    /// The store's directory; created if it does not exist
    dir: PathBuf,
    /// The file to read lines from; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The format of the lines. Default: by the file's extension, otherwise TSV
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The key's column or field. Default: the first column, or the field "key"
    #[arg(long, value_name = "COLUMN")]
    key: Option<String>,
    /// The value's column or field. Default: the whole line
    #[arg(long, value_name = "COLUMN")]
    value: Option<String>,
    /// The first line names the columns. CSV has such a line by default
    #[arg(long, conflicts_with = "no_header")]
    header: bool,
    /// The first line of the CSV is a record
    #[arg(long)]
    no_header: bool,
    /// Take backslashes in TSV columns literally
    #[arg(long)]
    no_escapes: bool,
    /// Keys and values are base64
    #[arg(long, requires = "value")]
    base64: bool,
    /// Time until each value expires: 500ms, 90s, 15m, 12h, 7d
    ///
    /// Counted from the moment each pair is loaded. Pairs are then written one by one, not in batches.
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// Bytes of keys and values gathered into one batch
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = size)]
    batch_bytes: u64,
    /// Print `acked N` after each batch: the first N pairs are in the store
    #[arg(long)]
    ack: bool,
    #[command(flatten)]
    writing: WritingArgs,
}

impl LoadArgs {
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

/// Gathers pairs and writes them in batches.
struct Loader<'a> {
    store: &'a Store,
    args: &'a LoadArgs,
    batch: Batch,
    bytes: u64,
    pairs: u64,
    written: Arc<AtomicU64>,
}

impl Loader<'_> {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // Checked here rather than when the batch is written, so that the error names the line.
        if key.is_empty() || key.len() > usize::from(u16::MAX) {
            bail!("a key of {} bytes; 1 to 65535 are allowed", key.len());
        }
        match self.args.ttl {
            None => {
                self.batch.put(key, value);
            }
            Some(ttl) => {
                // `flush` syncs them together.
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
        // ORDERING: Relaxed; only the progress bar's thread reads it besides this one.
        self.written.store(self.pairs, Relaxed);
        if self.args.ack {
            let mut out = io::stdout().lock();
            let acked = writeln!(out, "acked {}", self.pairs).and_then(|()| out.flush());
            // A closed pipe is an error here (the text hides its kind): the rest is not loaded.
            acked.map_err(|error| anyhow!("could not acknowledge: {error}"))?;
        }
        Ok(())
    }

    /// Loads all pairs; before an error is returned, those read so far are written.
    fn load(&mut self, input: impl BufRead, layout: &Layout) -> Result<()> {
        let read = read(input, layout, &mut |key, value| self.add(key, value));
        let flushed = self.flush();
        // ORDERING: Relaxed; this thread stored it.
        let loaded = self.written.load(Relaxed);
        read.and(flushed)
            .with_context(|| format!("stopped after loading {}", counted(loaded, "pair")))
    }
}

pub(super) fn load(args: &LoadArgs) -> Result<()> {
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
    report(store, pairs, progress.position(), started)
}

/// Closes the store, and says on standard error what was loaded and how fast.
fn report(store: Store, pairs: u64, bytes: u64, started: Instant) -> Result<()> {
    let stats = store.stats();
    store.close()?;
    let seconds = started.elapsed().as_secs_f64();
    let mut err = io::stderr();
    writeln!(
        err,
        "{} loaded in {seconds:.2} s ({}/s, {} pairs/s); the store has {}",
        counted(pairs, "pair"),
        BinaryBytes((bytes as f64 / seconds) as u64),
        HumanCount((pairs as f64 / seconds) as u64),
        counted(stats.keys, "key")
    )?;
    if stats.merges.merges > 0 {
        writeln!(err, "merges meanwhile: {}", super::stat::merges_line(&stats.merges))?;
    }
    Ok(())
}

/// The input, and its length if it is a regular file.
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
