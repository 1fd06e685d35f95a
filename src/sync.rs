//! The one place that chooses between `std`, loom and shuttle.
//!
//! The files of the append protocol import their atomics, cells, locks and threads from here and
//! nowhere else, so that `loom-tests` compiles the very same files against loom's. So does everything that
//! threads of a store wait for or decide by, so that `schedules` runs the whole store under schedules that a
//! seed decides. What only counts may use `std`'s atomics.
//!
//! [`FileWord`] is an atomic word of a file, which is little-endian on every machine.

#[cfg(not(any(tailcask_loom, tailcask_shuttle)))]
mod imp {
    use crate::storage::sys;
    #[cfg(target_endian = "little")]
    pub(crate) use std::sync::atomic::AtomicU64 as FileWord;
    use std::sync::atomic::compiler_fence;
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
    pub(crate) use std::thread::{self, Thread, current, park, yield_now};
    pub(crate) use std::thread_local;
    use std::time::{Duration, Instant};

    /// Parks until unparked; false once the deadline has passed.
    pub(crate) fn park_timeout(deadline: Option<Instant>) -> bool {
        let Some(deadline) = deadline else {
            park();
            return true;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            std::thread::park_timeout(left);
        }
        !left.is_zero()
    }

    // A pair of barriers, of which one side costs nothing. A writer stores a commit, passes the light
    // barrier, and loads whether anybody waits. A waiter stores that it waits, passes the heavy
    // barrier, and loads the commit. At least one of them sees the other:
    // * If the heavy barrier comes before the writer's light one, what the waiter stored is visible
    //   to the writer's load, and the writer wakes it.
    // * If it comes after, what the writer stored is visible to the waiter's load, and the waiter
    //   does not sleep.
    // With membarrier(2) the kernel makes every running thread pass a full barrier, wherever it is, so
    // the writer needs none of its own: only the compiler must keep the order. Without it (on macOS,
    // or if a sandbox forbids the call) both sides use a fence.

    /// As `AtomicU64`, with its bytes the other way round: those of a file are little-endian.
    #[cfg(target_endian = "big")]
    #[derive(Debug)]
    #[repr(transparent)]
    pub(crate) struct FileWord(AtomicU64);

    #[cfg(target_endian = "big")]
    impl FileWord {
        #[cfg(test)]
        pub(crate) const fn new(value: u64) -> Self {
            Self(AtomicU64::new(value.to_le()))
        }

        /// # Safety
        /// As for [`AtomicU64::from_ptr`].
        #[allow(unsafe_code, reason = "forwards the contract")]
        pub(crate) const unsafe fn from_ptr<'a>(ptr: *mut u64) -> &'a Self {
            // SAFETY: the contract; this is nothing but such an atomic.
            unsafe { &*ptr.cast::<Self>() }
        }

        #[inline]
        pub(crate) fn load(&self, ordering: Ordering) -> u64 {
            u64::from_le(self.0.load(ordering))
        }

        #[inline]
        pub(crate) fn store(&self, value: u64, ordering: Ordering) {
            self.0.store(value.to_le(), ordering);
        }
    }

    /// Set once the kernel has agreed to `heavy_barrier`'s membarrier.
    static EXPEDITED: AtomicBool = AtomicBool::new(false);

    /// Asks the kernel for expedited barriers. Called when a log is opened, before it has writers or
    /// waiters.
    pub(crate) fn register_barrier() {
        if sys::register_membarrier() {
            // ORDERING: SeqCst; never set back. Every user of a log comes after its opening, and so sees
            // it set.
            EXPEDITED.store(true, Ordering::SeqCst);
        }
    }

    /// The writer's barrier: a full one for the caller of `heavy_barrier`.
    #[inline]
    pub(crate) fn light_barrier() {
        // ORDERING: Relaxed; set before the log had writers, so the two sides agree on it.
        if EXPEDITED.load(Ordering::Relaxed) {
            // ORDERING: SeqCst for the compiler; pairs with the membarrier in `heavy_barrier`.
            compiler_fence(Ordering::SeqCst);
        } else {
            // ORDERING: SeqCst fence; pairs with the one in `heavy_barrier`.
            fence(Ordering::SeqCst);
        }
    }

    /// The waiter's barrier: a full one, here and in every running thread of this process.
    pub(crate) fn heavy_barrier() {
        // ORDERING: SeqCst fence; pairs with the one in `light_barrier`.
        fence(Ordering::SeqCst);
        // ORDERING: Relaxed; set before the log had waiters.
        if EXPEDITED.load(Ordering::Relaxed) {
            sys::membarrier();
        }
    }

    /// Waits for a few instructions of another thread, longer each time.
    #[derive(Debug, Default)]
    pub(crate) struct Backoff(u32);

    impl Backoff {
        pub(crate) fn wait(&mut self) {
            match self.0 {
                0..=5 => (0..1u32 << self.0).for_each(|_| std::hint::spin_loop()),
                6..=15 => yield_now(),
                n => std::thread::sleep(Duration::from_micros(50 << (n - 16).min(4))),
            }
            self.0 = self.0.saturating_add(1);
        }
    }
}

#[cfg(tailcask_loom)]
mod imp {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic::AtomicU64 as FileWord;
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(crate) use loom::sync::{Mutex, MutexGuard};
    pub(crate) use loom::thread::{Thread, current, park, yield_now};
    pub(crate) use std::sync::{Arc, PoisonError};
    pub(crate) use std::thread_local;

    pub(crate) fn park_timeout(_deadline: Option<std::time::Instant>) -> bool {
        park();
        true
    }

    std::thread_local! {
        /// Whether the model has waiters. All its threads are coroutines of one real thread.
        pub(crate) static FOLLOWED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    /// A membarrier is a full barrier in every thread: in a model, a fence on both sides. A model
    /// without waiters has no membarrier, and a fence here would hide orderings that are missing.
    pub(crate) fn light_barrier() {
        if FOLLOWED.get() {
            // ORDERING: SeqCst fence; pairs with the one in `heavy_barrier`.
            fence(Ordering::SeqCst);
        }
    }

    pub(crate) fn heavy_barrier() {
        // ORDERING: SeqCst fence; pairs with the one in `light_barrier`.
        fence(Ordering::SeqCst);
    }

    #[derive(Debug, Default)]
    pub(crate) struct Backoff;

    impl Backoff {
        pub(crate) fn wait(&mut self) {
            yield_now();
        }
    }
}

#[cfg(tailcask_shuttle)]
pub(crate) use crate::scheduled::*;
#[cfg(not(tailcask_shuttle))]
pub(crate) use imp::*;

#[cfg(not(tailcask_loom))]
pub(crate) use cell::UnsafeCell;

#[cfg(not(tailcask_loom))]
mod cell {
    /// `std`'s cell with loom's closures, which is how loom sees each access.
    #[derive(Debug, Default)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

/// Locks, even if a holder panicked: what our locks guard is consistent between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work that is one step of a schedule.
#[cfg(not(tailcask_shuttle))]
#[inline(always)]
pub(crate) fn at_once<R>(work: impl FnOnce() -> R) -> R {
    work()
}
