//! Checkpoints of consumers: whatever happens to the log meanwhile, a consumer goes on with the next
//! entry, or is told why it cannot.

mod common;

use common::files::{change, copy_dir};
use common::{Random, count, entries, rounds, segment, small_log};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tailcask::{
    Checkpoint, CheckpointError, CommitLog, LogOptions, LogPosition, LogReader, ReadError,
    RecoveryMode, Retention, SimulatedDisk,
};

const UNIT: u64 = 16 << 10;

fn options() -> LogOptions {
    small_log(UNIT)
}

fn entry(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + len, 7);
    bytes
}

/// The number of the next entry behind a checkpoint, which is stored as text and as bytes meanwhile. Whatever
/// goes on from it, a reader that borrows, one that does not, or a stream, comes to the same.
fn next(log: &CommitLog, checkpoint: &Checkpoint) -> Result<Option<u64>, CheckpointError> {
    let text: Checkpoint = checkpoint.to_string().parse().unwrap();
    let stored = Checkpoint::from_bytes(text.to_bytes());
    assert_eq!(stored, *checkpoint);
    let (reader, owned) =
        (log.reader_from_checkpoint(&stored), log.reader_owned_from_checkpoint(&stored));
    assert_eq!(came_of(&reader), came_of(&owned));
    #[cfg(feature = "stream")]
    {
        let stream = log.stream_from_checkpoint(&stored);
        let stream = stream.as_ref().map(tailcask::EntryStream::checkpoint);
        assert_eq!(came_of(&reader), stream.map_err(ToString::to_string));
    }
    let (mut reader, mut owned) = (reader?, owned?);
    assert!(log.reader_from_checkpoint(&reader.checkpoint()).is_ok(), "nothing was read meanwhile");
    let found = read(&mut reader);
    assert_eq!(found, read(&mut owned));
    Ok(found)
}

/// Where a reader goes on, or why it does not.
fn came_of(reader: &Result<LogReader<'_>, CheckpointError>) -> Result<Checkpoint, String> {
    reader.as_ref().map(LogReader::checkpoint).map_err(ToString::to_string)
}

fn read(reader: &mut LogReader<'_>) -> Option<u64> {
    let entry = reader.next_entry().expect("it was checked");
    entry.map(|entry| u64::from_le_bytes(entry[..8].try_into().unwrap()))
}

/// A consumer that follows a log, and its checkpoints by how much it had read.
struct Consumer {
    taken: Vec<(u64, Checkpoint)>,
}

impl Consumer {
    fn start(log: &CommitLog) -> Self {
        Self { taken: vec![(0, log.reader().checkpoint())] }
    }

    /// Reads everything from its last checkpoint on; at the end it looks once more, and is past what is
    /// no entry.
    fn read_on(&mut self, log: &CommitLog) {
        let (mut read, last) = *self.taken.last().unwrap();
        let mut reader = log.reader_from_checkpoint(&last).unwrap();
        while let Some(found) = reader.next_entry().unwrap().map(|found| found[..8].to_vec()) {
            assert_eq!(found, read.to_le_bytes(), "none is missed, none comes twice");
            read += 1;
            self.taken.push((read, reader.checkpoint()));
        }
        self.taken.push((read, reader.checkpoint()));
    }
}

/// What a log and its consumer do, at random. Returns how many entries were appended.
fn live(log: &CommitLog, consumer: &mut Consumer, first: u64, random: &mut Random) -> u64 {
    let mut number = first;
    for _ in 0..60 {
        match random.below(12) {
            0 => drop(log.sync().unwrap()),
            1 => log.maintain().unwrap(),
            2 => {
                let all: Vec<_> = (number..number + 3).map(|n| entry(n, 300)).collect();
                let all: Vec<_> = all.iter().map(|entry| &entry[..]).collect();
                log.append_batch(&all).unwrap();
                number += 3;
            }
            3..=5 => consumer.read_on(log),
            _ => {
                log.append(&entry(number, random.below(4000) as usize)).unwrap();
                number += 1;
            }
        }
    }
    consumer.read_on(log);
    number
}

#[test]
fn a_consumer_goes_on_after_closes_and_deaths() {
    for round in 0..rounds(4) {
        let (disk, mut random) = (SimulatedDisk::new(), Random::new(round + 1));
        let mut log = options().open_simulated(&disk).unwrap();
        let (mut consumer, mut number) = (Consumer::start(&log), 0);
        for _ in 0..6 {
            number = live(&log, &mut consumer, number, &mut random);
            if random.below(2) == 0 {
                log.close().unwrap();
            } else {
                log.abort();
            }
            log = options().open_simulated(&disk).unwrap();
            for (read, checkpoint) in &consumer.taken {
                let found = next(&log, checkpoint).unwrap_or_else(|e| panic!("{checkpoint}: {e}"));
                assert_eq!(found, (*read < number).then_some(*read), "{checkpoint}");
            }
        }
    }
}

/// The heart of it: a power loss takes some of what was read. Whoever had read no more than what is left
/// goes on, and whoever had read more is told, also when more was appended since.
#[test]
fn a_consumer_is_told_of_what_it_has_read_and_is_lost() {
    let (mut fine, mut told) = (0, 0);
    for round in 0..rounds(12) {
        let (disk, mut random) = (SimulatedDisk::new(), Random::new(round + 100));
        let log = options().open_simulated(&disk).unwrap();
        let mut consumer = Consumer::start(&log);
        live(&log, &mut consumer, 0, &mut random);
        let image = match round % 3 {
            0 => disk.power_loss(|_, _| false),
            _ => disk.power_loss_at_random(round),
        };
        log.abort();
        let log = options().open_simulated(&image).unwrap();
        let kept = log.verify().unwrap().entries;
        for more in [0, 100] {
            (0..more).for_each(|n| assert!(log.append(&entry(kept + n, 200)).is_ok()));
            for (read, checkpoint) in &consumer.taken {
                match next(&log, checkpoint) {
                    Ok(found) => {
                        assert!(*read <= kept, "{checkpoint}: {read} were read, {kept} are left");
                        assert_eq!(found, (*read < kept + more).then_some(*read), "{checkpoint}");
                        fine += 1;
                    }
                    Err(CheckpointError::Lost { position, end }) => {
                        assert!(*read > kept, "{checkpoint}: {read} were read, {kept} are left");
                        assert!(end < position);
                        // That is where to go on.
                        let mut reader = log.reader_from(end);
                        let found = reader.next_entry().unwrap().map(|found| found[..8].to_vec());
                        assert_eq!(found, (more > 0).then(|| kept.to_le_bytes().to_vec()));
                        told += 1;
                    }
                    Err(other) => panic!("{checkpoint}: {other}"),
                }
            }
        }
    }
    assert!(fine > 100 && told > 100, "{fine} {told}");
}

/// Salvage, in place or as a repaired copy, keeps what is left where it was. A consumer that stands where
/// nothing is left is told, with the place to go on from; every other one goes on with the next entry that
/// is left.
#[test]
fn a_consumer_is_told_that_a_salvage_could_not_keep_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    let mut consumer = Consumer::start(&log);
    let at: Vec<_> = (0..60).map(|n| log.append(&entry(n, 1000)).unwrap()).collect();
    consumer.read_on(&log);
    log.close().unwrap();
    let last = at.last().unwrap().segment();
    assert!(last > 3);
    // One entry of a segment is damaged, a half is missing, and all of it.
    let flip = |file: &Path| change(file, |bytes| bytes[4224 + 100] ^= 1);
    let cut = |file: &Path| change(file, |bytes| bytes.truncate(UNIT as usize / 2));
    let remove = |file: &Path| std::fs::remove_file(file).unwrap();
    for (lost, damage) in [(1, &flip as &dyn Fn(&Path)), (8, &cut), (15, &remove)] {
        for id in [2, last] {
            let damaged = dir.path().join(format!("{lost} of {id}"));
            copy_dir(&path, &damaged, true);
            damage(&damaged.join(segment(id)));
            let repaired = dir.path().join(format!("{lost} of {id}, repaired"));
            assert!(!options().repair(&damaged, &repaired).unwrap().nothing_is_lost());
            let salvaged = options().recovery_mode(RecoveryMode::Salvage).open(&damaged).unwrap();
            for log in [salvaged, options().open(&repaired).unwrap()] {
                assert_eq!(count(&log), 60 - lost);
                goes_on_or_is_told(&log, &consumer, lost == 1);
                log.close().unwrap();
            }
        }
    }
}

/// With each checkpoint of a consumer that had read all of a log, of which a part is lost. What lies between
/// two that are left has kept its place.
fn goes_on_or_is_told(log: &CommitLog, consumer: &Consumer, keep_their_places: bool) {
    let number = |entry: &[u8]| u64::from_le_bytes(entry[..8].try_into().unwrap());
    let left: BTreeSet<_> = entries(log).iter().map(|entry| number(entry)).collect();
    for (read, checkpoint) in &consumer.taken {
        let first_left = left.range(read..).next().copied();
        let is_kept = *read == 0 || keep_their_places || left.contains(&(read - 1));
        match next(log, checkpoint) {
            Ok(found) => {
                assert!(is_kept, "{checkpoint}: what it stands behind is lost");
                assert_eq!(found, first_left, "{checkpoint}");
            }
            Err(CheckpointError::Lost { position, end }) => {
                assert!(!is_kept && end < position, "{checkpoint}: {end} to {position}");
                let mut reader = log.reader_from(end);
                let found = reader.next_entry().unwrap().map(|entry| number(&entry));
                assert_eq!(found, first_left, "{checkpoint}: that is where to go on");
            }
            Err(other) => panic!("{checkpoint}: {other}"),
        }
    }
}

#[test]
fn truncating_what_was_read_loses_nothing_and_what_was_not_is_an_error() {
    let disk = SimulatedDisk::new();
    let log = options().open_simulated(&disk).unwrap();
    let mut consumer = Consumer::start(&log);
    (0..60).for_each(|n| assert!(log.append(&entry(n, 1000)).is_ok()));
    log.append(&entry(60, 1000)).unwrap();
    consumer.read_on(&log);
    log.retain(Retention::new().bytes(0)).unwrap();
    let begin = log.begin();
    assert!(begin.segment() > 3);
    let (read, last) = *consumer.taken.last().unwrap();
    assert_eq!(next(&log, &last).unwrap(), None);
    for (had_read, checkpoint) in &consumer.taken[1..] {
        match next(&log, checkpoint) {
            Ok(found) => assert_eq!(found, (*had_read < read).then_some(*had_read)),
            Err(CheckpointError::Truncated { position, begin: now }) => {
                assert!(*had_read < read && position < begin && now == begin);
            }
            Err(other) => panic!("{checkpoint}: {other}"),
        }
    }
    assert!(matches!(next(&log, &consumer.taken[1].1), Err(CheckpointError::Truncated { .. })));
}

/// An empty log gets another segment each time that it is opened.
#[test]
fn who_has_read_all_of_an_empty_log_misses_nothing_of_it() {
    for (truncated, dies) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let open = || options().open(&path).unwrap();
        let end = |log: CommitLog| if dies { log.abort() } else { log.close().unwrap() };
        let mut log = open();
        if truncated {
            (0..60).for_each(|n| assert!(log.append(&entry(n, 1000)).is_ok()));
            log.close().unwrap();
            log = open();
            log.truncate_before(log.tail()).unwrap();
        }
        let follower = CommitLog::open_read_only(&path).unwrap();
        let mut reader = log.reader();
        assert!(reader.next_entry().unwrap().is_none());
        let checkpoint = reader.checkpoint();
        drop(reader);
        let go_on = |log: &CommitLog| {
            log.reader_from_checkpoint(&checkpoint).map(|mut reader| read(&mut reader))
        };
        for _ in 0..3 {
            end(log);
            let again = CommitLog::open_read_only(&path).unwrap();
            let found = [&follower, &again].map(|log| go_on(log).unwrap());
            assert_eq!(found, [None; 2], "truncated {truncated}, dies {dies}");
            log = open();
            let found = [&log, &follower, &again].map(|log| go_on(log).unwrap());
            assert_eq!(found, [None; 3], "truncated {truncated}, dies {dies}");
        }
        log.append(&entry(7, 0)).unwrap();
        let found = [&log, &follower].map(|log| go_on(log).unwrap());
        assert_eq!(found, [Some(7); 2], "truncated {truncated}, dies {dies}");
        log.close().unwrap();
        log = open();
        log.truncate_before(log.tail()).unwrap();
        let is_told =
            |log: &CommitLog| matches!(go_on(log), Err(CheckpointError::Truncated { .. }));
        assert!(is_told(&log) && is_told(&follower));
        end(log);
        assert!(is_told(&CommitLog::open_read_only(&path).unwrap()) && is_told(&follower));
        assert!(is_told(&open()) && is_told(&follower));
    }
}

#[test]
fn what_is_no_checkpoint_of_this_log_is_an_error() {
    let (one, other) = (CommitLog::in_memory(), CommitLog::in_memory());
    let first = one.append(&entry(7, 0)).unwrap();
    other.append(&entry(7, 0)).unwrap();
    let of_one = Checkpoint::new(one.id(), first);
    assert_eq!(next(&one, &of_one).unwrap(), Some(7));
    match next(&other, &of_one) {
        Err(error @ CheckpointError::OtherLog { checkpoint, log_id }) => {
            assert_eq!((checkpoint, log_id), (of_one, other.id()));
            let said =
                format!("{of_one} is a checkpoint of another log; this one is {:016x}", other.id());
            assert_eq!(error.to_string(), said);
        }
        other => panic!("{other:?}"),
    }
    let at = |position| next(&one, &Checkpoint::new(one.id(), position));
    let inside = LogPosition::from_u64(first.as_u64() + 8);
    assert!(
        matches!(at(inside), Err(CheckpointError::NoBoundary { position }) if position == inside)
    );
    let odd = LogPosition::from_u64(first.as_u64() + 1);
    assert!(matches!(at(odd), Err(CheckpointError::NoBoundary { position }) if position == odd));
    for beyond in [one.tail().as_u64() + 8, u64::MAX] {
        let beyond = LogPosition::from_u64(beyond);
        match at(beyond) {
            Err(CheckpointError::PastEnd { position, tail }) => {
                assert_eq!((position, tail), (beyond, one.tail()));
            }
            other => panic!("{beyond}: {other:?}"),
        }
    }
    assert_eq!(at(one.tail()).unwrap(), None);
    assert_eq!(at(LogPosition::START).unwrap(), Some(7));
    let end = one.tail();
    one.close().unwrap();
    assert!(matches!(at(end), Err(CheckpointError::Read(ReadError::Closed))));
}

#[test]
fn a_consumer_in_another_process_goes_on_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = options().open(&path).unwrap();
    let follower = options().open_read_only(&path).unwrap();
    let mut consumer = Consumer::start(&follower);
    let number = live(&log, &mut consumer, 0, &mut Random::new(3));
    consumer.read_on(&follower);
    for reader in [&log, &follower] {
        for (read, checkpoint) in &consumer.taken {
            assert_eq!(next(reader, checkpoint).unwrap(), (*read < number).then_some(*read));
        }
    }
    log.close().unwrap();
    let again = options().open_read_only(&path).unwrap();
    for (read, checkpoint) in &consumer.taken {
        assert_eq!(next(&again, checkpoint).unwrap(), (*read < number).then_some(*read));
    }
    assert!(path.join(segment(2)).exists());
}

/// A reader that looks for the next entry gets past sync marks, what was given up, and pads. None of them
/// was read: a power loss that takes them takes nothing from the consumer.
#[test]
fn what_is_no_entry_does_not_count_as_read() {
    for (given_up, entries) in [(0, 3), (1, 3), (2, 3), (0, 16), (1, 16), (2, 16)] {
        let disk = SimulatedDisk::new();
        let log = options().open_simulated(&disk).unwrap();
        (0..entries).for_each(|n| assert!(log.append(&entry(n, 1000)).is_ok()));
        log.sync().unwrap();
        for _ in 0..given_up {
            let dies = || log.append_with(100, |_| panic!("on purpose"));
            assert!(catch_unwind(AssertUnwindSafe(dies)).is_err());
        }
        let mut consumer = Consumer::start(&log);
        consumer.read_on(&log);
        let (read, last) = *consumer.taken.last().unwrap();
        assert_eq!((read, last.position()), (entries, log.tail()), "it is past all of them");
        let image = disk.power_loss(|_, _| false);
        log.abort();
        let log = options().open_simulated(&image).unwrap();
        assert!(log.begin() < last.position() && last.position() < log.tail());
        for (read, checkpoint) in &consumer.taken {
            assert_eq!(next(&log, checkpoint).unwrap(), (*read < entries).then_some(*read));
        }
    }
}
