//! The operating system: every system call that `std` does not make is in this folder.
//!
//! `files`, `locks` and `mapping` are the same on all supported systems. What differs is in one
//! file a system, `linux` and `macos`, which have the same functions. Where macOS lacks a call,
//! `macos` falls back on something plain (`plain`) that is correct and slower, or, for a hint to the
//! kernel, does nothing. To support another system, write its file and name it here.
//!
//! Nothing here knows about logs: this folder imports no other module of the library.

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("tailcask supports Linux and macOS: see src/storage/sys/mod.rs");
#[cfg(not(target_has_atomic = "64"))]
compile_error!("tailcask needs atomic operations of 64 bits");

#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "nothing records a fault"))]
mod faults;
mod files;
#[cfg(any(test, target_os = "linux"))]
mod holders;
mod locks;
mod mapping;
#[cfg(any(test, target_os = "linux"))]
mod memory;
#[cfg(any(test, target_os = "macos"))]
mod plain;

#[cfg(target_os = "linux")]
mod sigbus;
#[cfg(not(target_os = "linux"))]
#[path = "no_sigbus.rs"]
mod sigbus;

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "macos.rs"]
mod platform;

pub(crate) use faults::{Fault, Faults, FileName};
pub(crate) use files::{
    OpenMode, cannot_link, exchange, exists, free_space, is_not_regular, is_unreadable,
    is_unsupported, link, make_directory, names, next_data, next_hole, open_at, open_directory,
    open_directory_at, remove, remove_directory, rename, rename_new, set_permissions, stat, user,
};
pub(crate) use locks::{cannot_lock, has_byte_lock, lock_byte, try_lock, unlock, unlock_byte};
pub(crate) use mapping::{Mapping, move_to_huge_page};
pub(crate) use platform::{
    AvailableMemory, DIRECTORIES_LOCK, allocate, boot_id, discard_pages, ensure_own, file_system,
    fill_random, huge_page, leave_memory, lock_holder, membarrier, memory_file, prefer_huge_pages,
    punch, register_membarrier, share_blocks,
};
pub(crate) use sigbus::catch as catch_sigbus;

/// The kind of file system that a directory is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// As messages call it.
    pub(crate) name: String,
    /// Whether it writes to a preallocated block where the block is, so that such a write never
    /// needs space.
    pub(crate) writes_in_place: bool,
}
