//! Threads that do one thing over and over, and the clock beside them.

use crate::cell::{Latency, Outcome};
use crate::system;
use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// To 1%: each thread has one, and they are to be small.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 2).expect("valid bounds")
}

pub fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(time.as_nanos() as u64);
}

pub fn latency(histogram: &Histogram<u64>) -> Latency {
    Latency {
        p50: histogram.value_at_quantile(0.5),
        p99: histogram.value_at_quantile(0.99),
        p999: histogram.value_at_quantile(0.999),
        max: histogram.max(),
    }
}

/// How it is driven.
#[derive(Clone, Copy)]
pub struct Drive {
    pub threads: usize,
    pub seconds: f64,
    pub timed: bool,
}

struct Part {
    count: u64,
    begin: Instant,
    end: Instant,
    histogram: Option<Histogram<u64>>,
}

impl Drive {
    /// Each thread makes its session, waits for the others, and calls `step(session, thread, i)` for
    /// i = 0, 1, ... until it returns zero or the time is over. What the steps return is counted.
    pub fn run<S>(
        self,
        session: impl Fn(usize) -> Result<S> + Sync,
        step: impl Fn(&mut S, usize, u64) -> Result<u64> + Sync,
    ) -> Result<Outcome> {
        let barrier = Barrier::new(self.threads);
        let before = system::usage();
        let parts: Vec<Result<Part>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|thread| {
                    let (barrier, session, step) = (&barrier, &session, &step);
                    scope.spawn(move || {
                        let session = session(thread);
                        barrier.wait();
                        self.thread(&mut session?, thread, step)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
                .collect()
        });
        let after = system::usage();
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        let begin = parts.iter().map(|part| part.begin).min().expect("a thread");
        let end = parts.iter().map(|part| part.end).max().expect("a thread");
        let mut all = self.timed.then(histogram);
        for part in &parts {
            if let (Some(all), Some(one)) = (&mut all, &part.histogram) {
                all.add(one).expect("same bounds");
            }
        }
        Ok(Outcome {
            count: parts.iter().map(|part| part.count).sum(),
            seconds: (end - begin).as_secs_f64(),
            latency: all.as_ref().map(latency),
            processor: after.processor - before.processor,
            read: after.read - before.read,
            written: after.written - before.written,
            ..Outcome::default()
        })
    }

    fn thread<S>(
        self,
        session: &mut S,
        thread: usize,
        step: &impl Fn(&mut S, usize, u64) -> Result<u64>,
    ) -> Result<Part> {
        let begin = Instant::now();
        let until = begin + Duration::from_secs_f64(self.seconds);
        let mut histogram = self.timed.then(histogram);
        let (mut count, mut i, mut last, mut next_look) = (0, 0, begin, 1);
        loop {
            let done = step(session, thread, i)?;
            count += done;
            i += 1;
            if let Some(histogram) = &mut histogram {
                // One reading a step: the end of one is the begin of the next.
                let now = Instant::now();
                if done > 0 {
                    record(histogram, now - last);
                }
                last = now;
                if now >= until {
                    break;
                }
            } else if i >= next_look {
                let now = Instant::now();
                if now >= until {
                    break;
                }
                // Some hundred looks a second, whatever a step takes.
                let each = (now - begin).as_secs_f64() / i as f64;
                next_look = i + ((0.003 / each.max(1e-9)) as u64).clamp(1, 4096);
            }
            if done == 0 {
                break;
            }
        }
        Ok(Part { count, begin, end: Instant::now(), histogram })
    }
}
