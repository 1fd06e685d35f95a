//! `scan` and `export`: keys and values become text.

use super::input::Format;
use super::pairs::PairSource;
use super::text::{to_base64, write_escaped};
use crate::stdio::output;
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
backslash. To load it: load --key 1 --value 2
CSV: a header line \"key,value\", quotes where needed. To load it: load --key key --value value
NDJSON: {\"key\":...,\"value\":...}; bytes that are not UTF-8 as base64, in \"key_base64\" or \
\"value_base64\". To load it: load --key key --value value

All three formats keep any bytes. TSV and CSV contain bytes that are not UTF-8 as they are; for programs \
that cannot read those, --base64 writes all keys and values as base64, and load --base64 reads them. \
Expiry times are not exported: expired pairs are left out, and the others do not expire once loaded.";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScanFormat {
    /// Key, tab, value, newline; inside them \t, \n, \r and \\ as two characters each
    Text,
    /// One JSON object per line; bytes that are not UTF-8 as base64, in "key_base64", "value_base64"
    Json,
    /// The bytes as they are, with nothing between them
    Raw,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Keys,
    Values,
    Both,
}

#[derive(Args)]
pub(crate) struct ScanArgs {
    /// The store's directory
    dir: PathBuf,
    /// What to print
    #[arg(long, value_enum, default_value = "both")]
    what: What,
    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    format: ScanFormat,
    /// Print at most N pairs
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print only keys with this prefix. Reads every key: the store keeps no order
    #[arg(long)]
    prefix: Option<String>,
    /// Leave out what is damaged and list it on standard error; exit code 4 if there was any
    #[arg(long)]
    skip_damaged: bool,
}

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// The store's directory
    dir: PathBuf,
    /// The file to write, overwritten if it exists; `-` is standard output
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The format to write. Default: by the file's extension, otherwise TSV
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write keys and values as base64
    #[arg(long)]
    base64: bool,
    /// Leave out what is damaged and list it on standard error; exit code 4 if there was any
    #[arg(long)]
    skip_damaged: bool,
}

/// A key, a value, or both.
type Parts<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

pub(super) fn scan(args: &ScanArgs) -> Result<ExitCode> {
    let mut store = PairSource::open(&args.dir, args.skip_damaged)?;
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
            ScanFormat::Text => write_text(&mut out, (key, value))?,
            ScanFormat::Json => write_json(&mut out, (key, value))?,
            ScanFormat::Raw => {
                out.write_all(key.unwrap_or_default())?;
                out.write_all(value.unwrap_or_default())?;
            }
        }
        Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let done = store.each(print);
    // Print the pairs before the damage, then the error.
    out.flush()?;
    done?;
    store.finish()
}

pub(super) fn export(args: &ExportArgs) -> Result<ExitCode> {
    let mut store = PairSource::open(&args.dir, args.skip_damaged)?;
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

fn export_to(mut out: impl Write, store: &mut PairSource, args: &ExportArgs) -> Result<()> {
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

fn export_csv(out: impl Write, store: &mut PairSource, base64: bool) -> Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(["key", "value"]).map_err(cause)?;
    store.each(|pair| {
        let (key, value) = encoded(pair.key(), pair.value(), base64);
        writer.write_record([&*key, &*value]).map_err(cause)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(writer.flush()?)
}

/// The I/O error inside, which `main` recognizes if it is that of a closed pipe.
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
