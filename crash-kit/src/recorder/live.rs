//! The files of a program while it runs, each held open: a name may go, or refer to another one.

use crate::disk::{Content, Disk, FileId, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Syncs of directories until files are forgotten.
const FORGET_AFTER: u32 = 16;

const WHOLE: Range<u64> = 0..u64::MAX;

#[derive(Debug)]
pub(super) struct Live {
    pub(super) disk: Disk,
    handles: BTreeMap<FileId, File>,
    /// Files that were synced before they got a name.
    unnamed: BTreeSet<FileId>,
    /// Syncs of directories until those files are forgotten that are gone for good.
    until_forgetting: u32,
}

/// A sync that has begun: it makes durable what was there by then.
#[derive(Debug, Default)]
pub(super) struct Begun {
    files: Vec<(FileId, u64, Range<u64>)>,
    names: Option<(Option<FileId>, usize)>,
}

impl Live {
    /// What is there now is durable.
    pub(super) fn begin(root: &Path) -> io::Result<Self> {
        let handle = File::open(root)?;
        let id = FileId::of(&handle.metadata()?);
        let disk = Disk::new(id);
        let handles = BTreeMap::from([(id, handle)]);
        let mut live =
            Self { disk, handles, unnamed: BTreeSet::new(), until_forgetting: FORGET_AFTER };
        live.begin_directory(id)?;
        Ok(live)
    }

    fn begin_directory(&mut self, id: FileId) -> io::Result<()> {
        for entry in fs::read_dir(self.path_of(id))? {
            let place = (id, entry?.file_name());
            let Some(file) = self.find(&place)? else { continue };
            if let Some(content) = self.disk.files.get_mut(&file) {
                let content = Arc::make_mut(content);
                content.observe(&self.handles[&file])?;
                content.settle(content.time(), 0, u64::MAX);
            }
            Arc::make_mut(&mut self.disk.names).begin_with(place, file);
            if self.disk.directories.contains_key(&file) {
                self.begin_directory(file)?;
            }
        }
        Ok(())
    }

    fn path_of(&self, id: FileId) -> PathBuf {
        format!("/proc/self/fd/{}", self.handles[&id].as_raw_fd()).into()
    }

    /// What a name refers to now. It is known from here on.
    fn find(&mut self, (directory, name): &Place) -> io::Result<Option<FileId>> {
        let path = self.path_of(*directory).join(name);
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let id = FileId::of(&found);
        self.unnamed.remove(&id);
        if self.handles.contains_key(&id) {
            return Ok(Some(id));
        }
        if !found.is_file() && !found.is_dir() {
            let why = format!("{}: neither a file nor a directory", name.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let handle = File::options().read(true).custom_flags(flags).open(&path)?;
        let now = handle.metadata()?;
        if FileId::of(&now) != id {
            return Err(io::Error::other(format!("{}: replaced meanwhile", name.display())));
        }
        self.handles.insert(id, handle);
        if now.is_dir() {
            self.disk.directories.insert(id, now.mode() & 0o7777);
        } else {
            self.disk.files.insert(id, Arc::new(Content::empty()));
        }
        Ok(Some(id))
    }

    /// Looks at a file.
    fn look(&mut self, id: FileId) -> io::Result<u64> {
        let content = self.disk.files.get_mut(&id).expect("a file that is known");
        let content = Arc::make_mut(content);
        content.observe(&self.handles[&id])?;
        Ok(content.time())
    }

    pub(super) fn look_at_all(&mut self) -> io::Result<()> {
        let all: Vec<_> = self.disk.files.keys().copied().collect();
        all.into_iter().try_for_each(|id| self.look(id).map(drop))
    }

    /// Those of the paths that are names in directories of the program.
    pub(super) fn places(&self, paths: &[PathBuf]) -> Vec<Place> {
        let place = |path: &PathBuf| {
            let (parent, name) = (path.parent()?, path.file_name()?);
            let id = FileId::of(&fs::metadata(parent).ok()?);
            self.disk.directories.contains_key(&id).then(|| (id, name.to_owned()))
        };
        paths.iter().filter_map(place).collect()
    }

    /// A call may have changed these names.
    pub(super) fn change_names(&mut self, places: Vec<Place>) -> io::Result<()> {
        let mut changes = Vec::new();
        for place in places {
            let now = self.find(&place)?;
            if now != self.disk.names.get(&place) {
                changes.push((place, now));
            }
        }
        if !changes.is_empty() {
            Arc::make_mut(&mut self.disk.names).push(changes);
        }
        Ok(())
    }

    /// `None`: it is not the program's file or directory.
    pub(super) fn begin_sync(&mut self, descriptor: &Path) -> io::Result<Option<Begun>> {
        // Without one, the call fails.
        let Ok(found) = fs::metadata(descriptor) else { return Ok(None) };
        let id = FileId::of(&found);
        if self.disk.directories.contains_key(&id) {
            let names = Some((Some(id), self.disk.names.time()));
            return Ok(Some(Begun { files: Vec::new(), names }));
        }
        if !self.disk.files.contains_key(&id) {
            // One that has no name yet may get one.
            if !found.is_file() || id.device != self.disk.root.device {
                return Ok(None);
            }
            self.handles.insert(id, File::open(descriptor)?);
            self.unnamed.insert(id);
            self.disk.files.insert(id, Arc::new(Content::empty()));
        }
        let time = self.look(id)?;
        Ok(Some(Begun { files: vec![(id, time, WHOLE)], names: None }))
    }

    pub(super) fn begin_sync_of_ranges(
        &mut self,
        ranges: Vec<(FileId, Range<u64>)>,
    ) -> io::Result<Begun> {
        let mut begun = Begun::default();
        for (id, range) in ranges {
            if self.disk.files.contains_key(&id) {
                let time = self.look(id)?;
                begun.files.push((id, time, range));
            }
        }
        Ok(begun)
    }

    pub(super) fn begin_sync_of_all(&mut self) -> io::Result<Begun> {
        self.look_at_all()?;
        let files = self.disk.files.iter().map(|(id, content)| (*id, content.time(), WHOLE));
        Ok(Begun { files: files.collect(), names: Some((None, self.disk.names.time())) })
    }

    pub(super) fn end_sync(&mut self, begun: Begun) {
        for (id, time, range) in begun.files {
            if let Some(content) = self.disk.files.get_mut(&id) {
                Arc::make_mut(content).settle(time, range.start, range.end);
            }
        }
        if let Some((directory, time)) = begun.names {
            Arc::make_mut(&mut self.disk.names).settle(directory, time);
            self.forget();
        }
    }

    /// Forgets files that had a name and cannot get one any more, now and then.
    fn forget(&mut self) {
        self.until_forgetting -= 1;
        if self.until_forgetting > 0 {
            return;
        }
        self.until_forgetting = FORGET_AFTER;
        let names = self.disk.names.files();
        let gone = self.disk.files.keys().filter(|id| {
            let has_name = || self.handles[id].metadata().is_ok_and(|found| found.nlink() > 0);
            !names.contains(id) && !self.unnamed.contains(id) && !has_name()
        });
        let gone: Vec<_> = gone.copied().collect();
        for id in gone {
            self.disk.files.remove(&id);
            self.handles.remove(&id);
        }
    }
}
