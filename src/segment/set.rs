//! The set of segments, as readers see it: a snapshot that is replaced and never changed.
//!
//! Invariants:
//! * A snapshot, and every segment in it, lives until all threads that may have loaded it have left
//!   their epochs. So a thread inside an epoch may read the segments of its snapshot. A snapshot owns
//!   no segment: the epoch collector runs on any thread, at any time, and must not be the one that
//!   unmaps.
//! * A pin is taken inside an epoch. A removed segment stays in `retired` until it has no pin and can
//!   get none, and until no thread can see a snapshot that lists it; then `reap`, and nothing else,
//!   unmaps it. So an epoch lasts for nanoseconds, and a slow reader holds up only the one segment that
//!   it reads.
//! * A closed set is empty, and stays so. Closing it is how reading ends when a log is closed: pins that
//!   were taken keep their segments mapped, and nobody finds a segment any more. So a read that finds
//!   what it wants pays nothing for that; one that does not asks `is_closed` before it says so.

#![allow(unsafe_code, reason = "epoch-protected snapshots and pinned segments")]

use crate::position::LogPosition;
use crate::segment::cold::{CacheBudget, FollowedMemory};
use crate::segment::holders::{HOLD, HeldSegment, SegmentOwner};
use crate::segment::{Segment, Stripe};
use crate::sync::{AtomicBool, Mutex, Ordering, lock};
use crate::taken::Mark;
use crossbeam_epoch::{self as epoch, Atomic, Owned};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

/// A segment in a snapshot.
#[derive(Debug)]
pub(crate) struct Listed(NonNull<Segment>);

// SAFETY: it stands for a `&Segment`, which may be sent and shared.
unsafe impl Send for Listed {}
// SAFETY: as for Send.
unsafe impl Sync for Listed {}

impl Deref for Listed {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        // SAFETY: only reached through a snapshot, by a thread that holds its epoch; see above.
        unsafe { self.0.as_ref() }
    }
}

type Snapshot = Vec<Listed>;

#[derive(Debug)]
struct Retired {
    segment: Arc<Segment>,
    since: Instant,
    /// Set once no thread can see a snapshot with the segment in it.
    unlisted: Arc<AtomicBool>,
}

/// All segments, in the order of their ids, and those to be unmapped.
#[derive(Debug)]
struct Kept {
    segments: Vec<Arc<Segment>>,
    retired: Vec<Retired>,
    /// Whether the kernel is to be told of any of the segments; see [`super::cold`].
    untold: bool,
}

#[derive(Debug)]
pub(crate) struct SegmentSet {
    current: Atomic<Snapshot>,
    /// Set before the last snapshot, which is empty, is.
    closed: AtomicBool,
    /// Also makes replacing exclusive, and weighing.
    owned: Mutex<Kept>,
    /// Held by the one who tells the kernel what to do with the segments. Taken before `owned`.
    advising: Mutex<()>,
    /// How much of them is expected to fit into memory.
    pub(crate) cache: CacheBudget,
    /// If the budget follows the memory that there is. Taken before `advising`.
    followed: Mutex<Option<FollowedMemory>>,
}

/// A pinned segment: it stays mapped as long as this exists.
#[derive(Debug)]
pub(crate) struct Pin<'t> {
    /// Only lent out for as long as the pin is borrowed; see `segment_unbound`.
    segment: &'t Segment,
    stripe: Stripe,
    _mark: Mark,
}

impl<'t> Pin<'t> {
    #[inline(always)]
    fn new(segment: &'t Segment, stripe: Stripe) -> Self {
        Self { segment, stripe, _mark: segment.marks.mark(HOLD) }
    }
}

impl<'t> Pin<'t> {
    pub(crate) fn segment(&self) -> &Segment {
        self.segment
    }

    /// The segment, for a value that keeps both the pin and what it borrows from the segment.
    ///
    /// # Safety
    /// The reference, and everything borrowed from it, is used only while the pin is kept: `'t` is the
    /// lifetime of the set, which may outlast the segment's mapping.
    #[inline]
    pub(crate) const unsafe fn segment_unbound(&self) -> &'t Segment {
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
        // SAFETY: `pin_listed` took it from these pins, it is released only here, and what the pin lent
        // out is no longer used.
        unsafe { self.segment.pins.unpin(self.stripe) };
    }
}

/// Keeps the calling thread in an epoch, in which no segment is unmapped that was in the set meanwhile.
///
/// While it is kept, segments that are removed stay mapped, and their files take space: it is for
/// moments.
pub(crate) struct Epoch<'s> {
    guard: epoch::Guard,
    set: &'s SegmentSet,
}

impl Epoch<'_> {
    /// The set as it is now.
    #[inline]
    pub(crate) fn snapshot(&self) -> &[Listed] {
        // ORDERING: Acquire; pairs with the Release swap in `replace`.
        let snapshot = self.set.current.load(Ordering::Acquire, &self.guard);
        // SAFETY: never null, and not destroyed while the epoch is held.
        unsafe { snapshot.deref() }
    }
}

impl std::fmt::Debug for Epoch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoch").finish_non_exhaustive()
    }
}

impl SegmentSet {
    pub(crate) fn new(segments: Vec<Arc<Segment>>) -> Self {
        let current = Atomic::new(list(&segments));
        let owned = Mutex::new(Kept { segments, retired: Vec::new(), untold: false });
        let (cache, followed) = (CacheBudget::default(), Mutex::new(None));
        let (closed, advising) = (AtomicBool::new(false), Mutex::new(()));
        Self { current, closed, owned, advising, cache, followed }
    }

    /// Enters an epoch.
    #[inline]
    pub(crate) fn enter(&self) -> Epoch<'_> {
        Epoch { guard: epoch::pin(), set: self }
    }

    /// Calls `look` with the current snapshot.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&[Listed]) -> R) -> R {
        look(self.enter().snapshot())
    }

    /// Pins the segment that `find` finds. `None` only if it finds none: by then the set no longer has
    /// what was removed, so [`first`](Self::first) tells whether there was one before.
    pub(crate) fn pin_at(&self, find: impl Fn(&[Listed]) -> Option<usize>) -> Option<Pin<'_>> {
        loop {
            // SAFETY: it is listed in this table's snapshot.
            let pin = |listed: &Listed| unsafe { self.pin_listed(listed) };
            let found = self.with(|all| all.get(find(all)?).map(pin));
            if let Some(None) = found {
                // It is being removed: pins are refused a little before the snapshot is replaced, both
                // under the lock.
                drop(lock(&self.owned));
                continue;
            }
            return found.flatten();
        }
    }

    /// Pins a segment that was found in a snapshot.
    ///
    /// # Safety
    /// The snapshot is one of this set.
    #[inline]
    pub(crate) unsafe fn pin_listed(&self, segment: &Listed) -> Option<Pin<'_>> {
        let stripe = segment.pins.pin()?;
        // SAFETY: the segment is kept, by `owned`, until the pin that was just taken is given
        // back, which `Pin` does last; and both belong to self.
        let segment = unsafe { segment.0.as_ref() };
        Some(Pin::new(segment, stripe))
    }

    /// Pins the segments of several positions, with one change of the count for each segment; a pin that
    /// cannot be had is `None`.
    ///
    /// # Safety
    /// The snapshot is one of this set.
    #[inline]
    pub(crate) unsafe fn pin_group<const N: usize>(
        &self,
        all: &[Listed],
        wanted: &[Option<LogPosition>; N],
    ) -> [Option<Pin<'_>>; N] {
        const { assert!(N < u8::MAX as usize) };
        // The segments that differ: the index of each, and the number of its pins. `known` has, by the low
        // bits of an index, where the last such segment is among them.
        let (mut differing, mut count, mut known) = ([(usize::MAX, 0); N], 0, [0u8; 64]);
        let mut which = [N as u8; N];
        for (which, at) in which.iter_mut().zip(wanted) {
            let Some(index) = at.and_then(|at| locate(all, at.segment())) else { continue };
            let known = &mut known[index % 64];
            if differing[usize::from(*known)].0 != index {
                let before = differing[..count].iter().position(|&(of, _)| of == index);
                let nth = before.unwrap_or(count);
                count += usize::from(nth == count);
                differing[nth].0 = index;
                *known = nth as u8;
            }
            differing[usize::from(*known)].1 += 1;
            *which = *known;
        }
        let mut taken = [const { None }; N];
        for (taken, &(index, count)) in taken.iter_mut().zip(&differing[..count]) {
            let stripe = all[index].pins.pin_many(count);
            // SAFETY: as in `pin_listed`; each of the pins that were taken goes to one `Pin`.
            *taken = stripe.map(|stripe| (unsafe { all[index].0.as_ref() }, stripe));
        }
        let mut pins = [const { None }; N];
        for (pin, which) in pins.iter_mut().zip(which) {
            if let Some(&Some((segment, stripe))) = taken.get(usize::from(which)) {
                *pin = Some(Pin::new(segment, stripe));
            }
        }
        pins
    }

    pub(crate) fn pin(&self, id: u32) -> Option<Pin<'_>> {
        self.pin_at(|all| locate(all, id))
    }

    /// The first segment of the log with an id above `id`.
    pub(crate) fn pin_after(&self, id: u32) -> Option<Pin<'_>> {
        self.pin_at(|all| {
            let after = all.partition_point(|s| s.id() <= id);
            let next = all[after..].iter().position(|s| !s.header.merged)?;
            Some(after + next)
        })
    }

    /// The id of the first segment of the log.
    pub(crate) fn first(&self) -> Option<u32> {
        self.with(|all| all.iter().find(|s| !s.header.merged).map(|s| s.id()))
    }

    /// The id of the last segment of the log.
    pub(crate) fn last(&self) -> Option<u32> {
        self.with(|all| all.iter().rfind(|s| !s.header.merged).map(|s| s.id()))
    }

    /// The owner of a pinned segment, even if it was removed, to keep it without the pin.
    pub(crate) fn pinned(&self, pin: &Pin<'_>) -> SegmentOwner {
        let owned = lock(&self.owned);
        let is = |segment: &Arc<Segment>| std::ptr::eq(&**segment, pin.segment());
        let at = owned.segments.partition_point(|segment| segment.id() < pin.id());
        let listed = owned.segments.get(at).filter(|segment| is(segment));
        let mut retired = owned.retired.iter().map(|retired| &retired.segment);
        let found = listed.or_else(|| retired.find(|segment| is(segment)));
        SegmentOwner::new(found.expect("a pinned segment is kept").clone())
    }

    /// A segment, if it exists. It stays mapped as long as the caller keeps it.
    pub(crate) fn get(&self, id: u32) -> Option<Arc<Segment>> {
        let owned = lock(&self.owned);
        let found = owned.segments.binary_search_by_key(&id, |segment| segment.id());
        found.ok().map(|nth| owned.segments[nth].clone())
    }

    /// All segments. They stay mapped as long as the caller keeps them.
    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        lock(&self.owned).segments.clone()
    }

    pub(crate) fn insert(&self, segment: Arc<Segment>) {
        let mut owned = lock(&self.owned);
        if self.is_closed() {
            return;
        }
        let at = owned.segments.partition_point(|s| s.id() < segment.id());
        if owned.segments.get(at).is_some_and(|there| there.id() == segment.id()) {
            // Two readers found the same segment of another process at the same time.
            return;
        }
        let is_sealed = segment.is_sealed();
        owned.segments.insert(at, segment);
        self.replace(&owned.segments, None);
        if is_sealed {
            self.weigh_all(&mut owned);
        }
    }

    /// Empties the set for good, and unmaps what nobody reads. What is pinned, or kept otherwise, stays
    /// mapped until the set is dropped.
    pub(crate) fn close(&self) {
        {
            let _owned = lock(&self.owned);
            // ORDERING: Release; pairs with the Acquire load in `is_closed`. The snapshot without segments
            // is stored after this: a thread that misses a segment because of that sees this set.
            self.closed.store(true, Ordering::Release);
        }
        self.remove(|_| true);
        self.reap();
    }

    /// Whether the set was closed: whoever does not find a segment, or a key, asks this before it says so.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        // ORDERING: Acquire; pairs with the Release store in `close`.
        self.closed.load(Ordering::Acquire)
    }

    /// Removes segments: new readers do not find them, and `reap` frees them after the last one.
    pub(crate) fn remove(&self, doomed: impl Fn(u32) -> bool) {
        let mut owned = lock(&self.owned);
        let all = std::mem::take(&mut owned.segments);
        let (out, keep): (Vec<_>, Vec<_>) = all.into_iter().partition(|s| doomed(s.id()));
        owned.segments = keep;
        let unlisted = Arc::new(AtomicBool::new(false));
        for segment in out {
            segment.pins.retire();
            let (since, unlisted) = (Instant::now(), unlisted.clone());
            owned.retired.push(Retired { segment, since, unlisted });
        }
        self.replace(&owned.segments, Some(unlisted));
        self.weigh_all(&mut owned);
    }

    /// Sets how many bytes of sealed segments are expected to fit into memory, for good.
    pub(crate) fn set_cache_budget(&self, bytes: u64) {
        let mut followed = lock(&self.followed);
        *followed = None;
        self.change_cache_budget(bytes);
    }

    /// Has the budget follow the memory that there is, as far as [`look_at_memory`](Self::look_at_memory)
    /// is called.
    pub(crate) fn follow_memory(&self, memory: FollowedMemory) {
        let mut followed = lock(&self.followed);
        *followed = Some(memory);
        self.follow(&followed);
    }

    /// Looks how much memory there is, if the budget follows that, and a second after the last look.
    pub(crate) fn look_at_memory(&self) {
        let mut followed = lock(&self.followed);
        if followed.as_mut().is_some_and(FollowedMemory::is_due) {
            self.follow(&followed);
        }
    }

    fn follow(&self, followed: &Option<FollowedMemory>) {
        if let Some(bytes) = followed.as_ref().and_then(|it| it.budget(self.cache.bytes())) {
            self.change_cache_budget(bytes);
        }
    }

    fn change_cache_budget(&self, bytes: u64) {
        {
            let mut owned = lock(&self.owned);
            self.cache.set(bytes);
            self.weigh_all(&mut owned);
        }
        self.advise();
    }

    /// To be called once segments were sealed, and [`advise`](Self::advise) after it.
    pub(crate) fn weigh(&self) {
        self.weigh_all(&mut lock(&self.owned));
    }

    fn weigh_all(&self, owned: &mut Kept) {
        owned.untold |= self.cache.weigh(&owned.segments);
    }

    /// Tells the kernel what to do with the segments, where it does not know yet. To be called after
    /// segments were sealed, added or removed. That may take long, and nobody waits for it who reads or
    /// writes.
    pub(crate) fn advise(&self) {
        let _alone = lock(&self.advising);
        loop {
            let differing = {
                let mut owned = lock(&self.owned);
                let differing =
                    if owned.untold { self.cache.differing(&owned.segments) } else { Vec::new() };
                owned.untold = !differing.is_empty();
                differing
            };
            if differing.is_empty() {
                return;
            }
            // What was decided may change meanwhile: that is seen in the next round at the latest.
            differing.iter().for_each(|segment| segment.set_scattered(self.cache.is_exceeded()));
        }
    }

    /// Looks at some of the cold segments: which of them are in memory by now.
    pub(crate) fn look_at_cold(&self) {
        if self.cache.may_warm_up() {
            let _alone = lock(&self.advising);
            self.cache.look(&self.segments());
            self.cache.note_cold(&lock(&self.owned).segments);
        }
    }

    /// The share of the sealed segments' pages that are in memory, from that many of them.
    pub(crate) fn resident(&self, pages: u64) -> Option<f64> {
        self.cache.resident(&self.segments(), pages)
    }

    /// Replaces the snapshot; the caller holds the lock. `unlisted` is set when no thread can see the
    /// old snapshot, nor one before it.
    fn replace(&self, segments: &[Arc<Segment>], unlisted: Option<Arc<AtomicBool>>) {
        let guard = epoch::pin();
        // ORDERING: AcqRel; pairs with the Acquire load in `snapshot`.
        let old = self.current.swap(Owned::new(list(segments)), Ordering::AcqRel, &guard);
        // SAFETY: swapped out, so no new thread loads it, and destroyed once those that did have
        // left their epochs.
        unsafe { guard.defer_destroy(old) };
        if let Some(unlisted) = unlisted {
            // ORDERING: Release; pairs with the Acquire load in `is_unlisted`: the looks come before.
            guard.defer(move || unlisted.store(true, Ordering::Release));
            // Moves it out of this thread's own bag, which no other thread can empty.
            guard.flush();
        }
    }

    /// Unmaps retired segments that no thread reads.
    pub(crate) fn reap(&self) {
        let mut owned = lock(&self.owned);
        if owned.retired.is_empty() {
            return;
        }
        pass_epochs();
        let all = std::mem::take(&mut owned.retired);
        let mut free = Vec::new();
        for retired in all {
            match retired.into_free() {
                Ok(segment) => free.push(segment),
                Err(kept) => owned.retired.push(kept),
            }
        }
        drop(owned);
        drop(free);
    }

    /// Whether a retired segment is still mapped only because threads may be looking at it, in an epoch.
    pub(crate) fn is_looked_at(&self) -> bool {
        lock(&self.owned).retired.iter().any(Retired::is_looked_at)
    }

    /// The retired segments that something keeps, the one that was removed first in front.
    pub(crate) fn held(&self) -> Vec<HeldSegment> {
        let owned = lock(&self.owned);
        if !owned.retired.iter().all(Retired::is_unlisted) {
            // Else it seems as if somebody looked at them, until they are reaped.
            pass_epochs();
        }
        let held = owned.retired.iter().map(Retired::held);
        held.filter(HeldSegment::is_held).collect()
    }

    /// The number of retired segments, and since when the oldest has been waiting to be unmapped.
    pub(crate) fn waiting(&self) -> (usize, Option<Instant>) {
        let owned = lock(&self.owned);
        (owned.retired.len(), owned.retired.iter().map(|r| r.since).min())
    }
}

/// Has what waits for the end of an epoch done, if no thread is in one. A snapshot is released two epochs
/// after it was replaced; each flush tries one step.
fn pass_epochs() {
    (0..3).for_each(|_| epoch::pin().flush());
}

impl Retired {
    fn held(&self) -> HeldSegment {
        let owners = Arc::strong_count(&self.segment).saturating_sub(1);
        let removed_for = Some(self.since.elapsed());
        HeldSegment::of(&self.segment, removed_for, owners as u64, !self.is_unlisted())
    }

    /// Whether no thread can find it any more.
    fn is_unlisted(&self) -> bool {
        // ORDERING: Acquire; pairs with the Release store in `replace`.
        self.unlisted.load(Ordering::Acquire)
    }

    /// Whether only an epoch keeps it, as far as can be told: nobody has pinned it.
    fn is_looked_at(&self) -> bool {
        !self.is_unlisted() && self.segment.pins.is_free()
    }

    fn is_free(&self) -> bool {
        let unlisted = self.is_unlisted();
        // Other owners are writing, syncing or populating it. std loads the count Relaxed; what they
        // did comes before the unmapping by the Acquire in the drop of the last Arc.
        unlisted && self.segment.pins.is_free() && Arc::strong_count(&self.segment) == 1
    }

    /// The segment, if nobody uses it. A weak reference that is made a strong one at the same time either
    /// comes first, and the segment is kept, or is refused.
    fn into_free(self) -> Result<Segment, Self> {
        if !self.is_free() {
            return Err(self);
        }
        let Self { segment, since, unlisted } = self;
        Arc::try_unwrap(segment).map_err(|segment| Self { segment, since, unlisted })
    }
}

/// The index of a segment in a snapshot. Ids are consecutive except for rare gaps, so the first id
/// nearly always determines it.
#[inline]
pub(crate) fn locate(all: &[Listed], id: u32) -> Option<usize> {
    let guess = id.wrapping_sub(all.first()?.id()) as usize;
    match all.get(guess) {
        Some(segment) if segment.id() == id => Some(guess),
        _ => all.binary_search_by_key(&id, |segment| segment.id()).ok(),
    }
}

fn list(segments: &[Arc<Segment>]) -> Snapshot {
    segments.iter().map(|segment| Listed(NonNull::from(&**segment))).collect()
}

impl Drop for SegmentSet {
    fn drop(&mut self) {
        let current = std::mem::replace(&mut self.current, Atomic::null());
        // SAFETY: `&mut self`: no other thread loads it any more.
        drop(unsafe { current.into_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::CommitLog;
    use std::sync::atomic::AtomicU64;

    /// A thread that has loaded a snapshot may be about to pin what is in it.
    #[test]
    fn a_segment_is_kept_while_somebody_looks_at_the_list() {
        let log = CommitLog::in_memory();
        let writer = log.writer().expect("a log for writing");
        let segment = writer.segment_set().segments()[0].id();
        let other = SegmentSet::new(Vec::new());
        other.insert(writer.create_merged(64, &[segment]).map(Arc::new).expect("there is room"));
        other.with(|all| {
            let id = all[0].id();
            other.remove(|doomed| doomed == id);
            other.reap();
            assert_eq!(other.waiting().0, 1, "it is still looked at");
            assert_eq!(all[0].id(), id);
        });
        for _ in 0..10 {
            other.reap();
        }
        assert_eq!(other.waiting().0, 0);
    }

    /// As an iteration keeps it: weakly between two items, and strongly for the item.
    #[test]
    fn a_weak_reference_keeps_no_segment_and_a_strong_one_does() {
        let log = CommitLog::in_memory();
        let writer = log.writer().expect("a log for writing");
        let table = SegmentSet::new(Vec::new());
        table.insert(writer.create_merged(64, &[1]).map(Arc::new).expect("there is room"));
        let id = table.segments()[0].id();
        let weak = table.get(id).map(|segment| Arc::downgrade(&segment)).expect("it is listed");
        assert!(table.get(id + 1).is_none());
        let strong = weak.upgrade().expect("it is listed");
        table.remove(|doomed| doomed == id);
        assert!(table.get(id).is_none());
        (0..10).for_each(|_| table.reap());
        assert_eq!((table.waiting().0, strong.id()), (1, id), "somebody reads in it");
        drop(strong);
        (0..10).for_each(|_| table.reap());
        assert_eq!(table.waiting().0, 0);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn a_segment_is_kept_while_it_is_pinned() {
        let log = CommitLog::in_memory();
        let writer = log.writer().expect("a log for writing");
        let table = SegmentSet::new(Vec::new());
        table.insert(writer.create_merged(64, &[1]).map(Arc::new).expect("there is room"));
        let id = table.segments()[0].id();
        let pin = table.pin(id).expect("it is listed");
        table.remove(|doomed| doomed == id);
        for _ in 0..10 {
            table.reap();
        }
        assert_eq!((table.waiting().0, pin.id()), (1, id), "somebody reads in it");
        drop(pin);
        for _ in 0..10 {
            table.reap();
        }
        assert_eq!(table.waiting().0, 0);
    }

    /// Every sealed segment of the set is scattered if the budget is exceeded, and no other; and what is
    /// scattered is cold.
    fn assert_told(table: &SegmentSet) {
        for segment in table.segments() {
            let wanted = segment.is_sealed() && table.cache.is_exceeded();
            assert_eq!(segment.is_scattered(), wanted, "segment {}", segment.id());
            assert!(segment.is_cold() || !wanted);
        }
    }

    fn sealed(writer: &crate::log::writer::LogWriter) -> Arc<Segment> {
        let segment = writer.create_merged(64, &[1]).map(Arc::new).expect("there is room");
        segment.seal(crate::format::header::Seal { end: segment.end(), frames: 1, time: 0 });
        segment
    }

    /// What was decided changes while the kernel is told: the round that is under way may use the old
    /// decision, and ends with the new one.
    #[test]
    fn the_kernel_is_told_what_was_decided_last() {
        let log = CommitLog::in_memory();
        let writer = log.writer().expect("a log for writing");
        let table = SegmentSet::new(Vec::new());
        (0..3).for_each(|_| table.insert(sealed(writer)));
        let unsealed = writer.create_merged(64, &[1]).map(Arc::new).expect("there is room");
        table.insert(unsealed.clone());
        assert_told(&table);
        for bytes in [0, u64::MAX, 0, 0, u64::MAX, 1, 1 << 40] {
            table.set_cache_budget(bytes);
            assert_eq!(table.cache.is_exceeded(), bytes < 1 << 20);
            assert_told(&table);
        }
        // Decided and not told; then decided otherwise; then one is told what was decided first.
        table.cache.set(0);
        table.weigh();
        assert!(table.cache.has_cold(), "no page is read under a lock from now on");
        assert!(table.segments().iter().all(|segment| segment.is_cold() == segment.is_sealed()));
        let first = &table.segments()[0];
        first.set_scattered(true);
        table.cache.set(u64::MAX);
        table.weigh();
        assert!(first.is_scattered());
        table.advise();
        assert_told(&table);
        // Sealed, and added, after it was decided.
        table.set_cache_budget(0);
        unsealed.seal(crate::format::header::Seal { end: unsealed.end(), frames: 1, time: 0 });
        table.weigh();
        table.insert(sealed(writer));
        table.advise();
        assert_told(&table);
        assert_eq!(table.segments().iter().filter(|segment| segment.is_scattered()).count(), 5);
    }

    /// But for a sixteenth and what is not sealed; and not for a change that is not worth it; until a
    /// budget is set.
    #[test]
    fn the_budget_follows_the_memory_that_there_is() {
        let log = CommitLog::in_memory();
        let writer = log.writer().expect("a log for writing");
        let table = SegmentSet::new(Vec::new());
        (0..4).for_each(|_| table.insert(sealed(writer)));
        let bytes: u64 = table.segments().iter().map(|segment| segment.end()).sum();
        let there = Arc::new(AtomicU64::new(u64::MAX));
        let asked = there.clone();
        let memory = move || {
            // ORDERING: Relaxed; one thread.
            Some(asked.load(Ordering::Relaxed)).filter(|&bytes| bytes != u64::MAX)
        };
        table.follow_memory(FollowedMemory::new(memory, 10 * bytes));
        assert_eq!(table.cache.bytes(), u64::MAX, "where it is not known");
        let look = |bytes| {
            // ORDERING: Relaxed; one thread.
            there.store(bytes, Ordering::Relaxed);
            table.follow(&lock(&table.followed));
            assert_told(&table);
            (table.cache.bytes(), table.cache.is_exceeded())
        };
        assert_eq!(look(80 * bytes), (65 * bytes, false));
        assert_eq!(look(81 * bytes), (65 * bytes, false), "hardly more");
        assert_eq!(look(16 * bytes), (8 * bytes, false), "half at least");
        assert!(!table.cache.is_tight());
        assert_eq!(look(bytes), (bytes / 2, true));
        assert!(table.cache.is_tight());
        // Until a sixteenth of the budget is free.
        assert!(look(2 * bytes + bytes / 10).1);
        assert!(!look(2 * bytes + bytes / 5).1);
        look(0);
        table.look_at_memory();
        assert_eq!(table.cache.bytes(), 0, "not due");
        table.set_cache_budget(7 * bytes);
        assert_eq!(look(0), (7 * bytes, false));
    }

    #[test]
    fn the_budget_changes_while_segments_come_and_go() {
        const ROUNDS: u64 = if cfg!(miri) { 20 } else { 300 };
        let log = CommitLog::in_memory();
        let writer = log.writer().expect("a log for writing");
        let table = SegmentSet::new(Vec::new());
        (0..40).for_each(|_| table.insert(sealed(writer)));
        std::thread::scope(|scope| {
            for odd in [0, 1] {
                let table = &table;
                scope.spawn(move || {
                    for n in 0..ROUNDS {
                        table.set_cache_budget(if (n + odd).is_multiple_of(2) {
                            0
                        } else {
                            u64::MAX
                        });
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..ROUNDS / 4 {
                    let segment = writer.create_merged(64, &[1]).map(Arc::new).expect("room");
                    table.insert(segment.clone());
                    segment.seal(crate::format::header::Seal {
                        end: segment.end(),
                        frames: 1,
                        time: 0,
                    });
                    table.weigh();
                    table.advise();
                    table.look_at_cold();
                }
            });
            scope.spawn(|| {
                for _ in 0..ROUNDS / 8 {
                    let first = table.segments()[0].id();
                    table.remove(|id| id == first);
                    table.reap();
                    table.advise();
                }
            });
        });
        assert_told(&table);
        (0..10).for_each(|_| table.reap());
        assert_eq!(table.waiting().0, 0);
    }

    #[test]
    fn a_group_of_pins_is_of_the_segments_asked_for() {
        let log = CommitLog::in_memory();
        let writer = log.writer().expect("a log for writing");
        let table = SegmentSet::new(Vec::new());
        let mut ids = Vec::new();
        for _ in 0..130 {
            let segment = writer.create_merged(64, &[1]).map(Arc::new).expect("there is room");
            ids.push(segment.id());
            table.insert(segment);
        }
        // Some of their numbers have the same low bits, some segments are wanted often, one is not there.
        for which in [[0, 64, 0, 128, 64, 1], [5, 5, 5, 5, 5, 5], [129, 65, 1, 0, 64, 128]] {
            let of = |n: usize| ids.get(which[n % 6] + n / 30 * 130).copied().unwrap_or(u32::MAX);
            let wanted: [_; 32] =
                std::array::from_fn(|n| (n % 7 != 3).then(|| LogPosition::new(of(n), 128)));
            // SAFETY: the snapshot is of this set.
            let pins = table.with(|all| unsafe { table.pin_group(all, &wanted) });
            for (pin, wanted) in pins.iter().zip(wanted) {
                let found = pin.as_ref().map(|pin| pin.id());
                assert_eq!(found, wanted.map(LogPosition::segment).filter(|&id| id != u32::MAX));
            }
        }
        table.remove(|_| true);
        (0..10).for_each(|_| table.reap());
        assert_eq!(table.waiting().0, 0, "as many were given back as were taken");
    }
}
