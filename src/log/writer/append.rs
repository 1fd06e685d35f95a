//! Appending: one frame, or a batch of frames, from the reservation to the commit.
//!
//! The fast path is `append`: one `fetch_add` reserves, one store claims, the body is copied, one store
//! commits. All other ways go through a guarded `Claim`, which voids the frame if its writer unwinds.

#![allow(unsafe_code, reason = "a caller fills a claimed range in place")]

use super::LogWriter;
use super::capacity::Need;
use crate::error::AppendError;
use crate::format::frame::{self, Header, Kind};
use crate::format::header::FIRST_FRAME;
use crate::latency::Operation;
use crate::log::append::claim::Claim;
use crate::options::{Durability, MAX_SEGMENT};
use crate::position::LogPosition;
use crate::segment::Segment;

impl LogWriter {
    /// The length of a frame with this body, if it is within the limit.
    #[inline]
    pub(crate) fn frame_len(&self, body: u64) -> Result<u64, AppendError> {
        if body > self.config.max_entry_size {
            return Err(AppendError::TooLarge { len: body, max: self.config.max_entry_size });
        }
        Ok(frame::frame_len(body))
    }

    /// Reserves and claims a frame in the active segment. `None`: the segment is full, or the frame is
    /// oversize.
    #[inline]
    fn reserve(&self, len: u64) -> Option<Claim<'_, Segment>> {
        if len > self.max_shared { None } else { self.tail.reserve(len) }
    }

    /// Reserves and claims a frame.
    #[inline]
    pub(crate) fn claim(&self, len: u64) -> Result<Claim<'_, Segment>, AppendError> {
        match self.reserve(len) {
            Some(claim) => Ok(claim),
            None => self.make_room(len),
        }
    }

    /// Reserves and claims a frame; rolls until there is room for it.
    #[cold]
    #[inline(never)]
    fn make_room(&self, len: u64) -> Result<Claim<'_, Segment>, AppendError> {
        if len > self.max_shared {
            return self.claim_oversize(len);
        }
        loop {
            if let Some(claim) = self.tail.reserve(len) {
                return Ok(claim);
            }
            self.roll(len, Need::Append)?;
        }
    }

    /// Appends an entry. The frame is not guarded by a `Claim`, since nothing here can panic between its
    /// claim and its commit.
    #[inline]
    pub(crate) fn append(&self, body: &[u8]) -> Result<LogPosition, AppendError> {
        let len = body.len() as u64;
        let claim = if len < self.plain_end {
            self.tail.reserve_unguarded(frame::frame_len(len))
        } else {
            None
        };
        let position = match claim {
            Some(claim) => claim.finish(body, Header::entry(body), frame::crc(body)),
            None => return self.append_slowly(body),
        };
        self.acknowledge(position)
    }

    /// Over a roll, or in a segment of its own, or with a look at the clock.
    #[cold]
    #[inline(never)]
    fn append_slowly(&self, body: &[u8]) -> Result<LogPosition, AppendError> {
        self.timer.time(Operation::Append, || {
            let len = self.frame_len(body.len() as u64)?;
            let finished = self.wake_after(len);
            let mut claim = self.make_room(len)?;
            claim.write(frame::HEADER, body);
            let position = claim.commit(Header::entry(body), frame::crc(body));
            drop(finished);
            self.acknowledge(position)
        })
    }

    pub(crate) fn append_vectored(&self, parts: &[&[u8]]) -> Result<LogPosition, AppendError> {
        let body: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let len = self.frame_len(body)?;
        let crc = frame::crc_parts(parts);
        let finished = self.wake_after(len);
        let mut claim = self.claim(len)?;
        let mut at = frame::HEADER;
        for part in parts {
            claim.write(at, part);
            at += part.len() as u64;
        }
        let position = claim.commit(Header::plain(Kind::Entry, body as u32), crc);
        drop(finished);
        self.acknowledge(position)
    }

    pub(crate) fn append_with(
        &self,
        body: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<LogPosition, AppendError> {
        let len = self.frame_len(body as u64)?;
        let finished = self.wake_after(len);
        let claim = self.claim(len)?;
        let at = claim.offset() + frame::HEADER;
        // SAFETY: inside the range of `claim`, which is not committed while the slice lives, and
        // nothing else is written meanwhile.
        let bytes = unsafe { claim.segment().map.slice_mut(at, body as u64) };
        let position = claim.segment().position(claim.offset());
        let filling = (self.enter_append(), self.filling.mark(position.as_u64()));
        fill(bytes);
        drop(filling);
        let (header, crc) = (Header::entry(bytes), frame::crc(bytes));
        let position = claim.commit(header, crc);
        drop(finished);
        self.acknowledge(position)
    }

    /// Makes one reservation for all entries: a batch frame around theirs. Its commit word is stored
    /// last, and until then no reader looks inside it. `each` is called with the position of every
    /// entry.
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
        let finished = self.wake_after(len);
        let mut claim = self.claim(len)?;
        let (segment, start) = (claim.segment().id(), claim.offset());
        let mut at = frame::HEADER;
        for entry in entries {
            each(LogPosition::new(segment, (start + at) as u32));
            at += claim.write_inner(at, entry);
        }
        let position = claim.commit(Header::plain(Kind::Batch, value_len), frame::crc(&[]));
        drop(finished);
        self.acknowledge(position).map(Some)
    }

    /// After a commit: waits as the log's durability says.
    #[inline]
    pub(crate) fn acknowledge(&self, position: LogPosition) -> Result<LogPosition, AppendError> {
        if self.acks_at_once {
            Ok(position)
        } else {
            self.acknowledge_as(position, self.config.durability)
        }
    }

    #[inline]
    pub(crate) fn acknowledge_as(
        &self,
        position: LogPosition,
        durability: Durability,
    ) -> Result<LogPosition, AppendError> {
        if durability == Durability::Synced || self.config.catch_sigbus {
            self.make_durable(position, durability)?;
        }
        Ok(position)
    }

    /// As far as is asked for.
    #[cold]
    fn make_durable(
        &self,
        position: LogPosition,
        durability: Durability,
    ) -> Result<(), AppendError> {
        let mut done = self.check_maps();
        if durability == Durability::Synced {
            done = done.and_then(|()| self.wait_durable(position));
        }
        done.map_err(|source| AppendError::Sync { position: Some(position), source })
    }

    /// Reserves a range and never claims it, as a thread that dies in between does.
    #[cfg(feature = "testing")]
    pub(crate) fn abandon_reservation(&self, body: u64) {
        self.tail.reserve_unclaimed(frame::frame_len(body));
    }
}
