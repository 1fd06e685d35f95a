//! What a key-value store has to offer to be compared.

use crate::data::Key;
use anyhow::Result;
use std::path::Path;

/// What a contender is told when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Every write is acknowledged after fsync; otherwise by the fastest mode that the contender's
    /// documentation recommends without it.
    pub durable: bool,
    /// What it may use for caches of its own, in bytes.
    pub cache: u64,
    /// For those that have to be told how large they may become.
    pub disk: u64,
    /// The size of values: some say to keep large ones apart.
    pub value: usize,
    /// The data is larger than memory.
    pub cold: bool,
}

/// What the contender promises in the mode that is measured.
pub struct About {
    pub kind: &'static str,
    /// The mode, in its own terms.
    pub mode: &'static str,
    /// What an acknowledged write survives without fsync, by its documentation: the death of the
    /// process, and of the power.
    pub killed: &'static str,
    pub power: &'static str,
    /// How it is made durable.
    pub durable: &'static str,
    /// Whether that is fsync; otherwise its durable rows are not compared.
    pub fsyncs: bool,
    /// What its reads check.
    pub reads: &'static str,
}

pub trait Engine: Sized + Sync {
    const ABOUT: About;
    /// Whether it has a call for many keys at once.
    const GET_MANY: bool = false;
    /// Whether it has batches (or transactions) that are there whole or not at all.
    const BATCH: bool = true;
    const SCAN: bool = true;
    /// Whether a store that was closed and opened can be written without harm.
    const REOPENS: bool = true;
    const MAX_VALUE: usize = crate::data::MAX_VALUE;

    type Session<'a>: Session
    where
        Self: 'a;

    fn open(dir: &Path, settings: &Settings) -> Result<Self>;

    /// One for each thread, made in it.
    fn session(&self) -> Result<Self::Session<'_>>;

    /// All pairs, in any order.
    fn scan(&self, each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let _ = each;
        anyhow::bail!("{}a scan", crate::NOT_OFFERED)
    }

    /// As its documentation says a program should.
    fn close(self) -> Result<()>;
}

pub trait Session {
    /// Puts one pair, and returns when it is acknowledged.
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()>;

    /// Shows the value to `read`; false if there is none.
    fn get(&mut self, key: &Key, read: impl FnOnce(&[u8])) -> Result<bool>;

    /// Puts all pairs at once.
    fn batch(&mut self, pairs: &[(Key, &[u8])]) -> Result<()> {
        pairs.iter().try_for_each(|(key, value)| self.put(key, value))
    }

    /// Shows every value that is there to `read`, with its place among the keys.
    fn get_many(&mut self, keys: &[Key], mut read: impl FnMut(usize, &[u8])) -> Result<()> {
        for (at, key) in keys.iter().enumerate() {
            self.get(key, |value| read(at, value))?;
        }
        Ok(())
    }
}
