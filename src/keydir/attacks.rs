//! Attacks with chosen keys: without the secret, keys cannot be chosen to have equal tags; and the work
//! for keys that do is counted.

use super::load::tests::{Source, entry};
use super::*;
use std::cell::Cell;
use std::collections::HashMap;

/// Number of keys in an attack.
const KEYS: u32 = 4000;

type Key = [u8; 16];

/// Keys that would have one tag in every store if the hash had a fixed constant: their last 8 bytes
/// make a folded multiplication 0.
fn of_the_old_constant() -> Vec<Key> {
    let suffix = 0xcb79_c08c_cb6f_1cb3_u64;
    let key = |n: u64| [n, suffix].map(u64::to_le_bytes).as_flattened().try_into().unwrap();
    (0..u64::from(KEYS)).map(key).collect()
}

/// Keys whose tags begin with the same 10 bits, found by trying with a known secret. Each takes 2^10
/// tries; a whole tag would take 2^32.
fn found_by_trying(known: [u8; 16]) -> Vec<Key> {
    let keydir = Keydir::new(known, 32);
    let keys = (0..).map(|n: u64| [n, !n].map(u64::to_le_bytes).as_flattened().try_into().unwrap());
    keys.filter(|key: &Key| keydir.tag(key) >> 22 == 0x155).take(KEYS as usize).collect()
}

/// The number of keys with the most frequent tag, of which only `bits` bits count.
fn most_of_one(keydir: &Keydir, keys: &[Key], bits: u32) -> usize {
    let mut counts = HashMap::new();
    keys.iter().for_each(|key| *counts.entry(keydir.tag(key) >> (32 - bits)).or_insert(0) += 1);
    counts.into_values().max().unwrap()
}

fn secrets() -> impl Iterator<Item = [u8; 16]> {
    // A fixed secret, so that the test is the same each time.
    (1..=20).map(|n: u8| std::array::from_fn(|at| n.wrapping_mul(31) ^ (at as u8).wrapping_mul(n)))
}

#[test]
fn chosen_keys_spread_as_random_ones_do() {
    let known = [9; 16];
    let by_trying = found_by_trying(known);
    assert_eq!(most_of_one(&Keydir::new(known, 32), &by_trying, 10), KEYS as usize);
    for secret in secrets() {
        let keydir = Keydir::new(secret, 32);
        for keys in [of_the_old_constant(), by_trying.clone()] {
            // By chance: one pair of equal tags in 500 such sets; of 4,000 keys in 1,024 places
            // 4 each, and 18 in one of them once in a million sets.
            assert!(most_of_one(&keydir, &keys, 32) <= 2);
            assert!(most_of_one(&keydir, &keys, 10) < 22);
        }
    }
}

/// Puts all keys, gets all, and loads all into another keydir. Returns how often keys were compared in
/// each step.
fn work(secret: [u8; 16], keys: &[Key]) -> [u64; 3] {
    let keydir = Keydir::new(secret, 32);
    let compared = Cell::new(0);
    let compare = |at, nth| {
        compared.set(compared.get() + 1);
        at == entry(nth, 0)
    };
    for (nth, key) in (0..).zip(keys) {
        let slot = keydir.entry(keydir.tag(key), |at| compare(at, nth));
        assert_eq!(slot.position(), None);
        slot.set(entry(nth, 0));
    }
    let puts = compared.take();
    for (nth, key) in (0..).zip(keys) {
        assert!(keydir.get(keydir.tag(key), |at| compare(at, nth), |_| ()).is_some());
    }
    let gets = compared.take();
    let again = Keydir::new(secret, 32);
    let entries = (0..).zip(keys).map(|(nth, key)| (again.name(key), entry(nth, 0)));
    let compared = again.load(&[Source::puts(entries)], 1);
    assert_eq!(again.len(), keys.len() as u64);
    [puts, gets, compared]
}

#[test]
fn chosen_keys_cost_what_others_cost() {
    for secret in secrets().take(4) {
        for keys in [of_the_old_constant(), found_by_trying([9; 16])] {
            let [puts, gets, loads] = work(secret, &keys);
            // Two keys that share a tag by chance are compared.
            assert!(puts <= 2, "{puts} comparisons");
            assert!(gets <= u64::from(KEYS) + 2, "{gets} comparisons");
            // As many as there are buckets, so two names in three share one with another.
            assert!(loads <= u64::from(KEYS), "{loads} comparisons");
        }
    }
}

/// Beyond it hints are not used.
#[test]
fn by_chance_no_tag_has_more_than_most_of_a_tag() {
    for bits in [1, 3, 8, 16, 32] {
        for secret in secrets() {
            let keydir = Keydir::new(secret, bits);
            for keys in [1, 10, 100, 3000_u32] {
                let mut counts = HashMap::new();
                (0..keys)
                    .for_each(|n| *counts.entry(keydir.tag(&n.to_le_bytes())).or_insert(0) += 1);
                let most = counts.into_values().max().unwrap();
                assert!(
                    most <= keydir.most_of_a_tag(keys as usize),
                    "{bits} bits, {keys} keys: {most}"
                );
            }
        }
    }
    let keydir = Keydir::new([7; 16], 32);
    assert_eq!(keydir.most_of_a_tag(1 << 20), 16, "of a segment's worth of keys");
    assert_eq!(keydir.most_of_a_tag(u32::MAX as usize), 23);
}
