//! A cell: one contender, one workload, in a process of its own. And what came of it.

use crate::engine::Settings;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Puts all keys in batches, not timed: what the following cells work on.
    Load,
    /// New keys, in random order.
    Fill,
    /// Keys that are there, uniformly.
    Overwrite,
    /// Keys that are there, uniformly.
    Get,
    /// Keys that are there, a few of them often.
    GetZipf,
    /// 32 keys at once.
    GetMany,
    /// Keys that are not there.
    GetAbsent,
    /// Overwrites, 100 keys at once.
    Batch,
    /// Half gets, half overwrites; a few keys often.
    YcsbA,
    /// 95% gets, 5% overwrites; a few keys often.
    YcsbB,
    /// All pairs.
    Scan,
    /// From a clean close to the first value, after the fill.
    Open,
    /// The same, after overwrites.
    Reopen,
    /// New keys, each acknowledged after fsync.
    Durable,
    /// New keys, in steps.
    Grow,
    /// New keys, counted in a file until the process is killed.
    KillFill,
    /// How much of what was counted is there.
    KillCheck,

    /// Entries, one at a time.
    Append,
    /// Entries, 100 at once.
    AppendBatch,
    /// Entries, each acknowledged after fsync.
    AppendDurable,
    /// All entries.
    ReadLog,
    /// As for stores.
    LogKillFill,
    /// As for stores.
    LogKillCheck,
}

impl Work {
    pub fn name(self) -> String {
        self.to_possible_value().expect("each has one").get_name().into()
    }

    pub fn is_of_logs(self) -> bool {
        use Work::{Append, AppendBatch, AppendDurable, LogKillCheck, LogKillFill, ReadLog};
        matches!(self, Append | AppendBatch | AppendDurable | ReadLog | LogKillFill | LogKillCheck)
    }

    /// Whether it only reads, and deserves warm caches.
    pub fn reads(self) -> bool {
        use Work::{Get, GetAbsent, GetMany, GetZipf};
        matches!(self, Get | GetZipf | GetMany | GetAbsent)
    }

    pub fn writes_what_is_there(self) -> bool {
        matches!(self, Self::Overwrite | Self::Batch | Self::YcsbA | Self::YcsbB)
    }

    /// Whether the cells that follow in its directory need what it puts there.
    pub fn fills(self) -> bool {
        matches!(self, Self::Load | Self::Fill | Self::Append)
    }

    pub fn is_durable(self) -> bool {
        matches!(self, Self::Durable | Self::AppendDurable)
    }
}

/// The arguments of a cell's process.
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
pub struct Cell {
    #[arg(long)]
    pub contender: String,
    #[arg(long)]
    pub work: Work,
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    #[arg(long)]
    pub keys: u64,
    #[arg(long, default_value_t = 100)]
    pub value: usize,
    /// The measurement ends after so long.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// For caches of the contender, in bytes.
    #[arg(long, default_value_t = 1 << 30)]
    pub cache: u64,
    /// Memory to touch and free right before the clock starts, in bytes.
    #[arg(long, default_value_t = 0)]
    pub touch: u64,
    /// Latency of each operation.
    #[arg(long)]
    pub timed: bool,
    /// The data is larger than memory: a cgroup to enter before anything is opened, or `own` if the
    /// process is in one already.
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// Keys in a step of `grow`.
    #[arg(long, default_value_t = 0)]
    pub step: u64,
    #[arg(long, default_value_t = 0)]
    pub round: u64,
    /// The table it is for.
    #[arg(long, default_value = "")]
    pub section: String,
    /// The contender's directory.
    #[arg(long)]
    pub dir: PathBuf,
    /// What acknowledged writes are counted in.
    #[arg(long)]
    #[serde(skip)]
    pub acks: Option<PathBuf>,
    /// A file for the result; without it, it is printed.
    #[arg(long)]
    #[serde(skip)]
    pub result: Option<PathBuf>,
}

impl Cell {
    pub fn settings(&self) -> Settings {
        Settings {
            durable: self.work.is_durable(),
            cache: self.cache,
            disk: self.keys * (self.value as u64 + 64) * 8 + (8 << 30),
            value: self.value,
            cold: self.cgroup.is_some(),
        }
    }

    /// As a command line.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["cell".to_owned()];
        let mut push = |name: &str, value: String| {
            arguments.push(format!("--{name}"));
            arguments.push(value);
        };
        push("contender", self.contender.clone());
        push("work", self.work.name());
        push("threads", self.threads.to_string());
        push("keys", self.keys.to_string());
        push("value", self.value.to_string());
        push("seconds", self.seconds.to_string());
        push("cache", self.cache.to_string());
        push("touch", self.touch.to_string());
        push("step", self.step.to_string());
        push("round", self.round.to_string());
        push("section", self.section.clone());
        push("dir", self.dir.display().to_string());
        for (name, path) in
            [("cgroup", &self.cgroup), ("acks", &self.acks), ("result", &self.result)]
        {
            if let Some(path) = path {
                push(name, path.display().to_string());
            }
        }
        if self.timed {
            arguments.push("--timed".into());
        }
        arguments
    }
}

/// In nanoseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Step {
    /// How many there were at its end.
    pub keys: u64,
    pub rate: f64,
    pub latency: Latency,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Outcome {
    /// Keys, values or entries.
    pub count: u64,
    pub seconds: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Processor time, and what was read from and written to the device, while it was timed.
    pub processor: f64,
    pub read: u64,
    pub written: u64,
    /// Of the contender's directory, at the end.
    pub disk: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Of the kill test: acknowledged, then not there, or not what was put.
    #[serde(default)]
    pub acknowledged: u64,
    #[serde(default)]
    pub gone: u64,
    #[serde(default)]
    pub wrong: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Outcome {
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.seconds.max(1e-9)
    }
}

/// A line of the results.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    pub cell: Cell,
    pub outcome: Outcome,
}
