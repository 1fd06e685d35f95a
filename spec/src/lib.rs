//! What tailcask promises, as two models that are checked exhaustively: every order of steps, every death,
//! every power loss within small limits.
//!
//! * [`log`]: appending, rolling and syncing (`append.rs`), the death of the process, power loss, and recovery
//!   ([`recovery`]). What it promises are the invariants in [`log::LogSpec::properties`].
//! * [`merge`]: a store's keys over such a log, of which it assumes what the first model shows: a death
//!   keeps the log as it is, a power loss cuts it behind what was synced.
//! * [`page`]: what a power loss may leave of anything that is written.
//!
//! To read in ten minutes: the promises are `properties`, at the end of `log.rs` and of `merge.rs`; the protocol is
//! `append.rs` (130 lines), `recovery.rs` (190), and of `merge.rs` what is between `copy` and `unlink` (100). The
//! rest is the state, and what deaths and power losses do to it.
//!
//! Each model takes a *flaw*: one deliberate mistake, of which the checker has to find the consequence
//! (`tests/flaws.rs`). `tests/promises.rs` checks the models without one. `tests/log_traces.rs` and
//! `tests/store_traces.rs` run the real engine on a simulated disk, and follow it step by step here.
//!
//! Not in the models: the memory orderings of the append protocol (`loom-tests/` has those), damage, full
//! disks, hints, expiry, truncation.

#![allow(
    missing_docs,
    missing_debug_implementations,
    reason = "fields, steps and flaws are named so that they need no sentence each"
)]

mod append;
pub mod log;
pub mod merge;
pub mod page;
pub mod recovery;

use stateright::{Checker, HasDiscoveries, Model};
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

/// Visits every state of a model.
///
/// # Panics
/// If a promise is broken, or something that has to be possible never happens. The message has the steps
/// that lead there.
pub fn hold<M>(name: &str, model: M) -> usize
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let started = Instant::now();
    let checker = model.checker().threads(2).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{name}: {states} states, {:.1} s", started.elapsed().as_secs_f64());
    checker.assert_properties();
    states
}

/// How many steps a model with a flaw takes to break a promise.
pub fn steps_to_break<M>(promise: &'static str, model: M) -> Option<usize>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    model.property(promise); // panics if there is none
    let broken = HasDiscoveries::AllOf([promise].into());
    let checker = model.checker().finish_when(broken).spawn_bfs().join();
    checker.discovery(promise).map(|path| path.into_actions().len())
}
