//! Hints of log segments, taken apart and put together again with the right checksums.

use std::fs;
use std::path::{Path, PathBuf};

const BLOCK: usize = 4096;
const HEAD: usize = 160;
/// Where in the head are the salt, the frames that no entry names, and the number of entries.
const SALT: usize = 16;
const UNLISTED: usize = 128;
const COUNT: usize = 152;

/// An entry: the halves of the name, and the place.
pub(crate) type Entry = [u64; 3];

/// The offset that an entry names.
pub(crate) fn offset(entry: &Entry) -> u64 {
    entry[2] & 0xffff_fff8
}

/// The checksum of a block.
fn checksum(salt: u64, block: usize, content: &[u8]) -> u32 {
    let place = (block as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = u128::from(salt ^ place) * u128::from(place | 1);
    let mixed = (mixed >> 64) as u64 ^ mixed as u64;
    crc32fast::hash(content) ^ (mixed >> 32) as u32 ^ mixed as u32
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Gives a hint of one block the right checksum again.
pub(crate) fn reseal(bytes: &mut [u8]) {
    assert!(bytes.len() <= BLOCK);
    let end = bytes.len() - 4;
    let checksum = checksum(word(bytes, SALT), 0, &bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
}

/// A hint, to be changed.
pub(crate) struct Hint {
    path: PathBuf,
    pub(crate) head: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
}

impl Hint {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let (count, mut entries) = (word(&bytes, COUNT) as usize, Vec::new());
        let mut at = HEAD;
        while entries.len() < count {
            if at % BLOCK + 24 > BLOCK - 4 {
                at = at.next_multiple_of(BLOCK);
            }
            entries.push([0, 8, 16].map(|part| word(&bytes, at + part)));
            at += 24;
        }
        Self { path: path.into(), head: bytes[..HEAD].to_vec(), entries }
    }

    /// Writes it; what makes it look right, is.
    pub(crate) fn write(mut self) {
        let before = word(&self.head, COUNT);
        let unlisted = word(&self.head, UNLISTED) + before - self.entries.len() as u64;
        self.head[UNLISTED..][..8].copy_from_slice(&unlisted.to_le_bytes());
        self.entries.sort_unstable();
        self.write_unchecked();
    }

    /// Writes it, with the right number of entries and checksums.
    pub(crate) fn write_unchecked(mut self) {
        let salt = word(&self.head, SALT);
        self.head[COUNT..][..8].copy_from_slice(&(self.entries.len() as u64).to_le_bytes());
        let (mut all, mut block) = (Vec::new(), self.head);
        let mut end = |block: &mut Vec<u8>, is_last: bool| {
            block.resize(if is_last { block.len() } else { BLOCK - 4 }, 0);
            let checksum = checksum(salt, all.len() / BLOCK, block);
            all.append(block);
            all.extend(checksum.to_le_bytes());
        };
        for entry in &self.entries {
            if block.len() + 24 > BLOCK - 4 {
                end(&mut block, false);
            }
            block.extend(entry.map(u64::to_le_bytes).as_flattened());
        }
        let is_one = self.entries.len() <= (BLOCK - 4 - HEAD) / 24;
        end(&mut block, is_one);
        if !is_one {
            // Of the filter every bit is set: it rules nothing out.
            let mut lines = (self.entries.len() * 10).div_ceil(512);
            while lines > 0 {
                let here = lines.min(63);
                lines -= here;
                block.resize(here * 64, 255);
                end(&mut block, lines == 0);
            }
        }
        fs::write(&self.path, all).unwrap();
    }
}
