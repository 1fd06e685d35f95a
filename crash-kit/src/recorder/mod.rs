//! Records what a program's sync calls make durable, for images of what a power loss may leave.

mod effects;
mod live;
mod maps;

use crate::disk::{Disk, Image, NameOrder, Place};
use crate::random::Random;
use crate::tracer::{Action, Call, Tracer};
use effects::Effect;
use live::Live;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// What happens next in a program that stands at a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// It goes on.
    Go,
    /// It goes on, and the recording has what a power loss at this moment leaves: a [`Crash`].
    Keep,
    /// It goes on for so many instructions of this thread behind the call, and then one is asked again:
    /// a moment between two system calls. Not if it comes to another call before.
    Step(u32),
    /// It is killed.
    Kill,
}

/// A moment at which a program stands at a system call that the recorder sees.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Moment<'m> {
    /// How many came before.
    pub number: u64,
    /// Which of the programs it is.
    pub program: usize,
    /// Whether the call has not been made yet.
    pub is_entry: bool,
    /// Whether the program stands some instructions behind the call, as [`Next::Step`] says.
    pub is_step: bool,
    /// Whether it is a sync.
    pub is_sync: bool,
    /// Whether it changes names: it creates, renames or removes.
    pub is_change_of_names: bool,
    /// What the program has reported so far. A report is complete before its call is made.
    pub reports: &'m [Vec<u8>],
}

/// Records a program: see [`record`](Self::record) and the [crate](crate).
#[derive(Clone, Debug)]
pub struct Recorder {
    root: PathBuf,
    look_one_in: u64,
    lie_one_in: Option<u64>,
    seed: u64,
}

/// What was recorded.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recording {
    /// Each moment that was to be kept, and the end of the last program.
    pub crashes: Vec<Crash>,
    /// All reports: one for each `write` to the standard output.
    pub reports: Vec<Vec<u8>>,
    /// How each program ended.
    pub statuses: Vec<ExitStatus>,
    /// Moments: system calls that were seen, at their entries and exits.
    pub moments: u64,
    /// Syncs that made nothing durable, though the program was told so.
    pub lies: u64,
}

/// A moment at which the power may have failed.
#[derive(Clone, Debug)]
pub struct Crash {
    disk: Disk,
    order: Option<NameOrder>,
    /// How many of the reports were complete.
    pub reports: usize,
    /// The number of the moment.
    pub moment: u64,
}

impl Recorder {
    /// Of programs whose files are in this directory, which is there already. What is in it when a
    /// recording begins is durable.
    #[must_use]
    pub fn new(root: impl AsRef<Path>) -> Self {
        Self { root: root.as_ref().into(), look_one_in: 1, lie_one_in: None, seed: 0 }
    }

    /// Looks at all files at one moment in so many, to know what was in them in between. Default 1: at
    /// each moment. What a sync makes durable, and what a crash keeps, is looked at in any case.
    #[must_use]
    pub fn look_one_in(mut self, moments: u64) -> Self {
        self.look_one_in = moments.max(1);
        self
    }

    /// Lies about one sync in so many: the program is told that it was done, and nothing is durable. To
    /// see whether one's test would notice.
    #[must_use]
    pub fn lie_one_in(mut self, syncs: u64) -> Self {
        self.lie_one_in = Some(syncs.max(1));
        self
    }

    /// The seed of all that is drawn by lot while recording. Default 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Runs a program to its end, or until it is killed, and asks at each moment what happens next.
    ///
    /// While it asks, no other thread of the program gets past a system call that the recorder sees. So
    /// what is kept is what the disk may have been at this very moment.
    ///
    /// # Errors
    /// The program cannot be started, or not be traced here (`Unsupported`); or it did something that
    /// cannot be recorded (`InvalidData`): writes that sync by themselves, symbolic links, io_uring.
    pub fn record(
        &self,
        command: Command,
        next: impl FnMut(&Moment<'_>) -> Next,
    ) -> io::Result<Recording> {
        self.record_all([command], next)
    }

    /// As [`record`](Self::record), for programs that run one after the other, each when the one before
    /// has ended or was killed, and the machine goes on: what is not synced stays so.
    ///
    /// # Errors
    /// As for `record`.
    pub fn record_all(
        &self,
        commands: impl IntoIterator<Item = Command>,
        mut next: impl FnMut(&Moment<'_>) -> Next,
    ) -> io::Result<Recording> {
        let mut live = Live::begin(&self.root)?;
        let mut statuses = Vec::new();
        let mut session = Session {
            recorder: self,
            random: Random::new(self.seed),
            live: &mut live,
            under_way: BTreeMap::new(),
            found: Found { crashes: Vec::new(), reports: Vec::new(), moments: 0, lies: 0 },
            program: 0,
            next: &mut next,
        };
        for (program, mut command) in commands.into_iter().enumerate() {
            command.stdout(Stdio::null());
            session.program = program;
            statuses.push(session.run(Tracer::spawn(command, &effects::calls())?)?);
            // A call that was under way when it died may have been made.
            for (_, under_way) in std::mem::take(&mut session.under_way) {
                if let UnderWay::Names(places) = under_way {
                    session.live.change_names(places)?;
                }
            }
        }
        let Found { mut crashes, reports, moments, lies } = session.found;
        live.look_at_all()?;
        crashes.push(Crash {
            disk: live.disk,
            order: None,
            reports: reports.len(),
            moment: moments,
        });
        Ok(Recording { crashes, reports, statuses, moments, lies })
    }
}

impl Crash {
    /// What a power loss may have left: one choice of many, by the seed.
    #[must_use]
    pub fn image(&self, seed: u64) -> Image {
        self.disk.lose(seed, self.order)
    }

    /// Operations on names that are not durable are lost in this order only. Otherwise the seed says in
    /// which.
    #[must_use]
    pub fn with_order(mut self, order: NameOrder) -> Self {
        self.order = Some(order);
        self
    }
}

#[derive(Debug)]
struct Found {
    crashes: Vec<Crash>,
    reports: Vec<Vec<u8>>,
    moments: u64,
    lies: u64,
}

/// A call that has begun.
#[derive(Debug)]
enum UnderWay {
    Sync(live::Begun),
    Names(Vec<Place>),
    Other,
}

struct Session<'r> {
    recorder: &'r Recorder,
    random: Random,
    live: &'r mut Live,
    /// By threads.
    under_way: BTreeMap<i32, UnderWay>,
    found: Found,
    program: usize,
    next: &'r mut dyn FnMut(&Moment<'_>) -> Next,
}

impl Session<'_> {
    fn run(&mut self, mut tracer: Tracer) -> io::Result<ExitStatus> {
        let mut failed = None;
        let status = tracer.run(|call| {
            self.on_call(call).unwrap_or_else(|error| {
                failed = Some(error);
                Action::Kill
            })
        })?;
        failed.map_or(Ok(status), Err)
    }

    fn on_call(&mut self, call: &Call<'_>) -> io::Result<Action> {
        let (action, is_sync, is_change_of_names) = if call.is_step() {
            (Action::Continue, false, false)
        } else if let Some(result) = call.result() {
            let under_way = self.under_way.remove(&call.tid());
            let kind = kind(under_way.as_ref());
            if let Some(under_way) = under_way.filter(|_| result.is_ok()) {
                self.finish(under_way)?;
            }
            (Action::Continue, kind.0, kind.1)
        } else {
            let Some(under_way) = self.begin(call)? else { return Ok(Action::Pass) };
            let kind = kind(Some(&under_way));
            if matches!(under_way, UnderWay::Other) {
                (Action::Pass, kind.0, kind.1)
            } else {
                self.under_way.insert(call.tid(), under_way);
                (Action::Continue, kind.0, kind.1)
            }
        };
        let moment = Moment {
            number: self.found.moments,
            program: self.program,
            is_entry: call.is_entry(),
            is_step: call.is_step(),
            is_sync,
            is_change_of_names,
            reports: &self.found.reports,
        };
        self.found.moments += 1;
        let next = (self.next)(&moment);
        if next == Next::Keep || self.random.one_in(self.recorder.look_one_in) {
            self.live.look_at_all()?;
        }
        match next {
            Next::Go => Ok(action),
            Next::Kill => Ok(Action::Kill),
            // At an entry that has an exit to be seen it goes on to that.
            Next::Step(_) if call.is_entry() && action == Action::Continue => Ok(action),
            Next::Step(count) => Ok(Action::Step(count)),
            Next::Keep => {
                let disk = self.live.disk.clone();
                let (reports, moment) = (self.found.reports.len(), self.found.moments - 1);
                self.found.crashes.push(Crash { disk, order: None, reports, moment });
                Ok(action)
            }
        }
    }

    /// A call is about to be made. `None`: it is of no interest.
    fn begin(&mut self, call: &Call<'_>) -> io::Result<Option<UnderWay>> {
        // A path that cannot be read is an error of the program's: the call does nothing.
        let Ok(effect) = effects::of(call) else { return Ok(None) };
        Ok(Some(match effect {
            Effect::Report { address, len } => {
                self.found.reports.push(call.bytes(address, len)?);
                UnderWay::Other
            }
            Effect::Bytes => UnderWay::Other,
            Effect::Nothing => return Ok(None),
            Effect::Sync { fd } => match self.live.begin_sync(&call.descriptor(fd))? {
                Some(begun) => UnderWay::Sync(begun),
                None => return Ok(None),
            },
            Effect::SyncMapped { from, to } => {
                let ranges = maps::of(call.tid(), from, to)?;
                UnderWay::Sync(self.live.begin_sync_of_ranges(ranges)?)
            }
            Effect::SyncAll => UnderWay::Sync(self.live.begin_sync_of_all()?),
            Effect::Names(paths) => {
                let places = self.live.places(&paths);
                if places.is_empty() {
                    return Ok(None);
                }
                UnderWay::Names(places)
            }
            Effect::Unknown(what) => {
                let why = format!("{what} cannot be recorded");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }))
    }

    fn finish(&mut self, under_way: UnderWay) -> io::Result<()> {
        match under_way {
            UnderWay::Sync(begun) => {
                if self.recorder.lie_one_in.is_some_and(|n| self.random.one_in(n)) {
                    self.found.lies += 1;
                    return Ok(());
                }
                self.live.end_sync(begun);
                Ok(())
            }
            UnderWay::Names(places) => self.live.change_names(places),
            UnderWay::Other => Ok(()),
        }
    }
}

/// Whether it is a sync, and whether it changes names.
fn kind(under_way: Option<&UnderWay>) -> (bool, bool) {
    let is_sync = matches!(under_way, Some(UnderWay::Sync(_)));
    (is_sync, matches!(under_way, Some(UnderWay::Names(_))))
}
