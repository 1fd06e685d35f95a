//! Keys, values and entries that say what they are, so that each byte of what is found can be checked.

/// Threads that write to the store. Each key but the counters belongs to one of them.
pub(crate) const WRITERS: u64 = 3;
/// Keys of each writer that are written one by one.
const SINGLES: u64 = 400;
/// Groups of keys that each writer writes in batches only: they always have the same version.
pub(crate) const GROUPS: u64 = 40;
pub(crate) const IN_GROUP: u64 = 8;
/// Keys of each writer whose values expire.
const EXPIRING: u64 = 40;
/// Keys that all writers count up.
pub(crate) const COUNTERS: u64 = 4;
/// Threads that append to the log.
pub(crate) const APPENDERS: u64 = 2;

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// A key, as a number that says what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(pub(crate) u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Single,
    Grouped,
    Expiring,
    Counter,
}

impl Key {
    const fn new(sort: u64, writer: u64, nth: u64) -> Self {
        Self(sort << 56 | writer << 48 | nth)
    }

    pub(crate) const fn single(writer: u64, random: u64) -> Self {
        Self::new(1, writer, random % SINGLES)
    }

    pub(crate) const fn grouped(writer: u64, group: u64, nth: u64) -> Self {
        Self::new(2, writer, group * IN_GROUP + nth)
    }

    pub(crate) const fn expiring(writer: u64, random: u64) -> Self {
        Self::new(3, writer, random % EXPIRING)
    }

    pub(crate) const fn counter(random: u64) -> Self {
        Self::new(4, 0, random % COUNTERS)
    }

    pub(crate) fn sort(self) -> Sort {
        match self.0 >> 56 {
            1 => Sort::Single,
            2 => Sort::Grouped,
            3 => Sort::Expiring,
            4 => Sort::Counter,
            _ => panic!("there is no key {:x}", self.0),
        }
    }

    const fn nth(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    /// All keys of a group, of one of which this is the key.
    pub(crate) fn group(self) -> impl Iterator<Item = Self> {
        let first = self.0 - self.nth() % IN_GROUP;
        (first..first + IN_GROUP).map(Self)
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut bytes = self.0.to_be_bytes().to_vec();
        bytes.resize(8 + (self.0 % 29) as usize, self.0 as u8);
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let key = Self(u64::from_be_bytes(*bytes.first_chunk()?));
        (matches!(key.0 >> 56, 1..=4) && key.bytes() == bytes).then_some(key)
    }

    /// All that a writer owns.
    pub(crate) fn all_of(writer: u64) -> impl Iterator<Item = Self> {
        let singles = (0..SINGLES).map(move |nth| Self::single(writer, nth));
        let grouped = (0..GROUPS * IN_GROUP).map(move |nth| Self::new(2, writer, nth));
        singles.chain(grouped).chain((0..EXPIRING).map(move |nth| Self::expiring(writer, nth)))
    }

    pub(crate) fn counters() -> impl Iterator<Item = Self> {
        (0..COUNTERS).map(Self::counter)
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..WRITERS).flat_map(Self::all_of).chain(Self::counters())
    }

    /// Whether its values are larger than a segment.
    pub(crate) const fn is_oversize(self) -> bool {
        self.0 >> 56 == 1 && self.nth() == 1
    }

    /// The length of its value of a version.
    fn value_len(self, version: u64) -> u64 {
        let random = mix(self.0 ^ version);
        match self.sort() {
            Sort::Counter => 16,
            Sort::Single if self.is_oversize() => (2200 << 10) + random % (1 << 20),
            Sort::Single if self.nth().is_multiple_of(16) => 4000 + random % 60_000,
            Sort::Single => 16 + random % 2000,
            Sort::Grouped => 16 + random % 700,
            Sort::Expiring => 16 + random % 1500,
        }
    }

    pub(crate) fn value(self, version: u64) -> Vec<u8> {
        body(self.0, version, self.value_len(version))
    }

    /// The version of a value, if it is one that this key has had, byte by byte.
    pub(crate) fn version_of(self, value: &[u8]) -> Option<u64> {
        let (key, version) = check(value)?;
        (key == self.0 && value.len() as u64 == self.value_len(version)).then_some(version)
    }

    /// The bytes that its frame takes at least: more if it expires, or a merge has moved it.
    pub(crate) fn frame_len(self, version: Option<u64>) -> u64 {
        let value = version.map_or(0, |version| self.value_len(version));
        16 + (self.bytes().len() as u64).next_multiple_of(8) + value.next_multiple_of(8)
    }

    /// The most that all frames can take that are live.
    pub(crate) fn most_live_bytes() -> u64 {
        let most = |key: Self| match key.sort() {
            Sort::Single if key.is_oversize() => (3200 << 10) + 100,
            Sort::Single if key.nth().is_multiple_of(16) => 64_100,
            _ => 2100,
        };
        (0..WRITERS).flat_map(Self::all_of).map(most).sum()
    }
}

const fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// The words behind the first two.
fn fill(a: u64, b: u64) -> impl Iterator<Item = [u8; 8]> {
    let mut state = mix(a).wrapping_add(b.wrapping_mul(SEED)) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
}

/// Bytes that depend on two numbers, which are their beginning.
fn body(a: u64, b: u64, len: u64) -> Vec<u8> {
    let len = len as usize;
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend(a.to_le_bytes());
    bytes.extend(b.to_le_bytes());
    for word in fill(a, b).take((len - 16).div_ceil(8)) {
        bytes.extend(word);
    }
    bytes.truncate(len);
    bytes
}

/// The two numbers, if all bytes are as they have to be.
fn check(bytes: &[u8]) -> Option<(u64, u64)> {
    let word = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let (a, b) = (word(0)?, word(8)?);
    let mut pairs = bytes[16..].chunks(8).zip(fill(a, b));
    pairs.all(|(found, word)| found == &word[..found.len()]).then_some((a, b))
}

/// An entry of the log: who appended it, and which one of theirs it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) appender: u64,
    pub(crate) nth: u64,
}

impl Entry {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let random = mix(self.appender ^ self.nth.wrapping_mul(SEED));
        let len = match random % 1000 {
            0 => (2200 << 10) + (random >> 20) % (1 << 20),
            1..=10 => 4000 + (random >> 20) % 60_000,
            _ => 16 + (random >> 20) % 700,
        };
        body(self.appender, self.nth, len)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (appender, nth) = check(bytes)?;
        Some(Self { appender, nth })
    }
}

#[test]
fn what_is_written_is_recognized_and_what_is_changed_is_not() {
    for key in (0..WRITERS).flat_map(Key::all_of) {
        assert_eq!(Key::parse(&key.bytes()), Some(key));
        let mut value = key.value(7);
        assert_eq!(key.version_of(&value), Some(7));
        assert!(key.frame_len(Some(7)) > value.len() as u64);
        let last = value.len() - 1;
        assert_eq!(key.version_of(&value[..last]), None);
        // Of a short value, all that it has is its key and version.
        value[last] ^= 1;
        assert_ne!(key.version_of(&value), Some(7));
    }
    let entry = Entry { appender: 1, nth: 1 << 32 | 5 };
    assert_eq!(Entry::parse(&entry.bytes()), Some(entry));
}
