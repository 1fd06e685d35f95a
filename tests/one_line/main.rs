//! What a wrong line would break that longer histories seldom meet, each in one as short as it can be.
//! `scripts/mutate.sh` changes those lines one at a time, and one of these has to fail.

#[path = "../common/mod.rs"]
mod common;

mod log;
mod recovery;
mod store;

use common::small_log;
use tailcask::{CommitLog, LogOptions, LogPosition};

const UNIT: u64 = 32 << 10;

fn log_options() -> LogOptions {
    small_log(UNIT)
}

fn fill(log: &CommitLog, id: u32) -> LogPosition {
    let at = log.append(&[1; 1000]).unwrap();
    assert_eq!(at.segment(), id);
    while log.append(&[1; 1000]).unwrap().segment() == id {}
    at
}
