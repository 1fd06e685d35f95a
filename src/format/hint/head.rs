//! The head of a hint.

use super::census::{Census, Expiring, Subject};
use super::entry::NARROW;
use super::layout::{HEAD, Layout, block_at};
use crate::format::{u32_at, u64_at};

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"tchint\n\0");
pub(super) const VERSION: u32 = 3;
/// More bytes than a store ever reclaims.
const MAX_RECLAIMED: u64 = 1 << 62;
pub(super) const HAS_ENTRIES: u32 = 1;

/// What the head of a hint says, which is the one of this segment.
pub(super) struct Head {
    /// Without what the entries have to be read for.
    pub(super) census: Census,
    pub(super) layout: Layout,
}

impl Head {
    /// The head, if the first block is sound, and the hint is one of this segment, and as long as it must
    /// be.
    pub(super) fn read(bytes: &[u8], subject: &Subject) -> Option<Self> {
        let head = block_at(bytes, subject.salt, 0).filter(|content| content.len() >= HEAD)?;
        let found = Subject {
            id: u32_at(head, 12),
            salt: u64_at(head, 16),
            end: u64_at(head, 24),
            frames: u64_at(head, 120),
            merged: subject.merged,
            fingerprint: u64_at(head, 32),
            reclaimed_then: subject.reclaimed_then,
        };
        let known = u64_at(head, 0) == MAGIC && u32_at(head, 8) == VERSION && found == *subject;
        let entries = u64_at(head, 152);
        if !known || entries > (bytes.len() / NARROW) as u64 || u64_at(head, 144) > MAX_RECLAIMED {
            return None;
        }
        let layout = Layout::new(subject.merged, entries as usize);
        let by = std::array::from_fn(|quarter| u64_at(head, 80 + quarter * 8));
        let census = Census {
            keyless: u64_at(head, 40),
            superseded: u64_at(head, 48),
            tombstones: u64_at(head, 56),
            oldest: u64_at(head, 64),
            expiring: Expiring { bytes: u64_at(head, 72), by },
            plain: u32_at(head, 112) & HAS_ENTRIES != 0,
            unlisted: u64_at(head, 128),
            inner: u64_at(head, 136),
            entries,
            digest: 0,
        };
        (bytes.len() == layout.len()).then_some(Self { census, layout })
    }
}
