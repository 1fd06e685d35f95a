//! The results as plots, in SVG.

use crate::cell::{Outcome, Row, Work};
use crate::tables::{Of, rate, time, value_sizes};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub fn all(rows: &[Row], out: &Path) -> Result<()> {
    let draw = |name: &str, plot: fn(&[Row], &Path) -> Result<(), String>| {
        plot(rows, &out.join(name)).map_err(|error| anyhow!("{name}: {error}"))
    };
    draw("throughput.svg", throughput)?;
    draw("latency.svg", latency)?;
    draw("sizes.svg", sizes)?;
    draw("cold.svg", cold)?;
    draw("durable.svg", durable)?;
    draw("growth.svg", growth)?;
    draw("logs.svg", logs)
}

const INK: RGBColor = RGBColor(40, 40, 46);
const FAINT: RGBColor = RGBColor(222, 222, 226);
const OWN: RGBColor = RGBColor(196, 58, 38);

/// The same colour for a contender in each plot.
fn colour(name: &str) -> RGBColor {
    match name {
        "tailcask" | "tailcask-log" => OWN,
        "rocksdb" | "raft-engine" => RGBColor(31, 119, 180),
        "lmdb" | "walrus" => RGBColor(44, 140, 60),
        "redb" | "okaywal" => RGBColor(148, 103, 189),
        "fjall" | "commitlog" => RGBColor(230, 145, 20),
        "sled" | "write(2)" => RGBColor(127, 127, 127),
        "surrealkv" => RGBColor(214, 72, 160),
        "canopydb" => RGBColor(23, 170, 190),
        "candystore" => RGBColor(140, 86, 75),
        _ => RGBColor(160, 165, 30),
    }
}

fn lighter(colour: RGBColor) -> RGBColor {
    let half = |part: u8| 255 - (255 - part) / 2;
    RGBColor(half(colour.0), half(colour.1), half(colour.2))
}

fn style(size: u32, colour: RGBColor, across: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour).pos(Pos::new(across, VPos::Center))
}

fn words(area: &Area<'_>, text: &str, at: (i32, i32), style: &TextStyle<'_>) -> Result<(), String> {
    area.draw(&Text::new(text, at, style)).map_err(|error| error.to_string())
}

fn block(
    area: &Area<'_>,
    from: (i32, i32),
    to: (i32, i32),
    colour: RGBColor,
) -> Result<(), String> {
    area.draw(&Rectangle::new([from, to], colour.filled())).map_err(|error| error.to_string())
}

fn canvas(path: &Path, size: (u32, u32)) -> Result<Area<'_>, String> {
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE).map_err(|error| error.to_string())?;
    Ok(area)
}

/// One bar: its shade says how many threads, its text how much.
struct Bar {
    value: f64,
    text: String,
    light: bool,
}

/// A panel of bars: a group for each contender, all to one scale.
struct Panel<'a> {
    title: String,
    groups: Vec<(&'a str, Vec<Bar>)>,
}

const BAR: i32 = 9;
const NAME: i32 = 84;
const PANEL: i32 = 330;

impl Panel<'_> {
    fn height(&self) -> i32 {
        44 + self.groups.iter().map(|(_, bars)| BAR * bars.len().max(1) as i32 + 6).sum::<i32>()
    }

    fn draw(&self, area: &Area<'_>, (left, top): (i32, i32)) -> Result<(), String> {
        words(area, &self.title, (left + NAME, top + 14), &style(14, INK, HPos::Left))?;
        let values = self.groups.iter().flat_map(|(_, bars)| bars.iter().map(|bar| bar.value));
        let most = values.fold(f64::MIN_POSITIVE, f64::max);
        let width = PANEL - NAME - 66;
        let mut y = top + 30;
        for (name, bars) in &self.groups {
            let height = BAR * bars.len().max(1) as i32;
            let ink = if name.starts_with("tailcask") { OWN } else { INK };
            let at = (left + NAME - 6, y + height / 2);
            words(area, name, at, &style(12, ink, HPos::Right))?;
            for bar in bars {
                let end = left + NAME + (f64::from(width) * bar.value / most).round() as i32;
                let shade = colour(name);
                let shade = if bar.light { lighter(shade) } else { shade };
                block(area, (left + NAME, y), (end.max(left + NAME + 1), y + BAR - 1), shade)?;
                let at = (end + 4, y + BAR / 2);
                words(area, &bar.text, at, &style(10, INK, HPos::Left))?;
                y += BAR;
            }
            if bars.is_empty() {
                let at = (left + NAME + 4, y + BAR / 2);
                words(area, "–", at, &style(10, INK, HPos::Left))?;
                y += BAR;
            }
            y += 6;
        }
        Ok(())
    }
}

/// Panels side by side, with a line above them.
fn panels(path: &Path, title: &str, across: usize, panels: &[Panel<'_>]) -> Result<(), String> {
    if panels.is_empty() {
        return Ok(());
    }
    let across = across.min(panels.len());
    // Each row is as high as its highest panel.
    let rows: Vec<_> = panels
        .chunks(across)
        .map(|row| (row, row.iter().map(Panel::height).max().unwrap_or(0)))
        .collect();
    let height = 36 + rows.iter().map(|(_, height)| height).sum::<i32>();
    let area = canvas(path, ((across as i32 * PANEL + 20) as u32, height as u32))?;
    words(&area, title, (14, 18), &style(16, INK, HPos::Left))?;
    let mut top = 36;
    for (row, height) in rows {
        for (at, panel) in row.iter().enumerate() {
            panel.draw(&area, (10 + at as i32 * PANEL, top))?;
        }
        top += height;
    }
    area.present().map_err(|error| error.to_string())
}

/// One panel of throughput, with a bar for each number of threads.
fn throughput_of<'a>(of: Of<'a>, work: Work, title: &str) -> Option<Panel<'a>> {
    let threads = of.threads(work);
    let bars = |name: &str| -> Vec<Bar> {
        threads
            .iter()
            .enumerate()
            .filter_map(|(at, threads)| {
                let [value, ..] = of.middle(name, work, *threads, None, Outcome::rate)?;
                Some(Bar { value, text: rate(value), light: at + 1 < of.threads(work).len() })
            })
            .collect()
    };
    let names = of.contenders().into_iter();
    let groups: Vec<_> = names.map(|name| (name, bars(name))).collect();
    (!threads.is_empty()).then(|| Panel { title: title.into(), groups })
}

fn listed(threads: &[usize]) -> String {
    let threads: Vec<_> = threads.iter().map(ToString::to_string).collect();
    threads.join(", ")
}

fn throughput(rows: &[Row], path: &Path) -> Result<(), String> {
    let of = Of { rows, section: "ram" };
    let all = [
        (Work::Fill, "fill"),
        (Work::Overwrite, "overwrite"),
        (Work::Batch, "batches of 100"),
        (Work::Get, "get"),
        (Work::GetZipf, "get, zipf"),
        (Work::GetMany, "get, 32 at once"),
        (Work::GetAbsent, "get, absent"),
        (Work::YcsbA, "YCSB-A"),
        (Work::YcsbB, "YCSB-B"),
        (Work::Scan, "scan of all pairs"),
    ];
    let all: Vec<_> =
        all.into_iter().filter_map(|(work, title)| throughput_of(of, work, title)).collect();
    let threads = listed(&of.threads(Work::Get));
    panels(
        path,
        &format!("In memory: keys a second; bars from the top: {threads} threads"),
        3,
        &all,
    )
}

fn durable(rows: &[Row], path: &Path) -> Result<(), String> {
    let of = Of { rows, section: "durable" };
    let panel = throughput_of(of, Work::Durable, "puts a second");
    let threads = listed(&of.threads(Work::Durable));
    let title = format!("After fsync; from the top: {threads} threads");
    panels(path, &title, 1, &Vec::from_iter(panel))
}

fn cold(rows: &[Row], path: &Path) -> Result<(), String> {
    let of = Of { rows, section: "cold" };
    let all = [(Work::Get, "gets a second"), (Work::Overwrite, "overwrites a second")];
    let all: Vec<_> =
        all.into_iter().filter_map(|(work, title)| throughput_of(of, work, title)).collect();
    let threads = listed(&of.threads(Work::Get));
    panels(
        path,
        &format!("Data of four times the memory; bars from the top: {threads} threads"),
        2,
        &all,
    )
}

fn logs(rows: &[Row], path: &Path) -> Result<(), String> {
    let of = Of { rows, section: "logs" };
    let all = [
        (Work::Append, "append, 1 and 2 threads"),
        (Work::AppendBatch, "100 at once, 1 and 2 threads"),
        (Work::ReadLog, "read"),
        (Work::AppendDurable, "append and fsync, 1, 16, 64 threads"),
    ];
    let all: Vec<_> =
        all.into_iter().filter_map(|(work, title)| throughput_of(of, work, title)).collect();
    panels(path, "Logs: entries a second", 2, &all)
}

/// Percentiles on a logarithmic scale: a line from p50 to the maximum, with marks at p99 and p99.9.
fn latency(rows: &[Row], path: &Path) -> Result<(), String> {
    let of = Of { rows, section: "latency" };
    let names = of.contenders();
    if names.is_empty() {
        return Ok(());
    }
    let works = [(Work::Get, "get"), (Work::Overwrite, "overwrite")];
    let threads = of.threads(Work::Get);
    let (row, head) = (18, 56);
    let height = head + row * names.len() as i32 + 30;
    let size = (threads.len() as i32 * PANEL + 20, 40 + 2 * height);
    let area = canvas(path, (size.0 as u32, size.1 as u32))?;
    let title = "Latency in memory: p50 (ring), p99, p99.9 (dots) and the maximum (bar)";
    words(&area, title, (14, 18), &style(16, INK, HPos::Left))?;
    // From 100 ns to 1 s.
    let (low, high) = (2.0, 9.0);
    let width = PANEL - NAME - 24;
    for (down, (work, title)) in works.into_iter().enumerate() {
        for (across, threads) in threads.iter().enumerate() {
            let left = 10 + across as i32 * PANEL + NAME;
            let top = 40 + down as i32 * height;
            let s = if *threads == 1 { "" } else { "s" };
            let title = format!("{title}, {threads} thread{s}");
            words(&area, &title, (left, top + 14), &style(14, INK, HPos::Left))?;
            let x = |time: f64| {
                let place = (time.max(1.0).log10().clamp(low, high) - low) / (high - low);
                left + (f64::from(width) * place).round() as i32
            };
            let bottom = top + head + row * names.len() as i32;
            for power in 2..=9 {
                let at = x(10_f64.powi(power));
                block(&area, (at, top + head - 12), (at + 1, bottom), FAINT)?;
                let text = time(10_u64.pow(power as u32)).replace(".0", "").replace("0.10", "0.1");
                words(&area, &text, (at, top + head - 20), &style(9, INK, HPos::Center))?;
            }
            for (at, name) in names.iter().enumerate() {
                let y = top + head + row * at as i32 + row / 2 - 6;
                let ink = if *name == "tailcask" { OWN } else { INK };
                words(&area, name, (left - 8, y), &style(12, ink, HPos::Right))?;
                let cells = of.cells(name, work, *threads, None);
                let Some(latency) = cells.iter().find_map(|outcome| outcome.latency) else {
                    continue;
                };
                let shade = colour(name);
                let [p50, p99, p999, max] =
                    [latency.p50, latency.p99, latency.p999, latency.max].map(|at| x(at as f64));
                block(&area, (p50, y), (max, y + 1), lighter(shade))?;
                block(&area, (max - 1, y - 5), (max, y + 5), shade)?;
                let draw = |circle: Circle<(i32, i32), i32>| {
                    area.draw(&circle).map_err(|error| error.to_string())
                };
                draw(Circle::new((p99, y), 3, lighter(shade).filled()))?;
                draw(Circle::new((p999, y), 3, shade.filled()))?;
                draw(Circle::new((p50, y), 4, WHITE.filled()))?;
                draw(Circle::new((p50, y), 4, shade.stroke_width(2)))?;
            }
        }
    }
    area.present().map_err(|error| error.to_string())
}

/// A line for each contender, both axes logarithmic.
struct Lines<'a> {
    title: &'a str,
    across: &'a str,
    lines: Vec<(&'a str, Vec<(f64, f64)>)>,
    label_across: &'a dyn Fn(&f64) -> String,
    label_up: &'a dyn Fn(&f64) -> String,
    log_across: bool,
    log_up: bool,
}

impl Lines<'_> {
    fn draw(&self, area: &Area<'_>) -> Result<(), String> {
        let points = || self.lines.iter().flat_map(|(_, points)| points.iter());
        let bounds = |get: &dyn Fn(&(f64, f64)) -> f64| {
            let low = points().map(get).fold(f64::INFINITY, f64::min);
            (low, points().map(get).fold(f64::NEG_INFINITY, f64::max))
        };
        let ((left, right), (low, high)) = (bounds(&|point| point.0), bounds(&|point| point.1));
        if !left.is_finite() {
            return Ok(());
        }
        let mut builder = ChartBuilder::on(area);
        builder
            .caption(self.title, ("sans-serif", 15).into_font().color(&INK))
            .margin(10)
            .margin_right(26)
            .x_label_area_size(36)
            .y_label_area_size(56);
        macro_rules! draw {
            ($across:expr, $up:expr) => {{
                let mut chart =
                    builder.build_cartesian_2d($across, $up).map_err(|error| error.to_string())?;
                chart
                    .configure_mesh()
                    .light_line_style(WHITE)
                    .bold_line_style(FAINT)
                    .x_desc(self.across)
                    .x_labels(6)
                    .x_label_formatter(self.label_across)
                    .y_label_formatter(self.label_up)
                    .label_style(("sans-serif", 11).into_font().color(&INK))
                    .draw()
                    .map_err(|error| error.to_string())?;
                for (name, points) in &self.lines {
                    let shade = colour(name);
                    let width = if name.starts_with("tailcask") { 3 } else { 1 };
                    let line = LineSeries::new(points.iter().copied(), shade.stroke_width(width));
                    chart.draw_series(line.point_size(2)).map_err(|error| error.to_string())?;
                }
            }};
        }
        match (self.log_across, self.log_up) {
            (true, true) => draw!((left..right).log_scale(), (low / 1.3..high * 1.3).log_scale()),
            (true, false) => draw!((left..right).log_scale(), 0.0..high * 1.05),
            (false, true) => draw!(0.0..right, (low / 1.3..high * 1.3).log_scale()),
            (false, false) => draw!(0.0..right, 0.0..high * 1.05),
        }
        Ok(())
    }
}

/// Charts side by side, with the contenders' colours below.
fn charts(path: &Path, names: &[&str], charts: &[Lines<'_>], across: usize) -> Result<(), String> {
    if names.is_empty() || charts.is_empty() {
        return Ok(());
    }
    let down = charts.len().div_ceil(across);
    let (width, height) = (470, 320);
    let size = ((width * across) as u32, (height * down + 34) as u32);
    let area = canvas(path, size)?;
    let (upper, lower) = area.split_vertically(size.1 - 34);
    for (part, chart) in upper.split_evenly((down, across)).iter().zip(charts) {
        chart.draw(part)?;
    }
    let each = size.0 as i32 / names.len() as i32;
    for (at, name) in names.iter().enumerate() {
        let x = 10 + each * at as i32;
        block(&lower, (x, 8), (x + 14, 18), colour(name))?;
        words(&lower, name, (x + 18, 14), &style(12, INK, HPos::Left))?;
    }
    area.present().map_err(|error| error.to_string())
}

fn sizes(rows: &[Row], path: &Path) -> Result<(), String> {
    let of = Of { rows, section: "sizes" };
    let names = of.contenders();
    // The marks are powers of ten.
    let label = |bytes: &f64| match *bytes {
        bytes if bytes >= 1e6 => format!("{:.0} MB", bytes / 1e6),
        bytes if bytes >= 1e3 => format!("{:.0} kB", bytes / 1e3),
        bytes => format!("{bytes:.0} B"),
    };
    let lines = |work: Work, scale: &dyn Fn(usize) -> f64| -> Vec<(&str, Vec<(f64, f64)>)> {
        let point = |name: &str, value: usize| {
            let [middle, ..] = of.middle(name, work, 1, Some(value), Outcome::rate)?;
            Some((value as f64, middle * scale(value)))
        };
        let sizes = value_sizes(rows);
        let points = |name| sizes.iter().filter_map(|value| point(name, *value)).collect();
        names.iter().map(|name| (*name, points(name))).collect()
    };
    let operations = |value: &f64| rate(*value);
    let bandwidth = |value: &f64| format!("{}B", rate(*value));
    let chart = |title, work, bytes: bool| Lines {
        title,
        across: "size of a value",
        lines: lines(work, &|value| if bytes { value as f64 } else { 1.0 }),
        label_across: &label,
        label_up: if bytes { &bandwidth } else { &operations },
        log_across: true,
        log_up: true,
    };
    let all = [
        chart("puts a second", Work::Fill, false),
        chart("gets a second", Work::Get, false),
        chart("bytes put a second", Work::Fill, true),
        chart("bytes read a second", Work::Get, true),
    ];
    charts(path, &names, &all, 2)
}

fn growth(rows: &[Row], path: &Path) -> Result<(), String> {
    let of = Of { rows, section: "growth" };
    let names = of.contenders();
    let lines = |what: &dyn Fn(&crate::cell::Step) -> f64| -> Vec<(&str, Vec<(f64, f64)>)> {
        let points = |name: &str| {
            let cells = of.cells(name, Work::Grow, 1, None);
            let steps = cells.into_iter().flat_map(|outcome| outcome.steps.iter());
            steps.map(|step| (step.keys as f64, what(step).max(1.0))).collect()
        };
        names.iter().map(|name| (*name, points(name))).collect()
    };
    let keys = |keys: &f64| rate(*keys);
    let operations = |value: &f64| rate(*value);
    let times = |value: &f64| time(*value as u64);
    let chart = |title, lines, label_up, log_up| Lines {
        title,
        across: "keys in the store",
        lines,
        label_across: &keys,
        label_up,
        log_across: false,
        log_up,
    };
    let all = [
        chart(
            "puts a second",
            lines(&|step| step.rate),
            &operations as &dyn Fn(&f64) -> String,
            false,
        ),
        chart("p99.9 of a put", lines(&|step| step.latency.p999 as f64), &times, true),
        chart("worst put", lines(&|step| step.latency.max as f64), &times, true),
    ];
    charts(path, &names, &all, 3)
}
