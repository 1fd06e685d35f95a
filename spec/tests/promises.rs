//! All states of the models, within limits. `TAILCASK_ROUNDS=2` and more: larger ones, some minutes.

use spec::hold;
use spec::log::LogSpec;
use spec::merge::MergeSpec;

mod common;
use common::{LOG, MERGE, is_long};

#[test]
fn two_writers_and_a_crash_anywhere() {
    hold("two writers, one crash", LogSpec { writers: 2, entries: 3, ..LOG });
    if is_long() {
        hold("two writers, two crashes", LogSpec { writers: 2, entries: 3, crashes: 2, ..LOG });
        hold("three writers, one crash", LogSpec { writers: 3, entries: 4, ..LOG });
    }
}

#[test]
fn crash_after_crash() {
    hold("one writer, three crashes", LogSpec { entries: 2, crashes: 3, ..LOG });
    if is_long() {
        hold("one writer, three segments", LogSpec { entries: 4, segments: 3, crashes: 2, ..LOG });
    }
}

#[test]
fn batches_and_rolls() {
    let spec = LogSpec { entries: 3, segments: 3, ..LOG };
    hold("one writer, three segments", spec.clone());
    if is_long() {
        hold("one writer, three segments, two syncs", LogSpec { syncs: 2, ..spec });
    }
}

#[test]
fn merges() {
    let one = MergeSpec { keys: 1, writes: 4, merges: 2, ..MERGE };
    hold("one key", one.clone());
    hold("two keys", MergeSpec { writes: 4, ..MERGE });
    if is_long() {
        hold("one key, two crashes", MergeSpec { crashes: 2, ..one });
        hold("two keys, two merges", MergeSpec { writes: 4, segments: 5, merges: 2, ..MERGE });
    }
}
