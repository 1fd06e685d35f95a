//! Runs a test under many schedules.

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler, UrwRandomScheduler};
use shuttle::{Config, MaxSteps, Runner};
use std::ops::Range;
use std::panic::{catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tailcask::seed_random;

/// How many schedules one seed stands for: the strategies learn from the first ones how long they are.
pub(crate) const EACH: u64 = 16;

/// After how many schedules there is a line of progress.
const TOLD_EVERY: u64 = 1000 * EACH;

/// How many schedules a test is to run: `TAILCASK_ROUNDS`, or the default.
fn schedules(default: u64) -> u64 {
    super::common::rounds(default)
}

/// The seeds to be tried. `TAILCASK_SEED` alone is the one to be replayed; with `TAILCASK_ROUNDS`, the first.
fn seeds(default: u64) -> Range<u64> {
    let many = schedules(default).div_ceil(EACH);
    match std::env::var("TAILCASK_SEED") {
        Err(_) => 0..many,
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("TAILCASK_SEED: a number");
            let is_first = std::env::var_os("TAILCASK_ROUNDS").is_some();
            seed..seed + if is_first { many } else { 1 }
        }
    }
}

/// Runs a test under `count` schedules. Each run gets a number, and has to do the same for the same one:
/// all random bits of the store follow from it, too.
pub(crate) fn explore(count: u64, test: fn(u64)) {
    // What is freed late is freed by whoever comes by, so two tests at once would not be repeatable.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (seeds, started) = (seeds(count), Instant::now());
    for seed in seeds.clone() {
        // A thread of its own: what belongs to a thread begins anew.
        let ran = std::thread::spawn(move || catch_unwind(|| run(seed, test)));
        if let Err(panic) = ran.join().expect("caught") {
            eprintln!("to be replayed with TAILCASK_SEED={seed}");
            resume_unwind(panic);
        }
        // For runs of hours.
        let done = (seed + 1 - seeds.start) * EACH;
        if done.is_multiple_of(TOLD_EVERY) {
            let seconds = started.elapsed().as_secs();
            eprintln!("{done} schedules in {seconds} s, up to the seed {seed}");
        }
    }
}

fn run(seed: u64, test: fn(u64)) {
    let each = EACH as usize;
    match seed % 3 {
        0 => schedule(RandomScheduler::new_from_seed(seed, each), seed, test),
        1 => {
            schedule(PctScheduler::new_from_seed(seed, 1 + seed as usize / 3 % 5, each), seed, test)
        }
        _ => schedule(UrwRandomScheduler::new_from_seed(seed, each), seed, test),
    }
}

fn schedule(scheduler: impl Scheduler + 'static, seed: u64, test: fn(u64)) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.silence_warnings = true;
    config.max_steps = MaxSteps::FailAfter(2_000_000);
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    Runner::new(scheduler, config).run(move || {
        let nth = runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let number = seed * EACH + nth;
        seed_random(number);
        test(number);
        // Nothing is left for the next one.
        (0..4).for_each(|_| crossbeam_epoch::pin().flush());
    });
}
