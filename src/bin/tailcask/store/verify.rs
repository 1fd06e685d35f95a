//! `verify`: every checksum of a store or a backup.

use super::open::{StoreDir, open};
use crate::exit::is_damage;
use crate::stdio::output;
use crate::units::counted;
use anyhow::{Error, Result};
use indicatif::BinaryBytes;
use std::io::Write;
use std::path::Path;

pub(super) fn verify(args: &StoreDir) -> Result<()> {
    let report = open(&args.dir).and_then(|store| Ok(store.verify()?));
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
