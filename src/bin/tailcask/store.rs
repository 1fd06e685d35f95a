//! The store's part of the command line.

use crate::{output, progress};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tailcask::{Batch, Store};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Load keys and values from a file
    Load(Load),
    /// Print a key's value; exit code 1 if it has none
    Get(Key),
    /// Set a key's value
    Put(Put),
    /// Remove a key; exit code 1 if it was not there
    Delete(Key),
    /// Print all keys and values, in no particular order
    Scan(Scan),
    /// Print how many keys there are
    Count(Dir),
}

#[derive(Args)]
pub(crate) struct Dir {
    /// The store's directory
    dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct Key {
    /// The store's directory
    dir: PathBuf,
    /// The key
    key: String,
}

#[derive(Args)]
pub(crate) struct Put {
    /// The store's directory; made if it is missing
    dir: PathBuf,
    /// The key
    key: String,
    /// The value; `-` reads standard input to its end
    value: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Input {
    /// Columns with tabs between them, counted from 1
    Tsv,
    /// Columns with commas between them, with names in the first line
    Csv,
    /// A JSON object a line
    Ndjson,
}

#[derive(Args)]
pub(crate) struct Load {
    /// The store's directory; made if it is missing
    dir: PathBuf,
    /// Where the lines come from; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// What the lines are
    #[arg(long, value_enum, default_value = "tsv")]
    format: Input,
    /// The key's column or field
    #[arg(long, default_value = "1")]
    key: String,
    /// The value's column or field; without it the value is the whole line
    #[arg(long)]
    value: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Key, tab, value, newline
    Text,
    /// A JSON object a line; bytes that are not UTF-8 are replaced
    Json,
    /// Bytes with nothing between them
    Raw,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Keys,
    Values,
    Both,
}

#[derive(Args)]
pub(crate) struct Scan {
    /// The store's directory
    dir: PathBuf,
    /// What to print
    #[arg(long, value_enum, default_value = "both")]
    what: What,
    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    format: Output,
    /// Print at most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Load(args) => load(args),
        Command::Get(args) => get(args),
        Command::Put(args) => put(args),
        Command::Delete(args) => delete(args),
        Command::Scan(args) => scan(args),
        Command::Count(args) => count(&args.dir),
    }
}

/// Opens a store that is there; a typing error makes none.
fn open(dir: &Path) -> Result<Store> {
    if !dir.join("MANIFEST").exists() {
        bail!("there is no store in {}", dir.display());
    }
    create(dir)
}

fn create(dir: &Path) -> Result<Store> {
    Store::open(dir).with_context(|| format!("{}", dir.display()))
}

fn get(args: &Key) -> Result<ExitCode> {
    let store = open(&args.dir)?;
    let Some(value) = store.get(&args.key)? else { return Ok(ExitCode::FAILURE) };
    let mut out = output();
    out.write_all(&value)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn put(args: &Put) -> Result<ExitCode> {
    let mut value = args.value.clone().into_bytes();
    if args.value == "-" {
        value.clear();
        io::stdin().read_to_end(&mut value)?;
    }
    let store = create(&args.dir)?;
    store.put(&args.key, value)?;
    store.close()?;
    Ok(ExitCode::SUCCESS)
}

fn delete(args: &Key) -> Result<ExitCode> {
    let store = open(&args.dir)?;
    let was_there = store.delete(&args.key)?;
    store.close()?;
    Ok(if was_there { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn count(dir: &Path) -> Result<ExitCode> {
    let mut out = output();
    // Not `len`, which counts what has expired too.
    let mut keys = 0u64;
    for key in open(dir)?.keys() {
        key?;
        keys += 1;
    }
    writeln!(out, "{keys}")?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn scan(args: &Scan) -> Result<ExitCode> {
    let store = open(&args.dir)?;
    let mut out = output();
    for pair in store.iter().take(args.limit.unwrap_or(usize::MAX)) {
        let pair = pair?;
        print(&mut out, args, pair.key(), pair.value())?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, args: &Scan, key: &[u8], value: &[u8]) -> Result<()> {
    let (key, value) =
        ((args.what != What::Values).then_some(key), (args.what != What::Keys).then_some(value));
    if args.format == Output::Json {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut object = serde_json::Map::new();
        key.map(|key| object.insert("key".into(), text(key).into()));
        value.map(|value| object.insert("value".into(), text(value).into()));
        return Ok(writeln!(out, "{}", serde_json::Value::Object(object))?);
    }
    out.write_all(key.unwrap_or_default())?;
    let separate = args.format == Output::Text;
    if separate && key.is_some() && value.is_some() {
        out.write_all(b"\t")?;
    }
    out.write_all(value.unwrap_or_default())?;
    if separate {
        out.write_all(b"\n")?;
    }
    Ok(())
}

// ---- load ----

/// Gathers pairs, and writes them in batches.
struct Loader<'a> {
    store: &'a Store,
    progress: &'a ProgressBar,
    batch: Batch,
    bytes: u64,
    pairs: u64,
}

impl Loader<'_> {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.batch.put(key, value);
        self.bytes += (key.len() + value.len()) as u64 + 1;
        self.pairs += 1;
        if self.bytes >= 64 << 10 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.store.write(&self.batch)?;
        self.batch = Batch::new();
        self.progress.inc(std::mem::take(&mut self.bytes));
        Ok(())
    }
}

fn load(args: &Load) -> Result<ExitCode> {
    let (input, total): (Box<dyn BufRead>, _) = if args.file == Path::new("-") {
        (Box::new(BufReader::with_capacity(1 << 20, io::stdin())), None)
    } else {
        let file = File::open(&args.file).with_context(|| format!("{}", args.file.display()))?;
        let total = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        (Box::new(BufReader::with_capacity(1 << 20, file)), total)
    };
    let (store, progress) = (create(&args.dir)?, progress(total));
    let mut loader =
        Loader { store: &store, progress: &progress, batch: Batch::new(), bytes: 0, pairs: 0 };
    match args.format {
        Input::Tsv => load_tsv(input, args, &mut loader)?,
        Input::Csv => load_csv(input, args, &mut loader)?,
        Input::Ndjson => load_json(input, args, &mut loader)?,
    }
    loader.flush()?;
    let pairs = loader.pairs;
    progress.finish_and_clear();
    let keys = store.len();
    store.close()?;
    writeln!(io::stderr(), "{pairs} pairs loaded, {keys} keys in the store")?;
    Ok(ExitCode::SUCCESS)
}

fn load_tsv(mut input: impl BufRead, args: &Load, loader: &mut Loader<'_>) -> Result<()> {
    let column = |text: &str| match text.parse::<usize>() {
        Ok(number) if number > 0 => Ok(number - 1),
        _ => bail!("{text:?} is not the number of a column"),
    };
    let key = column(&args.key)?;
    let value = args.value.as_deref().map(column).transpose()?;
    let (mut line, mut number) = (Vec::new(), 0u64);
    while crate::read_line(&mut input, &mut line)? {
        number += 1;
        let field = |at: usize| {
            let field = line.split(|&b| b == b'\t').nth(at);
            field.with_context(|| format!("line {number} has no column {}", at + 1))
        };
        let key = field(key)?;
        let value = value.map_or(Ok(&line[..]), field)?;
        loader.add(key, value).with_context(|| format!("line {number}"))?;
    }
    Ok(())
}

fn load_csv(input: impl Read, args: &Load, loader: &mut Loader<'_>) -> Result<()> {
    let mut reader = csv::Reader::from_reader(input);
    let names = reader.byte_headers()?.clone();
    let column = |name: &str| {
        let by_name = names.iter().position(|field| field == name.as_bytes());
        let by_number = name.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        let found = by_name.or(by_number.filter(|&n| n < names.len()));
        found.with_context(|| format!("there is no column {name:?}"))
    };
    let key = column(&args.key)?;
    let value = args.value.as_deref().map(column).transpose()?;
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record)? {
        let line = record.position().map_or(0, csv::Position::line);
        let whole: Vec<u8>;
        let value = match value {
            Some(value) => &record[value],
            None => {
                whole = record.iter().collect::<Vec<_>>().join(&b","[..]);
                &whole
            }
        };
        loader.add(&record[key], value).with_context(|| format!("line {line}"))?;
    }
    Ok(())
}

fn load_json(mut input: impl BufRead, args: &Load, loader: &mut Loader<'_>) -> Result<()> {
    let (mut line, mut number) = (Vec::new(), 0u64);
    while crate::read_line(&mut input, &mut line)? {
        number += 1;
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&line).with_context(|| format!("line {number}"))?;
        let field = |name: &str| match object.get(name) {
            Some(serde_json::Value::String(text)) => Ok(text.clone().into_bytes()),
            Some(other) => Ok(other.to_string().into_bytes()),
            None => bail!("line {number} has no field {name:?}"),
        };
        let key = field(&args.key)?;
        let value = args.value.as_deref().map_or_else(|| Ok(line.clone()), field)?;
        loader.add(&key, &value).with_context(|| format!("line {number}"))?;
    }
    Ok(())
}
