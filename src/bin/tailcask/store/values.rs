//! `get`, `put`, `delete` and `count`.

use super::open::{StoreDir, WritingArgs, create, open, open_existing};
use crate::encoding::Encoding;
use crate::exit::answer;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use crate::units::{counted, ttl};
use anyhow::{Context, Result};
use clap::Args;
use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tailcask::{ReadError, WriteError, WriteOptions};

#[derive(Args)]
pub(crate) struct KeyArgs {
    /// The store's directory
    pub(super) dir: PathBuf,
    /// The key
    key: OsString,
    /// How KEY is given
    #[arg(long, value_name = "ENCODING", value_enum, default_value = "raw")]
    key_encoding: Encoding,
}

impl KeyArgs {
    /// The key, or an error if none can be like that: before a store is made for it.
    fn key(&self) -> Result<Cow<'_, [u8]>> {
        let key = self.key_encoding.decode_argument(self.key.as_bytes(), "the key")?;
        if key.is_empty() || key.len() > usize::from(u16::MAX) {
            return Err(WriteError::KeyLength { len: key.len() }.into());
        }
        Ok(key)
    }
}

#[derive(Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(super) key: KeyArgs,
    /// How to print the value
    #[arg(long, value_name = "ENCODING", value_enum, default_value = "raw")]
    value_encoding: Encoding,
}

#[derive(Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    pub(super) key: KeyArgs,
    /// The value; `-` reads all of standard input
    #[arg(required_unless_present = "file")]
    value: Option<OsString>,
    /// Read the value from a file
    #[arg(long, conflicts_with = "value")]
    file: Option<PathBuf>,
    /// How the value is given
    #[arg(long, value_name = "ENCODING", value_enum, default_value = "raw")]
    value_encoding: Encoding,
    /// Time until the value expires: 500ms, 90s, 15m, 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    ttl: Option<Duration>,
    /// Set the value only if the key has none; exit code 1 if it has one
    #[arg(long, conflicts_with = "ttl")]
    if_absent: bool,
    /// Set the value even if the current one is damaged, which gives that one up
    #[arg(long, conflicts_with = "if_absent")]
    force: bool,
    #[command(flatten)]
    writing: WritingArgs,
}

#[derive(Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(super) key: KeyArgs,
    /// Delete the key even if its value is damaged, which gives that value up
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    writing: WritingArgs,
}

pub(super) fn get(args: &GetArgs) -> Result<ExitCode> {
    let key = args.key.key()?;
    let store = open(&args.key.dir)?;
    let Some(value) = store.get(&key)? else { return Ok(answer(false)) };
    let mut out = output();
    out.write_all(&args.value_encoding.encode(&value))?;
    if args.value_encoding != Encoding::Raw || io::stdout().is_terminal() {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(answer(true))
}

pub(super) fn put(args: &PutArgs) -> Result<ExitCode> {
    let key = args.key.key()?;
    let value = value_of(args)?;
    let value = args.value_encoding.decode_argument(&value, "the value")?;
    let store = create(&args.key.dir, &args.writing.options())?;
    let was_put = if args.if_absent {
        store.put_if_absent(&key, value)?
    } else {
        let options = args.ttl.map_or_else(WriteOptions::new, |ttl| WriteOptions::new().ttl(ttl));
        match store.put_with(&key, &value, &options) {
            // Given up only now: nothing else is wrong with what was asked for.
            Err(WriteError::Read(ReadError::Corrupt(damage))) if args.force => {
                store.delete_damaged(&key)?;
                store.put_with(&key, &value, &options)?;
                // It is done, whether anybody hears of it or not.
                let _ = writeln!(io::stderr(), "tailcask: gave up a damaged value: {damage}");
            }
            other => _ = other?,
        }
        true
    };
    store.close()?;
    Ok(answer(was_put))
}

fn value_of(args: &PutArgs) -> Result<Vec<u8>> {
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

pub(super) fn delete(args: &DeleteArgs) -> Result<ExitCode> {
    let key = args.key.key()?;
    let store = open_existing(&args.key.dir, &args.writing.options())?;
    let was_there = if args.force { store.delete_damaged(&key)? } else { store.delete(&key)? };
    store.close()?;
    Ok(answer(was_there))
}

pub(super) fn count(args: &StoreDir) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let keys = AtomicU64::new(0);
    // `len` would count expired keys too.
    let count = || {
        for key in open(&args.dir)?.keys() {
            key?;
            // ORDERING: Relaxed; only a figure to show, until the thread is joined.
            keys.fetch_add(1, Relaxed);
        }
        anyhow::Ok(())
    };
    // ORDERING: Relaxed; the figure is only shown.
    let done = || format!("{} counted", counted(keys.load(Relaxed), "key"));
    interrupt.beside_reading(count, done)?;
    let mut out = output();
    writeln!(out, "{}", keys.into_inner())?;
    Ok(out.flush()?)
}
