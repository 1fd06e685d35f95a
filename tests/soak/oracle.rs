//! What must be in a store: what was there, and what children say that they have done since.

use crate::content::{Key, Sort};
use crate::journal::{Outcome, Record, What, now};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use tailcask::{Pair, ReadError, ReadView, Store, Value, VerifyReport};

/// A key's value: its version, and between which times it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    version: u64,
    expires: (u64, u64),
}

const NEVER: (u64, u64) = (u64::MAX, u64::MAX);

/// Whatever can be read like a store.
pub(crate) trait Readable {
    fn get(&self, key: &[u8]) -> Result<Option<Value<'_>>, ReadError>;
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Value<'_>>>, ReadError>;
    fn pairs(&self) -> impl Iterator<Item = Result<Pair<'_>, ReadError>>;
    fn verify(&self) -> Result<VerifyReport, ReadError>;
    fn len(&self) -> u64;
}

macro_rules! readable {
    ($name:ty) => {
        impl Readable for $name {
            fn get(&self, key: &[u8]) -> Result<Option<Value<'_>>, ReadError> {
                <$name>::get(self, key)
            }
            fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Value<'_>>>, ReadError> {
                <$name>::get_many(self, keys)
            }
            fn pairs(&self) -> impl Iterator<Item = Result<Pair<'_>, ReadError>> {
                self.iter()
            }
            fn verify(&self) -> Result<VerifyReport, ReadError> {
                <$name>::verify(self)
            }
            fn len(&self) -> u64 {
                <$name>::len(self)
            }
        }
    };
}

readable!(Store);
readable!(ReadView);

/// All that was found in a store, and between which times that was.
#[derive(Debug)]
pub(crate) struct Found {
    times: (u64, u64),
    pub(crate) versions: HashMap<Key, u64>,
}

fn version(key: Key, value: &[u8]) -> Result<u64, String> {
    let version =
        if key.sort() == Sort::Counter { counted(key, value) } else { key.version_of(value) };
    version.ok_or_else(|| format!("{key:x?} has {} bytes that it was never given", value.len()))
}

/// The value of a counter.
pub(crate) fn count_value(key: Key, count: u64) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&key.0.to_le_bytes());
    value[8..].copy_from_slice(&count.to_le_bytes());
    value
}

pub(crate) fn counted(key: Key, value: &[u8]) -> Option<u64> {
    let count = u64::from_le_bytes(*value.last_chunk()?);
    (value == count_value(key, count)).then_some(count)
}

impl Found {
    /// Reads everything in three ways, which have to agree.
    pub(crate) fn in_store(store: &impl Readable) -> Result<Self, String> {
        let failed = |what: &str, error: ReadError| format!("{what}: {error}");
        let (before, mut iterated) = (now(), HashMap::new());
        for pair in store.pairs() {
            let pair = pair.map_err(|error| failed("iteration", error))?;
            let key = Key::parse(pair.key()).ok_or_else(|| format!("a key {:x?}", pair.key()))?;
            if iterated.insert(key, version(key, pair.value())?).is_some() {
                return Err(format!("{key:x?} comes twice"));
            }
        }
        let all: Vec<_> = Key::all().collect();
        let mut versions = HashMap::new();
        for keys in all.chunks(50) {
            let bytes: Vec<_> = keys.iter().map(|key| key.bytes()).collect();
            let many = store.get_many(&bytes).map_err(|error| failed("get_many", error))?;
            for ((key, bytes), one) in keys.iter().zip(&bytes).zip(many) {
                let found = store.get(bytes).map_err(|error| failed("get", error))?;
                let found = found.map(|value| version(*key, &value)).transpose()?;
                let one = one.map(|value| version(*key, &value)).transpose()?;
                let pair = iterated.get(key).copied();
                if key.sort() != Sort::Expiring && (found != pair || found != one) {
                    return Err(format!(
                        "{key:x?}: {found:x?} by get, {one:x?}, {pair:x?} by iteration"
                    ));
                }
                versions.extend(found.map(|found| (*key, found)));
            }
        }
        // Merges may remove what has expired, at any time.
        let lasting = iterated.keys().filter(|key| key.sort() != Sort::Expiring).count();
        if !(lasting..=all.len()).contains(&(store.len() as usize)) {
            return Err(format!("{} keys, and {lasting} pairs that do not expire", store.len()));
        }
        Ok(Self { times: (before, now()), versions })
    }

    fn fits(&self, key: Key, held: Option<Held>) -> bool {
        match (held, self.versions.get(&key)) {
            (None, found) => found.is_none(),
            (Some(held), None) => held.expires.0 <= self.times.1,
            (Some(held), Some(found)) => *found == held.version && self.times.0 <= held.expires.1,
        }
    }
}

/// What one session of a child did: its writers' records.
pub(crate) type Session = Vec<Vec<Record>>;

/// Which of each writer's records must be in what is looked at, and which may be.
pub(crate) type Range = Vec<(usize, usize)>;

/// What must be there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle(HashMap<Key, Held>);

impl Oracle {
    fn apply(&mut self, record: &Record) -> Vec<Key> {
        if record.outcome == Outcome::NoSpace {
            return Vec::new();
        }
        let key = Key(record.key);
        let keys: Vec<_> = match record.what {
            What::PutGroup | What::DeleteGroup => key.group().collect(),
            What::Put | What::Delete | What::PutExpiring => vec![key],
            _ => Vec::new(),
        };
        let latest = match record.outcome {
            Outcome::Open => u64::MAX,
            _ => record.aux + u64::from(record.milliseconds) + 1,
        };
        let expires = if record.what == What::PutExpiring { (record.aux, latest) } else { NEVER };
        for key in &keys {
            if matches!(record.what, What::Delete | What::DeleteGroup) {
                self.0.remove(key);
            } else {
                self.0.insert(*key, Held { version: record.version, expires });
            }
        }
        keys
    }

    /// Compares what was found with what a session may have left: of each writer's records a beginning, at
    /// least as long and at most as long as it is said. Gives what is there.
    pub(crate) fn check(
        &self,
        session: &Session,
        range: &Range,
        found: &Found,
    ) -> Result<Self, String> {
        let mut after = self.clone();
        for (writer, (records, &(from, to))) in session.iter().zip(range).enumerate() {
            after.check_writer(writer as u64, records, from, to, found)?;
        }
        self.check_counters(&mut after, session, range, found)?;
        Ok(after)
    }

    fn check_writer(
        &mut self,
        writer: u64,
        records: &[Record],
        from: usize,
        to: usize,
        found: &Found,
    ) -> Result<(), String> {
        for record in &records[..from] {
            self.apply(record);
        }
        let fits = |this: &Self, key: Key| found.fits(key, this.0.get(&key).copied());
        let mut wrong: BTreeSet<Key> =
            Key::all_of(writer).filter(|key| !fits(self, *key)).collect();
        let first = wrong.clone();
        let described = self.describe(&wrong, found);
        for record in &records[from..to] {
            if wrong.is_empty() {
                break;
            }
            for key in self.apply(record) {
                let _ = if fits(self, key) { wrong.remove(&key) } else { wrong.insert(key) };
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!(
            "of writer {writer} {} keys are not what they were after {from} operations, and \
             {} are not after {to}: {described}; in the end {}",
            first.len(),
            wrong.len(),
            self.describe(&wrong, found),
        ))
    }

    fn describe(&self, wrong: &BTreeSet<Key>, found: &Found) -> String {
        let one = |key: &Key| {
            let (held, found) = (self.0.get(key), found.versions.get(key));
            format!("{key:x?}: {held:x?} expected, {found:x?} found")
        };
        wrong.iter().take(4).map(one).collect::<Vec<_>>().join("; ")
    }

    fn check_counters(
        &self,
        after: &mut Self,
        session: &Session,
        range: &Range,
        found: &Found,
    ) -> Result<(), String> {
        for key in Key::counters() {
            let before = self.0.get(&key).map_or(0, |held| held.version);
            let (mut least, mut most, mut given) = (before, before, HashSet::new());
            for (records, &(from, to)) in session.iter().zip(range) {
                let of_key = |record: &&Record| {
                    let counts = record.what == What::Count && record.outcome != Outcome::NoSpace;
                    counts && record.key == key.0
                };
                let done = records[..from].iter().filter(of_key).count() as u64;
                least += done;
                most += done + records[from..to].iter().filter(of_key).count() as u64;
                for record in records.iter().filter(of_key) {
                    if record.outcome == Outcome::Done && !given.insert(record.version) {
                        return Err(format!("{key:x?} became {} twice", record.version));
                    }
                }
            }
            let count = found.versions.get(&key).copied().unwrap_or(0);
            if !(least..=most).contains(&count) {
                return Err(format!("{key:x?} is {count}, and was {least} to {most}"));
            }
            if count > 0 {
                after.0.insert(key, Held { version: count, expires: NEVER });
            }
        }
        Ok(())
    }

    pub(crate) fn version(&self, key: Key) -> Option<u64> {
        self.0.get(&key).map(|held| held.version)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those keys that do not have what they should, and how many bytes their newest frames take.
    pub(crate) fn differences(&self, found: &Found) -> BTreeMap<Key, u64> {
        let wrong = Key::all().filter(|key| !found.fits(*key, self.0.get(key).copied()));
        wrong.map(|key| (key, key.frame_len(self.0.get(&key).map(|held| held.version)))).collect()
    }
}
