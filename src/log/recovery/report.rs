//! What opening found.

use super::evidence::Suspect;
use super::losses::{DamagedRange, InDoubt, LostFrame};
use crate::error::Corruption;
use crate::position::LogPosition;
use std::fmt;
use std::time::Duration;

/// What was found when the log was opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Segments that were sealed, and not scanned.
    pub sealed_segments: u64,
    /// Segments whose keys a store took from their hints. The rest it read.
    pub hinted_segments: u64,
    /// Segments that were not sealed: the log was not closed. With
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage) also sealed ones that are damaged.
    pub recovered_segments: u64,
    /// Whether the kernel still runs under which those were written, and their files are the ones
    /// that were written to: then the process died, and nothing that was acknowledged is lost.
    pub same_boot: bool,
    /// Sound frames in recovered segments.
    pub frames: u64,
    /// Entries in recovered segments.
    pub entries: u64,
    /// Ranges that a dead process had reserved and not begun to write.
    pub holes: u64,
    /// Frames that a dead process had begun and not finished.
    pub dead_claims: u64,
    /// Bytes behind the end of the log that were written and do not count: what a power loss tore,
    /// or what stands behind an append that a dead process left unfinished when the machine was
    /// restarted before the log was opened again.
    pub torn_bytes: u64,
    /// Where those begin.
    pub torn_from: Option<LogPosition>,
    /// Damage that was stepped over. Only with
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage).
    pub lost: Vec<Corruption>,
    /// The damaged places, each with its length. Only with
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage), as the next two.
    pub damaged: Vec<DamagedRange>,
    /// What is gone. Where the log is a store's: the keys of which the newest version was damaged, a
    /// tombstone included, and damaged frames whose key cannot be told. A damaged frame whose key has a
    /// newer version that is sound is not here: nothing is lost.
    pub gone: Vec<LostFrame>,
    /// What was taken although a strict recovery would not have taken it.
    pub in_doubt: Vec<InDoubt>,
    /// What is known of the frames that are gone, for the store to tell more.
    pub(crate) suspects: Vec<Suspect>,
    /// Files that contradict the MANIFEST, and what was done about each. Only with
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage): without it they are an error.
    pub contradictions: Vec<Contradiction>,
    /// The files in the folder `set-aside`: what was cut off or could not be accounted for. Nothing
    /// in it is used, or ever removed; [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage) looks
    /// there for what can be brought back.
    pub set_aside: Vec<SetAside>,
    /// Whether it was of an older format version, and is of this one now.
    pub upgraded: bool,
    /// How long it took.
    pub duration: Duration,
}

/// A file that contradicts the MANIFEST.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contradiction {
    /// The id of the segment.
    pub segment: u32,
    /// What is wrong.
    pub what: &'static str,
    /// Whether its frames were taken; if not, it was set aside.
    pub taken: bool,
}

/// A file in the folder `set-aside`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetAside {
    /// Its name there. Empty where there was no space for a copy: then the bytes were left where
    /// they are, behind the end of their segment.
    pub name: String,
    /// Bytes that it takes, or that were left.
    pub bytes: u64,
    /// Why it was set aside just now; `None` for what was there before.
    pub reason: Option<&'static str>,
}

impl RecoveryReport {
    /// Whether the log had been closed properly, and is whole.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.recovered_segments == 0
            && self.torn_bytes == 0
            && self.lost.is_empty()
            && self.damaged.is_empty()
            && self.in_doubt.is_empty()
            && self.contradictions.is_empty()
            && self.set_aside.iter().all(|file| file.reason.is_none())
    }
}

impl RecoveryReport {
    /// Whether everything that was written is there, as far as can be told: no value, tombstone or
    /// entry is gone. (There may be damage in what nothing needs.)
    #[must_use]
    pub const fn nothing_is_lost(&self) -> bool {
        self.gone.is_empty()
    }
}

/// Lists are cut short behind so many.
const SHOWN: usize = 3;

/// Writes how many there are of something, and the first few.
fn few<T: fmt::Display>(f: &mut fmt::Formatter<'_>, what: &str, all: &[T]) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    write!(f, "; {what}: {}", all.len())?;
    for (nth, one) in all.iter().take(SHOWN).enumerate() {
        write!(f, "{}{one}", if nth == 0 { " (" } else { "; " })?;
    }
    f.write_str(if all.len() > SHOWN { "; ...)" } else { ")" })
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            write!(f, "clean, {} sealed segments", self.sealed_segments)?;
        } else {
            let cause = if self.same_boot { "the process died" } else { "the machine stopped" };
            write!(
                f,
                "{cause}: {} entries in {} unsealed segments",
                self.entries, self.recovered_segments
            )?;
            write!(f, ", {} holes, {} unfinished appends", self.holes, self.dead_claims)?;
        }
        if let Some(from) = self.torn_from {
            write!(f, ", {} bytes from {from} on do not count", self.torn_bytes)?;
        }
        for Contradiction { segment, what, taken } in &self.contradictions {
            let done = if *taken { "taken" } else { "set aside" };
            write!(f, "; segment {segment}: {what} ({done})")?;
        }
        if self.damaged.is_empty() {
            few(f, "damaged places", &self.lost)?;
        }
        few(f, "damaged places", &self.damaged)?;
        few(f, "lost", &self.gone)?;
        few(f, "in doubt", &self.in_doubt)?;
        match self.set_aside.len() {
            0 => Ok(()),
            1 => write!(f, "; 1 file in set-aside"),
            files => write!(f, "; {files} files in set-aside"),
        }
    }
}
