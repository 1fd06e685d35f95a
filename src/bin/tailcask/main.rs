//! The command line of tailcask: `tailcask log ...` works on a commit log, every other command on a store.

mod encoding;
mod exit;
mod interrupt;
mod log;
mod manual;
mod stdio;
mod store;
mod table;
mod text;
mod units;

use clap::{CommandFactory, Parser, Subcommand};
use std::io::{self, Write};
use std::process::ExitCode;

const UNITS: &str = "\
Units: a size is a number of bytes, or takes KiB, MiB or GiB (1024 of the unit before; K, M and G mean \
the same). A time takes ms, s, m, h or d, as in 500ms or 7d; a bare number is seconds.";

#[derive(Parser)]
#[command(
    name = "tailcask",
    version,
    about = "A lock-free commit log and the key-value store built on it",
    after_long_help = format!("{UNITS}\n\n{}", exit::CODES)
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Work on a commit log: append, cat, tail, stat, verify, truncate, inspect
    #[command(subcommand)]
    Log(log::LogCommand),
    #[command(flatten)]
    Store(store::StoreCommand),
    /// Print a script that completes commands and options in a shell
    Completions(manual::CompletionsArgs),
    /// Write the man pages, one per command
    Man(manual::ManArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Log(command) => log::run(&command),
        Command::Store(command) => store::run(&command),
        Command::Completions(args) => manual::completions(Cli::command(), &args),
        Command::Man(args) => manual::man(Cli::command(), &args),
    };
    match result {
        Ok(code) => code,
        // The reader of our output has closed it: it has all it wants.
        Err(error) if stdio::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "tailcask: {}", exit::message(&error));
            ExitCode::from(exit::code(&error))
        }
    }
}
