use crate::engine::{About, Settings};
use crate::log::{Log, Writer};
use ::commitlog::message::{MessageBuf, MessageSet};
use ::commitlog::{CommitLog, LogOptions, ReadLimit};
use anyhow::{Result, anyhow};
use std::path::Path;
use std::sync::Mutex;

pub struct Commitlog {
    // It is written through `&mut`.
    log: Mutex<CommitLog>,
    durable: bool,
}

impl Log for Commitlog {
    const ABOUT: About = About {
        kind: "segment files with mapped indices",
        mode: "written, not flushed; behind a mutex",
        killed: "every entry (it is in the page cache)",
        power: "some of the log",
        durable: "`flush()` after each write, which syncs its index only",
        fsyncs: false,
        reads: "nothing, unless asked to",
    };

    type Writer<'a> = &'a Commitlog;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        let mut options = LogOptions::new(dir);
        options.message_max_bytes(2 << 20);
        Ok(Self { log: Mutex::new(CommitLog::new(options)?), durable: settings.durable })
    }

    fn writer(&self, _: usize) -> Result<&Self> {
        Ok(self)
    }

    fn scan(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let log = self.log.lock().expect("not poisoned");
        let mut next = 0;
        loop {
            let messages = log.read(next, ReadLimit::max_bytes(1 << 20))?;
            let before = next;
            for message in messages.iter() {
                each(message.payload());
                next = message.offset() + 1;
            }
            if next == before {
                return Ok(());
            }
        }
    }

    fn close(self) -> Result<()> {
        Ok(self.log.into_inner().expect("not poisoned").flush()?)
    }
}

impl Writer for &Commitlog {
    fn append(&mut self, entry: &[u8]) -> Result<()> {
        let mut log = self.log.lock().expect("not poisoned");
        log.append_msg(entry)?;
        if self.durable {
            log.flush()?;
        }
        Ok(())
    }

    fn batch(&mut self, entries: &[&[u8]]) -> Result<()> {
        let mut messages = MessageBuf::default();
        for entry in entries {
            messages.push(entry).map_err(|error| anyhow!("{error:?}"))?;
        }
        let mut log = self.log.lock().expect("not poisoned");
        log.append(&mut messages)?;
        if self.durable {
            log.flush()?;
        }
        Ok(())
    }
}
