//! A consumer in another process follows the log beside its writer, and counts every event once.

mod common;

use common::{Running, until};
use std::path::Path;
use std::process::Command;

const EVENTS: &str = env!("CARGO_BIN_EXE_events");

fn balance(view: &Path, account: &str) -> i64 {
    let arguments = [Path::new("balance"), view, Path::new(account)];
    let output = Command::new(EVENTS).args(arguments).output().unwrap();
    if !output.status.success() {
        return 0; // The consumer has not created it yet.
    }
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn project(log: &Path, view: &Path) -> Running {
    Running::start(EVENTS, &[Path::new("project"), log, view])
}

#[test]
fn a_killed_consumer_continues_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (log, view) = (dir.path().join("log"), dir.path().join("view"));
    let mut writer = Running::start(EVENTS, &[Path::new("record"), &log]);
    let mut expected = 0;
    for round in 1..=3 {
        for cents in [100 * round, -30] {
            writer.write(&format!("ada {cents}"));
            writer.line(); // Its position: the event is in the log.
            expected += cents;
        }
        let consumer = project(&log, &view);
        until(expected, || balance(&view, "ada"));
        // More events while it runs, and it is killed somewhere in between.
        for _ in 0..200 {
            writer.write("ada 1");
            writer.line();
        }
        consumer.kill();
        expected += 200;
    }
    let consumer = project(&log, &view);
    until(expected, || balance(&view, "ada"));
    assert!(writer.finish().success());
    // The writer comes and goes; the consumer goes on.
    let mut writer = Running::start(EVENTS, &[Path::new("record"), &log]);
    writer.write("bob 7");
    writer.line();
    until(7, || balance(&view, "bob"));
    assert_eq!(balance(&view, "ada"), expected);
    consumer.kill();
    assert!(writer.finish().success());
}

#[test]
fn the_view_of_another_log_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    let view = dir.path().join("view");
    for (name, cents) in [("one", 5), ("two", 8)] {
        let log = dir.path().join(name);
        let mut writer = Running::start(EVENTS, &[Path::new("record"), &log]);
        writer.write(&format!("ada {cents}"));
        writer.line();
        let consumer = project(&log, &view);
        until(cents, || balance(&view, "ada"));
        consumer.kill();
    }
}
