//! Readers of the log that follow it, in the process that writes it.

use crate::child::Shared;
use crate::content::{APPENDERS, Entry};
use crate::tally::Count;
use std::fs::{self, File};
use std::future::poll_fn;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tailcask::{Checkpoint, CheckpointError, LogPosition, LogReader, ReadError};

/// Which entries a reader has seen: of each appender all, in order, without a gap.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sequence {
    last: [u64; APPENDERS as usize],
    pub(crate) position: LogPosition,
}

impl Sequence {
    pub(crate) fn next(&mut self, at: LogPosition, bytes: &[u8]) {
        let entry = Entry::parse(bytes).unwrap_or_else(|| panic!("{at} is no entry"));
        let last = &mut self.last[entry.appender as usize];
        let is_new = entry.nth & 0xffff_ffff == 0 && entry.nth > *last;
        assert!(
            *last == 0 || entry.nth == *last + 1 || is_new,
            "{:x} of appender {} is followed by {:x} at {at}",
            *last,
            entry.appender,
            entry.nth
        );
        assert!(self.position < at, "{at} comes behind {}", self.position);
        (*last, self.position) = (entry.nth, at);
    }

    /// The beginning of the log was dropped before it was read.
    pub(crate) fn skip(&mut self) {
        self.last = Default::default();
    }
}

/// The next entry within a moment; goes on behind what was truncated.
pub(crate) fn next_of(reader: &mut LogReader<'_>, seen: &mut Sequence) -> bool {
    let begin = match reader.wait_entry(Duration::from_millis(20)) {
        Ok(Some(entry)) => {
            seen.next(entry.position(), &entry);
            return true;
        }
        Ok(None) => return false,
        Err(ReadError::Truncated { begin, .. }) => begin,
        Err(error) => panic!("{error}"),
    };
    seen.skip();
    reader.seek(begin);
    true
}

pub(crate) fn wait(shared: &Shared, _: u64) {
    let (mut reader, mut seen) = (shared.log.reader(), Sequence::default());
    while !shared.stops() {
        if next_of(&mut reader, &mut seen) {
            shared.count(Count::Followed);
        }
    }
}

/// As a task, if there are streams.
#[cfg(feature = "stream")]
pub(crate) fn stream(shared: &Shared, _: u64) {
    use crate::common::tasks::block_on;
    use futures_core::Stream;
    use std::pin::Pin;
    use std::task::Poll;
    let mut seen = Sequence::default();
    let mut stream = shared.log.stream_from(LogPosition::START);
    // Appenders go on until the end, so it is woken until then.
    let mut polls = 0u32;
    while !shared.stops() {
        let next = block_on(poll_fn(|context| {
            polls += 1;
            match Pin::new(&mut stream).poll_next(context) {
                Poll::Pending if shared.stops() => Poll::Ready(None),
                Poll::Pending if polls.is_multiple_of(64) => {
                    std::thread::sleep(Duration::from_millis(1));
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Pending => {
                    context.waker().wake_by_ref();
                    std::thread::yield_now();
                    Poll::Pending
                }
                ready => ready,
            }
        }));
        match next {
            None => return,
            Some(Ok(entry)) => {
                seen.next(entry.position(), &entry);
                shared.count(Count::Streamed);
            }
            Some(Err(ReadError::Truncated { begin, .. })) => {
                seen.skip();
                stream = shared.log.stream_from(begin);
            }
            Some(Err(error)) => panic!("{error}"),
        }
    }
}

#[cfg(not(feature = "stream"))]
pub(crate) fn stream(_: &Shared, _: u64) {}

/// Where a consumer has got to: its checkpoint and the entry that it read last, in a file that it writes over.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) seen: Sequence,
}

impl Progress {
    pub(crate) fn path(elsewhere: &Path) -> PathBuf {
        elsewhere.join("checkpoint")
    }

    pub(crate) fn read(elsewhere: &Path) -> Option<Self> {
        let bytes = fs::read(Self::path(elsewhere)).ok().filter(|bytes| !bytes.is_empty())?;
        let (checkpoint, rest) = bytes.split_first_chunk().unwrap();
        let mut words = rest.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let position = LogPosition::from_u64(words.next().unwrap());
        let mut seen = Sequence { position, ..Sequence::default() };
        seen.last.iter_mut().zip(words).for_each(|(last, word)| *last = word);
        Some(Self { checkpoint: Checkpoint::from_bytes(*checkpoint), seen })
    }

    fn write(&self, file: &File) {
        let mut bytes = self.checkpoint.to_bytes().to_vec();
        bytes.extend(self.seen.position.as_u64().to_le_bytes());
        self.seen.last.iter().for_each(|last| bytes.extend(last.to_le_bytes()));
        file.write_all_at(&bytes, 0).unwrap();
    }
}

/// Goes on where the one of a process before had got to.
pub(crate) fn consume(shared: &Shared, _: u64) {
    let elsewhere = &shared.places.elsewhere;
    let (mut reader, mut seen) = (shared.log.reader(), Sequence::default());
    if let Some(progress) = Progress::read(elsewhere) {
        seen = progress.seen;
        match shared.log.reader_from_checkpoint(&progress.checkpoint) {
            Ok(resumed) => reader = resumed,
            Err(CheckpointError::Truncated { begin, .. }) => {
                seen.skip();
                reader.seek(begin);
            }
            Err(error) => panic!("{error}"),
        }
    }
    let path = Progress::path(elsewhere);
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    let mut read = 0u64;
    while !shared.stops() {
        if next_of(&mut reader, &mut seen) {
            read += 1;
            shared.count(Count::Consumed);
        }
        if read.is_multiple_of(64) {
            Progress { checkpoint: reader.checkpoint(), seen }.write(&file);
        }
    }
}
