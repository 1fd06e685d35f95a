//! Owned forms: what was read, and what reads, without borrowing the store or the log.

mod common;

use common::{small_log, small_store};
use std::thread;
use tailcask::{
    CommitLog, Entry, Keys, LogPosition, LogReader, OpenError, Pair, Pairs, ReadError,
    SimulatedDisk, Store, Value,
};

#[test]
fn owned_forms_can_be_sent_and_kept() {
    fn check<T: Send + 'static>() {}
    check::<Value<'static>>();
    check::<Entry<'static>>();
    check::<Pair<'static>>();
    check::<Pairs<'static>>();
    check::<Keys<'static>>();
    check::<LogReader<'static>>();
    fn share<T: Clone + Send + Sync + 'static>() {}
    share::<Store>();
    share::<CommitLog>();
}

#[test]
fn what_is_owned_outlives_merges_truncation_and_the_log() {
    let disk = SimulatedDisk::new();
    let store = small_store(8192).open_simulated(&disk).unwrap();
    for n in 0..60u8 {
        store.put([n], [n; 300]).unwrap();
    }
    store.roll().unwrap();
    let values: Vec<_> = (0..60u8).map(|n| store.get([n]).unwrap().unwrap().into_owned()).collect();
    let pairs: Vec<_> = store.iter().map(|pair| pair.unwrap().into_owned()).collect();
    let parts: Vec<_> = store.iter().map(|pair| pair.unwrap().into_parts()).collect();
    let position = values[5].position();
    (0..60u8).for_each(|n| _ = store.put([n], "new").unwrap());
    assert!(store.merge().unwrap().inputs > 2);
    store.maintain().unwrap();
    assert!(store.stats().segments_waiting_for_readers > 2, "they are kept");
    drop(store);
    thread::spawn(move || {
        for (n, value) in values.into_iter().enumerate() {
            assert_eq!(&*value, [n as u8; 300]);
            let again = value.into_owned();
            assert_eq!(again.into_bytes(), vec![n as u8; 300]);
        }
        assert!(pairs.iter().all(|pair| pair.value() == [pair.key()[0]; 300]));
        assert!(parts.iter().all(|(key, value)| **value == [key[0]; 300]));
        assert_eq!((pairs.len(), parts.len()), (60, 60));
    })
    .join()
    .unwrap();
    assert!(position < small_store(8192).open_simulated(&disk).unwrap().log().tail());

    let log = small_log(4096).open_simulated(&SimulatedDisk::new()).unwrap();
    let positions: Vec<_> = (0..50u8).map(|n| log.append(&[n; 300]).unwrap()).collect();
    let (mut reader, mut entries) = (log.reader(), Vec::new());
    while let Some(entry) = reader.next_entry().unwrap() {
        entries.push(entry.into_owned());
    }
    drop(reader);
    let read: Vec<_> =
        positions.iter().map(|&at| log.read(at).unwrap().into_owned().into_bytes()).collect();
    log.truncate_before(positions[49]).unwrap();
    log.maintain().unwrap();
    assert!(log.stats().segments_waiting_for_readers > 2);
    drop(log);
    for (n, entry) in entries.into_iter().enumerate() {
        assert_eq!((entry.position(), &*entry), (positions[n], &[n as u8; 300][..]));
        assert_eq!(entry.into_bytes(), read[n]);
    }
}

/// What an owned value has is its own segment, and goes with it.
#[test]
fn what_is_owned_keeps_no_other_segment() {
    let store = small_store(8192).open_simulated(&SimulatedDisk::new()).unwrap();
    (0..60u8).for_each(|n| _ = store.put([n], [n; 300]).unwrap());
    store.roll().unwrap();
    let value = store.get([0]).unwrap().unwrap().into_owned();
    (0..60u8).for_each(|n| _ = store.put([n], "new").unwrap());
    store.merge().unwrap();
    let waiting = || {
        (0..10).for_each(|_| _ = store.maintain().unwrap());
        store.stats().segments_waiting_for_readers
    };
    assert_eq!(waiting(), 1);
    let bytes = value.into_bytes();
    let part = bytes.slice(1..);
    drop(bytes);
    assert_eq!(waiting(), 1);
    drop(part);
    assert_eq!(waiting(), 0);
}

#[test]
fn owned_iterators_and_readers_keep_the_store_open_until_it_is_closed() {
    let disk = SimulatedDisk::new();
    let open = || small_store(8192).open_simulated(&disk);
    let store = open().unwrap();
    (0..60u8).for_each(|n| _ = store.put([n], [n; 300]).unwrap());
    let (pairs, keys) = (store.iter_owned(), store.keys_owned());
    let mut reader = store.log().reader_owned();
    let entry = store.log().append(b"entry").unwrap();
    drop(store);
    assert!(matches!(open(), Err(OpenError::Locked { .. })));
    let parts = thread::spawn(move || pairs.map(|pair| pair.unwrap().into_parts()).collect());
    let parts: Vec<_> = parts.join().unwrap();
    assert_eq!(parts.len(), 60);
    assert_eq!(keys.map(|key| key.unwrap().len()).sum::<usize>(), 60);
    assert!(matches!(open(), Err(OpenError::Locked { .. })));
    assert_eq!(reader.next_entry().unwrap().unwrap().position(), entry);
    drop(reader);
    let store = open().unwrap();
    assert!(store.recovery().is_clean());
    let (mut pairs, mut reader) = (store.iter_owned(), store.log().reader_owned());
    assert!(pairs.next().unwrap().is_ok());
    store.close().unwrap();
    assert!(matches!(pairs.last(), Some(Err(ReadError::Closed))));
    assert!(matches!(reader.next_entry(), Err(ReadError::Closed)));
    assert!(open().is_ok(), "with the reader still there");
    drop(reader);
}

#[test]
fn a_reader_seeks_anywhere() {
    let log = small_log(4096).open_simulated(&SimulatedDisk::new()).unwrap();
    let positions: Vec<_> = (0..60u8).map(|n| log.append(&[n; 300]).unwrap()).collect();
    for mut reader in [log.reader(), log.reader_owned()] {
        // Forward and back, in the segment it is in and in others.
        for n in [0, 1, 0, 59, 58, 3, 30, 31, 59] {
            reader.seek(positions[n]);
            assert_eq!(reader.position(), positions[n]);
            let entry = reader.next_entry().unwrap().unwrap();
            assert_eq!((entry.position(), entry[0]), (positions[n], n as u8));
        }
        // To the end, and on from there.
        reader.seek(log.tail());
        assert!(reader.next_entry().unwrap().is_none());
        // To what is no place, in the segment it is in: nothing is taken for a frame there.
        for wrong in [8, 16, 24, 25] {
            reader.seek(LogPosition::from_u64(positions[40].as_u64() + wrong));
            for _ in 0..2 {
                assert!(matches!(reader.next_entry(), Err(ReadError::NotAnEntry { .. })));
            }
        }
        // Behind the end, also where its segment is going to end: what is appended would be passed over.
        let capacity = LogPosition::from_u64(log.tail().as_u64() & !0xffff_ffff | 4096);
        for behind in [LogPosition::from_u64(log.tail().as_u64() + 8), capacity] {
            reader.seek(behind);
            assert!(matches!(reader.next_entry(), Err(ReadError::PastEnd { .. })));
        }
        reader.seek(LogPosition::START);
        assert_eq!(reader.next_entry().unwrap().unwrap().position(), positions[0]);
    }
    let mut reader = log.reader_owned();
    log.truncate_before(positions[40]).unwrap();
    reader.seek(positions[0]);
    assert!(matches!(reader.next_entry(), Err(ReadError::Truncated { .. })));
    reader.seek(log.begin());
    assert!(reader.next_entry().unwrap().unwrap().position() <= positions[40]);
}

/// A reader in another process goes on into a standby once the segment before it is full. The writer may take
/// that back, and then another segment follows.
#[test]
fn a_reader_at_a_standby_that_is_taken_back_goes_on_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = small_log(8192).open(dir.path().join("log")).unwrap();
    for _ in 0..2 {
        log.append(&[1; 8192 - 128 - 16]).unwrap(); // fills a segment
        log.maintain().unwrap();
    }
    let follower = CommitLog::open_read_only(dir.path().join("log")).unwrap();
    let mut beside = follower.reader();
    while beside.next_entry().unwrap().is_some() {}
    assert!(beside.position() > log.tail());
    let mut readers = [log.reader_from(beside.position()), log.reader_from(beside.position())];
    let mut frames = log.frames(beside.position());
    assert!(readers[0].next_entry().unwrap().is_none());
    assert!(frames.next().is_none());
    let position = log.append(&[2; 20_000]).unwrap();
    assert!(position.segment() > beside.position().segment(), "the standby was too small");
    for reader in &mut readers {
        assert_eq!(reader.next_entry().unwrap().expect("an entry").position(), position);
    }
    assert_eq!(frames.next().expect("a frame").unwrap().position, position);
}

/// It has read nothing, and goes on with the first entry when the log is open again.
#[test]
fn a_reader_at_the_start_of_a_log_that_is_closed_stays_there() {
    let disk = SimulatedDisk::new();
    let log = small_log(8192).open_simulated(&disk).unwrap();
    log.append_batch(&[b"one", b"two"]).unwrap();
    let mut reader = log.reader_owned();
    log.clone().close().unwrap();
    assert!(matches!(reader.next_entry(), Err(ReadError::Closed)));
    assert_eq!(reader.position(), LogPosition::START);
    let checkpoint = reader.checkpoint();
    drop((reader, log));
    let log = small_log(8192).open_simulated(&disk).unwrap();
    let mut reader = log.reader_from_checkpoint(&checkpoint).unwrap();
    assert_eq!(&*reader.next_entry().unwrap().unwrap(), b"one");
}
