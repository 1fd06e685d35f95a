//! Scanning the frames of a segment that is not being written to ([`QuietSegment`]), from the first one
//! to the end, by the table in `docs/durability.md`. Recovery, merges, hints and `verify` all scan with
//! this file.

use crate::error::{Corruption, CorruptionKind};
use crate::format::frame::{self, Header, Kind, State};
use crate::format::header::FIRST_FRAME;
use crate::format::u64_at;
use crate::position::LogPosition;
use crate::segment::Gap;
use crate::segment::frames::VerifiedFrame;
use crate::segment::quiet::QuietSegment;
use crate::segment::read_ahead::FrontToBack;
use crate::segment::search::Search;
use std::ops::ControlFlow;

/// What a range between valid frames is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// Reserved, never claimed.
    Hole,
    /// Claimed, never committed.
    DeadClaim,
    /// Damaged (salvage only).
    Damage,
}

impl Repair {
    /// The commit word that makes the range a void frame or a pad.
    pub(crate) fn word(self, salt: u64, gap: Gap) -> u64 {
        let state = if self == Self::DeadClaim { State::Void } else { State::Pad };
        frame::bare_word(salt, gap.offset, gap.len, state)
    }
}

/// Why a scan ended before the end of the segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Only zeros from here on.
    Blank,
    /// The machine was restarted, and what its kernel had written back ends here.
    Torn(Corruption),
    /// Damage that a crash does not explain.
    Damaged(Corruption),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    /// Where the valid frames end.
    pub(crate) end: u64,
    pub(crate) frames: u64,
    pub(crate) entries: u64,
    pub(crate) repairs: Vec<(Gap, Repair)>,
    /// Damage that was skipped (salvage only).
    pub(crate) lost: Vec<Corruption>,
    pub(crate) stop: Option<Stop>,
}

impl Scan {
    /// Whether a scan of the segment by other rules has the same result.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        self.end == other.end && self.repairs == other.repairs && self.stop == other.stop
    }
}

/// How a scan treats what is not a valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The same boot: only the process died, and the page cache is as it left it.
    pub(crate) same_boot: bool,
    /// Skip damage.
    pub(crate) salvage: bool,
}

/// Scans the frames of an unsealed segment.
pub(crate) fn scan(segment: QuietSegment<'_>, rules: Rules) -> Scan {
    let mut scan = Scan { end: FIRST_FRAME, ..Scan::default() };
    let limit = segment.end();
    let mut search = Search::new(segment.salt(), || segment.bytes());
    let mut ahead = FrontToBack::of(&segment);
    while scan.end < limit {
        ahead.at(scan.end);
        if let Some(gap) = segment.gap_at(scan.end) {
            scan.end += gap.len;
            continue;
        }
        match step(segment, scan.end, limit, rules) {
            Step::Frame { len, entries } => {
                scan.frames += 1;
                scan.entries += entries;
                scan.end += len;
            }
            Step::Gap { len, repair } => {
                scan.repairs.push((Gap { offset: scan.end, len }, repair));
                scan.frames += 1;
                scan.end += len;
            }
            Step::Stop(Stop::Damaged(corruption)) if rules.salvage => {
                let next = search.next(scan.end + 8).unwrap_or(limit);
                let gap = Gap { offset: scan.end, len: next - scan.end };
                scan.repairs.push((gap, Repair::Damage));
                scan.frames += 1;
                scan.lost.push(corruption);
                scan.end = next;
            }
            Step::Stop(stop) => {
                scan.stop = Some(stop);
                return scan;
            }
        }
    }
    scan
}

enum Step {
    Frame { len: u64, entries: u64 },
    Gap { len: u64, repair: Repair },
    Stop(Stop),
}

/// One row of the table in `docs/durability.md`.
fn step(segment: QuietSegment<'_>, offset: u64, limit: u64, rules: Rules) -> Step {
    let stop = if rules.same_boot { Stop::Damaged } else { Stop::Torn };
    let bad = |kind| Step::Stop(stop(Corruption::at(segment.position(offset), kind)));
    let frame = match segment.frame_at(offset, limit - offset) {
        Err(kind) => return bad(kind),
        Ok(None) => {
            return match segment.next_written(offset) {
                None => Step::Stop(Stop::Blank),
                Some(next) if rules.same_boot => {
                    Step::Gap { len: next - offset, repair: Repair::Hole }
                }
                Some(_) => bad(CorruptionKind::Missing),
            };
        }
        Ok(Some(frame)) => frame,
    };
    let len = frame.word.len;
    match (frame.word.state, frame.header) {
        (State::Claimed, _) if rules.same_boot => Step::Gap { len, repair: Repair::DeadClaim },
        (State::Claimed, _) => bad(CorruptionKind::Missing),
        (_, Some(Header { kind: Kind::Batch, value_len, .. })) => {
            match segment.check_batch(offset, len, value_len) {
                Ok(()) => Step::Frame { len, entries: u64::from(value_len) },
                Err(corruption) => Step::Stop(stop(corruption)),
            }
        }
        (_, Some(Header { kind: Kind::Entry | Kind::Put | Kind::Delete, .. })) => {
            Step::Frame { len, entries: 1 }
        }
        _ => Step::Frame { len, entries: 0 },
    }
}

/// Calls `each` with the offset, the length and the content of every finished frame; for a batch, with
/// its head and then with the frames inside it. All are verified. Damage is an error, or is skipped and
/// listed in `lost`.
pub(crate) fn each_frame<'s>(
    segment: QuietSegment<'s>,
    mut lost: Option<&mut Vec<Corruption>>,
    mut each: impl FnMut(u64, u64, &VerifiedFrame<'s>) -> ControlFlow<()>,
) -> Result<(), Corruption> {
    let (mut offset, end) = (FIRST_FRAME, segment.end());
    let mut search = Search::new(segment.salt(), || segment.bytes());
    let mut ahead = FrontToBack::of(&segment);
    while offset < end {
        ahead.at(offset);
        if let Some(gap) = segment.gap_at(offset) {
            offset += gap.len;
            continue;
        }
        let frame = segment.frame_at(offset, end - offset);
        let frame = frame.and_then(|frame| frame.ok_or(CorruptionKind::Missing));
        let frame = match (frame, &mut lost) {
            (Ok(frame), _) => frame,
            (Err(kind), None) => return Err(Corruption::at(segment.position(offset), kind)),
            (Err(kind), Some(lost)) => {
                lost.push(Corruption::at(segment.position(offset), kind));
                offset = search.next(offset + 8).unwrap_or(end);
                continue;
            }
        };
        let len = if frame.is_batch() { frame::HEADER } else { frame.word.len };
        if each(offset, len, &frame).is_break() {
            return Ok(());
        }
        offset += len;
    }
    Ok(())
}

/// The highest position that a sync mark at or after `from` says is durable.
pub(crate) fn durable_mark(segment: QuietSegment<'_>, from: u64) -> Option<LogPosition> {
    let limit = segment.end();
    let bytes = segment.bytes();
    let low = (frame::SYNC_MARK | State::Committed as u64) as u32;
    let mark = Header::plain(Kind::SyncMark, 8).to_word();
    let mut furthest = None;
    let mut at = from;
    while at + frame::SYNC_MARK <= limit {
        let here = u64_at(bytes, at as usize);
        if here == 0 {
            // Skips blank ranges in blocks.
            match segment.next_written(at) {
                Some(next) => at = next,
                None => break,
            }
            continue;
        }
        let looks_like_one = here as u32 == low && u64_at(bytes, at as usize + 8) == mark;
        if looks_like_one && matches!(segment.frame_at(at, limit - at), Ok(Some(_))) {
            let position = LogPosition::from_u64(u64_at(bytes, at as usize + 16));
            furthest = furthest.max(Some(position));
        }
        at += 8;
    }
    furthest
}

/// Verifies a whole sealed segment: its frames, and that their number is the one in its seal.
pub(crate) fn verify_sealed(segment: QuietSegment<'_>) -> Result<Scan, Corruption> {
    let scan = scan(segment, Rules { same_boot: true, salvage: false });
    let corrupt = |offset, kind| Corruption { segment: segment.id(), offset, kind };
    if let Some((gap, _)) = scan.repairs.first() {
        return Err(corrupt(gap.offset, CorruptionKind::Missing));
    }
    match &scan.stop {
        Some(Stop::Damaged(corruption) | Stop::Torn(corruption)) => Err(corruption.clone()),
        Some(Stop::Blank) => Err(corrupt(scan.end, CorruptionKind::Missing)),
        None => Ok(scan),
    }
}
