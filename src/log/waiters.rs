//! Threads that wait for a frame to be finished, at almost no cost to writers while there are none.
//!
//! A writer stores a commit word, and then loads `waiting` to see whether anybody waits. A waiter raises
//! `waiting`, and then loads commit words to see whether there is anything to wait for. If both loads
//! could be done before the other side's store, the waiter would sleep through the commit. So there is a
//! full barrier between store and load on each side:
//!
//! * if the waiter's barrier comes first, the writer's load sees it, and wakes it;
//! * if the writer's barrier comes first, the waiter's loads see the commit, and it does not sleep.
//!
//! A full barrier would cost the writer as much as the whole append. On Linux the waiter therefore pays
//! for both, with membarrier(2): that runs a full barrier in every running thread of the process, at
//! some point between two of its instructions. The writer's own barrier is then one for the compiler
//! only, which keeps store and load in their order.

use crate::sync::{
    AtomicUsize, Mutex, Ordering, Thread, current, heavy_barrier, light_barrier, lock, park_timeout,
};
use std::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// How many are in `wait`.
    waiting: AtomicUsize,
    /// Those to be woken by the next frame that is finished.
    threads: Mutex<Vec<Thread>>,
}

impl Waiters {
    /// Wakes waiting readers, after a frame was finished.
    #[inline]
    pub(crate) fn notify(&self) {
        // ORDERING: SeqCst; pairs with the heavy barrier in `wait`: either the waiter sees the frame
        // that was finished before this, or the load below sees the waiter.
        light_barrier();
        // ORDERING: Relaxed; comes after the light barrier above.
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        threads.into_iter().for_each(|thread| thread.unpark());
    }

    /// Each waiter is in the list at most once.
    fn register(&self) {
        let (mut threads, me) = (lock(&self.threads), current());
        if threads.iter().all(|thread| thread.id() != me.id()) {
            threads.push(me);
        }
    }

    /// Waits until `ready` or the deadline; true if it was ready. `None` waits forever.
    ///
    /// It registers before it asks `ready`, each time. So if a frame is finished after it has asked, it
    /// is in the list and is unparked, and `park` returns at once even if that comes first.
    pub(crate) fn wait(&self, deadline: Option<Instant>, mut ready: impl FnMut() -> bool) -> bool {
        // ORDERING: Relaxed; comes before the heavy barrier below.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _registered = Registered(self);
        loop {
            self.register();
            // ORDERING: SeqCst; pairs with the light barrier in `notify`, as explained there.
            heavy_barrier();
            if ready() {
                return true;
            }
            if !park_timeout(deadline) {
                return ready();
            }
        }
    }
}

/// Undoes the registration when the wait ends, also if `ready` panics.
struct Registered<'f>(&'f Waiters);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        // ORDERING: Relaxed; a writer that still sees this waiter does not find it in the list, or
        // unparks it once for nothing.
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        let me = current().id();
        lock(&self.0.threads).retain(|thread| thread.id() != me);
    }
}
