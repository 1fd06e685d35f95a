//! The search for the next sound frame behind damage, in time linear in the bytes searched.
//!
//! It tries every multiple of 8, which is safe: a checksum depends on the segment's salt and on the
//! place, so neither chance nor a user's bytes can match it. But a value may be full of words that look
//! like the beginnings of long frames, and each must be checked. So the CRC of a long body is not
//! computed from its bytes: it follows from the CRCs of the two prefixes that end where the body begins
//! and ends, and those are computed once for all places.

use crate::format::frame::{self, HEADER, Kind, State, Word};
use crate::format::u64_at;
use crc32fast::Hasher;

/// Bodies up to this length are checksummed directly.
const SHORT: u64 = 256;

/// A search through a segment's bytes, which are not read before the first search.
pub(crate) struct Search<'s, F> {
    load: F,
    bytes: &'s [u8],
    salt: u64,
    sums: Option<Sums<'s>>,
    /// Number of bytes checksummed.
    work: u64,
}

impl<'s, F: Fn() -> &'s [u8]> Search<'s, F> {
    /// A search in the bytes of a segment that is not being written to, from its first byte on.
    pub(crate) const fn new(salt: u64, load: F) -> Self {
        Self { load, bytes: &[], salt, sums: None, work: 0 }
    }

    /// The first multiple of 8 from `from` on at which a sound frame begins that is not merely claimed.
    pub(crate) fn next(&mut self, from: u64) -> Option<u64> {
        self.bytes = (self.load)();
        let end = self.bytes.len() as u64 & !7;
        (from..end).step_by(8).find(|&at| self.is_sound(at))
    }

    fn is_sound(&mut self, at: u64) -> bool {
        let (bytes, salt) = (self.bytes, self.salt);
        let room = bytes.len() as u64 - at;
        let Ok(Some(word)) = Word::parse(u64_at(bytes, at as usize), room) else { return false };
        match word.state {
            State::Claimed => false,
            State::Void | State::Pad => frame::verify_bare(salt, at, word).is_ok(),
            State::Committed => {
                let header = u64_at(bytes, at as usize + 8);
                let crc = |len: u64| (HEADER + len <= word.len).then(|| self.crc(at + HEADER, len));
                let verified = frame::verify_by(salt, at, word, header, crc);
                verified.is_ok_and(|header| header.kind != Kind::Batch || word.len > HEADER)
            }
        }
    }

    /// The CRC of `len` bytes, which exist.
    fn crc(&mut self, from: u64, len: u64) -> u32 {
        let bytes = self.bytes;
        if len <= SHORT {
            self.work += len;
            return frame::crc(&bytes[from as usize..][..len as usize]);
        }
        if self.sums.as_ref().is_none_or(|sums| sums.from > from) {
            self.work += bytes.len() as u64 - from;
            self.sums = Some(Sums::new(bytes, from));
        }
        self.sums.as_ref().map_or(0, |sums| sums.between(from, len))
    }
}

/// The CRCs of all ranges that begin at one place and end a multiple of 8 bytes later.
struct Sums<'s> {
    bytes: &'s [u8],
    from: u64,
    /// Takes half as many bytes as are searched.
    upto: Vec<u32>,
}

impl<'s> Sums<'s> {
    fn new(bytes: &'s [u8], from: u64) -> Self {
        let words = bytes[from as usize..].as_chunks::<8>().0;
        let mut hasher = Hasher::new();
        let mut upto = Vec::with_capacity(words.len() + 1);
        upto.push(0);
        upto.extend(words.iter().map(|word| {
            hasher.update(word);
            hasher.clone().finalize()
        }));
        Self { bytes, from, upto }
    }

    /// The CRC of the bytes before a place.
    fn before(&self, at: u64) -> u32 {
        let whole = (at - self.from) as usize / 8;
        let rest = &self.bytes[self.from as usize + whole * 8..at as usize];
        let mut hasher = Hasher::new_with_initial(self.upto[whole]);
        hasher.update(rest);
        hasher.finalize()
    }

    /// The CRC of `len` bytes: crc(a ++ b) is crc(a), shifted by the length of b, xor crc(b).
    fn between(&self, from: u64, len: u64) -> u32 {
        let (a, ab) = (self.before(from), self.before(from + len));
        let mut shifted = Hasher::new_with_initial_len(a, from - self.from);
        shifted.combine(&Hasher::new_with_initial_len(0, len));
        shifted.finalize() ^ ab
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::{Header, frame_len};
    use proptest::prelude::*;

    fn entry(salt: u64, at: u64, body: &[u8]) -> Vec<u8> {
        let header = Header::entry(body);
        let mut bytes = frame::word_of(salt, at, header, body).to_le_bytes().to_vec();
        bytes.extend(header.to_word().to_le_bytes());
        bytes.extend(body);
        bytes.resize(frame_len(body.len() as u64) as usize, 0);
        bytes
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_bytes(
            bytes in prop::collection::vec(any::<u8>(), 64..2000),
            from in 0usize..8,
            at in any::<prop::sample::Index>(),
            len in any::<prop::sample::Index>(),
        ) {
            let (from, room) = (from * 8, bytes.len() - from * 8);
            let at = at.index(room);
            let len = len.index(room - at + 1);
            let sums = Sums::new(&bytes, from as u64);
            let expected = frame::crc(&bytes[from + at..][..len]);
            prop_assert_eq!(sums.between((from + at) as u64, len as u64), expected);
        }
    }

    #[test]
    fn the_next_sound_frame_is_found_whatever_its_length() {
        for len in [0, 8, 200, 300, 5000] {
            let mut bytes = vec![0xff; 1024];
            bytes.extend(entry(7, 1024, &vec![3; len]));
            assert_eq!(Search::new(7, || &bytes[..]).next(128), Some(1024), "{len}");
            assert_eq!(Search::new(8, || &bytes[..]).next(128), None, "of another segment");
        }
    }

    /// A value made of copies of frames that are sound elsewhere, each as long as there is room.
    #[test]
    fn what_looks_like_frames_costs_no_more_than_its_bytes() {
        const LEN: usize = 1 << 20;
        let mut bytes = vec![0; LEN];
        for at in (0..LEN - 16).step_by(16) {
            let body = (LEN - at - 16) as u64;
            let header = Header::plain(Kind::Entry, body as u32).to_word();
            let word = frame::commit_word(7, at as u64 + 8, frame_len(body), header, 1);
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&header.to_le_bytes());
        }
        let mut search = Search::new(7, || &bytes[..]);
        assert_eq!(search.next(0), None);
        assert!(search.work <= 2 * LEN as u64, "{} of {LEN} bytes", search.work);
    }
}
