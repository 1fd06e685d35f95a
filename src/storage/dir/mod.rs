//! Real files, in a directory that is private to its user.
//!
//! [`Directory`] is the handle; all files are found through it. Its methods are laid out by topic:
//! opening (`directory`), who writes (`writer`, with the locks of `lock`), the MANIFEST and the
//! reserve (`manifest`), and files that are set aside (`aside`). `trust` decides which directories and
//! files may be mapped at all. The [`Storage`] implementation below puts them together.

mod aside;
mod directory;
mod lock;
mod manifest;
mod trust;
mod writer;

pub(crate) use directory::Directory;
pub(crate) use trust::TrustRules;

use self::directory::{identity, write_pieces};
use super::map::Map;
use super::sys::{self, Fault, Faults, FileName, OpenMode};
use super::temporary::Existing;
use super::{
    Access, HeadEncoder, Opened, Pieces, Prepared, SegmentFile, Storage, WriterState, io_error,
    refuse_after,
};
use crate::error::{MapFault, OpenError};
use crate::format::names;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Directory {
    /// A map of a file that was just made, with its faults recorded if SIGBUS is caught.
    fn watched(&self, map: Map, name: &str) -> Map {
        let (segment, hint) = (names::segment_id(name), names::hint_id(name));
        match &self.faults {
            Some(faults) => {
                let id = segment.or(hint).unwrap_or_default();
                map.watched(FileName { id, is_hint: hint.is_some() }, faults.clone())
            }
            None => map,
        }
    }

    fn mapped(&self, file: File) -> Box<dyn SegmentFile> {
        Box::new(MappedFile { file, faults: self.faults.clone() })
    }

    /// An error once a mapped file could not be accessed.
    fn check_maps(&self) -> io::Result<()> {
        refuse_after(self.fault())
    }
}

impl Storage for Directory {
    fn boot_id(&self) -> Option<u128> {
        self.boot_id
    }

    fn list(&self) -> Result<Vec<String>, OpenError> {
        self.file_names()
    }

    fn create(&self, name: &str, len: u64, head: HeadEncoder<'_>) -> io::Result<Opened> {
        self.create_prepared(self.prepare(len)?, name, head)
    }

    fn prepare(&self, len: u64) -> io::Result<Prepared> {
        // ORDERING: Relaxed; each number is drawn once.
        let number = self.next_temporary.fetch_sub(1, Ordering::Relaxed);
        let new = self.temporary_file(&names::segment_name(number))?;
        sys::allocate(&new.file, len)?;
        Ok(Prepared { len, file: Some(new) })
    }

    fn create_prepared(
        &self,
        prepared: Prepared,
        name: &str,
        head: HeadEncoder<'_>,
    ) -> io::Result<Opened> {
        self.check_maps()?;
        let new = prepared.file.expect("it was prepared here");
        let identity = identity(&new.file)?;
        new.file.write_all_at(&head(identity), 0)?;
        new.file.sync_all()?;
        let map = Map::of_file(&new.file, map_len(prepared.len)?)?;
        let map = self.watched(map, name);
        let file = new.publish(name, Existing::Keep)?;
        self.sync_directory()?;
        Ok(Opened { map, file: self.mapped(file), identity })
    }

    fn free_space(&self) -> Option<u64> {
        // Without it, a segment that is too large is tried, and refused.
        sys::free_space(&self.handle).ok()
    }

    fn keep_reserve(&self, wanted: u64, least: u64) -> io::Result<bool> {
        self.ensure_reserve(wanted, least)
    }

    fn give_back_reserve(&self) -> io::Result<bool> {
        self.remove_reserve()
    }

    fn reserve_is_given(&self) -> bool {
        // ORDERING: Relaxed; says nothing about other memory.
        self.reserve_is_given.load(Ordering::Relaxed)
    }

    fn open(&self, name: &str, access: Access) -> Result<Opened, OpenError> {
        let mode = if access == Access::Write { OpenMode::Write } else { OpenMode::Read };
        let file = self.open_file(name, mode)?;
        let error = |e| io_error(self.describe("map", name), e);
        let len = map_len(file.metadata().map_err(error)?.len()).map_err(error)?;
        let identity = identity(&file).map_err(error)?;
        let map = match access {
            _ if len == 0 => Map::anonymous(1).map_err(error)?,
            Access::Write => self.watched(Map::of_file(&file, len).map_err(error)?, name),
            Access::Read => self.watched(Map::of_file_read_only(&file, len).map_err(error)?, name),
        };
        Ok(Opened { map, file: self.mapped(file), identity })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        sys::remove(&self.handle, name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn set_aside(&self, name: &str, to: &str) -> io::Result<String> {
        self.check_maps()?;
        self.move_aside(name, to)
    }

    fn link_aside(&self, name: &str, to: &str) -> io::Result<String> {
        self.check_maps()?;
        self.link_to_aside(name, to)
    }

    fn keep_aside(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()> {
        self.check_maps()?;
        self.write_aside(name, len, pieces)
    }

    fn bring_back(&self, name: &str, to: &str) -> io::Result<()> {
        self.check_maps()?;
        self.move_back(name, to)
    }

    fn replace(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()> {
        self.check_maps()?;
        let write = |file: &File| {
            sys::allocate(file, len)?;
            write_pieces(file, pieces)
        };
        self.publish_durably(name, Existing::Replace, write)
    }

    fn aside(&self) -> Result<Vec<(String, u64)>, OpenError> {
        self.list_aside()
    }

    fn read_manifest(&self) -> Result<Option<Vec<u8>>, OpenError> {
        self.manifest()
    }

    fn write_manifest(&self, bytes: &[u8]) -> io::Result<()> {
        self.check_maps()?;
        self.replace_manifest(bytes)
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.check_maps()?;
        if let Err(OpenError::NotRegular { .. }) = self.open_file(name, OpenMode::Read) {
            // Not created by the log, and not to be replaced.
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.publish_with(name, Existing::Replace, |mut file| file.write_all(bytes))
    }

    fn leave_memory(&self, name: &str) -> io::Result<()> {
        let file = self.open_file(name, OpenMode::Read).map_err(io::Error::other)?;
        file.sync_data()?;
        sys::leave_memory(&file)
    }

    fn directory(&self) -> Option<&File> {
        Some(&self.handle)
    }

    fn writer(&self) -> Result<WriterState, OpenError> {
        self.find_writer()
    }

    fn fault(&self) -> Option<MapFault> {
        self.faults.as_ref()?.first().map(fault_of)
    }

    fn writer_process(&self) -> Option<u32> {
        self.lock_holder()
    }

    fn unlock(&self) {
        self.release_lock();
    }

    fn note_recovered(&self) -> io::Result<()> {
        self.lock_recovered()
    }
}

/// The length of a file as that of a map: an error if no map can be so long, as in a process of 32 bits.
fn map_len(len: u64) -> io::Result<usize> {
    let too_long = || io::Error::new(io::ErrorKind::OutOfMemory, "too long to be mapped");
    usize::try_from(len).map_err(|_| too_long())
}

fn fault_of(fault: Fault) -> MapFault {
    let Fault { file: FileName { id, is_hint }, offset } = fault;
    MapFault { segment: id, offset, in_hint: is_hint }
}

/// A segment's file, which is mapped, too.
#[derive(Debug)]
struct MappedFile {
    file: File,
    /// Those of its directory.
    faults: Option<Arc<Faults>>,
}

impl MappedFile {
    fn check_maps(&self) -> io::Result<()> {
        let first = self.faults.as_ref().and_then(|faults| faults.first());
        refuse_after(first.map(fault_of))
    }
}

impl SegmentFile for MappedFile {
    /// Syncs the whole file, not the range alone: what is dirty beside the range was just written and
    /// has to be synced soon anyway, and unlike `sync_file_range`, `fdatasync` also waits for pages
    /// that the kernel has begun to write by itself.
    fn sync(&self, map: &Map, from: u64, to: u64) -> io::Result<()> {
        map.flush(from, to)?;
        self.file.sync_data()?;
        // What was stored in a page that could not be accessed is in no file.
        self.check_maps()
    }

    fn release(&self, from: u64, to: u64) -> io::Result<()> {
        sys::punch(&self.file, from, to)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        sys::ensure_own(&self.file, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::names::RESERVE;
    use crate::options::Creation;
    use std::path::Path;

    fn open(path: &Path, access: Access) -> Directory {
        let trust = TrustRules::default();
        match access {
            Access::Read => Directory::open_to_read(path, trust),
            Access::Write => Directory::open_to_write(path, Creation::Allowed, trust),
        }
        .unwrap()
    }

    #[test]
    fn what_another_one_creates_before_the_lock_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let find = || {
            let trust = TrustRules::default();
            Directory::find(dir.path(), Access::Write, Creation::Required, trust).unwrap()
        };
        let (first, second) = (find(), find());
        first.with_lock(Creation::Required).unwrap().write_manifest(b"a log").unwrap();
        let exists = second.with_lock(Creation::Required).map(drop).unwrap_err();
        assert!(matches!(exists, OpenError::Exists { .. }), "{exists}");
    }

    #[test]
    fn a_new_segment_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path(), Access::Write);
        std::fs::write(dir.path().join("there"), "precious").unwrap();
        let created = directory.create("there", 4096, &|_| vec![1; 128]);
        assert_eq!(created.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("there")).unwrap(), b"precious");
        let mut names = directory.list().unwrap();
        names.sort();
        assert_eq!(names, ["LOCK", "there"], "nothing is left of it");
        assert_eq!(directory.create("new", 4096, &|_| vec![1; 128]).unwrap().map.len(), 4096);
    }

    #[test]
    fn what_was_prepared_and_is_not_used_goes() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path(), Access::Write);
        let (one, two) = (directory.prepare(1 << 20).unwrap(), directory.prepare(1 << 20).unwrap());
        drop(one);
        directory.create_prepared(two, "two", &|_| vec![2; 128]).unwrap();
        let mut names = directory.list().unwrap();
        names.sort();
        assert_eq!(names, ["LOCK", "two"]);
        assert_eq!(std::fs::metadata(dir.path().join("two")).unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_file_leaves_memory_with_what_is_in_it_unharmed() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path(), Access::Write);
        directory.publish("hint", &[7; 1 << 20]).unwrap();
        let resident = || {
            let map = directory.open("hint", Access::Read).unwrap().map;
            (0..1 << 20).step_by(4096).filter(|&at| map.is_resident(at) == Some(true)).count()
        };
        let before = resident();
        directory.leave_memory("hint").unwrap();
        // Nothing leaves a file system in memory, and not every system tells.
        if sys::file_system(&directory.handle).unwrap().name != "tmpfs" && before > 0 {
            assert!(resident() < before / 2, "{} of {before} pages", resident());
        }
        assert_eq!(std::fs::read(dir.path().join("hint")).unwrap(), [7; 1 << 20]);
        assert!(directory.leave_memory("none").is_err());
    }

    #[test]
    fn readers_see_whether_there_is_a_writer_and_keep_none_out() {
        let dir = tempfile::tempdir().unwrap();
        let reader = open(dir.path(), Access::Read);
        assert_eq!(reader.writer().unwrap(), WriterState::None);
        assert_eq!(reader.list().unwrap(), [""; 0], "nothing is made");
        let writer = open(dir.path(), Access::Write);
        assert_eq!(reader.writer().unwrap(), WriterState::Recovering);
        writer.note_recovered().unwrap();
        assert_eq!(reader.writer().unwrap(), WriterState::Live);
        std::fs::remove_file(dir.path().join("LOCK")).unwrap();
        assert_eq!(
            reader.writer().unwrap(),
            WriterState::Live,
            "the directory's own lock tells, too"
        );
        drop(writer);
        assert_eq!(reader.writer().unwrap(), WriterState::None);
    }

    #[test]
    fn a_manifest_is_written_in_the_place_of_the_last_but_one() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path(), Access::Write);
        directory.write_manifest(b"first").unwrap();
        assert!(directory.write_spare(b"no spare").is_err());
        directory.make_spare().unwrap();
        for text in [&b"second, and longer"[..], b"third", b"fourth"] {
            directory.write_spare(text).unwrap();
            assert_eq!(directory.read_manifest().unwrap().unwrap(), text);
        }
        directory.write_manifest(b"fifth").unwrap();
        assert_eq!(directory.read_manifest().unwrap().unwrap(), b"fifth");
    }

    #[test]
    fn a_reserve_grows_and_is_given_back_once() {
        let dir = tempfile::tempdir().unwrap();
        let directory = open(dir.path(), Access::Write);
        assert!(!directory.give_back_reserve().unwrap());
        let len = || std::fs::metadata(dir.path().join(RESERVE)).map_or(0, |found| found.len());
        for (wanted, kept) in [(0, 0), (1 << 20, 1 << 20), (3 << 19, 1 << 20), (2 << 20, 2 << 20)] {
            assert!(directory.keep_reserve(wanted, 256 << 10).unwrap());
            assert_eq!(len(), kept);
        }
        assert!(directory.give_back_reserve().unwrap() && directory.reserve_is_given());
        assert!(!directory.give_back_reserve().unwrap());
        assert!(directory.keep_reserve(1 << 20, 256 << 10).unwrap());
        assert!(!directory.reserve_is_given());
        // No disk has that much.
        assert!(!directory.make_reserve(1 << 60, 1 << 60, 0).unwrap());
    }
}
