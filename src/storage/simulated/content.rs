//! One file of a simulated disk: its bytes in the page cache, its bytes on the device, and the states
//! in between that the device may have got.

use super::between::{self, FrameSpans};
use super::fate::{Fate, Unsynced};
use super::memory::{Arena, Memory, PAGE, SECTOR};
use super::sparse::{Sector, Sparse};
use crate::storage::map::Map;
use crate::sync::{Mutex, MutexGuard, lock};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// States of a sector that are kept between two syncs.
const VERSIONS: usize = 6;
/// How often a sector is read that writers keep changing.
const LOOKS: usize = 64;

#[derive(Debug)]
pub(super) struct Content {
    pub(super) memory: Memory,
    /// The same in all images.
    pub(super) inode: u64,
    device: Mutex<Device>,
}

/// Inodes are drawn once in a process, whatever the disk.
static INODES: AtomicU64 = AtomicU64::new(1);

/// What a power loss would leave.
#[derive(Clone, Debug, Default)]
struct Device {
    durable: Sparse,
    /// The length of the file that is durable.
    len: usize,
    /// States in which sectors were observed since they were synced, in order. Any of them may have been
    /// written back.
    seen: BTreeMap<usize, Vec<Arc<Sector>>>,
}

impl Device {
    /// The latest known state of a sector.
    fn latest(&self, sector: usize) -> &Sector {
        let seen = self.seen.get(&sector).and_then(|seen| seen.last());
        seen.map_or_else(|| self.durable.sector(sector), |seen| &**seen)
    }

    fn see(&mut self, sector: usize, bytes: Sector) {
        if *self.latest(sector) == bytes {
            return;
        }
        let seen = self.seen.entry(sector).or_default();
        if seen.len() == VERSIONS {
            seen.remove(VERSIONS / 2);
        }
        seen.push(Arc::new(bytes));
    }
}

impl Content {
    /// A new file, of which nothing is on the device.
    pub(super) fn new(arena: Option<&Arc<Arena>>, len: usize) -> io::Result<Self> {
        let memory = match arena {
            Some(arena) => Memory::new(arena, len)?,
            None => Memory::private(len)?,
        };
        // ORDERING: Relaxed; a number, and no memory is touched by it.
        let inode = INODES.fetch_add(1, Ordering::Relaxed);
        Ok(Self { memory, inode, device: Mutex::default() })
    }

    /// A file with these bytes, in the page cache and on the device.
    pub(super) fn durable(arena: &Arc<Arena>, len: usize, durable: Sparse) -> io::Result<Self> {
        let mut content = Self::new(Some(arena), len)?;
        content.fill_with(&durable)?;
        *content.device() = Device { durable, len, seen: BTreeMap::new() };
        Ok(content)
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        lock(&self.device)
    }

    pub(super) fn len(&self) -> usize {
        self.memory.len()
    }

    pub(super) fn map(&self, writable: bool) -> io::Result<Map> {
        self.memory.map(writable)
    }

    fn fill_with(&mut self, bytes: &Sparse) -> io::Result<()> {
        for page in bytes.pages() {
            let at = page * PAGE;
            let len = PAGE.min(self.len().saturating_sub(at));
            self.memory.fill(at, &bytes.page(page)[..len])?;
        }
        Ok(())
    }

    /// The bytes now, while writers store to them: a state in which the process could have died.
    pub(super) fn snapshot(&self) -> Sparse {
        between::snapshot(&self.memory)
    }

    /// Makes a range durable.
    pub(super) fn sync(&self, from: usize, to: usize) {
        let mut device = self.device();
        let to = to.min(self.len());
        device.len = self.len();
        let here = |page: &usize| page * PAGE < to && (page + 1) * PAGE > from;
        let mut pages: BTreeSet<_> = self.memory.pages().into_iter().filter(here).collect();
        pages.extend(device.durable.pages().filter(here));
        let mut buffer = [0; PAGE];
        for page in pages {
            let (start, end) = (from.max(page * PAGE), to.min((page + 1) * PAGE));
            // Whole words, so that none is read twice.
            let word = start & !7;
            self.memory.read(word, &mut buffer[..end - word]);
            device.durable.write(start, &buffer[start - word..end - word]);
        }
        let Device { durable, seen, .. } = &mut *device;
        seen.retain(|&sector, versions| {
            let (start, end) = (sector * SECTOR, (sector + 1) * SECTOR);
            if end <= from || start >= to {
                return true;
            }
            let (start, end) = (from.max(start) - start, to.min(end) - start);
            for version in versions {
                let synced = &durable.sector(sector)[start..end];
                Arc::make_mut(version)[start..end].copy_from_slice(synced);
            }
            (start, end) != (0, SECTOR)
        });
    }

    /// Records the present state of each sector.
    pub(super) fn observe(&self) {
        let mut device = self.device();
        let mut pages: BTreeSet<_> = self.memory.pages().into_iter().collect();
        pages.extend(device.durable.pages());
        let mut buffer = [0; PAGE];
        for page in pages {
            self.memory.read(page * PAGE, &mut buffer);
            for (nth, bytes) in buffer.as_chunks::<SECTOR>().0.iter().enumerate() {
                let sector = page * (PAGE / SECTOR) + nth;
                if device.latest(sector) != bytes
                    && let Some(bytes) = self.settled(sector)
                {
                    device.see(sector, bytes);
                }
            }
        }
    }

    /// A sector as it was at one moment: the same when read twice. `None` if writers change it all the
    /// time.
    fn settled(&self, sector: usize) -> Option<Sector> {
        let mut looks = [[0; SECTOR]; 2];
        self.memory.read(sector * SECTOR, &mut looks[0]);
        for look in 1..LOOKS {
            self.memory.read(sector * SECTOR, &mut looks[look % 2]);
            if looks[0] == looks[1] {
                return Some(looks[0]);
            }
        }
        None
    }

    /// The file after the death of the process: the page cache stays, and is no more durable than before.
    pub(super) fn after_death(&self, arena: &Arc<Arena>) -> io::Result<Self> {
        let mut content = Self { inode: self.inode, ..Self::new(Some(arena), self.len())? };
        content.fill_with(&self.snapshot())?;
        *content.device() = self.device().clone();
        Ok(content)
    }

    /// The file after a power loss. `choose` decides what becomes of unsynced sectors.
    pub(super) fn after_power_loss(
        &self,
        arena: &Arc<Arena>,
        name: &str,
        choose: &mut dyn FnMut(Unsynced<'_>) -> Fate,
    ) -> io::Result<Self> {
        let device = self.device().clone();
        let newest = self.snapshot();
        let mut spans = None;
        let mut bytes = device.durable.clone();
        let mut pages: BTreeSet<_> = newest.pages().chain(bytes.pages()).collect();
        pages.extend(device.seen.keys().map(|sector| sector * SECTOR / PAGE));
        let sectors = pages.into_iter().flat_map(|p| p * PAGE / SECTOR..(p + 1) * PAGE / SECTOR);
        for sector in sectors {
            let new = newest.sector(sector);
            let empty = Vec::new();
            let seen = device.seen.get(&sector).unwrap_or(&empty);
            let last = seen.last().map_or_else(|| device.durable.sector(sector), |seen| &**seen);
            let changed = last != new;
            let versions = 1 + seen.len() + usize::from(changed);
            if versions == 1 {
                continue;
            }
            let version = |nth: usize| -> &Sector {
                match nth {
                    0 => device.durable.sector(sector),
                    nth => seen.get(nth - 1).map_or(new, |seen| seen),
                }
            };
            match choose(Unsynced::Sector { file: name, sector, versions }) {
                Fate::Lost => {}
                Fate::Kept => bytes.write(sector * SECTOR, new),
                Fate::Seen(nth) => bytes.write(sector * SECTOR, version(nth % versions)),
                Fate::Between(seed) => {
                    let spans = spans.get_or_insert_with(|| FrameSpans::of(&newest, self.len()));
                    let old = version(seed as usize % (versions - 1));
                    bytes.write(sector * SECTOR, &spans.between(sector, old, new, seed));
                }
            }
        }
        let mut len = self.len();
        if device.len < len {
            len = match choose(Unsynced::Length { file: name }) {
                Fate::Lost => device.len,
                Fate::Kept | Fate::Seen(_) => len,
                Fate::Between(seed) => device.len + seed as usize % (len - device.len + 1),
            };
            bytes.cut(len);
        }
        Ok(Self { inode: self.inode, ..Self::durable(arena, len, bytes)? })
    }
}
