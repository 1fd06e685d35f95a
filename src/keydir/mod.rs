//! The keydir: a map in memory from each key to the position of its newest frame.
//!
//! It holds no keys. A **slot** is 12 bytes: a 32-bit **tag**, which is a hash of the key, and the
//! position of the key's newest frame in the log. A lookup goes through the slots with the key's tag,
//! and its caller compares the key with that of the frame at each, in the mapped segment. Two keys with
//! one tag (a **collision**) therefore have a slot each and are never mistaken for one another; they
//! cost a comparison more. Keys of any length take the same memory.
//!
//! Invariant: a key has one slot if it has a value, and none otherwise; and the slot points at a frame
//! in a segment of the store's segment set. A slot is changed only under the write lock of its shard,
//! through an [entry](entry::KeydirEntry).
//!
//! Underneath is a `DashMap` used through its raw API, for its shards. Both the shard of a slot and its
//! place in the shard's table follow from the tag, not from the key, so a table can grow without
//! looking at frames. They grow with the tag, so that slots which come sorted by tag, as those of hints
//! do, fill the memory from one end to the other.
//!
//! `slot`, `table`, `resize` and `huge_pages` are the memory, `entry` and `locked` what is done under locks, and
//! `load` fills the keydir when a store is opened.

#[cfg(test)]
mod attacks;
mod entry;
mod huge_pages;
mod load;
mod locked;
mod resize;
mod sip;
mod slot;
mod table;

pub(crate) use entry::{KeydirEntry, SparseShard};
pub(crate) use huge_pages::Settling;
pub(crate) use load::{LoadEntry, LoadSource};
pub(crate) use locked::{Crowded, KeydirEntries, LockedShards, ReadShards};
pub(crate) use resize::FillRate;
pub(crate) use slot::LOOKUP_BATCH;
pub(crate) use table::Table;

use self::sip::SipHash13;
use self::slot::{SHARDS, Slot, shard_of};
use self::table::{hash, prefetch_slot};
use crate::format::hint::KeyName;
use crate::position::LogPosition;
use crate::prefetch::prefetch;
use crate::sync::Mutex;
use dashmap::{DashMap, RwLockReadGuard, RwLockWriteGuard};
use siphasher::sip128::SipHasher24;

/// A key's entry, with its shard locked for it alone.
pub(crate) type LockedEntry<'k> = KeydirEntry<RwLockWriteGuard<'k, Table>>;

/// See the [module](self).
pub(crate) struct Keydir {
    map: DashMap<Slot, ()>,
    /// For each shard, held by who replaces its table.
    resizing: Box<[Mutex<()>]>,
    /// SipHash-1-3, keyed by the store's secret.
    hasher: SipHash13,
    /// SipHash-1-3, keyed by another secret, which is derived from that one.
    second: SipHash13,
    /// Bits of the tag that are used, the high ones: fewer only in tests, to make keys collide.
    mask: u32,
    /// Bits of the first half of a name that are used: fewer only in tests.
    first_half: u64,
    fingerprint: u64,
}

impl Keydir {
    /// A keydir whose tags have `bits` bits and depend on a secret.
    ///
    /// The secret is 16 bytes from the operating system, drawn once for each store. Without it one
    /// cannot determine which keys have equal tags, and so cannot choose keys that collide.
    pub(crate) fn new(secret: [u8; 16], bits: u32) -> Self {
        let hasher = SipHash13::new_with_key(&secret);
        let second = SipHash13::new_with_key(&second_secret(secret));
        let mask = u32::MAX << (32 - bits);
        let fingerprint = fingerprint([&hasher, &second], mask);
        let map = DashMap::with_shard_amount(SHARDS);
        let resizing = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { map, resizing, hasher, second, mask, first_half: u64::MAX, fingerprint }
    }

    /// The same, but of the first half of each name only this many bits are used: fewer than 64 only in
    /// tests, so that keys differ in the second half alone.
    pub(crate) const fn with_bits_of_first_half(mut self, bits: u32) -> Self {
        self.first_half = u64::MAX.unbounded_shl(64 - bits);
        self.mask &= (self.first_half >> 32) as u32;
        self.fingerprint ^= 64 - bits as u64;
        self
    }

    /// The tag of a key. Hints hold tags, so it is a hash of the bytes alone: what std adds when it
    /// hashes a slice may change.
    #[inline]
    pub(crate) fn tag(&self, key: &[u8]) -> u32 {
        self.hasher.hash(key) as u32 & self.mask
    }

    /// What stands for a key in hints: two hashes of it. Its tag is part of the first.
    #[inline]
    pub(crate) fn name(&self, key: &[u8]) -> KeyName {
        let name = KeyName::of(self.hasher.hash(key), self.second.hash(key));
        KeyName { first: name.first & self.first_half, ..name }
    }

    /// The tag of the key that a name stands for.
    #[inline]
    pub(crate) const fn tag_of(&self, name: KeyName) -> u32 {
        name.tag() & self.mask
    }

    /// The bits that tags have.
    pub(crate) const fn tag_mask(&self) -> u32 {
        self.mask
    }

    /// Differs between keydirs with different secrets, tag lengths or hash functions.
    pub(crate) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The most of this many different keys that share one tag by chance: eight times the average, and
    /// 16 more. A merged segment may hold a key twice.
    pub(crate) const fn most_of_a_tag(&self, keys: usize) -> usize {
        16 + ((keys as u64 * 8) >> self.mask.count_ones()) as usize
    }

    /// Looks a key up, and calls `found` with its position while its shard is locked for reading.
    /// `is` compares the key with that of the frame at a position.
    pub(crate) fn get<R>(
        &self,
        tag: u32,
        mut is: impl FnMut(LogPosition) -> bool,
        found: impl FnOnce(LogPosition) -> R,
    ) -> Option<R> {
        let shard = self.read(shard_of(tag));
        let hash = hash(&shard, tag);
        prefetch_slot(&shard, hash);
        let (slot, _) = shard.get(hash, |(slot, _)| slot.tag == tag && is(slot.position()))?;
        Some(found(slot.position()))
    }

    /// Locks the shards of many tags for reading: lookups until they are unlocked see one moment.
    pub(crate) fn read_all(&self, tags: &[u32]) -> ReadShards<'_> {
        self.prefetch_locks(tags);
        ReadShards::lock(tags, |shard| self.read(shard))
    }

    /// Locks a key's shard for writing, and finds its entry there, which has a slot or room for one. `is`
    /// compares the key with that of the frame at a position; it must not use the keydir. It is asked again
    /// if the table has had to grow.
    #[inline]
    pub(crate) fn entry(
        &self,
        tag: u32,
        mut is: impl FnMut(LogPosition) -> bool,
    ) -> LockedEntry<'_> {
        let shard = shard_of(tag);
        loop {
            let entry = KeydirEntry::find(self.write(shard), tag, &mut is);
            if entry.can_be_set() {
                return entry;
            }
            drop(entry);
            self.make_room(shard, 1);
        }
    }

    /// Locks the shards of many tags for writing.
    pub(crate) fn entries(&self, tags: &[u32]) -> KeydirEntries<'_> {
        self.prefetch_locks(tags);
        KeydirEntries::lock(tags, |shard| self.write(shard))
    }

    /// Asks for the lines of the locks of a group's shards. The misses of locked instructions do not
    /// overlap.
    #[inline]
    fn prefetch_locks(&self, tags: &[u32]) {
        let shards = self.map.shards();
        tags.iter().take(LOOKUP_BATCH).for_each(|&tag| prefetch(&raw const shards[shard_of(tag)]));
    }

    pub(crate) fn len(&self) -> u64 {
        (0..self.shards()).map(|shard| self.read(shard).len() as u64).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        (0..self.shards()).all(|shard| self.read(shard).is_empty())
    }

    pub(crate) fn shards(&self) -> usize {
        self.map.shards().len()
    }

    /// The table of a shard, locked for reading.
    #[inline]
    fn read(&self, shard: usize) -> RwLockReadGuard<'_, Table> {
        let shard = &self.map.shards()[shard];
        #[cfg(not(tailcask_shuttle))]
        return shard.read();
        #[cfg(tailcask_shuttle)]
        crate::sync::until_some(|| shard.try_read())
    }

    /// The table of a shard, locked for writing.
    #[inline]
    fn write(&self, shard: usize) -> RwLockWriteGuard<'_, Table> {
        let shard = &self.map.shards()[shard];
        #[cfg(not(tailcask_shuttle))]
        return shard.write();
        #[cfg(tailcask_shuttle)]
        crate::sync::until_some(|| shard.try_write())
    }

    /// Calls `each` with the positions of all slots of a shard, some at a time, while it is locked for
    /// reading.
    pub(crate) fn each_position(&self, shard: usize, mut each: impl FnMut(&[LogPosition])) {
        let shard = self.read(shard);
        let mut some = [LogPosition::from_u64(0); LOOKUP_BATCH];
        let mut count = 0;
        for slot in table::slots(&shard) {
            some[count] = slot.position();
            count += 1;
            if count == some.len() {
                each(&some);
                count = 0;
            }
        }
        each(&some[..count]);
    }

    /// Returns once every thread has unlocked its shard that has one locked for writing now.
    pub(crate) fn wait_for_writers(&self) {
        (0..self.shards()).for_each(|shard| drop(self.read(shard)));
    }

    /// Any position of a slot that is `wanted`, if there is one. Locks one shard at a time, for
    /// reading.
    pub(crate) fn find(&self, wanted: impl Fn(LogPosition) -> bool) -> Option<LogPosition> {
        (0..self.shards()).find_map(|shard| {
            let shard = self.read(shard);
            let mut positions = table::slots(&shard).map(|slot| slot.position());
            positions.find(|&at| wanted(at))
        })
    }

    /// Calls `each` with the position of every slot that has the tag, while its shard is locked for
    /// reading.
    pub(crate) fn each(&self, tag: u32, mut each: impl FnMut(LogPosition)) {
        let shard = self.read(shard_of(tag));
        // A search that finds nothing has seen all.
        shard.get(hash(&shard, tag), |(slot, _)| {
            if slot.tag == tag {
                each(slot.position());
            }
            false
        });
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> u64 {
        let bytes = |table: &Table| (table.buckets() * table::EACH) as u64;
        (0..self.shards()).map(|shard| bytes(&self.read(shard))).sum()
    }
}

/// The key of the second hash. SipHash-2-4 with 128 bits is another function than those that hash the
/// store's keys, so no key of the store has it for a hash.
fn second_secret(secret: [u8; 16]) -> [u8; 16] {
    let hash = SipHasher24::new_with_key(&secret).hash(b"tailcask: the second hash of a key");
    let mut derived = [0; 16];
    derived[..8].copy_from_slice(&hash.h1.to_le_bytes());
    derived[8..].copy_from_slice(&hash.h2.to_le_bytes());
    derived
}

/// Mixed from the hashes of keys of many lengths, so that any change of a function shows, whichever
/// lengths it affects.
fn fingerprint(hashers: [&SipHash13; 2], mask: u32) -> u64 {
    let keys: [u8; 300] = std::array::from_fn(|n| n as u8);
    let hashes = (1..=keys.len()).flat_map(|len| hashers.map(|hasher| hasher.hash(&keys[..len])));
    hashes.fold(u64::from(mask), |mixed, hash| {
        let mixed = (mixed ^ hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 32
    })
}

impl std::fmt::Debug for Keydir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keydir").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_tags_do_not_make_keys_one() {
        let keydir = Keydir::new([7; 16], 2);
        let position = |n: u32| LogPosition::new(1, 128 + n * 8);
        for n in 0..100 {
            let tag = keydir.tag(&[n as u8]);
            let entry = keydir.entry(tag, |at| at == position(n));
            assert_eq!(entry.position(), None);
            entry.set(position(n));
        }
        assert_eq!(keydir.len(), 100);
        for n in 0..100 {
            let tag = keydir.tag(&[n as u8]);
            assert_eq!(keydir.get(tag, |at| at == position(n), |at| at), Some(position(n)));
            if n % 2 == 0 {
                let _ = keydir.entry(tag, |at| at == position(n)).remove();
            }
        }
        assert_eq!(keydir.len(), 50);
    }

    #[test]
    fn each_position_is_met_once() {
        let keydir = Keydir::new([7; 16], 5);
        let position = |n: u32| LogPosition::new(1, 128 + n * 8);
        let mut of_tags = std::collections::BTreeMap::<u32, Vec<_>>::new();
        for n in 0..2000u32 {
            let tag = keydir.tag(&n.to_le_bytes());
            keydir.entry(tag, |_| false).set(position(n));
            of_tags.entry(tag).or_default().push(position(n));
        }
        for (tag, expected) in of_tags {
            let mut all = Vec::new();
            keydir.each(tag, |at| all.push(at));
            all.sort_unstable();
            assert_eq!(all, expected);
        }
        let mut all = Vec::<LogPosition>::new();
        (0..keydir.shards()).for_each(|shard| keydir.each_position(shard, |at| all.extend(at)));
        all.sort_unstable();
        assert!(all.into_iter().eq((0..2000).map(position)));
    }

    /// Hints contain names, so these must never change: they are made of the published SipHash-1-3, in
    /// every process and with every version of the crate.
    #[test]
    fn names_are_the_same_in_every_process_and_version() {
        let secret = std::array::from_fn(|n| n as u8);
        let keydir = Keydir::new(secret, 32);
        let keys: [u8; 300] = std::array::from_fn(|n| n as u8);
        // Computed by a separate implementation, written from the paper; the key of the second hash by
        // SipHash-2-4 with 128 bits, likewise.
        let golden: [(usize, u64, u64); 11] = [
            (0, 0xabac_0158_050f_c4dc, 0x5e97_338c_7457_746f),
            (1, 0xc9f4_9bf3_7d57_ca93, 0x1d50_f6ed_18f8_f5d9),
            (7, 0xd392_7d98_9bb1_1140, 0x1fbc_d750_a3d5_b530),
            (8, 0x3690_9511_8d29_9a8e, 0x9501_0835_8be1_0739),
            (9, 0x25a4_8eb3_6c06_3de4, 0xe2c8_35b9_f313_0acf),
            (15, 0xd320_d86d_2a51_9956, 0xef6c_fb69_6e91_f11b),
            (16, 0xcc4f_dd1a_7d90_8b66, 0x11b5_66b6_8dda_7613),
            (17, 0x9cf2_6890_63db_d80c, 0x2cc8_3184_3e53_a8f5),
            (255, 0xf762_14e3_153c_4a15, 0x2b82_a629_71a3_0f84),
            (256, 0x75b3_e64e_167d_e370, 0xf9c2_6a1c_1941_f88c),
            (300, 0x4016_a23b_da5a_2224, 0x71b4_34cd_e565_00cc),
        ];
        for (len, first, second) in golden {
            assert_eq!(keydir.tag(&keys[..len]), first as u32, "{len} bytes");
            assert_eq!(keydir.name(&keys[..len]), KeyName::of(first, second), "{len} bytes");
        }
        assert_eq!(keydir.fingerprint(), 0xb86a_8ae4_595a_3ea9);
    }

    #[test]
    fn the_tag_of_a_name_is_the_tag_of_its_key() {
        for keydir in [
            Keydir::new([7; 16], 32),
            Keydir::new([7; 16], 3),
            Keydir::new([7; 16], 32).with_bits_of_first_half(64),
            Keydir::new([7; 16], 32).with_bits_of_first_half(10),
            Keydir::new([7; 16], 32).with_bits_of_first_half(0),
        ] {
            let mut last = None;
            let mut names: Vec<_> =
                (0..1000u32).map(|n| (keydir.name(&n.to_le_bytes()), n)).collect();
            names.sort_unstable();
            for (name, n) in names {
                let tag = keydir.tag(&n.to_le_bytes());
                assert_eq!(keydir.tag_of(name), tag);
                assert!(last <= Some(tag), "names are in the order of tags");
                last = Some(tag);
            }
        }
    }

    #[test]
    fn fingerprints_tell_secrets_and_tag_lengths_apart() {
        let of = |secret, bits| Keydir::new(secret, bits).fingerprint();
        let secret = [7; 16];
        assert_eq!(of(secret, 32), of(secret, 32));
        assert_ne!(of(secret, 32), of(secret, 4));
        for bit in 0..128 {
            let mut other = secret;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(of(secret, 32), of(other, 32), "bit {bit} of the secret");
        }
    }

    #[test]
    fn many_are_looked_up_and_changed_as_one_by_one() {
        for bits in [3, 32] {
            let keydir = Keydir::new([7; 16], bits);
            let position = |n: u32| LogPosition::new(n + 1, 128);
            let tag = |n: u32| keydir.tag(&n.to_le_bytes());
            let keys: Vec<u32> = (0..5000).collect();
            for keys in keys.chunks(100) {
                // The first one twice, and the last one is set and removed.
                let keys = [keys, &[keys[0], keys[99]]].concat();
                let tags: Vec<_> = keys.iter().map(|&n| tag(n)).collect();
                let is = |index: usize, at| at == position(keys[index]);
                let mut entries = loop {
                    let entries = keydir.entries(&tags);
                    let Some(crowded) = entries.crowded(tags.iter().copied()) else {
                        break entries;
                    };
                    drop(entries);
                    keydir.relieve(crowded);
                };
                for tags in tags.chunks(LOOKUP_BATCH) {
                    let first = entries.slots(tags, |_, _| assert!(bits < 32));
                    assert!(bits < 32 || first.iter().all(Option::is_none));
                }
                let mut there = 0;
                for (index, &tag) in tags.iter().enumerate() {
                    let entry = entries.entry(tag, |at| is(index, at));
                    there += usize::from(entry.position().is_some());
                    if index == 101 {
                        assert!(entry.remove().is_none());
                    } else {
                        entry.set(position(keys[index]));
                    }
                }
                assert_eq!(there, 2);
            }
            assert_eq!(keydir.len(), 5000 - 50);
            for keys in keys.chunks(LOOKUP_BATCH) {
                let tags: Vec<_> = keys.iter().map(|&n| tag(n)).collect();
                let mut all = vec![Vec::new(); keys.len()];
                let first = keydir.read_all(&tags).slots(&tags, |index, at| all[index].push(at));
                assert!(first[tags.len()..].iter().all(Option::is_none));
                for ((&n, first), others) in keys.iter().zip(first).zip(all) {
                    let found = first.into_iter().chain(others).filter(|&at| at == position(n));
                    assert_eq!(found.count(), usize::from(n % 100 != 99));
                }
            }
        }
    }

    /// The figure in docs/store.md.
    #[test]
    #[ignore = "a measurement"]
    fn memory_per_key() {
        const KEYS: u64 = 5_000_000;
        let resident = || -> u64 {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
        };
        let keydir = Keydir::new([7; 16], 32);
        let before = resident();
        for n in 0..KEYS {
            let key = [n.to_le_bytes(), [b'k'; 8]].concat();
            let position = LogPosition::new(1 + (n >> 20) as u32, 128 + (n as u32 & 0xf_ffff) * 8);
            keydir.entry(keydir.tag(&key), |_| false).set(position);
        }
        assert_eq!(keydir.len(), KEYS);
        let [tables, pages] =
            [keydir.memory(), resident() - before].map(|bytes| bytes as f64 / KEYS as f64);
        println!("{tables:.1} bytes per key in the tables, {pages:.1} resident");
    }

    /// How long the writer waits whose key makes a table grow. The figures in docs/store.md.
    #[test]
    #[ignore = "a measurement"]
    fn longest_insert() {
        let keys = std::env::var("TAILCASK_BENCH_KEYS").map_or(10_000_000, |n| n.parse().unwrap());
        let keydir = Keydir::new([7; 16], 32);
        let mut longest = std::time::Duration::ZERO;
        let started = std::time::Instant::now();
        let mut last = started;
        for n in 0..keys {
            let position = LogPosition::new(1 + (n >> 20) as u32, 128 + (n as u32 & 0xf_ffff) * 8);
            keydir.entry(keydir.tag(&u64::to_le_bytes(n)), |_| false).set(position);
            let now = std::time::Instant::now();
            longest = longest.max(now - last);
            last = now;
        }
        let all = started.elapsed();
        println!("{keys} keys in {all:.1?}; the longest insert took {longest:.2?}");
    }
}
