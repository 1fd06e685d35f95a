//! Each system call that a store or a log makes fails once, at each of its occurrences, with an error
//! number that fits it: while it is opened, written, synced, rolled, merged, truncated, backed up,
//! repaired and closed. Nothing panics or hangs, the same directory can be opened afterwards, and what was
//! acknowledged is there.
//!
//! The calls are those of the kernel (crash-kit), so none slips by. `TAILCASK_ROUNDS` says with how many
//! of its error numbers each occurrence fails; by default every sixth occurrence fails, with one of
//! them in turns.
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod log;
mod store;

use calls::{Failure, relevant};
use common::{children, rounds, within};
use crash_kit::tracer::{Action, Tracer};
use std::io::Read;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use tempfile::TempDir;

#[test]
#[ignore = "the process whose calls fail"]
fn child() {
    let Some((role, place)) = children::role() else { return };
    match &*role {
        "store" => store::work(&place),
        "log" => log::work(&place),
        role => panic!("{role}"),
    }
}

/// What has come of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Done(String),
    Failed(String),
    /// It was not come to.
    Open,
}

/// Says what has come of a step: a word that matters to it, or the error.
fn tell<T: ToString, E: std::error::Error>(nth: usize, result: Result<T, E>) {
    match result {
        Ok(value) => children::say(&format!("{nth} done {}", value.to_string())),
        Err(error) => children::say(&format!("{nth} failed {error}")),
    }
}

/// What a child has done, and the calls that it has made.
struct Ran {
    status: ExitStatus,
    said: String,
    /// How many calls could have failed.
    calls: usize,
    /// The one that has.
    failed: Option<String>,
    /// In which step the sync of a segment has failed.
    unsynced: Option<usize>,
}

impl Ran {
    fn outcomes(&self, steps: usize) -> Vec<Outcome> {
        let mut all = vec![Outcome::Open; steps];
        for line in self.said.lines().filter_map(|line| line.strip_prefix("child: ")) {
            let mut words = line.splitn(3, ' ');
            let nth: usize = words.next().and_then(|nth| nth.parse().ok()).expect("a number");
            let (how, what) = (words.next(), words.next().unwrap_or_default().to_owned());
            all[nth] =
                if how == Some("done") { Outcome::Done(what) } else { Outcome::Failed(what) };
        }
        all
    }
}

/// Runs a child, of whose calls one fails.
fn run(role: &str, place: &Path, failure: Option<Failure>) -> Ran {
    let mut command = children::command(role, place);
    command.stderr(Stdio::piped()).env("RUST_BACKTRACE", "0");
    let mut tracer = Tracer::spawn(command, &calls::numbers()).expect("traced");
    let (mut calls, mut failed, mut step, mut unsynced) = (0, None, 0, None);
    let status = tracer.run(|call| {
        step += usize::from(calls::tells(call));
        let Some(errnos) = relevant(call, place) else { return Action::Pass };
        calls += 1;
        match failure.filter(|failure| failure.call == calls - 1) {
            None => Action::Pass,
            Some(failure) => {
                let errno = errnos[failure.nth % errnos.len()];
                failed = Some(calls::describe(call, errno));
                unsynced = calls::syncs_a_segment(call).then_some(step);
                Action::Fail(errno)
            }
        }
    });
    let mut said = String::new();
    tracer.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    Ran { status: status.expect("traced"), said, calls, failed, unsynced }
}

/// A directory in memory, where there is one.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().expect("a directory"))
}

/// Has each call fail, and `check` look at what is left. `steps` is how many the role has.
/// It syncs in the steps that `syncs` says.
fn each_call_fails(
    role: &'static str,
    steps: usize,
    syncs: fn(usize) -> bool,
    check: fn(&Path, &[Outcome]),
) {
    if let Some(why) = crash_kit::unsupported() {
        eprintln!("left out: {why}");
        return;
    }
    let attempt = move |failure: Option<Failure>| {
        within(move || {
            let dir = directory();
            let ran = run(role, dir.path(), failure);
            let failed = ran.failed.clone().unwrap_or_default();
            assert!(ran.status.success(), "{failed}: {:?}\n{}", ran.status, ran.said);
            let outcomes = ran.outcomes(steps);
            println!("{failure:?} {failed}: {outcomes:?}");
            check(dir.path(), &outcomes);
            // Nothing is acknowledged as synced that was not.
            if let Some(step) = ran.unsynced.filter(|&step| step < steps && syncs(step)) {
                assert!(matches!(outcomes[step], Outcome::Failed(_)), "{failed}: step {step}");
            }
            ran
        })
    };
    let sound = attempt(None);
    let outcomes = sound.outcomes(steps);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))), "{outcomes:?}");
    assert!(sound.calls > 100, "{} calls", sound.calls);
    let mut missed = 0;
    let (rounds, stride) = match rounds(0) as usize {
        0 => (1, 6),
        rounds => (rounds, 1),
    };
    for call in (0..sound.calls).step_by(stride) {
        for round in 0..rounds {
            let ran = attempt(Some(Failure { call, nth: call + round }));
            missed += usize::from(ran.failed.is_none());
        }
    }
    // Threads may need a call more or less.
    assert!(missed < sound.calls / stride / 10, "{missed} of {} calls were not made", sound.calls);
}

#[test]
fn each_call_of_a_store_may_fail() {
    each_call_fails(
        "store",
        store::steps().len(),
        |step| store::steps()[step].syncs(),
        store::check,
    );
}

#[test]
fn each_call_of_a_log_may_fail() {
    each_call_fails(
        "log",
        log::steps().len(),
        |step| log::steps()[step] == log::Step::Sync,
        log::check,
    );
}
