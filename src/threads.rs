//! Work on several threads, or on as many as there can be.

/// Runs a job on up to `threads` threads, this one among them, and gives the error of one. The job
/// shares its work out by itself: where no more threads can be made, those that there are do all.
pub(crate) fn on_threads<E: Send>(
    threads: usize,
    job: impl Fn() -> Result<(), E> + Sync,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map_while(|_| {
                let spawned = std::thread::Builder::new().spawn_scoped(scope, &job);
                spawned.inspect_err(|error| tracing::debug!(%error, "one thread less")).ok()
            })
            .collect();
        let mine = job();
        others.into_iter().fold(mine, |done, other| match other.join() {
            Ok(its) => done.and(its),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}
