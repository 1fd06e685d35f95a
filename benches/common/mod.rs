//! What the benches share: warm memory, contenders side by side, a table of ratios.
#![allow(dead_code, reason = "each bench uses a part")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const MIB: usize = 1 << 20;

/// A key of 16 bytes, different for each number.
pub(crate) fn key(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    key[8..].copy_from_slice(&n.to_le_bytes());
    key
}

/// The next of a sequence of random numbers.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    *state >> 20
}

/// Where the benches write: `TAILCASK_BENCH_DIR`, or the target directory's file system.
pub(crate) fn scratch() -> tempfile::TempDir {
    let dir = std::env::var_os("TAILCASK_BENCH_DIR").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).into());
    tempfile::tempdir_in(dir).expect("a directory for the bench")
}

/// A number from the environment, for longer runs.
pub(crate) fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Touches and frees memory and page cache, so that what is timed next finds it with the guest
/// and not with its host, where the first touch of a page costs twenty times as much.
pub(crate) fn warm(dir: &Path, bytes: usize) {
    let path = dir.join("warm");
    let file = std::fs::File::create(&path).expect("a file to warm the page cache");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes as u64)
        .expect("room for it");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("reopened");
    populated(&file, bytes);
    drop(file);
    std::fs::remove_file(path).expect("removed");
    // What was freed is in the journal, and the next fsync should not pay for it.
    rustix::fs::sync();
}

#[allow(unsafe_code, reason = "a private file")]
fn populated(file: &std::fs::File, bytes: usize) -> memmap2::MmapMut {
    // SAFETY: the file was made by this bench, and nothing else uses it.
    let map = unsafe { memmap2::MmapOptions::new().len(bytes).map_mut(file) }.expect("mapped");
    let _ = map.advise(memmap2::Advice::HugePage);
    let _ = map.advise(memmap2::Advice::PopulateWrite);
    map
}

/// A populated map of a preallocated file: what the ceiling writes to, as the log does.
pub(crate) fn file_map(dir: &Path, bytes: usize) -> memmap2::MmapMut {
    let path = dir.join("ceiling");
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("a file for the ceiling");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes as u64)
        .expect("room for it");
    let map = populated(&file, bytes);
    std::fs::remove_file(path).expect("removed");
    map
}

/// Takes a store's files out of the page cache.
pub(crate) fn cool(dir: &Path) {
    rustix::fs::sync();
    for entry in std::fs::read_dir(dir).expect("listed") {
        let file = std::fs::File::open(entry.expect("read").path()).expect("opened");
        let advice = rustix::fs::Advice::DontNeed;
        rustix::fs::fadvise(&file, 0, None, advice).expect("advised");
    }
}

/// Nanoseconds for each of `count` things.
pub(crate) fn each(elapsed: Duration, count: usize) -> f64 {
    elapsed.as_nanos() as f64 / count as f64
}

pub(crate) fn timed<R>(run: impl FnOnce() -> R) -> (Duration, R) {
    let started = Instant::now();
    let result = run();
    (started.elapsed(), result)
}

/// One contender's time in each round.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) times: Vec<f64>,
}

/// Runs all contenders once a round, in turns, so that what disturbs the machine hits all.
pub(crate) fn rounds(
    count: usize,
    contenders: &mut [(&'static str, &mut dyn FnMut() -> f64)],
) -> Vec<Series> {
    let mut series: Vec<_> =
        contenders.iter().map(|(name, _)| Series { name, times: Vec::new() }).collect();
    for round in 0..=count {
        for (at, (_, run)) in contenders.iter_mut().enumerate() {
            let time = run();
            // The first round warms caches, and is not counted.
            if round > 0 {
                series[at].times.push(time);
            }
        }
    }
    series
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn spread(values: &[f64]) -> (f64, f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    (low, median(values), high)
}

/// Prints times, and the speed of each against the first, round by round.
pub(crate) fn report(title: &str, unit: &str, series: &[Series]) {
    println!("\n### {title}\n");
    println!("| | {unit}, median | min | max | speed against `{}` | min | max |", series[0].name);
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for one in series {
        let (low, mid, high) = spread(&one.times);
        let pairs = series[0].times.iter().zip(&one.times);
        let ratios: Vec<f64> = pairs.map(|(base, time)| base / time).collect();
        let (worst, ratio, best) = spread(&ratios);
        println!(
            "| {} | {mid:.1} | {low:.1} | {high:.1} | **{ratio:.2}** | {worst:.2} | {best:.2} |",
            one.name
        );
    }
}
