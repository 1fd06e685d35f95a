//! tailcask beside other storage engines, on the same work. See README.md.

mod cell;
mod data;
mod drive;
mod engine;
mod engines;
mod log;
mod logs;
mod logwork;
mod parent;
mod plan;
mod plots;
mod system;
mod tables;
mod work;

use anyhow::{Context, Result, anyhow};
use cell::{Cell, Outcome};
use clap::{Parser, Subcommand};
use plan::{Section, Setting};
use std::path::{Path, PathBuf};

/// How errors begin that say that a contender has no such thing.
pub const NOT_OFFERED: &str = "not offered: ";

/// tailcask beside other storage engines, on the same work.
#[derive(Parser)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measures, then prints the tables and draws the plots.
    Run {
        /// For results.jsonl, tables.md and the plots.
        #[arg(long)]
        out: PathBuf,
        /// Adds to the results that are there.
        #[arg(long)]
        append: bool,
        #[command(flatten)]
        setting: Box<Setting>,
    },
    /// Prints the tables and draws the plots of results that are there.
    Draw { out: PathBuf },
    /// The contenders of this build, and what they promise.
    List,
    /// One cell, as `run` starts them.
    Cell(Box<Cell>),
}

fn main() -> Result<()> {
    match Command::parse().verb {
        Verb::Run { out, append, setting } => run(&out, append, &setting),
        Verb::Draw { out } => draw(&out),
        Verb::List => {
            print!("{}", tables::promises(&[]));
            Ok(())
        }
        Verb::Cell(cell) => run_cell(&cell),
    }
}

fn run(out: &Path, append: bool, setting: &Setting) -> Result<()> {
    std::fs::create_dir_all(out)?;
    let results = out.join("results.jsonl");
    if !append {
        let _ = std::fs::remove_file(&results);
    }
    std::fs::write(out.join("machine.txt"), tables::machine())?;
    let own = Path::new("own").to_path_buf();
    let mut group = None;
    let cgroup = match setting.wants(Section::Cold) {
        true if setting.inside_cgroup => Some(own),
        true => match system::Cgroup::new(setting.cold_memory()) {
            Ok(made) => Some(group.insert(made).path().to_path_buf()),
            Err(error) => {
                eprintln!("without data beyond memory: {error:#}");
                None
            }
        },
        false => None,
    };
    let jobs = setting.jobs(cgroup.as_deref());
    let done = parent::Parent::new(setting, &results, &jobs)?.run(jobs);
    // Whatever went wrong, what was measured is shown.
    let shown = draw(out);
    done.and(shown)
}

fn draw(out: &Path) -> Result<()> {
    let rows = parent::read(&out.join("results.jsonl"))?;
    let machine = std::fs::read_to_string(out.join("machine.txt")).unwrap_or_default();
    let text = tables::all(&machine, &rows);
    std::fs::write(out.join("tables.md"), &text)?;
    println!("{text}");
    plots::all(&rows, out)
}

fn run_cell(cell: &Cell) -> Result<()> {
    let outcome = cell_outcome(cell).unwrap_or_else(|error| Outcome {
        error: Some(format!("{error:#}")),
        ..Outcome::default()
    });
    let text = serde_json::to_string(&outcome)?;
    match &cell.result {
        Some(path) => {
            // Whole or not at all: the parent may kill this process at any time.
            let part = path.with_extension("part");
            std::fs::write(&part, text)?;
            std::fs::rename(part, path)?;
        }
        None => println!("{text}"),
    }
    Ok(())
}

fn cell_outcome(cell: &Cell) -> Result<Outcome> {
    if let Some(cgroup) = cell.cgroup.as_ref().filter(|path| path.is_absolute()) {
        system::enter(cgroup)?;
    }
    std::fs::create_dir_all(&cell.dir)?;
    // A store of one's own, as some contenders demand.
    let mut permissions = std::fs::metadata(&cell.dir)?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o700);
    std::fs::set_permissions(&cell.dir, permissions)?;
    let unknown = || anyhow!("{} is not in this build", cell.contender);
    if cell.work.is_of_logs() {
        logs::with(&cell.contender, logwork::Run(cell)).with_context(unknown)?
    } else {
        engines::with(&cell.contender, work::Run(cell)).with_context(unknown)?
    }
}
