//! A log's entries as a `Stream` (feature "stream"): as a reader follows them, for async callers on any
//! executor.
//!
//! A task that has read everything registers its waker, and then looks once more: so whatever is finished
//! after that look wakes it (`log::waiters`). The wakers of a log that is open for writing here are called by
//! the threads that append. A log that another process writes cannot wake anyone: there a thread of the
//! stream's own wakes the task now and then to look.

use super::entry::Entry;
use super::follower::{POLL, Source};
use super::maintenance::join;
use super::reader::LogReader;
use crate::checkpoint::Checkpoint;
use crate::error::ReadError;
use crate::position::LogPosition;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, lock};
use futures_core::Stream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Entries that one task is given before others get a turn.
const IN_A_ROW: u32 = 128;

/// The entries of a log from a position on, as a [`Stream`] that follows it: it waits at the end, and never
/// ends by itself. Made by [`CommitLog::stream_from`](crate::CommitLog::stream_from) and
/// [`stream_from_checkpoint`](crate::CommitLog::stream_from_checkpoint).
///
/// An entry that is there is returned at once. A task that falls behind is given at most 128 entries
/// before others get a turn. Dropping the stream cancels it: nothing of it stays registered.
///
/// An error is its last item but for `None`; [`ReadError::Closed`] says that the log was closed.
#[derive(Debug)]
#[must_use = "streams do nothing unless they are polled"]
pub struct EntryStream {
    reader: LogReader<'static>,
    /// By this the log knows the task, while it waits.
    ticket: u64,
    /// Of a log that another process writes.
    ticker: Option<Ticker>,
    in_a_row: u32,
    has_failed: bool,
}

impl EntryStream {
    pub(crate) const fn new(reader: LogReader<'static>) -> Self {
        Self { reader, ticket: 0, ticker: None, in_a_row: 0, has_failed: false }
    }

    /// The position of the next entry, which may not exist yet. To store how far the stream has got, use
    /// [`checkpoint`](Self::checkpoint).
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        self.reader.position()
    }

    /// How far this stream has got: behind the entry that it yielded last.
    /// [`stream_from_checkpoint`](crate::CommitLog::stream_from_checkpoint) goes on from there.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        self.reader.checkpoint()
    }

    fn next_entry(&mut self) -> Result<Option<Entry<'static>>, ReadError> {
        Ok(self.reader.next_entry()?.map(Entry::into_owned))
    }

    /// The next entry. If there is none, the task is woken when there may be one.
    fn next_or_register(&mut self, waker: &Waker) -> Result<Option<Entry<'static>>, ReadError> {
        if let Some(entry) = self.next_entry()? {
            return Ok(Some(entry));
        }
        match self.reader.source() {
            Source::Writer(writer) => {
                writer.register_task(&mut self.ticket, waker);
                self.next_entry()
            }
            Source::Follower(_) => {
                let ticker = match self.ticker.take() {
                    Some(ticker) => ticker,
                    None => Ticker::start()
                        .map_err(|error| ReadError::Io { source: Arc::new(error) })?,
                };
                self.ticker.insert(ticker).wake_soon(waker, self.in_a_row > 0);
                Ok(None)
            }
        }
    }

    /// Nothing wakes the task any more.
    fn forget(&mut self) {
        if let Source::Writer(writer) = self.reader.source() {
            writer.forget_task(&mut self.ticket);
        }
    }
}

impl Stream for EntryStream {
    type Item = Result<Entry<'static>, ReadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.has_failed {
            return Poll::Ready(None);
        }
        if this.in_a_row == IN_A_ROW {
            this.in_a_row = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = this.next_or_register(context.waker());
        if let Ok(None) = next {
            this.in_a_row = 0;
            return Poll::Pending;
        }
        this.forget();
        this.in_a_row += 1;
        this.has_failed = next.is_err();
        Poll::Ready(next.transpose())
    }
}

impl Drop for EntryStream {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Wakes a task now and then, to look what another process has written: more and more rarely while
/// there is nothing.
#[derive(Debug)]
struct Ticker {
    state: Arc<Mutex<Tick>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Tick {
    waker: Option<Waker>,
    pause: Duration,
    stop: bool,
    /// Whether the thread calls a waker now.
    wakes: bool,
}

impl Ticker {
    fn start() -> std::io::Result<Self> {
        let state = Arc::new(Mutex::new(Tick {
            waker: None,
            pause: POLL.start,
            stop: false,
            wakes: false,
        }));
        let shared = state.clone();
        let thread = thread::Builder::new().name("tailcask-stream".into());
        let thread = thread.spawn(move || tick(&shared))?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// Wakes a task after a pause: a short one, if it has read something since the last time.
    fn wake_soon(&self, waker: &Waker, has_read: bool) {
        // Cloned and dropped without the lock: a waker runs code of the async runtime.
        let mut waker = Some(waker.clone());
        {
            let mut state = lock(&self.state);
            std::mem::swap(&mut state.waker, &mut waker);
            if has_read {
                state.pause = POLL.start;
            }
        }
        drop(waker);
        self.thread.iter().for_each(|thread| thread.thread().unpark());
    }
}

fn tick(state: &Mutex<Tick>) {
    loop {
        let pause = {
            let state = lock(state);
            if state.stop {
                return;
            }
            state.waker.as_ref().map(|_| state.pause)
        };
        let Some(pause) = pause else {
            thread::park();
            continue;
        };
        thread::park_timeout(pause);
        let waker = {
            let mut state = lock(state);
            state.pause = (state.pause * 2).min(POLL.end);
            state.wakes = true;
            state.waker.take()
        };
        // If it panics, the hook has reported it, and the stream is polled by others or not at all.
        let _ = catch_unwind(AssertUnwindSafe(|| waker.map(Waker::wake)));
        lock(state).wakes = false;
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        let (waker, wakes) = {
            let mut state = lock(&self.state);
            state.stop = true;
            (state.waker.take(), state.wakes)
        };
        drop(waker);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A waker may wait for a lock that the caller has, of its runtime. Behind it the thread ends.
            if !wakes {
                join(thread);
            }
        }
    }
}
