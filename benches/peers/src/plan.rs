//! Which cells there are, and in what order.

use crate::cell::{Cell, Work};
use crate::{engines, logs, system};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Section {
    /// In memory: throughput.
    Ram,
    /// In memory: percentiles.
    Latency,
    /// Values from 16 B to 1 MiB.
    Sizes,
    /// Every put acknowledged after fsync.
    Durable,
    /// Four times the memory of a cgroup.
    Cold,
    /// More and more keys.
    Growth,
    /// kill -9 in the middle of a fill.
    Kill,
    /// Logs.
    Logs,
}

#[derive(Args, Clone, Debug)]
pub struct Setting {
    /// About 5 minutes: small, and without data beyond memory unless `--only cold` asks for it.
    #[arg(long, conflicts_with = "long")]
    quick: bool,
    /// Hours: 5 million keys, 3 rounds, growth to 100 million keys.
    #[arg(long)]
    long: bool,
    /// Only these sections.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Section>,
    /// Only these contenders, by name.
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<String>,
    /// A program that is a contender: it takes the arguments of `cell` and writes what came of it to
    /// `--result`. It is run on what needs no reopening, and loads what it works on by itself.
    #[arg(long, value_name = "NAME=PROGRAM")]
    pub external: Vec<String>,
    /// Keys in memory.
    #[arg(long)]
    keys: Option<u64>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    value: usize,
    #[arg(long)]
    rounds: Option<u64>,
    /// Of each measurement.
    #[arg(long)]
    seconds: Option<f64>,
    /// Threads of throughput.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Threads of latencies and of cold data.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 16])]
    latency_threads: Vec<usize>,
    /// MiB that the cgroup of cold data may use; the data is four times that.
    #[arg(long)]
    cold_mib: Option<u64>,
    /// This process is in a memory cgroup of `--cold-mib` already.
    #[arg(long)]
    pub inside_cgroup: bool,
    /// Keys of the growth.
    #[arg(long)]
    growth_keys: Option<u64>,
    /// A contender that is not there by then stops growing.
    #[arg(long)]
    growth_seconds: Option<f64>,
    /// Where the contenders write; on the file system that is to be measured.
    #[arg(long, default_value = "target/peers-data")]
    pub dir: PathBuf,
}

/// What is done, one after the other.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "some hundred of them")]
pub enum Job {
    Cell(Cell),
    /// Kills the first after so many milliseconds, and runs the second.
    Kill(Cell, Cell, u64),
    /// Removes a directory.
    Remove(PathBuf),
}

impl Setting {
    fn pick<T>(&self, quick: T, usual: T, long: T) -> T {
        match (self.quick, self.long) {
            (true, _) => quick,
            (_, true) => long,
            _ => usual,
        }
    }

    fn keys(&self) -> u64 {
        self.keys.unwrap_or(self.pick(100_000, 1_000_000, 5_000_000))
    }

    fn rounds(&self) -> u64 {
        self.rounds.unwrap_or(self.pick(1, 2, 3))
    }

    fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(self.pick(0.1, 0.5, 3.0))
    }

    pub fn wants(&self, section: Section) -> bool {
        match self.only.is_empty() {
            true => !(self.quick && section == Section::Cold),
            false => self.only.contains(&section),
        }
    }

    /// Bytes of the cgroup of cold data.
    pub fn cold_memory(&self) -> u64 {
        self.cold_mib.unwrap_or(self.pick(128, 400, 800)) << 20
    }

    /// Those of this build that are wanted, and in memory the external ones.
    fn contenders_in_memory(&self, round: u64) -> Vec<&str> {
        let mut names = self.contenders(engines::NAMES, round);
        names.extend(self.external.iter().filter_map(|it| it.split_once('=')).map(|it| it.0));
        names
    }

    fn contenders<'a>(&'a self, all: &[&'static str], round: u64) -> Vec<&'a str> {
        let wanted = |name: &&str| {
            self.contenders.is_empty() || self.contenders.iter().any(|wanted| wanted == name)
        };
        let mut names: Vec<_> = all.iter().copied().filter(wanted).collect();
        if !names.is_empty() {
            // Nobody is always the first.
            let by = round as usize * 3 % names.len();
            names.rotate_left(by);
        }
        names
    }

    fn cell(&self, section: &str, contender: &str, work: Work) -> Cell {
        let keys = self.keys();
        let mut cell = Cell {
            contender: contender.into(),
            work,
            threads: 1,
            keys,
            value: self.value,
            seconds: self.seconds(),
            cache: 0,
            touch: 0,
            timed: false,
            cgroup: None,
            step: 0,
            round: 0,
            section: section.into(),
            dir: self.dir.join(format!("{section}-{}", contender.replace(['(', ')'], ""))),
            acks: None,
            result: None,
        };
        size(&mut cell);
        cell
    }

    /// How long a fill may take that others wait for.
    fn fill_seconds(&self) -> f64 {
        self.pick(2.0, 8.0, 120.0)
    }

    pub fn jobs(&self, cgroup: Option<&Path>) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut add = |section, make: &dyn Fn(&mut Vec<Job>)| {
            if self.wants(section) {
                make(&mut jobs);
            }
        };
        add(Section::Kill, &|jobs| self.kill(jobs));
        add(Section::Ram, &|jobs| self.ram(jobs));
        add(Section::Latency, &|jobs| self.latency(jobs));
        add(Section::Durable, &|jobs| self.durable(jobs));
        add(Section::Sizes, &|jobs| self.sizes(jobs));
        add(Section::Logs, &|jobs| self.logs(jobs));
        if let Some(cgroup) = cgroup {
            add(Section::Cold, &|jobs| self.cold(jobs, cgroup));
        }
        add(Section::Growth, &|jobs| self.growth(jobs));
        jobs
    }

    /// All contenders fill, then all do the next thing, and so on: what disturbs the machine for some
    /// seconds disturbs all of them.
    fn ram(&self, jobs: &mut Vec<Job>) {
        for round in 0..self.rounds() {
            let contenders = self.contenders_in_memory(round);
            let mut stage = |work: Work, threads: usize, alone: bool| {
                for contender in &contenders {
                    let external = !engines::NAMES.contains(contender);
                    if external && matches!(work, Work::Open | Work::Reopen | Work::Scan) {
                        continue;
                    }
                    let mut cell = self.cell("ram", contender, work);
                    (cell.threads, cell.round) = (threads, round);
                    if work == Work::Fill {
                        cell.seconds = self.fill_seconds();
                    }
                    if alone {
                        cell.dir.as_mut_os_string().push("-alone");
                    }
                    let dir = cell.dir.clone();
                    jobs.push(Job::Cell(cell));
                    if alone {
                        jobs.push(Job::Remove(dir));
                    }
                }
            };
            for threads in &self.threads {
                stage(Work::Fill, *threads, *threads != 1);
            }
            if !self.threads.contains(&1) {
                stage(Work::Load, 1, false);
            }
            stage(Work::Open, 1, false);
            let reads = [Work::Get, Work::GetZipf, Work::GetMany, Work::GetAbsent];
            let writes = [Work::YcsbB, Work::YcsbA, Work::Overwrite, Work::Batch];
            for work in reads {
                self.threads.iter().for_each(|threads| stage(work, *threads, false));
            }
            stage(Work::Scan, 1, false);
            for work in writes {
                self.threads.iter().for_each(|threads| stage(work, *threads, false));
            }
            stage(Work::Reopen, 1, false);
            for contender in &contenders {
                jobs.push(Job::Remove(self.cell("ram", contender, Work::Fill).dir));
            }
        }
    }

    fn latency(&self, jobs: &mut Vec<Job>) {
        let contenders = self.contenders_in_memory(0);
        let mut stage = |work: Work, threads: usize, timed: bool| {
            for contender in &contenders {
                let mut cell = self.cell("latency", contender, work);
                (cell.threads, cell.timed) = (threads, timed);
                jobs.push(Job::Cell(cell));
            }
        };
        stage(Work::Load, 1, false);
        for work in [Work::Get, Work::Overwrite] {
            self.latency_threads.iter().for_each(|threads| stage(work, *threads, true));
        }
        for contender in &contenders {
            jobs.push(Job::Remove(self.cell("latency", contender, Work::Load).dir));
        }
    }

    fn sizes(&self, jobs: &mut Vec<Job>) {
        let total: u64 = self.pick(8 << 20, 64 << 20, 1 << 30);
        for value in [16, 100, 1 << 10, 8 << 10, 64 << 10, 1 << 20] {
            for contender in self.contenders(engines::NAMES, 0) {
                let mut cell = self.cell("sizes", contender, Work::Fill);
                cell.keys = (total / (value as u64 + 100)).clamp(64, self.keys());
                cell.value = value;
                cell.seconds = self.fill_seconds();
                size(&mut cell);
                let dir = cell.dir.clone();
                jobs.push(Job::Cell(cell.clone()));
                cell.seconds = self.seconds();
                cell.work = Work::Get;
                jobs.push(Job::Cell(cell));
                jobs.push(Job::Remove(dir));
            }
        }
    }

    fn durable(&self, jobs: &mut Vec<Job>) {
        for threads in [1, 16, 64] {
            for contender in self.contenders(engines::NAMES, 0) {
                let mut cell = self.cell("durable", contender, Work::Durable);
                (cell.threads, cell.seconds) = (threads, self.pick(0.3, 1.0, 5.0));
                let dir = cell.dir.clone();
                jobs.push(Job::Cell(cell));
                jobs.push(Job::Remove(dir));
            }
        }
    }

    fn cold(&self, jobs: &mut Vec<Job>, cgroup: &Path) {
        const VALUE: usize = 1000;
        let memory = self.cold_memory();
        for contender in self.contenders(engines::NAMES, 0) {
            let mut cell = self.cell("cold", contender, Work::Load);
            (cell.value, cell.keys) = (VALUE, 4 * memory / VALUE as u64);
            size(&mut cell);
            // "20 to 25% of the memory" (fjall), "about a third" (rocksdb); the rest is the page
            // cache's, and for what the contender writes.
            cell.cache = memory / 4;
            let dir = cell.dir.clone();
            jobs.push(Job::Cell(cell.clone()));
            (cell.cgroup, cell.touch, cell.timed) = (Some(cgroup.into()), 0, true);
            // Overwrites for longer: an LSM tree's first go to memory.
            for (work, seconds) in [
                (Work::Get, self.pick(1.0, 3.0, 20.0)),
                (Work::Overwrite, self.pick(1.0, 8.0, 60.0)),
            ] {
                cell.seconds = seconds;
                for threads in [1, 16] {
                    (cell.work, cell.threads) = (work, threads);
                    jobs.push(Job::Cell(cell.clone()));
                }
            }
            jobs.push(Job::Remove(dir));
        }
    }

    fn growth(&self, jobs: &mut Vec<Job>) {
        for contender in self.contenders(engines::NAMES, 0) {
            let mut cell = self.cell("growth", contender, Work::Grow);
            cell.keys = self.growth_keys.unwrap_or(self.pick(500_000, 5_000_000, 100_000_000));
            cell.step = (cell.keys / 20).max(1);
            cell.seconds = self.growth_seconds.unwrap_or(self.pick(1.5, 8.0, 900.0));
            cell.timed = true;
            size(&mut cell);
            let dir = cell.dir.clone();
            jobs.push(Job::Cell(cell));
            jobs.push(Job::Remove(dir));
        }
    }

    fn kill(&self, jobs: &mut Vec<Job>) {
        for (names, fill, check) in [
            (engines::NAMES, Work::KillFill, Work::KillCheck),
            (logs::NAMES, Work::LogKillFill, Work::LogKillCheck),
        ] {
            for round in 0..self.pick(1, 2, 5) {
                for contender in self.contenders(names, round) {
                    let mut cell = self.cell("kill", contender, fill);
                    (cell.threads, cell.round) = (2, round);
                    // As many a thread as nobody gets to.
                    (cell.keys, cell.seconds) = (8_000_000, 30.0);
                    cell.touch = 0;
                    cell.acks = Some(self.dir.join("acknowledged"));
                    let check = Cell { work: check, ..cell.clone() };
                    let dir = cell.dir.clone();
                    // In the midst of it, at another moment each time.
                    let after = self.pick(200, 500, 2000) + 137 * round;
                    jobs.push(Job::Kill(cell, check, after));
                    jobs.push(Job::Remove(dir));
                }
            }
        }
    }

    fn logs(&self, jobs: &mut Vec<Job>) {
        for round in 0..self.rounds() {
            let contenders = self.contenders(logs::NAMES, round);
            let mut one =
                |contender: &str, work: Work, threads: usize, seconds: f64, keep: bool| {
                    let mut cell = self.cell("logs", contender, work);
                    (cell.threads, cell.round, cell.seconds) = (threads, round, seconds);
                    // At 100 bytes an entry, 2 GB: whoever writes that fast is done early.
                    cell.keys = (2 << 30) / (cell.value as u64 + 16);
                    cell.touch = (cell.seconds * 4e8) as u64 + (64 << 20);
                    let dir = cell.dir.clone();
                    jobs.push(Job::Cell(cell));
                    if !keep {
                        jobs.push(Job::Remove(dir));
                    }
                };
            for threads in &self.threads {
                for contender in &contenders {
                    // What one thread has written is read.
                    one(contender, Work::Append, *threads, self.seconds(), *threads == 1);
                    if *threads == 1 {
                        one(contender, Work::ReadLog, 1, self.seconds(), false);
                    }
                }
                for contender in &contenders {
                    one(contender, Work::AppendBatch, *threads, self.seconds(), false);
                }
            }
            for threads in [1, 16, 64] {
                for contender in &contenders {
                    one(contender, Work::AppendDurable, threads, self.pick(0.3, 1.0, 5.0), false);
                }
            }
        }
    }
}

/// Sets what depends on keys and values.
fn size(cell: &mut Cell) {
    let data = cell.keys * (cell.value as u64 + 16);
    let memory = system::memory();
    // Room for all of it, decompressed and with overhead: the rows are about data in memory.
    cell.cache = (data * 4).clamp(256 << 20, (memory / 4).max(256 << 20));
    cell.touch = (data * 2 + (64 << 20)).min(3 << 30).min(memory / 4);
}
