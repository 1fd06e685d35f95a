use crate::engine::{About, Settings};
use crate::log::{Log, Writer};
use ::raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use anyhow::Result;
use protobuf::well_known_types::BytesValue;
use std::path::Path;

pub struct RaftEngine {
    engine: Engine,
    durable: bool,
}

/// Entries of raft-engine are messages with an index; ours have it in their first bytes.
pub struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let number: [u8; 8] = entry.value[..8].try_into().expect("longer than that");
        1 + (u64::from_le_bytes(number) & 0xffff_ffff)
    }
}

pub struct Of<'a> {
    of: &'a RaftEngine,
    group: u64,
}

impl Log for RaftEngine {
    const ABOUT: About = About {
        kind: "a log of many groups, with an index in memory",
        mode: "`write(batch, sync = false)`, a group a thread",
        killed: "every entry (it is in the page cache)",
        power: "some of the log",
        durable: "`write(batch, sync = true)`",
        fsyncs: true,
        reads: "a checksum of each batch",
    };

    type Writer<'a> = Of<'a>;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        let mut config = Config { dir: dir.to_str().expect("UTF-8").into(), ..Config::default() };
        // Entries are random: compression would only take time.
        config.batch_compression_threshold = ReadableSize(0);
        Ok(Self { engine: Engine::open(config)?, durable: settings.durable })
    }

    fn writer(&self, thread: usize) -> Result<Of<'_>> {
        Ok(Of { of: self, group: thread as u64 + 1 })
    }

    fn scan(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        for group in self.engine.raft_groups() {
            let first = self.engine.first_index(group).unwrap_or(1);
            let end = self.engine.last_index(group).map_or(0, |last| last + 1);
            let mut entries = Vec::new();
            for from in (first..end).step_by(1000) {
                let to = end.min(from + 1000);
                self.engine.fetch_entries_to::<Indexed>(group, from, to, None, &mut entries)?;
                entries.drain(..).for_each(|entry| each(&entry.value));
            }
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.engine.sync()?)
    }
}

impl Writer for Of<'_> {
    fn append(&mut self, entry: &[u8]) -> Result<()> {
        self.batch(&[entry])
    }

    fn batch(&mut self, entries: &[&[u8]]) -> Result<()> {
        let message = |entry: &&[u8]| BytesValue { value: entry.to_vec(), ..BytesValue::default() };
        let messages: Vec<_> = entries.iter().map(message).collect();
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Indexed>(self.group, &messages)?;
        self.of.engine.write(&mut batch, self.of.durable)?;
        Ok(())
    }
}
