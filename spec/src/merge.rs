//! A store over a log: writes, merges with tombstones and origins, death and power loss.
//!
//! Of the log it assumes what `log.rs` shows. An append is one step here; a death keeps all of the log, and a
//! power loss keeps its beginning, with everything that was synced. Opening reads all segments.

use crate::page::Page;
use stateright::{Model, Property};

/// The number of a segment, and of a record there. In log order, as numbers of segments only grow.
pub type Position = (u8, u8);

/// A set of segments.
pub type Ids = u64;

/// A put or a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub key: u8,
    pub is_put: bool,
    /// The number of the write, which stands for the value.
    pub write: u8,
    /// Where it was first written: of two records of one key, the one with the higher origin is newer.
    pub origin: Position,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    pub id: u8,
    /// A merge wrote it; it is not part of the log.
    pub merged: bool,
    /// Of a merged one: whether its records are durable.
    pub synced: bool,
    /// Whether its file is in the directory.
    pub file: Page<bool>,
    pub records: Vec<Record>,
}

/// What a merge has still to do, and what it knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Merge {
    pub inputs: Ids,
    pub stage: Stage,
    /// The records of the inputs that it has still to look at.
    pub unread: Vec<Position>,
    pub tombstones: Vec<Record>,
    pub output: Option<u8>,
    /// Copies to which slots are still to be moved: from, to.
    pub moves: Vec<(Position, Position)>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    Copy,
    SyncOutput,
    MoveSlots,
    List,
    Unlink,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// `None`: the process is dead.
    pub keydir: Option<Vec<Option<Position>>>,
    pub segments: Vec<Segment>,
    /// The segment that is appended to, and the next number.
    pub active: u8,
    pub next: u8,
    pub merge: Option<Merge>,
    /// The MANIFEST, which is replaced durably in one step: merged segments that count, and segments that
    /// do not, although their files may be there.
    pub listed: Ids,
    pub removed: Ids,
    /// All writes that were not lost, and how many of them are durable.
    pub history: Vec<Record>,
    pub durable: u8,
    pub writes: u8,
    pub merges: u8,
    pub crashes: u8,
    /// What has happened; so that the model is known to reach it.
    pub seen: Seen,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    pub dropped_tombstone: bool,
    pub kept_tombstone: bool,
    pub slot_left_alone: bool,
    pub file_came_back: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Put(u8),
    Delete(u8),
    Sync,
    /// Seals the active segment, which syncs it.
    Roll,
    /// Begins to merge these segments.
    Merge(Ids),
    Copy,
    /// Decides which tombstones are still needed.
    KeepTombstones,
    SyncOutput,
    MoveSlot,
    SyncLog,
    /// Writes the MANIFEST.
    List,
    Unlink,
    Die,
    /// Keeps so many writes of the log; of each file whose removal is not durable, which version; and of
    /// outputs that were not synced, whether the records.
    LosePower {
        writes: u8,
        files: Vec<u8>,
        outputs: bool,
    },
    Open,
}

/// Deliberate mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    DoesNotSyncTheLog,
    DoesNotSyncTheOutput,
    MovesSlotsWhateverTheyPointAt,
    DropsEveryTombstone,
    AsksOlderFilesOnly,
    CopiesAreNew,
    UnlinksBeforeListing,
    DoesNotListWhatItRemoves,
}

/// The model: limits, and a flaw.
#[derive(Clone, Debug)]
pub struct MergeSpec {
    pub flaw: Option<Flaw>,
    pub keys: u8,
    pub writes: u8,
    pub segments: u8,
    pub merges: u8,
    pub crashes: u8,
}

impl Store {
    pub fn is_there(&self, segment: &Segment) -> bool {
        segment.file.now() && self.removed & 1 << segment.id == 0
    }

    pub fn record(&self, at: Position) -> Option<Record> {
        let segment = self.segments.iter().find(|s| s.id == at.0 && s.file.now())?;
        segment.records.get(usize::from(at.1)).copied()
    }

    fn segment(&mut self, id: u8) -> Option<&mut Segment> {
        self.segments.iter_mut().find(|segment| segment.id == id)
    }

    fn add_segment(&mut self, merged: bool) -> u8 {
        let id = self.next;
        let file = Page::durable(true);
        self.segments.push(Segment { id, merged, synced: false, file, records: Vec::new() });
        self.next += 1;
        id
    }

    /// The segments that can be merged.
    pub fn sealed(&self) -> Ids {
        let sealed = self.segments.iter().filter(|s| s.id != self.active && self.is_there(s));
        sealed.map(|s| 1 << s.id).sum()
    }

    /// The key's newest write, if that is a put.
    pub fn expected(&self, key: u8) -> Option<u8> {
        let newest = self.history.iter().rfind(|record| record.key == key)?;
        newest.is_put.then_some(newest.write)
    }

    /// What a reader finds.
    pub fn found(&self, key: u8) -> Option<u8> {
        let slot = self.keydir.as_ref()?[usize::from(key)]?;
        let record = self.record(slot)?;
        (record.key == key && record.is_put).then_some(record.write)
    }

    fn append(&mut self, key: u8, is_put: bool) -> Option<()> {
        let (active, write) = (self.active, self.writes);
        let segment = self.segment(active)?;
        let origin = (active, segment.records.len() as u8);
        let record = Record { key, is_put, write, origin };
        segment.records.push(record);
        self.history.push(record);
        self.keydir.as_mut()?[usize::from(key)] = is_put.then_some(origin);
        self.writes += 1;
        Some(())
    }

    fn sync(&mut self) {
        self.durable = self.history.len() as u8;
    }

    /// A new MANIFEST takes the place of the old one: the directory is synced.
    fn sync_names(&mut self) {
        self.segments.iter_mut().for_each(|segment| segment.file.sync());
        self.segments.retain(|segment| segment.file.versions() != [false]);
    }

    fn begin(&mut self, inputs: Ids) -> Option<()> {
        (self.merge.is_none() && inputs & !self.sealed() == 0).then_some(())?;
        let inside = self.segments.iter().filter(|s| inputs & 1 << s.id != 0);
        let unread = inside.flat_map(|s| (0..s.records.len()).map(|n| (s.id, n as u8))).collect();
        let (tombstones, output, moves) = (Vec::new(), None, Vec::new());
        self.merge = Some(Merge { inputs, stage: Stage::Copy, unread, tombstones, output, moves });
        self.merges += 1;
        Some(())
    }

    /// Writes a record to the output.
    fn write_output(&mut self, merge: &mut Merge, record: Record, is_new: bool) -> Position {
        let id = *merge.output.get_or_insert_with(|| self.add_segment(true));
        let output = self.segment(id).expect("it was made");
        let at = (id, output.records.len() as u8);
        output.records.push(Record { origin: if is_new { at } else { record.origin }, ..record });
        at
    }

    fn die(&mut self) {
        (self.keydir, self.merge) = (None, None);
        self.crashes += 1;
    }

    fn lose_power(&mut self, writes: u8, files: &[u8], outputs: bool) -> Option<()> {
        (self.durable..=self.history.len() as u8).contains(&writes).then_some(())?;
        let lost = self.history.get(usize::from(writes)).map(|record| record.origin);
        self.history.truncate(writes.into());
        self.durable = writes;
        let mut files = files.iter();
        for segment in &mut self.segments {
            if segment.file.versions().len() > 1 {
                segment.file.lose_power(*files.next()?)?;
                self.seen.file_came_back |= segment.file.now();
            }
            if !segment.merged {
                segment.records.retain(|record| lost.is_none_or(|lost| record.origin < lost));
            } else if !segment.synced && !outputs {
                segment.records.clear();
            }
        }
        self.die();
        files.next().is_none().then_some(())
    }

    /// Everything that counts is read; the rest is removed.
    fn open(&mut self, keys: u8) {
        self.sync_names();
        let mut newest: Vec<Option<(Record, Position)>> = vec![None; keys.into()];
        let (listed, removed) = (self.listed, self.removed);
        for segment in &mut self.segments {
            let is_listed = listed & 1 << segment.id != 0 || !segment.merged;
            if removed & 1 << segment.id != 0 || !is_listed || segment.records.is_empty() {
                segment.file.write(false);
            }
            for (nth, record) in segment.records.iter().enumerate().filter(|_| segment.file.now()) {
                let slot = &mut newest[usize::from(record.key)];
                if slot.is_none_or(|(other, _)| other.origin < record.origin) {
                    *slot = Some((*record, (segment.id, nth as u8)));
                }
            }
        }
        let put = |(record, at): (Record, Position)| record.is_put.then_some(at);
        self.keydir = Some(newest.into_iter().map(|slot| slot.and_then(put)).collect());
        self.sync();
        self.active = self.add_segment(false);
    }
}

impl MergeSpec {
    pub fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn copy(&self, store: &mut Store, merge: &mut Merge) -> Option<()> {
        (merge.stage == Stage::Copy && !merge.unread.is_empty()).then_some(())?;
        let at = merge.unread.remove(0);
        let record = store.record(at)?;
        let slot = store.keydir.as_ref()?[usize::from(record.key)];
        if !record.is_put {
            merge.tombstones.push(record);
        } else if slot == Some(at) {
            let new = store.write_output(merge, record, self.has(Flaw::CopiesAreNew));
            merge.moves.push((at, new));
        }
        Some(())
    }

    /// A tombstone is needed while the newest record of its key in another segment is an older put. (A put that
    /// a tombstone of its own segment hides goes with that.)
    fn keep_tombstones(&self, store: &mut Store, merge: &mut Merge) -> Option<()> {
        (merge.stage == Stage::Copy && merge.unread.is_empty()).then_some(())?;
        for tombstone in std::mem::take(&mut merge.tombstones) {
            let has_value = store.keydir.as_ref()?[usize::from(tombstone.key)].is_some();
            let mut others = store.segments.iter().filter(|other| {
                let is_asked = !self.has(Flaw::AsksOlderFilesOnly) || other.id < tombstone.origin.0;
                let is_other = merge.inputs & 1 << other.id == 0 && merge.output != Some(other.id);
                store.is_there(other) && is_other && is_asked
            });
            let hides_less = |other: &Segment| {
                let newest = other.records.iter().filter(|record| record.key == tombstone.key);
                let newest = newest.max_by_key(|record| record.origin);
                newest.is_some_and(|newest| newest.is_put && newest.origin < tombstone.origin)
            };
            let needed = others.any(hides_less);
            if needed && !has_value && !self.has(Flaw::DropsEveryTombstone) {
                store.write_output(merge, tombstone, self.has(Flaw::CopiesAreNew));
                store.seen.kept_tombstone = true;
            } else {
                store.seen.dropped_tombstone = true;
            }
        }
        merge.stage = Stage::SyncOutput;
        Some(())
    }

    fn sync_output(&self, store: &mut Store, merge: &mut Merge) -> Option<()> {
        (merge.stage == Stage::SyncOutput).then_some(())?;
        if let Some(output) = merge.output.and_then(|id| store.segment(id)) {
            output.synced = !self.has(Flaw::DoesNotSyncTheOutput);
        }
        merge.stage = Stage::MoveSlots;
        Some(())
    }

    fn move_slot(&self, store: &mut Store, merge: &mut Merge) -> Option<()> {
        (merge.stage == Stage::MoveSlots).then_some(())?;
        let (old, new) = merge.moves.pop()?;
        let key = store.record(old)?.key;
        let slot = &mut store.keydir.as_mut()?[usize::from(key)];
        if *slot == Some(old) || self.has(Flaw::MovesSlotsWhateverTheyPointAt) {
            *slot = Some(new);
        } else {
            store.seen.slot_left_alone = true;
        }
        Some(())
    }

    /// What made records of the inputs dead has to be durable before the inputs go.
    fn sync_log(&self, store: &mut Store, merge: &mut Merge) -> Option<()> {
        (merge.stage == Stage::MoveSlots && merge.moves.is_empty()).then_some(())?;
        if !self.has(Flaw::DoesNotSyncTheLog) {
            store.sync();
        }
        merge.stage = Stage::List;
        if self.has(Flaw::UnlinksBeforeListing) {
            merge.stage = Stage::Unlink;
        }
        Some(())
    }

    fn list(&self, store: &mut Store, merge: &mut Merge) -> Option<Option<Merge>> {
        (merge.stage == Stage::List).then_some(())?;
        store.listed |= merge.output.map_or(0, |id| 1 << id);
        store.listed &= !merge.inputs;
        if !self.has(Flaw::DoesNotListWhatItRemoves) {
            store.removed |= merge.inputs;
        }
        store.sync_names();
        merge.stage = Stage::Unlink;
        Some((!self.has(Flaw::UnlinksBeforeListing)).then(|| merge.clone()))
    }

    fn unlink(&self, store: &mut Store, merge: &mut Merge) -> Option<Option<Merge>> {
        (merge.stage == Stage::Unlink).then_some(())?;
        let inputs = store.segments.iter_mut().filter(|s| merge.inputs & 1 << s.id != 0);
        inputs.for_each(|input| input.file.write(false));
        merge.stage = Stage::List;
        Some(self.has(Flaw::UnlinksBeforeListing).then(|| merge.clone()))
    }
}

impl Model for MergeSpec {
    type State = Store;
    type Action = Step;

    fn init_states(&self) -> Vec<Store> {
        let mut store = Store {
            keydir: Some(vec![None; self.keys.into()]),
            segments: Vec::new(),
            active: 0,
            next: 0,
            merge: None,
            listed: 0,
            removed: 0,
            history: Vec::new(),
            durable: 0,
            writes: 0,
            merges: 0,
            crashes: 0,
            seen: Seen::default(),
        };
        store.add_segment(false);
        vec![store]
    }

    /// What may happen, within the limits. `next_state` says what of it can.
    fn actions(&self, store: &Store, steps: &mut Vec<Step>) {
        if store.writes < self.writes {
            steps.extend((0..self.keys).flat_map(|key| [Step::Put(key), Step::Delete(key)]));
        }
        let is_empty = |s: &Segment| s.id == store.active && s.records.is_empty();
        if store.next < self.segments && !store.segments.iter().any(is_empty) {
            steps.push(Step::Roll);
        }
        if store.merges < self.merges {
            let sealed = store.sealed();
            steps.extend((1..=sealed).filter(|ids| ids & !sealed == 0).map(Step::Merge));
        }
        let merging = [Step::Copy, Step::KeepTombstones, Step::SyncOutput, Step::MoveSlot];
        steps.extend(merging);
        steps.extend([Step::SyncLog, Step::List, Step::Unlink, Step::Sync, Step::Open]);
        if store.crashes < self.crashes {
            steps.push(Step::Die);
            let mut files = vec![Vec::new()];
            for segment in store.segments.iter().filter(|s| s.file.versions().len() > 1) {
                let versions = 0..segment.file.versions().len() as u8;
                let with = |left: &Vec<u8>, version| [&left[..], &[version]].concat();
                files =
                    files.iter().flat_map(|l| versions.clone().map(move |v| with(l, v))).collect();
            }
            for writes in store.durable..=store.history.len() as u8 {
                for outputs in [false, true] {
                    let lose =
                        |files: &Vec<u8>| Step::LosePower { writes, files: files.clone(), outputs };
                    steps.extend(files.iter().map(lose));
                }
            }
        }
    }

    /// What a step leads to; `None` if it cannot be taken.
    fn next_state(&self, store: &Store, step: Step) -> Option<Store> {
        let mut next = store.clone();
        let is_open = store.keydir.is_some();
        match step {
            Step::LosePower { writes, files, outputs } => {
                next.lose_power(writes, &files, outputs)?;
                return Some(next);
            }
            Step::Open => {
                (!is_open).then_some(())?;
                next.open(self.keys);
                return Some(next);
            }
            _ if !is_open => return None,
            Step::Put(key) => next.append(key, true)?,
            Step::Delete(key) => {
                // Without a value there is nothing to delete, and no tombstone.
                store.keydir.as_ref()?[usize::from(key)]?;
                next.append(key, false)?;
            }
            Step::Sync => next.sync(),
            Step::Roll => {
                next.sync();
                next.active = next.add_segment(false);
            }
            Step::Merge(inputs) => next.begin(inputs)?,
            Step::Die => next.die(),
            of_merge => {
                let mut merge = next.merge.take()?;
                next.merge = match of_merge {
                    Step::List => self.list(&mut next, &mut merge)?,
                    Step::Unlink => self.unlink(&mut next, &mut merge)?,
                    step => {
                        match step {
                            Step::Copy => self.copy(&mut next, &mut merge)?,
                            Step::KeepTombstones => self.keep_tombstones(&mut next, &mut merge)?,
                            Step::SyncOutput => self.sync_output(&mut next, &mut merge)?,
                            Step::MoveSlot => self.move_slot(&mut next, &mut merge)?,
                            _ => self.sync_log(&mut next, &mut merge)?,
                        }
                        Some(merge)
                    }
                };
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what was put is found", |spec: &Self, store: &Store| {
                let is_found =
                    |key| store.expected(key).is_none_or(|write| store.found(key) == Some(write));
                store.keydir.is_none() || (0..spec.keys).all(is_found)
            }),
            Property::always("a deleted key stays deleted", |spec: &Self, store: &Store| {
                let is_gone = |key| store.expected(key).is_some() || store.found(key).is_none();
                store.keydir.is_none() || (0..spec.keys).all(is_gone)
            }),
            Property::sometimes("a merge drops a tombstone", |_, s: &Store| {
                s.seen.dropped_tombstone
            }),
            Property::sometimes("a merge keeps a tombstone", |_, s: &Store| s.seen.kept_tombstone),
            Property::sometimes("a write overtakes a merge", |_, s: &Store| s.seen.slot_left_alone),
            Property::sometimes("a removed file comes back", |_, s: &Store| s.seen.file_came_back),
        ]
    }
}
