use crate::engine::{About, Settings};
use crate::log::{Log, Writer};
use anyhow::Result;
use std::path::Path;
use tailcask::{CommitLog, Durability};

pub struct Tailcask(CommitLog);

impl Log for Tailcask {
    const ABOUT: About = About {
        kind: "mapped segments, lock-free",
        mode: "`Durability::Buffered`, the default",
        killed: "every entry",
        power: "a prefix of the log",
        durable: "`Durability::Synced`",
        fsyncs: true,
        reads: "CRC-32 of each entry",
    };

    type Writer<'a> = &'a CommitLog;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        let durability = if settings.durable { Durability::Synced } else { Durability::Buffered };
        Ok(Self(CommitLog::options().durability(durability).open(dir)?))
    }

    fn writer(&self, _: usize) -> Result<&CommitLog> {
        Ok(&self.0)
    }

    fn scan(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut reader = self.0.reader();
        while let Some(entry) = reader.next_entry()? {
            each(&entry);
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.0.close()?)
    }
}

impl Writer for &CommitLog {
    fn append(&mut self, entry: &[u8]) -> Result<()> {
        CommitLog::append(self, entry)?;
        Ok(())
    }

    fn batch(&mut self, entries: &[&[u8]]) -> Result<()> {
        self.append_batch(entries)?;
        Ok(())
    }
}
