//! Values in place.

use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::set::{Pin, SegmentSet};
use bytes::Bytes;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A value, in place in the mapped segment, 8-byte aligned. Dereferences to its bytes.
///
/// While it is kept, its segment stays mapped; nothing else is affected.
///
/// Because it is aligned, numbers can be read in place, without a copy:
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

    /// The position of its frame.
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        self.position
    }

    /// A copy of the bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// The same bytes, without copying them and without borrowing the store. They keep their segment
    /// mapped as long as they exist, and nothing else.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// store.put("page", "<html>")?;
    /// let bytes = store.get("page")?.expect("just put").into_bytes();
    /// std::thread::spawn(move || assert_eq!(bytes, "<html>")).join().expect("it is equal");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        let segment = self.table.pinned(&self.pin);
        // Its range in the map, from which the slice is taken again.
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
        // SAFETY: the range is that of a committed value, which never changes.
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
