//! How much memory is there for this process, from what the kernel says in `/proc` and of control groups.
//!
//! A container usually has a control group with a limit below the machine's memory, and the page cache
//! counts towards it. The group may be one of version 1 or 2, and any group around it may have a lower
//! limit; so all groups on the path are asked, and the least counts. What a group uses for files is there
//! to be taken. Whatever cannot be read or makes no sense sets no limit.

use std::path::{Component, Path, PathBuf};

/// The memory groups that this process is in, from each to the one around it.
#[derive(Debug)]
pub(crate) struct MemoryGroups(Vec<(PathBuf, &'static Files)>);

impl MemoryGroups {
    /// `read` gives the content of a file.
    pub(super) fn find(read: impl Fn(&Path) -> Option<String>) -> Self {
        let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
        let mounts = read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
        let found = mounts.lines().filter_map(|line| mounted(line, &groups)).flat_map(|group| {
            let folders: Vec<_> = group.path.ancestors().map(Path::to_owned).collect();
            let above = folders.into_iter().take_while(move |it| it.starts_with(&group.mount));
            above.map(move |folder| (folder, group.files))
        });
        Self(found.collect())
    }

    /// Bytes that are free, or would be if pages of files were given up, on the machine and in each group.
    pub(super) fn available(&self, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
        let machine = of_machine(&read(Path::new("/proc/meminfo"))?)?;
        let left = self.0.iter().filter_map(|(folder, files)| left_in(folder, files, &read));
        left.chain([machine]).min()
    }
}

/// `MemAvailable`, in bytes; half of `MemTotal` where the kernel is older than that.
fn of_machine(meminfo: &str) -> Option<u64> {
    let bytes = |name| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    bytes("MemAvailable:").or_else(|| Some(bytes("MemTotal:")? / 2))
}

/// What a group's limit leaves, if it has one: half of it if what is used cannot be read.
fn left_in(folder: &Path, files: &Files, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
    let limit = number(files.limit)?;
    let used = || {
        let stat = read(&folder.join("memory.stat"))?;
        let of = |name: &str| {
            let value = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            value.trim().parse::<u64>().ok()
        };
        let cached = files.cached.map(of).into_iter().sum::<Option<u64>>()?;
        Some(number(files.usage)?.saturating_sub(cached))
    };
    Some(limit.saturating_sub(used().unwrap_or(limit / 2)))
}

/// What a version of control groups calls its files, and the lines in `memory.stat` of pages of files.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    /// Without a limit it says `max`, or is not there.
    limit: &'static str,
    usage: &'static str,
    cached: [&'static str; 2],
}

static VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cached: ["total_active_file", "total_inactive_file"],
};

static VERSION_2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    cached: ["active_file", "inactive_file"],
};

/// The memory group of this process, in one hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    mount: PathBuf,
    path: PathBuf,
    files: &'static Files,
}

/// The group, if a line of `mountinfo` mounts its hierarchy.
fn mounted(line: &str, groups: &str) -> Option<Group> {
    // id, parent, device, root, mount point, options ... - type, source, options
    let (before, after) = line.split_once(" - ")?;
    let (mut before, mut after) = (before.split(' ').skip(3), after.split(' '));
    let (root, mount) = (before.next()?, PathBuf::from(before.next()?));
    let (kind, options) = (after.next()?, after.nth(1)?);
    let has_memory = |list: &str| list.split(',').any(|one| one == "memory");
    let (files, is_ours): (_, fn(&str) -> bool) = match kind {
        "cgroup2" => (&VERSION_2, str::is_empty),
        "cgroup" if has_memory(options) => {
            (&VERSION_1, |list| list.split(',').any(|one| one == "memory"))
        }
        _ => return None,
    };
    // number:controllers:path
    let path = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        is_ours(controllers).then_some(path)
    })?;
    // What is mounted may be a part of the hierarchy, in which the group may not be: then the part.
    let inside = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let is_plain = inside.components().all(|part| matches!(part, Component::Normal(_)));
    let path = if is_plain { mount.join(inside) } else { mount.clone() };
    Some(Group { mount, path, files })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn found(files: &[(&str, &str)]) -> Option<u64> {
        let files: HashMap<_, _> =
            files.iter().map(|&(path, text)| (PathBuf::from(path), text.to_owned())).collect();
        let read = |path: &Path| files.get(path).cloned();
        MemoryGroups::find(read).available(read)
    }

    const MACHINE: (&str, &str) =
        ("/proc/meminfo", "MemTotal: 90000 kB\nMemFree: 7 kB\nMemAvailable:  24000 kB\n");

    #[test]
    fn the_least_on_the_path_counts() {
        let all = [
            MACHINE,
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/proc/self/mountinfo", V2),
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "5000000\n"),
            ("/sys/fs/cgroup/a/memory.current", "4000000\n"),
            ("/sys/fs/cgroup/a/memory.stat", "anon 7\nactive_file 1000000\ninactive_file 500000\n"),
            ("/sys/fs/cgroup/memory.max", "9000000\n"),
            ("/sys/fs/memory.max", "1\n"),
        ];
        assert_eq!(found(&all), Some(2_500_000), "the limit less what is used, but for files");
        assert_eq!(found(&all[..4]), Some(24_000 * 1024), "no limit");
        let inner = ("/sys/fs/cgroup/a/b/memory.max", "6000000\n");
        let used = ("/sys/fs/cgroup/a/b/memory.current", "5900000\n");
        let stat = ("/sys/fs/cgroup/a/b/memory.stat", "inactive_file 0\nactive_file 99\n");
        let both = [&all[..3], &all[4..], &[inner, used, stat]].concat();
        assert_eq!(found(&both), Some(100_099));
    }

    #[test]
    fn version_1_has_the_hierarchy_of_memory() {
        let all = [
            MACHINE,
            ("/proc/self/cgroup", "4:cpu:/x\n3:hugetlb,memory:/a\n0::/y\n"),
            ("/proc/self/mountinfo", V1),
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "800000\n"),
            ("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "700000\n"),
            (
                "/sys/fs/cgroup/memory/a/memory.stat",
                "active_file 5\ntotal_active_file 300000\ntotal_inactive_file 20000\n",
            ),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1\n"),
        ];
        assert_eq!(found(&all), Some(420_000));
        assert_eq!(found(&[all[0], all[1], all[2], all[6]]), Some(24_000 * 1024));
    }

    /// A container sees its own group as the root, or a part of the machine's hierarchy.
    #[test]
    fn what_is_mounted_may_be_a_part() {
        let part = "1 2 0:3 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let limit = ("/sys/fs/cgroup/memory.max", "700000\n");
        for group in ["0::/docker/x\n", "0::/\n", "0::/../../other\n", "0::/docker/xy\n"] {
            let group = ("/proc/self/cgroup", group);
            assert_eq!(
                found(&[MACHINE, group, ("/proc/self/mountinfo", part), limit]),
                Some(350_000),
                "half of it, as long as nothing is known of what is used"
            );
        }
        let below = ("/sys/fs/cgroup/y/memory.max", "600000\n");
        let group = ("/proc/self/cgroup", "0::/docker/x/y\n");
        let all = [MACHINE, group, ("/proc/self/mountinfo", part), limit, below];
        assert_eq!(found(&all), Some(300_000));
    }

    #[test]
    fn what_makes_no_sense_sets_no_limit() {
        let machine = Some(24_000 * 1024);
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("/proc/meminfo", "MemTotal: many kB")]), None);
        assert_eq!(found(&[("/proc/meminfo", "MemTotal: 30 kB")]), Some(15 * 1024));
        assert_eq!(found(&[MACHINE]), machine);
        let odd = ["", "\n", "-", "1 2 3 - cgroup2", "a b c d e - cgroup2 f", " - ", "0::"];
        for (groups, mounts) in odd.iter().flat_map(|a| odd.iter().map(move |b| (*a, *b))) {
            let all = [MACHINE, ("/proc/self/cgroup", groups), ("/proc/self/mountinfo", mounts)];
            assert_eq!(found(&all), machine);
        }
        let all = [
            MACHINE,
            ("/proc/self/cgroup", "0::/a\n"),
            ("/proc/self/mountinfo", V2),
            ("/sys/fs/cgroup/a/memory.max", "-5\n"),
            ("/sys/fs/cgroup/memory.max", "99999999999999999999999\n"),
        ];
        assert_eq!(found(&all), machine);
    }

    #[test]
    fn this_machine_has_memory() {
        if cfg!(target_os = "linux") {
            let read = |path: &Path| std::fs::read_to_string(path).ok();
            let found = MemoryGroups::find(read).available(read);
            assert!(found.is_some_and(|bytes| bytes > 1 << 20), "{found:?}");
        }
    }
}
