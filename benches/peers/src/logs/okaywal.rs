use crate::engine::{About, Settings};
use crate::log::{Log, Writer};
use ::okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};
use anyhow::Result;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub struct OkayWal {
    log: WriteAheadLog,
    recovered: Recovered,
}

/// Its entries are read when it is opened, and only then.
#[derive(Clone, Debug, Default)]
struct Recovered(Arc<Mutex<Vec<Vec<u8>>>>);

impl LogManager for Recovered {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        if let Some(chunks) = entry.read_all_chunks()? {
            self.0.lock().expect("not poisoned").extend(chunks);
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _: EntryId,
        _: &mut SegmentReader,
        _: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}

impl Log for OkayWal {
    const ABOUT: About = About {
        kind: "a write-ahead log",
        mode: "durable only",
        killed: "every entry",
        power: "every entry",
        durable: "always: fsync in each `commit()`",
        fsyncs: true,
        reads: "CRC-32 of each chunk, when it is opened",
    };
    const BUFFERED: bool = false;
    // A log is read once, when it is opened.
    const SCAN: bool = false;

    type Writer<'a> = &'a WriteAheadLog;

    fn open(dir: &Path, _: &Settings) -> Result<Self> {
        let recovered = Recovered::default();
        // What is checkpointed is no longer in the log: it is to happen after the measurement.
        // "Preallocating is critical for performance".
        let log = Configuration::default_for(dir)
            .preallocate_bytes(64 << 20)
            .checkpoint_after_bytes(1 << 40)
            .open(recovered.clone())?;
        Ok(Self { log, recovered })
    }

    fn writer(&self, _: usize) -> Result<&WriteAheadLog> {
        Ok(&self.log)
    }

    fn scan(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        self.recovered.0.lock().expect("not poisoned").iter().for_each(|entry| each(entry));
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.log.shutdown()?)
    }
}

impl Writer for &WriteAheadLog {
    fn append(&mut self, entry: &[u8]) -> Result<()> {
        self.batch(&[entry])
    }

    fn batch(&mut self, entries: &[&[u8]]) -> Result<()> {
        let mut writer = self.begin_entry()?;
        for entry in entries {
            writer.write_chunk(entry)?;
        }
        writer.commit()?;
        Ok(())
    }
}
