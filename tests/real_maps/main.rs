//! Power loss under the code that ships: a child process writes to real files through real maps, and
//! `crash-kit` records what its system calls make durable. Images of what a power loss may have left are
//! opened under another boot id, and compared with what the child has reported: promises 1 to 5.
//!
//! `TAILCASK_ROUNDS` says how many first children of each kind, and `TAILCASK_SEED` the seed of the first
//! one: a failure names the seed of its own. Its choices are drawn again then; how threads interleave is not.
//! `TAILCASK_IMAGES` says how many images of each moment.

#![cfg(target_os = "linux")]

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod copies;
mod files;
mod history;
mod logs;
mod moments;
mod recoveries;
mod reports;
mod shutdown;
mod stores;

use cases::{Case, RECOVERIES};
use common::{children, mounts};
use crash_kit::{Moment, Next, Recorder, Recording};
use reports::{Report, Said};
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// Images that were opened by this program.
static IMAGES: AtomicU64 = AtomicU64::new(0);

/// Writes of children that were refused, since there was no space.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// What a child does, and how an image is checked.
trait Workload {
    /// What children call it.
    const ROLE: &'static str;
    /// All that a child's reports say.
    type History: Debug;
    /// The child: works in a directory, and reports.
    fn work(place: &Path, seed: u64);
    /// Opens what a child has left, writes one thing more, and reports.
    fn go_on(place: &Path, seed: u64);
    fn history(reports: &[Report]) -> Self::History;
    /// Opens what is in a directory after a power loss, and compares it. `reports`: how many of them were
    /// complete.
    fn check(
        place: &Path,
        seed: u64,
        history: &Self::History,
        reports: usize,
    ) -> Result<(), String>;
    /// As `check`, if nothing has been opened since, by these reports. Else what was found then is there.
    fn check_after(
        place: &Path,
        seed: u64,
        history: &Self::History,
        before: usize,
        reports: &[Report],
    ) -> Result<(), String>;
    /// Whether what one that goes on has found is what the death of the process may have left.
    fn check_opened(
        history: &Self::History,
        reports: usize,
        found: &[(u64, u64, u64)],
    ) -> Result<(), String>;
    /// Opens a repaired copy. `at`: it was made of something sound, when everything had been acknowledged
    /// that was said by then.
    fn check_copy(
        path: &Path,
        seed: u64,
        history: &Self::History,
        at: Option<usize>,
    ) -> Result<(), String>;
}

#[test]
#[ignore = "the process that the tests record"]
fn child() {
    let Some((role, place)) = children::role() else { return };
    match role.as_str() {
        shutdown::ROLE => return shutdown::child(&mounts::role().unwrap().1),
        IN_LITTLE_SPACE => return in_little_space(&mounts::role().unwrap().1),
        _ => {}
    }
    let mut words = role.split(' ');
    let (what, seed) = (words.next().unwrap(), words.next().unwrap().parse().unwrap());
    match what {
        "store" => stores::Stores::<false>::work(&place, seed),
        "store-again" => stores::Stores::<false>::go_on(&place, seed),
        "full" => stores::Stores::<true>::work(&place, seed),
        "full-again" => stores::Stores::<true>::go_on(&place, seed),
        "log" => logs::Logs::work(&place, seed),
        "log-again" => logs::Logs::go_on(&place, seed),
        role => panic!("{role}"),
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().expect(name))
}

/// The seeds of the first children of a kind.
fn seeds(default: u64) -> Range<u64> {
    let first = setting("TAILCASK_SEED", 0);
    first..first + common::rounds(default)
}

/// How many images of a moment are opened. Of those of a recovery a third as many.
fn images() -> u64 {
    setting("TAILCASK_IMAGES", 6)
}

/// A directory in memory, where there is one: what is synced takes no time there.
fn place() -> TempDir {
    let memory = Path::new("/dev/shm");
    let in_memory = tempfile::tempdir_in(memory);
    in_memory.unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Records a child; `None` where that cannot be done here.
fn record(
    recorder: &Recorder,
    roles: &[&str],
    place: &Path,
    next: impl FnMut(&Moment<'_>) -> Next,
) -> Option<Recording> {
    match recorder.record_all(roles.iter().map(|role| children::command(role, place)), next) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            eprintln!("left out: {error}");
            None
        }
        other => Some(other.unwrap()),
    }
}

/// Whether each child has come to its end, or was killed.
fn none_has_failed(recording: &Recording) -> Result<(), String> {
    let has_failed = |status: &&ExitStatus| !status.success() && status.signal().is_none();
    let failed = recording.statuses.iter().find(has_failed);
    failed.map_or(Ok(()), |status| Err(format!("a child failed: {status}")))
}

/// One child, and images of it. `Ok(false)`: it cannot be done here.
fn round<W: Workload>(seed: u64, recorder: impl Fn(Recorder) -> Recorder) -> Result<bool, String> {
    let place = place();
    round_in::<W>(place.path(), seed, recorder)
}

/// As `round`, with the child's files in this directory.
fn round_in<W: Workload>(
    home: &Path,
    seed: u64,
    recorder: impl Fn(Recorder) -> Recorder,
) -> Result<bool, String> {
    let place = place();
    let root = home.join("root");
    std::fs::create_dir(&root).unwrap();
    let role = format!("{} {seed}", W::ROLE);
    let look_one_in = 1 + seed % 4;
    let base = recorder(Recorder::new(&root).seed(seed).look_one_in(look_one_in));
    // It dies or ends; another one opens what it has left, and may be killed at that; and another one.
    let again = format!("{}-again {seed}", W::ROLE);
    let roles = [role.as_str(), &again, &again];
    let moments = moments::of_work(seed);
    let Some(recording) = record(&base, &roles, &root, moments) else { return Ok(false) };
    none_has_failed(&recording).map_err(|why| format!("{role}: {why}"))?;
    let reports = reports::parse(&recording.reports);
    let refused = reports.iter().filter(|report| matches!(report.said, Said::Refused { .. }));
    REFUSED.fetch_add(refused.count() as u64, Ordering::Relaxed);
    let history = W::history(&reports);
    for (nth, crash) in recording.crashes.iter().enumerate() {
        let known = reports::complete(&reports, crash.reports);
        for image in 0..images() {
            let image = seed << 8 | image;
            let before = crash.reports;
            let case = Case { place: place.path(), seed, crash, known, before, image };
            let aside = case.check::<W>(&history, &[])?;
            if image & 0xff == 0 && nth as u64 % 4 == seed % 4 {
                case.check_recovery::<W>(&history, &aside, RECOVERIES)?;
            }
        }
    }
    // The process had died when the next one opened what it left, and the machine had not.
    let opened = reports.iter().find_map(|report| match &report.said {
        Said::Opened { found } => Some((report.nth, found)),
        _ => None,
    });
    let (nth, found) = opened.expect("the last child opens it");
    W::check_opened(&history, nth, found)
        .map_err(|why| format!("{role}, after its death: {why}"))?;
    W::check_after(&root, seed, &history, recording.reports.len(), &reports)
        .map_err(|why| format!("{role}, after all deaths: {why}"))?;
    Ok(true)
}

fn no_round_fails<W: Workload>(default: u64) {
    let seeds = seeds(default);
    for seed in seeds.clone() {
        match round::<W>(seed, |recorder| recorder) {
            Ok(true) => {}
            Ok(false) => return,
            Err(why) => panic!("{why}"),
        }
        let done = seed + 1 - seeds.start;
        if done.is_multiple_of(100) || seed + 1 == seeds.end {
            let images = IMAGES.load(Ordering::Relaxed);
            eprintln!("{done} of {}, {images} images of all kinds", W::ROLE);
        }
    }
}

#[test]
fn stores_keep_their_promises() {
    no_round_fails::<stores::Stores<false>>(12);
}

#[test]
fn logs_keep_their_promises() {
    no_round_fails::<logs::Logs>(12);
}

const IN_LITTLE_SPACE: &str = "in-little-space";

/// The process that sees a small file system.
fn in_little_space(place: &Path) {
    for seed in seeds(6) {
        mounts::fill(place, (1 + seed % 5) << 19);
        if let Err(why) = round_in::<stores::Stores<true>>(place, seed, |r| r.look_one_in(8)) {
            panic!("{why}");
        }
        std::fs::remove_dir_all(place.join("root")).unwrap();
    }
    let refused = REFUSED.load(Ordering::Relaxed);
    eprintln!("{} images, {refused} refused writes", IMAGES.load(Ordering::Relaxed));
    assert!(refused > 0 || crash_kit::unsupported().is_some(), "the disk was never full");
    mounts::done();
}

/// Writes, merges, rolls and backups that find no room, and power losses around them.
#[test]
fn stores_without_space_keep_their_promises() {
    if !mounts::run_on(mounts::Kind::Tmpfs, 24, IN_LITTLE_SPACE) {
        eprintln!("left out: no tmpfs can be mounted here");
    }
}

/// The recorder says of one sync in four that it was done, and nothing of it is durable. Each kind of
/// child has to notice soon.
#[test]
fn lying_syncs_are_noticed() {
    if let Some(why) = crash_kit::unsupported() {
        eprintln!("left out: {why}");
        return;
    }
    let lying = |recorder: Recorder| recorder.lie_one_in(4);
    let noticed = |found: Result<bool, String>| found.is_err();
    assert!((0..5).any(|seed| noticed(round::<stores::Stores<false>>(seed, lying))), "by no store");
    assert!((0..5).any(|seed| noticed(round::<logs::Logs>(seed, lying))), "by no log");
}
