//! Views of closed stores, and of stores that are open and quiet.

use super::{assert_is, change, listing, without_a_trace};
use crate::common::content::Map;
use crate::common::{Random, contents, segment, store_by_hand as by_hand};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tailcask::{ReadView, Store};

#[test]
fn a_closed_store_is_read_as_it_is_and_left_as_it_is() {
    for seed in 1..4 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let (mut model, mut random) = (Map::new(), Random::new(seed));
        let store = by_hand().open(&path).unwrap();
        change(&store, &mut model, &mut random, 1500);
        store.put("large", vec![7; 5 << 20]).unwrap();
        model.insert(b"large".into(), vec![7; 5 << 20]);
        store.close().unwrap();
        without_a_trace(dir.path(), || {
            let view = Store::open_read_only(&path).unwrap();
            assert_is(&view, &model);
            assert!(view.recovery().is_clean());
        });
        // Also without hints, which are not made then.
        for (path, _) in listing(&path) {
            if path.extension().is_some_and(|end| end == "hint") {
                std::fs::remove_file(path).unwrap();
            }
        }
        without_a_trace(dir.path(), || assert_is(&Store::open_read_only(&path).unwrap(), &model));
        assert!(contents(&by_hand().open(&path).unwrap()) == model);
    }
}

#[test]
fn a_view_beside_a_writer_of_this_process_is_as_of_its_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (mut model, mut random) = (Map::new(), Random::new(9));
    let store = by_hand().open(&path).unwrap();
    assert!(Store::open_read_only(&path).unwrap().is_empty());
    let mut old: Vec<(ReadView, Map)> = Vec::new();
    for _ in 0..12 {
        change(&store, &mut model, &mut random, 300);
        // Not a byte of memory that the writer maps is written to either.
        let view = without_a_trace(dir.path(), || {
            let view = Store::open_read_only(&path).unwrap();
            assert_is(&view, &model);
            view
        });
        assert!(view.position() <= store.log().tail());
        old.push((view, model.clone()));
    }
    store.merge().unwrap();
    for (view, model) in &old {
        assert_is(view, model);
    }
    store.close().unwrap();
    for (view, then) in &mut old {
        assert_is(view, then);
        view.refresh().unwrap();
        assert_is(view, &model);
        assert!(!view.refresh().unwrap());
    }
}

#[test]
fn a_refresh_takes_in_what_was_written_since_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = by_hand().open(&path).unwrap();
    store.put("key", "one").unwrap();
    let mut view = Store::open_read_only(&path).unwrap();
    assert!(!view.refresh().unwrap());
    let before = view.position();
    let kept = view.get("key").unwrap().unwrap().into_bytes();

    store.put("key", "two").unwrap();
    store.put("other", "new").unwrap();
    assert_eq!(&*view.get("key").unwrap().unwrap(), b"one");
    assert!(!view.contains_key("other").unwrap());
    assert!(view.refresh().unwrap());
    assert!(view.position() > before);
    assert_eq!(&*view.get("key").unwrap().unwrap(), b"two");
    assert_eq!(&*view.get("other").unwrap().unwrap(), b"new");

    assert!(store.delete("key").unwrap());
    store.merge().unwrap();
    assert_eq!(&*view.get("key").unwrap().unwrap(), b"two");
    assert!(view.refresh().unwrap());
    assert!(view.get("key").unwrap().is_none());
    assert!(!view.refresh().unwrap());
    // What was merged away is held no longer.
    assert_eq!(view.stats().segments.iter().filter(|segment| segment.merged).count(), 1);

    store.close().unwrap();
    view.refresh().unwrap();
    let store = by_hand().open(&path).unwrap();
    store.put("after", "reopening").unwrap();
    assert!(view.refresh().unwrap());
    assert_eq!(&*view.get("after").unwrap().unwrap(), b"reopening");
    assert_eq!(&kept[..], b"one");
}

/// It keeps what it shows, whatever becomes of the view; and the view counts on.
#[test]
fn an_owned_iteration_goes_on_as_of_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (mut model, mut random) = (Map::new(), Random::new(11));
    let store = by_hand().open(&path).unwrap();
    change(&store, &mut model, &mut random, 1000);
    store.put("key", "one").unwrap();
    model.insert(b"key".into(), b"one".into());
    let mut view = Store::open_read_only(&path).unwrap();
    let (mut pairs, keys, then) = (view.iter_owned(), view.keys_owned(), model.clone());
    let first = pairs.next().unwrap().unwrap();
    assert_eq!(&*view.get("key").unwrap().unwrap(), b"one");
    change(&store, &mut model, &mut random, 1000);
    store.put("key", "two").unwrap();
    store.merge().unwrap();
    let hits = view.stats().hits;
    assert!(view.refresh().unwrap());
    assert_eq!(view.stats().hits, hits);
    assert_eq!(&*view.get("key").unwrap().unwrap(), b"two");
    assert_eq!((hits, view.stats().hits), (1, 2));
    drop(view);
    store.close().unwrap();
    let rest = std::thread::spawn(move || {
        let pairs = std::iter::once(Ok(first)).chain(pairs);
        let pairs = pairs.map(|pair| pair.map(|pair| (pair.key().to_vec(), pair.value().to_vec())));
        (pairs.collect::<Result<Map, _>>(), keys.collect::<Result<Vec<_>, _>>())
    });
    let (pairs, keys) = rest.join().unwrap();
    let mut keys = keys.unwrap();
    keys.sort();
    assert!(keys.iter().eq(then.keys()));
    assert!(pairs.unwrap() == then);
}

#[test]
fn views_may_be_sent_and_shared() {
    fn is<T: Send + Sync>(_: &T) {}
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = by_hand().open(&path).unwrap();
    store.put("key", "value").unwrap();
    let view = Arc::new(Store::open_read_only(&path).unwrap());
    is(&view);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let view = view.clone();
            std::thread::spawn(move || view.get("key").unwrap().unwrap().into_bytes())
        })
        .collect();
    drop(view);
    for thread in threads {
        assert_eq!(&thread.join().unwrap()[..], b"value");
    }
}

/// As `Store::verify` does: what nothing needs any more is counted, and the rest is an error.
#[test]
fn a_view_verifies_as_the_store_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = by_hand().open(&path).unwrap();
    let at = store.put("key", "a value that is damaged").unwrap();
    store.put("other", "value").unwrap();
    store.close().unwrap();
    let file = path.join(segment(at.segment()));
    let file = File::options().write(true).open(file).unwrap();
    file.write_all_at(b"x", u64::from(at.offset()) + 16 + 8 + 4).unwrap();
    let view = Store::open_read_only(&path).unwrap();
    view.get("key").unwrap_err();
    assert_eq!(&*view.get("other").unwrap().unwrap(), b"value");
    view.verify().unwrap_err();

    let store = by_hand().open(&path).unwrap();
    store.put("key", "healed").unwrap();
    let live = Store::open_read_only(&path).unwrap().verify().unwrap();
    assert_eq!((live.keys, live.damaged), (2, 1));
    store.close().unwrap();
    let closed = without_a_trace(&path, || Store::open_read_only(&path).unwrap().verify().unwrap());
    assert_eq!((closed.keys, closed.damaged), (2, 1));
    let by_the_store = by_hand().open(&path).unwrap().verify().unwrap();
    assert_eq!((closed.frames, closed.bytes), (by_the_store.frames, by_the_store.bytes));
}
