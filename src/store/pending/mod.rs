//! Pending marks: which keys an iteration has still to yield.
//!
//! An iteration goes through the segments in order and yields the frames that slots point at. Between
//! two items it holds nothing, and slots change meanwhile. So each iteration has a set of **pending
//! marks**, at positions of frames, and whoever changes a slot moves its mark along.
//!
//! # Invariants
//!
//! An iteration registers itself ([`ActiveScans`]), and then takes a **snapshot**, shard by shard: under
//! the shard's read lock it sets a mark at the position of every slot.
//!
//! * **One mark a key.** From the snapshot of its shard until it is yielded or deleted, a key has exactly
//!   one mark, where its slot points. The exception is the moment, under the write lock of the shard, in
//!   which the slot is being changed.
//! * **Who changes a slot moves the mark**, under the write lock of the slot's shard: it takes the mark at
//!   the old position, and only if it was there, sets one at the new position, or none for a delete.
//!   A key that is added gets no mark. So before the snapshot of its shard a key has no mark, and none
//!   comes into being except by a snapshot.
//! * **Taking is one atomic step.** A mark is taken by the iteration, or by one writer, and never by two.
//!
//! So if the iteration takes the mark at a position, the slot pointed there at that moment: the frame is
//! the key's current value. The key has no mark any more, and will not come again. A key that is not
//! deleted keeps its mark until it is taken, so it comes. A deleted key has none.
//!
//! # Why the frame can be read
//!
//! The iteration makes sure first that the segment stays mapped (it makes its weak reference a strong
//! one, for which the set of segments waits), and then takes a mark. A merge retires a segment after it
//! has moved every slot, and so every mark, out of it. If the segment is gone, its marks are in other
//! places, and it is skipped. Setting a mark is a Release, and the iteration takes it with an
//! Acquire: so it sees at least the claim and the key of the frame, as a reader under the lock would.
//!
//! # Why it ends
//!
//! `remaining` counts the marks that exist (never too few); only a snapshot adds to it. A pass visits the segments that
//! have marks when it begins, each once and from the front to the back, so it ends. A mark that is moved
//! meanwhile is met later in the pass, or in the next one. Keys that are overwritten all the time could
//! stay ahead of every pass. So after a few passes, or if few marks remain, the iteration is **closed**:
//!
//! 1. `closing` is set, and each shard is locked once: from then on whoever changes a slot sees it, and
//!    moves marks into one ordered set, `loose`, under its mutex. No mark is set in a segment any more.
//! 2. The marks left in segments are moved to `loose`, too, each under the mutex.
//! 3. The marks in `loose` are taken one by one. The mutex makes "take and set" of a writer one step, so a
//!    mark cannot be missed: as long as any exists, the next one is found. Each is a step towards 0.
//!
//! Positions at which no frame can begin, or whose segment does not exist (a wrong hint can lead to such
//! slots), are in `loose` from the beginning; reading them gives the error.
//!
//! # Memory
//!
//! Marks are kept in chunks of 256 KiB of a segment, each made when the first mark is set in it. Where
//! frames are less than 256 bytes long on average, or a segment is still being written, a chunk has a bit
//! for each 8 bytes: 1.6% of the data, so 4 bytes for each of these frames. Where they are longer, a chunk
//! has a sorted list of 2 bytes a mark (4 with what vectors keep free), under a mutex.

mod marks;
mod scans;
pub(crate) mod words;

pub(crate) use marks::{Extent, ScanMarks, SegmentMarks};
pub(crate) use scans::ActiveScans;
