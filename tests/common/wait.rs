//! Waiting for other threads and processes. Nothing here measures time: the limit only turns a hang
//! into a failure.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Far longer than anything takes on a slow and busy machine.
pub(crate) const HANG: Duration = Duration::from_secs(300);

/// Waits until a condition holds.
///
/// # Panics
/// After [`HANG`].
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < HANG, "{what}: it does not come to that");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs something that might never end.
///
/// # Panics
/// If it panics, or after [`HANG`].
pub(crate) fn within<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, finished) = mpsc::channel();
    let thread = thread::spawn(move || drop(done.send(run())));
    match finished.recv_timeout(HANG) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it has sent nothing"))
        }
    }
}

/// Sets a flag when it is dropped, so that other threads end also when an assertion fails.
pub(crate) struct Finish<'f>(pub(crate) &'f AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
