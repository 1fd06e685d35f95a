//! Repairing the log when it is opened for writing, once everything is decided.

#![allow(unsafe_code, reason = "repairs segments that nobody else has open")]

use super::inspection::{
    BEHIND_THE_END, Disposition, InspectedSegment, Inspection, ManifestSource,
};
use super::membership::is_cut;
use super::report::{RecoveryReport, SetAside};
use super::salvage;
use crate::error::OpenError;
use crate::format::header::{FIRST_FRAME, Seal};
use crate::format::manifest::Manifest;
use crate::format::names::{cut_tail_name, hint_id, is_own_temporary, segment_name};
use crate::log::append::claim;
use crate::log::writer::{RecoveredLog, seal_and_shrink, seal_durably};
use crate::options::RecoveryMode;
use crate::random::{random_bytes, random_u64};
use crate::segment::Segment;
use crate::segment::quiet::OfflineSegment;
use crate::segment::scan::{Repair, Scan};
use crate::storage::{Access, Storage, io_error};
use std::io;
use std::sync::Arc;

/// A segment to be repaired, and whether the bytes behind its end may be overwritten.
struct SegmentRepair {
    inspected: InspectedSegment,
    clear_end: bool,
    /// The time of this recovery, for seals.
    now: u64,
}

pub(super) fn commit_plan(
    storage: &dyn Storage,
    inspection: Inspection,
    now: u64,
) -> Result<(RecoveredLog, RecoveryReport), OpenError> {
    let mut report = inspection.report.clone();
    if inspection.manifest_source != ManifestSource::Fresh {
        // A process that died may have removed files, or set them aside, and not synced that: they would
        // come back after a power loss, and the MANIFEST that comes now does not know of them.
        sync_directory(storage)?;
    }
    remove_temporary(storage)?;
    set_aside(storage, &inspection.discarded, false, &mut report)?;
    let mut manifest = write_manifest(storage, &inspection, &mut report)?;
    let left = set_aside(storage, &inspection.discarded, true, &mut report)?;
    remove(storage, &manifest, &inspection)?;
    manifest.removed.clear();
    manifest.cut_off.retain(|id| left.contains(id));
    if inspection.manifest.closed.is_none() {
        sync_old_seals(storage, &inspection)?;
    }
    // A MANIFEST may name any number.
    let last_dropped = inspection.last_dropped().min(manifest.next.saturating_sub(1));
    let (salvaging, heads) = (inspection.mode == RecoveryMode::Salvage, inspection.damaged_headers);
    let all = inspection.detached.into_iter().chain(inspection.log_segments).map(|inspected| {
        let clear_end = copy_torn_tail(storage, &inspected, &mut report)?;
        Ok(SegmentRepair { inspected, clear_end, now })
    });
    let all = all.collect::<Result<Vec<_>, OpenError>>()?;
    let repaired = all.into_iter().map(|repairs| {
        let anew = heads.contains_key(&repairs.inspected.segment.id());
        repair(storage, repairs, salvaging, anew, &mut report)
    });
    let mut segments = repaired.collect::<Result<Vec<_>, OpenError>>()?;
    segments.sort_by_key(|segment| segment.id());
    let of_log = |s: &&Arc<Segment>| !s.header.merged && s.id() >= manifest.first;
    let previous = segments.iter().filter(of_log).map(|s| s.id()).max().unwrap_or(last_dropped);
    list_aside(storage, &mut report)?;
    let next_id = manifest.next;
    Ok((RecoveredLog { segments, manifest, next_id, previous }, report))
}

/// Removes files whose creation was interrupted by a crash.
fn remove_temporary(storage: &dyn Storage) -> Result<(), OpenError> {
    for name in storage.list()? {
        if is_own_temporary(&name) && is_file(storage, &name)? {
            storage.remove(&name).map_err(|e| io_error(format!("remove {name}"), e))?;
        }
    }
    Ok(())
}

/// Whether it is a regular file of the log, and not a link, a directory or another user's file. Any
/// other failure to open it is an error: a stale hint must not stay because there was no descriptor
/// left.
fn is_file(storage: &dyn Storage, name: &str) -> Result<bool, OpenError> {
    match storage.open(name, Access::Read) {
        Ok(_) => Ok(true),
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(OpenError::NotRegular { .. } | OpenError::NotOwned { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Steps 1 and 3. Segments that are cut off move once the MANIFEST says so, since the log may have
/// begun there; files that contradict the MANIFEST move before a new one is written that does not know
/// of them. Returns those that are cut off and stay, since there is no space for their names elsewhere:
/// they are cut off for as long as the MANIFEST says so.
fn set_aside(
    storage: &dyn Storage,
    discarded: &[(u32, Disposition)],
    cut_off: bool,
    report: &mut RecoveryReport,
) -> Result<Vec<u32>, OpenError> {
    let mut left = Vec::new();
    for &(id, fate) in discarded {
        let Disposition::SetAside(reason) = fate else { continue };
        if (reason == BEHIND_THE_END) != cut_off {
            continue;
        }
        let name = segment_name(id);
        let (name, bytes) = match storage.set_aside(&name, &salvage::aside_name(id, reason)) {
            Ok(name) => {
                tracing::warn!(name, reason, "a segment was set aside");
                (name, 0)
            }
            Err(e) if cut_off && is_no_space(&e) => {
                tracing::warn!(name, "no space to set aside what is cut off: it stays in place");
                left.push(id);
                (String::new(), storage.open(&name, Access::Read)?.map.len() as u64)
            }
            Err(e) => return Err(io_error(format!("set {name} aside"), e)),
        };
        report.set_aside.push(SetAside { name, bytes, reason: Some(reason) });
    }
    Ok(left)
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Step 2: the new MANIFEST.
fn write_manifest(
    storage: &dyn Storage,
    inspection: &Inspection,
    report: &mut RecoveryReport,
) -> Result<Manifest, OpenError> {
    let mut manifest = inspection.manifest.clone();
    let after = inspection.highest.checked_add(1).ok_or(OpenError::IdsExhausted)?;
    manifest.next = manifest.next.max(after).max(manifest.first);
    if manifest.is_legacy() {
        let drawn = |e| io_error("draw random bytes", e);
        manifest.log_id = match inspection.log_id() {
            Some(log_id) => log_id,
            None => random_u64().map_err(drawn)?.max(1),
        };
        if let Some(secret) = &mut manifest.secret {
            // Its hints are useless: the hash is another one.
            *secret = random_bytes().map_err(drawn)?;
        }
        manifest.legacy =
            if inspection.manifest_source == ManifestSource::Fresh { 0 } else { after };
        report.upgraded = inspection.manifest_source == ManifestSource::Read;
    }
    let log = inspection.log_segments.first().map(|inspected| inspected.segment.id());
    manifest.first = log.unwrap_or(manifest.next);
    manifest.kept = inspection.detached.iter().map(|inspected| inspected.segment.id()).collect();
    manifest.closed = None;
    let removed = |&(id, fate): &(u32, Disposition)| (fate == Disposition::Remove).then_some(id);
    manifest.removed = inspection.discarded.iter().filter_map(removed).collect();
    manifest.removed.sort_unstable();
    let cut_off = |&(id, fate): &(u32, Disposition)| {
        (fate == Disposition::SetAside(BEHIND_THE_END)).then_some(id)
    };
    manifest.cut_off = inspection.discarded.iter().filter_map(cut_off).collect();
    manifest.cut_off.sort_unstable();
    manifest.generation = manifest.generation.saturating_add(1);
    let written = storage.write_manifest(&manifest.encode());
    written.map_err(|e| io_error("write MANIFEST", e))?;
    Ok(manifest)
}

/// Step 4. The hint of a segment that needs repair is removed before the segment changes: if its end
/// stays the same, nothing else would show that the hint is outdated.
fn remove(
    storage: &dyn Storage,
    manifest: &Manifest,
    inspection: &Inspection,
) -> Result<(), OpenError> {
    let all = inspection.log_segments.iter().chain(&inspection.detached);
    let sound = |inspected: &&InspectedSegment| inspected.scan.is_none();
    let hinted: Vec<_> = all.filter(sound).map(|inspected| inspected.segment.id()).collect();
    let stray = |name: &String| hint_id(name).is_some_and(|id| !hinted.contains(&id));
    let mut doomed = Vec::new();
    for name in storage.list()?.into_iter().filter(stray) {
        if is_file(storage, &name)? {
            doomed.push(name);
        }
    }
    doomed.extend(manifest.removed.iter().map(|&id| segment_name(id)));
    for name in &doomed {
        match storage.remove(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(format!("remove {name}"), e));
            }
            _ => {}
        }
    }
    if doomed.is_empty() {
        return Ok(());
    }
    sync_directory(storage)
}

fn sync_directory(storage: &dyn Storage) -> Result<(), OpenError> {
    storage.sync_directory().map_err(|e| io_error("sync the directory", e))
}

/// Syncs the seals that an interrupted recovery set but may not have synced, in segments created in an
/// earlier boot (those of this boot are open, and `repair` syncs them). Without such a seal the end of
/// the segment is unknown, and a power loss would cut off what follows it.
fn sync_old_seals(storage: &dyn Storage, inspection: &Inspection) -> Result<(), OpenError> {
    let all = inspection.log_segments.iter().chain(&inspection.detached);
    let sealed = all.filter(|inspected| inspected.scan.is_none()).map(|sealed| &sealed.segment);
    for segment in sealed.filter(|segment| segment.ends_by_its_seal() && !segment.has_file()) {
        let name = segment_name(segment.id());
        let opened = storage.open(&name, Access::Write)?;
        let synced = opened.file.sync(&opened.map, 0, FIRST_FRAME);
        synced.map_err(|e| io_error(format!("sync {name}"), e))?;
    }
    Ok(())
}

/// Sets aside a copy of the bytes behind the end of a segment. True if they may be overwritten: if
/// there is no space for a copy, they stay where they are.
fn copy_torn_tail(
    storage: &dyn Storage,
    inspected: &InspectedSegment,
    report: &mut RecoveryReport,
) -> Result<bool, OpenError> {
    let InspectedSegment { segment, scan: Some(scan) } = inspected else { return Ok(false) };
    let torn = segment.quiet().written_len(scan.end);
    if torn == 0 {
        return Ok(true);
    }
    let name = cut_tail_name(segment.id(), scan.end);
    let bytes = |from, len| segment.quiet().bytes_between(from, from + len);
    let pieces = [(0, bytes(0, FIRST_FRAME)), (scan.end, bytes(scan.end, torn))];
    let reason = Some(BEHIND_THE_END);
    match storage.keep_aside(&name, segment.map.len() as u64, &pieces) {
        Ok(()) => {
            report.set_aside.push(SetAside { name, bytes: torn, reason });
            Ok(true)
        }
        Err(e) if is_no_space(&e) => {
            tracing::warn!(
                segment = segment.id(),
                "no space to set aside what is cut off: it stays in place"
            );
            report.set_aside.push(SetAside { name: String::new(), bytes: torn, reason });
            Ok(false)
        }
        Err(e) => Err(io_error(format!("set {name} aside"), e)),
    }
}

/// Step 5 for one segment.
fn repair(
    storage: &dyn Storage,
    repairs: SegmentRepair,
    salvaging: bool,
    head_is_damaged: bool,
    report: &mut RecoveryReport,
) -> Result<Arc<Segment>, OpenError> {
    let SegmentRepair { inspected: InspectedSegment { segment, scan }, clear_end, now } = repairs;
    let failed = |e| io_error(format!("repair segment {}", segment.id()), e);
    let Some(scan) = scan else {
        segment.sync_seal().map_err(failed)?;
        return Ok(Arc::new(segment.into_segment()));
    };
    // Only a file that nobody else has a name of is changed in place, as a backup has of one that was sealed.
    if salvaging && scan.repairs.iter().any(|(_, repair)| *repair == Repair::Damage)
        || is_cut(&segment)
        || segment.is_sealed()
        || head_is_damaged
    {
        return salvage::rewrite(storage, segment, &scan, now, report).map(Arc::new);
    }
    repair_and_seal(&segment, &scan, clear_end, now).map_err(failed)?;
    Ok(Arc::new(segment.into_segment()))
}

fn repair_and_seal(
    segment: &OfflineSegment,
    scan: &Scan,
    clear_end: bool,
    now: u64,
) -> io::Result<()> {
    for &(gap, repair) in &scan.repairs {
        if repair == Repair::DeadClaim {
            // SAFETY: the process died, says the scan, and this thread is alone with the segment.
            unsafe { claim::void_dead_claim(&**segment, gap.offset, gap.len) };
            continue;
        }
        let word = repair.word(segment.salt(), gap);
        // ORDERING: Release; pairs with the Acquire loads of readers in other processes, who step over
        // zeros no further than a gap that they know, and over the pad by its length.
        segment.map.word(gap.offset).store(word, std::sync::atomic::Ordering::Release);
    }
    let len = segment.map.len() as u64;
    if clear_end && segment.quiet().written_len(scan.end) > 0 {
        // SAFETY: this thread is alone with the segment, and no claim is in it.
        unsafe { segment.map.slice_mut(scan.end, len - scan.end) }.fill(0);
    }
    segment.dirty(scan.end);
    segment.sync(FIRST_FRAME, len)?;
    let seal = Seal { end: scan.end, frames: scan.frames, time: now };
    if clear_end { seal_and_shrink(segment, seal) } else { seal_durably(segment, seal) }
}

/// Lists the set-aside folder, with the reasons for what was set aside just now.
fn list_aside(storage: &dyn Storage, report: &mut RecoveryReport) -> Result<(), OpenError> {
    let moved = std::mem::take(&mut report.set_aside);
    report.set_aside = moved.iter().filter(|file| file.name.is_empty()).cloned().collect();
    for (name, bytes) in storage.aside()? {
        let reason = moved.iter().find(|file| file.name == name).and_then(|file| file.reason);
        report.set_aside.push(SetAside { name, bytes, reason });
    }
    Ok(())
}
