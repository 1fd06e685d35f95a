//! Places where nothing can be written, and where there is no store.

use super::{assert_is, change, without_a_trace};
use crate::common::content::Map;
use crate::common::{Random, store_by_hand as by_hand};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tailcask::{CommitLog, OpenError, RecoveryMode, Store};

/// Something mounted, until this is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, args: &[&str]) -> Option<Self> {
        let mounted = Command::new("mount").args(args).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at.into())),
            other => {
                eprintln!("skipped: this machine does not let the test mount {args:?}: {other:?}");
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_read_only_file_system_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (path, at) = (dir.path().join("disk"), dir.path().join("mounted"));
    std::fs::create_dir(&path).unwrap();
    std::fs::create_dir(&at).unwrap();
    let (mut model, mut random) = (Map::new(), Random::new(3));
    let store = by_hand().open(path.join("store")).unwrap();
    change(&store, &mut model, &mut random, 500);
    let Some(_mount) = Mount::new(&at, &["--bind", path.to_str().unwrap()]) else { return };
    let remounted = Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&at).status();
    assert!(remounted.unwrap().success());
    std::fs::write(at.join("file"), "x").unwrap_err();
    // Beside a live writer, after its death, and when it was closed.
    assert_is(&Store::open_read_only(at.join("store")).unwrap(), &model);
    change(&store, &mut model, &mut random, 100);
    store.abort();
    assert_is(&Store::open_read_only(at.join("store")).unwrap(), &model);
    by_hand().open(path.join("store")).unwrap().close().unwrap();
    let view = Store::open_read_only(at.join("store")).unwrap();
    assert_is(&view, &model);
    let backup = dir.path().join("backup");
    view.backup(&backup).unwrap();
    assert_is(&Store::open_read_only(&backup).unwrap(), &model);
}

#[test]
fn a_full_disk_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("disk");
    std::fs::create_dir(&at).unwrap();
    let args = ["-t", "tmpfs", "-o", "size=64m,mode=700", "tailcask-test"];
    let Some(_mount) = Mount::new(&at, &args) else { return };
    let (mut model, mut random) = (Map::new(), Random::new(4));
    let store = by_hand().open(at.join("store")).unwrap();
    change(&store, &mut model, &mut random, 500);
    store.abort();
    let filler = File::create(at.join("filler")).unwrap();
    let mut len = 0u64;
    for step in [1 << 20, 4096, 1] {
        while filler.write_all_at(&vec![1; step], len).is_ok() {
            len += step as u64;
        }
    }
    let view = without_a_trace(&at, || {
        let view = Store::open_read_only(at.join("store")).unwrap();
        assert_is(&view, &model);
        view
    });
    let backup = dir.path().join("backup");
    view.backup(&backup).unwrap();
    assert_is(&Store::open_read_only(&backup).unwrap(), &model);
}

#[test]
fn where_there_is_no_store_none_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert!(matches!(Store::open_read_only(&missing), Err(OpenError::NotFound { .. })));
    assert!(!missing.exists());
    let empty = dir.path().join("empty");
    std::fs::DirBuilder::new().create(&empty).unwrap();
    without_a_trace(&empty, || {
        assert!(matches!(Store::open_read_only(&empty), Err(OpenError::NotFound { .. })));
    });
    let log = dir.path().join("log");
    CommitLog::open(&log).unwrap().append(b"entry").unwrap();
    without_a_trace(&log, || {
        assert!(matches!(Store::open_read_only(&log), Err(OpenError::NotAStore)));
    });
    let lost = dir.path().join("lost");
    let store = by_hand().open(&lost).unwrap();
    store.put("key", "value").unwrap();
    store.close().unwrap();
    std::fs::remove_file(lost.join("MANIFEST")).unwrap();
    without_a_trace(&lost, || {
        assert!(matches!(Store::open_read_only(&lost), Err(OpenError::Manifest(_))));
        let salvage = Store::options().recovery_mode(RecoveryMode::Salvage);
        let view = salvage.open_read_only(&lost).unwrap();
        assert_eq!(&*view.get("key").unwrap().unwrap(), b"value");
    });
}
