//! The command line of tailcask: `tailcask log ...` works on a commit log, every other command on a store.

mod log;
mod stdio;
mod store;
mod units;

use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Units: a size is a number of bytes, or takes KiB, MiB or GiB (1024 of the unit before; K, M and G mean \
the same). A time takes ms, s, m, h or d, as in 500ms or 7d; a bare number is seconds.

Exit codes of the store commands: 0 success; 1 the key is missing (get, delete) or already exists \
(put --if-absent); 2 error; 3 the store or backup is damaged (repair: something was lost); 4 damaged \
values were left out (--skip-damaged). The log commands exit with 0, or 1 on an error.";

#[derive(Parser)]
#[command(
    name = "tailcask",
    version,
    about = "A lock-free commit log and the key-value store built on it",
    after_long_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Work on a commit log: append, cat, tail, stat, verify, inspect
    #[command(subcommand)]
    Log(log::LogCommand),
    #[command(flatten)]
    Store(store::StoreCommand),
}

fn main() -> ExitCode {
    let (result, exit_code) = match Cli::parse().command {
        Command::Log(command) => (log::run(&command), log::exit_code as fn(&_) -> _),
        Command::Store(command) => (store::run(&command), store::exit_code as fn(&_) -> _),
    };
    match result {
        Ok(code) => code,
        // The reader of our output has closed it: it has all it wants.
        Err(error) if stdio::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "tailcask: {}", stdio::message(&error));
            exit_code(&error)
        }
    }
}
