//! New segments: how large they are, and where the space for them comes from.
//!
//! * Where there is no room for a segment of the size that is wanted, a smaller one is made, down to
//!   64 KiB, or to what the frame needs that is waiting.
//! * A standby is made ahead, and so only while that leaves room for others.
//! * The reserve is a file that is given back when a delete, a merge or the MANIFEST finds no space.
//!   From then on a store takes no puts, so that deletes and merges can go on, until there is room to
//!   put a reserve by again.
//! * A log that is opened without a byte free begins with a segment in memory that has no room at
//!   all; the first write makes a real one in its place, as after any segment that is full.

use super::{LogWriter, Next};
use crate::error::AppendError;
use crate::format::frame;
use crate::format::header::{FIRST_FRAME, FileIdentity, Origin, SegmentHeader};
use crate::log::append::tail::Preparer;
use crate::options::Config;
use crate::random::random_u64;
use crate::segment::Segment;
use crate::storage::{Prepared, Storage};
use crate::sync::{Mutex, lock};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What room is wanted for, which says how far to go for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// An entry of a log. It leaves the reserve alone.
    Append,
    /// A put to a store, which does so, too, and is refused while the reserve is given back.
    Put,
    /// What leads to space being freed. It takes the reserve.
    Delete,
}

/// No segment is made smaller than this for want of space, but in tests.
const SMALLEST: u64 = 64 << 10;
/// What a standby leaves free at least, besides as much as it takes.
const MARGIN: u64 = 4 << 20;
/// The smallest and the largest reserve.
const RESERVE: (u64, u64) = (256 << 10, 4 << 20);
/// Less than this in all segments is not worth a reserve.
const WORTH_A_RESERVE: u64 = 1 << 20;
/// How often to try again where somebody else may have taken what was given back.
const TRIES: usize = 3;

/// What a new segment is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum New<'a> {
    /// To become active by this roll.
    Log { roll: u64 },
    /// To hold frames that a merge moves out of these segments.
    Merged { inputs: &'a [u32] },
}

/// Whether an error says that there is no room, rather than that something is wrong. A limit on the
/// size of files is met by smaller ones, too.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

pub(super) fn refused(error: io::Error) -> AppendError {
    let no_space = is_no_space(&error);
    let source = Arc::new(error);
    if no_space { AppendError::NoSpace { source } } else { AppendError::Io { source } }
}

/// The capacity of a segment that holds frames of this length.
fn room_for(len: u64, unit: u64) -> u64 {
    (FIRST_FRAME + len).next_multiple_of(unit)
}

/// The capacities to try for a segment, the largest first: `wanted` if it can be, and room for `len`
/// bytes of frames in any case. Those that certainly do not fit are left out, but for the last one.
fn capacities(
    config: &Config,
    wanted: u64,
    len: u64,
    free: Option<u64>,
) -> impl Iterator<Item = u64> + use<> {
    let least = room_for(len, 4096).max(SMALLEST.min(config.segment_unit));
    let wanted = wanted.max(room_for(len, config.segment_unit)).max(least);
    let half = move |&size: &u64| (size > least).then(|| (size / 2).next_multiple_of(4096));
    let sizes = std::iter::successors(Some(wanted), move |size| Some(half(size)?.max(least)));
    sizes.filter(move |&size| size == least || free.is_none_or(|free| size <= free))
}

/// Tries one after the other while there is no space.
fn first_that_fits<T>(
    capacities: impl Iterator<Item = u64>,
    mut make: impl FnMut(u64) -> io::Result<T>,
) -> io::Result<T> {
    let mut refused = io::Error::from(io::ErrorKind::StorageFull);
    for capacity in capacities {
        match make(capacity) {
            Err(error) if is_no_space(&error) => refused = error,
            other => return other,
        }
    }
    Err(refused)
}

impl Next {
    /// The id for a new segment, and the one before it in the log.
    fn take(&mut self, new: New<'_>) -> io::Result<(u32, u32)> {
        let New::Log { .. } = new else {
            let id = self.id.ok_or(io::ErrorKind::StorageFull)?;
            self.id = id.checked_add(1);
            return Ok((id, 0));
        };
        if let Some(id) = self.for_log {
            return Ok((id, self.previous));
        }
        let id = self.id.ok_or(io::ErrorKind::StorageFull)?;
        self.id = id.checked_add(1);
        Ok((id, self.previous))
    }

    /// A segment was created, or not.
    fn taken(&mut self, id: u32, new: New<'_>, made: Result<(), &io::Error>) {
        match (made, new) {
            (Ok(()), New::Log { .. }) => {
                self.previous = id;
                self.for_log = self.for_log.filter(|&reserved| reserved != id);
            }
            (Ok(()), New::Merged { .. }) => {}
            // Somebody else's file has that name, or one whose creation failed at the very end.
            (Err(error), _) if error.kind() == io::ErrorKind::AlreadyExists => {}
            (Err(_), _) if self.for_log != Some(id) && self.id == id.checked_add(1) => {
                self.id = Some(id);
            }
            (Err(_), _) => {}
        }
    }
}

/// Creates a segment. `next` is locked for moments, and not while the file is made: others make
/// segments, too.
pub(super) fn create(
    next: &Mutex<Next>,
    storage: &dyn Storage,
    new: New<'_>,
    prepared: Prepared,
) -> io::Result<Segment> {
    let (salt, boot_id) = (random_u64()?, storage.boot_id().unwrap_or(0));
    let ((id, previous), log_id) = {
        let mut next = lock(next);
        (next.take(new)?, next.log_id)
    };
    let origin = Some(Origin { log_id, file: FileIdentity::default() });
    let (merged, capacity) = (matches!(new, New::Merged { .. }), prepared.len);
    let header = SegmentHeader { id, merged, previous, salt, boot_id, capacity, origin };
    let (roll, first) = match new {
        New::Log { roll } => (Some((roll & 0xff_ffff) as u32), Vec::new()),
        New::Merged { inputs } => (None, frame::inputs_frame(salt, FIRST_FRAME, inputs)),
    };
    let made = Segment::create(storage, prepared, header, roll, &first);
    lock(next).taken(id, new, made.as_ref().map(|_| ()));
    made
}

/// The first segment of a log that is being opened: one without room, in memory, where there is no
/// space for a file.
pub(super) fn create_first(
    next: &Mutex<Next>,
    storage: &dyn Storage,
    config: &Config,
) -> io::Result<Arc<Segment>> {
    let (wanted, new) = (lock(next).size, New::Log { roll: 1 });
    let sizes = capacities(config, wanted, 0, storage.free_space());
    let made =
        first_that_fits(sizes, |capacity| create(next, storage, new, storage.prepare(capacity)?));
    match made {
        Ok(segment) => {
            lock(next).grow(segment.header.capacity, config);
            Ok(Arc::new(segment))
        }
        Err(error) if is_no_space(&error) => {
            tracing::warn!(%error, "no space for a segment: the log is opened without one");
            let mut next = lock(next);
            let id = next.id.ok_or(io::ErrorKind::StorageFull)?;
            let header = SegmentHeader {
                id,
                merged: false,
                previous: next.previous,
                salt: random_u64()?,
                boot_id: storage.boot_id().unwrap_or(0),
                capacity: FIRST_FRAME,
                origin: None,
            };
            // The MANIFEST says that the log goes on with this id: the first real segment has it.
            (next.for_log, next.id) = (Some(id), id.checked_add(1));
            Ok(Arc::new(Segment::without_room(header)?))
        }
        Err(error) => Err(error),
    }
}

impl LogWriter {
    /// Creates a segment that can become active next, with room for a frame of this length.
    pub(super) fn create(
        &self,
        preparer: &Preparer<'_, Segment>,
        len: u64,
        need: Need,
    ) -> Result<Arc<Segment>, AppendError> {
        if self.ids_are_exhausted() {
            return Err(AppendError::IdsExhausted);
        }
        let new = New::Log { roll: preparer.next_roll() };
        let wanted = lock(&self.next).size;
        let segment = self.with_space(need, || {
            // What the reserve gave back has to do for merges, too.
            let wanted = if self.is_short_of_space() { SMALLEST } else { wanted };
            let sizes = capacities(&self.config, wanted, len, self.storage.free_space());
            first_that_fits(sizes, |size| {
                create(&self.next, &*self.storage, new, self.storage.prepare(size)?)
            })
        })?;
        lock(&self.next).grow(segment.header.capacity, &self.config);
        Ok(self.created(segment))
    }

    /// As `create`, of what was prepared before: quick.
    pub(super) fn create_of(
        &self,
        preparer: &Preparer<'_, Segment>,
        prepared: Prepared,
    ) -> Result<Arc<Segment>, AppendError> {
        if self.ids_are_exhausted() {
            return Err(AppendError::IdsExhausted);
        }
        let new = New::Log { roll: preparer.next_roll() };
        let segment = create(&self.next, &*self.storage, new, prepared).map_err(refused)?;
        Ok(self.created(segment))
    }

    fn created(&self, segment: Segment) -> Arc<Segment> {
        let segment = Arc::new(segment);
        self.table.insert(segment.clone());
        self.counters.created_segment();
        segment
    }

    /// Allocates a file with room for a frame of this length, before anybody has to wait for it.
    pub(super) fn prepare_file(&self, len: u64, need: Need) -> Result<Prepared, AppendError> {
        self.with_space(need, || {
            let sizes = capacities(&self.config, 0, len, self.storage.free_space());
            first_that_fits(sizes, |size| self.storage.prepare(size))
        })
    }

    /// A segment for a merge, with room for frames of this length together.
    pub(super) fn create_for_merge(
        &self,
        len: u64,
        inputs: &[u32],
    ) -> Result<Segment, AppendError> {
        if self.ids_are_exhausted() {
            return Err(AppendError::IdsExhausted);
        }
        let gain = self.gain_of_merging(len, inputs);
        let len = frame::inputs_len(inputs.len()) + len;
        let make = || {
            let free = self.storage.free_space();
            let is_scarce = free.is_some_and(|free| free < len.saturating_add(MARGIN));
            // What is not used of it is given back, but others may need it until then.
            let sizes = capacities(&self.config, 0, len, if is_scarce { Some(0) } else { free });
            first_that_fits(sizes, |size| {
                let prepared = self.storage.prepare(size)?;
                create(&self.next, &*self.storage, New::Merged { inputs }, prepared)
            })
        };
        match make() {
            Err(error) if is_no_space(&error) => {
                if self.unmap_retired()
                    && let Ok(segment) = make()
                {
                    return Ok(segment);
                }
                self.remove_standby();
                // To make few segments out of many is not worth the reserve.
                let need = if gain >= SMALLEST { Need::Delete } else { Need::Append };
                self.with_space(need, make)
            }
            other => other.map_err(refused),
        }
    }

    /// Bytes that merging segments into one with frames of this length gives back.
    fn gain_of_merging(&self, len: u64, inputs: &[u32]) -> u64 {
        let used: u64 = self.table.with(|all| {
            let inputs = all.iter().filter(|s| inputs.contains(&s.id()));
            inputs.map(|s| s.end().saturating_sub(FIRST_FRAME)).sum()
        });
        used.saturating_sub(len)
    }

    fn ids_are_exhausted(&self) -> bool {
        let next = lock(&self.next);
        next.id.is_none() && next.for_log.is_none()
    }

    /// Runs what needs space, and again with that of the reserve, where the need is one that may
    /// have it.
    fn with_space<T>(
        &self,
        need: Need,
        mut run: impl FnMut() -> io::Result<T>,
    ) -> Result<T, AppendError> {
        let mut done = run();
        if matches!(&done, Err(error) if is_no_space(error)) && self.unmap_retired() {
            done = run();
        }
        for _ in 0..TRIES {
            let full = matches!(&done, Err(error) if is_no_space(error));
            if !full || need != Need::Delete || !self.give_back_reserve() {
                break;
            }
            done = run();
        }
        done.map_err(refused)
    }

    /// Unmaps what merges and truncations have removed: until then it takes its space. Says whether
    /// anything was waiting for that.
    fn unmap_retired(&self) -> bool {
        if self.table.waiting().0 == 0 {
            return false;
        }
        self.table.reap();
        true
    }

    /// Removes a standby that was made ahead.
    pub(super) fn remove_standby(&self) {
        let mut preparer = self.tail.preparer();
        // The first segment is not taken back: the MANIFEST may say that the log begins with it.
        let is_first =
            self.tail.is_full() && u64::from(self.tail.position().offset()) == FIRST_FRAME;
        if !is_first
            && preparer.has_standby()
            && let Some(standby) = preparer.withdraw()
        {
            self.discard(standby);
        }
    }

    /// Whether there is room for a standby, with some left for others.
    pub(super) fn has_room_for_standby(&self) -> bool {
        let wanted = lock(&self.next).size;
        let free = self.storage.free_space();
        free.is_none_or(|free| free >= wanted.saturating_add(wanted.max(MARGIN)))
    }

    // ---- the reserve ----

    /// Whether the reserve is given back. One load, of a word that hardly ever changes.
    #[inline]
    pub(crate) fn is_short_of_space(&self) -> bool {
        // ORDERING: Relaxed; says nothing about other memory. A put that misses it takes some of
        // what the reserve has left, which nobody relies on to the byte.
        self.short_of_space.load(Ordering::Relaxed)
    }

    /// Refuses while the reserve is given back, and there is no room for another one.
    #[inline]
    pub(crate) fn check_space(&self) -> Result<(), AppendError> {
        if self.is_short_of_space() { self.check_space_again() } else { Ok(()) }
    }

    #[cold]
    #[inline(never)]
    fn check_space_again(&self) -> Result<(), AppendError> {
        if self.keep_reserve().map_err(refused)? {
            return Ok(());
        }
        Err(refused(io::Error::new(io::ErrorKind::StorageFull, "the reserve is in use")))
    }

    /// Puts a reserve by, where there is room for one and it is worth it. False: there is none.
    pub(crate) fn keep_reserve(&self) -> io::Result<bool> {
        let held: u64 = self.table.with(|all| all.iter().map(|s| s.map.len() as u64).sum());
        let wanted = if held < WORTH_A_RESERVE {
            0
        } else {
            (held / 8).next_power_of_two().clamp(RESERVE.0, RESERVE.1)
        };
        let _alone = lock(&self.reserve);
        let kept = self.storage.keep_reserve(wanted, RESERVE.0)?;
        if kept {
            // ORDERING: Relaxed; as in `is_short_of_space`.
            self.short_of_space.store(false, Ordering::Relaxed);
        }
        Ok(kept)
    }

    /// As `keep_reserve`, by who can do without.
    pub(crate) fn tend_reserve(&self) {
        if let Err(error) = self.keep_reserve() {
            tracing::debug!(%error, "no reserve");
        }
    }

    fn give_back_reserve(&self) -> bool {
        let _alone = lock(&self.reserve);
        let given = self.storage.give_back_reserve();
        self.note_reserve();
        given.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not give the reserve back");
            false
        })
    }

    /// Takes note where the reserve was given back, also for a MANIFEST.
    pub(super) fn note_reserve(&self) {
        if self.storage.reserve_is_given() {
            // ORDERING: Relaxed; as in `is_short_of_space`.
            self.short_of_space.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(wanted: u64, len: u64, free: Option<u64>) -> Vec<u64> {
        capacities(&Config::default(), wanted, len, free).collect()
    }

    #[test]
    fn capacities_get_smaller_down_to_what_is_needed() {
        let kib = |sizes: Vec<u64>| sizes.iter().map(|size| size >> 10).collect::<Vec<_>>();
        assert_eq!(kib(sizes(2 << 20, 0, None)), [2048, 1024, 512, 256, 128, 64]);
        assert_eq!(kib(sizes(2 << 20, 0, Some(300 << 10))), [256, 128, 64]);
        assert_eq!(kib(sizes(2 << 20, 0, Some(0))), [64]);
        assert_eq!(kib(sizes(2 << 20, 300_000, None)), [2048, 1024, 512, 296]);
        assert_eq!(kib(sizes(2 << 20, 3_000_000, None)), [4096, 2932]);
        assert_eq!(kib(sizes(0, 3_000_000, Some(1))), [2932]);
    }
}
