//! The names in directories: which of them are durable, and which operations on them are not yet.

use super::FileId;
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

/// A name in a directory.
pub(crate) type Place = (FileId, OsString);

/// An operation on names: what each refers to afterwards. It happens as a whole.
#[derive(Clone, Debug)]
struct Operation {
    changes: Vec<(Place, Option<FileId>)>,
    is_durable: bool,
}

/// In which order a power loss may leave operations on names that are not durable. Each happens as a
/// whole. A rename between two directories is one, and durable once either of them is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameOrder {
    /// A prefix of all of them, as with the journals of ext4 and xfs. If one is durable, so is what
    /// came before it, in whatever directory.
    Journal,
    /// A prefix of those in each directory.
    Directory,
    /// Each by itself. This is all that POSIX promises.
    None,
}

impl NameOrder {
    pub(crate) const ALL: [Self; 3] = [Self::Journal, Self::Directory, Self::None];
}

/// What each name refers to.
pub(crate) type Names = BTreeMap<Place, FileId>;

/// All names, durable and not.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameLog {
    /// As it was before the first operation.
    base: Names,
    newest: Names,
    operations: Vec<Operation>,
    /// How many operations went into the base.
    dropped: usize,
}

impl NameLog {
    /// A name that is there at the beginning, durably.
    pub(crate) fn begin_with(&mut self, place: Place, file: FileId) {
        self.base.insert(place.clone(), file);
        self.newest.insert(place, file);
    }

    pub(crate) fn get(&self, place: &Place) -> Option<FileId> {
        self.newest.get(place).copied()
    }

    /// An operation that has happened. Not durable.
    pub(crate) fn push(&mut self, changes: Vec<(Place, Option<FileId>)>) {
        apply(&mut self.newest, &changes);
        self.operations.push(Operation { changes, is_durable: false });
    }

    /// How many operations there were so far.
    pub(crate) fn time(&self) -> usize {
        self.dropped + self.operations.len()
    }

    /// The operations of a directory, up to a time, are durable. `None`: of all directories.
    pub(crate) fn settle(&mut self, directory: Option<FileId>, time: usize) {
        let count = time.saturating_sub(self.dropped);
        for operation in self.operations.iter_mut().take(count) {
            operation.is_durable |=
                directory.is_none_or(|id| operation.directories().contains(&id));
        }
        // Not before the one in front is: operations that touch the same names keep their order.
        let done = self.operations.iter().take_while(|operation| operation.is_durable).count();
        for operation in self.operations.drain(..done) {
            apply(&mut self.base, &operation.changes);
        }
        self.dropped += done;
    }

    /// All files that have a name, had one, or may have one after a power loss.
    pub(crate) fn files(&self) -> BTreeSet<FileId> {
        let operations = self.operations.iter().flat_map(|operation| &operation.changes);
        let changed = operations.filter_map(|(_, file)| *file);
        self.base.values().chain(self.newest.values()).copied().chain(changed).collect()
    }

    /// What a power loss leaves of the names; and what it took, in words.
    pub(crate) fn lose(&self, random: &mut Random, order: NameOrder) -> (Names, Vec<String>) {
        let kept = self.kept(random, order);
        let (mut names, mut lost) = (self.base.clone(), Vec::new());
        for (operation, kept) in self.operations.iter().zip(kept) {
            if kept {
                apply(&mut names, &operation.changes);
            } else {
                let change = operation.changes.iter().map(|((_, name), file)| match file {
                    Some(file) => format!("{} is {}", name.display(), file.inode),
                    None => format!("{} is none", name.display()),
                });
                lost.push(change.collect::<Vec<_>>().join(", "));
            }
        }
        (names, lost)
    }

    fn kept(&self, random: &mut Random, order: NameOrder) -> Vec<bool> {
        let count = self.operations.len();
        // Behind the last durable one of some.
        let least = |is_of: &dyn Fn(&Operation) -> bool| {
            let last = self.operations.iter().rposition(|o| o.is_durable && is_of(o));
            last.map_or(0, |at| at + 1)
        };
        // All and none of them are likely.
        let cut = |random: &mut Random, least: usize| match random.below(4) {
            0 => least,
            1 => count,
            _ => random.between(least as u64, count as u64) as usize,
        };
        match order {
            NameOrder::Journal => {
                let cut = cut(random, least(&|_| true));
                (0..count).map(|nth| nth < cut).collect()
            }
            NameOrder::Directory => {
                let all: BTreeSet<_> =
                    self.operations.iter().flat_map(Operation::directories).collect();
                let of = |id| move |operation: &Operation| operation.directories().contains(&id);
                let cuts: BTreeMap<_, _> =
                    all.into_iter().map(|id| (id, cut(random, least(&of(id))))).collect();
                let operations = self.operations.iter().enumerate();
                let kept = operations.map(|(nth, operation)| {
                    let within = |id: FileId| nth < cuts[&id];
                    operation.is_durable || operation.directories().into_iter().all(within)
                });
                kept.collect()
            }
            NameOrder::None => {
                let in_16 = [0, 1, 4, 8, 12, 15, 16][random.below(7) as usize];
                let one = random.below(count.max(1) as u64) as usize;
                // One of them alone is lost, or kept, or any.
                let way = random.below(3);
                let is_kept = |nth: usize, random: &mut Random| match way {
                    0 => nth != one,
                    1 => nth == one,
                    _ => random.below(16) < in_16,
                };
                let operations = self.operations.iter().enumerate();
                operations.map(|(nth, o)| o.is_durable | is_kept(nth, random)).collect()
            }
        }
    }
}

impl Operation {
    fn directories(&self) -> BTreeSet<FileId> {
        self.changes.iter().map(|((directory, _), _)| *directory).collect()
    }
}

fn apply(names: &mut Names, changes: &[(Place, Option<FileId>)]) {
    for (place, file) in changes {
        match file {
            Some(file) => names.insert(place.clone(), *file),
            None => names.remove(place),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(inode: u64) -> FileId {
        FileId { device: 1, inode }
    }

    fn place(directory: u64, name: &str) -> Place {
        (id(directory), name.into())
    }

    /// Each outcome, as names and inodes.
    fn outcomes(log: &NameLog, order: NameOrder) -> BTreeSet<String> {
        let of = |seed| {
            let (names, _) = log.lose(&mut Random::new(seed), order);
            let names = names.iter().map(|((directory, name), file)| {
                format!("{}/{}={}", directory.inode, name.display(), file.inode)
            });
            names.collect::<Vec<_>>().join(" ")
        };
        (0..500).map(of).collect()
    }

    fn set<const N: usize>(all: [&str; N]) -> BTreeSet<String> {
        all.map(str::to_owned).into()
    }

    fn two_files() -> NameLog {
        let mut log = NameLog::default();
        log.push(vec![(place(1, "a"), Some(id(10)))]);
        log.push(vec![(place(2, "b"), Some(id(11)))]);
        log.push(vec![(place(1, "a"), None), (place(1, "c"), Some(id(10)))]);
        log
    }

    #[test]
    fn each_order_allows_what_it_allows() {
        let log = two_files();
        let journal = set(["", "1/a=10", "1/a=10 2/b=11", "1/c=10 2/b=11"]);
        assert_eq!(outcomes(&log, NameOrder::Journal), journal);
        let each = set(["", "1/a=10", "1/c=10", "2/b=11", "1/a=10 2/b=11", "1/c=10 2/b=11"]);
        assert_eq!(outcomes(&log, NameOrder::Directory), each);
        // A rename happens as a whole, also where the creation before it does not.
        assert_eq!(outcomes(&log, NameOrder::None), each);
    }

    #[test]
    fn a_directory_that_is_synced_keeps_what_was_done_before() {
        let mut log = two_files();
        log.settle(Some(id(1)), 2);
        assert_eq!(outcomes(&log, NameOrder::None).len(), 4);
        assert!(outcomes(&log, NameOrder::None).iter().all(|names| names.contains("=10")));
        log.settle(Some(id(1)), log.time());
        assert_eq!(outcomes(&log, NameOrder::None), set(["1/c=10", "1/c=10 2/b=11"]));
        assert_eq!(outcomes(&log, NameOrder::Journal), set(["1/c=10 2/b=11"]));
        log.settle(Some(id(2)), log.time());
        assert_eq!(log.operations.len(), 0);
        assert_eq!(outcomes(&log, NameOrder::None), set(["1/c=10 2/b=11"]));
    }

    #[test]
    fn a_durable_rename_is_not_undone_by_the_creation_before_it() {
        let mut log = NameLog::default();
        log.push(vec![(place(1, "a"), Some(id(10)))]);
        log.push(vec![(place(1, "a"), None), (place(2, "b"), Some(id(10)))]);
        log.settle(Some(id(2)), log.time());
        for order in NameOrder::ALL {
            assert_eq!(outcomes(&log, order), set(["2/b=10"]), "{order:?}");
        }
    }
}
