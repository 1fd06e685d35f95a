//! Plain ways to do what not every system has a call for: slower, and correct everywhere.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that are written at a time.
const PIECE: usize = 1 << 20;

/// Makes a file at least `len` bytes long, and writes over each of these bytes what it is, so that all
/// of them have blocks which belong to this file alone. Nothing else writes to the file meanwhile.
pub(super) fn rewrite(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() < len {
        file.set_len(len)?;
    }
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < len {
        let here = &mut piece[..(len - at).min(PIECE as u64) as usize];
        file.read_exact_at(here, at)?;
        file.write_all_at(here, at)?;
        at += here.len() as u64;
    }
    Ok(())
}

/// Writes zeros to a range. Its space stays taken.
pub(super) fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; PIECE.min(to.saturating_sub(from) as usize)];
    let mut at = from;
    while at < to {
        let here = &zeros[..(to - at).min(PIECE as u64) as usize];
        file.write_all_at(here, at)?;
        at += here.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_rewritten_file_is_allocated_and_says_what_it_said() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"end", 2_000_000).unwrap();
        rewrite(&file, 3_000_000).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 3_000_000);
        assert!(metadata.blocks() * 512 >= 3_000_000);
        let mut bytes = vec![0; 3_000_000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes[..5], &bytes[2_000_000..2_000_003]), (&b"begin"[..], &b"end"[..]));
        assert_eq!(bytes.iter().filter(|&&byte| byte != 0).count(), 8);
        rewrite(&file, 1000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3_000_000, "nothing is cut off");
    }

    #[test]
    fn zeros_are_written_to_a_range_and_nowhere_else() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; 3 * PIECE], 0).unwrap();
        write_zeros(&file, 10, 2 * PIECE as u64 + 3).unwrap();
        let mut bytes = vec![0; 3 * PIECE];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let zeros = 10..2 * PIECE + 3;
        assert!(bytes.iter().enumerate().all(|(at, &byte)| (byte == 0) == zeros.contains(&at)));
    }
}
