//! `log inspect`: a table of frames.

use super::open::open;
use crate::interrupt::Interrupt;
use crate::stdio::output;
use crate::units::counted;
use anyhow::Result;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use tailcask::{CommitLog, LogPosition};

#[derive(Args)]
pub(crate) struct InspectArgs {
    /// The log's directory
    pub(super) dir: PathBuf,
    /// Start at this position
    #[arg(long, value_name = "POSITION")]
    from: Option<LogPosition>,
    /// Print at most N frames
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

pub(super) fn inspect(args: &InspectArgs) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let log = open(&args.dir)?;
    let (mut out, mut printed) = (output(), 0);
    let done = print_frames(&log, args, &mut out, &mut printed, &interrupt);
    // Print the frames before the damage, then the error.
    out.flush()?;
    interrupt.or_stopped(done, || format!("{} printed", counted(printed, "frame")))
}

fn print_frames(
    log: &CommitLog,
    args: &InspectArgs,
    out: &mut impl Write,
    printed: &mut u64,
    interrupt: &Interrupt,
) -> Result<()> {
    writeln!(out, "{:<20} {:>10}  {:<9}  {:<9} value", "position", "length", "state", "kind")?;
    for frame in log.frames(args.from.unwrap_or_default()).take(args.limit.unwrap_or(usize::MAX)) {
        interrupt.check()?;
        let frame = frame?;
        writeln!(
            out,
            "{:<20} {:>10}  {:<9}  {:<9} {}",
            frame.position.to_string(),
            frame.length,
            frame.state,
            frame.kind.unwrap_or("-"),
            frame.value_len
        )?;
        *printed += 1;
    }
    Ok(())
}
