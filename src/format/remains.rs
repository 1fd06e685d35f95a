//! What a damaged frame's bytes still reveal: its key and its length.
//!
//! Only for reports: no value is ever taken from a frame that does not verify. If a single bit was
//! flipped, the checksum tells which one, and the result is certain; damage of another kind looks like
//! this by chance in one of about 2^32 / bits cases.

use super::frame::{
    self, HEADER, Header, Kind, State, WORD, Word, check_of, commit_word, crc, frame_len,
    has_state, len_of,
};
use super::{record, u64_at};
use crate::position::LogPosition;

/// The polynomial of CRC-32, reflected.
const POLYNOMIAL: u32 = 0xedb8_8320;
/// Flipped bits are not searched for in longer bodies.
const BODY_MAX: usize = 64 << 20;

/// What was at a damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remains {
    /// A pad or an abandoned claim: nothing is lost.
    Nothing {
        len: u64,
    },
    Frame(Remnant),
}

/// A damaged frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remnant {
    pub(crate) header: Header,
    pub(crate) len: u64,
    /// Empty if it has no key.
    pub(crate) key: Vec<u8>,
    /// Its origin, if a merge moved it.
    pub(crate) origin: Option<LogPosition>,
    /// Whether its checksum confirms it. Otherwise it is what the damaged bytes say.
    pub(crate) certain: bool,
}

impl Remnant {
    fn new(header: Header, len: u64, body: &[u8], certain: bool) -> Self {
        let (key, origin) = record::salvage(header, body);
        Self { header, len, key: key.to_vec(), origin, certain }
    }
}

/// Examines the frame at an offset of a segment. `bytes` begin there and end where the frame must end.
pub(crate) fn look(salt: u64, offset: u64, bytes: &[u8]) -> Option<Remains> {
    let room = bytes.len() as u64;
    let word = (room >= WORD).then(|| u64_at(bytes, 0))?;
    if let Some(len) = bare(salt, offset, word, room) {
        return Some(Remains::Nothing { len });
    }
    let found = (room >= HEADER).then(|| u64_at(bytes, 8))?;
    let frame = DamagedFrame { salt, offset, word, bytes };
    let flipped = (0..64).map(|bit| found ^ 1 << bit);
    let whole = std::iter::once(found).chain(flipped);
    let certain = whole.filter_map(|header| frame.sound(header, header == found)).next();
    let certain = certain.or_else(|| frame.sound_batch(found));
    certain.or_else(|| frame.plausible(found)).map(Remains::Frame)
}

/// The length of a frame without a body, if at most one bit of its word was flipped.
fn bare(salt: u64, offset: u64, word: u64, room: u64) -> Option<u64> {
    let all = std::iter::once(word).chain((0..64).map(|bit| word ^ 1 << bit));
    let words = all.filter_map(|word| Word::parse(word, room).ok().flatten());
    let mut bare = words.filter(|word| word.state != State::Committed);
    bare.find(|&word| frame::verify_bare(salt, offset, word).is_ok()).map(|word| word.len)
}

struct DamagedFrame<'b> {
    salt: u64,
    offset: u64,
    word: u64,
    bytes: &'b [u8],
}

impl<'b> DamagedFrame<'b> {
    fn check(&self) -> u32 {
        check_of(self.word)
    }

    /// The checksum that a frame with this header and CRC would have.
    fn expected(&self, header: Header, len: u64, crc: u32) -> u32 {
        check_of(commit_word(self.salt, self.offset, len, header.to_word(), crc))
    }

    /// Whether the low half of the commit word agrees.
    fn says(&self, len: u64) -> bool {
        has_state(self.word, State::Committed) && len_of(self.word) == len
    }

    /// The length and the body of a frame with this header, if it fits.
    fn body(&self, header: Header) -> Option<(u64, &'b [u8])> {
        let len = match header.kind {
            Kind::Batch => len_of(self.word),
            _ => frame_len(header.body_len()),
        };
        let fits = (HEADER..=self.bytes.len() as u64).contains(&len);
        fits.then(|| (len, &self.bytes[HEADER as usize..][..header.body_len() as usize]))
    }

    /// The frame, if it verifies with this header word. If that is the stored one, the length in the
    /// commit word may differ.
    fn sound(&self, header: u64, as_found: bool) -> Option<Remnant> {
        let header = Header::from_word(header)?;
        let (len, body) = self.body(header)?;
        if !as_found && !self.says(len) {
            return None;
        }
        let sound = self.expected(header, len, crc(body)) == self.check();
        sound.then(|| Remnant::new(header, len, body, true))
    }

    /// The head of a batch with a flipped bit in its length or state.
    fn sound_batch(&self, header: u64) -> Option<Remnant> {
        let header = Header::from_word(header).filter(|header| header.kind == Kind::Batch)?;
        let words = (0..32).map(|bit| self.word ^ 1 << bit);
        let lens = words.filter(|&word| has_state(word, State::Committed)).map(len_of);
        let mut lens = lens.filter(|len| (HEADER..=self.bytes.len() as u64).contains(len));
        let len = lens.find(|&len| self.expected(header, len, crc(&[])) == self.check())?;
        Some(Remnant::new(header, len, &[], true))
    }

    /// The frame according to its length and header, with the bit corrected that its checksum points
    /// at.
    fn plausible(&self, header: u64) -> Option<Remnant> {
        let header = Header::from_word(header)?;
        let (len, body) = self.body(header).filter(|(len, _)| self.says(*len))?;
        let error = self.expected(header, len, crc(body)) ^ self.check();
        if error.count_ones() == 1 {
            return Some(Remnant::new(header, len, body, true));
        }
        let Some(bit) = flipped_bit(error, body.len()) else {
            return Some(Remnant::new(header, len, body, false));
        };
        // A report needs only what comes before the value.
        let mut head = body[..record::value_at(header).min(body.len())].to_vec();
        if let Some(byte) = head.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        Some(Remnant::new(header, len, &head, true))
    }
}

/// The single bit that, flipped in this many bytes, changes their CRC by `error`.
fn flipped_bit(error: u32, len: usize) -> Option<usize> {
    if len > BODY_MAX {
        return None;
    }
    let mut change = POLYNOMIAL;
    for from_end in 1..=len * 8 {
        if change == error {
            return Some(len * 8 - from_end);
        }
        change = change >> 1 ^ if change & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x0123_4567_89ab_cdef;

    fn put(key: &[u8], value: &[u8]) -> Vec<u8> {
        let put = record::NewRecord::put(key, value.len() as u32, None).unwrap();
        put.to_frame(SALT, 128, value)
    }

    #[test]
    fn whichever_bit_is_flipped_the_key_is_told_for_certain() {
        let good = put(b"some key", b"and its value, which is longer");
        // Padding is not covered by the checksum.
        for bit in 0..(16 + 8 + 30) * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes.extend([0xaa; 64]);
            let Some(Remains::Frame(told)) = look(SALT, 128, &bytes) else { panic!("bit {bit}") };
            assert_eq!((&*told.key, told.len), (&b"some key"[..], good.len() as u64), "bit {bit}");
            assert!(told.certain && told.header.kind == Kind::Put, "bit {bit}");
        }
    }

    #[test]
    fn of_what_is_damaged_further_the_key_is_as_the_bytes_have_it() {
        let mut bytes = put(b"some key", &[5; 100]);
        bytes[40..60].fill(0);
        let Some(Remains::Frame(told)) = look(SALT, 128, &bytes) else { panic!() };
        assert_eq!((&*told.key, told.certain), (&b"some key"[..], false));
        bytes[8..16].fill(0xff);
        assert_eq!(look(SALT, 128, &bytes), None);
        assert_eq!(look(SALT, 128, &bytes[..7]), None);
        assert_eq!(look(SALT, 128, &[]), None);
    }

    #[test]
    fn a_pad_with_a_flipped_bit_is_nothing_lost() {
        let good = frame::bare_word(SALT, 128, 64, State::Pad);
        for bit in 0..64 {
            let mut bytes = (good ^ 1 << bit).to_le_bytes().to_vec();
            bytes.resize(64, 0);
            assert_eq!(look(SALT, 128, &bytes), Some(Remains::Nothing { len: 64 }), "bit {bit}");
        }
    }

    #[test]
    fn a_batch_is_told_by_its_head() {
        let header = Header::plain(Kind::Batch, 3);
        let word = commit_word(SALT, 128, 512, header.to_word(), crc(&[]));
        for bit in 0..128 {
            let mut bytes = [word.to_le_bytes(), header.to_word().to_le_bytes()].concat();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes.resize(1024, 7);
            let Some(Remains::Frame(told)) = look(SALT, 128, &bytes) else { panic!("bit {bit}") };
            assert_eq!((told.header, told.len, told.certain), (header, 512, true), "bit {bit}");
        }
    }
}
