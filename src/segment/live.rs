//! A segment that another process may be writing to: how far its writer has come, and which appends are
//! unfinished.
//!
//! Frames are followed from the first one by the lengths in their commit words. Where a word is zero,
//! either a range is reserved and not claimed yet, or nothing is reserved from there on; the next word
//! that is not zero tells which.

#![allow(unsafe_code, reason = "reads frames beside a live writer")]

use super::frames::{VerifiedFrame, check_batch, frame_at};
use super::{Gap, Segment};
use crate::error::Corruption;
use crate::format::frame::{Header, Kind, State, Word};
use crate::format::header::FIRST_FRAME;
use crate::sync::Backoff;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

/// The next word that is not zero.
fn next_written(segment: &Segment, offset: u64, limit: u64) -> Option<u64> {
    // ORDERING: Relaxed; says where something is, and nothing about what that is.
    (offset..limit).step_by(8).find(|&at| segment.map.word(at).load(Ordering::Relaxed) != 0)
}

/// The offset of the next claim, behind a range that is reserved and not claimed. `offset` itself, if
/// that was claimed meanwhile.
fn next_claim(segment: &Segment, offset: u64, limit: u64) -> Option<u64> {
    let mut found = next_written(segment, offset, limit)?;
    loop {
        // The word found may be in the body of a frame that was claimed after the place of its claim
        // was read as zero; so the search is repeated up to it, until it finds nothing earlier.
        // ORDERING: Acquire; pairs with the Release fence behind a claim: a thread that sees a byte of a body sees
        // the claim before it, and finds that now.
        fence(Ordering::Acquire);
        match next_written(segment, offset, found) {
            Some(earlier) => found = earlier,
            None => return Some(found),
        }
    }
}

/// Where the last claimed range ends.
pub(crate) fn reserved_end(segment: &Segment) -> u64 {
    let (mut at, limit) = (FIRST_FRAME, segment.end());
    while at < limit {
        // ORDERING: Relaxed; only lengths are taken from it.
        let word = segment.map.word(at).load(Ordering::Relaxed);
        match Word::parse(word, limit - at) {
            Ok(Some(word)) => at += word.len,
            Ok(None) => match next_claim(segment, at, limit) {
                Some(next) => at = next,
                None => return at,
            },
            // Damage, which will be found again when the frames are read.
            Err(_) => return limit,
        }
    }
    at
}

/// The appends before the segment's end that are unfinished at the deadline.
pub(crate) fn unfinished(segment: &Segment, deadline: Instant) -> Result<Vec<Gap>, Corruption> {
    let (mut at, limit, mut gaps) = (FIRST_FRAME, segment.end(), Vec::new());
    let corrupt = |at, kind| Corruption::at(segment.position(at), kind);
    while at < limit {
        let mut backoff = Backoff::default();
        at += loop {
            // SAFETY: a frame begins at `at`: the first one, or behind the one before.
            let frame = unsafe { frame_at(segment, at, limit - at) };
            let len = match frame.map_err(|kind| corrupt(at, kind))? {
                Some(VerifiedFrame {
                    header: Some(Header { kind: Kind::Batch, value_len, .. }),
                    word,
                    ..
                }) => {
                    // SAFETY: `frame_at` has seen it committed.
                    unsafe { check_batch(segment, at, word.len, value_len) }?;
                    break word.len;
                }
                Some(VerifiedFrame { word, .. }) if word.state != State::Claimed => break word.len,
                Some(VerifiedFrame { word, .. }) => word.len,
                None => match next_claim(segment, at, limit).unwrap_or(limit) - at {
                    // It has just been claimed.
                    0 => continue,
                    len => len,
                },
            };
            if Instant::now() >= deadline {
                gaps.push(Gap { offset: at, len });
                break len;
            }
            backoff.wait();
        };
    }
    Ok(gaps)
}
