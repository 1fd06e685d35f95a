//! Which system calls change what is on the disk, or what of it is durable, and what each is about.

use crate::tracer::Call;
use libc::c_long;
use std::io;
use std::path::PathBuf;

/// What a system call does, as far as a power loss is concerned.
#[derive(Debug)]
pub(super) enum Effect {
    /// It writes to the standard output: the program reports something.
    Report { address: u64, len: usize },
    /// It makes durable what a descriptor refers to.
    Sync { fd: i32 },
    /// It makes durable what is mapped in a range of addresses.
    SyncMapped { from: u64, to: u64 },
    /// It makes everything durable.
    SyncAll,
    /// It may change what these names refer to.
    Names(Vec<PathBuf>),
    /// It may change bytes of files, which are looked at anyway.
    Bytes,
    /// None.
    Nothing,
    /// It does something that is not recorded.
    Unknown(&'static str),
}

/// The calls of all architectures that have an effect.
const CALLS: &[c_long] = &[
    libc::SYS_copy_file_range,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_io_uring_setup,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_msync,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_symlinkat,
    libc::SYS_sync,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_truncate,
    libc::SYS_unlinkat,
    libc::SYS_write,
];

/// Those that only older architectures have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[c_long] = &[
    libc::SYS_creat,
    libc::SYS_link,
    libc::SYS_mkdir,
    libc::SYS_mknod,
    libc::SYS_open,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_symlink,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[c_long] = &[];

/// All calls that the recorder has to see.
pub(super) fn calls() -> Vec<c_long> {
    [CALLS, OLD_CALLS].concat()
}

/// What a call does that a thread stands before.
pub(super) fn of(call: &Call<'_>) -> io::Result<Effect> {
    let args = call.args();
    let at = |directory: usize, path: usize| call.place(call.int(directory), args[path]);
    #[cfg(target_arch = "x86_64")]
    let here = |path: usize| call.place(libc::AT_FDCWD, args[path]);
    Ok(match call.number() {
        libc::SYS_write if args[0] == libc::STDOUT_FILENO as u64 => {
            Effect::Report { address: args[1], len: args[2] as usize }
        }
        libc::SYS_fsync | libc::SYS_fdatasync => Effect::Sync { fd: call.int(0) },
        libc::SYS_msync if call.int(2) & libc::MS_SYNC != 0 => {
            Effect::SyncMapped { from: args[0], to: args[0].saturating_add(args[1]) }
        }
        libc::SYS_sync | libc::SYS_syncfs => Effect::SyncAll,
        libc::SYS_openat => open(call.int(2), at(0, 1)?),
        libc::SYS_openat2 => {
            // The first field of `struct open_how`.
            let mut flags = [0; 8];
            call.read(args[2], &mut flags)?;
            open(u64::from_le_bytes(flags) as i32, at(0, 1)?)
        }
        libc::SYS_mkdirat | libc::SYS_mknodat | libc::SYS_unlinkat => {
            Effect::Names(vec![at(0, 1)?])
        }
        libc::SYS_linkat => Effect::Names(vec![at(2, 3)?]),
        libc::SYS_renameat | libc::SYS_renameat2 => Effect::Names(vec![at(0, 1)?, at(2, 3)?]),
        libc::SYS_symlinkat => Effect::Unknown("a symbolic link"),
        libc::SYS_io_uring_setup => Effect::Unknown("io_uring"),
        libc::SYS_pwritev2 if args[5] & (libc::RWF_DSYNC | libc::RWF_SYNC) as u64 != 0 => {
            Effect::Unknown("a write that syncs")
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => open(call.int(1), here(0)?),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat
        | libc::SYS_mkdir
        | libc::SYS_mknod
        | libc::SYS_rmdir
        | libc::SYS_unlink => Effect::Names(vec![here(0)?]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link => Effect::Names(vec![here(1)?]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => Effect::Names(vec![here(0)?, here(1)?]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_symlink => Effect::Unknown("a symbolic link"),
        _ => Effect::Bytes,
    })
}

fn open(flags: i32, path: PathBuf) -> Effect {
    // O_SYNC has the bit of O_DSYNC.
    if flags & libc::O_DSYNC != 0 && flags & libc::O_ACCMODE != libc::O_RDONLY {
        return Effect::Unknown("a file whose writes sync");
    }
    if flags & libc::O_CREAT == 0 { Effect::Nothing } else { Effect::Names(vec![path]) }
}
