//! Backups of views, and views of backups.

use super::{assert_is, change, without_a_trace};
use crate::common::content::Map;
use crate::common::{Random, contents, store_by_hand as by_hand};
use tailcask::{CommitLog, RecoveryMode, Store};

#[test]
fn a_backup_is_read_and_a_view_is_backed_up() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup) = (dir.path().join("store"), dir.path().join("backup"));
    let (mut model, mut random) = (Map::new(), Random::new(5));
    let store = by_hand().open(&path).unwrap();
    change(&store, &mut model, &mut random, 1000);
    store.backup(&backup).unwrap();
    without_a_trace(&backup, || assert_is(&Store::open_read_only(&backup).unwrap(), &model));

    // Of one that a writer has open, of a backup, and of one that is closed.
    let view = Store::open_read_only(&path).unwrap();
    let of_live = dir.path().join("of live");
    view.backup(&of_live).unwrap();
    let then = model.clone();
    change(&store, &mut model, &mut random, 500);
    assert_is(&Store::open_read_only(&of_live).unwrap(), &then);
    let later = dir.path().join("of live, later");
    view.backup(&later).unwrap();
    assert_is(&Store::open_read_only(&later).unwrap(), &then);
    let of_backup = dir.path().join("of backup");
    without_a_trace(&backup, || Store::open_read_only(&backup).unwrap().backup(&of_backup))
        .unwrap();
    assert_is(&Store::open_read_only(&of_backup).unwrap(), &then);
    store.close().unwrap();
    let of_closed = dir.path().join("of closed");
    let report = Store::open_read_only(&path).unwrap().backup(&of_closed).unwrap();
    assert_eq!((report.linked, report.copied), (report.segments, 0));
    assert_is(&Store::open_read_only(&of_closed).unwrap(), &model);

    for (dir, model) in [(of_live, &then), (later, &then), (of_backup, &then), (of_closed, &model)]
    {
        let store = by_hand().open(dir).unwrap();
        assert!(store.recovery().is_clean());
        assert!(contents(&store) == *model);
        store.verify().unwrap();
        store.put("it can be", "written to").unwrap();
        store.merge().unwrap();
        store.close().unwrap();
    }
    assert_is(&Store::open_read_only(&path).unwrap(), &model);
}

/// What was only in the MANIFEST is made anew, and so the backup has one.
#[test]
fn a_view_without_a_manifest_is_backed_up_as_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup) = (dir.path().join("store"), dir.path().join("backup"));
    let (mut model, mut random) = (Map::new(), Random::new(6));
    let store = by_hand().open(&path).unwrap();
    change(&store, &mut model, &mut random, 500);
    let id = store.log().id();
    store.close().unwrap();
    std::fs::remove_file(path.join("MANIFEST")).unwrap();
    let salvage = by_hand().recovery_mode(RecoveryMode::Salvage);
    salvage.open_read_only(&path).unwrap().backup(&backup).unwrap();
    assert_is(&Store::open_read_only(&backup).unwrap(), &model);
    let store = by_hand().open(&backup).unwrap();
    assert!(store.recovery().is_clean() && contents(&store) == model, "{}", store.recovery());
    assert_eq!(store.log().id(), id);
    // So a checkpoint is still one of this log.
    let log = CommitLog::options().recovery_mode(RecoveryMode::Salvage);
    assert_eq!(log.open_read_only(&path).unwrap().id(), id);
}
