//! `verify`: every checksum of a store or a backup.

use super::open::{StoreDir, open};
use crate::interrupt::{Interrupt, not_all_was_checked};
use crate::stdio::output;
use crate::units::counted;
use anyhow::Result;
use indicatif::BinaryBytes;
use std::io::Write;

pub(super) fn verify(args: &StoreDir) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    // The store is given back, too: closing it takes its time, in which the result would be unknown.
    let check = || open(&args.dir).map(|store| (store.verify(), store));
    let (report, _store) = interrupt.beside_reading(check, not_all_was_checked)?;
    let report = report?;
    let mut out = output();
    writeln!(
        out,
        "sound: {} with {} of values, {} in {}",
        counted(report.keys, "key"),
        BinaryBytes(report.bytes),
        counted(report.frames, "frame"),
        counted(report.segments, "segment")
    )?;
    Ok(out.flush()?)
}
