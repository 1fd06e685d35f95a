//! What is published to a recorder: the names, types and units of docs/metrics.md, and the values of `stats`.
#![cfg(feature = "metrics")]

mod common;

use common::store_by_hand;
use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use std::collections::{BTreeMap, BTreeSet};
use tailcask::{Batch, CommitLog, Maintenance, Store};

/// The rows of the tables: name, type, unit.
fn documented() -> BTreeSet<(String, String, String)> {
    let rows = include_str!("../docs/metrics.md").lines();
    let rows = rows.filter(|line| line.starts_with("| `tailcask_"));
    let row = |line: &str| {
        let mut cells =
            line.split('|').skip(1).map(|cell| cell.trim().trim_matches('`').to_owned());
        let mut next = || cells.next().unwrap();
        (next(), next(), next())
    };
    rows.map(row).collect()
}

fn kind(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    }
}

/// What one snapshot has: values by name, and the operation of a histogram.
struct Published {
    metrics: BTreeSet<(String, String, String)>,
    values: BTreeMap<String, f64>,
    /// Number and sum of the values of each operation.
    operations: BTreeMap<String, (usize, f64)>,
    names: BTreeSet<String>,
}

fn published(snapshotter: &Snapshotter) -> Published {
    let (metrics, values, operations, names) = Default::default();
    let mut all = Published { metrics, values, operations, names };
    for (key, unit, description, value) in snapshotter.snapshot().into_vec() {
        let (name, unit) = (key.key().name().to_owned(), unit.unwrap().as_str().to_owned());
        assert!(description.is_some_and(|text| !text.is_empty()), "{name}");
        all.metrics.insert((name.clone(), kind(key.kind()).to_owned(), unit));
        let label = |wanted: &str| {
            let found = key.key().labels().find(|label| label.key() == wanted);
            found.map(|label| label.value().to_owned())
        };
        all.names.insert(label("name").unwrap());
        match value {
            DebugValue::Counter(count) => _ = all.values.insert(name, count as f64),
            DebugValue::Gauge(value) => _ = all.values.insert(name, value.0),
            DebugValue::Histogram(values) => {
                let sum = values.iter().map(|value| value.0).sum();
                all.operations.insert(label("operation").unwrap(), (values.len(), sum));
            }
        }
    }
    all
}

fn used(options: tailcask::StoreOptions, dir: &std::path::Path) -> Store {
    let store = options.segment_size(2 << 20).open(dir).unwrap();
    (0..10).for_each(|n| drop(store.put(format!("key {n}"), vec![b'v'; 1000])));
    let mut batch = Batch::new();
    batch.put("a", "1").put("b", "2").delete("key 1");
    store.write(&batch).unwrap();
    assert!(store.delete("key 2").unwrap());
    assert!(store.put_if_absent("key 2", "again").unwrap());
    assert!(store.get("key 3").unwrap().is_some() && store.get("key 1").unwrap().is_none());
    assert_eq!(store.get_many(&["a", "b"]).unwrap().len(), 2);
    store.sync().unwrap();
    store.merge().unwrap();
    store
}

#[test]
fn all_that_is_documented_is_published_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = used(Store::options().latency_sampling(1), &dir.path().join("store"));
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || store.publish_metrics("mine"));
    let found = published(&recorder.snapshotter());
    // A system need not tell what is in memory.
    let optional = |row: &&(String, String, String)| row.0 != "tailcask_cache_resident_ratio";
    let documented = documented();
    assert_eq!(
        found.metrics.iter().filter(optional).collect::<Vec<_>>(),
        documented.iter().filter(optional).collect::<Vec<_>>()
    );
    assert!(found.metrics.is_subset(&documented));
    assert_eq!(found.names, BTreeSet::from(["mine".to_owned()]));
}

#[test]
fn the_values_are_those_of_the_statistics() {
    let dir = tempfile::tempdir().unwrap();
    let options = Store::options().latency_sampling(1).maintenance(Maintenance::Manual);
    let store = used(options, &dir.path().join("store"));
    let stats = store.stats();
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || store.publish_metrics("mine"));
    let found = published(&recorder.snapshotter());
    for (name, value) in [
        ("tailcask_puts_total", 13),
        ("tailcask_deletes_total", 2),
        ("tailcask_get_hits_total", 3),
        ("tailcask_get_misses_total", 1),
        ("tailcask_merges_total", stats.merges.merges),
        ("tailcask_keys", 11),
        ("tailcask_keydir_bytes", stats.keydir_bytes),
        ("tailcask_live_bytes", stats.live_bytes),
        ("tailcask_dead_bytes", stats.dead_bytes),
        ("tailcask_disk_bytes", stats.disk_bytes),
        ("tailcask_segments", stats.segments.len() as u64),
        ("tailcask_log_bytes_total", stats.log.bytes),
        ("tailcask_log_rolls_total", stats.log.rolls),
        ("tailcask_log_refuses_writes", 0),
        ("tailcask_damaged_segments", 0),
    ] {
        assert_eq!(found.values[name], value as f64, "{name}");
    }
    assert!(stats.merges.merges > 0, "a merge ran");
    for (operation, count, distribution) in [
        ("get", 2, stats.latency.get),
        ("get_many", 1, stats.latency.get_many),
        ("put", 10, stats.latency.put),
        ("delete", 1, stats.latency.delete),
        ("update", 1, stats.latency.update),
        ("batch", 1, stats.latency.batch),
        ("merge", stats.merges.merges, stats.latency.merge),
    ] {
        assert_eq!(distribution.count, count, "{operation}");
        assert!(distribution.p50 <= distribution.p99 && distribution.p99 <= distribution.max);
        let (published, seconds) = found.operations[operation];
        assert_eq!(published as u64, count, "{operation}");
        assert!(seconds > 0.0 && seconds <= distribution.max as f64 * count as f64 * 1.05 / 1e9);
    }
    assert!(found.operations["sync"].0 > 0, "syncs are always measured");
    assert_eq!(found.operations["append"].0, 0, "the store's writes are no appends of its user");
}

#[test]
fn what_was_published_is_not_published_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = Store::options().latency_sampling(1).maintenance(Maintenance::Manual);
    let store = options.open(dir.path().join("store")).unwrap();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let publish = || {
        metrics::with_local_recorder(&recorder, || store.publish_metrics("mine"));
        // A snapshot takes the values of histograms out.
        let found = published(&snapshotter);
        (found.operations["put"].0, found.values["tailcask_puts_total"])
    };
    (0..5).for_each(|n| drop(store.put([n], "v")));
    assert_eq!(publish(), (5, 5.0));
    assert_eq!(publish(), (0, 5.0));
    store.put("one", "more").unwrap();
    assert_eq!(publish(), (1, 6.0));
}

#[test]
fn operations_are_not_measured_unless_asked_for() {
    let disk = tailcask::SimulatedDisk::new();
    let store = store_by_hand().open_simulated(&disk).unwrap();
    store.put("key", "value").unwrap();
    assert!(store.get("key").unwrap().is_some());
    store.log().sync().unwrap();
    let stats = store.stats();
    assert_eq!((stats.latency, stats.log.append_latency), Default::default());
    assert!(stats.log.sync_latency.count > 0);
}

#[test]
fn a_log_publishes_its_own() {
    let log = CommitLog::options().latency_sampling(1);
    let dir = tempfile::tempdir().unwrap();
    let log = log.open(dir.path().join("log")).unwrap();
    log.append(b"one").unwrap();
    log.append_with(3, |bytes| bytes.copy_from_slice(b"two")).unwrap();
    log.append_batch(&[b"three", b"four"]).unwrap();
    log.append_vectored(&[b"fi", b"ve"]).unwrap();
    assert_eq!(log.stats().append_latency.count, 4);
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || log.publish_metrics("events"));
    let found = published(&recorder.snapshotter());
    assert_eq!(found.operations["append"].0, 4);
    assert_eq!(found.values["tailcask_log_entries_total"], 5.0);
    assert!(found.metrics.is_subset(&documented()));
    assert!(found.metrics.iter().all(|(name, ..)| !name.contains("puts")));
}
