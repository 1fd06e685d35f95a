//! Too few descriptors are an error, whatever they are too few for. Alone in its process, whose limit
//! it changes.

mod common;

use common::{count, small_log};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tailcask::{CommitLog, Store};

/// K1: where none was left to read the boot id with, it counted as another one, and the log ended at
/// the first unfinished append: 87,031 acknowledged entries were removed, and the open was clean.
#[test]
fn too_few_descriptors_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = small_log(16 << 10).open(&path).unwrap();
    log.append(b"before").unwrap();
    log.abandon_reservation(64);
    // Many unsealed segments: each takes a descriptor.
    for _ in 0..3000 {
        log.append(&[7; 100]).unwrap();
    }
    log.abort();
    let store = dir.path().join("store");
    Store::open(&store).unwrap().close().unwrap();

    let usual = getrlimit(Resource::Nofile);
    let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let mut failed = 0;
    for more in 0..40 {
        let few = Rlimit { current: Some(used + more), ..usual };
        setrlimit(Resource::Nofile, few).unwrap();
        let opened = small_log(16 << 10).open(&path);
        let read = CommitLog::open_read_only(&path);
        let other = Store::open(&store);
        setrlimit(Resource::Nofile, usual).unwrap();
        match opened {
            Ok(log) => {
                assert_eq!(count(&log), 3001, "with {more} descriptors");
                log.abort();
            }
            Err(_) => failed += 1,
        }
        read.iter().for_each(|log| assert_eq!(count(log), 3001, "with {more} descriptors"));
        drop(other);
    }
    assert!(failed > 0, "the limit was met");
    let log = small_log(16 << 10).open(&path).unwrap();
    assert_eq!(count(&log), 3001);
    assert!(!path.join("set-aside").exists());
}
