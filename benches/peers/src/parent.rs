//! Runs cells in processes of their own, and keeps what comes of them.

use crate::cell::{Cell, Outcome, Row};
use crate::plan::{Job, Setting};
use crate::system;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub struct Parent {
    dir: PathBuf,
    results: File,
    bar: ProgressBar,
    /// Contenders that are programs of their own.
    external: HashMap<String, PathBuf>,
    /// Directories without what they should contain.
    broken: HashSet<PathBuf>,
}

impl Parent {
    pub fn new(setting: &Setting, results: &Path, jobs: &[Job]) -> Result<Self> {
        let dir = &setting.dir;
        let programs = setting.external.iter().filter_map(|it| it.split_once('='));
        let external = programs.map(|(name, path)| (name.into(), path.into())).collect();
        fs::create_dir_all(dir)?;
        let count = jobs.iter().filter(|job| !matches!(job, Job::Remove(_))).count();
        let bar = ProgressBar::new(count as u64);
        let style = "{elapsed_precise} {wide_bar} {pos}/{len}, {eta} left: {msg}";
        bar.set_style(ProgressStyle::with_template(style)?);
        bar.enable_steady_tick(Duration::from_millis(500));
        let results = File::options().create(true).append(true).open(results)?;
        Ok(Self { dir: dir.into(), results, bar, external, broken: HashSet::new() })
    }

    pub fn run(&mut self, jobs: Vec<Job>) -> Result<()> {
        for job in jobs {
            match job {
                Job::Remove(dir) => {
                    self.broken.remove(&dir);
                    if dir.exists() {
                        fs::remove_dir_all(&dir)
                            .with_context(|| format!("removing {}", dir.display()))?;
                    }
                    continue;
                }
                Job::Cell(cell) => {
                    if !self.broken.contains(&cell.dir) {
                        self.cell(cell)?;
                    }
                }
                Job::Kill(fill, check, after) => self.kill(fill, check, after)?,
            }
            self.bar.inc(1);
        }
        self.bar.finish_and_clear();
        let _ = fs::remove_dir_all(&self.dir);
        Ok(())
    }

    fn cell(&mut self, cell: Cell) -> Result<()> {
        self.bar.set_message(format!(
            "{} {} {} x{}",
            cell.section,
            cell.contender,
            cell.work.name(),
            cell.threads
        ));
        if cell.cgroup.is_some() {
            // Pages that others brought in would not count against the group.
            system::evict(&cell.dir)?;
        } else {
            system::sync();
        }
        let outcome = self.child(&cell, Duration::from_secs_f64(90.0 + 4.0 * cell.seconds))?;
        if outcome.error.is_some() && cell.work.fills() {
            self.broken.insert(cell.dir.clone());
        }
        self.keep(cell, outcome)
    }

    fn keep(&mut self, cell: Cell, outcome: Outcome) -> Result<()> {
        if let Some(error) = &outcome.error
            && !error.starts_with(crate::NOT_OFFERED)
        {
            let Cell { section, contender, work, threads, value, .. } = &cell;
            let work = work.name();
            self.bar.println(format!("{section} {contender} {work} x{threads} {value} B: {error}"));
        }
        let mut line = serde_json::to_string(&Row { cell, outcome })?;
        line.push('\n');
        self.results.write_all(line.as_bytes())?;
        Ok(())
    }

    fn spawn(&self, cell: &Cell) -> Result<Child> {
        let output = File::create(self.dir.join("output"))?;
        let program = match self.external.get(&cell.contender) {
            Some(program) => program.clone(),
            None => std::env::current_exe()?,
        };
        let mut command = Command::new(program);
        command.args(cell.arguments());
        // Walrus takes its directory from the environment only.
        command.env("WALRUS_DATA_DIR", &cell.dir).env("WALRUS_QUIET", "1");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(command.spawn()?)
    }

    fn child(&self, cell: &Cell, limit: Duration) -> Result<Outcome> {
        let result = self.dir.join("result");
        let _ = fs::remove_file(&result);
        let cell = Cell { result: Some(result.clone()), ..cell.clone() };
        let mut child = self.spawn(&cell)?;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Ok(status);
            }
            if began.elapsed() > limit {
                child.kill()?;
                child.wait()?;
                break Err(format!("took more than {:.0} s", limit.as_secs_f64()));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let error = match status {
            Ok(_) if result.exists() => {
                return Ok(serde_json::from_str(&fs::read_to_string(&result)?)?);
            }
            Ok(status) if status.signal() == Some(9) => "killed: out of memory".into(),
            Ok(status) => format!("{status}: {}", self.last_words()),
            Err(error) => error,
        };
        Ok(Outcome { error: Some(error), ..Outcome::default() })
    }

    fn last_words(&self) -> String {
        let output = File::open(self.dir.join("output")).map(BufReader::new);
        let lines = output.into_iter().flat_map(BufRead::lines).map_while(Result::ok);
        let panic = lines.filter(|line| !line.trim().is_empty() && !line.starts_with("note:"));
        panic.last().unwrap_or_default()
    }

    fn kill(&mut self, fill: Cell, check: Cell, after: u64) -> Result<()> {
        self.bar.set_message(format!("kill {}", fill.contender));
        system::sync();
        let acks = fill.acks.clone().expect("the plan says where");
        let _ = fs::remove_file(&acks);
        let mut child = self.spawn(&fill)?;
        // The clock runs from the first write on.
        let began = Instant::now();
        let counters = system::Counters::open(&acks, fill.threads)?;
        while counters.get(0).load(Ordering::Acquire) == 0
            && child.try_wait()?.is_none()
            && began.elapsed() < Duration::from_secs(20)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(after));
        child.kill()?;
        child.wait()?;
        let mut outcome = self.child(&check, Duration::from_secs(180))?;
        if outcome.error.is_some() {
            let sum = (0..fill.threads).map(|at| counters.get(at).load(Ordering::Acquire)).sum();
            outcome.acknowledged = sum;
        }
        self.keep(check, outcome)
    }
}

pub fn read(results: &Path) -> Result<Vec<Row>> {
    let file = File::open(results).with_context(|| results.display().to_string())?;
    BufReader::new(file)
        .lines()
        .map(|line| serde_json::from_str(&line?).context("a line of the results"))
        .collect()
}
