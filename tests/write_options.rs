//! Writes with options: what they do to the time at which a value expires, where they wrote, and when they
//! count as done.

mod common;

use common::{small_store, value, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};
use tailcask::{
    Batch, Change, DiskOperation, Durability, Expected, Expiry, LogPosition, SimulatedDisk, Store,
    StoreOptions, Ttl, WriteError, WriteOptions,
};

/// A store whose clock is set by hand, in segments of 32 KiB.
struct Place {
    disk: SimulatedDisk,
    clock: Arc<AtomicU64>,
}

impl Place {
    fn new() -> Self {
        Self { disk: SimulatedDisk::new(), clock: Arc::new(AtomicU64::new(1_000_000)) }
    }

    fn options(&self) -> StoreOptions {
        small_store(32 << 10).clock(self.clock.clone())
    }

    fn open(&self) -> Store {
        self.options().open_simulated(&self.disk).unwrap()
    }

    fn tick(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn left(left: u64) -> Option<Expiry> {
    Some(Expiry::In(ms(left)))
}

const NEVER: Option<Expiry> = Some(Expiry::Never);
const NEW: WriteOptions = WriteOptions::new();

/// Each write that replaces a value, with what it does to the TTL if the options do not say.
type Write = fn(&Store, &str, &[u8], &WriteOptions) -> Result<Option<LogPosition>, WriteError>;

const WRITES: [(&str, bool, Write); 5] = [
    ("put", false, |store, key, new, options| store.put_with(key, new, options).map(Some)),
    ("compare_and_swap", true, |store, key, new, options| {
        let old = value(store, key);
        let swapped = store.compare_and_swap_with(key, old.as_deref(), Some(new), options)?;
        Ok(swapped.expect("nobody else writes"))
    }),
    ("update", true, |store, key, new, options| {
        let updated = store.update_with(key, |_| Some(new.to_vec()), options)?;
        assert_eq!(updated.value.as_deref(), Some(new));
        Ok(updated.position)
    }),
    ("try_update", true, |store, key, new, options| {
        let set = |_: Option<&[u8]>| Ok::<_, ()>(Change::Set(new.to_vec()));
        Ok(store.try_update_with(key, set, options)?.unwrap().position)
    }),
    ("touch", true, |store, key, new, options| {
        if value(store, key).as_deref() != Some(new) {
            // It writes the value that there is.
            store.put_with(key, new, &NEW.keep_ttl()).unwrap();
        }
        store.touch_with(key, options)
    }),
];

/// Values that share a segment, that nearly do, and that have one of their own.
fn lengths() -> impl Iterator<Item = usize> {
    // A segment has a head of 128 bytes, and these frames one of 24.
    let most = (32 << 10) - 128 - 24;
    [0, 5, 100, 80_000].into_iter().chain((most - 32..most + 32).step_by(8))
}

#[test]
fn the_ttl_stays_or_goes_as_the_options_say() {
    let place = Place::new();
    let store = place.open();
    for (what, keeps, write) in WRITES {
        for len in lengths() {
            let new = vec![7; len];
            let after = |options: &WriteOptions, old: &WriteOptions| {
                store.put_with("key", "old", old).unwrap();
                place.tick(10);
                let at = write(&store, "key", &new, options).unwrap().unwrap();
                let found = store.get("key").unwrap().unwrap();
                assert_eq!((&*found, found.position()), (&new[..], at), "{what} of {len} bytes");
                store.ttl("key").unwrap()
            };
            let old = NEW.ttl(ms(100));
            let usual = if keeps { left(90) } else { NEVER };
            assert_eq!(after(&NEW, &old), usual, "{what} of {len} bytes");
            assert_eq!(after(&NEW.keep_ttl(), &old), left(90), "{what} of {len} bytes");
            assert_eq!(after(&NEW.ttl(ms(30)), &old), left(30), "{what} of {len} bytes");
            assert_eq!(after(&NEW.no_ttl(), &old), NEVER, "{what} of {len} bytes");
            assert_eq!(after(&NEW, &NEW), NEVER, "{what} of {len} bytes");
            assert_eq!(after(&NEW.keep_ttl(), &NEW), NEVER, "{what} of {len} bytes");
            assert_eq!(after(&NEW.ttl(ms(30)), &NEW), left(30), "{what} of {len} bytes");
        }
    }
}

#[test]
fn what_is_kept_stays_through_reopening_and_merges() {
    let place = Place::new();
    let mut store = place.open();
    for len in [10, 80_000] {
        let key = format!("{len} bytes");
        store.put_with(&key, "old", &NEW.ttl(ms(100))).unwrap();
        store.update(&key, |_| Some(vec![1; len])).unwrap();
        let key = format!("{len} bytes for ever");
        store.put(&key, "old").unwrap();
        store.update(&key, |_| Some(vec![1; len])).unwrap();
        let key = format!("{len} bytes touched");
        store.put_with(&key, vec![2; len], &NEW.ttl(ms(10))).unwrap();
        assert!(store.touch(&key, ms(100)).unwrap());
    }
    place.tick(40);
    for _ in 0..2 {
        store.merge().unwrap();
        for len in [10, 80_000] {
            let ttl = |of: &str| store.ttl(format!("{len} bytes{of}")).unwrap();
            assert_eq!((ttl(""), ttl(" for ever")), (left(60), NEVER));
            assert_eq!(ttl(" touched"), left(60));
            assert_eq!(value(&store, format!("{len} bytes touched")), Some(vec![2; len]));
        }
        store.verify().unwrap();
        store.abort();
        store = place.open();
    }
    place.tick(60);
    assert_eq!(store.ttl("10 bytes").unwrap(), None);
    assert_eq!(store.iter().count(), 2);
    store.merge().unwrap();
    assert_eq!(store.len(), 2);
}

#[test]
fn what_has_expired_has_no_ttl_to_keep() {
    let place = Place::new();
    let store = place.open();
    for (what, _, write) in WRITES.into_iter().filter(|write| write.0 != "touch") {
        store.put_with("key", "old", &NEW.ttl(ms(10))).unwrap();
        place.tick(10);
        assert_eq!(store.ttl("key").unwrap(), None);
        assert_eq!(store.touch_with("key", &NEW.ttl(ms(50))).unwrap(), None);
        assert_eq!(store.delete_with("key", &NEW).unwrap(), None);
        write(&store, "key", b"new", &NEW.keep_ttl()).unwrap();
        assert_eq!(store.ttl("key").unwrap(), NEVER, "{what}");
        place.tick(1000);
        assert_eq!(value(&store, "key").unwrap(), b"new", "{what}");
    }
}

#[test]
fn the_life_of_a_value_is_told_from_none_and_from_no_end() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.ttl("key").unwrap(), None);
    store.put("key", "value").unwrap();
    assert_eq!(store.ttl("key").unwrap(), NEVER);
    store.put_with("key", "value", &NEW.ttl(Duration::MAX)).unwrap();
    assert_eq!(store.ttl("key").unwrap(), NEVER);
    assert!(store.touch("key", ms(50)).unwrap());
    assert_eq!(store.ttl("key").unwrap(), left(50));
    place.tick(49);
    assert_eq!(store.ttl("key").unwrap(), left(1));
    assert!(store.touch("key", Ttl::Keep).unwrap());
    assert_eq!(store.ttl("key").unwrap(), left(1));
    assert!(store.touch("key", Ttl::Remove).unwrap());
    assert_eq!(store.ttl("key").unwrap(), NEVER);
    assert!(!store.touch("nothing", ms(50)).unwrap());
    // A part of a millisecond is a whole one.
    assert!(store.touch("key", Duration::from_nanos(1)).unwrap());
    assert_eq!(store.ttl("key").unwrap(), left(1));
    place.tick(1);
    assert_eq!(store.ttl("key").unwrap(), None);
}

/// Also if there is room for an expiry in its frame.
#[test]
fn a_pair_tells_when_it_expires_as_the_ttl_does() {
    let place = Place::new();
    let store = place.open();
    store.put_with("long", "value", &NEW.ttl(Duration::MAX)).unwrap();
    store.put_with("large", vec![1; 80_000], &NEW.keep_ttl()).unwrap();
    store.write(Batch::new().put_with("kept", "value", Ttl::Keep)).unwrap();
    let expiries = || store.iter().map(|pair| pair.unwrap().expires_at());
    assert!(expiries().eq([None; 3]), "{:?}", expiries().collect::<Vec<_>>());
    let at = SystemTime::UNIX_EPOCH + ms(place.clock.load(Ordering::Relaxed) + 30);
    ["long", "large", "kept"].iter().for_each(|key| assert!(store.touch(key, ms(30)).unwrap()));
    assert!(expiries().eq([Some(at); 3]), "{:?}", expiries().collect::<Vec<_>>());
}

#[test]
fn a_ttl_of_zero_is_an_error_and_changes_nothing() {
    let place = Place::new();
    let store = place.open();
    let at = store.put_with("key", "old", &NEW.ttl(ms(10))).unwrap();
    let zero = NEW.ttl(Duration::ZERO);
    let refused = |what: &str, error: WriteError| {
        assert!(matches!(error, WriteError::ZeroTtl), "{what}: {error}");
    };
    let before = store.log().tail();
    refused("put", store.put_with("key", "new", &zero).unwrap_err());
    refused("put_if_absent", store.put_if_absent_with("other", "new", &zero).unwrap_err());
    let swap = store.compare_and_swap_with("key", Some(b"old"), Some(b"new"), &zero);
    refused("compare_and_swap", swap.unwrap_err());
    let swap = store.compare_and_swap_with("key", Some(b"old"), None, &zero);
    refused("compare_and_swap, to delete", swap.unwrap_err());
    refused("delete", store.delete_with("key", &zero).unwrap_err());
    refused("delete of nothing", store.delete_with("nothing", &zero).unwrap_err());
    let mut batch = Batch::new();
    refused("batch of deletes", store.write_with(batch.delete("key"), &zero).unwrap_err());
    let never = |_: Option<&[u8]>| -> Option<Vec<u8>> { panic!("it is refused before") };
    refused("update", store.update_with("key", never, &zero).unwrap_err());
    let never = |_: Option<&[u8]>| -> Result<Change, ()> { panic!("it is refused before") };
    refused("try_update", store.try_update_with("key", never, &zero).unwrap_err());
    refused("touch", store.touch("key", Duration::ZERO).unwrap_err());
    refused("touch", store.touch("nothing", Duration::ZERO).unwrap_err());
    assert_eq!(store.log().tail(), before);
    assert_eq!(store.get("key").unwrap().unwrap().position(), at);
    assert_eq!(store.ttl("key").unwrap(), left(10));
}

#[test]
fn a_key_of_another_length_than_keys_have_is_refused_by_every_write() {
    let store = Place::new().open();
    let tail = store.log().tail();
    for key in [&[][..], &[b'k'; 65_536]] {
        let not_called = |_: Option<&[u8]>| -> Result<Change, ()> { panic!("of what key?") };
        let mut writes = vec![
            store.put_with(key, "", &NEW).map(drop),
            store.put_with(key, "", &NEW.keep_ttl()).map(drop),
            store.delete(key).map(drop),
            store.delete_damaged(key).map(drop),
            store.put_if_absent(key, "").map(drop),
            store.compare_and_swap(key, None, None).map(drop),
            store.try_update(key, not_called).map(drop),
            store.touch(key, ms(1)).map(drop),
        ];
        let batches: [fn(&mut Batch, &[u8]); 3] = [
            |batch, key| _ = batch.put(key, ""),
            |batch, key| _ = batch.delete(key),
            |batch, key| _ = batch.expect(key, Expected::Absent),
        ];
        for add in batches {
            let mut batch = Batch::new();
            add(&mut batch, key);
            writes.push(store.write(&batch).map(drop));
        }
        for (nth, write) in writes.into_iter().enumerate() {
            let refused = matches!(write, Err(WriteError::KeyLength { len }) if len == key.len());
            assert!(refused, "{nth}: {write:?}");
        }
        assert!(store.get(key).unwrap().is_none());
    }
    assert_eq!(store.log().tail(), tail);
}

#[test]
fn a_closure_decides_what_becomes_of_a_key() {
    let place = Place::new();
    let store = place.open();
    let before = store.log().tail();
    let keep = |_: Option<&[u8]>| Ok::<_, ()>(Change::Keep);
    assert_eq!(store.try_update("key", keep).unwrap().unwrap().position, None);
    let delete = |_: Option<&[u8]>| Ok::<_, ()>(Change::Delete);
    assert_eq!(store.try_update("key", delete).unwrap().unwrap().position, None);
    assert_eq!(store.log().tail(), before, "nothing is written");

    let set = |old: Option<&[u8]>| {
        assert_eq!(old, None);
        Ok::<_, ()>(Change::Set(b"1".to_vec()))
    };
    let set = store.try_update("key", set).unwrap().unwrap();
    assert_eq!(set.value.unwrap(), b"1");
    let at = store.get("key").unwrap().unwrap().position();
    assert_eq!(set.position, Some(at));
    let refused = store.try_update("key", |old| Err(old.unwrap().to_vec())).unwrap();
    assert_eq!(refused.unwrap_err(), b"1");
    let before = store.log().tail();
    assert!(store.try_update("key", keep).unwrap().is_ok());
    assert_eq!(store.log().tail(), before, "nothing is written");
    let deleted = store.try_update("key", delete).unwrap().unwrap();
    assert_eq!((deleted.value, deleted.position), (None, Some(before)));
    assert!(store.is_empty());
}

/// The closure sees the value that its change replaces.
#[test]
fn a_closure_runs_again_if_the_key_has_changed() {
    let place = Place::new();
    let store = place.open();
    for len in [3, 80_000] {
        let mut seen = Vec::new();
        store.put("key", "0").unwrap();
        let change = |old: Option<&[u8]>| {
            seen.push(old.map(<[u8]>::to_vec));
            match seen.len() {
                1 => drop(store.put("key", "1").unwrap()),
                // The same value is another one.
                2 => assert!(store.touch("key", ms(1000)).unwrap()),
                3 => assert!(store.delete("key").unwrap()),
                _ => {}
            }
            Ok::<_, ()>(Change::Set(vec![seen.len() as u8; len]))
        };
        store.try_update("key", change).unwrap().unwrap();
        let expected = [Some("0"), Some("1"), Some("1"), None];
        assert_eq!(seen, expected.map(|old| old.map(|old| old.as_bytes().to_vec())));
        assert_eq!(value(&store, "key").unwrap(), vec![4; len]);
        assert_eq!(store.ttl("key").unwrap(), NEVER);
    }
}

/// A large value gets a segment of its own only once it is known that it is written: no space is needed
/// before.
#[test]
fn a_large_value_that_is_not_written_takes_no_space() {
    let place = Place::new();
    let (store, large) = (place.open(), vec![1; 80_000]);
    store.put("key", "value").unwrap();
    place.disk.set_space(Some(0));
    assert!(!store.put_if_absent("key", &large).unwrap());
    let swapped = store.compare_and_swap("key", Some(b"other"), Some(&large)).unwrap();
    assert_eq!(swapped.unwrap_err().current.as_deref(), Some(&b"value"[..]));
    let mut batch = Batch::new();
    batch.expect("key", Expected::Absent).put("large", &large);
    assert!(matches!(store.write(&batch), Err(WriteError::Conflict(_))));
    assert!(store.put_if_absent("large", &large).is_err(), "there is no space");
}

#[test]
fn each_conditional_write_says_where_it_wrote() {
    let place = Place::new();
    let store = place.open();
    let at = |key: &str| store.get(key).unwrap().map(|value| value.position());
    let put = store.put_if_absent_with("key", "1", &NEW).unwrap();
    assert!(put.is_some() && put == at("key"));
    assert_eq!(store.put_if_absent_with("key", "2", &NEW).unwrap(), None);
    let swap = |old: Option<&[u8]>, new: Option<&[u8]>| {
        store.compare_and_swap_with("key", old, new, &NEW).unwrap()
    };
    let swapped = swap(Some(b"1"), Some(b"2")).unwrap();
    assert!(swapped > put && swapped == at("key"));
    assert_eq!(swap(Some(b"1"), None).unwrap_err().current.unwrap(), b"2");
    let end = store.log().tail();
    assert_eq!(swap(Some(b"2"), None).unwrap(), Some(end), "the tombstone");
    assert_eq!(swap(None, None).unwrap(), None);
    assert_eq!(store.delete_with("key", &NEW).unwrap(), None);
    store.put("key", "3").unwrap();
    let end = store.log().tail();
    assert_eq!(store.delete_with("key", &NEW).unwrap(), Some(end));
    assert_eq!(store.update_with("key", |_| None, &NEW).unwrap().position, None);
}

/// What any of the writes did is there after a power loss that nothing unsynced survives.
#[test]
fn a_synced_conditional_write_survives_power_loss() {
    let synced = NEW.durability(Durability::Synced);
    type Write = fn(&Store, &WriteOptions);
    let writes: [(&str, Write); 6] = [
        ("new", |store, synced| {
            assert!(store.put_if_absent_with("k", "new", synced).unwrap().is_some());
        }),
        ("new", |store, synced| {
            store.compare_and_swap_with("k", None, Some(b"new"), synced).unwrap().unwrap();
        }),
        ("new", |store, synced| {
            store.update_with("k", |_| Some(b"new".to_vec()), synced).unwrap();
        }),
        ("new", |store, synced| _ = store.put_with("k", "new", &synced.keep_ttl()).unwrap()),
        ("other", |store, synced| {
            store.put("k", "other").unwrap();
            assert!(store.touch_with("k", &synced.ttl(ms(1000))).unwrap().is_some());
        }),
        ("", |store, synced| {
            store.put("k", "other").unwrap();
            assert!(store.delete_with("k", synced).unwrap().is_some());
        }),
    ];
    for (expected, write) in writes {
        let after_power_loss = |options: &WriteOptions| {
            let place = Place::new();
            let store = place.open();
            write(&store, options);
            let lost = place.disk.power_loss(|_, _| false);
            store.abort();
            let store = place.options().open_simulated(&lost).unwrap();
            value(&store, "k").unwrap_or_default()
        };
        assert_eq!(after_power_loss(&synced), expected.as_bytes());
        assert_eq!(after_power_loss(&NEW), b"", "without a sync nothing has to be there");
    }
}

/// Its caller takes it for durable that the key is gone, or there, whoever has written that.
#[test]
fn a_synced_write_that_finds_nothing_to_do_returns_when_what_it_found_is_durable() {
    type Write = fn(&Store, &WriteOptions) -> bool;
    // What it finds, and whether the key is there afterwards.
    let writes: [(&str, bool, Write); 9] = [
        ("delete", false, |store, options| store.delete_with("key", options).unwrap().is_none()),
        ("touch", false, |store, options| store.touch_with("key", options).unwrap().is_none()),
        ("compare nothing", false, |store, options| {
            let swapped = store.compare_and_swap_with("key", None, None, options).unwrap();
            swapped.unwrap().is_none()
        }),
        ("update nothing", false, |store, options| {
            store.update_with("key", |_| None, options).unwrap().position.is_none()
        }),
        ("an empty batch", false, |store, options| {
            let end = store.log().tail();
            store.write_with(&Batch::new(), options).unwrap() == end
        }),
        ("a batch that only asks", false, |store, options| {
            let mut batch = Batch::new();
            batch.expect("key", Expected::Absent);
            store.write_positions(&batch, options).unwrap().is_empty()
        }),
        ("put if absent", true, |store, options| {
            store.put_if_absent_with("key", "mine", options).unwrap().is_none()
        }),
        ("put much if absent", true, |store, options| {
            // It would get a segment of its own.
            store.put_if_absent_with("key", vec![1; 64 << 10], options).unwrap().is_none()
        }),
        ("keep", true, |store, options| {
            let keep = |found: Option<&[u8]>| Ok::<_, ()>(found.map(|_| Change::Keep).unwrap());
            store.try_update_with("key", keep, options).unwrap().unwrap().position.is_none()
        }),
    ];
    let synced = WriteOptions::new().durability(Durability::Synced);
    for (what, is_there, write) in writes {
        let place = Place::new();
        let store = place.open();
        if is_there {
            store.put("key", "found").unwrap();
        } else {
            store.put_with("key", "gone", &synced).unwrap();
            store.delete("key").unwrap();
        }
        let before = store.log().tail();
        assert!(write(&store, &synced), "{what}: there is nothing to do");
        assert!(store.log().durable() >= before, "{what}");
        // What is not durable is lost.
        let left = place.disk.power_loss(|_, _| false);
        let again = place.options().open_simulated(&left).unwrap();
        let found = again.get("key").unwrap().is_some();
        assert_eq!(found, is_there, "{what}");
    }
}

/// Of two values that would each get a segment of its own, the second one finds the first, when it has made
/// one: while the first is synced, nobody waits for that segment.
#[test]
fn a_large_put_that_comes_second_keeps_nobody_waiting() {
    let place = Place::new();
    let store = place.open();
    let (other, has_begun, syncs) = (store.clone(), AtomicBool::new(false), Arc::default());
    let (begins, second) = mpsc::channel();
    let counted: Arc<AtomicU64> = Arc::clone(&syncs);
    place.disk.on_operation(move |_, operation, _| {
        let other = other.clone();
        if operation == DiskOperation::Create && !has_begun.swap(true, Ordering::Relaxed) {
            let synced = NEW.durability(Durability::Synced);
            let put = move || other.put_if_absent_with("key", vec![2; 64 << 10], &synced);
            begins.send(thread::Builder::new().name("second".to_owned()).spawn(put)?).unwrap();
            // Until it has looked. Too short a time makes the test weaker, and not fail.
            thread::sleep(ms(100));
        } else if operation == DiskOperation::Sync && thread::current().name() == Some("second") {
            within(move || other.put("other", "value").unwrap());
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    let buffered = NEW.durability(Durability::Buffered);
    assert!(store.put_if_absent_with("key", vec![1; 64 << 10], &buffered).unwrap().is_some());
    let second = second.recv().unwrap();
    assert!(within(move || second.join().unwrap().unwrap()).is_none());
    assert!(syncs.load(Ordering::Relaxed) > 0);
    place.disk.on_operation(|_, _, _| Ok(())); // lets go of the store
}

/// Others go on at once, and so does what is refused.
#[test]
fn a_buffered_write_that_finds_nothing_to_do_syncs_nothing() {
    let place = Place::new();
    let store = place.open();
    store.put("key", "value").unwrap();
    let durable = store.log().durable();
    let buffered = WriteOptions::new().durability(Durability::Buffered);
    assert!(store.put_if_absent_with("key", "mine", &buffered).unwrap().is_none());
    assert!(store.delete_with("nothing", &buffered).unwrap().is_none());
    let synced = WriteOptions::new().durability(Durability::Synced);
    let swapped = store.compare_and_swap_with("key", Some(b"other"), Some(b"mine"), &synced);
    swapped.unwrap().unwrap_err();
    assert_eq!(store.log().durable(), durable);
}
