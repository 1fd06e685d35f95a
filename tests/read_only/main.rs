//! A store that is opened for reading only: it shows what was acknowledged before, each batch whole or not
//! at all, whatever a writer does meanwhile; and it leaves no trace.
//!
//! `TAILCASK_ROUNDS` says how often the tests beside writers look.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod backups;
mod places;
mod views;
mod writers;

use common::content::Map;
use common::{Random, until};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tailcask::{Batch, ReadView, Store, WriteOptions};

/// What the other process of the tests in `writers` does.
#[test]
#[ignore = "run by other tests"]
fn child() {
    writers::child();
}

fn all(view: &ReadView) -> Map {
    let pairs = view.iter().map(|pair| pair.unwrap());
    let mut found = Map::new();
    for pair in pairs {
        let twice = found.insert(pair.key().to_vec(), pair.value().to_vec());
        assert!(twice.is_none(), "{:?} comes twice", pair.key());
    }
    found
}

/// A view is what a map is, by every way of asking.
fn assert_is(view: &ReadView, model: &Map) {
    assert!(all(view) == *model);
    let mut keys: Vec<_> = view.keys().map(Result::unwrap).collect();
    keys.sort_unstable();
    assert!(keys.iter().eq(model.keys()));
    for (key, value) in model {
        assert_eq!(&*view.get(key).unwrap().unwrap(), &value[..]);
        assert!(view.contains_key(key).unwrap());
        assert_eq!(view.value_len(key).unwrap(), Some(value.len()));
    }
    assert!(view.get("no such key").unwrap().is_none());
    let asked: Vec<_> = model.keys().map(Vec::as_slice).chain([&b"no such key"[..]]).collect();
    let found = view.get_many(&asked).unwrap();
    assert!(found[..model.len()].iter().zip(model.values()).all(|(a, b)| a.as_deref() == Some(b)));
    assert!(found[model.len()].is_none());
    let report = view.verify().unwrap();
    assert_eq!(report.keys, model.len() as u64);
    assert!(!view.is_empty() || model.is_empty());
    assert_eq!(view.stats().keys, view.len());
}

/// All there is in a directory, and what would show that something was done to it.
fn listing(dir: &Path) -> BTreeMap<PathBuf, (u64, u32, u64, SystemTime, u64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::symlink_metadata(&path).unwrap();
        if data.is_dir() {
            found.extend(listing(&path));
        }
        let modified = data.modified().unwrap();
        found.insert(path, (data.len(), data.mode(), data.ino(), modified, data.blocks()));
    }
    let data = std::fs::metadata(dir).unwrap();
    found.insert(dir.into(), (0, data.mode(), data.ino(), data.modified().unwrap(), 0));
    found
}

/// Looks at a directory, and at nothing's being changed by that.
fn without_a_trace<R>(dir: &Path, look: impl FnOnce() -> R) -> R {
    let before = listing(dir);
    let result = look();
    assert_eq!(listing(dir), before);
    result
}

/// Does things to a store, and to a map.
fn change(store: &Store, model: &mut Map, random: &mut Random, count: u64) {
    for n in 0..count {
        let key = format!("key {}", random.below(300)).into_bytes();
        let value = vec![n as u8; random.below(3000) as usize];
        match random.below(100) {
            0..60 => {
                store.put(&key, &value).unwrap();
                model.insert(key, value);
            }
            60..75 => {
                assert_eq!(store.delete(&key).unwrap(), model.remove(&key).is_some());
            }
            75..80 => {
                let soon = WriteOptions::new().ttl(Duration::from_millis(1));
                store.put_with(&key, &value, &soon).unwrap();
                until("it has expired", || store.ttl(&key).unwrap().is_none());
                model.remove(&key);
            }
            80..95 => {
                let mut batch = Batch::new();
                for n in 0..random.below(20) {
                    let key = format!("key {}", random.below(300)).into_bytes();
                    if n % 4 == 0 {
                        batch.delete(&key);
                        model.remove(&key);
                    } else {
                        batch.put(&key, &value);
                        model.insert(key, value.clone());
                    }
                }
                store.write(&batch).unwrap();
            }
            95..97 => store.log().append(b"an entry of the log").map(drop).unwrap(),
            97..98 => drop(store.merge().unwrap()),
            98..99 => drop(store.maintain().unwrap()),
            _ => store.sync().map(drop).unwrap(),
        }
    }
}
