use crate::data::Key;
use crate::engine::{About, Engine, Session, Settings};
use ::rustcask::Rustcask;
use anyhow::{Result, anyhow};
use std::path::Path;
use std::sync::Mutex;

pub struct RustCask(Mutex<Rustcask>);

impl Engine for RustCask {
    const ABOUT: About = About {
        kind: "log and hash index",
        mode: "no sync, the default",
        killed: "every write (it is in the page cache)",
        power: "some of the log",
        durable: "`set_sync_mode(true)`",
        fsyncs: true,
        reads: "that the key is the one asked for",
    };
    const BATCH: bool = false;
    const SCAN: bool = false;
    // It writes to the beginning of the newest data file, over what is there.
    const REOPENS: bool = false;

    type Session<'a> = Rustcask;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let store = Rustcask::builder()
            .set_sync_mode(settings.durable)
            .open(dir)
            .map_err(|error| anyhow!("{error}"))?;
        Ok(Self(Mutex::new(store)))
    }

    fn session(&self) -> Result<Rustcask> {
        // Each thread has its own readers.
        Ok(self.0.lock().expect("not poisoned").clone())
    }

    fn close(self) -> Result<()> {
        Ok(())
    }
}

impl Session for Rustcask {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        self.set(key.to_vec(), value.to_vec()).map_err(|error| anyhow!("{error}"))
    }

    fn get(&mut self, key: &Key, read: impl FnOnce(&[u8])) -> Result<bool> {
        let key = key.to_vec();
        let value = Rustcask::get(self, &key).map_err(|error| anyhow!("{error}"))?;
        Ok(value.map(|value| read(&value)).is_some())
    }
}
