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

#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/format/mod.rs"]
mod format;
#[path = "../../src/position.rs"]
mod position;
#[path = "../../src/sync.rs"]
mod sync;

#[path = "../../src/log"]
mod log {
    pub(crate) mod commit;
    pub(crate) mod followers;
    pub(crate) mod group;
    pub(crate) mod tail;
}

#[path = "../../src/segment"]
mod segment {
    pub(crate) mod pins;
}

mod memory;

pub mod append;
pub mod slot;
pub mod waiting;

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    /// Which threads begin late in this run of the model, bit by bit.
    static LATE: Cell<u32> = const { Cell::new(0) };
    static SPAWNED: Cell<u32> = const { Cell::new(0) };
}

/// Runs a model with at most this many preemptions.
///
/// loom remembers one last access to each atomic, and so does not see that a store conflicts with
/// one thread's load if the storing thread has loaded in between; it then misses executions, and
/// which ones depends on the one that it begins with. So every model is run eight times, with
/// other threads coming first.
fn model(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let f = std::sync::Arc::new(f);
    let executions = std::sync::Arc::new(AtomicU64::new(0));
    for late in 0..8 {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.max_duration = Some(Duration::from_secs(5));
        builder.checkpoint_interval = 1_000;
        builder.max_branches = 10_000;
        let (f, executions) = (f.clone(), executions.clone());
        builder.check(move || {
            executions.fetch_add(1, Ordering::Relaxed);
            LATE.set(late);
            SPAWNED.set(0);
            f();
        });
    }
    println!("{} executions", executions.load(Ordering::Relaxed));
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

/// To be called by the main thread of a model before its own part. What it reads stale values of
/// must be read in a spawned thread: behind a yield loom shows a thread no value that it had seen.
fn begin_main() {
    begin(0);
}

fn begin(number: u32) {
    if LATE.get() >> number & 1 != 0 {
        loom::thread::yield_now();
    }
}
