//! Who holds a lock, from what the kernel says in `/proc/locks`.
//!
//! The kernel knows the process that took a lock with flock(2), and forgets it with the lock. So this
//! answer, unlike a number in a file, is never a leftover of a process that has died.

/// The process with an exclusive lock on a whole file, given the content of `/proc/locks`.
pub(super) fn of_file(locks: &str, device: (u32, u32), inode: u64) -> Option<u32> {
    let holder = |line: &str| {
        // number: FLOCK ADVISORY WRITE process major:minor:inode start end; a waiter has "->" before FLOCK
        let mut words = line.split_ascii_whitespace().skip(1);
        let is_exclusive =
            words.next()? == "FLOCK" && words.next().is_some() && words.next()? == "WRITE";
        let (process, file) = (words.next()?, words.next()?);
        let mut file = file.split(':');
        let (major, minor) = (file.next()?, file.next()?);
        let number = |text| u32::from_str_radix(text, 16).ok();
        let is_it = (number(major)?, number(minor)?) == device && file.next()?.parse() == Ok(inode);
        // 0: a process that cannot be seen from this one's namespace.
        process.parse().ok().filter(|&id| is_exclusive && is_it && id != 0)
    };
    locks.lines().find_map(holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "\
1: FLOCK  ADVISORY  WRITE 2082 fe:00:5382501 0 EOF
1: -> FLOCK  ADVISORY  WRITE 77 fe:00:90 0 EOF
2: FLOCK  ADVISORY  READ 2083 fe:00:10133507 0 EOF
3: OFDLCK ADVISORY  WRITE -1 fe:00:91 0 0
4: POSIX  ADVISORY  WRITE 2085 fe:00:91 0 EOF
5: FLOCK  ADVISORY  WRITE 2086 103:1a:91 0 EOF
6: FLOCK  ADVISORY  WRITE 0 fe:00:92 0 EOF
7: FLOCK
nonsense
8: FLOCK  ADVISORY  WRITE 2087 00:91 0 EOF
9: FLOCK  ADVISORY  WRITE 2088 fe:00:93 0 EOF
";

    #[test]
    fn the_process_with_the_exclusive_lock_of_this_file_is_named() {
        assert_eq!(of_file(LOCKS, (0xfe, 0), 5_382_501), Some(2082));
        assert_eq!(of_file(LOCKS, (0x103, 0x1a), 91), Some(2086));
        assert_eq!(of_file(LOCKS, (0xfe, 0), 93), Some(2088));
    }

    #[test]
    fn nobody_is_named_for_waiting_sharing_or_locking_bytes() {
        for inode in [90, 91, 92, 94, 10_133_507] {
            assert_eq!(of_file(LOCKS, (0xfe, 0), inode), None, "{inode}");
        }
    }
}
