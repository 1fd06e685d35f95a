//! Batches that expect something, and batches whose puts expire.

mod common;

use common::{contents, segment, small_store, store_by_hand, value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tailcask::{
    AppendError, Batch, Conflict, Durability, Expected, Expiry, LogPosition, SimulatedDisk, Store,
    StoreOptions, Ttl, WriteError, WriteOptions,
};

fn store() -> Store {
    store_by_hand().open_simulated(&SimulatedDisk::new()).unwrap()
}

/// A batch with one write, which is seen if it is done.
fn batch(expects: &[(&str, Expected<'_>)]) -> Batch {
    let mut batch = Batch::new();
    expects.iter().for_each(|(key, expected)| _ = batch.expect(key, *expected));
    batch.put("done", "yes");
    batch
}

/// Whether it is written. If it is not, nothing is.
fn write(store: &Store, batch: &Batch) -> Result<LogPosition, Conflict> {
    let (before, end) = (contents(store), store.log().tail());
    match store.write(batch) {
        Ok(position) => Ok(position),
        Err(WriteError::Conflict(conflict)) => {
            assert_eq!((contents(store), store.log().tail()), (before, end));
            Err(conflict)
        }
        Err(error) => panic!("{error}"),
    }
}

fn conflict(store: &Store, batch: &Batch) -> (usize, Vec<u8>, Option<LogPosition>) {
    let conflict = write(store, batch).unwrap_err();
    (conflict.index, conflict.key, conflict.found)
}

#[test]
fn a_batch_is_written_only_if_all_is_as_expected() {
    let store = store();
    let at = store.put("a", "1").unwrap();
    let good = [
        ("a", Expected::Present),
        ("a", Expected::Value(b"1")),
        ("a", Expected::Position(at)),
        ("b", Expected::Absent),
    ];
    write(&store, &batch(&good)).unwrap();
    assert_eq!(value(&store, "done").unwrap(), b"yes");
    let elsewhere = LogPosition::from_u64(at.as_u64() + 8);
    let bad = [
        (("a", Expected::Absent), Some(at)),
        (("a", Expected::Value(b"2")), Some(at)),
        (("a", Expected::Value(b"")), Some(at)),
        (("a", Expected::Position(elsewhere)), Some(at)),
        (("b", Expected::Present), None),
        (("b", Expected::Value(b"1")), None),
        (("b", Expected::Position(at)), None),
    ];
    for (bad, found) in bad {
        for index in 0..=good.len() {
            let mut all = good.to_vec();
            all.insert(index, bad);
            let expected = (index, bad.0.as_bytes().to_vec(), found);
            assert_eq!(conflict(&store, &batch(&all)), expected);
        }
    }
    // With nothing to write it is a question.
    let end = store.log().tail();
    let mut question = Batch::new();
    question.expect("a", Expected::Value(b"1")).expect("b", Expected::Absent);
    assert_eq!(write(&store, &question).unwrap(), end);
    question.expect("b", Expected::Present);
    assert_eq!(conflict(&store, &question), (2, b"b".to_vec(), None));
    assert_eq!(store.log().tail(), end);
    let text = store.write(&question).unwrap_err().to_string();
    assert_eq!(text, "expectation 2 of the batch does not hold: \"b\" has no value");
}

#[test]
fn what_is_expected_is_before_the_batch_whatever_it_writes() {
    let store = store();
    let mut batch = Batch::new();
    batch.put("a", "1").expect("a", Expected::Absent).delete("a").put("a", "2");
    batch.expect("a", Expected::Absent).put("b", "1").expect("b", Expected::Absent);
    write(&store, &batch).unwrap();
    assert_eq!(value(&store, "a").unwrap(), b"2");
    assert_eq!(conflict(&store, &batch).0, 0);
    let mut again = Batch::new();
    again.delete("a").expect("a", Expected::Value(b"2")).expect("a", Expected::Value(b"1"));
    assert_eq!(conflict(&store, &again).0, 1);
}

/// Positions are those of the writes, wherever merges have moved the frames.
#[test]
fn a_position_stays_until_the_key_is_written() {
    let disk = SimulatedDisk::new();
    let mut store = store_by_hand().open_simulated(&disk).unwrap();
    let at = store.put("a", "1").unwrap();
    for n in 0..3 {
        store.put("other", [n]).unwrap();
        write(&store, &batch(&[("a", Expected::Position(at))])).unwrap();
        store.merge().unwrap();
        let found = store.get("a").unwrap().unwrap();
        assert_eq!(found.written_at(), at);
        let here = found.position();
        assert_ne!(here, at, "it has moved");
        assert_eq!(found.into_owned().written_at(), at);
        write(&store, &batch(&[("a", Expected::Position(here))])).unwrap();
        assert_eq!(conflict(&store, &batch(&[("a", Expected::Absent)])).2, Some(at));
        store.close().unwrap();
        store = store_by_hand().open_simulated(&disk).unwrap();
    }
    // The same value is another one. What was found can be expected next.
    store.put("a", "1").unwrap();
    let found = conflict(&store, &batch(&[("a", Expected::Position(at))])).2.unwrap();
    write(&store, &batch(&[("a", Expected::Position(found))])).unwrap();
    assert!(store.touch("a", Ttl::Remove).unwrap());
    conflict(&store, &batch(&[("a", Expected::Position(found))]));
}

/// The puts and deletes in the log, in order.
fn frames(store: &Store) -> Vec<(LogPosition, &'static str)> {
    let frames = store.log().frames(LogPosition::START).map(Result::unwrap);
    let writes = frames.filter_map(|frame| Some((frame.position, frame.kind?)));
    writes.filter(|(_, kind)| ["put", "delete"].contains(kind)).collect()
}

/// Also of keys that are written twice, of deletes that find nothing, and where the TTL of the options takes
/// room in the frames.
#[test]
fn the_positions_of_a_batch_are_those_of_its_writes() {
    let disk = SimulatedDisk::new();
    let mut store = store_by_hand().open_simulated(&disk).unwrap();
    store.put("b", "old").unwrap();
    let (plain, hour) = (WriteOptions::new(), Duration::from_secs(3600));
    let mut writes = Batch::new();
    writes.put("a", "1").delete("b").put("c", [7; 100]).put("a", "2").delete("nothing");
    writes.put_with("d", "4", hour).put("e", "5").delete("e").put_with("f", "", Ttl::Keep);
    let kinds = ["put", "delete", "put", "put", "delete", "put", "put", "delete", "put"];
    let mut at = Vec::new();
    for options in [plain.ttl(hour), plain.keep_ttl(), plain.no_ttl(), plain] {
        let before = frames(&store).len();
        at = store.write_positions(&writes, &options).unwrap();
        assert_eq!(frames(&store)[before..], at.iter().copied().zip(kinds).collect::<Vec<_>>());
        for (key, nth) in [("a", 3), ("c", 2), ("d", 5), ("f", 8)] {
            assert_eq!(store.get(key).unwrap().unwrap().written_at(), at[nth], "{key}");
        }
    }
    for merges in 0..3 {
        if merges > 0 {
            store.merge().unwrap();
        }
        let good = [("a", Expected::Position(at[3])), ("f", Expected::Position(at[8]))];
        write(&store, &batch(&good)).unwrap();
        let replaced = [("a", Expected::Position(at[0]))];
        assert_eq!(conflict(&store, &batch(&replaced)).2, Some(at[3]));
        for (key, nth) in [("b", 1), ("e", 6), ("e", 7), ("nothing", 4)] {
            let deleted = [(key, Expected::Position(at[nth]))];
            assert_eq!(conflict(&store, &batch(&deleted)).2, None);
        }
        store.close().unwrap();
        store = store_by_hand().open_simulated(&disk).unwrap();
    }
    // In a segment of its own.
    let mut large = Batch::new();
    large.put("g", vec![7; 3 << 20]).put("h", "8");
    let large = store.write_positions(&large, &plain).unwrap();
    let written_at = |key| store.get(key).unwrap().unwrap().written_at();
    assert_eq!(large, [written_at("g"), written_at("h")]);
}

#[test]
fn a_batch_without_writes_has_no_positions() {
    let (store, options) = (store(), WriteOptions::new());
    let positions = |batch: &Batch| store.write_positions(batch, &options);
    let at = store.put("a", "1").unwrap();
    let (mut question, end) = (Batch::new(), store.log().tail());
    assert_eq!(positions(&question).unwrap(), []);
    question.expect("a", Expected::Position(at));
    assert_eq!(positions(&question).unwrap(), []);
    question.expect("b", Expected::Present);
    assert!(matches!(positions(&question), Err(WriteError::Conflict(_))));
    question.put("b", "1");
    assert!(matches!(positions(&question), Err(WriteError::Conflict(_))));
    let zero = store.write_positions(&Batch::new(), &options.ttl(Duration::ZERO));
    assert!(matches!(zero, Err(WriteError::ZeroTtl)));
    assert_eq!(store.log().tail(), end);
    store.close().unwrap();
    assert!(matches!(positions(&Batch::new()), Err(WriteError::Closed)));
}

/// Each job is done by one thread, and each result is that of who did it.
#[test]
fn of_many_who_move_a_job_one_does() {
    const JOBS: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    for job in 0..JOBS {
        store.put(format!("job/{job}"), "to do").unwrap();
    }
    let work = |me: &str| {
        let mut done = 0;
        for job in 0..JOBS {
            let (job, result) = (format!("job/{job}"), format!("result/{job}"));
            let mut batch = Batch::new();
            batch.expect(&job, Expected::Value(b"to do")).expect(&result, Expected::Absent);
            batch.put(&job, "done").put(&result, me);
            match store.write(&batch) {
                Ok(_) => done += 1,
                Err(WriteError::Conflict(conflict)) => assert!(conflict.index < 2),
                Err(error) => panic!("{error}"),
            }
        }
        done
    };
    let done: u64 = std::thread::scope(|scope| {
        let threads = ["ann", "bob", "cid", "dan"].map(|me| scope.spawn(move || work(me)));
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(done, JOBS);
}

#[test]
fn on_a_full_disk_a_conflict_is_a_conflict() {
    let disk = SimulatedDisk::new();
    let store = small_store(32 << 10).open_simulated(&disk).unwrap();
    store.put("a", "1").unwrap();
    disk.set_space(Some(0));
    // Neither fits what is left of the segment; one has a segment of its own.
    for len in [20_000, 80_000] {
        let mut batch = Batch::new();
        batch.expect("a", Expected::Absent).put("large", vec![1; len]);
        store.put("b", vec![1; 20_000]).ok();
        conflict(&store, &batch);
        let mut batch = Batch::new();
        batch.expect("a", Expected::Present).put("large", vec![1; len]);
        let full = store.write(&batch).unwrap_err();
        assert!(matches!(full, WriteError::Append(AppendError::NoSpace { .. })), "{full}");
    }
    assert_eq!(value(&store, "large"), None);
    disk.set_space(None);
    let mut batch = Batch::new();
    batch.expect("a", Expected::Present).put("large", vec![1; 80_000]);
    store.write(&batch).unwrap();
    assert_eq!(value(&store, "large").unwrap().len(), 80_000);
}

#[test]
#[cfg(unix)]
fn a_bad_key_or_a_damaged_value_is_an_error_and_no_conflict() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = store_by_hand().open(&path).unwrap();
    for key in ["", &"k".repeat(65_536)] {
        let error = store.write(&batch(&[(key, Expected::Absent)])).unwrap_err();
        assert!(matches!(error, WriteError::KeyLength { len } if len == key.len()), "{error}");
    }
    let at = store.put("a", "value").unwrap();
    // Another program writes to the file.
    let file = std::fs::OpenOptions::new().write(true).open(path.join(segment(at.segment())));
    file.unwrap().write_all_at(b"V", u64::from(at.offset()) + 16 + 8).unwrap();
    for expected in [Expected::Absent, Expected::Present, Expected::Value(b"value")] {
        let error = store.write(&batch(&[("a", expected)])).unwrap_err();
        assert!(matches!(error, WriteError::Read(_)), "{error}");
    }
    assert_eq!(value(&store, "done"), None);
}

/// What is in it is not absent, and not something else.
#[test]
fn a_store_that_is_closed_says_so() {
    let store = store();
    store.put("a", "1").unwrap();
    let other = store.clone();
    store.close().unwrap();
    for expected in [Expected::Absent, Expected::Present, Expected::Value(b"2")] {
        for key in ["a", "b"] {
            let mut question = Batch::new();
            question.expect(key, expected);
            for batch in [&question, &batch(&[(key, expected)])] {
                let error = other.write(batch).unwrap_err();
                assert!(matches!(error, WriteError::Closed), "{error}");
            }
        }
    }
    let error = other.write(Batch::new().put_with("a", "2", Ttl::Keep)).unwrap_err();
    assert!(matches!(error, WriteError::Closed), "{error}");
}

/// A store whose clock is set by hand.
fn with_clock() -> (Store, Arc<AtomicU64>) {
    let clock = Arc::new(AtomicU64::new(1_000_000));
    let options: StoreOptions = small_store(32 << 10).clock(clock.clone());
    (options.open_simulated(&SimulatedDisk::new()).unwrap(), clock)
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn left(left: u64) -> Option<Expiry> {
    Some(Expiry::In(ms(left)))
}

const NEVER: Option<Expiry> = Some(Expiry::Never);

#[test]
fn what_has_expired_is_absent_to_a_batch() {
    let (store, clock) = with_clock();
    let at = store.put_with("a", "1", &WriteOptions::new().ttl(ms(10))).unwrap();
    let present =
        [Expected::Present, Expected::Value(b"1"), Expected::Position(at)].map(|e| ("a", e));
    write(&store, &batch(&present)).unwrap();
    assert_eq!(conflict(&store, &batch(&[("a", Expected::Absent)])).2, Some(at));
    clock.fetch_add(10, Ordering::Relaxed);
    for present in present {
        assert_eq!(conflict(&store, &batch(&[present])).2, None);
    }
    write(&store, &batch(&[("a", Expected::Absent)])).unwrap();
}

#[test]
fn each_put_of_a_batch_has_its_own_ttl() {
    let (store, clock) = with_clock();
    for len in [10, 80_000] {
        let value_of = vec![5; len];
        for key in ["kept", "set", "removed", "plain"] {
            store.put_with(key, "old", &WriteOptions::new().ttl(ms(100))).unwrap();
        }
        store.put("never", "old").unwrap();
        clock.fetch_add(10, Ordering::Relaxed);
        let mut batch = Batch::new();
        batch.put_with("kept", &value_of, Ttl::Keep).put_with("set", &value_of, ms(50));
        batch.put_with("removed", &value_of, Ttl::Remove).put("plain", &value_of);
        batch.put_with("never", &value_of, Ttl::Keep).put_with("new", &value_of, Ttl::Keep);
        assert_eq!(batch.len(), 6);
        store.write(&batch).unwrap();
        let ttl = |key: &str| store.ttl(key).unwrap();
        let check = |kept, set| {
            assert_eq!((ttl("kept"), ttl("set")), (kept, set));
            assert_eq!(["removed", "plain", "never", "new"].map(ttl), [NEVER; 4]);
            for key in ["removed", "plain", "never", "new"] {
                assert_eq!(value(&store, key).unwrap(), value_of);
            }
        };
        check(left(90), left(50));
        store.merge().unwrap();
        check(left(90), left(50));
        store.verify().unwrap();
        clock.fetch_add(50, Ordering::Relaxed);
        check(left(40), None);
        for key in ["never", "new"] {
            assert!(store.delete(key).unwrap());
        }
    }
}

#[test]
fn what_has_expired_has_no_ttl_to_be_kept() {
    let (store, clock) = with_clock();
    for key in ["a", "b"] {
        store.put_with(key, "old", &WriteOptions::new().ttl(ms(10))).unwrap();
    }
    let mut batch = Batch::new();
    batch.put_with("a", "new", Ttl::Keep).put_with("b", "new", Ttl::Keep);
    clock.fetch_add(9, Ordering::Relaxed);
    store.write(&batch).unwrap();
    assert_eq!(["a", "b"].map(|key| store.ttl(key).unwrap()), [left(1); 2]);
    clock.fetch_add(1, Ordering::Relaxed);
    store.write(&batch).unwrap();
    assert_eq!(["a", "b"].map(|key| store.ttl(key).unwrap()), [NEVER; 2]);
}

/// The writes of a batch come one after the other.
#[test]
fn a_batch_keeps_the_ttl_that_it_has_set_itself() {
    let (store, clock) = with_clock();
    let old = WriteOptions::new().ttl(ms(100));
    let _ = ["a", "b", "c", "d"].map(|key| store.put_with(key, "old", &old).unwrap());
    let mut batch = Batch::new();
    batch.put_with("a", "1", ms(30)).put_with("a", "2", Ttl::Keep);
    batch.put_with("a", "3", Ttl::Keep);
    batch.delete("b").put_with("b", "1", Ttl::Keep);
    batch.put("c", "1").put_with("c", "2", Ttl::Keep);
    batch.put_with("d", "1", Ttl::Keep).put_with("d", "2", Ttl::Keep);
    store.write(&batch).unwrap();
    let ttls = ["a", "b", "c", "d"].map(|key| store.ttl(key).unwrap());
    assert_eq!(ttls, [left(30), NEVER, NEVER, left(100)]);
    assert_eq!(value(&store, "a").unwrap(), b"3");
    // TTLs count from each writing of the batch.
    clock.fetch_add(25, Ordering::Relaxed);
    store.write(&batch).unwrap();
    assert_eq!(store.ttl("a").unwrap(), left(30));
    assert_eq!(store.ttl("d").unwrap(), left(75));
}

#[test]
fn the_options_of_a_batch_are_for_puts_without_a_ttl() {
    let (store, _) = with_clock();
    let ttls = |options: &WriteOptions| {
        for key in ["plain", "set", "kept", "removed"] {
            store.put_with(key, "old", &WriteOptions::new().ttl(ms(100))).unwrap();
        }
        let mut batch = Batch::new();
        batch.expect("gone", Expected::Absent);
        batch.put("plain", "new").put_with("set", "new", ms(30)).delete("gone");
        batch.put_with("kept", "new", Ttl::Keep).put_with("removed", "new", Ttl::Remove);
        store.write_with(&batch, options).unwrap();
        let all = ["plain", "set", "kept", "removed"];
        all.iter().for_each(|key| assert_eq!(value(&store, key).unwrap(), b"new"));
        all.map(|key| store.ttl(key).unwrap())
    };
    let new = WriteOptions::new();
    assert_eq!(ttls(&new), [NEVER, left(30), left(100), NEVER]);
    assert_eq!(ttls(&new.no_ttl()), [NEVER, left(30), left(100), NEVER]);
    assert_eq!(ttls(&new.keep_ttl()), [left(100), left(30), left(100), NEVER]);
    assert_eq!(ttls(&new.ttl(ms(60))), [left(60), left(30), left(100), NEVER]);
}

#[test]
fn a_ttl_of_zero_in_a_batch_is_an_error() {
    let (store, _) = with_clock();
    let mut batch = Batch::new();
    batch.put("a", "1").put_with("b", "1", Duration::ZERO);
    assert!(matches!(store.write(&batch).unwrap_err(), WriteError::ZeroTtl));
    let zero = WriteOptions::new().ttl(Duration::ZERO);
    for batch in [Batch::new(), Batch::new().put("a", "1").clone()] {
        assert!(matches!(store.write_with(&batch, &zero).unwrap_err(), WriteError::ZeroTtl));
    }
    assert!(store.is_empty());
}

#[test]
fn a_synced_batch_survives_power_loss() {
    let written = |options: &WriteOptions| {
        let disk = SimulatedDisk::new();
        let store = store_by_hand().open_simulated(&disk).unwrap();
        store.write_with(&batch(&[("a", Expected::Absent)]), options).unwrap();
        let lost = disk.power_loss(|_, _| false);
        store.abort();
        value(&store_by_hand().open_simulated(&lost).unwrap(), "done")
    };
    assert_eq!(written(&WriteOptions::new()), None);
    assert!(written(&WriteOptions::new().durability(Durability::Synced)).is_some());
}
