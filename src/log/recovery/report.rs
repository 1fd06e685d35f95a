//! The recovery report: what opening a log found.

use super::losses::{DamagedRange, FrameEvidence, InDoubt, LostFrame};
use crate::error::Corruption;
use crate::position::LogPosition;
use std::fmt;
use std::time::Duration;

/// What opening a log or a store found, and what it did about it.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("store");
/// # tailcask::Store::open(&dir)?.close()?;
/// let store = tailcask::Store::open(&dir)?;
/// let found = store.recovery();
/// if !found.is_clean() {
///     println!("{found}"); // in one line
/// }
/// assert!(found.nothing_is_lost());
/// # assert!(found.is_clean());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Sealed segments, which were not scanned.
    pub sealed_segments: u64,
    /// Segments whose keys a store loaded from their hints. It read the others.
    pub hinted_segments: u64,
    /// Segments that were not sealed, because the log was not closed. With
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage) also damaged sealed segments.
    pub recovered_segments: u64,
    /// Whether these were written in the current boot of the machine, to these very files: then only
    /// the process died, and nothing that was acknowledged is lost.
    pub same_boot: bool,
    /// Sound frames in recovered segments.
    pub frames: u64,
    /// Entries in recovered segments.
    pub entries: u64,
    /// Ranges that a dead process had reserved but not claimed.
    pub holes: u64,
    /// Frames that a dead process had claimed but not committed.
    pub dead_claims: u64,
    /// Bytes written behind the end of the log, which were cut off: torn by a power loss, or behind an
    /// append that a dead process left unfinished before the machine was restarted.
    pub torn_bytes: u64,
    /// Where the torn bytes begin.
    pub torn_from: Option<LogPosition>,
    /// Damage that was skipped. Only with [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage).
    pub lost: Vec<Corruption>,
    /// The damaged ranges. Only with [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage), like the
    /// next two.
    pub damaged: Vec<DamagedRange>,
    /// The lost frames. In a store these are damaged values and tombstones that were the newest of
    /// their key, and damaged frames whose key is unknown. A damaged frame whose key has a newer sound
    /// version is not listed, since nothing is lost.
    pub gone: Vec<LostFrame>,
    /// What was taken although a strict recovery would have cut it off.
    pub in_doubt: Vec<InDoubt>,
    /// What is known of the lost frames, from which the store finds out their keys.
    pub(crate) suspects: Vec<FrameEvidence>,
    /// Files that contradict the MANIFEST, and what was done with each. Only with
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage): otherwise they are an error.
    pub contradictions: Vec<Contradiction>,
    /// The files in the folder `set-aside`: what was cut off, replaced, or could not be accounted for.
    /// They are never deleted, and used only by
    /// [`RecoveryMode::Salvage`](crate::RecoveryMode::Salvage), which brings back what was cut off.
    pub set_aside: Vec<SetAside>,
    /// Whether the log was of an older format version and has been upgraded.
    pub upgraded: bool,
    /// How long opening took.
    pub duration: Duration,
}

/// A file that contradicts the MANIFEST, as a [`RecoveryReport`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contradiction {
    /// The id of the segment.
    pub segment: u32,
    /// What is wrong.
    pub what: &'static str,
    /// Whether its frames were taken; otherwise it was set aside.
    pub taken: bool,
}

/// A file in the folder `set-aside`, as a [`RecoveryReport`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetAside {
    /// Its name in that folder. Empty if there was no space for that: then the bytes were left where
    /// they are, behind the end of the log or of their segment.
    pub name: String,
    /// Bytes on disk, or bytes that were left in place.
    pub bytes: u64,
    /// Why this opening set it aside; `None` if an earlier one did.
    pub reason: Option<&'static str>,
}

impl RecoveryReport {
    /// Whether the log had been closed properly and is intact.
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
    /// Whether no value, tombstone or entry is lost, as far as can be determined. (There may be damage
    /// in frames that are no longer current.)
    #[must_use]
    pub const fn nothing_is_lost(&self) -> bool {
        self.gone.is_empty()
    }
}

/// Lists show at most this many items.
const SHOWN: usize = 3;

/// A count with its unit, in the singular or the plural.
fn counted(count: u64, unit: &str) -> String {
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// Writes the number of items and the first few of them.
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
            write!(f, "clean, {}", counted(self.sealed_segments, "sealed segment"))?;
        } else {
            let cause =
                if self.same_boot { "the process died" } else { "the power may have failed" };
            let entries = if self.entries == 1 { "entry" } else { "entries" };
            let segments = counted(self.recovered_segments, "unsealed segment");
            let holes = counted(self.holes, "hole");
            let claims = counted(self.dead_claims, "unfinished append");
            write!(f, "{cause}: {} {entries} in {segments}, {holes}, {claims}", self.entries)?;
        }
        if let Some(from) = self.torn_from {
            write!(f, ", {} bytes from {from} on are cut off", self.torn_bytes)?;
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
