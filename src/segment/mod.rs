//! A segment: its file, its map, its head, and the pins of its readers.

pub(crate) mod cold;
mod counter;
pub(crate) mod frames;
pub(crate) mod held;
pub(crate) mod history;
pub(crate) mod holders;
pub(crate) mod live;
mod pins;
pub(crate) mod quiet;
pub(crate) mod read_ahead;
mod record;
pub(crate) mod scan;
pub(crate) mod search;
pub(crate) mod set;
mod warmth;

use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::format::VERSION;
use crate::format::frame::{self, State, Word};
use crate::format::header::{
    BadHeader, FIRST_FRAME, FileIdentity, Origin, SEAL, SEAL_MAGIC, Seal, SegmentHeader,
};
use crate::format::hint::Census;
pub(crate) use crate::format::names::{hint_name, segment_id as id_of, segment_name as file_name};
use crate::options::MAX_SEGMENT;
use crate::position::LogPosition;
use crate::storage::map::Map;
use crate::storage::{Access, Opened, Prepared, SegmentFile, Storage};
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock};
use crate::taken::Marks;
pub(crate) use counter::StripedCounter;
pub(crate) use pins::{Pins, Stripe, thread_number};
use std::io;
use std::sync::OnceLock;
use warmth::Warmth;

/// A range that a dead process left, to be skipped by readers, which may not repair it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    /// The present identity of its file; the header has the one at its creation.
    pub(crate) identity: FileIdentity,
    pub(crate) map: Map,
    pub(crate) pins: Pins,
    /// Where those were taken who keep it, with the feature `backtraces`.
    pub(crate) marks: Marks,
    warmth: Warmth,
    /// Bytes of puts that no slot of a store points at any longer.
    pub(crate) dead: StripedCounter,
    /// Bytes that merges had reclaimed when its tombstones were last checked.
    pub(crate) reclaimed_then: StripedCounter,
    /// The census of its frames, once it is sealed and a store has read it or its hint.
    pub(crate) census: OnceLock<Census>,
    /// The end of its frames: the capacity, or what the seal says.
    end: AtomicU64,
    sealed: AtomicBool,
    /// When it was sealed, as its seal says, once that is known; 0 if it does not say.
    sealed_at: OnceLock<u64>,
    /// Offsets at which frames begin, for reads behind an unfinished one; see `log::append::prefix`.
    pub(crate) found_frames: OnceLock<Box<[AtomicU64]>>,
    /// The number of the roll that made it active, modulo 2^24; `None` for segments found on opening.
    pub(crate) roll: Option<u32>,
    /// Gaps, in order. Only in a log that is open read-only and was left by a dead process.
    pub(crate) gaps: Vec<Gap>,
    /// Closed once the segment is sealed, or found sealed: descriptors are few, segments are many.
    file: Mutex<Option<Box<dyn SegmentFile>>>,
}

/// The file of a segment in memory.
#[derive(Debug)]
struct NoFile;

impl SegmentFile for NoFile {
    fn sync(&self, _map: &Map, _from: u64, _to: u64) -> io::Result<()> {
        Ok(())
    }

    fn release(&self, _from: u64, _to: u64) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

impl Segment {
    /// Creates a segment from a prepared file: durable, and not populated. `first` are frames that it
    /// has from the beginning.
    pub(crate) fn create(
        storage: &dyn Storage,
        prepared: Prepared,
        header: SegmentHeader,
        roll: Option<u32>,
        first: &[u8],
    ) -> io::Result<Self> {
        let placed = |file| {
            let origin = header.origin.map(|origin| Origin { file, ..origin });
            SegmentHeader { origin, ..header }
        };
        let head = |file| [&placed(file).encode()[..], first].concat();
        let made = storage.create_prepared(prepared, &file_name(header.id), &head)?;
        let Opened { map, file, identity } = made;
        Ok(Self::new(placed(identity), map, file, identity, roll))
    }

    /// A segment in memory, with room for no frame at all.
    pub(crate) fn without_room(header: SegmentHeader) -> io::Result<Self> {
        debug_assert!(header.capacity == FIRST_FRAME);
        let map = Map::anonymous(4096)?;
        let segment = Self::new(header, map, Box::new(NoFile), FileIdentity::default(), Some(1));
        segment.set_end(FIRST_FRAME);
        Ok(segment)
    }

    pub(crate) const fn is_without_room(&self) -> bool {
        self.header.capacity == FIRST_FRAME
    }

    fn new(
        header: SegmentHeader,
        map: Map,
        file: Box<dyn SegmentFile>,
        identity: FileIdentity,
        roll: Option<u32>,
    ) -> Self {
        // A truncated file may end inside a word.
        let end = AtomicU64::new(map.len() as u64 & !7);
        let (pins, sealed) = (Pins::default(), AtomicBool::new(false));
        Self {
            header,
            identity,
            map,
            pins,
            marks: Marks::default(),
            warmth: Warmth::new(false),
            dead: StripedCounter::default(),
            reclaimed_then: StripedCounter::default(),
            census: OnceLock::new(),
            end,
            sealed,
            sealed_at: OnceLock::new(),
            found_frames: OnceLock::new(),
            roll,
            gaps: Vec::new(),
            file: Mutex::new(Some(file)),
        }
    }

    /// Opens a segment and reads its head, but none of its frames.
    pub(crate) fn open(storage: &dyn Storage, id: u32, access: Access) -> Result<Self, OpenError> {
        Self::open_as(storage, &file_name(id), id, access)
    }

    /// As `open`, for a file with another name.
    pub(crate) fn open_as(
        storage: &dyn Storage,
        name: &str,
        id: u32,
        access: Access,
    ) -> Result<Self, OpenError> {
        Self::open_by(storage, name, id, access, |head, _| SegmentHeader::decode(head))
    }

    /// As `open`, with a header that `read` makes of the head's bytes and the file's length.
    pub(crate) fn open_with(
        storage: &dyn Storage,
        id: u32,
        access: Access,
        read: impl FnOnce(&[u8; FIRST_FRAME as usize], u64) -> Result<SegmentHeader, BadHeader>,
    ) -> Result<Self, OpenError> {
        Self::open_by(storage, &file_name(id), id, access, read)
    }

    fn open_by(
        storage: &dyn Storage,
        name: &str,
        id: u32,
        access: Access,
        read: impl FnOnce(&[u8; FIRST_FRAME as usize], u64) -> Result<SegmentHeader, BadHeader>,
    ) -> Result<Self, OpenError> {
        let Opened { map, file, identity } = storage.open(name, access)?;
        map.expect_scattered(true);
        let damaged = |offset, what| Corruption {
            segment: id,
            offset,
            kind: CorruptionKind::SegmentHeader(what),
        };
        if (map.len() as u64) < FIRST_FRAME {
            return Err(damaged(map.len() as u64, "the file ends here").into());
        }
        let mut head = [0; FIRST_FRAME as usize];
        for (at, bytes) in head.chunks_exact_mut(8).enumerate() {
            // ORDERING: Relaxed; durable, and named, before anyone can open it, and never changed;
            // but for the seal, which is not read here.
            let word = map.word(at as u64 * 8).load(Ordering::Relaxed);
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let header = read(&head, map.len() as u64).map_err(|bad| match bad {
            BadHeader::Blank => damaged(0, "it is blank").into(),
            BadHeader::Damaged(what) => damaged(0, what).into(),
            BadHeader::Version(found) => OpenError::Version { found, known: VERSION },
        })?;
        if header.id != id {
            return Err(damaged(16, "it has the id of another segment").into());
        }
        if header.capacity > MAX_SEGMENT {
            return Err(damaged(48, "more than a segment can have").into());
        }
        if map.len() as u64 > header.capacity {
            return Err(damaged(48, "the file is longer than it says").into());
        }
        let mut segment = Self::new(header, map, file, identity, None);
        segment.warmth = Warmth::new(true);
        let sealed = segment.load_seal().is_some();
        if sealed {
            segment.protect();
        }
        let is_new = sealed && storage.boot_id().is_none_or(|id| id == header.boot_id);
        if access == Access::Read || sealed && !(is_new && segment.ends_by_its_seal()) {
            segment.close_file();
        }
        segment.map.expect_scattered(false);
        Ok(segment)
    }

    /// Whether only the seal says where it ends, rather than a pad or its capacity. (What recovery had no
    /// space to set aside may stand behind it.)
    pub(crate) fn ends_by_its_seal(&self) -> bool {
        let end = self.end();
        if end + 8 > self.map.len() as u64 {
            return false;
        }
        // ORDERING: Relaxed; sealed, so it does not change.
        let word = self.map.word(end).load(Ordering::Relaxed);
        // A copy may be shorter than what the pad fills.
        let word = Word::parse(word, self.header.capacity - end);
        let pad = word.ok().flatten().filter(|word| word.state == State::Pad);
        pad.is_none_or(|pad| frame::verify_bare(self.salt(), end, pad).is_err())
    }

    /// Makes a seal durable that was found on opening, since the process that sealed the segment may
    /// have died before syncing it. Once another segment follows, a segment without an end would be a
    /// hole in the log.
    pub(crate) fn sync_seal(&self) -> io::Result<()> {
        self.sync(0, FIRST_FRAME)?;
        self.close_file();
        Ok(())
    }

    /// Reads the seal, if the file has one by now.
    pub(crate) fn load_seal(&self) -> Option<Seal> {
        // ORDERING: Acquire; pairs with the Release store of the magic in `seal`.
        if self.map.word(SEAL).load(Ordering::Acquire) != SEAL_MAGIC {
            return None;
        }
        // ORDERING: Relaxed; behind the Acquire load of the magic, and verified by a checksum.
        let word = |at: u64| self.map.word(SEAL + at * 8).load(Ordering::Relaxed);
        let words = [SEAL_MAGIC, word(1), word(2), word(3)];
        let seal = Seal::from_words(words, self.header.salt, self.map.len() as u64)?;
        self.set_sealed(seal);
        Some(seal)
    }

    /// Records that the segment is finished and durable up to `seal.end`.
    pub(crate) fn seal(&self, seal: Seal) {
        let words = seal.words(self.header.salt);
        for (at, &word) in words.iter().enumerate().skip(1) {
            // ORDERING: Relaxed; published by the Release store of the magic.
            self.map.word(SEAL + at as u64 * 8).store(word, Ordering::Relaxed);
        }
        // ORDERING: Release; pairs with the Acquire load in `load_seal`: a reader in another process
        // that sees the magic sees the rest.
        self.map.word(SEAL).store(words[0], Ordering::Release);
        self.set_sealed(seal);
        self.protect();
    }

    fn set_sealed(&self, seal: Seal) {
        self.set_end(seal.end);
        let _ = self.sealed_at.set(seal.time);
        // ORDERING: Release; pairs with the Acquire load in `is_sealed`.
        self.sealed.store(true, Ordering::Release);
    }

    /// When it was sealed, in milliseconds since 1970; `None` if it is not sealed, or the seal does not
    /// say: it is of an earlier version.
    pub(crate) fn sealed_at(&self) -> Option<u64> {
        self.sealed_at.get().copied().filter(|&time| time > 0)
    }

    /// A sealed segment is never written to, so it is made read-only. If the kernel cannot do that (it
    /// has no room for another mapping), only a guard against stray writes is missing.
    fn protect(&self) {
        if let Err(error) = self.map.protect() {
            tracing::warn!(segment = self.id(), %error, "could not write-protect a sealed segment");
        }
    }

    pub(crate) fn is_sealed(&self) -> bool {
        // ORDERING: Acquire; pairs with the Release stores in `seal` and `load_seal`.
        self.sealed.load(Ordering::Acquire)
    }

    /// The end of its frames.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        // ORDERING: Acquire; pairs with the Release store in `set_end`.
        self.end.load(Ordering::Acquire)
    }

    pub(crate) fn set_end(&self, end: u64) {
        // ORDERING: Release; pairs with the Acquire load in `end`.
        self.end.store(end, Ordering::Release);
    }

    /// An error if a part of it could not be accessed. Then what was read before, and does not verify, may
    /// not be what is in the file.
    #[cold]
    pub(crate) fn accessible(&self) -> Result<(), CorruptionKind> {
        self.map.fault().map_or(Ok(()), |at| Err(CorruptionKind::Inaccessible { at }))
    }

    /// Bytes that its file takes.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let len = self.map.len() as u64;
        if self.is_sealed() { (self.end() + 8).next_multiple_of(4096).min(len) } else { len }
    }

    /// The gap that begins at an offset, if any.
    #[inline]
    pub(crate) fn gap_at(&self, offset: u64) -> Option<Gap> {
        let nth = self.gaps.binary_search_by_key(&offset, |gap| gap.offset).ok()?;
        Some(self.gaps[nth])
    }

    pub(crate) const fn id(&self) -> u32 {
        self.header.id
    }

    pub(crate) const fn salt(&self) -> u64 {
        self.header.salt
    }

    /// Where its frames begin.
    pub(crate) const fn begin(&self) -> LogPosition {
        self.position(FIRST_FRAME)
    }

    pub(crate) const fn position(&self, offset: u64) -> LogPosition {
        LogPosition::new(self.header.id, offset as u32)
    }

    pub(crate) fn sync(&self, from: u64, to: u64) -> io::Result<()> {
        self.with_file(|file| file.sync(&self.map, from, to))
    }

    fn with_file(&self, run: impl FnOnce(&dyn SegmentFile) -> io::Result<()>) -> io::Result<()> {
        // Without a file it is sealed, and there is nothing left to sync.
        lock(&self.file).as_deref().map_or(Ok(()), run)
    }

    pub(crate) fn has_file(&self) -> bool {
        lock(&self.file).is_some()
    }

    pub(crate) fn close_file(&self) {
        *lock(&self.file) = None;
    }

    /// Makes sure that every page can be written to: a copy of the file may have holes, and on a full
    /// disk a write to one is a SIGBUS.
    pub(crate) fn allocate(&self) -> io::Result<()> {
        self.with_file(|file| file.allocate(self.map.len() as u64))
    }

    /// Releases the space beyond the end. The file keeps its length, so that a reader in another
    /// process that has it mapped reads zeros there and gets no SIGBUS. A final pad keeps its word: a
    /// power loss may undo the seal, and then the segment is read up to its capacity. If releasing
    /// fails, the space stays taken, and nothing is lost.
    pub(crate) fn shrink(&self) {
        let (keep, len) = ((self.end() + 8).next_multiple_of(4096), self.map.len() as u64);
        if keep >= len {
            return;
        }
        if let Err(error) = self.with_file(|file| file.release(keep, len)) {
            tracing::warn!(segment = self.id(), %error, "could not give space back");
        }
    }
}
