//! What has to hold of any files at all.
//!
//! * Opening ends, with an error or without. No panic.
//! * A strict open of a log that fails changes nothing; of a store, no sealed segment.
//! * What was opened, strictly or by salvage, and closed is opened again, strictly, and has the same in it.
//! * A reader finds what a writer finds who comes next.
//! * Repairing changes nothing, and its copy is opened strictly, with what salvage finds.

use super::files::{Files, segment};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tailcask::{
    AppendError, CommitLog, LogOptions, Maintenance, MergeError, OpenError, ReadError, ReadView,
    RecoveryMode, RepairError, SimulatedDisk, Store, StoreOptions,
};

const SEGMENT: u64 = 4096;
/// The time, which stands still: so that nothing expires between two looks.
const NOW: u64 = 1_700_000_000_000;
/// The boot id of the simulated machine, where segments are to be of the same one.
const BOOT: u128 = 7;

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;
/// What was read, or the error that ended it.
type Contents<T> = Result<T, String>;

fn store_options(mode: RecoveryMode) -> StoreOptions {
    let options = Store::options().maintenance(Maintenance::Manual).recovery_mode(mode);
    let options = options.segment_unit(SEGMENT).segment_size(SEGMENT).cache_budget(1 << 30);
    options.clock(Arc::new(AtomicU64::new(NOW)))
}

fn log_options(mode: RecoveryMode) -> LogOptions {
    let options = CommitLog::options().maintenance(Maintenance::Manual).recovery_mode(mode);
    options.segment_unit(SEGMENT).segment_size(SEGMENT)
}

/// Says that the segments were written in this boot, to these very files; or in an earlier one.
pub fn set_boot(files: &mut Files, boot: Option<u128>) {
    let boot = boot.unwrap_or(u128::from(u64::MAX));
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name.ends_with(".seg")) {
        if bytes.len() >= super::files::HEADER {
            bytes[32..48].copy_from_slice(&boot.to_le_bytes());
            // A file with another inode is no snapshot.
            bytes[112..120].copy_from_slice(&u64::MAX.to_le_bytes());
        }
    }
}

fn disk(files: &Files) -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    disk.set_boot_id(Some(BOOT));
    for (name, bytes) in files {
        assert!(disk.write(name, bytes));
    }
    disk
}

/// Everything on a disk.
fn everything(disk: &SimulatedDisk) -> Files {
    let names = disk.files().into_iter().map(|(name, _)| name).chain(["MANIFEST".to_owned()]);
    names.filter_map(|name| disk.read(&name).map(|bytes| (name, bytes))).collect()
}

/// What a store or a view of one has.
trait Reads {
    fn pairs(&self) -> tailcask::Pairs<'_>;
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError>;
    fn has(&self) -> u64;
    fn is_sound(&self) -> bool;
}

macro_rules! reads {
    ($of:ty) => {
        impl Reads for $of {
            fn pairs(&self) -> tailcask::Pairs<'_> {
                self.iter()
            }

            fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
                Ok(self.get(key)?.map(|value| value.to_vec()))
            }

            fn has(&self) -> u64 {
                self.len()
            }

            fn is_sound(&self) -> bool {
                self.verify().is_ok()
            }
        }
    };
}

reads!(Store);
reads!(ReadView);

fn read_pairs(store: &impl Reads) -> Contents<Pairs> {
    let mut pairs = Pairs::new();
    for pair in store.pairs() {
        let pair = pair.map_err(|e| e.to_string())?;
        if pairs.insert(pair.key().to_vec(), pair.value().to_vec()).is_some() {
            // A hint with a right checksum may name a frame by another key, beside one of that key.
            assert!(!store.is_sound(), "{:?} comes twice", pair.key());
            return Err(format!("{:?} comes twice", pair.key()));
        }
    }
    for (key, value) in &pairs {
        if store.value(key).map_err(|e| e.to_string())?.as_ref() != Some(value) {
            // A hint with a right checksum may name a frame by another key.
            assert!(!store.is_sound(), "verifying tells what a hint does not say");
            return Err(format!("{key:?} is not found"));
        }
    }
    // It counts what has expired, too.
    assert!(store.has() >= pairs.len() as u64);
    Ok(pairs)
}

pub(super) fn read_log(log: &CommitLog) -> Contents<Vec<Vec<u8>>> {
    let (mut reader, mut entries) = (log.reader(), Vec::new());
    let error = |e: ReadError| e.to_string();
    while let Some(entry) = reader.next_entry().map_err(error)? {
        let alone = log.read(entry.position()).map_err(error)?;
        assert_eq!(*alone, *entry);
        entries.push(entry.to_vec());
    }
    Ok(entries)
}

/// Opens and reads, closes and opens again.
fn open_store(disk: &SimulatedDisk, mode: RecoveryMode) -> Result<Contents<Pairs>, OpenError> {
    let store = store_options(mode).open_simulated(disk)?;
    let found = read_pairs(&store);
    let verified = store.verify();
    assert!(verified.is_ok() || !verified.unwrap_err().to_string().is_empty());
    let _ = store.recovery().to_string();
    if let (Ok(found), true) = (&found, store.is_sound()) {
        merge_all(&store, found);
    }
    store.close().expect("nothing fails on this disk");
    Ok(found)
}

/// Merges change nothing, whatever segments there are.
fn merge_all(store: &Store, found: &Pairs) {
    for _ in 0..2 {
        let merged = store.roll().and_then(|()| store.merge());
        let used_up = matches!(merged, Err(MergeError::Append(AppendError::IdsExhausted)));
        assert!(merged.is_ok() || used_up, "{merged:?}: but all is sound");
        assert_eq!(read_pairs(store).as_ref(), Ok(found), "merged");
        assert!(store.is_sound(), "merged");
    }
}

fn open_log(disk: &SimulatedDisk, mode: RecoveryMode) -> Result<Contents<Vec<Vec<u8>>>, OpenError> {
    let log = log_options(mode).open_simulated(disk)?;
    let found = read_log(&log);
    let _ = log.recovery().to_string();
    log.close().expect("nothing fails on this disk");
    Ok(found)
}

/// Opens these files on a simulated disk: as a log, if they are one and no store.
pub fn open(mut files: Files, same_boot: bool, mend: bool) {
    set_boot(&mut files, same_boot.then_some(BOOT));
    if mend {
        super::checksums::mend(&mut files);
    }
    let disk = disk(&files);
    match log_options(RecoveryMode::Strict).open_simulated(&disk) {
        Err(OpenError::HoldsStore) => check(What::Store, &disk, open_store),
        Ok(log) => {
            log.abort();
            check(What::Log, &self::disk(&files), open_log);
        }
        Err(_) => {
            check(What::Log, &disk, open_log);
            check(What::Store, &self::disk(&files), open_store);
        }
    }
}

#[derive(PartialEq)]
enum What {
    Log,
    Store,
}

fn check<T: PartialEq + std::fmt::Debug>(
    what: What,
    disk: &SimulatedDisk,
    open: impl Fn(&SimulatedDisk, RecoveryMode) -> Result<Contents<T>, OpenError>,
) {
    let before = everything(disk);
    let opened = open(disk, RecoveryMode::Strict);
    let opened = opened.or_else(|error| {
        assert!(!error.to_string().is_empty());
        let after = everything(disk);
        // Damage in a sealed segment is found when keys are loaded from it; by then what a dead process left
        // in the others is repaired.
        let counts = |bytes: &[u8]| what == What::Log || super::checksums::is_sealed(bytes);
        let mut kept = before.iter().filter(|(_, bytes)| counts(bytes));
        let changed = kept.find(|(name, bytes)| after.get(*name) != Some(bytes));
        let changed = changed.map(|(name, _)| name);
        assert_eq!(changed, None, "a strict open that fails changes nothing: {error}");
        open(disk, RecoveryMode::Salvage)
    });
    let Ok(found) = opened else { return };
    match (open(disk, RecoveryMode::Strict), found) {
        (Ok(again), Ok(found)) => assert_eq!(again, Ok(found), "opened again"),
        (Ok(_), Err(_)) => {}
        // By the merges.
        (Err(OpenError::IdsExhausted), _) => {}
        (Err(error), found) => panic!("{error}: but it was opened before, and had {found:?}"),
    }
}

fn write(dir: &Path, files: &Files) {
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).expect("a temporary directory can be written to");
    }
}

/// A directory of real files: opened for reading, repaired, and opened for writing.
pub fn repair(mut files: Files, same_boot: bool, mend: bool) {
    let boot = same_boot.then(this_boot).flatten();
    set_boot(&mut files, boot);
    if mend {
        super::checksums::mend(&mut files);
    }
    let (pairs, entries) = repair_to_copy(&files);
    let _ = read_beside(&files, RecoveryMode::Strict);
    let (of_store, of_log) = read_beside(&files, RecoveryMode::Salvage);
    if let (Ok(Ok(repaired)), Ok(Ok(salvaged))) = (pairs, of_store) {
        assert_eq!(repaired, salvaged, "repaired and salvaged");
    }
    if let (Ok(Ok(repaired)), Ok(Ok(salvaged))) = (entries, of_log) {
        assert_eq!(repaired, salvaged, "repaired and salvaged");
    }
}

/// What a store and a log are opened with.
type Found<E> = (Result<Contents<Pairs>, E>, Result<Contents<Vec<Vec<u8>>>, E>);

fn repair_to_copy(files: &Files) -> Found<RepairError> {
    let (temporary, dir) = new_directory(files);
    let [store, log] = ["store", "log"].map(|copy| temporary.path().join(copy));
    let repaired = store_options(RecoveryMode::Strict).repair(&dir, &store);
    let pairs = repaired.map(|report| {
        let _ = report.to_string();
        let opened = store_options(RecoveryMode::Strict).open(&store);
        let store = opened.unwrap_or_else(|error| panic!("{error}: but {report}"));
        let pairs = read_pairs(&store);
        store.close().expect("nothing fails here");
        pairs
    });
    assert_eq!(store.exists(), pairs.is_ok(), "nothing is left of it");
    let repaired = log_options(RecoveryMode::Strict).repair(&dir, &log);
    let entries = repaired.map(|report| {
        let _ = report.to_string();
        let opened = log_options(RecoveryMode::Strict).open(&log);
        read_log(&opened.unwrap_or_else(|error| panic!("{error}: but {report}")))
    });
    assert_eq!(log.exists(), entries.is_ok(), "nothing is left of it");
    assert_eq!(&super::files::read(&dir).expect("it can be read"), files, "nothing is changed");
    (pairs, entries)
}

/// Readers find what the next writer finds, and change nothing.
fn read_beside(files: &Files, mode: RecoveryMode) -> Found<OpenError> {
    let (stores, logs) = (store_options(mode), log_options(mode));
    let (_temporary, dir) = new_directory(files);
    let pairs = stores.open_read_only(&dir).map(|view| read_pairs(&view));
    let entries = logs.open_read_only(&dir).map(|log| read_log(&log));
    assert_eq!(&super::files::read(&dir).expect("it can be read"), files, "nothing is changed");
    let log = logs.open(&dir).map(|log| read_log(&log));
    if !matches!(log, Err(OpenError::HoldsStore)) {
        compare(entries, &log);
    }
    let (_temporary, dir) = new_directory(files);
    let store = stores.open(&dir).map(|store| read_pairs(&store));
    compare(pairs, &store);
    (store, log)
}

fn compare<T>(seen: Result<Contents<T>, OpenError>, found: &Result<Contents<T>, OpenError>)
where
    T: PartialEq + Default + std::fmt::Debug,
{
    match (seen, found) {
        (Ok(Ok(seen)), Ok(found)) => assert_eq!(&Ok(seen), found, "reader and writer"),
        (Ok(seen), Err(error)) => panic!("{error}: but a reader has seen {seen:?}"),
        (Err(OpenError::NotFound { .. }), Ok(new)) => assert_eq!(new, &Ok(T::default())),
        (Err(error), Ok(found)) => panic!("a reader: {error}; a writer: {found:?}"),
        (Ok(Err(error)), Ok(Ok(found))) => panic!("a reader: {error}; a writer: {found:?}"),
        (Ok(Err(_)), Ok(Err(_))) | (Err(_), Err(_)) => {}
    }
}

/// A temporary directory, and a private one in it with these files.
fn new_directory(files: &Files) -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().expect("there is a temporary directory");
    let dir = temporary.path().join("db");
    make_private(&dir);
    write(&dir, files);
    (temporary, dir)
}

fn make_private(dir: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(dir).expect("it is new");
}

/// The boot id of this machine, as segments have it.
fn this_boot() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
}

/// The segment that targets replace.
#[must_use]
pub fn first_segment(files: &Files) -> String {
    let first = files.keys().find(|name| name.ends_with(".seg")).cloned();
    first.unwrap_or_else(|| segment(1))
}
