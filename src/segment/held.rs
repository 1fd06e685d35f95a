//! What keeps the segment of something that was read, for as long as that is in a user's hands.
//!
//! Invariant: bytes that were read from a segment are lent out only while the value that has them is
//! borrowed, and that value has a [`Hold`] of the segment. A hold that borrows nothing makes the value one
//! that borrows nothing: its lifetime is `'static`, and its bytes live as long as it does.

#![allow(unsafe_code, reason = "committed bytes of a segment that is kept")]

use super::Segment;
use super::holders::SegmentOwner;
use super::set::{Pin, SegmentSet};
use bytes::Bytes;

/// What keeps a segment mapped. (Two variants, and no more: so it takes no more room than the first one.)
#[derive(Debug)]
pub(crate) enum Hold<'t> {
    /// A pin in this set.
    Pinned(Pin<'t>, &'t SegmentSet),
    Owned(SegmentOwner),
}

#[cfg(not(feature = "backtraces"))]
const _: () = assert!(size_of::<Hold<'_>>() == size_of::<(Pin<'_>, &SegmentSet)>());

impl Hold<'_> {
    /// The segment.
    pub(crate) fn segment(&self) -> &Segment {
        match self {
            Self::Pinned(pin, _) => pin,
            Self::Owned(segment) => segment,
        }
    }

    /// The segment, which stays mapped as long as the caller keeps it.
    #[cold]
    pub(crate) fn into_segment(self) -> SegmentOwner {
        match self {
            Self::Pinned(pin, set) => set.pinned(&pin),
            Self::Owned(segment) => segment,
        }
    }
}

/// Bytes of a segment as bytes that own it: they keep it mapped, and nothing else.
///
/// # Safety
/// `bytes` are committed bytes of this segment.
pub(crate) unsafe fn into_bytes(segment: SegmentOwner, bytes: &[u8]) -> Bytes {
    // Its range in the map, from which the slice is taken again.
    let start = bytes.as_ptr() as usize - segment.map.address();
    Bytes::from_owner(OwnedRange { start: start as u64, len: bytes.len() as u64, segment })
}

struct OwnedRange {
    segment: SegmentOwner,
    start: u64,
    len: u64,
}

impl AsRef<[u8]> for OwnedRange {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range is one of committed bytes, which never change.
        unsafe { self.segment.map.slice(self.start, self.len) }
    }
}

/// The same bytes for a value that keeps them together with the segment.
///
/// # Safety
/// They are bytes of a segment that the value owns, and it lends them out only while it is borrowed.
pub(crate) const unsafe fn unbound(bytes: &[u8]) -> &'static [u8] {
    // SAFETY: they live as long as the segment is mapped, by the contract.
    unsafe { &*std::ptr::from_ref(bytes) }
}
