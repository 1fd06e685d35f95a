//! What a hint says of a segment besides its keys, and whether that can be so.

use super::entry::HintEntry;
use crate::format::header::FIRST_FRAME;

/// The shortest frame with a key.
pub(super) const MIN_RECORD: u64 = 24;

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
    pub(crate) fn count(&mut self, entries: &[HintEntry]) {
        self.entries = entries.len() as u64;
        self.digest = entries.iter().fold(0, |sum, entry| sum.wrapping_add(entry.mixed()));
    }

    /// Completes what the head of a hint says by what was found in the entries. `None`: not all of them were
    /// seen, or it cannot be so.
    pub(crate) fn complete(self, subject: &Subject, listed: &Listed) -> Option<Self> {
        let whole = Self { digest: listed.digest, ..self };
        let seen = listed.entries == self.entries;
        (seen && whole.is_possible(subject, listed)).then_some(whole)
    }

    /// Whether these counts are possible for a segment.
    pub(super) fn is_possible(&self, subject: &Subject, listed: &Listed) -> bool {
        let room = subject.end.saturating_sub(FIRST_FRAME);
        let parts = [self.keyless, self.superseded, self.tombstones, listed.put_bytes];
        let used = parts.into_iter().fold(0, u64::saturating_add);
        let frames = self.entries.checked_add(self.unlisted);
        used <= room
            && self.expiring.bytes <= room
            && self.entries <= room / MIN_RECORD
            && listed.tombstone_bytes <= self.tombstones
            && frames.is_some()
            && frames == subject.frames.checked_add(self.inner)
            && self.oldest_is_possible(subject, listed)
    }

    /// Frames of a log segment are where they were first written, those of a merged one were written
    /// before it.
    fn oldest_is_possible(&self, subject: &Subject, listed: &Listed) -> bool {
        let place = |offset: u64| u64::from(subject.id) << 32 | offset;
        match self.oldest {
            u64::MAX => self.entries == 0,
            oldest if subject.merged => oldest == listed.oldest && listed.newest < place(0),
            // Older frames with the same keys may be unlisted, the newest not.
            oldest => {
                (place(FIRST_FRAME)..=listed.oldest).contains(&oldest)
                    && oldest < place(subject.end)
            }
        }
    }
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

/// The segment that a hint must describe, and the hashes of its names.
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

/// What is found in the entries of a hint, or in some of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(super) entries: u64,
    pub(super) digest: u64,
    pub(super) put_bytes: u64,
    pub(super) tombstone_bytes: u64,
    pub(super) oldest: u64,
    pub(super) newest: u64,
    /// How many entries have the most frequent tag.
    pub(crate) most_of_a_tag: usize,
}

impl Listed {
    pub(crate) const NONE: Self = Self {
        entries: 0,
        digest: 0,
        put_bytes: 0,
        tombstone_bytes: 0,
        oldest: u64::MAX,
        newest: 0,
        most_of_a_tag: 0,
    };

    /// Adds what is found in others, with other tags.
    pub(crate) fn add(&mut self, other: &Self) {
        // Of a hint that is not sound, entries may be counted more than once.
        self.entries = self.entries.saturating_add(other.entries);
        self.digest = self.digest.wrapping_add(other.digest);
        self.put_bytes = self.put_bytes.saturating_add(other.put_bytes);
        self.tombstone_bytes = self.tombstone_bytes.saturating_add(other.tombstone_bytes);
        self.oldest = self.oldest.min(other.oldest);
        self.newest = self.newest.max(other.newest);
        self.most_of_a_tag = self.most_of_a_tag.max(other.most_of_a_tag);
    }
}
