//! The outputs of a merge: new segments that no other thread knows yet.

#![allow(unsafe_code, reason = "writes to segments that nobody else knows")]

use crate::error::MergeError;
use crate::format::frame::{self, HEADER, Kind};
use crate::format::header::{FIRST_FRAME, Seal};
use crate::format::record::{NewRecord, Record};
use crate::log::writer::seal_and_shrink;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::store::hints::{SegmentSummary, SummaryBuilder};
use crate::store::inner::StoreInner;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Writes the outputs of a merge.
pub(super) struct MergeWriter<'i> {
    inner: &'i StoreInner,
    /// The ids of the inputs.
    inputs: Vec<u32>,
    /// Bytes still to come, at most.
    expected: u64,
    open: Option<Output>,
    pub(super) done: Vec<Arc<Segment>>,
}

struct Output {
    segment: Segment,
    at: u64,
    frames: u64,
    gather: SummaryBuilder,
}

impl<'i> MergeWriter<'i> {
    pub(super) fn new(inner: &'i StoreInner, inputs: Vec<u32>, expected: u64) -> Self {
        Self { inner, inputs, expected, open: None, done: Vec::new() }
    }

    /// Copies a put and returns the copy's position.
    pub(super) fn copy(
        &mut self,
        put: Record<'_>,
        origin: LogPosition,
    ) -> Result<LogPosition, MergeError> {
        self.write(NewRecord::moved(put, origin), put.value())
    }

    pub(super) fn tombstone(&mut self, key: &[u8], origin: LogPosition) -> Result<(), MergeError> {
        let tombstone = NewRecord::tombstone(key).expect("a key that was written before");
        self.write(tombstone.moved_from(origin), &[]).map(drop)
    }

    fn write(&mut self, new: NewRecord<'_>, value: &[u8]) -> Result<LogPosition, MergeError> {
        let len = new.frame_len();
        let keydir = &self.inner.keydir;
        let output = self.output(len)?;
        let (segment, offset) = (&output.segment, output.at);
        let write = |at, part: &[u8]| {
            // SAFETY: behind all frames of a segment that no other thread knows.
            unsafe { segment.map.write(offset + at, part) };
        };
        new.write_head(write);
        write(new.value_at(), value);
        // SAFETY: as above, and just written; the rest of the body is zero.
        let body = unsafe { segment.map.slice(offset + HEADER, new.body_len()) };
        let record = Record::new(new.header(), body).expect("it is one");
        let word = record.commit_word(segment.salt(), offset);
        // ORDERING: Release; pairs with the Acquire load in `committed`. A thread that finds the frame
        // has it from a slot that was set under its shard's lock later.
        segment.map.word(offset).store(word, Ordering::Release);
        output.gather.add_record(keydir, segment, offset, len, &record);
        output.at += len;
        output.frames += 1;
        Ok(output.segment.position(offset))
    }

    /// An output with room for a frame.
    fn output(&mut self, len: u64) -> Result<&mut Output, MergeError> {
        let has_room = |output: &Output| output.at + len <= output.segment.header.capacity;
        if !self.open.as_ref().is_some_and(has_room) {
            self.seal()?;
            // A copy is 8 bytes longer than the original, for the origin.
            let expected = self.expected + self.expected / 8;
            let head = frame::inputs_len(self.inputs.len());
            let most = (self.inner.writer.segment_size() - FIRST_FRAME).saturating_sub(head);
            let room = expected.min(most).max(len);
            let segment = self.inner.writer.create_merged(room, &self.inputs)?;
            let mut gather = SummaryBuilder::new();
            gather.add_other(FIRST_FRAME, head, Some(Kind::Inputs));
            self.open = Some(Output { segment, at: FIRST_FRAME + head, frames: 1, gather });
        }
        self.expected = self.expected.saturating_sub(len);
        Ok(self.open.as_mut().expect("just made"))
    }

    /// Makes the open output durable.
    pub(super) fn seal(&mut self) -> Result<(), MergeError> {
        let Some(Output { segment, at, frames, gather }) = self.open.take() else { return Ok(()) };
        let segment = Arc::new(segment);
        // Listed from here on, so that it is discarded if anything fails.
        self.done.push(segment.clone());
        let io = |source| MergeError::Io { source: Arc::new(source) };
        segment.sync(FIRST_FRAME, at).map_err(io)?;
        let seal = Seal { end: at, frames, time: self.inner.writer.now() };
        seal_and_shrink(&segment, seal).map_err(io)?;
        let SegmentSummary { census, entries, .. } = gather.finish(&segment);
        let inner = self.inner;
        segment.reclaimed_then.add(self.inner.reclaimed.get());
        inner.write_hint(&segment, &census, &entries);
        // A new segment has none yet.
        let _ = segment.census.set(census);
        Ok(())
    }

    /// Their ids are used up: a reader in another process may have seen them.
    pub(super) fn discard(self) {
        let open = self.open.iter().map(|output| output.segment.id());
        let ids: Vec<_> = self.done.iter().map(|segment| segment.id()).chain(open).collect();
        self.inner.writer.discard_merged(&ids);
    }
}
