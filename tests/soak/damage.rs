//! Copies that are damaged on purpose and repaired: what repair says that is lost accounts for everything that is
//! missing.

use crate::common::Random;
use crate::common::files::{change, copy_dir, paths, paths_with};
use crate::content::{Entry, Key, Sort};
use crate::log_oracle::{Placed, entries};
use crate::oracle::{Found, Oracle, counted};
use crate::plan::Damage;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tailcask::{CommitLog, LostFrame, ReadError, RecoveryReport, Store};

/// Damages the files of a directory, and says how.
pub(crate) fn damage(dir: &Path, how: Damage, random: &mut Random) -> String {
    let mut pick = |extension: &str| {
        let all = paths_with(dir, extension);
        (!all.is_empty()).then(|| all[random.index(all.len())].clone())
    };
    let segment = pick("seg").expect("there are segments");
    let hint = pick("hint");
    // Behind the end of a sealed segment there is nothing.
    let bytes = fs::read(&segment).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(1, |last| last as u64 + 1);
    let at = random.below(used) as usize;
    let flip = |path: &Path, random: &mut Random| {
        change(path, |bytes| {
            let at = random.index(bytes.len().max(1));
            bytes[at] ^= 1 << random.below(8);
        });
    };
    match how {
        Damage::Flips => {
            for _ in 0..=random.below(4) {
                let at = random.below(used) as usize;
                change(&segment, |bytes| bytes[at] ^= 1 << random.below(8));
            }
        }
        Damage::Zeros => {
            let len = 1 + random.index(5000);
            change(&segment, |bytes| bytes.iter_mut().skip(at).take(len).for_each(|b| *b = 0));
        }
        Damage::CutShort => change(&segment, |bytes| bytes.truncate(at)),
        Damage::NoSegment => fs::remove_file(&segment).unwrap(),
        Damage::NoManifest if random.flip() => fs::remove_file(dir.join("MANIFEST")).unwrap(),
        Damage::NoManifest => flip(&dir.join("MANIFEST"), random),
        Damage::BadHint => match &hint {
            Some(hint) if random.flip() => flip(hint, random),
            Some(hint) => fs::remove_file(hint).unwrap(),
            None => change(&segment, |bytes| bytes[at] ^= 0x5a),
        },
    }
    format!("{how:?} of {} (or {hint:?}) at {at}", segment.display())
}

/// The names and checksums of all files but those that readers lock.
fn digest(dir: &Path) -> Vec<(PathBuf, u32)> {
    let all = paths(dir).into_iter().filter(|path| path.is_file() && !path.ends_with("LOCK"));
    all.map(|path| (path.clone(), crc32fast::hash(&fs::read(path).unwrap()))).collect()
}

/// A damaged copy, and where its repaired copy will be.
fn copies(sound: &Path, elsewhere: &Path) -> (PathBuf, PathBuf) {
    let (damaged, repaired) = (elsewhere.join("damaged"), elsewhere.join("repaired"));
    let _ = fs::remove_dir_all(&repaired);
    copy_dir(sound, &damaged, true);
    (damaged, repaired)
}

/// Damages a copy of a store that was closed, and repairs it. Gives how many keys were lost.
pub(crate) fn of_store(
    sound: &Path,
    elsewhere: &Path,
    oracle: &Oracle,
    how: Damage,
    random: &mut Random,
) -> Result<u64, String> {
    let (damaged, repaired) = copies(sound, elsewhere);
    let done = damage(&damaged, how, random);
    let before = digest(&damaged);
    read_strictly(&damaged, oracle).map_err(|error| format!("{done}: {error}"))?;
    let report = Store::repair(&damaged, &repaired).map_err(|error| format!("{done}: {error}"))?;
    if digest(&damaged) != before {
        return Err(format!("{done}: repair has changed what is damaged"));
    }
    let store = Store::open(&repaired).map_err(|error| format!("{done}: {error}, {report}"))?;
    let found = Found::in_store(&store).map_err(|error| format!("{done}: {error}, {report}"))?;
    let lost =
        account(oracle, &found, &report).map_err(|error| format!("{done}: {error}; {report}"))?;
    store.verify().map_err(|error| format!("{done}: {error}, {report}"))?;
    store.close().unwrap();
    let _ = fs::remove_dir_all(&repaired);
    Ok(lost)
}

/// Without a repair damage is an error, and what is read is right.
fn read_strictly(damaged: &Path, oracle: &Oracle) -> Result<(), String> {
    let Ok(view) = Store::open_read_only(damaged) else { return Ok(()) };
    for key in Key::all().filter(|key| key.sort() != Sort::Expiring) {
        let value = match view.get(key.bytes()) {
            Ok(value) => value,
            Err(ReadError::Corrupt(_)) => continue,
            Err(error) => return Err(format!("{key:x?}: {error}")),
        };
        let version = value.as_ref().map(|value| match key.sort() {
            Sort::Counter => counted(key, value),
            _ => key.version_of(value),
        });
        if version != oracle.version(key).map(Some) {
            return Err(format!("{key:x?} is {version:x?} in what is damaged, without an error"));
        }
    }
    Ok(())
}

/// Each key that is not as it was is on the list, or there are as many bytes of unknown keys on it.
fn account(oracle: &Oracle, found: &Found, report: &RecoveryReport) -> Result<u64, String> {
    let is_certain = |lost: &&LostFrame| lost.certain && lost.key.is_some();
    let named = report.gone.iter().filter(is_certain).filter_map(|lost| lost.key.as_deref());
    let named: BTreeSet<_> = named.filter_map(Key::parse).collect();
    let different = oracle.differences(found);
    let untold: Vec<_> = different.iter().filter(|(key, _)| !named.contains(key)).collect();
    let unknown = report.gone.iter().filter(|lost| !is_certain(lost));
    let unknown: Vec<_> = unknown.map(|lost| lost.length).collect();
    let enough = unknown.contains(&0)
        || untold.iter().map(|(_, bytes)| **bytes).sum::<u64>() <= unknown.iter().sum();
    if !untold.is_empty() && (unknown.is_empty() || !enough) {
        return Err(format!("{untold:?} are different and not listed as lost ({unknown:?})"));
    }
    Ok(different.len() as u64)
}

/// As [`of_store`], for a log.
pub(crate) fn of_log(
    sound: &Path,
    elsewhere: &Path,
    expected: &[Placed],
    how: Damage,
    random: &mut Random,
) -> Result<u64, String> {
    let (damaged, repaired) = copies(sound, elsewhere);
    let done = damage(&damaged, how, random);
    let before = digest(&damaged);
    if let Ok(log) = CommitLog::open_read_only(&damaged) {
        let mut reader = log.reader();
        let mut place = 0;
        // Up to the first error.
        while let Ok(Some(entry)) = reader.next_entry() {
            let entry = Some((entry.position(), Entry::parse(&entry)));
            if entry != expected.get(place).map(|(at, entry)| (*at, Some(*entry))) {
                return Err(format!("{done}: {entry:x?} is read without an error"));
            }
            place += 1;
        }
    }
    let report =
        CommitLog::repair(&damaged, &repaired).map_err(|error| format!("{done}: {error}"))?;
    if digest(&damaged) != before {
        return Err(format!("{done}: repair has changed what is damaged"));
    }
    let log = CommitLog::open(&repaired).map_err(|error| format!("{done}: {error}, {report}"))?;
    let found: BTreeSet<_> =
        entries(&log)?.into_iter().map(|(at, entry)| (at, entry.nth)).collect();
    let missing = expected.iter().filter(|(at, entry)| !found.contains(&(*at, entry.nth)));
    let missing: Vec<_> = missing.map(|(at, _)| *at).collect();
    if found.len() + missing.len() != expected.len() {
        return Err(format!(
            "{done}: {} entries, and {} missing; {report}",
            found.len(),
            missing.len()
        ));
    }
    let is_told = |at: &tailcask::LogPosition| {
        report.gone.iter().any(|lost| {
            let from = lost.position;
            let inside = *at >= from && at.as_u64() - from.as_u64() < lost.length;
            // Of what is missing altogether only the beginning is known.
            at.segment() == from.segment() && (inside || lost.length == 0 && *at >= from)
        })
    };
    if let Some(untold) = missing.iter().find(|at| !is_told(at)) {
        return Err(format!("{done}: {untold} is missing and not listed; {report}"));
    }
    log.verify().map_err(|error| format!("{done}: {error}, {report}"))?;
    log.close().unwrap();
    let _ = fs::remove_dir_all(&repaired);
    Ok(missing.len() as u64)
}
