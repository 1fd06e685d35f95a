//! What a merge writes: frames at the end of segments that nobody else knows yet.

#![allow(unsafe_code, reason = "writes to segments that nobody else knows")]

use crate::error::MergeError;
use crate::format::frame::{self, HEADER, Header, Kind, MOVED};
use crate::format::header::FIRST_FRAME;
use crate::log::writer::seal_and_shrink;
use crate::position::LogPosition;
use crate::segment::Segment;
use crate::store::hints::{self, Gather, Gathered};
use crate::store::inner::StoreInner;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Writes the outputs.
pub(super) struct MergeWriter<'i> {
    inner: &'i StoreInner,
    /// What the outputs are made of.
    inputs: Vec<u32>,
    /// Bytes that are still expected.
    expected: u64,
    open: Option<Output>,
    pub(super) done: Vec<Arc<Segment>>,
}

struct Output {
    segment: Segment,
    at: u64,
    frames: u64,
    gather: Gather,
}

impl<'i> MergeWriter<'i> {
    pub(super) fn new(inner: &'i StoreInner, inputs: Vec<u32>, expected: u64) -> Self {
        Self { inner, inputs, expected, open: None, done: Vec::new() }
    }

    /// Copies a put, and says where the copy is.
    pub(super) fn copy(
        &mut self,
        header: Header,
        body: &[u8],
        origin: LogPosition,
    ) -> Result<LogPosition, MergeError> {
        let moved = Header { flags: header.flags | MOVED, ..header };
        let at = moved.origin_at().unwrap_or_default() as usize;
        let rest = at + if header.flags & MOVED != 0 { 8 } else { 0 };
        self.write(moved, &[&body[..at], &origin.as_u64().to_le_bytes(), &body[rest..]])
    }

    pub(super) fn tombstone(&mut self, key: &[u8], origin: LogPosition) -> Result<(), MergeError> {
        let key_len = key.len() as u16;
        let header = Header { kind: Kind::Delete, flags: MOVED, key_len, value_len: 0 };
        self.write(header, &[&origin.as_u64().to_le_bytes(), key]).map(drop)
    }

    fn write(&mut self, header: Header, parts: &[&[u8]]) -> Result<LogPosition, MergeError> {
        let len = frame::frame_len(header.body_len());
        let keydir = &self.inner.keydir;
        let output = self.output(len)?;
        let (segment, offset) = (&output.segment, output.at);
        let mut at = offset + frame::WORD;
        for part in [&header.to_word().to_le_bytes()[..]].iter().chain(parts) {
            // SAFETY: behind all frames of a segment that nobody else knows.
            unsafe { segment.map.write(at, part) };
            at += part.len() as u64;
        }
        // SAFETY: as above, and just written; the rest of the body is zero.
        let body = unsafe { segment.map.slice(offset + HEADER, header.body_len()) };
        let word = frame::word_of(segment.salt(), offset, header, body);
        // ORDERING: Release; pairs with the Acquire load in `committed`. Whoever finds the frame
        // has it from a slot that was set under its shard's lock later.
        segment.map.word(offset).store(word, Ordering::Release);
        output.gather.add(keydir, &output.segment, offset, len, Some(header));
        output.at += len;
        output.frames += 1;
        Ok(output.segment.position(offset))
    }

    /// An output with room for a frame.
    fn output(&mut self, len: u64) -> Result<&mut Output, MergeError> {
        let has_room = |output: &Output| output.at + len <= output.segment.header.capacity;
        if !self.open.as_ref().is_some_and(has_room) {
            self.seal()?;
            // Copies are 8 bytes longer than what was written first: room for that, too.
            let expected = self.expected + self.expected / 8;
            let head = frame::inputs_len(self.inputs.len());
            let most = (self.inner.writer.config.segment_size - FIRST_FRAME).saturating_sub(head);
            let room = expected.min(most).max(len);
            let segment = self.inner.writer.create_merged(room, &self.inputs)?;
            let mut gather = Gather::new();
            let inputs = Header::plain(Kind::Inputs, self.inputs.len() as u32 * 4);
            gather.add(&self.inner.keydir, &segment, FIRST_FRAME, head, Some(inputs));
            self.open = Some(Output { segment, at: FIRST_FRAME + head, frames: 1, gather });
        }
        self.expected = self.expected.saturating_sub(len);
        Ok(self.open.as_mut().expect("just made"))
    }

    /// Makes the open output durable.
    pub(super) fn seal(&mut self) -> Result<(), MergeError> {
        let Some(Output { segment, at, frames, gather }) = self.open.take() else { return Ok(()) };
        let segment = Arc::new(segment);
        // Known from here on, to be discarded if anything fails.
        self.done.push(segment.clone());
        let io = |source| MergeError::Io { source: Arc::new(source) };
        segment.sync(FIRST_FRAME, at).map_err(io)?;
        seal_and_shrink(&segment, at, frames).map_err(io)?;
        let Gathered { census, entries, .. } = gather.finish(&segment);
        let inner = self.inner;
        segment.looked_at.add(self.inner.reclaimed.get());
        hints::write(&*inner.writer.storage, &inner.keydir, &segment, &census, &entries);
        // A new segment has none yet.
        let _ = segment.census.set(census);
        Ok(())
    }

    /// Their ids are used up: somebody in another process may have seen them.
    pub(super) fn discard(self) {
        let open = self.open.iter().map(|output| output.segment.id());
        let ids: Vec<_> = self.done.iter().map(|segment| segment.id()).chain(open).collect();
        self.inner.writer.discard_merged(&ids);
    }
}
