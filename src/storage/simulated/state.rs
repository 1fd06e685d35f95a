//! The state of a simulated disk: its names, the durable names, and the changes in between; and the
//! disks that a process death or a power loss would leave.

use super::content::Content;
use super::fate::{Fate, Unsynced};
use super::memory::Arena;
use super::operation::Failures;
use super::sparse::Sparse;
use crate::format::header::FileIdentity;
use crate::format::names::MANIFEST;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// For operations that fail only for lack of memory.
pub(super) const MEMORY: &str = "memory for a simulated disk";

/// Files by their names.
type Names = BTreeMap<String, Arc<Content>>;

/// Everything about a disk that its lock guards.
#[derive(Debug, Default)]
pub(super) struct DiskState {
    /// `None`: there is no boot id.
    pub(super) boot_id: Option<u128>,
    pub(super) device: u64,
    pub(super) locked: bool,
    /// `None`: memory for a log that is never reopened.
    pub(super) arena: Option<Arc<Arena>>,
    pub(super) names: Names,
    pub(super) durable_names: Names,
    /// Changes of names since the directory was synced, in order.
    pub(super) changes: Vec<NameChange>,
    pub(super) space: Option<u64>,
    pub(super) failures: Failures,
    pub(super) observes: bool,
}

/// A change of a name.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link { name: String, content: Arc<Content> },
    Rename { from: String, to: String, content: Arc<Content> },
    Unlink { name: String },
}

/// A number that no disk has.
pub(super) fn another_device() -> u64 {
    static DEVICES: AtomicU64 = AtomicU64::new(1);
    // ORDERING: Relaxed; a number, and no memory is touched by it.
    let minor = DEVICES.fetch_add(1, Ordering::Relaxed);
    // As Linux has it, with major number 8.
    8 << 8 | minor & 0xff | (minor >> 8) << 20
}

impl NameChange {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Link { name, .. } | Self::Unlink { name } | Self::Rename { to: name, .. } => name,
        }
    }

    fn make(&self, names: &mut Names) {
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

impl DiskState {
    pub(super) fn link(&mut self, name: &str, content: Arc<Content>) {
        self.change(NameChange::Link { name: name.to_owned(), content });
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let content = self.names[from].clone();
        self.change(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), content });
    }

    pub(super) fn unlink(&mut self, name: &str) -> io::Result<()> {
        if !self.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(NameChange::Unlink { name: name.to_owned() });
        Ok(())
    }

    fn change(&mut self, change: NameChange) {
        change.make(&mut self.names);
        if self.arena.is_some() {
            self.changes.push(change);
        }
    }

    /// Syncs the names in the directory, or in the `set-aside` folder.
    pub(super) fn sync_names(&mut self, aside: bool) {
        let Self { changes, durable_names, .. } = self;
        changes.retain(|change| {
            let other = change.name().contains('/') != aside;
            if !other {
                change.make(durable_names);
            }
            other
        });
    }

    pub(super) fn identity(&self, content: &Content) -> FileIdentity {
        FileIdentity { device: self.device, inode: content.inode }
    }

    /// Runs under the disk's lock, like everything that reads durable content.
    pub(super) fn sync(&self, content: &Content, from: usize, to: usize) {
        if self.arena.is_some() {
            content.sync(from, to);
        }
    }

    pub(super) fn check_room(&self, len: u64) -> io::Result<()> {
        let segments = self.names.iter().filter(|(name, _)| *name != MANIFEST);
        let used: u64 = segments.map(|(_, content)| content.len() as u64).sum();
        match self.space {
            Some(space) if used + len > space => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn observe(&self) {
        if self.arena.is_some() {
            self.names.values().for_each(|content| content.observe());
        }
    }

    pub(super) fn bytes_of(&self, name: &str) -> Option<Vec<u8>> {
        let content = self.names.get(name)?;
        Some(content.snapshot().read(0..content.len()))
    }

    /// Gives a name another file. Existing mappings keep the old one.
    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> bool {
        let Some(arena) = self.arena.as_ref().filter(|_| !self.locked) else { return false };
        let mut sparse = Sparse::default();
        sparse.write(0, bytes);
        let content = Arc::new(Content::durable(arena, bytes.len(), sparse).expect(MEMORY));
        self.changes.retain(|change| change.name() != name);
        self.names.insert(name.to_owned(), content.clone());
        self.durable_names.insert(name.to_owned(), content);
        true
    }

    pub(super) fn replace(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> bool {
        let Some(mut bytes) = self.bytes_of(name).filter(|_| !self.locked) else { return false };
        change(&mut bytes) && self.put(name, &bytes)
    }

    /// A disk with the same names, and with a copy of each file, made by `copy`.
    fn image(
        &self,
        boots: u128,
        (names, durable_names): (&Names, &Names),
        mut copy: impl FnMut(&Arc<Arena>, &str, &Content) -> io::Result<Content>,
    ) -> io::Result<Self> {
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
        let mut all = |names: &Names| {
            let copies = names.iter().rev();
            copies.map(|(name, content)| Ok((name.clone(), copied(name, content)?))).collect()
        };
        let (names, durable_names): (io::Result<BTreeMap<_, _>>, io::Result<BTreeMap<_, _>>) =
            (all(names), all(durable_names));
        let changes = self.changes.iter().map(|change| {
            Ok(match change {
                NameChange::Unlink { name } => NameChange::Unlink { name: name.clone() },
                NameChange::Link { name, content } => {
                    NameChange::Link { name: name.clone(), content: copied(name, content)? }
                }
                NameChange::Rename { from, to, content } => NameChange::Rename {
                    from: from.clone(),
                    to: to.clone(),
                    content: copied(to, content)?,
                },
            })
        });
        let changes = if boots == 0 { changes.collect::<io::Result<_>>()? } else { Vec::new() };
        Ok(Self {
            boot_id: self.boot_id.map(|id| id + boots),
            device: self.device,
            names: names?,
            durable_names: durable_names?,
            changes,
            arena: Some(arena),
            ..Self::default()
        })
    }

    pub(super) fn after_death(&self) -> io::Result<Self> {
        self.image(0, (&self.names, &self.durable_names), |arena, _, content| {
            content.after_death(arena)
        })
    }

    pub(super) fn after_power_loss(
        &self,
        choose: &mut dyn FnMut(Unsynced<'_>) -> Fate,
    ) -> io::Result<Self> {
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
