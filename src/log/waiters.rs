//! Readers that wait for the next entry, at no cost to writers while there are none.
//!
//! A writer finishes a frame and then looks whether anyone waits; a reader says that it waits and
//! then looks for an entry. One of the two must see the other, which takes a full barrier on each side.
//! The writer's would cost as much as the append, so on Linux the reader pays for both with
//! membarrier(2), and the writer's is only one for the compiler.

use crate::sync::{
    AtomicUsize, Mutex, Ordering, Thread, current, heavy_barrier, light_barrier, lock, park_timeout,
};
use std::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Waiters {
    waiting: AtomicUsize,
    threads: Mutex<Vec<Thread>>,
}

impl Waiters {
    /// After a frame was finished: wakes those who wait.
    #[inline]
    pub(crate) fn notify(&self) {
        // ORDERING: SeqCst; pairs with the heavy barrier in `wait`: one of the two sees the other, a waiter
        // the frame that was finished before this, or this writer the waiter.
        light_barrier();
        // ORDERING: Relaxed; between the light barrier above and the heavy one in `wait`.
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

    /// Waits until `ready` or the deadline; true where it was ready. `None` waits for ever.
    pub(crate) fn wait(&self, deadline: Option<Instant>, mut ready: impl FnMut() -> bool) -> bool {
        // ORDERING: Relaxed; before the heavy barrier below, which pairs with `notify`'s light one.
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

/// Until it waits no longer, also if `ready` panics.
struct Registered<'f>(&'f Waiters);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        // ORDERING: Relaxed; a writer that still sees us finds us gone from the list.
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        let me = current().id();
        lock(&self.0.threads).retain(|thread| thread.id() != me);
    }
}
