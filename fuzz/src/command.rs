//! What the command takes: the lines of `load`, the records of `log append`, the key and value of `put`, and
//! arguments with units. It is the code of the command itself, on a simulated disk.
//!
//! * No panic. An error is one line of text, and names the line of the input, or is one of usage.
//! * What comes before that line is there, and nothing else.
//! * What `load` has read is written as `export` writes it, in any format, and loaded again: it is the same.
//! * Records are what is between newlines, or what hex or base64 say, and come back when they are printed.
//! * TSV without options is also read a second time, by what `load --help` says of it.

use super::checks::read_log;
use crate::encoding::Encoding;
use crate::log::append::{AppendArgs, append_lines};
use crate::store::export::write_pairs;
use crate::store::input::Format;
use crate::store::load::{LoadArgs, Loaded, load_lines};
use crate::{exit, units};
use clap::Parser;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;
use tailcask::{CommitLog, LogPosition, Maintenance, SimulatedDisk, Store};

/// Values, and when they expire, in milliseconds since 1970.
type Content = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>;

const FORMATS: [(Format, &str); 3] =
    [(Format::Tsv, "tsv"), (Format::Csv, "csv"), (Format::Ndjson, "ndjson")];
const ENCODINGS: [(Encoding, &str); 3] =
    [(Encoding::Raw, "raw"), (Encoding::Hex, "hex"), (Encoding::Base64, "base64")];

/// Bits of the second byte, for `load`.
const OTHER_HEADER: u8 = 1;
const NO_ESCAPES: u8 = 2;
const BASE64: u8 = 4;
/// The first line is no input: the columns of key, value and expiry, with tabs between them.
const NAMED: u8 = 8;
const WHOLE_LINE: u8 = 16;
const TTL: u8 = 32;
const SMALL_BATCHES: u8 = 64;

/// Longer than any of this takes, in milliseconds: what is loaded again may expire later by as much.
const WHILE: u64 = 120_000;

/// The first byte says what the rest is for.
pub(super) fn run(data: &[u8]) {
    let [what, options, input @ ..] = data else { return };
    let nth = usize::from(what % 3);
    match what / 3 % 4 {
        0 | 1 => load(nth, usize::from(what / 12 % 6), *options, input),
        2 => append(nth, *options, input),
        _ => arguments(nth, input),
    }
}

#[derive(Parser)]
struct Parsed<A: clap::Args> {
    #[command(flatten)]
    args: A,
}

fn parse<A: clap::Args>(args: &[String]) -> Option<A> {
    let name = ["command", "db", "-"].map(str::to_owned);
    Parsed::<A>::try_parse_from(name.iter().chain(args)).ok().map(|parsed| parsed.args)
}

fn new_store() -> Store {
    let options = Store::options().maintenance(Maintenance::Manual).cache_budget(1 << 30);
    let options = options.segment_unit(4096).segment_size(32 << 10);
    options.open_simulated(&SimulatedDisk::new()).expect("an empty disk")
}

fn new_log() -> CommitLog {
    let options = CommitLog::options().maintenance(Maintenance::Manual);
    let options = options.segment_unit(4096).segment_size(32 << 10);
    options.open_simulated(&SimulatedDisk::new()).expect("an empty disk")
}

fn milliseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("it is later");
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn content(store: &Store) -> Content {
    let pairs = store.iter().map(|pair| {
        let pair = pair.expect("it can be read");
        let expires = pair.expires_at().map(milliseconds);
        (pair.key().to_vec(), (pair.value().to_vec(), expires))
    });
    pairs.collect()
}

/// Compares what was loaded twice. What expires about now may be in one of them only.
fn assert_same(mut some: Content, mut other: Content) {
    let now = milliseconds(SystemTime::now());
    let soon = |all: &Content| -> BTreeSet<_> {
        let soon = |at: &Option<u64>| at.is_some_and(|at| at < now + WHILE);
        all.iter().filter(|(_, (_, at))| soon(at)).map(|(key, _)| key.clone()).collect()
    };
    for key in &soon(&some) | &soon(&other) {
        some.remove(&key);
        other.remove(&key);
    }
    assert!(some.keys().eq(other.keys()), "{some:?}, and {other:?}");
    for (key, (value, expires)) in &some {
        let (another, later) = &other[key];
        assert_eq!(value, another, "{key:?}");
        assert_eq!(expires.is_some(), later.is_some(), "{key:?}");
        let apart = expires.unwrap_or(0).abs_diff(later.unwrap_or(0));
        assert!(apart < WHILE, "{key:?} expires at {expires:?}, and at {later:?}");
    }
}

/// The line that an error names, unless it is about the options.
fn line_of(error: &anyhow::Error) -> Option<usize> {
    let text = exit::message(error);
    assert!(!text.contains('\n'), "{text:?} is one line");
    if exit::code(error) == 2 {
        return None;
    }
    assert_eq!(exit::code(error), 6, "{text}");
    let named = text.match_indices("line").find_map(|(at, name)| {
        let rest = text[at + name.len()..].trim_start_matches(':').strip_prefix(' ')?;
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        rest[..digits].parse().ok()
    });
    assert!(named.is_some_and(|line| line > 0), "{text:?} names a line");
    named
}

fn lines(input: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = input.split(|&byte| byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}

/// The first lines of an input.
fn first_lines(input: &[u8], count: usize) -> Vec<u8> {
    let first = lines(input).into_iter().take(count);
    first.flat_map(|line| [line, b"\n"].concat()).collect()
}

fn load_args(nth: usize, options: u8, names: &[u8]) -> Option<LoadArgs> {
    let (format, name) = &FORMATS[nth];
    let mut args = vec![format!("--format={name}")];
    let header = if *format == Format::Csv { "--no-header" } else { "--header" };
    for (bit, arg) in [
        (OTHER_HEADER, header),
        (NO_ESCAPES, "--no-escapes"),
        (BASE64, "--base64"),
        (WHOLE_LINE, "--whole-line"),
        (TTL, "--ttl=7d"),
        (SMALL_BATCHES, "--batch-bytes=10"),
    ] {
        if options & bit != 0 {
            args.push(arg.to_owned());
        }
    }
    let names = std::str::from_utf8(names).ok()?;
    for (column, option) in names.split('\t').zip(["key", "value", "expires"]) {
        if !column.is_empty() {
            args.push(format!("--{option}={column}"));
        }
    }
    parse(&args)
}

fn loaded(input: &[u8], args: &LoadArgs) -> (Loaded, Content) {
    let store = new_store();
    let loaded = load_lines(&store, input, args, Arc::new(AtomicU64::new(0)));
    loaded.written.as_ref().expect("there is room");
    let content = content(&store);
    assert!(loaded.expired <= loaded.pairs && content.len() as u64 <= loaded.pairs);
    store.abort();
    (loaded, content)
}

fn load(nth: usize, again: usize, options: u8, input: &[u8]) {
    let (mut names, mut input) = (&[][..], input);
    if options & NAMED != 0 {
        let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
        (names, input) = (&input[..end], &input[(end + 1).min(input.len())..]);
    }
    let Some(args) = load_args(nth, options, names) else { return };
    let (result, content) = loaded(input, &args);
    match result.read.as_ref().map_err(line_of) {
        Err(None) => assert_eq!(result.pairs, 0, "the header is wrong"),
        // What a line of CSV is, only its parser knows.
        Err(Some(line)) if FORMATS[nth].0 != Format::Csv => {
            let (before, same) = loaded(&first_lines(input, line - 1), &args);
            before.read.expect("it ends before the line that is wrong");
            assert_eq!(before.pairs, result.pairs);
            assert_same(content.clone(), same);
        }
        _ => {}
    }
    if nth == 0 && options & !SMALL_BATCHES == 0 {
        check_tsv(input, &result, &content);
    }
    load_again(again, content);
}

/// Writes it as `export` does, and loads that.
fn load_again(again: usize, content: Content) {
    let store = new_store();
    for (key, (value, expires)) in &content {
        let options = tailcask::WriteOptions::new();
        let left = expires.map(|at| at.saturating_sub(milliseconds(SystemTime::now())).max(1));
        let options = match left {
            Some(left) => options.ttl(std::time::Duration::from_millis(left)),
            None => options,
        };
        store.put_with(key, value, &options).expect("it was put before");
    }
    let (encoding, base64) =
        if again < 3 { (Encoding::Raw, 0) } else { (Encoding::Base64, BASE64) };
    let (format, mut out) = (FORMATS[again % 3].0, Vec::new());
    let written = write_pairs(&mut out, format, encoding, &mut |visit| {
        store.iter().try_for_each(|pair| visit(&pair?))
    });
    written.expect("it is written to memory");
    assert!(std::str::from_utf8(&out).is_ok() || format != Format::Ndjson && base64 == 0);
    store.abort();
    let args = load_args(again % 3, base64, b"").expect("these options fit");
    let (result, copy) = loaded(&out, &args);
    result.read.unwrap_or_else(|e| panic!("{}: {:?}", exit::message(&e), out.escape_ascii()));
    assert_same(content, copy);
}

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// TSV by the documentation: the pairs that are left, and the first line that is wrong; none where a time may
/// be one or not.
fn tsv(input: &[u8]) -> Option<(Pairs, Option<usize>)> {
    let unescaped = |field: &[u8]| {
        let (mut bytes, mut field) = (Vec::new(), field.iter());
        while let Some(&byte) = field.next() {
            bytes.push(match byte {
                b'\\' => match field.next()? {
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b'\\' => b'\\',
                    _ => return None,
                },
                byte => byte,
            });
        }
        Some(bytes)
    };
    let mut pairs = Pairs::new();
    for (at, line) in lines(input).into_iter().enumerate() {
        let fields: Vec<_> = line.split(|&byte| byte == b'\t').collect();
        let (key, value, has_expired) = match fields[..] {
            [key, value] => (key, value, false),
            [key, value, time] => (key, value, has_expired(time)?),
            _ => return Some((pairs, Some(at + 1))),
        };
        match (unescaped(key), unescaped(value)) {
            (Some(key), Some(_)) if has_expired && is_key(&key) => drop(pairs.remove(&key)),
            (Some(key), Some(value)) if is_key(&key) => drop(pairs.insert(key, value)),
            _ => return Some((pairs, Some(at + 1))),
        }
    }
    Some((pairs, None))
}

fn is_key(key: &[u8]) -> bool {
    (1..=65_535).contains(&key.len())
}

/// Whether a third column is a time in the past, if it is one in digits, and not about now.
fn has_expired(column: &[u8]) -> Option<bool> {
    let digits = column.strip_prefix(b"expires=")?;
    let at: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let now = milliseconds(SystemTime::now());
    (at.abs_diff(now) > WHILE).then_some(at < now)
}

fn check_tsv(input: &[u8], result: &Loaded, content: &Content) {
    let Some((pairs, wrong)) = tsv(input) else { return };
    let found = content.iter().map(|(key, (value, _))| (key, value));
    assert!(found.eq(&pairs), "{content:?}, not {pairs:?}");
    assert_eq!(result.read.as_ref().err().and_then(line_of), wrong);
}

fn appended(input: &[u8], args: &AppendArgs) -> (anyhow::Result<()>, Vec<Vec<u8>>) {
    let (log, lines) = (new_log(), AtomicU64::new(0));
    let progress = indicatif::ProgressBar::hidden();
    let result = append_lines(&log, input, args, &lines, &progress);
    let records = read_log(&log).expect("it can be read");
    assert_eq!(lines.into_inner(), records.len() as u64);
    log.abort();
    (result, records)
}

fn append(nth: usize, options: u8, input: &[u8]) {
    let (encoding, name) = &ENCODINGS[nth];
    let mut args = vec![format!("--encoding={name}")];
    if options & SMALL_BATCHES != 0 {
        args.push("--batch-bytes=10".to_owned());
    }
    let args = parse(&args).expect("these options fit");
    let (result, records) = appended(input, &args);
    let wrong = result.err().map(|error| line_of(&error).expect("the options fit"));
    assert_eq!(wrong.unwrap_or(lines(input).len() + 1), records.len() + 1);
    if *encoding == Encoding::Raw {
        assert_eq!(wrong, None);
        assert!(records.iter().eq(lines(input)), "{records:?}");
    }
    let line = |record: &Vec<u8>| [&*encoding.encode(record), b"\n"].concat();
    let printed: Vec<u8> = records.iter().flat_map(line).collect();
    let (again, same) = appended(&printed, &args);
    again.expect("it is what was printed");
    assert_eq!(same, records);
}

/// A key and a value of `put`, on two lines; and a line that may be a size, a time or a position.
fn arguments(nth: usize, input: &[u8]) {
    let (first, rest) = input.split_at(input.iter().position(|&b| b == b'\n').unwrap_or(0));
    if let Ok(text) = std::str::from_utf8(first) {
        units_of(text);
    }
    let (encoding, _) = &ENCODINGS[nth];
    let decoded = [(first, "the key"), (rest, "the value")].map(|(text, what)| {
        let decoded = encoding.decode_argument(text, what);
        let decoded = decoded.map_err(|error| assert_eq!(exit::code(&error), 2)).ok()?;
        let text = text.trim_ascii();
        match encoding {
            Encoding::Raw => {}
            Encoding::Hex => assert_eq!(*encoding.encode(&decoded), text.to_ascii_lowercase()),
            Encoding::Base64 => assert_eq!(*encoding.encode(&decoded), *text),
        }
        Some(decoded)
    });
    let [Some(key), Some(value)] = decoded else { return };
    let store = new_store();
    match store.put(&key, &value) {
        Ok(_) => {
            let found = store.get(&key).expect("it can be read").expect("it is there");
            let printed = encoding.encode(&found);
            assert_eq!(encoding.decode(&printed).expect("it was encoded"), value);
        }
        Err(error) => {
            assert!(key.is_empty() || key.len() > 65_535, "{error}");
            assert_eq!(exit::code(&error.into()), 2);
        }
    }
    store.abort();
}

fn units_of(text: &str) {
    if let Ok(size) = units::size(text) {
        assert_eq!(units::size(&size.to_string()), Ok(size));
    }
    if let Ok(time) = units::time(text) {
        assert_eq!(units::time(&format!("{}ms", time.as_millis())), Ok(time));
        assert!(units::durability(text).is_ok() || time.is_zero());
        assert!(!units::age(time).is_empty());
    }
    if let Ok(position) = text.parse::<LogPosition>() {
        assert_eq!(position.to_string().parse(), Ok(position));
    }
}
