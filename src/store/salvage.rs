//! What salvage lost, for the store's report: the keys whose newest version is lost, and the older
//! values that came back.
//!
//! The log knows which frames were in damaged places. Such a frame is lost only if its key has no newer
//! sound frame, be it a value, a tombstone or a copy made by a merge. So this goes once through
//! everything loaded, including tombstones, which the keydir does not keep.

#![allow(unsafe_code, reason = "looks at frames that nobody writes to")]

use super::hints::ListingView;
use crate::format::hint::SortedEntries;
use crate::keydir::Keydir;
use crate::log::{FrameEvidence, LostFrame, RecoveryReport};
use crate::position::LogPosition;
use crate::segment::Segment;
use std::collections::{BTreeSet, HashMap};

/// A sound frame.
#[derive(Clone, Copy)]
struct SoundRecord<'s> {
    key: &'s [u8],
    /// Its origin, and its position.
    origin: LogPosition,
    at: LogPosition,
    tombstone: bool,
}

/// The key of a lost frame.
enum LostKey<'s> {
    /// The key in its own bytes, and whether that is certain.
    Read(&'s [u8], bool),
    /// Only the key's tag, from a hint.
    Tag(u32),
    Nothing,
}

fn key_of<'s>(keydir: &Keydir, suspect: &'s FrameEvidence) -> LostKey<'s> {
    let hinted = suspect.hinted.filter(|hinted| hinted.fingerprint == keydir.fingerprint());
    let read = suspect.remnant.as_ref().filter(|remnant| !remnant.key.is_empty());
    match (read, hinted) {
        (Some(read), None) => LostKey::Read(&read.key, read.certain),
        (Some(read), Some(hinted)) if keydir.tag(&read.key) == hinted.tag => {
            LostKey::Read(&read.key, true)
        }
        (_, Some(hinted)) => LostKey::Tag(hinted.tag),
        (None, None) => LostKey::Nothing,
    }
}

/// Lists the lost frames, from what the log found and everything loaded.
pub(super) fn resolve<'s>(
    keydir: &Keydir,
    sources: impl Iterator<Item = (&'s Segment, ListingView<'s>)>,
    report: &mut RecoveryReport,
) {
    let suspects = std::mem::take(&mut report.suspects);
    if suspects.is_empty() {
        return;
    }
    let told: Vec<_> = suspects.iter().map(|suspect| key_of(keydir, suspect)).collect();
    let tag = |told: &LostKey<'_>| match told {
        LostKey::Read(key, _) => Some(keydir.tag(key)),
        LostKey::Tag(tag) => Some(*tag),
        LostKey::Nothing => None,
    };
    let wanted: BTreeSet<u32> = told.iter().filter_map(tag).collect();
    let versions = versions(sources, &wanted);
    let lost = suspects.iter().zip(&told).filter_map(|(suspect, told)| {
        let same_tag = tag(told).and_then(|tag| versions.get(&tag)).map_or(&[][..], Vec::as_slice);
        lost(suspect, told, same_tag)
    });
    report.gone = lost.collect();
}

/// The sound frames of all keys with these tags.
fn versions<'s>(
    sources: impl Iterator<Item = (&'s Segment, ListingView<'s>)>,
    wanted: &BTreeSet<u32>,
) -> HashMap<u32, Vec<SoundRecord<'s>>> {
    let mut versions: HashMap<u32, Vec<SoundRecord<'s>>> = HashMap::new();
    for (segment, listed) in sources {
        for entry in listed.iter() {
            let (tag, offset) = (entry.tag(), entry.offset());
            if !wanted.contains(&tag) {
                continue;
            }
            // SAFETY: the segment is sealed, or only read here, and then the entry is that of a frame
            // that was found committed.
            let Some(record) = (unsafe { segment.record_head(offset) }) else { continue };
            let (key, at) = (record.key(), segment.position(offset));
            let origin = segment.origin_of(offset, &record);
            let tombstone = entry.is_tombstone();
            versions.entry(tag).or_default().push(SoundRecord { key, origin, at, tombstone });
        }
    }
    versions.values_mut().for_each(|all| all.sort_by_key(|version| (version.key, version.origin)));
    versions
}

/// What is lost with a frame; `None` where something newer is sound.
fn lost(
    suspect: &FrameEvidence,
    told: &LostKey<'_>,
    same_tag: &[SoundRecord<'_>],
) -> Option<LostFrame> {
    let (key, certain) = match told {
        LostKey::Read(key, certain) => (Some(*key), *certain),
        LostKey::Tag(_) => (only_key(same_tag), true),
        LostKey::Nothing => (None, false),
    };
    let written = suspect.remnant.as_ref().and_then(|remnant| remnant.origin);
    let written = written.unwrap_or(suspect.position);
    let of_key = |key: &[u8]| {
        let end = same_tag.partition_point(|version| version.key <= key);
        same_tag[..end].last().filter(|version| version.key == key).copied()
    };
    let newest = key.and_then(of_key);
    if certain && newest.is_some_and(|newest| newest.origin >= written) {
        return None;
    }
    Some(LostFrame {
        position: suspect.position,
        length: suspect.length,
        kind: suspect.kind(),
        key: key.map(<[u8]>::to_vec),
        certain: key.is_some() && certain,
        now: newest.filter(|newest| !newest.tombstone).map(|newest| newest.at),
    })
}

/// The key of frames with one tag, if it is the same for all.
fn only_key<'s>(same_tag: &[SoundRecord<'s>]) -> Option<&'s [u8]> {
    let first = same_tag.first()?.key;
    same_tag.iter().all(|version| version.key == first).then_some(first)
}
