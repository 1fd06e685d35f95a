//! The workloads of logs.

use crate::cell::{Cell, Outcome, Work};
use crate::data::Values;
use crate::drive::Drive;
use crate::log::{Log, Writer};
use crate::logs::ForLog;
use crate::system::{self, Counters};
use anyhow::{Context, Result, bail, ensure};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const OF_THREAD: u32 = 32;
const BATCH: usize = 100;

pub struct Run<'a>(pub &'a Cell);

impl ForLog for Run<'_> {
    type Result = Result<Outcome>;

    fn run<L: Log>(self) -> Result<Outcome> {
        let cell = self.0;
        ensure!(cell.value > 8, "entries have a number of 8 bytes");
        match cell.work {
            Work::AppendBatch if !L::BATCH => bail!("{}batches", crate::NOT_OFFERED),
            Work::Append | Work::AppendBatch if !L::BUFFERED => {
                bail!("{}without fsync", crate::NOT_OFFERED)
            }
            Work::ReadLog if !L::SCAN => bail!("{}a scan", crate::NOT_OFFERED),
            _ => {}
        }
        let entries = Entries { values: Values::new(cell.value - 8) };
        match cell.work {
            Work::LogKillFill => kill_fill::<L>(cell, &entries),
            Work::LogKillCheck => kill_check::<L>(cell, &entries),
            Work::ReadLog => read::<L>(cell, &entries),
            _ => append::<L>(cell, &entries),
        }
    }
}

/// An entry is its number, then a value of it.
struct Entries {
    values: Values,
}

impl Entries {
    fn write(&self, n: u64, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(&n.to_le_bytes());
        buffer.extend_from_slice(self.values.get(n, 0));
    }

    fn number(&self, entry: &[u8]) -> Option<u64> {
        let (number, value) = entry.split_first_chunk()?;
        let n = u64::from_le_bytes(*number);
        self.values.check(n, value).then_some(n)
    }
}

fn append<L: Log>(cell: &Cell, entries: &Entries) -> Result<Outcome> {
    let log = L::open(&cell.dir, &cell.settings()).context("opening")?;
    if cell.touch > 0 {
        system::touch(&cell.dir, cell.touch)?;
    }
    let at_once = if cell.work == Work::AppendBatch { BATCH } else { 1 };
    let most = cell.keys / cell.threads as u64;
    let drive = Drive {
        threads: cell.threads,
        seconds: cell.seconds,
        timed: cell.timed || cell.work.is_durable(),
    };
    let mut outcome = drive.run(
        |thread| Ok((log.writer(thread)?, vec![Vec::new(); at_once])),
        |(writer, buffers), thread, i| {
            let i = i * at_once as u64;
            if i >= most {
                return Ok(0);
            }
            for (at, buffer) in buffers.iter_mut().enumerate() {
                entries.write((thread as u64) << OF_THREAD | (i + at as u64), buffer);
            }
            if at_once == 1 {
                writer.append(&buffers[0])?;
            } else {
                let mut slices: [&[u8]; BATCH] = [&[]; BATCH];
                buffers.iter().zip(&mut slices).for_each(|(buffer, slice)| *slice = buffer);
                writer.batch(&slices)?;
            }
            Ok(at_once as u64)
        },
    )?;
    log.close().context("closing")?;
    // Off the clock: it is all there, and right.
    if !cell.work.is_durable() && L::SCAN {
        let found = read::<L>(&Cell { keys: outcome.count, ..cell.clone() }, entries)?;
        ensure!(found.count == outcome.count, "{} of {}", found.count, outcome.count);
    }
    outcome.disk = system::disk_usage(&cell.dir);
    Ok(outcome)
}

fn read<L: Log>(cell: &Cell, entries: &Entries) -> Result<Outcome> {
    let log = L::open(&cell.dir, &cell.settings()).context("opening")?;
    let (mut count, mut wrong) = (0, 0);
    let begin = Instant::now();
    log.scan(|entry| {
        count += 1;
        wrong += u64::from(entries.number(entry).is_none());
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(wrong == 0, "{wrong} of {count} entries are wrong");
    log.close()?;
    Ok(Outcome { count, seconds, ..Outcome::default() })
}

fn acks(cell: &Cell) -> Result<Counters> {
    Counters::open(cell.acks.as_ref().context("--acks")?, cell.threads)
}

fn kill_fill<L: Log>(cell: &Cell, entries: &Entries) -> Result<Outcome> {
    let log = L::open(&cell.dir, &cell.settings())?;
    let acks = acks(cell)?;
    let drive = Drive { threads: cell.threads, seconds: cell.seconds, timed: false };
    drive.run(
        |thread| Ok((log.writer(thread)?, Vec::new())),
        |(writer, buffer), thread, i| {
            if i == cell.keys {
                return Ok(0);
            }
            entries.write((thread as u64) << OF_THREAD | i, buffer);
            writer.append(buffer)?;
            acks.get(thread).store(i + 1, Ordering::Release);
            Ok(1)
        },
    )?;
    std::thread::sleep(Duration::from_secs(60));
    bail!("nobody killed this process")
}

fn kill_check<L: Log>(cell: &Cell, entries: &Entries) -> Result<Outcome> {
    let acks = acks(cell)?;
    let of = |thread| acks.get(thread).load(Ordering::Acquire);
    let mut there: Vec<Vec<bool>> =
        (0..cell.threads).map(|thread| vec![false; of(thread) as usize]).collect();
    let begin = Instant::now();
    let log = L::open(&cell.dir, &cell.settings()).context("opening")?;
    let mut outcome = Outcome { seconds: begin.elapsed().as_secs_f64(), ..Outcome::default() };
    let mut wrong = 0;
    log.scan(|entry| match entries.number(entry) {
        Some(n) => {
            let (thread, i) = ((n >> OF_THREAD) as usize, n as u32 as usize);
            if let Some(there) = there.get_mut(thread).and_then(|thread| thread.get_mut(i)) {
                *there = true;
            }
        }
        None => wrong += 1,
    })?;
    outcome.wrong = wrong;
    for there in &there {
        outcome.acknowledged += there.len() as u64;
        outcome.count += there.iter().filter(|there| **there).count() as u64;
    }
    outcome.gone = outcome.acknowledged - outcome.count;
    Ok(outcome)
}
