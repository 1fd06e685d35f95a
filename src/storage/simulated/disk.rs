//! The disk that programs hold: how it is made to fail, to be damaged, and to leave images.

use super::fate::{Fate, Unsynced};
use super::memory::Arena;
use super::operation::{DiskOperation, PlannedFailure};
use super::state::{DiskState, MEMORY, another_device};
use crate::format::names::MANIFEST;
use crate::sync::{Mutex, MutexGuard, lock};
use std::fmt;
use std::io;
use std::sync::Arc;

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
///
/// # Examples
///
/// ```
/// use tailcask::{CommitLog, SimulatedDisk};
///
/// let disk = SimulatedDisk::new();
/// let log = CommitLog::options().open_simulated(&disk)?;
/// log.append(b"durable")?;
/// log.sync()?;
/// log.append(b"buffered")?;
///
/// // What another process finds after `kill -9`, and after power losses: all kinds of them, by seed.
/// let count = |disk: &SimulatedDisk| {
///     let log = CommitLog::options().open_simulated(disk)?;
///     let (mut reader, mut count) = (log.reader(), 0);
///     while reader.next_entry()?.is_some() {
///         count += 1;
///     }
///     Ok::<_, tailcask::Error>(count)
/// };
/// assert_eq!(count(&disk.process_death())?, 2);
/// for seed in 0..20 {
///     assert!((1..=2).contains(&count(&disk.power_loss_at_random(seed))?));
/// }
/// // Nothing of what was not synced, and all of it; `power_loss_by` chooses for each sector.
/// assert_eq!(count(&disk.power_loss(|_, _| false))?, 1);
/// assert_eq!(count(&disk.power_loss(|_, _| true))?, 2);
///
/// disk.fail_sync_after(0);
/// assert!(log.sync().is_err());
/// assert!(log.append(b"refused from now on").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A full disk, and damage:
///
/// ```
/// use tailcask::{SimulatedDisk, Store, WriteError};
///
/// let disk = SimulatedDisk::new();
/// let store = Store::options().open_simulated(&disk)?;
/// store.put("key", "value")?;
/// disk.set_space(Some(0));
/// let mut result = Ok(());
/// for n in 0..100u32 {
///     result = result.and_then(|()| store.put(n.to_le_bytes(), vec![0; 1 << 20]).map(drop));
/// }
/// assert!(matches!(result, Err(WriteError::Append(_))));
/// disk.set_space(None);
/// store.close()?;
///
/// let (name, bytes) = disk.files().into_iter().find(|(name, _)| name.ends_with("1.seg")).unwrap();
/// let image = disk.read(&name).expect("it is there");
/// assert_eq!(image.len(), bytes);
/// disk.flip(&name, 200, 1);
/// disk.copy(&name, "damaged");
/// disk.write(&name, &image);
/// disk.cut("damaged", 0); // removes it
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Operations that fail, and machines that restart:
///
/// ```
/// use std::io::{Error, ErrorKind};
/// use tailcask::{CommitLog, DiskOperation, Fate, SimulatedDisk};
///
/// let disk = SimulatedDisk::new();
/// disk.fail_once(DiskOperation::SyncDirectory, 0);
/// assert!(CommitLog::options().open_simulated(&disk).is_err());
/// disk.fail_once_with(DiskOperation::Create, "seg", 0, ErrorKind::StorageFull);
/// disk.fail_after(1_000); // and from then on everything does
/// disk.observe_operations(true); // contents in between may be left by a power loss, too
/// disk.on_operation(|_, operation, name| {
///     println!("{operation:?} {name}");
///     if name == "forbidden" { Err(Error::from(ErrorKind::PermissionDenied)) } else { Ok(()) }
/// });
/// let moved = disk.on_another_device(|_| Fate::Kept); // a snapshot of the volume
/// moved.set_boot_id(Some(7)); // another start of the machine
/// ```
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Disk>);

struct Disk {
    state: Mutex<DiskState>,
    /// Beside the state, since it may ask the disk for images.
    hook: Mutex<Option<Hook>>,
}

type Hook = Arc<dyn Fn(&SimulatedDisk, DiskOperation, &str) -> io::Result<()> + Send + Sync>;

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

impl SimulatedDisk {
    /// An empty disk.
    ///
    /// # Panics
    /// If there is not enough memory.
    #[must_use]
    pub fn new() -> Self {
        let arena = Some(Arc::new(Arena::new().expect(MEMORY)));
        Self::with(DiskState {
            boot_id: Some(1),
            device: another_device(),
            arena,
            ..DiskState::default()
        })
    }

    /// Memory for a log that is never reopened: durable versions are not kept.
    pub(crate) fn volatile() -> Self {
        Self::with(DiskState { boot_id: Some(1), ..DiskState::default() })
    }

    fn with(state: DiskState) -> Self {
        Self(Arc::new(Disk { state: Mutex::new(state), hook: Mutex::default() }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, DiskState> {
        lock(&self.0.state)
    }

    /// Runs before each operation: observes the sectors, calls the hook, and fails if that is planned.
    pub(super) fn step(&self, operation: DiskOperation, name: &str) -> io::Result<()> {
        {
            let state = self.state();
            if state.observes && operation.is_write() {
                state.observe();
            }
        }
        let hook = lock(&self.0.hook).clone();
        if let Some(hook) = hook {
            hook(self, operation, name)?;
        }
        self.state().failures.check(operation, name)
    }
}

/// Failures.
impl SimulatedDisk {
    /// Limits the bytes of segments that fit on the disk; `None` is no limit.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// Lets the next `syncs` syncs succeed; all later ones fail.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state().failures.syncs_left = Some(syncs);
    }

    /// Lets the next `operations` operations that [change the disk](DiskOperation::is_write) succeed;
    /// all later ones fail.
    pub fn fail_after(&self, operations: u64) {
        self.state().failures.writes_left = Some(operations);
    }

    /// How many operations [`fail_after`](Self::fail_after) still lets succeed.
    #[must_use]
    pub fn operations_left(&self) -> Option<u64> {
        self.state().failures.writes_left
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
        let once = PlannedFailure { operation, name: name.to_owned(), after, kind };
        self.state().failures.once.push(once);
    }

    /// Whether all failures planned with [`fail_once`](Self::fail_once) have happened.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.state().failures.once.is_empty()
    }

    /// Calls `hook` before each operation, with the name of its file. The hook may take images, and may
    /// make the operation fail. It runs in the operation's thread, which may hold locks of the log.
    pub fn on_operation(
        &self,
        hook: impl Fn(&Self, DiskOperation, &str) -> io::Result<()> + Send + Sync + 'static,
    ) {
        *lock(&self.0.hook) = Some(Arc::new(hook));
    }
}

/// Images.
impl SimulatedDisk {
    /// The disk as it is if the process dies now: the page cache survives.
    #[must_use]
    pub fn process_death(&self) -> Self {
        Self::with(self.state().after_death().expect(MEMORY))
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
        Self::with(self.state().after_power_loss(&mut choose).expect(MEMORY))
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
        let image = Self::with(self.state().after_power_loss(&mut choose).expect(MEMORY));
        let boot_id = self.state().boot_id;
        let mut state = image.state();
        (state.boot_id, state.device) = (boot_id, another_device());
        drop(state);
        image
    }

    /// Says which start of the kernel this is; `None`: there is no boot id.
    pub fn set_boot_id(&self, boot_id: Option<u128>) {
        self.state().boot_id = boot_id;
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
        self.state().observe();
    }

    /// Whether every operation [observes](Self::observe) first.
    pub fn observe_operations(&self, observes: bool) {
        self.state().observes = observes;
    }
}

/// Damage.
impl SimulatedDisk {
    /// Flips bits of a file, `bytes[at] ^= mask`, in the page cache and on the device. False if there
    /// is no such byte, or a log is open on the disk. Values that an earlier log handed out
    /// ([`Value::into_bytes`](crate::Value::into_bytes)) keep their bytes.
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn flip(&self, name: &str, at: usize, mask: u8) -> bool {
        self.state().replace(name, |bytes| {
            let byte = bytes.get_mut(at);
            byte.map(|byte| *byte ^= mask).is_some()
        })
    }

    /// Cuts a file to its first `len` bytes (0 removes it). False if there is no such file, it is
    /// shorter, or a log is open on the disk.
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn cut(&self, name: &str, len: usize) -> bool {
        let mut state = self.state();
        if len > 0 || name == MANIFEST {
            return state.replace(name, |bytes| {
                let longer = len < bytes.len();
                bytes.truncate(len);
                longer
            });
        }
        if state.locked {
            return false;
        }
        state.durable_names.remove(name);
        state.changes.retain(|change| change.name() != name);
        state.names.remove(name).is_some()
    }

    /// Copies the content of one file to another. False if the first does not exist, or a log is open
    /// on the disk.
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn copy(&self, from: &str, to: &str) -> bool {
        let mut state = self.state();
        let Some(bytes) = state.bytes_of(from) else { return false };
        state.put(to, &bytes)
    }

    /// The present content of a file.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.state().bytes_of(name)
    }

    /// Creates or replaces a file, in the page cache and on the device. False if a log is open on the
    /// disk.
    #[allow(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn write(&self, name: &str, bytes: &[u8]) -> bool {
        self.state().put(name, bytes)
    }

    /// The names of all files except the MANIFEST, with their lengths.
    #[must_use]
    pub fn files(&self) -> Vec<(String, usize)> {
        let state = self.state();
        let files = state.names.iter().filter(|(name, _)| *name != MANIFEST);
        files.map(|(name, content)| (name.clone(), content.len())).collect()
    }
}
