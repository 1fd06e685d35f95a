//! What is fuzzed, as functions of bytes. The targets in `fuzz_targets/` call them, and so does
//! `tests/fuzzing.rs`, with the seeds and with mutations of them.
//!
//! * [`targets`]: the functions.
//! * [`checks`]: what has to hold of whatever a target has made.
//! * [`files`]: directories as bytes.
//! * [`checksums`]: made right again, by `docs/format.md` and not by the code under test.
//! * [`operations`]: sequences of operations against a model.
//! * `command`: what the command reads from its input and its arguments.

pub mod checks;
pub mod checksums;
#[cfg(feature = "cli")]
pub(crate) mod cli;
#[cfg(feature = "cli")]
mod command;
pub mod files;
pub mod operations;
pub mod targets;

// The command's modules name each other from the root on. `tests/fuzzing.rs` has another root.
#[cfg(feature = "cli")]
#[allow(unused_imports, reason = "this is not always the root")]
use cli::{encoding, exit, interrupt, log, stdio, store, table, text, units};
