//! The store does what a map does, in place, and across opens.

mod common;

use common::{contents as all, segment, store_by_hand as options, value};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tailcask::{
    Batch, Durability, Maintenance, SimulatedDisk, Store, TruncateError, WriteError, WriteOptions,
};

#[test]
fn what_is_put_is_there_in_place_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    assert!(store.is_empty());
    store.put("a", "one").unwrap();
    store.put("b", []).unwrap();
    store.put("a", "two").unwrap();
    store.put("c", "three").unwrap();
    assert!(store.delete("c").unwrap());
    assert!(!store.delete("c").unwrap() && !store.delete("d").unwrap());
    let held = store.get("a").unwrap().unwrap();
    assert_eq!(held.as_ptr() as usize % 8, 0, "a value can be cast where it is");
    store.put("a", "three").unwrap();
    assert_eq!(&*held, b"two", "what is held stays");
    let bytes = held.into_bytes();
    assert_eq!(store.value_len("a").unwrap(), Some(5));
    assert_eq!(store.get("b").unwrap().unwrap().len(), 0);
    assert!(!store.contains_key("c").unwrap());
    assert_eq!(store.len(), 2);
    let many = store.get_many(&["b", "c", "a"]).unwrap();
    assert_eq!(many[2].as_deref(), Some(&b"three"[..]));
    assert!(many[0].is_some() && many[1].is_none());
    drop(many);
    store.close().unwrap();
    assert_eq!(&*bytes, b"two", "also beyond the store");
    let store = Store::open(&path).unwrap();
    assert_eq!(all(&store).into_keys().collect::<Vec<_>>(), [b"a", b"b"]);
    assert_eq!(value(&store, b"a").unwrap(), b"three");
    let keys: HashSet<_> = store.keys().map(Result::unwrap).collect();
    assert_eq!(keys.len(), 2);
}

/// Hazard 16: the first write after opening goes behind what is there.
#[test]
fn a_write_after_opening_is_newer_than_all_before() {
    let disk = SimulatedDisk::new();
    for n in 0..10u8 {
        let store = options().open_simulated(&disk).unwrap();
        assert_eq!(value(&store, b"key"), n.checked_sub(1).map(|n| vec![n]));
        store.put("key", [n]).unwrap();
        if n % 2 == 0 { store.close().unwrap() } else { store.abort() }
    }
}

#[test]
fn sizes_at_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::options().max_value_size(5 << 20).segment_size(2 << 20);
    let store = store.open(dir.path().join("store")).unwrap();
    assert!(matches!(store.put("", "x"), Err(WriteError::KeyLength { len: 0 })));
    let long = vec![b'k'; 65_536];
    assert!(matches!(store.put(&long, "x"), Err(WriteError::KeyLength { len: 65_536 })));
    assert!(matches!(store.delete(&long), Err(WriteError::KeyLength { .. })));
    let large = vec![7; (5 << 20) + 1];
    assert!(matches!(store.put("x", &large), Err(WriteError::ValueTooLarge { .. })));
    assert!(store.is_empty());
    store.put(&long[1..], "x").unwrap();
    store.put("large", &large[1..]).unwrap();
    assert_eq!(value(&store, &long[1..]).unwrap(), b"x");
    assert_eq!(store.value_len("large").unwrap(), Some(5 << 20));
    assert_eq!(value(&store, b"large").unwrap(), large[1..]);
}

#[test]
fn conditional_writes() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    assert!(store.put_if_absent("k", "1").unwrap());
    assert!(!store.put_if_absent("k", "2").unwrap());
    let swap = |expected: Option<&str>, new: Option<&str>| {
        let (expected, new) = (expected.map(str::as_bytes), new.map(str::as_bytes));
        store.compare_and_swap("k", expected, new).unwrap()
    };
    assert_eq!(swap(Some("0"), Some("2")).unwrap_err().current.unwrap(), b"1");
    assert_eq!(swap(None, Some("2")).unwrap_err().current.unwrap(), b"1");
    swap(Some("1"), Some("2")).unwrap();
    swap(Some("2"), None).unwrap();
    assert_eq!(swap(Some("2"), None).unwrap_err().current, None);
    swap(None, None).unwrap();
    swap(None, Some("3")).unwrap();
    let add = |old: Option<&[u8]>| Some([old.unwrap_or_default(), b"+"].concat());
    assert_eq!(store.update("k", add).unwrap().unwrap(), b"3+");
    assert_eq!(store.update("k", |_| None).unwrap(), None);
    assert!(store.is_empty());
    store.close().unwrap();
    assert!(options().open_simulated(&disk).unwrap().is_empty());
}

#[test]
fn updates_from_many_threads_all_count() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let add = |old: Option<&[u8]>| {
                        let old = old.map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()));
                        Some((old + 1).to_le_bytes().to_vec())
                    };
                    store.update("counter", add).unwrap();
                }
            });
        }
    });
    assert_eq!(value(&store, b"counter").unwrap(), 2000u64.to_le_bytes());
}

#[test]
fn an_expired_value_is_gone() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    let ttl = |ttl| WriteOptions::new().ttl(ttl).durability(Durability::Synced);
    store.put_with("short", "x", &ttl(Duration::from_millis(1))).unwrap();
    store.put_with("long", "y", &ttl(Duration::from_secs(3600))).unwrap();
    store.put_with("ever", "z", &ttl(Duration::MAX)).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(value(&store, b"short"), None);
    assert!(!store.contains_key("short").unwrap() && !store.delete("short").unwrap());
    assert_eq!(value(&store, b"long").unwrap(), b"y");
    assert_eq!(all(&store).len(), 2);
    assert!(store.put_if_absent("short", "again").unwrap(), "what expired is absent");
    store.close().unwrap();
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(all(&store).len(), 3);
    assert_eq!(value(&store, b"short").unwrap(), b"again");
}

/// What is counted of reads: of gets only, and one that finds an expired value is a miss.
#[test]
fn an_expired_value_that_is_read_is_counted_as_a_miss_too() {
    let clock = Arc::new(AtomicU64::new(1000));
    let options = options().clock(clock.clone());
    let store = options.open_simulated(&SimulatedDisk::new()).unwrap();
    let (second, keys) = (Duration::from_secs(1), ["key"; 40]);
    store.put_with("key", "value", &WriteOptions::new().ttl(second)).unwrap();
    let counted = || {
        let stats = store.stats();
        (stats.hits, stats.misses, stats.expired)
    };
    let gets = || {
        _ = store.get("key").unwrap();
        _ = store.get_with("key", |_| ()).unwrap();
        _ = store.get_many(&keys).unwrap();
        store.get_many_with(&keys, |_, _| ()).unwrap();
    };
    gets();
    assert_eq!(counted(), (82, 0, 0));
    clock.fetch_add(1000, Ordering::Relaxed);
    gets();
    assert_eq!(counted(), (82, 82, 82));
    // None of these is one.
    assert!(!store.contains_key("key").unwrap() && store.ttl("key").unwrap().is_none());
    assert_eq!(store.value_len("key").unwrap(), None);
    assert!(!store.touch("key", second).unwrap() && !store.delete("key").unwrap());
    store.update("key", |old| old.map(<[u8]>::to_vec)).unwrap();
    assert_eq!(counted(), (82, 82, 82));
}

/// Hazard 19: with tags of two bits nearly all keys collide.
#[test]
fn keys_with_the_same_tag_do_not_alias() {
    let disk = SimulatedDisk::new();
    let store = options().tag_bits(2).open_simulated(&disk).unwrap();
    for n in 0..500u32 {
        store.put(n.to_le_bytes(), n.to_string()).unwrap();
    }
    for n in (0..500u32).step_by(2) {
        assert!(store.delete(n.to_le_bytes()).unwrap());
    }
    for n in 0..500u32 {
        let expected = (n % 2 == 1).then(|| n.to_string().into_bytes());
        assert_eq!(value(&store, n.to_le_bytes()), expected);
    }
    assert_eq!((store.len(), all(&store).len()), (250, 250));
    store.close().unwrap();
    assert_eq!(options().open_simulated(&disk).unwrap().len(), 250);
}

/// Hazard 12.
#[test]
fn damage_is_an_error_and_never_a_value() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let position = store.put("key", [7; 5000]).unwrap();
    store.put("other", "x").unwrap();
    // Another program writes to the file.
    let mut files = std::fs::OpenOptions::new();
    let file = files.write(true).open(path.join(segment(1))).unwrap();
    let at = u64::from(position.offset()) + 3000;
    file.write_all_at(&[6], at).unwrap();
    assert!(store.get("key").is_err());
    assert_eq!(value(&store, b"other").unwrap(), b"x");
    store.close().unwrap();
    assert!(options().open(&path).is_err(), "the segment is sealed: not a torn tail");
    file.write_all_at(&[7], at).unwrap();
    assert_eq!(options().open(&path).unwrap().len(), 2);
}

/// Readers never miss a key that is there, nor see half a value, while it is overwritten.
#[test]
fn readers_see_whole_values_while_writers_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::options().segment_size(2 << 20).open(dir.path().join("store")).unwrap();
    let keys: Vec<String> = (0..20).map(|n| format!("key {n}")).collect();
    let fill = |n: u32, len: usize| n.to_le_bytes().repeat(len);
    for key in &keys {
        store.put(key, fill(0, 10)).unwrap();
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2u32 {
            let (store, keys, done) = (&store, &keys, &done);
            scope.spawn(move || {
                for n in 0..3000u32 {
                    let len = 1 + (n as usize * 37) % 3000;
                    store.put(&keys[n as usize % 20], fill(n * 2 + thread, len)).unwrap();
                }
                done.store(true, Ordering::Release);
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                for key in &keys {
                    let value = store.get(key).unwrap().expect("it is there all the time");
                    assert!(value.chunks(4).all(|chunk| chunk == &value[..4]));
                }
                assert_eq!(all(&store).len(), 20);
            }
        });
    });
    let last = all(&store);
    store.close().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    assert_eq!(all(&store), last, "the order in the log is the order of the keydir");
}

/// A batch is seen whole or not at all, and its keys may be anywhere.
#[test]
fn a_batch_may_write_a_key_several_times() {
    let dir = tempfile::tempdir().unwrap();
    // Most keys share their tags with others.
    let store = Store::options().tag_bits(3).open(dir.path().join("store")).unwrap();
    for there in [false, true] {
        let keys: Vec<String> = (0..40).map(|n| format!("{there} {n}")).collect();
        if there {
            keys.iter().for_each(|key| _ = store.put(key, "before").unwrap());
        }
        let mut batch = Batch::new();
        for key in &keys {
            batch.put(key, "first").put(key, "second");
        }
        for key in &keys[20..] {
            batch.delete(key).put(key, "third").delete(key);
        }
        keys[30..].iter().for_each(|key| _ = batch.put(key, "last"));
        let before = store.len();
        store.write(&batch).unwrap();
        let new = if there { 30 - 40 } else { 30 };
        assert_eq!(store.len() as i64, before as i64 + new);
        for (nth, key) in keys.iter().enumerate() {
            let expected = match nth {
                0..20 => Some(&b"second"[..]),
                20..30 => None,
                _ => Some(&b"last"[..]),
            };
            assert_eq!(store.get(key).unwrap().as_deref(), expected, "{key}");
        }
    }
}

#[test]
fn batches_are_atomic_to_readers() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::options().segment_size(2 << 20).open(dir.path().join("store")).unwrap();
    let keys: Vec<String> = (0..10).map(|n| format!("key {n}")).collect();
    let write = |n: u32| {
        let mut batch = Batch::new();
        for key in &keys {
            batch.put(key, n.to_le_bytes().repeat(50));
        }
        assert_eq!(batch.len(), 10);
        store.write(&batch).unwrap();
    };
    write(0);
    let read = |key: &String| {
        let value = store.get(key).unwrap().unwrap();
        u32::from_le_bytes(value[..4].try_into().unwrap())
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..3000).for_each(write);
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                // Read one after the other, they never go back.
                let seen: Vec<u32> = keys.iter().map(read).collect();
                assert!(seen.is_sorted(), "{seen:?}");
            }
        });
    });
    store.close().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    assert!(all(&store).values().all(|value| value[..4] == 2999u32.to_le_bytes()));
    let mut batch = Batch::new();
    batch.put("", "x");
    assert!(matches!(store.write(&batch), Err(WriteError::KeyLength { .. })));
}

/// What is appended to the log below is kept, and is no key; truncating it would lose values.
#[test]
fn the_log_below_can_be_used_but_not_truncated() {
    let disk = SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("a", "1").unwrap();
    let position = store.log().append(b"an entry").unwrap();
    let tail = store.log().tail();
    assert!(matches!(store.log().truncate_before(tail), Err(TruncateError::Store)));
    store.close().unwrap();
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(&*store.log().read(position).unwrap(), b"an entry");
    assert_eq!(all(&store).len(), 1);
    let mut reader = store.log().reader();
    assert_eq!(&*reader.next_entry().unwrap().unwrap(), b"an entry");
    assert!(reader.next_entry().unwrap().is_none(), "a put is no entry");
}

/// What a key has is what was put at the highest position, whatever the threads do: recovery goes
/// by that.
#[test]
fn the_order_of_puts_is_that_of_their_positions() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    for round in 0..200u32 {
        let put = &|thread: u32| {
            let each = (0..20).map(|n| {
                let value = [round, thread, n].map(u32::to_le_bytes).concat();
                (store.put("key", &value).unwrap(), value)
            });
            each.max().unwrap()
        };
        let last = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|thread| scope.spawn(move || put(thread))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
        });
        assert_eq!(value(&store, b"key").unwrap(), last.1, "round {round}");
    }
}

/// Values above the segment size have their segment made before it is known whether they are put.
#[test]
fn large_conditional_writes_from_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = Store::options().segment_size(2 << 20);
    let store = options.open(&path).unwrap();
    let large = |n: u8| vec![n; 3 << 20];
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..8u8 {
                    let won = store.put_if_absent([round], large(thread)).unwrap();
                    let value = store.get([round]).unwrap().expect("put by one of them");
                    assert!(!won || *value == *large(thread));
                    assert_eq!(value.len(), 3 << 20);
                    store.put([100 + thread, round], [thread; 100]).unwrap();
                }
            });
        }
    });
    assert_eq!(store.len(), 8 + 4 * 8);
    // One that writes nothing, and what comes after it.
    assert!(!store.put_if_absent([0], large(9)).unwrap());
    store.compare_and_swap([1], Some(b"no"), Some(&large(9))).unwrap().unwrap_err();
    store.put("after", "it").unwrap();
    store.abort();
    // By hand: the background would take what the merge below is to find.
    let store = options.maintenance(Maintenance::Manual).open(&path).unwrap();
    assert_eq!(store.len(), 8 + 4 * 8 + 1);
    assert_eq!(value(&store, b"after").unwrap(), b"it");
    store.verify().unwrap();
    store.put("after", "that").unwrap();
    assert!(store.merge().unwrap().inputs > 0);
    store.verify().unwrap();
    assert_eq!(store.len(), 8 + 4 * 8 + 1);
    (0..8u8).for_each(|round| assert_eq!(store.value_len([round]).unwrap(), Some(3 << 20)));
    assert_eq!(value(&store, b"after").unwrap(), b"that");
}

#[test]
fn a_log_is_not_opened_as_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = tailcask::CommitLog::open(&path).unwrap();
    let end = log.append(b"an entry").unwrap();
    log.close().unwrap();
    assert!(matches!(Store::open(&path), Err(tailcask::OpenError::NotAStore)));
    let log = tailcask::CommitLog::open(&path).unwrap();
    assert_eq!(&*log.read(end).unwrap(), b"an entry");
    log.truncate_before(log.tail()).unwrap();
    // An empty one may become one.
    let empty = dir.path().join("empty");
    tailcask::CommitLog::open(&empty).unwrap().abort();
    Store::open(&empty).unwrap().put("key", "value").unwrap();
    assert_eq!(Store::open(&empty).unwrap().len(), 1);
}

/// Salvage takes a log for a store that has lost its MANIFEST only if nothing speaks against it.
#[test]
fn a_log_is_not_salvaged_as_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = tailcask::CommitLog::open(&path).unwrap();
    log.append(b"an entry").unwrap();
    log.close().unwrap();
    let salvage = Store::options().recovery_mode(tailcask::RecoveryMode::Salvage);
    for lost in [false, true] {
        if lost {
            std::fs::remove_file(path.join("MANIFEST")).unwrap();
        }
        let refused = salvage.open_read_only(&path).map(drop);
        assert!(matches!(refused, Err(tailcask::OpenError::NotAStore)), "{refused:?}");
        let refused = salvage.open(&path).map(drop);
        assert!(matches!(refused, Err(tailcask::OpenError::NotAStore)), "{refused:?}");
        let log = tailcask::CommitLog::open(&path).unwrap();
        assert_eq!(&*log.reader().next_entry().unwrap().unwrap(), b"an entry");
    }
}
