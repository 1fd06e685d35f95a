//! Looking through the frames of a segment that nobody writes to: by recovery and by `verify`.

#![allow(unsafe_code, reason = "reads whole segments that have no writer")]

use crate::error::{Corruption, CorruptionKind};
use crate::format::frame::{self, Header, Kind, State, Word};
use crate::format::header::FIRST_FRAME;
use crate::format::record::Record;
use crate::format::{is_zero, u64_at};
use crate::position::LogPosition;
use crate::segment::search::Search;
use crate::segment::{Gap, Segment};
use crate::sync::Backoff;
use std::ops::ControlFlow;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

/// What a stretch of bytes between good frames is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// Reserved, never claimed.
    Hole,
    /// Claimed, never committed.
    DeadClaim,
    /// Damaged (salvage only).
    Damage,
}

/// Why a scan ended before the end of the segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Nothing but zeros from here on.
    Blank,
    /// The kernel that wrote the segment is gone, and what it had written back ends here.
    Torn(Corruption),
    /// Damage that no crash explains.
    Damaged(Corruption),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    /// Where the good frames end.
    pub(crate) end: u64,
    pub(crate) frames: u64,
    pub(crate) entries: u64,
    pub(crate) repairs: Vec<(Gap, Repair)>,
    /// Damage that was stepped over (salvage only).
    pub(crate) lost: Vec<Corruption>,
    pub(crate) stop: Option<Stop>,
}

impl Scan {
    /// Whether another scan of the segment, by other rules, says the same of it.
    pub(crate) fn judges_as(&self, other: &Self) -> bool {
        self.end == other.end && self.repairs == other.repairs && self.stop == other.stop
    }
}

/// A frame, verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VerifiedFrame<'s> {
    pub(crate) word: Word,
    pub(crate) header: Option<Header>,
    /// What the checksum covers; empty where there is no header.
    pub(crate) body: &'s [u8],
}

impl<'s> VerifiedFrame<'s> {
    /// The record in it, if it is one.
    #[inline]
    pub(crate) fn record(&self) -> Option<Record<'s>> {
        Record::new(self.header?, self.body)
    }

    pub(crate) fn is_batch(&self) -> bool {
        self.header.is_some_and(|header| header.kind == Kind::Batch)
    }
}

/// A segment's bytes up to its end. No writer may exist.
fn bytes(segment: &Segment) -> &[u8] {
    // SAFETY: scans are made of segments that have no writer: before the log is open, by a reader
    // that shares the lock, or of sealed segments.
    unsafe { segment.map.slice(0, segment.end()) }
}

/// The frame at an offset, its own checksum verified. `None`: unwritten.
pub(crate) fn frame_at(
    segment: &Segment,
    offset: u64,
    room: u64,
) -> Result<Option<VerifiedFrame<'_>>, CorruptionKind> {
    // ORDERING: Acquire; pairs with the Release store in `settle`.
    let word = segment.map.word(offset).load(Ordering::Acquire);
    let Some(word) = Word::parse(word, room)? else { return Ok(None) };
    if word.state != State::Committed {
        frame::verify_bare(segment.salt(), offset, word)?;
        return Ok(Some(VerifiedFrame { word, header: None, body: &[] }));
    }
    // SAFETY: seen committed, with Acquire.
    let bytes = unsafe { segment.map.slice(offset, word.len) };
    let header = frame::verify_committed(segment.salt(), offset, word, bytes)?;
    let body = &bytes[frame::HEADER as usize..][..header.body_len() as usize];
    Ok(Some(VerifiedFrame { word, header: Some(header), body }))
}

/// The body of a committed entry that verifies: the usual case, kept small. `None`: look closer.
#[inline]
pub(crate) fn entry_at(segment: &Segment, offset: u64, end: u64) -> Option<&[u8]> {
    let room = end.checked_sub(offset).filter(|&room| room >= frame::HEADER)?;
    // ORDERING: Acquire; pairs with the Release store in `settle`.
    let word = segment.map.word(offset).load(Ordering::Acquire);
    let len = frame::len_of(word);
    if !frame::has_state(word, State::Committed) || len < frame::HEADER || len > room {
        return None;
    }
    // SAFETY: seen committed, with Acquire.
    let bytes = unsafe { segment.map.slice(offset, len) };
    frame::entry_body(segment.salt(), offset, word, bytes)
}

/// Checks that the frames inside a batch are sound and fill it. Fails with the place.
pub(crate) fn check_batch(
    segment: &Segment,
    offset: u64,
    len: u64,
    expected: u32,
) -> Result<(), Corruption> {
    let corrupt = |at, kind| Corruption::at(segment.position(at), kind);
    let (mut at, end, mut found) = (offset + frame::HEADER, offset + len, 0u32);
    while at < end {
        let inner = frame_at(segment, at, end - at).and_then(|f| f.ok_or(CorruptionKind::Missing));
        let inner = inner.map_err(|kind| corrupt(at, kind))?;
        let kind = inner.header.map(|header| header.kind);
        if !matches!(kind, Some(Kind::Entry | Kind::Put | Kind::Delete)) {
            return Err(corrupt(at, CorruptionKind::Header));
        }
        found = found.saturating_add(1);
        at += inner.word.len;
    }
    if found == expected {
        Ok(())
    } else {
        Err(corrupt(offset, CorruptionKind::Batch { expected, found }))
    }
}

/// How a scan treats what is not a good frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The kernel still runs that wrote it: the process died, and memory is as it left it.
    pub(crate) same_boot: bool,
    /// Step over damage.
    pub(crate) salvage: bool,
}

/// Goes through the frames of an unsealed segment.
pub(crate) fn scan(segment: &Segment, rules: Rules) -> Scan {
    let mut scan = Scan { end: FIRST_FRAME, ..Scan::default() };
    let limit = segment.end();
    let mut search = Search::new(segment.salt(), || bytes(segment));
    while scan.end < limit {
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
fn step(segment: &Segment, offset: u64, limit: u64, rules: Rules) -> Step {
    let stop = if rules.same_boot { Stop::Damaged } else { Stop::Torn };
    let bad = |kind| Step::Stop(stop(Corruption::at(segment.position(offset), kind)));
    let frame = match frame_at(segment, offset, limit - offset) {
        Err(kind) => return bad(kind),
        Ok(None) => {
            return match next_written(segment, offset) {
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
            match check_batch(segment, offset, len, value_len) {
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

/// What was merged into a merged segment, as its first frame says; `None` where that cannot be told.
pub(crate) fn inputs(segment: &Segment) -> Option<Vec<u32>> {
    let frame = frame_at(segment, FIRST_FRAME, segment.end() - FIRST_FRAME).ok()??;
    frame.header.filter(|header| header.kind == Kind::Inputs)?;
    Some(frame::input_ids(frame.body).collect())
}

/// The next word that is not zero.
pub(crate) fn next_written(segment: &Segment, offset: u64) -> Option<u64> {
    let rest = &bytes(segment)[offset as usize..];
    // Blocks first: most of what is scanned here is the blank end of a preallocated segment.
    let blocks = rest.chunks(4096).take_while(|block| is_zero(block)).count();
    let start = (blocks * 4096).min(rest.len());
    let at = rest[start..].chunks(8).position(|word| word.iter().any(|&b| b != 0))?;
    Some(offset + (start + at * 8) as u64)
}

/// The next word that is not zero, where a writer may be at work.
fn next_written_live(segment: &Segment, offset: u64, limit: u64) -> Option<u64> {
    // ORDERING: Relaxed; says where something is, and nothing about what that is.
    (offset..limit).step_by(8).find(|&at| segment.map.word(at).load(Ordering::Relaxed) != 0)
}

/// Where the next claim stands, behind a range that is reserved and not claimed. At `offset` itself, if
/// that was claimed meanwhile.
fn next_claim(segment: &Segment, offset: u64, limit: u64) -> Option<u64> {
    let mut found = next_written_live(segment, offset, limit)?;
    loop {
        // What was found may be in the body of a frame that was claimed since its place was looked at.
        // ORDERING: Acquire; pairs with the Release fence behind a claim: whoever sees a byte of a body sees
        // the claim before it, and finds that now.
        fence(Ordering::Acquire);
        match next_written_live(segment, offset, found) {
            Some(earlier) => found = earlier,
            None => return Some(found),
        }
    }
}

/// Where a segment ends that a live writer may be at: behind the last range that is claimed.
pub(crate) fn reserved_end(segment: &Segment) -> u64 {
    let (mut at, limit) = (FIRST_FRAME, segment.end());
    while at < limit {
        // ORDERING: Relaxed; only lengths are taken from it.
        let word = segment.map.word(at).load(Ordering::Relaxed);
        match Word::parse(word, limit - at) {
            Ok(Some(word)) => at += word.len,
            Ok(None) => match next_claim(segment, at, limit) {
                Some(next) => at = next,
                None => return at,
            },
            // Damage, which is met again where the frames are looked at.
            Err(_) => return limit,
        }
    }
    at
}

/// The appends that a live writer has not finished before the segment's end, of which some may still
/// be by the deadline.
pub(crate) fn unfinished(segment: &Segment, deadline: Instant) -> Result<Vec<Gap>, Corruption> {
    let (mut at, limit, mut gaps) = (FIRST_FRAME, segment.end(), Vec::new());
    let corrupt = |at, kind| Corruption::at(segment.position(at), kind);
    while at < limit {
        let mut backoff = Backoff::default();
        at += loop {
            let frame = frame_at(segment, at, limit - at).map_err(|kind| corrupt(at, kind))?;
            let len = match frame {
                Some(VerifiedFrame {
                    header: Some(Header { kind: Kind::Batch, value_len, .. }),
                    word,
                    ..
                }) => {
                    check_batch(segment, at, word.len, value_len)?;
                    break word.len;
                }
                Some(VerifiedFrame { word, .. }) if word.state != State::Claimed => break word.len,
                Some(VerifiedFrame { word, .. }) => word.len,
                None => match next_claim(segment, at, limit).unwrap_or(limit) - at {
                    // It was claimed just now.
                    0 => continue,
                    len => len,
                },
            };
            if Instant::now() >= deadline {
                gaps.push(Gap { offset: at, len });
                break len;
            }
            backoff.wait();
        };
    }
    Ok(gaps)
}

/// Bytes from `from` to the last one that is not zero.
pub(crate) fn written(segment: &Segment, from: u64) -> u64 {
    let bytes = &bytes(segment)[from as usize..];
    let Some(block) = bytes.chunks(4096).rposition(|block| !is_zero(block)) else { return 0 };
    let end = bytes.len().min((block + 1) * 4096);
    bytes[..end].iter().rposition(|&b| b != 0).map_or(0, |at| at as u64 + 1)
}

/// Calls `each` with every finished frame of a sealed segment, its offset, and its length; those inside
/// batches included, of which the head is then the frame. All of them are verified. Damage ends it, or
/// is stepped over and noted in `lost`.
pub(crate) fn each_frame<'s>(
    segment: &'s Segment,
    mut lost: Option<&mut Vec<Corruption>>,
    mut each: impl FnMut(u64, u64, &VerifiedFrame<'s>) -> ControlFlow<()>,
) -> Result<(), Corruption> {
    let (mut offset, end) = (FIRST_FRAME, segment.end());
    let mut search = Search::new(segment.salt(), || bytes(segment));
    while offset < end {
        if let Some(gap) = segment.gap_at(offset) {
            offset += gap.len;
            continue;
        }
        let frame = frame_at(segment, offset, end - offset);
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

/// The furthest position that a sync mark at or behind `from` says is durable.
pub(crate) fn durable_mark(segment: &Segment, from: u64) -> Option<LogPosition> {
    let limit = segment.end();
    let bytes = bytes(segment);
    let low = (frame::SYNC_MARK | State::Committed as u64) as u32;
    let mark = Header::plain(Kind::SyncMark, 8).to_word();
    let mut furthest = None;
    let mut at = from;
    while at + frame::SYNC_MARK <= limit {
        let here = u64_at(bytes, at as usize);
        if here == 0 {
            // Over blank stretches in blocks.
            match next_written(segment, at) {
                Some(next) => at = next,
                None => break,
            }
            continue;
        }
        let looks_like_one = here as u32 == low && u64_at(bytes, at as usize + 8) == mark;
        if looks_like_one && matches!(frame_at(segment, at, limit - at), Ok(Some(_))) {
            let position = LogPosition::from_u64(u64_at(bytes, at as usize + 16));
            furthest = furthest.max(Some(position));
        }
        at += 8;
    }
    furthest
}

/// Verifies a sealed segment whole: its frames, and that they are as many as its seal says.
pub(crate) fn verify_sealed(segment: &Segment) -> Result<Scan, Corruption> {
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
