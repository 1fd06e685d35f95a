//! The words of frames, by `docs/format.md` and not by the code under test.

use tailcask::LogPosition;

/// Bytes before the body.
pub(crate) const HEADER: usize = 16;

/// The position of an offset in a segment.
pub(crate) fn place(segment: u32, offset: u64) -> LogPosition {
    LogPosition::from_u64(u64::from(segment) << 32 | offset)
}

/// A little-endian word.
pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub(crate) fn set_word(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

/// What a frame's checksum is mixed with.
pub(crate) fn seed(salt: u64, offset: u64, low: u64, header: u64) -> u32 {
    let place = (offset << 32 | low) ^ 0x9e37_79b9_7f4a_7c15;
    let product = u128::from(salt ^ header) * u128::from(place);
    let folded = product as u64 ^ (product >> 64) as u64;
    folded as u32 ^ (folded >> 32) as u32
}

/// Turns the frame at an offset of a segment back into a claim: reserved, and not committed yet.
pub(crate) fn uncommit(segment: &mut [u8], at: usize) {
    let (salt, low) = (word(segment, 24), word(segment, at) & 0xffff_fff8 | 1);
    let claim = u64::from(seed(salt, at as u64, low, 0)) << 32 | low;
    set_word(segment, at, claim);
}
