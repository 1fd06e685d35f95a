//! `log verify`: every checksum of a log.

use super::open::{LogDir, open};
use crate::stdio::output;
use anyhow::Result;
use std::io::Write;

pub(super) fn verify(args: &LogDir) -> Result<()> {
    let report = open(&args.dir)?.verify()?;
    let mut out = output();
    writeln!(
        out,
        "sound: {} entries of {} bytes, {} frames in {} segments",
        report.entries, report.bytes, report.frames, report.segments
    )?;
    Ok(out.flush()?)
}
