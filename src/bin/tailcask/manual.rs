//! `completions` and `man`: what clap makes of the definitions of the commands.

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Args)]
pub(crate) struct ManArgs {
    /// The directory to write them to, created if it does not exist: share/man/man1 of a prefix
    dir: PathBuf,
}

pub(crate) fn completions(mut command: Command, args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "tailcask", &mut script);
    let mut out = crate::stdio::output();
    out.write_all(&script)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(mut command: Command, args: &ManArgs) -> Result<ExitCode> {
    let named = || args.dir.display().to_string();
    std::fs::create_dir_all(&args.dir).with_context(named)?;
    // Each command then knows its whole name, as in "tailcask log append".
    command.build();
    let pages = write_pages(&command, &args.dir)?;
    let mut out = crate::stdio::output();
    writeln!(out, "{} written to {}", crate::units::counted(pages, "page"), args.dir.display())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of a command and those of the commands below it. How many there are.
fn write_pages(command: &Command, dir: &Path) -> Result<u64> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut page = Vec::new();
    // Every page has the exit codes, where readers look for them.
    let page_of = if name == "tailcask" {
        command.clone()
    } else {
        let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        command.clone().after_long_help(format!("{help}\n\n{}", crate::exit::CODES))
    };
    clap_mangen::Man::new(page_of).render(&mut page)?;
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page).with_context(|| path.display().to_string())?;
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    below.map(|command| write_pages(command, dir)).sum::<Result<u64>>().map(|below| below + 1)
}
