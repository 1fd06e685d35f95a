//! Which tombstones are still needed.

use crate::format::hint::{HintEntry, SortedEntries};
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::store::hints::{self, Listing};
use crate::store::inner::Contents;
use crate::sync::lock;
use std::sync::Arc;

/// The segments other than the inputs, which may hold older values that the inputs' tombstones hide.
#[derive(Debug)]
pub(crate) struct TombstoneFilter(Vec<OtherSegment>);

#[derive(Debug)]
struct OtherSegment {
    /// No frame in it was first written before this position.
    oldest: u64,
    /// Its hint; `None` if it may hold anything.
    listing: Option<Listing>,
}

impl TombstoneFilter {
    /// For tombstones written no later than `newest`. `after` is called with the size of each hint
    /// read.
    pub(crate) fn new<E>(
        inner: Contents<'_>,
        inputs: &[Arc<Segment>],
        newest: LogPosition,
        mut after: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut others = Vec::new();
        for segment in inner.table.segments() {
            if inputs.iter().any(|input| input.id() == segment.id()) {
                continue;
            }
            let other = OtherSegment::of(inner, &segment, newest);
            if other.oldest >= newest.as_u64() {
                continue;
            }
            let listed = other.listing.as_ref().map_or(0, |listing| listing.view().len());
            others.push(other);
            after(listed as u64 * HintEntry::LEN)?;
        }
        Ok(Self(others))
    }

    /// Whether one of them may hold an older put with this tag.
    pub(crate) fn may_hold(&self, tag: u32, origin: LogPosition) -> bool {
        let holds =
            |listing: &Option<Listing>| listing.as_ref().is_none_or(|l| l.view().has_put(tag));
        self.0.iter().any(|other| other.oldest < origin.as_u64() && holds(&other.listing))
    }

    /// Whether one of them may hold anything older.
    pub(crate) fn may_hold_any(&self, origin: LogPosition) -> bool {
        self.0.iter().any(|other| other.oldest < origin.as_u64())
    }
}

impl OtherSegment {
    fn of(inner: Contents<'_>, segment: &Segment, newest: LogPosition) -> Self {
        // Frames that a merge moved are older than their segment, by an unknown amount.
        let least = if segment.header.merged { 0 } else { segment.position(0).as_u64() };
        let misled = lock(inner.damaged).get(&segment.id()).is_some_and(|damaged| damaged.misled);
        let Some(census) = segment.census.get().filter(|_| !misled) else {
            // It has no census (it is active, or damaged), or its hint is not trusted.
            return Self { oldest: least, listing: None };
        };
        if census.oldest >= newest.as_u64() {
            return Self { oldest: census.oldest, listing: None };
        }
        let hint = hints::read(inner.storage, &inner.keydir, segment);
        let listing = hint.filter(|(hinted, _)| hinted == census).map(|(_, listing)| listing);
        Self { oldest: census.oldest, listing }
    }
}
