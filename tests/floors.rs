//! The floors of the house: imports run downward only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Each file's floor, as `docs/architecture.md` lists them.
const FLOORS: &[(&str, u32)] = &[
    ("sync", 0),
    ("position", 0),
    ("prefetch", 0),
    ("random", 0),
    ("threads", 0),
    ("error", 0),
    ("options", 0),
    ("format", 1),
    ("format/frame", 1),
    ("format/header", 1),
    ("format/hint", 1),
    ("format/manifest", 1),
    ("format/names", 1),
    ("format/remains", 1),
    ("segment/counter", 2),
    ("storage/map", 2),
    ("segment/pins", 2),
    ("storage", 2),
    ("storage/sys", 0),
    ("storage/sys/files", 0),
    ("storage/sys/locks", 0),
    ("storage/sys/mapping", 0),
    ("storage/sys/plain", 0),
    ("storage/sys/linux", 0),
    ("storage/sys/macos", 0),
    ("storage/temporary", 2),
    ("storage/dir", 2),
    ("storage/dir/aside", 2),
    ("storage/dir/directory", 2),
    ("storage/dir/lock", 2),
    ("storage/dir/manifest", 2),
    ("storage/dir/trust", 2),
    ("storage/dir/writer", 2),
    ("storage/simulated", 2),
    ("storage/simulated/between", 2),
    ("storage/simulated/content", 2),
    ("storage/simulated/memory", 2),
    ("storage/simulated/operation", 2),
    ("storage/simulated/sparse", 2),
    ("storage/simulated/storage", 2),
    ("storage/simulated/tests", 2),
    ("segment", 2),
    ("log/append", 3),
    ("log/append/claim", 3),
    ("log/append/prefix", 3),
    ("log/append/tail", 3),
    ("log/group_commit", 3),
    ("log/waiters", 3),
    ("segment/set", 2),
    ("log/stats", 3),
    ("log/maintenance", 4),
    ("log/writer", 3),
    ("log/writer/sync", 3),
    ("log/writer/filling", 3),
    ("log/writer/append", 3),
    ("log/writer/capacity", 3),
    ("log/writer/close", 3),
    ("log/writer/group_delay", 3),
    ("log/writer/manifest", 3),
    ("log/writer/next", 3),
    ("log/writer/oversize", 3),
    ("log/writer/read", 3),
    ("log/writer/reserve", 3),
    ("log/writer/roll", 3),
    ("log/writer/seal", 3),
    ("log/writer/segment_memory", 3),
    ("log/writer/retire", 3),
    ("log/writer/signals", 3),
    ("log/writer/space", 3),
    ("segment/scan", 2),
    ("segment/search", 2),
    ("log/recovery", 4),
    ("log/recovery/repair", 4),
    ("log/recovery/evidence", 4),
    ("log/recovery/heads", 4),
    ("log/recovery/classify", 4),
    ("log/recovery/look", 4),
    ("log/recovery/losses", 4),
    ("log/recovery/report", 4),
    ("log/recovery/salvage", 4),
    ("log/follower", 4),
    ("log/reader", 4),
    ("log/batch", 4),
    ("log", 5),
    ("log/oversize", 5),
    ("keydir", 5),
    ("keydir/attacks", 5),
    ("keydir/entry", 5),
    ("keydir/load", 5),
    ("keydir/locked", 5),
    ("keydir/slot", 5),
    ("keydir/table", 5),
    ("store", 6),
    ("store/batch", 6),
    ("store/clock", 6),
    ("store/hints", 6),
    ("store/inner", 6),
    ("store/iter", 6),
    ("store/merge/policy", 6),
    ("store/stats", 6),
    ("store/value", 6),
    ("store/view", 6),
    ("store/write", 6),
    ("store/backup", 7),
    ("store/load", 7),
    ("store/maintenance", 7),
    ("store/merge", 7),
    ("store/merge/damage", 7),
    ("store/merge/output", 7),
    ("store/merge/run", 7),
    ("store/merge/throttle", 7),
    ("store/merge/tombstones", 7),
    ("store/verify", 7),
    ("store/options", 7),
    ("store/read_view", 7),
    ("store/repair", 7),
    ("store/salvage", 7),
];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a file names behind `crate::`. Its tests may use what users use.
fn imports(text: &str) -> Vec<Vec<&str>> {
    let text = text.split("\nmod tests {").next().unwrap_or_default();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|path| {
            let end = path.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            path[..end.unwrap_or(path.len())].split("::").filter(|s| !s.is_empty()).collect()
        })
        .collect()
}

#[test]
fn no_file_imports_upward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floors: BTreeMap<_, _> = FLOORS.iter().copied().collect();
    let mut all = Vec::new();
    files(&root, &mut all);
    let mut checked = 0;
    for path in all {
        let name = path.strip_prefix(&root).unwrap().with_extension("");
        let name = name.to_str().unwrap().trim_end_matches("/mod").to_owned();
        if name == "lib" || name.starts_with("bin/") {
            continue;
        }
        let floor = floors.get(&*name).unwrap_or_else(|| panic!("{name} has no floor"));
        let text = std::fs::read_to_string(&path).unwrap();
        for import in imports(&text) {
            let two = import.get(..2).map(|two| two.join("/"));
            let target = two
                .as_deref()
                .filter(|two| floors.contains_key(two))
                .or_else(|| import.first().copied().filter(|one| floors.contains_key(one)));
            // Types that lib.rs re-exports are named in documentation only.
            let Some(target) = target else { continue };
            checked += 1;
            assert!(floors[target] <= *floor, "{name} (floor {floor}) imports {target}");
        }
    }
    assert!(checked > 80, "the test sees the imports: {checked}");
}
