use crate::data::Key;
use crate::engine::{About, Engine, Session, Settings};
use anyhow::Result;
use std::path::Path;
use tailcask::{Batch, Durability, Store};

pub struct Tailcask(Store);

impl Engine for Tailcask {
    const ABOUT: About = About {
        kind: "log and hash index",
        mode: "`Durability::Buffered`, the default",
        killed: "every write",
        power: "a prefix of the log",
        durable: "`Durability::Synced`",
        fsyncs: true,
        reads: "CRC-32 of each value",
    };
    const GET_MANY: bool = true;

    type Session<'a> = &'a Store;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        let durability = if settings.durable { Durability::Synced } else { Durability::Buffered };
        // All else as it comes: merges run in the background, checksums are verified.
        Ok(Self(Store::options().durability(durability).open(dir)?))
    }

    fn session(&self) -> Result<&Store> {
        Ok(&self.0)
    }

    fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        for pair in self.0.iter() {
            let pair = pair?;
            each(pair.key(), pair.value());
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.0.close()?)
    }
}

impl Session for &Store {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        Store::put(self, key, value)?;
        Ok(())
    }

    fn get(&mut self, key: &Key, read: impl FnOnce(&[u8])) -> Result<bool> {
        Ok(Store::get(self, key)?.map(|value| read(&value)).is_some())
    }

    fn batch(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = Batch::new();
        for (key, value) in pairs {
            batch.put(key, value);
        }
        self.write(&batch)?;
        Ok(())
    }

    fn get_many(&mut self, keys: &[Key], mut read: impl FnMut(usize, &[u8])) -> Result<()> {
        for (at, value) in Store::get_many(self, keys)?.iter().enumerate() {
            if let Some(value) = value {
                read(at, value);
            }
        }
        Ok(())
    }
}
