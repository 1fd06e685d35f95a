//! Every job is done once, by some worker, although the program is killed.

mod common;

use common::Running;
use std::collections::BTreeMap;
use std::path::Path;
use tailcask::Store;

const JOBS: &str = env!("CARGO_BIN_EXE_jobs");

#[test]
fn every_job_is_done_once_although_the_program_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("queue");
    let arguments = [store.as_path(), Path::new("3")];
    // It is killed in the midst of the work: it works on some, and 60 inputs are the same.
    let mut jobs = Running::start(JOBS, &arguments);
    for n in 0..120 {
        jobs.write(&(n % 60).to_string());
    }
    jobs.end_input();
    let first = jobs.line();
    assert!(first.starts_with("worker "), "{first}");
    jobs.kill();
    // Leases of the dead are as good as any other until they expire, for which this does not wait.
    let mut jobs = Running::start(JOBS, &arguments);
    jobs.write("27");
    assert!(jobs.finish().success());

    let view = Store::open_read_only(&store).unwrap();
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for pair in &view {
        let pair = pair.unwrap();
        let key = std::str::from_utf8(pair.key()).unwrap();
        for kind in ["job/", "lease/", "done/", "cached/"] {
            if key.starts_with(kind) {
                *found.entry(kind).or_default() += 1;
            }
        }
        if key == "cached/27" {
            assert_eq!(pair.value(), b"111");
        }
    }
    let count = |kind| found.get(kind).copied().unwrap_or(0);
    assert!(
        count("job/") <= 3,
        "what is not done was held by a worker when it was killed: {found:?}"
    );
    assert_eq!(count("done/") + count("job/"), 121, "{found:?}");
    assert!(count("cached/") <= 60);
}
