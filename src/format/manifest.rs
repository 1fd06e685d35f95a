//! The MANIFEST: where the log begins, which segments live beside it, and which ids may not be used
//! again.
//!
//! ```text
//!  0  u64  magic "tcmanif\n"
//!  8  u32  format version
//! 12  u32  first: the log goes on from this segment, each one naming the one before it
//! 16  u32  next: the lowest id that a new segment may take
//! 20  u32  flags; 1: a store lives on the log
//! 24  u64  seed of the store's hash
//! 32  u32  kept: how many ids follow
//! 36  u32  kept ids, growing: merged segments, and segments of the log before `first`
//!     u32  CRC-32 of everything before it
//! ```

use super::{VERSION, u32_at, u64_at};

const MAGIC: u64 = u64::from_le_bytes(*b"tcmanif\n");
const STORE: u32 = 1;
const HEAD: usize = 36;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) first: u32,
    pub(crate) next: u32,
    /// The seed of the hash, where a store lives on the log.
    pub(crate) seed: Option<u64>,
    pub(crate) kept: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadManifest {
    Version(u32),
    Damaged(&'static str),
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + 4 * self.kept.len() + 4);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.first.to_le_bytes());
        bytes.extend(self.next.to_le_bytes());
        bytes.extend(if self.seed.is_some() { STORE } else { 0 }.to_le_bytes());
        bytes.extend(self.seed.unwrap_or(0).to_le_bytes());
        bytes.extend((self.kept.len() as u32).to_le_bytes());
        bytes.extend(self.kept.iter().flat_map(|id| id.to_le_bytes()));
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadManifest> {
        let damaged = |what| Err(BadManifest::Damaged(what));
        let Some((content, crc)) = bytes.split_last_chunk::<4>() else {
            return damaged("it is too short");
        };
        if content.len() < HEAD {
            return damaged("it is too short");
        }
        if u64_at(content, 0) != MAGIC {
            return damaged("its magic number is wrong");
        }
        if u32::from_le_bytes(*crc) != crc32fast::hash(content) {
            return damaged("its checksum is wrong");
        }
        if u32_at(content, 8) != VERSION {
            return Err(BadManifest::Version(u32_at(content, 8)));
        }
        let (ids, rest) = content[HEAD..].as_chunks::<4>();
        if !rest.is_empty() || ids.len() as u64 != u64::from(u32_at(content, 32)) {
            return damaged("its length is wrong");
        }
        let kept: Vec<_> = ids.iter().map(|&id| u32::from_le_bytes(id)).collect();
        if !kept.is_sorted_by(|a, b| a < b) {
            return damaged("its ids are out of order");
        }
        let seed = (u32_at(content, 20) & STORE != 0).then(|| u64_at(content, 24));
        Ok(Self { first: u32_at(content, 12), next: u32_at(content, 16), seed, kept })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_every_flipped_bit() {
        let manifest = Manifest { first: 3, next: 9, seed: Some(0xabcd), kept: vec![1, 7] };
        let good = manifest.encode();
        assert_eq!(&good[..20], b"tcmanif\n\x01\0\0\0\x03\0\0\0\x09\0\0\0");
        assert_eq!(&good[20..44], b"\x01\0\0\0\xcd\xab\0\0\0\0\0\0\x02\0\0\0\x01\0\0\0\x07\0\0\0");
        assert_eq!(Manifest::decode(&good), Ok(manifest));
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&bytes).is_err(), "bit {bit}");
        }
        (0..good.len()).for_each(|len| assert!(Manifest::decode(&good[..len]).is_err()));
    }

    #[test]
    fn lengths_and_orders_that_lie_are_refused() {
        let seal = |mut bytes: Vec<u8>| {
            let crc = crc32fast::hash(&bytes);
            bytes.extend(crc.to_le_bytes());
            Manifest::decode(&bytes)
        };
        let good = Manifest { kept: vec![1, 7], ..Manifest::default() }.encode();
        let content = &good[..good.len() - 4];
        assert!(seal(content.to_vec()).is_ok());
        for len in [0u32, 1, 3, u32::MAX] {
            let mut bytes = content.to_vec();
            bytes[32..36].copy_from_slice(&len.to_le_bytes());
            assert!(seal(bytes).is_err(), "{len}");
        }
        let twice = [&content[..40], &content[36..40]].concat();
        assert!(seal(twice).is_err());
    }
}
