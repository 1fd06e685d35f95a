//! Jobs that several threads work on together.

use crate::sync::{Mutex, PoisonError, lock};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// More threads than this would only wait for memory together.
const MOST: usize = 8;

/// How many threads should share work that keeps a processor busy.
pub(crate) fn processors() -> usize {
    if cfg!(tailcask_shuttle) {
        // Its threads are not the system's.
        return 1;
    }
    std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST))
}

/// What is made of each item, on all processors, in their order.
pub(crate) fn of_each<T: Sync, R: Send, E: Send>(
    items: &[T],
    make: impl Fn(usize, &T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let (next, made) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())));
    let work = || {
        loop {
            // ORDERING: Relaxed; each index is drawn once.
            let nth = next.fetch_add(1, Relaxed);
            let Some(item) = items.get(nth) else { return Ok(()) };
            let one = make(nth, item)?;
            lock(&made).push((nth, one));
        }
    };
    on_threads(processors().min(items.len()), work)?;
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_unstable_by_key(|&(nth, _)| nth);
    Ok(made.into_iter().map(|(_, one)| one).collect())
}

/// Runs a job on up to `threads` threads, this one among them, and returns the error of one. Each run of
/// the job takes work until none is left; so if no more threads can be started, fewer do it all.
pub(crate) fn on_threads<E: Send>(
    threads: usize,
    job: impl Fn() -> Result<(), E> + Sync,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map_while(|_| {
                let spawned = std::thread::Builder::new().spawn_scoped(scope, &job);
                spawned
                    .inspect_err(
                        |error| tracing::debug!(%error, "could not start a thread: one less works"),
                    )
                    .ok()
            })
            .collect();
        let mine = job();
        others.into_iter().fold(mine, |done, other| match other.join() {
            Ok(its) => done.and(its),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}
