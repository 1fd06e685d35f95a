use crate::data::Key;
use crate::engine::{About, Engine, Session, Settings};
use anyhow::Result;
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions};
use std::path::Path;

type Pairs = Database<Bytes, Bytes>;

pub struct Lmdb {
    env: Env,
    pairs: Pairs,
}

impl Engine for Lmdb {
    const ABOUT: About = About {
        kind: "B+ tree, mapped",
        mode: "`MDB_WRITEMAP`, `MDB_NOSYNC`, a transaction a write",
        killed: "every write",
        power: "may corrupt the database",
        durable: "the default: fsync in each commit",
        fsyncs: true,
        reads: "nothing",
    };
    const GET_MANY: bool = true;

    type Session<'a> = &'a Lmdb;

    #[allow(unsafe_code, reason = "how LMDB is opened")]
    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        let mut options = EnvOpenOptions::new();
        // The map is as large as the database may ever become; the file grows as it is used.
        options.map_size((settings.disk as usize).next_multiple_of(1 << 20)).max_readers(256);
        let mut flags = EnvFlags::empty();
        if !settings.durable {
            // "If the OS crashes, the database may be corrupted; it is fine if the application
            // crashes": its fastest mode that keeps what it acknowledged at kill -9.
            flags |= EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC;
        }
        if settings.cold {
            // "Useful when the database is larger than RAM and system RAM is full": reads of the
            // map are random, and read-ahead would evict what is needed.
            flags |= EnvFlags::NO_READ_AHEAD;
        }
        // SAFETY: this process is the only one that has the files open.
        let env = unsafe { options.flags(flags).open(dir)? };
        let mut transaction = env.write_txn()?;
        let pairs = env.create_database(&mut transaction, None)?;
        transaction.commit()?;
        Ok(Self { env, pairs })
    }

    fn session(&self) -> Result<&Self> {
        Ok(self)
    }

    fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let transaction = self.env.read_txn()?;
        for pair in self.pairs.iter(&transaction)? {
            let (key, value) = pair?;
            each(key, value);
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}

impl Session for &Lmdb {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        self.batch(&[(*key, value)])
    }

    fn get(&mut self, key: &Key, read: impl FnOnce(&[u8])) -> Result<bool> {
        // A transaction for each, so that each sees what was written before it.
        let transaction = self.env.read_txn()?;
        Ok(self.pairs.get(&transaction, key)?.map(read).is_some())
    }

    fn batch(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        for (key, value) in pairs {
            self.pairs.put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }

    fn get_many(&mut self, keys: &[Key], mut read: impl FnMut(usize, &[u8])) -> Result<()> {
        let transaction = self.env.read_txn()?;
        for (at, key) in keys.iter().enumerate() {
            if let Some(value) = self.pairs.get(&transaction, key)? {
                read(at, value);
            }
        }
        Ok(())
    }
}
