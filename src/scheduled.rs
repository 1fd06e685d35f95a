//! The same names on shuttle, which runs all threads of a test as coroutines of one, and decides at each
//! atomic operation, lock and wait which one goes on. Orderings do not matter to it: that is loom's part.

use shuttle::sync::atomic::AtomicBool as Pace;
use std::cell::Cell;
use std::sync::atomic as real;
use std::time::Instant;

pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, RwLock};
pub(crate) use shuttle::thread::{Thread, current, park, yield_now};
pub(crate) use shuttle::thread_local;
pub(crate) use std::sync::atomic::Ordering;
pub(crate) use std::sync::{Arc, PoisonError};

pub(crate) mod thread {
    pub(crate) use shuttle::thread::{Builder, JoinHandle, current, park, sleep, yield_now};

    /// There is no time in a schedule: whoever waits for it lets the others go on.
    pub(crate) fn park_timeout(_time: std::time::Duration) {
        yield_now();
    }
}

std::thread_local! {
    static PACE: Pace = const { Pace::new(false) };
    static AT_ONCE: Cell<bool> = const { Cell::new(false) };
}

/// Another thread may go on here.
pub(crate) fn point() {
    if !AT_ONCE.get() {
        PACE.with(|pace| pace.load(Ordering::SeqCst));
    }
}

/// One step, however many atomic operations are in it. It takes no lock.
pub(crate) fn at_once<R>(work: impl FnOnce() -> R) -> R {
    point();
    AT_ONCE.set(true);
    let result = work();
    AT_ONCE.set(false);
    result
}

/// What a lock gives that is not shuttle's, as soon as it does.
pub(crate) fn until_some<T>(mut get: impl FnMut() -> Option<T>) -> T {
    point();
    loop {
        if let Some(got) = get() {
            return got;
        }
        yield_now();
    }
}

/// An atomic that is another thread's turn before each operation. It is `std`'s, as frames are words of a
/// file's map, which shuttle's could not be.
macro_rules! atomic {
    ($name:ident, $value:ty $(, $($arithmetic:ident),+)?) => {
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub(crate) struct $name(real::$name);

        impl $name {
            pub(crate) const fn new(value: $value) -> Self {
                Self(real::$name::new(value))
            }

            pub(crate) fn get_mut(&mut self) -> &mut $value {
                self.0.get_mut()
            }

            pub(crate) fn into_inner(self) -> $value {
                self.0.into_inner()
            }

            pub(crate) fn load(&self, ordering: Ordering) -> $value {
                point();
                self.0.load(ordering)
            }

            pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                point();
                self.0.store(value, ordering);
            }

            pub(crate) fn swap(&self, value: $value, ordering: Ordering) -> $value {
                point();
                self.0.swap(value, ordering)
            }

            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                done: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                point();
                self.0.compare_exchange(old, new, done, failed)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                done: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, done, failed)
            }

            pub(crate) fn fetch_update(
                &self,
                done: Ordering,
                failed: Ordering,
                mut update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut old = self.load(failed);
                while let Some(new) = update(old) {
                    match self.compare_exchange(old, new, done, failed) {
                        Ok(old) => return Ok(old),
                        Err(now) => old = now,
                    }
                }
                Err(old)
            }

            $($(
                pub(crate) fn $arithmetic(&self, value: $value, ordering: Ordering) -> $value {
                    point();
                    self.0.$arithmetic(value, ordering)
                }
            )+)?
        }
    };
}

atomic!(AtomicBool, bool, fetch_or, fetch_and);
atomic!(AtomicU8, u8);
atomic!(AtomicU32, u32, fetch_add, fetch_sub, fetch_max);
atomic!(AtomicU64, u64, fetch_add, fetch_sub, fetch_max, fetch_min, fetch_or, fetch_and);
atomic!(AtomicUsize, usize, fetch_add, fetch_sub, fetch_max);

#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct AtomicPtr<T>(real::AtomicPtr<T>);

impl<T> AtomicPtr<T> {
    pub(crate) const fn new(value: *mut T) -> Self {
        Self(real::AtomicPtr::new(value))
    }

    pub(crate) fn load(&self, ordering: Ordering) -> *mut T {
        point();
        self.0.load(ordering)
    }

    pub(crate) fn store(&self, value: *mut T, ordering: Ordering) {
        point();
        self.0.store(value, ordering);
    }

    pub(crate) fn swap(&self, value: *mut T, ordering: Ordering) -> *mut T {
        point();
        self.0.swap(value, ordering)
    }

    pub(crate) fn compare_exchange(
        &self,
        old: *mut T,
        new: *mut T,
        done: Ordering,
        failed: Ordering,
    ) -> Result<*mut T, *mut T> {
        point();
        self.0.compare_exchange(old, new, done, failed)
    }
}

/// A word of a file.
pub(crate) type FileWord = AtomicU64;

impl AtomicU64 {
    /// # Safety
    /// As for [`AtomicU64::from_ptr`](real::AtomicU64::from_ptr).
    #[allow(unsafe_code, reason = "forwards the contract")]
    pub(crate) const unsafe fn from_ptr<'a>(ptr: *mut u64) -> &'a Self {
        // SAFETY: the contract; this is nothing but such an atomic.
        unsafe { &*ptr.cast::<Self>() }
    }
}

pub(crate) fn fence(_ordering: Ordering) {}

pub(crate) fn register_barrier() {}

pub(crate) fn light_barrier() {}

pub(crate) fn heavy_barrier() {}

/// Parks until unparked; false once the deadline has passed.
pub(crate) fn park_timeout(deadline: Option<Instant>) -> bool {
    if deadline.is_some() {
        yield_now()
    } else {
        park()
    }
    deadline.is_none_or(|deadline| Instant::now() < deadline)
}

#[derive(Debug, Default)]
pub(crate) struct Backoff(());

impl Backoff {
    pub(crate) fn wait(&mut self) {
        yield_now();
    }
}
