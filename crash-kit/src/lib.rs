//! Finds lost writes in a program that runs unchanged, on real files.
//!
//! A power loss keeps what was synced, and of the rest whatever it likes: each sector may be as it was
//! at the last sync, as it is now, or as it was at any time in between; each change of a name may be
//! there or not. A [`Recorder`] runs a program as a child process and records, at its sync calls, what
//! they make durable. From the record come [`Image`]s: directories as a power loss may have left them.
//! One opens each with the program under test and compares what is there with what the program has
//! reported: every operation before it begins, and each that is acknowledged.
//!
//! ```no_run
//! use crash_kit::{Next, Recorder};
//! use std::process::Command;
//!
//! let recorder = Recorder::new("/dev/shm/work");
//! let recording = recorder.record(Command::new("my-database-test"), |moment| match moment.number {
//!     100 => Next::Kill,
//!     n if n % 7 == 0 => Next::Keep,
//!     _ => Next::Go,
//! })?;
//! for crash in &recording.crashes {
//!     let acknowledged = &recording.reports[..crash.reports];
//!     for seed in 0..100 {
//!         let image = crash.image(seed);
//!         image.write("/dev/shm/image".as_ref())?;
//!         // Open it, and see that what was acknowledged as durable is there. If not, print `image`.
//!         std::fs::remove_dir_all("/dev/shm/image")?;
//!     }
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`tracer`] is what this is built on, and good for other things: it stops a program at the system calls
//! that one asks for, lets them fail, or kills the program there. The calls are stopped by seccomp and
//! seen through ptrace, so it does not matter whether the program makes them by way of libc. It works on
//! Linux, on x86-64 and AArch64; [`unsupported`] says whether it does here.
//!
//! # What a power loss may do
//!
//! The weakest of what POSIX promises and what ext4 and xfs are documented to do:
//!
//! * `fsync`, `fdatasync`: the bytes and the length that the file had when the call began are durable when
//!   it returns. Not its name. `msync(MS_SYNC)`: the same for the pages of its range.
//! * `fsync` of a directory: the operations on names in it that were done when the call began. Not the
//!   content of its files.
//! * `sync`, `syncfs`: everything. `sync_file_range`, `msync(MS_ASYNC)`, `close`, the end of the program:
//!   nothing.
//! * Before that each sector of 512 bytes is as it was at any moment since, by itself; so is the length. A
//!   sector is never mixed of two versions. What was not looked at is not known: a sector that was A, then
//!   B, then C between two looks is A or C.
//! * An operation on names happens as a whole, in the order that [`NameOrder`] says. A file whose name is
//!   durable may still be empty.
//!
//! # What is not recorded
//!
//! Files that are opened with `O_SYNC` or `O_DSYNC`, writes that sync by `RWF_DSYNC`, io_uring and symbolic
//! links end the recording with an error. Extended attributes and times are lost. Devices that lose what
//! was synced are not imitated, except for the lies of [`Recorder::lie_one_in`].

#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod random;
#[cfg(target_os = "linux")]
mod recorder;
#[cfg(target_os = "linux")]
pub mod tracer;

#[cfg(target_os = "linux")]
pub use disk::{Image, NameOrder};
#[cfg(target_os = "linux")]
pub use recorder::{Crash, Moment, Next, Recorder, Recording};

/// Why no program can be traced here; `None`: it can be. For tests, to say what they left out.
///
/// ```
/// if let Some(why) = crash_kit::unsupported() {
///     eprintln!("left out: {why}");
/// }
/// ```
#[must_use]
pub fn unsupported() -> Option<String> {
    #[cfg(target_os = "linux")]
    return tracer::unsupported();
    #[cfg(not(target_os = "linux"))]
    Some("system calls are traced on Linux alone".into())
}
