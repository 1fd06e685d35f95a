//! `verify_on_read(false)`: reads skip the checksum of a record's body, and nothing else. What is not a
//! record is still an error and never "no such key"; `verify` and merges still check everything.

mod common;

use common::files::flip;
use common::{segment, store_by_hand};
use std::path::Path;
use tailcask::{LogPosition, MergeError, ReadError, Store, StoreOptions};

const VALUE: &[u8] = b"a value of some length";

fn options(verify: bool) -> StoreOptions {
    store_by_hand().verify_on_read(verify)
}

/// A store with "other", and a damaged record of "key": `mask` is flipped in its byte `at` while the store
/// is open. Their segment is sealed and has a hint, so that opening does not read the damage.
fn damaged(path: &Path, verify: bool, at: u64, mask: u8) -> (Store, LogPosition) {
    let store = options(verify).open(path).unwrap();
    let place = store.put("key", VALUE).unwrap();
    store.put("other", "sound").unwrap();
    store.roll().unwrap();
    store.maintain().unwrap();
    flip(&path.join(segment(place.segment())), u64::from(place.offset()) + at, mask);
    (store, place)
}

/// Where the value begins: behind the header of 16 bytes, and the key, which is padded to 8.
const VALUE_AT: u64 = 16 + 8;

#[test]
fn without_verification_a_damaged_value_is_read_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (store, _) = damaged(&path, false, VALUE_AT, 0x20);
    let found = [b"A", &VALUE[1..]].concat();
    assert_eq!(*store.get("key").unwrap().unwrap(), *found);
    assert_eq!(store.value_len("key").unwrap(), Some(VALUE.len()));
    let many = store.get_many(&["other", "key"]).unwrap();
    assert_eq!(many[1].as_deref(), Some(&found[..]));
    let all: Vec<_> = store.iter().map(|pair| pair.unwrap().value().to_vec()).collect();
    assert!(all.len() == 2 && all.contains(&found));

    let view = options(false).open_read_only(&path).unwrap();
    assert_eq!(*view.get("key").unwrap().unwrap(), *found);
    assert_eq!(view.get_many(&["key"]).unwrap()[0].as_deref(), Some(&found[..]));
    assert!(view.iter().all(|pair| pair.is_ok()));
}

#[test]
fn with_verification_a_damaged_value_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (store, place) = damaged(&path, true, VALUE_AT, 0x20);
    match store.get("key") {
        Err(ReadError::Corrupt(corruption)) => {
            assert_eq!((corruption.segment, corruption.offset), (1, place.offset().into()));
        }
        other => panic!("{other:?}"),
    }
    store.get_many(&["other", "key"]).unwrap_err();
    assert_eq!(store.iter().filter(Result::is_err).count(), 1);
    assert_eq!(&*store.get("other").unwrap().unwrap(), b"sound");

    let view = options(true).open_read_only(&path).unwrap();
    view.get("key").unwrap_err();
    view.get_many(&["key"]).unwrap_err();
    assert_eq!(view.iter().filter(Result::is_err).count(), 1);
}

/// Everything that says where the key and the value are, and whose the record is.
#[test]
fn what_is_not_a_record_of_the_key_is_an_error_with_and_without_verification() {
    let changes: [(&str, u64, u8); 7] = [
        ("the state", 0, 0x02),
        ("a length that ends outside of the segment", 3, 0x40),
        ("a length too short for key and value", 0, 0x20),
        ("the kind", 8, 0x08),
        ("the length of the key", 11, 0x80),
        ("the length of the value", 14, 0x40),
        ("the key", 16, 0x01),
    ];
    for (what, at, mask) in changes {
        for verify in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (store, _) = damaged(&dir.path().join("store"), verify, at, mask);
            let found = store.get("key");
            assert!(matches!(found, Err(ReadError::Corrupt(_))), "{what}, {verify}: {found:?}");
            let many = store.get_many(&["other", "key"]);
            assert!(matches!(many, Err(ReadError::Corrupt(_))), "{what}, {verify}: {many:?}");
            // Nor can it be overwritten or deleted without notice if its key is gone.
            assert!(what != "the key" || store.put("key", "new").is_err());
            assert_eq!(&*store.get("other").unwrap().unwrap(), b"sound", "{what}");
        }
    }
}

#[test]
fn verify_checks_values_that_reads_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (store, place) = damaged(&path, false, VALUE_AT, 0x20);
    store.get("key").unwrap().unwrap();
    match store.verify() {
        Err(ReadError::Corrupt(corruption)) => {
            assert_eq!((corruption.segment, corruption.offset), (1, place.offset().into()));
        }
        other => panic!("{other:?}"),
    }
    options(false).open_read_only(&path).unwrap().verify().unwrap_err();
}

#[test]
fn a_merge_copies_no_value_that_reads_do_not_check() {
    let dir = tempfile::tempdir().unwrap();
    let (store, place) = damaged(&dir.path().join("store"), false, VALUE_AT, 0x20);
    match store.merge_only(&[place.segment()]) {
        Err(MergeError::Corrupt(corruption)) => {
            assert_eq!((corruption.segment, corruption.offset), (1, place.offset().into()));
        }
        other => panic!("{other:?}"),
    }
    // Its segment stays, damage and all, and nothing with a sound checksum was made of it.
    assert_eq!(store.get("key").unwrap().unwrap().position(), place);
    assert_eq!(store.stats().damaged[0].id, place.segment());
    store.verify().unwrap_err();
    assert_eq!(&*store.get("other").unwrap().unwrap(), b"sound");
}
