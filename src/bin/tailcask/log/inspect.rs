//! `log inspect`: a table of frames.

use super::open::open;
use crate::stdio::output;
use anyhow::Result;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use tailcask::LogPosition;

#[derive(Args)]
pub(crate) struct InspectArgs {
    /// The log's directory
    dir: PathBuf,
    /// Start at this position
    #[arg(long, value_name = "POSITION")]
    from: Option<LogPosition>,
    /// Print at most N frames
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

pub(super) fn inspect(args: &InspectArgs) -> Result<()> {
    let log = open(&args.dir)?;
    let mut out = output();
    writeln!(out, "{:<20} {:>10}  {:<9}  {:<9} value", "position", "length", "state", "kind")?;
    for frame in log.frames(args.from.unwrap_or_default()).take(args.limit.unwrap_or(usize::MAX)) {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                // Print the frames before the damage, then the error.
                out.flush()?;
                return Err(error.into());
            }
        };
        writeln!(
            out,
            "{:<20} {:>10}  {:<9}  {:<9} {}",
            frame.position.to_string(),
            frame.length,
            frame.state,
            frame.kind.unwrap_or("-"),
            frame.value_len
        )?;
    }
    Ok(out.flush()?)
}
