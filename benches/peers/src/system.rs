//! What is asked of the operating system.
#![allow(unsafe_code, reason = "system calls")]

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

/// Touches `bytes` of memory and of page cache, and frees them. A virtual machine hands memory that
/// was free for some seconds back to its host; the first touch of such a page costs 9 us instead of
/// half of one, and whoever is timed next would pay for it.
pub fn touch(dir: &Path, bytes: u64) -> Result<()> {
    let bytes = bytes as usize;
    let anonymous = map(bytes, None)?;
    drop(anonymous);
    let path = dir.join("touched");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    // SAFETY: the descriptor is open.
    unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) };
    let mapped = map(bytes, Some(&file));
    drop(mapped);
    fs::remove_file(path)?;
    Ok(())
}

struct Map(*mut libc::c_void, usize);

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the map is this one's, and nobody has a reference into it.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

fn map(bytes: usize, file: Option<&File>) -> Result<Map> {
    let (flags, descriptor) = match file {
        Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: a new map, where the kernel wants it.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            flags | libc::MAP_POPULATE,
            descriptor,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error()).context("a map");
    }
    Ok(Map(at, bytes))
}

/// Counters in a file that outlive the process that counts.
pub struct Counters {
    map: Map,
    len: usize,
}

// SAFETY: it is used as atomic words only.
unsafe impl Sync for Counters {}
// SAFETY: as above.
unsafe impl Send for Counters {}

impl Counters {
    pub fn open(path: &Path, len: usize) -> Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        // A line of the cache for each.
        file.set_len(len as u64 * 64)?;
        Ok(Self { map: map(len * 64, Some(&file))?, len })
    }

    pub fn get(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.len);
        // SAFETY: the map has so many lines, is aligned to pages, and lives as long as `self`.
        unsafe { &*self.map.0.cast::<u8>().add(at * 64).cast::<AtomicU64>() }
    }
}

/// Writes back what is dirty, so that the next cell does not pay for it.
pub fn sync() {
    // SAFETY: it has no arguments.
    unsafe { libc::sync() };
}

/// Drops the files below `dir` from the page cache.
pub fn evict(dir: &Path) -> Result<()> {
    sync();
    for path in files(dir) {
        let file = File::open(path)?;
        // SAFETY: the descriptor is open.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    Ok(())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

/// Bytes on disk below `dir`.
pub fn disk_usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    files(dir)
        .iter()
        .filter_map(|path| fs::metadata(path).ok())
        .map(|file| file.blocks() * 512)
        .sum()
}

/// What this process has used so far.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    pub processor: f64,
    pub read: u64,
    pub written: u64,
}

pub fn usage() -> Usage {
    // SAFETY: zeros are a value of it, and the pointer is to one.
    let times = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let field = |name: &str| {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    Usage {
        processor: seconds(times.ru_utime) + seconds(times.ru_stime),
        read: field("read_bytes:"),
        written: field("write_bytes:"),
    }
}

/// Bytes of memory of the machine.
pub fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(4 << 20) * 1024
}

/// A memory cgroup that children enter before they open anything. Removed when dropped.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// As root, or wherever the group of this process is delegated.
    pub fn new(bytes: u64) -> Result<Self> {
        let name = format!("peers-{}", std::process::id());
        let mut reasons = Vec::new();
        for (path, limit) in places(&name) {
            match Self::make(&path, limit, bytes) {
                Ok(()) => return Ok(Self(path)),
                Err(error) => reasons.push(format!("{}: {error:#}", path.display())),
            }
        }
        bail!(
            "no memory cgroup can be made ({}); as root it can, or by `systemd-run --user --scope \
             -p MemoryMax={bytes} peers ... --inside-cgroup`",
            reasons.join("; ")
        )
    }

    fn make(path: &Path, limit: &str, bytes: u64) -> Result<()> {
        fs::create_dir(path)?;
        fs::write(path.join(limit), bytes.to_string()).inspect_err(|_| {
            let _ = fs::remove_dir(path);
        })?;
        // What is over the limit is to be reclaimed, not swapped. Where there is no swap
        // accounting, there are no such files.
        let _ = fs::write(path.join("memory.swap.max"), "0");
        let _ = fs::write(path.join("memory.swappiness"), "0");
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Where a group below that of this process would be, by version 2 and by version 1.
fn places(name: &str) -> Vec<(PathBuf, &'static str)> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut places = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(own)) = (fields.next(), fields.next()) else { continue };
        let own = own.trim_start_matches('/');
        if controllers.split(',').any(|controller| controller == "memory") {
            let root = Path::new("/sys/fs/cgroup/memory");
            places.push((root.join(own).join(name), "memory.limit_in_bytes"));
            places.push((root.join(name), "memory.limit_in_bytes"));
        } else if controllers.is_empty() {
            let root = Path::new("/sys/fs/cgroup");
            // A group that holds processes cannot have others below it that are limited.
            let beside = root.join(own).parent().map(|parent| parent.join(name));
            places.extend(beside.map(|path| (path, "memory.max")));
            places.push((root.join(name), "memory.max"));
        }
    }
    places
}

/// Moves this process into the group.
pub fn enter(cgroup: &Path) -> Result<()> {
    let procs = cgroup.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("entering {}", procs.display()))
}
