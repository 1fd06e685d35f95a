//! A disk as it may be after a power loss: what is known to be durable, and what else may be there.

mod content;
mod image;
mod names;

pub(crate) use content::Content;
pub use image::Image;
pub use names::NameOrder;
pub(crate) use names::{NameLog, Place};

use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A file or a directory, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileId {
    pub(crate) fn of(found: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: found.dev(), inode: found.ino() }
    }
}

/// Files, directories and names. A copy is cheap: it shares what does not change.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) root: FileId,
    pub(crate) files: BTreeMap<FileId, Arc<Content>>,
    /// Each with its permissions.
    pub(crate) directories: BTreeMap<FileId, u32>,
    pub(crate) names: Arc<NameLog>,
}

impl Disk {
    pub(crate) fn new(root: FileId) -> Self {
        let directories = BTreeMap::from([(root, 0o700)]);
        Self { root, files: BTreeMap::new(), directories, names: Arc::default() }
    }

    /// What a power loss leaves of it.
    pub(crate) fn lose(&self, seed: u64, order: Option<NameOrder>) -> Image {
        let mut random = Random::new(seed);
        let drawn = NameOrder::ALL[random.below(3) as usize];
        let order = order.unwrap_or(drawn);
        let (names, lost) = self.names.lose(&mut random, order);
        let kept: BTreeSet<_> = names.values().collect();
        let files = self.files.iter().filter(|(id, _)| kept.contains(id));
        let files = files.map(|(id, content)| (*id, content.lose(&mut random))).collect();
        Image::new(
            self,
            names,
            files,
            format!("seed {seed}, order {order:?}, lost names: {lost:?}"),
        )
    }
}
