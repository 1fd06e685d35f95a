//! The memory of another process, as the kernel tells it.

use indicatif::BinaryBytes;
use serde_json::{Value, json};
use std::fmt;

/// Bytes of a process that are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// All of it: RSS.
    pub(super) resident: u64,
    /// What it has allocated.
    pub(super) anonymous: u64,
    /// Pages of mapped files, and of tmpfs, which the page cache has anyway.
    pub(super) mapped: u64,
}

impl Memory {
    /// `None` where the system does not tell, or the process has ended.
    pub(super) fn of(process: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line =
                status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        let (anonymous, file) = (field("RssAnon")?, field("RssFile")?);
        let mapped = file + field("RssShmem").unwrap_or_default();
        Some(Self { resident: field("VmRSS")?, anonymous, mapped })
    }

    pub(super) fn to_json(self) -> Value {
        let Self { resident, anonymous, mapped } = self;
        json!({ "resident": resident, "anonymous": anonymous, "mapped": mapped })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, own) = (BinaryBytes(self.resident), BinaryBytes(self.anonymous));
        let mapped = BinaryBytes(self.mapped);
        write!(
            f,
            "{all} resident: {own} of its own, {mapped} of mapped files, which can be taken back"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status_of_a_process() {
        let status = "Name:\tx\nVmRSS:\t    600 kB\nRssAnon:\t 100 kB\nRssFile:\t 300 kB\nRssShmem:\t 200 kB\n";
        let memory = Memory { resident: 600 << 10, anonymous: 100 << 10, mapped: 500 << 10 };
        assert_eq!(Memory::parse(status), Some(memory));
        assert_eq!(Memory::parse("Name:\tkernel thread\n"), None);
    }
}
