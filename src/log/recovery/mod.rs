//! Recovery: finding out what belongs to a log, and clearing up what a crash left.
//!
//! First everything is inspected and decided ([`inspect`]), and nothing is changed. Opening for reading
//! ends there. Then, for writing, [`act`] takes these steps, each durable before the next one begins:
//!
//! 1. Files that contradict the MANIFEST are set aside (salvage only).
//! 2. The new MANIFEST says that the log is open, where it begins, which ids are used up, which
//!    segments are cut off, and which are removed.
//! 3. Segments that are cut off are set aside.
//! 4. Files of removed segments are deleted, and hints that no longer match.
//! 5. In each unsealed segment holes become pads, dead claims void, and everything behind the end zero,
//!    after a copy of it was set aside; then the segment is synced and sealed.
//!
//! Invariants:
//! * After a crash at any step the next recovery decides in the same way. From step 2 on the MANIFEST
//!   lists the segments that are cut off, so the one in which the log ends need not say that when it is
//!   sealed.
//! * Only segments that the MANIFEST lists as removed, segments that were never written to, and outputs
//!   of an interrupted merge whose inputs all still exist are deleted. Anything else is set aside.

mod classify;
pub(crate) mod evidence;
mod heads;
mod look;
mod losses;
mod repair;
mod report;
mod salvage;

pub(crate) use look::{Look, look, refresh};
pub use losses::{DamagedRange, Doubt, InDoubt, LostFrame, LostKind};
pub use report::{Contradiction, RecoveryReport, SetAside};

use crate::error::OpenError;
use crate::format::manifest::Manifest;
use crate::log::writer::RecoveredLog;
use crate::options::RecoveryMode;
use crate::segment::id_of;
use crate::storage::{Access, Storage};
use std::time::Instant;

/// Recovers the log in `storage`, for writing. The storage is borrowed exclusively: no writer of this
/// process uses it meanwhile, and its lock keeps those of other processes away.
pub(crate) fn recover(
    storage: &mut dyn Storage,
    mode: RecoveryMode,
) -> Result<(RecoveredLog, RecoveryReport), OpenError> {
    let started = Instant::now();
    let storage = &*storage;
    let salvaging = mode == RecoveryMode::Salvage;
    let brought = if salvaging { salvage::bring_back(storage)? } else { Vec::new() };
    let mut inspection = classify::inspect(storage, mode, Access::Write)?;
    evidence::note(storage, &mut inspection, &brought)?;
    let (found, mut report) = repair::act(storage, inspection)?;
    report.duration = started.elapsed();
    tracing::info!(%report, "opened");
    Ok((found, report))
}

/// The ids of all segment files, in order.
fn ids(storage: &dyn Storage) -> Result<Vec<u32>, OpenError> {
    let mut ids: Vec<u32> = storage.list()?.iter().filter_map(|name| id_of(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Whether the log has a store. False if the MANIFEST cannot be read, which recovery reports.
pub(crate) fn is_store(storage: &dyn Storage) -> Result<bool, OpenError> {
    let bytes = storage.read_manifest()?;
    let manifest = bytes.and_then(|bytes| Manifest::decode(&bytes).ok());
    Ok(manifest.is_some_and(|manifest| manifest.is_store()))
}
