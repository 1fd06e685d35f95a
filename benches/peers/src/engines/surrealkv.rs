use crate::data::Key;
use crate::engine::{About, Engine, Session, Settings};
use ::surrealkv::{Durability, Error, LSMIterator, Mode, Tree, TreeBuilder};
use anyhow::Result;
use std::path::Path;
use tokio::runtime::Runtime;

pub struct Surreal {
    tree: Tree,
    durable: bool,
    runtime: Runtime,
}

impl Engine for Surreal {
    const ABOUT: About = About {
        kind: "LSM tree",
        mode: "`Durability::Eventual`, the default, a transaction a write",
        killed: "every write (it is in the page cache)",
        power: "a prefix of the WAL",
        durable: "`Durability::Immediate`",
        fsyncs: true,
        reads: "a CRC-32 of each block, when it is read into the cache",
    };
    const GET_MANY: bool = true;

    type Session<'a> = &'a Surreal;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let entered = runtime.enter();
        // Values are random: compression would only take time. The value log is for values "larger
        // than 1 KiB".
        let tree = TreeBuilder::new()
            .with_path(dir.into())
            .with_block_cache_capacity(settings.cache)
            .without_compression()
            .with_enable_vlog(settings.value > 1024)
            .build()?;
        drop(entered);
        Ok(Self { tree, durable: settings.durable, runtime })
    }

    fn session(&self) -> Result<&Self> {
        Ok(self)
    }

    fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let transaction = self.tree.begin_with_mode(Mode::ReadOnly)?;
        let mut at = transaction.iter()?;
        at.seek_first()?;
        while at.valid() {
            each(at.key().user_key(), &at.value_ref()?);
            at.next()?;
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.runtime.block_on(self.tree.close())?)
    }
}

impl Session for &Surreal {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        self.batch(&[(*key, value)])
    }

    fn get(&mut self, key: &Key, read: impl FnOnce(&[u8])) -> Result<bool> {
        let transaction = self.tree.begin_with_mode(Mode::ReadOnly)?;
        Ok(transaction.get(key.as_slice())?.map(|value| read(&value)).is_some())
    }

    fn batch(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        loop {
            let mut transaction = self.tree.begin_with_mode(Mode::WriteOnly)?;
            if self.durable {
                transaction.set_durability(Durability::Immediate);
            }
            for (key, value) in pairs {
                transaction.set(key.as_slice(), *value)?;
            }
            match self.runtime.block_on(transaction.commit()) {
                // Optimistic: whoever lost against another tries again.
                Err(Error::TransactionWriteConflict | Error::TransactionRetry) => {}
                committed => return Ok(committed?),
            }
        }
    }

    fn get_many(&mut self, keys: &[Key], mut read: impl FnMut(usize, &[u8])) -> Result<()> {
        let transaction = self.tree.begin_with_mode(Mode::ReadOnly)?;
        for (at, key) in keys.iter().enumerate() {
            if let Some(value) = transaction.get(key.as_slice())? {
                read(at, &value);
            }
        }
        Ok(())
    }
}
