//! [`SimulatedDisk`]: a disk in memory that fails and loses power where a test says so.
//!
//! A log on it runs the code that it runs on files: its segments are mapped memory, and what the log
//! asks of the directory is a [`DiskOperation`]. `storage` is what the log sees; `disk` is what the
//! test holds; `state` has the names. Of each file, `content` has the page cache (`memory`, which the
//! log maps), what is on the device (`sparse`), and the states in between that were seen. No test can
//! see each store to a page, so `between` works out from the append protocol which other states a
//! sector can have passed through.
//!
//! How it differs from a real disk. It is harsher: each sector and each change of a name is written
//! back by itself, in any order, which file systems with a journal never do. And it is kinder: the
//! device writes a sector as a whole, a sync that fails has synced nothing, and what was written is
//! read back without errors, except where a test has damaged it.

mod between;
mod content;
mod disk;
mod fate;
mod memory;
mod operation;
mod sparse;
mod state;
mod storage;
#[cfg(test)]
mod tests;

pub use disk::SimulatedDisk;
pub use fate::{Fate, Unsynced};
pub use operation::DiskOperation;
pub(crate) use storage::SimulatedStorage;
