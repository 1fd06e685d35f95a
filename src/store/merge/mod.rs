//! Merging: the live frames of some sealed segments are copied into new ones, and the old ones are
//! removed.
//!
//! Invariants, each with what it protects:
//! * A frame's age is the position that it was first written at, which every copy keeps (its origin);
//!   never a clock, and never the id of a file. So it does not matter which segments are merged
//!   together or loaded first.
//! * A slot is moved only if it still points at exactly the frame that was copied. So a write or delete
//!   that came in between is not undone.
//! * Before an input is removed, its copies are durable, and so is the log up to its end after the last
//!   slot was examined: whatever made a frame in the input dead is durable too.
//! * A tombstone, or an expired value, which counts as one, is kept as long as a segment outside the
//!   merge may hold an older put of its key. The segments' hints tell, by the key's tag.
//! * Slots point into segments in the set: outputs are inserted before slots move, inputs removed
//!   afterwards. Before that, all slots are checked: if one still points into an input, nothing is
//!   removed.
//! * The frames read are compared with what the keydir was loaded from, so that a key which a hint left
//!   out is not lost.
//! * A damaged segment stays until nothing damaged in it is needed; see `damage`.

mod candidates;
pub(crate) mod damage;
mod output;
pub(crate) mod policy;
pub(crate) mod report;
mod run;
mod runs;
mod throttle;
pub(crate) mod tombstones;

pub use report::{MergeReport, MergeTotals};
pub(crate) use throttle::Pace;
