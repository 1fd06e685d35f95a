//! What a child says that it does: a record of 32 bytes before each operation, in a file in memory, and the
//! outcome in the same record. What a killed process has written to a file is there, so its parent
//! knows what was acknowledged, and what had begun and may or may not be there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const LEN: u64 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum What {
    /// A key gets a version.
    Put = 1,
    Delete,
    /// All keys of a group do, in one batch.
    PutGroup,
    DeleteGroup,
    /// A key gets a version that expires at `aux` milliseconds, or as much later as the write took.
    PutExpiring,
    /// A counter is counted up; once that is done, `version` is what it has become.
    Count,
    /// `version` entries are appended, of which the first is the `key`th; they begin at `aux`, if that was told.
    Append,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Outcome {
    /// It has begun, and no more is known.
    Open,
    Done,
    /// There was no space, so nothing has changed.
    NoSpace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) what: What,
    pub(crate) outcome: Outcome,
    pub(crate) milliseconds: u32,
    pub(crate) key: u64,
    pub(crate) version: u64,
    pub(crate) aux: u64,
}

impl Record {
    pub(crate) const fn new(what: What, key: u64, version: u64) -> Self {
        Self { what, outcome: Outcome::Open, milliseconds: 0, key, version, aux: 0 }
    }

    fn encode(self) -> [u8; LEN as usize] {
        let first =
            self.what as u64 | (self.outcome as u64) << 8 | u64::from(self.milliseconds) << 32;
        let mut bytes = [0; LEN as usize];
        for (place, word) in bytes.chunks_mut(8).zip([first, self.key, self.version, self.aux]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let word = |nth: usize| u64::from_le_bytes(bytes[nth * 8..][..8].try_into().unwrap());
        let all = [
            What::Put,
            What::Delete,
            What::PutGroup,
            What::DeleteGroup,
            What::PutExpiring,
            What::Count,
            What::Append,
        ];
        let what = all.into_iter().find(|what| *what as u64 == word(0) & 255).unwrap();
        let outcome = match word(0) >> 8 & 255 {
            0 => Outcome::Open,
            1 => Outcome::Done,
            _ => Outcome::NoSpace,
        };
        let milliseconds = (word(0) >> 32) as u32;
        Self { what, outcome, milliseconds, key: word(1), version: word(2), aux: word(3) }
    }
}

/// Milliseconds by the wall clock, by which values expire.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// What one thread does, one after the other.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Journal {
    pub(crate) fn create(path: &Path) -> Self {
        let file = File::create_new(path).unwrap();
        Self { file, begun: AtomicU64::new(0), ended: AtomicU64::new(0) }
    }

    /// Says that an operation begins, and then how it has ended, as `run` tells it.
    pub(crate) fn record<R>(
        &self,
        mut record: Record,
        run: impl FnOnce(&mut Record) -> (Outcome, R),
    ) -> R {
        let at = self.begun.load(SeqCst);
        self.file.write_all_at(&record.encode(), at * LEN).unwrap();
        self.begun.store(at + 1, SeqCst);
        let started = Instant::now();
        let (outcome, result) = run(&mut record);
        record.outcome = outcome;
        record.milliseconds = started.elapsed().as_millis() as u32;
        self.file.write_all_at(&record.encode(), at * LEN).unwrap();
        self.ended.store(at + 1, SeqCst);
        result
    }

    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(SeqCst)
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(SeqCst)
    }

    /// What is in a file. None is there if the child did not come so far.
    pub(crate) fn read(path: &Path) -> Vec<Record> {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.chunks_exact(LEN as usize).map(Record::decode).collect()
    }
}

/// How many of some records had ended, and how many had begun.
pub(crate) fn counts(records: &[Record]) -> (usize, usize) {
    let open = records.iter().filter(|record| record.outcome == Outcome::Open).count();
    assert!(open <= 1, "one after the other");
    (records.len() - open, records.len())
}

#[test]
fn a_journal_says_what_has_begun_and_what_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let journal = Journal::create(&path);
    let mut put = Record::new(What::Put, 5, 6);
    journal.record(put, |record| {
        assert_eq!(Journal::read(&path), [put]);
        assert_eq!((journal.begun(), journal.ended()), (1, 0));
        record.version = 7;
        (Outcome::Done, ())
    });
    (put.version, put.outcome) = (7, Outcome::Done);
    let read = Journal::read(&path);
    put.milliseconds = read[0].milliseconds;
    assert_eq!((read, counts(&[put]), journal.ended()), (vec![put], (1, 1), 1));
}
