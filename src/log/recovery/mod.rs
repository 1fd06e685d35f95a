//! Recovery: what opening a log finds, decides and repairs.
//!
//! It first reads everything and decides, and changes nothing meanwhile. Opening for reading only ends
//! there, so a reader sees what recovery would find. The decision has two parts:
//!
//! * `membership`: which segments belong to the log. The MANIFEST and the segments' headers have to
//!   agree: each segment names the one before it, and the MANIFEST names the first one, those beside the
//!   log, and the last one if the log was closed.
//! * `log_end`: where the log ends. Sealed segments are whole. The others are scanned. If only the
//!   process died, memory is as it left it: every finished append counts, and unfinished ones are stepped
//!   over. If the machine may have stopped, the log ends at the first frame that is not whole, unless a
//!   sync mark, a seal or the MANIFEST says that the log was durable beyond that place. Then it is
//!   corruption, and an error.
//!
//! `classify` runs the two, and leaves an `Inspection`: the plan. Then, for writing, `repair` carries the
//! plan out. Each step is durable before the next one begins, and so is what an earlier recovery did that
//! did not come to its end:
//!
//! 1. What contradicts the MANIFEST is set aside (salvage only).
//! 2. The MANIFEST is replaced: the log is open; where it begins; which ids may not be used again; which
//!    segments are cut off, and which are removed.
//! 3. Segments that are cut off are set aside.
//! 4. Removed segments are deleted, and with them the hints that no longer fit their segments.
//! 5. In each unsealed segment holes become pads, dead claims void, and what is behind the end zero, once
//!    a copy of that is set aside. The segment is synced, and sealed.
//!
//! Why this is right:
//! * A crash after any step leaves a log of which the next recovery decides the same. From step 2 on the
//!   MANIFEST says which segments are cut off, so it does not depend on what is left of them.
//! * Only segments that the MANIFEST lists as removed, segments that were never written to, and outputs
//!   of an interrupted merge whose inputs all still exist are deleted. Everything else is set aside.
//! * Nothing is appended to a recovered segment.
//!
//! With `RecoveryMode::Salvage`, `salvage` also restores what earlier recoveries cut off, and replaces
//! damaged segments; `headers` rebuilds damaged headers; `evidence` lists what is lost, from the damaged
//! bytes and from old hints (`hint_file`).

mod classify;
mod evidence;
mod headers;
mod hint_file;
mod inspection;
mod log_end;
mod losses;
mod membership;
mod read_only;
mod repair;
mod report;
mod salvage;

pub(crate) use losses::FrameEvidence;
pub use losses::{DamagedRange, Doubt, InDoubt, LostFrame, LostKind};
pub(crate) use read_only::{ReadableLog, find_changes, open_read_only};
pub use report::{Contradiction, RecoveryReport, SetAside};

use crate::error::OpenError;
use crate::format::manifest::Manifest;
use crate::log::writer::RecoveredLog;
use crate::options::RecoveryMode;
use crate::storage::{Access, Storage};
use crate::wall_clock::WallClock;
use std::time::Instant;

/// Recovers the log in `storage`, for writing. The storage is borrowed exclusively: no writer of this
/// process uses it meanwhile, and its lock keeps those of other processes away.
pub(crate) fn recover(
    storage: &mut dyn Storage,
    mode: RecoveryMode,
    clock: &WallClock,
) -> Result<(RecoveredLog, RecoveryReport), OpenError> {
    let started = Instant::now();
    let storage = &*storage;
    let salvaging = mode == RecoveryMode::Salvage;
    let brought = if salvaging { salvage::restore_cut_off(storage)? } else { Vec::new() };
    let mut inspection = classify::inspect(storage, mode, Access::Write)?;
    evidence::list_losses(storage, &mut inspection, &brought)?;
    let (found, mut report) = repair::commit_plan(storage, inspection, clock.now())?;
    report.duration = started.elapsed();
    tracing::info!(%report, "opened");
    Ok((found, report))
}

/// Whether the log has a store. False if the MANIFEST cannot be read, which recovery reports.
pub(crate) fn is_store(storage: &dyn Storage) -> Result<bool, OpenError> {
    let bytes = storage.read_manifest()?;
    let manifest = bytes.and_then(|bytes| Manifest::decode(&bytes).ok());
    Ok(manifest.is_some_and(|manifest| manifest.is_store()))
}
