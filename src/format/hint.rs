//! The hint of a sealed segment: the tags and offsets of its keys, so that a store opens without
//! reading the frames, and a census of its frames for merging.
//!
//! A checksum says that a hint is unchanged, not that it was right. What can be checked without the
//! frames is checked: every frame that the seal counts is either listed or counted as not listed.
//!
//! ```text
//!   0  u64  magic "tchint\n\0"
//!   8  u32  format version
//!  12  u32  id of the segment
//!  16  u64  its salt
//!  24  u64  its end
//!  32  u64  fingerprint of the hash that made the tags
//!  40  u64  bytes of frames without a key
//!  48  u64  bytes of puts that no entry names: a later frame in the segment has their key
//!  56  u64  bytes of tombstones
//!  64  u64  the lowest position that a frame in it was written at
//!  72  u64  bytes of puts that expire, and the times by which a quarter, half, three quarters and
//!  80  4 u64  all of those bytes have
//! 112  u32  flags; 1: entries of the log are in the segment
//! 116  u32  reserved, zero
//! 120  u64  frames, as the seal has it: those inside batches not counted
//! 128  u64  frames that no entry names, those inside batches included
//! 136  u64  frames inside batches
//! 144  u64  bytes that merges had reclaimed, over the store's life, when it was written
//! 152  u64  entries, in order: tag in the high half, offset in the low one, of which bit 0 says
//!           tombstone; the newest frame for each key
//!      u32  CRC-32 of everything before it
//! ```

use super::{u32_at, u64_at};

const MAGIC: u64 = u64::from_le_bytes(*b"tchint\n\0");
const VERSION: u32 = 2;
const HEAD: usize = 152;
const HEAD_1: usize = 120;
/// More bytes than a store ever reclaims.
const MAX_RECLAIMED: u64 = 1 << 62;
/// The shortest frame with a key.
const MIN_RECORD: u64 = 24;
const HAS_ENTRIES: u32 = 1;

/// The counts of a segment's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Bytes of frames without a key: pads, sync marks, heads of batches, entries of the log.
    pub(crate) keyless: u64,
    /// Bytes of puts whose key has a later frame in the same segment.
    pub(crate) superseded: u64,
    /// Bytes of tombstones.
    pub(crate) tombstones: u64,
    /// The lowest origin of a frame in it; the highest possible position if it has no frame with a key.
    pub(crate) oldest: u64,
    pub(crate) expiring: Expiring,
    /// Whether it holds entries of the log, which must stay where they are.
    pub(crate) plain: bool,
    /// Frames that the hint does not list.
    pub(crate) unlisted: u64,
    /// Frames inside batches.
    pub(crate) inner: u64,
    /// Number of entries in the hint, and a sum that tells them apart from other entries.
    pub(crate) entries: u64,
    pub(crate) digest: u64,
}

impl Census {
    /// Counts the entries and sums them up.
    pub(crate) fn count(&mut self, entries: impl ExactSizeIterator<Item = HintEntry>) {
        self.entries = entries.len() as u64;
        self.digest = entries.fold(0, |sum, entry| sum.wrapping_add(mix(entry.0)));
    }

    /// Whether these counts are possible for a segment.
    fn is_possible(&self, subject: &Subject) -> bool {
        let room = subject.end.saturating_sub(super::header::FIRST_FRAME);
        let parts = [self.keyless, self.superseded, self.tombstones];
        let used = parts.into_iter().fold(0, u64::saturating_add);
        let frames = self.entries.checked_add(self.unlisted);
        used <= room
            && self.expiring.bytes <= room
            && self.entries <= room / MIN_RECORD
            && frames.is_some()
            && frames == subject.frames.checked_add(self.inner)
            && self.oldest_is_possible(subject)
    }

    /// Frames of a log segment are where they were first written, those of a merged one were written
    /// before it.
    fn oldest_is_possible(&self, subject: &Subject) -> bool {
        let place = |offset: u64| u64::from(subject.id) << 32 | offset;
        match self.oldest {
            // Older frames with the same keys may be unlisted, the newest not.
            u64::MAX => self.entries == 0,
            oldest if subject.merged => oldest < place(0),
            oldest => (place(super::header::FIRST_FRAME)..place(subject.end)).contains(&oldest),
        }
    }
}

/// Spreads an entry over 64 bits.
const fn mix(entry: u64) -> u64 {
    let mixed = (entry ^ entry >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// When the puts with an expiry expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expiring {
    pub(crate) bytes: u64,
    /// Milliseconds since 1970 at which each quarter of the bytes has expired.
    pub(crate) by: [u64; 4],
}

impl Expiring {
    /// From the expiry and the length of each put, which this sorts.
    pub(crate) fn of(puts: &mut [(u64, u64)]) -> Self {
        puts.sort_unstable();
        let bytes: u64 = puts.iter().map(|(_, len)| len).sum();
        let (mut by, mut seen) = ([0; 4], 0);
        for &(expiry, len) in puts.iter() {
            seen += len;
            // The first quarter that has not expired completely, and the later ones, last at least
            // until this time.
            let from = ((seen - len) * 4).checked_div(bytes).unwrap_or(0) as usize;
            by[from.min(3)..].fill(expiry);
        }
        Self { bytes, by }
    }

    /// Estimates the bytes that have expired.
    pub(crate) fn expired(&self, now: u64) -> u64 {
        let quarters = self.by.iter().filter(|&&by| by <= now).count() as u64;
        // As read from a hint, whose numbers may be arbitrary.
        (u128::from(self.bytes) * u128::from(quarters) / 4) as u64
    }
}

/// The segment that a hint must describe, and the hash of its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) id: u32,
    pub(crate) salt: u64,
    pub(crate) end: u64,
    /// Number of frames, from the seal.
    pub(crate) frames: u64,
    pub(crate) merged: bool,
    pub(crate) fingerprint: u64,
    /// Bytes that merges had reclaimed when the hint was written. Not compared: read from the hint.
    pub(crate) reclaimed_then: u64,
}

/// Encodes a hint. The entries must be sorted.
pub(crate) fn encode(subject: Subject, census: &Census, entries: &[HintEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + entries.len() * 8 + 4);
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(subject.id.to_le_bytes());
    let expiring = census.expiring;
    let words = [subject.salt, subject.end, subject.fingerprint, census.keyless];
    bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
    let words = [census.superseded, census.tombstones, census.oldest, expiring.bytes];
    bytes.extend(words.into_iter().chain(expiring.by).flat_map(u64::to_le_bytes));
    bytes.extend(u64::from(if census.plain { HAS_ENTRIES } else { 0 }).to_le_bytes());
    let words = [subject.frames, census.unlisted, census.inner, subject.reclaimed_then];
    bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
    bytes.extend(entries.iter().flat_map(|entry| entry.0.to_le_bytes()));
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

/// Decodes a hint: its census and entries, if it is a valid one of this segment.
pub(crate) fn decode(bytes: &[u8], subject: Subject) -> Option<(Census, HintEntries<'_>)> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    let (head, entries) = content.split_at_checked(HEAD)?;
    let (entries, rest) = entries.as_chunks::<8>();
    let found = Subject {
        id: u32_at(head, 12),
        salt: u64_at(head, 16),
        end: u64_at(head, 24),
        frames: u64_at(head, 120),
        merged: subject.merged,
        fingerprint: u64_at(head, 32),
        reclaimed_then: subject.reclaimed_then,
    };
    let known = u64_at(head, 0) == MAGIC && u32_at(head, 8) == VERSION && found == subject;
    if !known || !rest.is_empty() || u32::from_le_bytes(*crc) != crc32fast::hash(content) {
        return None;
    }
    let by = std::array::from_fn(|quarter| u64_at(head, 80 + quarter * 8));
    let mut census = Census {
        keyless: u64_at(head, 40),
        superseded: u64_at(head, 48),
        tombstones: u64_at(head, 56),
        oldest: u64_at(head, 64),
        expiring: Expiring { bytes: u64_at(head, 72), by },
        plain: u32_at(head, 112) & HAS_ENTRIES != 0,
        unlisted: u64_at(head, 128),
        inner: u64_at(head, 136),
        ..Census::default()
    };
    let entries = HintEntries(entries);
    census.count(entries.iter());
    let sound = census.is_possible(&subject)
        && entries.are_sound(subject.end)
        && u64_at(head, 144) <= MAX_RECLAIMED;
    sound.then_some((census, entries))
}

/// Bytes that merges had reclaimed when the hint was written. `decode` has accepted it.
pub(crate) fn reclaimed_then(bytes: &[u8]) -> u64 {
    u64_at(bytes, 144)
}

/// What a hint says of itself, unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LooseSubject {
    pub(crate) id: u32,
    pub(crate) salt: u64,
    pub(crate) end: u64,
    pub(crate) fingerprint: u64,
    pub(crate) plain: bool,
}

/// As `decode`, without knowing which segment the hint should describe. Only for reports; also accepts
/// version 1.
pub(crate) fn decode_loosely(bytes: &[u8]) -> Option<(LooseSubject, HintEntries<'_>)> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    // Version 1 counted no frames, and used another hash.
    let version = u32_at(content, 8);
    let (head, entries) = content.split_at_checked(if version == 1 { HEAD_1 } else { HEAD })?;
    let (entries, rest) = entries.as_chunks::<8>();
    let loose = LooseSubject {
        id: u32_at(head, 12),
        salt: u64_at(head, 16),
        end: u64_at(head, 24),
        fingerprint: u64_at(head, 32),
        plain: u32_at(head, 112) & HAS_ENTRIES != 0,
    };
    let known = u64_at(head, 0) == MAGIC && matches!(version, 1 | VERSION) && rest.is_empty();
    let sound = known && u32::from_le_bytes(*crc) == crc32fast::hash(content);
    let entries = HintEntries(entries);
    (sound && entries.are_sound(loose.end)).then_some((loose, entries))
}

/// The entries of a hint that `decode` has accepted.
pub(crate) fn entries(bytes: &[u8]) -> HintEntries<'_> {
    let end = bytes.len().saturating_sub(4);
    HintEntries(bytes.get(HEAD..end).unwrap_or_default().as_chunks().0)
}

/// An entry of a hint: the tag of a key, the offset of its record, and whether that is a tombstone.
/// Ordered by tag, then by offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HintEntry(u64);

impl HintEntry {
    /// The lowest bit of an offset is free, since offsets are multiples of 8.
    const TOMBSTONE: u64 = 1;
    /// Bytes of an entry in a hint.
    pub(crate) const LEN: u64 = 8;

    #[inline]
    pub(crate) fn new(tag: u32, offset: u64, tombstone: bool) -> Self {
        let mark = if tombstone { Self::TOMBSTONE } else { 0 };
        Self(u64::from(tag) << 32 | offset | mark)
    }

    #[inline]
    pub(crate) const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    pub(crate) const fn offset(self) -> u64 {
        self.0 & 0xffff_ffff & !Self::TOMBSTONE
    }

    #[inline]
    pub(crate) const fn is_tombstone(self) -> bool {
        self.0 & Self::TOMBSTONE != 0
    }
}

/// Sorted entries, in memory or in the bytes of a hint.
pub(crate) trait SortedEntries {
    fn len(&self) -> usize;

    fn get(&self, nth: usize) -> HintEntry;

    fn iter(&self) -> impl ExactSizeIterator<Item = HintEntry> + '_ {
        (0..self.len()).map(|nth| self.get(nth))
    }

    /// Whether a put has the tag.
    fn has_put(&self, tag: u32) -> bool {
        let (mut first, mut end) = (0, self.len());
        while first < end {
            let middle = first + (end - first) / 2;
            if self.get(middle).tag() < tag {
                first = middle + 1;
            } else {
                end = middle;
            }
        }
        let same_tag = (first..self.len()).map(|nth| self.get(nth));
        same_tag.take_while(|entry| entry.tag() == tag).any(|entry| !entry.is_tombstone())
    }
}

impl SortedEntries for [HintEntry] {
    fn len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn get(&self, nth: usize) -> HintEntry {
        self[nth]
    }
}

/// The entries in the bytes of a hint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HintEntries<'a>(&'a [[u8; HintEntry::LEN as usize]]);

impl SortedEntries for HintEntries<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn get(&self, nth: usize) -> HintEntry {
        HintEntry(u64::from_le_bytes(self.0[nth]))
    }
}

impl HintEntries<'_> {
    fn are_sound(&self, end: u64) -> bool {
        let is_place = |offset: u64| {
            offset.is_multiple_of(8) && (super::header::FIRST_FRAME..end).contains(&offset)
        };
        let key = |entry: HintEntry| (entry.tag(), entry.offset());
        self.iter().is_sorted_by(|&a, &b| key(a) < key(b))
            && self.iter().all(|entry| is_place(entry.offset()))
    }

    /// How many entries have the most frequent tag.
    pub(crate) fn most_of_a_tag(&self) -> usize {
        let (mut most, mut count, mut last) = (0, 0, None);
        for entry in self.iter() {
            let tag = Some(entry.tag());
            count = if last == tag { count + 1 } else { 1 };
            (most, last) = (most.max(count), tag);
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject = Subject {
        id: 7,
        salt: 99,
        end: 4096,
        frames: 5,
        merged: false,
        fingerprint: 5,
        reclaimed_then: 77,
    };
    /// Two frames are not listed, and two of all frames are inside a batch.
    fn census(entries: &[HintEntry]) -> Census {
        let expiring = Expiring { bytes: 80, by: [1, 2, 3, 4] };
        let (keyless, superseded, tombstones) = (10, 20, 30);
        let oldest = if entries.is_empty() { u64::MAX } else { 7 << 32 | 128 };
        let (inner, unlisted) = (2, 7 - entries.len() as u64);
        let (plain, entries_are) = (true, entries.iter().copied());
        let census =
            Census { keyless, superseded, tombstones, oldest, expiring, ..Census::default() };
        let mut census = Census { plain, unlisted, inner, ..census };
        census.count(entries_are);
        census
    }

    #[test]
    fn golden_bytes_and_every_flipped_bit() {
        let entries = [(1, 128, false), (1, 144, true), (9, 256, false)]
            .map(|(tag, offset, tombstone)| HintEntry::new(tag, offset, tombstone));
        let good = encode(SUBJECT, &census(&entries), &entries);
        assert_eq!(&good[..16], b"tchint\n\0\x02\0\0\0\x07\0\0\0");
        assert_eq!(&good[152..160], &[128, 0, 0, 0, 1, 0, 0, 0]);
        let (found, listed) = decode(&good, SUBJECT).unwrap();
        assert_eq!(found, census(&entries));
        assert!(listed.iter().eq(entries));
        assert_eq!(reclaimed_then(&good), 77);
        assert!(listed.has_put(1) && listed.has_put(9) && !listed.has_put(2));
        assert_eq!(listed.most_of_a_tag(), 2);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes, SUBJECT).is_none(), "bit {bit}");
        }
        (0..good.len()).for_each(|len| assert!(decode(&good[..len], SUBJECT).is_none()));
    }

    #[test]
    fn a_hint_of_another_segment_or_hash_is_refused() {
        let good = encode(SUBJECT, &census(&[]), &[]);
        assert!(decode(&good, SUBJECT).is_some());
        for other in [
            Subject { frames: 6, ..SUBJECT },
            Subject { id: 8, ..SUBJECT },
            Subject { salt: 1, ..SUBJECT },
            Subject { end: 4104, ..SUBJECT },
            Subject { fingerprint: 6, ..SUBJECT },
        ] {
            assert!(decode(&good, other).is_none());
        }
    }

    #[test]
    fn offsets_outside_of_the_segment_are_refused_though_the_checksum_is_right() {
        for offset in [0, 120, 129 | 2, 4096, 4104, u64::from(u32::MAX)] {
            let entries = [HintEntry(offset)];
            let hint = encode(SUBJECT, &census(&entries), &entries);
            assert!(decode(&hint, SUBJECT).is_none(), "{offset}");
        }
        let is_sound = |entries: [u64; 2]| {
            let entries = entries.map(HintEntry);
            decode(&encode(SUBJECT, &census(&entries), &entries), SUBJECT).is_some()
        };
        assert!(is_sound([128, 4088]) && !is_sound([4088, 128]));
        assert!(!is_sound([128, 128 | HintEntry::TOMBSTONE]), "one frame is not both");
    }

    #[test]
    fn numbers_that_cannot_be_are_refused_though_the_checksum_is_right() {
        let entries = [HintEntry::new(1, 128, false)];
        let good = census(&entries);
        assert!(decode(&encode(SUBJECT, &good, &entries), SUBJECT).is_some());
        // A frame that is neither listed nor counted as not listed.
        assert!(decode(&encode(SUBJECT, &good, &[]), SUBJECT).is_none());
        let least = |words: [u64; 3]| words.map(|word| word + 1);
        let [unlisted, inner, _] = least([good.unlisted, good.inner, 0]);
        for bad in [
            Census { unlisted, ..good },
            Census { inner, ..good },
            Census { keyless: 4096, ..good },
            Census { superseded: u64::MAX, ..good },
            Census { tombstones: u64::MAX, ..good },
            Census { expiring: Expiring { bytes: u64::MAX, by: [0; 4] }, ..good },
            Census { oldest: u64::MAX, ..good },
            Census { oldest: 8 << 32, ..good },
            Census { oldest: 6 << 32 | 128, ..good },
            Census { unlisted: u64::MAX, ..good },
        ] {
            assert!(decode(&encode(SUBJECT, &bad, &entries), SUBJECT).is_none(), "{bad:?}");
        }
        let merged = Subject { merged: true, ..SUBJECT };
        let moved = Census { oldest: 6 << 32 | 128, ..good };
        assert!(decode(&encode(merged, &moved, &entries), merged).is_some());
        assert!(decode(&encode(merged, &good, &entries), merged).is_none());
    }

    #[test]
    fn no_more_was_reclaimed_than_can_be() {
        let of = |reclaimed_then| {
            let subject = Subject { reclaimed_then, ..SUBJECT };
            decode(&encode(subject, &census(&[]), &[]), SUBJECT).is_some()
        };
        assert!(of(0) && of(MAX_RECLAIMED) && !of(MAX_RECLAIMED + 1) && !of(u64::MAX));
    }

    #[test]
    fn a_tombstone_is_no_put() {
        let entries = [HintEntry::new(3, 128, true)];
        let bytes = encode(SUBJECT, &census(&entries), &entries);
        assert!(!decode(&bytes, SUBJECT).unwrap().1.has_put(3));
    }

    #[test]
    fn expiry_is_estimated_by_quarters() {
        let mut puts: Vec<_> = (1..=100).rev().map(|n| (n, 10)).collect();
        let expiring = Expiring::of(&mut puts);
        assert_eq!(expiring, Expiring { bytes: 1000, by: [25, 50, 75, 100] });
        assert_eq!([0, 25, 60, 100].map(|now| expiring.expired(now)), [0, 250, 500, 1000]);
        assert_eq!(Expiring::of(&mut []).expired(u64::MAX), 0);
        assert_eq!(Expiring::of(&mut [(5, 8)]).by, [5; 4]);
    }
}
