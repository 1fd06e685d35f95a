use crate::engine::{About, Settings};
use crate::log::{Log, Writer};
use anyhow::Result;
use std::path::Path;
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

pub struct WalrusLog(Walrus);

pub struct Of<'a> {
    of: &'a Walrus,
    topic: String,
}

impl Log for WalrusLog {
    const ABOUT: About = About {
        kind: "a log of many topics",
        mode: "fsync every 200 ms, the default; a topic a thread",
        killed: "every entry (it is in the page cache)",
        power: "what was there 200 ms before",
        durable: "`FsyncSchedule::SyncEach`",
        fsyncs: true,
        reads: "FNV-1a of each entry",
    };

    type Writer<'a> = Of<'a>;

    // The directory is the one in WALRUS_DATA_DIR, which whoever starts this process has set.
    fn open(_: &Path, settings: &Settings) -> Result<Self> {
        let schedule = if settings.durable {
            FsyncSchedule::SyncEach
        } else {
            FsyncSchedule::Milliseconds(200)
        };
        // Reads here are all of it at once: where they stopped need not be kept for each.
        let consistency = ReadConsistency::AtLeastOnce { persist_every: 1_000_000 };
        Ok(Self(Walrus::with_consistency_and_schedule(consistency, schedule)?))
    }

    fn writer(&self, thread: usize) -> Result<Of<'_>> {
        Ok(Of { of: &self.0, topic: format!("thread-{thread}") })
    }

    fn scan(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        for thread in 0..64 {
            let topic = format!("thread-{thread}");
            loop {
                let entries = self.0.batch_read_for_topic(&topic, 1 << 20, true)?;
                if entries.is_empty() {
                    break;
                }
                entries.iter().for_each(|entry| each(&entry.data));
            }
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(())
    }
}

impl Writer for Of<'_> {
    fn append(&mut self, entry: &[u8]) -> Result<()> {
        Ok(self.of.append_for_topic(&self.topic, entry)?)
    }

    fn batch(&mut self, entries: &[&[u8]]) -> Result<()> {
        Ok(self.of.batch_append_for_topic(&self.topic, entries)?)
    }
}
