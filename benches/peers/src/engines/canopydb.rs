use crate::data::Key;
use crate::engine::{About, Engine, Session, Settings};
use ::canopydb::{Database, DbOptions, EnvOptions};
use anyhow::Result;
use std::path::Path;

const PAIRS: &[u8] = b"pairs";

pub struct Canopy {
    db: Database,
    durable: bool,
}

impl Engine for Canopy {
    const ABOUT: About = About {
        kind: "B+ tree with a WAL",
        mode: "WAL, no fsync in commits, the default; a transaction a write",
        killed: "every write (it is in the page cache)",
        power: "a prefix of the WAL",
        durable: "`commit_with(true)`",
        fsyncs: true,
        reads: "nothing (page checksums are off by default)",
    };
    const GET_MANY: bool = true;

    type Session<'a> = &'a Canopy;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        let mut options = EnvOptions::new(dir);
        options.page_cache_size = settings.cache as usize;
        let db = Database::with_options(options, DbOptions::default())?;
        let transaction = db.begin_write()?;
        transaction.get_or_create_tree(PAIRS)?;
        transaction.commit()?;
        Ok(Self { db, durable: settings.durable })
    }

    fn session(&self) -> Result<&Self> {
        Ok(self)
    }

    fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let transaction = self.db.begin_read()?;
        let tree = transaction.get_tree(PAIRS)?.expect("made when it was opened");
        for pair in tree.iter()? {
            let (key, value) = pair?;
            each(&key, &value);
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        // "Lowers the startup time", for those who "perform it manually".
        self.db.checkpoint()?;
        Ok(())
    }
}

impl Session for &Canopy {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        self.batch(&[(*key, value)])
    }

    fn get(&mut self, key: &Key, read: impl FnOnce(&[u8])) -> Result<bool> {
        let transaction = self.db.begin_read()?;
        let tree = transaction.get_tree(PAIRS)?.expect("made when it was opened");
        Ok(tree.get(key)?.map(|value| read(&value)).is_some())
    }

    fn batch(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        // Exclusive: concurrent transactions "have more individual overhead", and are for those
        // that do other work in between.
        let transaction = self.db.begin_write()?;
        {
            let mut tree = transaction.get_or_create_tree(PAIRS)?;
            for (key, value) in pairs {
                tree.insert(key, value)?;
            }
        }
        transaction.commit_with(self.durable)?;
        Ok(())
    }

    fn get_many(&mut self, keys: &[Key], mut read: impl FnMut(usize, &[u8])) -> Result<()> {
        let transaction = self.db.begin_read()?;
        let tree = transaction.get_tree(PAIRS)?.expect("made when it was opened");
        for (at, key) in keys.iter().enumerate() {
            if let Some(value) = tree.get(key)? {
                read(at, &value);
            }
        }
        Ok(())
    }
}
