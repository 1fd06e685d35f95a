//! Another program that fills the disk.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A file that takes what is free. It goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    file: Option<File>,
    len: u64,
}

impl Ballast {
    pub(crate) fn new(place: &Path) -> Self {
        let path = place.join("ballast");
        Self { file: File::create(&path).ok(), path, len: 0 }
    }

    /// Takes what has become free.
    pub(crate) fn grow(&mut self) {
        let Some(file) = &self.file else { return };
        for piece in [32 << 20, 1 << 20, 64 << 10, 4096] {
            while fallocate(file, FallocateFlags::empty(), self.len, piece).is_ok() {
                self.len += piece;
            }
        }
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        self.file = None;
        let _ = std::fs::remove_file(&self.path);
    }
}
