//! `load`: lines of text become keys and values.

use super::input::{Format, Layout, NewPair, Value, read};
use super::open::{WritingArgs, create};
use super::progress::progress;
use crate::interrupt::{Interrupt, open_input};
use crate::units::{counted, size, ttl};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use indicatif::{BinaryBytes, HumanCount};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};
use tailcask::{Batch, Stats, Store};

pub(super) const HELP: &str = "\
Columns are named by the header line (CSV, or --header) or by their number, starting at 1. Fields of \
JSON objects are named. If a key occurs more than once, its last line wins.

TSV: lines end with a newline only. In the key and value columns, \\t, \\n, \\r and \\\\ stand for a \
tab, a newline, a carriage return and a backslash; --no-escapes takes backslashes literally.
NDJSON: a string becomes its text, a number its digits. If the field NAME is missing, NAME_base64 is \
decoded and used.

Without --key, --value and --whole-line the input is taken as `export` writes it: the columns or fields \
\"key\" and \"value\", and the time at which the pair expires in \"expires_ms\", in milliseconds since \
1970; or two columns without names, and a third one such as expires=1767225600000. Pairs that have \
expired by now are not there afterwards.

Lines are written in batches, each completely or not at all. Loading stops at the first line that \
cannot be read, or at Ctrl-C; the lines before are loaded, and the message says how many.

Examples:
  tailcask load people.db people.csv --key id --value name
  zcat events.ndjson.gz | tailcask load events.db - --format ndjson --key id
  tailcask export old.db | tailcask load new.db";

#[derive(Args)]
pub(crate) struct LoadArgs {
    /// The store's directory; created if it does not exist
    pub(super) dir: PathBuf,
    /// The file to read lines from; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The format of the lines. Default: by the file's extension, otherwise TSV
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The key's column or field. Default: the first column, or the field "key"
    #[arg(long, value_name = "COLUMN")]
    key: Option<String>,
    /// The value's column or field. Default: the one named "value", or the other one of two columns
    #[arg(long, value_name = "COLUMN")]
    value: Option<String>,
    /// The value is the whole line, as it is; for CSV the record, written as CSV
    #[arg(long, conflicts_with = "value")]
    whole_line: bool,
    /// The column or field with the time at which a pair expires, in milliseconds since 1970; may be empty
    #[arg(long, value_name = "COLUMN", conflicts_with = "ttl")]
    expires: Option<String>,
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
    #[arg(long, conflicts_with = "whole_line")]
    base64: bool,
    /// Time until each value expires: 500ms, 90s, 15m, 12h, 7d
    ///
    /// Counted from the moment each pair is loaded, whatever the input says.
    #[arg(long, value_name = "TIME", value_parser = ttl)]
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
        let value = match (&self.value, self.whole_line) {
            (Some(value), _) => Value::Named(value.clone()),
            (None, true) => Value::WholeLine,
            (None, false) => Value::Usual,
        };
        Layout {
            format,
            key: self.key.clone(),
            value,
            expires: self.expires.clone(),
            header: self.header || format == Format::Csv && !self.no_header,
            escapes: !self.no_escapes,
            base64: self.base64,
        }
    }
}

/// Pairs for one batch. It is made when it is written, since only then is it known what is left of the
/// lives of those that expire at some time.
#[derive(Default)]
struct Gathered {
    /// Keys and values, one behind the other.
    bytes: Vec<u8>,
    pairs: Vec<GatheredPair>,
}

struct GatheredPair {
    key_len: usize,
    value_len: usize,
    /// In milliseconds since 1970.
    expires: Option<u64>,
}

impl Gathered {
    fn add(&mut self, pair: &NewPair<'_>) {
        let NewPair { key, value, expires } = pair;
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        let (key_len, value_len) = (key.len(), value.len());
        self.pairs.push(GatheredPair { key_len, value_len, expires: *expires });
    }

    /// The batch, and how many of the pairs have expired by `now`. They are deleted: as if they had been
    /// there, what an earlier line put is gone, too.
    fn batch(&self, ttl: Option<Duration>, now: u64) -> (Batch, u64) {
        let (mut batch, mut expired, mut rest) = (Batch::new(), 0, &self.bytes[..]);
        for &GatheredPair { key_len, value_len, expires } in &self.pairs {
            let (pair, after) = rest.split_at(key_len + value_len);
            let (key, value) = pair.split_at(key_len);
            rest = after;
            match (ttl, expires) {
                (Some(ttl), _) => batch.put_with(key, value, ttl),
                (None, None) => batch.put(key, value),
                (None, Some(at)) if at > now => {
                    batch.put_with(key, value, Duration::from_millis(at - now))
                }
                (None, Some(_)) => {
                    expired += 1;
                    batch.delete(key)
                }
            };
        }
        (batch, expired)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.pairs.clear();
    }
}

/// Gathers pairs and writes them in batches.
struct Loader<'a> {
    store: &'a Store,
    args: &'a LoadArgs,
    gathered: Gathered,
    pairs: u64,
    /// Pairs that had expired before they were loaded.
    expired: u64,
    written: Arc<AtomicU64>,
}

impl Loader<'_> {
    fn add(&mut self, pair: NewPair<'_>) -> Result<()> {
        let key = &pair.key;
        // Checked here rather than when the batch is written, so that the error names the line.
        if key.is_empty() || key.len() > usize::from(u16::MAX) {
            bail!("a key of {}; 1 to 65535 are allowed", counted(key.len() as u64, "byte"));
        }
        self.gathered.add(&pair);
        self.pairs += 1;
        let bytes = self.gathered.bytes.len() as u64;
        if bytes >= self.args.batch_bytes { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let (batch, expired) = self.gathered.batch(self.args.ttl, now());
        self.store.write(&batch)?;
        self.expired += expired;
        self.gathered.clear();
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

    /// Loads all pairs, or those before an error. What came of reading, and of writing all that was read.
    fn load(&mut self, input: impl BufRead, layout: &Layout) -> [Result<()>; 2] {
        let read = read(input, layout, &mut |pair| self.add(pair));
        [read, self.flush()]
    }
}

/// In milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn load(args: &LoadArgs) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let (input, total) = open_input(&args.file)?;
    let started = Instant::now();
    let store = create(&args.dir, &args.writing.options())?;
    let written = Arc::new(AtomicU64::new(0));
    let progress = progress(total, written.clone());
    let input = progress.wrap_read(interrupt.guard(input));
    let input = BufReader::with_capacity(1 << 20, input);
    let Loaded { pairs, expired, read, written } = load_lines(&store, input, args, written);
    progress.finish_and_clear();
    let stats = store.stats();
    // Also what was loaded before an error is on the device then.
    let closed = store.close();
    // More than that a signal came, too.
    written?;
    if read.is_ok() || interrupt.came() {
        closed?;
    }
    interrupt.or_stopped(read, || {
        format!("{} loaded, and on the device; the rest was not read", counted(pairs, "pair"))
    })?;
    report(&stats, pairs, expired, progress.position(), started)
}

/// What came of loading.
pub(crate) struct Loaded {
    /// Pairs that are in the store.
    pub(crate) pairs: u64,
    /// How many of them had expired before.
    pub(crate) expired: u64,
    /// The first line that could not be read.
    pub(crate) read: Result<()>,
    /// Whether all that was read could be written.
    pub(crate) written: Result<()>,
}

/// Loads all lines of the input, or those before an error. `written` counts along.
pub(crate) fn load_lines(
    store: &Store,
    input: impl BufRead,
    args: &LoadArgs,
    written: Arc<AtomicU64>,
) -> Loaded {
    let gathered = Gathered::default();
    let mut loader = Loader { store, args, gathered, pairs: 0, expired: 0, written };
    let results = loader.load(input, &args.layout());
    // ORDERING: Relaxed; this thread stored it.
    let (pairs, expired) = (loader.written.load(Relaxed), loader.expired);
    let [read, written] = results.map(|result| {
        let stopped = || format!("stopped after loading {}", counted(pairs, "pair"));
        result.with_context(stopped).with_context(|| match &args.file {
            input if input == Path::new("-") => "standard input".to_owned(),
            file => file.display().to_string(),
        })
    });
    Loaded { pairs, expired, read, written }
}

/// Says on standard error what was loaded and how fast.
fn report(stats: &Stats, pairs: u64, expired: u64, bytes: u64, started: Instant) -> Result<()> {
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
    if expired > 0 {
        writeln!(err, "{} of them had expired before, and left out", HumanCount(expired))?;
    }
    if stats.merges.merges > 0 {
        writeln!(err, "merges meanwhile: {}", super::stat::merges_line(&stats.merges))?;
    }
    Ok(())
}
