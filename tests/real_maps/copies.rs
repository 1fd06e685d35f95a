//! Repairs: a copy that is acknowledged is complete and durable, one that has its name is complete, and the
//! original is not changed. Some originals are damaged before.

use super::Workload;
use super::common::Random;
use super::files::checksums;
use super::reports::{Report, Said, say};
use std::path::{Path, PathBuf};

/// How a child repairs a directory into another one.
type Repair<'r> = &'r dyn Fn(&Path, &Path) -> Result<(), String>;

fn path(place: &Path, number: u64) -> PathBuf {
    place.join(format!("repaired-{number}"))
}

/// What of a copy is durable. Hints need not be, and the rest is room that is kept for later.
fn is_durable(name: &str) -> bool {
    name.ends_with(".seg") || name == "MANIFEST"
}

fn all_durable(dir: &Path) -> Vec<(u64, u64)> {
    let aside = checksums(&dir.join("set-aside"), |_| true);
    [checksums(dir, is_durable), aside].concat()
}

/// In a child: repairs what is in `db`, or a damaged copy of it. `may_fail`: if there is no space.
pub(crate) fn make(place: &Path, random: &mut Random, may_fail: bool, repair: Repair<'_>) {
    let db = place.join("db");
    for number in 0..random.below(3) {
        let damaged = random.flip();
        let from = if damaged { damage(&db, place, number, random) } else { Some(db.clone()) };
        let (Some(from), to) = (from, path(place, number)) else { continue };
        let whole = |dir: &Path| (checksums(dir, |_| true), all_durable(dir));
        let before = whole(&from);
        say(&Said::Repairing { number, damaged });
        match repair(&from, &to) {
            Ok(()) => say(&Said::Repaired { number, files: all_durable(&to) }),
            Err(why) => {
                assert!(may_fail, "{why}");
                assert!(!to.exists(), "a repair that failed has left {}", to.display());
            }
        }
        assert_eq!(whole(&from), before, "the original has changed");
    }
}

/// A copy of a directory, in which one byte of a segment is wrong. `None`: there is none, or no space.
fn damage(db: &Path, place: &Path, number: u64, random: &mut Random) -> Option<PathBuf> {
    let to = place.join(format!("damaged-{number}"));
    copy(db, &to).ok()?;
    let segments = super::common::files::paths_with(&to, "seg");
    let segment = segments.get(random.index(segments.len().max(1)))?;
    let mut bytes = std::fs::read(segment).ok()?;
    let used = bytes.iter().rposition(|&byte| byte != 0)? + 1;
    bytes[random.index(used)] ^= 1 << random.below(8);
    std::fs::write(segment, bytes).ok()?;
    Some(to)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Looks at all copies that are in an image.
pub(crate) fn check<W: Workload>(
    place: &Path,
    seed: u64,
    history: &W::History,
    known: &[Report],
) -> Result<(), String> {
    for report in known {
        let Said::Repairing { number, damaged } = report.said else { continue };
        let path = path(place, number);
        let error = |why| format!("the repaired copy {number} (damaged: {damaged}): {why}");
        let acknowledged = known.iter().find_map(|report| match &report.said {
            Said::Repaired { number: n, files } if *n == number => Some(files),
            _ => None,
        });
        if let Some(files) = acknowledged
            && *files != all_durable(&path)
        {
            return Err(error(format!("it has {:?}, not {files:?}", all_durable(&path))));
        }
        if path.exists() {
            // All that it is of was acknowledged before.
            let at = (!damaged).then_some(report.nth);
            W::check_copy(&path, seed, history, at).map_err(error)?;
        }
    }
    Ok(())
}
