//! Appending, rolling and syncing, step by step.

use crate::log::{Flaw, Leader, Log, LogSpec, Place, Segment, Store, Word, Writer};
use crate::page::Page;

/// Each returns `None` if the step cannot be taken.
impl LogSpec {
    pub(crate) fn reserve(&self, log: &mut Log, writer: usize, len: u16) -> Option<()> {
        let (at, rest) = ((log.last(), log.tail), self.capacity - log.tail);
        if log.writers[writer] != Writer::Idle || rest == 0 {
            return None;
        }
        log.writers[writer] = if len <= rest {
            log.entries += 1;
            Writer::Appends { at, entry: log.entries, len, stores: 0 }
        } else {
            Writer::Pads { at, len: rest }
        };
        log.tail += len.min(rest);
        Some(())
    }

    pub(crate) fn store(&self, log: &mut Log, writer: usize, store: Store) -> Option<()> {
        let Writer::Appends { at, entry, len, stores } = log.writers[writer] else { return None };
        let order = match self.flaw {
            Some(Flaw::CommitsBeforeFilling) => [Store::Claim, Store::Commit, Store::Fill],
            Some(Flaw::FillsBeforeClaiming) => [Store::Fill, Store::Claim, Store::Commit],
            _ => [Store::Claim, Store::Fill, Store::Commit],
        };
        (order[usize::from(stores)] == store).then_some(())?;
        let segment = log.segment(at.0);
        match store {
            Store::Claim => segment.write(at.1, Word::Claimed { len }),
            Store::Fill => {
                let body = at.1 + 1..at.1 + len;
                body.for_each(|at| segment.write(at, Word::Body { entry }));
            }
            Store::Commit => segment.write(at.1, Word::Committed { entry, len }),
        }
        let told =
            if self.has(Flaw::AcknowledgesAtTheClaim) { Store::Claim } else { Store::Commit };
        log.returned |= if store == told { 1 << entry } else { 0 };
        log.writers[writer] = match stores {
            2 => Writer::Idle,
            _ => Writer::Appends { at, entry, len, stores: stores + 1 },
        };
        Some(())
    }

    pub(crate) fn give_up(&self, log: &mut Log, writer: usize) -> Option<()> {
        let Writer::Appends { at, len, stores: 1.., .. } = log.writers[writer] else { return None };
        log.segment(at.0).write(at.1, Word::Void { len });
        log.writers[writer] = Writer::Idle;
        Some(())
    }

    pub(crate) fn pad(&self, log: &mut Log, writer: usize) -> Option<()> {
        let Writer::Pads { at, len } = log.writers[writer] else { return None };
        log.segment(at.0).write(at.1, Word::Pad { len });
        log.writers[writer] = Writer::Idle;
        Some(())
    }

    pub(crate) fn roll(&self, log: &mut Log) -> Option<()> {
        let named = log.standby.filter(|_| log.tail == self.capacity)?;
        (named || self.has(Flaw::RollsWithoutSyncingTheDirectory)).then_some(())?;
        let mut name = Page::durable(named);
        name.write(true);
        log.segments.push(Segment::new(self, log.last() + 1, log.boot, name));
        (log.tail, log.standby) = (0, None);
        Some(())
    }

    pub(crate) fn lead(&self, log: &mut Log) -> Option<()> {
        let passes = self.has(Flaw::SyncsPastClaims);
        let upto = if passes { (log.last(), log.tail) } else { log.prefix() };
        (log.leader.is_none() && upto > log.watermark).then_some(())?;
        let segment = log.watermark.0;
        log.leader = Some(Leader { upto, segment, synced: false });
        log.syncs += 1;
        if self.has(Flaw::SealsBeforeSyncing) {
            (segment..upto.0).for_each(|full| log.segment(full).seal.write(Some(self.capacity)));
        }
        if self.has(Flaw::PublishesBeforeSyncing) {
            self.publish(log, upto);
        }
        Some(())
    }

    pub(crate) fn sync_segment(&self, log: &mut Log) -> Option<()> {
        let leader = log.leader.filter(|leader| !leader.synced)?;
        let is_last = leader.segment == leader.upto.0;
        let end = if is_last { leader.upto.1 } else { self.capacity };
        if is_last || !self.has(Flaw::SyncsTheLastSegmentOnly) {
            let words = &mut log.segment(leader.segment).words[..usize::from(end)];
            words.iter_mut().for_each(Page::sync);
        }
        log.leader = Some(Leader { synced: true, ..leader });
        Some(())
    }

    pub(crate) fn seal(&self, log: &mut Log) -> Option<()> {
        let leader = log.leader.filter(|l| l.synced && l.segment < l.upto.0)?;
        // It is not synced by itself.
        log.segment(leader.segment).seal.write(Some(self.capacity));
        log.leader = Some(Leader { segment: leader.segment + 1, synced: false, ..leader });
        Some(())
    }

    pub(crate) fn publish_synced(&self, log: &mut Log) -> Option<()> {
        let leader = log.leader.filter(|l| l.synced && l.segment == l.upto.0)?;
        log.leader = None;
        if !self.has(Flaw::PublishesBeforeSyncing) {
            self.publish(log, leader.upto);
        }
        Some(())
    }

    pub(crate) fn publish(&self, log: &mut Log, upto: Place) {
        log.watermark = upto;
        let (last, at, len) = (log.last(), log.tail, self.mark.min(self.capacity - log.tail));
        log.tail += len;
        let segment = log.segment(last);
        if len == self.mark {
            segment.write(at, Word::Mark { durable: upto, len });
            (at + 1..at + len).for_each(|at| segment.write(at, Word::Body { entry: 0 }));
        } else if len > 0 {
            segment.write(at, Word::Pad { len });
        }
    }
}
