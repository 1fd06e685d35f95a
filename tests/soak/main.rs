//! Everything at once, for as long as one likes: a process with a store and a log in which many threads do all
//! that can be done, which is killed again and again; full disks; a reader that never lets go; a process that
//! reads beside; backups, restored and compared; copies, damaged and repaired. What it takes stays bounded.
//!
//! `TAILCASK_SOAK_SECONDS` says for how long, `TAILCASK_SOAK_SEED` with which plan, and `TAILCASK_SOAK_REPORT`
//! where the table of what was done goes.
//!
//! - `parent`: the process that knows what must be there; `plan`: what it does in a round.
//! - `child`: the process that is killed; `writers`, `readers`, `appenders`, `followers`, `upkeep`, `held`: its threads.
//! - `follow`: a process that reads.
//! - `content`: keys, values, entries; `journal`: what was begun and acknowledged; `oracle`, `log_oracle`: what
//!   must be there after that; `damage`: damaged copies.
//! - `usage`: what is taken, and the limits; `tally`, `table`: what was done.
//! - `bounded`: a smaller test of the same, in one process.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod appenders;
mod bounded;
mod child;
mod content;
mod damage;
mod follow;
mod followers;
mod full;
mod held;
mod journal;
mod log_oracle;
mod oracle;
mod parent;
mod plan;
mod readers;
mod table;
mod tally;
mod upkeep;
mod usage;
mod writers;

use child::Places;
use common::mounts::{self, Kind, run_on};
use parent::Parent;
use plan::Plan;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use table::Table;

const SEED: &str = "TAILCASK_SOAK_SEED";
const REPORT: &str = "TAILCASK_SOAK_REPORT";
/// Seconds of a campaign: rounds on one file system.
const CAMPAIGN: u64 = 120;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// The long setting.
pub(crate) fn seconds() -> Option<u64> {
    number("TAILCASK_SOAK_SECONDS")
}

#[test]
#[ignore = "the other processes of the test below"]
fn child() {
    let Some((role, place)) = common::children::role() else { return };
    let mut words = role.split(' ');
    let what = words.next().unwrap();
    if what == "parent" {
        let (_, place) = mounts::role().unwrap();
        campaign(&mut words, &place);
        mounts::done();
        return;
    }
    let mut next = || words.next().unwrap().parse().unwrap();
    let plan = Plan::of(next(), next(), next() == 1);
    let places = Places::new(&place);
    match what {
        "load" => child::run(plan, places),
        "open" => child::open(&plan, &places),
        "follow" => follow::run(&plan, &places),
        other => panic!("there is no role {other}"),
    }
}

/// Rounds by a seed, on a file system that this process alone sees.
fn campaign<'w>(words: &mut impl Iterator<Item = &'w str>, place: &Path) {
    let mut next = || words.next().unwrap();
    let mut number = || next().parse::<u64>().unwrap();
    let (seed, first, rounds, seconds) = (number(), number(), number(), number());
    let can_be_full = number() == 1;
    let path = PathBuf::from(words.next().unwrap());
    let (started, mut parent) = (Instant::now(), Parent::new(Places::new(place)));
    for session in first..first + rounds {
        if seconds > 0 && started.elapsed() > Duration::from_secs(seconds) {
            break;
        }
        eprintln!("round {session} of seed {seed}");
        let mut plan = Plan::of(seed, session, seconds > 0);
        plan.full &= can_be_full;
        plan.dies_full &= can_be_full;
        parent.round(&plan);
        parent.table.save(&path);
    }
}

/// Some rounds, or as many as some seconds allow.
#[derive(Clone, Copy, Debug)]
struct Campaign {
    seed: u64,
    first: u64,
    rounds: u64,
    seconds: u64,
}

impl Campaign {
    fn role(&self, can_be_full: bool, table: &Path) -> String {
        let Self { seed, first, rounds, seconds } = self;
        let can = u8::from(can_be_full);
        format!("parent {seed} {first} {rounds} {seconds} {can} {}", table.display())
    }

    /// Runs it on a file system of its own, and adds up what it did. False if there can be none.
    fn run_on(self, kind: Kind, table: &mut Table) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table");
        eprintln!("{self:?} on {kind:?}; {SEED} sets the seed");
        let could_be = run_on(kind, 448, &self.role(true, &path));
        table.merge(&Table::read(&path));
        if could_be {
            table.add(&format!("campaigns on {kind:?}"), 1);
        }
        could_be
    }

    /// Runs it where there is always space.
    fn run_without_full_disks(self, table: &mut Table) {
        eprintln!("skipped: full disks, since nothing can be mounted here");
        let dir = tempfile::tempdir().unwrap();
        let (path, place) = (dir.path().join("table"), dir.path().join("place"));
        std::fs::create_dir(&place).unwrap();
        let role = self.role(false, &path);
        let status = common::children::command(&role, &place).status().unwrap();
        table.merge(&Table::read(&path));
        assert!(status.success(), "{self:?}");
    }
}

#[test]
fn everything_at_once_loses_nothing_and_stays_bounded() {
    let first = number(SEED).unwrap_or(1);
    let (mut table, started) = (Table::default(), Instant::now());
    if let Some(seconds) = seconds() {
        let all = [Kind::Tmpfs, Kind::Ext4, Kind::Xfs];
        for (seed, kind) in (first..).zip(all.into_iter().cycle()) {
            let left = seconds.saturating_sub(started.elapsed().as_secs()).min(CAMPAIGN);
            let campaign = Campaign { seed, first: 0, rounds: u64::MAX >> 1, seconds: left };
            if left == 0 {
                break;
            }
            if !campaign.run_on(kind, &mut table) {
                campaign.run_without_full_disks(&mut table);
            }
            report(&table, started);
        }
    } else {
        short(first, &mut table);
    }
    report(&table, started);
    println!("{table}");
}

/// Six rounds that have everything, and then some that are drawn.
fn short(seed: u64, table: &mut Table) {
    let campaign = Campaign { seed, first: 0, rounds: 6, seconds: 0 };
    let mut least = vec![("backups restored and compared", 2), ("kills at work", 2)];
    least.push(("copies damaged and repaired", 12));
    if campaign.run_on(Kind::Tmpfs, table) {
        Campaign { first: 4, rounds: 3, ..campaign }.run_on(Kind::Ext4, table);
        least.push(("full disks", 2));
    } else {
        campaign.run_without_full_disks(table);
    }
    for (what, least) in least {
        assert!(table.get(what) >= least, "{what}: {}", table.get(what));
    }
}

fn report(table: &Table, started: Instant) {
    let mut table = table.clone();
    table.add("seconds", started.elapsed().as_secs());
    table.add("violations", 0);
    if let Some(path) = std::env::var_os(REPORT) {
        std::fs::write(path, table.to_string()).unwrap();
    }
}
