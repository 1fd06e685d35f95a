use crate::data::Key;
use crate::engine::{About, Engine, Session, Settings};
use anyhow::Result;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;

const PAIRS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("pairs");

pub struct Redb {
    db: Database,
    durable: bool,
}

impl Engine for Redb {
    const ABOUT: About = About {
        kind: "B tree, copy on write",
        mode: "`Durability::None`, a transaction a write",
        killed: "what was there at the last durable commit",
        power: "what was there at the last durable commit",
        durable: "`Durability::Immediate`, the default",
        fsyncs: true,
        reads: "nothing (checksums are for recovery)",
    };
    const GET_MANY: bool = true;

    type Session<'a> = &'a Redb;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let db =
            Database::builder().set_cache_size(settings.cache as usize).create(dir.join("redb"))?;
        let transaction = db.begin_write()?;
        transaction.open_table(PAIRS)?;
        transaction.commit()?;
        Ok(Self { db, durable: settings.durable })
    }

    fn session(&self) -> Result<&Self> {
        Ok(self)
    }

    fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        for pair in self.db.begin_read()?.open_table(PAIRS)?.iter()? {
            let (key, value) = pair?;
            each(key.value(), value.value());
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.db.close()?)
    }
}

impl Session for &Redb {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        self.batch(&[(*key, value)])
    }

    fn get(&mut self, key: &Key, read: impl FnOnce(&[u8])) -> Result<bool> {
        // A transaction for each, so that each sees what was written before it.
        let table = self.db.begin_read()?.open_table(PAIRS)?;
        Ok(table.get(key.as_slice())?.map(|value| read(value.value())).is_some())
    }

    fn batch(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        let mut transaction = self.db.begin_write()?;
        let durability = if self.durable { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(PAIRS)?;
            for (key, value) in pairs {
                table.insert(key.as_slice(), value)?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn get_many(&mut self, keys: &[Key], mut read: impl FnMut(usize, &[u8])) -> Result<()> {
        let table = self.db.begin_read()?.open_table(PAIRS)?;
        for (at, key) in keys.iter().enumerate() {
            if let Some(value) = table.get(key.as_slice())? {
                read(at, value.value());
            }
        }
        Ok(())
    }
}
