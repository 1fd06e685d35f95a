//! Inspecting a log, in order: the MANIFEST, the segments that belong to it (see `membership`), and where
//! the log ends (see `log_end`). Nothing is changed meanwhile, whatever the mode.

use super::inspection::{Inspection, ManifestSource, segment_ids};
use super::report::RecoveryReport;
use crate::error::OpenError;
use crate::format::manifest::{BadManifest, Manifest};
use crate::format::names::set_aside_id;
use crate::options::RecoveryMode;
use crate::storage::{Access, Storage};
use std::collections::BTreeMap;

/// Reads everything that is there, and decides what recovery will do about it.
pub(super) fn inspect(
    storage: &dyn Storage,
    mode: RecoveryMode,
    access: Access,
) -> Result<Inspection, OpenError> {
    let ids = segment_ids(storage)?;
    let aside = storage.aside()?;
    let aside = aside.iter().filter_map(|(name, _)| set_aside_id(name));
    let highest = ids.iter().copied().chain(aside).max().unwrap_or(0);
    let (manifest, manifest_source) = read_manifest(storage, mode, &ids)?;
    let report = RecoveryReport { same_boot: true, ..RecoveryReport::default() };
    let boot_id = storage.boot_id();
    let mut all = Inspection {
        mode,
        manifest,
        manifest_source,
        log_segments: Vec::new(),
        detached: Vec::new(),
        before_first: None,
        discarded: Vec::new(),
        highest,
        report,
        damaged_headers: BTreeMap::new(),
        boot_id,
        log_id: None,
    };
    let (mut chain, mut merged) = (Vec::new(), Vec::new());
    for &id in &ids {
        let Some(segment) = all.open(storage, id, access, &ids)? else { continue };
        if all.manifest.kept.binary_search(&id).is_ok() {
            all.classify_detached(segment)?;
        } else if segment.header.merged {
            merged.push(segment);
        } else if id < all.manifest.first {
            all.classify_before_first(segment)?;
        } else {
            chain.push(segment);
        }
    }
    all.check_listed()?;
    all.classify_merged(merged, &chain)?;
    // First what is behind the end of a closed log: an unused segment there may name another one.
    all.check_closed(&mut chain)?;
    all.check_chain(&mut chain)?;
    all.classify_log(chain)?;
    all.check_end()?;
    all.detach();
    all.detached.sort_by_key(|inspected| inspected.segment.id());
    Ok(all)
}

fn read_manifest(
    storage: &dyn Storage,
    mode: RecoveryMode,
    ids: &[u32],
) -> Result<(Manifest, ManifestSource), OpenError> {
    let bytes = storage.read_manifest()?;
    let fallback =
        || Manifest { first: ids.first().copied().unwrap_or(1), next: 1, ..Manifest::default() };
    match bytes.map(|bytes| Manifest::decode(&bytes)) {
        Some(Ok(manifest)) => Ok((manifest, ManifestSource::Read)),
        Some(Err(BadManifest::Version(found))) => {
            Err(OpenError::Version { found, known: crate::format::VERSION })
        }
        None if ids.is_empty() => Ok((fallback(), ManifestSource::Fresh)),
        _ if mode == RecoveryMode::Salvage => Ok((fallback(), ManifestSource::Lost)),
        Some(Err(BadManifest::Damaged(what))) => Err(OpenError::Manifest(what)),
        None => Err(OpenError::Manifest("it is missing, but there are segments")),
    }
}
