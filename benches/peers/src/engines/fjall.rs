use crate::data::Key;
use crate::engine::{About, Engine, Session, Settings};
use anyhow::Result;
use fjall::config::CompressionPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use std::path::Path;

pub struct Fjall {
    db: Database,
    pairs: Keyspace,
    durable: bool,
}

impl Engine for Fjall {
    const ABOUT: About = About {
        kind: "LSM tree",
        mode: "the journal is written, not synced: the default",
        killed: "every write",
        power: "a prefix of the journal",
        durable: "`persist(PersistMode::SyncAll)` after each write",
        fsyncs: true,
        reads: "a checksum of each block, when it is read into the cache",
    };

    type Session<'a> = &'a Fjall;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        // "20 to 25% of the memory, or more if the data fits": what all contenders are given.
        let db = Database::builder(dir).cache_size(settings.cache).open()?;
        let value = settings.value;
        let pairs = db.keyspace("pairs", || {
            // Values are random: compression would only take time.
            let options = KeyspaceCreateOptions::default()
                .data_block_compression_policy(CompressionPolicy::disabled());
            // For "large values" by its documentation, where its own threshold is 1 KiB.
            options.with_kv_separation((value > 1024).then(KvSeparationOptions::default))
        })?;
        Ok(Self { db, pairs, durable: settings.durable })
    }

    fn session(&self) -> Result<&Self> {
        Ok(self)
    }

    fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        for pair in self.pairs.iter() {
            let (key, value) = pair.into_inner()?;
            each(&key, &value);
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        self.db.persist(PersistMode::SyncAll)?;
        Ok(())
    }
}

impl Session for &Fjall {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        self.pairs.insert(key, value)?;
        if self.durable {
            self.db.persist(PersistMode::SyncAll)?;
        }
        Ok(())
    }

    fn get(&mut self, key: &Key, read: impl FnOnce(&[u8])) -> Result<bool> {
        Ok(self.pairs.get(key)?.map(|value| read(&value)).is_some())
    }

    fn batch(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = self.db.batch().durability(self.durable.then_some(PersistMode::SyncAll));
        for (key, value) in pairs {
            batch.insert(&self.pairs, key, *value);
        }
        Ok(batch.commit()?)
    }
}
