//! What salvage finds out about damage before it changes anything: how far it extends, and what the
//! bytes and the old hints reveal about the frames that were there.
//!
//! A hint lists the newest frame of every key in its segment, so it says what was in a damaged range
//! even if the bytes are gone. Without a hint, the frames are followed by their lengths as long as
//! these make sense. The time is linear in the bytes of the damaged ranges.

use super::hint_file::{HintRemains, UnusedFile, part, read_hint};
use super::inspection::{InspectedSegment, Inspection, RestoredRange};
use super::losses::{DamagedRange, Doubt, FrameEvidence, HintEvidence, InDoubt, LostKind};
use crate::error::{CorruptionKind, OpenError};
use crate::format::frame::{self, Header, Kind, Word};
use crate::format::header::FIRST_FRAME;
use crate::format::hint::LooseEntry;
use crate::format::remains::{self, Remains};
use crate::format::u64_at;
use crate::options::RecoveryMode;
use crate::position::LogPosition;
use crate::segment::frames::VerifiedFrame;
use crate::segment::quiet::{OfflineSegment, QuietSegment};
use crate::segment::scan::{self, Repair, Rules, Scan};
use crate::segment::{Gap, file_name};
use crate::storage::Storage;
use std::collections::BTreeMap;

/// Records what is lost and what is in doubt.
pub(super) fn list_losses(
    storage: &dyn Storage,
    inspection: &mut Inspection,
    brought: &[RestoredRange],
) -> Result<(), OpenError> {
    if inspection.mode != RecoveryMode::Salvage {
        return Ok(());
    }
    let mut found = Found::default();
    let mut all: Vec<&InspectedSegment> =
        inspection.detached.iter().chain(&inspection.log_segments).collect();
    all.sort_by_key(|inspected| inspected.segment.id());
    let mut ended = false;
    for InspectedSegment { segment, scan } in &all {
        if let Some(damage) = inspection.damaged_headers.get(&segment.id()) {
            let (position, length) = (segment.position(0), FIRST_FRAME);
            found.damaged.push(DamagedRange { position, length, damage: damage.clone() });
        }
        let mut hint = None;
        if scan.is_some() {
            hint = read_hint(storage, segment.id())?.filter(|h| h.loose.salt == segment.salt());
        }
        let ranges = ranges_of(inspection, segment, scan.as_ref(), hint.as_ref());
        if !ranges.is_empty() {
            found.add(segment, scan.as_ref(), &ranges, hint.as_ref());
        }
        if let Some(scan) = scan {
            let from = brought.iter().find(|(id, _)| *id == segment.id()).map(|(_, from)| *from);
            // A segment with a hint was sealed, and all of it was durable.
            if from.is_some() || hint.is_none() {
                found.doubt(inspection, segment, scan, from, &mut ended);
            }
        }
    }
    let is_there = |id| all.iter().any(|inspected| inspected.segment.id() == id);
    let whole: BTreeMap<u32, CorruptionKind> = inspection
        .report
        .lost
        .iter()
        .filter(|lost| matches!(lost.kind, CorruptionKind::SegmentHeader(_)))
        .filter(|lost| !is_there(lost.segment))
        .map(|lost| (lost.segment, lost.kind.clone()))
        .collect();
    for (id, damage) in whole {
        found.add_whole(storage, id, damage)?;
    }
    let report = &mut inspection.report;
    report.gone = found.suspects.iter().map(FrameEvidence::to_lost).collect();
    (report.suspects, report.damaged) = (found.suspects, found.damaged);
    report.in_doubt = found.in_doubt;
    Ok(())
}

/// The damaged ranges of a segment. One behind its last frame may not exist in the file at all.
fn ranges_of(
    inspection: &Inspection,
    segment: &OfflineSegment,
    scan: Option<&Scan>,
    hint: Option<&HintRemains>,
) -> Vec<Gap> {
    let id = segment.id();
    let was_sealed = segment.is_sealed() || inspection.manifest.kept.binary_search(&id).is_ok();
    let by_a_death = !was_sealed && inspection.is_same_kernel(segment);
    let repairs = scan.map_or(&[][..], |scan| &scan.repairs);
    let damaged = repairs.iter().filter(|(_, repair)| *repair == Repair::Damage || !by_a_death);
    let mut ranges: Vec<Gap> = Vec::new();
    for &(gap, _) in damaged {
        // A range that is partly zero is found as a hole followed by damage.
        match ranges.last_mut() {
            Some(last) if last.offset + last.len == gap.offset => last.len += gap.len,
            _ => ranges.push(gap),
        }
    }
    let end = scan.map_or_else(|| segment.end(), |scan| scan.end);
    let closed = inspection.manifest.closed.filter(|closed| closed.segment == id);
    let known = if segment.is_sealed() { segment.end() } else { 0 };
    let known = hint.map_or(known, |hint| known.max(hint.loose.end));
    let known = closed.map_or(known, |closed| known.max(closed.offset.into()));
    let is_cut = !segment.is_sealed() && (segment.map.len() as u64) < segment.header.capacity;
    if end < known || known == 0 && is_cut {
        // It may be unknown how long a truncated file was: then a range of length 0 says so, also behind another.
        let len = known.saturating_sub(end);
        match ranges.last_mut() {
            Some(last) if len > 0 && last.offset + last.len == end => last.len += len,
            _ => ranges.push(Gap { offset: end, len }),
        }
    }
    ranges
}

#[derive(Default)]
struct Found {
    damaged: Vec<DamagedRange>,
    suspects: Vec<FrameEvidence>,
    in_doubt: Vec<InDoubt>,
}

impl Found {
    fn add(
        &mut self,
        segment: &OfflineSegment,
        scan: Option<&Scan>,
        ranges: &[Gap],
        hint: Option<&HintRemains>,
    ) {
        let place = Place { id: segment.id(), salt: segment.salt(), file: segment.file_bytes() };
        for &range in ranges {
            let position = segment.position(range.offset);
            let damage = damage_at(segment.quiet(), range.offset);
            self.damaged.push(DamagedRange { position, length: range.len, damage });
            self.suspects.extend(place.suspects(range, hint));
            if let (Some(len), Some(scan)) = (place.batch_at(range.offset), scan) {
                let to = (range.offset + len).min(scan.end);
                let from = (range.offset + range.len).min(to);
                let frames = count(segment, scan, from, to);
                let reason = Doubt::TornBatch;
                self.in_doubt.push(InDoubt { position, length: len, frames, reason });
            }
        }
    }

    /// Records a segment without a head, or without a file.
    fn add_whole(
        &mut self,
        storage: &dyn Storage,
        id: u32,
        damage: CorruptionKind,
    ) -> Result<(), OpenError> {
        let (hint, file) = (read_hint(storage, id)?, UnusedFile::open(storage, &file_name(id))?);
        let file = file.as_ref().map(UnusedFile::bytes);
        let length = file.map_or(0, |file| file.len() as u64);
        let position = LogPosition::new(id, 0);
        self.damaged.push(DamagedRange { position, length, damage });
        let written = |file: &[u8]| {
            let last = file.iter().rposition(|&byte| byte != 0);
            last.map_or(0, |last| (last as u64 + 1).next_multiple_of(8))
        };
        let written = file.map_or(0, written);
        let end = hint.as_ref().map_or(written, |hint| hint.loose.end);
        let range = Gap { offset: FIRST_FRAME, len: end.saturating_sub(FIRST_FRAME) };
        let suspects = match file {
            Some(file) => {
                let written = u64_at(part(file, 0, FIRST_FRAME), 24);
                let salt = hint.as_ref().map_or(written, |hint| hint.loose.salt);
                Place { id, salt, file }.suspects(range, hint.as_ref())
            }
            None => hint.as_ref().map_or_else(Vec::new, |hint| hinted_only(id, range, hint)),
        };
        let nothing_known = suspects.is_empty() && hint.is_none();
        self.suspects.extend(suspects);
        if nothing_known {
            self.suspects.push(FrameEvidence { position, length, remnant: None, hinted: None });
        }
        Ok(())
    }

    /// Records frames that a strict recovery would not have taken.
    fn doubt(
        &mut self,
        inspection: &Inspection,
        segment: &OfflineSegment,
        scan: &Scan,
        brought: Option<u64>,
        ended: &mut bool,
    ) {
        let in_log = !segment.is_sealed() && !segment.header.merged;
        let from = match brought {
            Some(from) => Some((from, Doubt::BroughtBack)),
            None if !in_log || inspection.is_same_kernel(segment) => None,
            None if *ended => Some((FIRST_FRAME, Doubt::BehindTheEnd)),
            None => {
                let strict =
                    scan::scan(segment.quiet(), Rules { same_boot: false, salvage: false });
                strict.stop.is_some().then_some((strict.end, Doubt::BehindTheEnd))
            }
        };
        let Some((from, reason)) = from else { return };
        *ended |= in_log;
        let frames = count(segment, scan, from, scan.end);
        if frames > 0 {
            let (position, length) = (segment.position(from), scan.end - from);
            self.in_doubt.push(InDoubt { position, length, frames, reason });
        }
    }
}

/// What is wrong at a place.
fn damage_at(segment: QuietSegment<'_>, offset: u64) -> CorruptionKind {
    match segment.frame_at(offset, segment.end().saturating_sub(offset)) {
        Err(kind) => kind,
        Ok(Some(VerifiedFrame {
            word,
            header: Some(Header { kind: Kind::Batch, value_len, .. }),
            ..
        })) => {
            let checked = segment.check_batch(offset, word.len, value_len);
            checked.map_or_else(|damage| damage.kind, |()| CorruptionKind::Missing)
        }
        Ok(_) => CorruptionKind::Missing,
    }
}

/// Number of entries, puts and deletes between two offsets of a scanned segment.
fn count(segment: &OfflineSegment, scan: &Scan, from: u64, to: u64) -> u64 {
    let bytes = part(segment.file_bytes(), 0, to);
    let (mut at, mut frames) = (from, 0);
    while at < to {
        let gap = scan.repairs.binary_search_by_key(&at, |(gap, _)| gap.offset);
        if let Ok(nth) = gap {
            at += scan.repairs[nth].0.len;
            continue;
        }
        let Ok(Some(word)) = Word::parse(u64_at(bytes, at as usize), to - at) else { break };
        frames += match Header::from_word(u64_at(bytes, at as usize + 8)) {
            _ if word.state != frame::State::Committed => 0,
            Some(Header { kind: Kind::Batch, value_len, .. }) => u64::from(value_len),
            Some(Header { kind: Kind::Entry | Kind::Put | Kind::Delete, .. }) => 1,
            _ => 0,
        };
        at += word.len;
    }
    frames
}

/// A segment's bytes, with what is needed to interpret them.
struct Place<'m> {
    id: u32,
    salt: u64,
    file: &'m [u8],
}

impl Place<'_> {
    fn suspects(&self, range: Gap, hint: Option<&HintRemains>) -> Vec<FrameEvidence> {
        let end = range.offset + range.len;
        // What was brought back is behind the part that the hint describes.
        let known = hint.map_or(range.offset, |hint| hint.loose.end.clamp(range.offset, end));
        let within = Gap { offset: range.offset, len: known - range.offset };
        let mut all = hint.map_or_else(Vec::new, |hint| self.by_hint(within, hint));
        if range.len == 0 {
            let position = LogPosition::new(self.id, range.offset as u32);
            all.push(FrameEvidence { position, length: 0, remnant: None, hinted: None });
        }
        all.extend(self.by_frames(Gap { offset: known, len: end - known }));
        if hint.is_some_and(|hint| hint.loose.plain) {
            // Hints do not list the log's own entries.
            let entries = self.by_frames(within).into_iter();
            all.extend(entries.filter(|suspect| suspect.kind() == LostKind::Entry));
            all.sort_by_key(|suspect| suspect.position);
        }
        all
    }

    fn look(&self, offset: u64, end: u64) -> Option<Remains> {
        remains::look(self.salt, offset, part(self.file, offset, end))
    }

    fn by_hint(&self, range: Gap, hint: &HintRemains) -> Vec<FrameEvidence> {
        let mut all = hinted_only(self.id, range, hint);
        for suspect in &mut all {
            let offset = u64::from(suspect.position.offset());
            // At most up to where the next one begins: the time stays linear whatever the file
            // contains.
            if let Some(Remains::Frame(remnant)) = self.look(offset, offset + suspect.length) {
                suspect.length = remnant.len;
                suspect.remnant = Some(remnant);
            }
        }
        all
    }

    fn by_frames(&self, range: Gap) -> Vec<FrameEvidence> {
        let (mut at, end) = (range.offset, range.offset + range.len);
        let mut all = Vec::new();
        while at < end {
            let position = LogPosition::new(self.id, at as u32);
            match self.look(at, self.room(at, end)) {
                Some(Remains::Nothing { len }) => at += len,
                // The frames inside are listed one by one.
                Some(Remains::Frame(head)) if head.header.kind == Kind::Batch => {
                    at += frame::HEADER;
                }
                Some(Remains::Frame(frame)) if at + frame.len <= end => {
                    let length = frame.len;
                    at += length;
                    if matches!(frame.header.kind, Kind::Put | Kind::Delete | Kind::Entry) {
                        let remnant = Some(frame);
                        all.push(FrameEvidence { position, length, remnant, hinted: None });
                    }
                }
                _ => {
                    let length = end - at;
                    all.push(FrameEvidence { position, length, remnant: None, hinted: None });
                    break;
                }
            }
        }
        all
    }

    /// How far a frame that begins in a damaged range may extend: only a batch may extend beyond the
    /// range.
    fn room(&self, at: u64, end: u64) -> u64 {
        let head = part(self.file, at, at + frame::HEADER);
        let header = Header::from_word(u64_at(head, 8));
        let is_batch = header.is_some_and(|header| header.kind == Kind::Batch);
        if is_batch { self.file.len() as u64 } else { end }
    }

    /// The length of the batch that begins at a damaged place, if one does.
    fn batch_at(&self, offset: u64) -> Option<u64> {
        let Some(Remains::Frame(head)) = self.look(offset, self.file.len() as u64) else {
            return None;
        };
        (head.header.kind == Kind::Batch).then_some(head.len)
    }
}

/// What was in a range, according to the hint.
fn hinted_only(id: u32, range: Gap, hint: &HintRemains) -> Vec<FrameEvidence> {
    let (entries, end) = (hint.within(range), range.offset + range.len);
    let one = |(nth, entry): (usize, &LooseEntry)| {
        let next = entries.get(nth + 1).map_or(end, |next| next.offset);
        let LooseEntry { offset, tombstone, name } = *entry;
        FrameEvidence {
            position: LogPosition::new(id, offset as u32),
            length: next - offset,
            remnant: None,
            hinted: Some(HintEvidence { name, tombstone, fingerprint: hint.loose.fingerprint }),
        }
    };
    entries.iter().enumerate().map(one).collect()
}
