//! [`SimulatedDisk`]: a disk in memory that fails and loses power where a test says so.

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
/// ([`LogOptions::open_simulated`](crate::LogOptions::open_simulated)) runs the same code as on files.
/// An image taken of it by [`process_death`](Self::process_death) or [`power_loss`](Self::power_loss)
/// is another disk, which can be opened, die and lose power in turn. The death of a process makes
/// nothing durable that was not durable before.
///
/// Images can be taken at any time, while threads append, and from [inside an
/// operation](Self::on_operation).
///
/// # What a power loss may leave
///
/// * Each sector (512 bytes) that changed since it was synced may have the content synced last, its
///   present content, any content it was [observed](Self::observe) with since, or one in between, word
///   by word, that appends can pass through: of a frame, nothing, its claim with some of its body, or
///   all of it.
/// * Each change of a name (created, renamed, replaced, removed) since the directory was synced may
///   have happened or not, independently.
/// * A file that was never synced may have any part of its length.
///
/// # What a death leaves
///
/// The page cache, that is, what appends stored. If the image has an append, it also has all others
/// that had returned before that one began.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Mutex<Disk>>);

/// Something unsynced, whose fate a power loss decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsynced<'a> {
    /// A sector of a file, with its known versions: the durable one, those observed, and the newest
    /// one.
    Sector {
        /// The name of the file.
        file: &'a str,
        /// The number of the sector.
        sector: usize,
        /// At least 2.
        versions: usize,
    },
    /// The creation, replacement or removal of a name.
    Name {
        /// The name; the new one if a file was renamed.
        name: &'a str,
    },
    /// The length of a file that was never synced.
    Length {
        /// The name of the file.
        file: &'a str,
    },
}

/// What a power loss leaves of something unsynced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// Its last synced state.
    Lost,
    /// Its present state.
    Kept,
    /// A sector: this one of its versions (modulo their number).
    Seen(usize),
    /// A sector: on its way to the newest version, as far as the seed says. A length: somewhere in
    /// between.
    Between(u64),
}

type Hook = Arc<dyn Fn(&SimulatedDisk, DiskOperation, &str) -> io::Result<()> + Send + Sync>;

#[derive(Default)]
struct Disk {
    /// `None`: there is no boot id.
    boot_id: Option<u128>,
    device: u64,
    locked: bool,
    /// `None`: memory for a log that is never reopened.
    arena: Option<Arc<Arena>>,
    names: BTreeMap<String, Arc<Content>>,
    durable_names: BTreeMap<String, Arc<Content>>,
    /// Changes of names since the directory was synced, in order.
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

/// For operations that fail only for lack of memory.
const MEMORY: &str = "memory for a simulated disk";

impl SimulatedDisk {
    /// An empty disk.
    ///
    /// # Panics
    /// If there is not enough memory.
    #[must_use]
    pub fn new() -> Self {
        let arena = Some(Arc::new(Arena::new().expect(MEMORY)));
        Self::with(Disk { boot_id: Some(1), device: another_device(), arena, ..Disk::default() })
    }

    /// Memory for a log that is never reopened: durable versions are not kept.
    pub(crate) fn volatile() -> Self {
        Self::with(Disk { boot_id: Some(1), ..Disk::default() })
    }

    fn with(disk: Disk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the writer's lock.
    pub(crate) fn attach(&self) -> Result<SimulatedStorage, OpenError> {
        let read = self.step(DiskOperation::ReadBootId, "");
        read.map_err(|e| super::io_error("read the boot id", e))?;
        let mut disk = self.disk();
        if std::mem::replace(&mut disk.locked, true) {
            return Err(OpenError::Locked { path: "simulated disk".into() });
        }
        Ok(SimulatedStorage(self.clone()))
    }

    /// Runs before each operation: observes the sectors, calls the hook, and fails if that is planned.
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
    /// Limits the bytes of segments that fit on the disk; `None` is no limit.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.disk().space = bytes;
    }

    /// Lets the next `syncs` syncs succeed; all later ones fail.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.disk().failures.syncs_left = Some(syncs);
    }

    /// Lets the next `operations` operations that [change the disk](DiskOperation::is_write) succeed;
    /// all later ones fail.
    pub fn fail_after(&self, operations: u64) {
        self.disk().failures.writes_left = Some(operations);
    }

    /// How many operations [`fail_after`](Self::fail_after) still lets succeed.
    #[must_use]
    pub fn operations_left(&self) -> Option<u64> {
        self.disk().failures.writes_left
    }

    /// Makes one operation fail: the one after the next `after` of its kind.
    pub fn fail_once(&self, operation: DiskOperation, after: u64) {
        self.fail_once_with(operation, "", after, io::ErrorKind::Other);
    }

    /// As [`fail_once`](Self::fail_once), counting only operations on files whose name contains `name`,
    /// and with an error of this kind.
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

    /// Whether all failures planned with [`fail_once`](Self::fail_once) have happened.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.disk().failures.once.is_empty()
    }

    /// Calls `hook` before each operation, with the name of its file. The hook may take images, and may
    /// make the operation fail. It runs in the operation's thread, which may hold locks of the log.
    pub fn on_operation(
        &self,
        hook: impl Fn(&Self, DiskOperation, &str) -> io::Result<()> + Send + Sync + 'static,
    ) {
        self.disk().hook = Some(Arc::new(hook));
    }
}

/// Images.
impl SimulatedDisk {
    /// The disk as it is if the process dies now: the page cache survives.
    #[must_use]
    pub fn process_death(&self) -> Self {
        self.disk().after_death().expect(MEMORY)
    }

    /// The disk as a power loss now could leave it, under another boot id. `choose` gets the name of a
    /// file and the number of a sector, and decides whether this sector reached the device. It is
    /// called for each sector written since it was last synced, for each change of a name since the
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

    /// As [`power_loss`](Self::power_loss), with every possible [`Fate`].
    #[must_use]
    pub fn power_loss_by(&self, mut choose: impl FnMut(Unsynced<'_>) -> Fate) -> Self {
        self.disk().after_power_loss(&mut choose).expect(MEMORY)
    }

    /// A random power loss with all of these fates, from "almost nothing was written back" to "almost
    /// everything", depending on the seed.
    #[must_use]
    pub fn power_loss_at_random(&self, seed: u64) -> Self {
        let mut state = seed | 1;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
        };
        // A few draws, so that consecutive seeds give different results.
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

    /// As [`power_loss_by`](Self::power_loss_by), but in the same boot: the device was a snapshot, or
    /// was removed, and is attached again as another one.
    #[must_use]
    pub fn on_another_device(&self, mut choose: impl FnMut(Unsynced<'_>) -> Fate) -> Self {
        let image = self.disk().after_power_loss(&mut choose).expect(MEMORY);
        let boot_id = self.disk().boot_id;
        let mut disk = image.disk();
        (disk.boot_id, disk.device) = (boot_id, another_device());
        drop(disk);
        image
    }

    /// Says which start of the kernel this is; `None`: there is no boot id.
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

    /// Records the present content of each sector as one that a power loss may leave. A few versions
    /// are kept for each sector until it is synced. Another thread may call this while writers are
    /// running.
    pub fn observe(&self) {
        self.disk().observe();
    }

    /// Whether every operation [observes](Self::observe) first.
    pub fn observe_operations(&self, observes: bool) {
        self.disk().observes = observes;
    }
}

/// Damage.
impl SimulatedDisk {
    /// Flips bits of a file, `bytes[at] ^= mask`, in the page cache and on the device. False if there
    /// is no such byte, or a log is open on the disk. Values that an earlier log handed out
    /// ([`Value::into_bytes`](crate::Value::into_bytes)) keep their bytes.
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn flip(&self, name: &str, at: usize, mask: u8) -> bool {
        self.disk().replace(name, |bytes| {
            let byte = bytes.get_mut(at);
            byte.map(|byte| *byte ^= mask).is_some()
        })
    }

    /// Cuts a file to its first `len` bytes (0 removes it). False if there is no such file, it is
    /// shorter, or a log is open on the disk.
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

    /// Copies the content of one file to another. False if the first does not exist, or a log is open
    /// on the disk.
    #[doc(hidden)]
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn copy(&self, from: &str, to: &str) -> bool {
        let mut disk = self.disk();
        let Some(bytes) = disk.bytes_of(from) else { return false };
        disk.put(to, &bytes)
    }

    /// The present content of a file.
    #[doc(hidden)]
    #[must_use]
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.disk().bytes_of(name)
    }

    /// Creates or replaces a file, in the page cache and on the device. False if a log is open on the
    /// disk.
    #[doc(hidden)]
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn write(&self, name: &str, bytes: &[u8]) -> bool {
        self.disk().put(name, bytes)
    }

    /// The names of all files except the MANIFEST, with their lengths.
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

    /// Syncs the names in the directory, or in the `set-aside` folder.
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

    /// Runs under the disk's lock, like everything that reads durable content.
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

    /// Gives a name another file. Existing mappings keep the old one.
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

    /// A disk with the same names, and with a copy of each file, made by `copy`.
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
        // The last segment comes first: see `between::snapshot`.
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
