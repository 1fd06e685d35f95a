//! All pairs of a store, for `scan` and `export`; with `--skip-damaged` those that are sound.

use super::open::{open, open_salvaging};
use crate::exit;
use anyhow::Result;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use tailcask::{Pair, ReadError, ReadView};

/// A store to iterate over, and the damage met so far.
pub(super) struct PairSource {
    view: ReadView,
    skip_damaged: bool,
    /// Keys whose newest value or tombstone is damaged. Salvage finds an older value for them, which
    /// is not the current one, so they are skipped.
    stale: BTreeSet<Vec<u8>>,
    /// What was left out, each as a line of text.
    left_out: Vec<String>,
}

impl PairSource {
    /// Opens a store read-only; with `skip_damaged` also one that a strict open refuses.
    pub(super) fn open(dir: &Path, skip_damaged: bool) -> Result<Self> {
        if !skip_damaged {
            let (stale, left_out) = (BTreeSet::new(), Vec::new());
            return Ok(Self { view: open(dir)?, skip_damaged, stale, left_out });
        }
        let view = open_salvaging(dir)?;
        let report = view.recovery();
        let certain = report.gone.iter().filter(|lost| lost.certain);
        let stale = certain.filter_map(|lost| lost.key.clone()).collect();
        let mut left_out: Vec<_> = report.gone.iter().map(ToString::to_string).collect();
        if report.damaged.is_empty() {
            // Beside a live writer there is no list of damaged ranges.
            left_out.extend(report.lost.iter().map(ToString::to_string));
        }
        Ok(Self { view, skip_damaged, stale, left_out })
    }

    /// Calls `visit` with every pair.
    pub(super) fn each(
        &mut self,
        mut visit: impl FnMut(&Pair<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        for pair in &self.view {
            match pair {
                Ok(pair) if self.stale.contains(pair.key()) => {}
                Ok(pair) => {
                    if visit(&pair)?.is_break() {
                        break;
                    }
                }
                Err(ReadError::Corrupt(damage)) if self.skip_damaged => {
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

    /// Lists on standard error what was left out. The exit code is 4 if anything was.
    pub(super) fn finish(self) -> Result<ExitCode> {
        if self.left_out.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        let mut err = io::stderr().lock();
        writeln!(err, "tailcask: damaged, and left out: {}", self.left_out.len())?;
        self.left_out.iter().try_for_each(|one| writeln!(err, "  {one}"))?;
        Ok(exit::incomplete())
    }
}
