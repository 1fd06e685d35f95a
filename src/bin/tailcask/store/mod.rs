//! The store's part of the command line.

mod damage;
mod export;
mod input;
mod load;
mod repair;
mod stat;
mod text;
mod upkeep;

use crate::output;
use crate::units::{durability, size, time};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tailcask::{Durability, OpenError, ReadError, ReadView, Store, StoreOptions, WriteOptions};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Load keys and values from TSV, CSV or NDJSON
    #[command(after_long_help = load::HELP)]
    Load(load::Load),
    /// Print a key's value; exit code 1 if it has none
    ///
    /// The bytes are printed as they are. Only a terminal gets a newline after them.
    Get(Key),
    /// Set a key's value
    Put(Put),
    /// Remove a key; exit code 1 if it was not there
    Delete(Delete),
    /// Print keys and values, in no particular order
    Scan(export::Scan),
    /// Print how many keys there are, those left out that have expired
    Count(Dir),
    /// Print what is in the store, and what it takes
    #[command(after_long_help = stat::HELP)]
    Stat(stat::Stat),
    /// Give back the space of what was overwritten, deleted or has expired
    Merge(upkeep::Merge),
    /// Check every checksum of a store or a backup; exit code 3 names the first damage
    ///
    /// Reads everything, values that are not the newest included, then looks every key up. Of a store
    /// that a program has open, what is there now. Nothing is changed: what a crash left is judged as it
    /// will be when the store is opened for writing.
    Verify(Dir),
    /// Make a backup in a new directory; it opens as a store
    Backup(upkeep::Backup),
    /// Make a good store of a damaged one, in a new directory; exit code 3 if something is lost
    #[command(after_long_help = repair::HELP)]
    Repair(repair::Repair),
    /// Write all keys and values as TSV, CSV or NDJSON, which `load` reads back
    #[command(after_long_help = export::HELP)]
    Export(export::Export),
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
    key: OsString,
}

#[derive(Args)]
pub(crate) struct Put {
    /// The store's directory; made if it is missing
    dir: PathBuf,
    /// The key
    key: OsString,
    /// The value; `-` reads standard input to its end
    #[arg(required_unless_present = "file")]
    value: Option<OsString>,
    /// Take the value from a file
    #[arg(long, conflicts_with = "value")]
    file: Option<PathBuf>,
    /// How long the value is there: 500ms, 90s, 15m, 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// Only set it if the key has no value; exit code 1 if it has one
    #[arg(long, conflicts_with = "ttl")]
    if_absent: bool,
    /// Also where the key, or its value, is damaged: what is damaged is given up
    #[arg(long, conflicts_with = "if_absent")]
    force: bool,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    key: Key,
    /// Also where the key, or its value, is damaged: what is damaged is given up
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    writing: Writing,
}

/// How a store is written to.
#[derive(Args)]
struct Writing {
    /// Bytes of a segment, in steps of 2MiB, below 4GiB; those that are there stay as they are
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    segment_size: u64,
    /// When a write counts as done: `buffered`, `synced`, or a time
    ///
    /// buffered: once it is in the page cache, where it survives the death of the process. synced:
    /// once it is on the device. A time, such as 500ms: as buffered, with a sync this often. When
    /// the command has ended without an error, all is on the device in any case.
    #[arg(long, value_name = "WHEN", default_value = "buffered", value_parser = durability)]
    durability: Durability,
    /// The same as --durability synced
    #[arg(long, conflicts_with = "durability")]
    sync: bool,
}

impl Writing {
    fn durability(&self) -> Durability {
        if self.sync { Durability::Synced } else { self.durability }
    }

    fn options(&self) -> StoreOptions {
        Store::options().segment_size(self.segment_size).durability(self.durability())
    }
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Load(args) => load::load(args).map(done),
        Command::Get(args) => get(args),
        Command::Put(args) => put(args),
        Command::Delete(args) => delete(args),
        Command::Scan(args) => export::scan(args),
        Command::Count(args) => count(&args.dir).map(done),
        Command::Stat(args) => stat::stat(args).map(done),
        Command::Merge(args) => upkeep::merge(args).map(done),
        Command::Verify(args) => upkeep::verify(&args.dir).map(done),
        Command::Backup(args) => upkeep::backup(args).map(done),
        Command::Repair(args) => repair::repair(args),
        Command::Export(args) => export::export(args),
    }
}

/// 1 is for keys that are not there, as with grep.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.chain().any(upkeep::is_damage) { 3 } else { 2 })
}

/// Opens a store for reading only: also while a program has it open, and without a trace.
fn open(dir: &Path) -> Result<ReadView> {
    told(dir, Store::open_read_only(dir))
}

/// Opens a store that is there: a typing error makes none.
fn open_with(dir: &Path, options: &StoreOptions) -> Result<Store> {
    if is_missing(dir)? {
        bail!(no_store(dir));
    }
    create(dir, options)
}

/// Whether there is nothing that is, or was, a store.
fn is_missing(dir: &Path) -> Result<bool> {
    let named = || format!("{}", dir.display());
    let names = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other.with_context(named)?,
    };
    for name in names {
        let path = name.with_context(named)?.path();
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        // Where segments are and no MANIFEST, opening says so.
        if is_segment || path.file_name().is_some_and(|name| name == "MANIFEST") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn no_store(dir: &Path) -> String {
    format!("there is no store in {}", dir.display())
}

/// Says which store an error is about.
fn told<T>(dir: &Path, opened: Result<T, OpenError>) -> Result<T> {
    match opened {
        Err(OpenError::NotFound { .. }) => bail!(no_store(dir)),
        other => other.with_context(|| format!("{}", dir.display())),
    }
}

fn create(dir: &Path, options: &StoreOptions) -> Result<Store> {
    told(dir, options.open(dir))
}

fn get(args: &Key) -> Result<ExitCode> {
    let store = open(&args.dir)?;
    let Some(value) = store.get(args.key.as_bytes())? else { return Ok(ExitCode::FAILURE) };
    let mut out = output();
    out.write_all(&value)?;
    if io::stdout().is_terminal() {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn value_of(args: &Put) -> Result<Vec<u8>> {
    match (&args.file, &args.value) {
        (Some(file), _) => std::fs::read(file).with_context(|| format!("{}", file.display())),
        (None, Some(value)) if value != "-" => Ok(value.as_bytes().to_vec()),
        _ => {
            let mut value = Vec::new();
            io::stdin().read_to_end(&mut value).context("standard input")?;
            Ok(value)
        }
    }
}

fn put(args: &Put) -> Result<ExitCode> {
    let value = value_of(args)?;
    let store = create(&args.dir, &args.writing.options())?;
    let key = args.key.as_bytes();
    let was_put = if args.if_absent {
        store.put_if_absent(key, value)?
    } else {
        if args.force {
            give_up_damaged(&store, key)?;
        }
        let options = args.ttl.map_or_else(WriteOptions::new, |ttl| WriteOptions::new().ttl(ttl));
        store.put_with(key, value, &options)?;
        true
    };
    store.close()?;
    Ok(if was_put { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Removes a key whose newest version cannot be read.
fn give_up_damaged(store: &Store, key: &[u8]) -> Result<()> {
    match store.contains_key(key) {
        Err(ReadError::Corrupt(damage)) => {
            store.delete_damaged(key)?;
            writeln!(io::stderr(), "tailcask: given up: {damage}")?;
        }
        other => _ = other?,
    }
    Ok(())
}

fn delete(args: &Delete) -> Result<ExitCode> {
    let store = open_with(&args.key.dir, &args.writing.options())?;
    let key = args.key.key.as_bytes();
    let was_there = if args.force { store.delete_damaged(key)? } else { store.delete(key)? };
    store.close()?;
    Ok(if was_there { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn count(dir: &Path) -> Result<()> {
    let mut out = output();
    // Not `len`, which counts what has expired too.
    let mut keys = 0u64;
    for key in open(dir)?.keys() {
        key?;
        keys += 1;
    }
    writeln!(out, "{keys}")?;
    Ok(out.flush()?)
}
