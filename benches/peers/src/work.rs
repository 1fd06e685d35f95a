//! The workloads of key-value stores.

use crate::cell::{Cell, Outcome, Step, Work};
use crate::data::{self, Key, Order, Values, key, sequence};
use crate::drive::{self, Drive};
use crate::engine::{Engine, Session};
use crate::engines::ForEngine;
use crate::system::{self, Counters};
use anyhow::{Context, Result, bail, ensure};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Keys of the kill test have the thread in their high bits.
const OF_THREAD: u32 = 32;
const MANY: usize = 32;
const BATCH: usize = 100;
/// Keys of a thread that are drawn before the clock starts.
const DRAWN: usize = 1 << 20;

pub struct Run<'a>(pub &'a Cell);

impl ForEngine for Run<'_> {
    type Result = Result<Outcome>;

    fn run<E: Engine>(self) -> Result<Outcome> {
        let cell = self.0;
        ensure!(
            cell.value <= E::MAX_VALUE,
            "{}values of more than {} bytes",
            crate::NOT_OFFERED,
            E::MAX_VALUE
        );
        match cell.work {
            Work::GetMany if !E::GET_MANY => bail!("{}a call for many keys", crate::NOT_OFFERED),
            Work::Batch if !E::BATCH => bail!("{}batches", crate::NOT_OFFERED),
            Work::Scan if !E::SCAN => bail!("{}a scan", crate::NOT_OFFERED),
            _ => {}
        }
        match cell.work {
            Work::Open | Work::Reopen => open::<E>(cell),
            Work::KillFill => kill_fill::<E>(cell),
            Work::KillCheck => kill_check::<E>(cell),
            _ => work::<E>(cell),
        }
    }
}

fn work<E: Engine>(cell: &Cell) -> Result<Outcome> {
    let values = Values::new(cell.value);
    let anew = !E::REOPENS && cell.work.writes_what_is_there();
    let own = Cell { dir: cell.dir.join("anew"), ..cell.clone() };
    let cell = if anew { &own } else { cell };
    let engine = E::open(&cell.dir, &cell.settings()).context("opening")?;
    let of = Of { cell, engine: &engine, values: &values };
    if anew {
        of.load(0, cell.keys)?;
    }
    let mut outcome = match cell.work {
        Work::Load => of.load(0, cell.keys),
        Work::Fill => of.fill(),
        Work::Durable => of.durable(),
        Work::Grow => of.grow(),
        Work::Scan => {
            of.warm()?;
            of.scan()
        }
        _ => {
            of.warm()?;
            of.accesses()
        }
    }?;
    engine.close().context("closing")?;
    outcome.disk = system::disk_usage(&cell.dir);
    if anew {
        std::fs::remove_dir_all(&cell.dir)?;
    }
    Ok(outcome)
}

struct Of<'a, E> {
    cell: &'a Cell,
    engine: &'a E,
    values: &'a Values,
}

impl<E: Engine> Of<'_, E> {
    fn drive(&self) -> Drive {
        let Cell { threads, seconds, timed, .. } = *self.cell;
        Drive { threads, seconds, timed }
    }

    fn touch(&self) -> Result<()> {
        match self.cell.touch {
            0 => Ok(()),
            bytes => system::touch(&self.cell.dir, bytes),
        }
    }

    /// The version that this cell writes.
    fn version(&self) -> u64 {
        1 + (self.cell.round + self.cell.threads as u64 * 3) % (data::VERSIONS - 1)
    }

    fn load(&self, from: u64, to: u64) -> Result<Outcome> {
        let mut session = self.engine.session()?;
        let begin = Instant::now();
        // Not timed: as fast as it will go, but no more than a few megabytes at once.
        let at_once = ((4 << 20) / (self.cell.value + 64)).clamp(1, 1000) as u64;
        for n in (from..to).step_by(at_once as usize) {
            let pairs = n..to.min(n + at_once);
            let pairs: Vec<_> = pairs.map(|n| (key(n), self.values.get(n, 0))).collect();
            session.batch(&pairs)?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        Ok(Outcome { count: to - from, seconds, ..Outcome::default() })
    }

    fn fill(&self) -> Result<Outcome> {
        self.touch()?;
        let (keys, threads) = (self.cell.keys, self.cell.threads as u64);
        let begin = |thread: u64| keys * thread / threads;
        let done: Vec<_> = (0..threads).map(|_| AtomicU64::new(0)).collect();
        let outcome = self.drive().run(
            |_| self.engine.session(),
            |session, thread, i| {
                let n = begin(thread as u64) + i;
                if n == begin(thread as u64 + 1) {
                    return Ok(0);
                }
                session.put(&key(n), self.values.get(n, 0))?;
                done[thread].store(i + 1, Ordering::Relaxed);
                Ok(1)
            },
        )?;
        // Whoever did not finish in time is loaded to the end, off the clock: the cells that follow
        // are to find the same keys.
        for thread in 0..threads {
            let done = done[thread as usize].load(Ordering::Relaxed);
            self.load(begin(thread) + done, begin(thread + 1))?;
        }
        self.sample(|n| Ok(n % self.cell.keys), Some(0))?;
        Ok(outcome)
    }

    /// Reads a thousand keys and checks their values.
    fn sample(&self, which: impl Fn(u64) -> Result<u64>, version: Option<u64>) -> Result<()> {
        let mut session = self.engine.session()?;
        for i in 0..1000_u64 {
            let n = which(data::mix(i))?;
            let mut found = None;
            ensure!(
                session.get(&key(n), |value| found = self.values.version(n, value))?,
                "{n} lost"
            );
            ensure!(found.is_some() && (version.is_none() || found == version), "{n}: wrong value");
        }
        Ok(())
    }

    /// Brings everything into the page cache and into the caches of the contender.
    fn warm(&self) -> Result<()> {
        let cell = self.cell;
        if cell.cgroup.is_none() {
            if E::SCAN {
                self.scan()?;
            } else {
                let mut session = self.engine.session()?;
                for n in 0..cell.keys {
                    session.get(&key(n), |_| ())?;
                }
            }
            self.touch()?;
        }
        let seconds = match (cell.cgroup.is_some(), cell.work.reads()) {
            // What is read anyway now and then is to be in memory.
            (true, _) => cell.seconds / 2.0,
            (false, true) => 0.2,
            (false, false) => return Ok(()),
        };
        let drive = Drive { seconds, timed: false, ..self.drive() };
        self.accesses_by(drive, 77)?;
        Ok(())
    }

    fn scan(&self) -> Result<Outcome> {
        let (mut count, mut wrong) = (0, 0);
        let before = system::usage();
        let begin = Instant::now();
        self.engine.scan(|key, value| {
            count += 1;
            let good = data::number(key).is_some_and(|n| self.values.check(n, value));
            wrong += u64::from(!good);
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        let after = system::usage();
        ensure!(wrong == 0, "{wrong} of {count} pairs of a scan are wrong");
        ensure!(count == self.cell.keys, "{count} pairs in a scan of {}", self.cell.keys);
        let (processor, read) = (after.processor - before.processor, after.read - before.read);
        Ok(Outcome { count, seconds, processor, read, ..Outcome::default() })
    }

    fn accesses(&self) -> Result<Outcome> {
        self.accesses_by(self.drive(), self.cell.round)
    }

    fn accesses_by(&self, drive: Drive, seed: u64) -> Result<Outcome> {
        let Cell { work, keys, .. } = *self.cell;
        let order = match work {
            Work::GetZipf | Work::YcsbA | Work::YcsbB => Order::Zipf,
            _ => Order::Uniform,
        };
        // Where memory is scarce, a table of keys that is long enough would take too much of it, and one
        // that is taken in turns would soon be of keys that are in memory. There each key is drawn when it
        // is needed.
        let cold = self.cell.cgroup.is_some();
        ensure!(!cold || matches!(order, Order::Uniform), "a popular key is not cold");
        let len = if cold { 0 } else { DRAWN };
        let drawn: Vec<_> = (0..drive.threads as u64)
            .map(|thread| sequence(order, keys, seed << 16 | thread, len))
            .collect();
        let version = self.version();
        let (engine, values) = (self.engine, self.values);
        // How many steps of each thread came to their end.
        let steps: Vec<_> = drawn.iter().map(|_| AtomicU64::new(0)).collect();
        let number = |thread: usize, i: u64| match cold {
            true => data::mix(data::mix(seed << 16 | thread as u64) ^ i) % keys,
            false => u64::from(drawn[thread][i as usize & (DRAWN - 1)]),
        };
        let get = |session: &mut E::Session<'_>, n: u64| -> Result<()> {
            let mut good = false;
            let there = session.get(&key(n), |value| good = values.check(n, value))?;
            ensure!(there, "{n} is lost");
            ensure!(good, "{n} has a wrong value");
            Ok(())
        };
        let put =
            |session: &mut E::Session<'_>, n: u64| session.put(&key(n), values.get(n, version));
        let outcome = drive.run(
            |_| engine.session(),
            |session, thread, i| {
                let n = number(thread, i);
                let count = match work {
                    Work::Get | Work::GetZipf => get(session, n).map(|()| 1),
                    Work::Overwrite => put(session, n).map(|()| 1),
                    // Whether it reads or writes is drawn with the key.
                    Work::YcsbA if data::mix(i) & 1 == 0 => put(session, n).map(|()| 1),
                    Work::YcsbB if data::mix(i).is_multiple_of(20) => put(session, n).map(|()| 1),
                    Work::YcsbA | Work::YcsbB => get(session, n).map(|()| 1),
                    Work::GetAbsent => {
                        let there = session.get(&data::absent(n), |_| ())?;
                        ensure!(!there, "a key is there that nobody put");
                        Ok(1)
                    }
                    Work::GetMany => {
                        let mut numbers = [0; MANY];
                        let mut keys: [Key; MANY] = [[0; 16]; MANY];
                        for at in 0..MANY {
                            numbers[at] = number(thread, i * MANY as u64 + at as u64);
                            keys[at] = key(numbers[at]);
                        }
                        let mut good = 0;
                        session.get_many(&keys, |at, value| {
                            good += u64::from(values.check(numbers[at], value));
                        })?;
                        ensure!(good == MANY as u64, "{good} of {MANY} values are right");
                        Ok(good)
                    }
                    Work::Batch => {
                        let numbers = (0..BATCH as u64).map(|at| i * BATCH as u64 + at);
                        let pairs: Vec<_> = numbers
                            .map(|i| number(thread, i))
                            .map(|n| (key(n), values.get(n, version)))
                            .collect();
                        session.batch(&pairs)?;
                        Ok(BATCH as u64)
                    }
                    _ => unreachable!("not an access"),
                }?;
                steps[thread].store(i + 1, Ordering::Relaxed);
                Ok(count)
            },
        )?;
        // What was overwritten is what was written last, unless others write it, too.
        let done = steps[0].load(Ordering::Relaxed);
        if work == Work::Overwrite && done > 0 {
            let last = if cold { done } else { done.min(DRAWN as u64) };
            self.sample(|i| Ok(number(0, i % last)), Some(version))?;
        }
        Ok(outcome)
    }

    fn durable(&self) -> Result<Outcome> {
        self.touch()?;
        let drive = Drive { timed: true, ..self.drive() };
        let number = |thread: usize, i: u64| (thread as u64) << OF_THREAD | i;
        let outcome = drive.run(
            |_| self.engine.session(),
            |session, thread, i| {
                let n = number(thread, i);
                session.put(&key(n), self.values.get(n, 0))?;
                Ok(1)
            },
        )?;
        self.sample(|_| Ok(number(0, 0)), Some(0))?;
        Ok(outcome)
    }

    fn grow(&self) -> Result<Outcome> {
        self.touch()?;
        let Cell { keys, step, .. } = *self.cell;
        ensure!(step > 0, "a step of no keys");
        let mut session = self.engine.session()?;
        let until = Instant::now() + Duration::from_secs_f64(self.cell.seconds);
        let mut steps = Vec::new();
        let (mut n, begin, before) = (0, Instant::now(), system::usage());
        while n < keys && Instant::now() < until {
            let mut histogram = drive::histogram();
            let (first, begin) = (n, Instant::now());
            let (end, mut last) = (keys.min(n + step), begin);
            while n < end {
                session.put(&key(n), self.values.get(n, 0))?;
                n += 1;
                let now = Instant::now();
                drive::record(&mut histogram, now - last);
                last = now;
                if now >= until {
                    break;
                }
            }
            let rate = (n - first) as f64 / begin.elapsed().as_secs_f64();
            steps.push(Step { keys: n, rate, latency: drive::latency(&histogram) });
        }
        let (seconds, after) = (begin.elapsed().as_secs_f64(), system::usage());
        self.sample(|i| Ok(i % n), Some(0))?;
        let processor = after.processor - before.processor;
        Ok(Outcome { count: n, seconds, steps, processor, ..Outcome::default() })
    }
}

fn open<E: Engine>(cell: &Cell) -> Result<Outcome> {
    let values = Values::new(cell.value);
    if cell.touch > 0 {
        system::touch(&cell.dir, cell.touch)?;
    }
    let before = system::usage();
    let begin = Instant::now();
    let engine = E::open(&cell.dir, &cell.settings()).context("opening")?;
    let n = cell.keys / 2;
    let mut good = false;
    let there = engine.session()?.get(&key(n), |value| good = values.check(n, value))?;
    let seconds = begin.elapsed().as_secs_f64();
    let after = system::usage();
    ensure!(there && good, "{n} is lost or wrong");
    engine.close()?;
    let (processor, read) = (after.processor - before.processor, after.read - before.read);
    let disk = system::disk_usage(&cell.dir);
    Ok(Outcome { count: cell.keys, seconds, processor, read, disk, ..Outcome::default() })
}

fn acks(cell: &Cell) -> Result<Counters> {
    Counters::open(cell.acks.as_ref().context("--acks")?, cell.threads)
}

/// Puts new keys until somebody kills this process.
fn kill_fill<E: Engine>(cell: &Cell) -> Result<Outcome> {
    let engine = E::open(&cell.dir, &cell.settings())?;
    let (values, acks) = (Values::new(cell.value), acks(cell)?);
    let drive = Drive { threads: cell.threads, seconds: cell.seconds, timed: false };
    drive.run(
        |_| engine.session(),
        |session, thread, i| {
            if i == cell.keys {
                return Ok(0);
            }
            let n = (thread as u64) << OF_THREAD | i;
            session.put(&key(n), values.get(n, 0))?;
            acks.get(thread).store(i + 1, Ordering::Release);
            Ok(1)
        },
    )?;
    // Done too soon: to be killed all the same.
    std::thread::sleep(Duration::from_secs(60));
    bail!("nobody killed this process")
}

fn kill_check<E: Engine>(cell: &Cell) -> Result<Outcome> {
    let acks = acks(cell)?;
    let mut outcome = Outcome::default();
    for thread in 0..cell.threads {
        outcome.acknowledged += acks.get(thread).load(Ordering::Acquire);
    }
    let begin = Instant::now();
    let engine = E::open(&cell.dir, &cell.settings()).context("opening")?;
    outcome.seconds = begin.elapsed().as_secs_f64();
    let values = Values::new(cell.value);
    let mut session = engine.session()?;
    for thread in 0..cell.threads {
        for i in 0..acks.get(thread).load(Ordering::Acquire) {
            let n = (thread as u64) << OF_THREAD | i;
            let mut good = false;
            match session.get(&key(n), |value| good = values.check(n, value)) {
                Ok(false) => outcome.gone += 1,
                Ok(true) if good => outcome.count += 1,
                Ok(true) | Err(_) => outcome.wrong += 1,
            }
        }
    }
    Ok(outcome)
}
