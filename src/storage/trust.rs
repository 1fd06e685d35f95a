//! Which directories and files are trusted enough to be mapped.
//!
//! A mapped file that somebody else changes is undefined behaviour, and one that cannot keep a page
//! that it has is a SIGBUS. So `open` takes what belongs to its user and can be written to by nobody
//! else, and file systems that write preallocated blocks in place.

use super::io_error;
use crate::error::OpenError;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What of these rules a user has lifted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// Other members of the group may own files, and write to them.
    pub(crate) shared: bool,
    /// Whatever the file system is.
    pub(crate) any_file_system: bool,
}

impl Rules {
    /// Bits of new files, less the umask.
    pub(super) const fn file_mode(self) -> u32 {
        if self.shared { 0o660 } else { 0o600 }
    }

    /// Bits of new directories, less the umask.
    pub(super) const fn directory_mode(self) -> u32 {
        if self.shared { 0o770 } else { 0o700 }
    }

    /// Whether nobody writes to a file or directory who could not write to this process, too.
    pub(super) fn check(self, path: &Path, metadata: &Metadata) -> Result<(), OpenError> {
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        let writers = if self.shared { 0o002 } else { 0o022 };
        if mode & writers != 0 {
            return Err(OpenError::NotPrivate { path: path.into(), mode });
        }
        let user = rustix::process::geteuid().as_raw();
        if !self.shared && owner != user && owner != 0 {
            return Err(OpenError::NotOwned { path: path.into(), owner, user });
        }
        Ok(())
    }

    /// Whether a preallocated page of a file in this directory can always be written to.
    pub(super) fn check_file_system(self, path: &Path, directory: &File) -> Result<(), OpenError> {
        if self.any_file_system {
            return Ok(());
        }
        let statfs = rustix::io::retry_on_intr(|| rustix::fs::fstatfs(directory));
        let found = statfs.map_err(|e| {
            io_error(format!("look at the file system of {}", path.display()), e.into())
        })?;
        // 32 bits on all architectures, in fields of different sizes and signs.
        let magic = found.f_type as u32;
        if IN_PLACE.contains(&magic) {
            return Ok(());
        }
        Err(OpenError::FileSystem { path: path.into(), name: name_of(magic) })
    }
}

const EXT: u32 = 0xef53;
const XFS: u32 = 0x5846_5342;
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;
const OVERLAY: u32 = 0x794c_7630;

/// They write to preallocated blocks where these are, or keep them in memory. What lies under an
/// overlay cannot be told; docs/durability.md says what is assumed of it.
const IN_PLACE: [u32; 5] = [EXT, XFS, TMPFS, RAMFS, OVERLAY];

const OTHERS: [(u32, &str); 20] = [
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0xf2f5_2010, "f2fs"),
    (0x6969, "nfs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x517b, "smb"),
    (0x00c3_6400, "ceph"),
    (0x786f_4256, "vboxsf"),
    (0xf15f, "ecryptfs"),
    (0x2011_bab0, "exfat"),
    (0x4d44, "vfat"),
    (0x5346_544e, "ntfs"),
    (0x7366_746e, "ntfs3"),
    (0x3434, "nilfs"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
];

fn name_of(magic: u32) -> String {
    let known = OTHERS.iter().find(|(known, _)| *known == magic);
    known.map_or_else(|| format!("of type {magic:#x}"), |(_, name)| (*name).to_owned())
}
