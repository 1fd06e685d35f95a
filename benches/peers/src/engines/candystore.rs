use crate::data::Key;
use crate::engine::{About, Engine, Session, Settings};
use ::candystore::{CandyStore, Config};
use anyhow::Result;
use std::path::Path;

pub struct Candy {
    store: CandyStore,
    durable: bool,
}

impl Engine for Candy {
    const ABOUT: About = About {
        kind: "log and mapped hash index",
        mode: "a checkpoint every 5 s or 128 KB, the default",
        killed: "every write (it is in the page cache)",
        power: "what was there at the last checkpoint",
        durable: "`flush()` after each write",
        fsyncs: true,
        reads: "a checksum of each entry",
    };
    // Keys are replaced one by one.
    const BATCH: bool = false;
    const MAX_VALUE: usize = ::candystore::MAX_VALUE_LEN;

    type Session<'a> = &'a Candy;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        let store = CandyStore::open(dir, Config::default())?;
        Ok(Self { store, durable: settings.durable })
    }

    fn session(&self) -> Result<&Self> {
        Ok(self)
    }

    fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        for pair in self.store.iter_items() {
            let (key, value) = pair?;
            each(&key, &value);
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        self.store.checkpoint()?;
        Ok(())
    }
}

impl Session for &Candy {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        self.store.set(key, value)?;
        if self.durable {
            self.store.flush()?;
        }
        Ok(())
    }

    fn get(&mut self, key: &Key, read: impl FnOnce(&[u8])) -> Result<bool> {
        Ok(self.store.get(key)?.map(|value| read(&value)).is_some())
    }
}
