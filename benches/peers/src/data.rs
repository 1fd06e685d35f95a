//! Keys, values and the order of accesses: the same for every contender.
//!
//! Key `n` is 16 bytes, scattered by a bijection of `n`, so that keys made in the order of `n` come
//! in random order. A value is a window of one random template. Where the window begins depends on
//! `n` and on the version, so a reader can check a value without being told anything, and writers
//! copy nothing before they call the engine. Values are random bytes: compression gains nothing.

/// Values of one key differ by version; readers accept any of these.
pub const VERSIONS: u64 = 8;
/// Windows begin in this part, which stays in the processor's second-level cache.
const WINDOWS: u64 = 32 << 10;
/// The largest value.
pub const MAX_VALUE: usize = 1 << 20;

pub type Key = [u8; 16];

pub fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub fn key(n: u64) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mix(n).to_be_bytes());
    key[8..].copy_from_slice(&n.to_be_bytes());
    key
}

/// The number a key was made of.
pub fn number(key: &[u8]) -> Option<u64> {
    let n = u64::from_be_bytes(key.get(8..16)?.try_into().ok()?);
    (key == self::key(n)).then_some(n)
}

/// A key that no contender was given.
pub fn absent(n: u64) -> Key {
    key(n | 1 << 40)
}

pub struct Values {
    template: Vec<u8>,
    len: usize,
}

impl Values {
    pub fn new(len: usize) -> Self {
        assert!(len <= MAX_VALUE, "values are at most {MAX_VALUE} bytes");
        let words = (WINDOWS as usize + 8 * VERSIONS as usize + len) / 8 + 2;
        Self { template: (0..words as u64).flat_map(|n| mix(!n).to_le_bytes()).collect(), len }
    }

    pub fn get(&self, n: u64, version: u64) -> &[u8] {
        let from = (mix(n ^ 0x5555) % WINDOWS + 8 * (version % VERSIONS)) as usize;
        &self.template[from..from + self.len]
    }

    /// Whether `value` is one of key `n`: its length, and eight bytes of each cache line. (One line
    /// read is the least a program does that wants the value, so every line counts as read.)
    pub fn check(&self, n: u64, value: &[u8]) -> bool {
        self.version(n, value).is_some()
    }

    pub fn version(&self, n: u64, value: &[u8]) -> Option<u64> {
        if value.len() != self.len {
            return None;
        }
        let head = &value[..8.min(self.len)];
        let version = (0..VERSIONS).find(|version| self.get(n, *version).starts_with(head))?;
        let expected = self.get(n, version);
        let lines = value.chunks_exact(64).zip(expected.chunks_exact(64));
        let mut different = 0;
        for (line, expected) in lines {
            different |= word(line) ^ word(expected);
        }
        let end = self.len.saturating_sub(8);
        (different == 0 && value[end..] == expected[end..]).then_some(version)
    }
}

fn word(line: &[u8]) -> u64 {
    u64::from_le_bytes(line[..8].try_into().expect("eight bytes"))
}

/// Which keys a thread takes, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    Uniform,
    /// YCSB's: exponent 0.99, and the popular keys scattered.
    Zipf,
}

/// The numbers of keys for one thread, made before the clock starts; they are taken in turns.
pub fn sequence(order: Order, keys: u64, seed: u64, len: usize) -> Vec<u32> {
    let keys = keys.max(1);
    let mut state = mix(seed);
    let mut next = || {
        state = mix(state);
        state
    };
    match order {
        Order::Uniform => (0..len).map(|_| (next() % keys) as u32).collect(),
        Order::Zipf => {
            let zipf = Zipf::new(keys);
            let unit = |word: u64| (word >> 11) as f64 / (1_u64 << 53) as f64;
            (0..len).map(|_| (mix(zipf.rank(unit(next()))) % keys) as u32).collect()
        }
    }
}

/// Gray et al., "Quickly generating billion-record synthetic databases", as in YCSB.
struct Zipf {
    keys: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

const THETA: f64 = 0.99;

impl Zipf {
    fn new(keys: u64) -> Self {
        let zeta: f64 = (1..=keys).map(|n| (n as f64).powf(-THETA)).sum();
        let two = 1.0 + 2_f64.powf(-THETA);
        let keys = keys as f64;
        let eta = (1.0 - (2.0 / keys).powf(1.0 - THETA)) / (1.0 - two / zeta);
        Self { keys, zeta, alpha: 1.0 / (1.0 - THETA), eta }
    }

    fn rank(&self, unit: f64) -> u64 {
        let at = unit * self.zeta;
        if at < 1.0 {
            0
        } else if at < 1.0 + 0.5_f64.powf(THETA) {
            1
        } else {
            (self.keys * (self.eta * unit - self.eta + 1.0).powf(self.alpha)) as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_number_and_a_value_its_version() {
        let values = Values::new(100);
        for n in 0..10_000 {
            assert_eq!(number(&key(n)), Some(n));
            assert_eq!(number(&absent(n)), Some(n | 1 << 40));
            assert_eq!(values.version(n, values.get(n, n % 8)), Some(n % 8));
        }
        let wrong = (0..1000).filter(|n| values.check(*n, values.get(n + 1, 0))).count();
        assert!(wrong < 3, "{wrong} values of other keys passed");
        let mut value = values.get(7, 0).to_vec();
        value[99] ^= 1;
        assert!(!values.check(7, &value) && !values.check(7, &value[..99]));
    }

    #[test]
    fn popular_keys_are_popular() {
        let mut counts = vec![0_u32; 1000];
        for n in sequence(Order::Zipf, 1000, 1, 100_000) {
            counts[n as usize] += 1;
        }
        counts.sort_unstable();
        // 1 / zeta(1000, 0.99), and half of it for the second.
        assert!((12_000..15_000).contains(&counts[999]), "{}", counts[999]);
        assert!((5_500..8_500).contains(&counts[998]), "{}", counts[998]);
    }
}
