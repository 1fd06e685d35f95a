//! Gathering entries into batches.

use crate::error::AppendError;
use crate::log::writer::{LogWriter, MAX_BATCH};
use crate::position::LogPosition;

/// Gathers entries and appends them together: each flush is one reservation and one atomic batch.
///
/// Flushes when the gathered frames (each entry has a header of 16 bytes) reach the threshold, when
/// [`flush`](Self::flush) is called, and when dropped. A drop cannot report an error: call `flush`
/// before.
///
/// ```
/// use tailcask::CommitLog;
///
/// let log = CommitLog::in_memory();
/// let mut batch = log.batch_writer(1 << 20);
/// for n in 0..1000u32 {
///     batch.push(&n.to_le_bytes())?;
/// }
/// batch.push_vectored(&[b"the ", b"last"])?;
/// batch.flush()?; // all of them at once
/// # drop(batch);
/// assert_eq!(log.stats().entries, 1001);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BatchWriter<'a> {
    writer: Result<&'a LogWriter, AppendError>,
    max_bytes: usize,
    bytes: Vec<u8>,
    lengths: Vec<u32>,
    /// Bytes of the gathered frames.
    framed: u64,
}

impl<'a> BatchWriter<'a> {
    pub(crate) fn new(writer: Result<&'a LogWriter, AppendError>, max_bytes: usize) -> Self {
        Self { writer, max_bytes, bytes: Vec::new(), lengths: Vec::new(), framed: 0 }
    }

    /// Adds an entry; flushes if the threshold is reached.
    ///
    /// # Errors
    /// [`AppendError::TooLarge`]: the entry was not added. Any other error is that of the flush:
    /// everything gathered is kept, including this entry. (Excluding it if the others had to be flushed
    /// first, because one batch of 4 GiB could not hold them all.)
    pub fn push(&mut self, entry: &[u8]) -> Result<(), AppendError> {
        self.push_vectored(&[entry])
    }

    /// As [`push`](Self::push), for an entry that is given in several parts.
    ///
    /// # Errors
    /// As `push`.
    pub fn push_vectored(&mut self, parts: &[&[u8]]) -> Result<(), AppendError> {
        let writer = self.writer.clone()?;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let frame = writer.frame_len(len as u64)?;
        if self.framed + frame > MAX_BATCH {
            self.flush()?;
        }
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.lengths.push(len as u32);
        self.framed += frame;
        if self.framed >= self.max_bytes as u64 {
            self.flush()?;
        }
        Ok(())
    }

    /// Forgets the entries that wait for a flush: a writer that is dropped would append them.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.lengths.clear();
        self.framed = 0;
    }

    /// Number of entries waiting for a flush.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether no entry waits for a flush.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Appends the gathered entries as one batch and returns its position; `None` if there were none.
    ///
    /// # Errors
    /// As [`CommitLog::append_batch`](crate::CommitLog::append_batch). The entries are kept, and the
    /// next flush tries again, unless they are in the log already ([`AppendError::Sync`] with a
    /// position).
    pub fn flush(&mut self) -> Result<Option<LogPosition>, AppendError> {
        let writer = self.writer.clone()?;
        let entries = GatheredEntries { bytes: &self.bytes, lengths: &self.lengths };
        let result = writer.append_batch(entries, |_| {});
        let refused = matches!(&result, Err(error) if !matches!(error, AppendError::Sync { position: Some(_), .. }));
        if !refused {
            self.clear();
        }
        result
    }
}

impl Drop for BatchWriter<'_> {
    fn drop(&mut self) {
        if !self.is_empty()
            && let Err(error) = self.flush()
        {
            tracing::error!(%error, entries = self.len(), "a batch was lost when its writer was dropped");
        }
    }
}

#[derive(Clone)]
struct GatheredEntries<'b> {
    bytes: &'b [u8],
    lengths: &'b [u32],
}

impl<'b> Iterator for GatheredEntries<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let (&len, lengths) = self.lengths.split_first()?;
        let (entry, bytes) = self.bytes.split_at(len as usize);
        (self.bytes, self.lengths) = (bytes, lengths);
        Some(entry)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.lengths.len(), Some(self.lengths.len()))
    }
}

impl ExactSizeIterator for GatheredEntries<'_> {}
