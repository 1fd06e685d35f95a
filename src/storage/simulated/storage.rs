//! A simulated disk as the log sees it: the same steps, in the same order, as `storage/dir` takes with
//! files.

use super::content::Content;
use super::disk::SimulatedDisk;
use super::operation::DiskOperation;
use crate::error::OpenError;
use crate::format::header::FileIdentity;
use crate::format::names::{self, MANIFEST, SET_ASIDE, set_aside_path};
use crate::storage::map::Map;
use crate::storage::{Access, HeadEncoder, Opened, Pieces, SegmentFile, Storage, io_error};
use crate::sync::{Mutex, lock};
use std::io;
use std::sync::Arc;

/// A simulated disk and its directory, and whether the lock on it is held here.
#[derive(Debug)]
pub(crate) struct SimulatedStorage(pub(super) SimulatedDisk, Mutex<bool>);

impl Drop for SimulatedStorage {
    fn drop(&mut self) {
        self.unlock();
    }
}

/// How much room a new file needs on the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SpaceUse {
    /// Space that is not counted.
    Nothing,
    Space,
    /// Space, and a name that is not taken.
    Name,
}

/// The bytes of a file that is zero except for the pieces.
fn whole(len: u64, pieces: Pieces<'_>) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    for (at, piece) in pieces {
        bytes[*at as usize..][..piece.len()].copy_from_slice(piece);
    }
    bytes
}

impl SimulatedStorage {
    /// Takes the lock of the one writer.
    pub(crate) fn attach(disk: &SimulatedDisk) -> Result<Self, OpenError> {
        let read = disk.step(DiskOperation::ReadBootId, "");
        read.map_err(|e| io_error("read the boot id", e))?;
        if std::mem::replace(&mut disk.state().locked, true) {
            let process = Some(std::process::id());
            return Err(OpenError::Locked { path: "simulated disk".into(), process });
        }
        Ok(Self(disk.clone(), Mutex::new(true)))
    }

    fn step(&self, operation: DiskOperation, name: &str) -> io::Result<()> {
        self.0.step(operation, name)
    }

    fn opened(&self, name: &str, content: Arc<Content>, access: Access) -> io::Result<Opened> {
        let map = content.map(access == Access::Write)?;
        let identity = self.0.state().identity(&content);
        let file = SimulatedFile { disk: self.0.clone(), name: name.to_owned(), content };
        Ok(Opened { map, file: Box::new(file), identity })
    }

    /// A name among the files that were set aside which is free, or is one of this file: `name`, or
    /// `name` with a number.
    fn free_name(&self, from: &str, name: &str) -> String {
        let disk = self.0.state();
        let mut names = (0u32..).map(|number| match number {
            0 => name.to_owned(),
            number => format!("{name}.{number}"),
        });
        let is_free = |name: &String| {
            let there = disk.names.get(&set_aside_path(name));
            there.is_none_or(|there| disk.names.get(from).is_some_and(|c| Arc::ptr_eq(c, there)))
        };
        names.find(is_free).expect("no folder holds 2^32 files of one name")
    }

    fn sync_aside(&self) -> io::Result<()> {
        self.step(DiskOperation::SyncDirectory, SET_ASIDE)?;
        self.0.state().sync_names(true);
        Ok(())
    }

    /// Gives a file a name in the other folder.
    fn add_name(&self, from: &str, to: &str) -> io::Result<()> {
        self.step(DiskOperation::Rename, from)?;
        let mut disk = self.0.state();
        let content = disk.names.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
        disk.link(to, content);
        Ok(())
    }

    /// Makes a file under a temporary name, as `Directory::publish_with` does.
    fn publish_with(
        &self,
        name: &str,
        (len, head): (usize, HeadEncoder<'_>),
        takes: SpaceUse,
        durably: bool,
    ) -> io::Result<Arc<Content>> {
        let temporary = names::temporary_name(name);
        if self.0.state().names.contains_key(&temporary) {
            self.remove(&temporary)?;
        }
        self.step(DiskOperation::Create, &temporary)?;
        let content = {
            let mut disk = self.0.state();
            if takes != SpaceUse::Nothing {
                disk.check_room(len as u64)?;
            }
            let mut content = Content::new(disk.arena.as_ref(), len)?;
            let bytes = head(disk.identity(&content));
            content.memory.fill(0, &bytes)?;
            let content = Arc::new(content);
            disk.link(&temporary, content.clone());
            content
        };
        let named = (|| {
            if durably {
                self.step(DiskOperation::SyncNew, &temporary)?;
                self.0.state().sync(&content, 0, len);
            }
            self.step(DiskOperation::Rename, name)?;
            let mut disk = self.0.state();
            if takes == SpaceUse::Name && disk.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            disk.rename(&temporary, name);
            Ok(())
        })();
        if let Err(error) = named {
            let _ = self.remove(&temporary);
            return Err(error);
        }
        if durably {
            self.sync_directory()?;
        }
        Ok(content)
    }
}

impl Storage for SimulatedStorage {
    fn unlock(&self) {
        if std::mem::take(&mut *lock(&self.1)) {
            self.0.state().locked = false;
        }
    }

    fn boot_id(&self) -> Option<u128> {
        self.0.state().boot_id
    }

    fn list(&self) -> Result<Vec<String>, OpenError> {
        self.step(DiskOperation::List, "").map_err(|e| io_error("list", e))?;
        Ok(self.0.state().names.keys().filter(|name| !name.contains('/')).cloned().collect())
    }

    fn create(&self, name: &str, len: u64, head: HeadEncoder<'_>) -> io::Result<Opened> {
        let content = self.publish_with(name, (len as usize, head), SpaceUse::Name, true)?;
        self.opened(name, content, Access::Write)
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.publish_with(name, (bytes.len(), &|_| bytes.to_vec()), SpaceUse::Nothing, false)
            .map(drop)
    }

    fn open(&self, name: &str, access: Access) -> Result<Opened, OpenError> {
        let error = |e| io_error(format!("open {name}"), e);
        self.step(DiskOperation::Open, name).map_err(error)?;
        let content = self.0.state().names.get(name).cloned();
        let content = content.ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
        self.opened(name, content, access).map_err(error)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step(DiskOperation::Remove, name)?;
        self.0.state().unlink(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.step(DiskOperation::SyncDirectory, "")?;
        self.0.state().sync_names(false);
        Ok(())
    }

    fn set_aside(&self, name: &str, to: &str) -> io::Result<String> {
        let free = self.free_name(name, to);
        self.add_name(name, &set_aside_path(&free))?;
        self.sync_aside()?;
        self.remove(name)?;
        self.sync_directory()?;
        Ok(free)
    }

    fn link_aside(&self, name: &str, to: &str) -> io::Result<String> {
        let free = self.free_name(name, to);
        self.add_name(name, &set_aside_path(&free))?;
        self.sync_aside()?;
        Ok(free)
    }

    fn keep_aside(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()> {
        let path = set_aside_path(name);
        if self.0.state().names.contains_key(&path) {
            return Ok(());
        }
        self.publish_with(&path, (len as usize, &|_| whole(len, pieces)), SpaceUse::Space, true)?;
        self.sync_aside()
    }

    fn bring_back(&self, name: &str, to: &str) -> io::Result<()> {
        let from = set_aside_path(name);
        {
            let disk = self.0.state();
            let (there, file) = (disk.names.get(to), disk.names.get(&from));
            let is_same = there.zip(file).is_some_and(|(there, file)| Arc::ptr_eq(there, file));
            if there.is_some() && !is_same {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        self.add_name(&from, to)?;
        self.sync_directory()?;
        self.remove(&from)?;
        self.sync_aside()
    }

    fn replace(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()> {
        let head = |_: FileIdentity| whole(len, pieces);
        self.publish_with(name, (len as usize, &head), SpaceUse::Space, true).map(drop)
    }

    fn aside(&self) -> Result<Vec<(String, u64)>, OpenError> {
        self.step(DiskOperation::List, SET_ASIDE).map_err(|e| io_error("list", e))?;
        let disk = self.0.state();
        let aside = disk.names.iter().filter_map(|(name, content)| {
            let name = name.strip_prefix(SET_ASIDE)?.strip_prefix('/')?;
            (!names::is_temporary(name)).then_some(())?;
            Some((name.to_owned(), content.len() as u64))
        });
        Ok(aside.collect())
    }

    fn read_manifest(&self) -> Result<Option<Vec<u8>>, OpenError> {
        let error = |e| io_error("read MANIFEST", e);
        self.step(DiskOperation::ReadManifest, MANIFEST).map_err(error)?;
        let content = self.0.state().names.get(MANIFEST).cloned();
        Ok(content.map(|content| content.snapshot().read(0..content.len())))
    }

    fn write_manifest(&self, bytes: &[u8]) -> io::Result<()> {
        self.publish_with(MANIFEST, (bytes.len(), &|_| bytes.to_vec()), SpaceUse::Nothing, true)
            .map(drop)
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    name: String,
    content: Arc<Content>,
}

impl SegmentFile for SimulatedFile {
    fn sync(&self, _map: &Map, from: u64, to: u64) -> io::Result<()> {
        self.disk.step(DiskOperation::Sync, &self.name)?;
        self.disk.state().sync(&self.content, from as usize, to as usize);
        Ok(())
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        self.disk.step(DiskOperation::Allocate, &self.name)
    }

    fn release(&self, from: u64, to: u64) -> io::Result<()> {
        self.disk.step(DiskOperation::Release, &self.name)?;
        let _disk = self.disk.state();
        self.content.memory.punch(from as usize..to as usize)
    }
}
