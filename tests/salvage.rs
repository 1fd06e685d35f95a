//! Salvage: what is damaged, what is gone and what is in doubt is listed exactly, with hints and without;
//! what is left is a good store.

mod common;

use common::files::{change, copy_dir, mode, paths, paths_with};
use common::frames::place;
use common::{Random, rounds, segment, small_store};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tailcask::{
    Batch, CorruptionKind, Doubt, LogPosition, LostFrame, LostKind, OpenError, RecoveryMode,
    RecoveryReport, Store, StoreOptions,
};

type Map = BTreeMap<String, String>;

fn options() -> StoreOptions {
    small_store(4096)
}

fn salvage() -> StoreOptions {
    options().recovery_mode(RecoveryMode::Salvage)
}

fn contents(store: &Store) -> Map {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    common::contents(store).into_iter().map(|(key, value)| (text(key), text(value))).collect()
}

fn file(dir: &Path, id: u32) -> PathBuf {
    dir.join(segment(id))
}

fn flip(dir: &Path, at: LogPosition, byte: usize) {
    change(&file(dir, at.segment()), |bytes| bytes[at.offset() as usize + byte] ^= 0x10);
}

/// A closed store of three sealed segments with hints, and where its frames are.
struct Made {
    dir: tempfile::TempDir,
    at: BTreeMap<&'static str, LogPosition>,
    map: Map,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = options().open(dir.path().join("store")).unwrap();
        let mut at = BTreeMap::new();
        at.insert("key older", store.put("key", "older").unwrap());
        at.insert("gone older", store.put("gone", "alive").unwrap());
        at.insert("twice 1", store.put("twice", "1").unwrap());
        store.roll().unwrap();
        at.insert("key", store.put("key", "newest").unwrap());
        at.insert("gone", store.log().tail());
        store.delete("gone").unwrap();
        at.insert("twice 2", store.put("twice", "2").unwrap());
        at.insert("only", store.put("only", "one").unwrap());
        at.insert("batch", store.log().tail());
        let mut batch = Batch::new();
        batch.put("a", "1").put("b", "2").delete("key 2");
        store.write(&batch).unwrap();
        at.insert("after", store.put("after", "all").unwrap());
        store.roll().unwrap();
        at.insert("twice 3", store.put("twice", "3").unwrap());
        store.roll().unwrap();
        store.maintain().unwrap();
        let map = contents(&store);
        store.close().unwrap();
        let hints = paths_with(&dir.path().join("store"), "hint").len();
        assert!(hints >= 3, "{hints}");
        Self { dir, at, map }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Damages copies with and without hints, and gives what salvage says and leaves.
    fn salvage(&self, damage: impl Fn(&Path), check: impl Fn(&RecoveryReport, &Map, bool)) {
        for hints in [true, false] {
            let dir = self.dir.path().join("copy");
            copy_dir(&self.store(), &dir, hints);
            damage(&dir);
            let store = salvage().open(&dir).unwrap();
            let (report, left) = (store.recovery().clone(), contents(&store));
            println!("hints {hints}: {report}");
            assert!(!report.is_clean());
            assert!(report.to_string().len() < 1000, "{report}");
            check(&report, &left, hints);
            store.verify().unwrap();
            store.close().unwrap();
            is_good(&dir, &left);
        }
    }
}

/// Opens strictly, passes every check, and merges and backs up.
fn is_good(dir: &Path, map: &Map) {
    let store = options().open(dir).unwrap();
    assert_eq!(contents(&store), *map);
    store.verify().unwrap();
    let backup = dir.with_extension("backup");
    let _ = fs::remove_dir_all(&backup);
    store.backup(&backup).unwrap();
    store.merge().unwrap();
    store.verify().unwrap();
    assert_eq!(contents(&store), *map, "after a merge");
    store.close().unwrap();
    let restored = options().open(&backup).unwrap();
    assert_eq!(contents(&restored), *map, "in a backup");
    restored.verify().unwrap();
}

type Lost<'a> = (LogPosition, u64, LostKind, Option<&'a str>, bool, Option<LogPosition>);

fn gone(report: &RecoveryReport) -> Vec<Lost<'_>> {
    let one = |lost: &'_ LostFrame| -> (LogPosition, u64, LostKind, bool, Option<LogPosition>) {
        (lost.position, lost.length, lost.kind, lost.certain, lost.now)
    };
    let all = report.gone.iter().map(|lost| {
        let (position, length, kind, certain, now) = one(lost);
        let key = lost.key.as_deref().map(|key| std::str::from_utf8(key).unwrap());
        (position, length, kind, key, certain, now)
    });
    all.collect()
}

fn damaged(report: &RecoveryReport) -> Vec<(LogPosition, u64)> {
    report.damaged.iter().map(|range| (range.position, range.length)).collect()
}

fn without(map: &Map, key: &str) -> Map {
    let mut map = map.clone();
    map.remove(key);
    map
}

fn with(map: &Map, key: &str, value: &str) -> Map {
    let mut map = map.clone();
    map.insert(key.to_owned(), value.to_owned());
    map
}

#[test]
fn a_flipped_bit_in_a_value_brings_the_older_value_back_and_says_so() {
    let made = Made::new();
    let (at, older) = (made.at["key"], made.at["key older"]);
    let damage = |dir: &Path| flip(dir, at, 16 + 8 + 2);
    made.salvage(damage, |report, left, _| {
        assert_eq!(damaged(report), [(at, 32)]);
        let lost = (at, 32, LostKind::Put, Some("key"), true, Some(older));
        assert_eq!(gone(report), [lost]);
        assert!(report.in_doubt.is_empty() && !report.nothing_is_lost());
        assert_eq!(*left, with(&made.map, "key", "older"));
    });
}

#[test]
fn a_value_without_an_older_one_is_gone() {
    let made = Made::new();
    let at = made.at["only"];
    made.salvage(
        |dir| flip(dir, at, 16 + 8),
        |report, left, _| {
            assert_eq!(gone(report), [(at, 32, LostKind::Put, Some("only"), true, None)]);
            assert_eq!(*left, without(&made.map, "only"));
        },
    );
}

#[test]
fn a_flipped_bit_in_a_key_does_not_hide_which_key_it_was() {
    let made = Made::new();
    let at = made.at["only"];
    // In the key, the header, the length, and the checksum.
    for byte in [16, 17, 10, 12, 1, 5] {
        made.salvage(
            |dir| flip(dir, at, byte),
            |report, left, _| {
                assert_eq!(damaged(report), [(at, 32)], "byte {byte}");
                assert_eq!(gone(report), [(at, 32, LostKind::Put, Some("only"), true, None)]);
                assert_eq!(*left, without(&made.map, "only"));
            },
        );
    }
}

#[test]
fn a_damaged_tombstone_is_listed_with_what_came_back() {
    let made = Made::new();
    let (at, older) = (made.at["gone"], made.at["gone older"]);
    for byte in [4, 8, 16] {
        made.salvage(
            |dir| flip(dir, at, byte),
            |report, left, _| {
                assert_eq!(damaged(report), [(at, 24)]);
                let lost = (at, 24, LostKind::Tombstone, Some("gone"), true, Some(older));
                assert_eq!(gone(report), [lost]);
                assert_eq!(*left, with(&made.map, "gone", "alive"));
            },
        );
    }
}

#[test]
fn damage_in_what_was_overwritten_loses_nothing() {
    let made = Made::new();
    for name in ["twice 1", "twice 2", "key older", "gone older"] {
        let at = made.at[name];
        made.salvage(
            |dir| flip(dir, at, 16 + 8),
            |report, left, _| {
                assert_eq!(damaged(report), [(at, 32)], "{name}");
                assert!(report.gone.is_empty() && report.nothing_is_lost(), "{name}: {report}");
                assert_eq!(*left, made.map);
            },
        );
    }
}

#[test]
fn the_frames_of_a_batch_with_a_damaged_head_are_taken_and_in_doubt() {
    let made = Made::new();
    let at = made.at["batch"];
    for byte in [0, 5, 12] {
        made.salvage(
            |dir| flip(dir, at, byte),
            |report, left, _| {
                assert_eq!(damaged(report), [(at, 16)], "byte {byte}");
                assert!(report.gone.is_empty(), "{report}");
                let doubt: Vec<_> = report
                    .in_doubt
                    .iter()
                    .map(|doubt| (doubt.position, doubt.length, doubt.frames, doubt.reason))
                    .collect();
                assert_eq!(doubt, [(at, 16 + 32 + 32 + 24, 3, Doubt::TornBatch)], "byte {byte}");
                assert_eq!(*left, made.map);
            },
        );
    }
}

#[test]
fn a_damaged_value_in_a_batch_is_lost_and_the_others_are_in_doubt() {
    let made = Made::new();
    let batch = made.at["batch"];
    let at = LogPosition::from_u64(batch.as_u64() + 16 + 32);
    made.salvage(
        |dir| flip(dir, at, 16 + 8),
        |report, left, _| {
            assert_eq!(damaged(report), [(batch, 16), (at, 32)]);
            assert_eq!(gone(report), [(at, 32, LostKind::Put, Some("b"), true, None)]);
            assert_eq!(report.in_doubt.len(), 1, "{report}");
            assert_eq!((report.in_doubt[0].position, report.in_doubt[0].frames), (batch, 2));
            assert_eq!(*left, without(&made.map, "b"));
        },
    );
}

#[test]
fn of_what_was_overwritten_with_zeros_a_hint_knows_the_keys() {
    let made = Made::new();
    let (from, to) = (made.at["key"], made.at["after"]);
    let (gone_at, only) = (made.at["gone"], made.at["only"]);
    let damage = |dir: &Path| {
        let range = from.offset() as usize..to.offset() as usize;
        change(&file(dir, from.segment()), |bytes| bytes[range].fill(0));
    };
    made.salvage(damage, |report, left, hints| {
        let length = u64::from(to.offset() - from.offset());
        assert_eq!(damaged(report), [(from, length)]);
        assert_eq!(report.damaged[0].damage, CorruptionKind::Missing);
        let map = with(&with(&made.map, "key", "older"), "gone", "alive");
        let map = ["only", "a", "b"].iter().fold(map, |map, key| without(&map, key));
        assert_eq!(*left, map);
        if !hints {
            assert_eq!(gone(report), [(from, length, LostKind::Unknown, None, false, None)]);
            assert!(report.to_string().contains(&format!("an unknown key; {length} bytes")));
            return;
        }
        // Keys with another version are identified by their tags.
        let gone = gone(report);
        let (older, gone_older) = (made.at["key older"], made.at["gone older"]);
        assert_eq!(gone[0], (from, 32, LostKind::Put, Some("key"), true, Some(older)));
        let tombstone = (gone_at, 24, LostKind::Tombstone, Some("gone"), true, Some(gone_older));
        assert_eq!(gone[1], tombstone);
        assert_eq!(gone[2].0, only, "twice has a newer value: {gone:?}");
        assert!(gone[2..].iter().all(|lost| lost.3.is_none()), "{gone:?}");
        assert_eq!(gone.len(), 6, "only, a, b, key 2: {gone:?}");
    });
}

#[test]
fn a_damaged_frame_in_a_merged_segment_is_told_by_when_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    store.put("kept", "1").unwrap();
    store.put("moved", "1").unwrap();
    store.put("moved", "2").unwrap();
    store.roll().unwrap();
    store.put("kept", "2").unwrap();
    store.put("more", "x").unwrap();
    store.roll().unwrap();
    assert!(store.merge().unwrap().inputs > 0);
    let map = contents(&store);
    let merged = store.stats().segments.iter().find(|s| s.merged).unwrap().id;
    store.close().unwrap();
    let made = Made { dir, at: BTreeMap::new(), map };
    let bytes = fs::read(file(&path, merged)).unwrap();
    let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what).unwrap();
    // Behind the header and the position that it was written at.
    let at = place(merged, find(b"moved\0\0\0") as u64 - 24);
    made.salvage(
        |dir| flip(dir, at, 24 + 8),
        |report, left, _| {
            assert_eq!(damaged(report), [(at, 40)]);
            assert_eq!(gone(report), [(at, 40, LostKind::Put, Some("moved"), true, None)]);
            assert_eq!(*left, without(&made.map, "moved"));
        },
    );
}

/// Taken for a segment of the log, its frames would be newer than what was written since.
#[test]
fn a_merged_segment_without_a_head_is_known_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    store.put("key", "old").unwrap();
    store.put("other", "kept").unwrap();
    store.roll().unwrap();
    let first = store.stats().segments[0].id;
    store.merge_only(&[first]).unwrap();
    // In a segment that is older than the one that was made.
    let newer = store.put("key", "new").unwrap();
    store.delete("other").unwrap();
    store.roll().unwrap();
    store.maintain().unwrap();
    let map = contents(&store);
    let merged = store.stats().segments.iter().find(|segment| segment.merged).unwrap().id;
    assert!(merged > newer.segment());
    store.close().unwrap();
    let made = Made { dir, at: BTreeMap::new(), map };
    made.salvage(
        |dir| change(&file(dir, merged), |bytes| bytes[..128 + 24].fill(0)),
        |_, left, hints| assert!(!hints || *left == made.map, "{left:?}"),
    );
}

#[test]
fn without_its_manifest_a_store_comes_back_whole() {
    let made = Made::new();
    for damage in [None, Some(0), Some(30)] {
        let lose = |dir: &Path| match damage {
            None => fs::remove_file(dir.join("MANIFEST")).unwrap(),
            Some(byte) => change(&dir.join("MANIFEST"), |bytes| bytes[byte] ^= 1),
        };
        for hints in [true, false] {
            let dir = made.dir.path().join("copy");
            copy_dir(&made.store(), &dir, hints);
            lose(&dir);
            assert!(matches!(options().open(&dir), Err(OpenError::Manifest(_))));
            let store = salvage().open(&dir).unwrap();
            let report = store.recovery();
            assert!(report.nothing_is_lost() && report.damaged.is_empty(), "{report}");
            assert_eq!(contents(&store), made.map);
            store.close().unwrap();
            is_good(&dir, &made.map);
        }
    }
}

#[test]
fn a_segment_with_a_wrong_byte_in_its_head_comes_back_whole() {
    let made = Made::new();
    for id in 1..=3 {
        for byte in [0, 8, 12, 16, 20, 24, 40, 48, 60, 96, 127] {
            made.salvage(
                |dir| change(&file(dir, id), |bytes| bytes[byte] ^= 0x5d),
                |report, left, _| {
                    assert_eq!(damaged(report), [(place(id, 0), 128)], "segment {id}, byte {byte}");
                    assert!(report.gone.is_empty() && report.in_doubt.is_empty(), "{report}");
                    assert_eq!(*left, made.map);
                },
            );
        }
    }
}

#[test]
fn a_segment_without_a_head_comes_back_by_the_salt_in_its_hint() {
    let made = Made::new();
    let id = made.at["key"].segment();
    let key = made.at["key"];
    made.salvage(
        // The first frames go with it, a sync mark and a half.
        |dir| change(&file(dir, id), |bytes| bytes[..key.offset() as usize + 8].fill(0)),
        |report, left, hints| {
            if hints {
                let length = u64::from(key.offset()) + 32 - 128;
                assert_eq!(damaged(report), [(place(id, 0), 128), (place(id, 128), length)]);
                let lost = (key, 32, LostKind::Put, Some("key"), true, Some(made.at["key older"]));
                assert_eq!(gone(report), [lost]);
                assert!(report.in_doubt.is_empty(), "{report}");
                assert_eq!(*left, with(&made.map, "key", "older"));
            } else {
                assert_eq!(damaged(report).len(), 1, "{report}");
                assert_eq!(damaged(report)[0].0, place(id, 0));
                assert_eq!(report.gone.len(), 1, "{report}");
                assert_eq!(report.gone[0].kind, LostKind::Unknown);
            }
        },
    );
}

#[test]
fn what_is_behind_the_cut_of_a_file_is_listed() {
    let made = Made::new();
    let (only, after) = (made.at["only"], made.at["after"]);
    made.salvage(
        |dir| change(&file(dir, only.segment()), |bytes| bytes.truncate(only.offset() as usize)),
        |report, left, hints| {
            let map = ["only", "a", "b", "after"].iter();
            assert_eq!(*left, map.fold(made.map.clone(), |map, key| without(&map, key)));
            if hints {
                let end = u64::from(after.offset()) + 32;
                let length = report.damaged[0].length;
                assert_eq!((damaged(report)[0].0, report.damaged.len()), (only, 1), "{report}");
                assert!(length >= end - u64::from(only.offset()), "{report}");
                assert_eq!(report.gone.len(), 5, "only, a, b, key 2, after: {report}");
            } else {
                assert_eq!(damaged(report), [(only, 0)]);
                assert_eq!(gone(report), [(only, 0, LostKind::Unknown, None, false, None)]);
            }
        },
    );
}

#[test]
fn what_is_behind_a_cut_within_a_frame_is_listed() {
    let made = Made::new();
    let only = made.at["only"];
    let cut = LogPosition::from_u64(only.as_u64() + 24);
    made.salvage(
        |dir| change(&file(dir, cut.segment()), |bytes| bytes.truncate(cut.offset() as usize)),
        |report, left, hints| {
            let map = ["only", "a", "b", "after"].iter();
            assert_eq!(*left, map.fold(made.map.clone(), |map, key| without(&map, key)));
            if !hints {
                assert_eq!(damaged(report), [(only, 24), (cut, 0)]);
                assert_eq!(gone(report)[1], (cut, 0, LostKind::Unknown, None, false, None));
            }
        },
    );
}

#[test]
fn a_segment_that_is_missing_is_listed() {
    let made = Made::new();
    let id = made.at["key"].segment();
    let whole = place(id, 0);
    made.salvage(
        |dir| fs::remove_file(file(dir, id)).unwrap(),
        |report, left, hints| {
            assert_eq!(damaged(report), [(whole, 0)]);
            let map = with(&with(&made.map, "key", "older"), "gone", "alive");
            let map = ["only", "a", "b", "after"].iter().fold(map, |map, key| without(&map, key));
            assert_eq!(*left, map);
            if hints {
                assert_eq!(report.gone.len(), 7, "{report}");
                let told: Vec<_> = report.gone.iter().filter_map(|l| l.key.as_deref()).collect();
                assert_eq!(told, [&b"key"[..], b"gone"]);
            } else {
                assert_eq!(gone(report), [(whole, 0, LostKind::Unknown, None, false, None)]);
            }
        },
    );
}

/// L4: what was cut off after a power loss is brought back, and in doubt.
#[test]
fn what_an_earlier_recovery_cut_off_is_brought_back_and_in_doubt() {
    let disk = tailcask::SimulatedDisk::new();
    let store = options().open_simulated(&disk).unwrap();
    store.put("before", "1").unwrap();
    store.sync().unwrap();
    let end = store.log().tail();
    // A dead thread's append: the rest was acknowledged.
    store.log().abandon_reservation(40);
    store.put("behind", "2").unwrap();
    store.put("further", "3").unwrap();
    store.abort();
    // The machine restarts, and everything had been written back.
    let disk = disk.power_loss(|_, _| true);
    let store = options().open_simulated(&disk).unwrap();
    assert_eq!(contents(&store).len(), 1, "{}", store.recovery());
    store.put("later", "4").unwrap();
    store.close().unwrap();
    let store = salvage().open_simulated(&disk).unwrap();
    let report = store.recovery();
    assert_eq!(contents(&store).len(), 4, "{report}");
    // Whether something was written there that the power loss took cannot be determined.
    assert_eq!(gone(report), [(end, 56, LostKind::Unknown, None, false, None)]);
    let doubt = &report.in_doubt[0];
    assert_eq!((doubt.position, doubt.frames, doubt.reason), (end, 2, Doubt::BroughtBack));
    assert_eq!(report.in_doubt.len(), 1, "{report}");
    store.verify().unwrap();
}

/// Nothing is known to be lost, but no strict open would take it: it is replaced like other damage.
#[test]
fn a_seal_that_counts_frames_wrongly_is_told_and_replaced() {
    let made = Made::new();
    for id in 1..=3 {
        let count_one_more = |dir: &Path| {
            change(&file(dir, id), |bytes| {
                bytes[80] += 1;
                let mut crc = crc32fast::Hasher::new();
                crc.update(&bytes[24..32]);
                crc.update(&bytes[72..88]);
                bytes[88..92].copy_from_slice(&crc.finalize().to_le_bytes());
            });
        };
        made.salvage(count_one_more, |report, left, _| {
            let [lost] = &report.lost[..] else { panic!("{report}") };
            assert_eq!((lost.segment, lost.offset), (id, 64), "{report}");
            let CorruptionKind::Frames { expected, found } = lost.kind else { panic!("{report}") };
            assert_eq!(expected, found + 1, "{report}");
            assert!(report.gone.is_empty() && report.in_doubt.is_empty(), "{report}");
            assert_eq!(*left, made.map);
            assert_eq!(report.set_aside.len(), 1, "{report}");
        });
    }
}

/// Reading only, salvage says the same, and changes nothing.
#[test]
fn a_view_of_a_damaged_store_lists_the_same() {
    let made = Made::new();
    flip(&made.store(), made.at["key"], 24);
    flip(&made.store(), made.at["gone"], 16);
    let before = paths(&made.store());
    let view = salvage().open_read_only(made.store()).unwrap();
    let seen = view.recovery().clone();
    assert_eq!(view.get("key").unwrap().as_deref(), Some(&b"older"[..]));
    drop(view);
    assert_eq!(before, paths(&made.store()));
    let store = salvage().open(made.store()).unwrap();
    let report = store.recovery();
    assert_eq!((&seen.gone, &seen.damaged), (&report.gone, &report.damaged));
    assert_eq!(seen.gone.len(), 2, "{report}");
}

/// Whatever is damaged: what is left is good, and what is not as it was is on the list.
#[test]
fn whatever_is_damaged_all_that_is_missing_is_listed() {
    let made = Made::new();
    let mut random = Random::new(1);
    let mut below = |end| random.below(end);
    for round in 0..rounds(20) {
        let mut damages = Vec::new();
        for _ in 0..=below(3) {
            let (id, at) = (below(3) as u32 + 1, below(450) as usize);
            damages.push((id, at, below(60) as usize + 1, below(5)));
        }
        let damage = |dir: &Path| {
            for &(id, at, len, how) in &damages {
                change(&file(dir, id), |bytes| match how {
                    0 if at > 128 && at < bytes.len() => bytes.truncate(at),
                    1 => bytes.iter_mut().skip(at).take(len).for_each(|byte| *byte = 0),
                    2 => bytes.iter_mut().skip(at).take(len).for_each(|byte| *byte ^= 0x5a),
                    _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (len % 8)),
                });
            }
        };
        for hints in [true, false] {
            let dir = made.dir.path().join("copy");
            copy_dir(&made.store(), &dir, hints);
            damage(&dir);
            let store = salvage().open(&dir).unwrap();
            let (report, left) = (store.recovery().clone(), contents(&store));
            let what = format!("round {round}, {damages:?}, hints {hints}: {report}");
            let untold = report.gone.iter().any(|lost| lost.key.is_none() || !lost.certain);
            let told = |key: &str| {
                report.gone.iter().any(|lost| lost.key.as_deref() == Some(key.as_bytes()))
            };
            let keys = ["key", "gone", "twice", "only", "a", "b", "after", "key 2"];
            for key in keys {
                if left.get(key) != made.map.get(key) {
                    assert!(untold || told(key), "{key} is {:?}; {what}", left.get(key));
                }
            }
            assert!(left.keys().all(|key| keys.contains(&&**key)), "{what}");
            for lost in report.gone.iter().filter(|lost| lost.certain && lost.now.is_some()) {
                let key = std::str::from_utf8(lost.key.as_deref().unwrap()).unwrap();
                assert!(left.contains_key(key), "{key} came back; {what}");
            }
            store.verify().unwrap();
            store.close().unwrap();
            is_good(&dir, &left);
        }
    }
}

/// What 0.1.0 wrote: its hints have the salt, too.
#[test]
fn a_segment_of_version_1_without_a_head_comes_back_by_its_hint() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1/store-closed");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    copy_dir(&fixture, &path, true);
    paths(&path).iter().for_each(|file| mode(file, 0o600));
    let sound = dir.path().join("sound");
    copy_dir(&path, &sound, true);
    let map = contents(&options().open(&sound).unwrap());
    for id in [3, 4] {
        let copied = dir.path().join(format!("copy {id}"));
        copy_dir(&path, &copied, true);
        change(&file(&copied, id), |bytes| bytes[..64].fill(0));
        let store = salvage().open(&copied).unwrap();
        let report = store.recovery();
        assert!(report.nothing_is_lost(), "{report}");
        assert!(contents(&store) == map, "{report}");
        store.close().unwrap();
        is_good(&copied, &map);
    }
}

/// A backup has the head that was found, and not the damaged one.
#[test]
fn a_view_of_a_segment_with_a_damaged_head_is_backed_up() {
    let made = Made::new();
    for damage in [16..17, 100..101, 0..64] {
        let (dir, backup) = (made.dir.path().join("copy"), made.dir.path().join("backup"));
        copy_dir(&made.store(), &dir, true);
        change(&file(&dir, 1), |bytes| bytes[damage].iter_mut().for_each(|byte| *byte ^= 1));
        let report = salvage().open_read_only(&dir).unwrap().backup(&backup).unwrap();
        assert_eq!(report.copied, 1);
        is_good(&backup, &made.map);
        fs::remove_dir_all(&backup).unwrap();
    }
}

/// Without a MANIFEST nothing says which segments may be of that version.
#[test]
fn a_view_with_segments_of_version_1_and_no_manifest_is_backed_up() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1/store-closed");
    let dir = tempfile::tempdir().unwrap();
    let (path, backup) = (dir.path().join("store"), dir.path().join("backup"));
    copy_dir(&fixture, &path, true);
    let store = options().open(&path).unwrap();
    store.put("of version 2", "value").unwrap();
    let map = contents(&store);
    store.close().unwrap();
    fs::remove_file(path.join("MANIFEST")).unwrap();
    salvage().open_read_only(&path).unwrap().backup(&backup).unwrap();
    is_good(&backup, &map);
}
