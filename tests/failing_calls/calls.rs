//! The system calls that may fail, and how.

use crash_kit::tracer::Call;
use libc::c_long;
use std::path::Path;

/// Which call is to fail, of those that may, and with which of its error numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) call: usize,
    pub(crate) nth: usize,
    /// Whether the process is killed when it has told what came of the step.
    pub(crate) dies: bool,
}

/// What a call is about.
#[derive(Clone, Copy, Debug)]
enum About {
    /// The file of this argument.
    Descriptor(usize),
    /// The path of the second of these arguments, in the directory of the first.
    Name(usize, usize),
    /// The path of this argument.
    #[cfg(target_arch = "x86_64")]
    Path(usize),
    /// Memory: that of any map.
    Memory,
}
#[cfg(target_arch = "x86_64")]
use About::Path as InPath;
use About::{Descriptor, Memory, Name};

const CALLS: &[(c_long, &str, About, &[i32])] = &[
    (
        libc::SYS_openat,
        "openat",
        Name(0, 1),
        &[libc::EIO, libc::EMFILE, libc::ENOSPC, libc::EACCES],
    ),
    (libc::SYS_fsync, "fsync", Descriptor(0), &[libc::EIO, libc::ENOSPC]),
    (libc::SYS_fdatasync, "fdatasync", Descriptor(0), &[libc::EIO, libc::EDQUOT]),
    (libc::SYS_msync, "msync", Memory, &[libc::EIO]),
    (libc::SYS_fallocate, "fallocate", Descriptor(0), &[libc::ENOSPC, libc::EIO, libc::EINTR]),
    (libc::SYS_ftruncate, "ftruncate", Descriptor(0), &[libc::EIO, libc::EINTR]),
    (libc::SYS_renameat2, "renameat2", Name(0, 1), &[libc::EIO, libc::ENOSPC]),
    (libc::SYS_renameat, "renameat", Name(0, 1), &[libc::ENOSPC, libc::EIO]),
    (libc::SYS_linkat, "linkat", Name(2, 3), &[libc::EIO, libc::ENOSPC, libc::EMLINK, libc::EXDEV]),
    (libc::SYS_unlinkat, "unlinkat", Name(0, 1), &[libc::EIO]),
    (libc::SYS_mkdirat, "mkdirat", Name(0, 1), &[libc::EIO, libc::ENOSPC]),
    (libc::SYS_read, "read", Descriptor(0), &[libc::EIO, libc::EINTR]),
    (libc::SYS_pread64, "pread64", Descriptor(0), &[libc::EIO, libc::EINTR]),
    (libc::SYS_write, "write", Descriptor(0), &[libc::EIO, libc::ENOSPC, libc::EINTR]),
    (libc::SYS_pwrite64, "pwrite64", Descriptor(0), &[libc::ENOSPC, libc::EIO, libc::EINTR]),
    (libc::SYS_copy_file_range, "copy_file_range", Descriptor(0), &[libc::EIO, libc::ENOSPC]),
    (libc::SYS_mmap, "mmap", Descriptor(4), &[libc::ENOMEM]),
    (libc::SYS_madvise, "madvise", Memory, &[libc::ENOMEM, libc::EINVAL]),
    (libc::SYS_flock, "flock", Descriptor(0), &[libc::ENOLCK, libc::EINTR]),
    (libc::SYS_fcntl, "fcntl", Descriptor(0), &[libc::ENOLCK, libc::EINTR]),
    (libc::SYS_statx, "statx", Name(0, 1), &[libc::EIO, libc::ENOMEM]),
    (libc::SYS_fstat, "fstat", Descriptor(0), &[libc::EIO]),
    (libc::SYS_newfstatat, "newfstatat", Name(0, 1), &[libc::EIO]),
    (libc::SYS_fstatfs, "fstatfs", Descriptor(0), &[libc::EIO]),
    (libc::SYS_getdents64, "getdents64", Descriptor(0), &[libc::EIO]),
    (libc::SYS_fchmod, "fchmod", Descriptor(0), &[libc::EPERM]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", InPath(0), &[libc::EIO, libc::ENOSPC]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", InPath(0), &[libc::EIO]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", InPath(0), &[libc::EIO, libc::ENOSPC]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", InPath(0), &[libc::EIO]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, "link", InPath(1), &[libc::EIO, libc::EMLINK]),
];

pub(crate) fn numbers() -> Vec<c_long> {
    CALLS.iter().map(|call| call.0).collect()
}

/// The error numbers that fit a call, if it is about something in `place`.
pub(crate) fn relevant(call: &Call<'_>, place: &Path) -> Option<&'static [i32]> {
    let (.., about, errnos) = CALLS.iter().find(|known| known.0 == call.number())?;
    let args = call.args();
    let path = match *about {
        Memory => return Some(errnos),
        Descriptor(nth) => call.fd_path(call.int(nth)),
        Name(directory, name) => call.path(call.int(directory), args[name]),
        #[cfg(target_arch = "x86_64")]
        InPath(nth) => call.path(libc::AT_FDCWD, args[nth]),
    };
    // The lock is closed by the system, and nothing else may fail at the end of a process.
    path.is_ok_and(|path| path.starts_with(place)).then_some(errnos)
}

/// Whether it says what has come of a step.
pub(crate) fn tells(call: &Call<'_>) -> bool {
    let is_said = call.number() == libc::SYS_write && call.int(0) == 2;
    is_said && call.bytes(call.args()[1], 7).is_ok_and(|bytes| bytes == b"child: ")
}

pub(crate) fn changes_names(call: &Call<'_>) -> bool {
    let known = CALLS.iter().find(|known| known.0 == call.number());
    known.is_some_and(|known| {
        ["rename", "link", "unlink", "mkdir", "rmdir"].iter().any(|name| known.1.starts_with(name))
    })
}

/// Whether a thread makes it that the library has started.
pub(crate) fn is_in_background(call: &Call<'_>) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", call.tid()));
    name.is_ok_and(|name| name.starts_with("tailcask"))
}

/// Whether a segment is to be made durable.
pub(crate) fn syncs_a_segment(call: &Call<'_>) -> bool {
    let syncs = [libc::SYS_fsync, libc::SYS_fdatasync].contains(&call.number());
    syncs
        && call
            .fd_path(call.int(0))
            .is_ok_and(|path| path.extension().is_some_and(|end| end == "seg"))
}

pub(crate) fn describe(call: &Call<'_>, errno: i32) -> String {
    let known = CALLS.iter().find(|known| known.0 == call.number());
    let (_, name, about, _) = known.expect("one of them");
    let path = match *about {
        Descriptor(nth) => call.fd_path(call.int(nth)).ok(),
        Name(directory, name) => call.path(call.int(directory), call.args()[name]).ok(),
        _ => None,
    };
    let error = std::io::Error::from_raw_os_error(errno);
    format!("{name} {}: {error}", path.unwrap_or_default().display())
}
