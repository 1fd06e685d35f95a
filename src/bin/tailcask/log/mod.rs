//! The `tailcask log` commands. Each prints to standard output.

pub(crate) mod append;
mod inspect;
mod open;
mod read;
mod stat;
mod truncate;
mod verify;

use crate::exit::name_damaged;
use anyhow::Result;
use clap::Subcommand;
use std::path::Path;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum LogCommand {
    /// Append each line of the input as a record
    ///
    /// Reads what `log cat` prints, and appends the same records: as they are if none contains a newline; with
    /// --encoding hex or base64 in both, whatever they contain.
    Append(append::AppendArgs),
    /// Print all records, one per line
    ///
    /// `log append` reads what this prints, and appends the same records: as they are if none contains a newline;
    /// with --encoding hex or base64 in both, whatever they contain.
    Cat(read::CatArgs),
    /// Print the last records
    Tail(read::TailArgs),
    /// Print positions, sizes and the state of the log
    #[command(after_long_help = stat::HELP)]
    Stat(stat::LogStatArgs),
    /// Check every checksum
    Verify(open::LogDir),
    /// Remove the oldest segments: those before a position, older than a time, or beyond a size
    Truncate(truncate::TruncateArgs),
    /// Print the frames of the segments, for debugging
    Inspect(inspect::InspectArgs),
}

impl LogCommand {
    /// The directory that it is about.
    fn dir(&self) -> &Path {
        match self {
            Self::Append(args) => &args.dir,
            Self::Cat(args) => &args.dir,
            Self::Tail(args) => &args.dir,
            Self::Stat(args) => &args.dir,
            Self::Verify(args) => &args.dir,
            Self::Truncate(args) => &args.dir,
            Self::Inspect(args) => &args.dir,
        }
    }
}

pub(crate) fn run(command: &LogCommand) -> Result<ExitCode> {
    let result = match command {
        LogCommand::Append(args) => append::append(args),
        LogCommand::Cat(args) => read::cat(args),
        LogCommand::Tail(args) => read::tail(args),
        LogCommand::Stat(args) => stat::stat(args),
        LogCommand::Verify(args) => verify::verify(args),
        LogCommand::Truncate(args) => truncate::truncate(args),
        LogCommand::Inspect(args) => inspect::inspect(args),
    };
    result.map(|()| ExitCode::SUCCESS).map_err(|error| name_damaged(error, command.dir()))
}
