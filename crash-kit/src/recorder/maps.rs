//! The files that a process has mapped.

use crate::disk::FileId;
use std::io;
use std::ops::Range;

/// Which ranges of which files are mapped in a range of addresses.
pub(super) fn of(tid: i32, from: u64, to: u64) -> io::Result<Vec<(FileId, Range<u64>)>> {
    let maps = std::fs::read_to_string(format!("/proc/{tid}/maps"))?;
    Ok(maps.lines().filter_map(|line| parse(line, from, to)).collect())
}

/// A line such as `7f..-7f.. rw-s 00001000 00:1a 42  /path`.
fn parse(line: &str, from: u64, to: u64) -> Option<(FileId, Range<u64>)> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let (offset, device) = (hex(words.nth(1)?)?, words.next()?.split_once(':')?);
    let inode = words.next()?.parse().ok()?;
    let device = libc::makedev(hex(device.0)? as u32, hex(device.1)? as u32);
    let (first, last) = (start.max(from), end.min(to));
    let in_file = |address| address - start + offset;
    (inode != 0 && first < last).then(|| (FileId { device, inode }, in_file(first)..in_file(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_in_a_range_is_found() {
        let line = "7f0000001000-7f0000005000 rw-s 00002000 fd:01 42                 /a b";
        let (id, range) = parse(line, 0x7f00_0000_2000, u64::MAX).unwrap();
        assert_eq!((id.inode, id.device), (42, libc::makedev(0xfd, 1)));
        assert_eq!(range, 0x3000..0x6000);
        assert_eq!(parse(line, 0, 0x7f00_0000_1010).unwrap().1, 0x2000..0x2010);
        assert_eq!(parse(line, 0, 0x7f00_0000_1000), None);
        assert_eq!(parse("7f0000001000-7f0000005000 rw-p 00000000 00:00 0", 0, u64::MAX), None);
    }
}
