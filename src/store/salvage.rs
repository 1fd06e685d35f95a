//! What salvage lost, for the store's report: the keys whose newest version is lost, and the older
//! values that came back.
//!
//! The log knows which frames were in damaged places. Such a frame is lost only if its key has no newer
//! sound frame, be it a value, a tombstone or a copy made by a merge. So this goes once through
//! everything loaded, including tombstones, which the keydir does not keep.

#![allow(unsafe_code, reason = "looks at frames that nobody writes to")]

use super::hints::ListingView;
use crate::format::hint::KeyName;
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
    /// Only what stands for the key, from a hint.
    Name(KeyName),
    Nothing,
}

fn key_of<'s>(keydir: &Keydir, suspect: &'s FrameEvidence) -> LostKey<'s> {
    let hinted = suspect.hinted.filter(|hinted| hinted.fingerprint == keydir.fingerprint());
    let hinted = hinted.and_then(|hinted| hinted.name);
    let read = suspect.remnant.as_ref().filter(|remnant| !remnant.key.is_empty());
    match (read, hinted) {
        (Some(read), None) => LostKey::Read(&read.key, read.certain),
        (Some(read), Some(name)) if keydir.name(&read.key) == name => {
            LostKey::Read(&read.key, true)
        }
        (_, Some(name)) => LostKey::Name(name),
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
    let name = |told: &LostKey<'_>| match told {
        LostKey::Read(key, _) => Some(keydir.name(key)),
        LostKey::Name(name) => Some(*name),
        LostKey::Nothing => None,
    };
    let wanted: BTreeSet<KeyName> = told.iter().filter_map(name).collect();
    let versions = versions(keydir, sources, &wanted);
    let lost = suspects.iter().zip(&told).filter_map(|(suspect, told)| {
        let same = name(told).and_then(|name| versions.get(&name)).map_or(&[][..], Vec::as_slice);
        lost(suspect, told, same)
    });
    report.gone = lost.collect();
}

/// The sound frames of the keys with these names, the oldest first.
fn versions<'s>(
    keydir: &Keydir,
    sources: impl Iterator<Item = (&'s Segment, ListingView<'s>)>,
    wanted: &BTreeSet<KeyName>,
) -> HashMap<KeyName, Vec<SoundRecord<'s>>> {
    let mut versions: HashMap<KeyName, Vec<SoundRecord<'s>>> = HashMap::new();
    for (segment, listed) in sources {
        for entry in listed.iter() {
            let (name, offset) = (entry.name, entry.offset());
            if !wanted.contains(&name) {
                continue;
            }
            // SAFETY: the segment is sealed, or only read here, and then the entry is that of a frame
            // that was found committed.
            let Some(record) = (unsafe { segment.record_head(offset) }) else { continue };
            let (key, at) = (record.key(), segment.position(offset));
            if keydir.name(key) != name {
                // It is among the damaged ones, or the hint is wrong.
                continue;
            }
            let origin = segment.origin_of(offset, &record);
            let tombstone = entry.is_tombstone();
            versions.entry(name).or_default().push(SoundRecord { key, origin, at, tombstone });
        }
    }
    versions.values_mut().for_each(|all| all.sort_by_key(|version| version.origin));
    versions
}

/// What is lost with a frame; `None` where something newer is sound. `same` are the sound frames of its
/// key.
fn lost(
    suspect: &FrameEvidence,
    told: &LostKey<'_>,
    same: &[SoundRecord<'_>],
) -> Option<LostFrame> {
    let newest = same.last();
    let (key, certain) = match told {
        LostKey::Read(key, certain) => (Some(*key), *certain),
        LostKey::Name(_) => (newest.map(|newest| newest.key), true),
        LostKey::Nothing => (None, false),
    };
    let written = suspect.remnant.as_ref().and_then(|remnant| remnant.origin);
    let written = written.unwrap_or(suspect.position);
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
