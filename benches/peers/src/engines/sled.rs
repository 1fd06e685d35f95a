use crate::data::Key;
use crate::engine::{About, Engine, Session, Settings};
use anyhow::Result;
use std::path::Path;

pub struct Sled {
    db: ::sled::Db,
    durable: bool,
}

impl Engine for Sled {
    const ABOUT: About = About {
        kind: "Bw tree on a log",
        mode: "flushed every 500 ms, the default",
        killed: "what was flushed, every 500 ms",
        power: "what was flushed, every 500 ms",
        durable: "`flush()` after each write, which is sync_file_range(2) on Linux",
        fsyncs: false,
        reads: "a CRC-32 of each page, when it is read into the cache",
    };

    type Session<'a> = &'a Sled;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        let db = ::sled::Config::new()
            .path(dir)
            .cache_capacity(settings.cache)
            // Over `LowSpace`, the other mode.
            .mode(::sled::Mode::HighThroughput)
            .open()?;
        Ok(Self { db, durable: settings.durable })
    }

    fn session(&self) -> Result<&Self> {
        Ok(self)
    }

    fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        for pair in self.db.iter() {
            let (key, value) = pair?;
            each(&key, &value);
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        self.db.flush()?;
        Ok(())
    }
}

impl Session for &Sled {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        self.db.insert(key, value)?;
        if self.durable {
            self.db.flush()?;
        }
        Ok(())
    }

    fn get(&mut self, key: &Key, read: impl FnOnce(&[u8])) -> Result<bool> {
        Ok(self.db.get(key)?.map(|value| read(&value)).is_some())
    }

    fn batch(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = ::sled::Batch::default();
        for (key, value) in pairs {
            batch.insert(key, *value);
        }
        self.db.apply_batch(batch)?;
        if self.durable {
            self.db.flush()?;
        }
        Ok(())
    }
}
