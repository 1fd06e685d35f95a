//! Running the command.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// The command with arguments, and pipes for what it prints.
pub(crate) fn tailcask(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcask"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the command to its end.
pub(crate) fn run(args: &[&str], input: &[u8]) -> Output {
    let mut child = tailcask(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may end before it has read everything.
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = feeder.join().unwrap();
    assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
    output
}

/// Runs the command, which has to end with this exit code; gives what it prints and complains about.
pub(crate) fn run_to(code: i32, args: &[&str]) -> (String, String) {
    let output = run(args, b"");
    let (out, complaint) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{complaint}");
    (out, complaint)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
