//! Recovery: decide everything, say durably where the log ends, then repair segment by segment.

use crate::log::{Flaw, Log, LogSpec, Phase, Place, Segment, Word};
use crate::page::Page;

/// What a scan of a segment without a seal finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    pub end: u16,
    /// The words that close holes and void dead claims.
    pub repairs: Vec<(u16, Word)>,
    pub stop: Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The segment is full.
    Full,
    /// Only zeros from here on.
    Blank,
    /// What a power loss leaves.
    Torn,
    /// Nothing that a crash explains.
    Damaged,
}

impl LogSpec {
    /// The table of docs/durability.md.
    #[must_use]
    pub fn scan(&self, segment: &Segment, boot: u8) -> Scan {
        let same_boot = segment.boot == boot;
        let mut scan = Scan { end: 0, repairs: Vec::new(), stop: Stop::Full };
        while scan.end < self.capacity {
            let at = scan.end;
            let whole =
                |entry, len| self.has(Flaw::TrustsCommitWords) || segment.is_whole(at, entry, len);
            let len = match segment.word(at) {
                Word::Committed { entry, len } if whole(entry, len) => len,
                Word::Mark { len, .. } if whole(0, len) => len,
                Word::Void { len } | Word::Pad { len } => len,
                Word::Claimed { len } if same_boot && !self.has(Flaw::EndsAtAClaimAfterADeath) => {
                    scan.repairs.push((at, Word::Void { len }));
                    len
                }
                Word::Zero => {
                    let next = (at..self.capacity).find(|&next| segment.word(next) != Word::Zero);
                    let steps_over = if same_boot {
                        !self.has(Flaw::EndsAtAHoleAfterADeath)
                    } else {
                        self.has(Flaw::StepsOverHolesAfterAPowerLoss)
                    };
                    let Some(next) = next.filter(|_| steps_over) else {
                        scan.stop = if next.is_some() { Stop::Torn } else { Stop::Blank };
                        return scan;
                    };
                    scan.repairs.push((at, Word::Pad { len: next - at }));
                    next - at
                }
                _ => {
                    let flawed = self.has(Flaw::EndsAtAClaimAfterADeath);
                    scan.stop = if same_boot && !flawed { Stop::Damaged } else { Stop::Torn };
                    return scan;
                }
            };
            scan.end += len;
        }
        scan
    }

    /// Whether anything behind a place says that the log was durable beyond it.
    fn was_durable(&self, log: &Log, place: Place) -> bool {
        log.segments[usize::from(place.0)..].iter().any(|segment| {
            let from = if segment.number == place.0 { place.1 } else { 0 };
            let mark = |at| match segment.word(at) {
                Word::Mark { durable, len } => durable > place && segment.is_whole(at, 0, len),
                _ => false,
            };
            segment.number > place.0 && segment.seal.now().is_some()
                || (from..self.capacity).any(mark)
        })
    }

    /// Where the log ends, segment by segment. What is behind that is cut off, which the MANIFEST says
    /// durably before anything else is changed.
    pub(crate) fn decide(&self, log: &mut Log) {
        log.phase = Phase::Repairing(false);
        for number in 0..log.segments.len() {
            let segment = &log.segments[number];
            if usize::from(segment.number) != number {
                // One is missing that this one names.
                log.phase = Phase::Refused;
                return;
            }
            if segment.seal.now().is_some() {
                continue;
            }
            let scan = self.scan(segment, log.boot);
            let ends = match scan.stop {
                Stop::Full => false,
                Stop::Blank => segment.boot != log.boot,
                Stop::Torn => true,
                Stop::Damaged => {
                    log.phase = Phase::Refused;
                    return;
                }
            };
            if ends && self.was_durable(log, (number as u8, scan.end)) {
                log.phase = Phase::Refused;
                return;
            }
            if ends && !self.has(Flaw::KeepsSegmentsBehindTheEnd) {
                log.segments.truncate(number + 1);
                break;
            }
        }
        // Those at the end that nothing was written to go, too.
        let unused = |s: &Segment| {
            let scan = self.scan(s, log.boot);
            s.seal.now().is_none() && scan.end == 0
        };
        let used = log.segments.iter().rposition(|s| !unused(s)).map_or(0, |last| last + 1);
        log.segments.truncate(used);
    }

    /// In memory: closes holes, voids dead claims, clears what is behind the end.
    pub(crate) fn repair(&self, log: &mut Log) -> Option<()> {
        let boot = log.boot;
        let segment = log.segments.iter_mut().find(|segment| segment.seal.now().is_none())?;
        let scan = self.scan(segment, boot);
        for (at, word) in scan.repairs {
            if let Word::Void { len } = word {
                clear(&mut segment.words[usize::from(at + 1)..usize::from(at + len)]);
            }
            segment.words[usize::from(at)].write(word);
        }
        if !self.has(Flaw::GoesOnInTheRecoveredSegment) {
            clear(&mut segment.words[usize::from(scan.end)..]);
        }
        log.phase = Phase::Repairing(true);
        Some(())
    }

    /// Syncs and seals it. Nothing is ever appended to it.
    pub(crate) fn seal_repaired(&self, log: &mut Log) -> Option<()> {
        let boot = log.boot;
        let segment = log.segments.iter_mut().find(|segment| segment.seal.now().is_none())?;
        let end = self.scan(segment, boot).end;
        if !self.has(Flaw::RecoveryDoesNotSync) {
            segment.words.iter_mut().for_each(Page::sync);
        }
        segment.seal.write(Some(end));
        if !self.has(Flaw::SealsOfRecoveryAreNotSynced) {
            segment.seal.sync();
        }
        log.phase = Phase::Repairing(false);
        Some(())
    }

    /// The log is open again, in a new segment.
    pub(crate) fn go_on(&self, log: &mut Log) -> Option<()> {
        log.segments.iter().all(|segment| segment.seal.now().is_some()).then_some(())?;
        if log.power_lost {
            let found = log.found();
            let lost = log.returned & !found;
            let from = lost.trailing_zeros();
            log.hole |= lost != 0 && found >> from != 0;
            log.dropped |= lost;
            log.returned = found;
        }
        (log.phase, log.power_lost) = (Phase::Running, false);
        let number = log.segments.len() as u8;
        let flawed = self.has(Flaw::GoesOnInTheRecoveredSegment);
        if let Some(last) = log.segments.last_mut().filter(|_| flawed) {
            let end = last.seal.now()?;
            (last.seal, last.boot) = (Page::durable(None), log.boot);
            (log.watermark, log.tail) = ((number - 1, end), end);
            return Some(());
        }
        log.segments.push(Segment::new(self, number, log.boot, Page::durable(true)));
        (log.watermark, log.tail) = ((number, 0), 0);
        Some(())
    }
}

fn clear(words: &mut [Page<Word>]) {
    words.iter_mut().for_each(|word| word.write(Word::Zero));
}
