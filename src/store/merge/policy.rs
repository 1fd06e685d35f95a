//! The merge policy: which segments to merge, and when.

use crate::error::OpenError;
use crate::store::usage::SegmentUsage;
use std::collections::HashMap;

/// When the store merges in the background, and how much of the machine it may use.
///
/// A merge copies the live frames of some sealed segments into new ones and removes the old ones.
///
/// ```
/// use tailcask::{MergePolicy, Store};
///
/// /// Less disk, and merges that disturb less.
/// let policy = MergePolicy::new().space_goal(1.3).time_share(0.2).rate_limit(50 << 20);
/// let options = Store::options().merge_policy(policy);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct MergePolicy {
    dead_ratio: f64,
    min_dead: u64,
    small: Option<u64>,
    rate: Option<u64>,
    share: f64,
    goal: f64,
}

impl Default for MergePolicy {
    fn default() -> Self {
        Self { dead_ratio: 0.5, min_dead: 1 << 20, small: None, rate: None, share: 0.5, goal: 2.0 }
    }
}

impl MergePolicy {
    /// The default policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fraction of dead bytes at which a segment is merged. Above 0, at most 1. Default 0.5.
    pub const fn dead_ratio(mut self, ratio: f64) -> Self {
        self.dead_ratio = ratio;
        self
    }

    /// Minimum dead bytes before a segment is eligible. Default 1 MiB.
    pub const fn min_dead_bytes(mut self, bytes: u64) -> Self {
        self.min_dead = bytes;
        self
    }

    /// Segments that use fewer bytes than this are packed together once there are four of them. 0 turns
    /// packing off. Default a quarter of the segment size; at most half of it, since fuller segments
    /// might need as many segments again.
    pub const fn pack_below(mut self, bytes: u64) -> Self {
        self.small = Some(bytes);
        self
    }

    /// Bytes per second that merging may read and write together. Default: no limit.
    pub const fn rate_limit(mut self, bytes_per_second: u64) -> Self {
        self.rate = Some(bytes_per_second);
        self
    }

    /// Fraction of the time that a background merge may run; it sleeps in between. Above 0, at most 1.
    /// Default 0.5. Ignored while the space goal is missed.
    pub const fn time_share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Merge so that full segments take at most this many times their live bytes. Above 1. Default 2.
    /// Fewer times, so that all of them fit into the [cache budget](crate::StoreOptions::cache_budget),
    /// if live bytes take at most three quarters of that. The active segment, the standby, and the outputs
    /// of a running merge are not counted.
    pub const fn space_goal(mut self, times: f64) -> Self {
        self.goal = times;
        self
    }

    /// Refuses values that are out of range.
    pub(crate) fn validate(&self, segment_size: u64) -> Result<(), OpenError> {
        let ratio = |option, value: f64, most, range| {
            let least = if most > 1.0 { 1.0 } else { 0.0 };
            // False for NaN as well.
            let within = value > least && value <= most;
            if within { Ok(()) } else { Err(OpenError::Ratio { option, value, range }) }
        };
        ratio("dead_ratio", self.dead_ratio, 1.0, "above 0 and at most 1")?;
        ratio("time_share", self.share, 1.0, "above 0 and at most 1")?;
        ratio("space_goal", self.goal, f64::INFINITY, "above 1")?;
        if self.rate == Some(0) {
            let (option, value) = ("rate_limit", 0);
            return Err(OpenError::Option { option, value, range: "above 0" });
        }
        match self.small {
            // Up to that size no frame is larger than half a segment, so all but one of the segments
            // that packing produces are more than half full: packing does not trigger itself again.
            Some(value) if value > segment_size / 2 => {
                let range = "at most half of the segment size";
                Err(OpenError::Option { option: "pack_below", value, range })
            }
            _ => Ok(()),
        }
    }

    /// How long to sleep, in seconds, after moving `bytes` in `took` seconds.
    pub(crate) fn pause(&self, bytes: u64, took: f64, goal_missed: bool) -> f64 {
        let share = if goal_missed { 0.0 } else { took * (1.0 / self.share - 1.0) };
        let rate = self.rate.map_or(0.0, |rate| bytes as f64 / rate as f64 - took);
        share.max(rate).max(0.0)
    }
}

/// Number of small segments at which they are packed.
const PACK: usize = 4;

impl MergePolicy {
    /// Whether full segments take more space than the goal allows, of which `memory` bytes are in memory.
    pub(crate) fn misses_goal(&self, all: &[SegmentUsage], memory: u64) -> bool {
        let used: u64 = all.iter().map(|usage| usage.used).sum();
        let live: u64 = all.iter().map(SegmentUsage::live).sum();
        used > self.allowed(live, memory) && used - live >= self.min_dead
    }

    /// The bytes that full segments may take. What does not fit into memory costs a read of the device for
    /// each of its values, which is far more than copying live ones: with seven eighths live, three of them
    /// for each write.
    fn allowed(&self, live: u64, memory: u64) -> u64 {
        // Without a goal, infinitely many times nothing is no number.
        let goal =
            if self.goal.is_infinite() { u64::MAX } else { (self.goal * live as f64) as u64 };
        if live <= memory / 8 * 7 { goal.min(memory) } else { goal }
    }

    /// The ids of the segments to merge now, in ascending order. At most about `max_live` bytes have to
    /// be copied.
    pub(crate) fn choose(
        &self,
        all: &[SegmentUsage],
        segment_size: u64,
        max_live: u64,
        memory: u64,
    ) -> Vec<u32> {
        let mut chosen: Vec<_> = all.iter().filter(|f| f.mergeable && self.is_due(f)).collect();
        if self.misses_goal(all, memory) {
            self.add_for_goal(all, &mut chosen, memory);
        }
        let small = self.small.unwrap_or(segment_size / 4);
        let is_small = |f: &&SegmentUsage| f.mergeable && f.used < small;
        if all.iter().filter(is_small).count() >= PACK {
            chosen.extend(all.iter().filter(is_small));
        }
        chosen.sort_by_key(|usage| usage.id);
        chosen.dedup_by_key(|usage| usage.id);
        // If there is more than one run's worth, those that reclaim the most for the least copying come
        // first.
        let total: u64 = chosen.iter().map(|usage| usage.live()).sum();
        if total > max_live {
            chosen.sort_by(|a, b| b.dead_ratio().total_cmp(&a.dead_ratio()));
        }
        let mut live = 0;
        let mut ids: Vec<_> = chosen
            .into_iter()
            .enumerate()
            .take_while(|(nth, usage)| {
                live += usage.live();
                *nth == 0 || live <= max_live
            })
            .map(|(_, usage)| usage.id)
            .collect();
        ids.sort_unstable();
        ids
    }

    fn is_due(&self, usage: &SegmentUsage) -> bool {
        usage.dead >= self.min_dead && usage.dead_ratio() >= self.dead_ratio
    }

    /// Adds the segments with the largest dead part until the goal would be met.
    fn add_for_goal<'a>(
        &self,
        all: &'a [SegmentUsage],
        chosen: &mut Vec<&'a SegmentUsage>,
        memory: u64,
    ) {
        let live: u64 = all.iter().map(SegmentUsage::live).sum();
        let taken = |chosen: &[&SegmentUsage], id| chosen.iter().any(|usage| usage.id == id);
        let mut used: u64 = all.iter().map(|usage| usage.used).sum();
        used -= chosen.iter().map(|usage| usage.dead).sum::<u64>();
        // Copying a whole segment for a few dead bytes is not worth it.
        let gains =
            |f: &&SegmentUsage| f.mergeable && f.dead > f.used / LITTLE && !taken(chosen, f.id);
        let mut rest: Vec<_> = all.iter().filter(gains).collect();
        rest.sort_by(|a, b| b.dead_ratio().total_cmp(&a.dead_ratio()));
        for usage in rest {
            if used <= self.allowed(live, memory) {
                break;
            }
            used -= usage.dead;
            chosen.push(usage);
        }
    }
}

/// One part in this many is too little to be worth a merge.
const LITTLE: u64 = 20;

/// Whether a merge gained anything, given the bytes it read.
pub(crate) const fn gains(inputs: u64, outputs: u64, read: u64, reclaimed: u64) -> bool {
    outputs < inputs || reclaimed > read / LITTLE
}

/// The outputs of merges that gained nothing, with the dead bytes that each had then. The policy leaves
/// them alone until more has died: whatever made it choose them, merging them again would have the same
/// result, over and over.
#[derive(Debug, Default)]
pub(crate) struct Settled(HashMap<u32, u64>);

impl Settled {
    pub(crate) fn note(&mut self, usage: &SegmentUsage) {
        self.0.insert(usage.id, usage.dead);
    }

    /// Keeps those that still exist.
    pub(crate) fn forget(&mut self, is_there: impl Fn(u32) -> bool) {
        self.0.retain(|&id, _| is_there(id));
    }

    pub(crate) fn holds(&self, usage: &SegmentUsage) -> bool {
        self.0.get(&usage.id).is_some_and(|dead| usage.dead <= dead + usage.used / LITTLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn usage(id: u32, used: u64, dead: u64) -> SegmentUsage {
        SegmentUsage { id, used: used * MIB, dead: dead * MIB, mergeable: true }
    }

    fn choose(policy: MergePolicy, all: &[SegmentUsage]) -> Vec<u32> {
        policy.choose(all, 64 * MIB, 256 * MIB, u64::MAX)
    }

    #[test]
    fn what_is_mostly_dead_is_merged_and_what_is_not_is_left() {
        let all = [usage(1, 60, 10), usage(2, 60, 30), usage(3, 60, 60), usage(4, 60, 0)];
        assert_eq!(choose(MergePolicy::new(), &all), [2, 3]);
        assert_eq!(choose(MergePolicy::new().dead_ratio(0.9), &all), [3]);
        assert_eq!(choose(MergePolicy::new().min_dead_bytes(61 * MIB), &all), []);
        let unready = all.map(|usage| SegmentUsage { mergeable: false, ..usage });
        assert_eq!(choose(MergePolicy::new(), &unready), []);
    }

    #[test]
    fn small_segments_are_packed_four_at_least() {
        let all = [usage(1, 60, 0), usage(2, 1, 0), usage(3, 2, 0), usage(4, 3, 0), usage(5, 1, 0)];
        assert_eq!(choose(MergePolicy::new(), &all), [2, 3, 4, 5]);
        assert_eq!(choose(MergePolicy::new(), &all[..4]), []);
        assert_eq!(choose(MergePolicy::new().pack_below(0), &all), []);
    }

    #[test]
    fn the_space_goal_takes_the_deadest_until_it_is_met() {
        let policy = MergePolicy::new().dead_ratio(1.0).space_goal(1.25);
        let all = [usage(1, 60, 10), usage(2, 60, 30), usage(3, 60, 29), usage(4, 60, 1)];
        assert!(policy.misses_goal(&all, u64::MAX));
        assert_eq!(choose(policy, &all), [2]);
        let tighter = policy.space_goal(1.1);
        assert_eq!(choose(tighter, &all), [2, 3]);
        assert!(!policy.space_goal(2.0).misses_goal(&all, u64::MAX));
    }

    /// 240 MiB, of which 170 are live.
    #[test]
    fn what_fits_into_memory_is_kept_there() {
        let policy = MergePolicy::new();
        let all = [usage(1, 60, 10), usage(2, 60, 25), usage(3, 60, 20), usage(4, 60, 15)];
        let chosen = |memory| policy.choose(&all, 64 * MIB, 256 * MIB, memory * MIB);
        for (memory, ids) in [
            (240, &[][..]),
            (239, &[2]),
            (215, &[2]),
            (214, &[2, 3]),
            (195, &[2, 3]),
            // More than seven eighths would be live.
            (194, &[]),
            (0, &[]),
        ] {
            assert_eq!(chosen(memory), ids, "{memory}");
            assert_eq!(policy.misses_goal(&all, memory * MIB), !ids.is_empty(), "{memory}");
        }
    }

    #[test]
    fn a_run_copies_no_more_than_it_may_and_always_something() {
        let all: Vec<_> = (1..=100).map(|id| usage(id, 60, 40)).collect();
        assert_eq!(choose(MergePolicy::new(), &all).len(), 12);
        let policy = MergePolicy::new();
        assert_eq!(policy.choose(&[usage(1, 4000, 2000)], 64 * MIB, MIB, u64::MAX), [1]);
    }

    #[test]
    fn pauses_follow_share_and_rate() {
        let policy = MergePolicy::new().time_share(0.5);
        assert_eq!(policy.pause(100, 2.0, false), 2.0);
        assert_eq!(policy.pause(100, 2.0, true), 0.0);
        let policy = policy.rate_limit(10);
        assert_eq!(policy.pause(100, 2.0, true), 8.0);
    }

    #[test]
    fn options_out_of_range_are_named_with_their_values() {
        let refused = |policy: MergePolicy| match policy.validate(64 * MIB) {
            Err(error) => error.to_string(),
            Ok(()) => "none".into(),
        };
        let policy = MergePolicy::new;
        assert_eq!(refused(policy()), "none");
        let range = "but must be above 0 and at most 1";
        assert_eq!(refused(policy().dead_ratio(0.0)), format!("dead_ratio is 0, {range}"));
        assert_eq!(refused(policy().dead_ratio(f64::NAN)), format!("dead_ratio is NaN, {range}"));
        assert_eq!(refused(policy().time_share(1.5)), format!("time_share is 1.5, {range}"));
        assert_eq!(refused(policy().space_goal(1.0)), "space_goal is 1, but must be above 1");
        assert_eq!(refused(policy().space_goal(1e9)), "none");
        assert_eq!(refused(policy().rate_limit(0)), "rate_limit is 0, but must be above 0");
        let small = policy().pack_below(32 * MIB);
        assert_eq!(refused(small), "none");
        assert_eq!(
            refused(policy().pack_below(32 * MIB + 1)),
            "pack_below is 33554433, but must be at most half of the segment size"
        );
    }

    #[test]
    fn what_a_merge_gained_nothing_from_rests_until_something_dies_in_it() {
        let mut settled = Settled::default();
        let all = [usage(5, 40, 1), usage(6, 40, 0)];
        all.iter().for_each(|usage| settled.note(usage));
        assert!(all.iter().all(|usage| settled.holds(usage)));
        assert!(settled.holds(&usage(5, 40, 2)) && !settled.holds(&usage(5, 40, 4)));
        assert!(!settled.holds(&usage(7, 40, 0)), "of another merge");
        settled.forget(|id| id != 5);
        assert!(!settled.holds(&all[0]) && settled.holds(&all[1]));
    }

    #[test]
    fn a_gain_is_a_segment_less_or_a_twentieth_of_what_was_read() {
        assert!(gains(4, 3, 100, 0) && gains(1, 0, 0, 0));
        assert!(gains(4, 4, 100, 6) && !gains(4, 4, 100, 5));
        assert!(!gains(4, 5, 100, 0));
    }
}
