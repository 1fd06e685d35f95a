//! Which moments of children are kept, and at which the children are killed: at system calls, and here and
//! there between two instructions of a step that has begun. More of them while something is opened, closed
//! or repaired, or merged without any space, which is short, and right behind that.

use super::common::Random;
use super::reports;
use crash_kit::{Moment, Next};

/// Of those moments of an opening, a closing or a repair.
const MOST: u64 = 5;

/// What a child is doing, by its last report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It opens, closes or repairs, or has no space.
    Short,
    /// It has just done so.
    Behind,
    /// A writer has begun a step.
    Begun,
    Other,
}

impl Phase {
    fn of(reports: &[Vec<u8>]) -> Self {
        let is = |kind| reports::is_last(reports, kind);
        if is("opening") || is("closing") || is("repairing") || is("full 0") {
            Self::Short
        } else if is("closed") || is("repaired") || is("later 1") || is("full 1") {
            Self::Behind
        } else if is("begun") {
            Self::Begun
        } else {
            Self::Other
        }
    }
}

/// When a child is killed.
#[derive(Clone, Copy, Debug)]
enum End {
    /// At this moment of it, if it does not end before.
    At(u64),
    /// While it opens something, at the entry of one of the syncs.
    AtASync,
    Never,
}

impl End {
    fn of_an_opening(random: &mut Random) -> Self {
        match random.below(4) {
            0 => Self::At(random.below(100)),
            _ => Self::AtASync,
        }
    }
}

#[derive(Debug)]
struct Moments {
    random: Random,
    ends: Vec<End>,
    program: usize,
    /// The number of its first moment.
    began: u64,
    /// How many reports there were at the last moment, and how many moments were kept since the last one.
    reports: usize,
    kept_since: u64,
    /// How many were kept in no phase of these.
    kept: u64,
    most: u64,
    walks: u64,
}

impl Moments {
    fn next(&mut self, moment: &Moment<'_>) -> Next {
        if moment.program != self.program {
            (self.program, self.began) = (moment.program, moment.number);
        }
        if moment.reports.len() != self.reports {
            (self.reports, self.kept_since) = (moment.reports.len(), 0);
        }
        let phase = Phase::of(moment.reports);
        if self.ends_at(moment, phase) {
            return Next::Kill;
        }
        if moment.is_step {
            return match self.random.below(8) {
                0 if self.program == 0 => Next::Kill,
                1..4 => self.walk(),
                _ => Next::Keep,
            };
        }
        if phase == Phase::Begun && self.walks < 3 && self.random.below(30) == 0 {
            self.walks += 1;
            return self.walk();
        }
        let matters = moment.is_change_of_names || moment.is_sync && moment.is_entry;
        let (most, one_in) = match phase {
            Phase::Short => (MOST, if matters { 4 } else { 16 }),
            // Where it is closed, nothing more may come.
            Phase::Behind => (1, 1),
            _ if moment.is_sync || moment.is_change_of_names => (self.most, 24),
            _ => (self.most, 100),
        };
        let is_short = matches!(phase, Phase::Short | Phase::Behind);
        let kept = if is_short { &mut self.kept_since } else { &mut self.kept };
        if *kept < most && self.random.below(one_in) == 0 {
            *kept += 1;
            return Next::Keep;
        }
        Next::Go
    }

    fn ends_at(&mut self, moment: &Moment<'_>, phase: Phase) -> bool {
        match self.ends.get(self.program) {
            Some(End::At(number)) => moment.number - self.began == *number,
            Some(End::AtASync) => {
                let is_one = phase == Phase::Short && moment.is_sync && moment.is_entry;
                is_one && self.random.below(8) == 0
            }
            Some(End::Never) | None => false,
        }
    }

    fn walk(&mut self) -> Next {
        let most = 1 << self.random.below(13);
        Next::Step(1 + self.random.below(most) as u32)
    }
}

fn moments(mut random: Random, ends: Vec<End>, most: u64) -> impl FnMut(&Moment<'_>) -> Next {
    let (program, began, reports, kept_since, kept, walks) = (0, 0, 0, 0, 0, 0);
    let random = Random::new(random.next());
    let mut this = Moments { random, ends, program, began, reports, kept_since, kept, most, walks };
    move |moment| this.next(moment)
}

/// Of a child that works, one that goes on and may be killed at that, and one that goes on to its end.
pub(crate) fn of_work(seed: u64) -> impl FnMut(&Moment<'_>) -> Next {
    let mut random = Random::new(seed ^ 0x6d6f_6d65_6e74);
    // Most come to their end before the last of these.
    let first = End::At(random.below(4000));
    let ends = vec![first, End::of_an_opening(&mut random), End::Never];
    moments(random, ends, 12)
}

/// Of two that go on after a power loss.
pub(crate) fn of_recoveries(seed: u64) -> impl FnMut(&Moment<'_>) -> Next {
    let mut random = Random::new(seed ^ 0x0072_6563_6f76_6572);
    let ends = vec![End::of_an_opening(&mut random), End::Never];
    moments(random, ends, 2)
}
