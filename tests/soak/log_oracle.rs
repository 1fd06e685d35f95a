//! What must be in the log.

use crate::content::Entry;
use crate::followers::Progress;
use crate::journal::{Outcome, Record};
use crate::plan::KEPT;
use tailcask::{CheckpointError, CommitLog, LogPosition};

pub(crate) type Placed = (LogPosition, Entry);

/// All entries, each as it was given.
pub(crate) fn entries(log: &CommitLog) -> Result<Vec<Placed>, String> {
    let (mut reader, mut all) = (log.reader(), Vec::new());
    while let Some(entry) = reader.next_entry().map_err(|error| error.to_string())? {
        let at = entry.position();
        all.push((at, Entry::parse(&entry).ok_or_else(|| format!("{at} was never appended"))?));
    }
    Ok(all)
}

#[derive(Clone, Debug, Default)]
pub(crate) struct LogOracle {
    pub(crate) entries: Vec<Placed>,
    begin: LogPosition,
}

impl LogOracle {
    /// Compares a log with what a session may have left of it; gives what is there.
    pub(crate) fn check(&self, session: &[Vec<Record>], log: &CommitLog) -> Result<Self, String> {
        let (found, begin) = (entries(log)?, log.begin());
        self.check_beginning(session, log)?;
        let known: Vec<_> = self.entries.iter().filter(|(at, _)| *at >= begin).collect();
        let mut pairs = known.iter().enumerate();
        if let Some((nth, known)) = pairs.find(|(nth, known)| found.get(*nth) != Some(*known)) {
            return Err(format!("{known:x?} was there, and now {:x?} is", found.get(nth)));
        }
        let new = &found[known.len()..];
        if !new.is_sorted_by_key(|(at, _)| *at) || new.first().is_some_and(|(at, _)| *at < begin) {
            return Err("entries are not in the order of their positions".to_owned());
        }
        for (appender, records) in session.iter().enumerate() {
            let appender = appender as u64;
            let own = new.iter().filter(|(_, entry)| entry.appender == appender);
            check_appender(appender, records, &own.copied().collect::<Vec<_>>(), begin)?;
        }
        Ok(Self { entries: found, begin })
    }

    fn check_beginning(&self, session: &[Vec<Record>], log: &CommitLog) -> Result<(), String> {
        let begin = log.begin();
        if begin < self.begin {
            return Err(format!("the log began at {}, and now at {begin}", self.begin));
        }
        let list = log.stats().segment_list;
        let kept: u64 = list.iter().map(|s| u64::from(s.end.offset() - s.begin.offset())).sum();
        // What had begun counted, too, and may not be there now.
        let open = session.iter().enumerate().map(|(nth, records)| open_bytes(nth as u64, records));
        // The first segment has the id 1.
        if begin > self.begin && begin.segment() > 1 && kept + open.sum::<u64>() < KEPT {
            return Err(format!("only {kept} bytes were kept, of at least {KEPT}"));
        }
        Ok(())
    }

    /// A consumer that goes on from its checkpoint gets each entry that it has not read yet.
    pub(crate) fn check_consumer(
        &self,
        log: &CommitLog,
        progress: &Progress,
    ) -> Result<(), String> {
        let checkpoint = &progress.checkpoint;
        let mut reader = match log.reader_from_checkpoint(checkpoint) {
            Ok(reader) => reader,
            Err(CheckpointError::Truncated { begin, .. }) if checkpoint.position() < begin => {
                return Ok(());
            }
            Err(error) => return Err(format!("{checkpoint}: {error}")),
        };
        let expected = self.entries.iter().filter(|(at, _)| *at > progress.seen.position);
        for (at, expected) in expected {
            let entry = reader.next_entry().map_err(|error| error.to_string())?;
            let found = entry.as_ref().map(|entry| (entry.position(), Entry::parse(entry)));
            if found != Some((*at, Some(*expected))) {
                return Err(format!(
                    "from {checkpoint}: {expected:x?} at {at} expected, {found:x?} read"
                ));
            }
        }
        match reader.next_entry() {
            Ok(None) => Ok(()),
            other => Err(format!("from {checkpoint}: {other:?} at the end")),
        }
    }
}

/// The bytes of frames that a thread had begun, and a sync mark.
fn open_bytes(appender: u64, records: &[Record]) -> u64 {
    let open = records.iter().filter(|record| record.outcome == Outcome::Open);
    let entries = open.flat_map(|record| record.key..record.key + record.version);
    let lens = entries.map(|nth| Entry { appender, nth }.bytes().len() as u64 + 16 + 7);
    lens.sum::<u64>() + 16 + 24
}

/// What one thread has appended is there, but for what was truncated; so may be what it had begun to append.
fn check_appender(
    appender: u64,
    records: &[Record],
    found: &[Placed],
    begin: LogPosition,
) -> Result<(), String> {
    let (mut acknowledged, mut open) = (Vec::new(), Vec::new());
    for record in records.iter().filter(|record| record.outcome != Outcome::NoSpace) {
        let is_open = record.outcome == Outcome::Open;
        for nth in record.key..record.key + record.version {
            let at = if nth == record.key { record.aux } else { 0 };
            let list = if is_open { &mut open } else { &mut acknowledged };
            list.push((Entry { appender, nth }, LogPosition::from_u64(at)));
        }
    }
    let with_open = [&acknowledged[..], &open].concat();
    let ends = |all: &[(Entry, LogPosition)]| {
        all.len() >= found.len()
            && all[all.len() - found.len()..].iter().zip(found).all(|((entry, at), found)| {
                *entry == found.1 && (at.as_u64() == 0 || *at == found.0)
            })
    };
    let Some(all) = [&with_open, &acknowledged].into_iter().find(|all| ends(all)) else {
        return Err(format!(
            "of appender {appender} {} entries are acknowledged, {} are open, to {:x?}, and {} found, to {:x?}",
            acknowledged.len(),
            open.len(),
            with_open.last(),
            found.len(),
            found.last(),
        ));
    };
    let mut missing = all[..all.len() - found.len()].iter();
    match missing.find(|(_, at)| at.as_u64() != 0 && *at >= begin) {
        Some(lost) => Err(format!("{lost:x?} is missing, and the log begins at {begin}")),
        None => Ok(()),
    }
}
