//! The next segment: its id, its size, and how it is created.
//!
//! Ids only grow, and none is used twice, since a reader in another process may still have a segment
//! mapped whose file is gone. Segments grow from a small first one up to the configured size.
//!
//! A segment is on huge pages, which are quicker to provide and to read, unless it is likely to be synced
//! often: the kernel knows only of a whole page whether it was written to, so each sync of a few frames
//! would write 2 MiB to the device.

use super::capacity::{capacities, first_that_fits, is_no_space};
use crate::format::frame;
use crate::format::header::{FIRST_FRAME, FileIdentity, Origin, SegmentHeader};
use crate::log::append::tail::wrapped;
use crate::options::{Config, Durability};
use crate::random::random_u64;
use crate::segment::Segment;
use crate::storage::{Prepared, Storage};
use crate::sync::{Mutex, lock};
use std::io;
use std::sync::Arc;

/// Bytes of a huge page, on most processors.
const HUGE_PAGE: u64 = 2 << 20;

/// What the next segment will be.
#[derive(Debug)]
pub(super) struct NextSegment {
    pub(super) log_id: u64,
    /// `None`: all ids are used up.
    pub(super) id: Option<u32>,
    /// The id of the log's first segment, if that could not be created yet.
    pub(super) for_log: Option<u32>,
    /// The id of the segment before it in the log.
    pub(super) previous: u32,
    pub(super) size: u64,
    /// How often an active segment was synced since the newest one was created.
    pub(super) syncs: u64,
    /// Whether the next one is likely to be synced often.
    pub(super) small_pages: bool,
}

/// What a new segment is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum NewSegment<'a> {
    /// To become active by this roll.
    Log { roll: u64 },
    /// To hold frames that a merge moves out of these segments.
    Merged { inputs: &'a [u32] },
}

impl NextSegment {
    /// Takes the id for a new segment. Also returns the id of the segment before it in the log.
    fn take(&mut self, new: NewSegment<'_>) -> io::Result<(u32, u32)> {
        let NewSegment::Log { .. } = new else {
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

    /// Records whether a segment could be created. If not, its id is free again, unless a later one was
    /// taken meanwhile.
    fn taken(&mut self, id: u32, new: NewSegment<'_>, made: Result<(), &io::Error>) {
        match (made, new) {
            (Ok(()), NewSegment::Log { .. }) => {
                self.previous = id;
                self.for_log = self.for_log.filter(|&reserved| reserved != id);
            }
            (Ok(()), NewSegment::Merged { .. }) => {}
            // A file has that name: a foreign one, or one whose creation failed at the very end.
            (Err(error), _) if error.kind() == io::ErrorKind::AlreadyExists => {}
            (Err(_), _) if self.for_log != Some(id) && self.id == id.checked_add(1) => {
                self.id = Some(id);
            }
            (Err(_), _) => {}
        }
    }

    /// A segment was created. If it got the full size, the next one is twice as large.
    pub(super) fn grow(&mut self, created: u64, config: &Config) {
        if created >= self.size {
            self.size = (self.size * 2).min(config.segment_size);
        }
    }

    /// A segment is about to be created. If there was more than one sync for each huge page of a segment
    /// since the one before, it gets small pages.
    pub(super) fn choose_pages(&mut self, config: &Config) {
        let often = std::mem::take(&mut self.syncs).saturating_mul(HUGE_PAGE) > self.size;
        self.small_pages = config.durability == Durability::Synced || often;
    }

    /// A writer had to wait for a segment: it fills them faster than they grow.
    pub(super) fn grow_faster(&mut self, config: &Config) {
        self.size = (self.size * 4).min(config.segment_size);
    }
}

/// Creates a segment. `next` is not locked while the file is written, so that a merge and the log may
/// create segments at the same time.
pub(super) fn create(
    next: &Mutex<NextSegment>,
    storage: &dyn Storage,
    new: NewSegment<'_>,
    prepared: Prepared,
) -> io::Result<Segment> {
    let (salt, boot_id) = (random_u64()?, storage.boot_id().unwrap_or(0));
    let ((id, previous), log_id, small_pages) = {
        let mut next = lock(next);
        (next.take(new)?, next.log_id, next.small_pages)
    };
    let origin = Some(Origin { log_id, file: FileIdentity::default() });
    let (merged, capacity) = (matches!(new, NewSegment::Merged { .. }), prepared.len);
    let header = SegmentHeader { id, merged, previous, salt, boot_id, capacity, origin };
    let (roll, first) = match new {
        NewSegment::Log { roll } => (Some(wrapped(roll)), Vec::new()),
        NewSegment::Merged { inputs } => (None, frame::inputs_frame(salt, FIRST_FRAME, inputs)),
    };
    let made = Segment::create(storage, prepared, header, roll, &first);
    lock(next).taken(id, new, made.as_ref().map(|_| ()));
    let made = made?;
    if merged || !small_pages {
        made.map.prefer_huge_pages();
    }
    Ok(made)
}

/// The first segment of a log that is being opened. It takes at most half of the free space, unless it
/// is as small as can be: a store that was just opened on a full disk needs the rest for merges, which
/// free more. If there is no space for a file, it is one in memory, without any room.
pub(super) fn create_first(
    next: &Mutex<NextSegment>,
    storage: &dyn Storage,
    config: &Config,
) -> io::Result<Arc<Segment>> {
    let (wanted, new) = (lock(next).size, NewSegment::Log { roll: 1 });
    let sizes = capacities(config, wanted, 0, storage.free_space().map(|free| free / 2));
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
            // The MANIFEST says that the log continues with this id: the first real segment gets it.
            (next.for_log, next.id) = (Some(id), id.checked_add(1));
            Ok(Arc::new(Segment::without_room(header)?))
        }
        Err(error) => Err(error),
    }
}
