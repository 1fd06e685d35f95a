//! Frames: the commit word, the header word, and the checksum that binds them to their place.
//!
//! ```text
//!  0  u64  commit word: length (a multiple of 8) | state (low 3 bits); checksum (high half)
//!  8  u64  header word: kind u8, flags u8, key length u16, value length u32
//! 16       body: for an entry, its bytes; for a put or a delete, see `record`; for inputs, u32 ids;
//!          padding to 8
//! ```
//!
//! The checksum is `crc32(body) ^ seed`, where the seed mixes the segment's salt, the frame's offset,
//! its length and state, and its header word. So a frame verifies only at its own place in its own
//! segment, while the CRC of the body does not depend on the place.

use super::pad_to_8;
use crate::error::CorruptionKind;
use std::sync::LazyLock;

/// Bytes of the commit word, which is the shortest possible frame.
pub(crate) const WORD: u64 = 8;
/// Bytes before the body: commit word and header word.
pub(crate) const HEADER: u64 = 16;
/// A sync mark: a header and the position up to which the log is durable.
pub(crate) const SYNC_MARK: u64 = HEADER + 8;

/// The state of a frame: the low 3 bits of its commit word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Reserved by a writer that is still filling it. The length is known, the body is not.
    Claimed = 1,
    /// Complete and readable.
    Committed = 2,
    /// Claimed and abandoned.
    Void = 3,
    /// Never claimed: the rest of a full segment, or a hole that a dead process left.
    Pad = 4,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The bytes of one append.
    Entry = 1,
    /// The head of a batch; the value length is the number of frames in it.
    Batch = 2,
    /// "Everything before this position is durable."
    SyncMark = 3,
    /// A key and its value.
    Put = 4,
    /// The tombstone of a key.
    Delete = 5,
    /// The first frame of a merged segment: the ids of the segments that were merged into it, and
    /// into its siblings, as `u32`s.
    Inputs = 6,
}

impl Kind {
    /// Whether a frame of this kind is a record: it has a key.
    #[inline]
    pub(crate) const fn has_key(self) -> bool {
        matches!(self, Self::Put | Self::Delete)
    }
}

/// A flag of a put that expires. Each flag adds a field of 8 bytes in front of the key; see `record`.
pub(super) const EXPIRES: u8 = 1;
/// A flag of a record that a merge has moved.
pub(super) const MOVED: u8 = 2;
const _: () = assert!(EXPIRES == 1 && MOVED == 1 << 1, "as `fields_len` has it");

/// The header word of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) key_len: u16,
    pub(crate) value_len: u32,
}

impl Header {
    /// The header of a frame without a key.
    #[inline]
    pub(crate) const fn plain(kind: Kind, value_len: u32) -> Self {
        Self { kind, flags: 0, key_len: 0, value_len }
    }

    /// The header of an entry.
    #[inline]
    pub(crate) const fn entry(body: &[u8]) -> Self {
        Self::plain(Kind::Entry, body.len() as u32)
    }

    #[inline]
    pub(crate) const fn to_word(self) -> u64 {
        self.kind as u64
            | (self.flags as u64) << 8
            | (self.key_len as u64) << 16
            | (self.value_len as u64) << 32
    }

    #[inline]
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        let (flags, key_len) = ((word >> 8) as u8, (word >> 16) as u16);
        let value_len = (word >> 32) as u32;
        // Nearly always it is that of a put without flags.
        if word & 0xffff == Kind::Put as u64 && key_len > 0 {
            return Some(Self { kind: Kind::Put, flags: 0, key_len, value_len });
        }
        let kind = match word & 0xff {
            1 => Kind::Entry,
            2 => Kind::Batch,
            3 => Kind::SyncMark,
            4 => Kind::Put,
            5 => Kind::Delete,
            6 => Kind::Inputs,
            _ => return None,
        };
        let sound = match kind {
            Kind::Put => key_len > 0 && flags & !(EXPIRES | MOVED) == 0,
            Kind::Delete => key_len > 0 && flags & !MOVED == 0 && word >> 32 == 0,
            Kind::Inputs => key_len == 0 && flags == 0 && (word >> 32).is_multiple_of(4),
            _ => key_len == 0 && flags == 0,
        };
        sound.then_some(Self { kind, flags, key_len, value_len })
    }

    /// Bytes of the fields in front of the key.
    #[inline]
    pub(super) const fn fields_len(self) -> u64 {
        // Not `count_ones`: without an instruction for it, which not every processor has, it takes a dozen.
        8 * ((self.flags & EXPIRES) as u64 + (self.flags >> 1 & 1) as u64)
    }

    /// Bytes of body that the checksum covers.
    #[inline]
    pub(crate) const fn body_len(self) -> u64 {
        match self.kind {
            Kind::Batch => 0,
            _ => self.fields_len() + pad_to_8(self.key_len as u64) + self.value_len as u64,
        }
    }

    /// Whether it is the header of a record that a merge has moved.
    pub(crate) const fn is_moved(self) -> bool {
        self.flags & MOVED != 0
    }
}

/// The fields of a commit word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) len: u64,
    pub(crate) state: State,
    pub(crate) check: u32,
}

impl Word {
    /// Parses a commit word; `Ok(None)` if it is unwritten. The length is checked: a multiple of 8, at
    /// most `room`. The checksum is not.
    #[inline]
    pub(crate) fn parse(word: u64, room: u64) -> Result<Option<Self>, CorruptionKind> {
        if word == 0 {
            return Ok(None);
        }
        let state = match word & STATE {
            1 => State::Claimed,
            2 => State::Committed,
            3 => State::Void,
            4 => State::Pad,
            other => return Err(CorruptionKind::State(other as u8)),
        };
        let len = len_of(word);
        if len < WORD || len > room || (state == State::Committed && len < HEADER) {
            return Err(CorruptionKind::Length { length: len, room });
        }
        Ok(Some(Self { len, state, check: check_of(word) }))
    }
}

/// The bits of a commit word that hold the frame's state.
const STATE: u64 = 7;
/// The bits of a commit word that hold its length.
const LENGTH: u64 = 0xffff_fff8;

/// The length in a commit word.
#[inline]
pub(crate) const fn len_of(word: u64) -> u64 {
    word & LENGTH
}

/// Whether a commit word has a state.
#[inline]
pub(crate) const fn has_state(word: u64, state: State) -> bool {
    word & STATE == state as u64
}

/// The checksum in a commit word.
#[inline]
pub(crate) const fn check_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The low half of a commit word.
pub(super) const fn low(len: u64, state: State) -> u64 {
    len | state as u64
}

/// Mixes place and header into 32 bits: the folded 64x64 multiplication of the wyhash family.
#[inline]
const fn seed(salt: u64, offset: u64, low: u64, header: u64) -> u32 {
    let place = (offset << 32 | low) ^ 0x9e37_79b9_7f4a_7c15;
    let product = (salt ^ header) as u128 * place as u128;
    let folded = product as u64 ^ (product >> 64) as u64;
    folded as u32 ^ (folded >> 32) as u32
}

/// The commit word of a committed frame whose body has this CRC.
#[inline]
pub(crate) const fn commit_word(salt: u64, offset: u64, len: u64, header: u64, crc: u32) -> u64 {
    let low = low(len, State::Committed);
    ((crc ^ seed(salt, offset, low, header)) as u64) << 32 | low
}

/// The word of a frame without a body: claimed, void or pad.
#[inline]
pub(crate) const fn bare_word(salt: u64, offset: u64, len: u64, state: State) -> u64 {
    let low = low(len, state);
    (seed(salt, offset, low, 0) as u64) << 32 | low
}

/// The CRC-32 of a body (the polynomial of IEEE 802.3, reflected, as in zlib).
#[inline]
pub(crate) fn crc(body: &[u8]) -> u32 {
    // A cloned hasher has the processor's features detected already; detecting them takes 1.6 of 19 ns
    // for 100 B.
    let mut hasher = EMPTY.clone();
    hasher.update(body);
    hasher.finalize()
}

static EMPTY: LazyLock<crc32fast::Hasher> = LazyLock::new(crc32fast::Hasher::new);

/// The CRC-32 of a body given in several parts.
pub(crate) fn crc_parts(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// The length of a frame with a body of this many bytes.
#[inline]
pub(crate) const fn frame_len(body: u64) -> u64 {
    HEADER + pad_to_8(body)
}

/// Checks a claimed, void or pad word.
pub(crate) fn verify_bare(salt: u64, offset: u64, word: Word) -> Result<(), CorruptionKind> {
    expect(check_of(bare_word(salt, offset, word.len, word.state)), word.check)
}

/// Checks a committed frame and returns its header. `frame` are its bytes from the commit word on.
pub(crate) fn verify_committed(
    salt: u64,
    offset: u64,
    word: Word,
    frame: &[u8],
) -> Result<Header, CorruptionKind> {
    let crc = |len: u64| frame.get(16..usize::try_from(HEADER + len).ok()?).map(crc);
    verify_by(salt, offset, word, super::u64_at(frame, 8), crc)
}

/// As `verify_committed`; `crc` returns the CRC of the given number of body bytes, if there are as
/// many.
pub(crate) fn verify_by(
    salt: u64,
    offset: u64,
    word: Word,
    header_word: u64,
    crc: impl FnOnce(u64) -> Option<u32>,
) -> Result<Header, CorruptionKind> {
    let header = Header::from_word(header_word);
    let body_len = header.map_or(0, Header::body_len);
    let fits = match header.map(|h| h.kind) {
        Some(Kind::Entry | Kind::Put | Kind::Delete) => frame_len(body_len) == word.len,
        Some(Kind::SyncMark) => body_len == 8 && word.len == SYNC_MARK,
        Some(Kind::Batch) => word.len >= HEADER,
        Some(Kind::Inputs) => frame_len(body_len) == word.len && body_len.is_multiple_of(4),
        None => false,
    };
    let Some(header) = header.filter(|_| fits) else { return Err(CorruptionKind::Header) };
    let crc = crc(body_len).ok_or(CorruptionKind::Header)?;
    expect(check_of(commit_word(salt, offset, word.len, header_word, crc)), word.check)?;
    Ok(header)
}

/// The body of a committed entry, if `frame` is one and it verifies.
#[inline]
pub(crate) fn entry_body(salt: u64, offset: u64, word: u64, frame: &[u8]) -> Option<&[u8]> {
    let (len, header) = (frame.len() as u64, super::u64_at(frame, 8));
    if header & 0xffff_ffff != Kind::Entry as u64 || frame_len(header >> 32) != len {
        return None;
    }
    let body = &frame[HEADER as usize..][..(header >> 32) as usize];
    (commit_word(salt, offset, len, header, crc(body)) == word).then_some(body)
}

/// The complete first frame of a merged segment, for its place at `offset`.
pub(crate) fn inputs_frame(salt: u64, offset: u64, inputs: &[u32]) -> Vec<u8> {
    let body: Vec<u8> = inputs.iter().flat_map(|id| id.to_le_bytes()).collect();
    let header = Header::plain(Kind::Inputs, body.len() as u32);
    let mut frame = word_of(salt, offset, header, &body).to_le_bytes().to_vec();
    frame.extend(header.to_word().to_le_bytes());
    frame.extend(&body);
    frame.resize(frame_len(body.len() as u64) as usize, 0);
    frame
}

/// The length of such a frame with this many ids.
pub(crate) const fn inputs_len(ids: usize) -> u64 {
    frame_len(ids as u64 * 4)
}

/// The ids in the body of such a frame.
pub(crate) fn input_ids(body: &[u8]) -> impl ExactSizeIterator<Item = u32> + '_ {
    body.as_chunks::<4>().0.iter().map(|&id| u32::from_le_bytes(id))
}

/// The commit word that a committed frame has at its place.
#[inline]
pub(crate) fn word_of(salt: u64, offset: u64, header: Header, body: &[u8]) -> u64 {
    let len = frame_len(header.body_len());
    commit_word(salt, offset, len, header.to_word(), crc(body))
}

fn expect(expected: u32, found: u32) -> Result<(), CorruptionKind> {
    if expected == found { Ok(()) } else { Err(CorruptionKind::Checksum { expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(salt: u64, offset: u64, body: &[u8]) -> Vec<u8> {
        let len = frame_len(body.len() as u64);
        let header = Header::entry(body).to_word();
        let mut frame = commit_word(salt, offset, len, header, crc(body)).to_le_bytes().to_vec();
        frame.extend(header.to_le_bytes());
        frame.extend(body);
        frame.resize(len as usize, 0);
        frame
    }

    fn verify(salt: u64, offset: u64, frame: &[u8]) -> Result<Header, CorruptionKind> {
        let word = Word::parse(crate::format::u64_at(frame, 0), frame.len() as u64)?;
        let word = word.ok_or(CorruptionKind::Missing)?;
        if word.state != State::Committed {
            return Err(CorruptionKind::Header);
        }
        verify_committed(salt, offset, word, frame)
    }

    #[test]
    fn golden_bytes_of_an_entry() {
        let frame = build(0x0123_4567_89ab_cdef, 128, b"hello");
        assert_eq!(
            frame,
            [
                0x1a, 0x00, 0x00, 0x00, 0xf1, 0xa0, 0x4f,
                0x64, // length 24 | committed, checksum
                0x01, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00, // entry, 5 bytes
                b'h', b'e', b'l', b'l', b'o', 0, 0, 0,
            ]
        );
    }

    #[test]
    fn the_inputs_of_a_merge_round_trip() {
        let frame = inputs_frame(9, 128, &[3, 4, 7]);
        assert_eq!(frame.len(), 32);
        assert_eq!(&frame[8..28], [6, 0, 0, 0, 12, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(verify(9, 128, &frame), Ok(Header::plain(Kind::Inputs, 12)));
    }

    #[test]
    fn golden_words_without_body() {
        let salt = 0x0123_4567_89ab_cdef;
        assert_eq!(bare_word(salt, 128, 64, State::Claimed), 0xbfb4_447d_0000_0041);
        assert_eq!(bare_word(salt, 128, 64, State::Void), 0xb2f6_6b68_0000_0043);
        assert_eq!(bare_word(salt, 192, 8, State::Pad), 0x6144_8d04_0000_000c);
    }

    proptest! {
        #[test]
        fn round_trip(salt: u64, offset in 0u64..1 << 32, body: Vec<u8>) {
            let frame = build(salt, offset & !7, &body);
            let header = verify(salt, offset & !7, &frame).unwrap();
            prop_assert_eq!(header, Header::entry(&body));
        }

        #[test]
        fn nowhere_else(salt: u64, offset in 0u64..1 << 31, other in 0u64..1 << 31, body: Vec<u8>) {
            prop_assume!(offset & !7 != other & !7);
            let frame = build(salt, offset & !7, &body);
            prop_assert!(verify(salt, other & !7, &frame).is_err());
            prop_assert!(verify(salt ^ 1 << (other & 63), offset & !7, &frame).is_err());
        }

        #[test]
        fn a_flipped_bit_is_seen(salt: u64, body: Vec<u8>, at: prop::sample::Index) {
            let mut frame = build(salt, 128, &body);
            let bit = at.index((16 + body.len()) * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify(salt, 128, &frame).is_err());
        }

        #[test]
        fn any_word_is_parsed_or_refused(word: u64, room in 8u64..1 << 32) {
            if let Ok(Some(parsed)) = Word::parse(word, room) {
                prop_assert!(parsed.len >= 8 && parsed.len <= room && parsed.len % 8 == 0);
            }
        }
    }
}
