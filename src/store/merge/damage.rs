//! When a damaged segment can be merged.
//!
//! Damage in a sealed segment is a range in which no frame can be read. It may have held the newest
//! value of a key, a dead value, or a tombstone, without which an older value in another segment would
//! come back. Invariant: a damaged segment stays where it is until it is certain that nothing in the
//! damaged ranges is needed:
//!
//! * No slot points there. A key whose newest value is damaged has one until the key is set or deleted
//!   (by `put`, if only the value is damaged, or by `delete_damaged`).
//! * No tombstone, or expired value, that was there hides anything. The segment's hint, written when the
//!   segment was sound, says which frames were tombstones or expire, and of which keys. If no other segment can hold an
//!   older put of such a key, the tombstone hides nothing. Without a hint there may have been
//!   tombstones of any key: then no other segment may hold anything older at all.
//!
//! Then the sound frames are copied as always, and the file is set aside, not removed. In a store
//! opened with `RecoveryMode::Salvage` the second condition does not apply: what the damage hid came
//! back when the store was opened, and its report says so.

use super::tombstones::{Question, TombstoneFilter};
use crate::error::{Corruption, CorruptionKind};
use crate::format::hint::{HintEntry, KeyName};
use crate::format::names::hint_name;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::store::hints::{self, SegmentSummary};
use crate::store::inner::{Contents, Damaged, StoreInner};
use crate::sync::lock;
use std::ops::Range;

/// What a damaged frame may have been.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LostTombstone {
    /// A tombstone of the key with this name, older than this position.
    OfKey { name: KeyName, before: LogPosition },
    /// A tombstone of any key.
    OfAnyKey { before: LogPosition },
}

impl LostTombstone {
    pub(crate) const fn name(&self) -> Option<KeyName> {
        match self {
            Self::OfKey { name, .. } => Some(*name),
            Self::OfAnyKey { .. } => None,
        }
    }
}

/// The first of these that might hide an older value.
pub(crate) fn needed<E>(
    doubts: &[LostTombstone],
    filter: &TombstoneFilter<'_>,
    after: impl FnMut(u64) -> Result<(), E>,
) -> Result<Option<usize>, E> {
    let (mut of_keys, mut needed) = (Vec::new(), None);
    for (nth, doubt) in doubts.iter().enumerate() {
        match *doubt {
            LostTombstone::OfKey { name, before } => of_keys.push((name, before, nth)),
            LostTombstone::OfAnyKey { before } if filter.may_hold_any(before) => {
                needed.get_or_insert(nth);
            }
            LostTombstone::OfAnyKey { .. } => {}
        }
    }
    of_keys.sort_unstable();
    let questions = of_keys.iter().map(|&(name, before, _)| Question::new(name, before));
    let mut questions: Vec<_> = questions.collect();
    filter.ask(&mut questions, after)?;
    let hidden = of_keys.iter().zip(&questions).filter(|(_, question)| question.may_be);
    Ok(hidden.map(|(&(.., nth), _)| nth).chain(needed).min())
}

/// What the damaged frames of a segment may have been, if no slot needs them.
pub(crate) fn lost_tombstones(
    inner: Contents<'_>,
    segment: &Segment,
    found: &SegmentSummary,
    first: &Corruption,
) -> Result<Vec<LostTombstone>, Corruption> {
    let is_lost = |offset: u64| found.gaps.iter().any(|gap| gap.contains(&offset));
    let is_needed = |at: LogPosition| at.segment() == segment.id() && is_lost(at.offset().into());
    if inner.keydir.find(is_needed).is_some() {
        return Err(first.clone());
    }
    let misled = lock(inner.damaged).get(&segment.id()).is_some_and(|damaged| damaged.misled);
    let hint = hints::read(inner.storage, &inner.keydir, segment).filter(|_| !misled);
    let Some((_, listing)) = hint else {
        let end = found.gaps.last().map_or(0, |gap| gap.end);
        return Ok(vec![LostTombstone::OfAnyKey { before: segment.position(end) }]);
    };
    let (mut doubts, mut inside, mut outside) = (Vec::new(), Vec::new(), Vec::new());
    for entry in listing.view().iter() {
        let (name, place) = (entry.name, entry.offset());
        if !is_lost(place) {
            outside.push(entry);
            continue;
        }
        inside.push(name);
        // An expired value is a tombstone, too, and a merge that failed may have removed its slot.
        if entry.is_tombstone() || entry.expires() {
            doubts.push(LostTombstone::OfKey { name, before: entry.origin });
        }
    }
    // The hint lists everything found in the segment, except frames that a now damaged one superseded.
    let unknown = |&&entry: &&HintEntry| {
        outside.binary_search(&entry).is_err() && inside.binary_search(&entry.name).is_err()
    };
    let missing = outside.iter().find(|entry| found.entries.binary_search(entry).is_err());
    match found.entries.iter().find(unknown).or(missing) {
        Some(&entry) => {
            let (segment, offset) = (segment.id(), entry.offset());
            Err(Corruption { segment, offset, kind: CorruptionKind::Hint })
        }
        None => Ok(doubts),
    }
}

impl StoreInner {
    /// Records damage.
    pub(super) fn note_damage(&self, first: &Corruption, gaps: &[Range<u64>]) {
        let bytes = gaps.iter().map(|gap| gap.end - gap.start).sum();
        let found = || Damaged { first: first.clone(), bytes, dead: None, misled: false };
        let mut all = lock(&self.damaged);
        let damaged = all.entry(first.segment).or_insert_with(found);
        damaged.bytes = damaged.bytes.max(bytes);
    }

    /// Records that a segment is to be left alone until more of it is dead. True if it was not recorded
    /// before.
    pub(super) fn has_to_stay(&self, damage: &Corruption) -> bool {
        let id = damage.segment;
        let misled = matches!(damage.kind, CorruptionKind::Hint | CorruptionKind::StaleSlot);
        if misled {
            // So that the next open reads the segment.
            self.writer.remove_file(&hint_name(id));
        }
        self.note_damage(damage, &[]);
        let dead = self.writer.segment_set().pin(id).map(|segment| segment.dead.get());
        let mut all = lock(&self.damaged);
        let Some(damaged) = all.get_mut(&id) else { return false };
        let is_news = damaged.dead.is_none();
        damaged.misled |= misled;
        damaged.dead = Some(dead.unwrap_or_default());
        if is_news {
            tracing::error!(error = %damage, "a segment is damaged, and is left alone");
        }
        is_news
    }

    /// Forgets the damage of segments that were merged.
    pub(super) fn are_gone(&self, ids: &[u32]) {
        lock(&self.damaged).retain(|id, _| !ids.contains(id));
    }
}
