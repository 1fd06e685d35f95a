//! What the command says of a program that holds something up.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod common;

use common::cli::run_to;
use common::{log_by_hand, sealed, store_by_hand};

fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&run_to(0, args).0).unwrap()
}

#[test]
fn stat_counts_the_removed_segments_that_a_program_keeps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my store");
    let store = store_by_hand().open(&path).unwrap();
    store.put("key", vec![1; 1000]).unwrap();
    store.roll().unwrap();
    let value = store.get("key").unwrap().unwrap();
    let path = path.to_str().unwrap();
    assert!(!run_to(0, &["stat", path]).0.contains("removed"));
    store.put("key", "new").unwrap();
    store.merge_only(&sealed(&store)).unwrap();
    store.log().maintain().unwrap();
    let shown = run_to(0, &["stat", path]).0;
    assert!(shown.contains("1 removed segment of 2.00 MiB"), "{shown}");
    let keeps = &json(&["stat", path, "--json"])["writer_keeps"];
    assert_eq!((&keeps["segments"], &keeps["mapped_bytes"]), (&1.into(), &(2 << 20).into()));
    drop(value);
    store.log().maintain().unwrap();
    assert_eq!(json(&["stat", path, "--json"])["writer_keeps"]["segments"], 0);
    store.close().unwrap();
    assert!(json(&["stat", path, "--json"])["writer_keeps"].is_null());
}

#[test]
fn log_stat_names_an_unfinished_append() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = log_by_hand().open(&path).unwrap();
    let path = path.to_str().unwrap();
    let position = log.tail();
    log.append_with(100, |_| {
        log.append(b"behind it").unwrap();
        let shown = run_to(0, &["log", "stat", path]).0;
        assert!(shown.contains(&format!("\nunfinished   the append at {position}\n")), "{shown}");
        assert_eq!(json(&["log", "stat", path, "--json"])["unfinished"], position.to_string());
    })
    .unwrap();
    assert!(!run_to(0, &["log", "stat", path]).0.contains("\nunfinished"));
    assert!(json(&["log", "stat", path, "--json"])["unfinished"].is_null());
}
