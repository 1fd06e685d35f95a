//! What a child has done, by its reports, and what of it a crash may have left.

use super::reports::{Change, Opened, Report, Said};
use std::collections::BTreeMap;

/// A writer's step, which changes keys of its own, or appends entries.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) changes: Vec<Change>,
    /// Which report says that it begins.
    pub(crate) begun: usize,
    /// Which one says that it is acknowledged.
    pub(crate) done: Option<usize>,
    /// Where its last frame is, if it has written any.
    pub(crate) position: Option<u64>,
    /// Whether it was durable when it was acknowledged.
    durable: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Backup {
    pub(crate) number: u64,
    pub(crate) begun: usize,
    /// Which report says that it is done, and where it ends.
    pub(crate) done: Option<(usize, u64)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// The steps of each writer, in its order.
    pub(crate) writers: Vec<Vec<Step>>,
    pub(crate) backups: Vec<Backup>,
    pub(crate) truncations: Vec<(usize, u64)>,
    syncs: Vec<(usize, u64)>,
}

impl History {
    pub(crate) fn of(reports: &[Report]) -> Self {
        let mut this = Self::default();
        for report in reports {
            let at = report.nth;
            match &report.said {
                Said::Begun { writer, durable, changes } => {
                    let writer = *writer as usize;
                    if this.writers.len() <= writer {
                        this.writers.resize(writer + 1, Vec::new());
                    }
                    let (changes, durable) = (changes.clone(), *durable);
                    let step = Step { changes, begun: at, done: None, position: None, durable };
                    this.writers[writer].push(step);
                }
                Said::Done { writer, position } => {
                    let step = this.writers[*writer as usize].last_mut().unwrap();
                    (step.done, step.position) = (Some(at), *position);
                }
                Said::Refused { writer } => {
                    let step = this.writers[*writer as usize].last_mut().unwrap();
                    (step.done, step.changes) = (Some(at), Vec::new());
                }
                Said::Synced { position } | Said::Closed { position } => {
                    this.syncs.push((at, *position));
                }
                Said::Truncating { position } => this.truncations.push((at, *position)),
                Said::Backup { number, position: None } => {
                    this.backups.push(Backup { number: *number, begun: at, done: None });
                }
                Said::Backup { number, position: Some(position) } => {
                    let backup = this.backups.iter_mut().find(|backup| backup.number == *number);
                    backup.unwrap().done = Some((at, *position));
                }
                Said::Opening
                | Said::Opened { .. }
                | Said::Later { .. }
                | Said::Aside { .. }
                | Said::Full { .. }
                | Said::Closing
                | Said::Repairing { .. }
                | Said::Repaired { .. } => {}
            }
        }
        this
    }

    /// All steps whose place in the log is known, in its order: position, writer, number of the step.
    pub(crate) fn in_order(&self) -> Vec<(u64, usize, usize)> {
        let mut all = Vec::new();
        for (writer, steps) in self.writers.iter().enumerate() {
            for (number, step) in steps.iter().enumerate() {
                all.extend(step.position.map(|position| (position, writer, number)));
            }
        }
        all.sort_unstable();
        all
    }

    /// Everything before this position was durable when this many reports were complete.
    pub(crate) fn durable_before(&self, reports: usize) -> u64 {
        let synced =
            self.syncs.iter().filter(|(at, _)| *at < reports).map(|(_, position)| *position);
        let steps = self.writers.iter().flatten();
        let durable = steps.filter(|s| s.durable && s.done.is_some_and(|at| at < reports));
        let behind = durable.filter_map(|step| step.position).map(|position| position + 1);
        synced.chain(behind).max().unwrap_or(0)
    }

    /// How many steps of a writer were acknowledged, and how many had begun.
    pub(crate) fn counts(&self, writer: usize, reports: usize) -> (usize, usize) {
        let steps = &self.writers[writer];
        let done = steps.iter().take_while(|s| s.done.is_some_and(|at| at < reports)).count();
        (done, steps.iter().take_while(|step| step.begun < reports).count())
    }
}

/// For each key the number of the step that its value is of, from 1 on.
pub(crate) type Keys = BTreeMap<u64, u64>;

/// The keys of a writer after each number of steps.
pub(crate) fn states(steps: &[Step]) -> Vec<Keys> {
    let mut state = Keys::new();
    let mut all = vec![state.clone()];
    for (number, step) in steps.iter().enumerate() {
        for &(key, is_put) in &step.changes {
            if is_put {
                state.insert(key, number as u64 + 1);
            } else {
                state.remove(&key);
            }
        }
        all.push(state.clone());
    }
    all
}

/// Whether what each writer's keys are is what the death of the process may have left.
pub(crate) fn check_death(history: &History, reports: usize, found: &[Keys]) -> Result<(), String> {
    for (writer, steps) in history.writers.iter().enumerate() {
        let (done, begun) = history.counts(writer, reports);
        if !states(steps)[done..=begun].contains(&found[writer]) {
            let found = &found[writer];
            return Err(format!("{writer}: {found:?} is not of {done} to {begun} steps"));
        }
    }
    Ok(())
}

/// Whether what each writer's keys are is what a power loss may have left.
pub(crate) fn check(history: &History, reports: usize, found: &[Keys]) -> Result<(), String> {
    let all: Vec<_> = history.writers.iter().map(|steps| states(steps)).collect();
    let durable = history.durable_before(reports);
    let fits = |from, to| prefix(history, &all, found, reports, from, to);
    fits(durable, u64::MAX).then_some(()).ok_or_else(|| {
        let which = if fits(0, u64::MAX) { "too short a prefix" } else { "no prefix" };
        let ends: Vec<_> = (0..all.len()).map(|w| moments(&all[w], &found[w])).collect();
        let counts: Vec<_> = (0..all.len()).map(|w| history.counts(w, reports)).collect();
        format!(
            "{which} of the log: durable before {durable}; steps done and begun {counts:?}, found \
             those of {ends:?}: {found:?}"
        )
    })
}

/// After how many steps a writer's keys were as they were found.
fn moments(states: &[Keys], found: &Keys) -> Vec<usize> {
    (0..states.len()).filter(|&n| states[n] == *found).collect()
}

/// Whether some prefix of the log, with everything before `from` and nothing from `to` on, leaves what
/// was found.
pub(crate) fn prefix(
    history: &History,
    states: &[Vec<Keys>],
    found: &[Keys],
    reports: usize,
    from: u64,
    to: u64,
) -> bool {
    let order = history.in_order();
    // Of the steps of each writer in the prefix, the number of the last one.
    let mut counts = vec![0; states.len()];
    let mut at = 0;
    loop {
        let enough = order.get(at).is_none_or(|(position, ..)| *position >= from);
        let as_found = |writer: usize| {
            let (steps, count) = (&history.writers[writer], counts[writer]);
            let (_, begun) = history.counts(writer, reports);
            // A step without a position has changed nothing, or it is the last one and was never
            // acknowledged: then it may be there, if all before it is.
            let rest = &steps[count..];
            let may_have_one_more = count < begun
                && rest.iter().all(|step| step.position.is_none())
                && rest.last().is_some_and(|last| last.done.is_none())
                && steps.len() <= begun;
            states[writer][count] == found[writer]
                || may_have_one_more && states[writer].last() == Some(&found[writer])
        };
        if enough && (0..states.len()).all(as_found) {
            return true;
        }
        match order.get(at) {
            // What had not begun is not there.
            Some(&(position, writer, number))
                if position < to && history.writers[writer][number].begun < reports =>
            {
                counts[writer] = number + 1;
            }
            _ => return false,
        }
        at += 1;
    }
}

/// Whether what is found is what was found before, with one thing more of the writer `later` if that was
/// written meanwhile.
pub(crate) fn check_later(
    mut found: Vec<(u64, u64, u64)>,
    opened: Opened<'_>,
    later: u64,
) -> Result<(), String> {
    let is_later = |(writer, ..): &(u64, u64, u64)| *writer == later;
    let Opened { begun, done, .. } = opened;
    let mut before = opened.found.to_vec();
    let was_there = before.iter().any(is_later);
    let is_there = found.iter().any(is_later);
    before.retain(|one| !is_later(one));
    found.retain(|one| !is_later(one));
    if found == before && (is_there || !was_there && !done) && (was_there || begun || !is_there) {
        return Ok(());
    }
    Err(format!(
        "{found:?} and {is_there}, not what was found, {before:?} and {was_there}; then {begun}, {done}"
    ))
}
