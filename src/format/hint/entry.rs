//! An entry of a hint: the name of a key, and where its frame is.

use crate::format::u64_at;
use crate::position::LogPosition;

/// What stands for a key: 128 bits of hash, from two hashes. Ordered by the first half, which begins
/// with the key's tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyName {
    pub(crate) first: u64,
    pub(crate) second: u64,
}

impl KeyName {
    /// From the two hashes. A tag is the low half of the first hash, so the halves of that change
    /// places.
    #[inline]
    pub(crate) const fn of(first: u64, second: u64) -> Self {
        Self { first: first.rotate_left(32), second }
    }

    /// The tag of 32 bits.
    #[inline]
    pub(crate) const fn tag(self) -> u32 {
        (self.first >> 32) as u32
    }
}

/// An entry of a hint: a frame with a key. Ordered by name, then by origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HintEntry {
    pub(crate) name: KeyName,
    /// The position that the frame was first written at. In a log segment that is its place.
    pub(crate) origin: LogPosition,
    /// Length, offset and flags, as in a hint.
    pub(super) place: u64,
}

/// What an entry says of its frame, besides where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryFlags {
    pub(crate) tombstone: bool,
    pub(crate) expires: bool,
}

impl HintEntry {
    // Offsets and lengths are multiples of 8, so three bits of each are free.
    const TOMBSTONE: u64 = 1;
    const EXPIRES: u64 = 2;
    const OFFSET: u64 = 0xffff_fff8;
    pub(super) const KNOWN: u64 =
        Self::OFFSET << 32 | Self::OFFSET | Self::TOMBSTONE | Self::EXPIRES;

    pub(crate) fn new(
        name: KeyName,
        origin: LogPosition,
        offset: u64,
        len: u64,
        flags: EntryFlags,
    ) -> Self {
        let tombstone = if flags.tombstone { Self::TOMBSTONE } else { 0 };
        let expires = if flags.expires { Self::EXPIRES } else { 0 };
        Self { name, origin, place: len << 32 | offset | tombstone | expires }
    }

    #[inline]
    pub(crate) const fn offset(&self) -> u64 {
        self.place & Self::OFFSET
    }

    /// The length of the frame.
    #[inline]
    pub(crate) const fn len(&self) -> u64 {
        self.place >> 32 & Self::OFFSET
    }

    #[inline]
    pub(crate) const fn is_tombstone(&self) -> bool {
        self.place & Self::TOMBSTONE != 0
    }

    /// Whether it is a value that expires.
    #[inline]
    pub(crate) const fn expires(&self) -> bool {
        self.place & Self::EXPIRES != 0
    }

    /// Spreads the entry over 64 bits.
    #[inline]
    pub(super) const fn mixed(&self) -> u64 {
        let one = self.name.first ^ self.place;
        let other = self.name.second ^ self.origin.as_u64().rotate_left(17);
        let product = one as u128 * (other ^ 0x9e37_79b9_7f4a_7c15) as u128;
        (product >> 64) as u64 ^ product as u64 ^ one.rotate_left(23)
    }

    pub(super) fn push(&self, bytes: &mut Vec<u8>, width: usize) {
        let words = [self.name.first, self.name.second, self.place, self.origin.as_u64()];
        bytes.extend_from_slice(&words.map(u64::to_le_bytes).as_flattened()[..width]);
    }

    /// Reads an entry; one of a log segment is as old as its place.
    #[inline]
    pub(super) fn read(bytes: &[u8], id: u32) -> Self {
        let name = KeyName { first: u64_at(bytes, 0), second: u64_at(bytes, 8) };
        let place = u64_at(bytes, 16);
        let origin = match bytes.len() {
            WIDE => LogPosition::from_u64(u64_at(bytes, 24)),
            _ => LogPosition::new(id, (place & Self::OFFSET) as u32),
        };
        Self { name, origin, place }
    }
}

/// Bytes of an entry, without and with an origin.
pub(super) const NARROW: usize = 24;
pub(super) const WIDE: usize = 32;
