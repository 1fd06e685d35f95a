//! Model checks of the append protocol.
//!
//! The modules below are tailcask's own files, compiled against loom. Each public function is a
//! model: it runs the protocol in every interleaving (up to a bound on preemptions) and under
//! every outcome that the memory model allows. `tests/models.rs` runs them.

#![allow(missing_docs, missing_debug_implementations, dead_code, unreachable_pub, unused_imports)]
#![allow(
    clippy::arc_with_non_send_sync,
    reason = "loom's cells are not Sync, and its threads ask for nothing"
)]

#[path = "../../src/checkpoint.rs"]
mod checkpoint;
#[path = "../../src/error/mod.rs"]
mod error;
#[path = "../../src/format/mod.rs"]
mod format;
#[path = "../../src/position.rs"]
mod position;
#[path = "../../src/sync.rs"]
mod sync;

#[path = "../../src/log"]
mod log {
    pub(crate) mod append;
    pub(crate) mod group_commit;
    pub(crate) mod waiters;
}

#[path = "../../src/segment"]
mod segment {
    pub(crate) mod pins;
}

#[path = "../../src/store/pending"]
mod pending {
    pub(crate) mod words;
}

mod memory;

pub mod append;
pub mod scan;
pub mod slot;
pub mod waiting;

use std::cell::Cell;

thread_local! {
    /// Which threads begin late in this run of the model, bit by bit.
    static LATE: Cell<u32> = const { Cell::new(0) };
    static SPAWNED: Cell<u32> = const { Cell::new(0) };
}

/// The most executions of a model from each of its eight beginnings. It is a count and not a time, so
/// that a model goes as far on a slow machine as on a fast one.
const LIMIT: usize = 100_000;

/// Runs a model with at most this many preemptions, through all its executions. It fails if there are
/// more than `LIMIT`.
///
/// Every model is run eight times, with other threads coming first. The reason is that loom remembers
/// only the last access to each atomic: it does not see that a store conflicts with another thread's
/// load if the storing thread has loaded in between. It then misses executions, and which ones depends
/// on the first one.
fn model(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let unfinished = run(preemptions, LIMIT, f);
    assert_eq!(unfinished, 0, "the model did not come to its end within {LIMIT} executions");
}

/// Runs a model that has too many executions, up to a number of them.
fn model_in_part(preemptions: usize, limit: usize, f: impl Fn() + Send + Sync + 'static) {
    let unfinished = run(preemptions, limit, f);
    assert!(unfinished > 0, "the model has come to its end: run it with `model`");
}

/// Returns from how many of its eight beginnings the model did not come to its end.
fn run(preemptions: usize, limit: usize, f: impl Fn() + Send + Sync + 'static) -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let f = std::sync::Arc::new(f);
    let (mut total, mut unfinished) = (0, 0);
    for late in 0..8 {
        let executions = std::sync::Arc::new(AtomicUsize::new(0));
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.max_duration = None;
        builder.max_permutations = Some(limit);
        builder.checkpoint_interval = 1_000;
        builder.max_branches = 10_000;
        let (f, counted) = (f.clone(), executions.clone());
        builder.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            LATE.set(late);
            SPAWNED.set(0);
            f();
        });
        let executions = executions.load(Ordering::Relaxed);
        total += executions;
        unfinished += usize::from(executions + 1 >= limit);
    }
    match unfinished {
        0 => println!("{total} executions: all there are"),
        n => println!("{total} executions: NOT FINISHED from {n} of 8 beginnings"),
    }
    unfinished
}

/// As `model`, for models in which a thread waits for another one's frames.
fn followed(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    sync::FOLLOWED.set(true);
    model(preemptions, f);
    sync::FOLLOWED.set(false);
}

/// Starts a thread of a model.
fn spawn<R: 'static>(f: impl FnOnce() -> R + 'static) -> loom::thread::JoinHandle<R> {
    let number = SPAWNED.get() + 1;
    SPAWNED.set(number);
    loom::thread::spawn(move || {
        begin(number);
        f()
    })
}

/// The main thread of a model calls this before its own part. Whatever should be read with stale values
/// must be read in a spawned thread, because after a yield loom shows a thread only new values.
fn begin_main() {
    begin(0);
}

fn begin(number: u32) {
    if LATE.get() >> number & 1 != 0 {
        loom::thread::yield_now();
    }
}
