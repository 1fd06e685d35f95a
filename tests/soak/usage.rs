//! What a process and its directories take, and how much that may be.

use crate::child::{CREDIT, Places};
use crate::content::{APPENDERS, Key, WRITERS};
use crate::plan::{KEPT, SEGMENT};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file of the largest value or entry.
const OVERSIZE: u64 = 4 << 20;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) anonymous: u64,
    pub(crate) descriptors: u64,
    pub(crate) maps: u64,
    pub(crate) store: u64,
    pub(crate) log: u64,
}

impl Usage {
    /// Of a process, and of the directories. `None` if it has ended.
    pub(crate) fn of(process: &str, places: &Places) -> Option<Self> {
        let proc = Path::new("/proc").join(process);
        let status = fs::read_to_string(proc.join("status")).ok()?;
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        let kib: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
        let maps = fs::read_to_string(proc.join("maps")).ok()?;
        let maps = segments(&maps).0;
        let descriptors = open_files(process, &places.small)?.len() as u64;
        let (store, log) = (disk(&places.store()), disk(&places.log()));
        Some(Self { anonymous: kib * 1024, descriptors, maps, store, log })
    }
}

/// How many maps of segments there are, and how many segments that are removed.
fn segments(maps: &str) -> (u64, u64) {
    let (mut all, mut removed) = (0, HashSet::new());
    for line in maps.lines().filter(|line| line.contains(".seg")) {
        all += 1;
        if line.ends_with("(deleted)") {
            removed.insert(line.split_whitespace().nth(5).map(ToOwned::to_owned));
        }
    }
    (all, removed.len() as u64)
}

/// Segments that this process has mapped although they are removed.
pub(crate) fn removed_and_mapped() -> u64 {
    segments(&fs::read_to_string("/proc/self/maps").unwrap()).1
}

/// The files that a process has open in a place.
pub(crate) fn open_files(process: &str, place: &Path) -> Option<Vec<PathBuf>> {
    let all = fs::read_dir(Path::new("/proc").join(process).join("fd")).ok()?;
    let links = all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Some(links.filter(|path| path.starts_with(place)).collect())
}

/// Bytes of a directory on disk. Files may be removed meanwhile.
pub(crate) fn disk(path: &Path) -> u64 {
    let Ok(all) = fs::read_dir(path) else { return 0 };
    let sizes = all.filter_map(|entry| {
        let (entry, path) = entry.ok().map(|entry| (entry.metadata(), entry.path()))?;
        let entry = entry.ok()?;
        Some(if entry.is_dir() { disk(&path) } else { entry.blocks() * 512 })
    });
    sizes.sum()
}

/// What docs/operations.md says that a store takes: full segments twice their live bytes, hints (34 bytes of
/// frames of 272 or more, on average), a merge's outputs, the active segment, the standby and one that waits to be
/// sealed, an oversize one of each writer, and the reserve. If it is more, writers have to wait for merges.
pub(crate) fn most_disk_of_store() -> u64 {
    let full = 2 * Key::most_live_bytes();
    full + full / 8 + 8 * SEGMENT + 3 * SEGMENT + WRITERS * OVERSIZE + (4 << 20)
}

/// And what is written until somebody looks: the writers' credit and a value of each, and another merge's outputs.
pub(crate) fn limit_of_store() -> u64 {
    most_disk_of_store() + CREDIT as u64 + WRITERS * OVERSIZE + 8 * SEGMENT
}

/// What is kept and a segment more, the active one and the standby, an oversize one of each appender, the reserve, and
/// as much again until it is truncated.
pub(crate) fn most_disk_of_log() -> u64 {
    2 * KEPT + 3 * SEGMENT + APPENDERS * OVERSIZE + (4 << 20)
}

pub(crate) fn limit_of_log() -> u64 {
    most_disk_of_log() + CREDIT as u64 + APPENDERS * OVERSIZE
}

/// Segments of both that are there at the same time, and what is held: each is mapped once, or in up to three parts.
pub(crate) fn limit_of_maps() -> u64 {
    3 * (limit_of_store() + limit_of_log()) / SEGMENT
}

/// Of a store and a log: the directory, twice, LOCK, a MANIFEST, a reserve, and each segment that is not sealed: the
/// active one, the standby, four that wait, and an oversize one of each thread. A merge's outputs and a hint; two
/// directories and two files of a backup.
pub(crate) const fn limit_of_descriptors() -> u64 {
    2 * (5 + 6) + WRITERS + APPENDERS + 8 + 1 + 4
}

/// When nothing goes on: the directory, twice, LOCK, the active segment and the standby; and one that could not be sealed
/// when the disk was full.
pub(crate) const fn descriptors_at_rest() -> usize {
    2 * (3 + 3)
}

/// Of anonymous memory: each of some 16 threads has an arena, and up to five buffers of an oversize value or entry; the
/// keydir of some thousand keys and a program's own are small beside that.
pub(crate) const fn limit_of_anonymous() -> u64 {
    (WRITERS + APPENDERS) * 5 * OVERSIZE + 16 * (4 << 20)
}
