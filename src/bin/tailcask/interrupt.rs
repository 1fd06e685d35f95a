//! SIGINT (Ctrl-C) and SIGTERM: a command that may take long stops where it can, and says what was done. A
//! second signal ends it at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Whether a signal has come. From here on it does not end the process.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    signal: Arc<AtomicUsize>,
    /// Something to read, as soon as a signal has come.
    wakes: Arc<UnixStream>,
}

impl Interrupt {
    pub(crate) fn watch() -> io::Result<Self> {
        let (signal, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (wakes, wake) = UnixStream::pair()?;
        for number in [SIGINT, SIGTERM] {
            // First what stops the command: from here on the signal does not end the process by itself.
            flag::register_usize(number, signal.clone(), number as usize)?;
            pipe::register(number, wake.try_clone()?)?;
            flag::register_conditional_default(number, again.clone())?;
            flag::register(number, again.clone())?;
        }
        Ok(Self { signal, wakes: Arc::new(wakes) })
    }

    /// The signal that has come.
    pub(crate) fn signal(&self) -> Option<i32> {
        // ORDERING: Relaxed; the number publishes no other memory.
        let number = self.signal.load(Relaxed);
        i32::try_from(number).ok().filter(|&number| number != 0)
    }

    pub(crate) fn came(&self) -> bool {
        self.signal().is_some()
    }

    /// An error, if a signal has come.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.came() { Err(anyhow::anyhow!("a signal came")) } else { Ok(()) }
    }

    /// The result of a command; if a signal has made it fail, what it had done until then.
    pub(crate) fn or_stopped<T>(
        &self,
        result: anyhow::Result<T>,
        done: impl FnOnce() -> String,
    ) -> anyhow::Result<T> {
        match (result, self.signal()) {
            (Err(_), Some(signal)) => Err(crate::exit::stopped(signal, &done())),
            (result, _) => result,
        }
    }

    /// Does work that cannot be stopped in the middle, and calls `tick` some times a second meanwhile. A
    /// signal ends the process, with what was done until then; its death loses nothing. If `done` gives
    /// nothing, all is done but for the end of it, which is waited for.
    pub(crate) fn beside<R: Send>(
        &self,
        work: impl FnOnce() -> R + Send,
        mut tick: impl FnMut(),
        done: impl Fn() -> Option<String>,
    ) -> R {
        let result = std::thread::scope(|scope| {
            let work = scope.spawn(work);
            let mut pause = Duration::from_millis(1);
            while !work.is_finished() {
                if self.wait(pause).is_err() {
                    break;
                }
                if let Some(signal) = self.signal() {
                    // The work may have come to its end since it was looked at.
                    let Some(done) = done().filter(|_| !work.is_finished()) else { break };
                    end(signal, &done);
                }
                tick();
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            work.join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// As [`beside`](Self::beside), for work that only reads: nothing is left behind, whenever it ends.
    pub(crate) fn beside_reading<R: Send>(
        &self,
        work: impl FnOnce() -> R + Send,
        done: impl Fn() -> String,
    ) -> R {
        self.beside(work, || {}, || Some(done()))
    }

    /// A file whose reading fails once a signal has come, even if it is waiting for input then.
    pub(crate) fn guard(&self, file: File) -> Interruptible {
        Interruptible { file, interrupt: self.clone() }
    }

    /// Waits for a signal, at most so long. True if one has come.
    pub(crate) fn wait(&self, time: Duration) -> io::Result<bool> {
        let mut signals = [rustix::event::PollFd::new(&*self.wakes, rustix::event::PollFlags::IN)];
        wait_for(&mut signals, Some(time))?;
        Ok(self.came())
    }
}

/// What a signal leaves of a check, which ends by itself with the first damage that it finds.
pub(crate) fn not_all_was_checked() -> String {
    "no damage was found so far; the rest was not checked".to_owned()
}

/// Ends the process for a signal, with what was done until then.
fn end(signal: i32, done: &str) -> ! {
    let stopped = crate::exit::stopped(signal, done);
    let _ = writeln!(io::stderr(), "tailcask: {stopped}");
    std::process::exit(crate::exit::code(&stopped).into())
}

fn wait_for(events: &mut [rustix::event::PollFd<'_>], time: Option<Duration>) -> io::Result<()> {
    let time = time.and_then(|time| rustix::event::Timespec::try_from(time).ok());
    match rustix::event::poll(events, time.as_ref()) {
        // A signal: the caller looks.
        Err(rustix::io::Errno::INTR) => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// Input that a signal ends.
#[derive(Debug)]
pub(crate) struct Interruptible {
    file: File,
    interrupt: Interrupt,
}

impl Read for Interruptible {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        use rustix::event::{PollFd, PollFlags};
        loop {
            if self.interrupt.came() {
                return Err(io::Error::other("a signal came"));
            }
            let input = PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::IN);
            let mut events = [PollFd::new(&*self.interrupt.wakes, PollFlags::IN), input];
            wait_for(&mut events, None)?;
            // Also at its end, and on an error, which reading it then gives.
            if !events[1].revents().is_empty() {
                return self.file.read(bytes);
            }
        }
    }
}

/// A file by its name; `-` is standard input.
pub(crate) fn open_input(path: &std::path::Path) -> anyhow::Result<(File, Option<u64>)> {
    use anyhow::Context;
    if path == std::path::Path::new("-") {
        let input = io::stdin().as_fd().try_clone_to_owned();
        return Ok((input.context("standard input")?.into(), None));
    }
    let named = || path.display().to_string();
    let file = File::open(path).with_context(named)?;
    let metadata = file.metadata().with_context(named)?;
    if metadata.is_dir() {
        anyhow::bail!("{} is a directory", path.display());
    }
    Ok((file, metadata.is_file().then_some(metadata.len())))
}
