//! Whether a history could be that of a map that does one thing at a time.
//!
//! The search is that of `todc-utils` (Wing and Gong, Lowe). An operation is what it saw and what it
//! wrote, in words: `0=7` saw 7 under key 0, `0=-` nothing, `0=+` anything, and `0!7` anything but 7;
//! `0:7` wrote 7 there and `0:-` removed it. A value has a TTL, by its number: `0@2` saw the second of
//! them, and `0@0` none. `0:7@2` wrote 7 with that, `0:7@~` with the one that was there, and `0:@2` changed
//! the TTL alone.

use std::fmt;
use std::str::FromStr;
use todc_utils::{Action, History as Actions, Specification, WGLChecker};

pub(crate) const KEYS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saw {
    Absent,
    Present,
    Value(u32),
    /// Something, but not this.
    Other(u32),
    /// Something with this TTL.
    Ttl(u8),
}

/// A value, by its number, and its TTL, by that one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Held {
    value: u32,
    ttl: u8,
}

/// The TTL of what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ttl {
    Kept,
    Is(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    Removed,
    Value(u32, Ttl),
    /// Nothing but the TTL.
    Touched(Ttl),
}

impl From<Option<u32>> for Wrote {
    fn from(value: Option<u32>) -> Self {
        value.map_or(Self::Removed, |value| Self::Value(value, Ttl::Is(0)))
    }
}

impl Wrote {
    /// What is there after it.
    fn after(self, old: Option<Held>) -> Option<Held> {
        let ttl = |ttl| match ttl {
            Ttl::Kept => old.map_or(0, |old| old.ttl),
            Ttl::Is(ttl) => ttl,
        };
        match self {
            Self::Removed => None,
            Self::Value(value, kept) => Some(Held { value, ttl: ttl(kept) }),
            Self::Touched(kept) => old.map(|old| Held { ttl: ttl(kept), ..old }),
        }
    }
}

impl From<Option<u32>> for Saw {
    fn from(found: Option<u32>) -> Self {
        found.map_or(Self::Absent, Self::Value)
    }
}

impl Saw {
    fn fits(self, held: Option<Held>) -> bool {
        match self {
            Self::Absent => held.is_none(),
            Self::Present => held.is_some(),
            Self::Value(value) => held.is_some_and(|held| held.value == value),
            Self::Other(value) => held.is_some_and(|held| held.value != value),
            Self::Ttl(ttl) => held.is_some_and(|held| held.ttl == ttl),
        }
    }
}

/// One operation's effect, if all that it saw is so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) saw: Vec<(usize, Saw)>,
    pub(crate) wrote: Vec<(usize, Wrote)>,
}

impl Step {
    pub(crate) fn saw(key: usize, saw: impl Into<Saw>) -> Self {
        Self { saw: vec![(key, saw.into())], wrote: Vec::new() }
    }

    pub(crate) fn wrote(key: usize, wrote: impl Into<Wrote>) -> Self {
        Self::default().and_wrote(key, wrote)
    }

    pub(crate) fn and_wrote(mut self, key: usize, wrote: impl Into<Wrote>) -> Self {
        self.wrote.push((key, wrote.into()));
        self
    }

    fn keys(&self) -> impl Iterator<Item = usize> {
        self.saw.iter().map(|s| s.0).chain(self.wrote.iter().map(|w| w.0))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, saw) in &self.saw {
            match saw {
                Saw::Absent => write!(f, " {key}=-")?,
                Saw::Present => write!(f, " {key}=+")?,
                Saw::Value(value) => write!(f, " {key}={value}")?,
                Saw::Other(value) => write!(f, " {key}!{value}")?,
                Saw::Ttl(ttl) => write!(f, " {key}@{ttl}")?,
            }
        }
        for (key, wrote) in &self.wrote {
            match wrote {
                Wrote::Removed => write!(f, " {key}:-")?,
                Wrote::Value(value, Ttl::Is(0)) => write!(f, " {key}:{value}")?,
                Wrote::Value(value, ttl) => write!(f, " {key}:{value}@{ttl}")?,
                Wrote::Touched(ttl) => write!(f, " {key}:@{ttl}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("~"),
            Self::Is(ttl) => write!(f, "{ttl}"),
        }
    }
}

impl FromStr for Wrote {
    type Err = std::num::ParseIntError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let (value, ttl) = word.split_once('@').unwrap_or((word, "0"));
        let ttl = if ttl == "~" { Ttl::Kept } else { Ttl::Is(ttl.parse()?) };
        Ok(match value {
            "-" => Self::Removed,
            "" if word.contains('@') => Self::Touched(ttl),
            value => Self::Value(value.parse()?, ttl),
        })
    }
}

/// An operation, and when it was called and returned: never, if the process died meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) called: u64,
    pub(crate) returned: Option<u64>,
    pub(crate) step: Step,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let returned = self.returned.map_or("-".into(), |time| time.to_string());
        write!(f, "{} {returned}{}", self.called, self.step)
    }
}

/// Reads what [`Display`](fmt::Display) wrote.
impl FromStr for Operation {
    type Err = std::num::ParseIntError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        fn unless<T: FromStr>(sign: &str, word: &str) -> Result<Option<T>, T::Err> {
            if word == sign { Ok(None) } else { word.parse().map(Some) }
        }
        let mut words = line.split_whitespace();
        let called = words.next().unwrap_or_default().parse()?;
        let returned = unless("-", words.next().unwrap_or_default())?;
        let mut step = Step::default();
        for word in words {
            if let Some((key, wrote)) = word.split_once(':') {
                step.wrote.push((key.parse()?, wrote.parse()?));
            } else if let Some((key, value)) = word.split_once('!') {
                step.saw.push((key.parse()?, Saw::Other(value.parse()?)));
            } else if let Some((key, ttl)) = word.split_once('@') {
                step.saw.push((key.parse()?, Saw::Ttl(ttl.parse()?)));
            } else if let Some((key, "+")) = word.split_once('=') {
                step.saw.push((key.parse()?, Saw::Present));
            } else {
                let (key, saw) = word.split_once('=').unwrap_or_default();
                step.saw.push((key.parse()?, unless::<u32>("-", saw)?.into()));
            }
        }
        Ok(Self { called, returned, step })
    }
}

/// What happens to the map.
#[derive(Clone, Debug)]
enum Event {
    /// The checker uses the result of an operation, not its intent.
    Called,
    Did(Step),
    /// It was under way at the end of that life: it took effect before that or never.
    May(Step, usize),
    Death,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    values: [Option<Held>; KEYS],
    life: usize,
}

impl State {
    fn fits(&self, step: &Step) -> bool {
        step.saw.iter().all(|&(key, saw)| saw.fits(self.values[key]))
    }

    fn after(&self, step: &Step) -> Self {
        let mut state = self.clone();
        for &(key, wrote) in &step.wrote {
            state.values[key] = wrote.after(state.values[key]);
        }
        state
    }
}

struct Map;

impl Specification for Map {
    type State = State;
    type Operation = Event;

    fn init() -> State {
        State::default()
    }

    fn apply(event: &Event, state: &State) -> (bool, State) {
        match event {
            Event::Did(step) => (state.fits(step), state.after(step)),
            Event::May(step, life) if *life == state.life && state.fits(step) => {
                (true, state.after(step))
            }
            Event::Called | Event::May(..) => (true, state.clone()),
            Event::Death => (true, State { life: state.life + 1, ..state.clone() }),
        }
    }
}

/// Operations on a map that is empty at first, and the times at which the process died.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) operations: Vec<Operation>,
    pub(crate) deaths: Vec<u64>,
}

impl History {
    pub(crate) fn is_linearizable(&self) -> bool {
        let mut actions: Vec<_> = self.deaths.iter().map(|&at| (at, at, Event::Death)).collect();
        actions.extend(self.operations.iter().map(|operation| match operation.returned {
            Some(at) => (operation.called, at, Event::Did(operation.step.clone())),
            None => (operation.called, u64::MAX, self.may(operation)),
        }));
        let calls = actions.iter().enumerate();
        let calls = calls.map(|(n, action)| (action.0, n, Action::Call(Event::Called)));
        let mut all: Vec<_> = calls.collect();
        let returns = actions.into_iter().enumerate();
        all.extend(returns.map(|(n, action)| (action.1, n, Action::Response(action.2))));
        // A stable sort: a death is called before it returns.
        all.sort_by_key(|(at, ..)| *at);
        // Each operation counts as a process of its own, so that it may overlap any other.
        let all = all.into_iter().map(|(_, process, action)| (process, action)).collect();
        WGLChecker::<Map>::is_linearizable(Actions::from_actions(all))
    }

    fn may(&self, operation: &Operation) -> Event {
        let life = self.deaths.iter().filter(|death| **death < operation.called).count();
        Event::May(operation.step.clone(), life)
    }

    /// # Panics
    /// If it is not linearizable, with the end of the shortest part that is not.
    pub(crate) fn check(&self) {
        if self.operations.is_empty() || self.is_linearizable() {
            return;
        }
        let mut times: Vec<_> = self.operations.iter().filter_map(|op| op.returned).collect();
        times.sort_unstable();
        let shortest = times.partition_point(|&time| self.until(time).is_linearizable());
        let part = self.until(times[shortest]);
        let lines: Vec<_> = part.operations.iter().map(ToString::to_string).collect();
        let last = &lines[lines.len().saturating_sub(40)..];
        panic!("not linearizable (deaths: {:?}):\n{}", part.deaths, last.join("\n"));
    }

    /// What was known at a time.
    fn until(&self, time: u64) -> Self {
        let known = self.operations.iter().filter(|operation| operation.called <= time);
        let mut operations: Vec<_> = known.cloned().collect();
        operations.iter_mut().for_each(|op| op.returned = op.returned.filter(|at| *at <= time));
        operations.sort_by_key(|operation| operation.called);
        let deaths = self.deaths.iter().copied().filter(|death| *death <= time).collect();
        Self { operations, deaths }
    }

    /// A map is linearizable if each of its keys is, where no operation has several: much cheaper.
    pub(crate) fn check_each_key(&self) {
        for key in 0..KEYS {
            let operations = self.operations.iter();
            let mine = operations.filter(|operation| operation.step.keys().any(|k| k == key));
            let mine: Vec<_> = mine.cloned().collect();
            assert!(mine.iter().all(|operation| operation.step.keys().all(|k| k == key)));
            Self { operations: mine, deaths: self.deaths.clone() }.check();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(deaths: &[u64], lines: &[&str]) -> History {
        let operations = lines.iter().map(|line| line.parse().unwrap()).collect();
        History { operations, deaths: deaths.to_vec() }
    }

    fn good(deaths: &[u64], lines: &[&str]) {
        history(deaths, lines).check();
    }

    fn bad(deaths: &[u64], lines: &[&str]) {
        assert!(!history(deaths, lines).is_linearizable(), "{lines:?}");
        let check = || history(deaths, lines).check();
        let panic = std::panic::catch_unwind(check).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.starts_with("not linearizable"), "{text}");
    }

    #[test]
    fn an_operation_is_read_as_it_is_written() {
        let ttls = "1 2 0!7 1@0 2@3 3:8@2 4:9@~ 0:@1 1:@~";
        for line in ["1 2 0=7 1=- 2=+ 3:8 4:-", "1 - 0:7", "3 4", ttls] {
            assert_eq!(line.parse::<Operation>().unwrap().to_string(), line);
        }
        let bad = ["1 2 0!", "1 2 0@", "1 2 0@-", "1 2 0:", "1 2 0:7@", "1 2 0:7@x"];
        for line in ["", "1", "x 2", "1 2 0", "1 2 0=", "1 2 0:x"].into_iter().chain(bad) {
            assert!(line.parse::<Operation>().is_err(), "{line}");
        }
    }

    #[test]
    fn good_histories_are_accepted() {
        good(&[], &["1 2 0=-", "3 4 0:1", "5 6 0=1", "7 8 0=+ 0:-", "9 10 0=-"]);
        // Two puts at once count in either order.
        good(&[], &["1 4 0:1", "2 3 0:2", "5 6 0=1"]);
        good(&[], &["1 4 0:1", "2 3 0:2", "5 6 0=2"]);
        // Reads beside a put see what was before it, and then what it put.
        good(&[], &["1 10 0:1", "2 3 0=-", "4 5 0=1", "6 7 0=1"]);
        // Writes that are seen in the opposite order of their calls.
        good(&[], &["1 20 0:1", "2 21 0:2", "3 22 0:3", "4 5 0=3", "6 7 0=2", "8 9 0=1"]);
        // A batch, seen as a whole, and a swap that one of two wins.
        good(&[], &["1 6 0:1 1:1", "2 3 0=- 1=-", "4 5 0=1 1=1"]);
        good(&[], &["1 2 0:1", "3 6 0=1 0:2", "4 5 0=2", "7 8 0=2"]);
    }

    #[test]
    fn bad_histories_are_refused() {
        bad(&[], &["1 2 0=1"]);
        // Stale: a read after a put returned, and a read that goes back behind another one.
        bad(&[], &["1 2 0:1", "3 4 0:2", "5 6 0=1"]);
        bad(&[], &["1 10 0:1", "2 3 0=1", "4 5 0=-"]);
        // A deleted key that comes again, and two deletes that both removed it.
        bad(&[], &["1 2 0:1", "3 4 0=+ 0:-", "5 6 0=1"]);
        bad(&[], &["1 2 0:1", "3 6 0=+ 0:-", "4 5 0=+ 0:-"]);
        // A lost update: both swapped the same value, or both put where nothing was.
        bad(&[], &["1 2 0:1", "3 6 0=1 0:2", "4 5 0=1 0:3"]);
        bad(&[], &["1 4 0=- 0:1", "2 3 0=- 0:2"]);
        // A torn batch, seen at once and by one read after the other.
        bad(&[], &["1 6 0:1 1:1", "2 3 0=1 1=-"]);
        bad(&[], &["1 6 0:1 1:1", "2 3 0=1", "4 5 1=-"]);
        // Two readers that do not agree on the order of two puts.
        bad(&[], &["1 20 0:1", "2 21 0:2", "3 4 0=1", "5 6 0=2", "7 8 0=1"]);
    }

    #[test]
    fn batches_that_expect_something_are_checked() {
        // Of two that expect the same, one finds what the other wrote.
        good(&[], &["1 2 0:1", "3 6 0=1 0:2 1:2", "4 5 0!1", "7 8 1=2"]);
        bad(&[], &["1 2 0:1", "3 6 0=1 0:2 1:2", "4 5 0=1 0:3 1:3"]);
        // It fails only if something else is there, and not after it was there no more.
        bad(&[], &["1 2 0:1", "3 4 0!1"]);
        bad(&[], &["1 2 0!1"]);
        good(&[], &["1 6 0:1", "2 3 0=-", "4 5 0!2"]);
        // What it expects of several keys holds at one moment, that of its writes.
        bad(&[], &["1 2 0:1 1:1", "3 4 0:2", "5 6 1:2", "7 8 0=1 1=2 2:9"]);
        bad(&[], &["1 2 0:1", "3 8 0=1 1:9", "4 5 1=9", "6 7 0=2"]);
    }

    #[test]
    fn ttls_are_checked() {
        good(&[], &["1 2 0:1@2", "3 4 0@2", "5 6 0=1 0:2@~", "7 8 0@2", "9 10 0:3", "11 12 0@0"]);
        good(&[], &["1 2 0:1", "3 4 0=+ 0:@1", "5 6 0=1", "7 8 0@1", "9 10 0:@0", "11 12 0@0"]);
        // Nothing is kept of what was removed, and nothing is touched where nothing is.
        good(&[], &["1 2 0:1@2", "3 4 0:-", "5 6 0:2@~", "7 8 0@0"]);
        good(&[], &["1 2 0:@2", "3 4 0=-"]);
        // One that is lost, one that stays, and one that was never there.
        bad(&[], &["1 2 0:1@2", "3 4 0=1 0:2@~", "5 6 0@0"]);
        bad(&[], &["1 2 0:1@2", "3 4 0:2", "5 6 0@2"]);
        bad(&[], &["1 2 0:1@2", "3 4 0@1"]);
        bad(&[], &["1 2 0@0"]);
        // A swap that sets one of its own, and a change that keeps everything.
        good(&[], &["1 2 0:1@2", "3 4 0=1 0:2@1", "5 6 0=2", "7 8 0@1"]);
        bad(&[], &["1 2 0:1@2", "3 4 0=1 0:2@1", "5 6 0@2"]);
        bad(&[], &["1 2 0:1@2", "3 4 0=1", "5 6 0@0"]);
        // A batch, each of whose puts has its own.
        let batch = ["1 2 0:1@1 1:1@1", "3 4 0:2@~ 1:2@3 2:2"];
        good(&[], &[batch[0], batch[1], "5 6 0@1", "7 8 1@3", "9 10 2@0"]);
        bad(&[], &[batch[0], batch[1], "5 6 1@1"]);
        // A touch that brings an old value back.
        bad(&[], &["1 2 0:1", "3 6 0=+ 0:@1", "4 5 0:2", "7 8 0=1"]);
    }

    #[test]
    fn what_is_under_way_at_a_death_takes_effect_before_it_or_never() {
        let before = ["1 2 0:1", "3 - 0=1 0:2"];
        let and = |more: &[&'static str]| [&before[..], more].concat();
        good(&[4], &before);
        good(&[4], &and(&["5 6 0=1", "7 8 0=1"]));
        good(&[4], &and(&["5 6 0=2", "7 8 0=2"]));
        // Not taken back, and not later on.
        bad(&[4], &and(&["5 6 0=2", "7 8 0=1"]));
        bad(&[4], &and(&["5 6 0=1", "7 8 0=2"]));
        bad(&[4, 7], &and(&["5 6 0=1", "8 9 0=2"]));
        // What is not there to be swapped is not swapped.
        bad(&[4], &["1 2 0:5", "3 - 0=1 0:2", "5 6 0=2"]);
        // What returned counts, and a batch counts as a whole.
        bad(&[3], &["1 2 0:1", "4 5 0=-"]);
        good(&[3], &["1 - 0:1 1:1", "4 5 0=1", "6 7 1=1"]);
        bad(&[3], &["1 - 0:1 1:1", "4 5 0=1", "6 7 1=-"]);
    }

    #[test]
    fn keys_are_checked_one_by_one() {
        history(&[], &["1 2 0:1", "3 4 1:1", "5 6 0=1", "7 8 1=1"]).check_each_key();
        let stale = history(&[], &["1 2 0:1", "3 4 1:1", "5 6 0=1", "7 8 1=-"]);
        assert!(std::panic::catch_unwind(|| stale.check_each_key()).is_err());
    }

    #[test]
    fn the_shortest_part_that_is_wrong_is_named() {
        let wrong = history(&[], &["1 2 0:1", "3 4 0=2", "5 6 0=1", "5 7 0:3"]);
        let panic = std::panic::catch_unwind(|| wrong.check()).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.ends_with("\n1 2 0:1\n3 4 0=2"), "{text}");
    }
}
