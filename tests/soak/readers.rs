//! Readers of the store beside its writers: what they see is between what had ended before and what had begun after.

use crate::child::Shared;
use crate::content::{GROUPS, Key, Sort, WRITERS};
use crate::oracle::counted;
use crate::tally::Count;
use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Whether a version that was found, or none, can have been there.
fn check(key: Key, found: Option<u64>, ended: u64, begun: u64) {
    let can_be = match found {
        Some(version) => version >= ended >> 1 && version <= begun >> 1,
        None => ended & 1 == 0 || begun != ended,
    };
    assert!(can_be, "{key:x?}: {found:x?} found, {ended:x} had ended, {begun:x} had begun");
}

pub(crate) fn look_up(shared: &Shared, nth: u64) {
    let mut random = shared.plan.random(300 + nth);
    while !shared.stops() {
        let writer = random.below(WRITERS);
        if random.below(8) == 0 {
            look_up_group(shared, Key::grouped(writer, random.below(GROUPS), 0));
            continue;
        }
        let key = Key::single(writer, random.next());
        if key.is_oversize() && random.below(16) > 0 {
            continue;
        }
        let published = &shared.published[&key];
        let ended = published.ended.load(SeqCst);
        let found = shared.store.get(key.bytes()).unwrap();
        let found = found.map(|value| key.version_of(&value).expect("a value of this key"));
        check(key, found, ended, published.begun.load(SeqCst));
        shared.count(Count::Gets);
        if random.below(64) == 0 {
            // Others have to get on, too.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// All of a batch is there, or nothing.
fn look_up_group(shared: &Shared, first: Key) {
    let keys: Vec<_> = first.group().map(Key::bytes).collect();
    let published = &shared.published[&first];
    let ended = published.ended.load(SeqCst);
    let found = shared.store.get_many(&keys).unwrap();
    let versions: Vec<_> = first
        .group()
        .zip(found)
        .map(|(key, value)| value.map(|value| key.version_of(&value).expect("a value of this key")))
        .collect();
    assert!(versions.iter().all(|version| *version == versions[0]), "{first:x?}: {versions:x?}");
    check(first, versions[0], ended, published.begun.load(SeqCst));
    shared.count(Count::GetMany);
}

/// Each key comes once, and those that nobody changes come.
pub(crate) fn iterate(shared: &Shared, _: u64) {
    while !shared.stops() {
        let ended: HashMap<_, _> =
            shared.published.iter().map(|(key, state)| (*key, state.ended.load(SeqCst))).collect();
        let mut seen = HashMap::new();
        for pair in &shared.store {
            let pair = pair.unwrap();
            let key = Key::parse(pair.key()).expect("a key");
            let version = match key.sort() {
                Sort::Counter => counted(key, pair.value()),
                _ => key.version_of(pair.value()),
            };
            let version = version.expect("a value of this key");
            assert_eq!(seen.insert(key, version), None, "{key:x?} comes twice");
        }
        for (key, ended) in ended.into_iter().filter(|(key, _)| key.sort() != Sort::Expiring) {
            check(key, seen.get(&key).copied(), ended, shared.published[&key].begun.load(SeqCst));
        }
        shared.count(Count::Iterations);
        std::thread::sleep(Duration::from_millis(5));
    }
}
