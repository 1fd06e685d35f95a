//! The bytes in the files: pure encoding and decoding with checked arithmetic, no I/O. `docs/format.md`
//! shows the layouts.

pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod hint;
pub(crate) mod manifest;
pub(crate) mod names;
pub(crate) mod record;
pub(crate) mod remains;

/// The version of segments and of the MANIFEST. Version 1 is read and upgraded.
pub(crate) const VERSION: u32 = 2;

/// Reads the little-endian `u64` at `at`, or 0 beyond the end.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

/// Reads the little-endian `u32` at `at`, or 0 beyond the end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

/// A length rounded up to a multiple of 8: with its padding.
#[inline]
pub(crate) const fn pad_to_8(len: u64) -> u64 {
    (len + 7) & !7
}

/// Whether all bytes are zero. Mostly called for the blank end of a segment.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|block| block == &ZEROS[..block.len()])
}
