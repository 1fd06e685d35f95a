//! Iterating over all keys, in the order of segments.
//!
//! An iteration begins with a pass over the keydir, which marks where each slot points (see
//! [`pending`](super::pending)). Then it visits the segments in order, each from the front to the back:
//! it takes the next mark, and yields the frame there. What it yields keeps the segment mapped. Between
//! items it holds nothing but its marks and a weak reference to the segment that it is in, so merges and
//! writes go on, and an iterator that is kept for long keeps no segment.

use super::found::{HeldRecord, stale};
use super::inner::StoreInner;
use super::pending::{ScanMarks, SegmentMarks};
use super::view::{StoreView, extent_of};
use crate::error::ReadError;
use crate::format::record::NEVER;
use crate::log::CommitLog;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::segment::read_ahead::ReadAhead;
use crate::sync::{Mutex, lock};
use crate::wall_clock::WallClock;
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

/// The most passes over the segments before what is left is taken one by one.
const PASSES: u32 = 3;

/// If no more than this many keys are left, another pass is not worth it.
const FEW: u64 = 1024;

/// A key and its value, in place. It keeps its segment mapped.
///
/// A `Pair<'static>` borrows nothing: it can be sent to another thread, and kept after the store is closed.
/// [`Store::iter_owned`](super::Store::iter_owned) yields such pairs, and [`into_owned`](Self::into_owned) makes
/// one.
pub struct Pair<'a> {
    found: HeldRecord<'a>,
}

impl Pair<'_> {
    /// The key.
    #[must_use]
    #[inline]
    pub fn key(&self) -> &[u8] {
        self.found.key()
    }

    /// The value.
    #[must_use]
    #[inline]
    pub fn value(&self) -> &[u8] {
        self.found.value()
    }

    /// The same pair, without copying its bytes and without borrowing the store; see
    /// [`Value::into_owned`](super::Value::into_owned).
    #[must_use]
    pub fn into_owned(self) -> Pair<'static> {
        Pair { found: self.found.into_owned() }
    }

    /// Key and value, without copying their bytes and without borrowing the store. Each keeps their
    /// segment mapped as long as it exists, and nothing else.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// store.put("colour", "green")?;
    /// let (key, value) = store.iter().next().expect("one pair")?.into_parts();
    /// store.close()?;
    /// assert_eq!((&*key, &*value), (&b"colour"[..], &b"green"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn into_parts(self) -> (Bytes, Bytes) {
        self.found.into_parts()
    }

    /// When the pair expires, in milliseconds of the wall clock. `None`: it does not.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// use std::time::{Duration, SystemTime};
    /// use tailcask::WriteOptions;
    ///
    /// store.put_with("session", "ann", &WriteOptions::new().ttl(Duration::from_secs(60)))?;
    /// let pair = store.iter().next().expect("just put")?;
    /// assert!(pair.expires_at() > Some(SystemTime::now()));
    /// # drop(pair);
    /// # store.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        let expiry = self.found.expiry().filter(|&at| at != NEVER)?;
        // A time that the system cannot express is never reached.
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(expiry))
    }
}

impl fmt::Debug for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("position", &self.found.position()).finish_non_exhaustive()
    }
}

/// The view that is iterated over.
#[derive(Debug)]
enum ViewRef<'a> {
    Borrowed(&'a StoreView),
    /// With a handle, which keeps the store open.
    Owned {
        inner: Arc<StoreInner>,
        _handle: CommitLog,
    },
    /// Of a store that is open read-only.
    Shared(Arc<StoreView>),
}

impl Deref for ViewRef<'_> {
    type Target = StoreView;

    fn deref(&self) -> &StoreView {
        match self {
            Self::Borrowed(view) => view,
            Self::Owned { inner, .. } => inner,
            Self::Shared(view) => view,
        }
    }
}

/// An iteration, which one or several [`Pairs`] share.
#[derive(Debug)]
struct Scan<'a> {
    view: ViewRef<'a>,
    marks: Arc<ScanMarks>,
    turn: Mutex<Turn>,
}

/// Which segment is next.
#[derive(Debug, Default)]
struct Turn {
    /// What is left of this pass.
    segments: VecDeque<Arc<SegmentMarks>>,
    passes: u32,
    /// Number of `Pairs` that are in a segment.
    working: usize,
    closed: bool,
}

impl<'a> Scan<'a> {
    fn new(view: ViewRef<'a>) -> Self {
        let segments = view.table.with(|all| {
            let extents = all.iter().map(|segment| (segment.id(), extent_of(segment)));
            extents.collect::<Vec<_>>()
        });
        let marks = Arc::new(ScanMarks::new(segments.into_iter()));
        view.scans.add(&marks);
        let segments = marks.segments();
        for shard in 0..view.keydir.shards() {
            view.keydir.each_position(shard, |slots| {
                marks.snapshot(&segments, slots, &|id| view.extent(id));
            });
        }
        Self { view, marks, turn: Mutex::default() }
    }

    /// What a `Pairs` does next. `was_working`: it has come to the end of a segment.
    fn next(&self, was_working: bool) -> Place {
        let mut turn = lock(&self.turn);
        turn.working -= usize::from(was_working);
        loop {
            if turn.closed {
                return Place::Loose;
            }
            if let Some(marks) = turn.segments.pop_front() {
                turn.working += 1;
                // It is gone if a merge has moved all marks away.
                let segment = self.view.table.get(marks.id());
                let segment = segment.map_or_else(Weak::new, |segment| Arc::downgrade(&segment));
                // In later passes little of a segment is left to read.
                let ahead = (turn.passes == 1).then(ReadAhead::default);
                return Place::Segment { marks, segment, from: 0, ahead };
            }
            if turn.working > 0 || self.marks.remaining() == 0 {
                // The last one that works does what is left then.
                return Place::End;
            }
            if turn.passes == PASSES || turn.passes > 0 && self.marks.remaining() <= FEW {
                self.marks.close(|| self.view.keydir.wait_for_writers());
                turn.closed = true;
            } else {
                turn.passes += 1;
                turn.segments = self.marks.segments().into();
            }
        }
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        self.view.scans.remove(&self.marks);
    }
}

/// Where a `Pairs` is.
#[derive(Debug)]
enum Place {
    /// Before a segment.
    Between,
    /// At an offset of a segment.
    Segment {
        marks: Arc<SegmentMarks>,
        segment: Weak<Segment>,
        from: u64,
        ahead: Option<ReadAhead>,
    },
    /// At what was left over.
    Loose,
    End,
}

impl Place {
    /// Nothing is read ahead here any more.
    fn leave(&mut self) {
        if let Self::Segment { segment, ahead: Some(ahead), .. } = self
            && let Some(segment) = segment.upgrade()
        {
            ahead.leave(&segment);
        }
    }
}

/// What comes after a place.
enum Next<'a> {
    /// Another one.
    Place,
    Found(Result<HeldRecord<'a>, ReadError>),
    End,
}

/// An iterator over all keys and values, in no particular order: see [`Store::iter`](super::Store::iter).
#[derive(Debug)]
#[must_use]
pub struct Pairs<'a> {
    scan: Arc<Scan<'a>>,
    /// Those of the view.
    clock: WallClock,
    verify: bool,
    place: Place,
    /// Marks that were taken and are still counted as remaining.
    taken: u64,
}

impl<'a> Pairs<'a> {
    pub(super) fn new(view: &'a StoreView) -> Self {
        Self::of(Arc::new(Scan::new(ViewRef::Borrowed(view))))
    }

    fn of(scan: Arc<Scan<'a>>) -> Self {
        let (clock, verify) = (scan.view.clock.clone(), scan.view.verify);
        Self { scan, clock, verify, place: Place::Between, taken: 0 }
    }

    /// One that keeps the store open.
    pub(super) fn owned(inner: &Arc<StoreInner>, log: &CommitLog) -> Pairs<'static> {
        let view = ViewRef::Owned { inner: inner.clone(), _handle: log.clone() };
        Pairs::of(Arc::new(Scan::new(view)))
    }

    /// One that keeps the view.
    pub(super) fn shared(view: &Arc<StoreView>) -> Pairs<'static> {
        Pairs::of(Arc::new(Scan::new(ViewRef::Shared(view.clone()))))
    }

    /// Several that share one iteration.
    pub(super) fn parts(view: &'a StoreView, count: usize) -> Vec<Self> {
        let scan = Arc::new(Scan::new(ViewRef::Borrowed(view)));
        (0..count).map(|_| Self::of(scan.clone())).collect()
    }

    /// Gives the next record to `give`.
    // All of it in line, up to where the caller uses the record, so that it stays in registers. Moved through
    // memory, it is loaded in pieces that span several stores, which the processor waits for: that took as
    // long as everything else here.
    #[inline(always)]
    fn next_with<R>(
        &mut self,
        give: impl FnOnce(HeldRecord<'a>) -> R,
    ) -> Option<Result<R, ReadError>> {
        loop {
            // The segment comes first: once the mark is taken, nobody would move it away.
            if let Place::Segment { marks, segment, from, ahead } = &mut self.place
                && let Some(segment) = segment.upgrade()
                && let Some(offset) = marks.take_next(*from)
            {
                *from = offset + 8;
                self.taken += 1;
                if let Some(ahead) = ahead {
                    ahead.at(&segment, offset);
                }
                let at = LogPosition::new(marks.id(), offset as u32);
                match HeldRecord::read(segment, at, self.verify) {
                    Ok(found) if found.is_live(&self.clock) => return Some(Ok(give(found))),
                    Ok(_) => {}
                    Err(error) => return Some(Err(error)),
                }
                continue;
            }
            match self.next_place() {
                Next::Place => {}
                Next::Found(found) => return Some(found.map(give)),
                Next::End => return None,
            }
        }
    }

    /// Goes to the next place, or takes one of the records that are left over.
    #[cold]
    #[inline(never)]
    fn next_place(&mut self) -> Next<'a> {
        let scan = self.scan.clone();
        let view = &*scan.view;
        if view.table.is_closed() && !matches!(self.place, Place::End) {
            // What was not read yet cannot be read any more.
            self.place.leave();
            if matches!(self.place, Place::Segment { .. }) {
                lock(&self.scan.turn).working -= 1;
            }
            self.place = Place::End;
            return Next::Found(Err(ReadError::Closed));
        }
        match &self.place {
            Place::Segment { .. } => self.leave(),
            Place::Between => self.place = self.scan.next(false),
            Place::Loose => {
                let segment = |at: LogPosition| view.table.get(at.segment());
                let Some((at, segment)) = self.scan.marks.take_loose(segment) else {
                    self.place = Place::End;
                    return Next::End;
                };
                self.taken += 1;
                let segment = segment.ok_or_else(|| view.error(stale(at)));
                let found = segment.and_then(|segment| HeldRecord::read(segment, at, view.verify));
                if found.as_ref().map_or(true, |found| found.is_live(&view.clock)) {
                    return Next::Found(found);
                }
            }
            Place::End => return Next::End,
        }
        Next::Place
    }

    /// Leaves a segment, and goes to the next place.
    fn leave(&mut self) {
        self.scan.marks.subtract(std::mem::take(&mut self.taken));
        self.place.leave();
        self.place = self.scan.next(true);
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<Pair<'a>, ReadError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.next_with(|found| Pair { found })
    }
}

impl Drop for Pairs<'_> {
    fn drop(&mut self) {
        self.scan.marks.subtract(std::mem::take(&mut self.taken));
        self.place.leave();
        if matches!(self.place, Place::Segment { .. }) {
            // What is left of the segment is for the others, in their next pass.
            lock(&self.scan.turn).working -= 1;
        }
    }
}

/// An iterator over all keys, in no particular order: see [`Store::keys`](super::Store::keys).
#[derive(Debug)]
#[must_use]
pub struct Keys<'a>(pub(super) Pairs<'a>);

impl Iterator for Keys<'_> {
    type Item = Result<Vec<u8>, ReadError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_with(|found| found.key().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use crate::options::Maintenance;
    use crate::storage::simulated::SimulatedDisk;
    use crate::store::Store;

    #[test]
    fn an_iteration_that_is_over_is_forgotten() {
        let options = Store::options().maintenance(Maintenance::Manual);
        let store = options.open_simulated(&SimulatedDisk::volatile()).unwrap();
        store.put("key", "value").unwrap();
        let mut pairs = store.iter();
        assert!(store.inner.scans.any());
        assert_eq!(pairs.by_ref().count(), 1);
        drop(pairs);
        assert!(!store.inner.scans.any());
        let mut parts = store.iter_parts(2);
        parts.pop();
        assert!(store.inner.scans.any());
        drop(parts);
        assert!(!store.inner.scans.any());
    }
}
