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
//!
//! A task waits in the same way, but registers its waker, looks once more, and returns. Its waker is called
//! by the thread that finishes the frame, so it runs there, after the frame is finished. It is code of an
//! async runtime, or of a user, and may use the log or the store. So a thread that finishes frames under a lock,
//! while it leads a sync, or between claiming a frame and finishing it, says so ([`WakeLater`]), and calls the
//! wakers after that.

use crate::sync::{
    AtomicUsize, Mutex, Ordering, Thread, current, heavy_barrier, light_barrier, lock,
    park_timeout, thread_local,
};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::Instant;

/// Set in [`LATER`] if there is something in [`KEPT`].
const SOME_KEPT: u32 = 1 << 31;

thread_local! {
    /// The number of this thread's [`WakeLater`].
    static LATER: Cell<u32> = const { Cell::new(0) };
    static KEPT: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

/// As long as one exists, this thread calls no waker, but keeps them; it calls them when the last one is
/// dropped. To be made before a lock is taken, and dropped after it.
#[derive(Debug)]
#[must_use]
pub(crate) struct WakeLater {
    _of_this_thread: PhantomData<*const ()>,
}

impl WakeLater {
    #[inline]
    pub(crate) fn begin() -> Self {
        LATER.with(|later| later.set(later.get() + 1));
        Self { _of_this_thread: PhantomData }
    }
}

impl Drop for WakeLater {
    #[inline]
    fn drop(&mut self) {
        let left = LATER.with(|later| {
            later.set(later.get() - 1);
            later.get()
        });
        if left == SOME_KEPT {
            call_kept();
        }
    }
}

#[cold]
fn call_kept() {
    LATER.with(|later| later.set(0));
    call(KEPT.with(RefCell::take).into_iter());
}

/// Calls wakers, now or later.
#[cold]
fn call(mut wakers: impl Iterator<Item = Waker>) {
    if LATER.with(Cell::get) != 0 {
        // In a thread that is ending there may be no place to keep them: then they are called at once.
        if KEPT.try_with(|kept| kept.borrow_mut().extend(&mut wakers)).is_ok() {
            LATER.with(|later| later.set(later.get() | SOME_KEPT));
            return;
        }
    }
    for waker in wakers {
        // If it panics, the writer, whose frame is finished, goes on, and the others are woken; the panic
        // hook has reported it.
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// How many are in `wait`, and how many tasks have a ticket.
    waiting: AtomicUsize,
    /// Those to be woken by the next frame that is finished.
    sleepers: Mutex<Sleepers>,
}

#[derive(Debug, Default)]
struct Sleepers {
    threads: Vec<Thread>,
    /// Each with its ticket.
    tasks: Vec<(u64, Waker)>,
    /// Tickets given so far.
    tickets: u64,
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
        let (threads, tasks) = {
            let mut sleepers = lock(&self.sleepers);
            (std::mem::take(&mut sleepers.threads), std::mem::take(&mut sleepers.tasks))
        };
        threads.into_iter().for_each(|thread| thread.unpark());
        if !tasks.is_empty() {
            call(tasks.into_iter().map(|(_, waker)| waker));
        }
    }

    /// Each waiter is in the list at most once.
    fn register(&self) {
        let (mut sleepers, me) = (lock(&self.sleepers), current());
        if sleepers.threads.iter().all(|thread| thread.id() != me.id()) {
            sleepers.threads.push(me);
        }
    }

    /// Has a task woken, once, by the next frame that is finished. It has to look once more after this: what
    /// was finished before does not wake it. `ticket` stands for the task (0: it has none yet).
    #[allow(dead_code, reason = "only with the feature `stream`, which the models do not have")]
    pub(crate) fn register_task(&self, ticket: &mut u64, waker: &Waker) {
        // Cloned and dropped without the lock: a waker runs code of the async runtime, which may panic.
        let mut waker = Some(waker.clone());
        if *ticket == 0 {
            // ORDERING: Relaxed; comes before the heavy barrier below.
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        {
            let mut sleepers = lock(&self.sleepers);
            if *ticket == 0 {
                sleepers.tickets += 1;
                *ticket = sleepers.tickets;
            }
            match sleepers.tasks.iter_mut().find(|(of, _)| of == ticket) {
                Some((_, old)) => std::mem::swap(old, waker.as_mut().expect("just cloned")),
                None => sleepers.tasks.extend(waker.take().map(|waker| (*ticket, waker))),
            }
        }
        drop(waker);
        // ORDERING: SeqCst; pairs with the light barrier in `notify`, as explained there.
        heavy_barrier();
    }

    /// Takes a task off the list, and its ticket.
    #[allow(dead_code, reason = "as above")]
    pub(crate) fn forget_task(&self, ticket: &mut u64) {
        let ticket = std::mem::take(ticket);
        if ticket == 0 {
            return;
        }
        let waker = {
            let mut sleepers = lock(&self.sleepers);
            let at = sleepers.tasks.iter().position(|(of, _)| *of == ticket);
            at.map(|at| sleepers.tasks.swap_remove(at))
        };
        // ORDERING: Relaxed; a writer that still sees this task does not find it in the list.
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        // The last one, since it may panic.
        drop(waker);
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
        lock(&self.0.sleepers).threads.retain(|thread| thread.id() != me);
    }
}

#[cfg(all(test, not(tailcask_loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::Wake;

    /// A task of which nothing may be dropped.
    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }

    #[test]
    fn a_task_that_panics_when_it_is_dropped_costs_writers_nothing() {
        let (waiters, mut ticket) = (Waiters::default(), 0);
        waiters.register_task(&mut ticket, &Waker::from(Arc::new(Panics)));
        let forgotten = catch_unwind(AssertUnwindSafe(|| waiters.forget_task(&mut ticket)));
        assert!(forgotten.is_err());
        // ORDERING: Relaxed; there is one thread.
        assert_eq!(waiters.waiting.load(Ordering::Relaxed), 0);
    }
}
