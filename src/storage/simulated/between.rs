//! States of a segment that writers pass through: what a death leaves of a segment that is being
//! written, and what a sector may have been between two known states.
//!
//! The disk does not notice when a byte is stored. But which states are possible follows from the
//! append protocol (`log/append/claim.rs`): a frame's first word is zero, then its claim, then its
//! commit, void or pad; its other bytes are stored after the claim and before the commit, in any order;
//! and a seal's first word is stored after its others.

use super::memory::{Memory, PAGE, SECTOR};
use super::sparse::{Sector, Sparse};
use crate::format::frame::{self, State, Word};
use crate::format::header::{FIRST_FRAME, SEAL, SegmentHeader};
use crate::format::u64_at;

/// The words of a seal.
const SEAL_END: usize = SEAL as usize + 32;
const HEAD: usize = FIRST_FRAME as usize;

/// A frame, or a gap in which none has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SegmentPart {
    Frame { at: usize, len: usize },
    Gap { at: usize, end: usize },
}

/// The salt of a segment; `None`: the file is not a segment.
fn salt(head: &[u8], len: usize) -> Option<u64> {
    (len >= HEAD).then(|| SegmentHeader::decode(head).ok()).flatten().map(|header| header.salt)
}

/// Why a walk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WalkEnd {
    /// Nothing was written from here on.
    Blank,
    /// At this offset is something that no writer leaves.
    Unknown(usize),
}

/// Walks over frames by their first words, from `at` on.
fn walk(
    word: impl Fn(usize) -> u64,
    next: impl Fn(usize) -> Option<usize>,
    salt: u64,
    (mut at, end): (usize, usize),
    parts: &mut Vec<SegmentPart>,
) -> WalkEnd {
    while at + 8 <= end {
        let here = word(at);
        if here == 0 {
            let Some(behind) = next(at).filter(|&behind| behind < end) else {
                return WalkEnd::Blank;
            };
            // The writer has claimed its range before: a second walk that starts after this byte was
            // seen finds the claim, wherever it is.
            if next(at) == Some(behind) {
                parts.push(SegmentPart::Gap { at, end: behind });
                at = behind;
            }
            continue;
        }
        let Ok(Some(parsed)) = Word::parse(here, (end - at) as u64) else {
            return WalkEnd::Unknown(at);
        };
        let is_bare = parsed.state != State::Committed;
        if is_bare && frame::verify_bare(salt, at as u64, parsed).is_err() {
            return WalkEnd::Unknown(at);
        }
        parts.push(SegmentPart::Frame { at, len: parsed.len as usize });
        at += parsed.len as usize;
    }
    WalkEnd::Blank
}

/// Copies a file while writers store to it. The copy is a state in which the process could have died.
///
/// A segment is copied from its end: each frame after all those that were reserved behind it. So if the
/// copy has an append, it also has every append that had returned before that one began.
pub(super) fn snapshot(memory: &Memory) -> Sparse {
    let mut copy = Sparse::default();
    let len = memory.len();
    let mut head = [0; HEAD];
    memory.read(0, &mut head[..HEAD.min(len)]);
    let Some(salt) = salt(&head, len) else {
        return verbatim(memory, copy, 0);
    };
    // A seal comes after the frames.
    copy.write(0, &head);
    let pages = memory.pages();
    let next = |at: usize| {
        let from = pages.partition_point(|&page| (page + 1) * PAGE <= at);
        pages[from..].iter().find_map(|&page| {
            let words = (page * PAGE).max(at)..((page + 1) * PAGE).min(len & !7);
            words.step_by(8).find(|&at| memory.word(at) != 0)
        })
    };
    let mut parts = Vec::new();
    let end = walk(|at| memory.word(at), next, salt, (HEAD, len), &mut parts);
    if let WalkEnd::Unknown(at) = end {
        copy = verbatim(memory, copy, at);
    }
    for part in parts.into_iter().rev() {
        match part {
            SegmentPart::Frame { at, len } => copy_frame(memory, &mut copy, at, len),
            SegmentPart::Gap { at, end } => {
                let mut inside = Vec::new();
                let near = |at| next(at).filter(|&behind| behind < end);
                walk(|at| memory.word(at), near, salt, (at, end), &mut inside);
                for part in inside.into_iter().rev() {
                    if let SegmentPart::Frame { at, len } = part {
                        copy_frame(memory, &mut copy, at, len);
                    }
                }
            }
        }
    }
    copy
}

/// The first word comes first: if it is a commit, what is read after it is whole.
fn copy_frame(memory: &Memory, copy: &mut Sparse, at: usize, len: usize) {
    let (mut at, end) = (at, at + len);
    let mut buffer = [0; PAGE];
    while at < end {
        let here = (PAGE - at % PAGE).min(end - at);
        memory.read(at, &mut buffer[..here]);
        copy.write(at, &buffer[..here]);
        at += here;
    }
}

fn verbatim(memory: &Memory, mut copy: Sparse, from: usize) -> Sparse {
    for page in memory.pages() {
        let at = (page * PAGE).max(from);
        let end = ((page + 1) * PAGE).min(memory.len());
        if at < end {
            copy_frame(memory, &mut copy, at, end - at);
        }
    }
    copy
}

/// The frames of a segment, to find out what its sectors may have been.
pub(super) struct FrameSpans {
    salt: Option<u64>,
    frames: Vec<(usize, usize)>,
    /// Behind this offset there are no known frames.
    end: usize,
}

impl FrameSpans {
    pub(super) fn of(bytes: &Sparse, len: usize) -> Self {
        let salt = salt(&bytes.read(0..HEAD.min(len)), len);
        let mut parts = Vec::new();
        let mut end = 0;
        if let Some(salt) = salt {
            let last = bytes.pages().last().map_or(0, |page| ((page + 1) * PAGE).min(len & !7));
            let next = |at: usize| (at..last).step_by(8).find(|&at| bytes.word(at) != 0);
            end = match walk(|at| bytes.word(at), next, salt, (HEAD, len), &mut parts) {
                WalkEnd::Blank => len,
                WalkEnd::Unknown(at) => at,
            };
        }
        let frames = parts.into_iter().filter_map(|part| match part {
            SegmentPart::Frame { at, len } => Some((at, len)),
            SegmentPart::Gap { .. } => None,
        });
        Self { salt, frames: frames.collect(), end }
    }

    /// A state of a sector on its way from `old` to `new`: each word is one or the other, as far as the
    /// append protocol allows it.
    pub(super) fn between(
        &self,
        sector: usize,
        old: &Sector,
        new: &Sector,
        mut seed: u64,
    ) -> Sector {
        let from = sector * SECTOR;
        let mut random = move || {
            // SplitMix64.
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        };
        let (Some(salt), true) = (self.salt, from + SECTOR <= self.end) else {
            return if random() % 2 == 0 { *old } else { *new };
        };
        // From "nearly nothing" to "nearly everything".
        let taken_in_8 = 1 + random() % 7;
        let mut taken = [false; SECTOR / 8];
        taken.fill_with(|| random() >> 8 & 7 < taken_in_8);
        let first = self.frames.partition_point(|(at, len)| at + len <= from);
        let here = self.frames[first..].iter().take_while(|(at, _)| *at < from + SECTOR);
        // Of a frame in three nothing is there, of another one all.
        for &(at, len) in here.clone() {
            let words = at.saturating_sub(from) / 8..(at + len - from).min(SECTOR) / 8;
            match random() % 3 {
                0 => taken[words].fill(false),
                1 => taken[words].fill(true),
                _ => {}
            }
        }
        let mut state = *old;
        let mut put = |at: usize, word: u64| state[at..at + 8].copy_from_slice(&word.to_le_bytes());
        let changed = |at: usize| u64_at(old, at) != u64_at(new, at);
        for at in (0..SECTOR).step_by(8).filter(|at| taken[at / 8]) {
            put(at, u64_at(new, at));
        }
        let missing = |at: usize| changed(at) && !taken[at / 8];
        let seal = SEAL as usize;
        if sector == 0 && (seal + 8..SEAL_END).step_by(8).any(missing) {
            put(seal, u64_at(old, seal));
        }
        for &(at, len) in here {
            let Some(place) = at.checked_sub(from).filter(|&place| changed(place)) else {
                continue;
            };
            let (before, after) = (u64_at(old, place), u64_at(new, place));
            let body =
                || (place + 8..(place + len).min(SECTOR)).step_by(8).filter(|&at| changed(at));
            let begun = body().any(|at| taken[at / 8]);
            let whole = body().all(|at| taken[at / 8]);
            let claim = frame::bare_word(salt, at as u64, len as u64, State::Claimed);
            let may_be_claimed = before == 0 || before == claim;
            put(
                place,
                match random() % 3 {
                    0 if !begun => before,
                    1 if may_be_claimed => claim,
                    _ if whole || !is_committed(after) => after,
                    _ if may_be_claimed => claim,
                    _ => before,
                },
            );
        }
        state
    }
}

fn is_committed(word: u64) -> bool {
    word & 7 == State::Committed as u64
}

#[cfg(test)]
mod tests {
    use super::super::memory::Arena;
    use super::*;
    use crate::format::frame::{Header, Kind};
    use std::sync::Arc;

    const LEN: usize = 8192;
    const SALT: u64 = 0x1234_5678_9abc_def0;

    fn frame(at: usize, body: &[u8]) -> Vec<u8> {
        let len = frame::frame_len(body.len() as u64);
        let header = Header::plain(Kind::Entry, body.len() as u32).to_word();
        let word = frame::commit_word(SALT, at as u64, len, header, frame::crc(body));
        let mut bytes = [word.to_le_bytes(), header.to_le_bytes()].concat();
        bytes.extend_from_slice(body);
        bytes.resize(len as usize, 0);
        bytes
    }

    /// A sound frame, a hole, a claim with half of its body, and another sound frame.
    fn segment() -> Vec<u8> {
        let mut bytes = super::super::tests::head(SALT, LEN as u64);
        let at = bytes.len();
        bytes.extend(frame(at, &[7; 100]));
        bytes.resize(bytes.len() + 64, 0);
        let at = bytes.len();
        let claim = frame::bare_word(SALT, at as u64, 600, State::Claimed);
        bytes.extend(claim.to_le_bytes());
        bytes.extend([0xff; 200]);
        bytes.resize(at + 600, 0);
        let at = bytes.len();
        bytes.extend(frame(at, &[9; 700]));
        bytes
    }

    #[test]
    fn a_snapshot_of_what_nobody_writes_to_is_exact() {
        let arena = Arc::new(Arena::new().unwrap());
        let mut damaged = segment();
        damaged[300] ^= 4;
        damaged[1300] ^= 4;
        for bytes in [segment(), damaged, vec![3; 5000], vec![1; 13], Vec::new()] {
            let len = bytes.len().max(1);
            let mut memory = Memory::new(&arena, len).unwrap();
            memory.fill(0, &bytes).unwrap();
            assert_eq!(snapshot(&memory).read(0..bytes.len()), bytes);
        }
    }

    #[test]
    fn a_state_in_between_keeps_to_the_protocol() {
        let new = segment();
        let mut sparse = Sparse::default();
        sparse.write(0, &new);
        let spans = FrameSpans::of(&sparse, LEN);
        assert_eq!(spans.frames.len(), 3);
        let mut old = Sparse::default();
        old.write(0, &new[..HEAD]);
        let (at, len) = spans.frames[0];
        let (mut claims, mut commits, mut holes) = (0, 0, 0);
        for seed in 0..500 {
            let state = spans.between(0, old.sector(0), sparse.sector(0), seed);
            let (word, body) = (u64_at(&state, at), &state[at + 8..at + len]);
            let claim = frame::bare_word(SALT, at as u64, len as u64, State::Claimed);
            match word {
                0 => {
                    assert!(body.iter().all(|&b| b == 0));
                    holes += 1;
                }
                word if word == claim => claims += 1,
                word => {
                    assert_eq!(word, u64_at(&new, at));
                    assert_eq!(body, &new[at + 8..at + len]);
                    commits += 1;
                }
            }
        }
        assert!(claims > 50 && commits > 5 && holes > 5, "{claims} {commits} {holes}");
    }
}
