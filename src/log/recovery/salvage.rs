//! The parts of salvage besides skipping damage: bringing back what earlier recoveries cut off, and
//! replacing damaged segments by sound ones with the same frames at the same places.

use super::inspection::BEHIND_THE_END;
use super::inspection::RestoredRange;
use super::read_only::is_foreign;
use super::report::{RecoveryReport, SetAside};
use crate::error::OpenError;
use crate::format::header::{FIRST_FRAME, SEAL, Seal};
use crate::format::manifest::Manifest;
use crate::format::names::{self, segment_name};
use crate::segment::Segment;
use crate::segment::quiet::{OfflineSegment, QuietSegment};
use crate::segment::scan::Scan;
use crate::storage::{Access, Storage, io_error};
use std::io;

/// Brings back what recoveries after a power loss have cut off: nothing was written to those places
/// since. Files set aside for other reasons stay there. Returns what was brought back.
pub(super) fn restore_cut_off(storage: &dyn Storage) -> Result<Vec<RestoredRange>, OpenError> {
    let mut brought = Vec::new();
    let manifest = storage.read_manifest()?.and_then(|bytes| Manifest::decode(&bytes).ok());
    for (name, _) in storage.aside()? {
        let Some((id, end)) = names::cut_id(&name) else { continue };
        let path = names::set_aside_path(&name);
        let cut = match Segment::open_as(storage, &path, id, Access::Read) {
            Ok(cut) => cut,
            // It cannot be used, and stays where it is.
            Err(OpenError::Corrupt(_) | OpenError::Version { .. }) => continue,
            Err(error) => return Err(error),
        };
        if manifest.as_ref().is_some_and(|manifest| is_foreign(manifest, &cut)) {
            continue;
        }
        match end {
            Some(end) if append_to(storage, &cut, end)? => brought.push((id, end)),
            Some(_) => {}
            None => match storage.bring_back(&name, &segment_name(id)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io_error(format!("bring back {name}"), e)),
                Ok(()) => brought.push((id, FIRST_FRAME)),
            },
        }
    }
    Ok(brought)
}

/// Puts bytes that were cut off back behind `end`, if the segment still ends there. The segment is then
/// unsealed, so recovery scans it. True if it did.
fn append_to(storage: &dyn Storage, cut: &Segment, end: u64) -> Result<bool, OpenError> {
    let there = match Segment::open(storage, cut.id(), Access::Read) {
        Ok(there) => there,
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(false);
        }
        // Recovery will report that.
        Err(OpenError::Corrupt(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    let (len, of_cut) = (there.map.len() as u64, cut.end());
    let fits = end >= FIRST_FRAME && end <= len && of_cut <= len && there.salt() == cut.salt();
    if !fits || !there.is_sealed() || there.end() != end || end >= of_cut {
        return Ok(false);
    }
    let head = there.header.encode();
    let before = QuietSegment::of(&there).bytes_between(FIRST_FRAME, end);
    let behind = QuietSegment::of(cut).bytes_between(end, of_cut);
    let name = segment_name(cut.id());
    let pieces = [(0, &head[..]), (FIRST_FRAME, before), (end, behind)];
    let replaced = storage.replace(&name, len, &pieces);
    replaced.map(|()| true).map_err(|e| io_error(format!("replace {name}"), e))
}

/// Replaces a damaged segment by a sound one, with the same frames at the same places and pads in
/// between. The damaged file is set aside unchanged. (Nothing is changed in place, since a backup may
/// be another name of the same file.)
pub(super) fn rewrite(
    storage: &dyn Storage,
    segment: OfflineSegment,
    scan: &Scan,
    now: u64,
    report: &mut RecoveryReport,
) -> Result<Segment, OpenError> {
    let (id, name, len) = (segment.id(), segment_name(segment.id()), segment.map.len() as u64);
    let mut head = segment.header.encode();
    let time = segment.sealed_at().unwrap_or(now);
    let seal = Seal { end: scan.end, frames: scan.frames, time }.words(segment.salt());
    for (word, to) in seal.iter().zip(head[SEAL as usize..].chunks_exact_mut(8)) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let bytes = |from, to| segment.quiet().bytes_between(from, to);
    let words =
        scan.repairs.iter().map(|&(gap, repair)| repair.word(segment.salt(), gap).to_le_bytes());
    let words: Vec<_> = words.collect();
    let (mut pieces, mut at) = (vec![(0, &head[..])], FIRST_FRAME);
    for ((gap, _), word) in scan.repairs.iter().zip(&words) {
        pieces.push((at, bytes(at, gap.offset)));
        pieces.push((gap.offset, &word[..]));
        at = gap.offset + gap.len;
    }
    pieces.push((at, bytes(at, scan.end.max(at))));
    let kept = storage.link_aside(&name, &names::damaged_segment_name(id));
    let kept = kept.map_err(|e| io_error(format!("set {name} aside"), e))?;
    report.set_aside.push(SetAside { name: kept, bytes: 0, reason: Some("it is damaged") });
    let replaced = storage.replace(&name, len, &pieces);
    replaced.map_err(|e| io_error(format!("replace {name}"), e))?;
    drop(pieces);
    drop(segment);
    Segment::open(storage, id, Access::Write)
}

/// The name that a segment gets in the folder.
pub(super) fn aside_name(id: u32, reason: &str) -> String {
    if reason == BEHIND_THE_END { names::cut_segment_name(id) } else { segment_name(id) }
}
