//! Hints: written for sealed segments in the background, read on opening and by merges.
//!
//! A hint is never needed. It is not synced; if it is missing, torn, of another segment or made with
//! another hash, it is ignored and the segment is read instead. A missing hint never means an empty
//! segment.
//!
//! A wrong hint with a valid checksum would do harm: a key that it leaves out would be missing, and a
//! merge might drop the key's tombstone. So a hint must account for each frame that the seal counts,
//! and no data is removed because a hint says so: a merge reads its inputs and compares. What remains
//! assumed is that a hint which passes all of that, and was written by this code, has the right tags;
//! `verify` checks that.

#![allow(unsafe_code, reason = "reads files that nobody writes to any more")]

use crate::error::{Corruption, CorruptionKind};
use crate::format::frame::Kind;
use crate::format::header::{FIRST_FRAME, SEAL};
use crate::format::hint::{self, Census, Expiring, HintEntries, HintEntry, SortedEntries, Subject};
use crate::format::record::RecordHead;
use crate::keydir::Keydir;
use crate::segment::frames::VerifiedFrame;
use crate::segment::quiet::QuietSegment;
use crate::segment::scan::each_frame;
use crate::segment::{Segment, hint_name};
use crate::storage::map::Map;
use crate::storage::{Access, Storage};
use std::ops::{ControlFlow, Range};

/// The content of a hint.
#[derive(Debug)]
pub(super) enum Listing {
    Hint(Map),
    Read(Vec<HintEntry>),
}

/// Its entries.
#[derive(Clone, Copy, Debug)]
pub(super) enum ListingView<'l> {
    Hint(HintEntries<'l>),
    Read(&'l [HintEntry]),
}

impl SortedEntries for ListingView<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Hint(entries) => entries.len(),
            Self::Read(entries) => entries.len(),
        }
    }

    #[inline]
    fn get(&self, nth: usize) -> HintEntry {
        match self {
            Self::Hint(entries) => entries.get(nth),
            Self::Read(entries) => entries[nth],
        }
    }
}

impl Listing {
    pub(super) fn view(&self) -> ListingView<'_> {
        match self {
            Self::Hint(map) => ListingView::Hint(entries(map)),
            Self::Read(all) => ListingView::Read(all),
        }
    }

    /// Bytes that merges had reclaimed when the segment's tombstones were last checked, as far as is
    /// known.
    pub(super) fn reclaimed_then(&self) -> u64 {
        match self {
            Self::Hint(map) => hint::reclaimed_then(bytes(map)),
            Self::Read(_) => 0,
        }
    }
}

fn bytes(map: &Map) -> &[u8] {
    // SAFETY: hints are written under a temporary name, and never after they got their own.
    unsafe { map.slice(0, map.len() as u64) }
}

fn entries(map: &Map) -> HintEntries<'_> {
    hint::entries(bytes(map))
}

fn subject(keydir: &Keydir, segment: &Segment) -> Subject {
    let (id, salt, end) = (segment.id(), segment.salt(), segment.end());
    let (frames, merged) =
        (segment.load_seal().map_or(0, |seal| seal.frames), segment.header.merged);
    Subject {
        id,
        salt,
        end,
        frames,
        merged,
        fingerprint: keydir.fingerprint(),
        reclaimed_then: segment.reclaimed_then.get(),
    }
}

/// The content of a segment's hint, if it has a valid one.
pub(super) fn read(
    storage: &dyn Storage,
    keydir: &Keydir,
    segment: &Segment,
) -> Option<(Census, Listing)> {
    let map = storage.open(&hint_name(segment.id()), Access::Read).ok()?.map;
    let sound = hint::decode(bytes(&map), subject(keydir, segment));
    // Tags computed from frames are evenly spread; those in a file may be chosen so that opening takes
    // longer than reading the segment.
    let by_chance =
        |entries: &HintEntries<'_>| entries.most_of_a_tag() <= keydir.most_of_a_tag(entries.len());
    let census = sound.filter(|(_, entries)| by_chance(entries)).map(|(census, _)| census);
    if census.is_none() {
        tracing::warn!(segment = segment.id(), "a hint is invalid: its segment is read");
    }
    Some((census?, Listing::Hint(map)))
}

/// Writes a segment's hint. A failure only makes the next open slower.
pub(super) fn write(
    storage: &dyn Storage,
    keydir: &Keydir,
    segment: &Segment,
    census: &Census,
    entries: &[HintEntry],
) {
    let bytes = hint::encode(subject(keydir, segment), census, entries);
    let (id, name) = (segment.id(), hint_name(segment.id()));
    match storage.publish(&name, &bytes) {
        Ok(()) => tracing::debug!(segment = id, keys = entries.len(), "wrote a hint"),
        Err(error) => tracing::warn!(segment = id, %error, "could not write a hint"),
    }
}

/// Gathers the content of a segment's hint, frame by frame.
#[derive(Debug, Default)]
pub(super) struct SummaryBuilder {
    census: Census,
    entries: Vec<HintEntry>,
    expiring: Vec<(u64, u64)>,
    /// Number of frames added.
    frames: u64,
    /// The end of the last batch.
    batch_end: u64,
    /// Where the next frame should begin.
    next: u64,
    gaps: Vec<Range<u64>>,
}

/// The content of a segment, read from its frames.
#[derive(Debug)]
pub(super) struct SegmentSummary {
    pub(super) census: Census,
    pub(super) entries: Vec<HintEntry>,
    /// Damaged ranges.
    pub(super) gaps: Vec<Range<u64>>,
}

impl SummaryBuilder {
    pub(super) fn new() -> Self {
        let census = Census { oldest: u64::MAX, ..Census::default() };
        Self { census, next: FIRST_FRAME, ..Self::default() }
    }

    /// Adds the next frame of a segment, and returns the tag of its key, if it has one.
    pub(super) fn add(
        &mut self,
        keydir: &Keydir,
        segment: &Segment,
        offset: u64,
        len: u64,
        frame: &VerifiedFrame<'_>,
    ) -> Option<u32> {
        if let Some(record) = frame.record() {
            return Some(self.add_record(keydir, segment, offset, len, &record));
        }
        let kind = frame.header.map(|header| header.kind);
        self.add_other(offset, len, kind);
        if kind == Some(Kind::Batch) {
            self.batch_end = offset + frame.word.len;
        }
        None
    }

    /// As `add`, for a frame with a key.
    pub(super) fn add_record(
        &mut self,
        keydir: &Keydir,
        segment: &Segment,
        offset: u64,
        len: u64,
        record: &RecordHead<'_>,
    ) -> u32 {
        self.count(offset, len);
        let tombstone = !record.is_put();
        self.census.tombstones += if tombstone { len } else { 0 };
        let origin = segment.origin_of(offset, record);
        self.census.oldest = self.census.oldest.min(origin.as_u64());
        if let Some(expiry) = record.expiry() {
            self.expiring.push((expiry, len));
        }
        let tag = keydir.tag(record.key());
        self.entries.push(HintEntry::new(tag, offset, tombstone));
        tag
    }

    /// As `add`, for a frame without a key. Without a kind it is a pad or a void.
    pub(super) fn add_other(&mut self, offset: u64, len: u64, kind: Option<Kind>) {
        self.count(offset, len);
        self.census.plain |= kind == Some(Kind::Entry);
        if kind != Some(Kind::Inputs) {
            self.census.keyless += len;
        }
    }

    fn count(&mut self, offset: u64, len: u64) {
        self.frames += 1;
        self.census.inner += u64::from(offset < self.batch_end);
        if offset > self.next {
            self.gaps.push(self.next..offset);
        }
        self.next = offset + len;
    }

    /// The result: the sorted entries; for a log segment only the newest of each key.
    pub(super) fn finish(mut self, segment: &Segment) -> SegmentSummary {
        self.census.expiring = Expiring::of(&mut self.expiring);
        self.entries.sort_unstable();
        // In a merged segment the later frame need not be the newer one.
        if !segment.header.merged {
            let newest = newest_of_each(segment, &self.entries, &mut self.census.superseded);
            self.entries = newest;
        }
        if self.next < segment.end() {
            self.gaps.push(self.next..segment.end());
        }
        let (mut census, entries) = (self.census, self.entries);
        census.unlisted = self.frames - entries.len() as u64;
        census.count(entries.iter().copied());
        SegmentSummary { census, entries, gaps: self.gaps }
    }
}

/// Drops the entries whose key has a later one in the segment, and counts the puts among them. Entries
/// with one tag are sorted by their keys: comparing each with each would take time quadratic in their
/// number.
fn newest_of_each(
    segment: &Segment,
    entries: &[HintEntry],
    superseded: &mut u64,
) -> Vec<HintEntry> {
    // SAFETY: entries name frames that were verified, and so committed.
    let record = |entry: HintEntry| unsafe { segment.record_head(entry.offset()) };
    let key = |entry: HintEntry| record(entry).map(|record| record.key());
    let mut newest = Vec::with_capacity(entries.len());
    let mut sorted = Vec::new();
    for same_tag in entries.chunk_by(|a, b| a.tag() == b.tag()) {
        if let [only] = same_tag {
            newest.push(*only);
            continue;
        }
        let first = newest.len();
        sorted.clear();
        sorted.extend(same_tag);
        // Stable: those of one key stay in the order of their offsets.
        sorted.sort_by_key(|&entry| key(entry));
        for same_key in sorted.chunk_by(|&a, &b| key(a) == key(b)) {
            let (&last, older) = same_key.split_last().expect("chunks are not empty");
            newest.push(last);
            let puts = older.iter().filter(|entry| !entry.is_tombstone());
            *superseded += puts.map(|put| segment.frame_len(put.offset())).sum::<u64>();
        }
        newest[first..].sort_unstable();
    }
    newest
}

/// Whether the scan found all frames that the seal counts.
pub(super) fn check_count(segment: &Segment, census: &Census) -> Result<(), Corruption> {
    if !segment.is_sealed() || !segment.gaps.is_empty() {
        // Its seal, if its writer has sealed it since, counts frames that are not read here.
        return Ok(());
    }
    let found = (census.entries + census.unlisted).saturating_sub(census.inner);
    match segment.load_seal() {
        Some(seal) if seal.frames != found => {
            let kind = CorruptionKind::Frames { expected: seal.frames, found };
            Err(Corruption { segment: segment.id(), offset: SEAL, kind })
        }
        _ => Ok(()),
    }
}

/// Compares what the keydir was loaded from with the segment. The error names the first frame that the
/// hint did not describe correctly.
pub(super) fn compare(
    storage: &dyn Storage,
    keydir: &Keydir,
    segment: &Segment,
    found: &SegmentSummary,
) -> Result<(), Corruption> {
    match segment.census.get() {
        Some(relied) if *relied != found.census => {
            let hint = read(storage, keydir, segment).map(|(_, listing)| listing);
            Err(difference(segment, hint, found))
        }
        _ => Ok(()),
    }
}

/// As `compare`, and also checks the present hint, on which the next open will rely.
pub(super) fn compare_all(
    storage: &dyn Storage,
    keydir: &Keydir,
    segment: &Segment,
    found: &SegmentSummary,
) -> Result<(), Corruption> {
    compare(storage, keydir, segment, found)?;
    match read(storage, keydir, segment) {
        Some((hinted, listing)) if hinted != found.census => {
            Err(difference(segment, Some(listing), found))
        }
        _ => Ok(()),
    }
}

fn difference(segment: &Segment, hint: Option<Listing>, found: &SegmentSummary) -> Corruption {
    let listed: Vec<_> =
        hint.iter().flat_map(|hint| hint.view().iter().collect::<Vec<_>>()).collect();
    let differs = |these: &[HintEntry], those: &[HintEntry]| {
        these
            .iter()
            .filter(|entry| those.binary_search(entry).is_err())
            .map(|entry| entry.offset())
            .min()
    };
    let places = [differs(&found.entries, &listed), differs(&listed, &found.entries)];
    let offset = places.into_iter().flatten().min().unwrap_or(FIRST_FRAME);
    Corruption { segment: segment.id(), offset, kind: CorruptionKind::Hint }
}

/// Reads a sealed segment. Damage is an error, or is skipped and listed in `lost`.
pub(super) fn summarize(
    keydir: &Keydir,
    segment: &Segment,
    mut lost: Option<&mut Vec<Corruption>>,
) -> Result<SegmentSummary, Corruption> {
    let mut gather = SummaryBuilder::new();
    each_frame(QuietSegment::of(segment), lost.as_deref_mut(), |offset, len, frame| {
        gather.add(keydir, segment, offset, len, frame);
        ControlFlow::Continue(())
    })?;
    let found = gather.finish(segment);
    match (check_count(segment, &found.census), lost) {
        (Err(damage), Some(lost)) if lost.is_empty() => lost.push(damage),
        (counted, None) => counted?,
        _ => {}
    }
    Ok(found)
}
