//! Records: the frames with a key. A put holds a key's value; a tombstone says that the key was deleted.
//!
//! ```text
//!  0  u64  commit word
//!  8  u64  header word: kind, flags, key length u16, value length u32
//! 16  u64  expiry, in ms since 1970      if the flag EXPIRES is set (puts only)
//!     u64  origin                        if the flag MOVED is set
//!          the key, and zeros up to a multiple of 8
//!          the value (puts only), and zeros up to a multiple of 8
//! ```
//!
//! The origin is the position that a record was first written at: a merge that moves it keeps it in the
//! copy. Of two records with one key the one with the higher origin counts; one that was never moved has
//! its own position for an origin.
//!
//! Only this file knows the layout. [`NewRecord`] writes it. A reader has a [`RecordHead`], which is
//! everything in front of the value and is readable as soon as a slot points at the record, or a whole
//! [`Record`], which is readable once the frame is committed.

use super::frame::{self, EXPIRES, HEADER, Header, Kind, MOVED, WORD, frame_len};
use super::{pad_to_8, u64_at};
use crate::position::LogPosition;

// Where the body's parts are, from its beginning. The expiry is at 0.

#[inline]
const fn origin_at(header: Header) -> usize {
    8 * (header.flags & EXPIRES) as usize
}

#[inline]
const fn key_at(header: Header) -> usize {
    header.fields_len() as usize
}

#[inline]
pub(super) const fn value_at(header: Header) -> usize {
    key_at(header) + pad_to_8(header.key_len as u64) as usize
}

/// The header, if a header word is that of a record.
#[inline]
fn header_of(word: u64) -> Option<Header> {
    Header::from_word(word).filter(|header| header.kind.has_key())
}

/// The expiry of a value that does not expire, where there is room for one nevertheless.
pub(crate) const NEVER: u64 = u64::MAX;

/// A record to be written. The bytes of its value are not in it, so that they are copied once, to where
/// they stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewRecord<'k> {
    header: Header,
    expiry: u64,
    origin: u64,
    key: &'k [u8],
}

impl<'k> NewRecord<'k> {
    /// A put of a value of this length. `None`: a key cannot have that length.
    #[inline]
    pub(crate) fn put(key: &'k [u8], value_len: u32, expiry: Option<u64>) -> Option<Self> {
        let flags = if expiry.is_some() { EXPIRES } else { 0 };
        let header = Header { kind: Kind::Put, flags, key_len: key_len(key)?, value_len };
        Some(Self { header, expiry: expiry.unwrap_or_default(), origin: 0, key })
    }

    /// A tombstone. `None`: a key cannot have that length.
    #[inline]
    pub(crate) fn tombstone(key: &'k [u8]) -> Option<Self> {
        let header = Header { kind: Kind::Delete, flags: 0, key_len: key_len(key)?, value_len: 0 };
        Some(Self { header, expiry: 0, origin: 0, key })
    }

    /// A copy of a record that was first written at `origin`.
    pub(crate) fn moved(record: Record<'k>, origin: LogPosition) -> Self {
        let header = record.header();
        let expiry = record.expiry().unwrap_or_default();
        Self { header, expiry, origin: 0, key: record.key() }.moved_from(origin)
    }

    /// The same record, but for that it was first written at `origin`.
    pub(crate) const fn moved_from(mut self, origin: LogPosition) -> Self {
        self.header.flags |= MOVED;
        self.origin = origin.as_u64();
        self
    }

    /// The same put, with another expiry.
    pub(crate) fn expiring(mut self, expiry: Option<u64>) -> Self {
        let flag = if expiry.is_some() { EXPIRES } else { 0 };
        self.header.flags = self.header.flags & !EXPIRES | flag;
        self.expiry = expiry.unwrap_or_default();
        self
    }

    #[inline]
    pub(crate) const fn header(&self) -> Header {
        self.header
    }

    #[inline]
    pub(crate) const fn key(&self) -> &'k [u8] {
        self.key
    }

    #[inline]
    pub(crate) const fn is_put(&self) -> bool {
        matches!(self.header.kind, Kind::Put)
    }

    /// Bytes of the whole frame.
    #[inline]
    pub(crate) const fn frame_len(&self) -> u64 {
        frame_len(self.body_len())
    }

    /// Bytes of the body, which the checksum covers.
    #[inline]
    pub(crate) const fn body_len(&self) -> u64 {
        self.header.body_len()
    }

    /// Where in the frame the value is.
    #[inline]
    pub(crate) const fn value_at(&self) -> u64 {
        HEADER + value_at(self.header) as u64
    }

    /// Calls `write` with each part in front of the value, and where it is in the frame. What it is not
    /// called with is zero, as every segment is where nothing was written.
    #[inline]
    pub(crate) fn write_head(&self, mut write: impl FnMut(u64, &[u8])) {
        write(WORD, &self.header.to_word().to_le_bytes());
        if self.header.flags != 0 {
            if self.header.flags & EXPIRES != 0 {
                write(HEADER, &self.expiry.to_le_bytes());
            }
            if self.header.flags & MOVED != 0 {
                write(HEADER + origin_at(self.header) as u64, &self.origin.to_le_bytes());
            }
        }
        write(HEADER + key_at(self.header) as u64, self.key);
    }

    /// The whole frame, as it is at a place in a segment.
    #[cfg(test)]
    pub(crate) fn to_frame(self, salt: u64, offset: u64, value: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; self.frame_len() as usize];
        let mut write = |at: u64, part: &[u8]| {
            frame[at as usize..][..part.len()].copy_from_slice(part);
        };
        self.write_head(&mut write);
        write(self.value_at(), value);
        let body = &frame[HEADER as usize..][..self.body_len() as usize];
        let word = frame::word_of(salt, offset, self.header, body);
        frame[..8].copy_from_slice(&word.to_le_bytes());
        frame
    }
}

#[inline]
fn key_len(key: &[u8]) -> Option<u16> {
    u16::try_from(key.len()).ok().filter(|&len| len > 0)
}

/// Appends the frame of a record that was never moved, but for its commit word, which depends on its place,
/// and its expiry, if it `has_expiry`: zeros stand for them. Lengths that a record cannot have are cut off.
#[inline]
pub(crate) fn push_frame(frames: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>, has_expiry: bool) {
    let kind = if value.is_some() { Kind::Put } else { Kind::Delete };
    let value = value.unwrap_or_default();
    let (key_len, value_len) = (key.len() as u16, value.len() as u32);
    let flags = if has_expiry { EXPIRES } else { 0 };
    let header = Header { kind, flags, key_len, value_len };
    frames.reserve(HEADER as usize + 8 + (key.len() + 8) + (value.len() + 8));
    frames.extend_from_slice(&(u128::from(header.to_word()) << 64).to_le_bytes());
    if has_expiry {
        frames.extend_from_slice(&[0; 8]);
    }
    for part in [key, value] {
        frames.extend_from_slice(part);
        let end = frames.len().next_multiple_of(8);
        frames.extend_from_slice(&[0; 8]);
        frames.truncate(end);
    }
}

/// Where the key is in the body of a record with this header word, if its key is that long. `None`: it
/// is not, or the header word is not that of a record.
#[inline]
pub(crate) fn key_place(header_word: u64, key_len: u64) -> Option<u64> {
    // Nearly always it is that of a put without flags.
    if header_word & 0xffff_ffff == Kind::Put as u64 | key_len << 16 && key_len > 0 {
        return Some(0);
    }
    let header = header_of(header_word)?;
    (u64::from(header.key_len) == key_len).then(|| key_at(header) as u64)
}

/// The header and the key of a record, and all that is between them. Not verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordHead<'a> {
    header: Header,
    /// The body, up to the end of the key at least.
    body: &'a [u8],
}

impl<'a> RecordHead<'a> {
    /// Reads a head. `body` gives the first bytes of the body, as many as it is asked for, if there
    /// are as many. `None`: the header word is not that of a record.
    #[inline]
    pub(crate) fn read(
        header_word: u64,
        body: impl FnOnce(u64) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let header = header_of(header_word)?;
        let len = key_at(header) + usize::from(header.key_len);
        let body = body(len as u64)?;
        (body.len() >= len).then_some(Self { header, body })
    }

    #[inline]
    pub(crate) const fn header(&self) -> Header {
        self.header
    }

    #[inline]
    pub(crate) const fn is_put(&self) -> bool {
        matches!(self.header.kind, Kind::Put)
    }

    #[inline]
    pub(crate) fn key(&self) -> &'a [u8] {
        &self.body[key_at(self.header)..][..usize::from(self.header.key_len)]
    }

    /// When it expires, in milliseconds since 1970.
    #[inline]
    pub(crate) fn expiry(&self) -> Option<u64> {
        (self.header.flags & EXPIRES != 0).then(|| u64_at(self.body, 0))
    }

    /// The position that it was first written at, if a merge has moved it.
    #[inline]
    pub(crate) fn origin(&self) -> Option<LogPosition> {
        let is_moved = self.header.flags & MOVED != 0;
        is_moved.then(|| LogPosition::from_u64(u64_at(self.body, origin_at(self.header))))
    }
}

/// A whole record. Not verified, unless its maker says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a>(RecordHead<'a>);

impl<'a> Record<'a> {
    /// The record in a header and the body of its frame, if it is one and they fit.
    #[inline]
    pub(crate) fn new(header: Header, body: &'a [u8]) -> Option<Self> {
        let fits = header.kind.has_key() && header.body_len() == body.len() as u64;
        fits.then_some(Self(RecordHead { header, body }))
    }

    /// The record in the bytes of a frame with this commit word, at a place in a segment, if it is one, fits,
    /// and is sound. Its checksum is not looked at unless `verify` is set.
    #[inline(always)]
    pub(crate) fn in_committed(
        frame: &'a [u8],
        word: u64,
        (salt, offset): (u64, u64),
        verify: bool,
    ) -> Option<Self> {
        let header_word = u64_at(frame.get(..HEADER as usize)?, 8);
        let header = header_of(header_word)?;
        let (len, body_len) = (frame.len() as u64, header.body_len());
        if frame_len(body_len) != len {
            return None;
        }
        let body = &frame[HEADER as usize..][..body_len as usize];
        let sound = || frame::commit_word(salt, offset, len, header_word, frame::crc(body)) == word;
        (!verify || sound()).then_some(Self(RecordHead { header, body }))
    }

    /// Empty for a tombstone.
    #[inline]
    pub(crate) fn value(&self) -> &'a [u8] {
        &self.0.body[value_at(self.0.header)..]
    }

    /// The commit word that it has at a place in a segment, if it is sound.
    #[inline]
    pub(crate) fn commit_word(&self, salt: u64, offset: u64) -> u64 {
        frame::word_of(salt, offset, self.0.header, self.0.body)
    }
}

impl<'a> std::ops::Deref for Record<'a> {
    type Target = RecordHead<'a>;

    #[inline]
    fn deref(&self) -> &RecordHead<'a> {
        &self.0
    }
}

/// The key and the origin of a record that is damaged, as far as its bytes have them.
pub(crate) fn salvage(header: Header, body: &[u8]) -> (&[u8], Option<LogPosition>) {
    let key = body.get(key_at(header)..).and_then(|key| key.get(..header.key_len.into()));
    let is_moved = header.flags & MOVED != 0;
    let origin = is_moved.then(|| LogPosition::from_u64(u64_at(body, origin_at(header))));
    (key.unwrap_or_default(), origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes_of_a_put() {
        let put = NewRecord::put(b"key", 5, Some(0x0102)).unwrap();
        let origin = LogPosition::new(7, 0x80);
        let plain = NewRecord::put(b"key", 5, None).unwrap().to_frame(1, 128, b"value");
        assert_eq!(plain.len(), 32);
        assert_eq!(&plain[8..16], &[4, 0, 3, 0, 5, 0, 0, 0]);
        assert_eq!(&plain[16..], b"key\0\0\0\0\0value\0\0\0");
        let expires = put.to_frame(1, 128, b"value");
        assert_eq!(&expires[8..16], &[4, 1, 3, 0, 5, 0, 0, 0]);
        assert_eq!(&expires[16..], b"\x02\x01\0\0\0\0\0\0key\0\0\0\0\0value\0\0\0");
        let moved = put.moved_from(origin).to_frame(1, 128, b"value");
        assert_eq!(&moved[8..16], &[4, 3, 3, 0, 5, 0, 0, 0]);
        assert_eq!(&moved[16..32], b"\x02\x01\0\0\0\0\0\0\x80\0\0\0\x07\0\0\0");
        assert_eq!(&moved[32..], b"key\0\0\0\0\0value\0\0\0");
    }

    #[test]
    fn golden_bytes_of_a_tombstone() {
        let tombstone = NewRecord::tombstone(b"eightkey").unwrap();
        let plain = tombstone.to_frame(1, 128, b"");
        assert_eq!(&plain[8..], b"\x05\0\x08\0\0\0\0\0eightkey");
        let moved = tombstone.moved_from(LogPosition::new(7, 0x80)).to_frame(1, 128, b"");
        assert_eq!(&moved[8..], b"\x05\x02\x08\0\0\0\0\0\x80\0\0\0\x07\0\0\0eightkey");
    }

    #[test]
    fn keys_have_1_to_65535_bytes() {
        let long = vec![1; 65_536];
        for key in [&b""[..], &long] {
            assert!(NewRecord::put(key, 0, None).is_none());
            assert!(NewRecord::tombstone(key).is_none());
        }
        assert!(NewRecord::put(&long[1..], 0, None).is_some());
    }

    fn any_record() -> impl Strategy<Value = (Vec<u8>, Option<Vec<u8>>, Option<u64>, Option<u64>)> {
        let bytes = |from, to| prop::collection::vec(any::<u8>(), from..to);
        (bytes(1, 300), prop::option::of(bytes(0, 300)), any::<Option<u64>>(), any::<Option<u64>>())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            (key, value, expiry, origin) in any_record(),
            salt: u64,
            offset in 0..1u64 << 29,
            second: u64,
        ) {
            let (offset, expiry) = (offset * 8, expiry.filter(|_| value.is_some()));
            let bytes = value.clone().unwrap_or_default();
            let new = match value {
                Some(_) => NewRecord::put(&key, bytes.len() as u32, expiry),
                None => NewRecord::tombstone(&key),
            };
            let new = new.unwrap();
            let new = origin.map_or(new, |origin| new.moved_from(LogPosition::from_u64(origin)));
            prop_assert_eq!(new.is_put(), value.is_some());
            if value.is_some() {
                for first in [None, Some(7)] {
                    let again = new.expiring(first).expiring(expiry);
                    prop_assert_eq!(
                        again.to_frame(salt, offset, &bytes),
                        new.to_frame(salt, offset, &bytes)
                    );
                }
            }
            let frame = new.to_frame(salt, offset, &bytes);
            prop_assert_eq!(frame.len() as u64, new.frame_len());
            prop_assert!(new.value_at() + bytes.len() as u64 == HEADER + new.body_len());

            let record = Record::in_committed(&frame, 0, (0, 0), false).unwrap();
            prop_assert_eq!(record.header(), new.header());
            prop_assert_eq!((record.key(), record.value()), (&key[..], &bytes[..]));
            prop_assert_eq!((record.is_put(), record.expiry()), (value.is_some(), expiry));
            prop_assert_eq!(record.origin().map(LogPosition::as_u64), origin);
            let word = u64_at(&frame, 0);
            prop_assert_eq!(record.commit_word(salt, offset), word);
            prop_assert!(Record::in_committed(&frame, word, (salt, offset), true).is_some());
            prop_assert!(Record::in_committed(&frame, word ^ 1 << 32, (salt, offset), true).is_none());

            // The frame verifies, and what was verified is the same record.
            let parsed = frame::Word::parse(word, frame.len() as u64).unwrap().unwrap();
            let header = frame::verify_committed(salt, offset, parsed, &frame).unwrap();
            let body = &frame[HEADER as usize..][..header.body_len() as usize];
            let verified = Record::new(header, body).unwrap();
            prop_assert_eq!((verified.key(), verified.value()), (&key[..], &bytes[..]));
            prop_assert!(Record::new(header, &body[1..]).is_none());

            // A head needs nothing of the value.
            let head = |len: u64| frame[HEADER as usize..].get(..len as usize);
            let head = RecordHead::read(new.header().to_word(), head).unwrap();
            prop_assert_eq!((head.key(), head.expiry()), (&key[..], expiry));
            prop_assert_eq!(head.origin().map(LogPosition::as_u64), origin);
            let salvaged = salvage(header, body);
            prop_assert_eq!((salvaged.0, salvaged.1), (&key[..], head.origin()));

            // A copy of a copy keeps everything but the origin.
            let copy = NewRecord::moved(record, LogPosition::from_u64(second));
            let copied = copy.to_frame(salt, offset, record.value());
            let copied = Record::in_committed(&copied, 0, (0, 0), false).unwrap();
            prop_assert_eq!((copied.key(), copied.value()), (&key[..], &bytes[..]));
            prop_assert_eq!((copied.is_put(), copied.expiry()), (value.is_some(), expiry));
            prop_assert_eq!(copied.origin().map(LogPosition::as_u64), Some(second));
        }

        #[test]
        fn the_frame_of_a_batch_is_that_of_a_record(
            key in prop::collection::vec(any::<u8>(), 1..100),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..100)),
            expires: bool,
        ) {
            let mut frames = vec![9; 8];
            let expires = expires && value.is_some();
            push_frame(&mut frames, &key, value.as_deref(), expires);
            let new = match &value {
                Some(value) => NewRecord::put(&key, value.len() as u32, expires.then_some(0)),
                None => NewRecord::tombstone(&key),
            };
            let frame = new.unwrap().to_frame(1, 8, &value.unwrap_or_default());
            prop_assert_eq!(&frames[8..16], &[0; 8]);
            prop_assert_eq!(&frames[16..], &frame[WORD as usize..]);
        }

        #[test]
        fn no_bytes_make_a_view_panic(bytes: Vec<u8>, word: u64) {
            if let Some(record) = Record::in_committed(&bytes, 0, (0, 0), false) {
                let _ = (record.key(), record.value(), record.expiry(), record.origin());
            }
            if let Some(head) = RecordHead::read(word, |len| bytes.get(..len as usize)) {
                let _ = (head.key(), head.expiry(), head.origin());
            }
            if let Some(header) = Header::from_word(word) {
                let _ = salvage(header, &bytes);
                prop_assert!(header.body_len() > 0 || Record::new(header, &bytes).is_none());
            }
        }
    }
}
