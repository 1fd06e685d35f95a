//! Verification: all frames are sound, and the hints and the keydir agree with them.
//!
//! All frames are read. The keydir must point at each key's newest one: for a put without a slot there
//! must be a newer tombstone. Writers continue meanwhile, so a slot may be newer than the frames read,
//! and a key may be deleted after its put was found to have a slot, but not the other way round.

#![allow(unsafe_code, reason = "reads frames that were verified")]

use super::hints::{self, SummaryBuilder};
use super::inner::Contents;
use super::merge::damage;
use super::merge::tombstones::TombstoneFilter;
use super::{Pairs, Store};
use crate::error::{Corruption, CorruptionKind, ReadError};
use crate::format::frame::{self, Kind};
use crate::format::header::FIRST_FRAME;
use crate::format::hint::KeyName;
use crate::log::VerifyReport;
use crate::log::writer::LogWriter;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::frames::{self, VerifiedFrame};
use crate::segment::quiet::QuietSegment;
use crate::segment::scan;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;

impl Store {
    /// Verifies the store: reads every frame, including values that are no longer current, and checks
    /// its checksum; compares the frames with the hints and the keydir; then looks up every key. Merges
    /// wait meanwhile, writers and readers do not.
    ///
    /// Damage to frames that are no longer current (the key was set or deleted later) is counted and is
    /// no error; the next merge removes it.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] at the first damage or contradiction.
    pub fn verify(&self) -> Result<VerifyReport, ReadError> {
        let _inside = self.enter().ok_or(ReadError::Closed)?;
        let _still = self.inner.merging();
        let mut check = Verification::new(self.inner.contents());
        check.everything(&self.inner.writer, |_| {}).map_err(ReadError::Corrupt)?;
        let mut report = check.report;
        for pair in self {
            let pair = pair?;
            report.keys += 1;
            report.bytes += pair.value().len() as u64;
        }
        Ok(report)
    }
}

/// As `Store::verify`, for a store without a writer, or as it was at one moment.
pub(super) fn verify_still(contents: Contents<'_>) -> Result<VerifyReport, ReadError> {
    let mut check = Verification::new(contents);
    check.still().map_err(ReadError::Corrupt)?;
    let mut report = check.report;
    for pair in Pairs::new(contents.view) {
        let pair = pair?;
        report.keys += 1;
        report.bytes += pair.value().len() as u64;
    }
    Ok(report)
}

/// A put or a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RecordPlace {
    name: KeyName,
    origin: LogPosition,
    at: LogPosition,
}

struct Verification<'i> {
    inner: Contents<'i>,
    segments: BTreeMap<u32, Arc<Segment>>,
    report: VerifyReport,
    /// Puts whose key has no slot.
    gone: Vec<RecordPlace>,
    tombstones: Vec<RecordPlace>,
    /// Names of damaged tombstones' keys.
    lost: Vec<KeyName>,
}

impl<'i> Verification<'i> {
    fn new(inner: Contents<'i>) -> Self {
        let (segments, report) = (BTreeMap::new(), VerifyReport::default());
        Self { inner, segments, report, gone: Vec::new(), tombstones: Vec::new(), lost: Vec::new() }
    }

    /// `after` runs when what was there at first has been read (1), and what came meanwhile (2).
    fn everything(
        &mut self,
        writer: &LogWriter,
        mut after: impl FnMut(u8),
    ) -> Result<(), Corruption> {
        let committed = writer.committed();
        self.list();
        let all: Vec<_> = self.segments.values().cloned().collect();
        for segment in all {
            if segment.is_sealed() {
                self.sealed(&segment)?;
            } else if segment.id() <= committed.segment() {
                self.unsealed(&segment, committed)?;
            }
        }
        after(1);
        // A key deleted meanwhile has its tombstone behind that place, and before this one.
        let tail = writer.tail();
        let now = writer.committed();
        self.list();
        self.later_tombstones(committed, now)?;
        after(2);
        if now < tail {
            // A tombstone may be behind an unfinished append.
            return Ok(());
        }
        self.match_tombstones()
    }

    /// As `everything`, without a writer; gaps are skipped.
    fn still(&mut self) -> Result<(), Corruption> {
        self.list();
        let all: Vec<_> = self.segments.values().cloned().collect();
        for segment in all {
            if segment.is_sealed() && segment.gaps.is_empty() {
                self.sealed(&segment)?;
                continue;
            }
            self.report.segments += 1;
            scan::verify_sealed(QuietSegment::of(&segment))?;
            let (inner, mut failed) = (self.inner, Ok(()));
            scan::each_frame(QuietSegment::of(&segment), None, |offset, _, frame| {
                let name = frame.record().map(|record| inner.keydir.name(record.key()));
                failed = self.frame(&segment, offset, frame, name);
                if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            failed?;
        }
        self.match_tombstones()
    }

    /// Merges wait, so no segment is removed but a standby that is taken back. One with a lower id than what is
    /// committed has been by now, since an oversize segment took its place.
    fn list(&mut self) {
        let all = self.inner.table.segments().into_iter();
        self.segments = all.map(|segment| (segment.id(), segment)).collect();
    }

    fn sealed(&mut self, segment: &Arc<Segment>) -> Result<(), Corruption> {
        let inner = self.inner;
        self.report.segments += 1;
        let quiet = QuietSegment::of(segment);
        let sound = scan::verify_sealed(quiet);
        let (mut failed, mut lost, mut gather) = (Ok(()), Vec::new(), SummaryBuilder::new());
        scan::each_frame(quiet, Some(&mut lost), |offset, len, frame| {
            let name = gather.add(&inner.keydir, segment, offset, len, frame);
            failed = self.frame(segment, offset, frame, name);
            if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        failed?;
        let found = gather.finish(segment);
        let Some(first) = lost.first() else {
            sound?;
            hints::check_count(segment, &found.census)?;
            return hints::compare_all(inner.storage, &inner.keydir, segment, &found);
        };
        let doubts = damage::lost_tombstones(inner, segment, &found, first)?;
        self.report.damaged += found.gaps.len() as u64;
        if inner.salvage {
            return Ok(());
        }
        let filter = TombstoneFilter::new(inner, std::slice::from_ref(segment));
        let Ok(needed) = damage::needed(&doubts, &filter, |_| Ok::<_, Infallible>(()));
        if needed.is_some() {
            return Err(first.clone());
        }
        self.lost.extend(doubts.iter().filter_map(damage::LostTombstone::name));
        Ok(())
    }

    /// Verifies the committed part of a segment that is being written to.
    fn unsealed(
        &mut self,
        segment: &Arc<Segment>,
        committed: LogPosition,
    ) -> Result<(), Corruption> {
        self.report.segments += 1;
        each_committed(segment, FIRST_FRAME, committed, |offset, frame| {
            let name = frame.record().map(|record| self.inner.keydir.name(record.key()));
            self.frame(segment, offset, frame, name)
        })
    }

    fn frame(
        &mut self,
        segment: &Segment,
        offset: u64,
        frame: &VerifiedFrame<'_>,
        name: Option<KeyName>,
    ) -> Result<(), Corruption> {
        self.report.frames += 1;
        let Some(header) = frame.header else { return Ok(()) };
        if header.kind == Kind::Entry {
            self.report.entries += 1;
            self.report.bytes += u64::from(header.value_len);
        }
        let (Some(name), Some(record)) = (name, frame.record()) else { return Ok(()) };
        let (key, at) = (record.key(), segment.position(offset));
        let origin = segment.origin_of(offset, &record);
        let place = RecordPlace { name, origin, at };
        let slot = self.slot(place, key)?;
        match (record.is_put(), slot) {
            (true, Some((_, newest))) if newest >= origin => {}
            (true, Some(_)) => return Err(unlisted(at, key)),
            // A merge may have removed the slot of an expired value, which is a tombstone then.
            (true, None) if record.expiry().is_some() => self.tombstones.push(place),
            (true, None) => self.gone.push(place),
            (false, Some((slot, newest))) if newest < origin => {
                return Err(Corruption::at(slot, CorruptionKind::Outdated { key: key.to_vec() }));
            }
            (false, _) => self.tombstones.push(place),
        }
        Ok(())
    }

    /// Where a key's slot points, and the origin of that frame.
    fn slot(
        &self,
        place: RecordPlace,
        key: &[u8],
    ) -> Result<Option<(LogPosition, LogPosition)>, Corruption> {
        let inner = self.inner;
        let tag = inner.keydir.tag_of(place.name);
        if inner.keydir.get(tag, |at| at == place.at, |_| ()).is_some() {
            return Ok(Some((place.at, place.origin)));
        }
        let slot = inner.slot(tag, key)?;
        Ok(slot.map(|(at, segment)| {
            let offset = at.offset().into();
            // SAFETY: a slot pointed there when its segment was pinned.
            let record = unsafe { segment.record_head(offset) };
            (at, record.map_or(at, |record| segment.origin_of(offset, &record)))
        }))
    }

    fn later_tombstones(&mut self, from: LogPosition, to: LogPosition) -> Result<(), Corruption> {
        let (inner, mut found) = (self.inner, Vec::new());
        let later = self.segments.range(from.segment()..=to.segment());
        for (&id, segment) in later.filter(|(_, segment)| !segment.header.merged) {
            let first = if id == from.segment() { from.offset().into() } else { FIRST_FRAME };
            each_committed(segment, first, to, |offset, frame| {
                if let Some(tombstone) = frame.record().filter(|record| !record.is_put()) {
                    let (name, at) = (inner.keydir.name(tombstone.key()), segment.position(offset));
                    found.push(RecordPlace { name, origin: at, at });
                }
                Ok(())
            })?;
        }
        self.tombstones.append(&mut found);
        Ok(())
    }

    /// Checks that every put without a slot has a newer tombstone.
    fn match_tombstones(&mut self) -> Result<(), Corruption> {
        self.tombstones.sort_unstable();
        for put in &self.gone {
            let Some(key) = self.key(*put) else { continue };
            let first = self.tombstones.partition_point(|other| other.name < put.name);
            let same = self.tombstones[first..].iter().take_while(|other| other.name == put.name);
            let mut newer = same.filter(|other| other.origin > put.origin);
            let is_gone = newer.any(|other| self.key(*other) == Some(key));
            if !is_gone && !self.lost.contains(&put.name) {
                return Err(unlisted(put.at, key));
            }
        }
        Ok(())
    }

    fn key(&self, place: RecordPlace) -> Option<&[u8]> {
        let segment = self.segments.get(&place.at.segment())?;
        // SAFETY: places are those of frames that were verified, and so committed.
        Some(unsafe { segment.record_head(place.at.offset().into()) }?.key())
    }
}

fn unlisted(at: LogPosition, key: &[u8]) -> Corruption {
    Corruption::at(at, CorruptionKind::Unlisted { key: key.to_vec() })
}

/// Calls `each` with the offset of every frame from an offset on, those inside of batches included. All of
/// them are verified. Below `committed` none is unfinished.
fn each_committed(
    segment: &Segment,
    from: u64,
    committed: LogPosition,
    mut each: impl FnMut(u64, &VerifiedFrame<'_>) -> Result<(), Corruption>,
) -> Result<(), Corruption> {
    let is_last = committed.segment() == segment.id();
    let end = if is_last { u64::from(committed.offset()) } else { segment.end() };
    let mut offset = from;
    while offset < end {
        // SAFETY: a frame begins at `offset`: at `from`, and behind each frame another one.
        let frame = unsafe { frames::frame_at(segment, offset, end - offset) };
        let frame = frame.and_then(|frame| frame.ok_or(CorruptionKind::Missing));
        let frame = frame.map_err(|kind| Corruption::at(segment.position(offset), kind))?;
        each(offset, &frame)?;
        offset += if frame.is_batch() { frame::HEADER } else { frame.word.len };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Verification;
    use crate::error::CorruptionKind;
    use crate::storage::simulated::SimulatedDisk;
    use crate::{Maintenance, Store};

    /// Its id is below that of the segment that took its place, and there is nothing in it.
    #[test]
    fn a_standby_that_is_taken_back_meanwhile_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let options = Store::options().segment_size(2 << 20).maintenance(Maintenance::Manual);
        let store = options.open(dir.path().join("store")).unwrap();
        store.put("key", "value").unwrap();
        store.log().maintain().unwrap();
        let oversize = |pass| assert!(pass == 2 || store.put("large", vec![1; 3 << 20]).is_ok());
        let mut check = Verification::new(store.inner.contents());
        check.everything(&store.inner.writer, oversize).unwrap();
    }

    /// However much is written meanwhile.
    #[test]
    fn a_key_without_a_slot_is_missed_also_beside_writers() {
        let options = Store::options().segment_size(2 << 20).maintenance(Maintenance::Manual);
        let store = options.open_simulated(&SimulatedDisk::new()).unwrap();
        store.put("key", "value").unwrap();
        store.put("deleted", "value").unwrap();
        store.roll().unwrap();
        let writes = |_| {
            store.put("other", "value").unwrap();
            store.delete("deleted").unwrap();
            store.put("deleted", "again").unwrap();
        };
        Verification::new(store.inner.contents()).everything(&store.inner.writer, writes).unwrap();
        let keydir = &store.inner.keydir;
        let _ = keydir.entry(keydir.tag(b"key"), |_| true).remove();
        let checked =
            Verification::new(store.inner.contents()).everything(&store.inner.writer, writes);
        assert!(matches!(checked.unwrap_err().kind, CorruptionKind::Unlisted { .. }));
    }
}
