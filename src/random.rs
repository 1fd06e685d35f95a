//! Random bytes from the operating system, for salts, secrets and ids.

use crate::storage::sys;
use std::io;

/// Unpredictable random bytes.
pub(crate) fn random_bytes<const LEN: usize>() -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    #[cfg(feature = "testing")]
    if seeded::fill(&mut bytes) {
        return Ok(bytes);
    }
    sys::fill_random(&mut bytes)?;
    Ok(bytes)
}

/// Bytes that are the same in each run: the feature `testing`.
#[cfg(feature = "testing")]
pub(crate) mod seeded {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// With the feature `testing`: salts, hash secrets and ids that this thread draws from now on follow
    /// from the seed instead of being unpredictable. For measurements that are to come out the same each
    /// time.
    pub fn seed_random(seed: u64) {
        STATE.set(Some(seed));
    }

    /// Whether this thread has a seed, and the bytes are of it.
    pub(super) fn fill(bytes: &mut [u8]) -> bool {
        let Some(mut state) = STATE.get() else { return false };
        for bytes in bytes.chunks_mut(8) {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes()[..bytes.len()]);
        }
        STATE.set(Some(state));
        true
    }
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

    /// On the thread with the seed only: that of this test.
    #[cfg(feature = "testing")]
    #[test]
    fn a_seed_makes_a_thread_draw_the_same() {
        let draw = || (random_u64().unwrap(), random_bytes::<13>().unwrap());
        seeded::seed_random(7);
        let (first, second) = (draw(), draw());
        assert_ne!(first, second);
        let elsewhere = std::thread::spawn(draw).join().unwrap();
        seeded::seed_random(7);
        assert_eq!((draw(), draw()), (first, second));
        assert_ne!(elsewhere, first);
        seeded::seed_random(8);
        assert_ne!(draw(), first);
    }
}
