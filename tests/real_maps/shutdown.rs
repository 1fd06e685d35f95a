//! Real file systems: one on a loop device is shut down under the child, so that nothing more reaches the
//! device; the child dies, and the file system is mounted again. What ext4 and xfs then make of their
//! journals takes the place of the images.

#![allow(unsafe_code, reason = "an ioctl")]

use super::common::mounts::{self, Kind};
use super::common::{Random, children};
use super::files::reboot_all;
use super::logs::Logs;
use super::reports;
use super::stores::Stores;
use super::{Workload, seeds};
use crash_kit::tracer::{Action, Tracer};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(crate) const ROLE: &str = "shutdown";

/// `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN`.
const SHUTDOWN: u32 = 0x8004_587d;
/// What is in the journal's memory goes to the device before, or does not.
const FLAGS: [u32; 2] = [1, 2];

const CALLS: &[libc::c_long] = &[
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_linkat,
    libc::SYS_openat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_write,
];

fn shut_down(place: &File, flags: u32) {
    // SAFETY: the kernel reads the flags.
    let done = unsafe { libc::ioctl(place.as_raw_fd(), SHUTDOWN.into(), &raw const flags) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

fn run(program: &str, arguments: &[&str], place: &Path) -> bool {
    let output = Command::new(program).args(arguments).arg(place).output().unwrap();
    output.status.success()
}

/// Takes the file system away and brings it back, as a restart of the machine does.
fn mount_again(place: &Path) {
    let image = place.with_file_name("image");
    // What was killed may still be on its way out.
    let unmounted = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(2));
        run("umount", &[], place)
    });
    assert!(unmounted, "{} stays mounted", place.display());
    assert!(run("mount", &["-o", "loop", image.to_str().unwrap()], place));
}

/// One child, and the file system is shut down under it.
fn crash<W: Workload>(place: &Path, seed: u64) {
    let role = format!("{} {seed}", W::ROLE);
    let root = place.join(role.replace(' ', "-"));
    std::fs::create_dir(&root).unwrap();
    let handle = File::open(place).unwrap();
    handle.sync_all().unwrap();
    let mut random = Random::new(seed ^ 0x7368_7574);
    let (end, flags) = (random.below(1200), FLAGS[random.index(2)]);
    let mut command = children::command(&role, &root);
    command.stdout(std::process::Stdio::null());
    let mut tracer = Tracer::spawn(command, CALLS).unwrap();
    let (mut seen, mut said) = (0, Vec::new());
    tracer
        .run(|call| {
            let is_write = call.number() == libc::SYS_write;
            if is_write && call.int(0) == libc::STDOUT_FILENO {
                said.push(call.bytes(call.args()[1], call.args()[2] as usize).unwrap());
            }
            seen += 1;
            if seen > end {
                shut_down(&handle, flags);
                return Action::Kill;
            }
            if is_write { Action::Pass } else { Action::Continue }
        })
        .unwrap();
    if seen <= end {
        shut_down(&handle, flags);
    }
    drop(handle);
    mount_again(place);
    reboot_all(&root);
    let history = W::history(&reports::parse(&said));
    let checked = W::check(&root, seed, &history, said.len());
    if let Err(why) = checked {
        panic!("{role}, shut down at call {end} with flags {flags}: {why}");
    }
    std::fs::remove_dir_all(&root).unwrap();
}

/// The process that sees the file system.
pub(crate) fn child(place: &Path) {
    for seed in seeds(6) {
        crash::<Stores<false>>(place, seed);
        crash::<Logs>(place, seed);
    }
    mounts::done();
}

fn on(kind: Kind, mib: u64) {
    if let Some(why) = crash_kit::unsupported() {
        eprintln!("left out: {why}");
    } else if !mounts::run_on(kind, mib, ROLE) {
        eprintln!("left out: {kind:?} cannot be mounted here");
    }
}

#[test]
fn an_ext4_that_is_shut_down_keeps_the_promises() {
    on(Kind::Ext4, 64);
}

#[test]
fn an_xfs_that_is_shut_down_keeps_the_promises() {
    on(Kind::Xfs, 320);
}
