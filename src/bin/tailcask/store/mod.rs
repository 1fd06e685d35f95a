//! The store commands.

mod backup;
pub(crate) mod export;
pub(crate) mod input;
mod kept;
pub(crate) mod load;
mod memory;
mod merge;
mod open;
mod pairs;
mod progress;
mod repair;
mod stat;
mod values;
mod verify;
mod watch;

use crate::exit::name_damaged;
use anyhow::Result;
use clap::Subcommand;
use std::path::Path;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum StoreCommand {
    /// Load keys and values from TSV, CSV or NDJSON
    #[command(after_long_help = load::HELP)]
    Load(load::LoadArgs),
    /// Print a key's value; exit code 1 if the key is missing
    ///
    /// Prints the value's bytes as they are, followed by a newline only if the output is a terminal, or encoded
    /// (--value-encoding), followed by a newline.
    Get(values::GetArgs),
    /// Set a key's value
    Put(values::PutArgs),
    /// Delete a key; exit code 1 if the key is missing
    Delete(values::DeleteArgs),
    /// Print keys and values, in no particular order
    Scan(export::ScanArgs),
    /// Print the number of keys, not counting expired ones
    Count(open::StoreDir),
    /// Print statistics: keys, live and dead bytes, memory, disk space, state
    #[command(after_long_help = stat::HELP)]
    Stat(stat::StatArgs),
    /// Reclaim the space of overwritten, deleted and expired values
    Merge(merge::MergeArgs),
    /// Check every checksum of a store or a backup; exit code 3 if it is damaged
    ///
    /// Reads every frame, including values that are no longer current, and then looks up every key.
    /// Stops at the first damage and names its place. Nothing is changed. A store that another program
    /// has open for writing is checked as it is at this moment. What a crash has left behind is judged
    /// as the next open for writing would judge it.
    Verify(open::StoreDir),
    /// Make a backup in a new directory, which opens as a store
    Backup(backup::BackupArgs),
    /// Make a repaired copy of a damaged store or log; exit code 3 if something is lost
    #[command(after_long_help = repair::HELP)]
    Repair(repair::RepairArgs),
    /// Write all keys and values as TSV, CSV or NDJSON, which `load` reads
    #[command(after_long_help = export::HELP)]
    Export(export::ExportArgs),
}

impl StoreCommand {
    /// The directory that it is about.
    fn dir(&self) -> &Path {
        match self {
            Self::Load(args) => &args.dir,
            Self::Get(args) => &args.key.dir,
            Self::Put(args) => &args.key.dir,
            Self::Delete(args) => &args.key.dir,
            Self::Scan(args) => &args.dir,
            Self::Count(args) | Self::Verify(args) => &args.dir,
            Self::Stat(args) => &args.dir,
            Self::Merge(args) => &args.dir,
            Self::Backup(args) => &args.dir,
            Self::Repair(args) => &args.dir,
            Self::Export(args) => &args.dir,
        }
    }
}

pub(crate) fn run(command: &StoreCommand) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    let result = match command {
        StoreCommand::Load(args) => load::load(args).map(done),
        StoreCommand::Get(args) => values::get(args),
        StoreCommand::Put(args) => values::put(args),
        StoreCommand::Delete(args) => values::delete(args),
        StoreCommand::Scan(args) => export::scan(args),
        StoreCommand::Count(args) => values::count(args).map(done),
        StoreCommand::Stat(args) => stat::stat(args).map(done),
        StoreCommand::Merge(args) => merge::merge(args).map(done),
        StoreCommand::Verify(args) => verify::verify(args).map(done),
        StoreCommand::Backup(args) => backup::backup(args).map(done),
        StoreCommand::Repair(args) => repair::repair(args),
        StoreCommand::Export(args) => export::export(args),
    };
    result.map_err(|error| name_damaged(error, command.dir()))
}
