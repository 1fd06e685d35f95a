//! Opening: what is there, what of it counts, and what a crash left to be cleared up.
//!
//! First everything is looked at and decided ([`inspect`]), and nothing is changed. Opening for
//! reading ends there. Then, for writing, each step durable before the next one begins ([`act`]):
//!
//! 1. What contradicts the MANIFEST is set aside (salvage only).
//! 2. The MANIFEST says that the log is open, where it begins, which ids may not be used again, which
//!    segments are cut off, and which are gone.
//! 3. Those that are cut off are set aside.
//! 4. Those that are gone are removed, and hints that are of no use any more.
//! 5. In each unsealed segment holes become pads, dead claims void, and what lies beyond the end zero,
//!    once a copy is set aside; it is synced, and sealed.
//!
//! Invariants:
//! * A crash after any step leaves what the next recovery decides in the same way. From step 2 on the
//!   MANIFEST says that later segments are cut off, so that a sealed one in which the log ended need
//!   not say it.
//! * Nothing is removed but what the MANIFEST says was removed, what nothing was ever written to, and
//!   what an interrupted merge made of inputs that are all still there. Anything else is set aside.

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

/// The ids of all segments that there are files of, in order.
fn ids(storage: &dyn Storage) -> Result<Vec<u32>, OpenError> {
    let mut ids: Vec<u32> = storage.list()?.iter().filter_map(|name| id_of(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Whether a store lives on the log. A MANIFEST that cannot be read says nothing: recovery will.
pub(crate) fn is_store(storage: &dyn Storage) -> Result<bool, OpenError> {
    let bytes = storage.read_manifest()?;
    let manifest = bytes.and_then(|bytes| Manifest::decode(&bytes).ok());
    Ok(manifest.is_some_and(|manifest| manifest.is_store()))
}
