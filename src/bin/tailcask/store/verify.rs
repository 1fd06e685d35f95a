//! `verify`: every checksum of a store or a backup.

use super::open::{StoreDir, open};
use crate::exit::is_damage;
use crate::interrupt::{Interrupt, not_all_was_checked};
use crate::stdio::output;
use crate::units::counted;
use anyhow::{Error, Result};
use indicatif::BinaryBytes;
use std::io::Write;
use std::path::Path;

pub(super) fn verify(args: &StoreDir) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    // The store is given back, too: closing it takes its time, in which the result would be unknown.
    let check = || open(&args.dir).map(|store| (store.verify(), store));
    let checked = interrupt.beside_reading(check, not_all_was_checked);
    let report = checked.and_then(|(report, _store)| Ok(report?));
    let report = report.map_err(|error| name_damaged_store(error, &args.dir))?;
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

fn name_damaged_store(error: Error, dir: &Path) -> Error {
    if !is_damage(&error) {
        return error;
    }
    error.context(format!("{} is damaged", dir.display()))
}
