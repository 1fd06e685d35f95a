//! `scan` and `export`: keys and values become text.

use super::damage::Source;
use super::input::Format;
use super::text::{to_base64, write_escaped};
use crate::output;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tailcask::Pair;

pub(super) const HELP: &str = "\
TSV: key, tab, value; \\t, \\n, \\r and \\\\ stand for a tab, a newline, a carriage return and a \
backslash. Back with: load --key 1 --value 2
CSV: a header line \"key,value\", quotes where they are needed. Back with: load --key key --value value
NDJSON: {\"key\":...,\"value\":...}; what is not UTF-8 comes as base64 in \"key_base64\" or \
\"value_base64\". Back with: load --key key --value value

All three take any bytes there and back. TSV and CSV pass bytes through that are not UTF-8; where \
other programs cannot take those, --base64 makes all keys and values base64, here and with load. Times \
to live are left out: what has expired is not exported, and what has not is loaded for good.";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Key, tab, value, newline; \t, \n, \r and \\ inside them as two characters each
    Text,
    /// A JSON object a line; bytes that are not UTF-8 as base64, in "key_base64", "value_base64"
    Json,
    /// Bytes as they are, with nothing between them
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
    /// Only keys that begin with this; all are looked at, for the store has no order
    #[arg(long)]
    prefix: Option<String>,
    /// Go on past damage, and say on standard error what was left out; exit code 4 if anything was
    #[arg(long)]
    skip_damaged: bool,
}

#[derive(Args)]
pub(crate) struct Export {
    /// The store's directory
    dir: PathBuf,
    /// Where to write; `-` is standard output. A file that is there is overwritten
    #[arg(default_value = "-")]
    file: PathBuf,
    /// What to write; else what the file's name ends with says, or TSV
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write keys and values as base64
    #[arg(long)]
    base64: bool,
    /// Go on past damage, and say on standard error what was left out; exit code 4 if anything was
    #[arg(long)]
    skip_damaged: bool,
}

/// A key, a value, or both.
type Parts<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

pub(super) fn scan(args: &Scan) -> Result<ExitCode> {
    let mut store = Source::open(&args.dir, args.skip_damaged)?;
    let mut out = output();
    let prefix = args.prefix.as_deref().unwrap_or_default().as_bytes();
    let mut left = args.limit.unwrap_or(usize::MAX);
    let print = |pair: &Pair<'_>| {
        if left == 0 {
            return Ok(ControlFlow::Break(()));
        }
        if !pair.key().starts_with(prefix) {
            return Ok(ControlFlow::Continue(()));
        }
        left -= 1;
        let key = (args.what != What::Values).then(|| pair.key());
        let value = (args.what != What::Keys).then(|| pair.value());
        match args.format {
            Output::Text => write_text(&mut out, (key, value))?,
            Output::Json => write_json(&mut out, (key, value))?,
            Output::Raw => {
                out.write_all(key.unwrap_or_default())?;
                out.write_all(value.unwrap_or_default())?;
            }
        }
        Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let done = store.each(print);
    // What was sound is printed before the error is.
    out.flush()?;
    done?;
    store.finish()
}

pub(super) fn export(args: &Export) -> Result<ExitCode> {
    let mut store = Source::open(&args.dir, args.skip_damaged)?;
    if args.file == Path::new("-") {
        export_to(output(), &mut store, args)?;
        return store.finish();
    }
    let named = || format!("{}", args.file.display());
    let file = File::create(&args.file).with_context(named)?;
    let file = BufWriter::with_capacity(1 << 20, file);
    export_to(file, &mut store, args).with_context(named)?;
    store.finish()
}

fn export_to(mut out: impl Write, store: &mut Source, args: &Export) -> Result<()> {
    let format = args.format.or_else(|| Format::of(&args.file)).unwrap_or(Format::Tsv);
    if format == Format::Csv {
        return export_csv(out, store, args.base64);
    }
    store.each(|pair| {
        let (key, value) = encoded(pair.key(), pair.value(), args.base64);
        let parts = (Some(&*key), Some(&*value));
        match format {
            Format::Ndjson => write_json(&mut out, parts)?,
            _ => write_text(&mut out, parts)?,
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out.flush()?)
}

fn export_csv(out: impl Write, store: &mut Source, base64: bool) -> Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(["key", "value"]).map_err(cause)?;
    store.each(|pair| {
        let (key, value) = encoded(pair.key(), pair.value(), base64);
        writer.write_record([&*key, &*value]).map_err(cause)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(writer.flush()?)
}

/// The error below, which may be that of a closed pipe.
fn cause(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

type Bytes<'a> = std::borrow::Cow<'a, [u8]>;

fn encoded<'a>(key: &'a [u8], value: &'a [u8], base64: bool) -> (Bytes<'a>, Bytes<'a>) {
    let encode = |bytes: &'a [u8]| -> Bytes<'a> {
        if base64 { to_base64(bytes).into_bytes().into() } else { bytes.into() }
    };
    (encode(key), encode(value))
}

fn write_text(out: &mut impl Write, (key, value): Parts<'_>) -> io::Result<()> {
    write_escaped(out, key.unwrap_or_default())?;
    if key.is_some() && value.is_some() {
        out.write_all(b"\t")?;
    }
    write_escaped(out, value.unwrap_or_default())?;
    out.write_all(b"\n")
}

fn write_json(out: &mut impl Write, (key, value): Parts<'_>) -> io::Result<()> {
    let mut before = b'{';
    for (name, bytes) in [("key", key), ("value", value)] {
        let Some(bytes) = bytes else { continue };
        out.write_all(&[before])?;
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                write!(out, "\"{name}\":")?;
                serde_json::to_writer(&mut *out, text)?;
            }
            Err(_) => write!(out, "\"{name}_base64\":\"{}\"", to_base64(bytes))?,
        }
        before = b',';
    }
    out.write_all(b"}\n")
}
