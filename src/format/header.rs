//! The head of a segment file: the segment header and, once it is sealed, the seal.
//!
//! ```text
//!   0  u64  magic "tailcask"        64  u64  seal magic "sealed\n\0"
//!   8  u32  format version          72  u32  end: bytes in use, this head included
//!  12  u32  kind (1: log, 2: merged) 76 u32  time: low half of when it was sealed
//!  16  u32  id                      80  u32  frames below the end
//!  20  u32  id of the one before    84  u32  time: high half
//!           (0: none, or merged)    88  u64  checksum of these 16 bytes, with the salt
//!                                   96       reserved, zero
//!  24  u64  salt
//!  32  u128 boot id of the kernel
//!  48  u64  capacity: bytes preallocated
//!  56  u32  reserved, zero
//!  60  u32  CRC-32 of the first 60 bytes
//! ```
//!
//! Version 2 adds the file's origin behind the seal:
//!
//! ```text
//!  96  u64  id of the log that it is a part of
//! 104  u64  device that it was made on
//! 112  u64  its inode there
//! 120  u32  reserved, zero
//! 124  u32  CRC-32 of these 28 bytes, with the salt before them
//! ```

use super::{VERSION, u32_at, u64_at};

const MAGIC: u64 = u64::from_le_bytes(*b"tailcask");
/// Marks a seal. It is written last.
pub(crate) const SEAL_MAGIC: u64 = u64::from_le_bytes(*b"sealed\n\0");
const KIND_LOG: u32 = 1;
const KIND_MERGED: u32 = 2;
/// The low half of a word.
const LOW: u64 = u32::MAX as u64;
/// Offset of the seal.
pub(crate) const SEAL: u64 = 64;
/// Offset of the first frame.
pub(crate) const FIRST_FRAME: u64 = 128;

/// The segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) id: u32,
    /// Whether a merge wrote it; then it is not part of the log's chain.
    pub(crate) merged: bool,
    /// The log segment before this one, 0 if there is none.
    pub(crate) previous: u32,
    pub(crate) salt: u64,
    /// 0 if it was unknown.
    pub(crate) boot_id: u128,
    pub(crate) capacity: u64,
    /// `None` in a segment of version 1.
    pub(crate) origin: Option<Origin>,
}

/// Which log a segment belongs to, and which file it was created as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) log_id: u64,
    pub(crate) file: FileIdentity,
}

/// The identity of a file, by `stat`, as long as it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileIdentity {
    /// Whether another identity is that of this file on another device, which means a copy of the whole
    /// volume. A file system without a device of its own (an overlay, tmpfs, a network) gets a new
    /// device number with each mount, so there it is false.
    pub(crate) const fn is_on_another_device(self, other: Self) -> bool {
        let has_one = self.has_device() && other.has_device();
        has_one && self.inode == other.inode && self.device != other.device
    }

    /// Linux gives major number 0 to file systems without a device.
    const fn has_device(self) -> bool {
        (self.device >> 8) & 0xfff | (self.device >> 32) & 0xffff_f000 != 0
    }
}

/// Why a segment header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// All zero: never written.
    Blank,
    Version(u32),
    Damaged(&'static str),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; FIRST_FRAME as usize] {
        let mut bytes = [0; FIRST_FRAME as usize];
        bytes[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        let version = if self.origin.is_some() { VERSION } else { 1 };
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let kind = if self.merged { KIND_MERGED } else { KIND_LOG };
        bytes[12..16].copy_from_slice(&kind.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.id.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.previous.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.boot_id.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.capacity.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        if let Some(origin) = self.origin {
            bytes[96..104].copy_from_slice(&origin.log_id.to_le_bytes());
            bytes[104..112].copy_from_slice(&origin.file.device.to_le_bytes());
            bytes[112..120].copy_from_slice(&origin.file.inode.to_le_bytes());
            let crc = origin_crc(self.salt, &bytes);
            bytes[124..128].copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    /// Reads the header at the beginning of `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let head = bytes
            .first_chunk::<{ FIRST_FRAME as usize }>()
            .ok_or(BadHeader::Damaged("shorter than a header"))?;
        if head[..64].iter().all(|&b| b == 0) {
            return Err(BadHeader::Blank);
        }
        if u64_at(head, 0) != MAGIC {
            return Err(BadHeader::Damaged("the magic number is wrong"));
        }
        if u32_at(head, 60) != crc32fast::hash(&head[..60]) {
            return Err(BadHeader::Damaged("the checksum is wrong"));
        }
        let salt = u64_at(head, 24);
        let origin = match u32_at(head, 8) {
            1 => None,
            VERSION if u32_at(head, 124) != origin_crc(salt, head) => {
                return Err(BadHeader::Damaged("the checksum of its origin is wrong"));
            }
            VERSION => Some(Origin {
                log_id: u64_at(head, 96),
                file: FileIdentity { device: u64_at(head, 104), inode: u64_at(head, 112) },
            }),
            version => return Err(BadHeader::Version(version)),
        };
        let merged = match u32_at(head, 12) {
            KIND_LOG => false,
            KIND_MERGED => true,
            _ => return Err(BadHeader::Damaged("the kind is unknown")),
        };
        Ok(Self {
            id: u32_at(head, 16),
            merged,
            previous: u32_at(head, 20),
            salt,
            boot_id: u128::from(u64_at(head, 32)) | u128::from(u64_at(head, 40)) << 64,
            capacity: u64_at(head, 48),
            origin,
        })
    }
}

fn origin_crc(salt: u64, head: &[u8; FIRST_FRAME as usize]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt.to_le_bytes());
    crc.update(&head[96..124]);
    crc.finalize()
}

/// The seal: the segment is finished, and everything in it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Below 2^32, as the number of frames is: segments are smaller than 4 GiB.
    pub(crate) end: u64,
    pub(crate) frames: u64,
    /// In milliseconds since 1970; 0 if it is unknown, as in seals of earlier versions.
    pub(crate) time: u64,
}

impl Seal {
    /// The four words at [`SEAL`].
    pub(crate) fn words(self, salt: u64) -> [u64; 4] {
        debug_assert!(self.end <= LOW && self.frames <= LOW);
        let end = self.end & LOW | self.time << 32;
        let frames = self.frames & LOW | self.time & !LOW;
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&salt.to_le_bytes());
        bytes[8..16].copy_from_slice(&end.to_le_bytes());
        bytes[16..].copy_from_slice(&frames.to_le_bytes());
        [SEAL_MAGIC, end, frames, u64::from(crc32fast::hash(&bytes))]
    }

    /// `None` if there is no valid seal of this segment.
    pub(crate) fn from_words(words: [u64; 4], salt: u64, len: u64) -> Option<Self> {
        let time = words[1] >> 32 | words[2] & !LOW;
        let seal = Self { end: words[1] & LOW, frames: words[2] & LOW, time };
        let sound = (FIRST_FRAME..=len).contains(&seal.end) && seal.end.is_multiple_of(8);
        (sound && seal.words(salt) == words).then_some(seal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader {
        id: 7,
        merged: false,
        previous: 5,
        salt: 0x1122_3344_5566_7788,
        boot_id: 0xaabb,
        capacity: 2 << 20,
        origin: Some(Origin { log_id: 0x5151, file: FileIdentity { device: 3, inode: 4 } }),
    };

    #[test]
    fn golden_bytes_of_a_header() {
        let bytes = HEADER.encode();
        assert_eq!(&bytes[0..16], b"tailcask\x02\0\0\0\x01\0\0\0");
        assert_eq!(&bytes[16..24], &[7, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(&bytes[24..32], &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(&bytes[32..35], &[0xbb, 0xaa, 0]);
        assert_eq!(&bytes[48..56], &[0, 0, 0x20, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[60..64], &crc32fast::hash(&bytes[..60]).to_le_bytes());
        assert!(bytes[64..96].iter().all(|&b| b == 0));
        assert_eq!(&bytes[96..108], &[0x51, 0x51, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(&bytes[112..124], &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let crc = crc32fast::hash(&[&bytes[24..32], &bytes[96..124]].concat());
        assert_eq!(&bytes[124..128], &crc.to_le_bytes());
    }

    #[test]
    fn a_header_of_version_1_has_no_origin() {
        let old = SegmentHeader { origin: None, ..HEADER };
        assert_eq!(&old.encode()[8..12], &[1, 0, 0, 0]);
        assert_eq!(SegmentHeader::decode(&old.encode()), Ok(old));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let good = HEADER.encode();
        assert_eq!(SegmentHeader::decode(&good), Ok(HEADER));
        for bit in (0..64 * 8).chain(96 * 8..128 * 8) {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bytes).is_err(), "bit {bit}");
        }
        (0..128).for_each(|len| assert!(SegmentHeader::decode(&good[..len]).is_err()));
        assert_eq!(SegmentHeader::decode(&[0; 128]), Err(BadHeader::Blank));
    }

    /// An overlay has a new number after each start of its container.
    #[test]
    fn a_device_without_a_number_of_its_own_does_not_tell_copies() {
        let on = |device, inode| FileIdentity { device, inode };
        assert!(on(0x801, 7).is_on_another_device(on(0x802, 7)));
        assert!(on(0x801, 7).is_on_another_device(on(0x1_0000_0000_0000, 7)));
        assert!(!on(0x801, 7).is_on_another_device(on(0x801, 7)));
        assert!(!on(0x801, 7).is_on_another_device(on(0x802, 8)), "another file");
        assert!(!on(0x31, 7).is_on_another_device(on(0x32, 7)));
        assert!(!on(0x31, 7).is_on_another_device(on(0x10_0032, 7)));
        assert!(!on(0x801, 7).is_on_another_device(on(0x32, 7)));
    }

    #[test]
    fn a_seal_is_bound_to_its_segment() {
        let seal = Seal { end: 4096, frames: 9, time: 0x0102_0304_0506_0708 };
        let words = seal.words(1);
        assert_eq!(Seal::from_words(words, 1, 8192), Some(seal));
        assert_eq!(Seal::from_words(words, 2, 8192), None);
        assert_eq!(Seal::from_words(words, 1, 4088), None);
        for bit in 0..256 {
            let mut words = words;
            words[bit / 64] ^= 1 << (bit % 64);
            assert_eq!(Seal::from_words(words, 1, 8192), None, "bit {bit}");
        }
    }

    #[test]
    fn golden_words_of_a_seal_and_of_one_without_a_time() {
        let seal = Seal { end: 4096, frames: 9, time: 0x0102_0304_0506_0708 };
        let [magic, end, frames, crc] = seal.words(1);
        assert_eq!(magic.to_le_bytes(), *b"sealed\n\0");
        assert_eq!(end.to_le_bytes(), [0, 16, 0, 0, 8, 7, 6, 5]);
        assert_eq!(frames.to_le_bytes(), [9, 0, 0, 0, 4, 3, 2, 1]);
        let bytes = [1u64, end, frames].map(u64::to_le_bytes).concat();
        assert_eq!(crc, u64::from(crc32fast::hash(&bytes)));
        // As earlier versions wrote it, with numbers of 8 bytes.
        let bytes = [1u64, 4096, 9].map(u64::to_le_bytes).concat();
        let words = [magic, 4096, 9, u64::from(crc32fast::hash(&bytes))];
        let old = Seal { end: 4096, frames: 9, time: 0 };
        assert_eq!(Seal::from_words(words, 1, 8192), Some(old));
        assert_eq!(old.words(1), words);
    }
}
