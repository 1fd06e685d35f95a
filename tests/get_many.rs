//! `get_many` sees many keys at one moment: batches whole or not at all, and nothing of the caller's under a
//! lock.

mod common;

use common::{Finish, segment, store_by_hand as options, until, within};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use tailcask::{Batch, Store};

/// A batch's keys lie in different groups of the lookup, and between them others that are not its.
#[test]
fn many_keys_see_each_batch_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("store")).unwrap();
    let keys: Vec<String> = (0..1000).map(|n| format!("key {n}")).collect();
    let write = |n: u64, step: usize| {
        let mut batch = Batch::new();
        for key in keys.iter().step_by(step) {
            batch.put(key, n.to_le_bytes());
        }
        store.write(&batch).unwrap();
    };
    write(0, 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                write(n, 1 + n as usize % 7);
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            let _finish = Finish(&done);
            for round in 0..3000 {
                let of = |value: &[u8]| u64::from_le_bytes(value.try_into().unwrap());
                let mut found = Vec::new();
                if round % 2 == 0 {
                    let all = store.get_many(&keys).unwrap();
                    found.extend(all.iter().map(|value| of(value.as_ref().unwrap())));
                } else {
                    store.get_many_with(&keys, |_, value| found.push(of(value.unwrap()))).unwrap();
                }
                let number = |nth: usize| found[nth];
                // What was written last to the first key, which is in each batch, was written to all
                // of its batch, and nothing later is anywhere.
                let newest = number(0);
                let step = if newest == 0 { 1 } else { 1 + newest as usize % 7 };
                for nth in 0..keys.len() {
                    let here = number(nth);
                    let whole = if nth % step == 0 { here == newest } else { here < newest };
                    assert!(whole, "{here} at {nth}, and {newest} at 0, of every {step}th");
                }
            }
        });
    });
    store.close().unwrap();
}

/// A key whose bytes are made by writing to the store.
struct Writes<'s> {
    store: &'s Store,
    key: String,
}

impl AsRef<[u8]> for Writes<'_> {
    fn as_ref(&self) -> &[u8] {
        for n in 0..64 {
            self.store.put(format!("other {n}"), "written meanwhile").unwrap();
            self.store.get(format!("other {n}")).unwrap();
        }
        self.key.as_bytes()
    }
}

#[test]
fn keys_that_write_to_the_store_when_they_are_asked_for_do_not_hang_it() {
    for count in [1, 32, 33, 300] {
        within(move || {
            let dir = tempfile::tempdir().unwrap();
            let store = options().open(dir.path().join("store")).unwrap();
            let name = |n: u32| format!("key {n}");
            for n in 0..count {
                store.put(name(n), n.to_le_bytes()).unwrap();
            }
            let keys: Vec<_> = (0..count).map(|n| Writes { store: &store, key: name(n) }).collect();
            let found = store.get_many(&keys).unwrap();
            let right = |(n, value): (u32, &Option<_>)| {
                let value: &tailcask::Value<'_> = value.as_ref().unwrap();
                value[..] == n.to_le_bytes()
            };
            assert!((0..count).zip(&found).all(right));
            store.get_many_with(&keys, |_, value| assert!(value.is_some())).unwrap();
        });
    }
}

/// What a closure is called with is what `get` returns, and it runs under no lock.
#[test]
fn closures_see_what_get_returns_and_may_use_the_store() {
    for count in [0, 1, 32, 33, 300] {
        within(move || {
            let dir = tempfile::tempdir().unwrap();
            // Every other key is there, and most share their tags with others.
            let store = options().tag_bits(3).open(dir.path().join("store")).unwrap();
            let keys: Vec<String> = (0..count).map(|n| format!("key {n}")).collect();
            for key in keys.iter().step_by(2) {
                store.put(key, key).unwrap();
            }
            let mut nth = 0;
            let each = |index: usize, value: Option<&[u8]>| {
                assert_eq!(index, nth);
                assert_eq!(value, (nth % 2 == 0).then(|| keys[nth].as_bytes()));
                let got = store.get_with(&keys[nth], |got| {
                    store.put(&keys[nth], got).unwrap();
                    Some(got) == value
                });
                assert_eq!(got.unwrap(), value.map(|_| true));
                nth += 1;
            };
            store.get_many_with(&keys, each).unwrap();
            assert_eq!(nth, keys.len());
        });
    }
}

/// The segment of a value that a closure reads is merged away meanwhile, by another thread, and stays mapped
/// until the closure has returned. (Nothing but the epoch of the call keeps it: no pin, and no lock.)
#[test]
fn what_a_closure_reads_stays_mapped() {
    within(|| {
        let dir = tempfile::tempdir().unwrap();
        let store = options().open(dir.path().join("store")).unwrap();
        let keys: Vec<String> = (0..40).map(|n| format!("key {n}")).collect();
        let waiting = || store.stats().segments_waiting_for_readers;
        let maintain = || (0..10).for_each(|_| _ = store.maintain().unwrap());
        // What another thread does while a closure stands still.
        let merge_away = || {
            let other = || {
                keys.iter().for_each(|key| _ = store.put(key, "another value").unwrap());
                assert!(store.merge().unwrap().inputs > 0);
                maintain();
            };
            std::thread::scope(|scope| scope.spawn(other).join().unwrap());
        };
        let put = || keys.iter().for_each(|key| _ = store.put(key, key).unwrap());
        put();
        let same = store.get_with(&keys[0], |value| {
            merge_away();
            assert!(waiting() > 0, "it is not unmapped while it is read");
            value == keys[0].as_bytes()
        });
        assert_eq!(same.unwrap(), Some(true));
        // Nobody reads it any longer.
        until("it is unmapped", || {
            maintain();
            waiting() == 0
        });
        put();
        let mut seen = 0;
        let each = |nth: usize, value: Option<&[u8]>| {
            if nth == 0 {
                merge_away();
            }
            assert!(waiting() > 0, "it is not unmapped while it is read");
            assert_eq!(value.unwrap(), keys[nth].as_bytes());
            seen += 1;
        };
        store.get_many_with(&keys, each).unwrap();
        assert_eq!(seen, keys.len());
        until("it is unmapped", || {
            maintain();
            waiting() == 0
        });
        assert_eq!(&*store.get(&keys[0]).unwrap().unwrap(), b"another value");
    });
}

/// Values that came together are dropped one by one.
#[test]
fn each_value_keeps_its_segment_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("store")).unwrap();
    let keys: Vec<String> = (0..40).map(|n| format!("key {n}")).collect();
    keys.iter().for_each(|key| _ = store.put(key, key).unwrap());
    let mut values = store.get_many(&keys).unwrap();
    keys.iter().for_each(|key| _ = store.put(key, "another value").unwrap());
    assert!(store.merge().unwrap().inputs > 0);
    while let Some(value) = values.pop() {
        (0..5).for_each(|_| _ = store.maintain().unwrap());
        assert!(store.stats().segments_waiting_for_readers > 0);
        assert_eq!(&*value.unwrap(), keys[values.len()].as_bytes());
    }
    while store.stats().segments_waiting_for_readers > 0 {
        store.maintain().unwrap();
    }
}

/// Keys that share their tags with a damaged frame: what `get` says of each, `get_many` says of all.
#[test]
fn damage_beside_one_key_is_no_error_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().tag_bits(3).open(dir.path().join("store")).unwrap();
    let damaged = store.put("damaged", "a value that is damaged").unwrap();
    let there: Vec<_> = (0..40).map(|n| format!("there {n}")).collect();
    for key in &there {
        store.put(key, key).unwrap();
    }
    let name = dir.path().join("store").join(segment(damaged.segment()));
    let file = std::fs::File::options().write(true).open(name).unwrap();
    file.write_all_at(b"x", u64::from(damaged.offset()) + 16 + 8 + 2).unwrap();

    store.get("damaged").unwrap_err();
    // So many that some have the damaged one's tag, and some have not.
    let absent: Vec<_> = (0..400).map(|n| format!("absent {n}")).collect();
    let (sound, unsure): (Vec<_>, Vec<_>) =
        absent.iter().partition(|key| store.get(key).is_ok_and(|value| value.is_none()));
    assert!(!sound.is_empty() && !unsure.is_empty());
    for there in &there {
        assert_eq!(&*store.get(there).unwrap().unwrap(), there.as_bytes());
        for absent in &sound {
            let found = store.get_many(&[there, absent]).unwrap();
            assert!(found[0].is_some() && found[1].is_none());
            let mut are_there = Vec::new();
            let each = |_, value: Option<&[u8]>| are_there.push(value.is_some());
            store.get_many_with(&[there, absent], each).unwrap();
            assert_eq!(are_there, [true, false]);
        }
    }
    for count in [1, 40, 80] {
        let all: Vec<_> = there.iter().chain(sound.iter().copied()).take(count).collect();
        assert!(store.get_many(&all).is_ok());
        for absent in &unsure {
            let mut all = all.clone();
            all.push(absent);
            store.get_many(&all).unwrap_err();
            store.get_many_with(&all, |_, _| {}).unwrap_err();
            store.get_with(absent, |_| ()).unwrap_err();
        }
    }
}
