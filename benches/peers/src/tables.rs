//! The results as tables, in Markdown.

use crate::cell::{Latency, Outcome, Row, Work};
use crate::engine::{About, Engine};
use crate::engines::ForEngine;
use crate::log::Log;
use crate::logs::ForLog;
use crate::{engines, logs};
use std::fmt::Write;
use std::fs;

/// What it was measured on.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.unwrap_or("an unknown processor").trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = crate::system::memory() as f64 / f64::from(1 << 30);
    let kernel = read("/proc/sys/kernel/osrelease");
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    format!(
        "{cores} cores of {model}, {memory:.0} GiB, Linux {}; `peers {}`.\n",
        kernel.trim(),
        arguments.join(" ")
    )
}

struct AboutIt;

impl ForEngine for AboutIt {
    type Result = About;

    fn run<E: Engine>(self) -> About {
        E::ABOUT
    }
}

impl ForLog for AboutIt {
    type Result = About;

    fn run<L: Log>(self) -> About {
        L::ABOUT
    }
}

/// The cells of one table: results with the same section, work, threads and size of values.
#[derive(Clone, Copy)]
pub struct Of<'a> {
    pub rows: &'a [Row],
    pub section: &'a str,
}

impl<'a> Of<'a> {
    pub fn cells(
        self,
        contender: &str,
        work: Work,
        threads: usize,
        value: Option<usize>,
    ) -> Vec<&'a Outcome> {
        let rows = self.rows.iter().filter(|row| row.cell.section == self.section);
        rows.filter(|row| row.cell.contender == contender)
            .filter(|row| row.cell.work == work && row.cell.threads == threads)
            .filter(|row| value.is_none_or(|value| row.cell.value == value))
            .map(|row| &row.outcome)
            .collect()
    }

    /// The median of the rounds, the least and the most.
    pub fn middle(
        self,
        contender: &str,
        work: Work,
        threads: usize,
        value: Option<usize>,
        what: impl Fn(&Outcome) -> f64,
    ) -> Option<[f64; 3]> {
        let cells = self.cells(contender, work, threads, value);
        let mut values: Vec<_> =
            cells.into_iter().filter(|cell| cell.error.is_none()).map(what).collect();
        values.sort_by(f64::total_cmp);
        let (first, last) = (*values.first()?, *values.last()?);
        let middle = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
        Some([middle, first, last])
    }

    /// Those that appear, in the order of the tables.
    pub fn contenders(self) -> Vec<&'a str> {
        let mut found: Vec<&str> = Vec::new();
        for row in self.rows.iter().filter(|row| row.cell.section == self.section) {
            if !found.contains(&row.cell.contender.as_str()) {
                found.push(&row.cell.contender);
            }
        }
        let names: Vec<_> = engines::NAMES.iter().chain(logs::NAMES).collect();
        let place = |name: &str| names.iter().position(|known| **known == name);
        found.sort_by_key(|name| place(name).unwrap_or(usize::MAX));
        found
    }

    pub fn threads(self, work: Work) -> Vec<usize> {
        let rows = self.rows.iter().filter(|row| row.cell.section == self.section);
        let mut threads: Vec<_> =
            rows.filter(|row| row.cell.work == work).map(|row| row.cell.threads).collect();
        threads.sort_unstable();
        threads.dedup();
        threads
    }

    fn first(self) -> Option<&'a Row> {
        self.rows.iter().find(|row| row.cell.section == self.section)
    }

    /// Why there is no number.
    fn missing(self, contender: &str, work: Work, threads: usize, value: Option<usize>) -> Entry {
        let cells = self.cells(contender, work, threads, value);
        let text = match cells.iter().find_map(|outcome| outcome.error.as_deref()) {
            None => "",
            Some(error) if error.starts_with(crate::NOT_OFFERED) => "–",
            Some(error) if error.contains("out of memory") => "out of memory",
            Some(error) if error.contains("took more than") => "too slow",
            Some(_) => "failed",
        };
        (text.into(), None)
    }

    fn rate(self, contender: &str, work: Work, threads: usize, value: Option<usize>) -> Entry {
        match self.middle(contender, work, threads, value, Outcome::rate) {
            Some([middle, low, high]) => (rate_of(middle, low, high), Some(middle)),
            None => self.missing(contender, work, threads, value),
        }
    }

    fn latency(self, contender: &str, work: Work, threads: usize) -> Option<Latency> {
        self.cells(contender, work, threads, None).iter().find_map(|outcome| outcome.latency)
    }
}

fn rate_of(middle: f64, low: f64, high: f64) -> String {
    let spread = 100.0 * (high - low) / 2.0 / middle;
    match spread >= 5.0 {
        true => format!("{} ±{spread:.0}%", rate(middle)),
        false => rate(middle),
    }
}

/// Operations a second.
pub fn rate(value: f64) -> String {
    match value {
        value if value >= 1e7 => format!("{:.1} M", value / 1e6),
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e5 => format!("{:.0} k", value / 1e3),
        value if value >= 1e3 => format!("{:.1} k", value / 1e3),
        value => format!("{value:.0}"),
    }
}

/// Nanoseconds.
pub fn time(value: u64) -> String {
    let value = value as f64;
    match value {
        value if value >= 1e9 => format!("{:.1} s", value / 1e9),
        value if value >= 1e7 => format!("{:.0} ms", value / 1e6),
        value if value >= 1e6 => format!("{:.1} ms", value / 1e6),
        value if value >= 1e4 => format!("{:.0} us", value / 1e3),
        value if value >= 1e3 => format!("{:.1} us", value / 1e3),
        value => format!("{:.2} us", value / 1e3),
    }
}

fn bytes(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{:.2} GB", value / 1e9),
        value if value >= 1e6 => format!("{:.1} MB", value / 1e6),
        value if value >= 1e3 => format!("{:.1} KB", value / 1e3),
        value => format!("{value:.0} B"),
    }
}

fn size(value: usize) -> String {
    match value {
        value if value >= 1 << 20 => format!("{} MiB", value >> 20),
        value if value >= 1 << 10 => format!("{} KiB", value >> 10),
        value => format!("{value} B"),
    }
}

fn percentiles(latency: Latency) -> String {
    let Latency { p50, p99, p999, max } = latency;
    format!("{} / {} / {} / {}", time(p50), time(p99), time(p999), time(max))
}

/// What stands in a table, and the number of it that is compared.
type Entry = (String, Option<f64>);

struct Column<'a> {
    title: String,
    entry: Box<dyn Fn(&str) -> Entry + 'a>,
    /// Less is better.
    less: bool,
    words: bool,
}

fn column<'a>(title: impl Into<String>, entry: impl Fn(&str) -> Entry + 'a) -> Column<'a> {
    Column { title: title.into(), entry: Box::new(entry), less: false, words: false }
}

fn less<'a>(title: impl Into<String>, entry: impl Fn(&str) -> Entry + 'a) -> Column<'a> {
    Column { less: true, ..column(title, entry) }
}

fn words<'a>(title: &str, what: impl Fn(&str) -> &'static str + 'a) -> Column<'a> {
    Column { words: true, ..column(title, move |name| (what(name).into(), None)) }
}

/// A table with the best of each column in bold.
fn table(title: &str, note: &str, contenders: &[&str], columns: &[Column<'_>]) -> String {
    let mut text = format!("\n### {title}\n\n");
    if !note.is_empty() {
        let _ = writeln!(text, "{note}\n");
    }
    text.push_str("| |");
    columns.iter().for_each(|column| {
        let _ = write!(text, " {} |", column.title);
    });
    text.push_str("\n|---|");
    columns.iter().for_each(|column| text.push_str(if column.words { "---|" } else { "---:|" }));
    text.push('\n');
    let entries: Vec<Vec<Entry>> = columns
        .iter()
        .map(|column| contenders.iter().map(|name| (column.entry)(name)).collect())
        .collect();
    for (at, name) in contenders.iter().enumerate() {
        let _ = write!(text, "| {name} |");
        for (column, entries) in columns.iter().zip(&entries) {
            let numbers = entries.iter().filter_map(|entry| entry.1);
            let best = match column.less {
                true => numbers.fold(f64::INFINITY, f64::min),
                false => numbers.fold(f64::NEG_INFINITY, f64::max),
            };
            let (entry, number) = &entries[at];
            let _ = match *number == Some(best) {
                true => write!(text, " **{entry}** |"),
                false => write!(text, " {entry} |"),
            };
        }
        text.push('\n');
    }
    text
}

pub fn all(machine: &str, rows: &[Row]) -> String {
    let mut text = String::from(machine);
    text.push_str(
        "\nThroughput is in operations a second: the median of the rounds, with half of \
                   their range where that is 5% or more. The best of each column is bold.\n",
    );
    for section in [ram, latencies, sizes, durable, cold, growth, of_logs] {
        text.push_str(&section(rows));
    }
    text.push_str(&promises(rows));
    text
}

const NAMES: [(Work, &str); 10] = [
    (Work::Fill, "fill"),
    (Work::Overwrite, "overwrite"),
    (Work::Get, "get"),
    (Work::GetZipf, "get, zipf"),
    (Work::GetMany, "get, 32 at once"),
    (Work::GetAbsent, "get, absent"),
    (Work::Batch, "batches of 100"),
    (Work::YcsbA, "YCSB-A"),
    (Work::YcsbB, "YCSB-B"),
    (Work::Scan, "scan"),
];

fn ram(rows: &[Row]) -> String {
    let of = Of { rows, section: "ram" };
    let Some(first) = of.first() else { return String::new() };
    let (keys, value) = (first.cell.keys, first.cell.value);
    let mut text = String::new();
    for threads in of.threads(Work::Get) {
        let mut columns = Vec::new();
        for (work, title) in
            NAMES.into_iter().filter(|(work, _)| *work != Work::Scan || threads == 1)
        {
            columns.push(column(title, move |name| of.rate(name, work, threads, None)));
        }
        let title = format!("In memory, {}", plural(threads, "thread"));
        let note = format!("{keys} keys of 16 bytes with {value}. Keys a second.");
        text.push_str(&table(&title, &note, &of.contenders(), &columns));
    }
    let seconds = |name: &str, work| match of.middle(name, work, 1, None, |cell| cell.seconds) {
        Some([middle, ..]) => (format!("{middle:.3} s"), Some(middle)),
        None => of.missing(name, work, 1, None),
    };
    let disk = |name: &str, work| match of.middle(name, work, 1, None, |cell| cell.disk as f64) {
        Some([middle, ..]) => (bytes(middle), Some(middle)),
        None => of.missing(name, work, 1, None),
    };
    let columns = [
        less("open after the fill", move |name| seconds(name, Work::Open)),
        less("open after the overwrites", move |name| seconds(name, Work::Reopen)),
        less("on disk after the fill", move |name| disk(name, Work::Open)),
        less("after the overwrites", move |name| disk(name, Work::Reopen)),
    ];
    let note = "From a clean close to the first value read, with the files in the page cache. How \
                much was overwritten depends on how fast the contender was.";
    text.push_str(&table("Opening", note, &of.contenders(), &columns));
    text
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn latencies(rows: &[Row]) -> String {
    let of = Of { rows, section: "latency" };
    let mut text = String::new();
    for (work, title) in [(Work::Get, "get"), (Work::Overwrite, "overwrite")] {
        let columns: Vec<_> = of
            .threads(work)
            .into_iter()
            .map(|threads| {
                let entry = move |name: &str| match of.latency(name, work, threads) {
                    Some(latency) => (percentiles(latency), Some(latency.p999 as f64)),
                    None => of.missing(name, work, threads, None),
                };
                less(plural(threads, "thread"), entry)
            })
            .collect();
        if !columns.is_empty() {
            let note = "p50 / p99 / p99.9 / max, in memory. Bold is the best p99.9.";
            let title = format!("Latency of {title}");
            text.push_str(&table(&title, note, &of.contenders(), &columns));
        }
    }
    text
}

pub fn value_sizes(rows: &[Row]) -> Vec<usize> {
    let rows = rows.iter().filter(|row| row.cell.section == "sizes");
    let mut sizes: Vec<_> = rows.map(|row| row.cell.value).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn sizes(rows: &[Row]) -> String {
    let of = Of { rows, section: "sizes" };
    let mut text = String::new();
    for (work, title) in [(Work::Fill, "Put"), (Work::Get, "Get")] {
        let columns: Vec<_> = value_sizes(rows)
            .into_iter()
            .map(|value| column(size(value), move |name| of.rate(name, work, 1, Some(value))))
            .collect();
        if !columns.is_empty() {
            let title = format!("{title}, by the size of values");
            text.push_str(&table(&title, "1 thread.", &of.contenders(), &columns));
        }
    }
    text
}

fn about(name: &str) -> Option<About> {
    engines::with(name, AboutIt).or_else(|| logs::with(name, AboutIt))
}

fn durable_columns<'a>(of: Of<'a>, work: Work) -> Vec<Column<'a>> {
    // Others are shown, but not compared.
    let fsyncs = |name: &str| about(name).is_none_or(|about| about.fsyncs);
    let mut columns = Vec::new();
    for threads in of.threads(work) {
        columns.push(column(plural(threads, "thread"), move |name| {
            match of.rate(name, work, threads, None) {
                (text, Some(_)) if !fsyncs(name) => (format!("{text} (no fsync)"), None),
                entry => entry,
            }
        }));
    }
    for threads in of.threads(work) {
        let entry = move |name: &str| match of.latency(name, work, threads) {
            Some(latency) => {
                (format!("{} / {}", time(latency.p50), time(latency.p99)), Some(latency.p99 as f64))
            }
            None => of.missing(name, work, threads, None),
        };
        columns.push(less(format!("p50 / p99, {threads}"), entry));
    }
    columns
}

fn durable(rows: &[Row]) -> String {
    let of = Of { rows, section: "durable" };
    let columns = durable_columns(of, Work::Durable);
    match columns.is_empty() {
        true => String::new(),
        false => {
            table("Durable puts", "Each acknowledged after fsync.", &of.contenders(), &columns)
        }
    }
}

fn cold(rows: &[Row]) -> String {
    let of = Of { rows, section: "cold" };
    let Some(first) = of.first() else { return String::new() };
    let mut text = String::new();
    for (work, title) in [(Work::Get, "gets"), (Work::Overwrite, "overwrites")] {
        let mut columns = Vec::new();
        for threads in of.threads(work) {
            let title = plural(threads, "thread");
            columns.push(column(title, move |name| of.rate(name, work, threads, None)));
        }
        for threads in of.threads(work) {
            let each = |outcome: &Outcome| outcome.read as f64 / outcome.count.max(1) as f64;
            let entry = move |name: &str| match of.middle(name, work, threads, None, each) {
                Some([middle, ..]) => (bytes(middle), Some(middle)),
                None => of.missing(name, work, threads, None),
            };
            columns.push(less(format!("read each, {threads}"), entry));
        }
        for threads in of.threads(work) {
            let entry = move |name: &str| match of.latency(name, work, threads) {
                Some(latency) => (time(latency.p99), Some(latency.p99 as f64)),
                None => of.missing(name, work, threads, None),
            };
            columns.push(less(format!("p99, {threads}"), entry));
        }
        let keys = first.cell.keys;
        let note = format!(
            "{keys} keys with values of {} bytes, in a memory cgroup of {} MiB.",
            first.cell.value,
            (keys * first.cell.value as u64 / 4 + (1 << 19)) >> 20
        );
        let title = format!("Four times the memory: {title}");
        text.push_str(&table(&title, &note, &of.contenders(), &columns));
    }
    text
}

fn growth(rows: &[Row]) -> String {
    let of = Of { rows, section: "growth" };
    let contenders = of.contenders();
    if contenders.is_empty() {
        return String::new();
    }
    let grown = |name: &str| of.cells(name, Work::Grow, 1, None).into_iter().next();
    let last = move |name: &str, entry: &dyn Fn(&Outcome) -> Entry| match grown(name) {
        Some(outcome) if outcome.error.is_none() && !outcome.steps.is_empty() => entry(outcome),
        _ => of.missing(name, Work::Grow, 1, None),
    };
    let worst = |outcome: &Outcome, what: &dyn Fn(Latency) -> u64| -> Entry {
        let worst = outcome.steps.iter().map(|step| what(step.latency)).max().unwrap_or(0);
        (time(worst), Some(worst as f64))
    };
    let columns = [
        column("keys", move |name| {
            last(name, &|outcome| (rate(outcome.count as f64), Some(outcome.count as f64)))
        }),
        column("first step", move |name| {
            last(name, &|outcome| (rate(outcome.steps[0].rate), Some(outcome.steps[0].rate)))
        }),
        column("last step", move |name| {
            let rate_of = |outcome: &Outcome| outcome.steps.last().map_or(0.0, |step| step.rate);
            last(name, &|outcome| (rate(rate_of(outcome)), Some(rate_of(outcome))))
        }),
        less("worst p99.9 of a step", move |name| {
            last(name, &|outcome| worst(outcome, &|latency| latency.p999))
        }),
        less("worst put", move |name| {
            last(name, &|outcome| worst(outcome, &|latency| latency.max))
        }),
    ];
    let note = "New keys, put one by one by 1 thread, until all are there or the time is over.";
    table("Growth", note, &contenders, &columns)
}

fn of_logs(rows: &[Row]) -> String {
    let of = Of { rows, section: "logs" };
    let Some(first) = of.first() else { return String::new() };
    let mut columns = Vec::new();
    for (work, title) in [(Work::Append, "append"), (Work::AppendBatch, "100 at once")] {
        for threads in of.threads(work) {
            let title = format!("{title}, {}", plural(threads, "thread"));
            columns.push(column(title, move |name| of.rate(name, work, threads, None)));
        }
    }
    columns.push(column("read", move |name| of.rate(name, Work::ReadLog, 1, None)));
    let note = format!("Entries of {} bytes. Entries a second.", first.cell.value);
    let mut text = table("Logs", &note, &of.contenders(), &columns);
    let columns = durable_columns(of, Work::AppendDurable);
    if !columns.is_empty() {
        let note = "Each acknowledged after fsync.";
        text.push_str(&table("Logs: durable appends", note, &of.contenders(), &columns));
    }
    text
}

/// What each contender promises, and what came of the kill test.
pub fn promises(rows: &[Row]) -> String {
    let of = Of { rows, section: "kill" };
    let mut text = String::new();
    let about = |name: &str| self::about(name).expect("of this build");
    for (title, names, work) in [
        ("Stores: what they promise", engines::NAMES, Work::KillCheck),
        ("Logs: what they promise", logs::NAMES, Work::LogKillCheck),
    ] {
        let sum = |name: &str, what: &dyn Fn(&Outcome) -> u64| -> Entry {
            let cells = of.cells(name, work, 2, None);
            match cells.is_empty() {
                true => (String::new(), None),
                false => (cells.into_iter().map(what).sum::<u64>().to_string(), None),
            }
        };
        let failed = |name: &str| -> Entry {
            let cells = of.cells(name, work, 2, None);
            let errors = cells.iter().filter(|outcome| outcome.error.is_some()).count();
            match cells.is_empty() {
                true => (String::new(), None),
                false => (format!("{errors} of {}", cells.len()), None),
            }
        };
        let mut columns = vec![
            words("kind", |name| about(name).kind),
            words("mode that is measured", |name| about(name).mode),
            words("promised after kill -9", |name| about(name).killed),
        ];
        if of.first().is_some() {
            columns.push(column("acknowledged", move |name| sum(name, &|cell| cell.acknowledged)));
            columns.push(column("gone", move |name| sum(name, &|cell| cell.gone)));
            columns.push(column("wrong", move |name| sum(name, &|cell| cell.wrong)));
            columns.push(column("did not open", failed));
        }
        columns.push(words("promised after power loss", |name| about(name).power));
        columns.push(words("durable by", |name| about(name).durable));
        columns.push(words("a read checks", |name| about(name).reads));
        let note = "2 threads put new keys, one by one, and are killed in the midst of it.";
        let note = if of.first().is_some() { note } else { "" };
        text.push_str(&table(title, note, names, &columns));
    }
    text
}
