//! Statistics for the recorder of the crate `metrics`, which a program chooses: an exporter for Prometheus,
//! for OpenTelemetry, and so on.
//!
//! Nothing is emitted where an operation happens. A call publishes what is counted anyway: counters with
//! their absolute values, gauges as they are, and of histograms what was recorded since the last call.
//! docs/metrics.md lists all names; a test compares it with what is published.

use crate::latency::{Operation, Timer};
use crate::log::{CommitLog, LogStats};
use crate::store::{Stats, Store};
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::time::Duration;

impl Store {
    /// Publishes all statistics of this store and its log to the recorder of the crate
    /// [`metrics`](https://docs.rs/metrics) that is installed, with the label `name`, which tells several
    /// stores of a program apart. [metrics.md](https://docs.rs/crate/tailcask/latest/source/docs/metrics.md) lists the
    /// metrics.
    ///
    /// Call it every some seconds, or before each scrape: one call takes some 100 us (see
    /// [`stats`](Self::stats)). Operations take no longer for it. Latencies are published if they are
    /// [measured](crate::StoreOptions::latency_sampling).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use metrics_util::debugging::DebuggingRecorder;
    /// use tailcask::Store;
    ///
    /// let store = Store::open(dir.path().join("store"))?;
    /// store.put("colour", "green")?;
    /// // In a program: metrics_exporter_prometheus::PrometheusBuilder::new().install()?;
    /// let recorder = DebuggingRecorder::new();
    /// let snapshotter = recorder.snapshotter();
    /// metrics::with_local_recorder(&recorder, || store.publish_metrics("colours"));
    /// let published = snapshotter.snapshot().into_vec();
    /// assert!(published.iter().any(|(key, ..)| key.key().name() == "tailcask_puts_total"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish_metrics(&self, name: &str) {
        let stats = self.stats();
        publish_store(name, &stats);
        publish_log(name, &stats.log);
        publish_latencies(name, self.timer());
    }
}

impl CommitLog {
    /// As [`Store::publish_metrics`], of a log without a store. Of a log that is open for reading only,
    /// the counters are zero.
    pub fn publish_metrics(&self, name: &str) {
        publish_log(name, &self.stats());
        if let Some(writer) = self.writer() {
            publish_latencies(name, &writer.timer);
        }
    }
}

/// One metric, described to the recorder and set.
struct Metric<'n> {
    store: &'n str,
    name: &'static str,
    help: &'static str,
}

impl Metric<'_> {
    fn count(self, unit: Unit, value: u64) {
        describe_counter!(self.name, unit, self.help);
        counter!(self.name, "name" => self.store.to_owned()).absolute(value);
    }

    fn set(self, unit: Unit, value: f64) {
        describe_gauge!(self.name, unit, self.help);
        gauge!(self.name, "name" => self.store.to_owned()).set(value);
    }
}

/// Gauges are numbers that a double has exactly, up to 2^53.
const fn number(value: u64) -> f64 {
    value as f64
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn publish_store(store: &str, stats: &Stats) {
    let metric = |name, help| Metric { store, name, help };
    let count = |name, help, value| metric(name, help).count(Unit::Count, value);
    let bytes = |name, help, value| metric(name, help).count(Unit::Bytes, value);
    count("tailcask_puts_total", "Puts, including those in batches", stats.puts);
    count("tailcask_deletes_total", "Deletes of existing keys, and all in batches", stats.deletes);
    count("tailcask_get_hits_total", "Reads that found a value", stats.hits);
    count("tailcask_get_misses_total", "Reads that found none", stats.misses);
    count("tailcask_get_expired_total", "Reads that found an expired value", stats.expired);
    count("tailcask_merges_total", "Merges: runs of some segments each", stats.merges.merges);
    count("tailcask_merge_failures_total", "Merges that failed", stats.merges.failures);
    bytes("tailcask_merge_read_bytes_total", "Bytes that merges read", stats.merges.bytes_read);
    let written = stats.merges.bytes_written;
    bytes("tailcask_merge_written_bytes_total", "Bytes that merges wrote", written);
    let reclaimed = stats.merges.bytes_reclaimed;
    bytes("tailcask_merge_reclaimed_bytes_total", "Bytes that merges gave back", reclaimed);

    let gauge = |name, help, unit, value| metric(name, help).set(unit, value);
    let size = |name, help, value| gauge(name, help, Unit::Bytes, number(value));
    let amount = |name, help, value| gauge(name, help, Unit::Count, value);
    let segments = stats.segments.len() as u64;
    amount("tailcask_keys", "Keys, with expired ones not reclaimed yet", number(stats.keys));
    size("tailcask_keydir_bytes", "Memory of the index of all keys", stats.keydir_bytes);
    size("tailcask_live_bytes", "Bytes of frames with current values", stats.live_bytes);
    size("tailcask_dead_bytes", "Bytes of frames that a merge would not copy", stats.dead_bytes);
    size("tailcask_disk_bytes", "Bytes that the segments take on disk", stats.disk_bytes);
    amount("tailcask_segments", "Segments", number(segments));
    let damaged = stats.damaged.len() as u64;
    amount("tailcask_damaged_segments", "Segments known to be damaged", number(damaged));
    let missed = flag(stats.space_goal_missed);
    amount(
        "tailcask_space_goal_missed",
        "1 while more disk is taken than the policy allows",
        missed,
    );
    let cache = stats.cache;
    size("tailcask_cache_budget_bytes", "The cache budget", cache.budget);
    let exceeded = flag(cache.is_exceeded);
    amount("tailcask_cache_exceeded", "1 while full segments are larger than the budget", exceeded);
    if let Some(resident) = cache.resident {
        let help = "The share of the pages of full segments that is in memory, from a sample";
        amount("tailcask_cache_resident_ratio", help, resident);
    }
}

fn publish_log(store: &str, log: &LogStats) {
    let metric = |name, help| Metric { store, name, help };
    let count = |name, help, value| metric(name, help).count(Unit::Count, value);
    count("tailcask_log_entries_total", "Entries committed, with those in batches", log.entries);
    count("tailcask_log_batches_total", "Batches committed", log.batches);
    let frames = metric("tailcask_log_bytes_total", "Bytes of committed frames");
    frames.count(Unit::Bytes, log.bytes);
    count("tailcask_log_voids_total", "Frames abandoned by a panic", log.voids);
    count("tailcask_log_rolls_total", "Times the log went on to another segment", log.rolls);
    let created = log.segments_created;
    count("tailcask_log_segments_created_total", "Segments created", created);
    count("tailcask_log_segments_sealed_total", "Segments sealed", log.segments_sealed);
    let waits = log.standby_waits;
    count("tailcask_log_standby_waits_total", "Times a writer found no standby", waits);
    count("tailcask_log_sync_failures_total", "Syncs that failed", log.sync_failures);

    let amount = |name, help, value| metric(name, help).set(Unit::Count, value);
    let seconds =
        |name, help, time: Duration| metric(name, help).set(Unit::Seconds, time.as_secs_f64());
    let waited = log.standby_wait_time;
    seconds("tailcask_log_standby_wait_seconds", "Total time that those writers waited", waited);
    amount("tailcask_log_segments", "Segments of the log", number(log.segments as u64));
    let disk = metric("tailcask_log_disk_bytes", "Length of the log's files");
    disk.set(Unit::Bytes, number(log.disk_bytes));
    let failed = flag(log.failed_thread.is_some() || log.sync_failures > 0);
    amount(
        "tailcask_log_refuses_writes",
        "1 once a sync or a background thread has failed",
        failed,
    );
    let held = number(log.segments_waiting_for_readers as u64);
    amount("tailcask_reader_held_segments", "Removed segments that readers keep mapped", held);
    let longest = log.longest_reader_wait.unwrap_or_default();
    seconds("tailcask_reader_held_seconds", "How long the oldest of those has been kept", longest);
    let size = |name, help, value| metric(name, help).set(Unit::Bytes, number(value));
    let held = log.held_segments.iter().map(|held| held.disk_bytes).sum();
    size("tailcask_reader_held_bytes", "Bytes on disk of those that something keeps", held);
    let append = log.unfinished.as_ref();
    let (known_for, behind) =
        append.map_or((Duration::ZERO, 0), |append| (append.known_for, append.bytes_behind));
    let help = "How long the oldest unfinished append has been known";
    seconds("tailcask_unfinished_append_seconds", help, known_for);
    let help = "Bytes behind it, which cannot become durable";
    size("tailcask_unfinished_append_bytes", help, behind);
}

fn publish_latencies(store: &str, timer: &Timer) {
    const NAME: &str = "tailcask_operation_seconds";
    describe_histogram!(NAME, Unit::Seconds, "How long operations take, of those measured");
    for operation in Operation::ALL {
        let labels = [("name", store.to_owned()), ("operation", name_of(operation).to_owned())];
        let all = histogram!(NAME, &labels);
        timer.publish(operation, |nanoseconds, times| {
            let times = usize::try_from(times).unwrap_or(usize::MAX);
            all.record_many(nanoseconds as f64 / 1e9, times);
        });
    }
}

const fn name_of(operation: Operation) -> &'static str {
    match operation {
        Operation::Get => "get",
        Operation::GetMany => "get_many",
        Operation::Put => "put",
        Operation::Delete => "delete",
        Operation::Update => "update",
        Operation::Batch => "batch",
        Operation::Append => "append",
        Operation::Sync => "sync",
        Operation::Merge => "merge",
    }
}
