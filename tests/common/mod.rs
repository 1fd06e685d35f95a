//! What the tests share.
//!
//! - [`options`]: options for small logs and stores without background threads.
//! - [`content`]: all of a log or store as a `Vec` or a map.
//! - [`events`]: what the library tells a subscriber of `tracing`.
//! - [`files`]: names and copies of files, and flipped bits.
//! - [`hints`]: hints that lie.
//! - [`frames`]: checksums of `docs/format.md`, written a second time.
//! - [`wait`]: waiting for other threads, with a limit for hangs.
//! - [`random`]: reproducible randomness, and how many rounds to run.
//! - [`tasks`]: running futures.
//! - [`children`]: tests that run in another process, and kill it.
//! - [`mounts`]: tests on a file system of their own.
//! - [`cli`]: running the command.

#![allow(dead_code, unused_imports, reason = "each test is a crate of its own and uses a part")]

#[cfg(unix)]
pub(crate) mod children;
#[cfg(feature = "cli")]
pub(crate) mod cli;
pub(crate) mod content;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod frames;
pub(crate) mod hints;
#[cfg(target_os = "linux")]
pub(crate) mod mounts;
pub(crate) mod options;
pub(crate) mod random;
pub(crate) mod tasks;
pub(crate) mod wait;

pub(crate) use content::{contents, count, entries, sealed, value};
pub(crate) use files::{hint, segment};
pub(crate) use options::{log_by_hand, small_log, small_store, store_by_hand};
pub(crate) use random::{Random, rounds};
pub(crate) use wait::{Finish, HANG, until, within};
