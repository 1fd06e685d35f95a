//! The MANIFEST: where the log begins, and which ids may not be used again.
//!
//! ```text
//!  0  u64  magic "tcmanif\n"
//!  8  u32  format version
//! 12  u32  first: id of the segment the log begins with
//! 16  u32  next: the lowest id that a new segment may take
//! 20  u32  CRC-32 of the first 20 bytes
//! ```

use super::{VERSION, u32_at, u64_at};

const MAGIC: u64 = u64::from_le_bytes(*b"tcmanif\n");
/// Bytes of a MANIFEST.
pub(crate) const LEN: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) first: u32,
    pub(crate) next: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadManifest {
    Version(u32),
    Damaged(&'static str),
}

impl Manifest {
    pub(crate) fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.first.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.next.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..20]);
        bytes[20..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadManifest> {
        if bytes.len() != LEN {
            return Err(BadManifest::Damaged("its length is wrong"));
        }
        if u64_at(bytes, 0) != MAGIC {
            return Err(BadManifest::Damaged("its magic number is wrong"));
        }
        if u32_at(bytes, 20) != crc32fast::hash(&bytes[..20]) {
            return Err(BadManifest::Damaged("its checksum is wrong"));
        }
        if u32_at(bytes, 8) != VERSION {
            return Err(BadManifest::Version(u32_at(bytes, 8)));
        }
        Ok(Self { first: u32_at(bytes, 12), next: u32_at(bytes, 16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_every_flipped_bit() {
        let manifest = Manifest { first: 3, next: 9 };
        let good = manifest.encode();
        assert_eq!(&good[..20], b"tcmanif\n\x01\0\0\0\x03\0\0\0\x09\0\0\0");
        assert_eq!(Manifest::decode(&good), Ok(manifest));
        for bit in 0..LEN * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&bytes).is_err(), "bit {bit}");
        }
        (0..LEN).for_each(|len| assert!(Manifest::decode(&good[..len]).is_err()));
    }
}
