//! Group commit: many threads wait for durability, and one of them syncs for all.
//!
//! A thread whose target is not durable yet leads if no other thread does: it syncs as far as it can,
//! raises the watermark, and steps down. Otherwise it registers and parks. When a leader steps down, it
//! wakes all whose target is durable now, and one of the remaining threads. That one finds that no
//! thread leads, and leads; or, if a newcomer was faster, registers again and is woken by that one.
//!
//! Invariants:
//! * At most one thread leads, and only the leader raises `durable`.
//! * Every waiter is woken when its target is durable, when a sync has failed, or when it should lead.
//!   A leader ensures that when it stops, even if it panics.
//! * A failure is permanent: every wait that is not yet satisfied fails from then on.
//!
//! Async tasks wait in the same group, and never lead: the log's own thread does so for them.

use crate::sync::{Arc, AtomicU64, Mutex, Ordering, Thread, current, lock, park};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

pub(crate) type Failure = Arc<io::Error>;

enum Wakeup {
    Thread(Thread),
    Task(Waker),
}

struct Waiter {
    /// By this a task finds its own entry again. 0 for a thread.
    ticket: u64,
    target: u64,
    wake: Wakeup,
}

#[derive(Default)]
struct Group {
    leading: bool,
    failed: Option<Failure>,
    waiters: Vec<Waiter>,
    /// Tickets given so far.
    tickets: u64,
}

pub(crate) struct GroupCommit {
    durable: AtomicU64,
    state: Mutex<Group>,
}

/// What a thread does next.
enum Turn {
    Done,
    Lead,
    Wait,
}

/// What a task does next.
pub(crate) enum TaskTurn {
    Done,
    Failed(Failure),
    /// It is registered. A thread has to lead for it, which the task must see to.
    Registered,
}

impl GroupCommit {
    pub(crate) fn new(durable: u64) -> Self {
        Self { durable: AtomicU64::new(durable), state: Mutex::new(Group::default()) }
    }

    pub(crate) fn durable(&self) -> u64 {
        // ORDERING: Acquire; pairs with the Release store in `finish`: a thread that sees the watermark
        // comes after the sync that raised it.
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        lock(&self.state).failed.clone()
    }

    /// Returns when everything before `target` is durable. `lead` syncs and returns how far.
    pub(crate) fn wait(
        &self,
        target: u64,
        mut lead: impl FnMut() -> Result<u64, io::Error>,
    ) -> Result<(), Failure> {
        let mut registered = false;
        loop {
            match self.turn(target, registered)? {
                Turn::Done => return Ok(()),
                Turn::Wait => {
                    registered = true;
                    park();
                }
                Turn::Lead => {
                    let guard = Leading(self);
                    let result = lead();
                    std::mem::forget(guard);
                    self.finish(result);
                }
            }
        }
    }

    /// Decides what the calling thread does next. `registered`: it had to wait before, and may
    /// still be among the waiters, if it was woken by something else.
    fn turn(&self, target: u64, registered: bool) -> Result<Turn, Failure> {
        if self.durable() >= target {
            return Ok(Turn::Done);
        }
        let mut state = lock(&self.state);
        if self.durable() >= target {
            return Ok(Turn::Done);
        }
        if let Some(failure) = &state.failed {
            return Err(failure.clone());
        }
        if !state.leading {
            state.leading = true;
            return Ok(Turn::Lead);
        }
        let me = current();
        let is_me =
            |w: &Waiter| matches!(&w.wake, Wakeup::Thread(thread) if thread.id() == me.id());
        if !registered || !state.waiters.iter().any(is_me) {
            state.waiters.push(Waiter { ticket: 0, target, wake: Wakeup::Thread(me) });
        }
        Ok(Turn::Wait)
    }

    /// As `wait`, for a task: registers its waker if it has to wait. It is registered once, however
    /// often it polls, by its ticket (0: it has none yet).
    pub(crate) fn poll(&self, target: u64, ticket: &mut u64, waker: &Waker) -> TaskTurn {
        // Cloned and dropped outside of the lock: a waker runs code of the async runtime.
        let mut wake = Wakeup::Task(waker.clone());
        let mut state = lock(&self.state);
        if self.durable() >= target {
            return TaskTurn::Done;
        }
        if let Some(failure) = &state.failed {
            return TaskTurn::Failed(failure.clone());
        }
        match state.waiters.iter_mut().find(|w| w.ticket != 0 && w.ticket == *ticket) {
            Some(waiter) => std::mem::swap(&mut waiter.wake, &mut wake),
            None => {
                state.tickets += 1;
                *ticket = state.tickets;
                state.waiters.push(Waiter { ticket: *ticket, target, wake });
                return TaskTurn::Registered;
            }
        }
        drop(state);
        drop(wake);
        TaskTurn::Registered
    }

    /// Removes a task that waits no longer.
    pub(crate) fn forget(&self, ticket: u64) {
        let mut state = lock(&self.state);
        let at = state.waiters.iter().position(|w| w.ticket != 0 && w.ticket == ticket);
        let waiter = at.map(|at| state.waiters.swap_remove(at));
        drop(state);
        drop(waiter);
    }

    /// Wakes all tasks, because no thread will lead for them any more.
    pub(crate) fn wake_tasks(&self) {
        let mut state = lock(&self.state);
        let (tasks, threads) = std::mem::take(&mut state.waiters)
            .into_iter()
            .partition(|w| matches!(w.wake, Wakeup::Task(_)));
        state.waiters = threads;
        drop(state);
        wake(tasks);
    }

    /// The highest position that a task waits for.
    pub(crate) fn wanted(&self) -> Option<u64> {
        let state = lock(&self.state);
        let tasks = state.waiters.iter().filter(|w| matches!(w.wake, Wakeup::Task(_)));
        tasks.map(|w| w.target).max()
    }

    /// How many wait now.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.state).waiters.len()
    }

    /// How many wait or sync now.
    #[cfg(not(tailcask_loom))]
    pub(crate) fn callers(&self) -> usize {
        let state = lock(&self.state);
        state.waiters.len() + usize::from(state.leading)
    }

    /// Steps down as the leader; wakes those whose target is durable, and the next leader.
    fn finish(&self, result: Result<u64, io::Error>) {
        let mut state = lock(&self.state);
        state.leading = false;
        match result {
            // ORDERING: Relaxed; only stored under the lock, which is held here.
            Ok(durable) if durable > self.durable.load(Ordering::Relaxed) => {
                // ORDERING: Release; pairs with the Acquire load in `durable`. If a thread sees this,
                // it comes after the sync; if it does not, it takes the lock and waits.
                self.durable.store(durable, Ordering::Release);
            }
            Ok(_) => {}
            Err(error) => {
                state.failed.get_or_insert_with(|| Arc::new(error));
            }
        }
        // ORDERING: Relaxed; under the lock, as above.
        let durable = self.durable.load(Ordering::Relaxed);
        let failed = state.failed.is_some();
        let (mut woken, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut state.waiters)
            .into_iter()
            .partition(|w| failed || w.target <= durable);
        state.waiters = rest;
        // One of the remaining threads will lead.
        let next = state.waiters.iter().position(|w| w.ticket == 0);
        woken.extend(next.map(|at| state.waiters.swap_remove(at)));
        drop(state);
        wake(woken);
    }
}

fn wake(waiters: Vec<Waiter>) {
    let mut tasks = Vec::new();
    for waiter in waiters {
        match waiter.wake {
            Wakeup::Thread(thread) => thread.unpark(),
            Wakeup::Task(waker) => tasks.push(waker),
        }
    }
    // A waker runs code of the async runtime. If it panics, the others are woken all the same, and the
    // leader goes on, for its sync went well; the panic hook has reported the panic.
    for waker in tasks {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

/// Steps down when the leader panics: it is then unknown what is durable, so that is a failure.
struct Leading<'g>(&'g GroupCommit);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.finish(Err(io::Error::other("a thread panicked during a sync")));
    }
}

impl std::fmt::Debug for GroupCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupCommit").finish_non_exhaustive()
    }
}
