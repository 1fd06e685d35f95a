//! What a program does that has no log: one write(2) an entry to a file opened for appending.

use crate::engine::{About, Settings};
use crate::log::{Log, Writer};
use anyhow::Result;
use std::fs::OpenOptions;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

pub struct File {
    file: std::fs::File,
    path: PathBuf,
    durable: bool,
}

pub struct Of<'a> {
    of: &'a File,
    buffer: Vec<u8>,
}

impl Log for File {
    const ABOUT: About = About {
        kind: "a file",
        mode: "a write(2) an entry, to a file with O_APPEND",
        killed: "every entry",
        power: "what the kernel has written back",
        durable: "fdatasync(2) after each",
        fsyncs: true,
        reads: "nothing",
    };

    type Writer<'a> = Of<'a>;

    fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("log");
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        Ok(Self { file, path, durable: settings.durable })
    }

    fn writer(&self, _: usize) -> Result<Of<'_>> {
        Ok(Of { of: self, buffer: Vec::new() })
    }

    fn scan(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut file = BufReader::with_capacity(1 << 20, std::fs::File::open(&self.path)?);
        let (mut len, mut entry) = ([0; 4], Vec::new());
        while file.read_exact(&mut len).is_ok() {
            entry.resize(u32::from_le_bytes(len) as usize, 0);
            if file.read_exact(&mut entry).is_err() {
                break;
            }
            each(&entry);
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.file.sync_all()?)
    }
}

impl Of<'_> {
    fn write(&mut self) -> Result<()> {
        // One call, so that what two threads write does not mix.
        (&self.of.file).write_all(&self.buffer)?;
        self.buffer.clear();
        if self.of.durable {
            self.of.file.sync_data()?;
        }
        Ok(())
    }

    fn push(&mut self, entry: &[u8]) {
        self.buffer.extend_from_slice(&(entry.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(entry);
    }
}

impl Writer for Of<'_> {
    fn append(&mut self, entry: &[u8]) -> Result<()> {
        self.push(entry);
        self.write()
    }

    fn batch(&mut self, entries: &[&[u8]]) -> Result<()> {
        entries.iter().for_each(|entry| self.push(entry));
        self.write()
    }
}
