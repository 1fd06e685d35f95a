//! Checksums made right again after a mutation, so that it gets past them. Written a second time, by
//! `docs/format.md`.

use super::files::{Files, HEADER};

const FRAME: usize = 16;
const BLOCK: usize = 4096;
const BATCH: u64 = 2;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Of all files.
pub fn mend(files: &mut Files) {
    let salts: Vec<_> = files.iter().filter_map(|(name, bytes)| salt_of(name, bytes)).collect();
    for (name, bytes) in files {
        if name == "MANIFEST" {
            manifest(bytes);
        } else if name.ends_with(".seg") {
            segment(bytes);
        } else if let Some((_, salt)) = salts.iter().find(|(id, _)| name.starts_with(id.as_str())) {
            hint(bytes, *salt);
        }
    }
}

/// The number in the name of a segment, and its salt.
fn salt_of(name: &str, bytes: &[u8]) -> Option<(String, u64)> {
    let id = name.strip_suffix(".seg")?.to_owned();
    (bytes.len() >= HEADER).then(|| (id, u64_at(bytes, 24)))
}

/// Of a MANIFEST.
pub fn manifest(bytes: &mut [u8]) {
    if let Some(at) = bytes.len().checked_sub(4) {
        let crc = crc32fast::hash(&bytes[..at]);
        set_u32(bytes, at, crc);
    }
}

/// Of a segment: its head, its seal, and all frames that can be told.
pub fn segment(bytes: &mut [u8]) {
    if bytes.len() < HEADER {
        return;
    }
    let crc = crc32fast::hash(&bytes[..60]);
    set_u32(bytes, 60, crc);
    let salt = bytes[24..32].to_vec();
    let salted = || {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&salt);
        hasher
    };
    // Version 1 has no origin.
    if u32_at(bytes, 8) != 1 {
        let mut hasher = salted();
        hasher.update(&bytes[96..124]);
        set_u32(bytes, 124, hasher.finalize());
    }
    if bytes[64..72] != [0; 8] {
        let mut hasher = salted();
        hasher.update(&bytes[72..88]);
        set_u32(bytes, 88, hasher.finalize());
        set_u32(bytes, 92, 0);
    }
    let salt = u64_at(bytes, 24);
    let end = bytes.len();
    frames(bytes, salt, HEADER, end);
}

/// Whether a segment has a seal that holds. One with another seal is scanned, and sealed anew.
pub fn is_sealed(bytes: &[u8]) -> bool {
    let Some(head) = bytes.get(..HEADER) else { return false };
    let mut mended = head.to_vec();
    segment(&mut mended);
    let end = u32_at(head, 72) as usize;
    let is_end = (HEADER..=bytes.len()).contains(&end) && end.is_multiple_of(8);
    head[64..72] == *b"sealed\n\0" && head[88..96] == mended[88..96] && is_end
}

/// Of the frames in a range. Those in batches, too.
fn frames(bytes: &mut [u8], salt: u64, from: usize, end: usize) {
    let mut at = from;
    while at + 8 <= end {
        let low = u64::from(u32_at(bytes, at));
        let (len, state) = ((low & !7) as usize, low & 7);
        if low == 0 || len == 0 || len > end - at {
            at += 8;
            continue;
        }
        if state == 2 && len >= FRAME {
            let header = u64_at(bytes, at + 8);
            if header & 0xff == BATCH {
                frames(bytes, salt, at + FRAME, at + len);
            }
            let body = body_len(header).min(len - FRAME);
            let crc = crc32fast::hash(&bytes[at + FRAME..at + FRAME + body]);
            set_u32(bytes, at + 4, crc ^ seed(salt, at as u64, low, header));
        } else {
            set_u32(bytes, at + 4, seed(salt, at as u64, low, 0));
        }
        at += len;
    }
}

/// The bytes that a frame's checksum covers.
fn body_len(header: u64) -> usize {
    if header & 0xff == BATCH {
        return 0;
    }
    let fields = (header >> 8 & 1) + (header >> 9 & 1);
    let key = (header >> 16 & 0xffff).next_multiple_of(8);
    (fields * 8 + key + (header >> 32)) as usize
}

fn seed(salt: u64, offset: u64, low: u64, header: u64) -> u32 {
    let place = (offset << 32 | low) ^ 0x9e37_79b9_7f4a_7c15;
    let product = u128::from(salt ^ header) * u128::from(place);
    let folded = product as u64 ^ (product >> 64) as u64;
    folded as u32 ^ (folded >> 32) as u32
}

/// Of a hint: one for each block.
pub fn hint(bytes: &mut [u8], salt: u64) {
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
        let Some(at) = block.len().checked_sub(4) else { return };
        let place = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let product = u128::from(salt ^ place) * u128::from(place | 1);
        let mixed = product as u64 ^ (product >> 64) as u64;
        let crc = crc32fast::hash(&block[..at]) ^ mixed as u32 ^ (mixed >> 32) as u32;
        set_u32(block, at, crc);
    }
}
