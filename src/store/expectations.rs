//! What a batch expects: conditions on keys, decided in one step with its writes.
//!
//! Each expectation is judged twice. Before the batch locks anything, the key's record is read and compared:
//! so large values are compared, and pages waited for, while nothing is locked, and a batch that fails there
//! takes no space. Under the locks of all shards of the batch the slot is compared with the position that
//! was read. A position is never used twice and frames do not change, so if it is the same, so is the
//! verdict, but for the time: whether the values have expired is asked once more, for one moment. If it is
//! another position, the key was written or moved a moment ago, and its frame is in memory: it is judged
//! again, there and then.

use super::found::FoundRecord;
use super::view::StoreView;
use crate::error::{Conflict, WriteError};
use crate::position::LogPosition;

/// What a [`Batch`](super::Batch) may expect of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expected<'v> {
    /// It has no value.
    Absent,
    /// It has a value.
    Present,
    /// It has this value.
    Value(&'v [u8]),
    /// Its value is the one that was written at this position, as the write has returned it, or
    /// [`Value::written_at`](super::Value::written_at) has told: nobody has written to the key since, also
    /// not the same value. (Of a put in a batch,
    /// [`Store::write_positions`](super::Store::write_positions) returns it; what `write` returns is the
    /// position of the batch. The [position of the frame](super::Value::position) is as good, until a merge
    /// moves it.)
    Position(LogPosition),
}

/// An expectation, in a batch.
#[derive(Clone, Debug)]
pub(super) struct Expectation {
    pub(super) key: Box<[u8]>,
    is: Is,
}

#[derive(Clone, Debug)]
enum Is {
    Absent,
    Present,
    Value(Box<[u8]>),
    At(LogPosition),
}

impl Expectation {
    pub(super) fn new(key: &[u8], expected: Expected<'_>) -> Self {
        let is = match expected {
            Expected::Absent => Is::Absent,
            Expected::Present => Is::Present,
            Expected::Value(value) => Is::Value(value.into()),
            Expected::Position(position) => Is::At(position),
        };
        Self { key: key.into(), is }
    }

    /// Compares a key's newest record with what is expected.
    fn judge(&self, found: &FoundRecord<'_>) -> Judged {
        let (at, origin) = (found.position(), found.origin());
        let fits = match &self.is {
            Is::Absent => false,
            Is::Present => true,
            Is::Value(value) => found.value() == &**value,
            Is::At(position) => *position == at || *position == origin,
        };
        Judged { at, origin, expiry: found.record().expiry(), fits }
    }
}

/// A record that was compared with what is expected.
struct Judged {
    at: LogPosition,
    /// Where it was first written.
    origin: LogPosition,
    expiry: Option<u64>,
    /// Whether it is as expected, as long as it has not expired.
    fits: bool,
}

/// For each expectation of a batch, what was found before anything was locked.
pub(super) struct Judgement {
    all: Vec<Option<Judged>>,
}

impl StoreView {
    /// Judges the expectations of a batch without a lock. One that does not hold is an error.
    pub(super) fn judge(&self, expectations: &[Expectation]) -> Result<Judgement, WriteError> {
        let mut all = Vec::with_capacity(expectations.len());
        for (index, expectation) in expectations.iter().enumerate() {
            let slot = self.slot(self.keydir.tag(&expectation.key), &expectation.key);
            let judged = match slot.map_err(|found| self.error(found))? {
                None => None,
                Some((at, pin)) => {
                    Some(expectation.judge(&FoundRecord::read(pin, at, self.verify)?))
                }
            };
            self.hold(index, expectation, judged.as_ref(), self.clock.now())?;
            all.push(judged);
        }
        Ok(Judgement { all })
    }

    /// Judges them under the locks of their shards, for one moment: `slots` are the positions that the keys
    /// have then.
    pub(super) fn judge_locked(
        &self,
        expectations: &[Expectation],
        before: &Judgement,
        slots: &[Option<LogPosition>],
        now: u64,
    ) -> Result<(), WriteError> {
        let all = expectations.iter().zip(&before.all).zip(slots);
        for (index, ((expectation, before), &slot)) in all.enumerate() {
            let again;
            let judged = match slot {
                None => None,
                Some(at) if before.as_ref().is_some_and(|before| before.at == at) => {
                    before.as_ref()
                }
                Some(at) => {
                    again = expectation.judge(&self.read(at)?);
                    Some(&again)
                }
            };
            self.hold(index, expectation, judged, now)?;
        }
        Ok(())
    }

    /// An error if an expectation does not hold of a record at a moment.
    fn hold(
        &self,
        index: usize,
        expectation: &Expectation,
        judged: Option<&Judged>,
        now: u64,
    ) -> Result<(), WriteError> {
        let is_live = |judged: &&Judged| judged.expiry.is_none_or(|expiry| now < expiry);
        let live = judged.filter(is_live);
        let holds = match &expectation.is {
            Is::Absent => live.is_none(),
            _ => live.is_some_and(|live| live.fits),
        };
        if holds {
            return Ok(());
        }
        let found = live.map(|live| live.origin);
        // Unless the store was closed meanwhile: then nothing is found in it.
        self.nothing::<()>()?;
        Err(Conflict { index, key: expectation.key.to_vec(), found }.into())
    }
}
