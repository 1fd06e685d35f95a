//! The keydir: where each key's newest frame is, without the key.
//!
//! A slot is a 32-bit tag of the key's hash and the position of its frame, 12 bytes; whether a slot
//! with the right tag is the key's is told by the caller, who compares the key in the mapped frame.
//! So keys of any length cost the same, and equal tags never make keys one.
//!
//! It is a `DashMap` used through its raw API: shard and place of a slot follow from its tag, so that
//! a table can grow without looking at frames; and they grow with it, so that slots which come in
//! the order of their tags, as those of hints do, fill the memory from one end to the other. Lookups of many keys go in step: what each needs next is loaded
//! for all of them at once.

#[cfg(test)]
mod attacks;
mod load;
mod table;

pub(crate) use load::{Entry, Fate, Resolve, Source};

use crate::position::LogPosition;
use dashmap::{DashMap, RwLock, RwLockReadGuard};
use siphasher::sip::SipHasher13;
use table::{Table, hash, prefetch_slot, touch_slots};

/// How many shards there are: each is locked, and grows, on its own.
const SHARDS: usize = 32;

/// How many lookups [`Locked::get_all`] does in step at most: their cache misses overlap.
pub(crate) const IN_STEP: usize = 32;

/// Packed to 12 bytes: two thirds of what an aligned one takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, packed(4))]
struct Slot {
    tag: u32,
    position: u64,
}

/// What becomes of a key's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Keep,
    Set(LogPosition),
    Remove,
}

pub(crate) struct Keydir {
    map: DashMap<Slot, ()>,
    /// SipHash-1-3, keyed by the store's secret.
    hasher: SipHasher13,
    /// Bits of the tag that are used: fewer only in tests, to make keys collide.
    mask: u32,
    fingerprint: u64,
}

impl Keydir {
    /// A keydir whose tags depend on a secret, with tags of so many bits.
    ///
    /// The secret is 16 bytes from the operating system, drawn once for each store. Whoever does
    /// not know it cannot tell which keys have equal tags, and so cannot make keys that do.
    pub(crate) fn new(secret: [u8; 16], bits: u32) -> Self {
        let hasher = SipHasher13::new_with_key(&secret);
        let mask = u32::MAX >> (32 - bits);
        let map = DashMap::with_shard_amount(SHARDS);
        Self { map, fingerprint: fingerprint(&hasher, mask), hasher, mask }
    }

    /// The tag of a key, which hints write down. Of the bytes alone: what std adds to hash a slice
    /// is not promised to stay.
    #[inline]
    pub(crate) fn tag(&self, key: &[u8]) -> u32 {
        self.hasher.hash(key) as u32 & self.mask
    }

    /// Tells apart the tags of one secret and version of the hash function from those of another.
    pub(crate) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// How many of so many different keys have one tag at most, unless somebody has chosen them: eight
    /// times what they have on average, and 16 more. A merged segment may hold a key twice.
    pub(crate) const fn most_of_a_tag(&self, keys: usize) -> usize {
        16 + ((keys as u64 * 8) >> self.mask.count_ones()) as usize
    }

    #[inline]
    const fn shard(tag: u32) -> usize {
        (tag >> (32 - SHARDS.ilog2())) as usize
    }

    /// Looks a key up, and calls `found` with its position while its shard is locked for reading.
    pub(crate) fn get<R>(
        &self,
        tag: u32,
        mut is: impl FnMut(LogPosition) -> bool,
        found: impl FnOnce(LogPosition) -> R,
    ) -> Option<R> {
        let shard = self.map.shards()[Self::shard(tag)].read();
        let hash = hash(&shard, tag);
        prefetch_slot(&shard, hash);
        let (slot, _) = shard.get(hash, |(slot, _)| slot.tag == tag && is(slot.at()))?;
        Some(found(slot.at()))
    }

    /// Locks the shards of all tags, in one order, so that no two callers wait for each other.
    fn lock_all<'a, G>(
        &'a self,
        tags: &[u32],
        lock: impl Fn(&'a RwLock<Table>) -> G,
    ) -> [Option<G>; SHARDS] {
        let mut wanted = tags.iter().fold(0u64, |all, &tag| all | 1 << Self::shard(tag));
        let mut locked = [const { None }; SHARDS];
        while wanted != 0 {
            let shard = wanted.trailing_zeros() as usize;
            locked[shard] = Some(lock(&self.map.shards()[shard]));
            wanted &= wanted - 1;
        }
        locked
    }

    /// Locks the shards of many tags for reading: what is looked up until the locks are given back is
    /// as it was at one moment.
    pub(crate) fn read_all(&self, tags: &[u32]) -> Locked<'_> {
        Locked(self.lock_all(tags, RwLock::read))
    }

    /// Calls `decide` with a key's position, if it has one, while its shard is locked for writing,
    /// and does as it says. Neither closure may use the keydir.
    pub(crate) fn change<R>(
        &self,
        tag: u32,
        mut is: impl FnMut(LogPosition) -> bool,
        decide: impl FnOnce(Option<LogPosition>) -> (Change, R),
    ) -> R {
        let mut shard = self.map.shards()[Self::shard(tag)].write();
        let hash = hash(&shard, tag);
        let old = shard.get(hash, |(slot, _)| slot.tag == tag && is(slot.at()));
        let old = old.map(|(slot, _)| *slot);
        let (change, result) = decide(old.map(|slot| slot.at()));
        // The slot itself is looked for now, which is exact: no two have the same position.
        match (change, old) {
            (Change::Keep, _) | (Change::Remove, None) => {}
            (Change::Set(position), Some(old)) => {
                let place = shard.get_mut(hash, |(slot, _)| *slot == old);
                place.expect("it was there").0.position = position.as_u64();
            }
            (Change::Set(position), None) => {
                table::insert(&mut shard, Slot { tag, position: position.as_u64() });
            }
            (Change::Remove, Some(old)) => {
                shard.remove_entry(hash, |(slot, _)| *slot == old);
                table::shrink_after_removing(&mut shard);
            }
        }
        result
    }

    /// Calls `decide` while the shards of all tags are locked for writing, and does as it says, one
    /// change for each tag, in order. `is` tells whether the frame at a position has the key of the
    /// tag with that index; `likely` is told beforehand which positions it will be asked about.
    /// `None` changes nothing; `died` is told which positions no slot has any more. `is` is asked
    /// about all keys that there are before `decide` is called.
    pub(crate) fn change_all<E>(
        &self,
        tags: &[u32],
        mut likely: impl FnMut(&[LogPosition]),
        mut is: impl FnMut(usize, LogPosition) -> bool,
        decide: impl FnOnce() -> Result<Option<Vec<Change>>, E>,
        mut died: impl FnMut(LogPosition),
    ) -> Result<bool, E> {
        let mut locked = self.lock_all(tags, RwLock::write);
        for tags in tags.chunks(IN_STEP) {
            let table = |tag| locked[Self::shard(tag)].as_deref().expect("its shard is locked");
            touch_slots(tags.iter().map(|&tag| (table(tag), tag)));
        }
        for (nth, tags) in tags.chunks(IN_STEP).enumerate() {
            let table = |tag| locked[Self::shard(tag)].as_deref().expect("its shard is locked");
            let mut first = [None; IN_STEP];
            for (first, &tag) in first.iter_mut().zip(tags) {
                let table = table(tag);
                let slot = table.get(hash(table, tag), |(slot, _)| slot.tag == tag);
                *first = slot.map(|(slot, _)| slot.at());
            }
            tell(&first, &mut likely);
            for (at, (first, &tag)) in first.iter().zip(tags).enumerate() {
                let index = nth * IN_STEP + at;
                if first.is_some_and(|first| !is(index, first)) {
                    // Another key's, with the same tag, or one that cannot be told.
                    let table = table(tag);
                    let is = |(slot, _): &(Slot, _)| slot.tag == tag && is(index, slot.at());
                    let _ = table.get(hash(table, tag), is);
                }
            }
        }
        let Some(changes) = decide()? else { return Ok(false) };
        for (index, (&tag, change)) in tags.iter().zip(changes).enumerate() {
            let table = locked[Self::shard(tag)].as_deref_mut().expect("its shard is locked");
            apply(table, tag, change, |at| is(index, at)).into_iter().for_each(&mut died);
        }
        Ok(true)
    }

    pub(crate) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    pub(crate) fn shards(&self) -> usize {
        self.map.shards().len()
    }

    /// One slot for each distinct tag in a shard: (tag, position), in order of the positions.
    pub(crate) fn slots(&self, shard: usize) -> Vec<(u32, LogPosition)> {
        let mut all: Vec<_> = self.copy(shard).iter().map(|slot| (slot.tag, slot.at())).collect();
        all.sort_unstable();
        all.dedup_by_key(|&mut (tag, _)| tag);
        all.sort_unstable_by_key(|&(_, position)| position);
        all
    }

    #[allow(unsafe_code, reason = "hashbrown's raw iterator")]
    fn copy(&self, shard: usize) -> Vec<Slot> {
        let shard = self.map.shards()[shard].read();
        // SAFETY: the table is locked for as long as the iterator is used.
        let buckets = unsafe { shard.iter() };
        // SAFETY: each bucket is full, and nothing is removed meanwhile.
        buckets.map(|bucket| unsafe { bucket.as_ref() }.0).collect()
    }

    /// A position that a slot has and that is wanted, if there is one. Locks one shard at a time, for
    /// reading.
    #[allow(unsafe_code, reason = "hashbrown's raw iterator")]
    pub(crate) fn find(&self, wanted: impl Fn(LogPosition) -> bool) -> Option<LogPosition> {
        self.map.shards().iter().find_map(|shard| {
            let shard = shard.read();
            // SAFETY: the table is locked for as long as the iterator is used.
            let mut buckets = unsafe { shard.iter() };
            // SAFETY: each bucket is full, and nothing is removed meanwhile.
            buckets
                .find_map(|bucket| Some(unsafe { bucket.as_ref() }.0.at()).filter(|&at| wanted(at)))
        })
    }

    /// Removes all slots.
    pub(crate) fn clear(&self) {
        self.map.shards().iter().for_each(|shard| shard.write().clear());
    }

    /// Calls `each` with the position of every slot that has the tag, while its shard is locked for
    /// reading.
    pub(crate) fn each(&self, tag: u32, mut each: impl FnMut(LogPosition)) {
        let shard = self.map.shards()[Self::shard(tag)].read();
        // A search that finds nothing has seen all.
        shard.get(hash(&shard, tag), |(slot, _)| {
            if slot.tag == tag {
                each(slot.at());
            }
            false
        });
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> u64 {
        let bytes = |table: &Table| (table.buckets() * table::EACH) as u64;
        self.map.shards().iter().map(|shard| bytes(&shard.read())).sum()
    }
}

/// Mixed from the hashes of keys of many lengths, so that a change of the function shows, whichever
/// lengths it concerns.
fn fingerprint(hasher: &SipHasher13, mask: u32) -> u64 {
    let keys: [u8; 300] = std::array::from_fn(|n| n as u8);
    (1..=keys.len()).map(|len| hasher.hash(&keys[..len])).fold(u64::from(mask), |mixed, hash| {
        let mixed = (mixed ^ hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 32
    })
}

/// Shards that are locked for reading.
pub(crate) struct Locked<'k>([Option<RwLockReadGuard<'k, Table>>; SHARDS]);

impl Locked<'_> {
    /// Looks up many keys in step, so that their cache misses overlap, [`IN_STEP`] at most, all of
    /// them in shards that are locked. As `get` for each: `is` and `found` get the index of the tag.
    /// `likely` is told beforehand which positions `is` will be asked about.
    pub(crate) fn get_all(
        &self,
        tags: &[u32],
        mut likely: impl FnMut(&[LogPosition]),
        mut is: impl FnMut(usize, LogPosition) -> bool,
        mut found: impl FnMut(usize, LogPosition),
    ) {
        assert!(tags.len() <= IN_STEP);
        let table = |tag| self.0[Keydir::shard(tag)].as_deref().expect("its shard is locked");
        touch_slots(tags.iter().map(|&tag| (table(tag), tag)));
        let mut first = [None; IN_STEP];
        for (first, &tag) in first.iter_mut().zip(tags) {
            let table = table(tag);
            let slot = table.get(hash(table, tag), |(slot, _)| slot.tag == tag);
            *first = slot.map(|(slot, _)| slot.at());
        }
        tell(&first, &mut likely);
        for (index, (&tag, first)) in tags.iter().zip(first).enumerate() {
            let mut at = first.filter(|&at| is(index, at));
            if at.is_none() && first.is_some() {
                // Another key's, with the same tag.
                let is = |(slot, _): &(Slot, _)| slot.tag == tag && is(index, slot.at());
                let table = table(tag);
                at = table.get(hash(table, tag), is).map(|(slot, _)| slot.at());
            }
            at.into_iter().for_each(|at| found(index, at));
        }
    }
}

/// Tells which positions there are.
fn tell(some: &[Option<LogPosition>; IN_STEP], likely: &mut impl FnMut(&[LogPosition])) {
    let mut all = [LogPosition::from_u64(0); IN_STEP];
    let count = all.iter_mut().zip(some.iter().flatten()).map(|(to, &at)| *to = at).count();
    likely(&all[..count]);
}

/// Does to a key's slot as `change` says, and gives the position that it no longer has.
fn apply(
    table: &mut Table,
    tag: u32,
    change: Change,
    mut is: impl FnMut(LogPosition) -> bool,
) -> Option<LogPosition> {
    let hash = hash(table, tag);
    let is = |(slot, _): &(Slot, _)| slot.tag == tag && is(slot.at());
    match change {
        Change::Keep => None,
        Change::Set(position) => {
            let new = Slot { tag, position: position.as_u64() };
            match table.get_mut(hash, is) {
                Some((slot, _)) => Some(std::mem::replace(slot, new).at()),
                None => {
                    table::insert(table, new);
                    None
                }
            }
        }
        Change::Remove => {
            let removed = table.remove_entry(hash, is).map(|(slot, _)| slot.at());
            table::shrink_after_removing(table);
            removed
        }
    }
}

impl Slot {
    fn at(&self) -> LogPosition {
        LogPosition::from_u64(self.position)
    }
}

impl std::fmt::Debug for Keydir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keydir").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dashmap::SharedValue;

    #[test]
    fn a_slot_is_twelve_bytes() {
        assert_eq!(size_of::<(Slot, SharedValue<()>)>(), 12);
    }

    #[test]
    fn equal_tags_do_not_make_keys_one() {
        let keydir = Keydir::new([7; 16], 2);
        let position = |n: u32| LogPosition::new(1, 128 + n * 8);
        for n in 0..100 {
            let tag = keydir.tag(&[n as u8]);
            let set = |old: Option<_>| (Change::Set(position(n)), old.is_none());
            assert!(keydir.change(tag, |at| at == position(n), set));
        }
        assert_eq!(keydir.len(), 100);
        for n in 0..100 {
            let tag = keydir.tag(&[n as u8]);
            assert_eq!(keydir.get(tag, |at| at == position(n), |at| at), Some(position(n)));
            if n % 2 == 0 {
                keydir.change(tag, |at| at == position(n), |_| (Change::Remove, ()));
            }
        }
        assert_eq!(keydir.len(), 50);
    }

    #[test]
    fn slots_and_each_show_what_is_there() {
        let keydir = Keydir::new([7; 16], 5);
        let position = |n: u32| LogPosition::new(1, 128 + n * 8);
        let mut expected = std::collections::BTreeMap::<u32, Vec<_>>::new();
        for n in 0..200 {
            let tag = keydir.tag(&[n as u8, 1]);
            keydir.change(tag, |_| false, |_| (Change::Set(position(n)), ()));
            expected.entry(tag).or_default().push(position(n));
        }
        let mut tags = Vec::new();
        for shard in 0..keydir.shards() {
            let slots = keydir.slots(shard);
            assert!(slots.is_sorted_by_key(|&(_, at)| at));
            assert!(slots.iter().all(|(tag, at)| expected[tag].contains(at)));
            tags.extend(slots.iter().map(|&(tag, _)| tag));
        }
        tags.sort_unstable();
        assert!(tags.iter().eq(expected.keys()));
        for (tag, positions) in expected {
            let mut all = Vec::new();
            keydir.each(tag, |at| all.push(at));
            all.sort_unstable();
            assert_eq!(all, positions);
        }
        let none = Keydir::new([7; 16], 5);
        none.each(3, |_| panic!("there is nothing"));
    }

    /// Tags are written into hints, so a store is bound to them: they are those of the published
    /// SipHash-1-3, in every process and with every version of the crate.
    #[test]
    fn tags_are_the_same_in_every_process_and_version() {
        let secret = std::array::from_fn(|n| n as u8);
        let keydir = Keydir::new(secret, 32);
        let keys: [u8; 300] = std::array::from_fn(|n| n as u8);
        // Made by an implementation of its own, straight from the paper.
        let golden: [(usize, u32); 11] = [
            (0, 0x050f_c4dc),
            (1, 0x7d57_ca93),
            (7, 0x9bb1_1140),
            (8, 0x8d29_9a8e),
            (9, 0x6c06_3de4),
            (15, 0x2a51_9956),
            (16, 0x7d90_8b66),
            (17, 0x63db_d80c),
            (255, 0x153c_4a15),
            (256, 0x167d_e370),
            (300, 0xda5a_2224),
        ];
        for (len, tag) in golden {
            assert_eq!(keydir.tag(&keys[..len]), tag, "{len} bytes");
        }
        assert_eq!(keydir.fingerprint(), 0x80a5_3cd5_9c4c_f369);
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
                let mut changes: Vec<_> = keys.iter().map(|&n| Change::Set(position(n))).collect();
                changes[101] = Change::Remove;
                let is = |index: usize, at| at == position(keys[index]);
                let mut died = 0;
                let decide = || Ok::<_, ()>(Some(changes));
                let done = keydir.change_all(&tags, |_| {}, is, decide, |_| died += 1);
                assert_eq!(died, 2);
                assert_eq!(done, Ok(true));
            }
            assert_eq!(keydir.len(), 5000 - 50);
            for keys in keys.chunks(IN_STEP) {
                let tags: Vec<_> = keys.iter().map(|&n| tag(n)).collect();
                let mut found = vec![None; keys.len()];
                let is = |index: usize, at| at == position(keys[index]);
                keydir.read_all(&tags).get_all(
                    &tags,
                    |_| {},
                    is,
                    |index, at| {
                        found[index] = Some(at);
                    },
                );
                for (&n, found) in keys.iter().zip(found) {
                    assert_eq!(found, (n % 100 != 99).then(|| position(n)));
                }
            }
        }
    }
}
