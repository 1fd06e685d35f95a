//! What a wrong line would break that longer histories seldom meet, each in one as short as it can be.
//! `scripts/mutate.sh` changes those lines one at a time, and one of these has to fail.

mod log;
mod recovery;
mod store;

use tailcask::{CommitLog, LogOptions, LogPosition, Maintenance};

const UNIT: u64 = 32 << 10;

fn log_options() -> LogOptions {
    let options = CommitLog::options().segment_unit(UNIT).segment_size(UNIT);
    options.maintenance(Maintenance::Manual)
}

fn segment(id: u32) -> String {
    format!("{id:020}.seg")
}

fn entries(log: &CommitLog) -> Vec<Vec<u8>> {
    let mut reader = log.reader();
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        all.push(entry.to_vec());
    }
    all
}

/// A frame's checksum is mixed with this: as in `format/frame.rs`.
fn seed(salt: u64, offset: u64, low: u64, header: u64) -> u32 {
    let place = (offset << 32 | low) ^ 0x9e37_79b9_7f4a_7c15;
    let product = u128::from(salt ^ header) * u128::from(place);
    let folded = product as u64 ^ (product >> 64) as u64;
    folded as u32 ^ (folded >> 32) as u32
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn fill(log: &CommitLog, id: u32) -> LogPosition {
    let at = log.append(&[1; 1000]).unwrap();
    assert_eq!(at.segment(), id);
    while log.append(&[1; 1000]).unwrap().segment() == id {}
    at
}
