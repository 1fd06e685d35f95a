//! Entries by time, and logs that drop what is old: the right segments go, all others stay, whatever
//! happens meanwhile.

mod common;

use common::files::copy_dir;
use common::{HANG, segment, small_log, until};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tailcask::{
    CommitLog, LogOptions, LogPosition, LogSegment, Maintenance, OpenError, ReadError,
    RecoveryMode, Retention, SimulatedDisk, Store, TruncateError,
};

const UNIT: u64 = 16 << 10;

/// A log whose clock a test sets, in seconds.
struct Timed {
    now: Arc<AtomicU64>,
    disk: SimulatedDisk,
}

impl Timed {
    fn new() -> Self {
        Self { now: Arc::new(AtomicU64::new(1_000_000)), disk: SimulatedDisk::new() }
    }

    fn options(&self) -> LogOptions {
        small_log(UNIT).clock(self.now.clone())
    }

    fn open(&self) -> CommitLog {
        self.options().open_simulated(&self.disk).unwrap()
    }

    /// With a log of segments that are sealed at 1000, 2000 and so on.
    fn filled_until(seconds: u64) -> (Self, CommitLog) {
        let timed = Self::new();
        let log = timed.open();
        for nth in 1..=seconds / 1000 {
            timed.fill(&log, nth * 1000);
        }
        (timed, log)
    }

    fn set(&self, seconds: u64) {
        self.now.store(seconds * 1000, Ordering::Relaxed);
    }

    /// Fills a segment at a time, and seals it.
    fn fill(&self, log: &CommitLog, seconds: u64) -> LogPosition {
        self.set(seconds);
        let first = log.append(&seconds.to_le_bytes()).unwrap();
        while log.append(&seconds.to_le_bytes().repeat(100)).unwrap().segment() == first.segment() {
        }
        log.maintain().unwrap();
        first
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn age(seconds: u64) -> Retention {
    Retention::new().age(Duration::from_secs(seconds))
}

/// Of a log's segments that hold something.
fn segments(log: &CommitLog) -> Vec<LogSegment> {
    let mut all = log.stats().segment_list;
    all.retain(|segment| segment.end > segment.begin);
    all
}

fn times(log: &CommitLog) -> Vec<Option<u64>> {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    segments(log).iter().map(|segment| segment.sealed_at.map(seconds)).collect()
}

fn begins(log: &CommitLog) -> Vec<LogPosition> {
    segments(log).iter().map(|segment| segment.begin).collect()
}

#[test]
fn entries_are_found_by_the_time_of_their_segments_seal() {
    let (_, log) = Timed::filled_until(5000);
    let begins = begins(&log);
    assert_eq!(begins.len(), 6, "five, and the one that was begun");
    let found = |seconds| log.position_at(at(seconds));
    // Everything in the first one was appended by 1000, so what came at 1000 may be there.
    for seconds in [0, 500, 1000] {
        assert_eq!(found(seconds), begins[0]);
    }
    assert_eq!(found(1001), begins[1]);
    assert_eq!(found(2000), begins[1]);
    assert_eq!(found(4500), begins[4]);
    for later in [5001, 9999] {
        assert_eq!(found(later), begins[5], "what is not sealed is of any time");
    }
    assert_eq!(log.position_at(UNIX_EPOCH - Duration::from_secs(9)), begins[0]);
    // It is a place to read from.
    let mut reader = log.reader_from(found(2500));
    assert_eq!(reader.next_entry().unwrap().unwrap()[..8], 2000u64.to_le_bytes()[..]);
}

/// Nothing that was appended at a time or later is before the position of that time.
#[test]
fn a_clock_that_is_set_back_hides_nothing() {
    let timed = Timed::new();
    let log = timed.open();
    for seconds in [1000, 5000, 2000, 6000] {
        timed.fill(&log, seconds);
    }
    let begins = begins(&log);
    assert_eq!(times(&log), [Some(1000), Some(5000), Some(2000), Some(6000), None]);
    assert_eq!(log.position_at(at(1500)), begins[1]);
    assert_eq!(log.position_at(at(3000)), begins[1], "that of 5000 has later entries");
    assert_eq!(log.position_at(at(5500)), begins[3]);
    timed.set(6000);
    assert_eq!(log.retain(age(3000)).unwrap().begin, begins[1]);
}

#[test]
fn times_outlast_a_close_a_death_and_a_power_loss() {
    let (timed, log) = Timed::filled_until(3000);
    log.sync().unwrap();
    timed.set(4000);
    let (died, lost) = (timed.disk.process_death(), timed.disk.power_loss(|_, _| false));
    log.close().unwrap();
    for (disk, last) in [(timed.disk.process_death(), 4000), (died, 9000), (lost, 9000)] {
        timed.set(9000);
        let log = timed.options().open_simulated(&disk).unwrap();
        let found = times(&log);
        assert_eq!(found.last(), Some(&Some(last)), "recovery seals, and does not know better");
        // A seal is durable no later than the next one: of the last one before a power loss there may
        // be nothing. Then it is sealed anew, later.
        let kept = [Some(1000), Some(2000), Some(3000)];
        let sound = found[..3].iter().zip(kept).all(|(at, was)| *at == was || *at == Some(9000));
        assert!(sound && found.is_sorted(), "{found:?}");
        log.close().unwrap();
        let log = timed.options().open_simulated(&disk).unwrap();
        assert_eq!(times(&log), found);
    }
}

#[test]
fn a_reader_in_another_process_sees_the_times() {
    let dir = tempfile::tempdir().unwrap();
    let (timed, path) = (Timed::new(), dir.path().join("log"));
    let log = timed.options().open(&path).unwrap();
    timed.fill(&log, 1000);
    let follower = timed.options().open_read_only(&path).unwrap();
    assert_eq!(times(&follower), [Some(1000), None]);
    timed.fill(&log, 2000);
    assert_eq!(times(&follower), [Some(1000), Some(2000), None], "what was sealed since");
    assert_eq!(follower.position_at(at(1500)), begins(&log)[1]);
    assert_eq!(follower.retained_from(age(500)).unwrap(), begins(&log)[1]);
    assert!(matches!(follower.retain(age(500)), Err(TruncateError::ReadOnly)));
    log.close().unwrap();
}

/// Segments that version 0.1.0 sealed have no time: they are older than the first one that has.
#[test]
fn segments_without_a_time_are_older_than_those_after_them() {
    let dir = tempfile::tempdir().unwrap();
    let (timed, path) = (Timed::new(), dir.path().join("log"));
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1/log-closed");
    copy_dir(&fixture, &path, true);
    let options = timed.options().segment_unit(2 << 20).segment_size(2 << 20);
    let options = options.initial_segment_size(2 << 20);
    let log = options.open(&path).unwrap();
    let old = segments(&log).len();
    assert!(old > 0 && times(&log).iter().all(Option::is_none));
    let begin = log.begin();
    timed.set(9000);
    for seconds in [0, 1000, 9000, 99_999] {
        assert_eq!(log.position_at(at(seconds)), begin, "they may be of any time");
    }
    assert_eq!(log.retain(age(1)).unwrap().segments, 0);
    timed.fill(&log, 10_000);
    assert_eq!(log.position_at(at(9999)), begin);
    let next = begins(&log)[old + 1];
    assert_eq!(log.position_at(at(10_001)), next);
    timed.set(20_000);
    let dropped = log.retain(age(5000)).unwrap();
    assert_eq!((dropped.segments as usize, dropped.begin), (old + 1, next));
    log.close().unwrap();
}

#[test]
fn what_is_too_old_goes_and_nothing_else() {
    let (timed, log) = Timed::filled_until(5000);
    let begins = begins(&log);
    timed.set(6000);
    assert_eq!(log.retained_from(age(5000)).unwrap(), begins[0], "1000 is not before 1000");
    assert_eq!(log.retain(age(5000)).unwrap().segments, 0);
    assert_eq!(log.retained_from(age(4999)).unwrap(), begins[1]);
    let dropped = log.retain(age(2500)).unwrap();
    assert_eq!((dropped.begin, dropped.segments, dropped.bytes), (begins[3], 3, 3 * UNIT));
    assert_eq!(log.begin(), begins[3]);
    let stats = log.stats();
    assert_eq!((stats.segments_truncated, stats.begin), (3, begins[3]));
    for gone in 1..=3 {
        assert!(timed.disk.read(&segment(gone)).is_none());
    }
    // Whatever its age: what is being written to stays.
    timed.set(99_999);
    assert_eq!(log.retain(age(0)).unwrap().begin, begins[5]);
    assert_eq!(log.retain(age(0)).unwrap().segments, 0);
    assert_eq!(log.retain(Retention::new()).unwrap().segments, 0);
    assert!(log.reader().next_entry().unwrap().is_some());
}

#[test]
fn at_least_the_newest_bytes_stay() {
    let (timed, log) = Timed::filled_until(5000);
    let all = segments(&log);
    let held = |from: usize| -> u64 {
        let of = |segment: &LogSegment| u64::from(segment.end.offset() - segment.begin.offset());
        all[from..].iter().map(of).sum()
    };
    for keep in [0, 1, held(5), held(5) + 1, held(3), held(3) + 1, held(1), held(0), u64::MAX] {
        let from = log.retained_from(Retention::new().bytes(keep)).unwrap();
        let nth = all.iter().position(|segment| segment.begin == from);
        let behind = nth.map_or(0, held);
        assert!(behind >= keep.min(held(0)), "{keep}: {behind}");
        // Without its first segment it would be less.
        assert!(nth.is_none_or(|nth| keep > held(nth + 1)), "{keep}: {behind}");
    }
    let both = Retention::new().bytes(held(2)).age(Duration::from_secs(1));
    timed.set(3500);
    let dropped = log.retain(both).unwrap();
    assert_eq!(dropped.begin, all[2].begin.max(log.position_at(at(3499))), "either is enough");
    let dropped = log.retain(Retention::new().bytes(1)).unwrap();
    assert_eq!(dropped.begin, all[5].begin);
}

fn append_large(log: &CommitLog) {
    for _ in 0..4 {
        log.append(&[1; UNIT as usize]).unwrap();
    }
}

/// Until then it may be a pad for the most part, as before an entry that got a segment of its own.
#[test]
fn what_is_not_sealed_does_not_count_as_kept() {
    let timed = Timed::new();
    let options = timed.options().retention(Retention::new().bytes(6 * UNIT));
    let log = options.open_simulated(&timed.disk).unwrap();
    timed.fill(&log, 1000);
    let ((begun, begins), (finish, finished)) = (channel(), channel::<()>());
    std::thread::scope(|scope| {
        let log = &log;
        let wait = move |_: &mut [u8]| {
            begun.send(()).unwrap();
            let _ = finished.recv();
        };
        scope.spawn(move || log.append_with(8, wait));
        begins.recv().unwrap();
        // Five units with what was there before, in segments of ten.
        append_large(log);
        log.maintain().unwrap();
        assert_eq!(log.begin().segment(), 1, "{:?}", segments(log));
        drop(finish);
    });
    append_large(&log);
    log.maintain().unwrap();
    assert!(log.begin().segment() > 1);
}

#[test]
fn readers_that_are_overtaken_are_told_and_others_go_on() {
    let (timed, log) = Timed::filled_until(3000);
    let checkpoint = log.begin();
    let mut inside = log.reader();
    inside.next_entry().unwrap();
    timed.set(9000);
    log.retain(age(1)).unwrap();
    let begin = log.begin();
    let late = log.reader_from(checkpoint).next_entry().map(|entry| entry.is_some());
    match late {
        Err(ReadError::Truncated { position, begin: now }) => {
            assert_eq!((position, now), (checkpoint, begin));
        }
        other => panic!("{other:?}"),
    }
    // It has its segment mapped, and finishes it.
    let mut read = 0;
    let end = loop {
        match inside.next_entry() {
            Ok(Some(entry)) => read += usize::from(entry.position().segment() == 1),
            other => break other.map(drop),
        }
    };
    assert!(read > 10 && matches!(end, Err(ReadError::Truncated { .. })), "{read} {end:?}");
}

#[test]
fn a_policy_is_applied_by_maintenance() {
    let timed = Timed::new();
    let policy = Retention::new().age(Duration::from_secs(1500));
    let log = timed.options().retention(policy).open_simulated(&timed.disk).unwrap();
    let firsts: Vec<_> = (1..=4).map(|n| timed.fill(&log, n * 1000)).collect();
    // At 4000, what was sealed by 2500 is gone.
    assert_eq!(log.begin().segment(), firsts[2].segment());
    assert_eq!(log.stats().segments_truncated, 2);
    timed.set(9000);
    log.maintain().unwrap();
    assert_eq!(log.begin().segment(), firsts[3].segment() + 1);
}

#[test]
fn a_policy_is_applied_in_the_background() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Retention::new().bytes(UNIT);
    let options = small_log(UNIT).maintenance(Maintenance::Background).retention(policy);
    let log = options.open(dir.path().join("log")).unwrap();
    let mut last = LogPosition::START;
    for n in 0..200u64 {
        last = log.append(&n.to_le_bytes().repeat(100)).unwrap();
    }
    assert!(last.segment() > 5);
    // The full ones are sealed, and go, without being asked to.
    until("the oldest segments are dropped", || log.begin().segment() + 3 >= last.segment());
    assert!(log.begin().segment() < last.segment());
    let mut reader = log.reader_from(last);
    assert_eq!(reader.wait_entry(HANG).unwrap().unwrap()[..8], 199u64.to_le_bytes()[..]);
}

#[test]
fn nothing_of_a_store_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    store.put("key", "value").unwrap();
    for refused in [
        store.log().retain(age(0)).map(drop),
        store.log().retained_from(age(0)).map(drop),
        store.log().truncate_before(store.log().tail()).map(drop),
    ] {
        assert!(matches!(refused, Err(TruncateError::Store)), "{refused:?}");
    }
    assert!(store.log().stats().segment_list[0].end > LogPosition::START);
    store.close().unwrap();
    let options = CommitLog::options().retention(age(0));
    assert!(matches!(options.open(&path), Err(OpenError::HoldsStore)));
    assert!(matches!(options.on_store(true).open(&path), Err(OpenError::StoreRetention)));
    let log = CommitLog::options().on_store(true).open(&path).unwrap();
    assert!(matches!(log.retain(age(0)), Err(TruncateError::Store)));
    assert!(matches!(
        CommitLog::open_read_only(&path).unwrap().retained_from(age(0)),
        Err(TruncateError::Store)
    ));
    log.close().unwrap();
    assert_eq!(&*Store::open(&path).unwrap().get("key").unwrap().unwrap(), b"value");
}

/// Salvage replaces a damaged segment: that makes what is in it no younger.
#[test]
fn a_segment_that_salvage_replaced_keeps_its_time() {
    let (timed, log) = Timed::filled_until(3000);
    log.close().unwrap();
    assert!(timed.disk.flip(&segment(2), 1000, 1));
    timed.set(9000);
    let salvage = timed.options().recovery_mode(RecoveryMode::Salvage);
    let log = salvage.open_simulated(&timed.disk).unwrap();
    assert_eq!(log.recovery().lost.len(), 1);
    assert_eq!(times(&log)[..3], [Some(1000), Some(2000), Some(3000)]);
}

/// At each step of dropping segments the power may fail: what was kept is there, and what was dropped is
/// there or not, and no damage.
#[test]
fn power_loss_at_any_step_of_dropping() {
    for way in 0..6u64 {
        let (timed, log) = Timed::filled_until(5000);
        log.sync().unwrap();
        let (kept, end) = (begins(&log)[3], log.committed());
        let images = Arc::new(Mutex::new(Vec::new()));
        let taken = images.clone();
        timed.disk.on_operation(move |disk, operation, name| {
            let image = match way {
                0 => disk.power_loss(|_, _| false),
                1 => disk.power_loss(|_, _| true),
                2 => disk.process_death(),
                seed => disk.power_loss_at_random(seed),
            };
            taken.lock().unwrap().push((format!("{operation:?} {name}"), image));
            Ok(())
        });
        timed.set(6000);
        assert_eq!(log.retain(age(2500)).unwrap().begin, kept);
        timed.disk.on_operation(|_, _, _| Ok(()));
        let after = ("the end".to_owned(), timed.disk.power_loss(|_, _| false));
        log.abort();
        let images = std::mem::take(&mut *images.lock().unwrap());
        assert!(images.len() >= 5, "the MANIFEST, three files, the directory");
        for (before, image) in images.into_iter().chain([after]) {
            let is_end = before == "the end";
            let what = format!("{way}, before {before}");
            for again in [false, true] {
                let log = timed.options().open_simulated(&image);
                let log = log.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(log.begin() <= kept, "{what}: {}", log.begin());
                assert!(!is_end || log.begin() == kept, "it was acknowledged");
                assert!(log.recovery().lost.is_empty() && log.recovery().set_aside.is_empty());
                let mut reader = log.reader_from(kept);
                let mut seen = Vec::new();
                while let Some(entry) = reader.next_entry().unwrap() {
                    if entry.position() < end {
                        seen.push(u64::from_le_bytes(entry[..8].try_into().unwrap()));
                    }
                }
                drop(reader);
                assert!(seen.is_sorted(), "{what}");
                seen.dedup();
                assert_eq!(seen, [3000, 4000, 5000], "{what}, {again}");
                log.verify().unwrap_or_else(|error| panic!("{what}: {error}"));
                if again { log.close().unwrap() } else { log.abort() }
            }
        }
    }
}
