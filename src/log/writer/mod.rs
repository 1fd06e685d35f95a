//! The log's moving parts put together: append, roll, prepare, sync, seal.

mod filling;
mod gather;
mod retire;
mod signals;
mod space;
mod sync;

pub(crate) use space::Need;
use space::refused;

pub use self::signals::FailPoint;

use self::gather::Gathering;
use self::signals::Signals;
use crate::error::{AppendError, SyncError, ThreadFailure};
use crate::format::frame::{self, Header, Kind};
use crate::format::header::{FIRST_FRAME, Seal};
use crate::format::manifest::{LogEnd, Manifest};
use crate::log::append::claim::{Claim, Memory};
use crate::log::append::prefix::{Finished, Prefix};
use crate::log::append::tail::{Preparer, Tail, is_after};
use crate::log::group_commit::GroupCommit;
use crate::log::stats::{Counters, LogStats};
use crate::options::{Config, Durability, MAX_SEGMENT, Maintenance, RecoveryMode, SEGMENT_UNIT};
use crate::position::LogPosition;
use crate::segment::set::{Pin, SegmentSet};
use crate::segment::{Segment, file_name};
use crate::storage::Storage;
use crate::sync::{Mutex, lock};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

/// Unfinished segments at a time: how far the log can run ahead of one stuck append.
const SLOTS: usize = 256;
/// Full segments that may wait for a quiet moment to be synced and sealed.
const SEAL_BACKLOG: u64 = 64;
/// Bytes to populate before looking whether a standby is wanted: about a millisecond.
const POPULATE: u64 = 4 << 20;
/// Bytes at the end of a sealed segment that are given back: those of one that was rolled early.
const WORTH_RELEASING: u64 = 64 << 10;
/// The most that the frames inside one batch can take.
pub(crate) const MAX_BATCH: u64 = MAX_SEGMENT - FIRST_FRAME - frame::HEADER;
/// Frames above this get a segment of their own, which bounds what late writers add to the tail.
const MAX_SHARED: u64 = 256 << 20;

// SAFETY: the header never changes, and the map is as long as the capacity and lives as long as the
// segment. What is written to a segment of the log is written by claims.
#[allow(unsafe_code, reason = "forwards the contract")]
unsafe impl Memory for Segment {
    fn id(&self) -> u32 {
        Self::id(self)
    }
    #[inline]
    fn salt(&self) -> u64 {
        Self::salt(self)
    }
    #[inline]
    fn capacity(&self) -> u64 {
        self.header.capacity
    }
    #[inline]
    fn word(&self, offset: u64) -> &AtomicU64 {
        self.map.word(offset)
    }
    #[inline]
    unsafe fn write(&self, offset: u64, bytes: &[u8]) {
        // SAFETY: the same contract; active segments are writable maps.
        unsafe { self.map.write(offset, bytes) };
    }
    #[inline(always)]
    unsafe fn reserved_word(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: the same contract; an active segment is mapped up to its capacity.
        unsafe { self.map.word_unchecked(offset) }
    }
    #[inline(always)]
    unsafe fn write_frame(&self, offset: u64, header: u64, body: &[u8]) {
        // SAFETY: the same contract; active segments are writable maps.
        unsafe { self.map.write_frame(offset, header, body) };
    }
    unsafe fn header(&self, offset: u64) -> u64 {
        // SAFETY: the same contract.
        crate::format::u64_at(unsafe { self.map.slice(offset + 8, 8) }, 0)
    }
    fn found_frames(&self) -> &[AtomicU64] {
        let blocks = self.header.capacity.div_ceil(Self::BLOCK);
        self.found_frames.get_or_init(|| (0..blocks).map(|_| AtomicU64::new(0)).collect())
    }
}

/// What the next segment will be.
#[derive(Debug)]
struct Next {
    log_id: u64,
    id: Option<u32>,
    /// The id of the first segment, where that could not be created yet.
    for_log: Option<u32>,
    previous: u32,
    size: u64,
}

/// What was synced, and what is to be.
#[derive(Debug)]
struct Pending {
    finished: VecDeque<Finished<Segment>>,
    /// In the first of `finished`, or else in the segment where the prefix is.
    from: u64,
}

/// A segment whose pages are not all there yet.
#[derive(Debug)]
struct Unpopulated {
    segment: Arc<Segment>,
    from: u64,
}

/// The sync mark that was appended last.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    start: Option<LogPosition>,
    end: Option<LogPosition>,
}

#[derive(Debug)]
pub(crate) struct LogWriter {
    storage: Box<dyn Storage>,
    config: Config,
    tail: Tail<Segment>,
    prefix: Prefix<Segment>,
    group: GroupCommit,
    /// Readers of a store share it.
    table: Arc<SegmentSet>,
    counters: Counters,
    signals: Signals,
    manifest: Mutex<Manifest>,
    truncating: Mutex<()>,
    /// Whether the reserve is given back: a store then takes no puts.
    short_of_space: AtomicBool,
    /// Held by who changes the reserve.
    reserve: Mutex<()>,
    /// The largest frame that shares a segment with others.
    max_shared: u64,
    /// The largest entry that may be appended, and in such a frame.
    max_plain: u64,
    next: Mutex<Next>,
    pending: Mutex<Pending>,
    mark: Mutex<Mark>,
    unpopulated: Mutex<VecDeque<Unpopulated>>,
    gathering: Gathering,
    /// The roll at the last look of `wants_seal`.
    looked: AtomicU64,
}

/// A segment for one frame, which is not active yet. Until it is, nobody rolls.
pub(crate) struct Alone<'c> {
    writer: &'c LogWriter,
    preparer: Preparer<'c, Segment>,
    segment: Option<Arc<Segment>>,
    len: u64,
}

impl<'c> Alone<'c> {
    /// Makes the segment active, with the frame claimed in it; to be followed by
    /// `rolled` or `rolled_with_a_claim`.
    #[allow(unsafe_code, reason = "hands a new segment to the tail")]
    pub(crate) fn claim(mut self) -> Claim<'c, Segment> {
        let segment = self.segment.take().expect("it is used once");
        // SAFETY: the segment was just created with room for the frame, and nobody else writes to it.
        let claim = unsafe { self.preparer.publish_claimed(segment, FIRST_FRAME, self.len) };
        self.writer.tail.roll();
        claim
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.segment.take().into_iter().for_each(|unused| self.writer.discard(unused));
    }
}

/// What recovery hands over.
pub(crate) struct Found {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) manifest: Manifest,
    /// The id for the first new segment, and the one it follows.
    pub(crate) next_id: u32,
    pub(crate) previous: u32,
}

impl LogWriter {
    /// Starts with a new active segment behind what was found.
    #[allow(unsafe_code, reason = "hands the first segment to the tail")]
    pub(crate) fn start(
        storage: Box<dyn Storage>,
        config: Config,
        found: Found,
    ) -> io::Result<Self> {
        crate::sync::register_barrier();
        let held: u64 = found.segments.iter().map(|s| s.end()).sum();
        let size = (held / 4).next_multiple_of(config.segment_unit);
        let size = size.clamp(config.initial_segment_size, config.segment_size);
        let (log_id, previous) = (found.manifest.log_id, found.previous);
        let next = Next { log_id, id: Some(found.next_id), for_log: None, previous, size };
        let next = Mutex::new(next);
        let first = space::create_first(&next, &*storage, &config)?;
        let max_shared = (config.segment_size - FIRST_FRAME).min(MAX_SHARED);
        let mut segments = found.segments;
        let mut unpopulated = VecDeque::new();
        if !first.is_without_room() {
            first.map.populate(0, SEGMENT_UNIT);
            unpopulated.push_back(Unpopulated { segment: first.clone(), from: SEGMENT_UNIT });
            segments.push(first.clone());
        }
        let start = first.position(FIRST_FRAME);
        let pending = Pending { finished: VecDeque::new(), from: FIRST_FRAME };
        // SAFETY: the segment was just created, and nobody else writes to it.
        let (tail, walker) = unsafe { Tail::new(SLOTS, first, FIRST_FRAME) };
        Ok(Self {
            prefix: Prefix::new(&tail, walker),
            tail,
            group: GroupCommit::new(start.as_u64()),
            table: Arc::new(SegmentSet::new(segments)),
            counters: Counters::default(),
            signals: Signals::default(),
            manifest: Mutex::new(found.manifest),
            truncating: Mutex::default(),
            short_of_space: AtomicBool::new(storage.reserve_is_given()),
            reserve: Mutex::default(),
            max_shared,
            max_plain: config.max_entry_size.min(max_shared - frame::HEADER),
            next,
            pending: Mutex::new(pending),
            mark: Mutex::new(Mark::default()),
            unpopulated: Mutex::new(unpopulated),
            gathering: Gathering::default(),
            looked: AtomicU64::new(0),
            storage,
            config,
        })
    }

    // ---- what others ask ----

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// The segments of the log, and those that merges made. Readers of a store share it.
    pub(crate) fn segment_set(&self) -> &Arc<SegmentSet> {
        &self.table
    }

    pub(crate) fn signals(&self) -> &Signals {
        &self.signals
    }

    /// The durability that an append has without being asked for one.
    #[inline]
    pub(crate) fn durability(&self) -> Durability {
        self.config.durability
    }

    pub(crate) fn segment_size(&self) -> u64 {
        self.config.segment_size
    }

    pub(crate) fn recovery_mode(&self) -> RecoveryMode {
        self.config.recovery_mode
    }

    /// Where the next frame goes: the end of everything that was reserved.
    pub(crate) fn tail(&self) -> LogPosition {
        self.tail.position()
    }

    /// The end of the contiguous committed prefix; walks there.
    pub(crate) fn committed(&self) -> LogPosition {
        self.prefix.advance(&self.tail)
    }

    /// What the log has done, and where it stands.
    pub(crate) fn read_stats(&self, stats: &mut LogStats) {
        stats.committed = self.committed();
        stats.rolls = self.tail.roll_number().saturating_sub(1);
        let counts = self.prefix.counts();
        (stats.entries, stats.batches) = (counts.entries, counts.batches);
        (stats.bytes, stats.voids) = (counts.bytes, counts.voids);
        self.counters.read(stats);
        stats.failed_thread = self.signals.failure().cloned();
        stats.durable = self.durable();
    }

    /// Whether a segment of the log has become active, now or earlier.
    fn has_begun(&self, roll: u32) -> bool {
        !is_after(u64::from(roll), self.tail.roll_number())
    }

    /// The next segment of the log, once it is active.
    pub(crate) fn segment_after(&self, id: u32) -> Option<Pin<'_>> {
        // Before the table: a standby that was taken back is then not in it any more.
        let active = self.tail.roll_number();
        let begun = |roll: u32| !is_after(u64::from(roll), active);
        self.table.pin_after(id).filter(|segment| segment.roll.is_none_or(begun))
    }

    /// Up to where bytes of a segment may be read from a position on, which may come from anywhere:
    /// they are not written to any more, or a frame is known to begin there. `None`: not at all.
    #[inline]
    pub(crate) fn readable_until(&self, position: LogPosition, segment: &Segment) -> Option<u64> {
        let mut prefix = self.prefix.position();
        if position >= prefix {
            prefix = self.committed();
        }
        if position >= prefix {
            let is_frame = segment.roll.is_some_and(|roll| self.has_begun(roll))
                && self.prefix.is_frame(segment, u64::from(position.offset()));
            return is_frame.then(|| segment.end());
        }
        let same = prefix.segment() == segment.id();
        Some(if same { u64::from(prefix.offset()) } else { segment.end() })
    }

    /// Waits until `ready` or the deadline; `ready` is asked after every frame that is finished.
    pub(crate) fn wait_for_frame(
        &self,
        deadline: Option<Instant>,
        ready: impl FnMut() -> bool,
    ) -> bool {
        self.tail.waiters.wait(deadline, ready)
    }

    /// Reserves room and never claims it, as a thread does that dies in between. For tests.
    pub(crate) fn abandon_reservation(&self, body: u64) {
        self.tail.abandon(frame::frame_len(body));
    }

    // ---- append ----

    /// The length of a frame for a body, if it is allowed.
    #[inline]
    pub(crate) fn frame_len(&self, body: u64) -> Result<u64, AppendError> {
        if body > self.config.max_entry_size {
            return Err(AppendError::TooLarge { len: body, max: self.config.max_entry_size });
        }
        Ok(frame::frame_len(body))
    }

    /// Reserves and claims a frame in the active segment; `None`: it takes more than that.
    #[inline]
    fn reserve(&self, len: u64) -> Option<Claim<'_, Segment>> {
        if len > self.max_shared { None } else { self.tail.reserve(len) }
    }

    /// Reserves and claims a frame, and makes room for it where there is none.
    #[cold]
    #[inline(never)]
    fn make_room(&self, len: u64) -> Result<Claim<'_, Segment>, AppendError> {
        if len > self.max_shared {
            return self.claim_alone(len);
        }
        loop {
            if let Some(claim) = self.tail.reserve(len) {
                return Ok(claim);
            }
            self.roll(len, Need::Append)?;
        }
    }

    /// As `claim`, without waiting for anything: `None` where there is no room (see `roll`). A frame
    /// that gets a segment of its own takes it from `alone`.
    #[inline]
    pub(crate) fn try_claim<'c>(
        &'c self,
        alone: &mut Option<Alone<'c>>,
        len: u64,
        need: Need,
    ) -> Option<Claim<'c, Segment>> {
        match alone.take() {
            Some(alone) => Some(alone.claim()),
            None if need == Need::Put && self.is_short_of_space() => None,
            None => self.tail.reserve(len),
        }
    }

    /// Reserves and claims a frame.
    #[inline]
    pub(crate) fn claim(&self, len: u64) -> Result<Claim<'_, Segment>, AppendError> {
        match self.reserve(len) {
            Some(claim) => Ok(claim),
            None => self.make_room(len),
        }
    }

    #[inline]
    pub(crate) fn append(&self, body: &[u8]) -> Result<LogPosition, AppendError> {
        let len = body.len() as u64;
        let claim = if len <= self.max_plain {
            self.tail.reserve_unguarded(frame::frame_len(len))
        } else {
            None
        };
        let position = match claim {
            Some(claim) => claim.finish(body, Header::entry(body), frame::crc(body)),
            None => self.append_over_a_roll(body)?,
        };
        self.acknowledge(position)
    }

    #[cold]
    #[inline(never)]
    fn append_over_a_roll(&self, body: &[u8]) -> Result<LogPosition, AppendError> {
        let mut claim = self.make_room(self.frame_len(body.len() as u64)?)?;
        claim.write(frame::HEADER, body);
        Ok(claim.commit(Header::entry(body), frame::crc(body)))
    }

    pub(crate) fn append_vectored(&self, parts: &[&[u8]]) -> Result<LogPosition, AppendError> {
        let body: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let len = self.frame_len(body)?;
        let crc = frame::crc_parts(parts);
        let mut claim = self.claim(len)?;
        let mut at = frame::HEADER;
        for part in parts {
            claim.write(at, part);
            at += part.len() as u64;
        }
        let position = claim.commit(Header::plain(Kind::Entry, body as u32), crc);
        self.acknowledge(position)
    }

    #[allow(unsafe_code, reason = "a caller fills the claimed range in place")]
    pub(crate) fn append_with(
        &self,
        body: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<LogPosition, AppendError> {
        let len = self.frame_len(body as u64)?;
        let claim = self.claim(len)?;
        let at = claim.offset() + frame::HEADER;
        // SAFETY: inside the range of `claim`, which is not committed while the slice lives, and
        // nothing else is written meanwhile.
        let bytes = unsafe { claim.segment().map.slice_mut(at, body as u64) };
        let filling = self.enter_append();
        fill(bytes);
        drop(filling);
        let (header, crc) = (Header::entry(bytes), frame::crc(bytes));
        let position = claim.commit(header, crc);
        self.acknowledge(position)
    }

    /// One reservation for all; `each` is called with the position of every entry.
    pub(crate) fn append_batch<'a>(
        &self,
        entries: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        mut each: impl FnMut(LogPosition),
    ) -> Result<Option<LogPosition>, AppendError> {
        let count = entries.len();
        if count == 0 {
            return Ok(None);
        }
        let mut len = frame::HEADER;
        for entry in entries.clone() {
            len += self.frame_len(entry.len() as u64)?;
        }
        let max = MAX_SEGMENT - FIRST_FRAME;
        let value_len = u32::try_from(count).ok().filter(|_| len <= max);
        let value_len = value_len.ok_or(AppendError::TooLarge { len, max })?;
        let mut claim = self.claim(len)?;
        let (segment, start) = (claim.segment().id(), claim.offset());
        let mut at = frame::HEADER;
        for entry in entries {
            each(LogPosition::new(segment, (start + at) as u32));
            at += claim.write_inner(at, entry);
        }
        let position = claim.commit(Header::plain(Kind::Batch, value_len), frame::crc(&[]));
        self.acknowledge(position).map(Some)
    }

    /// After a commit: waits as the log's durability says.
    #[inline]
    pub(crate) fn acknowledge(&self, position: LogPosition) -> Result<LogPosition, AppendError> {
        self.acknowledge_as(position, self.config.durability)
    }

    #[inline]
    pub(crate) fn acknowledge_as(
        &self,
        position: LogPosition,
        durability: Durability,
    ) -> Result<LogPosition, AppendError> {
        if durability == Durability::Synced {
            self.make_durable(position)?;
        }
        Ok(position)
    }

    #[cold]
    fn make_durable(&self, position: LogPosition) -> Result<(), AppendError> {
        self.wait_durable(position)
            .map_err(|source| AppendError::Sync { position: Some(position), source })
    }

    // ---- roll ----

    /// Makes room for a frame of this length: another segment becomes active, prepared here if nobody
    /// did.
    #[cold]
    pub(crate) fn roll(&self, len: u64, need: Need) -> Result<(), AppendError> {
        self.check_writable()?;
        if need == Need::Put {
            self.check_space()?;
        }
        if !self.tail.roll() {
            let waiting = Instant::now();
            let mut preparer = self.tail.preparer();
            if self.tail.is_full() && !preparer.has_standby() {
                self.prepare(&mut preparer, len, need)?;
            }
            self.tail.roll();
            if !self.is_manual() {
                lock(&self.next).hurry(&self.config);
            }
            drop(preparer);
            self.counters.waited_for_standby(waiting.elapsed());
        }
        self.rolled()
    }

    fn rolled(&self) -> Result<(), AppendError> {
        tracing::debug!(tail = %self.tail.position(), "rolled");
        if self.is_manual() {
            while self.populate_some() {}
        } else {
            self.signals.wake_standby();
        }
        // A sync that failed has closed the segment that was active then. If that was before this
        // roll, its failure is seen here, and the segment rolled to is closed in its turn.
        self.check_writable().inspect_err(|_| self.tail.close())
    }

    /// As `rolled`, after an `Alone` was claimed, whose frame will be finished in any case: a slot may
    /// point at it. If a sync has failed meanwhile, the next write is told.
    pub(crate) fn rolled_with_a_claim(&self) {
        if let Err(error) = self.rolled() {
            tracing::debug!(%error, "a sync failed beside a large write");
        }
    }

    fn check_writable(&self) -> Result<(), AppendError> {
        let failed = self.group.failure().map(|source| SyncError::Failed { source });
        let failed = failed.or_else(|| self.signals.failure().cloned().map(SyncError::Background));
        failed.map_or(Ok(()), |source| Err(AppendError::Sync { position: None, source }))
    }

    /// Creates a standby where there is none, and room for it and for others.
    pub(crate) fn prepare_standby(&self) -> Result<(), AppendError> {
        if self.tail.preparer().has_standby() || self.has_room_for_standby() {
            return self.prepare_next();
        }
        Err(refused(io::Error::new(io::ErrorKind::StorageFull, "a standby leaves too little")))
    }

    /// Creates a standby where there is none, for somebody who needs it now.
    fn prepare_next(&self) -> Result<(), AppendError> {
        let mut preparer = self.tail.preparer();
        if preparer.has_standby() || self.check_writable().is_err() {
            return Ok(());
        }
        self.prepare(&mut preparer, 0, Need::Append)
    }

    #[allow(unsafe_code, reason = "hands a new segment to the tail")]
    fn prepare(
        &self,
        preparer: &mut Preparer<'_, Segment>,
        len: u64,
        need: Need,
    ) -> Result<(), AppendError> {
        self.find_slot(preparer)?;
        // It grows with the log, and comes first: what is made now may take the last space.
        if !self.is_short_of_space() {
            self.tend_reserve();
        }
        let segment = self.create(preparer, len, need)?;
        let unpopulated = Unpopulated { segment: segment.clone(), from: 0 };
        lock(&self.unpopulated).push_back(unpopulated);
        // SAFETY: the segment was just created, and nobody else writes to it.
        let published = unsafe { preparer.publish(segment, FIRST_FRAME) };
        published.expect("there is a slot");
        Ok(())
    }

    /// Populates a part of what is not populated yet; false if there was nothing. A segment is
    /// published before it is populated: a writer in a hurry faults pages in for itself, which
    /// costs it less than to wait for all of them.
    pub(crate) fn populate_some(&self) -> bool {
        let Some(mut next) = lock(&self.unpopulated).pop_front() else { return false };
        let (tail, id) = (self.tail.position(), next.segment.id());
        if tail.segment() == id {
            next.from = next.from.max(u64::from(tail.offset()) / SEGMENT_UNIT * SEGMENT_UNIT);
        }
        if tail.segment() > id || next.from >= next.segment.header.capacity {
            return true;
        }
        next.segment.map.populate(next.from, next.from + POPULATE);
        next.from += POPULATE;
        lock(&self.unpopulated).push_front(next);
        true
    }

    fn find_slot(&self, preparer: &Preparer<'_, Segment>) -> Result<(), AppendError> {
        if preparer.has_slot() {
            return Ok(());
        }
        let oldest = self.prefix.advance(&self.tail);
        if preparer.has_slot() { Ok(()) } else { Err(AppendError::Stalled { oldest }) }
    }

    /// Claims a frame that gets a segment of its own (and leaves what remains of it to others).
    #[cold]
    fn claim_alone(&self, len: u64) -> Result<Claim<'_, Segment>, AppendError> {
        let claim = self.make_alone(len, Need::Append)?.claim();
        self.rolled()?;
        populate(&claim);
        Ok(claim)
    }

    /// What a frame of this length needs before it can be claimed in no time: a segment of its own,
    /// or nothing.
    #[inline]
    pub(crate) fn alone(&self, len: u64, need: Need) -> Result<Option<Alone<'_>>, AppendError> {
        if self.is_alone(len) { self.make_alone(len, need).map(Some) } else { Ok(None) }
    }

    /// Whether a frame of this length gets a segment of its own.
    #[inline]
    pub(crate) const fn is_alone(&self, len: u64) -> bool {
        len > self.max_shared
    }

    #[cold]
    fn make_alone(&self, len: u64, need: Need) -> Result<Alone<'_>, AppendError> {
        let max = MAX_SEGMENT - FIRST_FRAME;
        if len > max {
            return Err(AppendError::TooLarge { len, max });
        }
        self.check_writable()?;
        if need == Need::Put {
            self.check_space()?;
        }
        // What takes long comes first, and holds up nobody. Its pages are populated last, by the one
        // who fills them: what is dirty would have to be written before it has a name.
        let prepared = match self.prepare_file(len, need) {
            Err(AppendError::NoSpace { .. }) => {
                self.remove_standby();
                self.prepare_file(len, need)?
            }
            other => other?,
        };
        if self.tail.roll_number() == 1 && self.tail.is_full() {
            // The MANIFEST may say that the log begins with the segment that comes next.
            self.roll(0, need)?;
        }
        let mut preparer = self.tail.preparer();
        self.find_slot(&preparer)?;
        if let Some(standby) = preparer.withdraw() {
            self.discard(standby);
        }
        self.find_slot(&preparer)?;
        let segment = self.create_of(&preparer, prepared)?;
        Ok(Alone { writer: self, preparer, segment: Some(segment), len })
    }

    /// Removes a segment that never was active, its id noted as used.
    fn discard(&self, standby: Arc<Segment>) {
        // Its id is not used again, also if this process dies now: a reader in another process may
        // have the segment mapped, and would keep what is gone. Where that cannot be written down,
        // the file stays, an empty segment that the next recovery removes.
        let noted = self.write_next_id();
        if let Err(error) = &noted {
            tracing::warn!(segment = standby.id(), %error, "an unused segment is left in place");
        }
        self.take_out(standby, noted.is_ok());
    }

    /// Takes a segment that never was active out of the log, and removes its file.
    fn take_out(&self, standby: Arc<Segment>, with_file: bool) {
        let id = standby.id();
        // Its successor names the one before it, as the chain of ids would break otherwise.
        lock(&self.next).previous = standby.header.previous;
        drop(standby);
        self.table.remove(|other| other == id);
        if !with_file {
            return;
        }
        if let Err(error) = self.storage.remove(&file_name(id)) {
            tracing::warn!(segment = id, %error, "could not remove an unused segment");
        }
    }

    /// Makes another segment active, though there is room in the one that is.
    pub(crate) fn roll_early(&self) -> Result<(), AppendError> {
        let active = self.tail.position().segment();
        // First what comes after it, so that a full disk leaves what room there is.
        self.prepare_next()?;
        // What overruns the end leaves a pad there. What does not is dropped, and void.
        while self.tail.position().segment() == active
            && self.tail.reserve(self.max_shared).is_some()
        {}
        if self.tail.position().segment() == active { self.roll(0, Need::Append) } else { Ok(()) }
    }

    // ---- maintenance ----

    /// What the background threads do, once.
    pub(crate) fn maintain(&self) -> Result<(), AppendError> {
        let sealed = self.seal_finished();
        self.table.reap();
        sealed.map_err(|source| AppendError::Sync { position: None, source })?;
        if self.is_short_of_space() {
            self.tend_reserve();
        }
        self.prepare_standby()?;
        while self.populate_some() {}
        Ok(())
    }

    /// Syncs and seals everything.
    ///
    /// # Safety
    /// Nobody uses the log any more but to read, neither meanwhile nor afterwards.
    #[allow(unsafe_code, reason = "passes the contract on")]
    pub(crate) unsafe fn close(&self) -> Result<(), SyncError> {
        let failed = |error| SyncError::Failed { source: Arc::new(error) };
        // SAFETY: the same contract.
        let standby = unsafe { self.tail.preparer().withdraw_for_close() };
        self.sync()?;
        self.prefix.advance(&self.tail);
        let (active, end, frames) = self.prefix.current();
        let mut unused: Vec<u32> = standby.iter().map(|standby| standby.id()).collect();
        if frames == 0 {
            // Unless it is the one in memory, which has no file.
            unused.extend((!active.is_without_room()).then(|| active.id()));
        } else {
            active.sync(FIRST_FRAME, end).map_err(failed)?;
            seal_and_shrink(&active, end, frames).map_err(failed)?;
        }
        // No id is used again, for a reader in another process may have the segment mapped. Where
        // that cannot be written down (a full disk), what is unused is left to the next recovery.
        if let Err(error) = self.note_closed(&unused) {
            tracing::warn!(%error, "the log is durable, and could not be noted as closed");
            return Ok(());
        }
        drop((standby, active));
        for &id in &unused {
            // What stays is removed by the next recovery.
            self.remove_file(&file_name(id));
        }
        self.storage.sync_directory().map_err(failed)
    }

    /// Writes down where the log ends, and that the unused segments are no part of it.
    fn note_closed(&self, unused: &[u32]) -> io::Result<()> {
        let next = lock(&self.next).id.unwrap_or(u32::MAX);
        let last = self.table.with(|all| {
            let last = all.iter().rfind(|s| !s.header.merged && !unused.contains(&s.id()));
            last.map(|s| LogEnd { segment: s.id(), offset: s.end() as u32 })
        });
        let last = last.unwrap_or_default();
        self.change_manifest(|manifest| {
            manifest.next = next;
            manifest.remove(unused);
            manifest.closed = Some(last);
            if last.segment < manifest.first {
                manifest.first = next;
            }
        })
    }

    /// The id that the next segment gets.
    pub(crate) fn next_id(&self) -> u32 {
        lock(&self.next).id.unwrap_or(u32::MAX)
    }

    pub(crate) fn write_next_id(&self) -> io::Result<()> {
        self.change_manifest(|_| {})
    }

    /// Replaces the MANIFEST, which then also says which ids were used. What is in memory changes
    /// once that is durable, and not before.
    pub(crate) fn change_manifest(&self, change: impl FnOnce(&mut Manifest)) -> io::Result<()> {
        let mut manifest = lock(&self.manifest);
        let mut new = manifest.clone();
        change(&mut new);
        // Looked up under the manifest's lock, so that it never goes back.
        let mut next = lock(&self.next);
        new.next = next.id.unwrap_or(u32::MAX);
        new.generation += 1;
        if next.for_log == Some(new.first) {
            // The log is empty, and begins with what could not be created yet: with the next id, then,
            // behind those that merges have used.
            new.first = new.next;
            self.storage.write_manifest(&new.encode())?;
            next.for_log = Some(new.first);
            next.id = new.first.checked_add(1);
        } else {
            drop(next);
            self.storage.write_manifest(&new.encode())?;
        }
        self.note_reserve();
        *manifest = new;
        Ok(())
    }

    /// The id of the first segment, where that could not be created yet.
    pub(crate) fn first_to_come(&self) -> Option<u32> {
        lock(&self.next).for_log
    }

    /// The files of segments that the MANIFEST lists as removed are gone, durably: the next one
    /// need not list them.
    pub(crate) fn files_are_gone(&self, ids: &[u32]) {
        lock(&self.manifest).removed.retain(|id| !ids.contains(id));
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.config.maintenance == Maintenance::Manual
    }

    /// Whether a thread unmaps what is retired, and seals what is full.
    pub(crate) fn is_tended(&self) -> bool {
        !self.is_manual() && self.signals.sync_failure().is_none()
    }

    /// A background thread failed: refuses writes from now on, and wakes whoever counted on it.
    pub(crate) fn thread_failed(&self, failure: ThreadFailure, syncs: bool) {
        tracing::error!(%failure, "a background thread failed; the log refuses writes from now on");
        self.signals.note_failure(failure, syncs);
        // Writers find a full segment from now on, and then the failure.
        self.tail.close();
        // Tasks look for the failure once they are registered, so each finds it or is woken here.
        self.group.wake_tasks();
    }

    /// Unmaps retired segments that nobody reads any more.
    pub(crate) fn reap(&self) {
        self.table.reap();
    }

    // ---- the MANIFEST ----

    /// The MANIFEST as it was last written.
    pub(crate) fn manifest(&self) -> Manifest {
        lock(&self.manifest).clone()
    }

    pub(crate) fn log_id(&self) -> u64 {
        lock(&self.manifest).log_id
    }

    /// The secret of the store that lives on the log, if one does.
    pub(crate) fn store_secret(&self) -> Option<[u8; 16]> {
        lock(&self.manifest).secret
    }
}

/// Seals a segment that is used up to `end` and synced.
pub(crate) fn seal_and_shrink(segment: &Segment, end: u64, frames: u64) -> io::Result<()> {
    segment.seal(Seal { end, frames });
    segment.sync(0, end)?;
    segment.shrink();
    segment.close_file();
    Ok(())
}

/// As `seal_and_shrink`, and what stands behind the end stays there.
pub(crate) fn seal_durably(segment: &Segment, end: u64, frames: u64) -> io::Result<()> {
    segment.seal(Seal { end, frames });
    segment.sync(0, end)?;
    segment.close_file();
    Ok(())
}

/// Faults in the pages of a frame that has a segment of its own, before they are filled.
pub(crate) fn populate(claim: &Claim<'_, Segment>) {
    let segment = claim.segment();
    segment.map.populate(0, segment.header.capacity);
}

impl Next {
    /// A segment was created as large as its turn was: the next one is larger.
    fn grow(&mut self, created: u64, config: &Config) {
        if created >= self.size {
            self.size = (self.size * 2).min(config.segment_size);
        }
    }

    /// A writer had to wait: it fills segments faster than they grow.
    fn hurry(&mut self, config: &Config) {
        self.size = (self.size * 4).min(config.segment_size);
    }
}

impl<S> std::fmt::Debug for Finished<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finished").field("frames", &self.frames).finish_non_exhaustive()
    }
}
