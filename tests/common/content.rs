//! All that is in a log or a store.

use std::collections::BTreeMap;
use tailcask::{CommitLog, LogPosition, Store};

/// A store's pairs.
pub(crate) type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// The entries of a log, in order.
pub(crate) fn entries(log: &CommitLog) -> Vec<Vec<u8>> {
    placed_entries(log).into_iter().map(|(_, entry)| entry).collect()
}

/// The entries of a log with their positions.
pub(crate) fn placed_entries(log: &CommitLog) -> Vec<(LogPosition, Vec<u8>)> {
    let (mut reader, mut all) = (log.reader(), Vec::new());
    while let Some(entry) = reader.next_entry().unwrap() {
        all.push((entry.position(), entry.to_vec()));
    }
    all
}

/// How many entries a log has.
pub(crate) fn count(log: &CommitLog) -> usize {
    let (mut reader, mut count) = (log.reader(), 0);
    while reader.next_entry().unwrap().is_some() {
        count += 1;
    }
    count
}

/// The pairs of a store, by its iterator.
///
/// # Panics
/// If a key comes twice.
pub(crate) fn contents(store: &Store) -> Map {
    let mut all = Map::new();
    for pair in store {
        let pair = pair.unwrap();
        let old = all.insert(pair.key().to_vec(), pair.value().to_vec());
        assert!(old.is_none(), "{:?} comes twice", pair.key());
    }
    all
}

pub(crate) fn value(store: &Store, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    store.get(key).unwrap().map(|value| value.to_vec())
}

/// The ids of a store's sealed segments.
pub(crate) fn sealed(store: &Store) -> Vec<u32> {
    store.stats().segments.iter().filter(|s| s.sealed).map(|s| s.id).collect()
}
