//! Each system call that a store or a log makes fails once, at each of its occurrences, with an error
//! number that fits it: while it is opened, written, synced, rolled, merged, truncated, backed up,
//! repaired and closed. Nothing panics or hangs, the same directory can be opened afterwards, and what was
//! acknowledged is there.
//!
//! In some attempts the process dies when it has told what came of the step in which the call failed: no
//! later step can make good what that one has left undone. And the calls of threads in the background fail,
//! too, of a store and a log that have such threads.
//!
//! The calls are those of the kernel (crash-kit), so none slips by. `TAILCASK_ROUNDS` says with how many
//! of its error numbers each occurrence fails, with and without a death; by default every sixth occurrence
//! fails, with one of them in turns, and every one that changes names.
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod log;
mod store;
mod unreadable;

use calls::{Failure, relevant};
use common::{children, rounds, within};
use crash_kit::tracer::{Action, Tracer};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tailcask::Maintenance;
use tempfile::TempDir;

/// How long its threads have between two steps of one that has any.
const PAUSE: Duration = Duration::from_millis(3);

#[test]
#[ignore = "the process whose calls fail"]
fn child() {
    let Some((role, place)) = children::role() else { return };
    match &*role {
        "store" => store::work(&place, Maintenance::Manual),
        "log" => log::work(&place, Maintenance::Manual),
        "store-with-threads" => store::work(&place, Maintenance::Background),
        "log-with-threads" => log::work(&place, Maintenance::Background),
        "repair" => unreadable::work(&place),
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
    /// The calls that could have failed: whether each changes names.
    calls: Vec<bool>,
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

/// Runs a child, of whose calls one fails: of those of its threads in the background, if it has any.
fn run(role: &str, place: &Path, failure: Option<Failure>) -> Ran {
    let mut command = children::command(role, place);
    command.stderr(Stdio::piped()).env("RUST_BACKTRACE", "0");
    let mut tracer = Tracer::spawn(command, &calls::numbers()).expect("traced");
    let (mut calls, mut failed, mut step, mut unsynced) = (Vec::new(), None, 0, None);
    let (has_threads, mut told_in) = (role.ends_with("with-threads"), None);
    let dies = failure.is_some_and(|failure| failure.dies);
    let status = tracer.run(|call| {
        if dies && told_in.is_some_and(|told| step > told) {
            return Action::Kill;
        }
        step += usize::from(calls::tells(call));
        let Some(errnos) = relevant(call, place) else { return Action::Pass };
        if has_threads && !calls::is_in_background(call) {
            return Action::Pass;
        }
        calls.push(calls::changes_names(call));
        match failure.filter(|failure| failure.call == calls.len() - 1) {
            None => Action::Pass,
            Some(failure) => {
                let errno = errnos[failure.nth % errnos.len()];
                failed = Some(calls::describe(call, errno));
                told_in = Some(step);
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
    let has_threads = role.ends_with("with-threads");
    if let Some(why) = crash_kit::unsupported() {
        eprintln!("left out: {why}");
        return;
    }
    let attempt = move |failure: Option<Failure>| {
        within(move || {
            let dir = directory();
            let ran = run(role, dir.path(), failure);
            let failed = ran.failed.clone().unwrap_or_default();
            let outcomes = ran.outcomes(steps);
            let may_die = failure.is_some_and(|failure| failure.dies);
            let has_died = may_die && ran.status.signal() == Some(libc::SIGKILL);
            assert!(has_died || ran.status.success(), "{failed}: {:?}\n{}", ran.status, ran.said);
            assert!(has_died || !outcomes.contains(&Outcome::Open), "{failed}: {outcomes:?}");
            println!("{failure:?} {failed}: {outcomes:?}");
            check(dir.path(), &outcomes);
            // Nothing is acknowledged as synced that was not.
            let step = ran.unsynced.filter(|&step| step < steps && syncs(step) && !has_threads);
            if let Some(step) = step {
                assert!(matches!(outcomes[step], Outcome::Failed(_)), "{failed}: step {step}");
            }
            ran
        })
    };
    let sound = attempt(None);
    let outcomes = sound.outcomes(steps);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))), "{outcomes:?}");
    let calls = &sound.calls;
    let least = if has_threads { 20 } else { 100 };
    assert!(calls.len() > least, "{} calls", calls.len());
    let mut attempts = Vec::new();
    for (call, &changes_names) in calls.iter().enumerate() {
        match rounds(0) as usize {
            0 => {
                // One of them in turns; after a name has not changed it shows who relies on it.
                let dies = call / 6 % 2 == 1 || changes_names;
                if changes_names || call % 6 == 0 {
                    attempts.push(Failure { call, nth: call, dies });
                }
            }
            rounds => attempts.extend((0..2 * rounds).map(|round| {
                let (nth, dies) = (call + round / 2, round % 2 == 1);
                Failure { call, nth, dies }
            })),
        }
    }
    let mut missed = 0;
    for &failure in &attempts {
        missed += usize::from(attempt(Some(failure)).failed.is_none());
    }
    // Threads may need a call more or less, and those in the background have more or less to do.
    let most = attempts.len() / if has_threads { 2 } else { 10 };
    assert!(missed <= most, "{missed} of {} calls were not made", attempts.len());
    eprintln!("{role}: {} attempts, {} calls", attempts.len(), calls.len());
}

fn store_calls_fail(role: &'static str) {
    each_call_fails(role, store::steps().len(), |step| store::steps()[step].syncs(), store::check);
}

fn log_calls_fail(role: &'static str) {
    each_call_fails(
        role,
        log::steps().len(),
        |step| log::steps()[step] == log::Step::Sync,
        log::check,
    );
}

#[test]
fn each_call_of_a_store_may_fail() {
    store_calls_fail("store");
}

#[test]
fn each_call_of_a_log_may_fail() {
    log_calls_fail("log");
}

#[test]
fn each_call_of_a_stores_threads_may_fail() {
    store_calls_fail("store-with-threads");
}

#[test]
fn each_call_of_a_logs_threads_may_fail() {
    log_calls_fail("log-with-threads");
}
