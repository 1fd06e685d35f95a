use super::layout::{CHECKSUM, HEAD};
use super::*;
use crate::position::LogPosition;
use proptest::prelude::*;

const SUBJECT: Subject = Subject {
    id: 7,
    salt: 99,
    end: 1 << 20,
    frames: 5,
    merged: false,
    fingerprint: 5,
    reclaimed_then: 77,
};
const MERGED: Subject = Subject { merged: true, ..SUBJECT };

fn name(first: u64, second: u64) -> KeyName {
    KeyName { first, second }
}

/// A frame of 24 bytes, where it was first written.
fn entry(name: KeyName, offset: u32, tombstone: bool) -> HintEntry {
    let flags = EntryFlags { tombstone, expires: false };
    HintEntry::new(name, LogPosition::new(7, offset), offset.into(), 24, flags)
}

/// The same, moved from elsewhere.
fn moved(from: HintEntry, origin: LogPosition) -> HintEntry {
    HintEntry { origin, ..from }
}

/// Two frames are not listed, and two of all frames are inside a batch.
fn census(entries: &[HintEntry]) -> Census {
    let expiring = Expiring { bytes: 80, by: [1, 2, 3, 4] };
    let tombstones = entries.iter().filter(|entry| entry.is_tombstone());
    let tombstones = 30 + tombstones.map(HintEntry::len).sum::<u64>();
    let oldest = entries.iter().map(|entry| entry.origin.as_u64()).min().unwrap_or(u64::MAX);
    let (keyless, superseded, plain) = (10, 20, true);
    let (inner, unlisted) = (2, 7u64.wrapping_sub(entries.len() as u64));
    let census = Census { keyless, superseded, tombstones, oldest, expiring, ..Census::default() };
    let mut census = Census { plain, unlisted, inner, ..census };
    census.count(entries);
    census
}

fn encoded(subject: Subject, entries: &[HintEntry]) -> Vec<u8> {
    encode(subject, &census(entries), entries)
}

fn read(bytes: &[u8], subject: Subject) -> Option<Decoded<'_>> {
    decode(bytes, subject, u32::MAX, |_| {})
}

fn is_sound(subject: Subject, entries: &[HintEntry]) -> bool {
    read(&encoded(subject, entries), subject).is_some()
}

#[test]
fn golden_bytes_and_every_flipped_bit() {
    let entries = [
        entry(name(1 << 32 | 5, 2), 128, false),
        entry(name(1 << 32 | 5, 3), 160, true),
        entry(name(9 << 32, 1), 256, false),
    ];
    let good = encoded(SUBJECT, &entries);
    assert_eq!(good.len(), HEAD + 3 * 24 + CHECKSUM);
    assert_eq!(&good[..16], b"tchint\n\0\x03\0\0\0\x07\0\0\0");
    assert_eq!(&good[152..160], &[3, 0, 0, 0, 0, 0, 0, 0]);
    let first = [5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0, 24, 0, 0, 0];
    assert_eq!(&good[160..184], &first);
    assert_eq!(&good[200..208], &[161, 0, 0, 0, 24, 0, 0, 0]);
    // By a separate implementation.
    assert_eq!(good[232..], 0x96b3_fb81u32.to_le_bytes());
    let found = read(&good, SUBJECT).unwrap();
    assert_eq!(found.census, census(&entries));
    assert!(found.entries.iter().eq(entries));
    assert_eq!(found.most_of_a_tag, 2);
    assert_eq!(reclaimed_then(&good), 77);
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bytes, SUBJECT).is_none(), "bit {bit}");
    }
    (0..good.len()).for_each(|len| assert!(read(&good[..len], SUBJECT).is_none()));
}

#[test]
fn golden_bytes_of_a_merged_segment() {
    let one = moved(entry(name(1, 2), 128, false), LogPosition::new(3, 0x88));
    let flags = EntryFlags { tombstone: false, expires: true };
    let other = HintEntry::new(name(1, 2), LogPosition::new(4, 0x80), 160, 1 << 18, flags);
    let good = encoded(MERGED, &[one, other]);
    assert_eq!(&good[184..192], &[0x88, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(&good[208..224], &[162, 0, 0, 0, 0, 0, 4, 0, 0x80, 0, 0, 0, 4, 0, 0, 0]);
    assert!(read(&good, MERGED).unwrap().entries.iter().eq([one, other]));
    assert!(read(&good, SUBJECT).is_none(), "a segment of the log has other entries");
}

#[test]
fn a_hint_of_another_segment_or_hash_is_refused() {
    let good = encoded(SUBJECT, &[]);
    let good = {
        assert!(read(&good, SUBJECT).is_some());
        good
    };
    for other in [
        Subject { frames: 6, ..SUBJECT },
        Subject { id: 8, ..SUBJECT },
        Subject { salt: 1, ..SUBJECT },
        Subject { end: 4104, ..SUBJECT },
        Subject { fingerprint: 6, ..SUBJECT },
    ] {
        assert!(read(&good, other).is_none());
    }
}

#[test]
fn places_outside_of_the_segment_are_refused_though_the_checksum_is_right() {
    let at = |offset: u64, len: u64| {
        let at = LogPosition::new(7, offset as u32 & !7);
        HintEntry::new(name(1, 1), at, offset, len, EntryFlags::default())
    };
    for (offset, len) in [
        (0, 24),
        (120, 24),
        (128 | 4, 24),
        (1 << 20, 24),
        (0xffff_fff8, 24),
        (128, 0),
        (128, 16),
        (128, 28),
        ((1 << 20) - 16, 24),
        (128, 1 << 20),
        (128, 0xffff_fff8),
    ] {
        assert!(!is_sound(SUBJECT, &[at(offset, len)]), "{offset}+{len}");
    }
    assert!(is_sound(SUBJECT, &[at(128, 24)]) && is_sound(SUBJECT, &[at((1 << 20) - 24, 24)]));
}

#[test]
fn entries_out_of_order_are_refused_though_the_checksum_is_right() {
    let (one, two) = (name(1, 5), name(2, 4));
    let are_sound = |subject, names: [KeyName; 2], origins: [u32; 2]| {
        let at = |nth: usize| {
            let entry = entry(names[nth], 128 + 64 * nth as u32, false);
            if subject == MERGED { moved(entry, LogPosition::new(3, origins[nth])) } else { entry }
        };
        is_sound(subject, &[at(0), at(1)])
    };
    for subject in [SUBJECT, MERGED] {
        assert!(are_sound(subject, [one, two], [128, 128]));
        assert!(are_sound(subject, [name(1, 4), one], [128, 128]));
        assert!(!are_sound(subject, [two, one], [128, 256]));
        assert!(!are_sound(subject, [one, name(1, 4)], [128, 256]));
        assert!(!are_sound(subject, [one, one], [128, 128]));
    }
    assert!(are_sound(MERGED, [one, one], [128, 256]));
    assert!(!are_sound(MERGED, [one, one], [256, 128]));
    assert!(!are_sound(SUBJECT, [one, one], [128, 256]), "only the newest is listed");
}

#[test]
fn numbers_that_cannot_be_are_refused_though_the_checksum_is_right() {
    let entries = [entry(name(1, 1), 128, false)];
    let good = census(&entries);
    assert!(read(&encode(SUBJECT, &good, &entries), SUBJECT).is_some());
    // A frame that is neither listed nor counted as not listed.
    assert!(read(&encode(SUBJECT, &good, &[]), SUBJECT).is_none());
    let (unlisted, inner) = (good.unlisted + 1, good.inner + 1);
    for bad in [
        Census { unlisted, ..good },
        Census { inner, ..good },
        Census { keyless: 1 << 20, ..good },
        Census { keyless: (1 << 20) - 128 - 24 - 30 - 20 + 1, ..good },
        Census { superseded: u64::MAX, ..good },
        Census { tombstones: u64::MAX, ..good },
        Census { expiring: Expiring { bytes: u64::MAX, by: [0; 4] }, ..good },
        Census { oldest: u64::MAX, ..good },
        Census { oldest: 8 << 32, ..good },
        Census { oldest: 6 << 32 | 128, ..good },
        Census { oldest: 7 << 32 | 136, ..good },
        Census { unlisted: u64::MAX, ..good },
    ] {
        assert!(read(&encode(SUBJECT, &bad, &entries), SUBJECT).is_none(), "{bad:?}");
    }
    let deleted = [entry(name(1, 1), 128, true)];
    let bad = Census { tombstones: 16, ..census(&deleted) };
    assert!(read(&encode(SUBJECT, &bad, &deleted), SUBJECT).is_none(), "it is longer than all");
    let origin = LogPosition::new(6, 128);
    assert!(is_sound(MERGED, &[moved(entries[0], origin)]));
    assert!(!is_sound(MERGED, &entries), "what was moved was written before");
    let from_elsewhere = [moved(entries[0], origin)];
    let bad = Census { oldest: 5 << 32, ..census(&from_elsewhere) };
    assert!(read(&encode(MERGED, &bad, &from_elsewhere), MERGED).is_none());
}

#[test]
fn no_more_was_reclaimed_than_can_be() {
    let of = |reclaimed_then| {
        let subject = Subject { reclaimed_then, ..SUBJECT };
        read(&encode(subject, &census(&[]), &[]), SUBJECT).is_some()
    };
    assert!(of(0) && of(1 << 62) && !of((1 << 62) + 1) && !of(u64::MAX));
}

#[test]
fn expiry_is_estimated_by_quarters() {
    let mut puts: Vec<_> = (1..=100).rev().map(|n| (n, 10)).collect();
    let expiring = Expiring::of(&mut puts);
    assert_eq!(expiring, Expiring { bytes: 1000, by: [25, 50, 75, 100] });
    assert_eq!([0, 25, 60, 100].map(|now| expiring.expired(now)), [0, 250, 500, 1000]);
    assert_eq!(Expiring::of(&mut []).expired(u64::MAX), 0);
    assert_eq!(Expiring::of(&mut [(5, 8)]).by, [5; 4]);
}

/// Entries with names as hashes have them, for a hint of many blocks.
fn many(count: u32, tombstones: bool) -> Vec<HintEntry> {
    let one = |n: u32| {
        let hash = |seed: u64| {
            let mixed = (u64::from(n) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ mixed >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        entry(name(hash(0), hash(1 << 40)), 128 + n * 24, tombstones && n.is_multiple_of(3))
    };
    let mut all: Vec<_> = (0..count).map(one).collect();
    all.sort_unstable();
    all
}

/// A subject of as many frames as a hint of these entries says.
fn subject_of(merged: bool, entries: usize) -> Subject {
    let (unlisted, inner) = (7u64.wrapping_sub(entries as u64), 2);
    let frames = (entries as u64).wrapping_add(unlisted) - inner;
    Subject { merged, frames, end: 1 << 28, ..SUBJECT }
}

fn in_segment(merged: bool, entries: Vec<HintEntry>) -> Vec<HintEntry> {
    let one = |entry: HintEntry| moved(entry, LogPosition::new(3, entry.offset() as u32));
    if merged { entries.into_iter().map(one).collect() } else { entries }
}

/// The counts wrap around for many entries: these are given right.
fn large_census(entries: &[HintEntry]) -> (Census, u64) {
    let census = Census { unlisted: 2, ..census(entries) };
    (census, entries.len() as u64)
}

fn large(merged: bool, entries: &[HintEntry]) -> (Vec<u8>, Subject, Census) {
    let (census, frames) = large_census(entries);
    let subject = Subject { frames, ..subject_of(merged, entries.len()) };
    (encode(subject, &census, entries), subject, census)
}

#[test]
fn hints_of_any_number_of_entries_are_read() {
    for merged in [false, true] {
        for count in [0, 1, 120, 122, 123, 163, 164, 165, 249, 250, 333, 334, 5000] {
            let entries = in_segment(merged, many(count, true));
            let (bytes, subject, census) = large(merged, &entries);
            let mut blocks = 0;
            let found = decode(&bytes, subject, u32::MAX, |at| {
                assert_eq!(at, blocks * BLOCK);
                blocks += 1;
            });
            let found = found.unwrap_or_else(|| panic!("{count} entries"));
            assert_eq!((found.census, found.entries.len()), (census, count as usize));
            assert!(found.entries.iter().eq(entries.iter().copied()));
            for (nth, entry) in entries.iter().enumerate() {
                assert_eq!(found.entries.get(nth), *entry);
                assert_eq!(found.entries.first_half(nth), entry.name.first);
            }
            // In ranges of names, by one walk and by a walk for each.
            let (mut seen, mut again, mut listed) = (Vec::new(), Vec::new(), Listed::NONE);
            let mut walk = found.entries.walk(0, 0);
            for part in 0..8 {
                let end = (part < 7).then(|| (part + 1) << 61);
                let below = |entry: &HintEntry| entry.name.first < part << 61;
                let mut one = found.entries.walk(entries.partition_point(below), part << 61);
                let take = |walk: &mut HintWalk, seen: &mut Vec<_>| {
                    let each = |entry| seen.push(entry);
                    found.entries.each_below(&subject, u32::MAX, walk, end, |_| {}, each).unwrap();
                };
                take(&mut walk, &mut seen);
                take(&mut one, &mut again);
                listed.add(&one.listed);
                assert_eq!(again.len(), seen.len());
                // What was not seen is missing.
                let complete = census.complete(&subject, &listed).is_some();
                assert_eq!(complete, seen.len() == entries.len(), "{part} of {count}");
            }
            assert_eq!(again, entries);
            assert_eq!(census.complete(&subject, &walk.listed), Some(census));
            assert_eq!(seen, entries);
            // Any byte that is changed is noticed, be it one that is read or one that fills a block.
            for at in (0..bytes.len()).step_by(61) {
                let mut bad = bytes.clone();
                bad[at] ^= 4;
                let filter = at >= entry_bytes(merged, &entries);
                assert_eq!(decode(&bad, subject, u32::MAX, |_| {}).is_none(), !filter, "{at}");
            }
            for len in [bytes.len() - 1, bytes.len().saturating_sub(BLOCK)] {
                assert!(decode(&bytes[..len], subject, u32::MAX, |_| {}).is_none());
            }
        }
    }
}

/// Bytes of the blocks with entries.
fn entry_bytes(merged: bool, entries: &[HintEntry]) -> usize {
    Layout::new(merged, entries.len()).entry_blocks() * BLOCK
}

#[test]
fn blocks_are_bound_to_their_places() {
    let entries = many(2000, false);
    let (bytes, subject, _) = large(false, &entries);
    let mut swapped = bytes.clone();
    swapped[BLOCK..3 * BLOCK].rotate_left(BLOCK);
    assert!(decode(&swapped, subject, u32::MAX, |_| {}).is_none());
    // Those of a filter are in no order that could be checked.
    let entries = many(8000, false);
    let (bytes, subject, census) = large(false, &entries);
    let filter = entry_bytes(false, &entries);
    let mut swapped = bytes;
    swapped[filter..filter + 2 * BLOCK].rotate_left(BLOCK);
    let mut index = HintIndex::open(&swapped, subject, &census).unwrap();
    let last = LogPosition::from_u64(u64::MAX);
    assert!(entries.iter().all(|entry| index.may_hold(entry.name, last)), "it is not believed");
}

/// All names in question, and others.
fn questions(entries: &[HintEntry]) -> Vec<KeyName> {
    let near = |entry: &HintEntry| {
        let KeyName { first, second } = entry.name;
        let wrapping = [first.wrapping_add(1), first.wrapping_sub(1), !first];
        wrapping.map(|first| name(first, second)).into_iter().chain([name(first, !second)])
    };
    let mut all: Vec<_> = entries.iter().map(|entry| entry.name).collect();
    all.extend(entries.iter().flat_map(near));
    all.extend([name(0, 0), name(u64::MAX, u64::MAX)]);
    all
}

fn holds(entries: &[HintEntry], wanted: KeyName, before: LogPosition) -> bool {
    let is = |entry: &&HintEntry| entry.name == wanted && entry.origin < before;
    entries.iter().filter(is).any(|entry| !entry.is_tombstone())
}

#[test]
fn single_names_are_answered_as_by_all_entries() {
    let last = LogPosition::from_u64(u64::MAX);
    for merged in [false, true] {
        for count in [0, 1, 163, 164, 700, 1500] {
            let entries = in_segment(merged, many(count, true));
            let (bytes, subject, census) = large(merged, &entries);
            let mut index = HintIndex::open(&bytes, subject, &census).unwrap();
            let mut asked = questions(&entries);
            asked.sort_unstable();
            for wanted in asked {
                let expected = holds(&entries, wanted, last);
                assert_eq!(index.may_hold(wanted, last), expected, "{count}: {wanted:?}");
                assert!(!index.may_hold(wanted, LogPosition::from_u64(census.oldest)));
            }
        }
    }
}

#[test]
fn of_one_name_only_what_is_older_counts() {
    // One was deleted and put again, of the other the oldest put is gone.
    let (key, other) = (name(5, 5), name(5, 6));
    let origins = [(128, false), (136, true), (144, false)];
    let versions = origins.map(|version| (key, version)).into_iter();
    let versions = versions.chain([(other, (136, true)), (other, (144, false))]);
    let one = |(nth, (name, (origin, tombstone))): (usize, (KeyName, (u32, bool)))| {
        moved(entry(name, 128 + 24 * nth as u32, tombstone), LogPosition::new(3, origin))
    };
    for count in [0, 1, 120, 2000] {
        // In front of the others and behind them, so that the key is on the edge of a block for some.
        let mut entries = in_segment(true, many(count, false));
        entries.extend(versions.clone().enumerate().map(one));
        entries.sort_unstable();
        let (bytes, subject, census) = large(true, &entries);
        let mut index = HintIndex::open(&bytes, subject, &census).unwrap();
        for before in (120..160).step_by(8) {
            let before = LogPosition::new(3, before);
            for name in [key, other] {
                assert_eq!(index.may_hold(name, before), holds(&entries, name, before));
            }
        }
    }
}

#[test]
fn few_blocks_are_read_for_a_name() {
    let entries = many(100_000, false);
    let (bytes, subject, census) = large(false, &entries);
    let last = LogPosition::from_u64(u64::MAX);
    let blocks = |names: &mut dyn Iterator<Item = KeyName>| {
        let (mut read, mut asked) = (0, 0);
        for name in names {
            let mut index = HintIndex::open(&bytes, subject, &census).unwrap();
            index.may_hold(name, last);
            (read, asked) = (read + index.blocks_read() - 1, asked + 1);
        }
        read as f64 / f64::from(asked)
    };
    let there = blocks(&mut entries.iter().step_by(997).map(|entry| entry.name));
    assert!(there < 5.0, "{there} blocks for a name that is there");
    let others =
        entries.iter().step_by(97).map(|entry| name(!entry.name.first, entry.name.second ^ 1));
    let absent = blocks(&mut others.into_iter());
    assert!(absent < 1.15, "{absent} blocks for one that is not");
}

#[test]
fn a_damaged_block_may_hold_anything() {
    let entries = many(600, true);
    let (bytes, subject, census) = large(false, &entries);
    let last = LogPosition::from_u64(u64::MAX);
    let asked = questions(&entries);
    for at in (0..bytes.len()).step_by(512) {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        let Some(mut index) = HintIndex::open(&bad, subject, &census) else {
            assert!(at < BLOCK);
            continue;
        };
        assert!(at >= BLOCK);
        for &wanted in &asked {
            let is_there = holds(&entries, wanted, last);
            assert!(index.may_hold(wanted, last) || !is_there, "byte {at}");
        }
    }
    let other = Census { keyless: census.keyless + 8, ..census };
    assert!(HintIndex::open(&bytes, subject, &other).is_none(), "it is not what is known");
}

proptest! {
    /// Whatever a hint holds, sorted or not: no panic, and no no where an entry says yes.
    #[test]
    fn a_filter_never_says_no_wrongly(
        halves in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..800),
        few in any::<bool>(),
        merged in any::<bool>(),
        others in prop::collection::vec((any::<u64>(), any::<u64>()), 0..20),
    ) {
        let narrow = |half: u64| if few { half & 3 << 62 } else { half };
        let one = |(n, (first, second, tombstone)): (usize, (u64, u64, bool))| {
            entry(name(narrow(first), second), 128 + 24 * n as u32, tombstone)
        };
        let mut entries: Vec<_> = halves.into_iter().enumerate().map(one).collect();
        entries.sort_unstable();
        let entries = in_segment(merged, entries);
        let (bytes, subject, census) = large(merged, &entries);
        let mut index = HintIndex::open(&bytes, subject, &census).unwrap();
        let last = LogPosition::from_u64(u64::MAX);
        for entry in &entries {
            prop_assert_eq!(index.may_hold(entry.name, last), holds(&entries, entry.name, last));
        }
        for (first, second) in others {
            let wanted = name(narrow(first), second);
            prop_assert_eq!(index.may_hold(wanted, last), holds(&entries, wanted, last));
        }
    }

    /// As of a hint that lies, with a right checksum.
    #[test]
    fn entries_in_no_order_panic_nothing(
        halves in prop::collection::vec((any::<u64>(), any::<u64>()), 0..800),
        asked in prop::collection::vec((any::<u64>(), any::<u64>()), 1..50),
    ) {
        let one = |(n, (first, second)): (usize, (u64, u64))| {
            entry(name(first, second), 128 + 24 * n as u32, false)
        };
        let entries: Vec<_> = halves.into_iter().enumerate().map(one).collect();
        let (bytes, subject, census) = large(false, &entries);
        let _ = decode(&bytes, subject, u32::MAX, |_| {});
        let mut index = HintIndex::open(&bytes, subject, &census).unwrap();
        for (first, second) in asked {
            let _ = index.may_hold(name(first, second), LogPosition::from_u64(u64::MAX));
        }
    }
}

#[test]
fn a_hint_is_read_loosely_whatever_its_segment() {
    for merged in [false, true] {
        let entries = in_segment(merged, many(400, true));
        let (bytes, subject, _) = large(merged, &entries);
        let (loose, found) = decode_loosely(&bytes).unwrap();
        assert_eq!((loose.id, loose.salt, loose.end), (7, 99, subject.end));
        let expected = entries.iter().map(|entry| LooseEntry {
            offset: entry.offset(),
            tombstone: entry.is_tombstone(),
            name: Some(entry.name),
        });
        assert!(found.into_iter().eq(expected));
        let mut bad = bytes.clone();
        bad[BLOCK + 9] ^= 1;
        assert!(decode_loosely(&bad).is_none());
        (0..bytes.len())
            .step_by(97)
            .for_each(|len| assert!(decode_loosely(&bytes[..len]).is_none()));
    }
}

#[test]
fn version_1_is_read_loosely_and_not_otherwise() {
    let mut bytes = vec![0; 120];
    bytes[..8].copy_from_slice(b"tchint\n\0");
    bytes[8] = 1;
    bytes[12] = 7;
    bytes[16] = 99;
    bytes[24..32].copy_from_slice(&4096u64.to_le_bytes());
    for place in [128u64, 256 | 1] {
        bytes.extend((5 << 32 | place).to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    let (loose, found) = decode_loosely(&bytes).unwrap();
    assert_eq!((loose.id, loose.salt, loose.end), (7, 99, 4096));
    let places: Vec<_> = found.iter().map(|entry| (entry.offset, entry.tombstone)).collect();
    assert_eq!(places, [(128, false), (256, true)]);
    assert!(found.iter().all(|entry| entry.name.is_none()));
    assert!(read(&bytes, Subject { end: 4096, frames: 0, ..SUBJECT }).is_none());
    bytes[130] ^= 1;
    assert!(decode_loosely(&bytes).is_none());
}
