//! How a command ends: its exit code, and its last words.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use tailcask::{Corruption, MergeError, OpenError, ReadError, WriteError};

/// What the exit codes mean: for `--help`, the man page, and everyone who writes scripts.
pub(crate) const CODES: &str = "\
Exit codes of all commands:
    0  success; also when the reader of the output has closed it
    1  the answer is no: the key is missing (get, delete) or exists already (put --if-absent)
    2  wrong usage: an unknown option, or a value that an option or a key cannot have
    3  damage: files do not hold what was written to them (repair: something is lost)
    4  done, but what is damaged was left out (scan, export: --skip-damaged)
    5  the store or log is in use by another process, which the message names
    6  any other failure: no such store, permissions, a full disk, input that cannot be read
  130  stopped by SIGINT (Ctrl-C), after saying what was done; 143 by SIGTERM
log tail --follow and stat --watch, once they follow what is written, exit with 0 then. get, put, delete, log \
truncate, completions and man say nothing: the signal itself ends them. A put, delete or truncation is done as a whole \
or not at all.";

const NO: u8 = 1;
const USAGE: u8 = 2;
const DAMAGE: u8 = 3;
const INCOMPLETE: u8 = 4;
const IN_USE: u8 = 5;
const FAILURE: u8 = 6;

/// The answer to a question that the exit code answers.
pub(crate) fn answer(yes: bool) -> ExitCode {
    if yes { ExitCode::SUCCESS } else { ExitCode::from(NO) }
}

/// Whether files are as they were written.
pub(crate) fn sound(nothing_is_lost: bool) -> ExitCode {
    if nothing_is_lost { ExitCode::SUCCESS } else { ExitCode::from(DAMAGE) }
}

/// Done, without what is damaged.
pub(crate) fn incomplete() -> ExitCode {
    ExitCode::from(INCOMPLETE)
}

/// A message with an exit code of its own.
#[derive(Debug)]
struct Ended {
    code: u8,
    message: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Ended {}

/// The command was called in a way that cannot be.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    Ended { code: USAGE, message: message.into() }.into()
}

/// A signal has stopped the command, which has done this.
pub(crate) fn stopped(signal: i32, done: &str) -> anyhow::Error {
    let code = 128 + u8::try_from(signal).unwrap_or_default();
    Ended { code, message: format!("stopped: {done}") }.into()
}

/// The error as text, without causes that could be taken for damage of what was read.
pub(crate) fn undamaged(error: &anyhow::Error) -> anyhow::Error {
    let code = if is_in_use(error) { IN_USE } else { FAILURE };
    Ended { code, message: message(error) }.into()
}

/// The exit code of an error.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if let Some(ended) = error.chain().find_map(|cause| cause.downcast_ref::<Ended>()) {
        ended.code
    } else if is_damage(error) {
        DAMAGE
    } else if is_in_use(error) {
        IN_USE
    } else if error.chain().any(is_usage) {
        USAGE
    } else {
        FAILURE
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    use tailcask::RepairError;
    let locked = |error: &OpenError| matches!(error, OpenError::Locked { .. });
    // A transparent error does not appear in the chain as a cause of its own: look inside.
    error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(locked)
            || matches!(cause.downcast_ref(), Some(RepairError::Open(error)) if locked(error))
    })
}

fn is_usage(cause: &(dyn Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(OpenError::Option { .. }))
        || matches!(cause.downcast_ref(), Some(WriteError::KeyLength { .. }))
}

/// Adds to damage which directory it is in; [`message`] says it once.
pub(crate) fn name_damaged(error: anyhow::Error, dir: &Path) -> anyhow::Error {
    if is_damage(&error) { error.context(dir.display().to_string()) } else { error }
}

/// Whether an error says that files do not hold what was written to them.
fn is_damage(error: &anyhow::Error) -> bool {
    error.chain().any(names_damage)
}

fn names_damage(cause: &(dyn Error + 'static)) -> bool {
    let opening = |error: &OpenError| {
        use OpenError::{Contradiction, Corrupt, Manifest, MissingSegment};
        matches!(error, Corrupt(_) | MissingSegment { .. } | Manifest(_) | Contradiction { .. })
    };
    cause.is::<Corruption>()
        || cause.downcast_ref().is_some_and(opening)
        || matches!(cause.downcast_ref(), Some(ReadError::Corrupt(_)))
        || matches!(cause.downcast_ref(), Some(MergeError::Corrupt(_)))
}

/// An error and its causes in one line, each part once: many errors include their cause already.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !parts.iter().any(|part| says(part, &cause)) {
            parts.retain(|part| !says(&cause, part));
            parts.push(cause);
        }
    }
    parts.join(": ")
}

/// Whether a text contains another one, from the beginning of a word to the end of one.
fn says(whole: &str, part: &str) -> bool {
    let is_edge = |next: Option<char>| !next.is_some_and(char::is_alphanumeric);
    whole.match_indices(part).any(|(at, _)| {
        is_edge(whole[..at].chars().next_back()) && is_edge(whole[at + part.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use std::io;

    #[test]
    fn a_cause_is_said_once() {
        let cause = io::Error::other("no such thing");
        let error = OpenError::Io { operation: "open x".to_owned(), source: cause };
        let error = anyhow::Error::from(error).context("store");
        assert_eq!(message(&error), "store: could not open x: no such thing");
        let named = anyhow!("there is no log in /a/log").context("/a/log");
        assert_eq!(message(&named), "there is no log in /a/log");
        let other = anyhow!("line 23: /a/log2 is missing").context("/a/log").context("line 2");
        assert_eq!(message(&other), "line 2: /a/log: line 23: /a/log2 is missing");
    }

    #[test]
    fn each_kind_of_failure_has_its_code() {
        let code_of = |error: anyhow::Error| code(&error.context("in some place"));
        assert_eq!(code_of(anyhow!("anything")), 6);
        assert_eq!(code_of(usage("what?")), 2);
        assert_eq!(code_of(stopped(2, "done")), 130);
        assert_eq!(code_of(stopped(15, "done")), 143);
        assert_eq!(code_of(WriteError::KeyLength { len: 0 }.into()), 2);
        assert_eq!(code_of(OpenError::Manifest("it is missing").into()), 3);
        let older = OpenError::Contradiction { segment: 3, what: "it is older" };
        assert_eq!(code_of(older.into()), 3);
        assert_eq!(code(&undamaged(&OpenError::Manifest("it is missing").into())), 6);
    }
}
