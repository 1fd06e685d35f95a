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

/// Whether two keys are equal. Keys of 8 to 16 bytes are compared in two words, without a call.
#[inline]
pub(crate) fn are_equal(a: &[u8], b: &[u8]) -> bool {
    let ends = |key: &[u8]| Some((*key.first_chunk::<8>()?, *key.last_chunk::<8>()?));
    match (ends(a), ends(b)) {
        (Some(a_ends), Some(b_ends)) if a.len() <= 16 && a.len() == b.len() => a_ends == b_ends,
        _ => a == b,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_lengths_are_compared_whole() {
        let key: [u8; 40] = std::array::from_fn(|n| n as u8);
        let copy = key;
        for len in 0..=key.len() {
            assert!(are_equal(&key[..len], &copy[..len]));
            for at in 0..len {
                let mut other = key;
                other[at] ^= 0x80;
                assert!(!are_equal(&key[..len], &other[..len]), "byte {at} of {len}");
            }
            for other in (0..=key.len()).filter(|&other| other != len) {
                assert!(!are_equal(&key[..len], &key[..other]), "{len} and {other}");
                assert!(!are_equal(&[7; 40][..len], &[7; 40][..other]), "{len} and {other}");
            }
        }
    }
}
