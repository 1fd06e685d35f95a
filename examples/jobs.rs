//! A job queue with a cache. Workers claim jobs with a lease that expires by itself; finishing one removes it
//! and stores its result in one step, and only if the worker still holds the lease. So a worker that was
//! too slow changes nothing, and every job has one result, whenever the process dies.
//!
//! ```sh
//! seq 1 20 | cargo run --bin jobs -- /tmp/jobs 4
//! ```

use std::io::BufRead;
use std::path::Path;
use std::time::Duration;
use tailcask::{Batch, Error, Expected, LogPosition, Store, WriteError, WriteOptions};

/// As long as no job takes.
const LEASE: Duration = Duration::from_secs(30);
const KEEP_CACHED: Duration = Duration::from_secs(3600);

struct Queue {
    store: Store,
}

/// A job that a worker holds, until its lease expires.
struct Claim {
    id: String,
    input: Vec<u8>,
    lease: LogPosition,
}

impl Queue {
    fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self { store: Store::open(dir)? })
    }

    fn add(&self, input: &str) -> Result<(), Error> {
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let next = |last: Option<&[u8]>| Some((last.map_or(0, number) + 1).to_le_bytes().to_vec());
        let id = self.store.update("last id", next)?.map_or(0, |last| number(&last));
        self.store.put(format!("job/{id}"), input)?;
        Ok(())
    }

    /// Some job that nobody holds. (It looks at all keys; a long queue would keep a list of its own.)
    fn claim(&self, worker: &str) -> Result<Option<Claim>, Error> {
        let lease = WriteOptions::new().ttl(LEASE);
        for key in self.store.keys() {
            let key = key?;
            let Some(id) = key.strip_prefix(b"job/") else { continue };
            let id = String::from_utf8_lossy(id).into_owned();
            let Some(lease) = self.store.put_if_absent_with(lease_of(&id), worker, &lease)? else {
                continue; // somebody holds it
            };
            if let Some(input) = self.store.get(&key)? {
                return Ok(Some(Claim { input: input.to_vec(), id, lease }));
            }
            self.store.delete(lease_of(&id))?; // it was finished a moment ago
        }
        Ok(None)
    }

    /// The job goes, its result comes, and is cached for a while: all of it, if the lease is still the one
    /// of the claim, or nothing.
    fn finish(&self, claim: &Claim, result: &str) -> Result<bool, Error> {
        let (id, lease) = (&claim.id, lease_of(&claim.id));
        let mut batch = Batch::new();
        batch.expect(&lease, Expected::Position(claim.lease));
        batch.delete(&lease).delete(format!("job/{id}")).put(format!("done/{id}"), result);
        batch.put_with(cached(&claim.input), result, KEEP_CACHED);
        match self.store.write(&batch) {
            Ok(_) => Ok(true),
            Err(WriteError::Conflict(_)) => Ok(false), // the lease has expired
            Err(error) => Err(error.into()),
        }
    }

    /// Does a job, or takes its result from the cache; false if there was none to do.
    fn work(&self, worker: &str) -> Result<bool, Error> {
        let Some(claim) = self.claim(worker)? else { return Ok(false) };
        let known = self.store.get(cached(&claim.input))?.map(|known| known.to_vec());
        let from = if known.is_some() { "cached" } else { "computed" };
        let result = known.unwrap_or_else(|| compute(&claim.input).into_bytes());
        let result = String::from_utf8_lossy(&result);
        if self.finish(&claim, &result)? {
            let input = String::from_utf8_lossy(&claim.input);
            println!("{worker}: job {} {input} = {result} ({from})", claim.id);
        }
        Ok(true)
    }
}

fn lease_of(id: &str) -> String {
    format!("lease/{id}")
}

fn cached(input: &[u8]) -> Vec<u8> {
    [b"cached/", input].concat()
}

/// What takes long in a real program: how many steps a number takes to 1 in Collatz's sequence.
fn compute(input: &[u8]) -> String {
    let Some(mut n) = str::from_utf8(input).ok().and_then(|text| text.parse::<u64>().ok()) else {
        return "not a number".to_owned();
    };
    let mut steps = 0;
    while n > 1 {
        n = if n.is_multiple_of(2) { n / 2 } else { n.saturating_mul(3).saturating_add(1) };
        steps += 1;
    }
    steps.to_string()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(workers)) = (arguments.next(), arguments.next()) else {
        return Err("usage: jobs DIR WORKERS, with an input of a job on each line".into());
    };
    let queue = Queue::open(dir)?;
    for line in std::io::stdin().lock().lines() {
        queue.add(&line?)?;
    }
    std::thread::scope(|threads| -> Result<(), Error> {
        let work = |nth| {
            let (name, queue) = (format!("worker {nth}"), &queue);
            threads.spawn(move || -> Result<(), Error> {
                while queue.work(&name)? {}
                Ok(())
            })
        };
        let workers: Vec<_> = (0..workers.parse().unwrap_or(1)).map(work).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
    })?;
    queue.store.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use tailcask::SimulatedDisk;

    fn queue() -> (Queue, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(1_000_000));
        let options = Store::options().clock(now.clone());
        (Queue { store: options.open_simulated(&SimulatedDisk::new()).unwrap() }, now)
    }

    fn done(queue: &Queue) -> Option<Vec<u8>> {
        queue.store.get("done/1").unwrap().map(|value| value.to_vec())
    }

    #[test]
    fn a_job_whose_lease_has_expired_is_done_by_another_worker_and_once() {
        let (queue, now) = queue();
        queue.add("7").unwrap();
        let slow = queue.claim("ann").unwrap().expect("a job");
        assert!(queue.claim("bob").unwrap().is_none(), "it is held");
        now.fetch_add(LEASE.as_millis() as u64, Relaxed);
        assert!(!queue.finish(&slow, "late").unwrap(), "nobody has it, and ann not any more");
        let claim = queue.claim("bob").unwrap().expect("it is free again");
        assert!(!queue.finish(&slow, "late").unwrap(), "bob has it");
        assert_eq!(done(&queue), None);
        assert!(queue.finish(&claim, "16").unwrap());
        assert!(!queue.finish(&claim, "17").unwrap(), "it is done");
        assert_eq!(done(&queue).unwrap(), b"16");
        assert!(queue.claim("ann").unwrap().is_none());
    }

    #[test]
    fn a_worker_of_the_same_name_has_a_lease_of_its_own() {
        let (queue, now) = queue();
        queue.add("7").unwrap();
        let before = queue.claim("ann").unwrap().expect("a job");
        now.fetch_add(LEASE.as_millis() as u64, Relaxed);
        let after = queue.claim("ann").unwrap().expect("it is free again");
        assert!(!queue.finish(&before, "old").unwrap());
        assert!(queue.finish(&after, "new").unwrap());
    }

    #[test]
    fn results_are_cached_for_a_while() {
        let (queue, now) = queue();
        let cached = |queue: &Queue| queue.store.contains_key("cached/7").unwrap();
        queue.add("7").unwrap();
        assert!(queue.work("ann").unwrap());
        assert_eq!(done(&queue).unwrap(), b"16");
        assert!(cached(&queue));
        now.fetch_add(KEEP_CACHED.as_millis() as u64, Relaxed);
        assert!(!cached(&queue));
        assert_eq!(done(&queue).unwrap(), b"16", "and stored for good");
    }
}
