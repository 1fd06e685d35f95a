//! Merging by hand and by the policy: segments are merged in runs, a few at a time.

use super::candidates::{Candidate, RUN};
use super::policy;
use super::report::MergeReport;
use super::run::Run;
use super::throttle::Pace;
use crate::error::{AppendError, MergeError};
use crate::latency::Operation;
use crate::segment::Segment;
use crate::store::Store;
use crate::store::inner::{Merging, StoreInner};
use crate::sync::lock;
use std::sync::Arc;
use std::time::Instant;

impl Store {
    /// Merges all segments that have dead bytes, and small ones, at full speed. It first makes another
    /// segment active, so that everything written so far is included. Writers and readers continue; one
    /// merge runs at a time. Meant for occasional use: called in a loop, it makes writers wait for one
    /// roll after the other.
    ///
    /// # Errors
    /// [`MergeError`]; nothing is lost, and runs completed before the error stay merged.
    pub fn merge(&self) -> Result<MergeReport, MergeError> {
        let _inside = self.enter().ok_or(MergeError::Closing)?;
        let writer = self.writer();
        match writer.roll_if_used() {
            // Merge the segments that are full already, which may make room.
            Err(AppendError::NoSpace { .. }) => {}
            other => other?,
        }
        writer.sync()?;
        let mut merging = self.inner.merging();
        self.inner.list_sealed(true);
        let all = self.inner.candidates();
        let small = |candidate: &Candidate| candidate.usage.used < writer.segment_size() / 2;
        let several =
            all.iter().filter(|candidate| candidate.usage.mergeable && small(candidate)).count()
                > 1;
        let wanted = |candidate: &&Candidate| {
            let usage = &candidate.usage;
            let gain = usage.dead > 0 || candidate.tombstones > 0 || several && small(candidate);
            usage.mergeable && gain || candidate.retry
        };
        let ids: Vec<_> = all.iter().filter(wanted).map(|candidate| candidate.usage.id).collect();
        drop(all);
        self.inner.merge_in_runs(&mut merging, &ids, Pace::Full)
    }

    /// Whether the policy would merge anything now.
    #[must_use]
    pub fn needs_merge(&self) -> bool {
        !self.inner.due().0.is_empty()
    }
}

impl StoreInner {
    /// Merges those of the segments with these ids that can be merged; `meanwhile` runs once, after the
    /// records are copied and before slots are moved.
    #[cfg(feature = "testing")]
    pub(crate) fn merge_these(
        &self,
        ids: &[u32],
        meanwhile: impl FnOnce() + Send + 'static,
    ) -> Result<MergeReport, MergeError> {
        let mut merging = self.merging();
        merging.meanwhile = Some(Box::new(meanwhile));
        self.list_sealed(true);
        let mut ids = ids.to_vec();
        let all = self.candidates();
        let may_be = |candidate: &&Candidate| candidate.usage.mergeable || candidate.retry;
        let mergeable: Vec<_> = all.iter().filter(may_be).map(|c| c.usage.id).collect();
        drop(all);
        ids.retain(|id| mergeable.contains(id));
        self.merge_in_runs(&mut merging, &ids, Pace::Full)
    }

    /// Merges segments in runs, the oldest first, so that tombstones in later runs need not be kept for
    /// values in earlier ones.
    pub(crate) fn merge_in_runs(
        &self,
        merging: &mut Merging,
        ids: &[u32],
        pace: Pace,
    ) -> Result<MergeReport, MergeError> {
        let mut total = MergeReport::default();
        let live = |candidate: &Candidate| candidate.usage.used - candidate.usage.dead;
        // Released here: as long as one is kept, its file takes space.
        let mut chosen = self.candidates();
        chosen.retain(|candidate| ids.contains(&candidate.usage.id));
        // Completely dead segments come first and separately: they need no output, and free space.
        let oldest =
            |candidate: &Candidate| candidate.segment.census.get().map(|census| census.oldest);
        chosen.sort_by_key(|candidate| (live(candidate) > 0, oldest(candidate)));
        let (mut budget, mut most) = (self.writer.segment_size() * RUN, usize::MAX);
        let mut failure = None;
        while let Some(first) = chosen.first() {
            let (dead, mut sum) = (live(first) == 0, 0);
            let fits = |candidate: &&Candidate| {
                sum += candidate.copied;
                sum <= budget && (live(candidate) == 0) == dead
            };
            let count = chosen.iter().take(most).take_while(fits).count().max(1);
            let inputs =
                chosen[..count].iter().map(|candidate| candidate.segment.clone()).collect();
            match self.merge_once(merging, inputs, pace) {
                Ok(report) => {
                    total.add(&report);
                    chosen.drain(..count);
                }
                // A smaller run may find room.
                Err(MergeError::Append(AppendError::NoSpace { .. })) if count > 1 => {
                    let copied = chosen[..count].iter().map(|candidate| candidate.copied);
                    budget = copied.sum::<u64>() / 4;
                    most = count / 2;
                }
                // There may be room for the live frames of another segment.
                Err(error @ MergeError::Append(AppendError::NoSpace { .. }))
                    if chosen.len() > 1 =>
                {
                    drop(chosen.remove(0));
                    if failure.is_none() {
                        self.failed(&error);
                        failure = Some(error);
                    }
                }
                // Merge around the damaged segment.
                Err(MergeError::Corrupt(damage))
                    if chosen[..count]
                        .iter()
                        .any(|candidate| candidate.usage.id == damage.segment) =>
                {
                    chosen.retain(|candidate| candidate.usage.id != damage.segment);
                    if self.has_to_stay(&damage) {
                        lock(&self.totals).failures += 1;
                        failure.get_or_insert(MergeError::Corrupt(damage));
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    return Err(error);
                }
            }
        }
        failure.map_or(Ok(total), Err)
    }

    /// Records the outputs of a merge that gained nothing.
    fn settle(&self, report: &MergeReport, outputs: Vec<Arc<Segment>>) {
        let mut settled = lock(&self.settled);
        let there = self.writer.segment_set().segments();
        settled.forget(|id| there.iter().any(|segment| segment.id() == id));
        let MergeReport { inputs, outputs: made, bytes_read, bytes_reclaimed, .. } = *report;
        if !policy::gains(inputs, made, bytes_read, bytes_reclaimed) {
            tracing::debug!(?report, "a merge gained nothing");
            outputs
                .into_iter()
                .for_each(|output| settled.note(&self.candidate(output, None).usage));
        }
    }

    fn failed(&self, error: &MergeError) {
        match error {
            // Not permanent, and not a failure.
            MergeError::Closing => return,
            MergeError::Corrupt(damage) => _ = self.has_to_stay(damage),
            _ => {}
        }
        lock(&self.totals).failures += 1;
    }

    fn merge_once(
        &self,
        merging: &mut Merging,
        inputs: Vec<Arc<Segment>>,
        pace: Pace,
    ) -> Result<MergeReport, MergeError> {
        let started = Instant::now();
        let mut run = Run::new(self, inputs, pace);
        let copied = run.copy().and_then(|()| run.keep_tombstones());
        let copied = copied.and_then(|()| run.output.seal());
        if let Err(error) = copied {
            run.discard();
            return Err(error);
        }
        merging.meanwhile.take().into_iter().for_each(|meanwhile| meanwhile());
        let outputs = run.output.done.clone();
        let mut report = run.replace()?;
        report.duration = started.elapsed();
        self.settle(&report, outputs);
        tracing::info!(?report, "merged");
        self.reclaimed.add(report.bytes_read.saturating_sub(report.bytes_written));
        let mut totals = lock(&self.totals);
        totals.merges += 1;
        totals.bytes_read += report.bytes_read;
        totals.bytes_written += report.bytes_written;
        totals.bytes_reclaimed += report.bytes_reclaimed;
        totals.time += report.duration;
        self.timer.record(Operation::Merge, report.duration);
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Corruption, CorruptionKind};
    use crate::options::Maintenance;
    use crate::position::LogPosition;
    use crate::storage::simulated::SimulatedDisk;
    use crate::store::merge::tombstones::{Question, TombstoneFilter};

    fn store() -> Store {
        let options = Store::options().segment_size(2 << 20).maintenance(Maintenance::Manual);
        options.open_simulated(&SimulatedDisk::new()).unwrap()
    }

    fn full(store: &Store) -> Vec<u32> {
        store.inner.candidates().iter().map(|candidate| candidate.usage.id).collect()
    }

    /// However it came about: a segment that a slot points into is not removed.
    #[test]
    fn a_segment_that_a_slot_points_into_is_not_retired() {
        let store = store();
        store.put("key", "value").unwrap();
        store.put("other", "one").unwrap();
        store.roll().unwrap();
        store.put("other", "two").unwrap();
        store.roll().unwrap();
        let ids = full(&store);
        // A pad, a place inside of a frame, and a frame with another key.
        for offset in [1 << 20, 136, 128] {
            let stale = LogPosition::new(ids[0], offset);
            let tag = store.inner.keydir.tag(b"nobody's");
            store.inner.keydir.entry(tag, |at| at == stale).set(stale);
            match store.merge_only(&ids).unwrap_err() {
                MergeError::Corrupt(Corruption { segment, offset: at, kind, .. }) => {
                    assert_eq!((segment, at), (ids[0], offset.into()));
                    assert_eq!(kind, CorruptionKind::StaleSlot);
                }
                other => panic!("{other}"),
            }
            assert!(full(&store).contains(&ids[0]));
            assert_eq!(store.stats().damaged.len(), 1);
            assert_eq!(store.get("key").unwrap().as_deref(), Some(&b"value"[..]));
            assert_eq!(store.get("other").unwrap().as_deref(), Some(&b"two"[..]));
            let _ = store.inner.keydir.entry(tag, |at| at == stale).remove();
            lock(&store.inner.damaged).clear();
        }
        store.merge_only(&ids).unwrap();
        assert!(!full(&store).contains(&ids[0]));
        assert_eq!(store.get("key").unwrap().as_deref(), Some(&b"value"[..]));
        store.verify().unwrap();
    }

    /// The questions of a key that was never written, for each of these positions.
    fn ask(
        store: &Store,
        before: LogPosition,
        after: impl FnMut(u64) -> Result<(), &'static str>,
    ) -> Result<bool, &'static str> {
        let filter = TombstoneFilter::new(store.inner.contents(), &[]);
        let name = store.inner.keydir.name(b"never written");
        let mut questions = [Question::new(name, before)];
        filter.ask(&mut questions, after)?;
        Ok(questions[0].may_be)
    }

    /// A delete that has committed its tombstone and not counted the put yet.
    #[test]
    fn a_filter_waits_for_deletes_that_have_not_counted() {
        let store = store();
        store.put("key", "value").unwrap();
        store.roll().unwrap();
        store.inner.list_sealed(false);
        let keydir = &store.inner.keydir;
        let before = LogPosition::new(store.log().tail().segment(), 0);
        let (locked, is_locked) = std::sync::mpsc::channel();
        let (asked, was_asked) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let store = &store;
            scope.spawn(move || {
                let entry = keydir.entry(keydir.tag(b"key"), |_| true);
                locked.send(()).unwrap();
                // Longer than a filter takes that does not wait.
                let _ = was_asked.recv_timeout(std::time::Duration::from_millis(300));
                store.inner.remove_slot(entry, None);
            });
            is_locked.recv().unwrap();
            let filter = TombstoneFilter::new(store.inner.contents(), &[]);
            let mut questions = [Question::new(keydir.name(b"key"), before)];
            filter.ask(&mut questions, |_| Ok::<_, MergeError>(())).unwrap();
            let _ = asked.send(());
            assert!(questions[0].may_be, "the put is there");
        });
    }

    /// Hints are read only where something may be hidden; and so that a merge that reads many can be
    /// slowed down, and ended.
    #[test]
    fn hints_are_asked_one_by_one_and_only_if_they_must_be() {
        let store = store();
        for n in 0..5u8 {
            store.put([n], "value").unwrap();
            store.roll().unwrap();
        }
        store.inner.list_sealed(false);
        let first = LogPosition::new(full(&store)[0], 0);
        let newest = |store: &Store| LogPosition::new(store.log().tail().segment(), 0);
        let not_read = |bytes| if bytes == 0 { Ok(()) } else { Err("it is read") };
        assert_eq!(ask(&store, newest(&store), not_read), Ok(false), "nothing in them is dead");
        (0..5u8).for_each(|n| _ = store.put([n], "other").unwrap());
        store.roll().unwrap();
        store.inner.list_sealed(false);
        let mut read = Vec::new();
        let count = |bytes| {
            read.push(bytes > 0);
            Ok(())
        };
        assert_eq!(ask(&store, newest(&store), count), Ok(false));
        assert_eq!(
            read,
            [true, true, true, true, true, false, false],
            "the newest is not in doubt"
        );
        let mut calls = 0;
        let ended = ask(&store, newest(&store), |_| {
            calls += 1;
            if calls == 2 { Err("closing") } else { Ok(()) }
        });
        assert_eq!((ended, calls), (Err("closing"), 2));
        // Nor are hints of segments that are newer than every tombstone in question.
        assert_eq!(ask(&store, first, not_read), Ok(false));
    }
}
