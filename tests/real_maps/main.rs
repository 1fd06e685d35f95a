//! Power loss under the code that ships: a child process writes to real files through real maps, and
//! `crash-kit` records what its system calls make durable. Images of what a power loss may have left are
//! opened under another boot id, and compared with what the child has reported: promises 1 to 5.
//!
//! `TAILCASK_ROUNDS` says how many children of each kind.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
mod history;
mod logs;
mod reports;
mod shutdown;
mod stores;

use common::{Random, children, mounts, rounds};
use crash_kit::{Crash, Image, Moment, Next, Recorder, Recording};
use reports::{Report, Said};
use std::fmt::Debug;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
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

/// Which moments are kept, and when children are killed: at system calls, and here and there between two
/// instructions of a step that has begun. Of an opening, which is short, more are kept.
fn moments(seed: u64) -> impl FnMut(&Moment<'_>) -> Next {
    let mut random = Random::new(seed ^ 0x6d6f_6d65_6e74);
    // Most first children come to their end before the last of these.
    let ends = [random.below(4000), random.below(100), u64::MAX];
    let (mut kept, mut of_openings, mut walks) = (0, 0, 0);
    let (mut program, mut began) = (0, 0);
    move |moment| {
        if moment.program != program {
            (program, began) = (moment.program, moment.number);
        }
        if moment.number - began == ends[program] {
            return Next::Kill;
        }
        let walk = |random: &mut Random| {
            let most = 1 << random.below(13);
            Next::Step(1 + random.below(most) as u32)
        };
        if moment.is_step {
            return match random.below(8) {
                0 if program == 0 => Next::Kill,
                1..4 => walk(&mut random),
                _ => Next::Keep,
            };
        }
        if reports::is_last(moment.reports, "begun") && walks < 3 && random.below(30) == 0 {
            walks += 1;
            return walk(&mut random);
        }
        if reports::is_last(moment.reports, "opening") {
            let keep = of_openings < 6 && random.below(8) == 0;
            of_openings += u64::from(keep);
            return if keep { Next::Keep } else { Next::Go };
        }
        let one_in = if moment.is_sync || moment.is_change_of_names { 24 } else { 100 };
        if kept < 12 && random.below(one_in) == 0 {
            kept += 1;
            return Next::Keep;
        }
        Next::Go
    }
}

/// Writes an image under another boot id.
fn write(image: &Image, to: &Path) {
    image.write(to).unwrap();
    reboot_all(to);
}

/// Has all segments in a directory be of another start of the machine.
fn reboot_all(place: &Path) {
    let mut folders = vec![place.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in common::files::paths(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "seg" || e == "cut") {
                reboot(&path);
            }
        }
    }
}

/// Has a segment be of another start of the machine (docs/format.md): one that is sound is so afterwards.
fn reboot(segment: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(segment).unwrap();
    let mut head = [0; 64];
    if file.read_exact_at(&mut head, 0).is_err() {
        return;
    }
    let checksum = |head: &[u8]| crc32fast::hash(&head[..60]).to_le_bytes();
    if head[60..] == checksum(&head) {
        head[32..48].fill(0xb0);
        let checksum = checksum(&head);
        head[60..].copy_from_slice(&checksum);
        file.write_all_at(&head, 0).unwrap();
    }
}

/// The files that recoveries have set aside in a directory: checksums of their names and contents.
fn set_aside(db: &Path) -> Vec<(u64, u64)> {
    let aside = db.join("set-aside");
    let all = if aside.exists() { common::files::paths(&aside) } else { Vec::new() };
    // One that has no name of its own yet is not.
    let whole = all.into_iter().filter(|path| path.extension().is_none_or(|e| e != "tmp"));
    let checksum = |bytes: &[u8]| crc32fast::hash(bytes).into();
    let file = |path: PathBuf| {
        let name = path.file_name().unwrap().as_encoded_bytes();
        (checksum(name), checksum(&std::fs::read(&path).unwrap()))
    };
    whole.map(file).collect()
}

/// Whether all that a child said to be set aside is there.
fn check_aside(db: &Path, reports: &[Report]) -> Result<(), String> {
    let there = set_aside(db);
    let mut said = reports.iter().filter_map(|report| match &report.said {
        Said::Aside { files } => Some(files),
        _ => None,
    });
    match said.find(|said| !said.iter().all(|file| there.contains(file))) {
        Some(said) => Err(format!("set aside is {there:?}, not {said:?}")),
        None => Ok(()),
    }
}

/// One of a child's moments, and a choice of what is lost.
struct Case<'c> {
    place: &'c Path,
    seed: u64,
    crash: &'c Crash,
    /// What children had reported by then.
    known: &'c [Report],
    image: u64,
}

impl Case<'_> {
    /// Checks the image; then it is gone.
    fn check<W: Workload>(&self, history: &W::History) -> Result<(), String> {
        let image = self.crash.image(self.image);
        let to = self.path();
        write(&image, &to);
        IMAGES.fetch_add(1, Ordering::Relaxed);
        let (before, known) = (self.crash.reports, self.known);
        let checked = check_aside(&to.join("db"), known)
            .and_then(|()| W::check_after(&to, self.seed, history, before, known));
        std::fs::remove_dir_all(&to).unwrap();
        checked.map_err(|why| self.describe::<W>(&image, &why))
    }

    fn path(&self) -> PathBuf {
        self.place.join(format!("image-{}-{}", self.crash.moment, self.image))
    }

    fn describe<W: Workload>(&self, image: &Image, why: &str) -> String {
        let Self { seed, crash, image: number, .. } = self;
        format!("{} {seed}, moment {}, image {number}: {why}\n{image}", W::ROLE, crash.moment)
    }

    /// Opens the image in a child that is recorded, too, and checks images of that.
    fn check_recovery<W: Workload>(&self, history: &W::History) -> Result<(), String> {
        let image = self.crash.image(self.image);
        let to = self.path();
        write(&image, &to);
        let role = format!("{}-again {}", W::ROLE, self.seed);
        let mut random = Random::new(self.image ^ self.crash.moment << 32);
        let end = random.below(400);
        let recorded = record(&Recorder::new(&to).seed(self.image), &[&role], &to, |moment| {
            match random.below(12) {
                _ if moment.number == end => Next::Kill,
                0 => Next::Keep,
                _ => Next::Go,
            }
        });
        let Some(recorded) = recorded else { return Ok(()) };
        // What it says comes after what was known before.
        let said = reports::parse(&recorded.reports);
        let reports: Vec<_> = self.known.iter().chain(&said).cloned().collect();
        // That process has died, and the machine goes on.
        let checked = W::check_after(&to, self.seed, history, self.crash.reports, &reports);
        checked.map_err(|why| {
            let first = self.describe::<W>(&image, &why);
            format!("{first}after a recovery, and its death")
        })?;
        std::fs::remove_dir_all(&to).unwrap();
        for crash in &recorded.crashes {
            let known = reports::complete(&said, crash.reports).len();
            let known = &reports[..self.known.len() + known];
            for choice in 0..2 {
                let again = crash.image(self.image ^ choice);
                write(&again, &to);
                IMAGES.fetch_add(1, Ordering::Relaxed);
                let before = self.crash.reports;
                let checked = check_aside(&to.join("db"), known);
                let checked =
                    checked.and_then(|()| W::check_after(&to, self.seed, history, before, known));
                std::fs::remove_dir_all(&to).unwrap();
                checked.map_err(|why| {
                    let first = self.describe::<W>(&image, &why);
                    format!("{first}after a recovery, at moment {}: {again}", crash.moment)
                })?;
            }
        }
        Ok(())
    }
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
    let Some(recording) = record(&base, &roles, &root, moments(seed)) else { return Ok(false) };
    let has_failed = |status: &&ExitStatus| !status.success() && status.signal().is_none();
    if let Some(status) = recording.statuses.iter().find(has_failed) {
        return Err(format!("{role}: a child failed: {status}"));
    }
    let reports = reports::parse(&recording.reports);
    let refused = reports.iter().filter(|report| matches!(report.said, Said::Refused { .. }));
    REFUSED.fetch_add(refused.count() as u64, Ordering::Relaxed);
    let history = W::history(&reports);
    for (nth, crash) in recording.crashes.iter().enumerate() {
        let known = reports::complete(&reports, crash.reports);
        for image in 0..6 {
            let image = seed << 8 | image;
            let case = Case { place: place.path(), seed, crash, known, image };
            case.check::<W>(&history)?;
            if image & 0xff == 0 && nth as u64 % 4 == seed % 4 {
                case.check_recovery::<W>(&history)?;
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
    for seed in 0..rounds(default) {
        match round::<W>(seed, |recorder| recorder) {
            Ok(true) => {}
            Ok(false) => return,
            Err(why) => panic!("{why}"),
        }
        if (seed + 1) % 100 == 0 || seed + 1 == rounds(default) {
            let images = IMAGES.load(Ordering::Relaxed);
            eprintln!("{} of {}, {images} images of all kinds", seed + 1, W::ROLE);
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
    for seed in 0..rounds(6) {
        mounts::fill(place, (1 + seed % 5) << 19);
        if let Err(why) = round_in::<stores::Stores<true>>(place, seed, |r| r.look_one_in(8)) {
            panic!("{why}");
        }
        std::fs::remove_dir_all(place.join("root")).unwrap();
        if (seed + 1) % 100 == 0 {
            eprintln!("{} of full, {} images", seed + 1, IMAGES.load(Ordering::Relaxed));
        }
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
