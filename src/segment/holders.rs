//! What keeps a removed segment mapped, and its space taken.

use super::Segment;
use crate::taken::Mark;
#[cfg(feature = "backtraces")]
use crate::taken::TakenAt;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// A segment that was removed, by a merge or from the beginning of the log, and is still mapped, since
/// something that was read from it is kept.
///
/// Nothing is recorded where something is read, so this says how much is kept, and since when the segment
/// should be gone. With the feature `backtraces` it also has where and when the oldest of it was read.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use tailcask::{Maintenance, Store};
///
/// let store = Store::options().maintenance(Maintenance::Manual).open(dir.path().join("store"))?;
/// store.put("colour", "green")?;
/// let kept = store.get("colour")?.expect("just put");
/// store.put("colour", "blue")?;
/// # store.log().maintain()?;
/// store.merge()?; // removes the segment with the old value, if it is full by now
/// for held in &store.stats().held_segments {
///     println!("{held}");
/// }
/// # drop(kept);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HeldSegment {
    /// Its id: the number in the name that its file had.
    pub id: u32,
    /// How long ago it was removed. `None` in a [`ReadView`](crate::ReadView), which keeps the segments
    /// that it shows and is not told when the store has removed one.
    pub removed_for: Option<Duration>,
    /// Bytes of address space that it takes.
    pub mapped_bytes: u64,
    /// Bytes on disk that are not given back.
    pub disk_bytes: u64,
    /// Values and entries that borrow their store or log, and reads under way.
    pub pins: u64,
    /// Values, entries, pairs and `Bytes` that own their segment, and readers that are in it. What the log
    /// itself does with a segment counts for a moment, too.
    pub owners: u64,
    /// Whether some thread may be inside a closure of `get_with` or the like, which are not counted; or in
    /// a long epoch of other code that uses `crossbeam-epoch`.
    pub in_epoch: bool,
    /// Where and when the oldest of the pins and owners was taken, if it is known.
    #[cfg(feature = "backtraces")]
    pub oldest: Option<TakenAt>,
}

impl HeldSegment {
    pub(crate) fn of(
        segment: &Segment,
        removed_for: Option<Duration>,
        owners: u64,
        in_epoch: bool,
    ) -> Self {
        Self {
            id: segment.id(),
            removed_for,
            mapped_bytes: segment.map.len() as u64,
            disk_bytes: segment.disk_bytes(),
            pins: segment.pins.count(),
            owners,
            in_epoch,
            #[cfg(feature = "backtraces")]
            oldest: segment.marks.oldest(HOLD),
        }
    }

    /// Whether anything keeps it. If not, it is about to be unmapped.
    pub(crate) const fn is_held(&self) -> bool {
        self.pins > 0 || self.owners > 0 || self.in_epoch
    }

    /// Where the oldest hold was taken, in words.
    pub(crate) fn taken(&self) -> Option<String> {
        #[cfg(feature = "backtraces")]
        return self.oldest.as_ref().map(ToString::to_string);
        #[cfg(not(feature = "backtraces"))]
        None
    }
}

impl fmt::Display for HeldSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, mapped_bytes, disk_bytes, pins, owners, .. } = self;
        write!(f, "segment {id}, ")?;
        match self.removed_for {
            Some(time) => write!(f, "removed {:.1} s ago", time.as_secs_f64())?,
            None => f.write_str("removed")?,
        }
        write!(f, ", keeps {mapped_bytes} bytes mapped and {disk_bytes} on disk: ")?;
        let mut separator = "";
        for (count, one, many) in [
            (*pins, "value or entry that borrows", "values or entries that borrow"),
            (
                *owners,
                "value, entry or reader that owns it",
                "values, entries or readers that own it",
            ),
        ] {
            if count > 0 {
                write!(f, "{separator}{count} {}", if count == 1 { one } else { many })?;
                separator = ", ";
            }
        }
        if self.in_epoch {
            write!(f, "{separator}perhaps a closure that reads in it")?;
        }
        Ok(())
    }
}

/// What marks of a segment are marks of.
pub(crate) const HOLD: u64 = 0;

/// What keeps a segment for something that was read, without a pin.
#[derive(Debug)]
pub(crate) struct SegmentOwner {
    segment: Arc<Segment>,
    _mark: Mark,
}

impl SegmentOwner {
    #[inline(always)]
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        let _mark = segment.marks.mark(HOLD);
        Self { segment, _mark }
    }
}

impl Clone for SegmentOwner {
    fn clone(&self) -> Self {
        Self::new(self.segment.clone())
    }
}

impl Deref for SegmentOwner {
    type Target = Segment;

    #[inline(always)]
    fn deref(&self) -> &Segment {
        &self.segment
    }
}
