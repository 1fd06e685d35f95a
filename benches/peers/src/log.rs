//! What a log has to offer to be compared.

use crate::engine::{About, Settings};
use anyhow::Result;
use std::path::Path;

pub trait Log: Sized + Sync {
    const ABOUT: About;
    const BATCH: bool = true;
    /// Whether it can be written without waiting for fsync.
    const BUFFERED: bool = true;
    const SCAN: bool = true;

    type Writer<'a>: Writer
    where
        Self: 'a;

    fn open(dir: &Path, settings: &Settings) -> Result<Self>;

    /// One for each thread, which says which it is.
    fn writer(&self, thread: usize) -> Result<Self::Writer<'_>>;

    /// All entries of all threads; those of one thread in its order.
    fn scan(&self, each: impl FnMut(&[u8])) -> Result<()> {
        let _ = each;
        anyhow::bail!("{}a scan", crate::NOT_OFFERED)
    }

    fn close(self) -> Result<()>;
}

pub trait Writer {
    fn append(&mut self, entry: &[u8]) -> Result<()>;

    fn batch(&mut self, entries: &[&[u8]]) -> Result<()> {
        entries.iter().try_for_each(|entry| self.append(entry))
    }
}
