//! Atomic batches.
//!
//! One batch frame with the puts and deletes inside it, which count from its commit on, all of them.
//! The shards of all keys are locked, in one order, from before the frame is reserved until every
//! slot is set, so no reader sees a part. The values are copied under the locks: a batch is for many
//! small writes.

use super::{Store, check_key, write_head};
use crate::error::WriteError;
use crate::format::frame::{self, HEADER, Header, Kind};
use crate::keydir::Change;
use crate::log::commit::Claim;
use crate::options::MAX_SEGMENT;
use crate::position::LogPosition;
use crate::segment::Segment;

/// Writes that are done together: all of them or none, also after a crash.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Batch {
    writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self { writes: Vec::new() }
    }

    /// Adds a put.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.writes.push((key.as_ref().to_vec(), Some(value.as_ref().to_vec())));
        self
    }

    /// Adds a delete.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.writes.push((key.as_ref().to_vec(), None));
        self
    }

    /// How many writes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

impl Store {
    /// Does all writes of a batch, in its order, or none. At most 2 GiB together. The
    /// position is that of the batch; for an empty one, the end of the log.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn write(&self, batch: &Batch) -> Result<LogPosition, WriteError> {
        if batch.is_empty() {
            return Ok(self.log.tail());
        }
        let headers = batch.writes.iter().map(|(key, value)| self.header_of(key, value.as_deref()));
        let headers = headers.collect::<Result<Vec<_>, _>>()?;
        let lens = headers.iter().map(|header| frame::frame_len(header.body_len()));
        let len = HEADER + lens.sum::<u64>();
        if len > MAX_SEGMENT / 2 {
            return Err(WriteError::BatchTooLarge { len, max: MAX_SEGMENT / 2 });
        }
        let tags: Vec<u32> = batch.writes.iter().map(|(key, _)| self.keydir.tag(key)).collect();
        let is = |index: usize, at| self.is_key(at, &batch.writes[index].0);
        let core = self.core();
        loop {
            let mut position = None;
            let likely = |positions: &[LogPosition]| self.touch(positions);
            let done = self.keydir.change_all(&tags, likely, is, || {
                let Some(claim) = core.try_claim(len)? else { return Ok(None) };
                let (at, changes) = write_all(claim, batch, &headers);
                position = Some(at);
                Ok::<_, WriteError>(Some(changes))
            })?;
            match position {
                Some(position) if done => {
                    return Ok(core.committed_as(position, core.config.durability)?);
                }
                _ => core.roll()?,
            }
        }
    }

    fn header_of(&self, key: &[u8], value: Option<&[u8]>) -> Result<Header, WriteError> {
        match value {
            Some(value) => self.put_header(key, value, false),
            None => {
                let key_len = check_key(key)?;
                Ok(Header { kind: Kind::Delete, flags: 0, key_len, value_len: 0 })
            }
        }
    }
}

/// Writes and commits the frame of a batch, and says what becomes of each key's slot.
fn write_all(
    mut claim: Claim<'_, Segment>,
    batch: &Batch,
    headers: &[Header],
) -> (LogPosition, Vec<Change>) {
    let mut changes = Vec::with_capacity(headers.len());
    let mut at = HEADER;
    for ((key, value), &header) in batch.writes.iter().zip(headers) {
        let change = Change::Set(claim.segment().position(claim.offset() + at));
        changes.push(if value.is_some() { change } else { Change::Remove });
        write_head(&mut claim, at, header, None, key);
        let value = value.as_deref().unwrap_or_default();
        claim.write(at + HEADER + header.value_at(), value);
        let crc = super::body_crc(&claim, at, header);
        let len = frame::frame_len(header.body_len());
        claim.write_inner_word(at, len, header, crc);
        at += len;
    }
    let header = Header::plain(Kind::Batch, headers.len() as u32);
    (claim.commit(header, frame::crc(&[])), changes)
}
