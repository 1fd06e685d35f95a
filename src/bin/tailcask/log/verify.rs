//! `log verify`: every checksum of a log.

use super::open::{LogDir, open};
use crate::stdio::output;
use crate::units::counted;
use anyhow::Result;
use std::io::Write;

pub(super) fn verify(args: &LogDir) -> Result<()> {
    let report = open(&args.dir)?.verify()?;
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
