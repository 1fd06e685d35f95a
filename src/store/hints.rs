//! Hints: written for sealed segments in the background, read on opening and by merges.
//!
//! A hint is never needed. It is not synced; if it is missing, torn, of another segment or made with
//! another hash, it is ignored and the segment is read instead. A missing hint never means an empty
//! segment.
//!
//! Hints are trusted as the MANIFEST is: opening reads no frame where there is one. A wrong hint with a
//! valid checksum would do harm: a key that it leaves out would be missing, and a merge might drop the
//! key's tombstone. So a hint must account for each frame that the seal counts, and no data is removed
//! because a hint says so: a merge reads its inputs and compares. A get compares the key in the frame,
//! and if a slot's frame has a key that the slot cannot be of, that is an error, not an absent key. What
//! remains assumed is that a hint which passes all of that, and was written by this code, is right;
//! `verify` checks that.

#![allow(unsafe_code, reason = "reads files that nobody writes to any more")]

use crate::error::{Corruption, CorruptionKind};
use crate::format::frame::Kind;
use crate::format::header::{FIRST_FRAME, SEAL};
use crate::format::hint::{
    self, Census, EntryFlags, Expiring, HintEntries, HintEntry, HintIndex, HintWalk, KeyName,
    Listed, Subject,
};
use crate::format::record::RecordHead;
use crate::keydir::Keydir;
use crate::segment::frames::VerifiedFrame;
use crate::segment::quiet::QuietSegment;
use crate::segment::scan::each_frame;
use crate::segment::{Segment, hint_name};
use crate::storage::map::Map;
use crate::storage::{Access, Storage};
use crate::sync::{Mutex, lock};
use std::ops::{ControlFlow, Range};

/// The content of a hint.
#[derive(Debug)]
pub(super) enum Listing {
    Hint(HintMap),
    Read(Vec<HintEntry>),
}

/// A hint, mapped.
#[derive(Debug)]
pub(crate) struct HintMap {
    map: Map,
    subject: Subject,
    /// The bits that tags have, and how many entries may share one.
    tag_mask: u32,
    most_of_a_tag: usize,
    /// The kernel was asked for what is before this.
    asked: Mutex<usize>,
}

/// Bytes of a hint that the kernel is asked for at a time, at least: fewer are read more slowly.
const PIECE: usize = 1 << 20;

/// Names may be spread so unevenly, by chance, that an entry is this far from where it is expected.
const UNEVEN: usize = 64 << 10;

impl HintMap {
    fn open(storage: &dyn Storage, keydir: &Keydir, segment: &Segment) -> Option<Self> {
        let map = storage.open(&hint_name(segment.id()), Access::Read).ok()?.map;
        let (subject, tag_mask) = (subject(keydir, segment), keydir.tag_mask());
        Some(Self { map, subject, tag_mask, most_of_a_tag: 0, asked: Mutex::new(0) })
    }

    /// As `open`, to have its entries read front to back; its beginning is asked for.
    ///
    /// Of many hints, each asks for a piece at another time than its neighbours, as the first pieces have
    /// different lengths.
    pub(super) fn open_ahead(
        storage: &dyn Storage,
        keydir: &Keydir,
        segment: &Segment,
    ) -> Option<Self> {
        let this = Self::open(storage, keydir, segment)?;
        let first = PIECE / 8 * (segment.id() as usize % 8 + 1);
        this.map.will_need(0, first as u64);
        *lock(&this.asked) = first;
        Some(this)
    }

    /// Has the kernel begin to read the entries whose names begin below `end`, and some more. To be called
    /// with higher names each time.
    pub(super) fn ask_for(&self, end: Option<u64>) {
        let (len, wanted) = self.entries().estimate(end);
        let mut asked = lock(&self.asked);
        if *asked < (wanted + UNEVEN).min(len) {
            let to = (wanted + UNEVEN + PIECE).min(len);
            self.map.will_need(*asked as u64, to as u64);
            *asked = to;
        }
    }

    /// Checks its head, and nothing else, and returns what that says.
    pub(super) fn check_head(mut self, keydir: &Keydir) -> Option<(Census, Self)> {
        let (census, entries) = hint::decode_head(self.bytes(), &self.subject)?;
        // Names computed from frames are evenly spread; those in a file may be chosen so that many keys
        // share a tag.
        self.most_of_a_tag = keydir.most_of_a_tag(entries.len());
        Some((census, self))
    }

    /// Begins to go through the entries from one on, the first one whose name begins with this or more.
    pub(super) fn walk(&self, from: usize, floor: u64) -> HintWalk {
        self.entries().walk(from, floor)
    }

    /// Goes on to the entries whose names begin below `end`, and checks them. `None`: they are not sound.
    #[inline]
    pub(super) fn each_below(
        &self,
        walk: &mut HintWalk,
        end: Option<u64>,
        each: impl FnMut(HintEntry),
    ) -> Option<()> {
        let entries = self.entries();
        entries.each_below(&self.subject, self.tag_mask, walk, end, |_| {}, each)?;
        (walk.listed.most_of_a_tag <= self.most_of_a_tag).then_some(())
    }

    /// The bytes that a walk reads next, to be prefetched.
    #[inline]
    pub(super) fn bytes_from(&self, walk: &HintWalk) -> &[u8] {
        self.entries().bytes_from(walk)
    }

    /// What its head says, completed by what walks have found, if together they have found it sound.
    pub(super) fn complete(&self, census: Census, listed: &Listed) -> Option<Census> {
        census.complete(&self.subject, listed)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: hints are written under a temporary name, and never after they got their own.
        unsafe { self.map.slice(0, self.map.len() as u64) }
    }

    /// Its entries: those of one that was found valid.
    fn entries(&self) -> HintEntries<'_> {
        hint::entries(self.bytes(), self.subject.id, self.subject.merged)
    }

    /// To ask it for single names; `None` if it is not the hint that the census is from.
    pub(super) fn index(&self, census: &Census) -> Option<HintIndex<'_>> {
        HintIndex::open(self.bytes(), self.subject, census)
    }
}

/// The entries of a listing.
#[derive(Clone, Copy, Debug)]
pub(super) enum ListingView<'l> {
    Hint(HintEntries<'l>),
    Read(&'l [HintEntry]),
}

impl<'l> ListingView<'l> {
    pub(super) const fn len(&self) -> usize {
        match self {
            Self::Hint(entries) => entries.len(),
            Self::Read(entries) => entries.len(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = HintEntry> + use<'l> {
        let (hinted, read) = match *self {
            Self::Hint(entries) => (Some(entries.iter()), &[][..]),
            Self::Read(entries) => (None, entries),
        };
        hinted.into_iter().flatten().chain(read.iter().copied())
    }

    #[inline]
    pub(super) fn first_half(&self, nth: usize) -> u64 {
        match self {
            Self::Hint(entries) => entries.first_half(nth),
            Self::Read(entries) => entries[nth].name.first,
        }
    }
}

impl Listing {
    pub(super) fn view(&self) -> ListingView<'_> {
        match self {
            Self::Hint(hint) => ListingView::Hint(hint.entries()),
            Self::Read(all) => ListingView::Read(all),
        }
    }

    /// Bytes that merges had reclaimed when the segment's tombstones were last checked, as far as is
    /// known.
    pub(super) fn reclaimed_then(&self) -> u64 {
        match self {
            Self::Hint(hint) => hint::reclaimed_then(hint.bytes()),
            Self::Read(_) => 0,
        }
    }
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

/// Bytes of a hint that the kernel is asked to read ahead of those that are read, and at first.
const READ_AHEAD: usize = 4 << 20;
const FIRST_READ: usize = 4 * READ_AHEAD;

/// The content of a segment's hint, if it has a valid one.
pub(super) fn read(
    storage: &dyn Storage,
    keydir: &Keydir,
    segment: &Segment,
) -> Option<(Census, Listing)> {
    let hint = HintMap::open(storage, keydir, segment)?;
    let read_ahead = |at: usize| {
        if at.is_multiple_of(READ_AHEAD) {
            hint.map.will_need(at as u64, (at + FIRST_READ) as u64);
        }
    };
    let decoded = hint::decode(hint.bytes(), hint.subject, keydir.tag_mask(), read_ahead);
    let decoded =
        decoded.filter(|found| found.most_of_a_tag <= keydir.most_of_a_tag(found.entries.len()));
    let census = decoded.map(|found| found.census);
    if census.is_none() {
        warn_of(segment);
    }
    Some((census?, Listing::Hint(hint)))
}

pub(super) fn warn_of(segment: &Segment) {
    tracing::warn!(segment = segment.id(), "a hint is invalid: its segment is read");
}

/// Opens the hint of a segment, to ask it for single names.
pub(super) fn open_index(
    storage: &dyn Storage,
    keydir: &Keydir,
    segment: &Segment,
) -> Option<HintMap> {
    let hint = HintMap::open(storage, keydir, segment)?;
    hint.map.expect_scattered(true);
    Some(hint)
}

/// Writes a segment's hint. A failure only makes the next open slower. If memory is tight, it does not stay
/// there: nothing reads it soon.
pub(super) fn write(
    storage: &dyn Storage,
    keydir: &Keydir,
    segment: &Segment,
    census: &Census,
    entries: &[HintEntry],
    is_tight: bool,
) {
    let bytes = hint::encode(subject(keydir, segment), census, entries);
    let (id, name) = (segment.id(), hint_name(segment.id()));
    match storage.publish(&name, &bytes) {
        Ok(()) => tracing::debug!(segment = id, keys = entries.len(), "wrote a hint"),
        Err(error) => tracing::warn!(segment = id, %error, "could not write a hint"),
    }
    if is_tight && let Err(error) = storage.leave_memory(&name) {
        tracing::debug!(segment = id, %error, "the hint stays in memory");
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

    /// Adds the next frame of a segment, and returns the name of its key, if it has one.
    pub(super) fn add(
        &mut self,
        keydir: &Keydir,
        segment: &Segment,
        offset: u64,
        len: u64,
        frame: &VerifiedFrame<'_>,
    ) -> Option<KeyName> {
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
    ) -> KeyName {
        self.count(offset, len);
        let tombstone = !record.is_put();
        self.census.tombstones += if tombstone { len } else { 0 };
        let origin = segment.origin_of(offset, record);
        self.census.oldest = self.census.oldest.min(origin.as_u64());
        if let Some(expiry) = record.expiry() {
            self.expiring.push((expiry, len));
        }
        let (name, expires) = (keydir.name(record.key()), record.expiry().is_some());
        let flags = EntryFlags { tombstone, expires };
        self.entries.push(HintEntry::new(name, origin, offset, len, flags));
        name
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
            self.census.superseded = keep_newest(&mut self.entries);
        }
        if self.next < segment.end() {
            self.gaps.push(self.next..segment.end());
        }
        let (mut census, entries) = (self.census, self.entries);
        census.unlisted = self.frames - entries.len() as u64;
        census.count(&entries);
        SegmentSummary { census, entries, gaps: self.gaps }
    }
}

/// Drops the entries whose key has a later one, and returns the bytes of the puts among them. The
/// entries are sorted.
fn keep_newest(entries: &mut Vec<HintEntry>) -> u64 {
    let mut superseded = 0;
    entries.dedup_by(|later, kept| {
        let same = later.name == kept.name;
        if same {
            superseded += if kept.is_tombstone() { 0 } else { kept.len() };
            *kept = *later;
        }
        same
    });
    superseded
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
            .map(HintEntry::offset)
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
