//! What salvage finds out about damage before it changes anything: how far it extends, and what the
//! bytes and the old hints reveal about the frames that were there.
//!
//! A hint lists the newest frame of every key in its segment, so it says what was in a damaged range
//! even if the bytes are gone. Without a hint, the frames are followed by their lengths as long as
//! these make sense. The time is linear in the bytes of the damaged ranges.

#![allow(unsafe_code, reason = "reads files that no writer has open")]

use super::classify::{Inspected, Inspection};
use super::losses::{DamagedRange, Doubt, InDoubt, LostFrame, LostKind};
use crate::error::{CorruptionKind, OpenError};
use crate::format::frame::{self, Header, Kind, Word};
use crate::format::header::FIRST_FRAME;
use crate::format::hint::{self, HintEntry, LooseSubject, SortedEntries};
use crate::format::remains::{self, Remains, Remnant};
use crate::format::u64_at;
use crate::options::RecoveryMode;
use crate::position::LogPosition;
use crate::segment::frames::VerifiedFrame;
use crate::segment::quiet::{OfflineSegment, QuietSegment};
use crate::segment::scan::{self, Repair, Rules, Scan};
use crate::segment::{Gap, file_name, hint_name};
use crate::storage::map::Map;
use crate::storage::{Access, Storage};
use std::collections::BTreeMap;
use std::io;

/// A lost frame, with everything that is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Suspect {
    pub(crate) position: LogPosition,
    pub(crate) length: u64,
    pub(crate) remnant: Option<Remnant>,
    pub(crate) hinted: Option<Hinted>,
}

/// What a hint says of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hinted {
    pub(crate) tag: u32,
    pub(crate) tombstone: bool,
    /// Identifies the hash that made the tag.
    pub(crate) fingerprint: u64,
}

impl Suspect {
    pub(crate) fn kind(&self) -> LostKind {
        let of = |remnant: &Remnant| match remnant.header.kind {
            Kind::Put => LostKind::Put,
            Kind::Delete => LostKind::Tombstone,
            Kind::Entry => LostKind::Entry,
            _ => LostKind::Unknown,
        };
        match (self.hinted, &self.remnant) {
            (Some(Hinted { tombstone: true, .. }), _) => LostKind::Tombstone,
            (Some(_), _) => LostKind::Put,
            (None, remnant) => remnant.as_ref().map_or(LostKind::Unknown, of),
        }
    }

    /// The report of a lost frame, as far as the log knows it; it cannot tell which key has a tag.
    fn to_lost(&self) -> LostFrame {
        let remnant = self.remnant.as_ref().filter(|remnant| !remnant.key.is_empty());
        LostFrame {
            position: self.position,
            length: self.length,
            kind: self.kind(),
            key: remnant.map(|remnant| remnant.key.clone()),
            certain: self.remnant.as_ref().is_some_and(|remnant| remnant.certain),
            now: None,
        }
    }
}

/// What salvage brought back: the id of a segment, and from which offset on.
pub(super) type Brought = (u32, u64);

/// Records what is lost and what is in doubt.
pub(super) fn note(
    storage: &dyn Storage,
    inspection: &mut Inspection,
    brought: &[Brought],
) -> Result<(), OpenError> {
    if inspection.mode != RecoveryMode::Salvage {
        return Ok(());
    }
    let mut found = Found::default();
    let mut all: Vec<&Inspected> = inspection.beside.iter().chain(&inspection.log).collect();
    all.sort_by_key(|inspected| inspected.segment.id());
    let mut ended = false;
    for Inspected { segment, scan } in &all {
        if let Some(damage) = inspection.heads.get(&segment.id()) {
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
    report.gone = found.suspects.iter().map(Suspect::to_lost).collect();
    (report.suspects, report.damaged) = (found.suspects, found.damaged);
    report.in_doubt = found.in_doubt;
    Ok(())
}

/// The damaged ranges of a segment. One behind its last frame may not exist in the file at all.
fn ranges_of(
    inspection: &Inspection,
    segment: &OfflineSegment,
    scan: Option<&Scan>,
    hint: Option<&Hint>,
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
        // It may be unknown how long a truncated file was.
        let len = known.saturating_sub(end);
        match ranges.last_mut() {
            Some(last) if last.offset + last.len == end => last.len += len,
            _ => ranges.push(Gap { offset: end, len }),
        }
    }
    ranges
}

/// A hint, with tags of any hash.
struct Hint {
    loose: LooseSubject,
    /// By their offsets.
    entries: Vec<HintEntry>,
}

impl Hint {
    fn within(&self, range: Gap) -> &[HintEntry] {
        let end = range.offset + range.len;
        let from = self.entries.partition_point(|entry| entry.offset() < range.offset);
        let to = self.entries.partition_point(|entry| entry.offset() < end);
        &self.entries[from..to]
    }
}

/// The bytes of a range that the file has.
fn part(file: &[u8], from: u64, to: u64) -> &[u8] {
    let to = to.min(file.len() as u64);
    &file[from.min(to) as usize..to as usize]
}

/// A hint, or a segment that has no sound header: a file that no writer has open.
struct UnusedFile(Map);

impl UnusedFile {
    fn open(storage: &dyn Storage, name: &str) -> Result<Option<Self>, OpenError> {
        match storage.open(name, Access::Read) {
            Ok(opened) => Ok(Some(Self(opened.map))),
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(OpenError::NotRegular { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: hints are written under another name, and do not change once they have theirs; and no
        // log takes a segment in that has no sound header.
        unsafe { self.0.slice(0, self.0.len() as u64) }
    }
}

fn read_hint(storage: &dyn Storage, id: u32) -> Result<Option<Hint>, OpenError> {
    let Some(file) = UnusedFile::open(storage, &hint_name(id))? else { return Ok(None) };
    let Some((loose, entries)) = hint::decode_loosely(file.bytes()) else {
        return Ok(None);
    };
    let mut entries: Vec<HintEntry> = entries.iter().collect();
    entries.sort_unstable_by_key(|entry| entry.offset());
    Ok((loose.id == id).then_some(Hint { loose, entries }))
}

/// The salt of a segment, according to its hint.
pub(super) fn hinted_salt(storage: &dyn Storage, id: u32) -> Result<Option<u64>, OpenError> {
    Ok(read_hint(storage, id)?.map(|hint| hint.loose.salt))
}

#[derive(Default)]
struct Found {
    damaged: Vec<DamagedRange>,
    suspects: Vec<Suspect>,
    in_doubt: Vec<InDoubt>,
}

impl Found {
    fn add(
        &mut self,
        segment: &OfflineSegment,
        scan: Option<&Scan>,
        ranges: &[Gap],
        hint: Option<&Hint>,
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
            self.suspects.push(Suspect { position, length, remnant: None, hinted: None });
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
    fn suspects(&self, range: Gap, hint: Option<&Hint>) -> Vec<Suspect> {
        let end = range.offset + range.len;
        // What was brought back is behind the part that the hint describes.
        let known = hint.map_or(range.offset, |hint| hint.loose.end.clamp(range.offset, end));
        let within = Gap { offset: range.offset, len: known - range.offset };
        let mut all = hint.map_or_else(Vec::new, |hint| self.by_hint(within, hint));
        if range.len == 0 {
            let position = LogPosition::new(self.id, range.offset as u32);
            all.push(Suspect { position, length: 0, remnant: None, hinted: None });
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

    fn by_hint(&self, range: Gap, hint: &Hint) -> Vec<Suspect> {
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

    fn by_frames(&self, range: Gap) -> Vec<Suspect> {
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
                        all.push(Suspect { position, length, remnant, hinted: None });
                    }
                }
                _ => {
                    let length = end - at;
                    all.push(Suspect { position, length, remnant: None, hinted: None });
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
fn hinted_only(id: u32, range: Gap, hint: &Hint) -> Vec<Suspect> {
    let (entries, end) = (hint.within(range), range.offset + range.len);
    let one = |(nth, entry): (usize, &HintEntry)| {
        let next = entries.get(nth + 1).map_or(end, |next| next.offset());
        let (tag, tombstone) = (entry.tag(), entry.is_tombstone());
        Suspect {
            position: LogPosition::new(id, entry.offset() as u32),
            length: next - entry.offset(),
            remnant: None,
            hinted: Some(Hinted { tag, tombstone, fingerprint: hint.loose.fingerprint }),
        }
    };
    entries.iter().enumerate().map(one).collect()
}
