//! Which segments there are, for readers: a snapshot that is replaced, never changed.
//!
//! Invariants:
//! * A snapshot lives until every thread that loaded it has left its epoch; so whoever holds an
//!   epoch may look at the segments in it.
//! * A pin is taken in an epoch. A removed segment is kept in `retired` until it has no pin and
//!   will get none, and until the last snapshot that names it is gone; then, and only in `reap`,
//!   it is unmapped. So an epoch is held for nanoseconds, and a slow reader holds up nothing but
//!   the one segment that it reads.

#![allow(unsafe_code, reason = "epoch-protected snapshots and pinned segments")]

use crate::segment::{Segment, Stripe};
use crate::sync::{Mutex, lock};
use crossbeam_epoch::{self as epoch, Atomic, Owned};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

type Snapshot = Vec<Arc<Segment>>;

#[derive(Debug)]
pub(crate) struct Table {
    current: Atomic<Snapshot>,
    /// Also makes replacing exclusive.
    retired: Mutex<Vec<(Arc<Segment>, Instant)>>,
}

/// A segment that stays mapped for as long as this lives.
#[derive(Debug)]
pub(crate) struct Pin<'t> {
    segment: &'t Segment,
    stripe: Stripe,
}

impl<'t> Pin<'t> {
    /// The segment, for as long as the pin is kept: callers that copy the reference keep it.
    pub(crate) fn segment(&self) -> &'t Segment {
        self.segment
    }
}

impl Deref for Pin<'_> {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        self.segment
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.segment.pins.unpin(self.stripe);
    }
}

impl Table {
    pub(crate) fn new(segments: Snapshot) -> Self {
        Self { current: Atomic::new(segments), retired: Mutex::new(Vec::new()) }
    }

    /// Looks at the current snapshot.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&[Arc<Segment>]) -> R) -> R {
        let guard = epoch::pin();
        // ORDERING: Acquire; pairs with the Release swap in `replace`.
        let snapshot = self.current.load(Ordering::Acquire, &guard);
        // SAFETY: never null, and not destroyed while the epoch is held.
        look(unsafe { snapshot.deref() })
    }

    fn pin_at(&self, find: impl FnOnce(&[Arc<Segment>]) -> Option<usize>) -> Option<Pin<'_>> {
        self.with(|segments| {
            let segment = &**segments.get(find(segments)?)?;
            let stripe = segment.pins.pin()?;
            // SAFETY: the segment is kept, by the current snapshot or by `retired`, until the pin
            // that was just taken is given back, which `Pin` does last; and both belong to self.
            let segment = unsafe { &*std::ptr::from_ref(segment) };
            Some(Pin { segment, stripe })
        })
    }

    pub(crate) fn pin(&self, id: u32) -> Option<Pin<'_>> {
        self.pin_at(|all| all.binary_search_by_key(&id, |s| s.id()).ok())
    }

    /// The first segment with an id above `id`.
    pub(crate) fn pin_after(&self, id: u32) -> Option<Pin<'_>> {
        self.pin_at(|all| Some(all.partition_point(|s| s.id() <= id)))
    }

    /// The id of the first segment.
    pub(crate) fn first(&self) -> Option<u32> {
        self.with(|all| all.first().map(|s| s.id()))
    }

    pub(crate) fn insert(&self, segment: Arc<Segment>) {
        let retired = lock(&self.retired);
        let mut segments = self.with(<[_]>::to_vec);
        let at = segments.partition_point(|s| s.id() < segment.id());
        segments.insert(at, segment);
        self.replace(segments);
        drop(retired);
    }

    /// Removes segments: new readers do not find them, and `reap` frees them after the last one.
    pub(crate) fn remove(&self, doomed: impl Fn(u32) -> bool) {
        let mut retired = lock(&self.retired);
        let segments = self.with(<[_]>::to_vec);
        let (out, keep): (Vec<_>, Vec<_>) = segments.into_iter().partition(|s| doomed(s.id()));
        self.replace(keep);
        for segment in out {
            segment.pins.retire();
            retired.push((segment, Instant::now()));
        }
    }

    fn replace(&self, segments: Snapshot) {
        let guard = epoch::pin();
        // ORDERING: AcqRel; pairs with the Acquire load in `with`.
        let old = self.current.swap(Owned::new(segments), Ordering::AcqRel, &guard);
        // SAFETY: swapped out, so no new thread loads it, and destroyed once those that did have
        // left their epochs.
        unsafe { guard.defer_destroy(old) };
    }

    /// Unmaps what nobody reads any more.
    pub(crate) fn reap(&self) {
        let mut retired = lock(&self.retired);
        if retired.is_empty() {
            return;
        }
        // A snapshot is destroyed two epochs after it was replaced; each flush tries one step.
        (0..3).for_each(|_| epoch::pin().flush());
        let all = std::mem::take(&mut *retired);
        let free = |s: &Arc<Segment>| Arc::strong_count(s) == 1 && s.pins.is_free();
        let (free, kept) = all.into_iter().partition(|(s, _)| free(s));
        *retired = kept;
        drop(retired);
        drop::<Vec<(Arc<Segment>, Instant)>>(free);
    }

    /// How many segments wait for a reader, and since when the oldest does.
    pub(crate) fn waiting(&self) -> (usize, Option<Instant>) {
        let retired = lock(&self.retired);
        (retired.len(), retired.iter().map(|(_, since)| *since).min())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let current = std::mem::replace(&mut self.current, Atomic::null());
        // SAFETY: `&mut self`: no other thread loads it any more.
        drop(unsafe { current.into_owned() });
    }
}
