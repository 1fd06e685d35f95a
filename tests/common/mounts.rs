//! Runs a part of a test in a process of its own, on a file system of its own.

use super::children;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Which file system, with its options for `mkfs` or `mount`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
}

/// The role and the place of this process, if it is one that `run_on` has started.
pub(crate) fn role() -> Option<(String, PathBuf)> {
    let (role, place) = children::role()?;
    let (usual, shown) = (std::panic::take_hook(), place.clone());
    std::panic::set_hook(Box::new(move |panic| {
        // What is where is what one wants to know first.
        let _ = Command::new("df").arg(&shown).stdout(std::io::stderr()).status();
        let _ = Command::new("ls").arg("-lasR").arg(&shown).stdout(std::io::stderr()).status();
        usual(panic);
    }));
    Some((role, place))
}

/// Says that the role was played to its end.
pub(crate) fn done() {
    children::say("done");
}

/// Makes a file system of this size, mounts it where only the child sees it, and lets the test
/// `child` play a role there. False where it cannot be made on this machine, with a message.
pub(crate) fn run_on(kind: Kind, mib: u64, role: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("mounted");
    std::fs::create_dir(&place).unwrap();
    let image = dir.path().join("image");
    let (make, mount) = match kind {
        Kind::Tmpfs => (String::new(), format!("-t tmpfs -o size={mib}m,mode=700 none")),
        Kind::Ext4 => ("mkfs.ext4 -q -m 0 -b 4096".into(), "-o loop".into()),
        Kind::Xfs => ("mkfs.xfs -q -m reflink=1".into(), "-o loop".into()),
        Kind::Btrfs => ("mkfs.btrfs -q".into(), "-o loop".into()),
    };
    let mut script = String::from("set -e; ");
    let mut source = String::new();
    if !make.is_empty() {
        let image = image.display();
        script += &format!("truncate -s {mib}M '{image}'; {make} '{image}' >&2; ");
        source = format!("'{image}'");
    }
    let place_text = place.display();
    script += &format!("mount {mount} {source} '{place_text}'; chmod 700 '{place_text}'; ");
    script += "echo mounted >&2; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.arg("-m");
    if !rustix::process::geteuid().is_root() {
        command.args(["-U", "-r"]);
    }
    command.args(["sh", "-c", &script, "sh"]).arg(std::env::current_exe().unwrap());
    let output = children::prepare(&mut command, role, &place).args(children::ARGUMENTS).output();
    let said = output.as_ref().map_or(String::new(), |o| String::from_utf8_lossy(&o.stderr).into());
    if !said.contains("mounted\n") {
        eprintln!("skipped: no {kind:?} of {mib} MiB can be made here: {said}{output:?}");
        return false;
    }
    check(&output.unwrap(), &said);
    true
}

fn check(output: &Output, said: &str) {
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("child: done"), "{said}\n{out}\n{output:?}");
    eprint!("{said}");
}

/// Takes all of the space that is free, and then frees `leave` bytes of it.
pub(crate) fn fill(place: &Path, leave: u64) -> PathBuf {
    use std::io::Write;
    let path = place.join("ballast");
    // Where not even that can be made, it is full.
    let Ok(mut file) = std::fs::File::create(&path) else { return path };
    let mut len = 0u64;
    for piece in [4 << 20, 256 << 10, 16 << 10, 4096, 512] {
        while let Ok(written) = file.write(&vec![1; piece])
            && written > 0
        {
            len += written as u64;
        }
        // What is not on the device yet may still turn out not to fit.
        let _ = file.sync_all();
    }
    if leave > 0 {
        file.set_len(len.saturating_sub(leave)).unwrap();
        file.sync_all().unwrap();
    }
    path
}
