//! Hazards 13, 27, 34 to 36, and promise 8: damaged and hostile files give an error or the right
//! answer; no panic, no hang, no large allocation.

mod common;

use common::files::{change, make_pipe, names};
use common::frames::seed;
use common::{log_by_hand as options, store_by_hand as store_options};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tailcask::{AppendError, BackupError, CommitLog, Durability, OpenError, RecoveryMode, Store};

const SEGMENT: &str = "00000000000000000001.seg";

/// A small log with entries, a batch and sync marks: closed, or as a dead process leaves it.
fn make(path: &Path, closed: bool) -> Vec<Vec<u8>> {
    let log = options().open(path).unwrap();
    log.append(b"").unwrap();
    log.append(b"hello").unwrap();
    log.append_batch(&[b"a", b"bcdefghij", b""]).unwrap();
    log.sync().unwrap();
    log.append(&[0xff; 40]).unwrap();
    if closed {
        log.close().unwrap();
    } else {
        log.abort();
    }
    read(path, RecoveryMode::Strict).unwrap()
}

fn read(path: &Path, mode: RecoveryMode) -> Result<Vec<Vec<u8>>, String> {
    let log = options().recovery_mode(mode).open_read_only(path).map_err(|e| e.to_string())?;
    entries(&log)
}

fn entries(log: &CommitLog) -> Result<Vec<Vec<u8>>, String> {
    let mut reader = log.reader();
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(|e| e.to_string())? {
        all.push(entry.to_vec());
    }
    Ok(all)
}

/// Every entry read is a right one, in order; some at the end or in the middle may be missing only
/// where an error says so.
fn is_subsequence(found: &[Vec<u8>], all: &[Vec<u8>]) -> bool {
    let mut all = all.iter();
    found.iter().all(|entry| all.any(|other| other == entry))
}

#[test]
fn every_flipped_bit_is_an_error_or_changes_nothing() {
    for closed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let expected = make(&path, closed);
        assert_eq!(expected.len(), 6);
        let file = path.join(SEGMENT);
        let (good, manifest) = (fs::read(&file).unwrap(), fs::read(path.join("MANIFEST")).unwrap());
        let used = good.iter().rposition(|&b| b != 0).unwrap() + 64;
        for bit in 0..used * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, &bad).unwrap();
            match read(&path, RecoveryMode::Strict) {
                Ok(found) => assert_eq!(found, expected, "bit {bit}, closed: {closed}"),
                Err(error) => assert!(!error.is_empty()),
            }
            let salvage = options().recovery_mode(RecoveryMode::Salvage);
            if let Ok(log) = salvage.open_read_only(&path) {
                let found = entries(&log).unwrap_or_else(|error| panic!("bit {bit}: {error}"));
                assert!(is_subsequence(&found, &expected), "bit {bit}, closed: {closed}");
                // With the head of a batch all of it is lost; with that of the segment, everything.
                let least = if bit < 128 * 8 { 0 } else { expected.len() - 3 };
                let report = log.recovery();
                assert!(found.len() >= least, "bit {bit}: {} left: {report}", found.len());
            }
            if bit % 97 == 0 {
                let _ = options().open(&path).map(|log| entries(&log));
                fs::remove_dir_all(&path).unwrap();
                make(&path, closed);
                fs::write(path.join("MANIFEST"), &manifest).unwrap();
                fs::write(&file, &good).unwrap();
            }
        }
    }
}

#[test]
fn every_truncation_is_an_error_or_changes_nothing() {
    for closed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let expected = make(&path, closed);
        let file = path.join(SEGMENT);
        let good = fs::read(&file).unwrap();
        for len in (0..1024).chain([4095, 4096, 4097, good.len() - 1]) {
            fs::write(&file, &good[..len.min(good.len())]).unwrap();
            if let Ok(found) = read(&path, RecoveryMode::Strict) {
                assert_eq!(found, expected, "{len}, closed: {closed}");
            }
            let _ = read(&path, RecoveryMode::Salvage);
        }
    }
}

/// Hazard 35: lengths 0, maximum, end of file and one off, with the checksums made right.
#[test]
fn lengths_that_lie_under_a_right_checksum() {
    for closed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let expected = make(&path, closed);
        let file = path.join(SEGMENT);
        let good = fs::read(&file).unwrap();
        let salt = u64::from_le_bytes(good[24..32].try_into().unwrap());
        let end = good.len() as u64;
        for offset in [128u64, 144] {
            let room = end - offset;
            let lengths = [0, 8, 16, 24, room - 8, room, room + 8, u64::from(u32::MAX) & !7];
            for (len, state) in lengths.iter().flat_map(|&len| (0..8).map(move |s| (len, s))) {
                for value_len in [0u32, 1, room as u32, u32::MAX - 7, u32::MAX] {
                    for kind in 0..5u64 {
                        let header = kind | u64::from(value_len) << 32;
                        let low = len & 0xffff_fff8 | state;
                        let sealed_header = if state == 2 { header } else { 0 };
                        let body = usize::try_from(offset + 16).unwrap();
                        let body = good.get(body..body + value_len as usize).unwrap_or(&[]);
                        let crc = if state == 2 && kind != 2 { crc32fast::hash(body) } else { 0 };
                        let check = crc ^ seed(salt, offset, low, sealed_header);
                        let mut bad = good.clone();
                        let at = offset as usize;
                        bad[at..at + 8]
                            .copy_from_slice(&(u64::from(check) << 32 | low).to_le_bytes());
                        bad[at + 8..at + 16].copy_from_slice(&header.to_le_bytes());
                        fs::write(&file, &bad).unwrap();
                        for mode in [RecoveryMode::Strict, RecoveryMode::Salvage] {
                            if let Ok(found) = read(&path, mode) {
                                assert!(found.len() <= expected.len() + 2);
                                assert!(found.iter().all(|entry| entry.len() < good.len()));
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["LOCK", "MANIFEST", SEGMENT] {
        let path = dir.path().join(name);
        let outside = dir.path().join(format!("{name}.outside"));
        type Make = fn(&Path, &Path);
        let makers: [Make; 3] = [
            |at, outside| {
                fs::write(outside, b"mine").unwrap();
                std::os::unix::fs::symlink(outside, at).unwrap();
            },
            |at, _| fs::create_dir(at).unwrap(),
            |at, _| make_pipe(at),
        ];
        for make_it in makers {
            make(&path, true);
            fs::remove_file(path.join(name)).unwrap();
            make_it(&path.join(name), &outside);
            let opened = options().open(&path);
            assert!(matches!(opened, Err(OpenError::NotRegular { .. })), "{name}: {opened:?}");
            assert!(options().open_read_only(&path).is_err());
            if outside.exists() {
                assert_eq!(fs::read(&outside).unwrap(), b"mine");
            }
            fs::remove_dir_all(&path).unwrap();
        }
    }
}

#[test]
fn stray_names_are_ignored_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let expected = make(&path, false);
    let stray = ["notes.txt", "1.seg", "00000000000000000000.seg", "99999999999999999999.seg"];
    stray.iter().for_each(|name| fs::write(path.join(name), b"x").unwrap());
    let log = options().open(&path).unwrap();
    assert_eq!(entries(&log).unwrap(), expected);
    log.close().unwrap();
    stray.iter().for_each(|name| assert_eq!(fs::read(path.join(name)).unwrap(), b"x"));
}

#[test]
fn what_others_can_write_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    make(&path, true);
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700, "made private");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(options().open(&path), Err(OpenError::NotPrivate { mode: 0o770, .. })));
}

/// Hazard 27.
#[test]
fn a_torn_segment_header_neither_bricks_nor_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let expected = make(&path, true);
    // A creation that was cut short: blank, and shorter than a header.
    fs::write(path.join("00000000000000000002.seg"), vec![0; 2 << 20]).unwrap();
    let log = options().open(&path).unwrap();
    assert_eq!(entries(&log).unwrap(), expected);
    log.close().unwrap();
    assert_eq!(
        names(&path.join("set-aside")),
        ["00000000000000000002.seg"],
        "it is no part of the log"
    );
    fs::write(path.join("00000000000000000009.seg"), [1; 30]).unwrap();
    match options().open(&path) {
        Err(OpenError::Corrupt(corruption)) => assert_eq!(corruption.segment, 9),
        other => panic!("{other:?}"),
    }
    let log = options().recovery_mode(RecoveryMode::Salvage).open(&path).unwrap();
    assert_eq!(entries(&log).unwrap(), expected);
    assert_eq!(log.recovery().lost.len(), 1);
}

#[test]
fn a_missing_segment_or_manifest_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    for _ in 0..3 {
        let log = options().open(&path).unwrap();
        log.append(b"x").unwrap();
        log.close().unwrap();
    }
    let middle = path.join("00000000000000000002.seg");
    let bytes = fs::read(&middle).unwrap();
    fs::remove_file(&middle).unwrap();
    assert!(matches!(
        options().open(&path),
        Err(OpenError::MissingSegment { id: 2, needed_by: 3 })
    ));
    fs::write(&middle, bytes).unwrap();
    assert_eq!(read(&path, RecoveryMode::Strict).unwrap().len(), 3);
    fs::remove_file(path.join(SEGMENT)).unwrap();
    assert!(matches!(
        options().open(&path),
        Err(OpenError::MissingSegment { id: 1, needed_by: 0 })
    ));
    fs::remove_file(path.join("MANIFEST")).unwrap();
    assert!(matches!(options().open(&path), Err(OpenError::Manifest(_))));
}

fn count(what: &str) -> usize {
    match what {
        "maps" => fs::read_to_string("/proc/self/maps")
            .unwrap()
            .lines()
            .filter(|line| line.contains(".seg"))
            .count(),
        _ => fs::read_dir("/proc/self/fd").unwrap().count(),
    }
}

/// Hazard 13, in a process of its own, so that other tests' files are not counted.
#[test]
fn opening_a_damaged_log_again_and_again_leaks_nothing() {
    if std::env::var_os("TAILCASK_ALONE").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "opening_a_damaged_log_again_and_again_leaks_nothing"])
            .env("TAILCASK_ALONE", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("log");
    make(&path, false);
    let file = path.join(SEGMENT);
    let mut bytes = fs::read(&file).unwrap();
    bytes[150] ^= 1;
    fs::write(&file, bytes).unwrap();
    let before = (count("maps"), count("fd"));
    for _ in 0..100 {
        assert!(options().open(&path).is_err());
        assert!(CommitLog::open(&path).is_err());
    }
    assert_eq!((count("maps"), count("fd")), before);
}

/// The highest id that there is: behind it the log cannot go on, but what is there is read and copied.
#[test]
fn a_store_that_has_used_up_its_ids_is_read_and_backed_up() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let store = store_options().open(&path).unwrap();
    store.put("first", "1").unwrap();
    store.close().unwrap();
    let checksum_of = |bytes: &[u8]| crc32fast::hash(bytes).to_le_bytes();
    change(&path.join("MANIFEST"), |manifest| {
        manifest[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        let (content, checksum) = manifest.split_last_chunk_mut::<4>().unwrap();
        *checksum = checksum_of(content);
    });
    let store = store_options().open(&path).unwrap();
    assert_eq!(store.put("last", "2").unwrap().segment(), u32::MAX);
    assert!(matches!(store.backup(&copy), Err(BackupError::Append(AppendError::IdsExhausted))));
    store.close().unwrap();
    assert!(matches!(store_options().open(&path), Err(OpenError::IdsExhausted)));
    Store::open_read_only(&path).unwrap().backup(&copy).unwrap();
    for path in [&path, &copy] {
        let view = Store::open_read_only(path).unwrap();
        view.verify().unwrap();
        assert_eq!(view.get("first").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(view.get("last").unwrap().as_deref(), Some(&b"2"[..]));
    }
}

/// A huge page under an active segment, where kernel and file system can.
#[test]
fn an_active_segment_is_backed_by_huge_pages() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log =
        CommitLog::options().initial_segment_size(8 << 20).open(dir.path().join("l")).unwrap();
    log.append(b"x").unwrap();
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let mine = text
        .split_inclusive("VmFlags")
        .find(|map| map.contains(SEGMENT) && map.contains(dir.path().to_str().unwrap()));
    let huge = mine.and_then(|map| map.lines().find(|line| line.starts_with("FilePmdMapped")));
    match huge.and_then(|line| line.split_whitespace().nth(1)) {
        Some(kib) if kib != "0" => assert_eq!(kib.parse::<u64>().unwrap() % 2048, 0),
        other => eprintln!("skipped: no huge pages for files here ({other:?})"),
    }
}

/// Whether huge pages are asked for, for each segment in memory, the newest last.
fn asks_for_huge_pages(dir: &Path) -> Vec<bool> {
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut maps, mut of_segment) = (Vec::new(), None);
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(name) = of_segment.take() {
                maps.push((name, flags.split_whitespace().any(|flag| flag == "hg")));
            }
        } else if line.contains(dir.to_str().unwrap()) && line.ends_with(".seg") {
            of_segment = Some(line.rsplit('/').next().unwrap().to_owned());
        }
    }
    maps.sort();
    maps.into_iter().map(|(_, asks)| asks).collect()
}

/// A sync writes whole pages, and the kernel knows only of a whole huge page whether it was written to.
#[test]
fn segments_that_are_synced_often_have_small_pages() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, entry) = (dir.path().join("l"), vec![7; 300 << 10]);
    let log = options().open(&path).unwrap();
    let roll = |synced: bool| {
        let created = log.stats().segments_created;
        while log.stats().segments_created == created {
            log.append(&entry).unwrap();
            if synced {
                log.sync().unwrap();
            }
        }
        *asks_for_huge_pages(&path).last().unwrap()
    };
    if !asks_for_huge_pages(&path)[0] {
        return eprintln!("skipped: no huge pages for files here");
    }
    assert!(roll(false), "nothing was synced");
    assert!(!roll(true), "each entry was synced");
    assert!(!roll(true));
    assert!(roll(false), "nothing was synced any more");
    drop(log);
    let path = dir.path().join("synced");
    let log = options().durability(Durability::Synced).open(&path).unwrap();
    assert_eq!(asks_for_huge_pages(&path), [false]);
    log.append(&entry).unwrap();
}
