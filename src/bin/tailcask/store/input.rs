//! The input of `load`: keys and values in lines of TSV, CSV or NDJSON.

use crate::exit::usage;
use crate::stdio::read_line;
use crate::text::{from_base64, shown, unescape};
use crate::units::counted;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::path::Path;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns separated by tabs
    Tsv,
    /// Columns separated by commas, quoted where needed
    Csv,
    /// One JSON object per line
    #[value(alias = "jsonl")]
    Ndjson,
}

impl Format {
    /// The format that a file's extension names.
    pub(super) fn of(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "tsv" | "tab" => Some(Self::Tsv),
            "csv" => Some(Self::Csv),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            _ => None,
        }
    }
}

/// The name of the column or field with the time at which a pair expires, in milliseconds since 1970. Where
/// columns have no names, the time comes in the third one, after [`EXPIRES`].
pub(super) const EXPIRES_MS: &str = "expires_ms";
pub(super) const EXPIRES: &str = "expires=";

/// Where the parts of a pair are in a line.
pub(super) struct Layout {
    pub(super) format: Format,
    pub(super) key: Option<String>,
    pub(super) value: Value,
    pub(super) expires: Option<String>,
    pub(super) header: bool,
    pub(super) escapes: bool,
    pub(super) base64: bool,
}

/// What of a line is the value.
#[derive(PartialEq, Eq)]
pub(super) enum Value {
    /// What `export` writes there: the column or field "value", or the other one of two columns.
    Usual,
    Named(String),
    WholeLine,
}

/// A pair as it was read.
pub(super) struct NewPair<'l> {
    pub(super) key: Cow<'l, [u8]>,
    pub(super) value: Cow<'l, [u8]>,
    /// When it expires, in milliseconds since 1970.
    pub(super) expires: Option<u64>,
}

/// Takes a pair.
type Add<'a> = &'a mut dyn FnMut(NewPair<'_>) -> Result<()>;

/// Calls `add` with every pair, in the order of the lines. Errors name the line.
pub(super) fn read(input: impl BufRead, layout: &Layout, add: Add<'_>) -> Result<()> {
    match layout.format {
        Format::Tsv => read_tsv(input, layout, add),
        Format::Csv => read_csv(input, layout, add),
        Format::Ndjson => read_json(input, layout, add),
    }
}

/// The index of a column, from its name in the header or its number, counted from 1.
fn column(text: &str, names: Option<&[&[u8]]>) -> Result<usize> {
    let by_name = names.and_then(|all| all.iter().position(|name| *name == text.as_bytes()));
    let by_number = text.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    match (by_name.or(by_number), names) {
        (Some(column), Some(names)) if column >= names.len() => {
            let columns = counted(names.len() as u64, "column");
            Err(usage(format!("there is no column {text:?}: the header has {columns}")))
        }
        (Some(column), _) => Ok(column),
        (None, Some(names)) => {
            // A name in quotes may have a newline.
            let name = |name: &&[u8]| shown(name).escape_debug().to_string();
            let names: Vec<_> = names.iter().map(name).collect();
            Err(usage(format!("there is no column {text:?}; the columns are {}", names.join(", "))))
        }
        (None, None) => {
            Err(usage(format!("{text:?} is not a column number; column names need --header")))
        }
    }
}

/// The columns of a pair.
struct Columns {
    key: usize,
    value: Where,
    expires: Option<usize>,
}

enum Where {
    Column(usize),
    /// The one of two that is not the key; a third one says when the pair expires.
    Other,
    WholeLine,
}

const NAME_IT: &str = "say which one is the value (--value), or take whole lines (--whole-line)";

impl Columns {
    fn of(layout: &Layout, names: Option<&[&[u8]]>) -> Result<Self> {
        let named = |wanted: &str| names?.iter().position(|name| *name == wanted.as_bytes());
        let key = match &layout.key {
            Some(key) => column(key, names)?,
            None => named("key").filter(|_| layout.value == Value::Usual).unwrap_or(0),
        };
        let value = match (&layout.value, names) {
            (Value::WholeLine, _) => Where::WholeLine,
            (Value::Named(value), _) => Where::Column(column(value, names)?),
            (Value::Usual, None) => Where::Other,
            (Value::Usual, Some(names)) => match named("value").filter(|&value| value != key) {
                Some(value) => Where::Column(value),
                None if names.len() == 2 && key < 2 => Where::Column(1 - key),
                None => {
                    let columns = counted(names.len() as u64, "column");
                    return Err(usage(format!("the header has {columns}: {NAME_IT}")));
                }
            },
        };
        let expires = match &layout.expires {
            Some(expires) => Some(column(expires, names)?),
            None => named(EXPIRES_MS).filter(|_| !matches!(value, Where::WholeLine)),
        };
        Ok(Self { key, value, expires })
    }

    /// The pair in the columns of a line; `whole` gives the line itself.
    fn pair<'l>(
        &self,
        layout: &Layout,
        columns: &[&'l [u8]],
        whole: impl FnOnce() -> Result<Cow<'l, [u8]>>,
    ) -> Result<NewPair<'l>> {
        let field = |at: usize| {
            let field = columns.get(at).copied();
            field.with_context(|| format!("there is no column {}", at + 1))
        };
        let key = decode(field(self.key)?, layout)?;
        let mut expires = match self.expires {
            // A line may end before this column.
            Some(at) => expiry(columns.get(at).copied().unwrap_or_default())?,
            None => None,
        };
        let value = match self.value {
            Where::WholeLine => whole()?,
            Where::Column(at) => decode(field(at)?, layout)?,
            Where::Other => {
                let third = columns.get(2).map(|third| third.strip_prefix(EXPIRES.as_bytes()));
                match (columns.len(), third) {
                    (2, _) => {}
                    (3, Some(Some(third))) if self.expires.is_none() => expires = expiry(third)?,
                    (3, Some(_)) if self.expires == Some(2) => {}
                    (n, _) => bail!("the line has {}: {NAME_IT}", counted(n as u64, "column")),
                }
                if self.key > 1 {
                    bail!("{NAME_IT}");
                }
                decode(columns[1 - self.key], layout)?
            }
        };
        Ok(NewPair { key, value, expires })
    }
}

/// The time in a column or field; an empty one is none.
fn expiry(text: &[u8]) -> Result<Option<u64>> {
    let text = text.strip_prefix(EXPIRES.as_bytes()).unwrap_or(text);
    let time = || std::str::from_utf8(text).ok()?.parse().ok();
    match text {
        b"" => Ok(None),
        _ => time()
            .map(Some)
            .with_context(|| format!("{:?} is not a time in milliseconds since 1970", shown(text))),
    }
}

fn read_tsv(mut input: impl BufRead, layout: &Layout, add: Add<'_>) -> Result<()> {
    let (mut line, mut number) = (Vec::new(), 0u64);
    let columns = if layout.header {
        read_line(&mut input, &mut line)?;
        number += 1;
        Columns::of(layout, Some(&line.split(|&b| b == b'\t').collect::<Vec<_>>()))?
    } else {
        Columns::of(layout, None)?
    };
    while read_line(&mut input, &mut line)? {
        number += 1;
        let fields: Vec<_> = line.split(|&b| b == b'\t').collect();
        let pair = columns.pair(layout, &fields, || Ok(Cow::Borrowed(&line[..])));
        pair.and_then(&mut *add).with_context(|| format!("line {number}"))?;
    }
    Ok(())
}

fn decode<'a>(field: &'a [u8], layout: &Layout) -> Result<Cow<'a, [u8]>> {
    if layout.base64 {
        from_base64(field).map(Cow::Owned)
    } else if layout.escapes && layout.format == Format::Tsv {
        unescape(field)
    } else {
        Ok(field.into())
    }
}

fn read_csv(input: impl Read, layout: &Layout, add: Add<'_>) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new().has_headers(layout.header).from_reader(input);
    let columns = if layout.header {
        Columns::of(layout, Some(&reader.byte_headers()?.iter().collect::<Vec<_>>()))?
    } else {
        Columns::of(layout, None)?
    };
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record)? {
        let line = record.position().map_or(0, csv::Position::line);
        let fields: Vec<_> = record.iter().collect();
        let pair = columns.pair(layout, &fields, || whole_record(&record).map(Cow::Owned));
        pair.and_then(&mut *add).with_context(|| format!("line {line}"))?;
    }
    Ok(())
}

/// A record as a line of CSV, without its newline.
fn whole_record(record: &csv::ByteRecord) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_byte_record(record)?;
    let mut line = writer.into_inner()?;
    line.pop();
    Ok(line)
}

type Object<'a> = HashMap<String, &'a RawValue>;

fn read_json(mut input: impl BufRead, layout: &Layout, add: Add<'_>) -> Result<()> {
    let (mut line, mut number) = (Vec::new(), 0u64);
    while read_line(&mut input, &mut line)? {
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let pair = json_pair(&line, layout);
        pair.and_then(&mut *add).with_context(|| format!("line {number}"))?;
    }
    Ok(())
}

fn json_pair<'l>(line: &'l [u8], layout: &Layout) -> Result<NewPair<'l>> {
    let object: Object<'_> = serde_json::from_slice(line).context("not a JSON object")?;
    let key = field(&object, layout.key.as_deref().unwrap_or("key"), layout)?.into();
    let value = match &layout.value {
        Value::WholeLine => line.into(),
        Value::Named(name) => field(&object, name, layout)?.into(),
        Value::Usual => field(&object, "value", layout).context(NAME_IT)?.into(),
    };
    let expires = match (&layout.expires, &layout.value) {
        (Some(name), _) => Some(name.as_str()),
        (None, Value::WholeLine) => None,
        (None, _) => Some(EXPIRES_MS),
    };
    let expires = expires.and_then(|name| Some((name, object.get(name)?)));
    let expires = match expires.filter(|(_, value)| value.get() != "null") {
        Some((name, value)) => expiry(&scalar(value).with_context(|| format!("field {name:?}"))?)?,
        None => None,
    };
    Ok(NewPair { key, value, expires })
}

/// The bytes of the field `name`, or of the field `name_base64`, decoded.
fn field(object: &Object<'_>, name: &str, layout: &Layout) -> Result<Vec<u8>> {
    if let Some(value) = object.get(name) {
        let bytes = scalar(value).with_context(|| format!("field {name:?}"))?;
        return if layout.base64 { from_base64(&bytes) } else { Ok(bytes) };
    }
    let encoded = object.get(&format!("{name}_base64"));
    let encoded = encoded.with_context(|| format!("there is no field {name:?}"))?;
    from_base64(&scalar(encoded)?).with_context(|| format!("field \"{name}_base64\""))
}

/// The text of a string; a number or a boolean as it is written.
fn scalar(value: &RawValue) -> Result<Vec<u8>> {
    let text = value.get();
    match text.as_bytes()[0] {
        b'"' => Ok(serde_json::from_str::<String>(text)?.into_bytes()),
        b'{' => bail!("is an object; expected a string, a number or a boolean"),
        b'[' => bail!("is an array; expected a string, a number or a boolean"),
        b'n' => bail!("is null; expected a string, a number or a boolean"),
        _ => Ok(text.as_bytes().to_vec()),
    }
}
