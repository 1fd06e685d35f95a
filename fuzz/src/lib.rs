//! What is fuzzed, as functions of bytes. The targets in `fuzz_targets/` call them, and so does
//! `tests/fuzzing.rs`, with the seeds and with mutations of them.
//!
//! * [`targets`]: the functions.
//! * [`checks`]: what has to hold of whatever a target has made.
//! * [`files`]: directories as bytes.
//! * [`checksums`]: made right again, by `docs/format.md` and not by the code under test.
//! * [`operations`]: sequences of operations against a model.

pub mod checks;
pub mod checksums;
pub mod files;
pub mod operations;
pub mod targets;
