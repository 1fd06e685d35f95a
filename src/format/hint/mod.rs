//! The hint of a sealed segment: the names and places of its keys' frames, so that a store opens without
//! reading the frames, and a census of its frames for merging.
//!
//! A **name** is 128 bits of hash, which stand for a key: two entries are of one key if, and only if,
//! their names are equal. So of all versions of a key the newest is found from hints alone, and their
//! lengths say how many bytes are dead.
//!
//! A hint is written in blocks of 4 KiB, each with a checksum of its own that is bound to the segment
//! and to its place. A merge that wants to know of a few names reads the few blocks that they would be
//! in. Behind the entries of a hint of several blocks is a **filter**, which most often tells from one
//! cache line that a name is not in the hint.
//!
//! A checksum says that a hint is unchanged, not that it was right. What can be checked without the
//! frames is checked: every frame that the seal counts is either listed or counted as not listed, and
//! all of them fit into the segment.
//!
//! ```text
//!   0  u64  magic "tchint\n\0"
//!   8  u32  format version
//!  12  u32  id of the segment
//!  16  u64  its salt
//!  24  u64  its end
//!  32  u64  fingerprint of the hashes that made the names
//!  40  u64  bytes of frames without a key
//!  48  u64  bytes of puts that no entry names: a later frame in the segment has their key
//!  56  u64  bytes of tombstones
//!  64  u64  the lowest position that a frame in it was written at
//!  72  u64  bytes of puts that expire, and the times by which a quarter, half, three quarters and
//!  80  4 u64  all of those bytes have
//! 112  u32  flags; 1: entries of the log are in the segment
//! 116  u32  reserved, zero
//! 120  u64  frames, as the seal has it: those inside batches not counted
//! 128  u64  frames that no entry names, those inside batches included
//! 136  u64  frames inside batches
//! 144  u64  bytes that merges had reclaimed, over the store's life, when it was written
//! 152  u64  number of entries
//! 160       entries, in the order of their names, and of one name in that of their origins; the newest
//!           frame for each key in a log segment, every frame with a key in a merged one:
//!             u64  first half of the name: its high half is the key's tag
//!             u64  second half of the name
//!             u64  length of the frame in the high half, its offset in the low one, of which bit 0
//!                  says tombstone and bit 1 that it expires
//!             u64  origin (merged segments only)
//! ```
//!
//! An entry lies in one block. The last four bytes of a block are its checksum, and what is left over
//! before them is zero; the last block of the file ends with what it holds. The filter has blocks of its
//! own, with 63 lines of 64 bytes each.

mod census;
mod entries;
mod entry;
mod filter;
mod head;
mod index;
mod layout;
mod loose;

pub(crate) use census::{Census, Expiring, Listed, Subject};
pub(crate) use entries::{HintEntries, HintWalk};
pub(crate) use entry::{EntryFlags, HintEntry, KeyName};
pub(crate) use index::HintIndex;
pub(crate) use layout::BLOCK;
pub(crate) use loose::{LooseEntry, LooseSubject, decode_loosely};

use self::filter::Filter;
use self::head::{HAS_ENTRIES, Head, MAGIC, VERSION};
use self::layout::{LINES, Layout, checksum};
use super::u64_at;

/// Encodes a hint. The entries must be sorted.
pub(crate) fn encode(subject: Subject, census: &Census, entries: &[HintEntry]) -> Vec<u8> {
    let layout = Layout::new(subject.merged, entries.len());
    let mut bytes = Vec::with_capacity(layout.len());
    push_head(&mut bytes, subject, census, entries.len());
    for block in 0..layout.entry_blocks() {
        for entry in &entries[layout.within(block)] {
            entry.push(&mut bytes, layout.width);
        }
        end_block(&mut bytes, layout, subject.salt, block);
    }
    let filter = Filter::of(layout, entries);
    for (nth, lines) in filter.chunks(LINES).enumerate() {
        bytes.extend_from_slice(lines.as_flattened());
        end_block(&mut bytes, layout, subject.salt, layout.entry_blocks() + nth);
    }
    bytes
}

fn push_head(bytes: &mut Vec<u8>, subject: Subject, census: &Census, entries: usize) {
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(subject.id.to_le_bytes());
    let expiring = census.expiring;
    let words = [subject.salt, subject.end, subject.fingerprint, census.keyless];
    bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
    let words = [census.superseded, census.tombstones, census.oldest, expiring.bytes];
    bytes.extend(words.into_iter().chain(expiring.by).flat_map(u64::to_le_bytes));
    bytes.extend(u64::from(if census.plain { HAS_ENTRIES } else { 0 }).to_le_bytes());
    let words = [subject.frames, census.unlisted, census.inner, subject.reclaimed_then];
    bytes.extend(words.into_iter().chain([entries as u64]).flat_map(u64::to_le_bytes));
}

/// Fills a block up, and appends its checksum.
fn end_block(bytes: &mut Vec<u8>, layout: Layout, salt: u64, block: usize) {
    let start = block * BLOCK;
    bytes.resize(start + layout.content(block), 0);
    let checksum = checksum(salt, block, &bytes[start..]);
    bytes.extend(checksum.to_le_bytes());
}

/// A hint whose entries were all checked.
#[derive(Debug)]
pub(crate) struct Decoded<'b> {
    pub(crate) census: Census,
    pub(crate) entries: HintEntries<'b>,
    /// How many entries have the most frequent tag.
    pub(crate) most_of_a_tag: usize,
}

/// Decodes a hint: its census and entries, if it is a valid one of this segment. `mask` has the bits
/// that tags have. `at` is called with the offset of each block before that is read.
pub(crate) fn decode(
    bytes: &[u8],
    subject: Subject,
    mask: u32,
    at: impl FnMut(usize),
) -> Option<Decoded<'_>> {
    let (census, entries) = decode_head(bytes, &subject)?;
    let mut walk = entries.walk(0, 0);
    entries.each_below(&subject, mask, &mut walk, None, at, |_| {})?;
    let census = census.complete(&subject, &walk.listed)?;
    Some(Decoded { census, entries, most_of_a_tag: walk.listed.most_of_a_tag })
}

/// Decodes the head of a hint, and checks nothing else: the census without what the entries have to be
/// read for, and the entries, which are unchecked.
pub(crate) fn decode_head<'b>(
    bytes: &'b [u8],
    subject: &Subject,
) -> Option<(Census, HintEntries<'b>)> {
    let Head { census, layout } = Head::read(bytes, subject)?;
    Some((census, HintEntries::new(bytes, layout, subject.id)))
}

/// Bytes that merges had reclaimed when the hint was written. `decode` has accepted it.
pub(crate) fn reclaimed_then(bytes: &[u8]) -> u64 {
    u64_at(bytes, 144)
}

/// The entries of a hint that `decode` has accepted.
pub(crate) fn entries(bytes: &[u8], id: u32, merged: bool) -> HintEntries<'_> {
    let layout = Layout::new(merged, u64_at(bytes, 152) as usize);
    HintEntries::new(bytes, layout, id)
}

#[cfg(test)]
mod tests;
