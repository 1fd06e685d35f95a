//! Random bytes from the operating system, for salts, secrets and ids.

use crate::storage::sys;
use std::io;

/// Unpredictable random bytes.
pub(crate) fn random_bytes<const LEN: usize>() -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    sys::fill_random(&mut bytes)?;
    Ok(bytes)
}

/// 64 unpredictable random bits.
pub(crate) fn random_u64() -> io::Result<u64> {
    random_bytes().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_drawn_each_time() {
        let drawn: Vec<[u8; 600]> = (0..4).map(|_| random_bytes().unwrap()).collect();
        for (nth, one) in drawn.iter().enumerate() {
            // A stretch of 16 zeros in 600 bytes has a chance of 1 in 2^118.
            assert!(one.windows(16).all(|bytes| bytes.iter().any(|&byte| byte != 0)));
            assert!(drawn[..nth].iter().all(|other| other != one));
        }
        assert_ne!(random_u64().unwrap(), random_u64().unwrap());
    }
}
