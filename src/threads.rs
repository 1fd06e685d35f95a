//! Jobs that several threads work on together.

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
