//! The MANIFEST: which log this is, where it begins, which segments exist beside it, which are removed,
//! and which ids are used up.
//!
//! ```text
//!  0  u64  magic "tcmanif\n"
//!  8  u32  format version
//! 12  u32  first: the log goes on from this segment, each one naming the one before it
//! 16  u32  next: the lowest id that a new segment may take
//! 20  u32  flags; 1: a store lives on the log; 2: the log was closed
//! 24  u64  id of the log
//! 32  u64  generation: one more with each MANIFEST
//! 40  16B  secret of the store's hash
//! 56  u32  closed: the id of the last segment of the log; if there is none, of the last one that was
//!          dropped, or 0
//! 60  u32  closed: where it ends
//! 64  u32  legacy: segments with lower ids may be of version 1
//! 68  u32  kept: how many of these ids follow
//! 72  u32  removed: how many of these
//! 76  u32  cut off: how many of these
//! 80  u32  kept ids, growing: merged segments, and segments of the log before `first`
//!     u32  removed ids, growing: segments that were dropped, whose files may still be there
//!     u32  cut off ids, growing: segments behind the end of the log, which are set aside
//!     u32  CRC-32 of everything before it
//! ```
//!
//! Version 1 ends its fixed part with the flags, a u64 seed of the store's hash, and the number of
//! kept ids; it has no removed ones.

use super::{VERSION, u32_at, u64_at};

const MAGIC: u64 = u64::from_le_bytes(*b"tcmanif\n");
const STORE: u32 = 1;
const CLOSED: u32 = 2;
const HEAD: usize = 80;
const HEAD_1: usize = 36;

/// The MANIFEST's content. It is always replaced as a whole, by the one writer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) first: u32,
    pub(crate) next: u32,
    /// The log's id; 0 in version 1.
    pub(crate) log_id: u64,
    pub(crate) generation: u64,
    /// The secret of the store's hash; `None` if the log has no store. (Version 1: its seed, twice.)
    pub(crate) secret: Option<[u8; 16]>,
    /// Where the log ended when it was closed; `None` while it is open.
    pub(crate) closed: Option<LogEnd>,
    /// Segments with lower ids may be of version 1.
    pub(crate) legacy: u32,
    pub(crate) kept: Vec<u32>,
    pub(crate) removed: Vec<u32>,
    pub(crate) cut_off: Vec<u32>,
}

/// Where a log ends: its last segment, and an offset. If there is none: one before `first`, or 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogEnd {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadManifest {
    Version(u32),
    Damaged(&'static str),
}

impl Manifest {
    /// The last segment before a log that has none. If it was not closed, that is not known: the last one
    /// that there may have been.
    pub(crate) fn last_dropped(&self) -> u32 {
        self.closed.map_or(self.first.saturating_sub(1), |end| end.segment)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let lists = [&self.kept, &self.removed, &self.cut_off];
        let ids = lists.into_iter().flatten();
        let flags = if self.is_store() { STORE } else { 0 }
            | if self.closed.is_some() { CLOSED } else { 0 };
        let closed = self.closed.unwrap_or_default();
        let counts = lists.map(|ids| ids.len() as u32);
        let mut bytes = Vec::with_capacity(HEAD + 4 * ids.clone().count() + 4);
        bytes.extend(MAGIC.to_le_bytes());
        let words = [VERSION, self.first, self.next, flags];
        bytes.extend(words.into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(self.log_id.to_le_bytes());
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(self.secret.unwrap_or_default());
        let words = [closed.segment, closed.offset, self.legacy];
        bytes.extend(words.into_iter().chain(counts).flat_map(u32::to_le_bytes));
        bytes.extend(ids.flat_map(|id| id.to_le_bytes()));
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadManifest> {
        let damaged = |what| Err(BadManifest::Damaged(what));
        let Some((content, crc)) = bytes.split_last_chunk::<4>() else {
            return damaged("it is too short");
        };
        if content.len() < HEAD_1 {
            return damaged("it is too short");
        }
        if u64_at(content, 0) != MAGIC {
            return damaged("its magic number is wrong");
        }
        if u32::from_le_bytes(*crc) != crc32fast::hash(content) {
            return damaged("its checksum is wrong");
        }
        let manifest = match u32_at(content, 8) {
            1 => Self::decode_1(content),
            VERSION => Self::decode_2(content),
            version => return Err(BadManifest::Version(version)),
        };
        let Some(manifest) = manifest else { return damaged("its length is wrong") };
        let grow = |ids: &[u32]| ids.is_sorted_by(|a, b| a < b);
        if ![&manifest.kept, &manifest.removed, &manifest.cut_off].into_iter().all(|ids| grow(ids))
        {
            return damaged("its ids are out of order");
        }
        Ok(manifest)
    }

    fn decode_1(content: &[u8]) -> Option<Self> {
        let kept = ids(&content[HEAD_1..])?;
        let (first, next) = (u32_at(content, 12), u32_at(content, 16));
        let seed = [&content[24..32], &content[24..32]].concat();
        let is_store = u32_at(content, 20) & STORE != 0;
        let secret = seed.first_chunk().copied().filter(|_| is_store);
        let sound = kept.len() as u64 == u64::from(u32_at(content, 32));
        sound.then(|| Self { first, next, secret, kept, legacy: u32::MAX, ..Self::default() })
    }

    fn decode_2(content: &[u8]) -> Option<Self> {
        let mut kept = ids(content.get(HEAD..)?)?;
        let counts = [68, 72, 76].map(|at| u32_at(content, at));
        if kept.len() as u64 != counts.into_iter().map(u64::from).sum::<u64>() {
            return None;
        }
        let mut removed = kept.split_off(counts[0] as usize);
        let cut_off = removed.split_off(counts[1] as usize);
        let flags = u32_at(content, 20);
        let closed = LogEnd { segment: u32_at(content, 56), offset: u32_at(content, 60) };
        Some(Self {
            first: u32_at(content, 12),
            next: u32_at(content, 16),
            log_id: u64_at(content, 24),
            generation: u64_at(content, 32),
            secret: content[40..].first_chunk().copied().filter(|_| flags & STORE != 0),
            closed: (flags & CLOSED != 0).then_some(closed),
            legacy: u32_at(content, 64),
            kept,
            removed,
            cut_off,
        })
    }

    /// Records that segments are removed.
    pub(crate) fn remove(&mut self, ids: &[u32]) {
        self.removed.extend(ids);
        self.removed.sort_unstable();
        self.removed.dedup();
    }

    /// Whether the log has a store: then there is a secret.
    pub(crate) const fn is_store(&self) -> bool {
        self.secret.is_some()
    }

    /// Whether it is of version 1, to be replaced by one of this version.
    pub(crate) const fn is_legacy(&self) -> bool {
        self.log_id == 0
    }
}

fn ids(bytes: &[u8]) -> Option<Vec<u32>> {
    let (ids, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| ids.iter().map(|&id| u32::from_le_bytes(id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            first: 3,
            next: 9,
            log_id: 0x1122,
            generation: 5,
            secret: Some([7; 16]),
            closed: Some(LogEnd { segment: 8, offset: 4096 }),
            legacy: 2,
            kept: vec![1, 7],
            removed: vec![2],
            cut_off: vec![6],
        }
    }

    #[test]
    fn golden_bytes_and_every_flipped_bit() {
        let good = manifest().encode();
        assert_eq!(&good[..20], b"tcmanif\n\x02\0\0\0\x03\0\0\0\x09\0\0\0");
        assert_eq!(&good[20..40], b"\x03\0\0\0\x22\x11\0\0\0\0\0\0\x05\0\0\0\0\0\0\0");
        assert_eq!(&good[40..56], &[7; 16]);
        assert_eq!(&good[56..76], b"\x08\0\0\0\0\x10\0\0\x02\0\0\0\x02\0\0\0\x01\0\0\0");
        assert_eq!(&good[76..88], b"\x01\0\0\0\x01\0\0\0\x07\0\0\0");
        assert_eq!(&good[88..96], b"\x02\0\0\0\x06\0\0\0");
        assert_eq!(Manifest::decode(&good), Ok(manifest()));
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&bytes).is_err(), "bit {bit}");
        }
        (0..good.len()).for_each(|len| assert!(Manifest::decode(&good[..len]).is_err()));
    }

    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    #[test]
    fn version_1_is_read() {
        let fixed = b"tcmanif\n\x01\0\0\0\x03\0\0\0\x09\0\0\0\x01\0\0\0\xcd\xab\0\0\0\0\0\0";
        let bytes = sealed([&fixed[..], b"\x02\0\0\0\x01\0\0\0\x07\0\0\0"].concat());
        let manifest = Manifest::decode(&bytes).unwrap();
        assert!(manifest.is_legacy());
        assert_eq!((manifest.first, manifest.next, &*manifest.kept), (3, 9, &[1, 7][..]));
        assert_eq!(manifest.secret.unwrap()[..3], [0xcd, 0xab, 0]);
        assert_eq!((manifest.closed, &*manifest.removed), (None, &[][..]));
    }

    #[test]
    fn lengths_and_orders_that_lie_are_refused() {
        let good = Manifest { removed: vec![], cut_off: vec![], ..manifest() }.encode();
        let content = &good[..good.len() - 4];
        assert!(Manifest::decode(&sealed(content.to_vec())).is_ok());
        for (at, len) in
            [68, 72, 76].into_iter().flat_map(|at| [1u32, 3, u32::MAX].map(|n| (at, n)))
        {
            let mut bytes = content.to_vec();
            bytes[at..at + 4].copy_from_slice(&len.to_le_bytes());
            assert!(Manifest::decode(&sealed(bytes)).is_err(), "{at} {len}");
        }
        let twice = [&content[..84], &content[80..84]].concat();
        assert!(Manifest::decode(&sealed(twice)).is_err());
    }
}
