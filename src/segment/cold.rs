//! Which segments may not be in memory, and what the kernel is told about them.
//!
//! All segments are mapped, and the kernel keeps as much of them in memory as there is room for. It
//! guesses what comes next: around a page that is missing it reads up to `read_ahead_kb` of the device
//! (often 128 KiB, 8 MiB on some), or 2 MiB where huge pages were asked for. That is right while
//! everything fits: it is read once, and fast. Beyond that, each read of a value drives thousands of
//! others out of memory. So there is a budget ([`CacheBudget`]): once the sealed segments are larger,
//! each of them is **scattered**, which means that the kernel reads the page that is asked for and no
//! other. Whoever reads a scattered segment front to back says so of the range that it is at ([`ReadAhead`]).
//!
//! A segment is **cold** if reading a page of it may wait for the device: it is scattered, or it was
//! found on opening and has not been seen in memory since. Pages of cold segments are not read under
//! locks (`store::cold`). Invariant: only sealed segments become scattered, so nothing writes to one.
//!
//! Both are advice. A thread that misses a change waits longer, or holds a lock while it waits.
//!
//! Deciding and telling the kernel are two steps. The budget is compared with the segments under the lock
//! of their set ([`CacheBudget::weigh`]), which writers need for a roll; that calls nothing. The kernel is
//! told afterwards, a segment at a time and without that lock ([`SegmentSet::advise`]): with ten thousand
//! segments it takes tens of milliseconds. Invariant: whoever weighs has the kernel told after that, and of
//! those who tell it there is one at a time, who goes by what was decided last and does not end while a
//! sealed segment differs from that. So once all have ended, each sealed segment of the set is scattered
//! if the budget is exceeded, and no other is, whatever was sealed, added and removed meanwhile.
//!
//! [`ReadAhead`]: super::read_ahead::ReadAhead
//! [`SegmentSet::advise`]: super::set::SegmentSet::advise

use super::Segment;
use crate::storage::sys;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pages of a segment that must be in memory for it to count as warm.
const PAGES_OF_A_SEGMENT: u64 = 32;

/// Segments that are looked at in one [`CacheBudget::look`].
const SEGMENTS_OF_A_LOOK: usize = 32;

/// The active segment, the standby, and what a merge reads and writes at a time.
const SEGMENTS_UNSEALED: u64 = 4;

/// How often to look how much memory there is.
const PERIOD: Duration = Duration::from_secs(1);

/// A budget that follows the memory that there is, unless one was set: what is free, or would be if pages
/// of files were given up, but for a sixteenth and for what the segments take that are being written and
/// merged. Those of the sealed segments are among those pages; what the keydir and the rest of the process
/// take is not. A budget that is too high costs more than one that is too low: what fits into memory is
/// found there in either mode.
pub(crate) struct FollowedMemory {
    bytes: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    unsealed: u64,
    looked: Instant,
}

impl FollowedMemory {
    /// `unsealed` bytes are not for sealed segments, as far as they are not more than half.
    pub(crate) fn new(
        bytes: impl Fn() -> Option<u64> + Send + Sync + 'static,
        unsealed: u64,
    ) -> Self {
        Self { bytes: Box::new(bytes), unsealed, looked: Instant::now() }
    }

    /// What there is for this process.
    pub(crate) fn of_process(segment_size: u64) -> Self {
        let memory = sys::AvailableMemory::find();
        Self::new(move || memory.bytes(), SEGMENTS_UNSEALED * segment_size)
    }

    /// Whether it is time for another look.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.looked.elapsed() >= PERIOD;
        if is_due {
            self.looked = Instant::now();
        }
        is_due
    }

    /// The budget, if it is another one than `now` by more than what comes and goes all the time.
    pub(super) fn budget(&self, now: u64) -> Option<u64> {
        let budget = (self.bytes)().map_or(u64::MAX, |bytes| {
            (bytes - bytes / 16).saturating_sub(self.unsealed).max(bytes / 2)
        });
        (budget.abs_diff(now) > now / 64).then_some(budget)
    }
}

impl std::fmt::Debug for FollowedMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FollowedMemory").finish_non_exhaustive()
    }
}

impl Segment {
    /// Whether reading a page of it may wait for the device.
    #[inline]
    pub(crate) fn is_cold(&self) -> bool {
        self.warmth.is_cold()
    }

    /// Whether the kernel reads ahead nothing by itself.
    #[inline]
    pub(crate) fn is_scattered(&self) -> bool {
        self.warmth.is_scattered()
    }

    /// Only for a sealed segment. Callers are one at a time.
    pub(super) fn set_scattered(&self, scattered: bool) {
        debug_assert!(self.is_sealed());
        if self.is_scattered() == scattered {
            return;
        }
        if scattered {
            self.warmth.set_cold(true);
        }
        self.map.expect_cold(scattered);
        self.warmth.set_scattered(scattered);
    }

    /// Takes a segment that is not scattered for warm, if all of some pages all over it are in memory.
    fn look(&self) {
        let end = self.end().min(self.map.len() as u64);
        let step = (end / PAGES_OF_A_SEGMENT).max(64 << 10);
        let is_resident = |at| self.map.is_resident(at) != Some(false);
        if (0..end).step_by(step as usize).all(is_resident) {
            self.warmth.set_cold(false);
        }
    }
}

/// How many bytes of sealed segments are expected to fit into memory.
#[derive(Debug)]
pub(crate) struct CacheBudget {
    bytes: AtomicU64,
    /// Whether the sealed segments are larger.
    exceeded: AtomicBool,
    /// Whether any segment is cold.
    any_cold: AtomicBool,
    /// Whether the sealed segments take more than half of it.
    tight: AtomicBool,
    /// The segment at which the next look begins.
    next: AtomicUsize,
}

impl Default for CacheBudget {
    /// No limit.
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(u64::MAX),
            exceeded: AtomicBool::new(false),
            any_cold: AtomicBool::new(false),
            tight: AtomicBool::new(false),
            next: AtomicUsize::new(0),
        }
    }
}

impl CacheBudget {
    pub(crate) fn bytes(&self) -> u64 {
        // ORDERING: Relaxed; a number alone.
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, bytes: u64) {
        // ORDERING: Relaxed; a number alone.
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether the sealed segments are larger than the budget.
    pub(crate) fn is_exceeded(&self) -> bool {
        // ORDERING: Relaxed; advice, see above.
        self.exceeded.load(Ordering::Relaxed)
    }

    /// Whether any segment is cold.
    #[inline]
    pub(crate) fn has_cold(&self) -> bool {
        // ORDERING: Relaxed; advice, see above.
        self.any_cold.load(Ordering::Relaxed)
    }

    /// The bytes of sealed segments that merges aim at where live ones are few enough: less than the budget
    /// by what may die until a merge is done.
    pub(crate) fn aim(&self) -> u64 {
        let bytes = self.bytes();
        bytes - bytes / 8
    }

    /// Whether the sealed segments take so much memory that other files should not.
    pub(crate) fn is_tight(&self) -> bool {
        // ORDERING: Relaxed; advice, see above.
        self.tight.load(Ordering::Relaxed)
    }

    /// Compares all segments with the budget. Once exceeded, it stays so until a sixteenth of the budget is
    /// free. Returns whether the kernel is to be told of any segment. Callers are one at a time.
    pub(super) fn weigh(&self, segments: &[Arc<Segment>]) -> bool {
        let sealed = segments.iter().filter(|segment| segment.is_sealed());
        let bytes: u64 = sealed.clone().map(|segment| segment.end()).sum();
        let (budget, was) = (self.bytes(), self.is_exceeded());
        let exceeded = bytes > if was { budget - budget / 16 } else { budget };
        if exceeded != was {
            tracing::info!(bytes, budget, exceeded, "the cache budget");
        }
        // ORDERING: Relaxed; advice, see above.
        self.exceeded.store(exceeded, Ordering::Relaxed);
        // ORDERING: Relaxed; as above.
        self.tight.store(bytes > budget / 2, Ordering::Relaxed);
        let (mut differs, mut any_cold) = (false, false);
        for segment in segments {
            if segment.is_sealed() && segment.is_scattered() != exceeded {
                differs = true;
                if exceeded {
                    segment.warmth.set_cold(true);
                }
            }
            any_cold |= segment.is_cold();
        }
        // ORDERING: Relaxed; advice, see above.
        self.any_cold.store(any_cold, Ordering::Relaxed);
        differs
    }

    /// The sealed segments of which the kernel has been told something else than was decided.
    pub(super) fn differing(&self, segments: &[Arc<Segment>]) -> Vec<Arc<Segment>> {
        let exceeded = self.is_exceeded();
        let differs = |s: &&Arc<Segment>| s.is_sealed() && s.is_scattered() != exceeded;
        segments.iter().filter(differs).cloned().collect()
    }

    /// Looks at some of the segments that are cold and not scattered: which of them are in memory by
    /// now. Callers are one at a time, and nobody tells the kernel meanwhile.
    pub(super) fn look(&self, segments: &[Arc<Segment>]) {
        if segments.is_empty() {
            return;
        }
        // ORDERING: Relaxed; any number will do.
        let from = self.next.fetch_add(SEGMENTS_OF_A_LOOK, Ordering::Relaxed);
        for nth in 0..SEGMENTS_OF_A_LOOK.min(segments.len()) {
            let segment = &segments[from.wrapping_add(nth) % segments.len()];
            if segment.is_cold() && !segment.is_scattered() {
                segment.look();
            }
        }
    }

    /// Whether a look may find any segment to be in memory.
    pub(super) fn may_warm_up(&self) -> bool {
        self.has_cold() && !self.is_exceeded()
    }

    /// To be called after a look. Callers are one at a time, and nobody weighs meanwhile.
    pub(super) fn note_cold(&self, segments: &[Arc<Segment>]) {
        let any = segments.iter().any(|segment| segment.is_cold());
        // ORDERING: Relaxed; advice, see above.
        self.any_cold.store(any, Ordering::Relaxed);
    }

    /// The share of the sealed segments' pages that are in memory, from that many of them, spread evenly.
    /// `None` if there are none, or if it cannot be determined.
    pub(super) fn resident(&self, segments: &[Arc<Segment>], pages: u64) -> Option<f64> {
        let sealed = || segments.iter().filter(|segment| segment.is_sealed());
        let bytes: u64 = sealed().map(|segment| segment.end()).sum();
        let step = (bytes / pages).max(64 << 10);
        let (mut asked, mut resident, mut at) = (0u32, 0u32, step / 2);
        for segment in sealed() {
            while at < segment.end() {
                asked += 1;
                resident += u32::from(segment.map.is_resident(at)?);
                at += step;
            }
            at -= segment.end();
        }
        (asked > 0).then(|| f64::from(resident) / f64::from(asked))
    }
}
