//! `log verify`: every checksum of a log.

use super::open::{LogDir, open};
use crate::interrupt::{Interrupt, not_all_was_checked};
use crate::stdio::output;
use crate::units::counted;
use anyhow::Result;
use std::io::Write;

pub(super) fn verify(args: &LogDir) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    // The log is given back, too: closing it takes its time, in which the result would be unknown.
    let check = || open(&args.dir).map(|log| (log.verify(), log));
    let (report, _log) = interrupt.beside_reading(check, not_all_was_checked)?;
    let report = report?;
    let mut out = output();
    writeln!(
        out,
        "sound: {} of {}, {} in {}",
        counted(report.entries, "entry"),
        counted(report.bytes, "byte"),
        counted(report.frames, "frame"),
        counted(report.segments, "segment")
    )?;
    Ok(out.flush()?)
}
