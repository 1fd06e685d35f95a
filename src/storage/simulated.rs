//! A disk in memory, which can fail and lose power where a test says so.

use super::{ASIDE, Access, Head, Opened, SegmentFile, Storage};
use crate::error::OpenError;
use crate::format::header::FileIdentity;
use crate::format::is_zero;
use crate::segment::map::Map;
use memmap2::MmapMut;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that a device writes as a whole.
const SECTOR: usize = 512;
/// Bytes that are looked at together.
const BLOCK: usize = 8 * SECTOR;

/// A simulated disk: the directory of one log, in memory.
///
/// For tests of programs that must survive crashes. A log opened on it
/// ([`LogOptions::open_simulated`](crate::LogOptions::open_simulated)) runs the code that it runs
/// on files. An image taken of it, by [`process_death`](Self::process_death) or
/// [`power_loss`](Self::power_loss), is a disk of its own. Take images while no append runs.
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    boot_id: u128,
    locked: bool,
    volatile: bool,
    names: BTreeMap<String, Arc<Content>>,
    durable_names: BTreeMap<String, Arc<Content>>,
    manifest: Option<Vec<u8>>,
    space: Option<u64>,
    operations_until_failure: Option<u64>,
    syncs_until_failure: Option<u64>,
}

#[derive(Debug)]
struct Content {
    map: Map,
    durable: Mutex<Durable>,
}

/// What is on the device. Both it and the map are mostly zeros that nothing was ever written to, and
/// whoever leaves those pages alone is many times as fast.
#[derive(Debug)]
struct Durable {
    bytes: MmapMut,
    /// Zero from here on.
    end: usize,
}

impl Durable {
    fn new(len: usize) -> io::Result<Self> {
        Ok(Self { bytes: MmapMut::map_anon(len.max(1))?, end: 0 })
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (nth, block) in bytes.chunks(BLOCK).enumerate() {
            let from = at + nth * BLOCK;
            if from < self.end || !is_zero(block) {
                self.bytes[from..from + block.len()].copy_from_slice(block);
                self.end = self.end.max(from + block.len());
            }
        }
    }
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Disk { boot_id: 1, ..Disk::default() })))
    }

    /// Memory for a log that is never opened again: nothing is kept of what was durable.
    pub(crate) fn volatile() -> Self {
        Self(Arc::new(Mutex::new(Disk { boot_id: 1, volatile: true, ..Disk::default() })))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of segments that fit on the disk; `None` is no limit.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.disk().space = bytes;
    }

    /// Makes the sync after the next `syncs` ones fail, and all that follow it.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.disk().syncs_until_failure = Some(syncs);
    }

    /// Makes the operation after the next `operations` ones fail, and all that follow: creating,
    /// removing and syncing of files and of the directory, replacing the MANIFEST.
    pub fn fail_after(&self, operations: u64) {
        self.disk().operations_until_failure = Some(operations);
    }

    /// Operations that were not failed yet, of those that [`fail_after`](Self::fail_after) allowed.
    #[must_use]
    pub fn operations_left(&self) -> Option<u64> {
        self.disk().operations_until_failure
    }

    /// The disk as the process would leave it if it died now: the page cache survives.
    #[must_use]
    pub fn process_death(&self) -> Self {
        self.image(&mut |_, _| true, 0)
    }

    /// The disk as a power loss now could leave it, under another boot id. For each sector that
    /// was written since it was last synced `choose` is asked, with the file's name and the
    /// sector's number, whether it made it to the device; and for each name that was removed
    /// since the directory was synced (sector `usize::MAX`), whether the removal did.
    #[must_use]
    pub fn power_loss(&self, mut choose: impl FnMut(&str, usize) -> bool) -> Self {
        self.image(&mut choose, 1)
    }

    /// The sectors that [`power_loss`](Self::power_loss) would ask about.
    #[must_use]
    pub fn unsynced(&self) -> Vec<(String, usize)> {
        let mut all = Vec::new();
        let _ = self.power_loss(|name, sector| {
            all.push((name.to_owned(), sector));
            true
        });
        all
    }

    fn image(&self, choose: &mut dyn FnMut(&str, usize) -> bool, boots: u128) -> Self {
        let disk = self.disk();
        let mut names = disk.names.clone();
        for (name, content) in &disk.durable_names {
            if !names.contains_key(name) && boots > 0 && !choose(name, usize::MAX) {
                names.insert(name.clone(), content.clone());
            }
        }
        let names: BTreeMap<_, _> = names
            .into_iter()
            .map(|(name, content)| {
                let copy = content.image(|sector| choose(&name, sector));
                (name, Arc::new(copy))
            })
            .collect();
        Self(Arc::new(Mutex::new(Disk {
            boot_id: disk.boot_id + boots,
            durable_names: names.clone(),
            names,
            manifest: disk.manifest.clone(),
            ..Disk::default()
        })))
    }

    /// Flips bits of a file, wherever it is: `bytes[at] ^= mask`, now and on the device. False
    /// where there is no such byte.
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn flip(&self, name: &str, at: usize, mask: u8) -> bool {
        let mut disk = self.disk();
        if name == "MANIFEST" {
            let byte = disk.manifest.as_mut().and_then(|manifest| manifest.get_mut(at));
            return byte.map(|byte| *byte ^= mask).is_some();
        }
        let Some(content) = disk.names.get(name).filter(|c| at < c.map.len()) else {
            return false;
        };
        content.flip(at, mask);
        true
    }

    /// Cuts a file to its first `len` bytes (0 removes it), or the MANIFEST. False where there is no
    /// such file, or it is shorter.
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn cut(&self, name: &str, len: usize) -> bool {
        let mut disk = self.disk();
        if name == "MANIFEST" {
            let manifest = disk.manifest.as_mut().filter(|manifest| len < manifest.len());
            return manifest.map(|manifest| manifest.truncate(len)).is_some();
        }
        let Some(content) = disk.names.remove(name).filter(|c| len < c.map.len()) else {
            return false;
        };
        disk.durable_names.remove(name);
        if len > 0 {
            let short = Content::new(len as u64, false).expect("memory for a shorter file");
            short.fill(&content.bytes()[..len]);
            short.durable().put(0, &content.bytes()[..len]);
            let short = Arc::new(short);
            disk.names.insert(name.to_owned(), short.clone());
            disk.durable_names.insert(name.to_owned(), short);
        }
        true
    }

    /// Gives a file the bytes of another one. False where that is not there.
    #[doc(hidden)]
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn copy(&self, from: &str, to: &str) -> bool {
        let mut disk = self.disk();
        let Some(content) = disk.names.get(from).cloned() else { return false };
        disk.names.insert(to.to_owned(), content.clone());
        disk.durable_names.insert(to.to_owned(), content);
        true
    }

    /// The names of the segment files, with their lengths.
    #[must_use]
    pub fn files(&self) -> Vec<(String, usize)> {
        self.disk().names.iter().map(|(n, c)| (n.clone(), c.map.len())).collect()
    }

    /// Takes the lock of the one writer.
    pub(crate) fn attach(&self) -> Result<SimulatedStorage, OpenError> {
        let mut disk = self.disk();
        if std::mem::replace(&mut disk.locked, true) {
            return Err(OpenError::Locked { path: "simulated disk".into() });
        }
        Ok(SimulatedStorage(self.clone()))
    }
}

impl Disk {
    fn operate(&mut self) -> io::Result<()> {
        count_down(&mut self.operations_until_failure)
    }
}

impl Disk {
    fn put_aside(&mut self, name: &str, content: Arc<Content>) -> String {
        let names = (0u32..).map(|n| if n == 0 { name.to_owned() } else { format!("{name}.{n}") });
        let mut free = names.filter(|name| !self.names.contains_key(&format!("{ASIDE}/{name}")));
        let name = free.next().expect("there is always another number");
        self.names.insert(format!("{ASIDE}/{name}"), content.clone());
        self.durable_names.insert(format!("{ASIDE}/{name}"), content);
        name
    }
}

fn count_down(left: &mut Option<u64>) -> io::Result<()> {
    match left {
        Some(0) => Err(io::Error::other("simulated failure")),
        Some(n) => {
            *n -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

impl Content {
    fn new(len: u64, volatile: bool) -> io::Result<Self> {
        let durable = Durable::new(if volatile { 0 } else { len as usize })?;
        let map = if volatile { Map::anonymous(len as usize)? } else { Map::sparse(len as usize)? };
        if volatile {
            map.prefer_huge_pages();
        }
        Ok(Self { map, durable: Mutex::new(durable) })
    }

    fn durable(&self) -> MutexGuard<'_, Durable> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(unsafe_code, reason = "an image needs the bytes as they are")]
    fn bytes(&self) -> &[u8] {
        // SAFETY: images and syncs are taken of ranges in which no append runs: images by their
        // documented condition, syncs because they cover committed frames.
        unsafe { self.map.slice(0, self.map.len() as u64) }
    }

    #[allow(unsafe_code, reason = "a new image is filled before anyone sees it")]
    fn image(&self, mut choose: impl FnMut(usize) -> bool) -> Self {
        let (old, new) = (self.durable(), self.bytes());
        let map = Map::sparse(new.len()).expect("memory for an image");
        let mut durable = Durable::new(new.len()).expect("memory for an image");
        for (nth, new) in new.chunks(BLOCK).enumerate() {
            let at = nth * BLOCK;
            let is_blank = at >= old.end && is_zero(new);
            if is_blank {
                continue;
            }
            let mut block = old.bytes[at..at + new.len()].to_vec();
            for (sector, new) in new.chunks(SECTOR).enumerate() {
                let range = sector * SECTOR..sector * SECTOR + new.len();
                if block[range.clone()] != *new && choose(at / SECTOR + sector) {
                    block[range].copy_from_slice(new);
                }
            }
            // SAFETY: the map was made here and is not shared yet.
            unsafe { map.write(at as u64, &block) };
            durable.put(at, &block);
        }
        Self { map, durable: Mutex::new(durable) }
    }

    #[allow(unsafe_code, reason = "damage is not an append")]
    fn flip(&self, at: usize, mask: u8) {
        let byte = self.bytes()[at] ^ mask;
        // SAFETY: damage is done while no log is open on the disk.
        unsafe { self.map.write(at as u64, &[byte]) };
        let mut durable = self.durable();
        let byte = durable.bytes[at] ^ mask;
        durable.put(at, &[byte]);
    }
}

/// The lock on a simulated disk, and its directory.
#[derive(Debug)]
pub(crate) struct SimulatedStorage(SimulatedDisk);

impl Drop for SimulatedStorage {
    fn drop(&mut self) {
        self.0.disk().locked = false;
    }
}

impl Storage for SimulatedStorage {
    fn boot_id(&self) -> Option<u128> {
        Some(self.0.disk().boot_id)
    }

    fn list(&self) -> Result<Vec<String>, OpenError> {
        let disk = self.0.disk();
        Ok(disk.names.keys().filter(|name| !name.contains('/')).cloned().collect())
    }

    fn create(&self, name: &str, len: u64, head: Head<'_>) -> io::Result<Opened> {
        let mut disk = self.0.disk();
        disk.operate()?;
        let used: u64 = disk.names.values().map(|c| c.map.len() as u64).sum();
        if disk.space.is_some_and(|space| used + len > space) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let content = Arc::new(Content::new(len, disk.volatile)?);
        content.fill_head(&head(FileIdentity::default()));
        disk.names.insert(name.to_owned(), content.clone());
        disk.durable_names.insert(name.to_owned(), content.clone());
        Ok(self.opened(content))
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.disk();
        disk.operate()?;
        let content = Content::new(bytes.len() as u64, disk.volatile)?;
        content.fill(bytes);
        disk.names.insert(name.to_owned(), Arc::new(content));
        Ok(())
    }

    fn open(&self, name: &str, _access: Access) -> Result<Opened, OpenError> {
        let content = self.0.disk().names.get(name).cloned();
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let content = content.ok_or_else(|| super::io_error(format!("open {name}"), missing()))?;
        Ok(self.opened(content))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.0.disk();
        disk.operate()?;
        disk.names.remove(name);
        if disk.volatile {
            disk.durable_names.remove(name);
        }
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.0.disk();
        disk.operate()?;
        disk.durable_names = disk.names.clone();
        Ok(())
    }

    fn set_aside(&self, name: &str) -> io::Result<String> {
        let mut disk = self.0.disk();
        disk.operate()?;
        let content = disk.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        disk.durable_names.remove(name);
        Ok(disk.put_aside(name, content))
    }

    fn keep_aside(&self, name: &str, len: u64, pieces: &[(u64, &[u8])]) -> io::Result<String> {
        let mut disk = self.0.disk();
        disk.operate()?;
        let mut bytes = vec![0; len as usize];
        for (at, piece) in pieces {
            bytes[*at as usize..][..piece.len()].copy_from_slice(piece);
        }
        let content = Content::new(len, disk.volatile)?;
        content.fill(&bytes);
        if !disk.volatile {
            content.durable().put(0, &bytes);
        }
        Ok(disk.put_aside(name, Arc::new(content)))
    }

    fn aside(&self) -> Result<Vec<(String, u64)>, OpenError> {
        let disk = self.0.disk();
        let aside = disk.names.iter().filter_map(|(name, content)| {
            let name = name.strip_prefix(ASIDE)?.strip_prefix('/')?;
            Some((name.to_owned(), content.map.len() as u64))
        });
        Ok(aside.collect())
    }

    fn read_manifest(&self) -> Result<Option<Vec<u8>>, OpenError> {
        Ok(self.0.disk().manifest.clone())
    }

    fn write_manifest(&self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.disk();
        disk.operate()?;
        disk.manifest = Some(bytes.to_vec());
        Ok(())
    }
}

impl SimulatedStorage {
    fn opened(&self, content: Arc<Content>) -> Opened {
        let map = content.map.clone();
        let file = Box::new(SimulatedFile { disk: self.0.clone(), content });
        Opened { map, file, identity: FileIdentity::default() }
    }
}

impl Content {
    #[allow(unsafe_code, reason = "a new file is filled before anyone sees it")]
    fn fill(&self, bytes: &[u8]) {
        // SAFETY: the map was made by the caller and is not shared yet.
        unsafe { self.map.write(0, bytes) };
    }

    fn fill_head(&self, head: &[u8]) {
        self.fill(head);
        let mut durable = self.durable();
        if durable.bytes.len() >= head.len() {
            durable.put(0, head);
        }
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    content: Arc<Content>,
}

impl SegmentFile for SimulatedFile {
    #[allow(unsafe_code, reason = "a sync copies what is committed")]
    fn sync(&self, from: u64, to: u64) -> io::Result<()> {
        let mut disk = self.disk.disk();
        disk.operate()?;
        count_down(&mut disk.syncs_until_failure)?;
        if disk.volatile {
            return Ok(());
        }
        // SAFETY: the caller syncs a range in which every frame is committed.
        let bytes = unsafe { self.content.map.slice(from, to - from) };
        self.content.durable().put(from as usize, bytes);
        Ok(())
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn release(&self, _from: u64, _to: u64) -> io::Result<()> {
        Ok(())
    }
}
