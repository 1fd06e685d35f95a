//! Group commit: many wait, one syncs.
//!
//! Invariants:
//! * At most one thread leads, and only the leader raises `durable`.
//! * Every waiter is woken when its target is durable, when a sync has failed, or when it is its
//!   turn to lead; whoever stops leading sees to that, also when it panics.
//! * A failure is kept: from then on every wait that is not yet satisfied fails.

use crate::sync::{Arc, AtomicU64, Mutex, Ordering, Thread, current, lock, park};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

pub(crate) type Failure = Arc<io::Error>;

enum Wake {
    Thread(Thread),
    Task(Waker),
}

struct Waiter {
    /// Of a task: by what it finds itself again. 0 for a thread.
    ticket: u64,
    target: u64,
    wake: Wake,
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

enum Turn {
    Done,
    Lead,
    Wait,
}

/// What an async waiter finds.
pub(crate) enum TaskTurn {
    Done,
    Failed(Failure),
    /// Registered; somebody else has to see to it that someone leads.
    Registered,
}

impl GroupCommit {
    pub(crate) fn new(durable: u64) -> Self {
        Self { durable: AtomicU64::new(durable), state: Mutex::new(Group::default()) }
    }

    pub(crate) fn durable(&self) -> u64 {
        // ORDERING: Acquire; pairs with the Release store in `finish`: who sees the watermark
        // comes after the sync.
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        lock(&self.state).failed.clone()
    }

    /// Returns when everything before `target` is durable. `lead` syncs, and says up to where.
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

    /// `registered`: perhaps this thread is among the waiters already, and was woken for nothing.
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
        let is_me = |w: &Waiter| matches!(&w.wake, Wake::Thread(thread) if thread.id() == me.id());
        if !registered || !state.waiters.iter().any(is_me) {
            state.waiters.push(Waiter { ticket: 0, target, wake: Wake::Thread(me) });
        }
        Ok(Turn::Wait)
    }

    /// As `wait` for a task: registers its waker where it has to wait, once, by its ticket (0: it
    /// has none yet).
    pub(crate) fn poll(&self, target: u64, ticket: &mut u64, waker: &Waker) -> TaskTurn {
        // Cloned and dropped outside of the lock: a waker is somebody else's code.
        let mut wake = Wake::Task(waker.clone());
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

    /// A task waits no longer.
    pub(crate) fn forget(&self, ticket: u64) {
        let mut state = lock(&self.state);
        let at = state.waiters.iter().position(|w| w.ticket != 0 && w.ticket == ticket);
        let waiter = at.map(|at| state.waiters.swap_remove(at));
        drop(state);
        drop(waiter);
    }

    /// Wakes all tasks: nobody will lead for them any more.
    pub(crate) fn wake_tasks(&self) {
        let mut state = lock(&self.state);
        let (tasks, threads) = std::mem::take(&mut state.waiters)
            .into_iter()
            .partition(|w| matches!(w.wake, Wake::Task(_)));
        state.waiters = threads;
        drop(state);
        wake(tasks);
    }

    /// The furthest position that a task waits for.
    pub(crate) fn wanted(&self) -> Option<u64> {
        let state = lock(&self.state);
        let tasks = state.waiters.iter().filter(|w| matches!(w.wake, Wake::Task(_)));
        tasks.map(|w| w.target).max()
    }

    /// Those waiting now.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.state).waiters.len()
    }

    fn finish(&self, result: Result<u64, io::Error>) {
        let mut state = lock(&self.state);
        state.leading = false;
        match result {
            // ORDERING: Relaxed; only stored under the lock that is held here.
            Ok(durable) if durable > self.durable.load(Ordering::Relaxed) => {
                // ORDERING: Release; pairs with the Acquire load in `durable`.
                self.durable.store(durable, Ordering::Release);
            }
            Ok(_) => {}
            Err(error) => {
                state.failed.get_or_insert_with(|| Arc::new(error));
            }
        }
        // ORDERING: Relaxed; as above.
        let durable = self.durable.load(Ordering::Relaxed);
        let failed = state.failed.is_some();
        let (mut woken, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut state.waiters)
            .into_iter()
            .partition(|w| failed || w.target <= durable);
        state.waiters = rest;
        // Someone has to lead for those who are left.
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
            Wake::Thread(thread) => thread.unpark(),
            Wake::Task(waker) => tasks.push(waker),
        }
    }
    // A waker is somebody else's code. If it panics, the others are woken all the same, and it is
    // not the leader's fault, whose sync went well: the panic hook has told of it.
    for waker in tasks {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

/// Stops leading when the leader panics.
struct Leading<'g>(&'g GroupCommit);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.finish(Err(io::Error::other("a thread panicked while it synced")));
    }
}

impl std::fmt::Debug for GroupCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupCommit").finish_non_exhaustive()
    }
}
