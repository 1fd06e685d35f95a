//! Opening decides completely, and then acts: what contradicts what, what is set aside, and what of
//! it Salvage brings back. Each test is a way in which sound data was once lost, or taken for granted.

mod common;

use common::files::{copy_dir, names};
use common::{HANG, contents, entries, sealed, segment, small_log, small_store, value};
use std::fs;
use std::path::{Path, PathBuf};
use tailcask::{
    CommitLog, LogOptions, OpenError, RecoveryMode, SimulatedDisk, Store, StoreOptions,
};

const UNIT: u64 = 16 << 10;

fn store_options() -> StoreOptions {
    small_store(UNIT).segment_size(2 * UNIT)
}

fn options() -> LogOptions {
    small_log(UNIT)
}

fn segments(dir: &Path) -> Vec<String> {
    let mut all = names(dir);
    all.retain(|name| name.ends_with(".seg"));
    all
}

/// K2: the segments that an older MANIFEST does not know are sound, and were unlinked.
#[test]
fn an_older_manifest_is_refused_and_nothing_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = store_options().open(&path).unwrap();
    store.put("a", "1").unwrap();
    // Once as of a store that is open, and once as of one that was closed.
    let old_open = fs::read(path.join("MANIFEST")).unwrap();
    store.close().unwrap();
    let old_closed = fs::read(path.join("MANIFEST")).unwrap();
    let store = store_options().open(&path).unwrap();
    store.put("b", "2").unwrap();
    store.merge().unwrap();
    store.close().unwrap();
    let new = fs::read(path.join("MANIFEST")).unwrap();
    let before = segments(&path);
    for old in [old_open, old_closed] {
        fs::write(path.join("MANIFEST"), &old).unwrap();
        let refused = store_options().open(&path);
        assert!(
            matches!(
                refused,
                Err(OpenError::MissingSegment { .. } | OpenError::Contradiction { .. })
            ),
            "{refused:?}"
        );
        assert_eq!(segments(&path), before, "nothing is gone");
        // Salvage takes what is there.
        let copy = dir.path().join(format!("copy{}", old.len() + usize::from(old == new)));
        copy_dir(&path, &copy, true);
        let salvage = store_options().recovery_mode(RecoveryMode::Salvage).open(&copy).unwrap();
        assert_eq!(contents(&salvage).len(), 2, "{}", salvage.recovery());
        assert!(!salvage.recovery().is_clean());
        salvage.close().unwrap();
        assert_eq!(contents(&store_options().open(&copy).unwrap()).len(), 2);
    }
    fs::write(path.join("MANIFEST"), new).unwrap();
    assert_eq!(contents(&store_options().open(&path).unwrap()).len(), 2);
}

/// A segment that was truncated, and is there again: from a backup, say.
#[test]
fn a_segment_from_before_the_beginning_is_refused_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    let first = log.append(b"old").unwrap().segment();
    let old = path.join(segment(first));
    let mut at = log.tail();
    while at.segment() < first + 2 {
        at = log.append(b"new").unwrap();
    }
    log.sync().unwrap();
    let bytes = fs::read(&old).unwrap();
    log.truncate_before(at).unwrap();
    assert!(!old.exists());
    log.close().unwrap();
    // From now on no MANIFEST lists it as removed.
    options().open(&path).unwrap().close().unwrap();
    fs::write(&old, &bytes).unwrap();
    let refused = options().open(&path);
    assert!(
        matches!(&refused, Err(OpenError::Contradiction { segment, .. }) if *segment == first),
        "{refused:?}"
    );
    assert_eq!(fs::read(&old).unwrap(), bytes);
    let log = options().recovery_mode(RecoveryMode::Salvage).open(&path).unwrap();
    let report = log.recovery().clone();
    assert_eq!(report.contradictions.len(), 1, "{report}");
    log.close().unwrap();
    assert_eq!(fs::read(&old).unwrap()[128..], bytes[128..], "what is in it stays");
    options().open(&path).unwrap();
}

/// A standby that was created, could not be synced, and so was never known of, when the log was closed
/// without having used the segment before it.
#[test]
fn an_unused_segment_behind_the_end_of_a_closed_log_is_no_sign_of_a_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    log.append(b"entry").unwrap();
    log.close().unwrap();
    // In a copy the same segments are made, and a standby.
    let copy = dir.path().join("copy");
    copy_dir(&path, &copy, true);
    let log = options().open(&copy).unwrap();
    log.maintain().unwrap();
    let all = segments(&copy);
    let [_, active, standby] = &all[..] else { panic!("{all:?}") };
    let bytes = fs::read(copy.join(standby)).unwrap();
    log.close().unwrap();
    options().open(&path).unwrap().close().unwrap();
    assert!(!path.join(active).exists());
    fs::write(path.join(standby), bytes).unwrap();
    let log = options().open(&path).unwrap();
    assert_eq!(entries(&log), [b"entry".to_vec()]);
    assert!(!path.join(standby).exists());
}

/// K5, in its forms: after a clean close the newest segment is zeroed, deleted, or replaced.
#[test]
fn a_last_segment_that_is_gone_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("store"), dir.path().join("other"));
    for path in [&path, &other] {
        let store = store_options().open(path).unwrap();
        for n in 0..400 {
            store.put(format!("key{n}"), vec![7; 100]).unwrap();
        }
        store.delete("key1").unwrap();
        store.close().unwrap();
    }
    let last = segments(&path).pop().unwrap();
    let sound = fs::read(path.join(&last)).unwrap();
    let shorter = {
        // The same segment as it was some writes ago.
        let mut bytes = sound.clone();
        let written = bytes.iter().rposition(|&byte| byte != 0).unwrap();
        bytes[64..96].fill(0);
        bytes[written / 2..].fill(0);
        bytes
    };
    let mut unused = shorter.clone();
    unused[128..].fill(0);
    for (what, bytes) in [
        ("deleted", None),
        ("zeroed", Some(vec![0; sound.len()])),
        ("of another store", Some(fs::read(other.join(&last)).unwrap())),
        ("an older copy", Some(shorter)),
        ("as it was before it was used", Some(unused.clone())),
    ] {
        match &bytes {
            Some(bytes) => fs::write(path.join(&last), bytes).unwrap(),
            None => fs::remove_file(path.join(&last)).unwrap(),
        }
        let refused = store_options().open(&path);
        assert!(refused.is_err(), "{what}");
        let read_only = CommitLog::options().open_read_only(&path);
        assert!(read_only.is_err(), "{what}: to readers, too");
        let there = fs::read(path.join(&last)).ok();
        assert_eq!(there, bytes, "{what}: it is left as it was");
    }
    let copy = dir.path().join("copy");
    copy_dir(&path, &copy, true);
    let salvage = store_options().recovery_mode(RecoveryMode::Salvage).open(&copy).unwrap();
    let (report, left) = (salvage.recovery(), contents(&salvage));
    let gone = report.gone.len(); // its hint says how many
    assert!(gone > 0 && left.len() + gone >= 399, "{gone} of {}: {report}", 399 - left.len());
    fs::write(path.join(&last), sound).unwrap();
    assert_eq!(contents(&store_options().open(&path).unwrap()).len(), 399);
}

/// A segment of another log under a name that is free is neither taken nor removed.
#[test]
fn a_segment_of_another_log_is_refused_or_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("log"), dir.path().join("other"));
    for path in [&path, &other] {
        let log = options().open(path).unwrap();
        (0..600).for_each(|n| drop(log.append(format!("{n} {}", "x".repeat(90)).as_bytes())));
        log.close().unwrap();
    }
    let last = segments(&path).pop().unwrap();
    fs::copy(other.join(&last), path.join(&last)).unwrap();
    assert!(matches!(options().open(&path), Err(OpenError::Contradiction { .. })));
    let log = options().recovery_mode(RecoveryMode::Salvage).open(&path).unwrap();
    let report = log.recovery();
    assert_eq!(report.contradictions.len(), 1, "{report}");
    assert!(!report.contradictions[0].taken);
    assert_eq!(report.set_aside.len(), 1, "{report}");
    let aside = path.join("set-aside").join(&report.set_aside[0].name);
    assert_eq!(fs::read(aside).unwrap(), fs::read(other.join(&last)).unwrap());
    assert!(entries(&log).len() < 600);
}

/// The same where the MANIFEST is gone, too: Salvage takes one log, and not a mixture.
#[test]
fn salvage_without_a_manifest_takes_the_segments_of_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("log"), dir.path().join("other"));
    for path in [&path, &other] {
        let log = options().open(path).unwrap();
        for n in 0..600 {
            log.append(format!("{} {n} {}", path.display(), "x".repeat(60)).as_bytes()).unwrap();
        }
        log.close().unwrap();
    }
    let last = segments(&path).pop().unwrap();
    fs::copy(other.join(&last), path.join(&last)).unwrap();
    fs::remove_file(path.join("MANIFEST")).unwrap();
    let salvage = options().recovery_mode(RecoveryMode::Salvage).open(&path).unwrap();
    let ours = path.display().to_string();
    assert!(entries(&salvage).iter().all(|entry| entry.starts_with(ours.as_bytes())));
    assert_eq!(salvage.recovery().contradictions.len(), 1, "{}", salvage.recovery());
    salvage.close().unwrap();
    options().open(&path).unwrap();
}

/// A log after a death with an unfinished append, and then a restart of the machine. Behind that append
/// are a thousand others, in more than one segment.
fn with_much_behind_its_end() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    log.append(b"before").unwrap();
    log.abandon_reservation(64);
    for n in 0..1000u32 {
        log.append(format!("behind {n}").as_bytes()).unwrap();
    }
    let image = disk.power_loss(|_, _| true);
    log.abort();
    image
}

/// A log on a simulated disk, as one in a directory.
fn in_files(image: &SimulatedDisk, dir: &Path) -> PathBuf {
    let path = dir.join("log");
    fs::create_dir(&path).unwrap();
    common::files::mode(&path, 0o700);
    for name in image.files().into_iter().map(|(name, _)| name).chain(["MANIFEST".to_owned()]) {
        fs::write(path.join(&name), image.read(&name).unwrap()).unwrap();
    }
    path
}

/// L4: what is behind an append that was not finished does not count after a restart, by promise 3; but it
/// is set aside, and can be brought back.
#[test]
fn what_is_cut_off_after_a_restart_is_set_aside_and_comes_back_with_salvage() {
    let image = with_much_behind_its_end();
    let log = options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log), [b"before".to_vec()]);
    let report = log.recovery().clone();
    assert!(!report.set_aside.is_empty() && report.torn_bytes > 0, "{report}");
    assert!(report.set_aside.iter().all(|file| file.reason.is_some()));
    log.append(b"after").unwrap();
    log.close().unwrap();
    let log = options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log), [b"before".to_vec(), b"after".to_vec()], "it stays cut off");
    assert_eq!(log.recovery().set_aside.len(), report.set_aside.len(), "and is listed");
    log.close().unwrap();

    let salvage = options().recovery_mode(RecoveryMode::Salvage);
    let log = salvage.open_simulated(&image).unwrap();
    let all = entries(&log);
    assert_eq!(all.len(), 1002, "{}", log.recovery());
    assert_eq!((&all[0][..], &all[1001][..]), (&b"before"[..], &b"after"[..]));
    log.close().unwrap();
    assert_eq!(entries(&options().open_simulated(&image).unwrap()), all, "for good");
    assert_eq!(entries(&salvage.open_simulated(&image).unwrap()), all);
}

/// The same with segments of version 1, which do not say of which log they are: the MANIFEST does.
#[test]
fn what_is_cut_off_of_segments_of_version_1_comes_back_too() {
    let image = with_much_behind_its_end();
    let sealed = |bytes: &mut [u8], at: usize| {
        let crc = crc32fast::hash(&bytes[..at]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    };
    for (name, _) in image.files().iter().filter(|(name, _)| name.ends_with(".seg")) {
        let mut bytes = image.read(name).unwrap();
        bytes[8] = 1;
        bytes[96..128].fill(0);
        sealed(&mut bytes, 60);
        assert!(image.write(name, &bytes));
    }
    let mut manifest = image.read("MANIFEST").unwrap();
    manifest[64] = 100;
    let end = manifest.len() - 4;
    sealed(&mut manifest, end);
    assert!(image.write("MANIFEST", &manifest));
    let log = options().open_simulated(&image).unwrap();
    assert_eq!(entries(&log), [b"before".to_vec()]);
    log.append(b"after").unwrap();
    log.close().unwrap();
    let salvage = options().recovery_mode(RecoveryMode::Salvage);
    assert_eq!(entries(&salvage.open_simulated(&image).unwrap()).len(), 1002);
}

/// What another log has lost is nothing of this one.
#[test]
fn what_was_cut_off_of_another_log_stays_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = in_files(&with_much_behind_its_end(), dir.path());
    options().open(&path).unwrap().close().unwrap();
    let other = dir.path().join("other");
    options().open(&other).unwrap().close().unwrap();
    copy_dir(&path.join("set-aside"), &other.join("set-aside"), true);
    let before = names(&other.join("set-aside"));
    assert!(before.iter().any(|name| name.ends_with(".seg.cut")), "{before:?}");
    let log = options().recovery_mode(RecoveryMode::Salvage).open(&other).unwrap();
    let report = log.recovery();
    assert!(entries(&log).is_empty() && report.contradictions.is_empty(), "{report}");
    assert_eq!(names(&other.join("set-aside")), before);
}

/// The same with files: whole segments that were cut off get their names back. Also where no MANIFEST was
/// written since, which would not list them any more.
#[test]
fn segments_that_were_cut_off_come_back_with_salvage() {
    for closes in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = in_files(&with_much_behind_its_end(), dir.path());
        let log = options().open(&path).unwrap();
        assert_eq!(entries(&log), [b"before".to_vec()]);
        let aside: Vec<_> = log.recovery().set_aside.iter().map(|file| file.name.clone()).collect();
        let whole: Vec<_> = aside.iter().filter(|name| name.ends_with(".seg.cut")).collect();
        assert!(!whole.is_empty() && whole.len() < aside.len(), "{aside:?}: segments, and a tail");
        if closes {
            log.close().unwrap();
        } else {
            log.abort();
        }
        let salvage = options().recovery_mode(RecoveryMode::Salvage);
        let log = salvage.open(&path).unwrap();
        let all = entries(&log);
        assert_eq!(all.len(), 1001, "{}", log.recovery());
        let left: Vec<_> = log.recovery().set_aside.iter().map(|file| &file.name).collect();
        assert!(
            whole.iter().all(|name| !left.contains(name)),
            "{left:?}: they have their names again"
        );
        assert!(!log.recovery().in_doubt.is_empty(), "{}", log.recovery());
        log.close().unwrap();
        assert_eq!(entries(&options().open(&path).unwrap()), all, "for good");
    }
}

/// Where the MANIFEST is gone, or older than what was truncated, the files are all that a reader has.
#[test]
fn what_salvage_takes_against_the_manifest_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("log"), dir.path().join("copy"));
    let log = options().open(&path).unwrap();
    (0..600).for_each(|n| drop(log.append(format!("{n} {}", "x".repeat(90)).as_bytes())));
    log.sync().unwrap();
    let all = entries(&log);
    copy_dir(&path, &copy, true);
    log.truncate_before(log.tail()).unwrap();
    log.close().unwrap();
    for name in segments(&copy) {
        if !path.join(&name).exists() {
            fs::copy(copy.join(&name), path.join(&name)).unwrap();
        }
    }
    let salvage = options().recovery_mode(RecoveryMode::Salvage);
    let check = |what: &str| {
        let log = salvage.open_read_only(&path).unwrap();
        assert_eq!(entries(&log), all, "{what}: {}", log.recovery());
        assert_eq!(entries(&log), all, "{what}: again");
    };
    check("truncated segments are there again");
    fs::remove_file(path.join("MANIFEST")).unwrap();
    check("no MANIFEST");
}

/// K1: a boot id that cannot be known is no other boot id. Where the verdict depends on it, Strict
/// refuses, and changes nothing.
#[test]
fn without_a_boot_id_a_dead_claim_does_not_end_the_log() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    log.append(b"before").unwrap();
    let whole = disk.process_death();
    log.abandon_reservation(64);
    log.append(b"behind").unwrap();
    let image = disk.process_death();
    log.abort();

    whole.set_boot_id(None);
    let log = options().open_simulated(&whole).unwrap();
    assert_eq!(entries(&log), [b"before".to_vec()], "nothing depends on it");
    log.close().unwrap();

    let unknown = image.process_death();
    unknown.set_boot_id(None);
    match options().open_simulated(&unknown) {
        Err(OpenError::UnknownBoot { segment: 1, offset }) => assert!(offset > 128),
        other => panic!("{:?}", other.map(|_| ())),
    }
    let salvage = options().recovery_mode(RecoveryMode::Salvage).open_simulated(&unknown).unwrap();
    assert_eq!(entries(&salvage), [b"before".to_vec(), b"behind".to_vec()]);
    assert_eq!(entries(&options().open_simulated(&image).unwrap()).len(), 2, "the same boot");
}

/// L5: the same boot, and the same file on another device: a snapshot of the volume, which has what
/// had been written back. A hole in it is no hole that a process left.
#[test]
fn a_snapshot_of_the_volume_is_judged_as_after_a_power_loss() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    for n in 0..60u32 {
        log.append(format!("{n} {}", "x".repeat(200)).as_bytes()).unwrap();
    }
    let snapshot = disk.on_another_device(|unsynced| match unsynced {
        tailcask::Unsynced::Sector { sector: 5, .. } => tailcask::Fate::Lost,
        _ => tailcask::Fate::Kept,
    });
    log.abort();
    let log = options().open_simulated(&snapshot).unwrap();
    let all = entries(&log);
    assert!(all.len() < 60 && log.recovery().torn_bytes > 0, "{}", log.recovery());
    for (n, entry) in all.iter().enumerate() {
        assert!(entry.starts_with(format!("{n} ").as_bytes()), "there is no hole in the middle");
    }
}

/// A store and a log that version 0.1.0 wrote are opened, upgraded, and written to.
#[test]
fn what_version_0_1_0_wrote_is_opened_and_upgraded() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
    for name in ["store-closed", "store-killed"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        copy_dir(&fixtures.join(name), &path, true);
        let store = store_options().open(&path).unwrap();
        assert!(store.recovery().upgraded);
        check_fixture(&store);
        store.put("new", "value").unwrap();
        store.merge().unwrap();
        store.close().unwrap();
        let store = store_options().open(&path).unwrap();
        assert!(!store.recovery().upgraded && store.recovery().is_clean(), "{}", store.recovery());
        assert_eq!(&*store.get("new").unwrap().unwrap(), b"value");
        check_fixture(&store);
        store.verify().unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    copy_dir(&fixtures.join("log-closed"), &path, true);
    let log = options().open(&path).unwrap();
    assert_eq!(entries(&log).len(), 400);
    log.append(b"more").unwrap();
    log.close().unwrap();
    assert_eq!(entries(&options().open(&path).unwrap()).len(), 401);
}

fn check_fixture(store: &Store) {
    let value = |key: &str| value(store, key);
    assert_eq!(value("key0000"), None, "deleted");
    assert_eq!(value("key0001").as_deref(), Some(&b"second-1"[..]));
    assert_eq!(value("key0002"), None, "deleted in a batch");
    assert_eq!(value("key0005"), Some(format!("value-5-{}", "x".repeat(5)).into_bytes()));
    assert_eq!(value("batch-b").as_deref(), Some(&b"2"[..]));
    assert_eq!((value("expired"), value("lasting")), (None, Some(b"there".to_vec())));
    assert_eq!(value("key0329").as_deref(), Some(&b"late-329"[..]));
}

/// What an interrupted merge left goes, since everything that was merged is still there; the same file
/// without its inputs stays.
#[test]
fn what_a_merge_left_is_removed_only_while_its_inputs_are_there() {
    let disk = SimulatedDisk::new();
    let store = store_options().open_simulated(&disk).unwrap();
    for n in 0..300 {
        store.put(format!("key{}", n % 50), format!("{n} {}", "x".repeat(80))).unwrap();
    }
    store.maintain().unwrap();
    let expected = contents(&store);
    let ids = sealed(&store);
    let at = disk.clone();
    let image = std::sync::Arc::new(std::sync::Mutex::new(None));
    let taken = image.clone();
    store.merge_while(&ids, move || *taken.lock().unwrap() = Some(at.process_death())).unwrap();
    let image = image.lock().unwrap().take().unwrap();
    store.abort();

    let without = image.process_death();
    let made: Vec<_> = image.files();
    let store = store_options().open_simulated(&image).unwrap();
    assert_eq!(contents(&store), expected);
    assert!(store.recovery().set_aside.is_empty(), "{}", store.recovery());
    store.close().unwrap();
    let is_gone = |(name, _): &&(String, usize)| image.files().iter().all(|(n, _)| n != name);
    let gone: Vec<_> = made.iter().filter(is_gone).map(|(name, _)| name).collect();
    let made_by_it = |name: &&String| ids.iter().all(|id| !name.starts_with(&format!("{id:020}")));
    assert!(gone.iter().any(made_by_it) && gone.iter().all(made_by_it), "{gone:?}");

    let input = segment(ids[0]);
    assert!(without.cut(&input, 0));
    let before = without.files();
    assert!(store_options().open_simulated(&without).is_err());
    let kept = |(name, _): &(String, usize)| without.files().iter().any(|(n, _)| n == name);
    assert!(before.iter().all(kept), "nothing is removed");
}

/// K8: what a MANIFEST names takes time linear in it, and a file without a header none.
#[test]
fn long_manifests_and_sparse_files_take_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = store_options().open(&path).unwrap();
    store.put("key", "value").unwrap();
    store.close().unwrap();
    let manifest = fs::read(path.join("MANIFEST")).unwrap();
    let mut long = manifest[..manifest.len() - 4].to_vec();
    long[68..72].copy_from_slice(&400_000u32.to_le_bytes());
    long.truncate(80);
    (100..400_100u32).for_each(|id| long.extend(id.to_le_bytes()));
    long.extend(crc32fast::hash(&long).to_le_bytes());
    fs::write(path.join("MANIFEST"), long).unwrap();
    assert!(matches!(store_options().open(&path), Err(OpenError::MissingSegment { id: 100, .. })));
    let started = std::time::Instant::now();
    let salvage = store_options().recovery_mode(RecoveryMode::Salvage).open(&path).unwrap();
    assert_eq!(salvage.recovery().lost.len(), 400_000);
    assert_eq!(contents(&salvage).len(), 1);
    salvage.close().unwrap();
    // 20 GB that are nowhere on the disk.
    let sparse = fs::File::create(path.join("00000000000000900000.seg")).unwrap();
    sparse.set_len(20 << 30).unwrap();
    drop(sparse);
    let store = store_options().open(&path).unwrap();
    assert_eq!(contents(&store).len(), 1, "it is no part of a log that was closed");
    assert_eq!(store.recovery().set_aside.len(), 1);
    // It was minutes; this is a guard against that, and no measurement.
    assert!(started.elapsed() < HANG, "{:?}", started.elapsed());
}

#[test]
fn a_repaired_copy_has_what_an_earlier_recovery_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (in_files(&with_much_behind_its_end(), dir.path()), dir.path().join("copy"));
    let log = options().open(&path).unwrap();
    assert_eq!(entries(&log), [b"before".to_vec()]);
    log.close().unwrap();
    let report = options().repair(&path, &copy).unwrap();
    let all = entries(&options().open(&copy).unwrap());
    assert_eq!(all.len(), 1001, "{report}");
    assert_eq!((&all[0][..], &all[1000][..]), (&b"before"[..], &b"behind 999"[..]));
    assert_eq!(entries(&options().open(&path).unwrap()).len(), 1, "the log stays as it is");
}

#[test]
fn what_is_repaired_does_not_count_as_a_sound_frame() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    log.append(b"before").unwrap();
    log.abandon_reservation(64);
    log.append(b"after").unwrap();
    let image = disk.process_death();
    log.abort();
    let log = options().open_simulated(&image).unwrap();
    let report = log.recovery();
    assert_eq!((report.frames, report.entries, report.holes), (2, 2, 1));
}
