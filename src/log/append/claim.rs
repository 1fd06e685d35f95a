//! A claim: the right to write one reserved range of a segment, and the duty to finish it.
//!
//! A frame's life is in its commit word: zero, then claimed, then committed or void. The claim is
//! stored before any other byte of the frame. So if the process dies, a word is zero only where
//! nothing was written, and wherever something was written its length is known.
//!
//! Reserving ranges (`tail`) and walking over the words (`prefix`) build on this module.

#![allow(unsafe_code, reason = "a claim is the exclusive right to write its range")]

use crate::format::frame::{self, Header, State};
use crate::log::waiters::Waiters;
use crate::position::LogPosition;
use crate::sync::{AtomicU64, FileWord, Ordering, fence};
use std::ptr::NonNull;

/// A segment as the protocol sees it: a mapped file, or loom's cells.
///
/// # Safety
/// Id, salt and capacity never change, and the memory up to the capacity lives as long as the value.
/// Frames tile it from the first one on, and are written as this module does it: so the word where a
/// frame begins is only accessed as an atomic.
pub(crate) unsafe trait SegmentMemory {
    fn id(&self) -> u32;
    fn salt(&self) -> u64;
    fn capacity(&self) -> u64;
    /// The commit word of a frame: the one where it begins.
    fn word(&self, offset: u64) -> &FileWord;
    /// As `word`, without a check.
    ///
    /// # Safety
    /// The offset is a multiple of 8 before the capacity.
    #[inline]
    unsafe fn reserved_word(&self, offset: u64) -> &FileWord {
        self.word(offset)
    }
    /// # Safety
    /// The caller owns a claim over the range and has not committed it.
    unsafe fn write(&self, offset: u64, bytes: &[u8]);
    /// Writes a frame's header and body.
    ///
    /// # Safety
    /// As for `write`; the frame is within the capacity, which may not be checked.
    #[inline]
    unsafe fn write_frame(&self, offset: u64, header: u64, body: &[u8]) {
        // SAFETY: the same contract.
        unsafe { self.write(offset + frame::WORD, &header.to_le_bytes()) };
        // SAFETY: the same contract.
        unsafe { self.write(offset + frame::HEADER, body) };
    }
    /// The header word of a frame, its second.
    ///
    /// # Safety
    /// The caller has seen the frame committed (Acquire).
    unsafe fn header(&self, offset: u64) -> u64;
    /// Bytes of a block, of which there is one for each item of `found_frames`.
    const BLOCK: u64 = 4 << 10;
    /// For each block an offset in it where a frame begins, or 0: what `Prefix::is_frame` has found.
    fn found_frames(&self) -> &[AtomicU64];
}

/// Finishes a frame: stores the word that it keeps, and wakes the threads that wait for one.
///
/// Every range that was reserved is settled here, as committed, void or a pad; so no waiter sleeps
/// through any of them. All of them matter: each may be the last one in front of an entry that was
/// committed long ago.
#[inline(always)]
fn settle(waiters: &Waiters, place: &FileWord, word: u64) {
    // ORDERING: Release; pairs with the Acquire loads of readers, and with that of the walk (`read`
    // in `prefix`). If a reader sees this word, it sees the frame's bytes; if it sees the claim, it
    // reads none of them. And a thread that sees this word comes after the writer's last access to the
    // segment, which may then be let go.
    place.store(word, Ordering::Release);
    waiters.notify();
}

/// Stores a pad: a single word, so it is never half written.
///
/// # Safety
/// The range was reserved by this thread and no other, and lies before the capacity; offset and length
/// are multiples of 8.
pub(crate) unsafe fn pad<S: SegmentMemory>(waiters: &Waiters, segment: &S, offset: u64, len: u64) {
    let word = frame::bare_word(segment.salt(), offset, len, State::Pad);
    settle(waiters, segment.word(offset), word);
}

/// Voids the claim of a dead process, and fills it with zeros: inside a batch that was never committed
/// there may be sound frames, and none of them counts. A reader in another process steps over the
/// claim as it steps over the void, and reads nothing in between.
///
/// # Safety
/// The claim is that of a dead process, and only this thread writes to the segment.
pub(crate) unsafe fn void_dead_claim<S: SegmentMemory>(segment: &S, offset: u64, len: u64) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let end = offset + len;
    for at in (offset + frame::WORD..end).step_by(ZEROS.len()) {
        let zeros = &ZEROS[..ZEROS.len().min((end - at) as usize)];
        // SAFETY: inside the dead claim, which no other thread reads or writes.
        unsafe { segment.write(at, zeros) };
    }
    let word = frame::bare_word(segment.salt(), offset, len, State::Void);
    // ORDERING: Release; pairs with the Acquire loads of readers in other processes, as in `settle`.
    segment.word(offset).store(word, Ordering::Release);
}

/// A reserved range whose claim is stored, without a guard: for an append that nothing can interrupt.
///
/// It has no `Drop`, so that the compiler keeps it in registers. A guarded claim lies on the stack, and
/// its fields are read back behind the claim's store to a cold cache line: measured, an append of 100
/// bytes took 47 ns so, and 33 without a guard.
#[must_use = "a claim that is not finished stops the watermarks"]
pub(crate) struct Reserved<'t, S: SegmentMemory> {
    segment: NonNull<S>,
    word: NonNull<FileWord>,
    offset: u64,
    len: u64,
    waiters: &'t Waiters,
}

impl<'t, S: SegmentMemory> Reserved<'t, S> {
    /// Stores the claim.
    ///
    /// # Safety
    /// The range was reserved by this thread and by no other, and lies before the capacity; offset
    /// and length are multiples of 8; the segment lives until the frame is finished.
    #[inline(always)]
    pub(crate) unsafe fn new(
        waiters: &'t Waiters,
        segment: NonNull<S>,
        offset: u64,
        len: u64,
    ) -> Self {
        // SAFETY: alive, by the contract.
        let memory = unsafe { segment.as_ref() };
        let word = frame::bare_word(memory.salt(), offset, len, State::Claimed);
        // SAFETY: inside the range.
        let place = unsafe { memory.reserved_word(offset) };
        // ORDERING: Relaxed; comes before the body by the fence below.
        place.store(word, Ordering::Relaxed);
        // ORDERING: Release fence; pairs with the death of the process, after which recovery reads
        // what had reached memory. No byte of the body gets there before the claim. So if the claim
        // is there, the length is known; if it is not, the body is zero as well.
        fence(Ordering::Release);
        Self { segment, word: NonNull::from(place), offset, len, waiters }
    }

    /// Adds a guard that voids the frame if it is not finished.
    #[inline]
    pub(crate) fn guard(self) -> Claim<'t, S> {
        let Self { segment, offset, len, waiters, .. } = self;
        Claim { segment, offset, len, waiters }
    }

    /// Writes the whole frame and commits it.
    #[inline(always)]
    pub(crate) fn finish(self, body: &[u8], header: Header, crc: u32) -> LogPosition {
        if frame::HEADER + body.len() as u64 > self.len {
            too_long(self.guard());
        }
        // SAFETY: unfinished, so alive, until the store below, which is the last access.
        let segment = unsafe { self.segment.as_ref() };
        let position = LogPosition::new(segment.id(), self.offset as u32);
        let header = header.to_word();
        // SAFETY: inside the claimed range, as was just checked, and not committed yet.
        unsafe { segment.write_frame(self.offset, header, body) };
        let word = frame::commit_word(segment.salt(), self.offset, self.len, header, crc);
        // SAFETY: in the segment, which is alive.
        let place = unsafe { self.word.as_ref() };
        settle(self.waiters, place, word);
        position
    }
}

#[cold]
#[inline(never)]
fn too_long<S: SegmentMemory>(claim: Claim<'_, S>) -> ! {
    drop(claim);
    panic!("a body is longer than its frame")
}

#[cold]
#[inline(never)]
fn outside(at: u64, len: u64) -> ! {
    panic!("a frame of {len} bytes at {at} is outside of its batch")
}

/// The exclusive right to write one reserved range, and the duty to finish it.
///
/// Dropped without a `commit`, also by a panic, it voids the frame: readers step over it.
pub(crate) struct Claim<'t, S: SegmentMemory> {
    segment: NonNull<S>,
    offset: u64,
    len: u64,
    waiters: &'t Waiters,
}

impl<S: SegmentMemory> Claim<'_, S> {
    #[inline]
    pub(crate) fn segment(&self) -> &S {
        // SAFETY: the frame is unfinished, so the segment lives (see `Reserved::new`).
        unsafe { self.segment.as_ref() }
    }

    #[inline]
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes bytes at an offset in the frame, which is behind the commit word.
    #[inline]
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        assert!(at >= frame::WORD && at + bytes.len() as u64 <= self.len);
        // SAFETY: inside the claimed range, not committed yet, and not its commit word.
        unsafe { self.segment().write(self.offset + at, bytes) };
    }

    /// Writes an entry's frame inside this one, a batch, and returns its length. Readers see it once
    /// the batch is committed.
    #[inline(always)]
    pub(crate) fn write_inner(&mut self, at: u64, entry: &[u8]) -> u64 {
        let len = frame::frame_len(entry.len() as u64);
        // Behind the header, so never over the claim itself.
        if at < frame::HEADER || at + len > self.len {
            outside(at, len);
        }
        let (segment, offset) = (self.segment(), self.offset + at);
        let header = Header::entry(entry).to_word();
        let word = frame::commit_word(segment.salt(), offset, len, header, frame::crc(entry));
        // SAFETY: inside the claimed range.
        let place = unsafe { segment.reserved_word(offset) };
        // ORDERING: Relaxed; published by the Release store of the batch's own commit word.
        place.store(word, Ordering::Relaxed);
        // SAFETY: inside the claimed range, and not committed yet.
        unsafe { segment.write_frame(offset, header, entry) };
        len
    }

    /// Writes the commit word of a frame inside this one, a batch; its other bytes are written
    /// already. Readers see it once the batch is committed.
    #[inline]
    pub(crate) fn write_inner_word(&mut self, at: u64, len: u64, header: u64, crc: u32) {
        if at < frame::HEADER || at + len > self.len {
            outside(at, len);
        }
        let (segment, offset) = (self.segment(), self.offset + at);
        let word = frame::commit_word(segment.salt(), offset, len, header, crc);
        // ORDERING: Relaxed; published by the Release store of the batch's own commit word.
        segment.word(offset).store(word, Ordering::Relaxed);
    }

    /// Commits the frame, which makes it readable.
    #[inline]
    pub(crate) fn commit(mut self, header: Header, crc: u32) -> LogPosition {
        self.write(frame::WORD, &header.to_word().to_le_bytes());
        self.commit_written(header, crc)
    }

    /// As `commit`, if the header was written before.
    #[inline]
    pub(crate) fn commit_written(self, header: Header, crc: u32) -> LogPosition {
        let header = header.to_word();
        let claim = std::mem::ManuallyDrop::new(self);
        let segment = claim.segment();
        let position = LogPosition::new(segment.id(), claim.offset as u32);
        let word = frame::commit_word(segment.salt(), claim.offset, claim.len, header, crc);
        settle(claim.waiters, segment.word(claim.offset), word);
        position
    }
}

impl<S: SegmentMemory> Drop for Claim<'_, S> {
    fn drop(&mut self) {
        let segment = self.segment();
        let word = frame::bare_word(segment.salt(), self.offset, self.len, State::Void);
        settle(self.waiters, segment.word(self.offset), word);
    }
}
