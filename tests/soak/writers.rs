//! Writers of the store: all kinds of writes, whose results are checked at once.

use crate::child::{Published, Shared};
use crate::common::Random;
use crate::content::{GROUPS, IN_GROUP, Key, Sort};
use crate::journal::{Journal, Outcome, Record, What, now};
use crate::oracle::{count_value, counted};
use crate::tally::Count;
use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tailcask::{AppendError, Batch, Change, Durability, Expected, Store, WriteError, WriteOptions};

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) struct Writer {
    nth: u64,
    random: Random,
    serial: u64,
    /// Which versions its keys have now, but for those that expire.
    now: HashMap<Key, u64>,
}

/// The result of a write: `None` if there was no space.
fn spaced<T>(result: Result<T, WriteError>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(WriteError::Append(AppendError::NoSpace { .. })) => None,
        Err(other) => panic!("{other:?}"),
    }
}

/// The writers, who have read what their keys are.
pub(crate) fn all(shared: &Shared) -> Vec<Writer> {
    let journals = 0..shared.writers.len() as u64;
    journals.map(|nth| Writer::new(shared, nth)).collect()
}

impl Writer {
    fn new(shared: &Shared, nth: u64) -> Self {
        let (mut keys, serial) = (HashMap::new(), (shared.plan.session + 1) << 32);
        for key in Key::all_of(nth).filter(|key| key.sort() != Sort::Expiring) {
            let found = shared.store.get(key.bytes()).unwrap();
            if let Some(value) = found {
                let version = key.version_of(&value).unwrap();
                keys.insert(key, version);
                shared.published[&key].publish(version << 1 | 1);
            }
        }
        Self { nth, random: shared.plan.random(nth), serial, now: keys }
    }

    pub(crate) fn run(&mut self, shared: &Shared) {
        while !shared.stops() {
            match self.random.below(20) {
                0 | 1 => self.group(shared),
                2 => self.expiring(shared),
                3 => self.count(shared),
                _ => self.single(shared),
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Writes options that say something in one write of some.
    fn options(&mut self) -> WriteOptions {
        match self.random.below(400) {
            0 => WriteOptions::new().durability(Durability::Synced),
            1..=20 => WriteOptions::new().durability(Durability::Buffered),
            21..=30 => WriteOptions::new().ttl(DAY),
            _ => WriteOptions::new(),
        }
    }

    /// One change of a key or group, which is reported; `run` gives `None` if there is no space.
    fn change<R>(
        &mut self,
        shared: &Shared,
        record: Record,
        run: impl FnOnce(&Store) -> Option<R>,
    ) -> Option<R> {
        let key = Key(record.key);
        let keys: Vec<_> =
            if key.sort() == Sort::Grouped { key.group().collect() } else { vec![key] };
        let puts = !matches!(record.what, What::Delete | What::DeleteGroup);
        let state = record.version << 1 | u64::from(puts);
        let before: Vec<_> = keys.iter().map(|key| shared.published[key].begin(state)).collect();
        let journal: &Journal = &shared.writers[self.nth as usize];
        let done = journal.record(record, |_| {
            let result = run(&shared.store);
            (if result.is_some() { Outcome::Done } else { Outcome::NoSpace }, result)
        });
        for (key, before) in keys.iter().zip(before) {
            shared.published[key].publish(if done.is_some() { state } else { before });
            if done.is_some() && puts {
                self.now.insert(*key, record.version);
            } else if done.is_some() {
                self.now.remove(key);
            }
        }
        if done.is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        done
    }

    fn single(&mut self, shared: &Shared) {
        let (key, mut how) = (Key::single(self.nth, self.random.next()), self.random.below(24));
        // What is read to be compared is short, mostly.
        if key.is_oversize() && self.random.below(8) > 0 {
            how = 20;
        }
        let (version, options) = (self.next(), self.options());
        let (bytes, old) = (key.bytes(), self.now.get(&key).copied());
        let (old_value, new) = (old.map(|old| key.value(old)), key.value(version));
        if !shared.spend(&shared.store_credit, new.len() + 100) {
            return;
        }
        let put = Record::new(What::Put, key.0, version);
        let delete = Record::new(What::Delete, key.0, version);
        let (is, old_ref) = (old.is_some(), old_value.as_deref());
        match how {
            0..=8 => drop(self.change(shared, put, |s| spaced(s.put_with(&bytes, &new, &options)))),
            9..=11 => {
                let was = self.change(shared, delete, |s| spaced(s.delete_with(&bytes, &options)));
                assert!(was.is_none_or(|was| was.is_some() == is), "{key:x?} {old:x?}: {was:?}");
            }
            12 if is => {
                let unchanged = shared.store.put_if_absent_with(&bytes, &new, &options);
                assert_eq!(unchanged.unwrap(), None, "{key:x?} {old:x?}");
            }
            12 => {
                let run = |s: &Store| spaced(s.put_if_absent_with(&bytes, &new, &options));
                let was = self.change(shared, put, run);
                assert!(was.is_none_or(|was| was.is_some()), "{key:x?} {old:x?}");
            }
            13 | 14 => {
                let to = (how == 13).then_some(&new[..]);
                let record = if how == 13 { put } else { delete };
                let run =
                    |s: &Store| spaced(s.compare_and_swap_with(&bytes, old_ref, to, &options));
                let swapped = self.change(shared, record, run);
                assert!(swapped.is_none_or(|swapped| swapped.is_ok()), "{key:x?} {old:x?}");
            }
            15 => {
                let refused =
                    shared.store.compare_and_swap(&bytes, Some(&new), Some(&new)).unwrap();
                assert_eq!(refused.unwrap_err().current.as_deref(), old_ref, "{key:x?}");
            }
            16 | 17 => {
                let run = |s: &Store| {
                    spaced(s.update_with(
                        &bytes,
                        |found| {
                            assert_eq!(found, old_ref, "{key:x?}");
                            (how == 16).then(|| new.clone())
                        },
                        &options,
                    ))
                };
                drop(self.change(shared, if how == 16 { put } else { delete }, run));
            }
            18 => {
                let refused = shared.store.try_update(&bytes, |found| {
                    assert_eq!(found, old_ref, "{key:x?}");
                    Err::<Change, _>("no")
                });
                assert_eq!(refused.unwrap().unwrap_err(), "no");
            }
            19 => self.expect(shared, key, old_ref, put, &new),
            20 => {
                // The same value once more.
                let touched = spaced(shared.store.touch_with(&bytes, &options));
                assert!(touched.is_none_or(|touched| touched.is_some() == is), "{key:x?} {old:x?}");
            }
            _ => drop(self.change(shared, put, |s| spaced(s.put(&bytes, &new)))),
        }
        shared.count(Count::Writes);
    }

    /// A batch that expects what is, and one that does not.
    fn expect(&mut self, shared: &Shared, key: Key, old: Option<&[u8]>, put: Record, new: &[u8]) {
        let mut wrong = Batch::new();
        let not = if old.is_some() { Expected::Absent } else { Expected::Present };
        wrong.expect(key.bytes(), not).put(key.bytes(), new);
        match shared.store.write(&wrong) {
            Err(WriteError::Conflict(conflict)) => {
                assert_eq!(conflict.found.is_some(), old.is_some());
            }
            other => panic!("{key:x?}: {other:?}"),
        }
        let mut batch = Batch::new();
        batch.expect(key.bytes(), old.map_or(Expected::Absent, Expected::Value));
        batch.put(key.bytes(), new);
        self.change(shared, put, |store| spaced(store.write(&batch)));
    }

    fn group(&mut self, shared: &Shared) {
        let first = Key::grouped(self.nth, self.random.below(GROUPS), 0);
        let (version, options) = (self.next(), self.options());
        let (puts, mut batch, mut bytes) = (self.random.below(4) > 0, Batch::new(), 0);
        for key in first.group() {
            let value = key.value(version);
            bytes += value.len() + 100;
            let _ = if puts { batch.put(key.bytes(), value) } else { batch.delete(key.bytes()) };
        }
        if !shared.spend(&shared.store_credit, bytes) {
            return;
        }
        let what = if puts { What::PutGroup } else { What::DeleteGroup };
        let record = Record::new(what, first.0, version);
        let written = self.change(shared, record, |s| spaced(s.write_positions(&batch, &options)));
        assert!(written.is_none_or(|positions| positions.len() as u64 == IN_GROUP));
        shared.count(Count::Batches);
    }

    fn expiring(&mut self, shared: &Shared) {
        let key = Key::expiring(self.nth, self.random.next());
        let version = self.next();
        if !shared.spend(&shared.store_credit, 2000) {
            return;
        }
        if self.random.below(8) == 0 {
            let record = Record::new(What::Delete, key.0, version);
            self.change(shared, record, |store| spaced(store.delete(key.bytes())));
            return;
        }
        let ttl = 1 + self.random.below(3000);
        let mut record = Record::new(What::PutExpiring, key.0, version);
        record.aux = now() + ttl;
        let options = WriteOptions::new().ttl(Duration::from_millis(ttl));
        let run = |store: &Store| spaced(store.put_with(key.bytes(), key.value(version), &options));
        self.change(shared, record, run);
        shared.count(Count::Expiring);
    }

    /// Counts up what the other writers count up, too.
    fn count(&mut self, shared: &Shared) {
        let key = Key::counter(self.random.next());
        let (by_swap, bytes) = (self.random.flip(), key.bytes());
        if !shared.spend(&shared.store_credit, 100) {
            return;
        }
        let journal = &shared.writers[self.nth as usize];
        journal.record(Record::new(What::Count, key.0, 0), |record| {
            let store = &shared.store;
            let counted =
                if by_swap { swap(store, key, &bytes) } else { update(store, key, &bytes) };
            record.version = counted.unwrap_or(0);
            (if counted.is_some() { Outcome::Done } else { Outcome::NoSpace }, ())
        });
        shared.count(Count::Conditional);
    }
}

fn swap(store: &Store, key: Key, bytes: &[u8]) -> Option<u64> {
    loop {
        let old = store.get(bytes).unwrap().map(|value| value.to_vec());
        let count = old.as_deref().map_or(0, |value| counted(key, value).unwrap()) + 1;
        let new = count_value(key, count);
        if spaced(store.compare_and_swap(bytes, old.as_deref(), Some(&new)))?.is_ok() {
            return Some(count);
        }
    }
}

fn update(store: &Store, key: Key, bytes: &[u8]) -> Option<u64> {
    let updated = spaced(store.try_update(bytes, |old| {
        let count = old.map_or(Some(0), |value| counted(key, value)).ok_or("no count")? + 1;
        Ok::<_, &str>(Change::Set(count_value(key, count).to_vec()))
    }))?;
    counted(key, &updated.unwrap().value.unwrap())
}

impl Published {
    pub(crate) fn begin(&self, state: u64) -> u64 {
        self.begun.swap(state, SeqCst)
    }

    pub(crate) fn publish(&self, state: u64) {
        self.begun.store(state, SeqCst);
        self.ended.store(state, SeqCst);
    }
}
