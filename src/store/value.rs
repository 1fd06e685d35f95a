//! Values in place.

#![allow(unsafe_code, reason = "bytes that are kept beside their segment")]

use crate::position::LogPosition;
use crate::segment::held::{self, Hold};
use crate::segment::set::{Pin, SegmentSet};
use bytes::Bytes;
use std::fmt;
use std::ops::Deref;

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
///
/// A `Value<'static>`, which [`into_owned`](Self::into_owned) makes, borrows nothing: it can be returned, sent
/// to another thread, and kept after the store is closed.
pub struct Value<'a> {
    /// Lent out only while the value, and with it the segment, is borrowed.
    bytes: &'a [u8],
    position: LogPosition,
    hold: Hold<'a>,
}

impl<'a> Value<'a> {
    #[inline]
    pub(crate) const fn new(
        bytes: &'a [u8],
        position: LogPosition,
        pin: Pin<'a>,
        table: &'a SegmentSet,
    ) -> Self {
        Self { bytes, position, hold: Hold::Pinned(pin, table) }
    }

    /// The position of its frame.
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        self.position
    }

    /// The position that it was written at, which the write has returned. It stays the same when a merge
    /// moves the frame, so it tells one version of a value from the next; a batch can
    /// [expect](super::Batch::expect) it.
    #[must_use]
    #[allow(unsafe_code, reason = "reads the head of a committed frame")]
    pub fn written_at(&self) -> LogPosition {
        let offset = self.position.offset().into();
        let segment = self.hold.segment();
        // SAFETY: the frame of a value, which was seen committed, in the segment that the value keeps.
        let head = unsafe { segment.record_head(offset) };
        head.map_or(self.position, |head| segment.origin_of(offset, &head))
    }

    /// A copy of the bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// The same value, without copying its bytes and without borrowing the store. It keeps its segment
    /// mapped as long as it exists, and nothing else.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// use tailcask::{ReadError, Store, Value};
    ///
    /// fn read(store: &Store, key: &str) -> Result<Option<Value<'static>>, ReadError> {
    ///     Ok(store.get(key)?.map(Value::into_owned))
    /// }
    ///
    /// store.put("colour", "green")?;
    /// let value = read(&store, "colour")?.expect("just put");
    /// drop(store);
    /// let sent = std::thread::spawn(move || assert_eq!(&*value, b"green"));
    /// # sent.join().expect("no panic");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        // SAFETY: the value owns the segment, and lends its bytes out only while it is borrowed.
        let bytes = unsafe { held::unbound(self.bytes) };
        let hold = Hold::Owned(self.hold.into_segment());
        Value { bytes, position: self.position, hold }
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
        // SAFETY: the bytes of a committed value.
        unsafe { held::into_bytes(self.hold.into_segment(), self.bytes) }
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
