use super::*;
use crate::format::header::SegmentHeader;
use crate::storage::{Access, Storage};
use std::io;
use std::sync::{Arc, Mutex};

/// The head of a segment.
pub(super) fn head(salt: u64, capacity: u64) -> Vec<u8> {
    let (id, merged, previous, boot_id) = (1, false, 0, 1);
    SegmentHeader { id, merged, previous, salt, boot_id, capacity, origin: None }.encode().to_vec()
}

const LEN: u64 = 16 << 10;

/// A disk with one segment, all of it durable, and its file.
fn one_segment() -> (SimulatedDisk, SimulatedStorage, crate::storage::Opened) {
    let disk = SimulatedDisk::new();
    let storage = SimulatedStorage::attach(&disk).unwrap();
    let opened = storage.create("a.seg", LEN, &|_| head(7, LEN)).unwrap();
    (disk, storage, opened)
}

fn store(opened: &crate::storage::Opened, at: u64, word: u64) {
    opened.map.word(at).store(word, std::sync::atomic::Ordering::Release);
}

fn word(disk: &SimulatedDisk, at: usize) -> u64 {
    crate::format::u64_at(&disk.read("a.seg").unwrap(), at)
}

#[test]
fn a_death_makes_nothing_durable() {
    let (disk, _storage, opened) = one_segment();
    store(&opened, 4096, 1);
    opened.file.sync(&opened.map, 4096, 4104).unwrap();
    store(&opened, 4096, 2);
    let dead = disk.process_death().process_death();
    assert_eq!(word(&dead, 4096), 2);
    assert_eq!(word(&dead.power_loss(|_, _| true), 4096), 2);
    assert_eq!(word(&dead.power_loss(|_, _| false), 4096), 1);
}

#[test]
fn every_seen_state_of_a_sector_may_be_left() {
    let (disk, _storage, opened) = one_segment();
    for n in 1..=3 {
        store(&opened, 4096, n);
        disk.observe();
    }
    store(&opened, 4096, 4);
    let left = |nth| {
        let image = disk.power_loss_by(|unsynced| {
            assert_eq!(unsynced, Unsynced::Sector { file: "a.seg", sector: 8, versions: 5 });
            Fate::Seen(nth)
        });
        word(&image, 4096)
    };
    assert_eq!((0..5).map(left).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    opened.file.sync(&opened.map, 0, LEN).unwrap();
    assert!(disk.unsynced().is_empty());
}

#[test]
fn a_punched_hole_is_durable_after_a_sync() {
    let (disk, _storage, opened) = one_segment();
    store(&opened, 8192, 5);
    opened.file.sync(&opened.map, 0, LEN).unwrap();
    opened.file.release(8192, LEN).unwrap();
    assert_eq!(opened.map.word(8192).load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(word(&disk.process_death(), 8192), 0);
    assert_eq!(word(&disk.power_loss(|_, _| false), 8192), 5);
    assert_eq!(word(&disk.power_loss(|_, _| true), 8192), 0);
    opened.file.sync(&opened.map, 0, LEN).unwrap();
    assert_eq!(word(&disk.power_loss(|_, _| false), 8192), 0);
}

#[test]
fn each_change_of_a_name_is_lost_or_kept_by_itself() {
    let (disk, storage, _opened) = one_segment();
    storage.publish("b.hint", b"old").unwrap();
    storage.sync_directory().unwrap();
    storage.publish("b.hint", b"new").unwrap();
    storage.remove("a.seg").unwrap();
    storage.publish("c.hint", b"c").unwrap();
    let names = |keep: fn(&str) -> bool| {
        let image = disk.power_loss(|name, _| keep(name));
        let mut names: Vec<_> = image.files().into_iter().map(|(name, _)| name).collect();
        names.retain(|name| !name.ends_with(".tmp"));
        (names, image.read("b.hint"))
    };
    let (old, new) = (Some(Vec::new()), Some(b"new".to_vec()));
    assert_eq!(names(|_| false), (vec!["a.seg".into(), "b.hint".into()], old.clone()));
    assert_eq!(names(|_| true), (vec!["b.hint".into(), "c.hint".into()], new.clone()));
    assert_eq!(names(|name| name == "a.seg"), (vec!["b.hint".into()], old));
    let kept = names(|name| name.starts_with("b.hint"));
    assert_eq!(kept, (vec!["a.seg".into(), "b.hint".into()], new));
}

#[test]
fn the_manifest_is_the_old_one_or_the_new_one_at_each_step() {
    for after in 0..4 {
        let (disk, storage, _opened) = one_segment();
        storage.write_manifest(b"old").unwrap();
        disk.fail_after(after);
        storage.write_manifest(b"newer").unwrap_err();
        for seed in 0..50 {
            for image in [disk.process_death(), disk.power_loss_at_random(seed)] {
                let manifest = image.read("MANIFEST").unwrap();
                assert!(manifest == b"old" || manifest == b"newer", "{manifest:?}");
            }
        }
        // What the failure left is removed first.
        disk.fail_after(5);
        storage.write_manifest(b"newest").unwrap();
        let image = disk.power_loss(|_, _| false);
        assert_eq!(image.read("MANIFEST").unwrap(), b"newest");
    }
}

#[test]
fn one_operation_of_a_kind_fails_once() {
    let (disk, storage, opened) = one_segment();
    disk.fail_once(DiskOperation::Sync, 1);
    disk.fail_once_with(DiskOperation::Rename, "MANIFEST", 0, io::ErrorKind::StorageFull);
    opened.file.sync(&opened.map, 0, LEN).unwrap();
    opened.file.sync(&opened.map, 0, LEN).unwrap_err();
    opened.file.sync(&opened.map, 0, LEN).unwrap();
    storage.publish("b.hint", b"x").unwrap();
    let error = storage.write_manifest(b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(disk.has_failed());
    storage.write_manifest(b"x").unwrap();
}

#[test]
fn a_hook_may_take_images_inside_operations() {
    let (disk, storage, _opened) = one_segment();
    let images = Arc::new(Mutex::new(Vec::new()));
    let taken = images.clone();
    disk.on_operation(move |disk, operation, _| {
        taken.lock().unwrap().push((operation, disk.process_death()));
        Ok(())
    });
    storage.write_manifest(b"x").unwrap();
    let images = images.lock().unwrap();
    use DiskOperation::{Create, Rename, SyncDirectory, SyncNew};
    let operations: Vec<_> = images.iter().map(|(operation, _)| *operation).collect();
    assert_eq!(operations, [Create, SyncNew, Rename, SyncDirectory]);
    let has = |at: usize| images[at].1.read("MANIFEST").is_some();
    assert!(!has(2) && has(3));
}

#[test]
fn damage_is_not_done_under_an_open_log() {
    let (disk, storage, opened) = one_segment();
    storage.publish("b.hint", b"hint").unwrap();
    assert!(!disk.flip("a.seg", 5000, 1) && !disk.cut("a.seg", 10) && !disk.cut("a.seg", 0));
    assert!(!disk.copy("a.seg", "b.hint") && !disk.write("b.hint", b"x"));
    drop(storage);
    // The bytes that are mapped stay as they are, whatever happens to the name.
    let before = opened.map.word(4096).load(std::sync::atomic::Ordering::Relaxed);
    assert!(disk.flip("a.seg", 4096, 1) && disk.copy("a.seg", "c.seg"));
    assert_eq!(opened.map.word(4096).load(std::sync::atomic::Ordering::Relaxed), before);
    assert_eq!(word(&disk, 4096), 1);
    let storage = SimulatedStorage::attach(&disk).unwrap();
    let a = storage.open("a.seg", Access::Write).unwrap();
    store(&a, 4096, 9);
    assert_eq!(disk.read("c.seg").unwrap()[4096], 1, "a copy is a file of its own");
}
