//! What a child has done, counted in a file that outlives it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counts {
    ($($name:ident: $shown:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Count { $($name),* }

        /// How each of them is called in the table.
        pub(crate) const SHOWN: &[&str] = &[$($shown),*];
    };
}

counts! {
    Writes: "writes of single keys: puts, deletes, swaps, updates, expectations, touches",
    Batches: "batches of eight keys",
    Expiring: "puts that expire",
    Conditional: "counters counted up",
    Gets: "gets beside writers",
    GetMany: "get_many of groups",
    Iterations: "iterations",
    Merges: "merges in the background",
    MergesByHand: "merges by hand",
    Reclaimed: "bytes reclaimed by merges",
    Verified: "verified whole, under load",
    Followed: "entries followed by waiting",
    Streamed: "entries streamed",
    Consumed: "entries consumed with checkpoints",
    Truncations: "truncations of the log by hand",
    BackupsRefused: "backups refused on a full disk",
}

#[derive(Debug)]
pub(crate) struct Tally {
    file: File,
    counts: Vec<AtomicU64>,
}

impl Tally {
    pub(crate) fn create(path: &Path) -> Self {
        let counts = SHOWN.iter().map(|_| AtomicU64::new(0)).collect();
        Self { file: File::create_new(path).unwrap(), counts }
    }

    pub(crate) fn add(&self, count: Count, n: u64) {
        self.counts[count as usize].fetch_add(n, Relaxed);
    }

    pub(crate) fn set(&self, count: Count, n: u64) {
        self.counts[count as usize].store(n, Relaxed);
    }

    pub(crate) fn save(&self) {
        let all = self.counts.iter().flat_map(|count| count.load(Relaxed).to_le_bytes());
        self.file.write_all_at(&all.collect::<Vec<_>>(), 0).unwrap();
    }

    pub(crate) fn read(path: &Path) -> Vec<(&'static str, u64)> {
        let bytes = fs::read(path).unwrap_or_default();
        let counts = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        SHOWN.iter().copied().zip(counts).collect()
    }
}
