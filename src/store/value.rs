//! Values in place.

use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::set::{Pin, SegmentSet};
use bytes::Bytes;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A value, in place in the store's map, 8-byte aligned.
///
/// While it is kept, its segment stays mapped; nothing else is held up.
///
/// Because it is aligned, numbers can be read where they are, without a copy:
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let store = tailcask::Store::open(dir.path().join("store"))?;
/// let samples: Vec<u64> = (0..1000).collect();
/// store.put("samples", bytemuck::cast_slice(&samples))?;
///
/// let value = store.get("samples")?.expect("just put");
/// let in_place: &[u64] = bytemuck::cast_slice(&value); // panics if it were not aligned
/// assert_eq!(in_place, samples);
/// assert_eq!(in_place.as_ptr().cast(), value.as_ptr());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Value<'a> {
    bytes: &'a [u8],
    position: LogPosition,
    pin: Pin<'a>,
    table: &'a SegmentSet,
}

impl<'a> Value<'a> {
    #[inline]
    pub(crate) const fn new(
        bytes: &'a [u8],
        position: LogPosition,
        pin: Pin<'a>,
        table: &'a SegmentSet,
    ) -> Self {
        Self { bytes, position, pin, table }
    }

    /// Where its frame is.
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        self.position
    }

    /// A copy.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// The same bytes without a borrow of the store: they keep their segment mapped for as long as
    /// they live, and nothing else.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        let segment = self.table.pinned(&self.pin);
        // Where it is in the map, to be cut out again from there.
        let start = self.bytes.as_ptr() as usize - segment.map.address();
        Bytes::from_owner(Owned { start: start as u64, len: self.bytes.len() as u64, segment })
    }
}

struct Owned {
    segment: Arc<Segment>,
    start: u64,
    len: u64,
}

impl AsRef<[u8]> for Owned {
    #[allow(unsafe_code, reason = "committed bytes of a segment that it owns")]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: it was handed out as a committed value, and those never change.
        unsafe { self.segment.map.slice(self.start, self.len) }
    }
}

impl Deref for Value<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl AsRef<[u8]> for Value<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({}, {} bytes)", self.position, self.bytes.len())
    }
}
