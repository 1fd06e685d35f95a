//! Going on past damage: `--skip-damaged` of `scan` and `export`.

use super::{open, told};
use anyhow::Result;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use tailcask::{Pair, ReadError, ReadView, RecoveryMode, Store};

/// A store to be gone through.
pub(super) struct Source {
    view: ReadView,
    skips: bool,
    /// Keys whose newest version is damaged: what came back instead is an older one.
    stale: BTreeSet<Vec<u8>>,
    /// What was left out.
    left_out: Vec<String>,
}

impl Source {
    /// Opens a store for reading only; to go on past damage, all that can be read of it.
    pub(super) fn open(dir: &Path, skips: bool) -> Result<Self> {
        if !skips {
            let (stale, left_out) = (BTreeSet::new(), Vec::new());
            return Ok(Self { view: open(dir)?, skips, stale, left_out });
        }
        let options = Store::options().recovery_mode(RecoveryMode::Salvage);
        let view = told(dir, options.open_read_only(dir))?;
        let report = view.recovery();
        let told = report.gone.iter().filter(|lost| lost.certain);
        let stale = told.filter_map(|lost| lost.key.clone()).collect();
        let mut left_out: Vec<_> = report.gone.iter().map(ToString::to_string).collect();
        if report.damaged.is_empty() {
            // Beside a live writer there is no more than that.
            left_out.extend(report.lost.iter().map(ToString::to_string));
        }
        Ok(Self { view, skips, stale, left_out })
    }

    /// Gives every pair to `then`.
    pub(super) fn each(
        &mut self,
        mut then: impl FnMut(&Pair<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        for pair in &self.view {
            match pair {
                Ok(pair) if self.stale.contains(pair.key()) => {}
                Ok(pair) => {
                    if then(&pair)?.is_break() {
                        break;
                    }
                }
                Err(ReadError::Corrupt(damage)) if self.skips => {
                    let damage = damage.to_string();
                    if !self.left_out.contains(&damage) {
                        self.left_out.push(damage);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Says on standard error what was left out: then the exit code is one of its own.
    pub(super) fn finish(self) -> Result<ExitCode> {
        if self.left_out.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        let mut complaint = io::stderr().lock();
        writeln!(complaint, "tailcask: damaged, and left out: {}", self.left_out.len())?;
        self.left_out.iter().try_for_each(|one| writeln!(complaint, "  {one}"))?;
        Ok(ExitCode::from(4))
    }
}
