//! The tail: one word that says which segment is active and how full it is.
//!
//! ```text
//! bits 40..64  number of the roll that made the segment active, modulo 2^24
//! bits  0..40  fill, in units of 8 bytes, counted so that LIMIT is full whatever the capacity
//! ```
//!
//! A writer reserves with one `fetch_add`, which gives it a segment and a range in it together.
//! Because a fill of LIMIT means full in every segment, the word alone decides what the writer owns:
//!
//! * `start + len <= LIMIT`: the range;
//! * `start < LIMIT < start + len`: what is left of the segment, which is too short; it pads that;
//! * `LIMIT <= start`: nothing, and it has touched no memory.
//!
//! To roll is to exchange the word for the standby's, which names the next roll. The number of a roll
//! leads to a slot, and the slot to the segment. There are few slots, so they are reused.
//!
//! Invariant: the slot of a roll is not reused before every frame of its segment is finished. So the
//! owner of a range may use the slot and the segment without a pin or a count, until it has finished
//! the frame; after that it may not.
//!
//! Claims, which are what `reserve` hands out, are in `claim`; the walk that finds out which rolls
//! are finished is in `prefix`.

#![allow(unsafe_code, reason = "slots are shared as the invariant above says")]

use crate::log::append::claim::{Claim, Reserved, SegmentMemory, pad};
use crate::log::waiters::Waiters;
use crate::position::LogPosition;
use crate::sync::{
    Arc, AtomicPtr, AtomicU64, Mutex, MutexGuard, Ordering, UnsafeCell, fence, lock,
};
use crossbeam_utils::CachePadded;
use std::ptr::NonNull;

const ROLL_SHIFT: u32 = 40;
const ROLL_MASK: u64 = (1 << 24) - 1;
const FILL_MASK: u64 = (1 << ROLL_SHIFT) - 1;
/// The fill of a full segment. The room above it, 4 TiB, is for writers that come too late.
const LIMIT: u64 = 1 << (ROLL_SHIFT - 1);
/// More units than any segment has room for: adding it closes the segment.
const CLOSE: u64 = 1 << 29;

const fn fill(word: u64) -> u64 {
    word & FILL_MASK
}

const fn roll_of(word: u64) -> u64 {
    word >> ROLL_SHIFT
}

/// The offset in the segment at a given fill.
const fn offset(base: u64, fill: u64) -> u64 {
    base.wrapping_add(fill * 8)
}

/// Whether roll `a` is after roll `b`, both modulo 2^24 and less than half of that apart.
pub(crate) const fn is_after(a: u64, b: u64) -> bool {
    let ahead = rolls_between(b, a);
    ahead != 0 && ahead < 1 << 23
}

/// How many rolls `later` comes after `earlier`, both modulo 2^24.
pub(crate) const fn rolls_between(earlier: u64, later: u64) -> u64 {
    later.wrapping_sub(earlier) & ROLL_MASK
}

/// A roll's number as it is in the word: modulo 2^24.
pub(crate) const fn wrapped(roll: u64) -> u32 {
    (roll & ROLL_MASK) as u32
}

/// Where the segment of a roll is found.
struct SegmentSlot<S> {
    id: AtomicU64,
    /// Plus 8 times the fill (wrapping), this is the offset in the segment.
    base: AtomicU64,
    /// What `segment` points to.
    memory: AtomicPtr<S>,
    segment: UnsafeCell<Option<Arc<S>>>,
}

pub(crate) struct Tail<S> {
    word: CachePadded<AtomicU64>,
    /// The word that makes the standby active, or 0. It stays here after it was used.
    standby: CachePadded<AtomicU64>,
    slots: Box<[SegmentSlot<S>]>,
    preparing: Mutex<Preparing>,
    /// Every roll before this one is finished.
    finished: AtomicU64,
    /// Which walker belongs to this tail.
    identity: Arc<()>,
    /// The threads that wait for a frame to be finished. Every claim carries a reference to them.
    pub(crate) waiters: Waiters,
}

// SAFETY: a slot's cell is written by the holder of `preparing`, while no roll uses the slot, and
// emptied by the one walker, when its roll is finished; in between it is only read. The rest is
// atomics and a mutex.
unsafe impl<S: Send + Sync> Send for Tail<S> {}
// SAFETY: as for Send.
unsafe impl<S: Send + Sync> Sync for Tail<S> {}

struct Preparing {
    next_roll: u64,
}

/// The exclusive right to walk behind a tail: to take unfinished segments out of its slots, and to
/// free the slots. There is one for each tail, made with it; the prefix keeps it under its lock.
#[derive(Debug)]
pub(crate) struct Walker {
    tail: Arc<()>,
}

/// All slots hold unfinished segments.
#[derive(Debug)]
pub(crate) struct NoSlot;

impl<S: SegmentMemory> Tail<S> {
    /// A tail with `first` active, from `offset` on, and its one walker.
    ///
    /// # Safety
    /// As for [`Preparer::publish`].
    pub(crate) unsafe fn new(slots: usize, first: Arc<S>, offset: u64) -> (Self, Walker) {
        // A power of two divides 2^24, so a roll's slot can be told from its wrapped number.
        assert!(slots.is_power_of_two());
        let slots = (0..slots).map(|_| SegmentSlot {
            id: AtomicU64::new(0),
            base: AtomicU64::new(0),
            memory: AtomicPtr::new(std::ptr::null_mut()),
            segment: UnsafeCell::new(None),
        });
        let identity = Arc::new(());
        let walker = Walker { tail: identity.clone() };
        let tail = Self {
            word: CachePadded::new(AtomicU64::new(LIMIT)),
            standby: CachePadded::new(AtomicU64::new(0)),
            slots: slots.collect(),
            preparing: Mutex::new(Preparing { next_roll: 1 }),
            finished: AtomicU64::new(1),
            identity,
            waiters: Waiters::default(),
        };
        // SAFETY: the same contract.
        let published = unsafe { tail.preparer().publish(first, offset) };
        assert!(published.is_ok() && tail.roll());
        (tail, walker)
    }

    #[inline]
    fn slot(&self, roll: u64) -> &SegmentSlot<S> {
        &self.slots[roll as usize & (self.slots.len() - 1)]
    }

    /// Reserves and claims `len` bytes, a multiple of 8. `None`: the segment is full.
    #[inline]
    pub(crate) fn reserve(&self, len: u64) -> Option<Claim<'_, S>> {
        self.reserve_unguarded(len).map(Reserved::guard)
    }

    #[inline(always)]
    pub(crate) fn reserve_unguarded(&self, len: u64) -> Option<Reserved<'_, S>> {
        // ORDERING: Acquire; pairs with the Release exchange in `roll`. Whichever roll's word this
        // reads, with whatever was added to it since, it sees that roll's slot as it was published.
        let seen = self.word.load(Ordering::Acquire);
        // Checked first, so that the fill of a full segment does not grow without bound.
        if fill(seen) >= LIMIT { None } else { self.take(seen, len / 8) }
    }

    /// Reserves and never claims: leaves what a process leaves that dies in between.
    #[allow(dead_code, reason = "only with the feature `testing`, which the models do not have")]
    pub(crate) fn reserve_unclaimed(&self, len: u64) {
        // ORDERING: Relaxed; no memory is touched.
        self.word.fetch_add(len / 8, Ordering::Relaxed);
    }

    /// Reserves and claims. `seen` is the word as it was a moment ago, and the segment is looked up
    /// by that, before the `fetch_add`: loads after it would begin only once all earlier stores are
    /// done. In the rare case that a roll came in between, the segment is looked up again.
    #[inline(always)]
    fn take(&self, seen: u64, units: u64) -> Option<Reserved<'_, S>> {
        let (mut memory, mut base) = self.look_up(seen);
        // ORDERING: Acquire; pairs with the Release exchange in `roll` (adds in between continue
        // its release sequence). If a roll came after `seen` was loaded, this sees the new slot and
        // the zeroed segment; if none did, the load of `seen` already has.
        let before = self.word.fetch_add(units, Ordering::Acquire);
        let start = fill(before);
        if start >= LIMIT {
            return None;
        }
        // If the roll is the same, what was read of its slot is valid: the roll was unfinished from
        // then on until now, and stays so while this thread owns the range, so the slot was not reused.
        // (For the same number to mean another roll, 2^24 segments would have to fill in between.)
        if roll_of(before) != roll_of(seen) {
            (memory, base) = self.look_up(before);
        }
        // Only a check for the models: nothing writes the slot's cell now.
        self.slot(roll_of(before)).segment.with(|_| ());
        let offset = offset(base, start);
        let memory = NonNull::new(memory).expect("a roll has a segment");
        if start + units <= LIMIT {
            // SAFETY: the fetch_add gave the range to this thread alone, and the slot's Arc keeps the
            // segment alive until the frame is finished.
            return Some(unsafe { Reserved::new(&self.waiters, memory, offset, units * 8) });
        }
        // SAFETY: start < LIMIT, so this thread owns the rest of the segment, which is unfinished until
        // it is padded.
        let segment = unsafe { memory.as_ref() };
        // SAFETY: this thread alone owns the rest of the segment.
        unsafe { pad(&self.waiters, segment, offset, (LIMIT - start) * 8) };
        None
    }

    /// The segment that a word names. It may be gone, unless the caller owns a range in it.
    #[inline(always)]
    fn look_up(&self, word: u64) -> (*mut S, u64) {
        let slot = self.slot(roll_of(word));
        // ORDERING: Relaxed; the word was loaded with Acquire.
        (slot.memory.load(Ordering::Relaxed), slot.base.load(Ordering::Relaxed))
    }

    /// Closes the active segment: what is left of it is padded, and writers must roll.
    ///
    /// It always changes the word, which `withdraw` relies on; but only by 1 if the segment is full,
    /// so that closing again and again (appends to a full disk) does not use up the room above LIMIT.
    pub(crate) fn close(&self) {
        // ORDERING: Acquire; as in `reserve`.
        let seen = self.word.load(Ordering::Acquire);
        let claim = self.take(seen, if fill(seen) >= LIMIT { 1 } else { CLOSE });
        // One unit fits if a roll came in between. It becomes a void frame of 8 bytes, and the
        // segment that the roll made active is closed in turn.
        if let Some(claim) = claim {
            drop(claim.guard());
            self.close();
        }
    }

    /// Makes the standby active if the active segment is full. False: there is no standby.
    ///
    /// Any number of threads may do this at once. One exchange succeeds for each roll; the others find
    /// a segment that is not full any more, and are done, too.
    pub(crate) fn roll(&self) -> bool {
        loop {
            // ORDERING: Acquire; pairs with the Release fence in `withdraw`, before it closes the
            // segment. If this sees the segment closed, the load below sees the standby gone. If it
            // does not, the word changes before the exchange below, which fails.
            let seen = self.word.load(Ordering::Acquire);
            if fill(seen) < LIMIT {
                return true;
            }
            // ORDERING: Acquire; pairs with the Release store in `publish`: the exchange below hands
            // on the slot that was written before it.
            let standby = self.standby.load(Ordering::Acquire);
            if standby == 0 || !is_after(roll_of(standby), roll_of(seen)) {
                return false;
            }
            // ORDERING: Release on success; pairs with the Acquire load in `reserve_unguarded` and
            // the fetch_add in `take`: they see the slot that was acquired from `standby`. Relaxed on
            // failure; the loop loads the word again.
            let (success, failure) = (Ordering::Release, Ordering::Relaxed);
            if self.word.compare_exchange(seen, standby, success, failure).is_ok() {
                return true;
            }
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        // ORDERING: Relaxed; a hint for preparers; `roll` itself loads the word again.
        fill(self.word.load(Ordering::Relaxed)) >= LIMIT
    }

    /// The number of the roll that made the active segment active, modulo 2^24.
    pub(crate) fn roll_number(&self) -> u64 {
        // ORDERING: Acquire; pairs with the Release exchange in `roll`: a thread that sees a roll sees its
        // slot, and everything that happened before its segment was published.
        roll_of(self.word.load(Ordering::Acquire))
    }

    /// The position of the next frame: the end of everything reserved.
    ///
    /// Read without owning a range, so the slot may be reused meanwhile. As with a sequence lock, what
    /// was read counts only if the word still has the same roll afterwards.
    pub(crate) fn position(&self) -> LogPosition {
        loop {
            // ORDERING: Acquire; pairs with the Release exchange in `roll`: the slot is seen.
            let word = self.word.load(Ordering::Acquire);
            let slot = self.slot(roll_of(word));
            // ORDERING: Relaxed, both; between the Acquire load above and the fence below.
            let id = slot.id.load(Ordering::Relaxed);
            let base = slot.base.load(Ordering::Relaxed);
            // ORDERING: Acquire fence; pairs with the Release fence in `publish`. If a value of a
            // later roll was read above, the load below sees that the word has moved on. If both are
            // of this roll, they belong together.
            fence(Ordering::Acquire);
            // ORDERING: Relaxed; behind the fence.
            if roll_of(self.word.load(Ordering::Relaxed)) == roll_of(word) {
                return LogPosition::new(id as u32, offset(base, fill(word).min(LIMIT)) as u32);
            }
        }
    }

    /// The exclusive right to prepare segments; waits for its holder.
    pub(crate) fn preparer(&self) -> Preparer<'_, S> {
        Preparer { tail: self, preparing: lock(&self.preparing) }
    }

    /// The segment of an active or earlier roll that is not finished.
    pub(crate) fn unfinished(&self, walker: &Walker, roll: u64) -> Option<Arc<S>> {
        self.check(walker);
        let active = self.roll_number();
        // ORDERING: Relaxed; stored in `finish`, for the same one walker.
        let known = roll >= self.finished.load(Ordering::Relaxed) && !is_after(roll, active);
        known.then(|| {
            self.slot(roll).segment.with(|cell| {
                // SAFETY: the roll is active or earlier and not finished, so no preparer writes the
                // slot; it was written before the roll that was acquired above. `finish`, which also
                // writes it, takes this tail's one walker mutably.
                let segment = unsafe { &*cell };
                segment.clone().expect("a roll has a segment")
            })
        })
    }

    fn check(&self, walker: &Walker) {
        assert!(Arc::ptr_eq(&self.identity, &walker.tail), "a walker of another log");
    }

    /// Records that every frame of every roll before this one is finished, and frees the slot of the
    /// last of them.
    ///
    /// # Safety
    /// All rolls before the last one were finished by earlier calls. Every frame of the last one is
    /// finished, and the walker has seen that (Acquire).
    pub(crate) unsafe fn finish(&self, walker: &mut Walker, rolls: u64) {
        self.check(walker);
        self.slot(rolls - 1).segment.with_mut(|cell| {
            // SAFETY: no range of this roll is still owned; `unfinished` takes the same walker; and the
            // preparer waits for the store below.
            unsafe { *cell = None };
        });
        // ORDERING: Release; pairs with the Acquire load in `has_slot`. If a preparer sees this, it
        // comes after the cell was emptied, and after everything that the segment's writers did,
        // which the walk acquired from their words. If it does not, it takes the slot for in use.
        self.finished.store(rolls, Ordering::Release);
    }
}

/// The exclusive right to prepare the next segment.
pub(crate) struct Preparer<'t, S> {
    tail: &'t Tail<S>,
    preparing: MutexGuard<'t, Preparing>,
}

impl<'t, S: SegmentMemory> Preparer<'t, S> {
    /// Whether there is a standby that is not active yet.
    pub(crate) fn has_standby(&self) -> bool {
        // ORDERING: Relaxed; only preparers store a standby, one at a time.
        let standby = self.tail.standby.load(Ordering::Relaxed);
        standby != 0 && is_after(roll_of(standby), self.tail.roll_number())
    }

    /// The number that the next published segment gets.
    pub(crate) fn next_roll(&self) -> u64 {
        self.preparing.next_roll
    }

    /// Whether there is a slot for another segment.
    pub(crate) fn has_slot(&self) -> bool {
        // ORDERING: Acquire; pairs with the Release store in `finish`: a thread that sees a slot freed may
        // write it.
        let finished = self.tail.finished.load(Ordering::Acquire);
        self.preparing.next_roll < finished + self.tail.slots.len() as u64
    }

    /// Publishes a segment as the standby, to be appended to from `offset` on.
    ///
    /// # Safety
    /// The offset is a multiple of 8, up to the capacity. From there on the segment is zero, and
    /// nothing else writes to it: ranges in it are handed out from now on.
    pub(crate) unsafe fn publish(&mut self, segment: Arc<S>, offset: u64) -> Result<(), NoSlot> {
        debug_assert!(!self.has_standby());
        if !self.has_slot() {
            return Err(NoSlot);
        }
        let roll = self.preparing.next_roll;
        let (id, capacity) = (segment.id(), segment.capacity());
        // ORDERING: Release fence; pairs with the Acquire fence in `position`. The slot's last roll is
        // finished, so the word had moved on from it before this: a thread that reads one of the values
        // below, and then the word, sees that.
        fence(Ordering::Release);
        let slot = self.tail.slot(roll);
        // ORDERING: Relaxed, all three; published by the Release store of the standby below.
        slot.id.store(u64::from(id), Ordering::Relaxed);
        slot.base.store(capacity.wrapping_sub(LIMIT * 8), Ordering::Relaxed);
        slot.memory.store(Arc::as_ptr(&segment).cast_mut(), Ordering::Relaxed);
        slot.segment.with_mut(|cell| {
            // SAFETY: only the preparer writes slots; the slot's last roll is finished
            // (`has_slot`), so no range in it is owned, and this roll is not active yet.
            unsafe { *cell = Some(segment) };
        });
        let word = (roll & ROLL_MASK) << ROLL_SHIFT | (LIMIT - (capacity - offset) / 8);
        self.preparing.next_roll = roll + 1;
        // ORDERING: Release; pairs with the Acquire load in `roll`: a thread that sees the standby sees its
        // slot.
        self.tail.standby.store(word, Ordering::Release);
        Ok(())
    }

    /// Publishes a segment whose first frame belongs to the caller: it is claimed before another thread
    /// can see the segment.
    ///
    /// # Safety
    /// As for `publish`, from `at` on, where `len` bytes fit; the length is a multiple of 8.
    pub(crate) unsafe fn publish_claimed(
        &mut self,
        segment: Arc<S>,
        at: u64,
        len: u64,
    ) -> Claim<'t, S> {
        assert!(self.has_slot(), "the caller has found a slot");
        let memory = NonNull::from(&*segment);
        // SAFETY: by the contract nothing else writes to the segment, and it is published with the
        // range taken; the slot then keeps it alive until the frame is finished.
        let claim = unsafe { Reserved::new(&self.tail.waiters, memory, at, len) }.guard();
        // SAFETY: the same contract.
        let published = unsafe { self.publish(segment, at + len) };
        published.expect("there is a slot");
        claim
    }

    /// Closes the active segment and takes back the standby, unless that became active meanwhile.
    /// Until the next `publish` no thread can roll.
    ///
    /// A thread that rolls at the same time loads the word, then the standby, and then exchanges the
    /// word. Here the standby is taken away first, and then the word is changed, by `close`. So either
    /// its exchange comes before the close, and the standby is active; or its exchange fails, because
    /// the word has changed, and when it loads the word again it finds no standby.
    pub(crate) fn withdraw(&mut self) -> Option<Arc<S>> {
        // ORDERING: Relaxed; ordered by the fence below.
        let standby = self.tail.standby.swap(0, Ordering::Relaxed);
        // ORDERING: Release fence; pairs with the Acquire load of the word in `roll`: a thread that
        // sees the word as `close` leaves it, and then loads the standby, sees it gone.
        fence(Ordering::Release);
        self.tail.close();
        if standby == 0 || !is_after(roll_of(standby), self.tail.roll_number()) {
            return None;
        }
        self.preparing.next_roll -= 1;
        self.tail.slot(self.preparing.next_roll).segment.with_mut(|cell| {
            // SAFETY: the roll never became active and cannot any more, so no thread reads the slot.
            unsafe { (*cell).take() }
        })
    }
}

impl<S> std::fmt::Debug for Tail<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").finish_non_exhaustive()
    }
}
