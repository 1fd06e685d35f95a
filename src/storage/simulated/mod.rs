//! A disk in memory, which can fail and lose power where a test says so.

mod between;
mod content;
mod memory;
mod operation;
mod sparse;
mod storage;

pub use operation::DiskOperation;
pub(crate) use storage::SimulatedStorage;

use self::content::Content;
use self::memory::Arena;
use self::operation::{Failures, Once};
use crate::error::OpenError;
use crate::format::header::FileIdentity;
use crate::format::names::MANIFEST;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A simulated disk: the directory of one log, in memory.
///
/// For tests of programs that must survive crashes. A log opened on it
/// ([`LogOptions::open_simulated`](crate::LogOptions::open_simulated)) runs the code that it runs
/// on files. An image taken of it, by [`process_death`](Self::process_death) or
/// [`power_loss`](Self::power_loss), is a disk of its own, which can be opened, die and lose power in
/// its turn; of one that a process left by dying, no more is durable than was before.
///
/// Images may be taken at any time, also beside threads that append, and from
/// [inside an operation](Self::on_operation).
///
/// # What a power loss may leave
///
/// * Of each sector (512 bytes) that changed since it was synced: what was synced last, what it is now,
///   any state that it was seen in since ([`observe`](Self::observe)), or a state in between, word by
///   word, that appends can pass through: of a frame, nothing, its claim with some of its body, or all
///   of it.
/// * Of each change of a name (created, renamed, replaced, removed) since the directory was synced:
///   that it was made, or not, each by itself.
/// * Of a file that was never synced: any part of its length.
///
/// # What a death leaves
///
/// The page cache, which is what appends stored: where the copy has an append, it has all others that
/// had returned before that one began.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Mutex<Disk>>);

/// What a power loss decides: one thing that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsynced<'a> {
    /// A sector of a file, and how many states of it are known: the durable one, those that were seen,
    /// and the newest one.
    Sector {
        /// The name of the file.
        file: &'a str,
        /// The number of the sector.
        sector: usize,
        /// At least 2.
        versions: usize,
    },
    /// That a name was created, replaced or removed.
    Name {
        /// The name, or the new one of a file that was renamed.
        name: &'a str,
    },
    /// The length of a file that was never synced.
    Length {
        /// The name of the file.
        file: &'a str,
    },
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It is as it was when it was last synced.
    Lost,
    /// It is as it is now.
    Kept,
    /// A sector is as in this one of its versions (modulo their number).
    Seen(usize),
    /// A sector is on its way to the newest version: the seed says how far. A length is somewhere in
    /// between.
    Between(u64),
}

type Hook = Arc<dyn Fn(&SimulatedDisk, DiskOperation, &str) -> io::Result<()> + Send + Sync>;

#[derive(Default)]
struct Disk {
    /// `None`: the kernel does not tell.
    boot_id: Option<u128>,
    device: u64,
    locked: bool,
    /// `None`: memory for a log that is never opened again.
    arena: Option<Arc<Arena>>,
    names: BTreeMap<String, Arc<Content>>,
    durable_names: BTreeMap<String, Arc<Content>>,
    /// What was done to the names since they were durable, in order.
    changes: Vec<Change>,
    space: Option<u64>,
    failures: Failures,
    observes: bool,
    hook: Option<Hook>,
}

#[derive(Clone)]
enum Change {
    Link { name: String, content: Arc<Content> },
    Rename { from: String, to: String, content: Arc<Content> },
    Unlink { name: String },
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedDisk").field("files", &self.files()).finish_non_exhaustive()
    }
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

/// A number that no disk has.
fn another_device() -> u64 {
    static DEVICES: AtomicU64 = AtomicU64::new(1);
    // ORDERING: Relaxed; a number, and no memory is touched by it.
    let minor = DEVICES.fetch_add(1, Ordering::Relaxed);
    // As Linux has it, with major number 8.
    8 << 8 | minor & 0xff | (minor >> 8) << 20
}

/// For what can only fail for want of memory.
const MEMORY: &str = "memory for a simulated disk";

impl SimulatedDisk {
    /// An empty disk.
    ///
    /// # Panics
    /// If there is no memory for it.
    #[must_use]
    pub fn new() -> Self {
        let arena = Some(Arc::new(Arena::new().expect(MEMORY)));
        Self::with(Disk { boot_id: Some(1), device: another_device(), arena, ..Disk::default() })
    }

    /// Memory for a log that is never opened again: nothing is kept of what was durable.
    pub(crate) fn volatile() -> Self {
        Self::with(Disk { boot_id: Some(1), ..Disk::default() })
    }

    fn with(disk: Disk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock of the one writer.
    pub(crate) fn attach(&self) -> Result<SimulatedStorage, OpenError> {
        let read = self.step(DiskOperation::ReadBootId, "");
        read.map_err(|e| super::io_error("read the boot id", e))?;
        let mut disk = self.disk();
        if std::mem::replace(&mut disk.locked, true) {
            return Err(OpenError::Locked { path: "simulated disk".into() });
        }
        Ok(SimulatedStorage(self.clone()))
    }

    /// Before each operation: looks at the sectors, calls the hook, and fails if it is to.
    fn step(&self, operation: DiskOperation, name: &str) -> io::Result<()> {
        let hook = {
            let disk = self.disk();
            if disk.observes && operation.is_write() {
                disk.observe();
            }
            disk.hook.clone()
        };
        if let Some(hook) = hook {
            hook(self, operation, name)?;
        }
        self.disk().failures.check(operation, name)
    }
}

/// Failures.
impl SimulatedDisk {
    /// Bytes of segments that fit on the disk; `None` is no limit.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.disk().space = bytes;
    }

    /// Makes the sync after the next `syncs` ones fail, and all that follow it.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.disk().failures.syncs_left = Some(syncs);
    }

    /// Makes the operation after the next `operations` ones fail, and all that follow: all that
    /// [change something](DiskOperation::is_write).
    pub fn fail_after(&self, operations: u64) {
        self.disk().failures.writes_left = Some(operations);
    }

    /// Operations that were not failed yet, of those that [`fail_after`](Self::fail_after) allowed.
    #[must_use]
    pub fn operations_left(&self) -> Option<u64> {
        self.disk().failures.writes_left
    }

    /// Makes one operation fail, once: the one after the next `after` of its kind.
    pub fn fail_once(&self, operation: DiskOperation, after: u64) {
        self.fail_once_with(operation, "", after, io::ErrorKind::Other);
    }

    /// As [`fail_once`](Self::fail_once), counting only files whose name contains `name`, and with an
    /// error of this kind.
    pub fn fail_once_with(
        &self,
        operation: DiskOperation,
        name: &str,
        after: u64,
        kind: io::ErrorKind,
    ) {
        let once = Once { operation, name: name.to_owned(), after, kind };
        self.disk().failures.once.push(once);
    }

    /// Whether all failures that [`fail_once`](Self::fail_once) asked for have happened.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.disk().failures.once.is_empty()
    }

    /// Calls `hook` before each operation, with the name of its file. It may take images, and may fail
    /// the operation. It runs in the thread that does the operation, which may hold locks of the log.
    pub fn on_operation(
        &self,
        hook: impl Fn(&Self, DiskOperation, &str) -> io::Result<()> + Send + Sync + 'static,
    ) {
        self.disk().hook = Some(Arc::new(hook));
    }
}

/// Images.
impl SimulatedDisk {
    /// The disk as the process would leave it if it died now: the page cache survives.
    #[must_use]
    pub fn process_death(&self) -> Self {
        self.disk().after_death().expect(MEMORY)
    }

    /// The disk as a power loss now could leave it, under another boot id. For each sector that
    /// was written since it was last synced `choose` is asked, with the file's name and the
    /// sector's number, whether it made it to the device; and for each change of a name since the
    /// directory was synced (sector `usize::MAX`), and for the length of each file that was never
    /// synced (`usize::MAX - 1`).
    #[must_use]
    pub fn power_loss(&self, mut choose: impl FnMut(&str, usize) -> bool) -> Self {
        self.power_loss_by(|unsynced| {
            let kept = match unsynced {
                Unsynced::Sector { file, sector, .. } => choose(file, sector),
                Unsynced::Name { name } => choose(name, usize::MAX),
                Unsynced::Length { file } => choose(file, usize::MAX - 1),
            };
            if kept { Fate::Kept } else { Fate::Lost }
        })
    }

    /// As [`power_loss`](Self::power_loss), with all that can become of what was not synced.
    #[must_use]
    pub fn power_loss_by(&self, mut choose: impl FnMut(Unsynced<'_>) -> Fate) -> Self {
        self.disk().after_power_loss(&mut choose).expect(MEMORY)
    }

    /// A power loss in which all of that happens: the seed says what, from "nearly nothing was written
    /// back" to "nearly everything".
    #[must_use]
    pub fn power_loss_at_random(&self, seed: u64) -> Self {
        let mut state = seed | 1;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
        };
        // Few words tell seeds that follow each other apart.
        for _ in 0..8 {
            random();
        }
        let kept_in_64 = random() % 65;
        let odd_in_64 = random() % 33;
        self.power_loss_by(|_| {
            if random() % 64 < odd_in_64 {
                let chosen = random();
                return if chosen % 4 == 0 {
                    Fate::Seen(chosen as usize / 4)
                } else {
                    Fate::Between(chosen)
                };
            }
            if random() % 64 < kept_in_64 { Fate::Kept } else { Fate::Lost }
        })
    }

    /// As [`power_loss_by`](Self::power_loss_by), but the same kernel still runs: the device was
    /// snapshotted or taken out, and is back as another one.
    #[must_use]
    pub fn on_another_device(&self, mut choose: impl FnMut(Unsynced<'_>) -> Fate) -> Self {
        let image = self.disk().after_power_loss(&mut choose).expect(MEMORY);
        let boot_id = self.disk().boot_id;
        let mut disk = image.disk();
        (disk.boot_id, disk.device) = (boot_id, another_device());
        drop(disk);
        image
    }

    /// Says which start of the kernel this is; `None`: the kernel does not tell.
    pub fn set_boot_id(&self, boot_id: Option<u128>) {
        self.disk().boot_id = boot_id;
    }

    /// What [`power_loss`](Self::power_loss) would ask about.
    #[must_use]
    pub fn unsynced(&self) -> Vec<(String, usize)> {
        let mut all = Vec::new();
        let _ = self.power_loss(|name, sector| {
            all.push((name.to_owned(), sector));
            true
        });
        all
    }

    /// Takes note of the state that each sector is in: a power loss may leave it in that one. A few are
    /// kept for each sector until it is synced. Another thread may do this while writers are at work.
    pub fn observe(&self) {
        self.disk().observe();
    }

    /// Whether every operation [observes](Self::observe), too.
    pub fn observe_operations(&self, observes: bool) {
        self.disk().observes = observes;
    }
}

/// Damage.
impl SimulatedDisk {
    /// Flips bits of a file, wherever it is: `bytes[at] ^= mask`, now and on the device. False
    /// where there is no such byte, and while a log is open on the disk. What a log that was open
    /// before gave out ([`Value::into_bytes`](crate::Value::into_bytes)) keeps its bytes.
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn flip(&self, name: &str, at: usize, mask: u8) -> bool {
        self.disk().replace(name, |bytes| {
            let byte = bytes.get_mut(at);
            byte.map(|byte| *byte ^= mask).is_some()
        })
    }

    /// Cuts a file to its first `len` bytes (0 removes it). False where there is no such file, or it is
    /// shorter, and while a log is open on the disk.
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn cut(&self, name: &str, len: usize) -> bool {
        let mut disk = self.disk();
        if len > 0 || name == MANIFEST {
            return disk.replace(name, |bytes| {
                let longer = len < bytes.len();
                bytes.truncate(len);
                longer
            });
        }
        if disk.locked {
            return false;
        }
        disk.durable_names.remove(name);
        disk.changes.retain(|change| change.name() != name);
        disk.names.remove(name).is_some()
    }

    /// Gives a file a copy of the bytes of another one. False where that is not there, and while a log
    /// is open on the disk.
    #[doc(hidden)]
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn copy(&self, from: &str, to: &str) -> bool {
        let mut disk = self.disk();
        let Some(bytes) = disk.bytes_of(from) else { return false };
        disk.put(to, &bytes)
    }

    /// The bytes of a file, now.
    #[doc(hidden)]
    #[must_use]
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.disk().bytes_of(name)
    }

    /// Makes or replaces a file, now and on the device. False while a log is open on the disk.
    #[doc(hidden)]
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn write(&self, name: &str, bytes: &[u8]) -> bool {
        self.disk().put(name, bytes)
    }

    /// The names of the files but the MANIFEST, with their lengths.
    #[must_use]
    pub fn files(&self) -> Vec<(String, usize)> {
        let disk = self.disk();
        let files = disk.names.iter().filter(|(name, _)| *name != MANIFEST);
        files.map(|(name, content)| (name.clone(), content.len())).collect()
    }
}

/// Files by their names.
type Names = BTreeMap<String, Arc<Content>>;

impl Change {
    fn name(&self) -> &str {
        match self {
            Self::Link { name, .. } | Self::Unlink { name } | Self::Rename { to: name, .. } => name,
        }
    }

    fn make(&self, names: &mut BTreeMap<String, Arc<Content>>) {
        match self {
            Self::Link { name, content } => drop(names.insert(name.clone(), content.clone())),
            Self::Unlink { name } => drop(names.remove(name)),
            Self::Rename { from, to, content } => {
                names.remove(from);
                names.insert(to.clone(), content.clone());
            }
        }
    }
}

impl Disk {
    fn link(&mut self, name: &str, content: Arc<Content>) {
        self.change(Change::Link { name: name.to_owned(), content });
    }

    fn rename(&mut self, from: &str, to: &str) {
        let content = self.names[from].clone();
        self.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), content });
    }

    fn unlink(&mut self, name: &str) -> io::Result<()> {
        if !self.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(Change::Unlink { name: name.to_owned() });
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.make(&mut self.names);
        if self.arena.is_some() {
            self.changes.push(change);
        }
    }

    /// Makes the names in the directory durable, or those in the folder of what was set aside.
    fn sync_names(&mut self, aside: bool) {
        let Self { changes, durable_names, .. } = self;
        changes.retain(|change| {
            let other = change.name().contains('/') != aside;
            if !other {
                change.make(durable_names);
            }
            other
        });
    }

    fn identity(&self, content: &Content) -> FileIdentity {
        FileIdentity { device: self.device, inode: content.inode }
    }

    /// Under the disk's lock, as all that looks at what is durable.
    fn sync(&self, content: &Content, from: usize, to: usize) {
        if self.arena.is_some() {
            content.sync(from, to);
        }
    }

    fn check_room(&self, len: u64) -> io::Result<()> {
        let segments = self.names.iter().filter(|(name, _)| *name != MANIFEST);
        let used: u64 = segments.map(|(_, content)| content.len() as u64).sum();
        match self.space {
            Some(space) if used + len > space => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn observe(&self) {
        if self.arena.is_some() {
            self.names.values().for_each(|content| content.observe());
        }
    }

    fn bytes_of(&self, name: &str) -> Option<Vec<u8>> {
        let content = self.names.get(name)?;
        Some(content.snapshot().read(0..content.len()))
    }

    /// Gives a name another file. What was mapped under it stays as it is.
    fn put(&mut self, name: &str, bytes: &[u8]) -> bool {
        let Some(arena) = self.arena.as_ref().filter(|_| !self.locked) else { return false };
        let mut sparse = sparse::Sparse::default();
        sparse.write(0, bytes);
        let content = Arc::new(Content::durable(arena, bytes.len(), sparse).expect(MEMORY));
        self.changes.retain(|change| change.name() != name);
        self.names.insert(name.to_owned(), content.clone());
        self.durable_names.insert(name.to_owned(), content);
        true
    }

    fn replace(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let Some(mut bytes) = self.bytes_of(name).filter(|_| !self.locked) else { return false };
        change(&mut bytes) && self.put(name, &bytes)
    }

    /// A disk with the same names, and with files that `copy` makes of those here, each once.
    fn image(
        &self,
        boots: u128,
        (names, durable_names): (&Names, &Names),
        mut copy: impl FnMut(&Arc<Arena>, &str, &Content) -> io::Result<Content>,
    ) -> io::Result<SimulatedDisk> {
        let arena = Arc::new(Arena::new()?);
        let mut copies: BTreeMap<*const Content, Arc<Content>> = BTreeMap::new();
        let mut copied = |name: &str, content: &Arc<Content>| {
            let key = Arc::as_ptr(content);
            if let Some(copy) = copies.get(&key) {
                return Ok(copy.clone());
            }
            let new = Arc::new(copy(&arena, name, content)?);
            copies.insert(key, new.clone());
            io::Result::Ok(new)
        };
        // The last segment first: see `between::snapshot`.
        let mut all = |names: &BTreeMap<String, Arc<Content>>| {
            let copies = names.iter().rev();
            copies.map(|(name, content)| Ok((name.clone(), copied(name, content)?))).collect()
        };
        let (names, durable_names): (io::Result<BTreeMap<_, _>>, io::Result<BTreeMap<_, _>>) =
            (all(names), all(durable_names));
        let changes = self.changes.iter().map(|change| {
            Ok(match change {
                Change::Unlink { name } => Change::Unlink { name: name.clone() },
                Change::Link { name, content } => {
                    Change::Link { name: name.clone(), content: copied(name, content)? }
                }
                Change::Rename { from, to, content } => Change::Rename {
                    from: from.clone(),
                    to: to.clone(),
                    content: copied(to, content)?,
                },
            })
        });
        let changes = if boots == 0 { changes.collect::<io::Result<_>>()? } else { Vec::new() };
        Ok(SimulatedDisk::with(Disk {
            boot_id: self.boot_id.map(|id| id + boots),
            device: self.device,
            names: names?,
            durable_names: durable_names?,
            changes,
            arena: Some(arena),
            ..Disk::default()
        }))
    }

    fn after_death(&self) -> io::Result<SimulatedDisk> {
        self.image(0, (&self.names, &self.durable_names), |arena, _, content| {
            content.after_death(arena)
        })
    }

    fn after_power_loss(
        &self,
        choose: &mut dyn FnMut(Unsynced<'_>) -> Fate,
    ) -> io::Result<SimulatedDisk> {
        let mut names = self.durable_names.clone();
        for change in &self.changes {
            if choose(Unsynced::Name { name: change.name() }) != Fate::Lost {
                change.make(&mut names);
            }
        }
        self.image(1, (&names, &names), |arena, name, content| {
            content.after_power_loss(arena, name, choose)
        })
    }
}

#[cfg(test)]
mod tests;
