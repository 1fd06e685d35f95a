//! The input of `load`: keys and values in lines of TSV, CSV or NDJSON.

use super::text::{from_base64, shown, unescape};
use crate::stdio::read_line;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::path::Path;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
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

/// Where the key and the value are in a line.
pub(super) struct Layout {
    pub(super) format: Format,
    pub(super) key: String,
    /// `None`: the value is the whole line.
    pub(super) value: Option<String>,
    pub(super) header: bool,
    pub(super) escapes: bool,
    pub(super) base64: bool,
}

/// Takes a key and its value.
type Add<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<()>;

/// Calls `add` with every key and value, in the order of the lines. Errors name the line.
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
            bail!("there is no column {text:?}: the header has {} columns", names.len())
        }
        (Some(column), _) => Ok(column),
        (None, Some(names)) => {
            let names: Vec<_> = names.iter().map(|name| shown(name)).collect();
            bail!("there is no column {text:?}; the columns are {}", names.join(", "))
        }
        (None, None) => bail!("{text:?} is not a column number; column names need --header"),
    }
}

fn columns(layout: &Layout, names: Option<&[&[u8]]>) -> Result<(usize, Option<usize>)> {
    let value = layout.value.as_deref().map(|value| column(value, names));
    Ok((column(&layout.key, names)?, value.transpose()?))
}

fn read_tsv(mut input: impl BufRead, layout: &Layout, add: Add<'_>) -> Result<()> {
    let (mut line, mut number) = (Vec::new(), 0u64);
    let (key, value) = if layout.header {
        read_line(&mut input, &mut line)?;
        number += 1;
        columns(layout, Some(&line.split(|&b| b == b'\t').collect::<Vec<_>>()))?
    } else {
        columns(layout, None)?
    };
    while read_line(&mut input, &mut line)? {
        number += 1;
        let field = |at: usize| {
            let field = line.split(|&b| b == b'\t').nth(at);
            field.with_context(|| format!("there is no column {}", at + 1))
        };
        let decoded = |at| field(at).and_then(|field| decode(field, layout));
        let pair = || Ok((decoded(key)?, value.map_or(Ok(Cow::Borrowed(&line[..])), decoded)?));
        let add = |(key, value): (Cow<'_, [u8]>, Cow<'_, [u8]>)| add(&key, &value);
        pair().and_then(add).with_context(|| format!("line {number}"))?;
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
    let (key, value) = if layout.header {
        columns(layout, Some(&reader.byte_headers()?.iter().collect::<Vec<_>>()))?
    } else {
        columns(layout, None)?
    };
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record)? {
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize| {
            let field = record.get(at);
            field.with_context(|| format!("there is no column {}", at + 1))
        };
        let decoded = |at| field(at).and_then(|field| decode(field, layout));
        let whole = || whole_record(&record).map(Cow::Owned);
        let pair = || Ok((decoded(key)?, value.map_or_else(whole, decoded)?));
        let add = |(key, value): (Cow<'_, [u8]>, Cow<'_, [u8]>)| add(&key, &value);
        pair().and_then(add).with_context(|| format!("line {line}"))?;
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
        let mut add_line = || {
            let object: Object<'_> = serde_json::from_slice(&line).context("not a JSON object")?;
            let key = field(&object, &layout.key, layout)?;
            match &layout.value {
                Some(value) => add(&key, &field(&object, value, layout)?),
                None => add(&key, &line),
            }
        };
        add_line().with_context(|| format!("line {number}"))?;
    }
    Ok(())
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
