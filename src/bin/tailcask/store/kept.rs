//! Removed segments that another process keeps mapped, as the kernel tells it.

use crate::units::counted;
use indicatif::BinaryBytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Removed segments of a store, whose space is not released before they are unmapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeptSegments {
    segments: u64,
    /// Bytes of address space.
    mapped: u64,
}

impl KeptSegments {
    /// Of the store in `dir`. `None` where the system does not tell, or the process has ended.
    pub(super) fn of(process: u32, dir: &Path) -> Option<Self> {
        let maps = std::fs::read(format!("/proc/{process}/maps")).ok()?;
        let dir = dir.canonicalize().ok()?;
        Some(Self::parse(&String::from_utf8_lossy(&maps), &dir))
    }

    fn parse(maps: &str, dir: &Path) -> Self {
        // By their inodes: a segment may be in several mappings.
        let mut all: BTreeMap<&str, u64> = BTreeMap::new();
        for line in maps.lines() {
            if let Some((inode, bytes)) = removed(line, dir) {
                *all.entry(inode).or_default() += bytes;
            }
        }
        Self { segments: all.len() as u64, mapped: all.values().sum() }
    }

    pub(super) const fn is_empty(self) -> bool {
        self.segments == 0
    }

    pub(super) fn to_json(self) -> Value {
        json!({ "segments": self.segments, "mapped_bytes": self.mapped })
    }
}

/// The inode and the length of a mapping of a removed segment. A line is `from-to flags offset device
/// inode path`.
fn removed<'l>(line: &'l str, dir: &Path) -> Option<(&'l str, u64)> {
    let path = Path::new(line.get(line.find('/')?..)?.strip_suffix(" (deleted)")?);
    let name = path.file_name()?.to_str()?.strip_suffix(".seg")?;
    if path.parent() != Some(dir) || name.bytes().any(|byte| !byte.is_ascii_digit()) {
        return None;
    }
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some((fields.nth(3)?, address(to)?.checked_sub(address(from)?)?))
}

impl fmt::Display for KeptSegments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segments = counted(self.segments, "removed segment");
        let mapped = BinaryBytes(self.mapped);
        write!(f, "{segments} of {mapped}, which what that process has read keeps on disk")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_segments_are_found_among_the_mappings_of_a_process() {
        let maps = "\
7f0000000000-7f0000200000 r--s 00000000 08:01 11 /data/my db/00000000000000000001.seg (deleted)
7f0000200000-7f0000300000 r--s 00200000 08:01 11 /data/my db/00000000000000000001.seg (deleted)
7f0000300000-7f0000400000 r--s 00000000 08:01 12 /data/my db/00000000000000000002.seg
7f0000400000-7f0000500000 r--s 00000000 08:01 13 /data/other/00000000000000000003.seg (deleted)
7f0000500000-7f0000600000 r--s 00000000 08:01 14 /data/my db/00000000000000000004.seg (deleted)
7f0000600000-7f0000700000 r--s 00000000 08:01 15 /data/my db/x.seg (deleted)
7f0000700000-7f0000800000 rw-p 00000000 00:00 0
";
        let kept = KeptSegments::parse(maps, Path::new("/data/my db"));
        assert_eq!(kept, KeptSegments { segments: 2, mapped: 4 << 20 });
        assert!(KeptSegments::parse(maps, Path::new("/data")).is_empty());
    }
}
