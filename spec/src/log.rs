//! The log: append, roll, sync, death and power loss.

use crate::page::Page;
use stateright::{Model, Property};

/// A place in the log: the number of its segment, and a word there.
pub type Place = (u8, u16);

/// A set of entries. Entries are numbered from 1, in the order in which they are reserved.
pub type Entries = u128;

/// A word of a segment. The first word of a frame says what the frame is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Word {
    #[default]
    Zero,
    Claimed {
        len: u16,
    },
    /// An entry; or a batch, which is a frame around frames.
    Committed {
        entry: u16,
        len: u16,
    },
    /// Any other word of an entry; of a sync mark, if the entry is 0.
    Body {
        entry: u16,
    },
    Void {
        len: u16,
    },
    Pad {
        len: u16,
    },
    /// A sync mark: everything before this place is durable.
    Mark {
        durable: Place,
        len: u16,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    pub number: u8,
    /// Which start of the machine it was made in.
    pub boot: u8,
    pub named: Page<bool>,
    pub words: Vec<Page<Word>>,
    /// Where it ends.
    pub seal: Page<Option<u16>>,
}

/// What a writer is doing. It may stop anywhere: then the process dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Writer {
    #[default]
    Idle,
    /// It has reserved a range, and done this many of its three stores.
    Appends { at: Place, entry: u16, len: u16, stores: u8 },
    /// Its append did not fit: it owns the rest of the segment.
    Pads { at: Place, len: u16 },
}

/// The stores of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    Claim,
    Fill,
    Commit,
}

/// The one who syncs: everything up to a place, segment by segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    pub upto: Place,
    pub segment: u8,
    pub synced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Running,
    Dead,
    /// Recovery has decided; the first segment without a seal is next. Whether its repair is written.
    Repairing(bool),
    /// Recovery has called it corrupt.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log {
    pub phase: Phase,
    pub segments: Vec<Segment>,
    /// The next segment: whether its name is durable.
    pub standby: Option<bool>,
    /// How much of the last segment is reserved.
    pub tail: u16,
    pub writers: Vec<Writer>,
    pub leader: Option<Leader>,
    /// Everything before it is durable, as callers are told.
    pub watermark: Place,
    pub boot: u8,
    /// Power was lost since the log was last open.
    pub power_lost: bool,
    /// How much has happened, for the limits.
    pub entries: u16,
    pub syncs: u8,
    pub crashes: u8,
    // What callers were told, and what became of it.
    /// Appends that have returned, without those that a power loss was allowed to take.
    pub returned: Entries,
    /// What was told to be durable.
    pub promised: Entries,
    /// What a power loss took.
    pub dropped: Entries,
    /// A power loss took an entry and left a later one.
    pub hole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Takes a range at the tail; of the last segment's rest, if that is too short.
    Reserve {
        writer: usize,
        len: u16,
    },
    Store {
        writer: usize,
        store: Store,
    },
    /// The closure that fills the entry panics.
    GiveUp {
        writer: usize,
    },
    Pad {
        writer: usize,
    },
    MakeStandby,
    /// Syncs the directory.
    NameStandby,
    Roll,
    /// Walks the contiguous finished frames: up to there will be synced.
    Lead,
    SyncSegment,
    Seal,
    /// Moves the watermark, and leaves a sync mark.
    Publish,
    Die,
    /// Which version is left of each thing that is not durable, in order.
    LosePower(Vec<u8>),
    /// Recovery looks at everything, and says durably where the log ends.
    Decide,
    Repair,
    SealRepaired,
    /// A new segment, and writers again.
    GoOn,
}

/// Deliberate mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    AcknowledgesAtTheClaim,
    CommitsBeforeFilling,
    FillsBeforeClaiming,
    PublishesBeforeSyncing,
    SyncsPastClaims,
    SyncsTheLastSegmentOnly,
    SealsBeforeSyncing,
    RollsWithoutSyncingTheDirectory,
    EndsAtAHoleAfterADeath,
    EndsAtAClaimAfterADeath,
    StepsOverHolesAfterAPowerLoss,
    TrustsCommitWords,
    KeepsSegmentsBehindTheEnd,
    SealsOfRecoveryAreNotSynced,
    RecoveryDoesNotSync,
    GoesOnInTheRecoveredSegment,
}

/// The model: sizes and limits, and a flaw.
#[derive(Clone, Debug)]
pub struct LogSpec {
    pub flaw: Option<Flaw>,
    /// Words in a segment.
    pub capacity: u16,
    /// Words of a sync mark.
    pub mark: u16,
    /// What entries may take.
    pub lens: [u16; 2],
    pub writers: usize,
    pub entries: u16,
    pub segments: u8,
    pub syncs: u8,
    pub crashes: u8,
}

impl Segment {
    pub fn new(spec: &LogSpec, number: u8, boot: u8, named: Page<bool>) -> Self {
        let words = vec![Page::durable(Word::Zero); spec.capacity.into()];
        Self { number, boot, named, words, seal: Page::durable(None) }
    }

    pub fn word(&self, at: u16) -> Word {
        self.words[usize::from(at)].now()
    }

    pub(crate) fn write(&mut self, at: u16, word: Word) {
        self.words[usize::from(at)].write(word);
    }

    /// Whether all words of a frame are there, which its checksum tells.
    pub fn is_whole(&self, at: u16, entry: u16, len: u16) -> bool {
        (at + 1..at + len).all(|at| self.word(at) == Word::Body { entry })
    }

    /// The entries in it: where they begin, their numbers and lengths.
    pub fn entries(&self) -> impl Iterator<Item = (u16, u16, u16)> {
        let end = self.seal.now().unwrap_or(self.words.len() as u16);
        (0..end).filter_map(|at| match self.word(at) {
            Word::Committed { entry, len } => Some((at, entry, len)),
            _ => None,
        })
    }
}

impl Log {
    /// The number of the last segment.
    pub fn last(&self) -> u8 {
        (self.segments.len() - 1) as u8
    }

    pub fn segment(&mut self, number: u8) -> &mut Segment {
        &mut self.segments[usize::from(number)]
    }

    /// The entries before a place.
    pub fn before(&self, place: Place) -> Entries {
        let all = self.segments.iter().flat_map(|s| s.entries().map(|e| ((s.number, e.0), e.1)));
        all.filter(|(at, _)| *at < place).map(|(_, entry)| 1 << entry).sum::<Entries>()
    }

    fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// What readers find.
    pub fn found(&self) -> Entries {
        let end = if self.is_running() { (self.last(), self.tail) } else { (u8::MAX, 0) };
        self.before(end)
    }

    /// Where the contiguous finished frames end.
    pub fn prefix(&self) -> Place {
        let (mut number, mut at) = self.watermark;
        loop {
            let segment = &self.segments[usize::from(number)];
            let len = match segment.words.get(usize::from(at)).map(Page::now) {
                Some(Word::Committed { len, .. } | Word::Mark { len, .. }) => len,
                Some(Word::Void { len } | Word::Pad { len }) => len,
                None if number < self.last() => {
                    (number, at) = (number + 1, 0);
                    continue;
                }
                _ => return (number, at),
            };
            at += len;
        }
    }

    /// Everything that a power loss decides about.
    fn unsynced(&self) -> Vec<u8> {
        let mut versions = Vec::new();
        let mut add = |count: usize| versions.extend((count > 1).then_some(count as u8));
        for segment in &self.segments {
            add(segment.named.versions().len());
            add(segment.seal.versions().len());
            segment.words.iter().for_each(|word| add(word.versions().len()));
        }
        versions
    }

    fn lose_power(&mut self, left: &[u8]) -> Option<()> {
        fn decide<T: Copy + Default + PartialEq>(
            page: &mut Page<T>,
            left: &mut std::slice::Iter<'_, u8>,
        ) -> Option<()> {
            if page.versions().len() > 1 { page.lose_power(*left.next()?) } else { Some(()) }
        }
        let mut left = left.iter();
        for segment in &mut self.segments {
            decide(&mut segment.named, &mut left)?;
            decide(&mut segment.seal, &mut left)?;
            segment.words.iter_mut().try_for_each(|word| decide(word, &mut left))?;
        }
        self.segments.retain(|segment| segment.named.now());
        (self.boot, self.power_lost) = (self.boot + 1, true);
        self.die();
        left.next().is_none().then_some(())
    }

    /// What only the process knew is gone.
    fn die(&mut self) {
        (self.phase, self.standby, self.leader) = (Phase::Dead, None, None);
        (self.tail, self.watermark) = (0, (0, 0));
        self.writers.fill(Writer::Idle);
        self.crashes += 1;
    }
}

impl LogSpec {
    pub fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

impl Model for LogSpec {
    type State = Log;
    type Action = Step;

    fn init_states(&self) -> Vec<Log> {
        vec![Log {
            phase: Phase::Running,
            segments: vec![Segment::new(self, 0, 0, Page::durable(true))],
            standby: None,
            tail: 0,
            writers: vec![Writer::Idle; self.writers],
            leader: None,
            watermark: (0, 0),
            boot: 0,
            power_lost: false,
            entries: 0,
            syncs: 0,
            crashes: 0,
            returned: 0,
            promised: 0,
            dropped: 0,
            hole: false,
        }]
    }

    /// What may happen, within the limits. `next_state` says what of it can.
    fn actions(&self, log: &Log, steps: &mut Vec<Step>) {
        for writer in 0..self.writers {
            if log.entries < self.entries {
                steps.extend(self.lens.iter().map(|&len| Step::Reserve { writer, len }));
            }
            let stores = [Store::Claim, Store::Fill, Store::Commit];
            steps.extend(stores.map(|store| Step::Store { writer, store }));
            steps.extend([Step::GiveUp { writer }, Step::Pad { writer }]);
        }
        if log.segments.len() < usize::from(self.segments) && log.tail == self.capacity {
            steps.extend([Step::MakeStandby, Step::NameStandby, Step::Roll]);
        }
        if log.syncs < self.syncs {
            steps.push(Step::Lead);
        }
        steps.extend([Step::SyncSegment, Step::Seal, Step::Publish]);
        if log.crashes < self.crashes {
            steps.push(Step::Die);
            let mut left = vec![Vec::new()];
            for versions in log.unsynced() {
                let with = |left: &Vec<u8>, version| [&left[..], &[version]].concat();
                left = left.iter().flat_map(|l| (0..versions).map(move |v| with(l, v))).collect();
            }
            steps.extend(left.into_iter().map(Step::LosePower));
        }
        steps.extend([Step::Decide, Step::Repair, Step::SealRepaired, Step::GoOn]);
    }

    /// What a step leads to; `None` if it cannot be taken.
    fn next_state(&self, log: &Log, step: Step) -> Option<Log> {
        let phases: &[Phase] = match step {
            Step::LosePower(_) if log.phase != Phase::Refused => &[log.phase],
            Step::Die => &[Phase::Running, Phase::Repairing(true), Phase::Repairing(false)],
            Step::Decide => &[Phase::Dead],
            Step::Repair | Step::GoOn => &[Phase::Repairing(false)],
            Step::SealRepaired => &[Phase::Repairing(true)],
            _ => &[Phase::Running],
        };
        phases.contains(&log.phase).then_some(())?;
        let mut next = log.clone();
        match step {
            Step::Reserve { writer, len } => self.reserve(&mut next, writer, len)?,
            Step::Store { writer, store } => self.store(&mut next, writer, store)?,
            Step::GiveUp { writer } => self.give_up(&mut next, writer)?,
            Step::Pad { writer } => self.pad(&mut next, writer)?,
            Step::MakeStandby => next.standby = log.standby.is_none().then_some(Some(false))?,
            Step::NameStandby => next.standby = log.standby.map(|_| true).map(Some)?,
            Step::Roll => self.roll(&mut next)?,
            Step::Lead => self.lead(&mut next)?,
            Step::SyncSegment => self.sync_segment(&mut next)?,
            Step::Seal => self.seal(&mut next)?,
            Step::Publish => self.publish_synced(&mut next)?,
            Step::Die => next.die(),
            Step::LosePower(left) => next.lose_power(&left)?,
            Step::Decide => self.decide(&mut next),
            Step::Repair => self.repair(&mut next)?,
            Step::SealRepaired => self.seal_repaired(&mut next)?,
            Step::GoOn => self.go_on(&mut next)?,
        }
        if next.phase == Phase::Running {
            next.promised |= next.before(next.watermark);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the death of the process loses nothing", |_, log: &Log| {
                !log.is_running() || log.returned & !log.found() == 0
            }),
            Property::always("what is told to be durable survives a power loss", |_, log: &Log| {
                !log.is_running() || log.promised & !log.found() == 0
            }),
            Property::always("a power loss leaves no hole", |_, log: &Log| !log.hole),
            Property::always("an entry is there whole or not at all", |_, log: &Log| {
                let mut all = log.segments.iter().flat_map(|s| s.entries().map(move |e| (s, e)));
                !log.is_running() || all.all(|(s, (at, entry, len))| s.is_whole(at, entry, len))
            }),
            Property::always("what was dropped stays dropped", |_, log: &Log| {
                !log.is_running() || log.dropped & log.found() == 0
            }),
            Property::always("no crash makes a log that is refused", |_, log: &Log| {
                log.phase != Phase::Refused
            }),
            Property::sometimes("a power loss drops an entry", |_, log: &Log| log.dropped != 0),
            Property::sometimes("a power loss drops some and leaves some", |_, log: &Log| {
                log.is_running() && log.dropped != 0 && log.found() != 0
            }),
            Property::sometimes("an append dies and one behind it is found", |_, log: &Log| {
                let died =
                    |word: &Page<Word>| matches!(word.now(), Word::Void { .. } | Word::Pad { .. });
                let found = |s: &Segment| s.words.iter().any(died) && s.entries().next().is_some();
                log.is_running() && log.crashes > 0 && log.segments.iter().any(found)
            }),
        ]
    }
}
