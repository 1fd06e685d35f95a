//! Positions that come from elsewhere, and readers of logs that others write, close, or lose.

mod common;

use common::content::placed_entries as entries;
use common::frames::{HEADER, place, uncommit};
use common::{HANG, log_by_hand, segment, small_log};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tailcask::{
    Checkpoint, CommitLog, LogOptions, LogPosition, Maintenance, OpenError, ReadError,
    RecoveryMode, SimulatedDisk, Store,
};

const UNIT: u64 = 16 << 10;

fn options() -> LogOptions {
    small_log(UNIT)
}

/// U6: a checkpoint of a log that was recreated waited forever, if the new one is shorter.
#[test]
fn a_checkpoint_beyond_the_end_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    let id = log.id();
    let mut last = LogPosition::START;
    for n in 0..1000 {
        last = log.append(format!("{n} {}", "x".repeat(60)).as_bytes()).unwrap();
    }
    assert!(last.segment() > 1);
    log.close().unwrap();
    std::fs::remove_dir_all(&path).unwrap();

    let log = options().open(&path).unwrap();
    assert_ne!(log.id(), id);
    log.append(b"first").unwrap();
    let far = log.reader_from(last).next_entry().map(|entry| entry.is_some());
    assert!(matches!(far, Err(ReadError::PastEnd { position, .. }) if position == last), "{far:?}");
    let near = LogPosition::from_u64(log.tail().as_u64() + 800);
    let near = log.reader_from(near).wait_entry(HANG).map(|e| e.is_some());
    assert!(matches!(near, Err(ReadError::PastEnd { .. })), "{near:?}");
    // At the end is a place.
    assert!(log.reader_from(log.tail()).next_entry().unwrap().is_none());
    log.close().unwrap();
    let follower = CommitLog::open_read_only(&path).unwrap();
    let far = follower.reader_from(last).next_entry().map(|entry| entry.is_some());
    assert!(matches!(far, Err(ReadError::PastEnd { .. })), "to a follower, too: {far:?}");
}

/// A reader that had read everything stood in a segment that was never used, and went with the close.
#[test]
fn a_checkpoint_at_the_end_stays_good_over_close_and_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut checkpoint = LogPosition::START;
    for round in 1..7u32 {
        let log = options().open(&path).unwrap();
        let mut reader = log.reader_from(checkpoint);
        assert!(reader.next_entry().unwrap().is_none(), "round {round}");
        for n in 0..round * 40 {
            log.append(format!("{n} {}", "x".repeat(60)).as_bytes()).unwrap();
            assert!(reader.next_entry().unwrap().unwrap().starts_with(n.to_string().as_bytes()));
        }
        assert!(reader.next_entry().unwrap().is_none());
        checkpoint = if round % 2 == 0 { reader.position() } else { log.tail() };
        drop(reader);
        log.close().unwrap();
        let follower = CommitLog::open_read_only(&path).unwrap();
        assert!(follower.reader_from(checkpoint).next_entry().unwrap().is_none());
    }
}

#[test]
fn a_checkpoint_before_the_beginning_is_an_error() {
    let log = options().open_simulated(&SimulatedDisk::new()).unwrap();
    let first = log.append(b"first").unwrap();
    (0..1000).for_each(|_| assert!(log.append(&[7; 60]).is_ok()));
    log.truncate_before(log.tail()).unwrap();
    let early = log.reader_from(first).next_entry().map(|entry| entry.is_some());
    assert!(matches!(early, Err(ReadError::Truncated { position, .. }) if position == first));
}

/// A consumer that stands where the log now begins has missed nothing, though its last entry is gone.
#[test]
fn a_checkpoint_at_the_beginning_is_good_when_what_was_read_is_truncated() {
    let log = small_log(8192).open_simulated(&SimulatedDisk::new()).unwrap();
    for n in 0..7 {
        log.append(&[n; 1000]).unwrap();
    }
    let mut reader = log.reader();
    let position = log.append_with(1000, |_| while reader.next_entry().unwrap().is_some() {});
    let (position, checkpoint) = (position.unwrap(), reader.checkpoint());
    assert_eq!((checkpoint.position(), position.segment()), (position, 2));
    let bare = Checkpoint::new(log.id(), position);
    assert_ne!(checkpoint, bare, "it says where the last entry ended");
    assert_eq!(log.truncate_before(position).unwrap(), position);
    let mut resumed = log.reader_from_checkpoint(&checkpoint).unwrap();
    assert_eq!(resumed.next_entry().unwrap().unwrap().position(), position);
    // What a reader is told to go on from says nothing of what it has read.
    reader.seek(position);
    assert_eq!(reader.checkpoint(), bare);
}

/// L3: what stood inside a batch that a death cut short could be read at its positions.
#[test]
fn nothing_of_a_dead_batch_can_be_read() {
    // The process dies with all of the entries written, with some, and with none.
    for written in [20_000 * BATCHED, 9_000 * BATCHED + 24, 0] {
        let disk = SimulatedDisk::new();
        let log = whole().open_simulated(&disk).unwrap();
        log.append(b"before").unwrap();
        let batch = batch_of(&log, 20_000);
        let image = disk.process_death();
        log.abort();
        let mut bytes = image.read(&segment(1)).unwrap();
        let head = batch[0].offset() as usize - HEADER;
        uncommit(&mut bytes, head);
        bytes[head + HEADER + written..].fill(0);
        assert!(image.write(&segment(1), &bytes));

        let log = whole().open_simulated(&image).unwrap();
        assert_eq!(log.recovery().dead_claims, 1);
        let all = entries(&log);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].1, b"before");
        // Where its entries began, and everywhere else in the first pages of it.
        for position in batch.into_iter().chain((head..head + 4096).step_by(8).map(first)) {
            assert!(log.read(position).is_err(), "{position} is in no entry that counts");
        }
    }
}

/// The same for one who reads beside the writer, and repairs nothing.
#[test]
fn nothing_of_an_unfinished_batch_can_be_read_by_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = whole().open(&path).unwrap();
    let before = log.append(b"before").unwrap();
    let batch = batch_of(&log, 2000);
    // The file is what the writer has mapped: now the batch is as it is before its commit.
    let name = path.join(segment(1));
    let head = batch[0].offset() as usize - HEADER;
    let mut bytes = std::fs::read(&name).unwrap();
    let committed: [u8; 8] = bytes[head..head + 8].try_into().unwrap();
    uncommit(&mut bytes, head);
    let file = std::fs::OpenOptions::new().write(true).open(&name).unwrap();
    file.write_all_at(&bytes[head..head + 8], head as u64).unwrap();

    let reader = CommitLog::open_read_only(&path).unwrap();
    let state = reader.frames(first(head)).next().unwrap().unwrap().state;
    let read = entries(&reader);
    let inside: Vec<_> = batch.iter().filter(|at| reader.read(**at).is_ok()).collect();
    // Before anything can fail here: the writer waits for what is under way when it goes.
    file.write_all_at(&committed, head as u64).unwrap();
    assert_eq!(state, "claimed");
    assert_eq!(read, [(before, b"before".to_vec())]);
    assert!(inside.is_empty(), "entries of a batch that is not committed: {inside:?}");

    assert_eq!(entries(&reader).len(), 1 + batch.len());
    assert!(batch.iter().all(|at| *reader.read(*at).unwrap() == [9; 40]));
    log.close().unwrap();
}

fn first(offset: usize) -> LogPosition {
    place(1, offset as u64)
}

/// Segments that hold a batch as a whole.
fn whole() -> LogOptions {
    log_by_hand().segment_size(4 << 20).initial_segment_size(4 << 20)
}

/// Bytes of a frame of such a batch.
const BATCHED: usize = HEADER + 40;

fn batch_of(log: &CommitLog, entries: usize) -> Vec<LogPosition> {
    let batch = log.append_batch(&vec![&[9u8; 40][..]; entries]).unwrap();
    assert!(batch.iter().all(|position| position.segment() == 1));
    batch
}

/// L2: what recovery would leave out, a follower leaves out, too, and goes on doing so.
#[test]
fn a_follower_sees_no_more_than_recovery_finds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    for n in 0..600u32 {
        log.append(format!("{n} {}", "x".repeat(90)).as_bytes()).unwrap();
    }
    log.abort();
    // As after a power loss: another boot, and a sector in the middle that never got to the device.
    for name in std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()) {
        if name.extension().is_some_and(|extension| extension == "seg") {
            let mut bytes = std::fs::read(&name).unwrap();
            bytes[32] ^= 1;
            let crc = crc32fast::hash(&bytes[..60]);
            bytes[60..64].copy_from_slice(&crc.to_le_bytes());
            if name.to_string_lossy().ends_with("2.seg") {
                bytes[4096..4608].fill(0);
            }
            std::fs::write(&name, bytes).unwrap();
        }
    }
    let follower = CommitLog::open_read_only(&path).unwrap();
    let seen = entries(&follower);
    assert!(seen.len() < 300, "it ends at the hole: {}", seen.len());
    let tail = follower.tail();
    assert_eq!(entries(&follower), seen, "also after it has looked again");
    let mut reader = follower.reader_from(tail);
    assert!(reader.wait_entry(Duration::from_millis(50)).unwrap().is_none());

    let log = options().open(&path).unwrap();
    assert_eq!(entries(&log), seen);
    log.append(b"after").unwrap();
    let next = reader.wait_entry(HANG).unwrap().map(|entry| entry.to_vec());
    assert_eq!(next.as_deref(), Some(&b"after"[..]));
    log.close().unwrap();
    assert_eq!(entries(&follower).len(), seen.len() + 1);
}

#[test]
fn what_was_truncated_does_not_come_back_to_a_follower() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    (0..600).for_each(|_| assert!(log.append(&[7; 90]).is_ok()));
    let copies: Vec<_> = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
    let follower = CommitLog::open_read_only(&path).unwrap();
    let mut kept = Vec::new();
    for name in &copies {
        kept.push((name.clone(), std::fs::read(name).unwrap()));
    }
    let begin = log.truncate_before(log.tail()).unwrap();
    // Their names are back, as when the directory was not synced.
    for (name, bytes) in kept {
        if name.extension().is_some_and(|extension| extension == "seg") && !name.exists() {
            std::fs::write(name, bytes).unwrap();
        }
    }
    let _ = follower.tail();
    assert_eq!(follower.begin(), begin);
    assert_eq!(CommitLog::open_read_only(&path).unwrap().begin(), begin);
    log.abort();
    let log = options().open(&path).unwrap();
    assert_eq!(log.begin(), begin, "and recovery removes them again: {}", log.recovery());
}

/// U5: entries would keep a store's segments from ever being merged.
#[test]
fn a_log_that_a_store_lives_on_is_not_opened_for_appending_by_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    store.put("key", "value").unwrap();
    store.close().unwrap();
    assert!(matches!(CommitLog::open(&path), Err(OpenError::HoldsStore)));
    let log = CommitLog::options().on_store(true).open(&path).unwrap();
    log.append(b"entry").unwrap();
    log.close().unwrap();
    assert_eq!(entries(&CommitLog::open_read_only(&path).unwrap()).len(), 1);
    assert_eq!(&*Store::open(&path).unwrap().get("key").unwrap().unwrap(), b"value");
}

/// L14: a value that is full of frames, with damage before it: 8 MiB took a minute.
#[test]
fn salvage_takes_time_linear_in_what_is_there() {
    let disk = SimulatedDisk::new();
    let size = 96 << 20;
    let options = CommitLog::options().maintenance(Maintenance::Manual).segment_size(size);
    let options = options.initial_segment_size(size);
    let log = options.open_simulated(&disk).unwrap();
    log.append(&[1; 1000]).unwrap();
    // Words that look like the beginnings of frames that fill all the rest.
    let len = 64usize << 20;
    log.append_with(len, |bytes| {
        for (nth, chunk) in bytes.chunks_exact_mut(16).enumerate() {
            let body = (len - nth * 16 - 16) as u64;
            let length = 16 + body.next_multiple_of(8);
            chunk[..8].copy_from_slice(&(length | 2 | 0x1234_5678 << 32).to_le_bytes());
            chunk[8..].copy_from_slice(&(1 | body << 32).to_le_bytes());
        }
    })
    .unwrap();
    let behind = log.append(b"behind").unwrap();
    let image = disk.process_death();
    log.abort();
    let name = segment(1);
    // In the body of the large entry.
    assert!(image.flip(&name, 4096, 1));
    let started = Instant::now();
    let log = options.recovery_mode(RecoveryMode::Salvage).open_simulated(&image).unwrap();
    assert_eq!(&*log.read(behind).unwrap(), b"behind");
    assert_eq!(log.recovery().lost.len(), 1);
    // It was hours; this is a guard against that, and no measurement.
    assert!(started.elapsed() < HANG, "{:?}", started.elapsed());
}

#[test]
fn readers_hold_no_lock_and_make_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    log.append(b"entry").unwrap();
    log.close().unwrap();
    std::fs::remove_file(path.join("LOCK")).unwrap();
    let names = || {
        let mut all: Vec<_> = std::fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().modified().unwrap()))
            .collect();
        all.sort();
        all
    };
    let before = names();
    let reader = Arc::new(CommitLog::open_read_only(&path).unwrap());
    assert_eq!(entries(&reader).len(), 1);
    reader.verify().unwrap();
    assert_eq!(names(), before);
    let log = options().open(&path).unwrap();
    log.append(b"more").unwrap();
    assert_eq!(entries(&reader).len(), 2);
}
