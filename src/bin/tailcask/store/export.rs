//! `scan` and `export`: keys and values become text.

use super::input::{EXPIRES, EXPIRES_MS, Format};
use super::pairs::PairSource;
use crate::encoding::Encoding;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use crate::text::write_escaped;
use crate::units::counted;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;
use tailcask::Pair;

pub(super) const HELP: &str = "\
`load` reads what `export` writes, without further options, and gives the same pairs, whatever bytes they \
are made of, with the same expiry times. Expired pairs are left out.

TSV: key, tab, value; \\t, \\n, \\r and \\\\ stand for a tab, a newline, a carriage return and a \
backslash. If the pair expires, a third column says when: expires=1767225600000, in milliseconds since 1970
CSV: a header line \"key,value,expires_ms\", quotes where needed; the third column is empty if the pair \
does not expire
NDJSON: {\"key\":...,\"value\":...}, and \"expires_ms\" if the pair expires; bytes that are not UTF-8 as \
base64, in \"key_base64\" or \"value_base64\"

TSV and CSV contain bytes that are not UTF-8 as they are; for programs that cannot read those, --base64 \
writes all keys and values as base64, and load --base64 reads them.";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScanFormat {
    /// Key, tab, value, newline; inside them \t, \n, \r and \\ as two characters each
    Text,
    /// One JSON object per line; bytes that are not UTF-8 as base64, in "key_base64", "value_base64"
    #[value(alias = "ndjson")]
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
    pub(super) dir: PathBuf,
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
    prefix: Option<OsString>,
    /// How to print keys, and how the prefix is given
    #[arg(long, value_name = "ENCODING", value_enum, default_value = "raw")]
    key_encoding: Encoding,
    /// How to print values
    #[arg(long, value_name = "ENCODING", value_enum, default_value = "raw")]
    value_encoding: Encoding,
    /// Leave out what is damaged and list it on standard error; exit code 4 if there was any
    #[arg(long)]
    skip_damaged: bool,
}

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// The store's directory
    pub(super) dir: PathBuf,
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

pub(super) fn scan(args: &ScanArgs) -> Result<ExitCode> {
    let prefix = args.prefix.as_ref().map(|prefix| prefix.as_bytes()).unwrap_or_default();
    let prefix = args.key_encoding.decode_argument(prefix, "the prefix")?;
    let interrupt = Interrupt::watch()?;
    let mut store = PairSource::open(&args.dir, args.skip_damaged)?;
    let mut out = output();
    let (mut left, mut printed) = (args.limit.unwrap_or(usize::MAX), 0);
    let print = |pair: &Pair<'_>| {
        interrupt.check()?;
        if left == 0 {
            return Ok(ControlFlow::Break(()));
        }
        if !pair.key().starts_with(&prefix) {
            return Ok(ControlFlow::Continue(()));
        }
        left -= 1;
        printed += 1;
        let key = Part { bytes: pair.key(), encoding: args.key_encoding };
        let value = Part { bytes: pair.value(), encoding: args.value_encoding };
        let key = (args.what != What::Values).then_some(key);
        let value = (args.what != What::Keys).then_some(value);
        let row = Row { key, value, expires: None };
        match args.format {
            ScanFormat::Text => row.write_text(&mut out)?,
            ScanFormat::Json => row.write_json(&mut out)?,
            ScanFormat::Raw => {
                for part in [row.key, row.value].into_iter().flatten() {
                    out.write_all(&part.encoding.encode(part.bytes))?;
                }
            }
        }
        Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let done = store.each(print);
    // Print the pairs before the damage, then the error.
    out.flush()?;
    interrupt.or_stopped(done, || format!("{} printed", counted(printed, "pair")))?;
    store.finish()
}

pub(super) fn export(args: &ExportArgs) -> Result<ExitCode> {
    let interrupt = Interrupt::watch()?;
    let mut store = PairSource::open(&args.dir, args.skip_damaged)?;
    let mut pairs = 0;
    let exported = export_while(&mut store, args, &mut || {
        interrupt.check()?;
        pairs += 1;
        Ok(())
    });
    interrupt.or_stopped(exported, || {
        let place = match &args.file {
            output if output == Path::new("-") => "the output".to_owned(),
            file => file.display().to_string(),
        };
        format!("{} exported; {place} is incomplete", counted(pairs, "pair"))
    })?;
    store.finish()
}

/// Called before each pair; after an error no more are exported.
type Before<'s> = &'s mut dyn FnMut() -> Result<()>;

fn export_while(store: &mut PairSource, args: &ExportArgs, before: Before<'_>) -> Result<()> {
    let format = args.format.or_else(|| Format::of(&args.file)).unwrap_or(Format::Tsv);
    let encoding = if args.base64 { Encoding::Base64 } else { Encoding::Raw };
    let mut each = |visit: Visit<'_>| {
        store.each(|pair| {
            before()?;
            visit(pair)?;
            Ok(ControlFlow::Continue(()))
        })
    };
    if args.file == Path::new("-") {
        return write_pairs(output(), format, encoding, &mut each);
    }
    let named = || format!("{}", args.file.display());
    let file = File::create(&args.file).with_context(named)?;
    let file = BufWriter::with_capacity(1 << 20, file);
    // What the store says is not of this file.
    let ours = |error: anyhow::Error| {
        if error.is::<io::Error>() { error.context(named()) } else { error }
    };
    write_pairs(file, format, encoding, &mut each).map_err(ours)
}

/// Takes a pair.
pub(crate) type Visit<'v> = &'v mut dyn FnMut(&Pair<'_>) -> Result<()>;

/// Writes the pairs that `each` gives.
pub(crate) fn write_pairs(
    mut out: impl Write,
    format: Format,
    encoding: Encoding,
    each: &mut dyn FnMut(Visit<'_>) -> Result<()>,
) -> Result<()> {
    if format == Format::Csv {
        return write_csv(out, encoding, each);
    }
    each(&mut |pair| {
        let row = Row {
            key: Some(Part { bytes: pair.key(), encoding }),
            value: Some(Part { bytes: pair.value(), encoding }),
            expires: expires_ms(pair),
        };
        match format {
            Format::Ndjson => row.write_json(&mut out)?,
            _ => row.write_text(&mut out)?,
        }
        Ok(())
    })?;
    Ok(out.flush()?)
}

fn write_csv(
    out: impl Write,
    encoding: Encoding,
    each: &mut dyn FnMut(Visit<'_>) -> Result<()>,
) -> Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(["key", "value", EXPIRES_MS]).map_err(cause)?;
    each(&mut |pair| {
        let (key, value) = (encoding.encode(pair.key()), encoding.encode(pair.value()));
        let expires = expires_ms(pair).map(|at| at.to_string()).unwrap_or_default();
        writer.write_record([&*key, &*value, expires.as_bytes()]).map_err(cause)?;
        Ok(())
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

/// When a pair expires, in milliseconds since 1970.
fn expires_ms(pair: &Pair<'_>) -> Option<u64> {
    let since = pair.expires_at()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// A key or a value, and how to print it.
struct Part<'a> {
    bytes: &'a [u8],
    encoding: Encoding,
}

/// What is printed of a pair.
struct Row<'a> {
    key: Option<Part<'a>>,
    value: Option<Part<'a>>,
    /// In milliseconds since 1970.
    expires: Option<u64>,
}

impl Row<'_> {
    fn write_text(self, out: &mut impl Write) -> io::Result<()> {
        let has_both = self.key.is_some() && self.value.is_some();
        if let Some(key) = self.key {
            write_escaped(out, &key.encoding.encode(key.bytes))?;
        }
        if has_both {
            out.write_all(b"\t")?;
        }
        if let Some(value) = self.value {
            write_escaped(out, &value.encoding.encode(value.bytes))?;
        }
        if let Some(at) = self.expires {
            write!(out, "\t{EXPIRES}{at}")?;
        }
        out.write_all(b"\n")
    }

    fn write_json(self, out: &mut impl Write) -> io::Result<()> {
        let mut before = b'{';
        for (name, part) in [("key", self.key), ("value", self.value)] {
            let Some(Part { bytes, mut encoding }) = part else { continue };
            out.write_all(&[before])?;
            if encoding == Encoding::Raw && std::str::from_utf8(bytes).is_err() {
                encoding = Encoding::Base64;
            }
            let encoded = encoding.encode(bytes);
            // What is encoded is ASCII.
            let text = std::str::from_utf8(&encoded).unwrap_or_default();
            write!(out, "\"{name}{}\":", encoding.suffix())?;
            serde_json::to_writer(&mut *out, text)?;
            before = b',';
        }
        if let Some(at) = self.expires {
            write!(out, ",\"{EXPIRES_MS}\":{at}")?;
        }
        out.write_all(b"}\n")
    }
}
